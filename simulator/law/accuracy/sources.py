"""Sources of accuracy, and how one is chosen: what the law's commands take as `--accuracy`.

All have `kind`, `name`, `models`, `note` (what it is and what it cannot say), `warnings`, and `strategies(...)`, which
gives a strategy table with expected accuracies. Curves and the parametric model can also be asked for one number,
`expected(model, tokens, budget, trials)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hwspecs.errors import InputError
from hwspecs.yamlfile import YamlFile, read_yaml
from simulator.law.accuracy.parametric import Coefficients, Parametric
from simulator.law.strategies import LIMITS
from simulator.law.tables import PROMPT, canonical

if TYPE_CHECKING:
    import pandas as pd

BUNDLED = Path(__file__).parent / "aime24.yaml"
"""Coefficients fitted to the paper's AIME24 curves."""
_COLUMNS = tuple(Coefficients.__dataclass_fields__)
_SHARES = ("ceiling", "kept")


class Accuracy(Protocol):
    """What every source of accuracy has."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def models(self) -> tuple[str, ...]: ...
    @property
    def note(self) -> str: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...

    def strategies(
        self,
        models: Iterable[str] | None = ...,
        attentions: Iterable[str] = ...,
        budgets: Iterable[int] = ...,
        limits: Iterable[int] = ...,
        trials: Iterable[int] = ...,
        *,
        by_problem: bool = ...,
    ) -> pd.DataFrame: ...


def load_accuracy(spec: str | Path | None = None) -> Accuracy:
    """The source of accuracy that `spec` names.

    Parameters
    ----------
    spec : None for the bundled parametric model (AIME24, Qwen3); a `.yaml` of such coefficients; a table (`.csv`,
        `.parquet`) of curves (columns model, attention, cost_tera_eflops, accuracy) or of trials (problem, trial,
        tokens, correct); a `.jsonl` log of generations or a folder of such logs.

    Raises
    ------
    InputError : no such file, an ending or columns that are none of these, and whatever the reader finds wrong.
    """
    if spec is None:
        return bundled()
    path = Path(spec)
    if path.suffix in (".yaml", ".yml"):
        return read_parametric(path)
    if path.is_dir() or path.suffix == ".jsonl":
        from simulator.law.accuracy.generations import read_logs

        return read_logs(path)
    if path.suffix in (".csv", ".parquet"):
        from simulator.law.accuracy.curves import POINTS, read_curves
        from simulator.law.accuracy.traces import NEEDED, read_trials
        from simulator.law.tables import read_table

        columns = set(read_table(path, ()).columns)
        if not columns & {"cost_tera_eflops", "accuracy", *NEEDED}:
            raise InputError(
                "neither curves nor trials", file=path, found=", ".join(map(str, sorted(columns, key=str))),
                allowed=f"curves ({', '.join(POINTS)}) or trials ({', '.join(NEEDED)})",
            )  # fmt: skip
        if {"cost_tera_eflops", "accuracy"} & columns:
            return read_curves(path)
        return read_trials(path)
    raise InputError(
        "not a source of accuracy" if path.exists() else "no such file", file=spec,
        allowed="curves or trials (.csv, .parquet), logs of generations (.jsonl or a folder), coefficients (.yaml)",
    )  # fmt: skip


@lru_cache(maxsize=1)
def bundled() -> Parametric:
    """The parametric model of AIME24 that comes with the package."""
    return read_parametric(BUNDLED)


def read_parametric(path: str | Path) -> Parametric:
    """A file of coefficients as `fitaccuracy` writes it. InputError for a missing or wrong value."""
    file = read_yaml(Path(path))
    data = file.data
    if not isinstance(data, Mapping) or not isinstance(data.get("models"), Mapping) or not data["models"]:
        raise InputError("not a file of coefficients", file=path, allowed="a mapping with `models`")
    columns = tuple(data.get("columns", _COLUMNS))
    if columns != _COLUMNS:
        raise InputError("other columns", file=path, place="columns", found=columns, allowed=", ".join(_COLUMNS))
    fitted, draws, errors = {}, {}, {}
    alternatives: dict[str, dict[str, Coefficients]] = {}
    for name, entry in data["models"].items():
        place, model = ("models", name), canonical(name)
        if not isinstance(entry, Mapping):
            raise InputError("not a mapping", file=path, place=f"models.{name}", found=entry)
        fitted[model] = _coefficients(file, entry.get("coefficients"), (*place, "coefficients"))
        errors[model] = dict(entry.get("error_points", {}))
        samples = entry.get("bootstrap", [])
        draws[model] = tuple(_coefficients(file, one, (*place, "bootstrap", i)) for i, one in enumerate(samples))
        for end, other in entry.get("alternatives", {}).items():
            alternatives.setdefault(end, {})[model] = _coefficients(file, other, (*place, "alternatives", end))
    for end, others in alternatives.items():
        if missing := [name for name in fitted if name not in others]:
            raise InputError(f"no alternative {end}", file=path, place=f"models.{missing[0]}.alternatives")
    about = data.get("about", data.get("name", path))
    note = f"{about}. {data.get('note', 'Fitted to: ' + str(data.get('citation', 'not said')))}."
    ends = data.get("budgets")
    if ends is not None and not (isinstance(ends, list) and len(ends) == 2 and all(type(end) is int for end in ends)):
        raise InputError("not two KV budgets", file=path, place="budgets", line=file.line(("budgets",)), found=ends)
    return Parametric(
        name=str(data.get("name", path)),
        note=note,
        coefficients=fitted,
        longest=_whole(file, data, "longest", LIMITS[-1]),
        budgets=None if ends is None else (ends[0], ends[1]),
        trials=_whole(file, data, "trials", 1) if "trials" in data else None,
        prompt=_whole(file, data, "prompt_tokens", PROMPT),
        problems=_whole(file, data, "problems", 30),
        caveats=tuple(map(str, data.get("not_identified", ()))),
        errors=errors,
        draws=draws,
        alternatives=alternatives,
    )


def _whole(file: YamlFile, data: Mapping[str, Any], key: str, default: int) -> int:
    value = data.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise InputError("not a whole number above 0", file=file.path, place=key, line=file.line((key,)), found=value)
    return value


def _coefficients(file: YamlFile, values: Any, place: tuple[str | int, ...]) -> Coefficients:
    where: dict[str, Any] = {"file": file.path, "place": ".".join(map(str, place)), "line": file.line(place)}
    if not isinstance(values, list) or len(values) != len(_COLUMNS):
        raise InputError("not a list of coefficients", found=values, allowed=", ".join(_COLUMNS), **where)
    for column, value in zip(_COLUMNS, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{column} is not a number", found=value, **where)
        free = value != value and column in ("kept", "scale", "steepness")  # NaN: nothing known of KV budgets
        if not free and not 0 < value < (1 + 1e-9 if column in _SHARES else 1e9):
            allowed = "above 0, at most 1" if column in _SHARES else "above 0"
            raise InputError(f"{column} is out of range", found=value, allowed=allowed, **where)
    return Coefficients(*map(float, values))
