"""Sensors: as functions and classes, with a value, that give up softly, never fail, or fail."""

from __future__ import annotations

import datetime

import pendulum
from airflow.providers.standard.sensors.bash import BashSensor
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG, PokeReturnValue, chain, task

QUICK = {"poke_interval": 0.05, "timeout": 0.1}

with DAG("own_sensors", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):

    @task.sensor(poke_interval=0.05, timeout=30, mode="poke")
    def there() -> PokeReturnValue:
        return PokeReturnValue(is_done=True, xcom_value={"rows": 7})

    @task.sensor(**QUICK, soft_fail=True)
    def gives_up() -> bool:
        return False

    @task
    def rows_of(found: dict) -> int:
        return found["rows"]

    @task
    def after() -> str:
        return "after"

    rows_of(there())
    chain(gives_up(), after())
    PythonSensor(task_id="python", python_callable=lambda: True, **QUICK) >> after.override(task_id="after_python")()
    BashSensor(task_id="bash", bash_command="true", **QUICK)
    BashSensor(task_id="bash_never", bash_command="false", **QUICK)
    TimeDeltaSensor(task_id="time_delta", delta=datetime.timedelta(seconds=1), poke_interval=0.05, timeout=5)
