"""Answers for people, on a terminal: tables that a stranger understands. Computes nothing that is not in the document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hwspecs.units import format_quantity

if TYPE_CHECKING:
    from simulator.result import Result

BOUND_STYLE = {"memory": "cyan", "compute": "green", "l2": "blue", "link": "magenta", "overhead": "yellow"}
BOUND_TEXT = {
    "memory": "HBM bandwidth",
    "compute": "tensor cores",
    "l2": "L2 bandwidth",
    "link": "GPU link",
    "overhead": "launch latency",
}


def _console() -> Console:
    """The terminal; in a pipe, lines as wide as the tables need."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def duration(seconds: float | None) -> str:
    """`0.0193` -> `19.3 ms`; from two minutes on in minutes, from two hours on in hours."""
    if seconds is None:
        return "-"
    if seconds >= 7200:
        return f"{seconds / 3600:,.2f} h"
    if seconds >= 120:
        return f"{seconds / 60:,.1f} min"
    return format_quantity(seconds, "s")


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if value >= 0.0005 or value == 0 else "< 0.1 %"


def show_result(result: Result, out: Path | None) -> None:
    """What was simulated, the headline, latencies, where the time went."""
    console = _console()
    for part in (_what(result), _headline(result), _latency(result), _operators(result), _bounds(result)):
        console.print(part)
        console.print()
    for note in result.notes:
        console.print(f"note: {note}", style="yellow")
    timing = result.timing
    console.print(
        f"simulated in {duration(timing['wall_s'])} ({_count(timing['events'])} events for "
        f"{_count(result.summary['batch']['steps'])} engine steps)",
        style="dim",
    )
    if out is not None:
        console.print(f"written to {out}: result.json, requests.parquet, timeline.parquet, trace.json (open in ui.perfetto.dev)")


