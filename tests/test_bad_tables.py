"""Bad tables of kernels from end to end, in the manner of `test_bad_input`: exit code 2, one message, nothing written."""

# ruff: noqa: E501  (a case a line)
from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_bad_input import Case, Files, check, contents, place_files

HEADER = "gpu,software,kernel,dtype,m,n,k,latency_us\n"
GOOD = "h200-sxm,vllm-0.24.0,a,bf16,16,32,64,5.5\n"
DECODE = "gpu,software,kernel,dtype,kv_dtype,batch,context_len,q_heads,kv_heads,head_dim,window,latency_us\n"
MOE = "gpu,software,kernel,dtype,tokens,hidden,intermediate,top_k,experts,tp,ep,routing,gated,latency_us\n"
COLLECTIVE = "gpu,software,kernel,op,dtype,gpus,bytes\n"
MIXED = HEADER.strip() + ",batch,context_len,q_heads,kv_heads,head_dim,window,kv_dtype\n"


def csv(name: str, content: str | bytes | None, *words: str, options: tuple[str, ...] = ("--out", "out/t.csv")) -> Case:
    """`kinesim validate kernels t.csv` with that content."""
    return Case(name, ("validate", "kernels", "t.csv", *options), words, {"t.csv": content})


def row(name: str, old: str, new: str, *words: str) -> Case:
    """A good row, a good row in which `old` became `new`, and another good one."""
    return csv(name, HEADER + GOOD + GOOD.replace(old, new) + GOOD, "t.csv:3: column ", *words)


def parquet(name: str, columns: dict[str, object] | pa.Table, *words: str) -> Case:
    sink = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), sink)
    return Case(
        name, ("validate", "kernels", "t.parquet", "--out", "out/t.parquet"), words, {"t.parquet": sink.getvalue()}
    )


def option(name: str, *argv: str, words: tuple[str, ...], files: Files | None = None) -> Case:
    return Case(name, ("validate", "kernels", *argv), words, {"t.csv": HEADER + GOOD, **(files or {})})


def gemm(rows: int = 3, **columns: object) -> dict[str, object]:
    texts = {"gpu": "h200-sxm", "software": "a", "kernel": "b", "dtype": "bf16"}
    return {
        **{k: [v] * rows for k, v in texts.items()},
        **{c: [1] * rows for c in "mnk"},
        "latency_us": [1.0] * rows,
        **columns,
    }


def doubled() -> pa.Table:
    table = pa.table(gemm())
    return pa.table([*table.columns, table["m"]], names=[*table.column_names, "m"])


