"""A run of another process as one sees it while it goes on: who runs, who has ended, what moved since the last look."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import groupby, islice
from typing import TYPE_CHECKING, NamedTuple

from liteflow.states import TERMINAL, TaskInstanceState
from liteflow.storage.logs import LogReader
from liteflow.storage.watching import (
    CODES,
    Place,
    WatchedInstance,
    latest_ended,
    places,
    state_codes,
    usual_duration,
    watched_instances,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.storage.history import DagRun, LogEntry

_S = TaskInstanceState

MOST_SHOWN = 50
"""Of active, ended and failed task instances, and of log lines: so many are kept to be shown."""

ACTIVE = (_S.RUNNING, _S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE)
"""States in which a task instance has a row of its own, those that come first first."""

_BLOCK = 512
"""So many states are compared at once."""


class Moved(NamedTuple):
    """A task instance that stands elsewhere than at the look before."""

    place: Place
    state: TaskInstanceState
    before: TaskInstanceState | None
    """None when it was not there, or not looked at."""


class Tallies:
    """Where all task instances of a run stand. One byte for each is read at a look."""

    def __init__(self) -> None:
        self._codes = b""
        self._places: list[Place] = []
        self._spans: dict[str, tuple[int, int]] = {}

    def update(self, connection: Connection, run_pk: int) -> list[Moved]:
        """Read where they stand now; returns those that moved since the last time, at first all of them."""
        codes = state_codes(connection, run_pk)
        if len(codes) == len(self._places):
            before, self._codes = self._codes, codes
            changed = _differences(before, codes)
            return [Moved(self._places[at], CODES[codes[at]], CODES[before[at]]) for at in changed]
        known = {place.pk: code for place, code in zip(self._places, self._codes, strict=True)}
        self._codes, self._places = codes, places(connection, run_pk)
        self._spans = _spans(self._places)
        moved = []
        for place, code in zip(self._places, codes, strict=True):
            stood = known.get(place.pk)
            if stood != code:
                moved.append(Moved(place, CODES[code], None if stood is None else CODES[stood]))
        return moved

    @property
    def counts(self) -> Counter[TaskInstanceState]:
        """How many are in which state; the states in which none is are missing."""
        return self._count(0, len(self._codes))

    @property
    def mapped(self) -> Sequence[str]:
        """The ids of the tasks with map indexes."""
        return list(self._spans)

    def counts_of(self, task_id: str) -> Counter[TaskInstanceState]:
        """The same for the instances of one of them."""
        return self._count(*self._spans[task_id])

    def _count(self, start: int, stop: int) -> Counter[TaskInstanceState]:
        return Counter({state: n for code, state in enumerate(CODES) if (n := self._codes.count(code, start, stop))})

    def instances(self, state: TaskInstanceState) -> Iterator[Place]:
        """Those in that state, by task id and map index."""
        pattern = re.escape(bytes([CODES.index(state)]))
        return (self._places[match.start()] for match in re.finditer(pattern, self._codes, re.DOTALL))


def _differences(before: bytes, now: bytes) -> list[int]:
    """Where two texts of the same length differ."""
    return [
        at
        for start in range(0, len(now), _BLOCK)
        if before[start : start + _BLOCK] != now[start : start + _BLOCK]
        for at in range(start, min(start + _BLOCK, len(now)))
        if before[at] != now[at]
    ]


def _spans(ordered: Sequence[Place]) -> dict[str, tuple[int, int]]:
    """By the ids of mapped tasks: where their instances begin and end."""
    spans = {}
    start = 0
    for task_id, group in groupby(ordered, key=lambda place: place.task_id):
        indexes = [place.map_index for place in group]
        if indexes[-1] >= 0:
            spans[task_id] = (start, start + len(indexes))
        start += len(indexes)
    return spans


class Watch:
    """A run with what a live view shows of it; `look` brings it up to date."""

    def __init__(self, run: DagRun) -> None:
        self.run = run
        self.is_interrupted = False
        self.tallies = Tallies()
        self.active: list[WatchedInstance] = []
        """Those that run or wait to go on, up to MOST_SHOWN of them."""
        self.ended: list[WatchedInstance] = []
        """Those that ended last, the latest last."""
        self.failed: list[WatchedInstance] = []
        """Those that failed last, the latest last."""
        self.lines: list[LogEntry] = []
        """The last lines of the log."""
        self.usual: dict[str, timedelta | None] = {}
        """How long the tasks of `active` usually take, where that is known."""
        self._reader = LogReader(run)
        self._is_new = True

    def look(self, run: DagRun) -> list[Moved]:
        """Read what has changed since the last look; returns what moved, at first all task instances."""
        self.run = run
        with run.history.read() as connection:
            moved = self.tallies.update(connection, run.pk)
            self._read_active(connection)
            self._read_ended(connection, moved)
        new = self._reader.latest(MOST_SHOWN) if self._is_new else self._reader.newest(MOST_SHOWN)
        self.lines = [*self.lines, *new][-MOST_SHOWN:]
        self._is_new = False
        return moved

    def _read_active(self, connection: Connection) -> None:
        pks: list[int] = []
        for state in ACTIVE:
            pks += [place.pk for place in islice(self.tallies.instances(state), MOST_SHOWN - len(pks))]
        order = {pk: number for number, pk in enumerate(pks)}
        self.active = sorted(watched_instances(connection, pks), key=lambda one: order[one.pk])
        for task_id in {one.task_id for one in self.active} - self.usual.keys():
            self.usual[task_id] = usual_duration(connection, self.run.pk, task_id)

    def _read_ended(self, connection: Connection, moved: Iterable[Moved]) -> None:
        ended = (_S.SUCCESS, _S.FAILED)
        if self._is_new:
            pks = latest_ended(connection, self.run.pk, ended, MOST_SHOWN)
            failed = latest_ended(connection, self.run.pk, [_S.FAILED], MOST_SHOWN)
        else:
            pks = [one.place.pk for one in moved if one.state in ended][-MOST_SHOWN:]
            failed = [one.place.pk for one in moved if one.state is _S.FAILED][-MOST_SHOWN:]
        found = {one.pk: one for one in watched_instances(connection, list({*pks, *failed}))}
        self.ended = _latest([*self.ended, *(found[pk] for pk in pks)])
        self.failed = _latest([*self.failed, *(found[pk] for pk in failed)])

    @property
    def over(self) -> int:
        """How many task instances are over."""
        return sum(count for state, count in self.tallies.counts.items() if state in TERMINAL)


def _latest(instances: Iterable[WatchedInstance]) -> list[WatchedInstance]:
    by_pk = {one.pk: one for one in instances}  # one that was begun anew stands there once
    ended = [(one.ended_at, one.pk, one) for one in by_pk.values() if one.ended_at is not None]
    return [one for _, _, one in sorted(ended)[-MOST_SHOWN:]]
