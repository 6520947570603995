"""The experiment of the Kinetics paper: decode layers with dense and block top-k attention, simulated and measured.

A point is a model, one GPU's share of it, a batch and a context. Of each the time of one decode layer and of its
attention alone is simulated with both attentions; measured times come from the table `kinetics` (docs/microbenchmarks).
What a speed-up is: the time with dense attention over that with block top-k, the same batch and context.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from calibration.layertables import LayerTable, identity
from calibration.measure.layersizes import PAPER_POINTS, kinetics_rows
from hwspecs.errors import InputError
from hwspecs.gpu import Gpu
from simulator.calibrated import Calibrated
from simulator.layers import BLOCK_TOPK, DENSE, case_of, layer_graph
from simulator.layertime import LayerTime, layer_time
from simulator.profile import Profile

SCHEMA = "kinesim-kinetics/1"
PAPER = {
    "source": "Kinetics: Rethinking Test-Time Scaling Laws, arXiv 2506.05333, section 5.2",
    "model": "Qwen/Qwen3-0.6B",
    "tp": 8,
    "points": [{"batch": batch, "context_len": context} for batch, context in PAPER_POINTS],
    "speedup": [25.9, 26.2],
}
"""What the paper reports at its points: the range of the increase in throughput, estimated there from single layers."""
MARK = 25.0
WHAT = ("speedup", "attention_speedup", "dense_us", "sparse_us")
"""What is compared, in the order in which it is shown."""


class Times(NamedTuple):
    """Seconds of a decode layer and of its attention, with dense attention and with block top-k; nan: not measured."""

    dense: float
    sparse: float
    dense_attention: float
    sparse_attention: float

    @property
    def speedup(self) -> float:
        return self.dense / self.sparse

    @property
    def attention_speedup(self) -> float:
        return self.dense_attention / self.sparse_attention

    def figures(self) -> dict[str, float | None]:
        """For documents: microseconds and ratios, None for what was not measured."""
        values = {
            "speedup": self.speedup,
            "attention_speedup": self.attention_speedup,
            "dense_us": self.dense * 1e6,
            "sparse_us": self.sparse * 1e6,
            "dense_attention_us": self.dense_attention * 1e6,
            "sparse_attention_us": self.sparse_attention * 1e6,
        }
        return {name: None if np.isnan(value) else value for name, value in values.items()}


@dataclass(frozen=True)
class Point:
    """A point of the experiment: its dense and its sparse row, the predictions, and the measurement if there is one.

    `guessed` are the operators of both layers that a rule of thumb times because no measured kernel stands for them;
    None where a roofline profile times everything.
    """

    row: Mapping[str, Any]
    sparse_row: Mapping[str, Any]
    layers: tuple[LayerTime, LayerTime]
    measured: Times | None = None
    guessed: frozenset[str] | None = None

    @property
    def model(self) -> str:
        return str(self.row["model"])

    @property
    def tp(self) -> int:
        return int(self.row["tp"])

    @property
    def batch(self) -> int:
        return int(self.row["batch"])

    @property
    def context(self) -> int:
        return int(self.row["context_len"])

    @property
    def simulated(self) -> Times:
        dense, sparse = self.layers
        return Times(dense.seconds, sparse.seconds, dense.attention_seconds, sparse.attention_seconds)

    @property
    def of_paper(self) -> bool:
        """Whether it is one of the paper's: so large a batch that only single layers fit into the memory."""
        return self.tp == PAPER["tp"] and (self.batch, self.context) in PAPER_POINTS

    @property
    def bytes_ratio(self) -> float:
        """Bytes of K, V and summaries that dense attention moves over those of block top-k."""
        return self.layers[0].attention_bytes / self.layers[1].attention_bytes

    @property
    def guessed_share(self) -> tuple[float, float] | None:
        """The part of the time of the dense and of the sparse layer that a rule of thumb makes up."""
        if self.guessed is None:
            return None
        dense, sparse = (
            sum(float(time.seconds) for name, time in layer.operators.items() if name in self.guessed) / layer.seconds
            for layer in self.layers
        )
        return dense, sparse

    def errors(self) -> dict[str, float | None] | None:
        """simulated / measured - 1 of everything that is compared."""
        if self.measured is None:
            return None
        ours, theirs = self.simulated.figures(), self.measured.figures()
        out: dict[str, float | None] = {}
        for name in WHAT:
            a, b = ours[name], theirs[name]
            out[name] = None if a is None or b is None else a / b - 1
        return out


