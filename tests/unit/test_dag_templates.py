"""What a dag says of its templates, params of single tasks, and the context: as Airflow's dag files use them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, Param, PokeReturnValue, get_current_context, task
from liteflow.authoring import context as contexts
from liteflow.authoring.context import set_date_type
from liteflow.authoring.places import Place
from liteflow.errors import DagError, InvalidOptionError, ParamError, TransportError
from liteflow.execution.code import describe
from liteflow.execution.prepared import PreparedDag
from liteflow.operators import BaseOperator, BaseSensorOperator, BashOperator, PythonOperator
from tests.conftest import lines_of, states_of

MOMENT = datetime(2026, 9, 27, 21, 41, 43, tzinfo=UTC)
LOCK = threading.Lock()


@task
def give(value: Any) -> Any:
    return value


def locked() -> bool:
    return LOCK.locked()


class Query(BaseOperator):
    template_fields = ("sql", "parts")
    template_ext = (".sql",)

    def __init__(self, *, sql: Any = "", parts: Any = None, path: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sql = sql
        self.parts = parts
        self.path = path

    def execute(self, context: Any) -> Any:
        return [self.sql, self.parts, self.path]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the dag file, by what the dag thinks."""
    monkeypatch.setattr(sys.modules["liteflow.authoring.dag"], "caller", lambda: Place(str(tmp_path / "my_dag.py"), 1))
    (tmp_path / "other").mkdir()
    return tmp_path


# Failures first


def test_settings_that_cannot_be_meant_are_refused() -> None:
    for wrong, message in [
        ({"template_searchpath": 5}, "must be a directory or a list of them"),
        ({"template_searchpath": [5]}, "must be a directory or a list of them"),
        ({"template_undefined": "loose"}, "must be strict, default, chainable, debug, or a class of jinja2"),
        ({"template_undefined": 5}, "or a class of jinja2"),
        ({"user_defined_macros": ["f"]}, "must be a dict by name"),
        ({"user_defined_filters": {"f": 5}}, "must be a dict of functions by name"),
        ({"jinja_environment_kwargs": 5}, "must be a dict of options of jinja2.Environment"),
    ]:
        with pytest.raises(InvalidOptionError, match=message) as caught:
            Dag("d", **wrong)
        assert caught.value.option == next(iter(wrong))


def test_a_macro_that_cannot_travel_is_named() -> None:
    with Dag("d", user_defined_macros={"fine": 1, "lock": lambda: LOCK}) as dag:
        give("{{ lock() }}")
    with pytest.raises(TransportError, match="'lock' of user_defined_macros cannot be sent to a worker"):
        PreparedDag(dag, lambda function, whose: (0, describe(function, whose)))


def test_a_template_file_that_is_missing_is_one_line(here: Path) -> None:
    with Dag("d", template_searchpath=str(here / "other")) as dag:
        BashOperator(task_id="file", bash_command="gone.sh")
        give.override(task_id="include")("{% include 'gone.txt' %}")
    run = dag.test()
    where = f"in {here}, {here / 'other'}"
    assert f"TemplateError: template file 'gone.sh': it is not {where}; with a space" in str(
        run.task_instance("file").error
    )
    assert list(lines_of(run, "file")) == [str(run.task_instance("file").error)]
    assert f"there is no file 'gone.txt' {where}" in str(run.task_instance("include").error)


