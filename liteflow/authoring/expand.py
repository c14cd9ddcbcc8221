"""What `.expand` and `.expand_kwargs` are given, checked while the dag is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from liteflow.authoring.mapping import LOOSE, STRICT, ExpandInput, Literal, Source
from liteflow.authoring.options import TASK_OPTION_NAMES
from liteflow.authoring.places import caller
from liteflow.authoring.xcomarg import BaseXComArg, MappedArgument, Taken, as_items, nothing_taken, take_apart
from liteflow.errors import DagError

if TYPE_CHECKING:
    from liteflow.authoring.task import Task


class Expansion(NamedTuple):
    """What a task or group is mapped over, and whose values that needs."""

    input: ExpandInput
    sources: list[Task]
    """The tasks whose values decide how many instances there are."""
    in_items: Taken
    """What stands inside the items of lists that are written in the dag."""

    @property
    def tasks(self) -> list[Task]:
        """All tasks from which it has an edge."""
        return list(dict.fromkeys([*self.sources, *self.in_items.tasks]))


def expand_by_name(name: str, kwargs: Mapping[str, Any]) -> Expansion:
    """The product of several lists; `name` is that of the task or group, for errors."""
    if not kwargs:
        raise DagError(f"{caller()}: {name}.expand() needs at least one argument to map over")
    builder = _Builder(name)
    sources = tuple((key, builder.source(f"{key}=", value)) for key, value in kwargs.items())
    return builder.finish(sources)


def expand_by_kwargs(name: str, partial: Mapping[str, Any], kwargs: Any, *, strict: bool) -> Expansion:
    """One list of dicts of arguments."""
    builder = _Builder(name)
    if isinstance(kwargs, Sequence) and not isinstance(kwargs, str | bytes):
        for one in kwargs:
            if isinstance(one, BaseXComArg):
                continue
            if not isinstance(one, Mapping) or not all(isinstance(key, str) for key in one):
                raise DagError(
                    f"{caller()}: {name}.expand_kwargs() takes a list of dicts of arguments, and it has {one!r}"
                )
            if strict:
                refuse_twice(name, partial, one)
    elif not isinstance(kwargs, BaseXComArg):
        raise DagError(f"{caller()}: {name}.expand_kwargs() takes a list of dicts of arguments, not {kwargs!r}")
    return builder.finish(((STRICT if strict else LOOSE, builder.source("", kwargs)),))


def refuse_twice(name: str, partial: Mapping[str, Any], kwargs: Mapping[str, Any]) -> None:
    """Raise DagError if an argument is given by `.partial` and mapped over too."""
    for key in kwargs:
        if key in partial:
            raise DagError(f"{caller()}: {name}() is given {key!r} twice, by .partial() and to map over")


class _Builder:
    """Collects the leaves of an expand input."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._literals: list[Sequence[Any]] = []
        self._sources: dict[Task, None] = {}
        self._in_items = nothing_taken()

    def source(self, what: str, value: Any) -> Source:
        if isinstance(value, BaseXComArg):
            self._sources.update(dict.fromkeys(value.tasks()))
            return value.source()
        if isinstance(value, MappedArgument):
            raise DagError(
                f"{caller()}: {self._name}.expand({what}{value!r}): inside a mapped group tasks cannot be mapped again"
            )
        try:
            items = as_items(value)
        except TypeError:
            if what.rstrip("=") in TASK_OPTION_NAMES:
                raise DagError(
                    f"{caller()}: {self._name}.expand({what}...): options are not mapped over; give them before: "
                    f"{self._name}.override({what}...).expand(...)"
                ) from None
            raise DagError(
                f"{caller()}: {self._name} cannot be mapped over {what}{value!r:.80}; give a list, a tuple, a dict or "
                "the value of a task"
            ) from None
        self._literals.append([take_apart(one, self._in_items) for one in items])
        return Literal(len(self._literals) - 1)

    def finish(self, sources: tuple[tuple[str, Source], ...]) -> Expansion:
        return Expansion(ExpandInput(sources, tuple(self._literals)), list(self._sources), self._in_items)
