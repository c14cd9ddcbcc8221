"""What several commands share: options, tables, JSON, words for states and times."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from liteflow.cli import completing

if TYPE_CHECKING:
    from liteflow.storage.history import DagRun, History, TaskInstanceInfo

db_option = click.option(
    "--db",
    "db_path",
    metavar="FILE",
    shell_complete=completing.files,
    help="The database, a file or the URL of one of PostgreSQL; default $LITEFLOW_DB, else liteflow.db.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
executor_option = click.option(
    "--executor",
    metavar="NAME",
    shell_complete=completing.executors,
    help="What runs the tasks: processes (the default), threads, or dask://HOST:PORT.",
)

MOST_LAID_OUT = 500
"""Rows of a table that is fitted to a terminal."""


def open_history(db_path: str | None) -> History:
    """The history of the database that the options name."""
    from liteflow.storage.history import open_history

    return open_history(db_path)


@contextmanager
def reading_on(db_path: str | None) -> Iterator[History]:
    """The same for a command that reads again and again: its connection stays open until the end."""
    from liteflow.storage.history import open_history

    history = open_history(db_path, pooled=True)
    try:
        yield history
    finally:
        history.database.close()


def echo(line: str = "", *, err: bool = False) -> None:
    """One line on stdout, or stderr: the way on which all text of the commands leaves, except for rich's tables."""
    click.echo(printable(line), err=err)


def echo_lines(text: str) -> None:
    """Several lines on stdout."""
    click.echo("\n".join(map(printable, text.removesuffix("\n").split("\n"))))


def write(text: str) -> None:
    """Text on stdout as it is: it ends its lines itself, and is the caller's to make safe, piece by piece."""
    click.echo(text, nl=False, color=True)


@contextmanager
def until_reader_leaves() -> Iterator[None]:
    """End with 0 and without a word when stdout is a pipe that nobody reads any more, as below `| head`."""
    try:
        yield
    except BrokenPipeError:
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())  # what is still buffered has somewhere to go
            os.close(null)
        except (OSError, ValueError):
            pass  # captured
        sys.exit(0)


def styled(text: str, style: str) -> str:
    """Text of a stranger for `write`, in colours where stdout has them: `dim`, `red`, `bold red`, ..."""
    safe = printable(text)
    if not style or not has_colours():
        return safe
    words = style.split()
    colour = next((word for word in words if word not in ("dim", "bold")), None)
    return click.style(safe, fg=colour, bold="bold" in words or None, dim="dim" in words or None)


def json_text(document: Any, *, indent: int | None = None) -> str:
    """A document as ASCII without a control character, so that no terminal or pipe can stumble."""
    return json.dumps(document, indent=indent).replace("\x7f", "\\u007f")


def resume_command(run: DagRun) -> str:
    """What goes on with an interrupted run, to be pasted."""
    file = run.history.dag(run.dag_id).file
    named = shlex.quote(home_relative(file)) if file else "FILE"
    path = run.history.database.path
    return f"liteflow run {named} --resume {shlex.quote(f'{run.dag_id}/{run.run_id}')}{db_hint(path)}"


def print_json(document: Any) -> None:
    """One document on stdout; ASCII, so that no terminal or pipe can stumble."""
    try:
        text = json_text(document, indent=2)
    except RecursionError:
        raise click.UsageError("a value is nested too deeply to be printed") from None
    echo_lines(text)


def is_terminal() -> bool:
    """Whether stdout is one."""
    return sys.stdout.isatty()


def has_colours() -> bool:
    """Whether stdout shows colours: a terminal that has them, unless `$NO_COLOR` says that nobody wants them."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """Text of a stranger for a terminal: what would steer it is spelled out."""
    if text.isprintable():
        return text
    from liteflow.execution.progress import printable as spelled_out

    return spelled_out(text)


class Styled(str):
    """Text of a table's cell, which has a style of rich for each of its characters, "" for none."""

    styles: Sequence[str] = ()

    @classmethod
    def of(cls, parts: Iterable[tuple[str, str]]) -> Styled:
        """Of single characters, each with its style."""
        found = list(parts)
        text = cls("".join(character for character, _ in found))
        text.styles = [style for _, style in found]
        return text


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str, state_column: int = -1) -> None:
    """Rows under headers: a table that fits on a terminal, plain columns elsewhere. `empty` goes to stderr instead.

    More rows than anybody reads on a terminal are plain columns there too: laying them out would take many seconds.
    """
    if not rows:
        echo(empty, err=True)
        return
    safe = [[cell if isinstance(cell, Styled) else printable(cell) for cell in row] for row in rows]
    if is_terminal() and len(safe) <= MOST_LAID_OUT:
        _print_rich(headers, safe, state_column)
        return
    widths = [max(map(len, column)) for column in zip(headers, *safe, strict=True)]
    for row in [headers, *safe]:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_rich(headers: Sequence[str], rows: Sequence[Sequence[str]], state_column: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for number, header in enumerate(headers):
        # A narrow terminal may part the states of `9,990 success, 10 failed`, but not a number from its state.
        cells_here = (row[number] for row in rows) if number == state_column else ()
        widest = max((len(part) for cell in cells_here for part in re.split("(?<=,) ", cell)), default=None)
        table.add_column(header, overflow="fold", min_width=widest)
    for row in rows:
        cells = [
            Text.assemble(*zip(cell, cell.styles, strict=True)) if isinstance(cell, Styled) else Text(cell)
            for cell in row
        ]
        if state_column >= 0:
            cells[state_column] = Text.assemble(*_styled_states(row[state_column]))
        table.add_row(*cells)
    Console(highlight=False).print(table)


def _styled_states(text: str) -> list[tuple[str, str]]:
    """The parts of `9,990 success, 10 failed`, each with the style of the first state that it names."""
    from liteflow.execution.progress import STATE_STYLES

    def style(part: str) -> str:
        return next((STATE_STYLES[word] for word in re.findall(r"\w+", part) if word in STATE_STYLES), "")

    return [(part, style(part)) for part in re.split("(, )", text)]


def when(moment: datetime | None) -> str:
    """A time for people: local, to the second."""
    if moment is None:
        return "-"
    try:
        return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError):  # in the first or last hours of the calendar
        return moment.isoformat()


