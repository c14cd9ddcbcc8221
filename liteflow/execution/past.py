"""What the run before says to a task with `depends_on_past` or `wait_for_downstream`.

Airflow lets such a task wait for ever when the run before failed it. Nobody keeps a run waiting here: once the run
before is over, or nobody takes it up, so that it will not change without a command, the task is `upstream_failed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from liteflow.states import TaskInstanceState
from liteflow.storage.past import previous_instances, unsuccessful_downstream

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.execution.active import ActiveRun
    from liteflow.execution.waiting import Waiting

_WELL = (TaskInstanceState.SUCCESS, TaskInstanceState.SKIPPED)


class Past(NamedTuple):
    """An answer."""

    is_known: bool
    """Whether there is an answer yet: not while the run before goes on."""
    error: str | None = None
    """Why the task can never go."""


def past_of(connection: Connection, waiting: Waiting, run: ActiveRun, task: int) -> Past:
    """Ask for one task of one run."""
    spec = run.prepared.tasks[task]
    before = previous_instances(connection, run.pk, spec.task_id)
    if before is None or not before.instances:
        return Past(True)  # the first run, or the task is new
    bad = [(spec.task_id, map_index, state) for map_index, state in before.instances if state not in _WELL]
    if not bad and spec.options.wait_for_downstream:
        bad = unsuccessful_downstream(connection, before.pk, spec.task_id)
    if not bad:
        return Past(True)
    if waiting.goes_on(connection, before):
        return Past(False)
    task_id, map_index, state = bad[0]
    index = "" if map_index < 0 else f"[{map_index}]"
    option = "wait_for_downstream" if task_id != spec.task_id else "depends_on_past"
    return Past(True, f"{option}: {task_id + index!r} is {state} in the run before, {before.run_id!r}")
