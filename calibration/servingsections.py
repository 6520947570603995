"""The tables of docs/serving.md: errors as shipped and with something left out, the host's constants, what is odd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.errortables import percent
from calibration.servingerrors import DEPLOYMENT, METRICS, family, layout, odd_rows, users
from calibration.servingfit import STEPS, Slopes, worded
from calibration.servingplots import TITLES
from calibration.servingrecipes import number_of, version_of
from calibration.servingreplay import Replay, Row
from calibration.servingsplits import Split, built_of, parts_of, scores
from calibration.servingtables import ServingTable, gpus_of
from calibration.servingwords import CAUSES
from workloads.engine import Host

SHIPPED = "as shipped"
LEFT = "deployment"
"""The split that stands beside the errors as shipped in the tables of groups."""
LEAST_ROWS, WORST_GROUPS = 3, 5
NO_AIM = (None, None, None)
ALL_AIM = (0.09, 0.20, 0.10)
"""Of all rows together: errors of TPOT and TTFT, and the planning loss."""
TTFT_SHARE = 1 / 3
"""What an error of TTFT counts beside one of TPOT where groups are ranked: what is aimed at differs by this factor."""

Key = Callable[[Row], str]
Cells = Sequence[str]


@dataclass(frozen=True)
class Results:
    """What the page is made of.

    table : what was measured. replays : as shipped. splits : with something left out. sets : the parameter sets of the
    engines, linearised.
    """

    table: ServingTable
    replays: list[Replay]
    splits: list[Split]
    sets: Mapping[str, Slopes]

    def errors(self, replays: Sequence[Replay]) -> np.ndarray:
        """|predicted / measured - 1|, at most 1, of TPOT and TTFT, float64 [2, n]; nan where either is missing."""
        measured = np.stack([self.table.tpot, self.table.ttft])
        predicted = np.array([[entry.tpot for entry in replays], [entry.ttft for entry in replays]])
        return np.minimum(np.abs(predicted / measured - 1), 1.0)

    def ratios(self) -> np.ndarray:
        """Predicted / measured as shipped, float64 [2, n]."""
        predicted = np.array([[entry.tpot for entry in self.replays], [entry.ttft for entry in self.replays]])
        return predicted / np.stack([self.table.tpot, self.table.ttft])

    def covered(self) -> np.ndarray:
        """bool [n]: measured TPOTs inside the interval of their prediction."""
        low, high = np.array([entry.interval for entry in self.replays]).T
        return (self.table.tpot >= low) & (self.table.tpot <= high)


GROUPS: dict[str, Key] = {
    "engine": lambda row: TITLES.get(row["engine"], str(row["engine"])),
    "model family": lambda row: family(row["model"]),
    "GPU": lambda row: str(row["gpu"]),
    "precision": lambda row: str(row["precision"]),
    "users": lambda row: users(row["concurrency"]),
    "lengths": lambda row: f"{row['input_len']:,} in, {row['output_len']:,} out",
    "GPUs of the deployment": lambda row: str(gpus_of(row)),
}


def deployment(row: Row) -> str:
    """A row's deployment in words."""
    own = {**row, "layout": layout(row)}
    return ", ".join(str(own[name]).rpartition("/")[2] for name in DEPLOYMENT)


def model_gpu_engine(row: Row) -> str:
    """What a row was measured of, but for its layout."""
    return f"{row['model'].rpartition('/')[2]}, {row['gpu']}, {row['precision']}, {GROUPS['engine'](row)}"


def one_by_one(results: Results) -> list[str]:
    """Errors of what was left out, value by value, as shipped and without it."""
    before, table, rows = results.errors(results.replays), results.table, []
    kinds = [built_of(row["model"]) for row in table.rows]
    for split in results.splits:
        if split.name == LEFT:
            continue
        errors = results.errors(split.replays)
        usable = np.isfinite(before).all(axis=0) & np.isfinite(errors).all(axis=0)
        for value, all_of in grouped(table, usable, split.key):
            parts = {(kinds[i], bool(split.unseen[i])) for i in all_of.tolist()}
            for kind, unseen in sorted(parts):
                pick = np.array([i for i in all_of.tolist() if (kinds[i], bool(split.unseen[i])) == (kind, unseen)])
                cells = [split.name, value.rpartition("/")[2], kind, "unseen" if unseen else "seen", f"{len(pick):,}"]
                for i in range(len(METRICS)):
                    cells += [percent(float(error[i, pick].mean())) for error in (before, errors)]
                rows.append(cells)
    names = ["left out", "", "built", "engine's version", "rows", "TPOT as shipped", "without", "TTFT as shipped"]
    return markdown([*names, "without"], rows, left=4)


