"""Operators and sensors as classes, in `Dag.test()`: its clock leaps, so that waiting takes no time."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from liteflow import Dag, PokeReturnValue
from liteflow.errors import DagError, InvalidOptionError
from liteflow.operators import (
    BaseBranchOperator,
    BaseOperator,
    BaseSensorOperator,
    BashSensor,
    BranchDateTimeOperator,
    BranchDayOfWeekOperator,
    BranchMixIn,
    DateTimeSensor,
    DateTimeSensorAsync,
    DayOfWeekSensor,
    EmptyOperator,
    FileSensor,
    LatestOnlyOperator,
    PythonOperator,
    PythonSensor,
    TimeDeltaSensor,
    TimeDeltaSensorAsync,
    TimeSensor,
    WaitSensor,
    WeekDay,
    poke_mode_only,
)
from liteflow.operators.branch import bounds_on

pytestmark = pytest.mark.filterwarnings("ignore::liteflow.DagWarning")

MONDAY = datetime(2026, 1, 5, 12, tzinfo=UTC)


class Third(BaseSensorOperator):
    """Sees something at the third look."""

    def __init__(self, *, what: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.what = what
        self.looks = 0

    def poke(self, context: Any) -> PokeReturnValue:
        looks = self.looks = max(self.looks, context["task_reschedule_count"]) + 1
        return PokeReturnValue(looks == 3, f"seen {self.what}")


class Never(BaseSensorOperator):
    def poke(self, context: Any) -> bool:
        return False


class Broken(BaseSensorOperator):
    def poke(self, context: Any) -> bool:
        raise ValueError("no eyes")


def states(dag: Dag, **kwargs: Any) -> dict[str, str]:
    return {ti.task_id: str(ti.state) for ti in dag.test(**kwargs).task_instances()}


def sensor_states(**sensors: tuple[type[BaseSensorOperator], dict[str, Any]]) -> dict[str, str]:
    with Dag("d") as dag:
        for task_id, (cls, kwargs) in sensors.items():
            cls(task_id=task_id, **kwargs)
    return states(dag, logical_date=MONDAY)


def test_a_sensor_that_sees_nothing_ends_as_its_options_say() -> None:
    assert sensor_states(
        fails=(Never, {"timeout": 100}),
        fails_without_slot=(Never, {"timeout": timedelta(seconds=100), "mode": "reschedule"}),
        skips=(Never, {"timeout": 100, "soft_fail": True}),
        breaks=(Broken, {}),
        breaks_and_skips=(Broken, {"never_fail": True}),
        breaks_silently=(Broken, {"silent_fail": True, "soft_fail": True, "timeout": 100}),
    ) == {
        "fails": "failed",
        "fails_without_slot": "failed",
        "skips": "skipped",
        "breaks": "failed",
        "breaks_and_skips": "skipped",
        "breaks_silently": "skipped",
    }


@pytest.mark.parametrize("how", [{}, {"mode": "reschedule"}, {"deferrable": True}, {"exponential_backoff": True}])
def test_a_sensor_looks_again_until_it_sees(how: dict[str, Any]) -> None:
    with Dag("d") as dag:
        Third(task_id="third", what="it", poke_interval=600, **how)
    run = dag.test()
    assert (run.state, run.xcom("third")) == ("success", "seen it")


def test_a_sensor_can_be_mapped() -> None:
    with Dag("d") as dag:
        Third.partial(task_id="third", mode="reschedule", poke_interval=60).expand(what=["a", "b"])
        TimeDeltaSensorAsync.partial(task_id="later").expand(delta=[timedelta(minutes=10), timedelta(hours=1)])
    run = dag.test()
    assert (run.state, run.xcom("third")) == ("success", ["seen a", "seen b"])


def test_default_args_reach_a_sensor() -> None:
    with Dag("d", default_args={"poke_interval": 7, "soft_fail": True, "retries": 2}) as dag:
        never = Never(task_id="never", timeout=100)
        EmptyOperator(task_id="other")
    assert (never.poke_interval, never.options.retries) == (7.0, 2)
    assert states(dag)["never"] == "skipped"


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"mode": "sleep"}, "option mode='sleep'"),
        ({"poke_intervall": 3}, "poke_interval"),
        ({"timeout": -1}, "timeout=-1"),
    ],
)
def test_a_mistake_in_a_sensor_names_its_line(kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises((DagError, InvalidOptionError), match=r"test_sensor_operators\.py:\d+") as caught, Dag("d"):
        Never(task_id="never", **kwargs)
    assert said in str(caught.value)


class Counts(BaseSensorOperator):
    """Counts its looks, and has an `execute` of its own around them."""

    looks = 0

    def __init__(self, *, what: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.what = what
        self.poke_interval = 7

    def poke(self, context: Any) -> PokeReturnValue:
        self.looks += 1
        return PokeReturnValue(self.looks == 3, "it")

    def execute(self, context: Any) -> str:
        try:
            seen = super().execute(context)
        except Exception as error:
            raise AssertionError("a look that saw nothing is no error") from error
        return f"{seen} at look {self.looks}{self.what}"


def test_a_sensor_goes_on_in_its_own_execute_once_it_sees() -> None:
    """It used to hand on nothing, and its looks were looks of three objects."""
    with Dag("d") as dag:
        one = Counts(task_id="one")
        Counts.partial(task_id="many").expand(what=["!", "?"])
    run = dag.test()
    assert (run.xcom("one"), run.xcom("many")) == ("it at look 3", ["it at look 3!", "it at look 3?"])
    assert one.sensor is not None
    assert (one.sensor.poke_interval_s, one.reschedule) == (7.0, False)


def test_with_no_time_a_sensor_looks_once() -> None:
    counted: list[int] = []
    with Dag("d") as dag:
        PythonSensor(task_id="s", python_callable=counted.append, op_args=[1], timeout=0, soft_fail=True)
    assert (states(dag), len(counted)) == ({"s": "skipped"}, 1)


def test_a_sensor_of_time_looks_when_its_time_is_over() -> None:
    """It used to look only every minute."""
    with Dag("d") as dag:
        WaitSensor(task_id="wait", time_to_wait=timedelta(seconds=5))
        WaitSensor(task_id="wait_without_slot", time_to_wait=timedelta(seconds=5), deferrable=True)
    for ti in dag.test().task_instances():
        assert ti.started_at is not None
        assert ti.ended_at is not None
        assert timedelta(seconds=5) < ti.ended_at - ti.started_at < timedelta(seconds=6), ti.task_id


def test_a_sensor_of_time_takes_values_of_tasks() -> None:
    with Dag("d") as dag:
        date = PythonOperator(task_id="date", python_callable=lambda: datetime(2026, 1, 5, tzinfo=UTC))
        DateTimeSensor(task_id="at", target_time=date.output)
        TimeDeltaSensor(task_id="after", delta=PythonOperator(task_id="n", python_callable=lambda: 3).output)
    assert set(states(dag, logical_date=MONDAY).values()) == {"success"}


def test_what_is_for_triggers_is_taken_and_means_nothing() -> None:
    given = {"start_from_trigger": True, "end_from_trigger": True, "trigger_kwargs": {}}
    assert sensor_states(
        at=(DateTimeSensorAsync, {"target_time": "2026-01-05", **given}),
        file=(FileSensor, {"filepath": __file__, **given}),
    ) == {"at": "success", "file": "success"}


def test_a_class_may_allow_the_mode_poke_alone() -> None:
    @poke_mode_only
    class Only(BaseSensorOperator):
        def poke(self, context: Any) -> bool:
            return True

    with Dag("d") as dag:
        assert Only(task_id="only").mode == "poke"
        with pytest.raises(ValueError, match="the mode of Only cannot be 'reschedule'"):
            Only(task_id="other", mode="reschedule")
    assert states(dag) == {"only": "success"}
    with pytest.raises(ValueError, match="poke_mode_only is for classes of sensors"):
        poke_mode_only(EmptyOperator)  # type: ignore[type-var]


def test_sensors_of_time() -> None:
    now = datetime.now(UTC)
    assert set(
        sensor_states(
            at=(DateTimeSensor, {"target_time": now + timedelta(hours=3)}),
            text=(DateTimeSensor, {"target_time": "2026-01-05T13:00:00"}),
            of_day=(TimeSensor, {"target_time": (now + timedelta(minutes=1)).time(), "timeout": 2 * 86400}),
            delta=(TimeDeltaSensor, {"delta": timedelta(minutes=90)}),
            minutes=(TimeDeltaSensor, {"delta": 90}),
            wait=(WaitSensor, {"time_to_wait": timedelta(hours=2)}),
            day=(DayOfWeekSensor, {"week_day": {"Saturday", "sunday"}}),
            date=(DayOfWeekSensor, {"week_day": WeekDay.MONDAY, "use_task_logical_date": True}),
        ).values()
    ) == {"success"}


def test_a_file_sensor_wants_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "below").mkdir(parents=True)
    (tmp_path / "full" / "below" / "a.csv").touch()
    once = {"soft_fail": True, "timeout": 1, "poke_interval": 1}
    assert sensor_states(
        none=(FileSensor, {"filepath": str(tmp_path / "none"), **once}),
        empty=(FileSensor, {"filepath": str(tmp_path / "empty"), **once}),
        full=(FileSensor, {"filepath": str(tmp_path / "full"), **once}),
        wild=(FileSensor, {"filepath": str(tmp_path / "full" / "below" / "*.csv"), **once}),
        deep=(FileSensor, {"filepath": str(tmp_path / "**" / "a.csv"), "recursive": True, **once}),
        shallow=(FileSensor, {"filepath": str(tmp_path / "**" / "a.csv"), **once}),
    ) == {
        "none": "skipped",
        "empty": "skipped",
        "full": "success",
        "wild": "success",
        "deep": "success",
        "shallow": "skipped",
    }


def test_a_python_sensor_wants_a_function() -> None:
    said = r"test_sensor_operators\.py:\d+: python_callable=None must be a function"
    with pytest.raises(DagError, match=said), Dag("d"):
        PythonSensor(task_id="s", python_callable=None)  # type: ignore[arg-type]


def test_bash_and_python_sensors(tmp_path: Path) -> None:
    def sees(word: str, ti: Any) -> bool:
        return (word, ti.task_id) == ("yes", "python")

    once = {"soft_fail": True, "timeout": 1, "poke_interval": 1}
    assert sensor_states(
        python=(PythonSensor, {"python_callable": sees, "op_args": ["yes"]}),
        bash=(BashSensor, {"bash_command": "test $A = b", "env": {"A": "b"}}),
        not_yet=(BashSensor, {"bash_command": "exit 3", **once}),
        not_yet_by_code=(BashSensor, {"bash_command": "exit 3", "retry_exit_code": 3, **once}),
        wrong_code=(BashSensor, {"bash_command": "exit 4", "retry_exit_code": 3}),
    ) == {
        "python": "success",
        "bash": "success",
        "not_yet": "skipped",
        "not_yet_by_code": "skipped",
        "wrong_code": "failed",
    }


class Chooses(BaseBranchOperator):
    def choose_branch(self, context: Any) -> str:
        return f"way_{context['params']['n']}"


@pytest.mark.parametrize("n", [0, 1])
def test_a_branch_as_a_class(n: int) -> None:
    with Dag("d", params={"n": n}) as dag:
        Chooses(task_id="branch") >> [EmptyOperator(task_id="way_0"), EmptyOperator(task_id="way_1")]
    assert states(dag) == {"branch": "success", f"way_{n}": "success", f"way_{1 - n}": "skipped"}


class Branches(BaseOperator, BranchMixIn):
    def execute(self, context: Any) -> None:
        self.do_branch(context, (way for way in ("way_1",)))


def test_an_operator_that_calls_do_branch_is_a_branch() -> None:
    with Dag("d") as dag:
        Branches(task_id="branch") >> [EmptyOperator(task_id="way_0"), EmptyOperator(task_id="way_1")]
    assert states(dag) == {"branch": "success", "way_1": "success", "way_0": "skipped"}


def test_days_and_times_without_a_zone_are_those_of_the_dag() -> None:
    def follow(way: str) -> dict[str, Any]:
        return {"follow_task_ids_if_true": f"{way}_yes", "follow_task_ids_if_false": f"{way}_no"}

    with Dag("d", start_date=datetime(2026, 1, 1, tzinfo=ZoneInfo("Asia/Tokyo"))) as dag:
        for way, at in (("tokyo", time(21)), ("utc", time(12))):
            branch = BranchDateTimeOperator(
                task_id=way, target_lower=at, target_upper=at, use_task_logical_date=True, **follow(way)
            )
            branch >> [EmptyOperator(task_id=f"{way}_yes"), EmptyOperator(task_id=f"{way}_no")]
    found = states(dag, logical_date=MONDAY)  # 21:00 in Tokyo
    assert (found["tokyo_yes"], found["utc_yes"]) == ("success", "skipped")


def test_branches_by_date() -> None:
    follow = {"follow_task_ids_if_true": "yes", "follow_task_ids_if_false": "no", "use_task_logical_date": True}
    with Dag("d") as dag:
        first = BranchDayOfWeekOperator(task_id="monday", week_day="Monday", **follow)
        first >> [EmptyOperator(task_id="yes"), EmptyOperator(task_id="no")]
        # 12:00 lies between 23:00 and 13:00 of the next day, and not between 13:00 and 14:00.
    assert states(dag, logical_date=MONDAY) == {"monday": "success", "yes": "success", "no": "skipped"}
    for lower, upper, yes in (
        (time(12), time(13), True),
        (time(13), time(14), False),
        (time(13), time(11), False),
        (None, datetime(2026, 1, 5, tzinfo=UTC), False),
        (datetime(2026, 1, 5, tzinfo=UTC), None, True),
    ):
        with Dag("d") as dag:
            branch = BranchDateTimeOperator(task_id="b", target_lower=lower, target_upper=upper, **follow)
            branch >> [EmptyOperator(task_id="yes"), EmptyOperator(task_id="no")]
        assert states(dag, logical_date=MONDAY)["yes"] == ("success" if yes else "skipped"), (lower, upper)
    with pytest.raises(DagError, match="give target_lower, target_upper or both"):
        BranchDateTimeOperator(task_id="b", target_lower=None, target_upper=None, **follow)


def test_bounds_of_a_day_may_reach_into_the_next() -> None:
    assert bounds_on(MONDAY, time(23), time(1)) == (
        datetime(2026, 1, 5, 23, tzinfo=UTC),
        datetime(2026, 1, 6, 1, tzinfo=UTC),
    )


def test_days_of_the_week() -> None:
    assert WeekDay.validate_week_day([WeekDay.MONDAY, "sunday"]) == {1, 7}
    with pytest.raises(AttributeError, match=r"no day of the week 'Mondy' \(did you mean 'MONDAY'\?\)"):
        WeekDay.validate_week_day("Mondy")
    with pytest.raises(TypeError, match="week_day=3 must be"):
        WeekDay.validate_week_day(3)  # type: ignore[arg-type]


def test_what_follows_latest_only_goes_on_in_a_run_by_hand() -> None:
    with Dag("d") as dag:
        LatestOnlyOperator(task_id="latest") >> EmptyOperator(task_id="after")
    run = dag.test()
    assert {ti.task_id: str(ti.state) for ti in run.task_instances()} == {"latest": "success", "after": "success"}
    assert run.xcom("latest") == ["after"]
