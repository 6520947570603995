"""What is said of a result, in words: the same on a terminal (`display`) and on a page (`reporting`).

Rows are pairs of a label and a text. Computes nothing itself but shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwspecs.units import format_quantity
from simulator.layout import Layout
from simulator.precision import precision_words
from simulator.printing import duration, percent
from workloads.disaggregation import POOLS
from workloads.engine import NO_ENGINE, engine_set
from workloads.formats import BODY, PARTS
from workloads.speculation import Speculation

if TYPE_CHECKING:
    from simulator.result import Result

Rows = list[tuple[str, str]]

BOUND_TEXT = {
    "memory": "HBM bandwidth",
    "compute": "tensor cores",
    "l2": "L2 bandwidth",
    "link": "GPU link",
    "overhead": "launch overhead",
    "host": "the host and gaps",
}
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
LATENCY_TEXT = {
    "ttft_s": "TTFT (first token)",
    "tpot_s": "TPOT (per output token)",
    "itl_s": "ITL (between tokens)",
    "e2e_s": "end to end",
}
TRANSFER_TEXT = {
    "wait_for_place_s": "waiting for a KV reservation",
    "wait_for_lane_s": "waiting for the link",
    "send_s": "being sent",
    "held_s": "kept after the prompt's end",
}
ORDER_TEXT = {
    "prefill_first": "to a decode worker once the prompt is computed",
    "decode_first": "decode worker and its KV set aside before the prompt is computed",
}
TOKEN_TEXT = {
    "prefill": "first token sent by the prefill worker",
    "transfer": "first token sent by the decode worker once it has the KV",
    "decode": "first token made by the decode worker",
}


def _count(value: float) -> str:
    return f"{value:,.0f}"


def what_rows(result: Result) -> Rows:
    """What was simulated: GPU, model, engine, workload, profile."""
    scenario, deployment = result.scenario, result.deployment
    gpu, model, engine = deployment["gpu"], deployment["model"], scenario["engine"]
    peak, bandwidth = format_quantity(gpu["peak_flops"], "FLOP/s"), format_quantity(gpu["memory_bandwidth"], "B/s")
    size = f"{model['parameters'] / 1e9:.2f} B parameters"
    rows = [
        (
            "GPU",
            f"{_how_many(result)} x {gpu['title']}: {peak} {gpu['peak_dtype']}, {bandwidth}, "
            f"ridge point {gpu['ridge_point']:.0f} FLOP/B",
        ),
        ("model", f"{model['name']}, {size}, {_formats(scenario)}, {_attention(scenario)}"),
    ]
    if scenario.get("speculation"):
        rows.append(("drafts", _drafts(scenario["speculation"])))
    if "pools" in deployment:
        rows.append(("engine", f"{_engine_name(engine)}prefill and decode on workers of their own"))
        return [*rows, *_pool_rows(result), *_load_rows(result)]
    limits = f"{engine['max_num_seqs']} sequences and {_count(engine['max_num_batched_tokens'])} tokens"
    replicas = (
        f"{scenario['replicas']} replicas, {scenario['router']} router" if scenario["replicas"] > 1 else "one replica"
    )
    layout = Layout.given(scenario["parallelism"], engine)
    if layout.gpus > 1:
        replicas += f" ({layout})" if scenario["replicas"] == 1 else f" of {layout}"
    step = "step" if layout.ranks == 1 else f"step of each of {layout.ranks} ranks or micro-batches"
    rows.append(("engine", f"{_engine_name(engine)}{replicas}; at most {limits} per {step}, {engine['scheduling']}"))
    return rows + _load_rows(result)


def _load_rows(result: Result) -> Rows:
    return [("workload", _workload(result)), ("profile", _profile(result))]


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


def _pool_rows(result: Result) -> Rows:
    """Both pools and the link between them."""
    rows = []
    scenario, deployment = result.scenario, result.deployment
    for name in POOLS:
        part, facts = scenario["disaggregation"][name], deployment["pools"][name]
        engine = part["engine"]
        title = facts["gpu"]["title"] if facts["gpu"]["title"] != deployment["gpu"]["title"] else "GPU"
        words = f"{part['replicas']} x {facts['gpus_each']} {title}{'s' * (facts['gpus_each'] > 1 and title == 'GPU')}"
        words += f" ({facts['layout']})" if facts["gpus_each"] > 1 else ""
        words += f", {part['router']} router" if part["replicas"] > 1 else ""
        limits = f"{engine['max_num_seqs']:,} sequences and {engine['max_num_batched_tokens']:,} tokens"
        rows.append((name, f"{words}; at most {limits} a step of a rank, {engine['scheduling']}"))
    link = deployment["transfer"]
    words = {"given": "a given link", "scale_out": "the network (gpu.scale_out)"}.get(link["link"], link["link"])
    rate = format_quantity(link["bandwidth"], "B/s")
    text = f"{words}, {rate} a GPU; {ORDER_TEXT[link['order']]}; {TOKEN_TEXT[link['first_token']]}"
    return [*rows, ("transfer", text)]


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


def memory_rows(memory: dict[str, Any], each: str) -> list[tuple[str, str, float, str]]:
    """Parts of a GPU's memory: key, name, bytes, and of the KV cache how many tokens per `each` that makes."""
    tokens = f"{_count(memory['kv_blocks'] * memory['block_size'])} tokens per {each}"
    sizes = [(key, name, memory.get(key, 0.0)) for key, name in MEMORY_TEXT.items()]
    return [(key, name, size, tokens if key == "kv" else "") for key, name, size in sizes if size > 0]


