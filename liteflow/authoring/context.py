"""What a running task can learn about its run: the context, with Airflow's keys.

A task function gets a key of the context by naming it as a parameter (`def load(rows, ds, ti): ...`), all the rest of
them through `**kwargs`, and the whole of it from `get_current_context()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NamedTuple

CONTEXT_KEYS = frozenset(
    [
        "dag_run",
        "data_interval_end",
        "data_interval_start",
        "ds",
        "ds_nodash",
        "logical_date",
        "params",
        "run_id",
        "task_instance",
        "task_instance_key_str",
        "ti",
        "try_number",
        "ts",
        "ts_nodash",
        "ts_nodash_with_tz",
    ]
)


class DagRunFacts(NamedTuple):
    """The run, as a task sees it (`dag_run` in the context)."""

    dag_id: str
    run_id: str
    logical_date: datetime
    conf: dict[str, Any]
    """The params of the run, under Airflow's name for them."""


class TaskInstanceFacts(NamedTuple):
    """The task instance, as its own code sees it (`ti` in the context)."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    """1 for the first try."""
    max_tries: int
    """The last try number that is allowed."""


class Context(dict[str, Any]):
    """The context of a running task: a dict with the keys of `CONTEXT_KEYS`."""


_current: ContextVar[Context] = ContextVar("liteflow_context")


def get_current_context() -> Context:
    """The context of the task that is running here. Raises RuntimeError outside a task."""
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError("get_current_context() was called outside a running task") from None


@contextmanager
def current_context(context: Context) -> Iterator[None]:
    """Make `context` the one that `get_current_context()` finds."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def make_context(run: DagRunFacts, instance: TaskInstanceFacts) -> Context:
    """The context of one try."""
    date = run.logical_date
    ts = date.isoformat()
    return Context(
        dag_run=run,
        data_interval_start=date,
        data_interval_end=date,
        ds=date.strftime("%Y-%m-%d"),
        ds_nodash=date.strftime("%Y%m%d"),
        logical_date=date,
        params=run.conf,
        run_id=run.run_id,
        task_instance=instance,
        ti=instance,
        task_instance_key_str=f"{run.dag_id}__{instance.task_id}__{date.strftime('%Y%m%d')}",
        try_number=instance.try_number,
        ts=ts,
        ts_nodash=date.strftime("%Y%m%dT%H%M%S"),
        ts_nodash_with_tz=ts.replace("-", "").replace(":", ""),
    )
