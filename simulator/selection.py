"""Which fitted group stands for a kernel on a GPU: exact, nearest software, transfer.

1. A GPU that was measured, with its own figures, uses its own profiles: of the software asked for, else of the same
   engine in another version, else of another engine (nearest software).
2. A GPU derived from a measured one (`base`), or of the same architecture as one, carries that one's groups: the
   physics takes the new figures, the corrections stay (tier `sibling`).
3. Any other GPU, invented ones included, uses `transfer`, which pools all measured GPUs (tier `foreign`).

Within a profile the group with the same number formats and the most alike kernel name is taken.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu, list_gpus, load_gpu
from simulator.fitted import WIDEN, ErrorBand, Fitted, Group
from simulator.kernels.expert_all_to_all import element_bytes
from simulator.kernels.registry import MODELS
from simulator.profile import profile_folder
from simulator.profilefile import read_meta, read_profile

TRANSFER = "transfer"
POOLED = "pooled"
"""Name of the kernel of a pooled group."""
NAMED = "(the one asked for)"
"""Stands for a profile that was asked for among names: it may be called as a bundled one is, which it does not hide."""
ENGINES = ("vllm", "sglang", "trtllm")
"""Software that runs models, in the order in which it is chosen where none is named."""
OWN = "triton"
"""The microbenchmarks' own kernels: a measuring stick that no engine runs, so everything else is chosen before them."""
ACCESS, GATHER = "access", "gather"
"""An attention's label may say that it gathers pages which each KV head chose: kernels whose names end so do."""

# Formats that a kernel for another one stands in for where its own was not measured. Weight-only formats are read in
# their own bytes and multiplied in bf16, so bf16's kernel of the same GPU is most like theirs.
STAND_INS = {
    "fp16": ("bf16",),
    "bf16": ("fp16",),
    "int8": ("sq", "fp8"),
    "sq": ("int8", "fp8"),
    "fp8": ("fp8_block", "int8", "sq"),
    "fp8_block": ("fp8",),
    "nvfp4": ("w4a8_mxfp4_mxfp8", "fp8"),
    "int4_wo": ("bf16", "w4a16_mxfp4", "int8_wo"),
    "int8_wo": ("bf16", "int4_wo"),
    "nvfp4_wo": ("bf16", "int4_wo", "w4a16_mxfp4"),
    "w4a16_mxfp4": ("bf16", "int4_wo"),
    "w4a8_mxfp4_mxfp8": ("nvfp4", "fp8_block", "fp8"),
}

ODD = (
    ("moe", "vllm_modeloptfp8moe_flashinfer_cutlass_flashinferexperts"),
    ("mla_prefill", "flash_attention"),
    ("expert_all_to_all", "deepep_v2_context"),
    ("expert_all_to_all", "deepep_v2_generation"),
)
"""Kinds and kernels that stand for others only where there is nothing else. The first takes, on Hopper, two to three
times as long as the same experts in bf16, so nobody would serve with it. The second computes prompts in the absorbed
form, with 3.4 times the FLOPs; SGLang itself does so only behind a short past (`deepseek_v2.py`, MHA_CHUNKED_KV).
The last two, an engine's option, were twice as slow as what it uses else.
"""

UNLIKE = {"gemm_dtype": 1_000, "kv_dtype": 10}
"""What a difference in a label other than the format of the operands weighs; else 1. Of a whole attention block the
format of its projections matters more than the cache's, and both more than whose widths it was measured with, which the
physics knows.
"""
ANY = "default"
"""The format of a kernel that is the same for all (DeepEP's under vLLM)."""
BLOCKS = ("mla_module", "dsa_module")
"""Kinds of a whole layer's attention."""
FAR = 100
"""How far a format is from one that nothing stands in for."""


@dataclass(frozen=True)
class Choice:
    """A group, the profile that it is of, and how it came to be chosen.

    tier : `exact` (this GPU and software), `version` (another version of the software), `software` (another software,
        kernel or format on this GPU), `sibling`, `foreign`.
    carried : the errors to expect if it was carried to another GPU.
    """

    group: Group
    profile: str
    tier: str
    carried: ErrorBand | None

    @property
    def transferred(self) -> bool:
        return self.tier != "exact"


