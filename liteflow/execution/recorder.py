"""Recording a turn: every statement of it, in the order in which they have to come, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from liteflow.execution.jobs import Job, Outcome
from liteflow.execution.turn import Claim, Turn
from liteflow.states import TaskInstanceState
from liteflow.storage import callbacks, recording

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.execution.active import ActiveRun
    from liteflow.execution.pools import PoolGuard
    from liteflow.execution.prepared import PreparedDag
    from liteflow.scheduling.core import Change

_S = TaskInstanceState
_DELAYED = (_S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE)

LATEST_DUE_S = 100 * 365 * 24 * 3600.0
"""A task instance that is due later than that from now is recorded as due then: no column or calendar holds more."""


def task_facts(prepared: PreparedDag, number: int) -> recording.TaskFacts:
    """What is kept of a task; of one that is mapped over lists in the dag, with all of its instances."""
    task = prepared.tasks[number]
    options = task.options
    unit = prepared.unit_of[number]
    count = prepared.unit_specs[unit].length if unit is not None else None
    return recording.TaskFacts(
        task.task_id,
        tuple(task.upstream_task_ids),
        options.trigger_rule._value_,
        range(count) if count else recording.NOT_MAPPED,
        options.pool,
        options.pool_slots,
    )


def record(
    connection: Connection, turn: Turn, executor_pk: int, guard: PoolGuard, living: Iterable[ActiveRun], now_us: int
) -> list[int]:
    """Record everything that the turn holds; returns the keys of the callbacks that are due from now on.

    Tries that were taken over are taken out of `turn.ended`, claims beyond a pool's slots out of `turn.claims`.
    `living` are the runs that the service drives: lines of others are kept only if they were not deleted.
    """
    _record_tries(connection, turn, executor_pk, now_us)
    _record_lines(connection, turn, {run.pk for run in living})
    _record_expansions(connection, turn)
    guard.refuse_excess(connection, turn)
    claimed = {(claim.run.pk, claim.index) for claim in turn.claims}
    recording.record_changes(
        connection,
        [
            (run.pks[change.index], change.state, change.reason)
            for run, change in turn.changes
            # What is claimed in the same breath goes straight to running.
            if not (change.state is _S.QUEUED and (run.pk, change.index) in claimed)
        ],
        now_us,
    )
    recording.record_errors(
        connection, [(run.pks[change.index], change.error) for run, change in turn.changes if change.error is not None]
    )
    recording.claim(connection, [_row_of(claim) for claim in turn.claims if not claim.resumed], executor_pk)
    recording.reclaim(connection, [_row_of(claim) for claim in turn.claims if claim.resumed], executor_pk)
    due = callbacks.store_callbacks(
        connection,
        [
            callbacks.CallbackFacts(one.run.pk, one.kind, one.run.pks[one.index], one.try_number, one.number)
            for one in turn.callbacks
        ],
        now_us,
    )
    callbacks.delete_callbacks(connection, turn.called)
    recording.note_cancelled(connection, [run.pk for run in turn.cancelled], now_us)
    for run in turn.over:
        recording.end_run(connection, run.pk, *run.core.outcome(), now_us)
    return due


def _row_of(claim: Claim) -> tuple[int, int]:
    return claim.run.pks[claim.index], claim.run.core.try_numbers[claim.index]


def _record_tries(connection: Connection, turn: Turn, executor_pk: int, now_us: int) -> None:
    over = {id(job) for job, _, _ in turn.ended} if turn.started else ()
    recording.record_started(
        connection,
        [
            (job.run.pks[job.index], job.try_number, job.started_us or now_us, job.slot)
            for job in turn.started
            if id(job) not in over
        ],
        executor_pk,
    )
    lost = recording.record_ended(connection, [_ended_row(*one, now_us) for one in turn.ended], executor_pk)
    recording.count_no_retry(
        connection,
        [
            job.run.pks[job.index]
            for job, outcome, change in turn.ended
            if outcome.blameless and change.state is TaskInstanceState.UP_FOR_RETRY
            if job.run.pks[job.index] not in lost
        ],
    )
    if lost:
        turn.ended = [one for one in turn.ended if one[0].run.pks[one[0].index] not in lost]
    recording.store_xcoms(
        connection,
        [
            (job.run.pks[job.index], *xcom)
            for job, outcome, change in turn.ended
            if change.state.is_terminal
            for xcom in outcome.xcoms
        ],
    )


def _ended_row(job: Job, outcome: Outcome, change: Change, now_us: int) -> recording.TryEnded:
    return recording.TryEnded(
        job.run.pks[job.index],
        job.try_number,
        change.state,
        change.reason,
        outcome.error,
        outcome.started_us,
        outcome.ended_us or now_us,
        now_us + int(min(change.delay_s, LATEST_DUE_S) * 1e6) if change.state in _DELAYED else None,
        outcome.label,
        outcome.peak_rss_bytes,
        job.slot,
    )


def _record_lines(connection: Connection, turn: Turn, living: set[int]) -> None:
    """The lines, without those of runs that were deleted since: something left running may still write."""
    late = {job.run.pk for job, _ in turn.lines} - living
    gone = late - recording.existing_runs(connection, late) if late else set()
    lines = turn.lines if not gone else [one for one in turn.lines if one[0].run.pk not in gone]
    recording.store_logs(connection, [(job.run.pks[job.index], job.try_number, *line) for job, line in lines])


def _record_expansions(connection: Connection, turn: Turn) -> None:
    """Rows of tasks whose number of instances is known now: before anything that changes these rows."""
    for run, expansion in turn.expansions:
        pks = [
            recording.expand_instance(connection, run.pk, run.pks[task], task_facts(run.prepared, task), expansion.size)
            for task in expansion.tasks
        ]
        run.add_instances(expansion, pks)
