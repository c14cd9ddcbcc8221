"""`liteflow pools`: what it prints, and what it says when that is not possible."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from liteflow.execution.liveness import OwnLock
from liteflow.execution.processes import start_time_of
from liteflow.storage import recording, tables
from liteflow.storage.recording import DagFacts, TaskFacts
from liteflow.storage.schema import open_database
from tests.conftest import command as liteflow


def test_pools_are_set_listed_and_deleted(tmp_path: Path) -> None:
    made = liteflow("pools", "set", "warehouse", "2", "--description", "Connections", cwd=tmp_path)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "pool warehouse has 2 slots\n")
    assert (tmp_path / "liteflow.db").exists(), "the database is created"
    assert liteflow("pools", "set", "api", "1", cwd=tmp_path).stderr == "pool api has 1 slot\n"
    assert liteflow("pools", "set", "warehouse", "3", cwd=tmp_path).returncode == 0
    assert liteflow("pools", "list", cwd=tmp_path).stdout.splitlines() == [
        "POOL       SLOTS  IN USE  DESCRIPTION",
        "api        1      0",
        "warehouse  3      0       Connections",
    ]
    assert json.loads(liteflow("pools", "list", "--json", cwd=tmp_path).stdout) == [
        {"name": "api", "slots": 1, "description": None, "slots_in_use": 0},
        {"name": "warehouse", "slots": 3, "description": "Connections", "slots_in_use": 0},
    ]
    deleted = liteflow("pools", "delete", "api", cwd=tmp_path)
    assert (deleted.returncode, deleted.stdout, deleted.stderr) == (0, "", "deleted pool api\n")
    again = liteflow("pools", "delete", "warehous", cwd=tmp_path)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "no pool 'warehous' (did you mean 'warehouse'?)" in again.stderr


def test_without_pools_it_says_how_to_make_one(db: str, tmp_path: Path) -> None:
    open_database(db, create=True).close()
    empty = liteflow("pools", "list", "--db", db, cwd=tmp_path)
    assert (empty.returncode, empty.stdout) == (0, "")
    where = "test.db" if db.endswith("test.db") else db
    assert f"liteflow pools set NAME SLOTS --db {where}" in empty.stderr
    assert liteflow("pools", "list", "--db", db, "--json", cwd=tmp_path).stdout == "[]\n"


@pytest.mark.parametrize("command", [("list",), ("delete", "api")])
def test_only_set_creates_a_database(command: tuple[str, ...], tmp_path: Path) -> None:
    missing = liteflow("pools", *command, cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (3, "")
    assert "no such database" in missing.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no spaces", "1"), "'no spaces' is no pool: use 1 to 250 ASCII letters, digits, '_', '.' and '-'"),
        (("", "1"), "'' is no pool"),
        (("api", "-1"), "-1"),
        (("api", "many"), "'many' is not a valid integer"),
        (("api", "99999999999"), "99999999999 is not in the range"),
    ],
)
def test_a_wrong_name_or_number_is_refused_before_anything_is_created(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    refused = liteflow("pools", "set", *arguments, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert said in refused.stderr
    assert ".py:" not in refused.stderr
    assert os.listdir(tmp_path) == []


def test_slots_of_dead_owners_are_not_in_use(db: str, tmp_path: Path) -> None:
    database = open_database(db, create=True, pooled=False)
    liteflow("pools", "set", "api", "8", "--db", db, cwd=tmp_path)
    with database.write() as session:
        dag_pk = recording.record_dag(session, DagFacts("dag", None, (), "{}", None, "x"), 1)
        for token, slots in (("living", 1), ("dead", 4)):
            owner = recording.record_executor(session, token, socket.gethostname(), start_time_of(os.getpid()), 1)
            _, pks = recording.create_run(
                session,
                dag_pk,
                run_id=token,
                logical_date=tables.from_microseconds(1),
                params_json="{}",
                structure_digest="x",
                tasks=[TaskFacts("t", [], "all_success", pool="api", pool_slots=slots)],
                executor_pk=owner,
                now_us=1,
            )
            recording.claim(session, [(pks[0], 1)], owner)
    lock = OwnLock(database.path, "living")
    try:
        (pool,) = json.loads(liteflow("pools", "list", "--json", "--db", db, cwd=tmp_path).stdout)
        assert pool["slots_in_use"] == 1
    finally:
        lock.release()
    (pool,) = json.loads(liteflow("pools", "list", "--json", "--db", db, cwd=tmp_path).stdout)
    assert pool["slots_in_use"] == 0


@pytest.mark.parametrize("command", ["list", "set", "delete"])
def test_each_command_has_help_with_an_example(command: str) -> None:
    from click.testing import CliRunner

    from liteflow.cli import cli

    shown = CliRunner().invoke(cli, ["pools", command, "--help"])
    assert (shown.exit_code, f"Examples:\n    liteflow pools {command}" in shown.output) == (0, True), shown.output
