"""How long a task waits before its next try."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liteflow.authoring.options import TaskOptions
from liteflow.scheduling.retries import retry_delay_s

DAY = 24 * 3600.0


def options(delay: float = 0.0, factor: float = 0.0, cap: float | None = None) -> TaskOptions:
    """Options of a task with retries."""
    return TaskOptions(retries=10**6, retry_delay_s=delay, retry_exponential_backoff=factor, max_retry_delay_s=cap)


def test_the_default_is_not_to_wait() -> None:
    assert retry_delay_s(TaskOptions(retries=3), 1, "d/t") == 0.0


@given(st.floats(0, 1e9), st.integers(1, 1000), st.text())
def test_without_backoff_every_delay_is_the_one_given(delay: float, number: int, identity: str) -> None:
    assert retry_delay_s(options(delay), number, identity) == delay


def test_without_backoff_a_delay_of_more_than_a_day_stays() -> None:
    assert retry_delay_s(options(3 * DAY), 1, "d/t") == 3 * DAY


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_the_cap_holds_without_backoff_too(delay: float, cap: float) -> None:
    assert retry_delay_s(options(delay, cap=cap), 1, "d/t") == min(delay, cap)


@given(st.floats(0, 1e4), st.floats(0.1, 10), st.integers(1, 12), st.text())
def test_backoff_lies_between_base_and_twice_base(delay: float, factor: float, number: int, identity: str) -> None:
    base = max(1, math.ceil(delay * factor ** (number - 1)))
    found = retry_delay_s(options(delay, factor, cap=1e300), number, identity)
    assert base <= found < 2 * base


@given(st.floats(0, 1e4), st.floats(0.1, 10), st.integers(1, 12), st.floats(0, 1e6))
def test_backoff_never_goes_beyond_the_cap(delay: float, factor: float, number: int, cap: float) -> None:
    capped = retry_delay_s(options(delay, factor, cap), number, "d/t")
    assert capped == min(retry_delay_s(options(delay, factor, cap=1e300), number, "d/t"), cap)


def test_backoff_without_a_cap_stops_at_a_day() -> None:
    assert retry_delay_s(options(10, 2), 40, "d/t") == DAY
    assert retry_delay_s(options(10, 2, cap=2 * DAY), 40, "d/t") == 2 * DAY


@given(st.integers(1, 8), st.text())
def test_the_jitter_is_the_same_each_time_it_is_asked_for(number: int, identity: str) -> None:
    given_ = options(600, 2)
    assert retry_delay_s(given_, number, identity) == retry_delay_s(given_, number, identity)


def test_the_jitter_is_the_same_in_every_process() -> None:
    # A hash that Python salts for each process would differ after a restart.
    assert retry_delay_s(options(1000, 2), 1, "etl/2026-01-01/load") == 1437.0


def test_the_jitter_differs_between_tasks_dates_and_tries() -> None:
    same_base = options(100_000, 1.0, cap=1e300)
    found = {
        retry_delay_s(same_base, number, identity)
        for identity in ("etl/2026-01-01/load", "etl/2026-01-01/check", "etl/2026-01-02/load")
        for number in (1, 2)
    }
    assert len(found) == 6


def test_a_delay_of_nothing_backs_off_from_one_second() -> None:
    assert retry_delay_s(options(0, 2), 1, "d/t") == 1.0
    assert retry_delay_s(options(0, 2), 10, "d/t") == 1.0


@pytest.mark.parametrize(("factor", "number"), [(10.0, 10_000), (1e300, 3), (2.0, 10**6)])
def test_a_backoff_too_large_for_a_number_is_the_cap(factor: float, number: int) -> None:
    assert retry_delay_s(options(5, factor), number, "d/t") == DAY
    assert retry_delay_s(options(5, factor, cap=60), number, "d/t") == 60.0


def test_a_delay_of_nothing_stays_small_when_its_factor_is_too_large_for_a_number() -> None:
    assert retry_delay_s(options(0, 10.0), 10_000, "d/t") == 1.0


@given(st.floats(0, 1e300), st.floats(0, 1e300), st.integers(1, 10**6), st.one_of(st.none(), st.floats(0, 1e300)))
def test_every_delay_is_a_finite_number_of_seconds(delay: float, factor: float, number: int, cap: float | None) -> None:
    found = retry_delay_s(options(delay, factor, cap), number, "d/t")
    assert type(found) is float
    assert math.isfinite(found)
    assert found >= 0
