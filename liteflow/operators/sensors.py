"""Sensors as classes: `BaseSensorOperator`, and those of Airflow's standard provider."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime, time, timedelta
from glob import iglob
from typing import TYPE_CHECKING, Any, TypeVar

from liteflow.authoring.options import SensorOptions, sensor_options
from liteflow.authoring.places import Place
from liteflow.authoring.sensing import NothingSeen, NotYet, PokeReturnValue
from liteflow.authoring.task import SENSOR, Traits
from liteflow.errors import FailTask
from liteflow.operators.base import BaseOperator
from liteflow.operators.bash import environment_for
from liteflow.operators.branch import WeekDay
from liteflow.operators.python import call_in_context, plain_function

if TYPE_CHECKING:
    from liteflow.authoring.context import Context


class BaseSensorOperator(BaseOperator):
    """A sensor as a class: `poke(context)` looks, until it returns True or `PokeReturnValue(True, value)`.

    `poke_interval` (60 s), `timeout` (7 days in all; a single look is limited by `execution_timeout`), `mode` ("poke",
    or "reschedule", which holds no slot between looks), `soft_fail` (skip when the time is over),
    `exponential_backoff`, `max_wait`, `silent_fail`, `never_fail`: as for `@task.sensor`. `deferrable=True`, for which
    Airflow has a process of its own, means the mode "reschedule" here; `start_from_trigger`, `end_from_trigger` and
    `trigger_kwargs` mean nothing. A class that has its own `execute` goes on after `super().execute(context)` once
    something is seen; what comes before it happens at each look.
    """

    operator_traits = Traits(SENSOR)

    def __init__(
        self,
        *,
        poke_interval: float | timedelta = 60.0,
        timeout: float | timedelta = 7 * 24 * 3600.0,
        soft_fail: bool = False,
        mode: str = "poke",
        exponential_backoff: bool = False,
        max_wait: float | timedelta | None = None,
        silent_fail: bool = False,
        never_fail: bool = False,
        deferrable: bool = False,
        start_from_trigger: bool = False,
        end_from_trigger: bool = False,
        trigger_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        given = {name: value for name, value in locals().items() if name in _SENSOR_NAMES}
        options = self.sensor_options_of({**given, "deferrable": deferrable}, self.place)
        self.poke_interval = options.poke_interval_s
        self.timeout = options.timeout_s
        self.mode = options.mode
        self.soft_fail = options.soft_fail
        self.exponential_backoff = options.exponential_backoff
        self.max_wait = options.max_wait_s
        self.silent_fail = options.silent_fail
        self.never_fail = options.never_fail

    def _join_dag(self) -> None:
        # Only now, since a class may change these attributes once it has called ours.
        given = {name: getattr(self, name) for name in _SENSOR_NAMES}
        self.sensor = self.sensor_options_of({**given, "deferrable": self.deferrable}, self.place)
        super()._join_dag()

    @property
    def reschedule(self) -> bool:
        """Whether it holds no slot between looks."""
        return self.mode == "reschedule"

    @classmethod
    def sensor_options_of(cls, given: Mapping[str, Any], place: Place) -> SensorOptions:
        """How it waits, by its arguments."""
        found = {name: value for name, value in given.items() if name in _SENSOR_NAMES and value is not None}
        if given.get("deferrable"):
            found["mode"] = "reschedule"
        return sensor_options(found, place)

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Look once."""
        raise TypeError(f"{type(self).__name__} has no poke(context)")

    def execute(self, context: Context) -> Any:
        """Look once, and return what is handed on; whoever runs the task calls it again while there is nothing."""
        seen = self.poke(context)
        if not seen:
            raise NothingSeen(seen)
        return seen.xcom_value if isinstance(seen, PokeReturnValue) else None

    def _concluded(self, result: Any) -> PokeReturnValue:
        return PokeReturnValue(True, result)


_Sensor = TypeVar("_Sensor", bound=BaseSensorOperator)
_SENSOR_NAMES = frozenset(
    ["poke_interval", "timeout", "mode", "soft_fail", "silent_fail", "never_fail", "exponential_backoff", "max_wait"]
)


def poke_mode_only(cls: type[_Sensor]) -> type[_Sensor]:
    """Above a class of sensors: they have the mode "poke", and cannot be given another."""

    def set_mode(_: BaseSensorOperator, value: str) -> None:
        if value != "poke":
            raise ValueError(f"the mode of {cls.__name__} cannot be {value!r}, only 'poke'")

    if not issubclass(cls, BaseSensorOperator):
        raise ValueError(f"poke_mode_only is for classes of sensors, not for {cls!r}")
    cls.mode = property(lambda _: "poke", set_mode)  # type: ignore[assignment]  # a property of our making
    return cls


class PythonSensor(BaseSensorOperator):
    """Waits until `python_callable(*op_args, **op_kwargs)` returns something true.

    Keys of the context that it names as parameters are filled in.
    """

    template_fields = ("templates_dict", "op_args", "op_kwargs")

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        templates_dict: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.python_callable = plain_function(python_callable)
        self.op_args = op_args if op_args is not None else []
        self.op_kwargs = op_kwargs if op_kwargs is not None else {}
        self.templates_dict = templates_dict

    def poke(self, context: Context) -> bool | PokeReturnValue:
        seen = call_in_context(self, context)
        return seen if isinstance(seen, PokeReturnValue) else bool(seen)


