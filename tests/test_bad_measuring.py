"""Bad input to what measures, and to what reads its tables, in the manner of `test_bad_input`: exit code 2, one message,
nothing written. The commands that are modules (`python -m ...`) speak as `kinesim` does.
"""

# ruff: noqa: E501  (a case a line)
from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from conftest import Outcome
from test_bad_input import Case, Files, check, contents, place_files

from calibration.measure.tablefiles import line_of
from calibration.measure.task import header

DRY = ("calibrate", "measure", "--dry-run", "--gpu", "h200-sxm", "--out", "m")
GEMM = {"gpu": "h200-sxm", "software": "triton", "kernel": "triton", "dtype": "bf16", "m": 64, "n": 4096, "k": 4096,
        "latency_us": 12.5, "l2": "cold", "baseline": "torch.matmul", "baseline_us": 11.0, "run": 1}  # fmt: skip
LAYER = {**GEMM, "model": "Qwen/Qwen3-8B", "attention": "dense", "phase": "decode", "kv_dtype": "bf16", "tp": 1, "batch": 16,
         "query_len": 1, "context_len": 8192, "page": 0, "budget": 0, "layers": 2, "attention_us": 6.0}  # fmt: skip
SPARSE = {"attention": "block_topk", "page": 16, "budget": 1024}
ROW = {
    **GEMM,
    "op": "rms_norm",
    "rows": 64,
    "row_bytes": 32768,
    "q_heads": 0,
    "kv_heads": 0,
    "head_dim": 0,
    "l2": "warm",
}
PAGES = {**LAYER, "op": "scores", "q_heads": 32, "kv_heads": 8, "head_dim": 128, "page": 16, "budget": 1024}
MACHINE = json.dumps({"name": "made up", "date": "2000-01-01T00:00:00Z"}) + "\n"


def table(name: str, *rows: dict[str, object]) -> str:
    """A table as the harness writes it."""
    columns = header(name)
    return line_of(columns) + "".join(line_of([row.get(c, "") for c in columns]) for row in rows)


def gemms(count: int = 12, **given: object) -> str:
    return table("gemm", *({**GEMM, "m": 16 * (i + 1), "latency_us": 5 + i, **given} for i in range(count)))


def measure(name: str, *argv: str, words: tuple[str, ...], files: Files | None = None) -> Case:
    return Case(name, (*DRY, *argv), words, files or {})


def held(name: str, content: str | bytes | None, *words: str, file: str = "m/gemm.csv") -> Case:
    """A folder that holds such a file already."""
    return Case(name, (*DRY, "--only", "gemm"), words, {file: content})


def gpu(name: str, text: str, *words: str) -> Case:
    """A GPU's file."""
    return Case(name, ("calibrate", "measure", "--dry-run", "--gpu", "./g.yaml"), words, {"g.yaml": text})


def layers(name: str, words: tuple[str, ...], **given: object) -> Case:
    """`kinesim validate layers` with a good row and one that is not."""
    content = table("layer", LAYER, {**LAYER, **given})
    return Case(name, ("validate", "layers", "t.csv", "--out", "out/t.csv"), words, {"t.csv": content})


def kinetics(name: str, content: str | None, *argv: str, words: tuple[str, ...]) -> Case:
    return Case(name, ("calibrate", "kinetics-h200", "--measured", "t.csv", *argv), words, {"t.csv": content})


def kernels(name: str, kind: str, row: dict[str, object], *words: str) -> Case:
    return Case(name, ("validate", "kernels", "t.csv", "--out", "out/t.csv"), words, {"t.csv": table(kind, row)})


def fit(name: str, words: tuple[str, ...], **files: str) -> Case:
    named = {f"{key}.csv": content for key, content in files.items()}
    return Case(name, ("calibrate", "fit", *named), words, dict(named))


POINT = table("kinetics", LAYER, {**LAYER, **SPARSE})