def test_a_template_file_needs_jinja(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liteflow.authoring.templates.importlib.util.find_spec", lambda _: None)
    with Dag("d"):
        BashOperator(task_id="a", bash_command="echo 1")
        with pytest.raises(DagError, match=r"names a template file, since it ends with \.sh or \.bash; pip install"):
            BashOperator(task_id="b", bash_command="script.sh")


@pytest.mark.parametrize("value", [".sql", [5], [""]])
def test_ends_of_file_names_that_cannot_be_meant_are_refused(value: Any) -> None:
    with pytest.raises(InvalidOptionError, match="option templates_exts="):
        give.override(templates_exts=value)


def test_params_of_a_task_must_fit_their_schema() -> None:
    with Dag("d", params={"a": 1}) as dag:
        give.override(task_id="one", params={"n": Param(5, type="integer"), "a": Param(2, type="integer")})(1)
    with pytest.raises(ParamError, match=r"dag 'd' task 'one' refuses param 'n': 'x'"):
        dag.test({"n": "x"})
    with pytest.raises(ParamError, match=r"dag 'd' task 'one' refuses param 'a': 'x'"):
        dag.test({"a": "x"})
    with pytest.raises(ParamError, match="dag 'd' has no param 'm'"):
        dag.test({"m": 1})
    with Dag("d") as dag:
        give.override(task_id="one", params={"n": Param(type="integer")})(1)
    with pytest.raises(ParamError, match="dag 'd' task 'one' needs a value for param 'n'"):
        dag.test()
    with Dag("d"), pytest.raises(ParamError, match="its default 'x'"):
        give.override(params={"n": Param("x", type="integer")})(1)


@pytest.mark.parametrize("option", ["pre_execute", "post_execute"])
def test_an_error_around_a_task_fails_the_try(option: str) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("not today")

    with Dag("d") as dag:
        give.override(**{option: fail, "retries": 1})(1)
    run = dag.test()
    assert run.task_instance("give").error == "RuntimeError: not today"
    assert run.task_instance("give").try_number == 2
    with pytest.raises(InvalidOptionError, match=f"option {option}=5 must be a function"):
        give.override(**{option: 5})


# The settings of a dag


def test_macros_and_filters_are_names_in_templates() -> None:
    with Dag(
        "d",
        user_defined_macros={"double": lambda x: 2 * x, "ds": "never", "limits": {"rows": 3}},
        user_defined_filters={"shout": lambda text: text.upper() + "!"},
    ) as dag:
        give("{{ double(21) }} {{ ds }} {{ limits.rows }} {{ 'a' | shout }}")
        give.override(task_id="label", map_index_template="{{ value | shout }} {{ double(value) }}").expand(value=["b"])
    run = dag.test(logical_date=MOMENT)
    assert run.xcom("give") == "42 2026-09-27 3 A!"
    assert [one.rendered_map_index for one in run.task_instances() if one.task_id == "label"] == ["B! bb"]


def test_what_an_undefined_name_does_is_up_to_the_dag() -> None:
    import jinja2

    class Loud(jinja2.Undefined):
        def __str__(self) -> str:
            return "WHAT"

    for undefined, text in [("default", "<>"), (jinja2.DebugUndefined, "<{{ nope }}>"), (Loud, "<WHAT>")]:
        with Dag("d", template_undefined=undefined) as dag:
            give("<{{ nope }}>")
        assert dag.test().xcom("give") == text


def test_options_of_the_environment_are_handed_on() -> None:
    marks = {"variable_start_string": "{{{", "variable_end_string": "}}}", "keep_trailing_newline": True}
    with Dag("d", jinja_environment_kwargs=marks) as dag:
        give("{{{ run_id }}} {{ stays }}\n")
    assert dag.test(run_id="r").xcom("give") == "r {{ stays }}\n"


# Template files


def test_a_command_that_ends_with_sh_is_a_file_and_with_a_space_it_is_none(here: Path) -> None:
    (here / "script.sh").write_text("echo first\necho {{ ds }} {{ params.n }}\n")
    (here / "other" / "deep.bash").write_text("{% include 'part.txt' %}")
    (here / "other" / "part.txt").write_text("echo part of {{ run_id }}")

    with Dag("d", params={"n": 5}, template_searchpath=[here / "other"]) as dag:
        BashOperator(task_id="beside", bash_command="script.sh")
        BashOperator(task_id="found", bash_command="./deep.bash")
        BashOperator(task_id="command", bash_command="echo script.sh ")
        BashOperator.partial(task_id="mapped").expand(bash_command=["script.sh", "echo 1"])

        @task.bash
        def decorated() -> str:
            return "script.sh"

        decorated()
    run = dag.test(run_id="r", logical_date=MOMENT)
    assert {"success"} == set(states_of(run).values()), [one.error for one in run.task_instances()]
    assert [run.xcom(name) for name in ("beside", "found", "command", "decorated")] == [
        "2026-09-27 5",
        "part of r",
        "script.sh",
        "2026-09-27 5",
    ]
    assert [run.xcom("mapped", map_index=index) for index in (0, 1)] == ["2026-09-27 5", "1"]


def test_template_files_of_operators_and_functions(here: Path) -> None:
    (here / "query.sql").write_text("select '{{ ds }}'\n")

    def read(*args: Any, templates_dict: Any, **kwargs: Any) -> Any:
        return [args, templates_dict, kwargs["k"]]

    with Dag("d") as dag:
        Query(task_id="query", sql="query.sql", parts=["query.sql", "x"], path="query.sql")
        Query.partial(task_id="mapped", path="query.sql", parts=give("query.sql")).expand(sql=["query.sql"])
        give.override(task_id="function", templates_exts=[".sql"])("query.sql")
        give.override(task_id="none")("query.sql")
        PythonOperator(
            task_id="python",
            python_callable=read,
            templates_exts=(".sql",),
            templates_dict={"q": "query.sql"},
            op_args=["query.sql"],
            op_kwargs={"k": 1},
        )
    run = dag.test(logical_date=MOMENT)
    sql = "select '2026-09-27'"
    assert run.xcom("query") == [sql, [sql, "x"], "query.sql"]
    assert run.xcom("mapped", map_index=0) == [sql, "query.sql", "query.sql"], "what a task hands on names no file"
    assert (run.xcom("function"), run.xcom("none")) == (sql, "query.sql")
    assert run.xcom("python") == [(sql,), {"q": sql}, 1]


def test_a_template_file_that_was_changed_is_read_again(here: Path) -> None:
    path = here / "query.sql"
    for text in ("one", "three"):
        path.write_text(text)
        with Dag("d") as dag:
            Query(task_id="query", sql="query.sql")
        assert dag.test().xcom("query")[0] == text


def test_an_operator_can_render_what_it_likes() -> None:
    class Late(BaseOperator):
        def execute(self, context: Any) -> Any:
            return self.render_template(["{{ double(2) }}", 5], context)

    with Dag("d", user_defined_macros={"double": lambda x: 2 * x}) as dag:
        late = Late(task_id="late")
    assert dag.test().xcom("late") == ["4", 5]
    with pytest.raises(RuntimeError, match="works while the task runs"):
        late.render_template("{{ x }}", contexts.Context())


# Params of a task


def params_of(context: Any) -> Any:
    return dict(context["params"])


def test_params_of_a_task_are_laid_over_the_dags_and_the_runs_over_both() -> None:
    @task(params={"a": "task", "own": "task"})
    def look(text: str, a: Any) -> Any:
        context = get_current_context()
        return [dict(context["params"]), text, a, dict(context["dag_run"].conf)]

    class Look(BaseOperator):
        def execute(self, context: Any) -> Any:
            return params_of(context)

    with Dag("d", params={"a": "dag", "b": "dag"}, default_args={"params": {"c": "args"}}) as dag:
        look("{{ params.a }} {{ params.own }}", dag.param("a"))
        Look(task_id="operator", params={"b": Param("task", type="string")})
        Look.partial(task_id="mapped", params={"b": "task"}).expand_kwargs([{}])
    run = dag.test()
    expected = {"a": "task", "b": "dag", "c": "args", "own": "task"}
    assert run.xcom("look") == [expected, "task task", "task", {"a": "dag", "b": "dag"}]
    assert run.xcom("operator") == run.xcom("mapped", map_index=0) == {"a": "dag", "b": "task", "c": "args"}
    run = dag.test({"a": "run", "own": "run"})
    assert run.xcom("look")[:3] == [{**expected, "a": "run", "own": "run"}, "run run", "run"]
    assert run.xcom("operator") == {"a": "run", "b": "task", "c": "args", "own": "run"}


def test_callbacks_see_the_params_of_the_task() -> None:
    seen: list[Any] = []
    with Dag("d", params={"a": "dag"}) as dag:
        give.override(params={"a": "task"}, on_success_callback=lambda context: seen.append(params_of(context)))(1)
    dag.test()
    assert seen == [{"a": "task"}]


# Around a task


def test_functions_are_called_around_a_task() -> None:
    told: list[Any] = []

    def before(context: Any) -> None:
        told.append(("before", context["ti"].task_id))

    def after(context: Any, result: Any) -> None:
        told.append(("after", context["ti"].task_id, result))

    class Both(BaseOperator):
        def pre_execute(self, context: Any) -> None:
            told.append("method before")

        def execute(self, context: Any) -> int:
            return 5

        def post_execute(self, context: Any, result: Any = None) -> None:
            told.append(("method after", result))

    looks = iter([False, PokeReturnValue(True, "seen")])

    @task.sensor(poke_interval=1)
    def wait() -> Any:
        return next(looks)

    @task.branch
    def choose() -> str:
        return "both"

    around = {"pre_execute": before, "post_execute": after}
    with Dag("d") as dag:
        both = Both(task_id="both", on_execute_callback=lambda _: told.append("callback"), **around)
        wait.override(**around)() >> choose.override(**around)() >> both  # type: ignore[operator]
    assert dag.test().state == "success"
    assert told == [
        ("before", "wait"),
        ("after", "wait", "seen"),
        ("before", "choose"),
        ("after", "choose", "both"),
        ("before", "both"),
        "callback",
        "method before",
        ("method after", 5),
        ("after", "both", 5),
    ]


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
@pytest.mark.parametrize("is_mapped", [False, True])
def test_the_methods_around_a_sensor_are_called_once(mode: str, is_mapped: bool) -> None:
    told: list[Any] = []
    looks = iter([False, False, PokeReturnValue(True, "seen")])

    class Wait(BaseSensorOperator):
        def __init__(self, *, what: str, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.what = what

        def pre_execute(self, context: Any) -> None:
            told.append("before")

        def poke(self, context: Any) -> Any:
            told.append("look")
            return next(looks)

        def post_execute(self, context: Any, result: Any = None) -> None:
            told.append(("after", result))

    with Dag("d") as dag:
        if is_mapped:
            Wait.partial(task_id="wait", mode=mode).expand(what=["x"])
        else:
            Wait(task_id="wait", mode=mode, what="x")
    assert dag.test().state == "success"
    assert told == ["before", "look", "look", "look", ("after", "seen")]


# The context


def test_variables_and_connections_are_in_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_BUCKET", "orders")
    monkeypatch.setenv("AIRFLOW_VAR_LIMITS", '{"rows": {"most": 5}}')
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", "aws://key:hidden@/")

    @task
    def names(var: Any, conn: Any, **kwargs: Any) -> Any:
        return [var["value"].bucket, conn.lake.login, kwargs["macros"].ds_add("2026-01-01", 1)]

    with Dag("d") as dag:
        names()
        give("{{ var.value.bucket }} {{ var.json.limits.rows.most }} {{ var.value.get('x', 'none') }}")
        give("{{ conn.lake.login }} {{ conn.get('x', 'none') }} {{ conn.lake }}")
        give("{{ var.value.nothing }}")
        give("{{ conn.nothing.host }}")
    run = dag.test()
    assert run.xcom("names") == ["orders", "key", "2026-01-02"]
    assert run.xcom("give") == "orders 5 none"
    assert run.xcom("give__1").startswith("key none Connection(conn_id='lake'")
    assert "hidden" not in run.xcom("give__1")
    assert str(run.task_instance("give__2").error).startswith(
        "liteflow.errors.VariableNotFoundError: there is no variable 'nothing'"
    )
    assert "AIRFLOW_CONN_NOTHING" in str(run.task_instance("give__3").error)


def test_the_facts_of_a_run_are_there_under_airflows_names() -> None:
    @task
    def look(dag_run: Any, ti: Any, dag: Any, task: Any) -> Any:
        assert ti.task == task
        assert ti.get_template_context()["ti"] is ti
        dates = {dag_run.logical_date, dag_run.run_after, dag_run.data_interval_start, dag_run.data_interval_end}
        assert dag_run.queued_at == dag_run.start_date
        assert isinstance(ti.hostname, str)
        assert (dag_run.end_date, ti.duration, ti.log_url) == (None, None, "")
        return [dag_run.run_type, dates, dag_run.conf, dag.params, task.task_id]

    zone = timezone(timedelta(hours=1))
    with Dag("d", params={"a": 1}, start_date=datetime(2026, 1, 1, tzinfo=zone)) as dag:
        look()
        give("{{ dag.timezone }} {{ dag_run.run_type }} {{ ti.task.task_id }}")
    run = dag.test({"a": 2}, logical_date=MOMENT)
    assert run.xcom("look") == ["manual", {MOMENT}, {"a": 2}, {"a": 1}, "look"]
    assert run.xcom("give") == "UTC manual give"
    assert dag.test(run_id="backfill__1").xcom("look")[0] == "backfill"


def test_the_zone_of_the_start_date_is_that_of_the_dag() -> None:
    from zoneinfo import ZoneInfo

    start = datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam"))
    for where in ({"start_date": start}, {"default_args": {"start_date": start}}):
        with Dag("d", **where) as dag:  # type: ignore[arg-type]
            give("{{ dag.timezone }} {{ logical_date.astimezone(dag.timezone).hour }}")
        assert dag.test(logical_date=MOMENT).xcom("give") == "Europe/Amsterdam 23"


class Stamp(datetime):
    """A kind of date of somebody else's."""

    @classmethod
    def of(cls, moment: datetime) -> Stamp:
        return cls.fromtimestamp(moment.timestamp(), moment.tzinfo)

    @property
    def year_before(self) -> int:
        return self.year - 1


@pytest.fixture
def stamps() -> Iterator[None]:
    set_date_type(Stamp.of)
    yield
    set_date_type(None)


@pytest.mark.usefixtures("stamps")
def test_dates_can_be_of_another_type() -> None:
    @task
    def look(logical_date: Any, dag_run: Any, ti: Any, data_interval_end: Any) -> list[str]:
        return [type(one).__name__ for one in (logical_date, dag_run.start_date, ti.start_date, data_interval_end)]

    with Dag("d") as dag:
        look()
        give("{{ logical_date.year_before }} {{ ts }} {{ ds }}")
    run = dag.test(logical_date=MOMENT)
    assert run.xcom("look") == ["Stamp"] * 4
    assert run.xcom("give") == "2025 2026-09-27T21:41:43+00:00 2026-09-27"


def test_without_a_run_before_its_dates_are_none() -> None:
    @task
    def look(prev_start_date_success: Any, **kwargs: Any) -> Any:
        context = get_current_context()
        assert "prev_end_date_success" in context
        return [prev_start_date_success, kwargs["prev_end_date_success"], context.get("prev_data_interval_end_success")]

    with Dag("d") as dag:
        look()
        give("{{ prev_data_interval_start_success }} {{ prev_end_date_success is none }}")
    run = dag.test()
    assert run.xcom("look") == [None, None, None]
    assert run.xcom("give") == "None True"
