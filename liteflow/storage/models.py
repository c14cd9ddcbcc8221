"""The tables, as typed models. They describe; they hold no queries and no rules.

Names are in the `liteflow_` name space. Surrogate keys are integers. Times are integer microseconds since 1970 in
UTC. Enums are text without a CHECK constraint, which would make each new state a rebuild of the table.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from liteflow.states import EndReason, RunState, TaskInstanceState

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970 in UTC. A naive `moment` raises ValueError: nobody can tell which instant it is."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone; use datetime(..., tzinfo=timezone.utc)")
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The aware datetime in UTC of that many microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=value)


class UtcMicroseconds(TypeDecorator[datetime]):
    """An aware datetime, stored as integer microseconds since 1970 in UTC. Integers are passed through."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:
        if value is None or isinstance(value, int):
            return value
        return to_microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else from_microseconds(value)


E = TypeVar("E", bound=StrEnum)


class EnumText(TypeDecorator[E]):
    """A `StrEnum`, stored as its value."""

    impl = String
    cache_ok = True

    def __init__(self, enum: type[E]) -> None:
        super().__init__()
        self.enum = enum

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> E | None:
        return None if value is None else self.enum(value)


class Base(DeclarativeBase):
    """The base of all models; constraints have names from the first revision on, so that they can be migrated."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class DagModel(Base):
    """What is known of a dag beside its code: one row for each dag id that ever ran in this database."""

    __tablename__ = "liteflow_dag"

    id: Mapped[int] = mapped_column(primary_key=True)
    dag_id: Mapped[str] = mapped_column(String(250), unique=True)
    description: Mapped[str | None] = mapped_column(Text)
    tags: Mapped[str] = mapped_column(Text, default="[]")
    """A JSON list of text."""
    params: Mapped[str] = mapped_column(Text, default="{}")
    """The defaults, typed JSON as XComs have it."""
    file: Mapped[str | None] = mapped_column(Text)
    """The file that defined the dag when it ran last."""
    structure_digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 over task ids, edges and trigger rules of the latest run."""
    created_at: Mapped[datetime] = mapped_column(UtcMicroseconds)
    updated_at: Mapped[datetime] = mapped_column(UtcMicroseconds)


class ExecutorRecord(Base):
    """An executor service that is, or was, at work on this database. Whether it lives is told by its lock file."""

    __tablename__ = "liteflow_executor"

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(32), unique=True)
    """Names the lock file."""
    host: Mapped[str] = mapped_column(Text)
    pid: Mapped[int] = mapped_column(Integer)
    process_started_at: Mapped[int | None] = mapped_column(BigInteger)
    """The kernel's own number for the start of the process; together with `pid` it names one process."""
    started_at: Mapped[datetime] = mapped_column(UtcMicroseconds)
    ended_at: Mapped[datetime | None] = mapped_column(UtcMicroseconds)


