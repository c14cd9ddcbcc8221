"""A database in a PostgreSQL server: the same scopes as a file of SQLite has.

A read scope is one snapshot (REPEATABLE READ, READ ONLY). A write scope holds an advisory lock of its schema: exclusive
ones follow one another, as in SQLite, so that everything that is proved there holds here; shared ones run beside one
another. Each statement in it sees what was committed before it (READ COMMITTED), and so everything that was written
before the lock was had.

A connection that is lost in the middle of a scope wrote nothing. One that is lost in the middle of its commit may have:
the server is then asked over another one what became of the transaction, and the scope is left accordingly.
"""

from __future__ import annotations

import atexit
import itertools
import os
import random
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

import psycopg
from sqlalchemy import URL, Connection, create_engine, exc
from sqlalchemy.pool import NullPool

from liteflow.errors import ConnectionLostError, StorageError
from liteflow.storage.engine import BUSY_TIMEOUT_MS, DRIVER, PATIENCE_S, Database, database_url, told_url

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5
"""How long one attempt to connect may take."""

RECONNECT_S = 30.0
"""How long a scope tries to begin in a server that was there before."""

SETTLE_S = 30.0
"""How long a scope asks what became of its commit."""

APPLICATION = "liteflow"
"""With the token of an executor service behind it what the server calls that one's connections."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0

LOCK_TIMEOUT_S = 2 * BUSY_TIMEOUT_MS // 1000
"""How long a scope waits for another writer: longer than a service that was cut off can hold its locks."""

IDLE_IN_TRANSACTION_S = 10
"""When the server ends a transaction in which nothing is done, so that a machine that was cut off holds up nobody."""

_PARAMETERS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "client_encoding": "utf8",
}
"""What libpq is told, where the URL says nothing else."""

_SETTINGS = {
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S * 1000}",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "lock_timeout": f"{LOCK_TIMEOUT_S * 1000}",
    "statement_timeout": "0",
    "default_transaction_isolation": "'read committed'",
    "standard_conforming_strings": "on",
}
"""The same of the server, for the session."""

_LIFE = "pg_postmaster_start_time()::text || ' ' || coalesce((SELECT stats_reset FROM pg_stat_bgwriter)::text, '')"
"""SQL for what is the same until the server is started anew or crashes, which resets its statistics."""

_ON_CONNECT = "; ".join(
    (
        *(f"SET {name} = {value}" for name, value in _SETTINGS.items()),
        f"SELECT current_schema(), current_setting('server_encoding'), {_LIFE}",
    )
)

MOST_KEPT = 2
"""How many idle connections are kept for databases that are not pooled, in all for each URL."""

_END_WHEN_IDLE = (
    "SELECT set_config('idle_session_timeout', '10000', false) "
    "WHERE current_setting('server_version_num')::integer >= 140000; "
)
"""And the server ends them soon when nobody uses them."""

_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BEGIN_WRITE = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
    "SELECT {lock}({key}), pg_current_xact_id()::text, floor(extract(epoch FROM clock_timestamp()))::bigint"
)


class _Lease:
    """A connection while a scope has it."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.connection: Connection = database.engine.connect()
        self.driver: psycopg.Connection[Any] = self.connection.connection.driver_connection  # type: ignore[assignment]
        self.connection.info[DRIVER] = self.driver
        self.generation = database.idle.generation
        try:
            settings = f"SET application_name = '{database.application_name}'; "
            if not database.idle.is_pooled:
                settings += _END_WHEN_IDLE
            schema, encoding, self.life = _last_row(self.driver.execute(settings + _ON_CONNECT, prepare=False))
        except BaseException:
            self.close()
            raise
        self.key = _lock_key(database.path, schema, encoding)

    def begin(self, statement: str) -> Any:
        """Begin a transaction; returns what the statement finds."""
        cursor = self.driver.execute(statement.replace("{key}", str(self.key)), prepare=False)
        return _last_row(cursor) if cursor.nextset() else None

    def commit(self) -> None:
        """Commit what was done, by statements of SQLAlchemy or past them."""
        found = self.driver.execute("COMMIT", prepare=False).statusmessage
        if found != "COMMIT":  # a statement had failed, and somebody went on all the same
            raise psycopg.errors.InFailedSqlTransaction("the transaction had failed before")
        if self.connection.in_transaction():
            self.connection.commit()

    def close(self) -> None:
        """Close the connection; the server rolls back what is not committed."""
        self.driver.close()
        self.connection.invalidate()
        self.connection.close()


