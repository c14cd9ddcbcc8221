"""Commands that put a run right by hand: `clear`, `mark`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    db_hint,
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
    from liteflow.states import TaskInstanceState
    from liteflow.storage.correcting import Chosen
    from liteflow.storage.history import DagRun

MOST_INSTANCES = 5
"""A task with more instances than this is one row."""


@examples(
    "liteflow clear etl load --downstream",
    "liteflow clear etl/nightly-2026-01-02 --failed --dry-run",
    "liteflow clear etl 'load[17]' 'load[18]'",
)
@click.command("clear")
@click.argument("run", metavar="RUN", shell_complete=completing.runs)
@click.argument("tasks", metavar="[TASK]...", nargs=-1, shell_complete=completing.tasks)
@click.option("--downstream", "-d", is_flag=True, help="Also what is below these tasks, as the run has recorded it.")
@click.option("--upstream", "-u", is_flag=True, help="Also what is above them.")
@click.option(
    "--failed",
    is_flag=True,
    help="Only what is failed, upstream_failed or skipped by an early end (cancel, timeout, fail_fast); without a "
    "TASK all of that.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be cleared, and change nothing.")
@db_option
@json_option
def clear_command(
    run: str,
    tasks: tuple[str, ...],
    downstream: bool,
    upstream: bool,
    failed: bool,
    dry_run: bool,
    db_path: str | None,
    as_json: bool,
) -> None:
    """Open task instances of a run again, to be run once more.

    They get all of their retries anew and lose their XComs; tries and logs are kept. What is below keeps its state
    without --downstream. Go on with the run by `liteflow run FILE --resume RUN`; a service that knows the dag does so
    by itself. Setups and teardowns around what was cleared then run again too, what a branch decided holds, and what
    is mapped over a value that was cleared as well is expanded anew. A run that a process drives is left alone; one
    that was interrupted can be cleared.
    """
    if not tasks and not failed:
        raise click.UsageError("name a TASK, or say --failed for all that failed")
    if not tasks and (downstream or upstream):
        raise click.UsageError("--downstream and --upstream are those of a TASK: name one")
    from liteflow.execution.correcting import clear_tasks

    found = open_history(db_path).find_run(run)
    cleared = clear_tasks(
        found,
        [task_and_index(text) for text in tasks],
        downstream=downstream,
        upstream=upstream,
        failed=failed,
        dry_run=dry_run,
    )
    now = found if dry_run or not cleared else found.refresh()
    if as_json:
        print_json(
            {
                "dag_id": found.dag_id,
                "run_id": found.run_id,
                "state": str(now.state),
                "dry_run": dry_run,
                "cleared": [_document(one) for one in cleared],
            }
        )
        return
    if not cleared:
        what = "nothing failed" if failed else "nothing is over"
        echo(f"{found.dag_id}/{found.run_id}: {what} there: nothing to clear", err=True)
        return
    print_table(["TASK", "WAS", "TRIES"], _rows(cleared), empty="", state_column=1)
    count = f"{len(cleared):,} task instance{'' if len(cleared) == 1 else 's'}"
    if dry_run:
        echo(f"{count} of {found.dag_id}/{found.run_id} would be cleared", err=True)
        return
    echo(f"{count} of {found.dag_id}/{found.run_id} cleared. Go on with it: {_resume_command(found)}", err=True)


@examples("liteflow mark etl load success", "liteflow mark etl/nightly-2026-01-02 'load[17]' skipped")
@click.command("mark")
@click.argument("run", metavar="RUN", shell_complete=completing.runs)
@click.argument("task", metavar="TASK", shell_complete=completing.tasks)
@click.argument("state", metavar="STATE", type=click.Choice(["success", "failed", "skipped"]))
@db_option
@json_option
def mark_command(run: str, task: str, state: str, db_path: str | None, as_json: bool) -> None:
    """Say that a task is success, failed or skipped.

    Or one instance of a mapped task, as in 'load[17]'. Nothing runs. Tries, logs and XComs are kept; of a task that
    handed on nothing the value is None. What is below keeps its state: have it run with `liteflow clear RUN TASK
    --downstream --failed` and --resume. The state of a run that is over follows, by its leaves. What is marked success
    or skipped is not run when the run goes on; what is marked failed is tried again by --resume, as anything that
    failed.
    """
    from liteflow.execution.correcting import mark_task
    from liteflow.states import RunState, TaskInstanceState

    found = open_history(db_path).find_run(run)
    task_id, map_index = task_and_index(task)
    marked = mark_task(found, task_id, map_index, TaskInstanceState(state))
    name = f"{found.dag_id}/{found.run_id}"
    if as_json:
        print_json(
            {
                "dag_id": found.dag_id,
                "run_id": found.run_id,
                "state": str(marked.run_state),
                "marked": [_document(one) for one in marked.instances],
                "as": state,
                "unwell_below": marked.unwell_below,
            }
        )
        return
    print_table(["TASK", "WAS", "TRIES"], _rows(marked.instances), empty="", state_column=1)
    changed = f"is {marked.run_state} now" if marked.run_state is not found.state else f"stays {marked.run_state}"
    echo(f"{task} of {name} is marked {state}; the run {changed}", err=True)
    if marked.unwell_below and state != "failed":
        what = "1 below it did" if marked.unwell_below == 1 else f"{marked.unwell_below:,} below it did"
        echo(f"{what} not succeed. Have that run: {_clear_command(found, task)}", err=True)
        if marked.run_state is not RunState.RUNNING:
            echo(f"then go on with it: {_resume_command(found)}", err=True)


def _document(one: Chosen) -> dict[str, object]:
    return {
        "task_id": one.task_id,
        "map_index": one.map_index,
        "state": str(one.state),
        "try_number": one.try_number,
    }


def _rows(chosen: Sequence[Chosen]) -> list[list[str]]:
    """A row for each task instance; one for all of a task that has many."""
    from liteflow.states import counts_text, instance_name, mapped_name

    of_task: dict[str, list[Chosen]] = {}
    for one in chosen:
        of_task.setdefault(one.task_id, []).append(one)
    rows = []
    for task_id, several in of_task.items():
        if len(several) > MOST_INSTANCES:
            counts: Counter[TaskInstanceState] = Counter(one.state for one in several)
            tries = max(one.try_number for one in several)
            rows.append([mapped_name(task_id, len(several)), counts_text(counts), str(tries or "-")])
            continue
        rows += [[instance_name(task_id, one.map_index), str(one.state), str(one.try_number or "-")] for one in several]
    return rows


def _clear_command(run: DagRun, task: str) -> str:
    import shlex

    hint = db_hint(run.history.database.path)
    return f"liteflow clear {run.dag_id}/{run.run_id} {shlex.quote(task)} --downstream --failed{hint}"


def _resume_command(run: DagRun) -> str:
    """How to go on with the run, as far as the database knows the file."""
    import shlex

    from liteflow.cli.common import home_relative

    file = run.history.dag(run.dag_id).file
    which = shlex.quote(f"{home_relative(file)}:{run.dag_id}") if file else "FILE"
    return f"liteflow run {which} --resume {run.dag_id}/{run.run_id}{db_hint(run.history.database.path)}"
