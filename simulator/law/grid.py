"""`kinesim law cost`: the law over a grid of models, GPUs, attentions, prompts, trials and lengths.

A grid is costed by blocks of one model, GPU and attention, arrays inside; a million points take about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.dtypes import BYTES, check_dtype
from hwspecs.errors import InputError
from simulator.law.closedform import law_model
from simulator.law.costs import crossing, strategy_parts
from simulator.law.options import Policy
from simulator.law.pricing import Rates, rates
from simulator.law.published import PARAMETERS, published_model
from simulator.law.split import parts, step_weight_bytes
from simulator.result import plain

if TYPE_CHECKING:
    import pandas as pd

    from hwspecs.gpu import Gpu
    from workloads.model import Model

SHARES = ("parameters", "attention_compute", "attention_memory", "search", "prefill")
"""Parts of a cost, as columns: shares of the eFLOPs."""
NAMES = ("model", "gpu", "attention")
"""Columns of text."""
MOST_POINTS = 20_000_000
"""Points of a grid, of about 170 bytes each."""
MOST_CROSSINGS = 2_000
"""Combinations of prompt and trials for which the crossing is looked up."""


@dataclass(frozen=True)
class Terms:
    """How a grid is costed: options of `split.parts`, or the authors' formulas. `kv_dtype` None: the checkpoint's."""

    as_published: bool = False
    kv_dtype: str | None = None
    batch: float | None = None
    prefill: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Grid:
    """What is costed: every combination, the last one running fastest."""

    models: Sequence[Model]
    gpus: Sequence[Gpu]
    policies: Sequence[Policy]
    prompts: Sequence[int]
    trials: Sequence[int]
    tokens: Sequence[int]

    def __len__(self) -> int:
        return len(self.models) * len(self.gpus) * len(self.policies) * self.block

    @property
    def block(self) -> int:
        """Points of one model, GPU and policy."""
        return len(self.prompts) * len(self.trials) * len(self.tokens)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """a, N and n of a block."""
        found = np.meshgrid(*(np.asarray(x, float) for x in (self.prompts, self.trials, self.tokens)), indexing="ij")
        a, trials, n = (x.ravel() for x in found)
        return a, trials, n


def check_size(grid: Grid) -> None:
    """InputError for a grid of more than MOST_POINTS."""
    if len(grid) > MOST_POINTS:
        raise InputError("too many points", found=f"{len(grid):,} strategies", allowed=f"{MOST_POINTS:,} together")


def cost_columns(grid: Grid, terms: Terms = Terms()) -> dict[str, np.ndarray]:
    """Columns of one row a point, in the grid's order.

    model, gpu, attention; budget, page, local, prompt_tokens, tokens, trials; tera_eflops; seconds (eFLOPs / peak) and
    roofline_seconds (the larger of compute and memory of each part); usd, NaN where no price is known; `SHARES`, which
    add up to 1; attention_over_parameters. As published also differs_sums, differs_parameters and differs_hardware:
    factors from the published figure to that with the right sums, then this model's own parameters (both of the eFLOPs)
    and then the GPU's dense rates (of the seconds).

    InputError as of `costs.strategy_parts`.
    """
    size, (a, trials, n) = grid.block, grid.arrays()
    columns: dict[str, np.ndarray] = {}
    for i, (model, gpu, policy) in enumerate(product(grid.models, grid.gpus, grid.policies)):
        found = _block(model, gpu, policy, a, n, trials, terms)
        if not columns:
            columns = {name: np.empty(len(grid)) for name in found}
        for name, values in found.items():
            columns[name][i * size : (i + 1) * size] = values
    heads = list(product(grid.models, grid.gpus, grid.policies))
    names = {
        "model": np.repeat(np.array([model.name for model, _, _ in heads], dtype=object), size),
        "gpu": np.repeat(np.array([gpu.name for _, gpu, _ in heads], dtype=object), size),
        "attention": np.repeat(np.array([policy.kind for _, _, policy in heads], dtype=object), size),
    }
    whole = {
        name: np.repeat(np.array([getattr(policy, name) for _, _, policy in heads]), size)
        for name in ("budget", "page", "local")
    }
    repeated = {
        name: np.tile(values.astype(np.int64), len(heads))
        for name, values in (("prompt_tokens", a), ("tokens", n), ("trials", trials))
    }
    return names | whole | repeated | columns


def _block(model: Model, gpu: Gpu, policy: Policy, a: Any, n: Any, trials: Any, terms: Terms) -> dict[str, Any]:
    budget = None if policy.kind == "dense" else policy.budget
    split, rate = strategy_parts(model, policy.kind, a, n, trials, budget, policy.page, gpu, **vars(terms))
    eflops = split.eflops
    seconds = rate.seconds(eflops)
    found: dict[str, Any] = {
        "tera_eflops": eflops / 1e12,
        "seconds": seconds,
        "roofline_seconds": rate.seconds(split.roofline_eflops()),
        "usd": np.nan if gpu.price is None else rate.usd(seconds),
        **split.shares(),
        "attention_over_parameters": split.attention_ratio,
    }
    if terms.as_published:
        own = rates(gpu, model)
        law = law_model(model, "bf16")
        common = policy.kind, a, n, trials, budget, policy.page or None
        sums = parts(published_model(model), *common, ratio=rate.ratio).eflops
        right = parts(law, *common, ratio=rate.ratio).eflops
        there = own.seconds(parts(law, *common, ratio=own.ratio).eflops)
        found |= {
            "differs_sums": sums / eflops,
            "differs_parameters": right / sums,
            "differs_hardware": there / rate.seconds(right),
        }
    return found


def crossings(grid: Grid, terms: Terms = Terms()) -> list[dict[str, Any]]:
    """For each model, GPU, attention, prompt and number of trials the generated tokens at which attention costs as much
    as the parameters (`costs.crossing`), None where it never does; of the right formulas with the rates of `terms`.

    An empty list where there are more than MOST_CROSSINGS combinations of prompt and trials.
    """
    if len(grid.prompts) * len(grid.trials) > MOST_CROSSINGS:
        return []
    a, trials = (x.ravel() for x in np.meshgrid(grid.prompts, grid.trials, indexing="ij"))
    found = []
    for model, gpu, policy in product(grid.models, grid.gpus, grid.policies):
        rate = rates(gpu, model, as_published=terms.as_published)
        dtype = check_dtype(terms.kv_dtype or model.kv_dtype or model.dtype)
        law = published_model(model) if terms.as_published else law_model(model, dtype)
        traffic = None if terms.batch is None else step_weight_bytes(model, terms.batch)
        tokens = crossing(
            law, policy.kind, a, trials, None if policy.kind == "dense" else policy.budget, policy.page or None,
            ratio=rate.ratio, kv_bytes=BYTES[dtype], batch=terms.batch, weight_bytes=traffic, exact=terms.exact,
        )  # fmt: skip
        for prompt, number, value in zip(a, trials, tokens, strict=True):
            found.append(
                {
                    "model": model.name, "gpu": gpu.name, "attention": policy.kind, "budget": policy.budget,
                    "prompt_tokens": int(prompt), "trials": int(number),
                    "tokens": None if np.isinf(value) else round(float(value), 1),
                }
            )  # fmt: skip
    return found


def cost_frame(grid: Grid, terms: Terms = Terms()) -> pd.DataFrame:
    """`cost_columns` as a data frame; its names are categories."""
    import pandas as pd

    columns: dict[str, Any] = dict(cost_columns(grid, terms))
    return pd.DataFrame(columns | {name: pd.Categorical(columns[name]) for name in NAMES}, copy=False)


def breakdown(grid: Grid, terms: Terms = Terms()) -> list[dict[str, Any]]:
    """Of a grid of one point: each part's FLOPs, bytes, tera-eFLOPs, seconds at their sum and at the roofline."""
    model, gpu, policy = grid.models[0], grid.gpus[0], grid.policies[0]
    budget = None if policy.kind == "dense" else policy.budget
    a, trials, n = grid.arrays()
    split, rate = strategy_parts(model, policy.kind, a, n, trials, budget, policy.page, gpu, **vars(terms))
    found = []
    for part in ("parameter", "attention", "search", "prefill"):
        flops, moved = (float(getattr(split, f"{part}_{what}")[0]) for what in ("flops", "bytes"))
        eflops, most = flops + moved * rate.ratio, max(flops, moved * rate.ratio)
        found.append(
            {
                "part": part.replace("parameter", "parameters"),
                "flops": flops,
                "bytes": moved,
                "tera_eflops": eflops / 1e12,
                "seconds": rate.seconds(eflops),
                "roofline_seconds": rate.seconds(most),
            }
        )
    return found


