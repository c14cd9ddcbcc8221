"""The command line: stdout and stderr, exit codes, JSON, and what a stranger's database cannot do to it."""

from __future__ import annotations

import json
import pickle
import re
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from liteflow.cli import _COMMANDS
from tests.conftest import Script, command, liteflow, run_python

DAG = """
from liteflow import Dag, SkipTask, task

class Odd:
    pass

@task
def extract(day: str) -> list[int]:
    print("extracting", day)
    return [1, 2, 3]

@task
def load(rows):
    import logging
    logging.getLogger("loader").warning("loading %d rows", len(rows))
    return sum(rows)

@task(retries=1)
def check(fine):
    if not fine:
        raise RuntimeError("not fine")

@task
def odd():
    return Odd()

with Dag("etl", db_path="own.db", description="Orders", params={"day": "2026-01-01", "fine": True}) as dag:
    rows = extract(dag.param("day"))
    load(rows) >> check(dag.param("fine")) >> odd()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "etl.py").write_text(DAG)
    return tmp_path


@pytest.fixture
def ran(project: Path) -> Path:
    done = liteflow("run", "etl.py", "--run-id", "r1", "--db", "liteflow.db", cwd=project)
    assert done.returncode == 0, done.stderr
    return project


def test_run_says_what_it_did_and_exits_with_0(project: Path) -> None:
    done = liteflow("run", "etl.py", "--run-id", "r1", "--param", "day=2026-03-04", cwd=project)
    assert (done.returncode, done.stdout) == (0, "etl/r1 success\n"), done.stderr
    assert "[extract] extracting 2026-03-04" in done.stderr
    assert "[load] loading 3 rows" in done.stderr
    assert "run r1 success in" in done.stderr
    assert (project / "own.db").exists(), "the dag's own db_path is used unless --db says otherwise"


def test_a_failed_run_exits_with_1_and_says_where_to_look(project: Path) -> None:
    done = liteflow("run", "etl.py", "--run-id", "r1", "--param", "fine=false", cwd=project)
    assert (done.returncode, done.stdout) == (1, "etl/r1 failed\n")
    last = done.stderr.splitlines()[-3:]
    assert last[0].startswith("run r1 failed in ")
    assert last[1] == "  check: RuntimeError: not fine"
    command = last[2].removeprefix("  its log: liteflow ").split()
    log = liteflow(*command, cwd=project)
    assert "RuntimeError: not fine" in log.stdout
    assert "try 2" in log.stdout


def test_run_as_json(project: Path) -> None:
    done = liteflow("run", "etl.py", "--json", "-q", "--param", "fine=false", cwd=project)
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert (document["state"], document["params"]) == ("failed", {"day": "2026-01-01", "fine": False})
    shown = command("show", "etl", "--db", "own.db", cwd=project).stdout
    tries = [line.split()[1:4] for line in shown.splitlines() if line.startswith("check ")]
    assert tries == [["failed", "(error)", "1"], ["failed", "(error)", "2"]]


def test_a_text_param_stays_text_and_others_are_json(project: Path) -> None:
    (project / "p.py").write_text(
        "from liteflow import Dag, task\n@task\ndef see(params):\n    return params\n"
        "with Dag('p', params={'code': '', 'n': 0, 'any': None}) as dag:\n    see()\n"
    )
    assert (
        liteflow("run", "p.py", "--param", "code=007", "--param", "n=7", "--param", "any=[1]", cwd=project).returncode
        == 0
    )
    value = command("xcom", "p", "see", "return_value", cwd=project).stdout
    assert json.loads(value) == {"code": "007", "n": 7, "any": [1]}


def test_a_dag_function_that_the_file_does_not_call_is_called(project: Path) -> None:
    (project / "f.py").write_text(
        "from liteflow import dag, task\n@dag\ndef flow(n=1):\n"
        "    @task\n    def see(n):\n        return n\n    see(n)\n"
    )
    done = liteflow("run", "f.py", "-q", "--run-id", "r", "--param", "n=7", cwd=project)
    assert (done.returncode, done.stdout) == (0, "flow/r success\n")
    assert command("xcom", "flow", "see", "return_value", cwd=project).stdout == "7\n"


def test_logical_date(project: Path) -> None:
    done = liteflow("run", "etl.py", "--json", "-q", "--logical-date", "2026-01-31T06:00+01:00", cwd=project)
    assert json.loads(done.stdout)["logical_date"] == "2026-01-31T05:00:00+00:00"
    bad = liteflow("run", "etl.py", "--logical-date", "yesterday", cwd=project)
    assert (bad.returncode, "is no ISO 8601" in bad.stderr) == (2, True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nope.py"], "nope.py: no such file"),
        (["etl.py:elt"], "no dag 'elt' (did you mean 'etl'?)"),
        (["etl.py", "--param", "dya=1"], "no param 'dya' (did you mean 'day'?)"),
        (["etl.py", "--param", "day"], "is not of the form K=V"),
        (["etl.py", "--run-id", "a b"], "'a b' is no run id"),
        (["none.py"], "makes no dag when it is imported"),
        (["two.py"], "has several dags; name one:"),
        (["same.py"], "dag id 'a' is taken by the dag made at"),
        (["syntax.py"], "syntax.py:2: "),
        (["broken.py"], "broken.py:2: ZeroDivisionError: division by zero"),
        (["leaves.py"], "leaves.py:5: the file ends the process when it is imported (SystemExit: 3)"),
        (["says.py"], "says.py:2: the file ends the process when it is imported (SystemExit: no config)"),
        (["cycle.py"], "(a -> b -> a)"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(project: Path, args: list[str], message: str) -> None:
    files = {
        "none.py": "from liteflow import dag\n",
        "two.py": "from liteflow import Dag\nDag('a')\nDag('b')\n",
        "same.py": "from liteflow import Dag\nDag('a')\nDag('a')\n",
        "syntax.py": "x = 1\nx = = 2\n",
        "leaves.py": "import sys\nfrom liteflow import Dag\nDag('a')\ndef main():\n    sys.exit(3)\nmain()\n",
        "says.py": "import sys\nsys.exit('no config')\n",
        "broken.py": "def f():\n    return 1 / 0\nf()\n",
        "cycle.py": "from liteflow import Dag, task\n@task\ndef a(): pass\n@task\ndef b(): pass\n"
        "with Dag('c'):\n    x = a()\n    x >> b() >> x\n",
    }
    for name, text in files.items():
        (project / name).write_text(text)
    done = liteflow("run", *args, cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith(("Usage:", "Try ")) and line]
    assert len(errors) == 1, done.stderr
    assert not list(project.glob("*.db")), "nothing was recorded"


def test_debug_shows_the_traceback(project: Path) -> None:
    done = liteflow("--debug", "run", "nope.py", cwd=project)
    assert "Traceback" in done.stderr


def test_listings(ran: Path) -> None:
    dags = command("dags", cwd=ran).stdout.splitlines()
    assert dags[0].split() == ["DAG", "RUNS", "LATEST", "AT", "LAST", "RUNS", "MEDIAN", "DESCRIPTION"]
    assert dags[1].split()[:3] == ["etl", "1", "success"]
    assert command("runs", cwd=ran).stdout.splitlines()[1].split()[:3] == ["etl", "r1", "success"]
    show = command("show", "etl", cwd=ran).stdout
    assert show.startswith("etl/r1  success")
    assert [line.split()[:3] for line in show.splitlines()[-4:]] == [
        ["extract", "success", "1"],
        ["load", "success", "1"],
        ["check", "success", "1"],
        ["odd", "success", "1"],
    ]
    log = command("logs", "etl", cwd=ran).stdout.splitlines()
    assert [line[20:] for line in log] == ["[extract] extracting 2026-01-01", "[load] WARNING loading 3 rows"]
    assert command("logs", "etl", "extract", cwd=ran).stdout.splitlines() == log[:1]
    assert command("xcom", "etl", "load", "return_value", cwd=ran).stdout == "6\n"


def test_listings_as_json(ran: Path) -> None:
    def read(*args: str) -> object:
        done = command(*args, "--json", cwd=ran)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    (dag,) = read("dags")
    assert set(dag) == {
        "dag_id", "description", "tags", "file", "retain_runs", "retain_days", "runs", "latest_run", "last_runs",
        "median_duration_s",
    }  # fmt: skip
    assert (dag["dag_id"], dag["runs"], dag["latest_run"]["state"]) == ("etl", 1, "success")
    (run,) = read("runs")
    assert set(run) == {
        "dag_id", "run_id", "state", "end_reason", "interrupted", "logical_date", "created_at", "started_at",
        "ended_at", "duration_s", "params", "rerun_of", "priority",
    }  # fmt: skip
    shown = read("show", "etl")
    assert shown["interrupted"] is False
    assert [one["task_id"] for one in shown["task_instances"]] == ["extract", "load", "check", "odd"]
    assert shown["task_instances"][1]["upstream"] == ["extract"]
    entries = read("logs", "etl")
    assert [(one["level"], one["logger"], one["message"]) for one in entries] == [
        (None, None, "extracting 2026-01-01"),
        ("WARNING", "loader", "loading 3 rows"),
    ]
    (value,) = read("xcom", "etl", "extract")
    assert (value["encoding"], value["value"], value["size_bytes"]) == ("json", [1, 2, 3], 7)
    (odd,) = read("xcom", "etl", "odd")
    assert (odd["encoding"], odd["value"]) == ("pickle", None)


def test_visualize_draws_every_task_with_its_state(ran: Path) -> None:
    done = command("visualize", "etl", "--db", "liteflow.db", cwd=ran)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[1] == "flowchart LR"
    assert "t0 --> t1" in lines
    assert "class t0,t1,t2,t3 success" in lines
    assert command("visualize", "etl/r1", "--direction", "TD", cwd=ran).stdout.splitlines()[1] == "flowchart TD"


@pytest.mark.parametrize(
    "args", [["show", "elt"], ["visualize", "elt"], ["logs", "etl", "lod"], ["xcom", "etl", "lod"], ["runs", "elt"]]
)
def test_unknown_names_get_the_nearest_one(ran: Path, args: list[str]) -> None:
    done = command(*args, cwd=ran)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean" in done.stderr


def test_a_dag_without_a_run_is_told_so(ran: Path) -> None:
    assert command("delete", "etl/r1", "--yes", cwd=ran).returncode == 0
    done = command("visualize", "etl", cwd=ran)
    assert (done.returncode, done.stdout) == (2, "")
    assert "dag 'etl' has no run yet" in done.stderr


def test_an_ambiguous_run_lists_the_candidates(ran: Path) -> None:
    assert liteflow("run", "etl.py", "--run-id", "r2", "--db", "liteflow.db", cwd=ran).returncode == 0
    done = command("show", "r", cwd=ran)
    assert done.returncode == 2
    assert "etl/r2, etl/r1" in done.stderr


def test_delete_asks_and_takes_everything_of_the_run(ran: Path) -> None:
    refused = command("delete", "etl/r1", cwd=ran)
    assert refused.returncode == 2
    assert "Delete run etl/r1? There is no terminal to ask on: say --yes" in refused.stderr
    assert command("delete", "--dag", "etl", "--yes", cwd=ran).returncode == 0
    connection = sqlite3.connect(ran / "liteflow.db")
    for table in ("dag", "dag_run", "task_instance", "xcom", "log_record", "task_try"):
        assert connection.execute(f"SELECT count(*) FROM liteflow_{table}").fetchone() == (0,), table
    connection.close()
    assert command("dags", cwd=ran).stderr == "no dag has run here yet\n"


@pytest.mark.parametrize(
    "args", [["dags"], ["runs"], ["show", "x"], ["logs", "x"], ["visualize", "x"], ["delete", "x"]]
)
def test_a_missing_database_is_exit_3_and_is_not_created(tmp_path: Path, args: list[str]) -> None:
    done = command(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "no such database" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_scaffold_writes_a_dag_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "my_workflow.py"
    done = command("scaffold", cwd=tmp_path)
    path.write_text(done.stdout)
    ran = run_python("my_workflow.py", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "success: 48\n"), ran.stderr
    drawn = command("visualize", "my_workflow", cwd=tmp_path)
    assert "extract" in drawn.stdout
    for check in (
        ["check", "--isolated", "--select", "E,F,W,I,B,UP,D100,D103,ANN"],
        ["format", "--check", "--isolated"],
    ):
        linted = run_python("-m", "ruff", *check, "my_workflow.py", cwd=tmp_path)
        assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("name", ["a b", "\u00fc"])
def test_a_bad_id_at_the_prompt_names_no_line_of_code(name: str, tmp_path: Path) -> None:
    done = command("scaffold", "--dag-id", name, cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, done.stdout) == (2, "")
    assert last.endswith(f": '{name}' is no dag id: use 1 to 250 ASCII letters, digits, '_', '.' and '-'")
    assert ".py" not in last


def test_scaffold_never_overwrites(tmp_path: Path) -> None:
    assert command("scaffold", "-o", "flow.py", "--dag-id", "nightly", cwd=tmp_path).returncode == 0
    text = (tmp_path / "flow.py").read_text()
    assert '"nightly",' in text
    again = command("scaffold", "-o", "flow.py", cwd=tmp_path)
    assert again.returncode == 2
    assert "exists; nothing was written" in again.stderr
    assert (tmp_path / "flow.py").read_text() == text


EVIL = '\x1b]0;owned\x07 \x1b[2J <script>alert(1)</script> "]; click t0 call() %% \n end'


def test_nothing_in_a_strangers_database_reaches_the_terminal_or_runs(ran: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    connection = sqlite3.connect(ran / "liteflow.db")
    connection.execute("UPDATE liteflow_task_instance SET task_id = task_id || ?, error = ?", (EVIL, EVIL))
    connection.execute("UPDATE liteflow_log_record SET message = ?, logger = ?", (EVIL, EVIL))
    connection.execute("UPDATE liteflow_dag SET description = ?", (EVIL,))
    connection.execute(
        "UPDATE liteflow_xcom SET encoding = 'pickle', value = ?, key = key || ?", (pickle.dumps(Bomb()), EVIL)
    )
    connection.commit()
    connection.close()
    for args in (
        ["dags"],
        ["runs"],
        ["show", "etl"],
        ["logs", "etl"],
        ["xcom", "etl", "load" + EVIL],
        ["visualize", "etl"],
    ):
        for flag in ([], ["--json"]):
            if args[0] == "visualize" and flag:
                continue
            done = command(*args, *flag, cwd=ran)
            assert done.returncode == 0, done.stderr
            assert "\x1b" not in done.stdout + done.stderr
            assert "\x07" not in done.stdout + done.stderr
    drawn = command("visualize", "etl", cwd=ran).stdout
    assert "<script" not in drawn
    assert "click" not in [line.strip().split(" ")[0] for line in drawn.splitlines()]
    assert not (tmp_path / "exploded").exists()


def test_the_list_of_commands_says_what_each_says_itself() -> None:
    from click.testing import CliRunner

    from liteflow.cli import cli

    runner = CliRunner()
    listed = runner.invoke(cli, ["--help"]).output
    for name, (_, words) in _COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(words)}$", listed, re.MULTILINE), listed
        own = " ".join(cli.get_command(click.Context(cli), name).help.split())
        assert own.startswith(words.removesuffix("."))


def test_help_imports_neither_sqlalchemy_nor_alembic(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom liteflow.cli import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'sqlalchemy', 'alembic', 'rich', 'cloudpickle'}))"
    )
    assert run_python("-c", code, cwd=tmp_path).stdout == "[]\n"


def test_the_console_script_and_the_module_are_the_same(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "liteflow"
    if not script.exists():
        pytest.fail("liteflow is not installed in this environment; see the README's test command")
    import subprocess

    direct = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert direct.stdout == command("--version", cwd=tmp_path).stdout == "liteflow, version 0.1.0\n"


def test_cancel_from_another_process(script: Callable[..., Script], tmp_path: Path) -> None:
    from tests.conftest import wait_until

    process = script(
        "import threading\nfrom pathlib import Path\nfrom liteflow import Dag, task\n"
        "@task(kill_grace_s=5)\ndef wait():\n    Path('begun').touch()\n    threading.Event().wait(60)\n"
        "with Dag('waiting') as dag:\n    wait()\n"
        "if __name__ == '__main__':\n    run = dag.run()\n    print(run.state, run.end_reason)\n"
    ).start()
    wait_until((tmp_path / "begun").exists, "the task runs")
    refused = command("delete", "waiting", "--yes", cwd=tmp_path)
    assert (refused.returncode, "cancel it first" in refused.stderr) == (2, True)
    assert command("cancel", "waiting", cwd=tmp_path).returncode == 0
    assert process.communicate(timeout=30)[0] == "failed cancelled\n"
    over = command("cancel", "waiting", cwd=tmp_path)
    assert (over.returncode, "is over already" in over.stderr) == (0, True)
