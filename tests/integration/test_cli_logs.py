"""`liteflow logs`: what it prints of a run, in what parts it reads, and how it follows one that goes on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from liteflow import Dag, task
from liteflow.execution import following
from liteflow.execution.liveness import OwnLock, lock_directory
from liteflow.execution.processes import start_time_of
from liteflow.execution.progress import db_hint
from liteflow.states import RunState
from liteflow.storage import logs, recording, tables
from liteflow.storage.engine import DRIVER
from liteflow.storage.history import DagRun, open_history
from liteflow.storage.logs import LogReader
from liteflow.storage.recording import DagFacts, TaskFacts
from liteflow.storage.schema import open_database
from tests.conftest import command


@task
def speak() -> None:
    import logging

    print("plain words")
    print("\x1b[31mred\x1b[0m")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.CRITICAL):
        logging.getLogger("speaker").log(level, "a record of %d", level)


@task(retries=1)
def fail_once(ti) -> None:  # type: ignore[no-untyped-def]
    print("try", ti.try_number)
    if ti.try_number == 1:
        raise ValueError("Not Yet")


@task
def count(n: int) -> None:
    print("number", n)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a run of `talk` that wrote, and one of `silent` that did not."""
    path = tmp_path_factory.mktemp("made") / "liteflow.db"
    with Dag("talk", db_path=str(path)) as dag:
        speak() >> fail_once() >> count.expand(n=[0, 1, 2])
    assert dag.run(run_id="r1", progress=False, max_workers=1).state == "success"
    with Dag("silent", db_path=str(path)) as silent:
        task(lambda: None, task_id="nothing")()
    assert silent.run(run_id="s1", progress=False, max_workers=1).state == "success"
    return path


@pytest.fixture
def talked(made: Path, tmp_path: Path) -> Path:
    shutil.copy(made, tmp_path / "liteflow.db")
    return tmp_path


def lines(talked: Path, *args: str) -> list[str]:
    """What is printed, without the times."""
    done = command("logs", "talk", *args, cwd=talked)
    assert done.returncode == 0, done.stderr
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[", line) for line in done.stdout.splitlines())
    return [line[20:] for line in done.stdout.splitlines()]


# What is printed


def test_every_line_has_its_task_its_try_and_its_level(talked: Path) -> None:
    found = lines(talked)
    assert found[:5] == [
        "[speak] plain words",
        "[speak] \\x1b[31mred\\x1b[0m",
        "[speak] INFO a record of 20",
        "[speak] WARNING a record of 30",
        "[speak] CRITICAL a record of 50",
    ]
    assert "[fail_once] ERROR ValueError: Not Yet" in found
    assert found[-4:] == [
        "[fail_once try 2] try 2",
        "[count[0]] number 0",
        "[count[1]] number 1",
        "[count[2]] number 2",
    ]
    assert lines(talked, "count[1]") == ["[count[1]] number 1"]
    assert len(lines(talked, "count")) == 3


def test_a_level_leaves_out_what_was_printed(talked: Path) -> None:
    assert lines(talked, "speak", "--level", "warning") == [
        "[speak] WARNING a record of 30",
        "[speak] CRITICAL a record of 50",
    ]
    errors = lines(talked, "fail_once", "--level", "ERROR")
    assert errors[0] == "[fail_once] ERROR Traceback (most recent call last):"
    assert all(line.startswith("[fail_once] ERROR ") for line in errors)


def test_one_try(talked: Path) -> None:
    assert lines(talked, "fail_once", "--try", "2") == ["[fail_once try 2] try 2"]
    assert lines(talked, "--try", "2") == ["[fail_once try 2] try 2"]


def test_a_pattern_is_searched_in_the_text_alone(talked: Path) -> None:
    assert lines(talked, "--grep", r"^number [02]$") == ["[count[0]] number 0", "[count[2]] number 2"]
    assert lines(talked, "--grep", "^valueerror: not yet", "-i") == ["[fail_once] ERROR ValueError: Not Yet"]
    none = command("logs", "talk", "--grep", "not yet", cwd=talked)
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "no line fits\n")
    assert command("logs", "talk", "--grep", "speak", cwd=talked).stdout == "", "ids and times are not searched"


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "(?P<n>a)(?P<n>b)", "a{99999999999}", "\x1b[("])
def test_a_bad_pattern_is_one_line_and_exit_2(talked: Path, pattern: str) -> None:
    done = command("logs", "talk", "--grep", pattern, cwd=talked)
    assert (done.returncode, done.stdout) == (2, "")
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1
    assert "is no regular expression of Python" in errors[0]
    assert "\x1b" not in done.stderr


