"""The values that planning speaks of: objectives, candidates, what became of them, and the plan.

Values only. `objectives` and `prices` read them from what users write, `candidates` enumerates, `bounds` and `search`
decide, `judge` says whether a run meets the objectives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "first_accepted_s")
"""Metrics with a distribution: an objective names a statistic of them."""
PLAIN = ("goodput_share", "goodput_per_s", "makespan_s")
"""Metrics that are one number of a run."""


@dataclass(frozen=True)
class Objective:
    """A limit on a metric.

    Attributes
    ----------
    metric : of LATENCIES or PLAIN. statistic : `mean`, `max` or `p` and a percentage (`p99`, `p99.9`); empty for PLAIN.
    limit : seconds, a share from 0 to 1, or requests per second.
    """

    metric: str
    statistic: str
    limit: float

    @property
    def key(self) -> str:
        """As `simulator.headline` names it: `ttft_s.p99`."""
        return f"{self.metric}.{self.statistic}" if self.statistic else self.metric

    @property
    def quantile(self) -> float | None:
        """Between 0 and 1 (1: the maximum); None of a mean and of plain metrics."""
        if self.statistic == "max":
            return 1.0
        return float(self.statistic[1:]) / 100 if self.statistic.startswith("p") else None

    @property
    def at_least(self) -> bool:
        """Whether more is better."""
        return self.metric.startswith("goodput")

    def ratio(self, value: float | None) -> float:
        """How much of the limit a value uses: met up to 1, infinite where there is no value."""
        if value is None or math.isnan(value):
            return math.inf
        if self.at_least:
            return self.limit / value if value > 0 else math.inf
        return value / self.limit


@dataclass(frozen=True)
class Reached:
    """What a run has of an objective's metric; infinite where a request that the statistic counts was never served."""

    objective: Objective
    value: float | None

    @property
    def ratio(self) -> float:
        """See `Objective.ratio`."""
        return self.objective.ratio(self.value)

    @property
    def met(self) -> bool:
        """Whether the objective is met; exactly, not by the rounded ratio."""
        value = self.value
        if value is None or math.isnan(value):
            return False
        return value >= self.objective.limit if self.objective.at_least else value <= self.objective.limit


@dataclass(frozen=True)
class Verdict:
    """Whether a run meets all objectives; `reached` has one entry for each, in their order."""

    reached: tuple[Reached, ...]

    @property
    def met(self) -> bool:
        return all(one.met for one in self.reached)

    @property
    def binding(self) -> Reached:
        """The objective with the least room, or the one that is missed by most."""
        return max(self.reached, key=lambda one: one.ratio)

    @property
    def worst(self) -> float:
        """The ratio of the binding objective."""
        return self.binding.ratio


@dataclass(frozen=True)
class Workers:
    """Engines of one kind: replicas that do everything, or the prefill or decode workers of a disaggregated deployment.

    Attributes
    ----------
    gpu : a GPU's name or file, as in a scenario. tensor, pipeline, attention_data, expert : as in a scenario's
    `parallelism`. replicas : their number. max_num_seqs, max_num_batched_tokens : of the engine; None as the scenario.
    """

    gpu: str
    tensor: int = 1
    pipeline: int = 1
    attention_data: int = 1
    expert: int = 1
    replicas: int = 1
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None

    @property
    def gpus_each(self) -> int:
        return self.tensor * self.pipeline * self.attention_data

    @property
    def gpus(self) -> int:
        return self.replicas * self.gpus_each

    @property
    def layout(self) -> str:
        """`tp4`, `tp1 dp8 ep8`."""
        rest = {"dp": self.attention_data, "ep": self.expert, "pp": self.pipeline}
        return " ".join([f"tp{self.tensor}", *(f"{name}{size}" for name, size in rest.items() if size > 1)])


def gpu_label(name: str) -> str:
    """A GPU's name; of a file, the file's."""
    return name.rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml")


