"""Tasks that do not end by themselves: over within limit + grace + 1 s, and nothing of them is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from liteflow import Dag, task
from tests.conftest import descendants, states_of

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

LIMIT_S = 0.3
GRACE_S = 0.2

hang = task(timeout=LIMIT_S, kill_grace_s=GRACE_S)


@hang
def loop_in_python() -> None:
    while True:
        pass


@hang
def hold_the_interpreter_in_c() -> None:
    sum(range(10**12))


@hang
def swallow_base_exceptions() -> None:
    while True:
        try:
            threading.Event().wait(60)
        except BaseException:
            continue


@hang
def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Event().wait(60)


@hang
def block_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    threading.Event().wait(60)


@hang
def wait_for_a_sleeping_child() -> None:
    subprocess.run(["sleep", "60"], check=False)


@hang
def wait_for_a_child_that_ignores_sigterm() -> None:
    subprocess.run(["sh", "-c", "trap '' TERM; sleep 60; sleep 60"], check=False)


@hang
def wait_for_children_out_of_reach() -> None:
    subprocess.run(["sh", "-c", "setsid -f sleep 60; nohup sleep 60 & setsid sh -c 'sleep 60; true'"], check=False)


@hang
def stop_itself() -> None:
    signal.raise_signal(signal.SIGSTOP)
    threading.Event().wait(60)


@hang
def wait_for_a_thread() -> None:
    thread = threading.Thread(target=threading.Event().wait, args=(60,))
    thread.start()
    while thread.is_alive():
        try:
            thread.join()
        except BaseException:
            continue


@task
def bystander() -> int:
    return 1


HANGS = [
    loop_in_python,
    hold_the_interpreter_in_c,
    swallow_base_exceptions,
    ignore_sigterm,
    block_sigterm,
    wait_for_a_sleeping_child,
    wait_for_a_child_that_ignores_sigterm,
    wait_for_a_thread,
    pytest.param(
        wait_for_children_out_of_reach,
        marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux finds what left the session"),
    ),
    stop_itself,
]


@pytest.mark.parametrize("hanging", HANGS, ids=lambda value: value.task_id if hasattr(value, "task_id") else None)
def test_a_hang_is_over_within_its_limit_and_grace(db: str, hanging: Any) -> None:
    with Dag("hang", db_path=db) as dag:
        hanging.override(task_id="hanging")() >> bystander.override(task_id="below")()
        bystander()
    before = descendants()
    run = dag.run(progress=False, max_workers=2)
    instance = run.task_instance("hanging")
    assert states_of(run) == {"hanging": "failed", "below": "upstream_failed", "bystander": "success"}
    assert instance.end_reason == "timeout"
    took_s = (instance.ended_at - instance.started_at).total_seconds()
    assert LIMIT_S <= took_s < LIMIT_S + GRACE_S + 1
    assert not descendants() - before, "when the run is over they are gone already"
