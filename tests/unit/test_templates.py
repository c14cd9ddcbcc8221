"""Jinja templates in arguments: what counts as one, what becomes of it, and what a mistake in one says."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any, NamedTuple

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liteflow.authoring.places import Place
from liteflow.authoring.templates import has_literal, has_template, literal, require_jinja
from liteflow.authoring.xcomarg import Placeholder
from liteflow.errors import DagError, InvalidOptionError, SkipTask, TemplateError
from liteflow.execution.templates import FILTERS, Renderer, macros, render, render_map_index

CONTEXT = {"ds": "2026-01-05", "n": 3, "params": {"city": "Ulm", "none": None}, "macros": macros()}

PLAIN = st.text().filter(lambda text: "{" not in text)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | PLAIN | st.binary()
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.sets(st.integers() | PLAIN)
        | st.frozensets(st.integers() | PLAIN)
    ),
    max_leaves=20,
)


class Pair(NamedTuple):
    left: Any
    right: Any


class Query:
    """An object with fields that may be templates."""

    template_fields: Any = ("sql", "parts")

    def __init__(self, sql: Any = "", parts: Any = None) -> None:
        self.sql = sql
        self.parts = parts
        self.note = "{{ ds }}"


def around(wrapped: Any) -> list[Any]:
    """A value in each kind of container, and deeper."""
    return [
        wrapped,
        [wrapped],
        (1, wrapped),
        {"key": wrapped},
        Pair(1, wrapped),
        {wrapped},
        frozenset([wrapped]),
        [{"key": ({"other": [wrapped]},)}],
        Query(parts=[wrapped]),
        [Query(parts=Query(wrapped))],
    ]


# What counts as a template


@pytest.mark.parametrize("text", ["{{ ds }}", "a {% if x %}", "{{", "{# note #}{{ ds }}"])
@pytest.mark.parametrize("place", range(10))
def test_a_template_is_found_in_any_container(text: str, place: int) -> None:
    assert has_template(around(text)[place])


@pytest.mark.parametrize("text", ["{# note #}", "body {#fff}", "${#words[@]}"])
@pytest.mark.parametrize("place", range(10))
def test_a_comment_alone_makes_no_template(text: str, place: int) -> None:
    assert not has_template(around(text)[place])


@pytest.mark.parametrize("text", ["{# note #}", "body {#fff}", "${#words[@]}"])
def test_a_text_with_a_comment_alone_is_passed_as_it_is(text: str) -> None:
    assert render([text], CONTEXT) == [text]


def test_a_comment_in_a_template_is_left_out() -> None:
    assert render("{# note #}{{ ds }}", CONTEXT) == CONTEXT["ds"]


@given(NESTED)
def test_a_value_without_a_brace_holds_no_template(value: Any) -> None:
    assert not has_template(value)


@pytest.mark.parametrize(
    "value",
    [
        "{ }",
        "{'a': 1}",
        "}} %} #}",
        b"{{ ds }}",
        {"{{ ds }}": 1},
        literal("{{ ds }}"),
        [literal(["{{ ds }}"])],
        Placeholder("task", "{{ ds }}"),
        Query,
        object(),
        3,
    ],
)
def test_what_is_no_template(value: Any) -> None:
    assert not has_template(value)


@pytest.mark.parametrize("fields", ["sql", 3, None, [7]])
def test_template_fields_that_mean_something_else_are_not_looked_into(fields: Any) -> None:
    query = Query("{{ ds }}")
    query.template_fields = fields
    assert not has_template(query)
    assert render(query, CONTEXT).sql == "{{ ds }}"


def test_a_value_that_holds_itself_has_an_end() -> None:
    rows: list[Any] = [1]
    rows.append(rows)
    query = Query(parts=rows)
    rows.append(query)
    assert not has_template(query)
    rows.append("{{ ds }}")
    assert has_template(query)


def test_an_object_that_makes_its_fields_on_the_way_is_looked_into() -> None:
    class Fresh:
        template_fields = ("a", "b", "c")

        def __getattr__(self, name: str) -> Any:
            return [["{{ ds }}" if name == "a" else name]]

    assert all(has_template([Fresh()]) for _ in range(50))


@pytest.mark.parametrize("place", range(10))
def test_a_literal_is_found_in_any_container(place: int) -> None:
    assert has_literal(around(literal(1))[place])
    assert not has_literal(around("{{ ds }}")[place])


# jinja2 is an extra


def test_with_jinja_nothing_is_asked_for() -> None:
    require_jinja(Place("etl.py", 3))


def test_without_jinja_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(DagError) as caught:
        require_jinja(Place("etl.py", 3), "argument 'sql' of task 'load'")
    assert str(caught.value) == (
        "etl.py:3: argument 'sql' of task 'load' holds a Jinja template; pip install 'liteflow[jinja]', "
        "or wrap it in literal(...) to pass it as it is"
    )


def test_a_worker_without_jinja_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(TemplateError, match=r"the worker has no jinja2; pip install 'liteflow\[jinja\]'"):
        Renderer().render("{{ ds }}", CONTEXT)


def test_jinja_is_imported_by_the_first_template_and_not_before() -> None:
    script = (
        "import sys\n"
        "from liteflow.authoring.places import Place\n"
        "from liteflow.authoring.templates import has_template, literal, require_jinja\n"
        "from liteflow.execution.templates import macros, render\n"
        "require_jinja(Place('x', 1)), has_template('{{ x }}'), macros().datetime\n"
        "assert render([literal('{{ x }}'), 'text'], {}) == ['{{ x }}', 'text']\n"
        "assert 'jinja2' not in sys.modules\n"
        "render('{{ 1 }}', {})\n"
        "assert 'jinja2' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Rendering


def test_a_text_is_rendered_with_the_context() -> None:
    assert render("{{ ds }}/{{ params.city }}/{{ n + 1 }}", CONTEXT) == "2026-01-05/Ulm/4"
    assert render("{% for i in range(n) %}{{ i }}{% endfor %}{# not this #}", CONTEXT) == "012"
    assert render("{% set seen = [] %}{% do seen.append(n) %}{{ seen }}", CONTEXT) == "[3]"


@given(NESTED)
def test_a_value_without_templates_stays_equal_and_keeps_its_type(value: Any) -> None:
    found = render(value, CONTEXT)
    assert found == value
    assert type(found) is type(value)


def test_texts_in_containers_are_rendered() -> None:
    value = ["{{ ds }}", ("{{ n }}", 1), {"k": {"{{ ds }}": "{{ n }}"}}, {"{{ n }}"}, frozenset(["{{ n }}"])]
    assert render(value, CONTEXT) == [
        *("2026-01-05", ("3", 1), {"k": {"{{ ds }}": "3"}}, {"3"}),
        frozenset(["3"]),
    ]
    assert value[0] == "{{ ds }}"


def test_a_named_tuple_stays_one() -> None:
    point = namedtuple("point", "x y")
    assert render(point("{{ n }}", 1), CONTEXT) == point("3", 1)
    assert render(Pair("{{ n }}", ["{{ n }}"]), CONTEXT) == Pair("3", ["3"])


def test_a_literal_becomes_what_it_wraps() -> None:
    held = ["{{ ds }}"]
    assert render(literal(held), CONTEXT) is held
    assert render({"a": literal("{{ ds }}"), "b": "{{ ds }}"}, CONTEXT) == {"a": "{{ ds }}", "b": "2026-01-05"}


def test_a_placeholder_is_left_to_the_one_who_fills_it() -> None:
    wanted = Placeholder("task", "{{ ds }}")
    assert render([wanted], CONTEXT)[0] is wanted


def test_text_without_a_mark_is_left_as_it_is() -> None:
    assert render("a line\n", CONTEXT) == "a line\n"
    assert render("007", CONTEXT, native=True) == "007"


def test_a_text_that_looks_like_a_file_is_not_read(tmp_path: Any) -> None:
    path = tmp_path / "query.sql"
    path.write_text("select 1")
    assert render(str(path), CONTEXT) == str(path)
    assert render(f"{tmp_path}/{{{{ 'query' }}}}.sql", CONTEXT) == str(path)


def test_the_fields_of_an_object_are_rendered_in_place() -> None:
    inner = Query("{{ n }}")
    query = Query("{{ ds }}", [inner, "{{ n }}"])
    assert render(query, CONTEXT) is query
    assert (query.sql, inner.sql, query.parts) == ("2026-01-05", "3", [inner, "3"])
    assert query.note == "{{ ds }}"


def test_objects_that_hold_each_other_are_rendered_once() -> None:
    one, other = Query("{{ n }}"), Query("{{ ds }}")
    one.parts, other.parts = other, one
    render([one, other], CONTEXT)
    assert (one.sql, other.sql) == ("3", "2026-01-05")


def test_a_field_that_can_be_called_becomes_what_it_returns() -> None:
    def build(*, context: Any, jinja_env: Any) -> str:
        rendered: str = jinja_env.from_string("select {{ n }}").render(context)
        return rendered

    assert render(Query(build), CONTEXT).sql == "select 3"


def test_a_field_that_is_not_there_is_named() -> None:
    query = Query()
    query.template_fields = ["missing"]
    with pytest.raises(TemplateError, match="Query names 'missing' in its template_fields"):
        render(query, CONTEXT)


def test_the_fields_of_a_class_are_not_rendered() -> None:
    assert render(Query, CONTEXT) is Query


# Native


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ n }}", 3),
        ("{{ params }}", CONTEXT["params"]),
        ("{{ [n, ds] }}", [3, "2026-01-05"]),
        ("{{ n }}{{ n }}", 33),
        ("{{ params.none }}", None),
        ("on {{ ds }}", "on 2026-01-05"),
    ],
)
def test_a_native_template_becomes_a_value(template: str, value: Any) -> None:
    assert render(template, CONTEXT, native=True) == value
    assert render({"k": [template]}, CONTEXT, native=True) == {"k": [value]}


def test_an_undefined_name_is_an_error_in_a_native_template_too() -> None:
    # Jinja hands out an object that complains only when somebody uses it: in the task, or never.
    for template in ("{{ nothing }}", "a {{ nothing }}"):
        with pytest.raises(TemplateError, match="'nothing' is undefined"):
            render(template, CONTEXT, native=True)


# Undefined names and other mistakes


def message_of(template: str, context: dict[str, Any] = CONTEXT, **settings: Any) -> str:
    """What the error of a template says, in one line."""
    with pytest.raises(TemplateError) as caught:
        render([template], context, **settings)
    assert caught.value.template == template
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_undefined_name_is_named_with_the_template_and_the_nearest_name() -> None:
    assert message_of("{{ dss }}") == "template '{{ dss }}': 'dss' is undefined (did you mean 'ds'?)"
    assert message_of("{{ zzz }}") == "template '{{ zzz }}': 'zzz' is undefined"


def test_an_undefined_part_is_named() -> None:
    assert "has no attribute 'town'" in message_of("{{ params.town }}")


@pytest.mark.parametrize(
    ("undefined", "text"), [("default", "[]"), ("chainable", "[]"), ("debug", "[{{ zzz }}]"), (jinja2.Undefined, "[]")]
)
def test_an_undefined_name_may_be_allowed(undefined: Any, text: str) -> None:
    assert render("[{{ zzz }}]", CONTEXT, undefined=undefined) == text


def test_only_what_is_chainable_may_be_asked_for_more() -> None:
    assert render("[{{ a.b.c }}]", CONTEXT, undefined="chainable") == "[]"
    assert "'a' is undefined" in message_of("{{ a.b.c }}", undefined="default")


def test_an_unknown_way_to_be_undefined_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="undefined='lenient' must be one of strict, default"):
        render("x", CONTEXT, undefined="lenient")


@pytest.mark.parametrize("template", ["body {#fff} {{ ds }}", "{{ ds", "{% for x in y %}", "{{ ds | nofilter }}"])
def test_a_text_that_is_no_good_template_gets_a_hint(template: str) -> None:
    assert "line 1: " in message_of(template)
    assert message_of(template).endswith("a text that is no template goes in literal(...)")


def test_a_template_of_many_lines_is_told_of_in_one() -> None:
    template = "select *\nfrom t\nwhere d = {{ dsd }}\n" + "-- and much more\n" * 20
    message = message_of(template)
    assert message.startswith(r"template 'select *\nfrom t")
    assert message.endswith("...': 'dsd' is undefined (did you mean 'ds'?)")
    assert len(message) < 200


def test_an_error_inside_a_template_is_named_by_its_type() -> None:
    assert message_of("{{ 1 / 0 }}") == "template '{{ 1 / 0 }}': ZeroDivisionError: division by zero"


def test_the_cause_of_an_error_is_kept() -> None:
    with pytest.raises(TemplateError) as caught:
        render("{{ 1 / 0 }}", CONTEXT)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_what_is_raised_on_purpose_goes_through() -> None:
    def stop() -> None:
        raise SkipTask("nothing today")

    with pytest.raises(SkipTask, match="nothing today"):
        render("{{ stop() }}", {"stop": stop})


# The sandbox


def test_the_sandbox_keeps_from_the_inside_of_python() -> None:
    assert "unsafe" in message_of("{{ ds.__class__ }}")
    assert "unsafe" in message_of("{{ f.__globals__ }}", {"f": message_of})


def test_one_underscore_is_allowed() -> None:
    assert render("{{ pair._fields }}", {"pair": Pair(1, 2)}) == "('left', 'right')"


# Settings of a dag


def test_macros_and_filters_of_the_user_are_there() -> None:
    renderer = Renderer(
        user_defined_macros={"twice": lambda n: 2 * n, "ds": "never"}, user_defined_filters={"loud": str.upper}
    )
    assert renderer.render("{{ twice(n) }} {{ params.city | loud }} {{ ds }}", CONTEXT) == "6 ULM 2026-01-05"
    assert "'twice' is undefined" in message_of("{{ twice(n) }}")


def test_a_filter_of_the_user_comes_before_airflow_s() -> None:
    assert Renderer(user_defined_filters={"ds": lambda _: "mine"}).render("{{ 1 | ds }}", CONTEXT) == "mine"


def test_files_are_included_from_the_searchpath(tmp_path: Any) -> None:
    (tmp_path / "head.sql").write_text("-- {{ ds }}")
    assert Renderer(searchpath=[str(tmp_path)]).render("{% include 'head.sql' %}", CONTEXT) == "-- 2026-01-05"
    assert "head.sql" in message_of("{% include 'head.sql' %}") or "no loader" in message_of("{% include 'head.sql' %}")


def test_options_of_jinja_may_be_given() -> None:
    renderer = Renderer(jinja_environment_kwargs={"keep_trailing_newline": True})
    assert renderer.render("{{ n }}\n", CONTEXT) == "3\n"
    assert render("{{ n }}\n", CONTEXT) == "3"


def test_a_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_ = jinja2.Environment.from_string

    def counted(self: jinja2.Environment, source: str, *rest: Any) -> jinja2.Template:
        compiled.append(source)
        return compile_(self, source, *rest)

    monkeypatch.setattr(jinja2.Environment, "from_string", counted)
    renderer = Renderer()
    assert [renderer.render("n={{ n }}", {"n": n}) for n in range(3)] == ["n=0", "n=1", "n=2"]
    assert compiled == ["n={{ n }}"]


# Filters and macros

MOMENT = datetime(2026, 1, 5, 6, 7, 8, 900, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ds", "2026-01-05"),
        ("ds_nodash", "20260105"),
        ("ts", "2026-01-05T06:07:08.000900+00:00"),
        ("ts_nodash", "20260105T060708"),
        ("ts_nodash_with_tz", "20260105T060708.000900+0000"),
    ],
)
def test_filters_write_dates_as_airflow_does(name: str, text: str) -> None:
    assert render("{{ moment | " + name + " }}", {"moment": MOMENT}) == text
    assert FILTERS[name](None) is None


def test_filters_take_dates_times_and_other_zones() -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    assert FILTERS["ts_nodash"](date(2026, 1, 5)) == "20260105T000000"
    assert FILTERS["ts"](time(6, 7)) == "06:07:00"
    assert FILTERS["ts_nodash_with_tz"](datetime(2026, 1, 5, tzinfo=east)) == "20260105T000000+0530"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ macros.ds_add(ds, 5) }}", "2026-01-10"),
        ("{{ macros.ds_add(ds, -5) }}", "2025-12-31"),
        ("{{ macros.ds_add(ds, 0) }}", "2026-01-05"),
        ("{{ macros.ds_format(ds, '%Y-%m-%d', '%d.%m.%y') }}", "05.01.26"),
        ("{{ macros.datetime(2026, 1, 5) + macros.timedelta(days=1) }}", "2026-01-06 00:00:00"),
        ("{{ macros.uuid.UUID(int=1) }}", "00000000-0000-0000-0000-000000000001"),
        ("{{ macros.json.dumps(params) }}", '{"city": "Ulm", "none": null}'),
        ("{{ 0 <= macros.random() < 1 }}", "True"),
        ("{{ macros.time.strftime('%Y', macros.time.gmtime(0)) }}", "1970"),
    ],
)
def test_macros_do_what_airflow_s_do(template: str, text: str) -> None:
    assert render(template, CONTEXT) == text


def test_a_macro_that_there_is_not_is_an_undefined_name() -> None:
    assert "has no attribute 'datetime_diff_for_humans'" in message_of("{{ macros.datetime_diff_for_humans(ds) }}")


def test_a_macro_that_needs_a_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dateutil", None)
    assert "macros.dateutil needs a package: pip install python-dateutil" in message_of("{{ macros.dateutil.parser }}")


def test_a_macro_that_is_installed_is_imported_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", sys.modules["json"])
    assert render("{{ macros.yaml.dumps(n) }}", CONTEXT) == "3"


def test_macros_are_built_once() -> None:
    assert macros() is macros()


# map_index_template


def test_a_map_index_is_named_by_what_the_task_put_into_its_context() -> None:
    assert render_map_index("{{ city }} {{ ds }}", {**CONTEXT, "city": "Ulm"}) == "Ulm 2026-01-05"
    assert render_map_index("plain", CONTEXT) == "plain"


def test_a_map_index_that_comes_out_empty_is_none() -> None:
    assert render_map_index("{{ '' }}", CONTEXT) is None


def test_a_map_index_is_text_also_in_a_native_dag() -> None:
    renderer = Renderer(native=True, user_defined_macros={"twice": lambda n: 2 * n})
    assert render_map_index("{{ twice(n) }}", CONTEXT, renderer=renderer) == "6"


def test_a_mistake_in_a_map_index_is_a_warning() -> None:
    said: list[str] = []
    assert render_map_index("{{ city }}", CONTEXT, warn=said.append) is None
    assert said == [
        "map_index_template: template '{{ city }}': 'city' is undefined; the task instance keeps its number for a name"
    ]


def test_a_mistake_in_a_map_index_goes_to_the_log_unless_told_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    assert render_map_index("{{ 1 / 0 }}", CONTEXT) is None
    assert "ZeroDivisionError" in caplog.text
