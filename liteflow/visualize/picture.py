"""A run as plain values, ready to be drawn in any format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Node(NamedTuple):
    """A task instance in a picture."""

    task_id: str
    map_index: int
    state: str
    upstream: Sequence[str]
    """Task ids; all of their instances are meant."""
    note: str = ""
    """More words under the id, such as how long it took."""

    @property
    def name(self) -> str:
        """The task id, with the map index of a mapped one."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


class Picture(NamedTuple):
    """A run to be drawn."""

    dag_id: str
    run_id: str
    state: str
    nodes: Sequence[Node]

    def edges(self) -> list[tuple[int, int]]:
        """Pairs of numbers of nodes, upstream first."""
        numbers: dict[str, list[int]] = {}
        for number, node in enumerate(self.nodes):
            numbers.setdefault(node.task_id, []).append(number)
        return [
            (start, end)
            for end, node in enumerate(self.nodes)
            for task_id in node.upstream
            for start in numbers.get(task_id, [])
        ]
