"""The operator graph of one step, for people: rows, a JSON document and a picture (`kinesim graph`).

What an operator does is defined in `operators`, how long it takes in `cost` and `stepcost`; nothing is computed anew
here. Operators without work in the step are left out, and the edges drawn around them. The command line's options and
tables are the business of `cli`.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx

from hwspecs.errors import InputError
from hwspecs.units import format_quantity
from simulator.cost import BOUNDS, hbm_bytes, operator_time
from simulator.files import replace_file
from simulator.layout import Layout
from simulator.operators import Heads, Operator, Work
from simulator.policy import SECONDS_PER_TICK
from simulator.profile import Profile
from simulator.shape import PrefillShape, StepShape, busiest_shape, causal_pairs, keys_read, mean_shape
from simulator.stepcost import StepCost
from simulator.stepgraph import StepGraph

GRAPH_SCHEMA = "kinesim-graph/1"
PHASES = ("decode", "prefill", "mixed")
PICTURES = ("svg", "png")

BOUND_COLOURS = {
    "compute": "#D55E00",
    "memory": "#0072B2",
    "l2": "#009E73",
    "link": "#B3589A",
    "overhead": "#7A7A7A",
}
"""Colours that people with colour-blindness can tell apart (Okabe and Ito, "Color universal design", 2008)."""
BOUND_WORDS = {
    "compute": "compute",
    "memory": "HBM",
    "l2": "L2",
    "link": "link",
    "overhead": "launch overhead",
}


# ---- the shape of a step ---------------------------------------------------------------------------------------------


def step_shape(
    source: StepCost | StepGraph,
    *,
    phase: str,
    batch: int,
    context: int = 1,
    query: int = 1,
    past: int = 0,
    prefill_batch: int = 1,
) -> StepShape:
    """The shape of a step of sequences that are all alike.

    Parameters
    ----------
    source : what the extents are taken from; a `StepCost` also limits the step (tokens, sequences, context).
    phase : `decode`: `batch` sequences of `context` tokens each, the new one included.
        `prefill`: `batch` prompts, of each of which the last `query` tokens are computed after `past` earlier ones.
        `mixed`: `batch` decoding sequences of `context` tokens, and `prefill_batch` prompts (`query`, `past`).
        Arguments that a phase does not name are not looked at.

    Raises
    ------
    InputError : an unknown phase, a number out of range; the place is the option's name, such as `--batch`.
    """
    if phase not in PHASES:
        raise InputError("unknown phase", place="--phase", found=phase, allowed=", ".join(PHASES))
    limits = source if isinstance(source, StepCost) else None
    decode_seqs = 0 if phase == "prefill" else _check("--batch", batch, 1)
    prefill_seqs = 0
    if phase != "decode":
        option = "--batch" if phase == "prefill" else "--prefill-batch"
        prefill_seqs = _check(option, batch if phase == "prefill" else prefill_batch, 1)
        _check("--query", query, 1)
        _check("--past", past, 0)
    if phase != "prefill":
        _check("--context", context, 1)
    tokens = decode_seqs + prefill_seqs * query
    seqs = decode_seqs + prefill_seqs
    if limits is not None:
        _limit_step(limits, phase, decode_seqs, context, prefill_seqs, query, past)
    decode_kv = tuple(decode_seqs * _capped(context, cap) for cap in source.decode_caps)
    chunks = None
    if prefill_seqs:
        chunks = PrefillShape(
            tokens=prefill_seqs * query,
            seqs=prefill_seqs,
            pairs=tuple(prefill_seqs * causal_pairs(query, past, cap) for cap in source.prefill_caps),
            kv=tuple(prefill_seqs * keys_read(query, past, cap) for cap in source.prefill_caps),
        )
    return StepShape(tokens, seqs, decode_seqs, decode_kv, chunks)


def _limit_step(
    limits: StepCost, phase: str, decode_seqs: int, context: int, prefill_seqs: int, query: int, past: int
) -> None:
    """InputError unless the step is one that `limits` was compiled for; names the option to make smaller."""
    seqs, tokens = decode_seqs + prefill_seqs, decode_seqs + prefill_seqs * query
    if seqs > limits.max_seqs:
        options = "--batch and --prefill-batch" if phase == "mixed" else "--batch"
        what = "a step has more sequences than max_num_seqs"
        raise InputError(what, place=options, found=seqs, allowed=f"1 to {limits.max_seqs}")
    if tokens > limits.max_tokens:
        options = {"decode": "--batch", "prefill": "--batch times --query"}.get(
            phase, "--batch plus --prefill-batch times --query"
        )
        what = "a step has more tokens than max_num_batched_tokens"
        raise InputError(what, place=options, found=tokens, allowed=f"1 to {limits.max_tokens}")
    most = f"1 to {limits.max_context}"
    what = "a sequence is longer than the model's context"
    if decode_seqs and context > limits.max_context:
        raise InputError(what, place="--context", found=context, allowed=most)
    if prefill_seqs and past + query > limits.max_context:
        raise InputError(what, place="--past plus --query", found=past + query, allowed=most)


def _check(option: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError("not a whole number", place=option, found=value, allowed=f"{least} or more")
    if value < least:
        raise InputError("too small", place=option, found=value, allowed=f"{least} or more")
    return value


def _capped(tokens: int, cap: int | None) -> int:
    return tokens if cap is None else min(tokens, cap)


def shape_words(shape: StepShape) -> str:
    """The step in words: `64 sequences decode, each reads up to 8,192 tokens of KV`.

    A shape only has sums, so lengths are means over the sequences; with a window on all layers they are what is read.
    """
    parts = []
    if shape.decode_seqs:
        read = _rounded(max(shape.decode_kv, default=0) / shape.decode_seqs)
        parts.append(f"{_many(shape.decode_seqs, 'sequence')} decoding at {read} tokens of context")
    if shape.prefill is not None and shape.prefill.seqs:
        seqs = shape.prefill.seqs
        query = shape.prefill.tokens / seqs
        past = max(shape.prefill.kv, default=0) / seqs - query
        text = f"{_many(seqs, 'prompt')} of {_rounded(query)} tokens prefilled"
        parts.append(text + (f" after {_rounded(past)} earlier ones" if past else ""))
    return " + ".join(parts) if parts else "an empty step"


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"about {value:,.0f}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


# ---- rows ------------------------------------------------------------------------------------------------------------


def operator_rows(cost: StepCost, shape: StepShape) -> list[dict[str, Any]]:
    """One row per operator that has work in a step of `shape`, in order of execution.

    The figures are those of all its layers, on one GPU: the mean one, and the time that of the one with the most to do.
    With a pipeline, a step takes all its micro-batches once through all stages.

    Keys: `name`, `kind`, `stream`, `count` (executions), `dtype`; `flops`; `weight_bytes`, `kv_bytes`, `act_bytes`,
    `comm_bytes`, and `hbm_bytes`, which counts of the activations what does not fit into the L2; `intensity`, FLOPs per
    HBM byte, None without HBM bytes; `seconds`, and `share` of the step; `ideal_seconds` by the pure roofline, and
    `of_roof`, how much of it is reached (ideal seconds over seconds); `bound`, the largest term (see
    `cost.BOUNDS`); `flops_per_s`, and `of_peak`, its fraction of the format's dense peak (None for an operator that
    does not use the matrix units); `hbm_bytes_per_s`, and `of_bandwidth`.

    As long as operators run one after the other, as they all do on a single stream, their seconds add up to those of
    the step (but for the rounding to clock ticks, 2^-60 s); with overlap they add up to more.
    """
    step = step_seconds(cost, shape)
    ideal = Profile(name="ideal", description="the pure roofline", fitted_on="nothing")
    rows = []
    for op in cost.operators:
        once = op.work(mean_shape(shape, op.dealt))
        if not _has_work(once):
            continue
        work = Work(*(_number(part) for part in once.times(op.count)))
        hbm = _number(op.count * hbm_bytes(once, cost.gpu))
        seconds = float(cost.operator_seconds(op, shape))
        part = busiest_shape(shape, cost.ranks, op.dealt)
        least = float(op.count * operator_time(op, part, cost.gpu, ideal).seconds)
        rate = work.flops / seconds if seconds else 0.0
        rows.append(
            {
                "name": op.name,
                "kind": op.kind,
                "stream": op.stream,
                "count": op.count,
                "dtype": op.dtype,
                "flops": work.flops,
                "weight_bytes": work.weight_bytes,
                "kv_bytes": work.kv_bytes,
                "act_bytes": work.act_bytes,
                "comm_bytes": work.comm_bytes,
                "hbm_bytes": hbm,
                "intensity": work.flops / hbm if hbm else None,
                "seconds": seconds,
                "share": seconds / step,
                "ideal_seconds": least,
                "of_roof": least / seconds if seconds else 0.0,
                "bound": BOUNDS[int(cost.terms(op, shape).bound())],
                "flops_per_s": rate,
                "of_peak": rate / cost.gpu.peak[op.dtype] if op.dtype is not None else None,
                "hbm_bytes_per_s": hbm / seconds if seconds else 0.0,
                "of_bandwidth": hbm / seconds / cost.gpu.memory.bandwidth if seconds else 0.0,
            }
        )
    return rows


def step_seconds(cost: StepCost, shape: StepShape) -> float:
    """Duration of the step, as the engine counts it."""
    return cost.step_ticks(shape) * SECONDS_PER_TICK


def step_totals(cost: StepCost, shape: StepShape, rows: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Sums over the rows, with the rows' keys, and the step itself.

    `seconds` is the time of the step; `operator_seconds` the sum over the operators, which is the same unless streams
    overlap. `seconds_by_bound` and `seconds_by_kind` split that sum. `of_peak` relates all FLOPs to the peak of the
    compute format, `of_bandwidth` all HBM bytes to the HBM bandwidth (MFU and MBU of the step).
    """
    rows = operator_rows(cost, shape) if rows is None else rows
    keys = ("flops", "weight_bytes", "kv_bytes", "act_bytes", "comm_bytes", "hbm_bytes")
    totals: dict[str, Any] = {key: sum(row[key] for row in rows) for key in keys}
    seconds = step_seconds(cost, shape)
    totals["intensity"] = totals["flops"] / totals["hbm_bytes"] if totals["hbm_bytes"] else None
    totals["seconds"] = seconds
    totals["operator_seconds"] = sum(row["seconds"] for row in rows)
    totals["seconds_by_bound"] = {
        bound: sum(row["seconds"] for row in rows if row["bound"] == bound)
        for bound in BOUNDS
        if any(row["bound"] == bound for row in rows)
    }
    totals["seconds_by_kind"] = {
        kind: sum(row["seconds"] for row in rows if row["kind"] == kind)
        for kind in dict.fromkeys(row["kind"] for row in rows)
    }
    totals["flops_per_s"] = totals["flops"] / seconds
    totals["of_peak"] = totals["flops_per_s"] / cost.gpu.peak_flops(cost.graph.main_dtype(cost.gpu.peak))
    totals["hbm_bytes_per_s"] = totals["hbm_bytes"] / seconds
    totals["of_bandwidth"] = totals["hbm_bytes_per_s"] / cost.gpu.memory.bandwidth
    totals["operators"] = len(rows)
    return totals


