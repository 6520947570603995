"""The law's conclusions, and what is left of each once an assumption is lifted.

Every conclusion is one number, its effect: 0 where there is nothing of it, 1 where it is as large as the paper says
(arXiv 2506.05333). Ratios are compared by their logarithms, so that 1x is nothing and a factor counts the same wherever
it is lost. The verdict is the same rule for all of them:

| verdict | effect |
| --- | --- |
| holds | at least HOLDS: three quarters of what the paper says |
| weaker | between |
| gone | below GONE: less than a quarter |

The quarters are a convention, set before any number was seen; the numbers stand beside the words so that anyone can
apply another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.law.labels import size_label
from simulator.law.ladder.claims import MARKED_PENALTY

if TYPE_CHECKING:
    from simulator.law.ladder.measures import Measures

HOLDS, GONE = 0.75, 0.25
WORDS = ("holds", "weaker", "gone", "unknown")

ATTENTION_RATIO = 10.0
"""Attention costs 10 to 1,000 times the parameters in long reasoning (section 2): the lower end."""
THRESHOLD, ROOM = 14e9, 0.26
"""Parameters below which it pays to grow the model before the chain (section 3.1: "empirically, 14B"), and the accuracy
that the model has still to gain that is left for 14B: `measures.lasting_change` on figure 8d, digitised, which is of
long chains of thought. With Best-of-N the size alone is judged."""
SMALL = 5e9
"""Fewer parameters have the models that the paper calls small: 0.6B, 1.7B and 4B (figure 7)."""
GAINS = {
    ("long_cot", "top_k"): (0.475, 11.21),
    ("best_of_n", "top_k"): (0.65, 10.67),
    ("long_cot", "block_top_k"): (0.385, 5.13),
    ("best_of_n", "block_top_k"): (0.45, 8.58),
}
"""Gain at equal cost and saving at equal accuracy as marked in the plots of the paper and of its project page
(infini-ai-lab.github.io/Kinetics)."""
SMALL_SHARE = 0.40
"""By how much the share of the small models grows with sparse attention. The paper says that they are more effective
and gives no figure: this is `claims.accuracy_share` on its figure 8d, digitised: 41 % dense, 81 % sparse."""
BUDGET_GROWTH, TOKENS_GROWTH = 0.25, 0.80
"""Exponents of the cost for the best KV budget and for the tokens (figure 7, Qwen3-8B, Best-of-N: doubling the cost
multiplies them by 1.18 and 1.74)."""


@dataclass(frozen=True)
class Claim:
    """A conclusion of the law: `key`, `title`, what is measured (`measure`), and what the paper says (`paper`)."""

    key: str
    title: str
    measure: str
    paper: str


@dataclass(frozen=True)
class Verdict:
    """A conclusion at one rung.

    Attributes
    ----------
    claim : key of the `Claim`. word : one of WORDS; `unknown` where it cannot be judged, and `why` says why.
    value : what was measured, in the unit of `Claim.measure`; None if nothing could be. text : the same in short.
    effect : the value on the scale of the paper's, from 0; 1 is as large as the paper says.
    """

    claim: str
    word: str
    value: float | None
    text: str
    effect: float | None
    why: str = ""


_CLAIMS = (
    Claim("attention", "attention outweighs parameters", "attention : parameters, dense, median", ">10x"),
    Claim("threshold", "grow the model before the chain", "up to which, points left to gain", "14B 26"),
    Claim("flops", "choosing by FLOPs costs more", "its cost over the least, dense", "3x"),
    Claim("points", "sparse solves more at equal cost", "points of accuracy gained, at most", ""),
    Claim("saving", "sparse costs less at equal accuracy", "dense : sparse cost, at most", ""),
    Claim("small", "sparse brings small models back", "share of models < 5B, dense→sparse", "41→81%"),
    Claim("growth", "KV budget grows slower than tokens", "exponents of cost: KV budget/tokens", ".25/.80"),
)


def claims_for(axis: str, attention: str) -> tuple[Claim, ...]:
    """The conclusions, with what the paper says for this axis and attention."""
    points, saving = GAINS[axis, attention]
    said = {"points": f"+{100 * points:g}", "saving": f"{saving:g}x"}
    if axis == "best_of_n":
        said |= {"threshold": "14B", "small": "more"}
    return tuple(Claim(c.key, c.title, c.measure, said.get(c.key, c.paper)) for c in _CLAIMS)


def word(effect: float | None) -> str:
    """`holds`, `weaker` or `gone`; `unknown` without an effect."""
    if effect is None or math.isnan(effect):
        return "unknown"
    return "holds" if effect >= HOLDS else "gone" if effect < GONE else "weaker"


def spans_sizes(parameters: Mapping[str, float]) -> bool:
    """Whether models can be compared as the paper's are: three or more, from below 14B to about 14B and above."""
    sizes = sorted(parameters.values())
    return len(sizes) >= 3 and sizes[0] < THRESHOLD / 1.4 < sizes[-1]


