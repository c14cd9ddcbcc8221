"""How long a sensor waits before it looks again."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from liteflow.authoring.options import SensorOptions
from liteflow.scheduling.retries import poke_interval_s


def options(interval: float, *, backoff: bool = True, most: float | None = None) -> SensorOptions:
    """Options of a sensor."""
    return SensorOptions(poke_interval_s=interval, exponential_backoff=backoff, max_wait_s=most)


@given(st.floats(0, 1e12), st.integers(1, 10**9), st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_without_backoff_every_interval_is_the_one_given(interval: float, looks: int, left: float, most: float) -> None:
    assert poke_interval_s(options(interval, backoff=False, most=most), looks, left, "x") == interval


@given(st.floats(0, 1e6), st.integers(1, 40), st.text())
def test_backoff_lies_between_base_and_twice_base(interval: float, looks: int, name: str) -> None:
    base = max(1, int(interval * 2.0 ** (looks - 2)))
    assert base <= poke_interval_s(options(interval), looks, 1e300, name) < 2 * base


@given(
    st.floats(0, allow_infinity=False, allow_nan=False),
    st.integers(1, 10**9),
    st.floats(-1e9, 1e9),
    st.none() | st.floats(0, 1e9),
)
@example(1.7e308, 60, 10.0, None)
def test_backoff_never_waits_longer_than_what_is_left_or_allowed(
    interval: float, looks: int, left: float, most: float | None
) -> None:
    found = poke_interval_s(options(interval, most=most), looks, left, "x")
    assert 0 <= found <= max(0.0, left)
    assert most is None or found <= most


@given(st.floats(1, 1e6), st.integers(1, 40), st.integers(1, 40), st.text())
def test_a_later_look_never_has_a_shorter_base(interval: float, looks: int, more: int, name: str) -> None:
    """The jitter is below the base, and the base doubles: so two looks later the wait is longer for certain."""
    first, later = (poke_interval_s(options(interval), n, 1e300, name) for n in (looks + 1, looks + 2 + more))
    assert first < later


@given(st.floats(0, 1e6), st.integers(1, 40), st.text())
def test_the_same_look_of_the_same_sensor_always_waits_as_long(interval: float, looks: int, name: str) -> None:
    chosen = options(interval)
    assert poke_interval_s(chosen, looks, 1e300, name) == poke_interval_s(chosen, looks, 1e300, name)


def test_the_first_intervals_double_from_half_of_the_given_one() -> None:
    """Airflow's bases for an interval of 10 s: 5, 10, 20, 40, ... each with a jitter below itself."""
    found = [poke_interval_s(options(10), looks, 1e9, "d#t#r") for looks in range(1, 8)]
    assert all(base <= wait < 2 * base for base, wait in zip([5, 10, 20, 40, 80, 160, 320], found, strict=True))
    capped = [poke_interval_s(options(10, most=60), looks, 1e9, "d#t#r") for looks in range(1, 8)]
    assert capped == [min(wait, 60) for wait in found]
