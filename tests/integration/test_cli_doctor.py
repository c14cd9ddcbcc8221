"""`liteflow doctor`: each thing that may be wrong, what it says to do, and that it changes nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from liteflow.cli import doctor
from liteflow.execution import checkup
from liteflow.execution.liveness import OwnLock
from liteflow.execution.places import lock_directory
from liteflow.execution.processes import start_time_of
from liteflow.states import RunState
from liteflow.storage import condition, recording, schema, tables
from liteflow.storage.pools import set_pool
from liteflow.storage.recording import DagFacts, TaskFacts
from liteflow.storage.schema import open_database
from tests.conftest import command, wait_until

NOW = tables.from_microseconds(1_767_225_600_000_000)

ALL = [
    *("versions", "machine", "file", "file system", "disk", "schema", "integrity", "wal", "write lock", "lock files"),
    *("owners", "runs", "free pages"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database at head."""
    path = tmp_path_factory.mktemp("doctor") / "made.db"
    open_database(path, create=True).close()
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A database of one's own."""
    (tmp_path / "test.db").write_bytes(made.read_bytes())
    return tmp_path / "test.db"


def examine(path: Path | str, *, code: int = 0) -> dict[str, list[SimpleNamespace]]:
    """What the doctor finds, by what it looked at."""
    done = command("doctor", "--json", "--db", str(path), cwd=Path("/"))
    assert (done.returncode, done.stderr) == (code, "")
    document = json.loads(done.stdout)
    assert set(document) == {"path", "level", "findings"}
    assert document["level"] in (("problem",) if code else ("ok", "warning"))
    found: dict[str, list[SimpleNamespace]] = {}
    for one in document["findings"]:
        assert set(one) == {"what", "level", "text", "cure"}
        assert one["level"] in ("ok", "warning", "problem")
        assert "\n" not in one["text"] + (one["cure"] or "")
        found.setdefault(one["what"], []).append(SimpleNamespace(**one))
    return found


def only(findings: list[SimpleNamespace]) -> SimpleNamespace:
    (one,) = findings
    return one


def everything_in(directory: Path) -> dict[str, str]:
    """The files below a directory, each with its digest."""
    return {
        str(one.relative_to(directory)): sha256(one.read_bytes()).hexdigest()
        for one in sorted(directory.rglob("*"))
        if one.is_file()
    }


def put_run(path: Path, run_id: str, owner: int | None, *, state: RunState = RunState.RUNNING, **task: Any) -> None:
    with open_database(path, pooled=False).write() as connection:
        dag_pk = recording.record_dag(connection, DagFacts("etl", None, (), "{}", "/home/me/etl.py", "x"), 1)
        pk, pks = recording.create_run(
            connection,
            dag_pk,
            run_id=run_id,
            logical_date=NOW,
            params_json="{}",
            structure_digest="x",
            tasks=[TaskFacts("t", [], "all_success", **task)],
            executor_pk=owner,
            now_us=1,
        )
        connection.execute(
            update(tables.DAG_RUN).where(tables.DAG_RUN.c.id == pk).values(state=state, executor_pk=owner)
        )
        if owner is not None:
            recording.claim(connection, [(pks[0], 1)], owner)


def put_owner(path: Path, token: str, pid: int | None = None) -> int:
    with open_database(path, pooled=False).write() as connection:
        pk = recording.record_executor(connection, token, socket.gethostname(), start_time_of(pid or os.getpid()), 1)
        if pid is not None:
            connection.execute(update(tables.EXECUTOR).where(tables.EXECUTOR.c.id == pk).values(pid=pid))
    return pk


# A database that is well


def test_a_database_that_is_well_has_a_line_for_each_thing(path: Path) -> None:
    found = examine(path)
    assert list(found) == ALL
    assert {one.level for some in found.values() for one in some} == {"ok"}
    assert sqlite3.sqlite_version in only(found["versions"]).text
    assert only(found["schema"]).text == f"revision {schema.HEAD}"
    done = command("doctor", "--db", str(path), cwd=path.parent)
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (0, len(ALL))
    assert all(line.startswith("ok       ") for line in lines)
    assert "ok       owners: nobody is at work on it" in lines


def test_nothing_is_changed_and_nothing_is_left(path: Path) -> None:
    put_run(path, "r1", put_owner(path, "gone"))
    before = everything_in(path.parent)
    assert set(before) == {"test.db"}
    examine(path)
    assert everything_in(path.parent) == before


