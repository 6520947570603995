"""The law against the simulation, from a scenario's name to verdicts: the ladders, the accuracy model, the comparison.

The frontiers of the long chain of thought are priced on a ladder by mean length (LENGTHS), Best-of-N on one by trials.
The reference strategy has a ladder of its own, at the scenario's lengths, whose last rung is what `kinesim run` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu
from simulator.law.ladder.climb import ladder
from simulator.law.ladder.compare import Comparison, Reference, check_question, compare
from simulator.law.options import Policy
from simulator.law.published import RATIO
from simulator.law.strategies import LIMITS, SCENARIOS, TRIALS
from simulator.law.tables import canonical

LENGTHS = (1024, 4096, 8192, 16384, 32768)
"""Mean lengths, tokens, at which chains of thought are simulated; others are priced between them."""
BUDGETS = (256, 1024, 2048)
"""KV budgets of sparse attention, tokens."""
POLICIES = tuple(Policy("top_k", size) for size in BUDGETS)
LIMIT = LIMITS[-1]
MOST_TRIALS = TRIALS[-1]


def survey(
    base: str | Path | Mapping[str, Any] | None = None,
    *,
    models: Sequence[str] | None = None,
    policies: Sequence[Policy] = POLICIES,
    axis: str = "long_cot",
    gpus: Sequence[str] | None = None,
    accuracy: str | Path | None = None,
    reference: str | None = None,
    budget: int | None = None,
    limit: int = LIMIT,
    trials: int = MOST_TRIALS,
    sets: Sequence[str] = (),
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """The law's conclusions on every rung.

    Parameters
    ----------
    base, sets : the scenario; the axis's bundled one if not given. Its GPU, unless `gpus` names others.
    models : names; all that the accuracy model knows if not given.
    policies : sparse attentions of one kind, by KV budget; none to compare dense attention alone.
    accuracy : a file as `simulator.law.accuracy.sources.load_accuracy` takes it; the bundled model if not given.
    reference, budget, limit, trials : the strategy whose ladder is shown. The model and the budget in the middle if not
        given; `limit` cuts every trial, and `trials` is the largest N, of Best-of-N only.
    jobs : processes. progress : called with how much is done, and of how much.

    Raises
    ------
    InputError : whatever is wrong with the scenario, the models, the accuracy file, or the reference.
    """
    from simulator.law.accuracy.sources import load_accuracy

    source = load_accuracy(accuracy)
    models = list(source.models if models is None else models)
    sparse = list(dict.fromkeys(policy.kind for policy in policies if policy.kind != "dense"))
    if len(sparse) > 1:
        raise InputError("one kind of sparse attention at a time", place="--attention", found=", ".join(sparse))
    policies = [policy for policy in policies if policy.kind != "dense"]
    names = [canonical(name) for name in models]
    shown, many = _shown(policies, budget), axis == "best_of_n"
    middle = reference or ("qwen3-8b" if "qwen3-8b" in names else names[len(names) // 2])
    chosen = Reference(canonical(middle), limit, trials if many else 1, shown.budget if shown else 0)
    check_question(axis, names, chosen, source)
    counts = [n for n in TRIALS if n < trials] + [trials]
    if many and base is None:  # the bundled scenario cuts trials at half of the paper's limit
        sets = [f"workload.output_tokens.max={limit}", *sets]
    common: dict[str, Any] = {"axis": axis, "base": base, "sets": tuple(sets), "gpus": gpus, "jobs": jobs}
    attentions = [Policy("dense"), *policies]

    def part(done: int, of: int, first: float, share: float) -> None:
        if progress is not None:
            progress(round(1000 * (first + share * done / max(1, of))), 1000)

    if many:
        rows = ladder(
            models, attentions, points=counts, limit=limit, **common, progress=lambda d, n: part(d, n, 0.0, 1.0)
        )
        rows = named(rows)
        steps = rows[(rows["trials"] == trials) & rows["budget"].isin([0, chosen.budget])]
    else:
        only = [Policy("dense"), *([shown] if shown else [])]
        steps = ladder(models, only, points=(limit,), **common, progress=lambda d, n: part(d, n, 0.0, 0.3))
        rows = ladder(
            models, attentions, tokens=[n for n in LENGTHS if n < limit] + [limit], limit=limit, **common,
            progress=lambda d, n: part(d, n, 0.3, 0.7),
        )  # fmt: skip
        rows, steps = named(rows), named(steps)
    competing: dict[str, Any] = {
        "limits": (limit,) if many else [n for n in LIMITS if n < limit] + [limit],
        "trials": range(1, trials + 1) if many else (1,),
    }
    notes = _notes(rows, many)
    if left := [name for name in map(canonical, source.models) if name not in names]:
        notes.append(
            f"judged without {', '.join(left)}: thresholds and shares of models are not those that the paper speaks of"
        )
    if many:
        notes += _spread_notes(rows, steps, source, chosen, competing)
    hardware = _hardware(base or SCENARIOS[axis], sets, gpus)
    return compare(rows, steps, source, axis=axis, reference=chosen, notes=notes, hardware=hardware, **competing)


def _hardware(base: str | Path | Mapping[str, Any], sets: Sequence[str], gpus: Sequence[str] | None) -> dict[str, Gpu]:
    """The GPUs by name, with what `sets` changes of them."""
    from workloads.scenario import load_scenario

    found = [load_scenario(base, [*([f"gpu={name}"] if name else []), *sets]).gpu for name in gpus or ("",)]
    return {gpu.name: gpu for gpu in found}


def write_comparison(comparison: Comparison, out: Path) -> None:
    """The figure of the reference model, the JSON document, or the rows of both ladders as a table, by the ending."""
    import json

    import pandas as pd

    from simulator.files import replace_file
    from simulator.law.ladder.comparedoc import comparison_document
    from simulator.law.ladder.waterfall import draw_waterfall
    from simulator.tables import SUFFIXES, write_columns

    if out.suffix.lower() == ".json":
        document = json.dumps(comparison_document(comparison), indent=1, allow_nan=False)
        replace_file(out, document.encode())
    elif out.suffix.lower() in SUFFIXES:
        rows = pd.concat([comparison.shown, comparison.ladder], ignore_index=True).drop_duplicates()
        write_columns(out, {name: rows[name].to_numpy() for name in rows.columns})
    else:
        draw_waterfall(comparison, out)


def _shown(policies: Sequence[Policy], budget: int | None) -> Policy | None:
    """The policy that the reference has: of the given budget, or the one in the middle; None without any."""
    if not policies:
        return None
    if budget is None:
        return sorted(policies, key=lambda policy: policy.budget)[len(policies) // 2]
    found = [policy for policy in policies if policy.budget == budget]
    if not found:
        allowed = ", ".join(str(policy.budget) for policy in policies)
        raise InputError("not one of the KV budgets", place="--reference-budget", found=budget, allowed=allowed)
    return found[0]


def named(rows: Any) -> Any:
    """A ladder with the models called as accuracy models call them."""
    return rows.assign(model=rows["model"].map(canonical))


def _notes(rows: Any, many: bool) -> list[str]:
    """What the costs rest on."""
    said = [str(note).rstrip("; ") for note in dict.fromkeys(rows["note"]) if note]
    profiles = ", ".join(dict.fromkeys(str(name) for name in rows["profile"]))
    said.append(f"rungs 6 to 9 take kernels of {profiles}; lengths vary as the scenario's do, which is an assumption")
    said.append(
        f"the paper counts E = {RATIO} FLOP/B for a B200, twice its dense bf16 rate, and averages costs over lengths; "
        "both favour sparse attention more than rung 1 does here"
    )
    if (gpus := int(rows["gpus"].max())) > 1:
        said.append(
            f"rungs 1 to 8 are one GPU where the model fits on it, rung 9 is {gpus} of them, where given: their memory "
            "holds more KV, so that rung 9 can take back a part of rung 7"
        )
    said.append(
        "gains, savings and thresholds differ from `kinesim law frontier` and the findings: there a cost is the mean "
        "over the lengths of trials, by the law too, and served steadily; here it is that of the mean length up to "
        "rung 7, and rungs 8 and 9 are the scenario's problems from first to last; KV budgets are those asked for"
    )
    if many:
        said.append(
            "trials of all models and problems have the scenario's lengths, whatever lengths the accuracy model has: "
            "dense attention becomes affordable for all problems at one cost, and the largest gain is what sparse "
            "attention solves just below it; `kinesim law frontier --strategy best_of_n` has lengths by problem"
        )
        said.append(
            "the scenario's problems are all that there is to batch: with few trials few sequences decode at a time"
        )
    else:
        said.append(
            "strategies are priced at their mean length by the accuracy model, to which the scenario's are stretched; "
            "from rung 8 on a problem's trials spread as the accuracy model has it"
        )
    return said


def _spread_notes(rows: Any, steps: Any, source: Any, chosen: Reference, competing: Mapping[str, Any]) -> list[str]:
    """What the last rung's measures become if problems differ more or less than the accuracy model assumes."""
    last = rows["rung"].max()
    rows, steps = rows[rows["rung"] == last], steps[steps["rung"] == last]
    found = [
        compare(rows, steps, source.with_spread(name), axis="best_of_n", reference=chosen, **competing)
        for name in sorted(getattr(source, "alternatives", ()))
    ]
    said = []
    for gpu in dict.fromkeys(rows["gpu"]) if found else ():
        measures = [one.at(gpu, last).measures for one in found]
        gains = sorted(m.gain.points for m in measures if m.gain)
        savings = sorted(m.saving.ratio for m in measures if m.saving)
        if len(gains) > 1 and len(savings) > 1:
            said.append(
                f"how problems differ is an assumption; within its alternatives sparse attention gains "
                f"{100 * gains[0]:.0f} to {100 * gains[-1]:.0f} points and saves {savings[0]:.2g}x to "
                f"{savings[-1]:.2g}x on rung {last}, {gpu}"
            )
    return said
