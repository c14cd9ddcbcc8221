"""The options of dags and tasks: which there are, what they may be, and which of Airflow's are inert here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from liteflow.authoring.ids import did_you_mean
from liteflow.authoring.places import Place
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.errors import InvalidOptionError

DEFAULT_KILL_GRACE_S = 5.0
DEFAULT_LOG_CAP_BYTES = 10 * 1024 * 1024
DEFAULT_MAX_RETRY_DELAY_S = 24 * 3600.0
"""Airflow's cap of a backoff when none is given."""


class TaskOptions(NamedTuple):
    """The options of one task, checked. Times are seconds."""

    retries: int = 0
    """Tries after the first one."""
    retry_delay_s: float = 0.0
    retry_exponential_backoff: float = 0.0
    """The factor by which the delay grows with each try; 0 is off, True reads as 2."""
    max_retry_delay_s: float | None = None
    timeout_s: float | None = None
    """How long one try may run before it is killed."""
    kill_grace_s: float = DEFAULT_KILL_GRACE_S
    """How long a try has to end by itself when it is told to, before it is killed."""
    log_cap_bytes: int = DEFAULT_LOG_CAP_BYTES
    """How much of one try's log is kept."""
    trigger_rule: TriggerRule = TriggerRule.ALL_SUCCESS
    multiple_outputs: bool | None = None
    """Push each key of the returned dict as an XCom of its own; None: if the return annotation is a dict."""
    doc_md: str | None = None


def _fail(option: str, value: object, wanted: str, where: Place) -> InvalidOptionError:
    return InvalidOptionError(f"{where}: option {option}={value!r} must be {wanted}", option=option)


def _count(option: str, value: Any, where: Place) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _fail(option, value, "a whole number, 0 or more", where)
    return value


def _positive_count(option: str, value: Any, where: Place) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _fail(option, value, "a whole number, 1 or more", where)
    return value


