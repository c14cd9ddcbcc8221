"""`liteflow plan`: what a run would do."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    db_option,
    echo,
    examples,
    home_relative,
    iso,
    json_option,
    open_history,
    print_json,
    print_table,
)
from liteflow.cli.dagfile import given_params, load_dag, moment_of

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag
    from liteflow.execution.planning import Plan, PlannedTask, Rest, ResumePlan

MOST_UPSTREAM = 3
"""So many tasks upstream are named in a row."""


@examples(
    "liteflow plan my_workflow.py",
    "liteflow plan flows.py:etl --param day=2026-01-02 --db etl.db",
    "liteflow plan my_workflow.py --resume latest",
)
@click.command("plan")
@click.argument("file", metavar="FILE[:DAG_ID]", shell_complete=completing.files)
@click.option("--param", "params", multiple=True, metavar="K=V", help="A param of the run; V as JSON or as text.")
@click.option("--logical-date", metavar="T", help="The date that the run is for, ISO 8601; UTC unless it says.")
@click.option(
    "--resume",
    metavar="RUN",
    help="What going on with this run would do; `latest` for the newest.",
    shell_complete=completing.runs_to_resume,
)
@db_option
@json_option
def plan_command(
    file: str,
    params: tuple[str, ...],
    logical_date: str | None,
    resume: str | None,
    db_path: str | None,
    as_json: bool,
) -> None:
    """Say what a run of a dag would do, without running it.

    The tasks stand level by level: what is of one level may run at the same time. The file is imported, as a run does
    it; nothing is written, and a missing database is not created. Exit 2 when a run would be refused before it begins.
    """
    from liteflow.execution.planning import database_there, make_plan, plan_resume, prepare
    from liteflow.execution.requests import check_request

    if resume is not None and (params or logical_date is not None):
        raise click.UsageError("a run goes on with its own params and date: leave out --param, --logical-date")
    dag, surprises = _loaded(file)
    if db_path is not None:
        dag.db_path = db_path
    history = open_history(_text(dag.db_path)) if resume is not None or database_there(dag.db_path) else None
    prepared = prepare(dag)
    if resume is not None and history is not None:
        run = history.find_run_of(dag.dag_id, resume)
        rest = plan_resume(history, prepared, run.run_id)
        plan = make_plan(prepared, run.params_json, run.logical_date, history)
    else:
        given = given_params(dag, params)
        moment = moment_of(logical_date) if logical_date is not None else None
        _, moment, params_json = check_request(dag, given, None, moment)
        rest = None
        plan = make_plan(prepared, params_json, moment, history)
    if as_json:
        print_json(_document(dag, plan, surprises, rest))
    else:
        _print(dag, plan, surprises, rest)
    if plan.refused is not None:
        echo(f"Error: a run would be refused: {plan.refused}", err=True)
        sys.exit(2)


def _text(db_path: Any) -> str | None:
    return None if db_path is None else str(db_path)


def _loaded(file: str) -> tuple[Dag, list[str]]:
    """The dag, and what of it will surprise, unless the file itself says that it is not to be told."""
    from liteflow.authoring.lint import warn_of_surprises
    from liteflow.errors import DagWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DagWarning)  # filters that the file sets come before it
        dag = load_dag(file)
        others = [one for one in caught if not issubclass(one.category, DagWarning)]
        caught.clear()
        warn_of_surprises(dag)
    found = [str(one.message) for one in caught if issubclass(one.category, DagWarning)]
    return dag, [*(str(one.message) for one in others), *found]


# As text


def _print(dag: Dag, plan: Plan, surprises: Sequence[str], rest: ResumePlan | None) -> None:
    echo(_head(dag, plan))
    for line in _facts(dag, plan):
        echo(line)
    if rest is not None:
        _print_rest(rest)
    echo()
    headers = ["LEVEL", "TASK", "AFTER", *(["GOES ON"] if rest is not None else []), "MORE"]
    rows = []
    for task in plan.tasks:
        row = [str(task.level), _name(task), _after(task)]
        if rest is not None:
            row.append(_rest_text(rest.rests.get(task.task_id)))
        rows.append([*row, "; ".join(_traits(task))])
    print_table(headers, rows, empty="the dag has no tasks")
    for surprise in surprises:
        echo(f"warning: {surprise}", err=True)


def _head(dag: Dag, plan: Plan) -> str:
    count, levels = len(plan.tasks), plan.levels
    return (
        f"{dag.dag_id}: {count:,} task{'' if count == 1 else 's'} in {levels:,} level{'' if levels == 1 else 's'}, "
        f"at most {min(plan.slots, dag.max_active_tasks or plan.slots):,} at a time"
    )


def _facts(dag: Dag, plan: Plan) -> list[str]:
    from liteflow.execution.progress import seconds_text

    lines = [f"logical date {iso(plan.logical_date)}"]
    if plan.params_json != "{}":
        lines.append(f"params {plan.params_json}")
    limits = [f"{plan.slots:,} slot{'' if plan.slots == 1 else 's'} (usable CPUs, or --workers)"]
    if dag.max_active_tasks is not None:
        limits.append(f"max_active_tasks {dag.max_active_tasks:,}")
    if dag.max_active_runs is not None:
        limits.append(f"max_active_runs {dag.max_active_runs:,}")
    if dag.dagrun_timeout_s is not None:
        limits.append(f"dagrun_timeout {seconds_text(dag.dagrun_timeout_s)}")
    if dag.fail_fast:
        limits.append("fail_fast: the first failure ends the run")
    lines.append(f"limits: {', '.join(limits)}")
    for pool in plan.pools:
        what = "is not there"
        if pool.slots is not None:
            what = f"has {pool.slots:,} slot{'' if pool.slots == 1 else 's'}, {pool.slots_in_use:,} in use"
        lines.append(f"pool {pool.name} {what}")
    return lines


def _print_rest(rest: ResumePlan) -> None:
    if rest.is_over:
        echo("the run succeeded: nothing would be done")
        return
    sums = [sum(column) for column in zip(*rest.rests.values(), strict=True)] or [0, 0, 0]
    echo(f"of its task instances {sums[0]:,} would run again, {sums[1]:,} go on, {sums[2]:,} stay as they are")
    if rest.changes:
        echo(f"the dag is not what the run began with, and needs --accept-changes: {rest.changes}")
    if rest.removed:
        echo(f"would be removed: {', '.join(rest.removed)}")


def _rest_text(rest: Rest | None) -> str:
    if rest is None:
        return "new"
    parts = [(rest.again, "again"), (rest.goes_on, "goes on"), (rest.stays, "stays")]
    told = [(count, word) for count, word in parts if count]
    if len(told) == 1 and told[0][0] == 1:
        return told[0][1]
    return ", ".join(f"{count:,} {word}" for count, word in told)


def _name(task: PlannedTask) -> str:
    from liteflow.states import mapped_name

    if not task.is_mapped:
        return task.task_id
    return f"{task.task_id} [?]" if task.instances is None else mapped_name(task.task_id, task.instances)


def _after(task: PlannedTask) -> str:
    more = len(task.upstream) - MOST_UPSTREAM
    return ", ".join(task.upstream[:MOST_UPSTREAM]) + (f" and {more:,} more" if more > 0 else "")


def _traits(task: PlannedTask) -> list[str]:
    """What is not as usual."""
    from liteflow.authoring.task import PYTHON
    from liteflow.authoring.trigger_rules import TriggerRule
    from liteflow.execution.progress import seconds_text

    found = [] if task.kind == PYTHON else [task.kind.replace("_", " ")]
    if task.role is not None:
        found.append(task.role)
    if task.trigger_rule is not TriggerRule.ALL_SUCCESS and task.role != "teardown":
        found.append(str(task.trigger_rule))
    if task.mapped_over:
        found.append(f"over the value of {', '.join(task.mapped_over)}")
    if task.retries:
        delay = f" after {seconds_text(task.retry_delay_s)}" if task.retry_delay_s else ""
        found.append(f"{task.retries:,} {'retry' if task.retries == 1 else 'retries'}{delay}")
    if task.timeout_s is not None:
        found.append(f"timeout {seconds_text(task.timeout_s)}")
    if task.pool is not None:
        slots = f" ({task.pool_slots:,} slots)" if task.pool_slots > 1 else ""
        found.append(f"pool {task.pool}{slots}")
    if task.max_active_tis_per_dagrun is not None:
        found.append(f"at most {task.max_active_tis_per_dagrun:,} at a time")
    if task.depends_on_past:
        found.append("depends on the run before")
    if task.executor is not None:
        found.append(f"in {task.executor}")
    return found


# As a document


def _document(dag: Dag, plan: Plan, surprises: Sequence[str], rest: ResumePlan | None) -> dict[str, Any]:
    from liteflow.storage.xcoms import plain_json

    document: dict[str, Any] = {
        "dag_id": dag.dag_id,
        "file": home_relative(dag.place.file),
        "logical_date": iso(plan.logical_date),
        "params": plain_json("json", plan.params_json.encode()),
        "slots": plan.slots,
        "max_active_tasks": dag.max_active_tasks,
        "max_active_runs": dag.max_active_runs,
        "dagrun_timeout_s": dag.dagrun_timeout_s,
        "fail_fast": dag.fail_fast,
        "levels": plan.levels,
        "pools": [pool._asdict() for pool in plan.pools],
        "tasks": [_task_document(task, rest) for task in plan.tasks],
        "warnings": list(surprises),
        "refused": plan.refused,
        "resume": None,
    }
    if rest is not None:
        document["resume"] = {
            "changes": rest.changes or None,
            "removed": list(rest.removed),
            "is_over": rest.is_over,
        }
    return document


def _task_document(task: PlannedTask, rest: ResumePlan | None) -> dict[str, Any]:
    document = {**task._asdict(), "trigger_rule": str(task.trigger_rule)}
    document |= {"upstream": list(task.upstream), "mapped_over": list(task.mapped_over)}
    of_task = rest.rests.get(task.task_id) if rest is not None else None
    return {**document, "resume": of_task._asdict() if of_task is not None else None}
