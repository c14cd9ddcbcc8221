"""What the executor service writes: runs, claims, outcomes, logs. Statements only; the rules are elsewhere.

Each function works inside a write scope and never commits. Every write to a task instance is fenced: it changes the
row only while it is still the writer's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, case, delete, exists, func, insert, or_, select, update

from liteflow.errors import NotFoundError
from liteflow.states import UNFINISHED, EndReason, RunState, TaskInstanceState, sources_of
from liteflow.storage.statements import Prepared, allow_time, changed, in_groups, next_keys
from liteflow.storage.tables import CALLBACK, DAG, DAG_RUN, EXECUTOR, LOG_RECORD, TASK_INSTANCE, TASK_TRY, XCOM

_S = TaskInstanceState

_MOST_NUMBER = 2**31 - 1

_NOTHING_MORE = (None,) * 5
"""Of a try that ended: no reason, error, due time, label or peak."""


class DagFacts(NamedTuple):
    """What is kept of a dag."""

    dag_id: str
    description: str | None
    tags: tuple[str, ...]
    params_json: str
    file: str | None
    structure_digest: str
    retain_runs: int | None = None
    retain_days: float | None = None


NOT_MAPPED = range(-1, 0)
"""The map indexes of a task that is not mapped, or over something whose length only the run will tell."""


class TaskFacts(NamedTuple):
    """What is kept of a task in a run."""

    task_id: str
    upstream: Sequence[str]
    trigger_rule: str
    map_indexes: range = NOT_MAPPED
    """A row for each."""
    pool: str | None = None
    pool_slots: int = 1


class ExistingRun(NamedTuple):
    """A run that has the id already."""

    pk: int
    state: RunState
    params_json: str
    logical_date: datetime
    structure_digest: str
    executor_pk: int | None
    rerun_of: str | None


class TryEnded(NamedTuple):
    """A try that is over, and what its task instance is now."""

    pk: int
    try_number: int
    state: TaskInstanceState
    reason: EndReason | None
    error: str | None
    started_us: int | None
    ended_us: int | None
    due_us: int | None
    rendered_map_index: str | None = None
    """The label of a mapped task instance; None leaves the one that it has."""
    peak_rss_bytes: int | None = None
    slot: int | None = None
    """In which slot it ran: 1, 2, ..."""


def text_for_database(text: str) -> str:
    """The text without what SQLite cannot hold (lone surrogates) or would take for its end (NUL)."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def record_dag(connection: Connection, facts: DagFacts, now_us: int) -> int:
    """Insert or update the dag's row; returns its key."""
    values = {
        "description": None if facts.description is None else text_for_database(facts.description),
        "tags": json.dumps(list(facts.tags)),
        "params": facts.params_json,
        "file": None if facts.file is None else text_for_database(facts.file),
        "structure_digest": facts.structure_digest,
        "retain_runs": None if facts.retain_runs is None else min(facts.retain_runs, _MOST_NUMBER),
        "retain_days": facts.retain_days,
        "updated_at": now_us,
    }
    pk = connection.scalar(select(DAG.c.id).where(DAG.c.dag_id == facts.dag_id))
    if pk is None:
        row = {"dag_id": facts.dag_id, "created_at": now_us, **values}
        return int(connection.execute(insert(DAG).values(row).returning(DAG.c.id)).scalar_one())
    connection.execute(update(DAG).where(DAG.c.id == pk).values(values))
    return pk


def find_existing_run(connection: Connection, dag_id: str, run_id: str) -> ExistingRun | None:
    """The run of that dag and id, if there is one."""
    row = connection.execute(
        select(
            DAG_RUN.c.id,
            DAG_RUN.c.state,
            DAG_RUN.c.params,
            DAG_RUN.c.logical_date,
            DAG_RUN.c.structure_digest,
            DAG_RUN.c.executor_pk,
            DAG_RUN.c.rerun_of,
        )
        .join(DAG, DAG.c.id == DAG_RUN.c.dag_pk)
        .where(DAG.c.dag_id == dag_id, DAG_RUN.c.run_id == run_id)
    ).one_or_none()
    return None if row is None else ExistingRun(*row)


