"""Co-design: the GPU that makes a scenario cheapest under budgets of area, power or money, by full simulations.

Each setting of what runs on it (the scenario's own, and others such as sparse attention) gets the GPU that is best for
it, and every setting is simulated on every one of these GPUs: what it costs to have built for another one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError
from hwspecs.gpu import list_gpus
from simulator.headline import Metric, metric
from simulator.notebook import answer_html, answer_text
from simulator.varying.breakeven import check_setting, settings_of
from simulator.varying.budget import Budget, read_budget
from simulator.varying.descent import GAIN, LADDER, MOST, Flat, Search, Slope, descend, neighbours, optimise, transfer
from simulator.varying.designs import Space
from simulator.varying.lagrange import multipliers, returns_of
from simulator.varying.paths import split_assignment
from simulator.varying.points import Point, Progress, Spec, plain_spec
from simulator.varying.runner import Runner
from simulator.varying.target import missing
from workloads.scenario import LoadedScenario, load_scenario

if TYPE_CHECKING:
    import pandas as pd

DEFAULTS = ("usd_per_solved", "gpu_seconds_per_solved", "usd_per_million_output_tokens", "makespan_s")
"""What is optimised if nothing is said: the first of them that the scenario has."""
SEEDS = 2
"""Further draws of the load that the designs are held against: what is best for one draw may be luck."""
AFTERWARDS = 0.2
"""Trust region of a search that goes on from a better neighbour."""


@dataclass(frozen=True)
class Measured:
    """A metric as simulated, with the ends of its 80 % interval; all None where it cannot be served, and `error` says
    why.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Optimum:
    """The best GPU for one setting.

    Attributes
    ----------
    label, sets : the setting. x : the design (`designs.Space`). slope : d log(metric) / d log of each free resource,
        with what the price of a GPU-hour adds where it counts. worth : by budget, how many times a share of it that is
        added the metric improves by (Lagrange's multipliers, fitted to the resources off bounds and steps).
    returns : of each free resource what a share of the budgets, spent on it, brings: at the best design the same for
        all resources off bounds and steps. stepped : at a step, where less costs much and more brings little: `losses`
        and `gains` are the returns to each side. flat : how far each can be moved.
    simulated, rejected : designs. reasons : why designs could not be served.
    """

    label: str
    sets: tuple[str, ...]
    x: np.ndarray
    slope: np.ndarray
    worth: Mapping[str, float]
    returns: tuple[float | None, ...]
    losses: tuple[float | None, ...]
    gains: tuple[float | None, ...]
    stepped: tuple[bool, ...]
    flat: tuple[Flat, ...]
    simulated: int
    rejected: int
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class CoDesign:
    """What to build. optima : by setting. measured : by GPU (`base`, then one a setting, in their order) the metric of
    every setting. reseeded : the same by further seeds, without intervals; empty where nothing is drawn. runs :
    simulations.
    """

    scenario: str
    gpu: str
    budget: Budget
    space: Space
    metric: Metric
    optima: tuple[Optimum, ...]
    measured: tuple[tuple[Measured, ...], ...]
    reseeded: Mapping[int, tuple[tuple[Measured, ...], ...]]
    gpu_files: tuple[Mapping[str, Any], ...]
    runs: int
    seconds: float

    def document(self) -> dict[str, Any]:
        """As plain data: `kinesim-whatif/1` with the part `co_design`."""
        from simulator.varying.codesigndoc import document

        return document(self)

    def frame(self) -> pd.DataFrame:
        """One row a GPU and resource: gpu, resource, unit, value, ratio (to the scenario's GPU), share and slope."""
        from simulator.varying.codesigndoc import frame

        return frame(self)

    def _sentences(self) -> list[str]:
        from simulator.varying.codesigndoc import sentences

        return sentences(self)

    def __repr__(self) -> str:
        """The answer's sentences."""
        return answer_text(f"CoDesign {self.scenario}", self._sentences())

    def _repr_html_(self) -> str:
        """The same, and the GPUs as a table."""
        title = f"Co-design: {self.scenario}, from {self.gpu}, within: {self.budget.title}"
        return answer_html(title, self._sentences(), self.frame(), ("gpu", "title", "value", "unit", "ratio"))


