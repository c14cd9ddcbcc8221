"""Deleting old runs bit by bit, and giving what they took back to the file system.

A run may have 100,000 task instances and a million log lines. It goes in transactions of some 20 ms each, so that
nobody waits long for the lock; small runs go several at a time. A run that is not gone at the end of a transaction says
so (`EndReason.PRUNED`): nobody may go on with it. What is left of it is sound, and the next one who prunes deletes it.

Only runs that are over are deleted, and whether they are is looked at in the transaction that deletes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Table,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    type_coerce,
    update,
)

from liteflow.states import EndReason, RunState
from liteflow.storage.engine import DRIVER, Database
from liteflow.storage.functions import ByteLength, total
from liteflow.storage.history import OWNER_COLUMNS, Owner
from liteflow.storage.statements import Prepared, in_groups
from liteflow.storage.tables import DAG, DAG_RUN, EXECUTOR, LOG_RECORD, TASK_INSTANCE, TASK_TRY, XCOM, metadata

SLICE_S = 0.02
"""How long a transaction deletes; what it has begun then is a statement of a few milliseconds."""

PAUSE_S = 0.02
"""How long the lock is left to others between two of them. SQLite has no queue: who wants it looks now and then."""

RUNS_AT_ONCE = 200
"""How many runs are looked up before they are deleted."""

INSTANCES_AT_ONCE = 200
"""Task instances that one statement deletes."""

ROWS_AT_ONCE = 1_000
"""Log lines, or tries, that one statement deletes."""

VALUE_BYTES_AT_ONCE = 8 * 2**20
"""About how many bytes of XComs one statement deletes: each page of them is put back into the list of free ones."""

PAGES_AT_ONCE = 64
"""Pages that are moved or cut off before the time is looked at."""

_DAY_US = 24 * 3600 * 1_000_000
_MOST_DAYS = 100 * 365.0
_OVER = tuple(state for state in RunState if state.is_terminal)


class Limits(NamedTuple):
    """Which runs of a dag are kept; None for no limit."""

    keep_runs: int | None = None
    """Of the runs that are over, the newest so many."""
    days: float | None = None
    """Those that ended at most so many days ago."""

    def __bool__(self) -> bool:
        return self.keep_runs is not None or self.days is not None


class KnownDag(NamedTuple):
    """A dag, and how long it said when it ran last that its runs are to be kept."""

    pk: int
    dag_id: str
    limits: Limits


class Amount(NamedTuple):
    """How much there is of some runs."""

    runs: int = 0
    task_instances: int = 0
    log_lines: int = 0
    bytes: int = 0
    """Of the log lines and the XComs: what the tasks wrote and handed on."""


def known_dags(connection: Connection, dag_id: str | None = None) -> list[KnownDag]:
    """All dags by id, or the one of that id."""
    rows = connection.execute(
        select(DAG.c.id, DAG.c.dag_id, DAG.c.retain_runs, DAG.c.retain_days)
        .where(*([] if dag_id is None else [DAG.c.dag_id == dag_id]))
        .order_by(DAG.c.dag_id)
    )
    return [KnownDag(row.id, row.dag_id, Limits(row.retain_runs, row.retain_days)) for row in rows]


def due_runs(
    connection: Connection, dag_pk: int, limits: Limits, now_us: int, *, most: int | None = RUNS_AT_ONCE
) -> list[int]:
    """The keys of runs of a dag that are over and beyond its limits, oldest first, at most so many."""
    run = DAG_RUN.c
    mine = (run.dag_pk == dag_pk, run.state.in_(_OVER))
    latest = -1
    beyond: list[Any] = []
    if limits.keep_runs is not None:
        found = connection.execute(
            select(type_coerce(run.created_at, BigInteger).label("created_us"), run.id)
            .where(*mine)
            .order_by(run.created_at.desc(), run.id.desc())
            .offset(limits.keep_runs)
            .limit(1)
        ).one_or_none()
        if found is not None:
            latest = found.created_us
            beyond.append(or_(run.created_at < latest, and_(run.created_at == latest, run.id <= found.id)))
    if limits.days is not None:
        moment = now_us - int(min(limits.days, _MOST_DAYS) * _DAY_US)
        latest = max(latest, moment)
        beyond.append(run.ended_at < moment)
    if not beyond:
        return []
    return list(
        connection.scalars(
            select(run.id)
            # No run ends before it was created: the index has what is to be looked at.
            .where(*mine, run.created_at <= latest, or_(*beyond))
            .order_by(run.created_at, run.id)
            .limit(most)
        )
    )


def due_runs_of(
    connection: Connection, dag_id: str, limits: Limits, now_us: int, *, most: int | None = RUNS_AT_ONCE
) -> list[int]:
    """The same for the dag of that id."""
    dag_pk = connection.scalar(select(DAG.c.id).where(DAG.c.dag_id == dag_id))
    return [] if dag_pk is None else due_runs(connection, dag_pk, limits, now_us, most=most)


def half_deleted_runs(connection: Connection, dag_pk: int) -> list[int]:
    """The keys of the dag's runs whose deletion was begun, and ended by a kill. Looks at all of its runs."""
    run = DAG_RUN.c
    return list(
        connection.scalars(
            select(run.id).where(run.dag_pk == dag_pk, run.end_reason == EndReason.PRUNED).order_by(run.created_at)
        )
    )


