"""Runs the cost functions of the Kinetics authors' public code on random points, and keeps what they return.

    python tests/simulator/law/publishedrun.py PATH/TO/Kinetics/cost_model/utils.py COMMIT

writes tests/data/law_published.json, which test_law_published compares `simulator.law.published` with. The code itself
(github.com/Infini-AI-Lab/Kinetics) is not part of this repository; its functions are taken out of the file by name and
run without what else the file imports.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parents[2] / "data" / "law_published.json"
FUNCTIONS = {
    "dense": "dense_cost",
    "top_k": "zero_overhead_sparse_cost",
    "block_top_k": "block_sparse_cost",
}
E = 562.5
COLUMNS = ["attention", "model", "a", "lengths", "trials", "local", "page", "blocks", "compute", "memory"]
SHAPES = {
    # model: parameters of the authors, query heads, KV heads, head_dim x layers, from the published configurations
    "qwen3-0.6b": (0.752e9, 16, 8, 128 * 28),
    "qwen3-1.7b": (2.03e9, 16, 8, 128 * 28),
    "qwen3-4b": (4.02e9, 32, 8, 128 * 36),
    "qwen3-8b": (8.19e9, 32, 8, 128 * 36),
    "qwen3-14b": (14.77e9, 40, 8, 128 * 40),
    "qwen3-32b": (32.76e9, 64, 8, 128 * 64),
}


def functions(utils: Path) -> dict[str, Any]:
    """The file's functions, without its imports."""
    from scipy.special import comb

    tree = ast.parse(utils.read_text(encoding="utf-8"))
    wanted = {*FUNCTIONS.values(), "expected_cost", "coverage"}
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    for node in tree.body:
        assert isinstance(node, ast.FunctionDef)
        node.returns = None
        for argument in node.args.args:
            argument.annotation = None
    space: dict[str, Any] = {"np": np, "comb": comb}
    exec(compile(tree, str(utils), "exec"), space)
    return space


def points(count: int, seed: int = 0) -> list[list[Any]]:
    """Random strategies: `COLUMNS` without the last two. A fifth of them have several trials' lengths."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        attention = list(FUNCTIONS)[i % 3]
        model = str(rng.choice(list(SHAPES)))
        many = int(rng.integers(2, 33)) if i % 5 == 0 else 1
        lengths = np.exp(rng.uniform(0, np.log(32_768), many)).astype(int).tolist()
        a, trials = int(rng.integers(0, 3_000)), int(rng.integers(1, 33))
        page, blocks, local = int(2 ** rng.integers(0, 8)), int(2 ** rng.integers(0, 10)), int(rng.integers(0, 257))
        if attention == "dense":
            local = page = blocks = 0
        elif attention == "top_k":  # its budget is blocks + local
            page, blocks = 0, max(1, blocks * 4)
        found.append([attention, model, a, lengths, trials, local, page, blocks])
    return found


def run(utils: Path, rows: list[list[Any]]) -> list[list[Any]]:
    """What the authors' functions give for each row: mean compute and memory cost, tera-eFLOPs."""
    space, found = functions(utils), []
    for attention, model, a, lengths, trials, local, page, blocks in rows:
        parameters, q_heads, kv_heads, depth = SHAPES[model]
        options: dict[str, int] = {}
        if attention == "top_k":
            options = {"budget": blocks + local}
        elif attention == "block_top_k":
            options = {"local": local, "block_size": page, "block_topk": blocks}
        compute, memory = space["expected_cost"](
            space[FUNCTIONS[attention]], lengths, trials, nparams=parameters, num_attn_heads=q_heads,
            num_kv_heads=kv_heads, head_dim=depth, E_flops=E, context_length=a, **options,
        )  # fmt: skip
        found.append([float(compute), float(memory)])
    return found


def run_coverage(utils: Path, cases: list[list[Any]]) -> list[list[float]]:
    """The authors' coverage of `correct` of `trials` for each number of samples."""
    coverage = functions(utils)["coverage"]
    return [[float(x) for x in coverage([1] * c + [0] * (m - c), samples)] for m, c, samples in cases]


def coverage_cases(count: int = 30, seed: int = 1) -> list[list[Any]]:
    rng = np.random.default_rng(seed)
    return [
        [
            m := int(rng.integers(1, 65)),
            int(rng.integers(0, m + 1)),
            sorted({int(x) for x in rng.integers(1, m + 1, 4)}),
        ]
        for _ in range(count)
    ]


def main() -> None:
    utils, commit = Path(sys.argv[1]), sys.argv[2]
    rows, cases = points(360), coverage_cases()
    document = {
        "source": f"github.com/Infini-AI-Lab/Kinetics at {commit}, cost_model/utils.py, run with E_flops = {E}",
        "columns": COLUMNS,
        "rows": [row + cost for row, cost in zip(rows, run(utils, rows), strict=True)],
        "coverage": [[*case, found] for case, found in zip(cases, run_coverage(utils, cases), strict=True)],
    }
    FILE.write_text(json.dumps(document).replace("], [", "],\n["), encoding="utf-8")


if __name__ == "__main__":
    main()
