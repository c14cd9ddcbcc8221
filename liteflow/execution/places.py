"""Where the lock files of a database lie: beside one that is a file, else in a directory of this machine.

Services of one machine and one user share that directory, and see at once when one of them dies. `place_of` is how
others tell whether they look at the same one, and at the same processes: not by the name of a host, which several
containers may have. A directory may be shared by machines, or by containers, that do not see each other's processes.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from liteflow.errors import StorageError

PLACE = "place"
"""The file in such a directory that holds its name."""


def lock_directory(db_path: str) -> Path:
    """Where the lock files of a database lie."""
    if "://" not in db_path:
        return Path(f"{db_path}.locks")
    return _own_directory() / f"{sha256(db_path.encode()).hexdigest()[:16]}.locks"


def noted_as(db_path: str) -> str:
    """How a slot, which knows no more than its lock file, calls the database."""
    return str(lock_directory(db_path)).removesuffix(".locks")


def place_of(db_path: str) -> str | None:
    """The name of the directory with the lock files of a database that is no file; None if there is none yet."""
    try:
        found = (lock_directory(db_path) / PLACE).read_text("ascii")
    except OSError:
        return None
    return f"{found}.{_view()}" if found else None


def make_place(db_path: str) -> str:
    """The same, made if need be. Raises StorageError where it cannot be made, or is somebody else's."""
    directory = lock_directory(db_path)
    try:
        directory.parent.mkdir(mode=0o700, exist_ok=True)
        found = directory.parent.lstat()
        if os.name == "posix" and (found.st_uid != os.getuid() or found.st_mode & 0o022):
            raise StorageError(
                f"{directory.parent}: belongs to another user, or others may write there; remove it, or set TMPDIR",
                path=str(directory.parent),
            )
        directory.mkdir(exist_ok=True)
        fresh = directory / f"{PLACE}.{secrets.token_hex(4)}"
        fresh.write_text(secrets.token_hex(16), "ascii")
        try:
            os.link(fresh, directory / PLACE)
        except FileExistsError:
            pass  # another service was first
        finally:
            fresh.unlink()
    except OSError as error:
        raise StorageError(
            f"{directory}: lock files cannot be made there ({error.strerror}); make it writable, or set TMPDIR",
            path=str(directory),
        ) from error
    place = place_of(db_path)
    if place is None:
        raise StorageError(f"{directory}: holds no readable file {PLACE!r}; remove the directory", path=str(directory))
    return place


@lru_cache(maxsize=1)
def _view() -> str:
    """Names what this process sees of others: which machine since which start, and which of its namespaces."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        seen = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not on Linux
        seen = socket.gethostname()
    return sha256(seen.encode()).hexdigest()[:16]


def _own_directory() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"liteflow-{user}"
