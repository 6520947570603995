"""Objectives as users write them: `ttft.p99<=2s`, `goodput(ttft<=2s, tpot<=40ms)>=0.95`, `first_accepted.p90<=60s`.

Reads and checks them; what a run reaches of them is `judge`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hwspecs.errors import InputError, near_matches
from hwspecs.units import parse_quantity
from simulator.planning.model import Objective

OPTION = "--slo"
NAMES = {
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "itl": "itl_s",
    "e2e": "e2e_s",
    "first_accepted": "first_accepted_s",
    "goodput": "goodput_share",
    "time": "makespan_s",
}
"""What users write -> the metric's name in `simulator.headline`, which is taken as well."""
LIMITED = ("ttft", "tpot", "e2e")
"""What a single request can be held to, by goodput."""
EXAMPLES = "'ttft.p99<=2s', 'tpot.mean<=40ms', 'goodput>=0.95', 'first_accepted.p90<=60s', 'time<=1h'"
_FORM = re.compile(r"\s*(?P<name>[A-Za-z_0-9]+)\s*(?:\.\s*(?P<statistic>[A-Za-z]+[0-9.]*))?\s*"
                   r"(?:\((?P<limits>[^()]*)\))?\s*(?P<sign><=|>=|≤|≥|=<|=>|==|=|<|>)\s*(?P<limit>.*?)\s*")  # fmt: skip
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,4})?)")
_STATISTICS = "mean, max, or a percentile such as p50, p99, p99.9"


@dataclass(frozen=True)
class Objectives:
    """What is asked of a deployment.

    Attributes
    ----------
    each : the objectives, in the order given. limits : seconds by `ttft`, `tpot` and `e2e` that a request has to keep
        in order to count as goodput; empty where they are the scenario's or not needed.
    """

    each: tuple[Objective, ...]
    limits: Mapping[str, float]


def parse(texts: Iterable[str]) -> Objectives:
    """Read the values of `--slo`, one or several objectives in each, separated by commas or semicolons.

    Raises
    ------
    InputError : not an objective, an unknown metric or statistic, a limit of another unit, out of range or infinite;
        the same metric limited twice; goodput with two sets of limits; none at all.
    """
    found: dict[str, tuple[Objective, str]] = {}
    limits: dict[str, float] = {}
    for text in (part for whole in texts for part in _parts(whole)):
        objective, said = _objective(text)
        if objective.key in found:
            raise InputError(
                f"{short(objective)} is limited twice, also by {found[objective.key][1]!r}",
                file=OPTION, found=text, allowed="one limit for each metric and statistic",
            )  # fmt: skip
        if said and limits and said != limits:
            raise InputError(
                "goodput with other limits than before", file=OPTION, found=text, allowed="one set of limits"
            )
        found[objective.key] = objective, text
        limits = said or limits
    if not found:
        raise InputError("no objective", file=OPTION, allowed=f"at least one, such as {EXAMPLES}")
    return Objectives(tuple(objective for objective, _ in found.values()), limits)


def short(objective: Objective) -> str:
    """The name users write: `ttft.p99`."""
    names = {metric: name for name, metric in NAMES.items()}
    name = names.get(objective.metric, "goodput")
    return f"{name}.{objective.statistic}" if objective.statistic else name


def _parts(text: str) -> list[str]:
    """Split at commas and semicolons outside of brackets."""
    parts = re.split(r"[;,](?![^(]*\))", text)
    if not all(part.strip() for part in parts):
        raise InputError("an empty objective", file=OPTION, found=text, allowed=EXAMPLES)
    return [part.strip() for part in parts]


