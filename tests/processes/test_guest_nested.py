"""Runs that tasks start: slots of their own, and no run that waits for itself."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, get_current_context, task
from tests.conftest import wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def as_dag(dag_id: str, db: str, body: Any, *args: object, **options: object) -> Dag:
    with Dag(dag_id, db_path=db, **options) as dag:  # type: ignore[arg-type]
        body(*args)
    return dag


@task
def slots_here(db: str, how: str) -> int:
    """How many slots a run in a task has: as many processes as hold one lock each."""
    if how == "service":
        with ExecutorService(db, dags=[]) as service:
            assert service._engine is not None
            return service._engine.size()
    with Dag("two", db_path=db) as dag:
        tell_slot.expand(n=[1, 2, 3, 4])
    return len({one.slot for one in dag.run(progress=False).task_instances()})


@task
def tell_slot(n: int) -> int:
    threading.Event().wait(0.05)
    return n


def test_a_run_in_a_task_has_one_slot_unless_it_says_how_many(db: str, tmp_path: Path) -> None:
    with Dag("outer", db_path=db) as dag:
        for where in (db, str(tmp_path / "other.db")):
            for how in ("service", "run"):
                slots_here(where, how)
    run = dag.run(progress=False, max_workers=2)
    assert [run.xcom(task_id) for task_id in dag.task_ids] == [1, 1, 1, 1]


@task
def inner(depth: int, db: str, path: str) -> int:
    """A run in a run in a run: each tells which process it is in, and the innermost waits."""
    Path(path, f"{depth}.pid").write_text(str(os.getpid()))
    if depth:
        run = as_dag(f"depth{depth}", db, inner, depth - 1, db, path).run(run_id="same", progress=False)
        return 1 + int(run.xcom("inner"))
    pause = threading.Event()
    while not os.path.exists(f"{path}/go"):
        pause.wait(0.005)
    return 0


def test_runs_go_two_levels_deep_with_one_run_id(db: str, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    run = as_dag("top", db, inner, 2, db, str(tmp_path)).run(run_id="same", progress=False)
    assert (run.state, run.xcom("inner")) == ("success", 2)


def test_the_slots_of_a_run_in_a_task_are_gone_with_the_outer_one(db: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other.db")
    dag = as_dag("top", db, inner.override(timeout=15, kill_grace_s=0), 2, other, str(tmp_path))
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        wait_until((tmp_path / "0.pid").exists, "the innermost task runs")
        handle.cancel()
        assert handle.wait(30).end_reason == "cancelled"
        pids = [int((tmp_path / f"{depth}.pid").read_text()) for depth in (0, 1, 2)]
        wait_until(lambda: not any(_is_there(pid) for pid in pids), "all three slots are gone", timeout_s=5)
    (tmp_path / "go").touch()
    again = as_dag("depth2", other, inner, 1, other, str(tmp_path)).run(run_id="same", progress=False)
    assert (again.state, again.xcom("inner")) == ("success", 1), "and their runs can be gone on with"


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@task
def start_in_between(db: str, thread: bool) -> str:
    """In its own thread, and in another one, which has no context of the task."""
    found: list[str] = []

    def run() -> None:
        with Dag("between", db_path=db) as dag:
            start_top(db)
        found.append(str(dag.run(run_id="b", progress=False).task_instance("start_top").error))

    if thread:
        other = threading.Thread(target=run)
        other.start()
        other.join()
    else:
        run()
    return found[0]


@task(timeout=20)
def start_top(db: str) -> str:
    return str(as_dag("top", db, start_in_between, db, False).run(run_id="t", progress=False).state)


@pytest.mark.parametrize("thread", [False, True])
def test_a_run_that_would_wait_for_itself_over_two_levels_is_an_error_that_names_the_cycle(
    db: str, thread: bool
) -> None:
    """It used to hang."""
    run = as_dag("top", db, start_in_between, db, thread).run(run_id="t", progress=False)
    assert "'top' would wait for itself" in run.xcom("start_in_between")
    assert "(top/t -> between/b -> top/t)" in run.xcom("start_in_between")


@task
def start_it_elsewhere(db: str) -> str:
    if not db:
        return "innermost"
    return str(as_dag("top", db, start_it_elsewhere, "").run(run_id="t", progress=False).xcom("start_it_elsewhere"))


def test_a_run_of_the_same_name_in_another_database_is_another_run(db: str, tmp_path: Path) -> None:
    run = as_dag("top", db, start_it_elsewhere, str(tmp_path / "other.db")).run(run_id="t", progress=False)
    assert run.xcom("start_it_elsewhere") == "innermost"


@task(timeout=20)
def start_another(db: str, limit: int) -> str:
    run_id = str(int(get_current_context()["run_id"]) + 1)
    if run_id == "3":
        return "innermost"
    dag = as_dag("limited", db, start_another, db, limit, max_active_runs=limit)
    return str(dag.run(run_id=run_id, progress=False).xcom("start_another"))


def test_a_run_that_would_wait_for_itself_through_max_active_runs_is_an_error(db: str, tmp_path: Path) -> None:
    """It used to hang."""
    dag = as_dag("limited", db, start_another, db, 1, max_active_runs=1)
    error = dag.run(run_id="1", progress=False).task_instance("start_another").error
    assert "would wait for itself: with max_active_runs=1 it begins when limited/1 is over" in error
    other = str(tmp_path / "other.db")
    dag = as_dag("limited", other, start_another, other, 2, max_active_runs=2)
    assert dag.run(run_id="1", progress=False).xcom("start_another") == "innermost"
