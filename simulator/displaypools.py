"""What the terminal shows of prefill and decode workers beside what `display` shows of any run."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from hwspecs.units import format_quantity
from simulator.printing import duration, percent
from simulator.result import Result
from simulator.resultwords import TRANSFER_TEXT
from workloads.disaggregation import POOLS

LEAST = 0.02
"""Share of a pool's kernel time from which on a kernel is listed."""


def pools_table(result: Result) -> Table:
    """How busy either kind of workers is."""
    table = Table(title="Workers", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    for name in ("workers", "GPUs", "busy", "MFU", "MBU", "mean step", "sequences", "KV used", "KV at most"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in POOLS:
        pool = result.summary["pools"][name]
        use, batch, kv = pool["utilisation"], pool["batch"], pool["kv"]
        sequences = f"{batch['mean_decode_seqs'] or 0:,.1f}" if name == "decode" else ""
        table.add_row(
            name,
            f"{pool['workers']:,}",
            f"{pool['gpus']:,}",
            *(percent(use[key]) for key in ("busy", "mfu", "mbu")),
            duration(batch["mean_step_s"]),
            sequences,
            percent(kv["mean_use"]),
            percent(kv["peak_use"]),
        )
    return table


def transfers_table(result: Result) -> Table:
    """How much was sent, and what it waited for."""
    found = result.summary["transfers"]
    title = f"Transfers: {found['requests']:,} prompts, {format_quantity(found['bytes'], 'B')}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    names = ("mean", "p50", "p90", "p99", "max")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for key, label in TRANSFER_TEXT.items():
        table.add_row(label, *(duration(found[key][name]) for name in names))
    return table


def rests_table(result: Result) -> Table | None:
    """Which measurements the kernels' times rest on, of each pool; None without a fitted profile."""
    rows = []
    for name in POOLS:
        interval = result.summary["pools"][name]["interval"]
        rows += [(name, kernel) for kernel in (interval["kernels"] if interval else ()) if kernel["share"] >= LEAST]
    if not rows:
        return None
    title = "What the times rest on"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("workers", "kernels", "format", "measured as", "status"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    for name, kernel in rows:
        table.add_row(name, kernel["kind"], *_measured(kernel), percent(kernel["share"]), _error(kernel))
    return table


def _measured(kernel: dict[str, Any]) -> tuple[str, str, str]:
    return kernel["format"], f"{kernel['kernel']} {kernel['profile']}".strip(), kernel["status"]


def _error(kernel: dict[str, Any]) -> str:
    return "" if kernel["mape"] is None else percent(kernel["mape"])
