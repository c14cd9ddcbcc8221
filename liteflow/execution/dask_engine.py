"""A Dask cluster as the engine: `executor=client.get_executor()`, or `executor="dask://HOST:PORT"`.

Each try is submitted with the client's own `submit` or `map`, under a key that begins with its task's id; tiny ones go
several in one Dask task, a *chunk*. What comes back while a chunk runs (that a try has begun, its lines, its result,
its questions) comes over Dask's own connections; see `dask_worker.py` for the other side.

Dask may run the same chunk again: its worker was lost, or the data that it gave. It begins only once all the same:
before it does anything it asks the plugin in the scheduler, and does nothing if it was begun before. So a try whose
worker is lost ends as `crashed`, and runs again as a try of its own. What Dask cannot promise: a worker that the
scheduler has given up, and that goes on behind a broken network, may still be at it meanwhile.
"""

from __future__ import annotations

import itertools
import marshal
import math
import queue
import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from liteflow.errors import InvalidOptionError, LiteflowError, ServiceError
from liteflow.execution.calling import describe_error
from liteflow.execution.clock import clock_us
from liteflow.execution.code import Code
from liteflow.execution.dask_worker import (
    BEGUN,
    ELSEWHERE,
    ENDED,
    GIVEN_BACK,
    LINES,
    NOBODY,
    OP,
    PLUGIN,
    RESULT_IS_LARGE,
    make_plugin,
    run_chunk,
    version,
    versions_differ,
)
from liteflow.execution.hostlog import warn
from liteflow.execution.jobs import Events, Job, LogLine, Outcome, charge_log, outcome_of, why_killed
from liteflow.execution.sources import Source, read, sources_of
from liteflow.states import EndReason, TaskInstanceState

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag
    from liteflow.authoring.task import Task

CONNECT_S = 5.0
"""How long a scheduler may take to answer at first."""

CLOSE_S = 2.0

UNPLACED_AFTER_S = 5.0
"""How long a try waits for a worker that may run it before it is said that there is none."""

SHORT_S = 1.0
"""Chunks that take less are kept ready in greater number, so that workers never run dry."""

LARGE_BYTES = 1024 * 1024
"""What a chunk needs and is larger goes to the scheduler beside Dask's own graph, which Dask warns of."""

TELL_OVER_AFTER = 200
"""After so many chunks that are over the scheduler is told to forget them."""

MAX_UNBEGUN_DEATHS = 3
"""How often a try may be lost before it began."""

LONGEST_POLL_S = 3600.0

_HERE = ""
"""Who has begun a chunk that is taken back by the service: then no worker begins it."""


class _Flight:
    """A chunk on its way."""

    def __init__(self, key: str, jobs: list[Job], options: dict[str, Any], packed: bytes) -> None:
        self.key = key
        self.jobs = {job.number: job for job in jobs}
        """Those that are not over."""
        self.is_single = len(jobs) == 1
        self.options = options
        self.packed = packed
        self.future: Any = None
        self.sent_at = 0.0
        self.began_at = 0.0
        self.worker: str | None = None
        """Who has begun it, once that is known."""
        self.is_asked = False
        """Whether the scheduler is asked to take it back."""
        self.is_done = False
        """Whether Dask is done with it."""
        self.large: set[int] = set()
        """Jobs whose result is what the Dask task gives."""
        self.is_missed = False
        """Whether it was said that no worker may run it."""