def _has_work(work: Work) -> bool:
    return any(part > 0 for part in work)


def _number(value: Any) -> int | float:
    """A plain number, whole where the value is: fit for JSON."""
    value = value.item() if hasattr(value, "item") else value
    return int(value) if value == int(value) else float(value)


# ---- the document ----------------------------------------------------------------------------------------------------


def present_graph(graph: StepGraph, names: Iterable[str]) -> nx.DiGraph:
    """The graph of the operators in `names` only: two are joined where a path through absent ones joined them.

    Edges that a longer path implies are left out.
    """
    keep = set(names)
    dag = graph.dag.copy()
    for name in list(dag):
        if name not in keep:
            before, after = list(dag.predecessors(name)), list(dag.successors(name))
            dag.remove_node(name)
            dag.add_edges_from((a, b) for a in before for b in after)
    reduced = nx.transitive_reduction(dag)
    order = [name for name in graph.dag if name in keep]
    ordered = nx.DiGraph()
    ordered.add_nodes_from((name, graph.dag.nodes[name]) for name in order)
    ordered.add_edges_from(sorted(reduced.edges, key=lambda edge: (order.index(edge[0]), order.index(edge[1]))))
    return ordered


def graph_document(cost: StepCost, shape: StepShape) -> dict[str, Any]:
    """The step as JSON: `schema`, what it is of, `shape`, `step` (totals), `nodes` (rows), `edges` (pairs of names)."""
    rows = operator_rows(cost, shape)
    dag = present_graph(cost.graph, (row["name"] for row in rows))
    section = {name: part.label for part in _sections(cost, list(dag)) for name in part.names}
    return {
        "schema": GRAPH_SCHEMA,
        **context_document(cost),
        "description": shape_words(shape),
        "shape": shape_document(shape),
        "step": step_totals(cost, shape, rows),
        "nodes": [row | {"section": section[row["name"]]} for row in rows],
        "edges": [list(edge) for edge in dag.edges],
    }


