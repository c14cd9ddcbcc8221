"""`liteflow db copy`: a history arrives as a whole, or nothing of it does."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from liteflow.errors import DatabaseMissingError, NotALiteflowDatabaseError, SchemaOutdatedError, StorageError
from liteflow.states import EndReason, RunState, TaskInstanceState
from liteflow.storage import bulk, copying, tables
from liteflow.storage.checking import check
from liteflow.storage.copying import copy_history
from liteflow.storage.engine import connect
from liteflow.storage.schema import open_database, upgrade
from tests.conftest import command, run_python
from tests.faults.populated import changing, populate
from tests.pasts import dead_executor, make_run
from tests.postgres import Server

NOW = 1_767_225_600_000_000


def rows_of(db: str) -> dict[str, list[Any]]:
    """Everything that is in the tables, and the highest keys that were given."""
    database = connect(db, pooled=False)
    found: dict[str, list[Any]] = {}
    with database.read() as connection:
        side = bulk.side_of(connection)
        for table in tables.metadata.sorted_tables:
            found[table.name] = list(side.rows(table))
            if table.dialect_options["sqlite"]["autoincrement"]:
                found[table.name].append(side.last_key(table))
    return found


def words(chance: random.Random, most: int = 12) -> str:
    """Text of any kind but for what no liteflow stores."""
    alphabets = ["abcXYZ_-.09", "äß→漢字🙂\u200f", "\t\n\\'\"%{}$\x7f\x01\N{NO-BREAK SPACE}"]
    return "".join(chance.choice(chance.choice(alphabets)) for _ in range(chance.randint(0, most)))


def fill(db: str, chance: random.Random) -> None:
    """Rows of every kind in a new database, some of which are deleted again."""
    t = tables
    maybe: Callable[[Any], Any] = lambda value: chance.choice([value, None])  # noqa: E731
    moment: Callable[[], int] = lambda: chance.choice([NOW + chance.randint(0, 10**9), -5, 2**53 + 1])  # noqa: E731
    reasons = [*EndReason, None]
    database = open_database(db, create=True, pooled=False)
    with database.write() as connection:

        def add(table: Any, **values: Any) -> int:
            key = connection.execute(insert(table).values(values)).inserted_primary_key
            assert key is not None
            return int(key[0])

        executors = [
            add(
                t.EXECUTOR,
                token=f"t{n}",
                host=words(chance),
                pid=n,
                started_at=moment(),
                ended_at=maybe(moment()),
                process_started_at=maybe(2**62),
            )
            for n in range(chance.randint(1, 3))
        ]
        for n in range(chance.randint(0, 2)):
            add(t.POOL, name=f"p{n}", slots=chance.randint(-1, 2**31 - 1), description=maybe(words(chance)))
        for n in range(chance.randint(0, 3)):
            dag = add(
                t.DAG,
                dag_id=f"d{n}",
                description=maybe(words(chance)),
                params="{}",
                structure_digest="x",
                created_at=moment(),
                updated_at=moment(),
                retain_days=maybe(chance.random() * 1e9),
            )
            for m in range(chance.randint(0, 3)):
                run = add(
                    t.DAG_RUN,
                    dag_pk=dag,
                    run_id=f"{chance.choice('aBä')}{m}",
                    state=chance.choice(list(RunState)),
                    end_reason=chance.choice(reasons),
                    logical_date=moment(),
                    params=words(chance, 2000),
                    structure_digest="x",
                    executor_pk=maybe(chance.choice(executors)),
                    created_at=moment(),
                )
                for k in range(chance.randint(0, 3)):
                    instance = add(
                        t.TASK_INSTANCE,
                        run_pk=run,
                        task_id=words(chance),
                        map_index=k,
                        trigger_rule="all_success",
                        state=chance.choice(list(TaskInstanceState)),
                        peak_rss_bytes=maybe(2**40),
                        error=maybe(words(chance, 3000)),
                        executor_pk=maybe(chance.choice(executors)),
                    )
                    value = chance.randbytes(chance.choice([0, 1, 600, 2**20]))
                    add(
                        t.XCOM,
                        task_instance_pk=instance,
                        key=words(chance),
                        encoding="bytes",
                        value=value,
                        size_bytes=len(value),
                        sha256=bytes(32),
                    )
                    for _ in range(chance.randint(0, 2)):
                        line = words(chance, 300)
                        add(t.LOG_RECORD, task_instance_pk=instance, try_number=1, at=moment(), level=20, message=line)
                    if chance.random() < 0.5:
                        add(t.TASK_TRY, task_instance_pk=instance, try_number=1, generation=0, state="failed")
                        add(t.CALLBACK, run_pk=run, task_instance_pk=maybe(instance), kind="k", created_at=moment())
                if chance.random() < 0.3:
                    connection.execute(delete(t.DAG_RUN).where(t.DAG_RUN.c.id == run))
    database.close()


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_the_same_after_a_trip_to_postgresql_and_back(
    postgres: Server, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    directory = tmp_path_factory.mktemp("trip")
    one, other = str(directory / "one.db"), str(directory / "other.db")
    fill(one, random.Random(seed))
    with postgres.database() as url:
        copied = copy_history(one, url)
        assert copy_history(url, other).tables == copied.tables
        assert rows_of(one) == rows_of(url) == rows_of(other)


def test_every_row_is_the_same_in_another_database_of_postgresql(postgres: Server, tmp_path: Path) -> None:
    fill(str(tmp_path / "one.db"), random.Random(1))
    with postgres.database() as url, postgres.database(empty=True) as other:
        copy_history(tmp_path / "one.db", url)
        copy_history(url, other)
        assert rows_of(str(tmp_path / "one.db")) == rows_of(other)


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A database with a row in every table."""
    return str(populate(tmp_path / "source.db"))


