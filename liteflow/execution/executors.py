"""What `executor=` may be, and the engine that it stands for: slots, threads, a cluster, any executor of the standard
library's kind."""

from __future__ import annotations

from concurrent.futures import Executor

from liteflow.execution.foreign import ForeignEngine
from liteflow.execution.jobs import Engine
from liteflow.execution.slots import SlotEngine


def engine_of(executor: Executor | None, count: int) -> Engine:
    """The engine that runs what a service claims. `count`: how many jobs at a time where the executor does not say."""
    return SlotEngine(count) if executor is None else ForeignEngine(executor, count)
