"""XComs: pushed and pulled by hand, of several tasks, of mapped ones, under keys, and types that JSON has not got."""

from __future__ import annotations

import datetime

import pendulum
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, XComArg, get_current_context, task


def push(ti, **_) -> dict:
    ti.xcom_push(key="extra", value=[1, {"two": 2}])
    ti.xcom_push(key="extra_too", value="later")
    return {"a": 1, "b": [True, None, 1.5]}


with DAG("own_xcoms", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):
    pushed = PythonOperator(task_id="push", python_callable=push)

    @task
    def pull(ti=None) -> list:
        return [
            ti.xcom_pull(task_ids="push"),
            ti.xcom_pull(task_ids="push", key="extra"),
            ti.xcom_pull(task_ids=["push", "no_such_task"], key="extra_too"),
            ti.xcom_pull(task_ids="push", key="no_such_key"),
        ]

    @task
    def own() -> list:
        ti = get_current_context()["ti"]
        ti.xcom_push(key="mine", value=3)
        return [ti.task_id, ti.dag_id, ti.map_index, ti.try_number]

    @task
    def double(x: int) -> int:
        return 2 * x

    @task
    def of_mapped(ti=None) -> list:
        return [list(ti.xcom_pull(task_ids="double")), ti.xcom_pull(task_ids="double", map_indexes=1)]

    @task
    def dates(logical_date) -> dict:
        return {"at": datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC), "day": datetime.date(2026, 1, 2)}

    @task
    def types() -> list:
        return [(1, 2), {"k": "v"}, 0.1, "ü", None]

    @task
    def show(value) -> str:
        return repr(value)

    pushed >> pull()
    own()
    double.expand(x=[1, 2]) >> of_mapped()
    dates()
    types()
    show(pushed.output["extra"])
    show.override(task_id="show_arg")(XComArg(pushed))
