"""The states of runs and task instances, and every change between them that is allowed.

The words and their values are Airflow's, so that they carry over; `pending` is stored where Airflow has None. The
tables below are the only place that lists states: guards, diagrams and documentation are made from them. So are the
words for many task instances at once, which read the same wherever they are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum


class TaskInstanceState(StrEnum):
    """Where a task instance stands. Each line says what the state means and who moves it on."""

    PENDING = "pending"
    """Waits for its upstream; the scheduling core moves it on."""
    QUEUED = "queued"
    """Its trigger rule holds; it waits until an executor service claims it for a slot."""
    RUNNING = "running"
    """Claimed by an executor service, which moves it on when the try is over."""
    SUCCESS = "success"
    """The function returned and its XComs are stored."""
    FAILED = "failed"
    """The last try ended without success; `end_reason` says why."""
    SKIPPED = "skipped"
    """It was decided not to run it."""
    UPSTREAM_FAILED = "upstream_failed"
    """Its trigger rule cannot hold any more, since something upstream failed."""
    UP_FOR_RETRY = "up_for_retry"
    """A try failed and another one is allowed; queued again when the retry delay is over."""
    UP_FOR_RESCHEDULE = "up_for_reschedule"
    """A sensor that looks again later and holds no slot; queued again when its interval is over."""
    REMOVED = "removed"
    """The task is no longer in the dag with which its run went on."""

    @property
    def is_terminal(self) -> bool:
        """Whether nothing but an explicit command changes this state."""
        return self in TERMINAL


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    """Submitted; waits for an executor service that knows its dag."""
    RUNNING = "running"
    """Owned and driven by one executor service."""
    SUCCESS = "success"
    """Every leaf ended well."""
    FAILED = "failed"
    """A leaf failed, or the run was ended early; `end_reason` says why."""

    @property
    def is_terminal(self) -> bool:
        """Whether nothing but an explicit command changes this state."""
        return self in (RunState.SUCCESS, RunState.FAILED)


class EndReason(StrEnum):
    """Why a try or a run ended, where its state does not tell."""

    ERROR = "error"
    """The function raised, or its result could not be stored."""
    TIMEOUT = "timeout"
    """It took longer than it was allowed to."""
    CRASHED = "crashed"
    """The process in which it ran died."""
    CANCELLED = "cancelled"
    """Somebody cancelled it."""
    FAIL_FAST = "fail_fast"
    """Another task failed in a dag with `fail_fast`."""
    LOST = "lost"
    """Its result came after the try had been taken over."""
    MARKED = "marked"
    """Somebody said that this is its state: `liteflow mark`."""
    REUSED = "reused"
    """It ended so in the run whose values this run began with: `liteflow rerun --only-failed`."""
    PRUNED = "pruned"
    """Of a run alone: it is over and was kept long enough, and what is left of it is being deleted."""


_S = TaskInstanceState
_R = RunState

TRANSITIONS: Mapping[TaskInstanceState, Mapping[TaskInstanceState, str]] = {
    _S.PENDING: {
        _S.QUEUED: "trigger rule holds",
        _S.SKIPPED: "trigger rule, branch, cancelled, or run ended early",
        _S.UPSTREAM_FAILED: "trigger rule cannot hold",
        _S.REMOVED: "gone from the dag",
    },
    _S.QUEUED: {
        _S.RUNNING: "claimed",
        _S.SKIPPED: "branch, cancelled, or run ended early",
        _S.REMOVED: "gone from the dag",
    },
    _S.RUNNING: {
        _S.SUCCESS: "returned",
        _S.FAILED: "no retries left",
        _S.SKIPPED: "SkipTask",
        _S.UP_FOR_RETRY: "retries left",
        _S.UP_FOR_RESCHEDULE: "look again later",
        _S.QUEUED: "its owner died or stopped",
    },
    _S.UP_FOR_RETRY: {
        _S.QUEUED: "delay over",
        _S.SKIPPED: "cancelled, or run ended early",
        _S.REMOVED: "gone from the dag",
    },
    _S.UP_FOR_RESCHEDULE: {
        _S.QUEUED: "interval over",
        _S.SKIPPED: "cancelled, or run ended early",
        _S.REMOVED: "gone from the dag",
    },
    _S.SUCCESS: {},
    _S.FAILED: {},
    _S.SKIPPED: {},
    _S.UPSTREAM_FAILED: {},
    _S.REMOVED: {},
}
"""From a state to the states that may follow it, each with its occasion.

