"""Callbacks that are due: written in the transaction that makes them due, deleted when they have ended.

What is still here when its executor is gone is called again by the next one, so that each is called at least once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select

from liteflow.storage.statements import in_groups, next_keys
from liteflow.storage.tables import CALLBACK


class CallbackFacts(NamedTuple):
    """A callback that is due."""

    run_pk: int
    kind: str
    """`on_failure`, `dag_on_failure`, ...: at most 40 characters."""
    task_instance_pk: int | None = None
    """None for one of the dag that no task instance brought about."""
    try_number: int | None = None
    position: int = 0
    """Which of the functions of that kind."""


class DueCallback(NamedTuple):
    """A callback that is due, as it is stored."""

    id: int
    kind: str
    task_instance_pk: int | None
    try_number: int | None
    position: int


def store_callbacks(connection: Connection, rows: Sequence[CallbackFacts], now_us: int) -> list[int]:
    """Callbacks that are due now; returns their ids, in the order of `rows`."""
    if not rows:
        return []
    ids = list(next_keys(connection, CALLBACK, len(rows)))
    connection.execute(
        insert(CALLBACK),
        [{"id": key, **row._asdict(), "created_at": now_us} for key, row in zip(ids, rows, strict=True)],
    )
    return ids


def delete_callbacks(connection: Connection, ids: Sequence[int]) -> None:
    """Callbacks that have ended, well or not. An id that is gone is no mistake."""
    for some in in_groups(ids):
        connection.execute(delete(CALLBACK).where(CALLBACK.c.id.in_(some)))


def due_callbacks(connection: Connection, run_pk: int) -> list[DueCallback]:
    """The callbacks of a run that have not ended, in the order in which they became due."""
    rows = connection.execute(
        select(
            CALLBACK.c.id,
            CALLBACK.c.kind,
            CALLBACK.c.task_instance_pk,
            CALLBACK.c.try_number,
            CALLBACK.c.position,
        )
        .where(CALLBACK.c.run_pk == run_pk)
        .order_by(CALLBACK.c.id)
    )
    return [DueCallback(*row) for row in rows]
