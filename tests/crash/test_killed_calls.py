"""SIGKILL at each call of a run that changes one of the database's files, then resume."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.crash import filewatch, ledger
from tests.crash.evidence import Evidence
from tests.crash.flows import three
from tests.crash.harness import FLOWS, Nursery, environment, explained, report, rounds, seeded
from tests.crash.invariants import check_invariants

PROGRAM = FLOWS / "three.py"

EVERY = rounds(40, 1)
PARTS = rounds(2, 12)


def run(nursery: Nursery, directory: Path, mark: str, run_id: str, signal_at: int = 0) -> int | None:
    """Run three tasks; returns the status of the program."""
    program = nursery.start(PROGRAM, "run", run_id, "normal", str(signal_at), directory=directory, mark=mark)
    return program.status()


def calls_of_a_run(nursery: Nursery, directory: Path) -> int:
    """How many calls a run makes that is not disturbed, from no database to its end."""
    directory.mkdir()
    log = directory / filewatch.LOG
    log.touch()
    assert run(nursery, directory, "counted", "counted") == 0
    uncounted = (filewatch.Operation.OPENED, filewatch.Operation.NOTE)
    return sum(event.operation not in uncounted for event in filewatch.read_log(log))


@pytest.mark.parametrize("part", range(PARTS))
def test_a_run_that_is_killed_at_any_call_is_resumed(
    watched_nursery: Nursery, tmp_path: Path, mark: str, part: int
) -> None:
    dice = seeded(f"killed calls {part}")
    most = calls_of_a_run(watched_nursery, tmp_path / "counted") + 1
    kills = 0
    for at in range(1 + dice.randrange(EVERY) + part * EVERY, most + 1, EVERY * PARTS):
        directory = tmp_path / str(at)
        directory.mkdir()
        evidence = Evidence(directory)
        with explained(directory, at=at):
            status = run(watched_nursery, directory, mark, "run", at)
            assert status in (0, -signal.SIGKILL)  # one call less now and then: which thread closes last varies
            while status != 0:
                kills += 1
                evidence.look()
                again = dice.randrange(1, most) if dice.random() < 0.3 else 0
                status = run(watched_nursery, directory, mark, "run", again)
                assert status in ((0, -signal.SIGKILL) if again else (0,))
            evidence.finish("run", three.VALUES)
            check_invariants(evidence.db_path, acknowledged=ledger.told(directory), mark=mark)
        shutil.rmtree(directory)
    assert kills >= most // (EVERY * PARTS) - 2
    report("SIGKILL at each write, sync, truncation and removal of a run of three tasks, then resume", kills)


def test_no_call_escapes_the_watch(watcher: Path, tmp_path: Path, mark: str) -> None:
    """The kernel's own account, through strace, holds the same calls as the log."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    names = {"pwrite64": "WRITE", "write": "WRITE", "ftruncate": "TRUNCATE", "unlink": "UNLINK", "rmdir": "UNLINK"}
    names |= {"fsync": "SYNC", "fdatasync": "SYNC"}
    files = [str(tmp_path / f"flow.db{suffix}") for suffix in ("", "-wal", "-shm", "-journal", ".locks")]
    (tmp_path / filewatch.LOG).touch()
    traced = subprocess.run(
        ["strace", "-f", "-qq", "-o", "trace.txt", "-e", f"trace={','.join(names)}"]
        + [part for file in files for part in ("-P", file)]
        + ["-E", f"LD_PRELOAD={watcher}", sys.executable, str(PROGRAM), "run", "traced"],
        cwd=tmp_path,
        env=environment(mark),
        capture_output=True,
        text=True,
        check=False,
    )
    if "Operation not permitted" in traced.stderr:
        pytest.skip(f"strace may not trace here: {traced.stderr.strip()}")
    assert traced.returncode == 0, traced.stderr
    lines = [line.split(None, 1)[1] for line in (tmp_path / "trace.txt").read_text().splitlines()]
    calls = [line.partition("(")[0] for line in lines if " = -1 " not in line and "resumed>" not in line]
    kernel = Counter(names[call] for call in calls if call in names)
    log = [event for event in filewatch.read_log(tmp_path / filewatch.LOG) if event.path in files]
    seen = Counter(event.operation.name for event in log if event.operation.name in kernel)
    assert seen == kernel