CASES = [
    # Options.
    *(measure(f"{text} minutes", "--minutes", text, words=("--minutes: not a time limit", f"found {found}", "minutes above 0"))
      for text, found in (("nan", "nan"), ("inf", "inf"), ("-1", "-1.0"), ("0", "0.0"))),
    measure("minutes in words", "--minutes", "ten", words=("--minutes", "'ten'")),
    measure("negative seed", "--seed", "-1", words=("--seed", "-1")),
    measure("seed beyond 64 bits", "--seed", str(2**63), words=("--seed: not a seed", str(2**63), "0 to 9,223,372,036,854,775,807")),
    measure("unknown table", "--only", "gem", words=("--only: unknown table", "'gem'", "did you mean gemm")),
    measure("no table", "--only", "gemm,", words=("--only: unknown table", "''")),
    measure("table by its file", "--only", "gemm-check", words=("--only: unknown table", "'gemm-check'", "did you mean gemm")),
    measure("unknown plan", "--plan", "fully", words=("--plan: unknown plan", "'fully'", "did you mean full")),
    Case("GPU of another vendor", ("calibrate", "measure", "--dry-run", "--gpu", "mi300x"), ("--gpu: is not a GPU of NVIDIA", "'mi300x'")),
    Case("GPU with a name of 300 letters", ("calibrate", "measure", "--dry-run", "--gpu", "a" * 300), ("--gpu: unknown GPU", "aaa")),
    Case("tables into a file", (*DRY[:-1], "f"), ("f: --out: cannot be the folder of the tables (Not a directory)", "allowed: a folder"), {"f": "x"}),
    Case("tables below a file", (*DRY[:-1], "f/g"), ("f/g: --out: cannot be the folder of the tables",), {"f": "x"}),
    Case("folder with a name of 300 letters", (*DRY[:-1], "a" * 300), ("--out: cannot be the folder of the tables (File name too long)",)),
    # GPU files.
    gpu("empty GPU file", "", "g.yaml: the file is empty"),
    gpu("bandwidth of another order", "base: h200-sxm\nmemory: {bandwidth: 1e300 TB/s}\n", "g.yaml:2: memory.bandwidth: implausible"),
    gpu("memory of a byte", "base: h200-sxm\nmemory: {capacity: 1 B}\n", "g.yaml:2: memory.capacity: implausible"),
    gpu("misspelt figure", "base: h200-sxm\nmemroy: {capacity: 1 GB}\n", "g.yaml:2: memroy: unknown key", "did you mean memory?"),
    gpu("name that leads elsewhere", "base: h200-sxm\nname: ../../x\n", "g.yaml: name: no name for a GPU", "'../../x'", "letters, digits"),
    gpu("base with a name of 300 letters", f"base: {'a' * 300}\n", "g.yaml:1: base: unknown GPU"),
    # A folder that holds something else.
    held("binary table", bytes(range(256)) * 4, "m/gemm.csv:2: is not UTF-8 text"),
    held("table of another kind", table("moe"), "m/gemm.csv:1: not the header of this table", "gpu,software,kernel,dtype,m,n,k"),
    held("table without a column", gemms().replace("kernel", "kernal", 1), "m/gemm.csv:1: not the header", "kernal"),
    held("short line", gemms(1) + "h200-sxm,triton\n" + "x,\n", "m/gemm.csv:3: has 2 cells, the header 23"),
    held("size in words", gemms(k="many"), "m/gemm.csv:2: column k: not a whole number; found 'many'"),
    held("size of 400 digits", gemms(k="9" * 400), "m/gemm.csv:2: column k: not a whole number"),
    held("NaN as a size", gemms(n="nan"), "m/gemm.csv:2: column n: not a whole number; found 'nan'"),
    held("no size", gemms(n=""), "m/gemm.csv:2: column n: is empty"),
    held("time NaN", gemms(latency_us="nan"), "m/gemm.csv:2: column latency_us: not a time; found 'nan'", "microseconds above 0"),
    held("time beyond all numbers", gemms(latency_us="1e400"), "m/gemm.csv:2: column latency_us: not a time"),
    held("negative time of a library", gemms(baseline_us=-3), "m/gemm.csv:2: column baseline_us: not a time; found '-3'"),
    held("cell of a megabyte", gemms(config="x" * 2**20), "m/gemm.csv:2: is not a readable CSV file"),
    held("rows of another GPU", gemms(gpu="b200-sxm"), "m/gemm.csv:2: the folder holds measurements of another GPU", "'b200-sxm'", "h200-sxm"),
    held("folder for a table", None, "m/gemm-check.csv: cannot be used (Is a directory)", file="m/gemm-check.csv"),
    # Layers.
    layers("layer of an unknown model", ("t.csv:3: column model: unknown model", "'Qwen/Qwen9'", "Qwen/Qwen3-8B"), model="Qwen/Qwen9"),
    layers("heads that TP does not divide", ("t.csv:3: column tp: ", "num_attention_heads = 32", "found 3", "a divisor of 32"), tp=3),
    layers("no page", ("t.csv:3: column page: block_topk chooses pages; found 0",), **{**SPARSE, "page": 0}),
    layers("budget of no whole pages", ("t.csv:3: column budget: no number of whole pages; found 1000",), **{**SPARSE, "budget": 1000}),
    layers("decode of two tokens", ("t.csv:3: column query_len: a sequence decodes one token a step; found 2", "1 in decode"), query_len=2),
    layers("context of nothing", ("t.csv:3: column context_len: the new token is among those attended; found 0",), context_len=0),
    layers("context beyond measure", ("t.csv:3: column context_len: too large; found 1e+30",), context_len="1e30"),
    layers("unknown L2", ("t.csv:3: column l2: unknown l2; found 'tepid'; allowed: cold, warm",), l2="tepid"),
    layers("layer in fp8", ("t.csv:3: column dtype: unknown dtype; found 'fp8'", "bf16, fp16"), dtype="fp8"),
    Case("kernels for layers", ("validate", "layers", "t.csv"), ("t.csv: is a table of kernels (gemm)", "kinesim validate kernels reads"), {"t.csv": gemms()}),
    Case("the experiment for layers", ("validate", "layers", "t.csv"), ("t.csv: is a table of the experiment", "kinetics-h200 reads"), {"t.csv": POINT}),
    Case("layers for kernels", ("validate", "kernels", "t.csv"), ("t.csv: is a table of whole layers (layer)", "kinesim validate layers"), {"t.csv": table("layer", LAYER)}),
    kinetics("dense alone", table("kinetics", LAYER), words=("t.csv: has no point of h200-sxm", "1 measured rows of h200-sxm", "rows of both")),
    kinetics("layers for the experiment", table("layer", LAYER), words=("t.csv: is a table of layers", "kinesim validate layers")),
    kinetics("experiment of another GPU", POINT, "--gpu", "h100-sxm", words=("t.csv: has no point of h100-sxm", "GPUs: h200-sxm")),
    kinetics("experiment without time", POINT, "--minutes", "nan", words=("--minutes: not a time limit", "found nan")),
    Case("experiment of an empty folder", ("calibrate", "kinetics-h200", "--measured", "m"), ("m/kinetics.csv: no such file",), {"m": None}),
    # Kernels of the operators.
    kernels("unknown operation", "elementwise", {**ROW, "op": "rmsnorm"}, "t.csv:2: column op: unknown op; found 'rmsnorm'", "did you mean rms_norm"),
    kernels("operation of another kind", "page_topk", {**PAGES, "op": "copy"}, "t.csv:2: column op: unknown op; found 'copy'; allowed: scores, select"),
    kernels("row of no bytes", "elementwise", {**ROW, "row_bytes": 0}, "t.csv:2: column row_bytes: zero or negative; found 0"),
    kernels("operands neither cold nor warm", "elementwise", {**ROW, "l2": "hot"}, "t.csv:2: column l2: unknown l2; found 'hot'"),
    kernels("pages of no tokens", "page_topk", {**PAGES, "page": 0}, "t.csv:2: column page: zero or negative; found 0"),
    kernels("budget of a page and a half", "page_topk", {**PAGES, "budget": 24}, "t.csv:2: column page: not a divisor of budget = 24; found 16"),
    fit("cold and warm in one table", ("a.csv: column l2: rows of h200-sxm triton triton bf16 differ", "cold, warm"), a=gemms(l2="cold") + gemms(l2="warm").split("\n", 1)[1]),
    fit("layers to fit", ("b.csv: is a table of whole layers",), a=gemms(), b=table("layer", LAYER)),
    fit("two tables of a kind", ("b.csv: is a second table of gemm",), a=gemms(), b=gemms()),
]  # fmt: skip

