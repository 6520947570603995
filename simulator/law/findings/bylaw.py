"""Findings that follow from the law and the models' shapes alone, beside whole simulated runs.

Every figure in a sentence is computed; a sentence that explains stands only where the simulator shows what it says, and
quotes the figure.
"""

from __future__ import annotations

from hwspecs.gpu import load_gpu
from simulator.law.closedform import LawModel, law_model
from simulator.law.findings.evidence import REFERENCE, Evidence
from simulator.law.findings.words import Finding, gpu_name, span, table, times, verdict
from simulator.law.labels import size_label as short
from simulator.law.ladder import claims
from simulator.law.ladder.verdicts import log_effect, word
from simulator.law.published import PEAK, RATIO, published_model
from simulator.law.strategies import MODELS
from workloads.model import load_model

PROMPT = 150
"""Tokens of a problem, as in the bundled scenarios."""


def _laws() -> dict[str, LawModel]:
    return {name: law_model(load_model(name), "bf16") for name in MODELS}


def _published() -> dict[str, LawModel]:
    return {name: published_model(load_model(name)) for name in MODELS}


def attention_dominates(ev: Evidence) -> Finding:
    """Attention costs 10 to 1,000 times the parameters from 4,096 generated tokens on."""
    paper, ours = _published(), _laws()
    at = {n: [float(claims.attention_ratio(m, PROMPT, n, RATIO)) for m in paper.values()] for n in (4096, 32768)}
    gpus = [load_gpu(gpu) for gpu in ev.gpus]
    ratios = {gpu.name: gpu.peak_flops("bf16") / gpu.memory.bandwidth for gpu in gpus}
    rows = []
    for name in MODELS:
        from_tokens = claims.tokens_at_ratio(paper[name], PROMPT, 10, RATIO)
        row = [short(name), *(f"{claims.attention_ratio(paper[name], PROMPT, n, RATIO):.3g}" for n in at)]
        row.append(f"{from_tokens:,.0f}")
        row += [f"{claims.attention_ratio(ours[name], PROMPT, 32768, ratios[gpu.name]):.3g}" for gpu in gpus]
        for gpu in ev.gpus:
            fact = ev.facts.get((gpu, name, None, 32768))
            row.append("" if fact is None else f"{fact.ratio:.3g} ({fact.batch:.0f})")
        rows.append(row)
    dominated = ", ".join(short(name) for name, value in zip(MODELS, at[4096], strict=True) if value >= 10) or "none"
    elsewhere = " and ".join(f"{ratios[gpu.name]:.0f} ({gpu_name(gpu.name)})" for gpu in gpus)
    head = ["model", "as published, 4,096", "32,768", "10x from (tokens)"]
    head += [f"law {gpu_name(g.name)}, 32,768" for g in gpus]
    head += [f"simulated {gpu_name(g)}, 32,768 (batch)" for g in ev.gpus]
    small, middle, large = (
        [ev.facts[gpu, name, None, 32768] for gpu in ev.gpus] for name in ("qwen3-0.6b", REFERENCE, "qwen3-32b")
    )
    early = [ev.facts[gpu, REFERENCE, None, 4096] for gpu in ev.gpus]
    effect = log_effect(float(claims.attention_ratio(paper[REFERENCE], PROMPT, 4096, RATIO)), 10)
    return Finding(
        title="attention costs 10 to 1,000 times the parameters from 4,096 generated tokens on",
        paper="Phi of 10 to 1,000 (section 2)",
        law=f"{span(at[4096])} at 4,096 tokens, {span(at[32768])} at 32,768",
        simulated=tuple(
            f"{a.ratio:.2g} (0.6B), {b.ratio:.2g} (8B), {c.ratio:.2g} (32B) at 32,768"
            for a, b, c in zip(small, middle, large, strict=True)
        ),
        verdict=f"law: {word(effect)} for {dominated}; {verdict(None, [log_effect(f.ratio, 10) for f in early])}",
        why=(
            "the paper's E is twice that of dense bf16, and takes weights as free: at the batches that fit into memory "
            "they are read for few sequences"
        ),
        text=(
            "The ratio is (2a + n)(H + G E) D / P, with a prompt of "
            f"{PROMPT} tokens. With the paper's E = {RATIO:g} it is 10 or more at 4,096 tokens for {dominated}, and "
            f"{max(at[32768]):.0f} at most. Simulated it is seconds of attention over seconds of all operators with "
            f"weights, in {small[0].chains} chains of equal length; in brackets the sequences that decode at a time.",
            table(head, rows),
            f"Two things lower it. E: {elsewhere} FLOPs a byte with dense bf16, not {RATIO:g}. And the batch: the law "
            f"spreads the weights over infinitely many sequences, while an {gpu_name(ev.gpus[0])} decodes "
            f"{large[0].batch:.0f} chains of the 32B model at a time, which makes "
            f"linear layers {100 * large[0].linear / large[0].seconds:.0f} % of its time (8B: "
            f"{100 * middle[0].linear / middle[0].seconds:.0f} %, 0.6B: "
            f"{100 * small[0].linear / small[0].seconds:.0f} %). Judged at 4,096 tokens with the 8B model, where the "
            f"simulator gives {span([fact.ratio for fact in early], '{:.2g}')}.",
        ),
        effects=(effect, *(log_effect(fact.ratio, 10) for fact in early)),
    )


