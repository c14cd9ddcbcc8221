"""`liteflow why`: what it says of runs that are over, that go on, and that nobody drives."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, update

from liteflow import Dag, SkipTask, task, task_group
from liteflow.cli import why
from liteflow.execution import explaining
from liteflow.execution.liveness import OwnLock
from liteflow.execution.processes import start_time_of
from liteflow.states import EndReason, RunState
from liteflow.states import TaskInstanceState as S
from liteflow.storage import recording, tables
from liteflow.storage.history import open_history
from liteflow.storage.recording import DagFacts, TaskFacts
from liteflow.storage.schema import open_database
from tests.conftest import beside, command, told

REASON_KEYS = {
    "task_id",
    "map_index",
    "instances",
    "state",
    "end_reason",
    "why",
    "text",
    "error",
    "causes",
    "root_causes",
}


def no() -> None:
    raise ValueError("no such order {0}")


def make_dag(path: str) -> Dag:
    """A dag in which most of what can happen to a task happens."""
    with Dag("etl", db_path=path) as dag:

        def plain(task_id: str, *, skips: bool = False, **options: Any) -> Any:
            def function() -> None:
                if skips:
                    raise SkipTask("no data today")

            return task(function, task_id=task_id, **options)()

        load = task(no, task_id="load", retries=1)()
        plain("extract") >> load
        chained = load
        for number in range(8):
            chained = chained >> plain(f"c{number}")

        @task.branch
        def choose() -> str:
            return "fast"

        slow = plain("slow")
        choose() >> [plain("fast"), slow]
        slow >> plain("after_slow")

        @task.short_circuit
        def check() -> bool:
            return False

        check() >> plain("x1") >> plain("x2")
        plain("quiet", skips=True) >> plain("below_quiet")
        plain("below_all", trigger_rule="one_failed") << dag.get_task("extract")

        @task
        def empty() -> list[int]:
            return []

        @task
        def each(n: int) -> None:
            pass

        each.expand(n=empty())

        @task
        def add_one(n: int) -> int:
            if n % 5 == 0:
                raise ValueError(f"bad {n % 10}")
            return n

        @task
        def total(values: list[int]) -> None:
            pass

        total(add_one.expand(n=list(range(30))))

        @task_group
        def work(n: int) -> None:
            @task
            def first(n: int) -> int:
                if n == 3:
                    raise KeyError("k")
                return n

            @task.branch
            def pick(n: int) -> str:
                return "work.left" if n % 2 else "work.right"

            @task
            def left() -> None:
                pass

            @task
            def right() -> None:
                pass

            pick(first(n)) >> [left(), right()]

        work.expand(n=list(range(6)))
    return dag


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("why") / "etl.db")
    make_dag(path).run(run_id="one", progress=False)
    with Dag("fine", db_path=path) as fine:
        task(lambda: None, task_id="a")()
    fine.run(run_id="good", progress=False)
    return path


Ask = Callable[..., Any]


@pytest.fixture
def ask(ran: str, tmp_path: Path) -> Ask:
    def lines(*arguments: str) -> list[str]:
        done = command("why", *arguments, "--db", ran, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return lines


def test_each_reason_is_told_once_with_its_root_cause_below_it(ask: Ask) -> None:
    lines = ask("etl/one")
    assert lines[0].startswith("etl/one failed: ")
    assert "c7 upstream_failed: all_success saw c6 upstream_failed" in lines
    at = lines.index("c7 upstream_failed: all_success saw c6 upstream_failed")
    assert lines[at + 3 : at + 6] == [
        "      c4 upstream_failed: all_success saw c3 upstream_failed",
        "        ... 4 more on the way",
        "          load failed: ValueError: no such order {0} (after 2 tries)",
    ]
    assert len([line for line in lines if "load failed: ValueError" in line]) == 1
    at = lines.index("after_slow skipped: all_success saw slow skipped")
    assert lines[at + 1] == "  slow skipped: branch choose took fast"
    at = lines.index("below_quiet skipped: all_success saw quiet skipped")
    assert lines[at + 1] == "  quiet skipped: no data today"
    assert "x1, x2 skipped: short circuit check let nothing below it go" in lines
    assert "each skipped: mapped over nothing" in lines
    assert "below_all skipped: one_failed saw extract success" in lines
    at = lines.index("total upstream_failed: all_success saw 6 of add_one failed")
    assert lines[at + 1 : at + 3] == [
        "  add_one [30]: 3 failed: ValueError: bad 0",
        "  add_one [30]: 3 failed: ValueError: bad 5",
    ]


def test_instances_of_a_mapped_group_go_by_their_own_map_index(ask: Ask) -> None:
    assert ask("etl/one", "work.left[3]") == [
        "work.left[3] upstream_failed: all_success saw work.pick[3] upstream_failed",
        "  work.pick[3] upstream_failed: all_success saw work.first[3] failed",
        "    work.first[3] failed: KeyError: 'k'",
    ]
    assert ask("etl/one", "work.left[2]") == ["work.left[2] skipped: branch work.pick took work.right"]
    assert ask("etl/one", "work.left[1]")[0].startswith("work.left[1] success")
    assert "work.left [6]: 3 skipped: branch work.pick took work.right" in ask("etl/one", "work.left")


def test_one_task_is_told_with_what_led_to_it_and_nothing_else(ask: Ask) -> None:
    assert ask("etl/one", "c0") == [
        "c0 upstream_failed: all_success saw load failed",
        "  load failed: ValueError: no such order {0} (after 2 tries)",
    ]
    assert ask("etl/one", "extract")[0].startswith("extract success: took ")
    assert sorted(ask("etl/one", "add_one")) == [
        "add_one [30]: 24 success",
        "add_one [30]: 3 failed: ValueError: bad 0",
        "add_one [30]: 3 failed: ValueError: bad 5",
    ]


def test_a_run_in_which_all_went_well_has_nothing_to_explain(ran: str, tmp_path: Path) -> None:
    done = command("why", "fine", "--db", ran, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "fine/good success: all task instances succeeded: there is nothing to explain\n"
    assert json.loads(command("why", "fine", "--json", "--db", ran, cwd=tmp_path).stdout)["reasons"] == []


def test_the_document_names_causes_and_root_causes(ran: str, tmp_path: Path) -> None:
    document = json.loads(command("why", "etl/one", "--json", "--db", ran, cwd=tmp_path).stdout)
    assert set(document) == {"dag_id", "run_id", "state", "end_reason", "interrupted", "waits_for", "reasons"}
    assert (document["dag_id"], document["run_id"], document["interrupted"]) == ("etl", "one", False)
    assert all(set(one) == REASON_KEYS for one in document["reasons"])
    by_task = {one["task_id"]: one for one in document["reasons"]}
    last = by_task["c7"]
    assert (last["state"], last["why"], last["map_index"]) == ("upstream_failed", "rule", -1)
    assert last["causes"] == [{"task_id": "c6", "map_index": None, "state": "upstream_failed", "instances": 1}]
    assert [root["task_id"] for root in last["root_causes"]] == ["load"]
    assert set(last["root_causes"][0]) == {"task_id", "map_index", "state", "text"}
    assert by_task["slow"]["why"] == "branch"
    assert by_task["load"]["error"] == "ValueError: no such order {0}"
    one = json.loads(command("why", "etl/one", "work.left[3]", "--json", "--db", ran, cwd=tmp_path).stdout)
    assert [(found["task_id"], found["map_index"]) for found in one["reasons"]] == [("work.left", 3)]
    assert one["reasons"][0]["causes"][0]["map_index"] == 3
    assert one["reasons"][0]["root_causes"][0]["task_id"] == "work.first"


def test_every_instance_that_is_no_success_is_in_one_reason(ran: str, tmp_path: Path) -> None:
    document = json.loads(command("why", "etl/one", "--json", "--db", ran, cwd=tmp_path).stdout)
    instances = open_history(ran).find_run("etl/one").task_instances()
    others = [one for one in instances if one.state is not S.SUCCESS]
    assert sum(one["instances"] for one in document["reasons"]) == len(others)
    assert "unknown" not in {one["why"] for one in document["reasons"]}


def test_what_is_not_there_is_named_with_the_nearest(ran: str, tmp_path: Path) -> None:
    wrong = command("why", "etl/one", "laod", "--db", ran, cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "has no task 'laod' (did you mean 'load'?)" in wrong.stderr
    assert "map indexes, 0 to 29" in command("why", "etl/one", "add_one[77]", "--db", ran, cwd=tmp_path).stderr
    run = command("why", "elt", "--db", ran, cwd=tmp_path)
    assert (run.returncode, "did you mean 'etl'" in run.stderr) == (2, True)


@pytest.mark.sqlite("a database in a server is there beforehand")
def test_without_a_database_or_a_run_it_says_so(db: str, tmp_path: Path) -> None:
    missing = command("why", "etl", "--db", db, cwd=tmp_path)
    assert (missing.returncode, "no such database" in missing.stderr) == (3, True)
    open_database(db, create=True).close()
    empty = command("why", "etl", "--db", db, cwd=tmp_path)
    assert (empty.returncode, "no run or dag 'etl'" in empty.stderr) == (2, True)


def test_it_has_help_with_an_example(tmp_path: Path) -> None:
    shown = command("why", "--help", cwd=tmp_path)
    assert (shown.returncode, "Examples:\n    liteflow why etl" in shown.stdout) == (0, True)


def test_a_terminal_gets_a_tree_in_which_states_have_colours(
    ran: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(why, "is_terminal", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = command("why", "etl/one", "c0", "--db", ran, cwd=tmp_path, COLUMNS="60").stdout
    assert "\x1b[33mupstream_failed\x1b[0m: all_success saw load failed" in shown
    assert "└── " in shown
    assert max(map(len, shown.splitlines())) < 100
    monkeypatch.delenv("FORCE_COLOR")
    plain = command("why", "etl/one", "c0", "--db", ran, cwd=tmp_path, NO_COLOR="1").stdout
    assert "\x1b" not in plain


# Runs that are put into the database as they would stand at a certain moment


NOW = datetime(2026, 1, 2, tzinfo=UTC)
TI, RUN = tables.TASK_INSTANCE, tables.DAG_RUN


class Stage:
    """A database in which runs stand as they are told to."""

    def __init__(self, path: str, token: str) -> None:
        self.path = path
        self.database = open_database(path, create=True, pooled=False)
        self.token = token
        with self.database.write() as connection:
            self.owner = recording.record_executor(
                connection, token, socket.gethostname(), start_time_of(os.getpid()), 1
            )

    def run(
        self, run_id: str, tasks: dict[str, dict[str, Any]], *, state: RunState = RunState.RUNNING, **of_run: Any
    ) -> int:
        """A run of the dag `etl`: task ids to what their rows hold, beside `upstream`, `rule` and `size`."""
        facts = [
            TaskFacts(
                task_id,
                row.get("upstream", []),
                row.get("rule", "all_success"),
                range(row["size"]) if "size" in row else recording.NOT_MAPPED,
                row.get("pool"),
            )
            for task_id, row in tasks.items()
        ]
        with self.database.write() as connection:
            dag = DagFacts("etl", None, (), "{}", "/home/me/my dag.py", "x")
            dag_pk = recording.record_dag(connection, dag, 1)
            pk, _ = recording.create_run(
                connection,
                dag_pk,
                run_id=run_id,
                logical_date=of_run.pop("logical_date", NOW),
                params_json="{}",
                structure_digest="x",
                tasks=facts,
                executor_pk=None,
                now_us=tables.to_microseconds(NOW),
            )
            connection.execute(
                update(RUN)
                .where(RUN.c.id == pk)
                .values({"state": state, "executor_pk": self.owner, "started_at": NOW, **of_run})
            )
            for task_id, row in tasks.items():
                known = {"upstream", "rule", "size", "pool", "map_index"}
                values = {name: value for name, value in row.items() if name not in known}
                if values:
                    connection.execute(update(TI).where(TI.c.run_pk == pk, TI.c.task_id == task_id).values(values))
        return pk

    def lines(self, *arguments: str) -> list[str]:
        done = command("why", *arguments, "--db", self.path, cwd=beside(self.path))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()


@pytest.fixture
def stage(db: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A run's owner lives, and it is a minute after `NOW`."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return NOW + timedelta(seconds=60)

    monkeypatch.setattr("datetime.datetime", Clock)
    made = Stage(db, "living")
    lock = OwnLock(made.database.path, "living")
    yield made
    lock.release()


def running(stage: Stage, **more: Any) -> dict[str, Any]:
    return {
        "state": S.RUNNING,
        "try_number": 1,
        "executor_pk": stage.owner,
        "started_at": NOW + timedelta(seconds=30),
        **more,
    }


def test_a_run_that_goes_on_says_what_it_waits_for_and_for_how_long(stage: Stage) -> None:
    took = {"state": S.SUCCESS, "try_number": 1, "started_at": NOW}
    for number, seconds in enumerate((10, 20, 600)):
        stage.run(f"old{number}", {"a": {**took, "ended_at": NOW + timedelta(seconds=seconds)}}, state=RunState.SUCCESS)
    retry = {"state": S.UP_FOR_RETRY, "try_number": 1, "error": "ValueError: x", "due_at": NOW + timedelta(seconds=90)}
    look = {"state": S.UP_FOR_RESCHEDULE, "try_number": 1, "due_at": NOW + timedelta(seconds=100), "started_at": NOW}
    stage.run(
        "now",
        {
            "a": running(stage),
            "b": {"upstream": ["a"]},
            "c": retry,
            "d": look,
            "q": {"state": S.QUEUED},
            "e": {"upstream": ["a", "c", "d", "b"]},
        },
    )
    lines = stage.lines("etl/now")
    assert lines[0] == "etl/now running: 1 running, 1 up_for_retry, 1 up_for_reschedule, 1 queued, 2 pending"
    assert lines[1] == (
        "waits for a (running: 30.0 s, usual 20.0 s); c (up_for_retry: try 2 in 30.0 s, after ValueError: x); "
        "d (up_for_reschedule: looks again in 40.0 s); and 1 more"
    )
    assert lines[2] == ("e pending: waits for a (running 30.0 s), c (up_for_retry), d (up_for_reschedule) and 1 more")
    assert "q queued: waits for a slot: 1 of the run go on" in lines
    assert "b pending: waits for a (running 30.0 s)" in lines
    document = json.loads(command("why", "etl/now", "--json", "--db", stage.path, cwd=beside(stage.path)).stdout)
    assert document["waits_for"] == lines[1].removeprefix("waits for ")


def test_a_full_pool_is_named_with_those_who_hold_it(stage: Stage) -> None:
    with stage.database.write() as connection:
        from liteflow.storage.pools import set_pool

        set_pool(connection, "gpu", 1)
    stage.run("run17", {"train": running(stage, pool="gpu", pool_slots=1)})
    stage.run("run18", {"train": {"state": S.QUEUED, "pool": "gpu"}, "other": {"state": S.QUEUED, "pool": "lost"}})
    lines = stage.lines("etl/run18")
    assert "train queued: pool gpu 1/1 held by etl/run17 train for 30.0 s" in lines
    assert "other queued: there is no pool lost; make it with: liteflow pools set lost SLOTS" in lines


def test_a_pool_held_by_the_dead_is_not_what_it_waits_for(stage: Stage) -> None:
    with stage.database.write() as connection:
        from liteflow.storage.pools import set_pool

        set_pool(connection, "gpu", 1)
        dead = recording.record_executor(connection, "dead", socket.gethostname(), None, 1)
    stage.run("run17", {"train": running(stage, pool="gpu", executor_pk=dead)}, executor_pk=dead)
    stage.run("run18", {"train": {"state": S.QUEUED, "pool": "gpu"}})
    assert stage.lines("etl/run18", "train") == [
        "train queued: waits for a slot: 0 of the run go on",
    ]


def test_an_interrupted_run_says_that_nobody_drives_it_and_how_to_go_on(stage: Stage) -> None:
    stage.run("r1", {"a": running(stage), "b": {"upstream": ["a"]}, "c": {"state": S.QUEUED}})
    with stage.database.write() as connection:
        connection.execute(update(tables.EXECUTOR).values(ended_at=NOW))
    lines = stage.lines("etl/r1")
    assert lines[0].startswith("etl/r1 interrupted: ")
    going_on = f"liteflow run '/home/me/my dag.py:etl' --resume r1 --db {told(stage.path)}"
    assert lines[1] == f"nobody drives it; go on with: {going_on}"
    assert "c queued: waits for its process: nobody drives the run" in lines
    assert "  a running: ran when its process died: nobody drives the run" in lines


def test_a_run_that_nobody_took_waits_for_a_service(stage: Stage) -> None:
    stage.run("r1", {"a": {}}, state=RunState.QUEUED, executor_pk=None, started_at=None)
    lines = stage.lines("etl/r1")
    going_on = f"liteflow run '/home/me/my dag.py:etl' --resume r1 --db {told(stage.path)}"
    assert lines[1] == f"waits to be gone on with: {going_on}"
    assert "a pending: waits for a service that knows the dag: nobody drives the run" in lines


def test_a_mapping_that_shrank_says_so_and_not_that_the_task_is_gone(stage: Stage) -> None:
    pk = stage.run("r1", {"m": {"size": 3, "state": S.SUCCESS, "try_number": 1}}, state=RunState.SUCCESS)
    with stage.database.write() as connection:
        connection.execute(update(TI).where(TI.c.run_pk == pk, TI.c.map_index == 2).values(state=S.REMOVED))
    assert "m[2] removed: what the task is mapped over has fewer items now" in stage.lines("etl/r1")


def test_a_task_that_waits_for_the_run_before_names_it(stage: Stage) -> None:
    stage.run("first", {"a": running(stage)}, logical_date=NOW - timedelta(days=1))
    stage.run("second", {"a": {}})
    assert "a pending: waits for a, which is running, in the run before, etl/first" in stage.lines("etl/second")


def test_a_teardown_waits_for_what_its_setups_serve(stage: Stage) -> None:
    stage.run(
        "r1",
        {
            "make": {"state": S.SUCCESS, "try_number": 1},
            "work": running(stage, upstream=["make"]),
            "drop": {"upstream": ["make"], "rule": "all_done_setup_success"},
        },
    )
    # `work` is not directly upstream of the teardown here.
    assert stage.lines("etl/r1", "drop")[0] == "drop pending: waits for work (running 30.0 s), which its setups serve"


def test_a_cancelled_run_says_who_is_to_blame(stage: Stage) -> None:
    over = {"state": S.SKIPPED, "end_reason": EndReason.CANCELLED, "ended_at": NOW}
    stage.run(
        "r1",
        {"a": {"state": S.FAILED, "end_reason": EndReason.CANCELLED, "error": "cancelled", "try_number": 1}, "b": over},
        state=RunState.FAILED,
        end_reason=EndReason.CANCELLED,
        ended_at=NOW,
    )
    lines = stage.lines("etl/r1")
    assert lines[0].startswith("etl/r1 failed (cancelled): ")
    assert {"a failed (cancelled): cancelled", "b skipped: the run was cancelled"} == set(lines[1:])


def test_hostile_text_is_spelled_out_and_never_a_pattern(stage: Stage) -> None:
    error = "x\x1b[31m {} {0!r} %s [bold]" + "y" * 500
    stage.run(
        "r1",
        {"a": {"state": S.FAILED, "error": error, "try_number": 1}, "b": {"state": S.UP_FOR_RETRY, "error": error}},
    )
    shown = "\n".join(stage.lines("etl/r1"))
    assert "\x1b" not in shown
    assert "\\x1b[31m {} {0!r} %s [bold]yyy" in shown
    assert "y" * 400 not in shown


def test_thousands_of_reasons_are_a_few_lines(stage: Stage) -> None:
    pk = stage.run("r1", {"m": {"size": 3000, "state": S.FAILED, "try_number": 1}}, state=RunState.FAILED)
    with stage.database.write() as connection:
        connection.execute(update(TI).where(TI.c.run_pk == pk).values(error="E" + TI.c.map_index.cast(tables.Text)))
    lines = stage.lines("etl/r1")
    assert len(lines) < 10
    assert "m [3,000]: 2,995 failed: for various other reasons" in lines


def test_thousands_of_tasks_are_bounded_too(stage: Stage) -> None:
    tasks = {f"t{number}": {"state": S.FAILED, "error": f"E{number}"} for number in range(300)}
    stage.run("r1", tasks, state=RunState.FAILED)
    done = command("why", "etl/r1", "--db", stage.path, cwd=beside(stage.path))
    assert len(done.stdout.splitlines()) == 1 + why.MOST_LINES
    assert done.stderr == "... and 200 more; name a TASK, or see --json\n"


@pytest.mark.sqlite("which way SQLite takes")
def test_it_reads_with_indexes_and_does_not_go_through_other_runs(stage: Stage) -> None:
    stage.run("r0", {"a": running(stage, pool="gpu")})
    stage.run("r1", {"a": running(stage), "b": {"state": S.QUEUED, "pool": "gpu"}, "c": {"state": S.SKIPPED}})
    run = open_history(stage.path).find_run("etl/r1")
    asked: list[tuple[str, Any]] = []
    engine = run.history.database.engine

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    with run.history.read() as connection:
        explaining.explain(connection, run, NOW)
    event.remove(engine, "before_cursor_execute", note)
    assert len(asked) >= 7
    with run.history.read() as connection:
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            scans = [row[3] for row in plan if row[3].startswith("SCAN") and "liteflow_" in row[3]]
            assert scans == [], statement


def test_a_copy_that_may_only_be_read_is_enough(ran: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    shutil.copy(ran, copy)
    os.chmod(copy, 0o444)
    assert "etl/one failed" in command("why", "etl/one", "--db", str(copy), cwd=tmp_path).stdout
