"""`--executor` of the commands that run dags, and tasks that name an executor, on the command line."""

from __future__ import annotations

import json
import shlex
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from liteflow.execution.foreign import ForeignEngine
from tests.conftest import command, liteflow

FLOW = """
import os
import threading
from liteflow import Dag, task

HOST = os.getpid()

@task(timeout=30)
def where() -> bool:
    print("printed")
    return os.getpid() == HOST and threading.current_thread().name.startswith("liteflow-task")

with Dag("flow", db_path="flow.db") as dag:
    where() >> where.override(task_id="other", executor="processes", timeout=None)()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flow.py").write_text(FLOW)
    return tmp_path


def value(task_id: str, project: Path, run_id: str) -> str:
    return command("xcom", f"flow/{run_id}", task_id, "--db", "flow.db", cwd=project).stdout


def test_run_takes_the_name_of_an_executor(project: Path) -> None:
    done = liteflow("run", "flow.py", "--executor", "threads", "--run-id", "r", cwd=project)
    assert (done.returncode, done.stdout) == (0, "flow/r success\n")
    assert done.stderr.count("executor=threads: a timeout or cancel ends the try, its thread goes on\n") == 1
    assert "true" in value("where", project, "r").lower()
    assert "false" in value("other", project, "r").lower()
    again = liteflow("rerun", "flow.py", "--from", "r", "--executor", "threads", "--run-id", "s", "-q", cwd=project)
    assert (again.returncode, again.stdout, again.stderr) == (0, "flow/s success\n", "")
    assert "true" in value("where", project, "s").lower()


def test_backfill_takes_it_too_and_processes_are_the_slots(project: Path) -> None:
    dates = ("--from", "2026-01-01", "--to", "2026-01-02")
    done = liteflow("backfill", "flow.py", *dates, "--executor", "threads", "--max-active", "2", cwd=project)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("executor=threads: a timeout or cancel") == 1
    assert "true" in value("where", project, "backfill__2026-01-02T00:00:00+00:00").lower()
    slots = liteflow("run", "flow.py", "--executor", "processes", "--run-id", "p", cwd=project)
    assert slots.returncode == 0
    assert "executor=" not in slots.stderr
    assert "false" in value("where", project, "p").lower()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("treads", "there is none of that name (did you mean 'threads'?)"),
        ("dask://", "lacks the address of the scheduler: dask://HOST:PORT"),
    ],
)
def test_a_name_that_there_is_not_is_one_line(project: Path, name: str, words: str) -> None:
    done = command("run", "flow.py", "--executor", name, cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: executor={name!r}: {words}\n" or done.stderr == f"Error: executor={name!r} {words}\n"
    assert not (project / "flow.db").exists()


def test_a_run_whose_executor_breaks_ends_with_4_and_can_be_resumed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> ForeignEngine:
        pool = ProcessPoolExecutor(1)
        pool.shutdown()
        return ForeignEngine(pool, 1)

    with monkeypatch.context() as patched:
        patched.setattr("liteflow.execution.service.engine_of", broken)
        done = command("run", "flow.py", "--run-id", "r", "-q", cwd=project)
    assert done.returncode == 4
    assert done.stderr.startswith("Error: run 'r' of dag 'flow' is not finished: its executor is broken (RuntimeError:")
    assert done.stderr.count("\n") == 1
    assert liteflow("run", "flow.py", "--resume", "r", "-q", cwd=project).stdout == "flow/r success\n"


def test_a_plan_says_what_runs_a_task(project: Path) -> None:
    done = liteflow("plan", "flow.py", cwd=project)
    assert "in processes" in next(line for line in done.stdout.splitlines() if " other " in line)
    tasks = json.loads(liteflow("plan", "flow.py", "--json", cwd=project).stdout)["tasks"]
    assert {one["task_id"]: one["executor"] for one in tasks} == {"where": None, "other": "processes"}


def test_the_names_are_completed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import ShellComplete

    from liteflow.cli import cli

    for name in ("run", "rerun", "backfill"):
        args = shlex.split(f"{name} flow.py --executor")
        asked = ShellComplete(cli, {}, "liteflow", "_LITEFLOW_COMPLETE")
        assert [one.value for one in asked.get_completions(args, "")] == ["processes", "threads", "dask://"]
        assert [one.value for one in asked.get_completions(args, "t")] == ["threads"]
