"""Mapped tasks on the command line: thousands of instances as a few rows, and each of them by its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import BigInteger, event, insert, literal, select, update

from liteflow import Dag
from liteflow.cli import cli
from liteflow.cli.common import task_and_index
from liteflow.execution.progress import PlainDisplay
from liteflow.states import EndReason, RunState
from liteflow.states import TaskInstanceState as S
from liteflow.storage import recording, summaries, tables
from liteflow.storage.engine import Database
from liteflow.storage.history import DagRun, open_history
from liteflow.storage.recording import DagFacts, TaskFacts
from liteflow.storage.schema import open_database

NOW = tables.from_microseconds(1_767_225_600_000_000)
TI, Try = tables.TASK_INSTANCE, tables.TASK_TRY

Cells = Mapping[tuple[str, int], Mapping[str, Any]]


class Recorded:
    """A database into which runs are put by hand; each time is a second after the last map index."""

    def __init__(self, path: str) -> None:
        self.database: Database = open_database(path, create=True, pooled=False)

    def run(
        self,
        tasks: list[TaskFacts],
        run_id: str = "r",
        *,
        state: RunState = RunState.SUCCESS,
        cells: Cells | None = None,
    ) -> dict[tuple[str, int], int]:
        """Record a run whose task instances all succeeded, but for what `cells` says. Returns their keys."""
        us, second = tables.to_microseconds(NOW), literal(1_000_000, BigInteger)
        with self.database.write() as session:
            dag_pk = recording.record_dag(session, DagFacts("etl", None, (), "{}", None, "0" * 64), us)
            run_pk, pks = recording.create_run(
                session,
                dag_pk,
                run_id=run_id,
                logical_date=NOW,
                params_json="{}",
                structure_digest="0" * 64,
                tasks=tasks,
                executor_pk=None,
                now_us=us,
            )
            keys = [(task.task_id, index) for task in tasks for index in task.map_indexes]
            by_key = dict(zip(keys, pks, strict=True))
            session.execute(
                update(TI)
                .where(TI.c.run_pk == run_pk)
                .values(
                    state=S.SUCCESS,
                    try_number=1,
                    started_at=us + (TI.c.map_index + 1) * second,
                    ended_at=us + (TI.c.map_index + 3) * second,
                )
            )
            for key, values in (cells or {}).items():
                session.execute(update(TI).where(TI.c.id == by_key[key]).values(values))
            session.execute(
                update(tables.DAG_RUN)
                .where(tables.DAG_RUN.c.id == run_pk)
                .values(state=state, started_at=us, ended_at=us + 9_000_000)
            )
        return by_key

    def add_try(self, pk: int, number: int, error: str) -> None:
        """An earlier try of a task instance."""
        row = {"task_instance_pk": pk, "try_number": number, "generation": 0, "state": S.FAILED, "error": error}
        with self.database.write() as session:
            session.execute(insert(Try).values(row))


@pytest.fixture
def recorded(db: str) -> Recorded:
    return Recorded(db)


@pytest.fixture
def command(db: str) -> Callable[..., Result]:
    """Run a command on the database."""

    def run(*args: str) -> Result:
        return CliRunner().invoke(cli, [*args, "--db", db])

    return run


def failed(error: str, **more: Any) -> dict[str, Any]:
    return {"state": S.FAILED, "end_reason": EndReason.ERROR, "error": error, **more}


def mapped(count: int, task_id: str = "add_one") -> list[TaskFacts]:
    """Three tasks, the second of which is mapped."""
    return [
        TaskFacts("names", [], "all_success"),
        TaskFacts(task_id, ["names"], "all_success", range(count)),
        TaskFacts("total", [task_id], "all_done"),
    ]


def rows_of(result: Result) -> list[str]:
    """The rows of the table, without its heading, blanks in one."""
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(("TASK", "KEY", "MAP", "DAG")))
    return [" ".join(line.split()) for line in lines[start + 1 :]]


# show


def test_many_instances_are_one_row_and_then_the_first_that_failed(
    recorded: Recorded, command: Callable[..., Result]
) -> None:
    cells = {("add_one", index): failed(f"ValueError: {index} {'x' * 70}") for index in range(17, 1_017)}
    cells["add_one", 20] = failed("ValueError: 20", try_number=3)
    recorded.run(mapped(10_000), cells=cells)
    result = command("show", "etl")
    assert result.stdout.startswith("etl/r  success, 1 task failed  9.0 s\n")
    rows = rows_of(result)
    assert len(rows) == 1 + 1 + 10 + 1 + 1
    assert rows[1].startswith("add_one [10,000] 9,000 success, 1,000 failed 3 20")
    assert "2:46:41 h [17]: ValueError: 17 xxx" in rows[1]
    assert rows[1].endswith("xxx...")
    assert [row.split()[0] for row in rows[2:12]] == [f"add_one[{index}]" for index in range(17, 27)]
    assert rows[2].endswith("x" * 70)
    assert rows[12] == "and 990 more failed"
    assert rows[13].startswith("total success")


def test_a_few_failed_instances_are_all_there(recorded: Recorded, command: Callable[..., Result]) -> None:
    recorded.run(mapped(6), cells={("add_one", index): failed("E") for index in range(6)})
    rows = rows_of(command("show", "etl"))
    assert [row.split(" 20")[0] for row in rows] == [
        "names success 1",
        "add_one [6] 6 failed 1",
        *(f"add_one[{index}] failed (error) 1" for index in range(6)),
        "total success 1",
    ]


def test_unfinished_instances_are_counted_and_the_task_is_not_over(
    recorded: Recorded, command: Callable[..., Result]
) -> None:
    new = {"try_number": 0, "started_at": None, "ended_at": None}
    cells = {("add_one", index): {"state": S.PENDING, **new} for index in range(6)}
    cells["add_one", 6] = {"state": S.RUNNING, "ended_at": None}
    recorded.run(mapped(8), cells=cells)
    (row,) = [row for row in rows_of(command("show", "etl")) if row.startswith("add_one")]
    assert row.startswith("add_one [8] 1 success, 1 running, 6 pending 1 20")
    assert row.endswith(" -"), "it is not known yet how long it takes"


def test_few_instances_are_listed_singly_with_their_labels_and_tries(
    recorded: Recorded, command: Callable[..., Result]
) -> None:
    pks = recorded.run(mapped(3), cells={("add_one", 1): {"rendered_map_index": "in Feb", "try_number": 2}})
    recorded.add_try(pks["add_one", 1], 1, "OSError: gone")
    recorded.add_try(pks["total", -1], 1, "OSError: lost")
    rows = rows_of(command("show", "etl"))
    assert [row.split(" 20")[0] for row in rows] == [
        "names success 1",
        "add_one[0] success 1",
        "add_one[1 in Feb] failed 1 - - OSError: gone",
        "add_one[1 in Feb] success 2",
        "add_one[2] success 1",
        "total failed 1 - - OSError: lost",
        "total success 1",
    ]


def test_all_and_json_list_every_instance(recorded: Recorded, command: Callable[..., Result]) -> None:
    pks = recorded.run(mapped(1_000), cells={("add_one", 7): {"rendered_map_index": "seven"}})
    recorded.add_try(pks["add_one", 8], 1, "OSError: gone")
    assert not any("OSError" in row for row in rows_of(command("show", "etl")))
    rows = rows_of(command("show", "etl", "--all"))
    assert len(rows) == 1_003
    assert rows[8].startswith("add_one[7 seven] success")
    assert rows[9].startswith("add_one[8] failed 1")
    document = json.loads(command("show", "etl", "--json").stdout)
    assert [one["map_index"] for one in document["task_instances"]] == [-1, *range(1_000), -1]
    assert document["task_instances"][8]["rendered_map_index"] == "seven"
    assert [(one["task_id"], one["map_index"]) for one in document["tries"]] == [("add_one", 8)]


def test_a_mapped_task_that_is_not_expanded_looks_like_any_other(
    recorded: Recorded, command: Callable[..., Result]
) -> None:
    recorded.run([TaskFacts("add_one", [], "all_success")], cells={("add_one", -1): {"state": S.PENDING}})
    (row,) = rows_of(command("show", "etl"))
    assert row.startswith("add_one pending")


def test_an_expansion_keeps_the_task_in_its_place(recorded: Recorded, command: Callable[..., Result]) -> None:
    tasks = [TaskFacts("add_one", [], "all_success"), TaskFacts("total", ["add_one"], "all_success")]
    pks = recorded.run(tasks, cells={("add_one", -1): {"state": S.PENDING}})
    with recorded.database.write() as session:
        run_pk = session.scalar(select(TI.c.run_pk).where(TI.c.id == pks["add_one", -1]))
        recording.expand_instance(session, run_pk, pks["add_one", -1], tasks[0], 8)
    assert [row.split(" success")[0] for row in rows_of(command("show", "etl"))][1:] == ["total"]


def test_showing_reads_no_more_rows_than_it_prints(recorded: Recorded, command: Callable[..., Result]) -> None:
    """The tries used to be searched anew for each instance, and all instances were made into objects."""
    pks = recorded.run(mapped(2_000), cells={("add_one", 3): failed("E")})
    for index in range(50):
        recorded.add_try(pks["add_one", index], 1, "OSError: gone")
    run = open_history(recorded.database.path).find_run("etl")
    with run.history.database.read() as session:
        listed = summaries.listed_instances(session, run.pk, most=5, most_failed=10)
        assert {task_id: len(found) for task_id, found in listed.items()} == {"names": 1, "add_one": 1, "total": 1}
        assert summaries.listed_tries(session, run.pk, most=5) == {}
        assert len(summaries.listed_tries(session, run.pk, most=None)) == 50


# runs, dags


def test_runs_say_how_many_tasks_failed_in_a_run_that_went_well(
    recorded: Recorded, command: Callable[..., Result]
) -> None:
    cells = {("add_one", index): failed("E") for index in range(3)}
    recorded.run(mapped(4), "r1", cells={**cells, ("names", -1): failed("E")})
    recorded.run(mapped(4), "r2", cells=cells, state=RunState.FAILED)
    recorded.run(mapped(4), "r3")
    recorded.run(mapped(4), "r4", cells=cells)
    assert [row.split(" 20")[0] for row in rows_of(command("runs"))] == [
        "etl r4 success, 1 task failed",
        "etl r3 success",
        "etl r2 failed",
        "etl r1 success, 2 tasks failed",
    ]
    assert rows_of(command("dags"))[0].startswith("etl 4 success, 1 task failed")
    assert {run["state"] for run in json.loads(command("runs", "--json").stdout)} == {"success", "failed"}


def test_failed_tasks_of_many_runs_are_one_query(recorded: Recorded) -> None:
    for number in range(20):
        recorded.run(mapped(2), f"r{number}", cells={("add_one", 1): failed("E")})
    statements: list[str] = []
    with recorded.database.read() as session:
        event.listen(session, "before_cursor_execute", lambda *args: statements.append(args[2]))
        found = summaries.failed_tasks(session, list(range(1, 21)))
        assert found == dict.fromkeys(range(1, 21), 1)
        assert len(statements) == 1
        assert summaries.failed_tasks(session, []) == {}


# logs, xcom


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("add_one", ("add_one", None)),
        ("add_one[17]", ("add_one", 17)),
        ("group.add_one[0]", ("group.add_one", 0)),
        ("add_one[17 Feb [2026]]", ("add_one", 17)),
        ("add_one[x]", ("add_one[x]", None)),
        ("add_one[-1]", ("add_one[-1]", None)),
        ("[1]", ("[1]", None)),
    ],
)
def test_a_task_argument_may_name_one_instance(text: str, means: tuple[str, int | None]) -> None:
    assert task_and_index(text) == means


@pytest.fixture
def wrote(recorded: Recorded) -> Recorded:
    """A run whose mapped instances each logged a line and handed on a value."""
    pks = recorded.run(mapped(3), cells={("add_one", 1): {"rendered_map_index": "Feb"}})
    with recorded.database.write() as session:
        for (task_id, index), pk in pks.items():
            line = {"task_instance_pk": pk, "try_number": 1, "at": NOW, "message": f"{task_id} says {index}"}
            session.execute(insert(tables.LOG_RECORD).values(line))
            value = {"task_instance_pk": pk, "key": "return_value", "encoding": "json", "size_bytes": 1}
            data = str(index).encode()
            session.execute(insert(tables.XCOM).values(value | {"sha256": b"0" * 32, "value": data}))
    return recorded


@pytest.mark.usefixtures("wrote")
def test_logs_of_all_instances_or_of_one(command: Callable[..., Result]) -> None:
    def lines(*args: str) -> list[str]:
        return [line[20:] for line in command("logs", "etl", *args).stdout.splitlines()]

    assert lines("add_one") == [f"[add_one[{index}]] add_one says {index}" for index in range(3)]
    assert lines("add_one[1]") == lines("add_one[1 Feb]") == ["[add_one[1]] add_one says 1"]
    assert len(lines()) == 5
    missing = command("logs", "etl", "add_one[3]")
    assert missing.exit_code != 0


@pytest.mark.usefixtures("wrote")
def test_xcoms_of_all_instances_or_of_one(command: Callable[..., Result]) -> None:
    everything = command("xcom", "etl", "add_one")
    assert everything.stdout.splitlines()[0].split() == ["MAP", "KEY", "ENCODING", "SIZE", "VALUE"]
    assert [row.split()[0] for row in rows_of(everything)] == ["0", "1", "2"]
    one = command("xcom", "etl", "add_one[1]")
    assert one.stdout.splitlines()[0].split() == ["KEY", "ENCODING", "SIZE", "VALUE"]
    assert rows_of(one) == ["return_value json 1 B 1"]
    assert command("xcom", "etl", "names").stdout.startswith("KEY"), "no column for what is not mapped"
    assert command("xcom", "etl", "add_one", "return_value").stdout == "0\n1\n2\n"
    assert command("xcom", "etl", "add_one[2]", "return_value").stdout == "2\n"
    assert json.loads(command("xcom", "etl", "add_one[2]", "--json").stdout)[0]["map_index"] == 2
    assert command("xcom", "etl", "add_one[3]").exit_code != 0


# visualize


def test_a_mapped_task_is_one_node_with_one_edge(recorded: Recorded, command: Callable[..., Result]) -> None:
    recorded.run(mapped(10_000), cells={("add_one", index): failed("E") for index in range(10)})
    result = command("visualize", "etl")
    assert result.stderr == ""
    assert result.stdout.splitlines()[2:7] == [
        '    t0["names<br/>success 2.0 s"]',
        '    t1["add_one #91;10,000#93;<br/>9,990 success, 10 failed"]',
        '    t2["total<br/>success 2.0 s"]',
        "    t0 --> t1",
        "    t1 --> t2",
    ]


# The display of a run


def shown(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the display says of a run that has ended."""
    run: DagRun = open_history(recorded.database.path).find_run("etl")
    display = PlainDisplay()
    handle: Any = SimpleNamespace(run=run)
    with display.showing(Dag("etl"), run):
        assert display.tally.total == len(run.task_instances())
        display.finish(handle)
    return capsys.readouterr().err.splitlines()[1:]


