"""Slots: the engine of this host. Each slot is one worker process on a connection; together they are the process pool.

Nothing here waits for one slot: connections and pipes do not block on this side, a slot that is stopped in the middle
of a message holds up nobody else, and ending one is a matter of steps taken whenever the engine is polled.

A slot is given several tiny jobs at once. Each needs its token, which the worker takes out of a pipe just before it
begins; what the parent takes back out of that pipe was certainly never begun. So jobs are recalled from a busy slot,
or from a dead one, without asking it.
"""

from __future__ import annotations

import itertools
import math
import os
import selectors
import signal
import socket
import sys
import time
import weakref
from typing import Any

from liteflow.errors import ServiceError
from liteflow.execution.clock import clock_us
from liteflow.execution.jobs import Events, Job, Outcome, outcome_of, why_killed
from liteflow.execution.memory import FIRST_SAMPLE_S, Gauge, OomWatch
from liteflow.execution.messages import BrokenStreamError
from liteflow.execution.processes import belonging_to_slot, describe_exit, send
from liteflow.execution.slot import Slot
from liteflow.states import EndReason, TaskInstanceState
from liteflow.storage.xcoms import size_text

RECALL_AFTER_S = 0.05
"""How long a job may run before those behind it in its slot are given to others."""

REFILL_BELOW_S = 0.002
"""A slot with less expected work than this left is given more before it runs dry."""

LOOK_AFTER_S = 0.02
"""How long after a job was given it is looked whether it has begun, and what it writes is read as it comes. Most tiny
ones have ended by then, and wake the service once."""

OOM_KNOWN_S = 0.1
"""How old the count of kills for want of memory may be that a job starts with."""

MAX_SILENT_DEATHS = 3
"""How many workers a job may take with it before it has begun: by its arguments, say."""

MAX_FAILED_STARTS = 3
"""How many workers in a row may die before they are ready."""

_LAST_READS = 8
"""Pieces that are read from a dead slot's output: a pipe holds less, so more is somebody still writing."""
_SWEEP_AGAIN_S = 0.002
_MOST_COPIES = 1_000
_CLOSE_GRACE_S = 2.0
_MEANWHILE_OOM = "meanwhile the kernel killed a process for want of memory"


