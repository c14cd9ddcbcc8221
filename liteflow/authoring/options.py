"""The options of dags and tasks: which there are, what they may be, and which of Airflow's are inert here."""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from liteflow.authoring.dagfile import airflow_files
from liteflow.authoring.ids import check_name, did_you_mean
from liteflow.authoring.params import Param, declare_params
from liteflow.authoring.places import Place
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.errors import InvalidOptionError

if TYPE_CHECKING:
    from liteflow.authoring.retry_policy import RetryPolicy

Check = Callable[[str, Any, Place], Any]

PROCESSES, THREADS = "processes", "threads"
"""The names of executors that a task may have: slots, and threads of the service's process."""

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
    do_xcom_push: bool = True
    """Whether the result is stored."""
    priority_weight: int = 1
    weight_rule: str = "downstream"
    """Whose weights are added to its own: `downstream`, `upstream`, or nobody's (`absolute`)."""
    pool: str | None = None
    """The named pool in which it takes slots while it runs."""
    pool_slots: int = 1
    max_active_tis_per_dagrun: int | None = None
    """How many of its instances may run at once in one run."""
    map_index_template: str | None = None
    """A Jinja template, rendered after the try: what the mapped instance is called where it is shown."""
    depends_on_past: bool = False
    """Goes only when the same task succeeded, or was skipped, in the run before."""
    wait_for_downstream: bool = False
    """The same, and what is directly below it there too."""
    retry_policy: RetryPolicy | None = None
    on_execute_callback: tuple[Callable[..., Any], ...] = ()
    on_success_callback: tuple[Callable[..., Any], ...] = ()
    on_failure_callback: tuple[Callable[..., Any], ...] = ()
    on_retry_callback: tuple[Callable[..., Any], ...] = ()
    on_skipped_callback: tuple[Callable[..., Any], ...] = ()
    render_template_as_native_obj: bool = False
    templates_dict: dict[str, Any] | None = None
    templates_exts: tuple[str, ...] = ()
    """Ends of texts that make them names of template files."""
    params: Mapping[str, Param] | None = None
    """Its own params, which are laid over those of the dag."""
    pre_execute: Callable[..., Any] | None = None
    """Called with the context before the task is; its error fails the try."""
    post_execute: Callable[..., Any] | None = None
    """Called with the context and the result; its error fails the try."""
    executor: str | None = None
    """What runs it: `processes` or `threads`; None for what runs the dag."""
    executor_config: Any = None
    """What an executor is told of the task; checked by the one that uses it."""


class SensorOptions(NamedTuple):
    """How a sensor waits. Times are seconds."""

    poke_interval_s: float = 60.0
    timeout_s: float = 7 * 24 * 3600.0
    """How long it may wait in all, counted from its first look."""
    mode: str = "poke"
    """`poke` keeps its slot between looks, `reschedule` gives it back."""
    soft_fail: bool = False
    """Skipped in place of failed when the time is over."""
    silent_fail: bool = False
    """An error while it looks counts as "not yet"."""
    never_fail: bool = False
    """Any error while it looks skips it; its own time limit fails it all the same."""
    exponential_backoff: bool = False
    max_wait_s: float | None = None
    """The longest interval of the backoff."""
    looks_when_taken_up: bool = False
    """Whether it looks at once when its run was interrupted and goes on: it may have to see to what it waits for."""


class BashOptions(NamedTuple):
    """How a command is run by the shell."""

    env: dict[str, Any] | None = None
    """The environment; None is the one that the task has."""
    append_env: bool = False
    """Whether `env` is laid over the task's environment."""
    skip_on_exit_code: tuple[int, ...] = (99,)
    cwd: str | None = None
    output_processor: Callable[[str], Any] | None = None
    """What makes the XCom out of the last line."""
    output_encoding: str = "utf-8"
    """Of that line."""


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


def _weight(option: str, value: Any, where: Place) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _fail(option, value, "a whole number", where)
    return value


def _one_of(*words: str) -> Check:
    def check(option: str, value: Any, where: Place) -> str:
        text = getattr(value, "value", value)
        if text not in words:
            raise _fail(option, value, " or ".join(f'"{word}"' for word in words), where)
        return str(text)

    return check


def _pool(option: str, value: Any, where: Place) -> str | None:
    """Airflow's `default_pool`, in which every task is there, is no pool here: slots are what limits these."""
    return None if value == "default_pool" else check_name(option, value)


def _callbacks(option: str, value: Any, where: Place) -> tuple[Callable[..., Any], ...]:
    found = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(callable(one) for one in found):
        raise _fail(option, value, "a function that takes the context, or a list of them", where)
    return found


