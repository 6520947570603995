"""The paper's experiment and whole layers against tables: tables are made from the simulation, never measured."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from calibration import kineticscommand, kineticsparts, kineticsplot, kineticstables
from calibration.errortables import console_of
from calibration.kinetics import best, error_summary, guess_words, measured_points, planned_points, rule_of_thumb
from calibration.layertables import KINETICS, read_layers
from calibration.layervalidation import cost_of, document, predict_layers
from calibration.measure.figures import Driver
from calibration.measure.layersizes import PAPER_POINTS
from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.layers import case_of
from simulator.layertime import layer_time

H200 = load_gpu("h200-sxm")
COST = cost_of(H200, "triton", None)
COMMON = {"gpu": "h200-sxm", "software": "triton", "kernel": "triton"}
DENSE = {"attention": "dense", "page": 0, "budget": 0}
SPARSE = {"attention": "block_topk", "page": 16, "budget": 1024}


def kinetics_row(attention: dict[str, Any], factor: float = 1.0, **given: object) -> dict[str, Any]:
    """A row with the simulated times, times `factor`."""
    row = {**COMMON, "model": "Qwen/Qwen3-0.6B", **attention, "dtype": "bf16", "kv_dtype": "bf16", "tp": 1}
    row |= {"batch": 16, "context_len": 8192, **given}
    time = layer_time(case_of(row), H200, COST)
    micro = {"latency_us": time.seconds * 1e6 * factor, "attention_us": time.attention_seconds * 1e6 * factor}
    return {**row, "layers": 4, **micro, "l2": "cold", "board_w": ""}


def layer_row(factor: float = 1.0, **given: object) -> dict[str, Any]:
    row = {**COMMON, "model": "Qwen/Qwen3-8B", **DENSE, "phase": "decode", "dtype": "bf16", "kv_dtype": "bf16", "tp": 1}
    row |= {"batch": 16, "query_len": 1, "context_len": 8192, **given}
    return {**row, "layers": 2, "latency_us": layer_time(case_of(row), H200, COST).seconds * 1e6 * factor}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


# ---- the experiment --------------------------------------------------------------------------------------------------


def test_simulated_points() -> None:
    points = planned_points(H200, COST)
    assert len(points) == len({(p.model, p.tp, p.batch, p.context) for p in points}) > 200
    papers = [p for p in points if p.of_paper]
    assert {(p.batch, p.context) for p in papers} == set(PAPER_POINTS) and {p.tp for p in papers} == {8}
    ratios = {p.context: p.bytes_ratio for p in papers}
    # 2 x 1,024 of 2 x 16,384 (32,768) vectors, one summary for 16 of them, and the new one's share.
    assert ratios[16_384] == pytest.approx(2 * 16_384 / (2 * 1024 + 1024), rel=2e-3)
    assert ratios[32_768] == pytest.approx(2 * 32_768 / (2 * 1024 + 2048), rel=2e-3)
    for point in points:
        times = point.simulated
        rest = times.dense - times.dense_attention
        assert rest == pytest.approx(times.sparse - times.sparse_attention), "all but the attention is the same"
        assert times.attention_speedup < point.bytes_ratio * 1.05, "kernels of one stack do not beat the bytes"
        assert point.measured is None and point.errors() is None
    assert error_summary(points) is None
    assert not best(points, "speedup", whole_models=True).of_paper


def test_measured_beside_simulated(tmp_path: Path) -> None:
    """Speed-ups and errors of a table whose dense layers take 10 % longer than simulated, sparse ones 20 %."""
    rows = []
    for context in (4096, 32_768):
        rows += [kinetics_row(DENSE, 1.1, context_len=context), kinetics_row(SPARSE, 1.2, context_len=context)]
    rows.append(kinetics_row(DENSE, 1.3, batch=4))  # without its partner
    rows.append({**kinetics_row(SPARSE, batch=64), "latency_us": ""})  # failed
    table = read_layers(write(tmp_path / "kinetics.csv", rows), KINETICS)
    points, unpaired = measured_points(table, H200, COST)
    assert (len(points), unpaired) == (2, 1)
    for point in points:
        assert point.measured is not None
        errors = point.errors() or {}
        assert errors["dense_us"] == pytest.approx(1 / 1.1 - 1)
        assert errors["sparse_us"] == pytest.approx(1 / 1.2 - 1)
        for name in ("speedup", "attention_speedup"):
            assert errors[name] == pytest.approx(1.2 / 1.1 - 1)
    summary = error_summary(points)
    assert summary is not None and summary["points"] == 2
    assert summary["speedup"]["worst"] == pytest.approx(1.2 / 1.1 - 1)


def test_repeated_rows_count_by_their_median(tmp_path: Path) -> None:
    rows = [kinetics_row(DENSE, factor) for factor in (1.0, 1.02, 9.0)] + [kinetics_row(SPARSE)]
    table = read_layers(write(tmp_path / "k.csv", rows), KINETICS)
    (point,), unpaired = measured_points(table, H200, COST)
    assert unpaired == 0 and (point.errors() or {})["dense_us"] == pytest.approx(1 / 1.02 - 1)


def test_attention_may_be_missing(tmp_path: Path) -> None:
    rows = [{**kinetics_row(kind), "attention_us": ""} for kind in (DENSE, SPARSE)]
    (point,), _ = measured_points(read_layers(write(tmp_path / "k.csv", rows), KINETICS), H200, COST)
    assert point.measured is not None and point.measured.figures()["attention_speedup"] is None
    assert (point.errors() or {})["attention_speedup"] is None
    kineticsplot.draw([point], tmp_path / "figures", gpu="h200-sxm", profile="p")


def test_figures(tmp_path: Path) -> None:
    """Both figures, with and without measurements; what they say is in the SVG as text."""
    rows = [kinetics_row(kind, context_len=c, model=m) for m in ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B")
            for c in (4096, 16_384) for kind in (DENSE, SPARSE)]  # fmt: skip
    measured, _ = measured_points(read_layers(write(tmp_path / "k.csv", rows), KINETICS), H200, COST)
    for folder, points, words, absent in (
        (
            "simulated",
            planned_points(H200, COST),
            ("not measured", "25x: what the paper reports", "2506.05333"),
            "points: measured",
        ),
        ("measured", measured, ("points: measured", "Qwen3-8B"), "2506.05333"),  # no share of TP 8 in it
    ):
        written = kineticsplot.draw(points, tmp_path / folder, gpu="h200-sxm", profile="some-profile")
        assert [path.name for path in written] == kineticsplot.file_names()
        text = (tmp_path / folder / "kinetics-speedup.svg").read_text()
        assert all(word in text for word in words) and absent not in text
        assert "some-profile" in text and ("page_scores" in text) == (guess_words(points) is not None)
        assert (tmp_path / folder / "kinetics-parts.png").read_bytes()[:4] == b"\x89PNG"
    again = kineticsplot.draw(measured, tmp_path / "again", gpu="h200-sxm", profile="some-profile")
    assert all(path.read_bytes() == (tmp_path / "measured" / path.name).read_bytes() for path in again)


def test_figures_of_few_points() -> None:
    """No empty panels, no text beyond the edges; the paper's line only where the paper says something."""
    points = planned_points(H200, COST)
    one = [point for point in points if point.model == "Qwen/Qwen3-8B"]
    for some in (one, [point for point in points if point.of_paper][:1], one[:1]):
        figure = kineticsplot.speedup_figure(some, "h200-sxm", "a profile")
        assert all(axes.lines for axes in figure.axes) and len(figure.axes) == len({point.tp for point in some})
        renderer = figure.canvas.get_renderer()
        for drawn in (figure, kineticsparts.parts_figure(some, "h200-sxm", "a profile")):
            for text in [*drawn.texts, *drawn.legends, *(text for axes in drawn.axes for text in axes.texts)]:
                box = text.get_window_extent(renderer)
                assert box.x0 >= 0 and box.x1 <= drawn.bbox.x1, text
    first, second = kineticsplot.speedup_figure(one, "h200-sxm", "a profile").axes
    at_25 = [[line for line in axes.lines if set(line.get_ydata()) == {25.0}] for axes in (first, second)]
    assert [len(lines) for lines in at_25] == [0, 1], "TP 1, TP 8"


