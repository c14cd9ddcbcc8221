"""The database: one engine, and the two scopes through which everything reads and writes.

`read()` and `write()` are the only places that open a transaction, and they are what commits. A function that works
inside a scope takes `connection` as its first argument and never commits. No scope may be open while user code runs,
or while anything waits.

SQLite's rules, each measured: the driver's own transactions are switched off and BEGIN is ours, `BEGIN IMMEDIATE`
for a write scope, since a transaction that first reads and then writes would otherwise either claim a row twice or
end with "database is locked" at once, whatever the timeout. Checkpoints are ours as well, see `checkpoints.py`.

A scope is the driver's transaction, and its connection works inside it; statements that are run for every task go past
SQLAlchemy, see `statements.Prepared`. Such a scope costs 15 microseconds.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.pool import NullPool

from liteflow.errors import StorageError
from liteflow.storage.checkpoints import Checkpoints
from liteflow.storage.forks import gate

# Named here too, where everybody looks for them.
from liteflow.storage.paths import default_db_path as default_db_path
from liteflow.storage.paths import is_read_only as is_read_only
from liteflow.storage.paths import read_only_uri as read_only_uri

BUSY_TIMEOUT_MS = 60_000
"""How long a scope waits for another writer. With 64 processes 5 s was too short and 30 s enough."""

OLDEST_SQLITE = (3, 35, 0)
"""The first version with RETURNING."""

PATIENCE_S = 45.0
"""For how long `attempt` and `look` begin again when the connection to a server is lost."""

ALLOW_NETWORK = "LITEFLOW_ALLOW_NETWORK_FILESYSTEM"
"""The environment variable that, set to 1, allows a database on a network file system."""

NETWORK_FILESYSTEMS = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"}
    | {"gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs"}
)
"""Linux's names of those whose files several machines may have open, without memory that they share."""

_MOUNTS = "/proc/self/mounts"


T = TypeVar("T")

POSTGRES = "postgresql+psycopg"
"""How the URL of a PostgreSQL database begins, and what is made of those that name no driver."""


def database_url(db_path: str | os.PathLike[str] | URL | None) -> URL:
    """The SQLAlchemy URL of `db_path`: a path, which is made absolute, or a URL of SQLite or PostgreSQL."""
    if isinstance(db_path, URL):
        db_path = db_path.render_as_string(hide_password=False)
    text = os.fspath(db_path) if db_path is not None else default_db_path()
    if "://" in text:
        try:
            url = make_url(text)
        except (exc.ArgumentError, ValueError):
            told = _without_password(text)
            raise StorageError(f"{told}: no path, and no URL of SQLAlchemy; name a file", path=told) from None
        if url.get_backend_name() in ("postgresql", "postgres"):
            return _postgres_url(url)
        if url.get_backend_name() != "sqlite":
            told = url.render_as_string()
            raise StorageError(
                f"{told}: only SQLite databases (a path, or sqlite:///PATH) and PostgreSQL ({POSTGRES}://...) are "
                "supported",
                path=told,
            )
        if not url.database or url.database == ":memory:":
            raise StorageError(
                f"{text}: a run needs a database file that its history can live in; name a path", path=text
            )
        return url.set(database=str(Path(url.database).absolute()))
    if not text.strip() or "\0" in text:
        raise StorageError("the database path is empty, or holds a NUL; name a file", path=text)
    return URL.create("sqlite", database=str(Path(text).absolute()))


def _postgres_url(url: URL) -> URL:
    # Where it is known to be a password, so that nobody is shown it.
    password = url.query.get("password")
    if password is not None:
        password = password if isinstance(password, str) else password[-1]
        url = url.set(password=password).difference_update_query(["password"])
    told = told_url(url)
    if url.drivername not in ("postgresql", "postgres", POSTGRES):
        raise StorageError(
            f"{told}: PostgreSQL is reached through psycopg 3; begin the URL with {POSTGRES}://", path=told
        )
    if "@" in (url.host or ""):  # what stands before it is the rest of a password, and no host
        told = told_url(url.set(host=(url.host or "").rpartition("@")[2]))
        raise StorageError(f"{told}: the password holds an @, or another sign of URLs; write it as %40", path=told)
    if not url.database:
        raise StorageError(f"{told}: names no database; write {POSTGRES}://USER@HOST/DATABASE", path=told)
    return url.set(drivername=POSTGRES)


