"""Forks of the host: for the moment of one, its other threads are kept out of SQLite.

SQLite's library has locks of its own, for all connections of a process. A thread that holds one at the moment of a fork
is not there in the child, where nobody lets go of it: opening any database then waits for ever. Beside a service with
much to do, one fork in twenty ended so.
"""

from __future__ import annotations

import os
import threading
import time

PATIENCE_S = 0.5
"""How long a fork waits for threads that are at it. After that it takes the chance: most of the time they only wait for
somebody else's transaction, or for their own user."""


class Gate:
    """What threads go through, a `with` block each time, and what a fork shuts. A thread may go in again."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}
        """Threads that are in, by their ids, and how often."""
        self._forks = 0

    def __enter__(self) -> None:
        """From here on the thread may be in SQLite's library; waits for a fork that goes on."""
        me = threading.get_ident()
        with self._changed:
            while self._forks and me not in self._inside:
                self._changed.wait()
            self._inside[me] = self._inside.get(me, 0) + 1

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        with self._changed:
            left = self._inside.pop(me, 0) - 1
            if left > 0:
                self._inside[me] = left
            elif self._forks:
                self._changed.notify_all()

    def shut(self) -> None:
        """Before a fork: let nobody in, and wait a while for those who are."""
        me = threading.get_ident()
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            self._forks += 1
            while self._inside.keys() - {me} and self._changed.wait(deadline - time.monotonic()):
                pass

    def open(self) -> None:
        """After it."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def renew(self) -> None:
        """In the child, where there is one thread: whoever held or waited for anything is gone."""
        me = threading.get_ident()
        self._changed = threading.Condition()
        self._inside = {me: self._inside[me]} if me in self._inside else {}
        self._forks = 0


gate = Gate()
"""That of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=gate.shut, after_in_parent=gate.open, after_in_child=gate.renew)