def test_the_summary_counts_instances_and_names_failed_tasks(
    recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = {("add_one", index): failed(f"ValueError: {index}") for index in range(17, 27)}
    recorded.run(mapped(10_000), cells={**cells, ("names", -1): failed("KeyError: 'x'")})
    first, *rest = shown(recorded, capsys)
    assert first.startswith("run r success, 2 tasks failed in ")
    assert first.endswith(" s: 9,991 success, 11 failed")
    db = recorded.database.path
    assert rest == [
        "  names: KeyError: 'x'",
        "  add_one [10,000]: 9,990 success, 10 failed; [17]: ValueError: 17",
        f"  its log: liteflow logs etl/r names --db {db}",
    ]


def test_the_hint_at_the_log_of_a_mapped_instance_can_be_pasted(
    recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded.run(mapped(20), cells={("add_one", 3): failed("E")}, state=RunState.FAILED)
    assert " liteflow logs etl/r 'add_one[3]' --db " in shown(recorded, capsys)[-1]


def test_more_than_ten_failed_tasks_are_named_where_all_are(
    recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"t{number:02}" for number in range(12)]
    tasks = [TaskFacts(name, [], "all_success") for name in names]
    recorded.run(tasks, cells={(name, -1): failed("E") for name in names}, state=RunState.FAILED)
    lines = shown(recorded, capsys)
    assert lines[1:11] == [f"  {name}: E" for name in names[:10]]
    assert lines[11].startswith("  and 2 more tasks: liteflow show etl/r --db ")


def test_a_run_without_failures_has_one_line(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    recorded.run(mapped(3))
    (line,) = shown(recorded, capsys)
    assert line.endswith(": 5 success")
