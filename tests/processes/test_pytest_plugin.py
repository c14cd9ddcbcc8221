"""The pytest plugin, in a project of its own: `liteflow_db` and `run_dag`."""

from __future__ import annotations

import subprocess
from importlib.metadata import entry_points
from pathlib import Path

from tests.conftest import run_python
from tests.unit.test_rooms import modules_after

FLOWS = """
from liteflow import Dag, task

@task
def extract() -> list[int]:
    raise RuntimeError("no network in tests")

@task(retries=1, retry_delay=600)
def load(rows):
    print(f"loading {rows}")
    if not rows:
        raise ValueError("nothing to load")
    return len(rows)

@task
def tell(count):
    pass

with Dag("etl", params={"day": "monday"}) as dag:
    tell(load(extract()))
"""


def pytest_in(directory: Path, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest over these tests beside `flows.py`."""
    (directory / "flows.py").write_text(FLOWS)
    (directory / "test_flows.py").write_text(tests)
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    is_installed = any(one.value == "liteflow.pytest_plugin" for one in entry_points(group="pytest11"))
    plugin = [] if is_installed else ["-p", "liteflow.pytest_plugin"]
    # Not `-m pytest`, which has the directory in the path of imports.
    start = ["-c", "import sys; sys.path.remove(''); import pytest; sys.exit(pytest.main())"]
    return run_python(*start, *plugin, "-p", "no:cacheprovider", *options, cwd=directory)


def test_its_fixtures_run_dags_and_have_a_database_for_each_test(tmp_path: Path) -> None:
    done = pytest_in(
        tmp_path,
        """
import os
import pytest
from flows import dag
from liteflow import Dag, task

@pytest.mark.parametrize("number", range(4))
def test_rows_are_counted(run_dag, number):
    run = run_dag(dag, {"day": "friday"}, mock={"extract": [1] * (number + 1)}, fail={"load": [TimeoutError()]})
    assert run.xcom("load") == number + 1
    assert run.params == {"day": "friday"}

def test_a_failure_is_expected(run_dag, capsys):
    run = run_dag(dag, mock={"extract": []}, expect="failed")
    assert capsys.readouterr().out == "loading []\\n" * 2
    assert run_dag(dag, expect=None).state == "failed"
    with pytest.raises(ValueError, match="expect"):
        run_dag(dag, expect="sucess")

@task
def one():
    return 1

with Dag("real") as real:
    one()

@pytest.mark.parametrize("number", range(2))
def test_a_real_run_has_its_own_database(liteflow_db, number):
    assert os.environ["LITEFLOW_DB"] == str(liteflow_db)
    assert real.runs() == []
    assert real.run(progress=False).state == "success"
    assert len(real.runs()) == 1
    assert liteflow_db.exists()

def test_nothing_happens_to_others():
    assert "LITEFLOW_DB" not in os.environ
""",
        "-n2",
        "-q",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout
    assert not list(tmp_path.rglob("*.db"))


def test_a_run_that_goes_wrong_is_told_task_by_task(tmp_path: Path) -> None:
    done = pytest_in(
        tmp_path,
        """
from flows import dag

def test_empty(run_dag):
    run_dag(dag, mock={"extract": []})

def test_full(run_dag):
    run_dag(dag, mock={"extract": [1]}, expect="failed")
""",
        "-q",
    )
    assert done.returncode == 1
    report = done.stdout.partition("test_empty")[2].partition("Captured")[0]
    lines = [line.strip() for line in report.splitlines()]
    assert "dag 'etl': the run is failed, not success" in lines
    assert "load: failed (try 2): ValueError: nothing to load" in lines
    assert "loading []" in lines
    assert 'raise ValueError("nothing to load")' in lines
    assert "tell: upstream_failed" in lines
    assert not any("extract" in line or "pytest_plugin" in line for line in lines)
    assert "dag 'etl': the run is success, not failed" in done.stdout


def test_values_keep_their_class_where_pytest_imports_by_path(tmp_path: Path) -> None:
    """The class of the test's own file used to be that of a second copy of the file."""
    done = pytest_in(
        tmp_path,
        """
from dataclasses import dataclass
from liteflow import Dag, task

@dataclass
class Row:
    number: int

class Plain:
    pass

def test_rows(run_dag):
    with Dag("rows") as dag:
        @task
        def extract():
            return [Row(1), Plain()]

        @task
        def load(rows):
            assert isinstance(rows[0], Row)
            assert isinstance(rows[1], Plain)

        load(extract())
    run_dag(dag)
""",
        "-q",
        "--import-mode=importlib",
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_costs_pytest_neither_database_nor_command_line() -> None:
    loaded = modules_after("import liteflow.pytest_plugin")
    assert "liteflow.pytest_plugin" in loaded
    assert not loaded & {"sqlalchemy", "alembic", "sqlite3", "click", "rich", "cloudpickle"}
