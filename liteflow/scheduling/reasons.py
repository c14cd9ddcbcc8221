"""The reason behind a state: which upstream decided it, which decision, or what ended it.

A rule is not written down a second time here: `scheduling/rules.py` is asked what it makes of a few of the upstream
alone, and the smallest set with which it says the same is the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import combinations
from typing import NamedTuple

from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.scheduling.rules import SetupCounts, UpstreamCounts, evaluate
from liteflow.states import EndReason, TaskInstanceState

_S = TaskInstanceState

MOST_NAMED = 3
"""So many tasks of a kind are named in a line; of the others their number is told."""

_BLAMED = (_S.FAILED, _S.UPSTREAM_FAILED, _S.SKIPPED, _S.SUCCESS)
"""The final states that a rule looks at, those first that one most wants to know of."""


class Why(StrEnum):
    """What kind of reason it is. The values are part of what `liteflow why --json` promises."""

    ERROR = "error"
    """A try failed."""
    SKIPPED_ITSELF = "skipped_itself"
    """The task raised `SkipTask`, or is a sensor that may."""
    RULE = "rule"
    """The trigger rule decided, by what is directly upstream."""
    BRANCH = "branch"
    """A branch took another way."""
    SHORT_CIRCUIT = "short_circuit"
    """A short circuit skipped what is below it."""
    MAPPED_OVER_NOTHING = "mapped_over_nothing"
    """There were no items."""
    NO_ITEMS = "no_items"
    """What it is mapped over failed, or was skipped."""
    PAST = "past"
    """The run before."""
    ENDED = "ended"
    """Somebody or something ended the run, or this task instance, early."""
    MARKED = "marked"
    """Somebody said that this is its state."""
    REUSED = "reused"
    """Its value comes from another run."""
    REMOVED = "removed"
    """The dag with which the run went on has no such task, or the task is mapped over fewer items."""
    UPSTREAM = "upstream"
    """It waits for what is upstream."""
    SCOPE = "scope"
    """A teardown that waits for what lies between its setups and itself."""
    DUE = "due"
    """It waits for a time."""
    RUNNING = "running"
    """It runs."""
    POOL = "pool"
    """It waits for slots of its pool."""
    SLOT = "slot"
    """It waits for a slot of the process that drives the run."""
    ACTIVE_RUNS = "active_runs"
    """Its run waits until others of the dag are over."""
    NOBODY = "nobody"
    """Nobody drives the run."""
    DONE = "done"
    """It succeeded."""
    UNKNOWN = "unknown"
    """The record does not tell."""


class Upstream(NamedTuple):
    """Task instances of one task that are directly upstream, all in the same state."""

    task_id: str
    state: TaskInstanceState
    instances: int = 1
    map_index: int | None = None
    """Of one that is mapped and joined by its map index; None for all instances of the task that are in the state."""
    total: int = 1
    """How many instances of the task are upstream in all."""


class Decision(NamedTuple):
    """What a branch or short circuit decided."""

    task_id: str
    followed: tuple[str, ...] | None
    """What a branch chose; None of a short circuit."""
    skipped: frozenset[str]
    """Ids of the tasks that were skipped by it."""


class Reason(NamedTuple):
    """Why a task instance is in its state."""

    why: Why
    text: str
    """In words, without the task and its state."""
    causes: tuple[Upstream, ...] = ()
    """The upstream that the words name, those first that matter most."""


def counts_of(upstream: Iterable[Upstream], setups: Iterable[Upstream] = ()) -> UpstreamCounts:
    """What a rule looks at. What is removed from the dag has no edges any more, and does not count."""
    counts = dict.fromkeys(_BLAMED, 0)
    total = 0
    for one in upstream:
        if one.state is not _S.REMOVED:
            total += one.instances
        if one.state in counts:
            counts[one.state] += one.instances
    of_setups = list(setups)
    return UpstreamCounts(
        counts[_S.SUCCESS],
        counts[_S.FAILED],
        counts[_S.SKIPPED],
        counts[_S.UPSTREAM_FAILED],
        total,
        SetupCounts(
            sum(one.instances for one in of_setups if one.state is _S.SUCCESS),
            sum(one.instances for one in of_setups if one.state is _S.SKIPPED),
            sum(one.instances for one in of_setups),
        ),
    )


def deciding(rule: TriggerRule, upstream: Sequence[Upstream], target: TaskInstanceState) -> tuple[Upstream, ...] | None:
    """The upstream that make the rule say `target` whatever becomes of the others, as few states of them as possible.

    None when no part of them does: then something else decided. Where that takes every one of them, all are named. An
    order of arrival is not assumed: what ended later may say something else beside it.
    """
    if rule is TriggerRule.ALL_DONE_SETUP_SUCCESS:
        return _deciding_setups(rule, upstream, target)
    present = [state for state in _BLAMED if any(one.state is state for one in upstream)]
    for size in range(len(present) + 1):
        enough = [some for some in combinations(present, size) if _says(rule, upstream, some, target, each=1)]
        if enough:
            together = {state for some in enough for state in some}
            # Each of several failures is a reason by itself: all are told, unless together they say something else.
            some = together if _says(rule, upstream, together, target) else set(enough[0])
            return _in_states(upstream, some)
    return _in_states(upstream, present) if _says(rule, upstream, present, target) else None


def _says(
    rule: TriggerRule,
    upstream: Sequence[Upstream],
    states: Iterable[TaskInstanceState],
    target: TaskInstanceState,
    *,
    each: int | None = None,
) -> bool:
    """Whether the rule says `target` when those in `states` have ended and the others have not.

    `each`: only so many of each state have ended.
    """
    total = counts_of(upstream).total
    ended = counts_of(one for one in upstream if one.state in set(states))
    if each is not None:
        success, failed, skipped, upstream_failed = (min(each, count) for count in ended[:4])
        ended = UpstreamCounts(success, failed, skipped, upstream_failed, total)
    return evaluate(rule, ended._replace(total=total)) is target


def _deciding_setups(
    rule: TriggerRule, upstream: Sequence[Upstream], target: TaskInstanceState
) -> tuple[Upstream, ...] | None:
    """The same of a teardown, of which the record does not say which upstream are its setups.

    All are named that may be: the most of them with which the rule says `target`.
    """
    present = [state for state in _BLAMED if any(one.state is state for one in upstream)]
    for size in range(len(present), 0, -1):
        for states in combinations(present, size):
            setups = _in_states(upstream, states)
            if evaluate(rule, counts_of(upstream, setups)) is target:
                return setups
    return None


def _in_states(upstream: Sequence[Upstream], states: Iterable[TaskInstanceState]) -> tuple[Upstream, ...]:
    wanted = set(states)
    return tuple(one for state in _BLAMED if state in wanted for one in upstream if one.state is state)


def waiting_for(rule: TriggerRule, upstream: Sequence[Upstream]) -> tuple[Upstream, ...]:
    """The unfinished upstream for which the rule waits; empty when it has decided.

    Those that run come first: they are next.
    """
    if evaluate(rule, counts_of(upstream)) is not None:
        return ()
    nearest = (_S.RUNNING, _S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE, _S.QUEUED, _S.PENDING)
    return tuple(one for state in nearest for one in upstream if one.state is state)


def reason_of_end(
    state: TaskInstanceState,
    end_reason: EndReason | None,
    *,
    rule: TriggerRule,
    upstream: Sequence[Upstream],
    decisions: Sequence[Decision] = (),
    error: str | None = None,
    has_run: bool = False,
    is_expanded: bool = False,
    run_reason: EndReason | None = None,
    tries: int = 0,
    has_others: bool = False,
) -> Reason:
    """Why a task instance ended so.

    `decisions` are those that named the task; `error` is what is recorded beside the state, `has_run` whether its
    latest try began; `is_expanded` whether it has a map index; `run_reason` why the run ended early, if it did;
    `tries` how many tries there were; `has_others` whether its task has instances that were not removed.
    """
    if state is _S.REMOVED:
        if has_others:
            return Reason(Why.REMOVED, "what the task is mapped over has fewer items now")
        return Reason(Why.REMOVED, "the dag with which the run went on has no such task")
    if end_reason is EndReason.MARKED:
        return Reason(Why.MARKED, "marked")
    if end_reason is EndReason.REUSED:
        return Reason(Why.REUSED, "its value comes from the run that this one is a rerun of")
    if state is _S.SUCCESS:
        return Reason(Why.DONE, "")
    if state is _S.FAILED:
        after = f" (after {tries:,} tries)" if tries > 1 else ""
        return Reason(Why.ERROR, (error or _ENDED.get(end_reason, "why is not recorded")) + after)
    if end_reason is not None:
        return Reason(Why.ENDED, _ended_early(end_reason, run_reason))
    if has_run:
        return Reason(Why.SKIPPED_ITSELF, error or "it raised SkipTask")
    if error is not None:
        return Reason(Why.PAST, error)
    return _decided(state, rule, upstream, decisions, is_expanded)


def _decided(
    state: TaskInstanceState,
    rule: TriggerRule,
    upstream: Sequence[Upstream],
    decisions: Sequence[Decision],
    is_expanded: bool,
) -> Reason:
    """Why one that never began was skipped, or is upstream_failed."""
    if state is _S.SKIPPED and decisions:  # which come before any rule is asked
        return _reason_of(decisions[0])
    found = deciding(rule, upstream, state)
    if found is not None:
        return Reason(Why.RULE, f"{rule} saw {seen_text(found)}", found)
    # What is left is that it was mapped over the value of something upstream.
    unwell = _in_states(upstream, (_S.FAILED, _S.UPSTREAM_FAILED) if state is _S.UPSTREAM_FAILED else (_S.SKIPPED,))
    if unwell and not is_expanded:
        return Reason(Why.NO_ITEMS, f"mapped over the value of {seen_text(unwell)}", unwell)
    if state is _S.SKIPPED and not is_expanded:
        return Reason(Why.MAPPED_OVER_NOTHING, "mapped over nothing")
    return Reason(Why.UNKNOWN, "why is not recorded")


def _reason_of(decision: Decision) -> Reason:
    cause = (Upstream(decision.task_id, _S.SUCCESS),)
    if decision.followed is None:
        return Reason(Why.SHORT_CIRCUIT, f"short circuit {decision.task_id} let nothing below it go", cause)
    return Reason(Why.BRANCH, f"branch {decision.task_id} took {named(decision.followed) or 'nothing'}", cause)


_ENDED: Mapping[EndReason | None, str] = {
    EndReason.CANCELLED: "it was cancelled",
    EndReason.TIMEOUT: "it took too long",
    EndReason.CRASHED: "its process died",
    EndReason.FAIL_FAST: "another task failed, and the dag has fail_fast",
    EndReason.LOST: "its result came after the try had been taken over",
}


def _ended_early(reason: EndReason, run_reason: EndReason | None) -> str:
    """Why it did not get to run, or to its next try."""
    if reason is EndReason.CANCELLED:
        return "the run was cancelled" if run_reason is EndReason.CANCELLED else "it was cancelled"
    if reason is EndReason.TIMEOUT:
        return "the run took longer than dagrun_timeout"
    if reason is EndReason.ERROR:
        return "the run could not go on"
    return _ENDED.get(reason, str(reason))


def seen_text(upstream: Sequence[Upstream]) -> str:
    """What a rule saw: `a, b failed, 37 of add_one skipped`."""
    by_state: dict[TaskInstanceState, list[str]] = {}
    for one in upstream:
        by_state.setdefault(one.state, []).append(_how_many(one))
    return ", ".join(f"{named(names)} {state}" for state, names in by_state.items())


def _how_many(one: Upstream) -> str:
    if one.map_index is not None and one.map_index >= 0:
        return f"{one.task_id}[{one.map_index}]"
    return one.task_id if one.total == 1 else f"{one.instances:,} of {one.task_id}"


def named(names: Sequence[str]) -> str:
    """Up to three names, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