def _last_row(cursor: psycopg.Cursor[Any]) -> Any:
    while cursor.nextset():
        pass
    return cursor.fetchone()


def _lock_key(path: str, schema: str | None, encoding: str) -> int:
    """The number of the advisory lock. Such locks are per database; so two schemas need two."""
    if schema is None:
        raise StorageError(
            f"{path}: none of the schemas in the search path exists; create it with CREATE SCHEMA, or name another one",
            path=path,
        )
    if encoding != "UTF8":
        raise StorageError(
            f"{path}: its encoding is {encoding}, in which not every text can be stored; create a database with "
            "ENCODING 'UTF8'",
            path=path,
        )
    return int.from_bytes(sha256(f"liteflow {schema}".encode()).digest()[:8], "big", signed=True)


class _Idle:
    """Connections that no scope has: a database's own if it is pooled, else a few of the process for each URL."""

    def __init__(self, url: URL, pooled: bool) -> None:
        self.pid = os.getpid()
        self.is_pooled = pooled
        self.leases: deque[_Lease] = deque() if pooled else _kept.setdefault(url, deque())
        self.generation = 0
        """Goes up when the database is closed: what a scope has meanwhile is not kept."""

    def take(self) -> _Lease | None:
        try:
            return self.leases.pop()
        except IndexError:
            return None

    def give(self, lease: _Lease) -> bool:
        if lease.generation != self.generation or (not self.is_pooled and len(self.leases) >= MOST_KEPT):
            return False
        self.leases.append(lease)
        return True

    def close(self) -> None:
        if os.getpid() != self.pid:
            return  # they are the parent's
        self.generation += 1
        while (lease := self.take()) is not None:
            lease.close()


_kept: dict[URL, deque[_Lease]] = {}
"""By URL: idle connections of all databases that are not pooled. To connect takes many times as long as to look."""

_of_parents: list[deque[_Lease]] = []
"""In a forked child: what is the parent's, and must be neither used nor closed."""


def _close_kept() -> None:
    for leases in _kept.values():
        while leases:
            leases.pop().close()


def _leave_to_parent() -> None:
    _of_parents.extend(deque(leases) for leases in _kept.values())
    for leases in _kept.values():
        leases.clear()


atexit.register(_close_kept)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


class _Transaction(NamedTuple):
    """What is needed to learn what became of one."""

    xid: str
    life: str
    began_s: int = 0
    """When it had its number: seconds since 1970 on the server's clock."""