def test_the_last_lines_that_fit(talked: Path) -> None:
    assert lines(talked, "--tail", "2") == ["[count[1]] number 1", "[count[2]] number 2"]
    assert lines(talked, "speak", "--tail", "1", "--level", "INFO") == ["[speak] CRITICAL a record of 50"]
    assert lines(talked, "--tail", "1", "--grep", "plain") == ["[speak] plain words"]
    assert lines(talked, "--tail", "1000") == lines(talked)
    assert command("logs", "talk", "--tail", "0", cwd=talked).stdout == ""


def test_raw_leaves_the_text_as_it_was_written_and_nothing_else(talked: Path) -> None:
    with sqlite3.connect(talked / "liteflow.db") as connection:
        connection.execute("UPDATE liteflow_task_instance SET task_id = '\x1b[7mspeak' WHERE task_id = 'speak'")
    connection.close()
    done = command("logs", "talk", "--raw", "--grep", "red", cwd=talked)
    assert done.stdout[20:] == "[\\x1b[7mspeak] \x1b[31mred\x1b[0m\n"


def test_json_is_one_document_with_these_keys(talked: Path) -> None:
    done = command("logs", "talk", "--json", cwd=talked)
    document = json.loads(done.stdout)
    assert done.stdout == json.dumps(document, indent=2) + "\n", "as if it was written at once"
    assert {tuple(one) for one in document} == {
        ("task_id", "map_index", "try_number", "at", "level", "logger", "message")
    }
    assert [one["level"] for one in document[:3]] == [None, None, "INFO"]
    assert document[1]["message"] == "\x1b[31mred\x1b[0m"
    assert len(document) == len(lines(talked))
    assert command("logs", "silent", "--json", cwd=talked).stdout == "[]\n"
    assert len(json.loads(command("logs", "talk", "--json", "--tail", "2", cwd=talked).stdout)) == 2


def test_a_delete_character_is_no_broken_json(talked: Path) -> None:
    with sqlite3.connect(talked / "liteflow.db") as connection:
        connection.execute("UPDATE liteflow_log_record SET message = 'a\x7fb'")
        connection.execute("UPDATE liteflow_task_instance SET error = 'a\x7fb'")
    connection.close()
    for args in (("logs", "talk"), ("logs", "talk", "--follow"), ("show", "talk")):
        done = command(*args, "--json", cwd=talked)
        assert "\x7f" not in done.stdout
        first = done.stdout.splitlines()[0] if "--follow" in args else done.stdout
        assert "a\x7fb" in json.dumps(json.loads(first), ensure_ascii=False)


