"""Pools, limits of a run, the run before this one: what may run at the same time, and what must wait."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, get_current_context, task
from liteflow.errors import DagError, LiteflowError
from tests.conftest import Script, change, command, states_of, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@task
def one() -> int:
    return 1


@task
def append(path: str, word: str) -> None:
    with open(path, "a") as file:
        file.write(f"{word}\n")


@task
def wait_for(go: str) -> None:
    pause = threading.Event()
    while not os.path.exists(go):
        pause.wait(0.005)


@task
def alone(path: str) -> None:
    """Fails when another one is inside at the same time."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    with open(f"{path}.log", "a") as file:
        file.write("x")
    os.unlink(path)


def pools_of(db: str) -> dict[str, tuple[int, int]]:
    """Of each pool: its slots, and how many are in use."""
    from liteflow.execution.liveness import is_alive
    from liteflow.storage.pools import list_pools
    from liteflow.storage.schema import open_database

    database = open_database(db)
    try:
        with database.read() as session:
            return {
                pool.name: (pool.slots, pool.slots_in_use)
                for pool in list_pools(session, lambda owner: is_alive(db, owner))
            }
    finally:
        database.close()


# Services that share a pool

SHARER = """
import os, sys
from liteflow import Dag, ExecutorService, task

@task(pool="api", pool_slots={slots})
def work(number):
    open(f"begun.{{os.getppid()}}", "a").close()
    {body}

with Dag("sharer", db_path={db!r}) as dag:
    work.expand(number=list(range({count})))

if __name__ == "__main__":
    with ExecutorService({db!r}, max_workers=2, pools={{"api": 2}}) as service:
        print(service.submit(dag).wait().state)
"""

HOLD = "import threading; threading.Event().wait(120)"


@contextmanager
def holding(script: Callable[..., Script], db: str, slots: int, count: int) -> Iterator[subprocess.Popen[str]]:
    """Another process whose tasks hold both slots of the pool; it is killed at the end."""
    made = script(SHARER.format(db=db, slots=slots, body=HOLD, count=count), "holder.py")
    process = made.start()
    try:
        wait_until(lambda: list(made.path.parent.glob("begun.*")), "the first task runs")
        wait_until(lambda: pools_of(db) == {"api": (2, 2)}, "both slots are taken")
        yield process
    finally:
        process.kill()
        process.communicate()


def test_slots_of_a_killed_service_are_free_for_others(script: Callable[..., Script], db: str) -> None:
    """Nothing is ever given back: what counts are the claims of services that live."""
    with Dag("heir", db_path=db) as dag:
        one.override(pool="api", pool_slots=2)()
    with holding(script, db, slots=1, count=2) as holder, ExecutorService(db, max_workers=2) as service:
        handle = service.submit(dag)
        wait_until(lambda: states_of(handle.run) == {"one": "queued"}, "it waits for the pool")
        holder.kill()
        holder.communicate()
        wait_until(lambda: handle.state.is_terminal, "it gets the slots of the dead one", timeout_s=4)
        assert handle.wait(timeout=1).state == "success"
        assert pools_of(db)["api"] == (2, 0)


def test_slots_that_a_stopped_service_holds_are_not_given_away(script: Callable[..., Script], db: str) -> None:
    with Dag("heir", db_path=db) as dag:
        one.override(pool="api")()
        one.override(task_id="free")()
    with holding(script, db, slots=2, count=1) as holder, ExecutorService(db, max_workers=2) as service:
        holder.send_signal(signal.SIGSTOP)
        handle = service.submit(dag)
        wait_until(lambda: states_of(handle.run)["free"] == "success", "what needs no pool goes on")
        assert states_of(handle.run)["one"] == "queued"
        handle.cancel()
        assert states_of(handle.wait(timeout=20))["one"] == "skipped"


INSIDE = """
    for _ in range(3):
        os.close(os.open("inside", os.O_CREAT | os.O_EXCL))
        with open("log", "a") as file:
            file.write("x")
        os.unlink("inside")
"""


def test_two_services_never_have_more_of_a_pool_than_there_is(
    script: Callable[..., Script], db: str, tmp_path: Path
) -> None:
    """Each task takes the whole pool and fails if another is inside."""
    sharer = script(SHARER.format(db=db, slots=2, body=INSIDE.strip(), count=60))
    both = [sharer.start(), sharer.start()]
    said = [process.communicate(timeout=60) for process in both]
    assert [out for out, _ in said] == ["success\n", "success\n"], said
    assert (tmp_path / "log").read_text() == "x" * 2 * 60 * 3
    assert len(list(tmp_path.glob("begun.*"))) == 2, "both have run some"
    assert pools_of(db)["api"] == (2, 0)


