"""`clear`, `mark` and `rerun`: real runs that are put right by hand, and what is recorded afterwards."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from liteflow import Dag, ExecutorService, SkipTask, setup, task, teardown
from liteflow.errors import NotFoundError, ParamError, RunActiveError, RunConflictError, RunOwnedError, StorageError
from tests.conftest import Script, liteflow, wait_until

if TYPE_CHECKING:
    from liteflow import DagRun  # slots import this file, and need no SQLAlchemy for it


@pytest.fixture(autouse=True)
def sound(db: str) -> Iterator[None]:
    """Whatever a test did, `liteflow db check` finds nothing."""
    # Here, since slots import this file for its tasks, and need no SQLAlchemy for them.
    from liteflow.storage.checking import check

    yield
    if os.path.exists(db):
        assert check(db) == []


def states(run: DagRun) -> dict[str, str]:
    """By the names of the task instances; those that are removed are left out."""
    return {
        one.task_id if one.map_index < 0 else f"{one.task_id}[{one.map_index}]": " ".join(
            filter(None, [str(one.state), one.end_reason if one.end_reason in ("marked", "reused") else None])
        )
        for one in run.task_instances()
        if one.state != "removed"
    }


def changes(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    return {name: after[name] for name in after if before.get(name) != after[name]}


def tries(run: DagRun) -> dict[str, list[int]]:
    """By the names of the task instances: the numbers of the tries that were followed by another, and the latest."""
    found: dict[str, list[int]] = {}
    for one in [*run.tries(), *run.task_instances()]:
        found.setdefault(one.task_id if one.map_index < 0 else f"{one.task_id}[{one.map_index}]", []).append(
            one.try_number
        )
    return found


@task
def say(said: str, word: str) -> str:
    with open(said, "a") as file:
        file.write(word + " ")
    return word


@task
def listed(said: str, length: str) -> list[int]:
    say.function(said, "listed")
    return list(range(int(Path(length).read_text()) if os.path.exists(length) else 3))


@task
def double(n: int, said: str, flag: str) -> int:
    say.function(said, f"double{n}")
    if n == 1 and not os.path.exists(flag):
        raise ValueError("not yet")
    return 2 * n


@task
def total(ns: Any, said: str) -> int:
    say.function(said, "total")
    return sum(one or 0 for one in ns)


@task.branch
def choose(said: str) -> str:
    say.function(said, "choose")
    return "left"


@setup
def start(said: str) -> str:
    return say.function(said, "start")


@task
def work(said: str, flag: str) -> str:
    say.function(said, "work")
    if not os.path.exists(flag):
        raise ValueError("not yet")
    return "worked"


@teardown
def stop(said: str) -> None:
    say.function(said, "stop")


class Flow:
    """A dag with something of everything, the files that it writes, and the run `r` of it, which failed."""

    def __init__(self, directory: Path) -> None:
        self.said, self.flag, self.length = directory / "said", directory / "flag", directory / "length"
        self.db = str(directory / "test.db")
        said, flag = str(self.said), str(self.flag)
        with Dag("flow", db_path=self.db, params={"day": "monday", "size": 1}) as self.dag:
            ns = listed(said, str(self.length))
            total(double.partial(said=said, flag=flag).expand(n=ns), said)
            one, other = say.override(task_id="left")(said, "left"), say.override(task_id="right")(said, "right")
            choose(said) >> [one, other]
            begun, worked, stopped = start(said), work(said, flag), stop(said)
            begun >> worked >> stopped.as_teardown(setups=begun)

    def words(self) -> list[str]:
        """What the tasks have said since this was asked last, sorted."""
        found = sorted(self.said.read_text().split()) if self.said.exists() else []
        self.said.write_text("")
        return found

    def run(self, run_id: str = "r") -> DagRun:
        return next(run for run in self.dag.runs() if run.run_id == run_id)

    def resume(self) -> DagRun:
        return self.dag.resume("r", progress=False)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The database of a flow that was run once, without its flag."""
    flow = Flow(tmp_path_factory.mktemp("failed"))
    assert flow.dag.run(run_id="r", progress=False).state == "failed"
    return flow.db


@pytest.fixture
def flow(failed: str, tmp_path: Path) -> Flow:
    shutil.copy(failed, tmp_path / "test.db")
    return Flow(tmp_path)


@pytest.fixture
def well(flow: Flow) -> Flow:
    """The same after it was resumed, and succeeded."""
    flow.flag.touch()
    assert flow.resume().state == "success"
    flow.words()
    return flow


FAILED = {
    "listed": "success",
    "double[0]": "success",
    "double[1]": "failed",
    "double[2]": "success",
    "total": "upstream_failed",
    "choose": "success",
    "left": "success",
    "right": "skipped",
    "start": "success",
    "work": "failed",
    "stop": "success",
}
WELL = FAILED | {"double[1]": "success", "total": "success", "work": "success"}


# Clearing


