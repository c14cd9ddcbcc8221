"""Runs that tasks begin in other dags of their service, and tasks that wait for these runs.

All of it happens in the service's thread, when a task asks. The run, and the note whose it is, are one transaction:
a try that follows a crash finds the note, and takes the run as its own. The note names the run, so an id that was made
up need not be made up again. A try that follows one that raised begins another run, as in Airflow: the one before
has failed, or there is none.

A task that waits holds no slot (it is a sensor that is rescheduled), so runs that wait for each other cannot take all
slots. When a run that is driven here is over, those that wait for it look at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from liteflow.authoring.ids import did_you_mean
from liteflow.errors import LiteflowError
from liteflow.execution.active import ActiveRun
from liteflow.execution.answering import Answer
from liteflow.execution.clock import clock_us
from liteflow.execution.liveness import is_alive
from liteflow.execution.places import noted_as
from liteflow.execution.recorder import task_facts
from liteflow.execution.requests import check_request, dag_facts, fresh_run_id, refuse_own_limit
from liteflow.states import RunState
from liteflow.storage import correcting, recording, recovery, triggers
from liteflow.storage.moments import from_microseconds
from liteflow.storage.triggers import Triggered

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.authoring.dag import Dag
    from liteflow.execution.jobs import Job
    from liteflow.execution.pools import PoolGuard
    from liteflow.execution.prepared import PreparedDag
    from liteflow.execution.recovery import Recoverer, TakenUp
    from liteflow.storage.engine import Database
    from liteflow.storage.recovery import RecordedRun


class Wish(NamedTuple):
    """What a task asks for. Plain types only: it is part of a message, after its first word."""

    dag_id: str
    run_id: str | None
    conf: str | None
    """A JSON object; its keys need not be params of the dag."""
    logical_date_us: int | None
    reset: bool
    """Whether a run that is there already, and is over, runs again."""
    waits: bool


class Refused(Exception):
    """The wish cannot be granted; the text says why, in one line."""


class Triggering:
    """Grants what the tasks of one service wish. `find` gives a dag by its id, made ready, or None; `known` gives all
    that there are, by id."""

    def __init__(
        self,
        database: Database,
        executor_pk: int,
        pools: PoolGuard,
        recoverer: Recoverer,
        find: Callable[[str], PreparedDag | None],
        known: Callable[[], Mapping[str, Dag]],
    ) -> None:
        self._database = database
        self._executor_pk = executor_pk
        self._pools = pools
        self._recoverer = recoverer
        self._find = find
        self._known = known
        self._waiting: dict[int, list[tuple[ActiveRun, int]]] = {}
        """By key of a run: which task instances wait for it."""
        self.begun: list[ActiveRun] | None = None
        """Runs that were begun, or gone on with, since tasks wished it; only ever appended to. None: nobody asks."""

    def find_dag(self, dag_id: str) -> Dag | None:
        """A dag that the service knows."""
        return self._known().get(dag_id)

    def grant(self, job: Job, wish: Wish) -> tuple[Answer, ActiveRun | TakenUp | None]:
        """What the task is told, and what the loop has to drive now.

        The answer is `("run", run id, state)`, `("exists", run id, why)` for a run of somebody else's, or
        `("refused", why)`.
        """
        try:
            return self._grant(job, wish)
        except (Refused, LiteflowError) as error:
            return ("refused", str(error)), None

    def waiters_of(self, run: ActiveRun) -> list[tuple[ActiveRun, int]]:
        """The task instances that wait for a run that is over; they are forgotten."""
        return self._waiting.pop(run.pk, [])

    def _grant(self, job: Job, wish: Wish) -> tuple[Answer, ActiveRun | TakenUp | None]:
        pk = job.run.pks[job.index]

        def look(connection: Connection) -> tuple[Triggered | None, RecordedRun | None]:
            mine = triggers.triggered_by(connection, pk)
            return mine, None if mine is None else recovery.find_run(connection, mine.dag_id, mine.run_id)

        mine, found = self._database.look(look)
        if mine is None or found is None or mine.try_number != job.try_number or not _is_meant(mine, wish):
            made, found = self._make(job, wish, pk)
            if isinstance(made, tuple):
                return made, None
            if made is not None:
                self._note_begun(made)
                self._note_waiter(job, wish, made.pk)
                return ("run", made.run_id, str(RunState.QUEUED)), made
        assert found is not None
        if found.state.is_terminal:
            return ("run", found.run_id, str(found.state)), None
        self._note_waiter(job, wish, found.pk)
        return ("run", found.run_id, str(found.state)), self._taken_up(found)

    def _note_begun(self, run: ActiveRun) -> None:
        if self.begun is not None:
            self.begun.append(run)

    def _note_waiter(self, job: Job, wish: Wish, run_pk: int) -> None:
        waiter = (job.run, job.index)
        if wish.waits and waiter not in self._waiting.setdefault(run_pk, []):
            self._waiting[run_pk].append(waiter)

    def _taken_up(self, run: RecordedRun) -> TakenUp | None:
        """A run of the task's own that was interrupted, or reset, for the loop to go on with."""
        if run.owner is not None and is_alive(self._database.path, run.owner):
            return None
        prepared = self._find(run.dag_id)
        if prepared is None:
            raise Refused(self._unknown(run.dag_id))
        taken = self._recoverer.take_up(prepared, run)
        if taken is not None:
            self._note_begun(taken.run)
        return taken

    def _unknown(self, dag_id: str) -> str:
        known = sorted(self._known())
        return (
            f"no dag {dag_id!r} is known to the service that runs this task{did_you_mean(dag_id, known)}; it has "
            f"{', '.join(known)}. To make one known: put it into the file of `liteflow run FILE`, or "
            "dag.run(dags=[...]), or ExecutorService(dags=[...])"
        )

    def _make(self, job: Job, wish: Wish, pk: int) -> tuple[ActiveRun | Answer | None, RecordedRun | None]:
        """Create the run, or find that it is there: the new one, or what the task is told, or its own as recorded."""
        prepared = self._find(wish.dag_id)
        if prepared is None:
            raise Refused(self._unknown(wish.dag_id))
        self._pools.check(prepared)
        conf = json.loads(wish.conf) if wish.conf else {}
        moment = datetime.now(UTC) if wish.logical_date_us is None else from_microseconds(wish.logical_date_us)
        run_id = wish.run_id or fresh_run_id("manual", moment)
        run_id, moment, params_json = check_request(prepared.dag, conf, run_id, moment, more=conf)

        def make(connection: Connection) -> tuple[ActiveRun | Answer | None, RecordedRun | None]:
            if not triggers.is_running_try(connection, pk, job.try_number, self._executor_pk):
                raise Refused("this try was taken over by another service")
            mine = triggers.triggered_by(connection, pk)
            if mine is not None and _is_meant(mine, wish):
                found = recovery.find_run(connection, mine.dag_id, mine.run_id)
                is_new_try = mine.try_number != job.try_number
                if found is not None and not (
                    is_new_try and triggers.ended_with_error(connection, pk, mine.try_number)
                ):
                    triggers.keep_triggered(connection, pk, mine._replace(try_number=job.try_number))
                    return None, found
            there = self._somebody_elses(connection, wish, run_id)
            if there is not None and not wish.reset:
                return ("exists", there.run_id, f"run {there.run_id!r} of dag {wish.dag_id!r} exists already"), None
            self._refuse_circle(job, prepared.dag, there.run_id if there is not None else run_id, wish)
            if there is not None:
                self._reset(connection, there)
            name = run_id if there is None else there.run_id
            triggers.keep_triggered(connection, pk, Triggered(wish.dag_id, name, job.try_number))
            if there is not None:
                return None, recovery.find_run(connection, wish.dag_id, name)
            return self._create(connection, prepared, run_id, moment, params_json, job.run.priority), None

        return self._database.attempt(make, durable=True)

    def _somebody_elses(self, connection: Connection, wish: Wish, run_id: str) -> RecordedRun | None:
        """The run that is there in the place of the one that is wished for: of its id or, if it was given, its date."""
        found = recovery.find_run(connection, wish.dag_id, run_id)
        if found is not None or wish.logical_date_us is None:
            return found
        of_date = triggers.runs_of(connection, wish.dag_id, dates_us=[wish.logical_date_us])
        return recovery.find_run(connection, wish.dag_id, of_date[0].run_id) if of_date else None

    def _reset(self, connection: Connection, run: RecordedRun) -> None:
        """Make all of a run that is over pending again; it has no owner then, and is taken up."""
        if not run.state.is_terminal:
            raise Refused(
                f"run {run.run_id!r} of dag {run.dag_id!r} is {run.state}, and only one that is over can be reset"
            )
        recovery.refuse_half_deleted(connection, run)
        seen = correcting.SeenRun(run.pk, run.state, None if run.owner is None else run.owner.pk)
        correcting.settle_early_skips(connection, run.pk)
        opened = {"state": RunState.QUEUED, "executor_pk": None, "ended_at": None, "end_reason": None}
        correcting.change_run(connection, seen, cancel_requested_at=None, **opened)
        recording.reopen(connection, triggers.instances_of_run(connection, run.pk))
        correcting.forget_end(connection, run.pk)

    def _create(
        self,
        connection: Connection,
        prepared: PreparedDag,
        run_id: str,
        moment: datetime,
        params_json: str,
        priority: int,
    ) -> ActiveRun:
        now_us = clock_us()
        dag_pk = recording.record_dag(connection, dag_facts(prepared.dag, prepared.digest), now_us)
        pk, pks = recording.create_run(
            connection,
            dag_pk,
            run_id=run_id,
            logical_date=moment,
            params_json=params_json,
            structure_digest=prepared.digest,
            executor_pk=self._executor_pk,
            tasks=[task_facts(prepared, number) for number in range(len(prepared.tasks))],
            now_us=now_us,
            priority=priority,
        )
        return ActiveRun(
            prepared,
            pk=pk,
            pks=pks,
            run_id=run_id,
            logical_date=moment,
            params_json=params_json,
            created_us=now_us,
            priority=priority,
        )

    def _refuse_circle(self, job: Job, dag: Dag, run_id: str, wish: Wish) -> None:
        """Raise where the run would wait, for `max_active_runs`, for runs that wait for it."""
        refuse_own_limit(noted_as(self._database.path), dag, run_id)
        if dag.max_active_runs is None or not wish.waits:
            return
        around = [job.run]
        for run in around:  # grows while it is walked
            around += [one for one, _ in self._waiting.get(run.pk, ()) if one not in around]
        own = [run for run in around if run.dag.dag_id == dag.dag_id]
        if len(own) >= dag.max_active_runs:
            raise Refused(
                f"run {run_id!r} of dag {dag.dag_id!r} would wait for itself: with max_active_runs="
                f"{dag.max_active_runs} it begins when {own[0].dag.dag_id}/{own[0].run_id} is over, which waits for it"
            )


def _is_meant(mine: Triggered, wish: Wish) -> bool:
    """Whether the run that the task has begun is the one that it wishes for."""
    return mine.dag_id == wish.dag_id and wish.run_id in (None, mine.run_id)
