"""What the findings page rests on: frontiers of a fitted accuracy model under the law's costs and under simulated ones,
digitised curves where they are at hand, and whole runs that say where the time goes.

Nothing here knows the paper's words; `findings` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.gpu import Gpu, load_gpu
from simulator.law.findings.runfacts import PAPER_LAYER_POINTS, LayerFacts, RunFacts, layer_facts, run_facts
from simulator.law.frontiers.frontier import Frontier, frame_frontier, frontier
from simulator.law.ladder.claims import Penalty, b200_seconds, penalties
from simulator.law.ladder.climb import ladder
from simulator.law.ladder.measures import LEVELS, Measures, measure
from simulator.law.ladder.verdicts import SMALL
from simulator.law.strategies import AXES, BUDGETS, LIMITS, MODELS, SCENARIOS, TRIALS
from workloads.model import load_model

if TYPE_CHECKING:
    import pandas as pd

GPUS = ("h200-sxm", "b200-sxm")
PUBLISHED = "published"
"""Setting: the authors' formulas, parameter counts and B200."""
SPARSE = ("top_k", "block_top_k")
REFERENCE = "qwen3-8b"
"""The model whose choices of KV budget are followed, as the paper does (figure 7)."""
REFERENCE_LAYER = "qwen3-0.6b"
"""The model of the paper's largest speed-up of a layer."""
RUN_MODELS = ("qwen3-0.6b", "qwen3-8b", "qwen3-32b")
WIDE_MODEL, WIDE = "qwen3-32b", 4
"""A model that one GPU has little room for, and tensor-parallel GPUs that have more."""
RUN_TOKENS = (4096, 32768)
RUN_BUDGETS = (None, 1024)

SPREADS = ("", "low", "high")
"""How much problems differ, for Best-of-N: as the accuracy model has it, and the ends of what is possible."""

Costs = Callable[["pd.DataFrame", str, str], np.ndarray]
"""GPU-seconds per problem of each row of a strategy table, on a GPU, served as a scenario says."""


def law_setting(gpu: str) -> str:
    """The law with a GPU's dense peak and bandwidth."""
    return f"law {gpu}"


def simulated_setting(gpu: str) -> str:
    return f"simulated {gpu}"


@dataclass(frozen=True)
class Evidence:
    """See the module. `fronts` by (axis, setting), `measures` by (axis, setting, attention); costs are GPU-seconds per
    problem.

    Attributes
    ----------
    curves : frontier of the digitised curves in the paper's B200 seconds (dense, top_k); None where they are not here.
    curve_penalty : what choosing by FLOPs costs at most on the digitised dense curves; None without them.
    accuracy : the accuracy model's note: what it is, what it cannot say.
    spreads : measures of Best-of-N by (spread, setting, attention), spread one of SPREADS.
    facts : whole runs by (GPU, model, KV budget, tokens), on one GPU. wide : of WIDE_MODEL on WIDE GPUs, by (GPU, KV
        budget), of the longest chains. layers : the paper's experiment on single layers.
    steps : the rungs of `ladder` of RUN_MODELS under RUN_BUDGETS, chains cut at the longest of RUN_TOKENS.
    """

    curves: Frontier | None
    curve_penalty: Penalty | None
    accuracy: str
    fronts: Mapping[tuple[str, str], Frontier]
    measures: Mapping[tuple[str, str, str], Measures]
    spreads: Mapping[tuple[str, str, str], Measures]
    facts: Mapping[tuple[str, str, int | None, int], RunFacts]
    wide: Mapping[tuple[str, int | None], RunFacts]
    layers: tuple[LayerFacts, ...]
    steps: pd.DataFrame
    gpus: tuple[str, ...] = GPUS


