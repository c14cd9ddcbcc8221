"""One slot: a worker process on a connection, seen from the parent. What it decides is in `slots.py`.

Nothing here blocks: the connection and the pipes give what is there, and take what they can.
"""

from __future__ import annotations

import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from typing import Any

from liteflow.authoring.dagfile import import_path
from liteflow.errors import StorageError
from liteflow.execution.begun import Begun, shared_memory
from liteflow.execution.clock import clock_us
from liteflow.execution.jobs import Job, LogLine, Outcome, charge_log
from liteflow.execution.memory import Gauge
from liteflow.execution.messages import BrokenStreamError, Unpacker, pack
from liteflow.execution.nesting import SLOT, for_slots
from liteflow.execution.output import OutputReader
from liteflow.execution.processes import send, slot_lock_path
from liteflow.execution.worker import BOOTSTRAP, TOKEN

_OUTPUT_READ_BYTES = 1 << 16
"""What a pipe holds."""

MOST_AT_ONCE_BYTES = 1 << 16
"""A job with more data than that is sent in a frame of its own."""

MOST_RECIPES = 1000
"""How many recipes a slot keeps; then it begins anew: a service may see new dags for as long as it lives."""


class Slot:
    """One worker process, seen from the parent."""

    def __init__(self, number: int, selector: selectors.BaseSelector, place: int = 1) -> None:
        self.number = number
        self.place = place
        """Which of the service's slots it is: 1, 2, ...; one that is replaced hands its place on."""
        self.mark = secrets.token_hex(8)
        self.outer_mark = os.environ.get(SLOT)
        self.jobs: deque[Job] = deque()
        """Given to it and not finished, in order."""
        self.ready = False
        self.retired = False
        """Takes no more jobs; its process is to end."""
        self.dying_since: float | None = None
        """When it was told to end its job, if it was."""
        self.recall_wanted = False
        """Whether a job that has not begun was cancelled."""
        self.sweeping = False
        """Whether what came from it is being killed."""
        self.verdict: Outcome | None = None
        """How the job ended that is reported once the slot is swept."""
        self.gauge: Gauge | None = None
        """What measures the memory of the job in hand, once it has started."""
        self.changed_at = time.monotonic()
        """When it was given a job, or one ended, the last time."""
        self.has_ended = False
        """Whether the system says that the process is over."""
        self.is_watched = False
        """Whether its output wakes the parent."""
        self.output_is_over = False
        """Whether nobody holds the other end of its output any more."""
        self.sent_codes: set[int] = set()
        self.sent_recipes: set[int] = set()
        self.received: deque[tuple[Any, ...]] = deque()
        self._lock_path: str | None = None
        self._selector = selector
        self._unpacker = Unpacker()
        self._unsent: deque[memoryview] = deque()
        self._start()
        self.reader: OutputReader[Job] = OutputReader(self.mark, self._job_of, charge=charge_log)
        self._known: dict[int, Job] = {}
        """By number: `jobs`, and the one that ended last."""
        self._latest: Job | None = None
        """The one that ended last."""

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        tokens_out, self.tokens = os.pipe()
        lifeline_out, self.lifeline = os.pipe()
        self.output, output_in = os.pipe()
        memory = shared_memory()
        self.begun = Begun(memory)
        null = os.open(os.devnull, os.O_RDONLY)
        self.tokens_back = os.dup(tokens_out)
        for fd in (
            self.tokens_back,
            self.output,
        ):  # the former holds for the worker's copy too, which knows it
            os.set_blocking(fd, False)
        ours.setblocking(False)
        environment = {
            **os.environ,
            **for_slots(),
            SLOT: f"{self.outer_mark}:{self.mark}" if self.outer_mark else self.mark,
            "LITEFLOW_WORKER_PATH": repr(import_path()),
        }
        fds = [theirs.fileno(), tokens_out, lifeline_out, memory, null]
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOTSTRAP, *map(str, fds)],
                stdin=subprocess.DEVNULL,
                stdout=output_in,
                stderr=output_in,
                pass_fds=fds,
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            self.begun.close()
            for fd in (self.tokens, self.tokens_back, self.lifeline, self.output):
                os.close(fd)
            raise
        finally:
            theirs.close()
            for fd in (tokens_out, lifeline_out, output_in, memory, null):
                os.close(fd)
        self.connection = ours
        self.pid = self.process.pid
        self.pidfd = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None
        self._interest = selectors.EVENT_READ
        self._selector.register(ours, self._interest, self)
        if self.pidfd is not None:
            self._selector.register(self.pidfd, selectors.EVENT_READ, self)

    # Its lock

    def hold_lock(self, directory: str, token: str) -> None:
        """Have the worker lock a file before its next job, for as long as it or anything that it forks is there.

        The file is made here, so that whoever takes over knows of the slot from the beginning. Raises StorageError.
        """
        self._lock_path = slot_lock_path(directory, token, self.mark)
        try:
            os.makedirs(directory, exist_ok=True)
            os.close(os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise StorageError(
                f"{directory}: a slot's lock file cannot be made there ({error.strerror}); make the directory writable",
                path=directory,
            ) from error
        self.send(("lock", self._lock_path))

    def drop_lock(self) -> None:
        """Remove the file: nothing is left of the slot that should hold up anybody."""
        if self._lock_path is not None:
            path, self._lock_path = self._lock_path, None
            try:
                os.unlink(path)
            except OSError:
                return  # whoever robbed this service removed it, or it cannot be: then it is as dead as its service

    # Giving

    def give(self, jobs: list[Job]) -> None:
        """Send jobs, with the functions that it does not have yet, and then their tokens, for which it waits."""
        messages: list[tuple[Any, ...]] = []
        now = time.monotonic()
        for job in jobs:
            if job.code_number not in self.sent_codes:
                self.sent_codes.add(job.code_number)
                messages.append(("code", job.code_number, *job.code))
            if job.recipe_number and job.recipe_number not in self.sent_recipes:
                if len(self.sent_recipes) >= MOST_RECIPES:
                    self.sent_recipes.clear()
                    messages.append(("forget",))
                self.sent_recipes.add(job.recipe_number)
                messages.append(("recipe", job.recipe_number, *job.recipe))
            recipe = None if job.recipe_number else tuple(job.recipe)
            messages.append(("job", job.number, job.code_number, job.recipe_number, recipe, job.payload))
            self.jobs.append(job)
            self._known[job.number] = job
            job.started_at = job.started_us = None
            job.given_at = now
        self.changed_at = now
        self.unwatch_output()
        self._unsent.extend(map(memoryview, _frames(messages)))
        self.send_more()
        # Also when a large message is still on its way: the worker then waits for it.
        os.write(self.tokens, b"".join([TOKEN.pack(job.number) for job in jobs]))

    def send(self, message: tuple[Any, ...]) -> None:
        """Send one message."""
        self._unsent.append(memoryview(pack(message)))
        self.send_more()

    def send_more(self) -> None:
        """Send as much as the connection takes now."""
        try:
            while self._unsent:
                sent = self.connection.send(self._unsent[0])
                rest = self._unsent[0][sent:]
                if rest:
                    self._unsent[0] = rest
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            pass  # the rest goes when the selector says so
        except (BrokenPipeError, ConnectionResetError):
            self._unsent.clear()  # it is dead or dying, which the process itself will tell
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if self._interest not in (0, wanted):
            self._interest = wanted
            self._selector.modify(self.connection, wanted, self)

    def take_back(self) -> list[Job]:
        """Take the tokens that the worker has not: those jobs were never begun, and are no longer this slot's."""
        numbers = set()
        while True:
            try:
                data = os.read(self.tokens_back, TOKEN.size)
            except BlockingIOError:
                break
            if not data:
                break
            numbers.add(TOKEN.unpack(data)[0])
        if not numbers:
            return []
        back = [job for job in self.jobs if job.number in numbers]
        self.jobs = deque(job for job in self.jobs if job.number not in numbers)
        for job in back:
            del self._known[job.number]
        return back

    # Taking

    def receive(self) -> None:
        """Read what the worker sent, as far as it is there."""
        while True:
            most = self._unpacker.next_read_bytes
            try:
                piece = self.connection.recv(most)
            except BlockingIOError:
                return
            except (ConnectionResetError, OSError):
                return
            if not piece:
                self._forget_connection()
                return
            try:
                self.received.extend(self._unpacker.feed(piece))
            except BrokenStreamError as error:
                self.received.extend(error.messages)
                raise
            if len(piece) < most:
                return

    def read_output(self, *, until: Job | None = None, most: int = 1) -> list[tuple[Job, LogLine]]:
        """Read lines: `most` pieces, or up to the end mark of the job `until`, which is there already.

        Never to the end: what a task left running may write faster than it is read.
        """
        lines: list[tuple[Job, LogLine]] = []
        while (most > 0) if until is None else (until.number not in self.reader.ended_numbers):
            most -= 1
            try:
                data = os.read(self.output, _OUTPUT_READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                self.unwatch_output()
                self.output_is_over = True
                break
            lines += self.reader.feed(data, clock_us(), time.monotonic())
        return lines

    def watch_output(self) -> None:
        """Have its output wake the parent. That of a tiny job shall not: it is read with the news of its end."""
        if not self.is_watched and not self.output_is_over:
            self.is_watched = True
            self._selector.register(self.output, selectors.EVENT_READ, self)

    def unwatch_output(self) -> None:
        """Its output need not wake the parent for a while."""
        if self.is_watched:
            self.is_watched = False
            self._forget(self.output)

    def flush_output(self, *, force: bool = False) -> list[tuple[Job, LogLine]]:
        """What there is of an unfinished line."""
        return self.reader.flush(clock_us(), time.monotonic(), force=force)

    def _job_of(self, number: int) -> Job | None:
        return self._known.get(number)

    def given(self, number: int) -> Job | None:
        """The job of that number, if it has not ended."""
        job = self._known.get(number)
        return None if job is self._latest else job

    def forget_job(self, job: Job) -> None:
        """The job is over; its lines still find it as long as it was the last one."""
        self.changed_at = time.monotonic()
        if self.jobs and self.jobs[0] is job:
            self.jobs.popleft()
        elif job in self.jobs:
            self.jobs.remove(job)
        self.reader.ended_numbers.discard(job.number)
        if self._latest is not None:
            self._known.pop(self._latest.number, None)
        self._known[job.number] = self._latest = job

    # Ending

    def terminate(self) -> None:
        """Tell everything in its session to end."""
        send(self.pid, signal.SIGTERM, group=True)
        send(self.pid, signal.SIGCONT, group=True)  # a stopped process would not hear it

    def retire(self) -> None:
        """Take no more jobs and let the process end by itself."""
        if not self.retired:
            self.retired = True
            self._shut("tokens")

    def is_dead(self) -> bool:
        """Whether the process is over; reaps it."""
        if self.pidfd is not None and not self.has_ended:
            return False
        return self.process.poll() is not None

    def _forget(self, file: Any) -> None:
        try:
            self._selector.unregister(file)
        except (KeyError, ValueError):
            return

    def _forget_connection(self) -> None:
        self._interest = 0
        self._forget(self.connection)

    def stop_watching_process(self) -> None:
        """After its death was seen."""
        if self.pidfd is not None:
            self._forget(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = None

    def _shut(self, name: str) -> None:
        """Close the descriptor in the attribute `name`, and forget its number, which the host may use again."""
        fd = getattr(self, name)
        if fd >= 0:
            setattr(self, name, -1)
            os.close(fd)

    def close(self, *, keep_output: bool = False) -> None:
        """Let go of every descriptor; with `keep_output` lines of what was left running are still read and watched."""
        self.stop_watching_process()
        self._forget_connection()
        self.connection.close()
        self.begun.close()
        self.retired = True
        for name in ("tokens", "tokens_back", "lifeline"):
            self._shut(name)
        if keep_output:
            self.watch_output()
        else:
            self.close_output()

    def close_output(self) -> None:
        """Stop reading lines."""
        self.unwatch_output()
        self._shut("output")

    def forget_in_child(self) -> None:
        """In a forked child of the host: close what would keep the slot alive after the host's death.

        Nothing is unregistered: the selector is the parent's too.
        """
        connection = self.connection.detach()
        if connection >= 0:
            os.close(connection)
        for name in ("tokens", "tokens_back", "lifeline", "output"):
            self._shut(name)

    def busy_since(self) -> float:
        """Since when it has its first job in hand, by the monotonic clock."""
        job = self.jobs[0]
        return job.given_at if job.started_at is None else job.started_at

    @property
    def expected_s(self) -> float:
        """How long what it was given will take by experience; a job without any counts as long."""
        return sum(1.0 if job.expected_s is None else job.expected_s for job in self.jobs)


def _frames(messages: list[tuple[Any, ...]]) -> list[bytes]:
    """Messages in one frame, but those with much data each in its own: the first can then be begun with."""
    large = [message for message in messages if message[0] == "job" and _data_bytes(message[-1]) > MOST_AT_ONCE_BYTES]
    if not large:
        return [pack(*messages)]
    return [pack(message) for message in messages]


def _data_bytes(payload: tuple[Any, ...]) -> int:
    """How much a job's values take."""
    inputs, mapped = payload[:2]
    size = sum([len(value[1]) for *_, values in inputs for value in values if value is not None]) if inputs else 0
    return size if mapped is None else size + sum([len(item[3]) for item in mapped[1]])
