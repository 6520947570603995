"""`make serving`: how far predictions are from measured disaggregated deployments, as docs/serving-disaggregated.md.

    python -m calibration.serving_pools_page [TABLE] [--docs FOLDER] [--jobs N] [--rows N]

Every row is simulated as shipped, and again with the kernels' corrections of another GPU, as for one without measured
kernels. Of the host's constants one is fitted to rows of this table (`servingpools.yaml`); nothing else is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errortables import percent
from calibration.plots import png
from calibration.serving_page import ROOT, page_command
from calibration.servingerrors import METRICS, layout, planning_loss
from calibration.servingplots import predicted_figure
from calibration.servingreplay import Replay, Row, replay
from calibration.servingruns import deployment_spec
from calibration.servingsections import GROUPS, Key, grouped, listed, markdown
from calibration.servingsplits import foreign_profile
from calibration.servingtables import DISAGGREGATED, ServingTable, read_serving
from hwspecs.errors import InputError
from simulator.files import check_writable, replace_file
from simulator.progress import progress_bar

TABLE = ROOT.parent / "shared/data/serving/measured_disaggregated.csv"
PAGE, FIGURE = "serving-disaggregated.md", "serving/disaggregated-predicted.png"

HEAD = """\
# Validation of disaggregated deployments

*Made by `make serving`; do not edit.*

How far simulated deployments with prefill and decode on workers of their own ([disaggregation](disaggregation.md)) are
from measured ones: {rows} rows on {gpus}, of which {predicted} are predicted. Each is a closed loop of users over the
whole deployment, replayed request by request ([how](serving-tables.md)). The default table is the end-to-end sample of
NVIDIA AIConfigurator 0.12.0 (Apache-2.0): public InferenceX runs of DeepSeek-R1 under NVIDIA Dynamo.

The host's constants are those fitted to single instances ([serving](serving.md)). One is fitted to rows of this table:
what TensorRT-LLM's all-reduce over multi-node NVLink saves beside its default, which the fp4 recipes with tensor
parallel decode ask for and no table of kernels has (7 rows; `calibration/servingpools.yaml`). That TensorRT-LLM's
prefill of latent attention has a floor of launching and not a sum, and how much slower than measured kernels steps of
prefill are on Blackwell, was decided with these rows in sight too. In the columns *other GPU* the kernels' corrections
are those of another GPU (B200 from H200, H200 from H100), as for a GPU without measured kernels; the hosts are the
same.
"""

CAUSES = """\
## What decides the times, and what is off

- **Saturated prefill.** TTFT of most rows is a queue before prefill workers, so it follows from their capacity: where
  nine tenths of it are used, a few percent of capacity are a third of the TTFT. A bias of prefill kernels that TPOT
  would not show is seen here.
- **Slots of SGLang's prefill workers.** A request keeps its slot (`max-running-requests` over the ranks of attention)
  until its KV has been sent; with overlap scheduling that is for three batches. Recipes with one slot a rank so keep
  three of eight ranks busy, and the measured capacity of 5.6 to 6.0 requests/s on eight B200 is that; with all ranks
  busy it would be near 7.9.
- **Slots of decode workers.** TensorRT-LLM's prefilled requests wait for one of `max_batch_size` slots before the
  client sees a token: 5 workers of 32 slots with 180 users have a TTFT of 1.4 s, with 90 users of 0.3 s. The slots of
  public runs are in `calibration/servingpools.yaml`; elsewhere they are taken as the largest power of two that the
  users fill.
- **Ranks of attention data parallelism** are simulated with requests dealt evenly. SGLang chooses the rank of a prefill
  by the bootstrap room, which is random, unless a recipe says otherwise: with few requests more ranks idle than here,
  and TTFT is too low.
- **Whole experts in SGLang's prefill on B200** (fp8 before 12 March 2026, fp4 with attention data parallelism): with
  more than a few users TTFT is 1.7 to 13 times what is simulated, while TPOT agrees. With lengths of 1,024 a second
  decode worker changes the rate and not the TTFT, so it is no queue for a busy GPU. Stalls of the first wave, while
  kernels are compiled or tuned, would do this; not explained further.
- **TensorRT-LLM's attention data parallelism in decode** (B200, fp8, prompts of 8,192): TPOT is 10 to 20 % above what
  is simulated, but not with lengths of 1,024. Not explained.
