"""What whole layers lie in while they are measured: activations, weights, KV caches; and their reference in torch.

Activations are shared by the layers; weights, caches and page summaries are each layer's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from calibration.kernels import decode, gemm, pagesummary, prefill, rope, rowwise, sparse
from calibration.kernels.base import DTYPES, Room, cdiv, empty, random
from calibration.measure.layersizes import PAGE
from simulator.layers import DECODE, LayerCase
from simulator.operators import Gemm, Operator

CLOSE = 2e-2
"""Pages may be chosen whose score is below the least of the best ones by this part of the scores' spread: 16-bit
operands do not tell them apart.
"""


class Tensors:
    """The memory of `layers` layers.

    Attributes
    ----------
    input, input_residual : [tokens, hidden], constant. hidden, residual, normed : [tokens, hidden].
    qkv : [tokens, (q_heads + 2 kv_heads) head_dim]. q, attended : [tokens, q_heads, head_dim].
    gate_up, product : [tokens, 2 width], [tokens, width].
    weights : node -> of each layer its matrix [n, k], or the gains of its norm [hidden].
    k, v : of each layer its cache [pages, kv_heads, page, head_dim]. slots, positions : [tokens] of the new tokens.
    table : int32 [batch, pages of a sequence]. lengths : int32 [batch]. (decode)
    summaries : of each layer [pages, kv_heads, head_dim]; scores, selected, held : see `sparse`. (block top-k)
    """

    table: torch.Tensor
    lengths: torch.Tensor
    summaries: list[torch.Tensor]
    scores: torch.Tensor
    selected: torch.Tensor
    held: torch.Tensor

    def __init__(self, case: LayerCase, room: Room, layers: int, nodes: Sequence[Operator]) -> None:
        self.case, self.room, self.layers, self._salt = case, room, layers, 100
        self.dtype, self.kv_dtype = DTYPES[case.precision.activations], DTYPES[case.precision.kv]
        model, tokens, d = case.model, case.tokens, case.model.head_dim
        q_heads, kv_heads = case.heads
        width = model.intermediate // case.tensor
        self.input, self.input_residual = (self._random(tokens, model.hidden) for _ in range(2))
        self.hidden, self.residual, self.normed = (self._empty(tokens, model.hidden) for _ in range(3))
        self.qkv = self._empty(tokens, (q_heads + 2 * kv_heads) * d)
        self.q, self.attended = (self._empty(tokens, q_heads, d) for _ in range(2))
        self.gate_up, self.product = self._empty(tokens, 2 * width), self._empty(tokens, width)
        self.weights = {op.name: [self._weight(op.dims) for _ in range(layers)] for op in nodes if _is_gemm(op)}
        for name in (op.name for op in nodes if op.name.startswith(("attn_norm", "mlp_norm"))):
            self.weights[name] = [self._random(model.hidden) for _ in range(layers)]
        self._gains = [[self._random(d) for _ in range(2)] for _ in range(layers)] if model.qk_norm else None
        if case.phase == DECODE:
            self._decode(case, room)
        else:
            self._prefill(case, room)

    def _random(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> torch.Tensor:
        self._salt += 1
        return random(self.room, *shape, dtype=dtype or self.dtype, scale=scale, salt=self._salt)

    def _empty(self, *shape: int) -> torch.Tensor:
        """Zeros where something could be computed from it by accident."""
        return empty(self.room, *shape, dtype=self.dtype).zero_()

    def _weight(self, dims: object) -> torch.Tensor:
        assert isinstance(dims, Gemm)
        return self._random(dims.n, dims.k, scale=dims.k**-0.5)

    def _decode(self, case: LayerCase, room: Room) -> None:
        """The pages of each sequence lie scattered over the cache. With block top-k the sequences end at every place of
        a page, so that as many pages are filled, and summarised, as in the mean of steps.
        """
        page = case.reading.page or PAGE
        pages, kv_heads, d = cdiv(case.context, page), case.heads[1], case.model.head_dim
        self.table = rowwise.shuffled(room, case.batch * pages, salt=17).to(torch.int32).view(case.batch, pages)
        self.lengths = torch.full((case.batch,), case.context, dtype=torch.int32, device=room.device)
        if case.reading.page:
            short = torch.arange(case.batch, dtype=torch.int32, device=room.device) % page
            self.lengths = (self.lengths - short).clamp(min=1)
        self.positions = (self.lengths - 1).long()
        place = self.table.long().gather(1, (self.positions // page)[:, None])[:, 0]
        self.slots = place * page + self.positions % page
        self.cos_sin = rope.rotations(room, case.context, d)
        shape = (case.batch * pages, kv_heads, page, d)
        self.k, self.v = ([self._random(*shape, dtype=self.kv_dtype) for _ in range(self.layers)] for _ in range(2))
        if case.reading.page:
            budget = (case.reading.budget or page) // page
            # Spread like means of as many keys as a page has.
            self.summaries = [
                self._random(case.batch * pages, kv_heads, d, scale=page**-0.5, dtype=self.kv_dtype)
                for _ in range(self.layers)
            ]
            self.scores = sparse.scores_like(room, case.batch, case.heads[0], pages).zero_()
            self.selected = torch.zeros(case.batch, kv_heads, budget, dtype=torch.int32, device=room.device)
            self.held = torch.ones(case.batch, dtype=torch.int32, device=room.device)

    def _prefill(self, case: LayerCase, room: Room) -> None:
        """A sequence's tokens lie one after the other in the cache, since the kernel reads them by descriptors."""
        tokens, kv_heads, d = case.context + case.query, case.heads[1], case.model.head_dim
        pages = cdiv(case.batch * tokens, PAGE)
        flat = [self._random(pages * PAGE, kv_heads, d, dtype=self.kv_dtype) for _ in range(2 * self.layers)]
        caches = [one.view(pages, PAGE, kv_heads, d).transpose(1, 2) for one in flat]
        self.k, self.v = caches[: self.layers], caches[self.layers :]
        self._sequences = [one[: case.batch * tokens].view(case.batch, tokens, kv_heads, d) for one in flat]
        new = torch.arange(case.query, device=room.device) + case.context
        self.positions = new.repeat(case.batch)
        starts = torch.arange(case.batch, device=room.device) * tokens
        self.slots = (starts[:, None] + new).view(-1)
        self.cos_sin = rope.rotations(room, tokens, d)

    def qk_gains(self, layer: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The weights of QK-norm, or nothing where the model has none."""
        return (None, None) if self._gains is None else (self._gains[layer][0], self._gains[layer][1])

    def k_of(self, layer: int) -> torch.Tensor:
        """Prefill: keys in the order of the sequences, [batch, past + query, kv_heads, head_dim]; values alike."""
        return self._sequences[layer]

    def v_of(self, layer: int) -> torch.Tensor:
        return self._sequences[self.layers + layer]


def _is_gemm(op: Operator) -> bool:
    return isinstance(op.dims, Gemm)


def reference(case: LayerCase, s: Tensors) -> list[torch.Tensor]:
    """Hidden state and residual after layer 0, float32, from its inputs; what passes between operators is rounded to
    its format. Caches and summaries are those in memory, but for what the new tokens write.

    Which pages are chosen is taken from the launches, since scores that 16 bits do not tell apart may be chosen either
    way; if a page was chosen that is clearly not among the best, the answer is not a number.
    """

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x.to(s.dtype)

    def project(node: str, x: torch.Tensor) -> torch.Tensor:
        name = next(name for name in s.weights if name.split(" [")[0] == node)
        return rounded(gemm.reference(x.flatten(1), s.weights[name][0]))

    def normed(node: str, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        name = next(name for name in s.weights if name.split(" [")[0] == node)
        out, total = rowwise.rms_norm_reference(x, residual, s.weights[name][0])
        return rounded(out), rounded(total)

    x, residual = normed("attn_norm", s.input, s.input_residual)
    qkv = project("qkv_proj", x)
    q, k, v = rope.rope_reference(qkv, s.positions, s.cos_sin, *s.qk_gains(0), *case.heads, s.kv_dtype)
    x = project("o_proj", rounded(_attention(case, s, rounded(q), k, v)))
    x, residual = normed("mlp_norm", x, residual)
    x = project("down_proj", rounded(rowwise.silu_mul_reference(project("gate_up_proj", x))))
    return [x.float(), residual.float()]


def _attention(case: LayerCase, s: Tensors, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Of layer 0, [tokens, q_heads, head_dim]."""
    keys, values = _written(s.k[0], s.slots, k), _written(s.v[0], s.slots, v)
    window = case.model.layer_windows[0] or 0
    if case.phase != DECODE:

        def in_order(cache: torch.Tensor) -> torch.Tensor:
            tokens = case.batch * (case.context + case.query)
            return cache.transpose(1, 2).flatten(0, 1)[:tokens].view(case.batch, -1, *k.shape[1:])

        shaped = q.view(case.batch, case.query, *q.shape[1:])
        return prefill.reference(shaped, in_order(keys), in_order(values), case.context, window).flatten(0, 1)
    if case.reading.page is None:
        return decode.reference(q, keys, values, s.table[:, None], s.lengths, window)
    filled, means = pagesummary.page_summary_reference(keys, s.slots)
    summaries = s.summaries[0].clone()
    summaries[filled] = means.to(summaries.dtype)
    scores = sparse.page_scores_reference(q, summaries, s.table)
    out = decode.reference(q, keys, values, s.selected, s.held)
    return out if chosen_well(case, s, scores) else out * torch.nan


def _written(cache: torch.Tensor, slots: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """A copy of a cache with the new tokens' vectors [tokens, kv_heads, head_dim] in their slots."""
    page = cache.shape[2]
    copy = cache.clone()
    copy[slots // page, :, slots % page] = new.to(cache.dtype)
    return copy


def chosen_well(case: LayerCase, s: Tensors, scores: torch.Tensor) -> bool:
    """Whether the launches chose each sequence's and KV head's best pages by the reference's scores, each once, as many
    as the budget has, the newest last.
    """
    page, kv_heads = case.reading.page or 1, case.heads[1]
    count = s.selected.shape[2]
    mask, held = sparse.page_select_reference(scores, s.lengths, kv_heads, count, page)
    if not torch.equal(held, s.held):
        return False
    best = scores.view(case.batch, kv_heads, -1, scores.shape[-1]).amax(2)
    slack = CLOSE * float(best.std())
    for sequence, length in enumerate(s.lengths.tolist()):
        pages = cdiv(length, page)
        places = {number: i for i, number in enumerate(s.table[sequence, :pages].tolist())}
        for head in range(kv_heads):
            chosen = [places.get(number, -1) for number in s.selected[sequence, head, : min(count, pages)].tolist()]
            if -1 in chosen or len(set(chosen)) < len(chosen) or chosen[-1] != pages - 1:
                return False
            theirs = best[sequence, head][chosen[:-1]]
            ours = best[sequence, head][:pages][mask[sequence, head, :pages]]
            if len(theirs) and float(theirs.min()) < float(ours.min()) - slack:
                return False
    return True
