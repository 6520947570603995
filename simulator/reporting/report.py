"""`report.html`: one result, or several side by side, as one page that needs no network.

Writing one takes a fraction of a second, whatever the run's size: charts get quantiles and bins, never all requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwspecs.errors import InputError
from simulator.files import replace_file
from simulator.reporting.comparepage import several_results
from simulator.reporting.comparison import MOST, SCHEMA, Comparison, compare_results
from simulator.reporting.page import one_result
from simulator.reporting.sections import Shown, known_intervals
from simulator.result import Result
from simulator.store import load_result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Report:
    """A page and what it compares.

    Attributes
    ----------
    title : its heading. html : the file's content. comparison : the results' metrics and differences.
    """

    title: str
    html: str
    comparison: Comparison

    def save(self, path: str | Path) -> None:
        """Write the page. Raises InputError if that cannot be done; nothing is left half written."""
        replace_file(Path(path), self.html.encode())

    def document(self) -> dict[str, Any]:
        """Plain data: labels, headline metrics with intervals and which result is best, differences of scenarios."""
        rows = [
            {
                "metric": row.metric.key, "title": row.metric.title, "unit": row.metric.unit,
                "better": row.metric.better, "values": list(row.values),
                "intervals": [None if ends is None else list(ends) for ends in row.intervals],
                "best": list(row.best), "close": list(row.close),
            }
            for row in self.comparison.rows
        ]  # fmt: skip
        return {
            "schema": SCHEMA,
            "title": self.title,
            "results": list(self.comparison.labels),
            "same_work": self.comparison.same_work,
            "metrics": rows,
            "differences": [{"path": d.path, "values": list(d.values)} for d in self.comparison.differences],
        }

    def frame(self) -> pd.DataFrame:
        """Headline metrics, one row each, one column a result."""
        import pandas as pd

        rows = {row.metric.key: row.values for row in self.comparison.rows}
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(self.comparison.labels))


def report(
    results: Result | str | Path | Sequence[Result | str | Path],
    *,
    title: str | None = None,
    labels: Sequence[str] | None = None,
    intervals: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """A page of one result or of up to eight.

    Parameters
    ----------
    results : each a `Result`, or a folder that `kinesim run --out` wrote, or the result.json in it.
    title : the heading; the scenario's name if not given. labels : names of the results beside each other; their
        scenarios' names if not given, or the folders' where those are alike.
    intervals : simulate each scenario again at both ends of the interval of its times, so that every headline metric
        has its 80 % interval; takes twice the time of the runs.

    Raises
    ------
    InputError : a result that is missing, damaged or of another version; none, or more than eight; labels that are not
        one each and different.
    """
    given = [results] if isinstance(results, Result | str | Path) else list(results)
    if not 1 <= len(given) <= MOST:
        raise InputError("not a number of results that can be compared", found=len(given), allowed=f"1 to {MOST}")
    loaded = [one if isinstance(one, Result) else _load(Path(one)) for one in given]
    names = _labels(loaded, given) if labels is None else list(labels)
    if len(names) != len(loaded) or len(set(names)) != len(names):
        raise InputError(
            "labels must be different and one for each result", place="--label", found=names, allowed=f"{len(loaded)}"
        )
    shown = [
        _shown(name, one, f"r{i + 1}-" if len(loaded) > 1 else "", intervals, progress)
        for i, (name, one) in enumerate(zip(names, loaded, strict=True))
    ]
    if len(shown) == 1:
        title = title or names[0]
        return Report(title, one_result(shown[0], title), compare_results(shown))
    title = title or " and ".join([", ".join(names[:-1]), names[-1]])
    return Report(title, several_results(shown, title), compare_results(shown))


NEEDED = {
    "summary": ("requests", "tokens", "makespan_s", "latency", "batch", "kv", "utilisation", "cost", "work",
                "seconds_by_bound", "kinetics_law_eflops"),
    "deployment": ("gpu", "model", "memory", "profile"),
    "scenario": ("precision", "attention", "engine", "parallelism", "replicas", "router", "workload"),
}  # fmt: skip
"""What a page speaks of and `load_result` does not ask for."""


def _load(path: Path) -> Result:
    """A saved result. Raises InputError also for one that lacks what an older version did not write."""
    result = load_result(path)
    for part, keys in NEEDED.items():
        absent = [key for key in keys if key not in getattr(result, part)]
        if absent:
            raise InputError(
                "a key is missing", file=path, place=f"{part}.{absent[0]}", allowed="what kinesim run --out wrote"
            )
    return result


def _shown(
    name: str, result: Result, prefix: str, intervals: bool, progress: Callable[[int, int], None] | None
) -> Shown:
    if not intervals or result.summary.get("interval") is None:
        return Shown(name, result, known_intervals(result), prefix=prefix)
    from simulator.outlooks import outlook_of
    from workloads.scenario import load_scenario

    try:
        scenario = load_scenario(result.scenario)
    except InputError as error:  # such as a trace that is no longer there
        place = f"scenario.{error.place}" if error.place else "scenario"
        raise InputError(error.problem, file=name, place=place, found=error.found, allowed=error.allowed) from None
    found = outlook_of(result, scenario, progress=progress)
    return Shown(name, result, found.intervals(), simulated_ends=True, prefix=prefix)


def _labels(results: Sequence[Result], given: Sequence[Result | str | Path]) -> list[str]:
    """Scenarios' names; where some are alike the names of the folders, and where these are, too, numbers."""
    names = [str(one.scenario.get("name", "result")) for one in results]
    if len(set(names)) == len(names):
        return names
    found = [_folder(source) or name for name, source in zip(names, given, strict=True)]
    return found if len(set(found)) == len(found) else [f"{i + 1} {name}" for i, name in enumerate(names)]


def _folder(source: Result | str | Path) -> str:
    if isinstance(source, Result):
        return ""
    path = Path(source).resolve()
    return path.parent.name if path.name == "result.json" else path.name
