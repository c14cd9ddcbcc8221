"""What the tests of real runs share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _one_slot_for_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot imports the test's own file, and pytest with it, which takes longer than most of these runs: one is enough
    where `dag.run()` and its like are not told how many they are to have."""
    monkeypatch.setattr("liteflow.execution.running.default_slots", lambda: 1)
