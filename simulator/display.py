"""Answers for people, on a terminal: tables that a stranger understands. Computes nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hwspecs.units import format_quantity
from simulator.displaypools import add_pools, pools_table, rests_table, transfers_table
from simulator.layout import Layout
from simulator.precision import precision_words
from simulator.printing import duration, percent
from workloads.engine import NO_ENGINE, engine_set
from workloads.formats import BODY, PARTS
from workloads.speculation import Speculation

if TYPE_CHECKING:
    from simulator.result import Result

BOUND_STYLE = {
    "memory": "cyan",
    "compute": "green",
    "l2": "blue",
    "link": "magenta",
    "overhead": "yellow",
    "host": "red",
}
BOUND_TEXT = {
    "memory": "HBM bandwidth",
    "compute": "tensor cores",
    "l2": "L2 bandwidth",
    "link": "GPU link",
    "overhead": "launch overhead",
    "host": "the host and gaps",
}


def _console() -> Console:
    """The terminal; in a pipe, lines as wide as the tables need."""
    console = Console(highlight=False, markup=False)  # names are the user's: brackets in them are no markup
    if not console.is_terminal:
        console.width = 120
    return console


def _count(value: float) -> str:
    return f"{value:,.0f}"


def show_result(result: Result, out: Path | None) -> None:
    """What was simulated, the headline, latencies, where the time went."""
    console = _console()
    if "pools" in result.summary and not console.is_terminal:
        console.width = 130
    parts: list[Any] = [_what(result), *_memory(result), _headline(result), _latency(result)]
    if "pools" in result.summary:
        parts += [pools_table(result), transfers_table(result)]
    parts += [_operators(result), _bounds(result)]
    if "pools" in result.summary and (rests := rests_table(result)) is not None:
        parts.append(rests)
    for part in parts:
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
        console.print(
            f"written to {out}: result.json, requests.parquet, timeline.parquet, trace.json (open in ui.perfetto.dev)"
        )


def _grid(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    return table


def _what(result: Result) -> Table:
    scenario, deployment = result.scenario, result.deployment
    gpu, model, engine = deployment["gpu"], deployment["model"], scenario["engine"]
    table = _grid(f"What was simulated: {scenario['name']}")
    peak, bandwidth = format_quantity(gpu["peak_flops"], "FLOP/s"), format_quantity(gpu["memory_bandwidth"], "B/s")
    table.add_row(
        "GPU",
        f"{_how_many(result)} x {gpu['title']}: {peak} {gpu['peak_dtype']}, {bandwidth}, "
        f"ridge point {gpu['ridge_point']:.0f} FLOP/B",
    )
    table.add_row(
        "model",
        f"{model['name']}, {model['parameters'] / 1e9:.2f} B parameters, {_formats(scenario)}, {_attention(scenario)}",
    )
    if scenario.get("speculation"):
        table.add_row("drafts", _drafts(scenario["speculation"]))
    if "pools" in deployment:
        table.add_row("engine", f"{_engine_name(engine)}prefill and decode on workers of their own")
        add_pools(table, result)
        table.add_row("workload", _workload(result))
        table.add_row("profile", _profile(result))
        return table
    limits = f"{engine['max_num_seqs']} sequences and {_count(engine['max_num_batched_tokens'])} tokens"
    replicas = (
        f"{scenario['replicas']} replicas, {scenario['router']} router" if scenario["replicas"] > 1 else "one replica"
    )
    layout = Layout.given(scenario["parallelism"], engine)
    if layout.gpus > 1:
        replicas += f" ({layout})" if scenario["replicas"] == 1 else f" of {layout}"
    step = "step" if layout.ranks == 1 else f"step of each of {layout.ranks} ranks or micro-batches"
    table.add_row("engine", f"{_engine_name(engine)}{replicas}; at most {limits} per {step}, {engine['scheduling']}")
    table.add_row("workload", _workload(result))
    table.add_row("profile", _profile(result))
    return table


def _drafts(said: dict[str, Any]) -> str:
    """`mtp, 3 tokens a step, 1.95 of them accepted in the mean`."""
    drafter = said["model"] if isinstance(said.get("model"), str) else said["method"]
    accepted = float(Speculation(**said).mean) - 1
    return f"{drafter}, {said['tokens']} tokens a step, {accepted:.2f} of them accepted in the mean"


def _how_many(result: Result) -> int:
    """GPUs of the kind that generates the outputs."""
    pools = result.deployment.get("pools", {})
    same = [name for name in pools if pools[name]["gpu"]["name"] == result.deployment["gpu"]["name"]]
    if not same:
        return int(result.summary["cost"]["gpus"])
    return sum(result.summary["pools"][name]["gpus"] for name in same)


def _engine_name(engine: dict[str, Any]) -> str:
    """`vLLM as of 0.24.0, `; nothing for an idealised engine."""
    name = engine.get("name", NO_ENGINE)
    if name == NO_ENGINE:
        return ""
    taken = engine_set(name, engine.get("version"))
    return f"{taken.title} as of {taken.version}, "


MEMORY_TEXT = {
    "weights": "weights",
    "kv": "KV cache",
    "window_kv": "KV of sliding windows",
    "states": "states of linear attention",
    "activations": "activations",
    "graphs": "CUDA graphs",
    "context": "CUDA context",
    "communication": "NCCL",
    "workspace": "workspace",
    "driver": "driver",
    "left": "left over",
}


def _memory(result: Result) -> list[Table]:
    """Where a GPU's memory goes, of each kind of workers, and how many tokens of KV that makes."""
    pools = result.deployment.get("pools", {})
    found = [_memory_of(facts["memory"], f" of {name} workers") for name, facts in pools.items()]
    return found or [_memory_of(result.deployment["memory"], "")]


