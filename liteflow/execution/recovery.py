"""Taking runs up again: those whose owner is gone, and those that failed and are to be tried once more.

This is the one place for it, whether somebody asks for it (`dag.resume`, `dag.run` with the id of an interrupted run)
or a service finds such a run of a dag that it knows. The order of steps is what keeps tries from overlapping: first
every process of the last owner's tries is ended, then one transaction makes the run ours, ends these tries, puts
their task instances back and opens what is to be opened; and only then does the loop hear of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from liteflow.authoring.mapping import Items
from liteflow.authoring.task import BRANCH, SHORT_CIRCUIT
from liteflow.errors import LiteflowError, RunConflictError, RunOwnedError, StorageError
from liteflow.execution.active import ActiveRun, Listener
from liteflow.execution.admission import room_for
from liteflow.execution.begun import BegunTry
from liteflow.execution.clock import clock_us
from liteflow.execution.differences import Differences, differences
from liteflow.execution.hostlog import warn
from liteflow.execution.liveness import (
    LEFTOVERS_S,
    OWNER_DIED,
    end_leftovers,
    holds_lock,
    is_alive,
    is_seen_from_here,
    state_of_owner,
)
from liteflow.execution.recorder import task_facts
from liteflow.execution.turn import DueCallback
from liteflow.scheduling.core import Recorded
from liteflow.scheduling.reopening import Stood, renewed, to_reopen
from liteflow.scheduling.skips import DECISION_KEY, skipped_by
from liteflow.states import EndReason, RunState, TaskInstanceState
from liteflow.storage import callbacks, leases, recording, recovery
from liteflow.storage.moments import to_microseconds
from liteflow.storage.recovery import RecordedInstance, RecordedRun
from liteflow.storage.xcoms import ITEMS, EncodedItems

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from liteflow.execution.prepared import PreparedDag
    from liteflow.storage.engine import Database
    from liteflow.storage.history import Owner

_S = TaskInstanceState

OWNER_ROBBED = "the run was taken from its executor service while it ran"
"""The same where the owner lives, and `force` was used."""

_STATE_OF_KIND = {
    "on_success": "success",
    "on_failure": "failed",
    "on_retry": "up_for_retry",
    "on_skipped": "skipped",
    "dag_on_success": "success",
    "dag_on_failure": "failed",
}


TAKING_UP_S = 0.05
"""For how long runs are taken up in one transaction: the loop has others to drive, and other processes wait."""

PLACES = 8
"""In how many places among the runs to be taken up executor services begin."""

REFUSED_S = 5.0
"""After so long it is tried again to take up a run that could not be taken up."""


@dataclass
class TakenUp:
    """A run that is ours now, for the loop to go on with."""

    run: ActiveRun
    decided: list[tuple[int, Sequence[int]]] = field(default_factory=list)
    """Branches and short circuits that succeeded, and the tasks that each decided to skip."""
    delays_s: list[tuple[int, float]] = field(default_factory=list)
    """Retries and looks that are due: which instance, and in how many seconds."""
    given_up: list[int] = field(default_factory=list)
    """Instances that have failed now, since too many executor services died under them."""
    due: list[tuple[int, DueCallback]] = field(default_factory=list)
    """Callbacks that have not ended, each with its key."""


class Recoverer:
    """Takes up runs for one executor service."""

    def __init__(self, database: Database, executor_pk: int) -> None:
        self._database = database
        self._executor_pk = executor_pk
        self._refused: dict[int, tuple[str, float]] = {}
        """Runs of which it was told why they cannot be taken up, and when that is tried again."""
        self._ended: set[int] = set()
        """Dead executor services of whose tries nothing is left."""

    def interrupted(self, digests: dict[tuple[str, str], PreparedDag]) -> list[tuple[PreparedDag, RecordedRun]]:
        """The runs of these dags (by dag id and structure digest) that nobody drives any more.

        First those of dags that limit how many go on at a time, the oldest first; then the others, for each executor
        service from another place on, so that several of them do not all try for the same run. Those without an owner
        were opened by a command (`liteflow clear`), or begin with the values of another run.
        """
        if not digests:
            return []
        wanted_digests = {digest for _, digest in digests}
        found = self._database.look(
            lambda connection: recovery.unfinished_runs_of_others(connection, self._executor_pk, wanted_digests)
        )
        owners = {run.owner.pk: run.owner for run in found if run.owner is not None}
        living = {pk for pk, owner in owners.items() if is_alive(self._database.path, owner)}
        wanted = [
            (digests[run.dag_id, run.structure_digest], run)
            for run in found
            if (run.dag_id, run.structure_digest) in digests
            and (run.pk not in self._refused or time.monotonic() >= self._refused[run.pk][1])
            and (run.owner is None or run.owner.pk not in living)
        ]
        limited = [one for one in wanted if one[0].dag.max_active_runs is not None]
        others = [one for one in wanted if one[0].dag.max_active_runs is None]
        first = len(others) * (self._executor_pk % PLACES) // PLACES
        return [*limited, *others[first:], *others[:first]]

    def take_up_unasked(self, wanted: Sequence[tuple[PreparedDag, RecordedRun]]) -> tuple[list[TakenUp], bool]:
        """Take up these runs, each as `take_up` does, within `max_active_runs`; and tell whether it tried all of them.

        One transaction for what it gets done in TAKING_UP_S: each for itself would wait for the lock, and for the disk.
        What cannot be taken up is told once in the log, and tried again later: a command may help.
        """
        free = [one for one in wanted if self._is_free(one[1])]
        if not free:
            return [], True
        # Without limits between runs each is for itself, and several services take up runs side by side.
        is_for_itself = all(prepared.dag.max_active_runs is None for prepared, _ in free)
        try:
            taken, count = self._database.attempt(
                lambda connection: self._take_several(connection, free), durable=True, shared=is_for_itself
            )
        except StorageError as error:  # none of it is recorded
            for _, run in free:
                self._refuse(run, error)
            return [], True
        return taken, count == len(free)

    def _take_several(
        self, connection: Connection, free: Sequence[tuple[PreparedDag, RecordedRun]]
    ) -> tuple[list[TakenUp], int]:
        """What it takes of these runs within TAKING_UP_S, and how many of them it tried."""
        taken: list[TakenUp] = []
        until = time.monotonic() + TAKING_UP_S
        for count, (prepared, run) in enumerate(free, start=1):
            try:
                with connection.begin_nested():
                    if recovery.stands_as(connection, run):
                        one = self._take(connection, prepared, run, within_limit=True)
                        taken += [] if one is None else [one]
            except LiteflowError as error:
                self._refuse(run, error)
            if time.monotonic() >= until:
                return taken, count
        return taken, len(free)

    def _is_free(self, run: RecordedRun) -> bool:
        """End what is left of the tries of the run's dead owner; whether that is done."""
        if run.owner is None or run.owner.pk in self._ended:
            return True
        try:
            if not self._is_to_be_robbed(run, run.owner, force=False):
                if not self._is_gone(run.owner):
                    return False
                self._end_tries_of(run, run.owner)
        except LiteflowError as error:
            self._refuse(run, error)
            return False
        self._ended.add(run.owner.pk)
        return True

    def _refuse(self, run: RecordedRun, error: LiteflowError) -> None:
        before, _ = self._refused.get(run.pk, ("", 0.0))
        self._refused[run.pk] = (str(error), time.monotonic() + REFUSED_S)
        if str(error) != before:
            warn("run %s of dag %s, which nobody drives, is left as it is: %s", run.run_id, run.dag_id, error)

    def take_up(
        self,
        prepared: PreparedDag,
        run: RecordedRun,
        *,
        accept_changes: bool = False,
        force: bool = False,
        within_limit: bool = False,
        listener: Listener | None = None,
    ) -> TakenUp | None:
        """Make the run ours. None when it does not stand any more as `run` says: somebody else was first. With
        `within_limit` also when `max_active_runs` other runs of the dag go on.

        Raises RunOwnedError while its owner lives, unless `force`, and RunConflictError when the dag has changed,
        unless `accept_changes`, or cannot go on at all.
        """
        owner = None if run.state.is_terminal else run.owner
        is_robbed = owner is not None and self._is_to_be_robbed(run, owner, force)
        if owner is not None and not is_robbed:
            if not self._is_gone(owner):
                return None
            self._end_tries_of(run, owner)
        taken = self._database.attempt(
            lambda connection: self._take(
                connection,
                prepared,
                run,
                accept_changes=accept_changes,
                is_robbed=is_robbed,
                within_limit=within_limit,
                listener=listener,
            ),
            durable=True,
        )
        if owner is not None and is_robbed and taken is not None:
            self._end_tries_of(run, owner)  # not before: it would record how these ended
        return taken

    def _take(
        self,
        connection: Connection,
        prepared: PreparedDag,
        run: RecordedRun,
        *,
        accept_changes: bool = False,
        is_robbed: bool = False,
        within_limit: bool = False,
        listener: Listener | None = None,
    ) -> TakenUp | None:
        """The part of `take_up` that is one transaction; what is left of the last tries is gone by now."""
        recovery.refuse_half_deleted(connection, run)
        if within_limit and not room_for(connection, self._database, prepared.dag, self._executor_pk):
            return None
        if self._database.has_leases:
            leases.refuse_lost(connection, self._executor_pk, self._database.path)
        if not recovery.hold(connection, run):
            return None
        instances = recovery.instances_of(connection, run.pk)
        changes = self._changes(prepared, run, instances, accept_changes)
        if not recovery.take_over(connection, run, self._executor_pk, clock_us()):
            return None
        given_up: set[int] = set()
        had_begun = any(one.state is _S.RUNNING for one in instances)
        if had_begun:
            given_up = recovery.put_back(
                connection,
                clock_us(),
                run_pk=run.pk,
                reason=EndReason.LOST if is_robbed else EndReason.CRASHED,
                error=OWNER_ROBBED if is_robbed else OWNER_DIED,
                max_crashes=None if is_robbed else prepared.dag.max_crashes,
            )
        is_opened = run.state is RunState.FAILED or any(one.is_cleared for one in instances)
        if changes:
            _accept(connection, prepared, run.pk, changes)
        if run.state is RunState.FAILED:
            _reopen(connection, prepared, run)
        elif changes or is_opened:
            _renew(connection, prepared, run)
        if had_begun or changes or is_opened:
            instances = recovery.instances_of(connection, run.pk)
        return _rebuild(connection, prepared, run, instances, listener, given_up)

    def _is_to_be_robbed(self, run: RecordedRun, owner: Owner, force: bool) -> bool:
        """Whether the owner lives and the run is taken from it all the same. Raises RunOwnedError if it is not."""
        state = state_of_owner(self._database.path, owner)
        if state == "dead" or (force and owner.pk != self._executor_pk):
            return state != "dead"
        is_stopped = state == "stopped"
        raise RunOwnedError(
            f"run {run.run_id!r} of dag {run.dag_id!r} is driven by process {owner.pid} on {owner.host}, which "
            f"is {'stopped (SIGSTOP); let it go on' if is_stopped else 'alive; wait for it, or cancel the run'}, or"
            f"{'' if is_stopped else ' if it hangs'} take the run from it with --force (force=True)",
            run_id=run.run_id,
            pid=owner.pid,
        )

    def _is_gone(self, owner: Owner) -> bool:
        """Whether an owner that seems dead is. Where it had a lease it is refused from now on, should it come back."""
        if owner.lease_left_us is None:
            return True
        is_dead = is_seen_from_here(self._database.path, owner) and not holds_lock(self._database.path, owner)
        return self._database.attempt(
            lambda connection: leases.end(connection, owner, clock_us(), is_dead=is_dead), durable=True, shared=True
        )

    def _end_tries_of(self, run: RecordedRun, owner: Owner) -> None:
        def note(begun: list[BegunTry]) -> None:
            tries = [(one.pk, one.try_number, one.at_us) for one in begun]
            self._database.attempt(lambda connection: recovery.note_begun(connection, owner.pk, tries))

        left = end_leftovers(self._database.path, owner.token, patience_s=LEFTOVERS_S, note=note)
        if left:
            which = ", ".join(str(pid) for pid in left if pid) or "unknown ones"
            raise RunOwnedError(
                f"run {run.run_id!r} of dag {run.dag_id!r}: processes of its last tries are still there and cannot be "
                f"ended ({which}); end them and try again",
                run_id=run.run_id,
                pid=left[0],
            )

    def _changes(
        self, prepared: PreparedDag, run: RecordedRun, instances: Sequence[RecordedInstance], accept_changes: bool
    ) -> Differences | None:
        """How the dag differs from what the run began with. Raises RunConflictError if that is not accepted."""
        found = differences(prepared, instances, run.structure_digest)
        if not found:
            return None
        where = f"dag {run.dag_id!r} is not what run {run.run_id!r} began with"
        if found.hopeless:
            raise RunConflictError(f"{where}: {found.hopeless}; start a new run", run_id=run.run_id)
        if not accept_changes:
            raise RunConflictError(
                f"{where}: {found}. Go on with it as it is now: --accept-changes (accept_changes=True)",
                run_id=run.run_id,
            )
        return found


