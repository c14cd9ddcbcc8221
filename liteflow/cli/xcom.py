"""`liteflow xcom`: the values that tasks handed on. None of them is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    db_option,
    echo,
    examples,
    json_option,
    open_history,
    print_json,
    print_table,
    task_and_index,
)

if TYPE_CHECKING:
    pass

MOST_KEYS = 20
"""So many keys of XComs are named when the one that was asked for is not there."""


@examples(
    "liteflow xcom etl load",
    "liteflow xcom etl extract return_value --json",
    "liteflow xcom etl 'add_one[17]'",
)
@click.command("xcom")
@click.argument("run", metavar="RUN", shell_complete=completing.runs)
@click.argument("task", metavar="TASK", shell_complete=completing.tasks)
@click.argument("key", metavar="[KEY]", required=False)
@db_option
@json_option
def xcom_command(run: str, task: str, key: str | None, db_path: str | None, as_json: bool) -> None:
    """Print the values that a task handed on, or the one under KEY. Pickles are named, never opened.

    TASK means all instances of a mapped task; 'TASK[17]' is the one with that map index.
    """
    from liteflow.authoring.ids import did_you_mean, shown
    from liteflow.errors import NotFoundError
    from liteflow.storage.xcoms import plain_json, preview, size_text

    found = open_history(db_path).find_run(run)
    task_id, map_index = task_and_index(task)
    values = found.xcoms(task_id, map_index)
    if key is not None:
        chosen = [value for value in values if value.key == key]
        if not chosen:
            keys = sorted({value.key for value in values})
            there = ", ".join(map(shown, keys[:MOST_KEYS])) + (", ..." if len(keys) > MOST_KEYS else "")
            hint = did_you_mean(key, keys) or (f"; there are {there}" if keys else "; it handed on nothing")
            raise NotFoundError(f"task {shown(task)} has no XCom {shown(key)}{hint}", identifier=key)
        values = chosen
    if as_json:
        print_json(
            [
                {
                    "task_id": value.task_id,
                    "map_index": value.map_index,
                    "key": value.key,
                    "encoding": value.encoding,
                    "size_bytes": value.size_bytes,
                    "value": plain_json(value.encoding, value.data),
                }
                for value in values
            ]
        )
    elif key is not None:
        for value in values:
            echo(preview(value.encoding, value.data, length=1_000_000))
    else:
        headers = ["KEY", "ENCODING", "SIZE", "VALUE"]
        rows = [
            [value.key, value.encoding, size_text(value.size_bytes), preview(value.encoding, value.data, length=200)]
            for value in values
        ]
        if map_index is None and any(value.map_index >= 0 for value in values):
            headers = ["MAP", *headers]
            rows = [[str(value.map_index), *row] for value, row in zip(values, rows, strict=True)]
        print_table(headers, rows, empty="the task handed on nothing")