def _memory_of(memory: dict[str, Any], whose: str) -> Table:
    tokens = f"{_count(memory['kv_blocks'] * memory['block_size'])} tokens per {'worker' if whose else 'replica'}"
    title = f"Memory of each GPU{whose}, {format_quantity(memory['capacity'], 'B')}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for key, name in MEMORY_TEXT.items():
        size = memory.get(key, 0.0)
        if size > 0:
            share, words = size / memory["capacity"], f"  {tokens}" if key == "kv" else ""
            table.add_row(name, format_quantity(size, "B"), percent(share), "█" * round(24 * share) + words)
    return table


def _profile(result: Result) -> str:
    """The profile's name, and how far off its main kernels were on measurements that were held out."""
    name = result.deployment["profile"]["name"]
    interval = result.summary.get("interval")
    if not interval:
        return str(name)
    kernels = [k for k in interval["kernels"] if k["mape"] is not None][:2]
    errors = ", ".join(f"{k['kind']} {k['format']} {k['mape'] * 100:.1f} % off" for k in kernels)
    return f"{name} ({kernels[0]['status']}; {errors})" if kernels else str(name)


def _formats(scenario: dict[str, Any]) -> str:
    precision = scenario["precision"]
    parts = dict.fromkeys(BODY, precision["linear"]) if "linear" in precision else {}
    parts |= {part: precision[part] for part in PARTS if part in precision}
    if parts:
        return precision_words(precision["weights"], precision["activations"], precision["kv"], parts)
    formats = {part: precision[part] for part in ("weights", "activations", "kv")}
    if len(set(formats.values())) == 1:
        return formats["kv"]
    return ", ".join(f"{dtype} {part.replace('kv', 'KV')}" for part, dtype in formats.items())


def _attention(scenario: dict[str, Any]) -> str:
    options = ", ".join(f"{key} {value}" for key, value in scenario["attention"].items() if key != "kind")
    return f"{scenario['attention']['kind']} attention" + (f" ({options})" if options else "")


def _workload(result: Result) -> str:
    workload, summary = result.scenario["workload"], result.summary
    strategy, tokens = workload["strategy"], summary["tokens"]
    what = f"{_count(summary['requests']['total'])} requests"
    if strategy["kind"] == "best_of_n":
        what = f"{_count(summary['problems']['total'])} problems x {strategy['samples']} samples"
        what += ", stopped when one is accepted" if strategy.get("stop_on_accept") else ""
    elif strategy["kind"] == "long_cot":
        what += f" with a budget of {_count(strategy['budget'])} tokens"
    counts = f"{_count(tokens['prompt'])} prompt and {_count(tokens['output'])} output tokens"
    return f"{strategy['kind']}: {what}, {counts}, arrivals {_arrivals(workload)}"


def _arrivals(workload: dict[str, Any]) -> str:
    arrivals = workload.get("arrivals") or {"kind": "trace"}
    kind = arrivals["kind"].replace("_", " ")
    if arrivals.get("concurrency"):
        kind += f" of {arrivals['concurrency']}"
    if arrivals.get("rate"):
        kind += f" {arrivals['rate']:g}/s"
    return kind