def create_run(
    connection: Connection,
    dag_pk: int,
    *,
    run_id: str,
    logical_date: datetime,
    params_json: str,
    structure_digest: str,
    tasks: Sequence[TaskFacts],
    executor_pk: int | None,
    now_us: int,
    rerun_of: str | None = None,
    priority: int = 0,
) -> tuple[int, list[int]]:
    """Insert a queued run with all of its task instances; returns their keys, by the order of `tasks` and map index.

    `executor_pk` is the service that will drive it: when that dies first, the run is seen to be interrupted. Without
    one any service that knows the dag may take it. `rerun_of`: the id of the run that it repeats.
    """
    allow_time(connection, sum(len(task.map_indexes) for task in tasks))
    run = {
        "dag_pk": dag_pk,
        "run_id": run_id,
        "state": RunState.QUEUED,
        "logical_date": logical_date,
        "params": params_json,
        "structure_digest": structure_digest,
        "executor_pk": executor_pk,
        "created_at": now_us,
        "rerun_of": rerun_of,
        "priority": priority,
    }
    run_pk = int(connection.execute(insert(DAG_RUN).values(run).returning(DAG_RUN.c.id)).scalar_one())
    rows = [row for task in tasks for row in _instance_rows(run_pk, task, task.map_indexes)]
    return run_pk, _insert_instances(connection, rows)


def add_instances(
    connection: Connection, run_pk: int, task: TaskFacts, map_indexes: range, generation: int = 0
) -> list[int]:
    """Pending task instances of a task in a run that goes on; returns their keys by map index.

    Those that were removed from the run come back, in a new generation, with their tries and logs.
    """
    allow_time(connection, len(map_indexes))
    ti = TASK_INSTANCE.c
    gone = select(ti.map_index, ti.id).where(ti.run_pk == run_pk, ti.task_id == task.task_id, ti.state == _S.REMOVED)
    removed = {row.map_index: row.id for row in connection.execute(gone)}
    first, other = map_indexes.start, -1 - map_indexes.start
    if map_indexes and first not in removed and first in (-1, 0) and other in removed:
        # Once expanded and now not, or the other way round: one row stands for both.
        removed[first] = removed.pop(other)
        connection.execute(update(TASK_INSTANCE).where(ti.id == removed[first]).values(map_index=first))
    back = [pk for index, pk in removed.items() if index in map_indexes]
    reopen(connection, back)
    new = [index for index in map_indexes if index not in removed]
    fresh = iter(_insert_instances(connection, _instance_rows(run_pk, task, new, generation)))
    return [removed[index] if index in removed else next(fresh) for index in map_indexes]


def keep_latest_tries(connection: Connection, pks: Sequence[int]) -> None:
    """Copy the latest tries of task instances, which are over, to where tries are that were followed by another."""
    ti, old = TASK_INSTANCE.c, TASK_TRY.c
    copied = (
        "try_number",
        "generation",
        "state",
        "end_reason",
        "error",
        "started_at",
        "ended_at",
        "peak_rss_bytes",
        "slot",
    )
    for some in in_groups(pks):
        kept = exists().where(old.task_instance_pk == ti.id, old.try_number == ti.try_number)
        # A try that is followed by another one failed, unless its task instance says what else it did.
        has_skipped = and_(ti.state == _S.SKIPPED, ti.end_reason.is_(None), ti.started_at.is_not(None))
        well = or_(ti.state == _S.SUCCESS, has_skipped)
        state = case((well, ti.state), else_=bindparam("failed", _S.FAILED, type_=ti.state.type))
        values = [state if name == "state" else getattr(ti, name) for name in copied]
        connection.execute(
            insert(TASK_TRY).from_select(
                ["task_instance_pk", *copied],
                select(ti.id, *values).where(ti.id.in_(some), ti.try_number > 0, ~kept),
            )
        )


