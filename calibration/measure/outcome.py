"""What a session of measuring came to: as a JSON document, and as text for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibration.measure import goals
from calibration.measure.figures import Figures
from calibration.measure.planview import aligned, clock
from calibration.measure.session import Summary

ENDED = {
    "finished": "the plan is through",
    "limit": "the time is spent",
    "interrupted": "stopped",
    "crashes": "given up: one worker after the other died",
}


def document(summary: Summary, folder: Path, figures: Figures, plan: str, draft: Path | None) -> dict[str, Any]:
    """`kinesim-measure/1`: `tables` counts the rows of the whole folder, `measured` those of this run."""
    commands = goals.next_commands(folder, figures.name)
    return {
        "schema": "kinesim-measure/1",
        "folder": str(folder),
        "gpu": figures.name,
        "plan": plan,
        "ended": summary.ended,
        "seconds": round(summary.seconds, 1),
        "measured": dict(summary.measured),
        "failed": dict(summary.failed),
        "failed_before": summary.passed_over,
        "left": summary.left,
        "tables": goals.counts(folder),
        "goals": [goal._asdict() | {"reached": goal.reached} for goal in goals.goals(folder, figures)],
        "draft": str(draft) if draft is not None else None,
        "next": commands,
    }


def text(report: dict[str, Any]) -> str:
    """The document for people."""
    measured, failed = sum(report["measured"].values()), sum(report["failed"].values())
    lines = [f"{measured:,} measured in {clock(report['seconds'])}, {ENDED[report['ended']]}; in {report['folder']}"]
    if failed:
        lines.append(f"{failed:,} failed: failures.csv says why, --retry tries them again")
    if report["failed_before"]:
        lines.append(f"{report['failed_before']:,} that failed before were not tried again (--retry)")
    if report["left"]:
        lines.append(f"{report['left']:,} of the plan {report['plan']} are left; the same command goes on with them")
    files = sorted({*report["tables"], *report["measured"], *report["failed"]})
    if files:
        cells = [["table", "rows", "of this run", "failed"]]
        for name in files:
            counts = (report[part].get(name, 0) for part in ("tables", "measured", "failed"))
            cells.append([name, *(f"{count:,}" if count else "-" for count in counts)])
        lines += ["", *aligned(cells, left=1)]
    if report["goals"]:
        cells = [["goal", "found", "wanted", "", "at"]]
        for goal in report["goals"]:
            verdict = "reached" if goal["reached"] else "short"
            cells.append([goal["what"], f"{goal['found']:.1%}", f"{goal['wanted']:.0%}", verdict, goal["detail"]])
        lines += ["", *aligned(cells, left=5, right=(1, 2))]
    if report["draft"]:
        lines += ["", f"Before a fit: complete {report['draft']} and put it into hwspecs/gpus."]
    if report["next"]:
        lines += ["", "Next", *(f"  {command}" for command in report["next"])]
    return "\n".join(lines) + "\n"