def test_what_a_rule_of_thumb_times() -> None:
    points = [p for p in planned_points(H200, COST) if p.model == "Qwen/Qwen3-0.6B"]
    found = rule_of_thumb(points)
    guessed = found is not None and set(found["operators"])
    if guessed:  # as long as the GPU has no profile of this package's own kernels
        assert found is not None and "page_scores" in guessed and "attention_decode" not in guessed
        assert 0 < found["block_topk"][0] <= found["paper_block_topk"][0] <= found["block_topk"][1] < 1
        assert "page_scores" in (guess_words(points) or "")
    for point in points:
        shares = point.guessed_share
        assert shares is not None and all(0 <= share < 1 for share in shares)
    rooflines = [p for p in planned_points(H200, cost_of(H200, "triton", "ideal")) if p.model == "Qwen/Qwen3-0.6B"]
    assert rule_of_thumb(rooflines) is None and guess_words(rooflines) is None


@pytest.mark.parametrize("measured", [False, True])
def test_grids_fit_into_80_columns(measured: bool, tmp_path: Path) -> None:
    """Bare numbers where the wide table does not fit; nothing is cut; none where all points are the paper's."""
    points = [p for p in planned_points(H200, COST) if p.model == "Qwen/Qwen3-0.6B"]
    if measured:
        rows = [kinetics_row(k, batch=p.batch, context_len=p.context, tp=p.tp) for p in points for k in (DENSE, SPARSE)]
        points, _ = measured_points(read_layers(write(tmp_path / "k.csv", rows), KINETICS), H200, COST)
    console = console_of()
    for width, count in ((80, 2), (120, 2 if measured else 1)):
        console.width = width
        found = kineticstables.grids(console, points, measured)
        assert len(found) == count
        with console.capture() as seen:
            for grid in found:
                console.print(grid)
        text = seen.get()
        assert "\N{HORIZONTAL ELLIPSIS}" not in text and "65,536" in text and " TP " in text
        assert max(map(len, text.splitlines())) <= width and ("x" in text.split("65,536")[1]) == (width == 120)
    assert kineticstables.grids(console, [p for p in points if p.of_paper], measured) == []


