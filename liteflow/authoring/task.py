"""Tasks: a node of a dag as it is written, and what makes one out of a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial, update_wrapper
from types import MethodType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from liteflow.authoring.context import CONTEXT_KEYS
from liteflow.authoring.dagfile import remember_file
from liteflow.authoring.edges import DependencyMixin, tasks_of
from liteflow.authoring.expand import Expansion, expand_by_kwargs, expand_by_name
from liteflow.authoring.ids import check_name
from liteflow.authoring.options import (
    TASK_OPTION_NAMES,
    BashOptions,
    SensorOptions,
    TaskOptions,
    bash_options,
    lay_over,
    own_option_names,
    sensor_options,
    task_options,
)
from liteflow.authoring.places import Place, caller
from liteflow.authoring.setups import SetupScope, open_scope
from liteflow.authoring.templates import has_literal, has_template, has_template_file, require_jinja
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.authoring.xcomarg import MappedArgument, XComArg, XComInput, nothing_taken, take_apart
from liteflow.errors import DagError, InvalidOptionError

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag
    from liteflow.authoring.groups import TaskGroup

PYTHON, BRANCH, SHORT_CIRCUIT, SENSOR, BASH, EMPTY = "python", "branch", "short_circuit", "sensor", "bash", "empty"
"""What is made of what a task's function returns."""

BASH_EXTENSIONS = (".sh", ".bash")
"""A command that ends so is the name of a template file that holds it."""


class Traits(NamedTuple):
    """What sort of task a function makes, beside its options."""

    kind: str = PYTHON
    is_setup: bool = False
    is_teardown: bool = False
    on_failure_fail_dagrun: bool = False


PLAIN = Traits()


