"""A dag made ready to run: numbered, its functions and arguments packed, its units and weights worked out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from liteflow.authoring.context import TaskView
from liteflow.authoring.dag import Dag
from liteflow.authoring.groups import TaskGroup
from liteflow.authoring.mapping import ExpandInput, Items, Leaf, all_leaves, count_of, literal_lengths
from liteflow.authoring.params import NOTSET
from liteflow.authoring.setups import all_below, scope_of
from liteflow.authoring.task import BASH, Task
from liteflow.authoring.xcomarg import RETURN_VALUE, XComInput, placeholders_in
from liteflow.errors import TransportError
from liteflow.execution.calling import CALLBACK, Recipe
from liteflow.execution.code import Code, Dumps, dumps_for_worker, pack, pack_arguments
from liteflow.execution.requests import default_params_json
from liteflow.operators.base import run_mapped_operator, run_operator
from liteflow.scheduling.core import TaskSpec, UnitSpec
from liteflow.scheduling.weights import total_weights

CodeOf = Callable[[Callable[..., Any], str], tuple[int, Code]]
"""The number and the way of travel of a function; the text says whose it is, for errors."""

TASK_CALLBACKS = ("on_success", "on_failure", "on_retry", "on_skipped")
DAG_CALLBACKS = ("dag_on_success", "dag_on_failure")


class Unit(NamedTuple):
    """What is expanded together, and over what."""

    input: ExpandInput
    leaves: list[Leaf]
    sources: list[int]
    """Numbers of the tasks whose values decide how many instances there are."""
    tasks: list[int]


class PreparedDag:
    """A dag made ready to run. Shared by all of its runs in a service."""

    def __init__(self, dag: Dag, code_of: CodeOf, dumps: Dumps | None = None) -> None:
        dag.validate()
        self.dag = dag
        self._dumps = dumps
        """What pickles arguments and options, if not the pickler that everything travels with."""
        self.digest = dag.structure_digest()
        self.tasks = dag.topological_sort()
        self.number_of = {task.task_id: number for number, task in enumerate(self.tasks)}
        self.downstream: dict[str, list[str]] = {task.task_id: [] for task in self.tasks}
        for task in self.tasks:
            for up in task.upstream_task_ids:
                self.downstream[up].append(task.task_id)
        self.codes = [
            code_of(task.function, f"{task.place}: the function of task {task.task_id!r}") for task in self.tasks
        ]
        self.units, self.unit_of = self._find_units()
        self.needs_nothing = [
            not self.inputs_of(task) and (unit is None or not self.units[unit].sources)
            for task, unit in zip(self.tasks, self.unit_of, strict=True)
        ]
        """Of each task: whether the dag itself holds all of its arguments."""
        self.mapped_keys = self._find_mapped_keys()
        self._default_params = default_params_json(dag)
        first: dict[Recipe, int] = {}
        self.recipes = [self._recipe(number, task) for number, task in enumerate(self.tasks)]
        self.alike = [first.setdefault(recipe, number) for number, recipe in enumerate(self.recipes)]
        """Of each task: the first one that has the same recipe."""
        self.recipes = [self.recipes[number] for number in self.alike]
        self.recipe_numbers = self._find_kept_recipes()
        """Of recipes that slots keep, by the first task that has them: the number once there is one, else 0."""
        upstream = [tuple(self.number_of[up] for up in task.upstream_task_ids) for task in self.tasks]
        self.specs = self._specs(upstream)
        self.unit_specs = [UnitSpec(unit.sources, self._literal_count(unit)) for unit in self.units]
        self.weights = total_weights([task.options for task in self.tasks], upstream)
        self.takers = self._find_takers()
        """Of each task: which tasks take its value."""
        self.keys_taken = self._find_keys_taken()
        """Of each task: the keys that somebody takes, and `return_value`, from which a key may have to be taken."""
        self.callbacks = self._find_callbacks(code_of)
        """Of each task and kind of callback: the numbers and codes of its functions. Those of the dag are under -1."""

    def _find_kept_recipes(self) -> dict[int, int]:
        """Those of tasks that have many instances, look many times, or are alike: others are sent each time."""
        return {
            alike: 0
            for number, alike in enumerate(self.alike)
            if number != alike or self.unit_of[number] is not None or self.tasks[number].sensor is not None
        }

    def _find_units(self) -> tuple[list[Unit], list[int | None]]:
        units: list[Unit] = []
        number_of: dict[Task | TaskGroup, int] = {}
        unit_of: list[int | None] = []
        for number, task in enumerate(self.tasks):
            key, expansion = task.unit, task.expand_input
            if key is None or expansion is None:
                unit_of.append(None)
                continue
            if key not in number_of:
                number_of[key] = len(units)
                sources = sorted(self.number_of[source.task_id] for source in expansion.sources)
                units.append(Unit(expansion.input, all_leaves(expansion.input), sources, []))
            units[number_of[key]].tasks.append(number)
            unit_of.append(number_of[key])
        return units, unit_of

    def _literal_count(self, unit: Unit) -> int | None:
        return None if unit.sources else count_of(unit.input, literal_lengths(unit.input))

    def _find_mapped_keys(self) -> list[tuple[str, ...]]:
        """Of each task: the keys under which it must hand on its value item by item.

        The values of a mapped task are items as they are.
        """
        keys: list[dict[str, None]] = [{} for _ in self.tasks]
        for unit in self.units:
            for leaf in unit.leaves:
                if isinstance(leaf, Items) and self.unit_of[self.number_of[leaf.task_id]] is None:
                    keys[self.number_of[leaf.task_id]][leaf.key] = None
        return [tuple(one) for one in keys]

    def _find_takers(self) -> list[frozenset[int]]:
        takers: dict[int, set[int]] = {}
        for number, task in enumerate(self.tasks):
            for wanted in self.inputs_of(task):
                takers.setdefault(self.number_of[wanted.task_id], set()).add(number)
            unit = self.unit_of[number]
            for source in self.units[unit].sources if unit is not None else ():
                takers.setdefault(source, set()).add(number)
        return [frozenset(takers.get(number, ())) for number in range(len(self.tasks))]

    def _find_keys_taken(self) -> list[frozenset[str]]:
        taken: list[set[str]] = [{RETURN_VALUE, *keys} for keys in self.mapped_keys]
        for task in self.tasks:
            for wanted in self.inputs_of(task):
                taken[self.number_of[wanted.task_id]].add(wanted.key)
        for unit in self.units:
            for leaf in unit.leaves:
                if isinstance(leaf, Items):
                    taken[self.number_of[leaf.task_id]].add(leaf.key)
        equal: dict[frozenset[str], frozenset[str]] = {}  # mostly the same few, which a large dag need not hold often
        return [equal.setdefault(one, one) for one in map(frozenset, taken)]

    @staticmethod
    def inputs_of(task: Task) -> list[XComInput]:
        """What a task's arguments need of others, inside the items over which it is mapped too."""
        expansion = task.expand_input
        return [*task.inputs, *(expansion.in_items.inputs if expansion is not None else ())]

    def _specs(self, upstream: list[tuple[int, ...]]) -> list[TaskSpec]:
        specs = []
        below = {task.task_id: all_below(task.task_id, self.downstream) for task in self.tasks if task.is_setup}
        for number, task in enumerate(self.tasks):
            setups = [up for up in upstream[number] if self.tasks[up].is_setup] if task.is_teardown else []
            scope = [self.number_of[one] for one in scope_of(self.dag, task, below)] if setups else []
            specs.append(
                TaskSpec(
                    task.task_id,
                    upstream[number],
                    task.options,
                    self.unit_of[number],
                    setups,
                    scope,
                    task.is_teardown,
                    not task.is_teardown or task.on_failure_fail_dagrun,
                )
            )
        return specs

    def _recipe(self, number: int, task: Task) -> Recipe:
        options = task.options
        args, kwargs = task.call_arguments
        unit = self.unit_of[number]
        used = None
        if task.expansion is None and unit is not None:
            names = [one.name for one in placeholders_in((args, kwargs)) if hasattr(one, "name")]
            used = tuple(dict.fromkeys(names))
        sources = self.units[unit].input.sources if unit is not None and used != () else ()
        policy = {"retry_policy": options.retry_policy} if options.retry_policy is not None else {}
        bash = {"bash": task.bash} if task.kind == BASH else {}
        on_execute = {"on_execute": options.on_execute_callback} if options.on_execute_callback else {}
        templates = {"templates_dict": options.templates_dict} if options.templates_dict is not None else {}
        around = {"pre_execute": options.pre_execute, "post_execute": options.post_execute}
        around = {name: function for name, function in around.items() if function is not None}
        extras = {**policy, **bash, **on_execute, **templates, **around}
        dag = self.dag
        return Recipe(
            kind=task.kind,
            arguments=pack_arguments(task, (args, kwargs, sources), self._dumps) if args or kwargs or sources else b"",
            has_placeholders=bool(
                placeholders_in(
                    (args, kwargs, options.templates_dict, task.bash.env if task.bash is not None else None)
                )
            ),
            templated=task.templated,
            native=options.render_template_as_native_obj,
            context_params=task.context_params,
            wants_context=task.wants_context,
            multiple_outputs=bool(options.multiple_outputs),
            push_result=options.do_xcom_push,
            mapped_keys=self.mapped_keys[number],
            used_mapped=used,
            map_index_template=options.map_index_template,
            sensor=tuple(task.sensor) if task.sensor is not None else None,
            extras=pack(extras, f"{task.place}: the options of task {task.task_id!r}", self._dumps) if extras else b"",
            wants_exception=bool(options.on_failure_callback or options.on_retry_callback or dag.on_failure_callback),
            dag_view=(
                dag.dag_id,
                dag.description,
                dag.tags,
                dag.timezone_name,
                self._default_params,
                dag.is_for_airflow,
            ),
            task_view=tuple(TaskView(task.task_id, options.retries, options.trigger_rule.value, options.pool))[1:],
            max_tries=options.retries + 1,
            template_settings=self._template_settings if self._renders(task) else b"",
            template_ext=task.template_extensions,
            own_params=self._own_params(task),
        )

    @staticmethod
    def _renders(task: Task) -> bool:
        """Whether there is, or may be, a template among what the task has."""
        is_operator = task.function is run_operator or task.function is run_mapped_operator
        return task.templated or task.kind == BASH or task.options.map_index_template is not None or is_operator

    @cached_property
    def _template_settings(self) -> bytes:
        settings = tuple(self.dag.template_settings)
        try:
            return (self._dumps or dumps_for_worker)(settings)
        except Exception:  # whatever the __reduce__ of a stranger's class raises: say of what
            for option, value in self.dag.template_settings._asdict().items():
                for name, part in value.items() if isinstance(value, Mapping) else [(None, value)]:
                    what = f"{self.dag.place}: {option}" if name is None else f"{self.dag.place}: {name!r} of {option}"
                    pack(part, what, self._dumps)
            raise

    def _own_params(self, task: Task) -> bytes:
        own = task.options.params
        if not own:
            return b""
        defaults = {name: value for name, value in self.dag.params.items() if name in own}
        values = {name: param.value for name, param in own.items() if param.value is not NOTSET}
        return pack((values, defaults), f"{task.place}: the params of task {task.task_id!r}", self._dumps)

    def literal_item(self, unit: int, leaf: int, place: int) -> bytes:
        """An item that is written in the dag, packed."""
        found = self.units[unit].leaves[leaf]
        assert not isinstance(found, Items)
        item = self.units[unit].input.literals[found.number][place]
        try:
            return pack(item, "it", self._dumps)
        except TransportError:  # where it is written is worked out only now
            return pack(item, f"{self.tasks[self.units[unit].tasks[0]].place}: item {place} that is mapped over")

    def _find_callbacks(self, code_of: CodeOf) -> dict[tuple[int, str], list[tuple[int, Code]]]:
        found: dict[tuple[int, str], list[tuple[int, Code]]] = {}
        for number, task in enumerate(self.tasks):
            for kind in TASK_CALLBACKS:
                functions = getattr(task.options, f"{kind}_callback")
                if functions:
                    what = f"{task.place}: the {kind}_callback of task {task.task_id!r}"
                    found[number, kind] = [code_of(function, what) for function in functions]
        for kind in DAG_CALLBACKS:
            functions = getattr(self.dag, f"{kind.removeprefix('dag_')}_callback")
            if functions:
                what = f"{self.dag.place}: the {kind.removeprefix('dag_')}_callback"
                found[-1, kind] = [code_of(function, what) for function in functions]
        return found

    def callback_recipe(self, number: int) -> Recipe:
        """The recipe of a callback of that task."""
        return self.recipes[number]._replace(
            kind=CALLBACK,
            arguments=b"",
            extras=b"",
            sensor=None,
            map_index_template=None,
            wants_exception=False,
            mapped_keys=(),
        )
