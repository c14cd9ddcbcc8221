"""What a running task can learn about its run: the context, with Airflow's keys.

A task function gets a key of the context by naming it as a parameter (`def load(rows, ds, ti): ...`), all the rest of
them through `**kwargs`, and the whole of it from `get_current_context()`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache, partial
from types import CodeType
from typing import Any, NamedTuple, Protocol

from liteflow.authoring.accessors import CONNECTIONS, VARIABLES
from liteflow.authoring.xcomarg import RETURN_VALUE
from liteflow.errors import NotFoundError

PREVIOUS_KEYS = (
    "prev_data_interval_start_success",
    "prev_data_interval_end_success",
    "prev_start_date_success",
    "prev_end_date_success",
)
"""Dates of the latest run before this one that succeeded; None if there is none. Looked up when they are asked for."""

CONTEXT_KEYS = frozenset(
    [
        *PREVIOUS_KEYS,
        "conn",
        "dag",
        "dag_run",
        "data_interval_end",
        "data_interval_start",
        "ds",
        "ds_nodash",
        "expanded_ti_count",
        "inlets",
        "logical_date",
        "macros",
        "map_index_template",
        "outlets",
        "params",
        "run_id",
        "task",
        "task_instance",
        "task_instance_key_str",
        "task_reschedule_count",
        "templates_dict",
        "test_mode",
        "ti",
        "try_number",
        "ts",
        "ts_nodash",
        "ts_nodash_with_tz",
        "var",
    ]
)


def _plain_date(moment: datetime) -> datetime:
    return moment


_date_type: Callable[[datetime], datetime] = _plain_date
_own_date_type: ContextVar[Callable[[datetime], datetime] | None] = ContextVar("liteflow_date_type", default=None)
"""What goes before it in the context of a task."""


def set_date_type(convert: Callable[[datetime], datetime] | None) -> None:
    """Have every date of a context made by `convert` from an aware datetime, in this process and from now on.

    What it gives must be a datetime too, such as `pendulum.instance` gives. None: plain datetimes again.
    """
    global _date_type
    _date_type = convert or _plain_date
    _own_date_type.set(None)


def use_date_type(convert: Callable[[datetime], datetime]) -> None:
    """The same from now on in this context alone: tasks of other dags may run beside this one."""
    _own_date_type.set(convert)


def make_date(moment: datetime) -> datetime:
    """The date as tasks are to see it; see `set_date_type`."""
    return (_own_date_type.get() or _date_type)(moment)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class DagView(NamedTuple):
    """The dag, as a task sees it (`dag` in the context)."""

    dag_id: str
    description: str | None = None
    tags: tuple[str, ...] = ()
    timezone_name: str = "UTC"
    params: Mapping[str, Any] = {}
    """The defaults."""

    @property
    def timezone(self) -> tzinfo:
        """The time zone of its start date."""
        if self.timezone_name == "UTC":
            return UTC
        from zoneinfo import ZoneInfo

        return ZoneInfo(self.timezone_name)


class TaskView(NamedTuple):
    """The task, as its own code sees it (`task` in the context)."""

    task_id: str
    retries: int = 0
    trigger_rule: str = "all_success"
    pool: str | None = None

    def render_template(self, content: Any, context: Context, *_: Any) -> Any:
        """`content` with the Jinja templates in it rendered."""
        if context.render is None:
            raise RuntimeError("render_template() works while the task runs")
        return context.render(content, ())


class DagRunFacts(NamedTuple):
    """The run, as a task sees it (`dag_run` in the context)."""

    dag_id: str
    run_id: str
    logical_date: datetime
    conf: dict[str, Any]
    """The params of the run, under Airflow's name for them."""
    start_date: datetime | None = None
    state: str = "running"
    """For a callback of the dag: how the run ended."""
    end_date: datetime | None = None

    @property
    def run_type(self) -> str:
        """`backfill` for a run of a backfill, else `manual`: under Airflow's names."""
        kind, separator, _ = self.run_id.partition("__")
        return kind if separator and kind in _RUN_TYPES else "manual"

    @property
    def run_after(self) -> datetime:
        """The logical date."""
        return self.logical_date

    @property
    def data_interval_start(self) -> datetime:
        """The logical date: a run that is not scheduled covers no time."""
        return self.logical_date

    @property
    def data_interval_end(self) -> datetime:
        """The logical date, as `data_interval_start`."""
        return self.logical_date

    @property
    def queued_at(self) -> datetime | None:
        """When the run was made; so is `start_date`."""
        return self.start_date


