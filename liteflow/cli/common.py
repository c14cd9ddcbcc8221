"""What several commands share: options, tables, JSON, words for states and times."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from liteflow.storage.history import DagRun, History, TaskInstanceInfo

db_option = click.option(
    "--db",
    "db_path",
    metavar="FILE",
    help="The database; default $LITEFLOW_DB, else liteflow.db.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")


def open_history(db_path: str | None) -> History:
    """The history of the database that the options name."""
    from liteflow.storage.history import open_history

    return open_history(db_path)


def print_json(document: Any) -> None:
    """One document on stdout; ASCII, so that no terminal or pipe can stumble."""
    click.echo(json.dumps(document, indent=2))


def is_terminal() -> bool:
    """Whether stdout is one."""
    return sys.stdout.isatty()


def printable(text: str) -> str:
    """Text of a stranger for a terminal: what would steer it is spelled out."""
    from liteflow.execution.progress import printable as spelled_out

    return spelled_out(text)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str, state_column: int = -1) -> None:
    """Rows under headers: a table that fits on a terminal, plain columns elsewhere. `empty` goes to stderr instead."""
    if not rows:
        click.echo(empty, err=True)
        return
    safe = [[printable(cell) for cell in row] for row in rows]
    if is_terminal():
        _print_rich(headers, safe, state_column)
        return
    widths = [max(map(len, column)) for column in zip(headers, *safe, strict=True)]
    for row in [headers, *safe]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


_STYLES = {
    "success": "green",
    "failed": "red",
    "upstream_failed": "yellow",
    "running": "cyan",
    "interrupted": "magenta",
    "up_for_retry": "yellow",
    "skipped": "bright_black",
}


def _print_rich(headers: Sequence[str], rows: Sequence[Sequence[str]], state_column: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        cells = [Text(cell) for cell in row]
        if state_column >= 0:
            cells[state_column].stylize(_STYLES.get(row[state_column].split(" ", 1)[0], ""))
        table.add_row(*cells)
    Console(highlight=False).print(table)


def when(moment: datetime | None) -> str:
    """A time for people: local, to the second."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else "-"


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
    from liteflow.execution.liveness import is_alive
    from liteflow.states import RunState

    if run.state.is_terminal or (run.owner is None and run.state is RunState.QUEUED):
        return False
    return run.owner is None or not is_alive(run.history.database.path, run.owner)


def state_of(run: DagRun) -> str:
    """The word for where a run stands."""
    return "interrupted" if is_interrupted(run) else str(run.state)


def run_document(run: DagRun) -> dict[str, Any]:
    """A run as JSON has it."""
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
        "params": json.loads(run.params_json),
    }


def instance_document(instance: TaskInstanceInfo) -> dict[str, Any]:
    """A task instance as JSON has it."""
    return {
        "task_id": instance.task_id,
        "map_index": instance.map_index,
        "state": str(instance.state),
        "end_reason": instance.end_reason and str(instance.end_reason),
        "try_number": instance.try_number,
        "error": instance.error,
        "upstream": list(instance.upstream),
        "trigger_rule": instance.trigger_rule,
        "started_at": iso(instance.started_at),
        "ended_at": iso(instance.ended_at),
        "due_at": iso(instance.due_at),
        "duration_s": seconds(instance.duration),
    }


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
