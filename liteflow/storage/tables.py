"""The tables. They describe; they hold no queries and no rules. `models` maps classes to them, for users' queries.

Names are in the `liteflow_` name space. Surrogate keys are integers. Times are integer microseconds since 1970 in
UTC. Enums are text without a CHECK constraint, which would make each new state a rebuild of the table.

Everything that liteflow itself asks and writes is said with these tables: neither a run nor a command imports the ORM,
which takes a fifth of a second to import and to map.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Named,
    String,
    Table,
    Text,
    TypedColumns,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

from liteflow.states import EndReason, RunState, TaskInstanceState
from liteflow.storage.moments import from_microseconds, to_microseconds


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
    """A `StrEnum`, stored as its value; compared byte by byte, as SQLite compares all text."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(String(collation="C" if dialect.name == "postgresql" else None))

    def __init__(self, enum: type[E]) -> None:
        super().__init__()
        self.enum = enum

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> E | None:
        return None if value is None else self.enum(value)


KEY = BigInteger().with_variant(Integer, "sqlite")
"""A surrogate key: SQLite gives out keys only for a plain INTEGER, which has 64 bits there."""

ID = String(250).with_variant(Text(collation="C"), "postgresql")
"""An id or name: compared byte by byte, as SQLite compares all text, and as long as it may be there."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Constraints have names from the first revision on, so that they can be migrated."""


class DagModelColumns(TypedColumns):
    """What is known of a dag beside its code: one row for each dag id that ever ran in this database."""

    id: Named[int] = Column(KEY, primary_key=True)
    dag_id: Named[str] = Column(ID, unique=True)
    description: Named[str | None] = Column(Text)
    tags: Named[str] = Column(Text, default="[]")
    """A JSON list of text."""
    params: Named[str] = Column(Text, default="{}")
    """The defaults, typed JSON as XComs have it."""
    file: Named[str | None] = Column(Text)
    """The file that defined the dag when it ran last."""
    structure_digest: Named[str] = Column(String(64))
    """SHA-256 over task ids, edges and trigger rules of the latest run."""
    created_at: Named[datetime] = Column(UtcMicroseconds)
    updated_at: Named[datetime] = Column(UtcMicroseconds)
    retain_runs: Named[int | None] = Column(Integer)
    """How many runs the dag wants to keep; NULL for all. As its code said when it ran last, like `retain_days`."""
    retain_days: Named[float | None] = Column(Float)
    """For how many days; NULL for ever."""


DAG = Table("liteflow_dag", metadata, DagModelColumns)


class ExecutorRecordColumns(TypedColumns):
    """An executor service that is, or was, at work on this database. Whether it lives is told by its lock file."""

    id: Named[int] = Column(KEY, primary_key=True)
    token: Named[str] = Column(String(32), unique=True)
    """Names the lock file."""
    host: Named[str] = Column(Text)
    pid: Named[int] = Column(Integer)
    process_started_at: Named[int | None] = Column(BigInteger)
    """The kernel's own number for the start of the process; together with `pid` it names one process."""
    started_at: Named[datetime] = Column(UtcMicroseconds)
    ended_at: Named[datetime | None] = Column(UtcMicroseconds)
    place: Named[str | None] = Column(String(64))
    """Names the directory of its lock file, for a database that is no file; NULL beside one that is."""
    lease_until: Named[int | None] = Column(BigInteger)
    """Microseconds since 1970 on the database's clock, until when it counts as alive; NULL where its lock file says."""


EXECUTOR = Table("liteflow_executor", metadata, ExecutorRecordColumns)


class DagRunColumns(TypedColumns):
    """One execution of a dag."""

    id: Named[int] = Column(KEY, primary_key=True)
    dag_pk: Named[int] = Column(KEY, ForeignKey("liteflow_dag.id", ondelete="CASCADE"))
    run_id: Named[str] = Column(ID)
    state: Named[RunState] = Column(EnumText(RunState))
    end_reason: Named[EndReason | None] = Column(EnumText(EndReason))
    logical_date: Named[datetime] = Column(UtcMicroseconds)
    params: Named[str] = Column(Text)
    """The params with which it runs, defaults included; typed JSON as XComs have it."""
    structure_digest: Named[str] = Column(String(64))
    executor_pk: Named[int | None] = Column(KEY, ForeignKey("liteflow_executor.id"))
    """The one executor service that drives it."""
    created_at: Named[datetime] = Column(UtcMicroseconds)
    started_at: Named[datetime | None] = Column(UtcMicroseconds)
    ended_at: Named[datetime | None] = Column(UtcMicroseconds)
    cancel_requested_at: Named[datetime | None] = Column(UtcMicroseconds)
    rerun_of: Named[str | None] = Column(ID)
    """The id of the run, of the same dag, whose values this one began with. That run may be gone."""
    priority: Named[int] = Column(Integer, default=0, server_default=text("0"))
    """Of several runs in one service the one with the greatest goes first."""