def cost_document(grid: Grid, terms: Terms, columns: dict[str, np.ndarray], most: int | None = None) -> dict[str, Any]:
    """What `kinesim law cost --format json` prints, schema `kinesim-law-cost/1`, of a grid's `cost_columns`.

    terms : how it was costed (`Terms`). hardware : of each GPU and format the rates that were taken. models : P, H, G
    and D. rows : the first `most` of the columns, None for all. crossings : see there. breakdown : see there; only of
    a single point. notes : what was assumed.
    """
    rows = [
        {name: plain(value) for name, value in zip(columns, values, strict=True)}
        for values in zip(*(column[:most].tolist() for column in columns.values()), strict=True)
    ]
    return {
        "schema": "kinesim-law-cost/1",
        "terms": vars(terms),
        "hardware": [_hardware(rate) for rate in hardware(grid, terms)],
        "models": [_model(model, terms) for model in grid.models],
        "rows": rows,
        "crossings": crossings(grid, terms),
        **({"breakdown": breakdown(grid, terms)} if len(grid) == 1 else {}),
        "notes": notes(grid, terms),
    }


def hardware(grid: Grid, terms: Terms) -> list[Rates]:
    """The rates that were taken, each once."""
    found = [rates(gpu, model, as_published=terms.as_published) for gpu, model in product(grid.gpus, grid.models)]
    return list({(rate.gpu.name, rate.dtype): rate for rate in found}.values())


