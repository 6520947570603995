"""Dense GEMM y[m, n] = x[m, k] w[n, k]^T * scale, weights as checkpoints store them; bf16, fp16 and fp8 (e4m3).

Two persistent kernels, both of tiles that the tensor memory accelerator (TMA) brings from and to memory:

`tiles_kernel`, where there are more tiles than SMs: a program computes whole tiles, one after the other, in groups of
`GROUP` rows of tiles so that neighbours share operands in L2; the loop over tiles and the loop over k are one loop, so
that the next tile's loads are under way while this one's is stored. Limited by the tensor cores, and by power.

`stream_kernel`, where tiles are few (decode, narrow layers): the weights are the M side of the matrix instruction,
so that 16 tokens are enough for wgmma and tcgen05; all k steps of all tiles are divided evenly over the programs
(stream-K), so that every SM reads the same share of the weights whatever the shape. Tiles that are divided are summed
in float32 by the program that arrives last, in a fixed order. Limited by HBM while m is below about 100.

Rows that TMA cannot address (not of whole 16 bytes) are left to `plain_kernel`, which is correct and not tuned.

fp8 is multiplied with the tensor cores' own accumulation, as serving engines and the baseline do: on Hopper that
keeps fewer bits than float32 between instructions.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

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
)

STANDS_FOR = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head", "router")


@triton.jit
def place(tile, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Row and column of a tile: columns of GROUP rows one after the other."""
    in_group = GROUP * tiles_n
    first = (tile // in_group) * GROUP
    rows = tl.minimum(tiles_m - first, GROUP)
    return first + (tile % in_group) % rows, (tile % in_group) // rows


@triton.jit(do_not_specialize=["m", "tiles_m", "tiles", "k_steps"])
def tiles_kernel(
    x, w, y, out, m, n, row_stride, tiles_m, tiles, k_steps, scale,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PARTS: tl.constexpr,
    STORE: tl.constexpr,
):  # fmt: skip
    """x, w, y: descriptors; out: the pointer of y, for rows that a descriptor cannot store (STORE is then 0).

    PARTS (1 or 2): the tile is stored in so many parts of its columns, to need less shared memory.
    """
    tiles_n = (n + BN - 1) // BN
    tl.assume(k_steps > 0)
    # Counted apart from the loop's own variable, so that loads of the next tile do not wait for the store.
    stored = tl.program_id(0) - tl.num_programs(0)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        at_m, at_n = place(tile, tiles_m, tiles_n, GROUP)
        sums = tl.zeros((BM, BN), tl.float32)
        for step in range(k_steps):
            rows = x.load([at_m * BM, step * BK])
            columns = w.load([at_n * BN, step * BK])
            sums = tl.dot(rows, columns.T, sums)
        stored += tl.num_programs(0)
        to_m, to_n = place(stored, tiles_m, tiles_n, GROUP)
        sums = sums * scale
        if STORE == 0:
            at_row = (to_m * BM + tl.arange(0, BM))[:, None]
            at_column = (to_n * BN + tl.arange(0, BN))[None, :]
            to = out + at_row.to(tl.int64) * row_stride + at_column
            tl.store(to, sums.to(out.dtype.element_ty), mask=(at_row < m) & (at_column < n))
        elif PARTS == 1:
            y.store([to_m * BM, to_n * BN], sums.to(out.dtype.element_ty))
        else:
            left, right = tl.split(tl.permute(tl.reshape(sums, (BM, 2, BN // 2)), (0, 2, 1)))
            y.store([to_m * BM, to_n * BN], left.to(out.dtype.element_ty))
            y.store([to_m * BM, to_n * BN + BN // 2], right.to(out.dtype.element_ty))


@triton.jit
def _slot(program, share, first_step):
    """Where a program's part of the tile that begins at `first_step` is: its first tile has slot 0, its last slot 1."""
    return (2 * program + (program * share < first_step).to(tl.int32)).to(tl.int64)


@triton.jit
def _partial(partial, program, last, share, first_step, BM: tl.constexpr, BN: tl.constexpr):
    """A program's part of a tile, zero for programs after the last one."""
    rows = tl.arange(0, BN)
    at = (partial + _slot(program, share, first_step) * (BN * BM) + rows * BM)[:, None] + tl.arange(0, BM)[None, :]
    there = (rows * 0 + program <= last)[:, None]
    return tl.load(at, mask=there, other=0.0, cache_modifier=".cg")  # past L1, which may not know what others wrote


@triton.jit(do_not_specialize=["m", "tiles_m", "k_steps", "steps", "share"])
def stream_kernel(
    x, w, out, partial, arrived, m, n, row_stride, tiles_m, k_steps, steps, share, scale,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Program i does k steps [i share, (i + 1) share) of all `steps`, which go tile by tile through k.

    x, w: descriptors. partial: float32 [2 programs, BN, BM], of the first and the last tile of each program. arrived:
    int32 [tiles], zero between launches. PIECES: share is at least 1 / PIECES of a tile; 0 where sums are so large
    that registers hold only one piece.
    """
    program = tl.program_id(0)
    at_n = tl.arange(0, BN)
    at_m = tl.arange(0, BM)
    step = program * share
    end = tl.minimum(step + share, steps)
    while step < end:
        tile = step // k_steps
        first_step = tile * k_steps
        low = step - first_step
        high = tl.minimum(end - first_step, k_steps)
        to_m = (tile % tiles_m) * BM  # tiles of the same weights are neighbours
        to_n = (tile // tiles_m) * BN
        sums = tl.zeros((BN, BM), tl.float32)
        for i in range(low, high):
            rows = w.load([to_n, i * BK])
            tokens = x.load([to_m, i * BK])
            sums = tl.dot(rows, tokens.T, sums)
        first = first_step // share
        last = (first_step + k_steps - 1) // share
        mine = True
        if first != last:
            to_rows = partial + _slot(program, share, first_step) * (BN * BM) + at_n * BM
            tl.store(to_rows[:, None] + at_m[None, :], sums)
            tl.debug_barrier()  # all of this program's stores come before its arrival
            before = tl.atomic_add(arrived + tile, 1, sem="acq_rel")
            mine = before == last - first
            if mine:
                sums = tl.zeros((BN, BM), tl.float32)
                if PIECES:  # unrolled, so that all loads are under way together
                    for piece in tl.static_range(PIECES + 1):
                        sums += _partial(partial, first + piece, last, share, first_step, BM, BN)
                else:
                    for i in range(first, last + 1):
                        sums += _partial(partial, i, last, share, first_step, BM, BN)
                tl.store(arrived + tile, 0)
        if mine:
            rows_of, columns_of = to_m + at_m, to_n + at_n
            to_rows = out + rows_of.to(tl.int64) * row_stride
            result = (sums * scale).to(out.dtype.element_ty)
            inside = (rows_of < m)[:, None] & (columns_of < n)[None, :]
            tl.store(to_rows[:, None] + columns_of[None, :], tl.trans(result), mask=inside)
        step = first_step + high


@triton.jit(do_not_specialize=["m"])
def plain_kernel(
    x, w, out, m, n, k, x_stride, w_stride, row_stride, scale,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One tile a program, by pointers."""
    tiles_n = tl.cdiv(n, BN)
    at_m = (tl.program_id(0) // tiles_n) * BM + tl.arange(0, BM)
    at_n = (tl.program_id(0) % tiles_n) * BN + tl.arange(0, BN)
    at_k = tl.arange(0, BK)
    rows = x + at_m.to(tl.int64)[:, None] * x_stride + at_k[None, :]
    columns = w + at_n.to(tl.int64)[None, :] * w_stride + at_k[:, None]
    sums = tl.zeros((BM, BN), tl.float32)
    for start in range(0, k, BK):
        inside = at_k < k - start
        a = tl.load(rows + start, mask=(at_m < m)[:, None] & inside[None, :], other=0.0)
        b = tl.load(columns + start, mask=(at_n < n)[None, :] & inside[:, None], other=0.0)
        sums = tl.dot(a, b, sums)
    to = out + at_m.to(tl.int64)[:, None] * row_stride + at_n[None, :]
    tl.store(to, (sums * scale).to(out.dtype.element_ty), mask=(at_m < m)[:, None] & (at_n < n)[None, :])


_workspaces: dict[tuple[str, str, torch.dtype, int], torch.Tensor] = {}


def workspace(room: Room, use: str, numbers: int, dtype: torch.dtype) -> torch.Tensor:
    """At least `numbers`, zero at first, shared by all launches that ask for about as many for the same use.

    Launches of one stream run one after the other, and leave counters as they found them; launches of different streams
    must not share.
    """
    key = (room.device, use, dtype, next_power_of_two(numbers))
    if key not in _workspaces:
        _workspaces[key] = torch.zeros(key[3], dtype=dtype, device=room.device)
    return _workspaces[key]


def aligned(tensor: torch.Tensor) -> bool:
    """Whether a descriptor can address the rows of a 2-d tensor: start and pitch are multiples of 16 bytes."""
    size = tensor.element_size()
    return tensor.stride(1) == 1 and tensor.stride(0) * size % 16 == 0 and tensor.data_ptr() % 16 == 0


def gemm(
    x: torch.Tensor, w: torch.Tensor, out: torch.Tensor, room: Room, config: Config, scale: float = 1.0
) -> list[Launch]:
    """Launches for out[m, n] = x[m, k] w[n, k]^T * scale; rows may be apart, elements of a row not.

    The launches share a workspace with all others of this device: run them on one stream.
    """
    (m, k), n = x.shape, w.shape[0]
    bm, bn, bk = config["BM"], config["BN"], config["BK"]
    tile = {"BM": bm, "BN": bn, "BK": bk, "num_warps": config["num_warps"], "num_stages": config["num_stages"]}
    tiles_m, tiles_n, k_steps = cdiv(m, bm), cdiv(n, bn), cdiv(k, bk)
    tiles, pitch = tiles_m * tiles_n, out.stride(0)
    if not (aligned(x) and aligned(w)):
        small = {"BM": 32, "BN": 64, "BK": 64, "num_warps": 4, "num_stages": 3}
        strides = (x.stride(0), w.stride(0), pitch)
        return [Launch(plain_kernel, (cdiv(m, 32) * cdiv(n, 64),), (x, w, out, m, n, k, *strides, scale), small)]
    rows, columns = TensorDescriptor.from_tensor(x, [bm, bk]), TensorDescriptor.from_tensor(w, [bn, bk])
    if config.get("STREAM", 0):
        steps = tiles * k_steps
        share = max(cdiv(steps, room.sms * config["STREAM"]), cdiv(k_steps, config["PIECES"]))
        programs = cdiv(steps, share)
        partial = workspace(room, "partial", 2 * programs * bm * bn, torch.float32)
        arrived = workspace(room, "arrived", tiles, torch.int32)
        shape = (m, n, pitch, tiles_m, k_steps, steps, share)
        pieces = config["PIECES"] if bm * bn <= 1024 * config["num_warps"] else 0
        args = (rows, columns, out, partial, arrived, *shape, scale)
        return [Launch(stream_kernel, (programs,), args, tile | {"PIECES": pieces})]
    parts, store = config["PARTS"], int(aligned(out))
    results = TensorDescriptor.from_tensor(out, [bm, bn // parts]) if store else None
    options = tile | {"GROUP": config["GROUP"], "PARTS": parts, "STORE": store}
    programs = min(tiles, room.sms * config["PER_SM"])
    given = (rows, columns, results, out, m, n, pitch, tiles_m, tiles, k_steps, scale)
    return [Launch(tiles_kernel, (programs,), given, options)]


def reference(x: torch.Tensor, w: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """The same in float32."""
    return (x.float() @ w.float().T) * scale


def _stream(bm: int, bn: int, step_bytes: int, per_sm: int, warps: int, stages: int, size: int) -> Config:
    shape = {"BM": bm, "BN": bn, "BK": step_bytes // size, "STREAM": per_sm, "PIECES": 4}
    return Config(shape | {"num_warps": warps, "num_stages": stages})


def _tiles(bm: int, bn: int, per_sm: int, warps: int, stages: int, parts: int, size: int) -> Config:
    shape = {"BM": bm, "BN": bn, "BK": 128 // size, "GROUP": 8, "PARTS": parts, "PER_SM": per_sm}
    return Config(shape | {"num_warps": warps, "num_stages": stages})


def configs_for(m: int, n: int, size: int, room: Room) -> list[Config]:
    """Those worth a try for operands of `size` bytes a number, the most promising first."""
    tries: tuple[tuple[int, int, int, int, int, int], ...]  # see _stream
    if m <= 32:
        bm = max(16, next_power_of_two(m))
        tries = ((bm, 64, 256, 2, 4, 4), (bm, 128, 256, 1, 8, 5), (bm, 64, 128, 3, 4, 6))
    elif m <= 64:
        tries = ((64, 64, 256, 2, 4, 3), (64, 128, 256, 1, 8, 4), (64, 128, 128, 2, 4, 4))
    elif m <= 128:
        tries = ((128, 64, 256, 1, 4, 4), (128, 128, 128, 1, 8, 5), (64, 128, 128, 2, 4, 4))
    else:
        tries = ((128, 128, 128, 1, 8, 5),)
    streams = [_stream(*values, size) for values in tries]
    if m <= 128:
        return streams
    large = [_tiles(128, 256, 1, 8, 3, 1, size), _tiles(128, 128, 2, 4, 3, 1, size)]
    if room.capability < 100:  # where the sums are in registers: the split tile needs less shared memory
        large.insert(0, _tiles(128, 256, 1, 8, 4, 2, size))
        streams.append(_stream(256, 128, 128, 1, 8, 4, size))
    waves = cdiv(m, 128) * cdiv(n, 256) / room.sms
    if waves < 2:  # the last wave is a large part of all
        return [*streams, *large]
    return [*large, *streams[1:]] if waves < 6 else large


def configs(row: Row, room: Room) -> list[Config]:
    return configs_for(row["m"], row["n"], BYTES[row["dtype"]], room)


def build(row: Row, room: Room) -> Problem:
    m, n, k, dtype = row["m"], row["n"], row["k"], DTYPES[row["dtype"]]
    fp8 = row["dtype"] == "fp8"
    wide = (torch.float16 if room.device == "cpu" else torch.bfloat16) if fp8 else dtype  # see Kernel.check_rows
    # fp8 numbers near 1, since it has few below; else weights such that results are near 1.
    scale, spread = (k**-0.5, 1.0) if fp8 else (1.0, k**-0.5)
    x = random(room, m, k, dtype=dtype, salt=1)
    w = random(room, room.copies, n, k, dtype=dtype, scale=spread, salt=2)
    out = empty(room, m, n, dtype=wide)
    if fp8:
        one, factor = (torch.full((), value, device=room.device) for value in (1.0, scale))
        baselines = {
            "torch._scaled_mm": lambda copy: torch._scaled_mm(
                x, w[copy].T, scale_a=one, scale_b=factor, out_dtype=wide, use_fast_accum=True, out=out
            )
        }
    else:
        baselines = {"torch.matmul": lambda copy: torch.mm(x, w[copy].T, out=out)}
    return Problem(
        lambda copy, config: gemm(x, w[copy], out, room, config, scale),
        lambda: [out],
        lambda: [reference(x, w[0], scale)],
        baselines,
    )


def sizes(row: Row) -> Sizes:
    m, n, k, size = row["m"], row["n"], row["k"], BYTES[row["dtype"]]
    weights = float(n * k * size)
    return Sizes(weights, float(m * k * size + m * n * 2), 2.0 * m * n * k, weights)


def _row(dtype: str, m: int, n: int, k: int) -> Row:
    return {"dtype": dtype, "m": m, "n": n, "k": k}


_SMALL = {"num_warps": 4, "num_stages": 2}

GEMM = Kernel(
    name="gemm",
    table="gemm",
    stands_for=STANDS_FOR,
    matches=lambda row: True,
    build=build,
    configs=configs,
    sizes=sizes,
    # 36 columns are no whole 16 bytes of y, k = 100 none of x and w (fp16: by pointers).
    check_rows=[
        *(_row("fp16", m, n, k) for m, n, k in ((1, 64, 64), (5, 72, 160), (33, 36, 224), (70, 96, 96), (3, 40, 100))),
        *(_row("fp8", m, n, k) for m, n, k in ((1, 48, 256), (37, 80, 144))),
    ],
    check_configs=[
        Config({"BM": 16, "BN": 32, "BK": 32, "STREAM": 2, "PIECES": 4, **_SMALL}),
        Config({"BM": 32, "BN": 32, "BK": 32, "GROUP": 2, "PARTS": 1, "PER_SM": 1, **_SMALL}),
        Config({"BM": 32, "BN": 32, "BK": 64, "GROUP": 2, "PARTS": 2, "PER_SM": 1, **_SMALL}),
    ],
    compile_rows=[
        (_row(dtype, m, n, 4096), (90, 100))
        for dtype in ("bf16", "fp8")
        for m, n in ((1, 4096), (32, 4096), (64, 4096), (128, 4096), (512, 4096), (8192, 8192))
    ],
)
