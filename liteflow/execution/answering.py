"""What a task that runs asks about others (`pulling.py`) and runs before, answered out of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from liteflow.storage.past import previous_success
from liteflow.storage.values import pull_xcoms

if TYPE_CHECKING:
    from sqlalchemy import Connection


def answer(connection: Connection, question: tuple[Any, ...], logical_date_us: int) -> tuple[tuple[Any, ...], ...]:
    """The rows for a question of `pulling.TryXComs` or `calling.Try`; the logical date is that of the run that asks.

    For `previous` no row, or one: logical date, start and end, in microseconds.
    """
    if question[0] == "previous":
        _, dag_id, run_id = question
        before = previous_success(connection, dag_id, run_id, logical_date_us)
        return () if before is None else (before,)
    _, dag_id, run_id, task_ids, key, map_indexes, prior = question
    rows = pull_xcoms(
        connection,
        dag_id=dag_id,
        run_id=run_id,
        task_ids=task_ids,
        key=key,
        map_indexes=map_indexes,
        include_prior_dates=prior,
        logical_date_us=logical_date_us,
    )
    return tuple(tuple(row) for row in rows)