class DaskEngine:
    """See `jobs.Engine` for what each method promises.

    `executor`: what `Client.get_executor()` gives, whose client stays open, or the scheduler's address `HOST:PORT`.
    Raises ServiceError when it starts and the cluster cannot be used.
    """

    chunks = True
    chunk_s = 0.05
    """How much expected work goes in one Dask task: each costs the scheduler about a millisecond."""

    def __init__(self, executor: Any, count: int) -> None:
        self._executor = executor
        self._count = count
        self._client: Any = None
        self._is_ours = False
        self._address = executor if isinstance(executor, str) else ""
        self._defaults: dict[str, Any] = {}
        self._topic = f"liteflow-{secrets.token_hex(6)}"
        self._inbox: queue.SimpleQueue[Callable[[Events], None] | None] = queue.SimpleQueue()
        self._flights: dict[str, _Flight] = {}
        self._flight_of: dict[int, _Flight] = {}
        """By number of the job."""
        self._tails: set[_Flight] = set()
        """Chunks of which no job is left, and that Dask is not done with."""
        self._unsent: list[_Flight] = []
        self._started: dict[int, Job] = {}
        """Jobs that have begun and have a time limit."""
        self._to_end: list[Job] = []
        """Jobs that were told to end."""
        self._over: list[str] = []
        """Keys of chunks that are over."""
        self._long_over: list[str] = []
        """Those of them that the scheduler may forget."""
        self._events = Events()
        """What is known before the next poll."""
        self._workers: list[tuple[str, int, str, str, dict[str, float]]] = []
        self._threads = 0
        self._sources: dict[int, tuple[Any, list[Source]]] = {}
        """By id of the prepared dag."""
        self._sent_texts: set[str] = set()
        self._serials = itertools.count(1)
        self._vacancy_numbers = itertools.count(1)
        self._usual_s = 0.0
        """How long chunks take, lately."""
        self._look_at = 0.0
        self._said: set[tuple[str, str]] = set()
        """Tasks, and what they want, of which it was said that no worker may run them."""
        self._broken: str | None = None
        self._is_closed = False
        self.notify: Callable[[], None] | None = None
        """Called, from another thread, when there is something for `poll`."""

    # Beginning and ending

    def start(self) -> None:
        try:
            self._connect()
            self._client.subscribe_topic(self._topic, self._hear)
            self._client.register_plugin(make_plugin(), PLUGIN)
            self._know(self._call_and_wait(what="open", client=self._client.id))
            self._check_versions()
        except LiteflowError:
            raise
        except Exception as error:
            raise ServiceError(
                f"the Dask scheduler at {self._address} cannot be used: {describe_error(error)}"
            ) from error

    def _connect(self) -> None:
        from distributed import Client
        from distributed.cfexecutor import ClientExecutor

        if isinstance(self._executor, str):
            try:
                self._client = Client(self._executor, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
            except (OSError, ValueError, ImportError) as error:
                raise ServiceError(f"no Dask scheduler answers at {self._executor}: {describe_error(error)}") from error
            self._is_ours = True
            return
        if isinstance(self._executor, ClientExecutor):
            if self._executor._shutdown:
                raise ServiceError("executor= is an executor of Dask that was shut down")
            self._client, self._defaults = self._executor._client, dict(self._executor._kwargs)
        elif isinstance(self._executor, Client):
            self._client = self._executor
        else:
            raise ServiceError(f"executor={self._executor!r:.200}: pass what client.get_executor() gives")
        if self._client.asynchronous:
            raise ServiceError(
                "executor= is of an asynchronous client of Dask; make a Client() without asynchronous=True"
            )
        if self._client.status != "running":
            raise ServiceError("executor= is of a client of Dask that is closed")
        self._address = self._client.scheduler.address

    def _check_versions(self) -> None:
        def theirs() -> Any:
            import sys
            from importlib import import_module

            try:
                there = import_module("liteflow")
            except ImportError:
                return None, sys.version_info[:2]
            return there.__version__, sys.version_info[:2]

        theirs.__module__ = "__main__"  # so that it travels by value: there may be no liteflow
        for worker, found in self._client.run(theirs, on_error="return").items():
            if isinstance(found, BaseException):
                raise ServiceError(f"worker {worker} cannot run tasks: {describe_error(found)}")
            if found[0] is None:
                raise ServiceError(f"worker {worker} has no liteflow: install liteflow {version()[0]} on the workers")
            wrong = versions_differ(found, f"worker {worker}")
            if wrong is not None:
                raise ServiceError(wrong)

    def close(self, *, kill: bool) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        client = self._client
        if client is None:
            return
        for flight in [*self._flights.values(), *self._tails]:
            self._release(flight)
        self._flights.clear()
        self._flight_of.clear()
        try:
            if client.status == "running":
                self._call_and_wait(what="close")
                client.unsubscribe_topic(self._topic)
        except Exception as error:  # the scheduler is gone, or goes: it forgets us by itself
            warn("the Dask scheduler at %s was not told of the end: %s", self._address, describe_error(error))
        if self._is_ours:
            client.close(timeout=CLOSE_S)

    def hold_locks(self, directory: str, token: str) -> None:
        return  # its workers are on other machines

    def live_until(self, at: float) -> None:
        return  # its workers know nothing of it; what they give is fenced

    def replace_no_more(self) -> None:
        return

    def kill(self) -> None:
        # Its workers' threads cannot be: what they give is fenced. But the scheduler forgets us, and nothing begins.
        if self._client is not None and not self._is_closed:
            self._call(None, what="close")

    # Talking to the scheduler

    def _call_and_wait(self, **message: Any) -> Any:
        async def call() -> Any:
            return await getattr(self._client.scheduler, OP)(topic=self._topic, **message)

        return self._client.sync(call, callback_timeout=CONNECT_S)

    def _call(self, then: Callable[[Any, Events], None] | None, **message: Any) -> None:
        """Have the plugin do something; `then` gets its answer, or the error, at a later poll."""

        async def call() -> None:
            try:
                answer = await getattr(self._client.scheduler, OP)(topic=self._topic, **message)
            except Exception as error:
                answer = error
            if then is not None:
                self._put(lambda events: then(answer, events))

        self._client.loop.add_callback(call)

    def _put(self, what: Callable[[Events], None] | None) -> None:
        self._inbox.put(what)
        notify = self.notify  # which may go meanwhile
        if notify is not None:
            notify()

    def _hear(self, event: tuple[float, tuple[Any, ...]]) -> None:
        """A message of the plugin, in the thread of Dask's client."""
        kind, *about = event[1]
        if kind == "told":
            worker, data = about
            self._put(lambda events: self._told(worker, marshal.loads(data), events))
        elif kind == "ask":
            number, question, what = about
            self._put(lambda events: self._asked(number, question, marshal.loads(what), events))
        elif kind == "gone":
            worker, keys = about
            self._put(lambda events: self._gone(worker, keys, events))
        elif kind == "workers":
            self._put(lambda _events: self._know(about[0]))

    def _know(self, workers: Any) -> None:
        self._workers = [tuple(one) for one in workers]
        self._threads = sum(one[1] for one in self._workers)

    # What the service asks

    def size(self) -> int:
        return max(1, self._threads)

    def vacancies(self) -> list[int]:
        if self._broken is not None:
            return []
        threads = self._threads or self._count  # a cluster that grows on demand must see one
        ahead = max(2, threads) if self._usual_s < SHORT_S else max(1, threads // 4)
        return [next(self._vacancy_numbers) for _ in range(threads + ahead - len(self._flights))]

    def check_dag(self, dag: Dag) -> None:
        """Raise InvalidOptionError for an `executor_config` of which Dask can make nothing."""
        for task in dag.tasks:
            options_of(task)

    def submit(self, vacancy: int, jobs: list[Job]) -> None:
        groups: dict[tuple[int, str], tuple[dict[str, Any], list[Source], list[Job]]] = {}
        for job in jobs:
            job.given_at = time.monotonic()
            try:
                options = {} if job.callback_id is not None else options_of(job.run.task(job.index))
                wanted = self._sources_of(job)
            except (LiteflowError, OSError) as error:
                outcome = Outcome(TaskInstanceState.FAILED, EndReason.ERROR, str(error), may_retry=False)
                self._events.finished.append((job, outcome))
                continue
            key = id(job.run.prepared), repr(sorted(options.items()))
            groups.setdefault(key, (options, wanted, []))[2].append(job)
        for options, wanted, some in groups.values():
            self._pack(options, wanted, some)

    def _pack(self, options: dict[str, Any], wanted: list[Source], jobs: list[Job]) -> None:
        key = f"{_key_of(jobs)}/{self._topic[-12:]}.{next(self._serials)}"
        tells = len(jobs) == 1 and (jobs[0].expected_s is None or jobs[0].expected_s > 0.02)
        told = [
            (job.number, job.log_cap_bytes - job.log_bytes, tuple(job.code), tuple(job.recipe), job.payload)
            for job in jobs
        ]
        rest: bytes | None = marshal.dumps((tells, [tuple(one) for one in wanted], told))
        if rest is not None and len(rest) > LARGE_BYTES:
            self._call(None, what="put", name=key, text=rest)
            rest = None
        flight = _Flight(key, jobs, options, marshal.dumps((version(), self._topic, key, rest)))
        self._flights[key] = flight
        self._flight_of.update(dict.fromkeys(flight.jobs, flight))
        self._unsent.append(flight)

    def _sources_of(self, job: Job) -> list[Source]:
        """The files that workers need for a job's dag; the scheduler has them for those that ask."""
        prepared = job.run.prepared
        known = self._sources.get(id(prepared))
        if known is None:
            codes: list[Code] = [code for _, code in prepared.codes]
            codes += [code for several in prepared.callbacks.values() for _, code in several]
            known = self._sources[id(prepared)] = prepared, sources_of(dict.fromkeys(codes))
        for source in known[1]:
            if source.digest not in self._sent_texts:
                self._call(None, what="put", name=source.digest, text=read(source))
                self._sent_texts.add(source.digest)
        return known[1]

    def _send(self) -> None:
        """Submit what waits for that: what has the same options, at once."""
        unsent, self._unsent = self._unsent, []
        groups: dict[str, list[_Flight]] = {}
        for flight in unsent:
            groups.setdefault(repr(flight.options), []).append(flight)
        for several in groups.values():
            options = {**self._defaults, **several[0].options, "retries": 0, "pure": False}
            if "workers" in several[0].options and "allow_other_workers" not in several[0].options:
                options.pop("allow_other_workers", None)
            try:
                futures = self._client.map(
                    run_chunk, [one.packed for one in several], key=[one.key for one in several], **options
                )
            except Exception as error:
                self._break(f"Dask's client cannot submit: {describe_error(error)}")
                return
            for flight, future in zip(several, futures, strict=True):
                flight.future, flight.packed, flight.sent_at = future, b"", time.monotonic()
                future.add_done_callback(self._when_done(flight))

    def _when_done(self, flight: _Flight) -> Callable[[Any], None]:
        return lambda _future: self._put(lambda events: self._done(flight, events))

    def answer(self, job: Job, number: int, rows: tuple[Any, ...]) -> None:
        self._call(None, what="answer", question=number, answer=marshal.dumps(rows))

    def has_begun(self, job: Job) -> bool:
        flight = self._flight_of.get(job.number)
        return job.started_at is not None or (flight is not None and flight.is_single and flight.worker is not None)

    def cancel(self, job: Job, reason: EndReason) -> None:
        if job.number in self._flight_of and job.kill_reason is None:
            job.kill_reason = reason
            self._to_end.append(job)
            self.wake()

    def wake(self) -> None:
        self._inbox.put(None)
        notify = self.notify  # which may go meanwhile
        if notify is not None:
            notify()

    def due_in(self) -> float:
        """In how many seconds something is due at the soonest."""
        if self._events or self._unsent:
            return 0.0
        now = time.monotonic()
        due = [
            job.started_at + job.timeout_s - now for job in self._started.values() if job.started_at and job.timeout_s
        ]
        if self._flights:
            due.append(1.0)  # whether the scheduler is there, and a worker for each chunk
        return max(0.0, min(due, default=math.inf))

    def poll(self, timeout_s: float) -> Events:
        if self._unsent:
            self._send()
        wait_s = min(timeout_s, self.due_in(), LONGEST_POLL_S)
        events, self._events = self._events, Events()
        try:
            what = self._inbox.get(timeout=wait_s) if wait_s > 0 else self._inbox.get_nowait()
            while True:
                if what is not None:
                    what(events)
                what = self._inbox.get_nowait()
        except queue.Empty:
            pass  # that was all
        self._tick(events)
        return events

    # What comes from the cluster

    def _told(self, worker: str, messages: list[tuple[Any, ...]], events: Events) -> None:
        for kind, number, *more in messages:
            if kind == GIVEN_BACK:
                self._given_back(number, events)
                continue
            flight = self._flight_of.get(number)
            if flight is None:
                continue  # its try is over: of what comes later nothing is recorded
            job = flight.jobs[number]
            if flight.worker is None:
                flight.worker, flight.began_at = worker, time.monotonic()
            if kind == BEGUN:
                self._begun(job, more[0], time.monotonic() - more[1], events)
            elif kind == LINES:
                lines = [LogLine(*line) for line in more[0]]
                events.lines += [(job, line) for line in lines if charge_log(job, len(line.text) + 64)]
            elif kind == ENDED:
                job.log_cut += more[0]
                self._finish(flight, job, more[1], events)
            elif kind == RESULT_IS_LARGE:
                job.log_cut += more[0]
                flight.large.add(number)

    def _given_back(self, numbers: list[int], events: Events) -> None:
        for number in numbers:
            flight = self._flight_of.get(number)
            if flight is not None:
                events.returned.append(self._take_out(flight, flight.jobs[number]))

    def _begun(self, job: Job, started_us: int, started_at: float, events: Events) -> None:
        job.started_us, job.started_at = started_us, started_at
        if job.timeout_s is not None:
            self._started[job.number] = job
        events.started.append(job)

    def _finish(self, flight: _Flight, job: Job, data: bytes, events: Events) -> None:
        result, started_us, ended_us, trace, guard = marshal.loads(data)
        outcome = outcome_of(result, started_us=started_us, ended_us=ended_us, load_trace=trace, guard=guard)
        self._take_out(flight, job)
        events.finished.append((job, outcome))

    def _take_out(self, flight: _Flight, job: Job) -> Job:
        """The job is not with Dask any more."""
        flight.jobs.pop(job.number, None)
        self._flight_of.pop(job.number, None)
        self._started.pop(job.number, None)
        if not flight.jobs:
            self._end(flight)
        return job

    def _end(self, flight: _Flight) -> None:
        """None of its jobs is left: Dask may forget it once it is done with it."""
        if flight.began_at:
            took = time.monotonic() - flight.began_at
            self._usual_s = took if took > self._usual_s else 0.8 * self._usual_s + 0.2 * took
        self._flights.pop(flight.key, None)
        if flight.is_done:
            self._release(flight)
        else:
            self._tails.add(flight)

    def _asked(self, number: int, question: int, what: tuple[Any, ...], events: Events) -> None:
        flight = self._flight_of.get(number)
        if flight is None:
            self._call(None, what="answer", question=question, answer=None)
        else:
            events.questions.append((flight.jobs[number], question, what))

    def _gone(self, worker: str, keys: list[str], events: Events) -> None:
        """A worker is gone, and these chunks had begun there."""
        for key in keys:
            flight = self._flights.get(key)
            if flight is not None:
                self._crash(flight, f"its Dask worker {worker} is gone", events)

    def _done(self, flight: _Flight, events: Events) -> None:
        """Dask is done with a chunk; what its tries gave was told before, as a rule."""
        flight.is_done = True
        if not flight.jobs:
            self._release(flight)
            return
        status = flight.future.status
        if status == "finished":
            self._fetch(flight)
        elif status == "error":
            self._failed(flight, flight.future.exception(), events)
        else:
            self._take_back(flight, "Dask has dropped it")

    def _fetch(self, flight: _Flight) -> None:
        """Get what the chunk gave: results that are too large to be told, or why it did nothing."""

        async def fetch() -> None:
            try:
                found: Any = await self._client.gather(flight.future, asynchronous=True)
            except Exception as error:
                found = error
            self._put(lambda events: self._fetched(flight, found, events))

        self._client.loop.add_callback(fetch)

    def _fetched(self, flight: _Flight, found: Any, events: Events) -> None:
        if not flight.jobs:
            return
        if isinstance(found, BaseException):
            self._crash(flight, f"what it gave is lost with its Dask worker: {describe_error(found)}", events)
            return
        why, more = found
        if why == NOBODY:
            self._take_back(flight, "the scheduler does not know of it")
        elif why == ELSEWHERE and more == _HERE:
            return  # it is being taken back
        elif why == ELSEWHERE:
            self._crash(flight, f"its Dask worker {more} was lost", events)
        else:
            for number, data in more.items():
                if number in flight.jobs:
                    self._finish(flight, flight.jobs[number], data, events)
            if flight.jobs:
                self._crash(flight, "what it gave was lost on its way", events)

    def _failed(self, flight: _Flight, error: BaseException, events: Events) -> None:
        from distributed.scheduler import KilledWorker

        if isinstance(error, KilledWorker):
            self._take_back(flight, f"too many Dask workers died with it: {describe_error(error)}")
            return
        text = describe_error(error)
        if isinstance(error, ModuleNotFoundError) and error.name == "liteflow":
            text = f"a Dask worker has no liteflow: install liteflow {version()[0]} on the workers"
        for job in list(flight.jobs.values()):
            self._take_out(flight, job)
            outcome = Outcome(TaskInstanceState.FAILED, EndReason.ERROR, text, started_us=job.started_us)
            events.finished.append((job, outcome._replace(ended_us=clock_us())))

    def _take_back(self, flight: _Flight, why: str | None = None) -> None:
        """See that no worker begins it any more; what becomes of its jobs depends on whether one had."""
        if not flight.is_asked:
            flight.is_asked = True
            self._call(
                lambda answer, events: self._taken_back(flight, answer, why, events),
                what="begin",
                key=flight.key,
                who=_HERE,
            )

    def _taken_back(self, flight: _Flight, begun_by: Any, why: str | None, events: Events) -> None:
        flight.is_asked = False
        if not flight.jobs:
            return
        if begun_by is None or isinstance(begun_by, BaseException):
            self._break(f"the Dask scheduler at {self._address} has forgotten this service")
        elif begun_by == _HERE:
            for job in list(flight.jobs.values()):
                job.deaths += why is not None
                self._take_out(flight, job)
                if job.deaths < MAX_UNBEGUN_DEATHS:
                    events.returned.append(job)
                else:
                    events.finished.append((job, _crashed(job, why or "", blameless=False)))
            self._release(flight)
        elif why is not None:
            self._crash(flight, why, events)
        else:
            flight.worker = begun_by.partition("#")[0]
            if flight.is_single:  # else it is told soon which of them have begun
                for job in list(flight.jobs.values()):
                    self._end_job(flight, job, events)

    def _crash(self, flight: _Flight, why: str, events: Events) -> None:
        """A chunk that had begun is lost. Which of several was to blame nobody knows, but of one that was told."""
        for job in list(flight.jobs.values()):
            is_known = flight.is_single or job.started_at is not None
            self._take_out(flight, job)
            events.finished.append((job, _crashed(job, why, blameless=not is_known)))
        self._release(flight)  # Dask need not run it again

    def _release(self, flight: _Flight) -> None:
        self._tails.discard(flight)
        future, flight.future = flight.future, None
        if future is not None:
            future.release()
            self._over.append(flight.key)

    # What becomes due

    def _tick(self, events: Events) -> None:
        if self._broken is None and self._client.status != "running":
            self._break(f"the connection to the Dask scheduler at {self._address} is lost")
        if self._broken is not None:
            self._put_back_all(events)
            return
        now = time.monotonic()
        for job in list(self._started.values()):
            if job.kill_reason is None and job.timeout_s and job.started_at and now >= job.started_at + job.timeout_s:
                job.kill_reason = EndReason.TIMEOUT
                self._to_end.append(job)
        waiting, self._to_end = self._to_end, []
        for job in waiting:
            flight = self._flight_of.get(job.number)
            if flight is not None:
                self._tell_to_end(flight, job, events)
        if len(self._over) >= TELL_OVER_AFTER:
            self._call(None, what="over", keys=self._long_over)  # the others may still be on their way to a worker
            self._over, self._long_over = [], self._over
        if now >= self._look_at:
            self._look_at = now + 1.0
            self._look_for_missing(now, events)

    def _tell_to_end(self, flight: _Flight, job: Job, events: Events) -> None:
        if flight in self._unsent:
            events.returned.append(self._take_out(flight, job))
            if not flight.jobs:
                self._unsent.remove(flight)
        elif job.started_at is not None or (flight.is_single and flight.worker is not None):
            self._end_job(flight, job, events)
        else:
            self._to_end.append(job)  # in a chunk that has begun: it is told soon whether it has
            if flight.worker is None:
                self._take_back(flight)

    def _end_job(self, flight: _Flight, job: Job, events: Events) -> None:
        """End a try that goes on at its worker: it is cancelled, and whatever still comes of it is dropped."""
        reason = job.kill_reason or EndReason.CANCELLED
        outcome = Outcome(
            TaskInstanceState.FAILED,
            reason,
            f"{why_killed(job)}; Dask cannot stop it: its thread on worker {flight.worker} goes on",
            may_retry=reason is EndReason.TIMEOUT,
            started_us=job.started_us,
            ended_us=clock_us(),
        )
        self._take_out(flight, job)
        events.finished.append((job, outcome))
        if not flight.jobs:
            self._release(flight)

    def _look_for_missing(self, now: float, events: Events) -> None:
        """Say of tries that wait that no worker may run them."""
        for flight in self._flights.values():
            if (
                flight.worker is not None
                or flight.is_missed
                or not flight.sent_at
                or now - flight.sent_at < UNPLACED_AFTER_S
            ):
                continue
            options = {**self._defaults, **flight.options}
            if any(_suits(worker, options) for worker in self._workers):
                continue
            flight.is_missed = True
            job = next(iter(flight.jobs.values()))
            wanted = {name: options[name] for name in ("resources", "workers") if options.get(name)}
            text = f"no Dask worker may run it now, it waits for one: {wanted or 'there is none'}"
            if charge_log(job, len(text) + 64):
                events.lines.append((job, LogLine(clock_us(), 30, "liteflow.task", text)))
            if (job.name, repr(wanted)) not in self._said:
                self._said.add((job.name, repr(wanted)))
                warn("task %r: %s", job.name, text)

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self.wake()

    def _put_back_all(self, events: Events) -> None:
        events.broken = self._broken
        for flight in list(self._flights.values()):
            for job in list(flight.jobs.values()):
                events.returned.append(self._take_out(flight, job))
        self._unsent.clear()


def _crashed(job: Job, why: str, *, blameless: bool) -> Outcome:
    return Outcome(
        TaskInstanceState.FAILED,
        EndReason.CRASHED,
        why,
        started_us=job.started_us,
        ended_us=clock_us(),
        blameless=blameless,
    )


def _key_of(jobs: list[Job]) -> str:
    """What a chunk is called: Dask groups and colours by what stands before the first hyphen and figure."""
    job = jobs[0]
    mapped = f"[{job.map_index}]" if job.map_index >= 0 else ""
    more = f"+{len(jobs) - 1}" if len(jobs) > 1 else ""
    kind = "callback" if job.callback_id is not None else "try"
    return f"{job.name}-{kind}{job.try_number}{mapped}{more}/{job.run.dag.dag_id}/{job.run.run_id}"


def _suits(worker: tuple[str, int, str, str, dict[str, float]], options: Mapping[str, Any]) -> bool:
    address, _, name, host, resources = worker
    if any(resources.get(what, 0) < amount for what, amount in (options.get("resources") or {}).items()):
        return False
    wanted = options.get("workers")
    if not wanted or options.get("allow_other_workers"):
        return True
    names = [wanted] if isinstance(wanted, str | int) else wanted
    return any(str(one) in (address, name, host, address.partition("://")[2]) for one in names)


# What a task may say to Dask


def _resources(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(amount, int | float) and not isinstance(amount, bool) and amount > 0
        for name, amount in value.items()
    )


def _names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(one, str) for one in value))


