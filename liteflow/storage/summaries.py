"""Runs at a glance: the instances of each task counted, and of many only those that one wants to see.

A run may have tens of thousands of task instances. What is read here grows with what is shown, apart from one pass over
the run's rows inside the database. Functions work inside a read scope.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, and_, func, literal, or_, select, type_coerce

from liteflow.states import EndReason, TaskInstanceState
from liteflow.storage.history import TryInfo
from liteflow.storage.moments import to_microseconds
from liteflow.storage.statements import in_groups
from liteflow.storage.tables import TASK_INSTANCE, TASK_TRY
from liteflow.storage.untrusted import checked, names

_S = TaskInstanceState


@dataclass(frozen=True)
class TaskSummary:
    """All instances of a task in a run."""

    task_id: str
    is_mapped: bool
    """Whether its instances have map indexes; not so before it is expanded."""
    counts: Mapping[TaskInstanceState, int]
    """How many of them are in which state; the states in which none is are missing."""
    upstream: tuple[str, ...]
    try_number: int
    """The highest of them."""
    started_at: datetime | None
    """When the first of their latest tries began."""
    ended_at: datetime | None
    """When the last of them was over; None while one is not."""

    @property
    def size(self) -> int:
        """How many instances there are."""
        return sum(self.counts.values())

    @property
    def duration(self) -> timedelta | None:
        """From the first beginning to the last end, if all are over."""
        return self.ended_at - self.started_at if self.started_at and self.ended_at else None


class ListedInstance(NamedTuple):
    """A task instance in a list, with what a list shows."""

    task_id: str
    map_index: int
    rendered_map_index: str | None
    state: TaskInstanceState
    end_reason: EndReason | None
    try_number: int
    started_at: datetime | None
    ended_at: datetime | None
    error: str | None

    @property
    def duration(self) -> timedelta | None:
        """How long the latest try took, if it is over."""
        return self.ended_at - self.started_at if self.started_at and self.ended_at else None


def task_summaries(connection: Connection, run_pk: int) -> list[TaskSummary]:
    """The tasks of a run, upstream before downstream, each with its instances counted."""
    ti = TASK_INSTANCE.c
    rows = connection.execute(
        select(
            ti.task_id,
            ti.state,
            func.count().label("count"),
            func.min(ti.id).label("first_pk"),
            func.max(ti.map_index).label("last_index"),
            func.min(ti.upstream).label("upstream"),
            func.max(ti.try_number).label("try_number"),
            func.min(ti.started_at).label("started_at"),
            func.max(ti.ended_at).label("ended_at"),
        )
        .where(ti.run_pk == run_pk)
        .group_by(ti.task_id, ti.state)
    ).all()
    by_task: dict[str, list[Any]] = {}
    for row in sorted(rows, key=lambda row: row.first_pk):
        by_task.setdefault(row.task_id, []).append(row)
    return [_summary(task_id, found) for task_id, found in by_task.items()]


def _summary(task_id: str, rows: Sequence[Any]) -> TaskSummary:
    """One task, from a row for each state, the one with the lowest key first."""
    return checked(
        TaskSummary(
            task_id=task_id,
            is_mapped=any(row.last_index >= 0 for row in rows),
            counts={row.state: row.count for row in rows},
            upstream=names(rows[0].upstream),
            try_number=max(row.try_number for row in rows),
            started_at=min((row.started_at for row in rows if row.started_at), default=None),
            ended_at=max((row.ended_at for row in rows if row.ended_at), default=None)
            if all(row.state.is_terminal for row in rows)
            else None,
        )
    )


def listed_instances(
    connection: Connection, run_pk: int, *, most: int | None, most_failed: int = 0
) -> dict[str, list[ListedInstance]]:
    """By task id and in the order of map indexes: all instances of tasks that have up to `most`, None for any number;
    of the other tasks the first `most_failed` that failed. Tasks of which nothing is listed are missing."""
    ti = TASK_INSTANCE.c
    columns = [getattr(ti, name) for name in ListedInstance._fields]
    if most is None:
        statement = select(*columns).where(ti.run_pk == run_pk)
    else:
        rank = func.row_number().over(partition_by=(ti.task_id, ti.state), order_by=ti.map_index)
        ranked = select(ti.id, ti.state, rank.label("rank"), func.count().over(partition_by=ti.task_id).label("size"))
        found = ranked.where(ti.run_pk == run_pk).subquery()
        statement = (
            select(*columns)
            .join(found, found.c.id == ti.id)
            .where(or_(found.c.size <= most, and_(found.c.state == _S.FAILED, found.c.rank <= most_failed)))
        )
    listed: dict[str, list[ListedInstance]] = {}
    for row in connection.execute(statement.order_by(ti.task_id, ti.map_index)):
        listed.setdefault(row.task_id, []).append(checked(ListedInstance(*row)))
    return listed


def listed_tries(connection: Connection, run_pk: int, *, most: int | None) -> dict[tuple[str, int], list[TryInfo]]:
    """By task id and map index: the tries that were followed by another, oldest first, of the tasks that have up to
    `most` instances, None for any number."""
    ti, old = TASK_INSTANCE.c, TASK_TRY.c
    statement = (
        select(
            ti.task_id,
            ti.map_index,
            old.try_number,
            old.state,
            old.end_reason,
            old.error,
            old.started_at,
            old.ended_at,
            old.slot,
        )
        .join(TASK_TRY, old.task_instance_pk == ti.id)
        .where(ti.run_pk == run_pk)
        .order_by(old.id)
    )
    if most is not None:
        few = select(ti.task_id).where(ti.run_pk == run_pk).group_by(ti.task_id).having(func.count() <= most)
        statement = statement.where(ti.task_id.in_(few))
    tries: dict[tuple[str, int], list[TryInfo]] = {}
    for row in connection.execute(statement):
        tries.setdefault((row.task_id, row.map_index), []).append(checked(TryInfo(*row)))
    return tries


class TimedTry(NamedTuple):
    """A try with its times in microseconds since 1970 in UTC, or a task instance that ended without one."""

    task_id: str
    map_index: int
    try_number: int
    state: TaskInstanceState
    end_reason: EndReason | None
    slot: int | None
    started_us: int | None
    ended_us: int | None
    rendered_map_index: str | None
    is_latest: bool
    """Whether no other try of its task instance follows."""


_CALENDAR = (to_microseconds(datetime.min.replace(tzinfo=UTC)), to_microseconds(datetime.max.replace(tzinfo=UTC)))


def timed_tries(connection: Connection, run_pk: int) -> list[TimedTry]:
    """All tries of a run, and its task instances that ended without one: one pass over the run's rows.

    Raises ValueError for times that are in no calendar.
    """
    ti, old = TASK_INSTANCE.c, TASK_TRY.c

    def micros(column: Any) -> Any:
        return type_coerce(column, BigInteger)  # hundreds of thousands of datetimes would be made for nothing

    latest = select(
        ti.task_id,
        ti.map_index,
        ti.try_number,
        ti.state,
        ti.end_reason,
        ti.slot,
        micros(ti.started_at),
        micros(ti.ended_at),
        ti.rendered_map_index,
        literal(True),
    ).where(ti.run_pk == run_pk, or_(ti.started_at.is_not(None), ti.ended_at.is_not(None)))
    earlier = (
        select(
            ti.task_id,
            ti.map_index,
            old.try_number,
            old.state,
            old.end_reason,
            old.slot,
            micros(old.started_at),
            micros(old.ended_at),
            ti.rendered_map_index,
            literal(False),
        )
        .join(TASK_TRY, old.task_instance_pk == ti.id)
        .where(ti.run_pk == run_pk)
    )
    found = [TimedTry(*row) for row in connection.execute(earlier)]
    found += [TimedTry(*row) for row in connection.execute(latest)]
    first, last = _CALENDAR
    for one in found:
        checked(one)
        for moment in (one.started_us, one.ended_us):
            if moment is not None and not first <= moment <= last:
                raise ValueError(f"{moment} is no time")
    return found


def failed_tasks(connection: Connection, run_pks: Sequence[int]) -> dict[int, int]:
    """For each run in which tasks failed, how many: a task counts once, however many of its instances did."""
    ti = TASK_INSTANCE.c
    counts: dict[int, int] = {}
    for some in in_groups(run_pks):
        rows = connection.execute(
            select(ti.run_pk, func.count(ti.task_id.distinct()))
            .where(ti.run_pk.in_(some), ti.state == _S.FAILED)
            .group_by(ti.run_pk)
        )
        for run_pk, count in rows:
            counts[run_pk] = count
    return counts
