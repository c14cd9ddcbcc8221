"""One turn of the loop: what it has to record, and to tell afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from liteflow.execution.jobs import Job, LogLine, Outcome

if TYPE_CHECKING:
    from liteflow.execution.active import ActiveRun, Listener
    from liteflow.scheduling.core import Change, Expansion


@dataclass(slots=True)
class Claim:
    """A task instance that is to run."""

    vacancy: int
    run: ActiveRun
    index: int
    resumed: bool
    """Whether a try goes on that was rescheduled."""
    expected_s: float | None
    """How long it will take by experience; None if there is none, or it shall be alone in its slot."""


@dataclass(frozen=True, slots=True)
class DueCallback:
    """A callback that has become due."""

    run: ActiveRun
    index: int
    """The task instance in whose log it writes."""
    kind: str
    number: int
    """Which of the functions of that kind."""
    try_number: int
    """Of the try that is over: the next one may be claimed in the same turn."""
    state: str
    reason: str | None
    """Why, in words."""
    exception: bytes | None


@dataclass(slots=True)
class Turn:
    """What one turn of the loop has to record, and to tell afterwards."""

    started: list[Job] = field(default_factory=list)
    ended: list[tuple[Job, Outcome, Change]] = field(default_factory=list)
    changes: list[tuple[ActiveRun, Change]] = field(default_factory=list)
    expansions: list[tuple[ActiveRun, Expansion]] = field(default_factory=list)
    lines: list[tuple[Job, LogLine]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    placed: list[tuple[int, Job]] = field(default_factory=list)
    """Vacancies, and jobs that are claimed already and go to another slot, or are no tries."""
    callbacks: list[DueCallback] = field(default_factory=list)
    called: list[int] = field(default_factory=list)
    """Keys of callbacks that have ended."""
    begun: list[ActiveRun] = field(default_factory=list)
    taken_up: list[ActiveRun] = field(default_factory=list)
    """Runs that were interrupted or failed, and go on here."""
    cancelled: list[ActiveRun] = field(default_factory=list)
    """Runs that are being cancelled from now on."""
    over: list[ActiveRun] = field(default_factory=list)
    listening: list[tuple[ActiveRun, Listener]] = field(default_factory=list)
    """Whoever wants to be told of a run from the end of this turn on."""

    def __bool__(self) -> bool:
        return bool(
            self.started
            or self.ended
            or self.changes
            or self.expansions
            or self.lines
            or self.claims
            or self.callbacks
            or self.called
            or self.begun
            or self.taken_up
            or self.cancelled
            or self.over
        )

    def drop(self, lost: set[int]) -> None:
        """Forget everything of these runs, by key."""
        self.started = [job for job in self.started if job.run.pk not in lost]
        self.ended = [one for one in self.ended if one[0].run.pk not in lost]
        self.changes = [one for one in self.changes if one[0].pk not in lost]
        self.expansions = [one for one in self.expansions if one[0].pk not in lost]
        self.lines = [one for one in self.lines if one[0].run.pk not in lost]
        self.claims = [one for one in self.claims if one.run.pk not in lost]
        self.placed = [one for one in self.placed if one[1].run.pk not in lost]
        self.callbacks = [one for one in self.callbacks if one.run.pk not in lost]
        self.taken_up = [run for run in self.taken_up if run.pk not in lost]
        self.cancelled = [run for run in self.cancelled if run.pk not in lost]
        self.over = [run for run in self.over if run.pk not in lost]
