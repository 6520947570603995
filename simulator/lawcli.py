"""The commands of the Kinetics law, `kinesim law ...`: options and printing; the answers are in `simulator.law`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.clioptions import Format, Formatted, Jobs, Sets

if TYPE_CHECKING:
    from simulator.law.frontiers.panels import Priced
    from simulator.law.frontiers.question import Question

app = typer.Typer(name="law", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _main() -> None:
    """Keeps typer from taking a single command for the whole."""


Models = Annotated[
    str | None,
    typer.Option("--model", "--models", metavar="LIST", help="Models; Qwen3 0.6B to 32B, the paper's, if not given."),
]
Attentions = Annotated[
    str, typer.Option("--attention", metavar="LIST", help="dense, top_k, block_top_k, separated by commas.")
]
Budgets = Annotated[
    str,
    typer.Option("--budget", "--budgets", metavar="LIST", help="KV budgets of sparse attention, tokens: 128..2k:x2."),
]
Page = Annotated[
    int | None,
    typer.Option(metavar="N", help="Tokens of a page of block top-k; 16,384 / budget as the authors' if not given."),
]
Local = Annotated[
    int, typer.Option(metavar="N", help="Newest tokens that block top-k always reads, part of the budget.")
]


@app.command()
def cost(
    model: Models = None,
    attention: Attentions = "dense",
    budget: Budgets = "1024",
    page: Page = None,
    local: Local = 0,
    prompt: Annotated[str, typer.Option(metavar="LIST", help="Tokens of the prompt.")] = "150",
    tokens: Annotated[
        str, typer.Option(metavar="LIST", help="Generated tokens of a trial: 4k,32k or 2k..32k:2k.")
    ] = "32k",
    trials: Annotated[str, typer.Option(metavar="LIST", help="Trials of a problem: 1 or 1..32:x2.")] = "1",
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", "--gpus", metavar="LIST", help="GPUs; h200-sxm if not given, b200-sxm as published."),
    ] = None,
    sets: Sets = None,
    kv_dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help="Of the KV cache; else the checkpoint's.")
    ] = None,
    batch: Annotated[
        float | None, typer.Option(metavar="N", help="Sequences that share a step's weights; else infinite.")
    ] = None,
    prefill: Annotated[bool, typer.Option("--prefill", help="Count the prompt, once a problem.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Sums over whole tokens in place of the paper's integral.")
    ] = False,
    as_published: Annotated[
        bool,
        typer.Option("--as-published", help="The authors' formulas, parameters and B200; says where the law differs."),
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all rows: .csv or .parquet.")] = None,
    output: Formatted = Format.table,
) -> None:
    """What reasoning strategies cost by the law: eFLOPs, GPU-seconds and money, split into parameters and attention.

    Every combination of the lists is costed. k is 1,024; ranges go by steps (2k..32k:2k) or factors (1k..32k:x2).
    """
    from simulator.displaylaw import MOST_ROWS, show_costs
    from simulator.law import grid as grids
    from simulator.law import options
    from simulator.law.strategies import MODELS
    from simulator.printing import print_json
    from simulator.tables import check_table_path, write_columns

    if out is not None:
        check_table_path(out)
    chosen = grids.Grid(
        options.models(",".join(MODELS) if model is None else model),
        options.gpus(("b200-sxm" if as_published else "h200-sxm") if gpu is None else gpu, sets or []),
        options.policies(attention, budget, page, local),
        options.numbers(prompt, "--prompt", low=0),
        options.numbers(trials, "--trials"),
        options.numbers(tokens, "--tokens"),
    )
    terms = grids.Terms(as_published, kv_dtype, batch, prefill, exact)
    grids.check_size(chosen)
    columns = grids.cost_columns(chosen, terms)
    if out is not None:
        write_columns(out, columns)
    if output is Format.json:
        print_json(grids.cost_document(chosen, terms, columns))
    else:
        show_costs(grids.cost_document(chosen, terms, columns, MOST_ROWS), len(chosen), out)


Spending = Annotated[
    str,
    typer.Option("--strategy", metavar="NAME", help="What a cost is spent on: long_cot (tokens), best_of_n (trials)."),
]
Accuracies = Annotated[
    Path | None,
    typer.Option(
        "--accuracy",
        metavar="FILE",
        help="Curves (.csv), traces (.jsonl or a folder, .csv, .parquet), coefficients (.yaml); else the AIME24 model.",
    ),
]
SomeModels = Annotated[
    str | None,
    typer.Option("--model", "--models", metavar="LIST", help="Models; all with known accuracies if not given."),
]
Limits = Annotated[
    str | None,
    typer.Option(
        metavar="LIST", help="Tokens at which a trial is cut (Best-of-N: the largest); 2k..32k:2k if not given."
    ),
]
Trials = Annotated[str | None, typer.Option(metavar="LIST", help="Trials of Best-of-N; 1..32:x2 if not given.")]
Costing = Annotated[str, typer.Option("--cost", metavar="LIST", help="How costs are found: law, simulated, or both.")]
SomeGpus = Annotated[
    str | None, typer.Option("--gpu", "--gpus", metavar="LIST", help="GPUs; that of the scenario if not given.")
]
CostUnit = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="eflops (tera-eFLOPs), seconds, usd, joules; seconds if simulated, else eflops if not given.",
    ),
]
Published = Annotated[bool, typer.Option("--as-published", help="The law with the authors' formulas and their B200.")]
Alike = Annotated[bool, typer.Option("--alike", help="One strategy for all problems, not one for each.")]
SomeAttentions = Annotated[
    str | None, typer.Option("--attention", metavar="LIST", help="dense, top_k, block_top_k; dense,top_k if not given.")
]
SomeBudgets = Annotated[
    str | None,
    typer.Option(
        "--budget", "--budgets", metavar="LIST", help="KV budgets of sparse attention; 128..2k:x2 if not given."
    ),
]


def _answers(
    question: Question,
    kinds: list[str],
    gpu: str | None,
    scenario: str | None,
    sets: list[str] | None,
    jobs: int | None,
) -> list[Priced]:
    """The question's strategies, priced, with progress on a terminal."""
    from simulator.law.frontiers.panels import priced
    from simulator.law.frontiers.question import gpu_names
    from simulator.progress import progress_bar

    with progress_bar("simulating") as progress:
        return priced(question, kinds, gpu_names(gpu), scenario, sets or [], jobs=jobs, progress=progress)


