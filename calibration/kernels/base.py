"""What the kernels have in common: launches, configurations, and problems with their operands in memory.

A kernel module has functions that turn tensors into `Launch`es (which a layer shares too), the plain torch reference
of the same, and a `Kernel` entry for the `catalogue`: how a row of a table becomes a `Problem`. Only torch and triton
are needed here. The same code runs on a GPU, on CPU tensors in Triton's interpreter, and on `meta` tensors where it is
only compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

Row = Mapping[str, Any]
"""A row of a table (see docs/microbenchmarks.md): labels are str, shape columns int."""

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float8_e4m3fn,
    "fp32": torch.float32,
}
BYTES = {"bf16": 2, "fp16": 2, "fp8": 1, "fp32": 4}

TENSOR_CORE = {90: "wgmma", 100: "tcgen05"}
"""The matrix instructions of an architecture (sm_90: Hopper, sm_100: Blackwell), as they are found in PTX."""


class Launch(NamedTuple):
    """One launch of a Triton kernel. `options` are its constexprs, and num_warps and num_stages."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: Mapping[str, Any]

    def run(self) -> None:
        """Launch on the current stream (or in the interpreter)."""
        self.kernel[self.grid](*self.args, **self.options)

    def compile(self) -> Any:
        """Compile for the active target without launching; a `CompiledKernel` with its PTX in `asm`."""
        return self.kernel.warmup(*self.args, grid=self.grid, **self.options)


@dataclass(frozen=True)
class Config:
    """One choice of a tuned kernel: tile sizes, splits, warps, stages; a few of them are tried for every shape."""

    options: Mapping[str, int]

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.options.items())

    def __getitem__(self, name: str) -> int:
        return self.options[name]

    def get(self, name: str, default: int) -> int:
        return self.options.get(name, default)

    @classmethod
    def parse(cls, text: str) -> Config:
        """The inverse of `str`."""
        pairs = (part.split("=") for part in text.split())
        return cls({name: int(value) for name, value in pairs})


NO_CONFIG = Config({})


class Room(NamedTuple):
    """Where a problem is made.

    device : `cuda`, `cpu` (Triton's interpreter), or `meta` (compilation only, nothing is stored).
    sms : streaming multiprocessors, for persistent grids and splits. capability : 90, 100, ...
    copies : how many of the operands that a step reads from HBM; one after the other is used, so that none is in L2.
    """

    device: str
    sms: int
    capability: int
    copies: int = 1
    seed: int = 0


class Sizes(NamedTuple):
    """What a problem takes and does, for plans: bytes of one copy of the cold operands, bytes of all others, FLOPs,
    and the bytes that one execution moves from or to HBM at the least.
    """

    cold: float
    warm: float
    flops: float
    moved: float


@dataclass(frozen=True)
class Problem:
    """A row of a table with its operands in memory.

    Attributes
    ----------
    launches : (copy, config) -> launches in order, on the copy's cold operands. Building them may allocate workspace;
        running them does not.
    outputs : () -> the tensors that the launches write. They are poisoned before a check.
    reference : () -> what `outputs` should hold after the launches on copy 0: float32 (or integer) tensors.
    baselines : name -> function of the copy that computes the same by a library, where there is one.
    compare : (outputs, references) -> the error, in place of the largest relative Frobenius error.
    """

    launches: Callable[[int, Config], Sequence[Launch]]
    outputs: Callable[[], Sequence[torch.Tensor]]
    reference: Callable[[], Sequence[torch.Tensor]]
    baselines: Mapping[str, Callable[[int], object]] = field(default_factory=dict)
    compare: Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], float] | None = None


@dataclass(frozen=True)
class Kernel:
    """An entry of the catalogue.

    Attributes
    ----------
    name : unique, as people say it. table : the kind of table that its rows belong to. software_kernel : what the
        column `kernel` of its rows says.
    stands_for : nodes of the operator graph (`simulator.stepgraph`) that it is timed for, without the suffix of a
        group of layers.
    matches : whether a row of the table is this kernel's.
    build : (row, room) -> Problem. configs : (row, room) -> those to try, the most promising first.
    sizes : row -> Sizes.
    check_rows : small rows for the interpreter (fp16, fp8). check_configs : small tiles to check them with.
    compile_rows : rows as they are measured, for the ahead-of-time compiler, each with the architectures on which
        tensor-core instructions of that architecture must be in the PTX (none where it does no matrix product, or too
        narrow a one for them).
    tolerance : largest error of `check_rows`.
    """

    name: str
    table: str
    stands_for: tuple[str, ...]
    matches: Callable[[Row], bool]
    build: Callable[[Row, Room], Problem]
    configs: Callable[[Row, Room], Sequence[Config]]
    sizes: Callable[[Row], Sizes]
    check_rows: Sequence[Row]
    compile_rows: Sequence[tuple[Row, tuple[int, ...]]]
    check_configs: Sequence[Config] = (NO_CONFIG,)
    software_kernel: str = "triton"
    tolerance: float = 2e-3


def empty(room: Room, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Uninitialised memory."""
    return torch.empty(*shape, dtype=dtype, device=room.device)


def random(room: Room, *shape: int, dtype: torch.dtype, scale: float = 1.0, salt: int = 0) -> torch.Tensor:
    """Normally distributed numbers, the same for the same seed and salt; random data draw the power that real data do.

    Large tensors repeat a block of 16 Mi numbers, so that filling memory is quick. Its length is 16 times an odd
    number: the rows of a tile differ, and the copies begin at multiples of 16 bytes, as fast copies have to.
    """
    made = torch.empty(*shape, dtype=dtype, device=room.device)
    if room.device == "meta" or made.numel() == 0:
        return made
    generator = torch.Generator(device=room.device).manual_seed(room.seed * 1_000_003 + salt)
    flat, block = made.view(-1), min(made.numel(), 2**24 + 48)
    numbers = (torch.randn(block, generator=generator, device=room.device) * scale).to(dtype)
    for start in range(0, flat.numel(), block):
        part = flat[start : start + block]
        part.copy_(numbers[: part.numel()])
    return made


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """Frobenius norm of the difference over that of the reference; infinite where `out` is not finite."""
    a, b = out.double().flatten(), reference.double().flatten()
    if not torch.isfinite(a).all():
        return float("inf")
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def error(problem: Problem) -> float:
    """The error of what the launches have written, against the reference."""
    outputs, references = list(problem.outputs()), list(problem.reference())
    if problem.compare is not None:
        return problem.compare(outputs, references)
    return max(relative_error(o, r) for o, r in zip(outputs, references, strict=True))


def poison(tensors: Sequence[torch.Tensor]) -> None:
    """Fill outputs with what no kernel writes, so that an element left out is seen."""
    for tensor in tensors:
        if tensor.is_floating_point():
            if tensor.dtype == torch.float8_e4m3fn:
                tensor.view(torch.uint8).fill_(0x7F)  # NaN
            else:
                tensor.fill_(float("nan"))
        else:
            tensor.fill_(torch.iinfo(tensor.dtype).min)


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def next_power_of_two(n: int) -> int:
    return 1 << max(0, (n - 1).bit_length())
