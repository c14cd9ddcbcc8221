"""Faults of the storage under a run, in real processes: the run stops with one line and exit code 3, nothing is
recorded that did not happen, nothing is left running, and once the fault is gone the run is resumed and succeeds.

`LITEFLOW_TESTS=full` has every write fail instead of some.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from liteflow.storage import checking, recording, schema
from liteflow.storage.history import open_history
from liteflow.storage.moments import from_microseconds
from tests.conftest import ROOT, Script, liteflow, states_of, wait_until

FLOW = Path(__file__).with_name("storage_flow.py")
MARK = "LITEFLOW_TEST_MARK"
IS_FULL = os.environ.get("LITEFLOW_TESTS") == "full"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="faults are injected with what Linux has"),
    *([pytest.mark.timeout(4 * 3600)] if IS_FULL else []),
]

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, which makes calls fail")


class Place:
    """A directory with the flow, and programs that are started in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.db = str(directory / "faulty.db")
        self.flow = directory / "storage_flow.py"
        shutil.copy(FLOW, self.flow)
        self._mark = secrets.token_hex(8)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("LITEFLOW", "PYTEST"))},
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LITEFLOW_DB": self.db,
            MARK: self._mark,
        }

    def run(self, *prefix: str) -> subprocess.CompletedProcess[str]:
        """Run the flow to its end, behind a command that has something fail in it."""
        done = subprocess.run(
            [*prefix, sys.executable, str(self.flow)],
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        wait_until(lambda: not self._left(), "processes left behind", timeout_s=5)
        return done

    def _left(self) -> list[str]:
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if self._mark.encode() in environment:
                found.append(name)
        return found

    def recorded(self) -> dict[str, tuple[str, int]]:
        """Task instances that ended, with their states and tries; empty when there is no run."""
        if not os.path.exists(self.db):
            return {}
        with closing(sqlite3.connect(self.db)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                return {}
            rows = connection.execute(
                "SELECT task_id || map_index, state, try_number FROM liteflow_task_instance WHERE state = 'success'"
            )
            return {name: (state, number) for name, state, number in rows}

    def check(self) -> None:
        """The invariants, once there are tables."""
        if os.path.exists(self.db) and schema.read_revision(self.db) is not None:
            assert checking.check(self.db) == []

    def assert_stopped(self, done: subprocess.CompletedProcess[str], *words: str) -> None:
        """It ended with one line that names the database and what to do."""
        assert done.returncode == 3, done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith(f"{self.db}:")]
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert any(word in lines[0] for word in words), lines[0]

    def assert_goes_on(self) -> None:
        """The fault is gone: the run is resumed if it had begun, what had succeeded stays, and it succeeds."""
        before = self.recorded()
        self.check()
        has_run = bool(before) or (os.path.exists(self.db) and schema.read_revision(self.db) is not None)
        if has_run:
            with closing(sqlite3.connect(self.db)) as connection:
                has_run = connection.execute("SELECT 1 FROM liteflow_dag_run").fetchone() is not None
        resume = ["--resume", "r"] if has_run else ["--run-id", "r"]
        done = liteflow("run", str(self.flow), *resume, "--db", self.db, cwd=self.directory)
        assert done.returncode == 0, done.stderr
        run = open_history(self.db).find_run("flow/r")
        assert set(states_of(run).values()) == {"success"}
        assert run.xcom("last") == 120_000
        after = self.recorded()
        assert {name: after[name] for name in before} == before
        self.check()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def numbers(some: Sequence[int], all_up_to: int) -> Sequence[int]:
    return range(1, all_up_to) if IS_FULL else some


# Faults under a run


@needs_strace
@pytest.mark.parametrize("number", numbers([2, 25, 70], 140))
def test_a_write_that_fails_ends_the_run_and_it_goes_on_later(place: Place, number: int) -> None:
    """In the thread that drives the run, and in the one that began it: strace counts for each."""
    inject = f"inject=pwrite64:error=EIO:when={number}"
    done = place.run("strace", "-f", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", inject)
    if done.returncode != 0:
        place.assert_stopped(done, "the disk fails")
        place.assert_goes_on()
    else:
        assert done.stdout == "success\n", "it failed in a checkpoint, after which everything is still in the WAL"
    place.check()


@needs_strace
@pytest.mark.parametrize("number", numbers([2], 12))
def test_a_flush_that_fails_ends_the_run_and_it_goes_on_later(place: Place, number: int) -> None:
    inject = f"inject=fdatasync:error=EIO:when={number}"
    done = place.run("strace", "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", inject)
    if done.returncode != 0:
        place.assert_stopped(done, "the disk fails")
        place.assert_goes_on()
    place.check()


LIMITED = """
import os, resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("kib", range(10, 300, 10) if IS_FULL else [20, 260])
def test_a_limit_of_file_sizes_ends_the_run_and_it_goes_on_without(place: Place, kib: int) -> None:
    done = place.run(sys.executable, "-c", LIMITED, str(kib * 1024))
    place.assert_stopped(done, "a limit of file sizes is reached", "the disk fails")
    place.assert_goes_on()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB: once there is room, a whole run fits with a WAL that is not copied before 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode != 0:
        pytest.skip("needs root and mount, to make a small tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("kib", range(0, 430, 12) if IS_FULL else [8, 420])
def test_a_full_disk_ends_the_run_and_it_goes_on_once_there_is_room(small_disk: Path, kib: int) -> None:
    place = Place(small_disk)
    free = os.statvfs(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (free.f_bavail * free.f_frsize - kib * 1024))
    done = place.run()
    place.assert_stopped(done, "the disk is full")
    filler.unlink()
    place.assert_goes_on()


# Databases that may only be looked at


def as_nobody_special(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run liteflow without what root may do to files of any mode."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv, or not to be root: root may write anything")
        prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    return subprocess.run(
        [*prefix, sys.executable, "-m", "liteflow", *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def finished(tmp_path: Path) -> Iterator[Path]:
    """A directory with a database that holds a run, and in which nothing may be written."""
    directory = tmp_path / "there"
    directory.mkdir()
    place = Place(directory)
    database = schema.open_database(place.db, create=True)
    with database.write() as session:
        facts = recording.DagFacts("flow", None, (), "{}", None, "x")
        recording.create_run(
            session,
            recording.record_dag(session, facts, 1),
            run_id="r",
            logical_date=from_microseconds(1),
            params_json="{}",
            structure_digest="x",
            tasks=[recording.TaskFacts("first", [], "all_success")],
            executor_pk=None,
            now_us=1,
        )
    database.close()
    os.chmod(place.db, 0o444)
    os.chmod(place.directory, 0o555)
    yield place.directory
    os.chmod(place.directory, 0o755)


def test_what_may_only_be_read_can_be_looked_at(finished: Path) -> None:
    before = sorted(os.listdir(finished))
    for command in (["runs"], ["show", "flow/r"], ["db", "check"]):
        done = as_nobody_special(*command, "--db", "faulty.db", cwd=finished)
        assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(finished)) == before


def test_what_may_only_be_read_is_not_written(finished: Path) -> None:
    for command in (["run", "storage_flow.py"], ["db", "downgrade", "base", "--yes"]):
        done = as_nobody_special(*command, "--db", "faulty.db", cwd=finished)
        assert done.returncode == 3, done.stderr
        assert "writ" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    os.chmod(finished, 0o755)
    assert checking.check(finished / "faulty.db") == []


def test_a_file_that_is_read_only_in_a_directory_that_is_not(finished: Path) -> None:
    os.chmod(finished, 0o755)
    before = sorted(os.listdir(finished))
    assert as_nobody_special("runs", "--db", "faulty.db", cwd=finished).returncode == 0
    assert sorted(os.listdir(finished)) == before, "no WAL that its owner could not write to"


# No transaction is open while anything else goes on

HELD = """
import sys
import time
from pathlib import Path
from liteflow import Dag, ExecutorService, task
from liteflow.storage.checkpoints import checkpoint

DB = str(Path(__file__).with_name("test.db"))


def is_free():
    '''Whether nobody reads or writes: only then can the WAL be emptied. Anybody may be at a commit, or at a checkpoint
    with a slow disk, for a moment.'''
    end = time.monotonic() + 10
    while not (free := checkpoint(DB, patience_s=0.01)) and time.monotonic() < end:
        pass
    return free


@task(retries=1, retry_delay=0.3)
def work(ti=None):
    assert is_free()
    if ti.try_number == 1:
        raise ValueError("again")


@task.sensor(poke_interval=0.3, mode="reschedule")
def look():
    assert is_free()
    return Path(DB).with_name("seen").exists()


def called(context):
    Path(DB).with_name("called").write_text(str(is_free()))


@task(on_success_callback=called)
def pull(ti=None):
    ti.xcom_pull(task_ids="work")
    assert is_free()


with Dag("held", db_path=DB) as dag:
    [work(), look()] >> pull()

told = []

def listener(event):
    told.append(is_free())
    Path(DB).with_name("seen").touch()

if __name__ == "__main__":
    with ExecutorService(DB, max_workers=2) as service:
        run = service.submit(dag, run_id="r", listener=listener).wait()
        assert is_free(), "an idle service"
        print(run.state, all(told), len(told) > 5, Path(DB).with_name("called").read_text())
"""


def test_no_transaction_is_open_while_user_code_runs_or_anything_waits(tmp_path: Path) -> None:
    """In tasks, sensors, callbacks, listeners, and while a retry is awaited: the WAL can be emptied at any time."""
    flow = Script(tmp_path / "held.py")
    flow.path.write_text(HELD)
    done = flow.run()
    assert done.stdout.splitlines()[-1:] == ["success True True True"], done.stdout + done.stderr
