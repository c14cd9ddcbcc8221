"""Many processes that run dags on one file at the same time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.crash import ledger
from tests.crash.flows import crowd
from tests.crash.harness import FLOWS, Started, explained, output_of, report, rounds
from tests.crash.invariants import check_invariants

PROCESSES = rounds(4, 32)
SECONDS = rounds(2, 60)


def test_many_processes_on_one_file_never_see_it_locked_and_claim_nothing_twice(tmp_path: Path, mark: str) -> None:
    programs = [
        Started(FLOWS / "crowd.py", f"process-{number}", str(SECONDS), directory=tmp_path, mark=mark)
        for number in range(PROCESSES)
    ]
    try:
        with explained(tmp_path):
            for program in programs:
                assert program.status(SECONDS + 60) == 0
            assert "locked" not in output_of(tmp_path)
            told = ledger.told(tmp_path)
            check_invariants(tmp_path / "flow.db", acknowledged=told, mark=mark, was_killed=False)
    finally:
        for program in programs:
            program.kill()
    ended = {one.run: one for one in told if one.task is None}
    assert len(ended) > PROCESSES
    assert all(one.xcoms == crowd.VALUES for one in ended.values())
    begun = Counter(one[:3] for one in ledger.effects(tmp_path))
    assert set(begun.values()) == {1}, "each task instance was tried by one process, once"
    assert len(begun) == len(ended) * len(crowd.VALUES)
    report(f"{PROCESSES} processes on one file, {SECONDS} s", len(ended), note="count: runs")
