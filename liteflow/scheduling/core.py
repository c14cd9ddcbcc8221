"""The scheduling core: the state of one run in memory, and what follows from each thing that happens.

Events in (this try ended so, this retry is due, this is so long, end early), changes out (these are queued, these
skipped, ...). It is pure: no clock, no database, no process; whoever drives it records the changes and acts on them.
The work for a task instance that ended is proportional to its out-degree, not to the size of the dag.

*Tasks* are numbered in topological order. *Task instances* have numbers too: that of a task that is not mapped, or not
expanded yet, is the task's own number, and so is that of the instance with map index 0 once it is; the others are
numbered as they come. Tasks that are mapped together (one mapped task, or all tasks of a mapped group) are a *unit*:
they are expanded at once, and an edge inside a unit joins instances of the same map index, any other edge all with
all. What all instances of a task have in common is counted once for the task, so that 10,000 instances upstream of
10,000 others cost 20,000 steps. Every change goes through the table of `states.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from liteflow.authoring.options import TaskOptions
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.errors import LiteflowError
from liteflow.scheduling.leaves import leaves_of_run
from liteflow.scheduling.retries import retry_delay_s
from liteflow.scheduling.rules import SetupCounts, UpstreamCounts, evaluate
from liteflow.states import TERMINAL, EndReason, RunState, TaskInstanceState, is_allowed

_S = TaskInstanceState
_WAITING = (_S.PENDING, _S.QUEUED, _S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE)
_UNWELL = (_S.FAILED, _S.UPSTREAM_FAILED)

ALL = -1
"""In place of the number of a task instance: all instances of the task."""


class IllegalTransitionError(LiteflowError):
    """A change of state that the table does not have: a bug in liteflow, never in a dag."""


class TaskSpec(NamedTuple):
    """What the core needs to know of one task."""

    name: str
    """For messages."""
    upstream: Sequence[int]
    """Numbers of the direct upstream; all smaller than its own."""
    options: TaskOptions
    unit: int | None = None
    """The number of the unit with which it is mapped."""
    setups: Sequence[int] = ()
    """Of a teardown: which of its direct upstream are setups."""
    scope: Sequence[int] = ()
    """Of a teardown: what lies between its setups and itself and is not directly upstream."""
    is_teardown: bool = False
    fails_run: bool = True
    """Whether its failure as a leaf is the run's; not of a teardown without `on_failure_fail_dagrun`."""


class UnitSpec(NamedTuple):
    """Tasks that are expanded together, and over what."""

    sources: Sequence[int] = ()
    """Numbers of the tasks whose values are mapped over."""
    length: int | None = None
    """How many instances there are, where the dag itself says so."""


@dataclass(slots=True)
class Ended:
    """A try that is over: `state` is `success`, `failed`, `skipped` or `up_for_reschedule`."""

    index: int
    state: TaskInstanceState
    reason: EndReason | None = None
    may_retry: bool = True
    """Whether a failure may use a retry, if there is one left."""
    delay_s: float | None = None
    """Until the next try or look; None is what the task's options say."""
    skip: Sequence[int] = ()
    """Numbers of tasks that a branch or short circuit decided to skip."""
    blameless: bool = False
    """Whether it crashed by no fault of its own: it runs again at once, which uses up no retry."""


@dataclass(slots=True)
class Change:
    """A task instance that is now in `state`."""

    index: int
    state: TaskInstanceState
    reason: EndReason | None = None
    delay_s: float = 0.0
    """For `up_for_retry` and `up_for_reschedule`: seconds until it is due."""
    error: str | None = None
    """What there is to say, where no try says it."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A task instance as it stands in the record of a run that is taken up again."""

    task: int
    map_index: int
    """-1: not mapped, or not expanded."""
    state: TaskInstanceState
    try_number: int = 0
    uncounted_tries: int = 0
    """Tries that use up no retry."""
    is_in_try: bool = False
    """Of one that is queued: whether it goes on with a try that was rescheduled."""


