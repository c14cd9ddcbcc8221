"""Whole tables in and out, as the driver of each kind of database has their rows, one after another in bounded memory.

A row is a tuple of None, int, float, str and bytes in the order of the table's columns, whose first is its key, `id`.
Of a text in SQLite that is no UTF-8 the cell is `Undecoded`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection, Table

Row = tuple[Any, ...]

GROUP_BYTES = 8 * 2**20
"""How much is asked of a server at once, unless one row alone has more."""

GROUP_ROWS = 5_000

MOST_BYTES = 2**30 - 2**20
"""What PostgreSQL takes in one value is below 1 GiB, its row's other values and the message's head with it."""


class Undecoded(bytes):
    """Text of SQLite that is no UTF-8."""


class Side(Protocol):
    """A database inside of a scope."""

    def rows(self, table: Table) -> Iterator[Row]:
        """All rows, by key."""

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        """Write rows, in their order."""

    def refusals(self, table: Table) -> Callable[[Row], str | None]:
        """What tells of a row why it cannot be kept here; None when it can."""

    def dangling(self) -> tuple[str, int, str] | None:
        """The table and key of a row that refers to a missing one, and the table of that one; None without."""

    def is_empty(self, table: Table) -> bool:
        """Whether there is no row."""

    def last_key(self, table: Table) -> int:
        """The highest key that was ever given, as far as the database knows; 0 for none."""

    def set_last_key(self, table: Table, key: int) -> None:
        """Have the next key be a higher one."""


def side_of(connection: Connection) -> Side:
    """What fits the scope's database."""
    if connection.dialect.name == "postgresql":
        return PostgresSide(connection)
    return SqliteSide(connection)


def _columns(table: Table) -> str:
    return ", ".join(column.name for column in table.columns)


