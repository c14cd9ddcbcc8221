"""The time as everything that is recorded has it."""

from __future__ import annotations

import time


def clock_us() -> int:
    """Microseconds since 1970 in UTC."""
    return time.time_ns() // 1000
