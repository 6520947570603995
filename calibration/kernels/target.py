"""Compile for a GPU that is not there: a driver for Triton that only knows the target's architecture."""

from __future__ import annotations

from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class TargetDriver:
    """What Triton asks a driver when it compiles, and nothing that launches."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    @staticmethod
    def is_active() -> bool:
        return True

    def get_current_device(self) -> int:
        """A device of its own for each architecture: Triton keeps compiled kernels, and the target, by device."""
        return self.capability

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def map_python_to_cpp_type(self, name: str) -> Any:
        from triton.backends.nvidia.driver import ty_to_cpp

        return ty_to_cpp(name)


def compile_launcher(compiled: Any) -> None:
    """Compile the host's side of a launch into Triton's cache, where this version of Triton makes C code of it for
    every signature (3.6 does: half a second each, which the measuring process would spend). Raises what stands in its
    way: no C compiler, no libcuda.
    """
    from triton.backends.nvidia import driver as nvidia

    if hasattr(nvidia, "make_launcher"):
        nvidia.CudaLauncher(compiled.src, compiled.metadata)


def compile_for(capability: int) -> None:
    """Let `Launch.compile` compile for an architecture (90, 100) from now on in this process."""
    driver.set_active(TargetDriver(capability))
