"""The executor service: one loop in one thread that drives runs over one set of slots.

Each turn it collects every outcome that is there, asks the core of each run what follows, and then, in *one*
transaction, records outcomes with their XComs and logs, writes the new states and claims the next task instances;
after the commit it submits what it claimed. Nothing starts before its claim is committed, and nothing downstream starts
before the result is. What is in memory is ahead of the database only inside a turn: when a commit fails, the
service gives up and kills what runs, so nothing goes on that is not recorded.
"""

from __future__ import annotations

import heapq
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from liteflow.authoring.dag import Dag
from liteflow.authoring.dagfile import refuse_while_loading
from liteflow.authoring.task import Task
from liteflow.errors import (
    LiteflowError,
    MetadataOnlyError,
    MissingMainGuard,
    ServiceError,
)
from liteflow.execution.code import Code, describe
from liteflow.execution.cpus import usable_cpus
from liteflow.execution.foreign import ForeignEngine
from liteflow.execution.handle import RunHandle
from liteflow.execution.jobs import Engine, Events, Job, LogLine, Outcome
from liteflow.execution.requests import check_request, dag_facts, refuse_conflict
from liteflow.execution.slots import SlotEngine
from liteflow.states import EndReason, RunState, TaskInstanceState

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from liteflow.execution.active import ActiveRun, Listener, PreparedDag
    from liteflow.execution.liveness import OwnLock
    from liteflow.storage.engine import Database
    from liteflow.storage.history import History

_S = TaskInstanceState

CHUNK_S = 0.004
"""How much expected work a slot is given at once."""
CHUNK_JOBS = 64
MOST_PREPARED_DAGS = 64
"""How many dags are kept ready; older ones are made ready again when they are submitted again."""
STARTED_AFTER_S = 0.02
"""How long a job has run when it is recorded as started, if nothing else is recorded before."""
IDLE_POLL_S = 0.1
"""How often the loop looks whether another process has written to the database."""


@dataclass(slots=True)
class Turn:
    """What one turn of the loop has to record, and to tell afterwards."""

    started: list[Job] = field(default_factory=list)
    ended: list[tuple[Job, Outcome, Any]] = field(default_factory=list)
    """With the core's change."""
    changes: list[tuple[ActiveRun, Any]] = field(default_factory=list)
    lines: list[tuple[Job, LogLine]] = field(default_factory=list)
    claims: list[tuple[int, ActiveRun, int]] = field(default_factory=list)
    """Vacancy, run, number of the task instance."""
    placed: list[tuple[int, Job]] = field(default_factory=list)
    """Jobs that are claimed already and go to another slot."""
    begun: list[ActiveRun] = field(default_factory=list)
    over: list[ActiveRun] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.started or self.ended or self.changes or self.lines or self.claims or self.begun or self.over)


