"""One task of a run once more, in this process, with the inputs that it had: for looking at it, and for a debugger.

The database is only read. The inputs are put together from the record as for a try, and the worker's own code makes the
call; what comes of it is given back and goes nowhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from liteflow.authoring.mapping import Items
from liteflow.errors import RunConflictError
from liteflow.execution.active import ActiveRun
from liteflow.execution.answering import answer
from liteflow.execution.calling import Payload, call
from liteflow.execution.code import Code, describe, load
from liteflow.execution.differences import differences
from liteflow.execution.prepared import PreparedDag
from liteflow.execution.recovery import known_instances
from liteflow.scheduling.core import Recorded
from liteflow.scheduling.skips import DECISION_KEY
from liteflow.states import TaskInstanceState, instance_name
from liteflow.storage import recording, recovery
from liteflow.storage.history import check_instances
from liteflow.storage.moments import to_microseconds
from liteflow.storage.triggers import TRIGGERED_KEY
from liteflow.storage.xcoms import ITEMS, EncodedItems

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.authoring.dag import Dag
    from liteflow.storage.history import DagRun
    from liteflow.storage.recovery import RecordedInstance

_S = TaskInstanceState

Encoded = tuple[str, bytes]
"""Encoding and data of a value."""


class Replay(NamedTuple):
    """A task that is ready to be called."""

    function: Callable[..., Any]
    prepared: PreparedDag
    payload: Payload
    state: TaskInstanceState
    """Of the task instance, as it is recorded."""
    recorded: dict[str, Encoded]
    """The XComs that it handed on, by key."""
    differences: str
    """How the dag differs from what the run began with; empty if it does not."""


class Replayed(NamedTuple):
    """What came of a call."""

    state: str
    """`success`, `failed`, `skipped` or `up_for_reschedule`."""
    error: str | None
    xcoms: dict[str, Encoded]
    """What the try would have handed on, by key."""
    exception: BaseException | None
    """What was raised, of a try that failed."""


def prepare_replay(
    dag: Dag, run: DagRun, task_id: str, map_index: int | None, *, try_number: int | None = None
) -> Replay:
    """Get a task instance of a run ready: its function out of the dag, its inputs out of the record.

    `try_number`: which try it is told to be; default the latest. Raises NotFoundError for a task or instance that the
    run has not, and RunConflictError where the dag or the record does not hold what it needs.
    """
    task = dag.get_task(task_id)
    prepared = PreparedDag(dag, _code_of)
    with run.history.read() as connection:
        recovery.refuse_half_deleted(connection, run)
        check_instances(connection, run, task_id, map_index)
        rows = recovery.instances_of(connection, run.pk)
        found = differences(prepared, rows, run.structure_digest)
        if found.hopeless:
            raise RunConflictError(
                f"dag {run.dag_id!r} is not what run {run.run_id!r} began with: {found.hopeless}", run_id=run.run_id
            )
        one = _instance(run, rows, task_id, map_index)
        active = _active(prepared, run, rows)
        _keep_items(connection, active, one)
        index = active.index_of(task_id, one.map_index)
        stored = recording.fetch_xcoms(connection, active.missing_values(index))
        payload = active.payload(index, stored)
        recorded = recording.fetch_xcoms(connection, [one.pk])
    number = try_number if try_number is not None else max(1, one.try_number)
    return Replay(
        load(describe(task.function, f"{task.place}: the function of task {task_id!r}")),
        prepared,
        payload._replace(try_number=number),
        one.state,
        {key: value for (_, key), value in recorded.items() if key not in (DECISION_KEY, TRIGGERED_KEY)},
        str(found) if found else "",
    )


def replay(run: DagRun, prepared: Replay, report: Callable[[str], None]) -> Replayed:
    """Call the task. `report` gets the text of a traceback, as the log of a try would."""
    raised: list[BaseException | None] = [None]

    def told(text: str) -> None:
        raised[0] = sys.exc_info()[1]  # the worker's code reports what it has just caught
        report(text)

    def ask(question: tuple[Any, ...]) -> tuple[Any, ...]:
        with run.history.read() as connection:
            return answer(connection, question, prepared.payload.logical_date_us)

    dag = prepared.prepared
    recipe = dag.recipes[dag.number_of[prepared.payload.task_id]]
    result = call(prepared.function, recipe, prepared.payload, told, ask)
    xcoms = {key: (encoding, data) for key, encoding, data in result.xcoms}
    return Replayed(result.state, result.error, xcoms, raised[0] if result.state == _S.FAILED else None)


def _code_of(function: Callable[..., Any], whose: str) -> tuple[int, Code]:
    return 0, describe(function, whose)


def _instance(run: DagRun, rows: list[RecordedInstance], task_id: str, map_index: int | None) -> RecordedInstance:
    of_task = [one for one in rows if one.task_id == task_id and map_index in (None, one.map_index)]
    if len(of_task) == 1:
        return of_task[0]
    if not of_task:
        what = "was removed from the dag of this run"
    else:
        what = f"has {len(of_task):,} instances; name one of them: '{instance_name(task_id, 0)}'"
    raise RunConflictError(f"run {run.run_id!r} of dag {run.dag_id!r}: {task_id!r} {what}", run_id=run.run_id)


def _active(prepared: PreparedDag, run: DagRun, rows: list[RecordedInstance]) -> ActiveRun:
    """The run in memory as it is recorded. It is never started."""
    active = ActiveRun(
        prepared,
        pk=run.pk,
        pks=None,
        run_id=run.run_id,
        logical_date=run.logical_date,
        params_json=run.params_json,
        created_us=to_microseconds(run.created_at),
    )
    instances = known_instances(prepared, rows)
    recorded = [
        Recorded(
            prepared.number_of[one.task_id],
            one.map_index,
            _S.QUEUED if one.state is _S.RUNNING else one.state,
            one.try_number,
            one.uncounted_tries,
        )
        for one in instances
    ]
    there = {one.task for one in recorded}
    for number in range(len(prepared.tasks)):
        if number not in there:  # it is new to the dag
            recorded += [Recorded(active.core.task_of[index], active.core.map_index_of[index], _S.PENDING)
                         for index in active.core.instances(number)]  # fmt: skip
    try:
        active.core.restore(recorded)
    except ValueError as error:
        raise RunConflictError(
            f"run {run.run_id!r} of dag {run.dag_id!r} was mapped in another way than the dag is now ({error})",
            run_id=run.run_id,
        ) from error
    active.restored({one.pk: active.index_of(one.task_id, one.map_index) for one in instances})
    return active


def _keep_items(connection: Connection, active: ActiveRun, one: RecordedInstance) -> None:
    """Load what the task is mapped over. Raises RunConflictError when the instance has no part in it."""
    prepared, core = active.prepared, active.core
    unit = prepared.unit_of[prepared.number_of[one.task_id]]
    if unit is None:
        return
    if one.map_index < 0:
        raise _not_there(active, one, "was not expanded: nothing of it can run")
    for leaf in prepared.units[unit].leaves:
        if not isinstance(leaf, Items):
            continue
        source = prepared.number_of[leaf.task_id]
        if core.is_expanded(source):
            continue
        place = (active.pks[source], leaf.key)
        encoding, data = recovery.xcoms_of(connection, [place[0]], [leaf.key]).get(place, ("none", b""))
        if encoding != ITEMS:
            raise _not_there(active, one, f"is mapped over the value of {leaf.task_id!r}, which is not there any more")
        active.keep_items(source, leaf.key, EncodedItems(data))
    length = active.length_of(unit)
    if one.map_index >= length:
        raise _not_there(active, one, f"is mapped over {length:,} items now")


def _not_there(active: ActiveRun, one: RecordedInstance, what: str) -> RunConflictError:
    name = instance_name(one.task_id, one.map_index)
    return RunConflictError(
        f"run {active.run_id!r} of dag {active.dag.dag_id!r}: {name!r} {what}", run_id=active.run_id
    )