def _hardware(rate: Rates) -> dict[str, Any]:
    price = rate.gpu.price
    return {
        "gpu": rate.gpu.name,
        "title": rate.gpu.title,
        "dtype": rate.dtype,
        "peak_flops": rate.peak,
        "bandwidth": rate.bandwidth,
        "flops_per_byte": rate.ratio,
        "usd_per_hour": price.usd_per_hour if price else None,
        "price_date": price.date if price else None,
    }


def _model(model: Model, terms: Terms) -> dict[str, Any]:
    dtype = check_dtype(terms.kv_dtype or model.kv_dtype or model.dtype)
    law = published_model(model) if terms.as_published else law_model(model, dtype)
    return {
        "model": model.name,
        "parameters": law.parameters,
        "q_heads": law.q_heads,
        "kv_heads": law.kv_heads,
        "depth": law.depth,
        "kv_dtype": "bf16" if terms.as_published else dtype,
        "windows": [list(window) for window in law.windows],
        "own_budget": law.budget,
    }


def notes(grid: Grid, terms: Terms) -> list[str]:
    """What was assumed or left out, in sentences."""
    found = []
    if terms.as_published:
        found += _published_notes(grid)
        others = [model.name for model in grid.models if model.name not in PARAMETERS]
        if others:
            found.append(f"the authors have no parameter count of {', '.join(others)}: its own was taken")
    elif any(model.layer_windows and any(model.layer_windows) for model in grid.models):
        found.append("layers with a sliding window read no more than that; the paper knows none")
    if any(model.linear_layers for model in grid.models):
        found.append("layers of linear attention have no term: what they read does not grow with the chain")
    if any(model.latent is not None and model.latent.indexer is not None for model in grid.models):
        found.append("a model with an indexer reads its own choice of keys; search is its index over all of them")
    if any(model.moe for model in grid.models):
        found.append("P of a mixture of experts are the parameters that a token uses")
    if terms.batch is None and not terms.as_published:
        found.append("infinite batch: the weights are read for nothing; --batch counts them")
    if len(grid.prompts) * len(grid.trials) > MOST_CROSSINGS:
        found.append("too many combinations of prompt and trials to look up where attention overtakes the parameters")
    return found


def _published_notes(grid: Grid) -> list[str]:
    """Where the authors' formulas are not the law's."""
    longest, kinds = max(policy.budget for policy in grid.policies), {policy.kind for policy in grid.policies}
    found = ["E = 562.5 takes 4,500 TFLOP/s, twice the dense bf16 rate of a B200"]
    if "top_k" in kinds and longest > min(grid.prompts):
        found.append(
            "top-k: the authors read B n + (B - a)^2 / 2 keys where the budget B exceeds the prompt a, more than there "
            "are; right sums take the sum of min(B, a + t)"
        )
    if "block_top_k" in kinds:
        found.append("block top-k: the authors round the pages searched down before they multiply them with n")
        if longest > min(grid.prompts) + min(grid.tokens):
            found.append(
                "block top-k: B n - (B - a)^2 / 2 keys holds for n >= B - a; for shorter outputs it is too little, or "
                "below zero"
            )
    twice = [model.name for model in grid.models if model.tie_embeddings and model.name in PARAMETERS]
    twice = [name for name in twice if name.endswith(("0.6B", "1.7B"))]
    if twice:
        found.append(f"the authors count the embedding table of {' and '.join(twice)} twice: it is the LM head, too")
    return found
