"""What operators know of themselves, under Airflow's names: in the dag file, and in `execute` in a worker.

Only what a class has not got itself is looked up here, so that its own attributes of these names come first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from liteflow.authoring.context import get_current_context
from liteflow.authoring.options import INERT_TASK_OPTIONS, TaskOptions

if TYPE_CHECKING:
    from liteflow.authoring.task import Task

_PLAIN = (str, int, float, date, timedelta)  # a datetime is a date


class Facts(NamedTuple):
    """The options of an operator on their way to a worker: those that are plain values and no defaults."""

    options: dict[str, Any]
    others: dict[str, Any]
    """Those that mean nothing to a run, such as the owner."""


def facts_of(options: TaskOptions, others: Mapping[str, Any]) -> Facts:
    """What is told to the worker. Functions and other objects stay behind: they might not travel."""
    changed = {
        name: value
        for name, value in zip(options._fields, options, strict=True)
        if isinstance(value, _PLAIN) and value != TaskOptions._field_defaults[name]
    }
    return Facts(changed, {name: value for name, value in others.items() if _is_plain(value)})


def inert_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of options as they are written, those that mean nothing to a run."""
    return {name: value for name, value in given.items() if name in INERT_TASK_OPTIONS}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(one, _PLAIN) for one in value)
    return isinstance(value, _PLAIN)


def _seconds(value: float | None) -> timedelta | None:
    return None if value is None else timedelta(seconds=value)


_AS_THEY_ARE = frozenset(
    [
        "retries",
        "retry_exponential_backoff",
        "retry_policy",
        "depends_on_past",
        "wait_for_downstream",
        "priority_weight",
        "weight_rule",
        "pool_slots",
        "max_active_tis_per_dagrun",
        "map_index_template",
        "do_xcom_push",
        "multiple_outputs",
        "doc_md",
        "executor",
        "render_template_as_native_obj",
        "on_execute_callback",
        "on_success_callback",
        "on_failure_callback",
        "on_retry_callback",
        "on_skipped_callback",
    ]
)
"""Options that are called the same here, and are of the same sort."""

_CHANGED: Mapping[str, Callable[[TaskOptions], Any]] = {
    "retry_delay": lambda options: _seconds(options.retry_delay_s),
    "max_retry_delay": lambda options: _seconds(options.max_retry_delay_s),
    "execution_timeout": lambda options: _seconds(options.timeout_s),
    "pool": lambda options: options.pool or "default_pool",
}

_DEFAULTS: Mapping[str, Callable[[], Any]] = {
    "owner": lambda: "airflow",
    "queue": lambda: "default",
    "email_on_retry": lambda: True,
    "email_on_failure": lambda: True,
    "allow_nested_operators": lambda: True,
    "show_return_value_in_logs": lambda: True,
    "ignore_first_depends_on_past": lambda: False,
    "inlets": list,
    "outlets": list,
}


def _params(operator: Any) -> Any:
    try:
        return get_current_context()["params"]
    except RuntimeError:  # in the dag file
        own = getattr(operator.options, "params", None) or {}
        return {**operator.dag.params, **own} if operator.dag is not None else own


_ITSELF: Mapping[str, Callable[[Any], Any]] = {
    "dag_id": lambda operator: operator.dag.dag_id,
    "task_type": lambda operator: type(operator).__name__,
    "operator_name": lambda operator: type(operator).__name__,
    "node_id": lambda operator: operator.task_id,
    "label": lambda operator: operator.task_id.rpartition(".")[2],
    "task_group": lambda operator: operator.group,
    "params": _params,
    "roots": lambda operator: [operator],
    "leaves": lambda operator: [operator],
    "upstream_list": lambda operator: operator.get_direct_relatives(upstream=True),
    "downstream_list": lambda operator: operator.get_direct_relatives(),
}


class OperatorAttributes:
    """Attributes and methods of Airflow's operators that are no part of what a task is here."""

    ui_color = "#fff"
    ui_fgcolor = "#000"

    def __getattr__(self: Any, name: str) -> Any:
        if name in _AS_THEY_ARE:
            value = getattr(self.options, name)
            return list(value) if isinstance(value, tuple) else value  # callbacks are a list in Airflow
        if name in _CHANGED:
            return _CHANGED[name](self.options)
        if name in _ITSELF:
            return _ITSELF[name](self)
        if name in INERT_TASK_OPTIONS:
            others = vars(self).get("_others", {})
            if name == "task_display_name":
                return others.get(name) or self.task_id
            return others[name] if name in others else _DEFAULTS.get(name, lambda: None)()
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def get_dag(self: Any) -> Any:
        """Its dag; in a worker what `context["dag"]` is."""
        return self.dag

    def has_dag(self: Any) -> bool:
        """Whether it was made inside a dag."""
        return self.dag is not None

    def get_direct_relative_ids(self: Any, upstream: bool = False) -> set[str]:
        """Ids of the tasks right after it, or before it. In the dag file only."""
        return set(self.upstream_task_ids if upstream else self.downstream_task_ids)

    def get_direct_relatives(self: Any, upstream: bool = False) -> list[Task]:
        """The tasks right after it, or before it. In the dag file only."""
        return [self.dag.get_task(one) for one in (self.upstream_task_ids if upstream else self.downstream_task_ids)]

    def xcom_push(self, context: Mapping[str, Any], key: str, value: Any) -> None:
        """Hand `value` on under `key`; see `ti.xcom_push`."""
        context["ti"].xcom_push(key, value)

    def xcom_pull(self, context: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """What a task handed on; see `ti.xcom_pull`."""
        return context["ti"].xcom_pull(*args, **kwargs)
