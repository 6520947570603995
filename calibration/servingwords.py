"""The texts of docs/serving.md, and the causes of its weakest groups. `serving_page` has the numbers."""

HEAD = """\
# Validation of deployments

*Made by `make serving`; do not edit.*

How far simulated deployments are from measured ones: {rows} servings of one engine instance under load on {gpus}, of
which {predicted} are predicted. Each row is a closed loop of users, replayed request by request through the simulator
([how](serving-tables.md)); `kinesim validate serving TABLE` does it for any table. The default table is the end-to-end
sample of NVIDIA AIConfigurator 0.12.0 (Apache-2.0): public InferenceX runs and NVIDIA's own.

An error is |predicted / measured - 1| of the mean TPOT or TTFT, and counts as 100 % at most. The bias is the median of
predicted / measured - 1: above 0 the prediction is too slow. The planning loss is the share of the best attainable
tokens/s/GPU that somebody misses who chooses deployments by the predictions. The columns *left out* are explained
below; in brackets is the same without rows of whose engine's version nothing else was measured.
"""

SPLITS = """\
## What has not been seen

The columns *left out* say how far predictions carry: the host's constants are fitted again without the deployment
(model, engine, GPU, precision and parallel layout), the model or the GPU of a row, and the row is simulated with them.
A parameter set keeps the kinds of constants that it has, from 0 to {farthest} times as large as shipped. Where fewer
than {least} of its rows are left, the set that the same version has on the most alike GPU stands in; where there is
none, all sets of the engine, or of all engines. Then the engine's version as such is *unseen*, besides the model or the
GPU: its errors say more of engines than of GPUs. In the last split the kernels' corrections are those of another GPU
too (B200 from H200, H200 and H100 from each other), as for a GPU without measured kernels.

Which kinds of constants a set has, the routing's constants and inferred settings (below) were chosen with all rows in
sight, so these figures are somewhat kind.
"""

FITTED = """\
## What is fitted, and what is not

Fitted to these measurements are the constants of the host in the engines' parameter sets (`workloads/engines/`). The
table has them as shipped, and as all rows of this table have them, with the simulation taken as linear around the
shipped ones. The floors `launch`, `moe_launch` and `latent_launch` are not fitted again.
"""

KERNELS = """\
Also taken from these deployments: how unevenly trained routers choose experts, and how far the busiest GPU is above the
mean (three constants of `simulator/routing.py`); and settings of runs whose recipes are not public, where their times
give them away (`calibration/servingrecipes.yaml` calls them inferred). Everything else comes from elsewhere: kernels'
times from measured kernels ([validation](validation.md)), the schedulers' rules, limits, CUDA graphs and memory rules
from the engines' public sources and start-up logs, the settings of public runs from their recipes (the same file).
"""

WORST = """\
## The weakest deployments

Of those with at least {least} rows, by the error of TPOT plus a third of that of TTFT.
"""

INTERVALS = """\
## Intervals

The 80 % interval of a mean TPOT follows from the kernels' held-out errors and an assumed factor of 1.5 for the host and
for what no table holds; nothing in it knows these measurements. So it should hold 80 % of them if kernels and host were
all there is:
"""

ODD = """\
## Odd measurements

Rows whose repeats differ, or whose TTFT falls when users are added. They stay in all figures above; TPOT and TTFT are
their own errors.
"""

CAUSES: dict[str, str] = {
    "DeepSeek-R1, trtllm, b200-sxm, fp4, tp8": (
        "TensorRT-LLM 1.1 in September and October 2025: above 32 users steps with prefill take less than in all its "
        "other runs; not explained"
    ),
    "DeepSeek-R1, sglang, b200-sxm, fp4, tp8": (
        "a version of September 2025 (0.5.3) with prompts of 8,192: prefill takes twice as long as in 0.5.9, and 5.6 s "
        "with 4 users (below)"
    ),
    "DeepSeek-R1, trtllm, h200-sxm, fp8, tp1 dp8 ep8": (
        "fewer experts are hit than 256 tokens should; on B200 they are; not explained"
    ),
    "Qwen3.5-397B-A17B, sglang, b200-sxm, bf16, tp8": (
        "a build of February 2026 in which bf16 experts take longer from 32 users on than those that were measured"
    ),
    "Kimi-K2.5, vllm, b200-sxm, fp4, tp4 ep4": (
        "requests take 70 ms longer to the scheduler than with experts split, of the same engine and GPU; not explained"
    ),
    "Llama-3.1-8B-Instruct, trtllm, h100-sxm": (
        "at 64 and 128 users with short outputs about three quarters of the users decode at a time, at 9,500 tokens/s "
        "in all: the server's front end, which is not modelled; TTFT at 8 users is above that at 16 (below)"
    ),
    "gpt-oss-120b, trtllm, h200-sxm, fp4, tp8": (
        "only from 4 GPUs on and without expert parallelism, growing with the users; no measured collective or expert "
        "kernel explains it; the recipe went over to expert parallelism two weeks later"
    ),
    "gpt-oss-120b, trtllm, h200-sxm, fp4, tp4": "as tp8",
    "gpt-oss-120b, trtllm, h200-sxm, fp4, tp1": (
        "64 users with prompts of 8,192 wait as if half of the KV cache were there; the other rows fit; not explained"
    ),
    "gpt-oss-120b, trtllm, b200-sxm, fp4, tp1 dp4": "collectives around the experts, which nobody measured",
    "gpt-oss-120b, trtllm, b200-sxm, fp4, tp1 dp2 ep2": "as tp1 dp4",
    "MiniMax-M2.5, vllm, h200-sxm, fp8, tp4": (
        "vLLM 0.16.0: 67 us a layer more at any number of users, of which 0.18.0 (tp8) has none; not proved: norms of "
        "queries and keys that were not fused yet"
    ),
    "MiniMax-M2.5, vllm, h100-sxm, fp8": "the KV cache is a tenth smaller than predicted (240,000 tokens by the waits)",
    "MiniMax-M2.5, vllm, b200-sxm, fp8, tp4": (
        "vLLM 0.17.0, with Triton's experts and a bf16 KV cache; its row of 8 users is odd (below)"
    ),
    "Qwen3-32B, sglang, h100-sxm, bf16, tp1": (
        "weights fill the GPU: 2 GiB of KV cache, whose size to 0.1 GiB decides how many sequences run"
    ),
}
"""How a deployment's name begins, up to a comma -> why it is predicted badly, as far as that was looked into."""
