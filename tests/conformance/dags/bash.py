"""Bash: output, exit codes, environment, the working directory, and functions that make commands."""

from __future__ import annotations

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, task

with DAG("own_bash", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):
    BashOperator(task_id="last_line", bash_command="echo first; echo last")
    BashOperator(task_id="nothing", bash_command="true")
    BashOperator(task_id="skips", bash_command="exit 99") >> BashOperator(task_id="after_skip", bash_command="true")
    BashOperator(task_id="skips_too", bash_command="exit 3", skip_on_exit_code=[3, 4])
    BashOperator(task_id="fails", bash_command="exit 2") >> BashOperator(task_id="after_failure", bash_command="true")
    BashOperator(task_id="bare", bash_command='echo "$COLOUR${HOME:-nowhere}"', env={"COLOUR": "blue"})
    BashOperator(task_id="where", bash_command="pwd", cwd="/")
    BashOperator(task_id="parsed", bash_command="echo '{\"a\": 1}'", output_processor=lambda text: text.count('"'))
    BashOperator(task_id="no_xcom", bash_command="echo 1", do_xcom_push=False)
    BashOperator.partial(task_id="mapped").expand(bash_command=["echo 1", "echo 2", "exit 99"])

    @task.bash(env={"DAY": "{{ ds }}"}, append_env=True)
    def command(word: str) -> str:
        return f"echo {word} $DAY"

    command("today")
