"""Whether the executor service that owns a run is alive: told by a kernel file lock, never by a timestamp.

A stopped laptop or a long pause never looks dead, and a killed process is dead at once. The lock's descriptor is closed
in children that the host forks; as a second line of defence, a lock whose owner's process is gone counts for nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import time
import weakref
from pathlib import Path

from liteflow.execution.processes import exists, start_time_of
from liteflow.storage.history import Owner

if os.name == "posix":
    import fcntl


MOST_TRIES = 100

DEAD_LOCK_S = 60.0
"""How old the lock file of a killed service must be to be removed: a fresh one may be about to be locked."""


def lock_directory(db_path: str) -> Path:
    """Where the lock files of a database lie."""
    return Path(f"{db_path}.locks")


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
                self._directory.mkdir(exist_ok=True)
                return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except (FileNotFoundError, FileExistsError):
                if self._directory.is_file():
                    raise
                continue  # another service was the last one and has just removed the directory
        raise FileNotFoundError(errno.ENOENT, "the directory is removed again and again", str(self._directory))

    def release(self) -> None:
        """Let go, and remove the file. A second call does nothing."""
        if self._fd < 0:
            return
        self._path.unlink(missing_ok=True)
        self.close()
        try:
            self._directory.rmdir()
        except OSError:
            return  # others hold theirs

    def close(self) -> None:
        """Close the descriptor; in a forked child the parent keeps the lock."""
        _held.discard(self)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _remove_dead_locks(directory: Path) -> None:
    """Remove the files that killed services left. Without them they are just as dead."""
    for path in directory.glob("*.lock"):
        try:
            if time.time() - path.stat().st_mtime > DEAD_LOCK_S and not _is_locked(path):
                path.unlink(missing_ok=True)
        except OSError:
            continue  # somebody else was quicker, or it is not ours


_held: weakref.WeakSet[OwnLock] = weakref.WeakSet()


def _close_all_in_child() -> None:
    for lock in list(_held):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all_in_child)


def is_alive(db_path: str, owner: Owner) -> bool:
    """Whether the service still works on the database."""
    if owner.ended_at is not None:
        return False
    if not _is_locked(lock_directory(db_path) / f"{owner.token}.lock"):
        return False
    if owner.host != socket.gethostname():
        return True  # nothing but the lock can be asked
    if not exists(owner.pid):
        return False
    return owner.process_started_at is None or start_time_of(owner.pid) == owner.process_started_at


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
