"""What the operating system knows of processes: who descends from a slot, and which process is which."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

SLOT_LOCK = ".slot"
"""How the name of a slot's lock file ends."""

_LOOKS = 4
"""How often a process without an environment is looked at."""
_LOOK_AGAIN_S = 0.0005


def start_time_of(pid: int) -> int | None:
    """The kernel's number for when the process started: with the pid it names one process. None where there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def exists(pid: int) -> bool:
    """Whether there is a process of this pid, be it somebody else's. One that is over and not reaped is none."""
    fields = _stat(pid)
    if fields is not None:
        return not _is_over(fields)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP, Ctrl-Z). False where the system does not tell."""
    fields = _stat(pid)
    return fields is not None and fields[0] == "T"


def _is_over(fields: list[str]) -> bool:
    """Whether nobody but its parent, who is to reap it, knows the process any more. Threads may outlive the first."""
    return fields[0] in "ZX" and int(fields[17]) <= 1


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
    living = _living()
    living.pop(os.getpid(), None)
    living.pop(slot_pid, None)
    found = {pid for pid, one in living.items() if one.session == slot_pid or mark in slot_marks(pid)}
    return sorted(found | _descendants({slot_pid, *found}, living))


def carrying(marks: Collection[str]) -> list[int]:
    """Living processes that came from one of these slots, by the marks in their environment, and what they started.

    Never this process and what started it nor, if it came from there itself, what it started. Linux only; elsewhere
    nothing is found.
    """
    if sys.platform != "linux":
        return []
    living = _living()
    found = {pid for pid in living if not slot_marks(pid).isdisjoint(marks)}
    ours = _spared(found, living)
    others = {pid: one for pid, one in living.items() if pid not in ours}
    found -= ours
    return sorted(found | _descendants(found, others))


def slot_lock_path(directory: str, token: str, mark: str) -> str:
    """The lock file of a slot of the executor with this token. Every process that the slot forks holds it too."""
    return os.path.join(directory, f"{token}.{mark}{SLOT_LOCK}")


def locking(path: str) -> tuple[list[int], bool]:
    """Which processes hold an exclusive `flock` on a file, be it by inheritance, and whether there are more.

    Those are this process, what started it and, if it holds the lock itself, what it started: they are not in the list.
    Linux only; elsewhere nothing is found.
    """
    if sys.platform != "linux":
        return [], False
    path = os.path.realpath(path)
    found = {pid for pid in _pids() if _is_locking(pid, path)}
    ours = found & _spared(found, _living())
    return sorted(found - ours), bool(ours)


def _is_locking(pid: int, path: str) -> bool:
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == path:
                with open(f"/proc/{pid}/fdinfo/{fd}", "rb") as file:
                    if re.search(rb"^lock:.*FLOCK.*WRITE", file.read(), re.MULTILINE):
                        return True
    except OSError:
        return False  # gone, or not ours
    return False


def having_open(paths: Collection[str]) -> list[int]:
    """Other processes that have one of the files open, as far as they are ours to look into. Linux only."""
    wanted = {os.path.realpath(path) for path in paths}
    return [pid for pid in _pids() if pid != os.getpid() and not wanted.isdisjoint(_open_files(pid))]


def holding_bytes(path: str, first: int, last: int) -> list[int]:
    """Other processes with a POSIX lock on any of these bytes of a file. Linux only; elsewhere nothing is found."""
    try:
        number = os.stat(path).st_ino
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return []
    found = set()
    for line in lines:
        # `1: POSIX  ADVISORY  WRITE 1234 08:01:5678 120 120`; one that waits has `->` behind its number.
        if len(line) == 8 and line[1] == "POSIX" and line[5].endswith(f":{number}"):
            begin, end = int(line[6]), first if line[7] == "EOF" else int(line[7])
            if begin <= last and end >= first:
                found.add(int(line[4]))
    path = os.path.realpath(path)  # files of other devices may have the same number
    return sorted(pid for pid in found - {os.getpid()} if path in _open_files(pid))


def _open_files(pid: int) -> set[str]:
    found = set()
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
            except FileNotFoundError:
                continue  # closed meanwhile
    except OSError:
        return found  # gone, or not ours
    return found


def command_of(pid: int) -> str:
    """The command line of a process, for people; empty where it cannot be read."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return " ".join(file.read().decode("utf-8", "replace").split("\0")).strip()
    except OSError:
        return ""


class _Process(NamedTuple):
    parent: int
    session: int


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:  # it is not there
        return []


def _living() -> dict[int, _Process]:
    """All processes by pid, but for those that are over and not reaped."""
    living = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None and not _is_over(fields):
            living[pid] = _Process(int(fields[1]), int(fields[3]))
    return living


def _spared(found: Collection[int], living: Mapping[int, _Process]) -> set[int]:
    """Who must not be ended whatever was `found`: this process and what started it, and what it started if it is there.

    What it started is otherwise fair game: the first process of a container is the parent of all orphans.
    """
    own = os.getpid()
    return {own} | _ancestors(own, living) | (_descendants({own}, living) if own in found else set())


def _ancestors(pid: int, living: Mapping[int, _Process]) -> set[int]:
    found: set[int] = set()
    while pid in living and living[pid].parent not in found:
        pid = living[pid].parent
        found.add(pid)
    return found


def _descendants(of: set[int], living: Mapping[int, _Process]) -> set[int]:
    found: set[int] = set()
    grown = of
    while grown:
        grown = {pid for pid, one in living.items() if one.parent in grown} - found - of
        found |= grown
    return found


def slot_marks(pid: int) -> frozenset[str]:
    """The marks of the slots in which a process was started, from the outermost: more than one if a task runs dags."""
    return frozenset(
        mark
        for entry in _environment(pid).split(b"\0")
        if entry.startswith(b"LITEFLOW_SLOT=")
        for mark in entry[len(b"LITEFLOW_SLOT=") :].decode("ascii", "replace").split(":")
    )


def _environment(pid: int) -> bytes:
    """The environment with which a process was started; empty if it has none, is gone, or is not ours.

    That of a process which is just executing a program is not there yet for a moment: so one that has a program and no
    environment is looked at again.
    """
    try:
        for _ in range(_LOOKS):
            with open(f"/proc/{pid}/environ", "rb") as file:
                text = file.read()
            if text:
                return text
            os.readlink(f"/proc/{pid}/exe")  # a thread of the kernel has none
            time.sleep(_LOOK_AGAIN_S)
    except OSError:
        return b""
    return b""


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
    return f"its process was killed by {name}"
