"""Following a run of another process: a look whenever something was committed, until it is over or left alone."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from liteflow.execution.liveness import is_interrupted
from liteflow.storage.history import DagRun

POLL_S = 0.15
"""How long it waits between two looks at `PRAGMA data_version`, which take 3 microseconds."""

OWNER_LOOK_S = 1.0
"""How often it asks whether the run's owner lives, and whether the file is still the same: neither commits anything."""

Pause = Callable[[float], None]


class Look(NamedTuple):
    """The run as it stands now. What is read behind this is at least as new."""

    run: DagRun
    is_interrupted: bool
    """Nobody drives it any more."""
    has_changed: bool
    """Something was committed since the last look; so it may say at the first one."""

    @property
    def is_last(self) -> bool:
        """Whether nothing more will come."""
        return self.run.state.is_terminal or self.is_interrupted


def follow(run: DagRun, *, pause: Pause | None = None, most_s: float | None = None) -> Iterator[Look]:
    """A look at once, another whenever the database has changed, and a last one when nothing more will come.

    `most_s`: a look also after that many seconds without a change. A run that is queued is waited for. Raises
    StorageError when the file was removed or replaced, NotFoundError when the run was deleted. The caller closes the
    database.
    """
    pause = pause or wait_for_reader
    database = run.history.database
    database.remember_file()
    before = None
    while True:
        version = database.data_version()  # before it reads: what comes meanwhile is seen the next time
        look = _look(run, version != before)
        yield look
        if look.is_last:
            return
        run, before = look.run, version
        _wait(run, version, pause, most_s)


def _look(run: DagRun, has_changed: bool) -> Look:
    if has_changed:
        run = run.refresh()
    while is_interrupted(run):
        # Its owner may have ended it, or somebody else taken it up, between the reading and the asking.
        again = run.refresh()
        if (again.state, again.owner) == (run.state, run.owner):
            return Look(again, True, has_changed)
        run = again
    return Look(run, False, has_changed)


def _wait(run: DagRun, version: int, pause: Pause, most_s: float | None) -> None:
    """Until something was committed since that version, or the owner died, or `most_s` are over; for a moment where the
    database does not tell of commits."""
    database = run.history.database
    if not database.tells_of_commits:
        pause(POLL_S)
        return
    started = looked = time.monotonic()
    while database.data_version() == version:
        pause(POLL_S)
        now = time.monotonic()
        if now - looked >= OWNER_LOOK_S:
            looked = now
            database.refuse_other_file()
            if is_interrupted(run):
                return
        if most_s is not None and now - started >= most_s:
            return


def wait_for_reader(seconds: float) -> None:
    """Wait for so long. Raises BrokenPipeError when stdout is a pipe that nobody reads any more."""
    try:
        fd = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # captured, or closed
        fd = -1
    if fd < 0 or not hasattr(select, "poll"):
        time.sleep(seconds)
        return
    poll = select.poll()
    poll.register(fd, 0)  # errors only
    deadline = time.monotonic() + seconds
    for _, events in poll.poll(seconds * 1000):
        if events & select.POLLERR and not os.isatty(fd):
            raise BrokenPipeError("nobody reads the output any more")
    rest = deadline - time.monotonic()
    if rest > 0:  # a terminal that was hung up answers at once
        time.sleep(rest)