class SqliteSide:
    """A file of SQLite, where any cell may hold anything."""

    def __init__(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        self._driver = driver
        self._driver.text_factory = _decoded  # the connection is closed behind the scope

    def rows(self, table: Table) -> Iterator[Row]:
        """All rows, by key: SQLite steps through them."""
        cursor = self._driver.execute(f"SELECT {_columns(table)} FROM {table.name} ORDER BY id")
        try:
            yield from cursor
        finally:
            cursor.close()

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        """Write rows, in their order; SQLite takes them one by one."""
        into = f"INSERT INTO {table.name} ({_columns(table)}) VALUES"
        marks = ", ".join("?" * len(table.columns))
        self._driver.executemany(f"{into} ({marks})", self._decoded_rows(into, rows))

    def _decoded_rows(self, into: str, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, but for those with text that is no UTF-8. It cannot be bound, so these are written here."""
        for row in rows:
            if Undecoded in map(type, row):
                values = ", ".join("CAST(? AS TEXT)" if type(cell) is Undecoded else "?" for cell in row)
                self._driver.execute(f"{into} ({values})", row)
            else:
                yield row

    def refusals(self, table: Table) -> Callable[[Row], str | None]:
        """A row that has all the columns fits."""
        return lambda row: None

    def dangling(self) -> tuple[str, int, str] | None:
        """Old files and those that others have changed may have such rows."""
        found = self._driver.execute("PRAGMA foreign_key_check").fetchone()
        return None if found is None else (found[0], found[1], found[2])

    def is_empty(self, table: Table) -> bool:
        """Whether there is no row."""
        return self._driver.execute(f"SELECT 1 FROM {table.name} LIMIT 1").fetchone() is None

    def last_key(self, table: Table) -> int:
        """Of tables that never give a key twice the one that SQLite remembers, else the highest."""
        highest = self._driver.execute(f"SELECT max(id) FROM {table.name}").fetchone()[0] or 0
        if not table.dialect_options["sqlite"]["autoincrement"]:
            return int(highest)
        found = self._driver.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table.name,)).fetchone()
        return max(int(highest), found[0] if found else 0)

    def set_last_key(self, table: Table, key: int) -> None:
        """Only tables that never give a key twice have a memory of it."""
        if not table.dialect_options["sqlite"]["autoincrement"]:
            return
        self._driver.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table.name,))
        self._driver.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table.name, key))


def _decoded(text: bytes) -> str | Undecoded:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return Undecoded(text)


class Domain(NamedTuple):
    """What a column of PostgreSQL takes."""

    name: str
    type_name: str
    """As PostgreSQL says it."""
    most_characters: int | None
    is_nullable: bool


class PostgresSide:
    """A database of PostgreSQL. Rows come in groups of keys, so that no answer of the server stands half read while the
    other side is slow; they go in with COPY."""

    def __init__(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        self._driver = driver
        # Either side waits for the other one, for as long as a large value takes.
        self._driver.execute("SET LOCAL idle_in_transaction_session_timeout = 0")

    def rows(self, table: Table) -> Iterator[Row]:
        """All rows, by key."""
        by_key = f"SELECT {_columns(table)} FROM {table.name} WHERE id BETWEEN %s AND %s ORDER BY id"
        for first, last in self._groups(table):
            yield from self._driver.execute(by_key, (first, last), binary=True).fetchall()

    def _groups(self, table: Table) -> Iterator[tuple[int, int]]:
        """First and last keys of groups of rows. The length of a value is asked for without reading the value."""
        domains = self._domains(table)
        lengths = [f"coalesce(octet_length({one.name}), 0)" for one in domains if one.type_name in _LONG]
        statement = (
            f"SELECT id, {' + '.join(lengths) or '0'} FROM {table.name} WHERE id > %s ORDER BY id LIMIT {GROUP_ROWS}"
        )
        last: int | None = None
        while found := self._driver.execute(statement, (_LEAST_KEY if last is None else last,)).fetchall():
            first, held = found[0][0], 0
            for key, size in found:
                if held and held + size > GROUP_BYTES:
                    yield first, last or key
                    first, held = key, 0
                held += size
                last = key
            assert last is not None
            yield first, last

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        """Write rows, in their order."""
        into = f"COPY {table.name} ({_columns(table)}) FROM STDIN (FORMAT BINARY)"
        types = [_OF_COPY[one.type_name] for one in self._domains(table)]  # a COPY has the connection for itself
        with self._driver.cursor() as cursor, cursor.copy(into) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)

    def refusals(self, table: Table) -> Callable[[Row], str | None]:
        """What tells of a row, from wherever, why PostgreSQL cannot keep it."""
        checks = [(one, _KIND[one.type_name], _why_not(one)) for one in self._domains(table)]

        def refusal(row: Row) -> str | None:
            for (domain, kind, why_not), cell in zip(checks, row, strict=True):
                if cell is None:
                    found = None if domain.is_nullable else "is NULL, which it may not be"
                elif type(cell) is not kind:
                    found = f"holds {_KINDS[type(cell)]} where PostgreSQL wants {domain.type_name}"
                else:
                    found = why_not(cell)
                if found is not None:
                    return f"{domain.name} {found}"
            return None

        return refusal

    def dangling(self) -> tuple[str, int, str] | None:
        """PostgreSQL always looks."""
        return None

    def _domains(self, table: Table) -> Sequence[Domain]:
        found = self._driver.execute(
            "SELECT attname, format_type(atttypid, NULL), "
            "CASE WHEN atttypid = 'varchar'::regtype AND atttypmod > 4 THEN atttypmod - 4 END, NOT attnotnull "
            "FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            (table.name,),
        )
        by_name = {row[0]: Domain(*row) for row in found}
        return [by_name[column.name] for column in table.columns]

    def is_empty(self, table: Table) -> bool:
        """Whether there is no row."""
        return self._driver.execute(f"SELECT 1 FROM {table.name} LIMIT 1").fetchone() is None

    def last_key(self, table: Table) -> int:
        """The one that the sequence has given last."""
        highest = self._driver.execute(f"SELECT max(id) FROM {table.name}").fetchone()[0] or 0
        sequence = self._sequence(table)
        last, is_given = self._driver.execute(f"SELECT last_value, is_called FROM {sequence}").fetchone()
        return max(int(highest), int(last) if is_given else 0)

    def set_last_key(self, table: Table, key: int) -> None:
        """The sequence goes on behind it. A key below 1 is none that a sequence has given."""
        if key > 0:
            self._driver.execute("SELECT setval(%s::regclass, %s)", (self._sequence(table), key))

    def _sequence(self, table: Table) -> str:
        return str(self._driver.execute("SELECT pg_get_serial_sequence(%s, 'id')", (table.name,)).fetchone()[0])


_LEAST_KEY = -(2**63)
_LONG = frozenset({"text", "character varying", "bytea"})
_OF_COPY = {
    "bigint": "int8",
    "integer": "int4",
    "double precision": "float8",
    "text": "text",
    "character varying": "varchar",
    "bytea": "bytea",
}
"""The names by which psycopg knows the types."""

_KINDS = {int: "a whole number", float: "a number", str: "text", bytes: "bytes", Undecoded: "text that is no UTF-8"}


_KIND: Mapping[str, type] = {
    "bigint": int,
    "integer": int,
    "double precision": float,
    "text": str,
    "character varying": str,
    "bytea": bytes,
}


def _why_not(domain: Domain) -> Callable[[Any], str | None]:
    """What tells of a value of the right kind why it cannot be kept."""
    if domain.type_name == "integer":
        return _why_no_integer
    if domain.type_name == "bytea":
        return _why_no_bytes
    if domain.type_name in _LONG:
        most = domain.most_characters
        return _why_no_text if most is None else lambda cell: _why_no_text(cell) or _why_too_long(cell, most)
    return lambda cell: None  # what is left has 64 bits, as SQLite has


def _why_no_integer(cell: int) -> str | None:
    return None if -(2**31) <= cell < 2**31 else f"is {cell}, and PostgreSQL has 32 bits for it"


def _why_no_bytes(cell: bytes) -> str | None:
    return f"has {len(cell):,} bytes, more than PostgreSQL keeps in one value" if len(cell) > MOST_BYTES else None


def _why_no_text(cell: str) -> str | None:
    if "\0" in cell:
        return "holds a NUL, which PostgreSQL cannot keep"
    if cell.isascii():
        size = len(cell)
    else:
        try:
            size = len(cell.encode())
        except UnicodeEncodeError:
            return "holds half of a surrogate pair, which is no UTF-8"
    return f"has {size:,} bytes, more than PostgreSQL keeps in one value" if size > MOST_BYTES else None


def _why_too_long(cell: str, most: int) -> str | None:
    return f"has {len(cell):,} characters, and PostgreSQL has room for {most}" if len(cell) > most else None
