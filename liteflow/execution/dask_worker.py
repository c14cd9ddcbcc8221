"""What runs on a Dask cluster: the wrapper around tries on its workers, and a plugin in its scheduler.

The plugin is the one place that knows of each chunk (the Dask task that carries a few tries) whether it has begun: a
worker asks it first, so that a chunk begins once, however often Dask itself runs it. It also passes on what workers
tell the service and what tasks ask it, and says when a worker is gone. It travels by value: the scheduler needs no
liteflow.
"""

from __future__ import annotations

import logging
import marshal
import secrets
import sys
import threading
import time
from collections import deque
from functools import partial
from importlib import import_module
from typing import Any

from liteflow.authoring.dagfile import airflow_names, loading
from liteflow.errors import MissingMainGuard
from liteflow.execution import sources
from liteflow.execution.calling import Payload, Recipe, Result, call, describe_error, trace_of
from liteflow.execution.capture import Sink, capturing
from liteflow.execution.clock import clock_us
from liteflow.execution.code import Code, load
from liteflow.execution.sources import Source

PLUGIN = "liteflow-1"
"""Its name, and that of what it answers to. Another number is another way of talking."""
OP = "liteflow_1"
TELL = "liteflow-1-tell"

LOOK_EVERY_S = 0.05
"""How often it is looked whether something is to be told of a try that goes on."""

RECALL_AFTER_S = 0.05
"""How long a try may run before those behind it in its chunk are given back."""

SENT_AT_ONCE_BYTES = 256 * 1024
"""So much is told without waiting for more."""

TOLD_BYTES = 1024 * 1024
"""A result that is larger does not go through the scheduler's messages: it is what the Dask task returns."""

BEGUN, LINES, ENDED, RESULT_IS_LARGE, GIVEN_BACK = "B", "L", "E", "X", "R"

ELSEWHERE, NOBODY = "elsewhere", "nobody"
"""What a chunk returns that was begun before by another worker, or whose service is gone."""


def version() -> tuple[str, tuple[int, int]]:
    """What must be the same on both sides."""
    return str(import_module("liteflow").__version__), sys.version_info[:2]


def versions_differ(theirs: tuple[str, tuple[int, int]], where: str) -> str | None:
    """What is wrong with a worker of that version, in one line."""
    ours = version()
    if tuple(theirs[1]) != ours[1]:
        names = [".".join(map(str, one)) for one in (theirs[1], ours[1])]
        return f"{where} has Python {names[0]}, this process {names[1]}: they must be the same"
    if theirs[0] != ours[0]:
        return f"{where} has liteflow {theirs[0]}, this process {ours[0]}: they must be the same"
    return None


def make_plugin() -> Any:
    """The plugin for the scheduler. Its class lies in this function so that it travels by value."""
    from distributed.diagnostics.plugin import SchedulerPlugin

    plugin_name, op, tell_op = PLUGIN, OP, TELL

    class LiteflowPlugin(SchedulerPlugin):  # type: ignore[misc,unused-ignore]  # distributed may not be installed
        idempotent = True
        name = plugin_name

        async def start(self, scheduler: Any) -> None:
            self.scheduler = scheduler
            self.services: dict[str, dict[str, Any]] = {}
            scheduler.handlers[op] = self.handle
            scheduler.stream_handlers[tell_op] = self.pass_on

        async def handle(self, what: str, topic: str, **about: Any) -> Any:
            if what == "open":
                self.services[topic] = {"client": about["client"], "begun": {}, "asked": {}, "texts": {}}
                return self.workers()
            service = self.services.get(topic)
            if service is None:
                return None
            return await getattr(self, "do_" + what)(topic, service, **about)

        async def do_close(self, topic: str, service: dict[str, Any]) -> None:
            self.drop(topic)

        async def do_begin(self, topic: str, service: dict[str, Any], key: str, who: str) -> str:
            """Who has begun the chunk: whoever asks first."""
            return str(service["begun"].setdefault(key, who))

        async def do_over(self, topic: str, service: dict[str, Any], keys: list[str]) -> None:
            for key in keys:
                service["begun"].pop(key, None)
                service["texts"].pop(key, None)

        async def do_ask(self, topic: str, service: dict[str, Any], number: int, question: bytes) -> Any:
            import asyncio

            self.last = getattr(self, "last", 0) + 1
            mine = self.last
            answer = service["asked"][mine] = asyncio.get_running_loop().create_future()
            self.send(topic, ("ask", number, mine, question))
            try:
                return await answer
            finally:
                service["asked"].pop(mine, None)

        async def do_answer(self, topic: str, service: dict[str, Any], question: int, answer: bytes) -> None:
            waiting = service["asked"].get(question)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)

        async def do_put(self, topic: str, service: dict[str, Any], name: str, text: bytes) -> None:
            service["texts"][name] = text

        async def do_text(self, topic: str, service: dict[str, Any], name: str) -> Any:
            import asyncio

            for _ in range(600):  # the message that brings it may be on its way
                if name in service["texts"]:
                    return service["texts"][name]
                await asyncio.sleep(0.05)
            return None

        def pass_on(self, topic: str, data: bytes, worker: str) -> None:
            # No coroutine: these would be begun later, and what is told of a chunk comes before its end.
            self.send(topic, ("told", worker, data))

        def send(self, topic: str, message: tuple[Any, ...]) -> None:
            service = self.services.get(topic)
            comm = None if service is None else self.scheduler.client_comms.get(service["client"])
            if comm is not None and not comm.closed():
                comm.send({"op": "event", "topic": topic, "event": (0.0, message)})

        def workers(self) -> list[Any]:
            return [
                (state.address, state.nthreads, str(state.name), state.host, dict(state.resources))
                for state in self.scheduler.workers.values()
            ]

        def add_worker(self, scheduler: Any, worker: str) -> None:
            for topic in self.services:
                self.send(topic, ("workers", self.workers()))

        def remove_worker(self, scheduler: Any, worker: str, **_more: Any) -> None:
            for topic, service in self.services.items():
                keys = [key for key, who in service["begun"].items() if who.partition("#")[0] == worker]
                self.send(topic, ("gone", worker, keys))
                self.send(topic, ("workers", self.workers()))

        def remove_client(self, scheduler: Any, client: str) -> None:
            for topic in [topic for topic, service in self.services.items() if service["client"] == client]:
                self.drop(topic)

        def drop(self, topic: str) -> None:
            for answer in self.services.pop(topic)["asked"].values():
                if not answer.done():
                    answer.set_result(None)

    return LiteflowPlugin()


