"""What `kinesim graph` and `kinesim roofline` show: the rows' arithmetic, the documents and the pictures."""

from __future__ import annotations

import dataclasses
import itertools
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import networkx as nx
import pytest

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.cost import BOUNDS
from simulator.graphview import (
    BOUND_COLOURS,
    BOUND_WORDS,
    draw_graph,
    graph_document,
    operator_rows,
    present_graph,
    shape_words,
    step_seconds,
    step_shape,
    step_totals,
)
from simulator.operators import KINDS
from simulator.profile import load_profile
from simulator.roofline import KIND_COLOURS, KIND_WORDS, draw_roofline, roofline_document
from simulator.stepcost import StepCost
from simulator.stepgraph import Precision, build_graph
from workloads.attention import BlockTopK, Dense, SlidingWindow
from workloads.model import Model, load_model

QWEN = load_model("Qwen/Qwen3-8B")
MIXTRAL = load_model("mistralai/Mixtral-8x7B-v0.1")
WINDOWS = dataclasses.replace(QWEN, layer_windows=tuple(4096 if i % 3 else None for i in range(36)))
BLOCKS = BlockTopK(kind="block_top_k", blocks=64, local=64)


def make(
    model: Model = QWEN,
    policy=Dense(),
    gpu: str = "h200-sxm",
    profile: str = "rule-of-thumb",
    tensor: int = 1,
    precision: Precision = Precision(),
) -> StepCost:
    graph = build_graph(model, policy, precision, tensor)
    return StepCost(graph, load_gpu(gpu), load_profile(profile), max_tokens=8448, max_seqs=256, max_context=32768)


CASES = {
    "ideal": lambda: make(profile="ideal"),
    "rule of thumb": make,
    "block top-k": lambda: make(policy=BLOCKS),
    "tensor parallel": lambda: make(tensor=4),
    "mixture of experts": lambda: make(MIXTRAL, tensor=2),
    "windows": lambda: make(WINDOWS),
    "fp8": lambda: make(gpu="b200-sxm", precision=Precision("fp8", "fp8", "fp8")),
}
PHASES = {
    "decode": {"phase": "decode", "batch": 64, "context": 8192},
    "prefill": {"phase": "prefill", "batch": 1, "query": 8192},
    "mixed": {"phase": "mixed", "batch": 64, "context": 8192, "query": 2048, "past": 1024},
}


@pytest.fixture(scope="module", params=CASES)
def cost(request: pytest.FixtureRequest) -> StepCost:
    return CASES[request.param]()


@pytest.fixture(scope="module")
def qwen() -> StepCost:
    return make()


# ---- shapes ----------------------------------------------------------------------------------------------------------


def test_shapes_of_the_three_phases(qwen: StepCost) -> None:
    decode = step_shape(qwen, phase="decode", batch=64, context=8192)
    assert decode == (64, 64, 64, (64 * 8192,), None)
    prefill = step_shape(qwen, phase="prefill", batch=2, query=3, past=10)
    # Each prompt's three tokens see 11, 12 and 13 keys.
    assert prefill == (6, 2, 0, (0,), (6, 2, (72,), (26,)))
    mixed = step_shape(qwen, phase="mixed", batch=64, context=8192, prefill_batch=2, query=3, past=10)
    assert mixed == (70, 66, 64, (64 * 8192,), (6, 2, (72,), (26,)))
    assert step_shape(qwen.graph, phase="decode", batch=64, context=8192) == decode


