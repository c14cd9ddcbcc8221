"""`liteflow plan`: what a run would do, and what going on with one would, with nothing run and nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, task
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.execution import planning
from liteflow.execution.liveness import OwnLock
from liteflow.execution.planning import make_plan, prepare
from liteflow.storage import tables
from liteflow.storage.pools import set_pool
from liteflow.storage.schema import open_database
from tests.conftest import command, liteflow

FILE = """
import os
import warnings
from datetime import timedelta
from liteflow import Dag, DagWarning, Param, task

warnings.simplefilter("ignore", DagWarning)  # the alarm is a leaf, and meant
with open(os.path.join(os.path.dirname(__file__), "imported"), "a") as file:
    file.write("x")

@task
def list_files(): return ["a", "b"]
@task(retries=2, retry_delay=5, timeout=60)
def fetch(file): return 1
@task.branch
def choose(): return "fast"
@task(pool="gpu", pool_slots=2)
def fast(): ...
@task(trigger_rule="none_failed_min_one_success", max_active_tis_per_dagrun=3)
def join(): ...
@task(trigger_rule="one_failed")
def alarm(): ...
@task(trigger_rule="always")
def always(): ...
@task.sensor(mode="reschedule", timeout=100)
def wait(day): return True
@task
def each(n): ...

with Dag("etl", max_active_tasks=4, max_active_runs=2, dagrun_timeout=timedelta(hours=1),
         params={"day": "2026-01-01", "size": Param(3, type="integer")}) as dag:
    fetched = fetch.expand(file=list_files())
    way, quick, joined = choose(), fast(), join()
    way >> quick >> joined
    way >> joined
    fetched >> joined
    [fetched, joined] >> alarm()
    joined >> always()
    wait(dag.param("day"))
    each.expand(n=[1, 2, 3])
