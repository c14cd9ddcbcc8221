"""Runs that tasks begin, and what tasks ask about other runs: the statements.

Which run a task instance has begun is kept under `TRIGGERED_KEY` among its XComs, written in the transaction that
creates the run: so a try that follows a crash finds it, and no second one is begun. `clear` deletes it with the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select

from liteflow.states import EndReason, TaskInstanceState
from liteflow.storage.functions import begins_with
from liteflow.storage.moments import to_microseconds
from liteflow.storage.recording import store_xcoms, text_for_database
from liteflow.storage.statements import in_groups
from liteflow.storage.tables import DAG, DAG_RUN, TASK_INSTANCE, TASK_TRY, XCOM

TRIGGERED_KEY = "triggered_dag_run"
"""The XCom under which it is kept which run a task instance has begun."""


class Triggered(NamedTuple):
    """A run that a task instance has begun, or taken as its own."""

    dag_id: str
    run_id: str
    try_number: int
    """The latest try that did."""


class FoundRun(NamedTuple):
    """A run of a dag."""

    pk: int
    run_id: str
    logical_date_us: int
    state: str


def is_running_try(connection: Connection, pk: int, try_number: int, executor_pk: int) -> bool:
    """Whether that try of the task instance goes on, and is this executor's."""
    ti = TASK_INSTANCE.c
    row = connection.execute(select(ti.state, ti.try_number, ti.executor_pk).where(ti.id == pk)).one_or_none()
    return row is not None and tuple(row) == (TaskInstanceState.RUNNING, try_number, executor_pk)


def triggered_by(connection: Connection, pk: int) -> Triggered | None:
    """The run that the task instance has begun, if it has."""
    data = connection.scalar(select(XCOM.c.value).where(XCOM.c.task_instance_pk == pk, XCOM.c.key == TRIGGERED_KEY))
    return None if data is None else Triggered(*json.loads(data))


def keep_triggered(connection: Connection, pk: int, triggered: Triggered) -> None:
    """Remember the run that the task instance has begun."""
    connection.execute(delete(XCOM).where(XCOM.c.task_instance_pk == pk, XCOM.c.key == TRIGGERED_KEY))
    store_xcoms(connection, [(pk, TRIGGERED_KEY, "json", json.dumps(list(triggered)).encode())])


def ended_with_error(connection: Connection, pk: int, try_number: int) -> bool:
    """Whether that try of the task instance, which another one followed, raised: it did not crash or was ended."""
    old = TASK_TRY.c
    reason = connection.scalar(select(old.end_reason).where(old.task_instance_pk == pk, old.try_number == try_number))
    return reason is EndReason.ERROR


def instances_of_run(connection: Connection, run_pk: int) -> list[int]:
    """Keys of the run's task instances, but for those that were removed from the dag."""
    ti = TASK_INSTANCE.c
    return list(connection.scalars(select(ti.id).where(ti.run_pk == run_pk, ti.state != TaskInstanceState.REMOVED)))


def runs_of(
    connection: Connection, dag_id: str, dates_us: Sequence[int] | None = None, run_ids: Sequence[str] | None = None
) -> list[FoundRun]:
    """Runs of a dag, the oldest first. `dates_us`: of each of these logical dates the run that was created last;
    `run_ids`: only those."""
    dag_id = text_for_database(dag_id)
    wanted: list[list[Any]] = [[]]
    if dates_us is not None:
        wanted = [[DAG_RUN.c.logical_date.in_(some)] for some in in_groups(dates_us)]
    elif run_ids is not None:
        wanted = [[DAG_RUN.c.run_id.in_(some)] for some in in_groups([text_for_database(one) for one in run_ids])]
    found = [
        FoundRun(pk, run_id, to_microseconds(moment), str(state))
        for conditions in wanted
        for pk, run_id, moment, state in connection.execute(
            select(DAG_RUN.c.id, DAG_RUN.c.run_id, DAG_RUN.c.logical_date, DAG_RUN.c.state)
            .join(DAG, DAG.c.id == DAG_RUN.c.dag_pk)
            .where(DAG.c.dag_id == dag_id, *conditions)
            .order_by(DAG_RUN.c.id)
        )
    ]
    if dates_us is None:
        return found
    return sorted({run.logical_date_us: run for run in sorted(found)}.values())


def states_in(
    connection: Connection, run_pk: int, task_ids: Sequence[str] | None = None, group_id: str | None = None
) -> list[tuple[str, int, str]]:
    """Task id, map index and state of task instances of a run. `group_id`: those whose ids begin with the group's."""
    ti = TASK_INSTANCE.c
    base = select(ti.task_id, ti.map_index, ti.state).where(ti.run_pk == run_pk, ti.state != TaskInstanceState.REMOVED)
    if group_id is not None:
        base = base.where(begins_with(ti.task_id, text_for_database(f"{group_id}.")))
    if task_ids is None:
        parts = [base]
    else:
        ids = [text_for_database(one) for one in task_ids]
        parts = [base.where(ti.task_id.in_(some)) for some in in_groups(ids)]
    return [
        (task_id, map_index, str(state))
        for part in parts
        for task_id, map_index, state in connection.execute(part.order_by(ti.id))
    ]


def is_known(connection: Connection, dag_id: str) -> bool:
    """Whether a dag of that id has ever run in this database."""
    return connection.scalar(select(DAG.c.id).where(DAG.c.dag_id == text_for_database(dag_id))) is not None


def latest_run_of(connection: Connection, dag_id: str) -> int | None:
    """The key of the dag's run that was created last."""
    return connection.scalar(
        select(DAG_RUN.c.id)
        .join(DAG, DAG.c.id == DAG_RUN.c.dag_pk)
        .where(DAG.c.dag_id == text_for_database(dag_id))
        .order_by(DAG_RUN.c.id.desc())
        .limit(1)
    )
