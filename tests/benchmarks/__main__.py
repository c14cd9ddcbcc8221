"""Measure: `python -m tests.benchmarks [NAME ...]`. See README.md beside this file."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime

import click

from liteflow.execution.cpus import usable_cpus
from tests.benchmarks.compare import Figure, compare
from tests.benchmarks.growth import GROWTH
from tests.benchmarks.lagging import lagging
from tests.benchmarks.on_dask import on_dask
from tests.benchmarks.starting import starting
from tests.benchmarks.workloads import WORKLOADS

NAMES = [*WORKLOADS, "start", "lag", "dask", *GROWTH]


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar="[NAME]...")
@click.option("--rounds", default=5, show_default=True, help="How many times each is run.")
@click.option("--workers", default=2, show_default=True, help="Processes on each side.")
@click.option("--check", is_flag=True, help="Exit with 1 if a figure is missed.")
def main(names: tuple[str, ...], rounds: int, workers: int, check: bool) -> None:
    """Measure liteflow against the bare loop, and how it grows. Without a NAME: everything."""
    where = f"Python {platform.python_version()}, {platform.machine()}, {usable_cpus()} CPUs, {workers} workers"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {where}, medians of {rounds}\n")
    print("| | what | liteflow | bare loop | figure | at most | |")
    print("|---|---|--:|--:|--:|--:|---|")
    figures: list[Figure] = []
    for name in names or NAMES:
        if name in WORKLOADS:
            found = [compare(name, rounds=rounds, workers=workers)]
        elif name == "start":
            found = starting(rounds)
        elif name == "lag":
            found = lagging(rounds, workers)
        elif name == "dask":
            found = on_dask(rounds, workers)
        else:
            found = GROWTH[name](rounds, workers)
        for one in found:
            unit = f" {one.unit}" if one.unit else ""
            print(
                f"| {one.name} | {one.what} | {one.ours} | {one.bare} | {one.value:.2f}{unit} | {one.most:g}{unit} | "
                f"{'' if one.is_met else 'missed'} |",
                flush=True,
            )
        figures += found
    missed = [one.name for one in figures if not one.is_met]
    if missed:
        print(f"\nmissed: {', '.join(missed)}")
    sys.exit(1 if check and missed else 0)


if __name__ == "__main__":
    main()
