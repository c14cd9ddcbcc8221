"""The database in memory, on which the runs of tests are recorded."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, text

from liteflow.errors import StorageError
from liteflow.storage.engine import Database
from liteflow.storage.pools import list_pools, set_pool
from liteflow.storage.schema import HEAD, memory_database, open_database
from liteflow.storage.tables import POOL

SCHEMA = text("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")


@pytest.mark.sqlite("about a database in memory")
def test_it_has_the_schema_of_a_file(db: str) -> None:
    file = open_database(db, create=True)
    with file.read() as one, memory_database().read() as other:
        assert one.execute(SCHEMA).all() == other.execute(SCHEMA).all()
        assert other.scalar(text("SELECT version_num FROM liteflow_schema")) == HEAD
    file.close()


def test_a_scope_that_fails_leaves_nothing_and_the_rest_stays() -> None:
    database = memory_database()
    with database.write() as connection:
        set_pool(connection, "kept", 1)
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        set_pool(connection, "lost", 1)
        raise ZeroDivisionError
    with pytest.raises(StorageError, match="no such table"), database.write() as connection:
        set_pool(connection, "lost", 1)
        connection.execute(text("SELECT * FROM nowhere"))
    with database.read() as connection:
        assert [pool.name for pool in list_pools(connection)] == ["kept"]


def test_a_read_scope_cannot_write() -> None:
    database = memory_database()
    with pytest.raises(StorageError, match="readonly"), database.read() as connection:
        set_pool(connection, "lost", 1)
    with database.write() as connection:
        set_pool(connection, "kept", 1)


def test_threads_have_it_in_turn_and_others_are_others() -> None:
    database, other = memory_database(), memory_database()

    def add(number: int) -> None:
        with database.write() as connection:
            count = connection.scalar(select(func.count()).select_from(POOL))
            set_pool(connection, f"pool_{count}", number)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(100)))
    for one, count in ((database, 100), (other, 0)):
        with one.read() as connection:
            assert connection.scalar(select(func.count()).select_from(POOL)) == count


@pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")
def test_it_goes_when_nobody_holds_it() -> None:
    memory_database()
    gc.collect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_refused() -> None:
    database = memory_database()
    pid = os.fork()
    if pid == 0:
        try:
            with database.read():
                os._exit(1)
        except StorageError:
            os._exit(0)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_nobody_else_gets_one() -> None:
    with pytest.raises(StorageError, match="needs a database file"):
        Database("sqlite://")
