"""Values that are not there yet while a dag is built: results of tasks, params of the run, arguments of mapped groups.

Where one stands among the arguments of a task, a small placeholder travels instead, and the worker puts the value
in its place. `take_apart` finds them, in lists, tuples, dicts and sets of any depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from liteflow.authoring.edges import DependencyMixin
from liteflow.authoring.mapping import NO_FILL, Items, Joined, Leaf, Mapped, Source, Zipped, leaves_of, whole_list
from liteflow.authoring.places import caller
from liteflow.errors import DagError

if TYPE_CHECKING:
    from types import TracebackType

    from liteflow.authoring.setups import SetupScope
    from liteflow.authoring.task import Task

RETURN_VALUE = "return_value"
"""The key under which a task's result is stored."""


class BaseXComArg(DependencyMixin):
    """A list or value that tasks hand on. Passed to a task it makes an edge from each of them and becomes the value."""

    __slots__ = ()

    def source(self) -> Source:
        """What it stands for, as a tree."""
        raise TypeError(f"{type(self).__name__} has no source")  # each subclass has one

    def tasks(self) -> list[Task]:
        """The tasks whose values it is made of."""
        raise TypeError(f"{type(self).__name__} has no tasks")  # each subclass has them

    def edge_starts(self) -> list[Task]:
        return self.tasks()

    edge_ends = edge_starts

    def map(self, function: Callable[[Any], Any]) -> DerivedXComArg:
        """Each item given to `function`, a plain one, in the worker of the task that gets it.

        If it raises `SkipTask`, the instance of that item is skipped.
        """
        if getattr(function, "is_uncalled_task", False) or not callable(function):
            raise DagError(f"{caller()}: .map() takes a plain function, not {function!r}")
        return DerivedXComArg(Mapped(self.source(), function), self.tasks())

    def zip(self, *others: BaseXComArg, fillvalue: Any = NO_FILL) -> DerivedXComArg:
        """Tuples of items at the same place. Stops at the shortest; with `fillvalue` goes on to the longest."""
        every = [self, *_only_xcomargs("zip", others)]
        tree = Zipped(tuple(one.source() for one in every), fillvalue)
        return DerivedXComArg(tree, [task for one in every for task in one.tasks()])

    def concat(self, *others: BaseXComArg) -> DerivedXComArg:
        """The items of all, one list after the other."""
        every = [self, *_only_xcomargs("concat", others)]
        tree = Joined(tuple(one.source() for one in every))
        return DerivedXComArg(tree, [task for one in every for task in one.tasks()])

    def __iter__(self) -> NoReturn:
        raise TypeError(
            f"{caller()}: {self!r} cannot be looped over: its value is only there when the dag runs; "
            "loop inside the task, or map over it with .expand()"
        )

    def __format__(self, spec: str) -> NoReturn:
        raise DagError(
            f"{caller()}: {self!r} stands in an f-string or format(): its value is only there when the dag runs; "
            "pass it to the task and make the text there"
        )

    def __reduce__(self) -> NoReturn:
        raise DagError(
            f"{self!r} stands inside an object that is an argument of a task: there it can neither make an edge nor "
            "become the value. Pass it as an argument, or in a list, tuple, dict or set"
        )


class XComArg(BaseXComArg):
    """The value that `task` hands on under `key`; of a mapped task, the list of its instances' values."""

    __slots__ = ("key", "task")

    def __init__(self, task: Task, key: str = RETURN_VALUE) -> None:
        self.task = task
        self.key = key

    @property
    def operator(self) -> Task:
        """The task, under Airflow's name for it."""
        return self.task

    def source(self) -> Source:
        return Items(self.task.task_id, self.key)

    def tasks(self) -> list[Task]:
        return [self.task]

    def __getitem__(self, key: str) -> XComArg:
        """The value under one key of the dict that the task returns."""
        if not isinstance(key, str):
            raise DagError(
                f"{caller()}: {self!r}[{key!r}]: only text keys of a dict can be taken before the value is there; "
                "take it apart inside the task"
            )
        if self.key != RETURN_VALUE:
            raise DagError(f"{caller()}: {self!r}[{key!r}]: one key can be taken, not a key of a key")
        return XComArg(self.task, key)

    def as_setup(self) -> XComArg:
        """Make the task a setup; see `Task.as_setup`."""
        self.task.as_setup()
        return self

    def as_teardown(self, *, setups: Any = None, on_failure_fail_dagrun: bool | None = None) -> XComArg:
        """Make the task a teardown; see `Task.as_teardown`."""
        self.task.as_teardown(setups=setups, on_failure_fail_dagrun=on_failure_fail_dagrun)
        return self

    def __enter__(self) -> SetupScope:
        return self.task.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.task.__exit__(kind, error, trace)

    def __str__(self) -> str:
        """A Jinja expression for the value, as in Airflow. It makes no edge."""
        key = "" if self.key == RETURN_VALUE else f", key={self.key!r}"
        return f"{{{{ ti.xcom_pull(task_ids={self.task.task_id!r}{key}) }}}}"

    def __repr__(self) -> str:
        return f"XComArg({self.task.task_id!r}{'' if self.key == RETURN_VALUE else f', {self.key!r}'})"


class DerivedXComArg(BaseXComArg):
    """What `.map`, `.zip` and `.concat` make of other values."""

    __slots__ = ("_source", "_tasks")

    def __init__(self, source: Source, tasks: Sequence[Task]) -> None:
        self._source = source
        self._tasks = list(dict.fromkeys(tasks))

    def source(self) -> Source:
        return self._source

    def tasks(self) -> list[Task]:
        return self._tasks

    def __repr__(self) -> str:
        kind = {Mapped: "map", Zipped: "zip", Joined: "concat"}[type(self._source)]
        return f"XComArg.{kind}({', '.join(repr(task.task_id) for task in self._tasks)})"