_RUN_TYPES = ("backfill", "scheduled")


class XComs(Protocol):
    """What a running task can do with XComs."""

    def push(self, key: str, value: Any) -> None:
        """Keep a value; it is stored with the try's outcome."""

    def pull(
        self,
        task_ids: str | Iterable[str] | None,
        dag_id: str | None,
        key: str,
        include_prior_dates: bool,
        map_indexes: int | Iterable[int] | None,
        default: Any,
        run_id: str | None,
    ) -> Any:
        """Values of tasks, or its own."""

    def ask(self, question: tuple[Any, ...], what: str) -> tuple[Any, ...]:
        """Put a question to whoever drives the run; `what` asks it, for errors."""


class TaskInstanceFacts:
    """The task instance, as its own code sees it (`ti` in the context)."""

    def __init__(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        map_index: int,
        try_number: int,
        max_tries: int,
        *,
        state: str = "running",
        start_date: datetime | None = None,
        xcoms: XComs | None = None,
    ) -> None:
        self.dag_id = dag_id
        self.run_id = run_id
        self.task_id = task_id
        self.map_index = map_index
        """Which of a mapped task's instances it is, from 0; -1 for a task that is not mapped."""
        self.try_number = try_number
        """1 for the first try."""
        self.max_tries = max_tries
        """The last try number that is allowed."""
        self.state = state
        self.start_date = start_date
        self.end_date: datetime | None = None
        self.duration: float | None = None
        """None, since it is not over."""
        self.task: TaskView = TaskView(task_id)
        self.log_url = ""
        """There are no pages."""
        self._xcoms = xcoms

    @property
    def hostname(self) -> str:
        """The name of this host."""
        return os.uname().nodename

    def get_template_context(self) -> Context:
        """The whole context."""
        return get_current_context()

    @property
    def key_str(self) -> str:
        """Dag, run, task, map index and try, for people."""
        return f"{self.dag_id}/{self.run_id}/{self.task_id}/{self.map_index}/{self.try_number}"

    def xcom_push(self, key: str, value: Any) -> None:
        """Hand `value` on under `key`, in addition to what the task returns; stored with the outcome of this try."""
        self._need_xcoms().push(key, value)

    def xcom_pull(
        self,
        task_ids: str | Iterable[str] | None = None,
        dag_id: str | None = None,
        key: str = RETURN_VALUE,
        include_prior_dates: bool = False,
        *,
        map_indexes: int | Iterable[int] | None = None,
        default: Any = None,
        run_id: str | None = None,
    ) -> Any:
        """The value that a task handed on under `key`, `default` if there is none.

        `task_ids`: one id, a list of them (gives a list, with `default` for what is missing), or None for what this try
        itself has pushed. Of a mapped task it is the list of what its instances handed on, without holes (and, as in
        Airflow, the value itself where that is only one), unless `map_indexes` names which.
        `dag_id`, `run_id`: of another dag or run in the same database. `include_prior_dates`: where this run has
        none, that of the latest run before.
        """
        return self._need_xcoms().pull(task_ids, dag_id, key, include_prior_dates, map_indexes, default, run_id)

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        """The state of a run in the same database. Raises NotFoundError."""
        found = self.ask(("runs", dag_id, None, (run_id,)), "ti.get_dagrun_state()")
        if not found:
            raise NotFoundError(f"there is no run {run_id!r} of dag {dag_id!r}", identifier=run_id)
        return str(found[0][2])

    def get_dr_count(
        self,
        dag_id: str,
        logical_dates: Iterable[datetime] | None = None,
        run_ids: Iterable[str] | None = None,
        states: Iterable[str] | None = None,
    ) -> int:
        """How many runs of a dag there are, in these states. Of runs with one of the `logical_dates` the last one that
        was created for each date counts."""
        found = self.ask(("runs", dag_id, _dates_us(logical_dates), _names(run_ids)), "ti.get_dr_count()")
        wanted = None if states is None else {str(state) for state in states}
        return sum(wanted is None or state in wanted for _, _, state in found)

    def get_ti_count(
        self,
        dag_id: str,
        map_index: int | None = None,
        task_ids: Iterable[str] | None = None,
        task_group_id: str | None = None,
        logical_dates: Iterable[datetime] | None = None,
        run_ids: Iterable[str] | None = None,
        states: Iterable[str] | None = None,
    ) -> int:
        """How many task instances there are in these runs, see `get_dr_count`, and in these states."""
        found = self._states_of(dag_id, map_index, task_ids, task_group_id, logical_dates, run_ids, "ti.get_ti_count()")
        wanted = None if states is None else {str(state) for state in states}
        return sum(wanted is None or one in wanted for _, instances in found for _, _, one in instances)

    def get_task_states(
        self,
        dag_id: str,
        map_index: int | None = None,
        task_ids: Iterable[str] | None = None,
        task_group_id: str | None = None,
        logical_dates: Iterable[datetime] | None = None,
        run_ids: Iterable[str] | None = None,
    ) -> dict[str, dict[str, str]]:
        """By run id, for these runs (see `get_dr_count`), the state of each task; of a mapped one `task_id_0`, ..."""
        what = "ti.get_task_states()"
        return {
            run_id: {name if index < 0 else f"{name}_{index}": state for name, index, state in instances}
            for run_id, instances in self._states_of(
                dag_id, map_index, task_ids, task_group_id, logical_dates, run_ids, what
            )
        }

    def _states_of(
        self,
        dag_id: str,
        map_index: int | None,
        task_ids: Iterable[str] | None,
        task_group_id: str | None,
        logical_dates: Iterable[datetime] | None,
        run_ids: Iterable[str] | None,
        what: str,
    ) -> list[tuple[str, list[tuple[str, int, str]]]]:
        """Of each run the task instances: task id, map index, state."""
        question = ("tasks", dag_id, _dates_us(logical_dates), _names(run_ids), _names(task_ids), task_group_id)
        return [
            (run_id, [one for one in instances if map_index is None or one[1] == map_index])
            for run_id, _, instances in self.ask(question, what)
        ]

    def ask(self, question: tuple[Any, ...], what: str) -> tuple[Any, ...]:
        """Put a question to whoever drives the run, for the operators of liteflow; `what` asks it, for errors."""
        return self._need_xcoms().ask(question, what)

    def _need_xcoms(self) -> XComs:
        if self._xcoms is None:
            raise RuntimeError("XComs can be pushed and pulled only by a task that is running")
        return self._xcoms

    def __repr__(self) -> str:
        index = "" if self.map_index < 0 else f"[{self.map_index}]"
        return f"<TaskInstance {self.dag_id}.{self.task_id}{index} {self.run_id} try {self.try_number}>"


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 in UTC; a moment without a time zone is taken for one in UTC."""
    return ((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def _dates_us(dates: Iterable[datetime] | None) -> tuple[int, ...] | None:
    return None if dates is None else tuple(to_us(one) for one in dates)


def _names(names: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(str(one) for one in names)


class Context(dict[str, Any]):
    """The context of a running task: a dict with the keys of `CONTEXT_KEYS`. Some come when they are asked for."""

    later: Mapping[str, Callable[[], Any]] = {}
    """Makes values that few tasks want and that cost something: `macros`, and those of `PREVIOUS_KEYS`."""
    render: Callable[[Any, tuple[str, ...]], Any] | None = None
    """Renders the Jinja templates in a value; texts that end so are names of template files."""
    looks: int = 0
    """How many times the task was called before in this try: a sensor looks more than once."""
    now: Callable[[], datetime] = staticmethod(lambda: datetime.now(UTC))
    """The time by the clock of the run, in UTC: in `Dag.test()` it leaps."""

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self.later

    def __missing__(self, key: str) -> Any:
        if key not in self.later:
            raise KeyError(key)
        value = self[key] = self.later[key]()
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """The value, also of what comes only when it is asked for."""
        try:
            return self[key]
        except KeyError:
            return default

    def for_keywords(self, function: Callable[..., Any]) -> dict[str, Any]:
        """What `**kwargs` of a function gets: all of it, but of `PREVIOUS_KEYS` only those that its code names."""
        named = [key for key in self.later if key == "macros" or key in _texts_in(function)]
        return {**self, **{key: self[key] for key in named}}

    def with_names(self, names: Mapping[str, Any]) -> Context:
        """A copy with more in it."""
        other = Context({**self, **names})
        other.later, other.now = self.later, self.now
        return other


def _texts_in(function: Callable[..., Any]) -> frozenset[str]:
    """The texts that the code of a function holds, and that of functions inside it."""
    plain = inspect.unwrap(function) if hasattr(function, "__wrapped__") else function
    while isinstance(plain, partial):
        plain = plain.func
    code = getattr(getattr(plain, "__func__", plain), "__code__", None)
    return frozenset() if code is None else _constants(code)


@lru_cache(maxsize=256)
def _constants(code: CodeType) -> frozenset[str]:
    inner = [_constants(one) for one in code.co_consts if isinstance(one, CodeType)]
    return frozenset(one for one in code.co_consts if isinstance(one, str)).union(*inner)


_current: ContextVar[Callable[[], Context]] = ContextVar("liteflow_context")

command_output: ContextVar[Callable[[bytes], None] | None] = ContextVar("liteflow_command_output", default=None)
"""What takes the output of a command that a task runs, where descriptor 1 is not the task's: it runs in a thread of its
host."""


def get_current_context() -> Context:
    """The context of the task that is running here. Raises RuntimeError outside a task."""
    try:
        source = _current.get()
    except LookupError:
        raise RuntimeError("get_current_context() was called outside a running task") from None
    return source()


call_when_ended: ContextVar[Callable[[Callable[[], None]], None] | None] = ContextVar(
    "liteflow_call_when_ended", default=None
)
"""Takes what is to be called, from outside, when the task is told to end: where no TaskKilled is raised in it."""


class CurrentContext:
    """Make what `source` gives the context that `get_current_context()` finds. Most tasks never ask for it."""

    def __init__(self, source: Callable[[], Context]) -> None:
        self._source = source

    def __enter__(self) -> None:
        self._token = _current.set(self._source)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def make_context(
    run: DagRunFacts,
    instance: TaskInstanceFacts,
    *,
    dag: DagView | None = None,
    task: TaskView | None = None,
    params: dict[str, Any] | None = None,
    **more: Any,
) -> Context:
    """The context of one try. `params`: where they are not those of the run."""
    date = run.logical_date
    ts = date.isoformat()
    instance.task = task or TaskView(instance.task_id)
    return Context(
        conn=CONNECTIONS,
        dag=dag or DagView(run.dag_id),
        dag_run=run,
        data_interval_start=date,
        data_interval_end=date,
        ds=date.strftime("%Y-%m-%d"),
        ds_nodash=date.strftime("%Y%m%d"),
        inlets=[],
        logical_date=date,
        outlets=[],
        params=run.conf if params is None else params,
        run_id=run.run_id,
        task=instance.task,
        task_instance=instance,
        ti=instance,
        task_instance_key_str=f"{run.dag_id}__{instance.task_id}__{date.strftime('%Y%m%d')}",
        test_mode=False,
        try_number=instance.try_number,
        ts=ts,
        ts_nodash=date.strftime("%Y%m%dT%H%M%S"),
        ts_nodash_with_tz=ts.replace("-", "").replace(":", ""),
        var=VARIABLES,
        **more,
    )
