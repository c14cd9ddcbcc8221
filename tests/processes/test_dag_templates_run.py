"""Templates, settings and the run before, as a dag file has them, in worker processes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, task
from liteflow.storage.history import open_history
from tests.conftest import lines_of, liteflow

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

DAG_FILE = """
from datetime import datetime
from zoneinfo import ZoneInfo

from liteflow import Dag, get_current_context, task
from liteflow.authoring.context import set_date_type
from liteflow.authoring.variables import Variable
from liteflow.operators import BashOperator


class Stamp(datetime):
    @classmethod
    def of(cls, moment):
        return cls.fromtimestamp(moment.timestamp(), moment.tzinfo)

    def hour_in(self, zone):
        return self.astimezone(zone).hour


set_date_type(Stamp.of)
TABLE = {"a": 1}


def of_the_file(name):
    return TABLE[name]


def before(context):
    print("before", context["params"]["n"])


with Dag(
    "etl",
    db_path="runs.db",
    params={"n": 1},
    template_searchpath="sql",
    user_defined_macros={"of_the_file": of_the_file, "plus": lambda x: x + TABLE["a"]},
    user_defined_filters={"twice": lambda x: 2 * x},
    start_date=datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam")),
) as dag:
    BashOperator(task_id="script", bash_command="script.sh", params={"n": 2}, pre_execute=before)

    @task(templates_exts=[".sql"])
    def query(text, conn, data_interval_end, dag, prev_data_interval_end_success=None):
        hour = data_interval_end.hour_in(dag.timezone)
        return [text, Variable.get("bucket"), conn.lake.login, hour, str(prev_data_interval_end_success)]

    query("query.sql")

    @task
    def keywords(**context):
        date = context["prev_start_date_success"]
        return None if date is None else type(date).__name__

    keywords()
"""


def write(directory: Path) -> None:
    (directory / "sql").mkdir()
    (directory / "etl.py").write_text(DAG_FILE)
    (directory / "script.sh").write_text("echo {{ of_the_file('a') }} {{ plus(1) }} {{ params.n }} {{ ds | twice }}\n")
    (directory / "sql" / "query.sql").write_text("select {{ prev_end_date_success is none }}\n")
    (directory / "liteflow.toml").write_text('[variables]\nbucket = "orders"\n[connections]\nlake = "aws://key@/"\n')


def test_a_dag_file_finds_all_of_it_in_its_workers(tmp_path: Path) -> None:
    write(tmp_path)
    for day, before in (("2026-07-01", "None"), ("2026-07-02", "2026-07-01 00:00:00+00:00")):
        done = liteflow("run", "etl.py", "--logical-date", f"{day}T00:00:00+00:00", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        run = open_history(str(tmp_path / "runs.db")).runs(dag_id="etl")[0]
        assert run.xcom("script") == f"1 2 2 {day}{day}"
        is_first = day == "2026-07-01"
        assert run.xcom("query") == [f"select {is_first}", "orders", "key", 2, before]
        assert (run.xcom("keywords") is None) == is_first
        assert "before 2" in lines_of(run, "script")
    assert run.xcom("keywords") == "Stamp"


@task
def ask(prev_start_date_success: Any) -> Any:
    return prev_start_date_success


def test_an_executor_of_ones_own_cannot_ask_for_the_run_before(db: str) -> None:
    with Dag("foreign", db_path=db) as dag:
        ask()
    with ProcessPoolExecutor(1) as executor:
        run = dag.run(logical_date=datetime(2026, 1, 1, tzinfo=UTC), executor=executor, progress=False)
    assert "prev_start_date_success is to be had in slots" in str(run.task_instance("ask").error)
