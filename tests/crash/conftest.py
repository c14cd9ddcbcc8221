"""The nursery that all crash tests of a worker share, and the library that watches files."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import filewatch
from tests.crash.harness import Nursery, is_full, marked


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They start many processes, so they need more time than other tests have; and they need Linux."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(4 * 3600 if is_full() else 300))
            if sys.platform != "linux":
                item.add_marker(pytest.mark.skip(reason="looks into /proc: Linux only"))


@pytest.fixture
def mark() -> Iterator[str]:
    """For the environment of all programs of the test. What carries it afterwards is a finding, and is ended here."""
    made = secrets.token_hex(8)
    yield made
    for pid in marked(made):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def watcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library that watches what a program does to files."""
    if filewatch.compiler() is None:
        pytest.skip("needs a C compiler (cc) to watch the program's calls")
    return filewatch.build(tmp_path_factory.mktemp("filewatch"))


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where programs are forked from."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="session")
def watched_nursery(watcher: Path) -> Iterator[Nursery]:
    """The same, for programs that are watched."""
    made = Nursery(preload=watcher)
    yield made
    made.close()


@pytest.fixture(scope="session")
def second_watched_nursery(watcher: Path) -> Iterator[Nursery]:
    """Another one, for programs that run at the same time as one of the first."""
    made = Nursery(preload=watcher)
    yield made
    made.close()
