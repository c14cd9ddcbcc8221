"""A copy of what this process prints and logs while it runs tasks itself, for the logs of these tasks.

Everything also goes where it would go anyway. What threads other than the listening one write is left alone. For as
long as anybody listens, `sys.stdout` and `sys.stderr` are stand-ins, and the root logger has one handler more; levels
are not changed.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Hear = Callable[[int | None, str | None, str], None]
"""Takes a line: its level, its logger (both None for what was printed), and its text."""

_lock = threading.Lock()
_listeners = 0
_ears: dict[int, list[_Ear]] = {}
"""By thread: who listens to it; the last one hears."""


class _Ear:
    """One listener, and the beginnings of lines that have not ended."""

    def __init__(self, hear: Hear) -> None:
        self.hear = hear
        self.is_deaf = False
        """Whether what is printed has been heard already."""
        self.rests: dict[str, str] = {}

    def printed(self, stream: str, text: str) -> None:
        if self.is_deaf:
            return
        *whole, rest = (self.rests.pop(stream, "") + text).split("\n")
        for line in whole:
            self.hear(None, None, line)
        if rest:
            self.rests[stream] = rest

    def flush(self) -> None:
        for stream in list(self.rests):
            self.printed(stream, "\n")


class _Stream:
    """Stands in for a standard stream: passes everything on, and lets the listener of the thread hear it."""

    def __init__(self, name: str, stream: Any) -> None:
        self._name = name
        self._stream = stream

    def write(self, text: str) -> Any:
        count = self._stream.write(text)
        ears = _ears.get(threading.get_ident())
        if ears:
            ears[-1].printed(self._name, text)
        return count

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Handler(logging.Handler):
    """Lets the listener of the thread hear the records of `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        ears = _ears.get(threading.get_ident(), ())
        for ear in ears[-1:]:
            for line in self.format(record).split("\n"):
                ear.hear(record.levelno, record.name, line)
            ear.is_deaf = True
        # With no other handler there would have been logging's last resort.
        last = logging.lastResort
        if last is not None and record.levelno >= last.level and not _is_handled(record.name):
            last.handle(record)
        for ear in ears[-1:]:
            ear.is_deaf = False


_handler = _Handler()
_streams: dict[str, _Stream] = {}


def _is_handled(name: str) -> bool:
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(handler is not _handler for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


@contextmanager
def listening(hear: Hear) -> Iterator[None]:
    """Hear what this thread prints and logs inside the block. Lines come whole, the last one at its end."""
    global _listeners
    ear, me = _Ear(hear), threading.get_ident()
    with _lock:
        _listeners += 1
        if _listeners == 1:
            _begin()
        _ears.setdefault(me, []).append(ear)
    try:
        yield
    finally:
        ear.flush()
        with _lock:
            _ears[me].remove(ear)
            if not _ears[me]:
                del _ears[me]
            _listeners -= 1
            if _listeners == 0:
                _end()


def _begin() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:
            _streams[name] = _Stream(name, stream)
            setattr(sys, name, _streams[name])
    logging.getLogger().addHandler(_handler)


def _end() -> None:
    logging.getLogger().removeHandler(_handler)
    for name, stream in _streams.items():
        if getattr(sys, name) is stream:  # else a debugger or a fixture has put something else there
            setattr(sys, name, stream._stream)
    _streams.clear()
