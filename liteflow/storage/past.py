"""What the run before did: for tasks that wait for their own past (`depends_on_past`, `wait_for_downstream`).

The run before is the run of the same dag with the greatest logical date before this one's; of several with that date
the one that was created last. Runs with this one's own logical date are not before it.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from liteflow.states import RunState, TaskInstanceState
from liteflow.storage.history import OWNER_COLUMNS, Owner
from liteflow.storage.models import DagRun, ExecutorRecord, TaskInstance

_S = TaskInstanceState


class PastTask(NamedTuple):
    """A task in the run before."""

    run_pk: int
    run_id: str
    run_state: RunState
    owner: Owner | None
    """Who drives, or drove, that run."""
    instances: list[tuple[int, TaskInstanceState]]
    """Map index and state, by map index; empty when the task was not in that run."""


def previous_instances(session: Session, run_pk: int, task_id: str) -> PastTask | None:
    """The task's instances in the run before `run_pk`; None if there is no run before."""
    this = aliased(DagRun)
    run = session.execute(
        select(DagRun.id, DagRun.run_id, DagRun.state, *OWNER_COLUMNS)
        .join(this, (this.dag_pk == DagRun.dag_pk) & (DagRun.logical_date < this.logical_date))
        .outerjoin(ExecutorRecord, ExecutorRecord.id == DagRun.executor_pk)
        .where(this.id == run_pk)
        .order_by(DagRun.logical_date.desc(), DagRun.id.desc())
        .limit(1)
    ).one_or_none()
    if run is None:
        return None
    before, run_id, state = run[:3]
    instances = session.execute(
        select(TaskInstance.map_index, TaskInstance.state)
        .where(TaskInstance.run_pk == before, TaskInstance.task_id == task_id)
        .order_by(TaskInstance.map_index)
    )
    return PastTask(
        before,
        run_id,
        state,
        None if run[3] is None else Owner(*run[3:]),
        [(map_index, instance) for map_index, instance in instances],
    )


def unsuccessful_downstream(session: Session, run_pk: int, task_id: str) -> list[tuple[str, int, TaskInstanceState]]:
    """Direct downstream task instances that are neither success nor skipped: task id, map index and state.

    `run_pk` is the run in which they are looked for, `PastTask.run_pk`. What was removed from the dag does not count.
    """
    rows = session.execute(
        select(TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state)
        .where(
            TaskInstance.run_pk == run_pk,
            TaskInstance.state.not_in([_S.SUCCESS, _S.SKIPPED, _S.REMOVED]),
            # A task id holds nothing that JSON would escape: with its quotes it is found only as an item of the list.
            func.instr(TaskInstance.upstream, f'"{task_id}"') > 0,
        )
        .order_by(TaskInstance.id)
    )
    return [(downstream, map_index, state) for downstream, map_index, state in rows]
