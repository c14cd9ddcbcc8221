"""What a branch or short circuit skips, from what it decided and the dag as it is written.

Airflow's rules: `SkipMixin.skip_all_except`, `ShortCircuitOperator.execute`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from liteflow.authoring.ids import did_you_mean
from liteflow.authoring.setups import all_below
from liteflow.authoring.task import BRANCH
from liteflow.errors import DagError

if TYPE_CHECKING:
    from liteflow.authoring.task import Task

DECISION_KEY = "skipmixin_key"
"""The XCom under which a decision is kept with the run, as in Airflow."""


def skipped_by(task: Task, downstream: dict[str, list[str]], chosen: Sequence[str] | None) -> list[str]:
    """Ids of the tasks that are skipped by what `task` decided: `chosen` by a branch, None by a short circuit.

    `downstream` holds the ids directly downstream of each task. Raises DagError for an id that is no task or group.
    """
    if task.kind != BRANCH:
        below = sorted(all_below(task.task_id, downstream)) if task.ignores_rules else downstream[task.task_id]
        return [task_id for task_id in below if not task.dag.task_dict[task_id].is_teardown]
    return not_followed(task.task_id, downstream, _tasks_named(task, chosen or ()))


def not_followed(branch_id: str, downstream: Mapping[str, Sequence[str]], followed: Iterable[str]) -> list[str]:
    """Ids of what is directly downstream of a branch and neither among the tasks that it `followed` nor below them."""
    kept = set(followed)
    for name in list(kept):  # a join that is also directly downstream of the branch stays
        kept |= all_below(name, downstream)
    return [task_id for task_id in downstream[branch_id] if task_id not in kept]


def decision_value(task: Task, chosen: Sequence[str] | None, skipped: Sequence[str]) -> dict[str, Any]:
    """The decision as it is kept, in Airflow's form."""
    return {"followed": list(chosen or ())} if task.kind == BRANCH else {"skipped": list(skipped)}


def _tasks_named(task: Task, chosen: Iterable[str]) -> list[str]:
    """The tasks that a branch named; a group stands for its roots."""
    found: list[str] = []
    for name in chosen:
        if name in task.dag.task_dict:
            found.append(name)
        elif name in task.dag.task_groups:
            found += [root.task_id for root in task.dag.task_groups[name].roots]
        else:
            known = [*task.dag.task_dict, *task.dag.task_groups]
            raise DagError(
                f"branch {task.task_id!r} chose {name!r}, and dag {task.dag.dag_id!r} has no task or group of that id"
                f"{did_you_mean(name, known)}"
            )
    return found
