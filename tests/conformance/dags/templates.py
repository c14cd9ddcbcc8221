"""Templates: dates, macros, filters, values of other tasks, files, a dict of them, and text that is none."""

from __future__ import annotations

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, task

with DAG(
    "own_templates",
    schedule="@daily",
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    user_defined_macros={"shop": "corner", "twice": lambda x: 2 * x},
    user_defined_filters={"loud": lambda text: text.upper() + "!"},
):
    dates = BashOperator(task_id="dates", bash_command="echo '{{ ds }} {{ ds_nodash }} {{ ts }} {{ ts_nodash }}'")
    BashOperator(task_id="shifted", bash_command="echo {{ macros.ds_add(ds, 7) }} {{ logical_date.strftime('%A') }}")
    BashOperator(task_id="of_user", bash_command="echo {{ shop | loud }} {{ twice(21) }}")
    BashOperator(task_id="environment", bash_command="echo $DAY", env={"DAY": "{{ ds }}"}, append_env=True)
    pulled = BashOperator(task_id="pulled", bash_command="echo {{ ti.xcom_pull(task_ids='dates')[:4] }}")
    dates >> pulled

    def show(text: str, number: int, **context) -> list:
        return [text, number, context["templates_dict"]["query"].strip(), context["ds"]]

    PythonOperator(
        task_id="python",
        python_callable=show,
        op_args=["{{ dag.dag_id }}/{{ task.task_id }}"],
        op_kwargs={"number": 5},
        templates_dict={"query": "templates.sql"},
        templates_exts=[".sql"],
    )

    @task
    def decorated(text: str, nested: dict) -> list:
        return [text, nested]

    decorated("{{ ds }}", {"deep": ["{{ run_id | length > 0 }}", 1]})
    decorated.override(task_id="of_output")(str(dates.output), {})
