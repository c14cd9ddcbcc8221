"""What a task that runs asks about others and about runs before, answered out of the database.

Questions and answers are tuples of plain types: they travel as messages. `pulling.py` puts those about values,
`calling.py` those about runs before, the methods of `ti` and the operators of `liteflow.operators` those about other
runs. A task's wish that a run be begun is a question too (`triggering.py`); here, where nobody is who could do it, it
begins nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from liteflow.execution.requests import fresh_run_id
from liteflow.storage import triggers
from liteflow.storage.past import previous_success
from liteflow.storage.values import pull_xcoms

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.authoring.dag import Dag

Answer = tuple[Any, ...]
FindDag = Callable[[str], "Dag | None"]

NOTHING = "nothing"
"""The first word of the answer to a wish for a run where none is begun."""


def _no_dag(_dag_id: str) -> Dag | None:
    return None


def answer(
    connection: Connection, question: tuple[Any, ...], logical_date_us: int, find_dag: FindDag = _no_dag
) -> Answer:
    """The answer to a question; the logical date is that of the run that asks. `find_dag` gives dags by id whose code
    is at hand."""
    kind, what = question[0], question[1:]
    if kind == "trigger":
        _, run_id, *_ = what
        return NOTHING, run_id or fresh_run_id("manual", datetime.now(UTC))
    if kind == "runs":
        return _runs(connection, *what)
    if kind == "tasks":
        return _tasks(connection, find_dag, *what)
    if kind == "dag":
        return _dag(connection, find_dag, *what)
    if kind == "previous":
        dag_id, run_id = what
        before = previous_success(connection, dag_id, run_id, logical_date_us)
        return () if before is None else (before,)
    dag_id, run_id, task_ids, key, map_indexes, prior = what
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


def _runs(
    connection: Connection, dag_id: str, dates_us: tuple[int, ...] | None, run_ids: tuple[str, ...] | None
) -> Answer:
    """Run id, logical date and state of each run."""
    return tuple(
        (run.run_id, run.logical_date_us, run.state)
        for run in triggers.runs_of(connection, dag_id, dates_us=dates_us, run_ids=run_ids)
    )


def _tasks(
    connection: Connection,
    find_dag: FindDag,
    dag_id: str,
    dates_us: tuple[int, ...] | None,
    run_ids: tuple[str, ...] | None,
    task_ids: tuple[str, ...] | None,
    group_id: str | None,
) -> Answer:
    """Run id, logical date, and of each task instance the id, map index and state, of each run."""
    if group_id is not None:
        dag = find_dag(dag_id)
        if dag is not None and group_id in dag.task_groups:  # its ids need not begin with the group's
            task_ids, group_id = tuple(task.task_id for task in dag.task_groups[group_id].tasks()), None
    return tuple(
        (
            run.run_id,
            run.logical_date_us,
            tuple(triggers.states_in(connection, run.pk, task_ids=task_ids, group_id=group_id)),
        )
        for run in triggers.runs_of(connection, dag_id, dates_us=dates_us, run_ids=run_ids)
    )


def _dag(connection: Connection, find_dag: FindDag, dag_id: str) -> Answer:
    """Ids of the tasks and of the groups of a dag, as its code says or as its latest run had them; empty where there
    is no such dag."""
    dag = find_dag(dag_id)
    if dag is not None:
        return tuple(dag.task_dict), tuple(dag.task_groups)
    if not triggers.is_known(connection, dag_id):
        return ()
    latest = triggers.latest_run_of(connection, dag_id)
    tasks = dict.fromkeys(one[0] for one in triggers.states_in(connection, latest)) if latest is not None else {}
    parts = [task_id.split(".")[:-1] for task_id in tasks]
    groups = dict.fromkeys(".".join(part[:end]) for part in parts for end in range(1, len(part) + 1))
    return tuple(tasks), tuple(groups)
