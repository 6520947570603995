"""The command line when all is well: what its commands print and write, and how it behaves in pipes and when stopped.

What they do with bad input is in `test_bad_input.py`; whether the numbers are right is tested where they are computed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest

from simulator.store import load_result

CHAT = """\
gpu: h200-sxm
model: Qwen/Qwen3-8B
workload:
  strategy: {kind: chat}
  requests: 40
  prompt_tokens: {kind: uniform, low: 50, high: 900}
  output_tokens: {kind: uniform, low: 5, high: 300}
  arrivals: {kind: poisson, rate: 4 /s}
"""
GROUPS = """\
gpu: h200-sxm
model: Qwen/Qwen3-8B
workload:
  strategy: {kind: best_of_n, samples: 8, acceptance: 0.3, stop_on_accept: true}
  requests: 5
  prompt_tokens: 200
  output_tokens: {kind: lognormal, median: 400, sigma: 0.6, max: 4000}
"""
LONG = CHAT.replace("requests: 40", "requests: 300000").replace("4 /s", "5 /s")
"""A simulation of about half a minute: long enough to be stopped in the middle."""

RESULT_FILES = {"report.html", "result.json", "requests.parquet", "timeline.parquet", "trace.json"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with two scenarios."""
    (tmp_path / "chat.yaml").write_text(CHAT)
    (tmp_path / "groups.yaml").write_text(GROUPS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(outcome) -> dict[str, Any]:
    """The JSON document that a command printed."""
    assert (outcome.code, outcome.err) == (0, "")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(outcome.out, parse_constant=refuse)


def without_timing(text: str | bytes) -> dict[str, Any]:
    """A result's document without what the wall clock says, and without the seconds it took anywhere."""
    content = json.loads(text)
    assert set(content.pop("timing")) >= {"wall_s", "total_s", "events"}
    return content


# ---- what is printed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "schema"),
    [
        (("run", "chat.yaml"), "kinesim-result/1"),
        (("graph",), "kinesim-graph/1"),
        (("graph", "--phase", "mixed", "--batch", "7", "--query", "300"), "kinesim-graph/1"),
        (("graph", "chat.yaml", "--phase", "prefill", "--batch", "2", "--query", "128"), "kinesim-graph/1"),
        (("roofline", "--out", "roof.svg"), "kinesim-roofline/1"),
        (("list", "gpus"), "kinesim-list-gpus/1"),
        (("list", "models"), "kinesim-list-models/1"),
        (("list", "scenarios"), "kinesim-list-scenarios/1"),
        (("list", "profiles"), "kinesim-list-profiles/1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_json_has_a_schema(arguments: tuple[str, ...], schema: str, here: Path, kinesim) -> None:
    assert document(kinesim(*arguments, "--format", "json"))["schema"] == schema


@pytest.mark.parametrize("what", ["scenario", "gpu", "profile"])
def test_schemas_are_schemas(what: str, kinesim) -> None:
    schema = document(kinesim("schema", what))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]


def test_bundled_and_own_scenarios_keep_the_schema(here: Path, kinesim) -> None:
    """An editor that completes by the schema must not complain about files that kinesim accepts."""
    import yaml

    from workloads.scenario import SCENARIO_FOLDER

    validator = jsonschema.Draft202012Validator(document(kinesim("schema", "scenario")))
    for path in [*SCENARIO_FOLDER.glob("*.yaml"), here / "chat.yaml", here / "groups.yaml"]:
        validator.validate(yaml.safe_load(path.read_text()))
    assert not validator.is_valid({"gpu": "h200-sxm", "modell": "x"})


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("gpus", ("a100-sxm", "h100-sxm", "h200-sxm", "h20", "gh200", "b200-sxm", "gb200", "b300-sxm", "gb300", "l40s",
                  "rtx-pro-6000", "mi300x", "mi325x", "mi355x", "r200", "mi455x")),
        ("models", ("Qwen/Qwen3-8B", "meta-llama/Meta-Llama-3.1-70B", "mistralai/Mixtral-8x7B-v0.1")),
        ("scenarios", ("aime24-best-of-32", "aime24-long-cot", "chat-poisson", "production-reasoning")),
        ("profiles", ("ideal", "rule-of-thumb")),
    ],
)  # fmt: skip
def test_list(what: str, names: tuple[str, ...], kinesim) -> None:
    listed = kinesim("list", what)
    assert (listed.code, listed.err) == (0, "")
    lines = [line.split() for line in listed.out.splitlines()]
    firsts = {words[0] for words in lines if words}
    assert set(names) <= firsts
    rows = document(kinesim("list", what, "--format", "json"))[what]
    assert set(names) <= {row["name"] for row in rows}
    assert all(value != "" for row in rows for value in row.values())


