"""`liteflow prune`: delete old runs, and give the space back."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    ask,
    db_hint,
    db_option,
    echo,
    examples,
    json_option,
    open_history,
    print_json,
    print_table,
)
from liteflow.cli.words import bytes_text, parse_span

if TYPE_CHECKING:
    from liteflow.storage.engine import Database
    from liteflow.storage.history import History
    from liteflow.storage.pruning import Amount, KnownDag, Limits


def _span(_ctx: click.Context, _param: click.Parameter, text: str | None) -> timedelta | None:
    if text is None:
        return None
    try:
        return parse_span(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@examples(
    "liteflow prune --dry-run",
    "liteflow prune --dag etl --keep-runs 100 --yes",
    "liteflow prune --older-than 30d --db etl.db",
)
@click.command("prune")
@click.option(
    "--dag",
    "dag_id",
    metavar="DAG_ID",
    help="Only runs of this dag; default: of all.",
    shell_complete=completing.dag_ids,
)
@click.option("--keep-runs", type=click.IntRange(min=0, max=2**31 - 1), help="Keep the newest so many of each dag.")
@click.option("--older-than", metavar="SPAN", callback=_span, help="Delete what ended longer ago: 30d, 12h, 2w.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@db_option
@json_option
def prune_command(
    dag_id: str | None,
    keep_runs: int | None,
    older_than: timedelta | None,
    dry_run: bool,
    yes: bool,
    db_path: str | None,
    as_json: bool,
) -> None:
    """Delete old runs, and give the space back to the file system.

    Without limits: what the dags themselves said, Dag(retain_runs=..., retain_days=...). With both limits a run goes
    that is beyond either. Runs that are not over are never deleted, interrupted ones neither. Others may work
    meanwhile: it goes in short transactions. When it is interrupted, the next one goes on with it.
    """
    from liteflow.storage.pruning import Limits

    history = open_history(db_path)
    if dag_id is not None:
        history.dag(dag_id)  # an unknown one is an error
    days = None if older_than is None else older_than / timedelta(days=1)
    due = _due(history, dag_id, Limits(keep_runs, days))
    if not dry_run and due:
        runs = sum(amount.runs for _, _, _, amount in due)
        if not as_json:
            _print(due)
        ask(f"Delete {'this run' if runs == 1 else f'these {runs:,} runs'}?", yes)
    path = history.database.path
    before = _bytes_of(history)
    deleted = 0 if dry_run else _delete(history.database, [pk for _, _, pks, _ in due for pk in pks])
    space = _space(history)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "dags": [_document(dag, limits, amount) for dag, limits, _, amount in due],
                "deleted_runs": deleted,
                "file_bytes_before": before,
                "file_bytes_after": _bytes_of(history),
                "auto_vacuum": space.auto_vacuum,
            }
        )
        return
    if dry_run or not due:
        _print(due)
        return
    told = f"deleted {deleted:,} run{'' if deleted == 1 else 's'}"
    if history.database.is_file:
        told += f"; the file has {bytes_text(_bytes_of(history))}, it had {bytes_text(before)}"
    echo(told, err=True)
    if not space.can_shrink:
        echo(
            f"{bytes_text(space.free_pages * space.page_bytes)} of it are free for new runs; a file that an older "
            f"liteflow made gives them back with: liteflow db vacuum{db_hint(path)}",
            err=True,
        )


_Due = Sequence[tuple["KnownDag", "Limits", Sequence[int], "Amount"]]


def _due(history: History, dag_id: str | None, given: Limits) -> _Due:
    """The dags of which runs are to go, with the limits, the runs and how much that is."""
    from liteflow.storage.pruning import amount_of, due_runs, half_deleted_runs, known_dags

    now_us = time.time_ns() // 1000
    found = []
    with history.read() as connection:
        for dag in known_dags(connection, dag_id):
            limits = given if any(limit is not None for limit in given) else dag.limits
            pks = dict.fromkeys(half_deleted_runs(connection, dag.pk))
            pks.update(dict.fromkeys(due_runs(connection, dag.pk, limits, now_us, most=None)))
            if pks:
                found.append((dag, limits, list(pks), amount_of(connection, list(pks))))
    return found


def _print(due: _Due) -> None:
    print_table(
        ["DAG", "RUNS", "TASK INSTANCES", "LOG LINES", "BYTES"],
        [
            [
                dag.dag_id,
                f"{amount.runs:,}",
                f"{amount.task_instances:,}",
                f"{amount.log_lines:,}",
                bytes_text(amount.bytes),
            ]
            for dag, _, _, amount in due
        ],
        empty="no run is to go",
    )


def _document(dag: KnownDag, limits: Limits, amount: Amount) -> Mapping[str, Any]:
    return {"dag_id": dag.dag_id, "keep_runs": limits.keep_runs, "days": limits.days, **amount._asdict()}


def _delete(known: Database, pks: Sequence[int]) -> int:
    """Delete the runs and give the space back, with pauses in which others write; returns how many are gone."""
    from liteflow.execution.liveness import is_alive
    from liteflow.storage import pruning
    from liteflow.storage.engine import connect
    from liteflow.storage.sizes import shorten
    from liteflow.storage.untrusted import refusing_strange_values

    database = connect(known.url)
    path = database.path
    deleted = 0
    try:
        waiting = deque(pks)
        while waiting:
            deleted += pruning.delete_some(database, waiting, durable=True)
            time.sleep(pruning.PAUSE_S)
        with refusing_strange_values(path):
            pruning.forget_executors(database, lambda owner: is_alive(path, owner))
        while pruning.give_back_some(database):
            time.sleep(pruning.PAUSE_S)
    finally:
        database.close()
    if database.is_file:
        shorten(path)
    return deleted


def _space(history: History) -> Any:
    from liteflow.storage.pruning import space_of

    with history.read() as connection:
        return space_of(connection)


def _bytes_of(history: History) -> int:
    """What the database takes on the disk; in a server without what it keeps for all its databases."""
    from liteflow.storage.sizes import file_bytes

    path = history.database.path
    if not history.database.is_file:
        space = _space(history)
        return int(space.pages * space.page_bytes)
    return file_bytes(path) + file_bytes(f"{path}-wal")
