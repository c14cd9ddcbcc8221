"""Tasks that crash, hang, flood, or leave things behind: what is recorded, and that nobody else suffers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, get_current_context, task
from tests.conftest import Script, descendants, lines_of, states_of, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@task
def one() -> int:
    return 1


@task
def touch(path: str) -> None:
    Path(path).touch()


@task
def exit_at_once(code: int) -> None:
    print("last words", flush=True)
    os._exit(code)


@task
def die_of(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


@task
def leave() -> None:
    sys.exit("leaving")


def test_a_task_that_ends_its_process_fails_as_crashed(db: str) -> None:
    with Dag("crash", db_path=db) as dag:
        exit_at_once(7)
        die_of("SIGSEGV")
        leave()
        for _ in range(20):
            one()
    run = dag.run(progress=False, max_workers=2)
    states = states_of(run)
    assert {name for name, state in states.items() if state == "failed"} == {"exit_at_once", "die_of", "leave"}
    crashed, killed = run.task_instance("exit_at_once"), run.task_instance("die_of")
    assert (crashed.end_reason, crashed.error) == ("crashed", "its process ended with exit code 7")
    assert (killed.end_reason, killed.error) == ("crashed", "its process was killed by SIGSEGV")
    assert run.task_instance("leave").error == "SystemExit: leaving"
    assert "last words" in lines_of(run, "exit_at_once"), "what it printed is kept"


@task(retries=1)
def crash_first() -> int:
    number: int = get_current_context()["try_number"]
    if number == 1:
        os._exit(1)
    return number


def test_a_crash_uses_a_retry(db: str) -> None:
    with Dag("again", db_path=db) as dag:
        crash_first()
    run = dag.run(progress=False)
    assert run.state == "success"
    assert [(one.try_number, one.end_reason) for one in run.tries()] == [(1, "crashed")]


# Timeouts


@task(timeout=0.3, kill_grace_s=0.2)
def swallow_everything() -> None:
    while True:
        try:
            time.sleep(60)
        except BaseException:
            print("not me")


@task(timeout=0.3, kill_grace_s=0.2)
def hold_the_interpreter() -> None:
    sum(range(10**12))


@task(timeout=0.3, kill_grace_s=0.2)
def ignore_term() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Event().wait(60)


@task(timeout=0.3, kill_grace_s=20)
def tidy_up(path: str) -> None:
    try:
        threading.Event().wait(60)
    finally:
        Path(path).touch()


@task(timeout=0.3, kill_grace_s=0.2)
def wait_for_children() -> None:
    subprocess.run(["sh", "-c", "setsid sleep 61 & sleep 62"], check=False)


@pytest.mark.parametrize("hang", [swallow_everything, hold_the_interpreter, ignore_term, wait_for_children])
def test_a_timeout_ends_a_task_whatever_it_does(db: str, hang: Any) -> None:
    with Dag("hang", db_path=db) as dag:
        hang.override(task_id="hang")() >> one.override(task_id="below")()
        one()
    before = descendants()
    run = dag.run(progress=False, max_workers=2)
    assert states_of(run) == {"hang": "failed", "below": "upstream_failed", "one": "success"}
    instance = run.task_instance("hang")
    assert instance.end_reason == "timeout"
    assert instance.error == "TaskKilled: took longer than its timeout of 0.3 s"
    assert not descendants() - before, "its children are gone when the run is over"


def test_a_task_whose_time_is_up_can_clean_up(db: str, tmp_path: Path) -> None:
    with Dag("clean", db_path=db) as dag:
        tidy_up(str(tmp_path / "cleaned"))
    run = dag.run(progress=False)
    assert run.task_instance("tidy_up").end_reason == "timeout"
    assert (tmp_path / "cleaned").exists()
    assert any("TaskKilled" in line for line in lines_of(run)), "where it was interrupted is in the log"


@task(timeout=0.3, kill_grace_s=0.1, retries=1)
def slow_at_first() -> int:
    number: int = get_current_context()["try_number"]
    if number == 1:
        threading.Event().wait(60)
    return number


def test_a_timeout_uses_a_retry(db: str) -> None:
    with Dag("slow", db_path=db) as dag:
        slow_at_first()
    run = dag.run(progress=False)
    assert (run.state, run.xcom("slow_at_first")) == ("success", 2)
    assert [one.end_reason for one in run.tries()] == ["timeout"]


# Slots do not hold each other up


@task(timeout=0.3, kill_grace_s=0.1)
def too_slow() -> None:
    threading.Event().wait(60)


def test_a_slot_stopped_in_mid_message_holds_up_nobody(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is stopped by the test itself, as soon as the parent has part of its 64 MiB and not all."""
    from liteflow.execution import slots

    stopped: list[int] = []
    receive = slots.Slot.receive

    def stop_after_a_piece(slot: slots.Slot) -> None:
        if not stopped and slot.jobs and slot.jobs[0].name == "give_64_mib":
            try:
                piece = slot.connection.recv(1 << 16)
            except BlockingIOError:
                return
            slot.received.extend(slot._unpacker.feed(piece))
            if len(piece) == 1 << 16:
                os.kill(slot.pid, signal.SIGSTOP)
                stopped.append(slot.pid)
            return
        receive(slot)

    monkeypatch.setattr(slots.Slot, "receive", stop_after_a_piece)
    with Dag("stopped", db_path=db) as dag:
        give_64_mib()
    with Dag("others", db_path=db) as others:
        too_slow() >> one.override(task_id="below")()
        for _ in range(30):
            one()
    with ExecutorService(db, max_workers=2) as service:
        handle = service.submit(dag)
        wait_until(lambda: stopped, "the slot is stopped in the middle of its message")
        run = service.submit(others).wait(timeout=60)
        assert run.task_instance("too_slow").end_reason == "timeout"
        assert set(states_of(run).values()) == {"success", "failed", "upstream_failed"}
        assert not handle.state.is_terminal
        os.kill(stopped[0], signal.SIGCONT)
        assert handle.wait(timeout=60).state == "success"
        assert len(handle.run.xcom("give_64_mib")) == 64 * 2**20


