"""What has happened, for reading: dags, runs, task instances, XComs and logs as plain values.

What is handed out are frozen values that know where they came from. Listings
read what they list and nothing more, and never decode an XCom.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Integer, Row, bindparam, delete, exists, func, or_, select, type_coerce
from sqlalchemy.types import NullType

from liteflow.authoring.ids import MAX_LENGTH, did_you_mean, shown
from liteflow.errors import AmbiguousRunError, LiteflowError, NotFoundError, RunConflictError, XComDecodeError
from liteflow.states import EndReason, RunState, TaskInstanceState
from liteflow.storage import leases
from liteflow.storage.engine import Database, told_path
from liteflow.storage.functions import begins_with
from liteflow.storage.recording import end_unowned_run, request_cancel, request_cancel_of_task, text_for_database
from liteflow.storage.schema import open_database
from liteflow.storage.statements import Prepared, in_groups
from liteflow.storage.tables import DAG, DAG_RUN, EXECUTOR, LOG_RECORD, TASK_INSTANCE, TASK_TRY, XCOM
from liteflow.storage.untrusted import checked, names, refusing_strange_values
from liteflow.storage.values import task_values
from liteflow.storage.xcoms import decode

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

MOST_CANDIDATES = 20
"""How many runs an ambiguous beginning of an id lists."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class DagInfo:
    """A dag as the database knows it."""

    dag_id: str
    description: str | None
    tags: tuple[str, ...]
    params_json: str = field(repr=False)
    file: str | None
    runs: int
    latest: DagRun | None
    retain_runs: int | None
    """How many of its runs the dag said are to be kept; None for all."""
    retain_days: float | None
    """For how many days; None for ever."""

    @property
    def params(self) -> dict[str, Any]:
        """The defaults; empty when they cannot be decoded here.

        Decoding may import modules and load files that the database names: only for databases that you trust.
        """
        try:
            found: dict[str, Any] = decode("json", self.params_json.encode())
        except XComDecodeError:
            return {}
        return found


@dataclass(frozen=True)
class Owner:
    """The executor service that drives, or drove, a run."""

    pk: int
    token: str
    host: str
    pid: int
    process_started_at: int | None
    ended_at: datetime | None
    place: str | None = None
    """Names the directory of its lock file, for a database that is no file."""
    lease_left_us: int | None = field(default=None, compare=False)
    """For how long its lease held when this was read; None where its lock file alone says whether it lives."""
    read_at: float = field(default_factory=time.monotonic, compare=False, repr=False)
    """When that was, by the monotonic clock."""

    @property
    def has_lease(self) -> bool:
        """Whether its lease holds; True where it has none."""
        return self.lease_left_us is None or time.monotonic() < self.read_at + self.lease_left_us / 1e6

    def __post_init__(self) -> None:
        # The token becomes the name of a file, and the kernel is asked for the process.
        if not _TOKEN.fullmatch(checked(self).token) or not 0 < self.pid < 2**31:
            raise ValueError(f"{shown(self.token)}, process {self.pid}, is no executor")


OWNER_COLUMNS = (
    EXECUTOR.c.id,
    EXECUTOR.c.token,
    EXECUTOR.c.host,
    EXECUTOR.c.pid,
    EXECUTOR.c.process_started_at,
    EXECUTOR.c.ended_at,
    EXECUTOR.c.place,
    leases.left_us(),
)
"""What a statement selects to make an `Owner` of it."""


@dataclass(frozen=True)
class TaskInstanceInfo:
    """A task instance as it stood when it was read."""

    task_id: str
    map_index: int
    state: TaskInstanceState
    try_number: int
    end_reason: EndReason | None
    error: str | None
    """The last line of the latest try's error."""
    upstream: tuple[str, ...]
    trigger_rule: str
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None
    """When the next try is due, for `up_for_retry`; the next look of a sensor, for `up_for_reschedule`."""
    rendered_map_index: str | None
    """The label of a mapped task instance, if its task has a `map_index_template`."""
    pool: str | None
    """The pool that it takes slots of while it runs."""
    reschedules: int
    """How many times the latest try gave its slot back, and went on."""
    peak_rss_bytes: int | None
    """The most memory that the latest try and its children were seen to hold; None for tries of less than 100 ms."""
    slot: int | None
    """In which slot the latest try ran: 1, 2, ...; None before, and where there are no slots."""
    pk: int = field(repr=False)

    @property
    def duration(self) -> timedelta | None:
        """How long the latest try took, if it is over."""
        return self.ended_at - self.started_at if self.started_at and self.ended_at else None


