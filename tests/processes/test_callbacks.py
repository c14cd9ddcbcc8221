"""Callbacks of tasks and dags: what each is called for and with, and that nothing they do changes what is recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, FailTask, RetryDecision, RetryPolicy, SkipTask, get_current_context, task
from liteflow.errors import InvalidOptionError
from tests.conftest import Script, lines_of, states_of, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


class Notes:
    """A callback that writes down for what it was called, as `word:task:state:try`."""

    def __init__(self, path: Path, word: str) -> None:
        self.path = path
        self.word = word

    def __call__(self, context: Any) -> None:
        ti = context["ti"]
        with open(self.path, "a") as file:
            file.write(f"{self.word}:{ti.task_id}:{ti.state}:{ti.try_number}\n")


def all_notes(path: Path) -> dict[str, Any]:
    """Each callback that a task can have."""
    words = ["execute", "success", "failure", "retry", "skipped"]
    return {f"on_{word}_callback": Notes(path, word) for word in words}


@task
def one() -> int:
    return 1


@task
def run_to(kind: str) -> int:
    """Ends as it is told."""
    number: int = get_current_context()["try_number"]
    if kind == "hang":
        threading.Event().wait(60)
    if kind == "exit":
        os._exit(7)
    if kind == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "leave":
        raise SystemExit("leaving")
    if kind == "fail" or (kind == "fail once" and number == 1):
        raise ValueError("broken on purpose")
    if kind == "give up":
        raise FailTask("no use")
    if kind == "skip":
        raise SkipTask("nothing to do")
    return number


# Which is called, and once

CALLED = {
    # how the task ends: what is called, in order
    "well": ["execute:running:1", "success:success:1"],
    "fail once": ["execute:running:1", "retry:up_for_retry:1", "execute:running:2", "success:success:2"],
    "fail": ["execute:running:1", "retry:up_for_retry:1", "execute:running:2", "failure:failed:2"],
    "give up": ["execute:running:1", "failure:failed:1"],
    "skip": ["execute:running:1", "skipped:skipped:1"],
    "leave": ["execute:running:1", "retry:up_for_retry:1", "execute:running:2", "failure:failed:2"],
    "exit": ["execute:running:1", "retry:up_for_retry:1", "execute:running:2", "failure:failed:2"],
    "signal": ["execute:running:1", "retry:up_for_retry:1", "execute:running:2", "failure:failed:2"],
    "hang": ["execute:running:1", "retry:up_for_retry:1", "execute:running:2", "failure:failed:2"],
}


def test_each_end_of_a_try_calls_its_callback_once(db: str, tmp_path: Path) -> None:
    """Also of tries that were killed, timed out or crashed, whose process is gone."""
    with Dag("ends", db_path=db, default_args={"retries": 1, "retry_delay": 0.2, "kill_grace_s": 0.1}) as dag:
        for number, kind in enumerate(CALLED):
            more = {"timeout": 0.3} if kind == "hang" else {}
            run_to.override(task_id=f"t{number}", **all_notes(tmp_path / str(number)), **more)(kind)
    run = dag.run(progress=False, max_workers=2)
    found = {kind: notes_of(tmp_path / str(number), f"t{number}") for number, kind in enumerate(CALLED)}
    # A callback runs beside the next try, which may begin before it.
    assert {kind: sorted(notes) for kind, notes in found.items()} == {k: sorted(v) for k, v in CALLED.items()}
    assert [str(run.task_instance(f"t{number}").end_reason) for number in range(6, 9)] == [
        "crashed",
        "crashed",
        "timeout",
    ]


def notes_of(path: Path, task_id: str) -> list[str]:
    """What was written down, without the id of the task."""
    return [line.replace(f":{task_id}:", ":") for line in path.read_text().split("\n") if line]


def test_what_never_ran_calls_nothing(db: str, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    with Dag("never", db_path=db, default_args=all_notes(path)) as dag:
        run_to.override(task_id="bad", on_execute_callback=None, on_failure_callback=None)("fail") >> one()
        skip_all = task.branch(lambda: None, task_id="branch", on_execute_callback=None, on_success_callback=None)
        skip_all() >> one.override(task_id="not_chosen")()
        (
            task.run_if(lambda context: False)(run_to).override(task_id="guarded")("well")
            >> one.override(task_id="below")()
        )
    run = dag.run(progress=False, max_workers=2)
    assert states_of(run) == {
        "bad": "failed",
        "one": "upstream_failed",
        "branch": "success",
        "not_chosen": "skipped",
        "guarded": "skipped",
        "below": "skipped",
    }
    assert path.read_text() == "skipped:guarded:skipped:1\n", "a skip that the task itself raises is told, no other"


def test_a_cancelled_task_calls_on_failure(db: str, tmp_path: Path) -> None:
    notes = all_notes(tmp_path / "notes")
    with Dag("cancelled", db_path=db, default_args={**notes, "kill_grace_s": 0.1, "retries": 3}) as dag:
        run_to("hang") >> one()
    with ExecutorService(db, max_workers=2) as service:
        handle = service.submit(dag)
        wait_until(lambda: handle.run.task_instance("run_to").started_at, "it runs")
        handle.cancel()
        run = handle.wait(timeout=30)
    assert (run.state, run.end_reason) == ("failed", "cancelled")
    assert notes_of(tmp_path / "notes", "run_to") == ["execute:running:1", "failure:failed:1"]


# What they are called with


def write_context(path: str) -> Callable[[Any], None]:
    """A callback that writes down some of its context."""

    def callback(context: Any) -> None:
        ti = context["ti"]
        found = {
            "run_id": context["run_id"],
            "params": context["params"],
            "exception": repr(context["exception"]),
            "pulled": ti.xcom_pull(task_ids="before"),
            "own": ti.xcom_pull(),
            "map_index": ti.map_index,
            "ds": context["ds"],
        }
        with open(path, "a") as file:
            file.write(json.dumps(found) + "\n")

    return callback


def test_the_context_is_that_of_the_try_and_knows_the_exception(db: str, tmp_path: Path) -> None:
    path = tmp_path / "context"
    with Dag("context", db_path=db, params={"p": 1}) as dag:
        before = one.override(task_id="before")()
        bad = run_to.override(on_failure_callback=write_context(str(path)))
        before >> [bad("fail"), bad.override(task_id="killed")("exit")]
    moment = datetime.fromisoformat("2026-03-04T00:00:00+00:00")
    dag.run({"p": 2}, run_id="r", logical_date=moment, progress=False, max_workers=1)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one.pop("exception") for one in sorted(found, key=lambda one: "Value" not in one["exception"])] == [
        "ValueError('broken on purpose')",
        "TaskFailed('its process ended with exit code 7')",
    ]
    same = {"run_id": "r", "params": {"p": 2}, "pulled": 1, "own": None, "map_index": -1, "ds": "2026-03-04"}
    assert found == [same, same]


def test_on_success_can_pull_what_the_task_handed_on(db: str, tmp_path: Path) -> None:
    path = tmp_path / "context"
    with Dag("own", db_path=db) as dag:
        task(lambda x: x * 10, task_id="own", on_success_callback=write_context(str(path))).expand(x=[1, 2])
    dag.run(progress=False, max_workers=1)
    found = sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda one: one["map_index"])
    assert [(one["map_index"], one["own"]) for one in found] == [(0, 10), (1, 20)]


class Unpicklable(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


@task
def raise_oddly(kind: str) -> None:
    if kind == "lock":
        error = ValueError("with a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]  # nothing forbids it
        raise error
    raise Unpicklable("this", "that")


def test_an_exception_that_cannot_travel_arrives_as_its_text(db: str, tmp_path: Path) -> None:
    path = tmp_path / "context"
    with Dag("odd", db_path=db, default_args={"on_failure_callback": write_context(str(path))}) as dag:
        raise_oddly("two") >> raise_oddly.override(task_id="lock", trigger_rule="all_done")("lock")
    dag.run(progress=False, max_workers=1)
    found = [json.loads(line)["exception"] for line in path.read_text().splitlines()]
    assert ["this and that" in found[0], "with a lock" in found[1]] == [True, True], found


def push(context: Any) -> None:
    context["ti"].xcom_push("from_callback", 5)


def test_on_execute_can_push_and_the_others_are_told_that_they_cannot(db: str) -> None:
    with Dag("push", db_path=db) as dag:
        one.override(on_execute_callback=push)()
        one.override(task_id="late", on_success_callback=push)()
    run = dag.run(progress=False, max_workers=1)
    assert run.xcom("one", "from_callback") == 5
    assert any("xcom_push() works while the task runs" in line for line in lines_of(run, "late"))


# What they may do wrong


def raise_error(context: Any) -> None:
    raise RuntimeError(f"the callback of {context['ti'].task_id} is broken")


def take_nothing() -> None:
    raise AssertionError("it is called with the context")


def end_process(_context: Any) -> None:
    os._exit(3)


def kill_process(_context: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_context: Any) -> None:
    raise SystemExit(4)


def skip(_context: Any) -> None:
    raise SkipTask("not me")


WRONG = [raise_error, take_nothing, end_process, kill_process, leave, skip]


@pytest.mark.parametrize("kind", ["success", "failure", "retry", "skipped"])
def test_a_broken_callback_is_in_the_log_and_changes_nothing(db: str, tmp_path: Path, kind: str) -> None:
    ends = {"success": "well", "failure": "give up", "retry": "fail once", "skipped": "skip"}
    path = tmp_path / "notes"
    option = f"on_{kind}_callback"
    with Dag("broken", db_path=db, default_args={"retries": 1}) as dag:
        run_to.override(**{option: [*WRONG, Notes(path, "last")]})(ends[kind])
        run_to.override(task_id="plain")(ends[kind])
    run = dag.run(progress=False, max_workers=2)
    found, plain = run.task_instance("run_to"), run.task_instance("plain")
    assert (found.state, found.error, found.try_number) == (plain.state, plain.error, plain.try_number)
    assert len(path.read_text().split()) == 1, "the next in the list is called all the same"
    log = "\n".join(lines_of(run, "run_to"))
    assert "RuntimeError: the callback of run_to is broken" in log
    assert "TypeError: take_nothing() takes 0 positional arguments but 1 was given" in log
    assert log.count("the callback was ended: its process ended with exit code 3") == 1
    assert log.count("the callback was ended: its process was killed by SIGKILL") == 1
    assert "the callback failed: SystemExit: 4" in log
    assert "the callback failed: not me" in log


def test_a_broken_on_execute_changes_nothing_unless_it_ends_the_process(db: str, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    with Dag("broken", db_path=db) as dag:
        one.override(task_id="raises", on_execute_callback=[raise_error, take_nothing, Notes(path, "last")])()
        one.override(task_id="ends", on_execute_callback=end_process)()
    run = dag.run(progress=False, max_workers=2)
    assert states_of(run) == {"raises": "success", "ends": "failed"}
    assert path.read_text() == "last:raises:running:1\n"
    assert any("RuntimeError: the callback of raises is broken" in line for line in lines_of(run, "raises"))
    assert run.task_instance("ends").end_reason == "crashed"


def hang(_context: Any) -> None:
    subprocess.Popen(["setsid", "sleep", "81"])
    while True:
        try:
            threading.Event().wait(60)
        except BaseException:
            print("not me")


def test_a_callback_that_hangs_is_ended_and_the_run_goes_on(db: str, tmp_path: Path, limit: None) -> None:
    path = tmp_path / "notes"
    with Dag(
        "hang", db_path=db, default_args={"kill_grace_s": 0.1}, on_success_callback=[hang, Notes(path, "dag")]
    ) as dag:
        one.override(on_success_callback=[hang, Notes(path, "task")])() >> one.override(task_id="below")()
    run = dag.run(progress=False, max_workers=2)
    assert (run.state, states_of(run)) == ("success", {"one": "success", "below": "success"})
    assert {line.split(":")[0] for line in path.read_text().split()} == {"dag", "task"}
    assert "the callback was ended: TaskKilled: took longer than its timeout of 0.3 s" in lines_of(run)
    found = subprocess.run(["pgrep", "-xf", "sleep 81"], capture_output=True, check=False)
    assert found.returncode == 1, "what it started is gone too"


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks may take 0.3 s."""
    from liteflow.execution import callbacks

    monkeypatch.setattr(callbacks, "CALLBACK_TIMEOUT_S", 0.3)


