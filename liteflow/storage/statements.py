"""What the statements of this room share: bounded lists of ids, keys that are known beforehand, and
statements that are compiled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from operator import itemgetter
from sqlite3 import Connection as SQLite
from typing import Any, TypeVar

from sqlalchemy import Connection, Dialect, Table, text
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.dml import Insert

from liteflow.storage.engine import DRIVER

IDS_PER_STATEMENT = 500
"""How many ids stand in one IN list: well below SQLite's limit of bound values."""

MANY_ROWS = 10_000
"""From how many rows on PostgreSQL is asked for more patience."""

MS_PER_ROW = 0.1
"""How much more for each of them: several times what was measured, and for a million rows less than others wait for
locks."""

T = TypeVar("T")


def changed(result: Any) -> int:
    """How many rows a statement changed."""
    return int(result.rowcount)


Row = Sequence[Any]

Ready = tuple[str, Callable[[Row], Row] | None]
"""The text of a statement, and what arranges a row for it; None when rows are as it wants them."""


class Prepared:
    """A statement that is compiled once and handed to the driver, for what is done with every task: SQLAlchemy takes
    longer over each execution than SQLite.

    Rows have a value for each of `names`, in that order, as the database holds it: a whole number, text (of an enum its
    value), bytes or None. They work in the transaction of the scope whose connection they are given.
    """

    def __init__(self, statement: ClauseElement, *names: str) -> None:
        self._statement = statement
        self._names = names

    @cached_property
    def _ready(self) -> Ready:
        """For SQLite's driver."""
        return self._compiled(SQLiteDialect_pysqlite(paramstyle="qmark"), "?")

    @cached_property
    def _ready_for_psycopg(self) -> Ready:
        """For PostgreSQL's."""
        from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

        dialect: Any = PGDialect_psycopg
        return self._compiled(dialect(paramstyle="format"), "%s")

    def _compiled(self, dialect: Dialect, mark: str) -> Ready:
        """The statement for a dialect in which `mark` is a parameter."""
        columns = self._names if isinstance(self._statement, Insert) else None
        compiled: Any = self._statement.compile(dialect=dialect, column_keys=columns)
        missing = [column.name for column in compiled.insert_prefetch] if columns is not None else []
        if missing:
            raise ValueError(f"{compiled}: columns with a default of Python need a value: {missing}")
        first, *rest = str(compiled).split(mark)
        if len(rest) != len(compiled.positiontup):
            raise ValueError(f"{compiled}: a {mark} that is no parameter")
        pieces, places = [first], []
        for name, piece in zip(compiled.positiontup, rest, strict=True):
            if name in self._names:
                places.append(self._names.index(name))
                pieces += mark, piece
            else:
                bound = compiled.binds[name]
                process = bound.type.dialect_impl(dialect).bind_processor(dialect)
                literal = _literal(process(bound.value) if process is not None else bound.value)
                pieces += literal.replace("%", "%%") if mark == "%s" else literal, piece
        if places == list(range(len(self._names))):
            return "".join(pieces), None
        return "".join(pieces), itemgetter(*places) if len(places) > 1 else lambda row: (row[places[0]],)

    def run(self, connection: Connection, rows: Iterable[Row]) -> int:
        """Execute it for each row; returns how many rows of the table were changed in all."""
        driver = connection.info[DRIVER]
        if isinstance(driver, SQLite):
            text_of, arrange = self._ready
            return int(driver.executemany(text_of, rows if arrange is None else map(arrange, rows)).rowcount)
        text_of, arrange = self._ready_for_psycopg
        if isinstance(rows, list) and len(rows) == 1:  # one round trip instead of two
            only = rows[0] if arrange is None else arrange(rows[0])
            return max(int(driver.execute(text_of, only).rowcount), 0)
        with driver.cursor() as cursor:
            cursor.executemany(text_of, rows if arrange is None else map(arrange, rows))
            count = max(int(cursor.rowcount), 0)  # -1 for no rows at all
            # The driver's last word to the server is "flush", after which PostgreSQL (15) does not count how long
            # nothing is done in a transaction: one whose client is cut off now would keep its locks.
            cursor.execute("SELECT", prepare=False)
        return count

    def fetch(self, connection: Connection, *values: Any) -> list[Any]:
        """Execute it once; returns the rows that it found."""
        driver = connection.info[DRIVER]
        text_of, arrange = self._ready if isinstance(driver, SQLite) else self._ready_for_psycopg
        found: list[Any] = driver.execute(text_of, values if arrange is None else arrange(values)).fetchall()
        return found


def _literal(value: int | str | None) -> str:
    """A value that is the same for every row, as it is written in SQL."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def allow_time(connection: Connection, rows: int) -> None:
    """Until the transaction ends have PostgreSQL wait longer for its next statement, since we are at work on so many
    rows between two of them. Nothing happens for few rows, or in SQLite."""
    if connection.dialect.name == "sqlite" or rows <= MANY_ROWS:
        return
    from liteflow.storage.postgres import IDLE_IN_TRANSACTION_S

    limit_ms = int(IDLE_IN_TRANSACTION_S * 1000 + rows * MS_PER_ROW)
    connection.info[DRIVER].execute(f"SET LOCAL idle_in_transaction_session_timeout = {limit_ms}", prepare=False)


def in_groups(ids: Sequence[T]) -> Iterable[Sequence[T]]:
    """The ids, as many at a time as go into one statement."""
    for start in range(0, len(ids), IDS_PER_STATEMENT):
        yield ids[start : start + IDS_PER_STATEMENT]


def next_keys(connection: Connection, table: Table[Any], count: int) -> Sequence[int]:
    """The keys for the next `count` rows of a table whose keys are never used again, ascending.

    To be called in the write scope that inserts them. Knowing them beforehand makes one statement of all rows.
    """
    if connection.dialect.name != "sqlite":
        found = connection.info[DRIVER].execute(
            "SELECT nextval(%s::regclass) FROM generate_series(1, %s)", (f"{table.name}_id_seq", count)
        )
        return sorted(pk for (pk,) in found)  # other scopes may have taken some between them
    found = _LAST_KEY.fetch(connection, table.name)
    last = found[0][0] if found else 0
    return range(last + 1, last + 1 + count)


# The highest key that was ever given, also to rows that are deleted.
_LAST_KEY = Prepared(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), "name")
