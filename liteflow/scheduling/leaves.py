"""Which tasks of a run decide its state: Airflow's rule, `DagRun._tis_for_dagrun_state`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.states import RunState, TaskInstanceState

_UNWELL = frozenset({TaskInstanceState.FAILED, TaskInstanceState.UPSTREAM_FAILED})


def leaves_of_run(below: Sequence[Sequence[int]], fails_run: Sequence[bool]) -> list[int]:
    """The numbers of the tasks whose states are the run's: those with nothing below them but teardowns that do not
    fail a run. Where there are only such teardowns, the plain leaves.

    `below` holds the numbers directly downstream of each task, `fails_run` whether its failure as a leaf is the run's.
    """
    effective = [
        task
        for task, downstream in enumerate(below)
        if fails_run[task] and not any(fails_run[other] for other in downstream)
    ]
    return effective or [task for task, downstream in enumerate(below) if not downstream]


class Standing(NamedTuple):
    """How a task stands in the record of a run."""

    upstream: Sequence[str]
    """Ids of the tasks directly upstream, as they were in that run."""
    trigger_rule: str
    states: Set[TaskInstanceState]
    """Of all of its instances."""


def recorded_outcome(tasks: Mapping[str, Standing], *, teardowns_count: bool = False) -> RunState:
    """How a run ended, by what is recorded of its tasks, all of which are over.

    The record tells a teardown by its trigger rule, and not whether its failure is the run's
    (`on_failure_fail_dagrun`): that is what `teardowns_count` says of all of them.
    """
    number_of = {task_id: number for number, task_id in enumerate(tasks)}
    below: list[list[int]] = [[] for _ in tasks]
    for task_id, one in tasks.items():
        for up in one.upstream:
            if up in number_of:
                below[number_of[up]].append(number_of[task_id])
    standings = list(tasks.values())
    fails_run = [teardowns_count or one.trigger_rule != TriggerRule.ALL_DONE_SETUP_SUCCESS for one in standings]
    failed = any(not _UNWELL.isdisjoint(standings[task].states) for task in leaves_of_run(below, fails_run))
    return RunState.FAILED if failed else RunState.SUCCESS


def do_teardowns_count(tasks: Mapping[str, Standing], recorded: RunState) -> bool:
    """Whether only a teardown whose failure is the run's explains the state that is recorded of a run that is over."""
    return recorded is RunState.FAILED and recorded_outcome(tasks) is RunState.SUCCESS


def all_above(tasks: Mapping[str, Standing], start: Iterable[str]) -> set[str]:
    """The ids of everything upstream of the tasks `start`, these left out unless one is upstream of another."""
    return _closure({task_id: one.upstream for task_id, one in tasks.items()}, start)


def all_below(tasks: Mapping[str, Standing], start: Iterable[str]) -> set[str]:
    """The same downstream."""
    downstream: dict[str, list[str]] = {}
    for task_id, one in tasks.items():
        for up in one.upstream:
            downstream.setdefault(up, []).append(task_id)
    return _closure(downstream, start)


def _closure(edges: Mapping[str, Iterable[str]], start: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = [other for task_id in start for other in edges.get(task_id, ())]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += edges.get(one, ())
    return found
