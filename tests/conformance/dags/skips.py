"""Skips and failures below every trigger rule, with all three states upstream."""

from __future__ import annotations

import itertools

import pendulum
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

RULES = [
    "all_success",
    "all_failed",
    "all_done",
    "all_done_min_one_success",
    "all_skipped",
    "one_success",
    "one_failed",
    "one_done",
    "none_failed",
    "none_failed_min_one_success",
    "none_skipped",
    "always",
]


@task
def succeeds() -> str:
    return "done"


@task
def fails() -> None:
    raise AirflowFailException("told to")


@task
def skips() -> None:
    raise AirflowSkipException("told to")


with DAG("own_trigger_rules", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC"), max_active_tasks=4):
    upstream = {"s": succeeds(), "f": fails(), "k": skips()}
    # Without a failure beside a skip: what all_success makes of these is decided by who comes first.
    for letters in ("s", "f", "k", "sf", "sk"):
        for rule in RULES:
            below = EmptyOperator(task_id=f"{letters}_{rule}", trigger_rule=rule)
            [upstream[letter] for letter in letters] >> below


def skip(**_) -> None:
    raise AirflowSkipException


with DAG("own_skips", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):
    chain_of = [PythonOperator(task_id="skip", python_callable=skip)]
    chain_of += [EmptyOperator(task_id=f"below_{n}") for n in range(3)]
    for above, below in itertools.pairwise(chain_of):
        above >> below
    chain_of[-1] >> EmptyOperator(task_id="all_the_same", trigger_rule="all_done")
