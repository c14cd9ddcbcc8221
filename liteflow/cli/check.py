"""`liteflow check`: what stands in the way of a dag file to Airflow, or from there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from liteflow.cli import completing
from liteflow.cli.common import db_option, echo, examples, home_relative, json_option, print_json

if TYPE_CHECKING:
    from liteflow.airflow.findings import Finding


@examples(
    "liteflow check my_workflow.py --target airflow",
    "liteflow check my_workflow.py --target airflow --db my.db --json",
    "liteflow check airflow_dags/etl.py --target liteflow",
)
@click.command("check")
@click.argument("file", metavar="FILE", shell_complete=completing.files)
@click.option(
    "--target",
    type=click.Choice(["airflow", "liteflow"]),
    required=True,
    help="airflow: a file of liteflow's is to run in Airflow 3.3. liteflow: the other way.",
)
@db_option
@json_option
def check_command(file: str, target: str, db_path: str | None, as_json: bool) -> None:
    """Say what keeps a dag file from Airflow, or from liteflow.

    It names the lines that would not load there, or would do something else, and what to write. Notes say what is good
    to know. Exit 1 when there is more than notes, 2 when the file cannot be read or parsed.

    With --target airflow the file is also loaded, as `run` does it, and the values of its last run are looked at.
    """
    from liteflow.airflow.checking import check_file, counts

    found = check_file(file, target, db_path)
    if as_json:
        print_json([{**one._asdict(), "file": home_relative(one.file)} for one in found])
    else:
        for one in found:
            echo(_line(one))
        if not found:
            echo(f"nothing found: {file} is ready for {target}", err=True)
    sys.exit(1 if any(map(counts, found)) else 0)


def _line(one: Finding) -> str:
    advice = f"; {one.advice}" if one.advice else ""
    note = "note: " if one.severity == "note" else ""
    return f"{home_relative(one.file)}:{one.line}: {note}{one.message}{advice} [{one.rule}]"