def _without_password(text: str) -> str:
    """A text that was meant as a URL, for people to read."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", text)


def told_url(url: URL) -> str:
    """A URL for people to read: without the passwords in it."""
    if "sslpassword" in url.query:
        url = url.update_query_dict({"sslpassword": "***"})
    return url.render_as_string()


def told_path(db_path: str | os.PathLike[str] | URL | None) -> str:
    """The `path` of the database of that path or URL, for people to read."""
    url = database_url(db_path)
    return str(url.database) if url.get_backend_name() == "sqlite" else told_url(url)


def connect(db_path: str | os.PathLike[str] | URL | None = None, *, pooled: bool = True) -> Database:
    """The database of that path or URL, of the class that it needs. It opens nothing; `schema.open_database` checks."""
    url = database_url(db_path)
    if url.drivername != POSTGRES:
        return Database(url, pooled=pooled)
    try:
        from liteflow.storage.postgres import PostgresDatabase
    except ImportError as error:
        raise StorageError(
            f"{told_url(url)}: PostgreSQL needs psycopg, which cannot be imported here ({error}). "
            "Install it with: pip install 'liteflow[postgres]'",
            path=told_url(url),
        ) from error
    return PostgresDatabase(url, pooled=pooled)


_DURABLE = ("PRAGMA synchronous=FULL", "PRAGMA synchronous=NORMAL")
_TRUSTING = ("PRAGMA foreign_keys=OFF", "PRAGMA foreign_keys=ON")
_LEVELS: Mapping[tuple[bool, bool], tuple[Sequence[str], Sequence[str]]] = {
    (False, False): ((), ()),
    (True, False): (_DURABLE[:1], _DURABLE[1:]),
    (False, True): (_TRUSTING[:1], _TRUSTING[1:]),
    (True, True): ((_DURABLE[0], _TRUSTING[0]), (_DURABLE[1], _TRUSTING[1])),
}
"""By durable and trusting: what is set before a write scope and after it."""

DRIVER = "driver"
"""Under which the connection of a scope has the driver's own, in its `info`."""

_CURSORS = "cursors"
"""Under which it has the cursors of the scope that SQLAlchemy made."""


class _Lease:
    """A connection while a scope has it."""

    def __init__(self, connection: Connection, idle: deque[_Lease] | None) -> None:
        self.connection = connection
        self.idle = idle
        """Where it goes when its scope is left, as long as that is where the database's idle ones are."""
        self.driver: Any = connection.connection.driver_connection
        connection.info[DRIVER] = self.driver
        self.cursors: list[Any] = []
        connection.info[_CURSORS] = self.cursors

    def commit(self) -> None:
        """Commit what was done, by statements of SQLAlchemy or past them."""
        if self.connection.in_transaction():
            self.connection.commit()
        else:
            self.driver.commit()
        self.cursors.clear()

    def roll_back(self) -> None:
        """Undo what is not committed, for a connection that is used again."""
        for cursor in self.cursors:
            cursor.close()
        self.cursors.clear()
        if self.connection.in_transaction():
            self.connection.rollback()
        elif self.driver.in_transaction:
            self.driver.rollback()

    def close(self) -> None:
        """Roll back what is not committed, and close the connection.

        And its cursors first: one that an error left in the middle of its rows, and that the error's traceback holds,
        would keep the database locked for as long as that.
        """
        for cursor in self.cursors:
            cursor.close()
        self.connection.close()


