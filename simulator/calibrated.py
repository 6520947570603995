"""The cost of operators by fitted profiles: a selection of kernels for one GPU, bound to the operators of the graph."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hwspecs.errors import InputError, near_matches
from hwspecs.gpu import Gpu
from simulator.calls import call_label, kernel_call
from simulator.cost import OpTime, operator_time
from simulator.modules import Whole, choose, is_core, module_label
from simulator.operators import Module, Operator
from simulator.profile import Profile, list_profiles, load_profile
from simulator.profilefile import read_profile
from simulator.selection import TRANSFER, Choice, Selection, bind_label, bundled, engine
from simulator.shape import StepShape

AUTO = "auto"
FUSED_REDUCE = "trtllm"
"""Whose all-reduces have the norm in them."""
FALLBACK = "rule-of-thumb"
"""The profile of operators that no fitted profile at hand knows. What passes over rows once, page scores and their
selection are only in those made of this package's own microbenchmarks.
"""


class Calibrated:
    """Times operators by what was learned of their kernels, and those that no table holds by a rule of thumb.

    Attributes
    ----------
    name, description, fitted_on : of the profile that most operators use; carried to another GPU it is a `transfer of`
        it. gpu : that it is bound to.
    selection : chooses kernels. fallback : the profile of operators that were not measured. reduces : chooses
        all-reduces, where they are another software's. launch : factor on every kernel's latency.
    """

    def __init__(
        self,
        gpu: Gpu,
        selection: Selection,
        fallback: Profile,
        reduces: Selection | None = None,
        launch: float = 1.0,
    ) -> None:
        self.launch = launch
        self.gpu, self.selection, self.fallback, self.reduces = gpu, selection, fallback, reduces or selection
        self._wholes: dict[tuple[Module, str], Whole | None] = {}
        main = selection.profile(selection.names()[0])
        carried = selection.tier in ("sibling", "foreign") and main.name != TRANSFER
        self.name = f"{TRANSFER} of {main.name}" if carried else main.name
        self.description, self.fitted_on = main.description, main.fitted_on

    def with_gpu(self, gpu: Gpu, launch: float = 1.0) -> Calibrated:
        """The same kernels and corrections on a GPU with other figures, which may be arrays; `launch` : factor on every
        kernel's latency.
        """
        other = copy(self)
        other.gpu, other.launch, other.fallback = gpu, launch * self.launch, self.fallback.launched(launch)
        return other

    def whole(self, op: Operator) -> Whole | None:
        """The kernels of the block that an operator shares the time of (`simulator.modules`); None if it has its own.

        Blocks are for attention and index: of the engine asked for, or where nothing finer was measured.
        """
        module = op.module
        if module is None or not is_core(op):
            return None
        key = replace(module, block=""), op.axis
        if key not in self._wholes:
            self._wholes[key] = self._whole(module, op.axis)
        return self._wholes[key]

    def _whole(self, module: Module, axis: str) -> Whole | None:
        found = choose(module, axis, self.selection.choose)
        if found is None or module.kind != "mla_module":
            return found
        label = module_label(module, axis)
        parts = {name: label[name] for name in ("dtype", "kv_dtype")}
        direct = self.selection.choose(f"mla_{axis}", parts)
        asked = self.selection.software
        if direct is None or (asked is not None and _engine(found.main) == engine(asked)):
            return found
        return None

    def choice(self, op: Operator) -> Choice | None:
        """The kernel that stands for an operator, or None if the rule of thumb does: nobody measured its kind."""
        whole = self.whole(op)
        if whole is not None:
            return whole.main
        found = call_label(op)
        if found is None:
            return None
        return (self.reduces if op.kind == "all_reduce" else self.selection).choose(*found, _width(op))

    def operator_time(self, op: Operator, shape: StepShape) -> OpTime:
        """Seconds of one execution and their parts (see `simulator.cost`); a host-side floor is never among them.

        Of an operator that shares the time of a block: as if it had no kernel of its own.
        """
        choice = None if self.whole(op) is not None else self.choice(op)
        call = None if choice is None else kernel_call(op, shape, self.gpu.link.domain)
        if choice is None or call is None:
            return operator_time(op, shape, self.gpu, self.fallback)
        estimate = choice.group.estimate(
            call.shape,
            self.gpu,
            label=bind_label(choice, call.label),
            lookup=call.lookup,
            cold=True,
            launch=self.launch,
        )
        scale = call.share * np.asarray(call.used)
        latency, compute, memory, l2, link = (scale * part for part in estimate.terms)
        return OpTime(_plain(scale * estimate.seconds), compute, memory, l2, link, latency)


def load_cost_profile(
    name: str,
    gpu: Gpu,
    *,
    relative_to: Path | None = None,
    software: str | None = None,
    fused_reduce: bool = False,
    launch: float = 1.0,
) -> Profile | Calibrated:
    """What times the operators on `gpu`: a roofline profile, or a fitted one, bound to the GPU.

    `auto` picks the fitted profile by the rule of `simulator.selection`, of `software` if any is given (an engine, with
    or without a version); a name or a path asks for one, whatever the GPU. `fused_reduce` : with `auto`, all-reduces
    run as one kernel with the norm after them: TensorRT-LLM's, which other engines call too (FlashInfer). `launch` :
    factor on what a kernel takes whatever the rates of the GPU.

    Raises
    ------
    InputError : unknown profile, or a file that is none.
    """
    fallback = load_profile(FALLBACK).launched(launch)
    if name.endswith(".npz"):
        path = Path(name)
        path = path if path.is_absolute() or relative_to is None else relative_to / path
        return Calibrated(gpu, Selection(gpu, profile=read_profile(path)), fallback, launch=launch)
    fitted = bundled().names
    if name == AUTO and fitted:
        reduces = Selection(gpu, _newest(gpu, FUSED_REDUCE)) if fused_reduce else None
        return Calibrated(gpu, Selection(gpu, _newest(gpu, software)), fallback, reduces, launch)
    if name in fitted:
        return Calibrated(gpu, Selection(gpu, profile=name), fallback, launch=launch)
    if name == AUTO:
        name = FALLBACK
    if name not in list_profiles() and not name.endswith((".yaml", ".yml")):
        known = [AUTO, *list_profiles(), *fitted]
        allowed = near_matches(name, known) + "; or the path of a .yaml or .npz file"
        raise InputError("unknown profile", place="profile", found=name, allowed=allowed)
    return load_profile(name, relative_to=relative_to).launched(launch)


def _engine(choice: Choice) -> str | None:
    """Whose kernel a group is; None for what is pooled over engines."""
    if choice.profile == TRANSFER:
        words = choice.group.label["kernel"].split(" ")
        return words[1] if len(words) > 1 else None
    return engine(choice.profile.split("@")[-1])


def _width(op: Operator) -> dict[str, float]:
    """Columns of an MoE block that no step changes: engines have several kernels for it, each for some of them."""
    if op.block is None:
        return {}
    block = op.block
    return {"hidden": block.hidden, "intermediate": block.intermediate, "experts": block.experts, "ep": block.groups}


def _newest(gpu: Gpu, software: str | None) -> str | None:
    """An engine without a version: the newest whose kernels were measured on what stands for the GPU."""
    if software is None or "-" in software:
        return software
    names = Selection(gpu, software).names()
    found = names[0].split("@")[-1] if names else software
    return found if engine(found) == software else software


def _plain(value: Any) -> Any:
    """A number for a number, an array for an array."""
    return value if np.ndim(value) else float(value)