def test_what_failed_is_cleared_and_goes_on_with_what_is_there(flow: Flow) -> None:
    assert states(flow.run()) == FAILED
    assert flow.run().clear(failed=True, dry_run=True) == 3
    assert states(flow.run()) == FAILED
    assert flow.run().clear(failed=True) == 3
    waiting = flow.run()
    assert (waiting.state, waiting.end_reason, waiting.ended_at, waiting.owner) == ("queued", None, None, None)
    assert changes(FAILED, states(waiting)) == {"double[1]": "pending", "total": "pending", "work": "pending"}
    flow.flag.touch()
    done = flow.resume()
    assert (done.state, states(done)) == ("success", WELL)
    # The teardown has run: what the setup made is gone, so both run again around the work.
    assert flow.words() == ["double1", "start", "stop", "total", "work"]
    assert tries(done)["double[1]"] == tries(done)["start"] == tries(done)["stop"] == [1, 2]
    assert done.xcom("total") == 6


def test_what_is_cleared_has_all_of_its_retries_anew(db: str, tmp_path: Path) -> None:
    with Dag("again", db_path=db) as dag:
        work.override(retries=1, retry_delay=0)(str(tmp_path / "said"), str(tmp_path / "flag"))
    run = dag.run(run_id="r", progress=False)
    assert run.clear("work") == 1
    again = dag.resume("r", progress=False)
    assert (again.state, tries(again)["work"]) == ("failed", [1, 2, 3, 4])


def test_what_is_below_keeps_its_state_unless_it_is_cleared_too(well: Flow) -> None:
    assert well.run().clear("listed") == 1
    done = well.resume()
    assert (done.state, well.words(), done.xcom("total")) == ("success", ["listed"], 6)
    assert well.run().clear(("double", 2), downstream=True) == 2
    assert (well.resume().state, well.words()) == ("success", ["double2", "total"])
    assert well.run().clear("total", upstream=True) == 5
    assert states(well.resume()) == WELL
    assert well.words() == ["double0", "double1", "double2", "listed", "total"]


def test_what_is_mapped_over_a_value_that_is_made_anew_is_expanded_anew(well: Flow) -> None:
    for length, count in ((2, 5), (4, 4), (4, 6)):
        well.length.write_text(str(length))
        assert well.run().clear("listed", downstream=True) == count
        done = well.resume()
        assert (done.state, done.xcom("double")) == ("success", [2 * n for n in range(length)])
    assert tries(done)["double[0]"] == [1, 2, 3, 4], "its tries are counted on"
    # It failed, succeeded, was removed, came back, and was run once more: nothing of that is lost.
    assert tries(done)["double[2]"] == [1, 2, 3]
    assert tries(done)["double[1]"] == [1, 2, 3, 4, 5]
    assert tries(done)["double[3]"] == [1, 2]


def test_a_part_of_what_is_mapped_over_a_value_that_is_made_anew_is_refused_with_the_way_out(well: Flow) -> None:
    well.length.write_text("2")
    well.run().clear("listed", ("double", 0))
    hint = (
        "'double' is mapped over a value that would be made anew, that of 'listed'.*: liteflow clear flow/r listed --d"
    )
    with pytest.raises(RunConflictError, match=hint):
        well.resume()
    assert well.run().state == "queued"
    assert well.run().clear("listed", downstream=True) == 3
    assert well.resume().xcom("double") == [0, 2]


def test_instances_that_do_not_fit_the_value_that_is_there_now_are_refused(well: Flow) -> None:
    well.length.write_text("2")
    well.run().clear("listed")
    assert well.resume().state == "success"
    well.run().clear(("double", 2))
    with pytest.raises(RunConflictError, match=r"'double' has 3 instances.* 2 items now.*clear flow/r double"):
        well.resume()
    assert well.run().clear("double") == 2
    assert well.resume().xcom("double") == [0, 2]


def test_a_child_that_a_branch_skipped_is_skipped_again_and_the_branch_itself_chooses_anew(well: Flow) -> None:
    assert well.run().clear("right") == 1
    done = well.resume()
    assert (done.state, states(done)["right"], well.words()) == ("success", "skipped", [])
    assert well.run().clear("choose", downstream=True) == 3
    assert (states(well.resume()), well.words()) == (WELL, ["choose", "left"])


def test_clearing_twice_is_as_clearing_once(flow: Flow) -> None:
    assert [flow.run().clear(failed=True), flow.run().clear(failed=True)] == [3, 0]
    assert flow.run().clear("work") == 0
    assert flow.run().clear("left") == 1, "a run that waits can be cleared further"


def test_of_two_that_clear_at_once_one_is_told_that_the_run_is_another_now(flow: Flow) -> None:
    seen = flow.run()
    assert flow.run().clear("work") == 1
    before = states(flow.run())
    with pytest.raises(RunConflictError, match="was changed or taken up by somebody else"):
        seen.clear("double")
    with pytest.raises(RunConflictError, match="was changed or taken up by somebody else"):
        seen.mark("left", "failed")
    assert states(flow.run()) == before


