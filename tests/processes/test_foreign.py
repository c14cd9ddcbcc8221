"""A `concurrent.futures.Executor` in the place of slots."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from liteflow import Dag, ExecutorService, task
from liteflow.errors import RunInterruptedError, ServiceError
from liteflow.execution.calling import Payload
from liteflow.execution.foreign import ForeignEngine
from liteflow.execution.mixed import MixedEngine
from liteflow.execution.threads import ThreadEngine
from liteflow.states import EndReason
from tests.conftest import lines_of, states_of


@pytest.mark.parametrize("kind", [ThreadEngine, ForeignEngine])
def test_nothing_begins_any_more_once_what_runs_is_killed(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the lease of the service is lost while its own thread waits: others may begin the same."""
    began: list[Any] = []
    monkeypatch.setattr("liteflow.execution.threads.load", lambda _code: began.append)
    monkeypatch.setattr("liteflow.execution.threads.call", lambda function, *_facts, **_more: function(1))
    monkeypatch.setattr("liteflow.execution.foreign.run_there", lambda *_facts: began.append(1))
    job = MagicMock(timeout_s=None, kill_reason=None, started_at=None, payload=range(len(Payload._fields)))
    hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold.wait, 30)
        engine = MixedEngine(kind(executor=pool, count=1), None, {})
        engine.submit(engine.vacancies()[0], [job])
        engine.kill()
        hold.set()
    assert not began


@task
def one() -> int:
    print("one prints")
    return 1


@task
def add(x: int, y: int) -> int:
    return x + y


@task(retries=1)
def fail() -> None:
    raise ValueError("broken on purpose")


@task(timeout=0.2)
def overrun(seconds: float) -> None:
    threading.Event().wait(seconds)


@task
def die() -> None:
    os._exit(3)


