"""Workflows in a Flask application: several web workers, one database file.

    pip install flask gunicorn
    gunicorn --chdir examples --workers 4 --threads 4 flask_app:app

    curl -i localhost:8000/forecasts -H 'Idempotency-Key: ada-1' --json '{"savings": 400000, "years": 25}'
    curl localhost:8000/forecasts/ada-1?wait_s=10
    curl localhost:8000/forecasts
    curl -X POST localhost:8000/forecasts/ada-1/cancel

Each web worker has an executor service of its own. Whichever worker takes a request can tell about every run, and when
a worker dies, the others go on with its runs. With or without `--preload`; the file is `$LITEFLOW_DB`, else liteflow.db
in the working directory (`--chdir` changes that). The dag is in `forecasts.py`.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

from flask import Flask, jsonify, request, url_for
from flask.typing import ResponseReturnValue
from forecasts import dag
from werkzeug.exceptions import BadRequest, HTTPException

from liteflow import DagRun, ExecutorService, RunState
from liteflow.errors import (
    InvalidIdError,
    NotFoundError,
    ParamError,
    RunConflictError,
    RunInterruptedError,
    ServiceError,
)

MOST_WAIT_S = 20.0
"""How long a request may wait for a run. gunicorn kills a worker that is silent for 30 s."""

GRACE_S = 5.0
"""How long tasks may go on when a worker is told to end; gunicorn kills it after 30 s."""

app = Flask(__name__)
app.json.sort_keys = False

_lock = threading.Lock()
_service: ExecutorService | None = None
_service_pid = 0


def service() -> ExecutorService:
    """The service of this process, started by the first request that the process gets.

    Not when the module is imported: with `--preload` that happens in gunicorn's master, whose threads do not come along
    into the workers that it forks.
    """
    global _service, _service_pid
    with _lock:
        if _service is None or _service_pid != os.getpid():
            started = ExecutorService(dags=[dag], max_workers=1).start()
            # SIGTERM has gunicorn leave its worker as any program ends. What is not over then goes on in other workers.
            atexit.register(started.stop, GRACE_S)
            _service, _service_pid = started, os.getpid()
        return _service


@app.post("/forecasts")
def submit() -> ResponseReturnValue:
    """Begin a forecast. With the same `Idempotency-Key` once more it is the same one, however often it is sent."""
    params = request.get_json()
    if not isinstance(params, dict):
        raise BadRequest("the body must be a JSON object of params")
    handle = service().submit(dag, params, run_id=request.headers.get("Idempotency-Key"))
    return described(handle.run), 202, {"Location": url_for("show", run_id=handle.run_id)}


@app.get("/forecasts")
def listing() -> ResponseReturnValue:
    """The latest forecasts, the newest first; `?state=failed` for those in that state."""
    service()  # so that this worker takes its share of what others left
    state = request.args.get("state")
    if state is not None and state not in list(RunState):
        raise BadRequest(f"state must be one of {', '.join(RunState)}")
    runs = dag.runs(state=state, limit=50)
    return {"forecasts": [{"id": run.run_id, "state": run.state, "created_at": run.created_at} for run in runs]}


@app.get("/forecasts/<run_id>")
def show(run_id: str) -> ResponseReturnValue:
    """A forecast, whichever worker drives it; `?wait_s=10` waits so long for its end."""
    handle = service().handle(dag, run_id)
    wait_s = request.args.get("wait_s", 0.0, type=float)
    try:
        run = handle.wait(min(max(wait_s, 0.0), MOST_WAIT_S))
    except (TimeoutError, RunInterruptedError):  # it goes on, here or in another worker
        run = handle.run
    return described(run)


@app.post("/forecasts/<run_id>/cancel")
def cancel(run_id: str) -> ResponseReturnValue:
    """End a forecast, whichever worker drives it."""
    handle = service().handle(dag, run_id)
    if handle.state.is_terminal:
        raise RunConflictError(f"forecast {run_id} is over: {handle.state}", run_id=run_id)
    handle.cancel()
    return described(handle.run), 202


def described(run: DagRun) -> dict[str, Any]:
    """A run as the clients see it."""
    failed = [one for one in run.task_instances() if one.state == "failed"]
    return {
        "id": run.run_id,
        "state": run.state,
        "end_reason": run.end_reason,
        "params": run.params,
        "result": run.xcom("summarise") if run.state is RunState.SUCCESS else None,
        "errors": [f"{one.task_id}: {one.error or one.end_reason}" for one in failed],
        "answered_by": os.getpid(),
        "driven_by": run.owner.pid if run.owner else None,
    }


# Errors are JSON too, and what liteflow says of a request is said to the client.


@app.errorhandler(HTTPException)
def refuse(error: HTTPException) -> ResponseReturnValue:
    """What Flask itself refuses."""
    return jsonify(error=error.description), error.code or 500


@app.errorhandler(ParamError)
@app.errorhandler(InvalidIdError)
def refuse_values(error: Exception) -> ResponseReturnValue:
    """A param that is unknown or does not fit; a key that cannot be the id of a run."""
    return jsonify(error=str(error)), 400


@app.errorhandler(NotFoundError)
def refuse_unknown(error: NotFoundError) -> ResponseReturnValue:
    """No such run. The message of the error names the database, which is nobody's business."""
    return jsonify(error=f"there is no forecast {error.identifier!r}"), 404


@app.errorhandler(RunConflictError)
def refuse_conflict(error: RunConflictError) -> ResponseReturnValue:
    """The key belongs to a forecast with other params, or the forecast is over."""
    return jsonify(error=str(error)), 409


@app.errorhandler(ServiceError)
def refuse_while_ending(error: ServiceError) -> ResponseReturnValue:
    """This worker is about to end: another one will do it."""
    return jsonify(error=str(error)), 503, {"Retry-After": "1"}
