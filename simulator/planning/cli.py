"""`kinesim plan`: options and printing; the answer is `planner.make_plan`'s."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from simulator.clioptions import Jobs, Sets


class PlanFormat(StrEnum):
    """How a plan is printed."""

    table = "table"
    json = "json"
    args = "args"
    k8s = "k8s"


class Disaggregated(StrEnum):
    """Whether prefill and decode may have workers of their own."""

    no = "no"
    also = "also"
    only = "only"


def plan(
    scenario: Annotated[
        str, typer.Argument(metavar="SCENARIO", help="The load: a bundled scenario's name or a YAML file.")
    ],
    slo: Annotated[
        list[str] | None,
        typer.Option(
            "--slo",
            metavar="OBJECTIVE",
            help="Such as 'ttft.p99<=2s', 'tpot.mean<=40ms', 'goodput(ttft<=2s)>=0.95', 'first_accepted.p90<=60s'; "
            "again for each.",
        ),
    ] = None,
    sets: Sets = None,
    gpus: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="GPUs; the scenario's and those that were measured, if not given."),
    ] = None,
    max_gpus: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="GPUs in all, at most.")] = 128,
    layouts: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Layouts of a replica: tp2,tp8ep8,tp1dp8ep8,tp8pp2; all sensible if not given."
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(metavar="LIST", help="Formats of the linear layers: published (as the scenario), fp8, nvfp4, ..."),
    ] = "published",
    disaggregated: Annotated[
        Disaggregated, typer.Option(help="Whether prefill and decode may have workers of their own.")
    ] = Disaggregated.no,
    max_num_seqs: Annotated[
        str | None, typer.Option(metavar="LIST", help="Limits on running sequences; else the engine's.")
    ] = None,
    max_num_batched_tokens: Annotated[
        str | None, typer.Option(metavar="LIST", help="Limits on tokens a step; else the engine's.")
    ] = None,
    kv_budget: Annotated[
        str | None, typer.Option(metavar="LIST", help="Tokens that attention reads at most: 1k,4k; else all.")
    ] = None,
    samples: Annotated[str | None, typer.Option(metavar="LIST", help="N of Best-of-N; else the scenario's.")] = None,
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Own prices, YAML: usd_per_gpu_hour: {h200-sxm: 3.10, ...}.")
    ] = None,
    skip_unpriced: Annotated[bool, typer.Option("--skip-unpriced", help="Leave out GPUs without a price.")] = False,
    power_cap: Annotated[
        str | None, typer.Option(metavar="POWER", help="Limit on the sum of the GPUs' TDP, such as 50kW.")
    ] = None,
    max_price: Annotated[
        float | None, typer.Option(metavar="USD", help="Limit on the price of all GPUs, USD an hour.")
    ] = None,
    sure: Annotated[
        bool, typer.Option("--sure/--no-sure", help="Serve again at both ends of the prediction's interval.")
    ] = True,
    jobs: Jobs = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw the candidates and their Pareto front: .svg or .png; or .csv, .parquet."
        ),
    ] = None,
    output: Annotated[
        PlanFormat, typer.Option("--format", help="args, k8s: how to launch the chosen deployment.")
    ] = PlanFormat.table,
) -> None:
    """The cheapest deployment that serves a scenario's load within the objectives, how sure that is, and what else.

    Scenario settings that no option varies (engine, router, attention, ...) stay as they are.
    """
    from hwspecs.errors import InputError
    from simulator.planning import launch, spaceoptions
    from simulator.planning.candidates import Base, own_gpu
    from simulator.planning.display import closest_words, show_plan
    from simulator.planning.model import Space
    from simulator.planning.output import check_output, write_output
    from simulator.planning.planner import default_gpus, make_plan
    from simulator.printing import print_json, tell
    from simulator.progress import progress_bar

    if out is not None:
        check_output(out)
    base = Base(scenario, tuple(sets or ()))
    if output in (PlanFormat.args, PlanFormat.k8s):
        launch.check_engine(base.loaded)
    space = Space(
        gpus=default_gpus(base) if gpus is None else spaceoptions.gpus(gpus, own_gpu(base)),
        max_gpus=max_gpus,
        layouts=() if layouts is None else spaceoptions.layouts(layouts),
        precisions=spaceoptions.precisions(precision),
        disaggregated=disaggregated.value,
        max_num_seqs=spaceoptions.limits(max_num_seqs, "--max-num-seqs"),
        max_num_batched_tokens=spaceoptions.limits(max_num_batched_tokens, "--max-num-batched-tokens"),
        kv_budgets=spaceoptions.limits(kv_budget, "--kv-budget"),
        samples=spaceoptions.limits(samples, "--samples"),
        power_cap_w=spaceoptions.watts(power_cap),
        max_usd_per_hour=max_price,
    )
    with progress_bar("planning") as progress:
        answer = make_plan(
            scenario,
            slo or (),
            sets=sets or (),
            space=space,
            prices=prices,
            skip_unpriced=skip_unpriced,
            sure=sure and output not in (PlanFormat.args, PlanFormat.k8s),
            jobs=jobs,
            progress=progress,
        )
    failed = None
    if out is not None:
        try:
            write_output(answer, out)
        except InputError as error:  # the answer is printed all the same
            failed, out = error, None
    if output is PlanFormat.json:
        print_json(answer.document())
    elif output is PlanFormat.table:
        show_plan(answer, out)
    elif answer.plan.best is not None:
        print(launch.text(answer, kubernetes=output is PlanFormat.k8s), end="")
    if failed is not None:
        raise failed
    if answer.plan.best is None:
        tell(f"no candidate meets the objectives{closest_words(answer)}")
        raise typer.Exit(2)