class Task(DependencyMixin):
    """A node of a dag: a function, its arguments, its options, and what is upstream of it.

    Made by calling a function that is decorated with `@task` inside a dag.
    """

    __slots__ = (
        "_extensions",
        "_scopes",
        "args",
        "bash",
        "context_params",
        "dag",
        "expansion",
        "function",
        "group",
        "ignores_rules",
        "inputs",
        "is_setup",
        "is_teardown",
        "kind",
        "kwargs",
        "on_failure_fail_dagrun",
        "options",
        "place",
        "sensor",
        "task_id",
        "templated",
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
        traits: Traits = PLAIN,
        group: TaskGroup | None = None,
        expansion: Expansion | None = None,
        sensor: SensorOptions | None = None,
        bash: BashOptions | None = None,
        ignores_rules: bool = True,
        templated: bool = False,
        extensions: tuple[str, ...] = (),
    ) -> None:
        self.dag = dag
        self.task_id = task_id
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.options = options
        self.place = place
        self.inputs = inputs
        """What its arguments need of other tasks; not what it is mapped over."""
        self.context_params = context_params
        self.wants_context = wants_context
        self.kind = traits.kind
        self.is_setup = traits.is_setup
        self.is_teardown = False
        self.on_failure_fail_dagrun = traits.on_failure_fail_dagrun
        self.group = group
        self.expansion = expansion
        """What it is mapped over by itself; a task of a mapped group has none of its own."""
        self.sensor = sensor
        self.bash = bash
        self.ignores_rules = ignores_rules
        """Of a short circuit: whether it skips all that is downstream, whatever its rules."""
        self.templated = templated
        """Whether its arguments hold Jinja templates."""
        self._extensions = extensions
        self.upstream_task_ids: dict[str, None] = {}  # a set in the order of its making
        self._scopes: list[SetupScope] = []
        if traits.is_teardown:
            self._become_teardown()

    @property
    def output(self) -> XComArg:
        """The value that this task returns."""
        return XComArg(self)

    @property
    def downstream_task_ids(self) -> list[str]:
        """Ids of the tasks that run after this one, in the order in which the dag has them."""
        return [task.task_id for task in self.dag.tasks if self.task_id in task.upstream_task_ids]

    @property
    def trigger_rule(self) -> TriggerRule:
        """When it may go, by the states of its direct upstream."""
        return self.options.trigger_rule

    @trigger_rule.setter
    def trigger_rule(self, rule: TriggerRule | str) -> None:
        self.options = task_options({"trigger_rule": rule}, caller(), self.options)

    @property
    def mapped_group(self) -> TaskGroup | None:
        """The mapped group in which it is."""
        return self.group.mapped_group if self.group is not None else None

    @property
    def unit(self) -> Task | TaskGroup | None:
        """What is expanded when it is: itself if it is mapped, its mapped group if it is in one, else None."""
        return self if self.expansion is not None else self.mapped_group

    @property
    def expand_input(self) -> Expansion | None:
        """What it is mapped over, by itself or with its group."""
        if self.expansion is not None:
            return self.expansion
        return self.mapped_group.expansion if self.mapped_group is not None else None

    @property
    def is_mapped(self) -> bool:
        """Whether there may be any number of instances of it in a run."""
        return self.unit is not None

    @property
    def template_extensions(self) -> tuple[str, ...]:
        """Ends of texts among its arguments that make them names of template files."""
        return self._extensions

    @property
    def call_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What its function is called with, placeholders in place of what is not there yet."""
        return self.args, self.kwargs

    def edge_starts(self) -> list[Task]:
        return [self]

    edge_ends = edge_starts

    # Setups and teardowns

    def as_setup(self) -> Task:
        """Make it a setup: what needs it runs after it, and its teardowns after that."""
        self._refuse_both(self.is_teardown)
        self.is_setup = True
        return self

    def as_teardown(self, *, setups: Any = None, on_failure_fail_dagrun: bool | None = None) -> Task:
        """Make it a teardown: it runs when all upstream ended and one of its setups succeeded.

        `setups`: tasks that become setups of it, with an edge from each. `on_failure_fail_dagrun`: whether its
        failure fails the run (False). Its trigger rule is its own, and cannot be another.
        """
        self._refuse_both(self.is_setup)
        self._become_teardown()
        if on_failure_fail_dagrun is not None:
            self.on_failure_fail_dagrun = on_failure_fail_dagrun
        if setups is not None:
            for setup in tasks_of(setups, starts=True):
                setup.as_setup()
                self.dag.set_dependency(setup, self)
        return self

    def _refuse_both(self, other: bool) -> None:
        if other:
            raise DagError(f"{caller()}: task {self.task_id!r} cannot be a setup and a teardown")

    def _become_teardown(self) -> None:
        self.is_teardown = True
        self.options = self.options._replace(trigger_rule=TriggerRule.ALL_DONE_SETUP_SUCCESS)

    def __enter__(self) -> SetupScope:
        scope = open_scope(self)
        self._scopes.append(scope)
        self.dag.open_scopes.append(scope)
        return scope

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        scope = self._scopes.pop()
        self.dag.open_scopes.remove(scope)
        if kind is None:
            scope.close()

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

    def __init__(self, function: Callable[..., Any], options: Mapping[str, Any], traits: Traits = PLAIN) -> None:
        if isinstance(function, TaskFactory):
            raise DagError(f"{caller()}: {function.name} is a task already; use .override(...) to change options")
        if isinstance(function, staticmethod | classmethod):
            raise DagError(f"{caller()}: put @staticmethod or @classmethod above @task, not below it")
        if not callable(function):
            raise DagError(f"{caller()}: @task is for functions, not for {function!r}")
        self.function = function
        """The plain function."""
        self.options = dict(options)
        self.traits = traits
        update_wrapper(self, function, updated=())  # attributes of the function are not ours
        inner = function.func if isinstance(function, partial) else type(function)
        self.name = str(getattr(function, "__name__", None) or getattr(inner, "__name__", "task"))
        where = caller()
        self._checked_options(where, None)
        self._own_options(where)
        if "task_id" in self.options:
            check_name("task id", self.options["task_id"])
        remember_file(getattr(function, "__module__", None) or "")
        self._signature: inspect.Signature | None = None

    def override(self, **options: Any) -> TaskFactory:
        """The same function with other options (`task_id`, `retries`, ...) laid over those it has."""
        own = own_option_names(self.traits.kind)
        kept = {name: value for name, value in self.options.items() if name in own}
        shared = {name: value for name, value in self.options.items() if name not in own}
        given = {name: value for name, value in options.items() if name not in own}
        laid = lay_over(shared, given)
        return TaskFactory(self.function, {**kept, **{n: options[n] for n in options if n in own}, **laid}, self.traits)

    def with_traits(self, **traits: Any) -> TaskFactory:
        """The same function as another sort of task."""
        changed = self.traits._replace(**traits)
        if changed.is_setup and changed.is_teardown:
            raise DagError(f"{caller()}: {self.name} cannot be a setup and a teardown")
        return TaskFactory(self.function, self.options, changed)

    def partial(self, **kwargs: Any) -> PartialTask:
        """The same task with these arguments, for `.expand` and `.expand_kwargs`."""
        return PartialTask(self, kwargs)

    def expand(self, **kwargs: Any) -> XComArg:
        """One instance of the task for each item of these lists, dicts or values of tasks; of several arguments, for
        each combination (the last one runs fastest). Gives the list of what the instances return."""
        return PartialTask(self, {}).expand(**kwargs)

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> XComArg:
        """One instance of the task for each dict of arguments in this list or value of a task.

        `strict`: an argument that `.partial` gives too is an error; without it the dict's is taken.
        """
        return PartialTask(self, {}).expand_kwargs(kwargs, strict=strict)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __get__(self, instance: object, owner: type | None = None) -> TaskFactory:
        if instance is None:
            return self
        return TaskFactory(MethodType(self.function, instance), self.options, self.traits)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from liteflow.authoring.dag import current_dag

        dag = current_dag()
        if dag is None:
            return self.function(*args, **kwargs)
        return self._make(dag, args, kwargs, None).output

    def __rshift__(self, other: Any) -> NoReturn:
        self._not_called()

    __lshift__ = __rrshift__ = __rlshift__ = __rshift__

    def _not_called(self) -> NoReturn:
        name = self.name
        raise DagError(f"{caller()}: {name} at an edge is a function, not a task of the dag; call it: {name}(...)")

    def _checked_options(self, where: Place, base: TaskOptions | None) -> TaskOptions:
        own = own_option_names(self.traits.kind)
        given = {key: value for key, value in self.options.items() if key != "task_id" and key not in own}
        return task_options(given, where, base, more=own)

    def _own_options(self, where: Place, around: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The options that only this sort of task has, as arguments of `Task`; `around` are `default_args`.

        There a name that every task has (`timeout`) means that one.
        """
        own = own_option_names(self.traits.kind)
        given = {name: value for name, value in (around or {}).items() if name in own - TASK_OPTION_NAMES}
        given |= {name: value for name, value in self.options.items() if name in own}
        if self.traits.kind == SENSOR:
            return {"sensor": sensor_options(given, where)}
        if self.traits.kind == BASH:
            return {"bash": bash_options(given, where)}
        if self.traits.kind == SHORT_CIRCUIT:
            value = given.get("ignore_downstream_trigger_rules", True)
            if not isinstance(value, bool):
                raise InvalidOptionError(
                    f"{where}: option ignore_downstream_trigger_rules={value!r} must be True or False",
                    option="ignore_downstream_trigger_rules",
                )
            return {"ignores_rules": value}
        return {}

    def _make(self, dag: Dag, args: tuple[Any, ...], kwargs: dict[str, Any], expansion: Expansion | None) -> Task:
        place = caller()
        taken = nothing_taken()
        taken_args = take_apart(args, taken)
        taken_kwargs = take_apart(kwargs, taken)
        templates_dict = take_apart(self.options.get("templates_dict"), taken)
        context_params, wants_context = self._bind(place, args, kwargs, expansion)
        group = dag.current_group
        options = self._checked_options(place, group.default_options if group is not None else dag.default_options)
        if options.templates_dict is not None:
            options = options._replace(templates_dict=take_apart(options.templates_dict, taken))
        # A rule of default_args is for other tasks: a teardown has its own all the same.
        if self.traits.is_teardown and "trigger_rule" in self.options and options.trigger_rule not in _TEARDOWN_RULES:
            raise InvalidOptionError(
                f"{place}: {self.name} is a teardown and cannot have the trigger rule {options.trigger_rule.value}; "
                "leave it out",
                option="trigger_rule",
            )
        if templates_dict is not None:
            options = options._replace(templates_dict=templates_dict)
        if options.multiple_outputs is None:
            options = options._replace(multiple_outputs=_returns_dict(self.function))
        extensions = BASH_EXTENSIONS if self.traits.kind == BASH else options.templates_exts
        own = self._own_options(place, default_args_around(dag, group))
        if self.traits.kind == BASH:
            own["bash"] = own["bash"]._replace(env=take_apart(own["bash"].env, taken))
        task = Task(
            dag=dag,
            task_id=dag.free_task_id(self.options.get("task_id"), self.name, self.function, place),
            function=self.function,
            args=taken_args,
            kwargs=taken_kwargs,
            options=options,
            place=place,
            inputs=tuple(taken.inputs),
            context_params=context_params,
            wants_context=wants_context,
            traits=self.traits,
            group=group,
            expansion=expansion,
            templated=_is_templated(place, options, extensions, taken_args, taken_kwargs, expansion),
            extensions=extensions,
            **own,
        )
        mapped = [*taken.mapped, *(expansion.in_items.mapped if expansion is not None else ())]
        join_up(task, [*taken.tasks, *(expansion.tasks if expansion is not None else ())], mapped)
        return task

    def _bind(
        self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any], expansion: Expansion | None
    ) -> tuple[tuple[str, ...], bool]:
        """Check the arguments against the function; what it wants from the context: names, and whether all of it."""
        signature = self._signature
        if signature is None:
            try:
                signature = self._signature = inspect.signature(self.function)
            except (TypeError, ValueError):  # some built-in functions have none
                return (), False
        mapped = () if expansion is None else expansion.input.names
        try:
            bound = signature.bind_partial(*args, **kwargs, **dict.fromkeys(mapped)).arguments
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
        if missing and (expansion is None or not expansion.input.is_kwargs):
            raise DagError(f"{place}: {self.name}() is called without {', '.join(map(repr, missing))}")
        return tuple(wanted), wants_all


