"""A run that goes on while its history is copied can be resumed at the other side, where its owner does not live."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Script, command, liteflow, wait_until

BLOCKING = """
import os, time
from liteflow import Dag, task

@task
def first() -> str:
    return "kept"

@task
def second(word: str) -> str:
    print("begun", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.01)
    return word + "!"

with Dag("etl") as dag:
    second(first())

if __name__ == "__main__":
    dag.run(run_id="r", max_workers=1, progress=False)
"""


@pytest.fixture
def databases(request: pytest.FixtureRequest, postgres_db: str, tmp_path: Path) -> tuple[str, str]:
    """Where the run begins, and where it is copied to."""
    file = str(tmp_path / "liteflow.db")
    return (file, postgres_db) if request.param == "from a file" else (postgres_db, file)


@pytest.mark.parametrize("databases", ["from a file", "from a server"], indirect=True)
def test_a_run_that_goes_on_is_resumed_at_the_other_side(
    databases: tuple[str, str], script: Callable[..., Script], tmp_path: Path
) -> None:
    here, there = databases

    def tasks(db: str) -> dict[str, tuple[str, int]]:
        done = command("show", "etl/r", "--json", cwd=tmp_path, LITEFLOW_DB=db)
        if done.returncode != 0:
            return {}
        return {one["task_id"]: (one["state"], one["try_number"]) for one in json.loads(done.stdout)["task_instances"]}

    process = script(BLOCKING).start(LITEFLOW_DB=here)
    try:
        wait_until(lambda: tasks(here).get("second") == ("running", 1), "the second task does not begin")
        assert command("db", "copy", here, there, cwd=tmp_path).returncode == 0
        assert tasks(there) == {"first": ("success", 1), "second": ("running", 1)}
        (run,) = json.loads(command("runs", "--json", cwd=tmp_path, LITEFLOW_DB=there).stdout)
        assert (run["state"], run["interrupted"]) == ("running", True)
        assert "was interrupted" in command("doctor", cwd=tmp_path, LITEFLOW_DB=there).stdout
        (tmp_path / "go").touch()
        done = liteflow("run", "my_dag.py", "--resume", "r", "-q", cwd=tmp_path, LITEFLOW_DB=there)
        assert (done.returncode, done.stdout) == (0, "etl/r success\n"), done.stderr
        assert tasks(there) == {"first": ("success", 1), "second": ("success", 2)}
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert tasks(here) == {"first": ("success", 1), "second": ("success", 1)}, (
        "the one at the source knows nothing of it"
    )
    for db in databases:
        assert command("xcom", "etl/r", "second", cwd=tmp_path, LITEFLOW_DB=db).stdout.endswith('"kept!"\n')
        assert command("db", "check", cwd=tmp_path, LITEFLOW_DB=db).returncode == 0
