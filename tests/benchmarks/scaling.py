"""How far one coordinator goes: figures, a model with few constants, and a large simulation that has to agree with it.

python -m tests.benchmarks.scaling            figures and constants
python -m tests.benchmarks.scaling --check    the same, and the prediction for 1,000,000 task instances

SCALING.md beside this file says what follows from it. Each figure is the quickest of some rounds in fresh processes.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import click

from liteflow.execution.cpus import usable_cpus

BATCH = 64
"""How many workers end together in the figures for many tasks."""

RUN_SIZE = 1_000

Found = dict[str, Any]


class Bound(NamedTuple):
    """What is predicted, what came out, and how far they may be apart."""

    what: str
    predicted: float
    measured: float
    most: float
    """The ratio, either way round."""
    unit: str

    @property
    def ratio(self) -> float:
        return self.measured / self.predicted

    @property
    def is_met(self) -> bool:
        return 1 / self.most <= self.ratio <= self.most


class Model(NamedTuple):
    """What one coordinator takes, over one database. Seconds and bytes."""

    create: float
    """For a task instance, to make its row when the run is submitted."""
    task: float
    """For a task instance, whatever else there is in the turn."""
    turn: float
    """For a turn of the loop: one transaction."""
    run: float
    """For a run of its own, beside its task instances."""
    mixed: float
    """More for a task instance where several runs go on at once: what is claimed together is not one row of keys."""
    memory: float
    """For a task instance of a run that goes on, in the coordinator."""
    disk: float
    """For a task instance, in the database, with an XCom of 100 bytes and a line."""

    def seconds(self, size: int, *, batch: float = BATCH, runs: int = 1) -> float:
        """How long it takes when nobody waits for workers; `batch`: how many tasks end in a turn."""
        task = self.task + (self.mixed if runs > 1 else 0.0)
        return size * (self.create + task + self.turn / batch) + runs * self.run

    def throughput(self, batch: float) -> float:
        """Task instances per second, once the run is made."""
        return 1 / (self.task + self.turn / batch)


class Fit(NamedTuple):
    """A model and the figures from which it comes."""

    model: Model
    cpu: Model
    """The same of the processor's seconds, which other programs on the machine hardly change."""
    figures: dict[str, Found]