_TEARDOWN_RULES = (TriggerRule.ALL_SUCCESS, TriggerRule.ALL_DONE_SETUP_SUCCESS)


class PartialTask:
    """A task with some of its arguments, to be mapped over the others."""

    is_uncalled_task = True

    def __init__(self, factory: TaskFactory, kwargs: dict[str, Any]) -> None:
        self._factory = factory
        self._kwargs = kwargs
        self.name = factory.name

    def partial(self, **kwargs: Any) -> PartialTask:
        """With more arguments."""
        return PartialTask(self._factory, {**self._kwargs, **kwargs})

    def expand(self, **kwargs: Any) -> XComArg:
        """See `TaskFactory.expand`."""
        return self._make(expand_by_name(self.name, kwargs))

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> XComArg:
        """See `TaskFactory.expand_kwargs`."""
        return self._make(expand_by_kwargs(self.name, self._kwargs, kwargs, strict=strict))

    def _make(self, expansion: Expansion) -> XComArg:
        from liteflow.authoring.dag import current_dag

        dag = current_dag()
        if dag is None:
            raise DagError(f"{caller()}: {self.name} can be mapped only inside a dag: with Dag(...): ...")
        refuse_nested_mapping(self.name, dag)
        kept = {name: value for name, value in self._kwargs.items() if name not in expansion.input.names}
        return self._factory._make(dag, (), kept, expansion).output


