"""Commands that only read: `dags`, `runs`, `show`, `logs`, `xcom`, `visualize`. None of them decodes an XCom."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from liteflow.cli.common import (
    db_option,
    echo,
    echo_lines,
    examples,
    failed_tasks_of,
    instance_document,
    iso,
    json_option,
    open_history,
    print_json,
    print_table,
    run_document,
    state_of,
    state_text,
    task_and_index,
    took,
    when,
)

if TYPE_CHECKING:
    from liteflow.storage.history import DagRun, TryInfo
    from liteflow.storage.summaries import ListedInstance, TaskSummary

MOST_INSTANCES = 5
"""A task with more instances than this is one row of `show`, without `--all`."""

MOST_FAILED = 10
"""So many of its failed instances are listed below it."""

MOST_ERROR_CHARACTERS = 60
"""Of the first failed instance's error, in that row."""

MOST_KEYS = 20
"""So many keys of XComs are named when the one that was asked for is not there."""


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


@examples("liteflow show etl", "liteflow show etl/nightly-2026-01-02 --json")
@click.command("show")
@click.argument("run", metavar="RUN")
@click.option("--all", "show_all", is_flag=True, help="List every instance of mapped tasks, however many there are.")
@db_option
@json_option
def show_command(run: str, show_all: bool, db_path: str | None, as_json: bool) -> None:
    """Show a run and each of its task instances, with earlier tries and errors.

    A mapped task with many instances is one row that counts them, followed by the first that failed; --all and --json
    list them all.
    """
    found = open_history(db_path).find_run(run)
    if as_json:
        print_json(_run_document_in_full(found))
        return
    from liteflow.states import TaskInstanceState
    from liteflow.storage.summaries import listed_instances, listed_tries, task_summaries

    most = None if show_all else MOST_INSTANCES
    with found.history.read() as connection:
        summaries = task_summaries(connection, found.pk)
        instances = listed_instances(connection, found.pk, most=most, most_failed=MOST_FAILED)
        tries = listed_tries(connection, found.pk, most=most)
    failed = sum(TaskInstanceState.FAILED in summary.counts for summary in summaries)
    state = state_text(found, failed)
    echo(f"{found.dag_id}/{found.run_id}  {state}  {took(found.duration)}")
    echo(f"logical date {iso(found.logical_date)}, started {when(found.started_at)}")
    if found.params_json != "{}":
        echo(f"params {found.params_json}")
    echo()
    rows = []
    for summary in summaries:
        listed = instances.get(summary.task_id, [])
        if most is None or summary.size <= most:
            rows += [row for instance in listed for row in _instance_rows(instance, tries)]
        else:
            rows += _collapsed_rows(summary, listed)
    headers = ["TASK", "STATE", "TRY", "STARTED", "TOOK", "ERROR"]
    print_table(headers, rows, empty="the dag has no tasks", state_column=1)


def _run_document_in_full(run: DagRun) -> dict[str, object]:
    return {
        **run_document(run),
        "task_instances": [instance_document(instance) for instance in run.task_instances()],
        "tries": [
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
            for one in run.tries()
        ],
    }


def _instance_rows(
    instance: ListedInstance, tries: Mapping[tuple[str, int], Sequence[TryInfo]] | None = None
) -> list[list[str]]:
    """A task instance, after its earlier tries."""
    from liteflow.states import instance_name

    name = instance_name(instance.task_id, instance.map_index, instance.rendered_map_index)
    rows = []
    for one in (tries or {}).get((instance.task_id, instance.map_index), []):
        duration = one.ended_at - one.started_at if one.started_at and one.ended_at else None
        rows.append([name, str(one.state), str(one.try_number), when(one.started_at), took(duration), one.error or ""])
    # Of one that waits it is that of the try before, of which the error says more.
    reason = f" ({instance.end_reason})" if instance.end_reason and instance.state.is_terminal else ""
    rows.append(
        [
            name,
            f"{instance.state}{reason}",
            str(instance.try_number or "-"),
            when(instance.started_at),
            took(instance.duration),
            instance.error or "",
        ]
    )
    return rows


def _collapsed_rows(summary: TaskSummary, failed: Sequence[ListedInstance]) -> list[list[str]]:
    """A task with many instances as one row, the first that failed below it, and how many more did."""
    from liteflow.states import TaskInstanceState, counts_text, mapped_name

    rows = [
        [
            mapped_name(summary.task_id, summary.size),
            counts_text(summary.counts),
            str(summary.try_number or "-"),
            when(summary.started_at),
            took(summary.duration),
            f"[{failed[0].map_index}]: {_shortened(failed[0].error or '')}" if failed else "",
        ]
    ]
    rows += [row for instance in failed for row in _instance_rows(instance)]
    more = summary.counts.get(TaskInstanceState.FAILED, 0) - len(failed)
    if more:
        rows.append([f"and {more:,} more failed", "", "", "", "", ""])
    return rows


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_ERROR_CHARACTERS else text[: MOST_ERROR_CHARACTERS - 3] + "..."


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


@examples(
    "liteflow xcom etl load",
    "liteflow xcom etl extract return_value --json",
    "liteflow xcom etl 'add_one[17]'",
)
@click.command("xcom")
@click.argument("run", metavar="RUN")
@click.argument("task", metavar="TASK")
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
    """Draw a run as a Mermaid flowchart, each task with its state, a mapped one with the states of its instances.

    IDENTIFIER is a dag id, whose latest run is drawn, or a RUN.
    """
    from liteflow.storage.summaries import task_summaries
    from liteflow.visualize import Node, Picture, flowchart
    from liteflow.visualize.mermaid import MOST_CHARACTERS, MOST_EDGES

    run = open_history(db_path).find_run(identifier)
    with run.history.read() as connection:
        summaries = task_summaries(connection, run.pk)
    nodes = [
        Node(
            summary.task_id,
            summary.counts,
            summary.upstream,
            summary.is_mapped,
            took(summary.duration) if summary.duration and not summary.is_mapped else "",
        )
        for summary in summaries
    ]
    picture = Picture(run.dag_id, run.run_id, state_of(run), nodes)
    drawn = flowchart(picture, direction=direction)
    if len(drawn) > MOST_CHARACTERS or len(picture.edges()) > MOST_EDGES:
        echo("too large for Mermaid as it comes: raise its maxTextSize and maxEdges", err=True)
    echo_lines(drawn)
