"""`liteflow clear`, `mark`, `rerun`, `replay` and `backfill`: what they print, their JSON, and how they end."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from liteflow.storage.checking import check
from tests.conftest import Script, command, liteflow, run_python, wait_until

DAG = """
import os
import sys
from liteflow import Dag, get_current_context, task

class Odd:
    def __eq__(self, other):
        return True
    def __repr__(self):
        return "Odd\\x1b[31m"

@task
def numbers(n: int):
    return list(range(n))

@task(retries=1)
def half(n, ti):
    print("half of", n, "try", ti.try_number, ti.xcom_pull(task_ids="odd", key="note"))
    if n == 1 and not os.path.exists("flag"):
        bad = n
        raise ValueError(f"{bad} is odd")
    ti.xcom_push("seen", n)
    return n / 2

@task
def total(ns):
    return sum(ns)

@task
def odd(ti):
    ti.xcom_push("note", "noted")
    return Odd()

@task
def given(params, odd):
    return [params["n"], str(type(odd).__name__), os.path.exists("flag")]

with Dag("etl", db_path="etl.db", params={"n": 3}) as dag:
    one = odd()
    halves = half.expand(n=numbers(dag.param("n")))
    one >> halves
    total(halves)
    given(odd=one)
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a dag, and a database with a run `r1` of it that failed."""
    directory = tmp_path_factory.mktemp("ran")
    (directory / "etl.py").write_text(DAG)
    done = liteflow("run", "etl.py", "--run-id", "r1", "-q", cwd=directory)
    assert (done.returncode, done.stdout) == (1, "etl/r1 failed\n"), done.stderr
    return directory


@pytest.fixture
def project(ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ran, tmp_path / "project")
    monkeypatch.setenv("LITEFLOW_DB", "etl.db")
    return tmp_path / "project"


def rows(project: Path) -> list[str]:
    """Everything that the database holds."""
    with closing(sqlite3.connect(project / "etl.db")) as connection:
        return list(connection.iterdump())


# clear


def test_clear_shows_what_it_cleared_and_how_to_go_on(project: Path) -> None:
    before = rows(project)
    dry = command("clear", "r1", "--failed", "--dry-run", cwd=project)
    assert (dry.returncode, dry.stderr) == (0, "2 task instances of etl/r1 would be cleared\n")
    assert rows(project) == before
    done = command("clear", "r1", "--failed", cwd=project)
    assert done.stdout == dry.stdout
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["TASK", "WAS", "TRIES"],
        ["half[1]", "failed", "2"],
        ["total", "upstream_failed", "-"],
    ]
    last = "2 task instances of etl/r1 cleared. Go on with it: liteflow "
    assert done.stderr.startswith(last)
    (project / "flag").touch()
    again = liteflow(*done.stderr.removeprefix(last).split(), "-q", cwd=project, LITEFLOW_DB="etl.db")
    assert (again.returncode, again.stdout) == (0, "etl/r1 success\n"), again.stderr
    assert check(str(project / "etl.db")) == []
    nothing = command("clear", "r1", "--failed", cwd=project)
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert nothing.stderr == "etl/r1: nothing failed there: nothing to clear\n"


def test_clear_as_json(project: Path) -> None:
    done = command("clear", "r1", "half[0]", "total", "--json", cwd=project)
    assert json.loads(done.stdout) == {
        "dag_id": "etl",
        "run_id": "r1",
        "state": "queued",
        "dry_run": False,
        "cleared": [
            {"task_id": "half", "map_index": 0, "state": "success", "try_number": 1},
            {"task_id": "total", "map_index": -1, "state": "upstream_failed", "try_number": 0},
        ],
    }
    assert json.loads(command("clear", "r1", "total", "--json", cwd=project).stdout)["cleared"] == []


def test_a_task_with_many_instances_is_one_row_of_what_was_cleared(project: Path) -> None:
    (project / "flag").touch()
    done = liteflow("rerun", "etl.py", "--from", "r1", "--param", "n=12", "--run-id", "r2", "-q", cwd=project)
    assert done.returncode == 0, done.stderr
    done = command("clear", "r2", "numbers", "--downstream", cwd=project)
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [
        ["numbers", "success", "1"],
        ["half", "[12]", "12", "success", "1"],
        ["total", "success", "1"],
    ]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["clear", "r1", "totl"], "has no task 'totl' (did you mean 'total'?)"),
        (["clear", "r1", "half[7]"], "name one of its map indexes, 0 to 2"),
        (["clear", "elt", "total"], "no run or dag 'elt' (did you mean 'etl'?)"),
        (["clear", "r1"], "name a TASK, or say --failed"),
        (["clear", "r1", "--failed", "--downstream"], "are those of a TASK: name one"),
        (["mark", "r1", "totl", "success"], "has no task 'totl' (did you mean 'total'?)"),
        (["mark", "r1", "total", "done"], "'done' is not one of 'success', 'failed', 'skipped'"),
        (["rerun", "etl.py", "--from", "elt"], "no run or dag 'elt' (did you mean 'etl'?)"),
        (["rerun", "etl.py", "--from", "r1", "--only-failed", "--param", "n=2"], "do not go together"),
        (["replay", "etl.py", "r1", "totl"], "has no task 'totl' (did you mean 'total'?)"),
        (["replay", "etl.py", "r1", "half"], "'half' has 3 instances; name one of them: 'half[0]'"),
        (["replay", "etl.py", "elt", "total"], "no run or dag 'elt' (did you mean 'etl'?)"),
        (["backfill", "etl.py", "--from", "2026-01-02", "--to", "2026-01-01"], "is after 2026-01-01"),
        (["backfill", "etl.py", "--from", "monday", "--to", "2026-01-01"], "--from: 'monday' is no ISO 8601"),
        (["backfill", "etl.py", "--from", "2026-01-01", "--to", "2026-01-02", "--step", "1y"], "'1y' is no step"),
        (["backfill", "etl.py", "--from", "2026-01-01", "--to", "2026-01-02", "--step", "0d"], "'0d' is no step"),
        (
            ["backfill", "etl.py", "--from", "2026-01-01", "--to", "2027-01-01", "--step", "30m"],
            "17,521 runs, more",
        ),
        (["backfill", "etl.py", "--from", "9999-12-31", "--to", "9999-12-31T23:00-05:00"], "--from, --to"),
    ],
)
def test_what_cannot_be_meant_is_one_line(project: Path, args: list[str], text: str) -> None:
    before = rows(project)
    done = command(*args, cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr.splitlines()[-1]
    assert rows(project) == before


@pytest.mark.parametrize(
    "args",
    [["clear", "r1", "--failed"], ["mark", "r1", "a", "failed"], ["rerun", "etl.py", "--from", "r1"],
     ["replay", "etl.py", "r1", "total"]],
    ids=lambda args: args[0],
)  # fmt: skip
def test_without_a_database_and_in_an_empty_one(args: list[str], project: Path) -> None:
    call = liteflow if "etl.py" in args else command  # a process loads a dag file once
    (project / "etl.db").unlink()
    done = call(*args, cwd=project, LITEFLOW_DB="etl.db")
    assert (done.returncode, done.stdout) == (3, "")
    assert "etl.db" in done.stderr.splitlines()[-1]
    assert not (project / "etl.db").exists() or args[0] == "rerun"
    assert command("db", "upgrade", cwd=project).returncode == 0
    done = call(*args, cwd=project, LITEFLOW_DB="etl.db")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no run or dag 'r1'" in done.stderr


# mark


def test_mark_says_what_became_of_the_run_and_what_to_do_about_the_rest(project: Path, ran: Path) -> None:
    done = command("mark", "r1", "half[1]", "success", cwd=project)
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [["half[1]", "failed", "2"]]
    assert done.stderr.splitlines() == [
        "half[1] of etl/r1 is marked success; the run stays failed",
        "1 below it did not succeed. Have that run: liteflow clear etl/r1 'half[1]' --downstream --failed",
        f"then go on with it: liteflow run {ran}/etl.py:etl --resume etl/r1",
    ]
    shown = command("show", "r1", cwd=project).stdout
    assert "success (marked)" in shown
    done = command("mark", "r1", "total", "success", "--json", cwd=project)
    assert json.loads(done.stdout) == {
        "dag_id": "etl",
        "run_id": "r1",
        "state": "success",
        "marked": [{"task_id": "total", "map_index": -1, "state": "upstream_failed", "try_number": 0}],
        "as": "success",
        "unwell_below": 0,
    }
    assert command("mark", "r1", "total", "failed", cwd=project).stderr.endswith("the run is failed now\n")
    assert check(str(project / "etl.db")) == []


# rerun


def test_rerun_is_shown_with_where_it_comes_from(project: Path) -> None:
    (project / "flag").touch()
    done = liteflow("rerun", "etl.py", "--from", "latest", "--only-failed", "--run-id", "r2", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["run_id"], document["state"], document["rerun_of"]) == ("r2", "success", "r1")
    assert [run["rerun_of"] for run in json.loads(command("runs", "--json", cwd=project).stdout)] == ["r1", None]
    shown = command("show", "r2", cwd=project).stdout.splitlines()
    assert "rerun of r1" in shown
    found = {line.split()[0]: line.split()[1:4] for line in shown if "success" in line}
    assert found["numbers"][:2] == ["success", "(reused)"]
    assert found["half[1]"][:2] == ["success", "1"]
    again = liteflow("rerun", "etl.py", "--from", "r2", "--only-failed", cwd=project)
    assert (again.returncode, again.stdout) == (2, "")
    assert "nothing went wrong in it" in again.stderr.splitlines()[-1]
    assert check(str(project / "etl.db")) == []


# replay


def test_replay_runs_one_task_with_its_inputs_and_changes_nothing(project: Path) -> None:
    before = rows(project)
    done = liteflow("replay", "etl.py", "r1", "half[2]", cwd=project)
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        ["half of 2 try 1 noted", "pushed 'seen', which is not stored: 2", "returned 1.0"],
    ), done.stderr
    assert done.stderr.splitlines() == ["replaying half[2] of etl/r1, where it is success", "the same as is recorded"]
    done = liteflow("replay", "etl.py", "etl", "given", "--db", "etl.db", cwd=project)
    assert (done.returncode, done.stdout) == (0, "returned [3, 'Odd', False]\n"), done.stderr
    (project / "flag").touch()
    done = liteflow("replay", "etl.py", "r1", "given", cwd=project)
    assert done.stdout == "returned [3, 'Odd', True]\n"
    assert done.stderr.endswith("not what is recorded under 'return_value': [3,\"Odd\",false]\n")
    done = liteflow("replay", "etl.py", "r1", "half[1]", "--try", "1", cwd=project)
    assert "half of 1 try 1 noted" in done.stdout
    assert done.stderr.endswith("nothing is recorded to compare it with\n")
    done = liteflow("replay", "etl.py", "r1", "odd", cwd=project)
    assert "returned Odd\\x1b[31m" in done.stdout, "what would steer the terminal is spelled out"
    assert rows(project) == before


def test_replay_of_what_raises_shows_the_traceback_and_drops_into_the_debugger(project: Path) -> None:
    before = rows(project)
    done = liteflow("replay", "etl.py", "r1", "half[1]", cwd=project)
    assert (done.returncode, done.stdout) == (1, "half of 1 try 2 noted\n")
    assert 'raise ValueError(f"{bad} is odd")' in done.stderr
    assert done.stderr.endswith("failed: ValueError: 1 is odd\n")
    (project / "debugging.py").write_text(
        "import io, sys\n"
        "from liteflow.__main__ import main\n"
        "sys.stdin = io.StringIO('p bad + 41\\nq\\n')\n"
        "sys.argv = ['liteflow', 'replay', 'etl.py', 'r1', 'half[1]', '--pdb']\n"
        "main()\n"
    )
    debugged = run_python("debugging.py", cwd=project)
    assert debugged.returncode == 1
    assert "(Pdb) 42" in debugged.stdout
    assert rows(project) == before


def test_replay_says_when_the_dag_is_another_and_when_there_is_nothing_to_replay(project: Path) -> None:
    (project / "etl.py").write_text(DAG.replace("    given(odd=one)", "    given(odd=one) >> numbers(7)"))
    done = liteflow("replay", "etl.py", "r1", "half[0]", cwd=project)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        0,
        "the dag is not what the run began with: added numbers__1",
    )
    (project / "etl.py").write_text(DAG.replace('half.expand(n=numbers(dag.param("n")))', "half(n=2)"))
    done = liteflow("replay", "etl.py", "r1", "half[0]", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not what run 'r1' began with: 'half' was mapped and is not" in done.stderr


# backfill

NIGHTLY = """
import os
import time
from liteflow import Dag, task

