"""Times as they are stored: integer microseconds since 1970 in UTC. Needs no SQLAlchemy, which workers do without."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970 in UTC. A naive `moment` raises ValueError: nobody can tell which instant it is."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone; use datetime(..., tzinfo=timezone.utc)")
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The aware datetime in UTC of that many microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=value)
