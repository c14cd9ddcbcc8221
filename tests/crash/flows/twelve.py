"""The dag of the kill tests: a chain, a fan-out over an XCom with its join, retries, a branch, a setup with its
teardown, and a sensor that gives its slot back. Its tasks note each try, and take some milliseconds each.

Usage: twelve.py RUN_ID [WORKERS]
"""

from __future__ import annotations

import sys
import time
from typing import Any

from liteflow import Dag, get_current_context, setup, task, teardown
from tests.crash import ledger

WORK_S = 0.015


def work(value: Any) -> Any:
    ledger.effect()
    time.sleep(WORK_S)
    return value


@task
def begin() -> int:
    return work(1)


@task
def link(number: int) -> int:
    return work(number + 1)


@task
def items(number: int) -> list[int]:
    return work([number * 10 + place for place in range(4)])


@task(retries=50)
def square(number: int) -> int:
    return work(number * number)


@task
def total(numbers: list[int]) -> int:
    return work(sum(numbers))


@task(retries=50, retry_delay=0.02)
def flaky(number: int) -> int:
    work(None)
    if get_current_context()["try_number"] == 1:
        raise ValueError("the first try fails")
    return number


@task.branch
def choose() -> str:
    return work("left")


@task
def left() -> str:
    return work("left")


@task
def right() -> str:
    return work("right")


@setup
def make_room() -> str:
    return work("room")


@task
def use_room(room: str) -> str:
    return work(f"{room} used")


@teardown
def clear_room(room: str) -> str:
    return work(f"{room} cleared")


@task.sensor(mode="reschedule", poke_interval=0.03, timeout=600)
def third_look() -> bool:
    ledger.effect()
    run_id = get_current_context()["run_id"]
    looks = [one for one in ledger.effects(ledger.Path()) if (one.run, one.task) == (run_id, "third_look")]
    return len(looks) >= 3


@task(trigger_rule="none_failed_min_one_success")
def finish(value: int) -> int:
    return work(value)


with Dag("twelve", db_path="flow.db", default_args={"retries": 50}, max_crashes=1_000_000) as dag:
    first = begin()
    second = link(first)
    joined = total(square.expand(number=items(second)))
    tried = flaky(second)
    chosen = choose()
    sides = [left(), right()]
    chosen >> sides
    room = make_room()
    used = use_room(room)
    cleared = clear_room(room)
    used >> cleared
    last = finish(joined)
    [*sides, tried, used, third_look()] >> last

SENSORS = {"third_look"}
"""A look again is the same try."""

VALUES: dict[str, Any] = {
    "begin": 1,
    "link": 2,
    "items": [20, 21, 22, 23],
    "square[0]": 400,
    "square[1]": 441,
    "square[2]": 484,
    "square[3]": 529,
    "total": 1854,
    "flaky": 2,
    "choose": "left",
    "left": "left",
    "make_room": "room",
    "use_room": "room used",
    "clear_room": "room cleared",
    "third_look": None,
    "finish": 1854,
}
"""Every task instance that must succeed, and the value that it hands on."""

if __name__ == "__main__":
    ledger.listen(ledger.note_durably)
    run = dag.run(run_id=sys.argv[1], max_workers=int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    ledger.note_durably(ledger.told_of_run(run))