def codesign(
    spec: Spec,
    budget: str | Path | Mapping[str, Any] | Budget,
    *,
    minimise: str | None = None,
    sets: Sequence[str] = (),
    against: Sequence[str | Sequence[str]] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
) -> CoDesign:
    """The GPUs that make a metric of a scenario best within a budget.

    Parameters
    ----------
    spec, sets : the scenario and assignments to it; its GPU is the base. budget : as `read_budget` takes it.
    minimise : the metric (one of which more is better is maximised); the first of DEFAULTS that there is, if left out.
    against : other settings, each an assignment or several, which get a GPU of their own.

    Raises
    ------
    InputError : a bad budget (`read_budget`), one that is too small, a metric that the scenario does not have, a
        setting that changes the GPU, or no design that can be served.
    """
    started = time.perf_counter()
    read = budget if isinstance(budget, Budget) else read_budget(budget)
    base = load_scenario(plain_spec(spec), sets)
    space = _space(base, read)
    settings = settings_of(base, against)
    for _, own in settings:
        _check_setting(own)
        check_setting(spec, sets, own, "--against")
    free, count = len(space.free), len(settings)
    expected = count * (1 + free + 5 * (2 * free + 1) + 5 * free) + 3 * count * (count + 1)
    with Runner(spec, sets, jobs, progress, expected) as runner:
        which = _metric(runner, base, minimise, space)
        asked = [_Asked(runner, space, label, own, which) for label, own in settings]
        searches: list[Search] = []
        flats: list[list[Flat]] = []
        for one in asked:
            search = optimise(space, one.evaluate, _priced(which), [s.best[0] for s in searches])
            if not any(space.fits(x) for x, _ in search.known):
                reason = one.reasons.most_common(1)[0][0] if one.reasons else "the metric has no value"
                problem = f"no design of the budget can be served ({one.label}): {reason}"
                raise InputError(problem, file="--budget", found=read.origin, allowed="a larger total, or other bounds")
            searches.append(search)
            flats.append(_settle(search))
        for search, one in zip(searches, asked, strict=True):  # a GPU built for another setting may be better here
            before = search.best[1]
            search.ask([other.best[0] for other in searches if other is not search])
            if search.best[1] < before - GAIN:
                descend(search, AFTERWARDS)
                flats[asked.index(one)] = _settle(search)
        optima = tuple(
            _optimum(search, one, flat) for search, one, flat in zip(searches, asked, flats, strict=True)
        )  # fmt: skip
        built = space.price_sets(np.zeros(len(space.free)))  # the scenario's GPU, at what it would cost here
        gpus = [built, *(space.sets(o.x) for o in optima)]
        points = runner.points([(*own, *gpu) for gpu in gpus for _, own in settings], intervals=True)
        table = _table(points, which, count)
        reseeded = {}
        for seed in range(base.config.seed + 1, base.config.seed + 1 + SEEDS):
            asked_again = [(f"seed={seed}", *own, *gpu) for gpu in gpus for _, own in settings]
            again = _table(runner.points(asked_again), which, count)
            if [m.value for row in again for m in row] != [m.value for row in table for m in row]:
                reseeded[seed] = again
    files = tuple(_gpu_file(spec, sets, space, o) for o in optima)
    seconds = time.perf_counter() - started
    return CoDesign(
        base.config.name, base.gpu.title, read, space, which, optima, table, reseeded, files, runner.runs, seconds
    )  # fmt: skip


class _Asked:
    """Designs of one setting, as `descent` asks for them. reasons : why some could not be served."""

    def __init__(self, runner: Runner, space: Space, label: str, sets: tuple[str, ...], which: Metric) -> None:
        self.runner, self.space, self.label, self.sets, self.which = runner, space, label, sets, which
        self.reasons: Counter[str] = Counter()

    def evaluate(self, designs: Sequence[np.ndarray]) -> list[float | None]:
        points = self.runner.points([(*self.sets, *self.space.sets(x)) for x in designs])
        self.reasons.update(point.error for point in points if point.error is not None)
        values = [None if point.error else point.metrics[self.which.key] for point in points]
        if self.which.better == "lower":
            return values
        return [1.0 / v if v else None for v in values]


