"""A service of several that share a history: begins runs of a wide dag until its time is over, and takes up others'.

    shared_flow.py NAME URL DIRECTORY SECONDS [LEASE_S]

A service that loses its lease is followed by another one, as in an application that lives on.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from liteflow import Dag, ExecutorService, LiteflowError, get_current_context, task
from liteflow.execution import leasing
from liteflow.storage import leases
from tests.crash import ledger

WIDTH = 12
PAUSE_S = 0.05


@task
def numbers() -> list[int]:
    return list(range(WIDTH))


@task
def work(number: int, directory: str) -> int:
    instance = get_current_context()["ti"]
    line = [instance.run_id, instance.task_id, instance.map_index, instance.try_number]
    ledger.append(Path(directory) / ledger.EFFECTS, line)
    threading.Event().wait(PAUSE_S)
    return number * number


@task
def total(values: list[int]) -> int:
    return sum(values)


def make(url: str, directory: str) -> Dag:
    """The dag, in that database."""
    with Dag("shared", db_path=url, max_crashes=1_000) as dag:
        total(work.partial(directory=directory).expand(number=numbers()))
    return dag


VALUE = sum(number * number for number in range(WIDTH))


def shorten_leases(lease_s: float) -> None:
    """Leases of that length, renewed and given up in proportion."""
    leases.LEASE_S, leasing.RENEW_S, leasing.LOST_S = lease_s, lease_s / 6, lease_s * 0.75


def main(name: str, url: str, directory: str, seconds: str, lease_s: str = "60") -> None:
    shorten_leases(float(lease_s))
    dag = make(url, directory)
    until = time.monotonic() + float(seconds)
    count = 0
    while time.monotonic() < until:
        try:
            with ExecutorService(url, dags=[dag], max_workers=2) as service:
                while time.monotonic() < until:
                    count += 1
                    run_id = f"{name}-{count}"
                    ledger.append(Path(directory) / "submitted.jsonl", run_id)
                    handle = service.submit(dag, run_id=run_id)
                    run = handle.wait()
                    ledger.append(Path(directory) / ledger.TOLD, [run_id, str(run.state)])
        except LiteflowError as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            threading.Event().wait(0.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
