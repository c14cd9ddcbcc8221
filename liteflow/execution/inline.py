"""The engine of a run in a test: jobs run one after the other, in the thread that polls, and waiting takes no time.

A function is called as it is, without being sent anywhere. A sensor that waits in its slot (mode `poke`) is put aside
between two looks, as if it had a slot to itself, so that what it waits for can happen. A `timeout` ends such a sensor,
and no function while it runs.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import pickle
from bdb import BdbQuit
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

from liteflow.authoring.context import get_current_context
from liteflow.authoring.dagfile import airflow_names
from liteflow.authoring.options import SensorOptions
from liteflow.authoring.task import BASH, PYTHON, SENSOR
from liteflow.execution.calling import Payload, Recipe, call
from liteflow.execution.clock import Clock
from liteflow.execution.jobs import Events, Job, LogLine, Outcome, charge_log, outcome_of, why_killed
from liteflow.execution.listening import listening
from liteflow.execution.output import ROW_BYTES
from liteflow.operators.base import OperatorState, run_mapped_operator, run_operator
from liteflow.states import EndReason, TaskInstanceState

if TYPE_CHECKING:
    from liteflow.execution.code import Dumps
    from liteflow.execution.loop import Loop

LET_OUT = (KeyboardInterrupt, BdbQuit)
"""What leaves the run instead of failing a task: Ctrl-C, and the `q` of a debugger."""


class LeapingClock(Clock):
    """The host's time, and ahead of it by all that was waited for."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead_s

    def now_us(self) -> int:
        return super().now_us() + int(self._ahead_s * 1e6)

    def sleep(self, seconds: float) -> None:
        self._ahead_s += max(0.0, seconds)


class StandIns(NamedTuple):
    """What takes the place of functions, by task id. See `Dag.test`."""

    mock: Mapping[str, Any]
    fail: Mapping[str, Sequence[BaseException | type[BaseException] | None]]


