"""The loop that drives runs: one turn after the other, in the service's one thread.

Each turn it collects every outcome that is there, asks the core of each run what follows, and then, in *one*
transaction, records outcomes with their XComs and logs, writes the new states and claims the next task instances;
after the commit it submits what it claimed. Nothing starts before its claim is committed, and nothing downstream starts
before the result is. What is in memory is ahead of the database only inside a turn: when a commit fails, the
service gives up and kills what runs, so nothing goes on that is not recorded.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from liteflow.authoring.xcomarg import RETURN_VALUE
from liteflow.errors import (
    DagError,
    LeaseLostError,
    LiteflowError,
    MissingMainGuard,
    RunInterruptedError,
    StorageError,
)
from liteflow.execution import recorder, telling
from liteflow.execution.active import ActiveRun
from liteflow.execution.admission import Admission
from liteflow.execution.answering import answer
from liteflow.execution.choosing import Chooser
from liteflow.execution.clock import HOST_CLOCK, Clock
from liteflow.execution.jobs import Engine, Events, Job, LogLine, Outcome
from liteflow.execution.liveness import OWNER_DIED
from liteflow.execution.making import JobMaker
from liteflow.execution.past import past_of
from liteflow.execution.retention import Retention
from liteflow.execution.turn import Claim, DueCallback, Turn
from liteflow.execution.waiting import Waiting
from liteflow.scheduling.core import Change, Ended
from liteflow.scheduling.skips import DECISION_KEY, decision_value, skipped_by
from liteflow.states import EndReason, RunState, TaskInstanceState
from liteflow.storage import leases, recording
from liteflow.storage.xcoms import encode

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.execution.active import Listener, Stored
    from liteflow.execution.pools import PoolGuard
    from liteflow.execution.recovery import TakenUp
    from liteflow.execution.triggering import Triggering
    from liteflow.storage.engine import Database

_S = TaskInstanceState

_CALLBACK_KINDS = {
    _S.SUCCESS: "on_success",
    _S.FAILED: "on_failure",
    _S.UP_FOR_RETRY: "on_retry",
    _S.SKIPPED: "on_skipped",
}

_RUN_REASONS: dict[EndReason | None, str] = {
    EndReason.TIMEOUT: "timed_out",
    EndReason.CANCELLED: "cancelled",
    EndReason.FAIL_FAST: "fail_fast",
}
"""What the dag's own callbacks are told; Airflow's words where it has any."""

STARTED_AFTER_S = 0.1
"""How long a job has run when it is recorded as started, if nothing else is recorded before."""
CALLBACK_POLL_S = 0.02
"""How often it looks whether a callback has room."""
IDLE_POLL_S = 0.1
"""How often the loop looks whether another process has written to the database."""
LOOK_AGAIN_S = 1.0
"""How often it counts again what of pools is free, and asks for the runs before, though nothing was written: an owner
may have died."""
TEARDOWN_GRACE_S = 300.0
"""How long teardowns may take in all after their run was ended early."""
BREAK_GRACE_S = 5.0
"""How long what runs elsewhere may go on when an engine is broken."""
MOST_REST_S = 10.0
"""How long the loop sleeps at the most when it has no run."""

_RUN_TIMEOUT, _HARD_END = -1, -2
"""In place of a task instance in a timer: the run's own limit, and the end of its teardowns' grace."""

Command = Callable[[Turn], None]
Recover = Callable[[], "tuple[list[TakenUp], bool]"]
"""Takes up runs that have lost their owner, and that the service knows; tells whether there are no more."""


class Loop:
    """Drives the runs of one service over one engine. Other threads only `tell` it things."""

    def __init__(
        self,
        engine: Engine,
        database: Database,
        executor_pk: int,
        pools: PoolGuard,
        recover: Recover | None = None,
        *,
        clock: Clock = HOST_CLOCK,
        is_alone: bool = False,
        triggering: Triggering | None = None,
    ) -> None:
        self._engine = engine
        self._database = database
        self._executor_pk = executor_pk
        self._pools = pools
        self._recover = recover
        self._clock = clock
        self._is_alone = is_alone
        """Whether nobody else can write to the database: then there is nothing to look out for."""
        self._triggering = triggering
        """Begins runs that tasks wish for; without it none is begun."""
        self._waiting = Waiting(database.path, executor_pk, counts_itself=recover is not None)
        self.mutex = threading.Lock()
        """Guards what other threads hand in."""
        self.inbox: deque[tuple[Command, ActiveRun | None]] = deque()
        """What the loop is told to do, and the run that it is to begin."""
        self.is_closed = False
        """Whether it takes nothing more."""
        self.is_stopping = False
        self.broken: BaseException | None = None
        """Why it gave up."""
        self.lost: StorageError | None = None
        """Why it must give up, as soon as it can."""
        self.why_broken: str | None = None
        """Why its engine can run nothing more, in words; then it ends as it does when it is interrupted."""
        self.is_interrupted = False
        """Whether it ends without waiting for its runs, which can be taken up again."""
        self.wakes_nobody = False
        """Whether those who wait for its runs are left to wait, since the interpreter ends."""
        self.must_kill = False
        """Whether it ends without waiting for what runs."""
        # From here on its own thread's.
        self.runs: dict[int, ActiveRun] = {}
        self._admission = Admission(database, executor_pk)
        self._chooser = Chooser(engine, pools)
        self._maker = JobMaker()
        self._retention = Retention(database, executor_pk)
        self._timers: list[tuple[float, int, int]] = []
        """When a retry or look is due, of which run, which task instance."""
        self._jobs: dict[tuple[int, int], Job] = {}
        """By run and number of the task instance."""
        self._calling: dict[int, Job] = {}
        """Callbacks that wait or run, by the number of their job."""
        self._fresh: list[Job] = []
        """Jobs that have started, which is not recorded yet."""
        self._reported_traces: set[int] = set()
        self._seen_version = -1
        self._next_look = 0.0
        self._look_again_at = 0.0
        self._recover_at = 0.0
        self._kill_at = math.inf
        """When what still runs is told to end, after an interrupt."""

    # What other threads call

    def tell(self, what: Command, run: ActiveRun | None = None) -> bool:
        """Have the loop do something; False when it takes nothing more."""
        with self.mutex:
            if self.is_closed:
                return False
            self.inbox.append((what, run))
        self._engine.wake()
        return True

    def begin(self, run: ActiveRun) -> bool:
        """Have it drive a run that is recorded as queued; False when it takes nothing more."""
        return self.tell(lambda turn: self._let_in(run, turn), run)

    def adopt(self, taken: TakenUp) -> bool:
        """Have it go on with a run that was taken up; False when it takes nothing more."""
        return self.tell(lambda turn: self._adopt(taken, turn), taken.run)

    def interrupt(self, grace_s: float) -> None:
        """Have it end, with its runs left to be taken up again: no more claims, and what still runs after `grace_s`
        seconds is told to end."""
        self.tell(lambda _turn: self._interrupt(grace_s))

    def kill(self) -> None:
        """Have it end as `interrupt` does, with what runs killed at once. Takes no lock: a signal handler may call."""
        self.must_kill = True
        self._engine.wake()

    def lose(self, error: StorageError) -> None:
        """Have it give up, with what runs killed at once, whatever it is doing. From any thread."""
        self.lost = error
        self._engine.kill()
        self._database.abandon(error)
        self._engine.wake()

    def cancel(self, run: ActiveRun) -> None:
        """Have it end a run."""
        self.tell(lambda turn: self._cancel_of(run.pk, turn))

    def listen(self, run: ActiveRun, listener: Listener) -> None:
        """Have `listener` told of a run: first where it stands, then everything that happens. Nothing is told of one
        that the loop does not drive."""
        self.tell(lambda turn: turn.listening.append((run, listener)))

    def stop(self, *, cancel: bool) -> None:
        """Have it end once all runs are over; with `cancel` they are ended first."""
        if cancel:
            self.tell(self._cancel_all)
        self.tell(self._note_stop)

    # The turn

    def run(self) -> None:
        """Turn until it is told to stop and nothing is left. What goes wrong ends in `broken`."""
        try:
            while not self._may_end():
                self._turn()
            self._leave()
        except BaseException as error:
            self._give_up(error)

    def _may_end(self) -> bool:
        with self.mutex:
            is_idle = not (self.runs or self._admission.waiting)
            is_idle |= self.is_interrupted and (self.must_kill or not self._in_hand())
            self.is_closed = self.is_stopping and is_idle and not self.inbox
            return self.is_closed

    def _in_hand(self) -> bool:
        """Whether the engine has a job."""
        return bool(self._jobs or self._calling)

    def _turn(self) -> None:
        turn = Turn()
        events = self._engine.poll(self._patience())
        if self.lost is not None:
            raise self.lost
        with self.mutex:
            inbox, self.inbox = self.inbox, deque()
        for what, _ in inbox:
            what(turn)
        if self.must_kill and not self.is_interrupted:
            self._interrupt(0.0)
        if events.broken is not None and self.why_broken is None:
            self.why_broken = events.broken
            self._interrupt(BREAK_GRACE_S)
        self._answer(events)
        self._take_events(events, turn)
        self._ring_timers(turn)
        self._look_around(turn)
        self._admit(turn)
        self._settle(turn)
        if not self.is_interrupted:
            self._chooser.choose(turn)
        self._note_started(turn)
        jobs = self._commit(turn) if turn else []
        for vacancy, several in _by_vacancy([*turn.placed, *jobs]).items():
            self._engine.submit(vacancy, several)
        if any(run.listeners for run in self.runs.values()):
            telling.tell(turn)
        for run, listener in turn.listening:
            if run.pk in self.runs or run in self._admission.waiting:
                telling.tell_standing(run, listener, has_begun=run.pk in self.runs)
                run.listeners.append(listener)
        for run in turn.over:
            self._forget(run)
            self._wake_waiters(run)
            run.end()
            self._retention.note(run)
        if self._retention.is_due and not self.is_stopping:
            self._retention.step(is_busy=bool(self.runs), is_free=not turn)

    def _patience(self) -> float:
        """How long the loop may sleep."""
        if self.inbox or self._chooser.callbacks:
            return 0.0 if self.inbox or self._is_alone else CALLBACK_POLL_S
        has_runs = bool(self.runs or self._admission.waiting)
        wait = math.inf if self._is_alone else IDLE_POLL_S if has_runs else MOST_REST_S
        if self._recover is not None and not self.is_stopping:
            wait = min(wait, max(0.0, self._recover_at - self._clock.monotonic()))
        if self._fresh:
            wait = min(wait, STARTED_AFTER_S)
        if self._retention.is_due:
            wait = min(wait, self._retention.wait_s(is_busy=bool(self.runs)))
        due = min(self._kill_at, self._timers[0][0] if self._timers else math.inf)
        if due < math.inf:
            wait = min(wait, max(0.0, due - self._clock.monotonic()))
        return wait

    def _answer(self, events: Events) -> None:
        """Answer what running tasks want to know of others."""
        if not events.questions:
            return
        others = []
        for job, number, question in events.questions:
            if question[0] == "trigger":
                self._engine.answer(job, number, self.answer_now(job, question))
            else:
                others.append((job, number, question))

        def answers(connection: Connection) -> list[tuple[Any, ...]]:
            return [self._answer_from(connection, job, question) for job, _, question in others]

        for (job, number, _), told in zip(others, self._database.look(answers) if others else (), strict=True):
            self._engine.answer(job, number, told)

    def answer_now(self, job: Job, question: tuple[Any, ...]) -> tuple[Any, ...]:
        """The answer to what a running task wants to know: also for an engine that runs jobs while it is polled."""
        if question[0] == "trigger" and self._triggering is not None:
            return self._trigger(job, self._triggering, question)
        return self._database.look(lambda connection: self._answer_from(connection, job, question))

    def _answer_from(self, connection: Connection, job: Job, question: tuple[Any, ...]) -> tuple[Any, ...]:
        dags = {} if self._triggering is None else {"find_dag": self._triggering.find_dag}
        return answer(connection, question, job.run.logical_date_us, **dags)

    def _trigger(self, job: Job, triggering: Triggering, question: tuple[Any, ...]) -> tuple[Any, ...]:
        """Begin the run that a task wishes for, or go on with it."""
        from liteflow.execution.triggering import Wish

        told, begun = triggering.grant(job, Wish(*question[1:]))
        if isinstance(begun, ActiveRun):
            self.begin(begun)
        elif begun is not None:
            self.adopt(begun)
        return told

    def _wake_waiters(self, run: ActiveRun) -> None:
        """Task instances that wait for a run that is over look now, or when their look that goes on is over."""
        for waiter, index in self._triggering.waiters_of(run) if self._triggering is not None else ():
            if self.runs.get(waiter.pk) is not waiter:
                continue
            if waiter.core.states[index] is _S.UP_FOR_RESCHEDULE:
                # The timer of the look that was due goes: it would ring for whatever the task instance waits for then.
                self._timers = [one for one in self._timers if one[1:] != (waiter.pk, index)]
                self._timers.append((self._clock.monotonic(), waiter.pk, index))
                heapq.heapify(self._timers)
            else:
                waiter.look_at_once.add(index)

    def _let_in(self, run: ActiveRun, turn: Turn) -> None:
        """Begin a run, or have it wait until its dag's other runs are over."""
        if run.dag.max_active_runs is None:
            self._begin(run, turn)
        else:
            self._admission.add(run)

    def _admit(self, turn: Turn) -> None:
        """Begin the runs that may by now."""
        if not self._admission.is_due or not self._admission.waiting or self.is_interrupted:
            return
        begun, lost = self._admission.admit(self._clock.now_us())
        for run in begun:
            self._begin(run, turn)
        for run in lost:
            run.end()

    def _begin(self, run: ActiveRun, turn: Turn) -> None:
        self.runs[run.pk] = run
        self._chooser.add(run)
        turn.begun.append(run)
        if run.dag.dagrun_timeout_s is not None:
            heapq.heappush(self._timers, (self._clock.monotonic() + run.dag.dagrun_timeout_s, run.pk, _RUN_TIMEOUT))
        self._apply(run, run.core.start(), turn)

    def _adopt(self, taken: TakenUp, turn: Turn) -> None:
        """Go on with a run that was taken up, and is recorded as ours."""
        run = taken.run
        self.runs[run.pk] = run
        self._chooser.add(run)
        turn.taken_up.append(run)
        now = self._clock.monotonic()
        if run.dag.dagrun_timeout_s is not None:
            heapq.heappush(self._timers, (now + run.dag.dagrun_timeout_s, run.pk, _RUN_TIMEOUT))
        for index, delay_s in taken.delays_s:
            sensor = run.task(index).sensor
            is_urgent = sensor is not None and sensor.looks_when_taken_up
            if is_urgent and run.core.states[index] is _S.UP_FOR_RESCHEDULE:
                delay_s = 0.0
            heapq.heappush(self._timers, (now + delay_s, run.pk, index))
        for key, due in taken.due:
            run.open_callbacks += 1
            run.called_for_end |= due.kind.startswith("dag_")
            self._chooser.callbacks.append(self._make_callback(due, key))
        for index in taken.given_up:
            self._note_callbacks(run, index, "on_failure", turn, str(_S.FAILED), OWNER_DIED)
        self._apply(run, run.core.start(taken.decided), turn)
        self._end_running(run)

    def _apply(self, run: ActiveRun, changes: list[Change], turn: Turn) -> None:
        """Take in what the core decided beside the tries that ended, and what follows from that."""
        run.note(changes)
        turn.changes += [(run, change) for change in changes]
        while units := run.core.expansions():
            for unit in units:
                expansion = run.core.expand(unit, run.length_of(unit))
                if expansion.tasks:
                    run.count_on(expansion)
                    turn.expansions.append((run, expansion))
                run.note(expansion.changes)
                turn.changes += [(run, change) for change in expansion.changes]

    def _take_events(self, events: Events, turn: Turn) -> None:
        self._fresh += [
            job for job in events.started if job.callback_id is None and self.runs.get(job.run.pk) is job.run
        ]
        turn.lines += events.lines
        by_run: dict[int, list[tuple[Job, Outcome]]] = {}
        finished = [one for one in events.finished if not self._was_interrupted(*one)]
        for job, outcome in finished:
            if job.callback_id is not None:
                self._take_called(job, outcome, turn)
            else:
                by_run.setdefault(job.run.pk, []).append((job, outcome))
        for job in events.returned:
            if self.is_interrupted:
                self._let_go(job)
            elif job.callback_id is not None:
                self._chooser.callbacks.append(job)
            elif job.kill_reason is None:
                self._chooser.unplaced.append(job)
            else:  # cancelled, mostly before it had begun
                state = _S.SKIPPED if job.started_at is None else _S.FAILED
                outcome = Outcome(state, job.kill_reason, started_us=job.started_us)
                by_run.setdefault(job.run.pk, []).append((job, outcome))
        for ended in by_run.values():
            run: ActiveRun = ended[0][0].run
            if self.runs.get(run.pk) is run:
                self._take_ended(run, ended, turn)

    def _note_started(self, turn: Turn) -> None:
        """Record that jobs have started along with something else or, when there is nothing, a little later.

        Most tiny tasks have ended by then, and cost one transaction instead of two.
        """
        self._fresh = [job for job in self._fresh if self._jobs.get((job.run.pk, job.index)) is job]
        if not self._fresh:
            return
        oldest = self._fresh[0].started_at or 0.0
        if turn or self._clock.monotonic() - oldest >= STARTED_AFTER_S:
            turn.started, self._fresh = self._fresh, []

    def _take_ended(self, run: ActiveRun, ended: list[tuple[Job, Outcome]], turn: Turn) -> None:
        events = []
        outcomes: dict[int, tuple[Job, Outcome]] = {}
        for job, told in ended:
            self._jobs.pop((run.pk, job.index), None)
            run.running.discard(job.index)
            self._pools.ended(run.ready.gate_of(job.index))
            self._chooser.learn(job, told)
            outcome, skip = self._decided(job, told)
            telling.explain(job, outcome, turn, self._reported_traces, self._clock)
            if outcome.reason is EndReason.CRASHED:
                run.alone.add(job.index)
            if outcome.guard is not None:
                message, file, line = outcome.guard
                run.error = MissingMainGuard(message, file=file, line=line)
            outcomes[job.index] = (job, outcome)
            event = Ended(
                job.index,
                outcome.state,
                outcome.reason,
                outcome.may_retry,
                outcome.delay_s,
                skip,
                outcome.blameless,
            )
            events.append(event)
        own, others = [], []
        for change in run.core.apply(events):
            if change.index in outcomes:
                job, outcome = outcomes.pop(change.index)
                self._take_try(run, job, outcome, change, turn)
                own.append(change)
            else:
                others.append(change)
        run.note(own)
        self._apply(run, others, turn)
        if run.error is not None:
            self._end_early(run, EndReason.ERROR, turn, spare_teardowns=False)
        elif run.core.ending is not None:
            self._end_running(run)

    def _take_try(self, run: ActiveRun, job: Job, outcome: Outcome, change: Change, turn: Turn) -> None:
        """A try has ended, and the core has said what its task instance is now."""
        if change.state.is_terminal:
            run.keep_values(job.index, outcome)
        turn.ended.append((job, outcome, change))
        is_awaited_over = job.index in run.look_at_once
        run.look_at_once.discard(job.index)
        if change.state in (_S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE):
            delay_s = 0.0 if is_awaited_over and change.state is _S.UP_FOR_RESCHEDULE else change.delay_s
            heapq.heappush(self._timers, (self._clock.monotonic() + delay_s, run.pk, change.index))
        if change.state is _S.UP_FOR_RESCHEDULE:
            run.first_look_us.setdefault(job.index, outcome.started_us or self._clock.now_us())
            run.looks[job.index] = run.looks.get(job.index, 0) + 1
        else:
            run.first_look_us.pop(job.index, None)
            run.looks.pop(job.index, None)
        kind = _CALLBACK_KINDS.get(change.state) if run.prepared.callbacks else None
        if kind is not None:
            self._note_callbacks(run, job.index, kind, turn, str(change.state), outcome.error, outcome.exception)

    def _decided(self, job: Job, outcome: Outcome) -> tuple[Outcome, Sequence[int]]:
        """What a branch or short circuit decided: the numbers of the tasks to skip, kept with the run as an XCom.

        A branch that chose what there is not has failed.
        """
        if outcome.chosen is None or outcome.state is not _S.SUCCESS:
            return outcome, ()
        prepared = job.run.prepared
        task = job.run.task(job.index)
        try:
            skipped = skipped_by(task, prepared.downstream, outcome.chosen)
        except DagError as error:
            pushed = [xcom for xcom in outcome.xcoms if xcom[0] != RETURN_VALUE]  # as of any try that raised
            failed = outcome._replace(state=_S.FAILED, reason=EndReason.ERROR, error=str(error), xcoms=pushed)
            return failed, ()
        kept = (DECISION_KEY, *encode(decision_value(task, outcome.chosen, skipped)))
        return outcome._replace(xcoms=(*outcome.xcoms, kept)), [prepared.number_of[task_id] for task_id in skipped]

    # Callbacks

    def _note_callbacks(
        self,
        run: ActiveRun,
        index: int,
        kind: str,
        turn: Turn,
        state: str,
        reason: str | None,
        exception: bytes | None = None,
    ) -> None:
        """Callbacks of that kind are due, if there are any; they get a slot once that is recorded."""
        if not run.prepared.callbacks:
            return
        task = -1 if kind.startswith("dag_") else run.core.task_of[index]
        functions = run.prepared.callbacks.get((task, kind), ())
        run.open_callbacks += len(functions)
        turn.callbacks += [
            DueCallback(run, index, kind, number, run.core.try_numbers[index], state, reason, exception)
            for number in range(len(functions))
        ]

    def _take_called(self, job: Job, outcome: Outcome, turn: Turn) -> None:
        """A callback has ended; how, changes nothing but the log."""
        if self._calling.pop(job.number, None) is None:
            return
        assert job.callback_id is not None
        turn.called.append(job.callback_id)
        job.run.open_callbacks -= 1
        if outcome.state is not _S.SUCCESS:
            how = "failed" if outcome.reason in (None, EndReason.ERROR) else "was ended"
            text = f"the callback {how}: {outcome.error or outcome.reason or outcome.state}"
            turn.lines.append((job, LogLine(self._clock.now_us(), 40, "liteflow.task", text)))

    # Timers, and what others ask for

    def _ring_timers(self, turn: Turn) -> None:
        now = self._clock.monotonic()
        if now >= self._kill_at:
            self._end_the_rest()
        while self._timers and self._timers[0][0] <= now:
            _, pk, index = heapq.heappop(self._timers)
            run = self.runs.get(pk)
            if run is None:
                continue
            if index == _RUN_TIMEOUT:
                self._end_early(run, EndReason.TIMEOUT, turn)
            elif index == _HARD_END:
                if run.core.ending is not None:
                    self._end_early(run, run.core.ending, turn, spare_teardowns=False)
            else:
                self._apply(run, run.core.due(index), turn)

    def _look_around(self, turn: Turn) -> None:
        """See whether another process asked for something. A number tells whether anything was written at all."""
        now = self._clock.monotonic()
        if self._recover is not None and now >= self._recover_at and not self.is_stopping:
            found, is_through = self._recover()
            self._recover_at = now + LOOK_AGAIN_S if is_through else now
            for taken in found:
                self._adopt(taken, turn)
        if self._is_alone:
            self._ask_for_the_past(turn)
            return
        if not (self.runs or self._admission.waiting) or now < self._next_look:
            return
        self._next_look = now + IDLE_POLL_S
        self._database.refuse_other_file()
        version = self._database.data_version()
        if version == self._seen_version and now < self._look_again_at:
            return
        self._look_again_at = now + LOOK_AGAIN_S
        self._pools.look_again()
        self._admission.is_due = True
        self._ask_for_the_past(turn)
        if version == self._seen_version:
            return
        self._seen_version = version
        wanted, tasks, owned = self._database.look(self._asked_for)
        begun = {run.pk for run in turn.begun}
        lost = [run for run in self.runs.values() if run.pk not in owned and run.pk not in begun]
        if lost:
            self._drop(lost, turn)
        for pk in wanted:
            self._cancel_of(pk, turn)
        for run_pk, task_id, map_index in tasks:
            if run_pk in self.runs:
                self._cancel_instance(self.runs[run_pk], task_id, map_index, turn)

    def _asked_for(self, connection: Connection) -> tuple[list[int], list[tuple[int, str, int]], set[int]]:
        """Runs and task instances that somebody wants to end, and the runs that are ours."""
        return (
            recording.cancel_requested(connection, self._executor_pk),
            recording.cancelled_instances(connection, self._executor_pk),
            recording.owned_runs(connection, self._executor_pk),
        )

    def _ask_for_the_past(self, turn: Turn) -> None:
        """See whether the runs before allow tasks to go that wait for them."""
        wanted = [(run, task) for run in self.runs.values() for task in run.core.past_wanted()]
        if not wanted:
            return
        pasts = self._database.look(
            lambda connection: [past_of(connection, self._waiting, run, task) for run, task in wanted]
        )
        for (run, task), past in zip(wanted, pasts, strict=True):
            if past.is_known:
                self._apply(run, run.core.past_known(task, past.error), turn)

    # Ending

    def _cancel_of(self, pk: int, turn: Turn) -> None:
        """End a run that is driven here, or waits here to begin."""
        waiting = self._admission.pop(pk)
        if waiting is not None:
            self._begin(waiting, turn)  # it is begun only to be ended, whatever else goes on
        if pk in self.runs:
            self._cancel(self.runs[pk], turn)

    def _cancel(self, run: ActiveRun, turn: Turn, *, spare_teardowns: bool = True) -> None:
        self._end_early(run, EndReason.CANCELLED, turn, spare_teardowns=spare_teardowns)

    def _cancel_instance(self, run: ActiveRun, task_id: str, map_index: int, turn: Turn) -> None:
        """End one task instance; the rest of its run goes on by its rules."""
        index = run.index_of(task_id, map_index)
        job = self._jobs.get((run.pk, index))
        if job is None:
            self._apply(run, run.core.cancel([index]), turn)
        elif job in self._chooser.unplaced:
            self._chooser.unplaced.remove(job)
            self._take_ended(run, [(job, Outcome(_S.SKIPPED, EndReason.CANCELLED))], turn)
        else:
            self._engine.cancel(job, EndReason.CANCELLED)

    def _end_early(self, run: ActiveRun, reason: EndReason, turn: Turn, *, spare_teardowns: bool = True) -> None:
        if reason is EndReason.CANCELLED and run.core.ending is None:
            turn.cancelled.append(run)
        self._apply(run, run.core.end_early(reason, spare_teardowns=spare_teardowns), turn)
        self._end_running(run, all_of_it=not spare_teardowns)

    def _end_running(self, run: ActiveRun, *, all_of_it: bool = False) -> None:
        """Tell what runs to end, in a run that is ended early; teardowns go on, for a while."""
        if run.core.ending is None:
            return
        if run.hard_end_at is None:
            run.hard_end_at = self._clock.monotonic() + TEARDOWN_GRACE_S
            heapq.heappush(self._timers, (run.hard_end_at, run.pk, _HARD_END))
        for index in list(run.running):
            job = self._jobs[run.pk, index]
            if job in self._chooser.unplaced or (run.core.is_spared(index) and not all_of_it):
                continue  # the former are skipped by _settle
            job.ended_by_run = job.kill_reason is None
            self._engine.cancel(job, run.core.ending)

    def _settle(self, turn: Turn) -> None:
        """Jobs between two slots whose run is ended early are not begun any more; runs that are over are noted."""
        for job in [job for job in self._chooser.unplaced if job.run.core.ending is not None]:
            if job.run.core.is_spared(job.index) and job.kill_reason is None:
                continue
            self._chooser.unplaced.remove(job)
            job.kill_reason = job.run.core.ending
            self._take_ended(job.run, [(job, Outcome(_S.SKIPPED, job.kill_reason))], turn)
        for run in list(self.runs.values()):
            if run.core.finished and run not in turn.over:
                self._settle_run(run, turn)

    def _settle_run(self, run: ActiveRun, turn: Turn) -> None:
        """Every task instance has ended: now the dag's own callbacks, and after all callbacks the run is over."""
        if not run.called_for_end:
            run.called_for_end = True
            state, reason = run.core.outcome()
            failed = state is RunState.FAILED
            # Airflow gives the context of the task instance that ended last in the run's own state.
            of_state = run.last_of.get(_S.FAILED if failed else _S.SUCCESS)
            index = of_state if of_state is not None else next(iter(run.last_of.values()), None)
            if index is not None:
                words = _RUN_REASONS.get(reason, "task_failure") if failed else "success"
                self._note_callbacks(
                    run, index, "dag_on_failure" if failed else "dag_on_success", turn, str(state), words
                )
        if not run.open_callbacks:
            turn.over.append(run)

    # Recording

    def _commit(self, turn: Turn) -> list[tuple[int, Job]]:
        """Record the turn in one transaction; returns what it claimed, with the vacancy of each."""
        durable = bool(turn.over) or any(run.dag.durability == "full" for run in self.runs.values())
        if durable:
            self._database.refuse_other_file()
        # Only what is claimed of pools is a matter between services: all else is about runs of this one alone.
        takes_of_pools = any(claim.run.ready.gate_of(claim.index).pool is not None for claim in turn.claims)
        due, stored = self._database.attempt(
            lambda connection: self._record(connection, turn), durable=durable, shared=not takes_of_pools
        )
        jobs = [(claim.vacancy, self._make_try(claim, stored)) for claim in turn.claims]
        if not self.is_interrupted:  # else they are called when the run goes on
            called = zip(turn.callbacks, due, strict=True)
            self._chooser.callbacks += [self._make_callback(one, key) for one, key in called]
        return jobs

    def _record(self, connection: Connection, turn: Turn) -> tuple[list[int], Stored]:
        """The transaction of a turn, which may come to nothing and be done once more: the keys of the callbacks that
        are due, and the stored values that the claims need."""
        if self.lost is not None:
            raise self.lost
        if self._database.has_leases:
            leases.refuse_lost(connection, self._executor_pk, self._database.path)
        lost = self._lost_runs(connection, turn)
        if lost:
            self._drop(lost, turn)
        now_us = self._clock.now_us()
        due = recorder.record(connection, turn, self._executor_pk, self._pools, self.runs.values(), now_us)
        return due, self._stored_inputs(connection, turn)

    def _make_try(self, claim: Claim, stored: Stored) -> Job:
        run, index = claim.run, claim.index
        job = self._jobs[run.pk, index] = self._maker.try_of(run, index, stored, claim.expected_s)
        return job

    def _make_callback(self, due: DueCallback, key: int) -> Job:
        job = self._maker.callback_of(due, key)
        self._calling[job.number] = job
        return job

    def _lost_runs(self, connection: Connection, turn: Turn) -> list[ActiveRun]:
        """Runs that are no longer ours: taken over by another service, deleted, or cancelled before they began."""
        lost = [
            run
            for run in turn.begun
            if not recording.own_run(connection, run.pk, self._executor_pk, self._clock.now_us())
        ]
        owned = recording.owned_runs(connection, self._executor_pk)
        return lost + [run for run in self.runs.values() if run.pk not in owned and run not in lost]

    def _drop(self, lost: list[ActiveRun], turn: Turn) -> None:
        """Forget runs that are not ours: nothing of them is recorded, and what runs is ended."""
        pks = {run.pk for run in lost}
        turn.drop(pks)
        self._chooser.unplaced = deque(job for job in self._chooser.unplaced if job.run.pk not in pks)
        self._chooser.callbacks = deque(job for job in self._chooser.callbacks if job.run.pk not in pks)
        for job in [job for job in self._calling.values() if job.run.pk in pks]:
            del self._calling[job.number]
            self._engine.cancel(job, EndReason.LOST)
        for run in lost:
            for index in run.running:
                job_of_try = self._jobs.pop((run.pk, index), None)
                if job_of_try is not None:
                    self._engine.cancel(job_of_try, EndReason.LOST)
            self._forget(run)
            run.end()

    def _forget(self, run: ActiveRun) -> None:
        self.runs.pop(run.pk, None)
        self._chooser.remove(run)
        self._admission.is_due = True

    def _stored_inputs(self, connection: Connection, turn: Turn) -> Stored:
        missing = {pk for claim in turn.claims for pk in claim.run.missing_values(claim.index)}
        return recording.fetch_xcoms(connection, missing) if missing else {}

    # Stopping

    def _interrupt(self, grace_s: float) -> None:
        """Claim nothing more; what is claimed and has not begun is let go."""
        self.is_stopping = self.is_interrupted = True
        self._engine.replace_no_more()  # from Python 3.12 on no process can be started when the interpreter ends
        self._kill_at = min(self._kill_at, self._clock.monotonic() + grace_s)
        for job in [*self._chooser.unplaced, *self._chooser.callbacks]:
            self._let_go(job)
        self._chooser.unplaced.clear()
        self._chooser.callbacks.clear()
        for job in [*self._jobs.values(), *self._calling.values()]:
            if not self._engine.has_begun(job):
                self._engine.cancel(job, EndReason.CANCELLED)

    def _end_the_rest(self) -> None:
        """The grace after an interrupt is over: what still runs is told to end."""
        self._kill_at = math.inf
        for job in [*self._jobs.values(), *self._calling.values()]:
            self._engine.cancel(job, EndReason.CANCELLED)

    def _was_interrupted(self, job: Job, outcome: Outcome) -> bool:
        """Whether a job ended only because the service does: then its task instance is put back when that is done."""
        if not self.is_interrupted or outcome.reason is not EndReason.CANCELLED or job.run.core.ending is not None:
            return False
        self._let_go(job)
        return True

    def _let_go(self, job: Job) -> None:
        """What becomes of the job is not recorded; what is recorded of it is put back at the end."""
        self._calling.pop(job.number, None)
        if self._jobs.get((job.run.pk, job.index)) is job:
            del self._jobs[job.run.pk, job.index]
            job.run.running.discard(job.index)

    def _leave(self) -> None:
        """The loop ends in good order; runs that are not over can be taken up again."""
        if not self.is_interrupted:
            self._retention.finish(lambda: self.must_kill)
        why = self.why_broken or "its service was stopped"
        for run in [*self.runs.values(), *self._admission.waiting]:
            run.error = RunInterruptedError(
                f"run {run.run_id!r} of dag {run.dag.dag_id!r} is not finished: {why}. "
                f"Go on with it: dag.resume({run.run_id!r})",
                run_id=run.run_id,
            )
            if not self.wakes_nobody:
                run.end()

    def _note_stop(self, _turn: Turn) -> None:
        self.is_stopping = True

    def _cancel_all(self, turn: Turn) -> None:
        for pk in [*self.runs, *(run.pk for run in self._admission.waiting)]:
            self._cancel_of(pk, turn)

    def _give_up(self, error: BaseException) -> None:
        """The loop cannot go on: its runs stay as they are recorded, and whoever waits for them is told why."""
        self.broken = error
        with self.mutex:
            self.is_stopping = self.is_closed = True
            waiting = [run for _, run in self.inbox if run is not None]
            self.inbox.clear()
        for run in [*self.runs.values(), *self._admission.waiting, *waiting]:
            run.error = _why_given_up(run, error)
            if not self.wakes_nobody:
                run.end()


def _why_given_up(run: ActiveRun, error: BaseException) -> LiteflowError:
    """What whoever waits for a run is told when its service has given up."""
    if isinstance(error, LeaseLostError):
        return RunInterruptedError(
            f"run {run.run_id!r} of dag {run.dag.dag_id!r} is not finished: {error}. Go on with it: "
            f"dag.resume({run.run_id!r})",
            run_id=run.run_id,
        )
    return error if isinstance(error, LiteflowError) else _bug(run, error)


def _bug(run: ActiveRun, error: BaseException) -> RunInterruptedError:
    wrapped = RunInterruptedError(
        f"run {run.run_id!r} of dag {run.dag.dag_id!r} is not finished: its service broke ({type(error).__name__}: "
        f"{error}), which is a mistake in liteflow. Go on with it: dag.resume({run.run_id!r})",
        run_id=run.run_id,
    )
    wrapped.__cause__ = error
    return wrapped


def _by_vacancy(pairs: list[tuple[int, Job]]) -> dict[int, list[Job]]:
    found: dict[int, list[Job]] = {}
    for vacancy, job in pairs:
        found.setdefault(vacancy, []).append(job)
    return found
