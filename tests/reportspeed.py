"""How long the report of row E takes: to write, and to open in Chromium with all its charts. A row of `make bench`.

Where the trace of row E is absent the bundled `reasoning-traffic` with as many requests takes its place.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WRITE_GOAL_S, OPEN_GOAL_S = 3.0, 2.0


def report_rows(trace: Path, repeat: int = 3) -> dict[str, Any]:
    """Seconds, the quickest of `repeat` openings, each in a fresh profile; MiB of the page."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from browser import ARGUMENTS, find_chromium

    from simulator.running import run_scenario
    from workloads.scenario import load_scenario

    traced = ("production-reasoning", [f"workload.trace.path={trace}"])
    result = run_scenario(load_scenario(*(traced if trace.exists() else ("reasoning-traffic", []))))
    begun = time.perf_counter()
    from simulator.reporting.page import page_bytes

    page = page_bytes(result)
    found: dict[str, Any] = {
        "requests": result.summary["requests"]["total"],
        "write_s": time.perf_counter() - begun,
        "write_goal_s": WRITE_GOAL_S,
        "size_mib": len(page) / 2**20,
    }
    program = find_chromium()
    if program is not None:
        from playwright.sync_api import sync_playwright

        with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
            path = Path(folder) / "report.html"
            path.write_bytes(page)
            browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
            found |= {"open_s": min(_open(browser, path) for _ in range(repeat)), "open_goal_s": OPEN_GOAL_S}
            browser.close()
    opened = f"{found['open_s']:.2f} s to open (goal {OPEN_GOAL_S:g} s)" if "open_s" in found else "no browser"
    print(f"report of {found['requests']:,} requests: {found['write_s']:.2f} s to write (goal {WRITE_GOAL_S:g} s), "
          f"{found['size_mib']:.1f} MiB, {opened}", flush=True)  # fmt: skip
    return found


def _open(browser: Any, path: Path) -> float:
    """Seconds from the start of the navigation until the last chart is drawn."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(path.as_uri(), wait_until="commit")
    page.wait_for_selector("html[data-drawn]", state="attached")
    seconds = float(page.evaluate("() => performance.getEntriesByName('drawn')[0].startTime / 1000"))
    context.close()
    return seconds