# Changing what is recorded


def _accept(connection: Connection, prepared: PreparedDag, run_pk: int, changes: Differences) -> None:
    recovery.remove(connection, changes.removed_pks)
    recovery.add(connection, run_pk, [task_facts(prepared, prepared.number_of[task_id]) for task_id in changes.added])
    for task_id, more in changes.longer.items():
        recording.add_instances(connection, run_pk, task_facts(prepared, prepared.number_of[task_id]), more)
    tasks = {
        task.task_id: (list(task.upstream_task_ids), task.options.trigger_rule.value)
        for task in prepared.tasks
        if task.task_id in changes.rewired
    }
    recovery.rewire(connection, run_pk, tasks, prepared.digest)


class Reopened(NamedTuple):
    """What of a run is opened again, by positions among its instances."""

    opened: set[int]
    """All of it, what is collapsed too."""
    collapsed: dict[int, list[int]]
    """By the number of a task that is mapped over a value that is made anew: its instances, which become one."""


def what_to_reopen(prepared: PreparedDag, run: RecordedRun, instances: Sequence[RecordedInstance]) -> Reopened:
    """Find out what of a failed run failed or was ended early, and what follows from that. Changes nothing.

    `instances` are those of tasks that the dag has. Raises RunConflictError when the run cannot be opened again.
    """
    opened = to_reopen(prepared.specs, stood_as(prepared, instances))
    return _with_mapped(prepared, run, instances, opened, keeps_mapped=False)


