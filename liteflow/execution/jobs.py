"""One try of one task instance, on its way through an engine: what goes in, and what comes back.

An *engine* is what runs jobs: the slots of this host, or any `concurrent.futures.Executor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from liteflow.execution.code import Code
from liteflow.states import EndReason, TaskInstanceState


def charge_log(job: Job, size: int) -> bool:
    """Whether `size` more bytes fit into the job's log. What does not is counted; 0 asks whether anything fits."""
    if job.log_cut:
        job.log_cut += size
        return False
    if job.log_bytes + size > job.log_cap_bytes:
        job.log_cut += size
        return False
    job.log_bytes += size
    return True


class LogLine(NamedTuple):
    """A line that a try wrote."""

    at_us: int
    level: int | None
    logger: str | None
    text: str


class Outcome(NamedTuple):
    """How a try ended."""

    state: TaskInstanceState
    reason: EndReason | None = None
    error: str | None = None
    """The error's last line."""
    may_retry: bool = True
    xcoms: Sequence[tuple[str, str, bytes]] = ()
    """Key, encoding, data."""
    started_us: int | None = None
    ended_us: int | None = None
    load_trace: str | None = None
    """The traceback when the function could not be loaded at all."""
    guard: tuple[str, str, int] | None = None
    """Message, file and line when the dag file starts a run while it is imported."""


@dataclass(eq=False, slots=True)
class Job:
    """One try. The engine fills in the lower half while it runs."""

    number: int
    """Unique in the service, ascending."""
    run: Any
    """The `ActiveRun` to which it belongs."""
    index: int
    """The task instance's number in its run."""
    try_number: int
    code_number: int
    code: Code
    payload: tuple[Any, ...]
    """What the worker needs to call the function; see `calling.call`."""
    name: str
    timeout_s: float | None
    kill_grace_s: float
    log_cap_bytes: int
    expected_s: float | None = None
    """How long it will take by experience; None if there is none."""
    started_at: float | None = None
    """By the monotonic clock; None before its slot began with it."""
    started_us: int | None = None
    kill_reason: EndReason | None = None
    """Why it was told to end, once it was."""
    given_at: float = 0.0
    """When its slot was given it, by the monotonic clock."""
    deaths: int = 0
    """How many workers died with it in hand before it had started."""
    log_bytes: int = 0
    log_cut: int = 0


@dataclass(slots=True)
class Events:
    """What happened in an engine since it was last asked."""

    started: list[Job] = field(default_factory=list)
    lines: list[tuple[Job, LogLine]] = field(default_factory=list)
    finished: list[tuple[Job, Outcome]] = field(default_factory=list)
    returned: list[Job] = field(default_factory=list)
    """Jobs that were given to a slot, had not started, and need another one."""

    def __bool__(self) -> bool:
        return bool(self.started or self.lines or self.finished or self.returned)


class Engine(Protocol):
    """What the service asks of whatever runs jobs. All calls come from the service's one thread, `wake` from any."""

    chunks: bool
    """Whether a vacancy can take several tiny jobs at once."""

    def start(self) -> None:
        """Begin to get ready. Returns at once."""

    def vacancies(self) -> list[int]:
        """Where there is room for work now: a key for `submit` each, the emptiest first."""

    def size(self) -> int:
        """How many jobs can run at the same time."""

    def submit(self, vacancy: int, jobs: list[Job]) -> None:
        """Run the jobs one after the other. Their claims are committed."""

    def cancel(self, job: Job, reason: EndReason) -> None:
        """End a job that was submitted; it comes back as finished, or returned if it had not started."""

    def poll(self, timeout_s: float) -> Events:
        """Wait until something happens, `wake` is called or the time is over, and say what it was."""

    def wake(self) -> None:
        """Make `poll` return. From any thread."""

    def close(self, *, kill: bool) -> None:
        """End everything; with `kill` without waiting for what runs."""
