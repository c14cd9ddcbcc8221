"""The loop that liteflow is held against: `graphlib` and a process pool, and nothing is stored.

It is a good one: each future puts itself into a queue when it is done. `concurrent.futures.wait` over all that are
under way would cost more the more there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from graphlib import TopologicalSorter
from queue import SimpleQueue
from typing import Any, NamedTuple


class Ref(NamedTuple):
    """In place of an argument: what another node returned."""

    name: str


class Node(NamedTuple):
    """A task: a function, and its arguments."""

    function: Callable[..., Any]
    args: Sequence[Any] = ()

    @property
    def upstream(self) -> list[str]:
        return [arg.name for arg in self.args if isinstance(arg, Ref)]


Graph = Mapping[str, Node]


def run(pool: ProcessPoolExecutor, graph: Graph) -> dict[str, Any]:
    """Run a graph; returns what each node returned."""
    sorter = TopologicalSorter({name: node.upstream for name, node in graph.items()})
    sorter.prepare()
    done: SimpleQueue[Future[Any]] = SimpleQueue()
    names: dict[Future[Any], str] = {}
    results: dict[str, Any] = {}
    while sorter.is_active():
        for name in sorter.get_ready():
            node = graph[name]
            future = pool.submit(
                node.function, *(results[arg.name] if isinstance(arg, Ref) else arg for arg in node.args)
            )
            names[future] = name
            future.add_done_callback(done.put)
        future = done.get()
        name = names.pop(future)
        results[name] = future.result()
        sorter.done(name)
    return results


def run_mapped(
    pool: ProcessPoolExecutor, function: Callable[[Any], Any], items: Sequence[Any], reducer: Callable[[Any], Any]
) -> Any:
    """One future per item, and then the reducer with the list of what they returned."""
    graph: dict[str, Node] = {str(number): Node(function, (item,)) for number, item in enumerate(items)}
    results = run(pool, graph)
    return run(pool, {"reducer": Node(reducer, ([results[name] for name in graph],))})["reducer"]