def kv_memory(ev: Evidence) -> Finding:
    """Doubling the parameters multiplies the KV by about 1.2."""
    paper, ours = _published(), _laws()
    growth = claims.kv_growth(paper)
    chain = {name: claims.kv_bytes_per_token(law) * 32768 for name, law in ours.items()}
    rows = []
    for name in MODELS:
        row = [short(name), f"{claims.kv_bytes_per_token(ours[name]) / 1024:.0f} KiB", f"{chain[name] / 2**30:.1f} GiB"]
        for gpu in ev.gpus:
            fact = ev.facts.get((gpu, name, None, 32768))
            row.append("" if fact is None else f"{fact.kv_tokens / 32768:.0f}")
        rows.append(row)
    fit = [
        [ev.facts[gpu, name, None, 32768].kv_tokens / 32768 for name in ("qwen3-0.6b", "qwen3-32b")] for gpu in ev.gpus
    ]
    return Finding(
        title="doubling the parameters multiplies the KV by about 1.2",
        paper="1.18x; a 32k chain needs 3.5 GB with 0.6B, 8 GB with 32B (section 3.2)",
        law=f"{growth:.2f}x; {chain['qwen3-0.6b'] / 2**30:.1f} and {chain['qwen3-32b'] / 2**30:.1f} GiB",
        simulated=tuple(f"{a:.0f} such chains fit with 0.6B, {b:.0f} with 32B" for a, b in fit),
        verdict=word(log_effect(growth, 1.18)),
        why="a matter of the models' shapes; the paper's fit has other sizes in it",
        text=(
            f"The slope of a line through the six models (logarithms, parameters as the paper counts them) gives "
            f"{growth:.2f}. What the law leaves out is how many such chains a GPU holds beside the weights, in vLLM's "
            "default share of the memory:",
            table(["model", "KV a token", "32,768 tokens", *(f"chains on one {gpu_name(g)}" for g in ev.gpus)], rows),
        ),
    )


