"""Taking up runs whose owner is gone, or that failed: the statements. What is to be taken up is decided elsewhere.

Each function works inside a write scope and never commits. `put_back` is the one place where tries whose executor
service is gone are ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from sqlalchemy import ColumnElement, Connection, and_, case, func, literal, select, update

from liteflow.errors import NotFoundError, RunConflictError
from liteflow.states import EndReason, RunState, TaskInstanceState
from liteflow.storage.history import OWNER_COLUMNS, Owner
from liteflow.storage.recording import TaskFacts, add_instances, reopen
from liteflow.storage.statements import allow_time, changed, in_groups
from liteflow.storage.tables import DAG, DAG_RUN, EXECUTOR, TASK_INSTANCE, TASK_TRY, XCOM

_S = TaskInstanceState
_UNFINISHED = (RunState.QUEUED, RunState.RUNNING)

UNSEEN = 10
"""How many times as many executors may die under a task instance whose tries were not seen to begin: they had not,
mostly, but one that takes its executor with it before anything is recorded must not do that for ever."""


class RecordedRun(NamedTuple):
    """A run as it is recorded."""

    pk: int
    dag_id: str
    run_id: str
    state: RunState
    logical_date: datetime
    params_json: str
    structure_digest: str
    created_at: datetime
    is_cancel_requested: bool
    priority: int
    owner: Owner | None


class RecordedInstance(NamedTuple):
    """A task instance as it is recorded."""

    pk: int
    task_id: str
    map_index: int
    state: TaskInstanceState
    end_reason: EndReason | None
    try_number: int
    uncounted_tries: int
    crashes: int
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None
    reschedules: int
    error: str | None
    upstream: str
    trigger_rule: str
    generation: int
    began_at: datetime | None
    """When its latest try began; once it was started anew that may be one before."""

    @property
    def is_cleared(self) -> bool:
        """Whether it was started anew by a command and is not over since."""
        return self.generation > 0 and not self.state.is_terminal

    @property
    def has_run(self) -> bool:
        """Whether it is over and has run since it was started anew, or in the run whose values this one began with."""
        if not self.state.is_terminal:
            return False
        if self.end_reason is EndReason.MARKED:  # which says nothing of what happened
            return self.try_number > 0
        return self.end_reason is EndReason.REUSED or self.started_at is not None

    @property
    def is_in_try(self) -> bool:
        """Whether it is between two looks of one try of a sensor."""
        return self.state in (_S.QUEUED, _S.UP_FOR_RESCHEDULE) and self.started_at is not None and not self.end_reason


def find_run(connection: Connection, dag_id: str, run_id: str) -> RecordedRun | None:
    """The run of that dag and id."""
    found = _runs(connection, DAG.c.dag_id == dag_id, DAG_RUN.c.run_id == run_id)
    return found[0] if found else None


def unfinished_runs_of_others(connection: Connection, executor_pk: int, digests: Iterable[str]) -> list[RecordedRun]:
    """Runs of these structures that are not over and not driven by this executor, oldest first."""
    return _runs(
        connection,
        DAG_RUN.c.state.in_(_UNFINISHED),
        DAG_RUN.c.structure_digest.in_(list(digests)),
        func.coalesce(DAG_RUN.c.executor_pk, 0) != executor_pk,
    )


def running_runs_of(connection: Connection, dag_id: str) -> list[RecordedRun]:
    """Runs of a dag that are recorded as running, oldest first."""
    return _runs(connection, DAG.c.dag_id == dag_id, DAG_RUN.c.state == RunState.RUNNING)


def unfinished_runs_of(connection: Connection, dag_id: str) -> list[RecordedRun]:
    """Runs of a dag that are not over, oldest first."""
    return _runs(connection, DAG.c.dag_id == dag_id, DAG_RUN.c.state.in_(_UNFINISHED))


def _runs(connection: Connection, *conditions: object) -> list[RecordedRun]:
    rows = connection.execute(
        select(
            DAG_RUN.c.id,
            DAG.c.dag_id,
            DAG_RUN.c.run_id,
            DAG_RUN.c.state,
            DAG_RUN.c.logical_date,
            DAG_RUN.c.params,
            DAG_RUN.c.structure_digest,
            DAG_RUN.c.created_at,
            DAG_RUN.c.cancel_requested_at.is_not(None),
            DAG_RUN.c.priority,
            *OWNER_COLUMNS,
        )
        .join(DAG, DAG.c.id == DAG_RUN.c.dag_pk)
        .outerjoin(EXECUTOR, EXECUTOR.c.id == DAG_RUN.c.executor_pk)
        .where(*conditions)  # type: ignore[arg-type]
        .order_by(DAG_RUN.c.id)
    )
    found = []
    for row in rows:
        facts, owner = tuple(row[:10]), tuple(row[10:])
        found.append(RecordedRun._make((*facts, None if owner[0] is None else Owner(*owner))))
    return found


class _NamedRun(Protocol):
    """A run, read or recorded."""

    @property
    def dag_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def pk(self) -> int: ...


def refuse_half_deleted(connection: Connection, run: _NamedRun) -> RunState:
    """The state of the run now. Raises NotFoundError when it is gone, and RunConflictError once its deletion has begun:
    nobody may go on with what is left of it."""
    now = connection.execute(select(DAG_RUN.c.state, DAG_RUN.c.end_reason).where(DAG_RUN.c.id == run.pk)).one_or_none()
    if now is None:
        raise NotFoundError(f"run {run.run_id!r} of dag {run.dag_id!r} is not there any more", identifier=run.run_id)
    if now.end_reason is EndReason.PRUNED:
        raise RunConflictError(
            f"run {run.run_id!r} of dag {run.dag_id!r} is being deleted, and some of it is gone; start a new run",
            run_id=run.run_id,
        )
    state: RunState = now.state
    return state


def stands_as(connection: Connection, run: RecordedRun) -> bool:
    """Whether a run still has the state and the owner that `run` says."""
    return connection.execute(select(DAG_RUN.c.id).where(*_standing_as(run))).one_or_none() is not None


def _standing_as(run: RecordedRun) -> tuple[ColumnElement[bool], ...]:
    owner_pk = None if run.owner is None else run.owner.pk
    columns = DAG_RUN.c
    return columns.id == run.pk, columns.state == run.state, columns.executor_pk.is_not_distinct_from(owner_pk)


def hold(connection: Connection, run: RecordedRun) -> bool:
    """Keep others from taking a run until the end of the transaction; False when it does not stand any more as `run`
    says, or somebody else has just got hold of it, for whom it is not waited."""
    held = select(DAG_RUN.c.id).where(*_standing_as(run)).with_for_update(skip_locked=True)
    return connection.execute(held).one_or_none() is not None


def take_over(connection: Connection, run: RecordedRun, executor_pk: int, now_us: int) -> bool:
    """Make a run this executor's, if it still stands as `run` says; False when somebody else was first."""
    result = connection.execute(
        update(DAG_RUN)
        .where(*_standing_as(run))
        .values(
            executor_pk=executor_pk,
            state=RunState.RUNNING,
            started_at=func.coalesce(DAG_RUN.c.started_at, now_us),
            ended_at=None,
            end_reason=None,
        )
    )
    return changed(result) == 1


