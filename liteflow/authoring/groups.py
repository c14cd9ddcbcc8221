"""Groups of tasks: a prefix for their ids, options in common, edges to and from all of them, mapped as one.

With Airflow's meaning: an edge to a group goes to its roots, one from it starts at its leaves, where a teardown does
not count as one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, NoReturn, overload

from liteflow.authoring.edges import DependencyMixin
from liteflow.authoring.expand import Expansion, expand_by_kwargs, expand_by_name, refuse_twice
from liteflow.authoring.ids import check_name
from liteflow.authoring.options import TaskOptions, check_default_args, default_task_options
from liteflow.authoring.places import caller
from liteflow.authoring.xcomarg import MappedArgument
from liteflow.errors import DagError

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag
    from liteflow.authoring.task import Task


class TaskGroup(DependencyMixin):
    """Tasks that belong together: `with TaskGroup("load") as load: ...`.

    `group_id`: with that of the group around it and a dot before it, it is the prefix of its tasks' ids, unless
    `prefix_group_id` is False. `default_args`: task options for every task in it, over those of what is around it.
    `add_suffix_on_collision`: an id that is taken gets `__1`, `__2`, ... in place of an error. `tooltip`, `doc_md`,
    `group_display_name` and colours are for pictures; colours are ignored.
    """

    def __init__(
        self,
        group_id: str | None = None,
        prefix_group_id: bool = True,
        parent_group: TaskGroup | None = None,
        dag: Dag | None = None,
        default_args: Mapping[str, Any] | None = None,
        tooltip: str = "",
        doc_md: str | None = None,
        ui_color: str | None = None,
        ui_fgcolor: str | None = None,
        add_suffix_on_collision: bool = False,
        group_display_name: str = "",
        expansion: Expansion | None = None,
    ) -> None:
        from liteflow.authoring.dag import current_dag

        self.place = caller()
        """Where the group is made."""
        found: Dag | None = dag or (parent_group.dag if parent_group is not None else current_dag())
        if found is None:
            raise DagError(f"{self.place}: a TaskGroup is made inside a dag: with Dag(...): with TaskGroup(...): ...")
        if group_id is None:
            raise DagError(f"{self.place}: a TaskGroup needs a group_id")
        self.dag: Dag = found
        self.parent = parent_group if parent_group is not None else found.current_group
        self.prefix_group_id = prefix_group_id
        self.default_args = check_default_args(default_args or {}, self.place)
        base = self.parent.default_options if self.parent is not None else found.default_options
        self.default_options: TaskOptions = default_task_options(self.default_args, self.place, base)
        self.tooltip = tooltip
        self.doc_md = doc_md
        self.children: list[Task | TaskGroup] = []
        """What is directly in it, in the order in which it was made."""
        self._passed_on: list[Task] = []
        self.expansion = expansion
        """What it is mapped over, if it is."""
        if expansion is not None and self.mapped_group is not self:
            raise DagError(f"{self.place}: group {group_id!r} is in a mapped group; a mapped group cannot hold another")
        wanted = self._prefixed(check_name("group id", group_id), self.parent)
        self.group_id: str = found.free_group_id(wanted, self.place, may_change=add_suffix_on_collision)
        if self.parent is not None:
            self.parent.children.append(self)
        found.task_groups[self.group_id] = self

    @staticmethod
    def _prefixed(label: str, parent: TaskGroup | None) -> str:
        return label if parent is None else parent.child_id(label)

    def child_id(self, label: str) -> str:
        """The id of a task or group of that name in this group; without a prefix also that of groups around it is left
        out, as in Airflow 3.3.2."""
        return f"{self.group_id}.{label}" if self.prefix_group_id else label

    @property
    def mapped_group(self) -> TaskGroup | None:
        """The mapped group to which it belongs, itself or one around it; the outermost if there were several."""
        around = self.parent.mapped_group if self.parent is not None else None
        return around if around is not None else self if self.expansion is not None else None

    def tasks(self) -> Iterator[Task]:
        """All tasks in it, those of groups inside it too."""
        for child in self.children:
            if isinstance(child, TaskGroup):
                yield from child.tasks()
            else:
                yield child

    @property
    def roots(self) -> list[Task]:
        """Tasks with nothing of the group upstream."""
        tasks = list(self.tasks())
        ids = {task.task_id for task in tasks}
        return [task for task in tasks if not ids & task.upstream_task_ids.keys()]

    @property
    def leaves(self) -> list[Task]:
        """Tasks with nothing of the group downstream; in place of a teardown what is before it."""
        tasks = {task.task_id: task for task in self.tasks()}
        inner = {up for task in tasks.values() for up in task.upstream_task_ids if up in tasks}
        ends = [task for task in tasks.values() if task.task_id not in inner]
        work_goes_on = {up for task in tasks.values() if not task.is_teardown for up in task.upstream_task_ids}
        found: dict[Task, None] = {}
        for task in ends:
            found.update(dict.fromkeys(_before_teardown(task, tasks)))
        kept = [task for task in found if task.task_id not in work_goes_on]
        return kept or [task for task in tasks.values() if not task.is_teardown] or ends

    def edge_starts(self) -> list[Task]:
        return self.leaves or self._passed_on

    def edge_ends(self) -> list[Task]:
        return self.roots

    def note_upstream(self, tasks: list[Task]) -> None:
        """What is upstream of a group with nothing in it is upstream of what follows it."""
        if not self.roots:
            self._passed_on += tasks

    def add_task(self, task: Task) -> None:
        """A task was made in it."""
        self.children.append(task)

    def __enter__(self) -> TaskGroup:
        self.dag.open_groups.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.dag.open_groups.pop()
        if kind is None and self.expansion is not None:
            for upstream in self.expansion.tasks:
                for root in self.roots:
                    self.dag.set_dependency(upstream, root, self.place)

    def __repr__(self) -> str:
        return f"<TaskGroup {self.dag.dag_id}.{self.group_id}>"

    def __reduce__(self) -> NoReturn:
        raise DagError(f"{self!r} cannot be sent to a worker; tasks get values, not groups")


def _before_teardown(task: Task, tasks: Mapping[str, Task]) -> Iterator[Task]:
    """The task itself or, for a teardown, the tasks of the group before it that are no teardowns.

    The edge from a teardown to its setup is no way up: what follows the group follows its work.
    """
    if not task.is_teardown:
        yield task
        return
    for task_id in task.upstream_task_ids:
        up = tasks.get(task_id)
        if up is not None and not up.is_setup:
            yield from _before_teardown(up, tasks)


class TaskGroupFactory:
    """A function as a group: called inside a dag it makes a group of the tasks that it makes."""

    is_group_factory = True

    def __init__(self, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
        if not callable(function) or getattr(function, "is_uncalled_task", False):
            raise DagError(f"{caller()}: @task_group is for functions that make tasks, not for {function!r}")
        unknown = options.keys() - _GROUP_OPTIONS
        if unknown:
            known = ", ".join(sorted(_GROUP_OPTIONS))
            raise DagError(f"{caller()}: a group has no option {sorted(unknown)[0]!r}; there are {known}")
        self.function = function
        self.options = dict(options)
        self._partial: dict[str, Any] = {}
        update_wrapper(self, function, updated=())

    @property
    def name(self) -> str:
        """The id of the group, unless it is repeated."""
        return str(self.options.get("group_id") or getattr(self.function, "__name__", "group"))

    def override(self, **options: Any) -> TaskGroupFactory:
        """The same group with other options (`group_id`, `default_args`, ...) laid over those it has."""
        other = TaskGroupFactory(self.function, {**self.options, **options})
        other._partial = self._partial
        return other

    def _group(self, expansion: Expansion | None) -> TaskGroup:
        options = {"add_suffix_on_collision": True, "tooltip": inspect.getdoc(self.function) or "", **self.options}
        return TaskGroup(**{**options, "group_id": self.name}, expansion=expansion)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the group; gives what the function returns or, where that is None, the group."""
        self._bind(args, kwargs)
        with self._group(None) as group:
            returned = self.function(*args, **kwargs)
        return group if returned is None else returned

    def partial(self, **kwargs: Any) -> TaskGroupFactory:
        """The same group with these arguments, for `.expand`."""
        other = TaskGroupFactory(self.function, self.options)
        other._partial = {**self._partial, **kwargs}
        return other

    def expand(self, **kwargs: Any) -> Any:
        """One instance of the group for each item of these lists; of several, for each combination.

        Gives what the function returns or, where that is None, the group; outside the group the value of a task in it
        is the list of those of all instances.
        """
        refuse_twice(self.name, self._partial, kwargs)
        return self._mapped(expand_by_name(self.name, kwargs), list(kwargs))

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> Any:
        """One instance of the group for each dict of arguments in this list."""
        names = [name for name in inspect.signature(self.function).parameters if name not in self._partial]
        return self._mapped(expand_by_kwargs(self.name, self._partial, kwargs, strict=strict), names)

    def _mapped(self, expansion: Expansion, names: list[str]) -> Any:
        self._bind((), {**self._partial, **dict.fromkeys(names)})
        group = self._group(expansion)
        arguments = {name: MappedArgument(group, name) for name in names}
        with group:
            returned = self.function(**self._partial, **arguments)
        return group if returned is None else returned

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            inspect.signature(self.function).bind(*args, **kwargs)
        except TypeError as error:
            raise DagError(f"{caller()}: {self.name}(): {error}") from None

    def __rshift__(self, other: Any) -> NoReturn:
        raise DagError(
            f"{caller()}: {self.name} at an edge is a function, not a group of the dag; call it: {self.name}()"
        )

    __lshift__ = __rrshift__ = __rlshift__ = __rshift__


_GROUP_OPTIONS = {
    "group_id",
    "prefix_group_id",
    "parent_group",
    "dag",
    "default_args",
    "tooltip",
    "doc_md",
    "ui_color",
    "ui_fgcolor",
    "add_suffix_on_collision",
    "group_display_name",
}


@overload
def task_group(function: Callable[..., Any], /) -> TaskGroupFactory: ...
@overload
def task_group(group_id: str | None = None, /, **options: Any) -> Callable[[Callable[..., Any]], TaskGroupFactory]: ...
def task_group(
    function_or_id: Callable[..., Any] | str | None = None, /, **options: Any
) -> TaskGroupFactory | Callable[[Callable[..., Any]], TaskGroupFactory]:
    """`@task_group` or `@task_group("load", ...)`: a function that makes a group of tasks when it is called in a dag.

    Options are those of `TaskGroup`. The id is the function's name unless it is given; a repeated group gets
    `__1`, `__2`, ... as in Airflow. `.expand(...)` maps the whole group.
    """
    if callable(function_or_id):
        return TaskGroupFactory(function_or_id, options)
    if function_or_id is not None:
        options["group_id"] = function_or_id
    return lambda function: TaskGroupFactory(function, options)
