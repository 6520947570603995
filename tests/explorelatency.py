"""How soon `kinesim explore` follows its controls, in Chromium: from an input event until the answer is painted.

The page measures itself (User Timing entries called `explore`); here its sliders are moved by keys, one move after the
other and then held down, for models that are quick and slow to compute. A row of `python tests/bench.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from browser import ARGUMENTS, find_chromium

ROOT = Path(__file__).resolve().parent.parent
GOAL_MS = 100.0
STATES = {
    "Qwen3-8B": "",
    "Qwen3-8B, block top-k": "?attention=block_top_k&budget=1024",
    "Qwen3-32B, tp2": "?model=Qwen/Qwen3-32B&tp=2",
    "Qwen3-30B-A3B, tp2 ep2": "?model=Qwen/Qwen3-30B-A3B&tp=2&ep=2",
    "DeepSeek-R1, tp8": "?model=deepseek-ai/DeepSeek-R1&tp=8&engine=sglang",
    "DeepSeek-V3.2, tp8": "?model=deepseek-ai/DeepSeek-V3.2&tp=8&engine=sglang&gpu=b200-sxm",
}
MOVES = {"hbm": 8, "tensor": 8, "batch": 8, "context": 8, "samples": 6, "capacity": 6, "sms": 6, "price": 6}
"""Sliders and how many keys each gets."""


def explore_rows() -> dict[str, dict[str, float]]:
    """Of each of STATES the median and the 95th percentile in milliseconds, of single moves and of keys held down."""
    program = find_chromium()
    if program is None:
        print("explore         skipped: no Chromium")
        return {}
    from playwright.sync_api import sync_playwright

    found = {}
    words = [sys.executable, "-m", "simulator.cli", "explore", "--port", "0", "--no-open"]
    with (
        subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=ROOT) as server,
        sync_playwright() as playwright,
    ):
        assert server.stderr is not None
        address = re.search(r"http://\S+/", server.stderr.readline())
        assert address is not None
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        for name, query in STATES.items():
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.goto(address[0] + query)
            page.wait_for_selector("#headline dl")
            page.wait_for_timeout(700)
            single = _taken(page, pause=250)
            held = _taken(page, pause=33)
            found[name] = {
                "p50_ms": _at(single, 0.5), "p95_ms": _at(single, 0.95), "held_p95_ms": _at(held, 0.95),
                "moves": len(single), "goal_ms": GOAL_MS,
            }  # fmt: skip
            print(
                f"explore {name:<24}{len(single):>4} moves: median {found[name]['p50_ms']:.0f} ms, 95 % within "
                f"{found[name]['p95_ms']:.0f} ms; keys held down {found[name]['held_p95_ms']:.0f} ms",
                flush=True,
            )
            page.close()
        browser.close()
        server.terminate()
    return found


def _taken(page: Any, pause: int) -> list[float]:
    """Milliseconds that moves took, sorted; `pause` milliseconds between two keys."""
    page.evaluate("performance.clearMeasures()")
    for key, count in MOVES.items():
        page.focus(f"#slide-{key}")
        for i in range(count):
            page.keyboard.press("ArrowRight" if i < count / 2 else "ArrowLeft")
            page.wait_for_timeout(pause)
    page.wait_for_timeout(600)
    return sorted(page.evaluate("performance.getEntriesByName('explore').map(one => one.duration)"))


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    explore_rows()
