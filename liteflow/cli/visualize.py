"""`liteflow visualize`: pictures of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from liteflow.cli.common import (
    db_option,
    echo,
    echo_lines,
    examples,
    open_history,
    state_of,
    took,
)

if TYPE_CHECKING:
    pass


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
