"""Which profile stands for a kernel: exact, another software's, a sibling's, or what is pooled over all GPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from madeprofiles import group, profile

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu, load_gpu
from simulator.fitted import ErrorBand, Fitted, Group
from simulator.selection import Library, Selection, anchor, bind_label, engine, require

MEASURED = ("a100-sxm", "b200-sxm", "h100-sxm", "h200-sxm")
SIBLING, FOREIGN, SOFTWARE = (ErrorBand(-w, w, w / 2, 100) for w in (0.1, 0.3, 0.05))
BF16 = {"kernel": "default", "dtype": "bf16"}


def gemm(kernel: str = "default", dtype: str = "bf16", rows: int = 100, **changes: object) -> Group:
    return group("gemm", label={"kernel": kernel, "dtype": dtype}, rows=rows, **changes)


def decode(kernel: str, kv_dtype: str = "bf16") -> Group:
    return group("attention_decode", label={"kernel": kernel, "dtype": "bf16", "kv_dtype": kv_dtype})


def collective(op: str) -> Group:
    return group("collective", label={"kernel": "nccl", "op": op, "dtype": "fp16"})


def made_library() -> Library:
    profiles = [profile(f"{gpu}@vllm-0.24.0", (gemm(), decode("fa3"), decode("fa3", "fp8"))) for gpu in MEASURED]
    profiles += [
        profile(f"{gpu}@nccl-2.29.2", (collective("all_reduce"), collective("all_gather"))) for gpu in MEASURED
    ]
    profiles += [
        profile("h200-sxm@sglang-0.5.9", (gemm("sgl"), gemm("sgl", "fp8"))),
        profile("h200-sxm@trtllm-1.3.0", (gemm("torch_flow"), gemm("torch_flow", "int8_wo"), decode("torch_flow"))),
    ]
    carried = {
        kind: {"sibling": SIBLING, "foreign": FOREIGN, "software": SOFTWARE}
        for kind in ("gemm", "attention_decode", "collective")
    }
    pooled = tuple(gemm("pooled", dtype) for dtype in ("bf16", "fp8", "nvfp4"))
    pooled += (decode("pooled"), collective("all_reduce"), group("moe", label={"kernel": "pooled", "dtype": "bf16"}))
    return Library([*profiles, profile("transfer", pooled, carried=carried)])


LIBRARY = made_library()


def choose(gpu: str | Gpu, software: str | None, kind: str = "gemm", **label: str) -> tuple[str, str, str]:
    """Profile, tier and kernel of the choice for a GEMM in bf16, unless told otherwise."""
    made = load_gpu(gpu) if isinstance(gpu, str) else gpu
    found = Selection(made, software, library=LIBRARY).choose(kind, {**({} if label else BF16), **label})
    assert found is not None
    assert found.transferred == (found.tier != "exact")
    assert (found.carried is None) == (found.tier == "exact" or found.group.kind == "moe")
    return found.profile, found.tier, found.group.label["kernel"]


def invented() -> Gpu:
    return replace(load_gpu("h200-sxm"), name="dream", vendor="Nobody", architecture="Dream", base=None)


def half_as_fast_again(name: str = "h200-sxm") -> Gpu:
    gpu = load_gpu(name)
    return replace(gpu, name="fast", base=name, memory=replace(gpu.memory, bandwidth=2 * gpu.memory.bandwidth))


# ---- which GPU's -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpu", MEASURED)
def test_a_measured_gpu_is_its_own(gpu: str) -> None:
    assert choose(gpu, "vllm-0.24.0") == (f"{gpu}@vllm-0.24.0", "exact", "default")
    assert choose(gpu, None) == (f"{gpu}@vllm-0.24.0", "exact", "default")


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("gb200", ("b200-sxm",)),
        ("b300-sxm", ("b200-sxm",)),
        ("gb300", ("b200-sxm",)),
        ("gh200", ("h100-sxm", "h200-sxm")),
        ("h20", ("h100-sxm", "h200-sxm")),
    ],
)
def test_a_gpu_of_a_measured_architecture_carries_a_siblings(gpu: str, expected: tuple[str, ...]) -> None:
    name, tier, _ = choose(gpu, "vllm-0.24.0")
    assert tier == "sibling" and name in {f"{other}@vllm-0.24.0" for other in expected}


@pytest.mark.parametrize("gpu", ["l40s", "rtx-pro-6000", "mi300x", "mi355x", "r200"])
def test_other_gpus_take_what_is_pooled(gpu: str) -> None:
    assert choose(gpu, "vllm-0.24.0") == ("transfer", "foreign", "pooled")


def test_a_derived_gpu_carries_its_bases() -> None:
    assert choose(half_as_fast_again(), None) == ("h200-sxm@vllm-0.24.0", "sibling", "default")
    assert choose(half_as_fast_again("a100-sxm"), None) == ("a100-sxm@vllm-0.24.0", "sibling", "default")
    assert choose(half_as_fast_again("gb200"), None) == ("b200-sxm@vllm-0.24.0", "sibling", "default")
    assert choose(half_as_fast_again("l40s"), None) == ("transfer", "foreign", "pooled")
    assert choose(invented(), None) == ("transfer", "foreign", "pooled")


def test_changed_figures_under_a_measured_name_are_not_exact() -> None:
    """`gpu.memory.bandwidth` set on the command line leaves the name as it is."""
    changed = load_gpu("h200-sxm").with_values({"memory.bandwidth": 9.6e12})
    assert choose(changed, None) == ("h200-sxm@vllm-0.24.0", "sibling", "default")
    cheaper = replace(load_gpu("h200-sxm"), price=None, title="mine")
    assert choose(cheaper, None) == ("h200-sxm@vllm-0.24.0", "exact", "default"), "no kernel knows the price"


def test_a_base_that_nobody_knows_and_one_of_itself() -> None:
    loop = replace(invented(), base="dream")
    assert anchor(loop, MEASURED) == (None, "foreign")
    hopper = replace(load_gpu("h200-sxm"), name="mine", base="a user's file")
    assert anchor(hopper, MEASURED) == ("h200-sxm", "sibling")


# ---- which software's and kernel's -----------------------------------------------------------------------------------


def test_another_version_is_the_same_engines() -> None:
    assert choose("h200-sxm", "vllm-0.11.0") == ("h200-sxm@vllm-0.24.0", "version", "default")
    assert choose("h200-sxm", "trtllm-1.0.0", kernel="torch_flow", dtype="bf16") == (
        "h200-sxm@trtllm-1.3.0", "version", "torch_flow",
    )  # fmt: skip


def test_the_newest_of_several_versions() -> None:
    versions = [profile(f"h200-sxm@vllm-{v}", (gemm(),)) for v in ("0.9.0", "0.14.0", "0.24.0")]
    selection = Selection(load_gpu("h200-sxm"), None, library=Library(versions))
    assert selection.names() == [f"h200-sxm@vllm-{v}" for v in ("0.24.0", "0.14.0", "0.9.0")]
    found = selection.choose("gemm", {"dtype": "bf16"})
    assert found is not None and found.profile == "h200-sxm@vllm-0.24.0"


def test_an_unknown_engine_takes_the_nearest() -> None:
    name, tier, _ = choose("h200-sxm", "lmdeploy-0.7")
    assert (name, tier) == ("h200-sxm@vllm-0.24.0", "software")


def test_an_engine_without_the_kind_takes_anothers() -> None:
    found = choose("h200-sxm", "sglang-0.5.9", "attention_decode", dtype="bf16", kv_dtype="fp8")
    assert found == ("h200-sxm@vllm-0.24.0", "software", "fa3")


def test_the_formats_come_before_the_software() -> None:
    assert choose("h200-sxm", "vllm-0.24.0", kernel="default", dtype="fp8") == (
        "h200-sxm@sglang-0.5.9", "software", "sgl",
    )  # fmt: skip
    found = choose("a100-sxm", "vllm-0.24.0", "attention_decode", dtype="bf16", kv_dtype="fp8")
    assert found[:2] == ("a100-sxm@vllm-0.24.0", "exact")


def test_a_format_that_this_gpu_never_ran_is_taken_from_the_pool() -> None:
    assert choose("h200-sxm", "vllm-0.24.0", kernel="default", dtype="nvfp4") == ("transfer", "foreign", "pooled")
    assert choose("h200-sxm", "vllm-0.24.0", "moe", kernel="x", dtype="bf16") == ("transfer", "foreign", "pooled")


def test_a_format_that_nobody_ran_has_a_stand_in() -> None:
    name, tier, kernel = choose("h200-sxm", "vllm-0.24.0", kernel="default", dtype="int4_wo")
    assert (name, tier, kernel) == ("h200-sxm@vllm-0.24.0", "software", "default")


def test_a_kind_that_only_the_pool_knows_in_another_format() -> None:
    assert choose("h200-sxm", "vllm-0.24.0", "moe", kernel="x", dtype="fp8") == ("transfer", "foreign", "pooled")


def test_a_collective_is_never_another() -> None:
    assert choose("h200-sxm", None, "collective", op="all_gather", dtype="bf16")[0] == "h200-sxm@nccl-2.29.2"
    selection = Selection(load_gpu("h200-sxm"), library=LIBRARY)
    missing = selection.choose("collective", {"op": "alltoall", "dtype": "bf16"})
    assert missing is None
    with pytest.raises(InputError, match="no profile has kernels of the kind collective for h200-sxm"):
        require(missing, "collective", selection.gpu)


def test_the_most_alike_kernel_or_the_most_measured_one() -> None:
    groups = (gemm("DeepGemmKernel", rows=10), gemm("CutlassKernel", rows=500), gemm("Cutlass_eager", rows=900))
    selection = Selection(load_gpu("h200-sxm"), library=Library([profile("h200-sxm@vllm-1", groups)]))

    def kernel(**label: str) -> str:
        found = selection.choose("gemm", {"dtype": "bf16", **label})
        assert found is not None
        return found.group.label["kernel"]

    assert kernel(kernel="DeepGemmKernel") == "DeepGemmKernel"
    assert kernel(kernel="DeepGemmKernel2") == "DeepGemmKernel"
    assert kernel(kernel="Deep") == "CutlassKernel", "a name that is half alike does not make a rare kernel likely"
    assert kernel() == "CutlassKernel", "inside a CUDA graph nothing is eager"


def test_errors_are_those_of_the_tier() -> None:
    def carried(gpu: str, software: str) -> ErrorBand | None:
        found = Selection(load_gpu(gpu), software, library=LIBRARY).choose("gemm", BF16)
        assert found is not None
        return found.carried

    assert carried("h200-sxm", "vllm-0.24.0") is None
    own = Selection(load_gpu("h200-sxm"), "vllm-0.24.0", library=LIBRARY).choose("gemm", BF16)
    version = carried("h200-sxm", "vllm-0.10.0")
    assert own is not None and version is not None
    assert version.high == pytest.approx(2 * own.group.errors["all"].high), "twice its own"
    assert carried("h200-sxm", "lmdeploy-1") == SOFTWARE
    assert carried("gb200", "vllm-0.24.0") == SIBLING
    assert carried("l40s", "vllm-0.24.0") == FOREIGN


def test_a_pooled_kernel_is_told_whom_it_stands_for() -> None:
    label = {"kernel": "fa3", "dtype": "bf16", "kv_dtype": "fp8"}
    foreign = Selection(load_gpu("l40s"), library=LIBRARY).choose("attention_decode", label)
    own = Selection(load_gpu("h200-sxm"), library=LIBRARY).choose("attention_decode", {**label, "kernel": "fa4"})
    assert foreign is not None and bind_label(foreign, label) == label
    assert own is not None and bind_label(own, {**label, "kernel": "fa4"})["kernel"] == "fa3"


# ---- a profile that must be used -------------------------------------------------------------------------------------


def named(gpu: str, chosen: str | Fitted, software: str | None = None, **label: str) -> tuple[Fitted, str]:
    selection = Selection(load_gpu(gpu), software, chosen, LIBRARY)
    found = selection.choose("gemm", label or BF16)
    assert found is not None
    owners = [selection.profile(name) for name in selection.names()]
    return next(owner for owner in owners if any(group is found.group for group in owner.groups)), found.tier


def test_a_named_profile_is_used_whatever_the_gpu() -> None:
    sglang = LIBRARY["h200-sxm@sglang-0.5.9"]
    assert named("h200-sxm", "h200-sxm@sglang-0.5.9", kernel="sgl", dtype="bf16") == (sglang, "exact")
    assert named("h100-sxm", "h200-sxm@sglang-0.5.9") == (sglang, "sibling")
    assert named("l40s", "h200-sxm@sglang-0.5.9") == (sglang, "foreign")
    assert named("h200-sxm", "transfer") == (LIBRARY["transfer"], "foreign")


@pytest.mark.parametrize("software", ["vllm-0.24.0", "trtllm-1.3.0", "other-1"])
def test_a_named_profile_is_used_whatever_the_software(software: str) -> None:
    found, tier = named("h200-sxm", "h200-sxm@sglang-0.5.9", software)
    assert found.name == "h200-sxm@sglang-0.5.9"
    assert tier == "software"


def test_a_users_file_comes_before_the_bundled_one_of_its_name() -> None:
    """What it lacks is still found in the bundled one."""
    mine = profile("h200-sxm@vllm-0.24.0", (gemm(rows=1),), description="mine")
    assert named("h200-sxm", mine)[0] is mine
    selection = Selection(load_gpu("h200-sxm"), None, mine, LIBRARY)
    found = selection.choose("attention_decode", {"dtype": "bf16", "kv_dtype": "fp8"})
    assert found is not None and found.group in LIBRARY["h200-sxm@vllm-0.24.0"].groups
    pooled = profile("transfer", (gemm("pooled", rows=1),), description="mine")
    assert named("l40s", pooled)[0] is pooled
    alone = Selection(load_gpu("l40s"), None, pooled, Library([]))
    found = alone.choose("gemm", BF16)
    assert found is not None and found.group is pooled.groups[0]


def test_nothing_to_choose_from() -> None:
    for gpu in ("h200-sxm", "l40s"):
        selection = Selection(load_gpu(gpu), library=Library([]))
        assert selection.names() == [] and selection.choose("gemm", BF16) is None


def test_names_and_engines() -> None:
    assert LIBRARY.gpus == sorted(MEASURED)
    assert "transfer" in LIBRARY and "h200-sxm@vllm-0.1" not in LIBRARY
    assert engine("vllm-0.24.0") == "vllm" and engine("sglang-0.5.6.post2") == "sglang"


def test_weight_only_formats_come_from_this_gpus_bf16_kernel_in_bytes_of_their_own() -> None:
    for dtype in ("int8_wo", "int4_wo", "w4a16_mxfp4"):
        found = Selection(load_gpu("h100-sxm"), "vllm-0.24.0", library=LIBRARY).choose("gemm", {"dtype": dtype})
        assert found is not None and found.group.label["dtype"] == "bf16" and found.profile == "h100-sxm@vllm-0.24.0"
        assert bind_label(found, {"dtype": dtype})["dtype"] == dtype


# ---- latent, sparse and linear attention, all-to-all -----------------------------------------------------------------

BLOCK = {
    "kernel": "default", "phase": "decode", "model": "deepseek-ai/DeepSeek-V3", "dtype": "bf16", "kv_dtype": "bf16",
    "gemm_dtype": "bf16", "form": "expanded",
}  # fmt: skip


def picked(kind: str, groups: list[dict[str, str]], **label: str) -> Group | None:
    """The group of those with these labels that is chosen on the GPU where they were measured."""
    made = tuple(group(kind, label=own) for own in groups)
    library = Library([profile("h200-sxm@vllm-0.24.0", made)])
    found = Selection(load_gpu("h200-sxm"), "vllm-0.24.0", library=library).choose(kind, label)
    return None if found is None else found.group


def test_prefill_never_stands_for_decode_nor_a_convolution_for_the_delta_rule() -> None:
    both = [BLOCK, BLOCK | {"phase": "prefill"}]
    asked = {name: text for name, text in BLOCK.items() if name not in ("kernel", "form")}
    for phase in ("decode", "prefill"):
        found = picked("mla_module", both, **asked | {"phase": phase})
        assert found is not None and found.label["phase"] == phase
    assert picked("mla_module", [BLOCK], **asked | {"phase": "prefill"}) is None
    names = {"conv": "causal_conv1d_fn", "delta": "chunk_gated_delta_rule"}
    routines = [{"kernel": kernel, "phase": "prefill", "routine": name} for name, kernel in names.items()]
    for name, kernel in names.items():
        found = picked("linear_attention", routines, phase="prefill", routine=name)
        assert found is not None and found.label["kernel"] == kernel
    assert picked("linear_attention", routines[:1], phase="prefill", routine="delta") is None


def test_projections_before_the_cache_before_the_model() -> None:
    asked = {name: text for name, text in BLOCK.items() if name not in ("kernel", "form")}
    glm = asked | {"model": "zai-org/GLM-5", "kv_dtype": "fp8", "gemm_dtype": "fp8_block"}
    other_model = BLOCK | {"kv_dtype": "fp8", "gemm_dtype": "fp8_block"}
    other_cache = BLOCK | {"model": "zai-org/GLM-5", "gemm_dtype": "fp8_block"}
    other_projections = BLOCK | {"model": "zai-org/GLM-5", "kv_dtype": "fp8"}
    for groups in ([other_projections, other_cache], [other_cache, other_model], [other_projections, other_model]):
        for order in (groups, groups[::-1]):
            found = picked("mla_module", order, **glm)
            assert found is not None and found.label == groups[1]


def test_a_checkpoint_in_another_format_is_the_same_model() -> None:
    asked = {name: text for name, text in BLOCK.items() if name not in ("kernel", "form")} | {"model": "zai-org/GLM-5"}
    groups = [BLOCK, BLOCK | {"model": "zai-org/GLM-5-FP8"}]
    for order in (groups, groups[::-1]):
        found = picked("mla_module", order, **asked)
        assert found is not None and found.label["model"] == "zai-org/GLM-5-FP8"


def test_another_models_block_is_timed_with_its_own_widths_and_formats() -> None:
    """Corrections are those of the measured model; the physics is told whose widths and which projections."""
    library = Library([profile("h200-sxm@vllm-0.24.0", (group("mla_module", label=BLOCK),))])
    asked = {**BLOCK, "model": "zai-org/GLM-5", "gemm_dtype": "fp8_block"}
    found = Selection(load_gpu("h200-sxm"), "vllm-0.24.0", library=library).choose("mla_module", asked)
    assert found is not None and found.tier == "software"
    assert bind_label(found, asked) == asked


def test_odd_kernels_stand_in_last_and_answer_to_their_name() -> None:
    """SGLang computes prompts in the absorbed form on Hopper only behind a short past: TensorRT-LLM's kernel stands."""
    absorbed = {"kernel": "flash_attention", "dtype": "bf16", "kv_dtype": "bf16"}
    profiles = [
        profile("h200-sxm@sglang-0.5.14", (group("mla_prefill", label=absorbed),)),
        profile("h200-sxm@trtllm-1.3.0", (group("mla_prefill", label=absorbed | {"kernel": "default"}),)),
    ]
    for library, unnamed in ((Library(profiles), "default"), (Library(profiles[:1]), "flash_attention")):
        chooser = Selection(load_gpu("h200-sxm"), "sglang-0.5.14", library=library)
        step, row = (
            chooser.choose("mla_prefill", {"dtype": "bf16", "kv_dtype": "bf16"}),
            chooser.choose("mla_prefill", absorbed),
        )
        assert step is not None and step.group.label["kernel"] == unnamed
        assert row is not None and row.group.label["kernel"] == "flash_attention"


