"""The parts of the page that follow the controls, drawn as HTML and SVG from the document of `answer`.

Every figure has its numbers in words or in a table beside it; no colour says anything that a word does not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwspecs.units import format_quantity
from simulator.exploring.elastic import RESOURCES
from simulator.exploring.roofs import roofline
from simulator.printing import duration, percent
from simulator.reporting.markup import Markup, element, join
from simulator.resultwords import BOUND_TEXT, MEMORY_TEXT

SHORT = {"memory": "HBM", "compute": "tensor", "l2": "L2", "link": "link", "overhead": "launch", "host": "host"}
"""Bounds in tables; above them they are in full."""
SMALL = 0.004
"""Operators with a smaller share of the step are summed up in one row."""
Document = dict[str, Any]


def panels(doc: Document, elastic: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """The panels by the id of the element that they fill."""
    return {
        "headline": headline(doc),
        "roofline": roofline(doc),
        "steps": join(step(doc, name) for name in ("decode", "prefill")),
        "capacity": capacity(doc),
        "law": law(doc),
        "elastic": elastic_panel(elastic),
        "basis": basis(doc),
    }


def headline(doc: Document) -> Markup:
    """The numbers that most moves are made for."""
    cost, held, decode = doc["cost"], doc["capacity"], doc["decode"]
    spread = decode["interval"] and [cost["tpot_s"] * end / decode["seconds"] for end in decode["interval"]]
    price = cost["usd_per_million_output_tokens"]
    fits = min(held["sequences"], held["most_sequences"])
    tiles = element(
        "dl",
        _tile("TPOT", duration(cost["tpot_s"]), _range(spread)),
        _tile("tokens/s per GPU", f"{cost['output_tokens_per_s_per_gpu']:,.0f}",
              f"{cost['output_tokens_per_s']:,.0f} of {_many(doc['scenario']['gpus'], 'GPU')}"),
        _tile("per million tokens", "no price" if price is None else f"{price:,.3g} USD",
              None if price is None else f"at {cost['usd_per_hour']:g} USD per GPU-hour"),
        _tile("energy per token", f"{cost['joules_per_output_token']:.3g} J",
              f"{cost['watts_per_gpu']:,.0f} W per GPU"),
        _tile("sequences that fit", f"{fits:,}", f"at {doc['scenario']['context']:,} tokens each"),
        _tile("over Kinetics law", f"{doc['law']['ratio']:,.2f} x", "GPU-seconds of a token"),
        class_="cards",
    )  # fmt: skip
    return join([tiles, element("p", f"Kernel times: {statuses(doc)}", class_="said")])


def statuses(doc: Document) -> str:
    """What the decode step's time rests on, in a line: shares that were measured so, carried there, or assumed."""
    shares: dict[str, float] = {}
    for kernel in doc["decode"]["kernels"]:
        shares[kernel["status"]] = shares.get(kernel["status"], 0.0) + kernel["share"]
    if not shares:
        return f"{doc['profile']['name']}, fitted on {doc['profile']['fitted_on']}"
    found = sorted(shares.items(), key=lambda item: -item[1])
    return f"{doc['profile']['name']}; decode step {', '.join(f'{name} {percent(share)}' for name, share in found)}"


def _tile(title: str, value: str, more: str | None) -> Markup:
    return element("div", element("dt", title), element("dd", value, more and element("small", more)))


def _range(ends: Sequence[float] | None) -> str:
    """An 80 % interval in words."""
    if ends is None:
        return "no error interval is known"
    return f"80 % interval {duration(ends[0])} to {duration(ends[1])}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


# ---- where the time of a step goes -----------------------------------------------------------------------------------


