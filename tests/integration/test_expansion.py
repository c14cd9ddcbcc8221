"""Rows of mapped tasks, and tries that give their slot back: what is written, and what is left alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from liteflow.states import EndReason, TaskInstanceState
from liteflow.storage import recording, tables
from liteflow.storage.engine import Database
from liteflow.storage.recording import DagFacts, TaskFacts, TryEnded
from liteflow.storage.schema import open_database

S = TaskInstanceState
TI = tables.TASK_INSTANCE.c


@pytest.fixture
def database(db: str) -> Iterator[Database]:
    database = open_database(db, create=True)
    yield database
    database.close()


def create(database: Database, tasks: Sequence[TaskFacts], run_id: str = "r") -> tuple[int, list[int]]:
    with database.write() as session:
        dag_pk = recording.record_dag(session, DagFacts("mapped", None, (), "{}", None, "x"), 1)
        return recording.create_run(
            session,
            dag_pk,
            run_id=run_id,
            logical_date=tables.from_microseconds(1),
            params_json="{}",
            structure_digest="x",
            tasks=tasks,
            executor_pk=None,
            now_us=1,
        )


def executor(database: Database) -> int:
    with database.write() as session:
        return recording.record_executor(session, f"token{time.monotonic_ns()}", "host", None, 1)


def row(database: Database, pk: int) -> dict[str, Any]:
    """The task instance as it is stored."""
    with database.read() as session:
        found = session.execute(select(tables.TASK_INSTANCE).where(TI.id == pk)).mappings().one()
        return dict(found)


def set_row(database: Database, pk: int, **values: Any) -> None:
    with database.write() as session:
        session.execute(update(tables.TASK_INSTANCE).where(TI.id == pk).values(values))


# Mapped task instances


def test_a_literal_mapping_has_its_rows_from_the_beginning(database: Database) -> None:
    tasks = [
        TaskFacts("first", [], "all_success"),
        TaskFacts("each", ["first"], "all_success", range(3)),
        TaskFacts("last", ["each"], "all_success"),
    ]
    _, pks = create(database, tasks)
    found = [(row(database, pk)["task_id"], row(database, pk)["map_index"]) for pk in pks]
    assert found == [("first", -1), ("each", 0), ("each", 1), ("each", 2), ("last", -1)]
    assert {row(database, pk)["state"] for pk in pks} == {S.PENDING}


def test_pool_and_slots_are_kept_only_together(database: Database) -> None:
    tasks = [TaskFacts("in", [], "all_success", pool="warehouse", pool_slots=2), TaskFacts("out", [], "all_success")]
    _, (inside, outside) = create(database, tasks)
    assert (row(database, inside)["pool"], row(database, inside)["pool_slots"]) == ("warehouse", 2)
    assert (row(database, outside)["pool"], row(database, outside)["pool_slots"]) == (None, None)


def test_an_expansion_keeps_the_row_that_was_there_and_adds_the_others(database: Database) -> None:
    task = TaskFacts("each", ["first"], "all_done", pool="warehouse", pool_slots=2)
    run_pk, (_, pk, last) = create(
        database, [TaskFacts("first", [], "all_success"), task, TaskFacts("last", ["each"], "all_success")]
    )
    set_row(database, pk, generation=3, state=S.QUEUED)
    with database.write() as session:
        pks = recording.expand_instance(session, run_pk, pk, task, 3)
    assert pks == [pk, last + 1, last + 2]
    rows = [row(database, one) for one in pks]
    assert [one["map_index"] for one in rows] == [0, 1, 2]
    assert [one["state"] for one in rows] == [S.QUEUED, S.PENDING, S.PENDING]
    for one in rows:
        assert (one["run_pk"], one["task_id"], one["generation"]) == (run_pk, "each", 3)
        assert (one["upstream"], one["trigger_rule"]) == ('["first"]', "all_done")
        assert (one["pool"], one["pool_slots"], one["try_number"], one["crashes"]) == ("warehouse", 2, 0, 0)


def test_an_expansion_into_one_adds_nothing(database: Database) -> None:
    task = TaskFacts("each", [], "all_success")
    run_pk, (pk,) = create(database, [task])
    with database.write() as session:
        assert recording.expand_instance(session, run_pk, pk, task, 1) == [pk]
    assert row(database, pk)["map_index"] == 0


def test_a_second_expansion_does_nothing(database: Database) -> None:
    task = TaskFacts("each", [], "all_success")
    run_pk, (pk,) = create(database, [task])
    with database.write() as session:
        assert len(recording.expand_instance(session, run_pk, pk, task, 2)) == 2
        assert recording.expand_instance(session, run_pk, pk, task, 5) == []
    with database.read() as session:
        assert list(session.scalars(select(TI.map_index).order_by(TI.id))) == [0, 1]


@pytest.mark.parametrize("state", [S.RUNNING, S.SUCCESS, S.SKIPPED, S.REMOVED])
def test_what_runs_or_is_over_is_not_expanded(database: Database, state: S) -> None:
    task = TaskFacts("each", [], "all_success")
    run_pk, (pk,) = create(database, [task])
    set_row(database, pk, state=state)
    with database.write() as session:
        assert recording.expand_instance(session, run_pk, pk, task, 2) == []
    assert row(database, pk)["map_index"] == -1


def test_a_row_of_another_run_is_not_expanded(database: Database) -> None:
    task = TaskFacts("each", [], "all_success")
    run_pk, (pk,) = create(database, [task])
    with database.write() as session:
        assert recording.expand_instance(session, run_pk + 1, pk, task, 2) == []


def test_an_expansion_into_nothing_is_a_mistake_of_the_caller(database: Database) -> None:
    task = TaskFacts("each", [], "all_success")
    run_pk, (pk,) = create(database, [task])
    with pytest.raises(ValueError, match="'each' cannot be expanded into 0"), database.write() as session:
        recording.expand_instance(session, run_pk, pk, task, 0)


def test_keys_of_deleted_task_instances_are_not_given_again(database: Database) -> None:
    task = TaskFacts("each", [], "all_success", range(4))
    run_pk, pks = create(database, [task])
    with database.write() as session:
        session.execute(tables.DAG_RUN.delete().where(tables.DAG_RUN.c.id == run_pk))
    _, (pk,) = create(database, [TaskFacts("each", [], "all_success")], "again")
    assert pk == pks[-1] + 1


def test_ten_thousand_instances_are_added_at_once(database: Database) -> None:
    task = TaskFacts("each", ["first"], "all_success")
    run_pk, (pk,) = create(database, [task])
    with database.write() as session:
        pks = recording.expand_instance(session, run_pk, pk, task, 10_000)
    with database.read() as session:
        found = session.execute(select(TI.id, TI.map_index).where(TI.run_pk == run_pk).order_by(TI.map_index)).all()
    assert [tuple(one) for one in found] == list(zip(pks, range(10_000), strict=True))


# Tries that give their slot back


@pytest.fixture
def sensor(database: Database) -> tuple[int, int]:
    """A sensor that was claimed and has looked once: its key, and its executor's."""
    _, (pk,) = create(database, [TaskFacts("sensor", [], "all_success")])
    me = executor(database)
    with database.write() as session:
        recording.claim(session, [(pk, 1)], me)
        recording.record_started(session, [(pk, 1, 100, 1)], me)
    return pk, me


