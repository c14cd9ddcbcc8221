"""Pools: which claims there is room for.

How much of a pool is taken is counted in the transaction that claims, from the task instances that run; nothing is
kept that could leak. What is remembered between turns only saves claims that would be refused anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from liteflow.authoring.ids import did_you_mean
from liteflow.errors import PoolError
from liteflow.execution.progress import db_hint
from liteflow.storage import pools

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from liteflow.execution.prepared import PreparedDag
    from liteflow.execution.ready import Gate
    from liteflow.execution.turn import Turn
    from liteflow.storage.engine import Database
    from liteflow.storage.history import Owner

NOBODY = 0
"""No executor has this key."""


class PoolGuard:
    """Counts the slots of pools for one service, whose loop is the only one to call it."""

    def __init__(self, database: Database, lives: Callable[[Owner], bool] | None = None) -> None:
        self._database = database
        self._knows = lives
        """Whether an executor lives; None: its lock tells."""
        self._free: dict[str, int] = {}
        """As it was counted last, less what was claimed since."""
        self._dead: set[str] = set()
        """Tokens of executors that are known to be gone: they do not come back."""

    def check(self, prepared: PreparedDag) -> None:
        """Raise PoolError for a task in a pool that there is not, or that is too small for it ever to run."""
        wanted = {task.options.pool: task for task in prepared.tasks if task.options.pool is not None}
        if not wanted:
            return

        def look(connection: Connection) -> tuple[dict[str, int], list[str]]:
            sizes = pools.pool_sizes(connection, [name for name in wanted if name is not None])
            return sizes, [pool.name for pool in pools.list_pools(connection)] if len(sizes) < len(wanted) else []

        sizes, known = self._database.look(look)
        for task in prepared.tasks:
            name = task.options.pool
            if name is None:
                continue
            if name not in sizes:
                raise PoolError(
                    f"{task.place}: task {task.task_id!r} is in pool {name!r}, which is not in {self._database.path}"
                    f"{did_you_mean(name, known)}. Make it with: liteflow pools set {name} SLOTS"
                    f"{db_hint(self._database.path)}",
                    pool=name,
                )
            if task.options.pool_slots > sizes[name]:
                raise PoolError(
                    f"{task.place}: task {task.task_id!r} takes {task.options.pool_slots:,} "
                    f"slot{'' if task.options.pool_slots == 1 else 's'} of pool {name!r}, "
                    f"which has {sizes[name]}",
                    pool=name,
                )

    def may_claim(self, gate: Gate) -> bool:
        """Whether there seems to be room for one more claim; the transaction has the last word."""
        return gate.pool is None or self._free.get(gate.pool, gate.pool_slots) >= gate.pool_slots

    def claimed(self, gate: Gate) -> None:
        """A claim is to be made."""
        if gate.pool is not None and gate.pool in self._free:
            self._free[gate.pool] -= gate.pool_slots

    def ended(self, gate: Gate) -> None:
        """A claim has ended, or was not made."""
        if gate.pool is not None and gate.pool in self._free:
            self._free[gate.pool] += gate.pool_slots

    def look_again(self) -> None:
        """Something was written by others: what is remembered may be too little."""
        self._free.clear()

    def refuse_excess(self, connection: Connection, turn: Turn) -> None:
        """Take claims for which a pool has no room out of the turn, and put them back into their queues."""
        gates = [claim.run.ready.gate_of(claim.index) for claim in turn.claims]
        names = {gate.pool for gate in gates if gate.pool is not None}
        if not names:
            return
        free = self._count(connection, names)
        kept = []
        for claim, gate in zip(turn.claims, gates, strict=True):
            if gate.pool is None or free[gate.pool] >= gate.pool_slots:
                if gate.pool is not None:
                    free[gate.pool] -= gate.pool_slots
                kept.append(claim)
                continue
            claim.run.core.unclaim(claim.index, resumed=claim.resumed)
            claim.run.running.discard(claim.index)
            claim.run.ready.push(claim.index)
        turn.claims = kept
        self._free.update(free)

    def _count(self, connection: Connection, names: set[str]) -> dict[str, int]:
        """The slots that are free now. Claims of executors that are gone do not count."""
        taken: Counter[str] = Counter()
        for claim in pools.claimed_elsewhere(connection, names, NOBODY):
            if self._lives(claim.owner):
                taken[claim.pool] += claim.slots
        sizes = pools.pool_sizes(connection, names)
        return {name: sizes.get(name, 0) - taken[name] for name in names}

    def _lives(self, owner: Owner) -> bool:
        from liteflow.execution.liveness import is_alive

        if self._knows is not None:
            return self._knows(owner)
        if owner.token in self._dead:
            return False
        if is_alive(self._database.path, owner):
            return True
        self._dead.add(owner.token)
        return False
