"""Sensors: looking again and again, with a slot or without one, until there is something, or the time is over."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, FailTask, PokeReturnValue, SkipTask, get_current_context, task
from liteflow.errors import DagError, InvalidOptionError
from tests.conftest import Script, lines_of, states_of, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

BOTH = ["poke", "reschedule"]

MODES = pytest.mark.parametrize("mode", BOTH)


@task
def one() -> int:
    return 1


@task
def give(value: Any) -> Any:
    return value


@task
def touch(path: str) -> None:
    Path(path).touch()


@task.sensor(poke_interval=0.01, timeout=60)
def see_file(path: str) -> bool:
    return os.path.exists(path)


@task.sensor(poke_interval=0.01, timeout=60)
def see_after(path: str, looks: int, value: Any = True) -> Any:
    """Notes each look in a file, and gives `value` at the last of them."""
    with open(path, "a") as file:
        file.write(f"{get_current_context()['try_number']}\n")
    return value if len(Path(path).read_text().split()) >= looks else None


def looks_of(path: Path) -> list[str]:
    """The numbers of the tries that looked."""
    return path.read_text().split()


# What time does


def test_a_sensor_whose_time_is_over_fails_and_is_not_tried_again(db: str, tmp_path: Path) -> None:
    with Dag("late", db_path=db) as dag:
        for mode in BOTH:
            waiting = see_after.override(task_id=mode, mode=mode, timeout=0.1, retries=2)(str(tmp_path / mode), 10**6)
            waiting >> one.override(task_id=f"after_{mode}")()
    run = dag.run(progress=False, max_workers=2)
    assert states_of(run) == {**dict.fromkeys(BOTH, "failed"), **{f"after_{mode}": "upstream_failed" for mode in BOTH}}
    assert run.tries() == []
    for mode in BOTH:
        instance = run.task_instance(mode)
        assert (instance.end_reason, instance.try_number) == ("timeout", 1)
        assert "of the 0.1 s that it may" in str(instance.error)
        assert instance.error in lines_of(run, mode)
        assert len(looks_of(tmp_path / mode)) >= 2
        assert set(looks_of(tmp_path / mode)) == {"1"}


def test_how_the_end_of_its_time_is_taken_is_said_by_options(db: str, tmp_path: Path) -> None:
    """Even a limit that is over before it has looked at all lets it look once."""
    with Dag("options", db_path=db) as dag:
        for mode in BOTH:
            late = see_after.override(mode=mode, timeout=0.05, retries=2)
            for name, made in {
                "short": late.override(timeout=1e-6),
                "soft": late.override(soft_fail=True),
                "never": late.override(never_fail=True),
            }.items():
                made.override(task_id=f"{name}_{mode}")(str(tmp_path / f"{name}_{mode}"), 10**6)
            dag.get_task(f"soft_{mode}") >> one.override(task_id=f"after_{mode}")()
    run = dag.run(progress=False, max_workers=2)
    wanted = {"short": "failed", "soft": "skipped", "never": "failed", "after": "skipped"}
    assert states_of(run) == {f"{name}_{mode}": state for name, state in wanted.items() for mode in BOTH}
    assert [looks_of(tmp_path / f"short_{mode}") for mode in BOTH] == [["1"], ["1"]]
    assert all("SensorTimeout" in str(run.task_instance(f"soft_{mode}").error) for mode in BOTH)
    assert {str(run.task_instance(f"never_{mode}").end_reason) for mode in BOTH} == {"timeout"}


@task.sensor(poke_interval=0.01, timeout=0.3, mode="reschedule", retries=1)
def break_at_first(path: str) -> bool:
    """Sees nothing at two looks of each try, and then breaks in the first try."""
    number = get_current_context()["try_number"]
    with open(path, "a") as file:
        file.write(f"{number}\n")
    if Path(path).read_text().split().count(str(number)) < 3:
        return False
    if number == 1:
        raise OSError("the disk is not there")
    return True


def test_an_error_uses_a_retry_and_the_looks_of_the_next_try_are_counted_anew(db: str, tmp_path: Path) -> None:
    path = tmp_path / "looks"
    with Dag("again", db_path=db) as dag:
        break_at_first(str(path))
    run = dag.run(progress=False, max_workers=2)
    assert run.state == "success"
    assert looks_of(path) == ["1"] * 3 + ["2"] * 3
    assert [(one.try_number, one.error) for one in run.tries()] == [(1, "OSError: the disk is not there")]
    assert run.task_instance("break_at_first").reschedules == 2


@task.sensor(poke_interval=60, execution_timeout=0.2, kill_grace_s=0.1, timeout=600)
def hang_while_looking() -> bool:
    threading.Event().wait(60)
    return True


@MODES
def test_one_look_is_limited_by_the_execution_timeout(db: str, mode: str) -> None:
    with Dag("hang", db_path=db) as dag:
        hang_while_looking.override(mode=mode)()
    run = dag.run(progress=False, max_workers=1)
    assert run.task_instance("hang_while_looking").error == "TaskKilled: took longer than its timeout of 0.2 s"


@task.sensor(poke_interval=60, timeout=600)
def die_while_looking(path: str) -> bool:
    if not os.path.exists(path):
        Path(path).touch()
        os._exit(9)
    return True


@MODES
def test_a_sensor_that_ends_its_process_uses_a_retry(db: str, tmp_path: Path, mode: str) -> None:
    with Dag("die", db_path=db) as dag:
        die_while_looking.override(mode=mode, retries=1)(str(tmp_path / "died"))
    run = dag.run(progress=False, max_workers=1)
    assert run.state == "success"
    assert [one.end_reason for one in run.tries()] == ["crashed"]


# Errors while it looks


@task.sensor(poke_interval=0.01, timeout=0.2)
def raise_while_looking(kind: str) -> bool:
    raise {"error": ValueError, "fail": FailTask, "skip": SkipTask}[kind]("on purpose")


RAISED = [
    # option, what is raised, the state and how many tries it took
    (None, "error", "failed", 2),
    (None, "fail", "failed", 1),
    (None, "skip", "skipped", 1),
    ("soft_fail", "error", "failed", 2),
    ("soft_fail", "fail", "skipped", 1),
    ("never_fail", "error", "skipped", 1),
    ("never_fail", "fail", "skipped", 1),
    ("silent_fail", "error", "failed", 1),
    ("silent_fail", "fail", "failed", 1),
    ("silent_fail", "skip", "skipped", 1),
]


@MODES
def test_what_an_error_does_is_said_by_options(db: str, mode: str) -> None:
    with Dag("raised", db_path=db) as dag:
        for option, kind, _, _ in RAISED:
            made = raise_while_looking.override(
                task_id=f"{option}-{kind}", mode=mode, retries=1, **({option: True} if option else {})
            )
            made(kind)
    run = dag.run(progress=False, max_workers=2)
    found = {instance.task_id: (str(instance.state), instance.try_number) for instance in run.task_instances()}
    assert found == {f"{option}-{kind}": (state, tries) for option, kind, state, tries in RAISED}
    # An error that is silent counts as "not yet", so the time runs out.
    assert run.task_instance("silent_fail-error").end_reason == "timeout"
    assert sum("ValueError: on purpose" in line for line in lines_of(run, "silent_fail-error")) > 1


def test_soft_fail_and_never_fail_together_are_refused() -> None:
    with Dag("both"), pytest.raises(DagError, match=r"test_sensors\.py:\d+: give soft_fail or never_fail, not both"):
        task.sensor(soft_fail=True, never_fail=True)(lambda: True)()


@pytest.mark.parametrize(
    "options",
    [{"mode": "wait"}, {"poke_interval": -1}, {"timeout": -1}, {"max_wait": -1}, {"soft_fail": 1}],
    ids=str,
)
def test_senseless_options_are_refused_where_they_are_written(options: dict[str, Any]) -> None:
    with Dag("senseless"), pytest.raises(InvalidOptionError, match=r"test_sensors\.py:\d+: "):
        task.sensor(**options)(lambda: True)()


# What it hands on


SEEN = [
    (True, None),
    (1, None),
    ("text", None),
    ({"a": 1}, None),
    (PokeReturnValue(True), None),
    (PokeReturnValue(True, {"rows": 3}), {"rows": 3}),
    (PokeReturnValue(True, 0), 0),
]


@MODES
def test_only_a_poke_return_value_hands_something_on(db: str, tmp_path: Path, mode: str) -> None:
    with Dag("seen", db_path=db) as dag:
        for number, (value, _) in enumerate(SEEN):
            see = see_after.override(task_id=f"see{number}", mode=mode)(str(tmp_path / str(number)), 2, value)
            give.override(task_id=f"got{number}")(see)
    run = dag.run(progress=False, max_workers=2)
    assert run.state == "success"
    assert [run.xcom(f"got{number}") for number in range(len(SEEN)) if f"got{number}" in stored(run)] == [
        value for _, value in SEEN if value is not None
    ]


def stored(run: Any) -> set[str]:
    """The tasks that handed a result on."""
    return {xcom.task_id for xcom in run.xcoms() if xcom.key == "return_value"}


@task.sensor(poke_interval=0.01, timeout=60)
def see_nothing_at_first(path: str, nothing: Any) -> Any:
    if os.path.exists(path):
        return True
    Path(path).touch()
    return nothing


NOTHING: list[Any] = [None, 0, "", [], PokeReturnValue(False, "early")]


def test_whatever_is_false_means_not_yet(db: str, tmp_path: Path) -> None:
    with Dag("nothing", db_path=db) as dag:
        for number, nothing in enumerate(NOTHING):
            see_nothing_at_first(str(tmp_path / str(number)), nothing)
    run = dag.run(progress=False, max_workers=1)
    assert run.state == "success"
    assert run.xcoms() == []


@task.sensor(poke_interval=0.01, timeout=60, mode="reschedule")
def push_and_see(path: str) -> bool:
    get_current_context()["ti"].xcom_push("looks", path)
    if os.path.exists(path):
        return True
    Path(path).touch()
    return False


def test_a_sensor_can_be_mapped_and_can_push(db: str, tmp_path: Path) -> None:
    paths = [str(tmp_path / str(number)) for number in range(5)]
    with Dag("mapped", db_path=db) as dag:
        push_and_see.expand(path=paths)
    run = dag.run(progress=False, max_workers=2)
    assert run.state == "success"
    assert [run.xcom("push_and_see", "looks", map_index=index) for index in range(5)] == paths
    assert {instance.reschedules for instance in run.task_instances()} == {1}


# Slots


def test_a_rescheduled_sensor_lets_others_have_the_only_slot(db: str, tmp_path: Path) -> None:
    path = str(tmp_path / "there")
    with Dag("one_slot", db_path=db) as dag:
        see_file.override(mode="reschedule")(path)
        touch(path)
    run = dag.run(progress=False, max_workers=1)
    assert run.state == "success"
    assert run.task_instance("see_file").try_number == 1
    assert run.tries() == []


def test_a_rescheduled_sensor_says_when_it_looks_next_and_keeps_its_beginning(db: str, tmp_path: Path) -> None:
    path = tmp_path / "there"
    with Dag("waits", db_path=db) as dag:
        see_file.override(mode="reschedule", poke_interval=0.2)(str(path))
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)

        def waiting() -> Any:
            instance = handle.run.task_instance("see_file")
            return instance if instance.state == "up_for_reschedule" else None

        instance = wait_until(waiting, "it gave its slot back")
        assert instance.due_at - instance.started_at >= timedelta(seconds=0.2)
        path.touch()
        after = handle.wait(timeout=60).task_instance("see_file")
    assert (after.state, after.due_at) == ("success", None)
    assert after.started_at == instance.started_at, "it is the same try all along"


def test_on_execute_is_called_at_every_look_and_the_others_once(db: str, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    with Dag("calls", db_path=db) as dag:
        see_after.override(
            mode="reschedule",
            on_execute_callback=lambda context: note(path, "execute", context),
            on_success_callback=lambda context: note(path, "success", context),
            on_retry_callback=lambda context: note(path, "retry", context),
        )(str(tmp_path / "looks"), 3)
    assert dag.run(progress=False, max_workers=1).state == "success"
    assert path.read_text().split() == ["execute:0", "execute:1", "execute:2", "success:0"]


def note(path: Path, word: str, context: Any) -> None:
    with open(path, "a") as file:
        file.write(f"{word}:{context['task_reschedule_count']}\n")


def test_a_thousand_rescheduled_sensors_and_fifty_tasks_share_two_slots(db: str, tmp_path: Path) -> None:
    """The sensors see something only when all the work is done, and the work needs both slots."""
    go = tmp_path / "go"
    with Dag("crowd", db_path=db) as dag:
        see_file.override(mode="reschedule", poke_interval=1, timeout=300).partial().expand(path=[str(go)] * 1000)
        # Of the same weight as the sensors, and behind all of them in the queue.
        done = [work.override(task_id=f"work{number}", weight_rule="absolute")() for number in range(50)]
        touch(str(go)) << done
    run: Any = dag.run(progress=False, max_workers=2)
    assert run.state == "success"
    instances = run.task_instances()
    sensors = [instance for instance in instances if instance.task_id == "see_file"]
    assert len(sensors) == 1000
    assert {(str(instance.state), instance.try_number) for instance in sensors} == {("success", 1)}
    assert any(instance.reschedules for instance in sensors)
    first, last = min(one.started_at for one in sensors), max(one.ended_at for one in sensors)
    work_ended = [instance.ended_at for instance in instances if instance.task_id.startswith("work")]
    assert all(first < ended < last for ended in work_ended), "the work was done among the sensors"


@task
def work() -> int:
    return sum(range(200_000))


# A run that ends while sensors wait


@MODES
def test_cancel_ends_sensors_that_wait(db: str, tmp_path: Path, mode: str) -> None:
    with Dag("cancel", db_path=db, default_args={"kill_grace_s": 0.2}) as dag:
        see_file.override(mode=mode, poke_interval=60)(str(tmp_path / "never")) >> one()
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        waits = "running" if mode == "poke" else "up_for_reschedule"
        wait_until(lambda: has_looked(handle.run, waits), "it has looked")
        handle.cancel()
        run = handle.wait(timeout=10)
    assert (run.state, run.end_reason) == ("failed", "cancelled")
    assert states_of(run) == {"see_file": "failed" if mode == "poke" else "skipped", "one": "skipped"}
    assert run.task_instance("see_file").end_reason == "cancelled"
    assert run.task_instance("see_file").due_at is None


def has_looked(run: Any, state: str) -> bool:
    instance = run.task_instance("see_file")
    return instance.state == state and instance.started_at is not None


@MODES
def test_dagrun_timeout_ends_sensors_that_wait(db: str, tmp_path: Path, mode: str) -> None:
    with Dag("over", db_path=db, dagrun_timeout=0.4, default_args={"kill_grace_s": 0.2}) as dag:
        for number in range(3):
            see_file.override(task_id=f"see{number}", mode=mode, poke_interval=60)(str(tmp_path / "never"))
    run = dag.run(progress=False, max_workers=1)
    assert (run.state, run.end_reason) == ("failed", "timeout")
    assert {str(instance.end_reason) for instance in run.task_instances()} == {"timeout"}
    assert set(states_of(run).values()) <= {"failed", "skipped"}


def test_ctrl_c_while_sensors_wait_ends_the_process_at_once(script: Callable[..., Script], tmp_path: Path) -> None:
    import signal

    host = script(WAITING).start()
    wait_until(lambda: (tmp_path / "looked").exists(), "it has looked")
    wait_until(lambda: states_of(_latest(tmp_path)) == {"see": "up_for_reschedule"}, "it waits")
    host.send_signal(signal.SIGINT)
    _, errors = host.communicate(timeout=20)
    assert host.returncode in (130, -signal.SIGINT), errors
    assert states_of(_latest(tmp_path)) == {"see": "up_for_reschedule"}


WAITING = """
from pathlib import Path
from liteflow import Dag, task