def reopen(connection: Connection, pks: Sequence[int]) -> None:
    """Make task instances that are over pending again, in a new generation: with all their retries, without XComs.

    Their tries and logs are kept.
    """
    keep_latest_tries(connection, pks)
    for some in in_groups(pks):
        connection.execute(delete(XCOM).where(XCOM.c.task_instance_pk.in_(some)))
        connection.execute(
            update(TASK_INSTANCE)
            .where(TASK_INSTANCE.c.id.in_(some))
            .values(
                state=_S.PENDING,
                generation=TASK_INSTANCE.c.generation + 1,
                uncounted_tries=TASK_INSTANCE.c.try_number,
                crashes=0,
                **_UNTRIED,
            )
        )


_UNTRIED = {
    "end_reason": None,
    "error": None,
    "executor_pk": None,
    "due_at": None,
    "started_at": None,
    "ended_at": None,
    "reschedules": 0,
    "cancel_requested_at": None,
    "peak_rss_bytes": None,
    "slot": None,
}
"""What a task instance has of a try before the first one of its generation."""


def not_begun() -> dict[str, Any]:
    """The columns of a task instance that tell of its latest try, as they are before the first one of a generation."""
    return dict(_UNTRIED)


def expand_instance(connection: Connection, run_pk: int, pk: int, task: TaskFacts, count: int) -> list[int]:
    """Make `count` task instances (1 or more) of one whose length is known now; returns their keys by map index.

    The row `pk` becomes map index 0 and keeps its state; the others are added as pending. Nothing happens and the list
    is empty when the row is no unexpanded one of the run that still waits: somebody was first.
    """
    if count < 1:
        raise ValueError(f"task {task.task_id!r} cannot be expanded into {count} task instances")
    found = connection.execute(
        update(TASK_INSTANCE)
        .where(
            TASK_INSTANCE.c.id == pk,
            TASK_INSTANCE.c.run_pk == run_pk,
            TASK_INSTANCE.c.map_index == -1,
            TASK_INSTANCE.c.state.in_(sources_of(_S.SKIPPED) - {_S.RUNNING}),
        )
        .values(map_index=0)
        .returning(TASK_INSTANCE.c.generation)
    ).one_or_none()
    if found is None:
        return []
    return [pk, *add_instances(connection, run_pk, task, range(1, count), found.generation)]


def _instance_rows(
    run_pk: int, task: TaskFacts, map_indexes: Iterable[int], generation: int = 0
) -> list[tuple[Any, ...]]:
    """A row for each map index, as `_INSERT_INSTANCE` has them, but for the key."""
    upstream = json.dumps(list(task.upstream)) if task.upstream else "[]"
    slots = None if task.pool is None else task.pool_slots
    shared = (upstream, task.trigger_rule, _S.PENDING._value_, generation, task.pool, slots)
    return [(run_pk, task.task_id, map_index, *shared) for map_index in map_indexes]


def _insert_instances(connection: Connection, rows: list[tuple[Any, ...]]) -> list[int]:
    pks = list(next_keys(connection, TASK_INSTANCE, len(rows)))
    if rows:
        _INSERT_INSTANCE.run(connection, [(pk, *row) for pk, row in zip(pks, rows, strict=True)])
    return pks


def own_run(connection: Connection, run_pk: int, executor_pk: int, now_us: int) -> bool:
    """Take a queued run, or one that is this executor's already; False if somebody else has it, or it is over."""
    is_mine = and_(DAG_RUN.c.state == RunState.RUNNING, DAG_RUN.c.executor_pk == executor_pk)
    result = connection.execute(
        update(DAG_RUN)
        .where(DAG_RUN.c.id == run_pk, or_(DAG_RUN.c.state == RunState.QUEUED, is_mine))
        .values(state=RunState.RUNNING, executor_pk=executor_pk, started_at=now_us)
    )
    return changed(result) == 1


