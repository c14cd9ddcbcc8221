"""A look at a database and its surroundings: for each thing whether it is well, and what to do when it is not.

Nothing is changed: the file is opened for reading alone, but for a moment in which its write lock is taken and let go.
Whatever is wrong becomes a finding, so that the look goes on as far as there is something to look at.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NamedTuple

from liteflow.authoring.ids import shown
from liteflow.errors import LiteflowError
from liteflow.execution.cpus import usable_cpus
from liteflow.execution.liveness import count_locks, is_alive, state_of_owner
from liteflow.execution.places import lock_directory
from liteflow.execution.processes import command_of, having_open, holding_bytes, is_stopped
from liteflow.execution.progress import db_hint, seconds_text
from liteflow.scheduling.reasons import named
from liteflow.storage import condition
from liteflow.storage.checkpoints import CHECKPOINT_BYTES, PRESSING_BYTES
from liteflow.storage.engine import (
    ALLOW_NETWORK,
    NETWORK_FILESYSTEMS,
    OLDEST_SQLITE,
    connect,
    filesystem_of,
    is_read_only,
)
from liteflow.storage.pools import list_pools
from liteflow.storage.schema import HEAD, known_revisions, read_revision

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.storage.condition import UnfinishedRun
    from liteflow.storage.history import Owner

MIB = 2**20

NEEDED_BYTES = MIB
"""With less free room than this nothing can be recorded for long."""

SCARCE_BYTES = 256 * MIB
"""With less than this it is told."""

WORTH_GIVING_BACK_BYTES = 64 * MIB
"""Free pages of this size, which are a quarter of the file, are told of."""

FIXED_SQLITE = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
"""The first versions without the WAL-reset bug: of all, and of the two that were mended later."""

MOST_COMMAND_CHARACTERS = 60
"""Of the command line of a process."""

LONG_READ_S = 0.3
"""A reader that is in its transaction now and then is no long one."""

# Where SQLite has its locks in the `-shm` file: https://sqlite.org/walformat.html
_WRITE_LOCK = 120
_READ_LOCKS = (123, 127)


class Level(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and something should be known or done."""
    PROBLEM = "problem"
    """The database cannot be used as it is."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    """A word for it; part of what `liteflow doctor --json` promises."""
    level: Level
    text: str
    """How it is, in one line."""
    cure: str | None = None
    """What to do about it."""


def check_up(db_path: str | os.PathLike[str] | None, now: datetime) -> tuple[str, list[Finding]]:
    """The path of the database, and what was found, in the order in which it was looked at.

    Raises StorageError only for a path that names no database at all.
    """
    database = connect(db_path, pooled=False)
    checkup = Checkup(database.path, now)
    if not database.is_file:
        from liteflow.execution.checkup_server import ServerCheckup

        checkup = ServerCheckup(database, now)
    checkup.look()
    return database.path, checkup.found


class Checkup:
    """The looks at a file and its surroundings."""

    def __init__(self, path: str, now: datetime) -> None:
        self._path = path
        self._now = now
        self.found: list[Finding] = []

    def look(self) -> None:
        """Look at one thing after the other, as far as there is something to look at."""
        self._look_at(self._versions, "versions")
        self._look_at(self._machine, "machine")
        self._look_at(self._file, "file")
        if os.path.isdir(self._path):
            return
        self._look_at(self._filesystem, "file system")
        self._look_at(self._room, "disk")
        if not os.path.isfile(self._path) or not self._is_usable():
            return
        self._look_at(self._damage, "integrity")
        self._look_at(self._wal, "wal")
        self._look_at(self._write_lock, "write lock")
        self._look_at(self._locks, "lock files")
        self._look_inside(self._owners, "owners")
        self._look_inside(self._runs, "runs")
        self._look_inside(self._pools, "pools")
        self._look_inside(self._free_pages, "free pages")

    def _look_inside(self, look: Callable[[Connection], None], what: str) -> None:
        def look_there() -> None:
            with condition.looking(self._path) as connection:
                look(connection)

        self._look_at(look_there, what)

    def _look_at(self, look: Callable[[], None], what: str) -> None:
        """One look; that it cannot be had is a finding too."""
        try:
            look()
        except (LiteflowError, OSError, sqlite3.Error, ValueError) as error:
            text = one_line(str(error)).removeprefix(f"{self._path}: ")
            self._add(what, Level.PROBLEM, text, f"see: liteflow db check{db_hint(self._path)}")

    def _add(self, what: str, level: Level, text: str, cure: str | None = None) -> None:
        self.found.append(Finding(what, level, text, cure))

    # Around the file

    def _versions(self) -> None:
        found = sqlite3.sqlite_version_info
        text = (
            f"liteflow {version_of('liteflow')}, {self._python()}, SQLite {sqlite3.sqlite_version}, "
            f"SQLAlchemy {version_of('SQLAlchemy')}"
        )
        if found < OLDEST_SQLITE:
            needed = ".".join(map(str, OLDEST_SQLITE))
            self._add("versions", Level.PROBLEM, text, f"use a Python that is built with SQLite {needed} or later")
        elif not _is_mended(found):
            self._add(
                "versions",
                Level.OK,
                f"{text}; the WAL-reset bug of SQLite before 3.51.3 cannot occur between processes of liteflow: let no "
                "other program write to the file",
            )
        else:
            self._add("versions", Level.OK, text)

    def _python(self) -> str:
        return f"Python {platform.python_version()}"

    def _machine(self) -> None:
        count = usable_cpus()
        text = f"{platform.system()}, {count:,} usable CPU{'' if count == 1 else 's'}: as many slots by default"
        if os.name == "posix":
            self._add("machine", Level.OK, text)
        else:
            self._add("machine", Level.PROBLEM, f"{text}; slots need POSIX", "use executor=, or a POSIX system")

    def _file(self) -> None:
        path = self._path
        directory = os.path.dirname(path) or "."
        if os.path.isdir(path):
            self._add("file", Level.PROBLEM, f"{path}: a directory", "name a file with --db (or $LITEFLOW_DB)")
        elif not os.path.exists(path):
            what = "no such database" if os.path.isdir(directory) else f"the directory {directory} does not exist"
            cure = "a run creates it" if os.path.isdir(directory) else "create the directory"
            self._add("file", Level.PROBLEM, f"{path}: {what}", f"{cure}; or name another file with --db")
        elif not os.path.isfile(path):
            self._add("file", Level.PROBLEM, f"{path}: no regular file", "name another file with --db")
        elif not os.access(path, os.R_OK):
            self._add("file", Level.PROBLEM, f"{path}: may not be read", f"chmod u+r {shlex.quote(path)}")
        elif is_read_only(path) or not os.access(directory, os.W_OK):
            what = "the file" if not os.access(path, os.W_OK) else f"the directory {directory}"
            self._add(
                "file",
                Level.WARNING,
                f"{path}: {size_text(os.path.getsize(path))}, and {what} may not be written: it can only be looked at",
                "make the file and its directory writable to run something",
            )
        else:
            self._add("file", Level.OK, f"{path}: {size_text(os.path.getsize(path))}, readable and writable")

    def _filesystem(self) -> None:
        found = filesystem_of(self._path)
        if found in NETWORK_FILESYSTEMS:
            is_allowed = os.environ.get(ALLOW_NETWORK) == "1"
            text = f"{found}, a network file system, where SQLite's locks and shared memory do not hold"
            cure = "put the database on a local disk"
            if not is_allowed:
                cure += f", or set {ALLOW_NETWORK}=1 if no other machine ever opens it"
            self._add("file system", Level.WARNING if is_allowed else Level.PROBLEM, text, cure)
        else:
            self._add("file system", Level.OK, f"{found}, local" if found else "not known on this system")

    def _room(self) -> None:
        directory = os.path.dirname(self._path) or "."
        if not os.path.isdir(directory):
            return
        free = shutil.disk_usage(directory).free
        text = f"{size_text(free)} free"
        if free < NEEDED_BYTES:
            self._add("disk", Level.PROBLEM, text, "make room")
        elif free < SCARCE_BYTES:
            self._add("disk", Level.WARNING, text, "make room soon; old runs go with: liteflow delete RUN")
        else:
            self._add("disk", Level.OK, text)

    # The file itself

    def _is_usable(self) -> bool:
        """Whether it is a database of this revision."""
        if os.path.getsize(self._path) == 0 and not os.path.exists(f"{self._path}-wal"):
            self._add("schema", Level.PROBLEM, "the file is empty", self._upgrade("a run creates its tables, or: "))
            return False
        try:
            found = read_revision(self._path, only_look=True)
        except (LiteflowError, sqlite3.Error, OSError) as error:
            self._add("schema", Level.PROBLEM, one_line(str(error).removeprefix(f"{self._path}: ")))
            return False
        return self._is_head(found, "a backup is made by: ")

    def _is_head(self, found: str | None, before_upgrade: str) -> bool:
        """Whether the revision is the one that is needed."""
        if found == HEAD:
            self._add("schema", Level.OK, f"revision {HEAD}")
            return True
        if found is None:
            self._add("schema", Level.PROBLEM, "it has no tables", self._upgrade())
        elif found in known_revisions():
            what = f"revision {found}, this liteflow needs {HEAD}"
            self._add("schema", Level.PROBLEM, what, self._upgrade(before_upgrade))
        else:
            what = f"revision {shown(found)}, which this liteflow ({HEAD}) does not know: a newer one wrote it"
            self._add("schema", Level.PROBLEM, what, "upgrade liteflow, or name another database with --db")
        return False

    def _upgrade(self, before: str = "") -> str:
        return f"{before}liteflow db upgrade{db_hint(self._path)}"

    def _damage(self) -> None:
        damage, is_all = condition.first_damage(self._path, for_s=condition.QUICK_CHECK_S)
        check = f"liteflow db check{db_hint(self._path)}"
        if damage is not None:
            text = f"damaged: {one_line(damage)}"
            self._add("integrity", Level.PROBLEM, text, f"restore it from a backup; more of it: {check}")
        elif is_all:
            self._add("integrity", Level.OK, f"SQLite finds no damage; in full: {check}")
        else:
            told = (
                f"no damage in {condition.QUICK_CHECK_S:g} s of looking, which did not reach the end; in full: {check}"
            )
            self._add("integrity", Level.OK, told)

    def _wal(self) -> None:
        wal = f"{self._path}-wal"
        size = os.path.getsize(wal) if os.path.exists(wal) else 0
        users = [pid for pid in having_open([self._path, wal, f"{self._path}-shm"]) if pid != os.getpid()]
        opened = f", open in {_processes(users)}" if users else ""
        if size < PRESSING_BYTES:
            what = f"WAL of {size_text(size)}" if size else "no WAL"
            late = size > 2 * CHECKPOINT_BYTES and not users
            self._add("wal", Level.OK, f"{what}{opened}{', which the next commit copies' if late else ''}")
            return
        readers = self._long_readers()
        if readers:
            cure = f"let {_processes(readers)} end its transaction, or end it"
            text = f"WAL of {size_text(size)}, which a reader keeps from being copied{opened}"
        else:
            cure = "the next commit of a run copies it" if not users else "it is copied when a reader or commit allows"
            text = f"WAL of {size_text(size)}{opened}"
        self._add("wal", Level.WARNING, text, cure)

    def _long_readers(self) -> list[int]:
        """Processes that are in a transaction now and a moment later."""
        shm = f"{self._path}-shm"
        first = set(holding_bytes(shm, *_READ_LOCKS))
        if not first:
            return []
        time.sleep(LONG_READ_S)
        return sorted(first.intersection(holding_bytes(shm, *_READ_LOCKS)))

    def _write_lock(self) -> None:
        if is_read_only(self._path):
            return
        holders: list[int] = []

        def look() -> None:
            holders.extend(holding_bytes(f"{self._path}-shm", _WRITE_LOCK, _WRITE_LOCK))
            if not holders:  # a file that is no WAL database has its locks elsewhere
                holders.extend(having_open([self._path]))

        why = condition.try_to_write(self._path, patience_s=condition.WRITE_PATIENCE_S, busy=look)
        if why is None:
            self._add("write lock", Level.OK, "free")
            return
        by = f" by {_processes(holders)}" if holders else ""
        cure = "end that program, or let it finish"
        if any(map(is_stopped, holders)):
            cure = "it is stopped (SIGSTOP): let it go on, or end it"
        text = f"held{by} for longer than {condition.WRITE_PATIENCE_S:g} s" if "locked" in why else one_line(why)
        self._add("write lock", Level.PROBLEM, text, cure if "locked" in why else None)

    def _locks(self) -> None:
        held, left = count_locks(self._path)
        directory = lock_directory(self._path)
        if directory.is_dir() and not os.access(directory, os.W_OK):
            self._add(
                "lock files",
                Level.WARNING,
                f"{directory} may not be written",
                f"chmod u+w {shlex.quote(str(directory))}",
            )
            return
        self._tell_of_locks(held, left)

    def _tell_of_locks(self, held: int, left: int) -> None:
        parts = [f"{held:,} held"] if held else []
        parts += [f"{left:,} left by processes that are gone, which go with a later run"] if left else []
        self._add("lock files", Level.OK, ", ".join(parts) or "none")

    # What the database says

    def _owners(self, connection: Connection) -> None:
        alive = [one for one in condition.services(connection) if is_alive(self._path, one.owner)]
        for owner, since in alive:
            text = f"{self._name(owner)} for {seconds_text(max(0.0, (self._now - since).total_seconds()))}"
            if state_of_owner(self._path, owner) == "stopped":
                cure = "let it go on (kill -CONT), or take its runs with: liteflow run FILE --resume RUN --force"
                self._add("owners", Level.WARNING, f"{text} is stopped (SIGSTOP)", cure)
            else:
                self._add("owners", Level.OK, f"{text} is at work")
        if not alive:
            self._add("owners", Level.OK, "nobody is at work on it")

    def _name(self, owner: Owner) -> str:
        where = "" if owner.host == socket.gethostname() else f" on {owner.host}"
        return f"process {owner.pid}{where}"

    def _runs(self, connection: Connection) -> None:
        runs = condition.unfinished_runs(connection)
        interrupted = [run for run in runs if run.owner is not None and not is_alive(self._path, run.owner)]
        waiting = [run for run in runs if run.owner is None]
        for run in interrupted[:3]:
            self._add(
                "runs",
                Level.WARNING,
                f"{run.dag_id}/{run.run_id} was interrupted: process {run.owner.pid if run.owner else '?'} is gone",
                self._resume(run),
            )
        if len(interrupted) > 3:
            some = f"{len(interrupted) - 3:,} more runs were interrupted"
            self._add("runs", Level.WARNING, some, f"liteflow runs --state running{db_hint(self._path)}")
        if waiting:
            names = named([f"{run.dag_id}/{run.run_id}" for run in waiting])
            self._add(
                "runs",
                Level.WARNING,
                f"{names} {'waits' if len(waiting) == 1 else 'wait'} for a service that knows the dag",
                f"start the service, or: {self._resume(waiting[0])}",
            )
        driven = len(runs) - len(interrupted) - len(waiting)
        if driven or not runs:
            whole = condition.count_of_runs(connection)
            self._add("runs", Level.OK, f"{whole:,} run{'' if whole == 1 else 's'}, {driven:,} of them going on")

    def _resume(self, run: UnfinishedRun) -> str:
        which = shlex.quote(f"{run.file}:{run.dag_id}") if run.file else "FILE"
        return f"liteflow run {which} --resume {run.run_id}{db_hint(self._path)}"

    def _pools(self, connection: Connection) -> None:
        pools = list_pools(connection, lambda owner: is_alive(self._path, owner))
        full = [pool for pool in pools if pool.slots_in_use > pool.slots]
        for pool in full:
            text = f"pool {pool.name} has {pool.slots:,} slots, and {pool.slots_in_use:,} are taken"
            cure = f"wait, or: liteflow pools set {shlex.quote(pool.name)} SLOTS{db_hint(self._path)}"
            self._add("pools", Level.WARNING, text, cure)
        if pools and not full:
            used = named([f"{pool.name} {pool.slots_in_use:,}/{pool.slots:,}" for pool in pools])
            self._add("pools", Level.OK, used)

    def _free_pages(self, connection: Connection) -> None:
        pages = condition.pages(connection)
        text = (
            f"{size_text(pages.free_bytes)} of {size_text(pages.size_bytes)} in the file are free for what is to come"
        )
        if pages.free_bytes < max(WORTH_GIVING_BACK_BYTES, pages.size_bytes // 4):
            self._add("free pages", Level.OK, text)
            return
        command = "prune" if pages.auto_vacuum else "db vacuum"
        self._add("free pages", Level.WARNING, text, f"give them back with: liteflow {command}{db_hint(self._path)}")


def worst(findings: Sequence[Finding]) -> Level:
    """The worst of them."""
    order = (Level.PROBLEM, Level.WARNING, Level.OK)
    return next((level for level in order if any(one.level is level for one in findings)), Level.OK)


def _is_mended(found: tuple[int, ...]) -> bool:
    newest, *others = FIXED_SQLITE
    return found >= newest or any(found[:2] == one[:2] and found >= one for one in others)


def version_of(package: str) -> str:
    """The version of an installed package, or a question mark."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def _processes(pids: Sequence[int]) -> str:
    """Processes with what they are: `process 4242 (python etl.py)`."""
    return named([f"process {pid}{_command_text(pid)}" for pid in pids])


def _command_text(pid: int) -> str:
    text = one_line(command_of(pid))
    if not text:
        return ""
    return f" ({text if len(text) <= MOST_COMMAND_CHARACTERS else text[: MOST_COMMAND_CHARACTERS - 3] + '...'})"


def size_text(count: int) -> str:
    """Bytes for people."""
    if count < 1024:
        return f"{count:,} bytes"
    for unit, size in (("GiB", 2**30), ("MiB", MIB), ("KiB", 1024)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    raise AssertionError(count)


def one_line(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())
