"""The sections of one result: what was simulated, the headline, where the time goes, and what it all rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from hwspecs.units import format_quantity
from simulator.headline import METRICS, STATISTICS, headline
from simulator.printing import duration, percent
from simulator.reporting.amounts import amount, significant
from simulator.reporting.markup import Markup, element
from simulator.reporting.palette import BOUND_COLOURS, IDLE_COLOUR, MEMORY_COLOURS, RESULT_COLOURS
from simulator.reporting.parts import Page, Part, bar, bullets, chart, facts, paragraph, section, strip, table, together
from simulator.reporting.roofs import DRAWN, Roofline, drawn, roofline_chart, rooflines
from simulator.result import Result
from simulator.resultwords import (
    BOUND_TEXT,
    LATENCY_TEXT,
    TRANSFER_TEXT,
    bound_words,
    headline_rows,
    memory_rows,
    timed_operators,
    what_rows,
)
from workloads.disaggregation import POOLS

Intervals = Mapping[str, tuple[float, float] | None]


@dataclass(frozen=True)
class Shown:
    """A result as a page shows it.

    Attributes
    ----------
    label : its name beside others. result : it. intervals : 80 % intervals of headline metrics, of those that are
        known. simulated_ends : whether they come from simulating both ends. prefix : of its elements' ids.
    """

    label: str
    result: Result
    intervals: Intervals
    simulated_ends: bool = False
    prefix: str = ""


def known_intervals(result: Result) -> dict[str, tuple[float, float] | None]:
    """Intervals of the metrics for which a result has them without another simulation: of the mean TPOT, and where
    nothing waits for arrivals of the time and of all that is proportional to it.
    """
    found = result.summary.get("interval") or {}
    values = headline(result.summary)
    known: dict[str, tuple[float, float] | None] = {}
    if found.get("tpot_s"):
        known["tpot_s.mean"] = (found["tpot_s"][0], found["tpot_s"][1])
    makespan = result.summary["makespan_s"]
    if found.get("makespan_s") and makespan:
        low, high = (end / makespan for end in found["makespan_s"])
        for key in ("makespan_s", "gpu_hours", "usd", "usd_per_million_output_tokens", "gpu_seconds_per_solved",
                    "usd_per_solved"):  # fmt: skip
            value = values[key]
            known[key] = None if value is None else (value * low, value * high)
        for key in ("output_tokens_per_s", "output_tokens_per_s_per_gpu", "requests_per_s"):
            value = values[key]
            known[key] = None if value is None else (value / high, value / low)
    return known


# ---- the top ---------------------------------------------------------------------------------------------------------

CARDS = (
    ("makespan_s", "time"),
    ("usd", "price"),
    ("energy_j", "energy"),
    ("output_tokens_per_s_per_gpu", "output tokens per GPU"),
    ("ttft_s.p99", "TTFT p99"),
    ("tpot_s.p99", "TPOT p99"),
    ("goodput_share", "meet the objective"),
    ("usd_per_solved", "per solved problem"),
)


def cards(shown: Shown) -> Markup:
    """The numbers that people look for first."""
    values = headline(shown.result.summary)
    found = []
    for key, title in CARDS:
        value = values[key]
        if value is None:
            continue
        ends = shown.intervals.get(key)
        said = f"80 %: {amount(key, ends[0])} to {amount(key, ends[1])}" if ends else ""
        found.append(
            element(
                "div",
                element("dt", title),
                element("dd", element("data", amount(key, value), value=repr(value)), element("small", said)),
            )
        )
    columns = len(found) if len(found) <= 6 else -(-len(found) // 2)
    return element("dl", *found, class_="cards", style=f"--columns:{columns}")


def simulated(shown: Shown, level: int) -> Markup:
    rows = what_rows(shown.result)
    profiles = shown.result.deployment.get("pools") or {"": shown.result.deployment}
    told = dict.fromkeys((p["profile"]["name"], p["profile"]["fitted_on"]) for p in profiles.values())
    rows += [("fitted on" if i == 0 else "", text) for i, (_, text) in enumerate(told) if text]
    return section(level, f"{shown.prefix}what", "What was simulated", facts(rows))


def notes(shown: Shown, level: int) -> Markup | None:
    if not shown.result.notes:
        return None
    return section(level, f"{shown.prefix}notes", "To be read with the numbers", bullets(shown.result.notes))


NOT_SHOWN = (
    "preemptions", "solved", "kv_peak_use", "mean_decode_seqs", "mfu", "mbu", "eflops", "gpu_hours",
    "gpu_seconds_per_solved", "joules_per_solved", "mean_power_w_per_gpu",
)  # fmt: skip
"""Headline metrics that the facts beside the table say in their sentences, or that follow under money."""


def headline_section(shown: Shown, level: int) -> Markup:
    summary = shown.result.summary
    values = headline(summary)
    rows = []
    for key, metric in METRICS.items():
        value = values[key]
        if value is None or key.partition(".")[2] in STATISTICS or key in NOT_SHOWN:
            continue
        rows.append([metric.title, (amount(key, value), value), *_ends(shown, key)])
    for key in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        for statistic in ("mean", "p99"):
            name = f"{key}.{statistic}"
            if values[name] is not None:
                rows.append([METRICS[name].title, (amount(name, values[name]), values[name]), *_ends(shown, name)])
    return section(
        level,
        f"{shown.prefix}headline",
        "Headline",
        element(
            "div",
            _with_ends(rows, "Headline metrics and their 80 % intervals"),
            facts([row for row in headline_rows(shown.result) if row[0] not in ("time", "")]),
            class_="beside",
        ),
        paragraph(_interval_words(shown), class_="said"),
    )


def _ends(shown: Shown, key: str) -> list[Any]:
    ends = shown.intervals.get(key)
    return ["", ""] if ends is None else [(amount(key, end), end) for end in ends]


def _with_ends(rows: list[list[Any]], caption: str) -> Markup:
    """A table of values and the ends of their intervals, without these columns where no row has one."""
    if any(row[2] for row in rows):
        return table(["", "value", "80 % from", "80 % to"], rows, caption=caption)
    return table(["", "value"], [row[:2] for row in rows], caption=caption)


def _interval_words(shown: Shown) -> str:
    interval = shown.result.summary.get("interval")
    if not interval:
        return "No interval: the profile was not fitted to measurements, so nothing is known of its error."
    low, high = interval["kernel_time"]
    words = f"80 % intervals: the time of a step lies between {low:.3f} and {high:.3f} of what is predicted, judged by "
    words += "the kernels' errors on measurements that were held out and by what is assumed of the host. "
    if shown.simulated_ends:
        return words + "Every metric was simulated again at both ends."
    return words + (
        "A metric without an interval does not follow the steps' time by a factor: kinesim report RESULT --intervals "
        "simulates both ends."
    )


# ---- time ------------------------------------------------------------------------------------------------------------


LEAST = 0.005
"""Share of the time from which on an operator has a line of its own."""


def time_section(shown: Shown, level: int) -> Markup:
    """Where the time goes, by what bounds it and by operator."""
    result = shown.result
    bounds = result.summary["seconds_by_bound"]
    operators = timed_operators(result)
    total = sum(op["seconds"] for op in operators)
    if not total:
        return section(level, f"{shown.prefix}time", "Where the time goes", paragraph("No step was taken."))
    order = sorted((b for b in bounds if bounds[b] >= 0.0005 * total), key=lambda b: -bounds[b])
    parts = [Part(BOUND_TEXT[b], bounds[b], BOUND_COLOURS[b]) for b in order]
    texts = [duration(bounds[b]) for b in order]
    busy = percent(result.summary["utilisation"]["busy"])
    whose = "GPU time of both kinds of workers" if "pools" in result.deployment else "time of kernels and host"
    widest = operators[0]["seconds"]
    rows = []
    for op in operators:
        if op["seconds"] < LEAST * total:
            continue
        pieces = [Part(BOUND_TEXT[b], s, BOUND_COLOURS[b]) for b, s in op["by_bound"].items() if s]
        pieces.sort(key=lambda p: -p.size)
        name = f"{op['pool']} {op['name']}".strip()
        rows.append(
            [
                name,
                (percent(op["seconds"] / total), op["seconds"] / total),
                bar(pieces, widest),
                (duration(op["seconds"]), op["seconds"]),
                ", ".join(words for _, words in bound_words(op)),
            ]
        )
    rest = total - sum(op["seconds"] for op in operators if op["seconds"] >= LEAST * total)
    if rest > 1e-9 * total:
        rows.append(["everything else", (percent(rest / total), rest / total), "", (duration(rest), rest), ""])
    return section(
        level,
        f"{shown.prefix}time",
        "Where the time goes",
        strip(f"What bounds the {whose}", parts, sum(bounds.values()), texts),
        table(
            ["operator", "share", "as a bar", "time", "bound by"], rows, caption="Time by operator", texts=(0, 2, 4),
            class_="bars",
        ),
        paragraph(
            f"The steps take {busy} of the time from the first arrival to the last token; these shares are of that "
            "part. Seconds are those of a replica's mean GPU, summed over replicas" +
            (", times the GPUs of a worker." if "pools" in result.deployment else "."),
            class_="said",
        ),
        element(
            "details", element("summary", "Numbers: work and energy of every operator"), _work_table(result),
            class_="numbers",
        ),
    )  # fmt: skip


def _work_table(result: Result) -> Markup:
    rows = []
    for op in sorted(result.operators, key=lambda op: -op["seconds"]):
        if not op["seconds"]:
            continue
        intensity = op["flops"] / op["hbm_bytes"] if op["flops"] and op["hbm_bytes"] else None
        rows.append(
            [
                f"{op.get('pool', '')} {op['name']}".strip(),
                (duration(op["seconds"]), op["seconds"]),
                *((format_quantity(op[key], unit), op[key]) for key, unit in WORK),
                (significant(intensity), intensity) if intensity else "",
                (format_quantity(op["flops"] / op["seconds"], "FLOP/s"), op["flops"] / op["seconds"]),
                (format_quantity(op["energy"], "J"), op["energy"]),
            ]
        )
    head = ["operator", "time", "FLOPs", "HBM", "weights", "KV", "activations", "links", "FLOP/B", "rate", "energy"]
    return table(head, rows, caption="Totals of one GPU of each replica, summed over replicas; energy above idle")


WORK = (
    ("flops", "FLOP"), ("hbm_bytes", "B"), ("weight_bytes", "B"), ("kv_bytes", "B"), ("act_bytes", "B"),
    ("comm_bytes", "B"),
)  # fmt: skip


# ---- latency ---------------------------------------------------------------------------------------------------------


def latency_table(
    summary: Mapping[str, Any],
    caption: str = "Percentiles of the latencies",
    parts: Mapping[str, str] = LATENCY_TEXT,
    key: str = "latency",
) -> Markup:
    """Mean, percentiles and maximum of what the summary has under `key`."""
    rows = [
        [label, *((duration(summary[key][name][s]), summary[key][name][s]) for s in STATISTICS)]
        for name, label in parts.items()
    ]
    return table(["", *STATISTICS], rows, caption=caption)


def pools_section(shown: Shown, level: int) -> Markup | None:
    """Workers of both kinds and what was sent between them."""
    summary = shown.result.summary
    if "pools" not in summary:
        return None
    rows = []
    for name in POOLS:
        pool = summary["pools"][name]
        batch, kv, use = pool["batch"], pool["kv"], pool["utilisation"]
        rows.append(
            [
                name, (f"{pool['workers']:,}", pool["workers"]), (f"{pool['gpus']:,}", pool["gpus"]),
                *((percent(use[key]), use[key]) for key in ("busy", "mfu", "mbu")),
                (duration(batch["mean_step_s"]), batch["mean_step_s"]),
                (percent(kv["mean_use"]), kv["mean_use"]), (percent(kv["peak_use"]), kv["peak_use"]),
            ]
        )  # fmt: skip
    head = ["workers", "number", "GPUs", "busy", "MFU", "MBU", "mean step", "KV used", "KV at most"]
    sent = summary["transfers"]
    return section(
        level,
        f"{shown.prefix}workers",
        "Workers",
        table(head, rows, caption="Prefill and decode workers"),
        paragraph(f"{sent['requests']:,} prompts were sent, {format_quantity(sent['bytes'], 'B')} of KV."),
        latency_table(summary, "Transfers of KV between workers", TRANSFER_TEXT, "transfers"),
    )


# ---- the machine -----------------------------------------------------------------------------------------------------


def roofline_section(shown: Shown, level: int, page: Page) -> Markup:
    parts = []
    for found in rooflines(shown.result):
        if not found.points:
            continue
        whose = f"{found.kind} workers: " if found.kind else ""
        name = f"{shown.prefix}roofline{'-' + found.kind if found.kind else ''}"
        parts.append(
            chart(
                page,
                name,
                roofline_chart(found),
                label=f"roofline, {whose}{found.gpu}",
                caption=together(
                    element("b", f"{whose}{found.gpu}. "),
                    "Each point is all that an operator did in this run: FLOPs over bytes of HBM traffic, FLOPs over "
                    "seconds, of one GPU. Areas are shares of the kernel time. " + _off_chart(found),
                ),
                numbers=_roofline_table(found),
            )
        )
    title = "The operators under the roofline"
    return section(level, f"{shown.prefix}roofline-section", title, *(parts or [paragraph("No step was taken.")]))


def _off_chart(found: Roofline) -> str:
    on = drawn(found)
    off = [p for p in found.points if p not in on]
    share = sum(p.share for p in off)
    if share < 0.0005:
        return ""
    names = ", ".join(p.name for p in off[:6]) + (" and others" if len(off) > 6 else "")
    why = f"without FLOPs, without HBM traffic, or below {percent(DRAWN)}"
    return f"Not drawn: {names} ({why}; together {percent(share)} of the kernel time)."


def _roofline_table(found: Roofline) -> Markup:
    rows = [
        [
            p.name,
            (f"{p.intensity:.3g}", p.intensity) if p.intensity else "-",
            (format_quantity(p.rate, "FLOP/s"), p.rate) if p.rate else "-",
            (percent(p.of_roof), p.of_roof) if p.of_roof else "-",
            (percent(p.share), p.share),
            BOUND_TEXT[p.bound],
        ]
        for p in found.points
    ]
    head = ["operator", "FLOP/B", "rate", "of its roof", "share", "mostly bound by"]
    return table(head, rows, caption=f"Operators under the roofline of {found.gpu}", texts=(0, 5))


def memory_section(shown: Shown, level: int) -> Markup:
    pools = shown.result.deployment.get("pools")
    found = {"": shown.result.deployment["memory"]} if pools is None else {k: pools[k]["memory"] for k in POOLS}
    parts = []
    for kind, memory in found.items():
        rows = memory_rows(memory, "worker" if kind else "replica")
        title = f"Memory of each GPU{f' of {kind} workers' if kind else ''}, {format_quantity(memory['capacity'], 'B')}"
        pieces = [Part(name, size, MEMORY_COLOURS[key]) for key, name, size, _ in rows]
        texts = [format_quantity(size, "B") + (f", {words}" if words else "") for _, _, size, words in rows]
        parts.append(strip(title, pieces, memory["capacity"], texts))
    return section(level, f"{shown.prefix}memory", "Memory", *parts)


def money_section(shown: Shown, level: int) -> Markup:
    """GPU-hours, money, and where the energy goes."""
    result = shown.result
    cost, pools = result.summary["cost"], result.deployment.get("pools")
    values = headline(result.summary)
    keys = ("gpu_hours", "usd", "usd_per_million_output_tokens", "usd_per_solved", "gpu_seconds_per_solved", "energy_j",
            "joules_per_output_token", "joules_per_solved", "mean_power_w_per_gpu")  # fmt: skip
    rows = [
        [METRICS[k].title, (amount(k, values[k]), values[k]), *_ends(shown, k)] for k in keys if values[k] is not None
    ]
    each = {op["name"]: 0.0 for op in result.operators}
    for op in result.operators:
        gpus = pools[op["pool"]]["gpus_each"] if pools else cost["gpus"] / result.scenario["replicas"]
        each[op["name"]] += gpus * op["energy"]
    working = sum(each.values())
    largest = sorted((name for name in each if each[name] > 0), key=lambda n: -each[n])[:6]
    parts = [Part("the boards awake", cost["energy_j"] - working, IDLE_COLOUR)]
    parts += [Part(name, each[name], RESULT_COLOURS[i]) for i, name in enumerate(largest)]
    rest = working - sum(each[name] for name in largest)
    if rest > 0.0005 * cost["energy_j"]:
        parts.append(Part("other operators", rest, RESULT_COLOURS[6]))
    texts = [format_quantity(p.size / 3600, "Wh") for p in parts]
    title = f"Where the energy goes, {significant(cost['energy_j'] / 3.6e6)} kWh"
    return section(
        level,
        f"{shown.prefix}money",
        "Money and energy",
        _with_ends(rows, "What the run costs"),
        strip(title, parts, cost["energy_j"], texts) if cost["energy_j"] else None,
        paragraph(
            "Energy rests on a power model fitted to one GPU type, whose error no interval here includes; awake is "
            "what a board takes between kernels.",
            class_="said",
        ),
    )


# ---- what it rests on ------------------------------------------------------------------------------------------------


def rests_section(shown: Shown, level: int) -> Markup:
    """Which measurements the times rest on, and how wrong predictions were on those that were held out."""
    summary = shown.result.summary
    whole = summary.get("pools")
    found = {k: whole[k]["interval"] for k in POOLS} if whole else {"": summary.get("interval")}
    rows = [
        [
            *((kind, k["kind"]) if whole else (k["kind"],)),
            k["format"],
            f"{k['kernel']} {k['profile']}".strip(),
            k["status"],
            (percent(k["share"]), k["share"]),
            (percent(k["mape"]), k["mape"]) if k["mape"] is not None else "",
            (f"{k['interval'][0]:.2f} to {k['interval'][1]:.2f}", None),
        ]
        for kind, interval in found.items()
        for k in (interval["kernels"] if interval else ())
        if k["share"] >= 0.0005
    ]
    head = ["kernels", "format", "measured as", "status", "share", "mean error", "80 % of the predicted time"]
    if not rows:
        said = "The profile was not fitted to measurements: nothing is known of its error."
        return section(level, f"{shown.prefix}rests", "What the times rest on", paragraph(said))
    texts = (0, 1, 2, 3, 4) if whole else (0, 1, 2, 3)
    return section(
        level,
        f"{shown.prefix}rests",
        "What the times rest on",
        table(["workers", *head] if whole else head, rows, caption="Kernels and their errors", texts=texts),
        paragraph(
            "interpolated: inside what was measured; extrapolated: outside of the measured shapes; transferred: "
            "measured on another GPU, software or format and carried over; assumed: nobody measured it, a rule of "
            "thumb; host: the engine's own time. The mean error is that on measurements which the fit never saw.",
            class_="said",
        ),
    )


def scenario_section(shown: Shown, level: int) -> Markup:
    name = f"{shown.prefix}scenario-yaml"
    text = yaml.safe_dump(shown.result.scenario, sort_keys=False, allow_unicode=True, width=100)
    timing = shown.result.timing
    return section(
        level,
        f"{shown.prefix}scenario",
        "The scenario",
        paragraph("With everything that was left to defaults written out; ", element("code", "kinesim run FILE.yaml"),
                  " simulates it again."),
        element("button", "Copy the YAML", type="button", data_copy=name, aria_describedby=f"{name}-state"),
        element("span", id=f"{name}-state", role="status", class_="state"),
        element("details", element("summary", "Scenario as YAML"), element("pre", element("code", text, id=name),
                tabindex="0", aria_label="scenario as YAML")),
        paragraph(f"Simulated as {timing['events']:,.0f} events for "
                  f"{shown.result.summary['batch']['steps']:,} engine steps.", class_="said")
        if "events" in timing else None,
    )  # fmt: skip
