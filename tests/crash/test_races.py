"""Two processes at the same run, one of them stopped at a call that changes the database's files while the other acts.

The first is stopped before call n, or before its n-th request for the write lock, by SIGSTOP; the second does what it
can; then the first goes on. So each order of the two is tried that the calls can tell apart, without a sleep that
hopes to hit it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.crash import ledger
from tests.crash.evidence import Evidence
from tests.crash.flows import three
from tests.crash.harness import END_S, FLOWS, Nursery, Program, explained, is_full, output_of, report, rounds, seeded
from tests.crash.invariants import check_invariants, recorded_instances, recorded_runs
from tests.crash.test_killed_calls import calls_of_a_run, run

PROGRAM = FLOWS / "three.py"

CALLS = rounds(1, 100)
"""At how many of the calls that change a file the first is stopped, evenly spread: inside of transactions, mostly."""

LOCKS = range(2, 14) if is_full() else range(3, 11, 4)
"""Before which of its requests for the write lock the first is stopped: outside of transactions."""

LOOKS = 10
"""How many times in a row the second must be found asleep to be taken to wait for the first."""


def points(most: int, offset: int) -> list[int]:
    """Where the first is stopped, as `filewatch.begin` has it."""
    step = max(1, most // CALLS)
    return [*(-number for number in LOCKS), *range(1 + offset % step, most + 1, step)]


def race(watched: Nursery, other: Nursery, directory: Path, mark: str, actions: tuple[str, str], at: int) -> list[int]:
    """The first is stopped at a call, the second acts, the first goes on. Returns both statuses."""

    def start(nursery: Nursery, action: str, signal_at: int) -> Program:
        arguments = (action, "run", "normal", str(signal_at), str(int(signal.SIGSTOP)))
        return nursery.start(PROGRAM, *arguments, directory=directory, mark=mark)

    first = start(watched, actions[0], at)
    wait_until(lambda: first.status(0) is not None or _is_stopped(first.pid), "the first is stopped", timeout_s=END_S)
    second = start(other, actions[1], 0)
    _let_it_go_on_alone(second)
    os.kill(first.pid, signal.SIGCONT)
    statuses = [first.status(), second.status()]
    assert None not in statuses, "both come to an end"
    assert "Traceback" not in output_of(directory)
    return [status for status in statuses if status is not None]


def _let_it_go_on_alone(program: Program) -> None:
    """Until it is over, or does nothing any more: it waits for the first, and longer would not help it."""
    asleep = 0
    while asleep < LOOKS and program.status(0.05) is None:
        asleep = asleep + 1 if _states_of_threads(program.pid) == {"S"} else 0


def _is_stopped(pid: int) -> bool:
    return "T" in _states_of_threads(pid)


def _states_of_threads(pid: int) -> set[str]:
    states = set()
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            states.add(stat.read_text().rpartition(")")[2].split()[0])
        except OSError:
            continue  # the thread has just ended
    return states


Prepared = Callable[[], tuple[Path, Evidence]]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Prepared]:
    """Makes a directory and evidence for each point, and removes the directory before."""
    directory = tmp_path / "race"

    def make() -> tuple[Path, Evidence]:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        return directory, Evidence(directory)

    return make


def interrupted(watched: Nursery, mark: str, fresh: Prepared, most: int, dice: random.Random) -> tuple[Path, Evidence]:
    """A directory with a run that was killed at some call after it was recorded, and before it was over."""
    too_early, too_late = most // 2, most  # half of the calls make the tables
    while True:
        directory, evidence = fresh()
        at = dice.randrange(too_early, too_late)
        assert run(watched, directory, mark, "run", at) == -signal.SIGKILL
        with closing(sqlite3.connect(directory / "flow.db")) as database:
            states = list(recorded_runs(database).values())
        if not states:
            too_early = at + 1
            continue
        if states[0] in ("queued", "running"):
            return directory, evidence
        too_late = at


@pytest.mark.parametrize("action", ["run", "resume"])
def test_of_two_that_resume_a_run_at_once_one_drives_it(
    watched_nursery: Nursery, second_watched_nursery: Nursery, tmp_path: Path, mark: str, fresh: Prepared, action: str
) -> None:
    dice = seeded(f"two resume {action}")
    most = calls_of_a_run(watched_nursery, tmp_path / "counted")
    count = 0
    for at in points(most, dice.randrange(most)):
        directory, evidence = interrupted(watched_nursery, mark, fresh, most, dice)
        with explained(directory, at=at):
            evidence.look()
            statuses = race(watched_nursery, second_watched_nursery, directory, mark, (action, action), at)
            assert 0 in statuses
            _refused_clearly(directory, statuses)
            evidence.finish("run", three.VALUES)
            check_invariants(evidence.db_path, acknowledged=ledger.told(directory), mark=mark)
        count += 1
    report(f"two {action} of one interrupted run at once", count)


def _refused_clearly(directory: Path, statuses: list[int]) -> None:
    """Who did not get the run has one line that names the owner's process, or says that the run is over."""
    lines = (directory / "err.txt").read_text().splitlines()
    assert sum(status != 0 for status in statuses) <= len(lines) <= 1, lines
    assert all("process" in line or "is over already (success)" in line for line in lines), lines