def test_a_service_that_knows_the_dag_takes_up_what_was_cleared(flow: Flow) -> None:
    flow.flag.touch()
    with ExecutorService(flow.db, dags=[flow.dag], max_workers=2):
        assert flow.run().clear(failed=True) == 3
        wait_until(lambda: flow.run().state == "success", "the cleared run is gone on with")
    assert states(flow.run()) == WELL


def test_a_run_of_that_id_goes_on_with_what_was_cleared(flow: Flow) -> None:
    flow.flag.touch()
    flow.run().clear(failed=True)
    assert flow.dag.run(run_id="r", progress=False).state == "success"


def test_a_cleared_run_can_be_cancelled_and_cleared_again(flow: Flow) -> None:
    flow.run().clear(failed=True)
    flow.run().cancel()
    over = flow.run()
    assert (over.state, over.end_reason) == ("failed", "cancelled")
    assert changes(FAILED, states(over)) == {"double[1]": "skipped", "total": "skipped", "work": "skipped"}
    assert over.clear("double", "total", "work") == 5
    flow.flag.touch()
    assert states(flow.resume()) == WELL


@task
def wait_for(said: str, flag: str) -> None:
    say.function(said, "begun")
    wait_until(lambda: os.path.exists(flag), flag)


def test_a_run_that_is_driven_is_left_alone(db: str, tmp_path: Path) -> None:
    said, flag = tmp_path / "said", tmp_path / "flag"
    with Dag("busy", db_path=db) as dag:
        first = say(str(said), "first")
        first >> wait_for(str(said), str(flag))
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag, run_id="r")
        wait_until(lambda: said.exists() and "begun" in said.read_text(), "the task runs")
        for change in (lambda run: run.clear("say"), lambda run: run.mark("say", "failed")):
            with pytest.raises(RunOwnedError, match=f"process {os.getpid()} .*alive; wait for it, or cancel the run"):
                change(handle.run)
        flag.touch()
        assert handle.wait().state == "success"
        assert handle.run.clear("say") == 1, "it is over, though its service lives"
    assert dag.resume("r", progress=False).state == "success"
    assert said.read_text() == "first begun first "


def test_tasks_that_there_are_not_are_told_with_the_nearest(flow: Flow) -> None:
    for call, text in (
        (lambda run: run.clear("totel"), "no task 'totel' .did you mean 'total'"),
        (lambda run: run.clear(("double", 3)), "'double' was expanded; name one of its map indexes, 0 to 2"),
        (lambda run: run.mark("lefd", "success"), "no task 'lefd' .did you mean 'left'"),
    ):
        with pytest.raises(NotFoundError, match=text):
            call(flow.run())
    for call in (lambda run: run.clear(), lambda run: run.mark("left", "running")):
        with pytest.raises(ValueError, match=r"name tasks to clear|can be marked success, failed, skipped"):
            call(flow.run())


def test_what_an_early_end_skipped_stays_skipped_and_does_not_end_the_run_again(db: str, tmp_path: Path) -> None:
    said, flag = tmp_path / "said", tmp_path / "flag"
    with Dag("slow", db_path=db, dagrun_timeout=0.3) as dag:
        wait_for.override(kill_grace_s=0)(str(said), str(flag)) >> say(str(said), "after")
    over = dag.run(run_id="r", progress=False)
    assert (over.state, over.end_reason, states(over)["say"]) == ("failed", "timeout", "skipped")
    flag.touch()
    assert over.clear("wait_for") == 1
    assert over.task_instance("say").error == "skipped when the run was ended early (timeout)"
    dag.dagrun_timeout_s = None
    done = dag.resume("r", progress=False)
    assert (done.state, states(done)) == ("success", {"wait_for": "success", "say": "skipped"})


def test_fail_fast_wants_all_that_failed_to_be_cleared(db: str, tmp_path: Path) -> None:
    said, flag = str(tmp_path / "said"), tmp_path / "flag"
    with Dag("fast", db_path=db, fail_fast=True) as dag:
        work(said, str(flag)) >> say(said, "after")
        wait_for.override(kill_grace_s=0)(said, str(flag))
    over = dag.run(run_id="r", max_workers=2, progress=False)
    if states(over)["wait_for"] != "failed":  # it had not begun
        pytest.skip("the failure came first")
    with pytest.raises(RunConflictError, match="clear all that failed: liteflow clear fast/r --failed"):
        over.clear("work")
    flag.touch()
    assert over.clear(failed=True) == 3, "what the early end skipped too"
    done = dag.resume("r", progress=False)
    assert (done.state, set(states(done).values())) == ("success", {"success"})


