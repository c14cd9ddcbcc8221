"""Dags run for real: worker processes, a database file, and what both say afterwards."""

from __future__ import annotations

import os
import random
import threading
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, FailTask, SkipTask, get_current_context, task
from liteflow.errors import ParamError, RunConflictError, TransportError
from tests.conftest import lines_of, states_of

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@task
def one() -> int:
    return 1


@task
def add(x: int, y: int = 1) -> int:
    return x + y


@task
def fail(message: str = "broken on purpose") -> None:
    raise ValueError(message)


@task
def give(value: Any) -> Any:
    return value


def test_a_diamond_passes_its_values_along(db: str) -> None:
    with Dag("diamond", db_path=db) as dag:
        top = one()
        add.override(task_id="bottom")(add(top), add(top, 2))
    run = dag.run(progress=False)
    assert run.state == "success"
    assert states_of(run) == dict.fromkeys(["one", "add", "add__1", "bottom"], "success")
    assert run.xcom("bottom") == 5


@task(retries=1)
def die_first(try_number: int) -> None:
    if try_number == 1:
        os._exit(1)


def test_each_try_tells_its_slot_and_a_slot_that_is_replaced_keeps_its_place(db: str) -> None:
    with Dag("slots", db_path=db) as dag:
        die_first()
    run = dag.run(progress=False, max_workers=1)
    assert [(one.try_number, one.slot) for one in run.tries()] == [(1, 1)]
    assert [(one.try_number, one.slot) for one in run.task_instances()] == [(2, 1)]


def test_an_empty_dag_is_a_success(db: str) -> None:
    run = Dag("empty", db_path=db).run(progress=False)
    assert run.state == "success"
    assert run.task_instances() == []


def test_two_thousand_tasks_in_layers(db: str) -> None:
    chosen = random.Random(7)
    with Dag("layers", db_path=db) as dag:
        layer = [one() for _ in range(100)]
        for _ in range(19):
            layer = [add(chosen.choice(layer), chosen.choice(layer)) for _ in range(100)]
    run = dag.run(progress=False)
    instances = run.task_instances()
    assert run.state == "success"
    assert len(instances) == 2000
    assert {str(instance.state) for instance in instances} == {"success"}
    ended = {instance.task_id: instance.ended_at for instance in instances}
    for instance in instances:
        for upstream in instance.upstream:
            assert ended[upstream] <= instance.started_at, f"{instance.task_id} began before {upstream} had ended"


def test_a_failure_stops_its_descendants_and_nothing_else(db: str) -> None:
    with Dag("failing", db_path=db) as dag:
        top = one()
        bad = fail()
        top >> bad >> add.override(task_id="below")(top) >> one.override(task_id="further_below")()
        add.override(task_id="sibling")(top)
    run = dag.run(progress=False)
    assert run.state == "failed"
    assert states_of(run) == {
        "one": "success",
        "fail": "failed",
        "below": "upstream_failed",
        "further_below": "upstream_failed",
        "sibling": "success",
    }
    assert run.task_instance("fail").error == "ValueError: broken on purpose"
    assert run.task_instance("fail").end_reason == "error"
    assert any("raise ValueError(message)" in line for line in lines_of(run, "fail")), "the traceback is in the log"


@task(retries=3)
def third_time_lucky(path: str) -> int:
    number: int = get_current_context()["try_number"]
    with open(path, "a") as file:
        file.write(f"{number}\n")
    if number < 3:
        raise OSError(f"not at try {number}")
    return number


def test_a_task_is_tried_again_until_it_succeeds(db: str, tmp_path: Any) -> None:
    path = tmp_path / "tries"
    with Dag("retries", db_path=db) as dag:
        third_time_lucky(str(path))
    run = dag.run(progress=False)
    assert run.state == "success"
    assert path.read_text().split() == ["1", "2", "3"]
    assert [(one.try_number, one.error) for one in run.tries()] == [
        (1, "OSError: not at try 1"),
        (2, "OSError: not at try 2"),
    ]
    assert run.task_instance("third_time_lucky").try_number == 3
    assert run.task_instance("third_time_lucky").error is None


