"""The planner's question as one function: which deployment is the cheapest that meets the objectives, and how sure?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.errors import InputError
from simulator.notebook import answer_html, answer_text
from simulator.planning.candidates import Base, gpu_of, own_gpu
from simulator.planning.model import Objective, Plan, Space
from simulator.planning.objectives import OPTION, Objectives, parse
from simulator.planning.prices import Prices, read_prices
from simulator.planning.search import search
from simulator.planning.stability import Stability, stabilities
from simulator.planning.why import accuracy, notes
from simulator.planning.words import load_words
from simulator.printing import duration
from workloads.requests import Requests, generate
from workloads.scenario import LoadedScenario
from workloads.strategies import BestOfN

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int], None]
MEASURED = ("a100-sxm", "h100-sxm", "h200-sxm", "b200-sxm")
"""GPUs on which kernels were measured: what is looked at where nothing else is said, beside the scenario's own."""
DISAGGREGATED = ("no", "also", "only")
LASTING = 20
"""Times that a request takes in the mean; a load that is shorter is said to be."""


@dataclass(frozen=True)
class Answer:
    """A plan with what it rests on.

    Attributes
    ----------
    plan : what the search found. prices : of the GPUs. limits : seconds that goodput holds a request to.
    best, runner_up : how sure they are; None where there is none, or no interval is known.
    titles : of the GPUs by name. notes : what a reader has to know.
    """

    base: Base
    plan: Plan
    prices: Prices
    limits: Mapping[str, float | None]
    best: Stability | None
    runner_up: Stability | None
    titles: Mapping[str, str]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The answer as plain data, of the schema `kinesim-plan/1` (docs/plan.md)."""
        from simulator.planning.document import document

        return document(self)

    def frame(self) -> pd.DataFrame:
        """One row for every candidate that was simulated to its end, by price."""
        import pandas as pd

        from simulator.planning.document import rows

        return pd.DataFrame(rows(self))

    def _sentences(self) -> list[str]:
        from simulator.planning.display import answer_words

        return answer_words(self)

    def __repr__(self) -> str:
        """What to buy, or why nothing will do."""
        return answer_text(f"Plan {self.base.loaded.config.name}", self._sentences())

    def _repr_html_(self) -> str:
        """The same, and the candidates on the Pareto front as a table; where nothing will do, all that were tried."""
        config, frame = self.base.loaded.config, self.frame()
        title = f"Plan: {config.name}, {self.base.loaded.model.name}"
        columns = ("gpus", "gpu", "replicas", "layout", "prefill_workers", "prefill_layout", "usd_per_hour",
                   "worst_ratio", "binding", "joules_per_output_token")  # fmt: skip
        kept = frame[frame["on_front"]] if self.plan.front else frame
        return answer_html(title, self._sentences(), kept, columns)


def make_plan(
    spec: str | Path | Mapping[str, Any],
    slo: Sequence[str] | str,
    *,
    sets: Sequence[str] = (),
    space: Space | None = None,
    prices: str | Path | None = None,
    skip_unpriced: bool = False,
    sure: bool = True,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Answer:
    """The cheapest deployment that serves a scenario's load within the objectives.

    Parameters
    ----------
    spec, sets : the scenario, as of `load_scenario`. slo : objectives such as `ttft.p99<=2s` (`objectives.parse`).
    space : what may be bought; left out, up to 128 of MEASURED or of the scenario's GPU.
    prices : a table of the user's own, a YAML file; else the GPUs' list prices. skip_unpriced : leave out GPUs without
        a price. sure : whether the best and the runner-up are served again at both ends of their interval.
    jobs : processes; as many as cores if not given. progress : called with candidates done and all.

    Raises
    ------
    InputError : a scenario, an objective, a GPU or a price that is not to be used.
    """
    objectives = parse([slo] if isinstance(slo, str) else slo)
    base = Base(spec, (*sets, *_goodput_limits(objectives)))
    loaded = base.loaded
    space = space or Space(gpus=default_gpus(base))
    _check(objectives, loaded, space)
    gpus = {name: gpu_of(base, name) for name in space.gpus}
    table = read_prices(gpus, None if prices is None else Path(prices), skip_unpriced=skip_unpriced)
    space = replace(space, gpus=tuple(name for name in space.gpus if name in table.per_hour))
    requests = generate(loaded.config.workload, loaded.config.seed)
    plan = search(base, space, objectives.each, table, jobs=jobs, progress=progress)
    plan = replace(plan, load=load_words(requests, samples=not any(space.samples)))
    found = [plan.best, plan.runner_up] if sure else []
    sureness = stabilities(base, found, objectives.each, table, jobs=jobs, progress=progress)
    sureness += [None, None]
    held = any(one.metric.startswith("goodput") for one in objectives.each)
    limits = loaded.config.objective.model_dump() if held and loaded.config.objective else {}
    titles = {name: gpu.title for name, gpu in gpus.items()}
    said = _notes(objectives.each, limits, requests, plan)
    if not isinstance(loaded.config.gpu, str) and any(name != own_gpu(base) for name in space.gpus):
        said.append(
            f"what the scenario changes of its GPU is of {own_gpu(base)} alone: the others are as in their files"
        )
    return Answer(base, plan, table, limits, sureness[0], sureness[1], titles, tuple(said))


def default_gpus(base: Base) -> tuple[str, ...]:
    """MEASURED and the scenario's own."""
    return tuple(dict.fromkeys((own_gpu(base), *MEASURED)))


