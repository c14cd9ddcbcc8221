"""Dates as Airflow hands them out."""

from __future__ import annotations

import importlib.util
from datetime import datetime
from functools import cache


@cache
def _has_pendulum() -> bool:
    return importlib.util.find_spec("pendulum") is not None


def as_pendulum(moment: datetime) -> datetime:
    """The moment as Airflow hands it out: a `pendulum.DateTime`, where pendulum is installed."""
    if not _has_pendulum():
        return moment
    import pendulum

    shown: datetime = pendulum.instance(moment)
    return shown
