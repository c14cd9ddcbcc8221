"""What every command says of a history in PostgreSQL is what it says of the same history in a file."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from liteflow.storage import completion
from liteflow.storage.copying import copy_history
from tests.conftest import command, liteflow
from tests.integration.test_every_command import (  # noqa: F401 - a fixture
    CALLS,
    ETL,
    JSON_LINES,
    TAKES_A_RUN,
    has_json,
    made,
)
from tests.postgres import Server

ANOTHER_ANSWER = {"db backup", "db stats", "db vacuum", "prune"}
"""What has another answer where there is no file."""

RUNS = {"rerun", "replay"}
"""Take processes and seconds, and have one test for all."""

NAMES_THE_DATABASE = {"db current"}
"""Documents with the path in them."""


class Histories:
    """The same history twice: in a file of a directory, and in PostgreSQL."""

    def __init__(self, directory: Path, url: str, password: str) -> None:
        self.directory = directory
        self.url = url
        self.password = password
        self.told = url.replace(password, "***")

    def call(self, line: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Call a command, in a process of its own where it loads a file; it never prints the password."""
        words = shlex.split(line)
        if "etl.py" in line:
            (self.directory / "etl.py").write_text(ETL)
            done = liteflow(*words, cwd=self.directory, **env)
        else:
            done = command(*words, cwd=self.directory, **env)
        assert self.password not in done.stdout + done.stderr
        return done

    def on_server(self, line: str) -> subprocess.CompletedProcess[str]:
        """The same, of the one in PostgreSQL."""
        return self.call(line, LITEFLOW_DB=self.url)


@pytest.fixture
def both(made: Path, postgres: Server, postgres_db: str, tmp_path: Path) -> Histories:  # noqa: F811
    """A run of `etl` and a pool."""
    shutil.copy(made, tmp_path / "liteflow.db")
    copy_history(made, postgres_db)
    return Histories(tmp_path, postgres_db, postgres.password)


def untimed(text: str) -> str:
    """Without what is another one each time: new run ids, times, durations."""
    text = re.sub(r"\d{4}-?\d\d-?\d\d[T ][\d:.]+(\+00:00|Z)?(-[0-9a-f]+|__\w+)?", "TIME", text)
    return re.sub(r"\b\d+(\.\d+)? ?m?s\b", "SECONDS", text)


@pytest.mark.parametrize("name", sorted(set(CALLS) - ANOTHER_ANSWER - RUNS))
def test_a_command_says_the_same_and_ends_the_same(name: str, both: Histories) -> None:
    here, there = both.call(CALLS[name]), both.on_server(CALLS[name])
    assert (there.returncode, untimed(there.stdout)) == (here.returncode, untimed(here.stdout)), there.stderr
    assert untimed(there.stderr.replace(both.told, f"{both.directory}/liteflow.db")) == untimed(here.stderr)


@pytest.mark.parametrize("name", sorted(name for name in set(CALLS) - ANOTHER_ANSWER - RUNS if has_json(name)))
def test_json_is_the_same(name: str, both: Histories) -> None:
    here, there = both.call(f"{CALLS[name]} --json"), both.on_server(f"{CALLS[name]} --json")
    for one, other in zip(here.stdout.splitlines(), there.stdout.splitlines(), strict=True):
        if name in JSON_LINES:
            json.loads(other)
        if not (name in NAMES_THE_DATABASE and '"path"' in one):
            assert untimed(other) == untimed(one)


@pytest.mark.parametrize("name", sorted(set(TAKES_A_RUN) - RUNS))
def test_an_id_that_is_not_there_is_answered_with_the_nearest(name: str, both: Histories) -> None:
    line = re.sub(r" etl(?= |$)", " etll", CALLS[name], count=1)
    done = both.on_server(line)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'etl'" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("name", sorted(set(CALLS) - RUNS - {"db backup"}))
def test_a_server_that_is_not_there_is_one_line(name: str, tmp_path: Path) -> None:
    url = "postgresql+psycopg://someone:secret@127.0.0.1:1/etl"
    done = command(*CALLS[name].split(), cwd=tmp_path, LITEFLOW_DB=url)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1), done.stderr
    assert "someone:***@127.0.0.1:1/etl" in done.stderr


