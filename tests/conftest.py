"""The command line for tests of the whole: called inside this process, or as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import browser, visit  # fixtures

__all__ = ["browser", "visit"]
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: exit code and both streams as text."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def kinesim(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """`kinesim("run", "x.yaml")` inside this process: fast, for the many cases. Output is caught at the descriptors."""
    from simulator import cli

    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["kinesim", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int), f"main() ended with {code!r}"
        return Outcome(code, out, err)

    yield call
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def environment() -> dict[str, str]:
    """This process's environment, in which a child finds the four packages wherever it is started."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def command() -> Callable[..., list[str]]:
    """`command("run", "x.yaml")`: the words that start the command line as a process of its own."""
    return lambda *arguments: [sys.executable, "-m", "simulator.cli", *arguments]


@pytest.fixture
def kinesim_process(tmp_path: Path, command: Callable[..., list[str]], environment: dict[str, str]) -> Command:
    """`kinesim_process("run", "x.yaml")` as a process of its own, started in `tmp_path` with its output in pipes."""

    def call(*arguments: str) -> Outcome:
        words = command(*arguments)
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call
