"""A run that repeats another one: which of that run's task instances it begins with, and which it runs itself.

What succeeded is reused with its values, and what was skipped stays skipped, unless it went wrong, is new to the dag,
has another upstream, trigger rule or mapping than it had, or is below anything of these. Setups whose teardown has run
run again with it where something between the two does. What a branch decided comes with its values, so that what is
below it and runs again is skipped again.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from liteflow.authoring.mapping import Items
from liteflow.errors import RunConflictError
from liteflow.execution.recorder import task_facts
from liteflow.execution.recovery import known_instances, stood_as
from liteflow.scheduling.reopening import Stood, to_run_again
from liteflow.states import TaskInstanceState
from liteflow.storage import recovery
from liteflow.storage.recording import TaskFacts
from liteflow.storage.reusing import encodings_of
from liteflow.storage.xcoms import ITEMS

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.execution.prepared import PreparedDag
    from liteflow.storage.recovery import RecordedInstance, RecordedRun

_S = TaskInstanceState


class Origin(NamedTuple):
    """What a run repeats."""

    run: RecordedRun
    only_failed: bool
    """Whether it begins with what succeeded there."""


class Plan(NamedTuple):
    """With what a run begins."""

    tasks: list[TaskFacts]
    """Of the dag, in its order, mapped ones with the instances that they had."""
    reused: dict[tuple[str, int], TaskInstanceState]
    """By task id and map index: the task instances that are over from the beginning."""


def plan_of(connection: Connection, prepared: PreparedDag, source: RecordedRun) -> Plan:
    """What a run with the values of `source`, which is over, begins with. Raises RunConflictError when it would have
    nothing to run."""
    if not recovery.refuse_half_deleted(connection, source).is_terminal:  # opened again, since it was looked at
        raise RunConflictError(
            f"run {source.run_id!r} of dag {source.dag_id!r} is not over: go on with it (--resume RUN), or cancel it "
            "first",
            run_id=source.run_id,
        )
    return _Planning(connection, prepared, source).plan()


class _Planning:
    def __init__(self, connection: Connection, prepared: PreparedDag, source: RecordedRun) -> None:
        self._prepared = prepared
        self._source = source
        recorded = recovery.instances_of(connection, source.pk)
        self._sizes = Counter(one.task_id for one in recorded)
        """By task id how many instances the run has, also beyond what the task is mapped over now."""
        self._instances = known_instances(prepared, recorded)
        self._of_task: list[list[int]] = [[] for _ in prepared.tasks]
        self._stood = stood_as(prepared, self._instances)
        for task, position in [(one.task, position) for position, one in enumerate(self._stood)]:
            self._of_task[task].append(position)
        changed = {task for task in range(len(prepared.tasks)) if self._is_changed(task)}
        changed |= self._without_items(connection)
        self._anew = {unit for task in changed if (unit := prepared.unit_of[task]) is not None}
        """Units of which nothing is reused."""
        self._changed = {position for task in changed for position in self._positions(task)}

    def plan(self) -> Plan:
        again = self._again()
        if not again:
            raise RunConflictError(
                f"run {self._source.run_id!r} of dag {self._source.dag_id!r}: nothing went wrong in it, so there is "
                "nothing to run again; without only_failed (--only-failed) all of it runs",
                run_id=self._source.run_id,
            )
        reused = {
            (one.task_id, one.map_index): one.state
            for position, one in enumerate(self._instances)
            if position not in again
        }
        tasks = [self._facts(task, again) for task in range(len(self._prepared.tasks))]
        return Plan(tasks, reused)

    def _positions(self, task: int) -> list[int]:
        """Of a task's instances; one that the run has not gets a place of its own."""
        if not self._of_task[task]:
            self._of_task[task].append(len(self._stood))
            self._stood.append(Stood(task, -1, _S.PENDING, None, False))
        return self._of_task[task]

    def _is_changed(self, task: int) -> bool:
        """Whether the run has no such task, or one that was wired or mapped in another way."""
        rows = self._rows(task)
        if not rows:
            return True
        now = self._prepared.tasks[task]
        if set(json.loads(rows[0].upstream)) != set(now.upstream_task_ids):
            return True
        if rows[0].trigger_rule != now.options.trigger_rule.value:
            return True
        unit, is_expanded = self._prepared.unit_of[task], rows[0].map_index >= 0
        if unit is None:
            return is_expanded
        length = self._prepared.unit_specs[unit].length
        if length:
            return not is_expanded or self._sizes[now.task_id] != length
        return (is_expanded and length == 0) or (not is_expanded and rows[0].state is _S.SUCCESS)

    def _rows(self, task: int) -> list[RecordedInstance]:
        return [self._instances[position] for position in self._of_task[task]]

    def _without_items(self, connection: Connection) -> set[int]:
        """Tasks whose values were not handed on item by item, and that something is mapped over now."""
        wanted: dict[tuple[int, str], int] = {}
        for unit in self._prepared.units:
            for leaf in unit.leaves:
                if isinstance(leaf, Items):
                    task = self._prepared.number_of[leaf.task_id]
                    rows = self._rows(task)
                    if rows and rows[0].map_index < 0 and rows[0].state is _S.SUCCESS:
                        wanted[rows[0].pk, leaf.key] = task
        found = encodings_of(connection, {pk for pk, _ in wanted}, {key for _, key in wanted})
        return {task for place, task in wanted.items() if found.get(place) != ITEMS}

    def _again(self) -> set[int]:
        """The positions of what runs in the new run; units whose items are made anew run as a whole."""
        while True:
            again = to_run_again(self._prepared.specs, self._stood, self._changed)
            tasks = {self._stood[position].task for position in again}
            more: set[int] = set()
            for number, unit in enumerate(self._prepared.units):
                whole = {position for task in unit.tasks for position in self._of_task[task]}
                if not tasks.isdisjoint(unit.sources) or number in self._anew:
                    self._anew.add(number)
                    more |= whole - again
            if not more:
                return again
            self._changed |= more

    def _facts(self, task: int, again: set[int]) -> TaskFacts:
        facts = task_facts(self._prepared, task)
        unit = self._prepared.unit_of[task]
        if unit is None or not self._prepared.units[unit].sources or unit in self._anew:
            return facts
        is_expanded = self._rows(task)[0].map_index >= 0
        if is_expanded or not again.isdisjoint(self._of_task[task]):
            members = self._prepared.units[unit].tasks
            size = max((one.map_index + 1 for member in members for one in self._rows(member)), default=0)
            if size:
                return facts._replace(map_indexes=range(size))
        return facts