def owned_runs(connection: Connection, executor_pk: int) -> set[int]:
    """The runs that are this executor's and running."""
    return {pk for (pk,) in _OWNED.fetch(connection, executor_pk)}


def queued_runs(connection: Connection, executor_pk: int) -> set[int]:
    """The runs that are this executor's and have not begun."""
    mine = (DAG_RUN.c.executor_pk == executor_pk, DAG_RUN.c.state == RunState.QUEUED)
    return set(connection.scalars(select(DAG_RUN.c.id).where(*mine)))


def existing_runs(connection: Connection, pks: Iterable[int]) -> set[int]:
    """Which of the runs have not been deleted."""
    return {
        pk
        for some in in_groups(list(pks))
        for pk in connection.scalars(select(DAG_RUN.c.id).where(DAG_RUN.c.id.in_(some)))
    }


def cancel_requested(connection: Connection, executor_pk: int) -> list[int]:
    """Runs of this executor that somebody wants to end."""
    return [pk for (pk,) in _CANCEL_OF_RUN.fetch(connection, executor_pk)]


def cancelled_instances(connection: Connection, executor_pk: int) -> list[tuple[int, str, int]]:
    """Task instances of this executor's runs that somebody wants to end: key of the run, task id, map index."""
    return _CANCEL_OF_INSTANCE.fetch(connection, executor_pk)


def request_cancel_of_task(
    connection: Connection, run_pk: int, task_id: str, map_index: int | None, now_us: int
) -> int:
    """Ask whoever drives the run to end a task, or one of its instances; returns how many are not over yet."""
    one = [] if map_index is None else [TASK_INSTANCE.c.map_index == map_index]
    result = connection.execute(
        update(TASK_INSTANCE)
        .where(
            TASK_INSTANCE.c.run_pk == run_pk,
            TASK_INSTANCE.c.task_id == task_id,
            TASK_INSTANCE.c.state.in_(UNFINISHED),
            *one,
        )
        .values(cancel_requested_at=func.coalesce(TASK_INSTANCE.c.cancel_requested_at, now_us))
    )
    return changed(result)


def note_cancelled(connection: Connection, run_pks: Sequence[int], now_us: int) -> None:
    """Runs that are being cancelled: whoever takes one up, should its owner die, goes on cancelling it."""
    for some in in_groups(run_pks):
        connection.execute(
            update(DAG_RUN)
            .where(DAG_RUN.c.id.in_(some))
            .values(cancel_requested_at=func.coalesce(DAG_RUN.c.cancel_requested_at, now_us))
        )


def request_cancel(connection: Connection, run_pk: int, now_us: int) -> RunState:
    """Ask whoever drives the run to end it; a run that nobody drives yet is ended here. Returns its state now."""
    connection.execute(
        update(DAG_RUN)
        .where(DAG_RUN.c.id == run_pk, DAG_RUN.c.state.in_([RunState.QUEUED, RunState.RUNNING]))
        .values(cancel_requested_at=func.coalesce(DAG_RUN.c.cancel_requested_at, now_us))
    )
    ended = connection.execute(
        update(DAG_RUN)
        .where(DAG_RUN.c.id == run_pk, DAG_RUN.c.state == RunState.QUEUED)
        .values(state=RunState.FAILED, end_reason=EndReason.CANCELLED, ended_at=now_us)
    )
    if changed(ended):
        connection.execute(
            update(TASK_INSTANCE)
            .where(TASK_INSTANCE.c.run_pk == run_pk, TASK_INSTANCE.c.state.in_(sources_of(_S.SKIPPED) - {_S.RUNNING}))
            .values(state=_S.SKIPPED, end_reason=EndReason.CANCELLED, ended_at=now_us, due_at=None)
        )
    state = connection.scalar(select(DAG_RUN.c.state).where(DAG_RUN.c.id == run_pk))
    if state is None:
        raise NotFoundError("the run is not there any more: it was deleted", identifier=str(run_pk))
    return state