class Database:
    """A database file and its two scopes. Opening one touches nothing; `schema.open_database` checks and creates.

    Its connections stay open until `close()` if they are `pooled`; otherwise each scope has one of its own, which costs
    some 0.2 ms and leaves nothing to close. Threads may share it. A forked child must not use it: its scopes raise
    there, since connections of SQLite do not survive a fork.
    """

    is_file: ClassVar[bool] = True
    """Whether it is a file of SQLite, at `path`."""

    has_leases: ClassVar[bool] = False
    """Whether several machines share it, so that executor services have leases in it."""

    tells_of_commits: ClassVar[bool] = True
    """Whether `data_version` stays the same while nobody commits; otherwise whoever asks looks each time."""

    when_unsettled: Callable[[StorageError], None] | None = None
    """Called, in its thread, when a scope is left of which nobody can tell whether it was committed."""

    url: URL
    """Where it is, with the password if there is one."""
    path: str
    """The same for people to read: of a file its path, of a server's database the URL without the password."""

    def __init__(self, db_path: str | os.PathLike[str] | URL | None = None, *, pooled: bool = True) -> None:
        self.url = database_url(db_path)
        if self.url.get_backend_name() != "sqlite":
            raise StorageError(f"{told_url(self.url)}: no SQLite database", path=told_url(self.url))
        self.path = str(self.url.database)
        self._pid = os.getpid()
        self.engine = _make_engine(self.url)
        self._idle: deque[_Lease] | None = deque() if pooled else None
        """Connections that no scope has."""
        self._checkpoints = Checkpoints(self.path)
        self._may_write = False
        self._watch: Any = None
        self._file: tuple[int, int] | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A scope that reads one consistent state. SQLite refuses anything that it tries to write."""
        with self._scope("BEGIN", ("PRAGMA query_only=ON",), ("PRAGMA query_only=OFF",)) as connection:
            yield connection

    @contextmanager
    def write(self, *, durable: bool = False, trusting: bool = False, shared: bool = False) -> Iterator[Connection]:
        """A scope that writes and commits when it is left without an error, and rolls back otherwise.

        With `durable` the commit is on the disk when the scope is left, and survives a power cut; without it it
        survives a crash of the process, and a power cut may take back the latest ones, in order.

        `trusting` leaves foreign keys unchecked: for deleting what the caller knows that nothing refers to, where
        SQLite would read a whole table for each row to see the same.

        `shared`: it touches only rows of runs that are the caller's own, so that other shared ones may go on beside it
        where the database can do that. SQLite cannot.

        Raises StorageError on a network file system, where SQLite cannot keep two writers apart.
        """
        if not self._may_write:
            refuse_network(self.path)
            self._may_write = True
        during, after = _LEVELS[durable, trusting]
        with self._scope("BEGIN IMMEDIATE", during, after) as connection:
            yield connection
        self._checkpoints.after_commit()

    def attempt(
        self,
        work: Callable[[Connection], T],
        *,
        durable: bool = False,
        shared: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> T:
        """What `work` returns in a write scope. Where the database is in a server it is called again, for up to
        `patience_s` seconds, when the connection is lost or the server gave way to another transaction.

        So it must do the same at each call, and change nothing but the database.
        """
        with self.write(durable=durable, shared=shared) as connection:
            return work(connection)

    def look(self, work: Callable[[Connection], T], *, patience_s: float = PATIENCE_S) -> T:
        """What `work` returns in a read scope; called again as in `attempt`."""
        with self.read() as connection:
            return work(connection)

    @contextmanager
    def _scope(self, begin: str, during: Sequence[str], after: Sequence[str]) -> Iterator[Connection]:
        """A connection inside a transaction of the driver. The pragmas are for as long as it lasts: inside of one
        SQLite ignores or refuses them."""
        self._refuse_fork()
        with gate:
            lease: _Lease | None = None
            try:
                lease = self._lease()
                driver = lease.driver
                for pragma in during:
                    driver.execute(pragma)
                driver.execute(begin)
                yield lease.connection
                lease.commit()
                for pragma in after:
                    driver.execute(pragma)
                if lease.idle is not None and lease.idle is self._idle:  # else it was closed meanwhile
                    lease.idle.append(lease)
                    lease = None
            except (exc.DBAPIError, sqlite3.Error, UnicodeDecodeError) as error:
                raise storage_error(self.path, error) from error
            finally:
                if lease is not None:  # also after any error: nobody knows what is open in it
                    lease.close()

    def _lease(self) -> _Lease:
        """A connection for one scope: an idle one, or a new one."""
        if self._idle:
            try:
                return self._idle.pop()
            except IndexError:
                pass  # another thread took it
        return _Lease(self.engine.connect().execution_options(liteflow_begin=""), self._idle)

    def _refuse_fork(self) -> None:
        if os.getpid() != self._pid:
            raise StorageError(
                f"{self.path}: opened by process {self._pid} and used in its forked child {os.getpid()}; "
                "open the database anew in the child",
                path=self.path,
            )

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

    def call_connections(self, token: str) -> None:
        """Have a server know of which executor service the connections are. A file knows nothing of them."""

    def abandon(self, error: StorageError) -> None:
        """Wait for a server no longer. A file is there or is not."""

    def data_version(self) -> int:
        """A number that changes when another connection, of this or another process, has committed."""
        with gate:
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
        if os.getpid() != self._pid:
            return
        with gate:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
            if self._idle is not None:
                idle, self._idle = self._idle, deque()
                while idle:
                    idle.pop().close()
            self.engine.dispose()


class MemoryDatabase(Database):
    """A database in this process's memory, for the runs of tests. Nobody else sees it, and it goes with this value.

    It has one connection, which the scopes of all threads have in turn: in SQLite's shared memory a reader that meets a
    writer fails at once.
    """

    is_file = False

    def __init__(self) -> None:
        self.url = URL.create("sqlite", database=":memory:")
        self.path = ":memory:"
        self._pid = os.getpid()
        self.engine = create_engine(self.url, poolclass=NullPool, connect_args={"check_same_thread": False})
        event.listen(self.engine, "connect", lambda driver, _record: _configure(driver, None))
        event.listen(self.engine, "begin", _begin)
        event.listen(self.engine, "after_cursor_execute", _note_cursor)
        self._only = _Lease(self.engine.connect().execution_options(liteflow_begin=""), None)
        self._turn = threading.RLock()
        weakref.finalize(self, self._only.close)

    @contextmanager
    def write(self, *, durable: bool = False, trusting: bool = False, shared: bool = False) -> Iterator[Connection]:
        """A scope that writes. Nothing is more durable than the process, and foreign keys are always checked."""
        with self._scope("BEGIN IMMEDIATE", (), ()) as connection:
            yield connection

    @contextmanager
    def _scope(self, begin: str, during: Sequence[str], after: Sequence[str]) -> Iterator[Connection]:
        self._refuse_fork()
        lease = self._only
        try:
            with self._turn:
                try:
                    for pragma in during:
                        lease.driver.execute(pragma)
                    lease.driver.execute(begin)
                    yield lease.connection
                    lease.commit()
                finally:
                    lease.roll_back()
                    for pragma in after:
                        lease.driver.execute(pragma)
        except (exc.DBAPIError, sqlite3.Error, UnicodeDecodeError) as error:
            raise storage_error(self.path, error) from error

    def remember_file(self) -> None:
        """There is no file."""

    def refuse_other_file(self) -> None:
        """There is no file."""

    def data_version(self) -> int:
        """Always the same: there is no other connection."""
        return 0

    def close(self) -> None:
        """It is closed when nobody holds it."""


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def refuse_network(path: str) -> None:
    """Raise StorageError when the database lies on a network file system, unless `$LITEFLOW_ALLOW_NETWORK_FILESYSTEM`
    is 1. Known on Linux only."""
    found = filesystem_of(path)
    if found in NETWORK_FILESYSTEMS and os.environ.get(ALLOW_NETWORK) != "1":
        raise StorageError(
            f"{path}: on a network file system ({found}), where SQLite's locks and shared memory do not hold; put the "
            f"database on a local disk, or set {ALLOW_NETWORK}=1 if no other machine ever opens it",
            path=path,
        )


def filesystem_of(path: str) -> str | None:
    """Linux's name of the file system on which the path lies, or would lie."""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split(" ")[1:3] for line in file]
    except OSError:
        return None
    real = os.path.realpath(path)
    best, found = "", None
    for place, kind in mounts:
        where = _OCTAL.sub(lambda match: chr(int(match[1], 8)), place)
        # The last of those mounted at one place is the one that is seen.
        if len(where) >= len(best) and (real + "/").startswith(where.rstrip("/") + "/"):
            best, found = where, kind
    return found


