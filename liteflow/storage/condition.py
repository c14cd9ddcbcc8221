"""The condition of a database file and of what it says about who is at work: for looking, with nothing changed.

The file is opened by itself and not as the rest of the program does it, which would make it a WAL database, copy a WAL
that a killed process left, or refuse an older schema.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, create_engine, exc, func, select
from sqlalchemy.pool import NullPool

from liteflow.states import RunState
from liteflow.storage.engine import is_read_only, read_only_uri, storage_error
from liteflow.storage.history import OWNER_COLUMNS, Owner
from liteflow.storage.pruning import server_bytes
from liteflow.storage.tables import DAG, DAG_RUN, EXECUTOR
from liteflow.storage.untrusted import checked, refusing_strange_values

WRITE_PATIENCE_S = 1.0
"""For how long another one may hold the write lock before it is told of: commits take milliseconds."""

QUICK_CHECK_S = 1.0
"""For how long the file is looked through for damage."""

MOST_RUNS = 1000
"""So many unfinished runs are looked at, the newest first."""


class UnfinishedRun(NamedTuple):
    """A run that is queued or running."""

    dag_id: str
    run_id: str
    state: RunState
    created_at: datetime
    file: str | None
    """The file that defined its dag when that ran last."""
    owner: Owner | None


class Pages(NamedTuple):
    """How the room in the file is used."""

    size_bytes: int
    """All of it, free pages too; without the WAL."""
    free_bytes: int
    auto_vacuum: bool
    """Whether free pages can be given back bit by bit."""


@contextmanager
def looking(path: str) -> Iterator[Connection]:
    """A connection that can change nothing, to a database of this liteflow's revision.

    Raises StorageError for what cannot be read, and for rows that no liteflow writes.
    """

    def connect() -> sqlite3.Connection:
        connection = _open(path)
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    try:
        with refusing_strange_values(path), engine.connect() as connection:
            yield connection
    except (exc.DBAPIError, sqlite3.Error) as error:
        raise storage_error(path, error) from error
    finally:
        engine.dispose()


def _open(path: str) -> sqlite3.Connection:
    """The driver's connection, for reading alone.

    Where there is a WAL, be it empty, somebody may be at work, and the file is not to be read as it lies there.
    """
    if os.path.exists(f"{path}-wal") and not is_read_only(path):
        uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    else:
        uri = read_only_uri(path)
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=WRITE_PATIENCE_S)


def unfinished_runs(connection: Connection) -> list[UnfinishedRun]:
    """The runs that are not over, the newest first."""
    rows = connection.execute(
        select(DAG.c.dag_id, DAG_RUN.c.run_id, DAG_RUN.c.state, DAG_RUN.c.created_at, DAG.c.file, *OWNER_COLUMNS)
        .join(DAG, DAG.c.id == DAG_RUN.c.dag_pk)
        .outerjoin(EXECUTOR, EXECUTOR.c.id == DAG_RUN.c.executor_pk)
        .where(DAG_RUN.c.state.in_([RunState.QUEUED, RunState.RUNNING]))
        .order_by(DAG_RUN.c.id.desc())
        .limit(MOST_RUNS)
    )
    found = []
    for row in rows:
        values: Any = tuple(row)
        owner = None if values[5] is None else Owner(*values[5:])
        found.append(checked(UnfinishedRun._make((*values[:5], owner))))
    return found


class Service(NamedTuple):
    """An executor service that has not said that it ended."""

    owner: Owner
    since: datetime


def services(connection: Connection) -> list[Service]:
    """The executor services that have not said that they ended, oldest first."""
    rows = connection.execute(
        select(EXECUTOR.c.started_at, *OWNER_COLUMNS).where(EXECUTOR.c.ended_at.is_(None)).order_by(EXECUTOR.c.id)
    )
    found = []
    for row in rows:
        values: Any = tuple(row)
        found.append(checked(Service(Owner(*values[1:]), values[0])))
    return found


def count_of_runs(connection: Connection) -> int:
    """How many runs there are."""
    return connection.scalar(select(func.count()).select_from(DAG_RUN)) or 0


def pages(connection: Connection) -> Pages:
    """See `Pages`."""
    size, count, free, auto = (
        int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
        for name in ("page_size", "page_count", "freelist_count", "auto_vacuum")
    )
    return Pages(size * count, size * free, auto != 0)


def first_damage(path: str, *, for_s: float) -> tuple[str | None, bool]:
    """What is damaged, None where nothing was seen, and whether all of the file was looked through in that time."""
    had_wal = os.path.exists(f"{path}-wal")
    damage, is_all = _looked_through(path, for_s)
    if damage is not None and not had_wal and os.path.exists(f"{path}-wal"):  # somebody has come and written to it
        return _looked_through(path, for_s)
    return damage, is_all


def _looked_through(path: str, for_s: float) -> tuple[str | None, bool]:
    until = time.monotonic() + for_s
    with closing(_open(path)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
        try:
            (told,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
                return None, False
            return str(error), True
        except UnicodeDecodeError:
            return "it holds text that is no UTF-8", True
    return (None if told == "ok" else str(told)), True


def try_to_write(path: str, *, patience_s: float, busy: Callable[[], None]) -> str | None:
    """Take SQLite's write lock and let it go, with nothing written; why that was not possible, None when it was.

    `busy` is called while another one holds the lock.
    """
    uri = f"{Path(path).absolute().as_uri()}?mode=rw"
    wal = f"{path}-wal"
    try:
        # The last connection that could write would copy the WAL when it is closed. This one cannot, and is the last.
        with closing(_open(path)) as last:
            if os.path.exists(wal) and os.path.getsize(wal):
                last.execute("SELECT count(*) FROM sqlite_master").fetchone()
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=patience_s)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                        busy()
                    return str(error)
                connection.execute("ROLLBACK")
    except (sqlite3.Error, OSError) as error:
        return str(error)
    return None


class Server(NamedTuple):
    """How the PostgreSQL server fares that a database is in."""

    version: str
    is_standby: bool
    """Whether it only follows another one, so that nothing can be written."""
    settings_off: list[str]
    """Settings without which a crash of the server takes back what was committed."""
    connections: int
    most_connections: int
    writer: str | None
    """Who has been in a write scope of this database for longer than `WRITE_PATIENCE_S`."""
    bytes: int
    """What liteflow's tables and indexes take."""


def server(connection: Connection) -> Server:
    """See `Server`. Of other users' connections their number alone is asked."""
    version, is_standby, most = connection.exec_driver_sql(
        "SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('max_connections')::int"
    ).one()
    off = [
        name
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if connection.exec_driver_sql(f"SHOW {name}").scalar() == "off"
    ]
    count = connection.exec_driver_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
    row = connection.exec_driver_sql(_WRITER, (WRITE_PATIENCE_S,)).one_or_none()
    writer = None if row is None else f"{row.application_name or 'a program'} at {row.place}, for {row.since_s:.0f} s"
    size = sum(server_bytes(connection).values())
    return Server(str(version).split(" ")[0], is_standby, off, count.scalar_one(), most, writer, size)


_WRITER = """
SELECT a.application_name, coalesce(host(a.client_addr), 'the server itself') AS place,
  extract(epoch FROM clock_timestamp() - a.xact_start) AS since_s
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND l.granted AND a.datname = current_database()
  AND a.xact_start < clock_timestamp() - make_interval(secs => %s)
ORDER BY a.xact_start LIMIT 1
"""