def context_document(cost: StepCost) -> dict[str, Any]:
    """What a document is of: model, GPU and its figures (SI units), profile, precision and parallelism."""
    graph, gpu = cost.graph, cost.gpu
    precision = graph.precision
    return {
        "model": graph.model.name,
        "gpu": gpu.name,
        "gpu_figures": {
            "title": gpu.title,
            "peak_flops": dict(gpu.peak),
            "memory_bandwidth": gpu.memory.bandwidth,
            "l2_bandwidth": gpu.l2.bandwidth,
            "l2_size": gpu.l2.size,
            "link_bandwidth": gpu.link.bandwidth,
        },
        "profile": cost.profile.name,
        "precision": {
            "weights": precision.weights,
            "activations": precision.activations,
            "kv": precision.kv,
            **precision.parts,
        },
        "parallelism": dataclasses.asdict(graph.layout),
    }


def shape_document(shape: StepShape) -> dict[str, Any]:
    """A step's shape with names."""
    return {
        "tokens": shape.tokens,
        "rows": shape.rows,
        "decode_seqs": shape.decode_seqs,
        "decode_kv": list(shape.decode_kv),
        "prefill": None
        if shape.prefill is None
        else {
            "tokens": shape.prefill.tokens,
            "seqs": shape.prefill.seqs,
            "pairs": list(shape.prefill.pairs),
            "kv": list(shape.prefill.kv),
        },
    }