"""

TASK_KEYS = {
    "task_id",
    "level",
    "upstream",
    "kind",
    "role",
    "is_mapped",
    "instances",
    "mapped_over",
    "trigger_rule",
    "retries",
    "retry_delay_s",
    "timeout_s",
    "pool",
    "pool_slots",
    "max_active_tis_per_dagrun",
    "depends_on_past",
    "executor",
    "weight",
    "resume",
}
KEYS = {
    "dag_id",
    "file",
    "logical_date",
    "params",
    "slots",
    "max_active_tasks",
    "max_active_runs",
    "dagrun_timeout_s",
    "fail_fast",
    "levels",
    "pools",
    "tasks",
    "warnings",
    "refused",
    "resume",
}

Plan = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    """The command in this process, which forgets the files that it loads."""
    before, path = set(sys.modules), list(sys.path)

    def forget() -> None:
        for name in set(sys.modules) - before:
            if name.startswith("liteflow_dagfile_"):
                del sys.modules[name]
        sys.path[:] = path

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return command("plan", *arguments, cwd=tmp_path)
        finally:
            forget()

    yield call
    forget()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flow.py"
    path.write_text(FILE)
    return path


def make_pool(path: Path, slots: int) -> None:
    with open_database(path, create=True, pooled=False).write() as connection:
        set_pool(connection, "gpu", slots)


def rows_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """By task: its row, with single blanks."""
    rows = done.stdout.split("\n\n", 1)[1].splitlines()[1:]
    return {row.split()[1]: " ".join(row.split()) for row in rows}


def test_tasks_stand_in_levels_with_what_is_special_about_them(plan: Plan, file: Path, tmp_path: Path) -> None:
    make_pool(tmp_path / "liteflow.db", 2)
    done = plan("flow.py")
    assert (done.returncode, done.stderr) == (0, "")
    head = done.stdout.split("\n\n", 1)[0].splitlines()
    assert head[0].startswith("etl: 9 tasks in 3 levels, at most ")
    assert head[2] == 'params {"day":"2026-01-01","size":3}'
    assert head[3].endswith("max_active_tasks 4, max_active_runs 2, dagrun_timeout 1:00:00 h")
    assert head[4] == "pool gpu has 2 slots, 0 in use"
    assert rows_of(done) == {
        "list_files": "1 list_files",
        "choose": "1 choose branch",
        "wait": "1 wait sensor; timeout 1:40 min",
        "each": "1 each [3]",
        "always": "1 always join always",
        "fetch": "2 fetch [?] list_files over the value of list_files; 2 retries after 5.0 s; timeout 1:00 min",
        "fast": "2 fast choose pool gpu (2 slots)",
        "join": "3 join fast, choose, fetch none_failed_min_one_success; at most 3 at a time",
        "alarm": "3 alarm fetch, join one_failed",
    }


def test_nothing_is_run_and_nothing_is_written_but_what_the_file_itself_does(
    plan: Plan, file: Path, tmp_path: Path
) -> None:
    refused = plan("flow.py")
    assert refused.returncode == 2
    assert "task 'fast' is in pool 'gpu', and there is no database yet" in refused.stderr
    assert "pool gpu is not there" in refused.stdout
    assert sorted(os.listdir(tmp_path)) == ["flow.py", "imported"], "no database, and the file was imported"
    make_pool(tmp_path / "liteflow.db", 2)
    before = sha256((tmp_path / "liteflow.db").read_bytes()).hexdigest()
    assert plan("flow.py").returncode == 0
    assert sha256((tmp_path / "liteflow.db").read_bytes()).hexdigest() == before


def test_the_document_has_everything(plan: Plan, file: Path, tmp_path: Path) -> None:
    make_pool(tmp_path / "other.db", 1)
    done = plan(
        *("flow.py:etl", "--param", "day=2026-02-03", "--logical-date", "2026-02-03", "--db", "other.db", "--json")
    )
    document = json.loads(done.stdout)
    assert set(document) == KEYS
    assert all(set(one) == TASK_KEYS for one in document["tasks"])
    assert document["params"] == {"day": "2026-02-03", "size": 3}
    assert document["logical_date"] == "2026-02-03T00:00:00+00:00"
    limits = ("max_active_tasks", "max_active_runs", "dagrun_timeout_s")
    assert ([document[name] for name in limits], document["levels"]) == ([4, 2, 3600.0], 3)
    assert document["pools"] == [{"name": "gpu", "slots": 1, "slots_in_use": 0}]
    assert done.returncode == 2
    assert "takes 2 slots of pool 'gpu', which has 1" in document["refused"]
    by_id = {one["task_id"]: one for one in document["tasks"]}
    assert (by_id["fetch"]["instances"], by_id["fetch"]["mapped_over"]) == (None, ["list_files"])
    assert (by_id["each"]["instances"], by_id["each"]["is_mapped"]) == (3, True)
    assert (by_id["wait"]["kind"], by_id["wait"]["timeout_s"]) == ("sensor", 100.0)
    assert (document["resume"], by_id["fetch"]["resume"]) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("flow.py:elt",), "no dag 'elt' (did you mean 'etl'?)"),
        (("gone.py",), "no such file"),
        (("flow.py", "--param", "dya=1"), "has no param 'dya' (did you mean 'day'?)"),
        (("flow.py", "--param", "size=big"), "refuses param 'size'"),
        (("flow.py", "--logical-date", "soon"), "'soon' is no ISO 8601 date"),
        (("flow.py", "--resume", "latest", "--param", "day=1"), "a run goes on with its own params"),
    ],
)
def test_what_a_run_would_not_take_the_plan_does_not(
    arguments: tuple[str, ...], said: str, plan: Plan, file: Path
) -> None:
    refused = plan(*arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert said in refused.stderr


def test_a_plan_to_resume_needs_a_database_and_a_run(plan: Plan, file: Path, tmp_path: Path) -> None:
    missing = plan("flow.py", "--resume", "latest")
    assert (missing.returncode, "no such database" in missing.stderr) == (3, True)
    open_database(tmp_path / "liteflow.db", create=True).close()
    empty = plan("flow.py", "--resume", "latest")
    assert (empty.returncode, "no run or dag 'etl'" in empty.stderr) == (2, True)


def test_a_database_of_somebody_else_is_no_place_for_a_run(plan: Plan, file: Path, tmp_path: Path) -> None:
    (tmp_path / "liteflow.db").write_text("something else" * 100)
    refused = plan("flow.py")
    assert (refused.returncode, "not an SQLite database" in refused.stderr) == (3, True)


def test_what_will_surprise_is_told_once_unless_the_file_says_not_to(plan: Plan, tmp_path: Path) -> None:
    text = (
        "import warnings\nfrom liteflow import Dag, DagWarning, task\n{}\n"
        "@task.branch\ndef choose(): return 'a'\n"
        "@task\ndef a(): ...\n@task\ndef b(): ...\n@task\ndef join(): ...\n"
        "with Dag('d') as dag:\n    choose() >> [a(), b()] >> join()\n"
    )
    (tmp_path / "loud.py").write_text(text.format(""))
    (tmp_path / "quiet.py").write_text(text.format("warnings.simplefilter('ignore', DagWarning)"))
    loud = plan("loud.py")
    assert loud.returncode == 0
    assert loud.stderr.count("warning: ") == 1
    assert "task 'join'" in loud.stderr
    assert len(json.loads(plan("loud.py", "--json").stdout)["warnings"]) == 1
    assert plan("quiet.py").stderr == ""


def test_it_has_help_with_an_example(plan: Plan) -> None:
    shown = plan("--help")
    assert (shown.returncode, "Examples:\n    liteflow plan my_workflow.py" in shown.stdout) == (0, True)


def test_an_empty_dag_has_nothing_to_plan(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("from liteflow import Dag\nDag('none')\n")
    done = plan("empty.py")
    assert (done.returncode, done.stderr) == (0, "the dag has no tasks\n")
    assert done.stdout.startswith("none: 0 tasks in 0 levels")


# Going on with a run


RESUMED = """
from liteflow import Dag, task
@task
def a(): ...
@task
def b(): {broken}
@task
def each(n):
    if n == {bad}: raise ValueError("bad")
