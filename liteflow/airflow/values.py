"""Small things of Airflow's that have no counterpart in the core: they answer, and do no more than that."""

from __future__ import annotations

import os
from datetime import datetime, timedelta  # noqa: F401  (timedelta is asked for by name)
from enum import StrEnum
from typing import Any

from liteflow.airflow.exceptions import AirflowNotFoundException
from liteflow.authoring import connections
from liteflow.authoring.context import DagRunFacts, TaskInstanceFacts
from liteflow.authoring.edges import Label
from liteflow.authoring.xcomarg import RETURN_VALUE
from liteflow.authoring.xcomarg import DagParam as DagParam
from liteflow.errors import ConnectionNotFoundError
from liteflow.execution.templates import Macros
from liteflow.states import RunState, TaskInstanceState

__version__ = "3.3.2"
"""The Airflow whose names and rules these are."""

XCOM_RETURN_KEY = RETURN_VALUE
EdgeModifier = type(Label("a"))
ParamsDict = dict
DagRunState = RunState
TaskInstance = RuntimeTaskInstance = TaskInstanceFacts
DagRun = DagRunFacts
IntermediateTIState = TerminalTIState = TaskInstanceState
ds_add, ds_format = Macros.ds_add, Macros.ds_format


def __getattr__(name: str) -> Any:
    """The rest of `airflow.macros`, which is what templates find there."""
    if name in ("dateutil", "uuid", "random", "time", "json"):
        return getattr(Macros(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class State:
    """Airflow's old table of states."""

    SUCCESS = TaskInstanceState.SUCCESS
    RUNNING = TaskInstanceState.RUNNING
    FAILED = TaskInstanceState.FAILED
    SKIPPED = TaskInstanceState.SKIPPED
    QUEUED = TaskInstanceState.QUEUED
    UPSTREAM_FAILED = TaskInstanceState.UPSTREAM_FAILED
    UP_FOR_RETRY = TaskInstanceState.UP_FOR_RETRY
    UP_FOR_RESCHEDULE = TaskInstanceState.UP_FOR_RESCHEDULE
    REMOVED = TaskInstanceState.REMOVED
    NONE = None
    finished = frozenset([SUCCESS, FAILED, SKIPPED, UPSTREAM_FAILED, REMOVED])
    unfinished = frozenset([NONE, QUEUED, RUNNING, UP_FOR_RETRY, UP_FOR_RESCHEDULE])


class WeightRule(StrEnum):
    """Whose priority weights are added to a task's own."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    ABSOLUTE = "absolute"


class DagRunType(StrEnum):
    """Where runs come from. Those of liteflow are `manual`."""

    BACKFILL_JOB = "backfill"
    SCHEDULED = "scheduled"
    MANUAL = "manual"
    ASSET_TRIGGERED = "asset_triggered"


class BaseXCom:
    """Has the key under which a task's result is kept."""

    XCOM_RETURN_KEY = RETURN_VALUE


XCom = BaseXCom


class BaseNotifier:
    """A callback as a class: `notify(context)` is what is called. Its `template_fields` are rendered before."""

    template_fields: tuple[str, ...] = ()

    def __init__(self, *_: Any, **__: Any) -> None:
        self.context: Any = None

    def notify(self, context: Any) -> None:
        """Tell somebody. To be written."""
        raise NotImplementedError(f"{type(self).__name__} has no notify(context)")

    def __call__(self, context: Any) -> None:
        from liteflow.execution.templates import Renderer

        renderer = Renderer()
        for field in self.template_fields:
            setattr(self, field, renderer.render(getattr(self, field), context))
        self.context = context
        self.notify(context)


class _ParsingContext:
    """Which dag a file is parsed for: none in particular."""

    dag_id = None
    task_id = None


def get_parsing_context() -> _ParsingContext:
    """What a file may ask in order to make one dag only; here it makes all of them."""
    return _ParsingContext()


class _Conf:
    """Airflow's settings, as far as environment variables (`AIRFLOW__SECTION__KEY`) give them."""

    def get(self, section: str, key: str, fallback: Any = None, **_: Any) -> Any:
        """The setting as text; `fallback` (None) if it is not set."""
        return os.environ.get(f"AIRFLOW__{section}__{key}".upper(), fallback)

    def getboolean(self, section: str, key: str, fallback: bool = False) -> bool:
        """The setting as a flag: `true`, `t` and `1` are True."""
        return str(self.get(section, key, fallback)).strip().lower() in ("true", "t", "1")

    def getint(self, section: str, key: str, fallback: int = 0) -> int:
        """The setting as a whole number."""
        return int(self.get(section, key, fallback))

    def getfloat(self, section: str, key: str, fallback: float = 0.0) -> float:
        """The setting as a number."""
        return float(self.get(section, key, fallback))


conf = _Conf()


class Connection(connections.Connection):
    """The core's, with Airflow's error."""

    @classmethod
    def get(cls, conn_id: str) -> connections.Connection:
        """The connection of that id. Raises AirflowNotFoundException."""
        try:
            return super().get(conn_id)
        except ConnectionNotFoundError as error:
            raise AirflowNotFoundException(error.message, identifier=conn_id) from None

    @classmethod
    def get_connection_from_secrets(cls, conn_id: str) -> connections.Connection:
        """The same, under its older name."""
        return cls.get(conn_id)


class BaseHook(connections.BaseHook):
    """The core's, with Airflow's error."""

    @classmethod
    def get_connection(cls, conn_id: str) -> connections.Connection:
        """The connection of that id. Raises AirflowNotFoundException."""
        return Connection.get(conn_id)
