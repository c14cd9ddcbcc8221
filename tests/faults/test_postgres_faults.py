"""Services that share a history in PostgreSQL: the server is started anew under them, or they are cut off from it.

Nothing is lost, and nothing is recorded twice: what a service was told stays, every run that was begun can be brought
to its end, and of each task instance one try succeeded.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from liteflow import DagRun, ExecutorService
from liteflow.storage.checking import invariants
from liteflow.storage.history import open_history
from tests.conftest import ROOT, wait_until
from tests.crash.harness import report, rounds
from tests.faults import shared_flow
from tests.postgres import Server

SERVICES = rounds(2, 4)
SECONDS = rounds(8, 120)
RESTART_EVERY_S = rounds(3, 10)

pytestmark = pytest.mark.timeout(600)


def start(name: str, url: str, directory: Path, seconds: float, lease_s: float, *before: str) -> subprocess.Popen[str]:
    """A service in a process of its own, on a machine of its own as far as its lock files tell."""
    (directory / f"machine-{name}").mkdir(exist_ok=True)
    numbers = (seconds, lease_s)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(directory / f"machine-{name}")}
    with open(directory / f"{name}.txt", "ab") as output:
        return subprocess.Popen(
            [*before, sys.executable, "-m", "tests.faults.shared_flow", name, url, str(directory), *map(str, numbers)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )


def lines(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finish(url: str, directory: Path) -> None:
    """Bring every run that was begun to its end, with a service that comes afterwards."""
    dag = shared_flow.make(url, str(directory))
    history = open_history(url)
    with ExecutorService(url, dags=[dag], max_workers=2):
        wait_until(lambda: all(run.state.is_terminal for run in history.runs()), "every run is over", timeout_s=120.0)


def check(url: str, directory: Path) -> tuple[int, int]:
    """Nothing is lost, and nothing recorded twice; returns how many runs and tries there were."""
    history = open_history(url)
    with history.read() as connection:
        assert invariants(connection) == []
    runs = {run.run_id: run for run in history.runs(limit=None)}
    told = dict(lines(directory / "told.jsonl"))  # type: ignore[arg-type]
    assert set(told.values()) <= {"success"}
    assert set(told) <= set(runs), "what was told is there"
    assert [_why(run) for run in runs.values() if run.state != "success"] == []
    effects = Counter(tuple(line[:3]) for line in lines(directory / "effects.jsonl"))  # type: ignore[index]
    tries = 0
    for run in runs.values():
        assert run.xcom("total") == shared_flow.VALUE
        instances = [one for one in run.task_instances() if one.task_id == "work"]
        assert len(instances) == shared_flow.WIDTH
        for one in instances:
            assert one.state == "success"
            begun = effects[run.run_id, "work", one.map_index]
            assert 1 <= begun <= one.try_number, "each try has run once at the most, and the last one has"
            tries += one.try_number
        assert "success" not in {str(one.state) for one in run.tries()}, "no try that succeeded was followed by another"
    return len(runs), tries


def _why(run: DagRun) -> str:
    """What became of a run that did not succeed."""
    instances = [
        f"{one.task_id}[{one.map_index}] {one.state} {one.end_reason} {one.error}" for one in run.task_instances()
    ]
    return "; ".join([f"{run.run_id} {run.state} {run.end_reason}", *instances])


def left_by(name: str, url: str, directory: Path) -> list[str]:
    """The runs that a service has begun, and nobody has brought to their end."""
    mine = {run_id for run_id in lines(directory / "submitted.jsonl") if str(run_id).startswith(name)}
    return [run.run_id for run in open_history(url).runs() if run.run_id in mine and not run.state.is_terminal]


def end(programs: list[subprocess.Popen[str]]) -> None:
    for program in programs:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def test_a_server_that_is_started_anew_again_and_again_loses_nothing(own_postgres: Server, tmp_path: Path) -> None:
    with own_postgres.database() as url:
        programs = [start(f"service-{number}", url, tmp_path, SECONDS, 60.0) for number in range(SERVICES)]
        restarts = 0
        try:
            until = time.monotonic() + SECONDS
            pause = wait_for_end_of(programs)
            while time.monotonic() + RESTART_EVERY_S < until:
                pause(RESTART_EVERY_S)
                own_postgres.restart(("fast", "immediate", "kill")[restarts % 3])
                restarts += 1
            for program in programs:
                program.wait(timeout=SECONDS + 120)
            said = "".join(path.read_text() for path in tmp_path.glob("service-*.txt"))
            assert "Traceback" not in said
            assert "LeaseLost" not in said
            finish(url, tmp_path)
            runs, tries = check(url, tmp_path)
            assert runs > SERVICES
        finally:
            end(programs)
    report(f"{SERVICES} services, PostgreSQL started anew {restarts} times", tries, note=f"count: tries in {runs} runs")


def wait_for_end_of(programs: list[subprocess.Popen[str]]) -> Callable[[float], None]:
    """Something that pauses for so many seconds, and fails when a program ends meanwhile."""

    def pause(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for program in programs:
                try:
                    program.wait(timeout=0.1)
                except subprocess.TimeoutExpired:
                    continue
                pytest.fail("a service ended before its time")

    return pause


@contextmanager
def forwarding(address: str, port: int) -> Iterator[None]:
    """Have that address lead to the server, which is on loopback. Who is cut off here is still there for the server."""
    listener = socket.create_server((address, port))
    threads: list[threading.Thread] = []
    sockets: set[socket.socket] = set()

    def start_thread(target: Callable[..., None], *args: socket.socket) -> None:
        threads.append(threading.Thread(target=target, args=args))
        threads[-1].start()

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass  # one of them is gone, and so is the other in a moment
        hang_up(source)
        hang_up(target)

    def hang_up(one: socket.socket) -> None:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is down already

    def serve() -> None:
        while True:
            try:
                far, _ = listener.accept()
            except OSError:
                return
            sockets.add(far)
            try:
                near = socket.create_connection(("127.0.0.1", port))
            except OSError:
                hang_up(far)
                continue
            sockets.add(near)
            start_thread(copy, far, near)
            start_thread(copy, near, far)

    start_thread(serve)
    try:
        yield
    finally:
        for one in (listener, *sockets):
            hang_up(one)
        for thread in threads:
            thread.join()
        for one in (listener, *sockets):
            one.close()


class Network:
    """A network namespace that reaches this host's loopback server over one cable, which can be cut."""

    def __init__(self) -> None:
        self.name = f"lf{secrets.token_hex(3)}"
        number = secrets.randbelow(200) + 20
        self.here, self.there = f"10.213.{number}.1", f"10.213.{number}.2"
        self.cable = f"{self.name}a"
        self._ip("netns", "add", self.name)
        try:
            self._ip("link", "add", self.cable, "type", "veth", "peer", "name", f"{self.name}b")
            self._ip("link", "set", f"{self.name}b", "netns", self.name)
            self._ip("addr", "add", f"{self.here}/24", "dev", self.cable)
            self._ip("link", "set", self.cable, "up")
            for words in (["addr", "add", f"{self.there}/24", "dev", f"{self.name}b"], ["link", "set", "lo", "up"]):
                self._ip("netns", "exec", self.name, "ip", *words)
            self._ip("netns", "exec", self.name, "ip", "link", "set", f"{self.name}b", "up")
        except BaseException:
            self.remove()
            raise

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    def cut(self) -> None:
        """No packet passes from now on, and nobody is told."""
        self._ip("link", "set", self.cable, "down")

    def mend(self) -> None:
        self._ip("link", "set", self.cable, "up")

    def remove(self) -> None:
        subprocess.run(["ip", "link", "del", self.cable], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        made = Network()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces need root and iproute2: {getattr(error, 'stderr', error)}")
    yield made
    made.remove()


def test_a_service_that_is_cut_off_for_longer_than_its_lease_stops_before_another_one_goes_on(
    own_postgres: Server, network: Network, tmp_path: Path
) -> None:
    lease_s = rounds(6, 60)
    rounds_of_cuts = rounds(1, 3)
    with own_postgres.database() as url, forwarding(network.here, own_postgres.port):
        far = url.replace("127.0.0.1", network.here)
        seconds = rounds_of_cuts * (2.2 * lease_s) + 10
        cut_off = start("cut-off", far, tmp_path, seconds, lease_s, "ip", "netns", "exec", network.name)
        near = start("near", url, tmp_path, seconds, lease_s)
        pause = wait_for_end_of([cut_off, near])
        try:
            for _ in range(rounds_of_cuts):
                count = len(lines(tmp_path / "told.jsonl"))
                wait_until(lambda n=count: len(lines(tmp_path / "told.jsonl")) >= n + 4, "both are at work")
                network.cut()
                pause(1.2 * lease_s)
                # A transaction that was open when it was cut off goes on for ten seconds at the server.
                wait_until(lambda: not left_by("cut-off", url, tmp_path), "the other one went on", timeout_s=60.0)
                network.mend()
                pause(0.6 * lease_s)
            for program in (cut_off, near):
                program.wait(timeout=seconds + 120)
            assert "lease" in (tmp_path / "cut-off.txt").read_text()
            assert "Traceback" not in (tmp_path / "cut-off.txt").read_text()
            finish(url, tmp_path)
            runs, tries = check(url, tmp_path)
        finally:
            end([cut_off, near])
    report(
        f"a service cut off {rounds_of_cuts} times for {1.2 * lease_s:g} s", tries, note=f"count: tries in {runs} runs"
    )
