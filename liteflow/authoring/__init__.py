"""How dags are written. Knows nothing of databases, processes or clocks."""

from liteflow.authoring.context import Context, get_current_context
from liteflow.authoring.dag import DAG, Dag, dag
from liteflow.authoring.decorators import setup, task, teardown
from liteflow.authoring.edges import Label, chain, chain_linear, cross_downstream
from liteflow.authoring.groups import TaskGroup, task_group
from liteflow.authoring.params import Param
from liteflow.authoring.sensing import PokeReturnValue
from liteflow.authoring.task import Task
from liteflow.authoring.templates import literal
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.authoring.xcomarg import XComArg

__all__ = [
    "DAG",
    "Context",
    "Dag",
    "Label",
    "Param",
    "PokeReturnValue",
    "Task",
    "TaskGroup",
    "TriggerRule",
    "XComArg",
    "chain",
    "chain_linear",
    "cross_downstream",
    "dag",
    "get_current_context",
    "literal",
    "setup",
    "task",
    "task_group",
    "teardown",
]