def b200_time(ev: Evidence) -> Finding:
    """1e5 tera-eFLOPs are 22 seconds of a B200."""
    published = claims.b200_seconds(1e5)
    dense_peak = load_gpu("b200-sxm").peak_flops("bf16")
    model = published_model(load_model(REFERENCE))
    cost = claims.published_tera_eflops(model, PROMPT, 32768)
    seconds = [1e5 / cost * ev.facts[gpu, REFERENCE, None, 32768].seconds for gpu in ev.gpus]
    longer = [f"{s / published:.1f}x" for s in seconds]
    return Finding(
        title="1e5 tera-eFLOPs are 22 seconds of a B200",
        paper="22 s (project page, figure 5)",
        law=f"{published:.1f} s at the paper's {PEAK / 1e12:,.0f} TFLOP/s; {1e17 / dense_peak:.1f} s at dense bf16",
        simulated=tuple(f"{s:.0f} s, spent on dense 8B chains of 32,768 tokens" for s in seconds),
        verdict=f"law: {word(min(published / 22, 22 / published))}; simulated: {' and '.join(longer)}",
        why="the peak is the one for sparse matrices; a cost that is all memory traffic does not depend on it",
        text=(
            f"{1e5:,.0f} / {PEAK / 1e12:,.0f} = {published:.1f}. The peak is twice that of dense matrices. For traffic "
            "it does not matter, since E doubles with it: bytes x E / peak is bytes over bandwidth. For arithmetic it "
            "does. "
            f"A dense chain of 32,768 tokens with Qwen3-8B costs {cost:,.0f} published tera-eFLOPs, and "
            + ", ".join(
                f"{ev.facts[gpu, REFERENCE, None, 32768].seconds:.1f} s of a simulated {gpu_name(gpu)}"
                for gpu in ev.gpus
            )
            + f": 1e5 of them take {' and '.join(f'{s:.0f} s' for s in seconds)}.",
        ),
    )


def wall_clock(ev: Evidence) -> Finding:
    """Up to 25x in wall-clock on H200."""
    by_gpu = {gpu: [layer for layer in ev.layers if layer.gpu == gpu] for gpu in ev.gpus}
    rows = [
        [gpu_name(x.gpu), f"{x.batch:,}", f"{x.context:,}", times(x.bytes_ratio), times(x.speedup),
         f"{x.kv_bytes / 1e9:,.0f} GB of {x.memory / 1e9:,.0f} GB"]
        for x in ev.layers
    ]  # fmt: skip
    whole = {
        (gpu, name): ev.facts[gpu, name, None, 32768].seconds / ev.facts[gpu, name, 1024, 32768].seconds
        for gpu in ev.gpus for name in ("qwen3-0.6b", REFERENCE, "qwen3-32b")
    }  # fmt: skip
    bound = max(layer.bytes_ratio for layer in ev.layers)
    layers = [log_effect(max(x.speedup for x in by_gpu[gpu]), 25.9) for gpu in ev.gpus]
    engines = [log_effect(max(v for (g, _), v in whole.items() if g == gpu), 25.9) for gpu in ev.gpus]
    return Finding(
        title="block top-k is up to 25 times as fast on an H200",
        paper="25.9x to 26.2x, Qwen3-0.6B, single layers, estimated (section 5.2)",
        law=f"at most {times(bound)}, the ratio of the bytes of K, V and summaries",
        simulated=tuple(
            f"{span([x.speedup for x in by_gpu[gpu]], '{:.3g}x')} on those layers; whole engine at most "
            f"{times(max(v for (g, _), v in whole.items() if g == gpu))} (top-k)"
            for gpu in ev.gpus
        ),
        verdict=f"single layers: {verdict(None, layers)}; an engine: {verdict(None, engines)}".replace(
            "simulated: ", ""
        ),
        why=(
            "beyond the ratio of bytes a speed-up says that the dense kernel wastes bandwidth; and the KV of "
            "that batch fits into no GPU"
        ),
        text=(
            "The paper's points are single layers of one of eight tensor-parallel GPUs, 64 pages of 16 tokens. "
            "[Whole layers, and that experiment](kinetics-experiment.md) has them for all models.",
            table(["GPU", "batch", "context", "bytes", "simulated layer", "KV of all layers on each GPU"], rows),
            "In an engine that holds all layers the batch is what fits. Chains of 32,768 tokens, dense over ideal "
            "top-k with a budget of 1,024 tokens: "
            + "; ".join(
                f"{gpu_name(gpu)} "
                + ", ".join(
                    f"{short(name)} {times(whole[gpu, name])}" for name in ("qwen3-0.6b", REFERENCE, "qwen3-32b")
                )
                for gpu in ev.gpus
            )
            + ". Nothing was measured: page scores and selection are timed by a rule of thumb.",
        ),
        effects=(log_effect(bound, 25.9), *engines),
    )