def test_command_without_a_gpu(tmp_path: Path, kinesim: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated only, and it says so: in the table, the document and the figures."""
    monkeypatch.setattr("calibration.measurecommand.find_driver", lambda: (None, "no driver"))
    done = kinesim("calibrate", "kinetics-h200", "--out", str(tmp_path / "out"))
    assert (done.code, done.err) == (0, "")
    for word in (
        "Nothing was measured", "kinesim calibrate measure --plan kinetics", "Qwen3-32B", "batch 256", "h200-sxm@",
        "largest simulated", "where the whole model fits", "The paper's points", "25.9x to 26.2x",
    ):  # fmt: skip
        assert word in done.out, word
    assert "simulated / measured" not in done.out and max(map(len, done.out.splitlines())) <= 150
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"kinetics.json", *kineticsplot.file_names()}
    answer = json.loads((tmp_path / "out" / "kinetics.json").read_text())
    assert answer["schema"] == "kinesim-kinetics/1" and answer["measured"] is None and answer["errors"] is None
    assert answer["largest_measured"] is None and set(answer["rule_of_thumb"]) >= {"operators", "block_topk"}
    assert ("Timed by a rule of thumb" in done.out) == bool(answer["rule_of_thumb"]["operators"])
    assert all(point["measured"] is None and point["error"] is None for point in answer["points"])
    assert json.loads(kinesim("calibrate", "kinetics-h200", "--out", str(tmp_path), "--format", "json").out) == answer


def test_command_with_a_table(tmp_path: Path, kinesim: Callable[..., Any]) -> None:
    """A file, or the folder that has it; every point's measurement, prediction and error."""
    rows = [
        kinetics_row(kind, factor, batch=batch) for kind, factor in ((DENSE, 1.05), (SPARSE, 1.0)) for batch in (4, 64)
    ]
    write(tmp_path / "kinetics.csv", rows)
    for given in (tmp_path, tmp_path / "kinetics.csv"):
        done = kinesim("calibrate", "kinetics-h200", "--measured", str(given), "--out", str(tmp_path / "out"))
        assert (done.code, done.err) == (0, "")
        for word in (
            "2 points",
            "largest measured",
            "mean error",
            "worst",
            "simulated / measured",
            "off the most",
            "-4.8 %",
        ):
            assert word in done.out, word
        assert "Nothing was measured" not in done.out
    answer = json.loads((tmp_path / "out" / "kinetics.json").read_text())
    assert [point["batch"] for point in answer["points"]] == [4, 64]
    assert answer["largest_measured"]["speedup"]["batch"] == 64
    assert all(point["error"]["speedup"] == pytest.approx(1 / 1.05 - 1) for point in answer["points"])
    assert answer["errors"]["speedup"]["mean"] == pytest.approx(1 - 1 / 1.05)


def test_only_gpus_that_can_be_measured_are_said_to_be(tmp_path: Path, kinesim: Callable[..., Any]) -> None:
    done = kinesim("calibrate", "kinetics-h200", "--gpu", "mi300x", "--out", str(tmp_path / "out"))
    assert (done.code, done.err) == (0, "") and "Nothing was measured" in done.out
    assert "calibrate measure" not in done.out


class _Measured(Exception):
    """Raised by the stand-in for the measuring command."""


def test_measures_only_the_gpu_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Driver("NVIDIA H200", 132, 90, 50 * 2**20, 143_771 * 2**20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("calibration.measurecommand.find_driver", lambda: (here, ""))
    monkeypatch.setattr("calibration.measurecommand.NEEDED", ("json",))
    asked: list[dict[str, Any]] = []

    def measure(**options: Any) -> None:
        asked.append(options)
        print("a summary")
        options["out"].mkdir(parents=True, exist_ok=True)
        write(options["out"] / "kinetics.csv", [kinetics_row(DENSE), kinetics_row(SPARSE)])

    monkeypatch.setattr("calibration.measurecommand.measure", measure)
    assert kineticscommand.measure_here(load_gpu("b200-sxm")) is None
    said = capsys.readouterr()
    assert asked == [] and "NVIDIA H200 and not b200-sxm" in said.err
    table = kineticscommand.measure_here(H200, minutes=3.0)
    said = capsys.readouterr()
    assert said.out == "" and "a summary" in said.err, "a document on stdout stays one"
    (options,) = asked
    assert (options["kind"], options["gpu"], options["minutes"]) == ("kinetics", "h200-sxm", 3.0)
    assert table == options["out"] / "kinetics.csv"
    monkeypatch.setattr("calibration.measurecommand.NEEDED", ("no_such_module",))
    assert kineticscommand.measure_here(H200) is None
    assert "no_such_module" in capsys.readouterr().err


# ---- whole layers ----------------------------------------------------------------------------------------------------


def layers() -> list[dict[str, Any]]:
    rows = [layer_row(1.1, batch=batch, context_len=context) for batch in (1, 16) for context in (2048, 16_384)]
    rows += [layer_row(1.1, **SPARSE), layer_row(0.8, phase="prefill", batch=1, query_len=2048, context_len=0)]
    return rows


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_validate_layers(suffix: str, tmp_path: Path, kinesim: Callable[..., Any]) -> None:
    """Known errors come out, by every key; the rows are written with their predictions."""
    table = write(tmp_path / "layer.csv", [*layers(), {**layer_row(), "latency_us": ""}])
    if suffix == ".parquet":
        pq.write_table(pacsv.read_csv(table), tmp_path / "layer.parquet")
        table = tmp_path / "layer.parquet"
    out = tmp_path / f"predicted{suffix}"
    done = kinesim("validate", "layers", str(table), "--out", str(out), "--format", "json")
    assert (done.code, done.err) == (0, "")
    answer = json.loads(done.out)
    assert (answer["schema"], answer["rows"]) == ("kinesim-validate-layers/1", 7)
    latency = answer["latency"]
    assert latency["all"]["rows"] == 6
    assert latency["all"]["median"] == pytest.approx(1 - 1 / 1.1)
    by = {group["phase"]: group for group in latency["by"]["phase"]}
    assert by["decode"]["bias"] == pytest.approx(1 / 1.1 - 1) and by["prefill"]["bias"] == pytest.approx(0.25)
    assert {group["attention"] for group in latency["by"]["attention"]} == {"dense", "block_topk"}
    assert [group["batch"] for group in latency["by"]["batch"]] == ["1", "16"]
    assert [group["context"] for group in latency["by"]["context"]] == ["0", "2,048", "8,192", "16,384"]
    assert latency["worst_rows"][0]["row"] == 5 and latency["worst_rows"][0]["phase"] == "prefill"
    for group in answer["shares"]:
        assert sum(group["operators"].values()) == pytest.approx(1)
    assert {(g["phase"], g["attention"], g["rows"]) for g in answer["shares"]} == {
        ("decode", "dense", 5), ("decode", "block_topk", 1), ("prefill", "dense", 1),
    }  # fmt: skip
    written = pacsv.read_csv(out) if suffix == ".csv" else pq.read_table(out)
    assert written.num_rows == 7 and set(written.column_names) >= {"layers", "predicted_us", "bound", "profile"}
    measured, predicted = (written.column(n).to_pylist()[:5] for n in ("latency_us", "predicted_us"))
    assert np.array(measured) / np.array(predicted) == pytest.approx(1.1, rel=1e-5)


def test_validate_layers_on_a_terminal(tmp_path: Path, kinesim: Callable[..., Any]) -> None:
    table = str(write(tmp_path / "layer.csv", layers()))
    done = kinesim("validate", "layers", table)
    assert (done.code, done.err) == (0, "")
    for word in (
        "6 layers", "Errors of the whole layer", "By phase", "By attention", "off the most", "+25.0 %", "gate_up_proj",
        "decode, block_topk", "h200-sxm@",
    ):  # fmt: skip
        assert word in done.out, word
    ideal = kinesim("validate", "layers", table, "--profile", "ideal")
    assert "timed by ideal (6)" in ideal.out
    bare = [{name: value for name, value in row.items() if name != "latency_us"} for row in layers()]
    assert "Nothing was measured" in kinesim("validate", "layers", str(write(tmp_path / "bare.csv", bare))).out


def test_profile_of_the_rows_own_software(tmp_path: Path) -> None:
    """Left alone, a row is timed by the profile of its GPU and software."""
    rows = [layer_row(), {**layer_row(), "software": "sglang-0.5.14"}]
    table = read_layers(write(tmp_path / "layer.csv", rows))
    times, names = predict_layers(table)
    assert names[1] == "h200-sxm@sglang-0.5.14" != names[0]
    assert document(table, times, names)["profiles"] == dict.fromkeys(names, 1)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "Qwen/Qwen3-9B"}, (":3: column model", "unknown model", "Qwen/Qwen3-8B")),
        ({"attention": "topk"}, (":3: column attention", "block_topk")),
        ({"phase": "both"}, (":3: column phase", "prefill")),
        ({"dtype": "fp8"}, (":3: column dtype", "bf16")),
        ({"tp": 3}, (":3: column tp", "does not divide")),
        ({"tp": 0}, (":3: column tp", "zero or negative")),
        ({"batch": ""}, (":3: column batch", "is empty")),
        ({"context_len": 0}, (":3: column context_len", "among those attended")),
        ({"context_len": 1.5}, (":3: column context_len", "not a whole number")),
        ({"attention": "block_topk"}, (":3: column page", "block_topk chooses pages")),
        ({"latency_us": -1}, (":3: column latency_us", "zero or negative")),
        ({"gpu": "h300"}, (":3: column gpu", "unknown GPU")),
    ],
)
def test_bad_cells(change: dict[str, Any], words: tuple[str, ...], tmp_path: Path, kinesim: Callable[..., Any]) -> None:
    table = write(tmp_path / "t.csv", [layer_row(), {**layer_row(), **change}])
    done = kinesim("validate", "layers", str(table), "--out", str(tmp_path / "out.csv"))
    assert done.code == 2 and done.out == "" and "Traceback" not in done.err
    assert all(word in done.err for word in ("t.csv", *words)), done.err
    assert not (tmp_path / "out.csv").exists()


