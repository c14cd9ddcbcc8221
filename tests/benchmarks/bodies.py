"""The tasks of the workloads: plain functions, the same for liteflow and for the bare loop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any


def nothing() -> None:
    """Costs nothing: all that is measured is the way there and back."""


def one() -> int:
    return 1


def add_one(number: int) -> int:
    return number + 1


def double(number: int) -> int:
    return number * 2


def total(numbers: Iterable[int]) -> int:
    return sum(numbers)


def add(*numbers: int) -> int:
    return sum(numbers) + 1


def burn(seconds: float) -> None:
    """Python that uses the processor for so long, by its own clock, whoever else uses it too."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def make_bytes(size: int) -> bytes:
    return b"\x5a" * size


def make_array(size: int) -> Any:
    import numpy

    return numpy.arange(size // 8, dtype=numpy.int64)


def length_of(value: Sequence[Any]) -> int:
    return len(value)


def write_lines(count: int) -> None:
    for number in range(count):
        print(f"line {number:08d} of one that has a lot to say about what it does, and says it at once")


def work(seconds: float) -> float:
    """Ten million additions for each of `seconds`, which is about what they take; returns how long they took."""
    began = time.perf_counter()
    total_of = 0
    for number in range(int(seconds * 10_000_000)):
        total_of += number
    return time.perf_counter() - began
