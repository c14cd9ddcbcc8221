"""Services that share a history in PostgreSQL, as they meet on one machine and on two."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from liteflow.execution.places import lock_directory
from liteflow.storage.history import open_history
from tests.conftest import Script, wait_until
from tests.postgres import Server

Make = Callable[..., Script]

FLOW = """
import os, threading
from liteflow import Dag, task

@task(kill_grace_s=0.2)
def wait_for(path):
    open(path + ".begun", "a").write(f"{os.getpid()}\\n")
    while not os.path.exists(path):
        threading.Event().wait(0.01)
    return "done"

@task
def after(word):
    return word + "!"

with Dag("shared") as dag:
    after(wait_for(os.environ["WAITS_FOR"]))

if __name__ == "__main__":
    print(dag.run(run_id="r", progress=False).state)
"""

IMPATIENT = """
import sys
from tests.faults.shared_flow import shorten_leases
shorten_leases(3.0)
from liteflow.__main__ import main
sys.argv[0] = "liteflow"
main()
"""


def pids_in(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def begun(flag: Path) -> list[int]:
    """The processes of the tries that have begun, in order."""
    return pids_in(flag.with_name(flag.name + ".begun"))


def lives(pid: int) -> bool:
    """Whether the process is there, and no more than what nobody has reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a script: lock files of this test's own, and the file for which its task waits."""
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "locks"))
    return {"TMPDIR": str(tmp_path / "locks"), "WAITS_FOR": str(tmp_path / "flag")}


def test_on_one_machine_a_killed_service_is_followed_at_once(
    postgres_db: str, tmp_path: Path, script: Make, surroundings: dict[str, str]
) -> None:
    flag = tmp_path / "flag"
    flow = script(FLOW)
    first = flow.start(LITEFLOW_DB=postgres_db, **surroundings)
    wait_until(lambda: begun(flag), "the task has begun")
    first.kill()
    first.communicate()
    flag.touch()
    done = flow.run(LITEFLOW_DB=postgres_db, **surroundings, timeout=30)  # half of a lease
    assert done.stdout == "success\n", done.stderr
    run = open_history(postgres_db).find_run("shared/r")
    assert [str(one.end_reason) for one in run.tries()] == ["crashed"]
    assert run.xcom("after") == "done!"
    wait_until(lambda: not lives(begun(flag)[0]), "what the killed one ran is gone")


def test_a_service_leaves_no_lock_file_behind(
    postgres_db: str, tmp_path: Path, script: Make, surroundings: dict[str, str]
) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    assert script(FLOW).run(LITEFLOW_DB=postgres_db, **surroundings).stdout == "success\n"
    masked = open_history(postgres_db).database.path
    assert "***" in masked
    assert [path.name for path in lock_directory(masked).iterdir()] == ["place"]


def test_a_database_that_is_away_for_longer_than_a_lease_leaves_a_run_that_can_be_resumed(
    own_postgres: Server, tmp_path: Path, script: Make, surroundings: dict[str, str]
) -> None:
    flag = tmp_path / "flag"
    flow = script(FLOW)
    impatient = script(IMPATIENT, "impatient.py")
    with own_postgres.database() as url:
        running = impatient.start("run", str(flow.path), "-q", "--run-id", "r", LITEFLOW_DB=url, **surroundings)
        wait_until(lambda: begun(flag), "the task has begun")
        own_postgres.stop("fast")
        try:
            _, said = running.communicate(timeout=60)
        finally:
            own_postgres.start()
        assert running.returncode == 4, said
        assert "lease" in said
        assert "Traceback" not in said
        wait_until(lambda: not lives(begun(flag)[0]), "what it ran was ended")
        flag.touch()
        again = impatient.run("run", str(flow.path), "--resume", "latest", LITEFLOW_DB=url, **surroundings)
        assert again.returncode == 0, again.stderr
        assert len(begun(flag)) == 2


def test_what_a_stopped_service_runs_ends_before_another_machine_goes_on(
    postgres_db: str, tmp_path: Path, script: Make, surroundings: dict[str, str]
) -> None:
    flag = tmp_path / "flag"
    flow = script(FLOW)
    impatient = script(IMPATIENT, "impatient.py")
    (tmp_path / "elsewhere").mkdir()
    elsewhere = {**surroundings, "LITEFLOW_DB": postgres_db, "TMPDIR": str(tmp_path / "elsewhere")}
    first = impatient.start("run", str(flow.path), "-q", "--run-id", "r", LITEFLOW_DB=postgres_db, **surroundings)
    wait_until(lambda: begun(flag), "the task has begun")
    first.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: not lives(begun(flag)[0]), "nobody but itself ends it")
        run = open_history(postgres_db).find_run("shared/r")
        assert run.owner is not None
        assert run.owner.has_lease, "nobody can have taken it yet"
        flag.touch()
        wait_until(lambda: not open_history(postgres_db).find_run("shared/r").owner.has_lease, "its lease is over")  # type: ignore[union-attr]
        again = impatient.run("run", str(flow.path), "--resume", "r", **elsewhere)
        assert again.returncode == 0, again.stderr
    finally:
        first.send_signal(signal.SIGCONT)
        _, said = first.communicate(timeout=60)
    assert first.returncode in (0, 4), said  # it hears first that its lease is lost, or that the run is over
    assert "lease" in said
    assert open_history(postgres_db).find_run("shared/r").xcom("after") == "done!"


def test_a_stopped_process_that_was_robbed_records_nothing_when_it_comes_back(
    postgres_db: str, tmp_path: Path, script: Make, surroundings: dict[str, str]
) -> None:
    flag = tmp_path / "flag"
    flow = script(FLOW)
    first = flow.start(LITEFLOW_DB=postgres_db, **surroundings)
    wait_until(lambda: begun(flag), "the task has begun")
    first.send_signal(signal.SIGSTOP)
    flag.touch()
    try:
        env = {"LITEFLOW_DB": postgres_db, **surroundings}
        impatient = script(IMPATIENT, "impatient.py")
        refused = impatient.run("run", str(flow.path), "--resume", "r", **env)
        assert refused.returncode == 2, refused.stderr
        assert "is stopped" in refused.stderr
        forced = impatient.run("run", str(flow.path), "--resume", "r", "--force", **env)
        assert forced.returncode == 0, forced.stderr
    finally:
        first.send_signal(signal.SIGCONT)
        out, said = first.communicate(timeout=60)
    assert out == "success\n", said  # as somebody else has made it
    run = open_history(postgres_db).find_run("shared/r")
    assert run.state == "success"
    assert [str(one.end_reason) for one in run.tries()] == ["lost"]
