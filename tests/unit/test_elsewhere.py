"""Functions that run in another interpreter."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, task
from liteflow.errors import DagError
from liteflow.operators import (
    BranchExternalPythonOperator,
    EmptyOperator,
    ExternalPythonOperator,
    PythonVirtualenvOperator,
)
from liteflow.operators.elsewhere import ElsewherePython, Interpreter


@task.external_python(python=sys.executable, retries=1)
def product(numbers: list[int], by: int = 2) -> dict[str, Any]:
    import os

    return {"numbers": [number * by for number in numbers], "pid": os.getpid()}


def test_a_function_runs_in_another_process_with_values_of_tasks() -> None:
    import os

    with Dag("d") as dag:
        product(task(lambda: [1, 2]).override(task_id="numbers")(), by=3)
    run = dag.test()
    value = run.xcom("product")
    assert (run.state, value["numbers"]) == ("success", [3, 6])
    assert value["pid"] != os.getpid()


def test_an_error_there_fails_the_task_and_a_code_may_skip_it(capfd: pytest.CaptureFixture[str]) -> None:
    @task.external_python(python=sys.executable)
    def breaks() -> None:
        raise ValueError("no rows")

    @task.external_python(python=sys.executable, skip_on_exit_code=99)
    def skips() -> None:
        raise SystemExit(99)

    with Dag("d") as dag:
        breaks()
        skips()
    states = {ti.task_id: str(ti.state) for ti in dag.test().task_instances()}
    assert states == {"breaks": "failed", "skips": "skipped"}
    assert "ValueError: no rows" in capfd.readouterr().err


def test_only_what_the_function_holds_itself_is_there(capfd: pytest.CaptureFixture[str]) -> None:
    @task.external_python(python=sys.executable)
    def uses_its_file() -> str:
        return str(Path("a"))

    with Dag("d") as dag:
        uses_its_file()
    assert dag.test().state == "failed"
    assert "NameError: name 'Path' is not defined" in capfd.readouterr().err


def _where() -> list[str]:
    import sys

    return [sys.prefix, sys.base_prefix]


def test_a_virtual_environment_is_made_and_kept(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with Dag("d") as dag:
        for name in ("a", "b"):
            PythonVirtualenvOperator(task_id=name, python_callable=_where, venv_cache_path=kept)
    run = dag.test()
    prefix, base = run.xcom("a")
    assert (run.state, run.xcom("b")) == ("success", [prefix, base])
    assert prefix != base
    assert [str(one) for one in kept.iterdir()] == [prefix]


def _names(x: int, ds: str, *, run_id: str = "none", more: int = 3) -> tuple[Any, ...]:
    return x, ds, run_id, more


def test_a_function_elsewhere_gets_what_it_names_and_nothing_else() -> None:
    """In a worker its parameters used to be forgotten, so that it was called with the whole context."""
    with Dag("d") as dag:
        ExternalPythonOperator(task_id="e", python=sys.executable, python_callable=_names, op_args=["{{ ds }}"])
    run = dag.test(run_id="r", logical_date=datetime(2026, 1, 5, tzinfo=UTC))
    assert run.xcom("e") == ("2026-01-05", "2026-01-05", "r", 3)


def _chooses(**context: Any) -> str:
    return "left" if context["ds"] and context["logical_date"] and "ti" not in context else "right"


def test_a_branch_may_be_elsewhere() -> None:
    with Dag("d") as dag:
        branch = BranchExternalPythonOperator(task_id="b", python=sys.executable, python_callable=_chooses)
        branch >> [EmptyOperator(task_id="left"), EmptyOperator(task_id="right")]
    states = {ti.task_id: str(ti.state) for ti in dag.test().task_instances()}
    assert states == {"b": "success", "left": "success", "right": "skipped"}


@pytest.mark.parametrize(
    ("function", "said"), [(len, "the text of <built-in function len> cannot be read"), (lambda: 1, "is no function")]
)
def test_what_has_no_text_is_refused(function: Any, said: str) -> None:
    with pytest.raises(DagError) as caught:
        ElsewherePython(function, Interpreter(sys.executable))
    assert said in str(caught.value)


def test_an_interpreter_has_to_be_named_and_to_be_there() -> None:
    with pytest.raises(DagError, match="python= must name the interpreter"):
        task.external_python(lambda: 1)
    with pytest.raises(FileNotFoundError, match="'/no/python' is not there"):
        ElsewherePython(_where, Interpreter("/no/python"))()
    with pytest.raises(FileNotFoundError, match=r"there is no python9\.9 on the PATH"):
        ElsewherePython(_where, Interpreter(python_version="9.9"))()