def _policy(option: str, value: Any, where: Place) -> RetryPolicy:
    if not callable(getattr(value, "evaluate", None)):
        raise _fail(option, value, "a RetryPolicy", where)
    policy: RetryPolicy = value
    return policy


def _dict(option: str, value: Any, where: Place) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise _fail(option, value, "a dict with text keys", where)
    return value


def _exit_codes(option: str, value: Any, where: Place) -> tuple[int, ...]:
    found = tuple(value) if isinstance(value, list | tuple | set | frozenset | range) else (value,)
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in found):
        raise _fail(option, value, "an exit code or a list of them", where)
    return found


def _encoding(option: str, value: Any, where: Place) -> str:
    try:
        return codecs.lookup(value).name
    except (LookupError, TypeError):
        raise _fail(option, value, "the name of an encoding", where) from None


def _function(option: str, value: Any, where: Place) -> Callable[..., Any]:
    if not callable(value):
        raise _fail(option, value, "a function", where)
    function: Callable[..., Any] = value
    return function


def _extensions(option: str, value: Any, where: Place) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and one for one in value):
        raise _fail(option, value, 'a list of ends of file names, such as [".sql"]', where)
    return tuple(value)


def _anything(_option: str, value: Any, _where: Place) -> Any:
    return value


def _params(_option: str, value: Any, where: Place) -> dict[str, Param]:
    return declare_params(value, where)


def _executor(option: str, value: Any, where: Place) -> str | None:
    """In a file that is for Airflow the other names are those of Airflow's executors, and mean nothing here."""
    if isinstance(value, str) and value in (PROCESSES, THREADS):
        return value
    if airflow_files:
        airflow_files.setdefault(where.file, {})[f"executor={value!r}"] = where.line
        return None
    raise _fail(option, value, f'"{PROCESSES}" or "{THREADS}"', where)


def _path(option: str, value: Any, where: Place) -> str:
    if not isinstance(value, str | os.PathLike):
        raise _fail(option, value, "a path", where)
    return str(os.fspath(value))


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
    "do_xcom_push": ("do_xcom_push", _flag),
    "priority_weight": ("priority_weight", _weight),
    "weight_rule": ("weight_rule", _one_of("downstream", "upstream", "absolute")),
    "pool": ("pool", _pool),
    "pool_slots": ("pool_slots", _positive_count),
    "max_active_tis_per_dagrun": ("max_active_tis_per_dagrun", _positive_count),
    "map_index_template": ("map_index_template", _text),
    "depends_on_past": ("depends_on_past", _flag),
    "wait_for_downstream": ("wait_for_downstream", _flag),
    "retry_policy": ("retry_policy", _policy),
    "on_execute_callback": ("on_execute_callback", _callbacks),
    "on_success_callback": ("on_success_callback", _callbacks),
    "on_failure_callback": ("on_failure_callback", _callbacks),
    "on_retry_callback": ("on_retry_callback", _callbacks),
    "on_skipped_callback": ("on_skipped_callback", _callbacks),
    "render_template_as_native_obj": ("render_template_as_native_obj", _flag),
    "templates_dict": ("templates_dict", _dict),
    "templates_exts": ("templates_exts", _extensions),
    "params": ("params", _params),
    "pre_execute": ("pre_execute", _function),
    "post_execute": ("post_execute", _function),
    "executor": ("executor", _executor),
    "executor_config": ("executor_config", _anything),
}

TASK_OPTION_NAMES = frozenset(_TASK_OPTIONS)
"""The options that every task has."""

_SENSOR_OPTIONS: Mapping[str, tuple[str, Check]] = {
    "poke_interval": ("poke_interval_s", _seconds),
    "timeout": ("timeout_s", _seconds),
    "mode": ("mode", _one_of("poke", "reschedule")),
    "soft_fail": ("soft_fail", _flag),
    "silent_fail": ("silent_fail", _flag),
    "never_fail": ("never_fail", _flag),
    "exponential_backoff": ("exponential_backoff", _flag),
    "max_wait": ("max_wait_s", _seconds),
}

_BASH_OPTIONS: Mapping[str, tuple[str, Check]] = {
    "env": ("env", _dict),
    "append_env": ("append_env", _flag),
    "skip_on_exit_code": ("skip_on_exit_code", _exit_codes),
    "cwd": ("cwd", _path),
    "output_processor": ("output_processor", _function),
    "output_encoding": ("output_encoding", _encoding),
}

