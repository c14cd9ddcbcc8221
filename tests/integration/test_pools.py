"""Pools: making and deleting them, and counting what is taken of them and by whom."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import update

from liteflow.states import TaskInstanceState
from liteflow.storage import pools, recording, tables
from liteflow.storage.engine import Database
from liteflow.storage.history import Owner
from liteflow.storage.pools import PoolInfo
from liteflow.storage.recording import DagFacts, TaskFacts
from liteflow.storage.schema import open_database
from liteflow.storage.tables import TASK_INSTANCE

S = TaskInstanceState


@pytest.fixture
def database(db: str) -> Iterator[Database]:
    database = open_database(db, create=True)
    yield database
    database.close()


def set_pool(database: Database, name: str, slots: int, description: str | None = None) -> None:
    with database.write() as session:
        pools.set_pool(session, name, slots, description)


def listed(database: Database) -> list[PoolInfo]:
    with database.read() as session:
        return pools.list_pools(session)


def claim(database: Database, token: str, *claims: tuple[str | None, int]) -> tuple[int, list[int]]:
    """An executor that runs a task instance for each (pool, slots); its key and theirs."""
    with database.write() as session:
        me = recording.record_executor(session, token, "host", 7, 1)
        dag_pk = recording.record_dag(session, DagFacts("dag", None, (), "{}", None, "x"), 1)
        tasks = [
            TaskFacts(f"t{number}", [], "all_success", pool=pool, pool_slots=slots)
            for number, (pool, slots) in enumerate(claims)
        ]
        _, pks = recording.create_run(
            session,
            dag_pk,
            run_id=token,
            logical_date=tables.from_microseconds(1),
            params_json="{}",
            structure_digest="x",
            tasks=tasks,
            executor_pk=me,
            now_us=1,
        )
        recording.claim(session, [(pk, 1) for pk in pks], me)
    return me, pks


def elsewhere(database: Database, names: list[str], me: int) -> list[tuple[str, str, int]]:
    with database.read() as session:
        return [(one.pool, one.owner.token, one.slots) for one in pools.claimed_elsewhere(session, names, me)]


def test_a_pool_is_made_and_changed(database: Database) -> None:
    set_pool(database, "warehouse", 2, "Connections")
    set_pool(database, "api", 1)
    assert listed(database) == [PoolInfo("api", 1, None, 0), PoolInfo("warehouse", 2, "Connections", 0)]
    set_pool(database, "warehouse", 0)
    assert listed(database)[1] == PoolInfo("warehouse", 0, "Connections", 0), "the description is kept"
    set_pool(database, "warehouse", 3, "")
    assert listed(database)[1] == PoolInfo("warehouse", 3, "", 0)


def test_a_pool_cannot_have_less_than_no_slots(database: Database) -> None:
    with pytest.raises(ValueError, match="pool 'api' cannot have -1 slots"):
        set_pool(database, "api", -1)
    assert listed(database) == []


def test_a_pool_is_deleted_once(database: Database) -> None:
    set_pool(database, "api", 1)
    with database.write() as session:
        assert pools.delete_pool(session, "api")
        assert not pools.delete_pool(session, "api")
    assert listed(database) == []


def test_sizes_of_pools_that_there_are(database: Database) -> None:
    set_pool(database, "api", 1)
    set_pool(database, "warehouse", 0)
    with database.read() as session:
        assert pools.pool_sizes(session, ["api", "warehouse", "nope"]) == {"api": 1, "warehouse": 0}
        assert pools.pool_sizes(session, []) == {}
        assert pools.pool_sizes(session, [f"p{number}" for number in range(1200)] + ["api"]) == {"api": 1}


def test_claims_are_counted_by_pool_and_executor(database: Database) -> None:
    me, _ = claim(database, "me", ("api", 1))
    claim(database, "one", ("api", 1), ("api", 2), ("warehouse", 4), (None, 1))
    claim(database, "two", ("api", 1), ("other", 1))
    assert elsewhere(database, ["warehouse", "api"], me) == [
        ("api", "one", 3),
        ("api", "two", 1),
        ("warehouse", "one", 4),
    ]
    assert elsewhere(database, [], me) == []
    assert elsewhere(database, ["nope"], me) == []


def test_the_owner_of_a_claim_is_told_for_its_lock_to_be_looked_at(database: Database) -> None:
    import os

    one, _ = claim(database, "one", ("api", 1))
    with database.read() as session:
        (found,) = pools.claimed_elsewhere(session, ["api"], one + 1)
    assert found.owner == Owner(one, "one", "host", os.getpid(), 7, None)


@pytest.mark.parametrize("state", sorted(set(S) - {S.RUNNING}))
def test_only_what_runs_takes_slots(database: Database, state: S) -> None:
    me, _ = claim(database, "me")
    _, (pk,) = claim(database, "one", ("api", 1))
    with database.write() as session:
        session.execute(update(TASK_INSTANCE).where(TASK_INSTANCE.c.id == pk).values(state=state))
    assert elsewhere(database, ["api"], me) == []


def test_the_list_counts_the_claims_of_owners_that_live(database: Database) -> None:
    set_pool(database, "api", 2)
    set_pool(database, "free", 2)
    claim(database, "living", ("api", 1), ("api", 1), ("gone", 1))
    claim(database, "dead", ("api", 4))
    assert [pool.slots_in_use for pool in listed(database)] == [6, 0]
    with database.read() as session:
        living = pools.list_pools(session, lambda owner: owner.token == "living")
    assert [pool.slots_in_use for pool in living] == [2, 0]


@pytest.mark.sqlite("which way SQLite takes")
def test_claims_are_found_by_the_index_of_claims(database: Database) -> None:
    """However many task instances the database holds."""
    from sqlalchemy import event

    seen: list[tuple[str, tuple[object, ...]]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: tuple[object, ...], *_rest: object) -> None:
        seen.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    elsewhere(database, ["api", "warehouse"], 1)
    event.remove(database.engine, "before_cursor_execute", note)
    (statement,) = [one for one in seen if "pool_slots" in one[0]]
    with database.read() as session:
        plan = session.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement[0]}", statement[1]).fetchall()
    details = " ".join(str(row[3]) for row in plan)
    assert "INDEX ix_liteflow_task_instance_pool (pool=?)" in details, details
