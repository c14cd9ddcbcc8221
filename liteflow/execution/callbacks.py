"""What a callback is called with: the context of the try that brought it about, and how that ended."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

from liteflow.execution.calling import Payload

if TYPE_CHECKING:
    from liteflow.authoring.context import Context
    from liteflow.execution.turn import DueCallback


CALLBACK_TIMEOUT_S = 60.0
"""How long a callback may run."""


class TaskFailed(Exception):
    """In place of an exception that could not travel: its text."""


def callback_payload(due: DueCallback) -> Payload:
    """The message for the worker that calls it."""
    run = due.run
    return Payload(
        inputs=(),
        mapped=None,
        dag_id=run.dag.dag_id,
        run_id=run.run_id,
        task_id=run.task(due.index).task_id,
        map_index=run.map_index(due.index),
        try_number=due.try_number,
        logical_date_us=run.logical_date_us,
        params=run.params_json,
        run_started_us=run.created_us,
        more_context=pickle.dumps((due.kind.startswith("dag_"), due.state, due.reason, due.exception)),
    )


def put_end(context: Context, packed: bytes) -> None:
    """Put into the context of a callback how what it is about ended.

    For a task: `exception`, `reason` (the error in words) and the state of `ti`; for the dag: `reason` (`success`,
    `task_failure`, `timed_out`, `cancelled`, `fail_fast`) and the state of `dag_run`.
    """
    is_of_dag, state, reason, exception = pickle.loads(packed)
    context.update(reason=reason, exception=None)
    context["ti"].state = state  # of a dag's callback it is that of a task instance that ended as the run did
    if is_of_dag:
        context["dag_run"] = context["dag_run"]._replace(state=state)
        return
    if state in ("failed", "up_for_retry"):
        context["exception"] = _exception_of(exception, reason)


def _exception_of(packed: bytes | None, reason: str | None) -> BaseException:
    if packed is not None:
        try:
            found = pickle.loads(packed)
            if isinstance(found, BaseException):
                return found
        except Exception:  # whatever a stranger's class raises: the text is what there is
            return TaskFailed(reason)
    return TaskFailed(reason)