# Airflow's options that mean nothing without its scheduler, mail, users or web pages.
INERT_TASK_OPTIONS = frozenset(
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
        "show_return_value_in_logs",
        "ignore_first_depends_on_past",
        "wait_for_past_depends_before_skipping",  # a task whose upstream skips it is skipped either way
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
_MISSING_TASK_OPTIONS = frozenset(["max_active_tis_per_dag"])


OPERATOR_PARAMETERS: set[str] = {*_SENSOR_OPTIONS, *_BASH_OPTIONS}
"""Options of one sort of task, and parameters of operator classes as they are defined: `default_args` may hold them."""


def task_options(
    given: Mapping[str, Any], where: Place, base: TaskOptions | None = None, more: Iterable[str] = ()
) -> TaskOptions:
    """Check `given` and lay it over `base`. Raises InvalidOptionError with `where` and the nearest name.

    `more` are names of other options that the task has, for the error.
    """
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name in _TASK_OPTIONS:
            field, check = _TASK_OPTIONS[name]
            if field in fields:
                raise InvalidOptionError(f"{where}: give timeout or execution_timeout, not both", option=name)
            # None is the default, and lifts what `default_args` says.
            fields[field] = TaskOptions._field_defaults[field] if value is None else check(name, value, where)
        elif name not in INERT_TASK_OPTIONS:
            raise unknown_option("a task", name, where, [*_TASK_OPTIONS, *more, "task_id"], _MISSING_TASK_OPTIONS)
    if fields.get("params") and base is not None and base.params:
        fields["params"] = {**base.params, **fields["params"]}  # default_args and a task each may have some
    if fields.get("wait_for_downstream"):
        fields["depends_on_past"] = True  # it is the stricter one, as in Airflow
    return (base or TaskOptions())._replace(**fields)


def sensor_options(given: Mapping[str, Any], where: Place) -> SensorOptions:
    """Check the options of a sensor."""
    options = SensorOptions(**_own_options(_SENSOR_OPTIONS, given, where))
    if options.soft_fail and options.never_fail:
        raise InvalidOptionError(f"{where}: give soft_fail or never_fail, not both", option="never_fail")
    return options


def bash_options(given: Mapping[str, Any], where: Place) -> BashOptions:
    """Check the options of a command."""
    return BashOptions(**_own_options(_BASH_OPTIONS, given, where))


def _own_options(table: Mapping[str, tuple[str, Check]], given: Mapping[str, Any], where: Place) -> dict[str, Any]:
    return {table[name][0]: table[name][1](name, value, where) for name, value in given.items() if value is not None}


def own_option_names(kind: str) -> frozenset[str]:
    """The options that only tasks of that kind have."""
    tables = {"sensor": _SENSOR_OPTIONS, "bash": _BASH_OPTIONS}
    names = frozenset(tables.get(kind, ()))
    return names | {"ignore_downstream_trigger_rules"} if kind == "short_circuit" else names


def task_option_sort(name: str, kind: str = "") -> str:
    """What becomes of an option of a task: `known`, `inert`, `missing` (of Airflow's, refused here) or `unknown`."""
    if name in TASK_OPTION_NAMES or name in own_option_names(kind) or name == "task_id":
        return "known"
    return "inert" if name in INERT_TASK_OPTIONS else "missing" if name in _MISSING_TASK_OPTIONS else "unknown"


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
    default_task_options(given, where)
    return dict(given)


def default_task_options(given: Mapping[str, Any], where: Place, base: TaskOptions | None = None) -> TaskOptions:
    """What `default_args` say for every task, laid over `base`; what is for operators alone is left out."""
    of_operators = OPERATOR_PARAMETERS - TASK_OPTION_NAMES
    return task_options({name: value for name, value in given.items() if name not in of_operators}, where, base)


def unknown_option(
    of_what: str, name: str, where: Place, known: Iterable[str], missing: frozenset[str] = frozenset()
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


def dag_callbacks(option: str, value: Any, where: Place) -> tuple[Callable[..., Any], ...]:
    """A dag's callbacks: none, one function, or a list of them."""
    return () if value is None else _callbacks(option, value, where)


def dag_timedelta(option: str, value: Any, where: Place) -> float | None:
    """Seconds of a dag's option that is a time, or None if it is not given."""
    return None if value is None else _positive_seconds(option, value, where)


def dag_count(option: str, value: Any, where: Place) -> int | None:
    """A dag's option that is a number from 1, or None if it is not given."""
    return None if value is None else _positive_count(option, value, where)


def dag_days(option: str, value: Any, where: Place) -> float | None:
    """A dag's option that is a number of days, more than 0, or None if it is not given."""
    if value is None:
        return None
    days = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else _float(value)
    if not math.isfinite(days) or days <= 0:
        raise _fail(option, value, "a finite number of days, more than 0", where)
    return days
