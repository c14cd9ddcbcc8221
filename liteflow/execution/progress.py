"""What a run shows while it goes on: a live line on a terminal, plain lines elsewhere. Always on standard error."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from liteflow.authoring.dag import Dag
from liteflow.errors import LiteflowError
from liteflow.states import (
    TERMINAL,
    RunState,
    TaskInstanceState,
    counts_text,
    instance_name,
    mapped_text,
    run_text,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from liteflow.execution.active import RunEvent
    from liteflow.execution.handle import RunHandle
    from liteflow.storage.history import DagRun
    from liteflow.storage.summaries import ListedInstance, TaskSummary

_S = TaskInstanceState

MOST_FAILURES = 10
"""How many instances of a mapped task have a line of their own when they fail; how many tasks have one at the end."""


STATE_STYLES = {
    "success": "green",
    "failed": "red",
    "upstream_failed": "yellow",
    "running": "cyan",
    "interrupted": "magenta",
    "up_for_retry": "yellow",
    "up_for_reschedule": "yellow",
    "skipped": "bright_black",
}
"""How states look on a terminal, in the words of rich; those that are missing look like any text."""


class Display(Protocol):
    """Shows one run."""

    refresh_s: float

    def showing(self, dag: Dag, run: DagRun) -> AbstractContextManager[None]:
        """The time during which it is on the screen."""

    def take(self, event: RunEvent) -> None:
        """Something happened."""

    def tick(self) -> None:
        """Some time has passed."""

    def finish(self, handle: RunHandle) -> None:
        """The run is over, or this process cannot go on with it."""


def choose_display(progress: bool | None) -> Display | None:
    """None: live on a terminal, plain lines elsewhere; False: nothing; True: plain lines."""
    if progress is False or sys.stderr is None:
        return None
    if progress is None and _is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb":
        return LiveDisplay()
    return PlainDisplay()


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except Exception:  # closed, or something else that a host put there
        return False


def say(line: str) -> None:
    """A line on stderr, for whoever reads it there. Where it cannot be written, nobody does, and the run goes on."""
    if sys.stderr is None:
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except Exception:
        return  # closed, a pipe without a reader, or something else that a host put there


def printable(text: str) -> str:
    """Text of a stranger for a terminal: what would steer the terminal is spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


def seconds_text(seconds: float) -> str:
    """A duration for people: `0.12 s`, `3.4 s`, `2:05 min`, `1:02:03 h`."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02} h"


class Tally:
    """The states of a run's task instances as its events tell them, counted without looking at all of them again."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """`sizes`: how many instances of each task there are."""
        self.counts: Counter[TaskInstanceState] = Counter()
        """How many are in which state; those that have not moved yet are in none."""
        self.total = sum(sizes.values())
        self._sizes = dict(sizes)
        self._states: dict[tuple[str, int], TaskInstanceState] = {}

    def set(self, task_id: str, map_index: int, state: TaskInstanceState) -> None:
        """A task instance is in that state now."""
        self._forget(task_id, map_index)
        self._states[task_id, map_index] = state
        self.counts[state] += 1

    def expand(self, task_id: str, count: int) -> None:
        """The task's one instance became `count`; 0 changes nothing, nor does hearing it again."""
        if not count:
            return
        self._forget(task_id, -1)
        self.total += count - self._sizes.get(task_id, 1)
        self._sizes[task_id] = count

    def _forget(self, task_id: str, map_index: int) -> None:
        before = self._states.pop((task_id, map_index), None)
        if before is not None:
            self.counts[before] -= 1

    @property
    def done(self) -> int:
        """How many are over."""
        return sum(self.counts[state] for state in TERMINAL)


