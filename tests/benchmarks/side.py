"""One side of a comparison, in a process of its own: warm, and idle while the other one is measured.

    python -m tests.benchmarks.side bare|liteflow WORKLOAD SIZE WORKERS

It writes a line when it is ready and then, for each line that it reads, runs the workload once and writes a JSON list
of the seconds that it took and the value that came out.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.benchmarks.workloads import WORKLOADS, Mapped, last_of


def serve(once: Callable[[], Any], value_of: Callable[[Any], Any]) -> None:
    """Run it once, and then each time that a line comes; what is measured is `once`."""
    once()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        result = once()
        took = time.perf_counter() - began
        print(json.dumps([took, value_of(result)]), flush=True)


def bare_side(name: str, size: int, workers: int) -> None:
    from tests.benchmarks.bare import run, run_mapped

    what = WORKLOADS[name].make(size)
    with ProcessPoolExecutor(workers) as pool:
        if isinstance(what, Mapped):
            serve(lambda: run_mapped(pool, *what), lambda result: result)
        else:
            serve(lambda: run(pool, what), lambda results: results[last_of(what)])


def liteflow_side(name: str, size: int, workers: int) -> None:
    from liteflow import ExecutorService
    from tests.benchmarks.ours import dag_of

    what = WORKLOADS[name].make(size)
    dag = dag_of(what, name)
    with (
        tempfile.TemporaryDirectory() as directory,
        ExecutorService(os.path.join(directory, "flow.db"), max_workers=workers) as service,
    ):

        def once() -> Any:
            run = service.submit(dag).wait()
            if run.state != "success":
                raise SystemExit(f"{name}: the run is {run.state}")
            return run

        serve(once, lambda run: run.xcom(last_of(what)))


if __name__ == "__main__":
    side, name, size, workers = sys.argv[1:]
    (bare_side if side == "bare" else liteflow_side)(name, int(size), int(workers))
