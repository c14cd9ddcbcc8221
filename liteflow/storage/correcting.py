"""Changing what is recorded of a run that nobody drives, by an explicit command: `clear` and `mark`. Statements only.

Each function works inside a write scope and never commits. `change_run` comes first: it changes the run only while it
stands as the caller has seen it, so that nothing is changed under a service that has taken it up meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, exists, func, or_, select, true, update

from liteflow.scheduling.leaves import Standing
from liteflow.states import UNFINISHED, EndReason, RunState, TaskInstanceState
from liteflow.storage.recording import keep_latest_tries, not_begun
from liteflow.storage.statements import changed, in_groups
from liteflow.storage.tables import CALLBACK, DAG_RUN, TASK_INSTANCE
from liteflow.storage.untrusted import names

_S = TaskInstanceState

SKIPPED_BY_END = "skipped when the run was ended early ({})"
"""What is said of a task instance that stays skipped when its run goes on."""


class Chosen(NamedTuple):
    """A task instance that a command is about, as it stands before."""

    pk: int
    task_id: str
    map_index: int
    state: TaskInstanceState
    try_number: int


class SeenRun(NamedTuple):
    """How a run stood when a command looked at it."""

    pk: int
    state: RunState
    owner_pk: int | None


def change_run(connection: Connection, seen: SeenRun, **values: Any) -> bool:
    """Set columns of a run; False, and nothing is changed, when it does not stand any more as it was seen."""
    result = connection.execute(
        update(DAG_RUN)
        .where(
            DAG_RUN.c.id == seen.pk,
            DAG_RUN.c.state == seen.state,
            DAG_RUN.c.executor_pk.is_not_distinct_from(seen.owner_pk),
        )
        .values(values)
    )
    return changed(result) == 1


def forget_end(connection: Connection, run_pk: int) -> None:
    """Callbacks of the dag that were due when the run ended are so no more: it ends anew, and perhaps otherwise."""
    connection.execute(delete(CALLBACK).where(CALLBACK.c.run_pk == run_pk, CALLBACK.c.kind.startswith("dag_")))


def is_being_ended(connection: Connection, run_pk: int) -> bool:
    """Whether a run that is not over was being ended early: somebody cancelled it, it took too long, or `fail_fast`."""
    ti = TASK_INSTANCE.c
    skipped = exists().where(
        ti.run_pk == run_pk, ti.state == _S.SKIPPED, ti.end_reason.in_([EndReason.TIMEOUT, EndReason.FAIL_FAST])
    )
    cancelled = select(DAG_RUN.c.cancel_requested_at.is_not(None)).where(DAG_RUN.c.id == run_pk)
    return bool(connection.scalar(cancelled)) or bool(connection.scalar(select(skipped)))


def standings(connection: Connection, run_pk: int) -> dict[str, Standing]:
    """How each task stands, upstream before downstream; what was removed from the dag is left out."""
    ti = TASK_INSTANCE.c
    rows = connection.execute(
        select(ti.task_id, ti.state, func.min(ti.id), func.min(ti.upstream), func.min(ti.trigger_rule))
        .where(ti.run_pk == run_pk, ti.state != _S.REMOVED)
        .group_by(ti.task_id, ti.state)
    ).all()
    found: dict[str, Standing] = {}
    for task_id, state, _, upstream, rule in sorted(rows, key=lambda row: row[2]):
        before = found.get(task_id)
        states = frozenset({state}) if before is None else before.states | {state}
        found[task_id] = Standing(names(upstream) if before is None else before.upstream, rule, states)
    return found


def chosen_instances(
    connection: Connection,
    run_pk: int,
    *,
    tasks: Mapping[str, Collection[int] | None] | None,
    states: Collection[TaskInstanceState],
    or_skipped_for: Collection[EndReason] = (),
) -> list[Chosen]:
    """The task instances in one of `states`, of all tasks or, by task id, those with these map indexes, None for all.

    `or_skipped_for` adds those that were skipped for one of these reasons. In the order of their keys.
    """
    ti = TASK_INSTANCE.c
    base = select(ti.id, ti.task_id, ti.map_index, ti.state, ti.try_number).where(
        ti.run_pk == run_pk,
        or_(
            ti.state.in_(list(states)),
            and_(ti.state == _S.SKIPPED, ti.end_reason.in_(list(or_skipped_for))),
        ),
    )
    if tasks is None:
        conditions: list[Any] = [true()]
    else:
        whole = [task_id for task_id, indexes in tasks.items() if indexes is None]
        conditions = [ti.task_id.in_(some) for some in in_groups(whole)]
        parts = [(task_id, some) for task_id, indexes in tasks.items() for some in in_groups(sorted(indexes or ()))]
        conditions += [and_(ti.task_id == task_id, ti.map_index.in_(some)) for task_id, some in parts]
    found = [Chosen(*row) for condition in conditions for row in connection.execute(base.where(condition))]
    return sorted(found)


def has_failed_beside(connection: Connection, run_pk: int, pks: Collection[int]) -> bool:
    """Whether a task instance has failed that is not among those of `pks`."""
    ti = TASK_INSTANCE.c
    failed = connection.scalars(select(ti.id).where(ti.run_pk == run_pk, ti.state == _S.FAILED))
    return any(pk not in pks for pk in failed)


def settle_early_skips(connection: Connection, run_pk: int) -> None:
    """What an early end skipped stays so in a run that goes on. It must not look as if that were still being ended."""
    ti = TASK_INSTANCE.c
    for reason in (EndReason.TIMEOUT, EndReason.FAIL_FAST):
        connection.execute(
            update(TASK_INSTANCE)
            .where(ti.run_pk == run_pk, ti.state == _S.SKIPPED, ti.end_reason == reason)
            .values(end_reason=None, error=func.coalesce(ti.error, SKIPPED_BY_END.format(reason)))
        )


def end_orphaned_tries(connection: Connection, pks: Sequence[int], error: str, now_us: int) -> None:
    """End the running tries of task instances, whose owner is gone, as crashed; the task instances are queued."""
    ti = TASK_INSTANCE.c
    for some in in_groups(pks):
        connection.execute(
            update(TASK_INSTANCE)
            .where(ti.id.in_(some), ti.state == _S.RUNNING)
            .values(state=_S.QUEUED, end_reason=EndReason.CRASHED, error=error, ended_at=now_us)
        )


def mark(connection: Connection, pks: Sequence[int], state: TaskInstanceState, now_us: int) -> None:
    """Put task instances, none of which is running, into a final state, in a new generation.

    Their tries, logs and XComs are kept; nothing of the latest try is left in the task instance itself.
    """
    keep_latest_tries(connection, pks)
    ti = TASK_INSTANCE.c
    for some in in_groups(pks):
        connection.execute(
            update(TASK_INSTANCE)
            .where(ti.id.in_(some), ti.state != _S.RUNNING)
            .values(
                {
                    **not_begun(),
                    "state": state,
                    "end_reason": EndReason.MARKED,
                    "ended_at": now_us,
                    "generation": ti.generation + 1,
                    "uncounted_tries": ti.try_number,
                    "crashes": 0,
                }
            )
        )


def is_ended_as(connection: Connection, run_pk: int, reason: EndReason) -> bool:
    """Whether a task instance of the run ended, or was skipped, for that reason."""
    ti = TASK_INSTANCE.c
    return bool(connection.scalar(select(exists().where(ti.run_pk == run_pk, ti.end_reason == reason))))


def has_unfinished(connection: Connection, run_pk: int) -> bool:
    """Whether a task instance of the run is not over."""
    ti = TASK_INSTANCE.c
    states = or_(*(ti.state == state for state in sorted(UNFINISHED)))
    return bool(connection.scalar(select(exists().where(ti.run_pk == run_pk, states))))
