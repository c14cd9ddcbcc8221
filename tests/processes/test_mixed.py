"""Tasks that say what is to run them: threads beside slots."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, get_current_context, task
from liteflow.errors import DagError
from tests.conftest import lines_of, states_of, wait_until


@task
def where() -> tuple[int, str]:
    print("somewhere")
    return os.getpid(), threading.current_thread().name


@task(executor="threads")
def in_thread(*_: Any) -> tuple[int, str]:
    print("in a thread")
    return os.getpid(), threading.current_thread().name


def threads_of_liteflow() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("liteflow-task")]


def test_tasks_run_where_they_say(db: str) -> None:
    with Dag("both", db_path=db) as dag:
        top = where()
        under = in_thread.override(task_id="under")(top)
        in_thread.override(task_id="elsewhere", executor="processes")(under)
    run = dag.run(progress=False)
    assert run.state == "success"
    assert run.xcom("where")[0] != os.getpid()
    assert run.xcom("under")[0] == os.getpid()
    assert run.xcom("elsewhere")[0] != os.getpid()
    assert (lines_of(run, "where"), lines_of(run, "under")) == (["somewhere"], ["in a thread"])


def test_with_threads_for_the_rest_a_task_may_have_a_slot(db: str) -> None:
    with Dag("turned", db_path=db) as dag:
        top = where()
        in_thread.override(task_id="slot", executor="processes")(top)
        in_thread.override(task_id="thread")(top)
    for executor in ("threads", ThreadPoolExecutor(2)):
        run = dag.run(progress=False, executor=executor)
        assert [run.xcom(name)[0] == os.getpid() for name in ("where", "slot", "thread")] == [True, False, True]
        if isinstance(executor, ThreadPoolExecutor):
            assert run.xcom("thread")[1].startswith("ThreadPoolExecutor"), "its threads are the threads"
            executor.shutdown()


def test_without_thread_tasks_there_are_no_threads(db: str) -> None:
    with Dag("plain", db_path=db) as plain:
        where()
    with Dag("threads", db_path=db) as other:
        in_thread()
    with ExecutorService(db, max_workers=1) as service:
        service.submit(plain).wait(timeout=30)
        assert threads_of_liteflow() == []
        service.submit(other).wait(timeout=30)
        assert len(threads_of_liteflow()) == 1
    wait_until(lambda: not threads_of_liteflow(), "threads that end with their service")


def test_default_args_and_options_are_checked(db: str) -> None:
    with Dag("defaults", db_path=db, default_args={"executor": "threads"}) as dag:
        where()
        where.override(task_id="slot", executor="processes")()
        where.override(task_id="none", executor=None)()
    assert [one.options.executor for one in dag.tasks] == ["threads", "processes", None]
    with pytest.raises(DagError, match=r"test_mixed\.py:\d+: option executor='celery' must be \"processes\" or"):
        task(where.function, executor="celery")


def test_in_a_test_they_run_like_all_others(db: str) -> None:
    with Dag("in_test", db_path=db) as dag:
        in_thread(where())
    run = dag.test()
    assert run.xcom("in_thread") == run.xcom("where") == (os.getpid(), "MainThread")


# Choosing

begun: list[str] = []


@task
def wait_for(path: str) -> None:
    pause = threading.Event()
    while not os.path.exists(path):
        pause.wait(0.005)


@task(executor="threads")
def note(gate: str | None = None) -> None:
    begun.append(get_current_context()["ti"].task_id)
    if gate is not None:
        wait_for.function(gate)


def test_a_full_engine_does_not_hold_up_the_other(db: str, tmp_path: Path) -> None:
    """The one slot is taken by what has the greatest weight of all, and threads go on."""
    with Dag("full", db_path=db) as dag:
        for number in range(2):
            wait_for.override(task_id=f"held_{number}", priority_weight=100)(str(tmp_path / "go"))
        for number in range(50):
            in_thread.override(task_id=f"t{number}")()
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        wait_until(
            lambda: all(state == "success" for name, state in states_of(handle.run).items() if name[0] == "t"),
            "the threads",
        )
        assert sorted(states_of(handle.run)[f"held_{number}"] for number in range(2)) == ["queued", "running"]
        (tmp_path / "go").touch()
        assert handle.wait(timeout=30).state == "success"


def test_a_pool_is_shared_by_weight_whatever_runs_the_tasks(db: str, tmp_path: Path) -> None:
    begun.clear()
    with Dag("pool", db_path=db, default_args={"pool": "narrow"}) as dag:
        note.override(task_id="first", priority_weight=50)(str(tmp_path / "go"))
        for number in range(3):
            note.override(task_id=f"thread_{number}", priority_weight=10 - 2 * number)()
            where.override(task_id=f"slot_{number}", priority_weight=9 - 2 * number)()
    with ExecutorService(db, max_workers=2, pools={"narrow": 1}) as service:
        handle = service.submit(dag)
        wait_until(lambda: begun == ["first"], "the first one")
        assert list(states_of(handle.run).values()).count("running") <= 1
        (tmp_path / "go").touch()
        run = handle.wait(timeout=30)
    order = sorted(run.task_instances(), key=lambda one: one.started_at)
    names = [f"{kind}_{number}" for number in range(3) for kind in ("thread", "slot")]
    assert [one.task_id for one in order] == ["first", *names]


def test_runs_of_a_greater_priority_go_first_in_each_engine(db: str, tmp_path: Path) -> None:
    with ExecutorService(db, max_workers=1, executor="threads", pools={"narrow": 1}) as service:
        handles = []
        for priority in (7, 0, 5):
            with Dag(f"p{priority}", default_args={"pool": "narrow"}) as dag:
                for executor in ("threads", "processes"):
                    name = f"{executor}_{priority}"
                    wait_for.override(task_id=name, executor=executor, priority_weight=len(executor))(
                        str(tmp_path / "go")
                    )
            handles.append(service.submit(dag, priority=priority))
        wait_until(lambda: "running" in states_of(handles[0].run).values(), "the first one")
        (tmp_path / "go").touch()
        ended = [handle.wait(timeout=30) for handle in handles]
    order = sorted((one for run in ended for one in run.task_instances()), key=lambda one: one.started_at)
    names = [f"{executor}_{priority}" for priority in (7, 5, 0) for executor in ("processes", "threads")]
    assert [one.task_id for one in order] == names


def test_max_active_tasks_counts_both(db: str, tmp_path: Path) -> None:
    with Dag("limit", db_path=db, max_active_tasks=1) as dag:
        for number in range(4):
            one_at_a_time.override(task_id=f"a{number}", executor=("threads", "processes")[number % 2])(
                str(tmp_path / "alone")
            )
    assert dag.run(progress=False).state == "success"


@task
def one_at_a_time(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    os.unlink(path)


def test_many_tiny_tasks_of_both(db: str) -> None:
    with Dag("many", db_path=db) as dag:
        numbers = list(range(100))
        square.override(task_id="slot").expand(x=numbers)
        square.override(task_id="thread", executor="threads").expand(x=numbers)
    run = dag.run(progress=False, max_workers=2)
    assert run.xcom("slot") == run.xcom("thread") == [x * x for x in range(100)]


@task
def square(x: int) -> int:
    return x * x


def test_a_cancel_ends_both(db: str, tmp_path: Path) -> None:
    with Dag("cancel", db_path=db) as dag:
        wait_for.override(task_id="slot", kill_grace_s=0.1)(str(tmp_path / "go"))
        note.override(task_id="thread")(str(tmp_path / "go"))
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        wait_until(lambda: set(states_of(handle.run).values()) == {"running"}, "both")
        handle.cancel()
        run = handle.wait(timeout=30)
    (tmp_path / "go").touch()
    assert {one.task_id: str(one.end_reason) for one in run.task_instances()} == {
        "slot": "cancelled",
        "thread": "cancelled",
    }


AIRFLOW = """
from airflow.sdk import DAG, task
from liteflow.operators import EmptyOperator

@task(executor="CeleryExecutor")
def one():
    import threading
    return threading.current_thread().name

@task(executor="threads")
def two():
    import threading
    return threading.current_thread().name

with DAG("for_airflow", default_args={"executor": "LocalExecutor"}) as dag:
    one() >> two()
"""


def test_the_executors_of_airflow_mean_nothing_and_that_is_said(tmp_path: Path) -> None:
    from tests.conftest import liteflow

    (tmp_path / "flow.py").write_text(AIRFLOW)
    done = liteflow("run", "flow.py", "--db", "d.db", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "means nothing here: executor='CeleryExecutor'" in done.stderr
    assert liteflow("xcom", "for_airflow", "one", "--db", "d.db", cwd=tmp_path).stdout.count("MainThread") == 1
    assert liteflow("xcom", "for_airflow", "two", "--db", "d.db", cwd=tmp_path).stdout.count("liteflow-task") == 1
