"""Airflow's `timezone` module: dates that know their zone. They are pendulum's where that is installed."""

from __future__ import annotations

import datetime as _datetime
from typing import Any

from liteflow.authoring.pendulums import as_pendulum

utc = _datetime.UTC


def _shown(moment: _datetime.datetime) -> _datetime.datetime:
    return as_pendulum(moment)


def utcnow() -> _datetime.datetime:
    """The time now, in UTC."""
    return _shown(_datetime.datetime.now(utc))


def datetime(*args: Any, **kwargs: Any) -> _datetime.datetime:
    """A date and time, in UTC unless `tzinfo` says."""
    kwargs.setdefault("tzinfo", utc)
    return _shown(_datetime.datetime(*args, **kwargs))  # noqa: DTZ001  (it has one)


def parse(text: str, timezone: Any = None) -> _datetime.datetime:
    """A date and time from ISO 8601, in `timezone` (default UTC) unless the text says."""
    return make_aware(_datetime.datetime.fromisoformat(text), timezone) if text else utcnow()


def parse_timezone(name: str | int) -> _datetime.tzinfo:
    """The time zone of that name, or of that many seconds east of UTC."""
    from zoneinfo import ZoneInfo

    return _datetime.timezone(_datetime.timedelta(seconds=name)) if isinstance(name, int) else ZoneInfo(name)


def is_localized(value: _datetime.datetime) -> bool:
    """Whether it knows its zone."""
    return value.utcoffset() is not None


def is_naive(value: _datetime.datetime) -> bool:
    """Whether it does not know its zone."""
    return value.utcoffset() is None


def make_aware(value: _datetime.datetime, timezone: Any = None) -> _datetime.datetime:
    """The same time with a zone: `timezone`, default UTC, if it had none."""
    return _shown(value if is_localized(value) else value.replace(tzinfo=timezone or utc))


def make_naive(value: _datetime.datetime, timezone: Any = None) -> _datetime.datetime:
    """The time as clocks of `timezone` (default UTC) show it, without a zone."""
    return value.astimezone(timezone or utc).replace(tzinfo=None)


def convert_to_utc(value: _datetime.datetime | None) -> _datetime.datetime | None:
    """The same moment in UTC; a time without a zone is in UTC already."""
    return None if value is None else _shown(make_aware(value).astimezone(utc))
