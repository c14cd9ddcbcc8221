"""Whether the executor service that owns a run is alive: told by a kernel file lock, never by a timestamp.

A stopped laptop or a long pause never looks dead, and a killed process is dead at once. The lock's descriptor is closed
in children that the host forks; as a second line of defence, a lock whose owner's process is gone counts for nothing.

In a database that several machines share a service has a lease too, on that database's clock (see `storage/leases.py`).
One whose lock files can be seen from here lives as long as both hold, another one as long as its lease.

Slots have lock files too, `TOKEN.MARK.slot` beside the `TOKEN.lock` of their service. Each is held by the slot's worker
and whatever a task forks in it; what a task executes carries the mark in its environment. So whoever takes over a
run knows what is left of the last tries, and ends it before there are new ones.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from liteflow.execution.begun import BegunTry, read_begun
from liteflow.execution.places import PLACE, lock_directory, place_of
from liteflow.execution.processes import SLOT_LOCK, carrying, exists, is_stopped, locking, send, start_time_of
from liteflow.states import RunState
from liteflow.storage.history import DagRun, Owner

if os.name == "posix":
    import fcntl


MOST_TRIES = 100

DEAD_LOCK_S = 60.0
"""How old the lock file of a killed service must be to be removed: a fresh one may be about to be locked."""

LEFTOVERS_S = 5.0
"""How long processes of the last owner's tries may take to be gone once they are killed."""

OWNER_DIED = "the executor service died while it ran"
"""What is recorded of a try whose owner is gone."""

_TOKEN = re.compile(r"[0-9A-Za-z]{1,64}")
"""A token comes from a database, which may be a stranger's, and becomes part of a path."""


class OwnLock:
    """The lock of a service of this process, held from its making until `release`."""

    def __init__(self, db_path: str, token: str) -> None:
        self._directory = lock_directory(db_path)
        self._path = self._directory / f"{token}.lock"
        self._fd = self._open()
        if os.name == "posix":
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held.add(self)
        _remove_dead_locks(self._directory)

    def _open(self) -> int:
        for _ in range(MOST_TRIES):
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except (FileNotFoundError, FileExistsError):
                if self._directory.is_file():
                    raise
                continue  # another service was the last one and has just removed the directory
        raise FileNotFoundError(errno.ENOENT, "the directory is removed again and again", str(self._directory))

    def touch(self) -> None:
        """Keep whatever removes old files of temporary directories from taking those of this service for such."""
        for path in [self._path, self._directory / PLACE, *self._directory.glob(f"{self._path.stem}.*{SLOT_LOCK}")]:
            try:
                os.utime(path)
            except OSError:
                continue  # a slot has ended, or there is none

    def release(self) -> None:
        """Let go, and remove the file. A second call does nothing."""
        if self._fd < 0:
            return
        self._path.unlink(missing_ok=True)
        self.close()
        _remove_if_empty(self._directory)

    def close(self) -> None:
        """Close the descriptor; in a forked child the parent keeps the lock."""
        _held.discard(self)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def count_locks(db_path: str) -> tuple[int, int]:
    """How many lock files of services and slots are held, and how many were left by what is gone."""
    try:
        paths = [path for path in lock_directory(db_path).iterdir() if path.suffix in (".lock", SLOT_LOCK)]
    except OSError:
        return 0, 0
    held = sum(map(_is_locked, paths))
    return held, len(paths) - held


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        return  # others hold theirs


def _remove_dead_locks(directory: Path) -> None:
    """Remove the files that killed services left, but for those that still lead to something that is alive."""
    old = [path for path in directory.iterdir() if path.suffix in (".lock", SLOT_LOCK) and _is_old(path)]
    dead = [path for path in old if not _is_locked(path)]
    slots = [path for path in dead if path.suffix == SLOT_LOCK and not _is_locked(_lock_beside(path))]
    if slots and carrying({_mark_of(path) for path in slots}):
        slots = []
    for path in [*slots, *(path for path in dead if path.suffix != SLOT_LOCK)]:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            continue  # it is not ours


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > DEAD_LOCK_S
    except OSError:  # somebody else was quicker
        return False


def _lock_beside(slot: Path) -> Path:
    """The lock of the service to which a slot belongs."""
    return slot.with_name(slot.name.partition(".")[0] + ".lock")


def _mark_of(slot: Path) -> str:
    return slot.name.removesuffix(SLOT_LOCK).partition(".")[2]