class PostgresDatabase(Database):
    """A database of a PostgreSQL server and its two scopes. Making one connects to nothing.

    Its connections stay open until `close()` if they are `pooled`; otherwise the process keeps a few for all databases
    of that URL, for some seconds, and there is nothing to close. Threads may share it; a forked child must not use it.
    """

    is_file = False
    has_leases = True
    tells_of_commits = False

    def __init__(self, db_path: str | os.PathLike[str] | URL | None = None, *, pooled: bool = True) -> None:
        self.url = database_url(db_path)
        self.path = told_url(self.url)
        self._pid = os.getpid()
        told = {name: value for name, value in _PARAMETERS.items() if name not in self.url.query}
        self.engine = create_engine(
            self.url,
            poolclass=NullPool,  # which are kept is up to the scopes
            pool_reset_on_return=None,
            use_native_hstore=False,
            connect_args={"autocommit": True, **told},
        )
        self.idle = _Idle(self.url, pooled)
        self.application_name = APPLICATION
        """What the server calls its connections: letters, digits and blanks."""
        self._was_there = False
        self._abandoned: StorageError | None = None
        self._versions = itertools.count()
        if pooled:
            weakref.finalize(self, self.idle.close)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A scope that reads one consistent state. The server refuses anything that it tries to write."""
        with self._transaction(_BEGIN_READ) as connection:
            yield connection

    @contextmanager
    def write(self, *, durable: bool = False, trusting: bool = False, shared: bool = False) -> Iterator[Connection]:
        """A scope that writes and commits when it is left without an error, and rolls back otherwise.

        Every commit is `durable`, and foreign keys are always checked. No other write scope goes on meanwhile, nor a
        `shared` one; several shared ones may, which must therefore keep to rows that are theirs.
        """
        lock = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
        with self._transaction(_BEGIN_WRITE.replace("{lock}", lock)) as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        self._refuse_fork()
        lease: _Lease | None = None
        transaction: _Transaction | None = None
        try:
            lease, found = self._begin(begin)
            yield lease.connection
            if found is not None:
                transaction = _Transaction(found[1], lease.life, found[2])
            lease.commit()
            if self.idle.give(lease):
                lease = None
        except (exc.DBAPIError, psycopg.Error) as error:
            problem = postgres_error(self.path, error, is_broken=lease is not None and lease.driver.closed)
            if transaction is None or not isinstance(problem, ConnectionLostError):
                raise problem from error
            if not self._settle(transaction, time.monotonic() + SETTLE_S):
                raise problem from error
        finally:
            if lease is not None:  # also after any error: nobody knows what is open in it
                lease.close()

    def call_connections(self, token: str) -> None:
        """Have the server know, from now on, of which executor service the connections are."""
        self.application_name = f"{APPLICATION} {token}"
        self.idle.close()

    def abandon(self, error: StorageError) -> None:
        """Begin no scope any more, and wait for the server no longer: whoever does gets this error. From any thread."""
        self._abandoned = error

    def _refuse_abandoned(self) -> None:
        if self._abandoned is not None:
            raise self._abandoned

    def _begin(self, statement: str) -> tuple[_Lease, Any]:
        """A connection in which a transaction has begun, and what its beginning found.

        A server that is started anew is waited for, as long as nothing was done: a first time only if it says that it
        is starting.
        """
        deadline = time.monotonic() + RECONNECT_S
        pauses = _pauses()
        while True:
            self._refuse_abandoned()
            lease = self.idle.take()
            is_old = lease is not None
            try:
                lease = lease or _Lease(self)
                self._was_there = True
                return lease, lease.begin(statement)
            except (exc.DBAPIError, psycopg.Error) as error:
                problem = postgres_error(self.path, error, is_broken=lease is not None and lease.driver.closed)
                if lease is not None:
                    lease.close()
                if is_old and isinstance(problem, ConnectionLostError):
                    continue  # the server ended it while nobody had it
                may_pass = isinstance(problem, ConnectionLostError) and (self._was_there or _is_starting(problem))
                if not may_pass or time.monotonic() >= deadline:
                    raise problem from error
            except BaseException:
                if lease is not None:
                    lease.close()
                raise
            time.sleep(next(pauses))

    def _settle(self, transaction: _Transaction, deadline: float) -> bool:
        """Whether a transaction, in whose commit the connection was lost, was committed.

        Raises ConnectionLostError with `unsettled` when the server cannot be asked until the deadline.
        """
        pauses = _pauses()
        while True:
            self._refuse_abandoned()
            try:
                found = self._became(transaction)
            except (exc.DBAPIError, psycopg.Error) as error:
                problem: BaseException = error
            else:
                if found is not None:
                    return found
                problem = TimeoutError("the server has not ended the transaction yet")
            if time.monotonic() >= deadline:
                unsettled = ConnectionLostError(
                    f"{self.path}: the connection was lost in the middle of a commit, and the server does not tell "
                    f"whether it was made ({_told(problem)}). Look at what is there before it is done again",
                    path=self.path,
                    unsettled=transaction.xid,
                )
                if self.when_unsettled is not None:
                    self.when_unsettled(unsettled)
                raise unsettled from problem
            time.sleep(next(pauses))

    def _became(self, transaction: _Transaction) -> bool | None:
        """Whether it was committed; None while it goes on."""
        lease = _Lease(self)
        try:
            (found,) = _row(lease, "SELECT pg_xact_status(%s::xid8)", transaction.xid)
            if lease.life == transaction.life:
                return {"committed": True, "aborted": False}.get(found)
            # The server crashed or was started anew, so it does not go on. Where nothing of it had come to the disk its
            # number may have been given again, to another one.
            if found != "committed":
                return None if found == "in progress" else False
            is_given_again = _is_given_again(lease, transaction)
            return None if is_given_again is None else not is_given_again
        except psycopg.errors.InvalidParameterValue:
            return False  # the server crashed, and knows of no such number any more
        finally:
            lease.close()

    def attempt(
        self,
        work: Callable[[Connection], T],
        *,
        durable: bool = False,
        shared: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> T:
        """What `work` returns in a write scope; called again as `Database.attempt` says. Where nobody knows whether it
        was committed it is not called again: the error has `unsettled`."""
        return _again(lambda: self.write(durable=durable, shared=shared), work, patience_s)

    def look(self, work: Callable[[Connection], T], *, patience_s: float = PATIENCE_S) -> T:
        """What `work` returns in a read scope; called again as in `attempt`."""
        return _again(self.read, work, patience_s)

    def remember_file(self) -> None:
        """There is no file."""

    def refuse_other_file(self) -> None:
        """There is no file."""

    def data_version(self) -> int:
        """Another number each time: a server does not tell, so whoever asks looks."""
        return next(self._versions)

    def close(self) -> None:
        """Close every connection. The scopes open new ones when they are used again."""
        self.idle.close()


def _again(
    scope: Callable[[], AbstractContextManager[Connection]], work: Callable[[Connection], T], patience_s: float
) -> T:
    """What `work` returns in a scope, begun again for so long when it fails for a reason that may pass."""
    deadline = time.monotonic() + patience_s
    pauses = _pauses()
    while True:
        try:
            with scope() as connection:
                return work(connection)
        except StorageError as error:
            if not _is_passing(error) or time.monotonic() >= deadline:
                raise
        time.sleep(next(pauses))


def _pauses() -> Iterator[float]:
    """Seconds to wait before one tries again, growing; no two programs wait for the same time."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s * random.uniform(0.5, 1.0)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _row(lease: _Lease, statement: str, *values: Any) -> Any:
    return lease.driver.execute(statement, values).fetchone()


