"""What the statements of this room share: plain tables, bounded lists of ids, keys that are known beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Table, text
from sqlalchemy.orm import Session

IDS_PER_STATEMENT = 500
"""How many ids stand in one IN list: well below SQLite's limit of bound values."""

T = TypeVar("T")


def table_of(model: Any) -> Table:
    """The plain table: statements of many rows go past the ORM."""
    table = model.__table__
    assert isinstance(table, Table)
    return table


def changed(result: Any) -> int:
    """How many rows a statement changed."""
    return int(result.rowcount)


def in_groups(ids: Sequence[T]) -> Iterable[Sequence[T]]:
    """The ids, as many at a time as go into one statement."""
    for start in range(0, len(ids), IDS_PER_STATEMENT):
        yield ids[start : start + IDS_PER_STATEMENT]


def next_keys(session: Session, model: Any, count: int) -> range:
    """The keys for the next `count` rows of a table whose keys are never used again.

    To be called in the write scope that inserts them. Knowing them beforehand makes one statement of all rows.
    """
    last = session.scalar(_LAST_KEY, {"name": table_of(model).name}) or 0
    return range(last + 1, last + 1 + count)


# The highest key that was ever given, also to rows that are deleted.
_LAST_KEY = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