class _Base:
    """What both displays have in common: the lines that they print, and the end."""

    refresh_s = 0.5

    def __init__(self) -> None:
        self.started_at = time.monotonic()
        self.tally = Tally({})
        self._show_hint = "liteflow show"
        self._failures: Counter[tuple[str, TaskInstanceState]] = Counter()
        """How many instances of each mapped task have failed, for good or to be tried again."""

    def _begin(self, dag: Dag, run: DagRun) -> None:
        from liteflow.storage.summaries import task_summaries

        # Read, not taken from the dag: the run goes on already, and may have expanded some of it.
        summaries = run.history.database.look(lambda connection: task_summaries(connection, run.pk))
        self.tally = Tally({summary.task_id: summary.size for summary in summaries})
        self._show_hint = f"liteflow show {run.dag_id}/{run.run_id}{db_hint(run.history.database.path)}"
        count = f"{len(dag.tasks)} task{'' if len(dag.tasks) == 1 else 's'}"
        self._line(f"run {run.run_id} of dag {run.dag_id}: {count}, in {run.history.database.path}")

    def take(self, event: RunEvent) -> None:
        if event.task_id is None:
            return
        if event.kind == "line":
            self._line(f"[{instance_name(event.task_id, event.map_index)}] {event.text or ''}", style="dim")
        elif event.kind == "expanded":
            self.tally.expand(event.task_id, event.size)
        elif event.kind == "kept" and isinstance(event.state, _S):
            self.tally.set(event.task_id, event.map_index, event.state)
        elif event.kind == "task" and isinstance(event.state, _S):
            self.tally.set(event.task_id, event.map_index, event.state)
            if event.state in (_S.FAILED, _S.UP_FOR_RETRY):
                self._failure(event, event.task_id, event.state)

    def _failure(self, event: RunEvent, task_id: str, state: TaskInstanceState) -> None:
        what = "failed" if state is _S.FAILED else f"try {event.try_number} failed, will be tried again"
        if event.map_index >= 0:
            self._failures[task_id, state] += 1
            if self._failures[task_id, state] > MOST_FAILURES:
                if self._failures[task_id, state] == MOST_FAILURES + 1:
                    more = "instances failed" if state is _S.FAILED else "tries failed, will be tried again"
                    self._line(f"{task_id}: more {more}; all of them in: {self._show_hint} --all", style="red")
                return
        why = f": {event.error}" if event.error else ""
        self._line(f"{instance_name(task_id, event.map_index)} {what}{why}", style="red")

    def finish(self, handle: RunHandle) -> None:
        from liteflow.storage.summaries import listed_instances, task_summaries

        run = handle.run
        took = seconds_text(time.monotonic() - self.started_at)
        if not run.state.is_terminal:
            return
        summaries, first = run.history.database.look(
            lambda connection: (
                task_summaries(connection, run.pk),
                listed_instances(connection, run.pk, most=0, most_failed=1),
            )
        )
        failed = [summary for summary in summaries if summary.task_id in first]
        counts: Counter[TaskInstanceState] = Counter()
        for summary in summaries:
            counts.update(summary.counts)
        reason = f" ({run.end_reason})" if run.end_reason else ""
        self._line(
            f"run {run.run_id} {run_text(run.state, len(failed))}{reason} in {took}"
            + (f": {counts_text(counts)}" if counts else ""),
            style="bold red" if run.state is not RunState.SUCCESS else "yellow" if failed else "green",
        )
        if failed:
            self._failed_tasks(run, [(summary, first[summary.task_id][0]) for summary in failed])

    def _failed_tasks(self, run: DagRun, failed: Sequence[tuple[TaskSummary, ListedInstance]]) -> None:
        """Name the tasks that failed, each with the first of its instances that did."""
        for summary, instance in failed[:MOST_FAILURES]:
            why = instance.error or str(instance.end_reason)
            if summary.is_mapped:
                line = f"{mapped_text(summary.task_id, summary.counts)}; [{instance.map_index}]: {why}"
            else:
                line = f"{summary.task_id}: {why}"
            self._line(f"  {line}", style="red")
        if len(failed) > MOST_FAILURES:
            self._line(f"  and {len(failed) - MOST_FAILURES:,} more tasks: {self._show_hint}")
        _, instance = failed[0]
        name = shlex.quote(instance_name(instance.task_id, instance.map_index))
        db = db_hint(run.history.database.path)
        self._line(f"  its log: liteflow logs {run.dag_id}/{run.run_id} {name}{db}")

    def _line(self, text: str, *, style: str = "") -> None:
        """One line above what stays on the screen; the only way to it for text."""
        self._write(printable(text), style)

    def _write(self, line: str, style: str) -> None:
        say(line)


class PlainDisplay(_Base):
    """Lines, for files and pipes."""

    @contextmanager
    def showing(self, dag: Dag, run: DagRun) -> Iterator[None]:
        self._begin(dag, run)
        yield

    def tick(self) -> None:
        return


class LiveDisplay(_Base):
    """One line at the bottom of the terminal that says how far the run is; everything else scrolls above it."""

    refresh_s = 0.1

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} done"),
            TextColumn("{task.fields[rest]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            # Not ours to redirect: the host's streams stay the host's.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar: Any = None

    @contextmanager
    def showing(self, dag: Dag, run: DagRun) -> Iterator[None]:
        self._begin(dag, run)
        self._bar = self._progress.add_task("", total=max(1, self.tally.total), rest="")
        with self._progress:
            yield

    def take(self, event: RunEvent) -> None:
        super().take(event)
        self.tick()

    def tick(self) -> None:
        counts = self.tally.counts
        waiting = counts[_S.UP_FOR_RETRY] + counts[_S.UP_FOR_RESCHEDULE]
        failed = counts[_S.FAILED] + counts[_S.UPSTREAM_FAILED]
        rest = f"[cyan]{counts[_S.RUNNING]:,} running[/]"
        rest += f"  [yellow]{waiting:,} waiting[/]" if waiting else ""
        rest += f"  [red]{failed:,} failed[/]" if failed else ""
        self._progress.update(self._bar, completed=self.tally.done, total=max(1, self.tally.total), rest=rest)

    def finish(self, handle: RunHandle) -> None:
        self._progress.stop()
        super().finish(handle)

    def _write(self, line: str, style: str) -> None:
        from rich.text import Text

        # Not `print(..., style=style)`, which would colour the live line below it too.
        self._console.print(Text(line, style=style), soft_wrap=True)


def db_hint(path: str) -> str:
    """How to name the database on the command line; nothing when it is the one that is taken anyway.

    `path` is one for people to read: of a URL it has no password, which is to be put in again.
    """
    from liteflow.storage.engine import told_path

    try:
        if path == told_path(None):
            return ""
    except LiteflowError:
        pass  # $LITEFLOW_DB is no database at all
    return f" --db {shlex.quote(path.removeprefix(os.getcwd() + os.sep))}"
