"""Reading what happened: runs by name, values as they are stored, a session of one's own."""

from __future__ import annotations

import ast
import inspect

import pytest
from sqlalchemy import select, update

import liteflow
from liteflow import Dag, DagRun, ExecutorService
from liteflow.errors import AmbiguousRunError, DatabaseMissingError, MetadataOnlyError, NotFoundError, StorageError
from liteflow.states import EndReason, RunState, TaskInstanceState
from liteflow.storage import models, tables
from liteflow.storage.history import open_history
from liteflow.storage.recording import TryEnded, record_ended
from liteflow.storage.schema import open_database
from liteflow.storage.tables import TASK_INSTANCE as TI
from tests.conftest import beside
from tests.conftest import command as liteflow_command
from tests.integration.flows.giving import give


@pytest.fixture
def dag(db: str) -> Dag:
    with Dag("history", db_path=db, description="What was", tags=["a", "b"], params={"n": 1}) as dag:
        give(dag.param("n"))
    with ExecutorService(db, max_workers=1) as service:
        for run_id in ("nightly-1", "nightly-2", "other"):
            service.submit(dag, {"n": len(run_id)}, run_id=run_id).wait()
    return dag


def test_a_run_is_found_by_each_of_its_names(dag: Dag, db: str) -> None:
    history = open_history(db)
    assert history.find_run("history/nightly-1").run_id == "nightly-1"
    assert history.find_run("nightly-2").run_id == "nightly-2"
    assert history.find_run("oth").run_id == "other"
    assert history.find_run("history/oth").run_id == "other"
    assert history.find_run("history").run_id == "other", "a dag id is its latest run"
    with pytest.raises(AmbiguousRunError, match="history/nightly-2, history/nightly-1") as caught:
        history.find_run("night")
    assert len(caught.value.candidates) == 2
    with pytest.raises(NotFoundError, match=r"did you mean 'nightly-\d'"):
        history.find_run("nigthly-1")


def test_what_is_there_in_full_is_never_the_beginning_of_something_else(db: str) -> None:
    """A dag's id used to be taken for a run whose id begins with it, also for one of another dag."""
    dags = {}
    with ExecutorService(db, max_workers=1) as service:
        for dag_id, run_id in [
            ("etl", "one"),
            ("other", "etl-2026-11-28"),
            ("other", "latest-2"),
            ("other", "old"),
            ("etl", "Two"),
        ]:
            if dag_id not in dags:
                with Dag(dag_id, db_path=db) as dags[dag_id]:
                    give(1)
            service.submit(dags[dag_id], run_id=run_id).wait()
    history = open_history(db)

    def name(run: DagRun) -> str:
        return f"{run.dag_id}/{run.run_id}"

    assert name(history.find_run("etl")) == "etl/Two"
    assert name(history.find_run("etl-")) == "other/etl-2026-11-28"
    assert name(history.find_run("on")) == "etl/one"
    with pytest.raises(NotFoundError, match="'tw'"):
        history.find_run("tw")  # SQLite's LIKE would find it
    assert [name(history.find_run_of("etl", one)) for one in ("latest", "etl", "on", "etl/one")] == [
        "etl/Two",
        "etl/Two",
        "etl/one",
        "etl/one",
    ]
    with pytest.raises(NotFoundError, match="'etl' is a run of dag 'etl', not of 'other'"):
        history.find_run_of("other", "etl")
    with pytest.raises(AmbiguousRunError):
        history.find_run("o")
    assert name(history.find_run_of("other", "o")) == "other/old", "within its dag it is the only one"
    with pytest.raises(NotFoundError, match="'etl-2026-11-28' is a run of dag 'other', not of 'etl'"):
        history.find_run_of("etl", "etl-2026-11-28")
    done = liteflow_command("delete", "etl", "--yes", "--db", db, cwd=beside(db))
    assert done.stderr == "deleted run etl/Two\n"


def test_percent_and_underscore_are_no_wildcards(dag: Dag, db: str) -> None:
    for identifier in ("%", "_ther", "history/%"):
        with pytest.raises(NotFoundError):
            open_history(db).find_run(identifier)


def test_runs_are_listed_newest_first(dag: Dag) -> None:
    assert [run.run_id for run in dag.runs()] == ["other", "nightly-2", "nightly-1"]
    assert [run.run_id for run in dag.runs(limit=1)] == ["other"]
    assert dag.runs(state="failed") == []
    assert dag.latest_run().run_id == "other"


@pytest.mark.sqlite("a database in a server is there beforehand")
def test_a_dag_that_never_ran_has_no_runs(db: str) -> None:
    with Dag("never", db_path=db) as dag:
        give(1)
    assert dag.latest_run() is None
    assert dag.runs() == []
    with pytest.raises(DatabaseMissingError):
        open_history(db)


