"""`liteflow watch`: a run of another process while it goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    db_hint,
    db_option,
    echo,
    examples,
    has_colours,
    is_terminal,
    iso,
    json_text,
    printable,
    reading_on,
    resume_command,
    run_document,
    styled,
    took,
    until_reader_leaves,
    when,
    write,
)
from liteflow.states import TERMINAL, TaskInstanceState, counts_text, instance_name, mapped_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from liteflow.execution.following import Look
    from liteflow.execution.watching import Moved, Tallies, Watch
    from liteflow.storage.history import DagRun
    from liteflow.storage.watching import WatchedInstance

_S = TaskInstanceState

FRAME_S = 0.25
"""How long a picture stays at the least, and what has changed waits to be read."""

REDRAW_S = 1.0
"""How long it stays at the most: the times in it go on."""

MOST_SHARE = 0.025
"""How much of its time it reads: a run of 100,000 task instances takes some 50 ms each time."""

LONGEST_PAUSE_S = 3.0
"""How long what has changed waits to be read at the most: the first time takes longer than all others."""

MOST_AT_FIRST = 20
"""So many of those that are running or have failed have a line each when somebody begins to watch."""

LINES_PER_MAPPED_TASK = 10
"""How many lines tell how far a mapped task is, and how many of its failed instances have a line."""

EXIT_CODES = {"success": 0, "failed": 1}


@examples(
    "liteflow watch etl", "liteflow watch etl/nightly-2026-01-02 --db etl.db", "liteflow watch etl | tee watch.log"
)
@click.command("watch")
@click.argument("run", metavar="RUN", shell_complete=completing.runs)
@db_option
@click.option("--json", "as_json", is_flag=True, help="Print each change as one JSON object on a line of its own.")
def watch_command(run: str, db_path: str | None, as_json: bool) -> None:
    """Watch a run that another process drives, until it is over.

    On a terminal it is a picture that is drawn again: what runs, what failed, how far mapped tasks are, the end of the
    log. Elsewhere it is a line for each change of a task that it sees; what passes between two looks is left out.

    The exit code is that of the run: 0 success, 1 failed, 4 interrupted (nothing drives it any more). Ctrl-C ends the
    watching (130); the run goes on.
    """
    from liteflow.execution.following import follow
    from liteflow.execution.watching import Watch

    is_live = is_terminal() and not as_json and os.environ.get("TERM") != "dumb"
    with reading_on(db_path) as history:
        found = history.find_run(run)
        name = f"{found.dag_id}/{found.run_id}"
        watch = Watch(found)
        try:
            with until_reader_leaves(), _ending_in_good_order(), _shown(watch, as_json, is_live) as view:
                for look in follow(found, most_s=REDRAW_S if is_live else None):
                    view.take(look)
        except KeyboardInterrupt:
            echo(f"stopped watching; {name} goes on", err=True)
            sys.exit(130)
        if watch.is_interrupted:
            echo(f"{name} was interrupted: nothing drives it. Go on with: {resume_command(watch.run)}", err=True)
            sys.exit(4)
        if watch.run.state == "failed":
            echo(f"more: liteflow show {name}{db_hint(history.database.path)}", err=True)
        sys.exit(EXIT_CODES[watch.run.state])


class View(Protocol):
    """Shows a run, look by look."""

    def take(self, look: Look) -> None:
        """It may have changed."""


@contextlib.contextmanager
def _shown(watch: Watch, as_json: bool, is_live: bool) -> Iterator[View]:
    if not is_live:
        yield JsonView(watch) if as_json else LinesView(watch)
        return
    from rich.console import Console

    console = Console(no_color=not has_colours(), highlight=False)
    view = LiveView(watch, console)
    with view.on_screen():
        yield view
    view.leave()


@contextlib.contextmanager
def _ending_in_good_order() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise, unless they are ignored, so that the terminal is left as it was."""

    def terminated(*_: object) -> None:
        sys.exit(143)

    raising: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminated}
    before = {number: signal.getsignal(number) for number in raising}
    for number, handler in raising.items():
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


