"""Commands that only read: `dags`, `runs`, `show`, `logs`, `xcom`, `visualize`. None of them decodes an XCom."""

from __future__ import annotations

import json
import logging

import click

from liteflow.cli.common import (
    db_option,
    examples,
    instance_document,
    iso,
    json_option,
    open_history,
    print_json,
    print_table,
    printable,
    run_document,
    state_of,
    took,
    when,
)


@examples("liteflow dags", "liteflow dags --json --db etl.db")
@click.command("dags")
@db_option
@json_option
def dags_command(db_path: str | None, as_json: bool) -> None:
    """List the dags that have run in the database."""
    found = open_history(db_path).dags()
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
    rows = [
        [
            dag.dag_id,
            str(dag.runs),
            state_of(dag.latest) if dag.latest else "-",
            when(dag.latest.created_at) if dag.latest else "-",
            (dag.description or "").split("\n", 1)[0],
        ]
        for dag in found
    ]
    headers = ["DAG", "RUNS", "LATEST", "AT", "DESCRIPTION"]
    print_table(headers, rows, empty="no dag has run here yet", state_column=2)


@examples("liteflow runs", "liteflow runs etl --state failed --limit 5")
@click.command("runs")
@click.argument("dag_id", metavar="[DAG_ID]", required=False)
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
    rows = [
        [
            run.dag_id,
            run.run_id,
            state_of(run) + (f" ({run.end_reason})" if run.end_reason else ""),
            when(run.started_at or run.created_at),
            took(run.duration),
        ]
        for run in found
    ]
    print_table(["DAG", "RUN", "STATE", "STARTED", "TOOK"], rows, empty="no such run", state_column=2)


@examples("liteflow show etl", "liteflow show etl/nightly-2026-01-02 --json")
@click.command("show")
@click.argument("run", metavar="RUN")
@db_option
@json_option
def show_command(run: str, db_path: str | None, as_json: bool) -> None:
    """Show a run and each of its task instances, with earlier tries and errors."""
    found = open_history(db_path).find_run(run)
    instances, tries = found.task_instances(), found.tries()
    if as_json:
        document = run_document(found)
        document["task_instances"] = [instance_document(instance) for instance in instances]
        document["tries"] = [
            {
                "task_id": one.task_id,
                "map_index": one.map_index,
                "try_number": one.try_number,
                "state": str(one.state),
                "end_reason": one.end_reason and str(one.end_reason),
                "error": one.error,
                "started_at": iso(one.started_at),
                "ended_at": iso(one.ended_at),
            }
            for one in tries
        ]
        print_json(document)
        return
    reason = f" ({found.end_reason})" if found.end_reason else ""
    click.echo(
        f"{printable(found.dag_id)}/{printable(found.run_id)}  {state_of(found)}{reason}  {took(found.duration)}"
    )
    click.echo(f"logical date {iso(found.logical_date)}, started {when(found.started_at)}", err=False)
    if found.params_json != "{}":
        click.echo(f"params {printable(found.params_json)}")
    click.echo()
    rows = []
    for instance in instances:
        name = instance.task_id if instance.map_index < 0 else f"{instance.task_id}[{instance.map_index}]"
        for one in tries:
            if (one.task_id, one.map_index) == (instance.task_id, instance.map_index):
                duration = one.ended_at - one.started_at if one.started_at and one.ended_at else None
                rows.append(
                    [
                        name,
                        str(one.state),
                        str(one.try_number),
                        when(one.started_at),
                        took(duration),
                        one.error or "",
                    ]
                )
        why = f" ({instance.end_reason})" if instance.end_reason else ""
        rows.append(
            [
                name,
                f"{instance.state}{why}",
                str(instance.try_number or "-"),
                when(instance.started_at),
                took(instance.duration),
                instance.error or "",
            ]
        )
    headers = ["TASK", "STATE", "TRY", "STARTED", "TOOK", "ERROR"]
    print_table(headers, rows, empty="the dag has no tasks", state_column=1)