def test_what_a_cancel_or_timeout_left_out_counts_as_failed_when_it_is_cleared(db: str, tmp_path: Path) -> None:
    said, flag = tmp_path / "said", tmp_path / "flag"
    with Dag("slow", db_path=db, dagrun_timeout=0.3) as dag:
        wait_for.override(kill_grace_s=0)(str(said), str(flag)) >> say(str(said), "after")
    over = dag.run(run_id="r", progress=False)
    assert (over.end_reason, states(over)["say"]) == ("timeout", "skipped")
    flag.touch()
    assert over.clear(failed=True) == 2
    dag.dagrun_timeout_s = None
    assert set(states(dag.resume("r", progress=False)).values()) == {"success"}
    assert said.read_text().split()[-1] == "after"


KILLED = """
import os, signal, sys, time
from liteflow import Dag, task

@task
def first():
    print("first")
    return 1

@task
def middle(x):
    if not os.path.exists("go"):
        open("begun", "w").close()
        time.sleep(60)
    return x + 1

@task
def last(x):
    return x + 1

with Dag("killed", db_path="test.db") as dag:
    last(middle(first()))
"""


@pytest.mark.parametrize("how", ["clear", "mark", "clear, killed again"])
def test_an_interrupted_run_can_be_put_right(how: str, script: Callable[..., Script], db: str, tmp_path: Path) -> None:
    from liteflow.storage.history import open_history

    script(KILLED.replace("test.db", db), "killed.py")
    starter = script("import sys; from liteflow.__main__ import main; sys.argv[0] = 'liteflow'; main()", "starter.py")

    def interrupt(*args: str) -> None:
        (tmp_path / "begun").unlink(missing_ok=True)
        process = starter.start(*args)
        wait_until((tmp_path / "begun").exists, "the middle task runs")
        process.send_signal(signal.SIGKILL)
        process.communicate()

    interrupt("run", "killed.py", "--run-id", "r")
    history = open_history(db)
    run = history.find_run("killed/r")
    if how == "mark":
        assert run.mark("middle", "success") == 1
        assert states(history.find_run("killed/r")) == {
            "first": "success",
            "middle": "success marked",
            "last": "pending",
        }
        assert [str(one.end_reason) for one in run.tries()] == ["crashed"]
        assert history.find_run("killed/r").state == "running", "whoever goes on with it ends it"
    else:
        assert run.clear("middle") == 0, "what was running is not over: it goes on when the run does"
        assert run.clear("first") == 2, "and waits again for what is cleared above it"
        assert states(history.find_run("killed/r")) == {"first": "pending", "middle": "pending", "last": "pending"}
        assert [(one.task_id, str(one.end_reason)) for one in run.tries()] == [("first", "None"), ("middle", "crashed")]
        if "again" in how:
            interrupt("run", "killed.py", "--resume", "killed/r")
            assert history.find_run("killed/r").clear("first") == 2
    (tmp_path / "go").touch()
    done = liteflow("run", "killed.py", "--resume", "killed/r", "-q", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "killed/r failed\n") if how == "mark" else (0, "killed/r success\n")
    over = history.find_run("killed/r")
    if how == "mark":  # the value of what was marked is None
        assert "NoneType" in (over.task_instance("last").error or "")
    else:
        assert over.xcom("last") == 3
        assert over.task_instance("first").try_number == (3 if "again" in how else 2)


@task
def skip_first(flag: str) -> None:
    if not os.path.exists(flag):
        raise SkipTask("not yet")


def test_a_try_that_skipped_is_remembered_as_that(db: str, tmp_path: Path) -> None:
    with Dag("skips", db_path=db) as dag:
        skip_first(str(tmp_path / "flag"))
    assert dag.run(run_id="r", progress=False).clear("skip_first") == 1
    (tmp_path / "flag").touch()
    done = dag.resume("r", progress=False)
    assert [(one.try_number, str(one.state)) for one in done.tries()] == [(1, "skipped")]
    assert states(done) == {"skip_first": "success"}


@pytest.fixture
def held(db: str, tmp_path: Path) -> Dag:
    """A dag whose task waits for the file `flag`, and wants the run before to be well; its run `r` waits, cleared."""
    with Dag("held", db_path=db) as dag:
        wait_for.override(kill_grace_s=0, depends_on_past=True)(str(tmp_path / "said"), str(tmp_path / "flag"))
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag, run_id="r", logical_date=datetime(2026, 1, 1, tzinfo=UTC))
        handle.cancel()
        run = handle.wait()
    assert run.clear("wait_for") == 1
    return dag


def test_a_cleared_run_that_a_service_is_about_to_take_up_goes_on(held: Dag, tmp_path: Path) -> None:
    with ExecutorService(held.db_path, dags=[held], max_workers=1):
        with pytest.raises(RunActiveError, match="run 'r' of dag 'held' is still going"):
            held.run(alone=True, progress=False)
        (tmp_path / "flag").touch()