@dataclass(frozen=True)
class Candidate:
    """A deployment that could be bought.

    Attributes
    ----------
    workers : replicas, or the decode workers where `prefill` has workers of their own. precision : format of the linear
    layers, kv_budget : tokens that attention reads at most, samples : N of Best-of-N; None as the scenario has it.
    """

    workers: Workers
    prefill: Workers | None = None
    precision: str | None = None
    kv_budget: int | None = None
    samples: int | None = None

    @property
    def gpus(self) -> int:
        return self.workers.gpus + (self.prefill.gpus if self.prefill else 0)

    def gpus_by_name(self) -> dict[str, int]:
        """How many of which GPU."""
        found: dict[str, int] = {}
        for part in (self.workers, self.prefill):
            if part is not None:
                found[part.gpu] = found.get(part.gpu, 0) + part.gpus
        return found

    def words(self) -> str:
        """`6 x h200-sxm: 3 replicas of tp2, fp8`."""
        counts = " and ".join(f"{count} x {gpu_label(name)}" for name, count in self.gpus_by_name().items())
        w, p = self.workers, self.prefill
        if p is None:
            parts = [f"{w.replicas} replica{'s' * (w.replicas > 1)} of {w.layout}"]
        else:
            parts = [f"{part.replicas} {name} worker{'s' * (part.replicas > 1)} of {part.layout}"
                     for name, part in (("prefill", p), ("decode", w))]  # fmt: skip
        parts += [self.precision] if self.precision else []
        parts += [f"at most {w.max_num_seqs:,} sequences"] if w.max_num_seqs else []
        parts += [f"{w.max_num_batched_tokens:,} tokens a step"] if w.max_num_batched_tokens else []
        parts += [f"KV budget {self.kv_budget:,}"] if self.kv_budget else []
        parts += [f"N = {self.samples}"] if self.samples else []
        return f"{counts}: {', '.join(parts)}"


@dataclass(frozen=True)
class Space:
    """What may be bought. Empty tuples and None mean: as the scenario, or what is sensible.

    Attributes
    ----------
    gpus : names. max_gpus : in all. layouts : (tensor, pipeline, attention_data, expert) of a replica; empty: all
    sensible. precisions : formats of linear layers; None in it: as published. disaggregated : `no`, `also` or `only`.
    power_cap_w : limit on the sum of the GPUs' TDP. max_usd_per_hour : limit on the price.
    """

    gpus: tuple[str, ...]
    max_gpus: int = 128
    layouts: tuple[tuple[int, int, int, int], ...] = ()
    precisions: tuple[str | None, ...] = ()
    disaggregated: str = "no"
    max_num_seqs: tuple[int | None, ...] = (None,)
    max_num_batched_tokens: tuple[int | None, ...] = (None,)
    kv_budgets: tuple[int | None, ...] = (None,)
    samples: tuple[int | None, ...] = (None,)
    power_cap_w: float | None = None
    max_usd_per_hour: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A candidate that was simulated to its end.

    Attributes
    ----------
    verdict : against the objectives. metrics : `simulator.headline.headline` of the run. usd_per_hour : of all GPUs.
    power_w : TDP of all GPUs. highest_load : factor on the asked load up to which the objectives hold; None if it was
    not looked for. load_is_least : whether the search for it ended at its own limit, so that it may be higher.
    lost_beyond : the objective that is lost at the next load above it, where one was found.
    notes : of the run. interval : factors between which 80 % of its service times lie; None if they are not known.
    """

    candidate: Candidate
    verdict: Verdict
    metrics: Mapping[str, float | None]
    usd_per_hour: float
    power_w: float
    highest_load: float | None = None
    load_is_least: bool = False
    notes: tuple[str, ...] = ()
    interval: tuple[float, float] | None = None
    lost_beyond: Objective | None = None


@dataclass(frozen=True)
class Failed:
    """A candidate whose simulation ended before its time: at `at_s` simulated seconds `objective` was lost for good,
    since it comes to `value` at the least.
    """

    candidate: Candidate
    objective: Objective
    at_s: float
    value: float


@dataclass(frozen=True)
class Pruned:
    """Candidates that were not simulated to their end, by one bound.

    Attributes
    ----------
    bound : its name. count : of candidates. why : one sentence. example : one of them, with its figure against the
    limit. proven : False for those left out because dearer ones were not asked for, rather than unable to serve.
    """

    bound: str
    count: int
    why: str
    example: str = ""
    proven: bool = True


@dataclass(frozen=True)
class Plan:
    """The answer.

    Attributes
    ----------
    best : the cheapest that meets all objectives; None if none does. runner_up : the cheapest that meets them and
    differs from the best in more than the number of replicas. front : none of those meeting the objectives is at least
    as good in price, latency, throughput and energy, and better in one. outcomes : all that were simulated to the end.
    closest : without a best, the one with the smallest worst ratio. stopped : where there is none either, what stops it
    and what would be needed; empty if bounds rule out all. dropped : (reason, count) of combinations that
    model, GPU or engine do not allow. candidates : number of the rest. pruned : those not simulated to the end.
    wall_s : seconds. load : the asked load in words.
    """

    objectives: tuple[Objective, ...]
    space: Space
    candidates: int
    best: Outcome | None
    runner_up: Outcome | None
    front: tuple[Outcome, ...]
    outcomes: tuple[Outcome, ...]
    closest: Outcome | None = None
    stopped: str = ""
    dropped: tuple[tuple[str, int], ...] = ()
    pruned: tuple[Pruned, ...] = ()
    lost: tuple[Failed, ...] = ()
    load: str = ""
    wall_s: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
