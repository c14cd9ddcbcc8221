"""`liteflow watch`: what it reads of a run, the picture that it draws, the lines that it prints, how it ends."""

from __future__ import annotations

import json
import os
import random
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import bindparam, case, func, select, update

from liteflow.cli import watch as watching_command
from liteflow.execution import following, watching
from liteflow.execution.live import SHORTEST, picture
from liteflow.execution.liveness import OwnLock
from liteflow.execution.places import lock_directory
from liteflow.execution.processes import start_time_of
from liteflow.execution.watching import Tallies, Watch
from liteflow.states import RunState
from liteflow.states import TaskInstanceState as S
from liteflow.storage import recording, tables
from liteflow.storage.engine import DRIVER
from liteflow.storage.history import DagRun, open_history
from liteflow.storage.recording import DagFacts, TaskFacts
from liteflow.storage.schema import open_database
from liteflow.storage.watching import _CODES, _PLACES, state_codes, usual_duration
from tests import conftest
from tests.conftest import beside, command, told

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
NOW_US = tables.to_microseconds(NOW)


def make_run(db: str, name: str, *, mapped: int = 5) -> DagRun:
    """A run of `extract`, `check` and the mapped `count`, driven by this process if it holds the lock `name`."""
    with open_database(db, create=True, pooled=False).write() as connection:
        dag_pk = recording.record_dag(connection, DagFacts("etl", None, (), "{}", "flow.py", "x"), 1)
        owner = recording.record_executor(connection, name, socket.gethostname(), start_time_of(os.getpid()), 1)
        count = connection.execute(select(func.count()).select_from(tables.DAG_RUN)).scalar_one()
        pk, _ = recording.create_run(
            connection,
            dag_pk,
            run_id=name,
            logical_date=tables.from_microseconds(count),
            params_json="{}",
            structure_digest="x",
            tasks=[
                TaskFacts("extract", [], "all_success"),
                TaskFacts("check", ["extract"], "all_success"),
                TaskFacts("count", ["extract"], "all_success", range(mapped) if mapped else (-1,)),
            ],
            executor_pk=owner,
            now_us=count + 1,
        )
        started = tables.from_microseconds(NOW_US - 90_000_000)
        connection.execute(
            update(tables.DAG_RUN).where(tables.DAG_RUN.c.id == pk).values(state=RunState.RUNNING, started_at=started)
        )
    return open_history(db).find_run(f"etl/{name}")


@pytest.fixture
def run(db: str) -> Iterator[DagRun]:
    made = make_run(db, "r1")
    lock = OwnLock(made.history.database.path, "r1")
    yield made
    lock.release()


def change(run: DagRun, task_id: str, state: S, *, index: int | None = None, **columns: object) -> None:
    """Some task instances stand elsewhere now."""
    values = {"state": str(state), "try_number": 1, **columns}
    if state is S.RUNNING:
        values = {"started_at": NOW_US - 4_000_000, "slot": 1, **values}
    elif state.is_terminal:
        values = {"started_at": NOW_US - 4_000_000, "ended_at": NOW_US - 1_000_000, **values}
    ti = tables.TASK_INSTANCE.c
    those = [ti.run_pk == run.pk, ti.task_id == task_id, *([] if index is None else [ti.map_index == index])]
    with run.history.database.write() as connection:
        connection.execute(update(tables.TASK_INSTANCE).where(*those).values(values))


def end(run: DagRun, state: RunState) -> None:
    with run.history.database.write() as connection:
        recording.end_run(connection, run.pk, state, None, NOW_US)


# What is read