@app.command(context_settings={"ignore_unknown_options": True})  # so that a cost of -5 is judged as a cost
def allocate(
    costs: Annotated[
        list[str],
        typer.Argument(metavar="COST...", help="What a problem may cost: 2000 (tera-eFLOPs), 0.5s, $0.01, 2kJ."),
    ],
    strategy: Spending = "long_cot",
    accuracy: Accuracies = None,
    model: SomeModels = None,
    attention: SomeAttentions = None,
    budget: SomeBudgets = None,
    limits: Limits = None,
    trials: Trials = None,
    gpu: SomeGpus = None,
    priced: Costing = "law",
    unit: CostUnit = None,
    as_published: Published = False,
    alike: Alike = False,
    scenario: Annotated[
        str | None, typer.Option(metavar="NAME", help="How strategies are served; a bundled AIME24 one if not given.")
    ] = None,
    sets: Sets = None,
    jobs: Jobs = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all choices: .csv or .parquet.")] = None,
    output: Formatted = Format.table,
) -> None:
    """The best strategy within a cost (the paper's Algorithms 1 and 2): model, KV budget, and tokens or trials.

    Costs are per problem. Each problem gets its own choice where its accuracies are known; beside it stands the best
    strategy that is the same for all.
    """
    from simulator.law import options
    from simulator.law.amounts import parse_costs
    from simulator.law.frontiers import allocateview, panels
    from simulator.law.frontiers import question as questions
    from simulator.law.frontiers.allocate import allocate
    from simulator.printing import print_json
    from simulator.tables import check_table_path, write_columns

    if out is not None:
        check_table_path(out)
    kinds = options.words(priced, "--cost", ", ".join(panels.COSTS))
    within, chosen = parse_costs(costs, unit, usual=panels.usual_unit(kinds))
    question = questions.read_question(
        strategy, accuracy, model, attention, budget,
        limits=limits, trials=trials, unit=chosen, as_published=as_published, per_problem=not alike,
    )  # fmt: skip
    answers = _answers(question, kinds, gpu, scenario, sets, jobs)
    found = [allocate(*panels.all_rows(one), within, unit=chosen, per_problem=question.per_problem) for one in answers]
    if out is not None:
        write_columns(out, allocateview.choices_columns(answers, found))
    document = allocateview.allocate_document(
        question, answers, found, questions.base_of(question, scenario), sets or []
    )
    if output is Format.json:
        print_json(document)
    else:
        allocateview.show_allocations(document, out)