def what_to_renew(prepared: PreparedDag, run: RecordedRun, instances: Sequence[RecordedInstance]) -> Reopened:
    """Find out what follows from what a command has opened: only the code knows setups, and what is mapped over what.

    Otherwise as `what_to_reopen`.
    """
    cleared = {position for position, one in enumerate(instances) if one.is_cleared}
    if not cleared:
        return Reopened(set(), {})
    opened = renewed(prepared.specs, stood_as(prepared, instances), cleared)
    return _with_mapped(prepared, run, instances, opened, keeps_mapped=True)


def stood_as(prepared: PreparedDag, instances: Sequence[RecordedInstance]) -> list[Stood]:
    """The task instances as `scheduling/reopening.py` looks at them."""
    return [
        Stood(
            prepared.number_of[one.task_id],
            one.map_index,
            one.state,
            one.end_reason,
            one.has_run,
            one.generation > 0,
            None if one.began_at is None else _us(one.began_at),
        )
        for one in instances
    ]


def _with_mapped(
    prepared: PreparedDag,
    run: RecordedRun,
    instances: Sequence[RecordedInstance],
    opened: set[int],
    *,
    keeps_mapped: bool,
) -> Reopened:
    """What is opened, and of that what is to be expanded again.

    `keeps_mapped`: whether instances may stay as they are that are mapped over something that is made anew: whoever
    cleared that did not ask for them.
    """
    opened_tasks = {instances[position].task_id for position in opened}
    of_unit: dict[int, list[int]] = {}
    for position, one in enumerate(instances):
        unit = prepared.unit_of[prepared.number_of[one.task_id]]
        if unit is not None and one.map_index >= 0:
            of_unit.setdefault(unit, []).append(position)
    is_open = opened | {position for position, one in enumerate(instances) if not one.state.is_terminal}
    collapsed: dict[int, list[int]] = {}
    for number, expanded in of_unit.items():
        if not prepared.units[number].sources or (keeps_mapped and is_open.isdisjoint(expanded)):
            continue
        sources = [prepared.tasks[source].task_id for source in prepared.units[number].sources]
        anew = next((source for source in sources if source in opened_tasks), None)
        if not is_open.issuperset(expanded):
            if anew is not None:
                raise _is_mapped_in_part(run, instances[expanded[0]].task_id, anew)
            continue
        waiting = [instances[position] for position in expanded]
        if anew is not None or all(one.is_cleared and one.state is _S.PENDING for one in waiting):
            for position in expanded:
                collapsed.setdefault(prepared.number_of[instances[position].task_id], []).append(position)
    return Reopened(opened, collapsed)


