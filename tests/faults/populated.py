"""A small database with a row in every table, made without running anything."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from liteflow.storage.schema import open_database

NOW = 1_767_225_600_000_000
"""2026-01-01, in microseconds."""


@contextmanager
def changing(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous=OFF")
    try:
        with connection:
            yield connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


def fill(connection: sqlite3.Connection) -> None:
    """One dag with one run of two tasks, and a row in every table that is shown."""
    connection.executescript(
        f"""
        INSERT INTO liteflow_executor (id, token, host, pid, process_started_at, started_at, ended_at)
            VALUES (1, 'abc', 'host', 4242, 7, {NOW}, NULL);
        INSERT INTO liteflow_dag (id, dag_id, description, tags, params, file, structure_digest, created_at, updated_at)
            VALUES (1, 'etl', 'Orders', '["a"]', '{{"day": 1}}', 'etl.py', 'd', {NOW}, {NOW});
        INSERT INTO liteflow_dag_run (id, dag_pk, run_id, state, logical_date, params, structure_digest, executor_pk,
            created_at, started_at, ended_at)
            VALUES (1, 1, 'r1', 'running', {NOW}, '{{"day": 1}}', 'd', 1, {NOW}, {NOW}, NULL);
        INSERT INTO liteflow_task_instance (id, run_pk, task_id, map_index, upstream, trigger_rule, state, end_reason,
            generation, try_number, crashes, executor_pk, error, started_at, ended_at, pool, pool_slots,
            rendered_map_index)
            VALUES (1, 1, 'extract', 0, '[]', 'all_success', 'success', NULL, 0, 2, 0, 1, NULL, {NOW}, {NOW} + 5,
                NULL, NULL, 'label'),
            (2, 1, 'load', -1, '["extract"]', 'all_success', 'running', NULL, 0, 1, 0, 1, NULL, {NOW}, NULL,
                'pool', 1, NULL);
        INSERT INTO liteflow_task_try (id, task_instance_pk, try_number, generation, state, error, started_at, ended_at)
            VALUES (1, 1, 1, 0, 'up_for_retry', 'oops', {NOW}, {NOW} + 5);
        INSERT INTO liteflow_xcom VALUES (1, 1, 'return_value', 'json', 2, x'{sha256(b"[]").hexdigest()}', x'5b5d');
        INSERT INTO liteflow_log_record VALUES (1, 1, 1, {NOW}, 20, 'logger', 'message');
        INSERT INTO liteflow_pool VALUES (1, 'pool', 2, 'words');
        """
    )


def populate(path: Path) -> Path:
    """Make the database as liteflow makes it, with those rows."""
    open_database(path, create=True).close()
    with changing(path) as connection:
        fill(connection)
    return path
