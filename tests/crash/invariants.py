"""What must hold in every database after every fault, whatever happened: asked by other means than the program's."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from liteflow.storage.engine import Database
from liteflow.storage.xcoms import decode
from tests.crash.harness import wait_until_none_is_left
from tests.crash.ledger import Told

FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")


def check_invariants(
    db_path: str | os.PathLike[str],
    *,
    acknowledged: Iterable[Told] = (),
    mark: str | None = None,
    in_use: bool = False,
    was_killed: bool = True,
    all_over: bool = True,
) -> None:
    """Raise AssertionError with what is wrong with the database, or with what its users left behind.

    `acknowledged`: what a program was told to be recorded. `mark`: no process with it may be left. `in_use`: somebody
    still has the database open, or was killed and nobody has opened it since; otherwise it must be one file
    again, but for the lock files of killed owners (`was_killed`). `all_over`: no run may be unfinished.
    """
    path = Path(db_path)
    if mark is not None:
        wait_until_none_is_left(mark)
    if not in_use:
        wrong = [name for name in ("-wal", "-shm", "-journal") if Path(f"{path}{name}").exists()]
        assert not wrong, f"{path}: nobody uses it, and there is still {wrong}"
        held = _held_locks(path)
        assert not held, f"{path}: nobody uses it, and these locks are held: {held}"
        assert was_killed or not Path(f"{path}.locks").exists(), f"{path}.locks is left"
    with closing(sqlite3.connect(path, timeout=60 if in_use else 0, isolation_level=None)) as database:
        wrong = [*structure_problems(database), *state_problems(database, path, all_over=all_over)]
        wrong += missing(database, acknowledged)
        database.execute("BEGIN IMMEDIATE")  # raises "database is locked" when somebody holds a transaction open
        database.execute("ROLLBACK")
    wrong += _own_opinion(path)
    assert not wrong, f"{path}: " + "\n".join(wrong)


def structure_problems(database: sqlite3.Connection) -> list[str]:
    """What SQLite itself finds."""
    found = [f"integrity: {row[0]}" for row in database.execute("PRAGMA integrity_check") if row[0] != "ok"]
    return found + [f"foreign key: {row}" for row in database.execute("PRAGMA foreign_key_check")]


def state_problems(database: sqlite3.Connection, path: Path, *, all_over: bool) -> list[str]:
    """What the rows say that cannot be."""
    wrong = []
    successes: Counter[tuple[int, int]] = Counter()
    for table, key in (("liteflow_task_instance", "id"), ("liteflow_task_try", "task_instance_pk")):
        for pk, generation in database.execute(f"SELECT {key}, generation FROM {table} WHERE state = 'success'"):
            successes[pk, generation] += 1
    wrong += [f"succeeded {n} times: task instance and generation {key}" for key, n in successes.items() if n > 1]
    unfinished = f"NOT IN {FINISHED}"
    for run, state, task, index, instance in database.execute(
        "SELECT r.run_id, r.state, i.task_id, i.map_index, i.state FROM liteflow_dag_run r "
        f"JOIN liteflow_task_instance i ON i.run_pk = r.id WHERE r.state IN ('success', 'failed') "
        f"AND i.state {unfinished}"
    ):
        wrong.append(f"run {run} is {state}, its {task}[{index}] still {instance}")
    for run, task, index, token in database.execute(
        "SELECT r.run_id, i.task_id, i.map_index, e.token FROM liteflow_task_instance i "
        "JOIN liteflow_dag_run r ON r.id = i.run_pk LEFT JOIN liteflow_executor e ON e.id = i.executor_pk "
        "WHERE i.state = 'running'"
    ):
        if token is None or f"{token}.lock" not in _held_locks(path):
            wrong.append(f"run {run}: {task}[{index}] is running, and its owner is dead ({token})")
    if all_over:
        for run, state in database.execute("SELECT run_id, state FROM liteflow_dag_run WHERE ended_at IS NULL"):
            wrong.append(f"run {run} is {state}, and should be over")
        (left,) = database.execute("SELECT count(*) FROM liteflow_callback").fetchone()
        wrong += [f"{left} callbacks were never called"] if left else []
    for key, digest, size, value in database.execute("SELECT key, sha256, size_bytes, value FROM liteflow_xcom"):
        if (sha256(value).digest(), len(value)) != (digest, size):
            wrong.append(f"XCom {key} is not what was stored")
    return wrong


def missing(database: sqlite3.Connection, acknowledged: Iterable[Told]) -> list[str]:
    """What was told to be recorded, and is not."""
    wrong = []
    runs, instances, xcoms = recorded_runs(database), recorded_instances(database), recorded_xcoms(database)
    for line in acknowledged:
        if line.task is not None:
            found = instances.get((line.run, line.task, line.map_index))
            if found != ("success", line.try_number):
                wrong.append(f"told of {line}, and the database has {found}")
        elif runs.get(line.run) != line.state:
            wrong.append(f"told that run {line.run} is {line.state}, and the database has {runs.get(line.run)}")
        else:
            for name, value in (line.xcoms or {}).items():
                if xcoms.get((line.run, name)) != value:
                    wrong.append(
                        f"run {line.run} handed on {name}={value!r}, and it is {xcoms.get((line.run, name))!r}"
                    )
    return wrong


def recorded_runs(database: sqlite3.Connection) -> dict[str, str]:
    """Run ids to states."""
    return dict(database.execute("SELECT run_id, state FROM liteflow_dag_run"))


def recorded_instances(database: sqlite3.Connection) -> dict[tuple[str, str, int], tuple[str, int]]:
    """Run id, task id and map index to state and number of the latest try."""
    rows = database.execute(
        "SELECT r.run_id, i.task_id, i.map_index, i.state, i.try_number "
        "FROM liteflow_task_instance i JOIN liteflow_dag_run r ON r.id = i.run_pk"
    )
    return {(run, task, index): (state, number) for run, task, index, state, number in rows}


def recorded_xcoms(database: sqlite3.Connection) -> dict[tuple[str, str], Any]:
    """Run id and task id (with `[map index]`) to the value that the task returned."""
    rows = database.execute(
        "SELECT r.run_id, i.task_id, i.map_index, x.encoding, x.value FROM liteflow_xcom x "
        "JOIN liteflow_task_instance i ON i.id = x.task_instance_pk JOIN liteflow_dag_run r ON r.id = i.run_pk "
        "WHERE x.key = 'return_value'"
    )
    return {
        (run, task if index < 0 else f"{task}[{index}]"): decode(encoding, value)
        for run, task, index, encoding, value in rows
    }


def _held_locks(path: Path) -> list[str]:
    """The lock files that a living process holds."""
    held = []
    for lock in Path(f"{path}.locks").glob("*.lock"):
        with open(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(lock.name)
    return held


def _own_opinion(path: Path) -> list[str]:
    """What the program's own check finds."""
    if find_spec("liteflow.storage.checking") is None:
        return []
    checking = import_module("liteflow.storage.checking")
    database = Database(path)
    try:
        with database.read() as session:
            return list(checking.invariants(session))
    finally:
        database.close()