def _headline(result: Result) -> Table:
    summary = result.summary
    table = _grid("Headline")
    table.add_row(
        "time",
        Text(f"{duration(summary['makespan_s'])} from the first arrival until everything is final", style="bold"),
    )
    if summary.get("interval"):
        name, values = "", summary["interval"]["makespan_s"]
        if values is None:
            name, values = "of the mean TPOT ", summary["interval"]["tpot_s"]
        if values is not None:
            low, high = map(duration, values)
            host = " and the host's" if "host" in summary["seconds_by_bound"] else " alone"
            table.add_row("", f"80 % interval {name}{low} to {high}, from the kernels' held-out errors{host}")
    table.add_row("price", Text(_price(result), style="bold"))
    table.add_row("energy", _energy(summary["cost"]))
    sequences = f"{summary['batch']['mean_decode_seqs'] or 0:.1f} sequences decode at a time"
    sequences += " on each replica" if result.scenario["replicas"] > 1 else ""
    sequences += " on each decode worker" if summary.get("pools", {}).get("decode", {}).get("workers", 1) > 1 else ""
    table.add_row(
        "throughput", f"{_count(summary['output_tokens_per_s_per_gpu'])} output tokens/s per GPU; {sequences}"
    )
    requests = summary["requests"]
    outcome = "".join(f", {_count(requests[key])} {key}" for key in ("aborted", "rejected") if requests[key])
    table.add_row(
        "requests", f"{_count(requests['finished'])} finished{outcome}; {_count(requests['preemptions'])} preemptions"
    )
    if "problems" in summary:
        table.add_row("problems", _problems(summary["problems"]))
    if "goodput" in summary:
        table.add_row("goodput", _goodput(summary["goodput"]))
    kv, found = summary["kv"], summary["tokens"]["prefix_hit"]
    use = f"{percent(kv['mean_use'])} used on average, {percent(kv['peak_use'])} at most"
    table.add_row("KV cache", use + (f"; {_count(found)} tokens found in it" if found else ""))
    use = summary["utilisation"]
    table.add_row("utilisation", f"busy {percent(use['busy'])}, MFU {percent(use['mfu'])}, MBU {percent(use['mbu'])}")
    table.add_row("Kinetics law", _law(summary))
    return table


def _price(result: Result) -> str:
    cost, gpu = result.summary["cost"], result.deployment["gpu"]
    hours = f"{cost['gpu_hours']:,.3f} GPU-hours"
    if cost["usd"] is None:
        return f"{hours} (no price known)"
    kinds = {facts["gpu"]["name"]: facts["gpu"] for facts in result.deployment.get("pools", {}).values()}
    rates = [f"{kind['usd_per_hour']:g} ({kind['price_date']})" for kind in (list(kinds.values()) or [gpu])]
    rate = f"{' and '.join(rates)} USD per GPU-hour"
    if len(rates) == 1:
        rate = f"{gpu['usd_per_hour']:g} USD per GPU-hour ({gpu['price_date']})"
    each = cost["usd_per_million_output_tokens"]
    per_token = f", {_three(each)} USD per million output tokens" if each is not None else ""
    return f"{hours}: {cost['usd']:,.2f} USD at {rate}{per_token}"


