"""What the tests of the page of rules share: tasks that end as they are told, and a look at how a run came out.

States are letters as on the page: S success, F failed, K skipped, U upstream_failed. What has not ended has its
own word.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from liteflow import SkipTask, XComArg, task

_LETTERS = {"success": "S", "failed": "F", "skipped": "K", "upstream_failed": "U"}


@task
def give(value: Any = None) -> Any:
    return value


@task
def come_to(end: str) -> str:
    if end == "K":
        raise SkipTask("told to")
    if end == "F":
        raise ValueError("told to")
    return end


@task
def each(x: Any) -> Any:
    """One that is mapped over what its instances shall come to."""
    if x == "K":
        raise SkipTask("told to")
    if x == "F":
        raise ValueError("told to")
    return x


@task(kill_grace_s=0.5)
def wait_for(path: str, end: str = "S") -> str:
    """Wait for a file; then end as told."""
    pause = threading.Event()
    while not os.path.exists(path):
        pause.wait(0.005)
    if end != "S":
        raise SkipTask("told to") if end == "K" else ValueError("told to")
    return end


def node(task_id: str, end: str = "S", rule: str | None = None, **options: Any) -> XComArg:
    """A task that ends as `end` says, if it runs."""
    if rule is not None:
        options["trigger_rule"] = rule
    made: XComArg = come_to.override(task_id=task_id, **options)(end)
    return made


def letters(run: Any) -> dict[str, str]:
    """How all task instances of a run ended, by `task` or `task[map index]`."""
    return {
        name_of(instance): _LETTERS.get(str(instance.state), str(instance.state)) for instance in run.task_instances()
    }


def name_of(instance: Any) -> str:
    """The task's id, with the map index where there is one."""
    return instance.task_id if instance.map_index < 0 else f"{instance.task_id}[{instance.map_index}]"


def in_short(run: Any) -> str:
    """The letters of a run whose tasks have names that are sorted: `a=S b=K m[0]=F`."""
    return " ".join(f"{name}={letter}" for name, letter in sorted(letters(run).items()))


def outcome(run: Any) -> tuple[str, str]:
    """The run's state, and how its task instances ended."""
    return str(run.state), in_short(run)