@task
def c(): ...
with Dag("again", db_path="again.db") as dag:
    a() >> b() >> c()
    each.expand(n=[0, 1, 2])
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a dag file and a failed run of it."""
    place = tmp_path_factory.mktemp("again")
    (place / "again.py").write_text(RESUMED.format(broken="raise ValueError", bad=1))
    done = liteflow("run", "again.py", "--run-id", "one", "-q", cwd=place)
    assert done.returncode == 1, done.stderr
    return place


def resumes_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {one["task_id"]: one["resume"] for one in json.loads(done.stdout)["tasks"]}


def test_a_failed_run_says_what_would_run_again_and_what_stays(
    failed: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(failed)
    file, db = str(failed / "again.py"), str(failed / "again.db")
    done = plan(file, "--db", db, "--resume", "one")
    assert (done.returncode, done.stderr) == (0, "")
    assert "of its task instances 3 would run again, 0 go on, 3 stay as they are" in done.stdout
    rows = rows_of(done)
    assert rows["b"] == "2 b a again"
    assert rows["a"] == "1 a stays"
    assert rows["each"] == "1 each [3] 1 again, 2 stays"
    found = plan(file, "--db", db, "--resume", "latest", "--json")
    assert resumes_of(found)["each"] == {"again": 1, "goes_on": 0, "stays": 2}
    assert json.loads(found.stdout)["resume"] == {"changes": None, "removed": [], "is_over": False}


def test_what_the_plan_says_is_what_resuming_does(failed: Path, plan: Plan, tmp_path: Path) -> None:
    for name in ("again.py", "again.db"):
        (tmp_path / name).write_bytes((failed / name).read_bytes())
    planned = resumes_of(plan("again.py", "--db", "again.db", "--resume", "one", "--json"))
    from liteflow.storage.history import open_history

    def tries() -> dict[str, int]:
        found: dict[str, int] = {}
        for one in open_history(str(tmp_path / "again.db")).find_run("one").task_instances():
            found[one.task_id] = found.get(one.task_id, 0) + one.try_number
        return found

    before = tries()
    (tmp_path / "again.py").write_text(RESUMED.format(broken="...", bad=7))
    done = liteflow("run", "again.py", "--resume", "one", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {task_id: count - before[task_id] for task_id, count in tries().items()} == {
        task_id: one["again"] for task_id, one in planned.items()
    }
    over = plan("again.py", "--db", "again.db", "--resume", "one")
    assert "the run succeeded: nothing would be done" in over.stdout


def test_a_dag_that_has_changed_is_told_with_what_was_added_and_removed(
    failed: Path, plan: Plan, tmp_path: Path
) -> None:
    (tmp_path / "again.db").write_bytes((failed / "again.db").read_bytes())
    text = (failed / "again.py").read_text().replace("def c()", "def d()").replace(">> c()", ">> d()")
    (tmp_path / "again.py").write_text(text)
    done = plan("again.py", "--db", "again.db", "--resume", "one")
    assert done.returncode == 0
    assert "needs --accept-changes: added d; removed c" in done.stdout
    assert "would be removed: c" in done.stdout
    assert rows_of(done)["d"] == "3 d b new"
    (tmp_path / "again.py").write_text(text.replace("each.expand(n=[0, 1, 2])", "each(1)"))
    hopeless = plan("again.py", "--db", "again.db", "--resume", "one")
    assert (hopeless.returncode, "'each' was mapped and is not; start a new run" in hopeless.stderr) == (2, True)


def test_a_run_that_somebody_drives_is_not_to_be_resumed(failed: Path, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "again.py").write_bytes((failed / "again.py").read_bytes())
    (tmp_path / "again.db").write_bytes((failed / "again.db").read_bytes())
    database = open_database(tmp_path / "again.db", pooled=False)
    with database.write() as connection:
        from sqlalchemy import update

        connection.execute(
            update(tables.EXECUTOR).values(token="living", pid=os.getpid(), process_started_at=None, ended_at=None)
        )
        connection.execute(update(tables.DAG_RUN).values(state="running", ended_at=None))
    lock = OwnLock(database.path, "living")
    try:
        driven = plan("again.py", "--db", "again.db", "--resume", "one")
        assert (driven.returncode, f"is driven by process {os.getpid()}" in driven.stderr) == (2, True)
    finally:
        lock.release()
    assert "0 would run again" in plan("again.py", "--db", "again.db", "--resume", "one").stdout


# Levels


def level_of(dag: Dag) -> dict[str, int]:
    from datetime import UTC, datetime

    plan = make_plan(prepare(dag), "{}", datetime(2026, 1, 1, tzinfo=UTC), None)
    return {one.task_id: one.level for one in plan.tasks}


@pytest.mark.filterwarnings("ignore::liteflow.errors.DagWarning")
@pytest.mark.parametrize("rule", [rule for rule in TriggerRule if rule is not TriggerRule.ALL_DONE_SETUP_SUCCESS])
def test_a_rule_that_does_not_wait_for_all_stands_earlier(rule: TriggerRule) -> None:
    with Dag("d") as dag:
        first, second, third = (task(lambda: None, task_id=name)() for name in ("a", "b", "c"))
        last = task(lambda: None, task_id="last", trigger_rule=rule.value)()
        first >> second >> third
        [first, third] >> last
    early = {TriggerRule.ONE_SUCCESS: 2, TriggerRule.ONE_FAILED: 2, TriggerRule.ONE_DONE: 2, TriggerRule.ALWAYS: 1}
    assert level_of(dag)["last"] == early.get(rule, 4)


def test_in_a_level_what_weighs_most_comes_first() -> None:
    from datetime import UTC, datetime

    with Dag("d") as dag:
        for name, weight in (("light", 1), ("heavy", 9), ("middle", 5)):
            task(lambda: None, task_id=name, priority_weight=weight)()
    plan = make_plan(prepare(dag), "{}", datetime(2026, 1, 1, tzinfo=UTC), None)
    assert [one.task_id for one in plan.tasks] == ["heavy", "middle", "light"]
    assert planning.usable_cpus() == plan.slots
