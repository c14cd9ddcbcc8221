"""Tasks: the decorator that makes a function one, and the task itself, a node of a dag as it is written."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial, update_wrapper
from types import MethodType
from typing import TYPE_CHECKING, Any, NoReturn, overload

from liteflow.authoring.context import CONTEXT_KEYS
from liteflow.authoring.dagfile import remember_file
from liteflow.authoring.edges import DependencyMixin
from liteflow.authoring.ids import check_name
from liteflow.authoring.options import TaskOptions, lay_over, task_options
from liteflow.authoring.places import Place, caller
from liteflow.authoring.xcomarg import XComArg, XComInput, take_apart
from liteflow.errors import DagError

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag


class Task(DependencyMixin):
    """A node of a dag: a function, its arguments, its options, and what is upstream of it.

    Made by calling a function that is decorated with `@task` inside a dag.
    """

    __slots__ = (
        "args",
        "context_params",
        "dag",
        "function",
        "inputs",
        "kwargs",
        "options",
        "place",
        "task_id",
        "upstream_task_ids",
        "wants_context",
    )

    def __init__(
        self,
        *,
        dag: Dag,
        task_id: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions,
        place: Place,
        inputs: tuple[XComInput, ...] = (),
        context_params: tuple[str, ...] = (),
        wants_context: bool = False,
    ) -> None:
        self.dag = dag
        self.task_id = task_id
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.options = options
        self.place = place
        self.inputs = inputs
        self.context_params = context_params
        self.wants_context = wants_context
        self.upstream_task_ids: dict[str, None] = {}  # a set in the order of its making

    @property
    def output(self) -> XComArg:
        """The value that this task returns."""
        return XComArg(self)

    @property
    def downstream_task_ids(self) -> list[str]:
        """Ids of the tasks that run after this one, in the order in which the dag has them."""
        return [task.task_id for task in self.dag.tasks if self.task_id in task.upstream_task_ids]

    def as_task(self) -> Task:
        return self

    def __repr__(self) -> str:
        return f"<Task {self.dag.dag_id}.{self.task_id}>"

    def __reduce__(self) -> NoReturn:
        raise DagError(f"{self!r} cannot be sent to a worker; tasks get values, not tasks")


class TaskFactory:
    """A function as a task. Called inside a dag it makes a node and returns the `XComArg` that stands for its result;
    called anywhere else it is the plain function.
    """

    is_uncalled_task = True
    name: str
    """The function's name: the id of its tasks unless they are given one."""

    def __init__(self, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
        if isinstance(function, TaskFactory):
            raise DagError(f"{caller()}: {function.name} is a task already; use .override(...) to change options")
        if isinstance(function, staticmethod | classmethod):
            raise DagError(f"{caller()}: put @staticmethod or @classmethod above @task, not below it")
        if not callable(function):
            raise DagError(f"{caller()}: @task is for functions, not for {function!r}")
        self.function = function
        """The plain function."""
        self.options = dict(options)
        update_wrapper(self, function, updated=())  # attributes of the function are not ours
        inner = function.func if isinstance(function, partial) else type(function)
        self.name = str(getattr(function, "__name__", None) or getattr(inner, "__name__", "task"))
        where = caller()
        task_options({key: value for key, value in self.options.items() if key != "task_id"}, where)
        if "task_id" in self.options:
            check_name("task id", self.options["task_id"])
        remember_file(getattr(function, "__module__", None) or "")
        self._signature: inspect.Signature | None = None

    def override(self, **options: Any) -> TaskFactory:
        """The same function with other options (`task_id`, `retries`, ...) laid over those it has."""
        return TaskFactory(self.function, lay_over(self.options, options))

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("expand", "expand_kwargs", "partial"):
            raise AttributeError(f"task mapping (.{name}) is not supported by this version of liteflow")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __get__(self, instance: object, owner: type | None = None) -> TaskFactory:
        if instance is None:
            return self
        return TaskFactory(MethodType(self.function, instance), self.options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from liteflow.authoring.dag import current_dag

        dag = current_dag()
        if dag is None:
            return self.function(*args, **kwargs)
        return self._make(dag, args, kwargs).output

    def __rshift__(self, other: Any) -> NoReturn:
        self._not_called()

    __lshift__ = __rrshift__ = __rlshift__ = __rshift__

    def _not_called(self) -> NoReturn:
        name = self.name
        raise DagError(f"{caller()}: {name} at an edge is a function, not a task of the dag; call it: {name}(...)")

    def _make(self, dag: Dag, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task:
        place = caller()
        inputs: dict[XComInput, set[Task]] = {}
        taken_args = take_apart(args, inputs)
        taken_kwargs = take_apart(kwargs, inputs)
        context_params, wants_context = self._bind(place, args, kwargs)
        own = {key: value for key, value in self.options.items() if key != "task_id"}
        task = Task(
            dag=dag,
            task_id=dag.free_task_id(self.options.get("task_id"), self.name, self.function, place),
            function=self.function,
            args=taken_args,
            kwargs=taken_kwargs,
            options=task_options(own, place, dag.default_options),
            place=place,
            inputs=tuple(inputs),
            context_params=context_params,
            wants_context=wants_context,
        )
        if task.options.multiple_outputs is None:
            task.options = task.options._replace(multiple_outputs=_returns_dict(self.function))
        upstreams = [upstream for tasks in inputs.values() for upstream in tasks]
        for upstream in upstreams:
            if upstream.dag is not dag:
                raise DagError(
                    f"{place}: task {task.task_id!r} of dag {dag.dag_id!r} gets the value of {upstream.task_id!r}, "
                    f"which is in dag {upstream.dag.dag_id!r} ({upstream.place}); values stay in their dag"
                )
        dag.add_task(task)
        for upstream in upstreams:
            dag.set_dependency(upstream, task, place)
        return task

    def _bind(self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[str, ...], bool]:
        """Check the arguments against the function; what it wants from the context: names, and whether all of it."""
        signature = self._signature
        if signature is None:
            try:
                signature = self._signature = inspect.signature(self.function)
            except (TypeError, ValueError):  # some built-in functions have none
                return (), False
        try:
            bound = signature.bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            raise DagError(f"{place}: {self.name}(): {error}") from None
        wanted: list[str] = []
        missing: list[str] = []
        wants_all = False
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                wants_all = True
            elif name in bound or parameter.kind is parameter.VAR_POSITIONAL:
                continue
            elif name in CONTEXT_KEYS and parameter.kind is not parameter.POSITIONAL_ONLY:
                wanted.append(name)
            elif parameter.default is parameter.empty:
                missing.append(name)
        if missing:
            raise DagError(f"{place}: {self.name}() is called without {', '.join(map(repr, missing))}")
        return tuple(wanted), wants_all


def _returns_dict(function: Callable[..., Any]) -> bool:
    """Whether the return annotation is a dict or mapping: then each key is an XCom of its own, as in Airflow."""
    annotation = getattr(function, "__annotations__", {}).get("return")
    if isinstance(annotation, str):
        head = annotation.split("[", 1)[0].strip().rsplit(".", 1)[-1]
        return head in ("dict", "Dict", "Mapping", "MutableMapping")
    origin = getattr(annotation, "__origin__", annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping)


class TaskDecorator:
    """`@task`, `@task(retries=2, ...)`, or `task(function, ...)`: make a function a task.

    Options: `task_id` (default: the function's name), `retries` (0), `retry_delay` (seconds or timedelta, 0),
    `retry_exponential_backoff` (factor, 0 is off), `max_retry_delay`, `timeout` (also `execution_timeout`; one try
    that takes longer is killed), `kill_grace_s` (5), `log_cap_bytes` (10 MiB a try), `trigger_rule`
    (`all_success`), `multiple_outputs` (default: if the return annotation is a dict), `doc_md`. Options of Airflow
    that mean nothing here (owner, email, queue, ...) are accepted.
    """

    @overload
    def __call__(self, function: Callable[..., Any], /, **options: Any) -> TaskFactory: ...
    @overload
    def __call__(self, function: None = None, /, **options: Any) -> Callable[[Callable[..., Any]], TaskFactory]: ...
    def __call__(
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> TaskFactory | Callable[[Callable[..., Any]], TaskFactory]:
        python_callable = options.pop("python_callable", function)
        if python_callable is not None:
            return TaskFactory(python_callable, options)
        return lambda function: TaskFactory(function, options)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"@task.{name} is not supported by this version of liteflow")


task = TaskDecorator()