@examples("liteflow logs etl", "liteflow logs etl load", "liteflow logs etl/nightly-2026-01-02 load --json")
@click.command("logs")
@click.argument("run", metavar="RUN")
@click.argument("task_id", metavar="[TASK]", required=False)
@db_option
@json_option
def logs_command(run: str, task_id: str | None, db_path: str | None, as_json: bool) -> None:
    """Print the log of a run or of one of its tasks.

    That is what was printed, logged, and written by child processes.
    """
    entries = open_history(db_path).find_run(run).logs(task_id)
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
    if not entries:
        click.echo("nothing was logged", err=True)
    for entry in entries:
        level = f" {logging.getLevelName(entry.level)}" if entry.level is not None else ""
        index = "" if entry.map_index < 0 else f"[{entry.map_index}]"
        number = f" try {entry.try_number}" if entry.try_number > 1 else ""
        head = f"{when(entry.at)} [{printable(entry.task_id)}{index}{number}]{level} "
        click.echo(head + printable(entry.message))


@examples("liteflow xcom etl load", "liteflow xcom etl extract return_value --json")
@click.command("xcom")
@click.argument("run", metavar="RUN")
@click.argument("task_id", metavar="TASK")
@click.argument("key", metavar="[KEY]", required=False)
@db_option
@json_option
def xcom_command(run: str, task_id: str, key: str | None, db_path: str | None, as_json: bool) -> None:
    """Print the values that a task handed on, or the one under KEY. Pickles are named, never opened."""
    from liteflow.authoring.ids import did_you_mean
    from liteflow.errors import NotFoundError
    from liteflow.storage.xcoms import preview, size_text

    found = open_history(db_path).find_run(run)
    values = found.xcoms(task_id)
    if key is not None:
        chosen = [value for value in values if value.key == key]
        if not chosen:
            keys = [value.key for value in values]
            hint = did_you_mean(key, keys) or (f"; there are {', '.join(keys)}" if keys else "; it handed on nothing")
            raise NotFoundError(f"task {task_id!r} has no XCom {key!r}{hint}", identifier=key)
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
                    "value": json.loads(value.data) if value.encoding == "json" else None,
                }
                for value in values
            ]
        )
    elif key is not None:
        for value in values:
            click.echo(printable(preview(value.encoding, value.data, length=1_000_000)))
    else:
        rows = [
            [
                value.key,
                value.encoding,
                size_text(value.size_bytes),
                preview(value.encoding, value.data, length=200),
            ]
            for value in values
        ]
        print_table(["KEY", "ENCODING", "SIZE", "VALUE"], rows, empty="the task handed on nothing")


@examples("liteflow visualize etl --db etl.db", "liteflow visualize etl/nightly-2026-01-02 --direction TD > run.mmd")
@click.command("visualize")
@click.argument("identifier", metavar="IDENTIFIER")
@click.option(
    "--direction",
    type=click.Choice(["LR", "TD"]),
    default="LR",
    show_default=True,
    help="Left to right, or down.",
)
@db_option
def visualize_command(identifier: str, direction: str, db_path: str | None) -> None:
    """Draw a run as a Mermaid flowchart, each task instance with its state.

    IDENTIFIER is a dag id, whose latest run is drawn, or a RUN.
    """
    from liteflow.visualize import Node, Picture, flowchart
    from liteflow.visualize.mermaid import MOST_CHARACTERS, MOST_EDGES

    run = open_history(db_path).find_run(identifier)
    nodes = [
        Node(
            instance.task_id,
            instance.map_index,
            str(instance.state),
            instance.upstream,
            took(instance.duration) if instance.duration else "",
        )
        for instance in run.task_instances()
    ]
    picture = Picture(run.dag_id, run.run_id, state_of(run), nodes)
    drawn = flowchart(picture, direction=direction)
    if len(drawn) > MOST_CHARACTERS or len(picture.edges()) > MOST_EDGES:
        click.echo("too large for Mermaid as it comes: raise its maxTextSize and maxEdges", err=True)
    click.echo(drawn, nl=False)
