"""The executor service as applications use it: priorities, limits of runs, stopping, events, results, asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, RunEvent, RunHandle, SkipTask, task
from liteflow.errors import (
    InvalidOptionError,
    NotFoundError,
    ParamError,
    RunInterruptedError,
    ServiceError,
    TaskFailedError,
)
from tests.conftest import Script, command, states_of, wait_until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@task
def say(said: str, word: str) -> str:
    with open(said, "a") as file:
        file.write(word + " ")
    return word


@task
def hold(directory: str, name: str) -> str:
    """Ends once there is a file `go`, or one of its own name with `.go`."""
    Path(directory, f"{name}.begun").touch()
    wait_until(lambda: any(Path(directory, go).exists() for go in ("go", f"{name}.go")), name, timeout_s=60)
    return name


@task
def double(n: int) -> int:
    if n == 13:
        raise ValueError("unlucky")
    return 2 * n


@task
def skip() -> None:
    raise SkipTask("not today")


class Held:
    """A dag whose one task holds until it is told; each run gets its name as a param."""

    def __init__(self, db: str, directory: Path, **options: object) -> None:
        self.directory = directory
        with Dag("held", db_path=db, params={"name": ""}, **options) as self.dag:  # type: ignore[arg-type]
            hold.override(kill_grace_s=0)(str(directory), self.dag.param("name"))

    def submit(self, service: ExecutorService, name: str, *, priority: int = 0) -> RunHandle:
        return service.submit(self.dag, {"name": name}, run_id=name, priority=priority)

    def begun(self) -> set[str]:
        return {path.stem for path in self.directory.glob("*.begun")}

    def wait_for(self, *names: str) -> None:
        wait_until(lambda: self.begun() >= set(names), f"{names} have begun")

    def let_go(self, *names: str) -> None:
        for name in names or [""]:
            (self.directory / (f"{name}.go" if name else "go")).touch()


# Several runs


def test_runs_with_a_greater_priority_go_first_and_those_of_one_take_turns(db: str, tmp_path: Path) -> None:
    held, said = Held(db, tmp_path), tmp_path / "said"
    with Dag("three", db_path=db, params={"word": ""}) as dag:
        for number in range(3):
            say.override(task_id=f"say{number}")(str(said), dag.param("word"))
    with ExecutorService(db, max_workers=1) as service:
        held.submit(service, "first")
        held.wait_for("first")
        for word, priority in (("low", -1), ("a", 0), ("b", 0), ("high", 7)):
            service.submit(dag, {"word": word}, run_id=word, priority=priority)
        held.let_go()
    words = said.read_text().split()
    assert words[:3] == ["high"] * 3
    assert words[-3:] == ["low"] * 3
    assert sorted(words[3:9]) == ["a"] * 3 + ["b"] * 3
    assert words[3:9] != sorted(words[3:9]), "they share the slot"
    assert [run.priority for run in dag.runs()] == [7, 0, 0, -1]


@pytest.mark.parametrize("priority", [1.0, True, "1", 2**31])
def test_a_priority_is_a_whole_number(db: str, tmp_path: Path, priority: object) -> None:
    with ExecutorService(db, max_workers=1) as service, pytest.raises(ServiceError, match="must be a whole number"):
        service.submit(Held(db, tmp_path).dag, priority=priority)  # type: ignore[arg-type]


def test_no_more_runs_go_on_than_the_dag_allows_and_the_others_wait_as_queued(db: str, tmp_path: Path) -> None:
    held = Held(db, tmp_path, max_active_runs=2)
    with ExecutorService(db, max_workers=4) as service:
        handles = {name: held.submit(service, name) for name in "abcd"}
        held.wait_for("a", "b")
        urgent = held.submit(service, "urgent", priority=1)
        assert [str(handles[name].state) for name in "abcd"] == ["running", "running", "queued", "queued"]
        held.let_go("a")
        held.wait_for("urgent")
        assert held.begun() == {"a", "b", "urgent"}, "the one with the greatest priority came next"
        held.let_go()
        assert urgent.wait(30).state == "success"
    assert {str(run.state) for run in held.dag.runs()} == {"success"}
    began = {run.run_id: run.started_at for run in held.dag.runs()}
    assert began["c"] < began["d"]  # type: ignore[operator]


def test_the_limit_of_runs_holds_over_services_and_a_run_that_waits_can_be_cancelled(db: str, tmp_path: Path) -> None:
    held = Held(db, tmp_path, max_active_runs=1)
    with ExecutorService(db, max_workers=1) as one, ExecutorService(db, max_workers=1) as other:
        held.submit(one, "a")
        held.wait_for("a")
        handles = [held.submit(other, name) for name in "bc"]
        with pytest.raises(TimeoutError):
            handles[0].wait(0.3)
        asked = command("why", "held/b", "--db", db, cwd=tmp_path)
        assert asked.stdout.splitlines() == [
            "held/b queued: 1 pending",
            "it has not begun",
            "hold pending: the run has not begun: its dag's max_active_runs, and held/a goes on",
        ]
        assert [str(handle.state) for handle in handles] == ["queued", "queued"]
        handles[0].cancel()
        assert (handles[0].wait(30).end_reason, held.begun()) == ("cancelled", {"a"})
        held.let_go()
        assert handles[1].wait(30).state == "success"


def test_an_interrupted_run_keeps_no_other_from_beginning_and_waits_for_its_turn(db: str, tmp_path: Path) -> None:
    held = Held(db, tmp_path, max_active_runs=1)
    with ExecutorService(db, max_workers=1) as first:
        left = held.submit(first, "left")
        held.wait_for("left")
        first.stop(0)
    assert left.run.state == "running", "it is interrupted"
    with ExecutorService(db, max_workers=1, recover=False) as second:
        held.submit(second, "next")
        held.wait_for("next")
        with ExecutorService(db, dags=[held.dag], max_workers=1) as third:
            with pytest.raises(TimeoutError):
                third.handle(held.dag, "left").wait(1.5)  # it is looked at once a second
            held.let_go()
            assert third.handle(held.dag, "left").wait(30).state == "success"


def test_a_limit_of_runs_that_is_none_is_refused() -> None:
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(InvalidOptionError, match="max_active_runs"):
            Dag("d", max_active_runs=wrong)  # type: ignore[arg-type]


def test_a_dag_that_is_registered_stays_known_however_many_others_are_submitted(
    db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liteflow.execution.service.MOST_PREPARED_DAGS", 2)
    held = Held(db, tmp_path)
    with ExecutorService(db, max_workers=1) as first:
        held.submit(first, "left")
        held.wait_for("left")
        first.stop(0)
    held.let_go()
    with ExecutorService(db, max_workers=1, recover=False) as service:
        service.register(held.dag)
        for number in range(4):
            with Dag(f"d{number}", db_path=db) as dag:
                double(number)
            assert service.submit(dag, run_id="r").wait(30).state == "success"
        assert service.handle("held", "left").wait(30).state == "success"
        with pytest.raises(TimeoutError):  # of a dag that it does not know it waits for somebody else
            left = service.handle("d0", "r")
            left.run.clear("double")
            left.wait(0.2)


# Stopping


def test_stopping_gives_what_runs_its_time_and_leaves_the_run_to_be_taken_up(db: str, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with Dag("two", db_path=db) as dag:
        hold(str(tmp_path), "first") >> say(str(said), "second")
    service = ExecutorService(db, max_workers=1).start()
    handle = service.submit(dag, run_id="r")
    wait_until((tmp_path / "first.begun").exists, "the first task runs")
    stopping = threading.Thread(target=service.stop, args=(30,))
    stopping.start()
    (tmp_path / "go").touch()
    with pytest.raises(RunInterruptedError, match="its service was stopped"):
        handle.wait(30)
    stopping.join()
    service.stop()
    assert (states_of(handle.run)["hold"], said.exists()) == ("success", False)
    with ExecutorService(db, dags=[dag], max_workers=1) as other:
        assert other.handle("two", "r").wait(30).state == "success"
    assert [one.try_number for one in handle.run.task_instances()] == [1, 1]


def test_stopping_without_a_grace_ends_what_runs_at_once(db: str, tmp_path: Path) -> None:
    held = Held(db, tmp_path)
    service = ExecutorService(db, max_workers=1).start()
    handle = held.submit(service, "r")
    held.wait_for("r")
    service.stop(0)
    assert handle.run.task_instances()[0].state == "queued"
    with pytest.raises(RunInterruptedError):
        handle.wait()
    with pytest.raises(RunInterruptedError):
        list(handle.events())


# Events


def told(event: RunEvent) -> str:
    where = "" if event.task_id is None else event.task_id + (f"[{event.map_index}]" if event.map_index >= 0 else "")
    return f"{where or 'run'} {event.state}"


def test_events_tell_each_change_in_order_and_end_with_the_run(db: str, tmp_path: Path) -> None:
    with Dag("d", db_path=db) as dag:
        first = hold(str(tmp_path), "first")
        double.override(retries=1, retry_delay=0).partial().expand(n=[1, 13])
        first >> say(str(tmp_path / "said"), "last")
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag, run_id="r")
        events = iter(handle.events())
        begun = [told(next(events))]
        (tmp_path / "go").touch()
        words = begun + [told(event) for event in events]
        again = [told(event) for event in handle.events()]
    assert (words[0], words[-1]) == ("run running", "run failed")
    of_last = [word for word in words if word.startswith("say ")]
    assert of_last[-2:] == ["say running", "say success"]
    assert words.index("hold success") < words.index("say running")
    unlucky = [word for word in words if word.startswith("double[1] ") and "queued" not in word]
    assert unlucky == [f"double[1] {state}" for state in ("running", "up_for_retry", "running", "failed")]
    assert again == ["hold success", "double[0] success", "double[1] failed", "say success", "run failed"]


def test_events_of_a_run_in_another_process_come_from_the_database(db: str, tmp_path: Path) -> None:
    held = Held(db, tmp_path)
    with ExecutorService(db, max_workers=1) as service, ExecutorService(db, max_workers=1) as other:
        held.submit(service, "r")
        events = iter(other.handle("held", "r").events())
        words = [told(next(events))]
        held.wait_for("r")
        while words[-1] != "hold running":
            words.append(told(next(events)))
        held.let_go()
        words += [told(event) for event in events]
    assert words[-2:] == ["hold success", "run success"]
    assert set(words) <= {"run queued", "run running", "hold queued", "hold running", "hold success", "run success"}
    assert len(words) == len(set(words))


def test_whoever_waits_for_a_run_goes_on_with_it_when_its_owner_dies(
    script: Callable[..., Script], tmp_path: Path
) -> None:
    flow = script(
        "import os, time\nfrom liteflow import Dag, task\n@task(kill_grace_s=0)\ndef wait():\n"
        "    there = os.path.dirname(__file__)\n    open(f'{there}/begun', 'w').close()\n"
        "    while not os.path.exists(f'{there}/go'):\n        time.sleep(0.01)\n    return 7\n"
        "with Dag('lent', db_path='l.db') as dag:\n    wait()\n"
        "if __name__ == '__main__':\n    dag.run(run_id='r')\n",
        "lent.py",
    )
    process = flow.start()
    wait_until((tmp_path / "begun").exists, "the task runs")
    from liteflow.cli.dagfile import load_dag

    dag = load_dag(str(tmp_path / "lent.py"))
    with ExecutorService(tmp_path / "l.db", max_workers=1) as service:
        handle = service.handle(dag, "r")
        events = iter(handle.events())
        assert [told(next(events)), told(next(events))] == ["run running", "wait running"]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (tmp_path / "go").touch()
        words = [told(event) for event in events]
        assert (words[-1], handle.result("wait")) == ("run success", 7)
        assert handle.run.tries()[0].end_reason == "crashed"


# Results


def test_the_result_of_a_task_is_there_before_the_run_is_over(db: str, tmp_path: Path) -> None:
    with Dag("d", db_path=db) as dag:
        say(str(tmp_path / "said"), "word")
        double.expand(n=[1, 2, 3])
        skip()
        double.override(task_id="odd").expand(n=[13, 14])
        hold(str(tmp_path), "last")
    with ExecutorService(db, max_workers=2) as service:
        handle = service.submit(dag)
        assert handle.result("say", timeout=30) == "word"
        assert handle.result("double", timeout=30) == [2, 4, 6]
        assert handle.result("double", 1) == 4
        with pytest.raises(TaskFailedError, match=r"task 'skip' of run .* of dag 'd' is skipped") as failure:
            handle.result("skip", timeout=30)
        assert (failure.value.task_id, failure.value.state) == ("skip", "skipped")
        with pytest.raises(TaskFailedError, match=r"'odd\[0\]' .* is failed: ValueError: unlucky"):
            handle.result("odd", timeout=30)
        with pytest.raises(TimeoutError, match="task 'hold' of run"):
            handle.result("hold", timeout=0.05)
        assert handle.state == "running"
        with pytest.raises(NotFoundError, match="did you mean 'double'"):
            handle.result("doubel")
        (tmp_path / "go").touch()
    assert handle.result("odd", 1) == 28, "also once the service has stopped"


def test_a_handle_is_had_by_dag_and_run_id(db: str, tmp_path: Path) -> None:
    held = Held(db, tmp_path)
    held.let_go()
    with ExecutorService(db, max_workers=1) as service:
        held.submit(service, "r").wait(30)
        assert service.handle("held", "r").state == service.handle(held.dag, "r").state == "success"
        with pytest.raises(NotFoundError, match="no run 'x' of dag 'held'"):
            service.handle("held", "x")


# asyncio


def test_a_run_is_awaited_while_the_event_loop_goes_on(db: str, tmp_path: Path) -> None:
    held = Held(db, tmp_path)

    async def main() -> None:
        running = asyncio.ensure_future(held.dag.arun({"name": "r"}, run_id="r"))
        while not held.begun():
            await asyncio.sleep(0.01)
        held.let_go()
        assert (await running).state == "success"

    asyncio.run(main())


def test_cancelling_the_task_that_waits_cancels_the_run(db: str, tmp_path: Path) -> None:
    held = Held(db, tmp_path)

    async def begun(name: str) -> None:
        while name not in held.begun():
            await asyncio.sleep(0.01)

    async def main() -> None:
        running = asyncio.ensure_future(held.dag.arun({"name": "a"}, run_id="a"))
        await begun("a")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert held.dag.latest_run().end_reason == "cancelled"  # type: ignore[union-attr]
        with ExecutorService(db, max_workers=1) as service, ExecutorService(db, max_workers=1) as other:
            handle = await service.asubmit(held.dag, {"name": "b"}, run_id="b")
            await begun("b")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(handle), 0.05)
            assert handle.state == "running", "a shield keeps it from that"
            waiting = asyncio.ensure_future(_await(other.handle("held", "b")))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await handle).end_reason == "cancelled"

    asyncio.run(main())


async def _await(handle: RunHandle) -> object:
    return await handle


def test_events_are_told_to_a_coroutine_whichever_process_drives_the_run(db: str, tmp_path: Path) -> None:
    held = Held(db, tmp_path)

    async def words_of(handle: RunHandle) -> list[str]:
        found = []
        async for event in handle.events():
            found.append(told(event))
            if event.task_id is not None:
                held.let_go()
        return found

    async def main() -> None:
        with ExecutorService(db, max_workers=1) as service, ExecutorService(db, max_workers=1) as other:
            handle = await service.asubmit(held.dag, {"name": "r"}, run_id="r")
            mine, theirs = await asyncio.gather(words_of(handle), words_of(other.handle("held", "r")))
            assert mine[-2:] == theirs[-2:] == ["hold success", "run success"]
            assert (await other.handle("held", "r")).state == "success"
            breaking = service.submit(held.dag, {"name": "s"}, run_id="s")
            async for _ in breaking.events():
                break  # leaving off changes nothing
            assert (await breaking).state == "success"

    asyncio.run(main())


def test_what_takes_its_time_is_not_done_in_the_thread_of_the_event_loop(
    db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from liteflow.execution.events import Feed

    held, threads, look = Held(db, tmp_path), set[int](), Feed._look

    def noted(self: Feed) -> list[RunEvent]:
        threads.add(threading.get_ident())
        return look(self)

    async def main() -> None:
        held.let_go()
        async with ExecutorService(db, max_workers=1) as service, ExecutorService(db, max_workers=1) as other:
            handle = await service.asubmit(held.dag, {"name": "r"}, run_id="r")
            await handle
            for one in (handle, other.handle("held", "r")):
                assert [told(event) async for event in one.events()][-1] == "run success"

    prepare = ExecutorService._prepare

    def preparing(self: ExecutorService, *args: Any, **more: Any) -> object:
        threads.add(threading.get_ident())
        return prepare(self, *args, **more)

    monkeypatch.setattr(Feed, "_look", noted)
    asyncio.run(main())
    monkeypatch.setattr(ExecutorService, "_prepare", preparing)
    asyncio.run(held.dag.arun({"name": "s"}))
    assert threads
    assert threading.get_ident() not in threads


def test_what_goes_wrong_is_raised_where_it_is_awaited(db: str, tmp_path: Path) -> None:
    held = Held(db, tmp_path)

    async def main() -> None:
        with pytest.raises(ParamError):
            await held.dag.arun({"nome": "x"})
        service = ExecutorService(db, max_workers=1).start()
        handle = await service.asubmit(held.dag, {"name": "r"})
        await asyncio.to_thread(service.stop, 0)
        with pytest.raises(RunInterruptedError):
            await handle
        with pytest.raises(RunInterruptedError):
            async for _ in handle.events():
                pass
        with pytest.raises(ServiceError):
            await service.asubmit(held.dag, {"name": "s"})

    asyncio.run(main())


def test_the_event_loop_is_not_held_up_beside_a_run(db: str) -> None:
    """How long it is at most is measured in the benchmarks."""
    with Dag("many", db_path=db) as dag:
        double.expand(n=[n for n in range(300) if n != 13])
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    async def main() -> None:
        turning = asyncio.ensure_future(turn())
        run = await dag.arun(max_workers=1)
        turning.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await turning
        assert run.state == "success"

    asyncio.run(main())
    assert turns > 20
