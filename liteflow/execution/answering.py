"""What a task that runs asks about others (`pulling.py`), answered out of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from liteflow.storage.values import pull_xcoms

if TYPE_CHECKING:
    from sqlalchemy import Connection


def answer(connection: Connection, question: tuple[Any, ...], logical_date_us: int) -> tuple[tuple[Any, ...], ...]:
    """The rows for a question of `pulling.TryXComs`; the logical date is that of the run that asks."""
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
