"""A Dask cluster as the engine: whatever runs in slots runs there, and what Dask does by itself is recorded once."""

from __future__ import annotations

import logging
import marshal
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, get_current_context, task
from liteflow.errors import InvalidOptionError, ServiceError
from liteflow.execution.dask_engine import DaskEngine
from liteflow.storage.history import LogEntry
from tests.conftest import ROOT, lines_of, run_python, states_of, wait_until
from tests.dask_cluster import client_of_session

pytestmark = pytest.mark.xdist_group("dask")


@pytest.fixture(scope="module")
def client() -> Any:
    return client_of_session()


@pytest.fixture
def executor(client: Any) -> Any:
    return client.get_executor()


@task
def one() -> int:
    print("one prints")
    logging.getLogger("some.one").info("and logs")
    return 1


@task
def add(x: int, y: int) -> int:
    return x + y


@task
def total(xs: list[int]) -> int:
    return sum(xs)


@task
def pulls() -> list[Any]:
    ti = get_current_context()["ti"]
    return [ti.xcom_pull(task_ids="one"), os.getpid()]


@task(retries=2)
def fails_once(path: str) -> int:
    if get_current_context()["try_number"] == 1:
        raise ValueError("broken on purpose")
    return get_current_context()["try_number"]


@task
def waits_for(path: str) -> str:
    print("it waits")
    while not os.path.exists(path):
        time.sleep(0.01)
    print("it goes on")
    return "done"


