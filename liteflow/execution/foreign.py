"""Any `concurrent.futures.Executor` as the engine: a process pool, threads, or a cluster.

It can neither kill a task nor watch its output: a timeout or a cancel ends the try here, the future is cancelled if it
has not begun, and a result that comes later is dropped. What a task prints is captured where it has a process of its
own, and comes with its result.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import queue
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

from liteflow.authoring.dagfile import airflow_names, loading
from liteflow.errors import MissingMainGuard
from liteflow.execution.calling import Payload, Recipe, Result, call, describe_error, trace_of
from liteflow.execution.clock import clock_us
from liteflow.execution.code import Code, load
from liteflow.execution.jobs import Events, Job, LogLine, Outcome, charge_log, outcome_of, why_killed
from liteflow.execution.output import ROW_BYTES
from liteflow.states import EndReason, TaskInstanceState

Reply = tuple[Result, list[tuple[int, int | None, str | None, str]], int, int, str | None, Any]


def run_there(code: Code, recipe: Recipe, payload: Payload, host_pid: int) -> Reply:
    """Run one try in a worker of the executor: result, log lines, start and end, load error, guard."""
    lines: list[tuple[int, int | None, str | None, str]] = []
    started_us = clock_us()
    trace: str | None = None
    guard = None

    def report(text: str) -> None:
        lines.extend((clock_us(), logging.ERROR, "liteflow.task", line) for line in text.rstrip("\n").split("\n"))

    with _captured(lines) if os.getpid() != host_pid else contextlib.nullcontext():
        try:
            with loading() if os.getpid() != host_pid else contextlib.nullcontext():
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


class ForeignEngine:
    """See `jobs.Engine` for what each method promises."""

    chunks = False

    def __init__(self, executor: Executor, count: int) -> None:
        self._executor = executor
        self._count = getattr(executor, "_max_workers", None) or count
        self._done: queue.Queue[tuple[Job, Future[Reply]] | None] = queue.Queue()
        self._live: dict[Job, Future[Reply]] = {}
        self._fresh: list[Job] = []
        self._vacancy_numbers = itertools.count(1)

    def size(self) -> int:
        return int(self._count)

    def start(self) -> None:
        return

    def hold_locks(self, directory: str, token: str) -> None:
        return  # what its workers leave behind is the executor's business

    def replace_no_more(self) -> None:
        return

    def kill(self) -> None:
        return  # what cannot be killed is fenced

    def vacancies(self) -> list[int]:
        return [next(self._vacancy_numbers) for _ in range(self.size() - len(self._live))]

    def submit(self, vacancy: int, jobs: list[Job]) -> None:
        for job in jobs:
            job.started_at = time.monotonic()
            job.started_us = clock_us()
            try:
                future = self._executor.submit(run_there, job.code, job.recipe, Payload(*job.payload), os.getpid())
            except (RuntimeError, OSError) as error:  # broken, shut down, or no more processes to be had
                future = Future()
                future.set_exception(error)
            self._live[job] = future
            self._fresh.append(job)
            future.add_done_callback(lambda done, job=job: self._done.put((job, done)))  # type: ignore[misc]

    def answer(self, job: Job, number: int, rows: tuple[Any, ...]) -> None:
        raise AssertionError("jobs of a foreign executor ask nothing")

    def has_begun(self, job: Job) -> bool:
        return job in self._live

    def cancel(self, job: Job, reason: EndReason) -> None:
        if job in self._live and job.kill_reason is None:
            job.kill_reason = reason
            self.wake()

    def wake(self) -> None:
        self._done.put(None)

    def poll(self, timeout_s: float) -> Events:
        events = Events(started=self._fresh)
        self._fresh = []
        now = time.monotonic()
        for job in self._live:
            if job.kill_reason is not None:
                timeout_s = 0.0
            elif job.timeout_s is not None and job.started_at is not None:
                timeout_s = min(timeout_s, max(0.0, job.started_at + job.timeout_s - now))
        try:
            one = self._done.get(timeout=0 if events.started else timeout_s)
            while True:
                if one is not None and one[0] in self._live:
                    self._take(*one, events)
                one = self._done.get_nowait()
        except queue.Empty:
            pass  # that was all
        self._end_overdue(events)
        return events

    def _take(self, job: Job, future: Future[Reply], events: Events) -> None:
        del self._live[job]
        try:
            result, lines, started_us, ended_us, trace, guard = future.result(timeout=0)
        except BrokenExecutor as error:
            events.finished.append((job, self._failed(job, EndReason.CRASHED, f"the executor broke: {error}")))
            return
        except BaseException as error:
            events.finished.append((job, self._failed(job, EndReason.ERROR, describe_error(error))))
            return
        events.lines += [(job, LogLine(*line)) for line in lines if charge_log(job, len(line[3]) + ROW_BYTES)]
        outcome = outcome_of(result, started_us=started_us, ended_us=ended_us, load_trace=trace, guard=guard)
        events.finished.append((job, outcome))

    def _end_overdue(self, events: Events) -> None:
        now = time.monotonic()
        for job in list(self._live):
            if job.kill_reason is None and job.timeout_s is not None and job.started_at is not None:
                if now - job.started_at < job.timeout_s:
                    continue
                job.kill_reason = EndReason.TIMEOUT
            if job.kill_reason is None:
                continue
            self._live.pop(job).cancel()
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
