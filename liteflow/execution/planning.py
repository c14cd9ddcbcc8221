"""What a run of a dag would do, or what going on with one would: nothing is run for it, and nothing is written."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from liteflow.authoring.mapping import Items
from liteflow.authoring.task import PYTHON
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.errors import PoolError, RunConflictError
from liteflow.execution.code import Code, describe
from liteflow.execution.cpus import usable_cpus
from liteflow.execution.prepared import PreparedDag
from liteflow.scheduling.rules import UpstreamCounts, evaluate
from liteflow.states import RunState, TaskInstanceState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from liteflow.authoring.dag import Dag
    from liteflow.authoring.task import Task
    from liteflow.storage.history import History
    from liteflow.storage.recovery import RecordedInstance, RecordedRun

_S = TaskInstanceState


class PlannedTask(NamedTuple):
    """A task as a run would have it."""

    task_id: str
    level: int
    """From 1. What is of one level may run at the same time; each comes after something of the level before."""
    upstream: tuple[str, ...]
    kind: str
    """`python`, `branch`, `short_circuit`, `sensor`, `bash` or `empty`."""
    role: str | None
    """`setup` or `teardown`."""
    is_mapped: bool
    instances: int | None
    """How many; None when the run will tell."""
    mapped_over: tuple[str, ...]
    """The tasks whose values tell how many instances there are."""
    trigger_rule: TriggerRule
    retries: int
    retry_delay_s: float
    timeout_s: float | None
    """Of one try; of a sensor the time for which it waits in all."""
    pool: str | None
    pool_slots: int
    max_active_tis_per_dagrun: int | None
    depends_on_past: bool
    executor: str | None
    """What the task says is to run it."""
    weight: int
    """The priority, with that of what is below it: in a level the greatest goes first."""


class PlannedPool(NamedTuple):
    """A pool that the dag uses."""

    name: str
    slots: int | None
    """None when there is no such pool, or no database yet."""
    slots_in_use: int


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    tasks: list[PlannedTask]
    """By level, and in a level in the order in which they would be begun."""
    params_json: str
    logical_date: datetime
    slots: int
    """How many tasks run at once by default."""
    pools: list[PlannedPool]
    refused: str | None
    """Why a run would be refused before it begins."""

    @property
    def levels(self) -> int:
        """How many levels there are."""
        return max((task.level for task in self.tasks), default=0)


class Rest(NamedTuple):
    """Of one task, what a run that goes on would do with its instances."""

    again: int = 0
    """They run, or are decided, again."""
    goes_on: int = 0
    """They have not ended, and go on."""
    stays: int = 0
    """They have ended, and stay as they are."""


class ResumePlan(NamedTuple):
    """What going on with a run would do."""

    rests: dict[str, Rest]
    """By task id; without those of tasks that the run has not yet."""
    changes: str
    """How the dag differs from what the run began with; empty when it does not."""
    removed: tuple[str, ...]
    """Ids of tasks that are not in the dag any more, and would be removed from the run."""
    is_over: bool
    """Whether the run succeeded, so that nothing would be done."""


def make_plan(prepared: PreparedDag, params_json: str, logical_date: datetime, history: History | None) -> Plan:
    """The plan of a run with these params (typed JSON) and date. `history` is None when there is no database yet."""
    levels = _levels(prepared)
    order = sorted(range(len(prepared.tasks)), key=lambda number: (levels[number], -prepared.weights[number], number))
    pools, refused = _pools(prepared, history)
    return Plan(
        [_planned(prepared, number, levels[number]) for number in order],
        params_json,
        logical_date,
        usable_cpus(),
        pools,
        refused,
    )


def prepare(dag: Dag) -> PreparedDag:
    """The dag made ready as a service does it. Raises TransportError for a function that cannot travel to a worker."""

    def code_of(function: Callable[..., Any], whose: str) -> tuple[int, Code]:
        return 0, describe(function, whose)

    return PreparedDag(dag, code_of)


def _levels(prepared: PreparedDag) -> list[int]:
    """Of each task the first level in which it may run, from 1."""
    levels: list[int] = []
    for spec in prepared.specs:
        above = [levels[up] for up in (*spec.upstream, *spec.scope)]
        rule = spec.options.trigger_rule
        if not above or evaluate(rule, UpstreamCounts(0, 0, 0, 0, 2)) is _S.QUEUED:
            level = 1  # it waits for nothing
        elif _goes_early(rule):
            level = 1 + min(above)
        else:
            level = 1 + max(above)
        sources = () if spec.unit is None else prepared.units[spec.unit].sources
        levels.append(max([level, *(1 + levels[source] for source in sources)]))
    return levels


def _goes_early(rule: TriggerRule) -> bool:
    """Whether one upstream that ended may be enough for the rule, though another has not."""
    first = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    return any(evaluate(rule, UpstreamCounts(*ended, total=2)) is _S.QUEUED for ended in first)


def _planned(prepared: PreparedDag, number: int, level: int) -> PlannedTask:
    task, unit = prepared.tasks[number], prepared.unit_of[number]
    options = task.options
    sources = (
        ()
        if unit is None
        else tuple(dict.fromkeys(leaf.task_id for leaf in prepared.units[unit].leaves if isinstance(leaf, Items)))
    )
    return PlannedTask(
        task.task_id,
        level,
        tuple(task.upstream_task_ids),
        task.kind or PYTHON,
        "setup" if task.is_setup else "teardown" if task.is_teardown else None,
        unit is not None,
        1 if unit is None else prepared.unit_specs[unit].length,
        sources,
        options.trigger_rule,
        options.retries,
        options.retry_delay_s,
        _timeout_s(task),
        options.pool,
        options.pool_slots,
        options.max_active_tis_per_dagrun,
        options.depends_on_past,
        options.executor,
        prepared.weights[number],
    )


def _timeout_s(task: Task) -> float | None:
    return task.options.timeout_s if task.sensor is None else task.sensor.timeout_s


def _pools(prepared: PreparedDag, history: History | None) -> tuple[list[PlannedPool], str | None]:
    """The pools of the dag's tasks, and why a run would be refused for them."""
    wanted = sorted({task.options.pool for task in prepared.tasks if task.options.pool is not None})
    if not wanted:
        return [], None
    if history is None:
        first = next(task for task in prepared.tasks if task.options.pool is not None)
        return [PlannedPool(name, None, 0) for name in wanted], (
            f"{first.place}: task {first.task_id!r} is in pool {first.options.pool!r}, and there is no database yet. "
            f"Make it with: liteflow pools set {first.options.pool} SLOTS"
        )
    from liteflow.execution.liveness import is_alive
    from liteflow.execution.pools import PoolGuard
    from liteflow.storage.pools import list_pools

    path = history.database.path
    with history.read() as connection:
        known = {pool.name: pool for pool in list_pools(connection, lambda owner: is_alive(path, owner))}
    found = [
        PlannedPool(name, known[name].slots, known[name].slots_in_use) if name in known else PlannedPool(name, None, 0)
        for name in wanted
    ]
    try:
        PoolGuard(history.database).check(prepared)
    except PoolError as error:
        return found, str(error)
    return found, None