@task
def give_64_mib() -> bytes:
    return bytes(64 * 2**20)


@task
def tiny(path: str | None = None) -> None:
    """Does nothing, but holds its slot until there is a file, if one is named."""
    pause = threading.Event()
    while path is not None and not os.path.exists(path):
        pause.wait(0.005)


def test_tiny_tasks_behind_one_that_takes_long_go_to_other_slots(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("teach", db_path=db) as teach:
        for _ in range(200):
            tiny()
    with Dag("chunk", db_path=db) as dag:
        tiny(str(go))
        for _ in range(63):
            tiny()
    with ExecutorService(db, max_workers=2) as service:
        service.submit(teach).wait(timeout=60)
        handle = service.submit(dag)

        def all_others_are_done() -> bool:
            states = states_of(handle.run)
            return list(states.values()).count("success") == 63 and states["tiny"] == "running"

        wait_until(all_others_are_done, "63 tiny tasks end while the first goes on")
        go.touch()
        run = handle.wait(timeout=60)
    assert run.state == "success"
    assert {instance.try_number for instance in run.task_instances()} == {1}


@task
def crash_if(path: str | None = None) -> None:
    if path is not None:
        os._exit(3)


def test_only_the_task_that_ran_is_blamed_for_a_crash(db: str) -> None:
    with Dag("teach", db_path=db) as teach:
        for _ in range(200):
            crash_if()
    with Dag("blame", db_path=db) as dag:
        for number in range(64):
            crash_if("now" if number == 5 else None)
    with ExecutorService(db, max_workers=2) as service:
        service.submit(teach).wait(timeout=60)
        run = service.submit(dag).wait(timeout=60)
    states = states_of(run)
    assert [name for name, state in states.items() if state != "success"] == ["crash_if__5"]
    assert {instance.try_number for instance in run.task_instances()} == {1}


# Logs


@task
def talk(name: str) -> None:
    import logging

    print(f"{name} prints")
    print(f"{name} complains", file=sys.stderr)
    logging.getLogger(name).warning("%s logs\nin two lines", name)
    os.write(1, f"{name} writes\n".encode())
    subprocess.run(["sh", "-c", f"echo {name} shells"], check=True)
    print(f"{name} ends without a newline", end="")


def test_everything_that_a_task_says_is_in_its_log_in_order(db: str) -> None:
    with Dag("talk", db_path=db) as dag:
        for name in "abcdef":
            talk.override(task_id=name)(name)
    run = dag.run(progress=False, max_workers=2)
    for name in "abcdef":
        entries = run.logs(name)
        assert [entry.message for entry in entries] == [
            f"{name} prints",
            f"{name} complains",
            f"{name} logs",
            "in two lines",
            f"{name} writes",
            f"{name} shells",
            f"{name} ends without a newline",
        ]
        assert {(entry.level, entry.logger) for entry in entries} == {(None, None), (30, name)}


@task
def leave_child_that_prints(go: str) -> None:
    print("parent prints")
    subprocess.Popen(["sh", "-c", f"while [ ! -e {go} ]; do sleep 0.01; done; echo child prints; touch {go}.done"])


@task
def print_and_let_go(go: str) -> None:
    print("next prints")
    Path(go).touch()
    pause = threading.Event()
    while not os.path.exists(f"{go}.done"):
        pause.wait(0.005)
    print("next prints again")


def test_lines_of_a_child_that_is_left_running_stay_with_its_task(db: str, tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    with Dag("leftover", db_path=db) as dag:
        leave_child_that_prints(go) >> print_and_let_go(go)
    run = dag.run(progress=False, max_workers=1)
    assert run.state == "success", "what a successful task leaves running on purpose is left alone"
    assert lines_of(run, "leave_child_that_prints") == ["parent prints", "child prints"]
    assert lines_of(run, "print_and_let_go") == ["next prints", "next prints again"]


@task
def leave_child_and_fail() -> None:
    subprocess.Popen(["setsid", "sleep", "63"])
    raise ValueError("on purpose")


def test_what_a_failed_task_leaves_running_is_gone_before_the_next_try(db: str) -> None:
    with Dag("swept", db_path=db) as dag:
        leave_child_and_fail()
    before = descendants()
    run = dag.run(progress=False)
    assert run.task_instance("leave_child_and_fail").error == "ValueError: on purpose"
    assert not descendants() - before
    found = subprocess.run(["pgrep", "-f", "^sleep 63$"], capture_output=True, text=True, check=False)
    assert found.stdout == ""


@task
def flood(mebibytes: int) -> None:
    line = "x" * 1023
    for _ in range(mebibytes * 1024):
        print(line)


@task(log_cap_bytes=10_000)
def flood_capped() -> None:
    for number in range(5_000):
        print(f"line {number}")


def test_a_task_that_prints_10_mib(db: str) -> None:
    with Dag("flood", db_path=db) as dag:
        flood(9)
        flood_capped()
    run = dag.run(progress=False)
    assert run.state == "success"
    assert len(lines_of(run, "flood")) == 9 * 1024
    capped = lines_of(run, "flood_capped")
    assert sum(len(line) + 1 for line in capped[:-1]) <= 10_000
    assert "more characters were cut" in capped[-1]


@task
def print_oddly() -> None:
    os.write(1, b"\xff\xfe invalid\n")
    os.write(1, b"10%\r50%\r100%\n")
    os.write(1, b"y" * 200_000 + b"\n")
    os.write(1, b"nul \x00 inside\n")
    print("\ud800 surrogate \x1b[31m escape")


def test_odd_bytes_are_kept_readable(db: str) -> None:
    with Dag("odd", db_path=db) as dag:
        print_oddly()
    lines = lines_of(dag.run(progress=False))
    assert lines[0] == "\\xff\\xfe invalid"
    assert lines[1] == "100%"
    assert sum(line.count("y") for line in lines) == 200_000
    assert lines[-2] == "nul \\x00 inside"
    assert lines[-1] == "\\ud800 surrogate \x1b[31m escape"


@task
def say_and_wait(go: str) -> None:
    print("still here")
    sys.stdout.write("unfinished")
    sys.stdout.flush()
    pause = threading.Event()
    while not os.path.exists(go):
        pause.wait(0.005)


def test_lines_are_there_while_the_task_still_runs(db: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Dag("live", db_path=db) as dag:
        say_and_wait(str(go))
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        wait_until(lambda: lines_of(handle.run) == ["still here", "unfinished"], "both lines are recorded")
        assert not handle.state.is_terminal
        go.touch()
        assert handle.wait(timeout=60).state == "success"


# A slot after a task


@task
def make_a_mess() -> None:
    os.chdir("/")
    os.environ["LITEFLOW_TEST_MESS"] = "1"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.close(1)
    sys.stdout = None  # type: ignore[assignment]


@task(timeout=0.3, kill_grace_s=20)
def find_order(home: str) -> None:
    assert os.getcwd() == home
    assert "LITEFLOW_TEST_MESS" not in os.environ
    print("in order")
    threading.Event().wait(60)


def test_a_task_finds_its_slot_in_order(db: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with Dag("mess", db_path=db) as dag:
        make_a_mess() >> find_order(str(tmp_path))
    run = dag.run(progress=False, max_workers=1)
    assert run.task_instance("make_a_mess").state == "success"
    assert run.task_instance("find_order").end_reason == "timeout", "it was told to end and heard it"
    assert "in order" in lines_of(run, "find_order")


@task
def use_multiprocessing() -> list[int]:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2])


def test_a_task_may_use_multiprocessing(db: str) -> None:
    with Dag("pool", db_path=db) as dag:
        use_multiprocessing()
    assert dag.run(progress=False).xcom("use_multiprocessing") == [1, 2]


# The host


HOST = """
import os, sys, threading
from liteflow import Dag, task

@task
def work(path):
    import subprocess
    child = subprocess.Popen(["setsid", "sleep", "64"]) if "child" in sys.argv else None
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    {hold}

with Dag("host", db_path="host.db") as dag:
    work("pid")

if __name__ == "__main__":
    print("ready", flush=True)
    dag.run(progress=False)
"""


@pytest.mark.parametrize("hold", ["threading.Event().wait(60)", "sum(range(10**12))"])
def test_workers_die_with_a_killed_host(script: Callable[..., Script], tmp_path: Path, hold: str) -> None:
    host = script(HOST.format(hold=hold)).start()
    pid = int(wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the task runs"))
    host.kill()
    host.communicate()
    wait_until(lambda: not _lives(pid), "the worker is gone", timeout_s=2)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@task
def leave_child_that_prints_for_long(go: str) -> None:
    subprocess.Popen(["sh", "-c", f"while [ ! -e {go} ]; do sleep 0.01; done; echo late; touch {go}.done"])


def test_lines_for_a_run_that_was_deleted_disturb_nobody(db: str, tmp_path: Path) -> None:
    from liteflow.storage.history import open_history

    go = tmp_path / "go"
    with Dag("deleted", db_path=db) as dag:
        leave_child_that_prints_for_long(str(go))
    with Dag("other", db_path=db) as other:
        print_and_let_go(str(go))
    with ExecutorService(db, max_workers=1) as service:
        run = service.submit(dag).wait(timeout=60)
        open_history(db).delete_run(run.pk)
        assert service.submit(other).wait(timeout=60).state == "success"
        assert service.submit(other).wait(timeout=60).state == "success"


@task(retries=2)
def fail_together() -> None:
    raise ValueError("all at once")


def test_many_retries_that_are_due_at_once(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still for a moment: retries of one run, due at the very same time."""
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: float(int(real() * 4)) / 4)
    with Dag("together", db_path=db) as dag:
        for _ in range(8):
            fail_together()
    run = dag.run(progress=False, max_workers=2)
    assert {instance.try_number for instance in run.task_instances()} == {3}
