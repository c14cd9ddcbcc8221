"""Moving a history as a whole from one database to another one: a file of SQLite, or a database of PostgreSQL.

There is one read scope at the source, so that what arrives is one consistent state while runs go on there, and one
transaction at the target: all of it is there behind the commit, and nothing if anything is wrong before. What was
written is read again before it is committed, and has to be what was read at the source.

Keys are kept, and what the target gives later are others than the source ever gave. The executor services of the source
do not live at the target, so runs that go on arrive as interrupted ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Float, Integer, Table

from liteflow.authoring.ids import shown
from liteflow.errors import StorageError
from liteflow.storage.bulk import Row, Side, side_of
from liteflow.storage.engine import Database, database_url
from liteflow.storage.schema import open_database
from liteflow.storage.tables import UtcMicroseconds, metadata

NOT_THERE: Mapping[str, frozenset[str]] = {"liteflow_executor": frozenset({"place", "lease_until"})}
"""Columns that arrive empty, by table: by them the target would take a service of the source for one that lives."""

_LONG = 512
"""A longer value is digested by itself, since the row is spelled out to be digested."""


class TableCopied(NamedTuple):
    """What was copied of a table."""

    table: str
    rows: int
    bytes: int
    """The lengths of its texts and values; numbers come on top."""


class Copied(NamedTuple):
    """From where to where, for people to read, and what."""

    source: str
    target: str
    tables: list[TableCopied]


def copy_history(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Copied:
    """Copy everything that `source` holds to `target`, which is created if it is missing, and may hold nothing.

    Raises StorageError when `target` holds a row of anything, when it is `source`, and when it cannot keep a value:
    nothing is written then. An older, a newer, a foreign and a missing `source` raise as in `open_database`.
    """
    here = open_database(source, pooled=False)
    try:
        _refuse_same(here, target)
        there = open_database(target, create=True, pooled=False)
        try:
            return Copied(here.path, there.path, _copy(here, there))
        finally:
            there.close()
    finally:
        here.close()


def _refuse_same(here: Database, target: str | os.PathLike[str]) -> None:
    """Those that nobody sees to be the same here are told by what they hold."""
    url = database_url(target)
    same = url == here.url
    if url.get_backend_name() == "sqlite" == here.url.get_backend_name():
        same = os.path.exists(str(url.database)) and os.path.samefile(str(url.database), here.path)
    elif url.get_backend_name() == here.url.get_backend_name():
        same = _address(url) == _address(here.url)
    if same:
        raise StorageError(f"{here.path}: source and target are the same database; name another target", path=here.path)


def _address(url: Any) -> tuple[str, int, str]:
    host = url.host or "localhost"
    return "localhost" if host in ("127.0.0.1", "::1") else host, url.port or 5432, url.database or ""


def _copy(here: Database, there: Database) -> list[TableCopied]:
    tables = metadata.sorted_tables
    with here.read() as reading, there.write(durable=True) as writing:
        source, target = side_of(reading), side_of(writing)
        _refuse_full(target, there.path)
        _refuse_dangling(source, here.path)
        copied = [_copy_table(source, target, table, here.path, there.path) for table in tables]
        for table in tables:
            target.set_last_key(table, source.last_key(table))
        for table, read in zip(tables, copied, strict=True):
            _refuse_difference(target, table, read, there.path)
    return [one.told() for one in copied]


def _refuse_full(target: Side, path: str) -> None:
    full = [table.name for table in metadata.sorted_tables if not target.is_empty(table)]
    if full:
        raise StorageError(
            f"{path}: holds something already (in {', '.join(full)}); a history is copied to an empty database: name "
            "another target",
            path=path,
        )


def _refuse_dangling(source: Side, path: str) -> None:
    found = source.dangling()
    if found is not None:
        table, key, missing = found
        raise StorageError(
            f"{path}: table {table}, row {shown(key)}: refers to a missing row of {missing}. The source is damaged, "
            "see: liteflow db check. Nothing was written",
            path=path,
        )


class _Read:
    """Counts, measures and digests the rows that go through."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows = 0
        self.bytes = 0
        self._digest = sha256()
        numbers = (Integer, Float, UtcMicroseconds)
        others = [index for index, column in enumerate(table.columns) if not isinstance(column.type, numbers)]
        self._with_length = _several(others)

    def passing(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows."""
        digest, with_length = self._digest, self._with_length
        for row in rows:
            try:
                size = sum(map(len, filter(None, with_length(row))))
            except TypeError:  # in SQLite there may be a number where bytes belong
                size = sum(map(_length, with_length(row)))
            text = repr(row if size < _LONG else tuple(map(_shortened, row)))
            digest.update(text.encode())
            self.rows += 1
            self.bytes += size if text.isascii() else sum(map(_length, with_length(row)))
            yield row

    def through(self, rows: Iterable[Row]) -> None:
        """Take rows to their end."""
        for _ in self.passing(rows):
            pass

    def is_like(self, other: _Read) -> bool:
        """Whether the same rows went through, in the same order."""
        return (self.rows, self._digest.digest()) == (other.rows, other._digest.digest())

    def told(self) -> TableCopied:
        """For whoever asked."""
        return TableCopied(self.table.name, self.rows, self.bytes)


def _several(indexes: Sequence[int]) -> Callable[[Row], Row]:
    """What takes those cells of a row."""
    first = indexes[0]
    return itemgetter(*indexes) if len(indexes) > 1 else lambda row: (row[first],)


def _length(cell: Any) -> int:
    if isinstance(cell, str):
        return len(cell) if cell.isascii() else len(_encoded(cell))
    return len(cell) if isinstance(cell, bytes) else 0


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _shortened(cell: Any) -> Any:
    """A long value as its type and digest: a row itself holds no tuple."""
    if _length(cell) <= _LONG:
        return cell
    return type(cell).__name__, sha256(_encoded(cell) if isinstance(cell, str) else cell).digest()


def _copy_table(source: Side, target: Side, table: Table, here: str, there: str) -> _Read:
    read = _Read(table)
    refusal = target.refusals(table)

    def rows() -> Iterator[Row]:
        for row in read.passing(_arriving(table, source.rows(table))):
            why_not = refusal(row)
            if why_not is not None:
                raise StorageError(
                    f"{here}: table {table.name}, row {shown(row[0])}: {why_not}. Delete what holds it and copy again; "
                    f"nothing was written to {there}",
                    path=here,
                    table=table.name,
                    key=row[0],
                )
            yield row

    target.insert(table, rows())
    return read


def _arriving(table: Table, rows: Iterable[Row]) -> Iterable[Row]:
    """Rows as they are to be at the target."""
    empty = NOT_THERE.get(table.name)
    if empty is None:
        return rows
    emptied = [column.name in empty for column in table.columns]
    return (tuple(None if e else cell for e, cell in zip(emptied, row, strict=True)) for row in rows)


def _refuse_difference(target: Side, table: Table, read: _Read, path: str) -> None:
    written = _Read(table)
    written.through(target.rows(table))
    if not written.is_like(read):
        raise StorageError(
            f"{path}: table {table.name} does not hold what was read ({read.rows:,} rows, there are {written.rows:,}); "
            "nothing was written. Check the source with: liteflow db check",
            path=path,
        )
