"""Values that are not there yet while a dag is built: results of tasks, and params of the run.

Where one stands among the arguments of a task, a small placeholder travels instead, and the worker puts the value
in its place. `take_apart` finds them, in lists, tuples, dicts and sets of any depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from liteflow.authoring.edges import DependencyMixin
from liteflow.authoring.places import caller
from liteflow.errors import DagError

if TYPE_CHECKING:
    from liteflow.authoring.task import Task

RETURN_VALUE = "return_value"
"""The key under which a task's result is stored."""


class XComArg(DependencyMixin):
    """The value that `task` hands on under `key`. Passed to another task it makes an edge and becomes the value."""

    __slots__ = ("key", "task")

    def __init__(self, task: Task, key: str = RETURN_VALUE) -> None:
        self.task = task
        self.key = key

    @property
    def operator(self) -> Task:
        """The task, under Airflow's name for it."""
        return self.task

    def as_task(self) -> Task:
        return self.task

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

    def __iter__(self) -> NoReturn:
        raise TypeError(
            f"{caller()}: {self!r} cannot be looped over: its value is only there when the dag runs; "
            "loop inside the task"
        )

    def __format__(self, spec: str) -> NoReturn:
        raise DagError(
            f"{caller()}: {self!r} stands in an f-string or format(): its value is only there when the dag runs; "
            "pass it to the task and make the text there"
        )

    def __repr__(self) -> str:
        return f"XComArg({self.task.task_id!r}{'' if self.key == RETURN_VALUE else f', {self.key!r}'})"

    def __reduce__(self) -> NoReturn:
        raise DagError(
            f"{self!r} stands inside an object that is an argument of a task: there it can neither make an edge nor "
            "become the value. Pass it as an argument, or in a list, tuple, dict or set"
        )


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


class XComInput(NamedTuple):
    """What a task needs of another one before it can be called."""

    task_id: str
    key: str


class Placeholder(NamedTuple):
    """Stands in the arguments of a task where a value goes when it runs: a task's XCom, or (no task) a param."""

    task_id: str | None
    key: str


def take_apart(value: Any, inputs: dict[XComInput, set[Task]]) -> Any:
    """`value` with placeholders where it held an `XComArg` or `DagParam`.

    `inputs` collects what is wanted of which task, in order: one task for each, unless dags were mixed up.

    What holds none of them is returned itself, not a copy.
    """
    kind = type(value)
    if kind is XComArg:
        wanted = XComInput(value.task.task_id, value.key)
        inputs.setdefault(wanted, set()).add(value.task)
        return Placeholder(wanted.task_id, wanted.key)
    if kind is DagParam:
        return Placeholder(None, value.name)
    if getattr(kind, "is_uncalled_task", False):
        raise DagError(f"{caller()}: {value.name} is a task's function, not its value; call it: {value.name}(...)")
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        parts = [take_apart(one, inputs) for one in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return parts if kind is list else kind(parts)
    if kind is dict:
        changed = {key: take_apart(one, inputs) for key, one in value.items()}
        return value if all(changed[key] is value[key] for key in changed) else changed
    return value


def put_together(value: Any, inputs: Mapping[tuple[str, str], Any], params: Mapping[str, Any]) -> Any:
    """The other way: `value` with each placeholder replaced."""
    kind = type(value)
    if kind is Placeholder:
        return params[value.key] if value.task_id is None else inputs[value.task_id, value.key]
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        parts = [put_together(one, inputs, params) for one in value]
        return parts if kind is list else kind(parts)
    if kind is dict:
        return {key: put_together(one, inputs, params) for key, one in value.items()}
    return value