def _reopen(connection: Connection, prepared: PreparedDag, run: RecordedRun) -> None:
    """Open what failed or was ended early, and what follows from that."""
    recovery.forget_cancel(connection, run.pk)
    instances = known_instances(prepared, recovery.instances_of(connection, run.pk))
    _open(connection, prepared, run.pk, instances, what_to_reopen(prepared, run, instances))


def _renew(connection: Connection, prepared: PreparedDag, run: RecordedRun) -> None:
    """Open what follows from what a command has opened."""
    instances = known_instances(prepared, recovery.instances_of(connection, run.pk))
    found = what_to_renew(prepared, run, instances)
    if found.opened:
        _open(connection, prepared, run.pk, instances, found)


def _open(
    connection: Connection,
    prepared: PreparedDag,
    run_pk: int,
    instances: Sequence[RecordedInstance],
    found: Reopened,
) -> None:
    """Open instances that are over; what is to be expanded again is collapsed first."""
    gone: set[int] = set()
    for positions in found.collapsed.values():
        gone.update(positions)
        recovery.collapse(connection, [instances[position].pk for position in positions])
    over = [position for position in sorted(found.opened - gone) if instances[position].state.is_terminal]
    recording.reopen(connection, [instances[position].pk for position in over])
    _expand_stragglers(connection, prepared, run_pk)