def test_what_has_another_answer_where_there_is_no_file(both: Histories) -> None:
    done = both.on_server("db backup")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pg_dump" in done.stderr
    assert f"liteflow db copy '{both.told}' FILE" in done.stderr
    done = both.on_server("db vacuum")
    assert (done.returncode, done.stdout) == (3, "")
    assert "autovacuum" in done.stderr
    done = both.on_server("db stats")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, both.told)
    assert "liteflow_task_instance" in done.stdout
    document = json.loads(both.on_server("db stats --json").stdout)
    assert (document["path"], document["auto_vacuum"]) == (both.told, "server")
    done = both.on_server("prune --keep-runs 0 --yes")
    assert (done.returncode, done.stderr) == (0, "deleted 1 run\n")
    assert both.on_server("runs --json").stdout == "[]\n"


def test_a_run_and_what_follows_it(both: Histories) -> None:
    assert both.on_server("run etl.py -q --run-id r2").returncode == 0
    assert json.loads(both.on_server("show etl/r2 --json").stdout)["state"] == "success"
    assert both.on_server("logs etl/r2 -f").returncode == 0
    assert both.on_server("run etl.py -q --run-id r2").stdout == "etl/r2 success\n"  # it is there already
    assert both.on_server("rerun etl.py --from etl/r2 -q").returncode == 0
    assert both.on_server("replay etl.py etl/r2 load").stdout == both.call("replay etl.py etl load").stdout
    dates = "--from 2026-01-01 --to 2026-01-02"
    assert both.on_server(f"backfill etl.py {dates} -q").returncode == 0
    assert both.on_server("plan etl.py --resume r2").returncode in (0, 2)
    assert len(json.loads(both.on_server("runs --json").stdout)) == 5
    assert both.on_server("db check").returncode == 0
    assert len(json.loads(both.call("runs --json").stdout)) == 1


def test_the_database_on_the_command_line_goes_into_hints_without_its_password(both: Histories) -> None:
    for line in ("clear etl load", "pools delete gpuu"):
        by_option = both.call(f"{line} --db {both.url}")
        assert f"--db '{both.told}'" in by_option.stdout + by_option.stderr
        by_environment = both.on_server(line)
        assert "--db" not in by_environment.stdout + by_environment.stderr


def test_schema_commands(postgres: Server, tmp_path: Path) -> None:
    with postgres.database(empty=True) as url:
        here = Histories(tmp_path, url, postgres.password)
        assert here.on_server("runs").returncode == 3
        assert "liteflow db upgrade" in here.on_server("runs").stderr
        assert here.on_server("db current").stdout.startswith("base, needed:")
        assert here.on_server("db upgrade 0003").stderr == "empty -> 0003\n"
        assert "0003" in here.on_server("runs").stderr
        assert here.on_server("db upgrade").returncode == 0
        assert here.on_server("db current").stdout.endswith("(head)\n")
        assert here.on_server("db check").stderr == "ok\n"
        assert here.on_server("db downgrade base --yes").returncode == 0
        assert here.on_server("db current").stdout.startswith("base, needed:")


def test_doctor(both: Histories) -> None:
    done = both.on_server("doctor --json")
    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    assert document["path"] == both.told
    whats = [one["what"] for one in document["findings"]]
    assert whats == [
        *("versions", "machine", "server", "schema", "server", "server"),
        *("write lock", "lock files", "owners", "runs", "pools"),
    ]
    assert "is off" in document["findings"][5]["text"]  # as the server of the tests is
    lost = both.call("doctor", LITEFLOW_DB=both.url.replace(both.password, "wrong"))
    assert (lost.returncode, lost.stderr) == (3, "")
    assert "problem  server" in lost.stdout


def test_completion_offers_what_is_in_the_server(both: Histories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITEFLOW_DB", both.url)
    assert completion.dag_ids(None, "e") == ["etl"]
    assert completion.runs(both.url, "etl/") == ["etl/r1"]
    assert completion.runs(None, "r", "etl") == ["r1"]
    assert completion.task_ids(None, "etl", "l") == ["load"]
    assert completion.pool_names(None, "") == ["gpu"]
    assert completion.dag_ids("postgresql+psycopg://someone@127.0.0.1:1/etl", "") == []