# One service


def test_slots_are_free_however_a_task_ended(db: str) -> None:
    ends = ["os._exit(1)", "raise ValueError", "os.kill(os.getpid(), 9)", "pass"]
    with Dag("ends", db_path=db) as dag:
        for number in range(8):
            task(_runner(ends[number % 4]), task_id=f"t{number}", pool="api", retries=1)()
    with ExecutorService(db, max_workers=2, pools={"api": 1}) as service:
        run = service.submit(dag).wait(timeout=60)
        assert pools_of(db) == {"api": (1, 0)}
    assert [run.task_instance(f"t{number}").try_number for number in range(8)] == [2, 2, 2, 1] * 2


def _runner(code: str) -> Callable[[], None]:
    def run() -> None:
        exec(code, {"os": os})

    return run


def test_slots_are_free_after_timeout_cancel_and_skips(db: str, tmp_path: Path) -> None:
    with Dag("ends", db_path=db, default_args={"pool": "api", "kill_grace_s": 0.1}) as dag:
        wait_for.override(task_id="late", timeout=0.2)(str(tmp_path / "never"))
        wait_for.override(task_id="held", priority_weight=-1)(str(tmp_path / "never"))
        one.override(priority_weight=-2)()
    with ExecutorService(db, max_workers=2, pools={"api": 1}) as service:
        handle = service.submit(dag)
        wait_until(lambda: states_of(handle.run)["held"] == "running", "the next one has the slot")
        assert pools_of(db) == {"api": (1, 1)}
        handle.cancel()
        assert states_of(handle.wait(timeout=30)) == {"late": "failed", "held": "failed", "one": "skipped"}
        assert pools_of(db) == {"api": (1, 0)}


