"""When a run that was submitted may begin: `max_active_runs` of its dag, over all services that share the file.

Only runs count that go on: one that is interrupted waits for somebody to take it up, and keeps no other from beginning.
Two services that look at once do so one after the other, each in the transaction that makes a run its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from liteflow.execution.liveness import is_alive
from liteflow.storage import recording, recovery

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.authoring.dag import Dag
    from liteflow.execution.active import ActiveRun
    from liteflow.storage.engine import Database


def room_for(connection: Connection, database: Database, dag: Dag, executor_pk: int) -> float:
    """How many more runs of the dag may begin now."""
    if dag.max_active_runs is None:
        return float("inf")
    going = sum(
        run.owner is not None and (run.owner.pk == executor_pk or is_alive(database.path, run.owner))
        for run in recovery.running_runs_of(connection, dag.dag_id)
    )
    return max(0, dag.max_active_runs - going)


class Admission:
    """Runs of one service that wait to begin. It belongs to the loop, which is the only one to call it."""

    def __init__(self, database: Database, executor_pk: int) -> None:
        self._database = database
        self._executor_pk = executor_pk
        self.waiting: list[ActiveRun] = []
        """By falling priority, those of one priority as they came."""
        self.is_due = False
        """Whether something has changed since it was last looked."""

    def add(self, run: ActiveRun) -> None:
        """Have a run wait."""
        place = next((n for n, one in enumerate(self.waiting) if one.priority < run.priority), len(self.waiting))
        self.waiting.insert(place, run)
        self.is_due = True

    def pop(self, pk: int) -> ActiveRun | None:
        """Have a run wait no more; None if it does not."""
        for run in self.waiting:
            if run.pk == pk:
                self.waiting.remove(run)
                return run
        return None

    def admit(self, now_us: int) -> tuple[list[ActiveRun], list[ActiveRun]]:
        """Take out the runs that may begin now, and are recorded as ours, and those that are not there any more."""
        self.is_due = False
        queued, has_room = self._database.look(self._look)
        lost = [run for run in self.waiting if run.pk not in queued]  # cancelled, deleted
        self.waiting = [run for run in self.waiting if run.pk in queued]
        if not has_room:
            return [], lost
        begun, gone = self._database.attempt(lambda connection: self._own(connection, now_us))
        self.waiting = [run for run in self.waiting if run not in begun and run not in gone]
        return begun, lost + gone

    def _look(self, connection: Connection) -> tuple[set[int], bool]:
        """The runs that are queued and ours, and whether one of those that wait may begin."""
        queued = recording.queued_runs(connection, self._executor_pk)
        dags = {id(run.dag): run.dag for run in self.waiting if run.pk in queued}.values()
        return queued, any(room_for(connection, self._database, dag, self._executor_pk) for dag in dags)

    def _own(self, connection: Connection, now_us: int) -> tuple[list[ActiveRun], list[ActiveRun]]:
        """Record as ours what there is room for; those runs, and those that are not there any more."""
        begun: list[ActiveRun] = []
        gone: list[ActiveRun] = []
        for dag in self._dags():
            room = room_for(connection, self._database, dag, self._executor_pk)
            for run in [one for one in self.waiting if one.dag is dag]:
                if room <= 0:
                    break
                if recording.own_run(connection, run.pk, self._executor_pk, now_us):
                    begun.append(run)
                    room -= 1
                else:
                    gone.append(run)
        return begun, gone

    def _dags(self) -> list[Dag]:
        """Of the runs that wait."""
        return list({id(run.dag): run.dag for run in self.waiting}.values())