def test_table_of_a_run(kinesim) -> None:
    """A stranger finds what was simulated, the headline, the latencies, where the time went and what bounds it."""
    done = kinesim("run", "chat-poisson")
    assert (done.code, done.err) == (0, "")
    for word in (
        "What was simulated: chat-poisson", "NVIDIA H200", "Qwen/Qwen3-8B", "KV cache", "Headline", "time", "GPU-hours",
        "USD", "energy", "output tokens/s per GPU", "2,000 requests", "2,000 finished", "goodput", "ttft <= 2 s", "MFU",
        "MBU", "Latency", "TTFT", "TPOT", "ITL", "end to end", "Where the time went", "gate_up_proj", "HBM bandwidth",
        "Bound by", "h200-sxm@vllm-0.24.0", "80 % interval",
    ):  # fmt: skip
        assert word in done.out, word
    assert "\x1b" not in done.out, "colours in a pipe"
    assert max(map(len, done.out.splitlines())) <= 130


def test_tables_agree_with_documents(here: Path, kinesim) -> None:
    done = document(kinesim("run", "groups.yaml", "--format", "json"))
    table = kinesim("run", "groups.yaml").out
    requests = done["summary"]["requests"]
    assert requests["total"] == 40 and requests["finished"] + requests["aborted"] == 40 and requests["aborted"] > 0
    assert f"{requests['finished']} finished, {requests['aborted']} aborted" in table
    assert f"{done['summary']['problems']['solved']} of 5 with an accepted sample" in table
    assert "5 problems x 8 samples, stopped when one is accepted" in table


def test_table_of_a_graph(here: Path, kinesim) -> None:
    shown = kinesim("graph", "--batch", "64", "--context", "8192")
    assert (shown.code, shown.err) == (0, "")
    for word in ("Qwen/Qwen3-8B", "operator", "FLOP", "KV", "attention_decode", "lm_head", "HBM bandwidth", "bound"):
        assert word in shown.out, word
    nodes = document(kinesim("graph", "--batch", "64", "--context", "8192", "--format", "json"))["nodes"]
    assert all(node["name"] in shown.out for node in nodes)
    # 64 sequences read 8,192 tokens and write one, of 147,456 B of KV each (Qwen3-8B in bf16).
    assert sum(node["kv_bytes"] for node in nodes) == 64 * (8192 + 1) * 147456