def test_a_retry_waits_for_its_delay(db: str, tmp_path: Any) -> None:
    with Dag("delay", db_path=db, default_args={"retry_delay": 0.3}) as dag:
        third_time_lucky(str(tmp_path / "tries"))
    run = dag.run(progress=False)
    first, second = run.tries()
    assert (second.started_at - first.ended_at).total_seconds() >= 0.3
    assert (run.task_instance("third_time_lucky").started_at - second.ended_at).total_seconds() >= 0.3


@task(retries=5)
def give_up() -> None:
    raise FailTask("no use")


@task(retries=5)
def skip() -> None:
    raise SkipTask("nothing to do")


def test_fail_task_and_skip_task_use_no_retries(db: str) -> None:
    with Dag("give_up", db_path=db) as dag:
        give_up()
        skip() >> one()
    run = dag.run(progress=False)
    assert states_of(run) == {"give_up": "failed", "skip": "skipped", "one": "skipped"}
    assert run.tries() == []
    assert run.task_instance("skip").error == "nothing to do"


@pytest.mark.filterwarnings("ignore::liteflow.DagWarning")
def test_trigger_rules_hold_in_a_real_run(db: str) -> None:
    with Dag("rules", db_path=db) as dag:
        one() >> fail() >> one.override(task_id="end", trigger_rule="all_done")()
    run = dag.run(progress=False)
    assert run.state == "success", "the state of a run is that of its leaves"
    assert states_of(run)["fail"] == "failed"


def test_fail_fast_ends_the_rest(db: str) -> None:
    with Dag("fast", db_path=db, fail_fast=True) as dag:
        fail()
        hold_until_told()
        one() >> add(1)
    run = dag.run(progress=False, max_workers=3)
    assert (run.state, run.end_reason) == ("failed", "fail_fast")
    assert states_of(run)["hold_until_told"] == "failed"
    assert run.task_instance("hold_until_told").end_reason == "fail_fast"


@task(kill_grace_s=1)
def hold_until_told() -> None:
    threading.Event().wait(60)


def test_max_active_tasks_limits_a_run(db: str, tmp_path: Any) -> None:
    with Dag("limited", db_path=db, max_active_tasks=1) as dag:
        for _ in range(4):
            alone(str(tmp_path / "lock"))
    assert dag.run(progress=False, max_workers=4).state == "success"


