"""One run of a dag at a time: `liteflow run --if-active`, `dag.run(alone=True)`."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from liteflow.storage.history import open_history
from tests.conftest import ROOT, Script, liteflow, wait_until

NIGHTLY = """
import os, time
from liteflow import Dag, task

@task
def hold() -> None:
    open("begun", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)

with Dag("nightly", db_path="n.db") as dag:
    hold()
"""

TOGETHER = """
import sys
from liteflow.errors import RunActiveError
from nightly import dag

if __name__ == "__main__":
    sys.stdin.read(1)
    try:
        dag.run(alone=True, progress=False, max_workers=1)
        print("ran")
    except RunActiveError as error:
        print("refused", error.pid)
"""


@pytest.fixture
def nightly(script: Callable[..., Script]) -> Script:
    return script(NIGHTLY, "nightly.py")


def start(where: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "liteflow", "run", "nightly.py", "-q", *args],
        cwd=where,
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def active(nightly: Script) -> Iterator[subprocess.Popen[str]]:
    """A process whose run holds until there is a file `go`."""
    where = nightly.path.parent
    process = start(where, "--run-id", "first")
    try:
        wait_until((where / "begun").exists, "the first run")
        yield process
    finally:
        (where / "go").touch()
        process.communicate(timeout=30)


def _states(where: Path) -> dict[str, str]:
    return {run.run_id: str(run.state) for run in open_history(str(where / "n.db")).runs()}


def test_a_second_run_is_refused_and_told_which_one_goes_on(nightly: Script, active: subprocess.Popen[str]) -> None:
    where = nightly.path.parent
    done = liteflow("run", "nightly.py", "--run-id", "second", cwd=where)
    assert done.returncode == 2
    assert "run 'first' of dag 'nightly' is still going" in done.stderr
    assert f"in process {active.pid}" in done.stderr
    assert "--if-active wait" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(_states(where)) == ["first"]


def test_a_second_run_can_be_skipped(nightly: Script, active: subprocess.Popen[str]) -> None:
    done = liteflow("run", "nightly.py", "--if-active", "skip", cwd=nightly.path.parent)
    assert (done.returncode, done.stdout) == (0, "")
    assert "'first'" in done.stderr
    assert "nothing is run" in done.stderr
    assert list(_states(nightly.path.parent)) == ["first"]


def test_a_second_run_can_wait_for_the_first(nightly: Script, active: subprocess.Popen[str]) -> None:
    where = nightly.path.parent
    second = start(where, "--if-active", "wait", "--run-id", "second")
    assert second.stderr is not None
    assert "waiting for it" in second.stderr.readline()
    (where / "go").touch()
    out, err = second.communicate(timeout=30)
    assert (second.returncode, out) == (0, "nightly/second success\n"), err
    runs = open_history(str(where / "n.db")).runs()
    assert [(run.run_id, str(run.state)) for run in runs] == [("second", "success"), ("first", "success")]
    assert runs[1].ended_at <= runs[0].created_at


def test_who_waits_can_be_stopped(nightly: Script, active: subprocess.Popen[str]) -> None:
    second = start(nightly.path.parent, "--if-active", "wait")
    assert second.stderr is not None
    assert "waiting for it" in second.stderr.readline()
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=30)
    assert second.returncode == 143
    assert list(_states(nightly.path.parent)) == ["first"]


def test_the_run_that_goes_on_is_joined_by_its_id(nightly: Script, active: subprocess.Popen[str]) -> None:
    where = nightly.path.parent
    same = start(where, "--run-id", "first")
    (where / "go").touch()
    out, err = same.communicate(timeout=30)
    assert (same.returncode, out) == (0, "nightly/first success\n"), err


def test_a_run_whose_process_was_killed_is_in_nobodys_way(nightly: Script, active: subprocess.Popen[str]) -> None:
    where = nightly.path.parent
    active.kill()
    active.communicate(timeout=30)
    (where / "go").touch()
    done = liteflow("run", "nightly.py", "--run-id", "second", "-q", cwd=where)
    assert (done.returncode, done.stdout) == (0, "nightly/second success\n"), done.stderr
    assert _states(where) == {"second": "success", "first": "running"}


def test_of_several_at_the_same_moment_one_runs(nightly: Script, script: Callable[..., Script]) -> None:
    together = script(TOGETHER, "together.py")
    where = together.path.parent
    processes = [
        subprocess.Popen(
            [sys.executable, str(together.path)],
            cwd=where,
            env={"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    try:
        wait_until(lambda: sum(process.poll() is not None for process in processes) == 3, "three are refused")
    finally:
        (where / "go").touch()
    told = sorted(process.communicate(timeout=30)[0].split()[0] for process in processes)
    assert told == ["ran", "refused", "refused", "refused"]
    assert len(_states(where)) == 1