def _is_mapped_in_part(run: RecordedRun, task_id: str, source: str) -> RunConflictError:
    return RunConflictError(
        f"run {run.run_id!r} of dag {run.dag_id!r}: {task_id!r} is mapped over a value that would be made anew, that "
        f"of {source!r}, and has succeeded in part; have all of it run again: "
        f"liteflow clear {run.dag_id}/{run.run_id} {source} --downstream",
        run_id=run.run_id,
    )


def _expand_stragglers(connection: Connection, prepared: PreparedDag, run_pk: int) -> None:
    """A task that was decided before its unit was expanded, and is open now, gets as many instances as the others."""
    rows = known_instances(prepared, recovery.instances_of(connection, run_pk))
    for position, number, size in _stragglers(prepared, rows):
        recording.expand_instance(connection, run_pk, rows[position].pk, task_facts(prepared, number), size)


def _stragglers(prepared: PreparedDag, rows: Sequence[RecordedInstance]) -> list[tuple[int, int, int]]:
    """Of what waits unexpanded although its unit is expanded: its position, the task's number, how many it becomes."""
    sizes: dict[int, int] = {}
    for one in rows:
        unit = prepared.unit_of[prepared.number_of[one.task_id]]
        if unit is not None and one.map_index >= 0:
            sizes[unit] = max(sizes.get(unit, 0), one.map_index + 1)
    found = []
    for position, one in enumerate(rows):
        number = prepared.number_of[one.task_id]
        unit = prepared.unit_of[number]
        if unit in sizes and one.map_index < 0 and one.state is _S.PENDING:
            assert unit is not None
            found.append((position, number, sizes[unit]))
    return found


def known_instances(prepared: PreparedDag, instances: Sequence[RecordedInstance]) -> list[RecordedInstance]:
    """Without those of tasks that are not in the dag any more, and beyond what a task is mapped over now."""
    found = []
    for one in instances:
        number = prepared.number_of.get(one.task_id)
        if number is None:
            continue
        unit = prepared.unit_of[number]
        length = None if unit is None else prepared.unit_specs[unit].length
        if not length or one.map_index < length:
            found.append(one)
    return found


# Putting the run together again


def refuse_other_lengths(
    connection: Connection,
    prepared: PreparedDag,
    run: RecordedRun,
    instances: Sequence[RecordedInstance],
    *,
    source_id: str | None = None,
) -> None:
    """Raise RunConflictError, as taking the run up would, where what is to run is mapped over other items now.

    `instances` are those of tasks that the dag has, as they would go on. `source_id`: the run that is to be put right
    then, where this one begins with its values. Changes nothing.
    """
    if any(unit.sources for unit in prepared.units):
        active, _ = _restored(prepared, run, instances, None)
        _load_items(connection, active)
        _check_lengths(active, source_id or run.run_id)