def _float(value: float) -> float:
    """The number as a float; one that is too large for it is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _seconds(option: str, value: Any, where: Place) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise _fail(option, value, "seconds or a timedelta", where)
    number = _float(seconds)
    if not math.isfinite(number) or number < 0:
        raise _fail(option, value, "a finite number of seconds, 0 or more", where)
    return number


def _positive_seconds(option: str, value: Any, where: Place) -> float:
    seconds = _seconds(option, value, where)
    if seconds == 0:
        raise _fail(option, value, "more than 0 seconds", where)
    return seconds


def _factor(option: str, value: Any, where: Place) -> float:
    if value is True:
        return 2.0
    number = _float(value) if isinstance(value, int | float) else math.nan
    if not math.isfinite(number) or number < 0:
        raise _fail(option, value, "a factor, 0 or more, or True (which is 2)", where)
    return number


def _rule(option: str, value: Any, where: Place) -> TriggerRule:
    try:
        return TriggerRule(value)
    except ValueError:
        names = [rule.value for rule in TriggerRule]
        hint = did_you_mean(str(value), names) or f"; there are {', '.join(names)}"
        raise InvalidOptionError(f"{where}: no trigger rule {value!r}{hint}", option=option) from None


def _flag(option: str, value: Any, where: Place) -> bool:
    if not isinstance(value, bool):
        raise _fail(option, value, "True or False", where)
    return value


def _text(option: str, value: Any, where: Place) -> str:
    if not isinstance(value, str):
        raise _fail(option, value, "text", where)
    return value


Check = Callable[[str, Any, Place], Any]

# The name as it is written, the field that it fills, its check.
_TASK_OPTIONS: Mapping[str, tuple[str, Check]] = {
    "retries": ("retries", _count),
    "retry_delay": ("retry_delay_s", _seconds),
    "retry_exponential_backoff": ("retry_exponential_backoff", _factor),
    "max_retry_delay": ("max_retry_delay_s", _seconds),
    "timeout": ("timeout_s", _positive_seconds),
    "execution_timeout": ("timeout_s", _positive_seconds),
    "kill_grace_s": ("kill_grace_s", _seconds),
    "log_cap_bytes": ("log_cap_bytes", _positive_count),
    "trigger_rule": ("trigger_rule", _rule),
    "multiple_outputs": ("multiple_outputs", _flag),
    "doc_md": ("doc_md", _text),
}

# Airflow's options that mean nothing without its scheduler, mail, users or web pages.
_INERT_TASK_OPTIONS = frozenset(
    [
        "owner",
        "email",
        "email_on_retry",
        "email_on_failure",
        "queue",
        "start_date",
        "end_date",
        "sla",
        "resources",
        "run_as_user",
        "inlets",
        "outlets",
        "doc",
        "doc_json",
        "doc_yaml",
        "doc_rst",
        "task_display_name",
        "logger_name",
        "allow_nested_operators",
        "weight_rule",
        "show_return_value_in_logs",
        "ignore_first_depends_on_past",
    ]
)
INERT_DAG_OPTIONS = frozenset(
    [
        "schedule",
        "start_date",
        "end_date",
        "catchup",
        "doc_md",
        "dag_display_name",
        "owner_links",
        "access_control",
        "deadline",
        "is_paused_upon_creation",
        "sla_miss_callback",
        "max_consecutive_failed_dag_runs",
        "auto_register",
        "disable_bundle_versioning",
        "rerun_with_latest_version",
        "allowed_run_types",
    ]
)

# Airflow's options that would change what a run does, and that liteflow does not have yet: refused, not ignored.
_MISSING_TASK_OPTIONS = frozenset(
    [
        "pool",
        "pool_slots",
        "priority_weight",
        "depends_on_past",
        "wait_for_downstream",
        "retry_policy",
        "max_active_tis_per_dag",
        "max_active_tis_per_dagrun",
        "map_index_template",
        "on_execute_callback",
        "on_failure_callback",
        "on_success_callback",
        "on_retry_callback",
        "on_skipped_callback",
        "pre_execute",
        "post_execute",
        "templates_dict",
        "templates_exts",
        "wait_for_past_depends_before_skipping",
        "render_template_as_native_obj",
        "executor",
        "executor_config",
        "do_xcom_push",
    ]
)
MISSING_DAG_OPTIONS = frozenset(
    [
        "dagrun_timeout",
        "max_active_runs",
        "max_crashes",
        "retain_runs",
        "retain_days",
        "on_success_callback",
        "on_failure_callback",
        "template_searchpath",
        "template_undefined",
        "user_defined_macros",
        "user_defined_filters",
        "jinja_environment_kwargs",
        "render_template_as_native_obj",
    ]
)


def task_options(given: Mapping[str, Any], where: Place, base: TaskOptions | None = None) -> TaskOptions:
    """Check `given` and lay it over `base`. Raises InvalidOptionError with `where` and the nearest name."""
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name in _TASK_OPTIONS:
            field, check = _TASK_OPTIONS[name]
            if field in fields:
                raise InvalidOptionError(f"{where}: give timeout or execution_timeout, not both", option=name)
            # None is the default, and lifts what `default_args` says.
            fields[field] = TaskOptions._field_defaults[field] if value is None else check(name, value, where)
        elif name not in _INERT_TASK_OPTIONS:
            raise unknown_option("a task", name, where, [*_TASK_OPTIONS, "task_id"], _MISSING_TASK_OPTIONS)
    return (base or TaskOptions())._replace(**fields)


def lay_over(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they were written, `given` over `base`; two names of one option count as one."""
    taken = {_TASK_OPTIONS[name][0] for name in given if name in _TASK_OPTIONS}
    kept = {
        name: value for name, value in base.items() if name not in _TASK_OPTIONS or _TASK_OPTIONS[name][0] not in taken
    }
    return {**kept, **given}


def check_default_args(given: Mapping[str, Any], where: Place) -> dict[str, Any]:
    """`default_args` of a dag, once they are known to be good; each task lays its own options over them."""
    if not isinstance(given, Mapping):
        raise InvalidOptionError(f"{where}: default_args must be a dict of task options", option="default_args")
    if "task_id" in given:
        raise InvalidOptionError(f"{where}: default_args cannot hold task_id: every task has its own", option="task_id")
    task_options(given, where)
    return dict(given)


def unknown_option(
    of_what: str, name: str, where: Place, known: Iterable[str], missing: frozenset[str]
) -> InvalidOptionError:
    """The error for an option that there is not, or not yet."""
    if name in missing:
        return InvalidOptionError(
            f"{where}: option {name!r} of {of_what} is not supported by this version of liteflow; leave it out",
            option=name,
        )
    known = sorted(known)
    hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
    return InvalidOptionError(f"{where}: {of_what} has no option {name!r}{hint}", option=name)


def dag_timedelta(option: str, value: Any, where: Place) -> float | None:
    """Seconds of a dag's option that is a time, or None if it is not given."""
    return None if value is None else _positive_seconds(option, value, where)


def dag_count(option: str, value: Any, where: Place) -> int | None:
    """A dag's option that is a number from 1, or None if it is not given."""
    return None if value is None else _positive_count(option, value, where)
