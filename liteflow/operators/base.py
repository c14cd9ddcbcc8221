"""`BaseOperator`: a task written as a class with `execute(context)`.

An operator *is* a task of its dag. To a worker travel its class and its attributes, with placeholders where values of
other tasks go; there it is made again without its dag, its templated fields are filled in, and `execute` is called.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from liteflow.authoring.context import call_when_ended, get_current_context
from liteflow.authoring.dag import Dag, current_dag
from liteflow.authoring.expand import Expansion, expand_by_kwargs, expand_by_name
from liteflow.authoring.ids import did_you_mean
from liteflow.authoring.options import (
    OPERATOR_PARAMETERS,
    TASK_OPTION_NAMES,
    SensorOptions,
    TaskOptions,
    task_options,
)
from liteflow.authoring.places import Place, caller
from liteflow.authoring.sensing import NothingSeen
from liteflow.authoring.task import Task, Traits, default_args_around, join_up, needs_rendering, refuse_nested_mapping
from liteflow.authoring.templates import has_template_file, literal
from liteflow.authoring.xcomarg import BaseXComArg, MappedArgument, nothing_taken, take_apart
from liteflow.errors import DagError
from liteflow.operators.attributes import Facts, OperatorAttributes, facts_of, inert_options

if TYPE_CHECKING:
    from liteflow.authoring.context import Context
    from liteflow.authoring.groups import TaskGroup
    from liteflow.authoring.options import SensorOptions


class OperatorMeta(type):
    """Gives each operator what `default_args` say, and puts it into its dag once it is whole."""

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
        super().__init__(name, bases, namespace)
        if bases[0] is not Task:  # `BaseOperator` has the options that every task has
            OPERATOR_PARAMETERS.update(own_parameters(cls))

    def __call__(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if args:
            raise DagError(f"{caller()}: {cls.__name__}() takes keyword arguments only")
        operator = cls.__new__(cls)
        operator.place = caller()  # here, and not in the `__init__` of somebody's class
        given = _with_defaults(cls, kwargs)
        _check_arguments(cls, given, operator.place)
        operator.__init__(**given)
        operator._join_dag()
        return operator


def _with_defaults(cls: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with those of the dag's and groups' `default_args` that the class itself knows."""
    own = own_parameters(cls)
    around = default_args_around(*_surroundings(kwargs))
    defaults = {name: value for name, value in around.items() if name in own}
    return {**defaults, **(kwargs.get("default_args") or {}), **kwargs}


def _check_arguments(cls: Any, given: Mapping[str, Any], place: Place) -> None:
    """Say which argument is missing or misspelt, where Python would only say that one is missing."""
    if "task_id" not in given:
        raise DagError(f"{place}: {cls.__name__}() is called without 'task_id'")
    try:
        inspect.signature(cls.__init__).bind(None, **given)
    except TypeError as error:
        own = own_parameters(cls)
        known = {*own, *TASK_OPTION_NAMES, *_PLACING}
        hints = [name + did_you_mean(name, own) for name in given if name not in known]
        unknown = f"; it has no {', '.join(hints)}" if hints else ""
        raise DagError(f"{place}: {cls.__name__}(): {error}{unknown}") from None


def _surroundings(kwargs: Mapping[str, Any]) -> tuple[Dag | None, TaskGroup | None]:
    group: TaskGroup | None = kwargs.get("task_group")
    dag: Dag | None = kwargs.get("dag") or (group.dag if group is not None else current_dag())
    return dag, group if group is not None else dag.current_group if dag is not None else None


def own_parameters(cls: type) -> frozenset[str]:
    """Parameters that operator classes name themselves, beside the options that every task has."""
    names: set[str] = set()
    for one in cls.__mro__:
        if one is BaseOperator:
            break
        if "__init__" in vars(one):
            names |= {
                name
                for name, parameter in inspect.signature(vars(one)["__init__"]).parameters.items()
                if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
            }
    return frozenset(names)