def test_bad_tables(tmp_path: Path, kinesim: Callable[..., Any]) -> None:
    good = write(tmp_path / "layer.csv", layers())
    kinetics = write(tmp_path / "kinetics.csv", [kinetics_row(DENSE), kinetics_row(SPARSE)])
    alone = write(tmp_path / "alone.csv", [kinetics_row(DENSE)])
    empty = tmp_path / "empty.csv"
    empty.write_text(good.read_text().splitlines()[0] + "\n")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    out = str(tmp_path / "out")
    for arguments, words in (
        (("validate", "layers", str(kinetics)), ("a table of the experiment", "kinetics.csv")),
        (("validate", "layers", str(tmp_path / "no.csv")), ("no such file",)),
        (("validate", "layers", str(empty)), ("has no rows",)),
        (("validate", "layers", str(tmp_path / "other.parquet")), ("are missing", "other.parquet")),
        (("validate", "layers", str(good), "--out", str(good)), ("is the table itself", "--out")),
        (("validate", "layers", str(good), "--profile", "nope"), ("unknown profile", "--profile")),
        (("calibrate", "kinetics-h200", "--measured", str(good), "--out", out), ("layers of any phase",)),
        (("calibrate", "kinetics-h200", "--measured", str(alone), "--out", out), ("alone.csv", "block_topk")),
        (("calibrate", "kinetics-h200", "--measured", str(kinetics), "--gpu", "b200-sxm", "--out", out),
         ("no point of b200-sxm", "h200-sxm")),
        (("calibrate", "kinetics-h200", "--gpu", "h300", "--out", out), ("--gpu", "unknown GPU")),
        (("calibrate", "kinetics-h200", "--profile", "nope", "--out", out), ("--profile", "unknown profile")),
        (("calibrate", "kinetics-h200", "--measured", str(kinetics), "--out", str(good)), ("not a folder",)),
        (("calibrate", "kinetics-h200", "--measured", str(tmp_path / "no"), "--out", out), ("no",)),
    ):  # fmt: skip
        done = kinesim(*arguments)
        assert done.code == 2 and "Traceback" not in done.err, (arguments, done.err)
        assert all(word in done.err for word in words), done.err
        assert not Path(out).exists()
    with pytest.raises(InputError):
        read_layers(alone)
