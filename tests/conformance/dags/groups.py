"""Task groups: nested, as functions, called twice, mapped, without a prefix, with default arguments."""

from __future__ import annotations

import pendulum
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TaskGroup, chain, task, task_group


@task
def one_more(n: int) -> int:
    return n + 1


@task
def triple(n: int) -> int:
    return 3 * n


@task
def gather(numbers) -> list[int]:
    return list(numbers)


@task_group
def steps(n: int):
    return triple(one_more(n))


@task_group(group_id="outer", tooltip="holds another one")
def outer():
    first = EmptyOperator(task_id="first")
    with TaskGroup("inner") as inner:
        EmptyOperator(task_id="left")
        EmptyOperator(task_id="right")
    with TaskGroup("bare", prefix_group_id=False):
        bare = EmptyOperator(task_id="no_prefix")
    first >> inner >> bare


with DAG("own_groups", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):
    start, end = EmptyOperator(task_id="start"), EmptyOperator(task_id="end")
    chain(start, outer(), end)
    steps(1)
    steps(10)
    gather(steps.override(group_id="mapped").expand(n=[1, 2, 3]))
