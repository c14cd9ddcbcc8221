"""What all tests share: a database of their own, and a look at what they leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from liteflow.execution.cpus import usable_cpus
from tests.postgres import own_postgres, postgres, postgres_db  # noqa: F401 - fixtures

ROOT = Path(__file__).parent.parent


def pytest_configure() -> None:
    """Where the tests run in the background, or under nohup, these are ignored; what is tested would inherit that."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are CPUs: half of the tests' time is waiting for other processes."""
    return usable_cpus() + 2


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the database of whoever runs the tests, nor looks different on their terminal."""
    monkeypatch.delenv("LITEFLOW_DB", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


ON_POSTGRES = os.environ.get("LITEFLOW_TEST_DATABASE", "").startswith("postgresql")
"""Whether the tests that take `db` are to run on PostgreSQL; then few others are run."""


@pytest.fixture
def db(request: pytest.FixtureRequest) -> Iterator[str]:
    """The path of a database that is not there yet; with $LITEFLOW_TEST_DATABASE=postgresql the URL of one that holds
    nothing but liteflow's tables."""
    if not ON_POSTGRES:
        yield str(request.getfixturevalue("tmp_path") / "test.db")
        return
    server = request.getfixturevalue("postgres")
    # Not in the URL, which liteflow shows without it.
    request.getfixturevalue("monkeypatch").setenv("PGPASSWORD", server.password)
    with server.database() as url:
        yield url.replace(f":{server.password}@", "@")


SEMANTICS = (ROOT / "tests/processes/semantics", ROOT / "tests/processes/test_same_states.py")
"""Where tests have their databases of `tests.engines`."""


TAKEN = frozenset({"db", "own_postgres", "postgres", "postgres_db"})
"""Fixtures of those that are run on PostgreSQL."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On PostgreSQL only what takes `db` or a server, or is about semantics, and is not about the file of SQLite."""
    if not ON_POSTGRES:
        return
    kept, others = [], []
    for item in items:
        takes = not TAKEN.isdisjoint(getattr(item, "fixturenames", ())) or any(map(item.path.is_relative_to, SEMANTICS))
        wanted = takes and item.get_closest_marker("sqlite") is None
        (kept if wanted else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = kept


def beside(db: str) -> Path:
    """A directory in which commands may work that are about this database: its own, if it is a file."""
    return Path(tempfile.gettempdir()) if "://" in db else Path(db).parent


def told(db: str) -> str:
    """How commands that work there name this database in what they propose."""
    return db if "://" in db else Path(db).name


def change(db: str, *statements: str, **values: Any) -> None:
    """Do to a database what the program never does, in one transaction: text of SQL, with `:name` for a value."""
    from sqlalchemy import text

    from liteflow.storage.engine import connect

    with connect(db, pooled=False).write() as connection:
        for statement in statements:
            connection.execute(text(statement), values)


def descendants() -> set[int]:
    """Living processes below this one, zombies left out."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                parents[int(name)] = int(fields[1])
    found: set[int] = set()
    grown = {os.getpid()}
    while grown:
        grown = {pid for pid, parent in parents.items() if parent in grown} - found
        found |= grown
    return found


@pytest.fixture
def nothing_left_behind() -> Iterator[None]:
    """Fail when a test leaves a process, or the service's thread."""
    before = descendants()
    yield
    wait_until(lambda: not (descendants() - before), "processes left behind", timeout_s=5)
    wait_until(
        lambda: not any(thread.name == "liteflow-service" for thread in threading.enumerate()),
        "the service's thread is left",
    )


def wait_until(condition: Callable[[], Any], what: str, *, timeout_s: float = 20.0) -> Any:
    """Poll until `condition` gives something true, and return it; fail with `what` when the time is over."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"still not so after {timeout_s:g} s: {what}")
        pause.wait(0.005)


class Script:
    """A Python file in a directory of its own, run as a real process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *args: str, timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return run_python(str(self.path), *args, cwd=self.path.parent, timeout=timeout, **env)

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        """Start it; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, str(self.path), *args],
            cwd=self.path.parent,
            env=_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def _environment(extra: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LITEFLOW", "PYTEST"))}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **extra}


def run_python(*args: str, cwd: Path, timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with liteflow in reach."""
    return subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env=_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def liteflow(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return run_python("-m", "liteflow", *args, cwd=cwd, **env)


def command(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, which takes a hundredth of the time: for commands that load no dag file."""
    from click.testing import CliRunner

    from liteflow.cli import cli

    with contextlib.chdir(cwd):
        result = CliRunner().invoke(cli, args, prog_name="liteflow", env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(args, result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Script]:
    """Make a script from its text."""

    def make(text: str, name: str = "my_dag.py") -> Script:
        path = tmp_path / name
        path.write_text(text)
        return Script(path)

    return make


def states_of(run: Any) -> dict[str, str]:
    """Task ids to states."""
    return {instance.task_id: str(instance.state) for instance in run.task_instances()}


def lines_of(run: Any, task_id: str | None = None) -> Sequence[str]:
    """What the tasks printed and logged."""
    return [entry.message for entry in run.logs(task_id)]
