"""The Python API's questions: what if, where is the break-even, which GPU to build, which ones to buy.

Thin over `simulator.varying` and `simulator.planning`, with scenarios and changes as everywhere in the API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.api import Progress, Sets, Spec, assignments, scenario
from workloads.scenario import LoadedScenario

if TYPE_CHECKING:
    from simulator.planning.planner import Answer
    from simulator.varying.breakeven import BreakEven
    from simulator.varying.codesign import CoDesign
    from simulator.varying.whatif import WhatIf


def whatif(
    spec: Spec,
    vary: Mapping[str, Any] | str | Sequence[str] | None = None,
    sets: Sets = (),
    *,
    against: Sequence[str | Sequence[str]] = (),
    elasticities: bool | None = None,
    metrics: Sequence[str] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> WhatIf:
    """A scenario with other values of its fields, or what every resource of its GPU counts: `.frame()`, `.document()`.

    Parameters
    ----------
    spec, sets : as of `scenario`.
    vary : path -> values: a list, or a text such as `x0.5,x2` or `4.8..9.6 TB/s:lin5`; several paths: all combinations.
        Or as on the command line: `"gpu.memory.bandwidth=x0.5,x2"`, or a list of such texts.
        Left out, the elasticities of all resources are found.
    against : settings to compare with, each an assignment or several. elasticities : whether they are wanted, too.
    metrics : keys of `Result.headline`. jobs : processes; as many as cores if left out.
    """
    from simulator.varying.whatif import whatif as _whatif

    return _whatif(
        spec,
        vary,
        sets=assignments(sets),
        against=against,
        elasticities=elasticities,
        metrics=metrics,
        jobs=jobs,
        progress=progress,
    )


def break_even(
    spec: Spec,
    field: str,
    target: str,
    like: Sequence[str] = (),
    sets: Sets = (),
    *,
    against: Sequence[str | Sequence[str]] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
) -> BreakEven:
    """The value of a field at which a metric meets a target, or says that there is none: `.frame()`, `.document()`.

    Parameters
    ----------
    spec, sets : as of `scenario`. field : `PATH=LOW..HIGH`, such as `gpu.memory.bandwidth=2..10 TB/s`.
    target : `METRIC<=VALUE` or `METRIC>=VALUE`; with `like`, assignments such as `gpu=b200-sxm`, the metric alone,
        which has to be as good as under them. against : settings for which the same is asked.
    """
    from simulator.varying.breakeven import break_even as _break_even

    return _break_even(spec, field, target, like, sets=assignments(sets), against=against, jobs=jobs, progress=progress)


def codesign(
    spec: Spec,
    budget: str | Path | Mapping[str, Any],
    sets: Sets = (),
    *,
    minimise: str | None = None,
    against: Sequence[str | Sequence[str]] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
) -> CoDesign:
    """The GPU that makes a metric of a scenario best within a linear budget of area, power or price.

    Parameters
    ----------
    spec, sets : as of `scenario`; its GPU is the base. budget : a YAML file, or its content.
    minimise : the metric. against : settings that get a GPU of their own, such as `attention=...`.
    """
    from simulator.varying.codesign import codesign as _codesign

    return _codesign(
        spec, budget, minimise=minimise, sets=assignments(sets), against=against, jobs=jobs, progress=progress
    )


def plan(
    spec: Spec,
    slo: str | Sequence[str],
    sets: Sets = (),
    *,
    gpus: str | Sequence[str] | None = None,
    max_gpus: int = 128,
    layouts: str | Sequence[str] | None = None,
    precision: str | Sequence[str] = "published",
    disaggregated: str = "no",
    max_num_seqs: str | Sequence[int] | None = None,
    max_num_batched_tokens: str | Sequence[int] | None = None,
    kv_budget: str | Sequence[int] | None = None,
    samples: str | Sequence[int] | None = None,
    power_cap: str | None = None,
    max_usd_per_hour: float | None = None,
    prices: str | Path | None = None,
    skip_unpriced: bool = False,
    sure: bool = True,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Answer:
    """The cheapest deployment that serves a scenario's load within objectives such as `ttft.p99<=2s`.

    `.plan.best` is the outcome that was chosen, None where nothing meets the objectives; `.frame()` has every candidate
    that was simulated, `.document()` all of the answer. The parameters are the options of `kinesim plan`, lists as such
    or as texts with commas.
    """
    from simulator.planning import spaceoptions
    from simulator.planning.candidates import Base, own_gpu
    from simulator.planning.model import Space
    from simulator.planning.planner import default_gpus, make_plan

    plain_spec = scenario(spec).given if isinstance(spec, LoadedScenario) else spec
    assert plain_spec is not None
    assigned = assignments(sets)
    seqs, tokens, budgets, counts = map(_listed, (max_num_seqs, max_num_batched_tokens, kv_budget, samples))
    named, shapes, base = _listed(gpus), _listed(layouts), Base(plain_spec, tuple(assigned))
    space = Space(
        gpus=default_gpus(base) if named is None else spaceoptions.gpus(named, own_gpu(base)),
        max_gpus=max_gpus,
        layouts=() if shapes is None else spaceoptions.layouts(shapes),
        precisions=spaceoptions.precisions(_listed(precision) or "published"),
        disaggregated=disaggregated,
        max_num_seqs=spaceoptions.limits(seqs, "max_num_seqs"),
        max_num_batched_tokens=spaceoptions.limits(tokens, "max_num_batched_tokens"),
        kv_budgets=spaceoptions.limits(budgets, "kv_budget"),
        samples=spaceoptions.limits(counts, "samples"),
        power_cap_w=spaceoptions.watts(power_cap),
        max_usd_per_hour=max_usd_per_hour,
    )
    return make_plan(
        plain_spec,
        slo,
        sets=assigned,
        space=space,
        prices=prices,
        skip_unpriced=skip_unpriced,
        sure=sure,
        jobs=jobs,
        progress=progress,
    )


def _listed(values: str | Sequence[Any] | None) -> str | None:
    """A list as a text with commas."""
    return values if values is None or isinstance(values, str) else ",".join(map(str, values))