class ExecutorService:
    """Runs dags over one set of slots, several runs at once, until it is stopped.

        with ExecutorService("etl.db", max_workers=4) as service:
            handle = service.submit(dag, {"day": "2026-01-01"})
            run = handle.wait()

    `db_path`: the database, default `$LITEFLOW_DB`, else `liteflow.db`; created if it is missing. `dags`: known from
    the start; `submit` makes its dag known too. `max_workers`: the number of slots, default the usable CPUs.
    `executor`: any `concurrent.futures.Executor` in the place of slots; it is not shut down.

    Leaving the `with` block waits for the runs that were submitted; an exception that leaves it cancels them.
    """

    def __init__(
        self,
        db_path: str | os.PathLike[str] | None = None,
        *,
        dags: Iterable[Dag] = (),
        max_workers: int | None = None,
        executor: Executor | None = None,
    ) -> None:
        if max_workers is not None and (
            isinstance(max_workers, bool) or not isinstance(max_workers, int) or max_workers < 1
        ):
            raise ServiceError(f"max_workers={max_workers!r} must be a whole number, 1 or more")
        self._db_path = db_path
        self._max_workers = max_workers
        self._executor = executor
        self._engine: Engine | None = None
        self._database: Database | None = None
        self._history: History | None = None
        self._lock: OwnLock | None = None
        self._executor_pk = 0
        self._thread: threading.Thread | None = None
        self._mutex = threading.Lock()
        """Guards what other threads hand in: the inbox and the prepared dags."""
        self._inbox: deque[tuple[Callable[[Turn], None], ActiveRun | None]] = deque()
        """What the loop is told to do, and the run that it is to begin."""
        self._closed = False
        """Whether the loop takes nothing more."""
        self._prepared: dict[int, PreparedDag] = {}
        self._code_numbers: dict[int, tuple[Any, int, Code]] = {}
        """By id of the function: itself (so that no other gets that id), number, code."""
        self._pid = os.getpid()
        # From here on the loop's own.
        self._runs: dict[int, ActiveRun] = {}
        self._order: deque[ActiveRun] = deque()
        """Runs in turn: the one that was served last is at the end."""
        self._timers: list[tuple[float, int, int]] = []
        """When a retry is due, of which run, which task instance."""
        self._jobs: dict[tuple[int, int], Job] = {}
        """By run and number of the task instance."""
        self._unplaced: deque[Job] = deque()
        self._fresh: list[Job] = []
        """Jobs that have started, which is not recorded yet."""
        self._job_numbers = 0
        self._experience: dict[int, float] = {}
        """Of each function: how long it takes, in seconds."""
        self._reported_traces: set[int] = set()
        self._stopping = False
        self._broken: BaseException | None = None
        self._seen_version = -1
        self._next_look = 0.0
        self._cancel_on_exit = False
        for dag in dags:
            self.register(dag)

    # What applications call

    def start(self) -> Self:
        """Begin to work. Raises StorageError when the database cannot be used, MissingMainGuard while a dag file is
        only being imported. A second call does nothing."""
        refuse_while_loading("ExecutorService.start()")
        if self._thread is not None:
            return self
        if self._closed:
            raise ServiceError("the service was stopped; make a new one")
        # The slots get ready while this process imports SQLAlchemy.
        count = self._max_workers or usable_cpus()
        self._engine = ForeignEngine(self._executor, count) if self._executor else SlotEngine(count)
        try:
            self._engine.start()
            self._open()
        except BaseException as error:
            self._engine.close(kill=True)
            if isinstance(error, OSError):
                raise ServiceError(f"cannot start {count} workers: {error}; use fewer") from error
            raise
        self._thread = threading.Thread(target=self._run, name="liteflow-service", daemon=True)
        self._thread.start()
        return self

    def _open(self) -> None:
        from liteflow.execution.liveness import OwnLock
        from liteflow.execution.processes import start_time_of
        from liteflow.storage import recording
        from liteflow.storage.engine import Database
        from liteflow.storage.history import History
        from liteflow.storage.schema import open_database

        self._database = open_database(self._db_path, create=True)
        self._database.remember_file()
        self._history = History(Database(self._database.path, pooled=False))  # outlives the service, in its runs
        token = secrets.token_hex(8)
        try:
            self._lock = OwnLock(self._database.path, token)
        except OSError as error:
            from liteflow.errors import StorageError

            raise StorageError(
                f"{self._database.path}.locks: cannot be written ({error.strerror}); make its directory writable",
                path=self._database.path,
            ) from error
        with self._database.write() as session:
            self._executor_pk = recording.record_executor(
                session, token, socket.gethostname(), start_time_of(os.getpid()), _now_us()
            )

    def register(self, dag: Dag) -> None:
        """Make a dag known, checked and ready to run."""
        self._prepare(dag)

    def submit(
        self,
        dag: Dag,
        params: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        logical_date: datetime | None = None,
        *,
        listener: Listener | None = None,
    ) -> RunHandle:
        """Commit a run as queued and return at once. See `Dag.run` for the arguments.

        `run_id` is an idempotency key: the run of that id, whoever drives it, is what the handle then stands for.
        `listener` is called with each `RunEvent`, in the service's thread: it must be quick.
        """
        refuse_while_loading("service.submit()")
        self._refuse_when_unusable()
        from liteflow.execution.active import ActiveRun

        prepared = self._prepare(dag)
        name, moment, params_json = check_request(dag, params, run_id, logical_date)
        created = self._create(prepared, name, moment, params_json, must_match_date=logical_date is not None)
        if isinstance(created, RunHandle):
            return created
        pk, pks = created
        run = ActiveRun(
            prepared,
            pk=pk,
            pks=pks,
            run_id=name,
            logical_date=moment,
            params_json=params_json,
            listener=listener,
        )
        if not self._tell_loop(lambda turn: self._begin(run, turn), run):
            assert self._history is not None
            self._history.cancel(pk)
            raise ServiceError("the service was stopped before the run could begin; it is recorded as cancelled")
        return RunHandle(self, pk, run)

    def stop(self, *, cancel: bool = False) -> None:
        """Stop: wait for the runs that were submitted or, with `cancel`, cancel them. A second call does nothing."""
        thread = self._thread
        if thread is None or os.getpid() != self._pid:
            return
        if cancel:
            self._tell_loop(self._cancel_all)
        self._tell_loop(self._note_stop)
        thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(cancel=kind is not None)

    # Getting a run in

    def _prepare(self, dag: Dag) -> PreparedDag:
        from liteflow.execution.active import PreparedDag

        if dag.is_metadata_only:
            raise MetadataOnlyError(
                f"dag {dag.dag_id!r} was loaded from the database, which holds no code; run the script that defines it "
                f"({dag.place.file})"
            )
        with self._mutex:
            known = self._prepared.get(id(dag))
            if known is None or known.dag is not dag or known.digest != dag.structure_digest():
                known = self._prepared[id(dag)] = PreparedDag(dag, self._code_of)
                if len(self._prepared) > MOST_PREPARED_DAGS:  # an application may build a dag for each run
                    del self._prepared[next(iter(self._prepared))]
            return known

    def _code_of(self, task: Task) -> tuple[int, Code]:
        key = id(task.function)  # not itself: functions that are equal need not do the same
        if key not in self._code_numbers:
            self._code_numbers[key] = (task.function, len(self._code_numbers) + 1, describe(task))
        _, number, code = self._code_numbers[key]
        return number, code

    def _create(
        self, prepared: PreparedDag, run_id: str, moment: datetime, params_json: str, *, must_match_date: bool
    ) -> tuple[int, list[int]] | RunHandle:
        """Insert the run, or find the one that has the id already."""
        from liteflow.storage import recording

        assert self._database is not None
        dag = prepared.dag
        with self._database.write(durable=True) as session:
            existing = recording.find_existing_run(session, dag.dag_id, run_id)
            if existing is None:
                dag_pk = recording.record_dag(session, dag_facts(dag, prepared.digest), _now_us())
                return recording.create_run(
                    session,
                    dag_pk,
                    run_id=run_id,
                    logical_date=moment,
                    params_json=params_json,
                    structure_digest=prepared.digest,
                    executor_pk=self._executor_pk,
                    tasks=[
                        recording.TaskFacts(task.task_id, list(task.upstream_task_ids), task.options.trigger_rule.value)
                        for task in prepared.tasks
                    ],
                    now_us=_now_us(),
                )
        refuse_conflict(existing, dag, run_id, moment if must_match_date else None, params_json, prepared.digest)
        return RunHandle(self, existing.pk, self._runs.get(existing.pk))

    # The loop

    def _tell_loop(self, what: Callable[[Turn], None], run: ActiveRun | None = None) -> bool:
        """Have the loop do something; False when it takes nothing more."""
        with self._mutex:
            if self._closed:
                return False
            self._inbox.append((what, run))
        if self._engine is not None:
            self._engine.wake()
        return True

    def _may_end(self) -> bool:
        """Whether the loop was told to stop and there is nothing left; from then on it takes nothing more."""
        with self._mutex:
            self._closed = self._stopping and not self._runs and not self._inbox
            return self._closed

    def _run(self) -> None:
        engine = self._engine
        assert engine is not None
        try:
            while not self._may_end():
                self._turn(engine)
        except BaseException as error:
            self._give_up(error)
        finally:
            try:
                engine.close(kill=self._broken is not None)
            finally:
                self._close_storage()

    def _turn(self, engine: Engine) -> None:
        turn = Turn()
        events = engine.poll(self._patience())
        with self._mutex:
            inbox, self._inbox = self._inbox, deque()
        for what, _ in inbox:
            what(turn)
        self._take_events(events, turn)
        self._ring_timers(turn)
        self._look_for_commands(turn)
        self._settle(turn)
        self._choose(engine, turn)
        self._note_started(turn)
        jobs = self._commit(turn) if turn else []
        for vacancy, several in _by_vacancy([*turn.placed, *jobs]).items():
            engine.submit(vacancy, several)
        self._tell(turn)

    def _patience(self) -> float:
        """How long the loop may sleep."""
        if self._inbox:
            return 0.0
        wait = IDLE_POLL_S if self._runs else 10.0
        if self._fresh:
            wait = min(wait, STARTED_AFTER_S)
        if self._timers:
            wait = min(wait, max(0.0, self._timers[0][0] - time.monotonic()))
        return wait

    def _begin(self, run: ActiveRun, turn: Turn) -> None:
        self._runs[run.pk] = run
        self._order.append(run)
        turn.begun.append(run)
        self._apply(run, run.core.start(), turn)

    def _apply(self, run: ActiveRun, changes: list[Any], turn: Turn) -> None:
        """Take in what the core decided beside the tries that ended."""
        run.note(changes)
        turn.changes += [(run, change) for change in changes]

    def _take_events(self, events: Events, turn: Turn) -> None:
        self._fresh += [job for job in events.started if self._runs.get(job.run.pk) is job.run]
        turn.lines += events.lines
        by_run: dict[int, list[tuple[Job, Outcome]]] = {}
        for job, outcome in events.finished:
            by_run.setdefault(job.run.pk, []).append((job, outcome))
        for job in events.returned:
            if job.kill_reason is None:
                self._unplaced.append(job)
            else:  # cancelled, mostly before it had begun
                state = _S.SKIPPED if job.started_at is None else _S.FAILED
                outcome = Outcome(state, job.kill_reason, started_us=job.started_us)
                by_run.setdefault(job.run.pk, []).append((job, outcome))
        for ended in by_run.values():
            run: ActiveRun = ended[0][0].run
            if self._runs.get(run.pk) is run:
                self._take_ended(run, ended, turn)

    def _note_started(self, turn: Turn) -> None:
        """Record that jobs have started along with something else or, when there is nothing, a little later.

        Most tiny tasks have ended by then, and cost one transaction instead of two.
        """
        self._fresh = [job for job in self._fresh if self._jobs.get((job.run.pk, job.index)) is job]
        if not self._fresh:
            return
        oldest = self._fresh[0].started_at or 0.0
        if turn or time.monotonic() - oldest >= STARTED_AFTER_S:
            turn.started, self._fresh = self._fresh, []

    def _take_ended(self, run: ActiveRun, ended: list[tuple[Job, Outcome]], turn: Turn) -> None:
        from liteflow.scheduling.core import Ended

        events = []
        outcomes: dict[int, tuple[Job, Outcome]] = {}
        for job, outcome in ended:
            self._jobs.pop((run.pk, job.index), None)
            run.running.discard(job.index)
            self._learn(job, outcome)
            self._explain(job, outcome, turn)
            if outcome.reason is EndReason.CRASHED:
                run.alone.add(job.index)
            if outcome.guard is not None:
                message, file, line = outcome.guard
                run.error = MissingMainGuard(message, file=file, line=line)
            outcomes[job.index] = (job, outcome)
            events.append(Ended(job.index, outcome.state, outcome.reason, outcome.may_retry))
        for change in (changes := run.core.apply(events)):
            if change.index in outcomes:
                job, outcome = outcomes.pop(change.index)
                run.keep_values(job.index, outcome)
                turn.ended.append((job, outcome, change))
                if change.state is _S.UP_FOR_RETRY:
                    due = time.monotonic() + change.delay_s
                    heapq.heappush(self._timers, (due, run.pk, change.index))
            else:
                turn.changes.append((run, change))
        run.note(changes)
        if run.error is not None:
            self._apply(run, run.core.end_early(EndReason.ERROR), turn)
        if run.core.ending is not None:
            self._end_running(run)

    def _learn(self, job: Job, outcome: Outcome) -> None:
        if outcome.started_us is None or outcome.ended_us is None:
            return
        took = max(0.0, (outcome.ended_us - outcome.started_us) / 1e6)
        before = self._experience.get(job.code_number)
        # Quick to learn that a function is slow, slow to believe that it is quick.
        self._experience[job.code_number] = took if before is None or took > before else 0.7 * before + 0.3 * took

    def _explain(self, job: Job, outcome: Outcome, turn: Turn) -> None:
        """Lines that liteflow itself adds to a task's log."""
        now_us = _now_us()
        if outcome.load_trace and job.code_number not in self._reported_traces:
            self._reported_traces.add(job.code_number)
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

    def _ring_timers(self, turn: Turn) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, pk, index = heapq.heappop(self._timers)
            run = self._runs.get(pk)
            if run is not None:
                self._apply(run, run.core.retry_due(index), turn)

    def _look_for_commands(self, turn: Turn) -> None:
        """See whether another process asked for something. A number tells whether anything was written at all."""
        now = time.monotonic()
        if not self._runs or now < self._next_look:
            return
        self._next_look = now + IDLE_POLL_S
        assert self._database is not None
        self._database.refuse_other_file()
        version = self._database.data_version()
        if version == self._seen_version:
            return
        self._seen_version = version
        from liteflow.storage import recording

        with self._database.read() as session:
            wanted = recording.cancel_requested(session, self._executor_pk)
        for pk in wanted:
            if pk in self._runs:
                self._cancel(self._runs[pk], turn)

    def _cancel(self, run: ActiveRun, turn: Turn) -> None:
        self._apply(run, run.core.end_early(EndReason.CANCELLED), turn)
        self._end_running(run)

    def _end_running(self, run: ActiveRun) -> None:
        """Tell what runs to end, in a run that is ended early."""
        assert self._engine is not None
        assert run.core.ending is not None
        for index in list(run.running):
            job = self._jobs[run.pk, index]
            if job in self._unplaced:
                continue  # _settle skips it
            self._engine.cancel(job, run.core.ending)

    def _settle(self, turn: Turn) -> None:
        """Jobs between two slots whose run is ended early are not begun any more; runs that are over are noted."""
        for job in [job for job in self._unplaced if job.run.core.ending is not None]:
            self._unplaced.remove(job)
            job.kill_reason = job.run.core.ending
            self._take_ended(job.run, [(job, Outcome(_S.SKIPPED, job.kill_reason))], turn)
        for run in list(self._runs.values()):
            if run.core.finished and run not in turn.over:
                turn.over.append(run)

    # Choosing what runs next

    def _choose(self, engine: Engine, turn: Turn) -> None:
        ready = len(self._unplaced) + sum(len(run.ready) for run in self._order)
        if not ready:
            return
        share = -(-ready // engine.size())
        most = min(CHUNK_JOBS, share) if engine.chunks else 1
        for vacancy in engine.vacancies():
            self._fill(vacancy, most, turn)

    def _fill(self, vacancy: int, most: int, turn: Turn) -> None:
        budget = CHUNK_S
        for count in range(most):
            expected: float | None
            if self._unplaced:
                job = self._unplaced[0]
                expected = self._expected(job.run, job.index)
                if count and (expected is None or expected > budget):
                    return
                self._unplaced.popleft()
                turn.placed.append((vacancy, job))
            else:
                run = self._next_run()
                if run is None:
                    return
                expected = self._expected(run, run.ready[0])
                if count and (expected is None or expected > budget):
                    return
                index = run.ready.popleft()
                self._order.rotate(-1 - self._order.index(run))
                run.core.claim(index)
                run.running.add(index)
                turn.claims.append((vacancy, run, index))
            if expected is None:
                return
            budget -= expected

    def _next_run(self) -> ActiveRun | None:
        for run in self._order:
            limit = run.dag.max_active_tasks
            if run.ready and (limit is None or len(run.running) < limit):
                return run
        return None

    def _expected(self, run: ActiveRun, index: int) -> float | None:
        return None if index in run.alone else self._experience.get(run.prepared.codes[index][0])

    def _make_job(self, run: ActiveRun, index: int, stored: Mapping[tuple[int, str], tuple[str, bytes]]) -> Job:
        self._job_numbers += 1
        number, code = run.prepared.codes[index]
        task = run.task(index)
        job = Job(
            number=self._job_numbers,
            run=run,
            index=index,
            try_number=run.core.try_numbers[index],
            code_number=number,
            code=code,
            payload=run.payload(index, stored),
            name=task.task_id,
            timeout_s=task.options.timeout_s,
            kill_grace_s=task.options.kill_grace_s,
            log_cap_bytes=task.options.log_cap_bytes,
            expected_s=self._expected(run, index),
        )
        self._jobs[run.pk, index] = job
        return job

    # Recording

    def _commit(self, turn: Turn) -> list[tuple[int, Job]]:
        """Record the turn in one transaction; returns what it claimed, with the vacancy of each."""
        assert self._database is not None
        durable = bool(turn.over) or any(run.dag.durability == "full" for run in self._runs.values())
        if durable:
            self._database.refuse_other_file()
        with self._database.write(durable=durable) as session:
            lost = self._lost_runs(session, turn)
            if lost:
                self._drop(lost, turn)
            self._record(session, turn)
            stored = self._stored_inputs(session, turn)
            return [(vacancy, self._make_job(run, index, stored)) for vacancy, run, index in turn.claims]

    def _lost_runs(self, session: Session, turn: Turn) -> list[ActiveRun]:
        """Runs that are no longer ours: taken over by another service, deleted, or cancelled before they began."""
        from liteflow.storage import recording

        lost = [run for run in turn.begun if not recording.own_run(session, run.pk, self._executor_pk, _now_us())]
        owned = recording.owned_runs(session, self._executor_pk)
        return lost + [run for run in self._runs.values() if run.pk not in owned and run not in lost]

    def _drop(self, lost: list[ActiveRun], turn: Turn) -> None:
        """Forget runs that are not ours: nothing of them is recorded, and what runs is ended."""
        assert self._engine is not None
        pks = {run.pk for run in lost}
        turn.started = [job for job in turn.started if job.run.pk not in pks]
        turn.ended = [one for one in turn.ended if one[0].run.pk not in pks]
        turn.changes = [one for one in turn.changes if one[0].pk not in pks]
        turn.lines = [one for one in turn.lines if one[0].run.pk not in pks]
        turn.claims = [one for one in turn.claims if one[1].pk not in pks]
        turn.placed = [one for one in turn.placed if one[1].run.pk not in pks]
        turn.over = [run for run in turn.over if run.pk not in pks]
        self._unplaced = deque(job for job in self._unplaced if job.run.pk not in pks)
        for run in lost:
            for index in run.running:
                job = self._jobs.pop((run.pk, index), None)
                if job is not None:
                    self._engine.cancel(job, EndReason.LOST)
            self._forget(run)
            run.over.set()

    def _forget(self, run: ActiveRun) -> None:
        self._runs.pop(run.pk, None)
        if run in self._order:
            self._order.remove(run)

    def _record(self, session: Session, turn: Turn) -> None:
        from liteflow.storage import recording

        now_us = _now_us()
        me = self._executor_pk
        over = {(job.run.pk, job.index) for job, _, _ in turn.ended}
        claimed = {(run.pk, index) for _, run, index in turn.claims}
        recording.record_started(
            session,
            [
                (job.run.pks[job.index], job.try_number, job.started_us or now_us)
                for job in turn.started
                if (job.run.pk, job.index) not in over
            ],
            me,
        )
        lost = recording.record_ended(session, [_ended_row(*one, now_us) for one in turn.ended], me)
        turn.ended = [one for one in turn.ended if one[0].run.pks[one[0].index] not in lost]
        recording.store_xcoms(
            session,
            [
                (job.run.pks[job.index], *xcom)
                for job, outcome, change in turn.ended
                if change.state is _S.SUCCESS
                for xcom in outcome.xcoms
            ],
        )
        recording.store_logs(
            session,
            [
                (job.run.pks[job.index], job.try_number, line.at_us, line.level, line.logger, line.text)
                for job, line in self._wanted_lines(session, turn)
            ],
        )
        recording.record_changes(
            session,
            [
                (run.pks[change.index], change.state, change.reason)
                for run, change in turn.changes
                # What is claimed in the same breath goes straight to running.
                if not (change.state is _S.QUEUED and (run.pk, change.index) in claimed)
            ],
            now_us,
        )
        recording.claim(session, [(run.pks[index], run.core.try_numbers[index]) for _, run, index in turn.claims], me)
        for run in turn.over:
            recording.end_run(session, run.pk, *run.core.outcome(), now_us)

    def _wanted_lines(self, session: Session, turn: Turn) -> list[tuple[Job, LogLine]]:
        """The lines, without those of runs that were deleted since: something left running may still write."""
        late = {job.run.pk for job, _ in turn.lines if self._runs.get(job.run.pk) is not job.run}
        if not late:
            return turn.lines
        from liteflow.storage import recording

        gone = late - recording.existing_runs(session, late)
        return [(job, line) for job, line in turn.lines if job.run.pk not in gone]

    def _stored_inputs(self, session: Session, turn: Turn) -> Mapping[tuple[int, str], tuple[str, bytes]]:
        from liteflow.storage import recording

        missing = {pk for _, run, index in turn.claims for pk in run.missing_values(index)}
        return recording.fetch_xcoms(session, missing) if missing else {}

    def _tell(self, turn: Turn) -> None:
        """After the commit: tell whoever listens, and let go of what is over."""
        from liteflow.execution.active import RunEvent

        for run in turn.begun:
            run.tell(RunEvent("run", state=RunState.RUNNING))
        for job, line in turn.lines:
            if job.run.listener is not None:
                job.run.tell(RunEvent("line", job.name, try_number=job.try_number, text=line.text))
        for job, outcome, change in turn.ended:
            if job.run.listener is not None:
                took = (
                    (outcome.ended_us - outcome.started_us) / 1e6 if outcome.ended_us and outcome.started_us else None
                )
                job.run.tell(
                    RunEvent("task", job.name, -1, change.state, job.try_number, change.reason, outcome.error, took)
                )
        for run, change in turn.changes:
            if run.listener is not None:
                name = run.task(change.index).task_id
                run.tell(RunEvent("task", name, -1, change.state, reason=change.reason))
        for _, run, index in turn.claims:
            if run.listener is not None:
                number = run.core.try_numbers[index]
                run.tell(RunEvent("task", run.task(index).task_id, -1, _S.RUNNING, number))
        for run in turn.over:
            self._forget(run)
            state, reason = run.core.outcome()
            run.tell(RunEvent("run", state=state, reason=reason))
            run.over.set()

    # Ending

    def _note_stop(self, _turn: Turn) -> None:
        self._stopping = True

    def _cancel_all(self, turn: Turn) -> None:
        for run in list(self._runs.values()):
            self._cancel(run, turn)

    def _give_up(self, error: BaseException) -> None:
        """The loop cannot go on: its runs stay as they are recorded, and whoever waits for them is told why."""
        self._broken = error
        with self._mutex:
            self._stopping = self._closed = True
            waiting = [run for _, run in self._inbox if run is not None]
            self._inbox.clear()
        for run in [*self._runs.values(), *waiting]:
            run.error = error if isinstance(error, LiteflowError) else _bug(error)
            run.over.set()

    def _close_storage(self) -> None:
        from liteflow.errors import StorageError
        from liteflow.storage import recording

        assert self._database is not None
        try:
            with self._database.write() as session:
                recording.end_executor(session, self._executor_pk, _now_us())
        except StorageError:
            if self._broken is None:
                raise
            # What broke the service is told already; without this row the lock alone says that it is gone.
        finally:
            if self._lock is not None:
                self._lock.release()
            self._database.close()

    def _refuse_when_unusable(self) -> None:
        if os.getpid() != self._pid:
            raise ServiceError("this service belongs to the process that started it; start one in the forked child")
        if self._broken is not None:
            raise ServiceError(f"the service has given up: {self._broken}") from self._broken
        if self._thread is None or self._stopping:
            raise ServiceError("the service is not running: use it in a with block, or call start()")


def _bug(error: BaseException) -> ServiceError:
    wrapped = ServiceError(f"the executor service broke ({type(error).__name__}: {error}); its runs are interrupted")
    wrapped.__cause__ = error
    return wrapped


def _now_us() -> int:
    return time.time_ns() // 1000


def _by_vacancy(pairs: list[tuple[int, Job]]) -> dict[int, list[Job]]:
    found: dict[int, list[Job]] = {}
    for vacancy, job in pairs:
        found.setdefault(vacancy, []).append(job)
    return found


def _ended_row(job: Job, outcome: Outcome, change: Any, now_us: int) -> Any:
    from liteflow.storage.recording import TryEnded

    due = now_us + int(change.delay_s * 1e6) if change.state is _S.UP_FOR_RETRY else None
    return TryEnded(
        job.run.pks[job.index],
        job.try_number,
        change.state,
        change.reason,
        outcome.error,
        outcome.started_us,
        outcome.ended_us or now_us,
        due,
    )
