"""Databases as older versions left them: each upgrades with every row kept, and is then as good as a new one: a run
that was interrupted before is resumed. An upgrade that is killed has happened or has not.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from liteflow.states import RunState, TaskInstanceState
from liteflow.storage import checking, recording, schema
from liteflow.storage.history import open_history
from liteflow.storage.moments import from_microseconds
from tests.conftest import ROOT, Script, descendants, liteflow, run_python, wait_until

ASSETS = Path(__file__).parent / "assets"

REVISIONS = schema.known_revisions()[:-1]


def make_stored(path: str, revision: str) -> str:
    """The database of that revision that lies among the assets."""
    schema.upgrade(path, revision)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((ASSETS / f"{revision}.sql").read_text("utf-8"))
    return path


@pytest.fixture(params=REVISIONS)
def stored(db: str, request: pytest.FixtureRequest) -> str:
    """A database of each older revision."""
    return make_stored(db, request.param)


@pytest.fixture
def populated(db: str) -> str:
    """A database of revision 0001 that holds something in each table, and from which the latest rows were deleted."""
    return make_stored(db, "0001")


def rows_of(path: str) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table of ours, by table."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'liteflow%' AND name <> ?",
            [schema.VERSION_TABLE],
        ).fetchall()
        return {
            table: [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY id")]
            for (table,) in tables
        }


def sequences_of(path: str) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, seq FROM sqlite_sequence"))


def test_there_is_a_stored_database_of_every_old_revision() -> None:
    assert sorted(path.stem for path in ASSETS.glob("*.sql")) == REVISIONS


def test_every_row_is_kept(stored: str) -> None:
    revision = schema.read_revision(stored)
    before, sequences = rows_of(stored), sequences_of(stored)
    empty = {table for table, rows in before.items() if not rows}
    assert empty <= {"liteflow_callback"}, "the asset holds something in each table"
    change = schema.upgrade(stored)
    assert (change.before, change.after) == (revision, schema.HEAD)
    after = rows_of(stored)
    for table, rows in before.items():
        assert [{name: new[name] for name in old} for old, new in zip(rows, after[table], strict=True)] == rows, table
    assert {name: sequences_of(stored)[name] for name in sequences} == sequences, "no key is given a second time"
    assert checking.check(stored) == []


def test_new_columns_have_the_values_of_a_task_that_uses_none_of_it(populated: str) -> None:
    schema.upgrade(populated)
    for row in rows_of(populated)["liteflow_task_instance"]:
        assert (row["pool"], row["pool_slots"], row["rendered_map_index"], row["reschedules"]) == (None, None, None, 0)


def test_its_history_is_read_as_before(populated: str) -> None:
    schema.upgrade(populated)
    history = open_history(populated)
    assert [(run.run_id, run.state) for run in history.runs()] == [
        ("interrupted", RunState.RUNNING),
        ("nightly-2", RunState.RUNNING),
        ("nightly-1", RunState.FAILED),
    ]
    run = history.find_run("etl/nightly-1")
    assert [(one.task_id, one.state, one.try_number) for one in run.task_instances()] == [
        ("extract", TaskInstanceState.SUCCESS, 2),
        ("load", TaskInstanceState.FAILED, 1),
    ]
    assert run.xcom("extract") == [1, 2, 3]
    assert [entry.message for entry in run.logs()] == ["first", "second"]
    assert [(one.task_id, one.try_number) for one in run.tries()] == [("extract", 1)]


def test_new_rows_go_on_with_its_keys(populated: str) -> None:
    last = sequences_of(populated)["liteflow_task_instance"]
    schema.upgrade(populated)
    database = schema.open_database(populated, pooled=False)
    with database.write() as session:
        run_pk, pks = recording.create_run(
            session,
            1,
            run_id="nightly-3",
            logical_date=from_microseconds(3),
            params_json="{}",
            structure_digest="x",
            tasks=[recording.TaskFacts("extract", [], "all_success", range(2), "etl", 2)],
            executor_pk=None,
            now_us=3,
        )
    assert pks == [last + 1, last + 2]
    assert run_pk not in {row["id"] for row in rows_of(populated)["liteflow_dag_run"] if row["run_id"] != "nightly-3"}


def test_it_goes_back_without_a_loss_of_what_it_had(stored: str) -> None:
    revision = schema.read_revision(stored)
    before, sequences = rows_of(stored), sequences_of(stored)
    schema.upgrade(stored)
    assert revision is not None
    change = schema.downgrade(stored, revision)
    assert (change.before, change.after) == (schema.HEAD, revision)
    assert rows_of(stored) == before
    assert sequences_of(stored) == sequences


def test_an_interrupted_run_is_resumed_after_the_upgrade(stored: str, tmp_path: Path) -> None:
    """Its process was killed while `hold` ran; what had succeeded is kept, and not run again."""
    kept = [row for row in rows_of(stored)["liteflow_task_instance"] if row["state"] == "success"]
    schema.upgrade(stored)
    flow = Script(tmp_path / "stored_flow.py")
    shutil.copy(ASSETS / "stored_flow.py", flow.path)
    before = descendants()
    done = liteflow("run", str(flow.path), "--resume", "interrupted", "--db", stored, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = open_history(stored).find_run("stored/interrupted")
    assert run.state is RunState.SUCCESS
    assert {one.task_id: one.try_number for one in run.task_instances()} == {"extract": 1, "hold": 2, "report": 1}
    assert [(one.try_number, str(one.end_reason)) for one in run.tries()] == [(1, "crashed")]
    assert run.xcom("report") == "6 orders"
    after = {row["id"]: row for row in rows_of(stored)["liteflow_task_instance"]}
    for row in kept:
        assert {name: after[row["id"]][name] for name in row} == row
    assert checking.check(stored) == []
    wait_until(lambda: not (descendants() - before), "processes left behind")


def test_an_upgrade_that_fails_in_the_middle_changes_nothing(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic.operations import Operations

    add_column = Operations.add_column

    def fail(self: Operations, *args: Any, **kwargs: Any) -> object:
        add_column(self, *args, **kwargs)
        raise RuntimeError("power cut")

    revision = schema.read_revision(stored)
    before = rows_of(stored)
    monkeypatch.setattr(Operations, "add_column", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        schema.upgrade(stored)
    assert schema.read_revision(stored) == revision
    assert rows_of(stored) == before
    monkeypatch.undo()
    assert schema.upgrade(stored).after == schema.HEAD


UPGRADE_AND_DIE = """
import os, signal, sys
from sqlalchemy import event
from liteflow.storage import engine, schema

