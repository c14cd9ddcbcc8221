"""A dag of 171 tasks in four layers: count the primes below 100 000 in pieces, and check the sum.

    python examples/complex_workflow.py
    python -m liteflow visualize layered_dag_171 --db liteflow.db

    20 generators      each cuts out one block of numbers
    100 processors     each counts the primes in a fifth of one generator's block
    50 combiners       each adds the counts of two processors
    1 final task       adds what all 50 combiners have

Plain loops build the layers: a call makes a task, and handing on what it returns makes the edge. The run is
kept in liteflow.db in the working directory, where `visualize` finds it.
"""

from __future__ import annotations

import math
import sys
from collections import Counter

from liteflow import Dag, RunState, task

GENERATORS = 20
PROCESSORS = 100
COMBINERS = 50
LIMIT = 100_000
PRIMES_BELOW_LIMIT = 9592
"""What the final task must come to: the number is well known, and nothing here is made from it."""

SHARES = PROCESSORS // GENERATORS
"""How many processors share the block of one generator."""


@task
def generate(number: int) -> list[int]:
    """The block of this number: where it begins, and where the next one does."""
    size = LIMIT // GENERATORS
    return [number * size, (number + 1) * size]


@task
def process(block: list[int], share: int) -> int:
    """Count the primes in one share of a block."""
    start, stop = block
    size = (stop - start) // SHARES
    return sum(is_prime(n) for n in range(start + share * size, start + (share + 1) * size))


def is_prime(n: int) -> bool:
    """Whether n has no divisor but 1 and itself."""
    return n > 1 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))


@task
def combine(left: int, right: int) -> int:
    """Add two counts."""
    return left + right


@task
def total(counts: list[int]) -> int:
    """Add all counts."""
    print(f"adding {len(counts)} counts")
    return sum(counts)


# `.override(task_id=...)` is the same function under an id that says which of many it is. Without it,
# liteflow would number them: process, process__1, process__2 and so on.
with Dag("layered_dag_171", description="Primes below 100 000, counted in four layers of tasks") as dag:
    blocks = [generate.override(task_id=f"generate_{i:02}")(i) for i in range(GENERATORS)]
    counts = []
    for i in range(PROCESSORS):
        process_one = process.override(task_id=f"process_{i:03}")
        counts.append(process_one(blocks[i // SHARES], share=i % SHARES))
    sums = []
    for i in range(COMBINERS):
        combine_two = combine.override(task_id=f"combine_{i:02}")
        sums.append(combine_two(counts[2 * i], counts[2 * i + 1]))
    total(sums)


if __name__ == "__main__":
    run = dag.run()
    states = Counter(instance.state for instance in run.task_instances())
    print(f"{len(dag.tasks)} tasks:", ", ".join(f"{count} {state}" for state, count in states.items()))
    if run.state != RunState.SUCCESS:
        sys.exit(f"The run {run.run_id} ended as {run.state}.")
    found = run.xcom("total")
    print(f"{found} primes below {LIMIT}")
    if found != PRIMES_BELOW_LIMIT:
        sys.exit(f"That is wrong: there are {PRIMES_BELOW_LIMIT}.")
    print("Draw it with: python -m liteflow visualize layered_dag_171 --db liteflow.db")