def _space(base: LoadedScenario, budget: Budget) -> Space:
    if base.pools is not None and any(pool.gpu != base.gpu for pool in base.pools):
        problem = "the prefill and decode workers have GPUs of their own; co-design is of one GPU"
        raise InputError(problem, file=base.origin, place="disaggregation", allowed="pools without a gpu of their own")
    if budget.pricing is not None and budget.pricing.date is None and base.gpu.price is None:
        problem = f"{base.gpu.name} has no price whose date could be taken"
        raise budget.error(problem, "price.date", allowed="when prices are of, such as 2026-05")
    return Space(base.gpu, budget)


def _check_setting(own: Sequence[str]) -> None:
    for text in own:
        path, _ = split_assignment(text, "--against")
        if path.split(".")[0] == "gpu":
            problem = "a setting that changes the GPU, which the budget decides here"
            raise InputError(problem, file="--against", found=text, allowed="a setting of what runs on it, or --set")


def _priced(which: Metric) -> bool:
    return which.unit == "USD"


def _metric(runner: Runner, base: LoadedScenario, minimise: str | None, space: Space) -> Metric:
    """The metric asked for, if the scenario has it; else the first usual one that it has."""
    if minimise is not None:
        try:
            which = metric(minimise)
        except InputError as error:
            raise error.at(file="--minimise") from None
    priced = base.gpu.price is not None or space.budget.pricing is not None
    x = space.spend(np.zeros(len(space.free)))
    point = next(
        (p for p in runner.points([space.sets(x), ()]) if p.error is None), None
    )  # fmt: skip
    if minimise is not None:
        if point is not None and point.metrics[which.key] is None:
            raise missing(which, "--minimise")
        return which
    has = [key for key in DEFAULTS if (priced or not key.startswith("usd"))]
    return metric(next((key for key in has if point is None or point.metrics[key] is not None), has[-1]))


def _settle(search: Search) -> list[Flat]:
    """The neighbours of the best design; from a better one among them the search goes on."""
    for _ in range(3):
        transfer(search)
        before = search.best[1]
        flat = neighbours(search)
        if search.best[1] >= before - GAIN:
            return flat
        descend(search, AFTERWARDS)
    return neighbours(search)


def _optimum(search: Search, one: _Asked, flat: list[Flat]) -> Optimum:
    space = search.space
    x, value = search.best
    known: Slope = search.slope_at(x, value)
    price = space.price_slope(x) if search.model.priced else np.zeros(len(x))
    slope = known.slope + price
    worth, returns = multipliers(space, x, slope, ~known.stepped)
    losses, gains = (returns_of(space, x, side + price, worth) for side in (known.down, known.up))
    return Optimum(
        one.label, one.sets, x, slope, worth, returns, losses, gains,
        tuple(bool(s) for s in known.stepped), tuple(flat), len({x.tobytes() for x, _ in search.known}),
        search.rejected, dict(one.reasons),
    )  # fmt: skip


def _table(points: Sequence[Point], which: Metric, count: int) -> tuple[tuple[Measured, ...], ...]:
    """By GPU the metric of each of `count` settings."""
    measured = [_measured(point, which) for point in points]
    return tuple(tuple(measured[i : i + count]) for i in range(0, len(measured), count))


def _measured(point: Point, which: Metric) -> Measured:
    if point.error is not None:
        return Measured(None, error=point.error)
    ends = point.intervals.get(which.key)
    low, high = ends if ends is not None else (None, None)
    return Measured(point.metrics[which.key], low, high)


def _gpu_file(spec: Spec, sets: Sequence[str], space: Space, optimum: Optimum) -> Mapping[str, Any]:
    """The design as the content of a GPU file: what differs from a bundled GPU, else all of it."""
    if space.gpu.base is None and space.gpu.name in list_gpus():
        return space.gpu_file(optimum.x)
    loaded = load_scenario(plain_spec(spec), (*sets, *space.sets(optimum.x)))
    found: Mapping[str, Any] = loaded.to_dict()["gpu"]
    return found


SEARCHED = (
    f"cutting planes from central differences of full simulations within a trust region, at most {MOST} rounds from "
    "several starts; then parts of the budget moved between resources, and every resource moved up and down by factors "
    f"of {np.exp(LADDER[0]):.2f} to {np.exp(LADDER[-1]):.1f}"
)
