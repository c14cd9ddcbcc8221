"""`liteflow logs`: what tasks wrote."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    db_option,
    echo,
    examples,
    iso,
    json_text,
    printable,
    reading_on,
    resume_command,
    styled,
    task_and_index,
    until_reader_leaves,
    when,
    write,
)
from liteflow.states import instance_name

if TYPE_CHECKING:
    from liteflow.storage.history import DagRun, LogEntry
    from liteflow.storage.logs import LogReader

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

TASK_COLOURS = ("cyan", "magenta", "green", "bright_blue", "bright_magenta")
"""A task has one of them, by its id. All can be read on dark and on light, and none is that of a level."""

Writer = Callable[["Iterable[list[LogEntry]]"], int]
"""Prints lines that come in parts; returns how many there were."""


def _pattern(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    try:
        re.compile(text or "")
    except (re.error, RecursionError, OverflowError) as error:
        raise click.BadParameter(f"{text!r} is no regular expression of Python: {error}") from None
    return text


@examples(
    "liteflow logs etl",
    "liteflow logs etl load --follow",
    "liteflow logs etl 'add_one[17]' --tail 20",
    "liteflow logs etl --level WARNING --grep 'time[- ]?out' -i",
    "liteflow logs etl/nightly-2026-01-02 load --json",
)
@click.command("logs")
@click.argument("run", metavar="RUN", shell_complete=completing.runs)
@click.argument("task", metavar="[TASK]", required=False, shell_complete=completing.tasks)
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the run is over; a queued one is waited for.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Begin with the last N lines that fit.")
@click.option("--try", "try_number", type=click.IntRange(min=1), metavar="N", help="Only lines of each task's try N.")
@click.option(
    "--level",
    type=click.Choice(LEVELS, case_sensitive=False),
    help="Only what was logged with this level or a higher one. What was printed has none and is left out.",
)
@click.option("--grep", "pattern", metavar="P", callback=_pattern, help="Only lines in which this is found (Python).")
@click.option("-i", "--ignore-case", is_flag=True, help="With --grep: upper and lower case are the same.")
@click.option(
    "--raw",
    is_flag=True,
    help="Do not spell out control characters. They can move the cursor, change what was printed before, and set the "
    "clipboard: only for tasks that you trust, or into a file.",
)
@db_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; with --follow one object on each line.")
def logs_command(
    run: str,
    task: str | None,
    follow: bool,
    tail: int | None,
    try_number: int | None,
    level: str | None,
    pattern: str | None,
    ignore_case: bool,
    raw: bool,
    db_path: str | None,
    as_json: bool,
) -> None:
    """Print the log of a run or of one of its tasks.

    That is what was printed, logged, and written by child processes. TASK means all instances of a mapped task;
    'TASK[17]' is the one with that map index. An error's traceback is logged as ERROR.

    With --follow it ends with exit code 0 when the run is over, and when the process that drives it has died: it then
    says how to go on with it.
    """
    if raw and as_json:
        raise click.UsageError("--raw is for text; JSON keeps every character as it was anyway")
    if ignore_case and pattern is None:
        raise click.UsageError("-i goes with --grep P")
    from liteflow.storage.logs import LogReader

    with reading_on(db_path) as history, until_reader_leaves():
        found = history.find_run(run)
        task_id, map_index = (None, None) if task is None else task_and_index(task)
        reader = LogReader(
            found,
            task_id,
            map_index,
            try_number=try_number,
            least_level=logging.getLevelNamesMapping()[level] if level else None,
            keep=_keeper(pattern, ignore_case),
        )
        if follow:
            _follow(found, reader, tail, _write_json_lines if as_json else _text_writer(raw))
            return
        parts = reader.written() if tail is None else iter([reader.latest(tail)])
        if as_json:
            _write_document(parts)
        elif not _text_writer(raw)(parts):
            is_all = tail is None and try_number is None and level is None and pattern is None
            echo("nothing was logged" if is_all else "no line fits", err=True)


def _keeper(pattern: str | None, ignore_case: bool) -> Callable[[LogEntry], bool] | None:
    if pattern is None:
        return None
    search = re.compile(pattern, re.IGNORECASE if ignore_case else 0).search
    return lambda entry: search(entry.message) is not None


def _follow(run: DagRun, reader: LogReader, tail: int | None, writer: Writer) -> None:
    from liteflow.execution.following import follow

    name = f"{run.dag_id}/{run.run_id}"
    if run.owner is None and run.state == "queued":
        echo(f"{name} is queued: waiting for it to begin", err=True)
    if tail is not None:
        writer([reader.latest(tail)])
    for look in follow(run):
        writer(reader.written())
        if look.is_interrupted:
            echo(f"{name} was interrupted: nothing drives it. Go on with: {resume_command(look.run)}", err=True)


# What is printed


def _text_writer(raw: bool) -> Writer:
    def write_text(parts: Iterable[list[LogEntry]]) -> int:
        count = 0
        for part in parts:
            count += len(part)
            if part:
                write("\n".join([_line(entry, raw) for entry in part]) + "\n")
        return count

    return write_text


def _line(entry: LogEntry, raw: bool) -> str:
    """A line: when, who, how grave, what."""
    number = f" try {entry.try_number}" if entry.try_number > 1 else ""
    name = f"[{instance_name(entry.task_id, entry.map_index)}{number}]"
    words = [styled(when(entry.at), "dim"), styled(name, _task_colour(entry.task_id))]
    if entry.level is not None:
        words.append(styled(logging.getLevelName(entry.level), _level_style(entry.level)))
    return " ".join([*words, entry.message if raw else printable(entry.message)])


def _task_colour(task_id: str) -> str:
    """The same for a task in every run and on every day."""
    return TASK_COLOURS[zlib.crc32(task_id.encode("utf-8", "surrogatepass")) % len(TASK_COLOURS)]


def _level_style(level: int) -> str:
    if level >= logging.CRITICAL:
        return "bold red"
    if level >= logging.ERROR:
        return "red"
    return "yellow" if level >= logging.WARNING else "dim" if level < logging.INFO else ""


def _document(entry: LogEntry) -> dict[str, Any]:
    return {
        "task_id": entry.task_id,
        "map_index": entry.map_index,
        "try_number": entry.try_number,
        "at": iso(entry.at),
        "level": logging.getLevelName(entry.level) if entry.level is not None else None,
        "logger": entry.logger,
        "message": entry.message,
    }


def _write_json_lines(parts: Iterable[list[LogEntry]]) -> int:
    count = 0
    for part in parts:
        count += len(part)
        write("".join(json_text(_document(entry)) + "\n" for entry in part))
    return count


def _write_document(parts: Iterable[Sequence[LogEntry]]) -> None:
    """The list, as `print_json` writes it, without ever holding all of it."""
    before = "[\n"
    for text in _indented(parts):
        write(before + text)
        before = ",\n"
    write("[]\n" if before == "[\n" else "\n]\n")


def _indented(parts: Iterable[Sequence[LogEntry]]) -> Iterator[str]:
    for part in parts:
        if part:
            yield ",\n".join("  " + json_text(_document(entry), indent=2).replace("\n", "\n  ") for entry in part)
