"""The dag: tasks and their edges as they are written, checked while they are built."""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn, overload

from liteflow.authoring.dagfile import airflow_files, is_in_worker, refuse_while_loading
from liteflow.authoring.ids import check_name, did_you_mean
from liteflow.authoring.options import (
    INERT_DAG_OPTIONS,
    TaskOptions,
    check_default_args,
    dag_callbacks,
    dag_count,
    dag_days,
    dag_timedelta,
    default_task_options,
    unknown_option,
)
from liteflow.authoring.params import NOTSET, Param, declare_params
from liteflow.authoring.places import Place, caller
from liteflow.authoring.task import Task
from liteflow.authoring.templates import template_settings
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.authoring.xcomarg import DagParam
from liteflow.errors import (
    DagCycleError,
    DagError,
    DatabaseMissingError,
    DuplicateTaskIdError,
    InvalidOptionError,
    MetadataOnlyError,
    NotFoundError,
    ParamError,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from datetime import datetime, timedelta

    from liteflow.authoring.groups import TaskGroup
    from liteflow.authoring.setups import SetupScope
    from liteflow.storage.history import DagRun

_stack = threading.local()
_collector: list[list[Dag]] = []

_DAG_OPTIONS = [
    "db_path",
    "description",
    "params",
    "default_args",
    "durability",
    "max_crashes",
    "max_active_tasks",
    "max_active_runs",
    "fail_fast",
    "dagrun_timeout",
    "on_success_callback",
    "on_failure_callback",
    "render_template_as_native_obj",
    "template_searchpath",
    "template_undefined",
    "user_defined_macros",
    "user_defined_filters",
    "jinja_environment_kwargs",
    "retain_runs",
    "retain_days",
    "tags",
]


def current_dag() -> Dag | None:
    """The dag whose `with` block is open here, the innermost one; None outside."""
    dags: list[Dag] = getattr(_stack, "dags", [])
    return dags[-1] if dags else None


@contextmanager
def collect_dags() -> Iterator[list[Dag]]:
    """Every dag that is made inside the block, in order: how a file's dags are found, assigned to a name or not."""
    found: list[Dag] = []
    _collector.append(found)
    try:
        yield found
    finally:
        _collector.remove(found)


class Dag:
    """A dag: an id, tasks, edges.

        with Dag("etl", db_path="etl.db") as dag:
            load(extract("2026-01-01"))

    `dag_id`: 1 to 250 ASCII letters, digits, `_`, `.`, `-`. `db_path`: the database of its runs, a path or an
    SQLAlchemy URL of SQLite; default `$LITEFLOW_DB`, else `liteflow.db`. `params`: names and defaults; what a run
    gives is laid over them, and no other names are allowed; a `Param` has a JSON schema that values must fit.
    `default_args`: task options for every task. `durability`: `"normal"` (a power cut in mid-run can cost repeated
    tasks) or `"full"` (every commit is on the disk before anything follows from it). `max_crashes` (default 3): a
    task under which the executor service died so many times has failed. `max_active_tasks`: how many tasks of one
    run may run at once. `max_active_runs`: how many runs of the dag may go on at once, over all processes that use
    the database; further ones wait as `queued`. None is no limit. `fail_fast`: the first failure ends the run, but
    for teardowns. `dagrun_timeout` (seconds or timedelta): a run that takes longer is ended as failed.
    `on_success_callback`, `on_failure_callback`: functions that are called with the context when a run has ended
    so. `render_template_as_native_obj`: whether Jinja templates give Python objects and not text.
    `template_searchpath`: where template files are looked for, a directory or several, after that of the dag file.
    `template_undefined`: what a name that is not there does in a template: `"strict"` (an error), `"default"`
    (becomes nothing), `"chainable"`, `"debug"`, or a class of jinja2. `user_defined_macros`, `user_defined_filters`:
    names and filters for templates; they travel to workers as functions do. `jinja_environment_kwargs`: options of
    jinja2.Environment. `retain_runs`,
    `retain_days`: of the runs that are over only so many, the newest, and those that ended at most so many days ago
    are kept; older ones are deleted with their logs and XComs after a run has ended. None keeps all. `tags`: text
    to find it by. `schedule` is accepted and inert: liteflow has no scheduler, and says so once. A mistake raises
    DagError with the file and line.
    """

    def __init__(
        self,
        dag_id: str,
        *,
        db_path: str | os.PathLike[str] | None = None,
        description: str | None = None,
        params: Mapping[str, Any] | None = None,
        default_args: Mapping[str, Any] | None = None,
        durability: str = "normal",
        max_crashes: int = 3,
        max_active_tasks: int | None = None,
        max_active_runs: int | None = None,
        fail_fast: bool = False,
        dagrun_timeout: float | timedelta | None = None,
        on_success_callback: Callable[..., Any] | list[Callable[..., Any]] | None = None,
        on_failure_callback: Callable[..., Any] | list[Callable[..., Any]] | None = None,
        render_template_as_native_obj: bool = False,
        template_searchpath: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
        template_undefined: Any = "strict",
        user_defined_macros: Mapping[str, Any] | None = None,
        user_defined_filters: Mapping[str, Callable[..., Any]] | None = None,
        jinja_environment_kwargs: Mapping[str, Any] | None = None,
        retain_runs: int | None = None,
        retain_days: float | None = None,
        tags: Iterable[str] = (),
        **options: Any,
    ) -> None:
        self.place = caller()
        """Where the dag is made."""
        self.is_for_airflow = bool(airflow_files)
        """Whether the file that is being loaded imports Airflow's names: its tasks get dates as they are there."""
        self.dag_id = check_name("dag id", dag_id)
        self.db_path = self._checked("db_path", db_path, str | os.PathLike, "a path or an SQLAlchemy URL", None)
        self.description: str | None = self._checked("description", description, str, "text", None)
        self.declared_params: dict[str, Param] = declare_params({} if params is None else params, self.place)
        """Names to what is known of them."""
        self.default_args = check_default_args(default_args or {}, self.place)
        native = self._checked("render_template_as_native_obj", render_template_as_native_obj, bool, "a flag", False)
        base = TaskOptions(render_template_as_native_obj=native)
        self.default_options: TaskOptions = default_task_options(self.default_args, self.place, base)
        self.template_settings = template_settings(
            self.place,
            template_searchpath,
            template_undefined,
            user_defined_macros,
            user_defined_filters,
            jinja_environment_kwargs,
        )
        """How its templates are rendered."""
        if durability not in ("normal", "full"):
            raise InvalidOptionError(
                f'{self.place}: option durability={durability!r} must be "normal" or "full"',
                option="durability",
            )
        self.durability = durability
        self.max_crashes = dag_count("max_crashes", max_crashes, self.place) or 1
        self.max_active_tasks = dag_count("max_active_tasks", max_active_tasks, self.place)
        self.max_active_runs = dag_count("max_active_runs", max_active_runs, self.place)
        self.fail_fast: bool = self._checked("fail_fast", fail_fast, bool, "True or False", False)
        self.dagrun_timeout_s = dag_timedelta("dagrun_timeout", dagrun_timeout, self.place)
        self.on_success_callback = dag_callbacks("on_success_callback", on_success_callback, self.place)
        self.on_failure_callback = dag_callbacks("on_failure_callback", on_failure_callback, self.place)
        self.retain_runs = dag_count("retain_runs", retain_runs, self.place)
        self.retain_days = dag_days("retain_days", retain_days, self.place)
        wanted_tags = self._checked("tags", tags, list | tuple | set | frozenset, "a list of text", ())
        self.tags = tuple(dict.fromkeys(str(tag) for tag in wanted_tags))
        for name in options:
            if name not in INERT_DAG_OPTIONS:
                raise unknown_option("a dag", name, self.place, _DAG_OPTIONS)
        self.timezone_name = _zone_of(options.get("start_date") or self.default_args.get("start_date"))
        """The zone of its `start_date`, for tasks that ask; UTC without one."""
        if options.get("schedule") is not None:
            _say_that_schedule_is_inert(self.place)
        self.task_dict: dict[str, Task] = {}
        """Task ids to tasks, in the order in which they were made."""
        self.is_metadata_only = False
        """Whether it comes from `Dag.load()` and has no code."""
        self.task_groups: dict[str, TaskGroup] = {}
        """Group ids to groups, in the order in which they were made."""
        self.open_groups: list[TaskGroup] = []
        """The groups whose `with` block is open, the innermost last."""
        self.open_scopes: list[SetupScope] = []
        """The setups and teardowns whose `with` block is open."""
        self.edge_labels: dict[tuple[str, str], str] = {}
        """Words on edges, for pictures."""
        self._edges: dict[tuple[str, str], Place] = {}
        self._suffixes: dict[str, int] = {}
        self._order: list[Task] | None = None
        for found in _collector:
            found.append(self)

    def _checked(self, option: str, value: Any, kinds: Any, wanted: str, default: Any) -> Any:
        """The option's value, or the default for None; InvalidOptionError if it is of another kind."""
        if value is None:
            return default
        if not isinstance(value, kinds):
            raise InvalidOptionError(f"{self.place}: option {option}={value!r} must be {wanted}", option=option)
        return value

    # Building

    def __enter__(self) -> Dag:
        if not hasattr(_stack, "dags"):
            _stack.dags = []
        _stack.dags.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _stack.dags.pop()
        if kind is None:
            self.validate()
            if not is_in_worker():  # the host said it already
                from liteflow.authoring.lint import (
                    warn_of_surprises,  # not worth its import for those who only write a dag
                )

                warn_of_surprises(self)

    @property
    def params(self) -> dict[str, Any]:
        """Names of params to their defaults, of those that have one."""
        return {name: param.value for name, param in self.declared_params.items() if param.has_value}

    @property
    def known_params(self) -> dict[str, Param]:
        """What a run may give: the dag's params, and those that only tasks of it have."""
        of_tasks = [task.options.params or {} for task in self.tasks]
        return {**{name: param for own in of_tasks for name, param in own.items()}, **self.declared_params}

    @property
    def current_group(self) -> TaskGroup | None:
        """The group whose `with` block is open, the innermost one."""
        return self.open_groups[-1] if self.open_groups else None

    def param(self, name: str, default: Any = NOTSET) -> DagParam:
        """The param `name` as an argument for a task: the task gets its value in the run.

        With `default` a param that the dag does not name yet is declared.
        """
        if default is not NOTSET and name not in self.declared_params:
            self.declared_params |= declare_params({name: default}, caller())
        if name not in self.declared_params:
            raise ParamError(
                f"{caller()}: dag {self.dag_id!r} has no param {name!r}{did_you_mean(name, self.declared_params)}",
                param=name,
            )
        return DagParam(name)

    def free_task_id(self, given: str | None, name: str, function: Callable[..., Any] | None, place: Place) -> str:
        """The id of a new task: `given` or made from the function's name; a repeat gets `__1`, `__2`, as in Airflow.

        An id that was given and that another function has already raises DuplicateTaskIdError.
        """
        label = given if given is not None else "lambda" if name == "<lambda>" else name
        check_name("task id", label)
        group = self.current_group
        wanted = check_name("task id", label if group is None else group.child_id(label))
        first = self._holder_of(wanted)
        if first is None:
            return wanted
        same = isinstance(first, Task) and (given is None or first.function == function)
        if not same:
            kind = "task" if isinstance(first, Task) else "group"
            raise DuplicateTaskIdError(
                f"{place}: task id {wanted!r} is taken by the {kind} made at {first.place}; choose another task_id",
                task_id=wanted,
            )
        return self._with_suffix("task id", wanted)

    def free_operator_id(self, given: str, group: TaskGroup | None, place: Place) -> str:
        """The id of a new operator. One that is taken raises DuplicateTaskIdError."""
        check_name("task id", given)
        wanted = check_name("task id", given if group is None else group.child_id(given))
        first = self._holder_of(wanted)
        if first is not None:
            raise DuplicateTaskIdError(
                f"{place}: task id {wanted!r} is taken by what is made at {first.place}; choose another task_id",
                task_id=wanted,
            )
        return wanted

    def free_group_id(self, wanted: str, place: Place, *, may_change: bool) -> str:
        """The id of a new group. One that is taken gets `__1`, `__2`, or raises DuplicateTaskIdError."""
        check_name("group id", wanted)
        first = self._holder_of(wanted)
        if first is None:
            return wanted
        if not may_change:
            raise DuplicateTaskIdError(
                f"{place}: group id {wanted!r} is taken by what is made at {first.place}; choose another group_id",
                task_id=wanted,
            )
        return self._with_suffix("group id", wanted)

    def _holder_of(self, name: str) -> Task | TaskGroup | None:
        """The task or group that has the id: they share one name space."""
        return self.task_dict.get(name) or self.task_groups.get(name)

    def _with_suffix(self, kind: str, wanted: str) -> str:
        number = self._suffixes.get(wanted, 0) + 1
        while self._holder_of(f"{wanted}__{number}") is not None:
            number += 1
        self._suffixes[wanted] = number
        return check_name(kind, f"{wanted}__{number}")

    def add_task(self, task: Task) -> None:
        """Put a task into the dag. Raises DuplicateTaskIdError if the id is taken, with both places."""
        first = self._holder_of(task.task_id)
        if first is not None:
            raise DuplicateTaskIdError(
                f"{task.place}: task id {task.task_id!r} is taken by what is made at {first.place}; "
                "choose another task_id",
                task_id=task.task_id,
            )
        self.task_dict[task.task_id] = task
        if task.group is not None:
            task.group.add_task(task)
        for scope in self.open_scopes:
            scope.take(task)
        self._order = None

    def set_dependency(
        self, upstream: Task, downstream: Task, place: Place | None = None, *, label: str | None = None
    ) -> None:
        """Make `downstream` run after `upstream`. Twice is the same as once. `label`: words for pictures."""
        if upstream.dag is not self or downstream.dag is not self:
            other = upstream.dag if upstream.dag is not self else downstream.dag
            raise DagError(
                f"{place or caller()}: an edge from {upstream.task_id!r} to {downstream.task_id!r} would join dags "
                f"{self.dag_id!r} and {other.dag_id!r}; edges stay in their dag"
            )
        place = place or caller()
        if upstream is downstream:
            raise DagCycleError(
                f"{place}: dag {self.dag_id!r}: task {upstream.task_id!r} is made to run after itself "
                f"({upstream.task_id} -> {upstream.task_id})",
                cycle=(upstream.task_id, upstream.task_id),
            )
        self._edges.setdefault((upstream.task_id, downstream.task_id), place)
        if label is not None:
            self.edge_labels[upstream.task_id, downstream.task_id] = label
        downstream.upstream_task_ids[upstream.task_id] = None
        self._order = None

    def validate(self) -> None:
        """Raise DagCycleError if a task is downstream of itself, and DagError where rules do not go together."""
        for task in self.topological_sort():
            for up in (self.task_dict[task_id] for task_id in task.upstream_task_ids):
                if up.is_setup and not task.is_teardown and task.trigger_rule is not TriggerRule.ALL_SUCCESS:
                    raise DagError(
                        f"{task.place}: task {task.task_id!r} comes directly after the setup {up.task_id!r} and has "
                        f"trigger rule {task.trigger_rule.value}; it must have all_success"
                    )
            if self.fail_fast and task.trigger_rule not in _FAIL_FAST_RULES:
                raise DagError(
                    f"{task.place}: task {task.task_id!r} has trigger rule {task.trigger_rule.value}; "
                    "in a dag with fail_fast every task must have all_success"
                )

    # Looking

    @property
    def tasks(self) -> list[Task]:
        """All tasks, in the order in which they were made."""
        return list(self.task_dict.values())

    @property
    def task_ids(self) -> list[str]:
        """All task ids, in the order in which they were made."""
        return list(self.task_dict)

    @property
    def roots(self) -> list[Task]:
        """Tasks with nothing upstream."""
        return [task for task in self.tasks if not task.upstream_task_ids]

    @property
    def leaves(self) -> list[Task]:
        """Tasks with nothing downstream."""
        inner = {upstream for upstream, _ in self._edges}
        return [task for task in self.tasks if task.task_id not in inner]

    def has_task(self, task_id: str) -> bool:
        """Whether there is a task of this id."""
        return task_id in self.task_dict

    def get_task(self, task_id: str) -> Task:
        """The task of this id. Raises NotFoundError with the nearest id."""
        if task_id not in self.task_dict:
            raise NotFoundError(
                f"dag {self.dag_id!r} has no task {task_id!r}{did_you_mean(task_id, self.task_dict)}",
                identifier=task_id,
            )
        return self.task_dict[task_id]

    def topological_sort(self) -> list[Task]:
        """All tasks, each after everything upstream of it; among equals in the order in which they were made."""
        if self._order is None:
            self._order = self._sorted()
        return list(self._order)

    def _sorted(self) -> list[Task]:
        downstream: dict[str, list[str]] = {task_id: [] for task_id in self.task_dict}
        for upstream_id, downstream_id in self._edges:
            downstream[upstream_id].append(downstream_id)
        waiting = {task.task_id: len(task.upstream_task_ids) for task in self.tasks}
        order = [task for task in self.tasks if not task.upstream_task_ids]
        for task in order:  # grows while it is walked
            for task_id in downstream[task.task_id]:
                waiting[task_id] -= 1
                if waiting[task_id] == 0:
                    order.append(self.task_dict[task_id])
        if len(order) < len(self.task_dict):
            self._raise_cycle({task_id for task_id, count in waiting.items() if count})
        return order

    def _raise_cycle(self, stuck: set[str]) -> NoReturn:
        """Name one cycle among the tasks that no order reaches, with the place of each of its edges."""
        path: list[str] = []
        here = min(stuck, key=list(self.task_dict).index)
        while here not in path:  # every stuck task has a stuck upstream: walking up must come round
            path.append(here)
            here = next(up for up in self.task_dict[here].upstream_task_ids if up in stuck)
        cycle = [here, *reversed(path[path.index(here) :])]
        places = [f"{a} -> {b} at {self._edges[a, b]}" for a, b in pairwise(cycle)]
        raise DagCycleError(
            f"{self._edges[cycle[-2], cycle[-1]]}: dag {self.dag_id!r}: task {here!r} is downstream of itself "
            f"({' -> '.join(cycle)}). Remove one of these edges: {'; '.join(places)}",
            cycle=tuple(cycle),
        )

    def structure_digest(self) -> str:
        """SHA-256 over task ids, edges and trigger rules: two dags with the same one can drive each other's runs."""
        from hashlib import sha256  # not worth its import for those who only write a dag

        lines = [
            "\t".join([task_id, *_nature_of(task), *sorted(task.upstream_task_ids)])
            for task_id, task in sorted(self.task_dict.items())
        ]
        return sha256("".join([line + "\n" for line in lines]).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"<Dag {self.dag_id}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the dag as text and as Mermaid. `include`, `exclude`: the caller's to obey."""
        from liteflow.visualize.notebook import mime_bundle
        from liteflow.visualize.picture import dag_picture

        try:
            if not self.is_metadata_only:
                return mime_bundle(dag_picture(self))
        except DagCycleError:  # it is not finished, and says so when it is
            pass
        return {"text/plain": repr(self)}

    # Running and history: the doors to the rooms below, which are imported when they are opened.

    def run(
        self,
        params: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        logical_date: datetime | None = None,
        alone: bool = False,
        max_workers: int | None = None,
        executor: Executor | str | None = None,
        dags: Iterable[Dag] = (),
        progress: bool | None = None,
    ) -> DagRun:
        """Run the dag once and return the finished run, whichever way it ended.

        `params` are laid over the dag's. `run_id` (default: made from the time) makes the call idempotent: a run of
        that id that is finished is returned as it is, one that was interrupted goes on, one that lives in another
        process is waited for, and other params, another logical date or another structure raise RunConflictError.
        `logical_date` (aware; default now) is the date that the run is for. `alone`: raise RunActiveError instead of
        beginning a new run while another run of the dag goes on, in whatever process. `max_workers` is the number of
        slots, default the usable CPUs. `executor` takes the place of the slots: any `concurrent.futures.Executor`,
        `"threads"`, or `"dask://HOST:PORT"`; `"processes"` are the slots.
        `dags`: others of which tasks may begin runs (`TriggerDagRunOperator`), in this database; it returns when these
        are over too.
        `progress`: None shows a live display if standard error is a terminal and plain lines if not; False shows
        nothing; True always plain lines.

        Creates the database if it is missing. Ctrl-C stops it and raises KeyboardInterrupt: nothing more is begun, what
        runs may finish within 5 s, a second Ctrl-C kills it at once; the run can be resumed.
        """
        self._refuse_metadata_only("run")
        refuse_while_loading("dag.run()")
        from liteflow.execution.running import run_dag

        return run_dag(
            self,
            params,
            run_id=run_id,
            logical_date=logical_date,
            alone=alone,
            max_workers=max_workers,
            executor=executor,
            dags=dags,
            progress=progress,
        )

    async def arun(
        self,
        params: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        logical_date: datetime | None = None,
        alone: bool = False,
        max_workers: int | None = None,
        executor: Executor | str | None = None,
        dags: Iterable[Dag] = (),
    ) -> DagRun:
        """As `run`, in a coroutine: the event loop goes on meanwhile, and nothing is shown.

        Cancelling the task that waits cancels the run; CancelledError comes when what ran has been told to end, within
        its grace. That holds for Ctrl-C too, which asyncio turns into it.
        """
        self._refuse_metadata_only("arun")
        refuse_while_loading("dag.arun()")
        import asyncio
        from importlib import import_module

        # In a thread: it takes as long as the event loop must not be held up.
        running = await asyncio.to_thread(import_module, "liteflow.execution.running")
        over: DagRun = await running.arun_dag(
            self,
            params,
            run_id=run_id,
            logical_date=logical_date,
            alone=alone,
            max_workers=max_workers,
            executor=executor,
            dags=dags,
        )
        return over

    def test(
        self,
        params: Mapping[str, Any] | None = None,
        *,
        logical_date: datetime | None = None,
        run_id: str | None = None,
        mock: Mapping[str, Any] | None = None,
        fail: Mapping[str, Sequence[BaseException | type[BaseException] | None]] | None = None,
    ) -> DagRun:
        """Run the dag once in this process and this thread, and return the finished run: for tests and debuggers.

        Nothing is written to a disk; the run can be read for as long as it is held. The rules are those of `run`, and
        so are `params`, `logical_date` and `run_id`. Tasks are called one after the other, as the functions that they
        are: breakpoints work, and what they print and log goes where it goes anyway. Waiting takes no time: retry
        delays, sensors and `dagrun_timeout` are by a clock that leaps to whatever comes next, and recorded times are
        by that clock. A task's `timeout` does not end a function that runs; let it `fail` with a TimeoutError.
        KeyboardInterrupt and the end of a debugger leave this call.

        `mock`: by task id, what a task hands on instead of being called; of a branch what it chose, of a short circuit
        or sensor whether it goes on. What can be called is called with the task's own arguments (that of an operator
        with the context). Each instance of a mapped task gets the same.
        `fail`: by task id, a list with an exception (or its class) for each try, which is raised instead of calling the
        task, or None for a try that runs. After its end they all run.
        Pools that tasks name are there, with 128 slots. No runs of other dags are begun: a `TriggerDagRunOperator`
        succeeds at once, whatever it would wait for. Raises NotFoundError for a task that there is not.
        """
        self._refuse_metadata_only("test")
        from liteflow.execution.testing import run_in_test

        return run_in_test(self, params, logical_date=logical_date, run_id=run_id, mock=mock, fail=fail)

    def resume(
        self,
        run_id: str,
        *,
        accept_changes: bool = False,
        force: bool = False,
        max_workers: int | None = None,
        executor: Executor | str | None = None,
        dags: Iterable[Dag] = (),
        progress: bool | None = None,
    ) -> DagRun:
        """Go on with a run and return it when it is finished.

        A run whose process is gone goes on where it was: successes and their XComs stay, what was running begins
        again without using up a retry (and fails as `crashed` when that has happened `max_crashes` times). A failed run
        is opened again: what is failed or upstream_failed, or was skipped because the run was ended early, and of
        everything below these what did not succeed, each with all of its retries. Setups whose teardown has run are
        run again where something between the two is. A run that succeeded is returned as it is.

        Raises RunOwnedError, which names the process, while one drives the run. `force` takes the run from a process
        that hangs or is stopped (SIGSTOP): what it runs is killed, and what it still does is not recorded. When tasks
        were added, removed or rewired, or are mapped over lists of another length, RunConflictError lists them; with
        `accept_changes` the run goes on with the dag as it is now: new tasks are run, and those that are gone are
        `removed`. Raises NotFoundError when there is no such run. The other arguments are those of `run`.
        """
        self._refuse_metadata_only("resume")
        refuse_while_loading("dag.resume()")
        from liteflow.execution.running import resume_dag

        return resume_dag(
            self,
            run_id,
            accept_changes=accept_changes,
            force=force,
            max_workers=max_workers,
            executor=executor,
            dags=dags,
            progress=progress,
        )

    def rerun(
        self,
        from_run: str,
        *,
        only_failed: bool = False,
        params: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        max_workers: int | None = None,
        executor: Executor | str | None = None,
        dags: Iterable[Dag] = (),
        progress: bool | None = None,
    ) -> DagRun:
        """Run the dag once more for the logical date and with the params of the run `from_run`, as a new run.

        `params` are laid over those of that run, which is named by its id and kept in `rerun_of`. With `only_failed`
        the new run begins with what succeeded there: these task instances are `success` with the end reason `reused`,
        their XComs are copied as they are, and what was skipped stays skipped. What went wrong runs, what was left out
        by an early end, what is new to the dag or has another upstream, trigger rule or mapping than it had, and
        everything below these; setups whose teardown has run where something between the two does. A change inside
        a function is not noticed. `params` cannot be changed then.

        `run_id` (default: made from the date) makes the call idempotent, as in `run`. Raises NotFoundError when there
        is no such run, and RunConflictError when, with `only_failed`, it is not over or nothing went wrong in it. The
        other arguments are those of `run`.
        """
        self._refuse_metadata_only("rerun")
        refuse_while_loading("dag.rerun()")
        from liteflow.execution.running import rerun_dag

        return rerun_dag(
            self,
            from_run,
            only_failed=only_failed,
            params=params,
            run_id=run_id,
            max_workers=max_workers,
            executor=executor,
            dags=dags,
            progress=progress,
        )

    @classmethod
    def load(cls, dag_id: str, db_path: str | os.PathLike[str] | None = None) -> Dag:
        """A dag from the database: its metadata and history, no tasks. `run()` on it raises MetadataOnlyError."""
        from liteflow.storage.history import open_history

        facts = open_history(db_path).dag(dag_id)
        dag = cls(
            facts.dag_id,
            db_path=db_path,
            description=facts.description,
            tags=facts.tags,
            params=facts.params,
            retain_runs=facts.retain_runs,
            retain_days=facts.retain_days,
        )
        dag.is_metadata_only = True
        dag.place = Place(facts.file or "<unknown>", 0)
        return dag

    def runs(self, state: str | None = None, limit: int | None = None) -> list[DagRun]:
        """The dag's runs, newest first; only those in `state`, at most `limit`. None when there is no database yet."""
        from liteflow.storage.history import open_history

        try:
            history = open_history(self.db_path)
        except DatabaseMissingError:
            return []
        return history.runs(dag_id=self.dag_id, state=state, limit=limit)

    def latest_run(self) -> DagRun | None:
        """The newest run, or None."""
        return next(iter(self.runs(limit=1)), None)

    def _refuse_metadata_only(self, what: str) -> None:
        if self.is_metadata_only:
            raise MetadataOnlyError(
                f"dag {self.dag_id!r} was loaded from the database, which holds no code: to {what} it, run the script "
                f"that defines it ({self.place.file})"
            )


DAG = Dag


_FAIL_FAST_RULES = (TriggerRule.ALL_SUCCESS, TriggerRule.ALL_DONE_SETUP_SUCCESS)


def _nature_of(task: Task) -> list[str]:
    """What of a task, beside its edges, decides how a run goes on: part of the digest."""
    nature = [task.options.trigger_rule._value_]
    unit = task.unit
    if unit is not None:
        nature.append(f"mapped:{getattr(unit, 'group_id', '')}")
    if task.is_setup:
        nature.append("setup")
    if task.is_teardown:
        nature.append("teardown")
    return nature


def _zone_of(start_date: Any) -> str:
    """The name of the time zone of a date, if it has one that a worker can find by its name."""
    return str(getattr(getattr(start_date, "tzinfo", None), "key", None) or "UTC")


_schedule_was_named = False


def _say_that_schedule_is_inert(place: Place) -> None:
    global _schedule_was_named
    if airflow_files:  # said with what else is inert in that file
        airflow_files.setdefault(place.file, {})["schedule"] = place.line
    elif not _schedule_was_named and not is_in_worker():
        _schedule_was_named = True
        warnings.warn_explicit(
            f"{place}: schedule= does nothing in liteflow, which has no scheduler; start runs from cron or a timer",
            UserWarning,
            place.file,
            place.line,
        )


class DagFactory:
    """What `@dag` makes of a function: a call builds the dag. The function's parameters are the dag's params."""

    def __init__(self, function: Callable[..., Any], dag_id: str | None, options: Mapping[str, Any]) -> None:
        self.function = function
        self.dag_id = dag_id or function.__name__
        self.options = dict(options)
        self.place = caller()
        update_wrapper(self, function, updated=())  # attributes of the function are not ours
        check_name("dag id", self.dag_id)

    def __call__(self, *args: Any, **kwargs: Any) -> Dag:
        signature = inspect.signature(self.function)
        for name, parameter in signature.parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise DagError(
                    f"{caller()}: {self.dag_id}(): each param of a dag has a name; write them out in place of "
                    f"{str(parameter).split(':')[0]!r} ({name})"
                )
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise DagError(f"{caller()}: {self.dag_id}(): {error}") from None
        bound.apply_defaults()
        params = dict(self.options.get("params") or {})
        for name, value in bound.arguments.items():
            known = params.get(name)
            # The schema that is declared stays, and what is given is the default.
            if isinstance(known, Param) and not isinstance(value, Param):
                value = known.with_default(value)
            params[name] = value
        options = {"description": inspect.getdoc(self.function), **self.options, "params": params}
        dag = Dag(self.dag_id, **options)
        with dag:
            for name in bound.arguments:
                bound.arguments[name] = dag.param(name)
            self.function(*bound.args, **bound.kwargs)
        return dag


@overload
def dag(dag_id_or_function: Callable[..., Any], /) -> DagFactory: ...
@overload
def dag(dag_id_or_function: str | None = None, /, **options: Any) -> Callable[[Callable[..., Any]], DagFactory]: ...
def dag(
    dag_id_or_function: str | Callable[..., Any] | None = None, /, **options: Any
) -> DagFactory | Callable[[Callable[..., Any]], DagFactory]:
    """`@dag` or `@dag("etl", ...)`: a function that builds a dag when it is called; options are those of `Dag`.

    Its parameters become params of the dag, and inside it they stand for the values of the run. The id is the
    function's name unless it is given, the description its docstring.
    """
    if callable(dag_id_or_function):
        return DagFactory(dag_id_or_function, None, options)
    dag_id = options.pop("dag_id", dag_id_or_function)
    return lambda function: DagFactory(function, dag_id, options)
