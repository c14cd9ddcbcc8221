"""A coordinator alone: the real service, loop, core and database over workers that are only pretended.

python -m tests.benchmarks.simulated '{"kind": "mapped", "size": 10000}'

Nothing is run. Each job comes back as a success after a given time, with a line and an XCom of 100 bytes. So what takes
time, memory and disk is what one process spends on coordinating. It prints one line of JSON, see `measure`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from liteflow import Dag, task
from liteflow.execution.jobs import Engine, Events, Job, LogLine, Outcome
from liteflow.states import EndReason, TaskInstanceState
from tests.benchmarks import bodies
from tests.benchmarks.growing import peak_bytes, rss_bytes

LINE = "a line of some forty characters, as they"
VALUE = b'"' + b"x" * 98 + b'"'

MOST_WAITS = 100_000
"""Of how many waits for work the median is taken."""


@dataclass(frozen=True)
class Case:
    """What is simulated."""

    kind: str
    """`mapped`: one run of a mapped task. `chain`: one run, each task after the other. `runs`: several of `each`."""
    size: int
    """Task instances in all."""
    workers: int = 64
    seconds: float = 0.0
    """How long each task takes."""
    each: int = 1_000
    """Task instances of a run of `runs`."""
    at_once: int = 16
    """How many of several runs go on at the same time."""
    db: str | None = None
    """A URL; None for a file that is removed."""
    prefix: str = "r"
    """What ids of runs begin with."""
    die_after: int = 0
    """SIGKILL for this process when so many results have come; 0 for never."""
    waits: bool = False
    """Whether it says `ready` and waits for a line before it begins."""


class PretendedWorkers:
    """An engine whose workers do nothing, each for the same time; see `jobs.Engine`."""

    chunks = False

    def __init__(self, count: int, seconds: float, die_after: int = 0) -> None:
        self._count = count
        self._seconds = seconds
        self._die_after = die_after
        self._free = dict.fromkeys(range(1, count + 1))
        self._busy: deque[tuple[float, int, Job]] = deque()
        self._woken = threading.Event()
        self._idle_since: dict[int, float] = {}
        self.waits: list[float] = []
        """Seconds from the end of a task to the beginning of the next one in the same worker."""
        self.done = 0

    def start(self) -> None:
        """There is nothing to start."""

    def hold_locks(self, directory: str, token: str) -> None:
        """No process is left behind."""

    def live_until(self, at: float) -> None:
        return  # they have no life of their own

    def replace_no_more(self) -> None:
        """Nothing is ever replaced."""

    def vacancies(self) -> list[int]:
        return list(self._free)

    def size(self) -> int:
        return self._count

    def submit(self, vacancy: int, jobs: list[Job]) -> None:
        now = time.perf_counter()
        since = self._idle_since.pop(vacancy, None)
        if since is not None and len(self.waits) < MOST_WAITS:
            self.waits.append(now - since)
        del self._free[vacancy]
        self._busy += [(now + self._seconds, vacancy, job) for job in jobs]

    def answer(self, job: Job, number: int, rows: tuple[Any, ...]) -> None:
        """Nobody asks."""

    def has_begun(self, job: Job) -> bool:
        return True

    def cancel(self, job: Job, reason: EndReason) -> None:
        """It ends soon enough."""

    def poll(self, timeout_s: float) -> Events:
        events = Events()
        if not self._busy or self._busy[0][0] > time.perf_counter():
            until = self._busy[0][0] - time.perf_counter() if self._busy else timeout_s
            self._woken.wait(min(timeout_s, max(0.0, until), threading.TIMEOUT_MAX))
        self._woken.clear()
        now, now_us = time.perf_counter(), time.time_ns() // 1000
        began_us = now_us - int(self._seconds * 1e6)
        while self._busy and self._busy[0][0] <= now:
            due, vacancy, job = self._busy.popleft()
            self._free[vacancy] = None
            self._idle_since[vacancy] = due
            events.lines.append((job, LogLine(now_us, None, None, LINE)))
            outcome = Outcome(
                TaskInstanceState.SUCCESS,
                xcoms=(("return_value", "json", VALUE),),
                started_us=began_us,
                ended_us=now_us,
            )
            events.finished.append((job, outcome))
        self.done += len(events.finished)
        if self._die_after and self.done >= self._die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return events

    def wake(self) -> None:
        self._woken.set()

    def kill(self) -> None:
        """There is nothing to kill."""

    def close(self, *, kill: bool) -> None:
        """There is nothing to end."""


class Phases:
    """Seconds of the processor, and on the clock, that the loop's thread spends in parts of it."""

    def __init__(self) -> None:
        self.cpu: Counter[str] = Counter()
        self.wall: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def time(self, stack: ExitStack, owner: Any, method: str, name: str) -> None:
        """From now on count what a method takes, until the stack is left."""
        was = getattr(owner, method)

        def timed(*args: Any, **options: Any) -> Any:
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return was(*args, **options)
            finally:
                self.cpu[name] += time.thread_time() - cpu
                self.wall[name] += time.perf_counter() - wall
                self.calls[name] += 1

        setattr(owner, method, timed)
        stack.callback(setattr, owner, method, was)


