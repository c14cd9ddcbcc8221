"""Commands that list what has run: `dags`, `runs`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    Styled,
    db_option,
    examples,
    failed_tasks_of,
    has_colours,
    is_terminal,
    iso,
    json_option,
    open_history,
    print_json,
    print_table,
    run_document,
    seconds,
    state_of,
    state_text,
    took,
    when,
)
from liteflow.cli.words import FAILED_MARK, ago, bars, can_show_bars, parse_moment

if TYPE_CHECKING:
    from liteflow.states import RunState
    from liteflow.storage.history import DagRun, History

MOST_BARS = 10
"""So many of the last runs have a bar in `dags`."""

PAGE = 200
"""Runs that are read at a time where only a look at their owners tells whether they are wanted."""

_UNFINISHED_WORDS = ("queued", "running", "interrupted")
"""What a run that is not over is called; which of them depends on its owner."""

_Durations = Sequence[tuple["RunState", timedelta]]

absolute_option = click.option(
    "--absolute", is_flag=True, help="Show times of the clock on a terminal too, not 2 h ago."
)


@examples("liteflow dags", "liteflow dags --json --db etl.db")
@click.command("dags")
@absolute_option
@db_option
@json_option
def dags_command(absolute: bool, db_path: str | None, as_json: bool) -> None:
    """List the dags that have run in the database.

    Of the last ten runs that are over each has a bar, the newest on the right, as high as it took long; failed ones are
    red, or x where there are no colours. MEDIAN is the median duration of those that succeeded.
    """
    history = open_history(db_path)
    found = history.dags()
    durations = history.latest_durations([dag.dag_id for dag in found], MOST_BARS)
    if as_json:
        print_json(
            [
                {
                    "dag_id": dag.dag_id,
                    "description": dag.description,
                    "tags": list(dag.tags),
                    "file": dag.file,
                    "retain_runs": dag.retain_runs,
                    "retain_days": dag.retain_days,
                    "runs": dag.runs,
                    "latest_run": run_document(dag.latest) if dag.latest else None,
                    "last_runs": [
                        {"state": str(state), "duration_s": seconds(duration)}
                        for state, duration in durations[dag.dag_id]
                    ],
                    "median_duration_s": seconds(_median(durations[dag.dag_id])),
                }
                for dag in found
            ]
        )
        return
    failed = failed_tasks_of(history, [dag.latest for dag in found if dag.latest])
    time_text = _time_text(absolute)
    rows = [
        [
            dag.dag_id,
            str(dag.runs),
            state_text(dag.latest, failed.get(dag.latest.pk, 0)) if dag.latest else "-",
            time_text(dag.latest.created_at) if dag.latest else "-",
            _bars_of(durations[dag.dag_id]),
            took(_median(durations[dag.dag_id])),
            (dag.description or "").split("\n", 1)[0],
        ]
        for dag in found
    ]
    headers = ["DAG", "RUNS", "LATEST", "AT", "LAST RUNS", "MEDIAN", "DESCRIPTION"]
    if is_terminal() and not any(row[-1] for row in rows):  # the room is worth more there
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    print_table(headers, rows, empty="no dag has run here yet", state_column=2)


def _median(durations: _Durations) -> timedelta | None:
    """The median duration of the runs that succeeded."""
    found = [duration.total_seconds() for state, duration in durations if state == "success"]
    return timedelta(seconds=statistics.median(found)) if found else None


def _bars_of(durations: _Durations) -> Styled:
    """A bar for each run."""
    heights = bars([duration.total_seconds() for _, duration in durations], ascii_only=not can_show_bars())
    mark, style = (None, "red") if has_colours() else (FAILED_MARK, "")
    return Styled.of(
        (mark or bar, style) if state == "failed" else (bar, "green")
        for bar, (state, _) in zip(heights, durations, strict=True)
    )


def _time_text(absolute: bool) -> Callable[[datetime | None], str]:
    """What times are shown as: on a terminal how long ago, unless it is not wanted; the clock's in a pipe."""
    if absolute or not is_terminal():
        return when
    now = datetime.now(UTC)
    return lambda moment: "-" if moment is None else ago(moment, now)


def _moment(_ctx: click.Context, _param: click.Parameter, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_moment(text, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@examples(
    "liteflow runs",
    "liteflow runs etl --state failed --since 7d",
    "liteflow runs --state running --state interrupted --limit 5",
    "liteflow runs --since 2026-01-01 --until 2026-02-01 --json",
)
@click.command("runs")
@click.argument("dag_id", metavar="[DAG_ID]", required=False, shell_complete=completing.dag_ids)
@click.option(
    "--dag",
    "same_dag_id",
    metavar="DAG_ID",
    help="Only runs of this dag, as the argument.",
    shell_complete=completing.dag_ids,
)
@click.option(
    "--state",
    "states",
    type=click.Choice([*_UNFINISHED_WORDS, "success", "failed"]),
    multiple=True,
    help="Only runs in this state; may be repeated.",
)
@click.option("--since", metavar="WHEN", callback=_moment, help="Created then or later: 7d, 12h, 30m, 2026-01-31.")
@click.option("--until", metavar="WHEN", callback=_moment, help="Created before then.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most this many.")
@absolute_option
@db_option
@json_option
def runs_command(
    dag_id: str | None,
    same_dag_id: str | None,
    states: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    limit: int,
    absolute: bool,
    db_path: str | None,
    as_json: bool,
) -> None:
    """List runs, the newest first. A running one whose process is gone is shown as interrupted.

    A time without an offset is local. On a terminal it is shown how long ago a run started, in a pipe the local time;
    --json has ISO times in UTC.
    """
    if None not in (dag_id, same_dag_id) and dag_id != same_dag_id:
        raise click.UsageError(f"two dags are named, {dag_id} and {same_dag_id}; name one")
    dag_id = dag_id if dag_id is not None else same_dag_id
    if since is not None and until is not None and since >= until:
        raise click.UsageError(
            f"nothing was created between --since {iso(since)} and --until {iso(until)}, which is before"
        )
    history = open_history(db_path)
    if dag_id is not None:
        history.dag(dag_id)  # an unknown one is an error, not an empty list
    found = _select(history, dag_id, set(states), since, until, limit)
    if as_json:
        print_json([run_document(run) for run in found])
        return
    failed = failed_tasks_of(history, found)
    time_text = _time_text(absolute)
    rows = [
        [
            run.dag_id,
            run.run_id,
            state_text(run, failed.get(run.pk, 0)),
            time_text(run.started_at or run.created_at),
            took(run.duration),
        ]
        for run in found
    ]
    print_table(["DAG", "RUN", "STATE", "STARTED", "TOOK"], rows, empty="no such run", state_column=2)


def _select(
    history: History,
    dag_id: str | None,
    states: Collection[str],
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> list[DagRun]:
    """The newest runs whose state, as it is shown, is one of these; of any if there are none."""
    if not states or not set(states) & set(_UNFINISHED_WORDS):
        return history.runs(dag_id=dag_id, state=states or None, since=since, until=until, limit=limit)
    # An interrupted one is recorded as queued or running.
    recorded = set(states) - {"interrupted"} | ({"queued", "running"} if "interrupted" in states else set())
    found: list[DagRun] = []
    last: DagRun | None = None
    while True:
        page = history.runs(dag_id=dag_id, state=recorded, since=since, until=until, before=last, limit=PAGE)
        found += [run for run in page if state_of(run) in states]
        if len(page) < PAGE or len(found) >= limit:
            return found[:limit]
        last = page[-1]
