"""Tasks that begin runs of other dags, and that wait for them: in real services, over real files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, Param, TriggerRule, task
from liteflow.errors import LiteflowError
from liteflow.operators import TriggerDagRunOperator
from tests.conftest import ROOT, Script, lines_of, liteflow, states_of, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

TWO_DAGS = """
import os, time
from liteflow import Dag, task
from liteflow.operators import TriggerDagRunOperator


class Late(TriggerDagRunOperator):
    def execute(self, context):
        is_over = super().execute(context)
        while not os.path.exists("go"):
            time.sleep(0.01)
        return is_over


@task
def tell(dag_run, params):
    print(f"conf {dag_run.conf} params {params}")


with Dag("target", params={"a": 1}) as target:
    tell()

with Dag("source") as source:
    TriggerDagRunOperator(task_id="begin", trigger_dag_id="target", conf={"b": "{{ run_id }}"})

with Dag("late") as late:
    Late(task_id="begin", trigger_dag_id="target")

with Dag("slow") as slow:
    @task
    def wait():
        while not os.path.exists("go"):
            time.sleep(0.01)

    wait()

with Dag("waits") as waits:
    TriggerDagRunOperator(task_id="begin", trigger_dag_id="slow", wait_for_completion=True)
"""


@task
def fine() -> str:
    return "fine"


@task
def fail() -> None:
    raise ValueError("no")


@task
def give(params: dict[str, Any]) -> dict[str, Any]:
    return params


def runs_of(db: str, dag_id: str) -> list[Any]:
    from liteflow.storage.history import open_history  # slots import this file, and need no SQLAlchemy for it

    return open_history(db).runs(dag_id=dag_id)


def error_of(run: Any, task_id: str) -> str:
    return str(run.task_instance(task_id).error)


def test_a_file_with_two_dags_runs_to_the_end_of_what_its_run_began(script: Callable[..., Script], db: str) -> None:
    file = script(TWO_DAGS)
    ran = liteflow("run", f"{file.path}:source", "--run-id", "one", "--db", db, cwd=file.path.parent)
    assert ran.returncode == 0, ran.stderr
    (begun,) = runs_of(db, "target")
    assert begun.state == "success"
    assert f"run target/{begun.run_id}, which a task has begun: success" in ran.stderr
    assert lines_of(begun) == ["conf {'a': 1, 'b': 'one'} params {'a': 1, 'b': 'one'}"]
    assert begun.run_id in runs_of(db, "source")[0].xcom("begin", "trigger_run_id")


def kill_service_of(file: Script, dag_id: str, db: str, is_time: Callable[[str], bool]) -> None:
    """Run a dag of the file, and kill its service when it is time."""
    directory = file.path.parent
    process = subprocess.Popen(
        [sys.executable, "-m", "liteflow", "run", "-q", f"{file.path}:{dag_id}", "--run-id", "one", "--db", db],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: ("://" in db or os.path.exists(db)) and is_time(db), "it is time")
    process.send_signal(signal.SIGKILL)
    process.wait()
    (directory / "go").touch()


def test_a_try_after_a_killed_service_begins_no_second_run(script: Callable[..., Script], db: str) -> None:
    file = script(TWO_DAGS)
    kill_service_of(file, "late", db, _is_begun)
    ran = liteflow("run", f"{file.path}:late", "--resume", "one", "--db", db, cwd=file.path.parent)
    assert ran.returncode == 0, ran.stderr
    (begun,) = runs_of(db, "target")
    (source,) = runs_of(db, "late")
    assert begun.state == "success"
    assert source.task_instance("begin").try_number == 2
    assert source.xcom("begin", "trigger_run_id") == begun.run_id


def test_a_run_that_is_waited_for_goes_on_with_the_one_that_waits(script: Callable[..., Script], db: str) -> None:
    file = script(TWO_DAGS)
    kill_service_of(file, "waits", db, _is_waited_for)
    ran = liteflow(
        "run", f"{file.path}:waits", "--resume", "one", "--db", db, cwd=file.path.parent
    )  # at once, not after 60 s
    assert ran.returncode == 0, ran.stderr
    assert [run.state for run in runs_of(db, "slow")] == ["success"]


def _is_waited_for(db: str) -> bool:
    try:
        return [str(one.state) for run in runs_of(db, "waits") for one in run.task_instances()] == ["up_for_reschedule"]
    except LiteflowError:  # it is being made
        return False


def _is_begun(db: str) -> bool:
    try:
        return bool(runs_of(db, "target"))
    except LiteflowError:  # it is being made
        return False


def test_a_dag_that_is_not_known_is_named_with_those_that_are(db: str) -> None:
    with Dag("source", db_path=db) as source:
        TriggerDagRunOperator(task_id="begin", trigger_dag_id="targte")
    with Dag("target") as target:
        fine()
    run = source.run(dags=[target], progress=False)
    assert run.state == "failed"
    assert "no dag 'targte' is known" in error_of(run, "begin")
    assert "did you mean 'target'?" in error_of(run, "begin")
    assert "it has source, target. To make one known: " in error_of(run, "begin")


@pytest.mark.parametrize("more", [{}, {"allowed_states": ["failed"], "failed_states": ["success"]}])
def test_waiting_takes_no_slot_and_ends_with_the_run(db: str, more: dict[str, Any]) -> None:
    with Dag("bad") as bad:
        fail()
    with Dag("good") as good:
        fine()
    with Dag("source", db_path=db) as source:
        for name in ("good", "bad"):
            TriggerDagRunOperator(task_id=name, trigger_dag_id=name, wait_for_completion=True, **more)
    run = source.run(dags=[good, bad], max_workers=1, progress=False)  # the 60 s of poke_interval do not pass
    good_state, bad_state = ("failed", "success") if more else ("success", "failed")
    assert states_of(run) == {"good": good_state, "bad": bad_state}
    other = runs_of(db, "good" if more else "bad")[0]
    name = "good" if more else "bad"
    assert error_of(run, name).endswith(f"run {name}/{other.run_id} is {other.state}")
    assert run.xcom(name, "trigger_run_id") == other.run_id


def test_a_try_after_a_failed_run_begins_another_one(db: str) -> None:
    with Dag("bad") as bad:
        fail()
    with Dag("source", db_path=db) as source:
        TriggerDagRunOperator(task_id="begin", trigger_dag_id="bad", wait_for_completion=True, retries=1)
    run = source.run(dags=[bad], max_workers=1, progress=False)
    assert run.state == "failed"
    assert len(runs_of(db, "bad")) == 2


def test_a_run_that_would_wait_for_itself_is_refused(db: str) -> None:
    with Dag("a", db_path=db, max_active_runs=1) as a:
        TriggerDagRunOperator(task_id="begin", trigger_dag_id="b", wait_for_completion=True)
    with Dag("b") as b:
        TriggerDagRunOperator(task_id="begin", trigger_dag_id="a", wait_for_completion=True)
    run = a.run(dags=[b], max_workers=1, run_id="first", progress=False)
    assert run.state == "failed"
    (inner,) = runs_of(db, "b")
    assert "would wait for itself: with max_active_runs=1 it begins when a/first is over" in error_of(inner, "begin")
    assert len(runs_of(db, "a")) == 1


@pytest.mark.filterwarnings("ignore::liteflow.DagWarning")  # that a leaf hides failures
def test_a_run_that_is_there_already(db: str) -> None:
    with Dag("target", db_path=db, params={"n": 0}) as target:
        give()
    with Dag("source", db_path=db) as source:
        plain = TriggerDagRunOperator(task_id="plain", trigger_dag_id="target", trigger_run_id="taken")
        skips = TriggerDagRunOperator(
            task_id="skips",
            trigger_dag_id="target",
            trigger_run_id="taken",
            skip_when_already_exists="{{ true }}",
            trigger_rule=TriggerRule.ALL_DONE,
        )
        resets = TriggerDagRunOperator(
            task_id="resets",
            trigger_dag_id="target",
            trigger_run_id="taken",
            conf={"n": 2},
            reset_dag_run=True,
            wait_for_completion=True,
            trigger_rule=TriggerRule.ALL_DONE,
        )
        plain >> skips >> resets
    with ExecutorService(db, dags=[target, source], max_workers=1) as service:
        taken = service.submit(target, {"n": 1}, run_id="taken").wait()
        assert taken.task_instance("give").try_number == 1
        run = service.submit(source).wait()
    assert states_of(run) == {"plain": "failed", "skips": "skipped", "resets": "success"}
    assert "run 'taken' of dag 'target' exists already" in error_of(run, "plain")
    (taken,) = runs_of(db, "target")
    assert taken.task_instance("give").try_number == 2
    assert taken.xcom("give") == {"n": 1}  # as in Airflow: a reset run keeps its conf


def test_params_that_do_not_fit_and_conf_that_is_no_dict_fail_the_task(db: str) -> None:
    with Dag("target", db_path=db, params={"n": Param(0, type="integer")}) as target:
        give()
    with Dag("source", db_path=db) as source:
        TriggerDagRunOperator(task_id="misfit", trigger_dag_id="target", conf={"n": "x"})
        TriggerDagRunOperator(task_id="text", trigger_dag_id="target", conf="[1]")
        TriggerDagRunOperator(task_id="json", trigger_dag_id="target", conf='{"n": 7, "more": [1]}')
    run = source.run(dags=[target], max_workers=1, progress=False)
    assert states_of(run) == {"misfit": "failed", "text": "failed", "json": "success"}
    assert "dag 'target' refuses param 'n'" in error_of(run, "misfit")
    assert "conf must be a dict" in error_of(run, "text")
    (begun,) = runs_of(db, "target")
    assert begun.xcom("give") == {"n": 7, "more": [1]}
    again = target.rerun(begun.run_id, params={"n": 8}, progress=False)
    assert again.xcom("give") == {"n": 8, "more": [1]}


def test_a_mapped_trigger_begins_a_run_for_each_item(db: str) -> None:
    with Dag("target", db_path=db) as target:
        give()
    with Dag("source", db_path=db) as source:
        TriggerDagRunOperator.partial(task_id="begin", trigger_dag_id="target", wait_for_completion=True).expand(
            conf=[{"n": 1}, {"n": 2}]
        )
    run = source.run(dags=[target], max_workers=1, progress=False)
    assert run.state == "success"
    assert sorted(one.xcom("give")["n"] for one in runs_of(db, "target")) == [1, 2]


def test_a_test_begins_no_run() -> None:
    with Dag("source") as source:
        (
            TriggerDagRunOperator(
                task_id="begin", trigger_dag_id="target", trigger_run_id="x", wait_for_completion=True
            )
            >> fine()
        )
    run = source.test()
    assert run.state == "success"
    assert run.xcom("begin", "trigger_run_id") == "x"
    assert "no run of target is begun" in lines_of(run, "begin")[0]
    from liteflow.storage.history import History

    assert isinstance(run.history, History)
