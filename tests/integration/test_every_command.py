"""What holds for every command: help with an example, a database that is missing or empty, ids that are not there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from liteflow import Dag, task
from liteflow.cli import cli
from tests.conftest import ROOT, command, liteflow

# How each command is called on a database that holds a run of `etl`; what has no database to look at is in NO_DATABASE.
CALLS = {
    "cancel": "cancel etl",
    "clear": "clear etl load",
    "dags": "dags",
    "db backup": "db backup copy.db",
    "db check": "db check",
    "db current": "db current",
    "db stats": "db stats",
    "db vacuum": "db vacuum",
    "delete": "delete etl --yes",
    "logs": "logs etl",
    "mark": "mark etl load failed",
    "pools delete": "pools delete gpu",
    "pools list": "pools list",
    "prune": "prune --yes",
    "replay": "replay etl.py etl load",
    "rerun": "rerun etl.py --from etl -q",
    "runs": "runs",
    "show": "show etl",
    "visualize": "visualize etl",
    "watch": "watch etl",
    "why": "why etl",
    "xcom": "xcom etl load",
}
MAKES_A_DATABASE = {"backfill", "db copy", "db upgrade", "pools set", "run"}
NO_DATABASE = {"check", "completion", "db downgrade", "db history", "doctor", "plan", "scaffold"}
"""`db downgrade` asks for a revision that it cannot know, and has tests of its own."""

JSON_LINES = {"watch"}
"""Print an object on each line instead of one document."""

TAKES_A_RUN = sorted(name for name, call in CALLS.items() if " etl" in call)
ONE_OF_A_DAG = {"prune": "prune --dag etll", "runs": "runs etll", "pools delete": "pools delete gpuu"}
"""Others that take an id, with one that is nearly there."""


def leaves(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its name as it is typed."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from leaves(found, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", found


COMMANDS = dict(leaves(cli))


def has_json(name: str) -> bool:
    return any("--json" in parameter.opts for parameter in COMMANDS[name].params)


@task
def extract() -> list[int]:
    print("three rows")
    return [1, 2, 3]


@task
def load(rows: list[int]) -> int:
    return sum(rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a run of `etl` and a pool."""
    path = tmp_path_factory.mktemp("made") / "liteflow.db"
    with Dag("etl", db_path=str(path)) as dag:
        load(extract())
    assert dag.run(run_id="r1", progress=False).state == "success"
    assert command("pools", "set", "gpu", "1", cwd=path.parent).returncode == 0
    return path


@pytest.fixture
def full(made: Path, tmp_path: Path) -> Path:
    """A directory with a copy of it."""
    shutil.copy(made, tmp_path / "liteflow.db")
    return tmp_path


ETL = """
from liteflow import Dag, task

@task
def extract() -> list[int]:
    return [1, 2, 3]

@task
def load(rows: list[int]) -> int:
    return sum(rows)

with Dag("etl") as dag:
    load(extract())
"""


