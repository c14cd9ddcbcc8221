"""Ctrl-C and SIGTERM for commands that run tasks."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

from liteflow.cli.common import echo


@contextlib.contextmanager
def signals_that_raise() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM raise, unless they are ignored, as after `nohup`; see `execution/stopping.py`."""
    from liteflow.execution.stopping import terminate

    raising = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminate}
    before = {number: signal.getsignal(number) for number in raising}
    for number, handler in raising.items():
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


def stopped(code: int) -> NoReturn:
    """The end of a command that was told to stop: 130 for Ctrl-C, 143 for SIGTERM."""
    echo("liteflow: stopped; what became of the run: liteflow runs", err=True)
    sys.exit(code)
