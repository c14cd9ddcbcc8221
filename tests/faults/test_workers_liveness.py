"""Who counts as alive after a host was stopped, has forked or was killed, and what is left of its slots."""

from __future__ import annotations

import io
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, task
from liteflow.execution import liveness, processes
from liteflow.execution.jobs import Events
from liteflow.execution.liveness import OwnLock, end_leftovers, state_of_owner
from liteflow.execution.places import lock_directory
from liteflow.execution.slot import Slot
from liteflow.execution.slots import SlotEngine
from liteflow.storage.history import Owner, open_history
from tests.conftest import Script, states_of, wait_until
from tests.crash.harness import MARK, marked, wait_until_none_is_left

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc: Linux only")

HOST = """
import ctypes, os, signal, subprocess, sys, threading
from liteflow import Dag, ExecutorService, task

def forks_and_waits():
    if os.fork() == 0:
        while True:
            signal.pause()

def forks_and_closes_all():
    if os.fork() == 0:
        os.setsid()
        os.closerange(3, 1000)
        while True:
            signal.pause()

@task
def work(how=""):
    if how == "setsid":
        subprocess.run(["setsid", "-f", "sleep", "60"], check=True)
    elif how == "nohup":
        subprocess.Popen(["nohup", "sh", "-c", "sleep 60; true"], start_new_session=True)
    elif how == "grandchild":
        sleep = "sh -c 'sleep 60; true'"
        subprocess.run(["sh", "-c", f"setsid {sleep} & setsid env -i {sleep} &"], check=True)
    elif how:
        globals()[how]()
    open("begun", "w").close()
    threading.Event().wait(60)

def exec_child():
    subprocess.Popen(["sleep", "60"])

def python_fork():
    if os.fork() == 0:
        while True:
            signal.pause()

def c_fork():
    if ctypes.CDLL(None).fork() == 0:
        while True:
            signal.pause()

with Dag("host", db_path="host.db") as dag:
    work(*sys.argv[1:2])  # a worker that imports this has no arguments

if __name__ == "__main__":
    with ExecutorService("host.db", max_workers=1) as service:
        handle = service.submit(dag)
        for what in sys.argv[2:]:
            globals()[what]()
        print("submitted", flush=True)
        handle.wait()
"""


@pytest.fixture
def mark() -> Iterator[str]:
    """Marks the processes of a test; none of them outlives it."""
    made = secrets.token_hex(8)
    yield made
    for pid in marked(made):
        os.kill(pid, signal.SIGKILL)


class Host:
    """A process that drives a run of one task."""

    def __init__(self, made: Script, mark: str, *args: str) -> None:
        self.db = str(made.path.parent / "host.db")
        self.process = made.start(*args, **{MARK: mark, "PYTHONWARNINGS": "ignore::DeprecationWarning"})
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "submitted\n"
        wait_until((made.path.parent / "begun").exists, "the task runs")

    @property
    def owner(self) -> Owner:
        run = open_history(self.db).find_run("host")
        assert run.owner is not None
        return run.owner

    def kill(self, *, reap: bool = True) -> None:
        self.process.kill()
        if reap:
            self.process.communicate()


@pytest.fixture
def host(script: Callable[..., Script], mark: str) -> Callable[..., Host]:
    return lambda *args: Host(script(HOST), mark, *args)


LEFT = ["setsid", "nohup", "grandchild", "forks_and_closes_all", "forks_and_waits"]


@pytest.mark.parametrize("how", LEFT)
def test_nothing_is_left_of_the_tries_of_a_killed_host(host: Callable[..., Host], mark: str, how: str) -> None:
    made = host(how)
    owner = made.owner
    made.kill()
    wait_until(lambda: state_of_owner(made.db, owner) == "dead", "its owner counts as dead")
    assert end_leftovers(made.db, owner.token) == []
    assert not marked(mark), "at once, not soon"
    assert not lock_directory(made.db).exists()
    assert end_leftovers(made.db, owner.token) == [], "a second time there is nothing to do"


