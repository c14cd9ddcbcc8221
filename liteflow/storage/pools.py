"""Pools: a named number of slots that tasks of all runs in the database share.

How many slots are taken is not stored but counted: what is `running` in a pool takes its `pool_slots`. Whether the
executor that claimed it lives is for the caller to judge, by its lock file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from sqlalchemy import Connection, delete, func, insert, literal_column, select, update

from liteflow.storage.functions import total
from liteflow.storage.history import OWNER_COLUMNS, Owner
from liteflow.storage.recording import text_for_database
from liteflow.storage.statements import changed, in_groups
from liteflow.storage.tables import EXECUTOR, POOL, TASK_INSTANCE


class PoolInfo(NamedTuple):
    """A pool, and how much of it is taken."""

    name: str
    slots: int
    description: str | None
    slots_in_use: int
    """May be more than there are: a pool can be made smaller while it is in use."""


class PoolClaim(NamedTuple):
    """What one executor service has claimed of one pool."""

    pool: str
    owner: Owner
    slots: int


def set_pool(connection: Connection, name: str, slots: int, description: str | None = None) -> None:
    """Make a pool, or change the one of that name. Without a `description` it keeps the one that it has.

    With 0 slots nothing runs in it. Raises ValueError for fewer.
    """
    if slots < 0:
        raise ValueError(f"pool {name!r} cannot have {slots} slots; use 0 or more")
    values: dict[str, object] = {"slots": slots}
    if description is not None:
        values["description"] = text_for_database(description)
    if not changed(connection.execute(update(POOL).where(POOL.c.name == name).values(values))):
        connection.execute(insert(POOL).values(name=name, **values))


def delete_pool(connection: Connection, name: str) -> bool:
    """Delete a pool; False if there is none of that name. What runs in it goes on."""
    return changed(connection.execute(delete(POOL).where(POOL.c.name == name))) == 1


def list_pools(connection: Connection, is_alive: Callable[[Owner], bool] | None = None) -> list[PoolInfo]:
    """All pools, by name. With `is_alive` only the claims of owners for whom it is true count as in use."""
    rows = connection.execute(select(POOL.c.name, POOL.c.slots, POOL.c.description).order_by(POOL.c.name)).all()
    in_use = dict.fromkeys((row.name for row in rows), 0)
    for claim in _claims(connection, list(in_use), None):
        if is_alive is None or is_alive(claim.owner):
            in_use[claim.pool] += claim.slots
    return [PoolInfo(row.name, row.slots, row.description, in_use[row.name]) for row in rows]


def pool_sizes(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """How many slots the pools have. A name for which there is no pool is missing in the answer."""
    return {
        name: slots
        for some in in_groups(list(names))
        for name, slots in connection.execute(select(POOL.c.name, POOL.c.slots).where(POOL.c.name.in_(some)))
    }


def claimed_elsewhere(connection: Connection, names: Iterable[str], executor_pk: int) -> list[PoolClaim]:
    """What all executors but this one have claimed of the pools, the dead ones too: one for each pool and executor."""
    return _claims(connection, list(names), executor_pk)


def _claims(connection: Connection, names: list[str], but_of: int | None) -> list[PoolClaim]:
    conditions = [] if but_of is None else [TASK_INSTANCE.c.executor_pk != but_of]
    found = []
    for some in in_groups(names):
        taken = (
            select(
                TASK_INSTANCE.c.pool,
                TASK_INSTANCE.c.executor_pk,
                total(func.coalesce(TASK_INSTANCE.c.pool_slots, 1)).label("slots"),
            )
            # A literal: SQLite does not see that a bound value fits the condition of the partial index.
            .where(TASK_INSTANCE.c.pool.in_(some), TASK_INSTANCE.c.state == literal_column("'running'"), *conditions)
            .group_by(TASK_INSTANCE.c.pool, TASK_INSTANCE.c.executor_pk)
            .subquery()
        )
        rows = connection.execute(
            select(taken.c.pool, taken.c.slots, *OWNER_COLUMNS)
            .join(EXECUTOR, EXECUTOR.c.id == taken.c.executor_pk)
            .order_by(taken.c.pool, EXECUTOR.c.id)
        )
        found += [PoolClaim(pool, Owner(*owner), slots) for pool, slots, *owner in rows]
    return found
