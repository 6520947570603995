"""Row-wise operators of a layer: RMSNorm with the residual, SiLU-mul, and the embedding (RoPE: `rope`).

Each is one launch that reads its rows once and writes them once, in 16-byte accesses: what limits it is HBM, or the L2
where its operands fit, and with few rows the latency of a launch and of one dependent chain of loads. Sums are float32.

In the table `elementwise`, `row_bytes` is what the operator graph's node moves per row (`simulator.stepgraph`); the
width of a row follows from it. Besides, the kernels read a norm's weights (one row for all, from L1 or L2) and the
tokens' ids, which the graph does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch.nn import functional

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
)  # fmt: skip

EPS = 1e-6
VOCABULARY = 65_536


@triton.jit(do_not_specialize=["rows"])
def rms_norm_kernel(x, residual, weight, out, residual_out, rows, hidden, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * ROWS
    row, col = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (row < rows - first) & (col < hidden)
    base, at = first * hidden, row * hidden + col
    total = tl.load(x + base + at, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(residual + base + at, mask=inside, other=0.0).to(tl.float32)
    gain = tl.load(weight + col, mask=col < hidden, other=0.0).to(tl.float32)
    stored = total.to(residual_out.dtype.element_ty)
    tl.store(residual_out + base + at, stored, mask=inside)
    total = stored.to(tl.float32)
    scale = tl.rsqrt(tl.sum(total * total, 1) / hidden + eps)
    tl.store(out + base + at, (total * scale[:, None] * gain).to(out.dtype.element_ty), mask=inside)


def rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, room: Room, config: Config,
    residual_out: torch.Tensor | None = None,
) -> list[Launch]:  # fmt: skip
    """residual += x, out = RMSNorm(residual) * weight; all [rows, hidden] and contiguous, weight [hidden].

    The sum is rounded to the residual's format before it is normalised. `residual_out`, if given, takes it instead.
    """
    rows, hidden = x.shape
    options = {**config.options, "BLOCK": next_power_of_two(hidden)}
    target = residual if residual_out is None else residual_out
    args = (x, residual, weight, out, target, rows, hidden, EPS)
    return [Launch(rms_norm_kernel, (cdiv(rows, config["ROWS"]),), args, options)]


def rms_norm_reference(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    """[out, the new residual] in float32."""
    total = (x.float() + residual.float()).to(residual.dtype).float()
    return [total * torch.rsqrt(total.square().mean(-1, keepdim=True) + EPS) * weight.float(), total]


@triton.jit(do_not_specialize=["blocks"])
def silu_mul_kernel(gate_up, out, width, blocks, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    row, col = (program // blocks).to(tl.int64), (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_up + row * 2 * width + col, mask=col < width, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + col, mask=col < width, other=0.0).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * width + col, value.to(out.dtype.element_ty), mask=col < width)


def silu_mul(gate_up: torch.Tensor, out: torch.Tensor, room: Room, config: Config) -> list[Launch]:
    """out[t, w] = silu(gate_up[t, :w]) * gate_up[t, w:], both contiguous; gate_up is [t, 2w]."""
    rows, width = out.shape
    blocks = cdiv(width, config["BLOCK"])
    return [Launch(silu_mul_kernel, (rows * blocks,), (gate_up, out, width, blocks), config.options)]


def silu_mul_reference(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.float().chunk(2, -1)
    return functional.silu(gate) * up


@triton.jit(do_not_specialize=["blocks"])
def embedding_kernel(ids, table, out, hidden, blocks, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    row, col = (program // blocks).to(tl.int64), (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(ids + row).to(tl.int64)
    values = tl.load(table + token * hidden + col, mask=col < hidden)
    tl.store(out + row * hidden + col, values, mask=col < hidden)


def embedding(ids: torch.Tensor, table: torch.Tensor, out: torch.Tensor, room: Room, config: Config) -> list[Launch]:
    """out[t] = table[ids[t]]; ids int32 or int64 [t], table [vocabulary, hidden], out [t, hidden], contiguous."""
    rows, hidden = out.shape
    blocks = cdiv(hidden, config["BLOCK"])
    return [Launch(embedding_kernel, (rows * blocks,), (ids, table, out, hidden, blocks), config.options)]


def row_of(op: str, dtype: str, rows: int, row_bytes: float, heads: tuple[int, int, int] = (0, 0, 0)) -> Row:
    """A row of the table `elementwise`; `heads`: q_heads, kv_heads, head_dim of rope_kv_write and page_summary."""
    names = ("q_heads", "kv_heads", "head_dim")
    sizes_ = {"rows": rows, "row_bytes": round(row_bytes), **dict(zip(names, heads, strict=True))}
    return {"op": op, "dtype": dtype, **sizes_}


ELEMENTS = {"rms_norm": 4, "silu_mul": 3, "embedding": 2}
"""Elements of a row's width that are moved, per element of the width."""


