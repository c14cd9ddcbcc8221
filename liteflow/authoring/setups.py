"""Setups and teardowns: the edges that a `with` block makes, and what lies between a teardown and its setups.

Airflow's semantics: a teardown runs when all upstream ended and one of its setups succeeded, whatever became of the
work between; its own failure does not fail the run unless it says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from liteflow.authoring.edges import tasks_of
from liteflow.authoring.groups import TaskGroup
from liteflow.authoring.places import caller
from liteflow.errors import DagError

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag
    from liteflow.authoring.task import Task


class SetupScope:
    """A `with` block of setups and teardowns: what is made inside runs after the former and before the latter.

    with (teardown := delete().as_teardown(setups=create())):
        work()
    """

    def __init__(self, setups: Iterable[Task], teardowns: Iterable[Task]) -> None:
        self._setups = list(setups)
        self._teardowns = list(teardowns)
        self._tasks: dict[Task, None] = {}

    def add_task(self, *tasks: object) -> None:
        """Take tasks into the block that were made before it; of a group, all that are in it."""
        for one in tasks:
            found = one.tasks() if isinstance(one, TaskGroup) else tasks_of(one, starts=True)
            self._tasks.update(dict.fromkeys(found))

    def take(self, task: Task) -> None:
        """A task was made inside the block."""
        self._tasks[task] = None

    def close(self) -> None:
        """Make the edges: setups before the first tasks of the block, teardowns after the last."""
        work = [task for task in self._tasks if task not in self._setups and task not in self._teardowns]
        ids = {task.task_id for task in work}
        upstream_of_others = {up for task in work for up in task.upstream_task_ids if up in ids}
        for task in work:
            if not ids & task.upstream_task_ids.keys():
                for setup in self._setups:
                    task.dag.set_dependency(setup, task)
            if task.task_id not in upstream_of_others:
                for teardown in self._teardowns:
                    task.dag.set_dependency(task, teardown)


def open_scope(task: Task) -> SetupScope:
    """The block of a setup (with its teardowns) or of a teardown (with its setups)."""
    if not (task.is_setup or task.is_teardown):
        raise DagError(f"{caller()}: task {task.task_id!r} is neither a setup nor a teardown; only these open a block")
    upstream = [task.dag.task_dict[task_id] for task_id in task.upstream_task_ids]
    downstream = [task.dag.task_dict[task_id] for task_id in task.downstream_task_ids]
    if task.is_teardown:
        return SetupScope([up for up in upstream if up.is_setup], [task])
    return SetupScope([task], [down for down in downstream if down.is_teardown])


def all_below(task_id: str, downstream: Mapping[str, Sequence[str]]) -> set[str]:
    """Ids of everything downstream of a task; `downstream` holds the ids directly downstream of each."""
    found: set[str] = set()
    waiting = [task_id]
    while waiting:
        for below in downstream[waiting.pop()]:
            if below not in found:
                found.add(below)
                waiting.append(below)
    return found


def scope_of(dag: Dag, teardown: Task, below: dict[str, set[str]]) -> list[str]:
    """Ids of the tasks between the teardown's setups and itself that are not directly upstream of it.

    `below` holds for the teardown's setups all that is downstream of them. Airflow waits for these too
    (`TriggerRuleDep._evaluate_teardown_scope`).
    """
    between: set[str] = set()
    waiting = list(teardown.upstream_task_ids)
    seen = set(waiting)
    within = set().union(*(below[up] for up in teardown.upstream_task_ids if dag.task_dict[up].is_setup))
    while waiting:
        task_id = waiting.pop()
        for up in dag.task_dict[task_id].upstream_task_ids:
            if up not in seen:
                seen.add(up)
                waiting.append(up)
                if up in within:
                    between.add(up)
    return [task_id for task_id in dag.task_dict if task_id in between]
