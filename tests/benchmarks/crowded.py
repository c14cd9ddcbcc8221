"""A database with a long past, and how long the same dag takes in it, beside a new one.

python -m tests.benchmarks.crowded ROUNDS WORKERS
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from hashlib import sha256

RUNS, TASKS = 1_000, 1_000

COMMANDS = {
    "--help": ["--help"],
    "dags": ["dags"],
    "runs": ["runs"],
    "runs-week": ["runs", "--dag", "past", "--state", "success", "--since", "7d"],
    "runs-failed": ["runs", "--state", "failed", "--state", "interrupted"],
    "show": ["show", "past/past500"],
    "logs": ["logs", "past/past500"],
    "visualize": ["visualize", "past/past500"],
    "xcom": ["xcom", "past/past500", "t10"],
    "pools-list": ["pools", "list"],
}
"""What is compared with `--help`; each should take less than half a second more."""


def fill(path: str) -> None:
    """Write 1,000 finished runs of 1,000 tasks each, as liteflow records them; some with a line and a value."""
    import sqlalchemy as sa

    from liteflow.states import RunState, TaskInstanceState
    from liteflow.storage.schema import open_database
    from liteflow.storage.tables import DAG, DAG_RUN, LOG_RECORD, TASK_INSTANCE, XCOM

    database = open_database(path, create=True)
    now = time.time_ns() // 1000
    facts = {"params": "{}", "structure_digest": "0" * 64}
    with database.write() as session:
        dag = {"dag_id": "past", "tags": "[]", "created_at": now, "updated_at": now, **facts}
        session.execute(sa.insert(DAG), [dag])
        dag_pk = session.scalar(sa.select(DAG.c.id))
    for number in range(RUNS):
        at = now - (RUNS - number) * 3_600_000_000
        with database.write() as session:
            run = {
                "dag_pk": dag_pk,
                "run_id": f"past{number}",
                "state": RunState.SUCCESS,
                "logical_date": at,
                "created_at": at,
                "started_at": at,
                "ended_at": at + 10_000_000,
                **facts,
            }
            run_pk = session.execute(sa.insert(DAG_RUN), run).inserted_primary_key[0]  # type: ignore[index]
            first = number * TASKS + 1
            session.execute(
                sa.insert(TASK_INSTANCE),
                [
                    {
                        "id": first + task,
                        "run_pk": run_pk,
                        "task_id": f"t{task}",
                        "map_index": -1,
                        "upstream": "[]",
                        "trigger_rule": "all_success",
                        "state": TaskInstanceState.SUCCESS,
                        "generation": 0,
                        "try_number": 1,
                        "crashes": 0,
                        "started_at": at + task * 1_000,
                        "ended_at": at + task * 1_000,
                    }
                    for task in range(TASKS)
                ],
            )
            some = [{"task_instance_pk": first + task} for task in range(0, TASKS, 10)]
            line = {"try_number": 1, "at": at, "message": "a line of some forty characters, as they are"}
            session.execute(sa.insert(LOG_RECORD), [{**one, **line} for one in some])
            value = {"key": "return_value", "encoding": "json", "size_bytes": 1, "value": b"1"}
            session.execute(sa.insert(XCOM), [{**one, **value, "sha256": sha256(b"1").digest()} for one in some])
    database.close()


def main(rounds: int, workers: int) -> None:
    from liteflow import ExecutorService
    from tests.benchmarks.ours import dag_of
    from tests.benchmarks.workloads import layered

    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        paths = {name: os.path.join(directory, f"{name}.db") for name in ("new", "old")}
        fill(paths["old"])
        commands = _commands(paths["old"], rounds)
        times: dict[str, list[float]] = {name: [] for name in paths}
        services = {
            name: stack.enter_context(ExecutorService(path, max_workers=workers)) for name, path in paths.items()
        }
        dag = dag_of(layered(171), "layered")
        for number in range(4 * rounds + 1):
            for name, service in services.items():
                began = time.perf_counter()
                service.submit(dag).wait()
                if number:
                    times[name].append(time.perf_counter() - began)
    found = {name: statistics.median(some) for name, some in times.items()}
    print(json.dumps({**found, **commands}))


def _commands(path: str, rounds: int) -> dict[str, float]:
    """How much longer each command takes than `--help`."""
    environment = {**os.environ, "LITEFLOW_DB": path}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody has liteflow compiled for each command
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, args in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "liteflow", *args], env=environment, stdout=subprocess.DEVNULL, check=True
            )
            times[name].append(time.perf_counter() - began)
    found = {name: statistics.median(some) for name, some in times.items()}
    return {name: found[name] - found["--help"] for name in COMMANDS if name != "--help"}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
