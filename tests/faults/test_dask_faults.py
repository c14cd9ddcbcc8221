"""Dask's workers and its scheduler die while tasks run: nothing is lost, and nothing is recorded twice.

A few dozen tasks as a rule; 2,000, with a worker killed every second, with LITEFLOW_TESTS=full.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, get_current_context, task
from liteflow.errors import RunInterruptedError
from tests.conftest import ROOT, wait_until

FULL = os.environ.get("LITEFLOW_TESTS") == "full"
TASKS = 2000 if FULL else 120
TASK_S = 0.02
KILL_EVERY_S = 1.0

pytestmark = [pytest.mark.xdist_group("dask"), pytest.mark.timeout(600 if FULL else 120)]


def append(path: str, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


@task(retries=20)
def effect(path: str, item: int) -> int:
    append(path, json.dumps([item, get_current_context()["try_number"]]))
    time.sleep(TASK_S)
    return item


@task
def total(items: list[int]) -> int:
    return sum(items)


@task
def holds_on(path: str) -> int:
    append(path + ".begun", "")
    while not os.path.exists(path):
        time.sleep(0.01)
    return get_current_context()["try_number"]


@pytest.fixture
def cluster() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


def pids(client: Any) -> list[int]:
    """Of the workers that live."""
    return [
        worker.process.process.pid
        for worker in client.cluster.workers.values()
        if worker.process is not None and worker.process.process is not None and worker.process.process.pid
    ]


def test_no_try_begins_twice_and_none_is_lost_while_workers_are_killed(
    db: str, tmp_path: Path, cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    ledger = str(tmp_path / "ledger")
    with Dag("hurt", db_path=db, max_crashes=100) as dag:
        total(effect.partial(path=ledger).expand(item=list(range(TASKS))))
    over = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while not over.wait(KILL_EVERY_S):
            alive = pids(cluster)
            if len(cluster.nthreads()) == 2 and len(alive) == 2:  # else nothing would ever be done
                os.kill(alive[len(killed) % 2], signal.SIGKILL)
                killed.append(1)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run = dag.run(progress=False, executor=cluster.get_executor())
    finally:
        over.set()
        killer.join()
    assert killed
    assert run.state == "success"
    assert run.xcom("total") == sum(range(TASKS))
    began = Counter(tuple(json.loads(line)) for line in Path(ledger).read_text().splitlines())
    assert [one for one, count in began.items() if count > 1] == []
    recorded = Counter((one.map_index, one.try_number) for one in run.tries() if one.task_id == "effect")
    recorded.update((one.map_index, one.try_number) for one in run.task_instances() if one.task_id == "effect")
    assert max(recorded.values()) == 1
    assert set(began) <= set(recorded)
    print(f"{TASKS} tasks, {len(killed)} workers killed, {len(recorded) - TASKS} tries crashed")


def test_a_scheduler_that_vanishes_leaves_the_run_to_be_taken_up(db: str, tmp_path: Path) -> None:
    with Dag("orphaned", db_path=db) as dag:
        holds_on(str(tmp_path / "go"))
    file = tmp_path / "scheduler.json"
    script = "import sys; from distributed.cli.dask_{0} import main; sys.exit(main(sys.argv[1:]))"
    started = []
    for what, more in (("scheduler", ["--port", "0", "--host", "127.0.0.1"]), ("worker", ["--no-nanny"])):
        command = [sys.executable, "-c", script.format(what), "--no-dashboard", "--scheduler-file", str(file), *more]
        null = subprocess.DEVNULL
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=env, stdin=null, stdout=null, stderr=null))
        wait_until(lambda: file.exists() and file.read_text().endswith("}"), "no scheduler")
    address = json.loads(file.read_text())["address"].removeprefix("tcp://")

    def end_it() -> None:
        try:
            wait_until((tmp_path / "go.begun").exists, "it does not run", timeout_s=60)
        finally:
            started[0].kill()

    ending = threading.Thread(target=end_it)
    ending.start()
    try:
        with pytest.raises(RunInterruptedError, match="the connection to the Dask scheduler at .* is lost"):
            dag.run(progress=False, executor=f"dask://{address}", run_id="r")
    finally:
        ending.join()
        for process in started:
            process.kill()
            process.wait()
    (tmp_path / "go").touch()
    run = dag.resume("r", progress=False)
    assert (run.state, run.xcom("holds_on")) == ("success", 2)
