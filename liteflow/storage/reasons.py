"""What a run records of the reasons behind its states: the statements for `liteflow why`.

A run may have tens of thousands of task instances. They are counted and grouped inside the database; rows of single
instances are read only of tasks that are joined by map index. Functions work inside a read scope.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import BigInteger, Connection, and_, cast, func, literal_column, select

from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.scheduling.skips import DECISION_KEY
from liteflow.states import EndReason, TaskInstanceState
from liteflow.storage.history import OWNER_COLUMNS, DagRun, Owner
from liteflow.storage.pools import pool_sizes
from liteflow.storage.tables import DAG, DAG_RUN, EXECUTOR, TASK_INSTANCE, XCOM
from liteflow.storage.untrusted import checked, names

_S = TaskInstanceState

MOST_KINDS = 5
"""So many groups are told apart of one task in one state, those with the most instances first."""

LATEST_RUNS = 20
"""How far back is looked for how long a task usually takes."""

MOST_TIMES = 20
"""How many successful tries of a task are looked at for that."""

MOST_HOLDERS = 100
"""How many of those that hold slots of a pool are read, those that have held them for longest first."""


class TaskRecord(NamedTuple):
    """A task of a run: what its instances have in common."""

    task_id: str
    upstream: tuple[str, ...]
    rule: TriggerRule
    counts: Mapping[TaskInstanceState, int]
    is_mapped: bool
    """Whether its instances have map indexes."""
    pool: str | None
    pool_slots: int

    @property
    def size(self) -> int:
        """How many instances there are; those that were removed from the dag do not count."""
        return sum(count for state, count in self.counts.items() if state is not _S.REMOVED)


class InstanceGroup(NamedTuple):
    """Instances of one task that are in the same state, for the same recorded reason."""

    task_id: str
    state: TaskInstanceState
    end_reason: EndReason | None
    error: str | None
    has_run: bool
    """Whether their latest try began."""
    instances: int
    map_index: int
    """The lowest of them."""
    try_number: int
    """The highest of them."""
    uncounted_tries: int
    """The highest of them."""
    started_at: datetime | None
    """The earliest of them."""
    ended_at: datetime | None
    """The latest of them."""
    due_at: datetime | None
    """The earliest of them."""
    reschedules: int
    """The highest of them."""
    others: int
    """Instances of the task in this state that are in no group, since these are too many."""


@dataclass(frozen=True)
class PoolState:
    """A pool, and who holds it."""

    slots: int | None
    """None: there is no such pool."""
    holders: tuple[Holder, ...]

    @property
    def taken(self) -> int:
        """How many slots are held; of a pool with very many holders, of those that were read."""
        return sum(one.slots for one in self.holders)


class Holder(NamedTuple):
    """A running task instance that holds slots of a pool."""

    run_pk: int
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    slots: int
    started_at: datetime | None


def task_records(connection: Connection, run_pk: int) -> list[TaskRecord]:
    """The tasks of a run, upstream before downstream."""
    ti = TASK_INSTANCE.c
    rows = connection.execute(
        select(
            ti.task_id,
            ti.state,
            func.count().label("instances"),
            func.min(ti.id).label("first_pk"),
            func.max(ti.map_index).label("last_index"),
            func.min(ti.upstream).label("upstream"),
            func.min(ti.trigger_rule).label("rule"),
            func.min(ti.pool).label("pool"),
            func.min(ti.pool_slots).label("pool_slots"),
        )
        .where(ti.run_pk == run_pk)
        .group_by(ti.task_id, ti.state)
    ).all()
    found: dict[str, TaskRecord] = {}
    for row in sorted(rows, key=lambda row: row.first_pk):
        known = found.get(row.task_id)
        found[row.task_id] = checked(
            TaskRecord(
                row.task_id,
                names(row.upstream),
                TriggerRule(row.rule),
                {**(known.counts if known else {}), row.state: row.instances},
                row.last_index >= 0 or (known is not None and known.is_mapped),
                row.pool,
                row.pool_slots or 1,
            )
        )
    return list(found.values())


def instance_groups(
    connection: Connection, run_pk: int, task_id: str | None = None, map_index: int | None = None
) -> list[InstanceGroup]:
    """The instances of a run that are not success, or all of one task or instance, in groups.

    By task and state those with the most instances come first, up to `MOST_KINDS` of them.
    """
    ti = TASK_INSTANCE.c
    conditions = [ti.run_pk == run_pk]
    conditions += [ti.state != _S.SUCCESS] if task_id is None else [ti.task_id == task_id]
    if map_index is not None:
        conditions.append(ti.map_index == map_index)
    has_run = ti.started_at.is_not(None)
    grouped = (
        select(
            ti.task_id,
            ti.state,
            ti.end_reason,
            ti.error,
            has_run.label("has_run"),
            func.count().label("instances"),
            func.min(ti.map_index).label("map_index"),
            func.max(ti.try_number).label("try_number"),
            func.max(ti.uncounted_tries).label("uncounted_tries"),
            func.min(ti.started_at).label("started_at"),
            func.max(ti.ended_at).label("ended_at"),
            func.min(ti.due_at).label("due_at"),
            func.max(ti.reschedules).label("reschedules"),
        )
        .where(*conditions)
        .group_by(ti.task_id, ti.state, ti.end_reason, ti.error, has_run)
        .subquery()
    )
    column = grouped.c
    place = func.row_number().over(
        partition_by=(column.task_id, column.state), order_by=(column.instances.desc(), column.map_index)
    )
    whole = cast(func.sum(column.instances).over(partition_by=(column.task_id, column.state)), BigInteger)
    ranked = select(grouped, place.label("place"), whole.label("whole")).subquery()
    rows = connection.execute(
        select(ranked).where(ranked.c.place <= MOST_KINDS).order_by(ranked.c.task_id, ranked.c.state, ranked.c.place)
    ).all()
    told: dict[tuple[str, str], int] = {}
    for row in rows:
        told[row.task_id, row.state] = told.get((row.task_id, row.state), 0) + row.instances
    return [
        checked(
            InstanceGroup._make((*row[:4], bool(row.has_run), *row[5:13], row.whole - told[row.task_id, row.state]))
        )
        for row in rows
    ]


def states_by_index(connection: Connection, run_pk: int, task_id: str) -> dict[int, TaskInstanceState]:
    """The state of each instance of a mapped task by map index."""
    ti = TASK_INSTANCE.c
    rows = connection.execute(select(ti.map_index, ti.state).where(ti.run_pk == run_pk, ti.task_id == task_id))
    return {row.map_index: row.state for row in rows}


def indexes_of_group(connection: Connection, run_pk: int, group: InstanceGroup) -> set[int]:
    """The map indexes of the instances in a group."""
    ti = TASK_INSTANCE.c
    began = ti.started_at.is_not(None) if group.has_run else ti.started_at.is_(None)
    return set(
        connection.scalars(
            select(ti.map_index).where(
                ti.run_pk == run_pk,
                ti.task_id == group.task_id,
                ti.state == group.state,
                ti.end_reason.is_not_distinct_from(group.end_reason),
                ti.error.is_not_distinct_from(group.error),
                began,
            )
        )
    )


class RecordedDecision(NamedTuple):
    """What an instance of a branch or short circuit decided, as the run has it."""

    task_id: str
    map_index: int
    followed: tuple[str, ...] | None
    """Ids of tasks and groups that a branch chose; None of a short circuit."""
    skipped: tuple[str, ...]
    """Ids of the tasks that a short circuit skipped."""


def decisions(connection: Connection, run_pk: int) -> list[RecordedDecision]:
    """What branches and short circuits of a run decided. What is no decision is passed over."""
    ti, xcom = TASK_INSTANCE.c, XCOM.c
    rows = connection.execute(
        select(ti.task_id, ti.map_index, xcom.value)
        .join(XCOM, and_(xcom.task_instance_pk == ti.id, xcom.key == DECISION_KEY))
        .where(ti.run_pk == run_pk, ti.state == _S.SUCCESS)
        .order_by(ti.id)
    )
    found = []
    for task_id, map_index, data in rows:
        try:
            value = json.loads(data)
        except ValueError:
            continue  # a task may hand on what it likes under that key
        if not isinstance(value, dict):
            continue
        followed, skipped = value.get("followed"), value.get("skipped", [])
        if _is_text_list(skipped) and (followed is None or _is_text_list(followed)):
            decided = RecordedDecision(
                task_id, map_index, None if followed is None else tuple(followed), tuple(skipped)
            )
            found.append(checked(decided))
    return found


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def usual_seconds(connection: Connection, run: DagRun, task_ids: Sequence[str]) -> dict[str, float]:
    """How long the latest successful tries of the tasks took: the median, in seconds, of those that have any.

    Looked for in this run and the latest ones of its dag.
    """
    ti, runs = TASK_INSTANCE.c, DAG_RUN.c
    dag_pk = select(runs.dag_pk).where(runs.id == run.pk).scalar_subquery()
    latest = list(
        connection.scalars(
            select(runs.id).where(runs.dag_pk == dag_pk).order_by(runs.created_at.desc()).limit(LATEST_RUNS)
        )
    )
    found = {}
    for task_id in task_ids:
        rows = connection.execute(
            select(ti.started_at, ti.ended_at)
            .where(
                ti.run_pk.in_({*latest, run.pk}),
                ti.task_id == task_id,
                ti.map_index < MOST_TIMES,  # of each run a few, so that the older runs count too
                ti.state == _S.SUCCESS,
                ti.started_at.is_not(None),
                ti.ended_at.is_not(None),
            )
            .order_by(ti.run_pk.desc(), ti.map_index)
            .limit(MOST_TIMES)
        )
        times = [(ended - started).total_seconds() for started, ended in rows if started and ended]
        if times:
            found[task_id] = statistics.median(times)
    return found


def pool_states(
    connection: Connection, pools: Collection[str], is_alive: Callable[[Owner], bool]
) -> dict[str, PoolState]:
    """The pools of these names, and what holds slots of them, for longest first. Those of dead owners hold none."""
    ti, runs = TASK_INSTANCE.c, DAG_RUN.c
    sizes = pool_sizes(connection, pools)
    lives: dict[int, bool] = {}
    found = {}
    for pool in pools:
        rows = connection.execute(
            select(
                runs.id,
                DAG.c.dag_id,
                runs.run_id,
                ti.task_id,
                ti.map_index,
                func.coalesce(ti.pool_slots, 1),
                ti.started_at,
                *OWNER_COLUMNS,
            )
            .join(DAG_RUN, runs.id == ti.run_pk)
            .join(DAG, DAG.c.id == runs.dag_pk)
            .join(EXECUTOR, EXECUTOR.c.id == ti.executor_pk)
            # A literal: SQLite does not see that a bound value fits the condition of the partial index.
            .where(ti.pool == pool, ti.state == literal_column("'running'"))
            .order_by(ti.started_at.nulls_first())
            .limit(MOST_HOLDERS)
        )
        holders = []
        for row in rows:
            values = tuple(row)
            owner = Owner(*values[7:])
            if owner.pk not in lives:
                lives[owner.pk] = is_alive(owner)
            if lives[owner.pk]:
                holders.append(checked(Holder(*values[:7])))
        found[pool] = PoolState(sizes.get(pool), tuple(holders))
    return found


class RunFacts(NamedTuple):
    """Of a run, what `DagRun` does not tell."""

    is_cancelling: bool
    """Whether somebody asked for its end."""
    file: str | None
    """The file that defined its dag when that ran last."""
    other_runs: int
    """How many other runs its owner drives."""


def run_facts(connection: Connection, run: DagRun) -> RunFacts:
    """See `RunFacts`."""
    runs = DAG_RUN.c
    cancel, file = connection.execute(
        select(runs.cancel_requested_at, DAG.c.file).join(DAG, DAG.c.id == runs.dag_pk).where(runs.id == run.pk)
    ).one()
    others = 0
    if run.owner is not None:
        others = (
            connection.scalar(
                select(func.count())
                .select_from(DAG_RUN)
                .where(runs.executor_pk == run.owner.pk, runs.state == "running", runs.id != run.pk)
            )
            or 0
        )
    return checked(RunFacts(cancel is not None, file, others))
