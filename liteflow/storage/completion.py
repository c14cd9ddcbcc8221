"""Ids for completion in a shell: few, at once, and none at all rather than an error.

A shell waits for them with each press of a key, so this goes straight to the driver: SQLAlchemy's import alone takes
longer than one likes to wait. What a file of a stranger holds is cut off after a moment, and only ids whose characters
mean nothing to a shell are offered.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Protocol

from liteflow.errors import LiteflowError, StorageError
from liteflow.storage.paths import default_db_path, read_only_uri
from liteflow.storage.untrusted import refuse_strange_schema

MOST_CANDIDATES = 200
"""How many ids are offered."""

PATIENCE_S = 0.5
"""How long the database may take."""

MOST_CHARACTERS = 501
"""A dag id and a run id have up to 250 each, and a slash is between them."""

_HARMLESS = re.compile(r"[A-Za-z0-9_.:+][A-Za-z0-9_.~:+/-]*", re.ASCII)
"""At its beginning a tilde would be somebody's home, and a hyphen an option."""

_STEPS_BETWEEN_LOOKS = 10_000


class Reading(Protocol):
    """What is asked: a connection of either driver, with statements as SQLite has them."""

    def execute(self, sql: str, values: Sequence[object], /) -> Any:
        """A cursor with the rows."""


Query = Callable[[Reading], Iterator[str]]


def dag_ids(db_path: str | None, beginning: str) -> list[str]:
    """Ids of dags that begin so, by id."""
    return _found(db_path, lambda connection: _dag_ids(connection, beginning))


def runs(db_path: str | None, beginning: str, subject: str | None = None) -> list[str]:
    """What may stand for RUN and begins so: dag ids; with a slash the runs of that dag as DAG/RUN; else run ids too.

    Run ids come behind the dag ids, backwards, once there is a beginning: there may be very many. `subject`, a dag id
    or FILE[:DAG_ID]: only of its dags, if any of them has run here.
    """

    def query(connection: Reading) -> Iterator[str]:
        dag_id, slash, run_id = beginning.partition("/")
        mine = None if subject is None else list(_dags_of(connection, subject)) or None
        if slash:
            for found in _run_ids(connection, run_id, dag_id) if mine is None or dag_id in mine else ():
                yield f"{dag_id}/{found}"
            return
        yield from (one for one in _dag_ids(connection, beginning) if mine is None or one in mine)
        if beginning and mine is None:
            yield from _run_ids(connection, beginning)
        for one in mine or () if beginning else ():
            yield from _run_ids(connection, beginning, one)

    return _found(db_path, query)


def task_ids(db_path: str | None, run: str, beginning: str) -> list[str]:
    """Ids of tasks that begin so in the run that RUN names, by id."""

    def query(connection: Reading) -> Iterator[str]:
        run_pk = _run_pk(connection, run)
        return iter(()) if run_pk is None else _task_ids(connection, run_pk, beginning)

    return _found(db_path, query)


def pool_names(db_path: str | None, beginning: str) -> list[str]:
    """Names of pools that begin so, by name."""
    sql = "SELECT name FROM liteflow_pool WHERE name >= ? AND name < ? ORDER BY name"
    return _found(db_path, lambda connection: _column(connection, sql, *_range(beginning)))


def _found(db_path: str | None, query: Query) -> list[str]:
    """The first harmless ones of what the query finds; none when anything is amiss."""
    found: dict[str, None] = {}  # each once, in its order
    try:
        with _reading(db_path) as connection:
            for one in query(connection):
                if isinstance(one, str) and len(one) <= MOST_CHARACTERS and _HARMLESS.fullmatch(one):
                    found[one] = None
                    if len(found) == MOST_CANDIDATES:
                        break
    except (sqlite3.Error, OSError, ValueError, ImportError, LiteflowError):
        # No such file, something else, an older schema, one that takes too long: what was found before is good.
        pass
    return list(found)


