"""Databases as older versions left them: each upgrades with every row kept, and is then as good as a new one."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from liteflow.states import RunState, TaskInstanceState
from liteflow.storage import recording, schema
from liteflow.storage.history import open_history
from liteflow.storage.models import from_microseconds

ASSETS = Path(__file__).parent / "assets"

TABLES = [
    "liteflow_dag",
    "liteflow_executor",
    "liteflow_pool",
    "liteflow_dag_run",
    "liteflow_task_instance",
    "liteflow_task_try",
    "liteflow_xcom",
    "liteflow_log_record",
]


@pytest.fixture
def populated(db: str) -> str:
    """A database of revision 0001 that holds something in each table, and from which the latest rows were deleted."""
    schema.upgrade(db, "0001")
    connection = sqlite3.connect(db)
    connection.executescript((ASSETS / "0001.sql").read_text("utf-8"))
    connection.close()
    return db


def rows_of(path: str) -> dict[str, list[dict[str, Any]]]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        return {
            table: [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY id")] for table in TABLES
        }
    finally:
        connection.close()


def sequences_of(path: str) -> dict[str, int]:
    connection = sqlite3.connect(path)
    try:
        return dict(connection.execute("SELECT name, seq FROM sqlite_sequence"))
    finally:
        connection.close()


def test_every_row_is_kept(populated: str) -> None:
    before, sequences = rows_of(populated), sequences_of(populated)
    assert all(before.values()), "the asset holds something in each table"
    change = schema.upgrade(populated)
    assert (change.before, change.after) == ("0001", schema.HEAD)
    after = rows_of(populated)
    for table, rows in before.items():
        assert [{name: new[name] for name in old} for old, new in zip(rows, after[table], strict=True)] == rows, table
    assert {name: sequences_of(populated)[name] for name in sequences} == sequences, "no key is given a second time"
    assert schema.check(populated) == []


def test_new_columns_have_the_values_of_a_task_that_uses_none_of_it(populated: str) -> None:
    schema.upgrade(populated)
    for row in rows_of(populated)["liteflow_task_instance"]:
        assert (row["pool"], row["pool_slots"], row["rendered_map_index"], row["reschedules"]) == (None, None, None, 0)


def test_its_history_is_read_as_before(populated: str) -> None:
    schema.upgrade(populated)
    history = open_history(populated)
    assert [(run.run_id, run.state) for run in history.runs()] == [
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


def test_it_goes_back_without_a_loss_of_what_it_had(populated: str) -> None:
    before, sequences = rows_of(populated), sequences_of(populated)
    schema.upgrade(populated)
    change = schema.downgrade(populated, "0001")
    assert (change.before, change.after) == (schema.HEAD, "0001")
    assert rows_of(populated) == before
    assert sequences_of(populated) == sequences


def test_an_upgrade_that_fails_in_the_middle_changes_nothing(populated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic.operations import Operations

    def fail(self: Operations, name: str, *args: object, **kwargs: object) -> object:
        raise RuntimeError("power cut")

    before = rows_of(populated)
    monkeypatch.setattr(Operations, "create_table", fail)  # by then the columns have been added
    with pytest.raises(RuntimeError, match="power cut"):
        schema.upgrade(populated)
    assert schema.read_revision(populated) == "0001"
    assert rows_of(populated) == before
    monkeypatch.undo()
    assert schema.upgrade(populated).after == schema.HEAD