def width_of(row: Row) -> int:
    """The width of a row: hidden size, or what the MLP's activation yields."""
    return row["row_bytes"] // (ELEMENTS[row["op"]] * BYTES[row["dtype"]])


def shuffled(room: Room, n: int, salt: int = 0) -> torch.Tensor:
    """A random permutation of n things, int64: pages lie scattered in a cache that has been in use."""
    if room.device == "meta":
        return empty(room, n, dtype=torch.int64)
    generator = torch.Generator(device=room.device).manual_seed(room.seed * 1_000_003 + salt)
    return torch.randperm(n, generator=generator, device=room.device)


def build_rms_norm(row: Row, room: Room) -> Problem:
    rows, hidden, dtype = row["rows"], width_of(row), DTYPES[row["dtype"]]
    x, residual = random(room, rows, hidden, dtype=dtype, salt=1), random(room, rows, hidden, dtype=dtype, salt=2)
    weight = random(room, hidden, dtype=dtype, salt=3)
    out, target = empty(room, rows, hidden, dtype=dtype), empty(room, rows, hidden, dtype=dtype)

    def launches(copy: int, config: Config) -> list[Launch]:
        # Not in place, so that it can be repeated; as many bytes are moved.
        return rms_norm(x, residual, weight, out, room, config, residual_out=target)

    def by_torch(copy: int) -> object:
        return functional.rms_norm(torch.add(x, residual, out=target), (hidden,), weight, EPS)

    return Problem(
        launches, lambda: [out, target], lambda: rms_norm_reference(x, residual, weight), {"torch rms_norm": by_torch}
    )


def build_silu_mul(row: Row, room: Room) -> Problem:
    rows, width, dtype = row["rows"], width_of(row), DTYPES[row["dtype"]]
    gate_up, out = random(room, rows, 2 * width, dtype=dtype, salt=1), empty(room, rows, width, dtype=dtype)

    def by_torch(copy: int) -> object:
        return torch.mul(functional.silu(gate_up[:, :width]), gate_up[:, width:], out=out)

    return Problem(
        lambda copy, config: silu_mul(gate_up, out, room, config),
        lambda: [out],
        lambda: [silu_mul_reference(gate_up)],
        {"torch silu, mul": by_torch},
    )


def build_embedding(row: Row, room: Room) -> Problem:
    """Every copy looks up other rows of one table."""
    rows, hidden, dtype = row["rows"], width_of(row), DTYPES[row["dtype"]]
    vocabulary = VOCABULARY if room.device != "cpu" else 512
    table, out = random(room, vocabulary, hidden, dtype=dtype, salt=1), empty(room, rows, hidden, dtype=dtype)
    order = shuffled(room, vocabulary, salt=2)
    at = torch.arange(room.copies * rows, device=room.device) % vocabulary
    ids = order[at].view(room.copies, rows)
    return Problem(
        lambda copy, config: embedding(ids[copy], table, out, room, config),
        lambda: [out],
        lambda: [table[ids[0]].float()],
        {"torch index_select": lambda copy: torch.index_select(table, 0, ids[copy], out=out)},
    )


