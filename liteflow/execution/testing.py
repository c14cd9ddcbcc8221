"""`Dag.test()`: one run in this process and this thread, over a database in memory."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import secrets
import socket
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any

from liteflow.authoring.dag import Dag
from liteflow.authoring.ids import did_you_mean, shown
from liteflow.errors import InvalidOptionError, NotFoundError
from liteflow.execution.active import ActiveRun
from liteflow.execution.code import Code, dumps_for_worker
from liteflow.execution.inline import InlineEngine, LeapingClock, StandIns
from liteflow.execution.loop import Loop
from liteflow.execution.pools import PoolGuard
from liteflow.execution.prepared import PreparedDag
from liteflow.execution.processes import start_time_of
from liteflow.execution.recorder import task_facts
from liteflow.execution.requests import check_request, dag_facts
from liteflow.storage import pools, recording
from liteflow.storage.history import DagRun, History
from liteflow.storage.schema import memory_database

if TYPE_CHECKING:
    from liteflow.storage.engine import Database

POOL_SLOTS = 128
"""How many slots the pools of a test have, unless a task wants more: that is how many Airflow's default pool has."""


def run_in_test(
    dag: Dag,
    params: Mapping[str, Any] | None,
    *,
    logical_date: datetime | None,
    run_id: str | None,
    mock: Mapping[str, Any] | None,
    fail: Mapping[str, Sequence[BaseException | type[BaseException] | None]] | None,
) -> DagRun:
    """See `Dag.test`."""
    stand_ins = StandIns(_checked_mock(dag, mock), _checked_fail(dag, fail))
    name, moment, params_json = check_request(dag, params, run_id, logical_date)
    keeper, clock = Keeper(), LeapingClock()
    prepared = PreparedDag(dag, keeper.code_of, keeper.dumps)
    database = memory_database()
    now_us = clock.now_us()
    with database.write() as connection:
        token = secrets.token_hex(8)
        host, pid = socket.gethostname(), os.getpid()
        executor_pk = recording.record_executor(connection, token, host, start_time_of(pid), now_us)
        _make_pools(connection, prepared)
        dag_pk = recording.record_dag(connection, dag_facts(dag, prepared.digest), now_us)
        pk, pks = recording.create_run(
            connection,
            dag_pk,
            run_id=name,
            logical_date=moment,
            params_json=params_json,
            structure_digest=prepared.digest,
            executor_pk=executor_pk,
            tasks=[task_facts(prepared, number) for number in range(len(prepared.tasks))],
            now_us=now_us,
            rerun_of=None,
        )
    run = ActiveRun(
        prepared, pk=pk, pks=pks, run_id=name, logical_date=moment, params_json=params_json, created_us=now_us
    )
    engine = InlineEngine(keeper.functions, stand_ins, clock, keeper.dumps)
    engine.loop = _loop_for(engine, database, executor_pk, clock)
    engine.loop.begin(run)
    engine.loop.stop(cancel=False)
    engine.loop.run()
    broken = engine.loop.broken
    if broken is not None:
        raise broken
    with database.write() as connection:
        recording.end_executor(connection, executor_pk, clock.now_us())
    return History(database).run(pk)


def _loop_for(engine: InlineEngine, database: Database, executor_pk: int, clock: LeapingClock) -> Loop:
    guard = PoolGuard(database, lives=lambda _owner: True)
    return Loop(engine, database, executor_pk, guard, clock=clock, is_alone=True)


def _make_pools(connection: Any, prepared: PreparedDag) -> None:
    """Every pool that a task names is there, and is large enough."""
    wanted: dict[str, int] = {}
    for task in prepared.tasks:
        if task.options.pool is not None:
            wanted[task.options.pool] = max(wanted.get(task.options.pool, POOL_SLOTS), task.options.pool_slots)
    for name, slots in wanted.items():
        pools.set_pool(connection, name, slots)


# What the caller gives


def _checked_mock(dag: Dag, mock: Mapping[str, Any] | None) -> Mapping[str, Any]:
    _check_names(dag, "mock", mock, "{'extract': [1, 2, 3]}")
    return dict(mock or {})


def _checked_fail(dag: Dag, fail: Mapping[str, Any] | None) -> Mapping[str, Sequence[Any]]:
    _check_names(dag, "fail", fail, "{'load': [TimeoutError(), None]}")
    for task_id, errors in (fail or {}).items():
        if not isinstance(errors, list | tuple):
            raise InvalidOptionError(
                f"fail[{task_id!r}] is a list with an exception or None for each try, not {shown(errors)}",
                option="fail",
            )
        for error in errors:
            is_class = isinstance(error, type) and issubclass(error, BaseException)
            if error is not None and not is_class and not isinstance(error, BaseException):
                raise InvalidOptionError(
                    f"fail[{task_id!r}] holds {shown(error)}, which is neither an exception nor None", option="fail"
                )
    return {task_id: tuple(errors) for task_id, errors in (fail or {}).items()}


def _check_names(dag: Dag, what: str, given: object, example: str) -> None:
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise InvalidOptionError(f"{what} is a dict by task id, {what}={example}; not {shown(given)}", option=what)
    for task_id in given:
        if not isinstance(task_id, str) or not dag.has_task(task_id):
            near = did_you_mean(task_id, dag.task_dict) if isinstance(task_id, str) else ""
            raise NotFoundError(
                f"{what}: dag {dag.dag_id!r} has no task {shown(task_id)}{near}", identifier=str(task_id)
            )


# Functions, which stay where they are


_keepers: weakref.WeakValueDictionary[int, Keeper] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


def _kept(keeper: int, number: int) -> Any:
    return _keepers[keeper].things[number]


class Keeper:
    """Keeps functions, and whatever else can be called, for one run: what is pickled for the run only names them.

    So a callback in an option, or a function among the arguments, is the very one of the test.
    """

    def __init__(self) -> None:
        self.number = next(_numbers)
        self.functions: list[Any] = []
        """By code number."""
        self.things: list[Any] = []
        self._number_of: dict[int, int] = {}
        """By id of a thing: its number."""
        _keepers[self.number] = self

    def code_of(self, function: Callable[..., Any], _whose: str) -> tuple[int, Code]:
        """The number of a function, which is not sent anywhere."""
        for number, known in enumerate(self.functions):
            if known is function:
                return number, Code("here")
        self.functions.append(function)
        return len(self.functions) - 1, Code("here")

    def keep(self, thing: Any) -> tuple[int, int]:
        """Under which numbers a thing is found again."""
        number = self._number_of.setdefault(id(thing), len(self.things))
        if number == len(self.things):
            self.things.append(thing)
        return self.number, number

    def dumps(self, value: Any) -> bytes:
        """The value pickled. What cannot be has the same error as in a run with workers."""
        buffer = io.BytesIO()
        try:
            _Pickler(buffer, self).dump(value)
        except Exception:  # whatever the __reduce__ of a stranger's class raises
            return dumps_for_worker(value)
        return buffer.getvalue()


class _Pickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, keeper: Keeper) -> None:
        super().__init__(buffer, protocol=5)
        self._keeper = keeper

    def reducer_override(self, obj: Any) -> Any:
        if obj is _kept or not (callable(obj) or isinstance(obj, ModuleType)):
            return NotImplemented
        return _kept, self._keeper.keep(obj)
