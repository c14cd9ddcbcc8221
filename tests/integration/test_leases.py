"""Leases of executor services, on the database's clock: with SQLite's, whose statements are the same."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from liteflow.errors import LeaseLostError, StorageError
from liteflow.execution import places
from liteflow.execution.clock import steady_s
from liteflow.execution.leasing import LeaseKeeper
from liteflow.execution.liveness import OwnLock, is_alive
from liteflow.execution.processes import start_time_of
from liteflow.storage import leases, recording
from liteflow.storage.condition import services
from liteflow.storage.engine import Database
from liteflow.storage.history import Owner
from liteflow.storage.schema import open_database


@pytest.fixture
def database(db: str) -> Iterator[Database]:
    with closing(open_database(db, create=True)) as database:
        yield database


def service(database: Database, token: str = "one", *, seconds: float = 60.0, place: str = "far away") -> int:
    """An executor service with a lease; its key."""
    with database.write() as connection:
        pk = recording.record_executor(connection, token, "host", start_time_of(os.getpid()), 1)
        leases.begin(connection, pk, place, seconds)
        return pk


def owner_of(database: Database, pk: int) -> Owner:
    """The service as others read it."""
    with database.read() as connection:
        return next(one.owner for one in services(connection) if one.owner.pk == pk)


def test_a_service_lives_as_long_as_its_lease(database: Database) -> None:
    living, dead = service(database), service(database, "two", seconds=-1.0)
    assert is_alive(database.path, owner_of(database, living))
    assert not is_alive(database.path, owner_of(database, dead))


def test_a_lease_that_was_read_long_ago_does_not_look_alive_for_ever(database: Database) -> None:
    owner = owner_of(database, service(database, seconds=30.0))
    assert owner.lease_left_us is not None
    assert 25e6 < owner.lease_left_us <= 30e6
    before = Owner(1, "one", "host", 1, 7, None, "far away", owner.lease_left_us, read_at=owner.read_at - 40.0)
    assert owner.has_lease
    assert not before.has_lease


def test_a_lease_that_is_over_cannot_be_renewed(database: Database) -> None:
    pk = service(database, seconds=-1.0)
    with database.write() as connection:
        assert not leases.renew(connection, pk, 60.0)
        with pytest.raises(LeaseLostError, match="is over"):
            leases.refuse_lost(connection, pk, database.path)


def test_a_renewed_lease_holds_from_now_on(database: Database) -> None:
    pk = service(database, seconds=5.0)
    with database.write() as connection:
        assert leases.renew(connection, pk, 500.0)
    left = owner_of(database, pk).lease_left_us
    assert left is not None
    assert left > 400e6


def test_nobody_ends_a_lease_that_holds(database: Database) -> None:
    pk = service(database)
    owner = owner_of(database, pk)
    with database.write() as connection:
        assert not leases.end(connection, owner, 5, is_dead=False)
        assert leases.holds(connection, pk)


def test_a_service_whose_lock_is_seen_to_be_free_loses_its_lease_at_once(database: Database) -> None:
    pk = service(database)
    owner = owner_of(database, pk)
    with database.write() as connection:
        assert leases.end(connection, owner, 5, is_dead=True)
        assert not leases.holds(connection, pk)
        assert not leases.renew(connection, pk, 60.0), "also if it comes back"
        assert leases.end(connection, owner, 5, is_dead=False), "that has been noted"


def test_where_lock_files_lie_is_told_by_what_is_in_that_directory(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg://me:***@db/history"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert places.place_of(url) is None
    place = places.make_place(url)
    assert places.make_place(url) == place == places.place_of(url)
    assert places.make_place(url + "2") != place
    (places.lock_directory(url) / "place").unlink()
    assert places.make_place(url) != place, "another directory of that name"


def test_a_directory_of_another_user_holds_no_lock_files(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = "postgresql://db/history"
    places.make_place(url)
    places.lock_directory(url).parent.chmod(0o777)
    with pytest.raises(StorageError, match="others may write there"):
        places.make_place(url)


def test_a_lock_that_is_seen_from_here_tells_of_a_death_before_the_lease_does(
    database: Database, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = "postgresql+psycopg://db/history"
    pk = service(database, "abc", place=places.make_place(url))
    owner = owner_of(database, pk)
    assert not is_alive(url, owner), "its lock file is not there"
    lock = OwnLock(url, "abc")
    try:
        assert is_alive(url, owner)
        other = Owner(owner.pk, "abc", owner.host, 2**30, 1, None, owner.place, owner.lease_left_us)
        assert not is_alive(url, other), "its process is gone"
    finally:
        lock.release()


class Told:
    """What a keeper tells of a lost lease."""

    def __init__(self) -> None:
        self.error: LeaseLostError | None = None
        self.event = threading.Event()

    def __call__(self, error: LeaseLostError) -> None:
        self.error = error
        self.event.set()


def test_a_keeper_renews_its_lease(database: Database) -> None:
    pk = service(database, seconds=20.0)
    told = Told()
    keeper = LeaseKeeper(database, pk, told, began_at=steady_s(), renew_s=0.01, lost_s=45.0, lease_s=900.0)
    keeper.start()
    try:
        wait = threading.Event()
        for _ in range(500):
            left = owner_of(database, pk).lease_left_us
            if left is not None and left > 800e6:
                break
            wait.wait(0.01)
        else:
            pytest.fail("it was not renewed")
    finally:
        keeper.stop()
    assert told.error is None


def test_a_keeper_that_cannot_reach_the_database_gives_up_in_time(database: Database) -> None:
    pk = service(database)
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE liteflow_executor RENAME TO gone")
    told = Told()
    keeper = LeaseKeeper(database, pk, told, began_at=steady_s(), renew_s=0.01, lost_s=0.2, lease_s=60.0)
    keeper.start()
    assert told.event.wait(30)
    assert "could not be renewed for 0.2 s" in str(told.error)
    assert ("no such table" if database.is_file else '"liteflow_executor" does not exist') in str(told.error)


def test_a_keeper_sees_that_its_runs_were_taken_over(database: Database) -> None:
    pk = service(database)
    with database.write() as connection:
        assert leases.end(connection, owner_of(database, pk), 5, is_dead=True)
    told = Told()
    LeaseKeeper(database, pk, told, began_at=steady_s(), renew_s=0.01, lost_s=45.0, lease_s=60.0).start()
    assert told.event.wait(30)
    assert "took its runs over" in str(told.error)


def test_a_lease_that_was_renewed_is_kept_though_connections_of_the_dead_cannot_be_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_connection: object) -> int:
        raise PermissionError("permission denied for function pg_terminate_backend")

    monkeypatch.setattr(leases, "end_connections_of_dead", refused)
    pk = service(database)
    told, renewals = Told(), threading.Semaphore(0)
    keeper = LeaseKeeper(
        database,
        pk,
        told,
        began_at=steady_s(),
        renew_s=0.01,
        lost_s=0.5,
        lease_s=60.0,
        renewed=lambda _until: renewals.release(),
    )
    keeper.start()
    try:
        until = steady_s() + 1.0
        while steady_s() < until:
            assert renewals.acquire(timeout=30)
    finally:
        keeper.stop()
    assert told.error is None


def test_lock_files_of_a_service_that_lives_do_not_grow_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What removes old files of temporary directories would make it look dead, and its tries like none."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = "postgresql+psycopg://db/history"
    places.make_place(url)
    lock = OwnLock(url, "abc")
    try:
        directory = places.lock_directory(url)
        names = ("abc.lock", "abc.1234.slot", "place", "other.lock")
        for path in (directory / name for name in names):
            path.touch()
            os.utime(path, (1.0, 1.0))
        lock.touch()
        assert [name for name in names if (directory / name).stat().st_mtime == 1.0] == ["other.lock"]
    finally:
        lock.release()


def test_a_directory_that_is_shared_with_another_machine_or_container_is_another_place_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody there can see whether a process of ours lives."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = "postgresql+psycopg://db/history"
    place = places.make_place(url)
    assert len(place) <= 64, "what the column holds"
    places._view.cache_clear()
    monkeypatch.setattr("os.readlink", lambda _path: "pid:[1]")
    try:
        assert places.place_of(url) not in (None, place)
    finally:
        places._view.cache_clear()
