"""What the system knows of memory: how much a try holds, and whether the kernel has killed for want of it.

Linux only; elsewhere nothing is known, and nothing is recorded.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time

FIRST_SAMPLE_S = 0.1
"""How long a try runs before its memory is looked at: shorter ones have no peak."""

LONGEST_PAUSE_S = 1.0
"""The longest time between two looks; they begin at `FIRST_SAMPLE_S` and grow."""

_IS_LINUX = sys.platform == "linux"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if _IS_LINUX else 0
_HIGH_WATER = re.compile(rb"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_OOM_KILL = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


class Gauge:
    """The peak of the resident memory of one try: its worker, and everything that this started and adopted.

    What processes share is counted for each of them. The peak is the largest sample or, if the worker came to hold more
    than in any try before, what the kernel saw between the samples.
    """

    def __init__(self, pid: int, started_at: float) -> None:
        self._pid = pid
        self._pause_s = FIRST_SAMPLE_S
        self._high_water_before: int | None = None
        self.due_at = started_at + FIRST_SAMPLE_S if _IS_LINUX else math.inf
        """When to sample next, by the monotonic clock."""
        self.peak_bytes: int | None = None
        """None before the first sample."""

    def sample(self) -> None:
        """Look at what is held now."""
        if not _IS_LINUX:
            return
        held = tree_rss_bytes(self._pid)
        high_water = _high_water_bytes(self._pid)
        if self._high_water_before is None:
            self._high_water_before = high_water
        elif high_water > self._high_water_before:  # it rose in this try: before, the peak may be that of another
            held = max(held, high_water)
        if held:
            self.peak_bytes = max(held, self.peak_bytes or 0)
        self._pause_s = min(LONGEST_PAUSE_S, 1.5 * self._pause_s)
        self.due_at = time.monotonic() + self._pause_s


def tree_rss_bytes(pid: int) -> int:
    """The resident memory of a process and its descendants; 0 if it is gone."""
    held = 0
    pids = [pid]
    while pids:
        one = pids.pop()
        held += _rss_bytes(one)
        pids += _children(one)
    return held


def _rss_bytes(pid: int) -> int:
    text = _read(f"/proc/{pid}/statm")
    return int(text.split()[1]) * _PAGE_BYTES if text else 0


def _high_water_bytes(pid: int) -> int:
    found = _HIGH_WATER.search(_read(f"/proc/{pid}/status"))
    return int(found[1]) * 1024 if found else 0


def _children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:  # it is gone
        return []
    return [int(child) for thread in threads for child in _read(f"/proc/{pid}/task/{thread}/children").split()]


class OomWatch:
    """Counts how often the kernel has killed for want of memory: in our cgroup if that counts, else anywhere."""

    def __init__(self, *paths: str) -> None:
        """`paths`: files that may hold the count; the first that does is read. Default: those of this system."""
        candidates = paths or (_own_memory_events(), "/proc/vmstat")
        self._path = next((path for path in candidates if path and _OOM_KILL.search(_read(path))), None)
        self._kills = 0
        self._read_at = -math.inf
        self.kills(newer_than=-math.inf)

    @property
    def knows(self) -> bool:
        """Whether anybody counts here."""
        return self._path is not None

    def kills(self, *, newer_than: float = math.inf) -> int:
        """The count as it is now, or as it was when it was last read, if that was after `newer_than` (monotonic)."""
        if self._path is not None and self._read_at <= newer_than:
            self._read_at = time.monotonic()
            found = _OOM_KILL.search(_read(self._path))
            self._kills = int(found[1]) if found else self._kills
        return self._kills


def _own_memory_events() -> str | None:
    """Where our cgroup (version 2) counts; the root cgroup does not."""
    for line in _read("/proc/self/cgroup").decode("utf-8", "surrogateescape").splitlines():
        if line.startswith("0::"):
            return os.path.normpath(f"/sys/fs/cgroup/{line[3:]}") + "/memory.events"
    return None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # gone, not ours, or not there on this system
        return b""
