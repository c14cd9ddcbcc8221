"""The PostgreSQL server of the tests: it ends with whoever uses it, and what is committed outlives its crashes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, wait_until
from tests.postgres import Server

HOLDS = """
import sys
from pathlib import Path
from tests.postgres import Server
server = Server(Path(sys.argv[1]), safe=False)
print(server.port, server.postmaster(), flush=True)
sys.stdin.read()
"""


def holder(directory: Path) -> tuple[subprocess.Popen[str], int, int]:
    """A process that has the server, the port and the postmaster."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(directory)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    port, pid = process.stdout.readline().split()
    return process, int(port), int(pid)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_it_is_shared_and_ends_when_the_last_of_those_who_use_it_is_killed(postgres: Server, tmp_path: Path) -> None:
    one, *of_one = holder(tmp_path)
    try:
        data = Path(json.loads((tmp_path / "server.json").read_text())["data"])
        other, *of_other = holder(tmp_path)
        end(one)
        try:
            assert of_one == of_other
            assert lives(of_other[1])
        finally:
            end(other)
        wait_until(lambda: not lives(of_other[1]) and not data.parent.exists(), "the server is left, or its files")
    finally:
        end(one)


def test_it_ends_when_its_guard_is_killed(own_postgres: Server, tmp_path: Path) -> None:
    facts = json.loads((tmp_path / "postgres" / "server.json").read_text())
    pid = own_postgres.postmaster()
    assert pid is not None
    os.kill(facts["guard"], signal.SIGKILL)
    wait_until(lambda: not lives(pid), "the server is left")
    subprocess.run(["rm", "-rf", str(Path(facts["data"]).parent)], check=True)


def test_what_was_committed_is_there_after_each_kind_of_restart(own_postgres: Server) -> None:
    own_postgres.execute("CREATE TABLE kept AS SELECT 'first' AS mode")
    for mode in ("fast", "immediate", "kill"):
        before = own_postgres.postmaster()
        own_postgres.restart(mode)
        assert own_postgres.postmaster() not in (before, None)
        own_postgres.execute(f"INSERT INTO kept VALUES ('{mode}')")


def test_a_database_is_fresh_and_goes(postgres: Server) -> None:
    with postgres.database(empty=True) as url:
        name = url.rpartition("/")[2]
        postgres.execute("CREATE TABLE here AS SELECT 1", database=name)
    with postgres.database(empty=True) as url:
        postgres.execute("CREATE TABLE here AS SELECT 1", database=url.rpartition("/")[2])
    with pytest.raises(Exception, match="does not exist"):
        postgres.execute("SELECT 1", database=name)