def simulate(**case: Any) -> Found:
    """One simulation, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.simulated", json.dumps(case)]
    found: Found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    check_rows(found)
    return found


def check_rows(found: Found) -> None:
    """Every task instance of the simulation is there once, has succeeded, and has its value and its line."""
    size, states = found["case"]["size"], found["states"]
    others = found["case"]["db"] is not None  # what was simulated before is there as well
    if (states.keys() != {"success", "xcoms", "lines"}) or any(
        count < size if others else count != size for count in states.values()
    ):
        raise SystemExit(f"{found['case']}: the database has {states}")


def repeated(rounds: int, **case: Any) -> Found:
    """The quickest round: other programs only make one slower. `spread`: how many times as long the slowest took."""
    numbers = case.pop("numbers")
    found = sorted(
        (simulate(**case, prefix=f"s{next(numbers)}-") for _ in range(rounds)), key=lambda one: float(one["seconds"])
    )
    return {**found[0], "spread": found[-1]["seconds"] / found[0]["seconds"]}


def fit(rounds: int, small: int, large: int, db: str | None) -> Fit:
    """Measure at small sizes; constants come from these alone."""
    numbers = itertools.count()

    def figure(**case: Any) -> Found:
        return repeated(rounds, db=db, numbers=numbers, **case)

    figures = {
        "one by one": figure(kind="mapped", size=max(100, small // 10), workers=1),
        "small": figure(kind="mapped", size=small, workers=BATCH),
        "large": figure(kind="mapped", size=large, workers=BATCH),
        "wide": figure(kind="mapped", size=small, workers=8 * BATCH),
        "chain": figure(kind="chain", size=max(100, small // 10), workers=1),
        "runs": figure(kind="runs", size=small, workers=BATCH, each=min(RUN_SIZE, small // 4)),
        "tiny runs": figure(kind="runs", size=max(100, small // 10), workers=BATCH, each=10),
    }
    return Fit(model_of(figures, is_cpu=False), model_of(figures, is_cpu=True), figures)


def model_of(figures: dict[str, Found], *, is_cpu: bool) -> Model:
    """The constants: on the clock, or of the processor."""

    def total(found: Found) -> float:
        return float(found["process_cpu" if is_cpu else "seconds"])

    def creating(found: Found) -> float:
        return float(found["cpu"]["creating"] if is_cpu else found["create_s"])

    def each(found: Found) -> float:
        return (total(found) - creating(found)) / size_of(found)

    def turns(found: Found) -> float:
        return float(found["turns"] / size_of(found))

    def size_of(found: Found) -> int:
        return int(found["case"]["size"])

    few, many, tiny = figures["one by one"], figures["large"], figures["tiny runs"]
    turn = max(0.0, (each(few) - each(many)) / (turns(few) - turns(many)))
    task = max(0.0, each(many) - turn * turns(many))
    create = creating(many) / size_of(many)

    def rest(found: Found) -> float:
        """What a task instance of several runs takes beside all this: `mixed`, and its share of `run`."""
        return max(0.0, total(found) / size_of(found) - create - task - turn * turns(found))

    each_of = {name: figures[name]["case"]["each"] for name in ("runs", "tiny runs")}
    run = (rest(tiny) - rest(figures["runs"])) / (1 / each_of["tiny runs"] - 1 / each_of["runs"])
    run = max(0.0, run)
    return Model(
        create=create,
        task=task,
        turn=turn,
        run=run,
        mixed=max(0.0, rest(figures["runs"]) - run / each_of["runs"]),
        memory=(many["rss_peak"] - many["rss_base"]) / size_of(many),
        disk=many["bytes"]["all"] / many["states"]["success"],
    )


def bounds(fitted: Fit, size: int, db: str | None, *, seconds: float = 1.0) -> list[Bound]:
    """Simulate what is larger than what was measured, and compare."""
    where = "PostgreSQL" if db else "SQLite"
    model = fitted.model
    numbers = itertools.count(1000)
    one = simulate(kind="mapped", size=size, workers=BATCH, db=db, prefix=f"c{next(numbers)}-")
    each = min(RUN_SIZE, size // 4)
    several = simulate(kind="runs", size=size, workers=BATCH, each=each, db=db, prefix=f"c{next(numbers)}-")
    runs = size // each
    found = []
    for what, some, count in ((f"one run of {size:,}", one, 1), (f"{runs:,} runs of {each:,}", several, runs)):
        clock, cpu = (some_model.seconds(size, runs=count) for some_model in (model, fitted.cpu))
        found += [
            Bound(f"{where}, {what}", clock, some["seconds"], 1.3, "s"),
            Bound(f"{where}, {what}, processor", cpu, some["process_cpu"], 1.3, "s"),
        ]
    found += [
        Bound(
            f"{where}, memory of one run of {size:,}",
            (model.memory * size + one["rss_base"]) / 2**20,
            one["rss_peak"] / 2**20,
            1.3,
            "MiB",
        ),
    ]
    if db is None:
        found += [
            Bound(f"{where}, disk of {what}", model.disk * size / 2**20, some["bytes"]["all"] / 2**20, 1.15, "MiB")
            for what, some in (("one run", one), ("the runs", several))
        ]
    return [*found, busy_bound(model, size, db, seconds, next(numbers))]


def busy_bound(model: Model, size: int, db: str | None, seconds: float, number: int) -> Bound:
    """Half as many workers as the model says can be kept at work are kept at work."""
    workers = max(2, min(4_000, size // 20, int(0.5 * seconds * model.throughput(BATCH))))
    rounds = 10
    found = simulate(
        kind="mapped", size=rounds * workers, workers=workers, seconds=seconds, db=db, prefix=f"b{number}-"
    )
    took = found["seconds"] - found["create_s"]
    where = "PostgreSQL" if db else "SQLite"
    return Bound(f"{where}, {workers:,} workers with tasks of {seconds:g} s", rounds * seconds, took, 1.3, "s")


class Beside(NamedTuple):
    """Several coordinators over one server at the same time."""

    count: int
    tasks_per_s: float
    turns_per_s: float
    server_cpu: float
    """Seconds of the server's processors for a task."""
    coordinator_cpu: float