def test_shapes_know_caps() -> None:
    window = make(policy=SlidingWindow(kind="sliding_window", window=4))
    assert step_shape(window, phase="decode", batch=3, context=100).decode_kv == (12,)
    assert step_shape(window, phase="decode", batch=3, context=2).decode_kv == (6,)
    chunks = step_shape(window, phase="prefill", batch=1, query=3, past=10).prefill
    # Each query sees 4 keys, the oldest of the first one is the 8th token: 3 old keys and 3 new ones.
    assert chunks is not None and chunks.pairs == (12,) and chunks.kv == (6,)
    # Page scores read everything, attention 64 blocks of 16 and 64 local tokens.
    assert step_shape(make(policy=BLOCKS), phase="decode", batch=2, context=8192).decode_kv == (16384, 2 * 1088)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ({"phase": "train", "batch": 1}, "--phase"),
        ({"phase": "decode", "batch": 0, "context": 5}, "--batch"),
        ({"phase": "decode", "batch": -3, "context": 5}, "--batch"),
        ({"phase": "decode", "batch": 2.5, "context": 5}, "--batch"),
        ({"phase": "decode", "batch": True, "context": 5}, "--batch"),
        ({"phase": "decode", "batch": 257, "context": 5}, "--batch"),
        ({"phase": "decode", "batch": 1, "context": 0}, "--context"),
        ({"phase": "decode", "batch": 1, "context": 32769}, "--context"),
        ({"phase": "prefill", "batch": 0, "query": 5}, "--batch"),
        ({"phase": "prefill", "batch": 1, "query": 0}, "--query"),
        ({"phase": "prefill", "batch": 1, "query": 8449}, "--query"),
        ({"phase": "prefill", "batch": 2, "query": 8192}, "--query"),
        ({"phase": "prefill", "batch": 1, "query": 5, "past": -1}, "--past"),
        ({"phase": "prefill", "batch": 1, "query": 8192, "past": 32768 - 8191}, "--past"),
        ({"phase": "mixed", "batch": 1, "context": 5, "query": 5, "prefill_batch": 0}, "--prefill-batch"),
        ({"phase": "mixed", "batch": 256, "context": 5, "query": 5}, "--prefill-batch"),
        ({"phase": "mixed", "batch": 200, "context": 5, "query": 8300}, "--prefill-batch"),
    ],
)
def test_bad_shapes_name_the_option(qwen: StepCost, arguments: dict, option: str) -> None:
    with pytest.raises(InputError) as caught:
        step_shape(qwen, **arguments)
    assert option in (caught.value.place or "")
    assert caught.value.found is not None and caught.value.allowed


def test_shapes_in_words(qwen: StepCost) -> None:
    words = {name: shape_words(step_shape(qwen, **phase)) for name, phase in PHASES.items()}
    assert words["decode"] == "64 sequences decoding at 8,192 tokens of context"
    assert words["prefill"] == "1 prompt of 8,192 tokens prefilled"
    assert words["mixed"] == f"{words['decode']} + 1 prompt of 2,048 tokens prefilled after 1,024 earlier ones"


# ---- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_rows_add_up_to_the_step(cost: StepCost, phase: str) -> None:
    shape = step_shape(cost, **PHASES[phase])
    rows = operator_rows(cost, shape)
    totals = step_totals(cost, shape, rows)
    assert totals["seconds"] == step_seconds(cost, shape)
    # No operator of today's graphs has another beside it: each all-reduce waits and is waited for.
    assert sum(row["seconds"] for row in rows) == pytest.approx(totals["seconds"], rel=1e-9)
    assert sum(row["share"] for row in rows) == pytest.approx(1, rel=1e-9)
    assert sum(totals["seconds_by_bound"].values()) == pytest.approx(totals["operator_seconds"], rel=1e-12)
    assert sum(totals["seconds_by_kind"].values()) == pytest.approx(totals["operator_seconds"], rel=1e-12)
    for row in rows:
        assert row["seconds"] > 0 and row["bound"] in BOUNDS
        # Nothing beats the roof.
        assert 0 < row["of_roof"] <= 1 + 1e-9
        assert row["of_peak"] is None or row["of_peak"] <= 1 + 1e-9
        assert row["of_bandwidth"] <= 1 + 1e-9
        assert row["hbm_bytes"] <= row["weight_bytes"] + row["kv_bytes"] + row["act_bytes"]
    names = {row["name"] for row in rows}
    decode = [name for name in names if name.startswith("attention_decode")]
    prefill = [name for name in names if name.startswith("attention_prefill")]
    assert bool(decode) == (phase != "prefill") and bool(prefill) == (phase != "decode")


