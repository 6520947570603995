"""How long prompts and outputs are: distributions of token counts.

A distribution is a part of a scenario; `sample` draws whole numbers of at least one token. A new one is a class here,
added to `Lengths`.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hwspecs.errors import InputError, near_matches
from workloads.fields import MAX_TOKENS, Part, Tokens, finite, short_form

if TYPE_CHECKING:
    import numpy as np

_PositiveNumber = Annotated[float, BeforeValidator(finite), Field(gt=0, le=MAX_TOKENS)]


class Constant(Part):
    """Always the same; a bare integer means this."""

    kind: Literal["constant"]
    value: Tokens = Field(description="Tokens.")

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` lengths, int64."""
        import numpy as np

        return np.full(n, self.value, dtype=np.int64)

    def mean(self) -> float:
        """Expected length, tokens."""
        return float(self.value)


class Uniform(Part):
    """Every whole number from `low` to `high`, both included, equally often."""

    kind: Literal["uniform"]
    low: Tokens = Field(description="Shortest, tokens.")
    high: Tokens = Field(description="Longest, tokens; may occur.")

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if self.high < self.low:
            raise InputError("below `low`", place="high", found=self.high, allowed=f"an integer >= {self.low:,}")
        return self

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` lengths, int64."""
        return rng.integers(self.low, self.high, size=n, endpoint=True)

    def mean(self) -> float:
        """Expected length, tokens."""
        return (self.low + self.high) / 2


class Lognormal(Part):
    """Rounded lognormal, clipped to `min` and `max`.

    Clipped, not drawn again: what would be longer than `max` counts as `max` long, as under a limit on output tokens.
    """

    kind: Literal["lognormal"]
    median: _PositiveNumber = Field(description="Median before clipping, tokens.")
    sigma: Annotated[float, BeforeValidator(finite), Field(gt=0, le=10)] = Field(
        description="Standard deviation of the logarithm."
    )
    min: Tokens = Field(default=1, description="Shortest, tokens.")
    max: Tokens = Field(default=MAX_TOKENS, description="Longest, tokens.")

    @model_validator(mode="after")
    def _ordered(self) -> Lognormal:
        if self.max < self.min:
            raise InputError("below `min`", place="max", found=self.max, allowed=f"an integer >= {self.min:,}")
        return self

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` lengths, int64."""
        import numpy as np

        drawn = rng.standard_normal(n) * self.sigma + math.log(self.median)
        # clipped before the exponential, which could overflow
        drawn = np.exp(np.clip(drawn, math.log(self.min) - 1.0, math.log(self.max) + 1.0))
        return np.clip(np.rint(drawn), self.min, self.max).astype(np.int64)

    def mean(self) -> float:
        """Expected length, tokens, up to the rounding to whole ones (well below half a token unless sigma is tiny).

        With X lognormal and Phi the normal distribution function, E[clip(X, a, b)] is
        `a P(X < a) + b P(X > b) + exp(mu + sigma^2 / 2) (Phi(zb - sigma) - Phi(za - sigma))`, za = (ln a - mu) / sigma.
        """

        def phi(z: float) -> float:
            return 0.5 * math.erfc(-z / math.sqrt(2))

        mu, s = math.log(self.median), self.sigma
        za, zb = (math.log(self.min) - mu) / s, (math.log(self.max) - mu) / s
        inside = math.exp(mu + s * s / 2) * (phi(zb - s) - phi(za - s))
        return self.min * phi(za) + self.max * phi(-zb) + inside


class Empirical(Part):
    """Drawn from a list of values, with equal chances or in proportion to `weights`."""

    kind: Literal["empirical"]
    values: list[Tokens] = Field(min_length=1, description="Lengths, tokens.")
    weights: list[Annotated[float, BeforeValidator(finite), Field(ge=0)]] | None = Field(
        default=None, description="Relative frequency of each value; left out: all alike."
    )

    @model_validator(mode="after")
    def _matching(self) -> Empirical:
        check_weights(self.values, self.weights)
        return self

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` lengths, int64."""
        return sample_weighted(rng, self.values, self.weights, n)

    def mean(self) -> float:
        """Expected length, tokens."""
        if self.weights is None:
            return sum(self.values) / len(self.values)
        return sum(v * w for v, w in zip(self.values, self.weights, strict=True)) / sum(self.weights)


