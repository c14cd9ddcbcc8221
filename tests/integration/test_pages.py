"""What is read of a run for its page: what went wrong first, and of all of it no more than is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import event, insert, select, update

from liteflow import Dag, task
from liteflow.cli.page import dag_page, run_page
from liteflow.errors import StorageError
from liteflow.states import TaskInstanceState as S
from liteflow.storage import pages, recording, tables
from liteflow.storage.engine import Database
from liteflow.storage.history import DagRun, open_history
from liteflow.storage.recording import DagFacts, TaskFacts
from liteflow.storage.schema import open_database

TI, LOG, XCOM, TRY = tables.TASK_INSTANCE, tables.LOG_RECORD, tables.XCOM, tables.TASK_TRY
NOW_US = 1_767_225_600_000_000


@pytest.fixture
def database(db: str) -> Database:
    return open_database(db, create=True, pooled=False)


def run_of(database: Database, tasks: list[TaskFacts], params_json: str = "{}") -> DagRun:
    with database.write() as connection:
        dag_pk = recording.record_dag(connection, DagFacts("etl", "words", (), "{}", None, "0" * 64), NOW_US)
        recording.create_run(
            connection,
            dag_pk,
            run_id="r1",
            logical_date=tables.from_microseconds(NOW_US),
            params_json=params_json,
            structure_digest="0" * 64,
            tasks=tasks,
            executor_pk=None,
            now_us=NOW_US,
        )
        connection.execute(update(TI).values(state=S.SUCCESS, try_number=1, started_at=NOW_US, ended_at=NOW_US + 5))
    return open_history(database.path).find_run("r1")


ONE = [TaskFacts("a", [], "all_success")]


def read(run: DagRun) -> list[pages.PageInstance]:
    with run.history.read() as connection:
        return pages.page_instances(connection, run.pk)


def pk_of(database: Database, task_id: str = "a", map_index: int = -1) -> int:
    with database.read() as connection:
        found = connection.scalar(select(TI.c.id).where(TI.c.task_id == task_id, TI.c.map_index == map_index))
    assert found is not None
    return found


def add(database: Database, table: Any, rows: list[dict[str, Any]]) -> None:
    with database.write() as connection:
        connection.execute(insert(table), rows)


def line(pk: int, message: str, **more: Any) -> dict[str, Any]:
    return {
        "task_instance_pk": pk,
        "try_number": 1,
        "at": NOW_US,
        "level": None,
        "logger": None,
        "message": message,
        **more,
    }


def value(pk: int, key: str, data: bytes, encoding: str = "json") -> dict[str, Any]:
    facts = {"encoding": encoding, "size_bytes": len(data), "sha256": b"0" * 32, "value": data}
    return {"task_instance_pk": pk, "key": key, **facts}


def test_of_many_instances_those_that_failed_come_first(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MOST_INSTANCES_OF_A_TASK", 4)
    run = run_of(database, [*ONE, TaskFacts("m", ["a"], "all_success", range(100))])
    with database.write() as connection:
        connection.execute(update(TI).where(TI.c.map_index.in_([40, 90])).values(state=S.FAILED, error="no"))
        connection.execute(update(TI).where(TI.c.map_index == 70).values(state=S.RUNNING))
    found = read(run)
    assert [one.map_index for one in found if one.task_id == "m"] == [40, 90, 70, 0]
    assert [(one.task_id, one.map_index) for one in found][:3] == [("m", 40), ("m", 90), ("a", -1)]


def test_each_task_has_its_first_instance_before_any_has_its_second(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MOST_INSTANCES", 5)
    tasks = [TaskFacts(f"m{n}", [], "all_success", range(10)) for n in range(3)]
    found = read(run_of(database, tasks))
    assert [(one.task_id, one.map_index) for one in found] == [("m0", 0), ("m1", 0), ("m2", 0), ("m0", 1), ("m1", 1)]


def test_a_log_is_its_last_lines(database: Database) -> None:
    run = run_of(database, ONE)
    add(database, LOG, [line(pk_of(database), f"line {n}", level=30, logger="x") for n in range(500)])
    (found,) = read(run)
    assert [one.message for one in found.log] == [f"line {n}" for n in range(300, 500)]
    assert found.log[0] == pages.PageLine(1, NOW_US, 30, "x", "line 300")
    assert found.log_is_cut


def test_long_lines_are_cut_and_few_of_them_are_read(database: Database) -> None:
    run = run_of(database, ONE)
    add(database, LOG, [line(pk_of(database), f"{n}" + "x" * 40_000) for n in range(5)])
    (found,) = read(run)
    assert [one.message[0] for one in found.log] == ["4"]
    assert found.log_is_cut
    add(database, LOG, [line(pk_of(database), "y" * 1_000_000)])
    (found,) = read(run)
    assert [len(one.message) for one in found.log] == [pages.LOG_CHARACTERS - 1]


def test_all_logs_together_have_a_bound_and_what_failed_keeps_its_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "ALL_LOG_CHARACTERS", 1000)
    run = run_of(database, [TaskFacts(f"t{n}", [], "all_success") for n in range(10)])
    with database.write() as connection:
        connection.execute(update(TI).where(TI.c.task_id == "t9").values(state=S.FAILED))
    add(database, LOG, [line(pk_of(database, f"t{n}"), "x" * 90) for n in range(10) for _ in range(5)])
    found = {one.task_id: one for one in read(run)}
    assert len(found["t9"].log) == 5
    assert sum(len(entry.message) for one in found.values() for entry in one.log) <= 1000
    assert found["t8"].log == []
    assert found["t8"].log_is_cut
    assert not found["t9"].log_is_cut


def test_xcoms_are_previews_and_nothing_is_decoded(database: Database) -> None:
    run = run_of(database, ONE)
    pk = pk_of(database)
    bomb = b"cos\nsystem\n(S'touch /tmp/pwned'\ntR."
    long = json.dumps(["x" * 100] * 10_000).encode()
    rows = [
        value(pk, "a", b'{"rows":3}'),
        value(pk, "b", bomb, "pickle"),
        value(pk, "c", long),
        value(pk, "d", b"\x00" * 2_000_000, "bytes"),
        value(pk, "e", b"\x00" * 100_000, "items"),
        value(pk, "f", b"\x00nonsense", "items"),
    ]
    add(database, XCOM, rows)
    (found,) = read(run)
    texts = {one.key: one.text for one in found.xcoms}
    assert texts["a"] == '{"rows":3}'
    assert texts["b"] == "<pickle, 35 B>"
    assert texts["c"].startswith('["xxx')
    assert texts["c"].endswith("... <1.0 MB>")
    assert len(texts["c"]) < 2100
    assert texts["d"] == "<bytes, 2.0 MB>"
    assert texts["e"] == "<list, 100.0 kB>"
    assert "damaged" in texts["f"]


def test_keys_and_tries_have_bounds(database: Database) -> None:
    run = run_of(database, ONE)
    pk = pk_of(database)
    add(database, XCOM, [value(pk, f"k{n:03}", b"1") for n in range(50)])
    facts = {"task_instance_pk": pk, "generation": 0, "state": S.FAILED, "end_reason": "error", "error": "no"}
    add(database, TRY, [{**facts, "try_number": n, "started_at": NOW_US} for n in range(1, 40)])
    with database.write() as connection:
        connection.execute(update(TI).values(try_number=40))
    (found,) = read(run)
    assert [one.key for one in found.xcoms] == [f"k{n:03}" for n in range(20)]
    assert found.xcoms_are_cut
    assert [one.number for one in found.tries] == list(range(20, 41))
    assert found.tries_are_cut
    assert found.tries[0] == pages.PageTry(20, S.FAILED, "error", None, NOW_US, None, "no")  # type: ignore[arg-type]


def test_what_no_liteflow_writes_is_one_error(database: Database) -> None:
    run = run_of(database, ONE)
    add(database, TRY, [{"task_instance_pk": pk_of(database), "try_number": 1, "generation": 0, "state": S.FAILED}])
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE liteflow_task_try SET state = 'on fire'")
        connection.execute(update(TI).values(try_number=2))
    with pytest.raises(StorageError, match="on fire"):
        read(run)


@pytest.mark.sqlite("a column of PostgreSQL holds values of one type")
@pytest.mark.parametrize("statement", ["UPDATE liteflow_xcom SET value = 'text'", "UPDATE liteflow_xcom SET value = 7"])
def test_a_value_that_is_no_bytes_is_one_error(database: Database, statement: str) -> None:
    run = run_of(database, ONE)
    add(database, XCOM, [value(pk_of(database), "k", b"1")])
    with database.write() as connection:
        connection.exec_driver_sql(statement)
    with pytest.raises(StorageError, match="no bytes"):
        read(run)


@pytest.mark.sqlite("which way SQLite takes")
def test_logs_values_and_tries_are_found_along_an_index(database: Database) -> None:
    run_of(database, ONE)
    for prepared in (pages._LOG, pages._XCOMS, pages._TRIES):
        text, _ = prepared._ready
        with database.read() as connection:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", (1,))]
        assert len(plan) == 1, plan  # no sorting beside it
        assert "USING INDEX" in plan[0]
        assert "task_instance_pk=?" in plan[0]


def test_a_page_of_20000_instances_is_bounded_and_so_are_its_statements(database: Database) -> None:
    run = run_of(database, [*ONE, TaskFacts("m", ["a"], "all_success", range(20_000))])
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1

    event.listen(run.history.database.engine, "before_cursor_execute", counted)
    text = run_page(run, direction="LR")
    assert len(text) < 2_000_000
    assert count < 20
    assert '"counts":{"success":20000}' in text


def test_the_page_of_a_run_has_its_params_as_text(database: Database) -> None:
    run = run_of(database, ONE, json.dumps({"day": "2026-01-01", "limit": {"$": "float", "v": "nan"}}))
    text = run_page(run, direction="LR")
    assert '["day","\\"2026-01-01\\""]' in text
    assert '"description":"words"' in text


@pytest.mark.parametrize("params", ["[1]", "no json", '{"a":' * 5000])
def test_params_that_are_none_are_shown_as_they_are(database: Database, params: str) -> None:
    run = run_of(database, ONE)
    with database.write() as connection:
        connection.execute(update(tables.DAG_RUN).values(params=params))
    assert '"params":[["",' in run_page(run.refresh(), direction="LR")


def test_a_dag_has_a_page_without_a_database(db: str) -> None:
    @task
    def a(x: object) -> int:
        return 1

    with Dag("etl", db_path=db, params={"when": object, "how": lambda: 1}) as dag:
        a(dag.param("when"))
    text = dag_page(dag, direction="TD")
    assert '"run":""' in text
    assert '"rule":"all_success"' in text
    assert '"params":[["when","\\u003cpickle' in text
    assert '["how","\\u003cfunction\\u003e"]' in text
