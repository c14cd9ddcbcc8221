"""What is asked of the service, checked before anything is started or recorded."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from liteflow.authoring.dag import Dag
from liteflow.authoring.ids import check_run_id
from liteflow.authoring.params import resolve_with_tasks
from liteflow.errors import ParamError, RunConflictError, XComEncodeError
from liteflow.execution.nesting import cycle, outer_runs
from liteflow.storage.xcoms import encode_json


def check_request(
    dag: Dag,
    params: Mapping[str, Any] | None,
    run_id: str | None,
    logical_date: datetime | None,
    *,
    more: Collection[str] = (),
) -> tuple[str, datetime, str]:
    """Run id, logical date and params (as typed JSON) of a run that is asked for. Raises for what cannot be meant.

    `more`: names of params that the dag need not declare.
    """
    given = params or {}
    undeclared = {name: given[name] for name in given if name in more and name not in dag.declared_params}
    declared = {name: given[name] for name in given if name not in undeclared}
    of_tasks = {task.task_id: task.options.params or {} for task in dag.tasks}
    merged = {**resolve_with_tasks(dag.declared_params, of_tasks, declared, f"dag {dag.dag_id!r}"), **undeclared}
    try:
        params_json = encode_json(merged)
    except XComEncodeError as error:
        raise ParamError(f"the params of a run are stored as text: {error}", param="") from None
    moment = _aware(logical_date) if logical_date is not None else datetime.now(UTC)
    if run_id is None:
        return fresh_run_id("manual", moment), moment, params_json
    return check_run_id(run_id), moment, params_json


def fresh_run_id(kind: str, moment: datetime) -> str:
    """An id for a run of that logical date, in Airflow's form, which no other has."""
    return f"{kind}__{moment.isoformat()}_{secrets.token_hex(3)}"


def dag_facts(dag: Dag, digest: str) -> Any:
    from liteflow.storage.recording import DagFacts

    params_json = default_params_json(dag)
    file = os.path.abspath(dag.place.file)
    return DagFacts(dag.dag_id, dag.description, dag.tags, params_json, file, digest, dag.retain_runs, dag.retain_days)


def default_params_json(dag: Dag) -> str:
    """The defaults of a dag's params, as typed JSON. Raises ParamError for one that has no form there."""
    try:
        return encode_json(dag.params)
    except XComEncodeError as error:
        raise ParamError(f"{dag.place}: the params of a dag are stored as text: {error}", param="") from None


def _aware(moment: datetime) -> datetime:
    if not isinstance(moment, datetime):
        raise ParamError(f"logical_date={moment!r} must be a datetime", param="logical_date")
    if moment.tzinfo is None:
        raise ParamError(
            f"logical_date {moment.isoformat()} has no time zone; use datetime(..., tzinfo=timezone.utc)",
            param="logical_date",
        )
    return moment.astimezone(UTC)


def refuse_own_run(database: str, dag_id: str, run_id: str) -> None:
    """Raise RunConflictError where a task would wait for the run of which it is a part: it would wait for ever."""
    found = cycle(database, dag_id, run_id)
    if found is not None:
        raise RunConflictError(
            f"run {run_id!r} of dag {dag_id!r} would wait for itself: one of its own tasks starts it ({found})",
            run_id=run_id,
        )


def refuse_own_limit(database: str, dag: Dag, run_id: str) -> None:
    """Raise RunConflictError where a run would wait, for `max_active_runs`, for runs that wait for it."""
    own = [one for one in outer_runs() if one.is_of(database, dag.dag_id)]
    if dag.max_active_runs is not None and len(own) >= dag.max_active_runs:
        raise RunConflictError(
            f"run {run_id!r} of dag {dag.dag_id!r} would wait for itself: with max_active_runs={dag.max_active_runs} "
            f"it begins when {own[0].name} is over, one of whose tasks starts it",
            run_id=run_id,
        )


def _canonical(params_json: str) -> str:
    """The params as text that does not tell in which order they were written."""
    return json.dumps(json.loads(params_json), sort_keys=True)


def refuse_conflict(
    existing: Any, dag: Dag, run_id: str, moment: datetime | None, params_json: str, digest: str
) -> None:
    different = []
    if _canonical(existing.params_json) != _canonical(params_json):
        different.append(f"params ({existing.params_json}, not {params_json})")
    if moment is not None and existing.logical_date != moment:
        different.append(f"logical date ({existing.logical_date.isoformat()})")
    if existing.structure_digest != digest:
        different.append("tasks or edges")
    if different:
        resume = ", or go on with it: --resume RUN --accept-changes" if different == ["tasks or edges"] else ""
        raise RunConflictError(
            f"run {run_id!r} of dag {dag.dag_id!r} exists with other {' and '.join(different)}; choose another run id"
            f"{resume}",
            run_id=run_id,
        )