def _is_given_again(lease: _Lease, transaction: _Transaction) -> bool | None:
    """Whether the number of a transaction was given after the server's recovery, so that it is not the old one's.

    A server makes a checkpoint at the end of a recovery, and writes down which number comes next. None while the
    latest one is older than the transaction: there was no recovery, and somebody has only reset the statistics, or a
    standby took over and has made none yet.
    """
    try:
        next_xid, at_s = _row(
            lease, "SELECT next_xid, floor(extract(epoch FROM checkpoint_time))::bigint FROM pg_control_checkpoint()"
        )
    except psycopg.Error:  # some who rent out servers do not allow it
        return False
    epoch, _, low = str(next_xid).partition(":")
    if int(transaction.xid) < (int(epoch) << 32) + int(low):
        return False
    return True if at_s >= transaction.began_s else None


def _is_passing(error: StorageError) -> bool:
    """Whether the same may go well in a moment."""
    if isinstance(error, ConnectionLostError):
        return error.unsettled is None
    return getattr(error, "sqlstate", None) in _GAVE_WAY


_GAVE_WAY = ("40001", "40P01")
"""Serialization failure, deadlock."""


def _is_starting(error: StorageError) -> bool:
    return getattr(error, "sqlstate", None) == "57P03"


def postgres_error(path: str, error: BaseException, *, is_broken: bool = False) -> StorageError:
    """One line with the URL and what to do, for an error of the driver.

    It is a ConnectionLostError when the connection broke (which the driver knows: `is_broken`), or none could be made
    for a reason that may pass.
    """
    driver_error = error.orig if isinstance(error, exc.DBAPIError) else error
    code = getattr(driver_error, "sqlstate", None) or ""
    told = _told(driver_error)
    if not code and isinstance(driver_error, psycopg.OperationalError):
        code = next((code for words, code in _CODES_OF_WORDS.items() if words in told), "")
        is_broken = is_broken or not code
    cure = next((cure for beginning, cure in _CURES.items() if code.startswith(beginning)), "")
    if is_broken or code in _PASSING:
        return ConnectionLostError(f"{path}: {told} ({cure or _UNREACHABLE})", path=path, sqlstate=code)
    cure = cure.format(seconds=LOCK_TIMEOUT_S) or f"SQLSTATE {code}" if code else "see the line"
    return StorageError(f"{path}: {told} ({cure})", path=path, sqlstate=code)


