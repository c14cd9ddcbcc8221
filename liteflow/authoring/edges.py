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
    """What can stand beside `>>` and `<<`: a task, a value that tasks hand on, a group."""

    __slots__ = ()

    def edge_starts(self) -> list[Task]:
        """The tasks after which comes what is downstream of this: of a group, its leaves."""
        raise TypeError(f"{type(self).__name__} has no tasks")  # each subclass has them

    def edge_ends(self) -> list[Task]:
        """The tasks before which comes what is upstream of this: of a group, its roots."""
        raise TypeError(f"{type(self).__name__} has no tasks")  # each subclass has them

    def note_upstream(self, tasks: list[Task]) -> None:
        """Edges from these tasks are made; only an empty group has to remember them."""

    def set_downstream(self, other: Any, edge_modifier: Label | None = None) -> None:
        """Make everything in `other` run after this. `edge_modifier` is a label for pictures."""
        _join(self, other, edge_modifier)

    def set_upstream(self, other: Any, edge_modifier: Label | None = None) -> None:
        """Make this run after everything in `other`. `edge_modifier` is a label for pictures."""
        _join(other, self, edge_modifier)

    def __rshift__(self, other: Any) -> Any:
        if isinstance(other, Label):
            return _Labelled(self, other, downwards=True)
        self.set_downstream(other)
        return other

    def __lshift__(self, other: Any) -> Any:
        if isinstance(other, Label):
            return _Labelled(self, other, downwards=False)
        self.set_upstream(other)
        return other

    def __rrshift__(self, other: Any) -> Any:  # [a, b] >> self
        self.set_upstream(other)
        return self

    def __rlshift__(self, other: Any) -> Any:  # [a, b] << self
        self.set_downstream(other)
        return self


class Label:
    """Words on an edge, for pictures: `check >> Label("no errors") >> report`."""

    def __init__(self, label: str) -> None:
        self.label = label

    def __rrshift__(self, other: Any) -> _Labelled:  # [a, b] >> Label(...)
        return _Labelled(other, self, downwards=True)

    def __rlshift__(self, other: Any) -> _Labelled:
        return _Labelled(other, self, downwards=False)

    def __repr__(self) -> str:
        return f"Label({self.label!r})"


class _Labelled:
    """Half of an edge with a label, which waits for its other end."""

    def __init__(self, end: Any, label: Label, *, downwards: bool) -> None:
        self._end = end
        self._label = label
        self._downwards = downwards

    def __rshift__(self, other: Any) -> Any:
        self._need(True)
        _join(self._end, other, self._label)
        return other

    def __lshift__(self, other: Any) -> Any:
        self._need(False)
        _join(other, self._end, self._label)
        return other

    def _need(self, downwards: bool) -> None:
        if self._downwards is not downwards:
            raise DagError(f"{caller()}: {self._label!r} stands between >> and <<; use the same on both sides")


def _join(left: Any, right: Any, label: Label | None = None) -> None:
    """Edges from each task at the end of `left` to each at the beginning of `right`."""
    ends, starts = tasks_of(right, starts=False), tasks_of(left, starts=True)
    for one in right if isinstance(right, list | tuple | set | frozenset) else [right]:
        if isinstance(one, DependencyMixin):
            one.note_upstream(starts)
    for start in starts:
        for end in ends:
            start.dag.set_dependency(start, end, label=None if label is None else label.label)


def tasks_of(end: Any, *, starts: bool) -> list[Task]:
    """The tasks at one end of an edge: of a task, an `XComArg`, a group, or lists of these.

    `starts`: whether the edge starts there, so that the leaves of a group are meant and not its roots.
    """
    if isinstance(end, DependencyMixin):
        return end.edge_starts() if starts else end.edge_ends()
    if isinstance(end, list | tuple | set | frozenset):
        return [task for one in end for task in tasks_of(one, starts=starts)]
    if callable(end):
        name = getattr(end, "__name__", repr(end))
        raise DagError(f"{caller()}: {name} at an edge is a function, not a task of the dag; call it: {name}(...)")
    raise DagError(f"{caller()}: {end!r} at an edge is not a task")


def chain(*elements: Any) -> None:
    """Run the elements one after the other. Neighbouring lists must be of equal length and are joined pairwise.

    `chain(a, [b, c], [d, e], f)` is a >> [b, c], b >> d, c >> e, [d, e] >> f. A `Label` may stand between two elements.
    """
    for left, label, right in _neighbours(elements):
        if isinstance(left, DependencyMixin) or isinstance(right, DependencyMixin):
            _join(left, right, label)
        elif len(left) != len(right):
            raise DagError(
                f"{caller()}: chain() joins neighbouring lists pairwise, and these have {len(left)} and "
                f"{len(right)} elements; use chain_linear() to join each with each"
            )
        else:
            for one, other in zip(left, right, strict=True):
                _join(one, other, label)


def chain_linear(*elements: Any) -> None:
    """Run the elements one after the other; neighbouring lists are joined each with each."""
    for left, label, right in _neighbours(elements):
        _join(left, right, label)


def cross_downstream(from_tasks: Any, to_tasks: Any) -> None:
    """Make each task of `to_tasks` run after every task of `from_tasks`."""
    _join(from_tasks, to_tasks)


def _neighbours(elements: Sequence[Any]) -> Iterable[tuple[Any, Label | None, Any]]:
    """Pairs of neighbours, with the label that stands between them. Empty lists are passed over."""
    kept: list[tuple[Any, Label | None]] = []
    label: Label | None = None
    for one in elements:
        if isinstance(one, Label):
            label = one
        elif isinstance(one, DependencyMixin) or tasks_of(one, starts=True):
            kept.append((one, label))
            label = None
    return [(left, label, right) for (left, _), (right, label) in pairwise(kept)]