@task(timeout=0.3)
def overruns(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


@task
def noted(path: str, item: int) -> int:
    append(path, f"{item} {get_current_context()['try_number']}")
    return item


@task(retries=1)
def dies_once(path: str) -> int:
    number = get_current_context()["try_number"]
    append(path, str(number))
    if number == 1:
        os._exit(3)
    return number


@task
def large(size: int) -> bytes:
    return b"x" * size


@task
def length(data: bytes) -> int:
    return len(data)


def append(path: str, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


def test_a_diamond(db: str, executor: Any) -> None:
    with Dag("diamond", db_path=db) as dag:
        top = one()
        add.override(task_id="bottom")(add(top, 1), add(top, 2))
    run = dag.run(progress=False, executor=executor)
    assert states_of(run) == dict.fromkeys(["one", "add", "add__1", "bottom"], "success")
    assert run.xcom("bottom") == 5
    entries: list[LogEntry] = list(run.logs("one"))
    assert [(entry.message, entry.level, entry.logger) for entry in entries] == [
        ("one prints", None, None),
        ("and logs", logging.INFO, "some.one"),
    ]


def test_the_client_stays_open_and_keeps_nothing(db: str, executor: Any, client: Any) -> None:
    with Dag("twice", db_path=db) as dag:
        one()
    for _ in range(2):
        assert dag.run(progress=False, executor=executor).state == "success"
    assert client.status == "running"
    assert not [key for key in client.futures if "/twice/" in str(key)]


def test_a_wide_dag_comes_whole_through_chunks(db: str, tmp_path: Path, executor: Any) -> None:
    effects = tmp_path / "effects"
    with Dag("wide", db_path=db) as dag:
        total(noted.partial(path=str(effects)).expand(item=list(range(300))))
    run = dag.run(progress=False, executor=executor)
    assert run.xcom("total") == sum(range(300))
    assert sorted(effects.read_text().splitlines()) == sorted(f"{item} 1" for item in range(300))


def test_a_task_pulls_what_another_one_handed_on(db: str, executor: Any) -> None:
    with Dag("pulling", db_path=db) as dag:
        one() >> pulls()
    run = dag.run(progress=False, executor=executor)
    value, pid = run.xcom("pulls")
    assert (value, pid != os.getpid()) == (1, True)


def test_a_try_that_failed_runs_again(db: str, tmp_path: Path, executor: Any) -> None:
    with Dag("retrying", db_path=db) as dag:
        fails_once(str(tmp_path))
    run = dag.run(progress=False, executor=executor)
    assert run.xcom("fails_once") == 2
    assert any("ValueError: broken on purpose" in line for line in lines_of(run, "fails_once"))


def test_values_larger_than_a_message_travel(db: str, executor: Any) -> None:
    with Dag("large", db_path=db) as dag:
        length(large(3_000_000))
    assert dag.run(progress=False, executor=executor).xcom("length") == 3_000_000


def test_lines_are_recorded_while_the_task_runs(db: str, tmp_path: Path, executor: Any) -> None:
    with Dag("watched", db_path=db) as dag:
        waits_for(str(tmp_path / "go"))
    with ExecutorService(db, executor=executor) as service:
        handle = service.submit(dag)
        wait_until(lambda: lines_of(handle.run) == ["it waits"], "no line yet")
        (tmp_path / "go").touch()
        run = handle.wait(20)
    assert lines_of(run) == ["it waits", "it goes on"]


def test_a_timeout_ends_the_try_and_says_that_its_thread_goes_on(db: str, tmp_path: Path, executor: Any) -> None:
    with Dag("late", db_path=db) as dag:
        overruns(str(tmp_path / "go"))
    run = dag.run(progress=False, executor=executor)
    (tmp_path / "go").touch()
    (ti,) = run.task_instances()
    assert (ti.state, ti.end_reason) == ("failed", "timeout")
    assert "Dask cannot stop it: its thread on worker tcp://" in (ti.error or "")


def test_cancel_ends_what_runs_and_what_waits_for_a_worker(db: str, tmp_path: Path, executor: Any) -> None:
    with Dag("cancelled", db_path=db) as dag:
        waits_for.partial().expand(path=[str(tmp_path / "go")] * 6)
    with ExecutorService(db, executor=executor) as service:
        handle = service.submit(dag)
        wait_until(lambda: len(lines_of(handle.run)) == 2, "two do not run")
        handle.cancel()
        run = handle.wait(20)
        (tmp_path / "go").touch()
    assert (run.state, run.end_reason) == ("failed", "cancelled")
    states = sorted(ti.state for ti in run.task_instances())
    assert states == ["failed"] * 2 + ["skipped"] * 4


def test_a_worker_that_dies_crashes_the_try_in_its_hands_only(db: str, tmp_path: Path, executor: Any) -> None:
    ledger = tmp_path / "ledger"
    with Dag("dying", db_path=db) as dag:
        dies_once(str(ledger))
        noted.partial(path=str(tmp_path / "effects")).expand(item=list(range(20)))
    run = dag.run(progress=False, executor=executor)
    assert run.state == "success"
    assert run.xcom("dies_once") == 2
    assert ledger.read_text().split() == ["1", "2"]  # Dask has not run it by itself
    first = run.tries()[0]
    assert (first.state, first.end_reason) == ("failed", "crashed")
    assert "its Dask worker tcp://" in (first.error or "")
    effects = (tmp_path / "effects").read_text().splitlines()
    assert len(set(effects)) == len(effects)  # no try began twice


def test_what_dask_runs_again_by_itself_begins_once(db: str, client: Any) -> None:
    from liteflow.execution.dask_worker import OP, make_plugin

    client.register_plugin(make_plugin(), "liteflow-1")

    async def begins(topic: str, who: str) -> Any:
        return await getattr(client.scheduler, OP)(what="begin", topic=topic, key="k", who=who)

    async def opens(topic: str) -> Any:
        return await getattr(client.scheduler, OP)(what="open", topic=topic, client=client.id)

    client.sync(opens, "t")
    assert [client.sync(begins, "t", who) for who in ("first", "second", "first")] == ["first"] * 3
    assert client.sync(begins, "no such service", "first") is None


def test_a_worker_that_has_the_address_of_a_lost_one_does_not_begin_its_chunks_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from liteflow.execution import dask_worker

    worker = SimpleNamespace(address="tcp://10.0.0.1:9000")
    begun: dict[str, str] = {}
    monkeypatch.setattr("distributed.get_worker", lambda: worker)
    monkeypatch.setattr(dask_worker, "_ask_plugin", lambda *_facts, key, who: begun.setdefault(key, who))
    nothing = marshal.dumps((False, [], []))
    chunk = marshal.dumps((dask_worker.version(), "t", "k", nothing))
    assert dask_worker.run_chunk(chunk) == (None, {})
    assert dask_worker.run_chunk(chunk) == (dask_worker.ELSEWHERE, worker.address)


def test_the_scheduler_forgets_a_service_whose_work_is_killed(client: Any) -> None:
    """So that nothing begins any more, whatever the service's own thread waits for."""
    engine = DaskEngine(client, 1)
    engine.start()
    try:
        engine.kill()
        wait_until(lambda: engine._call_and_wait(what="begin", key="k", who="a worker") is None, "it is forgotten")
    finally:
        engine.close(kill=True)


# What tasks may say to Dask


@task(executor_config={"dask": {"resources": {"GPU": 1}}})
def wants_a_gpu() -> str:
    return "ran"


def test_a_task_that_no_worker_may_run_says_so(
    db: str, executor: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("liteflow.execution.dask_engine.UNPLACED_AFTER_S", 0.2)
    with Dag("hungry", db_path=db) as dag:
        wants_a_gpu()
    with ExecutorService(db, executor=executor) as service:
        handle = service.submit(dag)
        wait_until(lambda: lines_of(handle.run), "nothing is said")
        handle.cancel()
        run = handle.wait(20)
    text = "no Dask worker may run it now, it waits for one: {'resources': {'GPU': 1}}"
    assert lines_of(run) == [text]
    assert [record.getMessage() for record in caplog.records] == [f"task 'wants_a_gpu': {text}"]
    assert states_of(run) == {"wants_a_gpu": "skipped"}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"resource": {"GPU": 1}}, "has 'resource'; it may have resources, workers, priority, allow_other_workers"),
        ({"resources": {"GPU": "1"}}, "resources must be a dict of names and amounts, not {'GPU': '1'}"),
        ({"workers": 3}, "workers must be the address, name or host of a worker, or a list of them, not 3"),
        ({"priority": "high"}, "priority must be a number, not 'high'"),
        ({"allow_other_workers": True}, "allow_other_workers says nothing without workers"),
        ([], "must be a dict, not []"),
    ],
)
def test_what_dask_can_make_nothing_of_is_said_when_the_dag_is_submitted(
    db: str, executor: Any, config: Any, says: str
) -> None:
    with Dag("wrong", db_path=db) as dag:
        one.override(executor_config={"dask": config})()
    with pytest.raises(InvalidOptionError) as caught:
        dag.run(progress=False, executor=executor)
    assert str(caught.value).endswith(says)
    assert "task 'one': executor_config['dask']" in str(caught.value)


