"""How large a database is and what takes the room, by table and by dag; and making a file small at once."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from liteflow.errors import StorageError
from liteflow.storage.checkpoints import checkpoint
from liteflow.storage.engine import BUSY_TIMEOUT_MS, Database, refuse_network, storage_error
from liteflow.storage.functions import ByteLength, total
from liteflow.storage.pruning import Space, server_bytes, space_of
from liteflow.storage.tables import DAG, DAG_RUN, LOG_RECORD, TASK_INSTANCE, XCOM, metadata
from liteflow.storage.untrusted import checked

CHECKPOINT_PATIENCE_S = 2.0
"""How long the copying of the WAL that makes the file shorter waits for those who read and write."""


class TableSize(NamedTuple):
    """A table with its indexes."""

    table: str
    rows: int
    bytes: int


class DagSize(NamedTuple):
    """What is kept of a dag."""

    dag_id: str
    runs: int = 0
    task_instances: int = 0
    tries: int = 0
    log_lines: int = 0
    log_bytes: int = 0
    xcoms: int = 0
    xcom_bytes: int = 0


class NamedRun(NamedTuple):
    """A run, and when it was created."""

    dag_id: str
    run_id: str
    created_at: datetime


class DatabaseSize(NamedTuple):
    """How large a database is, and what takes the room."""

    space: Space
    file_bytes: int
    """Of a server's database, what its tables and indexes take."""
    wal_bytes: int
    is_measured: bool
    """Whether the bytes of tables are those of their pages; else they are the lengths of what is in their rows."""
    tables: list[TableSize]
    """The largest first."""
    dags: list[DagSize]
    """The one with the most bytes first."""
    oldest: NamedRun | None
    newest: NamedRun | None


def sizes_of(connection: Connection, path: str) -> DatabaseSize:
    """Measure the database. Reads all of it: some seconds for a million task instances."""
    pages = _bytes_by_table(connection)
    tables = []
    for table in metadata.sorted_tables:
        rows = connection.scalar(select(func.count()).select_from(table)) or 0
        size = pages.get(table.name, 0) if pages is not None else _lengths(connection, table.name)
        tables.append(TableSize(table.name, rows, size))
    is_file = connection.dialect.name == "sqlite"
    return DatabaseSize(
        space_of(connection),
        file_bytes(path) if is_file else sum(one.bytes for one in tables),
        file_bytes(f"{path}-wal") if is_file else 0,
        pages is not None,
        sorted(tables, key=lambda one: (-one.bytes, one.table)),
        sorted(_by_dag(connection), key=lambda one: (-one.log_bytes - one.xcom_bytes, one.dag_id)),
        _end_of_history(connection, newest=False),
        _end_of_history(connection, newest=True),
    )


def file_bytes(path: str) -> int:
    """The size of a file; 0 when there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _bytes_by_table(connection: Connection) -> dict[str, int] | None:
    """The bytes of each table's pages, its indexes' with them; None where this SQLite has no table of pages."""
    if connection.dialect.name != "sqlite":
        return server_bytes(connection)
    driver = connection.connection.driver_connection
    assert driver is not None
    try:
        rows = driver.execute(
            "SELECT m.tbl_name, sum(s.pgsize) FROM dbstat s JOIN sqlite_master m ON m.name = s.name "
            "WHERE s.aggregate = TRUE GROUP BY m.tbl_name"
        ).fetchall()
    except sqlite3.OperationalError as error:
        if "dbstat" in str(error):
            return None
        raise
    return {str(name): int(size) for name, size in rows}


def _lengths(connection: Connection, table: str) -> int:
    """The length of everything in the rows of a table: less than its pages, since these have heads and room left."""
    columns = " + ".join(
        f"coalesce(length(CAST({column.name} AS BLOB)), 0)" for column in metadata.tables[table].columns
    )
    return int(connection.exec_driver_sql(f"SELECT coalesce(sum({columns}), 0) FROM {table}").scalar_one())


def _by_dag(connection: Connection) -> list[DagSize]:
    ti, run = TASK_INSTANCE.c, DAG_RUN.c
    owner = {row.id: row.dag_pk for row in connection.execute(select(run.id, run.dag_pk))}
    sums: dict[int, list[int]] = {dag_pk: [0] * 7 for dag_pk in connection.scalars(select(DAG.c.id))}
    for dag_pk in owner.values():
        sums[dag_pk][0] += 1
    instances = select(ti.run_pk, func.count(), total(ti.try_number)).group_by(ti.run_pk)
    length = ByteLength(LOG_RECORD.c.message)
    lines = (
        select(ti.run_pk, func.count(), total(length))
        .select_from(LOG_RECORD)
        .join(TASK_INSTANCE, ti.id == LOG_RECORD.c.task_instance_pk)
        .group_by(ti.run_pk)
    )
    values = (
        select(ti.run_pk, func.count(), total(XCOM.c.size_bytes))
        .select_from(XCOM)
        .join(TASK_INSTANCE, ti.id == XCOM.c.task_instance_pk)
        .group_by(ti.run_pk)
    )
    for first, statement in ((1, instances), (3, lines), (5, values)):
        for run_pk, count, amount in connection.execute(statement).all():
            found = sums[owner[run_pk]]
            found[first] += count
            found[first + 1] += amount or 0
    return [
        checked(DagSize(row.dag_id, *sums[row.id])) for row in connection.execute(select(DAG.c.id, DAG.c.dag_id)).all()
    ]


def _end_of_history(connection: Connection, *, newest: bool) -> NamedRun | None:
    run = DAG_RUN.c
    order = (run.created_at.desc(), run.id.desc()) if newest else (run.created_at, run.id)
    row = connection.execute(
        select(DAG.c.dag_id, run.run_id, run.created_at)
        .select_from(DAG_RUN)
        .join(DAG, DAG.c.id == run.dag_pk)
        .order_by(*order)
        .limit(1)
    ).one_or_none()
    return None if row is None else checked(NamedRun(*row))


def shorten(path: str) -> bool:
    """Copy the WAL into the file, which is then as short as its pages are; False while somebody reads or writes."""
    return checkpoint(path, patience_s=CHECKPOINT_PATIENCE_S)


def vacuum(database: Database) -> None:
    """Write the whole database anew, without room in between, and so that space can be given back later.

    Nobody else can write meanwhile. It needs as much room on the disk as the database has twice, until it is done.
    Raises StorageError when that is not there, or another process writes all the time.
    """
    path = database.path
    if not database.is_file:
        raise StorageError(
            f"{path}: the server makes room by itself (autovacuum); to write the tables anew, use its VACUUM FULL",
            path=path,
        )
    refuse_network(path)
    needed = 2 * (file_bytes(path) + file_bytes(f"{path}-wal"))
    free = shutil.disk_usage(os.path.dirname(path) or ".").free
    if free < needed:
        raise StorageError(
            f"{path}: to be written anew it needs {needed:,} bytes of free disk, and there are {free:,}; make room",
            path=path,
        )
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000)) as connection:
            for pragma in ("wal_autocheckpoint=0", "synchronous=FULL", "trusted_schema=OFF"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL").fetchall()
            connection.execute("VACUUM")
    except sqlite3.Error as error:
        raise storage_error(path, error) from error
    shorten(path)
