"""A run while it is driven: the core's decisions, and what is needed to turn a task instance into a job."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from liteflow.authoring.dag import Dag
from liteflow.authoring.task import Task
from liteflow.authoring.xcomarg import RETURN_VALUE, Placeholder
from liteflow.execution.calling import Payload
from liteflow.execution.code import Code, pack_arguments
from liteflow.execution.jobs import Outcome
from liteflow.scheduling.core import Change, RunCore, TaskSpec
from liteflow.states import EndReason, RunState, TaskInstanceState
from liteflow.storage.models import to_microseconds

KEPT_VALUE_BYTES = 64 * 1024
"""Values up to this size stay in memory until the last task that takes them has ended; others are read again."""

NULL = ("json", b"null")


class RunEvent(NamedTuple):
    """Something that happened in a run, told after it was committed."""

    kind: str
    """`run`, `task` or `line`."""
    task_id: str | None = None
    map_index: int = -1
    state: TaskInstanceState | RunState | None = None
    try_number: int = 0
    reason: EndReason | None = None
    error: str | None = None
    duration_s: float | None = None
    text: str | None = None
    """Of a log line."""


Listener = Callable[[RunEvent], None]


class PreparedDag:
    """A dag made ready to run: numbered, its functions and arguments packed. Shared by all of its runs in a service."""

    def __init__(self, dag: Dag, code_of: Callable[[Task], tuple[int, Code]]) -> None:
        dag.validate()
        self.dag = dag
        self.digest = dag.structure_digest()
        self.tasks = dag.topological_sort()
        self.number_of = {task.task_id: number for number, task in enumerate(self.tasks)}
        self.codes = [code_of(task) for task in self.tasks]
        self.arguments = [pack_arguments(task) for task in self.tasks]
        self.has_placeholders = [_holds_placeholder((task.args, task.kwargs)) for task in self.tasks]
        self.specs = [
            TaskSpec(task.task_id, tuple(self.number_of[up] for up in task.upstream_task_ids), task.options)
            for task in self.tasks
        ]
        self.takers = Counter(
            self.number_of[up] for task in self.tasks for up in {wanted.task_id for wanted in task.inputs}
        )
        """How many tasks take the value of each."""


def _holds_placeholder(value: Any) -> bool:
    if isinstance(value, Placeholder):
        return True
    if isinstance(value, dict):
        return any(map(_holds_placeholder, value.values()))
    return isinstance(value, list | tuple | set | frozenset) and any(map(_holds_placeholder, value))


class ActiveRun:
    """A run that this service drives."""

    def __init__(
        self,
        prepared: PreparedDag,
        *,
        pk: int,
        pks: list[int],
        run_id: str,
        logical_date: datetime,
        params_json: str,
        listener: Listener | None = None,
    ) -> None:
        self.prepared = prepared
        self.dag = prepared.dag
        self.pk = pk
        self.pks = pks
        """Keys of the task instances, by number."""
        self.run_id = run_id
        self.params_json = params_json
        self.logical_date_us = to_microseconds(logical_date)
        self.core = RunCore(
            prepared.specs,
            identity=f"{self.dag.dag_id}/{logical_date.isoformat()}",
            fail_fast=self.dag.fail_fast,
        )
        self.ready: deque[int] = deque()
        """Queued task instances, in the order in which they became so."""
        self.running: set[int] = set()
        self.listener = listener
        self.error: BaseException | None = None
        """Why `wait()` raises instead of returning the run."""
        self.over = threading.Event()
        self.alone: set[int] = set()
        """Task instances that crashed once: they run without others in their slot from then on."""
        self._values: dict[tuple[int, str], tuple[str, bytes]] = {}
        self._open_takers = dict(prepared.takers)

    def task(self, index: int) -> Task:
        """The task of a number."""
        return self.prepared.tasks[index]

    def tell(self, event: RunEvent) -> None:
        """Pass an event on to whoever listens."""
        if self.listener is None:
            return
        try:
            self.listener(event)
        except Exception:  # a stranger's code in the service's thread: it must not end the runs of others
            logging.getLogger("liteflow").exception("the listener of run %s raised, and is told no more", self.run_id)
            self.listener = None

    def note(self, changes: list[Change]) -> None:
        """Keep the queue in step with the core's changes."""
        for change in changes:
            if change.state is TaskInstanceState.QUEUED:
                self.ready.append(change.index)
            elif change.state.is_terminal:
                self._ended(change.index)
        if self.core.ending is not None:
            self.ready.clear()

    def _ended(self, index: int) -> None:
        """A task instance takes no values any more: forget those that nobody else will take."""
        for task_id in {wanted.task_id for wanted in self.task(index).inputs}:
            number = self.prepared.number_of[task_id]
            self._open_takers[number] -= 1
            if not self._open_takers[number]:
                for key in [key for key in self._values if key[0] == number]:
                    del self._values[key]

    def keep_values(self, index: int, outcome: Outcome) -> None:
        """Remember the values of a task for those that take them."""
        if self._open_takers.get(index):
            for key, encoding, data in outcome.xcoms:
                if len(data) <= KEPT_VALUE_BYTES:
                    self._values[index, key] = (encoding, data)

    def missing_values(self, index: int) -> list[int]:
        """Keys of the upstream task instances whose values must be read from the database for this one."""
        missing = []
        for wanted in self.task(index).inputs:
            number = self.prepared.number_of[wanted.task_id]
            known = (number, wanted.key) in self._values or (number, RETURN_VALUE) in self._values
            if not known and self.core.states[number] is TaskInstanceState.SUCCESS:
                missing.append(self.pks[number])
        return missing

    def payload(self, index: int, stored: Mapping[tuple[int, str], tuple[str, bytes]]) -> Payload:
        """What the worker needs for the next try; `stored` holds the values named by `missing_values`."""
        task = self.task(index)
        return Payload(
            arguments=self.prepared.arguments[index],
            has_placeholders=self.prepared.has_placeholders[index],
            inputs=tuple(self._input(wanted.task_id, wanted.key, stored) for wanted in task.inputs),
            context_params=task.context_params,
            wants_context=task.wants_context,
            multiple_outputs=bool(task.options.multiple_outputs),
            dag_id=self.dag.dag_id,
            run_id=self.run_id,
            task_id=task.task_id,
            map_index=-1,
            try_number=self.core.try_numbers[index],
            max_tries=task.options.retries + 1,
            logical_date_us=self.logical_date_us,
            params=self.params_json,
        )

    def _input(
        self, task_id: str, key: str, stored: Mapping[tuple[int, str], tuple[str, bytes]]
    ) -> tuple[str, str, str, bytes, bool]:
        """One input: the XCom of that key or, for a key that was not pushed, the result from which it is taken."""
        number = self.prepared.number_of[task_id]
        for wanted in (key, RETURN_VALUE):
            value = self._values.get((number, wanted)) or stored.get((self.pks[number], wanted))
            if value is not None:
                return (task_id, key, *value, wanted != key)
        take = key != RETURN_VALUE and self.core.states[number] is TaskInstanceState.SUCCESS
        return (task_id, key, *NULL, take)
