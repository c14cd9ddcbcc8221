"""Leases of executor services: how long each counts as alive, on the clock of the database.

Only databases that several machines share have them; beside a file a kernel lock tells who lives, and no clock is
asked. A lease that is over is over for good: it cannot be renewed, and the first who takes a run from its service notes
that, so that the service is refused from then on even if it comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Connection, and_, or_, select, text, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from liteflow.errors import LeaseLostError
from liteflow.storage.statements import changed
from liteflow.storage.tables import EXECUTOR

if TYPE_CHECKING:
    from liteflow.storage.history import Owner

LEASE_S = 60.0
"""How long a lease holds without being renewed."""


class now_us(FunctionElement[int]):  # noqa: N801 - it is written as functions of SQL are
    """Microseconds since 1970 on the database's own clock, at the moment when it is asked."""

    inherit_cache = True
    type = BigInteger()


@compiles(now_us, "postgresql")
def _on_postgresql(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


@compiles(now_us)
def _elsewhere(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS BIGINT)"


def begin(connection: Connection, executor_pk: int, place: str, seconds: float) -> None:
    """Give an executor service its lease; `place` names the directory of its lock file."""
    connection.execute(
        update(EXECUTOR).where(EXECUTOR.c.id == executor_pk).values(place=place, lease_until=_in(seconds))
    )


def renew(connection: Connection, executor_pk: int, seconds: float) -> bool:
    """Let a lease hold for so long from now on; False when it is over."""
    result = connection.execute(
        update(EXECUTOR).where(EXECUTOR.c.id == executor_pk, _holds()).values(lease_until=_in(seconds))
    )
    return changed(result) == 1


def holds(connection: Connection, executor_pk: int) -> bool:
    """Whether a lease holds; until the end of the transaction nobody else can note that it does not."""
    found = connection.execute(
        select(EXECUTOR.c.id).where(EXECUTOR.c.id == executor_pk, _holds()).with_for_update(read=True, key_share=True)
    )
    return found.one_or_none() is not None


def refuse_lost(connection: Connection, executor_pk: int, path: str) -> None:
    """Raise LeaseLostError unless the lease holds, as `holds` does."""
    if not holds(connection, executor_pk):
        raise LeaseLostError(
            f"{path}: the lease of this executor service is over, and others may go on with its runs", path=path
        )


def end(connection: Connection, owner: Owner, now: int, *, is_dead: bool) -> bool:
    """Note that an executor service is gone: its lease is over or, with `is_dead`, its lock file says so.

    False when its lease holds after all, or when it is just recording something, or others are about to note it.
    """
    row = connection.execute(
        select(EXECUTOR.c.ended_at.is_not(None), or_(EXECUTOR.c.lease_until.is_(None), _is_over()))
        .where(EXECUTOR.c.id == owner.pk)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if row is None:
        return False
    has_ended, is_over = row
    if has_ended:
        return True
    if not is_over and not is_dead:
        return False
    connection.execute(update(EXECUTOR).where(EXECUTOR.c.id == owner.pk).values(ended_at=now))
    return True


def end_connections_of_dead(connection: Connection) -> int:
    """Have the server end the connections of executor services whose lease is over; returns how many it ended.

    One that was cut off may hold locks, for which all others wait.
    """
    if connection.dialect.name != "postgresql":
        return 0
    return len(connection.execute(_END_CONNECTIONS).all())


_END_CONNECTIONS = text(
    "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a "
    "JOIN liteflow_executor e ON a.application_name = 'liteflow ' || e.token "
    "WHERE a.datname = current_database() AND a.usename = current_user "
    "AND e.ended_at IS NULL AND e.lease_until < CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"
)


def left_us() -> Any:
    """A column: for how many microseconds the lease of an executor service holds; NULL where it has none."""
    return (EXECUTOR.c.lease_until - now_us()).label("lease_left_us")


def _in(seconds: float) -> Any:
    return now_us() + int(seconds * 1e6)


def _holds() -> Any:
    return and_(EXECUTOR.c.ended_at.is_(None), EXECUTOR.c.lease_until.is_not(None), ~_is_over())


def _is_over() -> Any:
    return EXECUTOR.c.lease_until <= now_us()
