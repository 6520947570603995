"""Speculative decoding as a scenario says it: what drafts, how many tokens, how many of them hold.

Acceptance belongs to the workload: it depends on the texts and on how well the drafter knows the model. A sequence is
granted its mean in every step, so that what a step costs stays a known line (docs/engine.md, "Speculation").
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hwspecs.errors import InputError
from workloads.fields import Part, replaced

MOST_DRAFTED = 16
FINEST = 64
"""Largest denominator of the mean number of tokens a step."""


def _shares(value: object) -> object:
    """A share, or a list of them, each 0 to 1."""
    shares: list[object] = list(value) if isinstance(value, list | tuple) else [value]
    for i, share in enumerate(shares):
        place = None if len(shares) == 1 else str(i)
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise InputError("of the wrong type", place=place, found=share, allowed="a number from 0 to 1")
        if not 0 <= share <= 1:
            raise InputError("out of range", place=place, found=share, allowed="a number from 0 to 1")
    return value


_share = {"type": "number", "minimum": 0, "maximum": 1}
_shares_schema = replaced({"anyOf": [_share, {"type": "array", "items": _share}]})


class Speculation(Part):
    """Drafted tokens that a step verifies, and how many of them are accepted."""

    method: Literal["mtp", "draft_model", "ngram"] = Field(
        description="What drafts. mtp: the model's own prediction module (multi-token prediction); draft_model: "
        "`model`; ngram: a look-up in the text so far, which takes no time on the GPU."
    )
    tokens: Annotated[int, Field(strict=True, ge=1, le=MOST_DRAFTED)] = Field(
        description="Tokens drafted for each decoding sequence in a step."
    )
    acceptance: Annotated[float | tuple[float, ...], BeforeValidator(_shares), _shares_schema] = Field(
        description="A number: the probability that a drafted token is accepted if all before it were. A list: of each "
        "position, the share of steps in which it is accepted, as engines log it; it cannot rise."
    )
    model: str | dict[str, Any] | None = Field(
        default=None, description="The model that drafts, with draft_model alone: as the scenario's own is given."
    )

    @model_validator(mode="after")
    def _fits(self) -> Speculation:
        shares = self.acceptance
        if isinstance(shares, tuple):
            if len(shares) != self.tokens:
                allowed = f"{self.tokens} of them, or one number"
                raise InputError(
                    "not one for each drafted token", place="acceptance", found=list(shares), allowed=allowed
                )
            if any(after > before for before, after in pairwise(shares)):
                allowed = "shares that fall: a token is accepted only if those before it are"
                raise InputError("an acceptance that rises", place="acceptance", found=list(shares), allowed=allowed)
        if (self.model is None) == (self.method == "draft_model"):
            allowed = "a model with method draft_model, none with mtp and ngram"
            raise InputError("no model drafts" if self.model is None else "nothing drafts with a model of its own",
                             place="model", found=self.model, allowed=allowed)  # fmt: skip
        return self

    @property
    def mean(self) -> Fraction:
        """Tokens that a decoding sequence gets from a step in the mean, 1 to `tokens` + 1: its own and those accepted.

        With one probability p for each of k tokens that is 1 + p + .. + p^k (Leviathan et al., arXiv 2211.17192,
        equation 1).
        """
        shares = self.acceptance
        if not isinstance(shares, tuple):
            shares = tuple(shares**i for i in range(1, self.tokens + 1))
        return min(Fraction(1 + sum(shares)).limit_denominator(FINEST), Fraction(self.tokens + 1))
