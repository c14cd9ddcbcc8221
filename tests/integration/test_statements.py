"""Statements that are compiled once: in the scope's transaction, and by an index."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import bindparam, insert, select, text, update

from liteflow.errors import StorageError
from liteflow.storage import recording, statements, tables
from liteflow.storage.engine import DRIVER, Database
from liteflow.storage.schema import open_database
from liteflow.storage.statements import Prepared

POOL = tables.POOL
ADD = Prepared(insert(POOL), "name", "slots")
GROW = Prepared(update(POOL).where(POOL.c.name == bindparam("of")).values(slots=bindparam("to")), "of", "to")
SIZES = Prepared(select(POOL.c.name, POOL.c.slots).where(POOL.c.slots > bindparam("least")), "least")

HOT = [(name, one) for room in (recording, statements) for name, one in vars(room).items() if isinstance(one, Prepared)]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(tmp_path / "flow.db", create=True)
    yield database
    database.close()


def sizes(database: Database) -> list[tuple[str, int]]:
    with database.read() as session:
        return SIZES.fetch(session, 0)


def test_rows_are_changed_and_counted(database: Database) -> None:
    with database.write() as session:
        assert ADD.run(session, [("a", 1), ("b", 2)]) == 2
        assert GROW.run(session, [("a", 5), ("none", 7)]) == 1
        assert SIZES.fetch(session, 0) == [("a", 5), ("b", 2)], "the same transaction sees it"
    assert sizes(database) == [("a", 5), ("b", 2)]


def test_what_the_session_does_and_what_goes_past_it_is_one_transaction(database: Database) -> None:
    with pytest.raises(KeyError), database.write() as session:
        ADD.run(session, [("a", 1)])
        session.execute(insert(tables.POOL).values(name="b", slots=2))
        assert SIZES.fetch(session, 0) == [("a", 1), ("b", 2)]
        raise KeyError("nothing of it stays")
    assert sizes(database) == []
    with database.write() as session:
        session.execute(insert(tables.POOL).values(name="b", slots=2))
        ADD.run(session, [("a", 1)])
    assert sorted(sizes(database)) == [("a", 1), ("b", 2)], "what the session still had to write is written"


def test_a_scope_knows_nothing_of_what_the_session_of_the_one_before_read(database: Database) -> None:
    with database.write() as session:
        session.execute(insert(tables.POOL).values(name="a", slots=1))
    with database.write() as session:
        assert session.execute(select(tables.POOL)).one().slots == 1
    with database.write() as session:
        GROW.run(session, [("a", 5)])
    with database.write() as session:
        assert session.execute(select(tables.POOL)).one().slots == 5


def test_a_read_scope_writes_nothing_past_the_session_either(database: Database) -> None:
    with pytest.raises(StorageError, match="readonly"), database.read() as session:
        ADD.run(session, [("a", 1)])
    with database.write() as session:
        ADD.run(session, [("a", 1)])
    assert sizes(database) == [("a", 1)], "the next scope may"


def test_a_scope_that_is_left_after_the_database_was_closed_leaves_no_connection_open(database: Database) -> None:
    with database.write() as session:
        ADD.run(session, [("a", 1)])
        driver = session.info[DRIVER]
        database.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        driver.execute("SELECT 1")
    assert sizes(database) == [("a", 1)], "it is opened again when it is used again"


def test_an_error_of_the_driver_is_one_line_and_rolls_back(database: Database) -> None:
    with pytest.raises(StorageError, match="UNIQUE constraint failed"), database.write() as session:
        ADD.run(session, [("a", 1), ("a", 2)])
    assert sizes(database) == []


def test_an_insert_that_leaves_out_a_column_with_a_default_of_python_is_refused(database: Database) -> None:
    table = tables.DAG
    with pytest.raises(ValueError, match="tags"), database.write() as session:
        Prepared(insert(table), "dag_id", "params").run(session, [("a", "{}")])


@pytest.mark.parametrize(("name", "prepared"), HOT, ids=[name for name, _ in HOT])
def test_what_is_done_for_every_task_finds_its_rows_by_an_index(
    name: str, prepared: Prepared, database: Database
) -> None:
    sql, arrange = prepared._ready
    assert arrange is None, "its rows are made as it wants them: arranging each costs as much as making it"
    with database.read() as session:
        driver = session.info[DRIVER]
        plan = driver.execute(f"EXPLAIN QUERY PLAN {sql}", [1] * len(prepared._names)).fetchall()
    steps = [step[3] for step in plan]
    # That table has a row for each table whose keys are never used again.
    assert not [step for step in steps if "SCAN" in step and step != "SCAN sqlite_sequence"], steps


def test_who_asks_what_was_cancelled_does_not_look_at_all_that_runs(database: Database) -> None:
    with database.read() as session:
        driver = session.info[DRIVER]
        plan = driver.execute(f"EXPLAIN QUERY PLAN {recording._CANCEL_OF_INSTANCE._ready[0]}", [1]).fetchall()
    assert "liteflow_task_instance USING INDEX ix_liteflow_task_instance_cancel_requested_at" in plan[0][3]


def test_the_hot_statements_are_seen() -> None:
    assert {"_CANCEL_OF_INSTANCE", "_CLAIM", "_ENDED", "_STARTED", "_INSERT_XCOM", "_INSERT_LOGRECORD", "_OWNED"} <= {
        name for name, _ in HOT
    }


def test_a_parameter_that_is_there_twice_is_given_once(database: Database) -> None:
    twice = Prepared(text("SELECT :a + :b, :a"), "b", "a")
    with database.read() as session:
        assert twice.fetch(session, 1, 10) == [(11, 10)]
