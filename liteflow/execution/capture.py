"""What tasks print and log where several of them share one process: told apart by a context variable.

While a task runs so, `sys.stdout` and `sys.stderr` are stand-ins. In the context of a task they give what is written
to its `Sink`, and nothing of it to the stream of the host; for everybody else they pass everything on. A thread that
the task starts belongs to it if it runs in a copy of its context.

The host's logging stays as it is configured: no level is changed and no handler is added, which would keep a host that
has none from `logging.basicConfig()`. Two methods of `logging.Logger` have one of ours in front of them meanwhile:
`isEnabledFor`, so that in a task's context INFO is enabled where the level is the root logger's, and `callHandlers`,
which gives a record to the sink of its context, and to the host's handlers if the host's own level lets it through.
`logging.basicConfig` does nothing in a task's context, as in a slot, where it finds a handler.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from liteflow.authoring.context import command_output
from liteflow.errors import TaskKilled
from liteflow.execution.clock import clock_us
from liteflow.execution.jobs import LogLine
from liteflow.execution.output import LONGEST_LINE_BYTES, PARTIAL_LINE_S, ROW_BYTES, decode_text, whole_characters

_sink: ContextVar[Sink | None] = ContextVar("liteflow_sink", default=None)
_is_deaf: ContextVar[bool] = ContextVar("liteflow_sink_is_deaf", default=False)
"""Whether what is printed was recorded already: the host's handlers write a record of `logging`."""
_formatter = logging.Formatter("%(message)s")


class Sink:
    """Takes what one try prints and logs, from whatever thread has its context. Lines are cut as a slot cuts them."""

    def __init__(self, charge: Callable[[int], bool], notify: Callable[[], None]) -> None:
        """`charge`: whether so many bytes more may be kept. `notify`: called when there is something to `take`."""
        self._charge = charge
        self._notify = notify
        self._lock = threading.RLock()  # a finalizer may print while something is printed
        self._lines: list[LogLine] = []
        self._rests: dict[str, bytes] = {}
        """By stream: the beginning of a line that has not ended."""
        self._rest_since: float | None = None
        self._flushed: set[str] = set()
        """Streams of whose line everything is recorded but that it has ended."""
        self._is_closed = False
        self._is_told = False
        """Whether somebody knows that there is something to take."""
        self._pid = os.getpid()

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a process that was forked from the one whose sink it is."""
        return os.getpid() != self._pid

    def write(self, stream: str, data: bytes) -> None:
        """Something was written to a stream: `stdout`, `stderr` or another name."""
        with self._lock:
            if self._is_closed or not data:
                return
            *whole, rest = (self._rests.pop(stream, b"") + data).split(b"\n")
            for line in whole:
                self._take_line(stream, line)
            while len(rest) > LONGEST_LINE_BYTES:
                length = whole_characters(rest, LONGEST_LINE_BYTES)
                self._add(rest[:length], None, None)
                rest = rest[length:]
            if rest:
                self._rests[stream] = rest
            if not self._rests:
                self._rest_since = None
            elif whole or self._rest_since is None:
                self._rest_since = time.monotonic()
            self._tell()

    def _take_line(self, stream: str, line: bytes) -> None:
        line = line.rstrip(b"\r")
        if stream in self._flushed:
            self._flushed.discard(stream)
            if not line:
                return
        self._add(line.rsplit(b"\r", 1)[-1], None, None)  # of what draws over itself, what is seen in the end

    def write_of_command(self, data: bytes) -> None:
        """Output of a command that the task runs, or none to ask whether it may go on. Raises TaskKilled when the try
        is over."""
        if self._is_closed:
            raise TaskKilled("the time of this task is up, or it was cancelled")
        self.write("command", data)

    def record(self, level: int, logger: str, text: str) -> None:
        """A record of `logging`, line by line."""
        with self._lock:
            if self._is_closed:
                return
            for line in _encoded(text).split(b"\n"):
                self._add(line, level, decode_text(_encoded(logger)))
            self._tell()

    def _add(self, line: bytes, level: int | None, logger: str | None) -> None:
        now_us = clock_us()
        while True:
            length = whole_characters(line, LONGEST_LINE_BYTES)
            if self._charge(length + ROW_BYTES):
                self._lines.append(LogLine(now_us, level, logger, decode_text(line[:length])))
            line = line[length:]
            if not line:
                return

    def _tell(self) -> None:
        if not self._is_told and (self._lines or self._rests):
            self._is_told = True
            self._notify()

    def take(self, now: float) -> tuple[list[LogLine], float | None]:
        """The lines since the last time, and when there will be more of a line that does not end, if there will."""
        with self._lock:
            if self._rest_since is not None and now - self._rest_since >= PARTIAL_LINE_S:
                self._flush()
            self._is_told = bool(self._rests)
            lines, self._lines = self._lines, []
            return lines, None if self._rest_since is None else self._rest_since + PARTIAL_LINE_S

    def _flush(self) -> None:
        rests, self._rests, self._rest_since = self._rests, {}, None
        for stream, rest in rests.items():
            self._take_line(stream, rest)
            self._flushed.add(stream)

    def close(self) -> None:
        """The try is over: what there is of a line that has not ended is one, and nothing is taken any more."""
        with self._lock:
            self._flush()
            self._is_closed = True


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _current() -> Sink | None:
    sink = _sink.get()
    return None if sink is None or sink.is_elsewhere else sink


class _Bytes:
    """What is below a text stream, for a task that writes bytes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, data: Any) -> int:
        piece = bytes(data)
        sink = _current()
        if sink is not None:
            sink.write(self._name, piece)
        return len(piece)

    def flush(self) -> None:
        return


