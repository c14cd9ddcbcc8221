"""Putting a run right by hand: opening task instances again (`clear`), and saying how they ended (`mark`).

Both change only runs that nobody drives: those that are over, those whose process is gone, and those that were opened
before and wait. Everything is one durable transaction, which changes nothing when somebody has taken the run up since
it was looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from liteflow.errors import RunConflictError, RunOwnedError
from liteflow.execution.clock import clock_us
from liteflow.execution.liveness import LEFTOVERS_S, OWNER_DIED, end_leftovers, state_of_owner
from liteflow.scheduling.leaves import Standing, all_above, all_below, do_teardowns_count, recorded_outcome
from liteflow.scheduling.reopening import ENDED_EARLY
from liteflow.states import TERMINAL, UNFINISHED, EndReason, RunState, TaskInstanceState
from liteflow.storage import correcting, recording, recovery
from liteflow.storage.correcting import Chosen, SeenRun
from liteflow.storage.history import check_instances
from liteflow.storage.untrusted import refusing_strange_values

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.storage.history import DagRun, Owner

_S = TaskInstanceState

TO_CLEAR = frozenset(TERMINAL - {_S.REMOVED})
"""States of task instances that can be opened again: what is not over is open, what was removed has no code."""

BEGUN = frozenset(UNFINISHED - {_S.PENDING})
"""States of task instances whose trigger rule has been found to hold."""

UNWELL = frozenset({_S.FAILED, _S.UPSTREAM_FAILED})
"""What `failed=True` keeps, beside what was skipped because the run, or it alone, was ended early."""

MARKS = (_S.SUCCESS, _S.FAILED, _S.SKIPPED)
"""The states that can be marked."""

TaskChoice = tuple[str, "int | None"]
"""A task id with a map index, None for all of the task's instances."""


class Marked(NamedTuple):
    """What `mark_task` did."""

    instances: list[Chosen]
    """As they stood before."""
    run_state: RunState
    """Of the run now."""
    unwell_below: int
    """How many task instances downstream are failed or upstream_failed, and stay so until they are cleared."""


def clear_tasks(
    run: DagRun,
    tasks: Iterable[TaskChoice] = (),
    *,
    downstream: bool = False,
    upstream: bool = False,
    failed: bool = False,
    dry_run: bool = False,
) -> list[Chosen]:
    """See `DagRun.clear`; returns the task instances as they stood before."""
    wanted = list(tasks)
    if not wanted and not failed:
        raise ValueError("name tasks to clear, or ask for those that failed")
    _refuse_driven(run)
    path = run.history.database.path
    seen = SeenRun(run.pk, run.state, run.owner.pk if run.owner is not None else None)
    if dry_run:
        with run.history.read() as connection:
            recovery.refuse_half_deleted(connection, run)
            return _chosen(connection, run, wanted, downstream=downstream, upstream=upstream, failed=failed)
    with refusing_strange_values(path), run.history.database.write(durable=True) as connection:
        recovery.refuse_half_deleted(connection, run)
        chosen = _chosen(connection, run, wanted, downstream=downstream, upstream=upstream, failed=failed)
        if not chosen:
            return []
        pks = [one.pk for one in chosen]
        _open_run(connection, run, seen, pks)
        orphaned = [one.pk for one in chosen if one.state is _S.RUNNING]
        correcting.end_orphaned_tries(connection, orphaned, OWNER_DIED, clock_us())
        recording.reopen(connection, pks)
        correcting.forget_end(connection, run.pk)
    return chosen


def mark_task(run: DagRun, task_id: str, map_index: int | None, state: TaskInstanceState) -> Marked:
    """See `DagRun.mark`."""
    if state not in MARKS:
        raise ValueError(f"a task can be marked {', '.join(MARKS)}; not {state}")
    _refuse_driven(run)
    path = run.history.database.path
    seen = SeenRun(run.pk, run.state, run.owner.pk if run.owner is not None else None)
    if run.state is RunState.RUNNING and run.owner is not None:
        _end_tries_of(run, run.owner)  # one of them may be the task's
    now_us = clock_us()
    with refusing_strange_values(path), run.history.database.write(durable=True) as connection:
        recovery.refuse_half_deleted(connection, run)
        check_instances(connection, run, task_id, map_index)
        indexes = None if map_index is None else (map_index,)
        chosen = correcting.chosen_instances(
            connection, run.pk, tasks={task_id: indexes}, states=set(_S) - {_S.REMOVED}
        )
        if not chosen:
            raise RunConflictError(
                f"run {run.run_id!r} of dag {run.dag_id!r}: task {task_id!r} was removed from the dag",
                run_id=run.run_id,
            )
        before = correcting.standings(connection, run.pk)
        pks = [one.pk for one in chosen]
        correcting.end_orphaned_tries(
            connection, [one.pk for one in chosen if one.state is _S.RUNNING], OWNER_DIED, now_us
        )
        correcting.mark(connection, pks, state, now_us)
        correcting.forget_end(connection, run.pk)
        after = correcting.standings(connection, run.pk)
        run_state, values = _run_after(connection, run, before, after, now_us)
        if not correcting.change_run(connection, seen, state=run_state, **values):
            raise _taken_up(run)
        below = all_below(after, [task_id])
        unwell = correcting.chosen_instances(connection, run.pk, tasks=dict.fromkeys(below), states=UNWELL)
    return Marked(chosen, run_state, len(unwell))


# Which runs may be changed