def look_again(database: Database, pk: int, me: int, *, began: int, due: int) -> set[int]:
    with database.write() as session:
        ended = TryEnded(pk, 1, S.UP_FOR_RESCHEDULE, None, None, began, began + 5, due)
        return recording.record_ended(session, [ended], me)


def test_a_sensor_that_looks_again_is_the_same_try(database: Database, sensor: tuple[int, int]) -> None:
    pk, me = sensor
    assert look_again(database, pk, me, began=100, due=900) == set()
    waiting = row(database, pk)
    assert (waiting["state"], waiting["try_number"], waiting["reschedules"]) == (S.UP_FOR_RESCHEDULE, 1, 0)
    assert waiting["due_at"] == tables.from_microseconds(900)
    other = executor(database)
    with database.write() as session:
        recording.reclaim(session, [(pk, 1)], other)
        recording.record_started(session, [(pk, 1, 905, 1)], other)
    again = row(database, pk)
    assert (again["state"], again["try_number"], again["reschedules"]) == (S.RUNNING, 1, 1)
    assert (again["executor_pk"], again["due_at"], again["ended_at"]) == (other, None, None)
    assert again["started_at"] == tables.from_microseconds(100), "the first look is its beginning"
    with database.write() as session:
        ended = TryEnded(pk, 1, S.SUCCESS, None, None, 905, 910, None)
        assert recording.record_ended(session, [ended], other) == set()
    over = row(database, pk)
    assert (over["started_at"], over["ended_at"]) == (tables.from_microseconds(100), tables.from_microseconds(910))
    with database.read() as session:
        assert session.execute(select(tables.TASK_TRY)).all() == []


