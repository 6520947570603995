"""Accuracy from curves: points (cost, accuracy) by model and attention, such as the paper's digitised frontiers.

A curve is accuracy against the cost that the authors computed, so the published law (`published`) is inverted: a point
of a dense curve at cost C has the length n whose published cost at prompt length `a` is C. With trials whose lengths
vary, C is a mean of c1 T + c2 T^2, and n is the constant length of the same cost: at least their mean length, at most
its root mean square.

A point of a sparse curve is already the best over lengths and KV budgets, of every problem by itself. Neither can be
had back from it, so sparse curves are given as a whole (`Curves.sparse_curves`) and have no rows in a strategy table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError, near_matches
from simulator.law.strategies import LIMITS, WHOLE
from simulator.law.tables import PROMPT, canonical, check_attentions, frame, read_table

if TYPE_CHECKING:
    import pandas as pd

LONGEST = LIMITS[-1]
"""Length at which the authors cut every trial, tokens; a dearer point has the same trials."""
DEAREST = 1e12
"""Tera-eFLOPs that no problem costs: years of a GPU."""
_SPELLINGS = {
    "dense": "dense", "full": "dense",
    "top_k": "top_k", "topk": "top_k", "oracle-topk": "top_k",
    "block_top_k": "block_top_k", "blocktopk": "block_top_k", "block-topk": "block_top_k",
}  # fmt: skip
POINTS = ("model", "attention", "cost_tera_eflops", "accuracy")


def published_parameters(model: str) -> float:
    """Parameters by which the published law costs `model`."""
    from simulator.law.published import published_model
    from workloads.model import load_model

    return float(published_model(load_model(model)).parameters)


@lru_cache(maxsize=256)
def published_polynomial(model: str, attention: str, budget: int = 0, prompt: int = PROMPT) -> tuple[float, ...]:
    """(c0, c1, c2): one trial of n tokens costs c0 + c1 n + c2 n^2 tera-eFLOPs by the published law, exactly.

    Dense and top-k attention; block top-k's cost is rounded to pages and is no polynomial.
    """
    from simulator.law.published import published_model, published_parts
    from workloads.model import load_model

    n = np.array([1024.0, 2048.0, 4096.0])
    parts = published_parts(published_model(load_model(model)), attention, prompt, n, budget=budget or None)
    cost = np.broadcast_to(parts.eflops, n.shape) * 1e-12
    c0, c1, c2 = np.linalg.solve(np.vander(n / 1024, increasing=True), cost) / np.array([1, 1024, 1024**2])
    return float(c0), float(c1), float(c2)


def equal_cost_length(model: str, cost: Any, prompt: int = PROMPT) -> np.ndarray:
    """Length n, tokens, of a dense trial that costs `cost` tera-eFLOPs by the published law.

    The positive root of c2 n^2 + c1 n - cost.
    """
    _, c1, c2 = published_polynomial(model, "dense", 0, prompt)
    cost = np.asarray(cost, dtype=float)
    return 2 * cost / (c1 + np.sqrt(c1**2 + 4 * c2 * cost))


@dataclass(frozen=True)
class Curves:
    """Curves of accuracy against published cost.

    Attributes
    ----------
    points : model, attention (as in `strategies.ATTENTIONS`), cost_tera_eflops, b200_seconds, accuracy; by rising cost.
    prompt : tokens of a problem, by which lengths are had from costs.
    """

    kind = "curves"
    name: str
    points: pd.DataFrame
    prompt: int = PROMPT
    warnings: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Models with a dense curve, small ones first."""
        names = self.points.loc[self.points["attention"] == "dense", "model"].unique()
        return tuple(sorted(names, key=published_parameters))

    @property
    def note(self) -> str:
        return (
            f"{self.name}: curves of accuracy against published cost, the best strategy of every problem at that cost. "
            f"Dense: lengths by the published law for a prompt of {self.prompt} tokens, each the constant length of "
            "the same cost; past a curve's last point its accuracy is held. Sparse: only as a whole, already the best "
            "over lengths and KV budgets. One trial a problem: nothing is known of how problems differ, so not of "
            "Best-of-N."
        )

    def dense_curve(self, model: str) -> tuple[np.ndarray, np.ndarray]:
        """(lengths in tokens, accuracy) of the dense curve. InputError if the model has none."""
        name = canonical(model)
        chosen = self.points[(self.points["model"] == name) & (self.points["attention"] == "dense")]
        if chosen.empty:
            raise InputError(
                "the curves have no dense curve of this model",
                file=self.name, found=model, allowed=near_matches(model, self.models),
            )  # fmt: skip
        return equal_cost_length(name, chosen["cost_tera_eflops"], self.prompt), chosen["accuracy"].to_numpy()

    def sparse_curves(self) -> pd.DataFrame:
        """Points that are not dense, as published: the columns of `points`."""
        return self.points[self.points["attention"] != "dense"].reset_index(drop=True)

    def expected(self, model: str, tokens: Any, budget: Any = None, trials: Any = 1) -> np.ndarray:
        """Accuracy of one dense trial of `tokens` tokens, interpolated over log tokens; shape of `tokens`.

        Held past the last point. Before the first it is 0 if the curve starts at 0, else NaN. InputError for a KV
        budget or more than one trial, which curves do not know.
        """
        if np.any(np.asarray(0 if budget is None else budget) != 0):
            raise InputError(
                "curves do not know KV budgets",
                file=self.name, place="budget", found=budget,
                allowed="dense attention; traces or the parametric model for a KV budget",
            )  # fmt: skip
        if np.any(np.asarray(trials) != 1):
            raise InputError(
                "curves do not know how problems differ, so not what more trials solve",
                file=self.name, place="trials", found=trials, allowed="1; traces or the parametric model for more",
            )  # fmt: skip
        lengths, accuracy = self.dense_curve(model)
        tokens = np.asarray(tokens, dtype=float)
        if not np.all(tokens > 0):
            raise InputError("not above 0", place="tokens", found=float(np.min(tokens)))
        before = 0.0 if accuracy[0] == 0 else np.nan
        return np.interp(np.log(np.minimum(tokens, LONGEST)), np.log(lengths), accuracy, left=before)

    def strategies(
        self,
        models: Iterable[str] | None = None,
        attentions: Iterable[str] = ("dense",),
        budgets: Iterable[int] = (),
        limits: Iterable[int] | None = None,
        trials: Iterable[int] = (1,),
        *,
        by_problem: bool = False,
    ) -> pd.DataFrame:
        """Rows of WHOLE with dense attention and one trial: at the points of the curves, or at `limits`.

        `tokens` is the length of the same cost, `limit` the next whole number. Points before the first limit (accuracy
        0) are left out, and limits below a curve that starts higher, of which `attrs["notes"]` of the table speaks;
        points past `LONGEST` are its trials, so the best of them is one row. `budgets` has no meaning here.
        InputError for another attention, more trials, or rows by problem.
        """
        if [kind for kind in check_attentions(attentions) if kind != "dense"]:
            raise InputError(
                "sparse curves have neither lengths nor KV budgets, only `sparse_curves()` as a whole",
                file=self.name, place="attention", found=list(attentions), allowed="dense",
            )  # fmt: skip
        if by_problem:
            raise InputError("curves are means over the problems", file=self.name, place="by_problem", found=True)
        limits = None if limits is None else list(limits)
        rows: list[tuple[Any, ...]] = []
        notes = []
        for model in self.models if models is None else models:
            lengths, accuracy = self.dense_curve(model)
            if limits is not None:
                if unknown := [limit for limit in limits if np.isnan(self.expected(model, limit))]:
                    start = f"{canonical(model)}: nothing is known below {lengths[0]:,.0f} tokens"
                    notes.append(f"{start}, so not of limits up to {max(unknown):,}")
                lengths, accuracy = np.array(limits, dtype=float), self.expected(model, limits)
            elif lengths[-1] > LONGEST:
                inside = lengths < LONGEST
                lengths, accuracy = (
                    np.append(lengths[inside], LONGEST),
                    np.append(accuracy[inside], accuracy[~inside].max()),
                )
            for count in trials:
                self.expected(model, 1, None, count)  # refuses more than one
                rows += [
                    (canonical(model), "dense", 0, 0, 0, self.prompt, int(np.ceil(n)), n, count, WHOLE, share, None)
                    for n, share in zip(lengths.tolist(), accuracy.tolist(), strict=True)
                    if share > 0
                ]
        table = frame(rows)
        table.attrs["notes"] = notes
        return table