@contextmanager
def _reading(db_path: str | None) -> Iterator[Reading]:
    text = db_path or default_db_path()
    if text.startswith(_SERVERS):
        with _reading_in_server(text) as server:
            yield server
        return
    path = os.path.expanduser(text.removeprefix("sqlite:///"))
    if not os.path.isfile(path):
        raise FileNotFoundError(path)
    deadline = time.monotonic() + PATIENCE_S
    with closing(sqlite3.connect(read_only_uri(path), uri=True, timeout=PATIENCE_S)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
        connection.execute("PRAGMA trusted_schema=OFF")
        refuse_strange_schema(connection, path)
        yield connection


_SERVERS = ("postgresql://", "postgresql+psycopg://")


class _Server:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[object]) -> Any:
        return self._connection.execute(sql.replace("?", "%s"), values)


@contextmanager
def _reading_in_server(url: str) -> Iterator[Reading]:
    import psycopg

    try:
        uri = url.replace("postgresql+psycopg://", "postgresql://", 1)
        with psycopg.connect(uri, connect_timeout=_CONNECT_S) as connection:
            connection.execute(f"SET LOCAL statement_timeout = {int(PATIENCE_S * 1000)}; SET TRANSACTION READ ONLY")
            yield _Server(connection)
    except psycopg.Error as error:
        raise StorageError("the server does not answer", path="") from error


_CONNECT_S = 2
"""libpq does not wait for less."""


def _column(connection: Reading, sql: str, *values: object) -> Iterator[str]:
    return (value for (value,) in connection.execute(sql, values))


def _range(beginning: str) -> tuple[str, str]:
    """Between which texts, the second one left out, all are that begin so."""
    return beginning, beginning + chr(0x10FFFF)


def _dag_ids(connection: Reading, beginning: str) -> Iterator[str]:
    sql = "SELECT dag_id FROM liteflow_dag WHERE dag_id >= ? AND dag_id < ? ORDER BY dag_id"
    return _column(connection, sql, *_range(beginning))


def _dags_of(connection: Reading, subject: str) -> Iterator[str]:
    """The dags that a dag id or FILE[:DAG_ID] names and that have run here, by id."""
    path, _, dag_id = subject.rpartition(":")
    sql = "SELECT dag_id FROM liteflow_dag WHERE dag_id IN (?, ?) OR file = ? ORDER BY dag_id"
    return _column(connection, sql, subject, dag_id if path else subject, os.path.abspath(subject))


def _run_ids(connection: Reading, beginning: str, dag_id: str | None = None) -> Iterator[str]:
    """Backwards, in the order of an index: ids that are not chosen by hand begin with a time."""
    sql = "SELECT run_id FROM liteflow_dag_run WHERE run_id >= ? AND run_id < ?"
    if dag_id is None:
        return _column(connection, f"{sql} ORDER BY run_id DESC", *_range(beginning))
    return _column(connection, f"{sql} AND {_OF_DAG} ORDER BY run_id DESC", *_range(beginning), dag_id)


_OF_DAG = "dag_pk = (SELECT id FROM liteflow_dag WHERE dag_id = ?)"


def _run_pk(connection: Reading, run: str) -> int | None:
    """The key of the run that RUN names, as `History.find_run` would find it; one of them when there are several."""
    dag_id, slash, run_id = run.partition("/")
    tries: list[tuple[str, tuple[str, ...]]]
    if slash:
        tries = [
            (f"{_OF_DAG} AND run_id = ?", (dag_id, run_id)),
            (f"{_OF_DAG} AND run_id >= ? AND run_id < ? ORDER BY run_id DESC", (dag_id, *_range(run_id))),
        ]
    else:
        tries = [
            ("run_id = ?", (run,)),
            (f"{_OF_DAG} ORDER BY created_at DESC", (run,)),
            ("run_id >= ? AND run_id < ? ORDER BY run_id DESC", _range(run)),
        ]
    for condition, values in tries:
        found = connection.execute(f"SELECT id FROM liteflow_dag_run WHERE {condition} LIMIT 1", values).fetchone()
        if found is not None:
            return int(found[0])
    return None


def _task_ids(connection: Reading, run_pk: int, beginning: str) -> Iterator[str]:
    """From one to the next: a mapped task has a row for each of its instances, which are passed over."""
    start, end = _range(beginning)
    sign = ">="
    while True:
        sql = f"SELECT min(task_id) FROM liteflow_task_instance WHERE run_pk = ? AND task_id {sign} ? AND task_id < ?"
        (found,) = connection.execute(sql, (run_pk, start, end)).fetchone()
        if found is None:
            return
        yield found
        start, sign = found, ">"
