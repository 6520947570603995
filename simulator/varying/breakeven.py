"""Break-even: the value of a field at which a metric reaches a target, or what another setting has of it.

The field is scanned coarsely over its range, so that several crossings are found and a metric that turns round is
seen, and every crossing is then narrowed down on full simulations: as predicted, and with all service times at the fast
and at the slow end of the prediction's interval.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError
from simulator.notebook import answer_html, answer_text
from simulator.varying.crossing import Crossing, Sample, brackets, gap, grid, monotone
from simulator.varying.grid import variant_of
from simulator.varying.notes import merged
from simulator.varying.paths import field_at, ordered, words
from simulator.varying.points import Point, Progress, Spec, plain_spec
from simulator.varying.ranges import Range, parse_range
from simulator.varying.runner import Runner
from simulator.varying.target import Target, missing, parse_target
from workloads.scenario import LoadedScenario, load_scenario

if TYPE_CHECKING:
    import pandas as pd

CURVES = ("predicted", "fast", "slow")
"""As predicted; with all service times at the low, and at the high end of the prediction's interval."""
SCAN = 9
TOLERANCE = 1e-3
MOST_SCANNED = 1000


@dataclass(frozen=True)
class Seen:
    """A simulated value of the field: the metric on each of CURVES (None: unknown), or why it cannot be served."""

    x: float
    values: dict[str, float | None]
    error: str | None = None


@dataclass(frozen=True)
class Case:
    """One setting of what is not varied (the scenario's own, or one of `against`).

    Attributes
    ----------
    label, sets : what it is called, and its assignments. base : the metric there without a change of the field.
    goal : what the target comes to on each of CURVES: as a number, the same for all; of another setting, with that
        one's errors taken the other way, because they are of other kernels.
    scan : in the order of x. crossings : by curve; of a curve that is not known it has no entry.
    turns : whether the metric goes up and down over the scan.
    """

    label: str
    sets: tuple[str, ...]
    base: float | None
    goal: dict[str, float | None]
    scan: tuple[Seen, ...]
    crossings: dict[str, tuple[Crossing, ...]]
    turns: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class BreakEven:
    """Where a field makes a metric reach a target; see `Case`. runs : simulations. seconds : of the search."""

    scenario: str
    range: Range
    target: Target
    like: tuple[str, ...]
    cases: tuple[Case, ...]
    tolerance: float
    runs: int
    seconds: float

    def document(self) -> dict[str, Any]:
        """As plain data: `kinesim-whatif/1` with the part `break_even`."""
        from simulator.varying.breakevendoc import document

        return document(self)

    def frame(self) -> pd.DataFrame:
        """One row a crossing and curve: where it meets and misses the target, and the metric on both sides."""
        from simulator.varying.breakevendoc import frame

        return frame(self)

    def _sentences(self) -> list[str]:
        from simulator.varying.breakevendoc import answers

        return answers(self)

    def __repr__(self) -> str:
        """The answer's sentences: the scan is long."""
        return answer_text(f"BreakEven {self.scenario}", self._sentences())

    def _repr_html_(self) -> str:
        """The same, and the crossings as a table."""
        columns = ("case", "curve", "field", "meets_at", "misses_at", "unit", "metric_there", "metric_beside")
        title = f"Break-even of {self.range.path}: {self.scenario}, {self.target.metric.key}"
        return answer_html(title, self._sentences(), self.frame(), columns)