@dataclass(frozen=True)
class TryInfo:
    """A try that is over and was followed by another."""

    task_id: str
    map_index: int
    try_number: int
    state: TaskInstanceState
    end_reason: EndReason | None
    error: str | None
    started_at: datetime | None
    ended_at: datetime | None
    slot: int | None


@dataclass(frozen=True)
class LogEntry:
    """A line of a task's log."""

    task_id: str
    map_index: int
    try_number: int
    at: datetime
    level: int | None
    """A number of `logging`; None for what was printed."""
    logger: str | None
    message: str


@dataclass(frozen=True)
class XComInfo:
    """An XCom, its value still encoded."""

    task_id: str
    map_index: int
    key: str
    encoding: str
    size_bytes: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class DagRun:
    """A run as it stood when it was read; `refresh()` reads it again."""

    run_id: str
    dag_id: str
    state: RunState
    end_reason: EndReason | None
    logical_date: datetime
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    params_json: str = field(repr=False)
    structure_digest: str = field(repr=False)
    rerun_of: str | None = field(repr=False)
    """The id of the run, of the same dag, that this one repeats. That run may be gone."""
    priority: int = field(repr=False)
    """Of several runs in one service the one with the greatest goes first."""
    owner: Owner | None = field(repr=False, compare=False)
    pk: int = field(repr=False)
    history: History = field(repr=False, compare=False)

    @property
    def duration(self) -> timedelta | None:
        """How long it ran, if it is over."""
        return self.ended_at - self.started_at if self.started_at and self.ended_at else None

    @property
    def params(self) -> dict[str, Any]:
        """The params with which it ran, defaults included.

        Decoding may import modules and load files that the database names: only for databases that you trust.
        """
        found: dict[str, Any] = decode("json", self.params_json.encode())
        return found

    def refresh(self) -> DagRun:
        """The same run, read again."""
        return self.history.run(self.pk)

    def task_instances(self) -> list[TaskInstanceInfo]:
        """All task instances, upstream before downstream, those of a mapped task by map index."""
        return self.history.task_instances(self.pk)

    def task_instance(self, task_id: str, map_index: int = -1) -> TaskInstanceInfo:
        """One task instance. Raises NotFoundError with the nearest id."""
        return self.history.task_instance(self, task_id, map_index)

    def tries(self) -> list[TryInfo]:
        """The tries that were followed by another; the latest ones stand in `task_instances()`."""
        return self.history.tries(self.pk)

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1, *, raw: bool = False) -> Any:
        """The value that a task handed on, None if there is none; `raw=True` gives its bytes as they are stored.

        Of a task that was expanded it is the list of the values of its successful instances by map index, with None
        for those that handed on nothing; `map_index` asks for one of them.

        Decoding may import modules and run what a pickle says: do it with databases that you trust. Raises
        XComDecodeError when a class is missing, NotFoundError when the run has no such task.
        """
        return self.history.xcom(self, task_id, key, map_index, raw=raw)

    def xcoms(self, task_id: str | None = None, map_index: int | None = None) -> list[XComInfo]:
        """Every XCom of the run, of one task, or of one of its instances, still encoded."""
        return self.history.xcoms(self, task_id, map_index)

    def logs(self, task_id: str | None = None, map_index: int | None = None) -> list[LogEntry]:
        """The log of one task, or of all, in the order in which it was written.

        `map_index`: only that of one instance of a mapped task. Raises NotFoundError when the run has no such task or
        instance, ValueError for a map index without a task.
        """
        return self.history.logs(self, task_id, map_index)

    def cancel(self) -> None:
        """Ask for the run's end: what runs is told to end and killed after its grace, the rest is skipped.

        Works from any process. Returns at once; a run that is over stays as it is. One that was interrupted is
        cancelled by whoever goes on with it.
        """
        self.history.cancel(self.pk)

    def cancel_task(self, task_id: str, map_index: int | None = None) -> int:
        """Ask for the end of one task, or one of its instances; what is below it goes by its trigger rules.

        Works from any process. Returns at once, with how many task instances were not over. Raises NotFoundError when
        the run has no such task or instance.
        """
        return self.history.cancel_task(self, task_id, map_index)

    def clear(
        self,
        *tasks: str | tuple[str, int],
        downstream: bool = False,
        upstream: bool = False,
        failed: bool = False,
        dry_run: bool = False,
    ) -> int:
        """Open task instances that are over again, with all of their retries; returns how many.

        `tasks`: task ids, of mapped tasks also `("add_one", 17)` for one instance. `downstream` and `upstream` add
        what is below and above them, as the run has recorded it. `failed` keeps only those that are failed,
        upstream_failed, or skipped since the run was ended early; without tasks it is all of these in the run.
        `dry_run` changes nothing.

        Their tries and logs are kept, their XComs go. What is below and was not named keeps its state, but for what of
        an interrupted run had begun, which waits again for what is cleared directly above it. A run that was
        over waits from then on, as `queued`, for `dag.resume` or for a service that knows its dag; this value itself
        stays as it was read, see `refresh()`. When the run goes on, the setups and teardowns around what was cleared
        run again too, and what a branch decided holds.

        Raises RunOwnedError while a process drives the run, NotFoundError for a task that the run has not, and
        RunConflictError when the run was changed or taken up by somebody else meanwhile, and nothing is changed then.
        """
        from liteflow.execution.correcting import clear_tasks

        choice = [(one, None) if isinstance(one, str) else one for one in tasks]
        return len(clear_tasks(self, choice, downstream=downstream, upstream=upstream, failed=failed, dry_run=dry_run))

    def mark(self, task_id: str, state: str, map_index: int | None = None) -> int:
        """Say that a task, or one of its instances, is `success`, `failed` or `skipped`; returns how many instances.

        Their tries, logs and XComs are kept, and `end_reason` is `marked`; of what handed on nothing the value is
        None. What is below keeps its state. The state of a run that is over follows, by its leaves; a run that goes on
        later does not run what was marked `success` or `skipped`. Raises as `clear` does, and ValueError for another
        state.
        """
        from liteflow.execution.correcting import mark_task

        return len(mark_task(self, task_id, map_index, TaskInstanceState(state)).instances)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the run, read again, as text and as Mermaid. `include`, `exclude`: the caller's to
        obey."""
        from liteflow.storage.summaries import task_summaries
        from liteflow.visualize.notebook import mime_bundle
        from liteflow.visualize.picture import run_picture

        try:
            run = self.refresh()
            with self.history.read() as connection:
                summaries = task_summaries(connection, self.pk)
        except LiteflowError:  # deleted meanwhile, or its database is
            return {"text/plain": repr(self)}
        return mime_bundle(run_picture(run.dag_id, run.run_id, str(run.state), summaries))


class History:
    """Reads one database. Its methods open a read scope each. The database should not be pooled: nobody closes it.

    StorageError when rows hold what no liteflow writes.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read scope of the database in which what cannot be made of its rows becomes a StorageError."""
        with refusing_strange_values(self.database.path), self.database.read() as connection:
            yield connection

    # Dags

    def dag(self, dag_id: str) -> DagInfo:
        """One dag. Raises NotFoundError with the nearest id."""
        with self.read() as connection:
            row = connection.execute(select(DAG).where(DAG.c.dag_id == text_for_database(dag_id))).one_or_none()
            if row is None:
                known = list(connection.scalars(select(DAG.c.dag_id)))
                raise NotFoundError(
                    f"{self.database.path}: no dag {_quoted(dag_id)} has run here{did_you_mean(dag_id, known)}",
                    identifier=dag_id,
                )
            return self._dag_infos(connection, [row])[0]

    def dags(self) -> list[DagInfo]:
        """All dags, by id."""
        with self.read() as connection:
            return self._dag_infos(connection, connection.execute(select(DAG).order_by(DAG.c.dag_id)).all())

    def _dag_infos(self, connection: Connection, rows: Sequence[Row[Any]]) -> list[DagInfo]:
        latest: dict[int, DagRun] = {}
        newest = {row.id: pk for row in rows for (pk,) in _LATEST_RUN.fetch(connection, row.id)}
        for some in in_groups(list(newest.values())):
            latest.update((run.pk, run) for run in self._select_runs(connection, DAG_RUN.c.id.in_(some)))
        return [self._dag_info(connection, row, latest.get(newest.get(row.id, -1))) for row in rows]

    def _dag_info(self, connection: Connection, row: Row[Any], latest: DagRun | None) -> DagInfo:
        ((count,),) = _COUNT_OF_RUNS.fetch(connection, row.id)
        return checked(
            DagInfo(
                row.dag_id,
                row.description,
                names(row.tags),
                row.params,
                row.file,
                count,
                latest,
                row.retain_runs,
                row.retain_days,
            )
        )

    # Runs

    def runs(
        self,
        *,
        dag_id: str | None = None,
        state: str | Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: DagRun | None = None,
        limit: int | None = None,
    ) -> list[DagRun]:
        """Runs, newest first: of one dag, in one state or one of several, created at `since` or later, before
        `until`, and older than the run `before`. Raises ValueError for a state that there is not."""
        run = DAG_RUN.c
        conditions: list[Any] = []
        if state is not None:
            conditions.append(_in_states({RunState(state)} if isinstance(state, str) else set(map(RunState, state))))
        if since is not None:
            conditions.append(run.created_at >= since)
        if until is not None:
            conditions.append(run.created_at < until)
        if before is not None:
            conditions.append(run.created_at <= before.created_at)
            conditions.append(or_(run.created_at < before.created_at, run.id < before.pk))
        with self.read() as connection:
            if dag_id is not None:
                conditions.append(run.dag_pk == connection.scalar(_dag_pk(dag_id)))
            return self._select_runs(connection, *conditions, limit=limit)

    def latest_durations(self, dag_ids: Sequence[str], count: int) -> dict[str, list[tuple[RunState, timedelta]]]:
        """By dag id: the states and durations of its newest runs that had begun and are over, oldest first.

        At most `count` of each dag, and only the newest `2 * count` are looked at.
        """
        found = {}
        with self.read() as connection:
            for dag_id in dag_ids:
                rows = _LATEST_ENDS.fetch(connection, connection.scalar(_dag_pk(dag_id)), 2 * count)
                over = [
                    (RunState(state), timedelta(microseconds=ended - started))
                    for state, started, ended in rows
                    if started is not None and ended is not None
                ]
                found[dag_id] = over[:count][::-1]
        return found

    def run(self, pk: int) -> DagRun:
        """The run of that key. Raises NotFoundError when it was deleted."""
        with refusing_strange_values(self.database.path):
            found = self.database.look(lambda connection: self._select_runs(connection, DAG_RUN.c.id == pk))
        if not found:
            raise NotFoundError(f"{self.database.path}: the run is not there any more", identifier=str(pk))
        return found[0]

    def runs_named(self, dag_id: str, run_ids: Sequence[str]) -> list[DagRun]:
        """The runs of a dag that have one of these ids."""
        found: list[DagRun] = []
        with self.read() as connection:
            for some in in_groups(run_ids):
                found += self._select_runs(connection, DAG.c.dag_id == dag_id, DAG_RUN.c.run_id.in_(some))
        return found

    def find_run(self, identifier: str) -> DagRun:
        """The run that is named by `DAG/RUN`, a run id, a dag id (its latest run), or a unique beginning of a run id.

        Tried in that order: what is there in full is never taken for the beginning of something else. Raises
        AmbiguousRunError, which lists the candidates, and NotFoundError.
        """
        identifier = text_for_database(identifier)
        if not identifier.strip():
            raise NotFoundError("the name of the run is empty; name one of: liteflow runs", identifier=identifier)
        with self.read() as connection:
            dag_id, slash, run_id = identifier.partition("/")
            if slash:
                return self._only(identifier, self._runs_of(connection, dag_id, run_id), connection)
            found = self._select_runs(connection, DAG_RUN.c.run_id == identifier)
            if found:
                return self._only(identifier, found, connection)
            if connection.scalar(select(exists().where(DAG.c.dag_id == identifier))):
                return self._latest(connection, identifier)
            found = self._select_runs(connection, begins_with(DAG_RUN.c.run_id, identifier), limit=MOST_CANDIDATES)
            return self._only(identifier, found, connection)

    def find_run_of(self, dag_id: str, identifier: str) -> DagRun:
        """The run of that dag which `identifier` names, as `find_run` takes it, or its newest for `latest`.

        What would be ambiguous among all dags need not be so within one. Raises AmbiguousRunError and NotFoundError,
        also for a run of another dag.
        """
        identifier = text_for_database(identifier)
        here = DAG.c.dag_id == dag_id
        with self.read() as connection:
            if identifier == "latest":
                return self._latest(connection, dag_id)
            found = self._select_runs(connection, here, DAG_RUN.c.run_id == identifier)
            if found:
                return found[0]
        try:
            run = self.find_run(identifier)
        except AmbiguousRunError:
            with self.read() as connection:
                found = self._select_runs(
                    connection, here, begins_with(DAG_RUN.c.run_id, identifier), limit=MOST_CANDIDATES
                )
                if not found:
                    raise
                return self._only(identifier, found, connection)
        if run.dag_id != dag_id:
            raise NotFoundError(
                f"{identifier!r} is a run of dag {run.dag_id!r}, not of {dag_id!r}", identifier=identifier
            )
        return run

    def _runs_of(self, connection: Connection, dag_id: str, run_id: str) -> list[DagRun]:
        """The run of a dag with that id, or those whose ids begin so."""
        here = DAG.c.dag_id == dag_id
        return self._select_runs(connection, here, DAG_RUN.c.run_id == run_id) or self._select_runs(
            connection, here, begins_with(DAG_RUN.c.run_id, run_id), limit=MOST_CANDIDATES
        )

    def _latest(self, connection: Connection, dag_id: str) -> DagRun:
        latest = self._select_runs(connection, DAG.c.dag_id == dag_id, limit=1)
        if not latest and connection.scalar(select(exists().where(DAG.c.dag_id == dag_id))):
            raise NotFoundError(
                f"{self.database.path}: dag {_quoted(dag_id)} has no run yet. Start one with: liteflow run FILE",
                identifier=dag_id,
            )
        return self._only(dag_id, latest, connection)

    def _only(self, identifier: str, found: Sequence[DagRun], connection: Connection) -> DagRun:
        if len(found) == 1:
            return found[0]
        if found:
            candidates = tuple(f"{run.dag_id}/{run.run_id}" for run in found)
            more = ", ..." if len(candidates) == MOST_CANDIDATES else ""
            raise AmbiguousRunError(
                f"{_quoted(identifier)} could be any of: {', '.join(candidates)}{more}",
                identifier=identifier,
                candidates=candidates,
            )
        known = [*connection.scalars(select(DAG.c.dag_id))]
        known += connection.scalars(select(DAG_RUN.c.run_id).order_by(DAG_RUN.c.id.desc()).limit(200))
        raise NotFoundError(
            f"{self.database.path}: no run or dag {_quoted(identifier)}{did_you_mean(identifier, known)}. "
            "See: liteflow runs",
            identifier=identifier,
        )

    def _select_runs(self, connection: Connection, *conditions: Any, limit: int | None = None) -> list[DagRun]:
        run = DAG_RUN.c
        rows = connection.execute(
            select(DAG_RUN, DAG.c.dag_id, *OWNER_COLUMNS)
            .join(DAG, DAG.c.id == run.dag_pk)
            .outerjoin(EXECUTOR, EXECUTOR.c.id == run.executor_pk)
            .where(*conditions)
            .order_by(run.created_at.desc(), run.id.desc())
            .limit(limit)
        )
        return [self._run_view(row) for row in rows]

    def _run_view(self, row: Row[Any]) -> DagRun:
        owner = row[-len(OWNER_COLUMNS) :]
        return checked(
            DagRun(
                run_id=row.run_id,
                dag_id=row.dag_id,
                state=row.state,
                end_reason=row.end_reason,
                logical_date=row.logical_date,
                created_at=row.created_at,
                started_at=row.started_at,
                ended_at=row.ended_at,
                params_json=row.params,
                structure_digest=row.structure_digest,
                rerun_of=row.rerun_of,
                priority=row.priority,
                owner=None if owner[0] is None else Owner(*owner),
                pk=row.id,
                history=self,
            )
        )

    def cancel(self, pk: int) -> RunState:
        """Ask for a run's end; returns the state that it has now."""
        return self.database.attempt(
            lambda connection: request_cancel(connection, pk, time.time_ns() // 1000), durable=True
        )

    def cancel_task(self, run: DagRun, task_id: str, map_index: int | None = None) -> int:
        """See `DagRun.cancel_task`."""

        def request(connection: Connection) -> int:
            conditions_of_instances(connection, run, task_id, map_index)
            return request_cancel_of_task(connection, run.pk, task_id, map_index, time.time_ns() // 1000)

        return self.database.attempt(request, durable=True)

    def end_interrupted(self, run: DagRun) -> bool:
        """End a run as cancelled whose owner is gone; False when somebody has taken it up.

        The caller has made sure that the owner is gone, and what it ran. No teardown runs, and no callback.
        """
        with self.database.write(durable=True) as connection:
            owner_pk = run.owner.pk if run.owner is not None else None
            return end_unowned_run(connection, run.pk, owner_pk, time.time_ns() // 1000)

    def delete_run(self, pk: int, *, seen: DagRun | None = None) -> None:
        """Delete a run with its task instances, tries, XComs and logs. The caller has made sure that nobody drives it.

        With `seen` only while it stands as it did then; RunConflictError when somebody has gone on with it.
        """
        conditions = [DAG_RUN.c.id == pk]
        if seen is not None:
            owner_pk = None if seen.owner is None else seen.owner.pk
            conditions += [DAG_RUN.c.state == seen.state, DAG_RUN.c.executor_pk.is_not_distinct_from(owner_pk)]
        with self.database.write(durable=True) as connection:
            gone = connection.execute(delete(DAG_RUN).where(*conditions)).rowcount
            if not gone and connection.scalar(select(exists().where(DAG_RUN.c.id == pk))):
                run_id = "" if seen is None else seen.run_id
                raise RunConflictError(f"run {run_id!r} goes on again, and is not deleted; look at it", run_id=run_id)

    def delete_dag(self, dag_id: str) -> None:
        """Delete a dag with all its runs. The caller has made sure that they are over."""
        with self.database.write(durable=True) as connection:
            connection.execute(delete(DAG).where(DAG.c.dag_id == dag_id))

    # Within a run

    def task_instances(self, run_pk: int) -> list[TaskInstanceInfo]:
        """All task instances of a run, upstream before downstream, those of a mapped task by map index."""
        ti = TASK_INSTANCE.c
        with self.read() as connection:
            rows = connection.execute(select(TASK_INSTANCE).where(ti.run_pk == run_pk).order_by(*_task_order()))
            return [_instance_view(row) for row in rows]

    def task_instance(self, run: DagRun, task_id: str, map_index: int = -1) -> TaskInstanceInfo:
        """One task instance. Raises NotFoundError with the nearest id."""
        ti = TASK_INSTANCE.c
        with self.read() as connection:
            row = connection.execute(
                select(TASK_INSTANCE).where(
                    ti.run_pk == run.pk, ti.task_id == text_for_database(task_id), ti.map_index == map_index
                )
            ).one_or_none()
            if row is None:
                raise _no_instance(connection, run, task_id, map_index)
            return _instance_view(row)

    def tries(self, run_pk: int) -> list[TryInfo]:
        """Superseded tries of a run, oldest first."""
        old, ti = TASK_TRY.c, TASK_INSTANCE.c
        with self.read() as connection:
            rows = connection.execute(
                select(ti.task_id, ti.map_index, TASK_TRY)
                .join(TASK_INSTANCE, ti.id == old.task_instance_pk)
                .where(ti.run_pk == run_pk)
                .order_by(old.id)
            )
            return [
                checked(
                    TryInfo(
                        row.task_id,
                        row.map_index,
                        row.try_number,
                        row.state,
                        row.end_reason,
                        row.error,
                        row.started_at,
                        row.ended_at,
                        row.slot,
                    )
                )
                for row in rows.all()
            ]

    def xcom(self, run: DagRun, task_id: str, key: str, map_index: int, *, raw: bool) -> Any:
        """See `DagRun.xcom`."""
        wanted = None if map_index == -1 else map_index
        with self.read() as connection:
            found = task_values(connection, run.pk, text_for_database(task_id), key, wanted)
            if not found:
                raise _no_instance(connection, run, task_id, map_index)
        values = [
            data if raw or encoding is None or data is None else decode(encoding, data)
            for index, state, encoding, data in found
            if state is TaskInstanceState.SUCCESS or index == map_index
        ]
        is_expanded = found[0][0] != map_index
        return values if is_expanded else values[0]

    def xcoms(self, run: DagRun, task_id: str | None = None, map_index: int | None = None) -> list[XComInfo]:
        """Every XCom of a run, of one of its tasks or of one instance, by task, map index and key."""
        xcom, ti = XCOM.c, TASK_INSTANCE.c
        _check_map_index(task_id, map_index)
        with self.read() as connection:
            rows = connection.execute(
                select(ti.task_id, ti.map_index, xcom.key, xcom.encoding, xcom.size_bytes, _as_it_is(xcom.value))
                .join(TASK_INSTANCE, ti.id == xcom.task_instance_pk)
                .where(*conditions_of_instances(connection, run, task_id, map_index))
                .order_by(*_task_order(), xcom.key)
            )
            return [checked(XComInfo(*row)) for row in rows]

    def logs(self, run: DagRun, task_id: str | None = None, map_index: int | None = None) -> list[LogEntry]:
        """See `DagRun.logs`."""
        log, ti = LOG_RECORD.c, TASK_INSTANCE.c
        _check_map_index(task_id, map_index)
        with self.read() as connection:
            rows = connection.execute(
                select(ti.task_id, ti.map_index, log.try_number, log.at, log.level, log.logger, log.message)
                .join(TASK_INSTANCE, ti.id == log.task_instance_pk)
                .where(*conditions_of_instances(connection, run, task_id, map_index))
                .order_by(log.id)
            )
            return [checked(LogEntry(*row)) for row in rows]

    def active_runs(self, dag_id: str) -> list[DagRun]:
        """Runs of a dag that are queued or running."""
        with self.read() as connection:
            return self._select_runs(
                connection,
                DAG.c.dag_id == text_for_database(dag_id),
                or_(DAG_RUN.c.state == RunState.QUEUED, DAG_RUN.c.state == RunState.RUNNING),
            )


def _dag_pk(dag_id: str) -> Any:
    return select(DAG.c.id).where(DAG.c.dag_id == text_for_database(dag_id))


def _in_states(states: set[RunState]) -> Any:
    """The condition that a run is in one of the states.

    Few runs are not over, and the index of states finds them. Most are over: by that index all of these would be
    sorted to show the newest, so "||" keeps SQLite from it, and it goes through the runs by time.
    """
    column = DAG_RUN.c.state
    if any(state.is_terminal for state in states):
        return type_coerce(column.op("||")(""), column.type).in_(states)
    return column.in_(states)


_LATEST_RUN = Prepared(
    select(DAG_RUN.c.id)
    .where(DAG_RUN.c.dag_pk == bindparam("dag"))
    .order_by(DAG_RUN.c.created_at.desc(), DAG_RUN.c.id.desc())
    .limit(1),
    "dag",
)
_COUNT_OF_RUNS = Prepared(select(func.count()).select_from(DAG_RUN).where(DAG_RUN.c.dag_pk == bindparam("dag")), "dag")
_LATEST_ENDS = Prepared(
    select(DAG_RUN.c.state, DAG_RUN.c.started_at, DAG_RUN.c.ended_at)
    .where(DAG_RUN.c.dag_pk == bindparam("dag"))
    .order_by(DAG_RUN.c.created_at.desc(), DAG_RUN.c.id.desc())
    .limit(bindparam("count", type_=Integer)),
    "dag",
    "count",
)


def _quoted(identifier: str) -> str:
    return shown(identifier, MAX_LENGTH + 50)


def _as_it_is(column: Any) -> Any:
    """The column without SQLAlchemy's conversion, which would make as many zeros of a number as it says."""
    return type_coerce(column, NullType())


def _task_order() -> tuple[Any, Any]:
    """Upstream before downstream, then by map index.

    The place of a task is that of its first row: the rows of an expansion are added behind all others.
    """
    ti, first = TASK_INSTANCE.c, TASK_INSTANCE.alias().c
    place = (
        select(first.id)
        .where(first.run_pk == ti.run_pk, first.task_id == ti.task_id)
        .order_by(first.map_index)
        .limit(1)
        .correlate(TASK_INSTANCE)
        .scalar_subquery()
    )
    return place, ti.map_index


def _check_map_index(task_id: str | None, map_index: int | None) -> None:
    if task_id is None and map_index is not None:
        raise ValueError(f"map_index={map_index} needs a task_id")


def conditions_of_instances(
    connection: Connection, run: DagRun, task_id: str | None, map_index: int | None = None
) -> list[Any]:
    """The conditions for a run's task instances, those of a task, or one. Raises NotFoundError if there is none."""
    ti = TASK_INSTANCE.c
    conditions: list[Any] = [ti.run_pk == run.pk]
    if task_id is None:
        return conditions
    conditions.append(ti.task_id == text_for_database(task_id))
    if map_index is not None:
        conditions.append(ti.map_index == map_index)
    if not connection.scalar(select(exists().where(*conditions))):
        raise _no_instance(connection, run, task_id, -1 if map_index is None else map_index)
    return conditions


def check_instances(connection: Connection, run: DagRun, task_id: str, map_index: int | None = None) -> None:
    """Raise NotFoundError, with the nearest id, when the run has no such task or instance."""
    conditions_of_instances(connection, run, task_id, map_index)


def _no_instance(connection: Connection, run: DagRun, task_id: str, map_index: int) -> NotFoundError:
    """The error that tells a task that is not there from a map index that it has not."""
    ti = TASK_INSTANCE.c
    where = f"run {_quoted(run.run_id)} of dag {_quoted(run.dag_id)}"
    task = _quoted(task_id)
    first, last = connection.execute(
        select(func.min(ti.map_index), func.max(ti.map_index)).where(
            ti.run_pk == run.pk, ti.task_id == text_for_database(task_id)
        )
    ).one()
    if first is None:
        known = sorted(set(connection.scalars(select(ti.task_id).where(ti.run_pk == run.pk))))
        message = f"{where} has no task {task}{did_you_mean(task_id, known)}"
    elif first == -1:
        message = f"{where}: task {task} was not expanded; it has no map index {map_index}"
    else:
        message = f"{where}: task {task} was expanded; name one of its map indexes, 0 to {last}"
    return NotFoundError(message, identifier=task_id)


def _instance_view(row: Row[Any]) -> TaskInstanceInfo:
    return checked(
        TaskInstanceInfo(
            task_id=row.task_id,
            map_index=row.map_index,
            state=row.state,
            try_number=row.try_number,
            end_reason=row.end_reason,
            error=row.error,
            upstream=names(row.upstream),
            trigger_rule=row.trigger_rule,
            started_at=row.started_at,
            ended_at=row.ended_at,
            due_at=row.due_at,
            rendered_map_index=row.rendered_map_index,
            pool=row.pool,
            reschedules=row.reschedules,
            peak_rss_bytes=row.peak_rss_bytes,
            slot=row.slot,
            pk=row.id,
        )
    )


def open_history(db_path: str | os.PathLike[str] | None = None, *, pooled: bool = False) -> History:
    """The history in a database that exists. Raises StorageError in its three kinds when it cannot be used.

    `pooled`: for many scopes, one after the other; the caller closes its database.
    """
    with refusing_strange_values(told_path(db_path)):  # SQLite quotes a broken schema as it is
        return History(open_database(db_path, pooled=pooled))


@contextmanager
def read_session(db_path: str | os.PathLike[str] | None = None) -> Iterator[Session]:
    """A read-only SQLAlchemy session over the models of `liteflow.storage.models`, for queries of one's own.

    Raises StorageError when the database cannot be used. It sees one state of the database, for as long as it is open::

        from liteflow.storage.models import TaskInstance

        with liteflow.read_session("etl.db") as session:
            session.scalars(select(TaskInstance).where(TaskInstance.state == "failed")).all()
    """
    from sqlalchemy.orm import Session  # nothing else here needs the ORM, and it takes long to import

    with open_database(db_path, pooled=False).read() as connection, Session(connection) as session:
        yield session
