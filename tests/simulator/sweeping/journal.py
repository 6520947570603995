"""Loaded into a sweep's workers by Dask (`distributed.worker.preload`): writes down what they do, and what kills them.

A line in the file JOURNAL for every worker (`worker PID`), and for every scenario (`begin HASH`, `end HASH`). One
takes at least PAUSE seconds, so that there is time to kill something; one whose seed is KILLER kills its worker.
"""

import os
import signal
import time
from typing import Any

from simulator.deployment import Deployment
from simulator.sweeping import work

if not hasattr(work, "originals"):  # Dask loads a preload twice
    work.originals = work.run_served, work.resolve  # type: ignore[attr-defined]
serve, resolve = work.originals  # type: ignore[attr-defined]
current = ""


def say(*words: object) -> None:
    handle = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (" ".join(map(str, words)) + "\n").encode())
    os.close(handle)


def resolved(*arguments: Any) -> work.Resolved:
    global current
    found = resolve(*arguments)
    current = found.hash
    return found


def served(deployment: Deployment) -> Any:
    say("begin", current)
    if deployment.scenario.config.seed == int(os.environ.get("KILLER", "-1")):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(os.environ["PAUSE"]))
    result = serve(deployment)
    say("end", current)
    return result


work.resolve, work.run_served = resolved, served  # type: ignore[assignment]
say("worker", os.getpid())