def _three(value: float) -> str:
    """Three significant digits, whole numbers from a hundred on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _energy(cost: dict[str, Any]) -> str:
    text = f"{_three(cost['energy_j'] / 3.6e6)} kWh, {cost['mean_power_w_per_gpu']:,.0f} W per GPU on average"
    each = cost["joules_per_output_token"]
    return text if each is None else f"{text}, {each:.3g} J per output token"


def _problems(problems: dict[str, Any]) -> str:
    text = f"last sample {duration(problems['last_s']['p50'])} after submission (median)"
    if not problems["solved"]:
        return text
    first = duration(problems["first_accepted_s"]["p50"])
    return (
        f"{problems['solved']} of {problems['total']} with an accepted sample, the first after {first} (median); {text}"
    )


def _goodput(goodput: dict[str, Any]) -> str:
    limits = ", ".join(f"{key} <= {duration(v)}" for key, v in goodput["objective_s"].items() if v is not None)
    return f"{percent(goodput['share'])} of the requests meet {limits}: {goodput['requests_per_s']:.3g} requests/s"


def _law(summary: dict[str, Any]) -> str:
    law, work = summary["kinetics_law_eflops"], summary["work"]["eflops"]
    attention = (law["attention_compute"] + law["attention_memory"]) / max(law["parameters"], 1e-300)
    closed = f"{law['total'] / 1e12:,.0f} tera-eFLOPs in closed form (attention {attention:.1f} x the parameters)"
    return f"{closed}; with prefill and all weight traffic {work / 1e12:,.0f}"


def _latency(result: Result) -> Table:
    table = Table(title="Latency", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    for name in ("mean", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    labels = {
        "ttft_s": "TTFT (first token)",
        "tpot_s": "TPOT (per output token)",
        "itl_s": "ITL (between tokens)",
        "e2e_s": "end to end",
    }
    for key, label in labels.items():
        values = result.summary["latency"][key]
        table.add_row(label, *(duration(values[name]) for name in ("mean", "p50", "p90", "p99", "max")))
    return table


def _operators(result: Result, least: float = 0.005) -> Table:
    operators, pools = list(result.operators), result.deployment.get("pools")
    if pools:  # a worker of one kind has more GPUs than one of the other
        operators = [_gpu_seconds(op, pools[op["pool"]]["gpus_each"]) for op in operators]
    host = result.summary["seconds_by_bound"].get("host", 0.0)
    if host:
        operators.append({"name": "host and gaps", "seconds": host, "by_bound": {"host": host}})
    total = sum(op["seconds"] for op in operators) or 1.0
    table = Table(title="Where the time went", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("operator", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("GPU time" if pools else "time", justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    shown = sorted((op for op in operators if op["seconds"] >= least * total), key=lambda op: -op["seconds"])
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
        name = f"{op['pool']} {op['name']}" if "pool" in op else op["name"]
        table.add_row(name, percent(share), "█" * max(1, round(24 * share)), duration(op["seconds"]), text)
    rest = total - sum(op["seconds"] for op in shown)
    if shown and rest > 1e-9 * total:
        table.add_row("everything else", percent(rest / total), "", duration(rest), "")
    return table


def _gpu_seconds(op: dict[str, Any], gpus: int) -> dict[str, Any]:
    """Totals of an operator, of all GPUs of the workers."""
    by_bound = {bound: gpus * seconds for bound, seconds in op["by_bound"].items()}
    return op | {"seconds": gpus * op["seconds"], "by_bound": by_bound}


def _bounds(result: Result) -> Text:
    """One line: what bounds the kernels, by share of their time."""
    bounds = result.summary["seconds_by_bound"]
    total = sum(bounds.values()) or 1.0
    text = Text("Bound by: ", style="bold")
    shown = [item for item in sorted(bounds.items(), key=lambda item: -item[1]) if item[1] >= 0.0005 * total]
    for i, (bound, seconds) in enumerate(shown):
        text.append(", " if i else "")
        text.append(f"{BOUND_TEXT[bound]} {percent(seconds / total)}", style=BOUND_STYLE[bound])
    return text


def show_operators(document: dict[str, Any], out: Path | None) -> None:
    """The operators of one step."""
    console = _console()
    if not console.is_terminal:
        console.width = 140  # names of layers' groups are long
    table = Table(title=_title(document), title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("operator", no_wrap=True)
    for name in ("layers", "FLOPs", "weights", "KV", "activations", "FLOP/B", "time", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    for op in document["nodes"]:
        moved = (op["weight_bytes"], op["kv_bytes"], op["act_bytes"] + op["comm_bytes"])
        table.add_row(
            op["name"],
            str(op["count"]),
            format_quantity(op["flops"], "") if op["flops"] else "-",
            *(format_quantity(size, "B") if size else "-" for size in moved),
            f"{op['intensity']:.1f}" if op["intensity"] else "-",
            duration(op["seconds"]),
            percent(op["share"]),
            _bound(op["bound"]),
        )
    console.print(table)
    console.print(f"\none step: {duration(document['step']['seconds'])}, profile {document['profile']}", style="bold")
    if out is not None:
        console.print(f"written to {out}")


def _bound(bound: str) -> Text:
    return Text(BOUND_TEXT[bound], style=BOUND_STYLE[bound])


def _title(document: dict[str, Any]) -> str:
    return f"{document['model']} on {document['gpu']}: {document['description']}"


def show_roofline(document: dict[str, Any], out: Path) -> None:
    """The roof and where the operators stand under it."""
    console = _console()
    console.print(f"{document['model']} on {document['gpu']}, profile {document['profile']}", style="bold")
    table = Table(box=None, pad_edge=False)
    table.add_column("step", no_wrap=True)
    table.add_column("operator", no_wrap=True)
    for name in ("FLOP/B", "FLOP/s", "of its roof", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    for point in document["points"]:
        if point["share"] >= 0.01:
            table.add_row(
                point["step"],
                point["name"],
                f"{point['intensity']:.2f}" if point["intensity"] else "-",
                format_quantity(point["flops_per_s"], "FLOP/s"),
                percent(point["of_roof"]),
                percent(point["share"]),
                _bound(point["bound"]),
            )
    console.print(table)
    console.print(f"written to {out}")


def show_rows(rows: list[dict[str, Any]], hide: tuple[str, ...] = ()) -> None:
    """A plain table of dictionaries with the same keys."""
    table = Table(box=None, pad_edge=False)
    keys = [key for key in rows[0] if key not in hide]
    for key in keys:
        numeric = all(isinstance(row[key], int | float | None) for row in rows)
        justify: Any = "right" if numeric else "left"
        table.add_column(key.replace("_", "\n"), justify=justify, no_wrap=key != "description")
    for row in rows:
        table.add_row(*(_cell(row[key]) for key in keys))
    _console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