def _goodput_limits(objectives: Objectives) -> list[str]:
    """The assignment that makes the limits of goodput the scenario's objective."""
    if not objectives.limits:
        return []
    return ["objective={" + ", ".join(f"{key}: {value!r}" for key, value in objectives.limits.items()) + "}"]


def _check(objectives: Objectives, loaded: LoadedScenario, space: Space) -> None:
    """Objectives and choices that the workload does not know, and a space that is none."""
    if space.disaggregated not in DISAGGREGATED:
        raise InputError("unknown choice", file="--disaggregated", found=space.disaggregated,
                         allowed=", ".join(DISAGGREGATED))  # fmt: skip
    if not isinstance(space.max_gpus, int) or space.max_gpus < 1:
        raise InputError("not a number of GPUs", file="--max-gpus", found=space.max_gpus, allowed="1 or more")
    if space.max_usd_per_hour is not None and not 0 < space.max_usd_per_hour < np.inf:
        raise InputError("not a price", file="--max-price", found=space.max_usd_per_hour,
                         allowed="USD an hour, above 0")  # fmt: skip
    strategy = loaded.config.workload.strategy
    if any(space.samples) and not isinstance(strategy, BestOfN):
        raise InputError(
            "this workload has no samples to choose the number of",
            file="--samples", found=strategy.kind, allowed="a best_of_n strategy",
        )  # fmt: skip
    sizes = [tensor * pipeline * data for tensor, pipeline, data, _ in space.layouts]
    if sizes and min(sizes) > space.max_gpus:
        raise InputError(
            f"a replica of the smallest layout has {min(sizes)} GPUs",
            file="--layouts", allowed=f"--max-gpus of at least that, or layouts of at most {space.max_gpus} GPUs",
        )  # fmt: skip
    for one in objectives.each:
        if one.metric == "first_accepted_s" and not (isinstance(strategy, BestOfN) and strategy.acceptance is not None):
            raise InputError(
                "no sample of this workload is ever accepted",
                file=OPTION, found="first_accepted",
                allowed="a best_of_n strategy with an acceptance: --set workload.strategy.acceptance=0.6",
            )  # fmt: skip
        if one.metric.startswith("goodput") and loaded.config.objective is None:
            raise InputError(
                "goodput needs the limits that a request is held to",
                file=OPTION, found="goodput",
                allowed="goodput(ttft<=2s, tpot<=40ms)>=0.95, or an objective in the scenario",
            )  # fmt: skip


def _notes(
    objectives: tuple[Objective, ...], limits: Mapping[str, float | None], requests: Requests, plan: Plan
) -> list[str]:
    some = plan.best or plan.closest
    found = notes(objectives, limits, requests.n, requests.n_jobs)
    if some is None:
        return found
    span, mean = float(np.ptp(requests.job_arrival_s)), some.metrics.get("e2e_s.mean")
    if span > 0 and mean is not None and span < LASTING * mean:
        found.append(
            f"requests come for {duration(span)}, {span / mean:.2g} times as long as one takes in the mean: queues may "
            "not have settled by then, a longer load would be surer"
        )
    if requests.timeout_s is not None or any("were rejected" in note for note in some.notes):
        found.append("requests that are rejected or given up count as infinitely late")
    said = [note for note in some.notes if not note.endswith("cost in money is not given")]  # prices are the plan's
    return [*found, *accuracy(some.candidate), *said]