def test_a_cleared_run_that_no_service_takes_up_does_not_go_on(
    held: Dag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flag").touch()
    assert held.run(alone=True, logical_date=datetime(2025, 1, 1, tzinfo=UTC), progress=False).state == "success"
    monkeypatch.setattr("liteflow.execution.waiting.TAKE_UP_S", 0.2)
    with ExecutorService(held.db_path, max_workers=1):  # it does not know the dag
        assert held.run(alone=True, logical_date=datetime(2025, 1, 2, tzinfo=UTC), progress=False).state == "success"
        over = held.run(logical_date=datetime(2026, 1, 2, tzinfo=UTC), progress=False)
    assert over.task_instance("wait_for").error == "depends_on_past: 'wait_for' is pending in the run before, 'r'"


def test_a_task_waits_for_its_past_while_a_service_may_take_that_up(held: Dag, tmp_path: Path) -> None:
    (tmp_path / "flag").touch()
    with (
        ExecutorService(held.db_path, max_workers=1) as other,
        ExecutorService(held.db_path, max_workers=1, recover=False) as service,
    ):
        handle = service.submit(held, logical_date=datetime(2026, 1, 2, tzinfo=UTC))
        wait_until(lambda: handle.state == "running", "it has been begun")
        other.register(held)
        assert handle.wait(30).state == "success"
    assert [run.state for run in held.runs()] == ["success", "success"]


def test_a_take_up_that_cannot_be_recorded_is_told_and_tried_again(
    held: Dag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from liteflow.storage.engine import Database, connect

    kind = type(connect(held.db_path))
    write, failures = kind.write, [StorageError("the disk is full", path=held.db_path)]

    @contextmanager
    def failing_once(self: Database, **more: bool) -> Iterator[Any]:
        with write(self, **more) as connection:
            yield connection
            if failures and more.get("durable"):
                raise failures.pop()

    (tmp_path / "flag").touch()
    monkeypatch.setattr("liteflow.execution.recovery.REFUSED_S", 0.1)
    with ExecutorService(held.db_path, max_workers=1) as service:
        monkeypatch.setattr(kind, "write", failing_once)
        service.register(held)
        wait_until(lambda: held.latest_run().state == "success", "it is taken up")  # type: ignore[union-attr]
    assert not failures
    assert "run r of dag held, which nobody drives, is left as it is: the disk is full" in caplog.text


def test_a_resume_waits_for_a_take_up_of_which_the_loop_is_about_to_hear(held: Dag, tmp_path: Path) -> None:
    (tmp_path / "flag").touch()
    with (
        ExecutorService(held.db_path, dags=[held], max_workers=1, recover=False) as service,
        ThreadPoolExecutor(1) as pool,
    ):
        assert service._recoverer is not None
        assert service._loop is not None
        taken = service._recoverer.take_up(service._prepare(held), service._recorded(held.dag_id, "r"))
        assert taken is not None
        resumed = pool.submit(service.resume, held, "r")
        with pytest.raises(TimeoutError):
            resumed.result(0.1)
        service._loop.adopt(taken)
        assert resumed.result(30).wait(30).state == "success"


# Marking


def test_marking_what_failed_and_having_the_rest_run(flow: Flow) -> None:
    assert flow.run().mark("work", "success") == 1
    assert flow.run().state == "failed", "something else failed too"
    assert flow.run().mark("double", "success", 1) == 1
    marked = flow.run()
    assert changes(FAILED, states(marked)) == {"work": "success marked", "double[1]": "success marked"}
    assert (marked.state, marked.xcom("double")) == ("failed", [0, None, 4])
    assert [str(one.end_reason) for one in marked.tries()] == ["error", "error"], "how they really ended is kept"
    assert marked.clear("double", downstream=True, failed=True) == 1
    done = flow.resume()
    assert (done.state, flow.words(), done.xcom("total")) == ("success", ["total"], 4)


def test_the_state_of_a_run_follows_what_is_marked(well: Flow) -> None:
    assert well.run().mark("total", "failed") == 1
    assert (well.run().state, well.run().end_reason) == ("failed", None)
    assert well.run().mark("total", "success") == 1
    done = well.run()
    assert (done.state, done.xcom("total")) == ("success", 6), "its value was kept"
    assert well.run().mark("stop", "failed") == 1
    assert well.run().state == "success", "a teardown's failure is not the run's"
    assert well.run().mark("double", "failed") == 3
    assert well.run().state == "success", "its leaves went well"
    assert well.words() == []


def test_a_resume_tries_what_is_marked_failed_and_leaves_what_is_marked_otherwise(flow: Flow) -> None:
    flow.flag.touch()
    assert flow.run().mark("total", "skipped") == 1
    assert flow.run().mark("left", "failed") == 1
    done = flow.resume()
    assert changes(WELL, states(done)) == {"total": "skipped marked"}
    assert flow.words() == ["double1", "left", "start", "stop", "work"]


def test_what_waits_can_be_marked_and_a_run_with_nothing_left_to_do_is_over(flow: Flow) -> None:
    flow.run().clear(failed=True)
    for task_id in ("double", "work"):
        flow.run().mark(task_id, "success")
        assert flow.run().state == "queued"
    flow.run().mark("total", "success")
    assert (flow.run().state, flow.run().ended_at is not None) == ("success", True)


# Running again, as a new run


def test_a_rerun_is_a_new_run_with_the_params_and_date_of_the_old_one(flow: Flow) -> None:
    flow.flag.touch()
    old = flow.run()
    new = flow.dag.rerun("r", params={"size": 2}, run_id="s", progress=False)
    assert (new.state, new.rerun_of, new.logical_date) == ("success", "r", old.logical_date)
    assert (old.params, new.params) == ({"day": "monday", "size": 1}, {"day": "monday", "size": 2})
    assert states(new) == WELL
    assert flow.dag.rerun("r", params={"size": 2}, run_id="s", progress=False).ended_at == new.ended_at
    assert states(flow.run()) == FAILED, "the old one is as it was"
    other = flow.dag.rerun("r", progress=False)
    assert other.run_id.startswith("rerun__")
    with pytest.raises(RunConflictError, match="exists and is no rerun of 's'"):
        flow.dag.rerun("s", run_id=other.run_id, progress=False)
    with pytest.raises(NotFoundError, match="no run 'nine' of dag 'flow'"):
        flow.dag.rerun("nine", progress=False)


REUSED = {name: f"{state} reused" for name, state in FAILED.items() if state in ("success", "skipped")}


def test_only_what_failed_runs_again_and_the_rest_is_reused_with_its_values(flow: Flow) -> None:
    flow.flag.touch()
    new = flow.dag.rerun("r", only_failed=True, run_id="s", progress=False)
    ran = {"double[1]": "success", "total": "success", "start": "success", "work": "success", "stop": "success"}
    assert (new.state, states(new)) == ("success", REUSED | ran)
    assert flow.words() == ["double1", "start", "stop", "total", "work"]
    assert (new.xcom("double"), new.xcom("total"), new.xcom("listed")) == ([0, 2, 4], 6, [0, 1, 2])
    kept = {(one.task_id, one.map_index, one.key): (one.encoding, one.data) for one in flow.run().xcoms()}
    copied = {(one.task_id, one.map_index, one.key): (one.encoding, one.data) for one in new.xcoms()}
    assert kept.items() <= copied.items()
    assert ("choose", -1, "skipmixin_key") in copied
    assert tries(new)["listed"] == [0], "nothing of it ran here"


def test_a_rerun_that_failed_can_be_resumed_cleared_and_rerun(flow: Flow) -> None:
    new = flow.dag.rerun("r", only_failed=True, run_id="s", progress=False)
    assert (new.state, states(new)["listed"], states(new)["work"]) == ("failed", "success reused", "failed")
    flow.flag.touch()
    assert flow.dag.rerun("s", only_failed=True, run_id="t", progress=False).state == "success"
    assert flow.dag.resume("s", progress=False).state == "success"
    flow.words()
    assert flow.run("s").clear("right", "listed", downstream=True) == 6
    assert flow.dag.resume("s", progress=False).xcom("double") == [0, 2, 4]
    assert flow.words() == ["double0", "double1", "double2", "listed", "total"]
    assert states(flow.run("s"))["right"] == "skipped", "as the branch of the first run decided"


def test_what_is_new_or_wired_in_another_way_runs_with_all_that_is_below(flow: Flow) -> None:
    flow.flag.touch()
    assert flow.resume().state == "success"
    flow.words()
    with flow.dag:
        said = str(flow.said)
        new = say.override(task_id="new")(said, "new")
        flow.dag.get_task("choose").set_upstream(flow.dag.get_task("new"))
    del new
    done = flow.dag.rerun("r", only_failed=True, run_id="s", progress=False)
    assert (done.state, flow.words()) == ("success", ["choose", "left", "new"])
    assert states(done)["right"] == "skipped"
    assert states(done)["total"] == "success reused"


@task
def skip_first_time(flag: str) -> None:
    if not os.path.exists(flag):
        raise SkipTask("not now")


@pytest.mark.filterwarnings("ignore::liteflow.DagWarning")
def test_what_was_skipped_stays_so_unless_it_is_below_something_that_runs(db: str, tmp_path: Path) -> None:
    said, flag = str(tmp_path / "said"), tmp_path / "flag"
    with Dag("skips", db_path=db) as dag:
        skip_first_time(str(flag))
        failing = work(said, str(flag))
        failing >> skip_first_time.override(task_id="below", trigger_rule="all_done")(str(flag))
    assert dag.run(run_id="r", progress=False).state == "success"
    flag.touch()
    done = dag.rerun("r", only_failed=True, progress=False)
    assert states(done) == {"skip_first_time": "skipped reused", "work": "success", "below": "success"}


def test_a_value_that_was_not_kept_item_by_item_is_made_anew_when_something_is_mapped_over_it(
    db: str, tmp_path: Path
) -> None:
    said, flag, length = (str(tmp_path / name) for name in ("said", "flag", "length"))
    with Dag("grown", db_path=db) as dag:
        listed(said, length)
    assert dag.run(run_id="r", progress=False).state == "success"
    Path(flag).touch()
    with Dag("grown", db_path=db) as grown:
        double.partial(said=said, flag=flag).expand(n=listed(said, length))
    done = grown.rerun("r", only_failed=True, progress=False)
    assert (done.state, done.xcom("double"), states(done)["listed"]) == ("success", [0, 2, 4], "success")


def test_a_rerun_of_what_failed_is_refused_where_it_makes_no_sense(well: Flow) -> None:
    with pytest.raises(RunConflictError, match="nothing went wrong in it, so there is nothing to run again"):
        well.dag.rerun("r", only_failed=True, run_id="s", progress=False)
    with pytest.raises(ParamError, match="the values of a run belong to its params"):
        well.dag.rerun("r", only_failed=True, params={"size": 3}, progress=False)
    well.run().clear("total")
    with pytest.raises(RunConflictError, match=r"is not over \(queued\): go on with it"):
        well.dag.rerun("r", only_failed=True, progress=False)
    assert [run.run_id for run in well.dag.runs()] == ["r"]


# What a hunt for faults found


@task
def fail_unless(flag: str) -> None:
    if not os.path.exists(flag):
        raise ValueError("not yet")


@task
def itself(n: int) -> int:
    return n


@task
def summed(numbers: list[int]) -> int:
    return sum(numbers)


def test_what_is_mapped_over_a_list_that_is_shorter_now_runs_again(db: str, tmp_path: Path) -> None:
    def dag_over(numbers: list[int]) -> Dag:
        with Dag("shorter", db_path=db) as dag:
            summed(itself.expand(n=numbers))
            fail_unless(str(tmp_path / "flag"))
        return dag

    assert dag_over([1, 2, 3]).run(run_id="first", progress=False).state == "failed"
    (tmp_path / "flag").touch()
    again = dag_over([1, 2]).rerun("first", only_failed=True, progress=False)
    assert (again.state, again.xcom("summed"), again.xcom("itself")) == ("success", 3, [1, 2])


def test_a_source_that_was_opened_since_it_was_looked_at_is_not_copied(
    db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Dag("opened", db_path=db) as dag:
        itself(1) >> fail_unless(str(tmp_path / "flag"))
    source = dag.run(run_id="first", progress=False)
    create = ExecutorService._create

    def cleared_first(self: ExecutorService, *args: Any, **options: Any) -> Any:
        source.refresh().clear("itself", downstream=True)
        return create(self, *args, **options)

    monkeypatch.setattr(ExecutorService, "_create", cleared_first)
    with pytest.raises(RunConflictError, match="is not over"):
        dag.rerun("first", only_failed=True, progress=False)
    assert [run.run_id for run in dag.runs()] == ["first"]

    def deleted_first(self: ExecutorService, *args: Any, **options: Any) -> Any:
        source.history.delete_run(source.pk)
        return create(self, *args, **options)

    source.refresh().mark("itself", "success")
    source.refresh().mark("fail_unless", "failed")
    monkeypatch.setattr(ExecutorService, "_create", deleted_first)
    with pytest.raises(NotFoundError, match="not there any more"):
        dag.rerun("first", only_failed=True, progress=False)
    assert dag.runs() == []


def test_what_is_mapped_over_fewer_items_now_is_refused_by_all_and_can_be_put_right(flow: Flow) -> None:
    """The advice left out what is below, which then never ran; a refused repetition stayed in the record."""
    from liteflow.execution.planning import plan_resume, prepare

    flow.length.write_text("2")
    assert flow.run().clear("listed") == 1
    assert flow.resume().state == "failed"
    flow.flag.touch()
    advice = r"'double' has 3 instances, .* 2 items now; .*: liteflow clear flow/r double --downstream$"
    with pytest.raises(RunConflictError, match=advice):
        plan_resume(flow.run().history, prepare(flow.dag), "r")
    with pytest.raises(RunConflictError, match=advice):
        flow.resume()
    with pytest.raises(RunConflictError, match=advice):
        flow.dag.rerun("r", only_failed=True, run_id="again", progress=False)
    assert [run.run_id for run in flow.dag.runs()] == ["r"], "what never began is not there"
    assert flow.run().clear("double", downstream=True) == 4
    assert flow.run().clear("work") == 1
    assert plan_resume(flow.run().history, prepare(flow.dag), "r").rests["double"].again == 3
    done = flow.resume()
    assert (done.state, states(done)["double[1]"], done.xcom("total")) == ("success", "success", 2)


@task
def use(path: str, flag: str) -> None:
    assert os.path.exists(path), "used before it was made"
    if not os.path.exists(flag):
        raise ValueError("not yet")


@pytest.fixture
def torn_down(db: str, tmp_path: Path) -> Dag:
    """A dag whose run `r` failed in its work, and then in its teardown, which had removed what the setup made."""
    said, made, flag = str(tmp_path / "said"), str(tmp_path / "made"), str(tmp_path / "flag")

    @setup
    def up() -> None:
        say.function(said, "up")
        Path(made).touch()

    @teardown
    def down() -> None:
        say.function(said, "down")
        os.remove(made)
        if not os.path.exists(flag):
            raise ValueError("not yet")

    with Dag("torn", db_path=db) as dag:
        begun = up()
        with down().as_teardown(setups=begun):
            use(made, flag)
    assert states(dag.run(run_id="r", progress=False)) == {"up": "success", "use": "failed", "down": "failed"}
    Path(flag).touch()
    return dag


@pytest.mark.parametrize("then", ["goes on", "is ended, and goes on"])
def test_a_teardown_that_is_cleared_too_has_run_all_the_same(torn_down: Dag, tmp_path: Path, then: str) -> None:
    """What the setup had made was taken to be there: the work ran without it."""
    run = torn_down.runs()[0]
    assert run.clear(failed=True) == 2
    if then != "goes on":
        liteflow("cancel", "torn/r", "--db", str(torn_down.db_path), cwd=tmp_path)
        assert states(torn_down.runs()[0])["down"] == "skipped"
    done = torn_down.resume("r", progress=False)
    assert (done.state, states(done)) == ("success", dict.fromkeys(["up", "use", "down"], "success"))
    assert (tmp_path / "said").read_text().split() == ["up", "down", "up", "down"]


def test_a_teardown_that_is_cleared_in_a_repetition_had_run_in_the_first_run(torn_down: Dag, tmp_path: Path) -> None:
    torn_down.resume("r", progress=False)
    torn_down.runs()[0].mark("down", "failed")
    again = torn_down.rerun("r", only_failed=True, run_id="again", progress=False)
    assert states(again) == {"up": "success reused", "use": "success reused", "down": "failed"}, "nothing is there"
    assert again.clear("use", "down") == 2
    done = torn_down.resume("again", progress=False)
    assert (done.state, states(done)["up"]) == ("success", "success")


def test_a_setup_that_is_cleared_alone_is_torn_down_again(db: str, tmp_path: Path) -> None:
    said = str(tmp_path / "said")
    with Dag("alone", db_path=db) as dag:
        make = say.override(task_id="make")(said, "make").as_setup()
        (
            make
            >> say.override(task_id="use")(said, "use")
            >> say.override(task_id="remove")(said, "remove").as_teardown(setups=make)
        )
    run = dag.run(run_id="r", progress=False)
    run.clear("make")
    assert dag.resume("r", progress=False).state == "success"
    assert Path(said).read_text().split() == ["make", "use", "remove", "make", "remove"]


def test_callbacks_that_were_due_when_a_run_failed_are_forgotten_when_it_is_opened(db: str, tmp_path: Path) -> None:
    from sqlalchemy import func, select

    from liteflow.storage.callbacks import CallbackFacts, store_callbacks
    from liteflow.storage.tables import CALLBACK

    with Dag("told", db_path=db) as dag:
        fail_unless(str(tmp_path / "flag"))
    run = dag.run(run_id="r", progress=False)
    for change in (lambda: run.refresh().clear("fail_unless"), lambda: run.refresh().mark("fail_unless", "success")):
        with run.history.database.write() as connection:  # as when the process was killed while it was called
            store_callbacks(connection, [CallbackFacts(run.pk, "dag_on_failure")], 1)
        change()
        with run.history.read() as connection:
            assert connection.scalar(select(func.count()).select_from(CALLBACK)) == 0


def test_a_run_that_could_not_be_taken_up_is_once_a_command_has_helped(
    well: Flow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from liteflow.execution import recovery

    monkeypatch.setattr(recovery, "REFUSED_S", 0.1)
    well.run().clear("listed", ("double", 0))
    with ExecutorService(well.db, dags=[well.dag], max_workers=1):
        wait_until(lambda: "is left as it is" in caplog.text, "it is refused")
        well.run().clear("listed", downstream=True)
        wait_until(lambda: well.run().state == "success", "it goes on")
    assert caplog.text.count("is left as it is") == 1


def test_a_run_that_goes_on_since_it_was_looked_at_is_not_deleted(flow: Flow) -> None:
    seen = flow.run()
    seen.clear(failed=True)
    with pytest.raises(RunConflictError, match="goes on again"):
        seen.history.delete_run(seen.pk, seen=seen)
    assert flow.run().state == "queued"


def test_the_handle_of_a_run_that_was_deleted_says_so(flow: Flow) -> None:
    run = flow.run()
    run.history.delete_run(run.pk)
    for act in (run.cancel, lambda: run.clear(failed=True), lambda: run.mark("listed", "failed")):
        with pytest.raises(NotFoundError, match="not there any more"):
            act()
