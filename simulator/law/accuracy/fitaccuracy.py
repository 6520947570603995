"""Making the bundled file of coefficients, `aime24.yaml`, from the digitised curves of the paper's figure.

    python -m simulator.law.accuracy.fitaccuracy CURVES.csv --out simulator/law/accuracy/aime24.yaml

The fit itself is `curvefit`'s. Here is what goes into it besides the curves, with its sources, and what is written
down of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hwspecs.errors import InputError
from simulator.law.accuracy import curvefit
from simulator.law.accuracy.curves import Curves, read_curves
from simulator.law.accuracy.parametric import Coefficients
from simulator.law.strategies import BUDGETS

SAMPLES = 40
HEADLINES = {
    "qwen3-0.6b": curvefit.Headline(32, 0.30),
    "qwen3-1.7b": curvefit.Headline(32, 0.77),
    "qwen3-4b": curvefit.Headline(32, 0.86),
    "qwen3-32b": curvefit.Headline(8, 0.93),
}
"""Coverage with oracle top-k attention where it no longer grows with the cost: plateaus read off the paper's figure of
Best-of-N on AIME24 (the authors' repository, assets/AIME24-topk-trial.jpg; about a point), and the figure printed in
its Figure 8 for 32B, of which there are 8 trials. 8B and 14B have not reached theirs where the figure ends."""
RANGE = 0.05
"""Coverage by which the alternatives differ from the headlines: 1.5 of 30 problems. The plateaus are the best of five
KV budgets for every problem, so that the coverage of one budget is rather lower; which problems are in the benchmark,
the reading, and 8 trials of 32B go both ways."""
PUBLISHED = {
    "qwen3-0.6b": 0.107, "qwen3-1.7b": 0.483, "qwen3-4b": 0.738, "qwen3-8b": 0.760, "qwen3-14b": 0.793,
    "qwen3-32b": 0.814,
}  # fmt: skip
"""AIME'24 with thinking, mean of 64 samples, from the Qwen3 Technical Report (arXiv 2505.09388, tables 13, 15, 17, 19).
Not fitted to: what dense trials cut at 32,768 tokens are compared with. The report's may be 38,912 long."""
CITATION = (
    "Sadhukhan, Chen, Zheng, Zhou, Strubell, Chen: Kinetics: Rethinking Test-Time Scaling Laws, arXiv 2506.05333; "
    "curves of its AIME24 long-CoT figure (project page, CC BY-SA 4.0), digitised"
)
NOTE = (
    "Fitted to the digitised AIME24 curves of arXiv 2506.05333 (Qwen3, one trial, dense and oracle top-k). Not in "
    "them, so assumed or taken from headlines: how problems differ (all of more than one trial), how lengths vary, "
    "the length and KV budget behind a sparse point, block top-k (as accurate as the oracle)"
)
NOT_IDENTIFIED = (
    "how problems differ, and so everything of more than one trial: from coverage headlines of Best-of-N for 0.6B, "
    "1.7B, 4B (32 trials) and 32B (8), interpolated for 8B and 14B; `alternatives` are 5 points of coverage lower and "
    "higher",
    "length and KV budget behind a sparse point: only the best of all at each cost is known; budgets outside of 128 to "
    "2,048 are extrapolated",
    "the variance of lengths within a problem, apart from that between problems: drawn to a standard deviation of 0.5 "
    "in logarithms, with which the dense envelope of the paper's Best-of-N figure comes out",
    "dense 14B and 32B near the limit of 32,768 tokens: their curves end before their plateau, which sparse ones lend",
    "anything beyond 32,768 tokens, and the length of prompts (135 tokens assumed)",
    "block top-k: taken to be as accurate as the oracle with its KV budget",
    "the noise of the published curves: the best of 80 estimates from 32 trials is too high, by the authors' procedure "
    "on trials drawn from this model by about 2 points at the end of a sparse curve, 5 for 32B with its 8 trials; the "
    "curves are fitted as they are",
)


def document(curves: Curves, samples: int = SAMPLES) -> dict[str, Any]:
    """What a file of coefficients says: everything that is fitted, and how well."""
    found, prompt = curvefit.targets(curves, HEADLINES), curves.prompt
    thetas = curvefit.fit_all(found, prompt)
    models = {}
    for target in found:
        theta = thetas[target.model]
        off = 100 * np.abs(curvefit.wrong(theta, target, prompt))
        errors = {
            "dense_mean": off[0].mean(), "dense_worst": off[0].max(),
            "sparse_mean": off[1].mean(), "sparse_worst": off[1].max(),
            "held_out_mean": 100 * curvefit.held_out(target, thetas, prompt),
        }  # fmt: skip
        if (apart := curvefit.left_out(target, thetas, prompt)) is not None:
            errors["interpolated_mean"] = 100 * apart
        told = target.headline
        trials = told.trials if told else 32
        level = told.accuracy if told else curvefit.coverage(curvefit.coefficients(theta), trials)
        others = {}
        for end, step in (("low", -RANGE), ("high", RANGE)):
            aim = curvefit.Headline(trials, float(np.clip(level + step, 0.01, 0.99)))
            moved = curvefit.refit(replace(target, headline=aim), thetas, prompt)
            others[end] = _values(curvefit.coefficients(moved))
        draws = curvefit.bootstrap(target, thetas, prompt, samples)
        whole = curvefit.at_longest(curvefit.coefficients(theta))
        models[target.model] = {
            "coefficients": _values(curvefit.coefficients(theta)),
            "error_points": {key: round(float(value), 2) for key, value in errors.items()},
            "alternatives": others,
            "uncut": {"fit": round(whole, 3), "qwen3_report": PUBLISHED.get(target.model)},
            "bootstrap": [_values(curvefit.coefficients(draw)) for draw in draws],
        }
    return {
        "name": "aime24",
        "about": "AIME 2024 (30 problems), Qwen3, dense and oracle top-k attention: parametric model of accuracy",
        "note": NOTE,
        "citation": CITATION,
        "fitted": date.today().isoformat(),
        "columns": list(Coefficients.__dataclass_fields__),
        "not_identified": list(NOT_IDENTIFIED),
        "longest": curvefit.LONGEST,
        "budgets": [min(BUDGETS), max(BUDGETS)],
        "trials": max((target.headline.trials for target in found if target.headline), default=1),
        "prompt_tokens": prompt,
        "problems": curvefit.PROBLEMS,
        "models": models,
    }


def _values(one: Coefficients) -> list[float]:
    return [float(f"{value:.4g}") for value in vars(one).values()]


def write(path: Path, content: dict[str, Any]) -> None:
    """As YAML, lists of numbers in one line each."""
    text = yaml.safe_dump(content, sort_keys=False, width=118, default_flow_style=None, allow_unicode=True)
    head = (
        "# Written by `python -m simulator.law.accuracy.fitaccuracy`; what the columns are: parametric.py beside it.\n"
    )
    path.write_text(head + text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m simulator.law.accuracy.fitaccuracy", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("curves", type=Path, help="CSV: model, attention, cost_tera_eflops, accuracy")
    parser.add_argument("--out", type=Path, required=True, help="file of coefficients to write")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="bootstrap samples of a model")
    options = parser.parse_args(arguments)
    try:
        content = document(read_curves(options.curves), options.samples)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    write(options.out, content)
    for model, found in content["models"].items():
        print(model, found["error_points"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