class BashSensor(BaseSensorOperator):
    """Waits until `bash_command` ends with exit code 0.

    `retry_exit_code`: the only other code that means "not yet", any further one fails the task; None (the default): all
    do. `env`: its environment, in place of the task's.
    """

    template_fields = ("bash_command", "env")

    def __init__(
        self,
        *,
        bash_command: str,
        env: dict[str, str] | None = None,
        output_encoding: str = "utf-8",
        retry_exit_code: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bash_command = bash_command
        self.env = env
        self.output_encoding = output_encoding
        self.retry_exit_code = retry_exit_code

    def poke(self, context: Context) -> bool:
        sys.stdout.flush()
        command = ["bash", "-c", self.bash_command]
        code = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, env=environment_for(self.env)).returncode
        if code not in (0, self.retry_exit_code) and self.retry_exit_code is not None:
            raise FailTask(f"the command ended with exit code {code}, and only {self.retry_exit_code} means not yet")
        return code == 0


class FileSensor(BaseSensorOperator):
    """Waits until a file is there, or a file anywhere in a directory.

    `filepath`: may have wildcards, with `recursive` also `**`; relative to the `path` in the extra of the connection
    `fs_conn_id`, or to the root of the file system if there is no such connection.
    """

    template_fields = ("filepath", "fs_conn_id")

    def __init__(
        self,
        *,
        filepath: str | os.PathLike[str],
        fs_conn_id: str = "fs_default",
        recursive: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filepath = filepath
        self.fs_conn_id = fs_conn_id
        self.recursive = recursive

    @property
    def path(self) -> str:
        """The whole path."""
        return os.path.join(FSHook(self.fs_conn_id).get_path(), self.filepath)

    def poke(self, context: Context) -> bool:
        for path in iglob(self.path, recursive=self.recursive):
            if os.path.isfile(path) or any(files for _, _, files in os.walk(path)):
                self.log.info("found %s", path)
                return True
        return False


class FSHook:
    """Where the files of a connection begin: the `path` in its extra, `/` if there is no such connection."""

    def __init__(self, fs_conn_id: str = "fs_default", **_: Any) -> None:
        self.fs_conn_id = fs_conn_id

    def get_path(self) -> str:
        """The directory."""
        from liteflow.authoring.connections import Connection

        try:
            extra = Connection.get(self.fs_conn_id).extra_dejson
        except LookupError:
            return "/"
        return str(extra.get("path") or "/")


class TimeSensor(BaseSensorOperator):
    """Waits until that time of the day, of the day on which it looks first; in the dag's time zone unless it says."""

    def __init__(self, *, target_time: time, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_time = target_time

    def poke(self, context: Context) -> bool | PokeReturnValue:
        zone = self.target_time.tzinfo or context["dag"].timezone
        start: datetime = context["ti"].start_date
        return _is_after(datetime.combine(start.astimezone(zone), self.target_time, zone), context)


class DateTimeSensor(BaseSensorOperator):
    """Waits until that moment: a datetime, or text in ISO 8601; in UTC unless it says."""

    template_fields = ("target_time",)

    def __init__(self, *, target_time: str | datetime, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_time = target_time

    def poke(self, context: Context) -> bool | PokeReturnValue:
        moment = datetime.fromisoformat(str(self.target_time))
        return _is_after(moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment, context)


class TimeDeltaSensor(BaseSensorOperator):
    """Waits until `delta` (a timedelta, or minutes) after the end of the run's data interval, its logical date here."""

    template_fields = ("delta",)

    def __init__(self, *, delta: timedelta | float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.delta = delta

    def poke(self, context: Context) -> bool | PokeReturnValue:
        end: datetime = context["data_interval_end"]
        return _is_after(end + _as_timedelta(self.delta), context)


class WaitSensor(BaseSensorOperator):
    """Waits `time_to_wait` (a timedelta, or minutes) from its start."""

    template_fields = ("time_to_wait",)

    def __init__(self, *, time_to_wait: timedelta | float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.time_to_wait = time_to_wait

    def poke(self, context: Context) -> bool | PokeReturnValue:
        start: datetime = context["ti"].start_date
        return _is_after(start + _as_timedelta(self.time_to_wait), context)


def _is_after(moment: datetime, context: Context) -> bool | PokeReturnValue:
    """Whether that moment is over; if not, when it will be."""
    left = moment - context.now()
    return left < timedelta(0) or NotYet((left + timedelta(milliseconds=1)).total_seconds())


def _as_timedelta(value: timedelta | float | str) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(minutes=float(value))


class DayOfWeekSensor(BaseSensorOperator):
    """Waits for a day of the week (a name, a WeekDay, or several).

    `use_task_logical_date`: looked at is the run's logical date; otherwise the time now, in UTC.
    """

    def __init__(
        self,
        *,
        week_day: str | WeekDay | Iterable[str] | Iterable[WeekDay],
        use_task_logical_date: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.week_day = week_day
        self.use_task_logical_date = use_task_logical_date
        self._days = WeekDay.validate_week_day(week_day)

    def poke(self, context: Context) -> bool:
        now: datetime = context["logical_date"] if self.use_task_logical_date else context.now()
        return now.isoweekday() in self._days


# Airflow's older names for the same sensors with deferrable=True, which waits in no slot.


class _WithoutSlot(BaseSensorOperator):
    """Gives its slot back between looks."""

    def __init__(self, *, deferrable: bool = True, **kwargs: Any) -> None:
        super().__init__(deferrable=deferrable, **kwargs)

    @classmethod
    def sensor_options_of(cls, given: Mapping[str, Any], place: Place) -> SensorOptions:
        return super().sensor_options_of({"deferrable": True, **given}, place)


class TimeSensorAsync(TimeSensor, _WithoutSlot):
    """A TimeSensor that holds no slot."""


class DateTimeSensorAsync(DateTimeSensor, _WithoutSlot):
    """A DateTimeSensor that holds no slot."""


class TimeDeltaSensorAsync(TimeDeltaSensor, _WithoutSlot):
    """A TimeDeltaSensor that holds no slot."""