def end_unowned_run(connection: Connection, run_pk: int, executor_pk: int | None, now_us: int) -> bool:
    """End a run as cancelled whose executor is gone; False if the run is not that executor's any more, or over."""
    result = connection.execute(
        update(DAG_RUN)
        .where(
            DAG_RUN.c.id == run_pk,
            DAG_RUN.c.state.in_([RunState.QUEUED, RunState.RUNNING]),
            DAG_RUN.c.executor_pk.is_not_distinct_from(executor_pk),
        )
        .values(
            state=RunState.FAILED,
            end_reason=EndReason.CANCELLED,
            ended_at=now_us,
            cancel_requested_at=func.coalesce(DAG_RUN.c.cancel_requested_at, now_us),
        )
    )
    if not changed(result):
        return False
    for sources, state in (((_S.RUNNING,), _S.FAILED), (UNFINISHED - {_S.RUNNING}, _S.SKIPPED)):
        connection.execute(
            update(TASK_INSTANCE)
            .where(TASK_INSTANCE.c.run_pk == run_pk, TASK_INSTANCE.c.state.in_(sources))
            .values(state=state, end_reason=EndReason.CANCELLED, ended_at=now_us, due_at=None)
        )
    connection.execute(delete(CALLBACK).where(CALLBACK.c.run_pk == run_pk))
    return True


def end_run(connection: Connection, run_pk: int, state: RunState, reason: EndReason | None, now_us: int) -> None:
    """The run is over."""
    connection.execute(
        update(DAG_RUN).where(DAG_RUN.c.id == run_pk).values(state=state, end_reason=reason, ended_at=now_us)
    )


def claim(connection: Connection, rows: Sequence[tuple[int, int]], executor_pk: int) -> None:
    """Begin tries: pairs of a task instance's key and the number of the try. The try before, if any, is kept."""
    again = [pk for pk, try_number in rows if try_number > 1]
    if again:
        keep_latest_tries(connection, again)
    by_number: dict[int, list[int]] = {}
    for pk, try_number in rows:
        by_number.setdefault(try_number, []).append(pk)
    for try_number, pks in by_number.items():
        _CLAIM.run(connection, [(try_number, executor_pk, first, last) for first, last in _ranges(pks)])


def reclaim(connection: Connection, rows: Sequence[tuple[int, int]], executor_pk: int) -> None:
    """Go on with tries that gave their slot back: pairs of a task instance's key and the number of the try.

    It stays the same try with the same beginning, and one more of its `reschedules` is counted. A task instance that
    is neither queued nor up_for_reschedule, or is at another try, is left as it is.
    """
    if rows:
        _RECLAIM.run(connection, [(executor_pk, pk, try_number) for pk, try_number in rows])


def record_changes(
    connection: Connection, rows: Sequence[tuple[int, TaskInstanceState, EndReason | None]], now_us: int
) -> None:
    """Task instances that changed without a try: queued, skipped, upstream_failed."""
    queued = [pk for pk, state, _ in rows if state is _S.QUEUED]
    if queued:  # how the try before ended is kept
        _QUEUE.run(connection, _ranges(queued))
    others = [(state._value_, _value(reason), now_us, pk) for pk, state, reason in rows if state is not _S.QUEUED]
    if others:
        _CHANGE.run(connection, others)


def _ranges(pks: Iterable[int]) -> list[tuple[int, int]]:
    """The keys as pairs of the first and the last of those that follow one another."""
    found: list[tuple[int, int]] = []
    for pk in sorted(pks):
        if found and pk == found[-1][1] + 1:
            found[-1] = (found[-1][0], pk)
        else:
            found.append((pk, pk))
    return found


