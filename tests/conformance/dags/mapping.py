"""Mapped tasks: over lists, values, dicts, crosswise, with `map` and `zip`; none at all; one skips, one fails."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

with DAG("own_mapping", schedule=None, start_date=pendulum.datetime(2025, 1, 1, tz="UTC")):

    @task
    def numbers() -> list[int]:
        return [1, 2, 3]

    @task
    def none_at_all() -> list[int]:
        return []

    @task
    def add(x: int, y: int) -> int:
        return x + y

    @task
    def double(x: int) -> int:
        return 2 * x

    @task
    def total(values) -> int:
        return sum(values)

    @task(trigger_rule="none_failed")
    def count_of(values) -> int:
        return len(list(values))

    @task(trigger_rule="all_done")
    def survivors(values) -> list[int]:
        return sorted(values)

    @task
    def odd_only(x: int) -> int:
        if x % 2 == 0:
            raise AirflowSkipException("even")
        return x

    @task
    def not_two(x: int) -> int:
        if x == 2:
            raise AirflowFailException("two")
        return x

    @task
    def pair(both) -> str:
        return f"{both[0]}{both[1]}"

    @task
    def keyed(entry) -> str:
        key, value = entry
        return f"{key}={value}"

    some = numbers()
    total(double.expand(x=some))
    total.override(task_id="total_crosswise")(add.expand(x=[1, 2], y=[10, 20]))
    add.override(task_id="add_partial").partial(y=100).expand(x=some)
    count_of(double.override(task_id="double_none").expand(x=none_at_all()))
    total.override(task_id="total_none")(double.override(task_id="double_none_again").expand(x=none_at_all()))
    odd = odd_only.expand(x=some)
    total.override(task_id="total_odd")(odd)
    count_of.override(task_id="count_odd")(odd)
    survivors(not_two.expand(x=some))
    pair.expand(both=some.zip(some.map(lambda x: x * x)))
    keyed.expand(entry={"a": 1, "b": 2})
    add.override(task_id="add_kwargs").expand_kwargs([{"x": 1, "y": 2}, {"x": 3, "y": 4}])
