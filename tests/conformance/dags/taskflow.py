"""Values between tasks: keys of a dict, lists, defaults, ids of calls that are repeated."""

from __future__ import annotations

import pendulum
from airflow.sdk import dag, task


@dag(schedule="@daily", start_date=pendulum.datetime(2025, 1, 1, tz="UTC"), catchup=False, tags=["own"])
def own_taskflow():
    @task
    def prices() -> list[int]:
        return [3, 5, 8]

    @task(multiple_outputs=True)
    def measure(numbers: list[int]):
        return {"total": sum(numbers), "count": len(numbers), "span": [min(numbers), max(numbers)]}

    @task
    def share(total: int, count: int, *, digits: int = 2) -> float:
        return round(total / count, digits)

    @task(do_xcom_push=False)
    def silent(value: float) -> float:
        return value

    @task
    def nothing() -> None:
        return None

    measured = measure(prices())
    mean = share(measured["total"], measured["count"])
    share(measured["total"], 3, digits=1)
    silent(mean) >> nothing()
    share.override(task_id="inverse")(measured["count"], measured["total"])


own_taskflow()
