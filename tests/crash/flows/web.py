"""A web application whose workers are killed: each has a service of its own over the one file, and a request submits a
run whose id is the client's key. Nothing but WSGI, so that workers are there again at once.

gunicorn runs it: `web:app`, in the directory of the database.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from liteflow import Dag, ExecutorService, task
from liteflow.errors import ServiceError
from tests.crash import ledger

WORK_S = float(os.environ.get("LITEFLOW_TEST_WORK_S", "0.05"))


@task
def split(number: int) -> list[int]:
    ledger.effect()
    time.sleep(WORK_S)
    return [number, number + 1]


@task
def square(number: int) -> int:
    ledger.effect()
    time.sleep(WORK_S)
    return number * number


@task
def total(numbers: list[int]) -> int:
    ledger.effect()
    time.sleep(WORK_S)
    return sum(numbers)


with Dag("web", db_path="flow.db", params={"number": 0}, max_crashes=1_000_000) as dag:
    total(square.expand(number=split(dag.param("number"))))


def values(number: int) -> dict[str, Any]:
    """What the task instances of a run hand on."""
    squares = [number**2, (number + 1) ** 2]
    return {
        "split": [number, number + 1],
        "square[0]": squares[0],
        "square[1]": squares[1],
        "total": sum(squares),
    }


_lock = threading.Lock()
_service: ExecutorService | None = None


def service() -> ExecutorService:
    """The service of this process."""
    global _service
    with _lock:
        if _service is None:
            _service = ExecutorService(dag.db_path, dags=[dag], max_workers=1).start()
            atexit.register(_service.stop)
        return _service


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """`POST /?key=a&number=1` submits, and answers when that is committed, or with `&die=1` dies before it answers.
    `GET /` only tells who is there."""
    facts: dict[str, Any] = {"pid": os.getpid()}
    status = "200 OK"
    try:
        driver = service()
        if environ["REQUEST_METHOD"] == "POST":
            query = parse_qs(environ["QUERY_STRING"])
            facts["run"] = driver.submit(dag, {"number": int(query["number"][0])}, run_id=query["key"][0]).run_id
            status = "202 Accepted"
            if "die" in query:
                os.kill(os.getpid(), signal.SIGKILL)
    except ServiceError as error:  # it is about to end
        facts["error"], status = str(error), "503 Service Unavailable"
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(facts).encode()]
