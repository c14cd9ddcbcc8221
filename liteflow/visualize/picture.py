"""A run, or a dag that has not run, as plain values, ready to be drawn in any format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from liteflow.states import TaskInstanceState, counts_text, mapped_name, most_urgent

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag
    from liteflow.authoring.task import Task
    from liteflow.storage.summaries import TaskSummary


class Node(NamedTuple):
    """A task in a picture, with all of its instances in the run."""

    task_id: str
    counts: Mapping[TaskInstanceState, int]
    """How many of its instances are in which state. Empty for a task of a dag that is drawn from its code."""
    upstream: Sequence[str]
    """Task ids."""
    is_mapped: bool = False
    note: str = ""
    """More words under the id, such as how long it took."""
    groups: Sequence[str] = ()
    """Ids of the groups in which it is, the outermost first."""

    @property
    def state(self) -> TaskInstanceState:
        """The state in which it is drawn: of many, the one that one most wants to know; pending without instances."""
        return most_urgent([state for state, count in self.counts.items() if count] or [TaskInstanceState.PENDING])

    @property
    def name(self) -> str:
        """The task id, with the number of instances of a mapped one: `add_one [20]`, `add_one []` before a run."""
        if not self.is_mapped:
            return self.task_id
        return mapped_name(self.task_id, sum(self.counts.values())) if self.counts else f"{self.task_id} []"

    @property
    def words(self) -> str:
        """What stands under the name: the state, or how many instances are in which, and the note."""
        states = counts_text(self.counts) if self.is_mapped or not self.counts else str(self.state)
        return " ".join(filter(None, [states, self.note]))


class Picture(NamedTuple):
    """What is to be drawn."""

    dag_id: str
    run_id: str
    """Empty for a dag that is drawn from its code."""
    state: str
    nodes: Sequence[Node]
    """One for each task."""
    labels: Mapping[tuple[str, str], str] = MappingProxyType({})
    """Words on edges, by upstream and downstream task id."""

    @property
    def title(self) -> str:
        """`etl, run r1, failed`, or `etl` for a dag that is drawn from its code."""
        return f"{self.dag_id}, run {self.run_id}, {self.state}" if self.run_id else self.dag_id

    def edges(self) -> list[tuple[int, int]]:
        """Pairs of numbers of nodes, upstream first, each once. Upstream ids without a node have no edge."""
        numbers = {node.task_id: number for number, node in enumerate(self.nodes)}
        return [
            (numbers[task_id], end)
            for end, node in enumerate(self.nodes)
            for task_id in dict.fromkeys(node.upstream)
            if task_id in numbers
        ]

    def label(self, start: int, end: int) -> str:
        """The words on the edge between two nodes; empty if there are none."""
        return self.labels.get((self.nodes[start].task_id, self.nodes[end].task_id), "")


class Box(NamedTuple):
    """A group with what is in it."""

    group_id: str
    """Empty for the whole picture."""
    nodes: Sequence[int]
    """Numbers of the nodes that are directly in it."""
    boxes: Sequence[Box]


def boxes(picture: Picture) -> Box:
    """The groups of a picture as a tree, in the order of their first nodes."""
    inside: dict[tuple[str, ...], list[int]] = {(): []}
    children: dict[tuple[str, ...], list[tuple[str, ...]]] = {(): []}
    for number, node in enumerate(picture.nodes):
        path = tuple(node.groups)
        for depth in range(1, len(path) + 1):
            if path[:depth] not in inside:
                inside[path[:depth]], children[path[:depth]] = [], []
                children[path[: depth - 1]].append(path[:depth])
        inside[path].append(number)

    def box(path: tuple[str, ...]) -> Box:
        return Box(path[-1] if path else "", inside[path], [box(child) for child in children[path]])

    return box(())


def run_picture(dag_id: str, run_id: str, state: str, summaries: Iterable[TaskSummary]) -> Picture:
    """The picture of a run. A database does not tell which tasks are in a group; their ids do: see `grouped`."""
    from liteflow.execution.progress import seconds_text

    nodes = [
        Node(
            one.task_id,
            one.counts,
            one.upstream,
            one.is_mapped,
            seconds_text(one.duration.total_seconds()) if one.duration and not one.is_mapped else "",
        )
        for one in summaries
    ]
    return Picture(dag_id, run_id, state, grouped(nodes))


MOST_GROUPS_AROUND = 20
"""Groups around a task that are seen in its id."""


def grouped(nodes: Sequence[Node]) -> list[Node]:
    """The nodes with the groups that their ids tell: what stands before a dot is one if two tasks or more share it."""
    prefixes = [_prefixes(node.task_id) for node in nodes]
    shared = Counter(prefix for found in prefixes for prefix in found)
    return [
        node._replace(groups=[prefix for prefix in found if shared[prefix] > 1])
        for node, found in zip(nodes, prefixes, strict=True)
    ]


def _prefixes(task_id: str) -> list[str]:
    """`a` and `a.b` of `a.b.c`."""
    parts = task_id.split(".")[: MOST_GROUPS_AROUND + 1]
    return [prefix for prefix in (".".join(parts[:depth]) for depth in range(1, len(parts))) if prefix]


def dag_picture(dag: Dag) -> Picture:
    """The picture of a dag from its code: its groups and the labels of its edges, and no states."""
    nodes = [
        Node(task.task_id, {}, list(task.upstream_task_ids), task.is_mapped, _nature(task), _groups_of(task))
        for task in dag.topological_sort()
    ]
    return Picture(dag.dag_id, "", "", nodes, dag.edge_labels)


def with_code(picture: Picture, dag: Dag) -> Picture:
    """The picture of a run with what only the code of its dag tells: groups and labels of edges."""
    nodes = [
        node._replace(groups=_groups_of(dag.task_dict[node.task_id])) if dag.has_task(node.task_id) else node
        for node in picture.nodes
    ]
    return picture._replace(nodes=nodes, labels=dag.edge_labels)


def _nature(task: Task) -> str:
    """What is to be known of a task before it runs."""
    kinds = ["setup" if task.is_setup else "", "teardown" if task.is_teardown else ""]
    rule = str(task.trigger_rule.value)
    if rule != "all_success" and not task.is_teardown:
        kinds.append(rule)
    return ", ".join(filter(None, kinds))


def _groups_of(task: Task) -> list[str]:
    """Ids of the groups around it, the outermost first."""
    found, group = [], task.group
    while group is not None:
        found.append(group.group_id)
        group = group.parent
    return found[::-1]
