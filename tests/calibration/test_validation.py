"""`kinesim validate kernels`: errors, warnings, files and figures, with predictions that are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from calibration import plots, validation
from calibration.axes import axes_of
from calibration.kinds import KINDS
from calibration.tables import KernelTable, read_kernels
from calibration.validation import along, by, document, errors_of, summary, unit_warning, worst_regimes
from hwspecs.errors import InputError
from simulator.kernels.registry import MODELS
from simulator.predict import Predictions

RNG = np.random.default_rng(0)


def predictions(seconds: np.ndarray, watts: float = np.nan) -> Predictions:
    n = len(seconds)
    bound = np.array(["memory", "compute"], dtype=object)[np.arange(n) % 2]
    names = (np.full(n, text, dtype=object) for text in ("h200-sxm@vllm-0.24.0", "interpolated"))
    return Predictions(seconds, seconds * 0.9, seconds * 1.1, np.full(n, watts), bound, *names)


def gemm_file(folder: Path, rows: int = 400, file: str = "t.parquet", **columns: object) -> Path:
    shape = {c: (2 ** RNG.integers(0, 13, rows)).astype(np.int32) for c in "mnk"}
    texts = {
        "gpu": ["h200-sxm", "b200-sxm"],
        "software": ["vllm-0.24.0"],
        "kernel": ["a", "b"],
        "dtype": ["bf16", "fp8"],
    }
    made = {c: pa.array([options[i % len(options)] for i in range(rows)]) for c, options in texts.items()}
    latency = 2.0 + shape["m"].astype(float) * shape["n"] * shape["k"] / 1e7
    table = pa.table({**made, **shape, "latency_us": latency, **columns})
    (pq.write_table if file.endswith("parquet") else pacsv.write_csv)(table, folder / file)
    return folder / file


@pytest.fixture
def table(tmp_path: Path) -> KernelTable:
    return read_kernels(gemm_file(tmp_path))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that take 2 us and what their work takes at 20 TFLOP/s, as in `gemm_file`, 5 % too slow."""

    def predict(kind: str, columns: dict[str, np.ndarray], *, profile: object = None) -> Predictions:
        assert kind == "gemm"
        return predictions(1.05e-6 * (2 + columns["m"] * columns["n"] * columns["k"] / 1e7), watts=400.0)

    monkeypatch.setattr(validation, "predict_kernels", predict)


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_what_an_error_is(tmp_path: Path) -> None:
    rows = read_kernels(gemm_file(tmp_path, 4, latency_us=[10.0, 10.0, 10.0, None]))
    errors = errors_of(rows, predictions(np.array([10.5e-6, 50e-6, np.nan, 1e-6])))
    assert errors.rows.tolist() == [0, 1, 2]
    np.testing.assert_allclose(errors.error, [0.05, 1.0, 1.0])
    assert errors.covered.tolist() == [True, False, False]
    said = summary(errors)
    assert said["rows"] == 3 and said["mean"] == pytest.approx(2.05 / 3) and said["bias"] == pytest.approx(2.025)


def test_groups_add_up_to_the_whole(table: KernelTable) -> None:
    errors = errors_of(table, predictions(table.seconds * RNG.uniform(0.8, 1.2, len(table))))
    whole = summary(errors)
    for groups in validation.error_tables(errors).values():
        assert sum(g["rows"] for g in groups) == whole["rows"]
        for name in ("mean", "covered"):
            assert sum(g["rows"] * g[name] for g in groups) == pytest.approx(whole["rows"] * whole[name])
    assert [g["gpu"] for g in by(errors, "gpu")] == ["b200-sxm", "h200-sxm"]


def test_the_weak_regime_is_found(table: KernelTable) -> None:
    seconds = table.seconds * 1.01
    weak = (table.columns["dtype"] == "fp8") & (table.seconds < 1e-5)
    seconds[weak] *= 1.4
    found = worst_regimes(errors_of(table, predictions(seconds)))
    assert (found[0]["dtype"], found[0]["kernel"]) == ("fp8", "b")
    assert "below 10 us" in found[0]["regime"]
    assert found == sorted(found, key=lambda g: -g["mean"])


def test_along_an_axis(table: KernelTable) -> None:
    off = 0.1 + 0.02 * np.log2(table.columns["m"])
    errors = errors_of(table, predictions(table.seconds * (1 + off)))
    line = along(errors, table.columns["m"])
    np.testing.assert_allclose(line["at"], np.unique(table.columns["m"]))
    for name in ("p10", "median", "p90", "mean"):
        np.testing.assert_allclose(line[name], 0.1 + 0.02 * np.log2(line["at"]))
    assert sum(line["rows"]) == len(table)
    wide = along(errors, 1.0 + np.arange(len(table)) ** 3.0)
    assert len(wide["at"]) <= validation.BANDS and sum(wide["rows"]) == len(table)


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_has_axes_and_a_map(kind: str) -> None:
    n = 3
    columns = {name: np.full(n, 2.0) for name in KINDS[kind].shape}
    rows = KernelTable(kind, Path("x"), columns, np.ones(n), np.ones(n), {})
    axes = axes_of(rows)
    assert set(plots.MAPS[kind]) <= {name for name, _, _ in axes}
    assert all(values.shape == (n,) and (values > 0).all() for _, _, values in axes)


