"""The end of the interpreter: services that nobody stopped end in good order.

Their threads would just be gone, and their runs look as if the process had been killed: three such ends and the task
that ran has failed.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from liteflow.execution.service import ExecutorService

EXIT_GRACE_S = 2.0
"""How long what runs may take to end when the interpreter does, with services that nobody stopped."""

EXIT_KILL_S = 3.0
"""How long the interpreter's end then waits for what is killed."""

_started: weakref.WeakSet[ExecutorService] = weakref.WeakSet()
_exit_pid = os.getpid()
"""In which process `_stop_all` is registered for certain: children of multiprocessing forget what was."""


def stop_at_exit(service: ExecutorService) -> None:
    """Stop the service when the interpreter ends, if nobody has by then."""
    global _exit_pid
    _started.add(service)
    if _exit_pid != os.getpid():
        _exit_pid = os.getpid()
        atexit.unregister(_stop_all)
        atexit.register(_stop_all)


def _stop_all() -> None:
    """Stop the services of this process that nobody stopped."""
    left = [one for one in list(_started) if one._pid == os.getpid() and not one._ended.is_set()]
    for service in left:
        service._end_with_interpreter()
    deadline = time.monotonic() + EXIT_GRACE_S
    for service in left:
        if not _has_ended(service, deadline) and service._loop is not None:
            service._loop.kill()
    deadline = time.monotonic() + EXIT_KILL_S
    for service in left:
        _has_ended(service, deadline)  # and if not: the kernel ends its slots, and its lock


def _has_ended(service: ExecutorService, deadline: float) -> bool:
    try:
        return service._ended.wait(max(0.0, deadline - time.monotonic()))
    except KeyboardInterrupt:
        return False  # who cannot wait need not


atexit.register(_stop_all)  # when this is imported: what the host registers later, `service.stop` say, runs before it
