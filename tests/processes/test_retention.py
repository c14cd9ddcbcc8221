"""`Dag(retain_runs=..., retain_days=...)`: old runs go after a run has ended, and nothing else suffers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from liteflow import Dag, ExecutorService, task
from liteflow.errors import StorageError
from liteflow.execution import retention
from liteflow.states import RunState
from liteflow.storage import pruning
from liteflow.storage.checking import check
from liteflow.storage.schema import open_database
from liteflow.storage.tables import EXECUTOR
from tests.conftest import Script, command, liteflow, wait_until
from tests.pasts import dead_executor, make_run, run_ids

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@task
def work(fail: bool = False) -> str:
    print("working")
    if fail:
        raise ValueError("as it was told")
    return "done"


def dag_of(db: str, **options: Any) -> Dag:
    with Dag("etl", db_path=db, params={"fail": False}, **options) as dag:
        work(dag.param("fail"))
    return dag


def ids_in(db: str) -> list[str]:
    with closing(open_database(db)) as database:
        return run_ids(database)


def past_of(db: str, *days_ago: float, **options: Any) -> None:
    """Runs of `etl` that old, named by their age."""
    database = open_database(db, create=True)
    executor_pk = dead_executor(database)
    for days in days_ago:
        make_run(database, executor_pk, f"old{days:g}", days_ago=days, **options)
    database.close()


def test_the_newest_runs_are_kept(db: str) -> None:
    dag = dag_of(db, retain_runs=2)
    for number in range(4):
        run = dag.run(run_id=f"r{number}", max_workers=1)
        assert run.refresh().state is RunState.SUCCESS
    assert ids_in(db) == ["r2", "r3"]
    assert check(db) == []


def test_failed_ones_go_too_and_the_one_that_just_ended_stays(db: str) -> None:
    dag = dag_of(db, retain_runs=1)
    dag.run({"fail": True}, run_id="bad", max_workers=1)
    assert ids_in(db) == ["bad"]
    dag.run(run_id="good", max_workers=1)
    assert ids_in(db) == ["good"]


def test_runs_that_ended_too_long_ago_go(db: str) -> None:
    past_of(db, 40, 31, 29, 1)
    dag_of(db, retain_days=30).run(run_id="new", max_workers=1)
    assert ids_in(db) == ["old29", "old1", "new"]


def test_runs_of_other_dags_and_what_is_not_over_stay(db: str) -> None:
    past_of(db, 50, 49, dag_id="other")
    past_of_interrupted(db)
    dag_of(db, retain_runs=1).run(run_id="new", max_workers=1)
    assert ids_in(db) == ["old50", "old49", "interrupted", "new"]


def past_of_interrupted(db: str) -> None:
    database = open_database(db)
    make_run(database, dead_executor(database, "killed"), "interrupted", days_ago=9, state=RunState.RUNNING)
    database.close()


def test_without_limits_all_stay_and_nothing_is_asked(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(pruning, "due_runs_of", lambda *_args, **_more: asked.append("asked") or [])
    past_of(db, 900, 800)
    dag_of(db).run(run_id="new", max_workers=1)
    assert (ids_in(db), asked) == (["old900", "old800", "new"], [])
    dag_of(db, retain_runs=1).run(run_id="newer", max_workers=1)
    assert asked


def test_a_service_prunes_while_it_is_idle(db: str) -> None:
    past_of(db, *range(10, 40))
    with ExecutorService(db, max_workers=1) as service:
        service.submit(dag_of(db, retain_runs=3), run_id="new").wait()
        wait_until(lambda: len(ids_in(db)) == 3, "the old runs are gone")
    assert ids_in(db) == ["old11", "old10", "new"]


def test_runs_whose_handles_are_held_can_still_be_waited_for(db: str) -> None:
    dag = dag_of(db, retain_runs=1)
    with ExecutorService(db, max_workers=1) as service:
        handles = [service.submit(dag, run_id=f"r{number}") for number in range(4)]
        assert handles[-1].wait().state is RunState.SUCCESS
        assert [handle.wait().run_id for handle in handles] == ["r0", "r1", "r2", "r3"]


def test_what_does_not_fit_into_the_time_is_left_for_the_next_run(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    past_of(db, 3, 2, mapped=2_000)
    dag = dag_of(db, retain_runs=1)
    with monkeypatch.context() as patch:
        patch.setattr(retention, "AT_END_S", 0.0)
        patch.setattr(retention, "SHARE_AT_END", 0.0)
        began = time.monotonic()
        dag.run(run_id="new", max_workers=1)
        assert time.monotonic() - began < 30
        assert ids_in(db)[-2:] == ["old2", "new"], "there was time for what is done between two turns, at the most"
    wait_until(lambda: dag.run(max_workers=1) and len(ids_in(db)) == 1, "the next runs finish it")
    assert check(db) == []


def test_an_error_is_a_warning_and_the_run_went_well(
    db: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    past_of(db, 3, 2)

    def fail(*_args: object, **_more: object) -> int:
        raise StorageError("the disk is full", path=db)

    monkeypatch.setattr(pruning, "delete_some", fail)
    with caplog.at_level(logging.WARNING, logger="liteflow"):
        assert dag_of(db, retain_runs=1).run(run_id="new", max_workers=1).state is RunState.SUCCESS
    assert "old runs could not be deleted, which the next run tries again: the disk is full" in caplog.text
    assert ids_in(db) == ["old3", "old2", "new"]


@pytest.mark.sqlite("about the file of the database")
def test_the_file_stays_small(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "FREE_PAGES", 16)
    past_of(db, 3, value=b"x" * 1_000_000)
    before = Path(db).stat().st_size
    assert before > 3_000_000
    dag_of(db, retain_runs=1).run(run_id="new", max_workers=1)
    assert Path(db).stat().st_size < before / 2


def test_rows_of_executors_do_not_grow_for_ever(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "EXECUTORS_EVERY", 2)
    dag = dag_of(db, retain_runs=1)
    for _ in range(3):
        dag.run(max_workers=1)
    with closing(open_database(db)) as database, database.read() as connection:
        assert len(connection.execute(select(EXECUTOR.c.id)).all()) < 3


def test_what_a_dag_said_is_recorded_and_loaded(db: str) -> None:
    dag_of(db, retain_runs=7, retain_days=1.5).run(max_workers=1)
    loaded = Dag.load("etl", db)
    assert (loaded.retain_runs, loaded.retain_days) == (7, 1.5)
    dag_of(db).run(max_workers=1)
    assert Dag.load("etl", db).retain_runs is None


def test_a_script_that_is_run_again_and_again(script: Callable[..., Script], tmp_path: Path) -> None:
    script(
        """
        from liteflow import Dag, task

        @task
        def work():
            print("working")

        with Dag("nightly", db_path="nightly.db", retain_runs=2) as dag:
            work()
    """.replace("\n        ", "\n")
    )
    for number in range(3):
        done = liteflow("run", "my_dag.py", "--run-id", f"n{number}", "-q", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    listed = command("runs", "--db", "nightly.db", cwd=tmp_path).stdout.splitlines()[1:]
    assert [line.split()[1] for line in listed] == ["n2", "n1"]
    assert run_ids(open_database(tmp_path / "nightly.db", pooled=False)) == ["n1", "n2"]