def test_cancel_and_success_of_a_run_exclude_each_other(
    watched_nursery: Nursery, second_watched_nursery: Nursery, tmp_path: Path, mark: str, fresh: Prepared
) -> None:
    dice = seeded("cancel races success")
    most = calls_of_a_run(watched_nursery, tmp_path / "counted")
    outcomes: Counter[str] = Counter()
    for at in points(most // 2, dice.randrange(most)):
        directory, _ = fresh()
        with explained(directory, at=at):
            assert run(watched_nursery, directory, mark, "before") == 0
            # The database is there, and the run has begun in the second half of the calls.
            statuses = race(watched_nursery, second_watched_nursery, directory, mark, ("run", "cancel"), at)
            check_invariants(directory / "flow.db", acknowledged=ledger.told(directory), mark=mark, was_killed=False)
            outcomes[_outcome_of_cancel(directory, statuses)] += 1
    assert not is_full() or len(outcomes) > 1, f"always the same came first: {outcomes}"
    report("cancel racing success", sum(outcomes.values()), note=str(dict(outcomes)).replace("'", ""))


def _outcome_of_cancel(directory: Path, statuses: list[int]) -> str:
    with closing(sqlite3.connect(directory / "flow.db")) as database:
        state, reason = database.execute(
            "SELECT state, end_reason FROM liteflow_dag_run WHERE run_id = 'run'"
        ).fetchone()
        found = {key[1]: state for key, (state, _) in recorded_instances(database).items() if key[0] == "run"}
    if state == "success":
        assert set(found.values()) == {"success"}
        return "success"
    assert (state, reason) == ("failed", "cancelled")
    assert set(found.values()) <= {"success", "failed", "skipped"}
    assert statuses[1] == 0
    effects = Counter(one.task for one in ledger.effects(directory) if one.run == "run")
    assert all(effects[task] == 1 for task, state in found.items() if state == "success")
    return "cancelled"


def test_a_stopped_owner_that_was_robbed_by_force_records_nothing_afterwards(
    watched_nursery: Nursery, second_watched_nursery: Nursery, tmp_path: Path, mark: str, fresh: Prepared
) -> None:
    dice = seeded("forced")
    most = calls_of_a_run(watched_nursery, tmp_path / "counted")
    count = 0
    for at in points(most // 2, dice.randrange(most)):
        directory, _ = fresh()
        with explained(directory, at=at):
            assert run(watched_nursery, directory, mark, "before") == 0
            statuses = race(watched_nursery, second_watched_nursery, directory, mark, ("run", "force"), at)
            assert 0 in statuses
            # The robbed owner may have been told that its worker was killed, and its run failed, before it was robbed.
            told = [one for one in ledger.told(directory) if one.state == "success"]
            check_invariants(directory / "flow.db", acknowledged=told, mark=mark, was_killed=False)
            with closing(sqlite3.connect(directory / "flow.db")) as database:
                found = {key[1]: state for key, (state, _) in recorded_instances(database).items() if key[0] == "run"}
            assert set(found.values()) == {"success"}
            begun = Counter((one.task, one.try_number) for one in ledger.effects(directory) if one.run == "run")
            assert set(begun.values()) == {1}, "no try was begun twice"
        count += 1
    report("a living owner robbed by force at a call", count)
