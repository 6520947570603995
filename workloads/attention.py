"""Attention policies: how much of its past a token reads, and what finding that part costs.

A policy says which tokens decode and prefill attention read on a layer, and whether pages have to be scored first; the
operator graph (`simulator.stepgraph`) turns that into operators. KV stays resident for the whole context under every
policy. A new policy is a class here, added to `AttentionPolicy`: the scenario's schema and the graph follow.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


def _smaller(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


class _Policy(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def decode_cap(self, window: int | None) -> int | None:
        """Tokens that decode attention reads at most, None for all, on a layer whose model has a sliding `window` or
        none.
        """
        return window

    def prefill_cap(self, window: int | None) -> int | None:
        """The same for each query of a prefill chunk."""
        return window

    @property
    def page(self) -> int | None:
        """Tokens per page where pages are scored and selected before they are read, else None."""
        return None


class Dense(_Policy):
    """Every token reads its whole past (or its model's own window)."""

    kind: Literal["dense"] = "dense"


class SlidingWindow(_Policy):
    """Every token reads the last `window` tokens, on all layers, in prefill and decode."""

    kind: Literal["sliding_window"]
    window: int = Field(ge=1, description="Tokens read, the newest included.")

    def decode_cap(self, window: int | None) -> int | None:
        return _smaller(window, self.window)

    def prefill_cap(self, window: int | None) -> int | None:
        return _smaller(window, self.window)


class TopK(_Policy):
    """Decode reads the `budget` best tokens, found at no cost (the ideal selection of Kinetics, arXiv 2506.05333);
    prefill is dense.
    """

    kind: Literal["top_k"]
    budget: int = Field(ge=1, description="KV budget: tokens read per generated token.")

    def decode_cap(self, window: int | None) -> int | None:
        return _smaller(window, self.budget)


class BlockTopK(_Policy):
    """Decode scores pages by a summary, selects the best and gathers them (Kinetics' block top-k); prefill is dense."""

    kind: Literal["block_top_k"]
    page_size: int = Field(default=16, ge=1, alias="page", description="Tokens per page.")
    blocks: int = Field(ge=1, description="Pages selected per generated token.")
    local: int = Field(default=0, ge=0, description="Newest tokens that are always read besides.")

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def decode_cap(self, window: int | None) -> int | None:
        return _smaller(window, self.local + self.blocks * self.page_size)

    @property
    def page(self) -> int | None:
        return self.page_size


AttentionPolicy = Annotated[Dense | SlidingWindow | TopK | BlockTopK, Field(discriminator="kind")]