def test_graph_files(here: Path, kinesim) -> None:
    printed = document(kinesim("graph", "--out", "step.json", "--format", "json"))
    assert json.loads((here / "step.json").read_text()) == printed
    assert kinesim("graph", "--out", "step.svg").code == 0
    assert ElementTree.parse(here / "step.svg").getroot().tag.endswith("svg")
    assert kinesim("graph", "--out", "deep/step.png").code == 0
    assert (here / "deep/step.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert {path.name for path in here.iterdir()} == {"chat.yaml", "groups.yaml", "step.json", "step.svg", "deep"}


def test_roofline_files(here: Path, kinesim) -> None:
    shown = kinesim("roofline", "--out", "roof.png")
    assert (shown.code, shown.err) == (0, "")
    assert "attention_decode" in shown.out and "roof.png" in shown.out and "h200-sxm" in shown.out
    assert (here / "roof.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_help_names_the_commands(kinesim_process) -> None:
    shown = kinesim_process("--help")
    assert (shown.code, shown.err) == (0, "")
    assert all(name in shown.out for name in ("run", "graph", "roofline", "list", "schema"))


# ---- what a run depends on -------------------------------------------------------------------------------------------


def makespan(outcome) -> float:
    return document(outcome)["summary"]["makespan_s"]


def test_assignments_change_the_result(here: Path, kinesim) -> None:
    """More bandwidth, more FLOP/s, an ideal profile: each faster. A bigger model: slower. At once, so that it shows."""
    base = ("run", "groups.yaml", "--format", "json")
    plain = makespan(kinesim(*base))
    fast = document(kinesim(*base, "--set", "gpu.memory.bandwidth='9.6 TB/s'"))
    assert fast["summary"]["makespan_s"] < 0.8 * plain
    assert fast["deployment"]["gpu"]["memory_bandwidth"] == 9.6e12
    assert fast["deployment"]["gpu"]["name"] == "h200-sxm (modified)"
    assert any("hypothetical" in note for note in fast["notes"])
    assert makespan(kinesim(*base, "--set", "gpu.memory.bandwidth=9.6 TB/s")) == fast["summary"]["makespan_s"]
    assert makespan(kinesim(*base, "--set", "profile=ideal")) < plain
    assert makespan(kinesim(*base, "--set", "gpu=b200-sxm")) < plain
    assert makespan(kinesim(*base, "--set", "model=qwen3-14b")) > 1.3 * plain
    assert makespan(kinesim(*base, "--set", "precision={weights: fp8, activations: fp8}")) < plain


def test_the_last_assignment_counts(here: Path, kinesim) -> None:
    done = document(kinesim("run", "chat.yaml", "--set", "seed=3", "--set", "seed=4", "--format", "json"))
    assert done["scenario"]["seed"] == 4


def test_a_gpu_of_ones_own(here: Path, kinesim) -> None:
    (here / "wide.yaml").write_text(
        "base: h200-sxm\ntitle: An H200 with twice the HBM\nmemory: {bandwidth: 9.6 TB/s}\nprice: null\n"
    )
    (here / "groups.yaml").write_text(GROUPS.replace("gpu: h200-sxm", "gpu: ./wide.yaml"))
    own = document(kinesim("run", "groups.yaml", "--format", "json"))
    assert own["deployment"]["gpu"]["name"] == "wide"
    assert own["deployment"]["gpu"]["memory_bandwidth"] == 9.6e12 and own["deployment"]["gpu"]["usd_per_hour"] is None
    same = kinesim(
        "run", "groups.yaml", "--set", "gpu={base: h200-sxm, memory: {bandwidth: 9.6 TB/s}}", "--format", "json"
    )
    assert makespan(same) == own["summary"]["makespan_s"]
    table = kinesim("run", "groups.yaml").out
    assert "An H200 with twice the HBM" in table and "no price" in table


def test_a_model_of_ones_own(here: Path, kinesim) -> None:
    """A folder as it is downloaded, with a config.json in it; named by the folder or by the file."""
    config = {
        "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "num_hidden_layers": 4, "hidden_size": 512,
        "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 32000,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
    }  # fmt: skip
    (here / "tiny").mkdir()
    (here / "tiny/config.json").write_text(json.dumps(config))
    found = []
    for path in ("./tiny", "tiny/config.json"):
        done = document(kinesim("run", "chat.yaml", "--set", f"model={path}", "--format", "json"))
        # Two tables; a layer: q and o 2 x 512 x 512, k and v 2 x 512 x 128, MLP 3 x 512 x 1,024, norms; a last norm.
        layer = 2 * 512 * 512 + 2 * 512 * 128 + 3 * 512 * 1024 + 2 * 512
        assert done["deployment"]["model"]["parameters"] == 2 * 32000 * 512 + 4 * layer + 512
        assert done["deployment"]["model"]["kv_bytes_per_token"] == 2 * 4 * 2 * 64 * 2
        assert done["deployment"]["model"]["name"] == "tiny"
        found.append(done["summary"])
    assert found[0] == found[1]


def test_production_with_a_trace(here: Path, kinesim) -> None:
    rows = "".join(f"{i / 4},{200 + i},{20 + i}\n" for i in range(60)) + "16,39000,5000\n"
    (here / "trace.csv").write_text("arrival_s,input_len,output_len\n" + rows)
    done = document(
        kinesim("run", "production-reasoning", "--set", "workload.trace.path=trace.csv", "--format", "json")
    )
    requests = done["summary"]["requests"]
    assert (requests["total"], requests["finished"], requests["rejected"]) == (61, 60, 1)
    assert any("1 request" in note and "rejected" in note for note in done["notes"])
    assert done["summary"]["tokens"]["output"] == sum(20 + i for i in range(60))


# ---- what is written -------------------------------------------------------------------------------------------------


def test_out_writes_four_whole_files(here: Path, kinesim) -> None:
    printed = document(kinesim("run", "groups.yaml", "--out", "new/out", "--format", "json"))
    out = here / "new/out"
    assert {path.name for path in out.iterdir()} == RESULT_FILES
    assert json.loads((out / "result.json").read_text()) == printed
    requests = pq.read_table(out / "requests.parquet")
    assert requests.num_rows == 40
    timeline = pq.read_table(out / "timeline.parquet").to_pydict()
    assert sum(timeline["steps"]) == printed["summary"]["batch"]["steps"]
    events = json.loads((out / "trace.json").read_text())["traceEvents"]
    assert events and all({"ph", "pid"} <= set(event) for event in events)
    again = load_result(out)
    assert again.summary == printed["summary"]
    assert sum(requests["generated"].to_pylist()) == again.summary["tokens"]["output"]


def test_out_replaces_a_result(here: Path, kinesim) -> None:
    assert kinesim("run", "chat.yaml", "--out", "out").code == 0
    before = (here / "out/result.json").stat().st_ino
    (here / "out/notes.txt").write_text("mine")
    done = kinesim("run", "chat.yaml", "--set", "seed=1", "--out", "out")
    assert done.code == 0 and "out" in done.out
    assert (here / "out/result.json").stat().st_ino != before, "written in place, not beside and then renamed"
    assert {path.name for path in (here / "out").iterdir()} == RESULT_FILES | {"notes.txt"}
    assert (here / "out/notes.txt").read_text() == "mine"
    assert json.loads((here / "out/result.json").read_text())["scenario"]["seed"] == 1


def test_same_seed_same_bytes(here: Path, kinesim) -> None:
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert kinesim("run", "groups.yaml", "--set", f"seed={seed}", "--out", folder).code == 0
    for name in RESULT_FILES - {"result.json"}:
        assert (here / "a" / name).read_bytes() == (here / "b" / name).read_bytes(), name
        assert (here / "a" / name).read_bytes() != (here / "c" / name).read_bytes(), name
    a, b, c = (without_timing((here / folder / "result.json").read_bytes()) for folder in "abc")
    assert json.dumps(a) == json.dumps(b)
    assert a["summary"] != c["summary"]


def test_the_scenario_in_a_result_runs_again(here: Path, kinesim) -> None:
    """A result carries its resolved scenario, which gives the same result."""
    first = document(kinesim("run", "groups.yaml", "--set", "gpu.memory.bandwidth=5 TB/s", "--format", "json"))
    (here / "again.yaml").write_text(json.dumps(first["scenario"]))  # JSON is YAML
    again = document(kinesim("run", "again.yaml", "--format", "json"))
    assert again["summary"] == first["summary"]


# ---- as a process ----------------------------------------------------------------------------------------------------


def test_nothing_on_stderr_in_a_pipe(tmp_path: Path, kinesim_process) -> None:
    """No progress, although the simulation takes longer than the time after which a terminal gets a bar."""
    (tmp_path / "chat.yaml").write_text(CHAT.replace("requests: 40", "requests: 12000"))
    done = kinesim_process("run", "chat.yaml", "--format", "json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["timing"]["total_s"] > 0.5


def test_ascii_terminals(tmp_path: Path, command, environment) -> None:
    (tmp_path / "chat.yaml").write_text(CHAT)
    done = subprocess.run(
        command("run", "chat.yaml"), cwd=tmp_path, env=environment | {"PYTHONIOENCODING": "ascii"},
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Headline" in done.stdout


@pytest.mark.parametrize(
    "arguments", [("run", "chat.yaml", "--format", "json"), ("run", "chat.yaml"), ("list", "gpus")]
)
def test_a_reader_that_goes_away(arguments: tuple[str, ...], tmp_path: Path, command, environment) -> None:
    """`kinesim ... | head -1`: the reader closes the pipe before all is written."""
    (tmp_path / "chat.yaml").write_text(CHAT)
    process = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # at once: the first flush meets a closed pipe
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) not in (0, 1)
    assert error == b""


def test_head(tmp_path: Path, command, environment) -> None:
    """In a real shell, where the reader takes one line first."""
    (tmp_path / "chat.yaml").write_text(CHAT)
    shell = f"{' '.join(command('run', 'chat.yaml', '--format', 'json'))} | head -1"
    done = subprocess.run(shell, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "{\n" and done.stderr == ""


def interrupt(words: list[str], environment: dict[str, str], folder: Path, number: int) -> tuple[int, float, str, str]:
    """Exit code, seconds from the signal to the end, stdout and stderr of a long simulation stopped in the middle."""
    (folder / "long.yaml").write_text(LONG)
    process = subprocess.Popen(
        words, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        # Past the start-up and the drawing of the requests: it has used this much time of the processor.
        stat = Path(f"/proc/{process.pid}/stat")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            fields = stat.read_text().rpartition(")")[2].split()
            if (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") > 2.5:
                break
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be stopped"
        start = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        return process.returncode, time.monotonic() - start, out, err
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc how far a process has come")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_the_middle(number: int, expected: int, tmp_path: Path, command, environment) -> None:
    """Ctrl-C ends within a second and leaves a result of before as it was, and nothing half-written beside it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/result.json").write_text("of before")
    code, seconds, out, err = interrupt(command("run", "long.yaml", "--out", "out"), environment, tmp_path, number)
    assert code == expected
    assert seconds < 1
    assert "Traceback" not in err and out == ""
    assert err == ("kinesim: interrupted\n" if number == signal.SIGINT else "")
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"result.json": "of before"}


NEVER = {"torch", "triton", "pandas", "matplotlib", "pyarrow"}
PROBE = """\
import sys
{code}
print("LOADED", sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize(
    ("code", "never"),
    [
        ("import simulator", NEVER | {"numpy", "simpy", "networkx", "pydantic", "typer", "rich"}),
        ("import simulator, simulator.cli", NEVER),
        ("import simulator.running, workloads.scenario", NEVER),
        (
            "from simulator import cli\nsys.argv = ['kinesim', 'run', 'chat.yaml']\n"
            "try:\n    cli.main()\nexcept SystemExit as end:\n    assert end.code == 0",
            NEVER,
        ),
    ],
    ids=["the package", "the command line", "the simulation", "a run"],
)
def test_start_up_is_light(code: str, never: set[str], tmp_path: Path, environment) -> None:
    """What is heavy and not needed stays out: that, not a stopwatch, is what keeps the start short."""
    (tmp_path / "chat.yaml").write_text(CHAT)
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(code=code)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.rpartition("LOADED")[2]
    assert sorted(name for name in never if f"'{name}'" in loaded) == []


# ---- no way to an internal error -------------------------------------------------------------------------------------

EXTREMES = [
    "workload.arrivals={kind: poisson, rate: 1e-300}",
    "workload.arrivals={kind: poisson, rate: 1e300}",
    "workload.arrivals={kind: gamma, rate: 1e-300, cv: 100}",
    "workload.arrivals={kind: closed_loop, concurrency: 2, think_time: 1e300}",
    "workload.timeout=1e300",
    "workload.timeout=1e-300",
    "workload.output_tokens=1",
    "workload.output_tokens=1000000000",
    "workload.priority={values: [-2147483648, 2147483648]}",
    "objective.ttft=1e-300",
    "gpu.memory.bandwidth=1e300 TB/s",
    "gpu.memory.bandwidth=1e-300 TB/s",
    "gpu.memory.capacity=1e300 GB",
    "gpu.power.tdp=1e300 kW",
    "gpu.price={usd_per_hour: 1e300, date: 2026-05}",
    "engine.max_model_len=2",
    "engine.block_size=65536",
    "engine.memory_utilisation=1.0e-300",
    "attention={kind: block_top_k, blocks: 99999999999999, page: 1}",
    "attention={kind: top_k, budget: 1}",
    "model.sliding_window=&a [*a]",
    "model.rope_theta=1e300",
    "name=" + "n" * 500,
    "name='\u2028\\n'",
    "description='[bold]x[/bold]'",
    "name='[/nothing]'",
    "gpu.title='[/nothing]'",
    "gpu='./" + "a" * 300 + "'",
    "model='./" + "a" * 300 + "'",
    "profile='./" + "a" * 300 + "'",
    "workload.trace.path='" + "a" * 300 + "'",
]


@pytest.mark.parametrize("text", EXTREMES, ids=lambda text: text[:60].encode("ascii", "replace").decode())
@pytest.mark.parametrize("form", ["table", "json"])
def test_no_value_is_an_internal_error(text: str, form: str, here: Path, kinesim) -> None:
    """A value is either simulated or refused; exit code 1 is for mistakes of the program."""
    (here / "chat.yaml").write_text(CHAT.replace("requests: 40", "requests: 4"))
    done = kinesim("run", "chat.yaml", "--set", text, "--format", form, "--out", "out")
    assert done.code in (0, 2), done.err
    assert done.err.count("\n") == (1 if done.code == 2 else 0)
    if form == "json" and done.code == 0:
        document(done)


@pytest.mark.parametrize("name", ["a" * 300 + ".yaml", "./" + "a" * 300 + ".yaml", "a" * 5000, "./\x01.yaml"])
def test_no_name_is_an_internal_error(name: str, here: Path, kinesim) -> None:
    done = kinesim("run", name)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