def test_what_is_left_is_known_until_it_is_ended(host: Callable[..., Host], mark: str) -> None:
    """Another service, much later, must not remove the files by which the next `resume` finds it."""
    made = host("")
    owner = made.owner
    made.kill()
    wait_until_none_is_left(mark)
    # Whatever the kernel or a guard ends at the death of a host: this one is in its slot by its mark alone.
    slot = next(iter(lock_directory(made.db).glob("*.slot")))
    environment = {**os.environ, "LITEFLOW_SLOT": liveness._mark_of(slot), MARK: mark}
    subprocess.run(["setsid", "-f", "sleep", "60"], env=environment, check=True)
    for path in lock_directory(made.db).iterdir():
        os.utime(path, (0, 0))
    OwnLock(made.db, secrets.token_hex(8)).release()
    assert slot.exists()
    assert end_leftovers(made.db, owner.token) == []
    assert not slot.exists()
    assert not marked(mark)


def test_a_process_that_is_just_executing_a_program_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment is not there yet for some microseconds."""
    texts = iter([b"", b"", b"A=1\0LITEFLOW_SLOT=outer:inner\0"])
    monkeypatch.setattr(processes, "open", lambda *_args: io.BytesIO(next(texts)), raising=False)
    assert processes.slot_marks(os.getpid()) == {"outer", "inner"}


def test_a_process_that_has_no_environment_came_from_no_slot() -> None:
    with subprocess.Popen(["sleep", "60"], env={}) as child:
        assert processes.slot_marks(child.pid) == frozenset()
        child.kill()


def test_locks_of_a_killed_host_of_which_nothing_is_left_are_removed(host: Callable[..., Host], mark: str) -> None:
    made = host("")
    made.kill()
    wait_until_none_is_left(mark)
    assert list(lock_directory(made.db).glob("*.slot"))
    for path in lock_directory(made.db).iterdir():
        os.utime(path, (0, 0))

    def removed() -> bool:
        OwnLock(made.db, secrets.token_hex(8)).release()
        return not lock_directory(made.db).exists()

    wait_until(removed, "the files are gone: a process that ends loses its memory first, and its locks a little later")


@task
def hold(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


def test_locks_of_a_living_service_are_not_touched(db: str, tmp_path: Path) -> None:
    with Dag("alive", db_path=db) as dag:
        hold(str(tmp_path / "go"))
    with ExecutorService(db, max_workers=2) as service:
        handle = service.submit(dag)
        wait_until(lambda: states_of(handle.run)["hold"] == "running", "the task runs")
        before = sorted(lock_directory(db).iterdir())
        assert [path.suffix for path in before].count(".slot") == 2
        for path in before:
            os.utime(path, (0, 0))
        OwnLock(db, secrets.token_hex(8)).release()
        assert sorted(lock_directory(db).iterdir()) == before
        (tmp_path / "go").touch()
        assert handle.wait(timeout=60).state == "success"
    assert not lock_directory(db).exists()


@task
def leave_sleeper() -> int:
    return subprocess.Popen(["sleep", "60"], start_new_session=True).pid


def test_what_a_successful_task_left_on_purpose_is_left_alone(db: str, tmp_path: Path) -> None:
    """Its slot's file goes, so that it would hold up no recovery."""
    with Dag("left", db_path=db) as dag:
        leave_sleeper() >> hold(str(tmp_path / "go"))
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        wait_until(lambda: states_of(handle.run)["hold"] in ("running", "upstream_failed"), "the second task runs")
        assert states_of(handle.run)["hold"] == "running", handle.run.task_instances()
        sleeper: int = handle.run.xcom("leave_sleeper")
        wait_until(lambda: len(list(lock_directory(db).glob("*.slot"))) == 1, "only the second slot's file is there")
        (tmp_path / "go").touch()
        assert handle.wait(timeout=60).state == "success"
    os.kill(sleeper, 0)
    os.kill(sleeper, signal.SIGKILL)


