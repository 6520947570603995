"""Simulated costs of very many strategies: a few are simulated, and their multipliers on the law stand for the rest.

What a simulated trial costs over what the law says changes far more slowly with its length than the cost does. It is
simulated on a coarse grid of lengths and numbers of trials, for each model and attention, and joined in logarithms: by
cubic Hermite polynomials that keep the order (PCHIP) along lengths, linearly along trials. `simulated.simulated_costs`
has a finer grid; on the bundled accuracy model the two differ by less than 0.5 % in the mean and 2 % at most (a test).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.gpu import load_gpu
from simulator.law.costs import law_costs

if TYPE_CHECKING:
    import pandas as pd

LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
LENGTHS_OF_MANY, TRIALS = (512, 2048, 8192, 32768), 3
"""Lengths of the grid with one number of trials, and with several; most numbers of trials. At most 12 points in all,
which `simulated_costs` simulates one by one. Beyond the ends the multiplier is held."""
KIND = ["model", "attention", "budget", "page", "local"]

Simulate = Callable[["pd.DataFrame"], np.ndarray]
"""GPU-seconds of each row of a strategy table."""


def multiplied_costs(table: pd.DataFrame, gpu: str, simulate: Simulate) -> np.ndarray:
    """GPU-seconds per problem of each row of a strategy table, [rows].

    Rows with `lengths` cost the mean over them.

    Raises
    ------
    ValueError : prompts of several lengths. InputError : as `simulate` raises it.
    """
    prompts = np.unique(table["prompt_tokens"])
    if len(prompts) != 1:
        raise ValueError("multipliers are for prompts of one length")
    spread = _spread(table)
    device = load_gpu(gpu)
    law = law_costs(spread, device, "seconds")
    grid = _grid(spread)
    ratio = np.log(simulate(grid) / law_costs(grid, device, "seconds"))
    where = grid.assign(ratio=ratio).groupby(KIND, sort=False)
    factors = np.empty(len(spread))
    for key, index in spread.groupby(KIND, sort=False).indices.items():
        known, rows = where.get_group(key), spread.iloc[index]
        factors[index] = np.exp(_at(known, rows["tokens"].to_numpy(), rows["trials"].to_numpy()))
    of = spread["row"].to_numpy()
    return np.bincount(of, weights=law * factors, minlength=len(table)) / np.bincount(of, minlength=len(table))


def _spread(table: pd.DataFrame) -> pd.DataFrame:
    """One row a length: `row` says of which strategy."""
    lengths = [
        np.atleast_1d(tokens if found is None else found)
        for tokens, found in zip(table["tokens"], table.get("lengths", [None] * len(table)), strict=True)
    ]
    rows = np.repeat(np.arange(len(table)), [len(found) for found in lengths])
    columns = [*KIND, "prompt_tokens", "trials"]
    return table[columns].iloc[rows].reset_index(drop=True).assign(row=rows, tokens=np.concatenate(lengths))


def _grid(spread: pd.DataFrame) -> pd.DataFrame:
    """The strategies that are simulated: of each kind every length of the grid with every number of trials of it."""
    import pandas as pd

    counts = np.unique(spread["trials"])
    if len(counts) > TRIALS:
        counts = counts[[0, len(counts) // 2, -1]]
    lengths = [float(n) for n in (LENGTHS if len(counts) == 1 else LENGTHS_OF_MANY)]
    kinds = spread[KIND].drop_duplicates()
    points = pd.MultiIndex.from_product([lengths, counts], names=["tokens", "trials"]).to_frame(index=False)
    return kinds.merge(points, how="cross").assign(prompt_tokens=spread["prompt_tokens"].iloc[0])


def _at(known: pd.DataFrame, tokens: np.ndarray, trials: np.ndarray) -> Any:
    """Logarithms of the multiplier at lengths and numbers of trials."""
    from scipy.interpolate import PchipInterpolator

    values = known.pivot(index="trials", columns="tokens", values="ratio")
    x = np.log(values.columns.to_numpy(dtype=float))
    at = np.clip(np.log(tokens), x[0], x[-1])
    lines = np.array([PchipInterpolator(x, row)(at) for row in values.to_numpy()])
    counts = np.log(values.index.to_numpy(dtype=float))
    if len(counts) == 1:
        return lines[0]
    place = np.clip(np.searchsorted(counts, np.log(trials)), 1, len(counts) - 1)
    share = (np.log(trials) - counts[place - 1]) / (counts[place] - counts[place - 1])
    rows = np.arange(len(at))
    return (1 - share) * lines[place - 1, rows] + share * lines[place, rows]
