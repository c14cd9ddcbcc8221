"""A task in a file of its own: what a slot imports for it is not all that the tests import."""

from __future__ import annotations

from liteflow import task


@task
def give(value: int) -> list[int]:
    return [value]
