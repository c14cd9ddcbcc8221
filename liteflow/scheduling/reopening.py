"""What of a failed run is opened again when it is resumed: what went wrong, and what follows from that.

The rule: what is failed or upstream_failed, what was skipped because the run (or it alone) was ended early, and of
everything below these whatever did not succeed. What succeeded stays, but for one case, which is Airflow's when a task
is cleared: where something between a setup and its teardown is opened and the teardown has run, what the setup made is
gone, and both run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from liteflow.scheduling.core import TaskSpec
from liteflow.states import EndReason, TaskInstanceState

_S = TaskInstanceState

ENDED_EARLY = (EndReason.CANCELLED, EndReason.TIMEOUT, EndReason.FAIL_FAST)


class Stood(NamedTuple):
    """How a task instance of a run that is over ended."""

    task: int
    """Its task's number; smaller than those of the tasks below it."""
    map_index: int
    state: TaskInstanceState
    reason: EndReason | None
    has_run: bool


def to_reopen(specs: Sequence[TaskSpec], instances: Sequence[Stood]) -> set[int]:
    """The positions in `instances` of those that are opened again; empty when there is nothing to do."""
    return _Reopening(specs, instances).find()


class _Reopening:
    def __init__(self, specs: Sequence[TaskSpec], instances: Sequence[Stood]) -> None:
        self._specs = specs
        self._instances = instances
        self._of_task: list[list[int]] = [[] for _ in specs]
        for position, one in enumerate(instances):
            self._of_task[one.task].append(position)
        self._opened = {position for position, one in enumerate(instances) if _went_wrong(one)}

    def find(self) -> set[int]:
        before = -1
        while before != len(self._opened):
            before = len(self._opened)
            self._spread()
            self._renew_setups()
        return self._opened

    def _spread(self) -> None:
        """Open what is below something that is open and did not succeed."""
        for task, spec in enumerate(self._specs):
            for position in self._of_task[task]:
                if position not in self._opened and self._instances[position].state is not _S.SUCCESS:
                    above = (*spec.upstream, *spec.scope)
                    if any(self._is_open(up, self._instances[position]) for up in above):
                        self._opened.add(position)

    def _renew_setups(self) -> None:
        """Where a teardown has run and something that needs its setups is open, open the setups and the teardown."""
        for task, spec in enumerate(self._specs):
            for position in self._of_task[task] if spec.setups else ():
                teardown = self._instances[position]
                between = [up for up in (*spec.upstream, *spec.scope) if up not in spec.setups]
                if teardown.has_run and any(self._is_open(up, teardown) for up in between):
                    self._opened.add(position)
                    for setup in spec.setups:
                        self._opened.update(self._together(setup, teardown))

    def _is_open(self, task: int, beside: Stood) -> bool:
        return any(position in self._opened for position in self._together(task, beside))

    def _together(self, task: int, beside: Stood) -> Iterator[int]:
        """The instances of a task to which `beside` has edges: within a unit that of the same map index."""
        unit = self._specs[task].unit
        per_index = unit is not None and unit == self._specs[beside.task].unit
        for position in self._of_task[task]:
            other = self._instances[position].map_index
            if not per_index or other == beside.map_index or -1 in (other, beside.map_index):
                yield position


def _went_wrong(one: Stood) -> bool:
    return one.state in (_S.FAILED, _S.UPSTREAM_FAILED) or (one.state is _S.SKIPPED and one.reason in ENDED_EARLY)