def default_args_around(dag: Dag | None, group: TaskGroup | None) -> dict[str, Any]:
    """The `default_args` of a dag and of groups in it, the innermost over the others."""
    around: list[Mapping[str, Any]] = []
    while group is not None:
        around.append(group.default_args)
        group = group.parent
    if dag is not None:
        around.append(dag.default_args)
    return {name: value for args in reversed(around) for name, value in args.items()}


def refuse_nested_mapping(name: str, dag: Dag) -> None:
    """Raise DagError for a task that would be mapped inside a mapped group; Airflow has no such thing either."""
    group = dag.current_group
    if group is not None and group.mapped_group is not None:
        raise DagError(
            f"{caller()}: {name} is in the mapped group {group.mapped_group.group_id!r}; inside a mapped group tasks "
            "cannot be mapped again"
        )


def join_up(task: Task, upstreams: list[Task], mapped: list[MappedArgument]) -> None:
    """Put a new task into its dag, with an edge from each task whose value it needs."""
    dag = task.dag
    if task.expansion is not None or (mapped and task.mapped_group is not None):
        sources = task.expand_input.sources if task.expand_input is not None else []
        if sources and task.trigger_rule is TriggerRule.ALWAYS:
            raise DagError(
                f"{task.place}: task {task.task_id!r} is mapped over the value of {sources[0].task_id!r} and cannot "
                "have the trigger rule always, which does not wait for it"
            )
    for upstream in upstreams:
        if upstream.dag is not dag:
            raise DagError(
                f"{task.place}: task {task.task_id!r} of dag {dag.dag_id!r} gets the value of {upstream.task_id!r}, "
                f"which is in dag {upstream.dag.dag_id!r} ({upstream.place}); values stay in their dag"
            )
    for argument in mapped:
        if task.mapped_group is not argument.group:
            raise DagError(
                f"{task.place}: task {task.task_id!r} gets {argument.name!r} of the mapped group "
                f"{argument.group.group_id!r} and is not in it; only its own tasks can have its arguments"
            )
    dag.add_task(task)
    for upstream in upstreams:
        dag.set_dependency(upstream, task, task.place)


