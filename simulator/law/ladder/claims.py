"""What the Kinetics paper claims, as figures: the marks of its plots, and functions that compute them anew.

Claims on curves of accuracy against cost take a `Frontier`, be it of digitised curves, of a fitted accuracy model or of
simulated costs, so that every figure comes from the same code. Claims on the law alone take models of the law.

Sources: arXiv 2506.05333 (sections and figures by the numbers of its second version) and its project page,
infini-ai-lab.github.io/Kinetics (CC BY-SA 4.0), of which the figures only are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simulator.law.closedform import LawModel
from simulator.law.frontiers import envelopes
from simulator.law.published import PEAK, published_parts
from simulator.law.split import parts

if TYPE_CHECKING:
    from simulator.law.frontiers.frontier import Frontier


class Mark(NamedTuple):
    """A figure that the paper marks in a plot: its value, and the cost or accuracy that it stands at."""

    value: float
    at: float


MARKED_GAIN = Mark(0.475, 0.08)
"""Figure 8d: accuracy gained by oracle top-k over dense, long chains of thought on AIME24, at so many B200 seconds."""
MARKED_SAVING = Mark(11.21, 0.76)
"""Figure 8d: times that dense attention costs as much as oracle top-k, at that accuracy."""
MARKED_PENALTY = Mark(3.0, 0.717)
"""Figure 1a: times that the choice optimal in FLOPs costs as much as the one optimal in eFLOPs, at that accuracy."""
SMALL = ("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b")
"""Models that the paper calls small (section 4.2)."""


class Headlines(NamedTuple):
    """What two envelopes, sparse and dense, differ by.

    Attributes
    ----------
    gain, gain_cost : the largest gain in accuracy (0 to 1) at equal cost, and that cost.
    saving, saving_accuracy : the largest ratio of costs at equal accuracy, and that accuracy; nan if no accuracy is
        reached by both.
    top_gain : gain at the highest cost of the frontier.
    """

    gain: float
    gain_cost: float
    saving: float
    saving_accuracy: float
    top_gain: float


def headlines(front: Frontier, sparse: str, model: str | None = None) -> Headlines:
    """Of the envelopes over all models, or of one model's curves."""
    full, thin = accuracies(front, "dense", model), accuracies(front, sparse, model)
    gain = envelopes.largest_gain(front.costs, full, thin)
    saving = envelopes.largest_saving(front.costs, full, thin)
    return Headlines(
        gain.points if gain else 0.0,
        gain.cost if gain else float("nan"),
        saving.ratio if saving else float("nan"),
        saving.accuracy if saving else float("nan"),
        float(thin[-1] - full[-1]),
    )


def gain_at(front: Frontier, sparse: str, cost: float, model: str | None = None) -> float:
    """Accuracy of `sparse` minus dense attention at a cost."""
    return envelopes.gain_at(front.costs, accuracies(front, "dense", model), accuracies(front, sparse, model), cost)


def saving_at(front: Frontier, sparse: str, accuracy: float, model: str | None = None) -> float:
    """Cost of dense over `sparse` attention at an accuracy; nan where one of the two does not reach it."""
    full, thin = accuracies(front, "dense", model), accuracies(front, sparse, model)
    return envelopes.saving_at(front.costs, full, thin, accuracy)


def accuracies(front: Frontier, attention: str, model: str | None = None) -> np.ndarray:
    """Accuracy along the frontier's costs: of the envelope, or of one model; never falling."""
    if model is None:
        return front.envelope(attention).accuracy
    return np.maximum.accumulate(front.curve(model, attention).accuracy)


def accuracy_share(front: Frontier, attention: str, models: Sequence[str]) -> float:
    """The part of the envelope's accuracies, from 0 to its highest, on which one of `models` is the best."""
    spans = front.envelope(attention).spans
    return sum(s.high - s.low for s in spans if s.model in models) / (spans[-1].high - spans[0].low) if spans else 0.0


class Penalty(NamedTuple):
    """At an accuracy: the model that another measure chooses, the one of the least cost, and the ratio of costs."""

    accuracy: float
    chosen: str
    best: str
    ratio: float


def penalties(
    by_measure: Frontier, by_cost: Frontier, attention: str, levels: Sequence[float] | np.ndarray
) -> list[Penalty]:
    """What it costs to choose the model by a measure (FLOPs, say) in place of the cost.

    Parameters
    ----------
    by_measure, by_cost : frontiers of the same strategies, their `costs` in the measure and in the cost.
    levels : accuracies. Those that no model reaches are left out.

    At each level every model that reaches it needs so much of the measure, and so much cost. The one with the least
    measure is chosen, and its cost is compared with the least.
    """
    wanted = np.asarray(levels, dtype=float)
    needs = [
        {m: envelopes.cost_at(front.costs, accuracies(front, attention, m), wanted) for m in by_cost.models}
        for front in (by_measure, by_cost)
    ]
    rows = []
    for i, level in enumerate(wanted):
        measure, cost = ({m: float(v[i]) for m, v in need.items() if np.isfinite(v[i])} for need in needs)
        reached = [m for m in cost if m in measure]
        if reached:
            chosen, best = min(reached, key=measure.__getitem__), min(reached, key=cost.__getitem__)
            rows.append(Penalty(float(level), chosen, best, cost[chosen] / cost[best]))
    return rows


# ---- from the law alone ----------------------------------------------------------------------------------------------


def attention_ratio(model: LawModel, prompt: Any, tokens: Any, ratio: float) -> Any:
    """Attention's equivalent FLOPs over the parameters' with dense attention: Phi of the paper's section 2, by the law
    (2a + n)(H + G E) D / P.
    """
    return parts(model, "dense", prompt, tokens, ratio=ratio).attention_ratio


def tokens_at_ratio(model: LawModel, prompt: float, wanted: float, ratio: float) -> float:
    """Generated tokens n at which `attention_ratio` is `wanted`; 0 where the prompt alone exceeds it."""
    slope = (model.q_heads + model.kv_heads * ratio) * model.depth / model.parameters
    return max(0.0, wanted / slope - 2 * prompt)


def kv_bytes_per_token(model: LawModel, kv_bytes: float = 2.0) -> float:
    """Bytes of K and V of one token: 2 G D elements."""
    return kv_bytes * model.key_elements


def growth_by_doubling(x: Any, y: Any) -> float:
    """The factor by which y grows where x doubles: 2 to the slope of a line of least squares through the logarithms."""
    slope = np.polyfit(np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float)), 1)[0]
    return float(2.0**slope)


def kv_growth(models: Mapping[str, LawModel]) -> float:
    """The factor by which a token's KV grows, from model to model, where the parameters double."""
    return growth_by_doubling([m.parameters for m in models.values()], [kv_bytes_per_token(m) for m in models.values()])


def published_tera_eflops(model: LawModel, prompt: float, tokens: float) -> float:
    """Tera-eFLOPs of one dense trial by the authors' formula, of a model as `published.published_model` has it."""
    return float(published_parts(model, "dense", prompt, tokens).eflops / 1e12)


def b200_seconds(tera_eflops: Any) -> Any:
    """The paper's B200 seconds of a cost in tera-eFLOPs: its peak is 4,500 TFLOP/s, twice that of dense bf16."""
    return tera_eflops * 1e12 / PEAK
