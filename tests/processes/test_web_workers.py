"""The two web applications of the examples, under the servers that one would run them with, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag
from tests.conftest import ROOT, _environment, command, descendants, wait_until

EXAMPLES = ROOT / "examples"
ENDLESS = 10_000_000
"""Trials that take minutes."""


class Server:
    """A web server over the database `web.db` in the directory."""

    def __init__(self, directory: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self._port = port
        self.process = process

    def connect(self) -> http.client.HTTPConnection:
        """A connection to whichever worker takes it."""
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        """Status and answer."""
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        with closing(self.connect()) as connection:
            text = body if body is None or isinstance(body, str) else json.dumps(body)
            connection.request(method, path, text, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def submit(self, key: str, **params: Any) -> dict[str, Any]:
        """Begin a forecast."""
        status, answer = self.ask("POST", "/forecasts", params, key)
        assert status == 202, answer
        return answer

    def show(self, key: str) -> dict[str, Any]:
        """A forecast."""
        status, answer = self.ask("GET", f"/forecasts/{key}")
        assert status == 200, answer
        return answer

    def over(self, key: str) -> dict[str, Any]:
        """A forecast, once it is over."""

        def is_over() -> dict[str, Any] | None:
            found = self.show(key)
            return found if found["state"] in ("success", "failed") else None

        return wait_until(is_over, f"{key} is over", timeout_s=60)

    def from_another(self, pid: int, path: str) -> dict[str, Any]:
        """The answer of any worker but that one."""

        def ask() -> dict[str, Any] | None:
            status, answer = self.ask("GET", path)
            assert status == 200, answer
            return answer if answer["answered_by"] != pid else None

        return wait_until(ask, "another worker answers")

    def is_up(self) -> bool:
        try:
            return self.ask("GET", "/forecasts")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> int:
        """SIGTERM, as whoever operates it would."""
        self.process.terminate()
        return self.process.wait(30)

    def said(self) -> str:
        """What it printed."""
        return (self.directory / "server.txt").read_text()


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server as a process of its own; afterwards it is stopped, and nothing of it is left."""
    before = descendants()
    servers: list[Server] = []

    def start_one(*arguments: str, bind: str) -> Server:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with open(tmp_path / "server.txt", "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments, *bind.format(port=port).split()],
                cwd=tmp_path,
                env=_environment({"LITEFLOW_DB": str(tmp_path / "web.db")}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        server = Server(tmp_path, port, process)
        servers.append(server)
        try:
            wait_until(server.is_up, "the server answers", timeout_s=60)
        except BaseException:
            print(server.said())
            raise
        return server

    try:
        yield start_one
    finally:
        for server in servers:
            if server.process.poll() is None:
                try:
                    server.stop()
                except subprocess.TimeoutExpired:
                    for pid in descendants() - before:
                        os.kill(pid, 9)
                    raise
            print(server.said())
    wait_until(lambda: not (descendants() - before), "processes left behind")
    done = command("db", "check", "--db", str(tmp_path / "web.db"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def gunicorn(start: Start, *options: str, workers: int = 4) -> Server:
    """The Flask application."""
    arguments = ["gunicorn", "--chdir", str(EXAMPLES), "--workers", str(workers), "--threads", "4"]
    return start(*arguments, "--no-control-socket", *options, bind="--bind 127.0.0.1:{port} flask_app:app")


def uvicorn(start: Start, *options: str) -> Server:
    """The FastAPI application."""
    arguments = ["uvicorn", "--app-dir", str(EXAMPLES), "--timeout-graceful-shutdown", "5"]
    return start(*arguments, *options, bind="--port {port} fastapi_app:app")


def events_of(stream: http.client.HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    """The server-sent events of a stream: kind and data of each."""
    kind = ""
    for line in stream:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_any_of_four_flask_workers_tells_about_a_run_of_another(start: Start, options: tuple[str, ...]) -> None:
    server = gunicorn(start, *options)
    begun = server.submit("ada", savings=400_000, years=25, trials=500)
    assert begun["answered_by"] == begun["driven_by"]
    ended = server.from_another(begun["answered_by"], "/forecasts/ada?wait_s=20")
    assert (ended["state"], ended["driven_by"]) == ("success", begun["driven_by"])
    assert ended["params"] == {"savings": 400_000, "yearly_spending": 25_000, "years": 25, "trials": 500}
    assert ended["result"]["trials"] == 4_000
    assert 0.3 < ended["result"]["chance"] < 0.6
    assert server.submit("ada", savings=400_000, years=25, trials=500)["state"] == "success"
    assert [one["id"] for one in server.ask("GET", "/forecasts")[1]["forecasts"]] == ["ada"]
    assert server.stop() == 0
    assert "Traceback" not in server.said()


def test_a_run_is_cancelled_through_another_flask_worker(start: Start) -> None:
    server = gunicorn(start, workers=2)
    begun = server.submit("long", trials=ENDLESS)
    server.from_another(begun["answered_by"], "/forecasts/long")
    assert server.ask("POST", "/forecasts/long/cancel")[0] == 202
    ended = server.over("long")
    assert (ended["state"], ended["end_reason"], ended["result"]) == ("failed", "cancelled", None)
    status, answer = server.ask("POST", "/forecasts/long/cancel")
    assert (status, answer) == (409, {"error": "forecast long is over: failed"})
    assert [one["id"] for one in server.ask("GET", "/forecasts?state=failed")[1]["forecasts"]] == ["long"]


def test_flask_refuses_with_words_of_json(start: Start) -> None:
    server = gunicorn(start, workers=1)
    server.submit("ada", trials=1)
    assert server.ask("GET", "/forecasts/nobody") == (404, {"error": "there is no forecast 'nobody'"})
    assert server.ask("POST", "/forecasts/nobody/cancel")[0] == 404
    assert server.ask("GET", "/elsewhere")[0] == 404
    status, answer = server.ask("POST", "/forecasts", {"saving": 1})
    assert (status, "did you mean 'savings'?" in answer["error"]) == (400, True)
    status, answer = server.ask("POST", "/forecasts", {"years": 0})
    assert (status, "'years'" in answer["error"]) == (400, True)
    assert server.ask("POST", "/forecasts", {}, "two words")[0] == 400
    assert server.ask("POST", "/forecasts", [])[0] == 400
    assert server.ask("POST", "/forecasts", "{")[0] == 400
    assert server.ask("GET", "/forecasts?state=lost")[0] == 400
    status, answer = server.ask("POST", "/forecasts", {"trials": 2}, "ada")
    assert (status, "with other params" in answer["error"]) == (409, True)
    assert [one["id"] for one in server.ask("GET", "/forecasts")[1]["forecasts"]] == ["ada"], "nothing else was begun"


def test_a_run_of_a_flask_worker_that_is_told_to_end_goes_on_in_another(start: Start) -> None:
    server = gunicorn(start, workers=2)
    begun = server.submit("ada", trials=20_000)
    server.from_another(begun["answered_by"], "/forecasts/ada")
    os.kill(begun["driven_by"], 15)
    ended = server.over("ada")
    assert ended["state"] == "success"
    assert ended["driven_by"] != begun["driven_by"]
    run = Dag.load("forecasts", server.directory / "web.db").runs()[0]
    assert not [one for one in run.tries() if one.end_reason == "crashed"], "it was stopped in good order"


def test_fastapi_streams_what_happens_to_the_end(start: Start) -> None:
    server = uvicorn(start)
    server.submit("ben", trials=2_000)
    with closing(server.connect()) as connection:
        connection.request("GET", "/forecasts/ben/events")
        stream = connection.getresponse()
        assert (stream.status, stream.getheader("Content-Type")) == (200, "text/event-stream; charset=utf-8")
        events = list(events_of(stream))
    assert events[-1][0] == "end"
    assert (events[-1][1]["state"], events[-1][1]["result"]["trials"]) == ("success", 16_000)
    assert events[-2] == ("run", {"state": "success"})
    succeeded = [
        (one["task"], one["map_index"]) for kind, one in events if kind == "task" and one["state"] == "success"
    ]
    assert sorted(succeeded) == [*(("simulate", number) for number in range(8)), ("summarise", -1)]
    with closing(server.connect()) as connection:  # once more, of a run that is over
        connection.request("GET", "/forecasts/ben/events")
        assert list(events_of(connection.getresponse()))[-1][0] == "end"


def test_a_client_of_fastapi_that_goes_away_changes_nothing_and_leaves_no_task(start: Start) -> None:
    server = uvicorn(start)
    server.submit("long", trials=ENDLESS)
    _, before = server.ask("GET", "/health")
    for _ in range(3):
        connection = server.connect()
        connection.request("GET", "/forecasts/long/events")
        assert next(events_of(connection.getresponse())) == ("run", {"state": "running"})
        connection.close()
    wait_until(lambda: server.ask("GET", "/health")[1]["tasks"] <= before["tasks"], "no stream is left")
    assert server.show("long")["state"] == "running"
    with closing(server.connect()) as connection:  # and of who stays, the stream ends as the run does
        connection.request("GET", "/forecasts/long/events")
        events = events_of(connection.getresponse())
        next(events)
        assert server.ask("POST", "/forecasts/long/cancel")[0] == 202
        kind, last = list(events)[-1]
    assert (kind, last["state"], last["end_reason"]) == ("end", "failed", "cancelled")
    assert "Traceback" not in server.said()


def test_fastapi_refuses_with_words_of_json(start: Start) -> None:
    server = uvicorn(start)
    server.submit("ben", trials=1)
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        assert server.ask(method, f"/forecasts/nobody{path}") == (404, {"detail": "there is no forecast 'nobody'"})
    status, answer = server.ask("POST", "/forecasts", {"saving": 1})
    assert (status, "did you mean 'savings'?" in answer["detail"]) == (400, True)
    status, answer = server.ask("POST", "/forecasts", {"years": 0})
    assert (status, "'years'" in answer["detail"]) == (400, True)
    assert server.ask("POST", "/forecasts", {}, "two words")[0] == 400
    assert server.ask("POST", "/forecasts", [])[0] == 422
    assert server.ask("GET", "/forecasts?state=lost")[0] == 422
    status, answer = server.ask("POST", "/forecasts", {"trials": 2}, "ben")
    assert (status, "with other params" in answer["detail"]) == (409, True)
    assert server.over("ben")["state"] == "success"
    assert server.ask("POST", "/forecasts/ben/cancel")[0] == 409
    assert [one["id"] for one in server.ask("GET", "/forecasts")[1]["forecasts"]] == ["ben"], "nothing else was begun"


def test_any_of_two_fastapi_workers_streams_a_run_of_the_other(start: Start) -> None:
    server = uvicorn(start, "--workers", "2")
    begun = server.submit("ben", trials=20_000)
    server.from_another(begun["answered_by"], "/forecasts/ben")

    def from_another() -> list[tuple[str, dict[str, Any]]] | None:
        with closing(server.connect()) as connection:
            connection.request("GET", "/forecasts/ben/events")
            events = list(events_of(connection.getresponse()))
            return events if events[-1][1]["answered_by"] != begun["answered_by"] else None

    events = wait_until(from_another, "the other worker streams it", timeout_s=60)
    assert (events[-1][0], events[-1][1]["state"]) == ("end", "success")
    assert sum(one["state"] == "success" for kind, one in events if kind == "task") == 9
