"""A run that was submitted, in the hands of whoever submitted it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from liteflow.errors import MissingMainGuard
from liteflow.states import RunState

if TYPE_CHECKING:
    from liteflow.execution.active import ActiveRun
    from liteflow.execution.prepared import PreparedDag
    from liteflow.execution.service import ExecutorService
    from liteflow.storage.history import DagRun

ALIEN_POLL_S = 0.1
"""How often `wait` looks at a run that another process drives."""


class RunHandle:
    """A run that was submitted."""

    def __init__(self, service: ExecutorService, pk: int, run: ActiveRun | None, prepared: PreparedDag) -> None:
        self._service = service
        self._pk = pk
        self._run = run
        self._prepared = prepared
        assert service._history is not None
        self._history = service._history

    @property
    def state(self) -> RunState:
        """The state that is recorded now."""
        return self._history.run(self._pk).state

    @property
    def run(self) -> DagRun:
        """The run as it is recorded now."""
        return self._history.run(self._pk)

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._run.run_id if self._run is not None else self.run.run_id

    @property
    def is_driven_here(self) -> bool:
        """Whether it is this service that drives the run: not when the run was there already."""
        return self._run is not None

    def over(self) -> bool:
        """Whether the run is over, or this process cannot go on with it."""
        return self.state.is_terminal if self._run is None else self._run.over.is_set()

    def cancel(self) -> None:
        """Ask for the run's end; returns at once. A run that is over stays as it is."""
        self._history.cancel(self._pk)
        if self._run is not None:
            loop = self._service._loop
            assert loop is not None
            loop.cancel(self._run)

    def wait(self, timeout: float | None = None) -> DagRun:
        """Wait until the run is over, and return it. Raises TimeoutError after `timeout` seconds, what broke the
        service if that is why the run cannot go on, and RunInterruptedError when the service was interrupted. When
        another process drives the run and dies, it goes on here."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._run is not None:
            if not self._run.over.wait(timeout):
                raise TimeoutError(f"run {self._run.run_id!r} is not over after {timeout:g} s")
            if isinstance(self._run.error, MissingMainGuard):
                # A script ends here with exit code 2 and, since this is a SystemExit, without a word of its own.
                print(f"liteflow: {self._run.error}", file=sys.stderr)
            if self._run.error is not None:
                raise self._run.error
        return self._wait_for_alien(deadline, timeout)

    def _wait_for_alien(self, deadline: float | None, timeout: float | None) -> DagRun:
        """Wait for a run that another service drives."""
        from liteflow.execution.liveness import is_alive

        while True:
            run = self._history.run(self._pk)
            if run.state.is_terminal:
                return run
            if run.owner is None or not is_alive(self._history.database.path, run.owner):
                # Also where it has ended in good order just now, was cleared, or somebody else has it by now.
                self._run = self._service.take_up_again(self._prepared, run)
                if self._run is not None:
                    return self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
                continue
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"run {run.run_id!r} is not over after {timeout:g} s")
            time.sleep(ALIEN_POLL_S)
