"""`liteflow run`."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    db_option,
    echo,
    examples,
    executor_option,
    is_interrupted,
    json_option,
    print_json,
    run_document,
)
from liteflow.cli.dagfile import given_params, load_with_others, moment_of, run_id_of
from liteflow.cli.stopping import signals_that_raise, stopped

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag
    from liteflow.storage.history import DagRun

ACTIVE_POLL_S = 0.2
"""How often it is looked whether a run that is waited for is over."""


@examples(
    "liteflow run my_workflow.py",
    "liteflow run my_workflow.py --param day=2026-01-02 --run-id nightly-2026-01-02",
    "liteflow run flows.py:etl --db etl.db --workers 8",
    "liteflow run my_workflow.py --resume latest",
    "liteflow run my_workflow.py --if-active wait",
)
@click.command("run")
@click.argument("file", metavar="FILE[:DAG_ID]", shell_complete=completing.files)
@click.option("--param", "params", multiple=True, metavar="K=V", help="A param of the run; V as JSON or as text.")
@click.option("--run-id", metavar="ID", help="Makes it idempotent: a run of this id that is over is not run again.")
@click.option("--logical-date", metavar="T", help="The date that the run is for, ISO 8601; UTC unless it says.")
@click.option(
    "--resume",
    metavar="RUN",
    shell_complete=completing.runs_to_resume,
    help="Go on with an interrupted or failed run instead; `latest` for the newest.",
)
@click.option("--accept-changes", is_flag=True, help="With --resume: though tasks were added, removed or rewired.")
@click.option(
    "--force",
    is_flag=True,
    help="With --resume: take the run from a process that hangs or is stopped; ends what it runs.",
)
@click.option(
    "--if-active",
    type=click.Choice(["fail", "skip", "wait"]),
    default="fail",
    show_default=True,
    help="While another run of the dag goes on: exit with 2, with 0, or wait until it is over.",
)
@click.option(
    "--airflow-compat/--no-airflow-compat",
    "airflow_compat",
    default=None,
    help="Whether `import airflow` in FILE means liteflow's own modules; default: where Airflow is not installed.",
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Tasks at a time; default the usable CPUs.")
@executor_option
@click.option("--quiet", "-q", is_flag=True, help="Show nothing on stderr while it runs.")
@db_option
@json_option
def run_command(
    file: str,
    params: tuple[str, ...],
    run_id: str | None,
    logical_date: str | None,
    resume: str | None,
    accept_changes: bool,
    force: bool,
    if_active: str,
    airflow_compat: bool | None,
    workers: int | None,
    executor: str | None,
    quiet: bool,
    db_path: str | None,
    as_json: bool,
) -> None:
    """Run a dag of a Python file once, or go on with a run. Exit 0 if the run succeeded, 1 if it failed, 4 if it is not
    finished and can be resumed: its executor broke.

    Ctrl-C or SIGTERM stops it: nothing more is begun, what runs may go on for 5 s, the run can be resumed (exit 130 or
    143); once more kills it at once. DAG_ID is needed when the file has several dags. The database is --db, else what
    the dag itself says, else $LITEFLOW_DB, else liteflow.db. Tasks may begin runs of the file's other dags, in the same
    database (TriggerDagRunOperator): it ends when these are over too, and says how each ended.
    """
    if resume is None and (accept_changes or force):
        raise click.UsageError("--accept-changes and --force go with --resume RUN")
    if resume is not None and (params or run_id is not None or logical_date is not None):
        raise click.UsageError(
            "a run goes on with its own id, params and date: leave out --run-id, --param, --logical-date"
        )
    if airflow_compat is not None:
        from liteflow.authoring.dagfile import AIRFLOW_COMPAT

        os.environ[AIRFLOW_COMPAT] = str(int(airflow_compat))  # for the workers too
    dag, others = load_with_others(file)
    if db_path is not None:
        dag.db_path = db_path
    moment = moment_of(logical_date) if logical_date is not None else None
    given = given_params(dag, params)
    if resume is None:
        new = partial(dag.run, given, run_id=run_id, logical_date=moment, alone=True)
        begin = partial(_run_when_alone, dag, new, if_active)
    else:
        begin = partial(dag.resume, run_id_of(dag, resume), accept_changes=accept_changes, force=force)
    from liteflow.errors import RunActiveError
    from liteflow.execution.stopping import Terminated

    try:
        with signals_that_raise():
            run = begin(max_workers=workers, executor=executor, dags=others, progress=False if quiet else None)
    except RunActiveError as error:
        if if_active == "skip":
            echo(f"{error}: nothing is run", err=True)
            sys.exit(0)
        raise RunActiveError(
            f"{error}; wait for it with --if-active wait", run_id=error.run_id, pid=error.pid
        ) from error
    except Terminated:
        stopped(143)
    except KeyboardInterrupt:
        stopped(130)
    if as_json:
        print_json(run_document(run))
    else:
        echo(f"{run.dag_id}/{run.run_id} {run.state}")
    sys.exit(0 if run.state == "success" else 1)


def _run_when_alone(dag: Dag, begin: Callable[..., DagRun], if_active: str, **options: Any) -> DagRun:
    """Begin a run once no other run of the dag goes on; raises RunActiveError instead of waiting unless told to."""
    from liteflow.errors import NotFoundError, RunActiveError
    from liteflow.storage.history import open_history

    told = None
    while True:
        try:
            return begin(**options)
        except RunActiveError as error:
            if if_active != "wait":
                raise
            if error.run_id != told:
                echo(f"{error}; waiting for it", err=True)
                told = error.run_id
            history = open_history(dag.db_path)
            with contextlib.suppress(NotFoundError):  # it was deleted: over as well
                active = history.find_run(f"{dag.dag_id}/{error.run_id}")
                while not active.state.is_terminal and not is_interrupted(active):
                    time.sleep(ACTIVE_POLL_S)
                    active = history.run(active.pk)