def break_even(
    spec: Spec,
    field: str,
    target: str,
    like: Sequence[str] = (),
    *,
    sets: Sequence[str] = (),
    against: Sequence[str | Sequence[str]] = (),
    scan: int = SCAN,
    tolerance: float = TOLERANCE,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> BreakEven:
    """The values of a field at which a metric changes between meeting a target and missing it.

    Parameters
    ----------
    spec, sets : the scenario and assignments to it. field : `PATH=LO..HI`, with units as in `--set`, or factors on what
        the scenario has: `gpu.memory.bandwidth=2..10 TB/s`, `gpu.memory.bandwidth=x0.5..x4`.
    target : `METRIC<=VALUE`, `METRIC>=VALUE`, `METRIC<=x0.5` (of the scenario's own), or with `like` the metric alone.
    like : assignments; the metric has to be as good as under them.
    against : other settings, for which the same is asked, each an assignment or several.
    scan : values of the scan. tolerance : relative width to which a crossing is narrowed; of a range that begins at
        zero or below, a share of the range.

    Raises
    ------
    InputError : a path or a metric that does not exist, an empty or infinite range, a target without a value or with
        two, a metric that the scenario does not have, or a field of which no value can be served.
    """
    started = time.perf_counter()
    if not 2 <= scan <= MOST_SCANNED:
        raise InputError("not a number of values to scan", found=scan, allowed=f"2 to {MOST_SCANNED}")
    if not 1e-9 <= tolerance <= 0.5:
        raise InputError("not a tolerance", file="--tolerance", found=tolerance, allowed="1e-9 to 0.5, such as 0.001")
    wanted = parse_target(target, bare=bool(like))
    base = load_scenario(plain_spec(spec), sets)
    over = parse_range(base, field)
    for x in (over.low, over.high):  # what no value can be is said before anything runs
        check_setting(spec, sets, over.sets(x), "--break-even")
    check_setting(spec, sets, like, "--like")
    settings = settings_of(base, against)
    for _, own in settings[1:]:
        check_setting(spec, sets, own, "--against")
    cases = []
    with Runner(spec, sets, jobs, progress) as runner:
        for label, own in settings:
            cases.append(_case(runner, label, own, over, wanted, tuple(like), scan, tolerance))
    seconds = time.perf_counter() - started
    return BreakEven(base.config.name, over, wanted, tuple(like), tuple(cases), tolerance, runner.runs, seconds)


def _case(
    runner: Runner,
    label: str,
    own: tuple[str, ...],
    over: Range,
    target: Target,
    like: tuple[str, ...],
    scan: int,
    tolerance: float,
) -> Case:
    """The scan and the crossings of one setting."""
    xs = grid(over.low, over.high, scan, whole=over.whole)
    _check_metric(runner, target, own, ((*own, *over.sets(x)) for x in (xs[0], xs[-1])))
    settings = [own, *((*own, *over.sets(x)) for x in xs)]
    if like:
        settings.append((*own, *like))
    base, *seen = runner.points(settings, intervals=True)
    other = seen.pop() if like else None
    goal = _goal(target, base, other, like)
    rows = [Seen(x, _values(point, target), point.error) for x, point in zip(xs, seen, strict=True)]
    if all(row.error for row in rows):
        problem = f"no value of the field can be served: {rows[0].error}"
        raise InputError(problem, file="--break-even", place=over.path, found=f"{over.words(over.low)} to "
                         f"{over.words(over.high)}", allowed="another range, or another GPU or model")  # fmt: skip
    if all(row.values["predicted"] is None for row in rows):
        raise missing(target.metric)
    crossings = dict(_crossings(runner, own, over, target, goal, rows, tolerance))
    turns = not monotone([row.values["predicted"] for row in rows])
    notes = merged(note for point in (base, *seen) for note in point.notes)
    base_value = _values(base, target)["predicted"]
    return Case(label, own, base_value, goal, tuple(rows), crossings, turns, tuple(notes))


def _check_metric(runner: Runner, target: Target, own: tuple[str, ...], ends: Iterable[tuple[str, ...]]) -> None:
    """InputError before the scan if neither the setting nor the field's ends, some of them served, have the metric.

    The field itself may be what gives the scenario the metric: a price of the GPU, an acceptance.
    """
    for several in ([own], list(ends)):
        served = [point for point in runner.points(several, intervals=True) if point.error is None]
        if any(_values(point, target)["predicted"] is not None for point in served):
            return
    if served:
        raise missing(target.metric)


def check_setting(spec: Spec, sets: Sequence[str], own: Sequence[str], option: str) -> None:
    """InputError, said of `option`, for assignments that are no good."""
    try:
        load_scenario(plain_spec(spec), ordered(sets, own))
    except InputError as error:
        if error.file != "--set" or not own:
            raise
        raise InputError(
            error.problem, file=option, place=error.place, found=error.found, allowed=error.allowed
        ) from None


def settings_of(base: LoadedScenario, against: Sequence[str | Sequence[str]]) -> list[tuple[str, tuple[str, ...]]]:
    """Names and assignments: the scenario's own setting, called by what it has where the others differ, and those of
    `against`.
    """
    others = [variant_of(one) for one in against]
    paths = dict.fromkeys(text.partition("=")[0] for _, texts in others for text in texts)
    own = ", ".join(f"{path.split('.')[-1]} {words(field_at(base, path).value)}" for path in paths)
    return [(own or "as given", ()), *others]


def _values(point: Point, target: Target) -> dict[str, float | None]:
    """The metric of a point on each curve."""
    predicted = None if point.error else point.metrics.get(target.metric.key)
    ends = point.intervals.get(target.metric.key)
    if ends is None or predicted is None:
        return {"predicted": predicted, "fast": None, "slow": None}
    fast, slow = ends if target.metric.better == "lower" else reversed(ends)
    return {"predicted": predicted, "fast": fast, "slow": slow}


def _goal(target: Target, base: Point, other: Point | None, like: tuple[str, ...]) -> dict[str, float | None]:
    """What the target comes to on each curve."""
    if target.value is not None:
        return dict.fromkeys(CURVES, target.value)
    if target.factor is not None:
        own = _values(base, target)["predicted"]
        if base.error:
            problem = f"a factor needs the scenario's own value, and it cannot be served: {base.error}"
            raise InputError(problem, file="--target", allowed="a value instead of a factor")
        if own is None:
            raise missing(target.metric)
        return dict.fromkeys(CURVES, own * target.factor)
    assert other is not None
    if other.error:
        raise InputError(f"what the metric is compared with cannot be served: {other.error}", file="--like",
                         found=" ".join(like), allowed="another setting")  # fmt: skip
    values = _values(other, target)
    if values["predicted"] is None:
        raise missing(target.metric)
    # The other setting's errors are taken the other way: its kernels are others, so both may be off apart.
    ends = (values["slow"], values["fast"]) if values["fast"] is not None else (values["predicted"],) * 2
    return {"predicted": values["predicted"], "fast": ends[0], "slow": ends[1]}


def _crossings(
    runner: Runner,
    own: tuple[str, ...],
    over: Range,
    target: Target,
    goal: dict[str, float | None],
    rows: list[Seen],
    tolerance: float,
) -> Iterator[tuple[str, tuple[Crossing, ...]]]:
    """By curve, all of them narrowed at the same time, so that there is work for several processes."""
    if not over.logarithmic:
        tolerance *= over.high - over.low

    def sample(row: Seen, curve: str) -> Sample:
        limit = goal[curve]
        assert limit is not None
        return Sample(row.x, row.values[curve], gap(row.values[curve], limit, target.sense))

    known = [c for c in CURVES if any(row.values[c] is not None for row in rows)]
    searches = {
        curve: brackets(
            [sample(row, curve) for row in rows],
            logarithmic=over.logarithmic, tolerance=tolerance, whole=over.whole,
        )
        for curve in known
    }  # fmt: skip
    for ends in (("predicted",), ("fast", "slow")):  # the second needs two more simulations a point
        intervals = "fast" in ends
        while active := [(c, b) for c in ends for b in searches.get(c, ()) if not b.done]:
            asked = [bracket.ask() for _, bracket in active]
            points = runner.points([(*own, *over.sets(x)) for x in asked], intervals=intervals)
            for (curve, bracket), x, point in zip(active, asked, points, strict=True):
                bracket.tell(sample(Seen(x, _values(point, target), point.error), curve))
    for curve in known:
        yield curve, tuple(bracket.crossing() for bracket in searches[curve])
