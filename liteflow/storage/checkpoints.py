"""Checkpoints: copying the write-ahead log (WAL) into the database file, in this one place, by one process at a time.

SQLite's own checkpoints after a commit are switched off (`PRAGMA wal_autocheckpoint=0`). Before version 3.51.3 (and
3.50.7, 3.44.6) a checkpoint that finds nothing to copy, while another connection's commit begins the WAL anew, can
leave a wrong note of what has been copied, and the database is damaged later (https://sqlite.org/wal.html, "The
WAL-Reset Bug"). That cannot happen here: whoever makes a checkpoint first takes a lock, and under it writes a page.
Until the checkpoint has copied that page nobody may begin the WAL anew, and nobody else makes checkpoints.

The lock is one of the kernel (`flock`) on the WAL itself, so it leaves nothing behind and ends with its process. SQLite
has no locks on that file, so closing it drops none, unlike with the database and its `-shm`.

SQLite also makes a checkpoint when the last connection of all processes is closed. It has the database for itself then.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from liteflow.storage.forks import gate

if os.name == "posix":
    import fcntl

CHECKPOINT_BYTES = 4 * 2**20
"""How large the WAL is when it is copied: about SQLite's own thousand pages."""

PRESSING_BYTES = 16 * 2**20
"""From here on readers are waited for longer."""

PATIENCE_S = 0.05
"""How long a checkpoint waits for readers and writers. Meanwhile nobody else writes, so it is short."""

PRESSING_PATIENCE_S = 0.5
"""The same for a WAL that is large."""


class Checkpoints:
    """Keeps the WAL of one database short. Threads may share it."""

    def __init__(self, db_path: str) -> None:
        self._path = db_path
        self._wal = f"{db_path}-wal"
        self._due_bytes = CHECKPOINT_BYTES

    def after_commit(self) -> None:
        """Make a checkpoint if the WAL has become large. It costs 3 microseconds when it has not.

        One that fails changes nothing: what was committed is in the WAL, and the next one begins 4 MiB later.
        """
        try:
            size = os.stat(self._wal).st_size
        except OSError:
            return  # it went with the last connection
        if size < CHECKPOINT_BYTES:
            self._due_bytes = CHECKPOINT_BYTES
        if size < self._due_bytes:
            return
        patience_s = PATIENCE_S if size < PRESSING_BYTES else PRESSING_PATIENCE_S
        if not checkpoint(self._path, patience_s=patience_s):
            self._due_bytes = size + CHECKPOINT_BYTES


def checkpoint(db_path: str, *, patience_s: float = PATIENCE_S) -> bool:
    """Copy the WAL of a database into its file and empty it, waiting that long for readers and writers.

    False when it was not emptied: a transaction was open all the time, another process is at it, or the disk fails.
    """
    try:
        with gate, closing(sqlite3.connect(db_path, isolation_level=None, timeout=patience_s)) as connection:
            connection.execute("PRAGMA wal_autocheckpoint=0")
            # Reads, and so opens the WAL: from here on it is not removed, and what is locked is the one in use.
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                return False
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            with _alone(f"{db_path}-wal") as is_alone:
                if not is_alone:
                    return False
                _write_a_page(connection)
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                return not busy
    except (sqlite3.Error, OSError):
        return False  # as SQLite's own checkpoints: everything is still in the WAL


def _write_a_page(connection: sqlite3.Connection) -> None:
    """Commit what changes nothing and yet is in the WAL: see the top of this file."""
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version={version}")
    connection.execute("COMMIT")


@contextmanager
def _alone(wal: str) -> Iterator[bool]:
    """Whether nobody else, in this process or another one, is at a checkpoint; they are kept off until the end."""
    if os.name != "posix":
        yield True  # there SQLite's own lock is all that there is
        return
    fd = os.open(wal, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # closing would not do it if the host forked meanwhile
    finally:
        os.close(fd)
