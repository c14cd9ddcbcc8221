"""What keeps a thread out of SQLite while another one forks the process."""

from __future__ import annotations

import threading
import time

import pytest

from liteflow.storage import forks
from liteflow.storage.forks import Gate
from tests.conftest import wait_until


class Inside:
    """A thread that is inside until it is let go."""

    def __init__(self, gate: Gate) -> None:
        self.is_in, self.may_leave = threading.Event(), threading.Event()
        self._gate = gate
        self.thread = threading.Thread(target=self._stay, daemon=True)
        self.thread.start()

    def _stay(self) -> None:
        with self._gate:
            self.is_in.set()
            self.may_leave.wait(20)

    def leave(self) -> None:
        self.may_leave.set()
        self.thread.join(20)


def test_a_fork_waits_for_a_thread_that_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "PATIENCE_S", 20)
    gate = Gate()
    other = Inside(gate)
    other.is_in.wait(20)
    forking = threading.Thread(target=gate.shut)
    forking.start()
    wait_until(lambda: gate._forks, "it is about to fork")
    assert forking.is_alive()
    other.leave()
    forking.join(20)
    assert not forking.is_alive()


def test_a_fork_does_not_wait_for_ever() -> None:
    gate = Gate()
    other = Inside(gate)
    other.is_in.wait(20)
    began = time.monotonic()
    gate.shut()
    assert forks.PATIENCE_S <= time.monotonic() - began < 10 * forks.PATIENCE_S
    gate.open()
    other.leave()


def test_a_fork_does_not_wait_for_its_own_thread_nor_keep_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "PATIENCE_S", 20)
    gate = Gate()
    began = time.monotonic()
    with gate:
        gate.shut()
        with gate:
            pass
        gate.open()
    assert time.monotonic() - began < 10


def test_nobody_goes_in_while_a_fork_goes_on() -> None:
    gate = Gate()
    gate.shut()
    gate.shut()  # in two threads at once
    other = Inside(gate)
    gate.open()
    assert not other.is_in.wait(0.05)
    gate.open()
    assert other.is_in.wait(20)
    other.leave()


def test_in_the_child_nobody_else_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "PATIENCE_S", 0.01)
    gate = Gate()
    other = Inside(gate)
    other.is_in.wait(20)
    with gate:
        gate.shut()
        gate.renew()
        assert (list(gate._inside.values()), gate._forks) == ([1], 0)
    assert not gate._inside
    other.leave()
