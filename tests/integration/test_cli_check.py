"""`liteflow check` as a command: text, JSON, exit codes, and the values of the last run."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import liteflow

FLOW = """\
import pickle
from liteflow import Dag, task

class Odd:
    pass

def odd():
    return Odd()

@task
def make():
    return odd()

@task
def path():
    return __import__("pathlib").Path("a")

@task
def number():
    return 1

with Dag("d", db_path="d.db") as dag:
    make()
    path()
    number()
"""


def test_findings_are_lines_or_one_document_and_the_exit_code_says_whether_there_are_any(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("from liteflow import Dag\nd = Dag('d')\n")
    done = liteflow("check", "f.py", "--target", "airflow", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == (
        "f.py:1: Airflow has no module liteflow; write: from airflow.sdk import DAG as Dag [import]\n"
    )
    done = liteflow("check", "f.py", "--target", "airflow", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout) == [
        {
            "file": "f.py",
            "line": 1,
            "rule": "import",
            "message": "Airflow has no module liteflow",
            "advice": "write: from airflow.sdk import DAG as Dag",
            "severity": "error",
        }
    ]
    assert not (tmp_path / "liteflow.db").exists()


def test_notes_alone_are_no_failure(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("from airflow.sdk import DAG, Asset\nDAG('d', schedule=[Asset('a')])\n")
    done = liteflow("check", "f.py", "--target", "liteflow", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(": note: ") == done.stdout.count("\n") == 2
    (tmp_path / "g.py").write_text("from airflow.sdk import DAG\nDAG('d')\n")
    done = liteflow("check", "g.py", "--target", "liteflow", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_a_file_that_cannot_be_parsed_and_a_missing_target_are_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def (")
    done = liteflow("check", "f.py", "--target", "airflow", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "f.py:1: " in done.stderr
    assert liteflow("check", "f.py", cwd=tmp_path).returncode == 2
    assert liteflow("check", "none.py", "--target", "airflow", cwd=tmp_path).returncode == 2


def test_values_of_the_last_run_name_the_tasks_that_airflow_could_not_store(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(FLOW)
    assert liteflow("run", "f.py", "-q", cwd=tmp_path).returncode == 0
    done = liteflow("check", "f.py", "--target", "airflow", "--json", cwd=tmp_path)
    found = [(one["line"], one["message"]) for one in json.loads(done.stdout) if one["rule"] == "xcom-stored"]
    said = "(return_value) in its last run, which Airflow cannot store as an XCom"
    assert found == [(23, f"task make handed on a pickle {said}"), (24, f"task path handed on a Path {said}")]
    missing = liteflow("check", "f.py", "--target", "airflow", "--db", "none.db", cwd=tmp_path)
    assert (missing.returncode, missing.stdout) == (3, "")
