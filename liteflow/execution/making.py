"""Jobs: a claim, or a callback that is due, with everything that a worker needs for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from liteflow.execution import callbacks
from liteflow.execution.jobs import Job
from liteflow.execution.turn import DueCallback

if TYPE_CHECKING:
    from liteflow.execution.active import ActiveRun, Stored
    from liteflow.execution.prepared import PreparedDag


class JobMaker:
    """Numbers jobs and recipes for one service."""

    def __init__(self) -> None:
        self._numbers = 0
        self._recipes = 0

    def try_of(self, run: ActiveRun, index: int, stored: Stored, expected_s: float | None) -> Job:
        """The next try of a task instance that was claimed; `stored` are the values that it needs of others."""
        self._numbers += 1
        number = run.core.task_of[index]
        code_number, code = run.prepared.codes[number]
        task = run.task(index)
        return Job(
            number=self._numbers,
            run=run,
            index=index,
            try_number=run.core.try_numbers[index],
            code_number=code_number,
            code=code,
            recipe=run.prepared.recipes[number],
            recipe_number=self._recipe_number(run.prepared, number),
            payload=tuple(run.payload(index, stored)),
            name=task.task_id,
            map_index=run.map_index(index),
            timeout_s=task.options.timeout_s,
            kill_grace_s=task.options.kill_grace_s,
            log_cap_bytes=task.options.log_cap_bytes,
            expected_s=expected_s,
            executor=task.options.executor,
        )

    def callback_of(self, due: DueCallback, key: int) -> Job:
        """A callback that is due; `key` is that of its row."""
        self._numbers += 1
        run = due.run
        task = run.task(due.index)
        number, code = run.prepared.callbacks[
            -1 if due.kind.startswith("dag_") else run.core.task_of[due.index], due.kind
        ][due.number]
        return Job(
            number=self._numbers,
            run=run,
            index=due.index,
            try_number=due.try_number,
            code_number=number,
            code=code,
            recipe=run.prepared.callback_recipe(run.core.task_of[due.index]),
            recipe_number=0,
            payload=tuple(callbacks.callback_payload(due)),
            name=task.task_id,
            map_index=run.map_index(due.index),
            timeout_s=callbacks.CALLBACK_TIMEOUT_S,
            kill_grace_s=task.options.kill_grace_s,
            log_cap_bytes=task.options.log_cap_bytes,
            callback_id=key,
        )

    def _recipe_number(self, prepared: PreparedDag, task: int) -> int:
        """The number under which slots keep the recipe; 0 for one that they do not."""
        alike = prepared.alike[task]
        number = prepared.recipe_numbers.get(alike)
        if number == 0:
            self._recipes += 1
            number = prepared.recipe_numbers[alike] = self._recipes
        return number or 0
