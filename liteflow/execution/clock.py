"""The time as everything that is recorded has it."""

from __future__ import annotations

import time


def clock_us() -> int:
    """Microseconds since 1970 in UTC."""
    return time.time_ns() // 1000


def steady_s() -> float:
    """Seconds on a clock that goes on while the machine sleeps, where there is one: that of a database does."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Clock:
    """The host's time. The loop and the tries ask a clock, so that a run in a test can have a time of its own."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()

    def now_us(self) -> int:
        """Microseconds since 1970 in UTC."""
        return time.time_ns() // 1000

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""
        time.sleep(seconds)


HOST_CLOCK = Clock()
