"""What is told of a turn: in the logs of tasks, and to whoever listens to a run."""

from __future__ import annotations

from liteflow.execution.active import ActiveRun, Listener, RunEvent
from liteflow.execution.clock import Clock
from liteflow.execution.jobs import Job, LogLine, Outcome
from liteflow.execution.turn import Turn
from liteflow.states import EndReason, RunState, TaskInstanceState


def explain(job: Job, outcome: Outcome, turn: Turn, reported: set[int], clock: Clock) -> None:
    """Lines that liteflow itself adds to a task's log. `reported` are the functions whose loading error was told."""
    if outcome.state is TaskInstanceState.SUCCESS and not job.log_cut:
        return  # most of them
    now_us = clock.now_us()
    if outcome.load_trace and job.code_number not in reported:
        reported.add(job.code_number)
        for text in outcome.load_trace.rstrip("\n").split("\n"):
            turn.lines.append((job, LogLine(now_us, 40, "liteflow.task", text)))
    if outcome.reason in (EndReason.CRASHED, EndReason.TIMEOUT, EndReason.CANCELLED) and outcome.error:
        turn.lines.append((job, LogLine(now_us, 40, "liteflow.task", outcome.error)))
    if job.log_cut:
        text = (
            f"... {job.log_cut:,} more characters were cut: the log of one try is kept up to "
            f"log_cap_bytes={job.log_cap_bytes:,}"
        )
        turn.lines.append((job, LogLine(now_us, 30, "liteflow.task", text)))


def tell(turn: Turn) -> None:
    """After the commit: tell whoever listens."""
    for run in turn.begun:
        run.tell(RunEvent("run", state=RunState.RUNNING))
    for run in turn.taken_up:
        run.tell(RunEvent("run", state=RunState.RUNNING))
        for index, stood in enumerate(run.core.states):
            if stood.is_terminal and run.listeners:
                run.tell(RunEvent("kept", run.task(index).task_id, run.map_index(index), stood))
    for run, expansion in turn.expansions:
        for task in expansion.tasks:
            run.tell(RunEvent("expanded", run.prepared.tasks[task].task_id, size=expansion.size))
    for job, line in turn.lines:
        if job.run.listeners:
            job.run.tell(RunEvent("line", job.name, job.map_index, try_number=job.try_number, text=line.text))
    for job, outcome, change in turn.ended:
        if job.run.listeners:
            took = (outcome.ended_us - outcome.started_us) / 1e6 if outcome.ended_us and outcome.started_us else None
            where = (job.name, job.map_index)
            job.run.tell(RunEvent("task", *where, change.state, job.try_number, change.reason, outcome.error, took))
    for run, change in turn.changes:
        if run.listeners:
            where = (run.task(change.index).task_id, run.map_index(change.index))
            number = run.core.try_numbers[change.index]
            run.tell(RunEvent("task", *where, change.state, number, change.reason, change.error))
    for claim in turn.claims:
        run, index = claim.run, claim.index
        if run.listeners:
            where = (run.task(index).task_id, run.map_index(index))
            run.tell(RunEvent("task", *where, TaskInstanceState.RUNNING, run.core.try_numbers[index]))
    for run in turn.over:
        state, reason = run.core.outcome()
        run.tell(RunEvent("run", state=state, end_reason=reason))


def tell_standing(run: ActiveRun, listener: Listener, *, has_begun: bool) -> None:
    """After the commit: tell one that begins to listen where the run stands."""
    events = [RunEvent("run", state=RunState.RUNNING if has_begun else RunState.QUEUED)]
    for index, state in enumerate(run.core.states):
        if state is not TaskInstanceState.PENDING:
            number = run.core.try_numbers[index]
            events.append(RunEvent("task", run.task(index).task_id, run.map_index(index), state, number))
    if run.core.finished and not run.open_callbacks:
        state_of_run, reason = run.core.outcome()
        events.append(RunEvent("run", state=state_of_run, end_reason=reason))
    for event in events:
        listener(event)