def record_errors(connection: Connection, rows: Sequence[tuple[int, str]]) -> None:
    """Why task instances changed without a try, where there is more to say than the reason: key, text."""
    if rows:
        _ERROR.run(connection, [(text_for_database(error), pk) for pk, error in rows])


def record_started(connection: Connection, rows: Sequence[tuple[int, int, int, int | None]], executor_pk: int) -> None:
    """Tries that began to run: key, try number, microseconds, slot. One that was rescheduled keeps its beginning."""
    if rows:
        _STARTED.run(connection, [(at, slot, pk, executor_pk, number) for pk, number, at, slot in rows])


def record_ended(connection: Connection, rows: Sequence[TryEnded], executor_pk: int) -> set[int]:
    """Tries that are over, or give their slot back; returns the keys of those that had been taken over.

    Those are left as they are. A try that was rescheduled keeps its first beginning.
    """
    if not rows:
        return set()
    plain, others = [], []
    for row in rows:
        pk, number, state, reason, error, started, ended, due, label, peak, slot = row
        if state is _S.SUCCESS and (reason, error, due, label, peak) == _NOTHING_MORE:
            plain.append((started, ended, slot, pk, executor_pk, number))
        else:
            others.append(
                (
                    state._value_,
                    _value(reason),
                    None if error is None else text_for_database(error),
                    due,
                    started,
                    ended,
                    None if label is None else text_for_database(label),
                    peak,
                    slot,
                    pk,
                    executor_pk,
                    number,
                )
            )
    count = (_SUCCEEDED.run(connection, plain) if plain else 0) + (_ENDED.run(connection, others) if others else 0)
    if count == len(rows):
        return set()
    wanted = {row.pk: row for row in rows}
    lost = set(wanted)
    for some in in_groups(list(wanted)):
        for pk, state, number, executor in connection.execute(
            select(
                TASK_INSTANCE.c.id, TASK_INSTANCE.c.state, TASK_INSTANCE.c.try_number, TASK_INSTANCE.c.executor_pk
            ).where(TASK_INSTANCE.c.id.in_(some))
        ):
            row = wanted[pk]
            if (state, number, executor) == (row.state, row.try_number, executor_pk):
                lost.discard(pk)
    return lost


def count_no_retry(connection: Connection, pks: Sequence[int]) -> None:
    """The latest tries of these task instances use up no retry."""
    for some in in_groups(pks):
        connection.execute(
            update(TASK_INSTANCE)
            .where(TASK_INSTANCE.c.id.in_(some))
            .values(uncounted_tries=TASK_INSTANCE.c.uncounted_tries + 1)
        )


def store_xcoms(connection: Connection, rows: Sequence[tuple[int, str, str, bytes]]) -> None:
    """XComs: task instance's key, key, encoding, data."""
    if rows:
        _INSERT_XCOM.run(
            connection,
            [
                (pk, text_for_database(key), encoding, len(data), sha256(data).digest(), data)
                for pk, key, encoding, data in rows
            ],
        )


def fetch_xcoms(connection: Connection, pks: Iterable[int]) -> dict[tuple[int, str], tuple[str, bytes]]:
    """All XComs of the task instances: (task instance's key, key) to (encoding, data)."""
    found: dict[tuple[int, str], tuple[str, bytes]] = {}
    for some in in_groups(list(pks)):
        for pk, key, encoding, data in connection.execute(
            select(XCOM.c.task_instance_pk, XCOM.c.key, XCOM.c.encoding, XCOM.c.value).where(
                XCOM.c.task_instance_pk.in_(some)
            )
        ):
            found[pk, key] = (encoding, data)
    return found


