"""A run that was submitted, in the hands of whoever submitted it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from liteflow.errors import MissingMainGuard, TaskFailedError
from liteflow.execution.events import POLL_S, Feed, RunEvents, threadsafe
from liteflow.states import RunState, TaskInstanceState

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag
    from liteflow.execution.active import ActiveRun
    from liteflow.execution.prepared import PreparedDag
    from liteflow.execution.service import ExecutorService
    from liteflow.storage.history import DagRun, TaskInstanceInfo


class StillGoing(TimeoutError):
    """The time is over for which a run was waited for. A TimeoutError that comes meanwhile may be somebody else's: an
    alarm of the host's."""


class RunHandle:
    """A run that was submitted. Threads may share it; `await` it in a coroutine to wait for the run's end."""

    def __init__(self, service: ExecutorService, pk: int, run: ActiveRun | None, prepared: PreparedDag | None) -> None:
        self._service = service
        self._pk = pk
        self._run = run
        self._prepared = prepared
        """Its dag; None when the service does not know it, and never goes on with the run."""
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
    def dag(self) -> Dag | None:
        """The dag of the run, if the service knows it."""
        return None if self._prepared is None else self._prepared.dag

    @property
    def is_driven_here(self) -> bool:
        """Whether it is this service that drives the run: not when the run was there already."""
        return self._run is not None

    @property
    def cannot_go_on(self) -> bool:
        """Whether the service that drove it has given it up: `wait` raises why."""
        return self._run is not None and self._run.error is not None

    def over(self) -> bool:
        """Whether the run is over, or this process cannot go on with it."""
        self._service._refuse_in_child()
        return self.state.is_terminal if self._run is None else self._run.over.is_set()

    def cancel(self) -> None:
        """Ask for the run's end; returns at once. A run that is over stays as it is."""
        self._history.cancel(self._pk)
        self._cancel_here()

    def _cancel_here(self) -> bool:
        """Have the loop end the run, without waiting for anything; False when it does not drive it."""
        loop = self._service._loop
        if self._run is None or loop is None:
            return False
        loop.cancel(self._run)
        return True

    # Waiting

    def wait(self, timeout: float | None = None) -> DagRun:
        """Wait until the run is over, and return it. Raises TimeoutError after `timeout` seconds, what broke the
        service if that is why the run cannot go on, and RunInterruptedError when the service was stopped. When
        another process drives the run and dies, it goes on here."""
        self._service._refuse_in_child()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            active = self._run
            if active is not None:
                if active.error is not None and threading.current_thread() is threading.main_thread():
                    self._raise_error_of(active)  # at the interpreter's end nobody is woken
                if not active.over.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    raise StillGoing(f"run {active.run_id!r} is not over after {timeout:g} s")
                self._raise_error_of(active)
            run = self._history.run(self._pk)
            if run.state.is_terminal:
                return run
            if active is not None and self._run is active:
                self._run = None  # somebody else has it
            if self.take_up_if_dead(run):
                continue
            if deadline is not None and time.monotonic() >= deadline:
                raise StillGoing(f"run {run.run_id!r} is not over after {timeout:g} s")
            time.sleep(POLL_S)

    def __await__(self) -> Generator[Any, None, DagRun]:
        """Wait as `wait` does, beside whatever else the event loop does. Cancelling the task that waits cancels the
        run; `asyncio.shield` keeps it from that."""
        return self._wait_async().__await__()

    async def _wait_async(self) -> DagRun:
        import asyncio

        self._service._refuse_in_child()
        try:
            while True:
                active = self._run
                if active is not None:
                    ended = asyncio.Event()
                    active.when_over(threadsafe(asyncio.get_running_loop(), ended.set))
                    await ended.wait()
                    self._raise_error_of(active)
                run = await asyncio.to_thread(self._look)
                if run.state.is_terminal:
                    return run
                if active is not None and self._run is active:
                    self._run = None
                if self._run is None:
                    await asyncio.sleep(POLL_S)
        except asyncio.CancelledError:
            if not self._cancel_here():
                asyncio.get_running_loop().run_in_executor(None, self.cancel)
            raise

    def _look(self) -> DagRun:
        run = self._history.run(self._pk)
        if not run.state.is_terminal:
            self.take_up_if_dead(run)
        return run

    def take_up_if_dead(self, run: DagRun) -> bool:
        """Go on here with a run that another process drove and does no more; whether that is so."""
        from liteflow.execution.liveness import is_alive

        if self._prepared is None or (run.owner is not None and is_alive(self._history.database.path, run.owner)):
            return False
        # Also where it has ended in good order just now, was cleared, or somebody else has it by now.
        self._run = self._service.take_up_again(self._prepared, run)
        return self._run is not None

    def _raise_error_of(self, run: ActiveRun) -> None:
        if isinstance(run.error, MissingMainGuard):
            # A script ends here with exit code 2 and, since this is a SystemExit, without a word of its own.
            print(f"liteflow: {run.error}", file=sys.stderr)
        if run.error is not None:
            raise run.error

    # What happens in it, and what comes of it

    def events(self) -> RunEvents:
        """What happens in the run, from where it stands to its end; for `for` and `async for`."""
        return RunEvents(self)

    def result(self, task_id: str, map_index: int = -1, *, timeout: float | None = None) -> Any:
        """Wait until a task has succeeded, whatever else of the run goes on, and return the value that it handed on.

        See `DagRun.xcom` for the value, that of a mapped task is a list. Raises TaskFailedError when the task, or one
        of its instances, ended otherwise, TimeoutError after `timeout` seconds, NotFoundError when the run has no such
        task, and as `wait` does when the run cannot go on here.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        feed = Feed(self)
        run, instances = self._instances_of(task_id, map_index)
        try:
            while not all(one.state.is_terminal for one in instances):
                if feed.is_over or any(event.task_id == task_id for event in feed.take()):
                    if feed.is_over:  # and if it goes on all the same, then since a command has opened it again
                        feed.close()
                        feed = Feed(self)
                    run, instances = self._instances_of(task_id, map_index)
                    continue
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"task {task_id!r} of run {self.run_id!r} is not over after {timeout:g} s")
                feed.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        finally:
            feed.close()
        for one in instances:
            if one.state is not TaskInstanceState.SUCCESS:
                name = one.task_id if one.map_index < 0 else f"{one.task_id}[{one.map_index}]"
                raise TaskFailedError(
                    f"task {name!r} of run {run.run_id!r} of dag {run.dag_id!r} is {one.state}"
                    f"{f': {one.error}' if one.error else ''}",
                    run_id=run.run_id,
                    task_id=task_id,
                    map_index=one.map_index,
                    state=str(one.state),
                )
        return run.xcom(task_id, map_index=map_index)

    def _instances_of(self, task_id: str, map_index: int) -> tuple[DagRun, list[TaskInstanceInfo]]:
        """The run, and all instances of a task or the one that is asked for; NotFoundError when there is none."""
        from liteflow.storage.history import check_instances

        run = self._history.run(self._pk)
        with self._history.read() as connection:
            check_instances(connection, run, task_id, None if map_index < 0 else map_index)
        return run, [
            one
            for one in run.task_instances()
            if one.task_id == task_id
            and (map_index < 0 or one.map_index == map_index)
            and one.state is not TaskInstanceState.REMOVED
        ]
