"""`liteflow visualize`: pictures of runs, and of dags that have not run."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from liteflow.cli import completing
from liteflow.cli.common import db_option, echo, echo_lines, examples, is_terminal, open_history
from liteflow.cli.dagfile import file_named, is_named_as_file, load_dag
from liteflow.cli.drawing import is_ascii_only, picture_of, print_lines, timeline_of, width_here, write_file

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag
    from liteflow.storage.history import DagRun, History
    from liteflow.visualize.lines import Line
    from liteflow.visualize.picture import Picture

_ENDINGS = {
    "mermaid": (".mmd", ".mermaid"),
    "dot": (".dot", ".gv"),
    "text": (".txt",),
    "timeline": (".txt",),
    "gantt": (".mmd", ".mermaid"),
    "html": (".html", ".htm"),
}
"""Formats to the endings of files that hold them."""

_OF_RUNS = ("timeline", "gantt")
"""Formats in which a dag that has not run cannot be drawn."""

_OF_LINES = ("text", "timeline")
"""Formats for a terminal."""

MOST_KNOWN = 200
"""So many of a dag's newest runs are looked at for the nearest name."""


@examples(
    "liteflow visualize etl --db etl.db",
    "liteflow visualize etl --format text",
    "liteflow visualize etl --run nightly-2026-01-02 --format timeline",
    "liteflow visualize etl --format html --open",
    "liteflow visualize my_workflow.py --direction TD -o my_workflow.mmd",
)
@click.command("visualize")
@click.argument("identifier", metavar="IDENTIFIER", shell_complete=completing.runs_or_files)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(_ENDINGS)),
    default="mermaid",
    show_default=True,
    help="mermaid, dot: text for those programs. text: for this terminal. timeline: who ran when on which slot, for "
    "this terminal; gantt: the same for Mermaid. html: one file for a browser.",
)
@click.option(
    "--run",
    "run_name",
    metavar="RUN",
    shell_complete=completing.runs_to_resume,
    help="This run of the dag that IDENTIFIER names; `latest`.",
)
@click.option(
    "--direction",
    type=click.Choice(["LR", "TD"]),
    default="LR",
    show_default=True,
    help="Left to right, or down.",
)
@click.option("--all", "expand", is_flag=True, help="With text: every task of groups, not one row for each group.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    shell_complete=completing.files,
    help="Write to FILE, `-` for stdout. A file that is there is replaced only if its name ends as such files do: "
    ".mmd, .mermaid, .dot, .gv, .txt, .html, .htm.",
)
@click.option("--open", "open_it", is_flag=True, help="With html: show it in the browser.")
@db_option
def visualize_command(
    identifier: str,
    form: str,
    run_name: str | None,
    direction: str,
    expand: bool,
    output: str | None,
    open_it: bool,
    db_path: str | None,
) -> None:
    """Draw a run, or a dag from its file.

    IDENTIFIER is a dag id, whose latest run is drawn, or a RUN; or FILE.py[:DAG_ID], which is loaded, and drawn from
    its code. Mapped tasks are drawn once, with the states of their instances.
    """
    if open_it and form != "html":
        raise click.UsageError("--open goes with --format html")
    if form == "html" and not open_it and output in (None, "-") and is_terminal():
        raise click.UsageError("a page is not for a terminal: name a file with -o FILE, or show it with --open")
    subject = _subject(identifier, run_name, db_path)
    if subject.run is None and form in _OF_RUNS:
        raise click.UsageError(f"{form} draws a run: name one with --run RUN, or with the id of the dag")
    if form not in _OF_LINES:
        text = _content(subject, form, direction)
    elif output in (None, "-"):
        from liteflow.visualize.lines import WIDTH

        print_lines(_lines(subject, form, expand, width_here(WIDTH), is_ascii_only()))
        return
    else:
        from liteflow.visualize.lines import WIDTH, plain

        text = plain(_lines(subject, form, expand, WIDTH, ascii_only=False))
    if open_it and output in (None, "-"):
        output = os.path.join(tempfile.mkdtemp(prefix="liteflow-"), "liteflow.html")
    if output in (None, "-"):
        _to_stdout(text, form)
        return
    assert output is not None
    write_file(output, text, endings=_ENDINGS[form])
    echo(f"wrote {output}", err=True)
    if open_it:
        _show(output)