def test_a_callback_that_hangs_holds_up_no_other_task(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def wait_for_go(_context: Any) -> None:
        wait_until(go.exists, "told to go", timeout_s=50)

    with Dag("slow", db_path=db) as dag:
        first = one.override(on_success_callback=wait_for_go)()
        for number in range(20):
            first >> one.override(task_id=f"below{number}")()
    with ExecutorService(db, max_workers=2) as service:
        handle = service.submit(dag)
        wait_until(lambda: set(states_of(handle.run).values()) == {"success"}, "everything else is done")
        assert handle.state == "running", "the run is over after its callbacks"
        go.touch()
        assert handle.wait(timeout=30).state == "success"


def print_lines(context: Any) -> None:
    print("printed for", context["ti"].task_id)


def test_what_a_callback_prints_is_in_the_log_of_its_task(db: str) -> None:
    with Dag("prints", db_path=db) as dag:
        for number in range(4):
            one.override(task_id=f"t{number}", on_success_callback=print_lines)()
    run = dag.run(progress=False, max_workers=2)
    assert [lines_of(run, f"t{number}") for number in range(4)] == [[f"printed for t{number}"] for number in range(4)]


def test_what_is_no_function_is_refused_where_it_is_written() -> None:
    with Dag("refused"), pytest.raises(InvalidOptionError, match=r"test_callbacks\.py:\d+: .*on_success_callback"):
        one.override(on_success_callback="mail me")()
    with pytest.raises(InvalidOptionError, match=r"test_callbacks\.py:\d+: .*on_failure_callback"):
        Dag("refused", on_failure_callback=[len, 5])  # type: ignore[list-item]  # that is the point


# Callbacks of dags


class DagNotes:
    """A dag's callback that writes down how the run ended."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, context: Any) -> None:
        with open(self.path, "a") as file:
            file.write(f"{context['reason']}:{context['ti'].task_id}:{context['dag_run'].run_id}\n")


@pytest.mark.parametrize(("kind", "wanted"), [("well", "good:success:last:r"), ("fail", "bad:task_failure:run_to:r")])
def test_the_dag_is_told_once_how_its_run_ended(db: str, tmp_path: Path, kind: str, wanted: str) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    with Dag("told", db_path=db, on_success_callback=DagNotes(good), on_failure_callback=DagNotes(bad)) as dag:
        one() >> run_to(kind) >> one.override(task_id="last")()
    run = dag.run(run_id="r", progress=False, max_workers=2)
    assert [f"{path.name}:{path.read_text().strip()}" for path in (good, bad) if path.exists()] == [wanted]
    assert states_of(run)["one"] == "success"


def test_the_dag_is_told_of_a_timeout_and_of_a_cancel(db: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    options: dict[str, Any] = {"on_failure_callback": DagNotes(bad), "default_args": {"kill_grace_s": 0.1}}
    with Dag("over", db_path=db, dagrun_timeout=0.2, **options) as over:
        run_to("hang")
    with Dag("cancel", db_path=db, **options) as cancel:
        run_to("hang")
    with ExecutorService(db, max_workers=2) as service:
        assert service.submit(over, run_id="over").wait(timeout=30).end_reason == "timeout"
        handle = service.submit(cancel, run_id="cancel")
        wait_until(lambda: handle.state == "running", "it has begun")
        handle.cancel()
        assert handle.wait(timeout=30).end_reason == "cancelled"
    assert bad.read_text().split() == ["timed_out:run_to:over", "cancelled:run_to:cancel"]


def test_a_broken_callback_of_the_dag_changes_nothing(db: str) -> None:
    with Dag("broken", db_path=db, on_success_callback=[raise_error, end_process]) as dag:
        one()
    run = dag.run(progress=False, max_workers=1)
    assert (run.state, run.end_reason) == ("success", None)
    assert any("RuntimeError: the callback of one is broken" in line for line in lines_of(run, "one"))


# Retry policies are asked in between


class OnlyOnce(RetryPolicy):
    """Tries again without waiting, and gives up at the second error."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        if context is not None and try_number >= 2:
            return RetryDecision.fail(f"{type(exception).__name__} again, {max_tries} retries or not")
        return RetryDecision.retry(delay=None, reason="once more")


def test_a_policy_that_gives_up_calls_on_failure_and_not_on_retry(db: str, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    with Dag("policy", db_path=db) as dag:
        run_to.override(retries=5, retry_policy=OnlyOnce(), **all_notes(path))("fail")
    run = dag.run(progress=False, max_workers=1)
    assert sorted(notes_of(path, "run_to")) == sorted(
        ["execute:running:1", "retry:up_for_retry:1", "execute:running:2", "failure:failed:2"]
    )
    assert "retry policy: fail: ValueError again, 5 retries or not" in lines_of(run)


# A host that dies

HOST = """
import os, threading
from liteflow import Dag, task

def call(context):
    with open("called", "a") as file:
        file.write("x")
    if os.path.exists("hold"):
        threading.Event().wait(60)

@task(on_success_callback=call)
def work():
    return 1

with Dag("host", db_path="host.db") as dag:
    work()

if __name__ == "__main__":
    dag.run(run_id="r", progress=False)
"""


def test_a_callback_dies_with_its_host_and_the_result_is_recorded(
    script: Callable[..., Script], tmp_path: Path
) -> None:
    (tmp_path / "hold").touch()
    host = script(HOST).start()
    wait_until((tmp_path / "called").exists, "the callback runs")
    host.kill()
    host.communicate()
    run = Dag("host", db_path=str(tmp_path / "host.db")).latest_run()
    assert run is not None
    assert states_of(run) == {"work": "success"}, "it was recorded before its callback was called"
    assert run.state == "running"
