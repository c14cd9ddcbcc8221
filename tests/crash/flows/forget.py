"""Prune everything that is over, in steps as small as can be, killed at one of the calls that change the database.

Usage: forget.py SIGNAL_AT, as `filewatch.begin` has it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque

from liteflow.storage import pruning
from liteflow.storage.engine import Database
from liteflow.storage.pruning import Limits
from tests.crash import filewatch


def forget(path: str) -> None:
    """What `liteflow prune --keep-runs 0` does, without pauses."""
    database = Database(path)
    with database.read() as connection:
        waiting = deque(pruning.due_runs_of(connection, "etl", Limits(0), 0))
    while waiting:
        pruning.delete_some(database, waiting, durable=True, slice_s=0)
    while pruning.give_back_some(database, slice_s=0):
        pass
    database.close()


if __name__ == "__main__":
    filewatch.begin(os.path.abspath("flow.db"), int(sys.argv[1]), int(signal.SIGKILL))
    forget("flow.db")