_held: weakref.WeakSet[OwnLock] = weakref.WeakSet()


def _close_all_in_child() -> None:
    for lock in list(_held):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all_in_child)


def is_alive(db_path: str, owner: Owner) -> bool:
    """Whether the service still works on the database."""
    if owner.ended_at is not None or not owner.has_lease:
        return False
    return not is_seen_from_here(db_path, owner) or holds_lock(db_path, owner)


def holds_lock(db_path: str, owner: Owner) -> bool:
    """Whether the service holds its lock file, which must be seen from here, and its process is there."""
    if not _is_locked(lock_directory(db_path) / f"{owner.token}.lock"):
        return False
    if owner.place is None and owner.host != socket.gethostname():
        return True  # nothing but the lock can be asked
    if not exists(owner.pid):
        return False
    return owner.process_started_at is None or start_time_of(owner.pid) == owner.process_started_at


def is_seen_from_here(db_path: str, owner: Owner) -> bool:
    """Whether the service's lock file is, or was, in the directory where they lie on this machine."""
    return owner.place is None or owner.place == place_of(db_path)


def is_interrupted(run: DagRun) -> bool:
    """Whether nobody drives the run any more although it was not over when it was read."""
    if run.state.is_terminal or (run.owner is None and run.state is RunState.QUEUED):
        return False
    return run.owner is None or not is_alive(run.history.database.path, run.owner)


def state_of_owner(db_path: str, owner: Owner) -> Literal["alive", "stopped", "dead"]:
    """How the service fares. `stopped`: it is alive, but its process is (SIGSTOP, Ctrl-Z); told on Linux only."""
    if not is_alive(db_path, owner):
        return "dead"
    is_here = owner.host == socket.gethostname() if owner.place is None else is_seen_from_here(db_path, owner)
    return "stopped" if is_here and is_stopped(owner.pid) else "alive"


def end_leftovers(
    db_path: str, token: str, *, patience_s: float = 5.0, note: Callable[[list[BegunTry]], None] | None = None
) -> list[int]:
    """End what is left of the tries of a service that is dead, or that is stopped and robbed, and remove its locks.

    Kills every process of this host that came from one of its slots, this process and its family excepted, and waits
    for up to `patience_s` until all of them are gone. Where there is no /proc it can only wait. What a successful task
    left running on purpose is not touched. Once they are gone, and before the locks are, `note` is told which try each
    slot had begun last, if any had. Returns the pids of what could not be ended, 0 for one that is not known;
    then the locks stay.
    """
    if not _TOKEN.fullmatch(token):
        return []
    directory = lock_directory(db_path)
    slots = sorted(directory.glob(f"{token}.*{SLOT_LOCK}"))
    left = _end_all_of(slots, patience_s)
    if not left:
        begun = [one for one in map(read_begun, slots) if one is not None and one.pk]
        if begun and note is not None:
            note(begun)
        for path in [*slots, directory / f"{token}.lock"]:
            path.unlink(missing_ok=True)
        _remove_if_empty(directory)
    return left


def _end_all_of(slots: Sequence[Path], patience_s: float) -> list[int]:
    """Kill what came from the slots until nothing is left; returns what is left when the time is over."""
    deadline = time.monotonic() + patience_s
    pause_s = 0.001
    clean_looks = 0
    while slots and clean_looks < 2:  # a process can hide from one look by forking meanwhile
        left = _kill_all_of(slots)
        clean_looks = 0 if left else clean_looks + 1
        if left:
            if time.monotonic() >= deadline:
                return left
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.05)
    return []


def _kill_all_of(slots: Sequence[Path]) -> list[int]:
    """Kill what there is now; returns what it was, and the worker's pid of a lock that nobody seems to hold."""
    found = set(carrying({_mark_of(path) for path in slots}))
    unknown: set[int] = set()
    for path in slots:
        if _is_locked(path):
            holders, is_ours = locking(str(path))
            found.update(holders)
            if not holders and not is_ours:
                unknown.add(_pid_in(path))
    for pid in found:
        send(pid, signal.SIGKILL)
    return sorted(found | unknown)


def _pid_in(slot: Path) -> int:
    """The pid that the slot's worker wrote there; 0 if it cannot be read."""
    found = read_begun(slot)
    return 0 if found is None else found.worker_pid


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it is there, and not ours to try
    try:
        if os.name == "posix":
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
