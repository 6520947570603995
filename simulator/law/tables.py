"""What all sources of accuracy share: models' names, attentions, and the making of a strategy table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError, near_matches
from simulator.law.strategies import ATTENTIONS, COLUMNS

if TYPE_CHECKING:
    import pandas as pd

PROMPT = 135
"""Tokens of a problem, where nothing says otherwise. The steps of the paper's dense curves, which lie where the
cheapest limits (2,048, 4,096, ...) become affordable, fit 110 to 170; 100 more raise the cost of 2,048 tokens by 8% and
that of 16,384 by 1%."""
PAGES = 16384
"""Tokens per page times KV budget of the paper's block top-k (frontier_genlen.ipynb: block_size = 16384 // budget)."""
_SIZE = re.compile(r"(?<=-\d)-(?=\d+b\b)")  # qwen3-1-7b in the names of the authors' files


def canonical(model: str) -> str:
    """The name by which tables call a model: lower case, without the organisation."""
    return _SIZE.sub(".", str(model).strip().lower().rpartition("/")[2])


def block_page(budget: int) -> int:
    """Tokens per page of block top-k on the paper's grid: fewer for larger budgets, at most the budget."""
    return max(1, min(PAGES // budget, budget))


def check_attentions(attentions: Iterable[str]) -> list[str]:
    """InputError for one that is not of `ATTENTIONS`."""
    kinds = [attentions] if isinstance(attentions, str) else list(attentions)
    for kind in kinds:
        if kind not in ATTENTIONS:
            raise InputError("unknown attention", place="attention", found=kind, allowed=near_matches(kind, ATTENTIONS))
    return kinds


def frame(rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """A strategy table of rows that have `COLUMNS` and `lengths`."""
    import pandas as pd

    table = pd.DataFrame(rows, columns=[*COLUMNS, "lengths"])
    whole = dict.fromkeys(("budget", "page", "local", "prompt_tokens", "limit", "trials"), "int64")
    return table.astype({**whole, "tokens": "float64", "accuracy": "float64"})


def read_table(path: str | Path, columns: Iterable[str], numbers: Iterable[str] = ()) -> pd.DataFrame:
    """A CSV or Parquet file, by its ending. `numbers` are columns made float where they are there.

    InputError for a file that cannot be read, has no rows, lacks one of `columns`, or has something else than a finite
    number in one of `numbers`.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise InputError("is a folder, not a file" if path.is_dir() else "no such file", file=path)
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError, UnicodeDecodeError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"cannot be read as a table: {first}", file=path, allowed="CSV, or Parquet (.parquet)"
        ) from None
    if table.empty:
        raise InputError("the table has no rows", file=path)
    if missing := [name for name in columns if name not in table]:
        raise InputError(
            f"missing column {', '.join(missing)}", file=path, found=", ".join(map(str, table.columns)),
            allowed=", ".join(columns),
        )  # fmt: skip
    for name in numbers:
        if name not in table:
            continue
        values = pd.to_numeric(table[name], errors="coerce").astype(float)
        bad = ~np.isfinite(values.to_numpy())
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            found = str(table[name].iloc[row])
            raise InputError("not a finite number", file=path, place=f"row {row + 1}, column {name}", found=found)
        table[name] = values
    return table