class Table(Part):
    """Drawn with replacement from a column of a CSV or Parquet file, or taken in the file's order."""

    kind: Literal["table"]
    path: str = Field(min_length=1, description="CSV or Parquet file (by the name's ending), relative to this file.")
    column: str = Field(min_length=1, description="Column with whole numbers of tokens.")
    order: Literal["sampled", "in_file"] = Field(
        default="sampled", description="Drawn with replacement, or row after row and again from the top."
    )

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` lengths, int64. InputError if the file cannot be used."""
        import numpy as np

        values = read_column(Path(self.path), self.column)
        return np.resize(values, n) if self.order == "in_file" else values[rng.integers(0, len(values), size=n)]

    def mean(self) -> float:
        """Mean of the column, tokens. InputError if the file cannot be used."""
        return float(read_column(Path(self.path), self.column).mean())


_short, _short_schema = short_form(int, "value", {"type": "integer", "minimum": 1, "maximum": MAX_TOKENS})

Lengths = Annotated[
    Annotated[Constant | Uniform | Lognormal | Empirical | Table | None, Field(discriminator="kind")],
    _short,
    _short_schema,
]
"""A distribution, or None where none is needed (with a trace)."""


def check_weights(values: list[int], weights: list[float] | None) -> None:
    """InputError unless there is one weight a value and not all are zero."""
    if weights is None:
        return
    if len(weights) != len(values):
        allowed = f"{len(values)} weights, one for each of `values`"
        raise InputError("not one weight for each value", place="weights", found=weights, allowed=allowed)
    if not 0 < sum(weights) < math.inf:
        raise InputError("the weights have no finite sum > 0", place="weights", found=weights, allowed="a weight > 0")


def sample_weighted(rng: np.random.Generator, values: list[int], weights: list[float] | None, n: int) -> np.ndarray:
    """`n` of `values`, int64, in proportion to `weights`, by inversion: the first k draws do not depend on `n`."""
    import numpy as np

    pool = np.array(values, dtype=np.int64)
    if weights is None:
        return pool[rng.integers(0, len(pool), size=n)]
    share = np.array(weights, dtype=np.float64)
    edges = np.cumsum(share / share.sum())
    last = int(np.flatnonzero(share)[-1])  # rounding of the sum must not reach a value of weight zero
    return pool[np.minimum(np.searchsorted(edges, rng.random(n), side="right"), last)]


def read_column(path: Path, column: str) -> np.ndarray:
    """The lengths in a column of a CSV or Parquet file, int64; InputError unless all are whole numbers >= 1."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if path.suffix not in (".csv", ".parquet"):
        raise InputError("not a table", found=str(path), allowed="a .csv or .parquet file")
    if not os.path.isfile(path):
        raise InputError("is a folder, not a file" if os.path.isdir(path) else "no such file", file=path)
    try:
        table = pa.csv.read_csv(path) if path.suffix == ".csv" else pa.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot be read as a table ({str(error).splitlines()[0]})", file=path) from None
    if column not in table.column_names:
        allowed = near_matches(column, table.column_names)
        raise InputError("no such column", file=path, place=f"column {column}", allowed=allowed)
    values: Any = table.column(column)
    where, allowed = f"column {column}", f"whole numbers of tokens from 1 to {MAX_TOKENS:,}"
    if len(values) == 0:
        raise InputError("the table has no rows", file=path, allowed=allowed)
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)  # null: all cells are empty
    if not any(is_kind(values.type) for is_kind in kinds):
        raise InputError("not a column of numbers", file=path, place=where, found=str(values.type), allowed=allowed)
    numbers = values.to_numpy().astype(np.float64)  # nulls become NaN
    with np.errstate(invalid="ignore"):
        bad = ~((numbers >= 1) & (numbers <= MAX_TOKENS) & (numbers == np.floor(numbers)))
    if bad.any():
        row = int(np.argmax(bad))
        found = values[row].as_py()
        place = f"row {row + 1}, column {column}"
        raise InputError(
            "not a length", file=path, place=place, found="empty" if found is None else found, allowed=allowed
        )
    return numbers.astype(np.int64)