path, where = sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def watch(connection, cursor, statement, *others):
    if where != "COMMIT" and statement.startswith(where):
        die()

make_engine = engine._make_engine
def watched(*args):
    made = make_engine(*args)
    event.listen(made, "before_cursor_execute", watch)
    if where == "COMMIT":
        event.listen(made, "commit", lambda connection: die())
    return made
engine._make_engine = watched

schema.upgrade(path)
"""


def assert_retry_works(path: str, revision: str, before: dict[str, list[dict[str, Any]]]) -> None:
    """After a killed upgrade: all is as it was, or all is done; and the upgrade can be made again."""
    found = schema.read_revision(path)
    if found == revision:
        assert rows_of(path) == before
    else:
        assert found == schema.HEAD
    assert schema.upgrade(path).after == schema.HEAD
    assert checking.check(path) == []
    assert {table: len(rows) for table, rows in rows_of(path).items() if table in before} == {
        table: len(rows) for table, rows in before.items()
    }


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_an_upgrade_killed_before_its_commit_leaves_the_old_revision(stored: str, tmp_path: Path) -> None:
    """At its first change, when all is changed but the revision, and when only the commit is missing."""
    revision = schema.read_revision(stored)
    assert revision is not None
    before = rows_of(stored)
    for where in ("ALTER TABLE", f"UPDATE {schema.VERSION_TABLE}", "COMMIT"):
        done = run_python("-c", UPGRADE_AND_DIE, stored, where, cwd=tmp_path)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert schema.read_revision(stored) == revision
        assert rows_of(stored) == before
    assert_retry_works(stored, revision, before)


UPGRADE = "import sys; from liteflow.storage import schema; schema.upgrade(sys.argv[1])"


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, which kills the process at a write")
@pytest.mark.parametrize("revision", REVISIONS[-1:])
def test_an_upgrade_killed_at_a_write_has_happened_or_has_not(tmp_path: Path, revision: str) -> None:
    """The writes are those of the commit, of the checkpoint and of the backup before."""
    full = os.environ.get("LITEFLOW_TESTS") == "full"
    number, killed, seen = 1, 0, set()
    while True:
        path = make_stored(str(tmp_path / f"{number}.db"), revision)
        before = rows_of(path)
        inject = f"inject=pwrite64:signal=SIGKILL:when={number}"
        done = subprocess.run(
            [
                "strace",
                "-f",
                "-o",
                "/dev/null",
                "-e",
                "trace=pwrite64",
                "-e",
                inject,
                sys.executable,
                "-c",
                UPGRADE,
                path,
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            break
        killed += 1
        seen.add(schema.read_revision(path))
        assert_retry_works(path, revision, before)
        number += 1 if full else 25
    assert killed >= 3
    assert revision in seen
