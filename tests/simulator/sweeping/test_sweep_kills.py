"""A sweep whose client, worker, or both are killed with SIGKILL loses no row and has none twice. Real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from simulator.sweeping.dataset import known_hashes, read_rows

POINTS = 100
KILLER = POINTS - 1
"""The seed of a scenario that kills its worker, where a test wants one."""
SWEEP = f"""
base: chat-poisson
set: {{profile: ideal, engine: none, workload.requests: 5}}
vary: {{seed: 0..{POINTS - 1}:1}}
keep: [makespan_s]
"""


class Sweeps:
    """Starts and kills `kinesim sweep` on one data set."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.journal, self.out = folder, folder / "journal", folder / "out"
        (folder / "seeds.yaml").write_text(SWEEP)
        self.clients: list[subprocess.Popen[str]] = []
        self.environment = environment | {
            "DASK_DISTRIBUTED__WORKER__PRELOAD": str(Path(__file__).with_name("journal.py")),
            "JOURNAL": str(self.journal),
            "PAUSE": "0.03",
        }

    def start(self, *options: str, **extra: str) -> subprocess.Popen[str]:
        arguments = ["sweep", "seeds.yaml", "--out", str(self.out), "--workers", "2", "--format", "json", *options]
        client = subprocess.Popen(
            [sys.executable, "-m", "simulator.cli", *arguments],
            cwd=self.folder,
            env=self.environment | extra,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.clients.append(client)
        return client

    def said(self, word: str) -> list[str]:
        """What follows `word` in the journal's lines."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [line.split()[1] for line in lines if line.startswith(word)]

    def rows(self) -> int:
        return len(known_hashes(self.out))

    def workers(self) -> list[int]:
        return [pid for pid in map(int, self.said("worker")) if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.02)


@pytest.fixture
def sweeps(tmp_path: Path, environment: dict[str, str]) -> Any:
    made = Sweeps(tmp_path, environment)
    yield made
    for client in made.clients:
        client.kill()
        client.wait()
    for pid in made.workers():  # of a test that failed
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see which processes are alive")
def test_nothing_is_lost_or_there_twice_after_kills_of_worker_client_and_both(sweeps: Sweeps) -> None:
    client = sweeps.start()
    until(lambda: sweeps.rows() > 0, "the first rows")
    os.kill(sweeps.workers()[0], signal.SIGKILL)  # a worker: the sweep goes on
    before = sweeps.rows()
    until(lambda: sweeps.rows() > before, "rows after the worker's death")
    assert client.poll() is None
    client.kill()  # the client
    client.communicate()
    until(lambda: not sweeps.workers(), "the end of workers without a client")
    first = sweeps.rows()

    client = sweeps.start()
    until(lambda: sweeps.rows() > first, "the first rows of the second run")
    os.kill(sweeps.workers()[0], signal.SIGKILL)  # both
    client.kill()
    client.communicate()
    until(lambda: not sweeps.workers(), "the end of the other worker")
    second = sweeps.rows()
    assert first < second < POINTS

    # To the end, with a scenario that kills whoever works on it: it is given up, and nothing else is.
    out, err = sweeps.start(KILLER=str(KILLER)).communicate(timeout=120)
    document = json.loads(out)
    assert err == ""
    counts = document["counts"]
    assert (counts["chosen"], counts["ok"], counts["failed"]) == (POINTS, POINTS - 1, 1)
    assert (counts["before"], counts["simulated"]) == (second, POINTS - second)
    assert [row["seed"] for row in document["rows"]] == list(range(POINTS))
    assert document["rows"][KILLER]["status"] == "failed" and "died 3 times" in document["rows"][KILLER]["reason"]
    # Told to try again, and no longer deadly.
    out, _ = sweeps.start("--retry").communicate(timeout=120)
    counts = json.loads(out)["counts"]
    assert (counts["ok"], counts["failed"], counts["before"], counts["simulated"]) == (POINTS, 0, POINTS - 1, 1)

    rows = read_rows(sweeps.out)
    assert len(rows) == POINTS and rows["seed"].nunique() == POINTS
    parts = [pq.read_table(path, columns=["hash"]).column("hash") for path in sweeps.out.glob("part-*.parquet")]
    assert sum(len(part) for part in parts) == POINTS  # no row is there twice
    # Done twice is what was in flight: of a killed worker its batch; of a client the batches of both workers, and what
    # they had handed over within the last second. A scenario takes 0.03 s, a batch at most 2 s.
    ends = Counter(sweeps.said("end"))
    assert set(ends) == set(rows["hash"])
    twice = sum(count - 1 for count in ends.values())
    print(f"{twice} of {POINTS} scenarios were simulated twice after three kills from outside")
    assert twice < POINTS
    until(lambda: not sweeps.workers(), "the end of the workers")
