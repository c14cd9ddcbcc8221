"""Words for times, spans, sizes and durations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from liteflow.cli.words import ago, bars, bytes_text, parse_moment, parse_span, span_text

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("30min", 1800), ("12h", 43200), ("7d", 604800), ("2w", 1209600), ("1.5 h", 5400)],
)
def test_spans(text: str, seconds: int) -> None:
    assert parse_span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "7", "d", "-7d", "7 days", "7D", "1e3d", "7d 2h", "٧d", "9" * 10 + "d"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="span of time"):
        parse_span(text)


def test_a_span_longer_than_the_calendar_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than the calendar"):
        parse_span("999999999w")


def test_moments() -> None:
    assert parse_moment("7d", NOW) == NOW - timedelta(days=7)
    assert parse_moment("2026-02-03T04:05:06+02:00", NOW) == datetime(2026, 2, 3, 2, 5, 6, tzinfo=UTC)
    local = parse_moment("2026-02-03", NOW)
    assert local.tzinfo is UTC
    assert local.astimezone().strftime("%Y-%m-%d %H:%M") == "2026-02-03 00:00"


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "999999999w", "999999d", ""])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; write it as 7d"):
        parse_moment(text, NOW)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "just now"),
        (4.9, "just now"),
        (40, "40 s ago"),
        (61, "1 min ago"),
        (7199, "1 h ago"),
        (47 * 3600, "47 h ago"),
        (5 * 86400, "5 d ago"),
        (60 * 86400, "8 w ago"),
        (800 * 86400, "2 y ago"),
        (-3, "just now"),
        (-90, "in 1 min"),
    ],
)
def test_how_long_ago(seconds: float, said: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == said


def test_spans_are_rounded_down() -> None:
    assert [span_text(seconds) for seconds in (0.9, 59.9, 119, 3599)] == ["0 s", "59 s", "1 min", "59 min"]


def test_sizes() -> None:
    sizes = (0, 999, 1000, 1_549, 12_345_678, 999_999_999, 5 * 10**9, 2 * 10**15)
    assert [bytes_text(size) for size in sizes] == [
        "0 B", "999 B", "1.0 KB", "1.5 KB", "12.3 MB", "1.0 GB", "5.0 GB", "2,000.0 TB",
    ]  # fmt: skip


def test_bars_are_shares_of_the_greatest() -> None:
    assert "".join(bars([0, 1, 2, 4, 8])) == "▁▂▃▅█"
    assert "".join(bars([0, 1, 2, 4, 8], ascii_only=True)) == "_.-=#"
    assert bars([0.0, 0.0]) == ["▁", "▁"]
    assert bars([]) == []
