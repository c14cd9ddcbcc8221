"""Operators that choose what is followed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from liteflow.authoring.ids import did_you_mean
from liteflow.authoring.places import caller
from liteflow.authoring.task import BRANCH, Traits
from liteflow.errors import DagError
from liteflow.operators.base import BaseOperator

if TYPE_CHECKING:
    from liteflow.authoring.context import Context

Chosen = str | Iterable[str] | None


class WeekDay(IntEnum):
    """A day of the week by its ISO number."""

    MONDAY = 1
    TUESDAY = 2
    WEDNESDAY = 3
    THURSDAY = 4
    FRIDAY = 5
    SATURDAY = 6
    SUNDAY = 7

    @classmethod
    def get_weekday_number(cls, week_day_str: str) -> WeekDay:
        """The day of that English name, in any case. Raises AttributeError for another word."""
        name = week_day_str.upper()
        if name not in cls.__members__:
            raise AttributeError(f"no day of the week {week_day_str!r}{did_you_mean(name, cls.__members__)}")
        return cls[name]

    @classmethod
    def convert(cls, day: str | WeekDay) -> WeekDay:
        """The day that a name or a day means."""
        return day if isinstance(day, WeekDay) else cls.get_weekday_number(day)

    @classmethod
    def validate_week_day(cls, week_day: str | WeekDay | Iterable[str] | Iterable[WeekDay]) -> set[int]:
        """The ISO numbers of a day, or of several."""
        if isinstance(week_day, str | WeekDay):
            return {int(cls.convert(week_day))}
        if not isinstance(week_day, Iterable):
            raise TypeError(f"week_day={week_day!r} must be the name of a day, a WeekDay, or several of them")
        return {int(cls.convert(day)) for day in week_day}


class SkipMixin:
    """Marks operators that skip what is downstream of them."""


class BranchMixIn(SkipMixin):
    """Makes a branch of an operator whose `execute` calls `do_branch(context, ids)`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, BaseOperator) and cls.operator_traits == Traits():
            cls.operator_traits = Traits(BRANCH)
            cls._concluded = _followed  # type: ignore[method-assign, assignment]  # also where BaseOperator is the first base

    def do_branch(self, context: Context, branches_to_execute: Chosen) -> Chosen:
        """Follow these tasks or groups, whatever `execute` then returns; None or [] for none."""
        if branches_to_execute is not None and not isinstance(branches_to_execute, str):
            branches_to_execute = list(branches_to_execute)
        self._followed = (branches_to_execute,)
        return branches_to_execute


def _followed(branch: Any, result: Any) -> Any:
    (followed,) = getattr(branch, "_followed", (result,))
    return followed


class BaseBranchOperator(BranchMixIn, BaseOperator):
    """A branch as a class: `choose_branch(context)` gives the ids of tasks or groups to follow. See `@task.branch`."""

    operator_traits = Traits(BRANCH)

    def choose_branch(self, context: Context) -> Chosen:
        """The ids to follow; None or [] for none."""
        raise TypeError(f"{type(self).__name__} has no choose_branch(context)")

    def execute(self, context: Context) -> Any:
        return self.do_branch(context, self.choose_branch(context))


class LatestOnlyOperator(BaseOperator):
    """Lets all go on that follows, since a run that was started by hand does so in Airflow, and here all runs are such.

    Its value are the ids of the tasks that follow it directly.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.follows: list[str] = []

    def _attributes(self) -> dict[str, Any]:
        return {**super()._attributes(), "follows": self.downstream_task_ids if self.dag is not None else []}

    def execute(self, context: Context) -> list[str]:
        self.log.info("a run that was started by hand: what follows goes on")
        return self.follows


class BranchDayOfWeekOperator(BaseBranchOperator):
    """Follows one way on the days of the week `week_day` (a name, a WeekDay, or several), another on all others.

    `use_task_logical_date`: by the run's logical date; otherwise by the time now, in the dag's time zone.
    """

    def __init__(
        self,
        *,
        follow_task_ids_if_true: str | Iterable[str],
        follow_task_ids_if_false: str | Iterable[str],
        week_day: str | WeekDay | Iterable[str] | Iterable[WeekDay],
        use_task_logical_date: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.follow_task_ids_if_true = follow_task_ids_if_true
        self.follow_task_ids_if_false = follow_task_ids_if_false
        self.week_day = week_day
        self.use_task_logical_date = use_task_logical_date
        self._days = WeekDay.validate_week_day(week_day)

    def choose_branch(self, context: Context) -> Chosen:
        now: datetime = context["logical_date"]
        if not self.use_task_logical_date:
            now = context.now().astimezone(context["dag"].timezone)
        return self.follow_task_ids_if_true if now.isoweekday() in self._days else self.follow_task_ids_if_false


class BranchDateTimeOperator(BaseBranchOperator):
    """Follows one way between two times (both included), another outside. One of the two may be None.

    A bound is a datetime, or a time of each day; with two times of which the upper is the earlier one, that is on the
    next day. Without a zone they are in the dag's. `use_task_logical_date`: compared is the run's logical date;
    otherwise the time now.
    """

    def __init__(
        self,
        *,
        follow_task_ids_if_true: str | Iterable[str],
        follow_task_ids_if_false: str | Iterable[str],
        target_lower: datetime | time | None,
        target_upper: datetime | time | None,
        use_task_logical_date: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if target_lower is None and target_upper is None:
            raise DagError(f"{caller()}: give target_lower, target_upper or both")
        self.target_lower = target_lower
        self.target_upper = target_upper
        self.follow_task_ids_if_true = follow_task_ids_if_true
        self.follow_task_ids_if_false = follow_task_ids_if_false
        self.use_task_logical_date = use_task_logical_date

    def choose_branch(self, context: Context) -> Chosen:
        now: datetime = context["logical_date"] if self.use_task_logical_date else context.now()
        lower, upper = bounds_on(now, self.target_lower, self.target_upper, context["dag"].timezone)
        is_outside = (upper is not None and upper < now) or (lower is not None and lower > now)
        return self.follow_task_ids_if_false if is_outside else self.follow_task_ids_if_true


def bounds_on(
    day: datetime, lower: datetime | time | None, upper: datetime | time | None, zone: tzinfo = UTC
) -> tuple[datetime | None, datetime | None]:
    """Both bounds as moments, those that are times of day on that day; see BranchDateTimeOperator."""
    low, high = _moment_on(day, lower, zone), _moment_on(day, upper, zone)
    of_day = isinstance(lower, time) or isinstance(upper, time)
    if of_day and low is not None and high is not None and high < low:
        high += timedelta(days=1)
    return low, high


def _moment_on(day: datetime, bound: datetime | time | None, zone: tzinfo) -> datetime | None:
    if isinstance(bound, time):
        bound = datetime.combine(day, bound)
    return bound.replace(tzinfo=zone) if bound is not None and bound.tzinfo is None else bound
