"""Why each task instance of a run that did not succeed is where it is, and what an unfinished run waits for.

The rules are asked in `scheduling/reasons.py`, the record in `storage/reasons.py`; here they come together, with what
is going on now: who drives the run, who holds a pool, how long something runs.

The record holds map indexes and no groups. Two mapped tasks are taken for members of one mapped group, so that an edge
between them joins instances of the same map index, when they have equally many instances and the first part of their
dotted ids is the same. Where that explains nothing, the edge is taken to join all with all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from liteflow.authoring.setups import all_below
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.execution.liveness import is_alive, state_of_owner
from liteflow.execution.progress import seconds_text
from liteflow.scheduling.reasons import (
    MOST_NAMED,
    Decision,
    Reason,
    Upstream,
    Why,
    counts_of,
    named,
    reason_of_end,
    waiting_for,
)
from liteflow.scheduling.rules import evaluate
from liteflow.scheduling.skips import not_followed
from liteflow.states import EndReason, RunState, TaskInstanceState, instance_name
from liteflow.storage import reasons, recovery
from liteflow.storage.past import previous_instances, unsuccessful_downstream

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.storage.history import DagRun, Owner
    from liteflow.storage.reasons import InstanceGroup, RunFacts, TaskRecord

_S = TaskInstanceState

_NOW = (_S.RUNNING, _S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE, _S.QUEUED)
"""What a run waits for now, apart from what waits for these."""

MOST_TIMED = 50
"""So many tasks that run are compared with how long they usually take."""


@dataclass
class Explained:
    """Task instances of one task that are in one state for one reason."""

    task_id: str
    state: TaskInstanceState
    end_reason: EndReason | None
    instances: int
    """How many of them there are."""
    map_index: int
    """The lowest of them; -1 when the task is not mapped."""
    size: int
    """How many instances the task has."""
    reason: Reason
    error: str | None
    """As it is recorded."""
    causes: list[Explained] = field(default_factory=list)
    """What explains the causes of the reason, where these are not success."""


class Explanation(NamedTuple):
    """A run explained."""

    facts: RunFacts
    is_driven: bool
    """Whether somebody drives the run now."""
    counts: dict[TaskInstanceState, int]
    """How many task instances of the run are in which state."""
    explained: list[Explained]
    """What is not success, upstream before downstream; of a single task, all that was asked for."""


def explain(connection: Connection, run: DagRun, now: datetime) -> Explanation:
    """Every task instance of the run that is not success, in groups."""
    return _Explaining(connection, run, now).of_run()


def explain_task(
    connection: Connection, run: DagRun, task_id: str, map_index: int | None, now: datetime
) -> Explanation:
    """All instances of one task, or one instance. The task and instance exist."""
    return _Explaining(connection, run, now).of_task(task_id, map_index)


def root_causes(one: Explained) -> list[Explained]:
    """What is at the bottom of it: the causes that have none themselves, each once, the nearest first."""
    found: dict[int, Explained] = {}
    seen = {id(one)}
    waiting = list(one.causes)
    for cause in waiting:  # grows while it is walked
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        if cause.causes:
            waiting += cause.causes
        else:
            found[id(cause)] = cause
    return list(found.values())


class _Part(NamedTuple):
    """Some instances of a group that have the same upstream."""

    instances: int
    map_index: int
    upstream: list[Upstream]
    decisions: list[Decision]
    is_joined: bool = False
    """Whether an edge was taken to join instances of the same map index only."""


class _Explaining:
    def __init__(self, connection: Connection, run: DagRun, now: datetime) -> None:
        self._connection = connection
        self._run = run
        self._now = now
        self._path = run.history.database.path
        self._tasks = {task.task_id: task for task in reasons.task_records(connection, run.pk)}
        self._downstream: dict[str, list[str]] = {task_id: [] for task_id in self._tasks}
        for task in self._tasks.values():
            for up in task.upstream:
                self._downstream.setdefault(up, []).append(task.task_id)
        self._facts = reasons.run_facts(connection, run)
        self._is_driven = not run.state.is_terminal and run.owner is not None and is_alive(self._path, run.owner)
        self._groups: list[InstanceGroup] = []
        self._of: dict[tuple[str, TaskInstanceState], list[Explained]] = {}
        self._states: dict[str, dict[int, TaskInstanceState]] = {}
        self._decided: dict[str, dict[int, Decision]] | None = None
        """By task id and map index of what was decided upon: -1 for all instances."""
        self._usual: dict[str, float] = {}
        self._pools: dict[str, reasons.PoolState] = {}
        self._owner_state = ""

    # The two questions

    def of_run(self) -> Explanation:
        self._load(reasons.instance_groups(self._connection, self._run.pk))
        found = self._explain_all()
        return Explanation(self._facts, self._is_driven, self._counts(), found)

    def of_task(self, task_id: str, map_index: int | None) -> Explanation:
        asked = reasons.instance_groups(self._connection, self._run.pk, task_id, map_index)
        others = reasons.instance_groups(self._connection, self._run.pk)
        self._load([*(group for group in others if group.task_id != task_id), *asked])
        everything = self._explain_all()
        found = [one for one in everything if one.task_id == task_id]
        if map_index is not None:
            self._name_single_causes(found)
        return Explanation(self._facts, self._is_driven, self._counts(), found)

    def _counts(self) -> dict[TaskInstanceState, int]:
        counts: Counter[TaskInstanceState] = Counter()
        for task in self._tasks.values():
            counts.update(task.counts)
        return dict(counts)

    def _load(self, groups: list[InstanceGroup]) -> None:
        place = {task_id: number for number, task_id in enumerate(self._tasks)}
        self._groups = sorted(groups, key=lambda group: place.get(group.task_id, len(place)))
        running = dict.fromkeys(group.task_id for group in groups if group.state is _S.RUNNING)
        self._usual = reasons.usual_seconds(self._connection, self._run, list(running)[:MOST_TIMED])
        pools = {
            pool
            for group in groups
            if group.state is _S.QUEUED and (pool := self._tasks[group.task_id].pool) is not None
        }
        self._pools = reasons.pool_states(self._connection, pools, self._lives)
        if self._run.owner is not None and self._is_driven:
            self._owner_state = state_of_owner(self._path, self._run.owner)

    def _lives(self, owner: Owner) -> bool:
        return is_alive(self._path, owner)

    def _explain_all(self) -> list[Explained]:
        found = []
        for group in self._groups:
            for one in self._explain(group):
                found.append(one)
                self._of.setdefault((one.task_id, one.state), []).append(one)
        for one in found:
            one.causes = self._causes_of(one)
        return found

    def _causes_of(self, one: Explained) -> list[Explained]:
        causes: dict[int, Explained] = {}
        for cause in one.reason.causes:
            for other in self._of.get((cause.task_id, cause.state), ()):
                if other is not one:
                    causes[id(other)] = other
        return list(causes.values())

    def _name_single_causes(self, found: Sequence[Explained]) -> None:
        """Of an instance, the causes with the same map index in place of the groups to which they belong."""
        known: dict[tuple[str, int], list[Explained]] = {}
        waiting = list(found)
        for one in waiting:  # grows while it is walked
            causes = []
            for cause in one.reason.causes:
                if cause.map_index is None:
                    causes += self._of.get((cause.task_id, cause.state), [])
                    continue
                key = (cause.task_id, cause.map_index)
                if key not in known:
                    groups = reasons.instance_groups(self._connection, self._run.pk, *key)
                    known[key] = [single for group in groups for single in self._explain(group)]
                    waiting += known[key]
                causes += known[key]
            one.causes = [cause for cause in causes if cause.state is not _S.SUCCESS]

    # One group

    def _explain(self, group: InstanceGroup) -> Iterator[Explained]:
        """The group in parts that have the same reason."""
        task = self._tasks[group.task_id]
        if group.state is _S.PENDING or (
            group.state in (_S.SKIPPED, _S.UPSTREAM_FAILED)
            and group.end_reason is None
            and not group.has_run
            and group.error is None
        ):
            for part in self._parts(task, group):
                yield self._made(task, group, part.instances, part.map_index, self._reason_of_part(task, group, part))
        else:
            yield self._made(task, group, group.instances, group.map_index, self._own_reason(task, group))
        if group.others and self._is_last(group):
            reason = Reason(Why.UNKNOWN, "for various other reasons")
            yield self._made(task, group, group.others, -1, reason)

    def _is_last(self, group: InstanceGroup) -> bool:
        alike = [one for one in self._groups if (one.task_id, one.state) == (group.task_id, group.state)]
        return not alike or alike[-1] is group

    def _made(self, task: TaskRecord, group: InstanceGroup, count: int, index: int, reason: Reason) -> Explained:
        return Explained(task.task_id, group.state, group.end_reason, count, index, task.size, reason, group.error)

    def _own_reason(self, task: TaskRecord, group: InstanceGroup) -> Reason:
        """Of what has its reason in its own record."""
        if group.state is _S.RUNNING:
            return self._running(group)
        if group.state is _S.QUEUED:
            return self._queued(task, group)
        if group.state is _S.UP_FOR_RETRY:
            after = f", after {group.error}" if group.error else ""
            return Reason(Why.DUE, f"try {group.try_number + 1} {self._due_text(group)}{after}")
        if group.state is _S.UP_FOR_RESCHEDULE:
            return Reason(Why.DUE, f"looks again {self._due_text(group)}")
        if group.state is _S.SUCCESS and group.end_reason is None:
            return Reason(Why.DONE, self._took_text(group))
        return reason_of_end(
            group.state,
            group.end_reason,
            rule=task.rule,
            upstream=(),
            error=group.error,
            has_run=group.has_run,
            is_expanded=group.map_index >= 0,
            run_reason=self._run.end_reason,
            tries=group.try_number - group.uncounted_tries,
            has_others=task.size > 0,
        )

    def _reason_of_part(self, task: TaskRecord, group: InstanceGroup, part: _Part) -> Reason:
        if group.state is _S.PENDING:
            reason = self._pending(task, part.upstream)
        else:
            reason = self._decided_by(task, group, part.upstream, part.decisions)
        if reason.why in (Why.UNKNOWN, Why.NOBODY) and part.is_joined:
            shared = self._upstream(task, None)
            if group.state is not _S.PENDING:
                return self._decided_by(task, group, shared, part.decisions)
            return self._pending(task, shared)
        return reason

    def _decided_by(
        self, task: TaskRecord, group: InstanceGroup, upstream: Sequence[Upstream], decisions: Sequence[Decision]
    ) -> Reason:
        return reason_of_end(
            group.state,
            None,
            rule=task.rule,
            upstream=upstream,
            decisions=decisions,
            is_expanded=group.map_index >= 0,
        )

    # What is upstream

    def _parts(self, task: TaskRecord, group: InstanceGroup) -> list[_Part]:
        """The instances of a group by what is upstream of each, and what was decided about it."""
        decided = self._decisions_on(task.task_id) if group.state is _S.SKIPPED else {}
        joined = [up for up in task.upstream if group.map_index >= 0 and self._is_joined(task, up)]
        for_all = [decided[-1]] if -1 in decided else []
        if not joined and (group.map_index < 0 or not decided.keys() - {-1}):
            return [_Part(group.instances, group.map_index, self._upstream(task, None), for_all)]
        alike: dict[tuple[object, ...], list[int]] = {}
        indexes = {group.map_index}
        if group.instances > 1:
            indexes = reasons.indexes_of_group(self._connection, self._run.pk, group)
        for index in sorted(indexes):
            signature = tuple(self._state_at(up, index) for up in joined)
            alike.setdefault((*signature, decided.get(index)), []).append(index)
        return [
            _Part(
                len(some),
                some[0],
                # Of several the words name the task alone: it is each one's own.
                [
                    one._replace(map_index=None) if len(some) > 1 else one
                    for one in self._upstream(task, some[0], joined)
                ],
                [decided[some[0]]] if some[0] in decided else for_all,
                bool(joined),
            )
            for some in alike.values()
        ]

    def _is_joined(self, task: TaskRecord, up: str) -> bool:
        other = self._tasks.get(up)
        first, dot, _ = task.task_id.partition(".")
        return bool(
            other is not None
            and dot
            and up.startswith(first + ".")
            and task.is_mapped
            and other.is_mapped
            and task.size == other.size
        )

    def _state_at(self, task_id: str, map_index: int) -> TaskInstanceState:
        if task_id not in self._states:
            self._states[task_id] = reasons.states_by_index(self._connection, self._run.pk, task_id)
        return self._states[task_id].get(map_index, _S.REMOVED)

    def _upstream(self, task: TaskRecord, map_index: int | None, joined: Sequence[str] = ()) -> list[Upstream]:
        found = []
        for up in task.upstream:
            other = self._tasks.get(up)
            if other is None:
                continue
            if map_index is not None and up in joined:
                found.append(Upstream(up, self._state_at(up, map_index), map_index=map_index))
            else:
                found += [Upstream(up, state, count, total=other.size) for state, count in other.counts.items()]
        return found

    def _decisions_on(self, task_id: str) -> Mapping[int, Decision]:
        """What branches and short circuits decided about a task, by map index; -1 for all of its instances."""
        if self._decided is None:
            self._decided = {}
            left_out: dict[tuple[str, tuple[str, ...]], frozenset[str]] = {}
            for one in reasons.decisions(self._connection, self._run.pk):
                if one.followed is None:
                    skipped = frozenset(one.skipped)
                else:
                    key = (one.task_id, one.followed)
                    if key not in left_out:
                        ways = self._tasks_named(*key)
                        left_out[key] = frozenset(not_followed(one.task_id, self._downstream, ways))
                    skipped = left_out[key]
                decision = Decision(one.task_id, one.followed, skipped)
                for below in skipped:
                    self._decided.setdefault(below, {}).setdefault(one.map_index, decision)
        return self._decided.get(task_id, {})

    def _tasks_named(self, branch_id: str, followed: Sequence[str]) -> list[str]:
        """The tasks that a branch chose. A group stands for its first tasks, as far as ids tell which are in it."""
        found = []
        for name in followed:
            if name in self._tasks:
                found.append(name)
                continue
            inside = {task_id for task_id in self._tasks if task_id.startswith(f"{name}.")}
            if inside:
                found += [one for one in inside if inside.isdisjoint(self._tasks[one].upstream)]
            else:  # a group whose tasks do not carry its name: what is not skipped is on its way
                found += [one for one in self._downstream[branch_id] if set(self._tasks[one].counts) != {_S.SKIPPED}]
        return found

    # What is not over

    def _pending(self, task: TaskRecord, upstream: Sequence[Upstream]) -> Reason:
        waiting = waiting_for(task.rule, upstream)
        if waiting:
            return Reason(Why.UPSTREAM, f"waits for {self._waiting_text(waiting)}", waiting)
        if task.rule is TriggerRule.ALL_DONE_SETUP_SUCCESS:
            scope = self._unfinished_between(task)
            if scope:
                return Reason(Why.SCOPE, f"waits for {self._waiting_text(scope)}, which its setups serve", scope)
        if not self._is_driven:
            return self._nobody()
        if self._run.state is RunState.QUEUED:
            return Reason(Why.ACTIVE_RUNS, self._held_text)
        if evaluate(task.rule, counts_of(upstream)) is _S.QUEUED:
            past = self._waits_for_past(task)
            if past is not None:
                return past
        return Reason(Why.UNKNOWN, "is about to be decided")

    def _waiting_text(self, waiting: Sequence[Upstream]) -> str:
        return named([self._waiting_for_one(one) for one in waiting])

    def _waiting_for_one(self, one: Upstream) -> str:
        index = "" if one.map_index is None or one.map_index < 0 else f"[{one.map_index}]"
        name = f"{one.task_id}{index}" if one.total == 1 else f"{one.instances:,} of {one.task_id}"
        since = ""
        if one.state is _S.RUNNING and self._tasks[one.task_id].size == 1:
            for group in self._groups:
                if group.task_id == one.task_id and group.state is one.state and group.started_at is not None:
                    since = f" {self._since(group.started_at)}"
        return f"{name} ({one.state}{since})"

    def _unfinished_between(self, task: TaskRecord) -> tuple[Upstream, ...]:
        """What is below a teardown's upstream and not below itself: what its setups, whichever they are, are for."""
        below = set[str]()
        for up in task.upstream:
            if up in self._tasks:
                below |= all_below(up, self._downstream)
        below -= {task.task_id, *all_below(task.task_id, self._downstream)}
        return tuple(
            Upstream(one, state, count, total=self._tasks[one].size)
            for one in self._tasks
            if one in below
            for state, count in self._tasks[one].counts.items()
            if not state.is_terminal
        )

    def _waits_for_past(self, task: TaskRecord) -> Reason | None:
        before = previous_instances(self._connection, self._run.pk, task.task_id)
        if before is None or before.state.is_terminal or before.owner is None or not self._lives(before.owner):
            return None
        well = (_S.SUCCESS, _S.SKIPPED)
        bad = [(task.task_id, index, state) for index, state in before.instances if state not in well]
        bad = bad or unsuccessful_downstream(self._connection, before.pk, task.task_id)
        if not bad:
            return None
        name, index, state = bad[0]
        return Reason(
            Why.PAST,
            f"waits for {instance_name(name, index)}, which is {state}, in the run before, "
            f"{self._run.dag_id}/{before.run_id}",
        )

    @cached_property
    def _held_text(self) -> str:
        """Why a run that a service has does not begin."""
        going = [
            f"{run.dag_id}/{run.run_id}"
            for run in recovery.running_runs_of(self._connection, self._run.dag_id)
            if run.owner is not None and self._lives(run.owner)
        ]
        if not going:
            return "the run is about to begin"
        verb = "goes" if len(going) == 1 else "go"
        return f"the run has not begun: its dag's max_active_runs, and {named(going)} {verb} on"

    def _nobody(self) -> Reason:
        if self._run.state is RunState.QUEUED and self._run.owner is None:
            return Reason(Why.NOBODY, "waits for a service that knows the dag: nobody drives the run")
        return Reason(Why.NOBODY, "waits for its process: nobody drives the run")

    def _running(self, group: InstanceGroup) -> Reason:
        if not self._is_driven:
            return Reason(Why.NOBODY, "ran when its process died: nobody drives the run")
        number = f"try {group.try_number}, " if group.try_number > 1 and group.instances == 1 else ""
        if group.started_at is None:
            return Reason(Why.RUNNING, f"{number}about to begin")
        longest = "the longest " if group.instances > 1 else ""
        text = f"{number}{longest}{self._since(group.started_at)}"
        if group.task_id in self._usual:
            text += f", usual {seconds_text(self._usual[group.task_id])}"
        if self._owner_state == "stopped" and self._run.owner is not None:
            text += f"; its process {self._run.owner.pid} is stopped (SIGSTOP)"
        if self._facts.is_cancelling:
            text += "; it is told to end"
        return Reason(Why.RUNNING, text)

    def _queued(self, task: TaskRecord, group: InstanceGroup) -> Reason:
        again = f"; again, since {group.error}" if group.error and group.end_reason is not None else ""
        if not self._is_driven:
            return self._nobody()
        if task.pool is not None:
            text = self._pool_text(task.pool, task.pool_slots)
            if text:
                return Reason(Why.POOL, text + again)
        running = sum(one.counts.get(_S.RUNNING, 0) for one in self._tasks.values())
        others = self._facts.other_runs
        beside = f", and its process drives {others:,} other run{'' if others == 1 else 's'}" if others else ""
        # The limits of a dag (max_active_tasks, max_active_tis_per_dagrun) are in its code, and in no record.
        return Reason(Why.SLOT, f"waits for a slot: {running:,} of the run go on{beside}" + again)

    def _pool_text(self, pool: str, wanted: int) -> str:
        state = self._pools[pool]
        if state.slots is None:
            return f"there is no pool {pool}; make it with: liteflow pools set {pool} SLOTS"
        if state.taken + wanted <= state.slots:
            return ""
        if wanted > state.slots:
            return f"wants {wanted:,} slot{'' if wanted == 1 else 's'} of pool {pool}, which has {state.slots:,}"
        held = named([self._held_by(one) for one in state.holders])
        return f"pool {pool} {state.taken:,}/{state.slots:,}" + (f" held by {held}" if held else "")

    def _held_by(self, one: reasons.Holder) -> str:
        run = "" if one.run_pk == self._run.pk else f"{one.dag_id}/{one.run_id} "
        since = f" for {self._since(one.started_at)}" if one.started_at is not None else ""
        return f"{run}{instance_name(one.task_id, one.map_index)}{since}"

    def _due_text(self, group: InstanceGroup) -> str:
        if not self._is_driven:
            return "when somebody drives the run again"
        left = (group.due_at - self._now).total_seconds() if group.due_at is not None else 0.0
        return f"in {seconds_text(left)}" if left > 0 else "now"

    def _took_text(self, group: InstanceGroup) -> str:
        if group.instances > 1 or group.started_at is None or group.ended_at is None:
            return ""
        number = f"try {group.try_number}, " if group.try_number > 1 else ""
        return f"{number}took {seconds_text((group.ended_at - group.started_at).total_seconds())}"

    def _since(self, moment: datetime) -> str:
        return seconds_text(max(0.0, (self._now - moment).total_seconds()))


def waits_for(explained: Sequence[Explained]) -> str:
    """What an unfinished run waits for now, in a line; empty when nothing goes on."""
    found = [one for state in _NOW for one in explained if one.state is state]
    lines = [f"{shown_name(one)} ({one.state}: {one.reason.text})" for one in found[:MOST_NAMED]]
    more = len(found) - len(lines)
    return "; ".join(lines) + (f"; and {more:,} more" if more > 0 else "")


def shown_name(one: Explained) -> str:
    """The task instance, or the task with how many instances it has."""
    if one.map_index < 0 and one.size <= 1:
        return one.task_id
    if one.instances == 1 and one.map_index >= 0:
        return instance_name(one.task_id, one.map_index)
    return f"{one.task_id} [{one.size:,}]"