def _is_templated(
    place: Place,
    options: TaskOptions,
    extensions: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    expansion: Expansion | None,
) -> bool:
    """Whether there is a Jinja template to render; then Jinja must be there too."""
    literals = expansion.input.literals if expansion is not None else ()
    return needs_rendering(place, options, (args, kwargs, literals, options.templates_dict), extensions)


def needs_rendering(place: Place, options: TaskOptions, values: Any, extensions: tuple[str, ...] = ()) -> bool:
    """Whether there is something to render or to unwrap; Jinja must be there if there is a template.

    A text that ends with one of `extensions` is the name of a template file.
    """
    if options.map_index_template is not None:
        require_jinja(place, "map_index_template")
    if has_template(values):
        require_jinja(place)
        return True
    if has_template_file(values, extensions):
        require_jinja(place, holds=f"names a template file, since it ends with {' or '.join(extensions)}")
        return True
    return has_literal(values)


def _returns_dict(function: Callable[..., Any]) -> bool:
    """Whether the return annotation is a dict or mapping: then each key is an XCom of its own, as in Airflow."""
    annotation = getattr(function, "__annotations__", {}).get("return")
    if isinstance(annotation, str):
        head = annotation.split("[", 1)[0].strip().rsplit(".", 1)[-1]
        return head in ("dict", "Dict", "Mapping", "MutableMapping")
    origin = getattr(annotation, "__origin__", annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping)
