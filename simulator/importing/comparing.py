"""A measurement beside a prediction: every metric that both have, and what they do not have in common.

An error is predicted / measured - 1: above 0 the prediction is too slow, or too high. The interval of a metric is what
it would be with all service times at the ends of the run's 80 % interval (`simulator.outlooks`); that a measured value
lies inside is to be expected four times of five.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError
from simulator.headline import METRICS, headline
from simulator.importing.assumptions import Difference, differences
from simulator.importing.measured import read_measured
from simulator.importing.measurement import LATENCIES, Measurement
from simulator.metrics import request_times
from simulator.outlooks import Outlook, Progress, outlook_of
from simulator.policy import Status
from simulator.result import Result
from workloads.scenario import load_scenario

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "kinesim-compare/1"
TOTALS = ("makespan_s", "requests_per_s", "output_tokens_per_s")


@dataclass(frozen=True)
class Compared:
    """One metric, in SI units.

    Attributes
    ----------
    metric, title, unit : as in `simulator.headline`. measured, predicted : its values.
    error : predicted / measured - 1; None where nothing was measured but zero.
    low, high : its interval; None without one. inside : whether the measured value lies in it.
    """

    metric: str
    title: str
    unit: str
    measured: float
    predicted: float
    error: float | None
    low: float | None
    high: float | None

    @property
    def inside(self) -> bool | None:
        if self.low is None or self.high is None:
            return None
        return bool(self.low <= self.measured <= self.high)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A prediction and a measurement.

    Attributes
    ----------
    outlook : the result, and those at the ends of its interval where there is one. measurement : what was measured.
    metrics : those that both have. differences : what is not alike in the deployment and the load.
    notes : what a reader must know.
    """

    outlook: Outlook
    measurement: Measurement
    metrics: tuple[Compared, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """What `kinesim compare --format json` prints; the schema is in docs/compare.md."""
        result, measured = self.outlook.result, self.measurement
        judged = [row.inside for row in self.metrics if row.inside is not None]
        return {
            "schema": SCHEMA,
            "prediction": {
                "name": result.scenario["name"],
                "gpu": result.deployment["gpu"]["name"],
                "model": result.deployment["model"]["name"],
                "profile": result.deployment["profile"]["name"],
                "factors": None if self.outlook.factors is None else list(self.outlook.factors),
            },
            "measurement": {
                "file": str(measured.file),
                "name": measured.name,
                "tool": measured.tool,
                "requests": measured.load.requests,
                "failed": measured.load.failed,
                "detailed": bool(measured.requests),
            },
            "metrics": [{**vars(row), "inside": row.inside} for row in self.metrics],
            "inside": sum(judged) if judged else None,
            "judged": len(judged),
            "differences": [vars(difference) for difference in self.differences],
            "notes": list(self.notes),
        }

    def frame(self) -> pd.DataFrame:
        """The metrics as a table by name: title, unit, measured, predicted, error, low, high, inside."""
        import pandas as pd

        return pd.DataFrame([{**vars(row), "inside": row.inside} for row in self.metrics]).set_index("metric")

    def quantiles(self, points: Sequence[float] = tuple(np.arange(0.05, 1.0, 0.05))) -> pd.DataFrame:
        """Quantiles of the latencies side by side: a row a quantile, columns (latency, measured or predicted), seconds.

        Raises InputError where the measurement has no requests.
        """
        import pandas as pd

        pairs = self.latencies()
        if not pairs:
            problem = "only statistics were measured, not each request"
            raise InputError(problem, file=self.measurement.file, allowed="a table or export with a row a request")
        columns = {
            (name, whose): np.quantile(values, points)
            for name, both in pairs.items()
            for whose, values in zip(("measured", "predicted"), both, strict=True)
        }
        return pd.DataFrame(columns, index=pd.Index(np.round(points, 6), name="quantile"))

    def latencies(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Latency -> its measured and its predicted values, request by request (not in the same order), in seconds."""
        predicted = latencies_of(self.outlook.result)
        found = {}
        for name in LATENCIES:
            measured = self.measurement.requests.get(name)
            if measured is None or name not in predicted:
                continue
            measured = measured[np.isfinite(measured)]
            if len(measured) and len(predicted[name]):
                found[name] = (measured, predicted[name])
        return found

    def draw(self, path: str | Path) -> None:
        """Draw the latencies' distributions to a file ending in .svg or .png. Raises InputError."""
        from simulator.importing.comparefigure import draw_comparison

        draw_comparison(self, Path(path))


def compare_with(
    result: Result,
    measured: Path,
    *,
    row: int | None = None,
    intervals: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """A result beside the measurement in a file.

    Parameters
    ----------
    row : which of a file's measurements, counted from 1; left out, the one whose deployment and load are the result's.
    intervals : whether the scenario is simulated twice more, for the ends of the interval.

    Raises
    ------
    InputError : no measurement can be read from the file, it is not clear which, or they have no metric in common.
    """
    measurement = _chosen(result, read_measured(measured), measured, row)
    outlook, notes = Outlook(result), [*measurement.notes]
    if intervals:
        outlook, why = _outlook(result, progress)
        notes += [why] if why else []
    rejected = int((result.requests["status"] == Status.REJECTED).sum())
    if rejected:
        notes.append(f"{rejected:,} predicted requests were rejected and have no latency")
    rows = tuple(_compared(outlook, measurement))
    if not rows:
        found = ", ".join(measurement.statistics) or "nothing"
        raise InputError("nothing to compare", file=measured, found=found, allowed="TTFT, TPOT, ITL, end to end, rates")
    return Comparison(outlook, measurement, rows, tuple(differences(result, measurement)), tuple(notes))


def _chosen(result: Result, measurements: list[Measurement], file: Path, row: int | None) -> Measurement:
    """The measurement that is meant."""
    count = len(measurements)
    if row is not None:
        if not 1 <= row <= count:
            raise InputError("no such row", file=file, place="--row", found=row, allowed=f"1 to {count}")
        return measurements[row - 1]
    if count == 1:
        return measurements[0]
    apart = [(len(differences(result, m)), i) for i, m in enumerate(measurements)]
    alike = [i for many, i in apart if many == 0]
    if len(alike) == 1:
        return measurements[alike[0]]
    if alike:
        problem = f"{len(alike)} of {count} rows have this deployment and load"
        allowed = "--row " + " or ".join(str(i + 1) for i in alike[:8])
        raise InputError(problem, file=file, place="--row", allowed=allowed)
    nearest = sorted(apart)[:3]
    described = "; ".join(
        f"row {i + 1} differs in {', '.join(d.what for d in differences(result, measurements[i]))}" for _, i in nearest
    )
    problem = f"none of {count} rows has this deployment and load"
    raise InputError(
        problem, file=file, place="--row", allowed=f"--row N to compare all the same; nearest: {described}"
    )


def _outlook(result: Result, progress: Progress | None) -> tuple[Outlook, str | None]:
    """With both ends of the interval; without, and why, where they cannot be simulated."""
    if result.summary.get("interval") is None:
        return Outlook(result), "no interval: the profile was not fitted to measurements"
    try:
        found = outlook_of(result, load_scenario(result.scenario), progress=progress)
    except InputError as error:
        return Outlook(result), f"no interval: the result's scenario cannot be simulated again ({error})"
    between = found.intervals()
    for key in ("tpot_s.mean", "makespan_s"):
        value, ends = found.metrics[key], between[key]
        assert found.fast is not None and found.slow is not None
        lone = [headline(end.summary)[key] for end in (found.fast, found.slow)]
        if value is not None and ends is not None and None not in lone:
            low, high = sorted(v for v in lone if v is not None)
            if not low * (1 - 1e-9) <= value <= high * (1 + 1e-9):
                return found, "the saved result is not what this version predicts: simulate its scenario again"
    return found, None


def _compared(outlook: Outlook, measurement: Measurement) -> list[Compared]:
    """The metrics that both have, in the order of the headline, further percentiles after the known ones."""
    order = {key: number for number, key in enumerate(dict.fromkeys([*TOTALS, *METRICS]))}
    keys = sorted(measurement.statistics, key=lambda key: (order.get(key, _behind(key, order)), _percent(key)))
    ends = [end for end in (outlook.fast, outlook.slow) if end is not None]
    rows = []
    for key in keys:
        measured, predicted = measurement.statistics[key], _predicted(outlook.result, key)
        if predicted is None or not math.isfinite(measured):
            continue
        seen = [value for end in ends if (value := _predicted(end, key)) is not None]
        known = METRICS.get(key)
        rows.append(
            Compared(
                metric=key,
                title=known.title if known else _title(key),
                unit=known.unit if known else "s",
                measured=measured,
                predicted=predicted,
                error=predicted / measured - 1 if measured else None,
                low=min([predicted, *seen]) if seen else None,
                high=max([predicted, *seen]) if seen else None,
            )
        )
    return rows


def _behind(key: str, order: dict[str, int]) -> float:
    """Where a percentile that is no headline metric stands: among those of its latency, before the largest value."""
    return order.get(f"{key.partition('.')[0]}.p50", len(order)) + 0.5


def _percent(key: str) -> float:
    match = re.fullmatch(r".*\.p([\d.]+)", key)
    return float(match[1]) if match else 0.0


def _title(key: str) -> str:
    name, _, statistic = key.partition(".")
    return METRICS[f"{name}.mean"].title.replace("mean", statistic) if f"{name}.mean" in METRICS else key


def _predicted(result: Result, key: str) -> float | None:
    """A metric of a result; any percentile of a latency of its requests."""
    if key in METRICS:
        return headline(result.summary)[key]
    name, percentile = key.partition(".")[0], _percent(key)
    values = latencies_of(result).get(name)
    if values is None or not len(values) or not 0 < percentile < 100:
        return None
    return float(np.percentile(values, percentile))


def latencies_of(result: Result) -> dict[str, np.ndarray]:
    """TTFT, TPOT and end to end of the requests that have them, seconds; those that were rejected have none."""
    served = result.requests["status"] != Status.REJECTED
    times = {name: values[served] for name, values in request_times(result.requests).items()}
    return {name: values[np.isfinite(values)] for name, values in times.items()}
