"""What the Kinetics law says of the step shown, beside what the step costs.

The law costs whole problems: N samples that generate L tokens each after a prompt of P. L is taken such that the
context shown is the mean one along the chain, P + L / 2, so that the law's mean token is that of the step.
"""

from __future__ import annotations

from typing import Any

from hwspecs.dtypes import BYTES
from simulator.exploring.state import View
from simulator.law.closedform import law_model
from simulator.law.split import Parts, parts, step_weight_bytes
from simulator.stepcost import StepCost


def law_costs(view: View, cost: StepCost, seconds: float) -> dict[str, Any]:
    """GPU-seconds of an output token: by the law, by the law with weights read once for the batch, and as `seconds` of
    the decode step are.

    Keys: `output_tokens` L of each of the samples; `eflops` of a token by the law and `shares` of it; `law_s`,
    `law_batch_s`, `simulated_s`, GPU-seconds of a token; `ratio`, simulated over law; `problem_tokens` N x L.
    """
    scenario = view.scenario
    gpu, policy, kv = scenario.gpu, scenario.config.attention, scenario.config.precision.kv
    peak = gpu.peak[cost.graph.main_dtype(gpu.peak)]
    model = law_model(scenario.model, kv)
    cap, page = policy.decode_cap(None), policy.page
    limited = model.budget is None and cap is not None
    kind = "dense" if not limited else "top_k" if page is None else "block_top_k"
    prompt = min(view.prompt, view.context - 1)
    output = max(1, 2 * (view.context - prompt))

    def by(**batch: Any) -> Parts:
        return parts(
            model, kind, prompt, output, view.samples, cap if limited else None, page,
            ratio=peak / gpu.memory.bandwidth, kv_bytes=BYTES[kv], **batch,
        )  # fmt: skip

    law, tokens = by(), output * view.samples
    batched = by(batch=view.batch, weight_bytes=float(step_weight_bytes(scenario.model, view.batch)))
    each = float(law.eflops) / tokens
    simulated = seconds * cost.graph.layout.gpus * cost.advance.unit / (view.batch * cost.advance.step)
    return {
        "output_tokens": output,
        "problem_tokens": tokens,
        "eflops": each,
        "shares": {name: float(share) for name, share in law.shares().items()},
        "law_s": each / peak,
        "law_batch_s": float(batched.eflops) / tokens / peak,
        "simulated_s": simulated,
        "ratio": simulated / (each / peak),
    }
