"""SIGKILL of the process that drives a run, at random moments of its life, again and again until the run is done."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.crash import ledger
from tests.crash.evidence import Evidence
from tests.crash.flows import twelve
from tests.crash.harness import (
    FLOWS,
    Nursery,
    Program,
    Started,
    explained,
    killed_after,
    report,
    rounds,
    seeded,
    wait_until_none_is_left,
)
from tests.crash.invariants import check_invariants

PROGRAM = FLOWS / "twelve.py"

KILLS = rounds(5, 50)
"""In one directory: the files that the tasks read would grow too long."""

REAL_START = 0.1
"""The part of the programs that get a Python of their own; the others are forked from one that is warm."""


@pytest.mark.parametrize("part", range(rounds(1, 40)))
def test_a_run_that_is_killed_at_random_moments_is_resumed_and_loses_nothing(
    nursery: Nursery, tmp_path: Path, mark: str, part: int
) -> None:
    dice = seeded(f"killed runs {part}")
    evidence = Evidence(tmp_path, twelve.SENSORS)

    def start(run_id: str) -> Program:
        if dice.random() < REAL_START:
            return Started(PROGRAM, run_id, directory=tmp_path, mark=mark)
        return nursery.start(PROGRAM, run_id, directory=tmp_path, mark=mark)

    with explained(tmp_path):
        life_s = _run_to_the_end(start("undisturbed"), evidence, "undisturbed")
        kills = number = 0
        while kills < KILLS:
            run_id = f"run-{number}"
            number += 1
            while kills < KILLS and killed_after(start(run_id), dice.uniform(0, 0.8 * life_s)):
                kills += 1
                evidence.look()
                _perhaps_wait(dice, mark)
            _run_to_the_end(start(run_id), evidence, run_id)
        wait_until_none_is_left(mark)
        check_invariants(evidence.db_path, acknowledged=ledger.told(tmp_path), mark=mark)
    report("SIGKILL of the run's process at random moments, then resume", kills, note=f"{number} runs")


def _run_to_the_end(program: Program, evidence: Evidence, run_id: str) -> float:
    """Wait for it, and compare; returns how long it took."""
    begun = time.monotonic()
    assert program.status() == 0, f"run {run_id} did not come to its end"
    took_s = time.monotonic() - begun
    evidence.finish(run_id, twelve.VALUES)
    return took_s


def _perhaps_wait(dice: random.Random, mark: str) -> None:
    """Mostly the run is resumed at once, while its workers are still dying."""
    if dice.random() < 0.3:
        wait_until_none_is_left(mark, timeout_s=2)
