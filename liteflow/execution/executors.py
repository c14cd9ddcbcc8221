"""What `executor=` may be, and the engine that it stands for: slots, threads, a cluster, any executor of the standard
library's kind."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from liteflow.authoring.ids import did_you_mean
from liteflow.authoring.options import PROCESSES, THREADS
from liteflow.errors import ServiceError
from liteflow.execution.cpus import default_slots
from liteflow.execution.foreign import ForeignEngine
from liteflow.execution.jobs import Engine
from liteflow.execution.mixed import MixedEngine
from liteflow.execution.slots import SlotEngine
from liteflow.execution.threads import ThreadEngine, default_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from liteflow.authoring.dag import Dag

DASK = "dask://"
"""What the name of a Dask cluster begins with; the address of its scheduler follows."""

NAMES = (PROCESSES, THREADS, f"{DASK}HOST:PORT")
"""How executors are named, for people."""


def check_executor(executor: Any) -> None:
    """Raise ServiceError for what is no executor, and no name of one, or cannot be had here."""
    if executor is None or executor in (PROCESSES, THREADS):
        return
    if isinstance(executor, str):
        if not executor.startswith(DASK):
            hint = did_you_mean(executor, [PROCESSES, THREADS]) or f"; there are {', '.join(NAMES)}"
            raise ServiceError(f"executor={executor!r}: there is none of that name{hint}")
        if len(executor) == len(DASK):
            raise ServiceError(f"executor={executor!r} lacks the address of the scheduler: {DASK}HOST:PORT")
        if find_spec("distributed") is None:
            raise ServiceError(f"executor={executor!r}: Dask is not installed; pip install 'liteflow[dask]'")
    elif not isinstance(executor, Executor) and not _is_of_dask(executor):
        raise ServiceError(
            f"executor={executor!r:.200} is no concurrent.futures.Executor, nor the name of one: {', '.join(NAMES)}"
        )


def engine_of(executor: Executor | str | None, max_workers: int | None) -> Engine:
    """The engine that runs what a service claims, with one beside it for each task that names another.

    `max_workers`: how many jobs at a time, where the executor does not say it; None for the default. Raises
    ServiceError as `check_executor` does.
    """
    check_executor(executor)
    count = max_workers or default_slots()
    kind: str | None = None
    default: Engine
    if executor is None or executor == PROCESSES:
        kind, default = PROCESSES, SlotEngine(count)
    elif executor == THREADS:
        kind, default = THREADS, ThreadEngine(max_workers or default_threads())
    elif isinstance(executor, str):
        default = _dask_engine(executor.removeprefix(DASK), count)
    elif _is_of_dask(executor):
        default = _dask_engine(executor, count)
    elif isinstance(executor, ThreadPoolExecutor) and _has_threads(executor):
        kind, default = THREADS, ThreadEngine(count, executor)
    else:
        default = ForeignEngine(executor, count)
    makers: dict[str, Callable[[], Engine]] = {
        PROCESSES: partial(SlotEngine, default_slots()),
        THREADS: partial(ThreadEngine, default_threads()),
    }
    return MixedEngine(default, kind, makers)


def shortcoming(executor: Executor | str | None, dags: Iterable[Dag]) -> str | None:
    """What these dags ask for and the executor cannot do, in one line; None where there is nothing."""
    limited = [task.options.executor for dag in dags for task in dag.tasks if task.options.timeout_s is not None]
    found = []
    default = executor is not None and executor != PROCESSES
    if default and (None in limited or (executor == THREADS and THREADS in limited)):
        name = executor if isinstance(executor, str) else type(executor).__name__
        is_thread = executor == THREADS or _has_threads(executor)
        found.append(f"executor={name}: a timeout or cancel ends the try, {_WHAT_GOES_ON[is_thread]}")
    if THREADS in limited and executor != THREADS:
        found.append(f"executor={THREADS}: a timeout or cancel ends the try, {_WHAT_GOES_ON[True]}")
    return "; ".join(found) or None


_WHAT_GOES_ON = {True: "its thread goes on", False: "what has begun goes on in its worker"}


def is_of_slots(executor: Executor | str | None) -> bool:
    """Whether it stands for liteflow's own slots."""
    return executor is None or executor == PROCESSES


def _is_of_dask(executor: Any) -> bool:
    return type(executor).__module__.partition(".")[0] == "distributed"


def _has_threads(executor: Any) -> bool:
    """Whether its workers are threads of this interpreter; Python's pool of interpreters is derived from that of
    threads."""
    return isinstance(executor, ThreadPoolExecutor) and not any(
        kind.__name__ == "InterpreterPoolExecutor" for kind in type(executor).__mro__
    )


def _dask_engine(executor: Any, count: int) -> Engine:
    try:
        engine: Engine = import_module("liteflow.execution.dask_engine").DaskEngine(executor, count)
    except ImportError as error:
        raise ServiceError(f"Dask cannot be used: {error}; pip install 'liteflow[dask]'") from error
    return engine