def _told(error: BaseException | None) -> str:
    return " ".join(str(error).split())


_CODES_OF_WORDS = {
    "password authentication failed": "28P01",
    "no password supplied": "28P01",
    "no pg_hba.conf entry": "28000",
    "authentication failed": "28000",
    "is not permitted to log in": "28000",
    'FATAL: role "': "28000",
    "permission denied for database": "42501",
    "too many connections": "53300",
    "too many clients": "53300",
    "connection slots are reserved": "53300",
    "the database system is": "57P03",
    "does not exist": "3D000",
}
"""What the server says when it refuses a connection, where libpq does not hand on its code."""

_UNREACHABLE = "does the server run, and can it be reached from here?"

_PASSING = ("08000", "08001", "08003", "08004", "08006", "08P01", "53300", "57P01", "57P02", "57P03", "25P03", "57P05")
"""Codes that tell of a connection that was ended, or of a server that takes none at the moment."""

_HELD = "another program has held it for {seconds:g} s; end that program and try again"
_CURES = {
    "08": _UNREACHABLE,
    "22P05": "a character that the database's encoding has not",
    "25006": "it can only be read: a standby, or default_transaction_read_only is set; name the primary server",
    "25P02": "a statement before it failed",
    "25P03": f"nothing was done for {IDLE_IN_TRANSACTION_S} s, as when this computer sleeps; try again",
    "28": "check the user and the password in the URL, and the server's pg_hba.conf",
    "3D000": "create it with: createdb, or name another one; and check the user in the URL",
    "3F000": "create it with CREATE SCHEMA, or name another one",
    "40": "two programs got in each other's way; try again",
    "42501": "GRANT the user of the URL what it needs: CONNECT on the database, USAGE and CREATE on the schema",
    "42P01": "its tables are not as liteflow made them; restore it from a backup",
    "42703": "its tables are not as liteflow made them; restore it from a backup",
    "53100": "the server's disk is full; make room and try again",
    "53200": "the server has not enough memory; see to that and try again",
    "53300": "the server has no connection left; raise its max_connections, or end other programs",
    "54": "larger than PostgreSQL can store; write it to a file of its own and hand on the path",
    "55P03": _HELD,
    "57P01": "somebody ended the connection, or the server stops; try again",
    "57P03": "it starts or stops; try again",
    "57": "the server ended it; try again",
    "58": "the server's disk fails; see to that and try again",
    "XX001": "the database is damaged; restore it from a backup",
    "XX002": "an index is damaged; REINDEX it",
}
"""By the code or its beginning, https://www.postgresql.org/docs/current/errcodes-appendix.html. The first that fits."""
