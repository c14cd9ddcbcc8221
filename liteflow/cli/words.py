"""Words for people: how long ago, how large, how durations went; and what people write for spans of time."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
_SPAN = re.compile(r"(?P<number>\d{1,9}(?:\.\d{1,9})?) ?(?P<unit>s|min|m|h|d|w)", re.ASCII)
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-~=+*#"
FAILED_MARK = "x"
"""In the place of a failed run where there are no colours."""


def parse_span(text: str) -> timedelta:
    """The span of time that `7d`, `12h`, `30m`, `90s` or `2w` says. Raises ValueError for anything else."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no span of time; write it as 7d, 12h, 30m or 2w")
    try:
        return timedelta(seconds=float(match["number"]) * _UNITS[match["unit"]])
    except OverflowError:
        raise ValueError(f"{text!r} is longer than the calendar") from None


def parse_moment(text: str, now: datetime) -> datetime:
    """The moment that `7d` (so long before `now`), `2026-01-31` or `2026-01-31T12:00` says, aware.

    Without an offset it is local time. Raises ValueError for anything else.
    """
    try:
        if _SPAN.fullmatch(text.strip()):
            return now - parse_span(text)
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (OverflowError, ValueError):
        raise ValueError(f"{text!r} is no time; write it as 7d, 12h, 30m, 2026-01-31 or 2026-01-31T12:00") from None


def ago(moment: datetime, now: datetime) -> str:
    """How long before `now` it is: `just now`, `40 s ago`, `3 min ago`, `2 h ago`, `5 d ago`, `8 w ago`, `2 y ago`."""
    seconds = (now - moment).total_seconds()
    text = span_text(abs(seconds))
    if seconds < 0:  # of a clock that is ahead
        return "just now" if seconds > -5 else f"in {text}"
    return "just now" if seconds < 5 else f"{text} ago"


def span_text(seconds: float) -> str:
    """A span of time in its largest unit, rounded down: `40 s`, `3 min`, `2 h`, `5 d`, `8 w`, `2 y`."""
    for least, unit, size in (
        (2 * 365 * 86400, "y", 365 * 86400),
        (28 * 86400, "w", 7 * 86400),
        (48 * 3600, "d", 86400),
        (3600, "h", 3600),
        (60, "min", 60),
    ):
        if seconds >= least:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def bytes_text(count: int) -> str:
    """A number of bytes for people: `512 B`, `1.5 KB`, `12.3 MB`, of 1,000 each."""
    if abs(count) < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("KB", "MB", "GB"):
        size /= 1000
        if abs(size) < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:,.1f} TB"


def bars(values: Sequence[float], *, ascii_only: bool = False) -> list[str]:
    """A bar for each value, as high as its share of the greatest: `▁▂▃▅▇`."""
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    most = max(values, default=0.0)
    if most <= 0:
        return [blocks[0]] * len(values)
    return [blocks[min(len(blocks) - 1, int(max(0.0, value) / most * len(blocks)))] for value in values]


def can_show_bars() -> bool:
    """Whether stdout has the characters of `bars`."""
    try:
        _BLOCKS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