def _grid(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    return table


def _what(result: Result) -> Table:
    scenario, deployment, summary = result.scenario, result.deployment, result.summary
    gpu, model, memory = deployment["gpu"], deployment["model"], deployment["memory"]
    precision, workload = scenario["precision"], scenario["workload"]
    table = _grid(f"What was simulated: {scenario['name']}")
    gpus = summary["cost"]["gpus"]
    table.add_row("GPU", f"{gpus} x {gpu['title']}: {format_quantity(gpu['peak_flops'], 'FLOP/s')} {gpu['peak_dtype']}, "
                         f"{format_quantity(gpu['memory_bandwidth'], 'B/s')}, ridge point {gpu['ridge_point']:.0f} FLOP/B")  # fmt: skip
    attention = {k: v for k, v in scenario["attention"].items() if k != "kind"}
    detail = f" ({', '.join(f'{k} {v}' for k, v in attention.items())})" if attention else ""
    formats = dict(weights=precision["weights"], activations=precision["activations"], KV=precision["kv"])
    same = len(set(formats.values())) == 1
    shown = precision["kv"] if same else ", ".join(f"{k} {v}" for k, v in formats.items())
    table.add_row("model", f"{model['name']}, {model['parameters'] / 1e9:.2f} B parameters, {shown}, {scenario['attention']['kind']} attention{detail}")
    table.add_row("memory", f"{format_quantity(memory['weights'], 'B')} weights + {format_quantity(memory['activations'] + memory['graphs'] + memory['context'], 'B')} "
                            f"reserves + {format_quantity(memory['kv'], 'B')} KV cache = {_count(memory['kv_blocks'] * memory['block_size'])} tokens per replica")  # fmt: skip
    engine = scenario["engine"]
    table.add_row("engine", f"{scenario['replicas']} replica(s), {scenario['router']}; at most {engine['max_num_seqs']} sequences and "
                            f"{_count(engine['max_num_batched_tokens'])} tokens per step; {engine['scheduling']}")  # fmt: skip
    strategy = workload["strategy"]
    kind = strategy["kind"]
    requests = summary["requests"]
    what = f"{_count(requests['total'])} requests"
    if kind == "best_of_n":
        what = f"{_count(summary['problems']['total'])} problems x {strategy['samples']} samples"
        if strategy.get("stop_on_accept"):
            what += ", stopped when one is accepted"
    elif kind == "long_cot":
        what += f" with a budget of {_count(strategy['budget'])} tokens"
    tokens = summary["tokens"]
    table.add_row("workload", f"{kind}: {what}, {_count(tokens['prompt'])} prompt and {_count(tokens['output'])} output tokens, arrivals {_arrivals(workload)}")
    table.add_row("profile", f"{deployment['profile']['name']}")
    return table


def _arrivals(workload: dict[str, Any]) -> str:
    arrivals = workload.get("arrivals") or {"kind": "trace"}
    kind = arrivals["kind"].replace("_", " ")
    if arrivals.get("concurrency"):
        kind += f" of {arrivals['concurrency']}"
    if arrivals.get("rate"):
        kind += f" {arrivals['rate']:g}/s"
    return kind


def _headline(result: Result) -> Table:
    summary, gpu = result.summary, result.deployment["gpu"]
    cost, requests, kv, use = summary["cost"], summary["requests"], summary["kv"], summary["utilisation"]
    table = _grid("Headline")
    table.add_row("time", Text(f"{duration(summary['makespan_s'])} from the first arrival to the last token", style="bold"))
    if cost["usd"] is not None:
        price = f"{cost['usd']:,.2f} USD at {gpu['usd_per_hour']:g} USD per GPU-hour ({gpu['price_date']}), "
        price += f"{cost['usd_per_million_output_tokens']:.3g} USD per million output tokens"
        table.add_row("price", Text(f"{cost['gpu_hours']:,.3f} GPU-hours: {price}", style="bold"))
    else:
        table.add_row("price", f"{cost['gpu_hours']:,.3f} GPU-hours (no price known)")
    energy = f"{cost['energy_j'] / 3.6e6:,.2f} kWh, {cost['mean_power_w_per_gpu']:,.0f} W per GPU on average"
    table.add_row("energy", f"{energy}, {cost['joules_per_output_token']:.3g} J per output token" if cost["joules_per_output_token"] else energy)
    table.add_row("throughput", f"{_count(summary['output_tokens_per_s_per_gpu'])} output tokens/s per GPU; {summary['batch']['mean_decode_seqs'] or 0:.1f} sequences decode at a time")
    outcome = f"{_count(requests['finished'])} finished"
    outcome += "".join(f", {_count(requests[k])} {k}" for k in ("aborted", "rejected") if requests[k])
    table.add_row("requests", f"{outcome}; {_count(requests['preemptions'])} preemptions")
    if "problems" in summary:
        p = summary["problems"]
        text = f"last sample {duration(p['last_s']['p50'])} after submission (median)"
        if p["solved"]:
            text = f"{p['solved']} of {p['total']} with an accepted sample, the first after {duration(p['first_accepted_s']['p50'])} (median); " + text
        table.add_row("problems", text)
    if "goodput" in summary:
        g = summary["goodput"]
        limits = ", ".join(f"{k} <= {duration(v)}" for k, v in g["objective_s"].items() if v is not None)
        table.add_row("goodput", f"{_percent(g['share'])} of the requests meet {limits}: {g['requests_per_s']:.3g} requests/s")
    table.add_row("KV cache", f"{_percent(kv['mean_use'])} used on average, {_percent(kv['peak_use'])} at most"
                              + (f"; {_count(summary['tokens']['prefix_hit'])} prompt tokens found in it" if summary["tokens"]["prefix_hit"] else ""))  # fmt: skip
    table.add_row("utilisation", f"busy {_percent(use['busy'])}, MFU {_percent(use['mfu'])}, MBU {_percent(use['mbu'])}")
    law = summary["kinetics_law_eflops"]
    attention = law["attention_compute"] + law["attention_memory"]
    table.add_row("Kinetics law", f"{law['total'] / 1e12:,.0f} tera-eFLOPs, attention {attention / max(law['parameters'], 1e-300):.1f} x the parameters' "
                                  f"(closed form); simulated work {summary['work']['eflops'] / 1e12:,.0f}")  # fmt: skip
    return table


def _latency(result: Result) -> Table:
    table = Table(title="Latency", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    for name in ("mean", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    labels = {"ttft_s": "TTFT (first token)", "tpot_s": "TPOT (per output token)", "itl_s": "ITL (between tokens)", "e2e_s": "end to end"}
    for key, label in labels.items():
        values = result.summary["latency"][key]
        table.add_row(label, *(duration(values[name]) for name in ("mean", "p50", "p90", "p99", "max")))
    return table


def _operators(result: Result, least: float = 0.005) -> Table:
    total = sum(op["seconds"] for op in result.operators) or 1.0
    table = Table(title="Where the time went", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("operator", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    shown = sorted((op for op in result.operators if op["seconds"] >= least * total), key=lambda op: -op["seconds"])
    for op in shown:
        bounds = sorted(op["by_bound"].items(), key=lambda item: -item[1])
        text = Text()
        for i, (bound, seconds) in enumerate(bounds):
            share = seconds / op["seconds"]
            if share < 0.02:
                continue
            text.append(", " if i else "")
            text.append(BOUND_TEXT[bound] + (f" {100 * share:.0f} %" if share < 0.98 else ""), style=BOUND_STYLE[bound])
        share = op["seconds"] / total
        table.add_row(op["name"], _percent(share), "█" * max(1, round(24 * share)), duration(op["seconds"]), text)
    rest = total - sum(op["seconds"] for op in shown)
    if rest > 1e-9 * total:
        table.add_row("everything else", _percent(rest / total), "", duration(rest), "")
    return table


def _bounds(result: Result) -> Text:
    """One line: what bounds the kernels, by share of their time."""
    bounds = result.summary["seconds_by_bound"]
    total = sum(bounds.values()) or 1.0
    text = Text("Bound by: ", style="bold")
    shown = [item for item in sorted(bounds.items(), key=lambda item: -item[1]) if item[1] >= 0.0005 * total]
    for i, (bound, seconds) in enumerate(shown):
        text.append(", " if i else "")
        text.append(f"{BOUND_TEXT[bound]} {_percent(seconds / total)}", style=BOUND_STYLE[bound])
    return text


def show_operators(document: dict[str, Any], out: Path | None) -> None:
    """The operators of one step."""
    console = _console()
    table = Table(title=_title(document), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, right in (("operator", False), ("layers", True), ("FLOPs", True), ("weights", True), ("KV", True), ("activations", True),
                        ("FLOP/B", True), ("time", True), ("share", True), ("bound by", False)):  # fmt: skip
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for op in document["nodes"]:
        style = BOUND_STYLE[op["bound"]]
        moved = op["act_bytes"] + op["comm_bytes"]
        table.add_row(
            op["name"], str(op["count"]), *(format_quantity(v, u) if v else "-" for v, u in ((op["flops"], ""), (op["weight_bytes"], "B"), (op["kv_bytes"], "B"), (moved, "B"))),
            f"{op['intensity']:.1f}" if op["intensity"] else "-", duration(op["seconds"]), _percent(op["share"]), Text(BOUND_TEXT[op["bound"]], style=style),
        )  # fmt: skip
    console.print(table)
    step = document["step"]
    console.print(f"\none step: [bold]{duration(step['seconds'])}[/bold], profile {document['profile']}")
    if out is not None:
        console.print(f"written to {out}")


def _title(document: dict[str, Any]) -> str:
    return f"{document['model']} on {document['gpu']}: {document['description']}"


def show_roofline(document: dict[str, Any], out: Path) -> None:
    """The roof and where the operators stand under it."""
    console = _console()
    console.print(f"{document['model']} on {document['gpu']}, profile {document['profile']}", style="bold")
    table = Table(box=None, pad_edge=False)
    for name, right in (("step", False), ("operator", False), ("FLOP/B", True), ("FLOP/s", True), ("of its roof", True), ("share", True), ("bound by", False)):
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for point in document["points"]:
        if point["share"] >= 0.01:
            table.add_row(
                point["step"], point["name"], f"{point['intensity']:.2f}" if point["intensity"] else "-", format_quantity(point["flops_per_s"], "FLOP/s"),
                _percent(point["of_roof"]), _percent(point["share"]), Text(BOUND_TEXT[point["bound"]], style=BOUND_STYLE[point["bound"]]),
            )  # fmt: skip
    console.print(table)
    console.print(f"written to {out}")


def show_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """A plain table of dictionaries with the same keys."""
    table = Table(box=None, pad_edge=False)
    for key in rows[0]:
        table.add_column(key.replace("_", " "), justify="right" if isinstance(rows[0][key], int | float) else "left", overflow="fold")
    for row in rows:
        table.add_row(*("-" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    _console().print(table)
