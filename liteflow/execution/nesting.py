"""Runs inside tasks: of which runs this process is a part, so that none of them is made to wait for itself.

A worker notes its database and the run of the task in its hands. The slots of a run that such a task starts find both
in their environment, and the runs around that one too.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from liteflow.authoring.context import get_current_context

SLOT = "LITEFLOW_SLOT"
"""The environment variable that is there in every process that came from a slot."""

_OUTER_RUNS = "LITEFLOW_OUTER_RUNS"


class OuterRun(NamedTuple):
    """A run that goes on at least until what this process does is over."""

    database: str
    """Its absolute path; empty where it is not known, in tasks of an `executor=`."""
    dag_id: str
    run_id: str

    @property
    def name(self) -> str:
        """As commands take it."""
        return f"{self.dag_id}/{self.run_id}"

    def is_of(self, database: str, dag_id: str) -> bool:
        """Whether it is a run of that dag in that database."""
        return self.dag_id == dag_id and self.database in ("", database)


_database = ""
_in_hand: tuple[str, str] | None = None


def note_database(path: str) -> None:
    """The runs of this worker are in that database."""
    global _database
    _database = path


def note_task(dag_id: str, run_id: str) -> None:
    """This worker has a task of that run in its hands."""
    global _in_hand
    _in_hand = (dag_id, run_id)


def outer_runs() -> list[OuterRun]:
    """The runs of which this process is a part, from the outermost; in whatever thread."""
    known = os.environ.get(_OUTER_RUNS) if SLOT in os.environ else None
    found = [OuterRun(*one) for one in json.loads(known)] if known else []
    if _in_hand is not None:
        return [*found, OuterRun(_database, *_in_hand)]
    try:
        here = get_current_context()["dag_run"]
    except RuntimeError:
        return found
    return [*found, OuterRun("", here.dag_id, here.run_id)]


def for_slots() -> dict[str, str]:
    """What slots that are started here find in their environment."""
    outer = outer_runs()
    return {_OUTER_RUNS: json.dumps(outer)} if outer else {}


def cycle(database: str, dag_id: str, run_id: str) -> str | None:
    """From run to run back to this one, if this process is a part of it; else None."""
    outer = outer_runs()
    for place, run in enumerate(outer):
        if run.is_of(database, dag_id) and run.run_id == run_id:
            return " -> ".join([*(one.name for one in outer[place:]), run.name])
    return None