def is_empty(db: str) -> bool:
    database = open_database(db, create=True, pooled=False)
    with database.read() as connection:
        return all(bulk.side_of(connection).is_empty(table) for table in tables.metadata.sorted_tables)


def put(source: str, statement: str, *values: object) -> None:
    with changing(Path(source)) as connection:
        connection.execute(statement, values)


@pytest.mark.parametrize(
    ("statement", "values", "told"),
    [
        (
            "UPDATE liteflow_log_record SET message = ?",
            ["a\0b"],
            "table liteflow_log_record, row 1: message holds a NUL",
        ),
        (
            "UPDATE liteflow_dag SET description = CAST(? AS TEXT)",
            [b"\xff"],
            "row 1: description holds text that is no",
        ),
        ("UPDATE liteflow_pool SET slots = ?", [2**40], r"liteflow_pool, row 1: slots is 1099511627776.*32 bits"),
        ("UPDATE liteflow_pool SET slots = ?", ["many"], r"slots holds text where PostgreSQL wants integer"),
        ("UPDATE liteflow_dag SET structure_digest = ?", ["x" * 65], r"structure_digest has 65 char.*room for 64"),
        ("UPDATE liteflow_xcom SET value = ?", ["text"], r"value holds text where PostgreSQL wants bytea"),
    ],
)
def test_what_postgresql_cannot_keep_is_named_and_nothing_is_written(
    postgres_db: str, source: str, tmp_path: Path, statement: str, values: Sequence[object], told: str
) -> None:
    put(source, statement, *values)
    with pytest.raises(StorageError, match=told) as raised:
        copy_history(source, postgres_db)
    assert "\n" not in str(raised.value)
    assert is_empty(postgres_db)
    kept = str(tmp_path / "kept.db")
    copy_history(source, kept)
    assert rows_of(source) == rows_of(kept)


def test_a_row_that_refers_to_a_missing_one_is_named(source: str, tmp_path: Path) -> None:
    put(source, "UPDATE liteflow_xcom SET task_instance_pk = 77")
    with pytest.raises(StorageError, match="liteflow_xcom, row 1: refers to a missing row of liteflow_task_instance"):
        copy_history(source, tmp_path / "target.db")
    assert is_empty(str(tmp_path / "target.db"))


def test_a_target_that_holds_anything_is_refused(postgres_db: str, source: str, tmp_path: Path) -> None:
    for target in (postgres_db, str(tmp_path / "target.db")):
        with open_database(target, create=True, pooled=False).write() as connection:
            connection.execute(insert(tables.POOL).values(name="p", slots=1))
        before = rows_of(target)
        with pytest.raises(StorageError, match=r"holds something already \(in liteflow_pool\)"):
            copy_history(source, target)
        assert rows_of(target) == before


