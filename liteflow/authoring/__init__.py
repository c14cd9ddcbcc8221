"""How dags are written. Knows nothing of databases, processes or clocks."""

from liteflow.authoring.context import Context, get_current_context
from liteflow.authoring.dag import DAG, Dag, dag
from liteflow.authoring.edges import chain, chain_linear, cross_downstream
from liteflow.authoring.task import Task, task
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.authoring.xcomarg import XComArg

__all__ = [
    "DAG",
    "Context",
    "Dag",
    "Task",
    "TriggerRule",
    "XComArg",
    "chain",
    "chain_linear",
    "cross_downstream",
    "dag",
    "get_current_context",
    "task",
]
