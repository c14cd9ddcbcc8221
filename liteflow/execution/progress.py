"""What a run shows while it goes on: a live line on a terminal, plain lines elsewhere. Always on standard error."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from liteflow.authoring.dag import Dag
from liteflow.states import RunState, TaskInstanceState

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from liteflow.execution.active import RunEvent
    from liteflow.execution.handle import RunHandle
    from liteflow.storage.history import DagRun

_S = TaskInstanceState


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
    if progress is None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return LiveDisplay()
    return PlainDisplay()


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


class _Base:
    """What both displays have in common: the lines that they print, and the end."""

    refresh_s = 0.5

    def __init__(self) -> None:
        self.states: dict[str, TaskInstanceState] = {}
        self.started_at = time.monotonic()
        self.total = 0

    def _begin(self, dag: Dag, run: DagRun) -> None:
        self.total = len(dag.tasks)
        count = f"{self.total} task{'' if self.total == 1 else 's'}"
        self._line(f"run {run.run_id} of dag {run.dag_id}: {count}, in {run.history.database.path}")

    def take(self, event: RunEvent) -> None:
        if event.kind == "line":
            self._line(f"[{event.task_id}] {printable(event.text or '')}", style="dim")
        elif event.kind == "task" and event.task_id is not None and isinstance(event.state, _S):
            self.states[event.task_id] = event.state
            if event.state in (_S.FAILED, _S.UP_FOR_RETRY):
                what = "failed" if event.state is _S.FAILED else f"try {event.try_number} failed, will be tried again"
                why = f": {printable(event.error)}" if event.error else ""
                self._line(f"{event.task_id} {what}{why}", style="red")

    def counts(self) -> Counter[TaskInstanceState]:
        """How many task instances are in which state."""
        return Counter(self.states.values())

    def finish(self, handle: RunHandle) -> None:
        run = handle.run
        took = seconds_text(time.monotonic() - self.started_at)
        if not run.state.is_terminal:
            return
        instances = run.task_instances()
        counts = Counter(instance.state for instance in instances)
        summary = ", ".join(f"{count} {state}" for state, count in counts.items())
        reason = f" ({run.end_reason})" if run.end_reason else ""
        self._line(
            f"run {run.run_id} {run.state}{reason} in {took}{': ' + summary if summary else ''}",
            style="green" if run.state is RunState.SUCCESS else "bold red",
        )
        failed = [instance for instance in instances if instance.state is _S.FAILED]
        for instance in failed[:10]:
            self._line(f"  {instance.task_id}: {printable(instance.error or str(instance.end_reason))}", style="red")
        if len(failed) > 10:
            db = db_hint(run.history.database.path)
            self._line(f"  and {len(failed) - 10} more: liteflow show {run.dag_id}/{run.run_id}{db}")
        if failed:
            self._line(
                f"  its log: liteflow logs {run.dag_id}/{run.run_id} {failed[0].task_id}"
                + db_hint(run.history.database.path)
            )

    def _line(self, text: str, *, style: str = "") -> None:
        print(text, file=sys.stderr, flush=True)


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
            TextColumn("{task.completed:.0f}/{task.total:.0f} done"),
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
        self._bar = self._progress.add_task("", total=max(1, self.total), rest="")
        with self._progress:
            yield

    def take(self, event: RunEvent) -> None:
        super().take(event)
        self.tick()

    def tick(self) -> None:
        counts = self.counts()
        done = sum(count for state, count in counts.items() if state.is_terminal)
        running, failed = counts[_S.RUNNING], counts[_S.FAILED] + counts[_S.UPSTREAM_FAILED]
        rest = f"[cyan]{running} running[/]" + (f"  [red]{failed} failed[/]" if failed else "")
        self._progress.update(self._bar, completed=done, rest=rest)

    def finish(self, handle: RunHandle) -> None:
        self._progress.stop()
        super().finish(handle)

    def _line(self, text: str, *, style: str = "") -> None:
        self._console.print(text, style=style, markup=False, soft_wrap=True)


def db_hint(path: str) -> str:
    """How to name the database on the command line; nothing when it is the one that is taken anyway."""
    from liteflow.storage.engine import default_db_path

    if path == os.path.abspath(default_db_path()):
        return ""
    return f" --db {shlex.quote(path.removeprefix(os.getcwd() + os.sep))}"
