"""Retries: one that succeeds at its second try, one that never does, one that does not retry, and callbacks."""

from __future__ import annotations

import datetime

import pendulum
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

with DAG(
    "own_retries",
    schedule=None,
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    default_args={"retries": 1, "retry_delay": datetime.timedelta(0)},
):

    @task
    def second_time(ti=None) -> int:
        if ti.try_number < 2:
            raise AirflowException("not yet")
        return ti.try_number

    @task
    def never(**_) -> None:
        raise ValueError("never")

    @task(trigger_rule="all_failed")
    def when_failed() -> str:
        return "failed, as it should"

    @task(retries=3)
    def at_once() -> None:
        raise AirflowFailException("for good")

    second_time()
    [never(), at_once()] >> when_failed()
