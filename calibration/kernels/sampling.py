"""Sampling of a token from a row of logits: softmax, and a draw by the inverse of its cumulative distribution.

Two launches. The first takes the largest logit and the sum of exponentials of every chunk of the vocabulary, so that a
single row uses many SMs. The second, a program a row, finds the chunk in which the uniform number falls, reads that
chunk again and finds the token in it.

The operator graph's node counts two reads of the logits in float32; these kernels read them once, and one chunk of them
twice. What limits it: HBM for many rows (the logits of 64 rows or so fit into an L2), the latency of two launches and
of their reductions for few.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from calibration.kernels.base import Config, Kernel, Launch, Problem, Room, Row, Sizes, cdiv, empty, next_power_of_two
from calibration.kernels.base import random as random_numbers
from calibration.kernels.rowwise import entry, row_of


@triton.jit(do_not_specialize=["chunks"])
def partials_kernel(logits, peaks, sums, vocab, chunks, BLOCK: tl.constexpr):
    """The largest logit of a chunk and the sum of exponentials relative to it."""
    row, chunk = tl.program_id(1).to(tl.int64), tl.program_id(0)
    at = chunk * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(logits + row * vocab + at, mask=at < vocab, other=float("-inf"))
    peak = tl.max(values, 0)
    shift = tl.where(peak == float("-inf"), 0.0, peak)  # a chunk that is masked out as a whole weighs nothing
    tl.store(peaks + row * chunks + chunk, peak)
    tl.store(sums + row * chunks + chunk, tl.sum(tl.exp(values - shift), 0))


@triton.jit(do_not_specialize=["chunks"])
def draw_kernel(logits, peaks, sums, uniforms, tokens, vocab, chunks, BLOCK: tl.constexpr, CHUNKS: tl.constexpr):
    """A row: its chunk, then its token, as the number of cumulated weights that its uniform number has passed."""
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, CHUNKS)
    peak = tl.load(peaks + row * chunks + index, mask=index < chunks, other=float("-inf"))
    weight = tl.load(sums + row * chunks + index, mask=index < chunks, other=0.0)
    top = tl.max(peak, 0)
    weight = weight * tl.exp(peak - top)
    reached = tl.cumsum(weight, 0)
    target = tl.load(uniforms + row) * tl.sum(weight, 0)
    # Rounding may leave the target beyond the last weight: then it is the last one that is not nothing.
    chunk = tl.sum((reached <= target).to(tl.int32), 0)
    chunk = tl.minimum(chunk, tl.max(tl.where(weight > 0, index, 0), 0))
    target -= tl.sum(tl.where(index == chunk, reached - weight, 0.0), 0)
    at = tl.arange(0, BLOCK)
    first = chunk * BLOCK
    values = tl.load(logits + row * vocab + first + at, mask=first + at < vocab, other=float("-inf"))
    chance = tl.exp(values - top)
    place = tl.sum((tl.cumsum(chance, 0) <= target).to(tl.int32), 0)
    place = tl.minimum(place, tl.max(tl.where(chance > 0, at, 0), 0))
    tl.store(tokens + row, (first + place).to(tl.int64))


def sample(
    logits: torch.Tensor, uniforms: torch.Tensor, tokens: torch.Tensor, room: Room, config: Config
) -> list[Launch]:
    """tokens[r] = the first token whose cumulated probability exceeds uniforms[r].

    logits : float32 [rows, vocabulary], contiguous; -inf for tokens that must not be drawn, but not for all of a row.
    uniforms : float32 [rows], in [0, 1). tokens : int64 [rows].
    """
    rows, vocab = logits.shape
    chunks = cdiv(vocab, config["BLOCK"])
    peaks, sums = (empty(room, rows, chunks, dtype=torch.float32) for _ in range(2))
    options = dict(config.options)
    return [
        Launch(partials_kernel, (chunks, rows), (logits, peaks, sums, vocab, chunks), options),
        Launch(
            draw_kernel,
            (rows,),
            (logits, peaks, sums, uniforms, tokens, vocab, chunks),
            {**options, "CHUNKS": next_power_of_two(chunks)},
        ),
    ]


def vocabulary_of(row: Row) -> int:
    """Logits of a row of the table, which counts two reads of them."""
    return row["row_bytes"] // 8


def build(row: Row, room: Room) -> Problem:
    rows, vocab = row["rows"], vocabulary_of(row)
    logits = random_numbers(room, rows, vocab, dtype=torch.float32, scale=3.0, salt=1)
    uniforms, tokens = empty(room, rows, dtype=torch.float32), empty(room, rows, dtype=torch.int64)
    if room.device != "meta":
        generator = torch.Generator(device=room.device).manual_seed(room.seed)
        uniforms.copy_(torch.rand(rows, generator=generator, device=room.device))
        uniforms[-1], uniforms[0] = 1 - 2.0**-24, 0.0

    def compare(outputs: Sequence[torch.Tensor], references: Sequence[torch.Tensor]) -> float:
        """How far a uniform number lies from its token's interval of the cumulative distribution."""
        token, total = outputs[0], references[0]
        if bool(((token < 0) | (token >= vocab)).any()):
            return float("inf")
        end = total.gather(1, token[:, None])[:, 0]
        start = torch.where(token > 0, total.gather(1, (token - 1).clamp(min=0)[:, None])[:, 0], 0.0)
        return float(torch.maximum(start - uniforms, uniforms - end).clamp(min=0).max())

    def drawn(copy: int) -> torch.Tensor:
        """The same draw without torch.multinomial, which waits for the host: the largest of p / Exp(1)."""
        return torch.softmax(logits, 1).div_(torch.empty_like(logits).exponential_()).argmax(1)

    return Problem(
        lambda copy, config: sample(logits, uniforms, tokens, room, config),
        lambda: [tokens],
        lambda: [torch.softmax(logits.double(), 1).cumsum(1)],
        {"torch softmax, exponential, argmax": drawn},
        compare,
    )


def configs(row: Row, room: Room) -> list[Config]:
    """Chunks: small ones for few rows, so that all SMs have some."""
    few = row["rows"] * cdiv(vocabulary_of(row), 4096) < 2 * room.sms
    tries = ((1024, 4), (2048, 4), (4096, 8)) if few else ((4096, 8), (8192, 8), (8192, 16))
    return [Config({"BLOCK": block, "num_warps": warps}) for block, warps in tries]


def sizes(row: Row) -> Sizes:
    """The logits are read once: half of what the row counts."""
    read = 4.0 * row["rows"] * vocabulary_of(row)
    return Sizes(0.0, read, 5 * read / 4, read)


SAMPLING: Kernel = entry(
    "sampling",
    ("sampling",),
    build,
    configs,
    [row_of("sampling", "fp16", rows, 8 * vocab) for rows, vocab in ((1, 100), (3, 1000), (7, 1024))],
    [row_of("sampling", "bf16", rows, 8 * vocab) for rows, vocab in ((1, 151_936), (256, 151_936), (64, 128_256))],
    {"BLOCK": 128, "num_warps": 1},
    tolerance=1e-5,
    sizes=sizes,
)