def store_logs(connection: Connection, rows: Sequence[tuple[int, int, int, int | None, str | None, str]]) -> None:
    """Log lines: task instance's key, try number, microseconds, level, logger, text."""
    if rows:
        _INSERT_LOGRECORD.run(
            connection,
            [
                (
                    pk,
                    number,
                    at,
                    None if level is None else max(-_MOST_NUMBER, min(level, _MOST_NUMBER)),
                    None if logger is None else text_for_database(logger),
                    # Most are plain, and not worth a call.
                    message if message.isascii() and "\x00" not in message else text_for_database(message),
                )
                for pk, number, at, level, logger, message in rows
            ],
        )


def record_executor(connection: Connection, token: str, host: str, process_started_at: int | None, now_us: int) -> int:
    """A service begins to work on this database; returns its key."""
    values = {
        "token": token,
        "host": host,
        "pid": os.getpid(),
        "process_started_at": process_started_at,
        "started_at": now_us,
    }
    return int(connection.execute(insert(EXECUTOR).values(values).returning(EXECUTOR.c.id)).scalar_one())


def end_executor(connection: Connection, pk: int, now_us: int) -> None:
    """The service has stopped in good order."""
    connection.execute(update(EXECUTOR).where(EXECUTOR.c.id == pk).values(ended_at=now_us))


def _value(reason: EndReason | None) -> str | None:
    return None if reason is None else reason._value_


def _may_become(*targets: TaskInstanceState, beside: TaskInstanceState | None = None) -> Any:
    """The guard of an update: the row is in a state from which one of `targets` may be entered.

    Written with OR, since a list in IN cannot be expanded in a statement for many rows.
    """
    sources = set().union(*map(sources_of, targets)) - {beside}
    return or_(*(TASK_INSTANCE.c.state == state for state in sorted(sources)))


_CLAIM = Prepared(
    update(TASK_INSTANCE)
    # From pending and up_for_retry too: what is queued and claimed in one breath is written once.
    .where(
        TASK_INSTANCE.c.id.between(bindparam("first"), bindparam("last")),
        _may_become(_S.RUNNING, _S.QUEUED, beside=_S.RUNNING),
    )
    .values(
        state=_S.RUNNING,
        try_number=bindparam("number"),
        executor_pk=bindparam("executor"),
        end_reason=None,
        error=None,
        due_at=None,
        started_at=None,
        ended_at=None,
        peak_rss_bytes=None,
        slot=None,
        reschedules=0,
    ),
    "number",
    "executor",
    "first",
    "last",
)
_RECLAIM = Prepared(
    update(TASK_INSTANCE)
    .where(
        TASK_INSTANCE.c.id == bindparam("pk"),
        TASK_INSTANCE.c.try_number == bindparam("number"),
        or_(TASK_INSTANCE.c.state == _S.QUEUED, TASK_INSTANCE.c.state == _S.UP_FOR_RESCHEDULE),
    )
    .values(
        state=_S.RUNNING,
        executor_pk=bindparam("executor"),
        end_reason=None,
        error=None,
        due_at=None,
        ended_at=None,
        reschedules=TASK_INSTANCE.c.reschedules + 1,
    ),
    "executor",
    "pk",
    "number",
)
_CHANGE = Prepared(
    update(TASK_INSTANCE)
    .where(
        TASK_INSTANCE.c.id == bindparam("pk"),
        _may_become(_S.SKIPPED, _S.UPSTREAM_FAILED, beside=_S.RUNNING),
    )
    .values(state=bindparam("new"), end_reason=bindparam("why"), ended_at=bindparam("ended"), due_at=None),
    "new",
    "why",
    "ended",
    "pk",
)
_ERROR = Prepared(
    update(TASK_INSTANCE)
    .where(TASK_INSTANCE.c.id == bindparam("pk"), TASK_INSTANCE.c.state != _S.RUNNING)
    .values(error=bindparam("text")),
    "text",
    "pk",
)
_QUEUE = Prepared(
    update(TASK_INSTANCE)
    .where(TASK_INSTANCE.c.id.between(bindparam("first"), bindparam("last")), _may_become(_S.QUEUED, beside=_S.RUNNING))
    .values(state=_S.QUEUED, due_at=None),
    "first",
    "last",
)
_MINE = (
    TASK_INSTANCE.c.id == bindparam("pk"),
    TASK_INSTANCE.c.executor_pk == bindparam("executor"),
    TASK_INSTANCE.c.try_number == bindparam("number"),
    TASK_INSTANCE.c.state == _S.RUNNING,
)
_INSERT_INSTANCE = Prepared(
    insert(TASK_INSTANCE).values(try_number=0, crashes=0, reschedules=0, uncounted_tries=0),
    "id",
    "run_pk",
    "task_id",
    "map_index",
    "upstream",
    "trigger_rule",
    "state",
    "generation",
    "pool",
    "pool_slots",
)
_INSERT_XCOM = Prepared(insert(XCOM), "task_instance_pk", "key", "encoding", "size_bytes", "sha256", "value")
_INSERT_LOGRECORD = Prepared(insert(LOG_RECORD), "task_instance_pk", "try_number", "at", "level", "logger", "message")
_IS_OWNED = (DAG_RUN.c.executor_pk == bindparam("executor"), DAG_RUN.c.state == RunState.RUNNING)
_OWNED = Prepared(select(DAG_RUN.c.id).where(*_IS_OWNED), "executor")
_CANCEL_OF_RUN = Prepared(
    select(DAG_RUN.c.id).where(*_IS_OWNED, DAG_RUN.c.cancel_requested_at.is_not(None)), "executor"
)
_CANCEL_OF_INSTANCE = Prepared(
    select(TASK_INSTANCE.c.run_pk, TASK_INSTANCE.c.task_id, TASK_INSTANCE.c.map_index)
    # By the index that holds nothing else, which "+ 0" makes SQLite take: by the run it would look at all instances.
    .join_from(TASK_INSTANCE, DAG_RUN, DAG_RUN.c.id == TASK_INSTANCE.c.run_pk + 0)
    .where(
        *_IS_OWNED,
        TASK_INSTANCE.c.cancel_requested_at > 0,
        or_(*(TASK_INSTANCE.c.state == state for state in sorted(UNFINISHED))),
    ),
    "executor",
)


