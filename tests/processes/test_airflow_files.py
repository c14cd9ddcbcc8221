"""Files that are written for Airflow, run by the command line with real workers, no Airflow installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import command, liteflow

TEXT = '''"""Written for Airflow."""
from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, BaseOperator, Label, Param, TriggerRule, dag, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from shared_words import greeting


class Greets(BaseOperator):
    template_fields = ("name",)

    def __init__(self, *, name, **kwargs):
        super().__init__(**kwargs)
        self.name = name

    def execute(self, context):
        self.log.info("greeting %s", self.name)
        return f"{greeting()} {self.name}"


@dag(schedule="@daily", start_date=datetime(2021, 1, 1), catchup=False, tags=["example"],
     default_args={"owner": "me", "retries": 0, "email_on_failure": False})
def taskflow(name: str = "you"):
    @task
    def late():
        from airflow.sdk import get_current_context

        return get_current_context()["ds"]

    @task(outlets=[Asset("file:///tmp/rows")])
    def skips():
        raise AirflowSkipException("no rows")

    @task(trigger_rule=TriggerRule.NONE_FAILED)
    def total(values):
        return sum(values)

    @task
    def double(n, logical_date):
        assert logical_date.subtract(days=1).day == 4  # a date of pendulum
        return 2 * n

    late() >> skips() >> Label("after") >> EmptyOperator(task_id="end", trigger_rule="all_done")
    total(double.expand(n=[1, 2, 3]))
    Greets(task_id="greets", name="{{ params.name }} on {{ ds }}")


taskflow()

with DAG("other", params={"n": Param(1, type="integer")}, dagrun_timeout=timedelta(minutes=5)) as other:
    BashOperator(task_id="says", bash_command="echo {{ params.n }}")
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flow.py").write_text(TEXT)
    (tmp_path / "shared_words.py").write_text(
        "from airflow.sdk import Variable\n\ndef greeting():\n    return 'hello'\n"
    )
    return tmp_path


def value_of(run: str, task_id: str, cwd: Path) -> object:
    return json.loads(command("xcom", run, task_id, "return_value", cwd=cwd).stdout)


def test_a_file_with_several_dags_wants_one_named(project: Path) -> None:
    done = liteflow("run", "flow.py", cwd=project)
    assert (done.returncode, "has several dags; name one:" in done.stderr) == (2, True)


def test_workers_load_the_file_as_the_command_does(project: Path) -> None:
    done = liteflow("run", "flow.py:taskflow", "--run-id", "r", "--logical-date", "2026-01-05", "-q", cwd=project)
    assert (done.returncode, done.stdout) == (0, "taskflow/r success\n"), done.stderr
    assert done.stderr.count("means nothing here") == 1
    assert "Asset (assets), schedule. Runs are started by" in done.stderr
    shown = json.loads(command("show", "r", "--json", cwd=project).stdout)
    states = {ti["task_id"]: ti["state"] for ti in shown["task_instances"]}
    assert states["skips"] == "skipped"
    assert {state for name, state in states.items() if name != "skips"} == {"success"}
    values = {name: value_of("r", name, project) for name in ("late", "total", "greets")}
    assert values == {"late": "2026-01-05", "total": 12, "greets": "hello you on 2026-01-05"}
    assert "greeting you on 2026-01-05" in command("logs", "r", "greets", cwd=project).stdout


def test_the_other_dag_of_the_file_with_a_param(project: Path) -> None:
    done = liteflow("run", "flow.py:other", "--run-id", "o", "--param", "n=7", "-q", cwd=project)
    assert (done.returncode, done.stdout) == (0, "other/o success\n"), done.stderr
    assert value_of("o", "says", project) == "7"


def test_a_name_that_is_not_there_is_one_line_and_exit_2(project: Path) -> None:
    (project / "s3.py").write_text(
        "from airflow.sdk import DAG\nfrom airflow.providers.amazon.aws.hooks.s3 import S3Hook\n"
    )
    done = liteflow("run", "s3.py", cwd=project)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "s3.py:2: of Airflow's providers liteflow has the standard one, not 'amazon'; call the service's own client "
        "library in a @task\n"
    )
    assert done.stderr.count("\n") == 1


def test_without_compat_airflow_itself_is_wanted(project: Path) -> None:
    done = liteflow("run", "flow.py:other", "--no-airflow-compat", cwd=project)
    assert (done.returncode, "No module named 'airflow'" in done.stderr) == (2, True)