class Expansion(NamedTuple):
    """What came of `expand`: the tasks that have `size` instances now (none if they were decided as they are)."""

    tasks: list[int]
    size: int
    changes: list[Change]


class _Edge(NamedTuple):
    """From a task to one below it."""

    below: int
    per_index: bool
    """Whether it joins the instances of the same map index only."""
    is_scope: bool
    """Whether it is only waited for (a teardown's scope), and the rule does not look at it."""


_SCOPE = 4
_NOTHING = [0, 0, 0, 0, 0]
"""Shared by all of which nothing is counted. Never written to."""
_NO_EDGES: list[_Edge] = []
"""The same of edges."""
_COLUMNS = {_S.SUCCESS: 0, _S.FAILED: 1, _S.SKIPPED: 2, _S.UPSTREAM_FAILED: 3}


class RunCore:
    """One run. Start it with `start()`; it is over when `finished` is true. `restore` gives it the past of a run.

    After each call that returns changes, `expansions()` names the units that can be expanded now; the driver finds out
    how long they are and calls `expand`. `past_wanted()` names tasks that wait for word on the run before this one.
    """

    def __init__(
        self,
        specs: Sequence[TaskSpec],
        *,
        units: Sequence[UnitSpec] = (),
        identity: str = "",
        fail_fast: bool = False,
    ) -> None:
        self._specs = specs
        self._units = units
        self._identity = identity
        self._fail_fast = fail_fast
        self.states: list[TaskInstanceState] = [_S.PENDING] * len(specs)
        self.try_numbers: list[int] = [0] * len(specs)
        """How many tries of each were claimed."""
        self.uncounted_tries: list[int] = [0] * len(specs)
        """How many of them use up no retry: an executor service died under them, or they are of a life before."""
        self.task_of: list[int] = list(range(len(specs)))
        """The task of each instance."""
        self.map_index_of: list[int] = [-1] * len(specs)
        self.unended: list[int] = [1] * len(specs)
        """Of each task: how many of its instances are not in a final state."""
        self.ending: EndReason | None = None
        """Why the run is being ended early, once it is."""
        self._spares_teardowns = True
        self._rest: list[int] = [0] * len(specs)
        """Of each task that is expanded: the number of its instance with map index 1; the others follow it."""
        self._sizes: list[int] = [1] * len(specs)
        self._expanded: list[bool] = [False] * len(specs)
        # A large dag has many tasks with nothing below or above them: they share what is empty.
        self._down: list[list[_Edge]] = [_NO_EDGES] * len(specs)
        # Of the upstream of each task: how many ended in success, failed, skipped, upstream_failed, and of its scope.
        self._shared: list[list[int]] = [_NOTHING] * len(specs)
        self._shared_total: list[list[int]] = [_NOTHING] * len(specs)  # direct upstream, scope
        # The same of the edges that join instances of one map index, of those that have any.
        self._own: dict[int, list[int]] = {}
        self._own_total: list[list[int]] = [_NOTHING] * len(specs)
        for number, spec in enumerate(specs):
            known: dict[tuple[bool, bool], _Edge] = {}  # they differ in little, and a large dag has many
            for upstream in spec.upstream:
                self._add_edge(upstream, number, known, is_scope=False)
            for upstream in spec.scope:
                self._add_edge(upstream, number, known, is_scope=True)
        self._members: list[list[int]] = [[] for _ in units]
        self._maps: dict[int, list[int]] = {}
        """Of each task: the units that are mapped over its value."""
        for number, spec in enumerate(specs):
            if spec.unit is not None:
                self._members[spec.unit].append(number)
        for unit, one in enumerate(units):
            for source in one.sources:
                self._maps.setdefault(source, []).append(unit)
        self._empty: set[int] = set()
        """Units that are mapped over nothing."""
        self._wanting: dict[int, set[int]] = {}
        """Of units: members that could go and have not been expanded."""
        self._expandable: list[int] = []
        self._foregone: dict[int, set[int]] = {}
        """Of tasks that are not expanded yet: the map indexes that a mapped branch or short circuit decided to skip."""
        self._resumed: set[int] = set()
        """Queued after a reschedule: what is claimed next is the same try."""
        self._past_ok: set[int] = set()
        self._past_wanted: set[int] = set()
        self._teardowns = [number for number, spec in enumerate(specs) if spec.is_teardown]
        self._unfinished = len(specs)
        self._started = False
        self._is_restored = False
        for unit, one in enumerate(units):
            if one.length:
                self._grow(unit, one.length)
            elif one.length == 0:
                self._empty.add(unit)

    def _add_edge(self, upstream: int, number: int, known: dict[tuple[bool, bool], _Edge], *, is_scope: bool) -> None:
        if not 0 <= upstream < number:
            raise ValueError(f"{self._specs[number].name}: upstream {upstream} is not before {number}")
        unit = self._specs[number].unit
        per_index = unit is not None and self._specs[upstream].unit == unit
        if self._down[upstream] is _NO_EDGES:
            self._down[upstream] = []
        edge = known.get((per_index, is_scope))
        if edge is None:
            edge = known[per_index, is_scope] = _Edge(number, per_index, is_scope)
        self._down[upstream].append(edge)
        total = self._own_total if per_index else self._shared_total
        if total[number] is _NOTHING:
            total[number] = [0, 0]
        total[number][is_scope] += 1

    # Looking

    @property
    def finished(self) -> bool:
        """Whether every task instance is in a final state."""
        return self._unfinished == 0

    def is_expanded(self, task: int) -> bool:
        """Whether the task is mapped and has its instances."""
        return self._expanded[task]

    def instances(self, task: int) -> Iterator[int]:
        """The numbers of the task's instances, by map index."""
        yield task
        if self._expanded[task]:
            rest = self._rest[task]
            yield from range(rest, rest + self._sizes[task] - 1)

    def count(self, task: int) -> int:
        """How many instances the task has."""
        return self._sizes[task]

    def instance(self, task: int, map_index: int) -> int:
        """The number of the task's instance with that map index; of one that is not expanded, its only one."""
        return task if map_index <= 0 or not self._expanded[task] else self._rest[task] + map_index - 1

    def successes(self, task: int) -> list[int]:
        """The numbers of the task's instances that succeeded, by map index: what a reducer gets the values of."""
        return [index for index in self.instances(task) if self.states[index] is _S.SUCCESS]

    def outcome(self) -> tuple[RunState, EndReason | None]:
        """How a finished run ended: as its leaves did, or early."""
        if not self.finished:
            raise ValueError("the run is not finished")
        if self.ending is not None:
            return RunState.FAILED, self.ending
        if _S.FAILED not in self.states and _S.UPSTREAM_FAILED not in self.states:
            return RunState.SUCCESS, None
        failed = any(self.states[index] in _UNWELL for task in self._leaves() for index in self.instances(task))
        return (RunState.FAILED if failed else RunState.SUCCESS), None

    def _leaves(self) -> list[int]:
        """The tasks whose states are the run's."""
        below = [[edge.below for edge in edges if not edge.is_scope] for edges in self._down]
        return leaves_of_run(below, [spec.fails_run for spec in self._specs])

    # What happens

    def restore(self, recorded: Sequence[Recorded], ending: EndReason | None = None) -> None:
        """Give a run that has not been started its recorded past; `ending` is why it was being ended early, if it was.

        Every task has a record: one with map index -1, or one for each of its instances. None of them is running.
        Raises ValueError for anything else. `start` then goes on from there.
        """
        if self._started or self._is_restored:
            raise ValueError("the run has begun")
        self._is_restored = True
        self._check_complete(recorded)
        # What ended unexpanded first: its end is every instance's of those that are expanded with it.
        for one in recorded:
            if one.map_index < 0:
                self._put(one.task, one)
        for unit, count in self._recorded_sizes(recorded).items():
            self._grow(unit, count)
        for one in recorded:
            if one.map_index >= 0:
                self._put(self.instance(one.task, one.map_index), one)
        has_failed = any(
            state is _S.FAILED and self._specs[self.task_of[index]].fails_run for index, state in enumerate(self.states)
        )
        self.ending = ending or (EndReason.FAIL_FAST if self._fail_fast and has_failed else None)

    def _check_complete(self, recorded: Sequence[Recorded]) -> None:
        seen: list[set[int]] = [set() for _ in self._specs]
        for one in recorded:
            if one.state is _S.RUNNING:
                raise ValueError(f"{self._specs[one.task].name}: is recorded as running")
            seen[one.task].add(one.map_index)
        for task, indexes in enumerate(seen):
            size = self._sizes[task] if self._expanded[task] else len(indexes)
            if indexes != set(range(size)) and (indexes != {-1} or self._expanded[task]):
                raise ValueError(f"{self._specs[task].name}: is recorded with the map indexes {sorted(indexes)}")

    def _recorded_sizes(self, recorded: Sequence[Recorded]) -> dict[int, int]:
        """Of each unit that is not expanded yet, but in the record: how many instances its tasks have."""
        sizes: dict[int, int] = {}
        for one in recorded:
            unit = self._specs[one.task].unit
            if one.map_index >= 0 and unit is not None and not self._expanded[one.task]:
                sizes[unit] = max(sizes.get(unit, 0), one.map_index + 1)
        return sizes

    def _put(self, index: int, one: Recorded) -> None:
        """Put an instance where its record says that it is."""
        self.states[index] = one.state
        self.try_numbers[index] = one.try_number
        self.uncounted_tries[index] = one.uncounted_tries
        if one.state is _S.QUEUED and one.is_in_try:
            self._resumed.add(index)
        if one.state.is_terminal:
            self._unfinished -= 1
            self.unended[self.task_of[index]] -= 1
            self._count(index, one.state, set())

    def start(self, decided: Sequence[tuple[int, Sequence[int]]] = ()) -> list[Change]:
        """Queue what can go at once. A second call changes nothing.

        `decided`: of a restored run, the instances of branches and short circuits that succeeded, and the tasks that
        each decided to skip. They hold for what was not expanded then, and for what has been opened again.
        """
        if self._started:
            return []
        self._started = True
        if self._is_restored:
            return self._go_on(decided)
        # The rule `always` looks at nothing, so it goes now whatever is upstream.
        first = [
            task
            for task, spec in enumerate(self._specs)
            if not spec.upstream or spec.options.trigger_rule is TriggerRule.ALWAYS
        ]
        if self.ending is not None or any(self._has_conditions(self._specs[task]) for task in first):
            return self._cascade((task, ALL) for task in first)
        for task in first:
            self._move(task, _S.QUEUED)
        return [Change(task, _S.QUEUED) for task in first]

    @staticmethod
    def _has_conditions(spec: TaskSpec) -> bool:
        """Whether there may be something to wait for though nothing is upstream."""
        return bool(spec.unit is not None or spec.upstream or spec.is_teardown or spec.options.depends_on_past)

    def _go_on(self, decided: Sequence[tuple[int, Sequence[int]]]) -> list[Change]:
        touched: set[tuple[int, int]] = {(task, ALL) for task in range(len(self._specs))}
        changes = []
        for index, skip in decided:
            changes += self._skip_decided(Ended(index, _S.SUCCESS, skip=skip), touched)
        if self.ending is not None:
            return changes + self._end(self.ending, spare_teardowns=True)
        return changes + self._cascade(touched)

    def claim(self, index: int) -> int:
        """Begin the next try of a queued task instance, or go on with a rescheduled one; returns its number, from 1."""
        self._move(index, _S.RUNNING)
        if index in self._resumed:
            self._resumed.discard(index)
        else:
            self.try_numbers[index] += 1
        return self.try_numbers[index]

    def unclaim(self, index: int, *, resumed: bool) -> None:
        """Take back a claim that was not recorded: the task instance is queued as it was before."""
        if self.states[index] is not _S.RUNNING:
            raise IllegalTransitionError(f"{self._specs[self.task_of[index]].name}: no claim to take back")
        self.states[index] = _S.QUEUED
        if resumed:
            self._resumed.add(index)
        else:
            self.try_numbers[index] -= 1

    def is_resumed(self, index: int) -> bool:
        """Whether the next claim goes on with a try that was rescheduled."""
        return index in self._resumed

    def apply(self, ended: Iterable[Ended]) -> list[Change]:
        """Take in tries that ended together and decide what follows. One that is not running is ignored.

        All of them are counted before any rule is looked at, so that their order does not matter.
        """
        changes: list[Change] = []
        touched: set[tuple[int, int]] = set()
        over: list[Ended] = []
        failed_for_good = False
        for event in ended:
            if self.states[event.index] is not _S.RUNNING:
                continue
            change = self._after_try(event)
            self._move(event.index, change.state)
            changes.append(change)
            if change.state in TERMINAL:
                self._count(event.index, change.state, touched)
                failed_for_good |= change.state is _S.FAILED and self._specs[self.task_of[event.index]].fails_run
                over.append(event)
        for event in over:
            if event.skip:
                changes += self._skip_decided(event, touched)
        if failed_for_good and self._fail_fast and self.ending is None:
            return changes + self._end(EndReason.FAIL_FAST, spare_teardowns=True)
        return changes + self._cascade(touched)

    def _after_try(self, event: Ended) -> Change:
        spec = self._specs[self.task_of[event.index]]
        number = self.try_numbers[event.index]
        goes_on = self.ending is None or self.is_spared(event.index)
        if event.state is _S.UP_FOR_RESCHEDULE:
            if not goes_on:
                return Change(event.index, _S.SKIPPED, self.ending)
            return Change(event.index, event.state, None, event.delay_s or 0.0)
        if event.blameless and goes_on:
            self.uncounted_tries[event.index] += 1
            return Change(event.index, _S.UP_FOR_RETRY, event.reason, 0.0)
        counted = number - self.uncounted_tries[event.index]
        if event.state is _S.FAILED and event.may_retry and goes_on and counted <= spec.options.retries:
            delay = event.delay_s
            if delay is None:
                delay = retry_delay_s(spec.options, number, f"{self._identity}/{self.name_of(event.index)}")
            return Change(event.index, _S.UP_FOR_RETRY, event.reason, delay)
        return Change(event.index, event.state, event.reason)

    def name_of(self, index: int) -> str:
        """The task's name, with the map index of a mapped one."""
        name = self._specs[self.task_of[index]].name
        return name if self.map_index_of[index] < 0 else f"{name}[{self.map_index_of[index]}]"

    def _skip_decided(self, event: Ended, touched: set[tuple[int, int]]) -> list[Change]:
        """Skip what a branch or short circuit decided to skip, before any rule is asked.

        The decision of a mapped instance is for the same map index only, as in Airflow.
        """
        changes = []
        map_index = self.map_index_of[event.index]
        for task in event.skip:
            if map_index < 0:
                targets: Iterable[int] = self.instances(task)
            elif not self._expanded[task]:
                self._foregone.setdefault(task, set()).add(map_index)
                continue
            elif map_index >= self._sizes[task]:
                continue
            else:
                targets = (self.instance(task, map_index),)
            for index in targets:
                if self.states[index] in (_S.PENDING, _S.QUEUED):
                    changes.append(self._decide(index, _S.SKIPPED, touched))
        return changes

    def due(self, index: int) -> list[Change]:
        """The delay of a retry or reschedule is over: queue it. Ignored when it no longer waits."""
        state = self.states[index]
        if state not in (_S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE):
            return []
        if state is _S.UP_FOR_RESCHEDULE:
            self._resumed.add(index)
        self._move(index, _S.QUEUED)
        return [Change(index, _S.QUEUED)]

    def end_early(self, reason: EndReason, *, spare_teardowns: bool = True) -> list[Change]:
        """Skip everything that has not begun. What is running is up to the caller, who reports how it ended.

        Teardowns with something to tear down are spared, and go when what they wait for has ended. A second call
        without `spare_teardowns` skips these too; else one changes nothing when the run is being ended already, or is
        over.
        """
        if (self.ending is not None and spare_teardowns) or (self._started and self.finished):
            return []
        return self._end(self.ending or reason, spare_teardowns=spare_teardowns)

    def cancel(self, indexes: Iterable[int]) -> list[Change]:
        """Skip those of the instances that have not begun. What is running is up to the caller, and what has ended is
        left as it is; the rest of the run goes on by its rules."""
        changes = []
        touched: set[tuple[int, int]] = set()
        for index in indexes:
            if self.states[index] in _WAITING:
                changes.append(self._decide(index, _S.SKIPPED, touched, reason=EndReason.CANCELLED))
        return changes + self._cascade(touched)

    def is_spared(self, index: int) -> bool:
        """Whether a run that is being ended early lets this one go on: it is a teardown, and these are spared."""
        return self._spares_teardowns and self._specs[self.task_of[index]].is_teardown

    def _end(self, reason: EndReason, *, spare_teardowns: bool) -> list[Change]:
        self.ending = reason
        self._spares_teardowns = spare_teardowns
        changes = []
        touched: set[tuple[int, int]] = set()
        spared = {task for task in self._teardowns if spare_teardowns and self._has_work_to_undo(task)}
        for index, state in enumerate(self.states):
            if state in _WAITING and self.task_of[index] not in spared:
                self._move(index, _S.SKIPPED)
                self._count(index, _S.SKIPPED, touched)
                changes.append(Change(index, _S.SKIPPED, reason))
        return changes + self._cascade([*touched, *((task, ALL) for task in spared)])

    def _has_work_to_undo(self, task: int) -> bool:
        """Whether a teardown still makes sense: one of its setups ran or, where it has none, something upstream did."""
        spec = self._specs[task]
        began = (_S.SUCCESS, _S.RUNNING) if spec.setups else (_S.SUCCESS, _S.RUNNING, _S.FAILED)
        return any(self.states[index] in began for up in spec.setups or spec.upstream for index in self.instances(up))

    # Mapping

    def expansions(self) -> list[int]:
        """The units that can be expanded now; each is named once."""
        found, self._expandable = self._expandable, []
        return found

    def expand(self, unit: int, count: int) -> Expansion:
        """Give the tasks of a unit that wait `count` instances each; with none they are skipped when they could go."""
        members = [task for task in self._members[unit] if self.states[task] is _S.PENDING]
        if not members or any(self._expanded[task] for task in members):
            return Expansion([], count, [])
        if count == 0:
            self._empty.add(unit)
            return Expansion([], 0, self._cascade((task, ALL) for task in self._wanting.pop(unit, ())))
        self._wanting.pop(unit, None)
        self._grow(unit, count)
        touched = {(task, ALL) for task in members}
        changes = [
            self._decide(self.instance(task, map_index), _S.SKIPPED, touched)
            for task in members
            for map_index in sorted(self._foregone.pop(task, ()))
            if map_index < count
        ]
        return Expansion(members, count, changes + self._cascade(touched))

    def _grow(self, unit: int, count: int) -> None:
        for task in self._members[unit]:
            if self.states[task] is not _S.PENDING:
                continue  # decided before it could be expanded: it stays as it is
            self._expanded[task] = True
            self._sizes[task] = count
            self._rest[task] = len(self.states)
            self.map_index_of[task] = 0
            self.states += [_S.PENDING] * (count - 1)
            self.try_numbers += [0] * (count - 1)
            self.uncounted_tries += [0] * (count - 1)
            self.task_of += [task] * (count - 1)
            self.map_index_of += range(1, count)
            self.unended[task] += count - 1
            self._unfinished += count - 1
            counted = self._own.get(task)  # by members that ended unexpanded: their end is every instance's
            if counted is not None:
                for index in range(self._rest[task], self._rest[task] + count - 1):
                    self._own[index] = list(counted)
            for edge in self._down[task]:
                if not edge.per_index:
                    self._shared_total[edge.below][edge.is_scope] += count - 1

    def _may_go(self, task: int, touched: set[tuple[int, int]]) -> list[Change]:
        """The rule of a mapped task that has no instances yet holds: see what it is mapped over.

        Airflow's rule: a source that was skipped skips it, and one that failed makes it `upstream_failed`, whatever its
        own trigger rule; a source that is itself mapped, and was expanded, is as long as it has successes.
        """
        unit = self._specs[task].unit
        assert unit is not None
        if unit in self._empty:
            return [self._decide(task, _S.SKIPPED, touched)]
        sources = self._units[unit].sources
        if any(self.unended[source] for source in sources):
            self._wanting.setdefault(unit, set()).add(task)
            return []
        whole = [self.states[source] for source in sources if not self._expanded[source]]
        if any(state in _UNWELL for state in whole):
            return [self._decide(task, _S.UPSTREAM_FAILED, touched)]
        if _S.SKIPPED in whole:
            return [self._decide(task, _S.SKIPPED, touched)]
        self._wanting.setdefault(unit, set()).add(task)
        if unit not in self._expandable:
            self._expandable.append(unit)
        return []

    # The run before

    def past_wanted(self) -> list[int]:
        """Tasks with `depends_on_past` that could go and wait for `past_known`."""
        return sorted(task for task in self._past_wanted if self.unended[task])

    def past_known(self, task: int, error: str | None) -> list[Change]:
        """The run before this one allows the task to go or, with `error`, never will."""
        if task not in self._past_wanted:
            return []
        self._past_wanted.discard(task)
        self._past_ok.add(task)
        touched: set[tuple[int, int]] = set()
        if error is None:
            return self._cascade([(task, ALL)])
        waiting = [index for index in self.instances(task) if self.states[index] is _S.PENDING]
        changes = [self._decide(index, _S.UPSTREAM_FAILED, touched, error) for index in waiting]
        return changes + self._cascade(touched)

    # Deciding

    def _cascade(self, touched: Iterable[tuple[int, int]]) -> list[Change]:
        """Look at the rules of `touched`, and of whatever is decided without running by that, upstream first."""
        changes: list[Change] = []
        known = set(touched)
        waiting = list(known)
        heapq.heapify(waiting)
        while waiting:
            one = heapq.heappop(waiting)
            known.discard(one)
            fresh: set[tuple[int, int]] = set()
            changes += self._look(*one, fresh)
            if fresh:
                for new in fresh - known:
                    known.add(new)
                    heapq.heappush(waiting, new)
        return changes

    def _look(self, task: int, index: int, touched: set[tuple[int, int]]) -> list[Change]:
        """Ask the rule of one instance, or of all that are pending."""
        if not self.unended[task]:
            return []
        if index == ALL and not self._expanded[task]:
            index = task
        if index != ALL:
            return self._decide_one(task, index, touched) if self.states[index] is _S.PENDING else []
        pending = [index for index in self.instances(task) if self.states[index] is _S.PENDING]
        if not pending:
            return []
        if self._own_total[task] is not _NOTHING:
            return [change for index in pending for change in self._decide_one(task, index, touched)]
        target = self._verdict(task, pending[0])
        if target is None:
            return []
        if target is _S.QUEUED:
            if not self._may_start(task):
                return []
            if self._specs[task].unit is not None and not self._expanded[task]:
                return self._may_go(task, touched)
        return [self._decide(index, target, touched) for index in pending]

    def _decide_one(self, task: int, index: int, touched: set[tuple[int, int]]) -> list[Change]:
        target = self._verdict(task, index)
        if target is None:
            return []
        if target is _S.QUEUED:
            if not self._may_start(task):
                return []
            if self._specs[task].unit is not None and not self._expanded[task]:
                return self._may_go(task, touched)
        return [self._decide(index, target, touched)]

    def _may_start(self, task: int) -> bool:
        """Whether the run before this one is no obstacle, as far as is known."""
        options = self._specs[task].options
        if not options.depends_on_past or task in self._past_ok or self.ending is not None:
            return True
        self._past_wanted.add(task)
        return False

    def _verdict(self, task: int, index: int) -> TaskInstanceState | None:
        spec = self._specs[task]
        counted = self._shared[task]
        own = self._own.get(index)
        if own is not None:
            counted = [one + other for one, other in zip(counted, own, strict=True)]
        success, failed, skipped, upstream_failed, scope = counted
        total = self._shared_total[task][0] + self._own_total[task][0]
        if not spec.is_teardown:
            counts = UpstreamCounts(success, failed, skipped, upstream_failed, total)
        else:
            scope_ended = scope == self._shared_total[task][1] + self._own_total[task][1]
            setups = self._setup_counts(spec, index)
            counts = UpstreamCounts(success, failed, skipped, upstream_failed, total, setups, scope_ended)
        return evaluate(spec.options.trigger_rule, counts)

    def _setup_counts(self, spec: TaskSpec, index: int) -> SetupCounts:
        states: list[TaskInstanceState] = []
        for setup in spec.setups:
            if spec.unit is not None and self._specs[setup].unit == spec.unit:
                states.append(self.states[self.instance(setup, self.map_index_of[index])])
            else:
                states += (self.states[one] for one in self.instances(setup))
        return SetupCounts(states.count(_S.SUCCESS), states.count(_S.SKIPPED), len(states))

    def _decide(
        self,
        index: int,
        target: TaskInstanceState,
        touched: set[tuple[int, int]],
        error: str | None = None,
        reason: EndReason | None = None,
    ) -> Change:
        """Move an instance that no try moves."""
        if self.ending is not None and target is not _S.QUEUED:
            target = _S.SKIPPED  # nothing upstream is to blame for what a run that is ended early leaves out
        self._move(index, target)
        self._own.pop(index, None)  # no rule is asked again
        if target in TERMINAL:
            self._count(index, target, touched)
        return Change(index, target, self.ending or reason if target is _S.SKIPPED else None, error=error)

    def _count(self, index: int, state: TaskInstanceState, touched: set[tuple[int, int]]) -> None:
        """Tell everything below that an instance has ended."""
        task, map_index, column = self.task_of[index], self.map_index_of[index], _COLUMNS[state]
        for edge in self._down[task]:
            place = _SCOPE if edge.is_scope else column
            if edge.per_index:
                below = self.instance(edge.below, map_index)
                self._own.setdefault(below, [0, 0, 0, 0, 0])[place] += 1
                touched.add((edge.below, below))
            else:
                counted = self._shared[edge.below]
                if counted is _NOTHING:
                    counted = self._shared[edge.below] = [0, 0, 0, 0, 0]
                counted[place] += 1
                # A rule asks whether there are any and whether all have ended: in between there is nothing to look at.
                if counted[place] == 1 or sum(counted) == sum(self._shared_total[edge.below]):
                    touched.add((edge.below, ALL))
        if not self.unended[task]:
            for unit in self._maps.get(task, ()):
                touched.update((member, ALL) for member in self._wanting.pop(unit, ()))

    def _move(self, index: int, target: TaskInstanceState) -> None:
        source = self.states[index]
        if not is_allowed(source, target):
            raise IllegalTransitionError(f"{self.name_of(index)}: no way from {source} to {target}")
        self.states[index] = target
        if target in TERMINAL:
            self._unfinished -= 1
            self.unended[self.task_of[index]] -= 1