CASES = [
    # The file.
    option("no such table", "none.csv", words=("none.csv: no such file",)),
    option("table that is a folder", "out.csv", words=("out.csv: is a folder",), files={"out.csv": None}),
    option("table of another kind of file", "t.xlsx", words=("t.xlsx", "not a table by its name", ".csv or .parquet"), files={"t.xlsx": "x"}),
    option("name of 300 characters", "a" * 300 + ".csv", words=("aaa.csv", "File name too long")),
    csv("empty file", "", "t.csv: is empty", "a header and at least one row"),
    csv("blank lines only", "\n\n\n", "t.csv: is empty"),
    csv("header only", HEADER, "t.csv: has no rows"),
    csv("other encoding", HEADER.encode() + b"h200-sxm,v\xff,a,bf16,1,1,1,1\n", "t.csv: is not", "UTF"),
    csv("Parquet called CSV", b"PAR1" + b"\0" * 20, "t.csv: is a Parquet file", ".parquet"),
    csv("row that is too short", HEADER + GOOD + "\nh200-sxm,a,b\n", "t.csv:4: has 3 cells, the header 8"),
    csv("row that is too long", HEADER + GOOD.strip() + ",7\n", "t.csv:2: has 9 cells, the header 8"),
    csv("semicolons", (HEADER + GOOD).replace(",", ";"), "t.csv:1: columns are not separated by commas"),
    Case("CSV called Parquet", ("validate", "kernels", "t.parquet"), ("t.parquet: is not a readable Parquet file",), {"t.parquet": HEADER + GOOD}),
    Case("truncated Parquet", ("validate", "kernels", "t.parquet"), ("t.parquet: is not a readable Parquet file",), {"t.parquet": b"PAR1\0\0"}),
    Case("empty Parquet", ("validate", "kernels", "t.parquet"), ("t.parquet: is empty",), {"t.parquet": b""}),
    # Columns.
    csv("missing column", (HEADER + GOOD).replace(",k,", ",x,"), "t.csv: column k is missing", "of gemm: gpu, software"),
    csv("missing columns", "m,n,gpu\n1,1,h200-sxm\n", "columns software, kernel, dtype, k are missing"),
    csv("misspelt column", (HEADER + GOOD).replace("software", "Soft_ware"), "column software is missing", "'Soft_ware'"),
    csv("column twice", HEADER.replace("latency_us", "m") + GOOD, "t.csv:1: column m occurs twice"),
    csv("no kernel table at all", "a,b\n1,2\n", "no columns of any kind of kernel", "gemm, attention_prefill"),
    csv("two kinds of columns", MIXED + GOOD.strip() + ",1,1,1,1,64,0,bf16\n", "mixes kinds", "gemm", "attention_decode"),
    csv("rows of two kinds", DECODE + "h200-sxm,a,b,bf16,bf16,1,1,8,8,64,0,1\nh200-sxm,a,b,bf16,bf16,1,1,8,,,,1\n",
        "t.csv:3: column kv_heads: is empty, as in a row of mla_decode, while the table is of attention_decode"),
    parquet("column twice in Parquet", doubled(), "t.parquet: column m occurs twice"),
    parquet("Parquet without rows", pa.table(gemm()).slice(0, 0), "t.parquet: has no rows"),
    # Cells.
    row("unknown GPU", "h200-sxm", "h200", "column gpu: unknown GPU", "'h200'", "did you mean h200-sxm"),
    row("unknown format", "bf16", "bf61", "column dtype: unknown dtype", "'bf61'", "did you mean bf16"),
    row("GPU left out", "h200-sxm", "", "column gpu: is empty"),
    row("GPU file that is not there", "h200-sxm", "./none.yaml", "column gpu: no such file; found './none.yaml'"),
    row("zero", ",16,", ",0,", "column m: zero or negative; found 0; allowed: a whole number from 1"),
    row("negative", ",16,", ",-16,", "column m: zero or negative; found -16"),
    row("fraction", ",16,", ",16.5,", "column m: not a whole number; found 16.5"),
    row("nothing", ",16,", ",,", "column m: is empty"),
    row("NaN", ",16,", ",NaN,", "column m: is empty"),
    row("infinity", ",16,", ",inf,", "column m: not a finite number; found inf"),
    row("word", ",16,", ",many,", "column m: not a number; found 'many'; allowed: a whole number from 1"),
    row("number with a unit", ",5.5", ",5.5 us", "column latency_us: not a number; found '5.5 us'; allowed: microseconds"),
    row("beyond all measure", ",16,", ",1e300,", "column m: too large"),
    row("negative latency", ",5.5", ",-5.5", "column latency_us: zero or negative; found -5.5"),
    row("zero latency", ",5.5", ",0", "column latency_us: zero or negative; found 0"),
    row("infinite latency", ",5.5", ",inf", "column latency_us: not a finite number"),
    csv("heads that do not divide", DECODE + "h200-sxm,a,b,bf16,bf16,1,1,8,3,64,0,1\n", "t.csv:2: column kv_heads: not a divisor of q_heads = 8; found 3"),
    csv("negative window", DECODE + "h200-sxm,a,b,bf16,bf16,1,1,8,8,64,-1,1\n", "t.csv:2: column window: is negative; found -1", "from 0"),
    csv("unknown KV format", DECODE + "h200-sxm,a,b,bf16,fp7,1,1,8,8,64,0,1\n", "t.csv:2: column kv_dtype: unknown kv_dtype; found 'fp7'"),
    csv("unknown routing", MOE + "h200-sxm,a,b,bf16,1,64,64,2,8,1,1,skewed,1,1\n", "t.csv:2: column routing: unknown routing; found 'skewed'", "balanced, power_law_A"),
    csv("routing beyond reason", MOE + "h200-sxm,a,b,bf16,1,64,64,2,8,1,1,power_law_99,1,1\n", "column routing"),
    csv("more experts chosen than there are", MOE + "h200-sxm,a,b,bf16,1,64,64,9,8,1,1,balanced,1,1\n", "t.csv:2: column top_k: more than experts = 8; found 9"),
    csv("experts that do not divide", MOE + "h200-sxm,a,b,bf16,1,64,64,2,8,1,3,balanced,1,1\n", "t.csv:2: column ep: not a divisor of experts = 8; found 3"),
    csv("flag that is none", MOE + "h200-sxm,a,b,bf16,1,64,64,2,8,1,1,balanced,2,1\n", "t.csv:2: column gated: too large; found 2; allowed: 0 or 1"),
    csv("collective of one", COLLECTIVE + "h200-sxm,a,nccl,all_reduce,bf16,1,1024\n", "t.csv:2: column gpus: too small; found 1", "from 2"),
    csv("unknown collective", COLLECTIVE + "h200-sxm,a,nccl,allreduce,bf16,8,1024\n", "t.csv:2: column op: unknown op; found 'allreduce'", "did you mean all_reduce"),
    parquet("cell of a Parquet file", gemm(m=[1, 2, 0]), "t.parquet: row 2 (counted from 0), column m: zero or negative; found 0"),
    parquet("null in a Parquet file", gemm(gpu=["h200-sxm", None, "h200-sxm"]), "row 1 (counted from 0), column gpu: is empty"),
    parquet("null shape in a Parquet file", gemm(m=[1, None, 3]), "row 1 (counted from 0), column m: is empty"),
    parquet("numbers for names", gemm(dtype=[16, 16, 16]), "column dtype: not text; found 16"),
    parquet("truth for numbers", gemm(m=[True, True, False]), "column m: not a column of numbers (bool)"),
    parquet("dates for numbers", gemm(m=pa.array([1, 2, 3], pa.timestamp("s"))), "column m: not a column of numbers (timestamp"),
    parquet("column of nothing", gemm(kernel=pa.nulls(3)), "row 0 (counted from 0), column kernel: is empty"),
    # Options.
    option("output on the table itself", "t.csv", "--out", "./t.csv", words=("--out: is the table itself", "another file")),
    option("output of another kind", "t.csv", "--out", "out/t.xlsx", words=("out/t.xlsx: --out: not a table by its name",)),
    option("output that is a folder", "t.csv", "--out", "out.csv", words=("out.csv",), files={"out.csv": None}),
    option("output below a file", "t.csv", "--out", "t.csv/o.csv", words=("--out",)),
    option("unknown profile", "t.csv", "--profile", "mine", words=("--profile: no such fitted profile", "'mine'")),
    option("missing profile file", "t.csv", "--profile", "mine.npz", words=("mine.npz",)),
    option("figures of nothing measured", "u.csv", "--plots", "p", words=("u.csv: --plots: no row has a latency",),
           files={"u.csv": (HEADER + GOOD).replace("latency_us", "note")}),
    option("figures into a file", "t.csv", "--plots", "t.csv", words=("t.csv", "not a folder")),
    option("no table", words=("TABLE",)),
    option("unknown form", "t.csv", "--format", "xml", words=("xml", "table")),
]  # fmt: skip


def test_no_two_alike() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_table(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinesim) -> None:
    place_files(tmp_path, case.files)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    outcome = kinesim(*case.argv)
    check(case, outcome, before, contents(tmp_path))