def beside(counts: Sequence[int], size: int, db: str, server_cpu_s: Callable[[], float]) -> Iterator[Beside]:
    """So many coordinators, each with a run of its own of `size`, begin at once."""
    for count in counts:
        children = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.benchmarks.simulated",
                    json.dumps(
                        {
                            "kind": "runs",
                            "size": size,
                            "each": min(RUN_SIZE, size),
                            "at_once": 4,
                            "workers": BATCH,
                            "db": db,
                            "prefix": f"n{count}-{number}-",
                            "waits": True,
                        }
                    ),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise SystemExit(f"{count} coordinators: one has ended")
        before = server_cpu_s()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        found = [json.loads(child.communicate()[0]) for child in children]
        used = server_cpu_s() - before
        for one in found:
            check_rows(one)
        took = max(one["ended"] for one in found) - min(one["began"] for one in found)
        cpu = sum(one["process_cpu"] for one in found)
        turns = sum(one["turns"] for one in found)
        yield Beside(count, count * size / took, turns / took, used / (count * size), cpu / (count * size))


def commits_per_second(db: str, count: int = 200) -> float:
    """How many transactions of one row one connection commits, one after the other."""
    import psycopg
    from sqlalchemy import make_url

    url = make_url(db).set(drivername="postgresql").render_as_string(False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE commits (n int)")
        began = time.perf_counter()
        for number in range(count):
            connection.execute("INSERT INTO commits VALUES (%s)", (number,))
        took = time.perf_counter() - began
        connection.execute("DROP TABLE commits")
    return count / took


class Postgres(NamedTuple):
    """A database in a server, and what its processes have used."""

    url: str
    server_cpu_s: Callable[[], float]
    what: str


@contextmanager
def a_server(url: str | None) -> Iterator[Postgres | None]:
    """The server at a URL, or one of the tests; None where there is none."""
    from tests.postgres import Server, find_postgres

    if url is not None:
        yield Postgres(url, lambda: 0.0, "a server of yours")
        return
    try:
        import psycopg  # noqa: F401
    except ImportError:
        yield None
        return
    if find_postgres() is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory) / "postgres", safe=True)
        try:
            with server.database() as database:
                yield Postgres(database, lambda: _cpu_of(server.postmaster()), "the tests' server, fsync on")
        finally:
            server.release()
            deadline = time.monotonic() + 30
            while (Path(directory) / "postgres" / "server.json").exists() and time.monotonic() < deadline:
                time.sleep(0.05)  # its guard is no child of ours


def _cpu_of(postmaster: int | None) -> float:
    """Seconds that a server's processes have used, those that have ended as well."""
    if postmaster is None:
        return 0.0
    ticks = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(entry.name) == postmaster:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == postmaster:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"


COLUMNS = (
    "figure",
    "instances",
    "batch",
    "tasks/s",
    "us each",
    "core",
    "recording",
    "loop",
    "bytes of memory: waiting, all done",
    "bytes of database",
    "wait, median",
    "p99",
    "spread",
)


def row(name: str, found: Found) -> str:
    """A line of the table of figures. Microseconds of the processor for each task instance, by phase."""
    size, cpu = found["case"]["size"], found["cpu"]
    core = cpu["core"] + cpu["choosing"] + cpu["settling"]
    recording = cpu["recording"]
    loop = cpu["turn"] - cpu["poll"] - core - recording
    base = found["rss_base"]
    waiting, over = ((found[f"rss_{name}"] - base) / size for name in ("created", "peak"))
    return (
        f"| {name} | {size:,} | {size / max(1, found['turns']):.1f} | {size / found['seconds']:,.0f} | "
        f"{us(found['seconds'] / size)} | {us(core / size)} | {us(recording / size)} | {us(loop / size)} | "
        f"{waiting:.0f}, {over:.0f} | {found['bytes']['all'] / found['states']['success']:.0f} | "
        f"{found['wait_median_s'] * 1e3:.2f} ms | {found['wait_p99_s'] * 1e3:.2f} ms | {found.get('spread', 1):.2f} |"
    )


