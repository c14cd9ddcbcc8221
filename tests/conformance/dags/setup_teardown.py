"""Setup and teardown: around a failure, as a scope, with values, and a teardown that fails without harm."""

from __future__ import annotations

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, setup, task, teardown
from airflow.sdk.exceptions import AirflowFailException


@setup
def rent(size: int) -> str:
    return f"cluster of {size}"


@teardown
def give_back(what: str) -> str:
    return f"gave back {what}"


@task
def work(what: str) -> str:
    return f"worked on {what}"


@task
def break_down() -> None:
    raise AirflowFailException("broken")


@task
def after() -> str:
    return "after"


@teardown
def fails_to_tidy() -> None:
    raise AirflowFailException("untidy")


with DAG("own_setup_teardown", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):
    rented = rent(3)
    tidied = give_back(rented)
    with tidied:
        work(rented)
    tidied >> after()

with DAG("own_setup_teardown_failing", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):
    begin = BashOperator(task_id="begin", bash_command="echo begin").as_setup()
    finish = BashOperator(task_id="finish", bash_command="echo finish").as_teardown(setups=begin)
    begin >> break_down() >> after() >> finish >> after.override(task_id="after_all")()

with DAG("own_setup_teardown_untidy", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):
    begin = BashOperator(task_id="begin", bash_command="echo begin").as_setup()
    begin >> after() >> fails_to_tidy()

with DAG("own_setup_failing", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):
    begin = BashOperator(task_id="begin", bash_command="exit 1").as_setup()
    finish = BashOperator(task_id="finish", bash_command="echo finish").as_teardown(setups=begin)
    begin >> after() >> finish