def step(doc: Document, name: str) -> Markup:
    """A step: its time, by bound, and by operator."""
    found, said = doc[name], doc["scenario"]
    if name == "decode":
        words = f"{_many(said['batch'], 'sequence')} of {said['context']:,} tokens"
    else:
        words = f"a prompt of {said['prompt']:,} tokens"
        if said["chunk"] < said["prompt"]:
            words = f"the first {said['chunk']:,} tokens of {words}"
    rows = [row for row in found["operators"] if row["share"] >= SMALL]
    rest = [row for row in found["operators"] if row["share"] < SMALL]
    lines = [(row["name"], row["seconds"], row["bound"], percent(row["of_roof"])) for row in rows]
    if found["host"] > 0:
        lines.append(("host and gaps", found["host"], "host", ""))
    if rest:
        lines.append((f"{len(rest)} smaller operators", sum(row["seconds"] for row in rest), "", ""))
    longest = max(seconds for _, seconds, _, _ in lines)
    bounds = found["seconds_by_bound"]
    stacked = [(f"b-{bound}", part / found["seconds"]) for bound, part in bounds.items()]
    shares = ", ".join(f"{BOUND_TEXT[bound]} {percent(part / found['seconds'])}" for bound, part in bounds.items())
    return element(
        "section",
        element("h3", f"{name.capitalize()} step: ", element("b", duration(found["seconds"]))),
        element("p", f"{words}; {_range(found['interval'])}", class_="said"),
        _stack(stacked),
        element("p", f"Bound by {shares}", class_="said legend"),
        element(
            "table",
            element("thead", element("tr", *(element("th", title, scope="col", class_=kind) for title, kind in (
                ("operator", None), ("share", "n"), ("", "bar"), ("time", "n"), ("bound", None),
                ("of roof", "n"))))),
            element("tbody", (
                element(
                    "tr",
                    element("th", label, scope="row"),
                    element("td", percent(seconds / found["seconds"]), class_="n"),
                    element("td", _bar(seconds / longest, f"b-{bound}" if bound else "b-rest"), class_="bar"),
                    element("td", duration(seconds), class_="n"),
                    element("td", SHORT.get(bound, ""), class_="soft"),
                    element("td", roof, class_="n soft"),
                )
                for label, seconds, bound, roof in lines
            )),
        ),
        class_="step",
    )  # fmt: skip


def _bar(share: float, kind: str) -> Markup:
    return element("i", class_=f"bar {kind}", style=f"width:{100 * share:.2f}%", aria_hidden="true")


def _stack(parts: Sequence[tuple[str, float]]) -> Markup:
    """A bar of parts, which the text beside it names."""
    return element(
        "div", (element("i", class_=kind, style=f"flex-grow:{share:.5f}") for kind, share in parts if share > 0),
        class_="stack", aria_hidden="true",
    )  # fmt: skip


# ---- capacity, law, elasticities, what it rests on -------------------------------------------------------------------


def capacity(doc: Document) -> Markup:
    """Where the memory of a GPU goes, and how many sequences fit."""
    held, said = doc["capacity"], doc["scenario"]
    whole = held["capacity"]
    parts = [(name, size) for name, size in held["memory"].items() if size > 0]
    fits, most = held["sequences"], held["most_sequences"]
    notes = [f"{held['kv_tokens']:,} tokens of KV, {format_quantity(held['kv_bytes_per_token'], 'B')} each on a GPU: "
             f"{_many(fits, 'sequence')} of {said['context']:,} tokens"]  # fmt: skip
    if said["samples"] > 1:
        notes.append(f"{held['sequences_sharing_prompts']:,} where {said['samples']} samples share a prompt of "
                     f"{said['prompt']:,} tokens")  # fmt: skip
    notes.append(f"the engine holds at most {most:,}")
    warning = None
    if said["batch"] > fits:
        text = (
            f"The batch of {said['batch']:,} does not fit at this context: an engine would hold {fits:,} and preempt."
        )
        warning = element("p", text, class_="warning")
    return join([
        _stack([(f"m-{name}", size / whole) for name, size in parts]),
        element("ul", (
            element("li", element("i", class_=f"key m-{name}", aria_hidden="true"), f"{MEMORY_TEXT[name]} ",
                    element("b", format_quantity(size, "B")), f" {percent(size / whole)}")
            for name, size in parts), class_="legend"),
        element("p", "; ".join(notes), class_="said"),
        warning,
    ])  # fmt: skip