def test_a_full_pool_holds_up_nobody_outside_of_it(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("full", db_path=db) as dag:
        for number in range(5):
            wait_for.override(task_id=f"in{number}", pool="api", priority_weight=10)(str(go))
        for number in range(20):
            one.override(task_id=f"out{number}")()
    with ExecutorService(db, max_workers=2, pools={"api": 1}) as service:
        handle = service.submit(dag)
        wait_until(lambda: list(states_of(handle.run).values()).count("success") == 20, "those outside are done")
        assert sorted(states_of(handle.run)[f"in{number}"] for number in range(5)) == ["queued"] * 4 + ["running"]
        go.touch()
        assert handle.wait(timeout=30).state == "success"


def test_a_task_takes_as_many_slots_as_it_says(db: str, tmp_path: Path) -> None:
    """Three of four slots: no two of these at once, but one of one slot beside it."""
    path, go = str(tmp_path / "lock"), tmp_path / "go"
    with Dag("slots", db_path=db, default_args={"pool": "api"}) as dag:
        wait_for.override(pool_slots=3, priority_weight=9)(str(go))
        one()
        for number in range(4):
            alone.override(task_id=f"alone{number}", pool_slots=3)(path)
    with ExecutorService(db, max_workers=4, pools={"api": 4}) as service:
        handle = service.submit(dag)
        wait_until(lambda: states_of(handle.run)["one"] == "success", "the small one runs beside the large one")
        assert states_of(handle.run)["alone0"] == "queued"
        assert pools_of(db) == {"api": (4, 3)}
        go.touch()
        assert handle.wait(timeout=30).state == "success"


def test_a_rescheduled_sensor_holds_no_slot_of_its_pool(db: str, tmp_path: Path) -> None:
    with Dag("sensor", db_path=db, default_args={"pool": "api"}) as dag:

        @task.sensor(mode="reschedule", poke_interval=0.02, timeout=60, priority_weight=5)
        def see(path: str) -> bool:
            return os.path.exists(path)

        see(str(tmp_path / "there"))
        append(str(tmp_path / "there"), "x")
    with ExecutorService(db, max_workers=1, pools={"api": 1}) as service:
        assert service.submit(dag).wait(timeout=30).state == "success"


def test_a_pool_can_be_made_larger_and_smaller_while_it_is_used(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("sizes", db_path=db, default_args={"pool": "api"}) as dag:
        for number in range(4):
            wait_for.override(task_id=f"t{number}")(str(go))

    def in_use() -> int:
        return pools_of(db)["api"][1]

    with ExecutorService(db, max_workers=4, pools={"api": 1}) as service:
        handle = service.submit(dag)
        wait_until(lambda: in_use() == 1, "one runs")
        assert command("pools", "set", "api", "3", "--db", db, cwd=tmp_path).returncode == 0
        wait_until(lambda: in_use() == 3, "three run")
        assert command("pools", "set", "api", "1", "--db", db, cwd=tmp_path).returncode == 0
        go.touch()
        assert handle.wait(timeout=30).state == "success"
        assert pools_of(db) == {"api": (1, 0)}


def test_an_unknown_pool_and_one_that_is_too_small_are_refused_before_anything_runs(db: str) -> None:
    with Dag("unknown", db_path=db) as unknown:
        one.override(pool="apj")()
    with Dag("small", db_path=db) as small:
        one.override(pool="api", pool_slots=3)()
    with ExecutorService(db, max_workers=1, pools={"api": 2}) as service:
        with pytest.raises(LiteflowError, match=r"limits\.py:\d+: task 'one' is in pool 'apj'.*did you mean 'api'"):
            service.submit(unknown)
        with pytest.raises(LiteflowError, match=r"limits\.py:\d+: task 'one' takes 3 slots of pool 'api', which has 2"):
            service.submit(small)
    assert unknown.runs() == small.runs() == []


def test_a_pool_that_is_deleted_while_tasks_wait_for_it_has_no_room(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("deleted", db_path=db, default_args={"pool": "api"}) as dag:
        wait_for.override(priority_weight=2)(str(go))
        one()
    with ExecutorService(db, max_workers=2, pools={"api": 1}) as service:
        handle = service.submit(dag)
        wait_until(lambda: pools_of(db)["api"][1] == 1, "one runs")
        change(db, "DELETE FROM liteflow_pool")
        go.touch()
        wait_until(lambda: states_of(handle.run) == {"wait_for": "success", "one": "queued"}, "the other one waits")
        change(db, "INSERT INTO liteflow_pool (name, slots) VALUES ('api', 1)")
        assert handle.wait(timeout=30).state == "success"


# Weights and limits of a run


def order_of(dag: Dag, path: Path) -> list[str]:
    """In which order the tasks of the dag ran in one slot."""
    assert dag.run(progress=False, max_workers=1).state == "success"
    return path.read_text().split()


def test_the_heaviest_goes_first(db: str, tmp_path: Path) -> None:
    path = tmp_path / "order"
    with Dag("weights", db_path=db) as dag:
        first = one()
        for weight in (1, 5, -3, 5, 2):
            first >> append.override(task_id=f"w{len(dag.tasks)}", priority_weight=weight)(str(path), str(weight))
    assert order_of(dag, path) == ["5", "5", "2", "1", "-3"]


@pytest.mark.parametrize(("rule", "wanted"), [("downstream", ["long", "short"]), ("absolute", ["short", "long"])])
def test_what_follows_counts_with_the_rule_downstream(db: str, tmp_path: Path, rule: str, wanted: list[str]) -> None:
    path = tmp_path / "order"
    with Dag("rules", db_path=db, default_args={"weight_rule": rule}) as dag:
        first = one()
        first >> append.override(task_id="short", priority_weight=5)(str(path), "short")
        first >> append.override(task_id="long")(str(path), "long") >> one.override(task_id="tail", priority_weight=9)()
    assert order_of(dag, path) == wanted


def test_max_active_tasks_limits_each_run_by_itself(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("limited", db_path=db, max_active_tasks=1) as dag:
        for number in range(3):
            wait_for.override(task_id=f"t{number}")(str(go))
    with ExecutorService(db, max_workers=4) as service:
        handles = [service.submit(dag) for _ in range(2)]

        def running() -> list[int]:
            return [list(states_of(handle.run).values()).count("running") for handle in handles]

        wait_until(lambda: running() == [1, 1], "one of each runs")
        go.touch()
        assert [handle.wait(timeout=30).state for handle in handles] == ["success", "success"]


def test_max_active_tis_limits_the_instances_of_one_task(db: str, tmp_path: Path) -> None:
    with Dag("instances", db_path=db) as dag:
        alone.override(max_active_tis_per_dagrun=1).partial().expand(path=[str(tmp_path / "lock")] * 12)
        for number in range(10):
            one.override(task_id=f"t{number}")()
    assert dag.run(progress=False, max_workers=3).state == "success"
    assert (tmp_path / "lock.log").read_text() == "x" * 12


def test_dagrun_timeout_skips_what_has_not_begun_and_ends_what_runs(db: str, tmp_path: Path) -> None:
    with Dag("over", db_path=db, dagrun_timeout=0.3, default_args={"kill_grace_s": 0.1, "retries": 2}) as dag:
        wait_for(str(tmp_path / "never")) >> one()
        one.override(task_id="retried", retry_delay=60)()
    run = dag.run(progress=False, max_workers=1)
    assert (run.state, run.end_reason) == ("failed", "timeout")
    assert states_of(run)["one"] == "skipped"
    assert run.task_instance("wait_for").end_reason == "timeout"


HANGS = """
import os, threading
from liteflow import Dag, ExecutorService, task

@task(kill_grace_s=0.2)
def work():
    return 1

with Dag("hangs", db_path="hangs.db") as dag:
    work()

if __name__ == "__main__":
    with ExecutorService("hangs.db", max_workers=1) as service:
        handle = service.submit(dag)
        while not os.path.exists("importing"):
            threading.Event().wait(0.01)
        handle.cancel()
        run = handle.wait(timeout=20)
        print(run.state, run.end_reason, run.task_instance("work").state)
elif "LITEFLOW_SLOT" in os.environ:
    open("importing", "w").close()
    threading.Event().wait(120)
"""


def test_a_task_whose_file_never_ends_being_imported_can_be_cancelled(script: Callable[..., Script], db: str) -> None:
    """It had taken its job, and had not said that it began: it was waited for, and stopping the service hung."""
    ended = script(HANGS.replace("hangs.db", db)).run(timeout=40)
    assert ended.stdout == "failed cancelled failed\n", ended.stderr


# The run before


def run_on(dag: Dag, day: int, params: dict[str, Any] | None = None, **options: Any) -> Any:
    """A run for that day of a month."""
    moment = datetime(2026, 5, day, tzinfo=UTC)
    return dag.run(params, run_id=f"day{day}", logical_date=moment, progress=False, max_workers=2, **options)


@task
def end(how: str) -> None:
    from liteflow import SkipTask

    if how == "fail":
        raise ValueError("on purpose")
    if how == "skip":
        raise SkipTask("on purpose")


def past_dag(db: str, **options: Any) -> Dag:
    """`end` depends on its own past; `below` follows it and ends as `then` says."""
    with Dag("past", db_path=db, params={"how": "well", "then": "well"}) as dag:
        first = end.override(**{"depends_on_past": True, **options})(dag.param("how"))
        first >> end.override(task_id="below")(dag.param("then"))
    return dag


def test_the_first_run_has_no_past(db: str) -> None:
    assert run_on(past_dag(db), 1).state == "success"


@pytest.mark.parametrize(("how", "wanted"), [("well", "success"), ("skip", "success"), ("fail", "upstream_failed")])
def test_the_state_in_the_run_before_decides(db: str, how: str, wanted: str) -> None:
    dag = past_dag(db)
    run_on(dag, 1, {"how": how})
    run_on(dag, 9, {"how": "fail"})  # later, though it ran before
    run = run_on(dag, 2)
    instance = run.task_instance("end")
    assert instance.state == wanted
    if wanted == "upstream_failed":
        assert instance.error == "depends_on_past: 'end' is failed in the run before, 'day1'"
        assert run.task_instance("below").state == "upstream_failed"
        assert run_on(dag, 3).task_instance("end").error == (
            "depends_on_past: 'end' is upstream_failed in the run before, 'day2'"
        )


def test_what_follows_in_the_run_before_counts_with_wait_for_downstream(db: str) -> None:
    plain, strict = past_dag(db), past_dag(db, depends_on_past=False, wait_for_downstream=True)
    run_on(plain, 1, {"then": "fail"})
    assert run_on(plain, 2, {"then": "fail"}).task_instance("end").state == "success"
    run = run_on(strict, 3)
    assert run.task_instance("end").state == "upstream_failed"
    assert run.task_instance("end").error == "wait_for_downstream: 'below' is failed in the run before, 'day2'"


def test_a_task_that_is_new_and_one_that_is_mapped(db: str) -> None:
    with Dag("past", db_path=db) as old:
        end.override(task_id="other")("fail")
    run_on(old, 1)
    with Dag("past", db_path=db, params={"last": "well"}) as dag:
        mapped = end.override(depends_on_past=True)
        mapped.expand(how=["well", "skip"])
    assert run_on(dag, 2).state == "success", "it was not in the run before"
    with Dag("past", db_path=db) as failing:
        mapped.expand(how=["well", "skip", "fail"])
    assert run_on(failing, 3).state == "failed"
    run = run_on(dag, 4)
    assert {str(instance.state) for instance in run.task_instances()} == {"upstream_failed"}
    assert run.task_instances()[0].error == "depends_on_past: 'end[2]' is failed in the run before, 'day3'"


@task
def wait_or_go(go: str) -> None:
    if get_current_context()["run_id"] == "day1":
        pause = threading.Event()
        while not os.path.exists(go):
            pause.wait(0.005)


def test_it_waits_while_the_run_before_goes_on(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("past", db_path=db) as dag:
        wait_or_go.override(depends_on_past=True)(str(go))
        one()
    with ExecutorService(db, max_workers=2) as service, ExecutorService(db, max_workers=2) as other:
        first = service.submit(dag, run_id="day1", logical_date=datetime(2026, 5, 1, tzinfo=UTC))
        second = service.submit(dag, run_id="day2", logical_date=datetime(2026, 5, 2, tzinfo=UTC))
        third = other.submit(dag, run_id="day3", logical_date=datetime(2026, 5, 3, tzinfo=UTC))
        wait_until(lambda: states_of(third.run)["one"] == "success", "what does not depend on it is done")
        assert [states_of(one.run)["wait_or_go"] for one in (first, second, third)] == ["running", "pending", "pending"]
        go.touch()
        assert [one.wait(timeout=30).state for one in (first, second, third)] == ["success"] * 3


def test_it_can_be_cancelled_while_it_waits_for_the_run_before(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("past", db_path=db) as dag:
        wait_or_go.override(depends_on_past=True)(str(go))
    with ExecutorService(db, max_workers=2) as service:
        first = service.submit(dag, run_id="day1", logical_date=datetime(2026, 5, 1, tzinfo=UTC))
        second = service.submit(dag, run_id="day2", logical_date=datetime(2026, 5, 2, tzinfo=UTC))
        wait_until(lambda: second.state == "running", "it has begun")
        second.cancel()
        assert states_of(second.wait(timeout=10)) == {"wait_or_go": "skipped"}
        go.touch()
        assert first.wait(timeout=30).state == "success"


PAST = """
import os, sys, threading
from datetime import datetime, timezone
from liteflow import Dag, task

@task(depends_on_past=True)
def work():
    if "HOLD" in os.environ:
        open("begun", "w").close()
        threading.Event().wait(120)

with Dag("past", db_path="past.db") as dag:
    work()

if __name__ == "__main__":
    day = int(sys.argv[1])
    run = dag.run(run_id=f"day{day}", logical_date=datetime(2026, 5, day, tzinfo=timezone.utc), progress=False)
    print(run.state, run.task_instance("work").error)
"""


def test_a_run_before_whose_host_was_killed_does_not_let_it_wait_for_ever(
    script: Callable[..., Script], db: str, tmp_path: Path
) -> None:
    made = script(PAST.replace("past.db", db))
    held = made.start("1", HOLD="1")
    wait_until((tmp_path / "begun").exists, "it runs")
    held.kill()
    held.communicate()
    ended = made.run("2", timeout=20)
    assert ended.stdout == "failed depends_on_past: 'work' is running in the run before, 'day1'\n", ended.stderr


# Fail fast


def test_fail_fast_refuses_other_rules_where_they_are_written(db: str) -> None:
    with (
        pytest.raises(DagError, match=r"limits\.py:\d+: task 'one' has trigger rule all_done"),
        Dag("fast", db_path=db, fail_fast=True),
    ):
        end("well") >> one.override(trigger_rule="all_done")()


def test_fail_fast_waits_for_the_last_retry_and_lets_teardowns_go(db: str, tmp_path: Path) -> None:
    with Dag("fast", db_path=db, fail_fast=True, default_args={"kill_grace_s": 0.1}) as dag:
        made = one.override(task_id="made")()
        bad = end.override(task_id="bad", retries=2)("fail")
        gone = append.override(task_id="gone")(str(tmp_path / "gone"), "x")
        made >> bad >> one.override(task_id="below")() >> gone.as_teardown(setups=made)
        made >> wait_for(str(tmp_path / "never")) >> gone
    run = dag.run(progress=False, max_workers=2)
    assert (run.state, run.end_reason) == ("failed", "fail_fast")
    assert len(run.tries()) == 2
    assert states_of(run) == {
        "made": "success",
        "bad": "failed",
        "below": "skipped",
        "wait_for": "failed",
        "gone": "success",
    }