@task.sensor(mode="reschedule", poke_interval=60)
def see():
    Path("looked").touch()
    return False

with Dag("waiting", db_path="waiting.db") as dag:
    see()

if __name__ == "__main__":
    dag.run(progress=False)
"""


def _latest(tmp_path: Path) -> Any:
    run = Dag("waiting", db_path=str(tmp_path / "waiting.db")).latest_run()
    assert run is not None
    return run


# Intervals


def test_a_sensor_with_backoff_waits_until_its_time_is_over(db: str, tmp_path: Path) -> None:
    """The last interval is cut to what is left, so the limit holds though the next look would come much later."""
    path = tmp_path / "looks"
    with Dag("backoff", db_path=db) as dag:
        for mode in BOTH:
            see_after.override(task_id=mode, mode=mode, exponential_backoff=True, timeout=0.3, poke_interval=100)(
                str(path), 10**6
            )
    run: Any = dag.run(progress=False, max_workers=2)
    assert {str(instance.end_reason) for instance in run.task_instances()} == {"timeout"}
    assert all(instance.duration < timedelta(seconds=3) for instance in run.task_instances())


@MODES
def test_an_interval_longer_than_any_calendar_harms_nobody(db: str, tmp_path: Path, mode: str) -> None:
    with Dag("ages", db_path=db, default_args={"kill_grace_s": 0.1}) as dag:
        see_after.override(mode=mode, poke_interval=1e300)(str(tmp_path / "looks"), 2)
        one()
    with ExecutorService(db, max_workers=2) as service:
        handle = service.submit(dag)
        wait_until(lambda: (tmp_path / "looks").exists(), "it has looked")
        waits = "running" if mode == "poke" else "up_for_reschedule"
        wait_until(lambda: states_of(handle.run) == {"see_after": waits, "one": "success"}, "it waits")
        handle.cancel()
        assert handle.wait(timeout=60).end_reason == "cancelled"
