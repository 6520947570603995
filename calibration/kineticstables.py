"""Tables of `kinesim calibrate kinetics-h200` on a terminal. Computes nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from calibration.errortables import percent, plain_table
from calibration.kinetics import Point
from calibration.kineticsparts import short


def _column(table: Any, name: str) -> None:
    """Numbers are never cut; a model's name is where the terminal is too narrow."""
    if name == "model":
        table.add_column(name, overflow="ellipsis")
    else:
        table.add_column(name, justify="right", no_wrap=True)


def _simulated(point: Point) -> str:
    return f"{point.simulated.speedup:.2f}x ({point.simulated.attention_speedup:.2f}x)"


def _both(name: str) -> Callable[[Point], str]:
    def cell(point: Point) -> str:
        theirs = None if point.measured is None else point.measured.figures()[name]
        return f"{getattr(point.simulated, name):.2f} / " + ("-" if theirs is None else f"{theirs:.2f}x")

    return cell


def grids(console: Any, points: Sequence[Point], measured: bool) -> list[Any]:
    """The grids of all points but the paper's: as wide as they are best read where the terminal has the room, else with
    bare numbers, the layer and its attention one below the other.
    """
    shown = [point for point in points if not point.of_paper]
    if not shown:
        return []
    parts = (("speedup", "a decode layer"), ("attention_speedup", "its attention alone"))
    if measured:
        wide = [_grid(shown, f"Speed-up of {what}: simulated / measured", _both(name)) for name, what in parts]
        narrow = [_grid(shown, f"Speed-up of {what}: simulated/measured", _bare(name, True)) for name, what in parts]
    else:
        wide = [_grid(shown, "Simulated speed-up of a decode layer, and (of its attention alone)", _simulated)]
        narrow = [_grid(shown, f"Simulated speed-up of {what}", _bare(name, False)) for name, what in parts]
    room = console.options.update(width=10_000)
    return wide if max(console.measure(grid, options=room).maximum for grid in wide) <= console.width else narrow


def _bare(name: str, measured: bool) -> Callable[[Point], str]:
    """Numbers of three digits, so that five batches fit into 80 columns."""

    def cell(point: Point) -> str:
        ours = getattr(point.simulated, name)
        if not measured:
            return f"{ours:.2f}"
        theirs = None if point.measured is None else point.measured.figures()[name]
        return _digits(ours) + "/" + ("-" if theirs is None else _digits(theirs))

    return cell


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}"


def _grid(shown: Sequence[Point], title: str, cell: Callable[[Point], str]) -> Any:
    """Models, shares and contexts down, batches across."""
    batches = sorted({point.batch for point in shown})
    table = plain_table(title)
    for name in ("model", "TP", "context", *(f"batch {batch:,}" for batch in batches)):
        _column(table, name)
    rows: dict[tuple[str, int, int], dict[int, Point]] = {}
    for point in shown:
        rows.setdefault((point.model, point.tp, point.context), {})[point.batch] = point
    before: tuple[str, int] | None = None
    for (model, tp, context), line in rows.items():
        fresh = (model, tp) != before
        before = (model, tp)
        cells = [cell(line[batch]) if batch in line else "-" for batch in batches]
        table.add_row(short(model) if fresh else "", str(tp) if fresh else "", f"{context:,}", *cells)
    return table


def papers_table(points: Sequence[Point]) -> Any:
    table = plain_table("The paper's points: one layer, TP 8's share of the heads")
    for name in ("model", "batch", "context", "layer", "attention", "bytes of KV"):
        _column(table, name)
    for point in (p for p in points if p.of_paper):
        cells = (_both("speedup")(point), _both("attention_speedup")(point))
        if point.measured is None:
            cells = (f"{point.simulated.speedup:.1f}x", f"{point.simulated.attention_speedup:.1f}x")
        table.add_row(short(point.model), f"{point.batch:,}", f"{point.context:,}", *cells, f"{point.bytes_ratio:.1f}x")
    return table


_NAMES = {
    "speedup": "speed-up of the layer",
    "attention_speedup": "speed-up of the attention",
    "dense_us": "time of the dense layer",
    "sparse_us": "time of the block top-k layer",
}


def errors_table(errors: dict[str, Any]) -> Any:
    table = plain_table(f"Simulated against measured, {errors['points']:,} points")
    for name in ("", "mean error", "worst", "bias"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for key, words in _NAMES.items():
        if errors[key] is not None:
            found = errors[key]
            table.add_row(words, percent(found["mean"]), percent(found["worst"]), percent(found["bias"], True))
    return table


def worst_table(points: Sequence[Point], count: int = 10) -> Any:
    """Where the simulated speed-up of the layer is off the most."""
    off = [(errors["speedup"], point) for point in points if (errors := point.errors()) is not None]
    off.sort(key=lambda pair: -abs(pair[0] or 0.0))
    table = plain_table("Speed-ups that are off the most; dense, sparse: errors of the two layers' times")
    for name in ("model", "TP", "batch", "context", "simulated", "measured", "off", "dense", "sparse"):
        _column(table, name)
    for error, point in off[:count]:
        errors = point.errors() or {}
        assert point.measured is not None
        table.add_row(
            short(point.model), str(point.tp), f"{point.batch:,}", f"{point.context:,}",
            f"{point.simulated.speedup:.2f}x", f"{point.measured.speedup:.2f}x", percent(error, True),
            percent(errors["dense_us"], True), percent(errors["sparse_us"], True),
        )  # fmt: skip
    return table
