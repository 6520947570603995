"""Tables of `kinesim import` for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from simulator.importing.imports import Imported
from simulator.importing.tracestatistics import TraceStatistics
from simulator.printing import duration, percent


def console() -> Console:
    """As wide as the terminal; in a pipe wide enough that nothing is cut."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=140)


def plain_table(title: str | None = None) -> Table:
    """A table without lines, as in `kinesim run`."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
        padding=(0, 2, 0, 0),
    )


def show_imported(imported: Imported) -> None:
    """What was read, what is to be filled in, what was assumed, and what was written."""
    out = console()
    if imported.trace is not None:
        _show_trace(out, imported.trace)
    else:
        out.print(_runs(imported))
    for m, draft in zip(imported.measurements, imported.drafts, strict=False):
        for note in draft.notes:
            out.print(f"note: {m.name}: {note}", style="dim")
    for note in imported.notes:
        out.print(f"note: {note}", style="dim")
    missing = {place: what for draft in imported.drafts for place, what in draft.missing.items()}
    for place, what in missing.items():
        out.print(f"to fill in: {place}: {what}", style="yellow")
    for path in imported.files:
        out.print(f"written: {path}", style="dim", soft_wrap=True)
    if imported.files and not missing:
        out.print(f"next: kinesim run {imported.files[0]}", soft_wrap=True)
        if imported.measurements:
            source = imported.measurements[0].file
            out.print(f"      kinesim compare {imported.files[0]} {source}", soft_wrap=True)


def _runs(imported: Imported) -> Table:
    table = plain_table(f"Measured by {imported.tool}")
    for name in ("run", "requests", "in", "out", "sent", "TTFT", "TPOT", "end to end", "tokens/s", "each request"):
        table.add_column(name, justify="left" if name in ("run", "sent") else "right", no_wrap=name != "run")
    for m in imported.measurements:
        load, found = m.load, m.statistics
        table.add_row(
            m.name,
            f"{load.requests:,}",
            _count(load.input_len),
            _count(load.output_len),
            sent_words(m),
            duration(found.get("ttft_s.mean")),
            duration(found.get("tpot_s.mean")),
            duration(found.get("e2e_s.mean")),
            _count(found.get("output_tokens_per_s")),
            "known" if m.requests else "not known",
        )
    return table


def sent_words(m: Any) -> str:
    """How a measurement's requests were sent: `32 at a time`, `4 /s`."""
    load = m.load
    words = []
    if load.rate is not None:
        words.append("all at once" if load.rate == float("inf") else f"{load.rate:g} /s")
    if load.concurrency is not None:
        words = [word for word in words if word != "all at once"]
        words.append(f"{load.concurrency:,} at a time")
    return ", ".join(words) or ("as recorded" if "arrival_s" in m.requests else "not known")


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _show_trace(out: Console, trace: TraceStatistics) -> None:
    table = plain_table("What is in the trace")
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.show_header = False
    rate = "-" if trace.rate is None else f"{trace.rate:.3g} requests/s on average"
    peak = "" if trace.peak_rate is None else f", {trace.peak_rate:.3g} in the busiest minute"
    table.add_row("requests", f"{trace.requests:,} in {duration(trace.duration_s)}")
    table.add_row("rate", rate + peak)
    if trace.gap_cv is not None:
        table.add_row("gaps", f"vary by {trace.gap_cv:.2f} of their mean (Poisson: 1)")
    for name, found in (("input", trace.input_len), ("output", trace.output_len)):
        table.add_row(name, ", ".join(f"{key} {_count(value)}" for key, value in found.items()) + " tokens")
    if trace.longest_session > 1:
        table.add_row("sessions", f"{trace.sessions:,}, of at most {trace.longest_session:,} requests")
    if trace.reusable is not None:
        table.add_row("prefixes", f"{percent(trace.reusable)} of the prompts' tokens lead an earlier prompt, too")
    out.print(table)
