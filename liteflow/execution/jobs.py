"""One try of one task instance, on its way through an engine: what goes in, and what comes back.

An *engine* is what runs jobs: the slots of this host, or any `concurrent.futures.Executor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from liteflow.execution.calling import Recipe
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


def why_killed(job: Job) -> str:
    """Why a job was told to end, in words."""
    if job.kill_reason is not EndReason.TIMEOUT:
        return str(job.kill_reason or EndReason.CANCELLED)
    if job.timeout_s is None or job.ended_by_run:
        return "its run took longer than its dagrun_timeout"
    return f"took longer than its timeout of {job.timeout_s:g} s"


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
    delay_s: float | None = None
    """Seconds until the next try or look, where the task's options do not say it."""
    chosen: tuple[str, ...] | None = None
    """What a branch chose; empty for a short circuit that stops."""
    label: str | None = None
    """What a mapped instance is called."""
    exception: bytes | None = None
    """The pickled exception, for callbacks."""
    peak_rss_bytes: int | None = None
    """The most memory that it was seen to hold; None if it was too short to be looked at, or nobody can look."""
    blameless: bool = False
    """Whether it crashed and nobody knows that it was at fault: it runs again, which uses up no retry."""


_STATES = {state.value: state for state in TaskInstanceState}
_REASONS: dict[str | None, EndReason | None] = {None: None, **{reason.value: reason for reason in EndReason}}


def outcome_of(
    result: tuple[Any, ...],
    *,
    started_us: int | None,
    ended_us: int,
    load_trace: str | None,
    guard: tuple[str, str, int] | None,
) -> Outcome:
    """The outcome of a try whose worker told its result: the fields of `calling.Result`."""
    state, reason, error, may_retry, xcoms, delay_s, chosen, label, exception = result
    return Outcome(
        _STATES[state],
        _REASONS[reason],
        error,
        may_retry,
        xcoms,
        started_us,
        ended_us,
        load_trace,
        guard,
        delay_s,
        chosen,
        label,
        exception,
    )


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
    recipe: Recipe
    recipe_number: int
    """Under which a slot keeps the recipe; 0 for one that is used once."""
    payload: tuple[Any, ...]
    """What the worker needs for this try; see `calling.Payload`."""
    name: str
    map_index: int
    timeout_s: float | None
    kill_grace_s: float
    log_cap_bytes: int
    callback_id: int | None = None
    """Of a callback: the key of its row; it is no try, and changes no state."""
    expected_s: float | None = None
    """How long it will take by experience; None if there is none."""
    started_at: float | None = None
    """By the monotonic clock; None before it is known that its slot began with it."""
    started_us: int | None = None
    kill_reason: EndReason | None = None
    """Why it was told to end, once it was."""
    ended_by_run: bool = False
    """Whether that is why its whole run was ended."""
    given_at: float = 0.0
    """When its slot was given it, by the monotonic clock."""
    deaths: int = 0
    """How many workers died with it in hand before it had started."""
    log_bytes: int = 0
    log_cut: int = 0
    oom_kills: int = 0
    """How often the kernel had killed for want of memory when it started."""
    peak_rss_bytes: int | None = None
    """The most memory that it was seen to hold so far."""
    slot: int | None = None
    """The place of the slot that it was given to last: 1, 2, ...; None where there are no slots."""
    executor: str | None = None
    """What the task says is to run it: `processes` or `threads`; None is whatever runs the others."""


@dataclass(slots=True)
class Events:
    """What happened in an engine since it was last asked."""

    started: list[Job] = field(default_factory=list)
    lines: list[tuple[Job, LogLine]] = field(default_factory=list)
    finished: list[tuple[Job, Outcome]] = field(default_factory=list)
    returned: list[Job] = field(default_factory=list)
    """Jobs that were given to a slot, had not started, and need another one."""
    questions: list[tuple[Job, int, tuple[Any, ...]]] = field(default_factory=list)
    """What running jobs want to know: with a number for the answer."""
    broken: str | None = None
    """Why the engine can run nothing more, in words. What it had in hand is `returned` where nobody knows whose fault
    that is: it has not begun, or ended as crashed without blame."""

    def __bool__(self) -> bool:
        return bool(
            self.started or self.lines or self.finished or self.returned or self.questions or self.broken is not None
        )

    def take_in(self, others: Events) -> None:
        """Add what happened in another engine."""
        self.started += others.started
        self.lines += others.lines
        self.finished += others.finished
        self.returned += others.returned
        self.questions += others.questions
        self.broken = self.broken or others.broken


class Engine(Protocol):
    """What the service asks of whatever runs jobs. All calls come from the service's one thread, `wake` from any."""

    chunks: bool
    """Whether a vacancy can take several tiny jobs at once."""

    def start(self) -> None:
        """Begin to get ready. Returns at once."""

    def hold_locks(self, directory: str, token: str) -> None:
        """Have each slot hold a lock file `TOKEN.*.slot` in the directory while anything of its tries is left.

        To be called before the first `submit`. Raises StorageError.
        """

    def live_until(self, at: float) -> None:
        """Have what runs end by itself at that time, by `clock.steady_s`, as far as it can, unless it is told a later
        one before. To be called before `hold_locks` the first time, then from any thread."""

    def replace_no_more(self) -> None:
        """Nothing more will be begun: a slot that ends needs no other in its place."""

    def vacancies(self) -> list[int]:
        """Where there is room for work now: a key for `submit` each, the emptiest first."""

    def size(self) -> int:
        """How many jobs can run at the same time."""

    def submit(self, vacancy: int, jobs: list[Job]) -> None:
        """Run the jobs one after the other. Their claims are committed."""

    def answer(self, job: Job, number: int, rows: tuple[Any, ...]) -> None:
        """Answer a question; one whose job is over is dropped."""

    def has_begun(self, job: Job) -> bool:
        """Whether a job that was submitted, and is not known to be over, has begun by now."""

    def cancel(self, job: Job, reason: EndReason) -> None:
        """End a job that was submitted; it comes back as finished, or returned if it had not started."""

    def poll(self, timeout_s: float) -> Events:
        """Wait until something happens, `wake` is called or the time is over, and say what it was."""

    def wake(self) -> None:
        """Make `poll` return. From any thread."""

    def kill(self) -> None:
        """Kill what runs, as far as it can be, at once and without a word. From any thread."""

    def close(self, *, kill: bool) -> None:
        """End everything; with `kill` without waiting for what runs."""
