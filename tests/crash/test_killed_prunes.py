"""SIGKILL at the calls with which a prune changes the database: what is left is sound, and the next one finishes."""

from __future__ import annotations

import shutil
import signal
from contextlib import closing
from pathlib import Path

from liteflow.storage.checking import check
from liteflow.storage.schema import open_database
from tests.crash import filewatch
from tests.crash.flows import forget
from tests.crash.harness import FLOWS, Nursery, explained, report, rounds, seeded
from tests.pasts import dead_executor, make_run, run_ids

PROGRAM = FLOWS / "forget.py"

KILLS = rounds(4, 400)


def make_past(directory: Path) -> None:
    """A run that goes in several steps, and two small ones."""
    directory.mkdir()
    with closing(open_database(directory / "flow.db", create=True)) as database:
        executor_pk = dead_executor(database)
        make_run(database, executor_pk, "large", days_ago=3, mapped=900, lines=2)
        make_run(database, executor_pk, "small", days_ago=2, value=b"x" * 20_000)
        make_run(database, executor_pk, "other", days_ago=1)


def test_a_prune_that_is_killed_is_finished_by_the_next(watched_nursery: Nursery, tmp_path: Path, mark: str) -> None:
    past = tmp_path / "past"
    make_past(past)
    counted = tmp_path / "counted"
    shutil.copytree(past, counted)
    (counted / filewatch.LOG).touch()
    assert watched_nursery.start(PROGRAM, "0", directory=counted, mark=mark).status() == 0
    uncounted = (filewatch.Operation.OPENED, filewatch.Operation.NOTE)
    most = sum(event.operation not in uncounted for event in filewatch.read_log(counted / filewatch.LOG))
    assert most > 50
    dice = seeded("killed prunes")
    kills, parts = 0, 0
    for number in range(KILLS):
        at = 1 + int(most * number / KILLS) + dice.randrange(max(1, most // KILLS))
        directory = tmp_path / str(number)
        shutil.copytree(past, directory)
        with explained(directory, at=at):
            status = watched_nursery.start(PROGRAM, str(at), directory=directory, mark=mark).status()
            assert status in (0, -signal.SIGKILL)
            kills += status != 0
            path = str(directory / "flow.db")
            assert check(path) == []
            with closing(open_database(path)) as database, database.read() as connection:
                rows = connection.exec_driver_sql("SELECT end_reason FROM liteflow_dag_run").scalars().all()
            parts += "pruned" in rows
            forget.forget(path)
            assert check(path) == []
            with closing(open_database(path)) as database:
                assert run_ids(database) == []
        shutil.rmtree(directory)
    assert kills >= KILLS - 1
    assert parts, "some were killed in the middle of a run"
    report("prunes killed at a call that changes a file", kills)
