"""What a process has beside its memory, and a task may change: a slot gives it back to the next task as it was.

Each look takes some ten microseconds, so it is taken after every try.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from operator import is_
from typing import Any

_LIMITS = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})

_SIGNALS = [int(number) for number in signal.Signals if number not in (signal.SIGKILL, signal.SIGSTOP)]

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

# Without the conversion to an enum, which takes ten times as long as the question.
_signals: Any = sys.modules.get("_signal", signal)
_handler_of: Callable[[int], Any] = _signals.getsignal
_set_mask: Callable[[int, Any], Any] = _signals.pthread_sigmask


class Surroundings:
    """Working directory, environment, signals, timers, umask, limits and identity as they are when this is made.

    To be made in the main thread of a worker, before any code of a task is loaded, and used there.
    """

    def __init__(self) -> None:
        self._directory = os.getcwd()
        self._environment = dict(os.environ)
        self._raw_environment = dict(_raw_environment())
        self._handlers = list(map(_handler_of, _SIGNALS))
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._limits = list(map(resource.getrlimit, _LIMITS))
        for name in ("resource", "ctypes", "ctypes._endian"):
            sys.modules.pop(name, None)  # so that it is seen when a task imports one
        self._modules = len(sys.modules)
        self._identity = _identity()

    def restore(self) -> bool:
        """Make everything as it was. False if something can never be again, such as a hard limit that was lowered."""
        self._restore_signals()
        self._restore_directory()
        os.umask(self._umask)
        if _raw_environment() != self._raw_environment:
            os.environ.clear()
            os.environ.update(self._environment)
        return (not self._may_have_set_limits() or self._restore_limits()) and _identity() == self._identity

    def _restore_signals(self) -> None:
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        if not all(map(is_, map(_handler_of, _SIGNALS), self._handlers)):
            for number, handler in zip(_SIGNALS, self._handlers, strict=True):
                if handler is not None and _handler_of(number) is not handler:
                    signal.signal(number, handler)
        _set_mask(signal.SIG_SETMASK, self._mask)

    def _restore_directory(self) -> None:
        try:
            moved = os.getcwd() != self._directory
        except OSError:  # it is gone
            moved = True
        if moved:
            try:
                os.chdir(self._directory)
            except OSError:
                pass  # the host's directory was removed; the next task finds itself where this one was

    def _may_have_set_limits(self) -> bool:
        """Python has two modules that can set a limit, and what else does so does it when it is imported. To look at
        all limits takes longer than to look at everything else."""
        before, self._modules = self._modules, len(sys.modules)
        return before != self._modules or "resource" in sys.modules or "ctypes" in sys.modules

    def _restore_limits(self) -> bool:
        if list(map(resource.getrlimit, _LIMITS)) == self._limits:
            return True
        for limit, before in zip(_LIMITS, self._limits, strict=True):
            if resource.getrlimit(limit) != before:
                try:
                    resource.setrlimit(limit, before)
                except (OSError, ValueError):
                    return False
        return True


def _raw_environment() -> Mapping[Any, Any]:
    """The environment as it compares most quickly: not decoded, if the interpreter lets us."""
    return getattr(os.environ, "_data", os.environ)


def _identity() -> tuple[object, ...]:
    return os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getpriority(os.PRIO_PROCESS, 0)
