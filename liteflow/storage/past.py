"""What the run before did: for tasks that wait for their own past (`depends_on_past`, `wait_for_downstream`).

The run before is the run of the same dag with the greatest logical date before this one's; of several with that date
the one that was created last. Runs with this one's own logical date are not before it.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, select

from liteflow.states import RunState, TaskInstanceState
from liteflow.storage.functions import Position
from liteflow.storage.history import OWNER_COLUMNS, Owner
from liteflow.storage.moments import to_microseconds
from liteflow.storage.tables import DAG, DAG_RUN, EXECUTOR, TASK_INSTANCE

_S = TaskInstanceState


class PastRun(NamedTuple):
    """The run before, and one of its tasks."""

    pk: int
    run_id: str
    state: RunState
    owner: Owner | None
    """Who drives, or drove, that run."""
    instances: list[tuple[int, TaskInstanceState]]
    """Map index and state, by map index; empty when the task was not in that run."""


def previous_instances(connection: Connection, run_pk: int, task_id: str) -> PastRun | None:
    """The task's instances in the run before `run_pk`; None if there is no run before."""
    this = DAG_RUN.alias()
    run = connection.execute(
        select(DAG_RUN.c.id, DAG_RUN.c.run_id, DAG_RUN.c.state, *OWNER_COLUMNS)
        .join(this, (this.c.dag_pk == DAG_RUN.c.dag_pk) & (DAG_RUN.c.logical_date < this.c.logical_date))
        .outerjoin(EXECUTOR, EXECUTOR.c.id == DAG_RUN.c.executor_pk)
        .where(this.c.id == run_pk)
        .order_by(DAG_RUN.c.logical_date.desc(), DAG_RUN.c.id.desc())
        .limit(1)
    ).one_or_none()
    if run is None:
        return None
    before, run_id, state = run[:3]
    instances = connection.execute(
        select(TASK_INSTANCE.c.map_index, TASK_INSTANCE.c.state)
        .where(TASK_INSTANCE.c.run_pk == before, TASK_INSTANCE.c.task_id == task_id)
        .order_by(TASK_INSTANCE.c.map_index)
    )
    return PastRun(
        before,
        run_id,
        state,
        None if run[3] is None else Owner(*run[3:]),
        [(map_index, instance) for map_index, instance in instances],
    )


def previous_success(
    connection: Connection, dag_id: str, run_id: str, logical_date_us: int
) -> tuple[int, int, int | None] | None:
    """Logical date, start and end, in microseconds, of the latest run of the dag that succeeded and whose logical date
    is before that one; of several with one date the one that was created last. None if there is none.
    """
    run = connection.execute(
        select(DAG_RUN.c.logical_date, DAG_RUN.c.created_at, DAG_RUN.c.ended_at)
        .join(DAG, DAG.c.id == DAG_RUN.c.dag_pk)
        .where(
            DAG.c.dag_id == dag_id,
            DAG_RUN.c.run_id != run_id,
            DAG_RUN.c.state == RunState.SUCCESS,
            DAG_RUN.c.logical_date < logical_date_us,
        )
        .order_by(DAG_RUN.c.logical_date.desc(), DAG_RUN.c.id.desc())
        .limit(1)
    ).one_or_none()
    if run is None:
        return None
    logical, began, ended = run
    return to_microseconds(logical), to_microseconds(began), None if ended is None else to_microseconds(ended)


def unsuccessful_downstream(
    connection: Connection, run_pk: int, task_id: str
) -> list[tuple[str, int, TaskInstanceState]]:
    """Direct downstream task instances that are neither success nor skipped: task id, map index and state.

    `run_pk` is the run in which they are looked for, `PastRun.pk`. What was removed from the dag does not count.
    """
    rows = connection.execute(
        select(TASK_INSTANCE.c.task_id, TASK_INSTANCE.c.map_index, TASK_INSTANCE.c.state)
        .where(
            TASK_INSTANCE.c.run_pk == run_pk,
            TASK_INSTANCE.c.state.not_in([_S.SUCCESS, _S.SKIPPED, _S.REMOVED]),
            # A task id holds nothing that JSON would escape: with its quotes it is found only as an item of the list.
            Position(TASK_INSTANCE.c.upstream, f'"{task_id}"') > 0,
        )
        .order_by(TASK_INSTANCE.c.id)
    )
    return [(downstream, map_index, state) for downstream, map_index, state in rows]