def test_no_operator_is_quicker_by_rule_of_thumb() -> None:
    for model, policy, tensor in ((QWEN, Dense(), 1), (QWEN, BLOCKS, 4), (MIXTRAL, Dense(), 2), (WINDOWS, Dense(), 1)):
        ideal, thumb = (make(model, policy, profile=p, tensor=tensor) for p in ("ideal", "rule-of-thumb"))
        for phase in PHASES.values():
            shape = step_shape(ideal, **phase)
            for a, b in zip(operator_rows(ideal, shape), operator_rows(thumb, shape), strict=True):
                assert a["name"] == b["name"] and a["seconds"] <= b["seconds"]


def test_flops_of_a_decode_step_by_hand(qwen: StepCost) -> None:
    """64 tokens at 8192 of context through Qwen3-8B.

    Its hidden size is 4096, in 36 layers of 32 query and 8 KV heads of 128 and MLPs of 12288; the vocabulary 151936.
    Matrices: 36 x (4096 x (32 + 2 x 8) x 128 + 32 x 128 x 4096 + 3 x 4096 x 12288) + 4096 x 151936 = 7,568,097,280
    weights, each 2 FLOPs a token (the model's 8.19e9 parameters less the embedding table and the norms).
    Attention: 4 x 32 x 128 FLOPs per token read and layer.
    """
    shape = step_shape(qwen, **PHASES["decode"])
    rows = operator_rows(qwen, shape)
    weights = 36 * (4096 * 48 * 128 + 32 * 128 * 4096 + 3 * 4096 * 12288) + 4096 * 151936
    assert weights == 7_568_097_280
    gemms = [row for row in rows if row["kind"] == "gemm"]
    assert sum(row["flops"] for row in gemms) == 2 * weights * 64
    assert sum(row["weight_bytes"] for row in gemms) == 2 * weights
    (attention,) = [row for row in rows if row["kind"] == "attention_decode"]
    assert attention["flops"] == 36 * 4 * 32 * 128 * 64 * 8192
    assert attention["kv_bytes"] == 36 * 2 * 8 * 128 * 2 * 64 * 8192
    # 4 q_heads / (2 kv_heads x 2 B) FLOPs per byte; what queries and outputs add stays in the L2.
    assert attention["intensity"] == 4
    totals = step_totals(qwen, shape, rows)
    # Norms, RoPE, SiLU and sampling are less than a thousandth.
    matrices = sum(row["flops"] for row in gemms) + attention["flops"]
    assert matrices < totals["flops"] < 1.001 * matrices
    counts = QWEN.parameter_counts()
    assert weights == QWEN.parameters - counts["embedding"] - counts["norms"]


