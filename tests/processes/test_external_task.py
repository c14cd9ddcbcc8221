"""Sensors that wait for the runs of other dags, by logical date."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, TaskGroup, task
from liteflow.errors import DagError
from liteflow.operators import ExternalTaskMarker, ExternalTaskSensor
from tests.conftest import states_of

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

DAY = datetime(2026, 1, 2, tzinfo=UTC)
QUICK: dict[str, Any] = {"poke_interval": 0.02, "timeout": 0.1, "external_dag_id": "other"}


@task
def good() -> None: ...


@task
def bad() -> None:
    raise ValueError("no")


@task
def each(n: int) -> int:
    return n


def day_before(moment: datetime, **context: Any) -> datetime:
    assert context["ds"] == "2026-01-03"
    return moment - timedelta(days=1)


def day_before_alone(moment: datetime) -> list[datetime]:
    return [moment - timedelta(days=1)]


def other_dag(db: str) -> Dag:
    with Dag("other", db_path=db) as other:
        good()
        bad()
        with TaskGroup("group"):
            each.expand(n=[1, 2])
    return other


def test_what_is_waited_for_and_what_comes_of_it(db: str) -> None:
    other = other_dag(db)
    with Dag("waits", db_path=db) as waits:
        ExternalTaskSensor(task_id="task", external_task_id="good", execution_delta=timedelta(days=1), **QUICK)
        ExternalTaskSensor(task_id="function", external_task_id="good", execution_date_fn=day_before, **QUICK)
        ExternalTaskSensor(task_id="dates", external_task_id="good", execution_date_fn=day_before_alone, **QUICK)
        ExternalTaskSensor(task_id="same_date", external_task_id="good", **QUICK)
        before = {**QUICK, "execution_delta": timedelta(days=1)}
        ExternalTaskSensor(task_id="mapped", external_task_ids=["good", "group.each"], **before)
        ExternalTaskSensor(task_id="group", external_task_group_id="group", **before)
        ExternalTaskSensor(task_id="unwell", external_task_ids=["good", "bad"], **before)
        ExternalTaskSensor(task_id="fails", external_task_id="bad", failed_states=["failed"], **before)
        ExternalTaskSensor(task_id="soft", external_task_id="bad", failed_states=["failed"], soft_fail=True, **before)
        ExternalTaskSensor(task_id="skips", external_task_id="bad", skipped_states=["failed"], **before)
        ExternalTaskSensor(task_id="whole", **before)
        ExternalTaskSensor(task_id="whole_failed", allowed_states=["failed"], mode="reschedule", **before)
        ExternalTaskSensor(task_id="no_task", external_task_id="goood", check_existence=True, **before)
        ExternalTaskSensor(task_id="no_dag", check_existence=True, **{**before, "external_dag_id": "none"})
        ExternalTaskMarker(task_id="marker", external_dag_id="other", external_task_id="good")
    with ExecutorService(db, max_workers=2) as service:
        service.submit(other, logical_date=DAY).wait()
        run = service.submit(waits, logical_date=DAY + timedelta(days=1)).wait()
    assert states_of(run) == {
        **dict.fromkeys(["task", "function", "dates", "mapped", "group", "whole_failed", "marker"], "success"),
        **dict.fromkeys(["same_date", "unwell", "fails", "whole", "no_task", "no_dag"], "failed"),
        **dict.fromkeys(["soft", "skips"], "skipped"),
    }
    errors = {one.task_id: one.error for one in run.task_instances()}
    assert "one of bad of dag 'other' is failed" in str(errors["fails"])
    assert "dag 'other' has no task 'goood' (did you mean 'good'?)" in str(errors["no_task"])
    assert "there is no dag 'none'" in str(errors["no_dag"])
    assert "SensorTimeout" in str(errors["same_date"])


def test_a_group_is_known_by_the_code_where_its_ids_do_not_tell(db: str) -> None:
    with Dag("other", db_path=db) as other, TaskGroup("group", prefix_group_id=False):
        good()
    with Dag("waits", db_path=db) as waits:
        ExternalTaskSensor(task_id="group", external_task_group_id="group", check_existence=True, **QUICK)
    with ExecutorService(db, dags=[other], max_workers=1) as service:
        service.submit(other, logical_date=DAY).wait()
        assert service.submit(waits, logical_date=DAY).wait().state == "success"


def test_what_a_task_can_ask_of_other_runs(db: str) -> None:
    @task
    def ask(ti: Any) -> list[Any]:
        return [
            ti.get_dagrun_state("other", "one"),
            ti.get_dr_count("other", states=["failed"]),
            ti.get_dr_count("other", logical_dates=[DAY], states=["success"]),
            ti.get_ti_count("other", task_ids=["good", "bad"], run_ids=["one"], states=["success"]),
            ti.get_task_states("other", task_group_id="group", logical_dates=[DAY]),
        ]

    other = other_dag(db)
    with Dag("asks", db_path=db) as asks:
        ask()
    with ExecutorService(db, max_workers=1) as service:
        service.submit(other, run_id="one", logical_date=DAY).wait()
        run = service.submit(asks).wait()
    states = {"one": {"group.each_0": "success", "group.each_1": "success"}}
    assert run.xcom("ask") == ["failed", 1, 0, 1, states]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"external_task_id": "a", "external_task_group_id": "b"}, "not several"),
        ({"external_task_id": "a", "external_task_ids": ["b"]}, "not several"),
        ({"execution_delta": timedelta(1), "execution_date_fn": day_before}, "not both"),
        ({"allowed_states": ["succes"]}, "did you mean 'success'?"),
        ({"allowed_states": ["skipped"]}, "is no state of what is waited for"),
        ({"external_task_id": "a", "failed_states": ["success"]}, "stands twice"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(more: dict[str, Any], message: str) -> None:
    with Dag("waits"), pytest.raises(DagError, match=message) as raised:
        ExternalTaskSensor(task_id="x", external_dag_id="other", **more)
    assert "test_external_task.py:" in str(raised.value)
