"""What `Dag(retain_runs=..., retain_days=...)` says, applied by the service that drove a run of the dag.

It happens after a run's end is recorded and told: a little whenever the loop has nothing else to do, and for a while
when the service ends. What is not done then is left for the end of the next run. A dag without limits costs nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakSet

from liteflow.errors import LiteflowError
from liteflow.execution.hostlog import warn

if TYPE_CHECKING:
    from liteflow.execution.active import ActiveRun
    from liteflow.storage.engine import Database
    from liteflow.storage.pruning import Limits

AT_END_S = 0.2
"""How long a service that ends goes on with it, if its last run was short."""

SHARE_AT_END = 0.2
"""The same as a share of the last run's duration. To delete a run takes less than that of the time to make it."""

BESIDE_RUNS_S = 0.2
"""While runs go on it has a slice of 20 ms that often, if there is no news of them."""

OVERDUE_S = 2.0
"""After so long it has one although there is news: a service may be busy for days."""

EXECUTORS_EVERY = 100
"""Every so many services one deletes the rows that the others have left."""

FREE_PAGES = 1_024
"""Space is given back once more than half of the file is free, and 4 MiB of it: the next runs need some. Half as much
as is in use is left for them."""


class Retention:
    """Deletes old runs of dags that want it. It is the loop's thread that calls."""

    def __init__(self, database: Database, executor_pk: int) -> None:
        self._database = database
        self._executor_pk = executor_pk
        self._limits: dict[str, Limits] = {}
        """By dag id: what is to be looked at."""
        self._waiting: deque[int] = deque()
        """Runs that are to be deleted."""
        self._ended: WeakSet[ActiveRun] = WeakSet()
        """Runs that this service has driven and somebody still holds: they are not deleted here."""
        self._is_space_due = False
        self._keep_pages: int | None = None
        """How many free pages are left in the file, while it is made shorter."""
        self._had_work = False
        self._next_step = 0.0
        self._budget_s = AT_END_S

    def note(self, run: ActiveRun) -> None:
        """A run is over, and recorded."""
        if run.dag.retain_runs is None and run.dag.retain_days is None:
            return
        from liteflow.storage.pruning import Limits

        if not self.is_due:
            self._next_step = time.monotonic()
        self._limits[run.dag.dag_id] = Limits(run.dag.retain_runs, run.dag.retain_days)
        self._ended.add(run)
        self._had_work = True
        lasted_s = time.time() - run.created_us / 1e6
        self._budget_s = max(AT_END_S, SHARE_AT_END * lasted_s)

    @property
    def is_due(self) -> bool:
        """Whether there is something to do."""
        return bool(self._limits or self._waiting or self._is_space_due)

    def step(self, *, is_busy: bool, is_free: bool) -> None:
        """Do some 20 ms of it, unless the last step was just now.

        `is_busy`: runs go on meanwhile. `is_free`: there was no news of them; without it only what has waited long.
        """
        from liteflow.storage.pruning import PAUSE_S

        if time.monotonic() >= self._next_step + (0.0 if is_free else OVERDUE_S):
            self._do_some()
            self._next_step = time.monotonic() + (BESIDE_RUNS_S if is_busy else PAUSE_S)

    def wait_s(self, *, is_busy: bool) -> float:
        """How long the loop may sleep until it calls `step` again."""
        return BESIDE_RUNS_S if is_busy else max(0.0, self._next_step - time.monotonic())

    def finish(self, is_stopped: Callable[[], bool]) -> None:
        """The service ends: do what is left, for a bounded time, and until `is_stopped`."""
        if not self._had_work:
            return
        from liteflow.storage.pruning import PAUSE_S, SLICE_S

        deadline = time.monotonic() + self._budget_s
        while self.is_due and time.monotonic() < deadline and not is_stopped():
            began = time.monotonic()
            self._do_some()
            if self.is_due and time.monotonic() - began >= SLICE_S:  # others may be waiting for the lock
                time.sleep(PAUSE_S)
        if self._executor_pk % EXECUTORS_EVERY == 0:
            self._forget_executors()

    def _do_some(self) -> None:
        """One short transaction. What goes wrong is left for the next run of the dag: nothing else may suffer."""
        try:
            self._try_some()
        except LiteflowError as error:
            warn("old runs could not be deleted, which the next run tries again: %s", error)
            self._limits.clear()
            self._waiting.clear()
            self._is_space_due, self._keep_pages = False, None

    def _try_some(self) -> None:
        from liteflow.storage import pruning

        if not self._waiting:
            self._look_up()
        if self._waiting:
            pruning.delete_some(self._database, self._waiting)
            self._is_space_due = True
        elif self._is_space_due:
            self._is_space_due = self._give_back()

    def _look_up(self) -> None:
        """Which runs are to go, of the first dag that has some."""
        from liteflow.storage import pruning
        from liteflow.storage.untrusted import refusing_strange_values

        spared = {run.pk for run in self._ended}
        while self._limits and not self._waiting:
            dag_id, limits = next(iter(self._limits.items()))
            with refusing_strange_values(self._database.path), self._database.read() as connection:
                found = pruning.due_runs_of(
                    connection, dag_id, limits, time.time_ns() // 1000, most=pruning.RUNS_AT_ONCE + len(spared)
                )
            self._waiting = deque(pk for pk in found if pk not in spared)
            if not self._waiting:
                del self._limits[dag_id]

    def _give_back(self) -> bool:
        """Make the file shorter if much of it is free; returns whether that goes on."""
        from liteflow.storage import pruning

        if self._keep_pages is None:
            with self._database.read() as connection:
                space = pruning.space_of(connection)
            used = space.pages - space.free_pages
            if not space.can_shrink or space.free_pages < max(FREE_PAGES, used):
                return False
            self._keep_pages = used // 2
        if pruning.give_back_some(self._database, keep_pages=self._keep_pages):
            return True
        self._keep_pages = None
        return False

    def _forget_executors(self) -> None:
        from liteflow.execution.liveness import is_alive
        from liteflow.storage import pruning
        from liteflow.storage.untrusted import refusing_strange_values

        path = self._database.path
        try:
            with refusing_strange_values(path):
                pruning.forget_executors(self._database, lambda owner: is_alive(path, owner))
        except LiteflowError as error:
            warn("rows of executors could not be deleted: %s", error)