@app.command()
def frontier(
    scenario: Annotated[
        str | None,
        typer.Argument(metavar="[SCENARIO]", help="How strategies are served; a bundled AIME24 one if not given."),
    ] = None,
    strategy: Spending = "long_cot",
    accuracy: Accuracies = None,
    model: SomeModels = None,
    attention: SomeAttentions = None,
    budget: SomeBudgets = None,
    limits: Limits = None,
    trials: Trials = None,
    gpu: SomeGpus = None,
    priced: Costing = "law",
    unit: CostUnit = None,
    as_published: Published = False,
    alike: Alike = False,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Places to look at besides: the gain at costs (80ms), the saving at accuracies (76%)."
        ),
    ] = None,
    smooth: Annotated[
        int, typer.Option(min=1, metavar="N", help="Costs that a point is averaged over; 3 in the paper's figures.")
    ] = 1,
    sets: Sets = None,
    jobs: Jobs = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it, .svg or .png, or write the curves, .csv or .parquet.")
    ] = None,
    output: Formatted = Format.table,
) -> None:
    """Accuracy against cost, dense and sparse: the best model at each cost, what sparse attention gains and saves."""
    from simulator.law import options
    from simulator.law.amounts import parse_marks
    from simulator.law.frontiers import frontiertable, frontierview, panels
    from simulator.law.frontiers import question as questions
    from simulator.printing import print_json

    options.check_out(out)
    kinds = options.words(priced, "--cost", ", ".join(panels.COSTS))
    unit = unit or panels.usual_unit(kinds)
    marks = [] if at is None else parse_marks(at, unit)
    question = questions.read_question(
        strategy, accuracy, model, attention, budget,
        limits=limits, trials=trials, unit=unit, as_published=as_published, per_problem=not alike,
    )  # fmt: skip
    answers = _answers(question, kinds, gpu, scenario, sets, jobs)
    found = panels.frontiers(answers, question, smooth=smooth)
    base = questions.base_of(question, scenario)
    document = frontierview.frontier_document(question, answers, found, base, sets or [], smooth, marks)
    if out is not None:
        frontierview.write_frontiers(out, answers, found, document, marks)
    if output is Format.json:
        print_json(document)
    else:
        frontiertable.show_frontier(document, out)


@app.command()
def compare(
    scenario: Annotated[
        str | None,
        typer.Argument(metavar="[SCENARIO]", help="How problems are served; a bundled AIME24 one if not given."),
    ] = None,
    strategy: Spending = "long_cot",
    accuracy: Accuracies = None,
    model: SomeModels = None,
    attention: Annotated[
        str,
        typer.Option(metavar="NAME", help="The one that is compared with dense: top_k, block_top_k; dense for none."),
    ] = "top_k",
    budget: Budgets = "256,1k,2k",
    page: Page = None,
    local: Local = 0,
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Whose costs figures show; qwen3-8b if not given.")
    ] = None,
    reference_budget: Annotated[
        int | None, typer.Option(metavar="N", help="KV budget of the costs that are shown; the middle if not given.")
    ] = None,
    limit: Annotated[str, typer.Option(metavar="N", help="Tokens after which a trial is cut, from 2k on.")] = "32k",
    trials: Annotated[int, typer.Option(min=2, metavar="N", help="Largest number of trials of best_of_n.")] = 32,
    gpu: SomeGpus = None,
    sets: Sets = None,
    jobs: Jobs = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw it, .svg or .png, or write all of it, .json, or its rows, .csv."),
    ] = None,
    output: Formatted = Format.table,
) -> None:
    """Does the law survive? Costs from the closed form to the full simulation, lifting one assumption at a time, and
    what is left of each of the law's conclusions.
    """
    from simulator.displaycompare import show_comparison
    from simulator.law import options
    from simulator.law.ladder import survey
    from simulator.law.ladder.comparedoc import comparison_document
    from simulator.printing import print_json
    from simulator.progress import progress_bar

    options.check_out(out, "json")
    with progress_bar("simulating") as progress:
        found = survey.survey(
            scenario,
            models=None if model is None else options.words(model, "--model", "models such as qwen3-8b,qwen3-32b"),
            policies=() if attention == "dense" else options.policies(attention, budget, page, local),
            axis=strategy, gpus=None if gpu is None else options.words(gpu, "--gpu", "GPUs such as h200-sxm,b200-sxm"),
            accuracy=accuracy, reference=reference, budget=reference_budget, trials=trials,
            limit=options.number(limit, "--limit", low=2048),
            sets=sets or [], jobs=jobs, progress=progress,
        )  # fmt: skip
    if out is not None:
        survey.write_comparison(found, out)
    if output is Format.json:
        print_json(comparison_document(found))
    else:
        show_comparison(found, out, [text.removeprefix("gpu.") for text in sets or [] if text.startswith("gpu.")])