# ---- the picture: what both pictures share ---------------------------------------------------------------------------


def picture_format(path: Path) -> str:
    """`svg` or `png`, by the ending of `path`. InputError for any other."""
    ending = path.suffix.lower().removeprefix(".")
    if ending not in PICTURES:
        raise InputError(
            "unknown kind of picture", file=path, found=path.suffix, allowed=".svg or .png (a graph also .json)"
        )
    return ending


def write_picture(figure: Any, path: Path) -> None:
    """Draw a matplotlib figure into the file `path`, atomically. The same figure gives the same bytes."""
    import matplotlib

    kind = picture_format(path)
    buffer = io.BytesIO()
    # Text stays text in an SVG, so that it can be searched and read aloud.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kinesim"}):
        figure.savefig(buffer, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    replace_file(path, buffer.getvalue())


def text_width(text: Any) -> float:
    """Width of a matplotlib text in inches, as it will be drawn."""
    figure = text.figure
    return text.get_window_extent(figure.canvas.get_renderer()).width / figure.dpi


def fit(text: Any, inches: float) -> None:
    """Set a matplotlib text smaller if it is wider than `inches`."""
    wide = text_width(text)
    if wide > inches:
        text.set_fontsize(text.get_fontsize() * inches / wide)


def percent_words(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "< 0.1%"


def context_words(cost: StepCost) -> str:
    """Model layout, precision and profile in one line."""
    graph = cost.graph
    layout = f", {_layout_words(graph.layout)} (figures of one GPU)" if graph.layout.gpus > 1 else ""
    return f"{graph.precision}{layout}, profile {cost.profile.name}"


def _layout_words(layout: Layout) -> str:
    """The layout without sizes of 1: `tensor parallel over 4 GPUs`, `2-way tensor, 4-way expert parallel`."""
    if layout == Layout(tensor=layout.tensor):
        return f"tensor parallel over {layout.tensor} GPUs"
    names = {"tensor": "tensor", "attention_data": "attention-data", "expert": "expert", "pipeline": "pipeline"}
    sizes = [f"{getattr(layout, key)}-way {name}" for key, name in names.items() if getattr(layout, key) > 1]
    more = ["sequence parallelism"] * layout.sequence
    more += [f"{layout.redundant_experts} redundant experts"] * (layout.redundant_experts > 0)
    more += [f"all-to-all ({layout.all_to_all.replace('_', ' ')})"] * layout.exchanges
    return ", ".join(sizes) + " parallel" + (f" with {' and '.join(more)}" if more else "")


def model_title(cost: StepCost) -> str:
    """The model's name without its publisher."""
    return cost.graph.model.name.rpartition("/")[2]


def gpu_title(cost: StepCost) -> str:
    return cost.gpu.title + (" (announced)" if cost.gpu.status == "announced" else "")


# ---- the picture: where things are -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Section:
    """Operators that are drawn together: a group of layers, or what comes before and after them (`layers` is None)."""

    label: str
    layers: int | None
    names: tuple[str, ...]


def _suffix(name: str) -> str:
    """What tells the groups of layers apart: `dense` of `qkv_proj [dense]`."""
    return name[name.index("[") + 1 : -1] if name.endswith("]") and "[" in name else ""


def _sections(cost: StepCost, names: Sequence[str]) -> list[_Section]:
    """Runs of operators of one group of layers, in the order of the graph."""
    runs: list[tuple[tuple[str, int], list[str]]] = []
    for name in names:
        op: Operator = cost.graph.dag.nodes[name]["op"]
        key = (_suffix(name), op.count)
        if not runs or runs[-1][0] != key:
            runs.append((key, []))
        runs[-1][1].append(name)
    sections = []
    for (suffix, count), members in runs:
        layers = count if count > 1 or suffix else None
        label = "" if layers is None else f"{_many(count, 'layer')}" + (f" ({suffix})" if suffix else "")
        sections.append(_Section(label, layers, tuple(members)))
    return sections


@dataclass(frozen=True)
class _Spot:
    """Where a box is: `rank` from the top, `lane` of `lanes` from the left."""

    rank: int
    lane: int
    lanes: int


def _spots(dag: nx.DiGraph) -> dict[str, _Spot]:
    """Rank of each operator (as late as its successors allow), and a lane for each of those that run side by side."""
    order = list(nx.topological_sort(dag))
    down: dict[str, int] = {}
    for name in reversed(order):
        down[name] = max((down[after] + 1 for after in dag.successors(name)), default=0)
    height = max(down.values(), default=0)
    # An operator on every path stands alone; the others form branches, the connected parts of what is left.
    central = {n for n in order if len(nx.ancestors(dag, n)) + len(nx.descendants(dag, n)) + 1 == len(order)}
    branches = [
        sorted(part, key=order.index) for part in nx.weakly_connected_components(dag.subgraph(set(order) - central))
    ]
    branches.sort(key=lambda part: order.index(part[0]))
    siblings: dict[tuple[str, ...], list[list[str]]] = {}
    for part in branches:
        # Branches are side by side if the same operator comes after them.
        after = {b for name in part for b in dag.successors(name)} - set(part)
        siblings.setdefault(tuple(sorted(after)), []).append(part)
    spots = {name: _Spot(height - down[name], 0, 1) for name in central}
    for parts in siblings.values():
        for lane, part in enumerate(parts):
            for name in part:
                spots[name] = _Spot(height - down[name], lane, len(parts))
    return spots


# ---- the picture -----------------------------------------------------------------------------------------------------

# Inches.
_BOX_W, _BOX_H = 4.3, 0.57
_GAP = 0.23  # between ranks: room for an arrow
_LANE_GAP = 0.3
_PAD = 0.22  # of a group of layers around its boxes
_GROUP_HEAD = 0.36  # room for its title
_MARGIN = 0.35
_HEAD = 1.62
_INK, _SOFT, _LINE = "#1D2733", "#5B6673", "#8A94A0"


def draw_graph(cost: StepCost, shape: StepShape, path: Path | str) -> None:
    """Draw the step as a picture: its operators from top to bottom, each a bar as long as its share of the time.

    Operators of layers that are alike stand once, in a frame that says how many layers there are; their figures are
    those of all layers. The colour says which resource bounds the operator.

    Raises
    ------
    InputError : `path` ends in neither `.svg` nor `.png`, or cannot be written.
    """
    path = Path(path)
    picture_format(path)
    write_picture(_figure(cost, shape), path)


def _figure(cost: StepCost, shape: StepShape) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = {row["name"]: row for row in operator_rows(cost, shape)}
    totals = step_totals(cost, shape, list(rows.values()))
    dag = present_graph(cost.graph, rows)
    spots = _spots(dag)
    sections = _sections(cost, list(dag))
    lanes = max((spot.lanes for spot in spots.values()), default=1)

    inner = lanes * _BOX_W + (lanes - 1) * _LANE_GAP
    width = inner + 2 * (_PAD + _MARGIN)
    width = max(width, 7.2)
    middle = width / 2

    # From the top down: each section its boxes, framed sections with room for frame and title.
    tops: dict[int, float] = {}
    frames = []
    y = _HEAD
    for section in sections:
        ranks = sorted({spots[name].rank for name in section.names})
        if section.layers is not None:
            top = y
            y += _GROUP_HEAD
        for rank in ranks:
            tops[rank] = y
            y += _BOX_H + _GAP
        if section.layers is not None:
            y += _PAD - _GAP
            frames.append((section, top, y))
            y += _GAP
    notes = _notes(totals, lanes)
    height = y - _GAP + 0.36 + 0.15 * len(notes)

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")

    def corner(name: str) -> tuple[float, float]:
        spot = spots[name]
        block = spot.lanes * _BOX_W + (spot.lanes - 1) * _LANE_GAP
        return middle - block / 2 + spot.lane * (_BOX_W + _LANE_GAP), tops[spot.rank]

    _header(axes, cost, shape, totals, width)
    for section, top, bottom in frames:
        seconds = sum(rows[name]["seconds"] for name in section.names)
        _frame(axes, section, middle - inner / 2 - _PAD, top, inner + 2 * _PAD, bottom, seconds, totals["seconds"])
    for a, b in dag.edges:
        _arrow(axes, corner(a), corner(b))
    for name, row in rows.items():
        _box(axes, *corner(name), dag.nodes[name]["op"], row)
    axes.text(
        middle, height - 0.16, "\n".join(notes), ha="center", va="bottom", fontsize=7.2, color=_SOFT, linespacing=1.4
    )
    return figure


def _notes(totals: dict[str, Any], lanes: int) -> list[str]:
    notes = [
        "A box is one operator, its filled part its share of the step; figures are those of all its layers.",
        "FLOP/B: FLOPs per byte of HBM traffic, to which activations only count as far as they do not fit into the L2.",
    ]
    if lanes > 1:
        notes.append("Operators side by side do not depend on each other.")
    if totals["operator_seconds"] > totals["seconds"] * (1 + 1e-6):
        notes.append("Streams overlap: the operators' times add up to more than the step.")
    return notes


def _header(axes: Any, cost: StepCost, shape: StepShape, totals: dict[str, Any], width: float) -> None:
    """Title, what the step is, and a bar of the time by bound that is the legend too."""
    from matplotlib.patches import Rectangle

    left, right = _MARGIN, width - _MARGIN
    title = f"One step of {model_title(cost)} on {gpu_title(cost)}"
    utilised = f"MFU {totals['of_peak']:.1%}, MBU {totals['of_bandwidth']:.1%}"
    _line_of(axes, left, right, 0.37, (title, _INK), (_seconds(totals["seconds"]), _INK), 13, weights=("bold", "bold"))
    _line_of(axes, left, right, 0.62, (shape_words(shape), _INK), (utilised, _SOFT), 8.6)
    _line_of(axes, left, right, 0.81, (context_words(cost), _SOFT), ("", _SOFT), 8.6)
    split = totals["seconds_by_bound"]
    total = sum(split.values())
    x = left
    for bound, seconds in split.items():
        part = (right - left) * seconds / total
        axes.add_patch(Rectangle((x, 0.98), part, 0.13, color=BOUND_COLOURS[bound], lw=0))
        x += part
    x = left + 0.1 + text_width(axes.text(left, 1.275, "time bound by", fontsize=7.6, color=_SOFT, va="center"))
    for bound, seconds in split.items():
        axes.add_patch(Rectangle((x, 1.22), 0.11, 0.11, color=BOUND_COLOURS[bound], lw=0))
        label = f"{BOUND_WORDS[bound]} {percent_words(seconds / total)}"
        x += 0.38 + text_width(axes.text(x + 0.16, 1.275, label, fontsize=7.6, color=_INK, va="center"))


def _line_of(
    axes: Any,
    x0: float,
    x1: float,
    y: float,
    left: tuple[str, str],
    right: tuple[str, str],
    size: float,
    weights: tuple[str, str] = ("normal", "normal"),
) -> None:
    """Two texts (with their colours) on one line from `x0` to `x1`; if they would meet, both are set smaller."""
    style: dict[str, Any] = {"va": "center", "fontsize": size, "zorder": 5}
    a = axes.text(x0, y, left[0], color=left[1], weight=weights[0], **style)
    b = axes.text(x1, y, right[0], color=right[1], weight=weights[1], ha="right", **style)
    wide = text_width(a) + text_width(b)
    room = x1 - x0 - (0.12 if right[0] else 0.0)
    if wide > room:
        for text in (a, b):
            text.set_fontsize(size * room / wide)


def _frame(
    axes: Any, section: _Section, x: float, y: float, width: float, bottom: float, seconds: float, step: float
) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(
        FancyBboxPatch((x, y), width, bottom - y, boxstyle=style, fc="#F3F5F8", ec="#C9D0D8", lw=1.0, zorder=1)
    )
    axes.text(x + _PAD, y + 0.19, f"× {section.label}", fontsize=9.5, weight="bold", color=_INK, va="center", zorder=5)
    text = f"{_seconds(seconds)}  ·  {percent_words(seconds / step)}"
    axes.text(x + width - _PAD, y + 0.19, text, fontsize=8.6, color=_INK, va="center", ha="right", zorder=5)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From the lower edge of a box to the upper edge of another; across lanes with a bend just above the lower box."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    x1, y1 = start[0] + _BOX_W / 2, start[1] + _BOX_H
    x2, y2 = end[0] + _BOX_W / 2, end[1]
    head = "-|>,head_length=3.2,head_width=2"
    style: dict[str, Any] = {"arrowstyle": head, "color": _LINE, "lw": 1.1, "shrinkA": 0, "shrinkB": 0, "zorder": 2}
    if abs(x1 - x2) < 1e-9:
        axes.add_patch(FancyArrowPatch((x1, y1), (x2, y2), **style))
        return
    # Splitting, the bend is right below the upper box and the line runs down the lane; joining, right above the lower.
    bend = y1 + _GAP * 0.42 if abs(x2 - axes.get_xlim()[1] / 2) > 0.01 else y2 - _GAP * 0.58
    points = [(x1, y1), (x1, bend), (x2, bend), (x2, y2)]
    axes.add_patch(FancyArrowPatch(path=Curve(points), **style))


def _box(axes: Any, x: float, y: float, op: Operator, row: dict[str, Any]) -> None:
    from matplotlib.patches import FancyBboxPatch, Rectangle

    colour = BOUND_COLOURS[row["bound"]]
    style = "round,pad=0,rounding_size=0.06"
    outline = FancyBboxPatch((x, y), _BOX_W, _BOX_H, boxstyle=style, fc="white", ec=colour, lw=1.1, zorder=3)
    axes.add_patch(outline)
    share = Rectangle((x, y), _BOX_W * min(row["share"], 1.0), _BOX_H, color=colour, alpha=0.24, lw=0, zorder=3.5)
    axes.add_patch(share)
    share.set_clip_path(outline)
    left, right = x + 0.12, x + _BOX_W - 0.12
    figures = f"{_seconds(row['seconds'])}  ·  {percent_words(row['share'])}"
    _line_of(
        axes, left, right, y + 0.2, (display_name(row["name"]), _INK), (figures, _INK), 9.4, weights=("bold", "normal")
    )
    intensity = row["intensity"]
    words = [_extent_words(op), f"{_figure3(intensity)} FLOP/B" if intensity else ""]
    text = "  ·  ".join(word for word in words if word)
    _line_of(axes, left, right, y + 0.41, (_details(row), _SOFT), (text, _SOFT), 7.4)


def display_name(name: str) -> str:
    """Without the group of layers, which the frame says."""
    return name.removesuffix(f" [{_suffix(name)}]")


def _extent_words(op: Operator) -> str:
    if isinstance(op.dims, Heads) and op.dims.cap is not None:
        return f"≤ {op.dims.cap:,} tokens"
    return ""


def _details(row: dict[str, Any]) -> str:
    """FLOPs and the bytes that there are, the large before the small."""
    words = {"weight_bytes": "weights", "kv_bytes": "KV", "act_bytes": "activations", "comm_bytes": "over the link"}
    sizes = sorted(((row[key], word) for key, word in words.items() if row[key]), reverse=True)
    parts = [format_quantity(row["flops"], "FLOP")] if row["flops"] else []
    # What is less than a hundredth of the bytes tells nothing.
    parts += [f"{format_quantity(size, 'B')} {word}" for size, word in sizes if size * 100 >= sizes[0][0]]
    return "  ·  ".join(parts)


def _figure3(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _seconds(seconds: float) -> str:
    return format_quantity(seconds, "s")