def headline(results: Results) -> list[str]:
    """Errors of the parts with an aim, as shipped and under every split; in brackets without unseen versions."""
    table, every = results.table, np.zeros(len(results.table), dtype=bool)
    runs = [(results.replays, every), *((split.replays, split.unseen) for split in results.splits)]
    names = [SHIPPED, *(f"left out: {split.name}" for split in results.splits)]
    measured = np.isfinite(table.tpot) & np.isfinite(table.ttft)
    done = measured & np.array([not entry.reason for entry in results.replays])
    parts = []
    for part in parts_of(table):
        every_predicted = ", all that are predicted" if (part.rows == done).all() else ""
        parts.append((f"{part.name} ({part.rows.sum():,} rows{every_predicted})", part.rows, part.aim))
    if not any((pick == done).all() for _, pick, _ in parts):
        parts.append((f"all predicted rows ({done.sum():,})", done, NO_AIM))
    parts.append((f"all rows ({measured.sum():,}), without a prediction 100 %", measured, ALL_AIM))
    rows = []
    for name, pick, aims in parts:
        whole = [scores(table, replays, pick) for replays, _ in runs]
        rest = [
            scores(table, replays, pick & ~unseen)
            if aims is not NO_AIM and (pick & unseen).any() and (pick & ~unseen).any()
            else None
            for replays, unseen in runs
        ]
        for i, what in enumerate(("TPOT", "TTFT", "planning loss")):
            cells = [
                percent(of[i]) + (f" ({percent(seen[i])})" if seen else "")
                for of, seen in zip(whole, rest, strict=True)
            ]
            if i < len(METRICS) or aims is not NO_AIM:
                rows.append([name if i == 0 else "", what, _aim(aims[i]), *cells])
    return markdown(["mean error of", "", "aim", *names], rows, left=2)