def gather(
    accuracy: Any,
    simulated: Costs,
    curves: Path | None = None,
    *,
    gpus: Sequence[str] = GPUS,
    models: Sequence[str] = MODELS,
    limits: Sequence[int] = LIMITS,
    trials: Sequence[int] = TRIALS,
    run: Callable[..., RunFacts] = run_facts,
    climb: Callable[..., pd.DataFrame] = ladder,
    progress: Callable[[str], None] = lambda _: None,
) -> Evidence:
    """Compute everything.

    Parameters
    ----------
    accuracy : of `accuracy.sources`, with `strategies` and `note`. simulated : GPU-seconds of a table's rows.
    curves : the digitised curves' file, None if there is none. run, climb : where whole runs and
        rungs come from.
    """
    import pandas as pd

    fronts: dict[tuple[str, str], Frontier] = {}
    measures: dict[tuple[str, str, str], Measures] = {}
    spreads: dict[tuple[str, str, str], Measures] = {}
    parameters = {name: float(load_model(name).active_parameters) for name in models}
    small = [name for name in models if parameters[name] < SMALL]
    for axis in AXES:
        cuts, counts = (tuple(limits), (1,)) if axis == "long_cot" else (tuple(limits)[-1:], tuple(trials))
        tables = [
            (accuracy.with_spread(spread) if spread else accuracy).strategies(
                models=models, attentions=("dense", *SPARSE), budgets=BUDGETS, limits=cuts, trials=counts
            )
            for spread in (SPREADS if axis == "best_of_n" else SPREADS[:1])
        ]
        together = pd.concat(tables, ignore_index=True)  # priced at once: their strategies are nearly the same
        progress(f"{axis}: the law on {len(together):,} strategies")
        ends = np.cumsum([len(table) for table in tables])[:-1]
        flops = np.split(law_flops(together, load_gpu(gpus[0])), ends)
        by_flops = [frontier(table, cost) for table, cost in zip(tables, flops, strict=True)]
        for setting, cost in _costs(together, gpus, simulated, progress, axis):
            for i, (table, part) in enumerate(zip(tables, np.split(cost, ends), strict=True)):
                front = frontier(table, part)
                found = {kind: measure(front, by_flops[i], kind, parameters, small, REFERENCE) for kind in SPARSE}
                if axis == "best_of_n":
                    spreads |= {(SPREADS[i], setting, kind): one for kind, one in found.items()}
                if i == 0:
                    fronts[axis, setting] = front
                    measures |= {(axis, setting, kind): one for kind, one in found.items()}
    progress("whole runs")
    facts = {
        (gpu, model, budget, tokens): run(model, gpu, budget, tokens)
        for gpu in gpus for model in RUN_MODELS for budget in RUN_BUDGETS for tokens in RUN_TOKENS
    }  # fmt: skip
    sets = (f"parallelism={{tensor: {WIDE}}}",)
    wide = {
        (gpu, budget): run(WIDE_MODEL, gpu, budget, RUN_TOKENS[-1], sets=sets) for gpu in gpus for budget in RUN_BUDGETS
    }
    progress("rung by rung")
    steps = climb(
        RUN_MODELS,
        [("dense", 0) if budget is None else ("top_k", budget) for budget in RUN_BUDGETS],
        points=RUN_TOKENS[-1:],
        gpus=list(gpus),
    )
    layers = tuple(layer_facts(REFERENCE_LAYER, gpu, *point) for gpu in gpus for point in PAPER_LAYER_POINTS)
    digitised = None if curves is None else digitised_frontier(curves)
    penalty = None if curves is None else digitised_penalty(curves)
    note = str(accuracy.note)
    return Evidence(
        digitised, penalty, note, fronts, measures, spreads, facts, wide, layers, steps, tuple(gpus)
    )  # fmt: skip


def _costs(
    table: pd.DataFrame,
    gpus: Sequence[str],
    simulated: Costs,
    progress: Callable[[str], None],
    axis: str,
) -> Any:
    """(setting, cost of each row) one after the other."""
    from simulator.law.costs import law_costs

    yield PUBLISHED, law_costs(table, load_gpu("b200-sxm"), "seconds", as_published=True)
    for gpu in gpus:
        yield law_setting(gpu), law_costs(table, load_gpu(gpu), "seconds")
    for gpu in gpus:
        progress(f"{axis}: simulated on {gpu}")
        yield simulated_setting(gpu), simulated(table, gpu, SCENARIOS[axis])


def law_flops(table: pd.DataFrame, gpu: Gpu) -> np.ndarray:
    """FLOPs of each row by the law, in tera-FLOPs, without any memory: the cost that the paper argues against."""
    from simulator.law.costs import law_costs

    return law_costs(table, gpu, "flops")


def digitised_frontier(path: Path) -> Frontier:
    """The curves of the paper's figure 8d, digitised, in B200 seconds, at the costs at which they were read off."""
    from simulator.law.accuracy.curves import read_curves

    points = read_curves(path).points
    frame = points.assign(cost=b200_seconds(points["cost_tera_eflops"]))
    return frame_frontier(frame, costs=np.unique(frame["cost"]))


def digitised_penalty(path: Path) -> Penalty | None:
    """Where choosing the model by FLOPs costs most on the digitised dense curves, at the lengths of their points.
    Costs are published ones.
    """
    from simulator.law.accuracy.curves import read_curves
    from simulator.law.costs import law_costs

    gpu, table = load_gpu("b200-sxm"), read_curves(path).strategies()
    cost = law_costs(table, gpu, "seconds", as_published=True)
    by_cost = frontier(table, cost, interpolate=True)
    by_flops = frontier(table, law_flops(table, gpu), interpolate=True)
    return max(penalties(by_flops, by_cost, "dense", LEVELS), key=lambda p: p.ratio, default=None)