# ---- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "factor, words",
    [
        (1.0, None),
        (1.6, None),
        (1e-3, "1,000 times smaller than predicted, in all rows alike; is it in milliseconds?"),
        (1.7e-3, "is it in milliseconds?"),
        (1e-6, "is it in seconds?"),
        (1e3, "1,000 times larger than predicted, in all rows alike; is it in nanoseconds?"),
        (1e2, "100 times larger than predicted, in all rows alike; is its unit right?"),
        (0.3e-3, None),
    ],
)
def test_a_mistaken_unit(factor: float, words: str | None, table: KernelTable) -> None:
    noisy = table.seconds / factor * RNG.lognormal(0, 0.3, len(table))
    said = unit_warning(table, errors_of(table, predictions(noisy)))
    assert (said is None) == (words is None)
    if said is not None:
        assert words in said and f"{table.path}: column latency_us" in said and "microseconds" in said


def test_no_warning_if_only_some_rows_are_off(table: KernelTable) -> None:
    seconds = table.seconds.copy()
    seconds[::3] *= 1e3
    assert unit_warning(table, errors_of(table, predictions(seconds))) is None
    assert (
        unit_warning(table, errors_of(table, predictions(table.seconds * 1e3 ** RNG.uniform(0, 2, len(table))))) is None
    )


# ---- files -----------------------------------------------------------------------------------------------------------

ADDED = list(validation.ADDED)


def test_csv_keeps_every_character(tmp_path: Path, known: None) -> None:
    text = "id,gpu,software,kernel,dtype,m,n,k,latency_us\n"
    text += "007,h200-sxm,a,b,bf16,0016,32.0,64,3.50\nx,h200-sxm,a,b,bf16,1,2,3,\n"
    (tmp_path / "t.csv").write_text(text)
    rows = read_kernels(tmp_path / "t.csv")
    validation.write_predictions(rows, validation.predict_table(rows), tmp_path / "o.csv")
    lines = (tmp_path / "o.csv").read_text().splitlines()
    assert lines[0] == text.splitlines()[0] + "," + ",".join(ADDED)
    assert all(line.startswith(was) for line, was in zip(lines, text.splitlines(), strict=True))
    assert lines[1].endswith(",400,memory,h200-sxm@vllm-0.24.0,interpolated")


def test_parquet_keeps_order_types_and_columns(tmp_path: Path, known: None) -> None:
    rows = 300
    extra = {"note": pa.array(["x, y"] * rows), "list": pa.array([[1, 2]] * rows), "row": np.arange(rows)}
    path = gemm_file(tmp_path, rows, gpu=pa.array(["h200-sxm"] * rows).dictionary_encode(), **extra)
    table = read_kernels(path)
    validation.write_predictions(table, validation.predict_table(table), tmp_path / "o.parquet")
    before, after = pq.read_table(path), pq.read_table(tmp_path / "o.parquet")
    assert after.column_names == before.column_names + ADDED
    assert after.select(before.column_names).equals(before)
    np.testing.assert_allclose(after["predicted_us"], 1.05 * before["latency_us"].to_numpy(), rtol=1e-6)
    with pytest.raises(InputError, match="list"):
        validation.write_predictions(table, validation.predict_table(table), tmp_path / "o.csv")


def test_from_csv_to_parquet_and_back(tmp_path: Path, known: None) -> None:
    path = gemm_file(tmp_path, 50, "t.csv", name=pa.array(["a,b"] * 50))
    rows = read_kernels(path)
    validation.write_predictions(rows, validation.predict_table(rows), tmp_path / "o.parquet")
    there = pq.read_table(tmp_path / "o.parquet")
    assert there.schema.field("m").type == pa.int64() and there.schema.field("latency_us").type == pa.float64()
    again = read_kernels(tmp_path / "o.parquet")
    validation.write_predictions(again, validation.predict_table(again), tmp_path / "p.csv")
    third = read_kernels(tmp_path / "p.csv")
    assert third.raw.column_names == there.column_names, "columns of predictions are replaced, not doubled"
    np.testing.assert_array_equal(third.seconds, rows.seconds)
    assert third.raw["name"][0].as_py() == "a,b"


def test_rows_without_a_prediction_stay_empty(tmp_path: Path, table: KernelTable) -> None:
    seconds = table.seconds.copy()
    seconds[3] = np.nan
    validation.write_predictions(table, predictions(seconds), tmp_path / "o.parquet")
    out = pq.read_table(tmp_path / "o.parquet")
    assert out["predicted_us"].null_count == 1 and out["predicted_us"][3].as_py() is None
    assert out["predicted_w"].null_count == len(table)


