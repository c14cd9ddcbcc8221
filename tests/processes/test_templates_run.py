"""Jinja templates in real runs: what is rendered, with what, and what never is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, literal, task
from tests.conftest import lines_of, states_of

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

MOMENT = datetime(2026, 9, 27, 21, 41, 43, tzinfo=UTC)


@task
def give(value: Any) -> Any:
    return value


def run_on(dag: Dag, params: dict[str, Any] | None = None) -> Any:
    return dag.run(params, run_id="r", logical_date=MOMENT, progress=False, max_workers=2)


# Failures first

BAD = {
    "unknown": ("{{ nope }}", "'nope' is undefined"),
    "near": ("{{ run_ids }}", "did you mean 'run_id'?"),
    "param": ("{{ params.nope }}", "has no attribute 'nope'"),
    "syntax": ("{{ run_id", "unexpected end of template"),
    "raises": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "filter": ("{{ run_id | nope }}", "No filter named 'nope'"),
    "unsafe": ("{{ ti.__class__.__mro__ }}", "unsafe"),
}


def test_a_bad_template_fails_its_own_task_and_is_named(db: str, tmp_path: Path) -> None:
    called = tmp_path / "called"
    with Dag("bad", db_path=db, params={"n": 5}) as dag:
        for name, (template, _) in BAD.items():
            give.override(task_id=name)(template)
        give.override(task_id="good")("{{ nope | default('there') }} {{ 'is' if nope is defined else 'is not' }}")
        give.override(task_id="told", on_execute_callback=lambda _: called.touch(), retries=1)("{{ nope }}")
    run = run_on(dag)
    assert {name for name, state in states_of(run).items() if state != "failed"} == {"good"}
    assert run.xcom("good") == "there is not"
    errors = {name: str(run.task_instance(name).error) for name in BAD}
    assert {name: error for name, error in errors.items() if BAD[name][1] not in error} == {}
    assert all(BAD[name][0] in error for name, error in errors.items()), errors
    assert run.task_instance("told").try_number == 2, "it is tried again as after any error"
    assert not called.exists(), "it had not begun"


def test_a_label_that_cannot_be_made_costs_only_the_label(db: str) -> None:
    with Dag("label", db_path=db) as dag:
        give.override(map_index_template="{{ nope }}").expand(value=[1, 2])
        give.override(task_id="good", map_index_template="item {{ value }} of {{ macros.ds_add(ds, 1) }}").expand(
            value=[1, 2]
        )
        fail_one.override(map_index_template="failed {{ value }}").expand(value=[1])
    run = run_on(dag)
    labels = {f"{one.task_id}[{one.map_index}]": one.rendered_map_index for one in run.task_instances()}
    assert labels == {
        "give[0]": None,
        "give[1]": None,
        "good[0]": "item 1 of 2026-09-28",
        "good[1]": "item 2 of 2026-09-28",
        "fail_one[0]": "failed 1",
    }
    assert {str(one.state) for one in run.task_instances() if one.task_id == "give"} == {"success"}
    assert any("map_index_template" in line for line in lines_of(run, "give"))


@task
def fail_one(value: int) -> None:
    raise ValueError(value)


# What is rendered


class Query:
    """Has fields that are templates."""

    template_fields = ("sql", "parts")

    def __init__(self, sql: str, parts: list[str], note: str) -> None:
        self.sql = sql
        self.parts = parts
        self.note = note


@task
def read(query: Query) -> list[Any]:
    return [query.sql, query.parts, query.note]


def test_arguments_are_rendered_wherever_they_lie(db: str) -> None:
    with Dag("nested", db_path=db, params={"n": 5}) as dag:
        give(["{{ ds }}", ("{{ params.n }}", {"key {{ ds }}": "{{ run_id }}"}), {"{{ ti.task_id }}"}])
        give.override(task_id="kept")([literal("{{ ds }}"), "{ ds }", "100 %", 5, None])
        read(Query("select {{ params.n }}", ["{{ ds_nodash }}"], "{{ ds }}"))
        give.override(task_id="mapped").partial().expand(value=["{{ ds }}", ["{{ run_id }}"], {"a": "{{ params.n }}"}])
    run = run_on(dag)
    assert run.xcom("give") == ["2026-09-27", ("5", {"key {{ ds }}": "r"}), {"give"}]
    assert run.xcom("kept") == ["{{ ds }}", "{ ds }", "100 %", 5, None]
    assert run.xcom("read") == ["select 5", ["20260927"], "{{ ds }}"]
    assert [run.xcom("mapped", map_index=index) for index in range(3)] == ["2026-09-27", ["r"], {"a": "5"}]


def test_what_a_template_finds(db: str) -> None:
    wanted = {
        "{{ dag.dag_id }}/{{ task.task_id }}/{{ ti.try_number }}/{{ dag_run.run_id }}": "names/t0/1/r",
        "{{ ts }} {{ ts_nodash }}": "2026-09-27T21:41:43+00:00 20260927T214143",
        "{{ logical_date | ds }} {{ logical_date | ts_nodash_with_tz }}": "2026-09-27 20260927T214143+0000",
        "{{ macros.ds_add(ds, 5) }}": "2026-10-02",
        "{{ macros.ds_format(ds, '%Y-%m-%d', '%d.%m.') }}": "27.09.",
        "{{ macros.json.dumps(params) }}": '{"n": 5}',
        "{% for n in range(3) %}{{ n }}{% endfor %}": "012",
        "{{ (logical_date + macros.timedelta(days=1)).day }}": "28",
        "{# a comment #}{{ 1 }}": "1",
        "{# alone it is text": "{# alone it is text",
        "{% do [].append(1) %}y": "y",
    }
    with Dag("names", db_path=db, params={"n": 5}) as dag:
        for number, template in enumerate(wanted):
            give.override(task_id=f"t{number}")(template)
    run = run_on(dag)
    assert [run.xcom(f"t{number}") for number in range(len(wanted))] == list(wanted.values())


def test_templates_pull_values(db: str) -> None:
    with Dag("pull", db_path=db) as dag:
        row = give.override(task_id="row")({"a": [1, 2]})
        row >> give("{{ ti.xcom_pull('row')['a'][1] }} {{ ti.xcom_pull(task_ids='nope') }}")
    run = run_on(dag)
    assert run.xcom("give") == "2 None"


def test_values_of_other_tasks_and_params_are_never_rendered(db: str) -> None:
    with Dag("never", db_path=db, params={"p": "{{ ds }}"}) as dag:
        made = make_template()
        give(made)
        give.override(task_id="beside")([made, "{{ ds }}"])
        give.override(task_id="param")([dag.param("p"), "{{ params.p }}"])
        give.override(task_id="pulled")("{{ ti.xcom_pull('make_template') }}") << made
        give.override(task_id="mapped").expand(value=make_templates())
    run = run_on(dag)
    assert run.xcom("give") == "{{ ds }}"
    assert run.xcom("beside") == ["{{ ds }}", "2026-09-27"]
    assert run.xcom("param") == ["{{ ds }}", "{{ ds }}"]
    assert run.xcom("pulled") == "{{ ds }}"
    assert run.xcom("mapped", map_index=0) == "{{ ds }}"


@task
def make_template() -> str:
    return literal_braces()


@task
def make_templates() -> list[str]:
    return [literal_braces()]


def literal_braces() -> str:
    return "{{ ds }}"


# Native

NATIVE = {
    "{{ params.n }}": (5, "5"),
    "{{ params.rows }}": ([1, {"a": None}], "[1, {'a': None}]"),
    "{{ none }}": (None, "None"),
    "{{ true }}": (True, "True"),
    "{{ logical_date }}": (MOMENT, "2026-09-27 21:41:43+00:00"),
    "{{ 1 }}{{ 2 }}": (12, "12"),
    "{{ '01' }}": ("01", "01"),
    "{{ 'text' }}": ("text", "text"),
    "n = {{ params.n }}": ("n = 5", "n = 5"),
}


def test_native_templates_give_objects_and_others_text(db: str) -> None:
    with Dag(
        "native", db_path=db, params={"n": 5, "rows": [1, {"a": None}]}, render_template_as_native_obj=True
    ) as dag:
        for number, template in enumerate(NATIVE):
            give.override(task_id=f"native{number}")([template])
            give.override(task_id=f"text{number}", render_template_as_native_obj=False)([template])
    run = run_on(dag)
    found = [(run.xcom(f"native{number}")[0], run.xcom(f"text{number}")[0]) for number in range(len(NATIVE))]
    assert found == list(NATIVE.values())


@task
def take_templates(templates_dict: Any, **context: Any) -> list[Any]:
    return [templates_dict, context.get("ds")]


def test_templates_dict_is_rendered_and_reaches_the_function(db: str) -> None:
    with Dag("dict", db_path=db) as dag:
        made = give(7)
        take_templates.override(templates_dict={"day": "{{ ds }}", "rows": ["{{ run_id }}"], "made": made})()
    run = run_on(dag)
    assert run.xcom("take_templates") == [{"day": "2026-09-27", "rows": ["r"], "made": 7}, "2026-09-27"]


def test_each_try_renders_its_templates_anew(db: str) -> None:
    with Dag("tries", db_path=db) as dag:
        fail_until.override(retries=2)("{{ ti.try_number }}")
    run = run_on(dag)
    assert (run.xcom("fail_until"), run.task_instance("fail_until").try_number) == ("3", 3)


@task
def fail_until(number: str) -> str:
    if number != "3":
        raise ValueError(number)
    return number
