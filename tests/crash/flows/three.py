"""Three tasks in a chain, run while a watch counts, records or interrupts what is done to the database's files.

Usage: three.py ACTION RUN_ID [DURABILITY [SIGNAL_AT [SIGNAL]]]: run, resume, force (resume from a living owner) or
cancel (if there is such a run); SIGNAL, a number, comes at the call SIGNAL_AT, as `filewatch.begin` has it. An error
is told as the command line would.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from liteflow import Dag, task
from liteflow.errors import LiteflowError
from tests.crash import filewatch, ledger


@task
def first() -> int:
    ledger.effect()
    return 1


@task
def second(number: int) -> int:
    ledger.effect()
    return number + 1


@task
def third(number: int) -> int:
    ledger.effect()
    return number + 1


durability = sys.argv[3] if __name__ == "__main__" and len(sys.argv) > 3 else "normal"

with Dag("three", db_path="flow.db", durability=durability, max_crashes=1_000_000) as dag:
    third(second(first()))

VALUES = {"first": 1, "second": 2, "third": 3}


def act(action: str, run_id: str) -> Any:
    """Do what was asked for; returns the finished run, if there is one."""
    if action == "run":
        return dag.run(run_id=run_id, max_workers=1)
    if action in ("resume", "force"):
        return dag.resume(run_id, force=action == "force", max_workers=1)
    for run in dag.runs():
        if run.run_id == run_id:
            run.cancel()
    return None


def main(action: str, run_id: str, signal_at: str = "0", number: str = str(int(signal.SIGKILL))) -> None:
    """Act under watch, and write down what was told."""
    watch = filewatch.begin(os.path.abspath("flow.db"), int(signal_at), int(number))

    def note(line: ledger.Told) -> None:
        ledger.note_durably(line)
        watch.note(line)

    ledger.listen(note)
    try:
        run = act(action, run_id)
    except LiteflowError as error:
        print(f"{action}: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if run is not None:
        note(ledger.told_of_run(run))


if __name__ == "__main__":
    main(*sys.argv[1:3], *sys.argv[4:])
