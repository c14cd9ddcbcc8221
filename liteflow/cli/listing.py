"""Commands that list what has run: `dags`, `runs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    db_option,
    examples,
    failed_tasks_of,
    json_option,
    open_history,
    print_json,
    print_table,
    run_document,
    state_text,
    took,
    when,
)

if TYPE_CHECKING:
    pass


@examples("liteflow dags", "liteflow dags --json --db etl.db")
@click.command("dags")
@db_option
@json_option
def dags_command(db_path: str | None, as_json: bool) -> None:
    """List the dags that have run in the database."""
    history = open_history(db_path)
    found = history.dags()
    if as_json:
        print_json(
            [
                {
                    "dag_id": dag.dag_id,
                    "description": dag.description,
                    "tags": list(dag.tags),
                    "file": dag.file,
                    "runs": dag.runs,
                    "latest_run": run_document(dag.latest) if dag.latest else None,
                }
                for dag in found
            ]
        )
        return
    failed = failed_tasks_of(history, [dag.latest for dag in found if dag.latest])
    rows = [
        [
            dag.dag_id,
            str(dag.runs),
            state_text(dag.latest, failed.get(dag.latest.pk, 0)) if dag.latest else "-",
            when(dag.latest.created_at) if dag.latest else "-",
            (dag.description or "").split("\n", 1)[0],
        ]
        for dag in found
    ]
    headers = ["DAG", "RUNS", "LATEST", "AT", "DESCRIPTION"]
    print_table(headers, rows, empty="no dag has run here yet", state_column=2)


@examples("liteflow runs", "liteflow runs etl --state failed --limit 5")
@click.command("runs")
@click.argument("dag_id", metavar="[DAG_ID]", required=False, shell_complete=completing.dag_ids)
@click.option("--state", type=click.Choice(["queued", "running", "success", "failed"]), help="Only runs in this state.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most this many.")
@db_option
@json_option
def runs_command(dag_id: str | None, state: str | None, limit: int, db_path: str | None, as_json: bool) -> None:
    """List runs, the newest first. A running one whose process is gone is shown as interrupted."""
    history = open_history(db_path)
    if dag_id is not None:
        history.dag(dag_id)  # an unknown one is an error, not an empty list
    found = history.runs(dag_id=dag_id, state=state, limit=limit)
    if as_json:
        print_json([run_document(run) for run in found])
        return
    failed = failed_tasks_of(history, found)
    rows = [
        [
            run.dag_id,
            run.run_id,
            state_text(run, failed.get(run.pk, 0)),
            when(run.started_at or run.created_at),
            took(run.duration),
        ]
        for run in found
    ]
    print_table(["DAG", "RUN", "STATE", "STARTED", "TOOK"], rows, empty="no such run", state_column=2)
