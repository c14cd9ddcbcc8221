"""liteflow: an embedded workflow orchestrator. A dag of Python functions, kept in one SQLite file.

Names for writing dags are here at once; what few dags use, runs them and reads their history is imported when it is
first used, so that `import liteflow` costs neither SQLAlchemy nor alembic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from liteflow.authoring import (
    DAG,
    Context,
    Dag,
    Label,
    Param,
    PokeReturnValue,
    Task,
    TaskGroup,
    TriggerRule,
    XComArg,
    chain,
    chain_linear,
    cross_downstream,
    dag,
    get_current_context,
    literal,
    setup,
    task,
    task_group,
    teardown,
)
from liteflow.errors import DagWarning, FailTask, LiteflowError, SkipTask
from liteflow.states import EndReason, RunState, TaskInstanceState

if TYPE_CHECKING:
    from liteflow.authoring.connections import Connection
    from liteflow.authoring.retry_policy import (
        ExceptionRetryPolicy,
        RetryAction,
        RetryDecision,
        RetryPolicy,
        RetryRule,
    )
    from liteflow.authoring.variables import Variable
    from liteflow.execution.handle import RunHandle
    from liteflow.execution.service import ExecutorService
    from liteflow.storage.history import DagRun, read_session

__version__ = "0.1.0"

__all__ = [
    "DAG",
    "Connection",
    "Context",
    "Dag",
    "DagRun",
    "DagWarning",
    "EndReason",
    "ExceptionRetryPolicy",
    "ExecutorService",
    "FailTask",
    "Label",
    "LiteflowError",
    "Param",
    "PokeReturnValue",
    "RetryAction",
    "RetryDecision",
    "RetryPolicy",
    "RetryRule",
    "RunEvent",
    "RunHandle",
    "RunState",
    "SkipTask",
    "Task",
    "TaskGroup",
    "TaskInstanceState",
    "TriggerRule",
    "Variable",
    "XComArg",
    "chain",
    "chain_linear",
    "cross_downstream",
    "dag",
    "get_current_context",
    "literal",
    "read_session",
    "setup",
    "task",
    "task_group",
    "teardown",
]

_LATER = {
    "Connection": "liteflow.authoring.connections",
    "DagRun": "liteflow.storage.history",
    "ExceptionRetryPolicy": "liteflow.authoring.retry_policy",
    "ExecutorService": "liteflow.execution.service",
    "RetryAction": "liteflow.authoring.retry_policy",
    "RetryDecision": "liteflow.authoring.retry_policy",
    "RetryPolicy": "liteflow.authoring.retry_policy",
    "RetryRule": "liteflow.authoring.retry_policy",
    "RunEvent": "liteflow.execution.active",
    "RunHandle": "liteflow.execution.handle",
    "Variable": "liteflow.authoring.variables",
    "read_session": "liteflow.storage.history",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
