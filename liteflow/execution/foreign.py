"""Any `concurrent.futures.Executor` as the engine: a process pool, threads, or a cluster.

It can neither kill a task nor watch its output: a timeout or a cancel ends the try here, the future is cancelled if it
has not begun, and a result that comes later is dropped. What a task prints and logs comes with its result. A
`ThreadPoolExecutor` has an engine of its own, see `threads.py`.

When one child is killed, a `ProcessPoolExecutor` fails every unfinished future: if there was only one, it is to blame,
and of several nobody is.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import queue
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any

from liteflow.authoring.dagfile import airflow_names, loading
from liteflow.errors import MissingMainGuard
from liteflow.execution.calling import Payload, Recipe, Result, call, describe_error, trace_of
from liteflow.execution.capture import Sink, capturing
from liteflow.execution.clock import clock_us
from liteflow.execution.code import Code, load
from liteflow.execution.jobs import Events, Job, LogLine, Outcome, charge_log, outcome_of, why_killed
from liteflow.execution.output import ROW_BYTES
from liteflow.states import EndReason, TaskInstanceState

Reply = tuple[Result, list[tuple[int, int | None, str | None, str]], int, int, str | None, Any]

LONGEST_POLL_S = 3600.0

_here = secrets.token_hex(8)
"""Of this interpreter: a pool may have others in the same process."""


def run_there(code: Code, recipe: Recipe, payload: Payload, host: tuple[int, str]) -> Reply:
    """Run one try in a worker of the executor: result, log lines, start and end, load error, guard.

    `host`: the process and the interpreter from which it was sent, where it must not touch what is the host's own.
    """
    lines: list[tuple[int, int | None, str | None, str]] = []
    started_us = clock_us()
    trace: str | None = None
    guard = None
    is_away = host != (os.getpid(), _here)

    def report(text: str) -> None:
        lines.extend((clock_us(), logging.ERROR, "liteflow.task", line) for line in text.rstrip("\n").split("\n"))

    with _captured(lines) if is_away else _captured_here(lines):
        try:
            with loading() if is_away else contextlib.nullcontext():
                function = load(code)
        except MissingMainGuard as error:
            guard = (error.message, error.file, error.line)
            result = Result("failed", "error", str(error), False, ())
        except BaseException as error:
            trace = trace_of(error)
            where = code.file or code.module or "its function"
            result = Result("failed", "error", f"cannot load {where}: {describe_error(error)}", True, ())
        else:
            with airflow_names():
                result = call(function, recipe, payload, report)
    return result, lines, started_us, clock_us(), trace, guard


@contextlib.contextmanager
def _captured(lines: list[tuple[int, int | None, str | None, str]]) -> Iterator[None]:
    """Collect what is printed and logged in this process, which runs one task at a time."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = self.format(record)
            lines.extend((clock_us(), record.levelno, record.name, line) for line in text.split("\n"))

    class Printed(io.TextIOBase):
        rest = ""

        def writable(self) -> bool:
            return True

        def write(self, text: str) -> int:
            *whole, self.rest = (self.rest + text).split("\n")
            lines.extend((clock_us(), None, None, line) for line in whole)
            return len(text)

    root = logging.getLogger()
    handler, printed, level = Handler(), Printed(), root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO))
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        if printed.rest:
            printed.write("\n")


@contextlib.contextmanager
def _captured_here(lines: list[tuple[int, int | None, str | None, str]]) -> Iterator[None]:
    """The same in the host's own process, where others print and log beside it."""
    sink = Sink(lambda _size: True, lambda: None)
    try:
        with capturing(sink):
            yield
    finally:
        sink.close()
        lines[:0] = sink.take(time.monotonic())[0]
        lines.sort(key=lambda line: line[0])