def test_a_slot_that_is_gone_before_its_last_word_is_heard_is_replaced(
    db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task left something running, so it ends by itself; a slow host hears of both at once."""
    hear = SlotEngine._hear

    def hear_late(engine: SlotEngine, slot: Slot, events: Events) -> None:
        if slot.number == 1 and slot.jobs:
            slot.process.wait(20)
        else:
            hear(engine, slot, events)

    monkeypatch.setattr(SlotEngine, "_hear", hear_late)
    (tmp_path / "go").touch()
    with Dag("late", db_path=db) as dag:
        leave_sleeper() >> hold(str(tmp_path / "go"))
    with ExecutorService(db, max_workers=1) as service:
        run = service.submit(dag).wait(timeout=60)
    assert states_of(run) == {"leave_sleeper": "success", "hold": "success"}
    os.kill(run.xcom("leave_sleeper"), signal.SIGKILL)


@pytest.mark.parametrize("fork", ["python_fork", "c_fork", "exec_child"])
def test_a_killed_host_does_not_look_alive_through_its_child(host: Callable[..., Host], mark: str, fork: str) -> None:
    """Not even while it is a zombie, which nobody has reaped."""
    made = host("", fork)
    owner = made.owner
    assert state_of_owner(made.db, owner) == "alive"
    made.kill(reap=False)
    wait_until(lambda: state_of_owner(made.db, owner) == "dead", "it counts as dead")
    made.process.wait()
    assert state_of_owner(made.db, owner) == "dead"
    assert marked(mark), "its child lives"
    assert end_leftovers(made.db, owner.token) == []
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)
    made.process.communicate()


def test_a_stopped_host_is_told_from_a_living_and_a_dead_one(host: Callable[..., Host], mark: str) -> None:
    made = host("")
    owner = made.owner
    assert state_of_owner(made.db, owner) == "alive"
    os.kill(owner.pid, signal.SIGSTOP)
    wait_until(lambda: state_of_owner(made.db, owner) == "stopped", "it is seen to be stopped")
    os.kill(owner.pid, signal.SIGCONT)
    wait_until(lambda: state_of_owner(made.db, owner) == "alive", "it is seen to go on")
    made.kill()
    assert state_of_owner(made.db, owner) == "dead"
    wait_until_none_is_left(mark)


def test_whoever_robs_a_stopped_host_ends_its_tries(host: Callable[..., Host], mark: str) -> None:
    made = host("setsid")
    owner = made.owner
    os.kill(owner.pid, signal.SIGSTOP)
    assert end_leftovers(made.db, owner.token) == []
    assert list(marked(mark)) == [owner.pid], "the host alone is left"
    assert state_of_owner(made.db, owner) == "dead", "for everybody else"
    made.kill()


@pytest.mark.parametrize("token", ["../x", "*", "", "a" * 65, "a/b", "."])
def test_a_token_of_a_strangers_database_reaches_no_other_file(db: str, tmp_path: Path, token: str) -> None:
    others = [tmp_path / "x.lock", tmp_path / "x.0.slot"]
    directory = lock_directory(db)
    directory.mkdir()
    others += [directory / "b.lock", directory / "b.0.slot"]
    for path in others:
        path.touch()
    assert end_leftovers(db, token) == []
    assert all(path.exists() for path in others)


def test_a_process_that_cannot_be_ended_is_named(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slot_mark = secrets.token_hex(8)
    directory = lock_directory(db)
    directory.mkdir()
    (directory / f"abc.{slot_mark}.slot").touch()
    with subprocess.Popen(["sleep", "60"], env={**os.environ, "LITEFLOW_SLOT": slot_mark}) as child:
        wait_until(lambda: liveness.carrying({slot_mark}) == [child.pid], "it is found")
        sent: list[Any] = []
        monkeypatch.setattr(liveness, "send", lambda *args: sent.append(args))
        assert end_leftovers(db, "abc", patience_s=0.0) == [child.pid]
        assert sent == [(child.pid, signal.SIGKILL)]
        assert list(directory.iterdir()), "the locks stay"
        child.kill()