def test_a_run_without_a_line(talked: Path) -> None:
    done = command("logs", "silent", cwd=talked)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing was logged\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["tlak"], "did you mean 'talk'?"),
        (["talk", "speek"], "has no task 'speek' (did you mean 'speak'?)"),
        (["talk", "count[3]"], "name one of its map indexes, 0 to 2"),
        (["talk", "speak[0]"], "was not expanded"),
        (["talk", "--raw", "--json"], "--raw is for text"),
        (["talk", "-i"], "-i goes with --grep"),
        (["talk", "--level", "LOUD"], "'LOUD'"),
        (["talk", "--try", "0"], "x>=1"),
        (["talk", "--tail", "-1"], "x>=0"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(talked: Path, args: list[str], said: str) -> None:
    for follow in ([], ["--follow"]):
        done = command("logs", *args, *follow, cwd=talked)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


# How it is read


@pytest.fixture
def run(db: str) -> Iterator[DagRun]:
    """A run of two tasks, `a` and `b`, that this process drives, with a lock of its own."""
    made = write_run(db, "own")
    lock = OwnLock(made.history.database.path, "own")
    yield made
    lock.release()


def write_run(db: str, name: str) -> DagRun:
    with open_database(db, create=True, pooled=False).write() as connection:
        dag_pk = recording.record_dag(connection, DagFacts("dag", None, (), "{}", "flow.py", "x"), 1)
        owner = recording.record_executor(connection, name, socket.gethostname(), start_time_of(os.getpid()), 1)
        recording.create_run(
            connection,
            dag_pk,
            run_id=name,
            logical_date=tables.from_microseconds(1),
            params_json="{}",
            structure_digest="x",
            tasks=[TaskFacts("a", [], "all_success"), TaskFacts("b", [], "all_success")],
            executor_pk=owner,
            now_us=1,
        )
    return open_history(db).find_run(f"dag/{name}")


def say(run: DagRun, *texts: str, task_id: str = "a", level: int | None = None) -> None:
    pk = run.task_instance(task_id).pk
    with run.history.database.write() as connection:
        recording.store_logs(connection, [(pk, 1, 1, level, None, text) for text in texts])


def end(run: DagRun) -> None:
    with run.history.database.write() as connection:
        recording.end_run(connection, run.pk, RunState.SUCCESS, None, 5)


def read(reader: LogReader) -> list[str]:
    return [line.message for part in reader.written() for line in part]


@pytest.mark.parametrize(("first", "most"), [(1, 1), (1, 2), (3, 4), (7, 100), (100, 100)])
def test_nothing_is_missed_or_told_twice_in_whatever_parts_it_is_read(
    run: DagRun, first: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FIRST_KEYS", first)
    monkeypatch.setattr(logs, "MOST_KEYS", most)
    other = write_run(run.history.database.path, "other")
    texts = [str(number) for number in range(20)]
    reader = LogReader(run)
    assert read(reader) == []
    for number in range(0, 20, 5):
        say(other, "not ours")
        say(run, *texts[number : number + 5])
        if number != 5:
            assert read(reader) == texts[(0 if number == 0 else 5 if number == 10 else number) : number + 5]
    assert read(LogReader(run)) == texts
    assert [one.message for one in LogReader(run).latest(7)] == texts[-7:]
    late = LogReader(run)
    assert [one.message for one in late.latest(1)] == texts[-1:]
    say(run, "one more", "and another")
    assert read(late) == ["one more", "and another"]


@pytest.mark.sqlite("which way SQLite takes")
def test_keys_that_are_given_again_hide_nothing(run: DagRun) -> None:
    """SQLite gives the keys of deleted lines again when they were the greatest ones."""
    say(run, "first")
    other = write_run(run.history.database.path, "other")
    say(other, *["noise"] * 10)
    reader, silent_so_far = LogReader(run), LogReader(run, "b")
    assert (read(reader), read(silent_so_far)) == (["first"], [])
    run.history.delete_run(other.pk)
    say(run, "second")
    say(run, "from b", task_id="b")
    with run.history.read() as connection:
        last = connection.exec_driver_sql("SELECT max(id) FROM liteflow_log_record").scalar_one()
    assert last < 11, "below what it has seen"
    assert read(reader) == ["second", "from b"]
    assert read(silent_so_far) == ["from b"]


def test_only_the_last_of_what_is_new(run: DagRun) -> None:
    reader = LogReader(run)
    assert reader.newest(3) == []
    say(run, "1", "2", "3", "4")
    assert [one.message for one in reader.newest(3)] == ["2", "3", "4"]
    assert reader.newest(3) == []


@pytest.mark.sqlite("which way SQLite takes")
def test_new_lines_are_found_without_looking_at_old_ones(run: DagRun) -> None:
    def plan(statement: object) -> list[str]:
        with run.history.read() as connection:
            driver = connection.info[DRIVER]
            compiled = statement.compile(connection, compile_kwargs={"literal_binds": True})  # type: ignore[attr-defined]
            return [row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {compiled}")]

    for task_id, map_index in ((None, None), ("a", None), ("a", -1)):
        instances = LogReader(run, task_id, map_index)._instances
        new = plan(logs.keys_of_new(instances, 10))
        assert "SEARCH liteflow_log_record USING INTEGER PRIMARY KEY (rowid>?)" in new[0], new
        assert any("SEARCH liteflow_task_instance USING INTEGER PRIMARY KEY (rowid=?)" in one for one in new), new
        assert not any("SCAN" in one and "SUBQUERY" not in one for one in new), new
        for statement in (logs.keys_of_instances(instances, 10), logs.keys_backwards(instances, 10, 5)):
            found = plan(statement)
            assert re.search("SEARCH liteflow_task_instance USING .*INDEX .*run_pk=", found[0]), found
            assert re.search(
                r"SEARCH liteflow_log_record USING COVERING INDEX .*task_instance_pk=\? AND rowid", found[1]
            )


# Following


Steps = Callable[[], None]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Do something whenever the command waits: what other processes do while it runs, without any."""

    def plan(*steps: Steps) -> None:
        left = list(steps)

        def pause(_seconds: float) -> None:
            assert left, "it waits although nothing more will come"
            left.pop(0)()

        monkeypatch.setattr(following, "wait_for_reader", pause)

    return plan


def test_a_run_is_followed_until_it_is_over(run: DagRun, meanwhile: Callable[..., None], tmp_path: Path) -> None:
    say(run, "before")
    meanwhile(
        lambda: say(run, "one", "two"),
        lambda: None,
        lambda: say(run, "of b", task_id="b"),
        lambda: (say(run, "last"), end(run)),
    )
    done = command("logs", "dag", "a", "-f", "--db", run.history.database.path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[20:] for line in done.stdout.splitlines()] == ["[a] before", "[a] one", "[a] two", "[a] last"]
    again = command("logs", "dag", "a", "-f", "--db", run.history.database.path, cwd=tmp_path)
    assert again.stdout == done.stdout, "one that is over is not waited for"


def test_following_as_json_is_an_object_on_each_line(
    run: DagRun, meanwhile: Callable[..., None], tmp_path: Path
) -> None:
    say(run, "old", "before")
    meanwhile(lambda: say(run, "one", level=30), lambda: end(run))
    done = command("logs", "dag", "-f", "--tail", "1", "--json", "--db", run.history.database.path, cwd=tmp_path)
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["message"], one["level"]) for one in documents] == [("before", None), ("one", "WARNING")]
    assert set(documents[0]) == {"task_id", "map_index", "try_number", "at", "level", "logger", "message"}


def test_filters_hold_while_it_follows(run: DagRun, meanwhile: Callable[..., None], tmp_path: Path) -> None:
    meanwhile(lambda: say(run, "no", "yes 1"), lambda: say(run, "yes 2", level=40), lambda: end(run))
    done = command(
        "logs", "dag", "-f", "--grep", "yes", "--level", "ERROR", "--db", run.history.database.path, cwd=tmp_path
    )
    assert [line[20:] for line in done.stdout.splitlines()] == ["[a] ERROR yes 2"]


def test_a_run_whose_owner_dies_ends_it_and_is_named_with_what_to_do(
    run: DagRun, meanwhile: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "OWNER_LOOK_S", 0.0)
    (lock_file,) = lock_directory(run.history.database.path).iterdir()
    meanwhile(lambda: say(run, "one"), lambda: (say(run, "two"), lock_file.unlink()))
    done = command("logs", "dag", "-f", "--db", run.history.database.path, cwd=tmp_path)
    assert done.returncode == 0
    assert [line[20:] for line in done.stdout.splitlines()] == ["[a] one", "[a] two"]
    with contextlib.chdir(tmp_path):
        where = db_hint(run.history.database.path)
    assert where.startswith(" --db ")
    assert done.stderr == (
        f"dag/own was interrupted: nothing drives it. Go on with: liteflow run flow.py --resume dag/own{where}\n"
    )


def test_a_run_that_is_taken_up_by_another_is_followed_on(
    run: DagRun, meanwhile: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "OWNER_LOOK_S", 0.0)
    path = run.history.database.path
    locks = lock_directory(path)

    takers: list[OwnLock] = []

    def taken_up() -> None:
        (locks / "own.lock").unlink()
        takers.append(OwnLock(path, "taker"))
        with run.history.database.write() as connection:
            pk = recording.record_executor(connection, "taker", socket.gethostname(), start_time_of(os.getpid()), 1)
            connection.execute(update(tables.DAG_RUN).values(executor_pk=pk))

    meanwhile(taken_up, lambda: say(run, "by the other"), lambda: end(run))
    done = command("logs", "dag", "-f", "--db", run.history.database.path, cwd=tmp_path)
    takers[0].release()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("[a] by the other\n")


def test_a_queued_run_is_waited_for(run: DagRun, meanwhile: Callable[..., None], tmp_path: Path) -> None:
    def change(sql: str) -> Steps:
        def step() -> None:
            with run.history.database.write() as connection:
                connection.exec_driver_sql(f"UPDATE liteflow_dag_run SET {sql}")

        return step

    owner = run.owner
    assert owner is not None
    change("state = 'queued', executor_pk = NULL")()
    meanwhile(
        lambda: None, change(f"state = 'running', executor_pk = {owner.pk}"), lambda: say(run, "x"), lambda: end(run)
    )
    done = command("logs", "dag", "-f", "--db", run.history.database.path, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == "dag/own is queued: waiting for it to begin\n"
    assert done.stdout.endswith("[a] x\n")


def test_a_run_that_is_deleted_meanwhile_is_told(run: DagRun, meanwhile: Callable[..., None], tmp_path: Path) -> None:
    meanwhile(lambda: run.history.delete_run(run.pk))
    done = command("logs", "dag", "-f", "--db", run.history.database.path, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the run is not there any more" in done.stderr


@pytest.mark.sqlite("about the file of the database")
def test_a_file_that_is_removed_meanwhile_is_told(
    run: DagRun, meanwhile: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "OWNER_LOOK_S", 0.0)
    meanwhile(lambda: Path(run.history.database.path).unlink())
    done = command("logs", "dag", "-f", "--db", run.history.database.path, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "was removed or replaced" in done.stderr
    assert not Path(run.history.database.path).exists(), "nor is it made anew"


def test_ctrl_c_ends_it_with_130(run: DagRun, meanwhile: Callable[..., None], tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    say(run, "before")
    meanwhile(interrupt)
    done = command("logs", "dag", "-f", "--db", run.history.database.path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.endswith("[a] before\n")


@pytest.mark.sqlite("a server does not tell that nothing was committed")
def test_while_nothing_is_committed_nothing_is_read(
    run: DagRun, meanwhile: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scopes = []
    original = type(run.history).read
    monkeypatch.setattr(type(run.history), "read", lambda self: scopes.append(1) or original(self))
    seen: list[int] = []
    meanwhile(*[lambda: seen.append(len(scopes))] * 5, lambda: end(run))
    assert command("logs", "dag", "-f", "--db", run.history.database.path, cwd=tmp_path).returncode == 0
    assert len(set(seen)) == 1, "five looks at the database without a scope"
