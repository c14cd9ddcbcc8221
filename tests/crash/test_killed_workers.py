"""SIGKILL of workers at random moments, while their run goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.crash import ledger
from tests.crash.evidence import Evidence
from tests.crash.flows import twelve
from tests.crash.harness import FLOWS, Nursery, children, explained, report, rounds, seeded, wait_until_none_is_left
from tests.crash.invariants import check_invariants

KILLS = rounds(5, 50)

MOST_UNPROVEN = 2
"""In one run, of workers that have begun no task and may not be ready: at the third in a row the service gives up."""


@pytest.mark.parametrize("part", range(rounds(1, 40)))
def test_every_task_succeeds_though_workers_are_killed(nursery: Nursery, tmp_path: Path, mark: str, part: int) -> None:
    dice = seeded(f"killed workers {part}")
    evidence = Evidence(tmp_path, twelve.SENSORS)
    kills = number = 0
    with explained(tmp_path):
        while kills < KILLS:
            run_id = f"run-{number}"
            number += 1
            unproven = 0
            program = nursery.start(FLOWS / "twelve.py", run_id, directory=tmp_path, mark=mark)
            while program.status(dice.uniform(0, 0.15)) is None:
                proven = {one.pid for one in ledger.effects(tmp_path)}
                workers = children(program.pid)
                victims = workers if unproven < MOST_UNPROVEN else [pid for pid in workers if pid in proven]
                if kills < KILLS and victims:
                    victim = dice.choice(victims)
                    try:
                        os.kill(victim, signal.SIGKILL)
                    except ProcessLookupError:
                        continue  # the run has just ended by itself
                    unproven += victim not in proven
                    kills += 1
            assert program.status() == 0
            evidence.finish(run_id, twelve.VALUES)
        check_invariants(evidence.db_path, acknowledged=ledger.told(tmp_path), mark=mark, was_killed=False)
    report("SIGKILL of a worker at random moments", kills, note=f"{number} runs")


def test_a_worker_that_was_not_ready_does_not_outlive_a_host_that_dies_while_ending_it(
    nursery: Nursery, tmp_path: Path, mark: str
) -> None:
    """It was stopped before its lifeline was in place, and stayed so for ever."""
    with explained(tmp_path):
        program = nursery.start(FLOWS / "swept.py", directory=tmp_path, mark=mark)
        assert program.status() in (0, -signal.SIGKILL)
        wait_until_none_is_left(mark)
