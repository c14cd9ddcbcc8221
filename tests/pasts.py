"""Databases with a past, written with the statements that runs use, and without running anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, select, update

from liteflow.states import RunState, TaskInstanceState
from liteflow.storage import recording
from liteflow.storage.engine import Database
from liteflow.storage.recording import DagFacts, TaskFacts, TryEnded
from liteflow.storage.tables import DAG_RUN

DAY_US = 24 * 3600 * 1_000_000


def dead_executor(database: Database, token: str = "gone") -> int:
    """The key of an executor service that has ended."""
    with database.write() as connection:
        pk = recording.record_executor(connection, token, "localhost", 1, 1)
        recording.end_executor(connection, pk, 2)
    return pk


def make_run(
    database: Database,
    executor_pk: int,
    run_id: str,
    *,
    dag_id: str = "etl",
    days_ago: float = 0.0,
    took_s: float = 10.0,
    state: RunState = RunState.SUCCESS,
    mapped: int = 3,
    lines: int = 2,
    value: bytes = b"1",
    retain_runs: int | None = None,
    retain_days: float | None = None,
) -> int:
    """A run of `first` and of `many`, mapped over so many items, with log lines and XComs; returns its key.

    The state failed fails `first`; queued and running begin nothing.
    """
    at = time.time_ns() // 1000 - int(days_ago * DAY_US)
    facts = DagFacts(dag_id, None, (), "{}", None, "x", retain_runs, retain_days)
    tasks = [TaskFacts("first", (), "all_success"), TaskFacts("many", ("first",), "all_done", range(mapped))]
    with database.write() as connection:
        dag_pk = recording.record_dag(connection, facts, at)
        run_pk, pks = recording.create_run(
            connection,
            dag_pk,
            run_id=run_id,
            logical_date=datetime.fromtimestamp(at / 1e6, UTC),
            params_json="{}",
            structure_digest="x",
            tasks=tasks,
            executor_pk=executor_pk,
            now_us=at,
        )
        if state is RunState.QUEUED:
            return run_pk
        recording.own_run(connection, run_pk, executor_pk, at)
        if state is RunState.RUNNING:
            return run_pk
        _end_all(connection, pks, executor_pk, at, int(took_s * 1_000_000), state, lines, value)
        recording.end_run(connection, run_pk, state, None, at + int(took_s * 1_000_000))
    return run_pk


def _end_all(
    connection: Connection,
    pks: Sequence[int],
    executor_pk: int,
    at: int,
    took_us: int,
    state: RunState,
    lines: int,
    value: bytes,
) -> None:
    recording.claim(connection, [(pk, 1) for pk in pks], executor_pk)
    first = TaskInstanceState.FAILED if state is RunState.FAILED else TaskInstanceState.SUCCESS
    states = [first, *(TaskInstanceState.SUCCESS for _ in pks[1:])]
    ended = [TryEnded(pk, 1, one, None, None, at, at + took_us, None) for pk, one in zip(pks, states, strict=True)]
    recording.record_ended(connection, ended, executor_pk)
    recording.store_xcoms(connection, [(pk, "return_value", "json", value) for pk in pks[1:]])
    logs = [(pk, 1, at, None, None, f"line {number}") for pk in pks for number in range(lines)]
    recording.store_logs(connection, logs)


def run_ids(database: Database) -> list[str]:
    """The ids of all runs, oldest first."""
    with database.read() as connection:
        return list(connection.scalars(select(DAG_RUN.c.run_id).order_by(DAG_RUN.c.created_at, DAG_RUN.c.id)))


def set_run(database: Database, run_pk: int, **values: object) -> None:
    """Change a run's row."""
    with database.write() as connection:
        connection.execute(update(DAG_RUN).where(DAG_RUN.c.id == run_pk).values(values))
