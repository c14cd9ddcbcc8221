"""How liteflow grows: with the number of tasks, with its past, with what tasks print."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.benchmarks.compare import Figure, seconds
from tests.benchmarks.crowded import COMMANDS

SIZES = (1_000, 10_000, 100_000)
LINES = 300_000


def _child(module: str, *args: object) -> Any:
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, args)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def growing(kind: str, _rounds: int, workers: int) -> list[Figure]:
    """The cost of a task in small and large dags of one kind, and what the largest takes of memory."""
    found = {size: _child("growing", kind, size, workers) for size in SIZES}
    costs_us = {size: one["seconds"] / size * 1e6 for size, one in found.items()}
    # Once more: a shared machine is not as fast a minute later.
    again_us = _child("growing", kind, SIZES[0], workers)["seconds"] / SIZES[0] * 1e6
    costs_us[SIZES[0]] = (costs_us[SIZES[0]] + again_us) / 2
    ratio = max(costs_us.values()) / costs_us[SIZES[0]]
    each = ", ".join(f"{size:,}: {cost:.0f} us" for size, cost in costs_us.items())
    largest = found[SIZES[-1]]
    return [
        Figure(f"flat-{kind}", f"{kind}, cost of a task ({each})", "", "", ratio, 1.3),
        Figure(
            f"memory-{kind}",
            f"{kind}, memory a task of {SIZES[-1]:,}, in the run; its dag: {largest['dag'] / SIZES[-1]:.0f} bytes",
            "",
            "",
            largest["run"] / SIZES[-1],
            2_000,
            "bytes",
        ),
    ]


def disk(_rounds: int, workers: int) -> list[Figure]:
    """What a finished no-op task leaves on the disk."""
    small, large = (_child("growing", "wide", size, workers)["disk"] for size in (100, 10_100))
    return [
        Figure("disk", "bytes on the disk of a finished no-op task", "", "", (large - small) / 10_000, 300, "bytes")
    ]


def past(rounds: int, workers: int) -> list[Figure]:
    """The same dag, and the commands, with 1,000,000 task instances in the database."""
    found = _child("crowded", rounds, workers)
    what = "171-task layered dag beside 1,000,000 task instances, to a new database"
    rows = [Figure("past", what, seconds(found["old"]), seconds(found["new"]), found["old"] / found["new"], 1.1)]
    for command in (name for name in COMMANDS if name != "--help"):
        what = f"`{command}` beside 1,000,000 task instances, more than `--help`"
        rows.append(Figure(f"past-{command}", what, "", "", found[command], 0.5, "s"))
    return rows


def logs(rounds: int, _workers: int) -> list[Figure]:
    """Lines per second, and what another task feels of it."""
    found = _child("chatting", LINES, rounds)
    return [
        Figure("logs", "microseconds to capture a line", "", "", 1e6 / found["per_second"], 10, "us"),
        Figure("logs-beside", "a task beside one that prints, to the same alone", "", "", found["slower"], 1.1),
    ]


GROWTH: dict[str, Callable[[int, int], list[Figure]]] = {
    **{f"grow-{kind}": partial(growing, kind) for kind in ("wide", "deep", "layered")},
    "disk": disk,
    "past": past,
    "logs": logs,
}