class Chunk:
    """The tries of one Dask task, in the thread that runs them; and what is told of them."""

    def __init__(self, worker: Any, topic: str, jobs: list[tuple[Any, ...]]) -> None:
        self._worker = worker
        self._topic = topic
        self._waiting = deque(jobs)
        self._lock = threading.RLock()
        self._sending = threading.RLock()
        """Held while something is taken out and sent, so that it stays in order."""
        self._out: list[tuple[Any, ...]] = []
        self._out_bytes = 0
        self._number = 0
        self._began_at = 0.0
        self._began_us = 0
        self._is_told = True
        """Whether it is told that the try has begun."""
        self._room = 0
        self._cut = 0
        """Bytes that the log of the try had no room for."""
        self.sink = Sink(self._charge, self._note)
        """Takes what the try in hand prints and logs."""

    def next(self) -> tuple[Any, ...] | None:
        """The try that begins now; None when there is none left."""
        with self._lock:
            if not self._waiting:
                return None
            job = self._waiting.popleft()
            self._number, self._room = job[0], job[1]
            self._began_at, self._began_us = time.monotonic(), clock_us()
            self._is_told, self._cut = False, 0
            self.sink = Sink(self._charge, self._note)
            return job

    @property
    def began_us(self) -> int:
        """When the try in hand began."""
        return self._began_us

    def _charge(self, size: int) -> bool:
        """Whether the log has room for so many bytes more. What does not fit is counted."""
        if self._cut or size > self._room:
            self._cut += size
            return False
        self._room -= size
        self._out_bytes += size
        return True

    def _note(self) -> None:
        """There are lines: they are told at the next look, or at once when they are many."""

    def tell_begun(self) -> None:
        """Tell that the try in hand has begun, if that is not told."""
        with self._lock:
            if not self._is_told:
                self._is_told = True
                self._out.append((BEGUN, self._number, self._began_us, time.monotonic() - self._began_at))

    def end(self, kind: str, more: tuple[Any, ...], size: int) -> None:
        """The try in hand is over."""
        self.sink.close()
        self._put_lines()
        with self._lock:
            self._out.append((kind, self._number, self._cut, *more))
            self._is_told = True
            self._out_bytes += size
            is_much = self._out_bytes >= SENT_AT_ONCE_BYTES
        if is_much:
            self.send()

    def look(self) -> None:
        """Now and then, from another thread: tell what there is, and give back what waits behind a long try."""
        with self._lock:
            if time.monotonic() - self._began_at < RECALL_AFTER_S:
                return
            if self._waiting:
                self._out.append((GIVEN_BACK, [job[0] for job in self._waiting]))
                self._waiting.clear()
            self.tell_begun()
        self.send()

    def _put_lines(self) -> None:
        with self._lock:
            number, sink = self._number, self.sink
        lines, _ = sink.take(time.monotonic())
        if lines:
            with self._lock:
                self._out.append((LINES, number, [tuple(line) for line in lines]))

    def send(self) -> None:
        """Tell what there is."""
        with self._sending:
            self._put_lines()
            with self._lock:
                out, self._out, self._out_bytes = self._out, [], 0
            if out:
                message = {"op": TELL, "topic": self._topic, "data": marshal.dumps(out), "worker": self._worker.address}
                self._worker.loop.add_callback(self._worker.batched_send, message)


