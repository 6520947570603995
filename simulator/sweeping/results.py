"""What a sweep, and its dry run, come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.sweeping.dataset import INTERVALS
from simulator.sweeping.grid import SCENARIO

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "kinesim-sweep/1"


@dataclass(frozen=True)
class Counts:
    """How many combinations there are, were chosen (`limit`, `exclude`) and came to what.

    Attributes
    ----------
    combinations : of the whole grid. chosen : that this sweep is over. alike : of them, those that are the same
        scenario as another one. before : rows that were there. simulated : rows that were added.
    ok, invalid, failed : rows of this sweep by status. others : rows of the data set that are not of this sweep.
    """

    combinations: int
    chosen: int
    alike: int
    before: int
    simulated: int
    ok: int
    invalid: int
    failed: int
    others: int


@dataclass(frozen=True)
class SweepResult:
    """A sweep that has been run.

    Attributes
    ----------
    name, origin : of the sweep file. folder : the data set. paths : fields that are varied. keep : metrics to show.
    table : one row a combination, in the file's order, all columns.
    """

    name: str
    origin: str
    folder: Path
    program: str
    paths: tuple[str, ...]
    keep: tuple[str, ...]
    units: Mapping[str, str]
    counts: Counts
    wall_s: float
    workers: int
    table: pd.DataFrame = field(repr=False, compare=False)

    def frame(self) -> pd.DataFrame:
        """One row a combination, in the file's order: base, varied values, status, the metrics of `keep`, intervals."""
        names = [
            SCENARIO,
            *self.paths,
            "status",
            "reason",
            *self.keep,
            *INTERVALS,
            "timed_by",
            "notes",
            "wall_s",
            "hash",
        ]
        return self.table[names].copy()

    def document(self) -> dict[str, Any]:
        """What `--format json` prints."""
        from simulator.result import plain

        return {
            "schema": SCHEMA,
            "name": self.name,
            "file": self.origin,
            "out": str(self.folder),
            "program": self.program,
            "counts": asdict(self.counts),
            "wall_s": self.wall_s,
            "workers": self.workers,
            "varied": {path: self.units.get(path, "") for path in self.paths},
            "metrics": list(self.keep),
            "rows": plain(self.frame().to_dict("records")),
        }


@dataclass(frozen=True)
class Estimate:
    """What `--dry-run` says: a sweep that has not been run. seconds : of all that is left, on `workers` processes."""

    name: str
    origin: str
    folder: Path
    combinations: int
    chosen: int
    before: int
    workers: int
    tried: int
    seconds: float

    def document(self) -> dict[str, Any]:
        """What `--format json` prints."""
        return {"schema": SCHEMA, "dry_run": True, **asdict(self), "folder": str(self.folder)}
