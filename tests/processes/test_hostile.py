"""What was found by hunting: a task, a listener or a program that would have harmed runs of others."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, task
from liteflow.errors import ServiceError, StorageError
from tests.conftest import Script, lines_of, liteflow, states_of, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@task
def one() -> int:
    return 1


@task
def give(value: Any) -> Any:
    return value


@task(kill_grace_s=0.2)
def hold(path: str) -> str:
    pause = threading.Event()
    while not os.path.exists(path):
        pause.wait(0.005)
    return "held"


def bystander(db: str) -> Dag:
    with Dag("bystander", db_path=db) as dag:
        give(one())
    return dag


@task
def log_for_ever() -> None:
    def talk() -> None:
        while True:
            logging.getLogger("left").info("still here")

    threading.Thread(target=talk, daemon=True).start()


@task
def say(name: str) -> None:
    print(name)


def test_a_thread_that_logs_on_does_not_move_the_lines_of_the_tasks_behind_it(db: str) -> None:
    with Dag("talked_over", db_path=db) as dag:
        log_for_ever.override(log_cap_bytes=1000)() >> say.override(log_cap_bytes=10**6).expand(
            name=[f"n{number}" for number in range(100)]
        )
    with ExecutorService(db, max_workers=1) as service:
        run = service.submit(dag).wait(timeout=60)
    assert run.state == "success"
    said = {line.map_index: line.message for line in run.logs("say") if line.message != "still here"}
    assert said == {number: f"n{number}" for number in range(100)}


def test_a_slot_keeps_only_so_many_recipes(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liteflow.execution.slot.MOST_RECIPES", 2)
    with Dag("many_kinds", db_path=db) as dag:
        for number in range(5):
            give.override(task_id=f"kind{number}", do_xcom_push=True).expand(value=[number, number])
            give.override(task_id=f"twin{number}")(number) >> give.override(task_id=f"other{number}")(number)
    with ExecutorService(db, max_workers=1) as service:
        for _ in range(2):
            run = service.submit(dag).wait(timeout=60)
            assert run.state == "success"
            assert [run.xcom(f"twin{number}") for number in range(5)] == list(range(5))
            assert [run.xcom(f"kind{number}", map_index=1) for number in range(5)] == list(range(5))


def test_a_run_that_is_deleted_while_it_runs_gives_nothing_to_the_next(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("old", db_path=db) as old:
        hold(str(go))
    with Dag("new", db_path=db) as new:
        hold.override(task_id="new")(str(tmp_path / "never"))
    with ExecutorService(db, max_workers=2) as service:
        first = service.submit(old)
        wait_until(lambda: states_of(first.run).get("hold") == "running", "the old task runs")
        first.run.history.delete_run(first.run.pk)
        second = service.submit(new)
        go.touch()
        wait_until(lambda: states_of(second.run).get("new") == "running", "the new task runs")
        assert second.run.xcom("new") is None
        second.cancel()
        assert second.wait(timeout=60).end_reason == "cancelled"


@task
def usually_quick(path: str | None, ballast: bytes = b"") -> None:
    pause = threading.Event()
    while path is not None and not os.path.exists(path):
        pause.wait(0.005)


def test_a_function_that_is_slow_for_once_does_not_fill_the_memory(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("teach", db_path=db) as teach:
        for _ in range(200):
            usually_quick(None)
    with Dag("slow", db_path=db) as dag:
        usually_quick(str(go))
        for _ in range(20):
            usually_quick(None, bytes(500_000))
    with ExecutorService(db, max_workers=1) as service:
        service.submit(teach).wait(timeout=60)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        handle = service.submit(dag)
        wait_until(lambda: states_of(handle.run).get("usually_quick") == "running", "the slow one runs")
        with pytest.raises(TimeoutError):
            handle.wait(timeout=1.0)
        go.touch()
        assert handle.wait(timeout=60).state == "success"
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 100, f"{grown_mb:.0f} MB for 10 MB of arguments"


@task(log_cap_bytes=100_000)
def leave_flood(seconds: int) -> None:
    subprocess.Popen(["timeout", str(seconds), "yes", ""])


@task(log_cap_bytes=100_000)
def leave_flooding_thread() -> None:
    def flood() -> None:
        while True:
            os.write(1, b"y\n" * 500)

    threading.Thread(target=flood, daemon=True).start()


def test_a_flood_that_a_task_leaves_behind_does_not_hold_up_others(db: str) -> None:
    with Dag("flood", db_path=db) as dag:
        leave_flood(20)
    with ExecutorService(db, max_workers=1) as service:
        run = service.submit(dag).wait(timeout=60)
        other = bystander(db)
        for _ in range(5):
            assert service.submit(other).wait(timeout=5).state == "success"
        assert len(run.logs()) <= 100_000 / 64 + 1, "and the line that says how much was cut"
    subprocess.run(["pkill", "-f", "^timeout 20 yes"], check=False)


def test_a_thread_that_floods_does_not_keep_a_run_from_ending(db: str) -> None:
    with Dag("thread", db_path=db) as dag:
        leave_flooding_thread() >> [one() for _ in range(12)]
    assert dag.run(progress=False, max_workers=1).state == "success"


@task
def write_binary() -> None:
    for _ in range(8):
        os.write(1, bytes(1 << 20))


@task
def log_at_an_odd_level() -> None:
    logging.log(2**70, "odd")


@task(multiple_outputs=True)
def push_odd_keys() -> dict[str, int]:
    return {"a\x00": 1, "a\\x00": 2}


@task
def return_a_gigabyte() -> bytes:
    return bytes(1_000_000_000)


@task
def reconfigure_logging() -> None:
    import logging.config

    logging.config.dictConfig({"version": 1, "disable_existing_loggers": True, "root": {"level": "ERROR"}})
    logging.disable(logging.CRITICAL)


@task
def log_plainly() -> None:
    logging.getLogger("plain").info("heard")


@pytest.mark.parametrize(
    ("hostile", "state"),
    [
        (write_binary, "success"),
        (log_at_an_odd_level, "success"),
        (push_odd_keys, "failed"),
        (return_a_gigabyte, "failed"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_sqlite_cannot_hold_concerns_its_own_task_only(db: str, hostile: Any, state: str) -> None:
    with Dag("hostile", db_path=db) as dag:
        hostile.override(task_id="hostile")()
    with ExecutorService(db, max_workers=2) as service:
        handle = service.submit(dag)
        assert service.submit(bystander(db)).wait(timeout=60).state == "success"
        run = handle.wait(timeout=60)
    assert states_of(run) == {"hostile": state}
    if state == "failed":
        assert "XComEncodeError" in run.task_instance("hostile").error


def test_logging_that_a_task_reconfigures_is_captured_again_in_the_next(db: str) -> None:
    with Dag("logging", db_path=db) as dag:
        reconfigure_logging() >> log_plainly()
    assert lines_of(dag.run(progress=False, max_workers=1), "log_plainly") == ["heard"]


@task(retries=1)
def starve(ballast: bytes) -> int:
    return len(ballast)


def test_a_worker_that_dies_of_its_arguments_is_blamed_in_the_end(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the token and the start message: by hand here, out of memory in life."""
    from liteflow.execution import slots

    given = slots.Slot.give

    def kill_after_giving(slot: slots.Slot, jobs: list[Any]) -> None:
        given(slot, jobs)
        if jobs[0].name == "starve":
            slot.take_back = list  # type: ignore[method-assign]  # as if the worker had taken the token
            os.kill(slot.pid, signal.SIGKILL)

    monkeypatch.setattr(slots.Slot, "give", kill_after_giving)
    monkeypatch.setattr(slots, "MAX_FAILED_STARTS", 100)  # here it may die before it is ready
    with Dag("starved", db_path=db) as dag:
        starve(b"x")
    run = dag.run(progress=False, max_workers=1)
    assert run.task_instance("starve").end_reason == "crashed"
    assert "SIGKILL" in run.task_instance("starve").error