@task
def night(ds):
    if ds == os.environ.get("BAD"):
        raise ValueError(ds)
    if ds == os.environ.get("SLOW"):
        open("begun", "w").close()
        time.sleep(60)
    return ds

with Dag("nightly", db_path="nights.db", params={"n": 1}) as dag:
    night()
"""
DATES = ("--from", "2026-01-01", "--to", "2026-01-03")


def found(done: object) -> dict[str, tuple[str, str]]:
    """By the day of the date: action and state."""
    return {
        one["logical_date"][8:10]: (one["action"], one["state"])
        for one in json.loads(done.stdout)["runs"]  # type: ignore[attr-defined]
    }


def test_backfill_runs_each_date_once_and_goes_on_where_it_was(script: Callable[..., Script], tmp_path: Path) -> None:
    script(NIGHTLY, "nightly.py")
    dry = liteflow("backfill", "nightly.py", *DATES, "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    first = dry.stdout.splitlines()[1]
    assert first.split() == ["backfill__2026-01-01T00:00:00+00:00", "-", "to", "run"]
    assert not (tmp_path / "nights.db").exists()
    done = liteflow("backfill", "nightly.py", *DATES, "--max-active", "2", "--json", cwd=tmp_path, BAD="2026-01-02")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"dag_id", "dry_run", "runs"}
    assert document["runs"][1] == {
        "run_id": "backfill__2026-01-02T00:00:00+00:00",
        "logical_date": "2026-01-02T00:00:00+00:00",
        "action": "run",
        "state": "failed",
        "error": None,
    }
    assert "[3/3] backfill__2026-01-03T00:00:00+00:00 success" in done.stderr
    again = liteflow("backfill", "nightly.py", *DATES, "--json", cwd=tmp_path)
    assert (again.returncode, found(again)) == (
        1,
        {"01": ("skip", "success"), "02": ("skip", "failed"), "03": ("skip", "success")},
    )
    last = liteflow("backfill", "nightly.py", *DATES, "--rerun-failed", cwd=tmp_path)
    assert [line.split()[1:] for line in last.stdout.splitlines()[1:]] == [
        ["success", "was", "over"],
        ["success", "went", "on"],
        ["success", "was", "over"],
    ]
    assert last.returncode == 0
    runs = json.loads(command("runs", "--db", "nights.db", "--json", cwd=tmp_path).stdout)
    assert len(runs) == 3
    assert runs[0]["logical_date"] == "2026-01-03T00:00:00+00:00"


def test_a_date_that_cannot_be_run_does_not_keep_the_others_from_it(
    script: Callable[..., Script], tmp_path: Path
) -> None:
    script(NIGHTLY, "nightly.py")
    done = liteflow("backfill", "nightly.py", *DATES, "-q", cwd=tmp_path, BAD="2026-01-02")
    assert done.returncode == 1
    script(NIGHTLY.replace("    night()", "    night() >> night()"), "nightly.py")
    done = liteflow("backfill", "nightly.py", "--from", "2026-01-02", "--to", "2026-01-04", "--rerun-failed", "--json",
                    cwd=tmp_path)  # fmt: skip
    assert (done.returncode, found(done)) == (
        1,
        {"02": ("refused", "failed"), "03": ("skip", "success"), "04": ("run", "success")},
    )
    assert (
        "is not what run 'backfill__2026-01-02T00:00:00+00:00' began with"
        in json.loads(done.stdout)["runs"][0]["error"]
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_backfill_that_is_stopped_goes_on_with_the_same_command(
    number: int, code: int, script: Callable[..., Script], tmp_path: Path
) -> None:
    script(NIGHTLY, "nightly.py")
    starter = script("from liteflow.__main__ import main; main()", "starter.py")
    process = starter.start("backfill", "nightly.py", *DATES, SLOW="2026-01-02")
    wait_until((tmp_path / "begun").exists, "the second night runs")
    process.send_signal(number)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert "the same command again goes on where it was" in errors
    if number == signal.SIGINT:
        dry = liteflow("backfill", "nightly.py", *DATES, "--dry-run", cwd=tmp_path)
        assert dry.stdout.splitlines()[2].split()[1:] == ["interrupted", "to", "go", "on", "with"], "as runs has it"
    done = liteflow("backfill", "nightly.py", *DATES, "--json", cwd=tmp_path)
    assert (done.returncode, found(done)) == (
        0,
        {"01": ("skip", "success"), "02": ("resume", "success"), "03": ("run", "success")},
    )
    assert check(str(tmp_path / "nights.db")) == []


@pytest.mark.parametrize("name", ["clear", "mark", "rerun", "replay", "backfill"])
def test_the_help_has_an_example(name: str, tmp_path: Path) -> None:
    done = command(name, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"  liteflow {name} " in done.stdout.partition("Examples:")[2]