def call(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Call it in this process, or, where it loads a file, in one of its own."""
    if "etl.py" not in line:
        return command(*shlex.split(line), cwd=cwd)
    (cwd / "etl.py").write_text(ETL)
    try:
        return liteflow(*shlex.split(line), cwd=cwd)
    finally:
        (cwd / "etl.py").unlink()
        shutil.rmtree(cwd / "__pycache__", ignore_errors=True)


def test_every_command_is_in_these_tables() -> None:
    assert set(COMMANDS) == set(CALLS) | MAKES_A_DATABASE | NO_DATABASE


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_says_what_it_does_and_has_an_example(name: str, tmp_path: Path) -> None:
    done = command(*name.split(), "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    examples = done.stdout.partition("Examples:")[2].split("\n")
    assert any(line.strip().startswith(f"liteflow {name}") for line in examples), done.stdout
    assert COMMANDS[name].help
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_database_that_is_missing_is_named_and_not_made(name: str, tmp_path: Path) -> None:
    done = call(CALLS[name], tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "liteflow.db" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TAKES_A_RUN)
def test_an_empty_database_has_no_such_run(name: str, tmp_path: Path) -> None:
    assert call("db upgrade", tmp_path).returncode == 0
    done = call(CALLS[name], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "etl" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("name", sorted(set(CALLS) - set(TAKES_A_RUN) - {"pools delete"}))
def test_an_empty_database_is_no_error_for_a_listing(name: str, tmp_path: Path) -> None:
    assert call("db upgrade", tmp_path).returncode == 0
    done = call(CALLS[name], tmp_path)
    assert done.returncode == 0, done.stderr
    if has_json(name):
        json.loads(call(f"{CALLS[name]} --json", tmp_path).stdout)


@pytest.mark.parametrize("name", [*TAKES_A_RUN, *ONE_OF_A_DAG])
def test_an_id_that_is_not_there_is_answered_with_the_nearest(name: str, full: Path) -> None:
    line = ONE_OF_A_DAG.get(name) or re.sub(r" etl(?= |$)", " etll", CALLS[name], count=1)
    done = call(line, full)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r"did you mean '(etl|gpu)'", done.stderr), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("name", sorted(name for name in CALLS if has_json(name)))
def test_json_is_one_document(name: str, full: Path) -> None:
    done = call(f"{CALLS[name]} --json", full)
    assert done.returncode == 0, done.stderr
    for document in done.stdout.splitlines() if name in JSON_LINES else [done.stdout]:
        json.loads(document)


def documented() -> dict[str, list[str]]:
    """What the README's table says of JSON: by command, or part of its document, the names of the fields."""
    page = (ROOT / "README.md").read_text("utf-8").partition("### JSON")[2].partition("\n## ")[0]
    found = {}
    for row in re.findall(r"^\| (`.*?) \| (.*) \|$", page, re.MULTILINE):
        for name in re.sub("[`]", "", row[0]).split(", "):
            found[name] = re.findall(r"`(\w+)`", row[1])
    return found


FIELDS = documented()


def first(document: object) -> dict[str, object]:
    """The document, or the first of those in the list."""
    found = document[0] if isinstance(document, list) else document
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", sorted(name for name in CALLS if has_json(name) and name not in JSON_LINES))
def test_json_has_the_fields_that_the_readme_says(name: str, full: Path) -> None:
    document = first(json.loads(call(f"{CALLS[name]} --json", full).stdout))
    if name == "show":
        assert list(document) == [*FIELDS["runs"], "task_instances", "tries"]
        assert list(first(document["task_instances"])) == FIELDS["show: task_instances"]
    else:
        assert list(document) == FIELDS[name]


def test_json_of_tries_reasons_dates_and_plans_has_the_fields_that_the_readme_says(tmp_path: Path) -> None:
    (tmp_path / "fail.py").write_text(
        ETL.replace("@task", "@task(retries=1)").replace("return sum(rows)", "raise ValueError")
    )
    assert liteflow("run", "fail.py", "-q", cwd=tmp_path).returncode == 1
    assert list(first(json.loads(call("show etl --json", tmp_path).stdout)["tries"])) == FIELDS["show: tries"]
    assert list(first(json.loads(call("why etl --json", tmp_path).stdout)["reasons"])) == FIELDS["why: reasons"]
    dates = json.loads(
        liteflow(
            "backfill", "fail.py", "--from", "2026-01-01", "--to", "2026-01-02", "--dry-run", "--json", cwd=tmp_path
        ).stdout
    )
    assert list(dates) == FIELDS["backfill"]
    assert list(first(dates["runs"])) == FIELDS["backfill: runs"]
    assert list(json.loads(liteflow("plan", "fail.py", "--json", cwd=tmp_path).stdout)) == FIELDS["plan"]
    assert list(json.loads(call("doctor --json", tmp_path).stdout)) == FIELDS["doctor"]
    assert list(first(json.loads(call("db history --json", tmp_path).stdout))) == FIELDS["db history"]
    lines = [json.loads(line) for line in call("watch etl --json", tmp_path).stdout.splitlines()]
    assert (lines[0]["kind"], list(lines[0])) == ("task", FIELDS["watch: tasks"])
    assert (lines[-1]["kind"], list(lines[-1])) == ("run", ["kind", *FIELDS["runs"]])


def test_the_readme_has_every_command() -> None:
    page = (ROOT / "README.md").read_text("utf-8")
    table = page.partition("### Commands")[2].partition("\n- ")[0]
    for name in COMMANDS:
        words = name.split()
        assert all(word in table for word in words), f"{name} is not in the table of commands"