class Trips:
    """How often each thread waits for the server, and how long a transaction is left waiting for us."""

    def __init__(self, stack: ExitStack) -> None:
        import psycopg

        self.count: Counter[int] = Counter()
        self.longest_pause_s = 0.0
        last: dict[int, float] = {}
        was = psycopg.Connection.wait

        def counted(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                self.count[threading.get_ident()] += 1
                return method(*args, **options)

            return call

        for name in ("execute", "executemany"):
            method = getattr(psycopg.Cursor, name)
            setattr(psycopg.Cursor, name, counted(method))
            stack.callback(setattr, psycopg.Cursor, name, method)

        def wait(connection: Any, *args: Any, **options: Any) -> Any:
            key = id(connection)
            if connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.INTRANS and key in last:
                self.longest_pause_s = max(self.longest_pause_s, time.perf_counter() - last[key])
            try:
                return was(connection, *args, **options)
            finally:
                last[key] = time.perf_counter()

        psycopg.Connection.wait = wait
        stack.callback(setattr, psycopg.Connection, "wait", was)


def dag_of(case: Case) -> Dag:
    """The dag of one run."""
    with Dag(f"{case.kind}-{case.each if case.kind == 'runs' else case.size}") as dag:
        if case.kind == "chain":
            add_one = task(bodies.add_one)
            value: Any = task(bodies.one)()
            for number in range(1, case.size):
                value = add_one.override(task_id=f"t{number}")(value)
        else:
            size = case.each if case.kind == "runs" else case.size
            task(bodies.double).expand(number=range(size))
    return dag


@contextmanager
def service_over(case: Case, db: str, stack: ExitStack) -> Iterator[tuple[Any, PretendedWorkers]]:
    """A service that has pretended workers."""
    from liteflow import ExecutorService
    from liteflow.execution import service as services
    from liteflow.execution.mixed import MixedEngine

    workers = PretendedWorkers(case.workers, case.seconds, case.die_after)

    def engine_of(*_: object) -> Engine:
        return MixedEngine(workers, "processes", {})

    was = services.engine_of
    services.engine_of = engine_of
    stack.callback(setattr, services, "engine_of", was)
    with ExecutorService(db, max_workers=case.workers) as service:
        yield service, workers


def measure(case: Case) -> dict[str, Any]:
    """Simulate it.

    Seconds of creating the runs and of driving them, those of the processor for each part, bytes of memory, waits of
    workers, commits. All are sums; of what is in the database see `database_bytes`.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        db = case.db or os.path.join(directory, "flow.db")
        phases = Phases()
        trips = Trips(stack) if case.db else None
        _watch(stack, phases, is_file=case.db is None)
        found: dict[str, Any] = {"case": asdict(case)}
        with service_over(case, db, stack) as (service, workers):
            service.submit(dag_of(Case("mapped", 20))).wait()
            loop_thread = service._thread.ident
            found["rss_base"] = rss_bytes()
            dag = dag_of(case)
            service.register(dag)
            found["rss_dag"] = rss_bytes()
            if case.waits:
                print("ready", flush=True)
                sys.stdin.readline()
            for some in (phases.cpu, phases.wall, phases.calls):
                some.clear()
            trips_before = trips.count[loop_thread] if trips is not None else 0
            workers.waits.clear()
            written = _written()
            cpu = time.process_time()
            began = found["began"] = time.time()
            began_s = time.perf_counter()
            _drive(service, dag, case, found)
            found["seconds"] = time.perf_counter() - began_s
            found["ended"] = began + found["seconds"]
            found["process_cpu"] = time.process_time() - cpu
            found["written"] = _written() - written
            found["rss_peak"] = peak_bytes()
            if trips is not None:
                found["trips"] = trips.count[loop_thread] - trips_before
                found["longest_pause_s"] = trips.longest_pause_s
            found["turns"] = phases.calls["commit"]
            found["commits"] = phases.calls["write"]
            found["cpu"], found["wall"] = dict(phases.cpu), dict(phases.wall)
            found["done"] = workers.done
            waits = sorted(workers.waits) or [0.0]
            found["wait_median_s"] = statistics.median(waits)
            found["wait_p99_s"] = waits[int(len(waits) * 0.99)]
        found["states"] = _states(db)
        found["bytes"] = database_bytes(db)
        return found


def _watch(stack: ExitStack, phases: Phases, *, is_file: bool) -> None:
    from liteflow.execution.choosing import Chooser
    from liteflow.execution.loop import Loop

    phases.time(stack, Loop, "_turn", "turn")
    phases.time(stack, PretendedWorkers, "poll", "poll")
    phases.time(stack, Loop, "_take_events", "core")
    phases.time(stack, Chooser, "choose", "choosing")
    phases.time(stack, Loop, "_settle", "settling")
    phases.time(stack, Loop, "_commit", "commit")
    if is_file:
        from liteflow.storage.engine import Database as Kind
        from liteflow.storage.engine import _Lease as Lease
    else:
        from liteflow.storage.postgres import PostgresDatabase as Kind
        from liteflow.storage.postgres import _Lease as Lease
    stack.enter_context(_recorded(phases, Kind))
    phases.time(stack, Lease, "commit", "write")


@contextmanager
def _recorded(phases: Phases, kind: Any) -> Iterator[None]:
    """Time the loop's transactions apart from those in which runs are made."""
    was = kind.attempt

    def attempt(database: Any, work: Callable[[Any], Any], **options: Any) -> Any:
        name = "recording" if threading.current_thread().name == "liteflow-service" else "creating"
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            return was(database, work, **options)
        finally:
            phases.cpu[name] += time.thread_time() - cpu
            phases.wall[name] += time.perf_counter() - wall

    kind.attempt = attempt
    try:
        yield
    finally:
        kind.attempt = was


def _drive(service: Any, dag: Dag, case: Case, found: dict[str, Any]) -> None:
    began = time.perf_counter()
    if case.kind != "runs":
        handle = service.submit(dag, run_id=f"{case.prefix}0")
        found["create_s"] = time.perf_counter() - began
        found["rss_created"] = rss_bytes()
        _check(handle.wait())
        return
    found["create_s"] = 0.0
    going: deque[Any] = deque()
    for number in range(case.size // case.each):
        if len(going) == case.at_once:
            _check(going.popleft().wait())
        at = time.perf_counter()
        going.append(service.submit(dag, run_id=f"{case.prefix}{number}"))
        found["create_s"] += time.perf_counter() - at
    found["rss_created"] = rss_bytes()
    for handle in going:
        _check(handle.wait())


def _check(run: Any) -> None:
    if run.state != "success":
        raise SystemExit(f"run {run.run_id} is {run.state}")


def _written() -> int:
    """Bytes that this process has given to the system to write, to files and sockets."""
    try:
        with open("/proc/self/io") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_oublock * 512


def _states(db: str) -> dict[str, int]:
    """How many task instances, XComs and lines there are, but for those of the run that warms up."""
    import sqlalchemy as sa

    from liteflow.storage.engine import connect
    from liteflow.storage.tables import DAG, DAG_RUN, LOG_RECORD, TASK_INSTANCE, XCOM

    runs = sa.select(DAG_RUN.c.id).join(DAG, DAG.c.id == DAG_RUN.c.dag_pk).where(DAG.c.dag_id != "mapped-20")
    instances = sa.select(TASK_INSTANCE.c.id).where(TASK_INSTANCE.c.run_pk.in_(runs))
    state = TASK_INSTANCE.c.state
    with connect(db, pooled=False).read() as connection:
        counted = sa.select(state, sa.func.count()).where(TASK_INSTANCE.c.run_pk.in_(runs)).group_by(state)
        found = {str(name): int(count) for name, count in connection.execute(counted)}
        for name, table in (("xcoms", XCOM), ("lines", LOG_RECORD)):
            of_these = sa.select(sa.func.count()).select_from(table).where(table.c.task_instance_pk.in_(instances))
            found[name] = int(connection.scalar(of_these) or 0)
    return found


def database_bytes(db: str) -> dict[str, int]:
    """Bytes of tables and of indexes; of a file of SQLite only the whole."""
    if "://" not in db:
        return {"all": sum(os.path.getsize(db + suffix) for suffix in ("", "-wal") if os.path.exists(db + suffix))}
    import sqlalchemy as sa

    from liteflow.storage.engine import connect

    sizes = (
        "SELECT coalesce(sum(pg_table_size(oid)), 0), coalesce(sum(pg_indexes_size(oid)), 0) FROM pg_class "
        "WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
    )
    with connect(db, pooled=False).read() as connection:
        tables, indexes = connection.execute(sa.text(sizes)).one()
    return {"all": int(tables + indexes), "tables": int(tables), "indexes": int(indexes)}


if __name__ == "__main__":
    print(json.dumps(measure(Case(**json.loads(sys.argv[1])))))
