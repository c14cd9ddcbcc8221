"""What is read again and again of a run while somebody watches it. Functions work inside a read scope."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median
from typing import NamedTuple

from sqlalchemy import Connection, String, bindparam, case, select, type_coerce

from liteflow.states import EndReason, TaskInstanceState
from liteflow.storage.statements import Prepared, in_groups
from liteflow.storage.tables import DAG_RUN, TASK_INSTANCE
from liteflow.storage.untrusted import checked

RUNS_BEFORE = 10
"""How many runs tell how long a task usually takes."""

CODES: tuple[TaskInstanceState, ...] = tuple(TaskInstanceState)
"""What the bytes of `state_codes` stand for."""


class Place(NamedTuple):
    """Which task instance it is."""

    pk: int
    task_id: str
    map_index: int


class WatchedInstance(NamedTuple):
    """A task instance with what is shown of it while its run goes on."""

    pk: int
    task_id: str
    map_index: int
    rendered_map_index: str | None
    state: TaskInstanceState
    end_reason: EndReason | None
    try_number: int
    slot: int | None
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None
    error: str | None

    @property
    def duration(self) -> timedelta | None:
        """How long the latest try took, if it is over."""
        return self.ended_at - self.started_at if self.started_at and self.ended_at else None


def state_codes(connection: Connection, run_pk: int) -> bytes:
    """The state of each task instance of the run as one byte, by task id and map index: see CODES.

    That is all that changes for most of them, and half a microsecond each. Raises TypeError for a state that there
    is not.
    """
    return bytes([code for (code,) in _CODES.fetch(connection, run_pk)])


def places(connection: Connection, run_pk: int) -> list[Place]:
    """The task instances of the run in the order of `state_codes`. They change only when tasks are expanded."""
    return [checked(Place(*row)) for row in _PLACES.fetch(connection, run_pk)]


def watched_instances(connection: Connection, pks: Sequence[int]) -> list[WatchedInstance]:
    """The task instances of these keys, by key."""
    ti = TASK_INSTANCE.c
    columns = [ti.id.label("pk"), *(getattr(ti, name) for name in WatchedInstance._fields[1:])]
    return [
        checked(WatchedInstance(*row))
        for some in in_groups(sorted(pks))
        for row in connection.execute(select(*columns).where(ti.id.in_(some)).order_by(ti.id))
    ]


def latest_ended(connection: Connection, run_pk: int, states: Sequence[TaskInstanceState], most: int) -> list[int]:
    """The keys of the task instances in one of these states that ended last, the latest first. A pass over the run."""
    ti = TASK_INSTANCE.c
    return list(
        connection.scalars(
            select(ti.id)
            .where(ti.run_pk == run_pk, ti.state.in_(states), ti.ended_at.is_not(None))
            .order_by(ti.ended_at.desc(), ti.id.desc())
            .limit(most)
        )
    )


def usual_duration(connection: Connection, run_pk: int, task_id: str) -> timedelta | None:
    """The median time that the task, or the first of its instances, took to succeed in the runs before, if it did."""
    ti, run, this = TASK_INSTANCE.c, DAG_RUN.c, DAG_RUN.alias("this")
    before = (
        select(run.id)
        .join(this, this.c.dag_pk == run.dag_pk)
        .where(this.c.id == run_pk, run.created_at < this.c.created_at)
        .order_by(run.created_at.desc())
        .limit(RUNS_BEFORE)
    )
    found = connection.execute(
        select(ti.started_at, ti.ended_at).where(
            ti.run_pk.in_(before),
            ti.task_id == task_id,
            ti.map_index.in_((-1, 0)),
            ti.state == TaskInstanceState.SUCCESS,
            ti.started_at.is_not(None),
            ti.ended_at.is_not(None),
        )
    ).all()
    return median([row.ended_at - row.started_at for row in found]) if found else None


_TI = TASK_INSTANCE.c
_BY_PLACE = (_TI.task_id, _TI.map_index)  # as the index has them
_CODES = Prepared(
    select(case({str(state): code for code, state in enumerate(CODES)}, value=type_coerce(_TI.state, String)))
    .where(_TI.run_pk == bindparam("run_pk"))
    .order_by(*_BY_PLACE),
    "run_pk",
)
_PLACES = Prepared(
    select(_TI.id, _TI.task_id, _TI.map_index).where(_TI.run_pk == bindparam("run_pk")).order_by(*_BY_PLACE),
    "run_pk",
)