class Looking:
    """Decides when a run is read again: often, but never for more than MOST_SHARE of the time."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._is_stale = False
        self._next = 0.0

    def read(self, look: Look) -> list[Moved] | None:
        """What moved, None when it is not time yet or nothing has changed."""
        self._is_stale = self._is_stale or look.has_changed
        self.watch.is_interrupted = look.is_interrupted
        if look.is_last:
            self._is_stale = True
        elif not self._is_stale or time.monotonic() < self._next:
            return None
        began, worked = time.monotonic(), time.process_time()
        moved = self.watch.look(look.run)
        rest = (time.process_time() - worked) / MOST_SHARE
        self._next = began + min(max(FRAME_S, rest), LONGEST_PAUSE_S)
        self._is_stale = False
        return moved


# On a terminal

_ASCII = str.maketrans("━─…", "#-.")


class LiveView:
    """The picture, on the terminal's other screen; what is seen last stays when it is left."""

    def __init__(self, watch: Watch, console: Console) -> None:
        from rich.live import Live

        self._watch = watch
        self._looking = Looking(watch)
        self._drawn_at = 0.0
        self._console = console
        self._live = Live(
            console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )

    @contextlib.contextmanager
    def on_screen(self) -> Iterator[None]:
        """While it is drawn."""
        with self._live:
            yield

    def take(self, look: Look) -> None:
        is_new = self._looking.read(look) is not None
        if is_new or time.monotonic() >= self._drawn_at + REDRAW_S:
            self._live.update(self._drawn(self._console.height), refresh=True)
            self._drawn_at = time.monotonic()
        if not look.is_last:
            time.sleep(FRAME_S)

    def leave(self) -> None:
        """Print it once more, where it stays."""
        self._console.print(self._drawn(10_000))

    def _drawn(self, height: int) -> Any:
        from rich.console import Group

        from liteflow.execution.live import picture

        lines: Sequence[Text] = picture(self._watch, datetime.now(UTC), self._console.width, height)
        if not self._console.encoding.lower().startswith("utf"):
            for line in lines:
                line.plain = line.plain.translate(_ASCII)
        return Group(*lines)


# Elsewhere


