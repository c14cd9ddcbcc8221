"""What is measured: each workload for the bare loop and as a dag, and how fast liteflow has to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.benchmarks import bodies
from tests.benchmarks.bare import Graph, Node, Ref

MIB = 2**20


class Mapped(NamedTuple):
    """One function over many items, and a reducer."""

    function: Callable[[Any], Any]
    items: Sequence[Any]
    reducer: Callable[[Any], Any]


class Workload(NamedTuple):
    """Something to run on both sides."""

    what: str
    make: Callable[[int], Graph | Mapped]
    size: int
    """As a rule the number of tasks."""
    most: float
    """The ratio to the bare loop that must not be exceeded."""


def last_of(what: Graph | Mapped) -> str:
    """The task whose value both sides must agree on."""
    return what.reducer.__name__ if isinstance(what, Mapped) else next(reversed(list(what)))


def wide(size: int) -> Graph:
    return {f"t{number}": Node(bodies.nothing) for number in range(size)}


def mapped(size: int) -> Mapped:
    return Mapped(bodies.double, range(size), bodies.total)


def layered(size: int) -> Graph:
    """One task, and below it layers of 17, each task of which takes the values of three above."""
    nodes: dict[str, Node] = {"t0": Node(bodies.one)}
    above = ["t0"]
    while len(nodes) < size:
        layer = {}
        for place in range(min(17, size - len(nodes))):
            wanted = sorted({above[(place + step) % len(above)] for step in (0, 1, 5)})
            layer[f"t{len(nodes) + place}"] = Node(bodies.add, tuple(map(Ref, wanted)))
        nodes.update(layer)
        above = list(layer)
    return nodes


def chain(size: int) -> Graph:
    first: dict[str, Node] = {"t0": Node(bodies.one)}
    return first | {f"t{number}": Node(bodies.add_one, (Ref(f"t{number - 1}"),)) for number in range(1, size)}


def cpu(size: int) -> Graph:
    return {f"t{number}": Node(bodies.burn, (0.05,)) for number in range(size)}


def large_bytes(size: int) -> Graph:
    return {"made": Node(bodies.make_bytes, (size,)), "taken": Node(bodies.length_of, (Ref("made"),))}


def large_array(size: int) -> Graph:
    return {"made": Node(bodies.make_array, (size,)), "taken": Node(bodies.length_of, (Ref("made"),))}


WORKLOADS = {
    "wide": Workload("10,000 independent no-op tasks", wide, 10_000, 0.35),
    "mapped": Workload("10,000 mapped instances of one task, with a reducer", mapped, 10_000, 0.35),
    "layered": Workload("171-task layered dag, values passed", layered, 171, 1.2),
    "chain": Workload("1,000-task chain, an int passed along", chain, 1_000, 1.5),
    "cpu": Workload("64 tasks of 50 ms of Python", cpu, 64, 1.03),
    "bytes": Workload("64 MiB of bytes produced, stored and consumed", large_bytes, 64 * MIB, 2.0),
    "array": Workload("the same of a NumPy array", large_array, 64 * MIB, 2.0),
}
