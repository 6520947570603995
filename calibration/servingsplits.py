"""How far predictions of deployments carry: the host's constants fitted again without each deployment, model and GPU in
turn, and each row simulated with the constants that have not seen it.

Only those constants are fitted to deployments (`calibration.servingfit`), so only they are fitted again. A last split
also takes the kernels' corrections of another GPU, as for a GPU of which nothing was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.servingerrors import planning_loss
from calibration.servingfit import LEFT_OUT, STEPS, Slopes, parameter_set
from calibration.servingreplay import Replay, Report, Row, SpecOf, replay_variants
from calibration.servingruns import deployment_spec
from calibration.servingtables import ServingTable
from hwspecs.errors import InputError
from simulator.selection import bundled

LEAST = 20
"""From fewer rows the constants of a parameter set are not fitted: the other sets' rows join in."""
NEIGHBOUR = {"a100-sxm": "h100-sxm", "h100-sxm": "h200-sxm", "h200-sxm": "h100-sxm", "b200-sxm": "h200-sxm"}
"""Whose measured kernels stand for a GPU's when its own are left out: the most alike of those measured."""
FAMILIES = {
    "latent or hybrid": ("DeepSeek", "Kimi", "GLM-5", "Qwen3.5"),
    "moe": ("235B", "30B-A3B", "gpt-oss", "MiniMax", "Mixtral"),
}
"""Parts of the names of models by what they are built of; all others are dense."""


@dataclass(frozen=True)
class Split:
    """Predictions of a table under one split.

    Attributes
    ----------
    name : in words. key : what is left out for a row. replays : of all rows, in their order; rows that are in no fit
        have none. unseen : bool [n], rows of whose engine's version too little was left, on any GPU.
    """

    name: str
    key: Callable[[Row], str]
    replays: list[Replay]
    unseen: np.ndarray


@dataclass(frozen=True)
class Part:
    """Rows for which something was aimed at: in words, bool [n], and mean errors of TPOT and TTFT and planning loss."""

    name: str
    rows: np.ndarray
    aim: tuple[float | None, float | None, float | None]


def built_of(model: str) -> str:
    """dense, moe (over grouped-query attention), or latent or hybrid (attention)."""
    return next((name for name, parts in FAMILIES.items() if any(part in model for part in parts)), "dense")


def parts_of(table: ServingTable) -> list[Part]:
    """The parts of a table that have aims; empty ones are left out."""
    kind = np.array([built_of(row["model"]) for row in table.rows])
    engine = np.array([row["engine"] for row in table.rows])
    dense = (kind == "dense") & (engine != "sglang")
    latent = kind == "latent or hybrid"
    found = [
        Part("dense models, vLLM and TensorRT-LLM", dense, (0.05, 0.15, 0.10)),
        Part("MoE over GQA", kind == "moe", (0.09, 0.20, 0.10)),
        Part("both, and dense models on SGLang", ~latent, (None, None, 0.10)),
        Part("latent, sparse or hybrid attention", latent, (0.10, 0.25, None)),
    ]
    return [part for part in found if part.rows.any()]


def scores(table: ServingTable, replays: Sequence[Replay], rows: np.ndarray) -> tuple[float, float, float | None]:
    """Mean error of TPOT and of TTFT, and the planning loss, of the rows picked.

    A row without a prediction is 100 % off.
    """
    pick = np.flatnonzero(rows).tolist()
    own, part = [replays[i] for i in pick], table.take(pick)
    pairs = ((part.tpot, [entry.tpot for entry in own]), (part.ttft, [entry.ttft for entry in own]))
    means = []
    for measured, predicted in pairs:
        error = np.minimum(np.nan_to_num(np.abs(np.array(predicted) / measured - 1), nan=1.0), 1.0)
        means.append(float(error[~np.isnan(measured)].mean()))
    loss = planning_loss(part, own)
    return means[0], means[1], None if loss is None else loss["mean"]


# ---- fitted again ----------------------------------------------------------------------------------------------------


def pooled(sets: Sequence[Slopes]) -> Slopes:
    """Several parameter sets as one: their rows, as they would be if the host took no time, and what it adds."""
    return Slopes(
        [row for part in sets for row in part.rows],
        np.zeros(len(STEPS)),
        np.concatenate([part.log - part.slope @ part.constants for part in sets], axis=1),
        np.concatenate([part.slope for part in sets], axis=1),
    )