def test_a_database_without_a_wal_stays_one(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    before = everything_in(path.parent)
    examine(path)
    assert everything_in(path.parent) == before


def test_what_a_killed_process_left_in_the_wal_stays_there(path: Path) -> None:
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA wal_autocheckpoint=0')\n"
        "c.execute(\"INSERT INTO liteflow_pool (name, slots) VALUES ('left', 3)\"); c.commit(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    before = everything_in(path.parent)
    assert before["test.db-wal"]
    found = examine(path)
    after = everything_in(path.parent)
    assert (after["test.db"], after["test.db-wal"]) == (before["test.db"], before["test.db-wal"])
    assert only(found["pools"]).text == "left 0/3", "and it is read"


def test_it_has_help_with_an_example() -> None:
    shown = command("doctor", "--help", cwd=Path("/"))
    assert (shown.returncode, "Examples:\n    liteflow doctor" in shown.stdout) == (0, True)


def test_on_a_terminal_what_to_do_stands_below(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "is_terminal", lambda: True)
    put_run(path, "r1", put_owner(path, "gone"))
    shown = command("doctor", "--db", str(path), cwd=path.parent, COLUMNS="80").stdout
    assert max(map(len, shown.splitlines())) <= 80
    rows = [line.strip() for line in shown.splitlines()]
    at = next(number for number, row in enumerate(rows) if "etl/r1 was interrupted" in row)
    assert rows[at + 1].startswith("liteflow run /home/me/etl.py:etl --resume r1")


# A database that cannot be used


@pytest.mark.parametrize(
    ("make", "what", "said", "cure"),
    [
        (lambda path: path.unlink(), "file", "no such database", "a run creates it"),
        (lambda path: path.write_bytes(b""), "schema", "the file is empty", "liteflow db upgrade"),
        (lambda path: path.write_text("something else\n" * 400), "schema", "not an SQLite database", None),
        (lambda path: (path.unlink(), path.mkdir()), "file", "a directory", "name a file with --db"),
        (lambda path: path.unlink() or os.mkfifo(path), "file", "no regular file", "name another file"),
    ],
    ids=["missing", "empty", "text", "directory", "pipe"],
)
def test_a_file_that_is_no_database_is_a_problem(
    make: Callable[[Path], object], what: str, said: str, cure: str | None, path: Path
) -> None:
    make(path)
    last = examine(path, code=3)[what][-1]
    assert last.level == "problem"
    assert said in last.text
    assert (cure or "") in (last.cure or "")


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    found = examine(tmp_path / "no" / "where.db", code=3)
    assert "the directory" in only(found["file"]).text
    assert "create the directory" in only(found["file"]).cure


def test_the_database_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE songs (name)")
    before = everything_in(tmp_path)
    found = examine(path, code=3)
    assert "not one of liteflow's (it holds songs)" in only(found["schema"]).text
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(
    ("revision", "said", "cure"),
    [
        ("0001", f"revision 0001, this liteflow needs {schema.HEAD}", "a backup is made by: liteflow db upgrade"),
        ("9999", "a newer one wrote it", "upgrade liteflow"),
        ("\x1b[31m", "a newer one wrote it", "upgrade liteflow"),
    ],
)
def test_another_schema_is_a_problem_with_a_cure(revision: str, said: str, cure: str, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE liteflow_schema SET version_num = ?", [revision])
    before = everything_in(path.parent)
    schema_of = only(examine(path, code=3)["schema"])
    assert said in schema_of.text
    assert cure in schema_of.cure
    assert everything_in(path.parent)["test.db"] == before["test.db"]
    assert "\x1b" not in command("doctor", "--db", str(path), cwd=path.parent).stdout


def test_a_damaged_file_never_ends_it_with_a_traceback(path: Path) -> None:
    put_run(path, "r1", put_owner(path, "gone"))
    original = path.read_bytes()
    rng = random.Random(7)
    codes = set()
    for _ in range(40):
        damaged = bytearray(original)
        place = rng.randrange(0, len(damaged) - 600)
        damaged[place : place + 600] = rng.randbytes(600)
        path.write_bytes(damaged)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        done = command("doctor", "--db", str(path), cwd=path.parent)
        assert done.returncode in (0, 3)
        assert done.stderr == ""
        codes.add(done.returncode)
    assert 3 in codes


def test_damage_is_told_with_where_to_see_more(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'liteflow_log_record'").fetchone()
    data = bytearray(path.read_bytes())
    data[(page - 1) * 4096 : (page - 1) * 4096 + 8] = b"\xff" * 8
    path.write_bytes(data)
    found = examine(path, code=3)
    assert "damaged: " in only(found["integrity"]).text
    assert "liteflow db check --db" in only(found["integrity"]).cure


def test_a_file_too_large_to_be_looked_through_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO liteflow_pool (name, slots) VALUES (?, 1)", [(str(n),) for n in range(9000)]
        )
    monkeypatch.setattr(condition, "QUICK_CHECK_S", -1.0)
    assert "did not reach the end" in only(examine(path)["integrity"]).text


def test_rows_that_no_liteflow_writes_are_a_problem_in_a_line(path: Path) -> None:
    put_run(path, "r1", put_owner(path, "gone"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE liteflow_executor SET token = '../../etc/passwd', pid = -1")
    found = examine(path, code=3)
    assert "is no executor" in found["owners"][0].text
    assert "liteflow db check" in found["owners"][0].cure


def test_a_table_that_is_missing_is_a_problem_and_the_rest_is_told(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE liteflow_pool")
    found = examine(path, code=3)
    assert "no such table: liteflow_pool" in only(found["pools"]).text
    assert "liteflow db check" in only(found["pools"]).cure
    assert only(found["runs"]).level == only(found["free pages"]).level == "ok"


def test_a_file_that_may_not_be_written_can_be_looked_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda file, mode: mode != os.W_OK and access(file, mode))
    found = examine(path)
    assert only(found["file"]).level == "warning"
    assert "it can only be looked at" in only(found["file"]).text
    assert "write lock" not in found
    assert "owners" in found


def test_a_file_that_may_not_be_read_is_a_problem(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _file, _mode: False)
    assert "may not be read" in only(examine(path, code=3)["file"]).text


def test_a_network_file_system_is_a_problem_unless_it_is_allowed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "filesystem_of", lambda _path: "nfs4")
    assert "nfs4, a network file system" in only(examine(path, code=3)["file system"]).text
    monkeypatch.setenv(checkup.ALLOW_NETWORK, "1")
    assert only(examine(path)["file system"]).level == "warning"


@pytest.mark.parametrize(("free", "level", "code"), [(1000, "problem", 3), (5 * 2**20, "warning", 0)])
def test_a_full_disk_is_told(free: int, level: str, code: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=2**40, used=0, free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert only(examine(path, code=code)["disk"]).level == level


@pytest.mark.parametrize(
    ("found", "level", "said"),
    [
        ((3, 34, 0), "problem", "SQLite 3.35.0 or later"),
        ((3, 45, 1), "ok", "WAL-reset bug"),
        ((3, 50, 7), "ok", None),
        ((3, 51, 3), "ok", None),
    ],
)
def test_an_old_sqlite_is_told_of(
    found: tuple[int, ...], level: str, said: str | None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", found)
    versions = checkup.Checkup(str(path), NOW)
    versions._versions()
    one = versions.found[0]
    assert one.level == level
    assert (said or "") in f"{one.text} {one.cure}"
    assert ("WAL-reset" in one.text) == (said == "WAL-reset bug")


# Who is at work


def test_runs_whose_process_is_gone_are_named_with_the_command_that_goes_on(path: Path) -> None:
    for number in range(5):
        put_run(path, f"r{number}", put_owner(path, f"gone{number}"))
    runs = examine(path)["runs"]
    assert [one.level for one in runs] == ["warning"] * 4
    assert runs[0].text == f"etl/r4 was interrupted: process {os.getpid()} is gone"
    assert runs[0].cure == f"liteflow run /home/me/etl.py:etl --resume r4 --db {path}"
    assert runs[3].text == "2 more runs were interrupted"


def test_a_run_that_nobody_took_is_named(path: Path) -> None:
    put_run(path, "r1", None, state=RunState.QUEUED)
    run = only(examine(path)["runs"])
    assert (run.level, run.text) == ("warning", "etl/r1 waits for a service that knows the dag")
    assert "start the service, or: liteflow run" in run.cure


def test_who_is_at_work_is_named_and_who_is_stopped(path: Path) -> None:
    put_run(path, "r1", put_owner(path, "living"))
    lock = OwnLock(str(path), "living")
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = examine(path)
        assert only(found["owners"]).text.startswith(f"process {os.getpid()} for ")
        assert only(found["runs"]).text == "1 run, 1 of them going on"
        assert only(found["lock files"]).text == "1 held"
        os.kill(sleeper.pid, signal.SIGSTOP)
        put_owner(path, "stopped", sleeper.pid)
        with OwnLockFor(path, "stopped"):
            owners = examine(path)["owners"]
        assert [one.level for one in owners] == ["ok", "warning"]
        assert f"process {sleeper.pid}" in owners[1].text
        assert "is stopped (SIGSTOP)" in owners[1].text
        assert "--force" in owners[1].cure
    finally:
        sleeper.kill()
        sleeper.communicate()
        lock.release()
    assert "etl/r1 was interrupted" in only(examine(path)["runs"]).text


@contextmanager
def OwnLockFor(path: Path, token: str) -> Iterator[None]:  # noqa: N802  (stands beside OwnLock)
    lock = OwnLock(str(path), token)
    try:
        yield
    finally:
        lock.release()


def test_lock_files_of_the_dead_are_counted(path: Path) -> None:
    directory = lock_directory(str(path))
    directory.mkdir()
    for name in ("abc.lock", "abc.m.slot", "note.txt"):
        (directory / name).touch()
    assert only(examine(path)["lock files"]).text == "2 left by processes that are gone, which go with a later run"
    assert sorted(os.listdir(directory)) == ["abc.lock", "abc.m.slot", "note.txt"]


def test_a_pool_with_more_taken_than_it_has_is_told_of(path: Path) -> None:
    with open_database(path, pooled=False).write() as connection:
        set_pool(connection, "gpu", 1)
        set_pool(connection, "api", 3)
    put_run(path, "r1", put_owner(path, "living"), pool="gpu", pool_slots=4)
    with OwnLockFor(path, "living"):
        pool = only(examine(path)["pools"])
        assert (pool.level, pool.text) == ("warning", "pool gpu has 1 slots, and 4 are taken")
        assert "liteflow pools set gpu SLOTS" in pool.cure
    assert only(examine(path)["pools"]).text == "api 0/3, gpu 0/1", "what the dead took is free"


# Locks and the WAL


HOLD = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute(sys.argv[2])
c.execute("SELECT count(*) FROM liteflow_pool").fetchone()
print("held", flush=True)
input()
"""


@contextmanager
def holding(path: Path, begin: str) -> Iterator[int]:
    """A process with a transaction open; its pid."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), begin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="who it is can be told on Linux only")


@linux_only
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_whoever_holds_the_write_lock_is_named(mode: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "WRITE_PATIENCE_S", 0.05)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
    with holding(path, "BEGIN IMMEDIATE") as pid:
        lock = only(examine(path, code=3)["write lock"])
        assert f"held by process {pid} ({sys.executable} -c" in lock.text
        assert lock.cure == "end that program, or let it finish"
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: "stopped" in only(examine(path, code=3)["write lock"]).cure, "it is seen to be stopped")
    assert only(examine(path)["write lock"]).text == "free"


@linux_only
def test_a_reader_that_keeps_the_wal_long_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "PRESSING_BYTES", 1000)
    monkeypatch.setattr(checkup, "LONG_READ_S", 0.0)
    with holding(path, "BEGIN") as pid:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO liteflow_pool (name, slots) VALUES ('x', 1)")
        wal = only(examine(path)["wal"])
        assert wal.level == "warning"
        assert "which a reader keeps from being copied" in wal.text
        assert f"let process {pid} (" in wal.cure
    with holding(path, "SELECT 1") as pid:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO liteflow_pool (name, slots) VALUES ('y', 1)")
        wal = only(examine(path)["wal"])
        assert f"open in process {pid} (" in wal.text
        assert "reader keeps" not in wal.text, "it is between two transactions"


def test_free_pages_that_are_worth_it_are_to_be_given_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        rows = [(str(number), "x" * 1000) for number in range(2000)]
        connection.executemany("INSERT INTO liteflow_pool (name, slots, description) VALUES (?, 1, ?)", rows)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM liteflow_pool")
    assert only(examine(path)["free pages"]).level == "ok", "a little of it is not worth a word"
    monkeypatch.setattr(checkup, "WORTH_GIVING_BACK_BYTES", 2**20)
    free = only(examine(path)["free pages"])
    assert free.level == "warning"
    assert " MiB of " in free.text
    assert free.cure.startswith("give them back with: liteflow ")