def row_configs(row: Row, room: Room) -> list[Config]:
    """RMSNorm: a row a program with 16, 8 or 32 elements a thread; several narrow rows where there are many."""
    block = next_power_of_two(width_of(row))
    tries = [(1, block // 512), (1, block // 256), (1, block // 1024)]
    if block <= 2048 and row["rows"] >= 8 * room.sms:
        tries.insert(1, (4, 4 * block // 512))
    unique = dict.fromkeys((rows, min(16, max(1, warps))) for rows, warps in tries)
    return [Config({"ROWS": rows, "num_warps": warps}) for rows, warps in unique]


def block_configs(row: Row, room: Room) -> list[Config]:
    """Columns split over programs: 8 or 16 elements a thread."""
    widest = max(256, next_power_of_two(width_of(row)))
    tries = dict.fromkeys((min(block, widest), warps) for block, warps in ((1024, 4), (2048, 4), (4096, 8)))
    return [Config({"BLOCK": block, "num_warps": warps}) for block, warps in tries]


def sizes(row: Row) -> Sizes:
    """Bytes and FLOPs; a few bytes of weights, positions and the like are left out."""
    moved, op = float(row["rows"] * row["row_bytes"]), row["op"]
    if op == "embedding":
        table = float(VOCABULARY * row["row_bytes"] / 2)
        return Sizes(moved / 2, table + moved / 2, 0.0, moved)
    flops = {"rms_norm": 5 * moved / 8, "silu_mul": 5 * moved / 6, "rope_kv_write": moved}[op]
    unused = row["rows"] * row["row_bytes"] / 4 if op == "rms_norm" else 0.0  # a second residual
    return Sizes(0.0, moved + unused, flops, moved)


def entry(
    op: str, stands_for: tuple[str, ...], build: Callable[[Row, Room], Problem],
    configs: Callable[[Row, Room], Sequence[Config]], check_rows: Sequence[Row], compile_rows: Sequence[Row],
    check_config: dict[str, int], tolerance: float = 1e-3, sizes: Callable[[Row], Sizes] = sizes,
) -> Kernel:  # fmt: skip
    """An entry for an operation of the table `elementwise`."""
    return Kernel(
        name=op,
        table="elementwise",
        stands_for=stands_for,
        matches=lambda row: row["op"] == op,
        build=build,
        configs=configs,
        sizes=sizes,
        check_rows=check_rows,
        compile_rows=[(row, ()) for row in compile_rows],
        check_configs=[Config(check_config)],
        tolerance=tolerance,
    )


RMS_NORM = entry(
    "rms_norm",
    ("attn_norm", "mlp_norm", "final_norm"),
    build_rms_norm,
    row_configs,
    [row_of("rms_norm", "fp16", rows, 8 * hidden) for rows, hidden in ((1, 128), (7, 96), (3, 1000))],
    [row_of("rms_norm", "bf16", rows, 8 * hidden) for rows, hidden in ((64, 4096), (8192, 1024), (8192, 5120))],
    {"ROWS": 2, "num_warps": 1},
)

SILU_MUL = entry(
    "silu_mul",
    ("silu_mul",),
    build_silu_mul,
    block_configs,
    [row_of("silu_mul", "fp16", rows, 6 * width) for rows, width in ((1, 64), (5, 200))],
    [row_of("silu_mul", "bf16", rows, 6 * width) for rows, width in ((64, 12288), (8192, 3072))],
    {"BLOCK": 128, "num_warps": 1},
)

EMBEDDING = entry(
    "embedding",
    ("embedding",),
    build_embedding,
    block_configs,
    [row_of("embedding", "fp16", rows, 4 * hidden) for rows, hidden in ((1, 64), (5, 200))],
    [row_of("embedding", "bf16", 8192, 4 * 4096)],
    {"BLOCK": 128, "num_warps": 1},
    tolerance=0.0,
)