def test_the_first_look_may_end_before_its_beginning_is_recorded(database: Database) -> None:
    _, (pk,) = create(database, [TaskFacts("sensor", [], "all_success")])
    me = executor(database)
    with database.write() as session:
        recording.claim(session, [(pk, 1)], me)
    look_again(database, pk, me, began=100, due=900)
    assert row(database, pk)["started_at"] == tables.from_microseconds(100)


def test_it_goes_on_from_queued_too(database: Database, sensor: tuple[int, int]) -> None:
    pk, me = sensor
    look_again(database, pk, me, began=100, due=900)
    with database.write() as session:
        recording.record_changes(session, [(pk, S.QUEUED, None)], 900)
        recording.reclaim(session, [(pk, 1)], me)
    assert (row(database, pk)["state"], row(database, pk)["reschedules"]) == (S.RUNNING, 1)


@pytest.mark.parametrize("state", sorted(set(S) - {S.QUEUED, S.UP_FOR_RESCHEDULE}))
def test_no_other_state_goes_on_as_the_same_try(database: Database, sensor: tuple[int, int], state: S) -> None:
    pk, me = sensor
    set_row(database, pk, state=state)
    before = row(database, pk)
    with database.write() as session:
        recording.reclaim(session, [(pk, 1)], me + 1)
    assert row(database, pk) == before


def test_another_try_does_not_go_on(database: Database, sensor: tuple[int, int]) -> None:
    pk, me = sensor
    look_again(database, pk, me, began=100, due=900)
    before = row(database, pk)
    with database.write() as session:
        recording.reclaim(session, [(pk, 2)], me)
        recording.reclaim(session, [], me)
    assert row(database, pk) == before


def test_a_look_that_was_taken_over_is_lost(database: Database, sensor: tuple[int, int]) -> None:
    pk, me = sensor
    assert look_again(database, pk, me + 1, began=100, due=900) == {pk}
    assert row(database, pk)["state"] is S.RUNNING


def test_a_new_try_begins_anew(database: Database, sensor: tuple[int, int]) -> None:
    pk, me = sensor
    look_again(database, pk, me, began=100, due=900)
    with database.write() as session:
        recording.reclaim(session, [(pk, 1)], me)
        failed = TryEnded(pk, 1, S.UP_FOR_RETRY, EndReason.ERROR, "no", 905, 910, 2000)
        recording.record_ended(session, [failed], me)
        recording.claim(session, [(pk, 2)], me)
        recording.record_started(session, [(pk, 2, 2001, 2)], me)
    again = row(database, pk)
    assert (again["try_number"], again["reschedules"]) == (2, 0)
    assert again["started_at"] == tables.from_microseconds(2001)
    with database.read() as session:
        (old,) = session.execute(select(tables.TASK_TRY)).all()
        assert (old.try_number, old.started_at) == (1, tables.from_microseconds(100))


# Labels


def test_a_label_is_kept_until_there_is_another(database: Database) -> None:
    _, (pk,) = create(database, [TaskFacts("each", [], "all_success", range(1))])
    me = executor(database)
    for number, label, kept in ((1, "day\x00 one", "day\\x00 one"), (2, None, "day\\x00 one"), (3, "two", "two")):
        with database.write() as session:
            recording.claim(session, [(pk, number)], me)
            ended = TryEnded(pk, number, S.UP_FOR_RETRY, EndReason.ERROR, "no", 1, 2, 3, label)
            recording.record_ended(session, [ended], me)
        assert row(database, pk)["rendered_map_index"] == kept


def test_a_row_that_is_inserted_by_hand_counts_from_zero(database: Database) -> None:
    run_pk, _ = create(database, [])
    values = {"run_pk": run_pk, "task_id": "a", "map_index": -1, "upstream": "[]", "trigger_rule": "all_success"}
    values |= {"state": S.PENDING, "generation": 0, "try_number": 0, "crashes": 0}
    with database.write() as session:
        session.execute(insert(tables.TASK_INSTANCE).values(values))
        assert session.scalar(select(TI.reschedules)) == 0


def test_an_error_without_a_try_is_kept_where_nothing_runs(database: Database) -> None:
    _, (failed, running) = create(database, [TaskFacts("a", [], "all_success"), TaskFacts("b", [], "all_success")])
    with database.write() as session:
        recording.claim(session, [(running, 1)], recording.record_executor(session, "token", "host", None, 1))
        recording.record_changes(session, [(failed, S.FAILED, EndReason.ERROR)], 5)
        recording.record_errors(session, [(failed, "too\x00 long"), (running, "no")])
        recording.record_errors(session, [])
    assert (row(database, failed)["state"], row(database, failed)["error"]) == (S.FAILED, "too\\x00 long")
    assert row(database, running)["error"] is None
