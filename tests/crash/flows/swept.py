"""A service that is stopped before its worker is ready, in a process that dies in the middle of ending that worker."""

from __future__ import annotations

import os
import signal
from typing import Any

from liteflow import ExecutorService
from liteflow.execution import slots

send = slots.send


def send_and_die(pid: int, number: int, **options: Any) -> bool:
    """What is to come after SIGSTOP never comes."""
    sent = send(pid, number, **options)
    if number == signal.SIGSTOP:
        os.kill(os.getpid(), signal.SIGKILL)
    return sent


if __name__ == "__main__":
    slots.send = send_and_die
    with ExecutorService("flow.db", max_workers=1):
        pass
