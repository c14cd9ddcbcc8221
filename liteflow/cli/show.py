"""`liteflow show`: a run with its task instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    db_option,
    echo,
    examples,
    instance_document,
    iso,
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
    from liteflow.storage.history import DagRun, TryInfo
    from liteflow.storage.summaries import ListedInstance, TaskSummary

MOST_INSTANCES = 5
"""A task with more instances than this is one row of `show`, without `--all`."""

MOST_FAILED = 10
"""So many of its failed instances are listed below it."""

MOST_ERROR_CHARACTERS = 60
"""Of the first failed instance's error, in that row."""


@examples("liteflow show etl", "liteflow show etl/nightly-2026-01-02 --json")
@click.command("show")
@click.argument("run", metavar="RUN", shell_complete=completing.runs)
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
    if found.rerun_of is not None:
        echo(f"rerun of {found.rerun_of}")
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
                "slot": one.slot,
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
        reason = f" ({one.end_reason})" if one.end_reason else ""
        state = f"{one.state}{reason}"
        rows.append([name, state, str(one.try_number), when(one.started_at), took(duration), one.error or ""])
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
