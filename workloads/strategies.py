"""What is generated for one problem: many samples, one long chain of thought, or one answer.

A strategy turns problems into jobs of one or more requests (`workloads.requests.generate`). A new one is a class here,
added to `Strategy`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwspecs.errors import InputError
from workloads.fields import Part, Probability, Tokens, TokensOrZero, short_form


class BestOfN(Part):
    """N samples of each problem. They arrive together and share the prompt's KV cache."""

    kind: Literal["best_of_n"]
    samples: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = Field(description="Samples of each problem, N.")
    stop_on_accept: bool = Field(
        default=False, strict=True, description="Stop a problem's other samples when one that is accepted is finished."
    )
    acceptance: Probability | None = Field(
        default=None,
        description="Chance that a finished sample is accepted, for each independently. Needed by stop_on_accept; "
        "without it no sample counts as accepted.",
    )

    @model_validator(mode="after")
    def _decidable(self) -> BestOfN:
        if self.stop_on_accept and self.acceptance is None:
            problem = "stop_on_accept needs the chance that a sample is accepted"
            raise InputError(problem, place="acceptance", allowed="a number from 0 to 1")
        return self


class LongCot(Part):
    """One long chain of thought a problem, cut at a budget."""

    kind: Literal["long_cot"]
    budget: Tokens = Field(description="Output tokens after which thinking is cut.")
    forced_end_tokens: TokensOrZero = Field(
        default=0, description="Tokens that the answer takes after thinking was cut, on top of the budget."
    )


class Chat(Part):
    """One answer a request, as long as it comes."""

    kind: Literal["chat"] = "chat"


_short, _short_schema = short_form(str, "kind", {"enum": ["chat"]})

Strategy = Annotated[Annotated[BestOfN | LongCot | Chat, Field(discriminator="kind")], _short, _short_schema]