class InlineEngine:
    """See `jobs.Engine` for what each method promises."""

    chunks = False

    def __init__(
        self, functions: Sequence[Callable[..., Any]], stand_ins: StandIns, clock: LeapingClock, dumps: Dumps
    ) -> None:
        self._functions = functions
        """By code number. More may come while the dag is made ready."""
        self._stand_ins = stand_ins
        self._clock = clock
        self._dumps = dumps
        self.loop: Loop | None = None
        """Answers what tasks ask."""
        self._queue: list[tuple[float, int, Job]] = []
        """When a job is to run, a number to keep the order, and the job."""
        self._numbers = itertools.count()
        self._looks: dict[Job, int] = {}
        """Of sensors that are put aside: how many times they have looked."""
        self._made: dict[Job, OperatorState] = {}
        """Of those that are operators: the object that looks, which in a slot is the same one at each look."""

    def start(self) -> None:
        return

    def hold_locks(self, directory: str, token: str) -> None:
        return

    def size(self) -> int:
        return 1

    def live_until(self, at: float) -> None:
        """What runs inline has no life of its own."""

    def replace_no_more(self) -> None:
        return

    def vacancies(self) -> list[int]:
        return [1] if len(self._queue) == len(self._looks) else []

    def submit(self, vacancy: int, jobs: list[Job]) -> None:
        for job in jobs:
            self._put(self._clock.monotonic(), job)

    def _put(self, at: float, job: Job) -> None:
        heapq.heappush(self._queue, (at, next(self._numbers), job))

    def answer(self, job: Job, number: int, rows: tuple[Any, ...]) -> None:
        raise AssertionError("questions are answered while the task waits")

    def has_begun(self, job: Job) -> bool:
        return job in self._looks

    def cancel(self, job: Job, reason: EndReason) -> None:
        if job.kill_reason is None:
            job.kill_reason = reason

    def kill(self) -> None:
        """What runs inline is over whenever this could be called."""

    def wake(self) -> None:
        return

    def close(self, *, kill: bool) -> None:
        self._queue.clear()
        self._looks.clear()
        self._made.clear()

    def poll(self, timeout_s: float) -> Events:
        events = Events()
        self._end_cancelled(events)
        if events:
            return events
        due = self._queue[0][0] if self._queue else math.inf
        now = self._clock.monotonic()
        until = min(due, now + timeout_s)
        if until == math.inf:
            raise AssertionError("the run waits for something, and nothing can happen any more")
        self._clock.sleep(until - now)
        if due <= until:
            _, _, job = heapq.heappop(self._queue)
            self._run(job, events)
        return events

    def _end_cancelled(self, events: Events) -> None:
        for one in [one for one in self._queue if one[2].kill_reason is not None]:
            self._queue.remove(one)
            job = one[2]
            if self._looks.pop(job, None) is None:
                events.returned.append(job)
            else:
                events.finished.append((job, self._ended_early(job)))
        heapq.heapify(self._queue)

    def _ended_early(self, job: Job) -> Outcome:
        reason = job.kill_reason
        return Outcome(
            TaskInstanceState.FAILED,
            reason,
            why_killed(job),
            reason is EndReason.TIMEOUT,
            started_us=job.started_us,
            ended_us=self._clock.now_us(),
        )

    def _run(self, job: Job, events: Events) -> None:
        """Run a job to its end, or up to where a sensor waits."""
        looks = self._looks.pop(job, 0)
        if job.started_at is None:
            job.started_at, job.started_us = self._clock.monotonic(), self._clock.now_us()
            events.started.append(job)
        if looks and job.timeout_s is not None and self._clock.monotonic() >= job.started_at + job.timeout_s:
            job.kill_reason = EndReason.TIMEOUT
            events.finished.append((job, self._ended_early(job)))
            return

        def hear(level: int | None, logger: str | None, text: str) -> None:
            if charge_log(job, len(text) + ROW_BYTES):
                events.lines.append((job, LogLine(self._clock.now_us(), level, logger, text)))

        def report(text: str) -> None:
            for line in text.rstrip("\n").split("\n"):
                hear(logging.ERROR, "liteflow.task", line)

        def ask(question: tuple[Any, ...]) -> tuple[Any, ...]:
            assert self.loop is not None
            return self.loop.answer_now(job, question)

        function, recipe = self._what_to_call(job)
        payload = Payload(*job.payload)
        pokes = recipe.kind == SENSOR and recipe.sensor is not None and SensorOptions(*recipe.sensor).mode == "poke"
        if pokes:
            recipe, payload = self._one_look(recipe, payload, job, looks)
            function = self._looking_again(function, job)
        with listening(hear), airflow_names():
            result = call(function, recipe, payload, report, ask, clock=self._clock, let_out=LET_OUT)
        if pokes and result.state == TaskInstanceState.UP_FOR_RESCHEDULE:
            self._looks[job] = looks + 1
            due = self._clock.monotonic() + (result.delay_s or 0.0)
            self._put(due if job.timeout_s is None else min(due, job.started_at + job.timeout_s), job)
            return
        self._made.pop(job, None)
        ended_us = self._clock.now_us()
        outcome = outcome_of(tuple(result), started_us=job.started_us, ended_us=ended_us, load_trace=None, guard=None)
        events.finished.append((job, outcome))

    def _one_look(self, recipe: Recipe, payload: Payload, job: Job, looks: int) -> tuple[Recipe, Payload]:
        """A sensor that waits in its slot, made to look once: it is put aside then, and nobody else is told."""
        assert recipe.sensor is not None
        recipe = recipe._replace(sensor=tuple(SensorOptions(*recipe.sensor)._replace(mode="reschedule")))
        if not looks:
            return recipe, payload
        if recipe.extras:  # what is called when a try begins was called
            extras = pickle.loads(recipe.extras)
            extras.pop("on_execute", None)
            extras.pop("pre_execute", None)
            recipe = recipe._replace(extras=self._dumps(extras))
        return recipe, payload._replace(first_look_us=job.started_us, looks=looks)

    def _looking_again(self, function: Callable[..., Any], job: Job) -> Callable[..., Any]:
        if function is not run_operator and function is not run_mapped_operator:
            return function
        return wraps(function)(lambda state, *args, **kw: function(self._made.setdefault(job, state), *args, **kw))

    def _what_to_call(self, job: Job) -> tuple[Callable[..., Any], Recipe]:
        """The function of a job, or what stands in for it, and how it is called."""
        function, recipe = self._functions[job.code_number], job.recipe
        if job.callback_id is not None:
            return function, recipe
        errors = self._stand_ins.fail.get(job.name, ())
        error = errors[job.try_number - 1] if job.try_number <= len(errors) else None
        if error is not None:
            return _raising(error), _without_arguments(recipe)
        if job.name not in self._stand_ins.mock:
            return function, recipe
        mock = self._stand_ins.mock[job.name]
        if recipe.kind == BASH:  # it stands for the command, not for the function that says which
            recipe = recipe._replace(kind=PYTHON)
        if callable(mock):
            return _calling(mock, function), recipe
        return (lambda: mock), _without_arguments(recipe)._replace(extras=b"")


def _without_arguments(recipe: Recipe) -> Recipe:
    return recipe._replace(
        arguments=b"",
        has_placeholders=False,
        templated=False,
        context_params=(),
        wants_context=False,
        map_index_template=None,
    )


def _raising(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    def fail() -> None:
        raise error if isinstance(error, type) else error.with_traceback(None)

    return fail


def _calling(mock: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """The mock with the function's signature: it is what says which arguments there are."""
    if function is run_operator or function is run_mapped_operator:
        return wraps(function)(lambda *_args, **_kwargs: mock(get_current_context()))
    return wraps(function)(lambda *args, **kwargs: mock(*args, **kwargs))
