"""Does the law survive? Its conclusions on every rung of the ladder, from the closed form to the simulation.

A ladder (`climb`) says what strategies cost on nine rungs, an accuracy model what they solve. On each
rung, for each GPU, the costs give frontiers, the frontiers give measures (`measures`), and the measures give verdicts
(`verdicts`). What strategies solve is the same on all rungs: only costs change.

Strategies that the ladder was not computed at are priced between those that it was, smoothly (PCHIP) in the logarithms
of generated tokens and cost; with Best-of-N, of trials and cost. Beyond the ends the outermost slope is continued, and
a note says for how many strategies.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwspecs.errors import InputError, near_matches
from hwspecs.gpu import Gpu, load_gpu
from simulator.law.costs import law_costs
from simulator.law.frontiers.frontier import frontier
from simulator.law.ladder.measures import Measures, measure
from simulator.law.ladder.verdicts import SMALL, Claim, Verdict, claims_for, judge, spans_sizes
from simulator.law.strategies import AXES

COSTS = 160
"""Points of a frontier's cost axis."""
LENGTHS_VARY = 8
"""The rung from which on lengths vary."""
_MIXED = ["gpu", "model", "attention", "budget"]


@dataclass(frozen=True)
class Reference:
    """The strategy whose cost is shown rung by rung: `limit` tokens after which a trial is cut, `trials`, and with
    sparse attention a KV budget of `budget` tokens. `model` is the one that figures show, and along whose frontier
    choices are followed.
    """

    model: str
    limit: int
    trials: int
    budget: int


@dataclass(frozen=True)
class Judged:
    """One rung on one GPU: what was measured, and the verdicts in the order of the claims."""

    gpu: str
    rung: int
    measures: Measures
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Comparison:
    """The law on every rung.

    Attributes
    ----------
    ladder : the strategies that were priced, a pandas data frame (`simulator.law.ladder.climb`).
    shown : of the same columns, the reference strategy for each GPU, model and attention.
    axis : of AXES. attention : the sparse one. accuracy : name of the accuracy model.
    claims : the conclusions. judged : by GPU and rung, both rising.
    parameters : by model, in the order of their size.
    notes : what the answer rests on, in sentences.
    """

    ladder: Any
    shown: Any
    axis: str
    attention: str
    reference: Reference
    accuracy: str
    claims: tuple[Claim, ...]
    judged: tuple[Judged, ...]
    parameters: dict[str, float]
    notes: tuple[str, ...]

    @property
    def gpus(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.ladder["gpu"]))

    @property
    def rungs(self) -> tuple[int, ...]:
        return tuple(sorted(dict.fromkeys(self.ladder["rung"])))

    def at(self, gpu: str, rung: int) -> Judged:
        """KeyError if there is no such rung or GPU."""
        found = [j for j in self.judged if (j.gpu, j.rung) == (gpu, rung)]
        if not found:
            raise KeyError((gpu, rung))
        return found[0]

    def steps(self) -> Any:
        """The reference strategy by rung: the ladder's columns with `step` (multiplier on the rung below, 1 on the
        first), `total` (on the closed form) and `attention_ratio`.
        """
        return with_multipliers(self.shown)


def with_multipliers(shown: Any) -> Any:
    """One strategy by GPU, model, attention and rung, with multipliers; see `Comparison.steps`."""
    rows = shown.sort_values("rung", kind="stable").copy()
    groups = rows.groupby(_MIXED, sort=False)["seconds"]
    rows["step"] = (rows["seconds"] / groups.shift(1)).fillna(1.0)
    rows["total"] = rows["seconds"] / groups.transform("first")
    rows["attention_ratio"] = rows["attention_s"] / rows["parameters_s"]
    return rows.sort_index(kind="stable").reset_index(drop=True)


