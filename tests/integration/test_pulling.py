"""What a run asks of values and of the run before, and callbacks that are due."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import delete, event, select, update

from liteflow.states import RunState, TaskInstanceState
from liteflow.storage import callbacks, past, recording, tables, values
from liteflow.storage.callbacks import CallbackFacts, DueCallback
from liteflow.storage.engine import Database
from liteflow.storage.recording import DagFacts, TaskFacts
from liteflow.storage.schema import open_database
from liteflow.storage.tables import TASK_INSTANCE

S = TaskInstanceState

TASKS = [
    TaskFacts("first", [], "all_success"),
    TaskFacts("each", ["first"], "all_success", range(3)),
    TaskFacts("each.more", ["each"], "all_success"),
    TaskFacts("last", ["first", "each"], "all_success"),
]


@pytest.fixture
def database(db: str) -> Iterator[Database]:
    database = open_database(db, create=True)
    yield database
    database.close()


def create(
    database: Database,
    run_id: str,
    logical_date: int = 100,
    *,
    dag_id: str = "dag",
    tasks: Sequence[TaskFacts] = TASKS,
    executor_pk: int | None = None,
) -> tuple[int, list[int]]:
    with database.write() as session:
        dag_pk = recording.record_dag(session, DagFacts(dag_id, None, (), "{}", None, "x"), 1)
        return recording.create_run(
            session,
            dag_pk,
            run_id=run_id,
            logical_date=tables.from_microseconds(logical_date),
            params_json="{}",
            structure_digest="x",
            tasks=tasks,
            executor_pk=executor_pk,
            now_us=1,
        )


def hand_on(database: Database, pk: int, value: str, key: str = "return_value") -> None:
    with database.write() as session:
        recording.store_xcoms(session, [(pk, key, "json", value.encode())])


def set_state(database: Database, pks: Sequence[int], state: S) -> None:
    with database.write() as session:
        session.execute(update(TASK_INSTANCE).where(TASK_INSTANCE.c.id.in_(pks)).values(state=state))


def statements(database: Database) -> list[tuple[str, Any]]:
    """Every statement from now on, with its parameters."""
    seen: list[tuple[str, Any]] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        seen.append((statement, parameters))

    return seen


def plan(database: Database, statement: tuple[str, Any]) -> str:
    with database.read() as session:
        rows = session.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement[0]}", statement[1]).fetchall()
    return "; ".join(str(row[3]) for row in rows)


# xcom_pull


def pull(
    database: Database,
    task_ids: Sequence[str],
    *,
    run_id: str = "r",
    dag_id: str = "dag",
    key: str = "return_value",
    map_indexes: Sequence[int] | None = None,
    prior: int | None = None,
) -> list[tuple[str, int, bytes]]:
    """What is pulled; `prior`: the logical date up to which earlier runs count."""
    with database.read() as session:
        found = values.pull_xcoms(
            session,
            dag_id=dag_id,
            run_id=run_id,
            task_ids=task_ids,
            key=key,
            map_indexes=map_indexes,
            include_prior_dates=prior is not None,
            logical_date_us=prior or 0,
        )
    assert {encoding for _, _, encoding, _ in found} <= {"json"}
    return [(task_id, map_index, data) for task_id, map_index, _, data in found]


def test_values_come_in_the_order_in_which_they_were_asked_for(database: Database) -> None:
    _, (first, *each, _, last) = create(database, "r")
    for pk, value in ((last, "3"), (each[2], "22"), (each[0], "20"), (first, "1")):
        hand_on(database, pk, value)
    wanted = [("last", -1, b"3"), ("each", 0, b"20"), ("each", 2, b"22"), ("first", -1, b"1")]
    assert pull(database, ["last", "each", "nope", "first", "last"]) == wanted
    assert pull(database, []) == []


def test_only_the_run_the_dag_and_the_key_that_were_asked_for(database: Database) -> None:
    _, (first, *_) = create(database, "r")
    _, (other_run, *_) = create(database, "other")
    _, (other_dag, *_) = create(database, "r", dag_id="elsewhere")
    for pk, value in ((first, "1"), (other_run, "2"), (other_dag, "3")):
        hand_on(database, pk, value)
    hand_on(database, first, "4", "odd \x00 key")
    assert pull(database, ["first"]) == [("first", -1, b"1")]
    assert pull(database, ["first"], run_id="other") == [("first", -1, b"2")]
    assert pull(database, ["first"], dag_id="elsewhere") == [("first", -1, b"3")]
    assert pull(database, ["first"], key="odd \x00 key") == [("first", -1, b"4")]
    assert pull(database, ["first"], run_id="nope") == pull(database, ["first"], key="nope") == []


def test_only_the_map_indexes_that_were_asked_for(database: Database) -> None:
    _, (first, *each, _, _) = create(database, "r")
    for pk in (first, *each):
        hand_on(database, pk, "1")
    assert [index for _, index, _ in pull(database, ["first", "each"], map_indexes=[2, 0, 0])] == [0, 2]
    assert [index for _, index, _ in pull(database, ["first", "each"], map_indexes=[-1])] == [-1]
    assert pull(database, ["each"], map_indexes=[]) == []
    assert len(pull(database, ["each"], map_indexes=range(40_000))) == 3, "more than SQLite has bound values"


def test_many_tasks_at_once(database: Database) -> None:
    tasks = [TaskFacts(f"t{number}", [], "all_success") for number in range(1100)]
    _, pks = create(database, "r", tasks=tasks)
    with database.write() as session:
        recording.store_xcoms(session, [(pk, "return_value", "json", b"1") for pk in pks])
    ids = [task.task_id for task in reversed(tasks)]
    assert [task_id for task_id, _, _ in pull(database, ids)] == ids


def test_with_prior_dates_each_task_has_its_own_latest_run(database: Database) -> None:
    _, (old_first, *old_each, _, old_last) = create(database, "old", 100)
    _, (mid_first, *mid_each, _, _) = create(database, "mid", 200)
    _, (now_first, *_) = create(database, "r", 300)
    _, (new_first, *_) = create(database, "new", 400)
    for pk, value in ((old_first, "1"), (old_each[0], "10"), (old_each[1], "11"), (old_last, "3")):
        hand_on(database, pk, value)
    hand_on(database, mid_each[1], "21")
    hand_on(database, mid_first, "2")
    hand_on(database, new_first, "4")
    wanted = ["last", "each", "first"]
    assert pull(database, wanted, prior=300) == [("last", -1, b"3"), ("each", 1, b"21"), ("first", -1, b"2")]
    assert pull(database, ["each"], map_indexes=[0], prior=300) == [("each", 0, b"10")], "mid has none of that index"
    hand_on(database, now_first, "3")
    assert pull(database, ["first"], prior=300) == [("first", -1, b"3")], "this run counts too"
    assert pull(database, ["first"], prior=99) == []
    assert pull(database, wanted) == [("first", -1, b"3")], "without prior dates only this run"


def test_of_runs_with_the_same_date_this_one_counts_first_then_the_latest(database: Database) -> None:
    _, (before, *_) = create(database, "before")
    _, (this, *_) = create(database, "r")
    _, (after, *_) = create(database, "after")
    for pk, value in ((before, "1"), (after, "3")):
        hand_on(database, pk, value)
    assert pull(database, ["first"], prior=100) == [("first", -1, b"3")]
    hand_on(database, this, "2")
    assert pull(database, ["first"], prior=100) == [("first", -1, b"2")]


@pytest.mark.sqlite("which way SQLite takes")
def test_prior_runs_are_walked_by_their_date(database: Database) -> None:
    create(database, "r")
    seen = statements(database)
    pull(database, ["first"], prior=100, map_indexes=[0])
    (statement,) = [one for one in seen if "logical_date" in one[0]]
    assert "ix_liteflow_dag_run_dag_pk_logical_date" in plan(database, statement), plan(database, statement)


# What a reducer gets


def reduce(database: Database, run_pk: int, task_id: str, index: int | None = None) -> list[Any]:
    with database.read() as session:
        return values.task_values(session, run_pk, task_id, "return_value", index)


def test_a_reducer_gets_each_instance_with_its_state(database: Database) -> None:
    run_pk, (_, *each, _, _) = create(database, "r")
    set_state(database, each[:2], S.SUCCESS)
    set_state(database, each[2:], S.FAILED)
    hand_on(database, each[1], "21")
    hand_on(database, each[1], "other", "other key")
    assert reduce(database, run_pk, "each") == [
        (0, S.SUCCESS, None, None),
        (1, S.SUCCESS, "json", b"21"),
        (2, S.FAILED, None, None),
    ]
    assert reduce(database, run_pk, "each", 1) == [(1, S.SUCCESS, "json", b"21")]
    assert reduce(database, run_pk, "first") == [(-1, S.PENDING, None, None)]
    assert reduce(database, run_pk, "each", 7) == reduce(database, run_pk, "nope") == []


def test_ten_thousand_values_are_one_query(database: Database) -> None:
    run_pk, pks = create(database, "r", tasks=[TaskFacts("each", [], "all_success", range(10_000))])
    with database.write() as session:
        recording.store_xcoms(session, [(pk, "return_value", "json", b"%d" % pk) for pk in pks])
    seen = statements(database)
    found = reduce(database, run_pk, "each")
    assert [data for _, _, _, data in found] == [b"%d" % pk for pk in pks]
    assert len([one for one in seen if one[0].startswith("SELECT")]) == 1


# The run before


def before(database: Database, run_pk: int, task_id: str = "each") -> past.PastRun | None:
    with database.read() as session:
        return past.previous_instances(session, run_pk, task_id)


def test_the_run_before_is_the_one_with_the_latest_earlier_date(database: Database) -> None:
    with database.write() as session:
        owner = recording.record_executor(session, "token", "host", None, 1)
    create(database, "old", 100)
    run_pk, (_, *each, _, _) = create(database, "mid", 200, executor_pk=owner)
    this, _ = create(database, "this", 300)
    create(database, "same date", 300)
    create(database, "later", 400)
    create(database, "elsewhere", 250, dag_id="elsewhere")
    set_state(database, each[1:2], S.FAILED)
    found = before(database, this)
    assert found is not None
    assert (found.pk, found.run_id, found.state) == (run_pk, "mid", RunState.QUEUED)
    assert found.owner is not None
    assert (found.owner.pk, found.owner.token) == (owner, "token")
    assert found.instances == [(0, S.PENDING), (1, S.FAILED), (2, S.PENDING)]


def test_of_several_runs_with_that_date_it_is_the_one_created_last(database: Database) -> None:
    create(database, "one", 100)
    create(database, "two", 100)
    this, _ = create(database, "this", 200)
    found = before(database, this)
    assert found is not None
    assert (found.run_id, found.owner) == ("two", None)


def test_a_task_that_the_run_before_did_not_have(database: Database) -> None:
    create(database, "old", 100, tasks=TASKS[:1])
    this, _ = create(database, "this", 200)
    found = before(database, this)
    assert found is not None
    assert found.instances == []


def test_the_first_run_has_none_before_it(database: Database) -> None:
    this, _ = create(database, "this")
    create(database, "same date")
    create(database, "later", 200)
    assert before(database, this) is None
    assert before(database, 99) is None


@pytest.mark.sqlite("which way SQLite takes")
def test_the_run_before_is_found_by_an_index(database: Database) -> None:
    this, _ = create(database, "this")
    seen = statements(database)
    before(database, this)
    (statement,) = [one for one in seen if "logical_date" in one[0]]
    found = plan(database, statement)
    assert "ix_liteflow_dag_run_dag_pk_logical_date (dag_pk=? AND logical_date<?)" in found, found


def test_downstream_of_the_run_before_that_is_not_well(database: Database) -> None:
    run_pk, (first, *each, more, last) = create(database, "old")

    def unsuccessful(task_id: str) -> list[tuple[str, int, S]]:
        with database.read() as session:
            return past.unsuccessful_downstream(session, run_pk, task_id)

    set_state(database, [first, *each[:2]], S.SUCCESS)
    set_state(database, each[2:], S.FAILED)
    assert unsuccessful("first") == [("each", 2, S.FAILED), ("last", -1, S.PENDING)]
    assert unsuccessful("each") == [("each.more", -1, S.PENDING), ("last", -1, S.PENDING)]
    assert unsuccessful("each.more") == unsuccessful("ach") == unsuccessful("nope") == []
    set_state(database, each, S.SKIPPED)
    set_state(database, [last], S.REMOVED)
    assert unsuccessful("first") == []
    set_state(database, [more], S.UPSTREAM_FAILED)
    assert unsuccessful("each") == [("each.more", -1, S.UPSTREAM_FAILED)]


# Callbacks


def due(database: Database, run_pk: int) -> list[DueCallback]:
    with database.read() as session:
        return callbacks.due_callbacks(session, run_pk)


def test_a_callback_is_due_until_it_has_ended(database: Database) -> None:
    run_pk, (first, *_) = create(database, "r")
    other_pk, _ = create(database, "other")
    with database.write() as session:
        ids = callbacks.store_callbacks(
            session,
            [
                CallbackFacts(run_pk, "on_failure", first, 2),
                CallbackFacts(run_pk, "dag_on_failure", position=1),
                CallbackFacts(other_pk, "dag_on_success"),
            ],
            5,
        )
        assert callbacks.store_callbacks(session, [], 5) == []
    assert due(database, run_pk) == [
        DueCallback(ids[0], "on_failure", first, 2, 0),
        DueCallback(ids[1], "dag_on_failure", None, None, 1),
    ]
    for _ in range(2):  # the second time is no mistake
        with database.write() as session:
            callbacks.delete_callbacks(session, [ids[0]])
    assert [one.id for one in due(database, run_pk)] == [ids[1]]
    assert [one.id for one in due(database, other_pk)] == [ids[2]]
    with database.read() as session:
        assert session.scalar(select(tables.CALLBACK.c.created_at)) == tables.from_microseconds(5)


def test_an_id_is_not_used_again(database: Database) -> None:
    """A late end of a callback must not take away another one."""
    run_pk, _ = create(database, "r")
    with database.write() as session:
        (first,) = callbacks.store_callbacks(session, [CallbackFacts(run_pk, "dag_on_failure")], 5)
        callbacks.delete_callbacks(session, [first])
        (second,) = callbacks.store_callbacks(session, [CallbackFacts(run_pk, "dag_on_failure")], 5)
    assert second > first


def test_callbacks_go_with_their_run(database: Database) -> None:
    run_pk, (first, *_) = create(database, "r")
    with database.write() as session:
        rows = [CallbackFacts(run_pk, "on_failure", first, 1), CallbackFacts(run_pk, "dag_on_failure")]
        ids = callbacks.store_callbacks(session, rows, 5)
        session.execute(delete(tables.DAG_RUN).where(tables.DAG_RUN.c.id == run_pk))
    assert due(database, run_pk) == []
    with database.write() as session:
        callbacks.delete_callbacks(session, [*ids, *range(1000, 2000)])