def read_curves(path: str | Path, prompt: int = PROMPT) -> Curves:
    """The curves of a CSV or Parquet table with the columns model, attention, cost_tera_eflops, accuracy and, if it has
    them, b200_seconds (cost over the authors' 4,500 TFLOP/s otherwise).

    InputError for missing columns, values that are no numbers, a cost that is not above 0, an accuracy outside 0 to 1,
    an unknown attention or model. Curves that fall somewhere, or have several points at a cost, are kept, and
    `warnings` says where.
    """
    from simulator.law.published import PEAK

    table = read_table(path, POINTS, numbers=("cost_tera_eflops", "accuracy"))
    for column, bad, allowed in (
        (
            "cost_tera_eflops",
            ~table["cost_tera_eflops"].between(0, DEAREST, inclusive="neither"),
            f"above 0, below {DEAREST:g}",
        ),
        ("accuracy", ~table["accuracy"].between(0, 1), "0 to 1"),
        ("attention", ~table["attention"].isin(_SPELLINGS), ", ".join(_SPELLINGS)),
    ):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError("not allowed", file=path, place=f"row {row + 1}, column {column}",
                             found=table[column].iloc[row].item() if column != "attention" else table[column].iloc[row],
                             allowed=allowed)  # fmt: skip
    table["model"], table["attention"] = table["model"].map(canonical), table["attention"].map(_SPELLINGS)
    for model in table["model"].unique():
        _known(model, path)
    if "b200_seconds" not in table:
        table["b200_seconds"] = table["cost_tera_eflops"] / (PEAK * 1e-12)
    columns = ["model", "attention", "cost_tera_eflops", "b200_seconds", "accuracy"]
    table = table.sort_values(["model", "attention", "cost_tera_eflops"], kind="stable")[columns]
    warnings = []
    for (model, attention), curve in table.groupby(["model", "attention"]):
        if (twice := curve["cost_tera_eflops"].duplicated()).any():
            again = curve["cost_tera_eflops"][twice].iloc[0]
            warnings.append(
                f"{model}, {attention}: several points at one cost, such as {again:.4g} tera-eFLOPs; all kept"
            )
        fall = np.diff(curve["accuracy"])
        if (fall < 0).any():
            at, worst = curve["cost_tera_eflops"].iloc[int(np.argmin(fall))], -100 * fall.min()
            warnings.append(
                f"{model}, {attention}: accuracy falls as cost rises, by up to {worst:.1f} points after "
                f"{at:.4g} tera-eFLOPs; kept as it is"
            )
    return Curves(str(path), table.reset_index(drop=True), prompt, tuple(warnings))


def _known(model: str, path: str | Path) -> None:
    from workloads.model import load_model

    try:
        load_model(model, place="column model")
    except InputError as error:
        raise error.at(file=path) from None
