"""The page's state: from an address to a scenario and back, and nothing that a browser sends does anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.exploring.answer import command, document, elastic_document, scenario_yaml, show
from simulator.exploring.controls import CHOICE, CONTROLS, FIGURES, SLIDERS, choices
from simulator.exploring.panels import panels
from simulator.exploring.state import (
    Refused,
    Start,
    View,
    checked_moves,
    chosen,
    parse_query,
    position,
    resolve,
    write_query,
)
from simulator.headline import headline
from simulator.running import run_scenario
from workloads.scenario import load_scenario

START = Start("aime24-best-of-32")
MOVED = {
    "gpu": "b200-sxm", "tensor": "2", "hbm": "9.6 TB/s", "sms": "160", "price": "5", "model": "Qwen/Qwen3-32B",
    "precision": "fp8", "kv": "fp8", "attention": "block_top_k", "budget": "1024", "tp": "2", "engine": "sglang",
    "seqs": "128", "batch": "100", "context": "6000", "prompt": "400", "samples": "16",
}  # fmt: skip


def seen(**moves: str) -> View:
    return resolve(START, checked_moves(moves))


def test_what_is_moved_is_in_the_scenario() -> None:
    view = seen(**MOVED)
    config, gpu = view.scenario.config, view.scenario.gpu
    assert (gpu.memory.bandwidth, gpu.sms, gpu.peak["bf16"]) == (9.6e12, 160, 2 * view.base.peak["bf16"])
    assert gpu.peak["fp32"] == view.base.peak["fp32"]  # no tensor core's
    assert gpu.price is not None and gpu.price.usd_per_hour == 5
    assert config.attention.decode_cap(None) == 1024 and config.parallelism.tensor == 2
    assert (config.engine.name, config.engine.max_num_seqs, config.precision.kv) == ("sglang", 128, "fp8")
    assert (view.batch, view.context, view.prompt, view.samples) == (100, 6000, 400, 16)


def test_an_address_leads_to_the_same_state() -> None:
    view = seen(**MOVED)
    again = resolve(START, parse_query("?" + write_query(view.moves)))
    assert again.scenario.to_dict() == view.scenario.to_dict()
    assert (again.batch, again.context, again.prompt) == (view.batch, view.context, view.prompt)


def test_yaml_and_command_say_the_same_scenario(tmp_path: Path) -> None:
    view = resolve(
        Start("chat-poisson", ("workload.requests=30",)), {"gpu": "h100-sxm", "hbm": "4 TB/s", "tensor": "1.5"}
    )
    path = tmp_path / "copied.yaml"
    path.write_text(scenario_yaml(view), encoding="utf-8")
    copied = load_scenario(path)
    words = command(view).split(" --set ")
    said = load_scenario(words[0].split()[-1], [word.strip("'") for word in words[1:]])
    assert copied.gpu.memory.bandwidth == said.gpu.memory.bandwidth == 4e12
    results = [headline(run_scenario(one).summary) for one in (view.scenario, copied, said)]
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("key", SLIDERS)
def test_sliders_say_where_they_stand(key: str) -> None:
    """A slider's position becomes a text, and the text leads back to the position."""
    for octaves in (3.0, 5.5) if key in ("seqs", "batch", "context", "prompt", "samples", "budget") else (-1.0, 0.5):
        moves = {key: f"~{octaves}"} | ({"attention": "top_k"} if key == "budget" else {})
        view = seen(**moves)
        assert not view.moves[key].startswith("~")
        text, back = position(view, key)
        assert text == view.moves[key]
        assert back == pytest.approx(octaves, abs=0.1)  # whole numbers of SMs and sequences


@pytest.mark.parametrize(
    ("moves", "key", "part"),
    [
        ({"hbm": "4.8"}, "hbm", "a unit is missing"),
        ({"hbm": "nan TB/s"}, "hbm", "not a quantity"),
        ({"hbm": "4.8 TFLOP/s"}, "hbm", "wrong unit"),
        ({"hbm": "9e9 TB/s"}, "hbm", "orders of magnitude"),
        ({"hbm": "-1 TB/s"}, "hbm", "greater than zero"),
        ({"tensor": "inf"}, "tensor", "out of range"),
        ({"sms": "1.5"}, "sms", "not a whole number"),
        ({"sms": "~nan"}, "sms", "slider"),
        ({"gpu": "../secret"}, "gpu", "not a choice"),
        ({"gpu": "./own.yaml"}, "gpu", "not a choice"),
        ({"profile": "../x.npz"}, "profile", "not a choice"),
        ({"scenario": "other/x.yaml"}, "scenario", "not a choice"),
        ({"scenario": "production-reasoning"}, "scenario", "needs a trace"),
        ({"scenario": "deepseek-r1-gb200-rack"}, "scenario", "prefill and decode"),
        ({"scenario": "chat-poisson", "samples": "3"}, "samples", "one sample"),
        ({"attention": "block_top_k", "budget": "1000"}, "budget", "multiple of 16"),
        ({"precision": "nvfp4"}, "precision", "does not compute in fp4"),
        ({"gpu": "mi300x", "engine": "trtllm"}, "engine", "NVIDIA"),
        ({"seqs": "5000"}, "seqs", "out of range"),
        ({"tp": "3"}, "tp", "not a choice"),
        ({"tp": "64"}, "tp", "does not divide"),
        ({"ep": "2"}, "ep", "dense"),
        ({"model": "deepseek-ai/DeepSeek-R1"}, "model", "at least 8 GPUs"),
        ({"batch": "257"}, "batch", "1 to 256"),
        ({"context": "50000"}, "context", "1 to 40,960"),
    ],
)
def test_what_is_wrong_is_said_beside_its_control(moves: dict[str, str], key: str, part: str) -> None:
    with pytest.raises(Refused) as refused:
        show(seen(**moves))
    assert list(refused.value.messages) == [key]
    assert part in refused.value.messages[key]


