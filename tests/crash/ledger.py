"""What the programs under test write beside the database: the effects of their tasks, and what they were told.

Each line is one write to a file that is opened for appending, so a killed process leaves whole lines only, in the
order in which things happened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from liteflow import get_current_context

EFFECTS = "effects.jsonl"
TOLD = "told.jsonl"


class Effect(NamedTuple):
    """The body of a task began."""

    run: str
    task: str
    map_index: int
    try_number: int
    pid: int
    started: int
    """The kernel's number for the start of the process: with the pid it names one."""
    host: int
    """The pid of the process whose slot it is."""
    overlaps: int
    """The pid of a process of an earlier host that still lives, and in which the same task instance began; or 0."""


class Told(NamedTuple):
    """Something that the program was told to be recorded: a task's success, or the end of a run with all it holds."""

    run: str
    task: str | None
    map_index: int
    try_number: int
    state: str
    xcoms: dict[str, Any] | None = None
    """Of a run that is over: task id (with `[map index]`) to value."""


def append(path: str | Path, line: Any, *, durable: bool = False) -> None:
    """One line, in one write."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, json.dumps(line).encode() + b"\n")
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def _lines(path: Path) -> list[Any]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []


def effects(directory: Path) -> list[Effect]:
    """All effects so far, in order."""
    return [Effect(*line) for line in _lines(directory / EFFECTS)]


def told(directory: Path) -> list[Told]:
    """All that was told so far, in order."""
    return [Told(*line) for line in _lines(directory / TOLD)]


def start_time_of(pid: int) -> int:
    """The kernel's number for the start of a living process; 0 when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


# Called by tasks


def effect(*, look_back: bool = True) -> None:
    """Note that this try has begun. `look_back` reads all that was noted before: who is still at it?"""
    context = get_current_context()
    instance = context["ti"]
    me = (context["run_id"], instance.task_id, instance.map_index)
    host = os.getppid()
    before = [one for one in effects(Path()) if one[:3] == me and one.host != host] if look_back else []
    living = next((one.pid for one in before if start_time_of(one.pid) == one.started), 0)
    append(
        EFFECTS,
        Effect(*me, instance.try_number, os.getpid(), start_time_of(os.getpid()), host, living),
    )


# Called by the program that drives the run


class Listening:
    """A display that writes down which successes it is told of."""

    refresh_s = 0.02

    def __init__(self, note: Any) -> None:
        self._note = note
        self._run = ""

    @contextmanager
    def showing(self, _dag: Any, run: Any) -> Iterator[None]:
        self._run = run.run_id
        yield

    def take(self, event: Any) -> None:
        if event.kind == "task" and event.state == "success":
            self._note(Told(self._run, event.task_id, event.map_index, event.try_number, "success"))

    def tick(self) -> None:
        """Nothing to do while nothing happens."""

    def finish(self, _handle: Any) -> None:
        """What `run()` returns is written down by the caller."""


def listen(note: Any) -> None:
    """Have every `dag.run()` of this process tell `note` of each success that is committed."""
    from liteflow.execution import running

    running.choose_display = lambda _progress: Listening(note)


def told_of_run(run: Any) -> Told:
    """What a finished run holds, read as its user would."""
    xcoms = {}
    for one in run.task_instances():
        if one.state == "success":
            name = one.task_id if one.map_index < 0 else f"{one.task_id}[{one.map_index}]"
            xcoms[name] = run.xcom(one.task_id, map_index=one.map_index)
    return Told(run.run_id, None, -1, 0, str(run.state), xcoms)


def note_durably(line: Told) -> None:
    """Write down what was told."""
    append(TOLD, line, durable=True)