class _StandIn:
    """In the place of a standard stream: what a task writes goes to its sink, all else to the stream."""

    def __init__(self, name: str, stream: Any) -> None:
        self._name = name
        self._stream = stream

    def write(self, text: str) -> Any:
        sink = None if _is_deaf.get() else _current()
        if sink is None:
            return self._stream.write(text)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        sink.write(self._name, _encoded(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if _current() is None or _is_deaf.get():
            self._stream.flush()

    def close(self) -> None:
        if _current() is None:
            self._stream.close()

    def isatty(self) -> bool:
        return _current() is None and bool(self._stream.isatty())

    @property
    def buffer(self) -> Any:
        return self._stream.buffer if _current() is None else _Bytes(self._name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


# Logging


def _is_enabled_for(logger: logging.Logger, level: int) -> bool:
    return _by_host("isEnabledFor")(logger, level) or (
        level >= logging.INFO
        and _current() is not None
        and not logger.disabled
        and logger.manager.disable < level
        and _has_level_of_root(logger)
    )


def _has_level_of_root(logger: logging.Logger) -> bool:
    while logger.parent is not None:
        if logger.level:
            return False
        logger = logger.parent
    return True


def _call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
    sink = _current()
    if sink is None:
        _by_host("callHandlers")(logger, record)
        return
    try:
        sink.record(record.levelno, record.name, _formatter.format(record))
    except Exception:  # arguments that do not go with the message, say
        logging.Handler().handleError(record)
    if _by_host("isEnabledFor")(logger, record.levelno) and logger.hasHandlers():  # else it would be printed here
        token = _is_deaf.set(True)
        try:
            _by_host("callHandlers")(logger, record)
        finally:
            _is_deaf.reset(token)


def _basic_config(**options: Any) -> None:
    if _current() is None:
        _by_host("basicConfig")(**options)


_OURS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "isEnabledFor": (logging.Logger, _is_enabled_for),
    "callHandlers": (logging.Logger, _call_handlers),
    "basicConfig": (logging, _basic_config),
}
_host: dict[str, Callable[..., Any]] = {name: getattr(owner, name) for name, (owner, _) in _OURS.items()}
"""What was there before ours."""
_in_front: set[str] = set()
"""Those of ours that are there, or lie below what somebody has put in front of them."""


def _by_host(name: str) -> Callable[..., Any]:
    return _host[name]


# Being there only while a task runs

_lock = threading.Lock()
_users = 0


def _make_lock_anew() -> None:
    """In a forked child: another thread, which is not there, may have held it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_lock_anew)


@contextmanager
def capturing(sink: Sink) -> Iterator[None]:
    """Give what is printed and logged in this context, inside the block, to `sink`."""
    _begin()
    tokens = _sink.set(sink), _is_deaf.set(False), command_output.set(sink.write_of_command)
    try:
        yield
    finally:
        _sink.reset(tokens[0])
        _is_deaf.reset(tokens[1])
        command_output.reset(tokens[2])
        _end()


def _begin() -> None:
    global _users
    with _lock:
        _users += 1
        for name, (owner, ours) in _OURS.items():
            if name not in _in_front:
                _in_front.add(name)
                _host[name] = getattr(owner, name)
                setattr(owner, name, ours)
        # Looked at for each task: what runs beside it may have put something else there, or back.
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, _StandIn):
                setattr(sys, name, _StandIn(name, stream))


def _end() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users:
            return
        for name, (owner, ours) in _OURS.items():
            if getattr(owner, name) is ours:  # else somebody has put another in front, which calls ours
                setattr(owner, name, _host[name])
                _in_front.discard(name)
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, _StandIn):  # else a task, a fixture or a debugger has put something else there
                setattr(sys, name, stream._stream)
