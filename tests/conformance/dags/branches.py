"""Branches: to a task, to several, to none, to a group, below each other, by the day; joins with two rules."""

from __future__ import annotations

import pendulum
from airflow.providers.standard.operators.datetime import BranchDateTimeOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import BranchPythonOperator
from airflow.providers.standard.operators.weekday import BranchDayOfWeekOperator
from airflow.providers.standard.utils.weekday import WeekDay
from airflow.sdk import DAG, Label, TaskGroup, TriggerRule, task


def ends(*names: str) -> list[EmptyOperator]:
    return [EmptyOperator(task_id=name) for name in names]


with DAG("own_branches", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):
    a, b, c = ends("a", "b", "c")
    strict = EmptyOperator(task_id="strict")
    lenient = EmptyOperator(task_id="lenient", trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)

    @task.branch
    def choose() -> list[str]:
        return ["a", "c"]

    choose() >> Label("chosen") >> [a, b, c] >> lenient
    [a, b, c] >> strict

    nowhere = BranchPythonOperator(task_id="nowhere", python_callable=lambda: None)
    nowhere >> ends("d", "e")

    with TaskGroup("group") as group:
        EmptyOperator(task_id="in_group") >> EmptyOperator(task_id="in_group_too")
    BranchPythonOperator(task_id="to_group", python_callable=lambda: "group") >> [group, EmptyOperator(task_id="f")]

with DAG("own_nested_branches", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):

    @task.branch
    def pick(task_id: str) -> str:
        return task_id

    rule = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
    true_1, false_1, true_2, false_2, false_3 = ends("true_1", "false_1", "true_2", "false_2", "false_3")
    join_1, join_2 = (EmptyOperator(task_id=name, trigger_rule=rule) for name in ("join_1", "join_2"))
    first, second = pick.override(task_id="first")("true_1"), pick.override(task_id="second")("false_2")
    first >> true_1 >> join_1
    first >> false_1 >> second >> [true_2, false_2] >> join_2 >> false_3 >> join_1

with DAG("own_branches_by_date", schedule="@daily", start_date=pendulum.datetime(2025, 1, 1, tz="UTC"), catchup=False):
    BranchDayOfWeekOperator(
        task_id="monday",
        follow_task_ids_if_true="is_monday",
        follow_task_ids_if_false="no_monday",
        week_day=WeekDay.MONDAY,
        use_task_logical_date=True,
    ) >> ends("is_monday", "no_monday")
    BranchDateTimeOperator(
        task_id="in_2025",
        follow_task_ids_if_true="within",
        follow_task_ids_if_false="outside",
        target_lower=pendulum.datetime(2025, 1, 1, tz="UTC"),
        target_upper=pendulum.datetime(2025, 12, 31, tz="UTC"),
        use_task_logical_date=True,
    ) >> ends("within", "outside")
