"""Classic operators in real runs: the same nodes as decorated tasks."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, SkipTask, TaskGroup, get_current_context, task
from liteflow.errors import DagError, DuplicateTaskIdError, InvalidOptionError
from liteflow.operators import (
    BaseOperator,
    BashOperator,
    BranchPythonOperator,
    EmptyOperator,
    PythonOperator,
    ShortCircuitOperator,
)
from tests.conftest import lines_of, states_of, wait_until

pytestmark = [
    pytest.mark.usefixtures("nothing_left_behind"),
    pytest.mark.filterwarnings("ignore::liteflow.DagWarning"),  # leaves with other rules are the point here
]


@task
def one() -> int:
    return 1


@task
def add(x: int, y: int = 1) -> int:
    return x + y


class Multiply(BaseOperator):
    """Multiplies what it is given, and remembers for whom it did."""

    template_fields = ("x", "label")

    def __init__(self, *, x: Any, by: int = 2, label: str = "{{ run_id }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.x = x
        self.by = by
        self.label = label

    def execute(self, context: Any) -> Any:
        assert context["ti"].task_id == get_current_context()["ti"].task_id
        return [self.x * self.by, self.label, self.task_id]


class Hang(BaseOperator):
    """Runs until it is told to end, and notes that it was."""

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def execute(self, context: Any) -> None:
        Path(self.path).touch()
        threading.Event().wait(60)

    def on_kill(self) -> None:
        Path(f"{self.path}.killed").touch()


class Raise(BaseOperator):
    """Raises in its first try."""

    def execute(self, context: Any) -> int:
        if context["ti"].try_number == 1:
            raise ValueError("broken on purpose")
        return int(context["ti"].try_number)


# Failures


def test_errors_retries_and_skips_are_those_of_any_task(db: str) -> None:
    with Dag("errors", db_path=db) as dag:
        Raise(task_id="retried", retries=1)
        Raise(task_id="failed") >> EmptyOperator(task_id="below")
        PythonOperator(task_id="skipped", python_callable=raise_skip) >> EmptyOperator(task_id="below_skipped")
    run = dag.run(progress=False, max_workers=2)
    assert states_of(run) == {
        "retried": "success",
        "failed": "failed",
        "below": "upstream_failed",
        "skipped": "skipped",
        "below_skipped": "skipped",
    }
    assert run.xcom("retried") == 2
    assert run.task_instance("failed").error == "ValueError: broken on purpose"
    trace = "\n".join(lines_of(run, "failed"))
    assert "Traceback" in trace
    assert "in execute" in trace


def raise_skip() -> None:
    raise SkipTask("nothing to do")


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_on_kill_is_called_when_it_is_told_to_end(db: str, tmp_path: Path, how: str) -> None:
    path = tmp_path / "runs"
    with Dag("kill", db_path=db) as dag:
        Hang(task_id="hang", path=str(path), kill_grace_s=10, **({"execution_timeout": 2} if how == "timeout" else {}))
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        wait_until(path.exists, "it runs")
        if how == "cancel":
            handle.cancel()
        run = handle.wait(timeout=30)
    assert run.task_instance("hang").end_reason == {"timeout": "timeout", "cancel": "cancelled"}[how]
    assert Path(f"{path}.killed").exists()


class Nothing(BaseOperator):
    """Has no `execute`."""


def test_an_operator_without_execute_fails_and_says_so(db: str) -> None:
    with Dag("nothing", db_path=db) as dag:
        Nothing(task_id="nothing")
    assert dag.run(progress=False, max_workers=1).task_instance("nothing").error == (
        "TypeError: Nothing has no execute(context)"
    )


def test_mistakes_are_told_where_they_are_written() -> None:
    with Dag("mistakes"):
        one()
        with pytest.raises(DuplicateTaskIdError, match=r"operators_run\.py:\d+: task id 'one' is taken"):
            EmptyOperator(task_id="one")
        with pytest.raises(InvalidOptionError, match=r"operators_run\.py:\d+: .*retires.*did you mean 'retries'"):
            EmptyOperator(task_id="two", retires=1)
        with pytest.raises(DagError, match=r"operators_run\.py:\d+: python_callable=5 must be a function"):
            PythonOperator(task_id="three", python_callable=5)  # type: ignore[arg-type]  # that is the point
        with pytest.raises(DagError, match=r"operators_run\.py:\d+: EmptyOperator\(\) takes keyword arguments only"):
            EmptyOperator("four")  # type: ignore[call-arg]  # that is the point


# Together with decorated tasks


def test_operators_and_decorated_tasks_take_each_others_values(db: str) -> None:
    with Dag("mixed", db_path=db) as dag:
        made = one()
        product = Multiply(task_id="product", x=made)
        add(made) >> EmptyOperator(task_id="end")
        PythonOperator(task_id="python", python_callable=add_all, op_args=[made], op_kwargs={"b": product.output})
    run = dag.run(run_id="r", progress=False, max_workers=2)
    assert run.state == "success"
    assert run.xcom("product") == [2, "r", "product"]
    assert run.xcom("python") == [1, [2, "r", "product"], "python"]
    assert list(run.task_instance("product").upstream) == ["one"], "the value makes the edge"
    assert {xcom.task_id for xcom in run.xcoms()} == {"one", "product", "add", "python"}


def add_all(a: Any, b: Any, ti: Any) -> list[Any]:
    return [a, b, ti.task_id]


def take_any(*args: Any, **kwargs: Any) -> list[Any]:
    return [list(args), kwargs["own"], kwargs["params"]["n"], kwargs["ds"], "ti" in kwargs]


def test_a_python_operator_is_given_what_it_names(db: str) -> None:
    with Dag("python", db_path=db, params={"n": 5}) as dag:
        PythonOperator(task_id="any", python_callable=take_any, op_args=["{{ ds }}"], op_kwargs={"own": "{{ run_id }}"})
        PythonOperator(task_id="builtin", python_callable=max, op_args=[3, 7])
        PythonOperator(task_id="decorated", python_callable=add, op_args=[1], op_kwargs={"y": 5})
        PythonOperator(task_id="dict", python_callable=lambda: {"a": 1}, multiple_outputs=True)
        PythonOperator(
            task_id="templates",
            python_callable=lambda templates_dict: templates_dict,
            templates_dict={"a": ["{{ params.n }}"]},
        )
    run = dag.run(run_id="r", progress=False, max_workers=2)
    day = f"{run.logical_date:%Y-%m-%d}"
    assert states_of(run) == dict.fromkeys(dag.task_ids, "success")
    assert run.xcom("any") == [[day], "r", 5, day, True]
    assert [run.xcom("builtin"), run.xcom("decorated"), run.xcom("dict", "a")] == [7, 6, 1]
    assert run.xcom("templates") == {"a": ["5"]}


def test_branches_and_short_circuits_skip_as_decorated_ones_do(db: str) -> None:
    with Dag("branches", db_path=db) as dag:
        branch = BranchPythonOperator(task_id="branch", python_callable=lambda params: "left")
        left, right = EmptyOperator(task_id="left"), EmptyOperator(task_id="right")
        branch >> [left, right] >> EmptyOperator(task_id="join", trigger_rule="none_failed_min_one_success")
        stop = ShortCircuitOperator(task_id="stop", python_callable=lambda: 0)
        stop >> EmptyOperator(task_id="a") >> EmptyOperator(task_id="b", trigger_rule="all_done")
        soft = ShortCircuitOperator(task_id="soft", python_callable=list, ignore_downstream_trigger_rules=False)
        soft >> EmptyOperator(task_id="c") >> EmptyOperator(task_id="d", trigger_rule="all_done")
        go_on = ShortCircuitOperator(task_id="go_on", python_callable=lambda: "yes")
        go_on >> EmptyOperator(task_id="e")
        BranchPythonOperator(task_id="lost", python_callable=lambda: "no_such_task") >> EmptyOperator(task_id="f")
    run = dag.run(progress=False, max_workers=2)
    assert states_of(run) == {
        "branch": "success",
        "left": "success",
        "right": "skipped",
        "join": "success",
        "stop": "success",
        "a": "skipped",
        "b": "skipped",
        "soft": "success",
        "c": "skipped",
        "d": "success",
        "go_on": "success",
        "e": "success",
        "lost": "failed",
        "f": "upstream_failed",
    }
    assert "no_such_task" in str(run.task_instance("lost").error)


def test_options_defaults_groups_callbacks_and_pools_are_those_of_any_task(db: str, tmp_path: Path) -> None:
    path = tmp_path / "called"
    with Dag("options", db_path=db, default_args={"by": 10, "retries": 1, "pool": "api"}) as dag:
        with TaskGroup("group", default_args={"retries": 0}):
            inner = Multiply(task_id="inner", x=1, on_success_callback=lambda context: path.touch())
        Multiply(task_id="outer", x=2, by=3) << inner
    assert (dag.get_task("group.inner").options.retries, dag.get_task("outer").options.retries) == (0, 1)
    with ExecutorService(db, max_workers=1, pools={"api": 1}) as service:
        run = service.submit(dag, run_id="r").wait(timeout=30)
    assert [run.xcom("group.inner"), run.xcom("outer")] == [[10, "r", "group.inner"], [6, "r", "outer"]]
    assert {instance.pool for instance in run.task_instances()} == {"api"}
    assert path.exists()


def test_operators_can_be_mapped(db: str) -> None:
    with Dag("mapped", db_path=db) as dag:
        numbers = PythonOperator(task_id="numbers", python_callable=lambda: [1, 2, 3])
        Multiply.partial(task_id="product", by=5, label="{{ run_id }}").expand(x=numbers.output)
        PythonOperator.partial(task_id="kwargs", python_callable=add_all).expand_kwargs(
            [{"op_args": [1, 2]}, {"op_args": ["{{ run_id }}"], "op_kwargs": {"b": 4}}]
        )
        BashOperator.partial(task_id="bash").expand(bash_command=["echo 1", "exit 99"]) >> EmptyOperator(task_id="end")
    run = dag.run(run_id="r", progress=False, max_workers=2)
    assert [run.xcom("product", map_index=index) for index in range(3)] == [
        [number * 5, "r", "product"] for number in (1, 2, 3)
    ]
    assert [run.xcom("kwargs", map_index=index) for index in range(2)] == [[1, 2, "kwargs"], ["r", 4, "kwargs"]]
    assert run.task_instance("end").state == "skipped"


def test_an_empty_operator_runs_and_hands_nothing_on(db: str) -> None:
    with Dag("empty", db_path=db) as dag:
        EmptyOperator(task_id="a") >> one() >> EmptyOperator(task_id="b")
    run = dag.run(progress=False, max_workers=1)
    assert states_of(run) == dict.fromkeys(["a", "one", "b"], "success")
    assert [xcom.task_id for xcom in run.xcoms()] == ["one"]