def _beginning(name: str) -> Any:
    """What `started_at` becomes: the bound value, unless the try began before it was rescheduled."""
    return func.coalesce(case((TASK_INSTANCE.c.reschedules > 0, TASK_INSTANCE.c.started_at)), bindparam(name))


_STARTED = Prepared(
    update(TASK_INSTANCE).where(*_MINE).values(started_at=_beginning("at"), slot=bindparam("lane")),
    "at",
    "lane",
    "pk",
    "executor",
    "number",
)
_SUCCEEDED = Prepared(  # most of them, and half as expensive
    update(TASK_INSTANCE)
    .where(*_MINE)
    .values(
        state=_S.SUCCESS,
        end_reason=None,
        error=None,
        started_at=_beginning("began"),
        ended_at=bindparam("ended"),
        due_at=None,
        peak_rss_bytes=None,
        slot=bindparam("lane"),
    ),
    "began",
    "ended",
    "lane",
    "pk",
    "executor",
    "number",
)
_ENDED = Prepared(
    update(TASK_INSTANCE)
    .where(*_MINE)
    .values(
        state=bindparam("new"),
        end_reason=bindparam("why"),
        error=bindparam("text"),
        started_at=_beginning("began"),
        ended_at=bindparam("ended"),
        due_at=bindparam("due"),
        rendered_map_index=func.coalesce(bindparam("label"), TASK_INSTANCE.c.rendered_map_index),
        peak_rss_bytes=bindparam("peak"),
        slot=bindparam("lane"),
    ),
    "new",
    "why",
    "text",
    "due",
    "began",
    "ended",
    "label",
    "peak",
    "lane",
    "pk",
    "executor",
    "number",
)
