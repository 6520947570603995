"""The documents are true: generated pages are what the code says, and the README's commands run as written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[tuple[str, str]]:
    """The README's shell commands with the remark behind each."""
    block = re.search(r"```sh\n(.*?)```", README, re.S)
    assert block
    lines = [line.partition(" #") for line in block[1].splitlines() if line.strip()]
    return [(command.strip(), remark.strip()) for command, _, remark in lines]


def kinesim(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    name, *arguments = shlex.split(command)
    assert name == "kinesim"
    process = [sys.executable, "-m", "simulator.cli", *arguments]
    return subprocess.run(
        process, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False
    )


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("command", "remark"), commands())
def test_readme_command(command: str, remark: str, tmp_path: Path) -> None:
    if "FILE" in command:
        trace = tmp_path / "trace.csv"
        trace.write_text("arrival_s,input_len,output_len\n0,100,20\n0.5,200,10\n")
        command = command.replace("FILE", str(trace))
    done = kinesim(command, tmp_path)
    assert done.returncode == 0, done.stderr
    figure = re.match(r"([\d.]+ min)", remark)
    if figure:
        assert figure[1] in done.stdout


SAMPLES = re.findall(r"```text\n\$ (kinesim [^\n]*)\n(.*?)```", README, re.S)


@pytest.mark.parametrize(("command", "output"), SAMPLES)
def test_readme_output_is_what_the_command_prints(command: str, output: str, tmp_path: Path) -> None:
    """Every line of the samples, but for the wall-clock time and the dots that stand for lines left out."""
    printed = {line.rstrip() for line in kinesim(command, tmp_path).stdout.splitlines()}
    sample = [line for line in output.splitlines() if line.strip() and line != "..." and "simulated in" not in line]
    assert len(sample) > 10 and [line for line in sample if line.rstrip() not in printed] == []


def test_readme_gpu_example_loads(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", README, re.S)
    assert block
    (tmp_path / "fast-h200.yaml").write_text(block[1])
    done = kinesim("kinesim run chat-poisson --set gpu=./fast-h200.yaml --set workload.requests=20", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "H200 with HBM4: 990 TFLOP/s bf16, 8 TB/s" in done.stdout


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link