def compare(
    ladder: Any,
    shown: Any,
    accuracy: Any,
    *,
    axis: str = "long_cot",
    reference: Reference,
    limits: Sequence[int] | None = None,
    trials: Sequence[int] | None = None,
    notes: Sequence[str] = (),
    hardware: Mapping[str, Gpu] | None = None,
) -> Comparison:
    """The law on every rung of a ladder.

    Parameters
    ----------
    ladder : of `climb.ladder`, with models by the names that the accuracy model has; dense attention
        and at most one kind of sparse attention.
    shown : the same at the reference strategy alone.
    accuracy : of `simulator.law.accuracy.sources.load_accuracy`.
    axis : `long_cot` (one trial, its length varies) or `best_of_n` (the number of trials does).
    reference : what `shown` is.
    limits, trials : of the strategies that compete; those of the ladder if not given.
    notes : said before the comparison's own.
    hardware : the ladder's GPUs by name, of those that are not bundled as they are.

    Raises
    ------
    InputError : an unknown axis, an unknown reference model, two kinds of sparse attention, a model without accuracy.
    """
    from simulator.law.closedform import law_model
    from workloads.model import load_model

    sparse = [kind for kind in dict.fromkeys(ladder["attention"]) if kind != "dense"]
    if len(sparse) > 1:
        raise InputError("the ladder has several kinds of sparse attention", found=", ".join(sparse), allowed="one")
    laws = {name: law_model(load_model(name), "bf16") for name in dict.fromkeys(ladder["model"])}
    parameters = {name: float(law.parameters) for name, law in laws.items()}
    parameters = dict(sorted(parameters.items(), key=lambda item: item[1]))
    check_question(axis, parameters, reference, accuracy)
    attention = sparse[0] if sparse else "top_k"
    said = list(notes)
    table, missing = _strategies(ladder, accuracy, axis, sparse, limits, trials, said)
    small = [name for name, size in parameters.items() if size < SMALL]
    if len(small) in (0, len(parameters)):
        missing["small"] = f"needs models on both sides of {SMALL / 1e9:g}B"
    gpu = load_gpu("h200-sxm")  # any: FLOPs do not depend on it
    if not spans_sizes(parameters):
        missing |= dict.fromkeys(("threshold", "flops"), "needs three models or more, on both sides of 14B")
    flops = frontier(table, law_costs(table.drop(columns="lengths", errors="ignore"), gpu, "flops"), points=COSTS)
    steps = with_multipliers(shown)
    judged, beyond = [], 0.0
    given, spread = hardware or {}, {}
    if axis == "long_cot":
        spread = {name: law_spread(table, given.get(name) or load_gpu(name)) for name in dict.fromkeys(ladder["gpu"])}
    for (gpu, rung), rows in ladder.groupby(["gpu", "rung"], sort=True):
        cost, outside = price(rows, table, axis, spread.get(gpu) if rung >= LENGTHS_VARY else None)
        beyond = max(beyond, outside)
        dense = steps[(steps["gpu"] == gpu) & (steps["rung"] == rung) & (steps["attention"] == "dense")]
        ratios = {row.model: float(row.attention_ratio) for row in dense.itertuples() if row.attention_ratio > 0}
        front = frontier(table, cost, points=COSTS)
        found = measure(front, flops, attention, parameters, small, reference.model, ratios)
        if "small" in missing:
            found = replace(found, small_dense=None, small_sparse=None)
        if "growth" in missing:
            found = replace(found, growth=None)
        judged.append(Judged(str(gpu), int(rung), found, judge(found, axis, attention, parameters, missing)))
    if beyond:
        said.append(
            f"{100 * beyond:.0f} % of the strategies are longer or shorter than those that the ladder was computed at: "
            "their costs continue its slope"
        )
    order = {gpu: i for i, gpu in enumerate(dict.fromkeys(ladder["gpu"]))}
    judged.sort(key=lambda j: (order[j.gpu], j.rung))
    return Comparison(
        ladder, shown, axis, attention, reference, accuracy.name, claims_for(axis, attention), tuple(judged),
        parameters, tuple(dict.fromkeys(said)),
    )  # fmt: skip


def check_question(axis: str, models: Collection[str], reference: Reference, accuracy: Any) -> None:
    """InputError for an unknown axis, a reference that is none of the models, or a model without accuracy."""
    if axis not in AXES:
        allowed = near_matches(axis, AXES)
        raise InputError("unknown way to spend a cost", place="--strategy", found=axis, allowed=allowed)
    if lacking := [name for name in models if name not in accuracy.models]:
        raise InputError(
            f"{accuracy.name} does not say what {', '.join(lacking)} solves", place="--model", found=lacking[0],
            allowed=", ".join(accuracy.models),
        )  # fmt: skip
    if reference.model not in models:
        raise InputError(
            "the reference is not one of the models", place="--reference", found=reference.model,
            allowed=", ".join(models),
        )  # fmt: skip