def test_all_that_is_wrong_is_said_at_once() -> None:
    """Texts that mean nothing (batch, sms), figures that no GPU has (price, hbm), and what is no attention (budget)."""
    with pytest.raises(Refused) as refused:
        seen(batch="3.5", sms="-3", price="-1", hbm="-1 TB/s", l2rate="10 TB/s", context="100")
    assert set(refused.value.messages) == {"batch", "sms", "price", "hbm"}
    with pytest.raises(Refused) as refused:
        seen(batch="3.5", attention="block_top_k", budget="1000")
    assert set(refused.value.messages) == {"batch", "budget"}
    with pytest.raises(Refused) as refused:
        seen(tp="3")
    assert refused.value.messages["tp"] == "not a choice; found '3'; allowed: 1, 2, 4, 8, 16, 32, 64"


@pytest.mark.parametrize(
    ("query", "key", "part"),
    [
        ("?foo=1", "", "no such control"),
        ("?batch=5&batch=6", "batch", "twice"),
        ("?" + "&".join(f"a{i}=1" for i in range(200)), "", "too long"),
        ("?gpu=" + "x" * 1000, "gpu", "at most 200 characters"),
    ],
)
def test_addresses_that_are_none(query: str, key: str, part: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_query(query)
    assert part in refused.value.messages[key]


@pytest.mark.parametrize("data", [None, [], "x", {"hbm": 4.8}, {"hbm": None}, {1: "x"}, {"hbm": ["4.8 TB/s"]}])
def test_states_that_are_none(data: object) -> None:
    with pytest.raises(Refused):
        checked_moves(data)


TEXTS = st.one_of(
    st.text(max_size=12),
    st.floats(allow_nan=True).map(lambda value: f"~{value}"),
    st.tuples(st.floats(0.1, 1e4), st.sampled_from(["TB/s", "GB", "", "MB", " USD"])).map(lambda x: f"{x[0]:g}{x[1]}"),
    st.sampled_from(["{a: 1}", "[1]", "!!python/object:os.system x", "h200-sxm", "2", "64", "dense", "null", "~"]),
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(list(CONTROLS)), TEXTS, max_size=4))
def test_whatever_a_browser_sends_is_a_state_or_refused(moves: dict[str, str]) -> None:
    try:
        view = resolve(START, checked_moves(moves))
        shown = show(view)
    except Refused as refused:
        assert refused.messages and set(refused.messages) <= {"", *CONTROLS}
    else:
        assert shown.decode.seconds > 0
        assert set(view.moves) == set(moves)


def test_a_trace_begins_with_its_mean_lengths(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,input_len,output_len\n0,100,50\n1,300,150\n2,200,100\n", encoding="utf-8")
    view = resolve(Start("production-reasoning", (f"workload.trace.path={path}",)), {})
    assert (view.prompt, view.context) == (200, 250)  # in the middle of the mean output


def test_every_control_is_shown() -> None:
    view = seen(**MOVED)
    assert set(SLIDERS) | set(chosen(view)) == set(CONTROLS)
    assert set(choices()) == {key for key, control in CONTROLS.items() if control.kind == CHOICE}
    assert all(CONTROLS[key].group == "GPU" for key in FIGURES)


def test_panels_show_the_document_and_escape_it(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("gpu: {base: h200-sxm, title: <script>alert(1)</script>}\n" + BODY, encoding="utf-8")
    shown = show(resolve(Start(str(path)), {}))
    doc = document(shown)
    drawn = panels(doc, elastic_document(shown, quick=False))
    assert "<script>alert" not in "".join(drawn.values())
    assert "&lt;script&gt;" in drawn["roofline"]
    assert f"{doc['capacity']['sequences']:,} sequences" in drawn["capacity"]
    seconds = sum(row["seconds"] for row in doc["decode"]["operators"]) + doc["decode"]["host"]
    assert seconds == pytest.approx(doc["decode"]["seconds"])
    assert doc["cost"]["tpot_s"] == doc["decode"]["seconds"]
    price = doc["cost"]["usd_per_hour"] / 3600 * doc["cost"]["gpu_seconds_per_output_token"] * 1e6
    assert doc["cost"]["usd_per_million_output_tokens"] == pytest.approx(price)
    assert doc["law"]["ratio"] == pytest.approx(doc["cost"]["gpu_seconds_per_output_token"] / doc["law"]["law_s"])


BODY = """model: Qwen/Qwen3-8B
engine: vllm
workload: {strategy: {kind: chat}, requests: 4, prompt_tokens: 100, output_tokens: 100}
"""


def test_the_law_by_hand() -> None:
    """Qwen3-8B, dense, bf16: P = 8.19e9 parameters, 4 H D = 4 x 32 x 128 x 36 FLOPs a key, and two bytes each of 2 G D
    = 2 x 8 x 128 x 36 elements. A problem of one sample, prompt 1, output 2 x 999 such that the mean context is 1,000:
    the law reads a + t keys at token t, 1 + 1998 / 2 = 1,000 in the mean.
    """
    view = seen(samples="1", prompt="1", context="1000")
    found = document(show(view))["law"]
    ratio = 989.5e12 / 4.8e12
    flops = 2 * view.scenario.model.parameters + 4 * 32 * 128 * 36 * 1000
    moved = 4 * 8 * 128 * 36 * 1000
    assert found["output_tokens"] == 1998
    assert found["eflops"] == pytest.approx(flops + ratio * moved)
    assert found["law_s"] == pytest.approx((flops + ratio * moved) / 989.5e12)