def _refuse_driven(run: DagRun) -> None:
    """Raise RunOwnedError while somebody drives the run."""
    if run.state.is_terminal or run.owner is None:
        return
    state = state_of_owner(run.history.database.path, run.owner)
    if state == "dead":
        return
    raise RunOwnedError(
        f"run {run.run_id!r} of dag {run.dag_id!r} is driven by process {run.owner.pid} on {run.owner.host}, which is "
        f"{'stopped (SIGSTOP); let it go on' if state == 'stopped' else 'alive; wait for it'}, or cancel the run first",
        run_id=run.run_id,
        pid=run.owner.pid,
    )


def _end_tries_of(run: DagRun, owner: Owner) -> None:
    left = end_leftovers(run.history.database.path, owner.token, patience_s=LEFTOVERS_S)
    if left:
        which = ", ".join(str(pid) for pid in left if pid) or "unknown ones"
        raise RunOwnedError(
            f"run {run.run_id!r} of dag {run.dag_id!r}: processes of its last tries are still there and cannot be "
            f"ended ({which}); end them and try again",
            run_id=run.run_id,
            pid=left[0],
        )


def _taken_up(run: DagRun) -> RunConflictError:
    return RunConflictError(
        f"run {run.run_id!r} of dag {run.dag_id!r} was changed or taken up by somebody else just now, and is left as "
        "it is; look at it again (`run.refresh()` reads it anew)",
        run_id=run.run_id,
    )


# Clearing


def _chosen(
    connection: Connection, run: DagRun, tasks: list[TaskChoice], *, downstream: bool, upstream: bool, failed: bool
) -> list[Chosen]:
    """The task instances that are meant, upstream before downstream, those of a mapped task by map index."""
    for task_id, map_index in tasks:
        check_instances(connection, run, task_id, map_index)
    known = correcting.standings(connection, run.pk)
    wanted: dict[str, set[int] | None] | None = _named(tasks) if tasks else None
    if wanted is not None:
        named = list(wanted)
        more = (all_below(known, named) if downstream else set()) | (all_above(known, named) if upstream else set())
        wanted.update(dict.fromkeys(more - set(named)))
    found = correcting.chosen_instances(
        connection,
        run.pk,
        tasks=wanted,
        states=UNWELL if failed else TO_CLEAR,
        or_skipped_for=ENDED_EARLY if failed else (),
    )
    if not run.state.is_terminal:
        # What has begun or may begin of an interrupted run has to wait again for what is cleared above it.
        cleared = {one.task_id for one in found}
        below = [task_id for task_id, one in known.items() if not cleared.isdisjoint(one.upstream)]
        found += correcting.chosen_instances(connection, run.pk, tasks=dict.fromkeys(below), states=BEGUN)
    place = {task_id: number for number, task_id in enumerate(known)}
    return sorted(found, key=lambda one: (place[one.task_id], one.map_index))


def _named(tasks: Iterable[TaskChoice]) -> dict[str, set[int] | None]:
    """By task id the map indexes that are named, None for all."""
    wanted: dict[str, set[int] | None] = {}
    for task_id, map_index in tasks:
        indexes = wanted.setdefault(task_id, set())
        if map_index is None or indexes is None:
            wanted[task_id] = None
        else:
            indexes.add(map_index)
    return wanted


def _open_run(connection: Connection, run: DagRun, seen: SeenRun, pks: list[int]) -> None:
    """Make a run that is over one that waits, without an owner; leave one that is interrupted as it is."""
    if run.state.is_terminal:
        if run.end_reason is EndReason.FAIL_FAST and correcting.has_failed_beside(connection, run.pk, set(pks)):
            raise RunConflictError(
                f"run {run.run_id!r} of dag {run.dag_id!r} was ended by fail_fast, and a failure that stays would end "
                f"it again; clear all that failed: liteflow clear {run.dag_id}/{run.run_id} --failed",
                run_id=run.run_id,
            )
        correcting.settle_early_skips(connection, run.pk)
        opened: dict[str, object] = {"state": RunState.QUEUED, "executor_pk": None, "ended_at": None}
        opened["end_reason"] = None
    else:
        if correcting.is_being_ended(connection, run.pk):
            raise RunConflictError(
                f"run {run.run_id!r} of dag {run.dag_id!r} was being ended when its process died; let it end (resume "
                f"it, or: liteflow cancel {run.dag_id}/{run.run_id}), then clear",
                run_id=run.run_id,
            )
        opened = {}
    if not correcting.change_run(connection, seen, cancel_requested_at=None, **opened):
        raise _taken_up(run)


# Marking


def _run_after(
    connection: Connection,
    run: DagRun,
    before: Mapping[str, Standing],
    after: Mapping[str, Standing],
    now_us: int,
) -> tuple[RunState, dict[str, object]]:
    """The state of the run once tasks of it are marked, and what else of it changes."""
    if run.state is RunState.RUNNING or (run.state is RunState.QUEUED and run.owner is not None):
        return run.state, {}  # it is interrupted: whoever goes on with it ends it
    if run.state is RunState.QUEUED:
        if correcting.has_unfinished(connection, run.pk):
            return run.state, {}
        return recorded_outcome(after), {"ended_at": now_us, "cancel_requested_at": None}
    if run.end_reason in ENDED_EARLY and correcting.is_ended_as(connection, run.pk, run.end_reason):
        return run.state, {}  # something is left that the early end brought about
    teardowns_count = run.end_reason not in ENDED_EARLY and do_teardowns_count(before, run.state)
    return recorded_outcome(after, teardowns_count=teardowns_count), {"end_reason": None}
