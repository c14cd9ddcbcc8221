"""Queued task instances of a run, in the order in which they are to go, behind the gates that they have to pass.

A *gate* is a pool, a limit on how many instances of a task may run at once, or an executor of its own. Most tasks have
none, and one closed gate must not hold up what is behind another: so each has a queue of its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from liteflow.scheduling.core import RunCore
from liteflow.states import TaskInstanceState

if TYPE_CHECKING:
    from liteflow.execution.prepared import PreparedDag

R = TypeVar("R")


class Gate(NamedTuple):
    """What stands before a task: a pool and how much of it a claim takes, the task itself if it is limited, and what is
    to run it."""

    pool: str | None = None
    pool_slots: int = 1
    task: int | None = None
    most: int | None = None
    """How many instances of the task may run at once."""
    executor: str | None = None
    """What the task says is to run it."""


OPEN = Gate()


class ReadyQueue:
    """By weight, the greatest first; among equals in the order in which they became ready."""

    def __init__(self, prepared: PreparedDag, core: RunCore) -> None:
        self._core = core
        self._weights = prepared.weights
        self._gates = [
            OPEN
            if task.options.pool is None
            and task.options.max_active_tis_per_dagrun is None
            and task.options.executor is None
            else Gate(
                task.options.pool,
                task.options.pool_slots,
                number if task.options.max_active_tis_per_dagrun is not None else None,
                task.options.max_active_tis_per_dagrun,
                task.options.executor,
            )
            for number, task in enumerate(prepared.tasks)
        ]
        self._queues: dict[Gate, list[tuple[int, int, int]]] = {}
        self._count = 0

    def gate_of(self, index: int) -> Gate:
        """The gate of an instance."""
        return self._gates[self._core.task_of[index]]

    def push(self, index: int) -> None:
        """An instance is queued."""
        self._count += 1
        task = self._core.task_of[index]
        heapq.heappush(self._queues.setdefault(self._gates[task], []), (-self._weights[task], self._count, index))

    def __len__(self) -> int:
        """How many there are; some of them may have been decided otherwise since."""
        return sum(map(len, self._queues.values()))

    def count_by_executor(self) -> dict[str | None, int]:
        """The same for each executor that the tasks name."""
        found: dict[str | None, int] = {}
        for gate, queue in self._queues.items():
            found[gate.executor] = found.get(gate.executor, 0) + len(queue)
        return found

    def head(self, is_open: Callable[[R, Gate], bool], run: R) -> int | None:
        """The instance that is next, of those whose gate is open to the run; None if there is none."""
        best: tuple[int, int, int] | None = None
        states = self._core.states
        for gate, queue in list(self._queues.items()):
            while queue and states[queue[0][2]] is not TaskInstanceState.QUEUED:
                heapq.heappop(queue)  # skipped, or ended with its run
            if not queue:
                del self._queues[gate]
            elif (best is None or queue[0] < best) and is_open(run, gate):
                best = queue[0]
        return None if best is None else best[2]

    def pop(self, index: int) -> None:
        """Take out the instance that `head` has just named."""
        queue = self._queues[self.gate_of(index)]
        assert queue[0][2] == index
        heapq.heappop(queue)