def test_a_kernel_of_any_format_is_of_the_one_asked_for() -> None:
    own = {"kernel": "deepep_ll", "phase": "dispatch", "dtype": "default", "mode": "ll"}
    others = own | {"kernel": "trtllm_deepep_ll", "dtype": "fp8"}
    profiles = [
        profile("h200-sxm@vllm-0.24.0", (group("expert_all_to_all", label=own),)),
        profile("h200-sxm@trtllm-1.3.0rc11", (group("expert_all_to_all", label=others),)),
    ]
    chooser = Selection(load_gpu("h200-sxm"), "vllm-0.24.0", library=Library(profiles))
    found = chooser.choose("expert_all_to_all", {"phase": "dispatch", "dtype": "fp8", "mode": "ll"})
    assert found is not None and found.group.label["kernel"] == "deepep_ll"
    assert bind_label(found, {"dtype": "fp8"})["dtype"] == "fp8"


@pytest.mark.parametrize(
    ("gpu", "phase", "dtype", "tier"),
    [
        ("h200-sxm", "dispatch", "bf16", "exact"),
        ("h200-sxm", "dispatch", "default", "exact"),
        ("h200-sxm", "dispatch", "fp8", "software"),
        ("h200-sxm", "dispatch", "nvfp4", "software"),
        ("h200-sxm", "combine", "fp8", "exact"),  # results come back in bf16, whatever the experts' format
        ("gh200", "dispatch", "fp8", "sibling"),
    ],
)
def test_a_kernel_measured_with_two_bytes_is_not_exact_for_fewer(gpu: str, phase: str, dtype: str, tier: str) -> None:
    label = {"kernel": "deepep_ll", "phase": phase, "dtype": "default", "mode": "ll"}
    library = Library([profile("h200-sxm@vllm-0.24.0", (group("expert_all_to_all", label=label),))])
    chooser = Selection(load_gpu(gpu), "vllm-0.24.0", library=library)
    found = chooser.choose("expert_all_to_all", {"phase": phase, "dtype": dtype, "mode": "ll"})
    assert found is not None and found.tier == tier
    assert found.transferred == (found.carried is not None) == (tier != "exact")
