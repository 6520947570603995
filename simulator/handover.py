"""What the engine is told about two pools: prefill workers, decode workers, and what passes between them
(docs/disaggregation.md). Values only; `disaggregated` simulates them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulator.policy import ONE_TOKEN, EngineParams
from simulator.stepcost import StepCost

PREFILL_FIRST, DECODE_FIRST = "prefill_first", "decode_first"


@dataclass(frozen=True)
class Pool:
    """Workers of one kind, `params.replicas` of them: the cost of their steps, their limits and policies."""

    cost: StepCost
    params: EngineParams


def as_workers(prefill: Pool, decode: Pool) -> tuple[Pool, Pool]:
    """The pools without what does not apply to their workers: prefill workers make no output, so they reserve none and
    draft nothing; neither hold prompts back to prefill them together. Both reject what one of them does.
    """
    longest = min(prefill.params.max_model_len, decode.params.max_model_len)
    prompts = replace(prefill.params, reserve_output=0.0, speculation=ONE_TOKEN)
    one, other = (replace(p, max_model_len=longest, batch_wait_steps=0) for p in (prompts, decode.params))
    return Pool(prefill.cost, one), Pool(decode.cost, other)


@dataclass(frozen=True)
class Handover:
    """How a request goes from the worker that computes its prompt to the one that generates its output.

    Attributes
    ----------
    order : `prefill_first` (the decode worker is chosen, and sets aside the KV, when the prompt is computed) or
        `decode_first` (it is chosen on submission, and the prompt is computed once the KV is set aside).
    first_token : when the client sees it: `prefill` (at the prompt's end), `transfer` (when the request joins those
        that decode), or `decode` (the decode worker computes the last token of the prompt again).
    token_ticks, request_ticks : that a transfer takes for each token of the prompt, and beside them.
    latency_ticks : until it arrives, beyond that.
    prefill_lanes, decode_lanes : transfers that a worker sends or receives at once.
    overlap : `none`, or what is sent while the prompt is still computed, with `decode_first`: the KV of all chunks but
        the last (`chunk`), or of all layers but the last (`layer`).
    layers : of the model.
    """

    order: str = PREFILL_FIRST
    first_token: str = "transfer"
    token_ticks: int = 0
    request_ticks: int = 0
    latency_ticks: int = 0
    prefill_lanes: int = 1
    decode_lanes: int = 1
    overlap: str = "none"
    layers: int = 1

    def ticks(self, prompt: int) -> int:
        """A lane's time for the KV of `prompt` tokens, none of which was sent before."""
        return self.token_ticks * prompt + self.request_ticks

    def hidden_ticks(self, prompt: int, last: int, begun: int, first_end: int, end: int) -> int:
        """What of `ticks` passes while the prompt is computed.

        Its chunks are computed from the tick `begun` to `end`, the first until `first_end`; the last has `last`
        tokens. What the last chunk, or its last layer, adds is sent after the end; the rest as soon as there is any
        (a layer, or a chunk). Other transfers are taken to leave room for it.
        """
        whole = self.ticks(prompt)
        if self.overlap == "chunk":
            return min(whole - whole * last // prompt, end - first_end)
        if self.overlap == "layer":
            after = whole * last // (prompt * self.layers)
            return min(whole - after, (end - begun) * (self.layers - 1) // self.layers)
        return 0
