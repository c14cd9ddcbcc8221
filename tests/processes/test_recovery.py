"""Runs that are taken up again: after the death of their owner, and after they failed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from liteflow import Dag, ExecutorService, setup, task, teardown
from liteflow.errors import NotFoundError, RunConflictError, RunInterruptedError, RunOwnedError, StorageError
from liteflow.execution.choosing import Chooser
from liteflow.execution.jobs import Job, Outcome
from tests.conftest import ROOT, Script, command, liteflow, wait_until

if TYPE_CHECKING:
    from liteflow import DagRun  # slots import this file, and need no SQLAlchemy for it

Make = Callable[..., Script]


def states(run: DagRun) -> dict[str, str]:
    return {
        one.task_id if one.map_index < 0 else f"{one.task_id}[{one.map_index}]": str(one.state)
        for one in run.task_instances()
    }


def tries(run: DagRun) -> dict[str, int]:
    return {
        one.task_id if one.map_index < 0 else f"{one.task_id}[{one.map_index}]": one.try_number
        for one in run.task_instances()
    }


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.fixture(autouse=True)
def sound(db: str) -> Iterator[None]:
    """Whatever a test did, what is recorded makes sense."""
    # Here, since slots import this file for its tasks, and need no SQLAlchemy for them.
    from liteflow.storage.checking import invariants
    from liteflow.storage.engine import connect

    yield
    if os.path.exists(db):
        with connect(db, pooled=False).read() as session:
            assert invariants(session) == []


# Failed runs, opened again


@task
def note(path: str, word: str) -> str:
    with open(path, "a") as file:
        file.write(word + " ")
    return word


@task
def fail_without(flag: str, path: str) -> str:
    note.function(path, "try")
    if not os.path.exists(flag):
        raise ValueError("not yet")
    return "made"


@task
def take(value: str) -> str:
    return value + "!"


def test_a_failed_run_goes_on_from_what_failed(db: str, tmp_path: Path) -> None:
    flag, said = str(tmp_path / "flag"), tmp_path / "said"
    with Dag("again", db_path=db) as dag:
        first = note(str(said), "first")
        middle = fail_without.override(retries=1, retry_delay=0)(flag, str(said))
        first >> middle
        take(middle)
    run = dag.run(run_id="r", progress=False)
    assert states(run) == {"note": "success", "fail_without": "failed", "take": "upstream_failed"}
    again = dag.resume("r", progress=False)
    assert (again.state, tries(again)["fail_without"]) == ("failed", 4), "it has all of its retries anew"
    Path(flag).touch()
    done = dag.resume("r", progress=False)
    assert (done.state, done.end_reason) == ("success", None)
    assert done.xcom("take") == "made!"
    assert text(said) == "first try try try try try ", "what succeeded does not run again"
    assert [one.try_number for one in done.tries()] == [1, 2, 3, 4]
    assert dag.resume("r", progress=False).ended_at == done.ended_at, "a run that succeeded stays as it is"
    assert len(dag.runs()) == 1


@task
def numbers() -> list[int]:
    return [1, 2, 3]


@task
def even_or_flag(number: int, flag: str) -> int:
    if number % 2 and not os.path.exists(flag):
        raise ValueError(number)
    return number


@task
def total(values: Any) -> int:
    return sum(values)


def test_only_the_mapped_instances_that_failed_run_again(db: str, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    with Dag("mapped", db_path=db) as dag:
        total(even_or_flag.partial(flag=flag).expand(number=numbers()))
    assert dag.run(run_id="r", progress=False).state == "failed"
    Path(flag).touch()
    done = dag.resume("r", progress=False)
    assert done.xcom("total") == 6
    assert tries(done) == {"numbers": 1, "even_or_flag[0]": 2, "even_or_flag[1]": 1, "even_or_flag[2]": 2, "total": 1}


@task
def numbers_with(flag: str) -> list[int]:
    if not os.path.exists(flag):
        raise ValueError("not yet")
    return [4, 5]


@task
def double(number: int) -> int:
    return 2 * number


def test_what_is_mapped_over_a_value_that_is_made_anew_is_expanded_then(db: str, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    with Dag("late", db_path=db) as dag:
        total(double.expand(number=numbers_with(flag)))
    assert states(dag.run(run_id="r", progress=False))["double"] == "upstream_failed"
    Path(flag).touch()
    assert dag.resume("r", progress=False).xcom("total") == 18


@task.branch
def choose() -> str:
    return "fail_without"


def test_a_branch_that_decided_is_not_asked_again(db: str, tmp_path: Path) -> None:
    flag, said = tmp_path / "flag", str(tmp_path / "said")
    with Dag("branch", db_path=db) as dag:
        chosen, taken = choose(), fail_without(str(flag), said)
        other = note.override(task_id="other")(said, "other")
        chosen >> [taken, other]
        [taken, other] >> note.override(task_id="below", trigger_rule="none_failed_min_one_success")(said, "below")
    run = dag.run(run_id="r", progress=False)
    before = {"choose": "success", "fail_without": "failed", "other": "skipped", "below": "upstream_failed"}
    assert states(run) == before
    flag.touch()
    done = dag.resume("r", progress=False)
    assert states(done) == before | {"fail_without": "success", "below": "success"}
    assert text(Path(said)) == "try try below ", "what the branch left out is left out again"


@setup
def make_room(path: str) -> None:
    note.function(path, "setup")


@teardown
def tidy_room(path: str) -> None:
    note.function(path, "teardown")


def test_a_setup_whose_teardown_has_run_runs_again_with_it(db: str, tmp_path: Path) -> None:
    flag, said = tmp_path / "flag", tmp_path / "said"
    with Dag("rooms", db_path=db) as dag:
        room = make_room(str(said))
        work = fail_without(str(flag), str(said))
        room >> work >> tidy_room(str(said)).as_teardown(setups=room)
    assert dag.run(run_id="r", progress=False).state == "failed"
    flag.touch()
    assert dag.resume("r", progress=False).state == "success"
    assert text(said) == "setup try teardown setup try teardown "


def test_a_cancelled_run_can_be_resumed(db: str, tmp_path: Path) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    with Dag("cancelled", db_path=db) as dag:
        wait_for(str(begun), str(go)) >> note(str(tmp_path / "said"), "after")
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag, run_id="r")
        wait_until(begun.exists, "the task runs")
        handle.cancel()
        run = handle.wait()
    assert (run.state, run.end_reason) == ("failed", "cancelled")
    go.touch()
    done = dag.resume("r", progress=False)
    assert (done.state, text(tmp_path / "said")) == ("success", "after ")


@task
def wait_for(begun: str, path: str) -> None:
    Path(begun).touch()
    wait_until(Path(path).exists, "may go on", timeout_s=60)


# One task instance cancelled


def test_one_task_can_be_cancelled(db: str, tmp_path: Path) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    with Dag("one", db_path=db) as dag:
        slow = wait_for(str(begun), str(go))
        slow >> take.override(task_id="below")("x")
        slow >> take.override(task_id="whatever", trigger_rule="all_done")("x")
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag, run_id="r")
        wait_until(begun.exists, "the task runs")
        done = command("cancel", "one/r", "wait_for", "--db", db, cwd=tmp_path)
        assert done.stderr == "wait_for of one/r is being cancelled\n"
        run = handle.wait()
    assert states(run) == {"wait_for": "failed", "below": "upstream_failed", "whatever": "success"}
    assert run.task_instance("wait_for").end_reason == "cancelled"


def test_a_task_that_waits_for_its_retry_can_be_cancelled(db: str, tmp_path: Path) -> None:
    with Dag("retrying", db_path=db) as dag:
        fail_without.override(retries=1, retry_delay=3600)(str(tmp_path / "flag"), str(tmp_path / "said"))
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag, run_id="r")
        wait_until(lambda: handle.run.task_instance("fail_without").state == "up_for_retry", "the retry waits")
        assert handle.run.cancel_task("fail_without") == 1
        run = handle.wait()
    assert states(run) == {"fail_without": "skipped"}


# Runs whose owner was killed

KILLED = """
import os, sys, time
from pathlib import Path
from liteflow import Dag, task

