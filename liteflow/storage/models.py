"""The tables as mapped classes, for queries of one's own with `liteflow.read_session`.

What the columns hold stands in `tables`. liteflow itself makes no use of this module.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy.orm import DeclarativeBase, Mapped

from liteflow.states import EndReason, RunState, TaskInstanceState
from liteflow.storage import tables


class Base(DeclarativeBase):
    """The base of all models."""

    metadata = tables.metadata


class DagModel(Base):
    """What is known of a dag beside its code: one row for each dag id that ever ran in this database."""

    __table__ = tables.DAG
    if TYPE_CHECKING:
        id: Mapped[int]
        dag_id: Mapped[str]
        description: Mapped[str | None]
        tags: Mapped[str]
        params: Mapped[str]
        file: Mapped[str | None]
        structure_digest: Mapped[str]
        created_at: Mapped[datetime]
        updated_at: Mapped[datetime]
        retain_runs: Mapped[int | None]
        retain_days: Mapped[float | None]


class ExecutorRecord(Base):
    """An executor service that is, or was, at work on this database. Whether it lives is told by its lock file."""

    __table__ = tables.EXECUTOR
    if TYPE_CHECKING:
        id: Mapped[int]
        token: Mapped[str]
        host: Mapped[str]
        pid: Mapped[int]
        process_started_at: Mapped[int | None]
        started_at: Mapped[datetime]
        ended_at: Mapped[datetime | None]
        place: Mapped[str | None]
        lease_until: Mapped[int | None]


class DagRun(Base):
    """One execution of a dag."""

    __table__ = tables.DAG_RUN
    if TYPE_CHECKING:
        id: Mapped[int]
        dag_pk: Mapped[int]
        run_id: Mapped[str]
        state: Mapped[RunState]
        end_reason: Mapped[EndReason | None]
        logical_date: Mapped[datetime]
        params: Mapped[str]
        structure_digest: Mapped[str]
        executor_pk: Mapped[int | None]
        created_at: Mapped[datetime]
        started_at: Mapped[datetime | None]
        ended_at: Mapped[datetime | None]
        cancel_requested_at: Mapped[datetime | None]
        rerun_of: Mapped[str | None]
        priority: Mapped[int]


class TaskInstance(Base):
    """A task in a run: where it stands, and its latest try. Created with the run, all of them."""

    __table__ = tables.TASK_INSTANCE
    if TYPE_CHECKING:
        id: Mapped[int]
        run_pk: Mapped[int]
        task_id: Mapped[str]
        map_index: Mapped[int]
        upstream: Mapped[str]
        trigger_rule: Mapped[str]
        state: Mapped[TaskInstanceState]
        end_reason: Mapped[EndReason | None]
        generation: Mapped[int]
        try_number: Mapped[int]
        crashes: Mapped[int]
        executor_pk: Mapped[int | None]
        error: Mapped[str | None]
        due_at: Mapped[datetime | None]
        started_at: Mapped[datetime | None]
        ended_at: Mapped[datetime | None]
        pool: Mapped[str | None]
        pool_slots: Mapped[int | None]
        rendered_map_index: Mapped[str | None]
        reschedules: Mapped[int]
        uncounted_tries: Mapped[int]
        cancel_requested_at: Mapped[datetime | None]
        peak_rss_bytes: Mapped[int | None]
        slot: Mapped[int | None]


class TaskTry(Base):
    """A try that is over and was followed by another. The latest try stands in its task instance."""

    __table__ = tables.TASK_TRY
    if TYPE_CHECKING:
        id: Mapped[int]
        task_instance_pk: Mapped[int]
        try_number: Mapped[int]
        generation: Mapped[int]
        state: Mapped[TaskInstanceState]
        end_reason: Mapped[EndReason | None]
        error: Mapped[str | None]
        started_at: Mapped[datetime | None]
        ended_at: Mapped[datetime | None]
        peak_rss_bytes: Mapped[int | None]
        slot: Mapped[int | None]


class XCom(Base):
    """A value that a task handed on, as bytes. None is not stored: no row reads as None."""

    __table__ = tables.XCOM
    if TYPE_CHECKING:
        id: Mapped[int]
        task_instance_pk: Mapped[int]
        key: Mapped[str]
        encoding: Mapped[str]
        size_bytes: Mapped[int]
        sha256: Mapped[bytes]
        value: Mapped[bytes]


class LogRecord(Base):
    """One line that a try wrote: printed, logged, or sent to file descriptor 1 or 2."""

    __table__ = tables.LOG_RECORD
    if TYPE_CHECKING:
        id: Mapped[int]
        task_instance_pk: Mapped[int]
        try_number: Mapped[int]
        at: Mapped[datetime]
        level: Mapped[int | None]
        logger: Mapped[str | None]
        message: Mapped[str]


class Pool(Base):
    """A named number of slots that tasks share."""

    __table__ = tables.POOL
    if TYPE_CHECKING:
        id: Mapped[int]
        name: Mapped[str]
        slots: Mapped[int]
        description: Mapped[str | None]


class Callback(Base):
    """A callback that is due and has not ended. It goes when it has, so that each is called at least once."""

    __table__ = tables.CALLBACK
    if TYPE_CHECKING:
        id: Mapped[int]
        run_pk: Mapped[int]
        task_instance_pk: Mapped[int | None]
        try_number: Mapped[int | None]
        kind: Mapped[str]
        created_at: Mapped[datetime]
        position: Mapped[int]