class BaseOperator(Task, OperatorAttributes, metaclass=OperatorMeta):
    """A task as a class: derive from it, take arguments in `__init__(self, *, ..., **kwargs)`, pass `kwargs` on, and do
    the work in `execute(self, context)`; what that returns is handed on.

    Every option of `@task` is an argument, and `task_id`, `dag`, `task_group`. Attributes named in `template_fields`
    may hold values of other tasks, which makes the edge, and Jinja templates. Attributes travel by pickle.
    """

    template_fields: ClassVar[Sequence[str]] = ()
    """Attributes that may hold Jinja templates and values of other tasks."""
    template_ext: Sequence[str] = ()
    """Ends of texts in these attributes that make them names of template files, such as `.sql`."""
    kind: str
    """What is made of what `execute` returns, as for decorated tasks."""
    operator_traits: ClassVar[Traits] = Traits()

    def __init__(
        self,
        *,
        task_id: str,
        dag: Dag | None = None,
        task_group: TaskGroup | None = None,
        default_args: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        place = self.place
        found, group = _surroundings({"dag": dag, "task_group": task_group})
        base = group.default_options if group is not None else found.default_options if found is not None else None
        name = task_id if group is None else group.child_id(task_id)
        self._others = inert_options({**default_args_around(found, group), **(default_args or {}), **options})
        super().__init__(
            dag=found,  # type: ignore[arg-type]  # None outside a dag, where only execute() is of use
            task_id=name if found is None else found.free_operator_id(task_id, group, place),
            function=run_operator,
            args=(),
            kwargs={},
            options=task_options({**(default_args_of_task(default_args)), **options}, place, base),
            place=place,
            traits=self.operator_traits,
            group=group,
        )

    def execute(self, context: Context) -> Any:
        """The work. What it returns is handed on."""
        raise TypeError(f"{type(self).__name__} has no execute(context)")

    def pre_execute(self, context: Context) -> None:
        """Called before `execute`; of a sensor before its first look. An error fails the try."""

    def post_execute(self, context: Context, result: Any = None) -> None:
        """Called after `execute`, with what came of it; of a sensor when it is done. An error fails the try."""

    def render_template(self, content: Any, context: Context, *_: Any) -> Any:
        """`content` with the Jinja templates in it rendered, as the operator's own fields are. In `execute` only."""
        if context.render is None:
            raise RuntimeError(f"{type(self).__name__}.render_template() works while the task runs")
        return context.render(content, tuple(self.template_ext))

    def on_kill(self) -> None:
        """Called in the worker when the task is told to end, before its processes are killed."""

    def _join_dag(self) -> None:
        """Make the edges from the tasks whose values its fields hold, and put it into its dag."""
        if self.dag is None:
            return
        taken = nothing_taken()
        plain = take_apart(self._fields(), taken)
        for name, value in self._attributes().items():
            if isinstance(value, BaseXComArg | MappedArgument):
                fields = ", ".join(self.template_fields) or "nothing"
                raise DagError(
                    f"{self.place}: {type(self).__name__}({name}={value!r}): only {fields} can be the value of another "
                    "task; name it in template_fields"
                )
        if self.options.templates_dict is not None:
            self.options = self.options._replace(templates_dict=take_apart(self.options.templates_dict, taken))
        values = (plain, self.options.templates_dict)
        self.templated = needs_rendering(self.place, self.options, values, self.template_extensions)
        self.inputs = tuple(taken.inputs)
        join_up(self, taken.tasks, list(taken.mapped))

    @property
    def template_extensions(self) -> tuple[str, ...]:
        return (*self.template_ext, *self.options.templates_exts)

    def _fields(self) -> dict[str, Any]:
        """The attributes that may hold templates and values of other tasks."""
        return {name: getattr(self, name) for name in self.template_fields if hasattr(self, name)}

    def _attributes(self) -> dict[str, Any]:
        """What travels beside the templated fields."""
        own = {name: value for name, value in vars(self).items() if name not in (*self.template_fields, "_others")}
        return {**own, "bash": self.bash} if self.bash is not None else own

    @property
    def call_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        fields = take_apart(self._fields(), nothing_taken())
        facts = facts_of(self.options, self._others)
        return (OperatorState(type(self), self.task_id, self._attributes(), facts), fields), {}

    @classmethod
    def partial(cls, **kwargs: Any) -> PartialOperator:
        """The operator with these arguments, for `.expand` and `.expand_kwargs`."""
        return PartialOperator(cls, kwargs, caller())

    @property
    def log(self) -> logging.Logger:
        """Where `execute` logs to: the log of its try."""
        return logging.getLogger(f"liteflow.task.{type(self).__name__}")

    def _concluded(self, result: Any) -> Any:
        """What the engine is told, of what `execute` returned."""
        return result

    @classmethod
    def sensor_options_of(cls, given: Mapping[str, Any], place: Place) -> SensorOptions | None:
        """How a sensor waits, by its arguments; None for what is no sensor."""
        return None

    @property
    def operator_class(self) -> type:
        """Its class, under Airflow's name for it."""
        return type(self)


class OperatorState:
    """An operator on its way to a worker: its class and attributes, without its dag."""

    def __init__(self, cls: type[BaseOperator], task_id: str, attributes: dict[str, Any], facts: Facts) -> None:
        self.cls = cls
        self.task_id = task_id
        self.attributes = attributes
        self.facts = facts
        self.made: BaseOperator | None = None
        """In a worker, once it is made: a sensor that looks again is the same object."""

    def make(self, fields: dict[str, Any]) -> BaseOperator:
        """The operator again, its templated fields filled in."""
        operator = self.cls.__new__(self.cls)
        operator.task_id = self.task_id
        for name, value in {**self.attributes, **fields}.items():
            setattr(operator, name, value)
        return operator


def run_operator(state: OperatorState, fields: dict[str, Any]) -> Any:
    """In the worker: make the operator again and execute it."""
    if state.made is None:
        state.made = _settled(state.make(fields), state.facts)
    return _execute(state.made)


def run_mapped_operator(state: OperatorState, /, **kwargs: Any) -> Any:
    """In the worker: make one instance of a mapped operator from its arguments and execute it."""
    _refuse_unknown(state.cls, kwargs)
    if state.made is None:
        state.made = _settled(state.cls(task_id=state.task_id, **kwargs), state.facts)
    return _execute(state.made)


def _settled(operator: BaseOperator, facts: Facts) -> BaseOperator:
    """The operator in a worker with what it knows of itself."""
    operator.dag = get_current_context()["dag"]
    operator.options = TaskOptions()._replace(**facts.options)
    operator._others = facts.others
    return operator


def _refuse_unknown(cls: type, names: Iterable[str]) -> None:
    own = own_parameters(cls)
    for name in names:
        if name not in own:
            there = ", ".join(sorted(own))
            raise DagError(f"{caller()}: {cls.__name__} cannot be mapped over {name!r}; only over {there}")


def _execute(operator: BaseOperator) -> Any:
    from liteflow.errors import TaskKilled

    context = get_current_context()
    from_outside = call_when_ended.get()
    if from_outside is not None:
        from_outside(operator.on_kill)
    try:
        if not context.looks:
            operator.pre_execute(context)
        context.looks += 1
        result = operator.execute(context)
        operator.post_execute(context, result)
        return operator._concluded(result)
    except NothingSeen as nothing:
        return nothing.seen
    except TaskKilled:
        if from_outside is None:
            operator.on_kill()
        raise


class PartialOperator:
    """An operator with some of its arguments, to be mapped over the others."""

    is_uncalled_task = True

    def __init__(self, cls: type[BaseOperator], kwargs: dict[str, Any], place: Place) -> None:
        self._cls = cls
        self._kwargs = kwargs
        self._place = place
        self.name = str(kwargs.get("task_id", cls.__name__))
        if "task_id" not in kwargs:
            raise DagError(f"{place}: {cls.__name__}.partial() needs a task_id")

    def expand(self, **kwargs: Any) -> Task:
        """One instance for each item of these lists; of several arguments, for each combination."""
        _refuse_unknown(self._cls, kwargs)
        return self._make(expand_by_name(self.name, kwargs))

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> Task:
        """One instance for each dict of arguments in this list or value of a task."""
        return self._make(expand_by_kwargs(self.name, self._kwargs, kwargs, strict=strict))

    def _make(self, expansion: Expansion) -> Task:
        place = caller()
        dag, group = _surroundings(self._kwargs)
        if dag is None:
            raise DagError(f"{place}: {self.name} can be mapped only inside a dag: with Dag(...): ...")
        refuse_nested_mapping(self.name, dag)
        own = own_parameters(self._cls)
        given = _with_defaults(self._cls, self._kwargs)
        given = {k: v for k, v in given.items() if k not in _PLACING and k not in expansion.input.names}
        options: TaskOptions = task_options(
            {name: value for name, value in given.items() if name not in own},
            place,
            group.default_options if group is not None else dag.default_options,
            more=own,
        )
        around = {**default_args_around(dag, group), **(self._kwargs.get("default_args") or {})}
        facts = facts_of(options, inert_options({**around, **given}))
        taken = nothing_taken()
        extensions = (*self._cls.template_ext, *options.templates_exts)
        fields = self._cls.template_fields
        kwargs = take_apart({name: value for name, value in given.items() if name in own}, taken)
        for name, value in kwargs.items():
            if name not in fields and has_template_file(value, extensions):
                kwargs[name] = literal(value)  # only what is a template field can be the name of a file
        task_id = dag.free_operator_id(self._kwargs["task_id"], group, place)
        task = Task(
            dag=dag,
            task_id=task_id,
            function=run_mapped_operator,
            args=(OperatorState(self._cls, task_id, {}, facts),),
            kwargs=kwargs,
            options=options,
            place=place,
            inputs=tuple(taken.inputs),
            traits=self._cls.operator_traits,
            group=group,
            expansion=expansion,
            sensor=self._cls.sensor_options_of(given, place),
            ignores_rules=bool(given.get("ignore_downstream_trigger_rules", True)),
            templated=needs_rendering(
                place, options, (kwargs, expansion.input.literals, options.templates_dict), extensions
            ),
            extensions=extensions,
        )
        join_up(task, [*taken.tasks, *expansion.tasks], [*taken.mapped, *expansion.in_items.mapped])
        return task


_PLACING = frozenset(["task_id", "dag", "task_group", "default_args"])


def default_args_of_task(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options out of an operator's own `default_args`."""
    return {name: value for name, value in (given or {}).items() if name in TASK_OPTION_NAMES}
