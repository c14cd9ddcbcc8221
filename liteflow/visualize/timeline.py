"""Who ran when and on which slot, what each try waited for, and the chain that a run took its time for.

Times are integer microseconds since 1970 in UTC.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from liteflow.states import TaskInstanceState, instance_name
from liteflow.visualize.picture import Node, Picture

_S = TaskInstanceState


class Try(NamedTuple):
    """A try of a task instance, or a task instance that ended without one: what a timeline is made of."""

    task_id: str
    map_index: int
    """-1 if it is not mapped."""
    try_number: int
    state: TaskInstanceState
    reason: str | None
    """Why it ended, where its state does not tell."""
    slot: int | None
    """1, 2, ...; None where there are no slots."""
    started_us: int | None
    ended_us: int | None
    label: str | None = None
    """The label of a mapped task instance."""
    is_latest: bool = True
    """Whether no other try of its task instance follows."""


class Bar(NamedTuple):
    """A try that has begun."""

    task_id: str
    map_index: int
    name: str
    """`add_one`, or `add_one[17]`."""
    try_number: int
    state: str
    reason: str | None
    slot: int | None
    ready_us: int | None
    """When it could have begun: at the last end among its upstream, or of the try before it, that it waited for; if
    there is none, when the run began."""
    started_us: int
    ended_us: int | None
    """None while it runs."""
    is_latest: bool
    on_critical_path: bool


class Timeline(NamedTuple):
    """A run as bars over time."""

    dag_id: str
    run_id: str
    state: str
    started_us: int
    """When the run began, or the first try."""
    ended_us: int
    """When the run or the last try ended; now, while one goes on."""
    bars: Sequence[Bar]
    """By their beginning."""
    critical_path: Sequence[str]
    """Names of bars from the first to the last, each once in a row."""
    nodes: Sequence[Node]
    """The tasks, those too that have not begun."""

    def end_of(self, bar: Bar) -> int:
        """When the bar ends, in the picture: that of one that goes on is now."""
        return max(bar.started_us, self.ended_us if bar.ended_us is None else bar.ended_us)


class Lane(NamedTuple):
    """Bars of which no two overlap."""

    name: str
    """`slot 1`; `lane 1` where there are no slots."""
    bars: Sequence[Bar]


def timeline(
    picture: Picture,
    tries: Iterable[Try],
    *,
    started_us: int | None = None,
    ended_us: int | None = None,
    now_us: int | None = None,
) -> Timeline:
    """The timeline of a run: `picture` has its tasks with their edges, `tries` those of all of its task instances.

    `started_us`, `ended_us`: of the run. `now_us`: where bars end that go on; None for a run that nobody drives any
    more, of which nothing later is known than what its tries say.

    The critical path is found from behind. It ends with the try that ended last (of those that go on, the one that
    began first). Before each try comes what ended last before it could begin: an instance of its upstream, or the try
    before it. That it then waited for a slot or a pool does not change the path: the chain of dependencies is followed,
    and waiting is time on it. Skipped instances pass it on to what they waited for.
    """
    found = [_as_it_is(one) for one in tries]
    begun = [number for number, one in enumerate(found) if one.started_us is not None]
    first = min(_known(started_us, *(found[number].started_us for number in begun)), default=0)
    ends = _known(ended_us if ended_us is not None else now_us, *(one.ended_us for one in found))
    ended_last = max(ends + _known(first, *(one.started_us for one in found)))
    causes = _Causes(found, {node.task_id: node.upstream for node in picture.nodes})
    path = _critical_path(found, begun, causes)
    on_path = set(path)
    bars = []
    for number in begun:
        one, cause = found[number], causes.of(number)
        began = one.started_us or 0
        ready = first if cause is None else found[cause].ended_us
        name = instance_name(one.task_id, one.map_index, one.label)
        facts = (one.try_number, str(one.state), one.reason and str(one.reason), one.slot, ready, began, one.ended_us)
        bars.append(Bar(one.task_id, one.map_index, name, *facts, one.is_latest, number in on_path))
    bars.sort(key=lambda bar: (bar.started_us, bar.slot or 0, bar.try_number))
    names = [instance_name(found[n].task_id, found[n].map_index, found[n].label) for n in path]
    return Timeline(
        picture.dag_id,
        picture.run_id,
        picture.state,
        first,
        ended_last,
        bars,
        [name for name, before in zip(names, ["", *names], strict=False) if name != before],
        picture.nodes,
    )


def _known(*moments: int | None) -> list[int]:
    return [moment for moment in moments if moment is not None]


def _as_it_is(one: Try) -> Try:
    """The try in the state that it is in itself, where that of its task instance tells what comes next."""
    if one.state not in (_S.PENDING, _S.QUEUED, _S.RUNNING, _S.UP_FOR_RESCHEDULE):
        return one
    if one.state is _S.RUNNING:
        return one._replace(ended_us=None)
    if one.reason is None:  # a sensor between two looks
        return one._replace(state=_S.UP_FOR_RESCHEDULE, ended_us=None)
    return one._replace(state=_S.FAILED)


class _Causes:
    """What each try waited for. Tries are named by their place in the list."""

    def __init__(self, tries: Sequence[Try], upstream: Mapping[str, Sequence[str]]) -> None:
        self._tries = tries
        self._upstream = upstream
        self._by_task: dict[str, list[int]] = {}
        self._by_instance: dict[tuple[str, int], list[int]] = {}
        for number, one in enumerate(tries):
            if one.ended_us is not None:
                self._by_task.setdefault(one.task_id, []).append(number)
                self._by_instance.setdefault((one.task_id, one.map_index), []).append(number)
        self._ends: dict[str, tuple[list[int], list[int]]] = {}

    def of(self, number: int) -> int | None:
        """The one that ended last before try `number` began, of its upstream and its own earlier tries; or None."""
        one = self._tries[number]
        moment = one.started_us if one.started_us is not None else one.ended_us
        if moment is None:
            return None
        ends, numbers = self._upstream_ends(one.task_id)
        place = bisect_right(ends, moment)
        candidates = [numbers[place - 1]] if place else []
        candidates += [
            other
            for other in self._by_instance.get((one.task_id, one.map_index), [])
            if self._tries[other].try_number < one.try_number and self._ended(other) <= moment
        ]
        return max(candidates, key=self._ended, default=None)

    def _ended(self, number: int) -> int:
        return self._tries[number].ended_us or 0

    def _upstream_ends(self, task_id: str) -> tuple[list[int], list[int]]:
        """When tries of the task's upstream ended, sorted, and which these are."""
        if task_id not in self._ends:
            numbers = [
                number for up in dict.fromkeys(self._upstream.get(task_id, ())) for number in self._by_task.get(up, [])
            ]
            numbers.sort(key=self._ended)
            self._ends[task_id] = ([self._ended(number) for number in numbers], numbers)
        return self._ends[task_id]