def planned_points(gpu: Gpu, profile: Profile | Calibrated) -> list[Point]:
    """The points that fit into the memory of `gpu`, simulated."""
    rows = list(kinetics_rows(gpu.memory.capacity))
    return [_simulated(dense, sparse, gpu, profile) for dense, sparse in zip(rows[::2], rows[1::2], strict=True)]


def measured_points(table: LayerTable, gpu: Gpu, profile: Profile | Calibrated) -> tuple[list[Point], int]:
    """The points of a table that have both a dense and a sparse row with latencies, simulated, in its order; and how
    many rows of it have no partner. Of rows measured more than once the median counts.

    Raises
    ------
    InputError : no row of the GPU, or none with its partner.
    """
    found: dict[tuple[Any, ...], dict[str, dict[tuple[int, int], list[int]]]] = {}
    usable = [i for i, row in enumerate(table.rows) if row["gpu"] == gpu.name and not np.isnan(table.seconds[i])]
    for i in usable:
        row = table.rows[i]
        pages = (row["page"], row["budget"])
        found.setdefault(identity(row), {DENSE: {}, BLOCK_TOPK: {}})[row["attention"]].setdefault(pages, []).append(i)
    points, paired = [], 0
    for kinds in found.values():
        dense = [i for rows in kinds[DENSE].values() for i in rows]
        for sparse in kinds[BLOCK_TOPK].values():
            if dense:
                times = Times(
                    *(float(np.median(table.seconds[rows])) for rows in (dense, sparse)),
                    *(float(np.median(table.attention_seconds[rows])) for rows in (dense, sparse)),
                )
                points.append(_simulated(table.rows[dense[0]], table.rows[sparse[0]], gpu, profile, times))
                paired += len(sparse)
        if dense and kinds[BLOCK_TOPK]:
            paired += len(dense)
    if not points:
        gpus = sorted({row["gpu"] for row in table.rows})
        raise InputError(
            f"has no point of {gpu.name} that was measured with dense and with block_topk attention",
            file=table.path, found=f"{len(usable)} measured rows of {gpu.name}; GPUs: {', '.join(gpus)}",
            allowed="rows of both for the same model, tp, batch and context_len",
        )  # fmt: skip
    return points, len(usable) - paired


def _simulated(
    dense: Mapping[str, Any],
    sparse: Mapping[str, Any],
    gpu: Gpu,
    profile: Profile | Calibrated,
    measured: Times | None = None,
) -> Point:
    cases = case_of(dense), case_of(sparse)
    layers = layer_time(cases[0], gpu, profile), layer_time(cases[1], gpu, profile)
    guessed = None
    if isinstance(profile, Calibrated):
        guessed = frozenset(
            op.name
            for case, layer in zip(cases, layers, strict=True)
            for op in layer_graph(case).operators
            if op.name in layer.operators and profile.choice(op) is None
        )
    return Point(dense, sparse, layers, measured, guessed)


# ---- the answer ------------------------------------------------------------------------------------------------------


def error_summary(points: Iterable[Point]) -> dict[str, Any] | None:
    """Of everything that is compared: mean, largest and bias (median of simulated / measured - 1) of the error."""
    errors = [errors for point in points if (errors := point.errors()) is not None]
    if not errors:
        return None
    out: dict[str, Any] = {"points": len(errors)}
    for name in WHAT:
        values = np.array([e[name] for e in errors if e[name] is not None], dtype=float)
        if len(values):
            off = np.abs(values)
            out[name] = {"mean": float(off.mean()), "worst": float(off.max()), "bias": float(np.median(values))}
        else:
            out[name] = None
    return out


def best(points: Sequence[Point], name: str, *, whole_models: bool) -> Point:
    """The point with the largest simulated speed-up; `whole_models`: only where a whole model fits into the memory."""
    some = [point for point in points if not (whole_models and point.of_paper)] or list(points)
    return max(some, key=lambda point: float(getattr(point.simulated, name)))


