"""A run as plain values, ready to be drawn in any format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from liteflow.states import TaskInstanceState, counts_text, mapped_name, most_urgent


class Node(NamedTuple):
    """A task in a picture, with all of its instances in the run."""

    task_id: str
    counts: Mapping[TaskInstanceState, int]
    """How many of its instances are in which state; at least one is."""
    upstream: Sequence[str]
    """Task ids."""
    is_mapped: bool = False
    note: str = ""
    """More words under the id, such as how long it took."""

    @property
    def state(self) -> TaskInstanceState:
        """The state in which it is drawn: of many, the one that one most wants to know."""
        return most_urgent(state for state, count in self.counts.items() if count)

    @property
    def name(self) -> str:
        """The task id, with the number of instances of a mapped one."""
        return mapped_name(self.task_id, sum(self.counts.values())) if self.is_mapped else self.task_id

    @property
    def words(self) -> str:
        """What stands under the name: the state, or how many instances are in which, and the note."""
        states = counts_text(self.counts) if self.is_mapped else str(self.state)
        return " ".join(filter(None, [states, self.note]))


class Picture(NamedTuple):
    """A run to be drawn."""

    dag_id: str
    run_id: str
    state: str
    nodes: Sequence[Node]
    """One for each task."""

    def edges(self) -> list[tuple[int, int]]:
        """Pairs of numbers of nodes, upstream first, each once. Upstream ids without a node have no edge."""
        numbers = {node.task_id: number for number, node in enumerate(self.nodes)}
        return [
            (numbers[task_id], end)
            for end, node in enumerate(self.nodes)
            for task_id in dict.fromkeys(node.upstream)
            if task_id in numbers
        ]