def iso(moment: datetime | None) -> str | None:
    """A time for programs: ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat() if moment else None


def took(duration: timedelta | None) -> str:
    """A duration for people."""
    from liteflow.execution.progress import seconds_text

    return seconds_text(duration.total_seconds()) if duration is not None else "-"


def seconds(duration: timedelta | None) -> float | None:
    """A duration for programs."""
    return duration.total_seconds() if duration is not None else None


def is_interrupted(run: DagRun) -> bool:
    """Whether nobody drives the run any more although it is not over."""
    from liteflow.execution import liveness

    return liveness.is_interrupted(run)


def state_of(run: DagRun) -> str:
    """The word for where a run stands."""
    return "interrupted" if is_interrupted(run) else str(run.state)


def state_text(run: DagRun, failed_tasks: int) -> str:
    """Where a run stands and why: `failed (timeout)`, or `success, 1 task failed` when it went well in the end."""
    from liteflow.states import run_text

    reason = f" ({run.end_reason})" if run.end_reason else ""
    return ("interrupted" if is_interrupted(run) else run_text(run.state, failed_tasks)) + reason


def failed_tasks_of(history: History, runs: Iterable[DagRun]) -> dict[int, int]:
    """By the keys of the runs that succeeded although tasks failed: how many did."""
    from liteflow.states import RunState
    from liteflow.storage.summaries import failed_tasks

    with history.read() as connection:
        return failed_tasks(connection, [run.pk for run in runs if run.state is RunState.SUCCESS])


_INSTANCE = re.compile(r"(?P<task_id>.+)\[(?P<map_index>\d{1,9})(?: .*)?\]", re.DOTALL)


def task_and_index(text: str) -> tuple[str, int | None]:
    """What a TASK argument names: a task with all of its instances, or one of them, as in `add_one[17]`.

    A label behind the index, as listings have it, is passed over.
    """
    match = _INSTANCE.fullmatch(text) if text.endswith("]") else None
    return (match["task_id"], int(match["map_index"])) if match else (text, None)


def checked_name(kind: str, name: str) -> str:
    """The name that an option or argument gives, if it is a good one."""
    from liteflow.authoring.ids import check_name
    from liteflow.authoring.places import caller
    from liteflow.errors import InvalidIdError

    try:
        return check_name(kind, name)
    except InvalidIdError as error:
        # Whoever types a name at a prompt has no line of code that would be worth naming.
        raise click.BadParameter(str(error).removeprefix(f"{caller()}: ")) from None


def run_document(run: DagRun) -> dict[str, Any]:
    """A run as JSON has it."""
    from liteflow.storage.xcoms import plain_json

    return {
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "state": str(run.state),
        "end_reason": run.end_reason and str(run.end_reason),
        "interrupted": is_interrupted(run),
        "logical_date": iso(run.logical_date),
        "created_at": iso(run.created_at),
        "started_at": iso(run.started_at),
        "ended_at": iso(run.ended_at),
        "duration_s": seconds(run.duration),
        "params": plain_json("json", run.params_json.encode()),
        "rerun_of": run.rerun_of,
        "priority": run.priority,
    }


def instance_document(instance: TaskInstanceInfo) -> dict[str, Any]:
    """A task instance as JSON has it."""
    return {
        "task_id": instance.task_id,
        "map_index": instance.map_index,
        "rendered_map_index": instance.rendered_map_index,
        "state": str(instance.state),
        "end_reason": instance.end_reason and str(instance.end_reason),
        "try_number": instance.try_number,
        "reschedules": instance.reschedules,
        "peak_rss_bytes": instance.peak_rss_bytes,
        "slot": instance.slot,
        "pool": instance.pool,
        "error": instance.error,
        "upstream": list(instance.upstream),
        "trigger_rule": instance.trigger_rule,
        "started_at": iso(instance.started_at),
        "ended_at": iso(instance.ended_at),
        "due_at": iso(instance.due_at),
        "duration_s": seconds(instance.duration),
    }


def ask(question: str, yes: bool) -> None:
    """Go on only when somebody says so: `yes` on the command line, or y on the terminal. Without either that is wrong
    usage."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{printable(question)} There is no terminal to ask on: say --yes")
    click.confirm(printable(question), abort=True, err=True)


def examples(*lines: str) -> Callable[[Any], Any]:
    """Put examples under a command's help."""

    def add(command: Any) -> Any:
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
        return command

    return add


def db_hint(path: str) -> str:
    """` --db PATH` for a command to be pasted; nothing when the database is the one that is taken anyway."""
    from liteflow.execution.progress import db_hint as hint

    return hint(path)


def home_relative(path: str) -> str:
    """The path from here if it is below here, else as it is."""
    return path.removeprefix(os.getcwd() + os.sep)
