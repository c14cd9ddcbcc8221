"""`Dag.test()`: a whole run in this process, for tests and debuggers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from bdb import BdbQuit
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from liteflow import Dag, FailTask, SkipTask, get_current_context, setup, task, teardown
from liteflow.errors import InvalidOptionError, MetadataOnlyError, NotFoundError, ParamError
from liteflow.operators.python import PythonOperator
from tests.conftest import lines_of, states_of


def pipeline(**options: Any) -> Dag:
    """Three tasks, the middle one mapped."""
    with Dag("etl", **options) as dag:

        @task
        def extract() -> list[int]:
            return [1, 2, 3]

        @task
        def double(x: int) -> int:
            return 2 * x

        @task
        def load(xs: list[int]) -> int:
            return sum(xs)

        load(double.expand(x=extract()))
    return dag


# Where it runs


def test_it_leaves_nothing_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = pipeline(db_path=tmp_path / "etl.db").test()
    assert run.state == "success"
    assert run.xcom("load") == 12
    assert list(tmp_path.iterdir()) == []


def test_tasks_run_in_the_calling_thread_as_the_functions_that_they_are() -> None:
    held = threading.Lock()
    seen = []
    with Dag("here") as dag:

        @task
        def closure() -> None:
            with held:  # no worker could have it
                seen.append((os.getpid(), threading.current_thread()))

        closure()
    assert dag.test().state == "success"
    assert seen == [(os.getpid(), threading.current_thread())]


def test_a_run_can_be_read_for_as_long_as_it_is_held() -> None:
    first, second = pipeline().test(run_id="same"), pipeline().test(run_id="same", mock={"extract": []})
    assert (first.xcom("load"), first.refresh().run_id, len(first.task_instances())) == (12, "same", 5)
    assert states_of(second) == {"extract": "success", "double": "skipped", "load": "skipped"}


def test_several_threads_may_each_run_one() -> None:
    def go(number: int) -> tuple[int, list[str]]:
        with Dag(f"d{number}") as dag:

            @task
            def say() -> int:
                print(f"this is {number}")
                return number

            say()
        run = dag.test()
        return run.xcom("say"), list(lines_of(run))

    before = sys.stdout, list(logging.getLogger().handlers)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(go, range(20)))
    assert found == [(number, [f"this is {number}"]) for number in range(20)]
    assert (sys.stdout, list(logging.getLogger().handlers)) == before


def test_a_run_can_be_started_inside_one() -> None:
    with Dag("outer") as dag:

        @task
        def inner() -> int:
            print("before")
            total: int = pipeline().test().xcom("load")
            print("after")
            return total

        inner()
    run = dag.test()
    assert (run.xcom("inner"), lines_of(run)) == (12, ["before", "after"])


def test_it_changes_nothing_of_the_host() -> None:
    def facts() -> list[Any]:
        root = logging.getLogger()
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return [handlers, root.level, list(root.handlers), os.getcwd(), dict(os.environ), sys.stdout, sys.stderr]

    before = facts()
    pipeline().test()
    assert facts() == before


def test_it_may_be_called_while_a_dag_file_is_imported_and_in_an_event_loop() -> None:
    from liteflow.authoring.dagfile import loading

    with Dag("async") as dag:

        @task
        async def wait() -> str:
            await asyncio.sleep(0)
            return get_current_context()["run_id"]

        wait()

    async def main() -> Any:
        return dag.test(run_id="r").xcom("wait")

    with loading():
        assert dag.test(run_id="q").xcom("wait") == "q"
    assert asyncio.run(main()) == "r"


@pytest.mark.parametrize("error", [KeyboardInterrupt, BdbQuit])
def test_ctrl_c_and_the_end_of_a_debugger_leave_it(error: type[BaseException]) -> None:
    before = sys.stdout
    with Dag("stopped") as dag:

        @task(retries=3)
        def stop() -> None:
            raise error

        stop()
    with pytest.raises(error):
        dag.test()
    assert sys.stdout is before


def test_a_breakpoint_is_where_it_was_put(monkeypatch: pytest.MonkeyPatch) -> None:
    stops = []

    def stop() -> None:
        here = sys._getframe(1)
        stops.append((here.f_code.co_name, here.f_locals["x"], threading.current_thread()))

    monkeypatch.setattr(sys, "breakpointhook", stop)
    with Dag("stopped") as dag:

        @task
        def look(x: int) -> None:
            breakpoint()

        look(41)
    assert dag.test().state == "success"
    assert stops == [("look", 41, threading.current_thread())]


def test_a_dag_of_the_database_cannot_be_tested(db: str) -> None:
    pipeline(db_path=db).run(progress=False)
    with pytest.raises(MetadataOnlyError):
        Dag.load("etl", db).test()


# What is asked for


def test_params_and_dates_are_those_of_a_run() -> None:
    with Dag("params", params={"day": "monday"}) as dag:

        @task
        def tell(params: dict[str, Any], logical_date: datetime) -> Any:
            return params["day"], logical_date

        tell()
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert dag.test({"day": "friday"}, logical_date=moment).xcom("tell") == ("friday", moment)
    with pytest.raises(ParamError, match="did you mean 'day'"):
        dag.test({"dya": 1})


# Output


def test_output_goes_where_it_goes_anyway_and_into_the_log(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with Dag("talk") as dag:

        @task
        def talk() -> None:
            print("one", end=" ")
            print("two")
            logging.getLogger("mine").warning("careful\nvery")
            print("bad", file=sys.stderr, end="")

        talk()
    run = dag.test()
    assert tuple(capsys.readouterr()) == ("one two\n", "bad")
    assert caplog.messages == ["careful\nvery"]
    assert [(entry.level, entry.message) for entry in run.logs()] == [
        (None, "one two"),
        (30, "careful"),
        (30, "very"),
        (None, "bad"),
    ]


def test_a_warning_is_seen_where_logging_is_not_set_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler that listens is none for `logging` to be content with."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with Dag("talk") as dag:

        @task
        def talk() -> None:
            logging.getLogger("mine").warning("careful")

        talk()
    run = dag.test()
    assert capsys.readouterr().err == "careful\n"
    assert [(entry.level, entry.message) for entry in run.logs()] == [(30, "careful")]


def test_the_traceback_of_an_error_is_in_the_log() -> None:
    with Dag("wrong") as dag:

        @task
        def wrong() -> None:
            raise ValueError("no such thing")

        wrong()
    text = "\n".join(lines_of(dag.test()))
    assert text.startswith("Traceback (most recent call last):")
    assert "in wrong" in text
    assert text.endswith("ValueError: no such thing")


# Waiting takes no time


def test_a_retry_comes_after_its_delay_and_at_once() -> None:
    with Dag("retry", default_args={"retries": 2, "retry_delay": 300}) as dag:

        @task
        def flaky() -> int:
            return get_current_context()["try_number"]

        flaky()
    began = time.monotonic()
    run = dag.test(fail={"flaky": [OSError("first"), OSError]})
    assert time.monotonic() - began < 60
    assert run.xcom("flaky") == 3
    starts = [*(one.started_at for one in run.tries()), run.task_instance("flaky").started_at]
    waits = [after - before for before, after in pairwise(starts) if before and after]
    assert all(timedelta(minutes=5) <= wait < timedelta(minutes=5, seconds=30) for wait in waits)
    assert len(waits) == 2
    assert run.duration is not None
    assert run.duration >= timedelta(minutes=10)


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_a_sensor_looks_again_while_others_run(mode: str) -> None:
    looks: list[int] = []
    begun = Mock()
    with Dag("sense") as dag:

        @task.sensor(poke_interval=60, timeout=3600, mode=mode, on_execute_callback=begun)
        def ready() -> bool:
            looks.append(1)
            return bool(done) and len(looks) > 3

        @task
        def do() -> None:
            done.append(1)

        done: list[int] = []
        ready()
        do()
    run = dag.test()
    one = run.task_instance("ready")
    assert (one.state, one.try_number, len(looks)) == ("success", 1, 4)
    assert one.ended_at is not None
    assert one.ended_at - run.created_at >= timedelta(minutes=3)
    assert begun.call_count == (1 if mode == "poke" else 4)


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
@pytest.mark.parametrize(("soft_fail", "state"), [(False, "failed"), (True, "skipped")])
def test_the_time_of_a_sensor_is_over_at_once(mode: str, soft_fail: bool, state: str) -> None:
    with Dag("sense") as dag:

        @task.sensor(poke_interval=60, timeout=1800, mode=mode, soft_fail=soft_fail)
        def never() -> bool:
            return False

        never()
    run = dag.test()
    assert states_of(run) == {"never": state}
    assert run.duration is not None
    assert run.duration > timedelta(minutes=29)


def test_a_timeout_ends_a_sensor_that_waits_in_its_slot() -> None:
    with Dag("sense") as dag:

        @task.sensor(poke_interval=60, execution_timeout=90)
        def never() -> bool:
            return False

        never()
    one = dag.test().task_instance("never")
    assert (one.state, one.end_reason) == ("failed", "timeout")


def test_the_timeout_of_a_run_is_over_while_it_waits() -> None:
    with Dag("late", dagrun_timeout=100) as dag:

        @task(retries=1, retry_delay=300)
        def flaky() -> None:
            raise OSError

        @task.sensor(poke_interval=30)
        def never() -> bool:
            return False

        flaky()
        never()
    run = dag.test()
    assert (run.state, run.end_reason) == ("failed", "timeout")
    assert run.duration is not None
    assert timedelta(seconds=99) < run.duration < timedelta(seconds=130)
    assert states_of(run)["never"] == "failed"


# In place of functions


def test_a_mocked_task_hands_on_the_value_and_is_not_called() -> None:
    run = pipeline().test(mock={"extract": [10, 20], "double": 7})
    assert (run.xcom("extract"), run.xcom("double"), run.xcom("load")) == ([10, 20], [7, 7], 14)


def test_a_mock_that_can_be_called_gets_the_arguments() -> None:
    mock = Mock(side_effect=[5, 6, 7])
    assert pipeline().test(mock={"double": mock}).xcom("load") == 18
    assert [call.kwargs or call.args for call in mock.call_args_list] == [{"x": 1}, {"x": 2}, {"x": 3}]


def test_the_mock_of_an_operator_gets_the_context() -> None:
    with Dag("classic") as dag:
        PythonOperator(task_id="call", python_callable=lambda: 1)
    assert dag.test().xcom("call") == 1
    assert dag.test(mock={"call": lambda context: context["ti"].task_id}).xcom("call") == "call"


def test_mocked_branches_short_circuits_sensors_and_commands_decide_by_the_value() -> None:
    with Dag("decide") as dag:

        @task.branch
        def choose() -> str:
            return "left"

        @task.short_circuit
        def go_on() -> bool:
            return True

        @task.sensor(timeout=10, poke_interval=5)
        def ready() -> bool:
            return True

        @task.bash
        def command() -> str:
            return "exit 1"

        @task(multiple_outputs=True)
        def several() -> dict[str, int]:
            raise OSError

        def end(task_id: str) -> Any:
            return task(lambda: None).override(task_id=task_id)()

        choose() >> [end("left"), end("right")]
        go_on() >> end("on")
        ready() >> end("then")
        command()
        several()
    mock = {"choose": "right", "go_on": 0, "ready": False, "command": "exit 0", "several": {"a": 1, "b": 2}}
    run = dag.test(mock=mock)
    assert states_of(run) == {
        "choose": "success",
        "left": "skipped",
        "right": "success",
        "go_on": "success",
        "on": "skipped",
        "ready": "failed",
        "then": "upstream_failed",
        "command": "success",
        "several": "success",
    }
    assert (run.xcom("command"), run.xcom("several", "b")) == ("exit 0", 2)
    assert states_of(dag.test(mock={**mock, "ready": True, "go_on": 1}))["on"] == "success"


def test_a_mock_that_cannot_be_stored_fails_its_task() -> None:
    run = pipeline().test(mock={"extract": [threading.Lock()]})
    assert states_of(run)["extract"] == "failed"
    assert "cannot be stored" in (run.task_instance("extract").error or "")


def test_errors_are_raised_try_by_try() -> None:
    with Dag("tries", default_args={"retries": 2}) as dag:

        @task
        def load() -> int:
            return get_current_context()["try_number"]

        load()
    run = dag.test(fail={"load": [TimeoutError("too slow"), None]})
    assert (run.xcom("load"), [one.error for one in run.tries()]) == (2, ["TimeoutError: too slow"])
    assert dag.test(mock={"load": "m"}, fail={"load": [OSError]}).xcom("load") == "m"
    assert states_of(dag.test(fail={"load": [FailTask("no")]})) == {"load": "failed"}
    assert states_of(dag.test(fail={"load": [SkipTask]})) == {"load": "skipped"}
    assert dag.test(fail={"load": [OSError] * 3}).task_instance("load").try_number == 3


def test_what_cannot_be_meant_is_refused() -> None:
    dag = pipeline()
    with pytest.raises(NotFoundError, match="mock: dag 'etl' has no task 'extrct' .did you mean 'extract'"):
        dag.test(mock={"extrct": 1})
    with pytest.raises(NotFoundError, match="fail: .* no task 'lod' .did you mean 'load'"):
        dag.test(fail={"lod": [None]})
    wrong: list[dict[str, Any]] = [
        {"mock": ["extract"]},
        {"fail": {"load": OSError()}},
        {"fail": {"load": [OSError, "no"]}},
        {"fail": {"load": [int]}},
    ]
    for given in wrong:
        with pytest.raises(InvalidOptionError, match=next(iter(given))):
            dag.test(**given)


# The rules of real runs


def test_callbacks_setups_pools_and_values_of_others_work() -> None:
    called: list[Any] = []
    with Dag(
        "rules", max_active_tasks=1, retain_runs=1, on_failure_callback=lambda context: called.append(context["reason"])
    ) as dag:

        @setup
        def make() -> str:
            return "made"

        @teardown
        def remove(what: str) -> None:
            called.append(f"removed {what}")

        @task(pool="narrow", pool_slots=200, depends_on_past=True)
        def pull() -> Any:
            return get_current_context()["ti"].xcom_pull("make")

        @task(on_failure_callback=[lambda context: called.append(type(context["exception"]))])
        def fail() -> None:
            raise ValueError

        made = make()
        with remove(made).as_teardown(setups=made):
            pull() >> fail()
    run = dag.test()
    assert (run.state, run.xcom("pull")) == ("failed", "made")
    assert called[2:] == ["task_failure"]
    assert set(called[:2]) == {ValueError, "removed made"}


def test_fail_fast_ends_the_run() -> None:
    with Dag("fast", fail_fast=True) as dag:
        one = task(lambda: None)
        task(lambda: 1 / 0).override(task_id="wrong", priority_weight=9)()
        one.override(task_id="later")()
    run = dag.test()
    assert (run.end_reason, states_of(run)) == ("fail_fast", {"wrong": "failed", "later": "skipped"})