"""

KEYS: dict[str, Key] = {
    "engine, GPU, precision": lambda row: ", ".join((GROUPS["engine"](row), row["gpu"], row["precision"])),
    "lengths": GROUPS["lengths"],
    "prefill workers": lambda row: layout(row).partition(", ")[0].partition(" x ")[2],
    "decode workers": lambda row: layout(row).partition(", ")[2].partition(" x ")[2],
    "GPUs": GROUPS["GPUs of the deployment"],
}


def main(arguments: Sequence[str] | None = None) -> int:
    return page_command(arguments, PAGE, TABLE, make_page)


def make_page(path: Path, docs: Path, jobs: int | None = None, most: int | None = None) -> Path:
    """Simulates the table in `path` and writes the page. Raises InputError."""
    table = read_serving(path)
    if table.kind is not DISAGGREGATED:
        raise InputError("holds single instances", file=path, allowed="columns of prefill and decode workers")
    if not (np.isfinite(table.tpot) & np.isfinite(table.ttft)).any():
        raise InputError("nothing was measured", file=path, allowed="a table with ttft_ms and tpot_ms")
    if most is not None and most < len(table):
        table = table.take(np.linspace(0, len(table) - 1, most).round().astype(int).tolist())
    figure = docs / FIGURE
    check_writable(figure.parent, [figure.name])
    with progress_bar("replaying") as report:
        shipped = replay(table.rows, jobs=jobs, report=report)
    with progress_bar("leaving out") as report:
        carried = replay(table.rows, jobs=jobs, report=report, spec_of=carried_spec)
    replace_file(figure, png(predicted_figure(table, shipped)))
    page = docs / PAGE
    replace_file(page, page_text(table, shipped, carried).encode())
    return page


def carried_spec(row: Row, profile: str | None) -> dict[str, Any]:
    """A row's deployment with the kernels' corrections of another GPU. Raises InputError if there is none."""
    other = foreign_profile(row)
    if other is None:
        raise InputError("the engine's kernels were measured on no other GPU", place="gpu", found=row["gpu"])
    return deployment_spec(row, other)


def page_text(table: ServingTable, shipped: Sequence[Replay], carried: Sequence[Replay]) -> str:
    """The page as Markdown."""
    predicted = sum(not entry.reason for entry in shipped)
    gpus = listed(sorted({row["gpu"] for row in table.rows}))
    lines = [HEAD.format(rows=f"{len(table):,}", predicted=f"{predicted:,}", gpus=gpus)]
    lines += [*_groups(table, shipped, carried, "", lambda row: "all"), ""]
    loss = planning_loss(table, shipped)
    if loss is not None:
        lines += [f"Planning by these predictions loses {percent(loss['mean'])} ({loss['choices']} choices).", ""]
    lines += [f"![Predicted against measured]({FIGURE})", "", CAUSES, "## By group", ""]
    for name, key in KEYS.items():
        lines += [*_groups(table, shipped, carried, name, key), ""]
    lines += ["<details><summary>All rows</summary>", "", *_rows(table, shipped), "", "</details>"]
    return "\n".join(lines) + "\n"


def _errors(table: ServingTable, replays: Sequence[Replay]) -> np.ndarray:
    """|predicted / measured - 1| of TPOT and TTFT, at most 1 and 1 without a prediction, float64 [2, n]."""
    return np.nan_to_num(np.minimum(np.abs(_ratios(table, replays) - 1), 1.0), nan=1.0)


def _ratios(table: ServingTable, replays: Sequence[Replay]) -> np.ndarray:
    predicted = np.array([[entry.tpot for entry in replays], [entry.ttft for entry in replays]])
    return predicted / np.stack([table.tpot, table.ttft])


def _groups(
    table: ServingTable, shipped: Sequence[Replay], carried: Sequence[Replay], name: str, key: Key
) -> list[str]:
    """Errors of the measured rows that agree in `key`."""
    errors, other, ratios = _errors(table, shipped), _errors(table, carried), _ratios(table, shipped)
    rows = []
    for value, pick in grouped(table, np.isfinite(table.tpot) & np.isfinite(table.ttft), key):
        cells = [value, f"{len(pick):,}"]
        for i in range(len(METRICS)):
            bias = float(np.nanmedian(ratios[i, pick]) - 1) if np.isfinite(ratios[i, pick]).any() else None
            cells += [percent(float(errors[i, pick].mean())), percent(float(np.median(errors[i, pick])))]
            cells += ["-" if bias is None else percent(bias, True), percent(float(other[i, pick].mean()))]
        rows.append(cells)
    names = ["TPOT", "median", "bias", "other GPU", "TTFT", "median", "bias", "other GPU"]
    return markdown([name, "rows", *names], rows, left=1)


def _rows(table: ServingTable, shipped: Sequence[Replay]) -> list[str]:
    rows = []
    for row, entry, tpot, ttft in zip(table.rows, shipped, table.tpot, table.ttft, strict=True):
        cells = [KEYS["engine, GPU, precision"](row), layout(row), f"{row['input_len']:,}/{row['output_len']:,}"]
        cells += [f"{row['concurrency']:,}"]
        for own, measured in ((entry.tpot, tpot), (entry.ttft, ttft)):
            cells += [f"{measured * 1e3:,.1f}", "-" if np.isnan(own) else f"{own * 1e3:,.1f}"]
        rows.append(cells)
    names = ["", "workers", "lengths", "users", "TPOT (ms)", "predicted", "TTFT (ms)", "predicted"]
    return markdown(names, rows, left=3)


if __name__ == "__main__":
    sys.exit(main())
