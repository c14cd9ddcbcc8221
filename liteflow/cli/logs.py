"""`liteflow logs`: what tasks wrote."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import click

from liteflow.cli.common import (
    db_option,
    echo,
    examples,
    iso,
    json_option,
    open_history,
    print_json,
    task_and_index,
    when,
)

if TYPE_CHECKING:
    pass


@examples(
    "liteflow logs etl",
    "liteflow logs etl load",
    "liteflow logs etl 'add_one[17]'",
    "liteflow logs etl/nightly-2026-01-02 load --json",
)
@click.command("logs")
@click.argument("run", metavar="RUN")
@click.argument("task", metavar="[TASK]", required=False)
@db_option
@json_option
def logs_command(run: str, task: str | None, db_path: str | None, as_json: bool) -> None:
    """Print the log of a run or of one of its tasks.

    That is what was printed, logged, and written by child processes. TASK means all instances of a mapped task;
    'TASK[17]' is the one with that map index.
    """
    task_id, map_index = (None, None) if task is None else task_and_index(task)
    entries = open_history(db_path).find_run(run).logs(task_id, map_index)
    if as_json:
        print_json(
            [
                {
                    "task_id": entry.task_id,
                    "map_index": entry.map_index,
                    "try_number": entry.try_number,
                    "at": iso(entry.at),
                    "level": logging.getLevelName(entry.level) if entry.level is not None else None,
                    "logger": entry.logger,
                    "message": entry.message,
                }
                for entry in entries
            ]
        )
        return
    from liteflow.states import instance_name

    if not entries:
        echo("nothing was logged", err=True)
    for entry in entries:
        level = f" {logging.getLevelName(entry.level)}" if entry.level is not None else ""
        number = f" try {entry.try_number}" if entry.try_number > 1 else ""
        head = f"{when(entry.at)} [{instance_name(entry.task_id, entry.map_index)}{number}]{level} "
        echo(head + entry.message)