class _Subject(NamedTuple):
    """What is drawn: a run, a dag from its code, or both."""

    run: DagRun | None
    dag: Dag | None

    def picture(self) -> Picture:
        """Its tasks and edges; with the code of the dag also its groups as they are written, and labels."""
        from liteflow.visualize.picture import dag_picture, with_code

        if self.run is not None:
            picture = picture_of(self.run)
            return picture if self.dag is None else with_code(picture, self.dag)
        assert self.dag is not None
        return dag_picture(self.dag)


def _subject(identifier: str, run_name: str | None, db_path: str | None) -> _Subject:
    """What IDENTIFIER and --run name."""
    if file_named(identifier) is not None:
        dag = load_dag(identifier)
        if run_name is None:
            return _Subject(None, dag)
        return _Subject(_run_of(open_history(db_path or _path_of(dag)), dag.dag_id, run_name), dag)
    from liteflow.errors import DatabaseMissingError, NotFoundError

    try:
        history = open_history(db_path)
        if run_name is None:
            return _Subject(history.find_run(identifier), None)
        dag_id = history.dag(identifier).dag_id
    except (DatabaseMissingError, NotFoundError):
        if is_named_as_file(identifier):  # a dag may have such an id as well
            load_dag(identifier)  # says that there is no such file
        raise
    return _Subject(_run_of(history, dag_id, run_name), None)


def _path_of(dag: Dag) -> str | None:
    """Where the dag itself says that its database is."""
    return None if dag.db_path is None else os.fspath(dag.db_path)


def _run_of(history: History, dag_id: str, run_name: str) -> DagRun:
    """The run of the dag that `run_name` names; `latest` for the newest."""
    from liteflow.authoring.ids import did_you_mean
    from liteflow.errors import NotFoundError

    try:
        return history.find_run_of(dag_id, run_name)
    except NotFoundError:
        near = did_you_mean(run_name, [run.run_id for run in history.runs(dag_id=dag_id, limit=MOST_KNOWN)])
        raise NotFoundError(
            f"{history.database.path}: dag {dag_id!r} has no run {run_name!r}{near}. See: liteflow runs {dag_id}",
            identifier=run_name,
        ) from None


def _lines(subject: _Subject, form: str, expand: bool, width: int, ascii_only: bool) -> list[Line]:
    """The formats that are lines for a terminal, under a line that says what is drawn."""
    from liteflow.visualize.lines import clean, cut

    picture = subject.picture()
    heading = cut([(clean(picture.title), "critical")], width, "~" if ascii_only else "\u2026")
    if form == "text":
        from liteflow.visualize.text import graph_lines

        if not expand and is_terminal() and any(node.groups for node in picture.nodes):
            echo("a group is one row; --all draws its tasks", err=True)
        return [heading, *graph_lines(picture, width=width, ascii_only=ascii_only, expand=expand)]
    from liteflow.visualize.timeline_text import timeline_lines

    assert subject.run is not None
    drawn = timeline_of(subject.run, picture)
    return [heading, *timeline_lines(drawn, width=width, ascii_only=ascii_only)]


def _content(subject: _Subject, form: str, direction: str) -> str:
    """The formats that are files for other programs."""
    if form == "html":
        from liteflow.cli.page import dag_page, run_page

        if subject.run is not None:
            return run_page(subject.run, direction=direction)
        assert subject.dag is not None
        return dag_page(subject.dag, direction=direction)
    picture = subject.picture()
    if form == "dot":
        from liteflow.visualize.dot import dot

        return dot(picture, direction=direction)
    from liteflow.visualize.mermaid import MOST_CHARACTERS, MOST_EDGES, flowchart

    if form == "gantt":
        from liteflow.visualize.gantt import gantt

        assert subject.run is not None
        drawn, edges = gantt(timeline_of(subject.run, picture)), 0
    else:
        drawn, edges = flowchart(picture, direction=direction), len(picture.edges())
    if len(drawn) > MOST_CHARACTERS or edges > MOST_EDGES:
        echo("too large for Mermaid as it comes: raise its maxTextSize and maxEdges", err=True)
    return drawn


def _to_stdout(text: str, form: str) -> None:
    if form == "html":  # as it is: what may not stand in it, its maker has escaped
        sys.stdout.buffer.write(text.encode())
        sys.stdout.flush()
    else:
        echo_lines(text)


def _show(path: str) -> None:
    """Open the page in a browser."""
    import webbrowser

    if not webbrowser.open(Path(path).resolve().as_uri()):
        echo(f"no browser was found; open {path} in one", err=True)
