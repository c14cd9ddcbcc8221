"""Params: of a dag and of a task, with a schema, in templates, as arguments, as parameters of a `@dag` function."""

from __future__ import annotations

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param, dag, task

with DAG(
    "own_params",
    schedule=None,
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    params={
        "count": Param(3, type="integer", minimum=1, maximum=9, title="How many"),
        "names": Param(["x", "y"], type="array"),
        "maybe": Param(None, type=["null", "string"]),
        "plain": "text",
    },
    render_template_as_native_obj=True,
):

    @task
    def read(params) -> dict:
        return {
            "count": params["count"] + 1,
            "names": params["names"],
            "maybe": params["maybe"],
            "rest": sorted(params),
        }

    @task
    def native(value) -> list:
        return [type(value).__name__, value]

    read()
    native("{{ params.count }}")
    native.override(task_id="native_list")("{{ params.names }}")
    BashOperator(task_id="shell", bash_command="echo {{ params.plain }} {{ params.count }}")


@dag(schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC"))
def own_dag_params(name: str = "Ada", times: int = 2):
    @task
    def greet(who, how_often) -> str:
        return " ".join([f"hello {who}"] * int(how_often))

    greet(name, times)


own_dag_params()
