"""A run in one process, and those who look at it from others: `liteflow logs --follow`, `liteflow watch`."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Script, wait_until

HOLDING = """
import os, time
from liteflow import Dag, task

@task
def hold() -> None:
    print("\\x1b[2Jholding", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.01)
    print("went on", flush=True)

@task
def twice(n: int) -> int:
    return 2 * n

with Dag("held", db_path="held.db") as dag:
    hold() >> twice.expand(n=[1, 2, 3])

if __name__ == "__main__":
    dag.run(run_id="r1", progress=False, max_workers=1)
"""


class Looker:
    """A command in a process of its own, with what it has printed so far; its stdout may be a terminal."""

    def __init__(self, where: Path, *args: str, terminal: bool = False, **env: str) -> None:
        leader = follower = None
        if terminal:
            leader, follower = pty.openpty()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LITEFLOW", "NO_COLOR"))}
        kept.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "liteflow", *args, "--db", "held.db"],
            cwd=where,
            env={**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **env},
            stdin=subprocess.DEVNULL,
            stdout=follower if follower is not None else subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if follower is not None:
            os.close(follower)
        self._out = leader if leader is not None else self.process.stdout.fileno()  # type: ignore[union-attr]
        self._leader = leader
        self._read = b""
        self._reading = threading.Thread(target=self._read_all)
        self._reading.start()

    def _read_all(self) -> None:
        while True:
            try:
                some = os.read(self._out, 65_536)
            except OSError:  # how Linux says that nobody holds the other end of a terminal any more
                return
            if not some:
                return
            self._read += some

    @property
    def output(self) -> str:
        return self._read.decode("utf-8", "replace")

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.output, f"{text!r} in {self.output!r}")

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Its exit code and stderr once it has ended."""
        if number is not None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(20)
        finally:
            self.process.kill()
        self._reading.join()
        if self._leader is not None:
            os.close(self._leader)
        assert self.process.stderr is not None
        with self.process.stderr as file:
            stderr = file.read().decode()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code, stderr


@pytest.fixture
def held(script: Callable[..., Script]) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A directory, and the process of a run in it that holds until there is a file `go`."""
    file = script(HOLDING, "held.py")
    where = file.path.parent
    process = file.start()
    wait_until((where / "held.db").exists, "the database")
    yield where, process
    (where / "go").touch()
    process.communicate(timeout=30)


@pytest.mark.usefixtures("nothing_left_behind")
def test_a_run_is_seen_from_other_processes_until_it_is_over(held: tuple[Path, subprocess.Popen[str]]) -> None:
    where, _ = held
    log = Looker(where, "logs", "held", "--follow")
    log.wait_for("[hold] \\x1b[2Jholding")
    lines = Looker(where, "watch", "held")
    lines.wait_for("hold running")
    screen = Looker(where, "watch", "held", terminal=True)
    screen.wait_for("\\x1b[2Jholding")
    plain = Looker(where, "watch", "held", terminal=True, NO_COLOR="1")
    plain.wait_for("\\x1b[2Jholding")
    (where / "go").touch()
    assert log.end() == (0, "")
    assert [line[20:] for line in log.output.splitlines()] == ["[hold] \\x1b[2Jholding", "[hold] went on"]
    assert lines.end() == (0, "")
    assert lines.output.splitlines()[-1].endswith(": 4 success")
    for view in (screen, plain):
        assert view.end() == (0, "")
        assert view.output.rindex("\x1b[?1049l") > view.output.rindex("\x1b[?1049h"), (
            "the terminal's own screen is back"
        )
        assert view.output.rindex("\x1b[?25h") > view.output.rindex("\x1b[?25l"), "so is its cursor"
        last = view.output.rpartition("\x1b[?1049l")[2]
        assert "4/4" in last, "what was seen last stays"
        assert "\x1b[2J" not in last
    assert re.search(r"\x1b\[(3\d|1;3\d)m", screen.output)
    assert not re.search(r"\x1b\[[\d;]*3\dm", plain.output)


@pytest.mark.usefixtures("nothing_left_behind")
def test_each_way_to_stop_looking_leaves_the_run_alone(held: tuple[Path, subprocess.Popen[str]]) -> None:
    where, run = held
    stopped, kept = (Looker(where, "logs", "held", "-f") for _ in range(2))
    for log in (stopped, kept):
        log.wait_for("holding")
    left = Looker(where, "watch", "held", terminal=True)
    left.wait_for("holding")
    screen = Looker(where, "watch", "held", terminal=True)
    watch = Looker(where, "watch", "held")
    screen.wait_for("holding")
    watch.wait_for("hold running")

    assert stopped.end(signal.SIGINT) == (-signal.SIGINT, ""), "which a shell calls 130"
    assert left.end(signal.SIGINT) == (130, "stopped watching; held/r1 goes on\n")
    assert screen.end(signal.SIGTERM) == (143, "")
    for view in (left, screen):
        assert view.output.rindex("\x1b[?25h") > view.output.rindex("\x1b[?25l"), "the cursor is back"
    assert run.poll() is None

    run.kill()
    run.wait()
    code, stderr = kept.end()
    assert (code, stderr) == (
        0,
        "held/r1 was interrupted: nothing drives it. Go on with: liteflow run held.py --resume held/r1 --db held.db\n",
    )
    code, stderr = watch.end()
    assert (code, stderr.count("\n")) == (4, 1)
    assert watch.output.splitlines()[-1].split()[2:4] == ["held/r1", "interrupted:"]


@pytest.mark.usefixtures("nothing_left_behind")
def test_it_ends_when_nobody_reads_it_any_more(held: tuple[Path, subprocess.Popen[str]]) -> None:
    where, run = held
    for args in (["logs", "held", "-f"], ["watch", "held"]):
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "liteflow", *args, "--db", "held.db"],
            cwd=where,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(writing)
        assert os.read(reading, 100)
        os.close(reading)
        _, stderr = process.communicate(timeout=20)
        assert (process.returncode, stderr) == (0, ""), args
    assert run.poll() is None
