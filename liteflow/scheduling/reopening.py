"""What of a failed run is opened again when it is resumed: what went wrong, and what follows from that.

The rule: what is failed or upstream_failed, what was skipped because the run (or it alone) was ended early, and of
everything below these whatever did not succeed. What succeeded stays, but for one case, which is Airflow's when a task
is cleared: where something between a setup and its teardown is opened and the teardown has run, what the setup made is
gone, and both run again. That the teardown itself was cleared since, or left out then, brings nothing back. What
somebody marked as skipped stays skipped.

What was cleared opens nothing below it, only such setups and teardowns (`renewed`). In a run that begins with the
values of another (`to_run_again`) what is below something that runs is run too, also if it succeeded.
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
    """Whether it is over and a try of it began since it was started anew last."""
    is_anew: bool = False
    """Whether it was started anew or marked, in this run."""
    began_us: int | None = None
    """When its latest try began, also one before it was started anew; None when none did, in this run."""


def to_reopen(specs: Sequence[TaskSpec], instances: Sequence[Stood]) -> set[int]:
    """The positions in `instances` of those that are opened again; empty when there is nothing to do."""
    found = _Reopening(specs, instances, {position for position, one in enumerate(instances) if went_wrong(one)})
    found.grow(spread=True)
    return found.opened


def renewed(specs: Sequence[TaskSpec], instances: Sequence[Stood], opened: set[int]) -> set[int]:
    """`opened`, the positions of those that are open, and the setups and teardowns that run again because of them."""
    found = _Reopening(specs, instances, opened)
    found.grow(spread=False)
    return found.opened


def to_run_again(specs: Sequence[TaskSpec], instances: Sequence[Stood], changed: set[int]) -> set[int]:
    """The positions of those that a run with the values of this one runs itself.

    These are `changed`, what went wrong, everything below them, and the setups and teardowns that `renewed` adds.
    """
    wrong = {position for position, one in enumerate(instances) if went_wrong(one)}
    found = _Reopening(specs, instances, wrong | changed)
    found.spread(keep_successes=False)
    found.grow(spread=False)
    return found.opened


class _Reopening:
    def __init__(self, specs: Sequence[TaskSpec], instances: Sequence[Stood], opened: set[int]) -> None:
        self._specs = specs
        self._instances = instances
        self._of_task: list[list[int]] = [[] for _ in specs]
        for position, one in enumerate(instances):
            self._of_task[one.task].append(position)
        self.opened = set(opened)

    def grow(self, *, spread: bool) -> None:
        """Open what follows from what is open, until nothing more does."""
        before = -1
        while before != len(self.opened):
            before = len(self.opened)
            if spread:
                self.spread(keep_successes=True)
            self._renew_setups()

    def spread(self, *, keep_successes: bool) -> None:
        """Open what is below something that is open, but for what is to stay as it is."""
        for task, spec in enumerate(self._specs):
            for position in self._of_task[task]:
                one = self._instances[position]
                if position in self.opened or (keep_successes and _is_settled(one)):
                    continue
                if any(self._is_open(up, one) for up in (*spec.upstream, *spec.scope)):
                    self.opened.add(position)

    def _renew_setups(self) -> None:
        """Open teardowns that have run and of which a setup is open, or what needs it; then open the setups too."""
        for task, spec in enumerate(self._specs):
            for position in self._of_task[task] if spec.setups else ():
                teardown = self._instances[position]
                between = [up for up in (*spec.upstream, *spec.scope) if up not in spec.setups]
                if not self._is_torn_down(spec, teardown) or not any(
                    self._is_open(up, teardown) for up in (*between, *spec.setups)
                ):
                    continue
                self.opened.add(position)
                if any(self._is_open(up, teardown) for up in between):
                    for setup in spec.setups:
                        self.opened.update(self._together(setup, teardown))

    def _is_torn_down(self, spec: TaskSpec, teardown: Stood) -> bool:
        """Whether what a setup made is gone: its teardown has begun since, whatever became of the teardown later."""
        if teardown.has_run:
            return True
        for position in (position for setup in spec.setups for position in self._together(setup, teardown)):
            setup = self._instances[position]
            if setup.state is not _S.SUCCESS:
                continue
            if setup.reason is EndReason.REUSED:  # made in another run, which is over
                if teardown.is_anew or teardown.began_us is not None:
                    return True
            elif setup.began_us is not None and teardown.began_us is not None and setup.began_us < teardown.began_us:
                return True
        return False

    def _is_open(self, task: int, beside: Stood) -> bool:
        return any(position in self.opened for position in self._together(task, beside))

    def _together(self, task: int, beside: Stood) -> Iterator[int]:
        """The instances of a task to which `beside` has edges: within a unit that of the same map index."""
        unit = self._specs[task].unit
        per_index = unit is not None and unit == self._specs[beside.task].unit
        for position in self._of_task[task]:
            other = self._instances[position].map_index
            if not per_index or other == beside.map_index or -1 in (other, beside.map_index):
                yield position


def went_wrong(one: Stood) -> bool:
    """Whether it failed, could not begin since something above failed, or was left out by an early end."""
    return one.state in (_S.FAILED, _S.UPSTREAM_FAILED) or (one.state is _S.SKIPPED and one.reason in ENDED_EARLY)


def _is_settled(one: Stood) -> bool:
    """Whether it stays as it is whatever runs above it: it succeeded, or somebody said that it is to be skipped."""
    return one.state is _S.SUCCESS or (one.state is _S.SKIPPED and one.reason is EndReason.MARKED)
