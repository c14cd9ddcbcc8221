"""Checkpoints: the WAL stays short, only one process copies it, and the copying is never what a commit fails of."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from liteflow.storage import checkpoints
from liteflow.storage.checkpoints import checkpoint
from liteflow.storage.engine import Database
from liteflow.storage.schema import open_database
from tests.conftest import ROOT, beside

fcntl = pytest.importorskip("fcntl", reason="checkpoints take a lock of POSIX")

pytestmark = pytest.mark.sqlite("about the WAL of SQLite")


@pytest.fixture
def database(db: str) -> Iterator[Database]:
    database = open_database(db, create=True)
    yield database
    database.close()


@pytest.fixture
def reader(database: Database, db: str) -> Iterator[sqlite3.Connection]:
    """Somebody who reads, and does not come to an end."""
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM liteflow_pool").fetchone()
        yield connection


def add(database: Database, count: int) -> None:
    """That many commits of a tenth of a megabyte each."""
    for _ in range(count):
        with database.write() as session:
            fill = os.urandom(50_000).hex()  # SQLite does not write what is the same again
            session.execute(text("INSERT OR REPLACE INTO liteflow_pool VALUES (1, 'p', 1, :fill)"), {"fill": fill})


def wal_bytes(db: str) -> int:
    return os.path.getsize(f"{db}-wal")


def test_commits_keep_the_wal_short(database: Database, db: str) -> None:
    sizes = []
    for _ in range(150):
        add(database, 1)
        sizes.append(wal_bytes(db))
    assert max(sizes) < checkpoints.CHECKPOINT_BYTES + 1_000_000
    assert sizes.count(0) >= 3, "15 MB were written in all, in 4 MiB at a time"


def test_no_connection_makes_checkpoints_of_its_own(database: Database) -> None:
    for scope in (database.read(), database.write()):
        with scope as session:
            assert session.scalar(text("PRAGMA wal_autocheckpoint")) == 0


def test_a_reader_that_stays_delays_the_checkpoint_and_nothing_else(
    database: Database, db: str, reader: sqlite3.Connection
) -> None:
    add(database, 60)
    assert wal_bytes(db) > checkpoints.CHECKPOINT_BYTES
    assert reader.execute("SELECT count(*) FROM liteflow_pool").fetchone() == (0,), "it sees what it saw"
    reader.execute("ROLLBACK")
    add(database, 60)
    assert wal_bytes(db) < checkpoints.CHECKPOINT_BYTES + 1_000_000


def test_a_checkpoint_that_failed_is_tried_again_only_when_the_wal_has_grown(
    database: Database, reader: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []

    def counted(db_path: str, *, patience_s: float) -> bool:
        made.append(checkpoint(db_path, patience_s=0))
        return made[-1]

    monkeypatch.setattr(checkpoints, "checkpoint", counted)
    add(database, 100)  # 10 MB
    assert made == [False, False]


def test_one_commit_that_is_large_is_copied_at_once(database: Database, db: str) -> None:
    with database.write() as session:
        session.execute(text("INSERT INTO liteflow_pool VALUES (1, 'p', 1, :fill)"), {"fill": "x" * 20_000_000})
    assert wal_bytes(db) == 0


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "BEGIN"])
def test_a_checkpoint_waits_no_longer_than_it_is_told_to(database: Database, db: str, statement: str) -> None:
    with closing(sqlite3.connect(db, isolation_level=None)) as other:
        add(database, 1)
        other.execute(statement)
        other.execute("SELECT count(*) FROM liteflow_pool").fetchone()
        assert not checkpoint(db, patience_s=0)
        other.execute("ROLLBACK")
        assert checkpoint(db, patience_s=0)


def test_while_one_is_at_it_another_does_nothing(database: Database, db: str) -> None:
    """Another process, and another thread: each opens the file anew."""
    add(database, 1)
    with open(f"{db}-wal", "rb") as wal:
        fcntl.flock(wal, fcntl.LOCK_EX)
        command = "import sys; from liteflow.storage.checkpoints import checkpoint; print(checkpoint(sys.argv[1]))"
        done = subprocess.run([sys.executable, "-c", command, db], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"
        found: list[bool] = []
        thread = threading.Thread(target=lambda: found.append(checkpoint(db)))
        thread.start()
        thread.join()
        assert found == [False]
    assert wal_bytes(db) > 0
    assert checkpoint(db)
    assert wal_bytes(db) == 0


def test_a_forked_child_does_not_keep_the_lock(database: Database, db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host may fork at any time, and its child lives on with every open file."""
    kept: list[int] = []

    def copied(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX:
            kept.append(os.dup(fd))  # what a fork does to it
        fcntl.flock(fd, operation)

    class Kernel:
        LOCK_EX, LOCK_NB, LOCK_UN = fcntl.LOCK_EX, fcntl.LOCK_NB, fcntl.LOCK_UN
        flock = staticmethod(copied)

    monkeypatch.setattr(checkpoints, "fcntl", Kernel)
    try:
        assert checkpoint(db)
        assert checkpoint(db)
        assert len(kept) == 2
    finally:
        for fd in kept:
            os.close(fd)


def test_there_is_always_something_to_copy(database: Database, db: str) -> None:
    """What prevents the WAL-reset bug: a checkpoint that begins with an empty WAL has first written a page into it."""
    assert checkpoint(db)
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint=0")
        checkpoints._write_a_page(connection)
        assert connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone() == (0, 1, 1)
        checkpoints._write_a_page(connection)
        assert connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone() == (0, 1, 1), "again, and begun anew"


def test_nothing_is_left_but_the_database(database: Database, db: str) -> None:
    add(database, 60)
    database.close()
    assert os.listdir(beside(db)) == [Path(db).name]


def test_what_a_killed_process_left_in_the_wal_is_copied(db: str) -> None:
    """A WAL that is long already when the first commit comes."""
    command = f"""
import os, signal, sqlite3
from liteflow.storage.schema import open_database
database = open_database({db!r}, create=True)
connection = sqlite3.connect({db!r})
connection.execute("PRAGMA wal_autocheckpoint=0")
for number in range(60):
    connection.execute("INSERT INTO liteflow_pool VALUES (?, ?, 1, ?)", [number, str(number), "x" * 100_000])
    connection.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=False)
    assert done.returncode < 0
    assert wal_bytes(db) > checkpoints.CHECKPOINT_BYTES
    database = open_database(db)
    with database.write() as session:
        session.execute(text("UPDATE liteflow_pool SET slots = 2"))
    assert wal_bytes(db) == 0
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM liteflow_pool WHERE slots = 2")) == 60
    database.close()


@pytest.mark.parametrize("processes", [3])
def test_many_writers_and_readers_at_once_lose_nothing(db: str, processes: int) -> None:
    """Each makes checkpoints when one is due, all the time: it is made due by every commit."""
    open_database(db, create=True).close()
    command = f"""
import sys
from liteflow.storage import checkpoints
from liteflow.storage.schema import open_database
from sqlalchemy import text
checkpoints.CHECKPOINT_BYTES = 1
database = open_database({db!r})
me = int(sys.argv[1])
for number in range(40):
    with database.write() as session:
        values = {{"name": f"{{me}}-{{number}}", "fill": "x" * (number * 97 % 9000)}}
        session.execute(text("INSERT INTO liteflow_pool (name, slots, description) VALUES (:name, 1, :fill)"), values)
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM liteflow_pool WHERE name LIKE :me"), {{"me": f"{{me}}-%"}}) \
            == number + 1
database.close()
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", command, str(me)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for me in range(processes)
    ]
    errors = [worker.communicate()[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * processes, errors
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("SELECT count(*) FROM liteflow_pool").fetchone() == (40 * processes,)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