def note_begun(connection: Connection, executor_pk: int, tries: Iterable[tuple[int, int, int]]) -> None:
    """Record when running tries of an executor that is gone began, where it had not come to that.

    `tries`: of each the key of its task instance, its number, and microseconds since the epoch.
    """
    ti = TASK_INSTANCE.c
    for pk, number, at_us in tries:
        connection.execute(
            update(TASK_INSTANCE)
            .where(
                ti.id == pk,
                ti.try_number == number,
                ti.executor_pk == executor_pk,
                ti.state == _S.RUNNING,
                ti.started_at.is_(None),
            )
            .values(started_at=at_us)
        )


def put_back(
    connection: Connection,
    now_us: int,
    *,
    run_pk: int | None = None,
    executor_pk: int | None = None,
    reason: EndReason,
    error: str,
    max_crashes: int | None = None,
) -> set[int]:
    """End the running tries of a run, or of an executor, and put their task instances back into the queue.

    That uses up no retry. With `max_crashes` a try that had begun is counted as a crash, and a task instance that has
    had so many ends as failed instead; returns the keys of these. Those that were not seen to
    begin may be UNSEEN times as many.
    """
    ti = TASK_INSTANCE.c
    mine = [ti.run_pk == run_pk] if run_pk is not None else [ti.executor_pk == executor_pk]
    values: dict[str, Any] = {"state": _S.QUEUED, "uncounted_tries": ti.uncounted_tries + 1}
    if max_crashes is not None:
        queued, failed = (literal(state, ti.state.type) for state in (_S.QUEUED, _S.FAILED))
        old = TASK_TRY.c
        unseen = select(func.count()).where(
            old.task_instance_pk == ti.id,
            old.generation == ti.generation,
            old.end_reason == EndReason.CRASHED,
            old.started_at.is_(None),
        )
        had_begun = ti.started_at.is_not(None)
        values |= {
            "crashes": ti.crashes + case((had_begun, 1), else_=0),
            "state": case(
                (and_(had_begun, ti.crashes + 1 >= max_crashes), failed),
                (and_(~had_begun, unseen.scalar_subquery() + 1 >= UNSEEN * max_crashes), failed),
                else_=queued,
            ),
        }
    rows = connection.execute(
        update(TASK_INSTANCE)
        .where(ti.state == _S.RUNNING, *mine)
        .values(end_reason=reason, error=error, ended_at=now_us, **values)
        .returning(ti.id, ti.state)
    )
    return {pk for pk, state_now in rows if state_now is _S.FAILED}