def test_what_moved_is_told_once_and_counted(run: DagRun) -> None:
    tallies = Tallies()

    def look() -> list[tuple[str, int, str, str | None]]:
        with run.history.read() as connection:
            moved = tallies.update(connection, run.pk)
        return [
            (one.place.task_id, one.place.map_index, str(one.state), one.before and str(one.before)) for one in moved
        ]

    assert len(look()) == 7
    assert look() == []
    change(run, "extract", S.SUCCESS)
    change(run, "count", S.RUNNING, index=3)
    assert look() == [("count", 3, "running", "pending"), ("extract", -1, "success", "pending")]
    assert look() == []
    assert tallies.counts == {S.SUCCESS: 1, S.RUNNING: 1, S.PENDING: 5}
    assert (tallies.mapped, tallies.counts_of("count")) == (["count"], {S.RUNNING: 1, S.PENDING: 4})
    assert [(one.task_id, one.map_index) for one in tallies.instances(S.RUNNING)] == [("count", 3)]


def test_an_expansion_is_seen(db: str) -> None:
    run = make_run(db, "r1", mapped=0)
    tallies = Tallies()
    with run.history.read() as connection:
        tallies.update(connection, run.pk)
    assert tallies.mapped == []
    change(run, "check", S.RUNNING)
    with run.history.database.write() as connection:
        pk = run.task_instance("count").pk
        recording.expand_instance(connection, run.pk, pk, TaskFacts("count", ["extract"], "all_success"), 4)
    with run.history.read() as connection:
        moved = tallies.update(connection, run.pk)
    assert [(one.place.task_id, one.place.map_index, one.before) for one in moved] == [
        ("check", -1, S.PENDING),
        ("count", 1, None),
        ("count", 2, None),
        ("count", 3, None),
    ]
    assert tallies.counts_of("count") == {S.PENDING: 4}


def test_tallies_are_those_of_all_rows_whatever_happened(db: str) -> None:
    run = make_run(db, "r1", mapped=1500)
    tallies, rng = Tallies(), random.Random(6)
    for _ in range(8):
        changes = [
            {"to": str(rng.choice(list(S))), "those": rng.randrange(1500)} for _ in range(rng.choice([1, 40, 700]))
        ]
        with run.history.database.write() as connection:
            ti = tables.TASK_INSTANCE
            connection.execute(
                update(ti).where(ti.c.map_index == bindparam("those")).values(state=bindparam("to")), changes
            )
        with run.history.read() as connection:
            tallies.update(connection, run.pk)
            rows = connection.exec_driver_sql("SELECT task_id, map_index, state FROM liteflow_task_instance").all()
        assert tallies.counts == Counter(S(state) for _, _, state in rows)
        assert tallies.counts_of("count") == Counter(S(state) for _, index, state in rows if index >= 0)
        for state in S:
            assert {(one.task_id, one.map_index) for one in tallies.instances(state)} == {
                (task_id, index) for task_id, index, found in rows if found == state
            }


@pytest.mark.sqlite("which way SQLite takes")
def test_a_look_reads_one_byte_of_each_instance_by_its_index(run: DagRun) -> None:
    with run.history.read() as connection:
        assert len(state_codes(connection, run.pk)) == 7
        driver = connection.info[DRIVER]
        for prepared in (_CODES, _PLACES):
            plan = [row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {prepared._ready[0]}", [1])]
            assert len(plan) == 1, "no sorting"
            assert re.search("SEARCH liteflow_task_instance USING .*INDEX .*run_pk=", plan[0]), plan


def test_a_state_that_there_is_not_is_refused(run: DagRun, db: str) -> None:
    change(run, "check", S.RUNNING)
    conftest.change(db, "UPDATE liteflow_task_instance SET state = 'exploded' WHERE task_id = 'check'")
    done = command("watch", "etl", "--db", db, cwd=beside(db))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)


def test_how_long_a_task_usually_takes_is_what_it_took_in_the_runs_before(db: str) -> None:
    runs = [make_run(db, f"r{number}") for number in range(4)]
    for number, took_s in enumerate((1, 5, 30)):
        for task_id in ("extract", "count"):
            began = NOW_US - took_s * 1_000_000
            change(runs[number], task_id, S.SUCCESS, started_at=began, ended_at=NOW_US)
    change(runs[3], "extract", S.SUCCESS, started_at=NOW_US - 99_000_000, ended_at=NOW_US)
    with runs[0].history.read() as connection:
        assert usual_duration(connection, runs[3].pk, "extract") == timedelta(seconds=5)
        assert usual_duration(connection, runs[3].pk, "count") == timedelta(seconds=5)
        assert usual_duration(connection, runs[3].pk, "check") is None
        assert usual_duration(connection, runs[0].pk, "extract") is None