class DagRun(Base):
    """One execution of a dag."""

    __tablename__ = "liteflow_dag_run"
    __table_args__ = (
        UniqueConstraint("dag_pk", "run_id"),
        Index(None, "run_id"),
        Index(None, "dag_pk", "created_at"),
        Index(None, "dag_pk", "logical_date"),
        Index(None, "state"),
        Index(None, "executor_pk", "state"),
        {"sqlite_autoincrement": True},  # a key is never used again: a late result must not find another run
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    dag_pk: Mapped[int] = mapped_column(ForeignKey("liteflow_dag.id", ondelete="CASCADE"))
    run_id: Mapped[str] = mapped_column(String(250))
    state: Mapped[RunState] = mapped_column(EnumText(RunState))
    end_reason: Mapped[EndReason | None] = mapped_column(EnumText(EndReason))
    logical_date: Mapped[datetime] = mapped_column(UtcMicroseconds)
    params: Mapped[str] = mapped_column(Text)
    """The params with which it runs, defaults included; typed JSON as XComs have it."""
    structure_digest: Mapped[str] = mapped_column(String(64))
    executor_pk: Mapped[int | None] = mapped_column(ForeignKey("liteflow_executor.id"))
    """The one executor service that drives it."""
    created_at: Mapped[datetime] = mapped_column(UtcMicroseconds)
    started_at: Mapped[datetime | None] = mapped_column(UtcMicroseconds)
    ended_at: Mapped[datetime | None] = mapped_column(UtcMicroseconds)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(UtcMicroseconds)


class TaskInstance(Base):
    """A task in a run: where it stands, and its latest try. Created with the run, all of them."""

    __tablename__ = "liteflow_task_instance"
    __table_args__ = (
        UniqueConstraint("run_pk", "task_id", "map_index"),
        # Holds only what takes slots of a pool now, however many task instances there are.
        Index(None, "pool", sqlite_where=text("pool IS NOT NULL AND state = 'running'")),
        Index(None, "cancel_requested_at", sqlite_where=text("cancel_requested_at IS NOT NULL")),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_pk: Mapped[int] = mapped_column(ForeignKey("liteflow_dag_run.id", ondelete="CASCADE"))
    task_id: Mapped[str] = mapped_column(String(250))
    map_index: Mapped[int] = mapped_column(Integer, default=-1)
    """-1: not mapped, or not expanded yet; else 0, 1, ..."""
    upstream: Mapped[str] = mapped_column(Text, default="[]")
    """A JSON list of task ids: the edges into it, as they were in this run."""
    trigger_rule: Mapped[str] = mapped_column(String(40))
    state: Mapped[TaskInstanceState] = mapped_column(EnumText(TaskInstanceState))
    end_reason: Mapped[EndReason | None] = mapped_column(EnumText(EndReason))
    generation: Mapped[int] = mapped_column(Integer, default=0)
    """Goes up by one when an explicit command starts it anew."""
    try_number: Mapped[int] = mapped_column(Integer, default=0)
    """0 before the first claim, then 1, 2, ..."""
    crashes: Mapped[int] = mapped_column(Integer, default=0)
    """How many times the executor service died under it."""
    executor_pk: Mapped[int | None] = mapped_column(ForeignKey("liteflow_executor.id"))
    """Whose claim it is while it runs."""
    error: Mapped[str | None] = mapped_column(Text)
    """Of the latest try: the error's last line."""
    due_at: Mapped[datetime | None] = mapped_column(UtcMicroseconds)
    """When a retry is due, or a sensor's next look."""
    started_at: Mapped[datetime | None] = mapped_column(UtcMicroseconds)
    """When the latest try began to run in its slot; of a rescheduled sensor, its first look."""
    ended_at: Mapped[datetime | None] = mapped_column(UtcMicroseconds)
    pool: Mapped[str | None] = mapped_column(String(250))
    """The pool that it takes slots of while it runs."""
    pool_slots: Mapped[int | None] = mapped_column(Integer)
    """How many; NULL without a pool."""
    rendered_map_index: Mapped[str | None] = mapped_column(Text)
    """The label of a mapped task instance, made by its task's `map_index_template`."""
    reschedules: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    """How many times the latest try gave its slot back to look again later, and went on."""
    uncounted_tries: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    """Tries that use up no retry: of earlier generations, and those under which an executor service died or stopped."""
    cancel_requested_at: Mapped[datetime | None] = mapped_column(UtcMicroseconds)
    """When somebody asked for the end of this task instance alone."""
    peak_rss_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """The most memory that the latest try was seen to hold; NULL for short ones."""


class TaskTry(Base):
    """A try that is over and was followed by another. The latest try stands in its task instance."""

    __tablename__ = "liteflow_task_try"
    __table_args__ = (UniqueConstraint("task_instance_pk", "try_number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    task_instance_pk: Mapped[int] = mapped_column(ForeignKey("liteflow_task_instance.id", ondelete="CASCADE"))
    try_number: Mapped[int] = mapped_column(Integer)
    generation: Mapped[int] = mapped_column(Integer)
    state: Mapped[TaskInstanceState] = mapped_column(EnumText(TaskInstanceState))
    end_reason: Mapped[EndReason | None] = mapped_column(EnumText(EndReason))
    error: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime | None] = mapped_column(UtcMicroseconds)
    ended_at: Mapped[datetime | None] = mapped_column(UtcMicroseconds)
    peak_rss_bytes: Mapped[int | None] = mapped_column(BigInteger)


class XCom(Base):
    """A value that a task handed on, as bytes. None is not stored: no row reads as None."""

    __tablename__ = "liteflow_xcom"
    __table_args__ = (UniqueConstraint("task_instance_pk", "key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    task_instance_pk: Mapped[int] = mapped_column(ForeignKey("liteflow_task_instance.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(String(250))
    encoding: Mapped[str] = mapped_column(String(20))
    """`json`, `bytes` or `pickle`: see `storage/xcoms.py`."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    value: Mapped[bytes] = mapped_column(LargeBinary)


class LogRecord(Base):
    """One line that a try wrote: printed, logged, or sent to file descriptor 1 or 2."""

    __tablename__ = "liteflow_log_record"
    __table_args__ = (Index(None, "task_instance_pk"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    task_instance_pk: Mapped[int] = mapped_column(ForeignKey("liteflow_task_instance.id", ondelete="CASCADE"))
    try_number: Mapped[int] = mapped_column(Integer)
    at: Mapped[datetime] = mapped_column(UtcMicroseconds)
    level: Mapped[int | None] = mapped_column(Integer)
    """The `logging` level, as a number; NULL for what was printed."""
    logger: Mapped[str | None] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)


class Pool(Base):
    """A named number of slots that tasks share."""

    __tablename__ = "liteflow_pool"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(250), unique=True)
    slots: Mapped[int] = mapped_column(Integer)
    description: Mapped[str | None] = mapped_column(Text)


class Callback(Base):
    """A callback that is due and has not ended. It goes when it has, so that each is called at least once."""

    __tablename__ = "liteflow_callback"
    __table_args__ = (Index(None, "run_pk"), Index(None, "task_instance_pk"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    run_pk: Mapped[int] = mapped_column(ForeignKey("liteflow_dag_run.id", ondelete="CASCADE"))
    task_instance_pk: Mapped[int | None] = mapped_column(ForeignKey("liteflow_task_instance.id", ondelete="CASCADE"))
    """NULL for a callback of the dag that no task instance brought about."""
    try_number: Mapped[int | None] = mapped_column(Integer)
    """The try that brought it about."""
    kind: Mapped[str] = mapped_column(String(40))
    """`on_failure`, `dag_on_failure`, ..."""
    created_at: Mapped[datetime] = mapped_column(UtcMicroseconds)
    position: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    """Which of the functions of that kind, from 0."""