def test_what_is_for_other_executors_is_left_alone(db: str, executor: Any) -> None:
    with Dag("theirs", db_path=db) as dag:
        one.override(executor_config={"pod_override": object(), "KubernetesExecutor": {"image": "x"}})()
    assert dag.run(progress=False, executor=executor).state == "success"
    assert dag.run(progress=False).state == "success"


# A cluster of which nothing is ours


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of a scheduler with one worker that has a resource, and runs in a directory of its own."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = "import sys; from distributed.cli.dask_{0} import main; sys.exit(main(sys.argv[1:]))"
    scheduler_file = tmp_path / "scheduler.json"
    common = ["--no-dashboard", "--scheduler-file", str(scheduler_file)]
    started = []
    for what, more in (
        ("scheduler", ["--port", "0", "--host", "127.0.0.1"]),
        ("worker", ["--nthreads", "1", "--no-nanny", "--resources", "GPU=1", "--name", "special"]),
    ):
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", script.format(what), *common, *more],
                cwd=elsewhere,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        wait_until(lambda: scheduler_file.exists() and scheduler_file.read_text().endswith("}"), "no scheduler")
    import json

    yield json.loads(scheduler_file.read_text())["address"].removeprefix("tcp://")
    for process in reversed(started):
        process.kill()
        process.wait()


FLOW = """
import sys
from dataclasses import dataclass

import beside
from liteflow import Dag, task


@dataclass
class Point:
    x: int


@task(executor_config={"dask": {"resources": {"GPU": 1}, "workers": "special"}})
def make():
    import inner.deep
    return Point(beside.double(inner.deep.ONE))


@task
def take(point):
    print("taken", point.x)
    return point.x


with Dag("travelling", db_path="flow.db") as dag:
    take(make())

if __name__ == "__main__":
    run = dag.run(executor="dask://" + sys.argv[1])
    print(run.state, run.xcom("take"))
"""


def test_a_worker_elsewhere_needs_none_of_the_files(tmp_path: Path, address: str) -> None:
    here = tmp_path / "here"
    (here / "inner").mkdir(parents=True)
    (here / "flow.py").write_text(FLOW)
    (here / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    (here / "inner" / "__init__.py").write_text("")
    (here / "inner" / "deep.py").write_text("ONE = 1\n")
    done = run_python("flow.py", address, cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["success", "2"]
    (here / "beside.py").write_text("def double(x):\n    return 20 * x\n")  # the worker lives on
    (here / "flow.py").write_text(FLOW.replace("taken", "has"))
    done = run_python("flow.py", address, cwd=here)
    assert done.stdout.split() == ["success", "20"], done.stderr
    assert "has 20" in done.stderr


def test_a_scheduler_that_is_not_there_is_one_line(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liteflow.execution.dask_engine.CONNECT_S", 0.5)
    with Dag("nowhere", db_path=db) as dag:
        one()
    with pytest.raises(ServiceError, match=r"^no Dask scheduler answers at 127\.0\.0\.1:1: "):
        dag.run(progress=False, executor="dask://127.0.0.1:1")


def test_a_worker_with_another_liteflow_is_one_line(executor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liteflow.__version__", "0.0.1")
    engine = DaskEngine(executor, 2)
    try:
        with pytest.raises(ServiceError, match=r"has liteflow .*, this process 0\.0\.1: they must be the same"):
            engine.start()
    finally:
        engine.close(kill=True)


def test_an_executor_that_was_shut_down_is_one_line(db: str, client: Any) -> None:
    executor = client.get_executor()
    executor.shutdown()
    with pytest.raises(ServiceError, match="was shut down"):
        ExecutorService(db, executor=executor).start()