def say(word):
    with open("said", "a") as file:
        file.write(word + " ")

@task
def first():
    say("first")
    return [1, 2]

@task
def wait(number):
    say(f"wait{number}")
    Path(f"begun{number}").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    return number

@task
def last(numbers):
    say("last")
    return sum(numbers)

with Dag("killed", db_path="flow.db") as dag:
    last(wait.expand(number=first()))

if __name__ == "__main__":
    run = dag.run(run_id="r", max_workers=2, progress=False)
    print(run.state, run.xcom("last"))
"""


def kill_in_the_middle(made: Script, directory: Path) -> None:
    process = made.start()
    wait_until(lambda: (directory / "begun1").exists() and (directory / "begun2").exists(), "both tasks run")
    process.kill()
    process.communicate()


def test_a_run_whose_process_was_killed_goes_on(script: Make, db: str, tmp_path: Path) -> None:
    made = script(KILLED.replace("flow.db", db))
    kill_in_the_middle(made, tmp_path)
    shown = json.loads(command("show", "killed", "--db", db, "--json", cwd=tmp_path).stdout)
    assert shown["interrupted"]
    (tmp_path / "go").touch()
    done = liteflow("run", str(made.path), "--resume", "r", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "killed/r success\n"), done.stderr
    run = Dag.load("killed", db).latest_run()
    assert run is not None
    assert text(tmp_path / "said").split().count("first") == 1
    assert tries(run) == {"first": 1, "wait[0]": 2, "wait[1]": 2, "last": 1}
    assert {(one.state, one.end_reason) for one in run.tries()} == {("failed", "crashed")}


def test_the_same_call_goes_on_with_an_interrupted_run(script: Make, db: str, tmp_path: Path) -> None:
    made = script(KILLED.replace("flow.db", db))
    kill_in_the_middle(made, tmp_path)
    (tmp_path / "go").touch()
    assert made.run().stdout == "success 3\n"


def test_a_task_under_which_the_service_died_three_times_has_failed(script: Make, db: str, tmp_path: Path) -> None:
    made = script(KILLED.replace("flow.db", db))
    for _ in range(3):
        kill_in_the_middle(made, tmp_path)
        for number in (1, 2):
            (tmp_path / f"begun{number}").unlink()
    done = liteflow("run", str(made.path), "--resume", "latest", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "killed/r failed\n"), done.stderr
    run = Dag.load("killed", db).latest_run()
    assert run is not None
    assert states(run) == {
        "first": "success", "wait[0]": "failed", "wait[1]": "failed", "last": "upstream_failed",
    }  # fmt: skip
    assert run.task_instance("wait", 0).end_reason == "crashed"
    assert "the executor service died" in str(run.task_instance("wait", 0).error)


NEVER_BEGUN = """
import os, time
from pathlib import Path
from liteflow import Dag, task

