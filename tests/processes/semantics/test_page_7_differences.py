"""The page's section "Where liteflow differs, on purpose", bullet by bullet."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, EndReason, task
from liteflow.errors import InvalidOptionError
from tests.conftest import wait_until
from tests.engines import ENGINE
from tests.processes.semantics.conftest import Run, Submit
from tests.processes.semantics.page import each, give, letters, node, outcome, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::liteflow.errors.DagWarning")


# A timeout kills, from outside


@task(kill_grace_s=0.2)
def stay_whatever_comes() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            threading.Event().wait(60)
        except BaseException:
            continue


@task(kill_grace_s=0.2)
def never_look_up() -> int:
    return int(pow(7, 10**9)).bit_length()  # one call, which no signal handler of Python interrupts


@task(kill_grace_s=20)
def clean_up(path: str) -> None:
    try:
        threading.Event().wait(60)
    finally:
        Path(path).touch()


@pytest.mark.skipif(ENGINE != "slots", reason="only a slot can be killed: elsewhere the result is fenced")
def test_a_timeout_kills_from_outside(run: Run, tmp_path: Path) -> None:
    with Dag("timeouts") as dag:
        stay_whatever_comes.override(timeout=0.3)()
        never_look_up.override(execution_timeout=timedelta(milliseconds=300))()
        clean_up.override(execution_timeout=0.3)(str(tmp_path / "clean"))
    ended = run(dag)
    assert outcome(ended) == ("failed", "clean_up=F never_look_up=F stay_whatever_comes=F")
    assert {one.end_reason for one in ended.task_instances()} == {EndReason.TIMEOUT}
    assert (tmp_path / "clean").exists(), "a finally block has its time"


def test_a_timeout_uses_retries(run: Run, tmp_path: Path) -> None:
    with Dag("timeout_retries") as dag:
        wait_for.override(task_id="a", timeout=0.2, retries=1)(str(tmp_path / "never"))
    ended = run(dag)
    assert (ended.task_instance("a").try_number, [one.end_reason for one in ended.tries()]) == (2, [EndReason.TIMEOUT])


def test_the_two_names_of_the_timeout_are_one_option() -> None:
    with pytest.raises(InvalidOptionError, match="give timeout or execution_timeout, not both"):
        task(give.function, timeout=1, execution_timeout=1)


# Retries do not wait


def test_retry_delay_is_zero_unless_it_is_given(run: Run) -> None:
    with Dag("no_delay") as dag:
        node("a", "F", retries=3)
    assert dag.get_task("a").options.retry_delay_s == 0.0
    ended = run(dag)
    assert ended.task_instance("a").try_number == 4
    assert ended.duration < timedelta(seconds=20)


# None keeps its place


def test_a_mapped_task_that_returns_none_keeps_its_index_for_a_reducer(run: Run) -> None:
    with Dag("none_kept") as dag:
        values = each.override(task_id="m").expand(x=[1, None, 3])
        give.override(task_id="r")(values)
        each.override(task_id="again").expand(x=values)
    ended = run(dag)
    assert letters(ended) == {
        **{f"m[{number}]": "S" for number in range(3)},
        **{f"again[{number}]": "S" for number in range(3)},
        "r": "S",
    }
    assert ended.xcom("r") == ended.xcom("m") == ended.xcom("again") == [1, None, 3]


# xcom_pull(default=...)


@task
def pull_with_default(ti: Any) -> list[Any]:
    return [
        ti.xcom_pull("nope", default="D"),
        ti.xcom_pull(["give", "nope"], default="D"),
        ti.xcom_pull("give", key="nope", default="D"),
        ti.xcom_pull(key="mine", default="D"),
        ti.xcom_pull("give", map_indexes=7, default="D"),
        ti.xcom_pull("give", map_indexes=[-1, 7], default="D"),
        ti.xcom_pull("give", default="D"),
    ]


def test_the_default_of_xcom_pull_is_honoured(run: Run) -> None:
    with Dag("defaults") as dag:
        give(1) >> pull_with_default()
    assert run(dag).xcom("pull_with_default") == ["D", [1, "D"], "D", "D", "D", [1, "D"], 1]


# States


def test_pending_is_stored_and_why_it_ended_stands_beside_the_state(submit: Submit, tmp_path: Path) -> None:
    with Dag("stored") as dag:
        wait_for.override(task_id="hold")(str(tmp_path / "never")) >> node("below")
        node("bad", "F")
    handle = submit(dag)
    wait_until(lambda: letters(handle.run) == {"hold": "running", "below": "pending", "bad": "F"}, "the work")
    assert rows(handle) == {"hold": ("running", None), "below": ("pending", None), "bad": ("failed", "error")}
    handle.cancel()
    ended = handle.wait(timeout=30)
    assert (ended.state, ended.end_reason) == ("failed", EndReason.CANCELLED)
    assert rows(handle) == {
        "hold": ("failed", "cancelled"),
        "below": ("skipped", "cancelled"),
        "bad": ("failed", "error"),
    }


def rows(handle: Any) -> dict[str, tuple[str, str | None]]:
    """State and reason as they stand in the database."""
    run = handle.run
    statement = f"SELECT task_id, state, end_reason FROM liteflow_task_instance WHERE run_pk = {run.pk}"
    with run.history.read() as connection:
        return {task_id: (state, reason) for task_id, state, reason in connection.exec_driver_sql(statement)}


# Values


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees


@task
def measure() -> Celsius:
    return Celsius(21.5)


@task
def to_kelvin(value: Celsius) -> float:
    return value.degrees + 273.15


@pytest.mark.parametrize(
    ("make", "encoding"),
    [(lambda: {"a": [1, (2, {3})], 4: b"x"}, "json"), (lambda: complex(1, 2), "pickle"), (lambda: range(3), "pickle")],
    ids=["json", "complex", "range"],
)
def test_values_are_pickled_where_json_cannot_hold_them(run: Run, make: Callable[[], Any], encoding: str) -> None:
    with Dag("values") as dag:
        give.override(task_id="b")(give.override(task_id="a")(make()))
    ended = run(dag)
    assert ended.xcom("b") == make()
    assert [one.encoding for one in ended.xcoms("a")] == [encoding]


def test_values_of_ones_own_classes_travel(run: Run) -> None:
    with Dag("own_class") as dag:
        to_kelvin(measure())
    ended = run(dag)
    assert ended.xcom("to_kelvin") == pytest.approx(294.65)
    assert [one.encoding for one in ended.xcoms("measure")] == ["pickle"]
    assert ended.xcom("measure").degrees == 21.5