def headline_rows(result: Result) -> Rows:
    """Time, money, energy and how well the GPUs were used; a row without a label goes on with the one above."""
    summary = result.summary
    rows = [("time", f"{duration(summary['makespan_s'])} from the first arrival until everything is final")]
    if summary.get("interval"):
        name, values = "", summary["interval"]["makespan_s"]
        if values is None:
            name, values = "of the mean TPOT ", summary["interval"]["tpot_s"]
        if values is not None:
            low, high = map(duration, values)
            host = " and the host's" if "host" in summary["seconds_by_bound"] else " alone"
            rows.append(("", f"80 % interval {name}{low} to {high}, from the kernels' held-out errors{host}"))
    rows.append(("price", _price(result)))
    rows.append(("energy", _energy(summary["cost"])))
    sequences = f"{summary['batch']['mean_decode_seqs'] or 0:.1f} sequences decode at a time"
    sequences += " on each replica" if result.scenario["replicas"] > 1 else ""
    sequences += " on each decode worker" if summary.get("pools", {}).get("decode", {}).get("workers", 1) > 1 else ""
    text = f"{_count(summary['output_tokens_per_s_per_gpu'])} output tokens/s per GPU; {sequences}"
    rows.append(("throughput", text))
    requests = summary["requests"]
    outcome = "".join(f", {_count(requests[key])} {key}" for key in ("aborted", "rejected") if requests[key])
    text = f"{_count(requests['finished'])} finished{outcome}; {_count(requests['preemptions'])} preemptions"
    rows.append(("requests", text))
    if "problems" in summary:
        rows.append(("problems", _problems(summary["problems"])))
    if "goodput" in summary:
        rows.append(("goodput", _goodput(summary["goodput"])))
    kv, found = summary["kv"], summary["tokens"]["prefix_hit"]
    use = f"{percent(kv['mean_use'])} used on average, {percent(kv['peak_use'])} at most"
    rows.append(("KV cache", use + (f"; {_count(found)} tokens found in it" if found else "")))
    use = summary["utilisation"]
    rows.append(("utilisation", f"busy {percent(use['busy'])}, MFU {percent(use['mfu'])}, MBU {percent(use['mbu'])}"))
    rows.append(("Kinetics law", _law(summary)))
    return rows


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


def timed_operators(result: Result) -> list[dict[str, Any]]:
    """Name, pool (empty without pools), kind, seconds and seconds `by_bound` of each operator and of the host, the
    longest first: GPU-seconds with pools, whose workers differ in size, else seconds of a replica's mean GPU.
    """
    pools = result.deployment.get("pools")
    found = []
    for op in result.operators:
        gpus = pools[op["pool"]]["gpus_each"] if pools else 1
        by_bound = {bound: gpus * seconds for bound, seconds in op["by_bound"].items()}
        found.append({"pool": "", **op, "seconds": gpus * op["seconds"], "by_bound": by_bound})
    host = result.summary["seconds_by_bound"].get("host", 0.0)
    if host:
        found.append({"name": "host and gaps", "pool": "", "seconds": host, "by_bound": {"host": host}})
    return sorted(found, key=lambda op: -op["seconds"])


def bound_words(op: dict[str, Any]) -> list[tuple[str, str]]:
    """What bounds an operator of `timed_operators` (bound, text), the most of its time first; below 2 % left out."""
    shares = [(bound, seconds / op["seconds"]) for bound, seconds in op["by_bound"].items() if seconds]
    shares.sort(key=lambda item: -item[1])
    return [(b, BOUND_TEXT[b] + (f" {100 * s:.0f} %" if s < 0.98 else "")) for b, s in shares if s >= 0.02]