DAG_RUN = Table(
    "liteflow_dag_run",
    metadata,
    DagRunColumns,
    UniqueConstraint("dag_pk", "run_id"),
    Index(None, "run_id"),
    Index(None, "created_at"),
    Index(None, "dag_pk", "created_at"),
    Index(None, "dag_pk", "logical_date"),
    Index(None, "state"),
    Index(None, "executor_pk", "state"),
    sqlite_autoincrement=True,
)


class TaskInstanceColumns(TypedColumns):
    """A task in a run: where it stands, and its latest try. Created with the run, all of them."""

    id: Named[int] = Column(KEY, primary_key=True)
    run_pk: Named[int] = Column(KEY, ForeignKey("liteflow_dag_run.id", ondelete="CASCADE"))
    task_id: Named[str] = Column(ID)
    map_index: Named[int] = Column(Integer, default=-1)
    """-1: not mapped, or not expanded yet; else 0, 1, ..."""
    upstream: Named[str] = Column(Text, default="[]")
    """A JSON list of task ids: the edges into it, as they were in this run."""
    trigger_rule: Named[str] = Column(String(40))
    state: Named[TaskInstanceState] = Column(EnumText(TaskInstanceState))
    end_reason: Named[EndReason | None] = Column(EnumText(EndReason))
    generation: Named[int] = Column(Integer, default=0)
    """Goes up by one when an explicit command starts it anew."""
    try_number: Named[int] = Column(Integer, default=0)
    """0 before the first claim, then 1, 2, ..."""
    crashes: Named[int] = Column(Integer, default=0)
    """How many times the executor service died under it."""
    executor_pk: Named[int | None] = Column(KEY, ForeignKey("liteflow_executor.id"))
    """Whose claim it is while it runs."""
    error: Named[str | None] = Column(Text)
    """Of the latest try: the error's last line."""
    due_at: Named[datetime | None] = Column(UtcMicroseconds)
    """When a retry is due, or a sensor's next look."""
    started_at: Named[datetime | None] = Column(UtcMicroseconds)
    """When the latest try began to run in its slot; of a rescheduled sensor, its first look."""
    ended_at: Named[datetime | None] = Column(UtcMicroseconds)
    pool: Named[str | None] = Column(ID)
    """The pool that it takes slots of while it runs."""
    pool_slots: Named[int | None] = Column(Integer)
    """How many; NULL without a pool."""
    rendered_map_index: Named[str | None] = Column(Text)
    """The label of a mapped task instance, made by its task's `map_index_template`."""
    reschedules: Named[int] = Column(Integer, default=0, server_default=text("0"))
    """How many times the latest try gave its slot back to look again later, and went on."""
    uncounted_tries: Named[int] = Column(Integer, default=0, server_default=text("0"))
    """Tries that use up no retry: of earlier generations, and those under which an executor service died or stopped."""
    cancel_requested_at: Named[datetime | None] = Column(UtcMicroseconds)
    """When somebody asked for the end of this task instance alone."""
    peak_rss_bytes: Named[int | None] = Column(BigInteger)
    """The most memory that the latest try was seen to hold; NULL for short ones."""
    slot: Named[int | None] = Column(Integer)
    """In which slot of its executor service the latest try ran: 1, 2, ...; NULL where there are none."""


_IN_POOL = text("pool IS NOT NULL AND state = 'running'")
_TO_CANCEL = text("cancel_requested_at IS NOT NULL")

TASK_INSTANCE = Table(
    "liteflow_task_instance",
    metadata,
    TaskInstanceColumns,
    UniqueConstraint("run_pk", "task_id", "map_index"),
    # Holds only what takes slots of a pool now, however many task instances there are.
    Index(None, "pool", sqlite_where=_IN_POOL, postgresql_where=_IN_POOL),
    Index(None, "cancel_requested_at", sqlite_where=_TO_CANCEL, postgresql_where=_TO_CANCEL),
    sqlite_autoincrement=True,
)


