"""What the operating system knows of processes: who descends from a slot, and which process is which."""

from __future__ import annotations

import os
import signal
import sys


def start_time_of(pid: int) -> int | None:
    """The kernel's number for when the process started: with the pid it names one process. None where there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def exists(pid: int) -> bool:
    """Whether there is a process of this pid, be it somebody else's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (state) on; None where there is no such thing."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode("ascii", "replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def belonging_to_slot(slot_pid: int, mark: str) -> list[int]:
    """Living processes that came from a slot, the slot's own process excepted.

    Those are its descendants, whatever is in its session, and whatever carries `mark` in its environment (which finds
    what left the session and outlived the slot). Linux only; elsewhere the session is all that can be reached.
    """
    if sys.platform != "linux":
        return []
    parents: dict[int, int] = {}
    found: set[int] = set()
    own = os.getpid()
    needle = mark.encode()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        pid = int(name)
        fields = _stat(pid)
        if fields is None or fields[0] in "ZX" or pid in (slot_pid, own):
            continue
        parents[pid] = int(fields[1])
        if int(fields[3]) == slot_pid or _carries(pid, needle):
            found.add(pid)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent == slot_pid or parent in found} - found
        grown = bool(more)
        found |= more
    return sorted(found)


def _carries(pid: int, needle: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return needle in file.read()
    except OSError:  # gone, or not ours
        return False


def send(pid: int, number: int, *, group: bool = False) -> bool:
    """Send a signal to a process or its whole group. False if it is not ours to end; one that is gone is fine."""
    try:
        (os.killpg if group else os.kill)(pid, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def describe_exit(status: int) -> str:
    """How a process ended, for people, from `Popen.returncode`."""
    if status >= 0:
        return f"its process ended with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"
