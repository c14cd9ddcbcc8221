"""The executor service: what applications call. It opens the database, starts an engine, and has a loop in a thread of
its own drive the runs that are submitted; see `loop.py` for what that does.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from liteflow.authoring.dag import Dag
from liteflow.authoring.dagfile import refuse_while_loading
from liteflow.authoring.ids import check_name
from liteflow.errors import MetadataOnlyError, ParamError, RunActiveError, RunConflictError, ServiceError
from liteflow.execution.clock import clock_us, steady_s
from liteflow.execution.code import Code, describe
from liteflow.execution.executors import check_executor, engine_of
from liteflow.execution.exiting import stop_at_exit
from liteflow.execution.handle import RunHandle
from liteflow.execution.jobs import Engine
from liteflow.execution.requests import (
    check_request,
    dag_facts,
    fresh_run_id,
    refuse_conflict,
    refuse_own_limit,
    refuse_own_run,
)
from liteflow.states import EndReason, RunState
from liteflow.storage.xcoms import decode

if TYPE_CHECKING:
    import asyncio

    from sqlalchemy import Connection

    from liteflow.execution.active import ActiveRun, Listener
    from liteflow.execution.leasing import LeaseKeeper
    from liteflow.execution.liveness import OwnLock
    from liteflow.execution.loop import Loop
    from liteflow.execution.pools import PoolGuard
    from liteflow.execution.prepared import PreparedDag
    from liteflow.execution.recovery import Recoverer, TakenUp
    from liteflow.execution.rerunning import Origin
    from liteflow.execution.triggering import Triggering
    from liteflow.storage.engine import Database
    from liteflow.storage.history import DagRun, History
    from liteflow.storage.recovery import RecordedRun

STOP_GRACE_S = 10.0
"""How long what runs may go on when a service is stopped."""

INTERRUPT_GRACE_S = 5.0
"""How long what runs may go on when a service is interrupted."""

MOST_PRIORITY = 2**31 - 1

TAKEN_UP_POLL_S = 0.05
"""How often it is looked whether a run has been taken up."""

MOST_PREPARED_DAGS = 64
"""How many dags are kept ready that were only submitted; older ones are made ready again when they are once more."""


class Created(NamedTuple):
    """A run that was made just now: its key, those of its task instances, and when."""

    pk: int
    pks: list[int]
    at_us: int


class ExecutorService:
    """Runs dags over one set of slots, several runs at once, until it is stopped.

        with ExecutorService("etl.db", max_workers=4) as service:
            handle = service.submit(dag, {"day": "2026-01-01"})
            run = handle.wait()

    `db_path`: the database, default `$LITEFLOW_DB`, else `liteflow.db`; created if it is missing. `dags`: known from
    the start; `submit` makes its dag known too. `max_workers`: the number of slots, default the usable CPUs.
    `executor`: what runs tasks that do not say it themselves. `"processes"` (the default) are the slots, `"threads"`
    threads of this process, `"dask://HOST:PORT"` the cluster with that scheduler; any `concurrent.futures.Executor` is
    used as it is, and not shut down. One that breaks ends the service; its runs can be resumed. `pools`: names and
    slots of pools that are made, or changed, in the database when the service starts. `recover`: whether runs of the
    dags that it knows, with the structure that they have now, are gone on with when what drove them is dead.

    Leaving the `with` block (or `async with`) waits for the runs that the service drives; an exception that leaves
    it cancels them, but for KeyboardInterrupt and its like, which stop the service as `interrupt` does.

    It belongs to the process that starts it: one that was made before a fork can be started after it, in as many
    children as there are; a child of the process that started it must make its own, and leaves its parent's alone.
    One that nobody stops ends with the interpreter: what runs is told to end, and its runs wait to be taken up.
    """

    def __init__(
        self,
        db_path: str | os.PathLike[str] | None = None,
        *,
        dags: Iterable[Dag] = (),
        max_workers: int | None = None,
        executor: Executor | str | None = None,
        pools: Mapping[str, int] | None = None,
        recover: bool = True,
    ) -> None:
        if max_workers is not None and (
            isinstance(max_workers, bool) or not isinstance(max_workers, int) or max_workers < 1
        ):
            raise ServiceError(f"max_workers={max_workers!r} must be a whole number, 1 or more")
        check_executor(executor)
        self._db_path = db_path
        self._max_workers = max_workers
        self._executor = executor
        self._wanted_pools = _checked_pools(pools or {})
        self._recovers = recover
        self._recoverer: Recoverer | None = None
        self._engine: Engine | None = None
        self._database: Database | None = None
        self._history: History | None = None
        self._lock: OwnLock | None = None
        self._keeper: LeaseKeeper | None = None
        """Renews its lease, where it has one."""
        self._executor_pk = 0
        self._thread: threading.Thread | None = None
        self._mutex = threading.Lock()
        """Guards the dags that are kept ready."""
        self._prepared: dict[int, PreparedDag] = {}
        self._registered: set[int] = set()
        """Those of them that are kept for good."""
        self._offered: dict[str, Dag] = {}
        """By id: dags that are made ready when a task begins a run of them."""
        self._triggering: Triggering | None = None
        self._code_numbers: dict[int, tuple[Any, int, Code]] = {}
        """By id of the function: itself (so that no other gets that id), number, code."""
        self._pid: int | None = None
        """Of the process that started it."""
        self._starting = threading.Lock()
        self._pools: PoolGuard | None = None
        self._loop: Loop | None = None
        self._stopped = False
        self._interrupts = 0
        self._ended = threading.Event()
        """Set when the thread has nothing left to do."""
        for dag in dags:
            self.register(dag)

    # What applications call

    def start(self) -> Self:
        """Begin to work. Raises StorageError when the database cannot be used, MissingMainGuard while a dag file is
        only being imported. A second call does nothing."""
        refuse_while_loading("ExecutorService.start()")
        self._refuse_in_child()
        with self._starting:
            self._start()
        return self

    def _start(self) -> None:
        if self._thread is not None:
            return
        if self._stopped:
            raise ServiceError("the service was stopped; make a new one")
        self._pid = os.getpid()
        # The slots get ready while this process imports SQLAlchemy.
        self._engine = engine_of(self._executor, self._max_workers)
        try:
            self._engine.start()
            self._open()
        except BaseException as error:
            self._engine.close(kill=True)
            if self._keeper is not None:
                self._keeper.stop()
            if self._lock is not None:
                self._lock.release()
            if self._database is not None:
                self._database.close()
            if isinstance(error, OSError):
                raise ServiceError(f"cannot start {self._engine.size()} workers: {error}; use fewer") from error
            raise
        thread = threading.Thread(target=self._run, name="liteflow-service", daemon=True)
        thread.start()
        self._thread = thread
        stop_at_exit(self)

    def _open(self) -> None:
        from liteflow.execution import leasing
        from liteflow.execution.liveness import OwnLock
        from liteflow.execution.loop import Loop
        from liteflow.execution.places import lock_directory, make_place
        from liteflow.execution.pools import PoolGuard
        from liteflow.execution.recovery import Recoverer
        from liteflow.execution.triggering import Triggering
        from liteflow.storage import leases
        from liteflow.storage.engine import connect
        from liteflow.storage.history import History
        from liteflow.storage.schema import open_database

        self._database = open_database(self._db_path, create=True)
        self._database.remember_file()
        self._history = History(connect(self._database.url, pooled=False))  # outlives the service, in its runs
        token = secrets.token_hex(8)
        self._database.call_connections(token)
        place = make_place(self._database.path) if self._database.has_leases else None
        try:
            self._lock = OwnLock(self._database.path, token)
        except OSError as error:
            from liteflow.errors import StorageError

            raise StorageError(
                f"{self._database.path}.locks: cannot be written ({error.strerror}); make its directory writable",
                path=self._database.path,
            ) from error
        assert self._engine is not None
        began_at = steady_s()
        if place is not None:
            self._engine.live_until(began_at + leasing.LOST_S)
        self._engine.hold_locks(str(lock_directory(self._database.path)), token)
        self._executor_pk = self._database.attempt(lambda connection: self._record_itself(connection, token, place))
        self._pools = PoolGuard(self._database)
        self._recoverer = Recoverer(self._database, self._executor_pk)
        recover = self._take_up_interrupted if self._recovers else None
        self._triggering = Triggering(
            self._database, self._executor_pk, self._pools, self._recoverer, self._find_dag, self._known_dags
        )
        self._loop = Loop(
            self._engine, self._database, self._executor_pk, self._pools, recover, triggering=self._triggering
        )
        # What may be recorded as ours, and is not known here, others could never take up while we live.
        self._database.when_unsettled = self._loop.lose
        if place is not None:
            self._keeper = leasing.LeaseKeeper(
                connect(self._database.url, pooled=False),
                self._executor_pk,
                self._loop.lose,
                began_at=began_at,
                renew_s=leasing.RENEW_S,
                lost_s=leasing.LOST_S,
                lease_s=leases.LEASE_S,
                renewed=self._note_renewed,
            )
            self._keeper.start()

    def _note_renewed(self, until: float) -> None:
        """Its lease was renewed: what it runs may go on until that time, and its lock files are in use."""
        assert self._engine is not None
        assert self._lock is not None
        self._engine.live_until(until)
        self._lock.touch()

    def _record_itself(self, connection: Connection, token: str, place: str | None) -> int:
        """Note that the service begins; returns its key."""
        from liteflow.execution.processes import start_time_of
        from liteflow.storage import leases, pools, recording

        started_at = start_time_of(os.getpid())
        pk = recording.record_executor(connection, token, socket.gethostname(), started_at, clock_us())
        if place is not None:
            leases.begin(connection, pk, place, leases.LEASE_S)
        for name, slots in self._wanted_pools.items():
            pools.set_pool(connection, name, slots)
        return pk

    def register(self, dag: Dag) -> None:
        """Make a dag known, checked and ready to run. Interrupted runs of it are gone on with, see `recover`."""
        self._prepare(dag, for_good=True)

    def _offer(self, dags: Iterable[Dag]) -> None:
        """Have these dags at hand for tasks that begin runs of them. Each is made ready only then."""
        self._offered.update({dag.dag_id: dag for dag in dags})

    def _find_dag(self, dag_id: str) -> PreparedDag | None:
        """The dag of that id that was made known last."""
        with self._mutex:
            known = [one for one in self._prepared.values() if one.dag.dag_id == dag_id]
        if known:
            return known[-1]
        return self._prepare(self._offered[dag_id], for_good=True) if dag_id in self._offered else None

    def _known_dags(self) -> dict[str, Dag]:
        """By id the dags of which tasks may begin runs."""
        with self._mutex:
            return {**self._offered, **{one.dag.dag_id: one.dag for one in self._prepared.values()}}

    def _note_triggered(self) -> None:
        """From now on note which runs tasks begin."""
        assert self._triggering is not None
        self._triggering.begun = []

    def _triggered(self) -> list[RunHandle]:
        """The runs that tasks have begun since then, in order."""
        begun = self._triggering.begun if self._triggering is not None else None
        return [RunHandle(self, run.pk, run, run.prepared) for run in list(begun or ())]

    def submit(
        self,
        dag: Dag,
        params: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        logical_date: datetime | None = None,
        priority: int = 0,
        *,
        alone: bool = False,
        listener: Listener | None = None,
    ) -> RunHandle:
        """Commit a run as queued and return at once. See `Dag.run` for the arguments.

        `priority`: of several runs in this service, the slots go to those with the greatest first; runs with the same
        one share them. It also says which of those begins next that wait for `max_active_runs`.

        `run_id` is an idempotency key: the run of that id, whoever drives it, is what the handle then stands for. One
        that was interrupted goes on here. With `alone` a new run is made only while no other run of the dag goes on,
        in whatever process; RunActiveError names that one otherwise.
        `listener` is called with each `RunEvent`, in the service's thread: it must be quick.
        """
        refuse_while_loading("service.submit()")
        self._refuse_when_unusable()
        prepared = self._prepare(dag)
        name, moment, params_json = check_request(dag, params, run_id, logical_date)
        _check_priority(priority)
        assert self._pools is not None
        self._check(prepared)
        must_match_date = logical_date is not None
        if alone:
            self._see_who_goes_on(dag.dag_id)
        created = self._create(
            prepared, name, moment, params_json, must_match_date=must_match_date, alone=alone, priority=priority
        )
        if created is None:
            return self._stand_for(prepared, name, listener)
        return self._begin(prepared, name, moment, params_json, created, listener, priority)

    async def asubmit(
        self,
        dag: Dag,
        params: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        logical_date: datetime | None = None,
        priority: int = 0,
        *,
        alone: bool = False,
    ) -> RunHandle:
        """As `submit`, without holding up the event loop while the run is committed. When the task that waits is
        cancelled, so is the run."""
        import asyncio

        submitting = asyncio.ensure_future(
            asyncio.to_thread(self.submit, dag, params, run_id, logical_date, priority, alone=alone)
        )
        try:
            return await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(_cancel_what_was_submitted)
            raise

    def handle(self, dag: Dag | str, run_id: str) -> RunHandle:
        """The handle of a run that is there already, whoever submitted it and whichever process drives it.

        `dag`: the dag, or its id. Of one that the service knows the run goes on here when its process dies while
        somebody waits for it. Raises NotFoundError.
        """
        self._refuse_when_unusable()
        if isinstance(dag, Dag):
            prepared: PreparedDag | None = self._prepare(dag)
        else:
            with self._mutex:
                prepared = next((one for one in self._prepared.values() if one.dag.dag_id == dag), None)
        dag_id = dag.dag_id if isinstance(dag, Dag) else dag
        run = self._recorded(dag_id, run_id)
        mine = self._loop.runs.get(run.pk) if self._loop is not None else None
        return RunHandle(self, run.pk, mine, prepared)

    def _begin(
        self,
        prepared: PreparedDag,
        name: str,
        moment: datetime,
        params_json: str,
        created: Created,
        listener: Listener | None,
        priority: int = 0,
    ) -> RunHandle:
        """Have the loop begin a run that was created just now."""
        from liteflow.execution.active import ActiveRun

        pk, pks, created_us = created
        run = ActiveRun(
            prepared,
            pk=pk,
            pks=pks,
            run_id=name,
            logical_date=moment,
            params_json=params_json,
            created_us=created_us,
            priority=priority,
            listener=listener,
        )
        if not self._tell_loop(run):
            assert self._history is not None
            self._history.cancel(pk)
            raise ServiceError("the service was stopped before the run could begin; it is recorded as cancelled")
        return RunHandle(self, pk, run, prepared)

    def resume(
        self,
        dag: Dag,
        run_id: str,
        *,
        accept_changes: bool = False,
        force: bool = False,
        listener: Listener | None = None,
    ) -> RunHandle:
        """Go on with a run that was interrupted, or try a failed one once more. See `Dag.resume` for what that means.

        The handle of a run that succeeded, or that this service drives already, is returned as it is. Raises
        NotFoundError, RunOwnedError while another process drives the run, and RunConflictError when the dag is not
        what the run began with.
        """
        refuse_while_loading("service.resume()")
        self._refuse_when_unusable()
        prepared = self._prepare(dag)
        assert self._pools is not None
        self._check(prepared)
        while True:
            run = self._recorded(dag.dag_id, run_id)
            mine = self._loop.runs.get(run.pk) if self._loop is not None else None
            if run.state is RunState.SUCCESS or mine is not None:
                return RunHandle(self, run.pk, mine, prepared)
            if run.owner is not None and run.owner.pk == self._executor_pk and not run.state.is_terminal:
                self._refuse_when_unusable()
                time.sleep(0.01)  # it was taken up unasked just now, and the loop is about to hear of it
                continue
            handle = self._take_up(prepared, run, accept_changes=accept_changes, force=force, listener=listener)
            if handle is not None:
                return handle
            time.sleep(0.01)  # others have got hold of it, or of its owner's lease, just now

    def rerun(
        self,
        dag: Dag,
        from_run: str,
        *,
        only_failed: bool = False,
        params: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        listener: Listener | None = None,
    ) -> RunHandle:
        """Begin a run that repeats another one. See `Dag.rerun` for what that means, and `submit` for the handle."""
        refuse_while_loading("service.rerun()")
        self._refuse_when_unusable()
        from liteflow.execution.rerunning import Origin

        prepared = self._prepare(dag)
        assert self._pools is not None
        self._check(prepared)
        source = self._recorded(dag.dag_id, from_run)
        if only_failed:
            _refuse_only_failed(source, params)
        known = decode("json", source.params_json.encode())
        wanted_id = run_id if run_id is not None else fresh_run_id("rerun", source.logical_date)
        name, moment, params_json = check_request(
            dag, {**known, **(params or {})}, wanted_id, source.logical_date, more=known
        )
        origin = Origin(source, only_failed)
        created = self._create(prepared, name, moment, params_json, must_match_date=True, origin=origin)
        if created is None:
            return self._stand_for(prepared, name, listener)
        if not only_failed:
            return self._begin(prepared, name, moment, params_json, created, listener)
        return self._stand_for(prepared, name, listener)  # it has a past, as one that was interrupted

    def interrupt(self, grace_s: float = INTERRUPT_GRACE_S) -> None:
        """Stop soon: nothing more is begun, and what still runs after `grace_s` seconds is told to end.

        It is killed after its own grace. What was not finished goes back to the queue, and its runs can be resumed. A
        second call, or one with 0 seconds, kills what runs at once. Returns at once; `stop` waits.
        """
        if self._loop is None or os.getpid() != self._pid:
            return
        self._interrupts += 1
        if self._interrupts > 1 or grace_s <= 0:
            self._loop.kill()
        else:
            self._loop.interrupt(grace_s)

    def _begin_no_more(self) -> None:
        """What the first `interrupt` does, which may follow: it is not counted as one."""
        if self._loop is not None:
            self._loop.interrupt(INTERRUPT_GRACE_S)

    def stop(self, grace_s: float | None = STOP_GRACE_S, *, cancel: bool = False) -> None:
        """Stop, and return when everything has ended. A second call does nothing.

        Nothing more is begun, and what runs may go on for `grace_s` seconds before it is told to end. Runs that are not
        over by then are gone on with by other services that know their dags, or by `resume`; waiting for them here
        raises RunInterruptedError. With `grace_s=None`, as when the `with` block is left, it waits until the runs that
        it drives are over; with `cancel` they are cancelled.

        Ctrl-C while it waits interrupts the service, see `interrupt`, and raises KeyboardInterrupt in the end.
        """
        thread = self._thread
        if thread is None or os.getpid() != self._pid:
            return
        assert self._loop is not None
        if grace_s is not None and not cancel:
            self._loop.interrupt(grace_s)
        self._loop.stop(cancel=cancel)
        interrupted: KeyboardInterrupt | None = None
        # Not join(): up to Python 3.12 a living thread counts as dead once that is interrupted.
        while not self._ended.is_set():
            try:
                self._ended.wait()
            except KeyboardInterrupt as error:
                interrupted = error
                self.interrupt()
        self._thread, self._stopped = None, True
        if interrupted is not None:
            raise interrupted

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self.interrupt()
        self.stop(None, cancel=kind is not None and issubclass(kind, Exception))

    async def __aenter__(self) -> Self:
        """As `with`, without holding up the event loop."""
        import asyncio

        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self.__exit__, kind, error, trace)))

    # Getting a run in

    def _prepare(self, dag: Dag, *, for_good: bool = False) -> PreparedDag:
        from liteflow.execution.prepared import PreparedDag

        self._refuse_in_child()
        if dag.is_metadata_only:
            raise MetadataOnlyError(
                f"dag {dag.dag_id!r} was loaded from the database, which holds no code; run the script that defines it "
                f"({dag.place.file})"
            )
        with self._mutex:
            if for_good:
                self._registered.add(id(dag))
            known = self._prepared.get(id(dag))
            if known is None or known.dag is not dag or known.digest != dag.structure_digest():
                known = self._prepared[id(dag)] = PreparedDag(dag, self._code_of)
                passing = [key for key in self._prepared if key not in self._registered]
                if len(passing) > MOST_PREPARED_DAGS:  # an application may build a dag for each run
                    del self._prepared[passing[0]]
            return known

    def _check(self, prepared: PreparedDag) -> None:
        """Raise a LiteflowError for a dag that names a pool that there is not, or asks its executor for nonsense."""
        assert self._pools is not None
        self._pools.check(prepared)
        check_dag = getattr(self._engine, "check_dag", None)
        if check_dag is not None:
            check_dag(prepared.dag)

    def _code_of(self, function: Callable[..., Any], whose: str) -> tuple[int, Code]:
        key = id(function)  # not itself: functions that are equal need not do the same
        if key not in self._code_numbers:
            self._code_numbers[key] = (function, len(self._code_numbers) + 1, describe(function, whose))
        _, number, code = self._code_numbers[key]
        return number, code

    def _create(
        self,
        prepared: PreparedDag,
        run_id: str,
        moment: datetime,
        params_json: str,
        *,
        must_match_date: bool,
        alone: bool = False,
        priority: int = 0,
        origin: Origin | None = None,
    ) -> Created | None:
        """Insert the run; None if there is one of that id, which is another request for the same.

        `origin`: the run that it repeats. One that begins with that run's values has no owner yet: it is taken up.
        """
        from liteflow.execution.places import noted_as
        from liteflow.execution.recorder import task_facts
        from liteflow.storage import recording, reusing
        from liteflow.storage.recording import ExistingRun

        assert self._database is not None
        dag = prepared.dag
        now_us = clock_us()
        database = noted_as(self._database.path)
        refuse_own_run(database, dag.dag_id, run_id)

        def create(connection: Connection) -> Created | ExistingRun:
            existing = recording.find_existing_run(connection, dag.dag_id, run_id)
            if existing is not None:
                return existing
            refuse_own_limit(database, dag, run_id)
            if alone:
                self._refuse_active(connection, dag.dag_id)
            dag_pk = recording.record_dag(connection, dag_facts(dag, prepared.digest), now_us)
            plan = None
            tasks = [task_facts(prepared, number) for number in range(len(prepared.tasks))]
            if origin is not None and origin.only_failed:
                from liteflow.execution.rerunning import plan_of

                plan = plan_of(connection, prepared, origin.run)
                tasks = plan.tasks
            pk, pks = recording.create_run(
                connection,
                dag_pk,
                run_id=run_id,
                logical_date=moment,
                params_json=params_json,
                structure_digest=prepared.digest,
                executor_pk=self._executor_pk if plan is None else None,
                tasks=tasks,
                now_us=now_us,
                rerun_of=None if origin is None else origin.run.run_id,
                priority=priority,
            )
            if plan is not None and origin is not None:
                places = [(task.task_id, index) for task in tasks for index in task.map_indexes]
                reused = [
                    (key, plan.reused[place]) for key, place in zip(pks, places, strict=True) if place in plan.reused
                ]
                reusing.reuse(connection, origin.run.pk, pk, reused, now_us)
                self._refuse_what_cannot_go_on(connection, prepared, run_id, origin.run.run_id)
            return Created(pk, pks, now_us)

        found = self._database.attempt(create, durable=True)
        if isinstance(found, Created):
            return found
        existing = found
        if origin is not None and existing.rerun_of != origin.run.run_id:
            raise RunConflictError(
                f"run {run_id!r} of dag {dag.dag_id!r} exists and is no rerun of {origin.run.run_id!r}; choose another "
                "run id",
                run_id=run_id,
            )
        refuse_conflict(existing, dag, run_id, moment if must_match_date else None, params_json, prepared.digest)
        return None

    def _refuse_what_cannot_go_on(
        self, connection: Connection, prepared: PreparedDag, run_id: str, source_id: str
    ) -> None:
        """Raise RunConflictError while a run that begins with the values of another is not committed yet."""
        from liteflow.execution.recovery import known_instances, refuse_other_lengths
        from liteflow.storage import recovery

        run = recovery.find_run(connection, prepared.dag.dag_id, run_id)
        assert run is not None
        instances = known_instances(prepared, recovery.instances_of(connection, run.pk))
        refuse_other_lengths(connection, prepared, run, instances, source_id=source_id)

    def _see_who_goes_on(self, dag_id: str) -> None:
        """Wait until each run of the dag is driven, over, or one that nobody takes up."""
        from liteflow.execution.waiting import Waiting
        from liteflow.storage import recovery

        assert self._database is not None
        waiting = Waiting(self._database.path, self._executor_pk, counts_itself=self._recovers)

        def is_unclear(connection: Connection) -> bool:
            runs = recovery.unfinished_runs_of(connection, dag_id)
            return any(waiting.goes_on(connection, run) and not waiting.is_driven(run) for run in runs)

        while True:
            if not self._database.look(is_unclear):
                return
            time.sleep(TAKEN_UP_POLL_S)

    def _refuse_active(self, connection: Connection, dag_id: str) -> None:
        """Raise RunActiveError when a run of the dag goes on; one whose owner is dead does not."""
        from liteflow.storage import recovery

        for run in recovery.unfinished_runs_of(connection, dag_id):
            if run.owner is not None and self._is_driven(run):
                where = f"in process {run.owner.pid} on {run.owner.host}"
                raise RunActiveError(
                    f"run {run.run_id!r} of dag {dag_id!r} is still going, since "
                    f"{run.created_at:%Y-%m-%d %H:%M:%S} UTC, {where}",
                    run_id=run.run_id,
                    pid=run.owner.pid,
                )

    # Runs that are there already

    def _recorded(self, dag_id: str, run_id: str) -> RecordedRun:
        from liteflow.errors import NotFoundError
        from liteflow.storage import recovery

        assert self._database is not None
        found = self._database.look(lambda connection: recovery.find_run(connection, dag_id, run_id))
        if found is None:
            raise NotFoundError(
                f"{self._database.path}: no run {run_id!r} of dag {dag_id!r}. See: liteflow runs", identifier=run_id
            )
        return found

    def _stand_for(self, prepared: PreparedDag, run_id: str, listener: Listener | None) -> RunHandle:
        """The handle of a run that was there already: one whose owner is gone goes on here."""
        while True:
            run = self._recorded(prepared.dag.dag_id, run_id)
            mine = self._loop.runs.get(run.pk) if self._loop is not None else None
            if run.state.is_terminal or mine is not None or self._is_driven(run):
                return RunHandle(self, run.pk, mine, prepared)
            handle = self._take_up(prepared, run, listener=listener)
            if handle is not None:
                return handle
            time.sleep(0.01)  # others have got hold of it, or of its owner's lease, just now

    def _is_driven(self, run: RecordedRun) -> bool:
        from liteflow.execution.liveness import is_alive

        assert self._database is not None
        return run.owner is not None and is_alive(self._database.path, run.owner)

    def take_up_again(self, prepared: PreparedDag, run: DagRun) -> ActiveRun | None:
        """Go on with a run whose owner has died while it was waited for; None if somebody else does, it is over, or
        `max_active_runs` others go on."""
        recorded = self._recorded(prepared.dag.dag_id, run.run_id)
        if recorded.state.is_terminal or self._is_driven(recorded):
            return self._loop.runs.get(recorded.pk) if self._loop is not None else None
        handle = self._take_up(prepared, recorded, within_limit=True)
        return None if handle is None else handle._run

    def _take_up(
        self,
        prepared: PreparedDag,
        run: RecordedRun,
        *,
        accept_changes: bool = False,
        force: bool = False,
        within_limit: bool = False,
        listener: Listener | None = None,
    ) -> RunHandle | None:
        """Make the run ours and go on with it; None when somebody else was first."""
        assert self._recoverer is not None
        taken = self._recoverer.take_up(
            prepared,
            run,
            accept_changes=accept_changes,
            force=force,
            within_limit=within_limit,
            listener=listener,
        )
        if taken is None:
            return None
        if self._loop is None or not self._loop.adopt(taken):
            raise ServiceError("the service was stopped before the run could go on; it can be resumed")
        return RunHandle(self, run.pk, taken.run, prepared)

    def _take_up_interrupted(self) -> tuple[list[TakenUp], bool]:
        """For the loop: interrupted runs of dags that are known, and whether these are all that there are."""
        assert self._recoverer is not None
        with self._mutex:
            known = {(one.dag.dag_id, one.digest): one for one in self._prepared.values()}
        return self._recoverer.take_up_unasked(self._recoverer.interrupted(known))

    # The thread

    def _tell_loop(self, run: ActiveRun) -> bool:
        """Have the loop drive a run; False when it takes nothing more."""
        return self._loop is not None and self._loop.begin(run)

    def _run(self) -> None:
        assert self._engine is not None
        assert self._loop is not None
        try:
            self._loop.run()
        finally:
            try:
                self._engine.close(kill=self._loop.broken is not None or self._loop.is_interrupted)
            finally:
                try:
                    self._close_storage()
                finally:
                    self._ended.set()

    def _close_storage(self) -> None:
        assert self._database is not None
        assert self._loop is not None
        try:
            if self._loop.broken is None:  # else its lock alone says that it is gone, as of one that was killed
                self._database.attempt(self._record_end)
        finally:
            if self._keeper is not None:
                self._keeper.stop()
            if self._lock is not None:
                self._lock.release()
            self._database.close()

    def _record_end(self, connection: Connection) -> None:
        from liteflow.storage import leases, recording, recovery

        assert self._database is not None
        if self._database.has_leases:
            leases.refuse_lost(connection, self._executor_pk, self._database.path)
        assert self._loop is not None
        broken = self._loop.why_broken
        recovery.put_back(
            connection,
            clock_us(),
            executor_pk=self._executor_pk,
            reason=EndReason.CRASHED if broken else EndReason.CANCELLED,
            error=broken or "the executor service was stopped while it ran",
        )
        recording.end_executor(connection, self._executor_pk, clock_us())

    def _refuse_in_child(self) -> None:
        """Raise ServiceError in a forked child of the process that started it: its thread and slots are not here."""
        if self._pid not in (None, os.getpid()):
            raise ServiceError("this service belongs to the process that started it; make one in the forked child")

    def _end_with_interpreter(self) -> None:
        """Tell what runs to end, and begin no more; waits for nothing, and wakes nobody who waits for a run."""
        if self._loop is not None:
            self._loop.wakes_nobody = True
            self._loop.interrupt(0.0)

    def _refuse_when_unusable(self) -> None:
        self._refuse_in_child()
        loop = self._loop
        if loop is not None and loop.broken is not None:
            raise ServiceError(f"the service has given up: {loop.broken}") from loop.broken
        if loop is not None and loop.why_broken is not None:
            raise ServiceError(f"the service has ended: {loop.why_broken}; make a new one")
        if self._thread is None or loop is None or loop.is_stopping:
            raise ServiceError("the service is not running: use it in a with block, or call start()")


def _checked_pools(pools: Mapping[str, int]) -> dict[str, int]:
    for name, slots in pools.items():
        check_name("pool", name)
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 0:
            raise ServiceError(f"pool {name!r} cannot have {slots!r} slots; use a whole number, 0 or more")
    return dict(pools)


def _check_priority(priority: int) -> None:
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > MOST_PRIORITY:
        raise ServiceError(f"priority={priority!r} must be a whole number, at most {MOST_PRIORITY:,} either way")


def _cancel_what_was_submitted(submitting: asyncio.Future[RunHandle]) -> None:
    import asyncio

    if not submitting.cancelled() and submitting.exception() is None:
        handle = submitting.result()
        if not handle._cancel_here():
            asyncio.get_running_loop().run_in_executor(None, handle.cancel)


def _refuse_only_failed(source: RecordedRun, params: Mapping[str, Any] | None) -> None:
    if params:
        raise ParamError(
            "the values of a run belong to its params: with only_failed (--only-failed) none can be changed",
            param=next(iter(params)),
        )
    if not source.state.is_terminal:
        raise RunConflictError(
            f"run {source.run_id!r} of dag {source.dag_id!r} is not over ({source.state}): go on with it "
            "(--resume RUN), or cancel it first",
            run_id=source.run_id,
        )
