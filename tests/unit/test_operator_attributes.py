"""What operators know of themselves under Airflow's names, in the dag file and while they run."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from liteflow import Dag, TaskGroup
from liteflow.operators import BaseOperator, BashOperator, EmptyOperator

NAMES = [
    "task_id",
    "dag_id",
    "label",
    "task_type",
    "owner",
    "email",
    "queue",
    "start_date",
    "retries",
    "retry_delay",
    "execution_timeout",
    "trigger_rule",
    "pool",
    "pool_slots",
    "priority_weight",
    "doc_md",
    "do_xcom_push",
    "params",
    "task_display_name",
    "on_failure_callback",
]


class Knows(BaseOperator):
    """Hands on what it knows of itself."""

    def __init__(self, *, n: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n = n

    def execute(self, context: Any) -> dict[str, Any]:
        assert self.has_dag()
        assert self.get_dag() is context["dag"]
        self.log.warning("looks at itself")
        self.xcom_push(context, "n", self.n)
        return {name: getattr(self, name) for name in NAMES}


def note(context: Any) -> None:
    """Called back."""


GIVEN: dict[str, Any] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "email": ["a@b"],
    "execution_timeout": timedelta(minutes=2),
    "trigger_rule": "all_done",
    "priority_weight": 3,
    "doc_md": "what it does",
    "on_failure_callback": note,
    "resources": object(),
}
EXPECTED = {
    **GIVEN,
    "task_id": "g.one",
    "dag_id": "d",
    "label": "one",
    "task_type": "Knows",
    "owner": "us",
    "queue": "default",
    "start_date": datetime(2026, 1, 1, tzinfo=UTC),
    "pool": "default_pool",
    "pool_slots": 1,
    "do_xcom_push": True,
    "params": {"a": 1},
    "task_display_name": "g.one",
    "on_failure_callback": [],  # functions do not go along
}
EXPECTED.pop("resources")


def a_dag() -> Dag:
    default_args = {"owner": "us", "start_date": datetime(2026, 1, 1, tzinfo=UTC)}
    with Dag("d", default_args=default_args, params={"a": 1}) as dag, TaskGroup("g"):
        Knows(task_id="one", **GIVEN)
        Knows.partial(task_id="many", **GIVEN).expand(n=[1, 2])
    return dag


@pytest.mark.filterwarnings("ignore::liteflow.DagWarning")
def test_an_operator_knows_itself_while_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run = a_dag().test()
    assert run.xcom("g.one") == EXPECTED
    many = {**EXPECTED, "task_id": "g.many", "label": "many", "task_display_name": "g.many"}
    assert run.xcom("g.many") == [many, many]
    assert run.xcom("g.many", key="n") == [1, 2]
    assert "looks at itself" in caplog.text


@pytest.mark.filterwarnings("ignore::liteflow.DagWarning")
def test_an_operator_knows_itself_in_the_dag_file() -> None:
    dag = a_dag()
    one = dag.get_task("g.one")
    assert {name: getattr(one, name) for name in NAMES} == {**EXPECTED, "on_failure_callback": [note]}
    assert (one.leaves, one.task_group, one.ui_color) == ([one], dag.task_groups["g"], "#fff")
    with dag:
        end = EmptyOperator(task_id="end")
    one >> end
    assert (end.upstream_list, one.downstream_list, end.get_direct_relative_ids(upstream=True)) == (
        [one],
        [end],
        {"g.one"},
    )


def test_attributes_of_the_class_come_first() -> None:
    class Own(EmptyOperator):
        queue = "of the class"

        def __init__(self, *, owner: str, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.owner = owner
            self.retries = 7

    with Dag("d"):
        own = Own(task_id="own", owner="me", retries=1)
    assert (own.owner, own.queue, own.retries) == ("me", "of the class", 7)


def test_a_name_that_an_operator_has_not_got_is_said_as_by_python() -> None:
    with Dag("d"):
        one = EmptyOperator(task_id="one")
    with pytest.raises(AttributeError, match="'EmptyOperator' object has no attribute 'retires'"):
        _ = one.retires


def test_a_command_has_its_encoding_codes_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names used to be those of a task around the run."""
    monkeypatch.setenv("AIRFLOW_CTX_TASK_ID", "around")
    with Dag("d") as dag:
        BashOperator(task_id="latin", bash_command="printf '\\xe9'", output_encoding="latin-1")
        BashOperator(task_id="skips", bash_command="exit 5", skip_on_exit_code=range(4, 6))
        BashOperator(task_id="name", bash_command="echo $AIRFLOW_CTX_TASK_ID")
    run = dag.test()
    assert (run.xcom("latin"), run.xcom("name")) == ("é", "name")
    assert run.state == "success"
    assert os.environ["AIRFLOW_CTX_TASK_ID"] == "around"
    with pytest.raises(ValueError, match="option output_encoding='utf-9' must be the name of an encoding"), Dag("d"):
        BashOperator(task_id="b", bash_command="true", output_encoding="utf-9")
