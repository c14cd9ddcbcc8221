"""Rows of a file that a stranger may have written: they hold what liteflow writes, or one error says that they do not.

SQLite holds a value of any type in any column, and a file may hold views and triggers under our names. What is read for
people is therefore looked at once, where it leaves the session, and nothing behind that has to wonder.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from liteflow.authoring.ids import shown
from liteflow.errors import LiteflowError, NotALiteflowDatabaseError, StorageError

T = TypeVar("T")


@contextmanager
def refusing_strange_values(path: str) -> Iterator[None]:
    """What cannot be made of the rows that are read inside becomes a StorageError: one line with the path."""
    try:
        yield
    except LiteflowError:
        raise
    # AttributeError: the ORM gives None for a row without a key.
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise StorageError(
            f"{path}: it holds something that no liteflow writes ({shown(str(error), 200)}). Restore it from a backup, "
            "or delete what holds it",
            path=path,
        ) from error


def checked(view: T) -> T:
    """The view, a dataclass or named tuple, once each of its fields is seen to be of its type. Raises TypeError."""
    made_by: Any = type(view)
    for name, kinds in _kinds_of_fields(made_by):
        value = getattr(view, name)
        if not isinstance(value, kinds):
            raise TypeError(f"{name} is {shown(value)}")
    return view


@lru_cache(maxsize=64)
def _kinds_of_fields(view: type) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    return tuple(
        (name, tuple(get_origin(one) or one for one in (get_args(hint) if isinstance(hint, UnionType) else (hint,))))
        for name, hint in get_type_hints(view).items()
    )


def names(text: str) -> tuple[str, ...]:
    """A JSON list of text, such as tags or the ids upstream of a task. Raises ValueError for anything else."""
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"{shown(text)} is no list of text")
    return tuple(found)


def refuse_strange_schema(connection: sqlite3.Connection, path: str) -> None:
    """Raise NotALiteflowDatabaseError when one of our names is not a plain table, or a trigger hangs on one.

    Such things compute what a stranger wrote, without end if he likes, when we only read or write a row.
    """
    found = connection.execute(_STRANGE).fetchone()
    if found is not None:
        kind, name = found
        raise NotALiteflowDatabaseError(
            f"{path}: it holds the {kind} {shown(name)}, which no liteflow makes. Drop it, or name another file with "
            "--db",
            path=path,
        )


_STRANGE = (
    r"SELECT CASE WHEN type = 'table' THEN 'virtual table' ELSE type END, name FROM sqlite_master "
    r"WHERE tbl_name LIKE 'liteflow\_%' ESCAPE '\' "
    r"AND (type IN ('view', 'trigger') OR (type = 'table' AND sql NOT LIKE 'CREATE TABLE %')) LIMIT 1"
)
