"""`dag.run()`: a service for one run, with a display while it goes on."""

from __future__ import annotations

import queue
import shlex
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from datetime import datetime
from typing import TYPE_CHECKING, Any

from liteflow.authoring.dag import Dag
from liteflow.authoring.options import THREADS
from liteflow.execution.cpus import default_slots
from liteflow.execution.executors import is_of_slots, shortcoming
from liteflow.execution.handle import RunHandle, StillGoing
from liteflow.execution.progress import Display, choose_display, db_hint
from liteflow.execution.progress import say as _say
from liteflow.execution.requests import check_request
from liteflow.execution.service import INTERRUPT_GRACE_S, ExecutorService
from liteflow.execution.stopping import StopSignals

if TYPE_CHECKING:
    from liteflow.execution.active import Listener, RunEvent
    from liteflow.storage.history import DagRun

MOST_WAITING_EVENTS = 50_000
"""Log lines beyond this many that the display has not shown yet are not shown; they are in the database."""

SIGNAL_POLL_S = 0.1
"""How often the thread that waits for a run asks whether it is to stop."""


def run_dag(
    dag: Dag,
    params: Mapping[str, Any] | None,
    *,
    run_id: str | None,
    logical_date: datetime | None,
    alone: bool,
    max_workers: int | None,
    executor: Executor | str | None,
    dags: Iterable[Dag],
    progress: bool | None,
) -> DagRun:
    """See `Dag.run`."""
    check_request(dag, params, run_id, logical_date)  # before anything is started or created

    def submit(service: ExecutorService, listener: Listener | None) -> RunHandle:
        return service.submit(dag, params, run_id, logical_date, alone=alone, listener=listener)

    return _drive(dag, submit, max_workers=max_workers, executor=executor, dags=dags, progress=progress)


async def arun_dag(
    dag: Dag,
    params: Mapping[str, Any] | None,
    *,
    run_id: str | None,
    logical_date: datetime | None,
    alone: bool,
    max_workers: int | None,
    executor: Executor | str | None,
    dags: Iterable[Dag],
) -> DagRun:
    """See `Dag.arun`."""
    import asyncio

    # All that takes longer for a larger dag is done in threads.
    def make() -> ExecutorService:
        check_request(dag, params, run_id, logical_date)
        others = list(dags)
        slots = _slots_for([dag, *others], max_workers, executor)
        service = ExecutorService(dag.db_path, dags=[dag], max_workers=slots, executor=executor, recover=False)
        service._offer(others)
        return service

    service = await asyncio.to_thread(make)

    def begin() -> RunHandle:
        service.start()
        return service.submit(dag, params, run_id, logical_date, alone=alone)

    async def end(*, cancel: bool) -> None:
        await asyncio.wait([beginning])
        await asyncio.to_thread(service.stop, None, cancel=cancel)

    beginning = asyncio.ensure_future(asyncio.to_thread(begin))
    try:
        handle = await asyncio.shield(beginning)
        run = await handle
    except BaseException:
        await asyncio.shield(asyncio.ensure_future(end(cancel=True)))
        raise
    await asyncio.shield(asyncio.ensure_future(end(cancel=False)))
    return run


def resume_dag(
    dag: Dag,
    run_id: str,
    *,
    accept_changes: bool,
    force: bool,
    max_workers: int | None,
    executor: Executor | str | None,
    dags: Iterable[Dag],
    progress: bool | None,
) -> DagRun:
    """See `Dag.resume`."""
    from liteflow.storage.schema import open_database

    open_database(dag.db_path, pooled=False)  # one that is missing is not made

    def resume(service: ExecutorService, listener: Listener | None) -> RunHandle:
        return service.resume(dag, run_id, accept_changes=accept_changes, force=force, listener=listener)

    return _drive(dag, resume, max_workers=max_workers, executor=executor, dags=dags, progress=progress)


def rerun_dag(
    dag: Dag,
    from_run: str,
    *,
    only_failed: bool,
    params: Mapping[str, Any] | None,
    run_id: str | None,
    max_workers: int | None,
    executor: Executor | str | None,
    dags: Iterable[Dag],
    progress: bool | None,
) -> DagRun:
    """See `Dag.rerun`."""

    def rerun(service: ExecutorService, listener: Listener | None) -> RunHandle:
        return service.rerun(dag, from_run, only_failed=only_failed, params=params, run_id=run_id, listener=listener)

    return _drive(dag, rerun, max_workers=max_workers, executor=executor, dags=dags, progress=progress)