# The picture


def drawn(run: DagRun, width: int = 100, height: int = 40) -> list[str]:
    watch = Watch(run)
    watch.look(run.refresh())
    return [line.plain for line in picture(watch, NOW, width, height)]


def test_the_picture_has_what_one_wants_to_know(run: DagRun) -> None:
    change(run, "extract", S.SUCCESS)
    change(run, "check", S.RUNNING, slot=2)
    change(run, "count", S.SUCCESS, index=0)
    change(run, "count", S.FAILED, index=1, error="ValueError: too few", end_reason="error")
    change(run, "count", S.UP_FOR_RETRY, index=2, due_at=NOW_US + 9_000_000)
    with run.history.database.write() as connection:
        recording.store_logs(connection, [(run.task_instance("check").pk, 1, NOW_US, 30, "x", "looking")])
    lines = drawn(run)
    assert lines[0].split() == ["etl/r1", "running", "1:30", "min", "pid", str(os.getpid())]
    assert lines[1].endswith("  3/7  2 success, 1 failed, 1 running, 1 up_for_retry, 2 pending")
    rows = {line.split()[0]: " ".join(line.split()) for line in lines if line}
    assert rows["check"] == "check try 1 slot 2 4.0 s"
    assert rows["count[2]"] == "count[2] try 1 up_for_retry in 9.0 s"
    assert "count[1] ValueError: too few" in [" ".join(line.split()) for line in lines]
    mapped = next(line for line in lines if line.startswith("count [5]"))
    assert mapped.endswith("1 success, 1 failed, 1 up_for_retry, 2 pending")
    assert "extract success 3.0 s" in [" ".join(line.split()) for line in lines]
    assert any(line.endswith("[check] looking") for line in lines)
    assert [line for line in lines if line in ("running", "failed", "mapped", "ended", "log")] == [
        "running", "failed", "mapped", "ended", "log"
    ]  # fmt: skip


def test_the_picture_never_leaves_its_place(db: str) -> None:
    run = make_run(db, "r1", mapped=40)
    for index in range(40):
        state = (S.RUNNING, S.FAILED, S.SUCCESS)[index % 3]
        change(run, "count", state, index=index, error="E: " + "x" * 300, rendered_map_index="日本" * 30)
    with run.history.database.write() as connection:
        pk = run.task_instance("check").pk
        recording.store_logs(connection, [(pk, 1, NOW_US, None, None, text) for text in ("a" * 5000, "日本" * 99)])
        connection.execute(update(tables.DAG_RUN).values(run_id="r" * 200))
    watch = Watch(run)
    watch.look(run.refresh())
    for width in (20, 40, 80, 120, 200):
        for height in (1, 2, 3, SHORTEST, 12, 24, 60):
            lines = picture(watch, NOW, width, height)
            assert len(lines) <= height, (width, height)
            assert max(line.cell_len for line in lines) <= width, (width, height)


def test_with_room_for_some_each_part_has_some(db: str) -> None:
    run = make_run(db, "r1", mapped=40)
    for index in range(40):
        change(run, "count", (S.RUNNING, S.FAILED, S.SUCCESS)[index % 3], index=index, error="e")
    lines = drawn(run, height=24)
    assert {"running", "failed", "mapped", "ended"} <= set(lines)
    assert any(re.fullmatch(r"and \d+ more", line) for line in drawn(run, height=60))


