"""The scopes of a database in a PostgreSQL server: locks, lost connections, and commits of which nobody heard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, insert, text, update

from liteflow import Dag, ExecutorService, RunState, task
from liteflow.errors import ConnectionLostError, SchemaOutdatedError, ServiceError, StorageError
from liteflow.storage import postgres as room
from liteflow.storage import schema
from liteflow.storage.engine import DRIVER, connect
from liteflow.storage.postgres import PostgresDatabase, postgres_error
from liteflow.storage.recording import DagFacts, TaskFacts, create_run, record_dag
from liteflow.storage.recovery import instances_of
from liteflow.storage.statements import MANY_ROWS, Prepared, next_keys
from liteflow.storage.tables import POOL, TASK_INSTANCE
from tests.conftest import wait_until
from tests.postgres import Server


@pytest.fixture
def database(postgres_db: str) -> Iterator[PostgresDatabase]:
    database = connect(postgres_db)
    assert isinstance(database, PostgresDatabase)
    yield database
    database.close()


def add(connection: Connection, name: str) -> None:
    connection.execute(insert(POOL).values(name=name, slots=1))


def names(database: PostgresDatabase) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(text("SELECT name FROM liteflow_pool ORDER BY name")))


def cut(connection: Connection) -> None:
    """End the connection of a scope, as the network or the server may at any moment."""
    driver = connection.info[DRIVER]
    pid = driver.info.backend_pid
    with psycopg.connect(connection.engine.url.set(drivername="postgresql").render_as_string(False)) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


def backend(connection: Connection) -> int:
    return int(connection.info[DRIVER].info.backend_pid)


# The schema


def _looked_at(url: str) -> list[Any]:
    found = []
    with connect(url, pooled=False).read() as connection:
        for statement in (
            (
                "SELECT table_name, column_name, ordinal_position, column_default, is_nullable, data_type, "
                "character_maximum_length, collation_name FROM information_schema.columns "
                "WHERE table_schema = 'public' ORDER BY 1, 3"
            ),
            "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2",
            (
                "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
                "WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2"
            ),
            "SELECT sequencename::text, data_type::text FROM pg_sequences ORDER BY 1",
        ):
            found.append([tuple(row) for row in connection.execute(text(statement))])
    return found


def test_a_created_database_and_a_migrated_one_are_the_same(postgres: Server) -> None:
    with postgres.database(empty=True) as created, postgres.database(empty=True) as migrated:
        schema.open_database(created, create=True).close()
        assert schema.upgrade(migrated, "0001") == schema.Change(None, "0001", None)
        with pytest.raises(SchemaOutdatedError, match=r"has schema 0001.*with pg_dump.*liteflow db upgrade --db"):
            schema.open_database(migrated)
        assert schema.upgrade(migrated).after == schema.HEAD
        assert _looked_at(created) == _looked_at(migrated)
        assert schema.downgrade(migrated, "base").after is None
        with pytest.raises(SchemaOutdatedError, match="empty"):
            schema.open_database(migrated)


def test_many_that_create_it_at_once_make_it_once(postgres: Server) -> None:
    with postgres.database(empty=True) as url:
        errors = _all_at_once([lambda: schema.open_database(url, create=True).close()] * 4)
        assert errors == []
        schema.open_database(url).close()


def test_a_schema_that_somebody_else_uses_is_left_alone(postgres: Server) -> None:
    with postgres.database(empty=True) as url:
        with connect(url, pooled=False).write() as connection:
            connection.execute(text("CREATE TABLE orders (id INTEGER)"))
            connection.execute(text("CREATE SCHEMA own"))
        with pytest.raises(StorageError, match=r"not one of liteflow's \(it holds orders\).*csearch_path"):
            schema.open_database(url, create=True)
        own = f"{url}?options=-csearch_path%3Down"
        schema.open_database(own, create=True).close()
        assert names(_opened(own)) == []


def _opened(url: str) -> PostgresDatabase:
    database = schema.open_database(url, pooled=False)
    assert isinstance(database, PostgresDatabase)
    return database


# The messages


def test_the_password_is_never_shown(postgres_db: str, postgres: Server) -> None:
    wrong = postgres_db.replace(postgres.password, "hush-hush")
    for url, told in (
        (wrong, "check the user and the password"),
        (wrong.replace(f":{postgres.port}/", ":1/"), "does the server run"),
        (wrong.replace("postgresql+psycopg", "postgresql+psycopg2"), r"begin the URL with postgresql\+psycopg://"),
        (wrong.replace("postgresql+psycopg", "oracle"), "only SQLite databases"),
        (wrong.replace(":hush-hush@", "@") + "?password=hush-hush", "check the user and the password"),
        (f"{wrong}?sslpassword=hush-hush", r"\?sslpassword="),
        (f"{wrong}:x:y@z", "."),
        (postgres_db.replace(postgres.password, "x@hush-hush"), "write it as %40"),
        (postgres_db.replace(postgres.password, "x@hush-hush:y"), "no URL of SQLAlchemy"),
    ):
        with pytest.raises(StorageError, match=told) as caught:
            schema.open_database(url)
        said = repr(caught.value) + str(vars(caught.value))
        assert "hush-hush" not in said
        assert "\n" not in str(caught.value)
    assert postgres.password not in connect(postgres_db).path


@pytest.mark.parametrize(
    ("code", "cure", "is_lost"),
    [
        ("42501", "GRANT", False),
        ("53100", "make room", False),
        ("55P03", "another program has held it for 120 s", False),
        ("53300", "max_connections", True),
        ("57P01", "try again", True),
        ("40001", "got in each other's way", False),
        ("25006", "standby", False),
        ("99999", "SQLSTATE 99999", False),
    ],
)
def test_each_trouble_comes_with_its_cure(code: str, cure: str, is_lost: bool) -> None:
    class Said(psycopg.OperationalError):
        sqlstate = code

    found = postgres_error("postgresql://x", Said("the server\n said so"))
    assert str(found).startswith("postgresql://x: the server said so (")
    assert cure in str(found)
    assert isinstance(found, ConnectionLostError) is is_lost


def test_a_database_or_a_user_that_is_not_there_is_told_at_once(postgres_db: str) -> None:
    with pytest.raises(StorageError, match="does not exist .create it with: createdb"):
        schema.open_database(f"{postgres_db}_not")


# Scopes and locks


def _all_at_once(works: list[Callable[[], object]]) -> list[BaseException]:
    errors: list[BaseException] = []

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def _waits_for_lock(database: PostgresDatabase) -> bool:
    with database.read() as connection:
        return bool(
            connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        )


@pytest.mark.parametrize(("mine", "theirs"), [(False, False), (True, False), (False, True)])
def test_a_write_scope_waits_for_another(database: PostgresDatabase, mine: bool, theirs: bool) -> None:
    seen = []

    def write() -> None:
        with database.write(shared=theirs) as connection:
            seen.append(connection.scalar(text("SELECT count(*) FROM liteflow_pool")))

    thread = threading.Thread(target=write)
    with database.write(shared=mine) as connection:
        thread.start()
        wait_until(lambda: _waits_for_lock(database), "it waits")
        add(connection, "p")
    thread.join()
    assert seen == [1], "and it sees what the other one has written"


def test_shared_scopes_and_other_databases_do_not_wait(
    database: PostgresDatabase, postgres_db: str, postgres: Server
) -> None:
    with database.write(shared=True), database.write(shared=True) as connection:
        add(connection, "p")
    with database.write() as connection:
        connection.execute(text("CREATE SCHEMA own"))
    own = connect(f"{postgres_db}?options=-csearch_path%3Down", pooled=False)
    with postgres.database() as other, database.write(), connect(other, pooled=False).write(), own.write():
        pass


def test_a_read_scope_sees_one_state_and_writes_nothing(database: PostgresDatabase) -> None:
    with database.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM liteflow_pool")) == 0
        with database.write() as other:
            add(other, "p")
        assert connection.scalar(text("SELECT count(*) FROM liteflow_pool")) == 0
    with pytest.raises(StorageError, match="read-only"), database.read() as connection:
        add(connection, "q")
    assert names(database) == ["p"]


def test_a_scope_whose_statement_failed_commits_nothing_though_somebody_went_on(database: PostgresDatabase) -> None:
    with pytest.raises(StorageError, match="had failed before"), database.write() as connection:
        add(connection, "p")
        with pytest.raises(psycopg.Error):
            connection.info[DRIVER].execute("SELECT * FROM nowhere")
    assert names(database) == []


def test_keys_are_given_once_also_to_scopes_that_go_on_at_once(database: PostgresDatabase) -> None:
    with database.write(shared=True) as one, database.write(shared=True) as other:
        given = [next_keys(scope, TASK_INSTANCE, 3) for scope in (one, other, one)]
    assert given == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


# Lost connections


def test_the_server_is_patient_with_whoever_is_at_work_on_many_rows(database: PostgresDatabase) -> None:
    """A run of a million task instances takes longer than ten seconds to rebuild: it could never be taken up."""

    def patience(connection: Connection) -> str:
        return str(connection.scalar(text("SHOW idle_in_transaction_session_timeout")))

    facts = DagFacts("large", None, (), "{}", None, "0" * 64)
    now = {"run_id": "r", "logical_date": datetime.now(UTC), "params_json": "{}", "structure_digest": "0" * 64}
    found = []
    for count in (10, MANY_ROWS + 5_000):
        with database.write() as connection:
            dag_pk = record_dag(connection, facts, 1)
            mapped = [TaskFacts("t", (), "all_success", range(count))]
            run_pk, pks = create_run(connection, dag_pk, tasks=mapped, executor_pk=None, now_us=1, **now)
            assert len(pks) == count
            found.append(patience(connection))
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '10s'"))
            assert len(instances_of(connection, run_pk)) == count
            found.append(patience(connection))
            connection.execute(text("DELETE FROM liteflow_dag_run"))
        with database.read() as connection:
            found.append(patience(connection))
    assert found == ["10s", "10s", "10s", "11500ms", "11500ms", "10s"]


@pytest.mark.parametrize(("rows", "trips"), [(1, 1), (3, 2)])
def test_a_row_alone_costs_one_round_trip(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, rows: int, trips: int
) -> None:
    """What comes one by one, as in a chain of tasks, waits for the server less often."""
    adding = Prepared(insert(POOL), "name", "slots", "description")
    calls: list[str] = []

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return method(*args, **options)

        return call

    for name in ("execute", "executemany"):
        monkeypatch.setattr(psycopg.Cursor, name, counted(name, getattr(psycopg.Cursor, name)))
    with database.write() as connection:
        calls.clear()
        assert adding.run(connection, [(f"p{number}", number, None) for number in range(rows)]) == rows
        assert len(calls) == trips
        assert adding.run(connection, []) == 0
    assert names(database) == [f"p{number}" for number in range(rows)]


def test_a_connection_that_is_lost_in_a_scope_writes_nothing(database: PostgresDatabase) -> None:
    with pytest.raises(ConnectionLostError, match="ended the connection"), database.write() as connection:
        add(connection, "p")
        cut(connection)
        add(connection, "q")
    assert names(database) == [], "the next scope has a new one"


def test_a_connection_that_was_ended_while_nobody_had_it_is_not_noticed(database: PostgresDatabase) -> None:
    with database.read() as connection:
        first = backend(connection)
    with connect(database.url, pooled=False).read() as other:
        other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first})
    with database.write() as connection:
        add(connection, "p")
        assert backend(connection) != first
    assert names(database) == ["p"]


def test_what_is_not_pooled_shares_a_connection_that_is_closed_with_any_of_them(postgres_db: str) -> None:
    """A history looks ten times a second, and to connect takes many times as long as to look."""
    one, other = connect(postgres_db, pooled=False), connect(postgres_db, pooled=False)
    seen = []
    for database in (one, other, one):
        with database.read() as connection:
            seen.append(backend(connection))
    assert len(set(seen)) == 1
    one.close()
    with other.read() as connection:
        assert backend(connection) != seen[0]
    other.close()


def test_an_attempt_is_made_again_after_a_loss(database: PostgresDatabase) -> None:
    tries = []

    def work(connection: Connection) -> int:
        tries.append(1)
        add(connection, "p")
        if len(tries) == 1:
            cut(connection)
        return connection.execute(update(POOL).values(slots=len(tries))).rowcount

    assert database.attempt(work, durable=True) == 1
    assert (len(tries), names(database)) == (2, ["p"])

    def look(connection: Connection) -> int:
        tries.append(1)
        if len(tries) == 3:
            cut(connection)
        return int(connection.scalar(text("SELECT slots FROM liteflow_pool")) or 0)

    assert database.look(look) == 2
    assert len(tries) == 4
    with pytest.raises(KeyError):
        database.attempt(lambda connection: {}["a mistake is none that passes"])
    with pytest.raises(ConnectionLostError):
        database.attempt(cut_and_look, patience_s=0.0)


def cut_and_look(connection: Connection) -> Any:
    cut(connection)
    return connection.scalar(text("SELECT 1"))


def test_an_attempt_is_made_again_after_a_serialization_failure(database: PostgresDatabase) -> None:
    with database.write() as connection:
        add(connection, "p")
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        if len(tries) == 1:
            connection.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$"))

    database.attempt(work, shared=True)
    assert len(tries) == 2


# Commits of which nobody heard


def _losing_the_answer(monkeypatch: pytest.MonkeyPatch, before: bool) -> list[int]:
    """From now on the connection is lost once at a commit: before the server has it, or before its answer is here."""
    lost: list[int] = []
    original = room._Lease.commit

    def commit(lease: room._Lease) -> None:
        if lost:
            return original(lease)
        lost.append(backend(lease.connection))
        if before:
            cut(lease.connection)
        else:
            lease.driver.execute("COMMIT", prepare=False)
            cut(lease.connection)
        return original(lease)

    monkeypatch.setattr(room._Lease, "commit", commit)
    return lost


def test_a_commit_whose_answer_was_lost_counts(database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = _losing_the_answer(monkeypatch, before=False)
    with database.write() as connection:
        add(connection, "p")
    assert (len(lost), names(database)) == (1, ["p"])


def test_a_commit_that_never_arrived_does_not(database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = _losing_the_answer(monkeypatch, before=True)
    with pytest.raises(ConnectionLostError) as caught, database.write() as connection:
        add(connection, "p")
    assert caught.value.unsettled is None
    assert (len(lost), names(database)) == (1, [])
    lost.clear()
    database.attempt(lambda connection: add(connection, "q"))
    assert (len(lost), names(database)) == (1, ["q"]), "an attempt does it again"


def test_a_commit_of_which_nobody_can_tell_is_not_made_again(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = _losing_the_answer(monkeypatch, before=False)
    monkeypatch.setattr(room, "SETTLE_S", 0.0)
    monkeypatch.setattr(PostgresDatabase, "_became", lambda self, transaction: None)
    told: list[StorageError] = []
    database.when_unsettled = told.append
    with pytest.raises(ConnectionLostError, match="Look at what is there") as caught:
        database.attempt(lambda connection: add(connection, "p"))
    assert caught.value.unsettled is not None
    assert told == [caught.value]
    assert len(lost) == 1


def test_a_run_of_which_nobody_can_tell_whether_it_was_begun_waits_for_no_service_that_does_not_know_it(
    postgres_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Dag("d") as dag:
        task(len)("abc")
    service = ExecutorService(postgres_db, executor="threads").start()
    original = room._Lease.commit

    def commit(lease: room._Lease) -> None:
        original(lease)
        if threading.current_thread() is threading.main_thread():
            cut(lease.connection)
            lease.driver.execute("SELECT 1")

    with monkeypatch.context() as patch:
        patch.setattr(room._Lease, "commit", commit)
        patch.setattr(room, "SETTLE_S", 0.0)
        patch.setattr(PostgresDatabase, "_became", lambda self, transaction: None)
        with pytest.raises(ConnectionLostError, match="Look at what is there"):
            service.submit(dag, run_id="r")
    with ExecutorService(postgres_db, executor="threads") as other:
        assert other.submit(dag, run_id="r").wait(30.0).state is RunState.SUCCESS
    with pytest.raises(ServiceError, match="Look at what is there"):
        service.submit(dag)
    service.stop()


def test_after_a_crash_what_was_committed_is_told_from_what_has_its_number_again(own_postgres: Server) -> None:
    """What had not come to the disk leaves no trace, and the next transaction has its number."""
    with own_postgres.database() as url:
        database = connect(url)
        assert isinstance(database, PostgresDatabase)
        with database.write() as connection:
            add(connection, "p")
            heard = connection.scalar(text("SELECT pg_current_xact_id()::text"))
        lease, found = database._begin(room._BEGIN_WRITE.replace("{lock}", "pg_advisory_xact_lock"))
        unheard = room._Transaction(found[1], lease.life)
        own_postgres.restart("kill")
        lease.close()
        with database.write() as connection:  # it waits for a server that is started anew
            add(connection, "q")
            again = connection.scalar(text("SELECT pg_current_xact_id()::text"))
        assert again == unheard.xid
        assert database._became(unheard) is False
        assert database._became(room._Transaction(heard, unheard.life)) is True
        assert database._became(room._Transaction(again, "reset statistics", began_s=2**40)) is None, (
            "without a recovery since then nobody knows"
        )
        with_new_life = room._Lease(database)
        with_new_life.close()
        assert database._became(room._Transaction(again, with_new_life.life)) is True, "as long as the server lives"
        database.close()
