"""Engines and databases that the same tests run over: chosen by two environment variables, slots on SQLite by default.

LITEFLOW_TEST_ENGINE=threads pytest tests/processes/semantics tests/processes/test_same_states.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

ENGINE = os.environ.get("LITEFLOW_TEST_ENGINE", "slots")
"""`slots`, `threads` or `dask`."""
DATABASE = os.environ.get("LITEFLOW_TEST_DATABASE", "sqlite")
"""`sqlite` or `postgresql`."""


@contextmanager
def executor_of(name: str = ENGINE) -> Iterator[Executor | str | None]:
    """What `executor=` is for an engine of that name, for as long as the block lasts."""
    if name == "slots":
        yield None
    elif name == "threads":
        yield "threads"
    elif name == "dask":
        from tests.dask_cluster import client_of_session

        yield client_of_session(threads=8).get_executor()  # what is ended goes on, and must not hold up the rest
    else:
        raise LookupError(f"LITEFLOW_TEST_ENGINE={name}: there is no such engine")


@contextmanager
def database_of(directory: Path, name: str = DATABASE) -> Iterator[str]:
    """A fresh database: its path, or its URL. `directory` is one of pytest's own, directly below its base."""
    if name == "sqlite":
        yield str(directory / "test.db")
    elif name == "postgresql":
        from tests.postgres import server_of_session

        with server_of_session(directory.parent).database() as url:
            yield url
    else:
        raise LookupError(f"LITEFLOW_TEST_DATABASE={name}: there is no such database")