def _objective(text: str) -> tuple[Objective, dict[str, float]]:
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError("not an objective", file=OPTION, found=text, allowed=f"METRIC.STATISTIC<=LIMIT: {EXAMPLES}")
    metric = _metric(match["name"], text)
    statistic = _statistic(metric, match["statistic"], text)
    limits = _limits(match["limits"], metric, text)
    sign = {"≤": "<=", "≥": ">="}.get(match["sign"], match["sign"])
    wanted = ">=" if metric.startswith("goodput") else "<="
    if sign != wanted:
        why = "more of it is better" if wanted == ">=" else "less of it is better"
        raise InputError(f"{match['name']} is limited by {wanted}: {why}", file=OPTION, found=text, allowed=wanted)
    if metric == "goodput_share" and match["limit"].endswith(("/s", "/min", "/h")):
        metric = "goodput_per_s"
    return Objective(metric, statistic, _limit(metric, match["limit"], text)), limits


def _metric(name: str, text: str) -> str:
    known = {**NAMES, **{metric: metric for metric in NAMES.values()}, "goodput_per_s": "goodput_per_s"}
    if name not in known:
        raise InputError(
            f"no objective can be set on {name}", file=OPTION, found=text, allowed=near_matches(name, NAMES)
        )
    return known[name]


def _statistic(metric: str, said: str | None, text: str) -> str:
    if metric.startswith("goodput") or metric == "makespan_s":
        if said is not None:
            name = "goodput" if metric.startswith("goodput") else "time"
            raise InputError(f"{name} is one number of a run: it has no {said}", file=OPTION, found=text, allowed=name)
        return ""
    if said is None:
        raise InputError("which statistic of the requests is limited", file=OPTION, found=text, allowed=_STATISTICS)
    percentile = _PERCENTILE.fullmatch(said)
    if percentile and 0 < float(percentile[1]) < 100:
        return f"p{float(percentile[1]):g}"
    if said not in ("mean", "max"):
        raise InputError("unknown statistic", file=OPTION, found=said, allowed=_STATISTICS)
    return said


def _limits(said: str | None, metric: str, text: str) -> dict[str, float]:
    """The limits of a request in the brackets of goodput."""
    if said is None:
        return {}
    if not metric.startswith("goodput"):
        raise InputError("only goodput has limits in brackets", file=OPTION, found=text, allowed=EXAMPLES)
    limits: dict[str, float] = {}
    for part in said.split(","):
        match = re.fullmatch(r"\s*([a-z0-9_]+)\s*(?:<=|≤)\s*(.*?)\s*", part)
        if match is None or match[1] not in LIMITED or match[1] in limits:
            allowed = "goodput(ttft<=2s, tpot<=40ms, e2e<=60s)>=0.95, each at most once"
            raise InputError("not a limit of a request", file=OPTION, found=part.strip(), allowed=allowed)
        limits[match[1]] = _seconds(match[2], text)
    return limits


def _limit(metric: str, said: str, text: str) -> float:
    if metric == "goodput_share":
        return _share(said, text)
    if metric == "goodput_per_s":
        return _positive(said, "1/s", text)
    return _seconds(said, text)


def _share(said: str, text: str) -> float:
    number, percent = (said[:-1], 100.0) if said.endswith("%") else (said, 1.0)
    allowed = "a share of the requests such as 0.95 or 95 %, or a rate such as 8 /s"
    try:
        value = float(number) / percent
    except ValueError:
        raise InputError("not a share", file=OPTION, found=text, allowed=allowed) from None
    if not 0 < value <= 1:
        raise InputError("no share of the requests", file=OPTION, found=text, allowed=allowed)
    return value


def _seconds(said: str, text: str) -> float:
    if re.fullmatch(r"[\d.eE+_-]+", said.strip()):
        raise InputError("a unit is missing", file=OPTION, found=text, allowed="a time such as 2s, 40ms, 5min")
    return _positive(said, "seconds", text)


def _positive(said: str, dimension: str, text: str) -> float:
    try:
        value = parse_quantity(said, dimension)
    except InputError as error:
        raise InputError(error.problem, file=OPTION, found=text, allowed=error.allowed) from None
    if value <= 0:
        raise InputError("a limit has to be above 0", file=OPTION, found=text, allowed=EXAMPLES)
    return value
