"""How long a run holds up the event loop of the program that awaits it."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time

from liteflow import Dag, ExecutorService, task
from tests.benchmarks.compare import Figure

TASKS = 2_000
MOST_LAG_MS = 50.0
PAUSE_S = 0.002


@task
def add_one(number: int) -> int:
    return number + 1


async def probe(lags_ms: list[float]) -> None:
    """Sleep a little, again and again, and note by how much it took longer."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(PAUSE_S)
        lags_ms.append((time.perf_counter() - began - PAUSE_S) * 1000)


async def measure(what: str, directory: str) -> float:
    """The greatest lag beside nothing, one `arun`, or a run whose events are read."""
    with Dag("lag", db_path=os.path.join(directory, "lag.db")) as dag:
        for number in range(TASKS):  # each one a task, which takes longer to make ready than one that is mapped
            add_one(number)
    lags_ms: list[float] = []
    probing = asyncio.ensure_future(probe(lags_ms))
    if what == "nothing":
        await asyncio.sleep(1.0)
    elif what == "arun":
        assert (await dag.arun(max_workers=2)).state == "success"
    else:
        service = await asyncio.to_thread(ExecutorService(dag.db_path, max_workers=2).start)
        handle = await service.asubmit(dag)
        events = [event async for event in handle.events()]
        assert len(events) >= 2 * TASKS
        assert (await handle).state == "success"
        await asyncio.to_thread(service.stop)
    probing.cancel()
    return max(lags_ms)


def lagging(rounds: int, _workers: int) -> list[Figure]:
    """The greatest lags, medians of the rounds, each in a new process: what is imported on the way counts."""
    found = {}
    for what in ("nothing", "arun", "events"):
        values = []
        for _ in range(rounds):
            done = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.lagging", what], capture_output=True, text=True, check=True
            )
            values.append(float(done.stdout))
        found[what] = statistics.median(values)
    return [
        Figure(
            f"lag-{what}",
            f"greatest lag of an event loop beside {TASKS:,} tasks, {words}",
            f"{found[what]:.0f} ms",
            f"{found['nothing']:.0f} ms",
            found[what],
            MOST_LAG_MS,
            "ms",
        )
        for what, words in (("arun", "`await dag.arun()`"), ("events", "`async for` over its events"))
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(asyncio.run(measure(sys.argv[1], scratch)))
