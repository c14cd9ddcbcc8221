"""SIGKILL of web workers, each with a service of its own over one file, while requests go on submitting runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tests.conftest import command, wait_until
from tests.crash import ledger
from tests.crash.flows import web
from tests.crash.harness import FLOWS, children, environment, explained, is_full, report, rounds, seeded
from tests.crash.invariants import check_invariants

SUBMITS = rounds(16, 200)
KILL_EVERY_S = 1.0 if is_full() else 0.5
WORK_S = 0.15 if is_full() else 0.05
"""How long each of the four tasks of a run takes."""
PER_SECOND = 2.0 if is_full() else 10.0
"""How many runs are submitted: less than what four workers can do that live for four seconds each."""
WORKERS = 4
DIES_AT = 10
"""Each so many submits kill the worker between the commit and the answer."""

MOST_KILLS = rounds(4, 10_000)
"""More kills than that are a matter of patience: a worker lives for two seconds, and needs one to be there."""

TAKEN_OVER_S = 10.0
"""How long the runs of a dead worker may be nobody's while another service lives, which looks for them each second: the
report tells how long they were; this is for a machine that does ten other things."""

OVER_S = 600.0 if is_full() else 60.0


class Server:
    """gunicorn, whose master starts a worker for each one that dies."""

    def __init__(self, directory: Path, mark: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        arguments = ["--workers", str(WORKERS), "--bind", f"127.0.0.1:{self.port}", "--no-control-socket", "web:app"]
        extra = {"LITEFLOW_TEST_WORK_S": str(WORK_S)}
        env = environment(mark, **extra)
        env["PYTHONPATH"] = f"{FLOWS}{os.pathsep}{env['PYTHONPATH']}"
        with open(directory / "err.txt", "a") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *arguments],
                cwd=directory,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
            )
        self.pid = self._process.pid

    def ask(self, method: str, path: str) -> tuple[int, dict[str, Any]] | None:
        """Status and answer; None if the worker that was asked has died over it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def is_up(self) -> bool:
        return (self.ask("GET", "/") or (0, {}))[0] == 200

    def stop(self) -> int:
        """SIGTERM, as whoever operates it would."""
        self._process.terminate()
        return self._process.wait(60)

    def kill(self) -> None:
        if self._process.poll() is None:
            for pid in children(self.pid):
                os.kill(pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()


class Clients:
    """Submit runs, each with its key until it is accepted."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.accepted: dict[str, int] = {}
        """Key to the worker that accepted it."""
        self.retries = 0

    def submit(self, number: int) -> None:
        """One run. The first answer to some of them is that the worker dies once it has committed the run."""
        die = "&die=1" if number % DIES_AT == 0 else ""
        deadline = time.monotonic() + OVER_S
        while time.monotonic() < deadline:
            answer = self._server.ask("POST", f"/?key=key-{number}&number={number}{die}")
            if answer is not None and answer[0] == 202:
                self.accepted[answer[1]["run"]] = answer[1]["pid"]
                return
            self.retries += 1
            die = ""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Four of them, in threads, while the block runs and until all is submitted."""
        wanted: SimpleQueue[int] = SimpleQueue()
        for number in range(SUBMITS):
            wanted.put(number)
        begun = time.monotonic()

        def work() -> None:
            pause = threading.Event()
            while True:
                try:
                    number = wanted.get_nowait()
                except Empty:
                    return
                pause.wait(max(0.0, begun + number / PER_SECOND - time.monotonic()))
                self.submit(number)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for thread in threads:
                thread.join()


class Killer:
    """Kills workers, and watches in the database how long their runs are nobody's."""

    def __init__(self, server: Server, db_path: Path, dice: random.Random) -> None:
        self._server = server
        self._db_path = db_path
        self._dice = dice
        self.kills = 0
        self.gaps_s: list[float] = []
        """For each run of a dead worker: from the kill to its new owner, or from when there was a service again."""
        self._orphans: dict[int, tuple[int, float]] = {}
        """Run to the dead process that owned it, and when that was killed."""
        self._killed: dict[int, float] = {}
        self._nobody_at = 0.0
        """When there was no living service, last."""

    def work(self) -> int:
        """Kill at intervals until everything is submitted and over; returns how many runs there are."""
        next_kill = time.monotonic() + KILL_EVERY_S
        deadline = time.monotonic() + OVER_S
        pause = threading.Event()
        with closing(sqlite3.connect(self._db_path, isolation_level=None, timeout=60)) as database:
            while True:
                if time.monotonic() >= next_kill and self.kills < MOST_KILLS:
                    self._kill()
                    next_kill += KILL_EVERY_S
                total, unfinished = self._look(database)
                if total == SUBMITS and not unfinished:
                    return total
                assert time.monotonic() < deadline, f"{total} of {SUBMITS} runs are there, {unfinished} not over"
                self._server.is_up()  # a worker begins to drive runs with its first request
                pause.wait(0.01)

    def _kill(self) -> None:
        workers = children(self._server.pid)
        if workers:
            pid = self._dice.choice(workers)
            with contextlib.suppress(ProcessLookupError):  # gunicorn was waiting for it just now
                os.kill(pid, signal.SIGKILL)
                self._killed[pid] = time.monotonic()
                self.kills += 1

    def _look(self, database: sqlite3.Connection) -> tuple[int, int]:
        owners: dict[int, int] = dict(
            database.execute(
                "SELECT r.id, e.pid FROM liteflow_dag_run r JOIN liteflow_executor e ON e.id = r.executor_pk "
                "WHERE r.ended_at IS NULL"
            )
        )
        services = {pid for (pid,) in database.execute("SELECT pid FROM liteflow_executor WHERE ended_at IS NULL")}
        now = time.monotonic()
        if not any(ledger.start_time_of(pid) for pid in services - set(self._killed)):
            self._nobody_at = now
        for run, (pid, killed_at) in list(self._orphans.items()):
            if owners.get(run) != pid:
                self.gaps_s.append(now - max(killed_at, self._nobody_at))
                del self._orphans[run]
        for run, pid in owners.items():
            if pid in self._killed and run not in self._orphans:
                self._orphans[run] = (pid, self._killed[pid])
        (total,) = database.execute("SELECT count(*) FROM liteflow_dag_run").fetchone()
        return total, len(owners)


def test_every_run_ends_once_while_web_workers_are_killed(tmp_path: Path, mark: str) -> None:
    dice = seeded("web workers")
    db_path = tmp_path / "flow.db"
    server = Server(tmp_path, mark)
    try:
        with explained(tmp_path):
            wait_until(server.is_up, "the server answers", timeout_s=60)
            begun = time.monotonic()
            clients, killer = Clients(server), Killer(server, db_path, dice)
            with clients.at_work():
                killer.work()
            took_s = time.monotonic() - begun
            assert server.stop() == 0
            # First: of four that close the file at once none may be the last for SQLite, which then leaves its WAL.
            assert command("db", "check", "--db", str(db_path), cwd=tmp_path).returncode == 0
            check_invariants(db_path, mark=mark)
            crashed = _check_runs(tmp_path, clients.accepted)
    finally:
        server.kill()
    print(f"{killer.kills} kills, {clients.retries} requests again, {crashed} tries crashed, {took_s:.1f} s")
    assert killer.kills >= SUBMITS / PER_SECOND / KILL_EVERY_S - 2
    gaps = sorted(killer.gaps_s) or [0.0]
    note = (
        f"{SUBMITS} runs, {clients.retries} requests sent again, {crashed} tries crashed, {took_s:.0f} s; runs of dead "
        f"workers: {len(killer.gaps_s)}, nobody's for {statistics.median(gaps):.2f} s (median), {gaps[-1]:.2f} s (most)"
    )
    print(note)
    assert gaps[-1] < TAKEN_OVER_S
    report("SIGKILL of a web worker among four", killer.kills, note=note)


def _check_runs(directory: Path, accepted: dict[str, int]) -> int:
    """Each run is there once, succeeded, and holds what it should; returns how many tries crashed."""
    assert set(accepted) == {f"key-{number}" for number in range(SUBMITS)}
    runs = {run.run_id: run for run in web.Dag.load("web", directory / "flow.db").runs()}
    assert set(runs) == set(accepted)
    unwell = [one for run in runs.values() for one in run.task_instances() if one.state != "success"]
    assert not unwell
    assert Counter(str(run.state) for run in runs.values()) == {"success": SUBMITS}
    begun = Counter(one[:4] for one in ledger.effects(directory))
    assert set(begun.values()) == {1}, "no try of a task instance began twice"
    assert not any(one.overlaps for one in ledger.effects(directory)), "no try began while an earlier one lived"
    crashed = 0
    for number in range(SUBMITS):
        run = runs[f"key-{number}"]
        assert ledger.told_of_run(run).xcoms == web.values(number)
        assert {str(one.end_reason) for one in run.tries()} <= {"crashed"}
        crashed += len(run.tries())
        for one in run.task_instances():
            assert (run.run_id, one.task_id, one.map_index, one.try_number) in begun, "what succeeded has begun"
    return crashed