def instances_of(connection: Connection, run_pk: int) -> list[RecordedInstance]:
    """The task instances of a run that are not removed, by key."""
    ti = TASK_INSTANCE.c
    before = select(func.max(TASK_TRY.c.started_at)).where(TASK_TRY.c.task_instance_pk == ti.id).scalar_subquery()
    began_at = case((ti.started_at.is_not(None), ti.started_at), (ti.generation > 0, before), else_=None)
    rows = connection.execute(
        select(
            ti.id,
            ti.task_id,
            ti.map_index,
            ti.state,
            ti.end_reason,
            ti.try_number,
            ti.uncounted_tries,
            ti.crashes,
            ti.started_at,
            ti.ended_at,
            ti.due_at,
            ti.reschedules,
            ti.error,
            ti.upstream,
            ti.trigger_rule,
            ti.generation,
            began_at,
        )
        .where(ti.run_pk == run_pk, ti.state != _S.REMOVED)
        .order_by(ti.id)
    )
    allow_time(connection, rows.rowcount)  # whoever asks has work with each of them, most often in a write scope
    return [RecordedInstance._make(row) for row in rows]


def removed_tries(connection: Connection, run_pk: int) -> dict[tuple[str, int], int]:
    """How many tries task instances have had that were removed from the run: by task id and map index.

    They come back when their task is expanded to as many again, and their tries are counted on.
    """
    ti = TASK_INSTANCE.c
    rows = connection.execute(
        select(ti.task_id, ti.map_index, ti.try_number).where(
            ti.run_pk == run_pk, ti.state == _S.REMOVED, ti.try_number > 0
        )
    )
    return {(task_id, map_index): number for task_id, map_index, number in rows}


def ever_crashed(connection: Connection, run_pk: int) -> set[int]:
    """The keys of task instances of a run of which a try has crashed."""
    ti = TASK_INSTANCE.c
    now = select(ti.id).where(ti.run_pk == run_pk, ti.end_reason == EndReason.CRASHED)
    before = (
        select(ti.id)
        .join(TASK_TRY, TASK_TRY.c.task_instance_pk == ti.id)
        .where(ti.run_pk == run_pk, TASK_TRY.c.end_reason == EndReason.CRASHED)
    )
    return set(connection.scalars(now.union(before)))


def collapse(connection: Connection, pks: Sequence[int]) -> None:
    """Make the task instances of a mapped task, by map index, one unexpanded and pending one; the others are removed.

    They come back, with their logs, when the task is expanded to as many again.
    """
    reopen(connection, pks[:1])
    connection.execute(update(TASK_INSTANCE).where(TASK_INSTANCE.c.id == pks[0]).values(map_index=-1))
    remove(connection, pks[1:])


def remove(connection: Connection, pks: Sequence[int]) -> None:
    """Task instances that are no longer in the dag."""
    for some in in_groups(pks):
        connection.execute(
            update(TASK_INSTANCE)
            .where(TASK_INSTANCE.c.id.in_(some))
            .values(state=_S.REMOVED, due_at=None, executor_pk=None, cancel_requested_at=None)
        )


def add(connection: Connection, run_pk: int, tasks: Sequence[TaskFacts]) -> None:
    """Task instances that have come into the dag, pending; those that were removed from it before come back."""
    for task in tasks:
        add_instances(connection, run_pk, task, task.map_indexes)


def rewire(connection: Connection, run_pk: int, tasks: Mapping[str, tuple[Sequence[str], str]], digest: str) -> None:
    """The edges and trigger rules with which the run goes on, by task id, and the digest of its dag now."""
    for task_id, (upstream, rule) in tasks.items():
        connection.execute(
            update(TASK_INSTANCE)
            .where(TASK_INSTANCE.c.run_pk == run_pk, TASK_INSTANCE.c.task_id == task_id)
            .values(upstream=json.dumps(list(upstream)), trigger_rule=rule)
        )
    connection.execute(update(DAG_RUN).where(DAG_RUN.c.id == run_pk).values(structure_digest=digest))


def forget_cancel(connection: Connection, run_pk: int) -> None:
    """What was asked for before a run was opened again is answered."""
    connection.execute(update(DAG_RUN).where(DAG_RUN.c.id == run_pk).values(cancel_requested_at=None))


def xcoms_of(
    connection: Connection, pks: Sequence[int], keys: Sequence[str]
) -> dict[tuple[int, str], tuple[str, bytes]]:
    """The XComs of these keys of task instances: (task instance's key, key) to (encoding, data)."""
    xcom = XCOM.c
    found: dict[tuple[int, str], tuple[str, bytes]] = {}
    for some in in_groups(pks):
        for pk, key, encoding, data in connection.execute(
            select(xcom.task_instance_pk, xcom.key, xcom.encoding, xcom.value).where(
                xcom.task_instance_pk.in_(some), xcom.key.in_(list(keys))
            )
        ):
            found[pk, key] = (encoding, data)
    return found
