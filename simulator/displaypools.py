"""What the terminal shows of prefill and decode workers beside what `display` shows of any run."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from hwspecs.units import format_quantity
from simulator.printing import duration, percent
from simulator.result import Result
from workloads.disaggregation import POOLS

LEAST = 0.02
"""Share of a pool's kernel time from which on a kernel is listed."""
ORDER_TEXT = {
    "prefill_first": "to a decode worker once the prompt is computed",
    "decode_first": "decode worker and its KV set aside before the prompt is computed",
}
TOKEN_TEXT = {
    "prefill": "first token sent by the prefill worker",
    "transfer": "first token sent by the decode worker once it has the KV",
    "decode": "first token made by the decode worker",
}


def add_pools(table: Table, result: Result) -> None:
    """Rows of the table of what was simulated: both pools and the link."""
    scenario, deployment = result.scenario, result.deployment
    for name in POOLS:
        part, facts = scenario["disaggregation"][name], deployment["pools"][name]
        engine = part["engine"]
        title = facts["gpu"]["title"] if facts["gpu"]["title"] != deployment["gpu"]["title"] else "GPU"
        words = f"{part['replicas']} x {facts['gpus_each']} {title}{'s' * (facts['gpus_each'] > 1 and title == 'GPU')}"
        words += f" ({facts['layout']})" if facts["gpus_each"] > 1 else ""
        words += f", {part['router']} router" if part["replicas"] > 1 else ""
        limits = f"{engine['max_num_seqs']:,} sequences and {engine['max_num_batched_tokens']:,} tokens"
        table.add_row(name, f"{words}; at most {limits} a step of a rank, {engine['scheduling']}")
    link = deployment["transfer"]
    words = {"given": "a given link", "scale_out": "the network (gpu.scale_out)"}.get(link["link"], link["link"])
    rate = format_quantity(link["bandwidth"], "B/s")
    table.add_row("transfer", f"{words}, {rate} a GPU; {ORDER_TEXT[link['order']]}; {TOKEN_TEXT[link['first_token']]}")


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
    labels = {
        "wait_for_place_s": "waiting for a KV reservation",
        "wait_for_lane_s": "waiting for the link",
        "send_s": "being sent",
        "held_s": "kept after the prompt's end",
    }
    for key, label in labels.items():
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