def test_chunks_are_put_together(table: KernelTable, known: None, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = validation.predict_table(table)
    monkeypatch.setattr(validation, "CHUNK", 64)
    seen: list[tuple[int, int]] = []
    parts = validation.predict_table(table, report=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(parts.seconds, whole.seconds)
    assert len(parts.status) == len(table) and seen[-1] == (400, 400) and len(seen) == 7


# ---- the answer ------------------------------------------------------------------------------------------------------


def test_the_document(tmp_path: Path, known: None) -> None:
    rows = read_kernels(gemm_file(tmp_path, power_w=[380.0] * 400))
    answer = json.loads(json.dumps(document(rows, validation.predict_table(rows)), allow_nan=False))
    assert answer["schema"] == validation.SCHEMA and answer["kind"] == "gemm" and answer["rows"] == 400
    assert answer["latency"]["all"]["mean"] == pytest.approx(0.05)
    assert answer["latency"]["all"]["bias"] == pytest.approx(0.05)
    assert answer["latency"]["all"]["covered"] == 1
    assert answer["power"]["all"]["mean"] == pytest.approx(20 / 380) and answer["power"]["all"]["covered"] is None
    assert set(answer["latency"]["by"]) == {"gpu", "software", "kernel", "dtype", "regime", "profile", "status"}
    assert sum(entry["rows"] for entry in answer["predictions"]) == 400
    page = (Path(__file__).resolve().parents[2] / "docs/kernel-tables.md").read_text()
    for name in (*answer, *answer["latency"], *answer["latency"]["all"], *answer["predictions"][0], *ADDED):
        assert f"`{name}`" in page, name


def test_the_command(tmp_path: Path, known: None, kinesim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gemm_file(tmp_path)
    (tmp_path / "o.csv").write_text("old")
    done = kinesim("validate", "kernels", "t.parquet", "--out", "o.csv", "--plots", "figures")
    assert (done.code, done.err) == (0, "")
    for words in ("400 rows of gemm", "mean 5.0 %", "bias +5.0 %", "By dtype", "Weakest", "written: o.csv"):
        assert words in done.out
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 401
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["gemm-error.png", "gemm-map.png", "gemm-predicted.png"]
    told = kinesim("validate", "kernels", "t.parquet", "--format", "json")
    assert json.loads(told.out)["latency"]["all"]["rows"] == 400


def test_the_command_warns_of_milliseconds(tmp_path: Path, known: None, kinesim) -> None:
    path = gemm_file(tmp_path)
    table = pq.read_table(path)
    wrong = pa.array(table["latency_us"].to_numpy() / 1e3)
    pq.write_table(table.set_column(table.schema.get_field_index("latency_us"), "latency_us", wrong), path)
    done = kinesim("validate", "kernels", str(path), "--format", "json")
    assert done.code == 0 and done.err.count("\n") == 1
    assert "is it in milliseconds?" in done.err
    assert json.loads(done.out)["warnings"] == [done.err.removeprefix("kinesim: warning: ").strip()]


def test_predictions_only(tmp_path: Path, known: None, kinesim) -> None:
    path = gemm_file(tmp_path)
    pq.write_table(pq.read_table(path).drop_columns(["latency_us"]), path)
    done = kinesim("validate", "kernels", str(path), "--out", str(tmp_path / "o.parquet"))
    assert (done.code, done.err) == (0, "") and "predictions only" in done.out
    assert pq.read_table(tmp_path / "o.parquet").num_rows == 400


def test_a_failure_while_predicting_writes_nothing(tmp_path: Path, kinesim, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Predictions:
        raise InputError("no profile", allowed="another")

    monkeypatch.setattr(validation, "predict_kernels", refuse)
    (tmp_path / "o.csv").write_text("old")
    done = kinesim(
        "validate",
        "kernels",
        str(gemm_file(tmp_path)),
        "--out",
        str(tmp_path / "o.csv"),
        "--plots",
        str(tmp_path / "p"),
    )
    assert done.code == 2
    assert (tmp_path / "o.csv").read_text() == "old" and not (tmp_path / "p").exists()


@pytest.mark.parametrize("rows", [1, 3, 400])
def test_figures_of_few_rows(rows: int, tmp_path: Path) -> None:
    table = read_kernels(gemm_file(tmp_path, rows))
    errors = errors_of(table, predictions(table.seconds * 1.03))
    paths = plots.draw_validation(table, errors, tmp_path / "p", "held-out shapes")
    assert [path.name for path in paths] == plots.file_names("gemm")
    first = [path.read_bytes() for path in paths]
    assert all(data.startswith(b"\x89PNG") and len(data) < 200_000 for data in first)
    assert [
        path.read_bytes() for path in plots.draw_validation(table, errors, tmp_path / "p", "held-out shapes")
    ] == first


def test_a_million_rows(tmp_path: Path, known: None) -> None:
    """Reading, comparing and writing take seconds, whatever predicting takes."""
    rows = 1_000_000
    small = pq.read_table(gemm_file(tmp_path, 1000))
    pq.write_table(pa.concat_tables([small] * (rows // 1000)), tmp_path / "big.parquet")
    table = read_kernels(tmp_path / "big.parquet")
    made = validation.predict_table(table)
    answer = document(table, made)
    validation.write_predictions(table, made, tmp_path / "o.parquet")
    assert answer["latency"]["all"]["rows"] == rows == pq.read_metadata(tmp_path / "o.parquet").num_rows
