"""One service with two slots for each file of tests; every run of it is real.

Which engine and which database it has, `tests/engines.py` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from liteflow import ExecutorService, RunHandle
from tests.engines import ENGINE, database_of, executor_of

Run = Callable[..., Any]
Submit = Callable[..., RunHandle]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExecutorService]:
    """Two slots over a database of their own, and a pool for one task at a time."""
    with (
        executor_of() as executor,
        database_of(tmp_path_factory.mktemp("page")) as path,
        ExecutorService(path, max_workers=2, executor=executor, pools={"narrow": 1}) as service,
    ):
        yield service


@pytest.fixture(autouse=True)
def _nobody_waits_for_ever(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tasks that wait for a file that never comes end in a slot that is killed; threads wait on."""
    is_needed = ENGINE != "slots" and "tmp_path" in request.fixturenames
    directory: Path | None = request.getfixturevalue("tmp_path") if is_needed else None
    yield
    if directory is not None:
        (directory / "never").touch()


@pytest.fixture(scope="module")
def run(service: ExecutorService) -> Run:
    """Run a dag to its end."""

    def run(dag: Any, *args: Any, **kwargs: Any) -> Any:
        return service.submit(dag, *args, **kwargs).wait(timeout=30)

    return run


@pytest.fixture
def submit(service: ExecutorService) -> Iterator[Submit]:
    """Start a run, and look on. What a test that failed leaves running is cancelled: the slots are for all."""
    handles: list[RunHandle] = []

    def submit(dag: Any, *args: Any, **kwargs: Any) -> RunHandle:
        handles.append(service.submit(dag, *args, **kwargs))
        return handles[-1]

    yield submit
    for handle in handles:
        handle.cancel()
        handle.wait(timeout=30)