def best_measured(points: Sequence[Point], name: str, *, whole_models: bool) -> Point | None:
    """The same of the measured speed-ups; None where none of those points was measured."""
    some = [point for point in points if not (whole_models and point.of_paper)] or list(points)
    seen = [(value, point) for point in some if (value := _measured(point, name)) is not None]
    return max(seen, key=lambda pair: pair[0])[1] if seen else None


def _measured(point: Point, name: str) -> float | None:
    return None if point.measured is None else point.measured.figures()[name]


def rule_of_thumb(points: Sequence[Point]) -> dict[str, Any] | None:
    """What no measured kernel stands for: operators, and the least and the largest part that they have in a layer's
    simulated time. None where a roofline profile times everything.
    """
    shares = [share for point in points if (share := point.guessed_share) is not None]
    if not shares:
        return None
    names = {name: None for point in points for name in point.layers[1].operators if name in (point.guessed or ())}
    papers = [
        share[1] for point in points
        if point.of_paper and point.model == PAPER["model"] and (share := point.guessed_share) is not None
    ]  # fmt: skip
    return {
        "operators": list(names),
        DENSE: [min(share[0] for share in shares), max(share[0] for share in shares)],
        BLOCK_TOPK: [min(share[1] for share in shares), max(share[1] for share in shares)],
        "paper_block_topk": [min(papers), max(papers)] if papers else None,
    }


def guess_words(points: Sequence[Point]) -> str | None:
    """The same as a sentence; None where a measured kernel stands for every operator."""
    found = rule_of_thumb(points)
    if found is None or not found["operators"]:
        return None
    text = (
        f"Timed by a rule of thumb, since no measured kernel stands for them: {', '.join(found['operators'])}; "
        f"{_range(found[BLOCK_TOPK])} of the time of a block top-k layer"
    )
    if found["paper_block_topk"]:
        text += f", {_range(found['paper_block_topk'])} at the paper's points of {PAPER['model'].rpartition('/')[2]}"  # type: ignore[attr-defined]
    return text + "."


def _range(ends: Sequence[float]) -> str:
    least, most = (f"{100 * end:.0f} %" for end in ends)
    return least if least == most else f"{least} to {most}"


def point_document(point: Point) -> dict[str, Any]:
    """A point, for `--format json`."""
    names = ("model", "dtype", "kv_dtype", "tp", "batch", "context_len")
    return {
        **{name: point.row[name] for name in names},
        "page": point.sparse_row["page"],
        "budget": point.sparse_row["budget"],
        "single_layer_only": point.of_paper,
        "attention_bytes_ratio": point.bytes_ratio,
        "simulated": point.simulated.figures(),
        "measured": None if point.measured is None else point.measured.figures(),
        "error": point.errors(),
        "rule_of_thumb_share": (
            None if point.guessed_share is None else dict(zip((DENSE, BLOCK_TOPK), point.guessed_share, strict=True))
        ),
        "operators_us": {
            attention: {name: float(time.seconds) * 1e6 for name, time in layer.operators.items()}
            for attention, layer in zip((DENSE, BLOCK_TOPK), point.layers, strict=True)
        },
    }


def document(
    points: Sequence[Point], gpu: Gpu, profile: Profile | Calibrated, *, table: str | None, unpaired: int = 0
) -> dict[str, Any]:
    """What `--format json` prints, and `kinetics.json` holds; documented in docs/kinetics-experiment.md."""
    names = ("speedup", "attention_speedup")
    seen = {name: best_measured(points, name, whole_models=True) for name in names}
    return {
        "schema": SCHEMA,
        "gpu": gpu.name,
        "profile": profile.name,
        "fitted_on": profile.fitted_on,
        "measured": table,
        "unpaired_rows": unpaired,
        "paper": PAPER,
        "rule_of_thumb": rule_of_thumb(points),
        "errors": error_summary(points),
        "largest": {name: point_document(best(points, name, whole_models=True)) for name in names},
        "largest_measured": (
            {name: None if point is None else point_document(point) for name, point in seen.items()}
            if any(seen.values())
            else None
        ),
        "points": [point_document(point) for point in points],
    }
