"""The database and its two scopes, on real files."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text

from liteflow.errors import StorageError
from liteflow.storage import engine
from liteflow.storage.engine import Database, database_url, storage_error
from liteflow.storage.schema import open_database
from liteflow.storage.tables import POOL
from tests.conftest import beside, run_python


def count(database: Database) -> int:
    with database.read() as session:
        return int(session.scalar(text("SELECT count(*) FROM liteflow_pool")) or 0)


@pytest.fixture
def database(db: str) -> Iterator[Database]:
    """Pooled: one scope after the other has the same connection."""
    database = open_database(db, create=True)
    yield database
    database.close()


def test_a_read_scope_cannot_write(database: Database) -> None:
    with pytest.raises(StorageError, match="readonly|read-only"), database.read() as session:
        session.execute(insert(POOL).values(name="p", slots=1))
    assert count(database) == 0
    with database.write() as session:  # the same connection writes again afterwards
        session.execute(insert(POOL).values(name="p", slots=1))
    assert count(database) == 1


def test_a_write_scope_commits_all_or_nothing(database: Database) -> None:
    with pytest.raises(KeyError), database.write() as session:
        session.execute(insert(POOL).values(name="p", slots=1))
        raise KeyError("in the middle")
    assert count(database) == 0


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
@pytest.mark.sqlite("settings of SQLite")
def test_durable_means_synchronous_full_for_that_scope_only(database: Database, durable: bool, level: int) -> None:
    with database.write(durable=durable) as session:
        assert session.scalar(text("PRAGMA synchronous")) == level
    with pytest.raises(KeyError), database.write(durable=durable):
        raise KeyError("must be restored after an error too")
    with database.write() as session:
        assert session.scalar(text("PRAGMA synchronous")) == 1


@pytest.mark.sqlite("settings of SQLite")
def test_foreign_keys_and_wal_are_on(database: Database) -> None:
    with database.read() as session:
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"


@pytest.mark.sqlite("settings of SQLite")
def test_each_setting_of_a_connection_is_made_to_its_end(db: str) -> None:
    """The change to WAL failed at its commit, unseen, and the run went on with another journal and "is locked"."""
    left: list[sqlite3.Cursor] = []

    class Watched(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            left.append(super().execute(*args))
            return left[-1]

    with closing(sqlite3.connect(db, factory=Watched)) as connection:
        engine._configure(connection, db)
        assert len(left) > 3
        assert [cursor.fetchall() for cursor in left] == [[]] * len(left)


@pytest.mark.sqlite("about the file of the database")
def test_a_write_scope_holds_the_lock_from_its_first_statement(database: Database, db: str) -> None:
    """SELECT, then UPDATE: nobody may write between the two."""
    with database.write() as session:
        session.scalar(text("SELECT count(*) FROM liteflow_pool"))
        other = sqlite3.connect(db, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("INSERT INTO liteflow_pool (name, slots) VALUES ('x', 1)")
        other.close()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.sqlite("about the file of the database")
def test_an_error_in_the_middle_of_rows_holds_nothing_open_though_somebody_keeps_it(database: Database) -> None:
    """Its traceback holds the cursor, and a cursor holds what it reads."""
    with database.write() as session:
        session.execute(insert(POOL), [{"name": str(number), "slots": 0} for number in range(3)])
    database.close()
    with pytest.raises(KeyError) as kept, Database(database.path, pooled=False).read() as session:
        rows = session.execute(select(POOL))
        raise KeyError(next(rows).name)
    assert kept.value.args == ("0",)
    held = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert [path for path in held if path.startswith(database.path)] == []


def test_eight_threads_never_claim_the_same_row(database: Database) -> None:
    with database.write() as session:
        session.execute(insert(POOL), [{"name": f"row{number}", "slots": 0} for number in range(200)])
    claimed: list[int] = []

    def claim() -> None:
        while True:
            with database.write() as session:
                found = session.scalar(text("SELECT id FROM liteflow_pool WHERE slots = 0 ORDER BY id LIMIT 1"))
                if found is None:
                    return
                session.execute(text("UPDATE liteflow_pool SET slots = 1 WHERE id = :id"), {"id": found})
            claimed.append(found)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, 201))


@pytest.mark.sqlite("about the file of the database")
def test_data_version_tells_of_others_commits_only(database: Database, db: str) -> None:
    first = database.data_version()
    assert database.data_version() == first
    other = sqlite3.connect(db)
    other.execute("INSERT INTO liteflow_pool (name, slots) VALUES ('x', 1)")
    other.commit()
    other.close()
    assert database.data_version() != first


def test_a_forked_child_is_refused(db: str, tmp_path: Path) -> None:
    code = f"""
