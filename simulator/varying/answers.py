"""The answer to a what-if in words: which resource should grow first, and whether a setting changes that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwspecs.units import format_quantity
from simulator.headline import metric
from simulator.printing import percent
from simulator.varying.paths import words
from simulator.varying.whatif import AS_GIVEN, Answer, Row, WhatIf

SMALL = 0.02
"""Gain below which a resource is not worth a word."""


MOST_METRICS = 3
"""Metrics that the words speak of."""


@dataclass(frozen=True)
class Gain:
    """By how many percent a metric gets better for one percent more of a resource (less, of a time), and how sure."""

    title: str
    time: bool
    value: float
    uncertainty: float

    @property
    def name(self) -> str:
        """`HBM bandwidth`, `less launch overhead`."""
        return f"less {self.title}" if self.time else self.title

    def about(self) -> str:
        """`1.01 % ± 0.09`."""
        off = f" ± {self.uncertainty:.2f}" if self.uncertainty >= 0.005 else ""
        return f"{self.value:.2f} %{off}"


def gains(answer: Answer, key: str) -> list[Gain]:
    """Those of all resources whose elasticity is known, the largest first."""
    sign = -1.0 if metric(key).better == "lower" else 1.0
    found = []
    for r in answer.resources:
        e = (answer.table or {}).get(r.key, {}).get(key)
        if e is not None and e.value is not None:
            found.append(Gain(r.title, r.time, (-sign if r.time else sign) * e.value, e.off))
    return sorted(found, key=lambda gain: -gain.value)


def sentences(found: WhatIf) -> list[str]:
    """The answer, a sentence each."""
    said: list[str] = []
    first = found.answers[0]
    keys = list(distinct(found)) or list(found.metrics)
    for answer in found.answers:
        if answer.table:
            said += _first(answer, keys[0], found.answers)
            said += [text for key in keys[1:MOST_METRICS] if (text := _also(answer, key))]
    for answer in found.answers[1:]:
        said += _compared(first, answer, keys[0])
    for answer in found.answers:
        if answer.rows:
            said += _best(answer, keys[: MOST_METRICS + 1], named=len(found.answers) > 1)
    return said


def captions(found: WhatIf) -> list[str]:
    """What a picture says beneath its title: a sentence for each setting."""
    key = next(iter(distinct(found)), found.metrics[0])
    said: list[str] = []
    for answer in found.answers:
        if answer.rows:
            said += _best(answer, [key], named=len(found.answers) > 1)
        elif answer.table:
            said += _first(answer, key, found.answers)
    return said


def _also(answer: Answer, key: str) -> str:
    """What counts for a further metric."""
    ranked = [gain for group in leader(answer, key) for gain in group][:3]
    return f"For the {metric(key).title}: " + ", ".join(f"{g.name} {g.about()}" for g in ranked) + "." if ranked else ""


def leader(answer: Answer, key: str) -> tuple[list[Gain], list[Gain]]:
    """The resources that should grow first, more than one where the uncertainties do not tell them apart, and the
    others that are worth a word.
    """
    ranked = [gain for gain in gains(answer, key) if gain.value >= max(SMALL, gain.uncertainty)]
    if not ranked:
        return [], []
    top = ranked[0]
    alike = [g for g in ranked if g is top or top.value - top.uncertainty <= g.value + g.uncertainty]
    return alike, [g for g in ranked if g not in alike]


def _first(answer: Answer, key: str, answers: Sequence[Answer]) -> list[str]:
    first, rest = leader(answer, key)
    named = f"With {answer.name}" if answer is not answers[0] else "As given" if len(answers) > 1 else ""
    what = metric(key)
    if not first:
        text = f"no resource of the GPU gains {100 * SMALL:.0f} % of its own growth in {what.title}"
        return [f"{named}, {text}." if named else f"{text[0].upper()}{text[1:]}."]
    verb = "should shrink first" if first[0].time else "should grow first"
    names = " or ".join(gain.title for gain in first)
    if len(first) > 1:
        verb = "should change first, which one is not told apart"
    better = "takes" if what.better == "lower" else "adds"
    goes = "off" if what.better == "lower" else "to"
    figures = " or ".join(gain.about() for gain in first)
    more = "less" if first[0].time else "more"
    text = f"{names} {verb}: 1 % {more} of it {better} {figures} {goes} the {what.title}"
    if rest:
        text += "; then " + ", ".join(f"{gain.name} {gain.about()}" for gain in rest[:4])
    return [f"{named}, {text}." if named else f"{text}."]


def _compared(first: Answer, other: Answer, key: str) -> list[str]:
    """One setting beside the scenario as given."""
    if other.base.error is not None:
        return [f"{other.name} cannot be served: {other.base.error}."]
    before, after = first.base.metrics.get(key), other.base.metrics.get(key)
    if not before or after is None:
        return []
    said = [f"With {other.name} the {metric(key).title} is {after / before:.3g} of what it is as given"]
    if first.table and other.table:
        one, two = ({gain.title for gain in leader(a, key)[0]} for a in (first, other))
        if one == two:
            said.append("the same resource should change first")
        elif one & two:
            said.append("which resource should change first is not told apart from before")
        else:
            said.append("and it changes which resource should change first")
        said += _changes(first, other, key)
    return ["; ".join(said) + "."]


def _changes(first: Answer, other: Answer, key: str) -> list[str]:
    """Resources that count more, and less, than in the scenario as given, by more than the uncertainties."""
    before, words = {gain.title: gain for gain in gains(first, key)}, []
    after = gains(other, key)
    for name, sign in (("more", 1.0), ("less", -1.0)):
        moved = [
            f"{now.title} ({now.value:.2f} against {was.value:.2f})"
            for now in after
            if (was := before.get(now.title)) is not None
            and sign * (now.value - was.value) > max(SMALL, now.uncertainty + was.uncertainty)
        ]
        if moved:
            words.append(f"{', '.join(moved)} count{'s' if len(moved) == 1 else ''} {name}")
    return words


def _best(answer: Answer, keys: Sequence[str], *, named: bool) -> list[str]:
    """Where the first metric is best, and where others are."""
    best = {key: row for key in keys if (row := _best_row(answer, key)) is not None}
    if not best:
        return [f"{answer.name}: no point can be served."]
    key, row = next(iter(best.items()))
    value, before = float(row.point.metrics[key] or 0.0), answer.base.metrics.get(key)
    ratio = f", {value / before:.3g} of the base's" if before else ""
    start = f"With {answer.name if answer.name != AS_GIVEN else 'the scenario as given'}, the" if named else "The"
    text = f"{start} {metric(key).title} is best at {place(row)}: {shown(key, value)}{ratio}"
    others: dict[str, list[str]] = {}
    for other in list(best)[1:]:
        others.setdefault(place(best[other]), []).append(f"the {metric(other).title}")
    text += "".join(f"; {' and '.join(titles)} at {where}" for where, titles in others.items()) + "."
    lost = sum(row.point.error is not None for row in answer.rows)
    return [text + (f" {lost} of {len(answer.rows)} points cannot be served." if lost else "")]


def _best_row(answer: Answer, key: str) -> Row | None:
    known = [(float(v), row) for row in answer.rows if (v := row.point.metrics.get(key)) is not None]
    if not known:
        return None
    pick = min if metric(key).better == "lower" else max
    return pick(known, key=lambda pair: pair[0])[1]


def distinct(found: WhatIf) -> dict[str, str]:
    """The metrics that tell something apart, and their titles: one that moves exactly as an earlier one does (a price
    as the time) shares its entry.
    """
    kept: dict[str, list[str]] = {}
    served = [answer for answer in found.answers if answer.base.error is None]
    for key in found.metrics:
        if not any(answer.base.metrics.get(key) is not None for answer in served):
            continue
        same = next((k for k in kept if all(_alike(answer, key, k) for answer in served)), None)
        kept.setdefault(same or key, []).append(metric(key).title)
    return {key: " and ".join(titles) for key, titles in kept.items()}


def _alike(answer: Answer, one: str, two: str) -> bool:
    """Whether two metrics keep their ratio in all that was found of a setting."""
    for cells in (answer.table or {}).values():
        a, b = cells[one].value, cells[two].value
        if a is None or b is None or abs(a - b) > 1e-9:
            return False
    values = [(p.metrics.get(one), p.metrics.get(two)) for p in (answer.base, *(row.point for row in answer.rows))]
    ratios = [a / b for a, b in values if a and b]
    return bool(ratios) and max(ratios) - min(ratios) < 1e-9 * max(ratios)


def place(row: Row) -> str:
    """`gpu.memory.bandwidth 9.6 TB/s, engine.max_num_seqs 64`."""
    return ", ".join(f"{path} {value_words(value)}" for path, value in row.values.items())


def value_words(value: object) -> str:
    """A varied value; of fields that vary together the first one's."""
    if isinstance(value, dict) and all("." in str(key) for key in value) and value:
        return words(next(iter(value.values())))
    return words(value)


def shown(key: str, value: float | None) -> str:
    """A metric's value with its unit."""
    from simulator.printing import duration

    what = metric(key)
    if value is None:
        return "-"
    if what.unit == "s":
        return duration(value)
    if what.unit == "" and what.key in ("mfu", "mbu", "goodput_share", "kv_peak_use"):
        return percent(value)
    if what.unit == "USD":
        return f"{value:,.2f} USD" if value >= 0.1 else f"{value:.3g} USD"
    if what.unit == "J":
        return energy(value)
    if what.unit in ("h", "1/s", ""):
        return f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"
    return format_quantity(value, what.unit)


def energy(joules: float) -> str:
    """In J, or from 0.1 kWh on in kWh."""
    return f"{joules / 3.6e6:,.3g} kWh" if joules >= 3.6e5 else format_quantity(joules, "J")
