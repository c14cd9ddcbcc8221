"""A run while it is driven: the core's decisions, and what is needed to turn a task instance into a job."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from liteflow.authoring.mapping import Items, Leaf, Literal, count_of, leaves_of, needed_items
from liteflow.authoring.task import Task
from liteflow.authoring.xcomarg import RETURN_VALUE, ListPlaceholder, Placeholder, XComInput, placeholders_in
from liteflow.execution.calling import Payload
from liteflow.execution.hostlog import warn
from liteflow.execution.jobs import Outcome
from liteflow.execution.prepared import PreparedDag
from liteflow.execution.ready import ReadyQueue
from liteflow.scheduling.core import Change, Expansion, RunCore
from liteflow.states import TERMINAL, EndReason, RunState, TaskInstanceState
from liteflow.storage.moments import to_microseconds
from liteflow.storage.xcoms import ITEMS, EncodedItems

KEPT_VALUE_BYTES = 64 * 1024
"""Values up to this size stay in memory until the last task that takes them has ended; others are read again."""

KEPT_BYTES = 64 * 1024 * 1024
"""How much all values that are kept for a run may take together."""

VALUE_OVERHEAD_BYTES = 200
"""What a value that is kept costs beside its bytes."""

Stored = Mapping[tuple[int, str], tuple[str, bytes]]
"""XComs out of the database: (task instance's key, XCom's key) to (encoding, data)."""


class RunEvent(NamedTuple):
    """Something that happened in a run, told after it was committed."""

    kind: str
    """`run`, `task`, `line`, `expanded` (a mapped task has its instances now), or `kept` (a task instance of a run that
    goes on was over before)."""
    task_id: str | None = None
    map_index: int = -1
    state: TaskInstanceState | RunState | None = None
    try_number: int = 0
    end_reason: EndReason | None = None
    error: str | None = None
    duration_s: float | None = None
    text: str | None = None
    """Of a log line."""
    size: int = 0
    """Of `expanded`: how many instances there are."""


Listener = Callable[[RunEvent], None]


class ActiveRun:
    """A run that this service drives. Task instances have the core's numbers."""

    def __init__(
        self,
        prepared: PreparedDag,
        *,
        pk: int,
        pks: list[int] | None,
        run_id: str,
        logical_date: datetime,
        params_json: str,
        created_us: int,
        priority: int = 0,
        listener: Listener | None = None,
    ) -> None:
        self.prepared = prepared
        self.dag = prepared.dag
        self.pk = pk
        self.run_id = run_id
        self.params_json = params_json
        self.logical_date_us = to_microseconds(logical_date)
        self.created_us = created_us
        self.priority = priority
        self.core = RunCore(
            prepared.specs,
            units=prepared.unit_specs,
            identity=f"{self.dag.dag_id}/{logical_date.isoformat()}",
            fail_fast=self.dag.fail_fast,
        )
        self.pks = self._by_number(pks) if pks is not None else []
        """Keys of the task instances, by number; those of a run that is taken up again come with `restored`."""
        self.ready = ReadyQueue(prepared, self.core)
        self.running: set[int] = set()
        self.listeners = [] if listener is None else [listener]
        self.error: BaseException | None = None
        """Why `wait()` raises instead of returning the run."""
        self.over = threading.Event()
        self._mutex = threading.Lock()
        self._when_over: list[Callable[[], None]] = []
        self.alone: set[int] = set()
        """Task instances that crashed once: they run without others in their slot from then on."""
        self.first_look_us: dict[int, int] = {}
        """Of sensors that gave their slots back: when they looked first."""
        self.looks: dict[int, int] = {}
        """Of the same: how many times they have looked."""
        self.look_at_once: set[int] = set()
        """Of the same: whose present look may have come too early, since what they wait for is over."""
        self.past_tries: dict[tuple[str, int], int] = {}
        """By task id and map index: tries of instances that were removed from the run, and may come back."""
        self.open_callbacks = 0
        """Callbacks that are due or running: the run is not over before they are."""
        self.called_for_end = False
        """Whether the dag's own callbacks were begun."""
        self.last_of: dict[TaskInstanceState, int] = {}
        """Of each final state: the instance that came to it last."""
        self.hard_end_at: float | None = None
        """When teardowns of a run that is ended early are given up, by the monotonic clock."""
        self._values: dict[tuple[int, str], tuple[str, bytes]] = {}
        self._kept_bytes = 0
        self._item_lists: dict[tuple[int, str], EncodedItems] = {}
        """Values over which other tasks are mapped."""
        self._lengths: dict[int, dict[Leaf, int]] = {}
        """Of each unit that is expanded: how long what it is mapped over is."""
        self._successes: dict[int, list[int]] = {}
        self._takers = {number: set(takers) for number, takers in enumerate(prepared.takers) if takers}
        """Of each task whose value others take: those that have not ended."""

    def _by_number(self, pks: list[int]) -> list[int]:
        """Keys in the order in which their rows were made (task by task) put into the order of the core's numbers."""
        found = [0] * len(pks)
        rows = iter(pks)
        for task in range(len(self.prepared.tasks)):
            for index in self.core.instances(task):
                found[index] = next(rows)
        return found

    def restored(self, index_of: Mapping[int, int]) -> None:
        """The core has its recorded past; `index_of` says of each key which instance it is."""
        self.pks = [0] * len(self.core.states)
        for pk, index in index_of.items():
            self.pks[index] = pk
        for index, state in enumerate(self.core.states):
            if state is TaskInstanceState.QUEUED:
                self.ready.push(index)
        for task in range(len(self.prepared.tasks)):
            self._ended(task)

    def index_of(self, task_id: str, map_index: int) -> int:
        """The number of an instance."""
        return self.core.instance(self.prepared.number_of[task_id], map_index)

    def keep_items(self, task: int, key: str, items: EncodedItems) -> None:
        """Remember a value over which other tasks are mapped."""
        self._item_lists[task, key] = items

    def task(self, index: int) -> Task:
        """The task of an instance."""
        return self.prepared.tasks[self.core.task_of[index]]

    def map_index(self, index: int) -> int:
        """The map index of an instance."""
        return self.core.map_index_of[index]

    def name(self, index: int) -> str:
        """What an instance is called."""
        return self.core.name_of(index)

    def tell(self, event: RunEvent) -> None:
        """Pass an event on to whoever listens."""
        for listener in list(self.listeners):
            try:
                listener(event)
            except Exception:  # a stranger's code in the service's thread: it must not end the runs of others
                warn(
                    "the listener of run %s raised, and is told no more",
                    self.run_id,
                    level=logging.ERROR,
                    exc_info=True,
                )
                self.ignore(listener)

    def ignore(self, listener: Listener) -> None:
        """Tell a listener no more. From any thread."""
        with contextlib.suppress(ValueError):  # it was told no more already
            self.listeners.remove(listener)

    def end(self) -> None:
        """The run is over, or this service has nothing to do with it any more: `wait()` returns, or raises `error`."""
        with self._mutex:
            self.over.set()
            calls, self._when_over = self._when_over, []
        for call in calls:
            call()

    def when_over(self, call: Callable[[], None]) -> None:
        """Have `call` called, in the service's thread, once `end` is; at once when it was."""
        with self._mutex:
            if not self.over.is_set():
                self._when_over.append(call)
                return
        call()

    def note(self, changes: list[Change]) -> None:
        """Keep the queue in step with the core's changes."""
        for change in changes:
            if change.state is TaskInstanceState.QUEUED:
                self.ready.push(change.index)
            elif change.state in TERMINAL:
                self.last_of[change.state] = change.index
                task = self.core.task_of[change.index]
                if not self.prepared.needs_nothing[task]:
                    self._ended(task)

    def _ended(self, task: int) -> None:
        """When all of a task has ended it takes no values any more: forget those that nobody else will take."""
        if self.core.unended[task]:
            return
        upstream = {
            self.prepared.number_of[wanted.task_id] for wanted in self.prepared.inputs_of(self.prepared.tasks[task])
        }
        unit = self.prepared.unit_of[task]
        if unit is not None:
            upstream.update(self.prepared.units[unit].sources)
        for number in upstream:
            takers = self._takers[number]
            takers.discard(task)
            if not takers:
                self._forget_values(number)

    def _forget_values(self, task: int) -> None:
        if not self._values and not self._item_lists:
            return
        keys = self.prepared.keys_taken[task]
        for index in self.core.instances(task):
            for key in keys:
                value = self._values.pop((index, key), None)
                if value is not None:
                    self._kept_bytes -= len(value[1]) + VALUE_OVERHEAD_BYTES
        for key in keys:
            self._item_lists.pop((task, key), None)

    def keep_values(self, index: int, outcome: Outcome) -> None:
        """Remember the values of a task for those that take them."""
        task = self.core.task_of[index]
        if not self._takers.get(task):
            return
        wanted = self.prepared.keys_taken[task]
        for key, encoding, data in outcome.xcoms:
            if key not in wanted:
                continue
            if encoding == ITEMS:
                self.keep_items(task, key, EncodedItems(data))
            size = len(data) + VALUE_OVERHEAD_BYTES
            if len(data) <= KEPT_VALUE_BYTES and self._kept_bytes + size <= KEPT_BYTES:
                self._values[index, key] = (encoding, data)
                self._kept_bytes += size

    # Mapping

    def length_of(self, unit: int) -> int:
        """How many instances the tasks of a unit have, once what it is mapped over is there."""
        found: dict[Leaf, int] = {}
        for leaf in self.prepared.units[unit].leaves:
            if isinstance(leaf, Literal):
                found[leaf] = len(self.prepared.units[unit].input.literals[leaf.number])
                continue
            source = self.prepared.number_of[leaf.task_id]
            if self.core.is_expanded(source):
                found[leaf] = len(self.successes(source))
            else:
                found[leaf] = len(self._item_lists[source, leaf.key])
        self._lengths[unit] = found
        return count_of(self.prepared.units[unit].input, found)

    def count_on(self, expansion: Expansion) -> None:
        """The instances of a unit that was expanded again are the ones from before: their tries are counted on."""
        for task in expansion.tasks if self.past_tries else ():
            for index in self.core.instances(task):
                number = self.past_tries.pop((self.prepared.tasks[task].task_id, self.map_index(index)), 0)
                if number:
                    self.core.try_numbers[index] = self.core.uncounted_tries[index] = number

    def add_instances(self, expansion: Expansion, pks: list[list[int]]) -> None:
        """The rows of a unit that was expanded are made; `pks` holds the keys of each task by map index."""
        self.pks += [0] * (len(self.core.states) - len(self.pks))
        for task, keys in zip(expansion.tasks, pks, strict=True):
            for index, pk in zip(self.core.instances(task), keys, strict=True):
                self.pks[index] = pk

    def successes(self, task: int) -> list[int]:
        """The instances of a mapped task that succeeded; asked for once all of them have ended."""
        if task not in self._successes:
            found = self.core.successes(task)
            if self.core.unended[task]:
                return found
            self._successes[task] = found
        return self._successes[task]

    def _lengths_of(self, unit: int) -> dict[Leaf, int]:
        if unit not in self._lengths:
            self.length_of(unit)
        return self._lengths[unit]

    def _mapped_refs(self, index: int) -> list[tuple[Leaf, int]]:
        """Which items an instance needs of what it is mapped over."""
        unit = self.prepared.unit_of[self.core.task_of[index]]
        if unit is None or self.prepared.recipes[self.core.task_of[index]].used_mapped == ():
            return []
        return needed_items(self.prepared.units[unit].input, self.map_index(index), self._lengths_of(unit))

    def _instances_for(self, index: int, task_id: str) -> list[int] | None:
        """The instances whose values an instance gets of a task, all of a mapped one; None for a single one.

        Inside a unit that is the one with the same map index.
        """
        number = self.prepared.number_of[task_id]
        if not self.core.is_expanded(number):
            return None
        unit = self.prepared.unit_of[self.core.task_of[index]]
        return None if unit is not None and unit == self.prepared.unit_of[number] else self.successes(number)

    def _is_mapped_elsewhere(self, index: int, task_id: str) -> bool:
        """Whether another task is mapped, and not together with this instance's."""
        unit = self.prepared.unit_of[self.prepared.number_of[task_id]]
        return unit is not None and unit != self.prepared.unit_of[self.core.task_of[index]]

    def _inputs_of(self, index: int) -> Iterator[XComInput]:
        """What the arguments of an instance need of other tasks."""
        task = self.task(index)
        yield from task.inputs
        expansion = task.expand_input
        if expansion is None or not expansion.in_items.inputs:
            return
        seen = set(task.inputs)
        for leaf, place in self._mapped_refs(index):
            if isinstance(leaf, Literal):
                for one in placeholders_in(expansion.input.literals[leaf.number][place]):
                    for wanted in _wanted_by(one):
                        if wanted not in seen:
                            seen.add(wanted)
                            yield wanted

    # Values

    def missing_values(self, index: int) -> list[int]:
        """Keys of the task instances whose values must be read from the database for this one."""
        if self.prepared.needs_nothing[self.core.task_of[index]]:
            return []
        missing = []
        for wanted in self._inputs_of(index):
            several = self._instances_for(index, wanted.task_id)
            for number in several if several is not None else [self._same_index(index, wanted.task_id)]:
                known = (number, wanted.key) in self._values or (number, RETURN_VALUE) in self._values
                if not known and self.core.states[number] is TaskInstanceState.SUCCESS:
                    missing.append(self.pks[number])
        for leaf, place in self._mapped_refs(index):
            source = self._mapped_source(leaf)
            if source is not None and isinstance(leaf, Items):
                one = self.successes(source)[place]
                if (one, leaf.key) not in self._values:
                    missing.append(self.pks[one])
        return missing

    def _same_index(self, index: int, task_id: str) -> int:
        """The instance of another task that goes with this one: of the same map index within a unit."""
        number = self.prepared.number_of[task_id]
        unit = self.prepared.unit_of[number]
        if unit is None or unit != self.prepared.unit_of[self.core.task_of[index]]:
            return number
        return self.core.instance(number, self.map_index(index))

    def _mapped_source(self, leaf: Leaf) -> int | None:
        """The task of a leaf whose items are the values of instances."""
        if not isinstance(leaf, Items):
            return None
        number = self.prepared.number_of[leaf.task_id]
        return number if self.core.is_expanded(number) else None

    def payload(self, index: int, stored: Stored) -> Payload:
        """What the worker needs for the next try; `stored` holds the values named by `missing_values`."""
        task = self.core.task_of[index]
        needed = () if self.prepared.needs_nothing[task] else self._inputs_of(index)
        return Payload(  # by place: names would make it take twice as long
            tuple([self._input(index, wanted, stored) for wanted in needed]),
            None if self.prepared.unit_of[task] is None else self._mapped(index, stored),
            self.dag.dag_id,
            self.run_id,
            self.prepared.tasks[task].task_id,
            self.core.map_index_of[index],
            self.core.try_numbers[index],
            self.logical_date_us,
            self.params_json,
            self.created_us,
            self.first_look_us.get(index),
            self.looks.get(index, 0),
            self.core.uncounted_tries[index],
            self.pks[index],
        )

    def _input(
        self, index: int, wanted: XComInput, stored: Stored
    ) -> tuple[str, str, bool, tuple[tuple[str, bytes, bool] | None, ...]]:
        several = self._instances_for(index, wanted.task_id)
        if several is None and self._is_mapped_elsewhere(index, wanted.task_id):
            several = []  # mapped over nothing, or never expanded
        if several is None:
            number = self._same_index(index, wanted.task_id)
            return (*wanted, False, (self._value(number, wanted.key, stored),))
        return (*wanted, True, tuple(self._value(number, wanted.key, stored) for number in several))

    def _value(self, number: int, key: str, stored: Stored) -> tuple[str, bytes, bool] | None:
        """The XCom of that key or, for a key that was not pushed, the result from which it is taken."""
        for wanted in (key, RETURN_VALUE):
            value = self._values.get((number, wanted)) or stored.get((self.pks[number], wanted))
            if value is not None:
                return (*value, wanted != key)
        if key != RETURN_VALUE and self.core.states[number] is TaskInstanceState.SUCCESS:
            return ("json", b"null", True)
        return None

    def _mapped(self, index: int, stored: Stored) -> tuple[Any, ...]:
        """The fields of `MappedItems`."""
        task = self.core.task_of[index]
        unit = self.prepared.unit_of[task]
        assert unit is not None
        leaves = self.prepared.units[unit].leaves
        items: list[tuple[int, int, str, bytes]] = []
        for leaf, place in self._mapped_refs(index):
            number = leaves.index(leaf)
            if isinstance(leaf, Literal):
                items.append((number, place, "literal", self.prepared.literal_item(unit, number, place)))
                continue
            source = self._mapped_source(leaf)
            if source is None:
                items.append(
                    (number, place, *self._item_lists[self.prepared.number_of[leaf.task_id], leaf.key].item(place))
                )
            else:
                value = self._value(self.successes(source)[place], leaf.key, stored)
                items.append((number, place, *(("json", b"null") if value is None else value[:2])))
        lengths = self._lengths_of(unit)
        return tuple([lengths[leaf] for leaf in leaves]), tuple(items), self.core.count(task)


def _wanted_by(placeholder: object) -> Iterator[XComInput]:
    """The XComs for which a placeholder stands."""
    if isinstance(placeholder, Placeholder) and placeholder.task_id is not None:
        yield XComInput(placeholder.task_id, placeholder.key)
    elif isinstance(placeholder, ListPlaceholder):
        yield from (XComInput(*leaf) for leaf in leaves_of(placeholder.source) if isinstance(leaf, Items))
