"""One of many processes on one database: runs one dag after the other until its time is over.

Usage: crowd.py NAME SECONDS. Every third run has an id that all processes try to be the first to use. The time counts
from the end of the first run: until then most of it is Python's start.
"""

from __future__ import annotations

import math
import sys
import time

from liteflow import Dag, task
from tests.crash import ledger


@task
def items() -> list[int]:
    ledger.effect(look_back=False)
    return [1, 2, 3]


@task
def double(number: int) -> int:
    ledger.effect(look_back=False)
    return 2 * number


@task
def total(numbers: list[int]) -> int:
    ledger.effect(look_back=False)
    return sum(numbers)


with Dag("crowd", db_path="flow.db") as dag:
    total(double.expand(number=items()))

VALUES = {"items": [1, 2, 3], "double[0]": 2, "double[1]": 4, "double[2]": 6, "total": 12}

if __name__ == "__main__":
    name, seconds = sys.argv[1], float(sys.argv[2])
    ledger.listen(ledger.note_durably)
    deadline = math.inf
    number = 0
    while time.monotonic() < deadline:
        run_id = f"shared-{number // 3}" if number % 3 == 0 else f"{name}-{number}"
        ledger.note_durably(ledger.told_of_run(dag.run(run_id=run_id, max_workers=1)))
        number += 1
        deadline = min(deadline, time.monotonic() + seconds)