_OCTAL = re.compile(r"\\([0-7]{3})")
"""How blanks and their like are written in the list of mounts."""


def _make_engine(url: URL) -> Engine:
    engine = create_engine(url, poolclass=NullPool)  # which are kept is up to the scopes
    path = str(url.database)
    event.listen(engine, "do_connect", lambda _dialect, _record, args, options: _connect(path, args, options))
    event.listen(engine, "connect", lambda driver, _record: _configure(driver, path))
    event.listen(engine, "begin", _begin)
    event.listen(engine, "after_cursor_execute", _note_cursor)
    return engine


def _connect(path: str, args: Any, options: dict[str, Any]) -> None:
    """Before each connection, since what may be done with a file changes."""
    if is_read_only(path):
        args[0] = read_only_uri(path)
        options["uri"] = True


def _configure(driver: Any, path: str | None) -> None:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StorageError(
            f"SQLite {sqlite3.sqlite_version} is too old; liteflow needs "
            f"{'.'.join(map(str, OLDEST_SQLITE))} or later. Use a Python that is built with a newer one.",
            path="",
        )
    driver.isolation_level = None  # we issue BEGIN ourselves, see _begin
    # Only before anything is in the file, so before the change to WAL too. In a file that has it already it would be a
    # write.
    made = ("auto_vacuum=INCREMENTAL",) if path is not None and _is_empty(path) else ()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        *made,
        "journal_mode=WAL",  # what may only be read stays as it is
        "wal_autocheckpoint=0",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        # For files of strangers, https://sqlite.org/security.html: their schema calls no functions, cells are checked.
        "trusted_schema=OFF",
        "cell_size_check=ON",
    ):
        # To its end: the change to WAL is committed after the row, and an error there would be lost.
        driver.execute(f"PRAGMA {pragma}").fetchall()


