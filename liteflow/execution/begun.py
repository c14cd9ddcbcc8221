"""Which job a worker has begun, told in memory that it shares with the parent.

A message for each start would wake the parent for every tiny task, twice instead of once. This costs the worker no
call of the system, and it is there however the worker ends: the parent knows exactly which job to blame.

In the same memory the parent says until when the worker may go on, if there is such a limit: a parent that stands
still cannot end it.

When the parent dies, that memory goes with it. What the worker has begun stands also in the lock file of its slot, for
whoever takes over: most of what the dead had claimed had not begun, and is not to blame.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from pathlib import Path
from typing import NamedTuple

_NUMBER = struct.Struct("=Q")
_TIMES = struct.Struct("=qd")
_EXPIRY = struct.Struct("=d")
_EXPIRY_AT = 64
NOBODY = 0
"""No job has this number."""


class Begun:
    """The job that was begun last. One process notes, another reads."""

    def __init__(self, fd: int) -> None:
        """`fd`: of `shared_memory()`, which can be closed afterwards."""
        self._memory = mmap.mmap(fd, mmap.PAGESIZE)

    def note(self, number: int, at_us: int, at: float) -> None:
        """Job `number` begins: microseconds since the epoch, and seconds of the monotonic clock."""
        # The number last, and none meanwhile: who reads it finds the times that belong to it.
        _NUMBER.pack_into(self._memory, 0, NOBODY)
        _TIMES.pack_into(self._memory, _NUMBER.size, at_us, at)
        _NUMBER.pack_into(self._memory, 0, number)

    def times_of(self, number: int) -> tuple[int, float] | None:
        """When job `number` began, if it is the one that was begun last."""
        if _NUMBER.unpack_from(self._memory)[0] != number:
            return None
        at_us, at = _TIMES.unpack_from(self._memory, _NUMBER.size)
        return (at_us, at) if _NUMBER.unpack_from(self._memory)[0] == number else None

    def expire_at(self, at: float) -> None:
        """Tell the worker until when it may go on, by `steady_s`; 0: for as long as its parent lives."""
        _EXPIRY.pack_into(self._memory, _EXPIRY_AT, at)

    def expires_at(self) -> float:
        """Until when the worker may go on."""
        at: float = _EXPIRY.unpack_from(self._memory, _EXPIRY_AT)[0]
        return at

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


def shared_memory() -> int:
    """A descriptor of a page of memory without a name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("liteflow-begun", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, mmap.PAGESIZE)
    return fd


class BegunTry(NamedTuple):
    """What stands in a slot's lock file."""

    worker_pid: int
    pk: int
    """The key of the task instance that was begun last; 0 for none."""
    try_number: int
    at_us: int
    """When that was, in microseconds since the epoch."""


def note_begun(fd: int, pk: int, try_number: int, at_us: int) -> None:
    """Write down in the slot's lock file that a try begins. What cannot be written is not told of."""
    try:
        os.pwrite(fd, b"%d %d %d %d\n" % (os.getpid(), pk, try_number, at_us), 0)
    except OSError:
        return  # the disk is full, say: then it counts as one that was not seen to begin


def read_begun(path: Path) -> BegunTry | None:
    """What stands in a slot's lock file; None if it is gone, or its worker was never there."""
    try:
        line, _, _ = path.read_text("ascii").partition("\n")
        return BegunTry(*map(int, line.split()))
    except (OSError, ValueError, TypeError):
        return None
