"""Whether a database is sound: SQLite's own checks, the schema, and what must hold between rows of the state tables.

What must hold is true after every commit of the program, so also after a kill, before anybody has resumed the run: a
task instance that runs for an executor service that is dead is interrupted, and no damage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from enum import StrEnum
from hashlib import sha256

from sqlalchemy import Connection, RowMapping, exc, inspect, text

from liteflow.states import TERMINAL, EndReason, RunState, TaskInstanceState, instance_name
from liteflow.storage.schema import open_database
from liteflow.storage.tables import metadata

MOST_OF_A_KIND = 20
"""How many rows of one kind are named; of the others their number is told."""

_S = TaskInstanceState


def check(db_path: str | os.PathLike[str] | None = None) -> list[str]:
    """What is wrong with a database at head, a line each: damage, dangling rows, a schema that is not the models',
    and states that cannot be. Raises StorageError when it cannot be opened or read at all."""
    with open_database(db_path, pooled=False).read() as connection:
        # Each needs what the one before it has found to be sound.
        # A server looks after its pages, and keeps foreign keys always.
        is_file = connection.dialect.name == "sqlite"
        damage = _damage(connection) if is_file else []
        if damage:
            connection.rollback()  # a COMMIT would read the schema, which may be what is damaged
            return damage
        return (_dangling(connection) if is_file else []) + _differences(connection) or invariants(connection)


def invariants(connection: Connection) -> list[str]:
    """What rows of the state tables say that cannot be, a line each with the ids; empty when all is well.

    `connection` is a read scope of a database at head. Runs that go on, and interrupted ones, are looked at as well.
    """
    found: list[str] = []
    for what, condition in _RUN_RULES:
        found += _told(_run_line(row, what) for row in _rows(connection, _RUNS.format(condition)))
    # SQLite holds a value of any type in any column.
    is_no_integer = "typeof(i.map_index) <> 'integer'" if connection.dialect.name == "sqlite" else "false"
    for what, condition in _INSTANCE_RULES:
        statement = _INSTANCES.format(condition.replace("{is_no_integer}", is_no_integer))
        found += _told(_instance_line(row, what) for row in _rows(connection, statement))
    return found + _told(_changed_xcoms(connection))


def _damage(connection: Connection) -> list[str]:
    try:
        rows = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    except exc.DatabaseError as error:
        if getattr(error.orig, "sqlite_errorname", "").startswith("SQLITE_CORRUPT"):
            return [f"integrity: {error.orig}"]  # so bad that SQLite does not get to the end
        raise
    return [f"integrity: {told}" for told in rows if told != "ok"]


def _dangling(connection: Connection) -> list[str]:
    return [
        f"foreign key: {row[0]} row {row[1]} refers to a missing row of {row[2]}"
        for row in connection.exec_driver_sql("PRAGMA foreign_key_check")
    ]


def _differences(connection: Connection) -> list[str]:
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    found = []
    for table in metadata.sorted_tables:
        if table.name not in there:
            found.append(f"schema: table {table.name} is missing")
            continue
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        indexes = {index["name"] for index in inspector.get_indexes(table.name)}
        found += [f"schema: column {table.name}.{c.name} is missing" for c in table.columns if c.name not in columns]
        found += [f"schema: index {i.name} is missing" for i in table.indexes if i.name not in indexes]
    return found


def _words(values: type[StrEnum] | Sequence[StrEnum] | frozenset[TaskInstanceState]) -> str:
    """Words of an enum as a list in SQL."""
    return ", ".join(f"'{value}'" for value in sorted(values))


_OVER = _words([state for state in RunState if state.is_terminal])
_DELAYED = _words([_S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE])
_TRIED = _words([_S.RUNNING, _S.SUCCESS, _S.FAILED, _S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE])

_MARKS = (_S.SUCCESS, _S.FAILED, _S.SKIPPED)

_RUNS = """
SELECT d.dag_id, r.run_id, r.state, r.end_reason
FROM liteflow_dag_run r JOIN liteflow_dag d ON d.id = r.dag_pk WHERE {} ORDER BY r.id
"""

_RUN_RULES = (
    ("is in a state that there is not", f"r.state NOT IN ({_words(RunState)})"),
    ("ended for a reason that there is not", f"r.end_reason NOT IN ({_words(EndReason)})"),
    ("is over, and has no time of its end", f"r.state IN ({_OVER}) AND r.ended_at IS NULL"),
    (
        "is not over, and has a time or reason of its end",
        f"r.state NOT IN ({_OVER}) AND (r.ended_at IS NOT NULL OR r.end_reason IS NOT NULL)",
    ),
    ("runs, and nobody ever drove it", "r.state = 'running' AND (r.executor_pk IS NULL OR r.started_at IS NULL)"),
    (
        "is over, and callbacks of it are still due",
        f"r.state IN ({_OVER}) AND EXISTS (SELECT 1 FROM liteflow_callback c WHERE c.run_pk = r.id)",
    ),
    (
        "has callbacks of another run's task instances",
        (
            "EXISTS (SELECT 1 FROM liteflow_callback c JOIN liteflow_task_instance i ON i.id = c.task_instance_pk "
            "WHERE c.run_pk = r.id AND i.run_pk <> r.id)"
        ),
    ),
)

_INSTANCES = """
SELECT d.dag_id, r.run_id, i.task_id, i.map_index, i.state, i.end_reason
FROM liteflow_task_instance i JOIN liteflow_dag_run r ON r.id = i.run_pk JOIN liteflow_dag d ON d.id = r.dag_pk
WHERE ({}) AND coalesce(r.end_reason, '') <> 'pruned' ORDER BY i.id
"""

_TRIES = "SELECT 1 FROM liteflow_task_try t WHERE t.task_instance_pk = i.id"
_MOST_TRIES = "(SELECT coalesce(max(t.try_number), 0) FROM liteflow_task_try t WHERE t.task_instance_pk = i.id)"
_COUNT_OF_TRIES = "(SELECT count(*) FROM liteflow_task_try t WHERE t.task_instance_pk = i.id)"

_INSTANCE_RULES = (
    ("is in a state that there is not", f"i.state NOT IN ({_words(_S)})"),
    ("ended for a reason that there is not", f"i.end_reason NOT IN ({_words(EndReason)})"),
    ("is not over, and its run is", f"r.state IN ({_OVER}) AND i.state NOT IN ({_words(TERMINAL)})"),
    ("runs in a run that does not", "i.state = 'running' AND r.state <> 'running'"),
    (
        "runs for another executor than the run's",
        "i.state = 'running' AND coalesce(i.executor_pk, 0) <> coalesce(r.executor_pk, 0)",
    ),
    (
        "runs, and has a time or reason of its end",
        "i.state = 'running' AND (i.ended_at IS NOT NULL OR i.end_reason IS NOT NULL)",
    ),
    (
        "is over, and has no time of its end",  # one that is removed may have none
        f"i.state IN ({_words(TERMINAL - {_S.REMOVED})}) AND i.ended_at IS NULL",
    ),
    ("waits for a time, and has none", f"i.state IN ({_DELAYED}) AND i.due_at IS NULL"),
    ("has a time for which it does not wait", f"i.state NOT IN ({_DELAYED}) AND i.due_at IS NOT NULL"),
    (
        "has no try that would explain its state",
        f"i.state IN ({_TRIED}) AND i.try_number < 1 AND coalesce(i.end_reason, '') NOT IN ('marked', 'reused')",
    ),
    (
        "was marked by nobody",  # who marks it starts it anew, and it is over from then on
        f"i.end_reason = 'marked' AND (i.generation < 1 OR i.state NOT IN ({_words([*_MARKS, _S.REMOVED])}))",
    ),
    (
        "is reused, and its run began with no other's values, or it has run",
        (
            "i.end_reason = 'reused' AND (r.rerun_of IS NULL OR i.try_number > 0 "
            f"OR i.state NOT IN ({_words([_S.SUCCESS, _S.SKIPPED, _S.REMOVED])}))"
        ),
    ),
    ("waits for its first try, and has had one", "i.state = 'pending' AND i.generation = 0 AND i.try_number > 0"),
    (
        "has counts that cannot be",
        (
            "{is_no_integer} OR i.map_index < -1 OR i.generation < 0 OR i.try_number < 0 "
            "OR i.crashes < 0 OR i.reschedules < 0 OR i.uncounted_tries NOT BETWEEN 0 AND i.try_number"
        ),
    ),
    (
        "has tries that are not numbered 1, 2, ... without a gap",
        f"{_COUNT_OF_TRIES} <> {_MOST_TRIES} OR EXISTS ({_TRIES} AND t.try_number < 1)",
    ),
    # The latest try stands in the task instance alone, and in both places once that was started anew.
    (
        "has lost tries, or has some that were never made",
        f"{_MOST_TRIES} NOT BETWEEN i.try_number - 1 AND i.try_number",
    ),
    (
        "has its latest try twice",
        (
            f"EXISTS ({_TRIES} AND t.try_number = i.try_number "
            "AND (t.generation >= i.generation OR (i.started_at IS NOT NULL AND i.state <> 'removed')))"
        ),
    ),
    (
        "has a try in a state that there is not",
        f"EXISTS ({_TRIES} AND (t.state NOT IN ({_words(_S)}) OR t.end_reason NOT IN ({_words(EndReason)})))",
    ),
    ("has a try of a generation that has not begun", f"EXISTS ({_TRIES} AND t.generation > i.generation)"),
    (
        "was recorded as success more than once without having been started anew",
        (
            "1 < (SELECT max(count) FROM (SELECT count(*) AS count FROM "
            "(SELECT t.generation FROM liteflow_task_try t WHERE t.task_instance_pk = i.id AND t.state = 'success' "
            "UNION ALL SELECT i.generation WHERE i.state = 'success') AS successes GROUP BY generation) AS counts)"
        ),
    ),
    (
        "has XComs, and its state says that it handed on none",
        (
            f"i.state NOT IN ({_words([_S.SUCCESS, _S.FAILED, _S.SKIPPED, _S.REMOVED])}) "
            "AND EXISTS (SELECT 1 FROM liteflow_xcom x WHERE x.task_instance_pk = i.id)"
        ),
    ),
    (
        "has log lines of a try that was never made",
        (
            "EXISTS (SELECT 1 FROM liteflow_log_record l WHERE l.task_instance_pk = i.id "
            "AND l.try_number NOT BETWEEN 0 AND i.try_number)"
        ),
    ),
    (
        "is one of a mapped task that is not numbered 0, 1, ... without a gap",
        (
            "i.id IN (SELECT min(j.id) FROM liteflow_task_instance j WHERE j.state <> 'removed' "
            "GROUP BY j.run_pk, j.task_id HAVING NOT ((min(j.map_index) = -1 AND count(*) = 1) "
            "OR (min(j.map_index) = 0 AND max(j.map_index) = count(*) - 1)))"
        ),
    ),
)

_XCOMS = """
SELECT d.dag_id, r.run_id, i.task_id, i.map_index, i.state, i.end_reason, x.key, x.size_bytes, x.sha256, x.value
FROM liteflow_xcom x JOIN liteflow_task_instance i ON i.id = x.task_instance_pk
JOIN liteflow_dag_run r ON r.id = i.run_pk JOIN liteflow_dag d ON d.id = r.dag_pk ORDER BY x.id
"""


def _changed_xcoms(connection: Connection) -> Iterator[str]:
    for row in _rows(connection, _XCOMS):
        value = row["value"]
        if not isinstance(value, bytes) or (len(value), sha256(value).digest()) != (row["size_bytes"], row["sha256"]):
            yield _instance_line(row, f"has an XCom {row['key']!r} that is not what was stored")


def _rows(connection: Connection, statement: str) -> Iterator[RowMapping]:
    # One at a time: XComs may be large.
    with connection.execute(text(statement).execution_options(yield_per=1)) as result:
        yield from result.mappings()


def _told(lines: Iterator[str]) -> list[str]:
    """The first lines, and how many more there are."""
    found: list[str] = []
    more = 0
    for line in lines:
        if len(found) < MOST_OF_A_KIND:
            found.append(line)
        else:
            more += 1
    return [*found, f"... and {more:,} more like the last one"] if more else found


def _run_line(row: RowMapping, what: str) -> str:
    return f"run {row['dag_id']}/{row['run_id']} ({_stands(row)}) {what}"


def _instance_line(row: RowMapping, what: str) -> str:
    index = row["map_index"]
    name = instance_name(row["task_id"], index) if isinstance(index, int) else f"{row['task_id']}[{index!r}]"
    return f"task instance {row['dag_id']}/{row['run_id']} {name} ({_stands(row)}) {what}"


def _stands(row: RowMapping) -> str:
    return str(row["state"]) + (f", {row['end_reason']}" if row["end_reason"] else "")