# Going on with a run


def plan_resume(history: History, prepared: PreparedDag, run_id: str) -> ResumePlan:
    """What `--resume` would do, by the same functions; where the dag has changed, with the changes accepted.

    Raises RunConflictError when the run cannot go on at all, NotFoundError when it is not there.
    """
    from liteflow.errors import NotFoundError
    from liteflow.execution.differences import differences
    from liteflow.execution.recovery import (
        as_opened,
        known_instances,
        refuse_other_lengths,
        what_to_renew,
        what_to_reopen,
    )
    from liteflow.storage import recovery

    with history.read() as connection:
        run = recovery.find_run(connection, prepared.dag.dag_id, run_id)
        if run is None:
            raise NotFoundError(f"{history.database.path}: no run {run_id!r}", identifier=run_id)
        instances = recovery.instances_of(connection, run.pk)
    if run.state is RunState.SUCCESS:
        return ResumePlan(_rests(instances, set()), "", (), True)
    changes = differences(prepared, instances, run.structure_digest)
    if changes.hopeless:
        raise RunConflictError(
            f"dag {run.dag_id!r} is not what run {run.run_id!r} began with: {changes.hopeless}; start a new run",
            run_id=run.run_id,
        )
    _refuse_driven(history, run)
    known = known_instances(prepared, instances)
    find = what_to_reopen if run.state is RunState.FAILED else what_to_renew
    found = find(prepared, run, known)
    rests = _rests(known, found.opened)
    if not changes:
        with history.read() as connection:
            refuse_other_lengths(connection, prepared, run, as_opened(prepared, known, found))
    for task_id, more in changes.longer.items():
        before = rests.get(task_id, Rest())
        rests[task_id] = before._replace(goes_on=before.goes_on + len(more))
    return ResumePlan(rests, str(changes) if changes else "", tuple(changes.removed), False)


def _refuse_driven(history: History, run: RecordedRun) -> None:
    """Raise RunOwnedError while somebody drives the run."""
    from liteflow.errors import RunOwnedError
    from liteflow.execution.liveness import is_alive

    if run.state.is_terminal or run.owner is None or not is_alive(history.database.path, run.owner):
        return
    raise RunOwnedError(
        f"run {run.run_id!r} of dag {run.dag_id!r} is driven by process {run.owner.pid} on {run.owner.host}: there is "
        "nothing to resume",
        run_id=run.run_id,
        pid=run.owner.pid,
    )


def _rests(instances: Sequence[RecordedInstance], opened: set[int]) -> dict[str, Rest]:
    counts: dict[str, Counter[str]] = {}
    for position, one in enumerate(instances):
        what = "again" if position in opened else "stays" if one.state.is_terminal else "goes_on"
        counts.setdefault(one.task_id, Counter())[what] += 1
    return {task_id: Rest(**of_task) for task_id, of_task in counts.items()}


def database_there(db_path: str | os.PathLike[str] | None) -> bool:
    """Whether there is a database in which a run would be recorded; a missing or empty one is none yet."""
    from liteflow.storage.engine import connect
    from liteflow.storage.schema import revision_of

    database = connect(db_path, pooled=False)
    if not database.is_file:
        return revision_of(database) is not None
    return os.path.exists(database.path) and os.path.getsize(database.path) > 0
