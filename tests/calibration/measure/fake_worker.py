"""A worker that measures nothing: it answers at once, or does what the row's `m` stands for.

1xx: dies. 2xx: hangs. 3xx: has lost its GPU. 4xx: fails. 5xx: takes a second. 6xx: answers with a wrong column.
7xx: dies, loses its GPU or hangs (701, 702, 703) while it tries a configuration that it was not told to leave out.
Each task is written to the file that is named on the command line, with the process's id.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from calibration.measure.task import Task

print(json.dumps({"ready": os.getpid()}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    task = request["task"]
    m = task["row"].get("m", 0)
    with open(sys.argv[1], "a") as log:
        log.write(f"{os.getpid()} {m} {task['file']}\n")
    kind = m // 100
    deadly = f"some kernel: number={m}"
    if kind == 7 and deadly not in request["skip"]:
        print(json.dumps({"trying": deadly}), flush=True)
        kind = {701: 1, 702: 3, 703: 2}.get(m, 1)
    if kind == 1:
        print("Fatal Python error: Segmentation fault", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == 2:
        time.sleep(600)
    if kind == 5:
        time.sleep(1.0)
    key = Task(**task).key
    answer = {"ok": True, "key": key, "seconds": 0.01, "values": {"latency_us": float(m) + 0.5, "reps": 7}}
    if kind in (3, 4):
        answer = {"ok": False, "key": key, "seconds": 0.01, "failure": f"cannot {m}", "lost": kind == 3}
    if kind == 6:
        answer["values"] = {"latency_us": 1.0, "colour": "red"}
    print("not an answer", flush=True)
    print(json.dumps(answer), flush=True)
    if kind == 3:
        sys.exit(3)