class Library:
    """A set of fitted profiles by name. The bundled ones are read when they are asked for.

    Parameters
    ----------
    profiles : in place of the bundled ones.
    """

    def __init__(self, profiles: Sequence[Fitted] | None = None) -> None:
        if profiles is None:
            self.names = sorted(path.stem for path in profile_folder().glob("*.npz"))
        else:
            self.names = sorted(profile.name for profile in profiles)
        self._read = {profile.name: profile for profile in profiles or ()}
        self._kinds: dict[str, frozenset[str]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Fitted:
        if name not in self._read:
            self._read[name] = read_profile(profile_folder() / f"{name}.npz")
        return self._read[name]

    def kinds(self, name: str) -> frozenset[str]:
        """The kinds of kernels in a profile, without reading its trees."""
        if name not in self._kinds:
            read = self._read.get(name)
            meta = {} if read else read_meta(profile_folder() / f"{name}.npz")
            self._kinds[name] = frozenset(g.kind for g in read.groups) if read else frozenset(meta["models"])
        return self._kinds[name]

    @property
    def gpus(self) -> list[str]:
        """The GPUs that were measured."""
        return sorted({name.split("@")[0] for name in self.names if "@" in name})

    def of(self, gpu: str) -> list[Fitted]:
        """The profiles of a GPU."""
        return [self[name] for name in self.names if name.split("@")[0] == gpu and "@" in name]


@lru_cache(maxsize=1)
def bundled() -> Library:
    """The profiles that come with kinesim."""
    return Library()


def engine(software: str) -> str:
    """`vllm` of `vllm-0.24.0`."""
    return software.split("-")[0]


def anchor(gpu: Gpu, measured: Sequence[str]) -> tuple[str | None, str]:
    """Which of the `measured` GPUs' profiles stand for `gpu`, and the tier: exact, sibling, or None and foreign."""
    if gpu.name in measured and same_figures(gpu, load_gpu(gpu.name)):
        return gpu.name, "exact"
    root, seen = gpu, 0
    while root.base is not None and seen < 8:
        if root.base in measured:  # with another price, say, it is still the GPU that was measured
            return root.base, "exact" if same_figures(gpu, load_gpu(root.base)) else "sibling"
        if root.base not in list_gpus() and not os.path.exists(root.base):
            break
        root, seen = load_gpu(root.base), seen + 1
    if gpu.name in measured:
        return gpu.name, "sibling"
    alike = [load_gpu(name) for name in measured if _alike(load_gpu(name), gpu)]
    if alike:
        # What is nearest to the GPU that it was derived from: one percent more of something changes no kernels.
        return min(alike, key=lambda other: _distance(other, root)).name, "sibling"
    return None, "foreign"


def same_figures(a: Gpu, b: Gpu) -> bool:
    """Whether all figures agree that a kernel's time may depend on."""
    names = ("sms", "boost_clock", "peak", "memory", "l2", "link")
    return all(getattr(a, name) == getattr(b, name) for name in names)


def _alike(a: Gpu, b: Gpu) -> bool:
    """Whether two GPUs run the same kernels: the same architecture (Blackwell Ultra is Blackwell) and kind of memory.

    The workstation parts of an architecture have GDDR, other tensor cores and other kernels.
    """
    same = a.vendor == b.vendor and a.architecture.split()[0] == b.architecture.split()[0]
    return same and a.memory.kind[:3] == b.memory.kind[:3]


def stretch(gpu: Gpu, origin: Gpu) -> float:
    """How much wider than among measured siblings an interval should be: by how far the most changed figure is.

    Measured siblings, H100 and H200, are 0.5 octaves of bandwidth apart; beyond that the width grows with the
    distance. A judgement: nothing farther was measured.
    """
    pairs = [(gpu.memory.bandwidth, origin.memory.bandwidth), (gpu.sms, origin.sms), (gpu.l2.size, origin.l2.size)]
    pairs += [(gpu.l2.bandwidth, origin.l2.bandwidth), (gpu.link.bandwidth, origin.link.bandwidth)]
    pairs += [(gpu.peak[dtype], origin.peak[dtype]) for dtype in gpu.peak if dtype in origin.peak]
    return max(1.0, 2 * max(abs(math.log2(a / b)) for a, b in pairs))


def _distance(a: Gpu, b: Gpu) -> float:
    pairs = [(a.memory.bandwidth, b.memory.bandwidth), (a.peak["bf16"], b.peak["bf16"]), (a.sms, b.sms)]
    return sum(abs(math.log(x / y)) for x, y in pairs)


class Selection:
    """Chooses groups for one GPU; remembers its choices.

    Parameters
    ----------
    gpu : as it is asked for. software : such as `vllm-0.24.0`; None: the first of ENGINES that was measured.
    profile : a profile that must be used (its name, or the profile itself), whatever the GPU.
    library : what is chosen from; the bundled profiles if not given.
    """

    def __init__(
        self,
        gpu: Gpu,
        software: str | None = None,
        profile: str | Fitted | None = None,
        library: Library | None = None,
    ) -> None:
        self.gpu, self.software, self.library = gpu, software, library or bundled()
        self._memo: dict[tuple[object, ...], Choice | None] = {}
        if isinstance(profile, Fitted):
            named: Fitted | None = profile
        elif profile is not None:
            named = self.library[profile]
        else:
            named = None
        if named is not None and named.name == TRANSFER:
            self.anchor, self.tier = None, "foreign"
        elif named is not None:
            own = named.gpu == gpu.name and same_figures(gpu, load_gpu(gpu.name))
            self.anchor, self.tier = named.gpu, "exact" if own else "sibling" if self._related(named.gpu) else "foreign"
            self.software = software or named.software
        else:
            self.anchor, self.tier = anchor(gpu, self.library.gpus)
        self.named = named

    def _related(self, other: str) -> bool:
        return other in list_gpus() and _alike(load_gpu(other), self.gpu)

    def names(self) -> list[str]:
        """The profiles that groups are taken from, the preferred software first."""
        if self.anchor is None:
            found = [TRANSFER] if TRANSFER in self.library else []
        else:
            found = [name for name in self.library.names if name.split("@")[0] == self.anchor and "@" in name]
            found.sort(key=lambda name: (*self._software_rank(name.split("@")[-1]), name))
        return [*([NAMED] if self.named is not None else []), *found]

    def profile(self, name: str) -> Fitted:
        """One of them."""
        return self.named if name == NAMED and self.named is not None else self.library[name]

    def _software_rank(self, software: str) -> tuple[bool, bool, int, tuple[int, ...]]:
        """Sorts software: the one asked for, its engine's others, other engines; newer versions first."""
        own = self.software or ""
        name = engine(software)
        order = ENGINES.index(name) if name in ENGINES else len(ENGINES) + (name == OWN)
        version = tuple(-int(part) for part in re.findall(r"\d+", software.split("-", 1)[-1]))
        return software != own, engine(software) != engine(own), order, version

    def choose(self, kind: str, label: Mapping[str, str], shape: Mapping[str, float] | None = None) -> Choice | None:
        """The group for a kernel. `label` may lack `kernel`, for the one that the software uses most; None if no
        profile has the kind. `shape` : columns that every call shares: kernels that were measured at them go first.
        """
        shape = shape or {}
        key = (kind, tuple(sorted(label.items())), tuple(sorted(shape.items())))
        if key not in self._memo:
            self._memo[key] = self._choose(kind, label, shape)
        return self._memo[key]

    def _choose(self, kind: str, label: Mapping[str, str], shape: Mapping[str, float]) -> Choice | None:
        candidates: list[tuple[Fitted, Group]] = []
        for name in self.names():
            if name != NAMED and kind not in self.library.kinds(name):
                continue
            profile = self.profile(name)
            own = [(profile, group) for group in profile.groups if _may(group, kind, label)]
            candidates += own
            # Files are read only as far as needed: no later software is better than one with these very formats.
            if any(self._fits(group, label, shape) for _, group in own):
                break
        tier = self.tier
        nearest = min((self._form(group, label)[0] for _, group in candidates), default=FAR)
        pooled_too = TRANSFER in self.library and kind in self.library.kinds(TRANSFER)
        if nearest > 1 and self.anchor is not None and pooled_too:
            # Another GPU's kernels of this format, or of one more alike, tell more than this GPU's of a far one.
            pooled = self.library[TRANSFER]
            foreign = [(pooled, group) for group in pooled.groups if _may(group, kind, label)]
            if min((self._form(group, label)[0] for _, group in foreign), default=FAR) < nearest:
                candidates, tier = foreign, "foreign"
        if not candidates:
            return None
        largest: dict[str, int] = {}
        for owner, group in candidates:
            largest[owner.name] = max(largest.get(owner.name, 0), group.rows)
        profile, group = min(candidates, key=lambda c: self._rank(c[0], c[1], label, shape, largest[c[0].name]))
        tiers = [tier]
        other = any(name in label and _unlike(name, label[name], have) for name, have in group.label.items())
        other = other or _other_bytes(group, label) or _gathers_latents(group, label)
        if other and tier != "foreign":
            tiers.append("software")  # another kernel or format
        elif tier == "exact" and self.software is not None and profile.software != self.software:
            same = engine(profile.software) == engine(self.software)
            tiers.append("version" if same else "software")
        if tier == "exact" and len(tiers) > 1:
            tier = tiers[1]
        return Choice(group, profile.name, tier, self._carried(kind, tiers, group))

    def _fits(self, group: Group, label: Mapping[str, str], shape: Mapping[str, float]) -> bool:
        """Whether a group has the very formats, and nothing speaks against it."""
        own = self._form(group, label) == (0, 0) and not _hidden(group)
        return own and not _outside(group, shape) and not _odd(group, label)

    def _rank(
        self, profile: Fitted, group: Group, label: Mapping[str, str], shape: Mapping[str, float], largest: int
    ) -> tuple[object, ...]:
        """Sorts candidates, the best first. `largest` : rows of the profile's largest candidate."""
        form, other = self._form(group, label)
        kernel = label.get("kernel")
        alike = difflib.SequenceMatcher(None, kernel, group.label["kernel"]).ratio() if kernel else 0.0
        # A kernel that was hardly measured is hardly used, whatever name is like its own.
        minor = group.rows < 0.5 * largest and alike < 0.9
        # Inside a step kernels run in a CUDA graph, where no host launches them one by one.
        eager = group.label["kernel"].endswith("eager") and not (kernel or "").endswith("eager")
        gathers = label.get(ACCESS) == GATHER or (kernel or "").endswith(GATHER)
        other_access = group.label["kernel"].endswith(GATHER) != gathers
        # Under a host-side floor the kernel itself was hardly seen: another software's tells more.
        hidden = kernel is None and _hidden(group)
        asked_for = profile is not self.named
        rank = self._software_rank(profile.software)
        if is_pooled(group):
            alike = float(group.label["kernel"] == f"{POOLED} {engine(self.software or ENGINES[0])}")
            minor = alike < 1 and group.label["kernel"] != POOLED  # another engine's
        outside = _outside(group, shape)
        # Of blocks what is left beyond the projections is used, which is an engine's own whatever their format.
        foreign = group.kind in BLOCKS and rank[1]
        return (
            foreign, form, other, _odd(group, label), hidden, asked_for, outside, *rank,
            other_access, alike < 1, minor, eager, -alike, -group.rows,
        )  # fmt: skip

    def _form(self, group: Group, label: Mapping[str, str]) -> tuple[int, int]:
        """How far the number formats are from those asked for: of the operands, and how many others differ."""
        form = _far(label.get("dtype", ""), group.label.get("dtype", ""))
        others = [name for name in group.label if name not in ("dtype", "kernel") and name in label]
        return form, sum(_unlike(name, label[name], group.label[name]) * UNLIKE.get(name, 1) for name in others)

    def _carried(self, kind: str, tiers: Sequence[str], group: Group) -> ErrorBand | None:
        """The widest of the errors of all that was carried: to another GPU, format, software or version."""
        known = self.library[TRANSFER].carried.get(kind, {}) if TRANSFER in self.library else {}
        found = []
        for tier in tiers:
            if tier == "version":  # nobody measured two versions: twice the kernel's own errors
                found.append(_wider(group.errors["all"], WIDEN))
            elif tier in known:
                found.append(_wider(known[tier], self._stretch(tier)))
            elif tier != "exact" and not is_pooled(group):
                # Nobody carried a kernel of this kind: as with two versions.
                found.append(_wider(group.errors["all"], WIDEN * self._stretch(tier)))
        return max(found, key=lambda band: band.high - band.low, default=None)

    def _stretch(self, tier: str) -> float:
        return stretch(self.gpu, load_gpu(self.anchor)) if tier == "sibling" and self.anchor else 1.0


def _far(wanted: str, have: str) -> int:
    """How far a number format is from the one asked for: 0 if it is the same (or any), else its place among
    the stand-ins.
    """
    stand_ins: Sequence[str] = STAND_INS.get(wanted, ())
    return 0 if have in (wanted, ANY) else 1 + stand_ins.index(have) if have in stand_ins else FAR - 1


def _unlike(name: str, wanted: str, have: str) -> int:
    """How far a text of a label is from the one asked for. A checkpoint in fp8 has its model's name, and `-FP8`."""
    if name == "model":
        return int(not (wanted.startswith(have) or have.startswith(wanted)))
    return _far(wanted, have)


def _other_bytes(group: Group, label: Mapping[str, str]) -> bool:
    """Whether a kernel that is the same for all formats was measured with other bytes than those asked for move."""
    if group.label.get("dtype") != ANY or "dtype" not in label:
        return False
    return element_bytes({**group.label, "dtype": label["dtype"]}) != element_bytes(group.label)


def _gathers_latents(group: Group, label: Mapping[str, str]) -> bool:
    """Whether a kernel that reads all latents in one piece stands for one that gathers pages: no table has any."""
    return group.kind == "mla_decode" and label.get(ACCESS) == GATHER and not group.label["kernel"].endswith(GATHER)


def _wider(band: ErrorBand, factor: float) -> ErrorBand:
    return ErrorBand(band.low * factor, band.high * factor, band.mape, band.rows)


def is_pooled(group: Group) -> bool:
    """Whether a group stands for many kernels: of all software (`pooled`), or of one engine's (`pooled vllm`)."""
    return group.label["kernel"].split(" ")[0] == POOLED


def _odd(group: Group, label: Mapping[str, str]) -> bool:
    """Whether a kernel that nobody asks for by name should not be the one."""
    return (group.kind, group.label["kernel"]) in ODD and label.get("kernel") != group.label["kernel"]


def _hidden(group: Group) -> bool:
    """Whether a host-side floor hid the kernel in most of its rows. Whole blocks take up to a hundred times as long."""
    return group.floor > 0 and group.kind not in BLOCKS


def _outside(group: Group, shape: Mapping[str, float]) -> int:
    """Number of the columns of `shape` at which the group was not measured."""
    return sum(
        not group.ranges[name][0] <= value <= group.ranges[name][1]
        for name, value in shape.items()
        if name in group.ranges
    )


def _may(group: Group, kind: str, label: Mapping[str, str]) -> bool:
    """Whether a group can stand for a kernel at all: another collective cannot, nor prefill for decode."""
    if group.kind != kind or group.label.get("op") != label.get("op"):
        return False
    return all(group.label[name] == label[name] for name in ("phase", *MODELS[kind].named) if name in label)


def bind_label(choice: Choice, label: Mapping[str, str]) -> Mapping[str, str]:
    """What the physics is told of a kernel: its own label, or for a pooled group that of the kernel it stands for."""
    own = choice.group.label
    if is_pooled(choice.group):
        return {**own, **label}
    # The physics moves the bytes of the formats asked for, and has the widths of the model asked for, whatever kernel's
    # correction stands in.
    asked = {name: label[name] for name in ("dtype", "gemm_dtype", "model") if name in own and name in label}
    return {**own, **asked}


def require(choice: Choice | None, kind: str, gpu: Gpu) -> Choice:
    """The choice, or InputError if no profile knows the kind."""
    if choice is None:
        raise InputError(
            f"no profile has kernels of the kind {kind} for {gpu.name}", place="profile", allowed="another profile"
        )
    return choice
