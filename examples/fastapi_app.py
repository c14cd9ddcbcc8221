"""Workflows in a FastAPI application, with the progress of a run as server-sent events.

    pip install fastapi uvicorn
    uvicorn --app-dir examples --workers 2 --timeout-graceful-shutdown 5 fastapi_app:app

    curl -i localhost:8000/forecasts -H 'Idempotency-Key: ben-1' --json '{"trials": 50000}'
    curl -N localhost:8000/forecasts/ben-1/events
    curl localhost:8000/forecasts/ben-1
    curl -X POST localhost:8000/forecasts/ben-1/cancel

Each web worker has an executor service of its own. Whichever worker takes a request can tell about every run, and when
a worker dies, the others go on with its runs. The file is `$LITEFLOW_DB`, else liteflow.db in the working directory.
The dag is in `forecasts.py`. Without `--timeout-graceful-shutdown` uvicorn would wait for the end of every stream of
events, however long that takes, before it stops the service.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from forecasts import dag

from liteflow import DagRun, ExecutorService, RunHandle, RunState
from liteflow.errors import (
    InvalidIdError,
    LiteflowError,
    NotFoundError,
    ParamError,
    RunConflictError,
    RunInterruptedError,
    ServiceError,
)

GRACE_S = 5.0
"""How long tasks may go on when a worker is told to end."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One service for as long as this web worker lives. What is not over at its end goes on in other workers."""
    service = app.state.service = ExecutorService(dags=[dag], max_workers=1)
    await asyncio.to_thread(service.start)
    try:
        yield
    finally:
        await asyncio.to_thread(service.stop, GRACE_S)


app = FastAPI(title="Forecasts", lifespan=lifespan)


@app.post("/forecasts", status_code=202)
async def submit(
    params: dict[str, Any], response: Response, idempotency_key: Annotated[str | None, Header()] = None
) -> dict[str, Any]:
    """Begin a forecast. With the same `Idempotency-Key` once more it is the same one, however often it is sent."""
    # asubmit() takes a run back when it is cancelled, as this may be when the worker ends. The client was promised
    # nothing then, and asks again with its key: the run is to be there, not to be cancelled.
    handle = await asyncio.shield(app.state.service.asubmit(dag, params, idempotency_key))
    response.headers["Location"] = app.url_path_for("show", run_id=handle.run_id)
    return await asyncio.to_thread(lambda: described(handle.run))


# Functions that only read the database are plain ones: FastAPI calls these in threads.


@app.get("/forecasts")
def listing(state: RunState | None = None) -> dict[str, Any]:
    """The latest forecasts, the newest first; `?state=failed` for those in that state."""
    runs = dag.runs(state=state, limit=50)
    return {"forecasts": [{"id": run.run_id, "state": run.state, "created_at": run.created_at} for run in runs]}


@app.get("/forecasts/{run_id}")
def show(run_id: str) -> dict[str, Any]:
    """A forecast, whichever worker drives it."""
    return described(find(run_id).run)


@app.get("/forecasts/{run_id}/events")
async def events(run_id: str) -> StreamingResponse:
    """What happens in a forecast, as server-sent events: from where it stands to its end, then `end`."""
    handle = await asyncio.to_thread(find, run_id)  # a 404 must be told before the stream begins
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream(handle), media_type="text/event-stream", headers=headers)


@app.post("/forecasts/{run_id}/cancel", status_code=202)
def cancel(run_id: str) -> dict[str, Any]:
    """End a forecast, whichever worker drives it."""
    handle = find(run_id)
    if handle.state.is_terminal:
        raise RunConflictError(f"forecast {run_id} is over: {handle.state}", run_id=run_id)
    handle.cancel()
    return described(handle.run)


@app.get("/health")
async def health() -> dict[str, int]:
    """How many tasks this worker's event loop has: a stream that nobody reads any more would stay among them."""
    return {"pid": os.getpid(), "tasks": len(asyncio.all_tasks())}


def find(run_id: str) -> RunHandle:
    """The handle of a run, whoever submitted it."""
    handle: RunHandle = app.state.service.handle(dag, run_id)
    return handle


async def stream(handle: RunHandle) -> AsyncIterator[str]:
    """The events of a run as text. A client that goes away ends the stream, and changes nothing about the run."""
    try:
        async for event in handle.events():
            data = {"task": event.task_id, "map_index": event.map_index, "state": event.state, "error": event.error}
            yield as_text(event.kind, data if event.kind == "task" else {"state": event.state})
    except RunInterruptedError:
        return  # this worker ends; the browser connects again, to another one
    # A browser would connect again after the end as well: this tells it to close.
    yield as_text("end", await asyncio.to_thread(lambda: described(handle.run)))


def as_text(kind: str, data: dict[str, Any]) -> str:
    """One event."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


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


# What liteflow says of a request is said to the client.


@app.exception_handler(LiteflowError)
async def refuse(request: Request, error: LiteflowError) -> JSONResponse:
    """An error of liteflow as JSON, with the status that fits."""
    if isinstance(error, NotFoundError):  # its message names the database, which is nobody's business
        return JSONResponse({"detail": f"there is no forecast {error.identifier!r}"}, 404)
    if isinstance(error, ParamError | InvalidIdError):
        return JSONResponse({"detail": str(error)}, 400)
    if isinstance(error, RunConflictError):  # the key belongs to other params, or the forecast is over
        return JSONResponse({"detail": str(error)}, 409)
    if isinstance(error, ServiceError):  # this worker is about to end: another one will do it
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})
    raise error
