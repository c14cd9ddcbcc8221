"""Pruning: which runs go, in which steps, what is left when it is stopped, and the space that is given back."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from liteflow.execution.liveness import OwnLock
from liteflow.states import RunState
from liteflow.storage import pruning, recording
from liteflow.storage.checking import check
from liteflow.storage.engine import Database
from liteflow.storage.pruning import Limits, delete_some, due_runs_of, give_back_some, space_of
from liteflow.storage.schema import open_database
from liteflow.storage.tables import EXECUTOR, LOG_RECORD, TASK_INSTANCE, XCOM, metadata
from tests.conftest import beside, command
from tests.pasts import DAY_US, dead_executor, make_run, run_ids, set_run


@pytest.fixture
def database(db: str) -> Iterator[Database]:
    database = open_database(db, create=True)
    yield database
    database.close()


@pytest.fixture
def executor_pk(database: Database) -> int:
    return dead_executor(database)


@pytest.fixture
def past(database: Database, executor_pk: int) -> Database:
    """Five runs of `etl`, 40, 30, ... 0 days old, and one of `other`."""
    for number in range(5):
        make_run(database, executor_pk, f"r{number}", days_ago=40 - 10 * number)
    make_run(database, executor_pk, "o0", dag_id="other", days_ago=100)
    return database


def prune(database: Database, *args: str) -> Any:
    return command("prune", "--db", database.path, *args, cwd=beside(database.path))


def content(database: Database) -> Any:
    """All that it holds: the bytes of a file, or what is in each table."""
    if database.is_file:
        database.close()
        return Path(database.path).read_bytes()
    with database.read() as connection:
        return [sorted(map(repr, connection.execute(select(table)))) for table in metadata.sorted_tables]


def counts(database: Database) -> list[int]:
    with database.read() as connection:
        return [len(connection.execute(select(table.c.id)).all()) for table in (TASK_INSTANCE, LOG_RECORD, XCOM)]


@pytest.mark.parametrize(
    ("args", "left"),
    [
        (["--keep-runs", "2"], ["r3", "r4", "o0"]),
        (["--keep-runs", "2", "--dag", "etl"], ["r3", "r4", "o0"]),
        (["--keep-runs", "0", "--dag", "other"], ["r0", "r1", "r2", "r3", "r4"]),
        (["--keep-runs", "0"], []),
        (["--keep-runs", "9"], ["r0", "r1", "r2", "r3", "r4", "o0"]),
        (["--older-than", "25d"], ["r2", "r3", "r4"]),
        (["--older-than", "25d", "--keep-runs", "1"], ["r4"]),
        (["--older-than", "2w", "--dag", "etl"], ["r3", "r4", "o0"]),
        ([], ["r0", "r1", "r2", "r3", "r4", "o0"]),
    ],
)
def test_runs_beyond_the_limits_go_with_all_that_is_theirs(past: Database, args: list[str], left: list[str]) -> None:
    done = prune(past, "--yes", *args)
    assert done.returncode == 0, done.stderr
    assert sorted(run_ids(past)) == sorted(left)
    assert counts(past) == [4 * len(left), 8 * len(left), 3 * len(left)]
    assert check(past.path) == []


def test_without_limits_it_is_what_the_dags_said(database: Database, executor_pk: int) -> None:
    for number in range(4):
        make_run(database, executor_pk, f"few{number}", dag_id="few", days_ago=9 - number, retain_runs=2)
        make_run(database, executor_pk, f"new{number}", dag_id="new", days_ago=9 - number, retain_days=7.5)
        make_run(database, executor_pk, f"all{number}", dag_id="all", days_ago=9 - number)
    assert prune(database, "--yes").returncode == 0
    assert {name for name in run_ids(database) if not name.startswith("all")} == {"few2", "few3", "new2", "new3"}
    assert len(run_ids(database)) == 8


def test_what_is_not_over_is_never_deleted(database: Database, executor_pk: int, db: str) -> None:
    lock = OwnLock(db, "lives")
    with database.write() as connection:
        living_pk = recording.record_executor(connection, "lives", "localhost", None, 1)
    make_run(database, executor_pk, "queued", state=RunState.QUEUED, days_ago=90)
    make_run(database, executor_pk, "interrupted", state=RunState.RUNNING, days_ago=90)
    make_run(database, living_pk, "running", state=RunState.RUNNING, days_ago=90)
    make_run(database, executor_pk, "failed", state=RunState.FAILED, days_ago=90)
    assert prune(database, "--yes", "--keep-runs", "0").returncode == 0
    assert sorted(run_ids(database)) == ["interrupted", "queued", "running"]
    lock.release()


def test_unfinished_runs_take_no_place_of_those_that_are_kept(database: Database, executor_pk: int) -> None:
    make_run(database, executor_pk, "old", days_ago=3)
    make_run(database, executor_pk, "older", days_ago=4)
    make_run(database, executor_pk, "going", state=RunState.RUNNING, days_ago=1)
    prune(database, "--yes", "--keep-runs", "1")
    assert run_ids(database) == ["old", "going"]


def test_a_dry_run_shows_what_would_go_and_changes_nothing(past: Database) -> None:
    before = content(past)
    done = prune(past, "--dry-run", "--keep-runs", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "DAG  RUNS  TASK INSTANCES  LOG LINES  BYTES",
        "etl  2     8               16         102 B",
    ]
    assert content(past) == before


def test_json(past: Database) -> None:
    asked = json.loads(prune(past, "--dry-run", "--keep-runs", "3", "--json").stdout)
    assert asked == {
        "dry_run": True,
        "dags": [
            {
                "dag_id": "etl",
                "keep_runs": 3,
                "days": None,
                "runs": 2,
                "task_instances": 8,
                "log_lines": 16,
                "bytes": 102,
            }
        ],
        "deleted_runs": 0,
        "file_bytes_before": asked["file_bytes_before"],
        "file_bytes_after": asked["file_bytes_before"],
        "auto_vacuum": "incremental" if past.is_file else "server",
    }
    done = json.loads(prune(past, "--yes", "--keep-runs", "3", "--json").stdout)
    assert set(done) == set(asked)
    assert (done["deleted_runs"], done["dry_run"]) == (2, False)
    again = json.loads(prune(past, "--yes", "--keep-runs", "3", "--json").stdout)
    assert (again["deleted_runs"], again["dags"]) == (0, [])


def test_it_asks_first(past: Database) -> None:
    refused = prune(past, "--keep-runs", "1")  # nobody answers
    assert refused.returncode == 2
    assert "Delete these 4 runs?" in refused.stderr
    assert "--yes" in refused.stderr
    assert len(run_ids(past)) == 6


def test_nothing_to_do_is_said(past: Database) -> None:
    done = prune(past)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no run is to go\n")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--dag", "elt"], 2, "did you mean 'etl'?"),
        (["--older-than", "soon"], 2, "write it as 7d"),
        (["--keep-runs", "-1"], 2, "not in the range"),
    ],
)
def test_wrong_words_are_refused(past: Database, args: list[str], code: int, said: str) -> None:
    done = prune(past, "--yes", *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert len(run_ids(past)) == 6


@pytest.mark.parametrize("args", [["prune"], ["db", "stats"], ["db", "vacuum"]])
def test_a_missing_database_is_not_made(tmp_path: Path, args: list[str]) -> None:
    done = command(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "args",
    [
        ["prune", "--yes"],
        ["db", "stats"],
        pytest.param(["db", "vacuum"], marks=pytest.mark.sqlite("a server makes room by itself, and is asked to")),
    ],
)
def test_an_empty_database(database: Database, tmp_path: Path, args: list[str]) -> None:
    assert command(*args, "--db", database.path, cwd=tmp_path).returncode == 0


# Step by step


def test_a_run_goes_in_steps_and_what_is_left_is_sound(database: Database, executor_pk: int) -> None:
    pk = make_run(database, executor_pk, "large", mapped=700, lines=3)
    waiting, steps = deque([pk]), 0
    before = counts(database)
    while waiting:
        delete_some(database, waiting, slice_s=0)
        steps += 1
        assert check(database.path) == []
        now = counts(database)
        assert sum(before) - sum(now) <= 1_200
        before = now
        if waiting:
            shown = command("runs", "--db", database.path, cwd=beside(database.path)).stdout
            assert "success (pruned)" in shown
    assert steps > 4
    assert run_ids(database) == []


def test_a_run_that_is_half_deleted_is_finished_by_the_next_prune_and_never_gone_on_with(
    database: Database, executor_pk: int
) -> None:
    from liteflow import Dag, task
    from liteflow.errors import RunConflictError
    from liteflow.storage.history import open_history

    pk = make_run(database, executor_pk, "large", state=RunState.FAILED, mapped=700, dag_id="half")
    delete_some(database, deque([pk]), slice_s=0)
    assert run_ids(database) == ["large"]
    with Dag("half", db_path=database.path) as dag:
        task(lambda: None, task_id="first")()
    run = open_history(database.path).find_run("half/large")
    for go_on in (
        lambda: dag.resume("large", accept_changes=True),
        lambda: dag.rerun("large", only_failed=True),
        lambda: run.clear(failed=True),
        lambda: run.clear(failed=True, dry_run=True),
        lambda: run.mark("first", "success"),
    ):
        with pytest.raises(RunConflictError, match="is being deleted"):
            go_on()
    assert prune(database, "--yes").returncode == 0, "no limit says that it should go"
    assert run_ids(database) == []


def test_a_run_that_somebody_goes_on_with_is_left(database: Database, executor_pk: int) -> None:
    pk = make_run(database, executor_pk, "again", state=RunState.FAILED)
    set_run(database, pk, state=RunState.RUNNING, ended_at=None)
    waiting = deque([pk])
    assert delete_some(database, waiting) == 0
    assert not waiting
    assert (run_ids(database), counts(database)) == (["again"], [4, 8, 3])


def test_small_runs_go_several_at_a_time(past: Database) -> None:
    with past.read() as connection:
        waiting = deque(due_runs_of(connection, "etl", Limits(1), 0))
    assert len(waiting) == 4
    assert delete_some(past, waiting, slice_s=60) == 4


def test_large_values_do_not_go_all_at_once(database: Database, executor_pk: int) -> None:
    pk = make_run(database, executor_pk, "heavy", mapped=3, value=b"x" * 6_000_000)
    steps = 0
    waiting = deque([pk])
    while waiting:
        delete_some(database, waiting, slice_s=0)
        steps += 1
    assert steps >= 2


def test_a_reader_keeps_what_it_began_to_read(past: Database) -> None:
    with past.read() as connection:
        first = connection.execute(select(TASK_INSTANCE.c.id)).all()
        assert prune(past, "--yes", "--keep-runs", "0").returncode == 0
        assert connection.execute(select(TASK_INSTANCE.c.id)).all() == first
    assert counts(past) == [0, 0, 0]


@pytest.mark.sqlite("which way SQLite takes")
def test_statements_use_indexes(past: Database) -> None:
    seen: list[tuple[str, Any]] = []
    with past.write() as connection:
        connection.info["driver"].set_trace_callback(lambda line: seen.append((line, ())))
        due_runs_of(connection, "etl", Limits(2, 10.0), 5 * DAY_US)
        connection.info["driver"].set_trace_callback(None)
    delete = [statement._ready[0] for statement, _ in pruning._PARTS]
    delete += [pruning._VALUES._ready[0], pruning._DELETE_INSTANCES._ready[0]]
    plans = {}
    with past.read() as connection:
        for line, _ in seen:
            if line.startswith("SELECT liteflow_dag_run"):
                plans[line] = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {line}").all()
        for line in delete:
            plans[line] = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {line}", (1,)).all()
    assert len(plans) == 2 + 4
    for line, plan in plans.items():
        steps = [row[3] for row in plan]
        assert not any(step.startswith("SCAN") or "TEMP B-TREE" in step for step in steps), (line, steps)


# Executors


def test_rows_of_executors_go_when_nothing_refers_to_them(database: Database, db: str) -> None:
    used, killed, _ = (dead_executor(database, name) for name in ("used", "killed", "unused"))
    with database.write() as connection:
        connection.execute(EXECUTOR.update().where(EXECUTOR.c.id == killed).values(ended_at=None))
        living = recording.record_executor(connection, "lives", "localhost", None, 1)
    make_run(database, used, "r")
    lock = OwnLock(db, "lives")
    assert prune(database, "--yes", "--keep-runs", "1").returncode == 0
    with database.read() as connection:
        assert set(connection.scalars(select(EXECUTOR.c.id))) == {used, living}
    lock.release()
    assert check(db) == []


# Space


def pages(path: str) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as connection:
        (count,), (free,) = (
            connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count")
        )
        return count, free


@pytest.mark.sqlite("about the file of the database")
def test_space_is_given_back_to_the_file_system(database: Database, executor_pk: int) -> None:
    make_run(database, executor_pk, "large", value=b"x" * 3_000_000)
    make_run(database, executor_pk, "small")
    done = prune(database, "--yes", "--keep-runs", "1")
    assert "the file has" in done.stderr
    assert os.path.getsize(database.path) < 1_000_000
    assert pages(database.path)[1] == 0


@pytest.mark.sqlite("about the file of the database")
def test_it_is_given_back_in_steps_and_some_may_be_kept(database: Database, executor_pk: int) -> None:
    pk = make_run(database, executor_pk, "large", value=b"x" * 3_000_000)
    delete_some(database, deque([pk]), slice_s=60)
    with database.read() as connection:
        before = space_of(connection)
    assert before.free_pages > 2_000
    assert give_back_some(database, slice_s=0), "there is more"
    with database.read() as connection:
        assert before.free_pages - space_of(connection).free_pages == pruning.PAGES_AT_ONCE
    assert not give_back_some(database, keep_pages=500, slice_s=60)
    with database.read() as connection:
        assert space_of(connection).free_pages == 500


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Database]:
    """A file as liteflow made them before: without auto_vacuum, with a large run and a small one."""
    path = str(tmp_path / "older.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
    database = open_database(path, create=True)
    executor_pk = dead_executor(database)
    make_run(database, executor_pk, "large", value=b"x" * 3_000_000)
    make_run(database, executor_pk, "small")
    yield database
    database.close()


def test_an_older_file_keeps_its_size_until_it_is_vacuumed(older: Database) -> None:
    done = prune(older, "--yes", "--keep-runs", "1")
    assert "liteflow db vacuum --db older.db" in done.stderr
    count, free = pages(older.path)
    assert free > 2_000
    vacuumed = command("db", "vacuum", "--db", older.path, cwd=beside(older.path))
    assert vacuumed.returncode == 0, vacuumed.stderr
    assert "nobody else can write" in vacuumed.stderr
    assert pages(older.path)[0] < count - free + 50
    assert os.path.getsize(older.path) < 1_000_000
    with older.read() as connection:
        assert space_of(connection).can_shrink
    assert check(older.path) == []
    assert run_ids(older) == ["small"]


def test_vacuum_waits_for_no_run_unless_it_is_told_to(older: Database) -> None:
    lock = OwnLock(older.path, "lives")
    with older.write() as connection:
        living = recording.record_executor(connection, "lives", "localhost", None, 1)
    make_run(older, living, "going", state=RunState.RUNNING)
    cwd = beside(older.path)
    refused = command("db", "vacuum", "--db", older.path, cwd=cwd)
    assert refused.returncode == 2
    assert "etl/going is running" in refused.stderr
    assert command("db", "vacuum", "--db", older.path, "--force", cwd=cwd).returncode == 0
    lock.release()
    assert command("db", "vacuum", "--db", older.path, cwd=cwd).returncode == 0, "an interrupted run writes nothing"


def test_vacuum_says_beforehand_that_the_disk_is_too_full(older: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 1000})())
    refused = command("db", "vacuum", "--db", older.path, cwd=beside(older.path))
    assert refused.returncode == 3
    assert "bytes of free disk, and there are 1,000" in refused.stderr


# Sizes


def test_stats(past: Database) -> None:
    cwd = beside(past.path)
    shown = command("db", "stats", "--db", past.path, cwd=cwd)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0] == past.path
    assert lines[1].startswith("file " if past.is_file else "tables and indexes ")
    assert lines[2].startswith("oldest run other/o0, ")
    assert lines[3].startswith("newest run etl/r4, ")
    assert lines[-2].split() == ["etl", "5", "20", "20", "40", "240", "B", "15", "15", "B"]
    assert lines[-1].split() == ["other", "1", "4", "4", "8", "48", "B", "3", "3", "B"]


def test_stats_as_json(past: Database) -> None:
    found = json.loads(command("db", "stats", "--json", "--db", past.path, cwd=beside(past.path)).stdout)
    assert set(found) == {
        "path", "file_bytes", "wal_bytes", "page_bytes", "pages", "free_pages", "auto_vacuum", "bytes_from", "tables",
        "dags", "oldest_run", "newest_run",
    }  # fmt: skip
    assert found["auto_vacuum"] == ("incremental" if past.is_file else "server")
    assert found["bytes_from"] in ("pages", "lengths")
    rows = {one["table"]: one["rows"] for one in found["tables"]}
    assert (rows["liteflow_dag_run"], rows["liteflow_task_instance"], rows["liteflow_log_record"]) == (6, 24, 48)
    assert all(set(one) == {"table", "rows", "bytes"} for one in found["tables"])
    assert found["dags"][0] == {
        "dag_id": "etl", "runs": 5, "task_instances": 20, "tries": 20, "log_lines": 40, "log_bytes": 240, "xcoms": 15,
        "xcom_bytes": 15,
    }  # fmt: skip
    assert set(found["oldest_run"]) == {"dag_id", "run_id", "created_at"}


def test_stats_of_an_empty_database(database: Database, tmp_path: Path) -> None:
    done = command("db", "stats", "--db", database.path, cwd=tmp_path)
    assert done.stderr == "no dag has run here yet\n"
    found = json.loads(command("db", "stats", "--json", "--db", database.path, cwd=tmp_path).stdout)
    assert (found["dags"], found["oldest_run"], found["newest_run"]) == ([], None, None)


@pytest.mark.sqlite("about the file of the database")
def test_without_a_table_of_pages_lengths_are_told_and_that_it_is_so(
    past: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from liteflow.storage import sizes

    monkeypatch.setattr(sizes, "_bytes_by_table", lambda _connection: None)
    done = command("db", "stats", "--db", past.path, cwd=beside(past.path))
    assert "bytes are the lengths of what the rows hold" in done.stderr
    found = json.loads(command("db", "stats", "--json", "--db", past.path, cwd=beside(past.path)).stdout)
    assert found["bytes_from"] == "lengths"
    assert next(one["bytes"] for one in found["tables"] if one["table"] == "liteflow_log_record") > 240
