"""Where a database is, and how SQLite opens one that may only be looked at. Imports no SQLAlchemy, which takes a third
of a second: completion in a shell has not so long."""

from __future__ import annotations

import os
from pathlib import Path


def default_db_path() -> str:
    """The database when none is named: `$LITEFLOW_DB`, else `liteflow.db` in the working directory."""
    return os.environ.get("LITEFLOW_DB") or "liteflow.db"


def is_read_only(path: str) -> bool:
    """Whether the database is there and this process may only look at it: the file, or the place of its WAL."""
    if not os.path.exists(path):
        return False
    if not os.access(path, os.W_OK):
        return True
    return not os.access(os.path.dirname(path) or ".", os.W_OK) and not os.path.exists(f"{path}-wal")


def read_only_uri(path: str) -> str:
    """How SQLite opens a database that this process may only look at.

    Reading needs to write too, a WAL and its index; without a WAL the file is read as it lies there. Somebody else's
    commit in the same moment may then be seen in part.
    """
    wal = f"{path}-wal"
    alone = not os.path.exists(wal) or os.path.getsize(wal) == 0
    return f"{Path(path).absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