def amount_of(connection: Connection, run_pks: Sequence[int]) -> Amount:
    """What there is of these runs."""
    ti, instances, lines, size = TASK_INSTANCE.c, 0, 0, 0
    for some in in_groups(run_pks):
        mine = ti.run_pk.in_(some)
        instances += connection.scalar(select(func.count()).where(mine)) or 0
        count, length = connection.execute(
            select(func.count(), func.coalesce(total(ByteLength(LOG_RECORD.c.message)), 0))
            .select_from(TASK_INSTANCE)
            .join(LOG_RECORD, LOG_RECORD.c.task_instance_pk == ti.id)
            .where(mine)
        ).one()
        lines += count
        size += length
        size += (
            connection.scalar(
                select(total(XCOM.c.size_bytes))
                .select_from(TASK_INSTANCE)
                .join(XCOM, XCOM.c.task_instance_pk == ti.id)
                .where(mine)
            )
            or 0
        )
    return Amount(len(run_pks), instances, lines, size)


def delete_some(database: Database, runs: deque[int], *, durable: bool = False, slice_s: float = SLICE_S) -> int:
    """Delete in one transaction as much of the runs as goes in that time; returns how many of them are gone.

    `runs` loses those that are gone, or are not over: somebody went on with one. The others stay in it, to go on with.
    """
    gone = 0
    with database.write(durable=durable) as connection:
        deadline = time.monotonic() + slice_s

        def is_late() -> bool:
            return time.monotonic() >= deadline

        while runs:  # some of it is done however little time there is
            if connection.scalar(select(DAG_RUN.c.state).where(DAG_RUN.c.id == runs[0])) in _OVER:
                if not _delete_run(connection, runs[0], is_late):
                    break
                gone += 1
            runs.popleft()
            if is_late():
                break
    return gone


def _delete_run(connection: Connection, run_pk: int, is_late: Callable[[], bool]) -> bool:
    """Delete a run, or some of it when there is not the time for all; returns whether it is gone."""
    row = ((run_pk,),)
    while True:
        for statement, most in _PARTS:
            while statement.run(connection, row) >= most:
                if is_late():
                    return _stop(connection, run_pk)
        while values := _VALUES.fetch(connection, run_pk):
            _DELETE_VALUE.run(connection, _first_of(values))
            if is_late():
                return _stop(connection, run_pk)
        if _DELETE_INSTANCES.run(connection, row) < INSTANCES_AT_ONCE:
            _DELETE_RUN.run(connection, row)
            return True
        if is_late():
            return _stop(connection, run_pk)


def _stop(connection: Connection, run_pk: int) -> bool:
    """Some of the run is gone: nobody may go on with it."""
    connection.execute(update(DAG_RUN).where(DAG_RUN.c.id == run_pk).values(end_reason=EndReason.PRUNED))
    return False


def _first_of(values: Sequence[tuple[int, int]]) -> list[tuple[int]]:
    """The keys of the first XComs, of keys and sizes, that together are not too large to be deleted at once."""
    found, size = [], 0
    for pk, size_bytes in values:
        found.append((pk,))
        size += size_bytes
        if size >= VALUE_BYTES_AT_ONCE:
            break
    return found


# Of a mapped task the last ones go first: what is left is numbered without a gap.
_LAST_INSTANCES = (
    select(TASK_INSTANCE.c.id)
    .where(TASK_INSTANCE.c.run_pk == bindparam("run"))
    .order_by(TASK_INSTANCE.c.task_id.desc(), TASK_INSTANCE.c.map_index.desc())
    .limit(INSTANCES_AT_ONCE)
)