class TaskTryColumns(TypedColumns):
    """A try that is over and was followed by another. The latest try stands in its task instance."""

    id: Named[int] = Column(KEY, primary_key=True)
    task_instance_pk: Named[int] = Column(KEY, ForeignKey("liteflow_task_instance.id", ondelete="CASCADE"))
    try_number: Named[int] = Column(Integer)
    generation: Named[int] = Column(Integer)
    state: Named[TaskInstanceState] = Column(EnumText(TaskInstanceState))
    end_reason: Named[EndReason | None] = Column(EnumText(EndReason))
    error: Named[str | None] = Column(Text)
    started_at: Named[datetime | None] = Column(UtcMicroseconds)
    ended_at: Named[datetime | None] = Column(UtcMicroseconds)
    peak_rss_bytes: Named[int | None] = Column(BigInteger)
    slot: Named[int | None] = Column(Integer)


TASK_TRY = Table(
    "liteflow_task_try",
    metadata,
    TaskTryColumns,
    UniqueConstraint("task_instance_pk", "try_number"),
)


class XComColumns(TypedColumns):
    """A value that a task handed on, as bytes. None is not stored: no row reads as None."""

    id: Named[int] = Column(KEY, primary_key=True)
    task_instance_pk: Named[int] = Column(KEY, ForeignKey("liteflow_task_instance.id", ondelete="CASCADE"))
    key: Named[str] = Column(ID)
    encoding: Named[str] = Column(String(20))
    """`json`, `bytes` or `pickle`: see `storage/xcoms.py`."""
    size_bytes: Named[int] = Column(BigInteger)
    sha256: Named[bytes] = Column(LargeBinary(32))
    value: Named[bytes] = Column(LargeBinary)


XCOM = Table(
    "liteflow_xcom",
    metadata,
    XComColumns,
    UniqueConstraint("task_instance_pk", "key"),
)


class LogRecordColumns(TypedColumns):
    """One line that a try wrote: printed, logged, or sent to file descriptor 1 or 2."""

    id: Named[int] = Column(KEY, primary_key=True)
    task_instance_pk: Named[int] = Column(KEY, ForeignKey("liteflow_task_instance.id", ondelete="CASCADE"))
    try_number: Named[int] = Column(Integer)
    at: Named[datetime] = Column(UtcMicroseconds)
    level: Named[int | None] = Column(Integer)
    """The `logging` level, as a number; NULL for what was printed."""
    logger: Named[str | None] = Column(Text)
    message: Named[str] = Column(Text)


LOG_RECORD = Table(
    "liteflow_log_record",
    metadata,
    LogRecordColumns,
    Index(None, "task_instance_pk"),
)


class PoolColumns(TypedColumns):
    """A named number of slots that tasks share."""

    id: Named[int] = Column(KEY, primary_key=True)
    name: Named[str] = Column(ID, unique=True)
    slots: Named[int] = Column(Integer)
    description: Named[str | None] = Column(Text)


POOL = Table("liteflow_pool", metadata, PoolColumns)


class CallbackColumns(TypedColumns):
    """A callback that is due and has not ended. It goes when it has, so that each is called at least once."""

    id: Named[int] = Column(KEY, primary_key=True)
    run_pk: Named[int] = Column(KEY, ForeignKey("liteflow_dag_run.id", ondelete="CASCADE"))
    task_instance_pk: Named[int | None] = Column(KEY, ForeignKey("liteflow_task_instance.id", ondelete="CASCADE"))
    """NULL for a callback of the dag that no task instance brought about."""
    try_number: Named[int | None] = Column(Integer)
    """The try that brought it about."""
    kind: Named[str] = Column(String(40))
    """`on_failure`, `dag_on_failure`, ..."""
    created_at: Named[datetime] = Column(UtcMicroseconds)
    position: Named[int] = Column(Integer, default=0, server_default=text("0"))
    """Which of the functions of that kind, from 0."""


CALLBACK = Table(
    "liteflow_callback",
    metadata,
    CallbackColumns,
    Index(None, "run_pk"),
    Index(None, "task_instance_pk"),
    sqlite_autoincrement=True,
)
