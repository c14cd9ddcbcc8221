"""A `concurrent.futures.Executor` in the place of slots."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from liteflow import Dag, ExecutorService, task
from tests.conftest import lines_of, states_of


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


@pytest.fixture(params=["processes", "threads"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "threads":
        with ThreadPoolExecutor(2) as threads:
            yield threads
    else:
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
            yield processes


def test_a_diamond(db: str, executor: Executor) -> None:
    with Dag("diamond", db_path=db) as dag:
        top = one()
        add.override(task_id="bottom")(add(top, 1), add(top, 2))
    run = dag.run(progress=False, executor=executor)
    assert run.state == "success"
    assert run.xcom("bottom") == 5
    if isinstance(executor, ProcessPoolExecutor):
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
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
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
