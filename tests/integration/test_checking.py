"""`liteflow db check` and `db backup`: what cannot be is named with its ids, and a copy is a database of its own."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from liteflow.errors import DatabaseMissingError, NotALiteflowDatabaseError, StorageError
from liteflow.storage import schema
from liteflow.storage.checking import MOST_OF_A_KIND, check
from tests.conftest import beside, command, liteflow
from tests.conftest import change as change_database

RUN = """
INSERT INTO liteflow_dag (id, dag_id, tags, params, structure_digest, created_at, updated_at)
VALUES (1, 'etl', '[]', '{}', 'x', 1, 1);
INSERT INTO liteflow_executor (id, token, host, pid, started_at) VALUES (1, 'a', 'h', 1, 1), (2, 'b', 'h', 2, 1);
INSERT INTO liteflow_dag_run (id, dag_pk, run_id, state, end_reason, logical_date, params, structure_digest,
                              executor_pk, created_at, started_at, ended_at)
VALUES (1, 1, 'over', 'failed', NULL, 1, '{}', 'x', 1, 1, 2, 9),
       (2, 1, 'going', 'running', NULL, 1, '{}', 'x', 1, 1, 2, NULL),
       (3, 1, 'waiting', 'queued', NULL, 1, '{}', 'x', 1, 1, NULL, NULL);
INSERT INTO liteflow_task_instance (id, run_pk, task_id, map_index, upstream, trigger_rule, state, end_reason,
    generation, try_number, crashes, executor_pk, due_at, started_at, ended_at)
VALUES (1, 1, 'extract', -1, '[]', 'all_success', 'success', NULL, 0, 2, 0, 1, NULL, 3, 4),
       (2, 1, 'load', 0, '[]', 'all_success', 'failed', 'error', 0, 1, 0, 1, NULL, 3, 4),
       (3, 1, 'load', 1, '[]', 'all_success', 'skipped', 'cancelled', 0, 0, 0, NULL, NULL, NULL, 4),
       (4, 2, 'extract', -1, '[]', 'all_success', 'running', NULL, 0, 1, 0, 1, NULL, 3, NULL),
       (5, 2, 'again', -1, '[]', 'all_success', 'pending', NULL, 1, 1, 0, NULL, NULL, NULL, NULL),
       (6, 2, 'retry', -1, '[]', 'all_success', 'up_for_retry', 'error', 0, 1, 0, 1, 99, 3, 4),
       (7, 2, 'crashed', -1, '[]', 'all_success', 'queued', 'crashed', 0, 1, 1, 1, NULL, 3, 4),
       (8, 3, 'extract', -1, '[]', 'all_success', 'pending', NULL, 0, 0, 0, NULL, NULL, NULL, NULL);
