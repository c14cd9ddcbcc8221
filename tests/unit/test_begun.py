"""The memory in which a worker notes what it begins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from liteflow.execution.begun import Begun, shared_memory

NOTE = """
import os, signal, sys
from liteflow.execution.begun import Begun
begun = Begun(int(sys.argv[1]))
begun.note(7, 1_700_000_000_000_000, 123.5)
begun.note(8, 1_700_000_000_000_001, 124.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def memory() -> Iterator[int]:
    fd = shared_memory()
    yield fd
    os.close(fd)


def test_nothing_has_begun_before_it_is_noted(memory: int) -> None:
    assert Begun(memory).times_of(1) is None


def test_what_a_worker_noted_is_known_however_it_ended(memory: int) -> None:
    begun = Begun(memory)
    subprocess.run([sys.executable, "-c", NOTE, str(memory)], pass_fds=[memory], check=False)
    assert begun.times_of(8) == (1_700_000_000_000_001, 124.5)
    assert begun.times_of(7) is None, "only the one that was begun last is known"
    assert begun.times_of(9) is None


def test_the_memory_outlives_its_descriptor() -> None:
    fd = shared_memory()
    noting, reading = Begun(fd), Begun(fd)
    os.close(fd)
    noting.note(2**63, 5, 1.0)
    assert reading.times_of(2**63) == (5, 1.0)


def test_there_is_memory_where_the_system_has_no_call_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    fd = shared_memory()
    noting, reading = Begun(fd), Begun(fd)
    os.close(fd)
    noting.note(3, 5, 1.0)
    assert reading.times_of(3) == (5, 1.0)