def pool_of(count: int) -> ProcessPoolExecutor:
    """Processes that have this file loaded when they begin."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(count, mp_context=context)


@pytest.fixture(params=["processes", "threads"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "threads":
        with ThreadPoolExecutor(2) as threads:
            yield threads
    else:
        with pool_of(2) as processes:
            yield processes


def test_a_diamond(db: str, executor: Executor) -> None:
    with Dag("diamond", db_path=db) as dag:
        top = one()
        add.override(task_id="bottom")(add(top, 1), add(top, 2))
    run = dag.run(progress=False, executor=executor)
    assert run.state == "success"
    assert run.xcom("bottom") == 5
    assert lines_of(run, "one") == ["one prints"]


def test_a_failing_dag(db: str, executor: Executor) -> None:
    with Dag("failing", db_path=db) as dag:
        one() >> fail() >> one.override(task_id="below")()
        one.override(task_id="sibling")()
    run = dag.run(progress=False, executor=executor)
    assert states_of(run) == {"one": "success", "fail": "failed", "below": "upstream_failed", "sibling": "success"}
    assert run.task_instance("fail").error == "ValueError: broken on purpose"
    assert run.task_instance("fail").try_number == 2
    assert any("raise ValueError" in line for line in lines_of(run, "fail"))


def test_a_timeout_fences_what_the_executor_cannot_stop(db: str) -> None:
    with Dag("slow", db_path=db) as dag:
        overrun(1.0) >> one()
        add(1, 2)
    with ThreadPoolExecutor(2) as threads:
        began = time.monotonic()
        run = dag.run(progress=False, executor=threads)
        assert time.monotonic() - began < 0.9, "the run does not wait for the thread"
    assert states_of(run) == {"overrun": "failed", "one": "upstream_failed", "add": "success"}
    assert run.task_instance("overrun").end_reason == "timeout"
    assert dag.runs()[0].task_instance("overrun").state == "failed", "the late result changes nothing"


def test_a_broken_pool_ends_the_run(db: str) -> None:
    with Dag("broken", db_path=db) as dag:
        die()
    with pool_of(1) as pool:
        run = dag.run(progress=False, executor=pool)
    assert run.state == "failed"
    assert run.task_instance("die").end_reason == "crashed"


def test_the_executor_is_not_shut_down(db: str) -> None:
    with Dag("twice", db_path=db) as dag:
        one()
    with ThreadPoolExecutor(1) as threads:
        with ExecutorService(db, executor=threads) as service:
            assert service.submit(dag).wait().state == "success"
        assert threads.submit(len, "x").result() == 1


# Pools that break


@task
def die_once(path: str) -> str:
    """Kill the worker at the first try, once another task has begun."""
    if os.path.exists(f"{path}.died"):
        return "alive"
    wait_for_file(f"{path}.begun")
    open(f"{path}.died", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


@task(retries=0)
def stay(path: str) -> str:
    if os.path.exists(f"{path}.died"):
        return "done"
    open(f"{path}.begun", "w").close()
    wait_for_file(f"{path}.never")
    return "never"


def wait_for_file(path: str) -> None:
    pause = threading.Event()
    while not os.path.exists(path):
        pause.wait(0.005)


def test_when_a_pool_breaks_nobody_is_blamed_and_the_run_can_be_resumed(db: str, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    with Dag("breaks", db_path=db) as dag:
        one() >> [die_once(path), stay(path)] >> one.override(task_id="last")()
    with pool_of(2) as pool:
        with pytest.raises(RunInterruptedError, match="its executor is broken .*BrokenProcessPool: .*dag.resume"):
            dag.run(progress=False, executor=pool, run_id="r")
        with pytest.raises(RunInterruptedError, match="its executor is broken"):
            dag.resume("r", progress=False, executor=pool)
    with pool_of(2) as pool:
        run = dag.resume("r", progress=False, executor=pool)
    assert set(states_of(run).values()) == {"success"}
    assert run.xcom("die_once") == "alive"
    assert run.task_instance("one").try_number == 1, "what had succeeded is kept"
    assert {(one.task_id, one.end_reason) for one in run.tries()} == {
        ("die_once", EndReason.CRASHED),
        ("stay", EndReason.CRASHED),
    }
    assert "its executor is broken" in str(run.tries()[0].error)


def test_the_only_task_in_a_pool_that_breaks_is_to_blame(db: str, tmp_path: Path) -> None:
    with Dag("blamed", db_path=db) as dag:
        die.override(retries=1)() >> one()
    with (
        pool_of(1) as pool,
        pytest.raises(RunInterruptedError, match="its executor is broken"),
    ):
        dag.run(progress=False, executor=pool, run_id="r")
    assert states_of(dag.runs()[0]) == {"die": "queued", "one": "pending"}
    with pool_of(1) as pool:
        run = dag.resume("r", progress=False, executor=pool)
    assert states_of(run) == {"die": "failed", "one": "upstream_failed"}
    assert run.task_instance("die").try_number == 2, "the retry was used, and there is no other"


def test_a_service_whose_pool_broke_says_so(db: str) -> None:
    with Dag("first", db_path=db) as dag:
        die() >> one()
        add(1, 2)
    with (
        pool_of(1) as pool,
        ExecutorService(db, executor=pool) as service,
    ):
        with pytest.raises(RunInterruptedError):
            service.submit(dag).wait(timeout=30)
        with pytest.raises(ServiceError, match="the service has ended: its executor is broken"):
            service.submit(dag)


def call_back(context: Any) -> None:
    print("called")


def test_a_callback_that_is_due_when_a_pool_breaks_is_called_later(db: str) -> None:
    with Dag("called", db_path=db, on_failure_callback=call_back) as dag:
        die()
    with (
        pool_of(1) as pool,
        pytest.raises(RunInterruptedError),
    ):
        dag.run(progress=False, executor=pool, run_id="r")
    run = dag.resume("r", progress=False)
    assert run.state == "failed"
    assert "called" in lines_of(run)


# What is no executor


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        ("threds", "executor='threds': there is none of that name (did you mean 'threads'?)"),
        ("celery", "there is none of that name; there are processes, threads, dask://HOST:PORT"),
        ("dask://", "lacks the address of the scheduler: dask://HOST:PORT"),
        (7, "executor=7 is no concurrent.futures.Executor, nor the name of one: processes, threads, dask"),
    ],
)
def test_what_is_no_executor_is_refused_at_once(db: str, executor: Any, words: str) -> None:
    with pytest.raises(ServiceError) as caught:
        ExecutorService(db, executor=executor)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not os.path.exists(db)


def test_without_dask_it_is_said_how_to_have_it(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liteflow.execution.executors.find_spec", lambda _name: None)
    with pytest.raises(ServiceError, match=r"Dask is not installed; pip install 'liteflow\[dask\]'"):
        ExecutorService(db, executor="dask://localhost:8786")


def test_processes_are_the_slots(db: str) -> None:
    with Dag("slots", db_path=db) as dag:
        one()
    run = dag.run(progress=False, executor="processes")
    assert (run.state, lines_of(run)) == ("success", ["one prints"])
