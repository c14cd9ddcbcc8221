"""Threads in the place of slots: what a task has there, and what a thread that cannot be stopped leaves alone."""

from __future__ import annotations

import contextvars
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, get_current_context, task
from liteflow.errors import RunInterruptedError
from liteflow.operators import BashOperator
from liteflow.states import EndReason
from tests.conftest import Script, lines_of, run_python, states_of, wait_until

MakeScript = Callable[..., Script]


@pytest.fixture(params=["threads", "pool"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor | str]:
    """Threads of liteflow's own, and those of a pool."""
    if request.param == "threads":
        yield "threads"
    else:
        with ThreadPoolExecutor(3) as pool:
            yield pool


@pytest.fixture(autouse=True)
def _streams_are_as_they_were() -> Iterator[None]:
    before = sys.stdout, sys.stderr, logging.Logger.isEnabledFor, logging.Logger.callHandlers, logging.basicConfig
    yield
    wait_until(
        lambda: (
            before
            == (sys.stdout, sys.stderr, logging.Logger.isEnabledFor, logging.Logger.callHandlers, logging.basicConfig)
        ),
        "the stand-ins are left",
    )


@task
def give(value: Any = 1) -> Any:
    return value


# What a task has in a thread


@task
def ask_around(ti: Any, prev_start_date_success: Any) -> list[Any]:
    context = get_current_context()
    return [ti.xcom_pull("give"), str(prev_start_date_success), context["ti"] is ti, threading.current_thread().name]


def test_a_task_asks_for_all_that_it_can_ask_for_in_a_slot(db: str, executor: Executor | str) -> None:
    with Dag("asks", db_path=db) as dag:
        give({"a": 1}) >> ask_around()
    first = dag.run(progress=False, executor=executor)
    second = dag.run(progress=False, executor=executor)
    assert (first.state, second.state) == ("success", "success")
    pulled, before, is_own, name = second.xcom("ask_around")
    assert (pulled, is_own, name != "MainThread") == ({"a": 1}, True, True)
    assert first.xcom("ask_around")[1] == "None"
    assert before.startswith("20")


SHARED: list[int] = [1]


@task
def append(values: list[int]) -> list[int]:
    values.append(2)
    return values


def test_a_task_cannot_change_what_its_caller_holds(db: str, executor: Executor | str) -> None:
    with Dag("bytes", db_path=db) as dag:
        append.override(task_id="again")(append(SHARED))
    run = dag.run(progress=False, executor=executor)
    assert (run.xcom("append"), run.xcom("again"), SHARED) == ([1, 2], [1, 2, 2], [1])


# Logs

ROOT = logging.getLogger()
meet = threading.Barrier(3)


@task
def say(name: str) -> None:
    meet.wait(20)  # all of them print at the same time
    for number in range(50):
        print(f"{name} {number}")
        logging.getLogger("app").info("%s logs %d", name, number)
    print(f"{name} has no end", end="", file=sys.stderr)


def test_lines_go_to_the_task_that_writes_them(db: str, executor: Executor | str) -> None:
    with Dag("lines", db_path=db) as dag:
        for name in "abc":
            say.override(task_id=name)(name)
    with ExecutorService(db, max_workers=3, executor=executor) as service:
        run = service.submit(dag).wait(timeout=30)
    for name in "abc":
        expected = [line for number in range(50) for line in (f"{name} {number}", f"{name} logs {number}")]
        assert lines_of(run, name) == [*expected, f"{name} has no end"]
        assert {entry.logger for entry in run.logs(name) if " logs " in entry.message} == {"app"}


@task
def log_all(path: str) -> None:
    logging.basicConfig(level=logging.DEBUG)
    logging.info("by the module")
    logging.getLogger("quiet").info("too little for its own level")
    logging.getLogger("quiet").error("enough")
    logging.getLogger("app").debug("too little anyway")
    logging.getLogger("app").warning("with %s", "arguments")
    wait_until(lambda: os.path.exists(path), "the other thread", timeout_s=20)


def test_the_logging_of_the_host_stays_as_it_is(db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    mine = logging.StreamHandler(text)
    monkeypatch.setattr(ROOT, "handlers", [mine])
    monkeypatch.setattr(ROOT, "level", logging.WARNING)
    quiet = logging.getLogger("quiet")
    quiet.setLevel(logging.ERROR)
    with Dag("logs", db_path=db) as dag:
        log_all(str(tmp_path / "go"))
    with ExecutorService(db, executor="threads") as service:
        handle = service.submit(dag)
        wait_until(lambda: "with arguments" in lines_of(handle.run, "log_all"), "lines while the task runs")
        assert (ROOT.handlers, ROOT.level, quiet.level) == ([mine], logging.WARNING, logging.ERROR)
        logging.info("the host's own, which its level holds back")
        logging.warning("the host's own")
        (tmp_path / "go").touch()
        run = handle.wait(timeout=30)
    assert lines_of(run, "log_all") == ["by the module", "enough", "with arguments"]
    assert text.getvalue() == "enough\nwith arguments\nthe host's own\n"
    quiet.setLevel(logging.NOTSET)


def test_a_host_without_handlers_has_none_afterwards(script: MakeScript) -> None:
    made = script(
        """
import logging
from liteflow import Dag, task

@task
def one():
    print("printed in the task")
    logging.warning("logged in the task")

with Dag("d", db_path="d.db") as dag:
    one()

if __name__ == "__main__":
    run = dag.run(progress=False, executor="threads")
    print([line.message for line in run.logs()], logging.getLogger().handlers)
    logging.warning("by the last resort")
"""
    )
    done = made.run()
    assert done.stdout == "['printed in the task', 'logged in the task'] []\n"
    assert done.stderr == "WARNING:root:by the last resort\n"


@task
def start_threads() -> None:
    own = threading.Thread(target=contextvars.copy_context().run, args=(print, "with the context"))
    other = threading.Thread(target=print, args=("without it",))
    for thread in (own, other):
        thread.start()
        thread.join()


def test_threads_that_a_task_starts_belong_to_it_with_its_context(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Dag("threads", db_path=db) as dag:
        start_threads()
    run = dag.run(progress=False, executor="threads")
    assert lines_of(run) == ["with the context"]
    assert capsys.readouterr().out == "without it\n"


@task
def odd() -> None:
    print("lone \ud800 and \x00")
    sys.stdout.buffer.write(b"bytes \xff\n")
    sys.stdout.writelines(["two\n", "10%\r50%\r100%\n"])
    print("x" * 70_000)


def test_odd_text_can_be_stored(db: str, executor: Executor | str) -> None:
    with Dag("odd", db_path=db) as dag:
        odd()
    run = dag.run(progress=False, executor=executor)
    *few, first, rest = lines_of(run)
    assert few == ["lone \\ud800 and \\x00", "bytes \\xff", "two", "100%"]
    assert (len(first), len(rest)) == (65_536, 70_000 - 65_536)


@task(log_cap_bytes=2000)
def say_much() -> None:
    for number in range(10_000):
        print(number)


def test_a_log_is_capped(db: str) -> None:
    with Dag("capped", db_path=db) as dag:
        say_much()
    run = dag.run(progress=False, executor="threads")
    assert 10 < len(lines_of(run)) < 40
    assert "left out" in lines_of(run)[-1] or "cut" in lines_of(run)[-1]


@task
def nested(db: str) -> list[str]:
    with Dag("inner", db_path=db) as dag:
        say_once("inside")
    print("around")
    run = dag.run(progress=False, executor="threads")
    return list(lines_of(run))


@task
def say_once(what: str) -> None:
    print(what)


def test_a_run_inside_a_task_has_a_log_of_its_own(db: str, tmp_path: Path) -> None:
    with Dag("outer", db_path=db) as dag:
        nested(str(tmp_path / "inner.db"))
    run = dag.run(progress=False, executor="threads")
    assert (lines_of(run), run.xcom("nested")) == (["around"], ["inside"])


def test_two_services_at_once(tmp_path: Path) -> None:
    runs = []
    with (
        ExecutorService(tmp_path / "1.db", executor="threads") as one,
        ExecutorService(tmp_path / "2.db", executor="threads") as other,
    ):
        for number, service in enumerate((one, other)):
            with Dag(f"d{number}") as dag:
                for name in range(20):
                    say_once.override(task_id=f"t{name}")(f"{number} {name}")
            runs.append(service.submit(dag))
        ended = [handle.wait(timeout=30) for handle in runs]
    for number, run in enumerate(ended):
        assert [lines_of(run, f"t{name}") for name in range(20)] == [[f"{number} {name}"] for name in range(20)]


def test_the_output_of_a_command_is_in_the_log(db: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Dag("bash", db_path=db) as dag:
        BashOperator(task_id="hello", bash_command="echo hello; echo there >&2")
    run = dag.run(progress=False, executor="threads")
    assert (lines_of(run), run.xcom("hello")) == (["hello", "there"], "there")
    assert capfd.readouterr().out == ""


# Fences

go_on = threading.Event()


@task(retries=1, timeout=0.2)
def hang_once() -> str:
    if get_current_context()["try_number"] > 1:
        return "the second try"
    print("before")
    go_on.wait(60)
    print("after")
    logging.getLogger("app").warning("after")
    get_current_context()["ti"].xcom_push("late", 1)
    return "too late"


def test_whatever_breaks_around_a_task_ends_its_try(
    db: str, executor: Executor | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_facts: Any, **_more: Any) -> None:
        raise MemoryError("no room for the result")

    monkeypatch.setattr("liteflow.execution.threads.call", broken)
    with Dag("d", db_path=db) as dag:
        give()
    with ExecutorService(db, executor=executor) as service:
        run = service.submit(dag).wait(30.0)
    assert (run.state, "no room for the result" in str(run.task_instance("give").error)) == ("failed", True)


def test_a_thread_that_is_fenced_changes_nothing_any_more(db: str, executor: Executor | str) -> None:
    go_on.clear()
    with Dag("fenced", db_path=db) as dag:
        hang_once()
    with ExecutorService(db, max_workers=1, executor=executor) as service:
        run = service.submit(dag).wait(timeout=30)
        go_on.set()
        again = service.submit(dag, run_id="again").wait(timeout=30)
    assert (run.state, run.xcom("hang_once"), again.state) == ("success", "the second try", "success")
    assert [one.end_reason for one in run.tries()] == [EndReason.TIMEOUT]
    first = [entry for entry in run.logs("hang_once") if entry.try_number == 1]
    assert [entry.message for entry in first] == [
        "before",
        "its thread cannot be stopped and goes on; nothing more of it is recorded",
        "took longer than its timeout of 0.2 s",
    ]
    assert [entry.level for entry in first] == [None, logging.WARNING, logging.ERROR]
    assert run.xcoms("hang_once")[0].key == "return_value"
    assert len(run.xcoms("hang_once")) == 1


@task(timeout=0.2)
def hang(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::liteflow.DagWarning")
def test_hanging_threads_of_our_own_have_others_in_their_places(db: str, tmp_path: Path) -> None:
    with Dag("hanging", db_path=db) as dag:
        tops = [hang.override(task_id=f"hang_{number}")(str(tmp_path / "never")) for number in range(4)]
        give.override(trigger_rule="all_done")(5).set_upstream(tops)
    with ExecutorService(db, max_workers=2, executor="threads") as service:
        run = service.submit(dag).wait(timeout=30)
    (tmp_path / "never").touch()
    assert states_of(run) == {**{f"hang_{number}": "failed" for number in range(4)}, "give": "success"}


@pytest.mark.filterwarnings("ignore::liteflow.DagWarning")
def test_a_hanging_thread_of_a_pool_keeps_its_place(db: str, tmp_path: Path) -> None:
    with Dag("kept", db_path=db) as dag:
        hang(str(tmp_path / "go")) >> give.override(trigger_rule="all_done")(5)
    with ThreadPoolExecutor(1) as pool, ExecutorService(db, executor=pool) as service:
        handle = service.submit(dag)
        wait_until(lambda: states_of(handle.run)["hang"] == "failed", "the timeout")
        assert states_of(handle.run)["give"] != "success"
        (tmp_path / "go").touch()
        assert states_of(handle.wait(timeout=30))["give"] == "success"


def test_the_process_ends_though_a_thread_hangs(script: MakeScript) -> None:
    made = script(
        """
import threading
from liteflow import Dag, task

@task(timeout=0.2)
def hang():
    threading.Event().wait(600)

with Dag("d", db_path="d.db") as dag:
    hang()

if __name__ == "__main__":
    print(dag.run(executor="threads").state)
"""
    )
    done = made.run(timeout=30)
    assert (done.returncode, done.stdout) == (0, "failed\n")
    assert done.stderr.count("executor=threads: a timeout or cancel ends the try, its thread goes on") == 1


@task.sensor(poke_interval=30)
def look_in_vain() -> bool:
    return False


def test_a_sensor_and_a_command_end_when_they_are_cancelled(db: str, tmp_path: Path) -> None:
    with Dag("ends", db_path=db) as dag:
        look_in_vain()
        BashOperator(task_id="sleep", bash_command=f"touch {tmp_path}/begun; sleep 600; touch {tmp_path}/over")
    before = threading.active_count()
    with ExecutorService(db, max_workers=2, executor="threads") as service:
        handle = service.submit(dag)
        wait_until((tmp_path / "begun").exists, "the command")
        handle.cancel()
        run = handle.wait(timeout=30)
        assert set(states_of(run).values()) == {"failed"}
    wait_until(lambda: threading.active_count() <= before, "their threads end")


def test_a_process_that_is_forked_while_tasks_begin_and_end_runs_tasks_of_its_own(tmp_path: Path) -> None:
    """What other threads held at the fork nobody lets go in the child."""
    code = """
import os, threading, warnings
warnings.simplefilter("ignore")  # Python says that forks of threads are dangerous
from liteflow.authoring import dagfile
from liteflow.execution import capture
held, done = threading.Event(), threading.Event()
def hold():
    with capture._lock, dagfile._load_lock, dagfile._stretches_lock:
        held.set()
        done.wait(60)
threading.Thread(target=hold, daemon=True).start()
held.wait(60)
if (pid := os.fork()) == 0:
    with capture.capturing(capture.Sink(lambda size: True, lambda: None)), dagfile.airflow_names(), dagfile._load_lock:
        os._exit(7)
threading.Timer(20, lambda: os.kill(pid, 9)).start()
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
os._exit(code if code >= 0 else 1)
"""
    assert run_python("-c", code, cwd=tmp_path).returncode == 7


def test_tasks_that_wait_run_side_by_side(db: str) -> None:
    with Dag("side_by_side", db_path=db) as dag:
        for name in range(6):
            meet_all.override(task_id=f"t{name}")()
    assert dag.run(progress=False, executor="threads", max_workers=6).state == "success"


everybody = threading.Barrier(6)


@task
def meet_all() -> None:
    everybody.wait(20)


def test_a_pool_that_was_shut_down_leaves_the_run_to_be_resumed(db: str) -> None:
    with Dag("shut", db_path=db) as dag:
        give() >> give.override(task_id="below")(2)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RunInterruptedError, match="its executor is broken .RuntimeError: cannot schedule new futures"):
        dag.run(progress=False, executor=pool, run_id="r")
    run = dag.resume("r", progress=False, executor="threads")
    assert states_of(run) == {"give": "success", "below": "success"}
    assert run.task_instance("give").try_number == 2
    assert [one.end_reason for one in run.tries()] == [EndReason.CRASHED]
