"""Power cuts at random moments of recorded runs: what was reported is there afterwards, and nothing is corrupt."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash import filewatch
from tests.crash.filewatch import Event, Operation
from tests.crash.flows import three
from tests.crash.harness import FLOWS, Nursery, explained, report, rounds, seeded
from tests.crash.invariants import check_invariants, missing, structure_problems
from tests.crash.ledger import Told
from tests.crash.powercut import MODES, Disk

PROGRAM = FLOWS / "three.py"

CUTS = rounds(6, 2000)
RESUMED = rounds(1, 50)
"""After how many of the cuts the runs are resumed as well."""

RUNS = ("one", "two", "three")


def record(nursery: Nursery, directory: Path, durability: str, dice: random.Random) -> list[Event]:
    """All that three runs do to the files, the second of them killed at a random call and resumed."""
    directory.mkdir()
    log = directory / filewatch.LOG
    log.touch()
    for run_id, signal_at in (("one", 0), ("two", dice.randrange(1, 100)), ("two", 0), ("three", 0)):
        program = nursery.start(
            PROGRAM, "run", run_id, durability, str(signal_at), directory=directory, mark="recorded"
        )
        with explained(directory, run_id=run_id, signal_at=signal_at):
            assert program.status() == (-signal.SIGKILL if signal_at else 0)
    return filewatch.read_log(log)


def moments(events: list[Event], dice: random.Random) -> list[int]:
    """How many events are over when the power goes. Half of the cuts come right after something was told, which is
    when something that is not safe yet is missed."""
    told = [number + 1 for number, event in enumerate(events) if event.operation is Operation.NOTE]
    anywhere = range(len(events) + 1)
    return sorted([*dice.choices(told, k=CUTS // 2), *dice.choices(anywhere, k=CUTS - CUTS // 2)])


def lost_after_cut(image: Path, told: list[Told]) -> list[str]:
    """What was told, and is not in the database that the power cut left."""
    with closing(sqlite3.connect(image / "flow.db")) as database:
        wrong = structure_problems(database)
        assert not wrong, f"the database is damaged: {wrong}"
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'liteflow_task_instance'").fetchone():
            return [str(line) for line in told]
        return missing(database, told)


@pytest.mark.parametrize("durability", ["normal", "full"])
def test_a_power_cut_takes_back_nothing_that_was_reported(
    watched_nursery: Nursery, tmp_path: Path, mark: str, durability: str
) -> None:
    dice = seeded(f"power cut {durability}")
    events = record(watched_nursery, tmp_path / "recorded", durability, dice)
    resumed = set(dice.sample(range(CUTS), RESUMED))
    disk = Disk(str(tmp_path / "recorded"))
    told: list[Told] = []
    tails = at = 0
    for number, cut in enumerate(moments(events, dice)):
        for event in events[at:cut]:
            if event.operation is Operation.NOTE:
                told.append(Told(*json.loads(event.data)))
            else:
                disk.take(event)
        at = cut
        mode = MODES[number % len(MODES)]
        image = tmp_path / f"cut-{number}"
        image.mkdir()
        disk.cut(image, mode, dice)
        with explained(image, cut=cut, mode=mode, of=len(events)):
            assert not lost_after_cut(image, [line for line in told if line.task is None])
            lost = lost_after_cut(image, [line for line in told if line.task is not None])
            assert not (lost and durability == "full"), lost
            tails += bool(lost)
            if number in resumed:
                resume(watched_nursery, image, durability, mark)
    assert (tails > 0) == (durability == "normal"), "or the cuts take nothing back at all, and prove nothing"
    report(f"power cut, durability={durability}", CUTS, note=f"{tails} lost a tail of a run that went on")


def resume(nursery: Nursery, image: Path, durability: str, mark: str) -> None:
    """All runs come to their ends on what is left."""
    for run_id in RUNS:
        assert nursery.start(PROGRAM, "run", run_id, durability, directory=image, mark=mark).status() == 0
    with closing(sqlite3.connect(image / "flow.db")) as database:
        ended = [Told(run_id, None, -1, 0, "success", three.VALUES) for run_id in RUNS]
        assert not missing(database, ended)
    check_invariants(image / "flow.db", mark=mark)
