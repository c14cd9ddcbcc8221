"""`@task` and its relatives: what makes a function a task of one sort or another."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from types import FunctionType
from typing import Any, overload

from liteflow.authoring.context import Context
from liteflow.authoring.places import caller
from liteflow.authoring.task import BASH, BRANCH, PYTHON, SENSOR, SHORT_CIRCUIT, TaskFactory, Traits
from liteflow.errors import DagError, SkipTask

Condition = Callable[[Context], "bool | tuple[bool, str | None]"]


class KindDecorator:
    """`@task.branch` and its like: with or without options, as `@task`."""

    def __init__(self, kind: str, doc: str) -> None:
        self._traits = Traits(kind)
        self.__doc__ = doc

    @overload
    def __call__(self, function: Callable[..., Any], /, **options: Any) -> TaskFactory: ...
    @overload
    def __call__(self, function: None = None, /, **options: Any) -> Callable[[Callable[..., Any]], TaskFactory]: ...
    def __call__(
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> TaskFactory | Callable[[Callable[..., Any]], TaskFactory]:
        python_callable = options.pop("python_callable", function)
        if python_callable is not None:
            return TaskFactory(python_callable, options, self._traits)
        return lambda function: TaskFactory(function, options, self._traits)


class TaskDecorator(KindDecorator):
    """`@task`, `@task(retries=2, ...)`, or `task(function, ...)`: make a function a task.

    Options: `task_id` (default: the function's name), `retries` (0), `retry_delay` (seconds or timedelta, 0),
    `retry_exponential_backoff` (factor, 0 is off), `max_retry_delay`, `retry_policy`, `timeout` (also
    `execution_timeout`; one try that takes longer is killed), `kill_grace_s` (5), `log_cap_bytes` (10 MiB a try),
    `trigger_rule` (`all_success`), `multiple_outputs` (default: if the return annotation is a dict), `do_xcom_push`
    (True), `pool`, `pool_slots` (1), `priority_weight` (1), `weight_rule` (`downstream`), `max_active_tis_per_dagrun`,
    `map_index_template`, `depends_on_past`, `wait_for_downstream`, `on_execute_callback`, `on_success_callback`,
    `on_failure_callback`, `on_retry_callback`, `on_skipped_callback`, `pre_execute` (called with the context before the
    task; its error fails the try), `post_execute` (with the context and the result), `params` (laid over those of the
    dag, in this task), `templates_dict`, `templates_exts` (ends of texts that name template files, such as `[".sql"]`),
    `doc_md`, `executor` (`processes` or `threads`: what runs it, whatever runs the rest; threads are for tasks that
    wait). Options of Airflow that mean nothing here (owner, email, queue, ...) are accepted.
    """

    def __init__(self) -> None:
        super().__init__(PYTHON, TaskDecorator.__doc__ or "")

    branch = KindDecorator(
        BRANCH,
        "A task that chooses: it returns the id of a task or group directly downstream, a list of ids, or None for "
        "none. What is directly downstream and neither chosen nor downstream of a chosen one is skipped.",
    )
    short_circuit = KindDecorator(
        SHORT_CIRCUIT,
        "A task that may stop: if it returns something false, all that is downstream is skipped, whatever its rules, "
        "teardowns excepted; with ignore_downstream_trigger_rules=False only what is directly downstream.",
    )
    sensor = KindDecorator(
        SENSOR,
        "A task that waits until its function returns True or PokeReturnValue(True, value). Options beside those of "
        "@task: poke_interval (60 s), timeout (7 days in all; a single look is limited by execution_timeout), mode "
        '("poke", or "reschedule", which holds no slot between looks), soft_fail (skip when the time is over), '
        "exponential_backoff, max_wait, silent_fail, never_fail.",
    )
    bash = KindDecorator(
        BASH,
        "A task whose function returns a command, which bash runs. Its last line of output is the result. Options "
        "beside those of @task: env, append_env, cwd, skip_on_exit_code (99), output_processor.",
    )

    def virtualenv(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """A task that runs in a virtual environment made for it: `liteflow.operators.PythonVirtualenvOperator`."""
        return self._elsewhere(function, options, PYTHON, makes_environment=True)

    def external_python(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """A task that runs with another interpreter: see `liteflow.operators.ExternalPythonOperator`."""
        return self._elsewhere(function, options, PYTHON, makes_environment=False)

    def branch_virtualenv(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """`@task.branch` in a virtual environment made for it."""
        return self._elsewhere(function, options, BRANCH, makes_environment=True)

    def branch_external_python(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """`@task.branch` with another interpreter."""
        return self._elsewhere(function, options, BRANCH, makes_environment=False)

    def _elsewhere(
        self, function: Callable[..., Any] | None, options: dict[str, Any], kind: str, *, makes_environment: bool
    ) -> Any:
        from liteflow.operators.elsewhere import decorated  # few tasks are such

        def make(function: Callable[..., Any]) -> TaskFactory:
            return decorated(function, options, makes_environment=makes_environment, traits=Traits(kind))

        return make if function is None else make(function)

    @property
    def python(self) -> TaskDecorator:
        """`@task.python` is `@task`."""
        return self

    def run_if(self, condition: Condition, skip_message: str | None = None) -> Callable[[TaskFactory], TaskFactory]:
        """Above `@task`: skip the task unless `condition(context)` holds; it may return (bool, message)."""
        return lambda factory: _guarded("run_if", factory, condition, True, skip_message)

    def skip_if(self, condition: Condition, skip_message: str | None = None) -> Callable[[TaskFactory], TaskFactory]:
        """Above `@task`: skip the task if `condition(context)` holds; it may return (bool, message)."""
        return lambda factory: _guarded("skip_if", factory, condition, False, skip_message)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"@task.{name} is not supported by this version of liteflow")


task = TaskDecorator()


class Guarded:
    """A task's function that first asks whether it shall run."""

    def __init__(self, function: Callable[..., Any], condition: Condition, runs_if: bool, message: str | None) -> None:
        self.function = function
        self.condition = condition
        self.runs_if = runs_if
        self.message = message
        update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Outside a dag: the plain function."""
        return self.function(*args, **kwargs)

    def check(self, context: Context) -> None:
        """Raise SkipTask when the condition says so."""
        said = self.condition(context)
        holds, message = said if isinstance(said, tuple) else (said, None)
        if bool(holds) is not self.runs_if:
            raise SkipTask(message or self.message or f"{'run' if self.runs_if else 'skip'}_if: its condition says so")


def _guarded(what: str, factory: Any, condition: Condition, runs_if: bool, message: str | None) -> TaskFactory:
    if not isinstance(factory, TaskFactory):
        raise DagError(f"{caller()}: put @task.{what}(...) above @task, not below it")
    if not callable(condition):
        raise DagError(f"{caller()}: @task.{what}() takes a function of the context, not {condition!r}")
    return TaskFactory(Guarded(factory.function, condition, runs_if, message), factory.options, factory.traits)


def _as_task(what: str, function: Any) -> TaskFactory:
    if getattr(function, "is_group_factory", False):
        raise DagError(f"{caller()}: a group cannot be a {what}; make one of its tasks one")
    if isinstance(function, TaskFactory):
        return function
    if isinstance(function, FunctionType) or callable(function):
        return TaskFactory(function, {})
    raise DagError(f"{caller()}: @{what} is for functions, not for {function!r}")


def setup(function: Callable[..., Any] | TaskFactory) -> TaskFactory:
    """`@setup`, alone or above `@task`: the task prepares what others need; see `Task.as_setup`."""
    return _as_task("setup", function).with_traits(is_setup=True)


@overload
def teardown(function: Callable[..., Any] | TaskFactory, /) -> TaskFactory: ...
@overload
def teardown(
    function: None = None, /, *, on_failure_fail_dagrun: bool = False
) -> Callable[[Callable[..., Any] | TaskFactory], TaskFactory]: ...
def teardown(
    function: Callable[..., Any] | TaskFactory | None = None, /, *, on_failure_fail_dagrun: bool = False
) -> TaskFactory | Callable[[Callable[..., Any] | TaskFactory], TaskFactory]:
    """`@teardown`, alone or above `@task`: the task cleans up, whatever became of the work; see `Task.as_teardown`.

    `on_failure_fail_dagrun`: whether its failure fails the run.
    """

    def make(function: Callable[..., Any] | TaskFactory) -> TaskFactory:
        return _as_task("teardown", function).with_traits(
            is_teardown=True, on_failure_fail_dagrun=on_failure_fail_dagrun
        )

    return make if function is None else make(function)
