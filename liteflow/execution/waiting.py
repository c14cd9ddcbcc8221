"""How long a run that nobody drives is waited for, when it matters whether it goes on: a service may take it up soon.

A run without an owner was opened by a command, or its owner is dead. Services look for such runs every second, and
which dags a service knows is not recorded: while any lives, the run gets a few of these looks.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from liteflow.execution.liveness import is_alive
from liteflow.storage.condition import services

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.states import RunState
    from liteflow.storage.history import Owner

TAKE_UP_S = 3.0
"""After so long without an owner a run is one that waits for a command."""


class _SomeRun(Protocol):
    @property
    def pk(self) -> int: ...
    @property
    def state(self) -> RunState: ...
    @property
    def owner(self) -> Owner | None: ...


class Waiting:
    """Which runs go on, for one executor service.

    `counts_itself`: whether that service takes up runs unasked.
    """

    def __init__(self, db_path: str, executor_pk: int, *, counts_itself: bool) -> None:
        self._db_path = db_path
        self._executor_pk = executor_pk
        self._counts_itself = counts_itself
        self._until: dict[int, float] = {}
        """By run: how long it is waited for."""

    def is_driven(self, run: _SomeRun) -> bool:
        """Whether somebody alive drives the run."""
        return run.owner is not None and is_alive(self._db_path, run.owner)

    def goes_on(self, connection: Connection, run: _SomeRun) -> bool:
        """Whether the run is not over, and is driven or may be taken up in a moment."""
        if run.state.is_terminal:
            return False
        if self.is_driven(run):
            self._until.pop(run.pk, None)
            return True
        until = self._until.setdefault(run.pk, time.monotonic() + TAKE_UP_S)
        return time.monotonic() < until and self._has_takers(connection)

    def _has_takers(self, connection: Connection) -> bool:
        return self._counts_itself or any(
            is_alive(self._db_path, one.owner) for one in services(connection) if one.owner.pk != self._executor_pk
        )