import os
from liteflow.storage.schema import open_database
from liteflow.errors import StorageError
database = open_database({db!r}, create=True)
pid = os.fork()
if pid == 0:
    try:
        with database.read():
            os._exit(1)
    except StorageError as error:
        os._exit(0 if "forked child" in str(error) else 2)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    done = run_python("-W", "ignore", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "the database path is empty"),
        ("sqlite://", "needs a database file"),
        ("sqlite:///:memory:", "needs a database file"),
        ("mysql://localhost/x", "only SQLite"),
    ],
)
def test_what_is_no_file_is_refused(given: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        database_url(given)


def test_a_path_and_its_url_are_the_same_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert database_url("a.db") == database_url(tmp_path / "a.db") == database_url(f"sqlite:///{tmp_path}/a.db")
    monkeypatch.setenv("LITEFLOW_DB", "env.db")
    assert database_url(None).database == str(tmp_path / "env.db")
    monkeypatch.delenv("LITEFLOW_DB")
    assert database_url(None).database == str(tmp_path / "liteflow.db")


def test_a_driver_error_is_one_line_with_the_path(database: Database, db: str) -> None:
    with pytest.raises(StorageError, match="no such table|does not exist") as caught, database.read() as session:
        session.execute(text("SELECT * FROM nowhere"))
    assert str(caught.value).startswith(db)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "driver_says", "cure"),
    [
        ("SQLITE_READONLY", "attempt to write a readonly database", "make the file and its directory writable"),
        ("SQLITE_READONLY_DBMOVED", "attempt to write a readonly database", "was removed or replaced"),
        ("SQLITE_BUSY", "database is locked", "another program has held it for 60 s; end that program"),
        ("SQLITE_BUSY_RECOVERY", "database is locked", "end that program"),
        ("SQLITE_LOCKED", "database table is locked", "end that program"),
        ("SQLITE_FULL", "database or disk is full", "make room"),
        ("SQLITE_IOERR_WRITE", "disk I/O error", "a quota or a limit of file sizes"),
        ("SQLITE_IOERR_FSYNC", "disk I/O error", "liteflow db check --db /x/y.db"),
        ("SQLITE_CANTOPEN", "unable to open database file", "does its directory exist"),
        ("SQLITE_NOTADB", "file is not a database", "the file is something else"),
        ("SQLITE_CORRUPT", "database disk image is malformed", "restore it from a backup"),
        ("SQLITE_TOOBIG", "string or blob too big", "hand on the path"),
        ("SQLITE_ERROR", "no such table: x", "SQLITE_ERROR"),
    ],
)
def test_each_trouble_comes_with_its_cure(name: str, driver_says: str, cure: str) -> None:
    cause = sqlite3.OperationalError(driver_says)
    cause.sqlite_errorname = name
    error = storage_error("/x/y.db", cause)
    assert str(error).startswith(f"/x/y.db: {driver_says} (")
    assert cure in str(error)
    assert error.exit_code == 3


def test_an_error_of_a_full_disk_says_so_whatever_sqlite_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail, f_frsize = 3, 4096

    cause = sqlite3.OperationalError("disk I/O error")
    cause.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    assert "the disk is full" in str(storage_error("/x/y.db", cause))


@pytest.mark.sqlite("about the file of the database")
def test_a_program_that_holds_the_database_is_waited_for_and_then_named(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 200)
    database = open_database(db, create=True, pooled=False)
    with closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        told = r"locked \(another program has held it for 0.2 s"
        with pytest.raises(StorageError, match=told), database.write() as session:
            session.execute(insert(POOL).values(name="p", slots=1))
        with database.read() as session:  # which needs no lock
            assert session.scalar(text("SELECT 1")) == 1
    with database.write() as session:
        session.execute(insert(POOL).values(name="p", slots=1))
    assert count(database) == 1


@pytest.mark.sqlite("settings of SQLite")
def test_an_sqlite_that_is_too_old_is_refused(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(StorageError, match="too old; liteflow needs 3.35.0 or later"):
        open_database(db, create=True)


MOUNTS = """/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/me/local ext4 rw 0 0
//server/a /mnt/with\\040blank cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/a.db", None),
        ("/home/me/a.db", "nfs4"),
        ("/home/me/local/a.db", None),
        ("/homely/a.db", None),
        ("/mnt/with blank/a.db", "cifs"),
    ],
)
def test_a_network_file_system_is_refused_unless_allowed(
    path: str, kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    monkeypatch.setattr(engine, "_MOUNTS", str(tmp_path / "mounts"))
    if kind is None:
        engine.refuse_network(path)
        return
    with pytest.raises(StorageError, match=f"network file system .{kind}.*local disk, or set {engine.ALLOW_NETWORK}=1"):
        engine.refuse_network(path)
    monkeypatch.setenv(engine.ALLOW_NETWORK, "1")
    engine.refuse_network(path)


@pytest.mark.sqlite("about the file of the database")
def test_a_database_on_a_network_file_system_is_only_read(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_database(db, create=True).close()
    mounts = Path(db).with_name("mounts")
    mounts.write_text(f"server:/x {beside(db)} nfs rw 0 0\n")
    monkeypatch.setattr(engine, "_MOUNTS", str(mounts))
    database = open_database(db, pooled=False)
    assert count(database) == 0
    with pytest.raises(StorageError, match="network file system"), database.write():
        pytest.fail("must not be entered")
    with pytest.raises(StorageError, match="network file system"):
        open_database(db, create=True)
