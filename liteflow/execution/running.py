"""`dag.run()`: a service for one run, with a display while it goes on."""

from __future__ import annotations

import queue
import sys
from collections.abc import Mapping
from concurrent.futures import Executor
from datetime import datetime
from typing import TYPE_CHECKING, Any

from liteflow.authoring.dag import Dag
from liteflow.execution.cpus import usable_cpus
from liteflow.execution.handle import RunHandle
from liteflow.execution.progress import Display, choose_display
from liteflow.execution.requests import check_request
from liteflow.execution.service import ExecutorService

if TYPE_CHECKING:
    from liteflow.execution.active import RunEvent
    from liteflow.storage.history import DagRun

MOST_WAITING_EVENTS = 50_000
"""Log lines beyond this many that the display has not shown yet are not shown; they are in the database."""


def run_dag(
    dag: Dag,
    params: Mapping[str, Any] | None,
    *,
    run_id: str | None,
    logical_date: datetime | None,
    max_workers: int | None,
    executor: Executor | None,
    progress: bool | None,
) -> DagRun:
    """See `Dag.run`."""
    events: queue.SimpleQueue[RunEvent] = queue.SimpleQueue()

    def listen(event: RunEvent) -> None:
        if event.kind != "line" or events.qsize() < MOST_WAITING_EVENTS:
            events.put(event)

    display = choose_display(progress)
    check_request(dag, params, run_id, logical_date)  # before anything is started or created
    if executor is None:  # no more slots than there are tasks to fill them
        max_workers = min(max_workers or usable_cpus(), max(1, len(dag.tasks)))
    with ExecutorService(dag.db_path, dags=[dag], max_workers=max_workers, executor=executor) as service:
        handle = service.submit(dag, params, run_id, logical_date, listener=listen if display else None)
        try:
            if display is not None and handle.is_driven_here:
                _show(display, dag, handle, events)
            return handle.wait()
        except KeyboardInterrupt:
            if display is not None and handle.is_driven_here:
                print(
                    "cancelling: tasks that run are told to end, and killed after their grace time; "
                    "once more to leave at once",
                    file=sys.stderr,
                )
            raise


def _show(display: Display, dag: Dag, handle: RunHandle, events: queue.SimpleQueue[RunEvent]) -> None:
    with display.showing(dag, handle.run):
        while not handle.over():
            try:
                display.take(events.get(timeout=display.refresh_s))
            except queue.Empty:
                display.tick()
        while not events.empty():
            display.take(events.get())
        display.finish(handle)