def log_effect(ratio: float, full: float) -> float:
    """Effect of a ratio: 0 at 1x and below, 1 at `full`."""
    return max(0.0, math.log(ratio) / math.log(full)) if ratio > 0 else 0.0


def judge(
    found: Measures, axis: str, attention: str, parameters: Mapping[str, float], missing: Mapping[str, str]
) -> tuple[Verdict, ...]:
    """The verdict on every conclusion, in their order.

    parameters : by model. missing : why something could not be measured, by conclusion.
    """
    points, saving = GAINS[axis, attention]
    values: dict[str, _Given | None] = {"attention": _attention(found), "flops": None, "saving": None}
    if found.penalty is not None:
        values["flops"] = found.penalty.ratio, MARKED_PENALTY.value, "{:.2g}x"
    if found.saving is not None:
        values["saving"] = found.saving.ratio, saving, "{:.3g}x"
    verdicts = []
    for claim in _CLAIMS:
        if claim.key in values:
            given = None if claim.key in missing else values[claim.key]
            effect = None if given is None else log_effect(given[0], given[1])
            value = None if given is None else given[0]
            text = "" if given is None else given[2].format(given[0])
        elif claim.key == "threshold":
            value, effect, text = _threshold(found, parameters, ROOM if axis == "long_cot" else None)
        else:
            value, effect, text = _linear(claim.key, found, points)
        why = "" if effect is not None else missing.get(claim.key, _WHY.get(claim.key, "nothing to measure it on"))
        verdicts.append(Verdict(claim.key, word(effect), value, text, effect, why))
    return tuple(verdicts)


_WHY = {
    "points": "the largest gain lies where dense attention affords nothing",
    "attention": "the rung does not tell attention and parameters apart",
    "saving": "no accuracy is reached by both",
    "growth": "the frontier rises over less than three doublings of the cost, or the budget stays at the ends of those "
    "asked for",
}
_Given = tuple[float, float, str]
"""A ratio, that of the full effect, and how it is written."""


def _attention(found: Measures) -> _Given | None:
    if not found.attention_ratio:
        return None
    ordered = sorted(found.attention_ratio.values())
    middle = (ordered[(len(ordered) - 1) // 2] * ordered[len(ordered) // 2]) ** 0.5
    return middle, ATTENTION_RATIO, "{:.3g}x"


def _threshold(
    found: Measures, parameters: Mapping[str, float], room: float | None
) -> tuple[float | None, float | None, str]:
    """The size, on a scale from the smallest model to 14B, times the share of the paper's `room` that is left there."""
    smallest = min(parameters.values())
    if not spans_sizes(parameters):
        return None, None, ""
    change = found.threshold
    if change is None:
        return 0.0, 0.0, "none"
    size = parameters[change.taken]
    effect = min(1.0, log_effect(size / smallest, THRESHOLD / smallest))
    effect *= 1.0 if room is None else min(1.0, change.room / room)
    return size, effect, f"{size_label(change.taken)} {100 * change.room:.0f}"


def _linear(key: str, found: Measures, points: float) -> tuple[float | None, float | None, str]:
    """Value, effect and text of the conclusions that are differences."""
    if key == "points" and found.best_sparse:
        value, text = (found.gain.points, f"{100 * found.gain.points:+.0f}") if found.gain else (0.0, "+0")
        # Just below the cost from which dense attention affords anything the gain is all that sparse attention solves.
        effect = None if found.gain and not found.gain.dense_affordable else max(0.0, value / points)
        return value, effect, text
    if key == "small" and found.small_dense is not None and found.small_sparse is not None:
        more = found.small_sparse - found.small_dense
        return more, max(0.0, more / SMALL_SHARE), f"{100 * found.small_dense:.0f}→{100 * found.small_sparse:.0f}%"
    if key == "growth" and found.growth is not None:
        budget, tokens = found.growth.budget, found.growth.tokens + found.growth.trials
        slower = (1 - budget / tokens) / (1 - BUDGET_GROWTH / TOKENS_GROWTH) if tokens > 0 else 0.0
        text = f"{_short(budget)}/{_short(tokens)}"
        return budget, max(0.0, slower), text
    return None, None, ""


def _short(exponent: float) -> str:
    """`.25`, `1.7`, `12`."""
    if abs(exponent) < 0.995:
        return f"{round(exponent, 2) + 0.0:.2f}".replace("0.", ".", 1)
    return f"{exponent:.1f}" if abs(exponent) < 10 else f"{exponent:.0f}"