class _Watch:
    """The thread of a worker that looks at its chunks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: set[Chunk] = set()
        self._thread: threading.Thread | None = None

    def add(self, chunk: Chunk) -> None:
        with self._lock:
            self._chunks.add(chunk)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="liteflow-chunks", daemon=True)
                self._thread.start()

    def remove(self, chunk: Chunk) -> None:
        with self._lock:
            self._chunks.discard(chunk)

    def _run(self) -> None:
        idle = 0
        while True:
            time.sleep(LOOK_EVERY_S)
            with self._lock:
                chunks = list(self._chunks)
                idle = 0 if chunks else idle + 1
                if idle > 100:
                    self._thread = None
                    return
            for chunk in chunks:
                chunk.look()


_watch = _Watch()


def _ask_plugin(worker: Any, what: str, topic: str, **about: Any) -> Any:
    """Have the plugin in the scheduler do something; waits for its answer."""
    import asyncio

    async def ask() -> Any:
        return await getattr(worker.scheduler, OP)(what=what, topic=topic, **about)

    return asyncio.run_coroutine_threadsafe(ask(), worker.loop.asyncio_loop).result()


def run_chunk(packed: bytes) -> Any:
    """What Dask runs: the tries one after the other. Returns results that are too large to be told, or why it did
    nothing."""
    from distributed import get_worker

    worker = get_worker()
    theirs, topic, key, rest = marshal.loads(packed)
    wrong = versions_differ(theirs, "the process that submits")
    if wrong is not None:
        raise RuntimeError(f"worker {worker.address}: {wrong}")
    # Not the address alone: a worker that was started anew, or has come back, may have the same one.
    who = f"{worker.address}#{secrets.token_hex(8)}"
    begun_by = _ask_plugin(worker, "begin", topic, key=key, who=who)
    if begun_by is None:
        return NOBODY, None
    if begun_by != who:
        return ELSEWHERE, begun_by.partition("#")[0]
    if rest is None:
        rest = _ask_plugin(worker, "text", topic, name=key)
    if rest is None:
        return NOBODY, None
    tells, wanted, jobs = marshal.loads(rest)
    trouble = _fetch(worker, topic, [Source(*one) for one in wanted])
    chunk = Chunk(worker, topic, jobs)
    large: dict[int, bytes] = {}
    _watch.add(chunk)
    try:
        while (job := chunk.next()) is not None:
            if tells:
                chunk.tell_begun()
                chunk.send()
            _run_one(worker, topic, chunk, job, trouble, large)
    finally:
        _watch.remove(chunk)
        chunk.send()
    return None, large


def _fetch(worker: Any, topic: str, wanted: list[Source]) -> str | None:
    """Get the files that this worker does not have; what is wrong if that fails."""
    missing = sources.missing(wanted)
    texts = []
    for source in missing:
        text = _ask_plugin(worker, "text", topic, name=source.digest)
        if text is None:
            return f"{source.path} has not come to worker {worker.address}"
        texts.append((source, text))
    sources.provide(texts)
    return None


def _run_one(
    worker: Any, topic: str, chunk: Chunk, job: tuple[Any, ...], trouble: str | None, large: dict[int, bytes]
) -> None:
    number, _, code, recipe, payload = job
    trace: str | None = None
    guard = None
    sink = chunk.sink
    with capturing(sink):
        try:
            if trouble is not None:
                raise RuntimeError(trouble)
            with loading():
                function = load(Code(*code))
        except MissingMainGuard as error:
            guard = (error.message, error.file, error.line)
            result = Result("failed", "error", str(error), False, ())
        except BaseException as error:
            trace = trace_of(error)
            where = Code(*code).file or Code(*code).module or "its function"
            result = Result("failed", "error", f"cannot load {where}: {describe_error(error)}", True, ())
        else:
            with airflow_names():
                result = call(
                    function,
                    Recipe(*recipe),
                    Payload(*payload),
                    lambda text: sink.record(logging.ERROR, "liteflow.task", text.rstrip("\n")),
                    partial(_ask_service, worker, topic, number),
                )
        ended_us = clock_us()
    data = marshal.dumps((tuple(result), chunk.began_us, ended_us, trace, guard))
    if len(data) > TOLD_BYTES:
        large[number] = data
        chunk.end(RESULT_IS_LARGE, (), 0)
    else:
        chunk.end(ENDED, (data,), len(data))


def _ask_service(worker: Any, topic: str, number: int, question: tuple[Any, ...]) -> tuple[Any, ...]:
    answer = _ask_plugin(worker, "ask", topic, number=number, question=marshal.dumps(question))
    if answer is None:
        raise RuntimeError("the task that asks for this value is over")
    return tuple(marshal.loads(answer))