class LinesView:
    """A line for each change, with the time at which it was; of mapped tasks only some."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._looking = Looking(watch)
        self._state = ""
        self._tenths: dict[str, int] = {}
        self._failures: Counter[str] = Counter()

    def take(self, look: Look) -> None:
        is_first = not self._state
        moved = self._looking.read(look)
        if moved is None:
            return
        run = self._watch.run
        if is_first:
            self._run_line(run)
            moved = self._worth_telling(moved)
        lines = [] if not moved else self._lines(moved)
        if not is_first and str(run.state) != self._state:
            self._state = str(run.state)
            if not run.state.is_terminal:  # it has begun
                self._run_line(run)
        write("".join(f"{line}\n" for line in lines))
        if look.is_last and not (is_first and run.state.is_terminal):
            self._run_line(run)
        self._state = str(run.state)

    def _worth_telling(self, moved: Sequence[Moved]) -> list[Moved]:
        """Of all task instances, those that whoever begins to watch wants to know of."""
        from liteflow.execution.watching import ACTIVE

        return [one for one in moved if one.state in (*ACTIVE, _S.FAILED)][:MOST_AT_FIRST]

    def _run_line(self, run: DagRun) -> None:
        counts = counts_text(self._watch.tallies.counts)
        state = "interrupted" if self._watch.is_interrupted else str(run.state)
        reason = f" ({run.end_reason})" if run.end_reason else ""
        duration = f" in {took(run.duration)}" if run.duration is not None else ""
        moment = run.ended_at or datetime.now(UTC)
        write(f"{when(moment)} {printable(f'{run.dag_id}/{run.run_id}')} {state}{reason}{duration}: {counts}\n")

    def _lines(self, moved: Sequence[Moved]) -> list[str]:
        """What is told of them, by time."""
        single = [one.place.pk for one in moved if one.place.map_index < 0]
        mapped: dict[str, list[Moved]] = {}
        for one in moved:
            if one.place.map_index >= 0:
                mapped.setdefault(one.place.task_id, []).append(one)
        failed: list[int] = []
        for task_id, some in mapped.items():
            pks = [one.place.pk for one in some if one.state in (_S.FAILED, _S.UP_FOR_RETRY)]
            room = max(LINES_PER_MAPPED_TASK - self._failures[task_id], 0)
            failed += pks[:room]
            self._failures[task_id] += len(pks)
        found = self._read([*single, *failed])
        told = sorted((one.ended_at or one.started_at or datetime.now(UTC), one.pk, _told(one)) for one in found)
        lines = [f"{when(moment)} {line}" for moment, _, line in told]
        return lines + [line for task_id in mapped for line in self._mapped_line(task_id, self._watch.tallies)]

    def _read(self, pks: Sequence[int]) -> list[WatchedInstance]:
        from liteflow.storage.watching import watched_instances

        with self._watch.run.history.read() as connection:
            return watched_instances(connection, pks)

    def _mapped_line(self, task_id: str, tallies: Tallies) -> list[str]:
        """How far a mapped task is, when that is a tenth more than what was told."""
        counts = tallies.counts_of(task_id)
        over = sum(count for state, count in counts.items() if state in TERMINAL)
        tenth = LINES_PER_MAPPED_TASK * over // counts.total()
        if self._tenths.get(task_id, -1) >= tenth or (not over and not counts[_S.RUNNING]):
            return []
        self._tenths[task_id] = tenth
        return [f"{when(datetime.now(UTC))} {printable(mapped_text(task_id, counts))}"]


def _told(one: WatchedInstance) -> str:
    """`load success in 3.4 s`, `load failed (error) in 3.4 s: ValueError: ...`, `load running, try 2`."""
    words = f"{instance_name(one.task_id, one.map_index, one.rendered_map_index)} {one.state}"
    if one.state in (_S.RUNNING, _S.UP_FOR_RETRY):
        words += f", try {one.try_number}" if one.try_number > 1 or one.state is _S.UP_FOR_RETRY else ""
    elif one.state.is_terminal and one.end_reason is not None:
        words += f" ({one.end_reason})"
    if one.state.is_terminal and one.duration is not None:
        words += f" in {took(one.duration)}"
    if one.error and one.state in (_S.FAILED, _S.UP_FOR_RETRY):
        words += f": {one.error}"
    return styled(words, "")


class JsonView:
    """An object on a line for each change of a task instance, and for each of the run; at first all that have begun."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._looking = Looking(watch)
        self._state = ""

    def take(self, look: Look) -> None:
        moved = self._looking.read(look)
        if moved is None:
            return
        run = self._watch.run
        documents = []
        if not run.state.is_terminal and str(run.state) != self._state:
            self._state = str(run.state)
            documents.append({"kind": "run", **run_document(run)})
        documents += self._tasks([one for one in moved if one.before is not None or one.state is not _S.PENDING])
        if look.is_last:
            documents.append({"kind": "run", **run_document(run)})
        write("".join(json_text(document) + "\n" for document in documents))

    def _tasks(self, moved: Sequence[Moved]) -> list[dict[str, Any]]:
        from liteflow.storage.watching import watched_instances

        before = {one.place.pk: one.before for one in moved}
        with self._watch.run.history.read() as connection:
            found = watched_instances(connection, list(before))
        return [
            {
                "kind": "task",
                "task_id": one.task_id,
                "map_index": one.map_index,
                "rendered_map_index": one.rendered_map_index,
                "state": str(one.state),
                "before": None if before[one.pk] is None else str(before[one.pk]),
                "end_reason": one.end_reason and str(one.end_reason),
                "try_number": one.try_number,
                "slot": one.slot,
                "error": one.error,
                "started_at": iso(one.started_at),
                "ended_at": iso(one.ended_at),
                "due_at": iso(one.due_at),
            }
            for one in found
        ]