def show_fit(where: str, found: Fit) -> None:
    """Print the figures and the constants."""
    print(f"\n## {where}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, figure in found.figures.items():
        print(row(name, figure))
    print("\n| constant | on the clock | processor | |\n|---|--:|--:|---|")
    model = found.model
    for name in ("create", "task", "mixed", "turn", "run"):
        what = f"a {name}" if name in ("turn", "run") else "a task instance"
        print(f"| {name} | {us(getattr(model, name))} | {us(getattr(found.cpu, name))} | us {what} |")
    for name in ("memory", "disk"):
        print(f"| {name} | {getattr(model, name):.0f} | | bytes a task instance |")
    each = ", ".join(f"{batch}: {model.throughput(batch):,.0f}" for batch in (1, 8, 64, 512))
    print(f"\nTask instances per second by batch: {each}", flush=True)
    trips = found.figures["one by one"].get("trips")
    if trips:
        one = found.figures["one by one"]
        print(f"Round trips of a turn: {trips / one['turns']:.1f}", flush=True)


def show_bounds(found: Sequence[Bound]) -> None:
    """Print predictions and what came out."""
    print("\n| what | predicted | measured | ratio | at most | |\n|---|--:|--:|--:|--:|---|")
    for one in found:
        print(
            f"| {one.what} | {one.predicted:,.1f} {one.unit} | {one.measured:,.1f} {one.unit} | {one.ratio:.2f} | "
            f"{one.most:g} | {'' if one.is_met else 'missed'} |",
            flush=True,
        )


@click.command()
@click.option("--check", is_flag=True, help="Simulate what is larger too; exit with 1 if a prediction is off.")
@click.option("--size", default=1_000_000, show_default=True, help="Task instances of the check.")
@click.option("--small", default=10_000, show_default=True, help="Task instances of the smaller figures.")
@click.option("--large", default=100_000, show_default=True, help="Of the larger one.")
@click.option("--rounds", default=3, show_default=True, help="How many times each figure is measured.")
@click.option("--seconds", default=1.0, show_default=True, help="How long the tasks of the check of workers take.")
@click.option(
    "--on",
    "databases",
    multiple=True,
    type=click.Choice(["sqlite", "postgres"]),
    default=["sqlite", "postgres"],
    show_default=True,
)
@click.option("--postgres", "url", help="An empty database of a server; the default is a server of the tests.")
@click.option("--services", default="1,2,4,8", show_default=True, help="How many coordinators share the server.")
def main(
    check: bool,
    size: int,
    small: int,
    large: int,
    rounds: int,
    seconds: float,
    databases: tuple[str, ...],
    url: str | None,
    services: str,
) -> None:
    """Measure one coordinator, and say how far it goes."""
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{platform.machine()}, {usable_cpus()} CPUs, the quickest of {rounds} rounds"
    )
    missed = []
    if "sqlite" in databases:
        missed += _one(check, "SQLite", fit(rounds, small, large, None), size, None, seconds)
    if "postgres" in databases:
        with a_server(url) as server:
            if server is None:
                print("\nno PostgreSQL is here")
            else:
                found = fit(rounds, small, large, server.url)
                missed += _one(check, f"PostgreSQL, {server.what}", found, size, server.url, seconds)
                _share(server, [int(count) for count in services.split(",") if count], small, rounds)
    if missed:
        print(f"\nmissed: {'; '.join(missed)}")
    sys.exit(1 if missed else 0)


def _one(check: bool, where: str, found: Fit, size: int, db: str | None, seconds: float) -> list[str]:
    show_fit(where, found)
    if not check:
        return []
    rows = bounds(found, size, db, seconds=seconds)
    show_bounds(rows)
    return [one.what for one in rows if not one.is_met]


def _share(server: Postgres, counts: Sequence[int], size: int, rounds: int) -> None:
    commits = statistics.median(commits_per_second(server.url) for _ in range(rounds))
    print(f"\nCommits per second of one connection: {commits:,.0f}")
    print("\n| coordinators | tasks/s | turns/s | us of the server for a task | us of a coordinator |")
    print("|--:|--:|--:|--:|--:|")
    for one in beside(counts, size, server.url, server.server_cpu_s):
        print(
            f"| {one.count} | {one.tasks_per_s:,.0f} | {one.turns_per_s:,.0f} | {us(one.server_cpu)} | "
            f"{us(one.coordinator_cpu)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