def constants_without(sets: Mapping[str, Slopes], key: Callable[[Row], str]) -> tuple[dict[int, np.ndarray], set[int]]:
    """For each row, by its `id`, the constants of its set fitted without the rows of the same `key`; and the rows for
    which neither that set nor the one of the most alike GPU had LEAST others, so that other sets stood in.
    """
    found: dict[int, np.ndarray] = {}
    unseen: set[int] = set()
    for own in sets.values():
        keys = np.array([key(row) for row in own.rows])
        for value in sorted(set(keys.tolist())):
            members, others = np.flatnonzero(keys == value), np.flatnonzero(keys != value)
            if len(others) >= LEAST:
                constants, seen = own.fit(others, own.constants), True
            else:
                constants, seen = _borrowed(sets, own, members.tolist(), key, value)
            ids = [id(own.rows[i]) for i in members.tolist()]
            found |= dict.fromkeys(ids, constants)
            unseen |= set() if seen else set(ids)
    return found, unseen


def _borrowed(
    sets: Mapping[str, Slopes], own: Slopes, members: Sequence[int], key: Callable[[Row], str], value: str
) -> tuple[np.ndarray, bool]:
    """Constants from other rows than those of `value`: of the set that the members would have on the most alike GPU,
    else of all sets of the engine, else of all; and whether it was the first.
    """
    row = own.rows[members[0]]
    moved = sets.get(parameter_set({**row, "gpu": NEIGHBOUR.get(row["gpu"], row["gpu"])}))
    alike = [part for part in sets.values() if part.rows[0]["engine"] == row["engine"]]
    for first, parts in enumerate(([moved] if moved else [], alike, list(sets.values()))):
        pick = [i for i, row in enumerate(row for part in parts for row in part.rows) if key(row) != value]
        if len(pick) >= LEAST:
            return pooled(parts).fit(np.array(pick), np.max([part.constants for part in parts], axis=0)), first == 0
    return own.constants, False


def host_of(constants: Mapping[int, np.ndarray]) -> SpecOf:
    """Deployments with constants of the host of their own, by the `id` of their row."""

    def spec_of(row: Row, profile: str | None) -> dict[str, Any]:
        if id(row) not in constants:
            raise InputError("this row takes no part in the fit")
        spec = deployment_spec(row, profile)
        # To the nanosecond: a bound that a fit comes near to is 0.
        spec["engine"]["host"] = dict(zip(STEPS, constants[id(row)].round(9).tolist(), strict=True))
        return spec

    return spec_of


def foreign_profile(row: Row) -> str | None:
    """The newest profile of the row's engine on another GPU, or None if no other was measured."""
    own = f"{NEIGHBOUR.get(row['gpu'], '')}@{row['engine']}-"
    names = [name for name in bundled().names if name.startswith(own)]
    return max(names, key=_version) if names else None


def _version(name: str) -> list[tuple[int, str]]:
    """Sorts 1.10 behind 1.9."""
    return [(int("".join(c for c in part if c.isdigit()) or 0), part) for part in name.rpartition("-")[2].split(".")]


def foreign(constants: Mapping[int, np.ndarray]) -> SpecOf:
    """As `host_of`, with the kernels' corrections of another GPU."""
    of = host_of(constants)

    def spec_of(row: Row, profile: str | None) -> dict[str, Any]:
        carried = foreign_profile(row)
        if carried is None:
            raise InputError("the engine's kernels were measured on no other GPU", place="gpu", found=row["gpu"])
        return of(row, carried)

    return spec_of


def splits(
    table: ServingTable, sets: Mapping[str, Slopes], *, jobs: int | None = None, report: Report | None = None
) -> list[Split]:
    """Each deployment, each model and each GPU left out, and each GPU with its kernels: four simulations."""
    constants = [constants_without(sets, key) for key in LEFT_OUT.values()]
    variants = [*(host_of(own) for own, _ in constants), foreign(constants[-1][0])]
    runs = replay_variants(table.rows, variants, jobs=jobs, report=report, intervals=False)
    keys = [*LEFT_OUT.items(), (f"{list(LEFT_OUT)[-1]} and its kernels", list(LEFT_OUT.values())[-1])]
    out = []
    for (name, key), of, (_, unseen) in zip(keys, runs, (*constants, constants[-1]), strict=True):
        out.append(Split(name, key, of, np.array([id(row) in unseen for row in table.rows])))
    return out