def _delete_from(table: Table[Any]) -> Prepared:
    """A statement that deletes some rows of the table which belong to the last task instances of a run."""
    found = select(table.c.id).where(table.c.task_instance_pk.in_(_LAST_INSTANCES)).limit(ROWS_AT_ONCE)
    return Prepared(delete(table).where(table.c.id.in_(found)), "run")


_PARTS = ((_delete_from(LOG_RECORD), ROWS_AT_ONCE), (_delete_from(TASK_TRY), ROWS_AT_ONCE))
_VALUES = Prepared(
    select(XCOM.c.id, XCOM.c.size_bytes).where(XCOM.c.task_instance_pk.in_(_LAST_INSTANCES)).limit(ROWS_AT_ONCE), "run"
)
_DELETE_VALUE = Prepared(delete(XCOM).where(XCOM.c.id == bindparam("pk")), "pk")
_DELETE_INSTANCES = Prepared(delete(TASK_INSTANCE).where(TASK_INSTANCE.c.id.in_(_LAST_INSTANCES)), "run")
_DELETE_RUN = Prepared(delete(DAG_RUN).where(DAG_RUN.c.id == bindparam("run")), "run")


def forget_executors(database: Database, is_alive: Callable[[Owner], bool]) -> int:
    """Delete the rows of executor services that are gone and to which nothing refers; returns how many went.

    Each run of a script leaves one. Reads all task instances once, some 100 ms for a million.
    """
    ti, executor = TASK_INSTANCE.c, EXECUTOR.c
    with database.read() as connection:
        used = set(connection.scalars(select(ti.executor_pk).where(ti.executor_pk.is_not(None)).distinct()))
        used.update(connection.scalars(select(DAG_RUN.c.executor_pk).where(DAG_RUN.c.executor_pk.is_not(None))))
        rows = connection.execute(select(*OWNER_COLUMNS).order_by(executor.id)).all()
    owners = [Owner(*row) for row in rows if row[0] not in used]
    # Who is gone claims nothing any more: what does not refer to it now never will.
    gone = [owner.pk for owner in owners if owner.ended_at is not None or not is_alive(owner)]
    for some in in_groups(gone):
        with database.write(trusting=True) as connection:
            connection.execute(delete(EXECUTOR).where(executor.id.in_(some)))
    return len(gone)


class Space(NamedTuple):
    """How full the database is."""

    page_bytes: int
    pages: int
    free_pages: int
    auto_vacuum: str
    """`incremental`, or in files that an older liteflow made `none`; `server` where PostgreSQL sees to it."""

    @property
    def can_shrink(self) -> bool:
        """Whether free pages can be given back while others work."""
        return self.auto_vacuum in ("incremental", "server")


def space_of(connection: Connection) -> Space:
    """How full the file is, with what is in the WAL. Of a server's database what its tables and indexes take, of which
    nothing counts as free: PostgreSQL keeps track of that."""
    if connection.dialect.name != "sqlite":
        page_bytes = int(connection.exec_driver_sql("SHOW block_size").scalar_one())
        return Space(page_bytes, sum(server_bytes(connection).values()) // page_bytes, 0, "server")
    values = [
        int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
        for name in ("page_size", "page_count", "freelist_count", "auto_vacuum")
    ]
    return Space(values[0], values[1], values[2], _AUTO_VACUUM.get(values[3], "unknown"))


def server_bytes(connection: Connection) -> dict[str, int]:
    """The bytes of each of liteflow's tables in a PostgreSQL server, its indexes' with them."""
    sizes = select(*(func.pg_total_relation_size(table.name).label(table.name) for table in metadata.sorted_tables))
    return dict(connection.execute(sizes).mappings().one())


_AUTO_VACUUM = {0: "none", 1: "full", 2: "incremental"}


def give_back_some(database: Database, *, keep_pages: int = 0, durable: bool = False, slice_s: float = SLICE_S) -> bool:
    """Cut free pages off the file in one transaction, as many as go in that time; returns whether there are more.

    The file is shorter after the next checkpoint. `keep_pages` are left for what is written next. A server does that by
    itself.
    """
    if not database.is_file:
        return False
    with database.write(durable=durable) as connection:
        deadline = time.monotonic() + slice_s
        if not space_of(connection).can_shrink:
            return False
        while True:
            more = space_of(connection).free_pages - keep_pages
            if more <= 0:
                return False
            # One by one: each page is a step, and the driver takes no second step of what has no columns.
            for _ in range(min(more, PAGES_AT_ONCE)):
                connection.info[DRIVER].execute("PRAGMA incremental_vacuum(1)")
            if time.monotonic() >= deadline:
                return True
