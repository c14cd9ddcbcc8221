"""A look at a database in a PostgreSQL server and its surroundings: see `checkup`."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from liteflow.errors import LiteflowError
from liteflow.execution.checkup import Checkup, Level, one_line, size_text, version_of
from liteflow.execution.liveness import count_locks
from liteflow.execution.places import lock_directory
from liteflow.execution.progress import seconds_text
from liteflow.storage import condition
from liteflow.storage.schema import revision_of

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from liteflow.storage.engine import Database

FULL = 0.9
"""Of the server's connections: with more of them in use it is told."""


class ServerCheckup(Checkup):
    """The looks at a database that is no file."""

    def __init__(self, database: Database, now: datetime) -> None:
        super().__init__(database.path, now)
        self._database = database

    def look(self) -> None:
        """What has no file is looked at with liteflow's own scopes, which change nothing when they read."""
        self._look_at(self._versions, "versions")
        self._look_at(self._machine, "machine")
        if not self._reaches() or not self._has_schema():
            return
        self._look_inside(self._server, "server")
        self._look_at(self._locks, "lock files")
        self._look_inside(self._owners, "owners")
        self._look_inside(self._runs, "runs")
        self._look_inside(self._pools, "pools")

    def _look_inside(self, look: Callable[[Connection], None], what: str) -> None:
        def look_there() -> None:
            with self._database.read() as connection:
                look(connection)

        self._look_at(look_there, what)

    def _versions(self) -> None:
        packages = ", ".join(f"{name} {version_of(name)}" for name in ("SQLAlchemy", "psycopg"))
        self._add("versions", Level.OK, f"liteflow {version_of('liteflow')}, {self._python()}, {packages}")

    def _reaches(self) -> bool:
        """Whether the server answers at all."""
        begun = time.monotonic()
        try:
            with self._database.read() as connection:
                connected = time.monotonic()
                connection.exec_driver_sql("SELECT 1")
                asked = time.monotonic()
        except LiteflowError as error:
            self._add("server", Level.PROBLEM, one_line(str(error)))
            return False
        answers = f"connects in {seconds_text(connected - begun)}, answers in {1000 * (asked - connected):.1f} ms"
        self._add("server", Level.OK, f"{self._path}: {answers}")
        return True

    def _has_schema(self) -> bool:
        try:
            found = revision_of(self._database)
        except LiteflowError as error:
            self._add("schema", Level.PROBLEM, one_line(str(error)).removeprefix(f"{self._path}: "))
            return False
        return self._is_head(found, "make a backup with pg_dump, then: ")

    def _server(self, connection: Connection) -> None:
        found = condition.server(connection)
        text = f"PostgreSQL {found.version}, {found.connections:,} of {found.most_connections:,} connections in use"
        text += f", tables and indexes of {size_text(found.bytes)}"
        if found.connections > FULL * found.most_connections:
            self._add("server", Level.WARNING, text, "end other programs, or raise its max_connections")
        else:
            self._add("server", Level.OK, text)
        if found.is_standby:
            cure = "name the primary server in the URL"
            self._add("server", Level.PROBLEM, "a standby, which can only be looked at", cure)
        if found.settings_off:
            off = ", ".join(f"{name} is off" for name in found.settings_off)
            told = f"{off}: a crash of the server may take back what was committed, and a service goes on all the same"
            self._add("server", Level.WARNING, told, "turn it on")
        if found.writer is not None:
            cure = "let it finish, or end it"
            self._add("write lock", Level.PROBLEM, f"held by {found.writer}", cure)
        else:
            self._add("write lock", Level.OK, "free")

    def _locks(self) -> None:
        directory = lock_directory(self._path)
        if directory.is_dir() and not os.access(directory, os.W_OK):
            cure = f"chmod u+w {shlex.quote(str(directory))}"
            self._add("lock files", Level.WARNING, f"{directory} may not be written", cure)
            return
        self._tell_of_locks(*count_locks(self._path))