while "LITEFLOW_SLOT" in os.environ and not Path("go").exists():
    time.sleep(0.01)

@task
def work():
    return 1

with Dag("claimed", db_path="flow.db") as dag:
    work()

if __name__ == "__main__":
    run = dag.run(run_id="r", max_workers=1, progress=False)
    print(run.state, run.task_instance("work").try_number)
"""


def test_a_task_that_had_not_begun_when_the_service_died_is_not_to_blame(script: Make, db: str, tmp_path: Path) -> None:
    """A host that was killed three times while its workers were still getting ready failed all that it had claimed."""
    made = script(NEVER_BEGUN.replace("flow.db", db))
    ExecutorService(db, max_workers=1).start().stop()  # so that there is something to look at
    for number in range(1, 5):
        process = made.start()

        def is_claimed(number: int = number) -> bool:
            run = Dag("claimed", db_path=db).latest_run()
            one = None if run is None else run.task_instance("work")
            return one is not None and (one.state, one.try_number) == ("running", number)

        wait_until(is_claimed, "the task is claimed")
        process.kill()
        process.communicate()
    (tmp_path / "go").touch()
    assert made.run().stdout == "success 5\n"


def test_a_service_goes_on_with_interrupted_runs_of_the_dags_that_it_knows(
    script: Make, db: str, tmp_path: Path
) -> None:
    made = script(KILLED.replace("flow.db", db))
    kill_in_the_middle(made, tmp_path)
    (tmp_path / "go").touch()
    service = script(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom liteflow import ExecutorService\n"
        f"import {made.path.stem} as flows\n"
        "if __name__ == '__main__':\n"
        f"    with ExecutorService({db!r}, dags=[flows.dag]):\n"
        "        while not flows.dag.latest_run().state.is_terminal:\n"
        "            pass\n"
        "    print(flows.dag.latest_run().state)\n",
        "service.py",
    )
    assert service.run().stdout == "success\n"


def stop_at_rest(process: subprocess.Popen[str], directory: Path, db: str) -> None:
    """Stop the owner of the two tasks that wait, once it has recorded that they do: not with the write lock in hand."""

    def have_started() -> bool:
        if "://" not in db and not os.path.exists(db):
            return False
        run = Dag.load("killed", db).latest_run()
        waiting = [one for one in run.task_instances() if one.task_id == "wait"] if run is not None else []
        return len(waiting) == 2 and all(one.started_at is not None for one in waiting)

    wait_until(lambda: (directory / "begun1").exists() and (directory / "begun2").exists(), "both tasks run")
    wait_until(have_started, "that is recorded")
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)  # until all of its threads are


def test_the_run_of_a_living_process_is_not_taken(script: Make, db: str, tmp_path: Path) -> None:
    made = script(KILLED.replace("flow.db", db))
    process = made.start()
    wait_until((tmp_path / "begun1").exists, "a task runs")
    refused = liteflow("run", str(made.path), "--resume", "r", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"is driven by process {process.pid}" in refused.stderr
    assert "is alive" in refused.stderr
    (tmp_path / "go").touch()
    assert process.communicate(timeout=60)[0] == "success 3\n"


def test_a_stopped_owner_is_reported_and_can_be_robbed(script: Make, db: str, tmp_path: Path) -> None:
    made = script(KILLED.replace("flow.db", db))
    process = made.start()
    stop_at_rest(process, tmp_path, db)
    try:
        (tmp_path / "go").touch()
        refused = liteflow("run", str(made.path), "--resume", "r", cwd=tmp_path)
        assert refused.returncode == 2
        assert "is stopped (SIGSTOP)" in refused.stderr
        taken = liteflow("run", str(made.path), "--resume", "r", "--force", cwd=tmp_path)
        assert (taken.returncode, taken.stdout) == (0, "killed/r success\n"), taken.stderr
    finally:
        process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("success 3\n", 0), err
    run = Dag.load("killed", db).latest_run()
    assert run is not None
    assert text(tmp_path / "said").split().count("last") == 1
    assert tries(run)["last"] == 1
    assert {one.end_reason for one in run.tries()} == {"lost"}


def test_who_else_drives_the_run_is_said(script: Make, db: str, tmp_path: Path) -> None:
    made = script(KILLED.replace("flow.db", db))
    process = made.start()
    stop_at_rest(process, tmp_path, db)
    told = f"run r is driven by process {process.pid} on {socket.gethostname()}, which is stopped (SIGSTOP)"
    try:
        cancelled = command("cancel", "killed/r", "--db", db, cwd=tmp_path)
        assert f"process {process.pid}, which drives it, is stopped (SIGSTOP)" in cancelled.stderr
        with open(tmp_path / "errors", "w") as errors:
            second = subprocess.Popen(
                [sys.executable, "-m", "liteflow", "run", str(made.path), "--run-id", "r"],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        wait_until(lambda: told in text(tmp_path / "errors"), "the second says whom it waits for")
    finally:
        process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert second.wait(timeout=60) == 1, "cancelled, as it was asked for"
    over = liteflow("run", str(made.path), "--run-id", "r", cwd=tmp_path)
    assert over.returncode == 1
    assert "run r is over already (failed): nothing runs" in over.stderr


def test_a_mistake_in_the_service_leaves_the_run_to_be_resumed(
    db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "said"
    with Dag("broken", db_path=db) as dag:
        note(str(said), "first") >> note(str(said), "second")

    def break_after_the_first(chooser: Chooser, job: Job, outcome: Outcome) -> None:
        raise KeyError("nobody thought of that")

    with monkeypatch.context() as patch:
        patch.setattr(Chooser, "learn", break_after_the_first)
        with pytest.raises(RunInterruptedError, match="which is a mistake in liteflow") as caught:
            dag.run(run_id="r", progress=False)
    assert isinstance(caught.value.__cause__, KeyError)
    assert (caught.value.run_id, caught.value.exit_code) == ("r", 4)
    done = dag.resume("r", progress=False)
    assert (done.state, text(said).split()[-1]) == ("success", "second")


# A dag that has changed


def changed(db: str, *names: str, flag: str = "") -> Dag:
    with Dag("changed", db_path=db) as dag:
        made = [take.override(task_id=name)(name) for name in names]
        for before, after in pairwise(made):
            before >> after
        if flag:
            made[-1] >> fail_without(flag, flag + ".said")
    return dag


def test_a_changed_dag_is_refused_and_its_changes_are_named(db: str, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    changed(db, "one", "two", flag=flag).run(run_id="r", progress=False)
    with pytest.raises(RunConflictError) as caught:
        changed(db, "one", "three", flag=flag).resume("r", progress=False)
    assert "added three" in str(caught.value)
    assert "other upstream or trigger rule: fail_without" in str(caught.value)
    assert "--accept-changes" in str(caught.value)


def test_changes_that_are_accepted(db: str, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    changed(db, "one", "two", flag=flag).run(run_id="r", progress=False)
    without = changed(db, "one", "two", "three")
    done = without.resume("r", accept_changes=True, progress=False)
    assert states(done) == {"one": "success", "two": "success", "fail_without": "removed", "three": "success"}
    assert done.state == "success"
    Path(flag).touch()
    assert without.resume("r", progress=False).state == "success"


def test_a_list_in_the_dag_that_has_grown(db: str, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")

    def mapped(*items: int) -> Dag:
        with Dag("lists", db_path=db) as dag:
            total(even_or_flag.partial(flag=flag).expand(number=list(items)))
        return dag

    assert mapped(1, 2).run(run_id="r", progress=False).state == "failed"
    Path(flag).touch()
    with pytest.raises(RunConflictError, match="even_or_flag is mapped over 3 items and not 2"):
        mapped(1, 2, 4).resume("r", progress=False)
    assert mapped(1, 2, 4).resume("r", accept_changes=True, progress=False).xcom("total") == 7
    assert mapped(1, 2, 4).resume("r", progress=False).state == "success"


@pytest.mark.sqlite("a database in a server is there beforehand")
def test_a_database_that_is_not_there(db: str) -> None:
    with pytest.raises(StorageError, match="no such database"):
        changed(db, "one").resume("r", progress=False)


def test_a_run_that_is_not_there(db: str) -> None:
    changed(db, "one").run(progress=False)
    with pytest.raises(NotFoundError, match="no run 'r' of dag 'changed'"):
        changed(db, "one").resume("r", progress=False)


def test_an_interrupted_run_can_be_cancelled(script: Make, db: str, tmp_path: Path) -> None:
    made = script(KILLED.replace("flow.db", db))
    kill_in_the_middle(made, tmp_path)
    done = command("cancel", "killed", "--db", db, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "is cancelled now" in done.stderr
    run = Dag.load("killed", db).latest_run()
    assert run is not None
    assert (run.state, run.end_reason) == ("failed", "cancelled")
    assert states(run)["last"] == "skipped"
    (tmp_path / "go").touch()
    assert liteflow("run", str(made.path), "--resume", "latest", cwd=tmp_path).returncode == 0


def test_the_owner_is_a_fact_of_the_error() -> None:
    assert RunOwnedError("text", run_id="r", pid=1).pid == 1


@task
def fail_or(number: int, flag: str) -> int:
    if not os.path.exists(flag):
        raise ValueError(number)
    return number


def over_successes(db: str, first: str, second: str) -> Dag:
    """A task mapped over two items, the first of which fails without its flag, and one over what of it succeeded."""
    with Dag("over", db_path=db) as dag:
        some = even_or_flag.partial(flag=first).expand(number=[1, 2])
        fail_or.override(trigger_rule="all_done").partial(flag=second).expand(number=some)
    return dag


@pytest.mark.filterwarnings("ignore::liteflow.DagWarning")
def test_what_was_mapped_over_successes_and_failed_is_mapped_over_all_of_them_now(db: str, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    dag = over_successes(db, flag, flag)
    before = {"even_or_flag[0]": "failed", "even_or_flag[1]": "success"}
    assert states(dag.run(run_id="r", progress=False)) == before | {"fail_or[0]": "failed"}
    Path(flag).touch()
    done = dag.resume("r", progress=False)
    assert done.xcom("fail_or") == [1, 2]
    assert tries(done) == {"even_or_flag[0]": 2, "even_or_flag[1]": 1, "fail_or[0]": 2, "fail_or[1]": 1}


@pytest.mark.filterwarnings("ignore::liteflow.DagWarning")
def test_what_was_mapped_over_fewer_now_comes_back_when_they_are_more_again(db: str, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    Path(first).touch()
    dag = over_successes(db, first, second)
    dag.run(run_id="r", progress=False)
    with Dag("over", db_path=db) as other:  # one item less, and again one more
        some = even_or_flag.partial(flag=first).expand(number=[1])
        fail_or.override(trigger_rule="all_done").partial(flag=second).expand(number=some)
    Path(second).touch()
    with pytest.raises(RunConflictError, match="mapped over 1 items and not 2"):
        other.resume("r", progress=False)
    assert dag.resume("r", progress=False).xcom("fail_or") == [1, 2]


@pytest.mark.filterwarnings("ignore::liteflow.DagWarning")
def test_what_succeeded_in_part_over_a_value_that_is_made_anew_has_to_be_cleared(db: str, tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    Path(second).touch()
    with Dag("over", db_path=db) as dag:
        some = even_or_flag.partial(flag=first).expand(number=[1, 2])
        below = fail_or.override(trigger_rule="all_done").partial(flag=second).expand(number=some)
        some >> take.override(task_id="end")("x")
        below >> take.override(task_id="other")("x")
    assert dag.run(run_id="r", progress=False).state == "failed"
    Path(first).touch()
    with pytest.raises(RunConflictError, match="'fail_or' is mapped over a value that would be made anew") as error:
        dag.resume("r", progress=False)
    assert "liteflow clear over/r even_or_flag --downstream" in str(error.value)
    assert dag.runs()[0].clear("even_or_flag", downstream=True) == 5
    assert dag.resume("r", progress=False).xcom("fail_or") == [1, 2]