def _critical_path(tries: Sequence[Try], begun: Sequence[int], causes: _Causes) -> list[int]:
    """The tries on the critical path, from the first to the last."""

    def lateness(number: int) -> tuple[bool, int, int]:
        ended = tries[number].ended_us
        return (ended is None, ended or 0, -(tries[number].started_us or 0))

    here: int | None = max(begun, key=lateness, default=None)
    seen: dict[int, None] = {}
    while here is not None and here not in seen:  # rows that a stranger wrote may go round
        seen[here] = None
        here = causes.of(here)
    return [number for number in reversed(seen) if tries[number].started_us is not None]


def lanes(drawn: Timeline) -> list[Lane]:
    """The bars by slot. Those without one are packed into as few lanes as there were tries at a time."""
    by_slot: dict[int, list[Bar]] = {}
    others: list[list[Bar]] = []
    free: list[tuple[int, int]] = []  # when each lane is free again, and its number
    for bar in drawn.bars:
        if bar.slot is not None:
            by_slot.setdefault(bar.slot, []).append(bar)
            continue
        if free and free[0][0] <= bar.started_us:
            _, number = heapq.heappop(free)
        else:
            number = len(others)
            others.append([])
        others[number].append(bar)
        heapq.heappush(free, (drawn.end_of(bar), number))
    found = [Lane(f"slot {slot}", bars) for slot, bars in sorted(by_slot.items())]
    return found + [Lane(f"lane {number}", bars) for number, bars in enumerate(others, 1)]