def test_nothing_of_a_stranger_steers_the_terminal(run: DagRun) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\n\u202e[bold]"
    change(run, "check", S.RUNNING, rendered_map_index=evil)
    change(run, "count", S.FAILED, error=evil)
    with run.history.database.write() as connection:
        recording.store_logs(connection, [(run.task_instance("check").pk, 1, NOW_US, None, None, evil)])
        for column in (tables.TASK_INSTANCE.c.task_id, tables.DAG_RUN.c.run_id):
            connection.execute(update(column.table).values({column: column + evil}))
    text = "".join(drawn(run.refresh(), width=300))
    assert "\\x1b]0;owned\\x07" in text
    assert text.isprintable()
    assert "[bold]" in text, "nor is it markup"


# The command


Steps = Callable[[], object]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Do something whenever the command waits: what other processes do while it runs, without any."""
    monkeypatch.setattr(watching_command, "FRAME_S", 0.0)
    monkeypatch.setattr(watching_command, "MOST_SHARE", 1e9)

    def plan(*steps: Steps) -> None:
        left = list(steps)

        def pause(_seconds: float) -> None:
            assert left, "it waits although nothing more will come"
            left.pop(0)()

        monkeypatch.setattr(following, "wait_for_reader", pause)

    return plan


def test_changes_are_lines_and_the_exit_code_is_that_of_the_run(
    run: DagRun, meanwhile: Callable[..., None], db: str
) -> None:
    change(run, "check", S.RUNNING)
    meanwhile(
        lambda: change(run, "extract", S.SUCCESS),
        lambda: change(run, "check", S.UP_FOR_RETRY, error="E: no"),
        lambda: (change(run, "check", S.FAILED, error="E: no", end_reason="error"), end(run, RunState.FAILED)),
    )
    done = command("watch", "etl", "--db", db, cwd=beside(db))
    assert [line[20:] for line in done.stdout.splitlines()] == [
        "etl/r1 running: 1 running, 6 pending",
        "check running",
        "extract success in 3.0 s",
        "check up_for_retry, try 1: E: no",
        "check failed (error) in 3.0 s: E: no",
        "etl/r1 failed in 1:30 min: 1 success, 1 failed, 5 pending",
    ]
    assert (done.returncode, done.stderr) == (1, f"more: liteflow show etl/r1 --db {told(db)}\n")


def test_a_run_that_succeeds_ends_it_with_0(run: DagRun, meanwhile: Callable[..., None], db: str) -> None:
    meanwhile(lambda: None, lambda: end(run, RunState.SUCCESS))
    done = command("watch", "etl", "--db", db, cwd=beside(db))
    assert (done.returncode, done.stderr) == (0, "")
    over = command("watch", "etl", "--db", db, cwd=beside(db))
    assert (over.returncode, over.stderr) == (0, "")
    assert [line[20:] for line in over.stdout.splitlines()] == ["etl/r1 success in 1:30 min: 7 pending"]


def test_a_mapped_task_has_a_line_for_each_tenth(db: str, meanwhile: Callable[..., None]) -> None:
    run = make_run(db, "r1", mapped=200)

    def some(start: int) -> Steps:
        def step() -> None:
            with run.history.database.write() as connection:
                index = tables.TASK_INSTANCE.c.map_index
                connection.execute(
                    update(tables.TASK_INSTANCE)
                    .where(index >= start, index < start + 5)
                    .values(state=case((index % 2 == 0, "success"), else_="failed"), ended_at=NOW_US, error="E: bad")
                )

        return step

    lock = OwnLock(run.history.database.path, "r1")
    meanwhile(*[some(start) for start in range(0, 200, 5)], lambda: end(run, RunState.FAILED))
    done = command("watch", "etl", "--db", db, cwd=beside(db))
    lock.release()
    lines = [line[20:] for line in done.stdout.splitlines()]
    progress = [line for line in lines if line.startswith("count [200]: ")]
    assert len(progress) == 11
    assert progress[-1] == "count [200]: 100 success, 100 failed"
    assert len([line for line in lines if re.match(r"count\[\d+\] failed: E: bad", line)]) == 10
    assert len(lines) == 11 + 10 + 2


def test_json_is_an_object_for_each_change(run: DagRun, meanwhile: Callable[..., None], db: str) -> None:
    change(run, "check", S.RUNNING)
    meanwhile(lambda: change(run, "count", S.SUCCESS, index=2), lambda: end(run, RunState.SUCCESS))
    done = command("watch", "etl", "--json", "--db", db, cwd=beside(db))
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["kind"] for one in documents] == ["run", "task", "task", "run"]
    assert [one["state"] for one in documents] == ["running", "running", "success", "success"]
    assert set(documents[1]) == {
        "kind", "task_id", "map_index", "rendered_map_index", "state", "before", "end_reason", "try_number", "slot",
        "error", "started_at", "ended_at", "due_at",
    }  # fmt: skip
    assert (documents[2]["task_id"], documents[2]["map_index"], documents[2]["before"]) == ("count", 2, "pending")
    assert documents[1]["before"] is None
    assert {"kind", "dag_id", "run_id", "state", "interrupted"} <= set(documents[0])
    assert done.returncode == 0


def test_an_owner_that_dies_ends_it_with_4(
    run: DagRun, meanwhile: Callable[..., None], db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "OWNER_LOOK_S", 0.0)
    (lock_file,) = lock_directory(run.history.database.path).glob("*.lock")
    meanwhile(lock_file.unlink)
    done = command("watch", "etl", "--db", db, cwd=beside(db))
    assert done.returncode == 4
    assert done.stdout.splitlines()[-1][20:] == "etl/r1 interrupted: 7 pending"
    assert done.stderr == (
        f"etl/r1 was interrupted: nothing drives it. Go on with: liteflow run flow.py --resume etl/r1 --db {told(db)}\n"
    )


def test_ctrl_c_ends_it_with_130_and_says_that_the_run_goes_on(
    run: DagRun, meanwhile: Callable[..., None], db: str
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    meanwhile(interrupt)
    done = command("watch", "etl", "--db", db, cwd=beside(db))
    assert (done.returncode, done.stderr) == (130, "stopped watching; etl/r1 goes on\n")


def test_it_is_read_again_only_when_something_was_committed_and_never_for_more_than_its_share(
    run: DagRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, cost = [0.0], 0.05
    looks: list[float] = []
    monkeypatch.setattr(watching_command.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(watching_command.time, "process_time", lambda: clock[0])

    class Slow(Watch):
        def look(self, run: DagRun) -> list[watching.Moved]:
            looks.append(clock[0])
            clock[0] += cost
            return []

    looking = watching_command.Looking(Slow(run))
    while clock[0] < 20:
        looking.read(following.Look(run, False, has_changed=clock[0] < 10))
        clock[0] += 0.25
    assert 5 <= len(looks) <= 7, looks
    assert looks[1] - looks[0] >= cost / watching_command.MOST_SHARE
    assert looks[-1] < 14, "nothing has changed after 10 s"
    cost, before = 5.0, len(looks)
    looking.read(following.Look(run, False, has_changed=True))
    clock[0] += watching_command.LONGEST_PAUSE_S
    looking.read(following.Look(run, False, has_changed=True))
    assert len(looks) == before + 2, "one that takes long does not hold up the next one for ever"
    looking.read(following.Look(run, True, has_changed=False))
    assert looks[-1] >= 20, "the last look is never left out"


@pytest.mark.parametrize(("args", "said"), [(["elt"], "did you mean 'etl'"), (["etl/x"], "no run or dag 'etl/x'")])
def test_an_unknown_run(run: DagRun, args: list[str], said: str, db: str) -> None:
    done = command("watch", *args, "--db", db, cwd=beside(db))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


def test_a_missing_and_an_empty_database(tmp_path: Path) -> None:
    assert command("watch", "etl", cwd=tmp_path).returncode == 3
    open_database(str(tmp_path / "liteflow.db"), create=True).close()
    assert command("watch", "etl", cwd=tmp_path).returncode == 2
