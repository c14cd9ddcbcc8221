"""How a dag differs from what a run began with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from liteflow.states import TaskInstanceState

if TYPE_CHECKING:
    from liteflow.execution.prepared import PreparedDag
    from liteflow.storage.recovery import RecordedInstance

MOST_NAMED = 10
"""How many tasks of a kind are named in a message."""


@dataclass
class Differences:
    """What is different; false when nothing is."""

    added: list[str] = field(default_factory=list)
    """Ids of tasks that the run has not."""
    removed: list[str] = field(default_factory=list)
    """Ids of tasks that the dag has not any more."""
    removed_pks: list[int] = field(default_factory=list)
    """Keys of task instances that did not succeed and have no place in the dag any more."""
    rewired: list[str] = field(default_factory=list)
    """Ids of tasks with another upstream or trigger rule."""
    resized: list[str] = field(default_factory=list)
    """Tasks that are mapped over lists of another length, in words."""
    longer: dict[str, range] = field(default_factory=dict)
    """By the ids of these: the map indexes that are new."""
    others: bool = False
    """Whether something else is different: what is a setup or teardown, or mapped in which group."""
    hopeless: str = ""
    """Why the run cannot go on with this dag at all."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.rewired or self.resized or self.others or self.hopeless)

    def __str__(self) -> str:
        parts = [
            f"{word} {_some(names)}"
            for word, names in (
                ("added", self.added),
                ("removed", self.removed),
                ("other upstream or trigger rule:", self.rewired),
            )
            if names
        ]
        parts += self.resized[:MOST_NAMED]
        if self.others:
            parts.append("other setups, teardowns or mapped groups")
        return "; ".join(parts)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def differences(prepared: PreparedDag, instances: Sequence[RecordedInstance], digest: str) -> Differences:
    """Compare the dag with the task instances of a run that began with the structure `digest`."""
    found = Differences()
    rows: dict[str, list[RecordedInstance]] = {}
    for one in instances:
        rows.setdefault(one.task_id, []).append(one)
    for task_id, of_task in rows.items():
        if task_id not in prepared.number_of:
            left = [one.pk for one in of_task if one.state is not TaskInstanceState.SUCCESS]
            found.removed_pks += left
            if left:  # what has succeeded stays as it is, and no longer matters
                found.removed.append(task_id)
    for number, task in enumerate(prepared.tasks):
        if task.task_id not in rows:
            found.added.append(task.task_id)
            continue
        first = rows[task.task_id][0]
        if set(json.loads(first.upstream)) != set(task.upstream_task_ids) or (
            first.trigger_rule != task.options.trigger_rule.value
        ):
            found.rewired.append(task.task_id)
        _compare_mapping(prepared, number, rows[task.task_id], found)
    if digest != prepared.digest and not found:
        found.others = True
    return found


def _compare_mapping(prepared: PreparedDag, number: int, rows: list[RecordedInstance], found: Differences) -> None:
    task_id, unit = prepared.tasks[number].task_id, prepared.unit_of[number]
    is_expanded = rows[0].map_index >= 0
    length = None if unit is None else prepared.unit_specs[unit].length
    if is_expanded and unit is None:
        found.hopeless = f"{task_id!r} was mapped and is not"
    elif unit is not None and not is_expanded and rows[0].state is TaskInstanceState.SUCCESS:
        found.hopeless = f"{task_id!r} was not mapped and is"
    elif length is not None and length > 0 and not is_expanded:
        found.hopeless = f"{task_id!r} is mapped over something else"
    elif length is not None and is_expanded and length != len(rows):
        if not length:
            found.hopeless = f"{task_id!r} is mapped over nothing"
            return
        found.resized.append(f"{task_id} is mapped over {length:,} items and not {len(rows):,}")
        found.longer[task_id] = range(len(rows), max(length, len(rows)))
        found.removed_pks += [one.pk for one in rows if one.map_index >= length]
