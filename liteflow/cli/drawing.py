"""Pictures of runs and dags: from the database or a file to plain values, and from lines to a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from liteflow.cli.common import echo_lines, is_interrupted, is_terminal, state_of

if TYPE_CHECKING:
    from liteflow.storage.history import DagRun
    from liteflow.visualize.lines import Line
    from liteflow.visualize.picture import Picture
    from liteflow.visualize.timeline import Timeline


def picture_of(run: DagRun) -> Picture:
    """The run as it stands, ready to be drawn."""
    from liteflow.storage.summaries import task_summaries
    from liteflow.visualize.picture import run_picture

    with run.history.read() as connection:
        summaries = task_summaries(connection, run.pk)
    return run_picture(run.dag_id, run.run_id, state_of(run), summaries)


def timeline_of(run: DagRun, picture: Picture) -> Timeline:
    """Its tries over time. What runs goes on until now, unless nobody drives the run any more."""
    from liteflow.storage.moments import to_microseconds
    from liteflow.storage.summaries import timed_tries
    from liteflow.visualize.timeline import Try, timeline

    with run.history.read() as connection:
        tries = [Try(*one) for one in timed_tries(connection, run.pk)]
    now_us = None if run.state.is_terminal or is_interrupted(run) else time.time_ns() // 1000
    return timeline(
        picture,
        tries,
        started_us=to_microseconds(run.started_at) if run.started_at else None,
        ended_us=to_microseconds(run.ended_at) if run.ended_at else None,
        now_us=now_us,
    )


def width_here(most: int) -> int:
    """Cells in a line: those of the terminal, at most `most`, which it is elsewhere."""
    return max(40, min(most, shutil.get_terminal_size().columns)) if is_terminal() else most


def is_ascii_only() -> bool:
    """Whether stdout cannot take the characters of drawings."""
    try:
        "█│●…→".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def print_lines(lines: Sequence[Line]) -> None:
    """On stdout: styled on a terminal, where NO_COLOR takes the colours away, plain elsewhere."""
    if not is_terminal():
        from liteflow.visualize.lines import plain

        echo_lines(plain(lines))
        return
    from rich.console import Console
    from rich.text import Text

    from liteflow.execution.progress import STATE_STYLES

    styles = {**STATE_STYLES, "critical": "bold", "dim": "dim"}
    console = Console(highlight=False)
    for line in lines:
        text = Text.assemble(*((piece, styles.get(style, "")) for piece, style in line))
        text.rstrip()
        console.print(text, soft_wrap=True)


def write_file(path: str, text: str, *, endings: Sequence[str]) -> None:
    """Write all of the text, or leave the file as it was. One that is there is replaced only if its name has one of
    these endings, so that no mistyped name costs a dag file or a database. Raises UsageError.

    What is no file, such as a pipe, is written to.
    """
    try:
        target = os.path.realpath(path)  # of a link, what it names
        if os.path.exists(target) and not os.path.isfile(target):
            with open(target, "w", encoding="utf-8") as stream:
                stream.write(text)
        elif os.path.exists(target) and not target.endswith(tuple(endings)):
            raise click.UsageError(
                f"{path}: exists, and is replaced only if its name ends in {' or '.join(endings)}; nothing was written"
            )
        else:
            _replace(target, text)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # a NUL, or half of a character
        raise click.UsageError(f"{path}: {error}") from None


def _replace(path: str, text: str) -> None:
    """Have the file hold the text, in one step."""
    mask = os.umask(0)
    os.umask(mask)
    mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o666 & ~mask
    descriptor, temporary = tempfile.mkstemp(prefix=".liteflow-", dir=os.path.dirname(path))
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