@task
def fork_and_exit(code: int) -> int:
    child = os.fork()
    if child == 0:
        sys.exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@task
def fork_and_return() -> str:
    child = os.fork()
    if child == 0:
        return "the child's"
    os.waitpid(child, 0)
    return "the parent's"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_that_a_task_forks_is_no_second_worker(db: str) -> None:
    with Dag("fork", db_path=db) as dag:
        fork_and_exit(0)
        fork_and_exit(3)
        fork_and_return()
    run = dag.run(progress=False, max_workers=1)
    assert [run.xcom(name) for name in dag.task_ids] == [0, 3, "the parent's"]


@task
def leave_a_process_of_multiprocessing(path: str) -> None:
    import multiprocessing

    multiprocessing.get_context("fork").Process(target=hold.function, args=(path,)).start()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_slot_that_ends_slowly_is_replaced_at_once(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("left", db_path=db) as dag:
        leave_a_process_of_multiprocessing(str(go)) >> give(str(go)) >> touch(str(go))
    assert dag.run(progress=False, max_workers=1).state == "success", "the next task let the left process go"


@task
def touch(path: str) -> None:
    Path(path).touch()


def test_a_listener_that_raises_is_told_no_more(db: str, caplog: pytest.LogCaptureFixture) -> None:
    def listen(event: object) -> None:
        raise ZeroDivisionError("the listener's own")

    dag = bystander(db)
    with ExecutorService(db, max_workers=1) as service:
        assert service.submit(dag, listener=listen).wait(timeout=60).state == "success"
        assert service.submit(dag).wait(timeout=60).state == "success"
    assert "the listener of run" in caplog.text


def test_a_stopped_service_says_so_and_leaves_no_run_waiting(db: str) -> None:
    dag = bystander(db)
    service = ExecutorService(db, max_workers=1).start()
    refused: list[BaseException] = []
    handles: list[Any] = []

    def submit_many() -> None:
        for _ in range(50):
            try:
                handles.append(service.submit(dag))
            except ServiceError as error:
                refused.append(error)
                return

    threads = [threading.Thread(target=submit_many) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(handles) > 5, "some are submitted")
    service.stop(None)
    for thread in threads:
        thread.join()
    assert all(handle.wait(timeout=10).state.is_terminal for handle in handles)
    assert {str(run.state) for run in dag.runs()} <= {"success", "failed"}
    with pytest.raises(ServiceError, match="was stopped"):
        service.start()


def test_a_queued_run_whose_process_is_gone_goes_on(script: Callable[..., Script], tmp_path: Path) -> None:
    made = script(
        "import os\nfrom liteflow import Dag, ExecutorService, task\n@task\ndef one():\n    pass\n"
        "with Dag('orphan', db_path='o.db') as dag:\n    one()\n"
        "if __name__ == '__main__':\n"
        "    service = ExecutorService('o.db').start()\n"
        "    service._tell_loop = lambda what, run=None: os.kill(os.getpid(), 9)\n"
        "    service.submit(dag, run_id='nightly')\n"
    )
    assert made.run().returncode == -signal.SIGKILL
    assert "interrupted" in liteflow("runs", "--db", "o.db", cwd=tmp_path).stdout
    with Dag("orphan", db_path=tmp_path / "o.db") as dag:
        one()
    assert dag.run(run_id="nightly", progress=False).state == "success"
    assert len(dag.runs()) == 1


@pytest.mark.sqlite("about the file of the database")
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_database_that_is_taken_away_is_noticed(db: str, tmp_path: Path, how: str) -> None:
    with Dag("taken", db_path=db) as dag:
        hold(str(tmp_path / "go"))
    with pytest.raises(StorageError, match="was removed or replaced"), ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        wait_until(lambda: states_of(handle.run).get("hold") == "running", "the task runs")
        os.rename(db, db + ".away")
        if how == "replaced":
            Path(db).touch()
        (tmp_path / "go").touch()
        handle.wait(timeout=60)


@dataclass(frozen=True)
class Scale:
    factor: Any

    def __call__(self, value: Any) -> Any:
        return repr(self.factor * value)


def test_functions_that_are_equal_are_not_confused(db: str) -> None:
    with Dag("equal", db_path=db) as dag:
        for number, factor in enumerate([1, True, 1.0]):
            task(Scale(factor), task_id=f"scale_{number}")(2)
    run = dag.run(progress=False)
    assert [run.xcom(name) for name in dag.task_ids] == ["2", "2", "2.0"]


def test_a_host_that_blocks_signals_and_has_odd_paths(script: Callable[..., Script]) -> None:
    done = script(
        "import pathlib, signal, sys, threading\nfrom liteflow import Dag, task\n"
        "@task(timeout=0.3, kill_grace_s=20)\ndef wait():\n"
        "    try:\n        threading.Event().wait(60)\n    finally:\n        print('cleaned')\n"
        "with Dag('masked', db_path='m.db') as dag:\n    wait()\n"
        "if __name__ == '__main__':\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "    sys.path.append(pathlib.Path('/nowhere'))\n"
        "    run = dag.run(progress=False)\n"
        "    print(run.task_instance('wait').end_reason, run.logs()[0].message)\n"
    ).run(timeout=15)
    assert done.stdout == "timeout cleaned\n", done.stderr


@task
def fork_and_terminate() -> int:
    """A child that shields itself from every exception must still end at SIGTERM, as in any Python program."""
    begun, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready, b"!")
        while True:
            try:
                threading.Event().wait(60)
            except BaseException:
                continue
    os.read(begun, 1)
    os.kill(child, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_ends_at_sigterm(db: str) -> None:
    with Dag("forked", db_path=db, default_args={"timeout": 20}) as dag:
        fork_and_terminate()
    assert dag.run(progress=False).xcom("fork_and_terminate") == -signal.SIGTERM
