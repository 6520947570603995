"""Checks of the kernels without a GPU: correct in Triton's interpreter, compiled ahead of time with tensor cores.

    python -m calibration.kernels.check --interpret [--kernel NAME]
    python -m calibration.kernels.check --compile 90 100 [--kernel NAME]

Prints one JSON line a check and exits with 1 if one failed. The two are different processes, since Triton decides on
its interpreter when a kernel is defined.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibration.kernels.base import Kernel, Problem

INSTRUCTIONS = {
    "wgmma": "wgmma.mma_async",
    "tcgen05": "tcgen05.mma",
    "mma": "mma.sync",
    "tma": "cp.async.bulk.tensor",
    "cp.async": "cp.async.cg",
}
"""Instructions looked for in PTX."""
SMS = {90: 132, 100: 148}


def interpret(kernel: Kernel) -> Iterator[dict[str, Any]]:
    """Run the small rows of a kernel in the interpreter and compare them with the reference."""
    from calibration.kernels.base import Room, error, poison

    for row in kernel.check_rows:
        for config in kernel.check_configs:
            problem = kernel.build(row, Room("cpu", sms=3, capability=90, copies=2))
            for copy in (1, 0):  # the second copy must leave nothing behind that the first one needs
                launches = problem.launches(copy, config)
                poison(problem.outputs())
                untouched = _untouched(problem) if config is kernel.check_configs[0] else math.inf
                for launch in launches:
                    launch.run()
            found = error(problem)
            yield {
                "kernel": kernel.name,
                "check": "interpret",
                "row": dict(row),
                "config": str(config),
                "error": found,
                "tolerance": kernel.tolerance,
                "ok": found <= kernel.tolerance < untouched,
            }


def _untouched(problem: Problem) -> float:
    """The error of outputs that no kernel has written: a check that passes on them says nothing."""
    from calibration.kernels.base import error

    try:
        return error(problem)
    except (IndexError, RuntimeError):  # what was poisoned is not even an index
        return math.inf


def compile_ahead(kernel: Kernel, capability: int) -> Iterator[dict[str, Any]]:
    """Compile every configuration of the measured rows and look for tensor-core instructions."""
    from calibration.kernels.base import TENSOR_CORE, Room
    from calibration.kernels.target import compile_for

    compile_for(capability)
    for row, tensor in kernel.compile_rows:
        room = Room("meta", sms=SMS[capability], capability=capability)
        problem = kernel.build(row, room)
        for config in kernel.configs(row, room):
            found = dict.fromkeys(INSTRUCTIONS, 0)
            shared = 0
            for launch in problem.launches(0, config):
                compiled = launch.compile()
                shared = max(shared, compiled.metadata.shared)
                for name, text in INSTRUCTIONS.items():
                    found[name] += compiled.asm["ptx"].count(text)
            yield {
                "kernel": kernel.name,
                "check": f"compile sm_{capability}",
                "row": dict(row),
                "config": str(config),
                "instructions": found,
                "shared_bytes": shared,
                "ok": capability not in tensor or found[TENSOR_CORE[capability]] > 0,
            }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m calibration.kernels.check", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--interpret", action="store_true", help="run the kernels in Triton's interpreter")
    what.add_argument("--compile", type=int, nargs="+", metavar="SM", choices=sorted(SMS), help="architectures: 90 100")
    parser.add_argument("--kernel", action="append", help="only this one (may be given more than once)")
    options = parser.parse_args(arguments)
    os.environ["TRITON_INTERPRET"] = "1" if options.interpret else "0"
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # as all versions up to 3.9 do
    from calibration.kernels.catalogue import KERNELS

    unknown = set(options.kernel or ()) - {kernel.name for kernel in KERNELS}
    if unknown:
        names = ", ".join(kernel.name for kernel in KERNELS)
        parser.error(f"no kernel is called {', '.join(sorted(unknown))}; there are: {names}")
    ok = True
    for kernel in KERNELS:
        if options.kernel and kernel.name not in options.kernel:
            continue
        for capability in [None] if options.interpret else options.compile:
            try:
                for line in interpret(kernel) if capability is None else compile_ahead(kernel, capability):
                    ok &= line["ok"]
                    print(json.dumps(line), flush=True)
            except Exception as problem:
                ok = False
                check = "interpret" if capability is None else f"compile sm_{capability}"
                what_failed = traceback.format_exception_only(problem)[-1].strip()
                traceback.print_exc()
                print(json.dumps({"kernel": kernel.name, "check": check, "failure": what_failed, "ok": False}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
