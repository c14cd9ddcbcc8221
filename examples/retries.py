"""What happens to tasks that do not succeed at once: retries, FailTask and SkipTask.

    python examples/retries.py

    fetch            fails twice, is tried again after a short while, and succeeds
    check_licence    raises FailTask: it has retries left, and none is used
    upload           comes after check_licence, and cannot run any more: upstream_failed
    find_discounts   raises SkipTask: there is nothing to do, which is no failure
    apply_discounts  comes after find_discounts, and is skipped with it
    summarise        runs when all of them are over, whichever way

The run succeeds although a task of it failed: how a run ended is how its last tasks ended, and here that is
`summarise` alone. liteflow warns of that while the dag is built; here it is meant, so the warning is silenced.
The script ends by telling from the history what happened, and why.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

from liteflow import Dag, DagRun, DagWarning, FailTask, RunState, SkipTask, TriggerRule, get_current_context, task

FAILURES = 2
"""How often `fetch` fails before it succeeds."""


# retry_delay takes seconds or a timedelta. With retry_exponential_backoff=2 each pause would be twice as long
# as the one before it.
@task(retries=3, retry_delay=0.2)
def fetch() -> list[int]:
    """Get some numbers from a service that is not up yet when it is first asked."""
    context = get_current_context()
    try_number = context["ti"].try_number
    print(f"try {try_number} of at most {context['ti'].max_tries}")
    if try_number <= FAILURES:
        raise ConnectionError("the service is still starting")
    return [3, 1, 4]


# A parameter with the name of a key of the context is filled in by itself: the short way to the same number.
@task
def average(numbers: list[int], ti: Any) -> float:
    """The mean of what `fetch` got. Each task counts its own tries, so this is the first."""
    print(f"try {ti.try_number}, with {numbers}")
    return round(sum(numbers) / len(numbers), 2)


@task(retries=5, retry_delay=60)
def check_licence() -> None:
    """Fail for good: a licence that has expired is still expired in a minute."""
    raise FailTask("the licence expired in March")


@task
def upload() -> None:
    """Never called, since what it waits for fails."""
    raise AssertionError("upload ran without a licence")


@task
def find_discounts() -> list[int]:
    """Say that there is nothing to do here today."""
    raise SkipTask("no discounts today")


@task
def apply_discounts(discounts: list[int]) -> int:
    """Never called, since what it waits for is skipped."""
    return len(discounts)


# The usual rule, ALL_SUCCESS, wants everything upstream to have succeeded. ALL_DONE only wants it to be over.
@task(trigger_rule=TriggerRule.ALL_DONE)
def summarise() -> str:
    """Come last, whatever happened."""
    return "all is over"


warnings.filterwarnings("ignore", ".*'summarise'", DagWarning)

with Dag("retries", description="Retries, FailTask and SkipTask") as dag:
    mean = average(fetch())
    uploaded = check_licence() >> upload()
    applied = apply_discounts(find_discounts())
    [mean, uploaded, applied] >> summarise()


def explain(run: DagRun) -> None:
    """Print each task with the tries that it took and what ended each of them."""
    # A task instance stands for its latest try. The earlier ones, each followed by another, are in tries().
    earlier = run.tries()
    for instance in run.task_instances():
        allowed = dag.get_task(instance.task_id).options.retries + 1
        if instance.try_number == 0:
            print(f"{instance.task_id}: {instance.state}, never tried")
        else:
            print(f"{instance.task_id}: {instance.state} on try {instance.try_number} of {allowed}")
        for one in earlier:
            if one.task_id == instance.task_id:
                print(f"    try {one.try_number} {one.state}: {one.error}")
        if instance.error:
            print(f"    try {instance.try_number} {instance.state}: {instance.error}")


if __name__ == "__main__":
    run = dag.run(progress=False)  # without the usual lines on standard error: explain() has more to say
    explain(run)
    print(f"the run: {run.state}, average {run.xcom('average')}")
    sys.exit(0 if run.state == RunState.SUCCESS else 1)
