"""A process that has imported all of liteflow and forks a child for each program that it is asked to run.

Starting Python and importing SQLAlchemy is more than half of a short run's time, and none of what the kill tests are
about. The child runs the program as `python PROGRAM ARGUMENTS` would: as `__main__`, to the interpreter's end.

Reads one JSON object a line: program, arguments, directory, environment. Answers with the child's pid, and with
its wait status when it is over; the child stays a zombie until the next line, so that its pid is nobody else's.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from importlib import import_module
from typing import Any

from sqlalchemy.orm import configure_mappers

WARM = """
    liteflow.execution.callbacks liteflow.execution.differences liteflow.execution.liveness liteflow.execution.loop
    liteflow.execution.pools liteflow.execution.recorder liteflow.execution.recovery liteflow.execution.running
    liteflow.execution.service liteflow.execution.slots liteflow.scheduling.reopening liteflow.storage.history
    liteflow.storage.recording liteflow.storage.schema sqlalchemy.dialects.sqlite cloudpickle tests.crash.filewatch
    tests.crash.ledger
"""
"""What a run imports, most of it late."""


def serve() -> dict[str, Any] | None:
    """In the nursery: serve until the end of the input, then None. In a child: what it is to run."""
    for line in sys.stdin:
        wanted: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return wanted
        print(pid, flush=True)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        print(_status_of_zombie(pid), flush=True)
        sys.stdin.readline()
        os.waitpid(pid, 0)
    return None


def _status_of_zombie(pid: int) -> int:
    """As `Popen.returncode` has it."""
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert found is not None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def become(wanted: dict[str, Any]) -> None:
    """Make this child what the program would be in a process of its own."""
    os.chdir(wanted["directory"])
    os.environ.update(wanted["environment"])
    for fd, name in ((0, os.devnull), (1, "out.txt"), (2, "err.txt")):
        opened = os.open(name, os.O_RDWR if fd == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, fd)
        os.close(opened)
    sys.argv = [wanted["program"], *wanted["arguments"]]


if __name__ == "__main__":
    for module in WARM.split():
        import_module(module)
    configure_mappers()
    asked = serve()
    if asked is not None:
        become(asked)
        runpy.run_path(asked["program"], run_name="__main__")
