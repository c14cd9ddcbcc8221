"""Edges between tasks: `>>`, `<<`, and the helpers that make many at once, with Airflow's meaning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from liteflow.authoring.places import caller
from liteflow.errors import DagError

if TYPE_CHECKING:
    from liteflow.authoring.task import Task


class DependencyMixin:
    """What can stand beside `>>` and `<<`: a task, or the `XComArg` that stands for its result."""

    __slots__ = ()

    def as_task(self) -> Task:
        """The task at this end of an edge."""
        raise TypeError(f"{type(self).__name__} has no task")  # each subclass has one

    def set_downstream(self, other: Any, edge_modifier: object = None) -> None:
        """Make every task in `other` run after this one. `edge_modifier` (a label) changes nothing."""
        for task in tasks_of(other):
            task.dag.set_dependency(self.as_task(), task)

    def set_upstream(self, other: Any, edge_modifier: object = None) -> None:
        """Make this one run after every task in `other`. `edge_modifier` (a label) changes nothing."""
        for task in tasks_of(other):
            task.dag.set_dependency(task, self.as_task())

    def __rshift__(self, other: Any) -> Any:
        self.set_downstream(other)
        return other

    def __lshift__(self, other: Any) -> Any:
        self.set_upstream(other)
        return other

    def __rrshift__(self, other: Any) -> Any:  # [a, b] >> self
        self.set_upstream(other)
        return self

    def __rlshift__(self, other: Any) -> Any:  # [a, b] << self
        self.set_downstream(other)
        return self


def tasks_of(end: Any) -> list[Task]:
    """The tasks at one end of an edge: of a task, an `XComArg`, or lists of these."""
    if isinstance(end, DependencyMixin):
        return [end.as_task()]
    if isinstance(end, list | tuple | set | frozenset):
        return [task for one in end for task in tasks_of(one)]
    if callable(end):
        name = getattr(end, "__name__", repr(end))
        raise DagError(f"{caller()}: {name} at an edge is a function, not a task of the dag; call it: {name}(...)")
    raise DagError(f"{caller()}: {end!r} at an edge is not a task")


def chain(*elements: DependencyMixin | Sequence[DependencyMixin]) -> None:
    """Run the elements one after the other. Neighbouring lists must be of equal length and are joined pairwise.

    `chain(a, [b, c], [d, e], f)` is a >> [b, c], b >> d, c >> e, [d, e] >> f.
    """
    for left, right in _neighbours(elements):
        if isinstance(left, DependencyMixin) or isinstance(right, DependencyMixin):
            _cross(left, right)
        elif len(left) != len(right):
            raise DagError(
                f"{caller()}: chain() joins neighbouring lists pairwise, and these have {len(left)} and "
                f"{len(right)} elements; use chain_linear() to join each with each"
            )
        else:
            for one, other in zip(left, right, strict=True):
                _cross(one, other)


def chain_linear(*elements: DependencyMixin | Sequence[DependencyMixin]) -> None:
    """Run the elements one after the other; neighbouring lists are joined each with each."""
    for left, right in _neighbours(elements):
        _cross(left, right)


def cross_downstream(from_tasks: Any, to_tasks: Any) -> None:
    """Make each task of `to_tasks` run after every task of `from_tasks`."""
    _cross(from_tasks, to_tasks)


def _neighbours(elements: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    kept = [one for one in elements if isinstance(one, DependencyMixin) or tasks_of(one)]
    return pairwise(kept)


def _cross(left: Any, right: Any) -> None:
    ends = tasks_of(right)
    for start in tasks_of(left):
        for end in ends:
            start.dag.set_dependency(start, end)