def test_a_target_of_another_program_is_refused(postgres: Server, source: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    with postgres.database(empty=True) as url:
        postgres.execute("CREATE TABLE theirs AS SELECT 1", database=url.rpartition("/")[2])
        for target in (url, str(tmp_path / "other.db")):
            with pytest.raises(NotALiteflowDatabaseError, match="theirs"):
                copy_history(source, target)


def test_the_source_itself_is_no_target(postgres_db: str, source: str, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(source)
    for one, other in (
        (source, str(tmp_path / "link.db")),
        (postgres_db, postgres_db.replace("127.0.0.1", "localhost")),
    ):
        with pytest.raises(StorageError, match="source and target are the same") as raised:
            copy_history(one, other)
        assert "liteflow:***@" in str(raised.value) or one == source


def test_a_source_that_is_missing_empty_or_older_is_refused_and_no_target_is_made(tmp_path: Path) -> None:
    target = tmp_path / "target.db"
    with pytest.raises(DatabaseMissingError):
        copy_history(tmp_path / "missing.db", target)
    (tmp_path / "empty.db").touch()
    with pytest.raises(SchemaOutdatedError, match="empty"):
        copy_history(tmp_path / "empty.db", target)
    upgrade(str(tmp_path / "old.db"), "0003")
    with pytest.raises(SchemaOutdatedError, match="0003"):
        copy_history(tmp_path / "old.db", target)
    assert not target.exists()


def test_what_is_committed_at_the_source_meanwhile_does_not_arrive(
    postgres_db: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_of(source)
    copy_table = copying._copy_table

    def slowly(*arguments: Any) -> Any:
        with closing(sqlite3.connect(source, isolation_level=None)) as connection:
            connection.execute("INSERT INTO liteflow_pool (name, slots) SELECT count(*), 1 FROM liteflow_pool")
        return copy_table(*arguments)

    monkeypatch.setattr(copying, "_copy_table", slowly)
    copy_history(source, postgres_db)
    assert rows_of(postgres_db) == before != rows_of(source)


def test_what_is_not_written_as_it_was_read_is_seen_before_the_commit(
    postgres_db: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side, target in ((bulk.PostgresSide, postgres_db), (bulk.SqliteSide, str(tmp_path / "target.db"))):
        whole = side.insert

        def forgetful(self: Any, table: Any, rows: Any, whole: Any = whole) -> None:
            whole(self, table, (row for row in rows if table is not tables.LOG_RECORD))

        with monkeypatch.context() as patch:
            patch.setattr(side, "insert", forgetful)
            with pytest.raises(StorageError, match=r"liteflow_log_record does not hold .* \(1 rows, there are 0"):
                copy_history(source, target)
        assert is_empty(target)


KILLED = """
import os, signal, sys
from liteflow.storage import copying
copying._refuse_difference = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
copying.copy_history(sys.argv[1], sys.argv[2])
"""


def test_a_copy_that_is_killed_before_its_commit_leaves_an_empty_target(
    postgres_db: str, source: str, tmp_path: Path
) -> None:
    for target in (postgres_db, str(tmp_path / "target.db")):
        assert run_python("-c", KILLED, source, target, cwd=tmp_path).returncode == -signal.SIGKILL
        assert is_empty(target)
        copy_history(source, target)
        assert rows_of(target) == rows_of(source)


def test_keys_go_on_behind_all_that_were_ever_given(postgres_db: str, tmp_path: Path) -> None:
    one, other = str(tmp_path / "one.db"), str(tmp_path / "other.db")
    database = open_database(one, create=True)
    executor = dead_executor(database)
    keys = [make_run(database, executor, f"r{number}") for number in range(3)]
    with database.write() as connection:
        connection.execute(delete(tables.DAG_RUN).where(tables.DAG_RUN.c.id >= keys[1]))
    database.close()
    copy_history(one, postgres_db)
    copy_history(postgres_db, other)
    for target in (postgres_db, other):
        database = open_database(target)
        assert make_run(database, executor, "next") == keys[-1] + 1
        with database.read() as connection:
            assert connection.scalars(select(tables.TASK_INSTANCE.c.id)).all()[-1] == 4 * 4
        database.close()
        assert check(target) == []


def test_nobody_who_lives_at_the_source_lives_at_the_target(postgres_db: str, source: str, tmp_path: Path) -> None:
    copy_history(source, postgres_db)
    with connect(postgres_db, pooled=False).write() as connection:
        connection.execute(update(tables.EXECUTOR).values(place="here", lease_until=2**60))
    copy_history(postgres_db, tmp_path / "target.db")
    with connect(tmp_path / "target.db", pooled=False).read() as connection:
        rows = connection.execute(select(tables.EXECUTOR.c.place, tables.EXECUTOR.c.lease_until)).all()
    assert list(map(tuple, rows)) == [(None, None)]


def test_the_command_prints_what_it_copied_and_never_a_password(
    postgres: Server, postgres_db: str, source: str, tmp_path: Path
) -> None:
    done = command("db", "copy", source, postgres_db, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert "liteflow_task_instance  2     " in done.stdout
    assert f"source.db -> postgresql+psycopg://liteflow:***@127.0.0.1:{postgres.port}/" in done.stderr
    done = command("db", "copy", postgres_db, "target.db", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert list(document) == ["source", "target", "tables"]
    assert {"table": "liteflow_xcom", "rows": 1, "bytes": 12 + 4 + 32 + 2} in document["tables"]
    assert postgres.password not in done.stdout + done.stderr
    again = command("db", "copy", source, postgres_db, cwd=tmp_path)
    assert (again.returncode, again.stdout, again.stderr.count("\n")) == (3, "", 1)
    assert postgres.password not in again.stderr
