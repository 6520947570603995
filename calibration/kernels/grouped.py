"""The experts' block of a mixture (MoE) as a kernel of the catalogue: see `calibration.kernels.experts`.

Rows are those of tables of kind moe: `tokens` of the whole expert-parallel group, the model's `intermediate` and
`experts`, which are divided by `tp` and `ep`; of a skewed routing the most loaded GPU is measured.
"""

from __future__ import annotations

from typing import Any

import torch

from calibration.kernels.base import (
    BYTES,
    DTYPES,
    Config,
    Kernel,
    Launch,
    Problem,
    Room,
    Row,
    Sizes,
    cdiv,
    empty,
    next_power_of_two,
    random,
    relative_error,
)
from calibration.kernels.experts import Experts
from calibration.kernels.routing import make_ids, routing_of

STANDS_FOR = ("permute", "experts_gate_up", "experts_silu_mul", "experts_down", "combine")


def up_reference(
    x: torch.Tensor, up: torch.Tensor, width: int, ids: torch.Tensor, first: int, scale: float = 1.0
) -> torch.Tensor:
    """float32 [pairs, width]: SiLU(gate) * up, or SiLU(up), of the pairs of the experts held."""
    rows = torch.zeros(ids.numel(), width, device=x.device)
    for expert in range(up.shape[0]):
        pairs = (ids.flatten() == first + expert).nonzero().flatten()
        both = x[pairs // ids.shape[1]].float() @ up[expert].float().T * scale
        gate = torch.nn.functional.silu(both[:, :width])
        rows[pairs] = gate * both[:, width:] if both.shape[1] > width else gate
    return rows


def down_reference(
    rows: torch.Tensor, down: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, first: int, scale: float = 1.0
) -> torch.Tensor:
    """float32 [tokens, hidden]: the weighted sum over each token's experts held, from rows[pairs, width]."""
    results = torch.zeros(ids.numel(), down.shape[1], device=rows.device)
    for expert in range(down.shape[0]):
        pairs = (ids.flatten() == first + expert).nonzero().flatten()
        results[pairs] = rows[pairs].float() @ down[expert].float().T * scale
    return (results.view(*ids.shape, -1) * weights[..., None]).sum(1)


def build(row: Row, room: Room) -> Problem:
    """Copies of the weights are as many as let every copy read others: copies use different experts of a set first."""
    tokens, hidden, width, top_k = row["tokens"], row["hidden"], row["intermediate"] // row["tp"], row["top_k"]
    dtype, fp8 = DTYPES[row["dtype"]], row["dtype"] == "fp8"
    wide = (torch.float16 if room.device == "cpu" else torch.bfloat16) if fp8 else dtype
    routing = routing_of(row)
    hit, held, first = int((routing.here > 0).sum()), routing.held, routing.first
    sets = cdiv(room.copies * hit, held)
    scales = (hidden**-0.5, width**-0.5) if fp8 else (1.0, 1.0)
    spreads = (1.0, 1.0) if fp8 else (hidden**-0.5, width**-0.5)
    x = random(room, tokens, hidden, dtype=dtype, salt=1)
    up = random(room, sets, held, (1 + row["gated"]) * width, hidden, dtype=dtype, scale=spreads[0], salt=2)
    down = random(room, sets, held, hidden, width, dtype=dtype, scale=spreads[1], salt=3)
    ids = [make_ids(routing, tokens, top_k, copy * hit, room) for copy in range(room.copies)]
    weights = random(room, tokens, top_k, dtype=torch.float32, salt=4).softmax(1)
    out = empty(room, tokens, hidden, dtype=wide)
    made: dict[int, Experts] = {}

    def launches(copy: int, config: Config) -> list[Launch]:
        of = copy * hit // held
        made[0] = Experts(x, up[of], down[of], ids[copy], weights, out, first, room, config, scales)
        return made[0].launches

    def reference() -> list[torch.Tensor]:
        rows = up_reference(x, up[0], width, ids[0], first, scales[0])
        if not fp8:
            return [down_reference(rows.to(dtype), down[0], ids[0], weights, first, scales[1])]
        # What fp8 leaves of the rows depends on their last bits: the second part goes on from what was written.
        row, pair = made[0].filled()
        written, expected = torch.zeros_like(rows), torch.full(made[0].rows.shape, float("nan"), device=room.device)
        written[pair], expected[row] = made[0].rows[row].float(), rows[pair]
        return [down_reference(written, down[0], ids[0], weights, first, scales[1]), expected]

    def outputs() -> list[torch.Tensor]:
        return [out, made[0].rows] if fp8 else [out]

    baselines = {}
    if dtype == torch.bfloat16 and row["gated"] and room.device != "meta" and hasattr(torch, "_grouped_mm"):
        orders = [_torch_order(of, first, held) for of in ids]  # here: sorting synchronises
        every = torch.zeros(tokens * top_k, hidden, dtype=wide, device=room.device)

        def by_torch(copy: int) -> object:
            (pairs, ends), of = orders[copy], copy * hit // held
            both = torch._grouped_mm(x[pairs // top_k], up[of].transpose(1, 2), offs=ends)
            rows = torch.nn.functional.silu(both[:, :width]) * both[:, width:]
            every[pairs] = torch._grouped_mm(rows, down[of].transpose(1, 2), offs=ends)
            return torch.bmm(weights[:, None].to(wide), every.view(tokens, top_k, hidden), out=out[:, None])

        baselines["torch._grouped_mm"] = by_torch
    return Problem(launches, outputs, reference, baselines, _compare_fp8 if fp8 else None)


def _torch_order(ids: torch.Tensor, first: int, held: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The pairs of the experts held in order of expert, and the int32 ends of each expert's."""
    flat = ids.flatten().long() - first
    here = (flat >= 0) & (flat < held)
    order = torch.where(here, flat, held).argsort(stable=True)[: int(here.sum())]
    return order, torch.bincount(flat[here], minlength=held).cumsum(0).int()


def _compare_fp8(outputs: Any, references: Any) -> float:
    """The rows between the GEMMs must be the reference's as fp8, but where the rounding reaches a power of two or a
    number below the normal ones, which Triton's interpreter does not always round right; the result must follow them.
    """
    rounded = references[1].to(torch.float8_e4m3fn)
    bits = rounded.view(torch.uint8)
    sure = ((bits & 7) != 0) & ((bits & 0x78) != 0) & ~references[1].isnan()
    return max(
        relative_error(a[b], c[b])
        for a, c, b in ((outputs[0], references[0], slice(None)), (outputs[1].float(), rounded.float(), sure))
    )


def configs(row: Row, room: Room) -> list[Config]:
    routing, size = routing_of(row), BYTES[row["dtype"]]
    each = int(routing.here.sum()) / max(1, int((routing.here > 0).sum()))

    def config(bm: int, bn: int, step: int, permute: int, per_sm: int, warps: int, stages: int) -> Config:
        shape = {"BM": bm, "BN": bn, "BK": step // size, "GROUP": 8, "PIECES": 4 if bm <= 32 else 1}
        ways = {"PERMUTE": permute, "PER_SM": per_sm, "num_warps": warps, "num_stages": stages}
        return Config(shape | ways)

    bm = min(128, max(16, next_power_of_two(max(1, int(each)))))
    if bm <= 32:
        return [
            config(bm, 128, 256, 0, 2, 4, 3),
            config(bm, 128, 128, 0, 3, 4, 4),
            config(2 * bm, 128, 128, 0, 2, 4, 4),
        ]
    if bm == 64:
        return [config(64, 128, 128, 0, 2, 4, 4), config(64, 128, 128, 1, 2, 4, 4), config(64, 256, 128, 0, 1, 8, 4)]
    tries = [config(128, 256, 128, 1, 1, 8, 4), config(128, 128, 128, 1, 2, 4, 3), config(128, 256, 128, 0, 1, 8, 4)]
    return [*tries, config(64, 128, 128, 0, 2, 4, 4)]


def sizes(row: Row) -> Sizes:
    """Cold: weights of the experts hit; those of the others are counted once, as what is there and not read."""
    routing, size = routing_of(row), BYTES[row["dtype"]]
    hidden, width, tokens = row["hidden"], row["intermediate"] // row["tp"], row["tokens"]
    pairs, hit = int(routing.here.sum()), int((routing.here > 0).sum())
    expert = float((2 + row["gated"]) * hidden * width * size)
    most = tokens * row["top_k"] + 128 * min(routing.held, tokens * row["top_k"])
    # Workspaces are powers of two: up to twice as much.
    warm = tokens * hidden * (size + 2.0) + 2 * most * (2.0 * hidden + size * (hidden + width))
    flops = 2.0 * pairs * hidden * width * (2 + row["gated"])
    return Sizes(hit * expert, warm + (routing.held - hit) * expert, flops, hit * expert)


def _row(
    dtype: str, tokens: int, hidden: int, inter: int, top_k: int, experts: int, routing: str = "balanced", **other: int
) -> Row:
    shape = {"tokens": tokens, "hidden": hidden, "intermediate": inter, "top_k": top_k, "experts": experts}
    return {"dtype": dtype, "routing": routing, **shape, "tp": 1, "ep": 1, "gated": 1, **other}


_SMALL = {"BN": 64, "BK": 32, "GROUP": 2, "PER_SM": 2, "num_warps": 4, "num_stages": 2}
_MODELS = ((2048, 768, 8, 128), (4096, 14336, 2, 8))

GROUPED = Kernel(
    name="grouped",
    table="moe",
    stands_for=STANDS_FOR,
    matches=lambda row: True,
    build=build,
    configs=configs,
    sizes=sizes,
    check_rows=[
        _row("fp16", 1, 64, 48, 2, 8),
        _row("fp16", 3, 96, 40, 1, 4, gated=0),
        _row("fp16", 37, 64, 64, 2, 8, "power_law_1.2", tp=2),
        _row("fp16", 21, 72, 48, 4, 8, ep=2),
        _row("fp16", 50, 64, 32, 3, 16, "power_law_1.01", ep=4),
        _row("fp16", 258, 32, 32, 4, 8, ep=4),  # pairs that are counted by a kernel of its own
        _row("fp8", 19, 64, 64, 2, 4),
    ],
    check_configs=[
        Config({"BM": 16, "PIECES": 4, "PERMUTE": 0, **_SMALL}),
        Config({"BM": 32, "PIECES": 1, "PERMUTE": 1, **_SMALL}),
    ],
    compile_rows=[
        (_row(dtype, tokens, *model), (90, 100))
        for dtype in ("bf16", "fp8")
        for model in _MODELS
        for tokens in (1, 64, 1024, 16384)
    ],
)
