"""The dag of which the stored databases hold an interrupted run, and `hold` was what ran when its process was killed.

It uses nothing that the first version of liteflow did not have.
"""

import os
import time

from liteflow import Dag, task


@task
def extract() -> list[int]:
    return [1, 2, 3]


@task(retries=1)
def hold(rows: list[int]) -> int:
    while "HOLD" in os.environ:
        time.sleep(60)
    return sum(rows)


@task
def report(total: int) -> str:
    return f"{total} orders"


with Dag("stored", description="Orders") as dag:
    report(hold(extract()))


if __name__ == "__main__":
    dag.run(run_id="interrupted")