Explicit commands do what is not here: `clear` and `resume` make what is over pending, `mark` gives any task instance
that does not run a final state, and `rerun` begins a run with task instances that are over.
"""

RUN_TRANSITIONS: Mapping[RunState, Mapping[RunState, str]] = {
    _R.QUEUED: {_R.RUNNING: "owned by a service", _R.FAILED: "cancelled"},
    _R.RUNNING: {_R.SUCCESS: "leaves ended well", _R.FAILED: "a leaf failed, or ended early"},
    _R.SUCCESS: {},
    _R.FAILED: {},
}
"""The same for runs. `clear` makes one that is over queued again, `resume` running; `mark` may change how it ended."""

TERMINAL: frozenset[TaskInstanceState] = frozenset(state for state, nexts in TRANSITIONS.items() if not nexts)
UNFINISHED: frozenset[TaskInstanceState] = frozenset(TRANSITIONS) - TERMINAL


def is_allowed(source: TaskInstanceState, target: TaskInstanceState) -> bool:
    """Whether a task instance may go from `source` to `target` without an explicit command."""
    return target in TRANSITIONS[source]


def sources_of(target: TaskInstanceState) -> frozenset[TaskInstanceState]:
    """States from which `target` may be entered: the guard of every update that sets it."""
    return frozenset(source for source, nexts in TRANSITIONS.items() if target in nexts)


AS_TOLD: tuple[TaskInstanceState, ...] = (
    _S.SUCCESS,
    _S.FAILED,
    _S.UPSTREAM_FAILED,
    _S.SKIPPED,
    _S.REMOVED,
    _S.RUNNING,
    _S.UP_FOR_RETRY,
    _S.UP_FOR_RESCHEDULE,
    _S.QUEUED,
    _S.PENDING,
)
"""The order in which counts are told: what is over, what goes on, what waits."""

BY_URGENCY: tuple[TaskInstanceState, ...] = (
    _S.FAILED,
    _S.UPSTREAM_FAILED,
    _S.RUNNING,
    _S.UP_FOR_RETRY,
    _S.UP_FOR_RESCHEDULE,
    _S.QUEUED,
    _S.PENDING,
    _S.SUCCESS,
    _S.SKIPPED,
    _S.REMOVED,
)
"""What one most wants to know first: what went wrong, what goes on, what is still to come, what was done."""


def most_urgent(states: Iterable[TaskInstanceState]) -> TaskInstanceState:
    """The one state that stands for all of them. Raises ValueError when there is none."""
    return min(states, key=BY_URGENCY.index)


def counts_text(counts: Mapping[TaskInstanceState, int]) -> str:
    """How many task instances are in which state: `9,990 success, 10 failed`. Empty when there are none."""
    return ", ".join(f"{counts[state]:,} {state}" for state in AS_TOLD if counts.get(state))


def mapped_name(task_id: str, count: int) -> str:
    """A mapped task with the number of its instances: `add_one [10,000]`."""
    return f"{task_id} [{count:,}]"


def mapped_text(task_id: str, counts: Mapping[TaskInstanceState, int]) -> str:
    """All instances of a mapped task in one line: `add_one [10,000]: 9,990 success, 10 failed`."""
    return f"{mapped_name(task_id, sum(counts.values()))}: {counts_text(counts)}"


def instance_name(task_id: str, map_index: int, label: str | None = None) -> str:
    """One task instance: `add_one`, or `add_one[17]` when it is mapped, or `add_one[17 label]`."""
    if map_index < 0:
        return task_id
    return f"{task_id}[{map_index}{' ' + label if label else ''}]"


def run_text(state: RunState, failed_tasks: int) -> str:
    """A run's state; `success, 1 task failed` where tasks failed and its leaves ended well all the same."""
    if state is not RunState.SUCCESS or not failed_tasks:
        return str(state)
    return f"{state}, {failed_tasks:,} task{'' if failed_tasks == 1 else 's'} failed"