_OPTIONS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "resources": (_resources, "a dict of names and amounts"),
    "workers": (_names, "the address, name or host of a worker, or a list of them"),
    "priority": (lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number"),
    "allow_other_workers": (lambda value: isinstance(value, bool), "True or False"),
}


def options_of(task: Task) -> dict[str, Any]:
    """What `executor_config={"dask": {...}}` of a task says. Raises InvalidOptionError.

    What there is for other executors is not looked at.
    """
    config = task.options.executor_config
    own = config.get("dask") if isinstance(config, Mapping) else None
    if own is None:
        return {}
    where = f"{task.place}: task {task.task_id!r}: executor_config['dask']"
    if not isinstance(own, Mapping):
        raise InvalidOptionError(f"{where} must be a dict, not {own!r:.200}", option="executor_config")
    for name, value in own.items():
        if name not in _OPTIONS:
            raise InvalidOptionError(
                f"{where} has {name!r:.200}; it may have {', '.join(_OPTIONS)}", option="executor_config"
            )
        suits, what = _OPTIONS[name]
        if not suits(value):
            raise InvalidOptionError(f"{where}: {name} must be {what}, not {value!r:.200}", option="executor_config")
    if own.get("allow_other_workers") and not own.get("workers"):
        raise InvalidOptionError(f"{where}: allow_other_workers says nothing without workers", option="executor_config")
    return dict(own)