def _only_xcomargs(what: str, others: Sequence[Any]) -> Sequence[BaseXComArg]:
    for one in others:
        if not isinstance(one, BaseXComArg):
            raise DagError(f"{caller()}: .{what}() takes values of tasks, not {one!r}")
    return others


class DagParam:
    """A param of the dag, by name; a task that gets it as an argument gets its value in the run."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __iter__(self) -> NoReturn:
        raise TypeError(
            f"{caller()}: param {self.name!r} cannot be looped over: its value is only there when the dag runs; "
            "loop inside the task"
        )

    def __repr__(self) -> str:
        return f"DagParam({self.name!r})"

    def __reduce__(self) -> NoReturn:
        raise DagError(
            f"{self!r} stands inside an object that is an argument of a task. "
            "Pass it as an argument, or in a list, tuple, dict or set"
        )


class MappedArgument:
    """An argument of a mapped group: in each instance of the group, the item over which that one is mapped."""

    __slots__ = ("group", "name")

    def __init__(self, group: Any, name: str) -> None:
        self.group = group
        self.name = name

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{caller()}: {self!r} cannot be looped over: its value is only there when the dag runs")

    def __repr__(self) -> str:
        return f"MappedArgument({self.name!r})"

    def __reduce__(self) -> NoReturn:
        raise DagError(f"{self!r} stands inside an object that is an argument of a task. Pass it as an argument itself")


class XComInput(NamedTuple):
    """What a task needs of another one before it can be called."""

    task_id: str
    key: str


class Placeholder(NamedTuple):
    """Stands in the arguments of a task where a value goes when it runs: a task's XCom, or (no task) a param."""

    task_id: str | None
    key: str


class ListPlaceholder(NamedTuple):
    """Stands for a whole list that `.map`, `.zip` or `.concat` make."""

    source: Source


class MappedPlaceholder(NamedTuple):
    """Stands for an argument of the mapped group to which the task belongs."""

    name: str


PLACEHOLDERS = (Placeholder, ListPlaceholder, MappedPlaceholder)


class Taken(NamedTuple):
    """What `take_apart` found on its way."""

    inputs: dict[XComInput, set[Task]]
    """What is wanted of which task, in order: one task for each, unless dags were mixed up."""
    mapped: dict[MappedArgument, None]
    """Arguments of mapped groups, in order."""

    @property
    def tasks(self) -> list[Task]:
        """The tasks whose values are wanted."""
        return [task for tasks in self.inputs.values() for task in tasks]


def nothing_taken() -> Taken:
    """To be filled by `take_apart`."""
    return Taken({}, {})


def take_apart(value: Any, taken: Taken) -> Any:
    """`value` with placeholders where it held what is not there yet; `taken` collects what that was.

    What holds none of it is returned itself, not a copy.
    """
    kind = type(value)
    if kind is XComArg:
        wanted = XComInput(value.task.task_id, value.key)
        taken.inputs.setdefault(wanted, set()).add(value.task)
        return Placeholder(wanted.task_id, wanted.key)
    if kind is DerivedXComArg:
        by_id: dict[str, set[Task]] = {}
        for task in value.tasks():
            by_id.setdefault(task.task_id, set()).add(task)
        for leaf in leaves_of(value.source()):
            assert isinstance(leaf, Items)
            taken.inputs.setdefault(XComInput(*leaf), set()).update(by_id[leaf.task_id])
        return ListPlaceholder(value.source())
    if kind is DagParam:
        return Placeholder(None, value.name)
    if kind is MappedArgument:
        taken.mapped[value] = None
        return MappedPlaceholder(value.name)
    if getattr(kind, "is_uncalled_task", False):
        raise DagError(f"{caller()}: {value.name} is a task's function, not its value; call it: {value.name}(...)")
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        parts = [take_apart(one, taken) for one in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return parts if kind is list else kind(parts)
    if kind is dict:
        changed = {key: take_apart(one, taken) for key, one in value.items()}
        return value if all(changed[key] is value[key] for key in changed) else changed
    return value


def put_together(
    value: Any,
    inputs: Mapping[tuple[str, str], Any],
    params: Mapping[str, Any],
    mapped: Mapping[str, Any] | None = None,
) -> Any:
    """The other way: `value` with each placeholder replaced. `mapped` are the arguments of the mapped group."""
    kind = type(value)
    if kind is Placeholder:
        return params[value.key] if value.task_id is None else inputs[value.task_id, value.key]
    if kind is MappedPlaceholder:
        return (mapped or {})[value.name]
    if kind is ListPlaceholder:
        lists: dict[Leaf, Sequence[Any]] = {
            leaf: as_items(inputs[leaf]) for leaf in leaves_of(value.source) if isinstance(leaf, Items)
        }
        return whole_list(value.source, lists)
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        parts = [put_together(one, inputs, params, mapped) for one in value]
        return parts if kind is list else kind(parts)
    if kind is dict:
        return {key: put_together(one, inputs, params, mapped) for key, one in value.items()}
    return value


def placeholders_in(value: Any) -> list[Any]:
    """The placeholders in a value, from left to right."""
    if isinstance(value, PLACEHOLDERS):
        return [value]
    if isinstance(value, dict):
        return [found for one in value.values() for found in placeholders_in(one)]
    if isinstance(value, list | tuple | set | frozenset):
        return [found for one in value for found in placeholders_in(one)]
    return []


def as_items(value: Any) -> Sequence[Any]:
    """What a value is mapped over by: the items of a sequence, the (key, value) pairs of a dict. Else TypeError."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return value
    raise TypeError(f"a value of type {type(value).__name__} cannot be mapped over; it must be a list, tuple or dict")