def as_opened(prepared: PreparedDag, instances: Sequence[RecordedInstance], found: Reopened) -> list[RecordedInstance]:
    """The instances as they stand once these are opened, and nothing runs any more."""

    def again(one: RecordedInstance) -> RecordedInstance:
        return one._replace(state=_S.PENDING, end_reason=None, started_at=None, ended_at=None)

    first = {positions[0] for positions in found.collapsed.values()}
    gone = {position for positions in found.collapsed.values() for position in positions} - first
    rows = []
    for position, one in enumerate(instances):
        if position in first:
            rows.append(again(one)._replace(map_index=-1))
        elif position in found.opened and one.state.is_terminal and position not in gone:
            rows.append(again(one))
        elif position not in gone:
            rows.append(one._replace(state=_S.QUEUED) if one.state is _S.RUNNING else one)
    for position, number, size in _stragglers(prepared, rows):
        one = rows[position]
        rows[position] = one._replace(map_index=0)
        rows += [one._replace(pk=-(number * size + index), map_index=index) for index in range(1, size)]
    return rows


def _rebuild(
    connection: Connection,
    prepared: PreparedDag,
    run: RecordedRun,
    instances: Sequence[RecordedInstance],
    listener: Listener | None,
    given_up: set[int],
) -> TakenUp:
    """The run as it is recorded now, in memory."""
    instances = known_instances(prepared, instances)
    active, index_of = _restored(prepared, run, instances, listener)
    active.past_tries = recovery.removed_tries(connection, run.pk)
    taken = TakenUp(active, given_up=[index_of[pk] for pk in sorted(given_up) if pk in index_of])
    crashed = recovery.ever_crashed(connection, run.pk)
    now_us = clock_us()
    for one in sorted(instances, key=lambda one: (_us(one.ended_at), one.pk)):
        index = index_of[one.pk]
        if one.pk in crashed:
            active.alone.add(index)
        if one.state.is_terminal:
            active.last_of[one.state] = index
        if one.is_in_try:
            active.first_look_us[index] = _us(one.started_at)
            active.looks[index] = one.reschedules + 1
        if one.state in (_S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE):
            taken.delays_s.append((index, max(0.0, (_us(one.due_at) - now_us) / 1e6)))
    taken.decided = _decisions(connection, prepared, instances, index_of)
    _load_items(connection, active)
    _check_lengths(active, run.run_id)
    taken.due = _due_callbacks(connection, active, {one.pk: one for one in instances}, index_of)
    return taken


def _restored(
    prepared: PreparedDag, run: RecordedRun, instances: Sequence[RecordedInstance], listener: Listener | None
) -> tuple[ActiveRun, dict[int, int]]:
    """The run with its recorded past, and by the keys of its instances their numbers."""
    active = ActiveRun(
        prepared,
        pk=run.pk,
        pks=None,
        run_id=run.run_id,
        logical_date=run.logical_date,
        params_json=run.params_json,
        created_us=_us(run.created_at),
        priority=run.priority,
        listener=listener,
    )
    active.core.restore(
        [
            Recorded(
                prepared.number_of[one.task_id],
                one.map_index,
                one.state,
                one.try_number,
                one.uncounted_tries,
                one.is_in_try,
            )
            for one in instances
        ],
        _ending(run, instances),
    )
    index_of = {one.pk: active.index_of(one.task_id, one.map_index) for one in instances}
    active.restored(index_of)
    return active, index_of


def _ending(run: RecordedRun, instances: Sequence[RecordedInstance]) -> EndReason | None:
    """Why the run was being ended early when its owner went, if it was."""
    if run.state is not RunState.RUNNING:  # it is opened again, or nothing of it has begun
        return None
    if run.is_cancel_requested:
        return EndReason.CANCELLED
    reasons = {one.end_reason for one in instances if one.state is _S.SKIPPED}
    return next((reason for reason in (EndReason.TIMEOUT, EndReason.FAIL_FAST) if reason in reasons), None)