INSERT INTO liteflow_task_try (id, task_instance_pk, try_number, generation, state, end_reason)
VALUES (1, 1, 1, 0, 'failed', 'crashed'), (2, 5, 1, 0, 'success', NULL);
INSERT INTO liteflow_log_record (id, task_instance_pk, try_number, at, message) VALUES (1, 1, 2, 3, 'hello');
"""


@pytest.fixture
def sound(db: str) -> str:
    """A run that is over, one that goes on with something in each state, and one that waits."""
    schema.open_database(db, create=True).close()
    change(db, RUN)
    value = b"[1]"
    change_database(
        db,
        "INSERT INTO liteflow_xcom (id, task_instance_pk, key, encoding, size_bytes, sha256, value) "
        "VALUES (1, 1, 'return_value', 'json', :size, :digest, :value)",
        size=len(value),
        digest=sha256(value).digest(),
        value=value,
    )
    return db


def change(path: str, statements: str) -> None:
    """Do to the database what the program never does."""
    change_database(path, *filter(str.strip, statements.split(";")))


def test_a_sound_database_has_nothing_to_tell(sound: str) -> None:
    assert check(sound) == []


def test_what_was_marked_or_reused_needs_no_try(sound: str) -> None:
    change(
        sound,
        "UPDATE liteflow_task_instance SET state = 'success', end_reason = 'marked', generation = 1 WHERE id = 3;"
        "UPDATE liteflow_dag_run SET rerun_of = 'gone' WHERE id = 1;"
        "UPDATE liteflow_task_instance SET state = 'success', end_reason = 'reused', try_number = 0 WHERE id = 2;",
    )
    assert check(sound) == []


LOAD, EXTRACT = "task instance etl/over load[0] (failed, error)", "task instance etl/over extract (success)"
GOING = "task instance etl/going extract (running)"


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("UPDATE liteflow_dag_run SET state = 'lost' WHERE id = 2", "run etl/going (lost) is in a state that there is"),
        ("UPDATE liteflow_dag_run SET end_reason = 'x' WHERE id = 1", "run etl/over (failed, x) ended for a reason"),
        ("UPDATE liteflow_dag_run SET ended_at = NULL WHERE id = 1", "run etl/over (failed) is over, and has no time"),
        (
            "UPDATE liteflow_dag_run SET ended_at = 9 WHERE id = 2",
            "run etl/going (running) is not over, and has a time",
        ),
        (
            "UPDATE liteflow_dag_run SET executor_pk = NULL WHERE id = 2",
            "run etl/going (running) runs, and nobody ever",
        ),
        (
            "INSERT INTO liteflow_callback (id, run_pk, kind, created_at) VALUES (1, 1, 'on_failure', 1)",
            "run etl/over (failed) is over, and callbacks of it are still due",
        ),
        (
            "INSERT INTO liteflow_callback (id, run_pk, task_instance_pk, kind, created_at) VALUES (1, 2, 1, 'x', 1)",
            "run etl/going (running) has callbacks of another run's",
        ),
        (
            "UPDATE liteflow_task_instance SET state = 'done' WHERE id = 2",
            "task instance etl/over load[0] (done, error) is in a state that there is not",
        ),
        (
            "UPDATE liteflow_task_instance SET end_reason = 'bored' WHERE id = 2",
            "task instance etl/over load[0] (failed, bored) ended for a reason that there is not",
        ),
        (
            "UPDATE liteflow_task_instance SET end_reason = 'marked' WHERE id = 2",
            "task instance etl/over load[0] (failed, marked) was marked by nobody",
        ),
        (
            "UPDATE liteflow_task_instance SET end_reason = 'reused', try_number = 0 WHERE id = 3",
            "task instance etl/over load[1] (skipped, reused) is reused, and its run began with no other's values",
        ),
        (
            "UPDATE liteflow_task_try SET try_number = 2, generation = -1 WHERE id = 1",
            f"{EXTRACT} has its latest try twice",
        ),
        (
            "UPDATE liteflow_task_instance SET state = 'queued' WHERE id = 2",
            "task instance etl/over load[0] (queued, error) is not over, and its run is",
        ),
        ("UPDATE liteflow_dag_run SET state = 'queued' WHERE id = 2", f"{GOING} runs in a run that does not"),
        ("UPDATE liteflow_task_instance SET executor_pk = 2 WHERE id = 4", f"{GOING} runs for another executor"),
        ("UPDATE liteflow_task_instance SET executor_pk = NULL WHERE id = 4", f"{GOING} runs for another executor"),
        (
            "UPDATE liteflow_task_instance SET ended_at = 9 WHERE id = 4",
            f"{GOING} runs, and has a time or reason of its",
        ),
        (
            "UPDATE liteflow_task_instance SET ended_at = NULL WHERE id = 1",
            f"{EXTRACT} is over, and has no time of its",
        ),
        (
            "UPDATE liteflow_task_instance SET due_at = NULL WHERE id = 6",
            "task instance etl/going retry (up_for_retry, error) waits for a time, and has none",
        ),
        (
            "UPDATE liteflow_task_instance SET due_at = 5 WHERE id = 1",
            f"{EXTRACT} has a time for which it does not wait",
        ),
        ("UPDATE liteflow_task_instance SET try_number = 0 WHERE id = 4", f"{GOING} has no try that would explain"),
        (
            "UPDATE liteflow_task_instance SET try_number = 1 WHERE id = 8",
            "task instance etl/waiting extract (pending) waits for its first try, and has had one",
        ),
        ("UPDATE liteflow_task_instance SET uncounted_tries = 3 WHERE id = 1", f"{EXTRACT} has counts that cannot be"),
        pytest.param(
            "UPDATE liteflow_task_instance SET map_index = 'x' WHERE id = 2",
            "etl/over load['x'] (failed, error) has counts",
            marks=pytest.mark.sqlite("SQLite holds a value of any type in any column"),
        ),
        ("UPDATE liteflow_task_instance SET try_number = 4 WHERE id = 1", f"{EXTRACT} has lost tries"),
        (
            (
                "UPDATE liteflow_task_try SET try_number = 2 WHERE id = 1; "
                "UPDATE liteflow_task_instance SET try_number = 3 WHERE id = 1"
            ),
            f"{EXTRACT} has tries that are not numbered 1, 2, ...",
        ),
        (
            (
                "INSERT INTO liteflow_task_try (id, task_instance_pk, try_number, generation, state) "
                "VALUES (3, 1, 2, 0, 'failed')"
            ),
            f"{EXTRACT} has its latest try twice",
        ),
        ("UPDATE liteflow_task_try SET state = 'x' WHERE id = 1", f"{EXTRACT} has a try in a state that there is not"),
        ("UPDATE liteflow_task_try SET generation = 1 WHERE id = 1", f"{EXTRACT} has a try of a generation"),
        ("UPDATE liteflow_task_try SET state = 'success' WHERE id = 1", f"{EXTRACT} was recorded as success more than"),
        ("UPDATE liteflow_xcom SET task_instance_pk = 4", f"{GOING} has XComs, and its state says"),
        ("UPDATE liteflow_log_record SET try_number = 3", f"{EXTRACT} has log lines of a try that was never made"),
        ("UPDATE liteflow_task_instance SET map_index = 2 WHERE id = 3", f"{LOAD} is one of a mapped task that is not"),
        ("UPDATE liteflow_task_instance SET map_index = -1 WHERE id = 2", "etl/over load (failed, error) is one of a"),
        ("UPDATE liteflow_xcom SET value = sha256", f"{EXTRACT} has an XCom 'return_value' that is not what was"),
        ("UPDATE liteflow_xcom SET size_bytes = 4", f"{EXTRACT} has an XCom 'return_value' that is not what was"),
    ],
)
def test_what_cannot_be_is_named(sound: str, statement: str, line: str) -> None:
    change(sound, statement)
    assert any(line in one for one in check(sound)), check(sound)


def test_of_many_rows_of_a_kind_some_are_named_and_the_rest_is_counted(sound: str) -> None:
    change(
        sound,
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99) "
        "INSERT INTO liteflow_task_instance (id, run_pk, task_id, map_index, upstream, trigger_rule, state, "
        "generation, try_number, crashes) SELECT 100 + i, 1, 'many', i, '[]', 'all_success', 'pending', 0, 0, 0 FROM n",
    )
    found = check(sound)
    assert len(found) == MOST_OF_A_KIND + 1
    assert found[-1] == "... and 80 more like the last one"


def test_what_was_removed_from_the_dag_is_no_gap(sound: str) -> None:
    change(
        sound,
        "UPDATE liteflow_task_instance SET state = 'removed', ended_at = NULL WHERE id = 3; "
        "UPDATE liteflow_task_instance SET map_index = -1 WHERE id = 2",
    )
    assert check(sound) == []


@pytest.mark.sqlite("damage that only a file has")
def test_a_page_that_is_damaged_is_found(sound: str) -> None:
    with closing(sqlite3.connect(sound)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'liteflow_log_record'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with open(sound, "r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    done = liteflow("db", "check", "--db", sound, cwd=beside(sound))
    assert done.returncode == 3
    assert done.stdout.startswith("integrity: "), done.stdout + done.stderr
    read = liteflow("logs", "etl/over", "--db", sound, cwd=beside(sound))
    assert (read.returncode, read.stderr.count("\n")) == (3, 1)
    assert "restore it from a backup" in read.stderr


@pytest.mark.sqlite("damage that only a file has")
def test_a_file_that_was_cut_off_is_called_damaged_by_all(sound: str) -> None:
    """It was taken for something else than a database, also by the two commands that are for damage."""
    os.truncate(sound, 20_000)
    here = beside(sound)
    for args in (["db", "check"], ["runs"], ["show", "etl"], ["db", "stats"]):
        done = command(*args, "--db", sound, cwd=here)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
        assert "the file is damaged" in done.stderr
        assert "restore it from a backup" in done.stderr
    doctor = command("doctor", "--db", sound, cwd=here)
    assert (doctor.returncode, "the file is damaged" in doctor.stdout) == (3, True), doctor.stdout


def test_the_command_tells_lines_or_json(sound: str) -> None:
    here = beside(sound)
    done = liteflow("db", "check", "--db", sound, cwd=here)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "ok\n")
    change(sound, "UPDATE liteflow_task_instance SET task_id = 'x\x1b[2J', state = '?' WHERE id = 8")
    done = liteflow("db", "check", "--db", sound, cwd=here)
    assert done.returncode == 3
    assert "\x1b" not in done.stdout, "a stranger's ids do not steer the terminal"
    done = liteflow("db", "check", "--db", sound, "--json", cwd=here)
    assert (done.returncode, len(json.loads(done.stdout)["problems"])) == (3, 1)


# The backup


@pytest.fixture
def writer(sound: str) -> Iterator[sqlite3.Connection]:
    """Somebody who has the database open, has committed into its WAL, and is at another transaction."""
    with closing(sqlite3.connect(sound, isolation_level=None)) as connection:
        connection.execute("INSERT INTO liteflow_pool (name, slots) VALUES ('committed', 1)")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO liteflow_pool (name, slots) VALUES ('not committed', 1)")
        yield connection


@pytest.mark.sqlite("about the file of the database")
def test_a_backup_holds_what_was_committed_in_one_file(sound: str, writer: sqlite3.Connection, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "copy.db"
    target.parent.mkdir()
    assert schema.backup(sound, target) == str(target)
    assert os.listdir(target.parent) == ["copy.db"]
    with closing(sqlite3.connect(f"{target.as_uri()}?immutable=1", uri=True)) as copy:  # as on a disk that is read only
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert copy.execute("SELECT name FROM liteflow_pool").fetchall() == [("committed",)]
    assert check(str(target)) == []


@pytest.mark.sqlite("about the file of the database")
def test_its_default_place_is_beside_the_database(sound: str) -> None:
    done = liteflow("db", "backup", "--db", sound, cwd=beside(sound))
    assert done.returncode == 0, done.stderr
    path = done.stdout.strip()
    assert path.startswith(f"{sound}.{schema.HEAD}.")
    assert path.endswith(".backup")
    assert check(path) == []


@pytest.mark.sqlite("about the file of the database")
def test_a_backup_overwrites_nothing(sound: str, tmp_path: Path) -> None:
    target = tmp_path / "precious.txt"
    target.write_text("precious")
    with pytest.raises(StorageError, match="there already"):
        schema.backup(sound, target)
    with pytest.raises(StorageError, match="there already"):
        schema.backup(sound, sound)
    done = command("db", "backup", str(target), "--db", sound, cwd=tmp_path)
    assert (done.returncode, done.stdout, "precious.txt: there already" in done.stderr) == (2, "", True)
    assert target.read_text() == "precious"
    assert check(sound) == []


@pytest.mark.sqlite("about the file of the database")
def test_an_older_database_is_backed_up_as_it_is(db: str, tmp_path: Path) -> None:
    schema.upgrade(db, "0001")
    assert schema.read_revision(schema.backup(db, tmp_path / "copy.db")) == "0001"


@pytest.mark.sqlite("about the file of the database")
def test_a_backup_that_cannot_be_made_leaves_nothing(sound: str, tmp_path: Path) -> None:
    with pytest.raises(DatabaseMissingError, match="nothing to back up"):
        schema.backup(tmp_path / "no.db", tmp_path / "copy.db")
    (tmp_path / "notes.txt").write_text("not a database, and long enough to be one" * 100)
    with pytest.raises(NotALiteflowDatabaseError):
        schema.backup(tmp_path / "notes.txt", tmp_path / "copy.db")
    with pytest.raises(StorageError, match="cannot be written .No such file or directory."):
        schema.backup(sound, tmp_path / "no" / "copy.db")
    with open(sound, "r+b") as file:  # SQLite finds that the file is shorter than its header says
        file.truncate(os.path.getsize(sound) - 4096 * 20)
    with pytest.raises(StorageError):
        schema.backup(sound, tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy.db*"))
