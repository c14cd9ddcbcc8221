"""Commands that change what is recorded: `cancel`, `delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from liteflow.cli.common import db_hint, db_option, examples, is_interrupted, open_history

if TYPE_CHECKING:
    from liteflow.storage.history import DagRun


@examples("liteflow cancel etl", "liteflow cancel etl/nightly-2026-01-02 --db etl.db")
@click.command("cancel")
@click.argument("run", metavar="RUN")
@db_option
def cancel_command(run: str, db_path: str | None) -> None:
    """Ask for a run's end. What runs is told to end, and killed after its grace; the rest is skipped."""
    found = open_history(db_path).find_run(run)
    if found.state.is_terminal:
        click.echo(f"{found.dag_id}/{found.run_id} is over already: {found.state}", err=True)
        return
    if is_interrupted(found):
        raise click.UsageError(
            f"{found.dag_id}/{found.run_id} was interrupted: nothing of it runs. Delete it with: "
            f"liteflow delete {found.dag_id}/{found.run_id}{db_hint(found.history.database.path)}"
        )
    found.cancel()
    click.echo(f"{found.dag_id}/{found.run_id} is being cancelled", err=True)


@examples("liteflow delete etl/nightly-2026-01-02", "liteflow delete --dag etl --yes")
@click.command("delete")
@click.argument("run", metavar="[RUN]", required=False)
@click.option("--dag", "dag_id", metavar="DAG_ID", help="Delete the dag with all of its runs instead of one run.")
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
        _ask(f"Delete dag {dag_id} and its {facts.runs} runs?", yes)
        history.delete_dag(dag_id)
        click.echo(f"deleted dag {dag_id} and its {facts.runs} runs", err=True)
        return
    assert run is not None
    found = history.find_run(run)
    _refuse_active(found)
    _ask(f"Delete run {found.dag_id}/{found.run_id}?", yes)
    history.delete_run(found.pk)
    click.echo(f"deleted run {found.dag_id}/{found.run_id}", err=True)


def _refuse_active(run: DagRun) -> None:
    if run.state.is_terminal or is_interrupted(run):
        return
    raise click.UsageError(
        f"{run.dag_id}/{run.run_id} is {run.state}; cancel it first: "
        f"liteflow cancel {run.dag_id}/{run.run_id}{db_hint(run.history.database.path)}"
    )


def _ask(question: str, yes: bool) -> None:
    if not yes:
        click.confirm(question, abort=True, err=True)