class ForeignEngine:
    """See `jobs.Engine` for what each method promises."""

    chunks = False

    def __init__(self, executor: Executor, count: int) -> None:
        self._executor = executor
        self._count = getattr(executor, "_max_workers", None) or count
        # Not Queue, whose lock a signal handler that wakes us may find taken by its own thread.
        self._done: queue.SimpleQueue[tuple[Job, Future[Reply]] | None] = queue.SimpleQueue()
        self.notify: Callable[[], None] | None = None
        """Called, from any thread, when there is something to poll for."""
        self._live: dict[Job, Future[Reply]] = {}
        self._fenced: set[Future[Reply]] = set()
        """What goes on though its try is over."""
        self._broken: str | None = None
        self._is_told = False
        """Whether it was said that it is broken."""
        self._not_taken: list[Job] = []
        """Jobs that the executor did not take."""
        self._fresh: list[Job] = []
        self._vacancy_numbers = itertools.count(1)

    def size(self) -> int:
        return int(self._count)

    def start(self) -> None:
        return

    def hold_locks(self, directory: str, token: str) -> None:
        return  # what its workers leave behind is the executor's business

    def live_until(self, at: float) -> None:
        return  # what it runs is the executor's business

    def replace_no_more(self) -> None:
        return

    def kill(self) -> None:
        # What cannot be killed is fenced. But nothing begins any more.
        for future in list(self._live.values()):
            future.cancel()

    def vacancies(self) -> list[int]:
        room = 0 if self._broken is not None else self.size() - len(self._live)
        return [next(self._vacancy_numbers) for _ in range(room)]

    def submit(self, vacancy: int, jobs: list[Job]) -> None:
        host = (os.getpid(), _here)
        for job in jobs:
            try:
                future = self._executor.submit(run_there, job.code, job.recipe, Payload(*job.payload), host)
            except (RuntimeError, OSError) as error:  # broken, shut down, or no more processes to be had
                self._not_taken.append(job)
                self._break(error)
                continue
            job.started_at = time.monotonic()
            job.started_us = clock_us()
            self._live[job] = future
            self._fresh.append(job)
            future.add_done_callback(lambda done, job=job: self._tell((job, done)))  # type: ignore[misc]

    def _break(self, error: BaseException) -> None:
        if self._broken is None:
            self._broken = f"its executor is broken ({describe_error(error)})"

    def _tell(self, done: tuple[Job, Future[Reply]] | None) -> None:
        self._done.put(done)
        notify = self.notify  # which may go meanwhile
        if notify is not None:
            notify()

    def answer(self, job: Job, number: int, rows: tuple[Any, ...]) -> None:
        raise AssertionError("jobs of a foreign executor ask nothing")

    def has_begun(self, job: Job) -> bool:
        return job in self._live

    def cancel(self, job: Job, reason: EndReason) -> None:
        if job in self._live and job.kill_reason is None:
            job.kill_reason = reason
            self.wake()

    def wake(self) -> None:
        self._tell(None)

    def due_in(self) -> float:
        """In how many seconds something is due at the soonest, if nothing is told before."""
        if self._fresh or self._not_taken or any(job.kill_reason is not None for job in self._live):
            return 0.0
        now = time.monotonic()
        due = [
            job.started_at + job.timeout_s - now
            for job in self._live
            if job.timeout_s is not None and job.started_at is not None
        ]
        return max(0.0, min(due, default=LONGEST_POLL_S))

    def poll(self, timeout_s: float) -> Events:
        timeout_s = min(timeout_s, self.due_in(), LONGEST_POLL_S)
        events = Events(started=self._fresh)
        self._fresh = []
        broken: list[tuple[Job, str]] = []
        try:
            one = self._done.get(timeout=timeout_s) if timeout_s > 0 else self._done.get_nowait()
            while True:
                if one is not None:
                    self._fenced.discard(one[1])
                    if one[0] in self._live:
                        self._take(*one, events, broken)
                one = self._done.get_nowait()
        except queue.Empty:
            pass  # that was all
        if broken:
            self._bury(broken, events)
        self._end_overdue(events)
        events.returned += self._not_taken
        self._not_taken = []
        if not self._is_told:
            events.broken, self._is_told = self._broken, self._broken is not None
        return events

    def _take(self, job: Job, future: Future[Reply], events: Events, broken: list[tuple[Job, str]]) -> None:
        try:
            result, lines, started_us, ended_us, trace, guard = future.result(timeout=0)
        except BrokenExecutor as error:
            broken.append((job, describe_error(error)))
            self._break(error)
            return
        except CancelledError as error:
            if job.kill_reason is not None:
                return  # we did that
            del self._live[job]  # it never ran: whoever has the executor has shut it down
            self._not_taken.append(job)
            self._break(error)
            return
        except BaseException as error:
            del self._live[job]
            events.finished.append((job, self._failed(job, EndReason.ERROR, describe_error(error))))
            return
        del self._live[job]
        events.lines += [(job, LogLine(*line)) for line in lines if charge_log(job, len(line[3]) + ROW_BYTES)]
        outcome = outcome_of(result, started_us=started_us, ended_us=ended_us, load_trace=trace, guard=guard)
        events.finished.append((job, outcome))

    def _bury(self, broken: list[tuple[Job, str]], events: Events) -> None:
        """The executor is broken, and all that it had in hand with it."""
        victims, self._live = list(self._live), {}
        if len(victims) == 1 and not self._fenced:
            job, error = broken[0]
            events.finished.append((job, self._failed(job, EndReason.CRASHED, f"the executor broke: {error}")))
        else:
            events.returned += victims

    def _end_overdue(self, events: Events) -> None:
        now = time.monotonic()
        for job in list(self._live):
            if job.kill_reason is None and job.timeout_s is not None and job.started_at is not None:
                if now - job.started_at < job.timeout_s:
                    continue
                job.kill_reason = EndReason.TIMEOUT
            if job.kill_reason is None:
                continue
            future = self._live.pop(job)
            if not future.cancel() and not future.done():
                self._fenced.add(future)
            text = f"{why_killed(job)}; its executor cannot stop it"
            events.finished.append((job, self._failed(job, job.kill_reason, text)))

    def _failed(self, job: Job, reason: EndReason, error: str) -> Outcome:
        may_retry = reason in (EndReason.TIMEOUT, EndReason.ERROR, EndReason.CRASHED)
        return Outcome(
            TaskInstanceState.FAILED,
            reason,
            error,
            may_retry,
            started_us=job.started_us,
            ended_us=clock_us(),
        )

    def close(self, *, kill: bool) -> None:
        for future in self._live.values():
            future.cancel()
        self._live.clear()