def _aim(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def unpredicted(results: Results) -> list[str]:
    """Rows without a prediction, by reason."""
    counts: dict[str, int] = {}
    for entry in results.replays:
        if entry.reason:
            counts[entry.reason] = counts.get(entry.reason, 0) + 1
    if not counts:
        return ["All rows are predicted."]
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ["Not predicted:", "", *markdown(["reason", "rows"], [[text, f"{n:,}"] for text, n in ordered], left=1)]


def constants(results: Results) -> list[str]:
    """The host's constants as shipped, and as this table alone would have them."""
    rows = []
    for part in results.sets.values():
        every = np.arange(len(part.rows))
        models = len({row["model"] for row in part.rows})
        gpus = len({row["gpu"] for row in part.rows})
        served = f"{len(every):,} of {counted(models, 'model')} on {counted(gpus, 'GPU')}"
        rows.append([set_name(part.rows), served, SHIPPED, *map(worded, STEPS, part.constants)])
        rows.append(["", "", "fitted here", *map(worded, STEPS, part.fit(every, part.constants))])
    words = [f"- *{name}*: {Host.model_fields[name].description}" for name in STEPS]
    return [*words, "", *markdown(["parameter set", "rows", "", *STEPS], rows, left=3)]


def set_name(rows: Sequence[Row]) -> str:
    """Engine, versions and GPUs of the rows that one parameter set serves."""
    versions = {version_of(row) or "of unknown version" for row in rows}
    numbers = sorted(number for text in versions if (number := number_of(text)) is not None)
    words = (
        f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else "".join(map(str, numbers)) or listed(sorted(versions))
    )
    return f"{GROUPS['engine'](rows[0])} {words}, {listed(sorted({row['gpu'] for row in rows}))}"


def group_table(name: str, results: Results, key: Key) -> list[str]:
    """Errors of the rows that agree in `key`, as shipped and with their deployment left out of the fit."""
    errors, ratios, covered = results.errors(results.replays), results.ratios(), results.covered()
    left = next((results.errors(split.replays) for split in results.splits if split.name == LEFT), None)
    rows = []
    for value, pick in grouped(results.table, np.isfinite(errors).all(axis=0), key):
        cells = [value, f"{len(pick):,}"]
        for i in range(len(METRICS)):
            own = errors[i, pick]
            cells += [percent(float(own.mean())), percent(float(np.median(own)))]
            cells += [percent(float(np.median(ratios[i, pick]) - 1), True)]
            cells += ["-" if left is None else percent(_mean(left[i, pick]))]
            if METRICS[i] == "tpot":
                cells += [percent(float(covered[pick].mean()))]
        rows.append(cells)
    columns = ["TPOT", "median", "bias", "left out", "inside", "TTFT", "median", "bias", "left out"]
    return markdown([name, "rows", *columns], rows, left=1)


def _mean(values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def grouped(table: ServingTable, usable: np.ndarray, key: Key) -> list[tuple[str, np.ndarray]]:
    """(value, rows) of the usable rows by `key`; numbers in texts count as numbers where values are put in order."""
    found: dict[str, list[int]] = {}
    for i in np.flatnonzero(usable).tolist():
        found.setdefault(key(table.rows[i]), []).append(i)
    return [(value, np.array(found[value])) for value in sorted(found, key=_natural)]


def _natural(text: str) -> list[tuple[int, Any]]:
    words = text.replace(",", "").replace("up to", "0").replace("above", "1000000").split()
    return [(0, int(word)) if word.isdigit() else (1, word) for word in words]


def worst(results: Results) -> list[str]:
    """The weakest deployments, and why they are, where that is known."""
    errors, ratios = results.errors(results.replays), results.ratios()
    groups = [
        (name, pick)
        for name, pick in grouped(results.table, np.isfinite(errors).all(axis=0), deployment)
        if len(pick) >= LEAST_ROWS
    ]
    groups.sort(key=lambda group: -float(errors[0, group[1]].mean() + TTFT_SHARE * errors[1, group[1]].mean()))
    rows = []
    for name, pick in groups[:WORST_GROUPS]:
        cells = [name, f"{len(pick):,}"]
        for i in range(len(METRICS)):
            cells += [percent(float(errors[i, pick].mean())), percent(float(np.median(ratios[i, pick]) - 1), True)]
        why = next((why for start, why in CAUSES.items() if f"{name},".startswith(f"{start},")), "not known")
        rows.append([*cells, why])
    return markdown(["deployment", "rows", "TPOT", "bias", "TTFT", "bias", "cause"], rows, left=1)


def intervals(results: Results) -> list[str]:
    """How many measured TPOTs lie in the 80 % interval of their prediction, and how wide that is."""
    low, high = np.array([entry.interval for entry in results.replays]).T
    tpot, covered = np.array([entry.tpot for entry in results.replays]), results.covered()
    usable = np.isfinite(low) & np.isfinite(results.table.tpot)
    rows = []
    for value, pick in [("all", np.flatnonzero(usable)), *grouped(results.table, usable, GROUPS["engine"])]:
        if len(pick):
            sides = (float(np.median(side[pick] / tpot[pick] - 1)) for side in (low, high))
            below, above = (float(side[pick].mean()) for side in (results.table.tpot < low, results.table.tpot > high))
            inside = float(covered[pick].mean())
            rows.append(
                [value, f"{len(pick):,}", *map(percent, (inside, below, above)), *(percent(s, True) for s in sides)]
            )
    names = ["", "rows", "inside", "measured below", "measured above", "median lower end", "median upper end"]
    return markdown(names, rows, left=1)


def odd(results: Results) -> list[str]:
    """Measurements that contradict their neighbours or their own repeats, by deployment."""
    table, errors = results.table, results.errors(results.replays)
    found: dict[tuple[str, str], list[int]] = {}
    for i, why in odd_rows(table):
        row = table.rows[i]
        found.setdefault((f"{model_gpu_engine(row)} {row['engine_version']}", why), []).append(i)
    if not found:
        return ["None."]
    rows = []
    for (name, why), members in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        at = "; ".join(_point(table.rows[i]) for i in members)
        own = [percent(_mean(errors[i, members])) for i in range(len(METRICS))]
        rows.append([name, why, at, *own])
    return markdown(["rows of", "what is odd", "layout, lengths, users", "TPOT", "TTFT"], rows, left=3)


def _point(row: Row) -> str:
    return f"{layout(row)} {row['input_len']:,}/{row['output_len']:,} x {row['concurrency']}"


# ---- Markdown --------------------------------------------------------------------------------------------------------


def markdown(names: Cells, rows: Sequence[Cells], left: int = 1) -> list[str]:
    """A table whose first `left` columns are texts and the others numbers."""
    marks = [" --- " if i < left else " ---: " for i in range(len(names))]
    if names[-1] == "cause":
        marks[-1] = " --- "
    lines = ["| " + " | ".join(names) + " |", "|" + "|".join(marks) + "|"]
    return lines + ["| " + " | ".join(cells) + " |" for cells in rows]


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
