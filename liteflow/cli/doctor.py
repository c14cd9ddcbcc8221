"""`liteflow doctor`: whether the database and what is around it are well."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from liteflow.cli.common import db_option, echo, examples, is_terminal, json_option, print_json, printable

if TYPE_CHECKING:
    from liteflow.execution.checkup import Finding

_LEVEL_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@examples("liteflow doctor", "liteflow doctor --db etl.db --json")
@click.command("doctor")
@db_option
@json_option
def doctor_command(db_path: str | None, as_json: bool) -> None:
    """Look at the database and what is around it, and say what to do.

    Of each thing it is told whether it is well: versions, file, disk, schema, damage, WAL and locks, who is at work,
    interrupted runs, pools. Nothing is changed. Exit 0 when there are at most warnings, 3 when the database cannot be
    used as it is.
    """
    from datetime import UTC, datetime

    from liteflow.execution.checkup import Level, check_up, worst

    path, findings = check_up(db_path, datetime.now(UTC))
    level = worst(findings)
    if as_json:
        document = [{"what": one.what, "level": str(one.level), "text": one.text, "cure": one.cure} for one in findings]
        print_json({"path": path, "level": str(level), "findings": document})
    elif is_terminal():
        _print_rich(findings)
    else:
        for one in findings:
            echo(f"{one.level!s:7}  {one.what}: {one.text}{f': {one.cure}' if one.cure else ''}")
    sys.exit(3 if level is Level.PROBLEM else 0)


def _print_rich(findings: Sequence[Finding]) -> None:
    """The same, where lines that are too long for the terminal go on under their text."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in findings:
        text = Text(printable(one.text))
        if one.cure:
            text.append("\n")
            text.append(printable(one.cure), style="bold")
        table.add_row(Text(str(one.level), style=_LEVEL_STYLES[str(one.level)]), Text(one.what), text)
    Console(highlight=False).print(table)
