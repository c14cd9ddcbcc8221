"""The flow under which the storage is made to fail: six tasks, of which two write a good deal and one maps."""

import os
import sys

from liteflow import Dag, task


@task
def first() -> list[int]:
    return [1, 2, 3]


@task(retries=1, retry_delay=0)
def once(row: int) -> int:
    print("row", row)
    return row * 10


@task
def talk(rows: list[int]) -> str:
    for number in range(200):
        print(number, "x" * 100)
    return os.urandom(60_000).hex()


@task
def last(text: str) -> int:
    return len(text)


with Dag("flow") as dag:
    last(talk(once.expand(row=first())))


if __name__ == "__main__":
    from liteflow.errors import StorageError

    try:
        print(dag.run(run_id="r", max_workers=2).state)
    except StorageError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