def test_prefill_flops_by_hand(qwen: StepCost) -> None:
    """8192 tokens of one prompt: 8192 x 8193 / 2 pairs in each layer; the LM head only runs for the last token."""
    rows = {row["name"]: row for row in operator_rows(qwen, step_shape(qwen, **PHASES["prefill"]))}
    assert rows["attention_prefill"]["flops"] == 36 * 4 * 32 * 128 * (8192 * 8193 // 2)
    assert rows["lm_head"]["flops"] == 2 * 4096 * 151936
    # Gate and up write 2 x 12288 x 8192 elements, more than the L2 holds; what does not fit goes through HBM.
    act = 8192 * (4096 + 2 * 12288) * 2
    assert rows["gate_up_proj"]["act_bytes"] == 36 * act
    assert rows["gate_up_proj"]["hbm_bytes"] == pytest.approx(
        36 * (2 * 4096 * 2 * 12288 + act - qwen.gpu.l2.size), rel=1e-12
    )


def test_tensor_parallelism_divides_the_matrices() -> None:
    one, four = make(), make(tensor=4)
    shape = step_shape(one, **PHASES["decode"])

    def flops(cost: StepCost) -> float:
        return sum(row["flops"] for row in operator_rows(cost, shape) if row["dtype"] is not None)

    assert flops(one) == 4 * flops(four)
    reduce = [row for row in operator_rows(four, shape) if row["kind"] == "all_reduce"]
    # A ring over four GPUs: each sends 2 x 3/4 of 64 x 4096 bf16 elements, twice a layer and after the embedding.
    assert sum(row["comm_bytes"] for row in reduce) == (2 * 36 + 1) * 1.5 * 64 * 4096 * 2
    assert {row["stream"] for row in reduce} == {"comm"}
    assert {row["intensity"] for row in reduce} == {None}


# ---- documents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_graph_document(cost: StepCost, phase: str) -> None:
    shape = step_shape(cost, **PHASES[phase])
    document = graph_document(cost, shape)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["schema"] == "kinesim-graph/1"
    names = [node["name"] for node in document["nodes"]]
    assert names == [row["name"] for row in operator_rows(cost, shape)]
    dag = nx.DiGraph(document["edges"])
    assert sorted(dag) == sorted(names) and nx.is_directed_acyclic_graph(dag)
    # The same must be done before an operator as in the whole graph.
    for name in names:
        assert nx.ancestors(dag, name) == nx.ancestors(cost.graph.dag, name) & set(names)
    layers = {node["section"]: node["count"] for node in document["nodes"] if node["section"]}
    assert sum(layers.values()) == cost.graph.model.layers


def test_absent_operators_are_drawn_around(qwen: StepCost) -> None:
    rows = operator_rows(qwen, step_shape(qwen, **PHASES["decode"]))
    dag = present_graph(qwen.graph, [row["name"] for row in rows])
    assert "attention_prefill" not in dag and len(dag) == len(rows) == len(qwen.operators) - 1
    assert list(nx.topological_sort(dag)) == [row["name"] for row in rows]
    assert list(dag.edges) == list(itertools.pairwise(row["name"] for row in rows))


def test_roofline_document(cost: StepCost) -> None:
    shapes = {name: step_shape(cost, **PHASES[name]) for name in ("decode", "prefill")}
    document = roofline_document(cost, shapes)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["schema"] == "kinesim-roofline/1"
    assert [step["label"] for step in document["steps"]] == ["decode", "prefill"]
    assert document["roofs"]["used"][0] == cost.graph.precision.activations
    assert [point["name"] for point in document["points"] if point["step"] == "prefill"] == [
        row["name"] for row in operator_rows(cost, shapes["prefill"])
    ]
    for point in document["points"]:
        roof = point["attainable_flops_per_s"]
        assert (roof is None) == (point["flops"] == 0)
        if roof is not None and point["intensity"] is not None:
            # One of the roofs of the plot, or the L2's below them.
            peak = cost.gpu.peak.get(point["dtype"], float("inf"))
            assert roof <= min(peak, point["intensity"] * cost.gpu.memory.bandwidth) * (1 + 1e-9)
            assert point["flops_per_s"] <= roof * (1 + 1e-9)


def test_every_kind_of_operator_has_a_colour_and_a_name() -> None:
    assert set(KIND_COLOURS) == set(KIND_WORDS) == set(KINDS)
    assert set(BOUND_COLOURS) == set(BOUND_WORDS) == set(BOUNDS)


def test_ridge_point_of_the_document(qwen: StepCost) -> None:
    shapes = {"decode": step_shape(qwen, **PHASES["decode"])}
    # 989.5 TFLOP/s dense bf16 over 4.8 TB/s.
    assert roofline_document(qwen, shapes)["roofs"]["ridge_point"]["bf16"] == pytest.approx(206, abs=0.5)


# ---- pictures --------------------------------------------------------------------------------------------------------


def _svg_texts(path: Path) -> str:
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return "\n".join("".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text"))


def test_graph_as_svg(cost: StepCost, tmp_path: Path) -> None:
    shape = step_shape(cost, **PHASES["mixed"])
    path = tmp_path / "graph.svg"
    draw_graph(cost, shape, path)
    text = _svg_texts(path)
    for row in operator_rows(cost, shape):
        assert row["name"].partition(" [")[0] in text
    assert cost.gpu.title in text and cost.profile.name in text and shape_words(shape) in text
    counts = {op.count for op in cost.operators if op.count > 1}
    assert all(f"× {count} layers" in text for count in counts)


def test_roofline_as_svg(tmp_path: Path) -> None:
    cost = make(tensor=4)
    path = tmp_path / "roofline.svg"
    draw_roofline(cost, {name: step_shape(cost, **phase) for name, phase in PHASES.items()}, path)
    text = _svg_texts(path)
    for word in (
        "attention_decode",
        "attention_prefill",
        "gate_up_proj",
        "ridge point 206",
        "HBM3e",
        "no HBM",
        *PHASES,
    ):
        assert word in text
    # They do no arithmetic, so there is no place for them on the plot; the picture says so.
    assert "Without FLOPs, not drawn" in text and "mlp_all_reduce" in text


def test_pictures_as_png(qwen: StepCost, tmp_path: Path) -> None:
    shape = step_shape(qwen, **PHASES["decode"])
    draw_graph(qwen, shape, tmp_path / "a" / "graph.PNG")
    draw_roofline(qwen, {"decode": shape}, tmp_path / "roofline.png")
    for path in (tmp_path / "a" / "graph.PNG", tmp_path / "roofline.png"):
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n") and len(content) > 30_000
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["roofline.png"]  # no temporary file is left


def test_same_picture_same_bytes(qwen: StepCost, tmp_path: Path) -> None:
    shape = step_shape(qwen, **PHASES["mixed"])
    for name in ("1.svg", "2.svg"):
        draw_graph(qwen, shape, tmp_path / name)
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()


def test_texts_stay_inside_and_apart(cost: StepCost) -> None:
    """No text of either picture leaves the canvas or lies on another."""
    from simulator import graphview, roofline

    shapes = {name: step_shape(cost, **PHASES[name]) for name in ("prefill", "mixed")}
    for figure in (*(graphview._figure(cost, shape) for shape in shapes.values()), roofline._figure(cost, shapes)):
        renderer = figure.canvas.get_renderer()
        width, height = figure.bbox.width, figure.bbox.height
        texts = [t for t in [*figure.texts, *(t for axes in figure.axes for t in axes.texts)] if t.get_text()]
        assert len(texts) > 10
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if not text.get_rotation()]
        for text, box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, f"{text!r} is clipped"
        for (a, first), (b, second) in itertools.combinations(boxes, 2):
            assert not first.overlaps(second), f"{a!r} lies on {b!r}"


def test_long_titles_are_set_smaller() -> None:
    from simulator import graphview, roofline

    cost = make(load_model("Qwen/Qwen3-235B-A22B-FP8"), gpu="mi455x", precision=Precision("fp8", "fp8", "fp8"))
    shape = step_shape(cost, **PHASES["decode"])
    for figure in (graphview._figure(cost, shape), roofline._figure(cost, {"decode": shape})):
        (title,) = [t for t in (*figure.texts, *figure.axes[0].texts) if "Qwen3-235B-A22B-FP8 on" in t.get_text()]
        box = title.get_window_extent(figure.canvas.get_renderer())
        assert "(announced)" in title.get_text()
        assert title.get_fontsize() < 13 and box.x0 >= 0 and box.x1 <= figure.bbox.width


@pytest.mark.parametrize("name", ["graph.pdf", "graph", "graph.svg.txt"])
def test_unknown_endings(qwen: StepCost, tmp_path: Path, name: str) -> None:
    shape = step_shape(qwen, **PHASES["decode"])
    for draw in (lambda path: draw_graph(qwen, shape, path), lambda path: draw_roofline(qwen, {"x": shape}, path)):
        with pytest.raises(InputError, match=r"\.svg or \.png"):
            draw(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_unwritable_path(qwen: StepCost, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="cannot be written"):
        draw_graph(qwen, step_shape(qwen, **PHASES["decode"]), tmp_path / "file" / "graph.svg")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_roofline_wants_one_to_six_steps(qwen: StepCost, tmp_path: Path) -> None:
    shape = step_shape(qwen, **PHASES["decode"])
    for shapes in ({}, {str(i): shape for i in range(7)}):
        with pytest.raises(InputError, match="1 to 6 steps"):
            draw_roofline(qwen, shapes, tmp_path / "roofline.svg")
        with pytest.raises(InputError, match="1 to 6 steps"):
            roofline_document(qwen, shapes)
