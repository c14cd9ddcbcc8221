"""The database: one engine, and the two scopes through which everything reads and writes.

`read()` and `write()` are the only places that open a session, and they are what commits. A function that works
inside a scope takes `session` as its first argument and never commits. No scope may be open while user code runs,
or while anything waits.

SQLite's rules, each measured: the driver's own transactions are switched off and BEGIN is ours, `BEGIN IMMEDIATE`
for a write scope, since a transaction that first reads and then writes would otherwise either claim a row twice or
end with "database is locked" at once, whatever the timeout.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, exc, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from liteflow.errors import StorageError

BUSY_TIMEOUT_MS = 60_000
"""How long a scope waits for another writer. With 64 processes 5 s was too short and 30 s enough."""

OLDEST_SQLITE = (3, 35, 0)
"""The first version with RETURNING."""


def default_db_path() -> str:
    """The database when none is named: `$LITEFLOW_DB`, else `liteflow.db` in the working directory."""
    return os.environ.get("LITEFLOW_DB") or "liteflow.db"


def database_url(db_path: str | os.PathLike[str] | None) -> URL:
    """The SQLAlchemy URL of `db_path`: a path, which is made absolute, or a URL, which is taken as it is."""
    text = os.fspath(db_path) if db_path is not None else default_db_path()
    if "://" in text:
        url = make_url(text)
        if url.get_backend_name() != "sqlite":
            raise StorageError(
                f"{url.render_as_string()}: only SQLite databases are supported (a path, or sqlite:///PATH)",
                path=text,
            )
        if not url.database or url.database == ":memory:":
            raise StorageError(
                f"{text}: a run needs a database file that its history can live in; name a path", path=text
            )
        return url.set(database=str(Path(url.database).absolute()))
    if not text.strip():
        raise StorageError("the database path is empty; name a file", path=text)
    return URL.create("sqlite", database=str(Path(text).absolute()))


class Database:
    """A database file and its two scopes. Opening one touches nothing; `schema.open_database` checks and creates.

    Its connections stay open until `close()` if they are `pooled`; otherwise each scope has one of its own, which costs
    some 0.2 ms and leaves nothing to close. Threads may share it. A forked child must not use it: its scopes raise
    there, since connections of SQLite do not survive a fork.
    """

    def __init__(self, db_path: str | os.PathLike[str] | None = None, *, pooled: bool = True) -> None:
        self.url = database_url(db_path)
        self.path = str(self.url.database)
        self._pid = os.getpid()
        self.engine = _make_engine(self.url, pooled)
        self._watch: Any = None
        self._file: tuple[int, int] | None = None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A scope that reads one consistent state. SQLite refuses anything that it tries to write."""
        with self._session("BEGIN", during="query_only=ON", after="query_only=OFF") as session:
            yield session

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Session]:
        """A scope that writes and commits when it is left without an error, and rolls back otherwise.

        With `durable` the commit is on the disk when the scope is left, and survives a power cut; without it it
        survives a crash of the process, and a power cut may take back the latest ones, in order.
        """
        level = "synchronous=FULL" if durable else "synchronous=NORMAL"
        with self._session("BEGIN IMMEDIATE", during=level, after="synchronous=NORMAL") as session:
            yield session

    @contextmanager
    def _session(self, begin: str, *, during: str, after: str) -> Iterator[Session]:
        if os.getpid() != self._pid:
            raise StorageError(
                f"{self.path}: opened by process {self._pid} and used in its forked child {os.getpid()}; "
                "open the database anew in the child",
                path=self.path,
            )
        try:
            with self.engine.connect().execution_options(liteflow_begin=begin) as connection:
                driver: Any = connection.connection.driver_connection
                driver.execute(f"PRAGMA {during}")  # inside a transaction SQLite ignores or refuses these
                try:
                    with Session(connection, expire_on_commit=False) as session, session.begin():
                        yield session
                finally:
                    try:
                        driver.execute(f"PRAGMA {after}")
                    except sqlite3.ProgrammingError:
                        pass  # Ctrl-C came inside: SQLAlchemy has thrown the connection away
        except (exc.DBAPIError, sqlite3.Error) as error:
            raise storage_error(self.path, error) from error

    def remember_file(self) -> None:
        """Note which file this is, for `refuse_other_file`."""
        self._file = _identity(self.path)

    def refuse_other_file(self) -> None:
        """Raise StorageError when the file was removed or replaced: SQLite would go on writing into the old one."""
        if self._file is not None and _identity(self.path) != self._file:
            raise StorageError(
                f"{self.path}: was removed or replaced while it was in use; what is not in the file now is lost. "
                "Start the run again",
                path=self.path,
            )

    def data_version(self) -> int:
        """A number that changes when another connection, of this or another process, has committed."""
        if self._watch is None:
            self._watch = self.engine.raw_connection()
        cursor = self._watch.cursor()
        try:
            cursor.execute("PRAGMA data_version")
            row = cursor.fetchone()
        finally:
            cursor.close()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        """Close every connection. The scopes open new ones when they are used again."""
        if os.getpid() == self._pid:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
            self.engine.dispose()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_engine(url: URL, pooled: bool) -> Engine:
    # Without a limit: a thread that waits for a connection would wait for less long than for another writer.
    engine = create_engine(url, max_overflow=-1) if pooled else create_engine(url, poolclass=NullPool)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StorageError(
            f"SQLite {sqlite3.sqlite_version} is too old; liteflow needs "
            f"{'.'.join(map(str, OLDEST_SQLITE))} or later. Use a Python that is built with a newer one.",
            path="",
        )
    driver: Any = dbapi_connection
    driver.isolation_level = None  # we issue BEGIN ourselves, see _begin
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
    ):
        driver.execute(f"PRAGMA {pragma}")


def _begin(connection: Any) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("liteflow_begin", "BEGIN"))


def storage_error(path: str, error: BaseException) -> StorageError:
    """One line with the path and what to do, for an error of the driver."""
    text = str(error.orig if isinstance(error, exc.DBAPIError) else error)
    low = text.lower()
    if "locked" in low or "busy" in low:
        cure = f"another program has held it for {BUSY_TIMEOUT_MS // 1000} s; end that program and try again"
    elif "readonly" in low or "read-only" in low:
        cure = "make the file and its directory writable, or name another file with --db"
    elif "full" in low:
        cure = "the disk is full; make room and try again"
    elif "unable to open" in low:
        cure = "does its directory exist, and may you write to it?"
    elif "not a database" in low:
        cure = "the file is something else; name another one with --db"
    elif "malformed" in low:
        cure = "the file is damaged; restore it from a backup"
    else:
        cure = "see the error"
    return StorageError(f"{path}: {text} ({cure})", path=path)
