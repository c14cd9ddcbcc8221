"""Threads of this process as the engine: of its own, or of a `ThreadPoolExecutor` of the application.

A task in a thread has all that it has in a slot: it asks for values of others, its lines are recorded while it runs,
and what goes in and out are bytes. What it has not is a process: it cannot be killed. A timeout or a cancel *fences*
it. The try ends at once, and nothing is recorded any more of what its thread still prints or returns. A sensor that
waits, a command of the shell, and whatever asks for something end then; any other thread goes on for as long as it
likes. Working directory, environment and `sys.stdout` itself are those of the process.

A fenced thread of our own has another one in its place, up to a hundred of them: with more that hang, tasks wait. In a
pool of the application it keeps the place that it takes there.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from liteflow.authoring.context import call_when_ended
from liteflow.authoring.dagfile import airflow_names
from liteflow.errors import MissingMainGuard, TaskKilled
from liteflow.execution.calling import Payload, Result, call, describe_error, trace_of
from liteflow.execution.capture import Sink, capturing
from liteflow.execution.clock import Clock, clock_us
from liteflow.execution.code import load
from liteflow.execution.cpus import usable_cpus
from liteflow.execution.jobs import Events, Job, LogLine, Outcome, charge_log, outcome_of, why_killed
from liteflow.states import EndReason, TaskInstanceState

LINES_AFTER_S = 0.05
"""How long after a line was written it is recorded, together with those that come meanwhile."""

LONGEST_POLL_S = 3600.0

MOST_FENCED = 100
"""How many fenced threads of our own have others in their places."""

CLOSE_GRACE_S = 1.0
"""How long closing waits for threads that have nothing more to do."""

THREAD_NAME = "liteflow-task"

_OVER = "the task that asks for this value is over"


def default_threads() -> int:
    """How many tasks run at once in threads of our own if nobody says it: they mostly wait for something."""
    return min(32, usable_cpus() + 4)


class _Crew:
    """Daemon threads, begun when they are needed and used again: the process can end though one of them hangs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue[Callable[[], None] | None]] = []
        self._threads: set[threading.Thread] = set()
        self._numbers = itertools.count(1)
        self._is_closed = False

    def submit(self, work: Callable[[], None]) -> None:
        with self._lock:
            box = self._idle.pop() if self._idle else None
        if box is None:
            box = queue.SimpleQueue()
            name = f"{THREAD_NAME}-{next(self._numbers)}"
            thread = threading.Thread(target=self._serve, args=(box,), name=name, daemon=True)
            thread.start()
            with self._lock:
                self._threads.add(thread)
        box.put(work)

    def _serve(self, box: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while (work := box.get()) is not None:
            work()
            del work  # what the task held goes now
            with self._lock:
                if self._is_closed:
                    return
                self._idle.append(box)

    def close(self, busy: int) -> None:
        """Have the threads end; waits for all but `busy` of them, a little."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for box in idle:
            box.put(None)
        deadline = time.monotonic() + CLOSE_GRACE_S
        left = [one for one in self._threads if one.is_alive()]
        while len(left) > busy and time.monotonic() < deadline:
            left[0].join(0.01)
            left = [*left[1:], left[0]] if left[0].is_alive() else left[1:]


class _Work:
    """One job in a thread. What happens in it is told to the engine; `fence` takes it out of the thread's hands."""

    def __init__(self, job: Job, tell: Callable[[Any], None]) -> None:
        self.job = job
        self._tell = tell
        self._lock = threading.Lock()
        self.started_us: int | None = None
        self.started_at: float | None = None
        """None before its function is called."""
        self.future: Future[None] | None = None
        self.is_fenced = threading.Event()
        self._on_end: list[tuple[contextvars.Context, Callable[[], None]]] = []
        """What is called when it is fenced, and in which context."""
        self._answers: dict[int, queue.SimpleQueue[tuple[Any, ...] | None]] = {}
        self._questions = itertools.count(1)
        self.sink = Sink(lambda size: charge_log(job, size), lambda: tell(("lines", self)))

    # In the engine's thread

    def fence(self) -> bool:
        """Let go of the thread; whether the task has begun. One that has not is not called any more."""
        self.sink.close()
        with self._lock:
            self.is_fenced.set()
            answers = list(self._answers.values())
            has_begun = self.started_at is not None
            on_end, self._on_end = self._on_end, []
        for box in answers:
            box.put(None)
        for context, function in on_end:
            with contextlib.suppress(RuntimeError):  # the interpreter is about to end
                threading.Thread(target=context.run, args=(_quietly, function), name=THREAD_NAME, daemon=True).start()
        return has_begun

    def answer(self, number: int, rows: tuple[Any, ...]) -> None:
        with self._lock:
            box = self._answers.pop(number, None)
        if box is not None:
            box.put(rows)

    # In its own

    def run(self) -> None:
        try:
            contextvars.copy_context().run(self._run)
        except BaseException as error:  # out of memory, or a mistake: whoever waits for the task must hear of it
            result = Result("failed", "error", describe_error(error), True, ())
            self._tell(("ended", self, result, clock_us(), trace_of(error), None))
        finally:
            self._tell(("gone", self))

    def _run(self) -> None:
        job, trace, guard = self.job, None, None
        call_when_ended.set(self._call_when_ended)
        with capturing(self.sink), airflow_names():
            try:
                function = load(job.code)  # imports may take long, and are not the task's time
            except MissingMainGuard as error:
                function, guard = None, (error.message, error.file, error.line)
                result = Result("failed", "error", str(error), False, ())
            except BaseException as error:
                function, trace = None, trace_of(error)
                where = job.code.file or job.code.module or "its function"
                result = Result("failed", "error", f"cannot load {where}: {describe_error(error)}", True, ())
            if not self._begin():
                return
            if function is not None:
                payload = Payload(*job.payload)
                result = call(function, job.recipe, payload, self._report, self._ask, clock=_FencedClock(self))
        ended_us = clock_us()
        self.sink.close()
        self._tell(("ended", self, result, ended_us, trace, guard))

    def _begin(self) -> bool:
        with self._lock:
            if self.is_fenced.is_set():
                return False
            self.started_us, self.started_at = clock_us(), time.monotonic()
        self._tell(("began", self))
        return True

    def _call_when_ended(self, function: Callable[[], None]) -> None:
        with self._lock:
            self._on_end.append((contextvars.copy_context(), function))

    def _report(self, text: str) -> None:
        self.sink.record(logging.ERROR, "liteflow.task", text.rstrip("\n"))

    def _ask(self, question: tuple[Any, ...]) -> tuple[Any, ...]:
        box: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        with self._lock:
            if self.is_fenced.is_set():
                raise RuntimeError(_OVER)
            number = next(self._questions)
            self._answers[number] = box
        self._tell(("ask", self, number, question))
        rows = box.get()
        if rows is None:
            raise RuntimeError(_OVER)
        return tuple(rows)


def _quietly(function: Callable[[], None]) -> None:
    """What it raises has no log to go to."""
    with contextlib.suppress(Exception):
        function()


class _FencedClock(Clock):
    """The host's time, for a task that need not sleep to its end once it is fenced."""

    def __init__(self, work: _Work) -> None:
        self._work = work

    def sleep(self, seconds: float) -> None:
        if self._work.is_fenced.wait(min(seconds, threading.TIMEOUT_MAX)):
            raise TaskKilled("the time of this task is up, or it was cancelled")


class ThreadEngine:
    """See `jobs.Engine` for what each method promises."""

    chunks = False

    def __init__(self, count: int, executor: ThreadPoolExecutor | None = None) -> None:
        """`count`: how many jobs run at once in threads of our own; an `executor` says it itself."""
        self._executor = executor
        self._crew = _Crew() if executor is None else None
        self._count = count if executor is None else int(getattr(executor, "_max_workers", count))
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.notify: Callable[[], None] | None = None
        """Called, from any thread, when there is something to poll for."""
        self._live: dict[Job, _Work] = {}
        self._fenced: set[_Work] = set()
        """Those whose threads go on."""
        self._writing: dict[_Work, float] = {}
        """Those that have written something, and when that is to be taken."""
        self._broken: str | None = None
        self._is_told = False
        """Whether it was said that it is broken."""
        self._not_taken: list[Job] = []
        """Jobs that the executor did not take."""
        self._vacancy_numbers = itertools.count(1)

    def size(self) -> int:
        return self._count

    def start(self) -> None:
        return

    def hold_locks(self, directory: str, token: str) -> None:
        return  # nothing of a thread outlives this process, whose own lock tells

    def live_until(self, at: float) -> None:
        return  # threads stand still with this process

    def replace_no_more(self) -> None:
        return

    def kill(self) -> None:
        # Threads cannot be: what they give is fenced. But nothing begins any more, and what waits for its end does.
        for work in list(self._live.values()):
            work.is_fenced.set()

    def vacancies(self) -> list[int]:
        spare = MOST_FENCED if self._executor is None else 0
        room = self._count - len(self._live) - max(0, len(self._fenced) - spare)
        return [next(self._vacancy_numbers) for _ in range(room if self._broken is None else 0)]

    def submit(self, vacancy: int, jobs: list[Job]) -> None:
        for job in jobs:
            work = _Work(job, self._tell)
            try:
                if self._crew is not None:
                    self._crew.submit(work.run)
                else:
                    assert self._executor is not None
                    work.future = self._executor.submit(work.run)
            except RuntimeError as error:  # it was shut down, its initializer failed, or there are no more threads
                self._not_taken.append(job)
                self._break(error)
                continue
            self._live[job] = work
            if work.future is not None:
                work.future.add_done_callback(lambda done, work=work: self._look_at(done, work))  # type: ignore[misc]

    def _look_at(self, future: Future[None], work: _Work) -> None:
        """A future is done: if the job never ran, the pool is broken or was shut down."""
        error = None if future.cancelled() else future.exception()
        if work.started_at is None and (future.cancelled() or error is not None):
            self._tell(("lost", work, error))

    def _break(self, error: BaseException | None) -> None:
        if self._broken is None:
            why = "it was shut down" if error is None else describe_error(error)
            self._broken = f"its executor is broken ({why})"

    def answer(self, job: Job, number: int, rows: tuple[Any, ...]) -> None:
        if job in self._live:
            self._live[job].answer(number, rows)

    def has_begun(self, job: Job) -> bool:
        return job in self._live and self._live[job].started_at is not None

    def cancel(self, job: Job, reason: EndReason) -> None:
        if job in self._live and job.kill_reason is None:
            job.kill_reason = reason
            self.wake()

    def wake(self) -> None:
        self._tell(None)

    def _tell(self, what: Any) -> None:
        self._told.put(what)  # not Queue, whose lock a signal handler that wakes us may find taken by its own thread
        notify = self.notify  # which may go meanwhile
        if notify is not None:
            notify()

    def due_in(self) -> float:
        """In how many seconds something is due at the soonest, if nothing is told before."""
        if self._not_taken or any(job.kill_reason is not None for job in self._live):
            return 0.0
        now = time.monotonic()
        due = [at - now for at in self._writing.values()]
        due += [
            job.started_at + job.timeout_s - now
            for job in self._live
            if job.timeout_s is not None and job.started_at is not None
        ]
        return max(0.0, min(due, default=LONGEST_POLL_S))

    def poll(self, timeout_s: float) -> Events:
        events = Events()
        timeout_s = min(timeout_s, self.due_in(), LONGEST_POLL_S)
        try:
            told = self._told.get(timeout=timeout_s) if timeout_s > 0 else self._told.get_nowait()
            while True:
                if told is not None:
                    self._hear(events, *told)
                told = self._told.get_nowait()
        except queue.Empty:
            pass  # that was all
        now = time.monotonic()
        for work, at in list(self._writing.items()):
            if now >= at:
                self._take_lines(work, events)
        self._fence_overdue(events)
        events.returned += self._not_taken
        self._not_taken = []
        if not self._is_told:
            events.broken, self._is_told = self._broken, self._broken is not None
        return events

    def _hear(self, events: Events, kind: str, work: _Work, *facts: Any) -> None:
        job = work.job
        if kind == "gone":
            self._fenced.discard(work)
        elif self._live.get(job) is not work:
            return  # it is fenced
        elif kind == "lines":
            self._writing.setdefault(work, time.monotonic() + LINES_AFTER_S)
        elif kind == "began":
            job.started_us, job.started_at = work.started_us, work.started_at
            events.started.append(job)
        elif kind == "ask":
            events.questions.append((job, *facts))
        elif kind == "ended":
            self._end(work, events, *facts)
        else:  # it never ran, and never will
            del self._live[job]
            self._writing.pop(work, None)
            events.returned.append(job)
            self._break(facts[0])

    def _end(
        self,
        work: _Work,
        events: Events,
        result: Result,
        ended_us: int,
        trace: str | None,
        guard: tuple[str, str, int] | None,
    ) -> None:
        job = work.job
        self._take_lines(work, events)
        self._writing.pop(work, None)
        del self._live[job]
        outcome = outcome_of(result, started_us=job.started_us, ended_us=ended_us, load_trace=trace, guard=guard)
        events.finished.append((job, outcome))

    def _take_lines(self, work: _Work, events: Events) -> None:
        lines, again_at = work.sink.take(time.monotonic())
        events.lines += [(work.job, line) for line in lines]
        if again_at is None:
            self._writing.pop(work, None)
        else:
            self._writing[work] = again_at

    def _fence_overdue(self, events: Events) -> None:
        now = time.monotonic()
        for job, work in list(self._live.items()):
            due = math.inf if job.timeout_s is None or job.started_at is None else job.started_at + job.timeout_s
            if job.kill_reason is None and now >= due:
                job.kill_reason = EndReason.TIMEOUT
            if job.kill_reason is not None:
                self._fence(job, work, events)

    def _fence(self, job: Job, work: _Work, events: Events) -> None:
        assert job.kill_reason is not None
        is_certain = work.future is not None and work.future.cancel()
        has_begun = work.fence()
        self._take_lines(work, events)
        self._writing.pop(work, None)
        del self._live[job]
        if not is_certain:
            self._fenced.add(work)
        if not has_begun:
            events.returned.append(job)
            return
        if job.started_at is None:
            job.started_us, job.started_at = work.started_us, work.started_at
            events.started.append(job)
        text = "its thread cannot be stopped and goes on; nothing more of it is recorded"
        events.lines.append((job, LogLine(clock_us(), logging.WARNING, "liteflow.task", text)))
        outcome = Outcome(
            TaskInstanceState.FAILED,
            job.kill_reason,
            why_killed(job),
            job.kill_reason is EndReason.TIMEOUT,
            started_us=job.started_us,
            ended_us=clock_us(),
        )
        events.finished.append((job, outcome))

    def close(self, *, kill: bool) -> None:
        self.notify = None
        for work in self._live.values():
            if work.future is None or not work.future.cancel():
                self._fenced.add(work)
            work.fence()
        self._live.clear()
        if self._crew is not None:
            self._drain()
            self._crew.close(len(self._fenced))

    def _drain(self) -> None:
        """Hear which of the fenced threads have ended."""
        try:
            while True:
                told = self._told.get_nowait()
                if told is not None and told[0] == "gone":
                    self._fenced.discard(told[1])
        except queue.Empty:
            return
