"""The scheduling core: the state of one run in memory, and what follows from each thing that happens.

Events in (this try ended so, this retry is due, end early), changes out (these are queued, these skipped, ...). It is
pure: no clock, no database, no process; whoever drives it records the changes and acts on them. The work for a task
that ended is proportional to its out-degree, not to the size of the dag.

Task instances are numbered in topological order. Every change goes through the table of `states.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from liteflow.authoring.options import TaskOptions
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.errors import LiteflowError
from liteflow.scheduling.retries import retry_delay_s
from liteflow.scheduling.rules import UpstreamCounts, evaluate
from liteflow.states import EndReason, RunState, TaskInstanceState, is_allowed

_S = TaskInstanceState


class IllegalTransitionError(LiteflowError):
    """A change of state that the table does not have: a bug in liteflow, never in a dag."""


class TaskSpec(NamedTuple):
    """What the core needs to know of one task instance."""

    name: str
    """For messages."""
    upstream: Sequence[int]
    """Numbers of the direct upstream; all smaller than its own."""
    options: TaskOptions


@dataclass(frozen=True, slots=True)
class Ended:
    """A try that is over: `state` is `success`, `failed` or `skipped`."""

    index: int
    state: TaskInstanceState
    reason: EndReason | None = None
    may_retry: bool = True
    """Whether a failure may use a retry, if there is one left."""


@dataclass(frozen=True, slots=True)
class Change:
    """A task instance that is now in `state`."""

    index: int
    state: TaskInstanceState
    reason: EndReason | None = None
    delay_s: float = 0.0
    """For `up_for_retry`: seconds until it is due."""


class RunCore:
    """One run. Start it with `start()`; it is over when `finished` is true."""

    def __init__(self, specs: Sequence[TaskSpec], *, identity: str = "", fail_fast: bool = False) -> None:
        self._specs = specs
        self._identity = identity
        self._fail_fast = fail_fast
        self.states: list[TaskInstanceState] = [_S.PENDING] * len(specs)
        self.try_numbers: list[int] = [0] * len(specs)
        """How many tries of each were claimed."""
        self.ending: EndReason | None = None
        """Why the run is being ended early, once it is."""
        self._downstream: list[list[int]] = [[] for _ in specs]
        for index, spec in enumerate(specs):
            for upstream in spec.upstream:
                if not 0 <= upstream < index:
                    raise ValueError(f"{spec.name}: upstream {upstream} is not before {index}")
                self._downstream[upstream].append(index)
        # Of the upstream of each: how many ended in success, failed, skipped, upstream_failed.
        self._counts: list[list[int]] = [[0, 0, 0, 0] for _ in specs]
        self._unfinished = len(specs)
        self._started = False

    @property
    def finished(self) -> bool:
        """Whether every task instance is in a final state."""
        return self._unfinished == 0

    def outcome(self) -> tuple[RunState, EndReason | None]:
        """How a finished run ended: as its leaves did, or early."""
        if not self.finished:
            raise ValueError("the run is not finished")
        if self.ending is not None:
            return RunState.FAILED, self.ending
        unwell = (_S.FAILED, _S.UPSTREAM_FAILED)
        leaves = (state for state, below in zip(self.states, self._downstream, strict=True) if not below)
        return (RunState.FAILED if any(state in unwell for state in leaves) else RunState.SUCCESS), None

    def start(self) -> list[Change]:
        """Queue what can go at once. A second call changes nothing."""
        if self._started:
            return []
        self._started = True
        # The rule `always` looks at nothing, so it goes now whatever is upstream.
        first = [
            index
            for index, spec in enumerate(self._specs)
            if not spec.upstream or spec.options.trigger_rule is TriggerRule.ALWAYS
        ]
        return self._cascade(first)

    def claim(self, index: int) -> int:
        """Begin the next try of a queued task instance; returns its number, from 1."""
        self._move(index, _S.RUNNING)
        self.try_numbers[index] += 1
        return self.try_numbers[index]

    def apply(self, ended: Iterable[Ended]) -> list[Change]:
        """Take in tries that ended together and decide what follows. One that is not running is ignored.

        All of them are counted before any rule is looked at, so that their order does not matter.
        """
        changes: list[Change] = []
        touched: list[int] = []
        failed_for_good = False
        for event in ended:
            if self.states[event.index] is not _S.RUNNING:
                continue
            change = self._after_try(event)
            self._move(event.index, change.state)
            changes.append(change)
            if change.state.is_terminal:
                self._count(event.index, change.state)
                touched.extend(self._downstream[event.index])
                failed_for_good |= change.state is _S.FAILED
        if failed_for_good and self._fail_fast and self.ending is None:
            return changes + self._end(EndReason.FAIL_FAST)
        return changes + self._cascade(touched)

    def _after_try(self, event: Ended) -> Change:
        options = self._specs[event.index].options
        number = self.try_numbers[event.index]
        may_retry = event.may_retry and self.ending is None and number <= options.retries
        if event.state is _S.FAILED and may_retry:
            name = f"{self._identity}/{self._specs[event.index].name}"
            return Change(event.index, _S.UP_FOR_RETRY, event.reason, retry_delay_s(options, number, name))
        return Change(event.index, event.state, event.reason)

    def retry_due(self, index: int) -> list[Change]:
        """The delay of a task instance is over: queue it. Ignored when it no longer waits."""
        if self.states[index] is not _S.UP_FOR_RETRY:
            return []
        self._move(index, _S.QUEUED)
        return [Change(index, _S.QUEUED)]

    def end_early(self, reason: EndReason) -> list[Change]:
        """Skip everything that has not begun. What is running is up to the caller, who reports how it ended.

        Changes nothing when the run is being ended already, or is over.
        """
        if self.ending is not None or (self._started and self.finished):
            return []
        return self._end(reason)

    def _end(self, reason: EndReason) -> list[Change]:
        self.ending = reason
        changes = []
        for index, state in enumerate(self.states):
            if state in (_S.PENDING, _S.QUEUED, _S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE):
                self._move(index, _S.SKIPPED)
                changes.append(Change(index, _S.SKIPPED, reason))
        return changes

    def _cascade(self, touched: Iterable[int]) -> list[Change]:
        """Look at the rules of `touched`, and of whatever is decided without running by that, upstream first."""
        if self.ending is not None:
            return []
        changes = []
        waiting = list(set(touched))
        heapq.heapify(waiting)
        while waiting:
            index = heapq.heappop(waiting)
            if self.states[index] is not _S.PENDING:
                continue
            spec = self._specs[index]
            success, failed, skipped, upstream_failed = self._counts[index]
            counts = UpstreamCounts(success, failed, skipped, upstream_failed, len(spec.upstream))
            target = evaluate(spec.options.trigger_rule, counts)
            if target is None:
                continue
            self._move(index, target)
            changes.append(Change(index, target))
            if target.is_terminal:
                self._count(index, target)
                for below in self._downstream[index]:
                    heapq.heappush(waiting, below)
        return changes

    def _count(self, index: int, state: TaskInstanceState) -> None:
        column = _COLUMNS[state]
        for below in self._downstream[index]:
            self._counts[below][column] += 1

    def _move(self, index: int, target: TaskInstanceState) -> None:
        source = self.states[index]
        if not is_allowed(source, target):
            raise IllegalTransitionError(f"{self._specs[index].name}: no way from {source} to {target}")
        self.states[index] = target
        if target.is_terminal:
            self._unfinished -= 1


_COLUMNS = {_S.SUCCESS: 0, _S.FAILED: 1, _S.SKIPPED: 2, _S.UPSTREAM_FAILED: 3}