PAGE: Files = {"m/gemm.csv": gemms(), "m/machine.jsonl": MACHINE}
MODULES = [
    # `python -m calibration.measure`
    *(Case(f"measure: {case.name}", case.argv[2:], case.words, case.files) for case in CASES
      if case.name in ("nan minutes", "negative seed", "unknown table", "tables into a file", "binary table", "name that leads elsewhere")),
    Case("measure: minutes in words", ("--minutes", "ten"), ("Argument --minutes: invalid float value: 'ten'",)),
    Case("measure: unknown option", ("--minuets", "3"), ("Unrecognized arguments: --minuets",)),
    Case("measure: no folder", ("--dry-run", "--out", ""), ("Argument --out: names no folder", "a writable folder")),
    # `python -m calibration.measured_page`
    Case("page: no folder", ("m",), ("m: has no measured tables to fit",)),
    Case("page: a file", ("m",), ("m: has no measured tables to fit",), {"m": "x"}),
    Case("page: no machine", ("m",), ("m/machine.jsonl: is missing", "what was measured on"), {"m/gemm.csv": gemms()}),
    Case("page: empty machine", ("m",), ("m/machine.jsonl: has no runs",), {**PAGE, "m/machine.jsonl": ""}),
    Case("page: binary machine", ("m",), ("m/machine.jsonl:2: is no run as it is written",), {**PAGE, "m/machine.jsonl": MACHINE.encode() + b"\xff\n"}),
    Case("page: machine of another form", ("m",), ("m/machine.jsonl:1: is no run", "a JSON object a line"), {**PAGE, "m/machine.jsonl": "[1]\n"}),
    Case("page: two GPUs", ("m",), ("m: not of one GPU", "b200-sxm@triton, h200-sxm@triton"), {**PAGE, "m/gemm.csv": gemms() + gemms(gpu="b200-sxm").split("\n", 1)[1]}),
    Case("page: check of another GPU", ("m",), ("m/gemm-check.csv:2: the folder holds measurements of another GPU",), {**PAGE, "m/gemm-check.csv": gemms(gpu="b200-sxm")}),
    Case("page: GPU without a file", ("m",), ("m/gemm.csv:2: column gpu: unknown GPU", "'h100-pcie'"), {**PAGE, "m/gemm.csv": gemms(gpu="h100-pcie")}),
    Case("page: another software", ("m",), ("m: not of one GPU", "'h200-sxm@mine'", "software triton"), {**PAGE, "m/gemm.csv": gemms(software="mine")}),
    Case("page: few rows", ("m",), ("m/gemm.csv: no kernel has enough measured rows", "at least 8"), {**PAGE, "m/gemm.csv": gemms(5)}),
    Case("page: library's time in words", ("m",), ("m/gemm.csv:2: column baseline_us: not a time",), {**PAGE, "m/gemm.csv": gemms(baseline_us="x")}),
    Case("page: check of another kind", ("m",), ("m/moe-check.csv:1: not the header of this table",), {**PAGE, "m/moe-check.csv": gemms()}),
    Case("page: layer of an unknown model", ("m",), ("m/layer.csv:2: column model: unknown model",), {**PAGE, "m/layer.csv": table("layer", {**LAYER, "model": "Qwen9"})}),
    Case("page: file for the figures", ("m",), ("docs/measured-h200-sxm: --docs: cannot be written to",), {**PAGE, "docs/measured-h200-sxm": "x"}),
    Case("page: file for profiles", ("m",), ("profiles: --profiles: cannot be written to",), {**PAGE, "profiles": "x"}),
]  # fmt: skip


def test_no_two_alike() -> None:
    assert len({case.name for case in [*CASES, *MODULES]}) == len(CASES) + len(MODULES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinesim) -> None:
    place_files(tmp_path, case.files)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    outcome = kinesim(*case.argv)
    check(case, outcome, before, contents(tmp_path))


@pytest.mark.parametrize("case", MODULES, ids=lambda case: case.name)
def test_bad_input_of_a_module(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place_files(tmp_path, case.files)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    of_a_page = case.name.startswith("page: ")
    main = importlib.import_module("calibration.measured_page" if of_a_page else "calibration.measure.__main__").main
    code = main([*case.argv, *(("--docs", "docs", "--profiles", "profiles") if of_a_page else ())])
    said = capsys.readouterr()
    check(case, Outcome(code, said.out, said.err), before, contents(tmp_path))
