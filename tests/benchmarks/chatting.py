"""How fast the lines of a task are captured, and how much that slows another task.

python -m tests.benchmarks.chatting LINES ROUNDS
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time

BURN_S = 1.0


def main(lines: int, rounds: int) -> None:
    from liteflow import Dag, ExecutorService, task
    from tests.benchmarks import bodies

    talk = task(log_cap_bytes=10**9)(bodies.write_lines)
    work = task(bodies.work)
    with Dag("talking") as talking:
        talk(lines)
    with Dag("working") as working:
        work(1)
    per_second: list[float] = []
    alone: list[float] = []
    beside: list[float] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        ExecutorService(os.path.join(directory, "flow.db"), max_workers=2) as service,
    ):
        service.submit(working).wait()
        for _ in range(rounds):
            alone.append(service.submit(working).wait().xcom("work"))
            began = time.perf_counter()
            handle = service.submit(talking)
            beside.append(service.submit(working).wait().xcom("work"))
            run = handle.wait()
            per_second.append(lines / (time.perf_counter() - began))
            if sum(1 for _ in run.logs()) < lines:
                raise SystemExit("lines are missing")
    slower = statistics.median(beside) / statistics.median(alone)
    print(json.dumps({"per_second": statistics.median(per_second), "slower": slower}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