def _is_empty(path: str) -> bool:
    try:
        return os.stat(path).st_size == 0
    except OSError:
        return False


def _begin(connection: Any) -> None:
    begin = connection.get_execution_options().get("liteflow_begin", "BEGIN")
    if begin:  # a scope has begun already
        connection.exec_driver_sql(begin)


def _note_cursor(connection: Connection, cursor: Any, *_others: Any) -> None:
    cursors = connection.info.get(_CURSORS)
    if cursors is not None:
        cursors.append(cursor)


def storage_error(path: str, error: BaseException) -> StorageError:
    """One line with the path and what to do, for an error of the driver."""
    driver_error = error.orig if isinstance(error, exc.DBAPIError) else error
    if isinstance(driver_error, UnicodeDecodeError):  # text that is none, in a row or in a message that quotes it
        cure = _CURES["SQLITE_CORRUPT"].format(path=path)
        return StorageError(f"{path}: holds text that is no UTF-8 ({cure})", path=path)
    name = getattr(driver_error, "sqlite_errorname", None)
    told = " ".join(str(driver_error).split())
    return StorageError(f"{path}: {told} ({_cure(path, name or '')})", path=path)


def _cure(path: str, name: str) -> str:
    """What to do about an error of that name, https://sqlite.org/rescode.html."""
    if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")) and _is_full(path):
        name = "SQLITE_FULL"  # where not even the index of the WAL finds room, SQLite calls it something else
    for beginning, cure in _CURES.items():
        if name.startswith(beginning):
            return cure.format(path=path, seconds=BUSY_TIMEOUT_MS / 1000)
    return name or "not an error of SQLite's own; see the line"


_NEEDED_BYTES = 64 * 2**10
"""Room that SQLite needs to begin: a new index of the WAL has half of that."""


def _is_full(path: str) -> bool:
    try:
        found = os.statvfs(os.path.dirname(path) or ".")
    except (OSError, AttributeError):  # Windows has no statvfs
        return False
    return found.f_bavail * found.f_frsize < _NEEDED_BYTES


_HELD = "another program has held it for {seconds:g} s; end that program and try again"
_NOT_WRITABLE = "make the file and its directory writable, or name another file with --db"
_CURES = {
    "SQLITE_BUSY": _HELD,
    "SQLITE_LOCKED": _HELD,
    "SQLITE_PROTOCOL": "too many programs open it at once; try again",
    "SQLITE_READONLY_DBMOVED": "it was removed or replaced while it was in use; try again with the file that is there",
    "SQLITE_READONLY": _NOT_WRITABLE,
    "SQLITE_PERM": _NOT_WRITABLE,
    "SQLITE_FULL": "the disk is full; make room and try again",
    "SQLITE_IOERR_WRITE": "the disk fails, or a quota or a limit of file sizes is reached; see to that and try again",
    "SQLITE_IOERR": "the disk fails; see to that, check the file with: liteflow db check --db {path}, and try again",
    "SQLITE_CANTOPEN": "does its directory exist, and may you write to it and to the -wal and -shm files beside it?",
    "SQLITE_CORRUPT": "the file is damaged; restore it from a backup. To see more: liteflow db check --db {path}",
    "SQLITE_NOTADB": "the file is something else; name another one with --db",
    "SQLITE_NOMEM": "there is not enough memory; end other programs and try again",
    "SQLITE_TOOBIG": "larger than SQLite can store; write it to a file of its own and hand on the path",
}
"""The first one whose beginning fits."""
