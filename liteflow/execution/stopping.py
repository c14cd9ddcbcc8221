"""Ctrl-C and SIGTERM while a run goes on: noted at once, answered where nothing can be torn.

A handler that raises does so between any two steps of the main thread: while the service is being started or closed, or
with a lock of the standard library in hand that nobody lets go of then. So for the time of a run the handlers take a
note, and the thread that waits for the run raises. What comes after the first has what runs killed at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from liteflow.execution.service import ExecutorService


class Terminated(KeyboardInterrupt):
    """SIGTERM came; like Ctrl-C, with another exit code."""


def terminate(_number: int, _frame: FrameType | None) -> None:
    """A handler of SIGTERM that raises `Terminated`."""
    raise Terminated


_RAISING = (signal.default_int_handler, terminate)
"""Whose place is taken; a handler of the application's own is left alone."""


class StopSignals:
    """Takes the place of handlers that raise, in a `with` block of the main thread; elsewhere it does nothing.

    The first signal is raised by the next `check()`, or when the block is left. Later ones have `service` kill what
    runs.
    """

    def __init__(self) -> None:
        self.service: ExecutorService | None = None
        self._noted: list[int] = []
        self._is_raised = False
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self._handlers = {number: one for number, one in found.items() if callable(one) and one in _RAISING}
            for number in self._handlers:
                signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self.check()

    def check(self) -> None:
        """Raise what the first signal is for, once."""
        if self._noted and not self._is_raised:
            self._is_raised = True
            self._handlers[self._noted[0]](self._noted[0], None)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted.append(number)
        if len(self._noted) > 1 and self.service is not None:
            self.service.interrupt(0.0)