def test_a_loaded_dag_has_metadata_and_history_and_no_code(dag: Dag, db: str) -> None:
    loaded = Dag.load("history", db)
    assert (loaded.description, loaded.tags, loaded.params) == ("What was", ("a", "b"), {"n": 1})
    assert [run.run_id for run in loaded.runs()] == ["other", "nightly-2", "nightly-1"]
    assert loaded.latest_run().xcom("give") == [5]
    with pytest.raises(MetadataOnlyError, match="test_history.py"):
        loaded.run()
    with pytest.raises(NotFoundError, match="did you mean 'history'"):
        Dag.load("histroy", db)


def test_xcoms(dag: Dag) -> None:
    run = dag.latest_run()
    assert run.xcom("give") == [5]
    assert run.xcom("give", raw=True) == b"[5]"
    assert run.xcom("give", "no such key") is None
    assert [(one.key, one.encoding, one.size_bytes) for one in run.xcoms()] == [("return_value", "json", 3)]
    with pytest.raises(NotFoundError, match="has no task 'gvie'.*did you mean 'give'"):
        run.xcom("gvie")


def test_a_session_of_ones_own_reads_and_cannot_write(dag: Dag, db: str) -> None:
    with liteflow.read_session(db) as session:
        states = session.scalars(select(models.TaskInstance.state)).all()
        assert states == [TaskInstanceState.SUCCESS] * 3
    with pytest.raises(StorageError, match="readonly|read-only"), liteflow.read_session(db) as session:
        session.add(models.Pool(name="x", slots=1))
        session.flush()


def test_each_table_has_a_model_with_its_columns() -> None:
    mapped = {mapper.local_table: mapper.class_ for mapper in models.Base.registry.mappers}
    assert set(mapped) == set(tables.metadata.tables.values())
    for table, model in mapped.items():
        typed = [
            node.target.id for node in ast.walk(ast.parse(inspect.getsource(model))) if isinstance(node, ast.AnnAssign)
        ]
        assert typed == [column.name for column in table.columns], f"what a type checker reads of {model.__name__}"


def test_an_outcome_of_a_try_that_was_taken_over_is_dropped(dag: Dag, db: str) -> None:
    """The fence: owner, try number and state must all still be the writer's."""
    database = open_database(db, pooled=False)
    with database.write() as session:
        pk, owner = session.execute(select(TI.c.id, TI.c.executor_pk)).first() or (0, None)
        session.execute(update(TI).where(TI.c.id == pk).values(state=TaskInstanceState.RUNNING, try_number=2))

    def end(try_number: int, executor: int) -> set[int]:
        row = TryEnded(pk, try_number, TaskInstanceState.FAILED, EndReason.ERROR, "late", 1, 2, None)
        with database.write() as session:
            return record_ended(session, [row], executor)

    assert owner is not None
    assert end(1, owner) == {pk}, "an older try"
    assert end(2, owner + 1) == {pk}, "another executor"
    assert end(2, owner) == set()
    assert end(2, owner) == set(), "the same once more is no news"
    with database.read() as session:
        assert session.scalar(select(TI.c.error).where(TI.c.id == pk)) == "late"
    database.close()


def test_a_queued_run_can_be_drawn_and_cancelled(db: str) -> None:
    from liteflow.storage import recording

    database = open_database(db, create=True, pooled=False)
    with database.write() as session:
        dag_pk = recording.record_dag(session, recording.DagFacts("queued", None, (), "{}", None, "x"), 1)
        run_pk, _ = recording.create_run(
            session,
            dag_pk,
            run_id="q",
            logical_date=tables.from_microseconds(1),
            params_json="{}",
            structure_digest="x",
            tasks=[recording.TaskFacts("a", [], "all_success"), recording.TaskFacts("b", ["a"], "all_success")],
            executor_pk=None,
            now_us=1,
        )
    database.close()
    history = open_history(db)
    run = history.run(run_pk)
    assert (run.state, run.owner) == (RunState.QUEUED, None)
    drawn = liteflow_command("visualize", "queued", "--db", db, cwd=beside(db)).stdout
    assert [line.strip() for line in drawn.splitlines()][2:5] == [
        't0["a<br/>pending"]',
        't1["b<br/>pending"]',
        "t0 --> t1",
    ], "a run that has not begun is drawn too"
    run.cancel()
    run = run.refresh()
    assert (run.state, run.end_reason) == ("failed", "cancelled")
    assert {(one.state, one.end_reason) for one in run.task_instances()} == {("skipped", "cancelled")}
    run.cancel()
    assert run.refresh().ended_at == run.ended_at, "a run that is over stays as it is"


