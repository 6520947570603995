"""What the strategies of a table (`strategies`) cost by the law, and from where on attention costs the most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.dtypes import BYTES, check_dtype
from hwspecs.errors import InputError
from simulator.law.closedform import LawModel, law_model
from simulator.law.pricing import UNITS, Rates, priced, rates
from simulator.law.published import published_model, published_parts
from simulator.law.split import Parts, parts, step_weight_bytes

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs.gpu import Gpu
    from workloads.model import Model

__all__ = ["UNITS", "Parts", "Rates", "crossing", "law_costs", "parts", "priced", "rates", "step_weight_bytes"]

NEEDED = ("model", "attention", "budget", "page", "prompt_tokens", "tokens", "trials")
"""Columns of a table of strategies that a cost follows from, beside `lengths` if it has them."""


def law_costs(
    table: pd.DataFrame,
    gpu: Gpu,
    unit: str = "eflops",
    *,
    as_published: bool = False,
    kv_dtype: str | None = None,
    batch: float | None = None,
    prefill: bool = False,
) -> np.ndarray:
    """The cost of a problem (all its trials) for each row of a table of strategies, float64.

    A row with `lengths` costs the mean over them of what trials of one such length each cost, as the authors take it;
    another one what trials of its mean length cost.

    Parameters
    ----------
    unit : of `pricing.UNITS`: tera-eFLOPs, GPU-seconds (eFLOPs / peak), USD, joules; or `flops`, tera-FLOPs alone.
    as_published : by the authors' formulas, parameter counts, E and B200; the other options cannot go with it.
    kv_dtype : of the KV cache; the checkpoint's if not given. batch, prefill : see `split.parts`.

    Raises
    ------
    InputError : an unknown model, attention, unit or format, a column that is missing, numbers out of range.
    """
    if missing := [name for name in NEEDED if name not in table.columns]:
        raise InputError("columns are missing from the table of strategies", found=missing, allowed=", ".join(NEEDED))
    from workloads.model import load_model

    lengths, rows = row_lengths(table)
    costs = np.empty(len(lengths))
    columns = {name: table[name].to_numpy(dtype=float)[rows] for name in ("prompt_tokens", "trials", "budget")}
    kinds = table[["model", "attention", "page"]].itertuples(index=False, name=None)
    groups: dict[tuple[Any, ...], int] = {}
    kind = np.array([groups.setdefault(key, len(groups)) for key in kinds], dtype=int)[rows]
    for (name, attention, page), index in groups.items():
        here = kind == index
        a, trials, budget = (columns[key][here] for key in ("prompt_tokens", "trials", "budget"))
        cap = None if attention == "dense" else budget
        split, rate = strategy_parts(
            load_model(name), attention, a, lengths[here], trials, cap, int(page), gpu,
            as_published=as_published, kv_dtype=kv_dtype, batch=batch, prefill=prefill,
        )  # fmt: skip
        costs[here] = priced(split, rate, unit)
    return np.bincount(rows, weights=costs, minlength=len(table)) / np.bincount(rows, minlength=len(table))


def row_lengths(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of all rows one after the other, and the row of each."""
    mean = table["tokens"].to_numpy(dtype=float)
    if "lengths" not in table.columns:
        return mean, np.arange(len(table))
    given = [
        mean[i : i + 1] if found is None or np.ndim(found) == 0 else np.asarray(found, dtype=float)
        for i, found in enumerate(table["lengths"])
    ]
    counts = np.array([len(found) for found in given], dtype=int)
    if (counts == 0).any():
        where = f"row {int(np.argmin(counts))}, column lengths"
        raise InputError(
            "a strategy without a trial", place=where, allowed="the generated tokens of at least one trial"
        )
    return np.concatenate(given) if given else mean, np.repeat(np.arange(len(table)), counts)


def strategy_parts(
    model: Model,
    attention: str,
    a: Any,
    n: Any,
    trials: Any,
    budget: Any,
    page: int,
    gpu: Gpu,
    *,
    as_published: bool = False,
    kv_dtype: str | None = None,
    batch: float | None = None,
    prefill: bool = False,
    exact: bool = False,
) -> tuple[Parts, Rates]:
    """`split.parts`, or `published_parts`, of a model on a GPU, and the rates that price them."""
    if attention != "dense" and model.latent is not None and model.latent.indexer is not None:
        problem = f"{model.name} chooses the keys that it reads itself, and takes no other choice"
        raise InputError(problem, place="--attention", found=attention, allowed="dense")
    rate = rates(gpu, model, as_published=as_published)
    if as_published:
        if kv_dtype is not None or batch is not None or prefill or exact:
            raise InputError(
                "the authors' formulas have no options", allowed="no KV format, batch, prefill or exact sums"
            )
        return published_parts(published_model(model), attention, a, n, trials, budget, page or None), rate
    try:
        dtype = check_dtype(kv_dtype or model.kv_dtype or model.dtype)
    except InputError as error:
        raise error.at(place="--kv-dtype") from None
    if batch is not None and not 1 <= batch < np.inf:
        raise InputError("out of range", place="--batch", found=batch, allowed="sequences, at least 1")
    split = parts(
        law_model(model, dtype), attention, a, n, trials, budget, page or None,
        ratio=rate.ratio, kv_bytes=BYTES[dtype], batch=batch,
        weight_bytes=None if batch is None else step_weight_bytes(model, batch), prefill=prefill, exact=exact,
    )  # fmt: skip
    return split, rate


def crossing(
    model: LawModel, attention: str, a: Any, N: Any = 1, budget: Any = None, page: int | None = None, **options: Any
) -> np.ndarray:
    """Generated tokens of a trial at which attention costs as much as the parameters, over the whole trial.

    With dense attention on all layers and two-byte KV it is (P - 2 a (H + E G / N) D) / ((H + E G) D). For every kind
    it is found by bisection, since the ratio never falls along a chain: 0 where attention costs more from the first
    token on, infinity where it never does. `options` are those of `split.parts` (`ratio` and so on).
    """
    a, N, cap = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (a, N, 1 if budget is None else budget)))

    def ratio(n: Any) -> np.ndarray:
        return parts(model, attention, a, n, N, None if budget is None else cap, page, **options).attention_ratio

    low, high = np.zeros(a.shape), np.full(a.shape, 2.0**50)
    never, always = ratio(high) < 1, ratio(np.full(a.shape, 1e-6)) >= 1
    for _ in range(110):
        middle = (low + high) / 2
        above = ratio(middle) >= 1
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(never, np.inf, np.where(always, 0.0, high))
