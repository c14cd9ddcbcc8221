"""What the crash tests share: how many rounds, which seed, programs that can be killed, and the report."""

from __future__ import annotations

import json
import os
import random
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.conftest import ROOT, wait_until

FLOWS = Path(__file__).with_name("flows")

MARK = "LITEFLOW_TEST_MARK"
"""In the environment of every process that a test starts, and so of all that come from it."""

END_S = 60.0
"""How long a program may take to come to its end before the test gives up."""


def is_full() -> bool:
    """Whether the long form of the tests is wanted."""
    return os.environ.get("LITEFLOW_TESTS") == "full"


def rounds(small: int, full: int) -> int:
    """How many rounds: `small` in the test command, `full` with LITEFLOW_TESTS=full."""
    return full if is_full() else small


def seeded(name: str) -> random.Random:
    """The dice of a test. LITEFLOW_SEED repeats what a failed one printed; without it each time is another."""
    seed = os.environ.get("LITEFLOW_SEED") or secrets.token_hex(4)
    print(f"LITEFLOW_SEED={seed}")  # pytest shows it when the test fails
    return random.Random(f"{seed} {name}")


def report(what: str, count: int, *, note: str = "") -> None:
    """A row for the table of what was proved; the invariants hold when this is called, so nothing was lost."""
    path = os.environ.get("LITEFLOW_REPORT")
    if path:
        with open(path, "a") as file:
            file.write(f"row: {what}, {count}, lost 0, twice 0, left 0{', ' + note if note else ''}\n")


def environment(mark: str, **extra: str) -> dict[str, str]:
    """The environment of a program: nothing of the tests' own, the checkout in reach, and the mark."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LITEFLOW", "PYTEST"))}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", MARK: mark, **extra}


def marked(mark: str) -> dict[int, str]:
    """Living processes with the mark: pid to command line."""
    needle = f"{MARK}={mark}\0".encode()
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                if needle in Path(f"/proc/{name}/environ").read_bytes():
                    found[int(name)] = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # gone, or somebody else's
    return found


def wait_until_none_is_left(mark: str, *, timeout_s: float = 5.0) -> None:
    """Fail if a process with the mark stays."""
    try:
        wait_until(lambda: not marked(mark), "no process is left", timeout_s=timeout_s)
    finally:
        for pid, command in marked(mark).items():
            print(f"left: {pid} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2][:2]} {command}")


def children(pid: int) -> list[int]:
    """Living direct children."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] not in "ZX":
                found.append(int(name))
    return sorted(found)


class Program(Protocol):
    """A program that runs."""

    pid: int

    def status(self, timeout_s: float = END_S) -> int | None:
        """Its status as `Popen.returncode` has it, or None if it still runs after so long."""

    def kill(self) -> None:
        """SIGKILL, also when it is over already."""


class Started:
    """A program in a Python of its own."""

    def __init__(self, program: Path, *arguments: str, directory: Path, mark: str, **extra: str) -> None:
        with open(directory / "out.txt", "a") as out, open(directory / "err.txt", "a") as err:
            self._process = subprocess.Popen(
                [sys.executable, str(program), *arguments],
                cwd=directory,
                env=environment(mark, **extra),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self.pid = self._process.pid

    def status(self, timeout_s: float = END_S) -> int | None:
        try:
            return self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self._process.kill()


class Forked:
    """A program in a child of the nursery."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self._nursery = nursery
        self._status: int | None = None

    def status(self, timeout_s: float = END_S) -> int | None:
        if self._status is None:
            self._status = self._nursery.read_status(timeout_s)
        return self._status

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)  # a zombie until the next one starts, so this is never somebody else


class Nursery:
    """See `nursery.py`. One child at a time."""

    def __init__(self, preload: Path | None = None) -> None:
        extra = {"LD_PRELOAD": str(preload)} if preload else {}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            env=environment("nursery", **extra),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._child: Forked | None = None
        self._received = b""

    def start(self, program: Path, *arguments: str, directory: Path, mark: str) -> Forked:
        """Fork a child that runs the program."""
        if self._child is not None:
            assert self._child.status() is not None, "one child at a time"
            self._send("reap")
        wanted = {
            "program": str(program),
            "arguments": arguments,
            "directory": str(directory),
            "environment": {MARK: mark},
        }
        self._send(json.dumps(wanted))
        pid = self._receive(END_S)
        assert pid is not None, "the nursery does not answer"
        self._child = Forked(self, pid)
        return self._child

    def read_status(self, timeout_s: float) -> int | None:
        """For `Forked`."""
        return self._receive(timeout_s)

    def close(self) -> None:
        """End it, and the child that it may have."""
        if self._child is not None and self._child.status(0) is None:
            self._child.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._selector.close()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _receive(self, timeout_s: float) -> int | None:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                return None
            piece = os.read(self._process.stdout.fileno(), 100)
            assert piece, "the nursery died"
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return int(line)


def killed_after(program: Program, delay_s: float) -> bool:
    """Kill the program after so long; False if it was over before."""
    deadline = time.monotonic() + delay_s
    while (left := deadline - time.monotonic()) > 0:
        if program.status(left) is not None:
            return False
    if program.status(0) is not None:
        return False
    program.kill()
    return program.status() == -signal.SIGKILL


def output_of(directory: Path) -> str:
    """What the programs of the directory printed."""
    return "".join(
        f"--- {name}\n{(directory / name).read_text()}"
        for name in ("out.txt", "err.txt")
        if (directory / name).exists()
    )


@contextmanager
def explained(directory: Path, **facts: Any) -> Iterator[None]:
    """When the block fails, print what is known of the round."""
    try:
        yield
    except BaseException:
        print(f"in {directory}: {facts}\n{output_of(directory)}")
        raise
