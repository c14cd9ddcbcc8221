"""`liteflow runs` and `liteflow dags`: which runs, in which words, and by which indexes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from liteflow.cli import common, listing
from liteflow.execution.liveness import OwnLock
from liteflow.states import RunState
from liteflow.storage import recording
from liteflow.storage.history import open_history
from liteflow.storage.schema import open_database
from tests.conftest import beside, command
from tests.pasts import dead_executor, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of `etl` and `other`, some hours to some weeks old, and two that are not over."""
    path = tmp_path_factory.mktemp("listing") / "past.db"
    database = open_database(str(path), create=True)
    gone = dead_executor(database)
    for number, (days, took_s) in enumerate([(30, 10), (20, 20), (8, 40), (3, 30), (1, 80)]):
        state = RunState.FAILED if number == 3 else RunState.SUCCESS
        make_run(database, gone, f"r{number}", days_ago=days, took_s=took_s, state=state)
    make_run(database, gone, "o0", dag_id="other", days_ago=2)
    make_run(database, gone, "lost", days_ago=0.1, state=RunState.RUNNING)
    with database.write() as connection:
        living = recording.record_executor(connection, "lives", "localhost", None, 1)
    make_run(database, living, "going", dag_id="other", days_ago=0.05, state=RunState.RUNNING)
    database.close()
    return path


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Iterator[Path]:
    """Where the database is, with an owner that lives."""
    shutil.copy(made, tmp_path / "liteflow.db")
    lock = OwnLock(str(tmp_path / "liteflow.db"), "lives")
    yield tmp_path
    lock.release()