@task
def alone(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    os.unlink(path)


# Values


@pytest.mark.parametrize("value", [None, 0, "", [1, (2, {3})], {"a": b"\x00"}, 1.5, 10**400, "\ud800 \x00"], ids=repr)
def test_values_come_out_as_they_went_in(db: str, value: Any) -> None:
    with Dag("values", db_path=db) as dag:
        add.override(task_id="same")  # not called: makes nothing
        give.override(task_id="second")(give(value))
    run = dag.run(progress=False)
    assert run.state == "success"
    assert run.xcom("second") == value
    assert type(run.xcom("second")) is type(value)


@task
def make_row() -> dict[str, Any]:
    return {"name": "x", "size": 3, "none": None}


@task
def make_dict():  # type: ignore[no-untyped-def]  # without an annotation nothing but the result is stored
    return {"name": "y"}


def test_one_key_of_a_result(db: str) -> None:
    with Dag("keys", db_path=db) as dag:
        row = make_row()
        give(row["size"])
        give([row["name"], (row["none"], {"deep": row})])
        give(make_dict()["name"])
        give(make_dict()["nope"])
    run = dag.run(progress=False)
    assert run.xcom("give") == 3
    assert run.xcom("give__1") == ["x", (None, {"deep": {"name": "x", "size": 3, "none": None}})]
    assert run.xcom("give__2") == "y"
    assert run.xcom("make_row", "size") == 3
    assert states_of(run)["give__3"] == "failed"
    assert "without 'nope'" in run.task_instance("give__3").error


def test_a_result_of_64_mib(db: str) -> None:
    with Dag("large", db_path=db) as dag:
        size_of(large(64))
    run = dag.run(progress=False)
    assert run.xcom("size_of") == 64 * 2**20
    assert len(run.xcom("large")) == 64 * 2**20


@task
def large(mebibytes: int) -> bytes:
    return bytes(mebibytes * 2**20)


@task
def size_of(value: bytes) -> int:
    return len(value)


class NeedsTwo(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


@task
def raise_needs_two() -> None:
    raise NeedsTwo("this", "that")


@task
def return_needs_two() -> Exception:
    return NeedsTwo("this", "that")


@task
def return_lock() -> Any:
    return threading.Lock()


@task
def return_generator() -> Any:
    yield 1


def test_monstrous_results_fail_their_own_task_and_say_why(db: str) -> None:
    with Dag("monsters", db_path=db) as dag:
        raise_needs_two()
        return_needs_two()
        return_lock()
        return_generator()
        one()
    run = dag.run(progress=False)
    errors = {instance.task_id: instance.error for instance in run.task_instances()}
    assert errors["raise_needs_two"].endswith("NeedsTwo: this and that")
    assert "NeedsTwo can be written and not read again" in errors["return_needs_two"]
    assert "_thread.lock cannot be stored" in errors["return_lock"]
    assert "generator cannot be stored" in errors["return_generator"]
    assert states_of(run)["one"] == "success"


# Functions


def test_lambdas_closures_partials_methods_and_coroutines(db: str) -> None:
    from functools import partial

    offset = 10

    def closure(x: int) -> int:
        return x + offset

    thing = Thing(5)
    with Dag("functions", db_path=db) as dag:
        task(lambda x: x * 2, task_id="a_lambda")(1)
        task(closure)(1)
        task(partial(int, base=2), task_id="a_partial")("101")
        task(thing.method)(1)
        task(Thing.static)(1)
        task(Thing.make, task_id="a_classmethod")(7)
        thing.decorated(1)
        coroutine(1)
        task(len)([1, 2])
    run = dag.run(progress=False)
    assert states_of(run) == dict.fromkeys(dag.task_ids, "success")
    assert {name: run.xcom(name) for name in dag.task_ids if name != "a_classmethod"} == {
        "a_lambda": 2,
        "closure": 11,
        "a_partial": 5,
        "method": 6,
        "static": 2,
        "decorated": 6,
        "coroutine": 2,
        "len": 2,
    }
    assert run.xcom("a_classmethod").size == 7


class Thing:
    def __init__(self, size: int) -> None:
        self.size = size

    def method(self, x: int) -> int:
        return x + self.size

    @staticmethod
    def static(x: int) -> int:
        return x + 1

    @classmethod
    def make(cls, size: int) -> Thing:
        return cls(size)

    @task
    def decorated(self, x: int) -> int:
        return x + self.size


@task
async def coroutine(x: int) -> int:
    import asyncio

    await asyncio.sleep(0)
    return x + 1


def test_what_cannot_travel_is_named_before_anything_runs(db: str) -> None:
    lock = threading.Lock()
    with Dag("lock", db_path=db) as dag:
        task(lambda: lock, task_id="with_lock")()
    with pytest.raises(TransportError, match=r"task 'with_lock' .* it uses 'lock', and TypeError: cannot pickle"):
        dag.run(progress=False)
    with Dag("argument", db_path=db) as dag:
        give(lock)
    with pytest.raises(TransportError, match=r"argument number 1 of task 'give' cannot be sent"):
        dag.run(progress=False)


# Params and context


@task
def see_context(params: dict[str, Any], ds: str, run_id: str, ti: Any, **rest: Any) -> list[Any]:
    assert get_current_context()["run_id"] == run_id
    return [params, ds, run_id, ti.task_id, ti.try_number, sorted(rest)[:2]]


def test_params_and_context_reach_the_task(db: str) -> None:
    from datetime import UTC, datetime

    with Dag("context", db_path=db, params={"a": 1, "b": "x"}) as dag:
        see_context()
        give(dag.param("b"))
    run = dag.run({"b": "y"}, run_id="r1", logical_date=datetime(2026, 2, 3, tzinfo=UTC), progress=False)
    assert run.xcom("see_context") == [
        {"a": 1, "b": "y"},
        "2026-02-03",
        "r1",
        "see_context",
        1,
        ["conn", "dag"],
    ]
    assert run.xcom("give") == "y"
    assert run.params == {"a": 1, "b": "y"}


def test_an_unknown_param_is_refused_before_anything_is_recorded(db: str) -> None:
    with Dag("params", db_path=db, params={"day": 1}) as dag:
        one()
    with pytest.raises(ParamError, match=r"no param 'dya' \(did you mean 'day'\?\)"):
        dag.run({"dya": 2}, progress=False)
    assert dag.runs() == []


# Run ids


def test_the_same_run_id_again_gives_the_same_run(db: str, tmp_path: Any) -> None:
    path = tmp_path / "tries"
    with Dag("idempotent", db_path=db, params={"p": 1}) as dag:
        third_time_lucky(str(path))
    first = dag.run(run_id="nightly", progress=False)
    second = dag.run(run_id="nightly", progress=False)
    assert (second.pk, second.state, second.ended_at) == (first.pk, first.state, first.ended_at)
    assert path.read_text().split() == ["1", "2", "3"], "nothing ran again"
    with pytest.raises(RunConflictError, match="exists with other params"):
        dag.run({"p": 2}, run_id="nightly", progress=False)
    with dag:
        one()
    with pytest.raises(RunConflictError, match="other tasks or edges"):
        dag.run(run_id="nightly", progress=False)


def test_a_task_cannot_wait_for_its_own_run(db: str) -> None:
    with Dag("snake", db_path=db) as dag:
        bite(db)
    run = dag.run(run_id="tail", progress=False)
    assert "would wait for itself" in run.task_instance("bite").error


@task
def bite(db: str) -> None:
    with Dag("snake", db_path=db) as dag:
        bite(db)
    dag.run(run_id="tail", progress=False)


@task
def run_inner(db: str) -> str:
    with Dag("inner", db_path=db) as dag:
        add(one())
    return str(dag.run(progress=False).state)


def test_a_run_inside_a_task_has_slots_of_its_own(db: str, tmp_path: Any) -> None:
    with Dag("outer", db_path=db) as dag:
        run_inner(str(tmp_path / "inner.db"))
        run_inner(db)
    run = dag.run(progress=False)
    assert [run.xcom("run_inner"), run.xcom("run_inner__1")] == ["success", "success"]


# The service


def test_many_runs_over_one_set_of_slots(db: str) -> None:
    with Dag("many", db_path=db, params={"n": 0}) as dag:
        add(add(give(dag.param("n"))))
    with ExecutorService(db, max_workers=2) as service:
        handles = [service.submit(dag, {"n": n}) for n in range(20)]
        results = [handle.wait(timeout=60).xcom("add__1") for handle in handles]
    assert results == [n + 2 for n in range(20)]


def test_leaving_the_service_waits_for_what_was_submitted(db: str) -> None:
    with Dag("waited", db_path=db) as dag:
        add(one())
    with ExecutorService(db) as service:
        service.submit(dag, run_id="x")
    assert [str(run.state) for run in dag.runs()] == ["success"]


def test_a_handle_times_out_without_disturbing_the_run(db: str, tmp_path: Any) -> None:
    with Dag("slow", db_path=db) as dag:
        wait_for_file(str(tmp_path / "go"))
    with ExecutorService(db) as service:
        handle = service.submit(dag)
        with pytest.raises(TimeoutError):
            handle.wait(timeout=0.01)
        assert not handle.state.is_terminal
        (tmp_path / "go").touch()
        assert handle.wait(timeout=60).state == "success"


@task(kill_grace_s=0.5)
def wait_for_file(path: str) -> None:
    pause = threading.Event()
    while not os.path.exists(path):
        pause.wait(0.005)


def test_cancel_ends_what_runs_and_skips_the_rest(db: str, tmp_path: Any) -> None:
    with Dag("cancelled", db_path=db) as dag:
        wait_for_file(str(tmp_path / "never")) >> one()
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        handle.cancel()
        run = handle.wait(timeout=60)
    assert (run.state, run.end_reason) == ("failed", "cancelled")
    assert states_of(run)["one"] == "skipped"
    assert states_of(run)["wait_for_file"] in ("failed", "skipped"), "it may have been ended before it began"
    assert run.task_instance("one").end_reason == "cancelled"


def test_an_exception_in_the_with_block_cancels(db: str, tmp_path: Any) -> None:
    with Dag("left", db_path=db) as dag:
        wait_for_file(str(tmp_path / "never"))
    with pytest.raises(KeyError), ExecutorService(db) as service:
        service.submit(dag, run_id="x")
        raise KeyError("the application's own")
    assert dag.latest_run().end_reason == "cancelled"


def test_params_are_the_same_in_whatever_order_they_are_given(db: str) -> None:
    with Dag("order", db_path=db, params={"x": None}) as dag:
        give(dag.param("x"))
    first = dag.run({"x": {"a": 1, "b": {2, "c"}}}, run_id="r", progress=False)
    assert dag.run({"x": {"b": {"c", 2}, "a": 1}}, run_id="r", progress=False).pk == first.pk


def test_an_explicit_none_lifts_a_timeout_of_the_default_args(db: str) -> None:
    with Dag("lifted", db_path=db, default_args={"timeout": 0.2}):
        limited = one()
        free = one.override(timeout=None)()
    assert (limited.task.options.timeout_s, free.task.options.timeout_s) == (0.2, None)


def test_a_log_line_of_a_megabyte_is_kept_in_pieces(db: str) -> None:
    with Dag("long", db_path=db) as dag:
        log_long()
    entries = dag.run(progress=False).logs()
    assert "".join(entry.message for entry in entries) == "x" * 10**6
    assert {(entry.level, entry.logger) for entry in entries} == {(30, "odd_name")}


@task
def log_long() -> None:
    import logging

    logging.getLogger("odd\nname").warning("x" * 10**6)


@task(retries=1)
def fail_in_lines() -> None:
    error = ValueError("3 rows are bad:\n  row 1\n  row 2")
    error.add_note("look at the file")
    raise error


def test_an_error_is_told_by_its_first_line(db: str) -> None:
    with Dag("lines", db_path=db) as dag:
        fail_in_lines()
    assert dag.run(progress=False).task_instance("fail_in_lines").error == "ValueError: 3 rows are bad:"


def test_a_try_that_was_followed_by_another_keeps_its_reason_and_times(db: str) -> None:
    """Also when the next one had to wait for its delay, and for a slot."""
    with Dag("tries", db_path=db, default_args={"retry_delay": 0.05}) as dag:
        for _ in range(6):
            fail_in_lines()
    tries = dag.run(progress=False, max_workers=1).tries()
    assert len(tries) == 6
    assert {str(one.end_reason) for one in tries} == {"error"}
    assert all(one.ended_at is not None and one.ended_at >= one.started_at for one in tries)


@task
def close_the_streams() -> None:
    import sys

    sys.stdout.close()
    sys.stderr.close()


def test_streams_that_a_task_closes_are_open_for_the_next(db: str) -> None:
    with Dag("streams", db_path=db) as dag:
        close_the_streams() >> say("heard")
    run = dag.run(progress=False, max_workers=1)
    assert (run.state, lines_of(run, "say")) == ("success", ["heard", "on both"])


@task
def say(word: str) -> None:
    import sys

    print(word)
    print("on both", file=sys.stderr)