def _decisions(
    connection: Connection, prepared: PreparedDag, instances: Sequence[RecordedInstance], index_of: dict[int, int]
) -> list[tuple[int, Sequence[int]]]:
    """What branches and short circuits decided, from the XComs in which that is kept."""
    deciders = {
        one.pk: prepared.tasks[prepared.number_of[one.task_id]]
        for one in instances
        if one.state is _S.SUCCESS and prepared.tasks[prepared.number_of[one.task_id]].kind in (BRANCH, SHORT_CIRCUIT)
    }
    found: list[tuple[int, Sequence[int]]] = []
    for (pk, _), (_, data) in recovery.xcoms_of(connection, list(deciders), [DECISION_KEY]).items():
        task, value = deciders[pk], json.loads(data)
        if task.kind == BRANCH:
            known = [name for name in value["followed"] if name in task.dag.task_dict or name in task.dag.task_groups]
            skipped = skipped_by(task, prepared.downstream, known)
        else:
            skipped = value["skipped"]
        numbers = [prepared.number_of[name] for name in skipped if name in prepared.number_of]
        found.append((index_of[pk], numbers))
    return found


def _load_items(connection: Connection, active: ActiveRun) -> None:
    """The lists over which tasks are mapped that have not ended."""
    prepared, core = active.prepared, active.core
    wanted: dict[tuple[int, str], tuple[int, str]] = {}
    for unit in prepared.units:
        if not any(core.unended[task] for task in unit.tasks):
            continue
        for leaf in unit.leaves:
            if not isinstance(leaf, Items):
                continue
            source = prepared.number_of[leaf.task_id]
            if not core.is_expanded(source) and core.states[source] is _S.SUCCESS:
                wanted[active.pks[source], leaf.key] = (source, leaf.key)
    found = recovery.xcoms_of(connection, list({pk for pk, _ in wanted}), list({key for _, key in wanted}))
    for place, (source, key) in wanted.items():
        encoding, data = found.get(place, ("none", b""))
        if encoding != ITEMS:
            raise RunConflictError(
                f"run {active.run_id!r} of dag {active.dag.dag_id!r}: the value of {prepared.tasks[source].task_id!r} "
                "was not handed on item by item, so nothing can be mapped over it now; start a new run",
                run_id=active.run_id,
            )
        active.keep_items(source, key, EncodedItems(data))


def _check_lengths(active: ActiveRun, run_id: str) -> None:
    """Raise RunConflictError where instances that are to run are not those of the value that is there now.

    `run_id`: the run of the dag in which that is to be put right.
    """
    prepared, core = active.prepared, active.core
    for number, unit in enumerate(prepared.units):
        task = next((task for task in unit.tasks if core.is_expanded(task) and core.unended[task]), None)
        if task is None or not unit.sources:
            continue
        task_id = prepared.tasks[task].task_id
        whole = [source for source in unit.sources if not core.is_expanded(source)]
        lost = next((source for source in whole if core.states[source] is not _S.SUCCESS), None)
        if lost is not None:
            name = prepared.tasks[lost].task_id
            what = f"is mapped over the value of {name!r}, which is {core.states[lost]}"
            again = name
        else:
            length = active.length_of(number)
            if length == core.count(task):
                continue
            what = f"has {core.count(task):,} instances, and what it is mapped over has {length:,} items now"
            again = task_id
        raise RunConflictError(
            f"run {run_id!r} of dag {active.dag.dag_id!r}: {task_id!r} {what}; have all of it run again: "
            f"liteflow clear {active.dag.dag_id}/{run_id} {again} --downstream",
            run_id=run_id,
        )


def _due_callbacks(
    connection: Connection, active: ActiveRun, instances: dict[int, RecordedInstance], index_of: dict[int, int]
) -> list[tuple[int, DueCallback]]:
    """The callbacks that had not ended; those of functions that are gone are forgotten."""
    found, gone = [], []
    for one in callbacks.due_callbacks(connection, active.pk):
        index = index_of.get(one.task_instance_pk or 0)
        task = -1 if one.kind.startswith("dag_") else active.core.task_of[index] if index is not None else -2
        if index is None or one.position >= len(active.prepared.callbacks.get((task, one.kind), ())):
            gone.append(one.id)
            continue
        reason = instances[one.task_instance_pk or 0].error
        if one.kind.startswith("dag_"):
            reason = "task_failure" if one.kind == "dag_on_failure" else "success"
        state = _STATE_OF_KIND.get(one.kind, "")
        number = one.try_number or 0
        found.append((one.id, DueCallback(active, index, one.kind, one.position, number, state, reason, None)))
    callbacks.delete_callbacks(connection, gone)
    return found


def _us(moment: datetime | None) -> int:
    return 0 if moment is None else to_microseconds(moment)