def listed(here: Path, *args: str) -> list[str]:
    done = command("runs", "--json", *args, cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    return [run["run_id"] for run in json.loads(done.stdout)]


@pytest.mark.parametrize(
    ("args", "runs"),
    [
        ([], ["going", "lost", "r4", "o0", "r3", "r2", "r1", "r0"]),
        (["etl"], ["lost", "r4", "r3", "r2", "r1", "r0"]),
        (["--dag", "etl", "--limit", "2"], ["lost", "r4"]),
        (["etl", "--dag", "etl", "--limit", "1"], ["lost"]),
        (["--state", "failed"], ["r3"]),
        (["--state", "running"], ["going"]),
        (["--state", "interrupted"], ["lost"]),
        (["--state", "interrupted", "--state", "failed"], ["lost", "r3"]),
        (["--state", "success", "--limit", "2"], ["r4", "o0"]),
        (["--state", "queued"], []),
        (["--state", "success", "--state", "running", "--dag", "other"], ["going", "o0"]),
        (["--since", "7d", "--dag", "etl"], ["lost", "r4", "r3"]),
        (["--since", "30d", "--until", "7d"], ["r2", "r1"]),
        (["--until", "2w"], ["r1", "r0"]),
        (["--since", "1h"], []),
    ],
)
def test_which_runs(here: Path, args: list[str], runs: list[str]) -> None:
    assert listed(here, *args) == runs


def test_dates_are_local(here: Path) -> None:
    day = (datetime.now().astimezone() - timedelta(days=10)).date()
    assert listed(here, "--until", day.isoformat()) == ["r1", "r0"]
    moment = datetime.now(UTC) - timedelta(days=2.5)
    assert listed(here, "--since", moment.isoformat(), "--state", "success") == ["r4", "o0"]


def test_runs_are_read_a_page_at_a_time(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    assert listed(here, "--state", "success", "--state", "running") == ["going", "r4", "o0", "r2", "r1", "r0"]
    assert listed(here, "--state", "success", "--state", "running", "--limit", "3") == ["going", "r4", "o0"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["etl", "--dag", "other"], "two dags are named, etl and other; name one"),
        (["--dag", "elt"], "did you mean 'etl'?"),
        (["--state", "done"], "'done' is not one of"),
        (["--since", "yesterday"], "'yesterday' is no time; write it as 7d"),
        (["--since", "1d", "--until", "2d"], "nothing was created between"),
        (["--limit", "0"], "not in the range"),
    ],
)
def test_wrong_words(here: Path, args: list[str], said: str) -> None:
    done = command("runs", *args, cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def on_terminal(monkeypatch: pytest.MonkeyPatch, *, colours: bool = True) -> None:
    for module in (common, listing):
        monkeypatch.setattr(module, "is_terminal", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colours:
        monkeypatch.setenv("NO_COLOR", "1")


def test_times_are_relative_on_a_terminal_and_the_clocks_elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(r"etl +r4 +success +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +1:20 min\n", command("runs", cwd=here).stdout)
    on_terminal(monkeypatch, colours=False)
    assert re.search(r"r4 .*24 h ago", command("runs", cwd=here).stdout)
    assert re.search(r"other .*1 h ago", command("dags", cwd=here).stdout)
    for args in (["runs", "--absolute"], ["dags", "--absolute"]):
        shown = command(*args, cwd=here).stdout
        assert " ago" not in shown
        assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", shown)


def test_bars_of_the_last_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = command("dags", cwd=here).stdout.splitlines()
    assert plain[0].split() == ["DAG", "RUNS", "LATEST", "AT", "LAST", "RUNS", "MEDIAN", "DESCRIPTION"]
    assert re.fullmatch(r"etl +6 +interrupted +\S+ \S+ +▂▃▅x█ +30\.0 s", plain[1])
    assert re.fullmatch(r"other +2 +running +\S+ \S+ +█ +10\.0 s", plain[2])
    monkeypatch.setattr(listing, "can_show_bars", lambda: False)
    assert " .-=x# " in command("dags", cwd=here).stdout
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "120")
    on_terminal(monkeypatch)
    coloured = command("dags", cwd=here).stdout
    assert "\x1b[31m▄\x1b[0m" in coloured, "the failed one is red"
    assert "\x1b[32m█\x1b[0m" in coloured
    on_terminal(monkeypatch, colours=False)
    assert "▂▃▅x█" in command("dags", cwd=here).stdout


def test_an_output_without_the_characters_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from liteflow.cli.words import can_show_bars

    class Ascii:
        encoding = "ascii"

    assert can_show_bars() == ((sys.stdout.encoding or "ascii").lower().replace("-", "").startswith("utf"))
    monkeypatch.setattr(sys, "stdout", Ascii())
    assert not can_show_bars()


def test_dags_as_json(here: Path) -> None:
    etl, other = json.loads(command("dags", "--json", cwd=here).stdout)
    assert etl["last_runs"] == [
        {"state": "success", "duration_s": 10.0},
        {"state": "success", "duration_s": 20.0},
        {"state": "success", "duration_s": 40.0},
        {"state": "failed", "duration_s": 30.0},
        {"state": "success", "duration_s": 80.0},
    ]
    assert (etl["median_duration_s"], etl["runs"], etl["latest_run"]["run_id"]) == (30.0, 6, "lost")
    assert (other["retain_runs"], other["retain_days"]) == (None, None)


def test_only_the_last_ten_have_bars(db: str) -> None:
    database = open_database(db, create=True)
    gone = dead_executor(database)
    for number in range(13):
        make_run(database, gone, f"r{number}", days_ago=20 - number, took_s=1 + number)
    database.close()
    (dag,) = json.loads(command("dags", "--json", "--db", db, cwd=beside(db)).stdout)
    assert [one["duration_s"] for one in dag["last_runs"]] == [float(number) for number in range(4, 14)]


@pytest.mark.parametrize(
    ("how", "index", "may_sort"),
    [
        ({}, "created_at", False),
        ({"state": "failed"}, "created_at", False),
        ({"state": ["success", "running"]}, "created_at", False),
        ({"since": datetime(2026, 1, 1, tzinfo=UTC)}, "created_at", False),
        ({"dag_id": "etl"}, "dag_pk_created_at", False),
        ({"dag_id": "etl", "state": "success", "since": datetime(2026, 1, 1, tzinfo=UTC)}, "dag_pk_created_at", False),
        ({"state": ["queued", "running"]}, "state", True),
    ],
)
def test_listings_use_an_index(here: Path, how: dict[str, Any], index: str, may_sort: bool) -> None:
    history = open_history(str(here / "liteflow.db"))
    seen: list[tuple[str, Any]] = []
    event.listen(history.database.engine, "before_cursor_execute", lambda *args: seen.append((args[2], args[3])))
    history.runs(limit=20, **how)
    statement = next(one for one in seen if "ORDER BY liteflow_dag_run" in one[0])
    with history.read() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement[0]}", statement[1])]
    assert any(
        step.split(" (")[0].endswith(f"liteflow_dag_run USING INDEX ix_liteflow_dag_run_{index}") for step in plan
    )
    assert any("TEMP B-TREE" in step for step in plan) == may_sort
    assert all("INTEGER PRIMARY KEY" in step for step in plan if "liteflow_executor" in step)


def test_what_dags_asks_uses_an_index(here: Path) -> None:
    from liteflow.storage import history

    with open_history(str(here / "liteflow.db")).read() as connection:
        for statement in (history._LATEST_RUN, history._COUNT_OF_RUNS, history._LATEST_ENDS):
            text = statement._ready[0]
            steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", (1,) * text.count("?")).all()
            assert [row[3].startswith("SEARCH liteflow_dag_run USING") for row in steps] == [True], steps