def _strategies(
    ladder: Any,
    accuracy: Any,
    axis: str,
    sparse: Sequence[str],
    limits: Sequence[int] | None,
    trials: Sequence[int] | None,
    said: list[str],
) -> tuple[Any, dict[str, str]]:
    """The strategies that compete, with their accuracies, and why conclusions cannot be judged, by conclusion."""
    missing: dict[str, str] = {}
    models = list(dict.fromkeys(ladder["model"]))
    budgets = sorted({int(b) for b in ladder.loc[ladder["attention"] != "dense", "budget"]})
    kinds = ["dense", *sparse]
    if sparse and accuracy.kind == "curves":
        kinds = ["dense"]
        why = "the curves give sparse attention only as a whole, not by budget"
        missing |= dict.fromkeys(("points", "saving", "small", "growth"), why)
    elif not sparse:
        missing |= dict.fromkeys(("points", "saving", "small", "growth"), "no sparse attention was asked for")
    elif len(budgets) < 3:
        missing["growth"] = "needs three KV budgets or more"
    given = {
        "limits": list(limits or sorted({int(x) for x in ladder["limit"]})),
        "trials": list(trials or sorted({int(x) for x in ladder["trials"]})),
    }
    table = accuracy.strategies(models=models, attentions=kinds, budgets=budgets, **given)
    said += [accuracy.note] if accuracy.note else []
    said += [str(note) for note in table.attrs.get("notes", ())]
    return table.reset_index(drop=True), missing


def law_spread(table: Any, gpu: Gpu) -> np.ndarray:
    """By the law, what each strategy's trials cost over as many of their mean length: 1 where they are all alike."""
    if "lengths" not in table:
        return np.ones(len(table))
    return law_costs(table, gpu) / law_costs(table.drop(columns="lengths"), gpu)


def price(rows: Any, table: Any, axis: str, spread: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """What each strategy of `table` costs on one rung and GPU, and the share of them outside of the rung's `rows`.

    rows : of one rung and GPU. Between them as the module says.
    spread : of `law_spread`, where the rung's lengths vary. The rung's are the scenario's, which vary over the whole
        benchmark; strategies speak of a problem each, whose trials vary less. What the law makes of the one spread is
        taken out and what it makes of the other put in.
    """
    along = "tokens" if axis == "long_cot" else "trials"
    cost, outside = np.full(len(table), np.nan), 0
    known = {(str(m), str(a), int(b)): part for (m, a, b), part in rows.groupby(_MIXED[1:], sort=False)}
    for (model, attention, budget), index in table.groupby(_MIXED[1:], sort=False).indices.items():
        part = known.get((str(model), str(attention), int(budget)))
        if part is None:
            words = attention if attention == "dense" else f"{attention} attention with a KV budget of {budget:,}"
            raise InputError(f"the ladder does not have {model} with {words}")
        part = part.sort_values(along)
        x, y = np.log(part[along].to_numpy(float)), np.log(part["seconds"].to_numpy(float))
        at = np.log(np.maximum(table[along].to_numpy(float)[index], 1e-9))
        cost[index] = np.exp(_smooth(x, y, at))
        if spread is not None:
            cost[index] *= spread[index] / np.interp(at, x, part["spread"].to_numpy(float))
        outside += int(((at < x[0] - 1e-9) | (at > x[-1] + 1e-9)).sum())
    return cost, outside / max(1, len(table))


def _smooth(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """y at `at` through the points (x, y), rising x: monotone where they are, straight beyond the ends."""
    if len(x) == 1:
        return np.asarray(y[0] + (at - x[0]))  # in proportion
    from scipy.interpolate import PchipInterpolator

    inside = PchipInterpolator(x, y)(np.clip(at, x[0], x[-1]))
    first, last = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    return np.asarray(inside + np.minimum(at - x[0], 0) * first + np.maximum(at - x[-1], 0) * last)
