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
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from liteflow.authoring.dag import Dag
from liteflow.authoring.dagfile import refuse_while_loading
from liteflow.authoring.ids import check_name
from liteflow.errors import (
    DagError,
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
from liteflow.execution.turn import Claim, DueCallback, Turn
from liteflow.states import EndReason, RunState, TaskInstanceState

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from liteflow.execution.active import ActiveRun, Listener, Stored
    from liteflow.execution.liveness import OwnLock
    from liteflow.execution.pools import PoolGuard
    from liteflow.execution.prepared import PreparedDag
    from liteflow.execution.ready import Gate
    from liteflow.scheduling.core import Change
    from liteflow.storage.engine import Database
    from liteflow.storage.history import History

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

CHUNK_S = 0.004
"""How much expected work a slot is given at once."""
CHUNK_JOBS = 64
MOST_PREPARED_DAGS = 64
"""How many dags are kept ready; older ones are made ready again when they are submitted again."""
STARTED_AFTER_S = 0.02
"""How long a job has run when it is recorded as started, if nothing else is recorded before."""
IDLE_POLL_S = 0.1
"""How often the loop looks whether another process has written to the database."""
LOOK_AGAIN_S = 1.0
"""How often it counts again what of pools is free, and asks for the runs before, though nothing was written: an owner
may have died."""
TEARDOWN_GRACE_S = 300.0
"""How long teardowns may take in all after their run was ended early."""
CALLBACK_TIMEOUT_S = 60.0
"""How long a callback may run."""
MOST_RUN_S = 10.0
"""How long the loop sleeps at the most when it has no run."""

_RUN_TIMEOUT, _HARD_END = -1, -2
"""In place of a task instance in a timer: the run's own limit, and the end of its teardowns' grace."""


class ExecutorService:
    """Runs dags over one set of slots, several runs at once, until it is stopped.

        with ExecutorService("etl.db", max_workers=4) as service:
            handle = service.submit(dag, {"day": "2026-01-01"})
            run = handle.wait()

    `db_path`: the database, default `$LITEFLOW_DB`, else `liteflow.db`; created if it is missing. `dags`: known from
    the start; `submit` makes its dag known too. `max_workers`: the number of slots, default the usable CPUs.
    `executor`: any `concurrent.futures.Executor` in the place of slots; it is not shut down. `pools`: names and slots
    of pools that are made, or changed, in the database when the service starts.

    Leaving the `with` block waits for the runs that were submitted; an exception that leaves it cancels them.
    """

    def __init__(
        self,
        db_path: str | os.PathLike[str] | None = None,
        *,
        dags: Iterable[Dag] = (),
        max_workers: int | None = None,
        executor: Executor | None = None,
        pools: Mapping[str, int] | None = None,
    ) -> None:
        if max_workers is not None and (
            isinstance(max_workers, bool) or not isinstance(max_workers, int) or max_workers < 1
        ):
            raise ServiceError(f"max_workers={max_workers!r} must be a whole number, 1 or more")
        self._db_path = db_path
        self._max_workers = max_workers
        self._executor = executor
        self._wanted_pools = _checked_pools(pools or {})
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
        self._recipe_numbers: dict[tuple[int, int], int] = {}
        """Of tasks that have many instances, by id of the prepared dag and number: the number of the recipe."""
        self._pid = os.getpid()
        # From here on the loop's own.
        self._runs: dict[int, ActiveRun] = {}
        self._order: deque[ActiveRun] = deque()
        """Runs in turn: the one that was served last is at the end."""
        self._timers: list[tuple[float, int, int]] = []
        """When a retry or look is due, of which run, which task instance."""
        self._pools: PoolGuard | None = None
        self._callbacks: deque[Job] = deque()
        """Callbacks that wait for a slot."""
        self._calling: dict[int, Job] = {}
        """Callbacks that wait or run, by the number of their job."""
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
        self._look_again_at = 0.0
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
        from liteflow.execution.pools import PoolGuard
        from liteflow.execution.processes import start_time_of
        from liteflow.storage import pools, recording
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
            for name, slots in self._wanted_pools.items():
                pools.set_pool(session, name, slots)
        self._pools = PoolGuard(self._database)

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
        assert self._pools is not None
        self._pools.check(prepared)
        created = self._create(prepared, name, moment, params_json, must_match_date=logical_date is not None)
        if isinstance(created, RunHandle):
            return created
        pk, pks, created_us = created
        run = ActiveRun(
            prepared,
            pk=pk,
            pks=pks,
            run_id=name,
            logical_date=moment,
            params_json=params_json,
            created_us=created_us,
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
        from liteflow.execution.prepared import PreparedDag

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

    def _code_of(self, function: Callable[..., Any], whose: str) -> tuple[int, Code]:
        key = id(function)  # not itself: functions that are equal need not do the same
        if key not in self._code_numbers:
            self._code_numbers[key] = (function, len(self._code_numbers) + 1, describe(function, whose))
        _, number, code = self._code_numbers[key]
        return number, code

    def _create(
        self, prepared: PreparedDag, run_id: str, moment: datetime, params_json: str, *, must_match_date: bool
    ) -> tuple[int, list[int], int] | RunHandle:
        """Insert the run, or find the one that has the id already."""
        from liteflow.execution.recorder import task_facts
        from liteflow.storage import recording

        assert self._database is not None
        dag = prepared.dag
        now_us = _now_us()
        with self._database.write(durable=True) as session:
            existing = recording.find_existing_run(session, dag.dag_id, run_id)
            if existing is None:
                dag_pk = recording.record_dag(session, dag_facts(dag, prepared.digest), now_us)
                pk, pks = recording.create_run(
                    session,
                    dag_pk,
                    run_id=run_id,
                    logical_date=moment,
                    params_json=params_json,
                    structure_digest=prepared.digest,
                    executor_pk=self._executor_pk,
                    tasks=[task_facts(prepared, number) for number in range(len(prepared.tasks))],
                    now_us=now_us,
                )
                return pk, pks, now_us
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
        self._answer(engine, events)
        self._take_events(events, turn)
        self._ring_timers(turn)
        self._look_around(turn)
        self._settle(turn)
        self._choose(engine, turn)
        self._note_started(turn)
        jobs = self._commit(turn) if turn else []
        for vacancy, several in _by_vacancy([*turn.placed, *jobs]).items():
            engine.submit(vacancy, several)
        self._tell(turn)

    def _patience(self) -> float:
        """How long the loop may sleep."""
        if self._inbox or self._callbacks:
            return 0.0 if self._inbox else STARTED_AFTER_S
        wait = IDLE_POLL_S if self._runs else MOST_RUN_S
        if self._fresh:
            wait = min(wait, STARTED_AFTER_S)
        if self._timers:
            wait = min(wait, max(0.0, self._timers[0][0] - time.monotonic()))
        return wait

    def _answer(self, engine: Engine, events: Events) -> None:
        """Answer what running tasks want to know of others."""
        if not events.questions:
            return
        from liteflow.storage.values import pull_xcoms

        assert self._database is not None
        with self._database.read() as session:
            for job, number, (_, dag_id, run_id, task_ids, key, map_indexes, prior) in events.questions:
                rows = pull_xcoms(
                    session,
                    dag_id=dag_id,
                    run_id=run_id,
                    task_ids=task_ids,
                    key=key,
                    map_indexes=map_indexes,
                    include_prior_dates=prior,
                    logical_date_us=job.run.logical_date_us,
                )
                engine.answer(job, number, tuple(tuple(row) for row in rows))

    def _begin(self, run: ActiveRun, turn: Turn) -> None:
        self._runs[run.pk] = run
        self._order.append(run)
        turn.begun.append(run)
        if run.dag.dagrun_timeout_s is not None:
            heapq.heappush(self._timers, (time.monotonic() + run.dag.dagrun_timeout_s, run.pk, _RUN_TIMEOUT))
        self._apply(run, run.core.start(), turn)

    def _apply(self, run: ActiveRun, changes: list[Change], turn: Turn) -> None:
        """Take in what the core decided beside the tries that ended, and what follows from that."""
        run.note(changes)
        turn.changes += [(run, change) for change in changes]
        while units := run.core.expansions():
            for unit in units:
                expansion = run.core.expand(unit, run.length_of(unit))
                if expansion.tasks:
                    turn.expansions.append((run, expansion))
                run.note(expansion.changes)
                turn.changes += [(run, change) for change in expansion.changes]

    def _take_events(self, events: Events, turn: Turn) -> None:
        self._fresh += [
            job for job in events.started if job.callback_id is None and self._runs.get(job.run.pk) is job.run
        ]
        turn.lines += events.lines
        by_run: dict[int, list[tuple[Job, Outcome]]] = {}
        for job, outcome in events.finished:
            if job.callback_id is not None:
                self._take_called(job, outcome, turn)
            else:
                by_run.setdefault(job.run.pk, []).append((job, outcome))
        for job in events.returned:
            if job.callback_id is not None:
                self._callbacks.append(job)
            elif job.kill_reason is None:
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
        for job, told in ended:
            self._jobs.pop((run.pk, job.index), None)
            run.running.discard(job.index)
            self._pool_guard.ended(run.ready.gate_of(job.index))
            self._learn(job, told)
            outcome, skip = self._decided(job, told)
            self._explain(job, outcome, turn)
            if outcome.reason is EndReason.CRASHED:
                run.alone.add(job.index)
            if outcome.guard is not None:
                message, file, line = outcome.guard
                run.error = MissingMainGuard(message, file=file, line=line)
            outcomes[job.index] = (job, outcome)
            event = Ended(job.index, outcome.state, outcome.reason, outcome.may_retry, outcome.delay_s, skip)
            events.append(event)
        others = []
        changes = run.core.apply(events)
        for change in changes:
            if change.index in outcomes:
                job, outcome = outcomes.pop(change.index)
                self._take_try(run, job, outcome, change, turn)
            else:
                others.append(change)
        run.note([change for change in changes if change not in others])
        self._apply(run, others, turn)
        if run.error is not None:
            self._end_early(run, EndReason.ERROR, turn, spare_teardowns=False)
        elif run.core.ending is not None:
            self._end_running(run)

    def _take_try(self, run: ActiveRun, job: Job, outcome: Outcome, change: Change, turn: Turn) -> None:
        """A try has ended, and the core has said what its task instance is now."""
        run.keep_values(job.index, outcome)
        turn.ended.append((job, outcome, change))
        if change.state in (_S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE):
            heapq.heappush(self._timers, (time.monotonic() + change.delay_s, run.pk, change.index))
        if change.state is _S.UP_FOR_RESCHEDULE:
            run.first_look_us.setdefault(job.index, outcome.started_us or _now_us())
            run.looks[job.index] = run.looks.get(job.index, 0) + 1
        else:
            run.first_look_us.pop(job.index, None)
            run.looks.pop(job.index, None)
        kind = _CALLBACK_KINDS.get(change.state)
        if kind is not None:
            self._note_callbacks(run, job.index, kind, turn, str(change.state), outcome.error, outcome.exception)

    def _decided(self, job: Job, outcome: Outcome) -> tuple[Outcome, Sequence[int]]:
        """What a branch or short circuit decided: the numbers of the tasks to skip, kept with the run as an XCom.

        A branch that chose what there is not has failed.
        """
        if outcome.chosen is None or outcome.state is not _S.SUCCESS:
            return outcome, ()
        from liteflow.scheduling.skips import DECISION_KEY, decision_value, skipped_by
        from liteflow.storage.xcoms import encode

        prepared = job.run.prepared
        task = job.run.task(job.index)
        try:
            skipped = skipped_by(task, prepared.downstream, outcome.chosen)
        except DagError as error:
            return outcome._replace(state=_S.FAILED, reason=EndReason.ERROR, error=str(error), chosen=None), ()
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
            turn.lines.append((job, LogLine(_now_us(), 40, "liteflow.task", text)))

    def _callback_job(self, due: DueCallback, key: int) -> Job:
        from liteflow.execution.callbacks import callback_payload

        self._job_numbers += 1
        run = due.run
        task = run.task(due.index)
        number, code = run.prepared.callbacks[
            -1 if due.kind.startswith("dag_") else run.core.task_of[due.index], due.kind
        ][due.number]
        job = Job(
            number=self._job_numbers,
            run=run,
            index=due.index,
            try_number=due.try_number,
            code_number=number,
            code=code,
            recipe=tuple(run.prepared.callback_recipe(run.core.task_of[due.index])),
            recipe_number=0,
            payload=tuple(callback_payload(due)),
            name=task.task_id,
            map_index=run.map_index(due.index),
            timeout_s=CALLBACK_TIMEOUT_S,
            kill_grace_s=task.options.kill_grace_s,
            log_cap_bytes=task.options.log_cap_bytes,
            callback_id=key,
        )
        self._calling[job.number] = job
        return job

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
        now = time.monotonic()
        if not self._runs or now < self._next_look:
            return
        self._next_look = now + IDLE_POLL_S
        assert self._database is not None
        self._database.refuse_other_file()
        version = self._database.data_version()
        if version == self._seen_version and now < self._look_again_at:
            return
        self._look_again_at = now + LOOK_AGAIN_S
        self._pool_guard.look_again()
        self._ask_for_the_past(turn)
        if version == self._seen_version:
            return
        self._seen_version = version
        from liteflow.storage import recording

        with self._database.read() as session:
            wanted = recording.cancel_requested(session, self._executor_pk)
        for pk in wanted:
            if pk in self._runs:
                self._cancel(self._runs[pk], turn)

    def _ask_for_the_past(self, turn: Turn) -> None:
        """See whether the runs before allow tasks to go that wait for them."""
        waiting = [(run, task) for run in self._runs.values() for task in run.core.past_wanted()]
        if not waiting:
            return
        from liteflow.execution.past import past_of

        assert self._database is not None
        with self._database.read() as session:
            found = [(run, task, past_of(session, self._database.path, run, task)) for run, task in waiting]
        for run, task, past in found:
            if past.is_known:
                self._apply(run, run.core.past_known(task, past.error), turn)

    def _cancel(self, run: ActiveRun, turn: Turn, *, spare_teardowns: bool = True) -> None:
        self._end_early(run, EndReason.CANCELLED, turn, spare_teardowns=spare_teardowns)

    def _end_early(self, run: ActiveRun, reason: EndReason, turn: Turn, *, spare_teardowns: bool = True) -> None:
        self._apply(run, run.core.end_early(reason, spare_teardowns=spare_teardowns), turn)
        self._end_running(run, all_of_it=not spare_teardowns)

    def _end_running(self, run: ActiveRun, *, all_of_it: bool = False) -> None:
        """Tell what runs to end, in a run that is ended early; teardowns go on, for a while."""
        assert self._engine is not None
        if run.core.ending is None:
            return
        if run.hard_end_at is None:
            run.hard_end_at = time.monotonic() + TEARDOWN_GRACE_S
            heapq.heappush(self._timers, (run.hard_end_at, run.pk, _HARD_END))
        for index in list(run.running):
            job = self._jobs[run.pk, index]
            if job in self._unplaced or (run.core.is_spared(index) and not all_of_it):
                continue  # the former are skipped by _settle
            job.ended_by_run = job.kill_reason is None
            self._engine.cancel(job, run.core.ending)

    def _settle(self, turn: Turn) -> None:
        """Jobs between two slots whose run is ended early are not begun any more; runs that are over are noted."""
        for job in [job for job in self._unplaced if job.run.core.ending is not None]:
            if job.run.core.is_spared(job.index) and job.kill_reason is None:
                continue
            self._unplaced.remove(job)
            job.kill_reason = job.run.core.ending
            self._take_ended(job.run, [(job, Outcome(_S.SKIPPED, job.kill_reason))], turn)
        for run in list(self._runs.values()):
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

    # Choosing what runs next

    def _choose(self, engine: Engine, turn: Turn) -> None:
        ready = len(self._callbacks) + len(self._unplaced) + sum(len(run.ready) for run in self._order)
        if not ready:
            return
        share = -(-ready // engine.size())
        most = min(CHUNK_JOBS, share) if engine.chunks else 1
        for vacancy in engine.vacancies():
            self._fill(vacancy, most, turn)

    def _fill(self, vacancy: int, most: int, turn: Turn) -> None:
        """Give a vacancy as much as it is good for: one job whose length nobody knows, or several tiny ones."""
        budget = CHUNK_S
        for count in range(most):
            waiting = self._callbacks or self._unplaced
            expected: float | None
            if waiting:
                job = waiting[0]
                expected = None if job.callback_id is not None else self._expected(job.run, job.index)
                if count and (expected is None or expected > budget):
                    return
                waiting.popleft()
                turn.placed.append((vacancy, job))
            else:
                found = self._next()
                if found is None:
                    return
                run, index = found
                expected = self._expected(run, index)
                if count and (expected is None or expected > budget):
                    return
                self._claim(vacancy, run, index, turn)
            if expected is None:
                return
            budget -= expected

    def _next(self) -> tuple[ActiveRun, int] | None:
        """The task instance that is next: of the run whose turn it is, the one with the greatest weight that may go."""
        for run in self._order:
            limit = run.dag.max_active_tasks
            if limit is not None and len(run.running) >= limit:
                continue
            index = run.ready.head(lambda gate, run=run: self._is_open(run, gate))  # type: ignore[misc]
            if index is not None:
                return run, index
        return None

    def _is_open(self, run: ActiveRun, gate: Gate) -> bool:
        if gate.task is not None and gate.most is not None:
            running = sum(run.core.task_of[index] == gate.task for index in run.running)
            if running >= gate.most:
                return False
        return self._pool_guard.may_claim(gate)

    @property
    def _pool_guard(self) -> PoolGuard:
        assert self._pools is not None
        return self._pools

    def _claim(self, vacancy: int, run: ActiveRun, index: int, turn: Turn) -> None:
        run.ready.pop(index)
        self._order.rotate(-1 - self._order.index(run))
        resumed = run.core.is_resumed(index)
        run.core.claim(index)
        run.running.add(index)
        self._pool_guard.claimed(run.ready.gate_of(index))
        turn.claims.append(Claim(vacancy, run, index, resumed))

    def _expected(self, run: ActiveRun, index: int) -> float | None:
        return None if index in run.alone else self._experience.get(run.prepared.codes[run.core.task_of[index]][0])

    def _make_job(self, run: ActiveRun, index: int, stored: Stored) -> Job:
        self._job_numbers += 1
        number = run.core.task_of[index]
        code_number, code = run.prepared.codes[number]
        task = run.task(index)
        job = Job(
            number=self._job_numbers,
            run=run,
            index=index,
            try_number=run.core.try_numbers[index],
            code_number=code_number,
            code=code,
            recipe=tuple(run.prepared.recipes[number]),
            recipe_number=self._recipe_number(run.prepared, number),
            payload=tuple(run.payload(index, stored)),
            name=task.task_id,
            map_index=run.map_index(index),
            timeout_s=task.options.timeout_s,
            kill_grace_s=task.options.kill_grace_s,
            log_cap_bytes=task.options.log_cap_bytes,
            expected_s=self._expected(run, index),
        )
        self._jobs[run.pk, index] = job
        return job

    def _recipe_number(self, prepared: PreparedDag, task: int) -> int:
        """Slots keep the recipe of a task that has many instances or looks many times; others are sent each time."""
        if prepared.unit_of[task] is None and prepared.tasks[task].sensor is None:
            return 0
        return self._recipe_numbers.setdefault((id(prepared), task), len(self._recipe_numbers) + 1)

    # Recording

    def _commit(self, turn: Turn) -> list[tuple[int, Job]]:
        """Record the turn in one transaction; returns what it claimed, with the vacancy of each."""
        from liteflow.execution import recorder

        assert self._database is not None
        durable = bool(turn.over) or any(run.dag.durability == "full" for run in self._runs.values())
        if durable:
            self._database.refuse_other_file()
        with self._database.write(durable=durable) as session:
            lost = self._lost_runs(session, turn)
            if lost:
                self._drop(lost, turn)
            due = recorder.record(session, turn, self._executor_pk, self._pool_guard, self._runs.values())
            stored = self._stored_inputs(session, turn)
            jobs = [(claim.vacancy, self._make_job(claim.run, claim.index, stored)) for claim in turn.claims]
        self._callbacks += [self._callback_job(one, key) for one, key in zip(turn.callbacks, due, strict=True)]
        return jobs

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
        turn.drop(pks)
        self._unplaced = deque(job for job in self._unplaced if job.run.pk not in pks)
        self._callbacks = deque(job for job in self._callbacks if job.run.pk not in pks)
        for job in [job for job in self._calling.values() if job.run.pk in pks]:
            del self._calling[job.number]
            self._engine.cancel(job, EndReason.LOST)
        for run in lost:
            for index in run.running:
                job_of_try = self._jobs.pop((run.pk, index), None)
                if job_of_try is not None:
                    self._engine.cancel(job_of_try, EndReason.LOST)
            self._forget(run)
            run.over.set()

    def _forget(self, run: ActiveRun) -> None:
        self._runs.pop(run.pk, None)
        if run in self._order:
            self._order.remove(run)

    def _stored_inputs(self, session: Session, turn: Turn) -> Stored:
        from liteflow.storage import recording

        missing = {pk for claim in turn.claims for pk in claim.run.missing_values(claim.index)}
        return recording.fetch_xcoms(session, missing) if missing else {}

    def _tell(self, turn: Turn) -> None:
        """After the commit: tell whoever listens, and let go of what is over."""
        from liteflow.execution.active import RunEvent

        for run in turn.begun:
            run.tell(RunEvent("run", state=RunState.RUNNING))
        for run, expansion in turn.expansions:
            for task in expansion.tasks:
                run.tell(RunEvent("expanded", run.prepared.tasks[task].task_id, size=expansion.size))
        for job, line in turn.lines:
            if job.run.listener is not None:
                job.run.tell(RunEvent("line", job.name, job.map_index, try_number=job.try_number, text=line.text))
        for job, outcome, change in turn.ended:
            if job.run.listener is not None:
                took = (
                    (outcome.ended_us - outcome.started_us) / 1e6 if outcome.ended_us and outcome.started_us else None
                )
                where = (job.name, job.map_index)
                job.run.tell(RunEvent("task", *where, change.state, job.try_number, change.reason, outcome.error, took))
        for run, change in turn.changes:
            if run.listener is not None:
                where = (run.task(change.index).task_id, run.map_index(change.index))
                run.tell(RunEvent("task", *where, change.state, reason=change.reason, error=change.error))
        for claim in turn.claims:
            run, index = claim.run, claim.index
            if run.listener is not None:
                where = (run.task(index).task_id, run.map_index(index))
                run.tell(RunEvent("task", *where, _S.RUNNING, run.core.try_numbers[index]))
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


def _checked_pools(pools: Mapping[str, int]) -> dict[str, int]:
    for name, slots in pools.items():
        check_name("pool", name)
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 0:
            raise ServiceError(f"pool {name!r} cannot have {slots!r} slots; use a whole number, 0 or more")
    return dict(pools)


def _by_vacancy(pairs: list[tuple[int, Job]]) -> dict[int, list[Job]]:
    found: dict[int, list[Job]] = {}
    for vacancy, job in pairs:
        found.setdefault(vacancy, []).append(job)
    return found
