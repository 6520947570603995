"""Worker processes end with the process that made them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from simulator.processes import process_pool

PARENT = """
import os, time
from simulator.processes import process_pool
if __name__ == "__main__":
    with process_pool(2) as pool:
        print(*[pool.submit(os.getpid).result() for _ in range(4)], flush=True)
        pool.submit(time.sleep, 60)
        time.sleep(60)
"""


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks processes up in /proc")
def test_workers_of_a_killed_process_end(tmp_path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = {int(word) for word in parent.stdout.readline().split()}
    assert workers and all(alive(worker) for worker in workers)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 20
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < until, "a worker goes on without its parent"
        time.sleep(0.1)


def test_initializer_and_results(tmp_path) -> None:
    here = os.getcwd()
    with process_pool(1, initializer=os.chdir, initargs=(tmp_path,)) as pool:
        assert pool.submit(os.getcwd).result() == str(tmp_path)
    assert os.getcwd() == here


def test_an_interrupted_pool_does_not_wait() -> None:
    """Whatever ends the work ends the workers, in the middle of what they do."""
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), process_pool(2) as pool:
        workers = [pool.submit(os.getpid).result() for _ in range(2)]
        pool.submit(time.sleep, 60)
        raise KeyboardInterrupt
    assert time.monotonic() - started < 30
    assert not any(alive(worker) for worker in workers)