def law(doc: Document) -> Markup:
    """GPU-seconds of an output token, by the law and simulated."""
    found, said = doc["law"], doc["scenario"]
    lines = (
        ("Kinetics law", found["law_s"]),
        ("with weights read in every step", found["law_batch_s"]),
        ("simulated step", found["simulated_s"]),
    )
    longest = max(value for _, value in lines)
    problem, price = found["problem_tokens"], doc["cost"]["usd_per_hour"]
    rows = [
        element(
            "tr",
            element("th", label, scope="row"),
            element("td", format_quantity(value * 1e3, "s"), class_="n"),
            element("td", _bar(value / longest, "b-accent"), class_="bar"),
            element("td", f"{value / found['law_s']:,.2f} x", class_="n soft"),
            element(
                "td",
                duration(value * problem),
                None if price is None else element("small", f"{value * problem / 3600 * price:,.3g} USD"),
                class_="n",
            ),
        )
        for label, value in lines
    ]
    heads = (("", None), ("1,000 tokens", "n"), ("", "bar"), ("", "n"), ("a problem", "n"))
    shares = {name.replace("_", "'s "): percent(share) for name, share in found["shares"].items() if share}
    words = (
        f"A problem: {_many(said['samples'], 'sample')} of {found['output_tokens']:,} tokens, such that",
        f"{said['context']:,} is the mean context. The law's batch has no end, so its weights cost nothing to read;",
        f"its cost is {', '.join(f'{name} {share}' for name, share in shares.items())}.",
    )
    return join([
        element("table", element("caption", "GPU-seconds of"),
                element("thead", element("tr", *(element("th", t, scope="col", class_=k) for t, k in heads))),
                element("tbody", rows)),
        element("p", " ".join(words), class_="said"),
    ])  # fmt: skip


def elastic_panel(elastic: dict[str, list[dict[str, Any]]]) -> Markup:
    """By how many per cent a step's time changes for one per cent more of a resource."""
    values = {name: {one["key"]: one["value"] for one in found} for name, found in elastic.items()}
    rough = {name: {one["key"]: one["uncertainty"] for one in found} for name, found in elastic.items()}
    rows = []
    for key, title in RESOURCES.items():
        cells = []
        for name in ("decode", "prefill"):
            value, off = values[name].get(key), rough[name].get(key)
            kind = "b-slower" if value is not None and value > 0 else "b-accent"
            if value is not None and off is not None and abs(value) <= off:
                kind = "b-rest"  # it may be of either sign
            cells += [
                element("td", "…" if value is None else _signed(value), _spread(off), class_="n"),
                element("td", None if value is None else _bar(min(abs(value), 1.0), kind), class_="bar"),
            ]
        rows.append(element("tr", element("th", title, scope="row"), *cells))
    heads = [element("th", "resource", scope="col")]
    for name in ("decode", "prefill"):
        heads += [element("th", name, scope="col", class_="n"), element("th", class_="bar")]
    return join([
        element("table", element("thead", element("tr", *heads)), element("tbody", rows)),
        element("p", "−0.9: with one per cent more of it the step takes 0.9 per cent less time. Each alone: more SMs "
                "bring neither FLOP/s nor L2 bandwidth. Launch overhead and host are times.", class_="said"),
        element("p", "SMs and L2 size enter learned corrections of kernel times, which move in steps: their values are "
                "means over 10 per cent up and down, and ± is how far those over 5 and 20 per cent are from them; with "
                "a grey bar the sign is not known.", class_="said"),
    ])  # fmt: skip


def _signed(value: float) -> str:
    text = f"{value:+.3f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def _spread(off: float | None) -> Markup | None:
    return None if off is None else element("small", f"± {off:.3f}")


def basis(doc: Document) -> Markup:
    """What the times rest on."""
    profile = doc["profile"]
    rows = []
    for name in ("decode", "prefill"):
        for kernel in doc[name]["kernels"]:
            if kernel["share"] < SMALL:
                continue
            off = "" if kernel["mape"] is None else percent(kernel["mape"])
            rows.append(element(
                "tr", element("td", name), element("th", kernel["kind"], scope="row"), element("td", kernel["format"]),
                element("td", " ".join(filter(None, (kernel["kernel"], kernel["profile"])))),
                element("td", kernel["status"]), element("td", percent(kernel["share"]), class_="n"),
                element("td", off, class_="n"),
            ))  # fmt: skip
    if not rows:
        words = f"Profile {profile['name']}, fitted on {profile['fitted_on']}: no error is known."
        return element("p", words, class_="said")
    heads = ("step", "kernels", "format", "measured as", "status", "share", "error")
    return join([
        element("p", f"Profile {profile['name']}. The intervals are from the kernels' held-out errors.", class_="said"),
        element("table", element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
                element("tbody", rows)),
    ])  # fmt: skip