class SlotEngine:
    """Runs jobs in slots. See `jobs.Engine` for what each method promises."""

    chunks = True

    def __init__(self, count: int) -> None:
        if os.name != "posix":
            raise ServiceError(
                'slots need a POSIX system; here, pass executor="threads" or a concurrent.futures.ProcessPoolExecutor()'
            )
        self._count = count
        self._selector = selectors.DefaultSelector()
        self._slots: dict[int, Slot] = {}
        self._leaving: dict[Slot, float] = {}
        """Slots that end because a task left something running, and when they must have ended."""
        self._lingering: list[Slot] = []
        """Slots whose process is gone and whose output is held open by something a task left running."""
        self._asked: dict[tuple[int, int], Slot] = {}
        """Of each question that is not answered, by job and number: who asked."""
        self._oom = OomWatch()
        self._expires_at = 0.0
        """Until when the slots may go on, by `steady_s`; 0 for ever."""
        self._locks: tuple[str, str] | None = None
        """Where the slots' lock files are, and with which token their names begin."""
        self._done_with: list[Slot] = []
        """Slots whose lock files go at the next poll: what became of their jobs is recorded by then."""
        self._numbers = 0
        self._failed_starts = 0
        self._closed = False
        self._replaces = True
        """Whether a slot that ends gets another one in its place."""
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        _engines.add(self)

    def size(self) -> int:
        return self._count

    def start(self) -> None:
        while len(self._slots) < self._count:
            self._add_slot()

    def _add_slot(self) -> None:
        self._numbers += 1
        taken = {slot.place for slot in self._slots.values()}
        place = next(place for place in itertools.count(1) if place not in taken)
        slot = self._slots[self._numbers] = Slot(self._numbers, self._selector, place)
        slot.begun.expire_at(self._expires_at)
        if self._locks is not None:
            slot.hold_lock(*self._locks)

    def live_until(self, at: float) -> None:
        self._expires_at = at  # first: slots that are made from now on have it from there
        for slot in self._all_slots():
            try:
                slot.begun.expire_at(at)
            except ValueError:
                continue  # it was closed meanwhile

    def hold_locks(self, directory: str, token: str) -> None:
        self._locks = (os.path.abspath(directory), token)
        for slot in self._slots.values():
            slot.hold_lock(*self._locks)

    def replace_no_more(self) -> None:
        self._replaces = False

    def kill(self) -> None:
        self._replaces = False
        for slot in self._all_slots():
            if slot.process.returncode is None:
                send(slot.pid, signal.SIGKILL, group=True)

    def _all_slots(self) -> list[Slot]:
        """Those that have, or may have, a process. From any thread."""
        for _ in range(_MOST_COPIES):
            try:
                return [*self._slots.values(), *self._leaving]
            except RuntimeError:  # the service's thread has just changed them
                continue
        return []

    def vacancies(self) -> list[int]:
        now = time.monotonic()
        free = [slot for slot in self._slots.values() if self._has_room(slot, now)]
        free.sort(key=lambda slot: (len(slot.jobs), not slot.ready, slot.number))
        return [slot.number for slot in free]

    def _has_room(self, slot: Slot, now: float) -> bool:
        if slot.retired or slot.dying_since is not None or slot.sweeping:
            return False
        if not slot.jobs:
            return True
        # Experience says that it is nearly done; what it has in hand now may take longer than ever before.
        return slot.expected_s < REFILL_BELOW_S and now - slot.busy_since() < RECALL_AFTER_S

    def submit(self, vacancy: int, jobs: list[Job]) -> None:
        slot = self._slots[vacancy]
        oom_kills = self._oom.kills(newer_than=time.monotonic() - OOM_KNOWN_S)
        for job in jobs:
            job.oom_kills = oom_kills  # it may die of its arguments, before it starts
            job.slot = slot.place
        slot.give(jobs)

    def has_begun(self, job: Job) -> bool:
        slot = self._slot_of(job)
        return job.started_at is not None or (slot is not None and slot.begun.times_of(job.number) is not None)

    def _slot_of(self, job: Job) -> Slot | None:
        return next((slot for slot in self._slots.values() if job in slot.jobs), None)

    def cancel(self, job: Job, reason: EndReason) -> None:
        slot = self._slot_of(job)
        if slot is not None and job.kill_reason is None:
            job.kill_reason = reason
            slot.recall_wanted |= job.started_at is None

    def wake(self) -> None:
        try:
            self._wake_in.send(b"!")
        except (BlockingIOError, OSError):
            return  # it is awake already, or closed

    def poll(self, timeout_s: float) -> Events:
        events = Events()
        self._drop_locks()
        timeout_s = min(timeout_s, self._next_deadline_in())
        readable: dict[int, Slot] = {}
        for key, _mask in self._selector.select(timeout_s):
            slot = key.data
            if slot is None:
                self._drain_wake()
            else:
                readable[id(slot)] = slot
                slot.has_ended |= key.fd == slot.pidfd
        for slot in readable.values():
            self._serve(slot, events)
        self._tick(events)
        return events

    def _drop_locks(self) -> None:
        for slot in self._done_with:
            slot.drop_lock()
        self._done_with.clear()

    def _drain_wake(self) -> None:
        try:
            while self._wake_out.recv(4096):
                continue
        except BlockingIOError:
            return

    def _serve(self, slot: Slot, events: Events) -> None:
        if slot in self._lingering:
            events.lines += slot.read_output()
            self._drop_if_silent(slot)
            return
        if slot in self._leaving:
            slot.receive()
            events.lines += slot.read_output()
            return
        slot.send_more()
        self._hear(slot, events)

    def _hear(self, slot: Slot, events: Events) -> None:
        """Take in what the slot says; one that says what makes no sense is given up after what made sense."""
        is_broken = False
        try:
            slot.receive()
        except BrokenStreamError:
            is_broken = True
        events.lines += slot.read_output()
        self._take_messages(slot, events)
        if is_broken:
            self._give_up_on(slot, "something wrote into the worker's connection", events)

    def _take_messages(self, slot: Slot, events: Events) -> None:
        while slot.received:
            message = slot.received.popleft()
            if message[0] == "ready":
                slot.ready = True
                self._failed_starts = 0
            elif message[0] == "ask":
                self._job_asked(slot, *message[1:], events=events)
            elif message[0] == "end":
                self._job_ended(slot, *message[1:], events=events)
            elif message[0] == "spoilt" and slot not in self._leaving and not slot.sweeping:
                self._let_leave(slot, events)

    def _look_for_start(self, slot: Slot, events: Events) -> None:
        """See whether the first job of the slot has begun."""
        job = slot.jobs[0] if slot.jobs else None
        times = None if job is None or job.started_at is not None else slot.begun.times_of(job.number)
        if job is not None and times is not None:
            job.started_us, job.started_at = times
            slot.gauge = Gauge(slot.pid, job.started_at)
            events.started.append(job)

    def _job_asked(self, slot: Slot, number: int, question: int, what: tuple[Any, ...], *, events: Events) -> None:
        job = slot.given(number)
        if job is None:  # a thread that an earlier task left behind
            slot.send(("answer", number, question, None))
        else:
            self._asked[number, question] = slot
            events.questions.append((job, question, what))

    def answer(self, job: Job, number: int, rows: tuple[Any, ...]) -> None:
        # Also when the job is over by now: a thread that it left behind waits, and its slot cannot go on without it.
        slot = self._asked.pop((job.number, number))
        if self._slots.get(slot.number) is slot and not slot.sweeping:
            slot.send(("answer", job.number, number, rows))

    def _job_ended(
        self,
        slot: Slot,
        number: int,
        started_us: int,
        started_at: float,
        ended_us: int,
        has_children: bool,
        result: tuple[Any, ...],
        trace: str | None,
        guard: tuple[str, str, int] | None,
        *,
        events: Events,
    ) -> None:
        job = slot.given(number)
        if job is None:
            return
        if job.started_at is None:
            job.started_us, job.started_at = started_us, started_at
        if number not in slot.reader.ended_numbers:
            events.lines += slot.read_output(until=job)
        outcome = outcome_of(result, started_us=job.started_us, ended_us=ended_us, load_trace=trace, guard=guard)
        if _took_s(outcome) >= FIRST_SAMPLE_S:
            self._measure(slot, job)
        if outcome.state is TaskInstanceState.FAILED and self._oom.kills() > job.oom_kills:
            outcome = outcome._replace(error=f"{outcome.error} ({_MEANWHILE_OOM})")
        if job.kill_reason is not None and slot.dying_since is not None:
            is_own_limit = job.kill_reason is EndReason.TIMEOUT and not job.ended_by_run
            in_time = is_own_limit and _took_s(outcome) < (job.timeout_s or 0.0)
            slot.verdict = outcome if in_time else _killed(job, ended_us)
            self._sweep(slot, events)
        elif has_children and outcome.state is not TaskInstanceState.SUCCESS:
            slot.verdict = outcome
            self._sweep(slot, events)
        else:
            self._finish(slot, job, outcome, events)
            if has_children:  # a task may leave something running on purpose
                self._let_leave(slot, events)

    def _let_leave(self, slot: Slot, events: Events) -> None:
        """The slot is not used again, and nothing of it is to be killed: another one takes its place."""
        events.returned += slot.take_back()
        slot.retire()
        slot.watch_output()
        del self._slots[slot.number]
        self._leaving[slot] = time.monotonic() + _CLOSE_GRACE_S
        self._done_with.append(slot)
        if self._replaces:
            self._add_slot()

    def _finish(self, slot: Slot, job: Job, outcome: Outcome, events: Events) -> None:
        """A job is over: nothing of it is left that must not be, and its lines are read."""
        slot.forget_job(job)
        slot.gauge = None
        if job.peak_rss_bytes is not None:
            outcome = outcome._replace(peak_rss_bytes=job.peak_rss_bytes)
        events.finished.append((job, outcome))

    def _measure(self, slot: Slot, job: Job) -> None:
        """Look at how much memory the job in hand holds now."""
        if slot.gauge is not None:
            slot.gauge.sample()
            job.peak_rss_bytes = slot.gauge.peak_bytes

    def _sweep(self, slot: Slot, events: Events) -> None:
        """Kill whatever came from the slot, step by step, and the slot last."""
        events.returned += slot.take_back()
        slot.sweeping = True
        slot.retire()

    def _give_up_on(self, slot: Slot, why: str, events: Events) -> None:
        self._look_for_start(slot, events)
        if slot.jobs and slot.verdict is None:
            slot.verdict = Outcome(
                TaskInstanceState.FAILED,
                EndReason.CRASHED,
                why,
                started_us=slot.jobs[0].started_us,
                ended_us=clock_us(),
            )
        slot.sweeping = True

    def _tick(self, events: Events) -> None:
        """Everything that has become due: limits, recalls, deaths, unfinished lines."""
        now = time.monotonic()
        for slot in list(self._slots.values()):
            if slot.is_dead():
                self._bury(slot, events)
                continue
            self._see_head(slot, now, events)
            if now - slot.changed_at >= LOOK_AFTER_S:
                slot.watch_output()
            events.lines += slot.flush_output()
            if slot.sweeping:
                self._kill_step(slot)
                continue
            if slot.recall_wanted:
                slot.recall_wanted = False
                events.returned += slot.take_back()
            job = slot.jobs[0] if slot.jobs else None
            if job is None:
                continue
            if job.started_at is None:
                if now - job.given_at >= RECALL_AFTER_S and self._is_idle_elsewhere(slot):
                    events.returned += slot.take_back()  # it does not react: others can begin at once
                if job.kill_reason is None or job not in slot.jobs:
                    continue  # if it was cancelled and cannot be taken back, it loads its function, maybe for ever
            running_s = 0.0 if job.started_at is None else now - job.started_at
            if slot.gauge is not None and now >= slot.gauge.due_at:
                self._measure(slot, job)
            if len(slot.jobs) > 1 and running_s >= RECALL_AFTER_S:
                events.returned += slot.take_back()
            if slot.dying_since is None:
                if job.timeout_s is not None and running_s >= job.timeout_s:
                    job.kill_reason = job.kill_reason or EndReason.TIMEOUT
                if job.kill_reason is not None:
                    self._tell_to_end(slot, job, events)
            elif now - slot.dying_since >= job.kill_grace_s:
                slot.verdict = _killed(job, None)
                self._sweep(slot, events)
                self._kill_step(slot)
        for slot, deadline in list(self._leaving.items()):
            events.lines += slot.flush_output()
            if slot.is_dead():
                del self._leaving[slot]
                self._bury_process(slot, events, left_running=True)
            elif now >= deadline:  # it waits for what was left running; that goes on by itself
                send(slot.pid, signal.SIGKILL)
        for slot in list(self._lingering):
            events.lines += slot.flush_output()

    def _see_head(self, slot: Slot, now: float, events: Events) -> None:
        """Whether its first job has begun, if that matters by now."""
        job = slot.jobs[0] if slot.jobs else None
        if job is None or job.started_at is not None:
            return
        if job.kill_reason is None and now < job.given_at + _look_after_s(job):
            return
        oom_kills = self._oom.kills(newer_than=now - OOM_KNOWN_S)
        self._look_for_start(slot, events)
        if job.started_at is not None and slot.process.poll() is None:
            job.oom_kills = oom_kills
            if slot.dying_since is not None:
                slot.terminate()  # it was told to end while it loaded its function, and did not hear it

    def _is_idle_elsewhere(self, slot: Slot) -> bool:
        return any(other.ready and not other.jobs and other is not slot for other in self._slots.values())

    def _tell_to_end(self, slot: Slot, job: Job, events: Events) -> None:
        """Tell the job in hand to end, after a last look whether it has ended: the one behind it is innocent."""
        events.returned += slot.take_back()
        self._hear(slot, events)
        if not slot.sweeping and slot.jobs and slot.jobs[0] is job:
            slot.dying_since = time.monotonic()
            slot.terminate()

    def _kill_step(self, slot: Slot) -> None:
        """Kill what came from the slot while its process, stopped, still adopts orphans; and then that itself."""
        if slot.ready:  # before, it would stay stopped for ever if this process died now: nothing ties the two yet
            send(slot.pid, signal.SIGSTOP)
        if not self._kill_leftovers(slot):
            send(slot.pid, signal.SIGKILL, group=True)
            send(slot.pid, signal.SIGKILL)

    def _bury(self, slot: Slot, events: Events) -> None:
        """The process is over: take what it still said, end what it left, and say what became of its jobs."""
        slot.stop_watching_process()
        try:
            slot.receive()
        except BrokenStreamError:
            pass  # what made sense before is taken; that the process is over is known
        self._take_messages(slot, events)
        if slot in self._leaving:
            return  # its last word was that its task left something running, and another slot is in its place
        lost = slot.verdict is not None or bool(slot.jobs)
        if lost and sys.platform == "linux" and self._kill_leftovers(slot):
            return  # once more at the next tick, until all of it is gone
        if lost:
            send(slot.pid, signal.SIGKILL, group=True)
        events.returned += slot.take_back()
        events.lines += slot.read_output(most=_LAST_READS)
        events.lines += slot.flush_output(force=True)
        if slot.jobs:
            self._report_dead(slot, events)
        del self._slots[slot.number]
        self._bury_process(slot, events, left_running=slot.reader.current is not None and not lost)
        if not slot.ready and not self._closed:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise ServiceError("workers die before they are ready: " + (" | ".join(slot.reader.noise[-3:]) or "?"))
        if self._replaces:
            self._add_slot()

    def _bury_process(self, slot: Slot, events: Events, *, left_running: bool) -> None:
        """Let go of a slot whose process is over, but for its output if something may still write there."""
        slot.close(keep_output=left_running)
        self._done_with.append(slot)
        if left_running:
            events.lines += slot.read_output(most=_LAST_READS)
            self._lingering.append(slot)
            self._drop_if_silent(slot)

    def _kill_leftovers(self, slot: Slot) -> bool:
        """Kill what came from the slot; whether there was anything. What is not ours to kill is left alone."""
        killed = [send(pid, signal.SIGKILL) for pid in belonging_to_slot(slot.pid, slot.mark)]
        return any(killed)

    def _report_dead(self, slot: Slot, events: Events) -> None:
        """The first job is to blame if it had started; the others had not, and go to another slot.

        One whose token was gone may have killed its worker before it could say so: at the third time it is blamed.
        """
        job = slot.jobs[0]
        self._look_for_start(slot, events)
        job.deaths += slot.verdict is None and job.started_at is None
        if slot.verdict is not None or job.started_at is not None or job.deaths >= MAX_SILENT_DEATHS:
            verdict = slot.verdict or _crashed(job, self._why_dead(slot, job))
            self._finish(slot, job, verdict, events)
        events.returned += list(slot.jobs)
        slot.jobs.clear()

    def _why_dead(self, slot: Slot, job: Job) -> str:
        """How the worker ended with the job in hand; nobody here has killed it."""
        status = slot.process.returncode
        text = describe_exit(status)
        if status != -signal.SIGKILL:
            return text
        if not self._oom.knows:
            return f"{text} (out of memory?)"
        if self._oom.kills() <= job.oom_kills:
            return text
        held = f" (it held {size_text(job.peak_rss_bytes)})" if job.peak_rss_bytes else ""
        return f"{text}; probably by the kernel for want of memory{held}"

    def _drop_if_silent(self, slot: Slot) -> None:
        """Stop reading the output of a slot that is gone once nobody holds it open, or the log is full anyway."""
        job = slot.reader.current
        if not slot.output_is_over and (job is None or not job.log_cut):
            return
        self._lingering.remove(slot)
        slot.close_output()

    def _next_deadline_in(self) -> float:
        """In how many seconds something is due at the soonest."""
        due: list[float] = []
        now = time.monotonic()
        for slot in self._slots.values():
            flush = slot.reader.next_flush()
            if flush is not None:
                due.append(flush)
            if not slot.is_watched and not slot.output_is_over:
                due.append(slot.changed_at + LOOK_AFTER_S)
            if slot.recall_wanted:
                due.append(now)
            if slot.sweeping or slot.process.returncode is not None:
                due.append(now + _SWEEP_AGAIN_S)
            elif slot.pidfd is None:
                due.append(now + 0.05)  # nothing tells of its death: look now and then
            job = slot.jobs[0] if slot.jobs else None
            if job is None:
                continue
            if slot.dying_since is not None:
                due.append(slot.dying_since + job.kill_grace_s)
            elif job.kill_reason is not None:
                due.append(now)
            elif job.timeout_s is not None and job.started_at is not None:
                due.append(job.started_at + job.timeout_s)
            if job.started_at is None:
                if slot.ready:
                    look_s = _look_after_s(job)
                    due.append(job.given_at + look_s if now < job.given_at + look_s else now + look_s)
                if self._is_idle_elsewhere(slot):
                    due.append(max(now + 0.01, job.given_at + RECALL_AFTER_S))
                continue
            if len(slot.jobs) > 1:
                due.append(job.started_at + RECALL_AFTER_S)
            if slot.gauge is not None and not slot.sweeping:
                due.append(slot.gauge.due_at)
        return max(0.0, min(due) - now) if due else math.inf

    def close(self, *, kill: bool) -> None:
        if self._closed:
            return
        self._closed = True
        self._replaces = False
        events = Events()
        for slot in self._slots.values():
            if not slot.ready or (slot.jobs and kill):
                self._sweep(slot, events)
            slot.retire()
        deadline = time.monotonic() + (_CLOSE_GRACE_S if not kill else 0.0)
        self._leaving = {slot: min(until, deadline) for slot, until in self._leaving.items()}
        while self._slots or self._leaving:
            if time.monotonic() >= deadline:
                for slot in self._slots.values():
                    slot.sweeping = True
            self.poll(0.05)
        for slot in self._lingering:
            slot.close_output()
        self._lingering.clear()
        self._drop_locks()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()
        _engines.discard(self)

    def forget_in_child(self) -> None:
        """In a forked child of the host: close what would keep slots alive after the host's death."""
        for slot in [*self._slots.values(), *self._leaving, *self._lingering]:
            slot.forget_in_child()


_engines: weakref.WeakSet[SlotEngine] = weakref.WeakSet()


def _forget_all_in_child() -> None:
    for engine in list(_engines):
        engine.forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all_in_child)


def _killed(job: Job, ended_us: int | None) -> Outcome:
    reason = job.kill_reason or EndReason.CANCELLED
    error = f"TaskKilled: {why_killed(job)}"
    return Outcome(
        TaskInstanceState.FAILED,
        reason,
        error,
        may_retry=reason is EndReason.TIMEOUT,
        started_us=job.started_us,
        ended_us=ended_us or clock_us(),
    )


def _look_after_s(job: Job) -> float:
    return LOOK_AFTER_S if job.timeout_s is None else min(LOOK_AFTER_S, job.timeout_s)


def _took_s(outcome: Outcome) -> float:
    if outcome.started_us is None or outcome.ended_us is None:
        return math.inf
    return (outcome.ended_us - outcome.started_us) / 1e6


def _crashed(job: Job, why: str) -> Outcome:
    return Outcome(
        TaskInstanceState.FAILED,
        EndReason.CRASHED,
        why,
        started_us=job.started_us,
        ended_us=clock_us(),
    )
