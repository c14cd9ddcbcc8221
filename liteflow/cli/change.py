"""Commands that change what is recorded: `cancel`, `delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    ask,
    db_hint,
    db_option,
    echo,
    examples,
    is_interrupted,
    open_history,
    task_and_index,
)

if TYPE_CHECKING:
    from liteflow.storage.history import DagRun


@examples(
    "liteflow cancel etl",
    "liteflow cancel etl/nightly-2026-01-02 --db etl.db",
    "liteflow cancel etl/nightly-2026-01-02 load",
    "liteflow cancel etl 'load[17]'",
)
@click.command("cancel")
@click.argument("run", metavar="RUN", shell_complete=completing.runs)
@click.argument("task", metavar="[TASK]", required=False, shell_complete=completing.tasks)
@db_option
def cancel_command(run: str, task: str | None, db_path: str | None) -> None:
    """Ask for the end of a run, or of one of its tasks.

    What runs is told to end, and killed after its grace. Of a run the rest is skipped, but for teardowns with something
    to tear down; of a task nothing else ends, and what is below it goes by its trigger rules.
    """
    found = open_history(db_path).find_run(run)
    name = f"{found.dag_id}/{found.run_id}"
    if found.state.is_terminal:
        echo(f"{name} is over already: {found.state}", err=True)
        return
    if is_interrupted(found):
        _cancel_interrupted(found, task)
        return
    _tell_if_stopped(found)
    if task is None:
        found.cancel()
        echo(f"{name} is being cancelled", err=True)
        return
    task_id, map_index = task_and_index(task)
    count = found.cancel_task(task_id, map_index)
    if count:
        what = f"{count:,} task instances of {task_id}" if count > 1 else task
        echo(f"{what} of {name} {'are' if count > 1 else 'is'} being cancelled", err=True)
    else:
        echo(f"{task} of {name} is over already", err=True)


def _tell_if_stopped(run: DagRun) -> None:
    """Who is to do it may not be able to."""
    from liteflow.execution.liveness import state_of_owner

    if run.owner is not None and state_of_owner(run.history.database.path, run.owner) == "stopped":
        echo(
            f"process {run.owner.pid}, which drives it, is stopped (SIGSTOP): it is cancelled when that goes on, or "
            "taken from it with: liteflow run FILE --resume RUN --force",
            err=True,
        )


def _cancel_interrupted(run: DagRun, task: str | None) -> None:
    """Nobody drives the run: it is ended here and now."""
    from liteflow.execution.liveness import end_leftovers

    name = f"{run.dag_id}/{run.run_id}"
    if task is not None:
        raise click.UsageError(f"{name} was interrupted: nothing of it runs. Cancel it as a whole, or resume it")
    if run.owner is not None:
        end_leftovers(run.history.database.path, run.owner.token)
    run.history.end_interrupted(run)
    echo(f"{name} was interrupted, and is cancelled now; its teardowns did not run", err=True)


@examples("liteflow delete etl/nightly-2026-01-02", "liteflow delete --dag etl --yes")
@click.command("delete")
@click.argument("run", metavar="[RUN]", required=False, shell_complete=completing.runs)
@click.option(
    "--dag",
    "dag_id",
    metavar="DAG_ID",
    shell_complete=completing.dag_ids,
    help="Delete the dag with all of its runs instead of one run.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@db_option
def delete_command(run: str | None, dag_id: str | None, yes: bool, db_path: str | None) -> None:
    """Delete a run, or a dag with all of its runs.

    States, tries, XComs and logs go. What still runs is not deleted.
    """
    if (run is None) == (dag_id is None):
        raise click.UsageError("name a RUN, or a dag with --dag DAG_ID")
    history = open_history(db_path)
    if dag_id is not None:
        facts = history.dag(dag_id)
        for active in history.active_runs(dag_id):
            _refuse_active(active)
        ask(f"Delete dag {dag_id} and its {facts.runs} runs?", yes)
        history.delete_dag(dag_id)
        echo(f"deleted dag {dag_id} and its {facts.runs} runs", err=True)
        return
    assert run is not None
    found = history.find_run(run)
    _refuse_active(found)
    ask(f"Delete run {found.dag_id}/{found.run_id}?", yes)
    history.delete_run(found.pk, seen=found)
    echo(f"deleted run {found.dag_id}/{found.run_id}", err=True)


def _refuse_active(run: DagRun) -> None:
    if run.state.is_terminal or is_interrupted(run):
        return
    raise click.UsageError(
        f"{run.dag_id}/{run.run_id} is {run.state}; cancel it first: "
        f"liteflow cancel {run.dag_id}/{run.run_id}{db_hint(run.history.database.path)}"
    )
