"""The same workloads as dags of liteflow."""

from __future__ import annotations

from typing import Any

from liteflow import Dag, task
from tests.benchmarks.bare import Graph, Ref
from tests.benchmarks.workloads import Mapped


def dag_of(what: Graph | Mapped, dag_id: str) -> Dag:
    """The dag that does what the bare loop does with `what`."""
    with Dag(dag_id) as dag:
        if isinstance(what, Mapped):
            name = next(iter(what.function.__code__.co_varnames))
            task(what.reducer)(task(what.function).expand(**{name: list(what.items)}))
            return dag
        values: dict[str, Any] = {}
        made: dict[Any, Any] = {}
        for name, node in what.items():
            function = made.setdefault(node.function, task(node.function))
            args = [values[arg.name] if isinstance(arg, Ref) else arg for arg in node.args]
            values[name] = function.override(task_id=name)(*args)
    return dag
