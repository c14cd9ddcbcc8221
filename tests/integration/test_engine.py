"""The database and its two scopes, on real files."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from liteflow.errors import StorageError
from liteflow.storage.engine import Database, database_url, storage_error
from liteflow.storage.models import Pool
from liteflow.storage.schema import open_database
from tests.conftest import run_python


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
    with pytest.raises(StorageError, match="readonly"), database.read() as session:
        session.add(Pool(name="p", slots=1))
        session.flush()
    assert count(database) == 0
    with database.write() as session:  # the same connection writes again afterwards
        session.add(Pool(name="p", slots=1))
    assert count(database) == 1


def test_a_write_scope_commits_all_or_nothing(database: Database) -> None:
    with pytest.raises(KeyError), database.write() as session:
        session.add(Pool(name="p", slots=1))
        session.flush()
        raise KeyError("in the middle")
    assert count(database) == 0


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_durable_means_synchronous_full_for_that_scope_only(database: Database, durable: bool, level: int) -> None:
    with database.write(durable=durable) as session:
        assert session.scalar(text("PRAGMA synchronous")) == level
    with pytest.raises(KeyError), database.write(durable=durable):
        raise KeyError("must be restored after an error too")
    with database.write() as session:
        assert session.scalar(text("PRAGMA synchronous")) == 1


def test_foreign_keys_and_wal_are_on(database: Database) -> None:
    with database.read() as session:
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"


def test_a_write_scope_holds_the_lock_from_its_first_statement(database: Database, db: str) -> None:
    """SELECT, then UPDATE: nobody may write between the two."""
    with database.write() as session:
        session.scalar(text("SELECT count(*) FROM liteflow_pool"))
        other = sqlite3.connect(db, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("INSERT INTO liteflow_pool (name, slots) VALUES ('x', 1)")
        other.close()


def test_eight_threads_never_claim_the_same_row(database: Database) -> None:
    with database.write() as session:
        session.add_all(Pool(name=f"row{number}", slots=0) for number in range(200))
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
        ("postgresql://localhost/x", "only SQLite"),
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
    with pytest.raises(StorageError, match="no such table") as caught, database.read() as session:
        session.execute(text("SELECT * FROM nowhere"))
    assert str(caught.value).startswith(db)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("driver_says", "cure"),
    [
        ("attempt to write a readonly database", "make the file and its directory writable"),
        ("database is locked", "end that program"),
        ("database or disk is full", "make room"),
        ("unable to open database file", "does its directory exist"),
        ("file is not a database", "the file is something else"),
        ("database disk image is malformed", "restore it from a backup"),
    ],
)
def test_each_trouble_comes_with_its_cure(driver_says: str, cure: str) -> None:
    error = storage_error("/x/y.db", sqlite3.OperationalError(driver_says))
    assert str(error).startswith(f"/x/y.db: {driver_says} (")
    assert cure in str(error)
    assert error.exit_code == 3
