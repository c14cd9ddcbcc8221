"""The dag that is stopped by signals: three times two tasks, each of which takes `$WORK_S` seconds, default 0.

As a script: with a database beside the working directory.
"""

from __future__ import annotations

import os
import time
from typing import Any

from liteflow import Dag, task

DB = "six.db"


@task
def work(number: int, _before: list[Any]) -> int:
    time.sleep(float(os.environ.get("WORK_S", "0")))
    return number


def build(db_path: str | os.PathLike[str]) -> Dag:
    """The dag, on that database."""
    with Dag("six", db_path=db_path) as dag:
        last: list[Any] = []
        for number in range(3):
            last = [work.override(task_id=f"work_{number}_{place}")(number, last) for place in range(2)]
    return dag


DAG = build(DB)

if __name__ == "__main__":
    DAG.run(max_workers=2)