def _drive(
    dag: Dag,
    begin: Callable[[ExecutorService, Listener | None], RunHandle],
    *,
    max_workers: int | None,
    executor: Executor | str | None,
    dags: Iterable[Dag],
    progress: bool | None,
) -> DagRun:
    """Have a service of its own drive one run, and show how it goes on."""
    # Not SimpleQueue: up to Python 3.12 it waits for ever when a signal's handler outlasts what is left of a timeout.
    events: queue.Queue[RunEvent] = queue.Queue()

    def listen(event: RunEvent) -> None:
        if event.kind != "line" or events.qsize() < MOST_WAITING_EVENTS:
            events.put(event)

    display = choose_display(progress)
    others = list(dags)
    max_workers = _slots_for([dag, *others], max_workers, executor)
    handle, service = None, None
    with StopSignals() as signals:
        try:
            with ExecutorService(
                dag.db_path, dags=[dag], max_workers=max_workers, executor=executor, recover=False
            ) as service:
                service._offer(others)
                service._note_triggered()
                signals.service = service
                signals.check()
                if display is not None:
                    _say_shortcoming(executor, [dag, *others])
                handle = begin(service, listen if display else None)
                try:
                    if display is not None and handle.is_driven_here:
                        _show(display, dag, handle, events, signals)
                    elif display is not None:
                        _say_who_else(handle.run)
                    run = _wait(handle, signals)
                    _wait_for_triggered(service, handle, signals, is_told=display is not None)
                    return run
                except KeyboardInterrupt:
                    service._begin_no_more()  # before it is said
                    if display is not None and handle.is_driven_here:
                        _say(
                            f"stopping: nothing more is begun, what runs may go on for {INTERRUPT_GRACE_S:g} s; "
                            "once more to kill it now"
                        )
                    raise
        except KeyboardInterrupt:
            if display is not None and handle is not None and handle.is_driven_here:
                for one in [handle, *(service._triggered() if service is not None else ())]:
                    _say_how_to_go_on(one.dag or dag, one)
            raise


def _slots_for(dags: list[Dag], max_workers: int | None, executor: Executor | str | None) -> int | None:
    """No more slots than there are tasks to fill them."""
    if not is_of_slots(executor):
        return max_workers
    count = sum(task.options.executor != THREADS for dag in dags for task in dag.tasks)
    return min(max_workers or default_slots(), max(1, count))


def _say_shortcoming(executor: Executor | str | None, dags: list[Dag]) -> None:
    text = shortcoming(executor, dags)
    if text is not None:
        _say(text)


def _wait_for_triggered(service: ExecutorService, handle: RunHandle, signals: StopSignals, *, is_told: bool) -> None:
    """Wait for the runs that tasks have begun, those that these begin too, and say how each ended."""
    seen = {handle.run.pk}
    while fresh := [one for one in service._triggered() if one.run.pk not in seen]:
        for one in fresh:
            run = one.run
            seen.add(run.pk)
            if is_told and not run.state.is_terminal:
                _say(f"waiting for run {run.dag_id}/{run.run_id}, which a task has begun")
            run = _wait(one, signals)
            if is_told:
                _say(f"run {run.dag_id}/{run.run_id}, which a task has begun: {run.state}")


def _wait(handle: RunHandle, signals: StopSignals) -> DagRun:
    """Wait for the run as `RunHandle.wait` does, and hear signals meanwhile."""
    while True:
        signals.check()
        try:
            return handle.wait(SIGNAL_POLL_S)
        except StillGoing:
            continue


def _say_who_else(run: DagRun) -> None:
    """The run is over, or somebody else drives it."""
    from liteflow.execution.liveness import state_of_owner

    if run.state.is_terminal:
        _say(f"run {run.run_id} is over already ({run.state}): nothing runs")
    elif run.owner is not None:
        is_stopped = state_of_owner(run.history.database.path, run.owner) == "stopped"
        what = ", which is stopped (SIGSTOP); --resume RUN --force takes it" if is_stopped else ""
        _say(f"run {run.run_id} is driven by process {run.owner.pid} on {run.owner.host}{what}; waiting for it")


def _say_how_to_go_on(dag: Dag, handle: RunHandle) -> None:
    if not handle.run.state.is_terminal:
        which = shlex.quote(f"{dag.place.file}:{dag.dag_id}")
        _say(
            f"run {handle.run_id} is not finished. Go on with it: liteflow run {which} "
            f"--resume {handle.run_id}{db_hint(handle.run.history.database.path)}"
        )


def _show(display: Display, dag: Dag, handle: RunHandle, events: queue.Queue[RunEvent], signals: StopSignals) -> None:
    with display.showing(dag, handle.run):
        while not handle.over():
            signals.check()
            try:
                display.take(events.get(timeout=display.refresh_s))
            except queue.Empty:
                display.tick()
        while not events.empty():
            display.take(events.get())
        if not handle.cannot_go_on:  # else why is told by the error, and what it would show may be out of reach
            display.finish(handle)
