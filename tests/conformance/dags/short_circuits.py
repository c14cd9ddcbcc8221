"""Short circuits: past every rule and only past the next tasks; conditions above a task; the latest run only."""

from __future__ import annotations

import pendulum
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.latest_only import LatestOnlyOperator
from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.sdk import DAG, chain, task

with DAG("own_short_circuits", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):

    @task.short_circuit
    def goes_on() -> str:
        return "yes"

    @task.short_circuit()
    def stops() -> bool:
        return False

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def stops_the_next() -> list[int]:
        return []

    def ends(letter: str) -> list[EmptyOperator]:
        return [
            EmptyOperator(task_id=f"{letter}_next"),
            EmptyOperator(task_id=f"{letter}_last", trigger_rule="all_done"),
        ]

    chain(goes_on(), *ends("a"))
    chain(stops(), *ends("b"))
    chain(stops_the_next(), *ends("c"))
    chain(ShortCircuitOperator(task_id="classic", python_callable=lambda: 0), *ends("d"))
    LatestOnlyOperator(task_id="latest") >> EmptyOperator(task_id="e_next")

    @task.run_if(lambda context: context["task"].task_id.endswith("wanted"))
    @task
    def conditional() -> int:
        return 1

    conditional.override(task_id="wanted")()
    conditional.override(task_id="not_asked_for")()

    @task.skip_if(lambda context: True)
    @task.bash
    def never() -> str:
        return "exit 1"

    never()
