"""What happens in one run, for whoever iterates over it: from memory while this process drives the run, and out of the
database when another one does, or when it is over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from liteflow.execution.active import RunEvent
from liteflow.states import RunState, TaskInstanceState

if TYPE_CHECKING:
    import asyncio

    from liteflow.execution.active import ActiveRun
    from liteflow.execution.handle import RunHandle
    from liteflow.storage.watching import Place

POLL_S = 0.1
"""How often it is looked at a run that another process drives."""

_S = TaskInstanceState


class RunEvents:
    """What happens in a run, from where it stands to its end: iterate over it, with `for` or `async for`.

    The events are `RunEvent`s of the kinds `run` and `task`, each told after it was committed. First come the state
    of the run and those that its task instances have reached, then each change; the last one is the end of the run.
    While another process drives the run it is looked at every 100 ms, and states in between may be left out. Each
    iteration begins anew. It raises what `RunHandle.wait` raises when the run cannot go on here. Leaving off changes
    nothing about the run.
    """

    def __init__(self, handle: RunHandle) -> None:
        self._handle = handle

    def __iter__(self) -> Iterator[RunEvent]:
        feed = Feed(self._handle)
        with contextlib.closing(feed):
            while True:
                yield from feed.take()
                if feed.is_over:
                    return
                feed.wait()

    async def __aiter__(self) -> AsyncIterator[RunEvent]:
        import asyncio

        feed = Feed(self._handle)
        with contextlib.closing(feed):
            while True:
                events = feed.take() if feed.is_quick else await asyncio.to_thread(feed.take)
                for event in events:
                    yield event
                if feed.is_over:
                    return
                await feed.wait_async()


class Feed:
    """The events of a run as they come, for one reader."""

    def __init__(self, handle: RunHandle) -> None:
        handle._service._refuse_in_child()
        self._handle = handle
        self.is_over = False
        """Whether the last event was taken."""
        self._source: ActiveRun | None = None
        """The run to which it listens in this process."""
        self._heard: deque[RunEvent] = deque()
        self._wake = threading.Event()
        self._call: Callable[[], None] | None = None
        """What else is woken."""
        self._run_state: RunState | None = None
        self._known: dict[tuple[str, int], tuple[TaskInstanceState, int]] = {}
        """The states that were told, and of which try."""
        self._places: list[Place] = []
        self._codes = b""

    @property
    def is_quick(self) -> bool:
        """Whether `take` looks at nothing but memory."""
        run = self._handle._run
        return run is not None and not run.over.is_set()

    @property
    def _is_up_to_date(self) -> bool:
        """Whether there is nothing to take before it is woken."""
        run = self._handle._run
        return run is not None and self._source is run and not run.over.is_set()

    def take(self) -> list[RunEvent]:
        """What is new. Raises what ended the run's service."""
        run = self._handle._run
        if run is None:
            return self._look()
        if self._source is not run:
            self._listen(run)
        self._wake.clear()
        ended = run.over.is_set()
        found = [event for event in self._drain() if self._is_new(event)]
        if ended and not self.is_over:
            if run.error is None:  # it was over before it was listened to, or is somebody else's by now
                found += self._look()
                if not self.is_over and self._handle._run is run:
                    self._handle._run = None
            elif not found:
                raise run.error
        return found

    def wait(self, timeout: float | None = None) -> None:
        """Wait until there may be something new."""
        if self._is_up_to_date:
            self._wake.wait(timeout)
        elif self._handle._run is None:
            time.sleep(POLL_S if timeout is None else min(timeout, POLL_S))

    async def wait_async(self) -> None:
        """The same in an event loop."""
        import asyncio

        if not self._is_up_to_date:
            await asyncio.sleep(POLL_S if self._handle._run is None else 0)
            return
        woken = asyncio.Event()
        self._call = threadsafe(asyncio.get_running_loop(), woken.set)
        try:
            if not self._wake.is_set():  # else it was woken since `take`
                await woken.wait()
        finally:
            self._call = None

    def close(self) -> None:
        """Listen no more."""
        if self._source is not None:
            self._source.ignore(self._hear)

    # While this process drives the run

    def _listen(self, run: ActiveRun) -> None:
        self.close()
        self._source = run
        loop = self._handle._service._loop
        assert loop is not None
        loop.listen(run, self._hear)
        run.when_over(self._rouse)

    def _hear(self, event: RunEvent) -> None:
        """In the service's thread."""
        if event.kind in ("run", "task"):
            self._heard.append(event)
            if not self._wake.is_set():
                self._rouse()

    def _rouse(self) -> None:
        self._wake.set()
        call = self._call
        if call is not None:
            call()

    def _drain(self) -> Iterator[RunEvent]:
        while self._heard:
            yield self._heard.popleft()

    def _is_new(self, event: RunEvent) -> bool:
        if isinstance(event.state, RunState):
            is_new = event.state is not self._run_state
            self._run_state = event.state
            self.is_over |= event.state.is_terminal
            return is_new
        assert event.task_id is not None
        assert isinstance(event.state, TaskInstanceState)
        place, now = (event.task_id, event.map_index), (event.state, event.try_number)
        is_new = self._known.get(place) != now
        self._known[place] = now
        return is_new

    # While another process does

    def _look(self) -> list[RunEvent]:
        """Read what has changed, and go on with the run when its owner is dead."""
        from liteflow.storage.watching import CODES, places, state_codes, watched_instances

        history, pk = self._handle._history, self._handle._pk
        run = history.run(pk)
        with history.read() as connection:
            # The run was read first: what is seen of its tasks now is as new, so that none is told after its end.
            codes = state_codes(connection, pk)
            if codes != self._codes or len(codes) != len(self._places):
                if len(codes) != len(self._places) or self._has_moved(codes):
                    self._places = places(connection, pk)
                changed = [
                    place.pk
                    for place, code in zip(self._places, codes, strict=True)
                    if self._known.get((place.task_id, place.map_index), (_S.PENDING, 0))[0] is not CODES[code]
                ]
                instances = watched_instances(connection, changed)
                self._codes = codes
            else:
                instances = []
        found = []
        if run.state is not self._run_state and not run.state.is_terminal:
            found.append(RunEvent("run", state=run.state))
        for one in instances:
            took = None if one.duration is None or not one.state.is_terminal else one.duration.total_seconds()
            facts = (one.try_number, one.end_reason, one.error, took)
            found.append(RunEvent("task", one.task_id, one.map_index, one.state, *facts))
        if run.state.is_terminal:
            found.append(RunEvent("run", state=run.state, end_reason=run.end_reason))
        else:
            self._handle.take_up_if_dead(run)
        return [event for event in found if self._is_new(event)]

    def _has_moved(self, codes: bytes) -> bool:
        """Whether task instances were removed, or others came in their place."""
        from liteflow.storage.watching import CODES

        removed = CODES.index(_S.REMOVED)
        return codes.count(removed) != self._codes.count(removed)


def threadsafe(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> Callable[[], None]:
    """What calls `call` in an event loop, from any thread; nothing happens once that is closed."""

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # it is closed: nobody waits there any more
            loop.call_soon_threadsafe(call)

    return tell
