"""A host that is killed by SIGKILL: its workers and their children are gone within a second, and nobody has to come."""

from __future__ import annotations

import os
import secrets
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, task
from liteflow.execution.jobs import Events
from liteflow.execution.slots import SlotEngine
from tests.conftest import Script, wait_until
from tests.crash.harness import MARK, marked, wait_until_none_is_left

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it on Linux only")

HOST = """
import os, signal, subprocess, threading
from liteflow import Dag, task

@task
def work(how="", path=""):
    if how == "holds":
        subprocess.Popen(["sleep", "60"])
        open(path, "w").close()
        sum(range(10**12))
    subprocess.Popen(["sh", "-c", "trap '' TERM HUP; nohup sleep 60; true"])
    if os.fork() == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        threading.Event().wait(60)
    open(path, "w").close()
    threading.Event().wait(60)

with Dag("host", db_path="host.db") as dag:
    work.override(task_id="holds")("holds", "begun-1")
    work.override(task_id="waits")("waits", "begun-2")

if __name__ == "__main__":
    dag.run(progress=False, max_workers=2)
"""


def test_workers_and_their_children_die_with_their_host(script: Callable[..., Script], tmp_path: Path) -> None:
    """Also those that ignore or block signals, and in the middle of a call that holds the interpreter."""
    mark = secrets.token_hex(8)
    host = script(HOST).start(**{MARK: mark, "PYTHONWARNINGS": "ignore::DeprecationWarning"})
    wait_until(lambda: (tmp_path / "begun-1").exists() and (tmp_path / "begun-2").exists(), "both tasks run")
    wait_until(lambda: len(marked(mark)) >= 7, "host, two workers, and their children are there")
    host.kill()
    wait_until_none_is_left(mark, timeout_s=1.0)
    host.communicate()
    with closing(sqlite3.connect(tmp_path / "host.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@task
def hold_memory(mebibytes: int, seconds: float) -> None:
    held = bytearray(b"x") * (mebibytes << 20)
    time.sleep(seconds)
    del held


@task
def die_holding_memory(mebibytes: int) -> None:
    held = bytearray(b"x") * (mebibytes << 20)
    time.sleep(0.4)
    os.kill(os.getpid(), signal.SIGKILL if held else signal.SIGTERM)


@task(timeout=0.3, kill_grace_s=0.1)
def hang_holding_memory(mebibytes: int) -> None:
    held = bytearray(b"x") * (mebibytes << 20)
    time.sleep(60)
    del held


@task.bash
def hold_in_a_shell() -> str:
    return f"exec {sys.executable} -c \"held = bytearray(b'x') * (40 << 20); import time; time.sleep(0.4)\""


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """What the engine hands out, by task."""
    found: dict[str, int | None] = {}
    poll = SlotEngine.poll

    def watch(engine: SlotEngine, timeout_s: float) -> Events:
        events = poll(engine, timeout_s)
        found.update({job.name: outcome.peak_rss_bytes for job, outcome in events.finished})
        return events

    monkeypatch.setattr(SlotEngine, "poll", watch)
    return found


def test_the_peak_of_a_try_is_known_however_it_ended(db: str, peaks: dict[str, Any]) -> None:
    mib = 2**20
    with Dag("memory", db_path=db) as dag:
        hold_memory.override(task_id="short")(60, 0.0) >> hold_memory.override(task_id="small")(1, 0.3)
        hold_memory.override(task_id="large")(60, 0.3)
        die_holding_memory(50)
        hang_holding_memory(50)
        hold_in_a_shell()
    short = dag.run(progress=False, max_workers=2).task_instance("short")
    took_s = (short.ended_at - short.started_at).total_seconds()
    assert (peaks["short"] is None) == (took_s < 0.1), "nothing, unless the machine made it take long"
    assert 60 * mib < peaks["large"] < 120 * mib
    assert peaks["small"] < 60 * mib, "not what another try held in the same process"
    assert peaks["die_holding_memory"] > 50 * mib
    assert peaks["hang_holding_memory"] > 50 * mib
    assert peaks["hold_in_a_shell"] > 40 * mib, "it is the shell's, and counts"
