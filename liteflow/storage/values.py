"""Values that tasks handed on, still encoded: what `xcom_pull` asks for, and what a reducer gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select

from liteflow.states import TaskInstanceState
from liteflow.storage.recording import text_for_database
from liteflow.storage.statements import in_groups
from liteflow.storage.tables import DAG, DAG_RUN, TASK_INSTANCE, XCOM

PulledXCom = tuple[str, int, str, bytes]
"""Task id, map index, encoding, data."""


def pull_xcoms(
    connection: Connection,
    *,
    dag_id: str,
    run_id: str,
    task_ids: Sequence[str],
    key: str,
    map_indexes: Sequence[int] | None,
    include_prior_dates: bool,
    logical_date_us: int,
) -> list[PulledXCom]:
    """The values of that key, by the order of `task_ids` and then by map index; what is not there is left out.

    `map_indexes`: only these, None for all. With `include_prior_dates` each task's values come from the latest run
    that has any of them, among the dag's runs up to `logical_date_us` (microseconds, that date included); of runs with
    the same logical date `run_id` counts first, then the one that was created last.
    """
    wanted = [DAG.c.dag_id == dag_id, XCOM.c.key == text_for_database(key)]
    if map_indexes is not None:
        # Written into the statement: there may be more of them than it can have bound values.
        indexes: Any = bindparam(
            "indexes", sorted({int(index) for index in map_indexes}), expanding=True, literal_execute=True
        )
        wanted.append(TASK_INSTANCE.c.map_index.in_(indexes))
    ids = list(dict.fromkeys(task_ids))
    found: dict[str, list[PulledXCom]] = {task_id: [] for task_id in ids}
    if include_prior_dates:
        for task_id in ids:
            run_pk = connection.scalar(
                _joined(select(DAG_RUN.c.id))
                .where(TASK_INSTANCE.c.task_id == task_id, DAG_RUN.c.logical_date <= logical_date_us, *wanted)
                .order_by(DAG_RUN.c.logical_date.desc(), (DAG_RUN.c.run_id == run_id).desc(), DAG_RUN.c.id.desc())
                .limit(1)
            )
            if run_pk is not None:
                found[task_id] = _pulled(
                    connection, TASK_INSTANCE.c.task_id == task_id, DAG_RUN.c.id == run_pk, *wanted
                )
    else:
        for some in in_groups(ids):
            for row in _pulled(connection, TASK_INSTANCE.c.task_id.in_(some), DAG_RUN.c.run_id == run_id, *wanted):
                found[row[0]].append(row)
    return [row for task_id in ids for row in found[task_id]]


def _pulled(connection: Connection, *conditions: Any) -> list[PulledXCom]:
    rows = connection.execute(
        _joined(select(TASK_INSTANCE.c.task_id, TASK_INSTANCE.c.map_index, XCOM.c.encoding, XCOM.c.value))
        .where(*conditions)
        .order_by(TASK_INSTANCE.c.map_index)
    )
    return [(task_id, map_index, encoding, data) for task_id, map_index, encoding, data in rows]


def _joined(statement: Any) -> Any:
    return (
        statement.select_from(DAG)
        .join(DAG_RUN, DAG_RUN.c.dag_pk == DAG.c.id)
        .join(TASK_INSTANCE, TASK_INSTANCE.c.run_pk == DAG_RUN.c.id)
        .join(XCOM, XCOM.c.task_instance_pk == TASK_INSTANCE.c.id)
    )


def task_values(
    connection: Connection, run_pk: int, task_id: str, key: str, map_index: int | None = None
) -> list[tuple[int, TaskInstanceState, str | None, bytes | None]]:
    """Map index, state, encoding and data of each instance of a task, by map index, in one query.

    Encoding and data are None where nothing was handed on. `map_index`: only that one. Empty when there is no such
    task instance.
    """
    one = [] if map_index is None else [TASK_INSTANCE.c.map_index == map_index]
    rows = connection.execute(
        select(TASK_INSTANCE.c.map_index, TASK_INSTANCE.c.state, XCOM.c.encoding, XCOM.c.value)
        .outerjoin(XCOM, (XCOM.c.task_instance_pk == TASK_INSTANCE.c.id) & (XCOM.c.key == text_for_database(key)))
        .where(TASK_INSTANCE.c.run_pk == run_pk, TASK_INSTANCE.c.task_id == task_id, *one)
        .order_by(TASK_INSTANCE.c.map_index)
    )
    return [(index, state, encoding, data) for index, state, encoding, data in rows]