@pytest.fixture
def mapped(db: str) -> Dag:
    """A run whose task `each` was expanded behind `last`, by hand: states and values as an executor writes them."""
    from liteflow.storage import recording

    database = open_database(db, create=True, pooled=False)
    with database.write() as session:
        me = recording.record_executor(session, "token", "host", None, 1)
        dag_pk = recording.record_dag(session, recording.DagFacts("mapped", None, (), "{}", None, "x"), 1)
        each = recording.TaskFacts("each", ["first"], "all_success", pool="api", pool_slots=2)
        run_pk, (first, pk, last) = recording.create_run(
            session,
            dag_pk,
            run_id="m",
            logical_date=tables.from_microseconds(1),
            params_json="{}",
            structure_digest="x",
            tasks=[
                recording.TaskFacts("first", [], "all_success"),
                each,
                recording.TaskFacts("last", ["each"], "all_done"),
            ],
            executor_pk=me,
            now_us=1,
        )
        pks = recording.expand_instance(session, run_pk, pk, each, 4)
        recording.claim(session, [(one, 1) for one in [first, *pks]], me)
        failed = TryEnded(pks[2], 1, TaskInstanceState.FAILED, EndReason.ERROR, "no", 1, 2, None)
        record_ended(
            session,
            [
                failed,
                *(
                    TryEnded(one, 1, TaskInstanceState.SUCCESS, None, None, 1, 2, None, f"label {one - first}")
                    for one in (first, pks[0], pks[1], pks[3])
                ),
            ],
            me,
        )
        values = {first: b"1", pks[3]: b"13", pks[0]: b"10", pks[2]: b"12"}
        recording.store_xcoms(session, [(one, "return_value", "json", value) for one, value in values.items()])
        lines = [(pks[3], "three"), (pks[0], "zero"), (last, "end")]
        recording.store_logs(session, [(one, 1, 1, None, None, text) for one, text in lines])
    database.close()
    return Dag.load("mapped", db)


def test_an_expanded_task_stands_where_it_stood_before(mapped: Dag) -> None:
    found = [(one.task_id, one.map_index) for one in mapped.latest_run().task_instances()]
    assert found == [("first", -1), ("each", 0), ("each", 1), ("each", 2), ("each", 3), ("last", -1)]


def test_a_mapped_task_instance(mapped: Dag) -> None:
    one = mapped.latest_run().task_instance("each", 0)
    assert (one.rendered_map_index, one.pool, one.reschedules) == ("label 1", "api", 0)
    plain = mapped.latest_run().task_instance("last")
    assert (plain.rendered_map_index, plain.pool, plain.reschedules) == (None, None, 0)


def test_the_values_of_an_expanded_task_are_a_list(mapped: Dag) -> None:
    run = mapped.latest_run()
    assert run.xcom("each") == [10, None, 13], "of the successful ones, with None for the one that gave nothing"
    assert run.xcom("each", raw=True) == [b"10", None, b"13"]
    assert run.xcom("each", "no such key") == [None, None, None]
    assert [run.xcom("each", map_index=index) for index in range(4)] == [10, None, 12, 13]
    assert run.xcom("each", map_index=3, raw=True) == b"13"
    assert run.xcom("first") == 1
    assert run.xcom("last") is None


def test_xcoms_and_logs_of_a_mapped_task_are_those_of_all_its_instances(mapped: Dag) -> None:
    run = mapped.latest_run()
    assert [(one.map_index, one.data) for one in run.xcoms("each")] == [(0, b"10"), (2, b"12"), (3, b"13")]
    assert [one.task_id for one in run.xcoms()] == ["first", "each", "each", "each"]
    assert [(one.map_index, one.message) for one in run.logs("each")] == [(3, "three"), (0, "zero")]
    assert [one.message for one in run.logs("each", 3)] == ["three"]
    assert run.logs("each", map_index=1) == []
    assert [one.message for one in run.logs()] == ["three", "zero", "end"]


def test_a_map_index_that_there_is_not(mapped: Dag) -> None:
    run = mapped.latest_run()
    for look in (
        lambda: run.xcom("each", map_index=4),
        lambda: run.logs("each", 4),
        lambda: run.task_instance("each", 4),
        lambda: run.task_instance("each"),
    ):
        with pytest.raises(NotFoundError, match="task 'each' was expanded; name one of its map indexes, 0 to 3"):
            look()
    for look in (lambda: run.xcom("first", map_index=0), lambda: run.logs("first", 0)):
        with pytest.raises(NotFoundError, match="task 'first' was not expanded; it has no map index 0"):
            look()
    for look in (lambda: run.logs("eahc"), lambda: run.xcoms("eahc"), lambda: run.xcom("eahc", map_index=1)):
        with pytest.raises(NotFoundError, match="has no task 'eahc' \\(did you mean 'each'"):
            look()
    with pytest.raises(ValueError, match="map_index=1 needs a task_id"):
        run.logs(map_index=1)


def test_a_cancel_leaves_the_instances_of_a_mapped_task_that_are_over(mapped: Dag) -> None:
    run = mapped.latest_run()
    run.cancel()
    states = [one.state for one in run.task_instances()]
    assert states == ["success", "success", "success", "failed", "success", "skipped"]
