"""Params: what a dag declares, what a run may give, and what every mistake says."""

from __future__ import annotations

import copy
import enum
import math
import pickle
import re
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liteflow import Dag, task
from liteflow.authoring import dagfile
from liteflow.authoring.params import (
    NOTSET,
    ArgNotSet,
    Param,
    declare_params,
    own_values,
    parse_param_text,
    resolve_params,
    resolve_with_tasks,
)
from liteflow.authoring.places import Place
from liteflow.errors import ParamError

HERE = Place("flow.py", 7)


class Colour(enum.Enum):
    """A value that JSON has not."""

    RED = "red"


class Unshowable:
    """An object whose text cannot be had."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def broken(schema: dict[str, Any]) -> str:
    """What is said of a Param with this schema, after the place."""
    with pytest.raises(ParamError) as caught:
        Param(**schema)
    place, said = str(caught.value).split(": the schema of this Param is broken: ", 1)
    assert place.startswith(f"{__file__}:")
    assert "\n" not in said
    assert caught.value.param == ""
    return said


def refused(declared: dict[str, Any], given: dict[str, Any]) -> ParamError:
    """The error of a run of dag 'etl' that gives these."""
    with pytest.raises(ParamError) as caught:
        resolve_params(declare_params(declared, HERE), given, "dag 'etl'")
    assert "\n" not in str(caught.value)
    return caught.value


# NOTSET


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_notset_stays_the_same_object(again: Any) -> None:
    assert again(NOTSET) is NOTSET
    assert again({"default": NOTSET})["default"] is NOTSET
    assert repr(NOTSET) == "NOTSET"
    assert isinstance(NOTSET, ArgNotSet)


# Param


def test_a_param_has_airflows_parts() -> None:
    param = Param(5, "How many", "dag", type="integer", minimum=1, title="Number")
    assert (param.value, param.description, param.source) == (5, "How many", "dag")
    assert param.schema == {"type": "integer", "minimum": 1, "title": "Number"}
    assert param.has_value
    assert param.dump() == {"value": 5, "description": "How many", "source": "dag", "schema": param.schema}
    assert repr(param) == "Param(5, description='How many', type='integer', minimum=1, title='Number')"


def test_a_param_without_a_default_has_no_value() -> None:
    param = Param(type="string")
    assert param.value is NOTSET
    assert not param.has_value
    assert param.dump()["value"] is None
    assert repr(param) == "Param(type='string')"


@pytest.mark.parametrize(
    ("schema", "stands"),
    [
        ({}, True),
        ({"title": "Any"}, True),
        ({"type": ["string", "null"]}, True),
        ({"type": "null"}, True),
        ({"type": "string"}, False),
        ({"enum": ["a", "b"]}, False),
        ({"minimum": 1}, True),
    ],
)
def test_none_is_a_default_where_the_schema_allows_it(schema: dict[str, Any], stands: bool) -> None:
    assert Param(None, **schema).has_value is stands


def test_the_schema_can_be_given_as_a_whole() -> None:
    assert Param(5, schema={"type": "integer"}).schema == {"type": "integer"}


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize("default", [NOTSET, None, 5])
def test_a_param_can_be_copied_and_pickled_after_it_was_used(again: Any, default: Any) -> None:
    param = Param(default, "words", type=["integer", "null"], minimum=1)
    assert param.problem_with(0)
    other = again(param)
    assert vars(other) == vars(param)
    assert other.problem_with(0) == param.problem_with(0)


def test_with_default_keeps_all_else_and_the_param_itself() -> None:
    param = Param(5, "words", type="integer", minimum=1)
    other = param.with_default(0)
    assert (param.value, other.value) == (5, 0)
    assert {**vars(other), "value": 5} == vars(param)


def test_resolve_gives_the_value_or_the_default_and_keeps_the_default() -> None:
    param = Param(5, type="integer", minimum=1)
    assert (param.resolve(), param.resolve(7), param.resolve()) == (5, 7, 5)
    assert Param().resolve(None) is None
    day = date(2026, 1, 1)
    assert Param(type="string", format="date").resolve(day) is day


@pytest.mark.parametrize(
    ("param", "value", "said"),
    [
        (Param(5, minimum=1), 0, "0 must be bigger than or equal to 1"),
        (Param(0, minimum=1), NOTSET, "0 must be bigger than or equal to 1"),
        (Param(type="string"), NOTSET, "a value must be given: this Param has no default"),
        (Param(), NOTSET, "a value must be given: this Param has no default"),
        (Param(None, type="string"), NOTSET, "None must be string"),
    ],
)
def test_resolve_raises_unless_exceptions_are_suppressed(param: Param, value: Any, said: str) -> None:
    with pytest.raises(ParamError) as caught:
        param.resolve(value)
    assert str(caught.value) == said
    assert caught.value.param == ""
    assert param.resolve(value, suppress_exception=True) is None


# Values


@pytest.mark.parametrize(
    ("schema", "value", "problem"),
    [
        ({"type": "integer"}, "x", "'x' must be integer"),
        ({"type": "integer"}, True, "True must be integer"),
        ({"type": ["integer", "null"]}, 1.5, "1.5 must be integer or null"),
        ({"type": "string", "minLength": 3}, "ab", "'ab' must be longer than or equal to 3 characters"),
        ({"enum": ["a", "b"]}, "c", "'c' must be one of ['a', 'b']"),
        ({"enum": ["a\nb"]}, "c", "'c' must be one of ['a b']"),
        ({"pattern": r'^\d+"{x}$'}, "c", r"""'c' must match pattern ^\d+"{x}$"""),
        ({"type": "array", "items": {"type": "integer"}}, (1, "a"), "[1]='a' must be integer"),
        (
            {"properties": {"port": {"properties": {"no": {"type": "integer"}}}}},
            {"port": {"no": "x"}},
            "port.no='x' must be integer",
        ),
        ({"additionalProperties": {"type": "integer"}}, {"a{b}": "x"}, "a{b}='x' must be integer"),
        ({"required": ["b"]}, {"a": 1}, "{'a': 1} must contain ['b'] properties"),
        ({"format": "date"}, "2026-02-30", "'2026-02-30' must be date, such as 2026-01-31"),
        ({"format": "uuid"}, "x", "'x' must be uuid"),
        (
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
            5,
            "5 cannot be validated by any definition: [{'type': 'string'}, {'type': 'null'}]",
        ),
        (
            {"type": "string"},
            b"x",
            "b'x' cannot be checked against the schema: a value of type bytes has no form in JSON",
        ),
        ({"type": "number"}, math.nan, "nan cannot be checked against the schema: NaN is no number"),
    ],
)
def test_a_value_that_does_not_fit_is_told_in_one_line(schema: dict[str, Any], value: Any, problem: str) -> None:
    assert Param(**schema).problem_with(value) == problem


@pytest.mark.parametrize(
    "value",
    [
        {(1,): 2},
        [Unshowable()],
        [10**5000],
        object(),
    ],
)
def test_a_value_that_json_cannot_hold_fits_no_schema(value: Any) -> None:
    assert "cannot be checked against the schema" in Param(title="any").problem_with(value)
    assert Param().problem_with(value) == ""


def test_a_value_that_holds_itself_fits_no_schema() -> None:
    value: list[Any] = []
    value.append(value)
    assert "cannot be checked against the schema" in Param(type="array").problem_with(value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"multipleOf": 3}, math.inf),
        ({"multipleOf": 1.5}, 10**400),
        ({"$ref": "#"}, 1),
    ],
)
def test_what_the_library_cannot_work_out_does_not_fit(schema: dict[str, Any], value: Any) -> None:
    assert "cannot be checked against the schema" in Param(**schema).problem_with(value)


def test_a_long_value_is_shortened() -> None:
    problem = Param(type="integer").problem_with("x" * 10_000)
    assert problem == f"'{'x' * 76}... must be integer"
    assert len(Param(enum=[str(number) for number in range(1000)]).problem_with("x")) == 400


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "array", "items": {"type": "integer"}}, (1, 2)),
        ({"type": "array", "uniqueItems": True}, {1, 2}),
        ({"type": "string", "format": "date"}, date(2026, 1, 31)),
        ({"type": "string", "format": "date-time"}, datetime(2026, 1, 31, 6, tzinfo=UTC)),
        ({"type": "string", "format": "date-time"}, datetime(2026, 1, 31, 6, 0, 0, 5)),  # noqa: DTZ001
        ({"type": "string", "format": "time"}, time(6, 30)),
        ({"type": "string", "format": "duration"}, timedelta(minutes=15)),
        ({"type": "string", "format": "duration"}, timedelta(milliseconds=1500)),
        ({"type": "string", "format": "uuid"}, UUID(int=5)),
        ({"type": "string"}, Path("a/b")),
        ({"type": "integer"}, Decimal(2)),
        ({"type": "number", "multipleOf": 0.5}, Decimal("1.50")),
        ({"type": "number", "minimum": 0}, math.inf),
        ({"enum": ["red"]}, Colour.RED),
        ({"enum": [date(2026, 1, 31)]}, "2026-01-31"),
        ({"type": "object", "required": ["1"]}, {1: 2}),
        ({"type": "object"}, {"a": {"b": None}}),
        ({"type": "integer"}, 1.0),
        ({"type": "string", "format": "multiline"}, "a\nb"),
    ],
)
def test_a_value_is_checked_as_json_has_it(schema: dict[str, Any], value: Any) -> None:
    assert Param(**schema).problem_with(value) == ""


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("date", ["2026-01-31", "2024-02-29"], ["2026-02-29", "20260131", "2026-W05-6", "31.1.2026", "2026-01-31\n"]),
        ("time", ["06:00", "06:00:00", "06:00:00.5", "06:00:00Z", "06:00+01:00"], ["25:00", "0600", "6:00", "06"]),
        (
            "date-time",
            ["2026-01-31T06:00:00", "2026-01-31T06:00:00Z", "2026-01-31t06:00:00z", "2026-01-31 06:00:00.25+01:00"],
            ["2026-01-31", "2026-02-30T06:00:00", "20260131T060000", "2026-01-31T24:01"],
        ),
        ("duration", ["PT15M", "P1W", "P1DT2H", "PT0.5S"], ["P", "PT", "15m", "P1H", "-PT5S"]),
        ("email", ["a@example.org", "me@localhost"], ["a", "@b", "a b@c", "a@b@c"]),
        ("uuid", [str(UUID(int=3))], ["3", "{00000000-0000-0000-0000-000000000003}"]),
        ("uri", ["https://example.org/a?b"], ["example", "https://a b"]),
        ("ipv4", ["127.0.0.1"], ["256.1.1.1"]),
        ("hostname", ["example.org"], ["-a"]),
        ("regex", ["^a+$"], ["("]),
    ],
)
def test_formats(kind: str, good: list[str], bad: list[str]) -> None:
    param = Param(type="string", format=kind)
    assert [text for text in good if param.problem_with(text)] == []
    assert [text for text in bad if not param.problem_with(text)] == []


def test_a_check_changes_neither_the_value_nor_the_schema() -> None:
    schema = {
        "definitions": {"port": {"type": "integer"}},
        "properties": {"port": {"$ref": "#/definitions/port", "default": 1}, "host": {"default": "here"}},
    }
    before, value = copy.deepcopy(schema), {"port": 3}
    param = Param(schema=schema)
    assert param.problem_with(value) == ""
    assert param.problem_with({"port": "x"}) == "port='x' must be integer"
    assert (param.schema, value) == (before, {"port": 3})


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda some: st.lists(some) | st.tuples(some))
)
def test_every_value_fits_no_schema_and_one_that_says_nothing(value: Any) -> None:
    assert Param().resolve(value) is value
    assert Param(title="Anything").resolve(value) is value


# Schemas


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "int"}, "type='int' must be one of string, integer, .*did you mean 'integer'"),
        ({"type": int}, "type=<class 'int'> must be one of .*did you mean 'integer'"),
        ({"type": ["string", "none"]}, "type='none' must be one of"),
        ({"type": "strng"}, "did you mean 'string'"),
        ({"type": []}, r"type=\[\] must be one of"),
        ({"type": {"a": 1}}, "type={'a': 1} must be one of"),
        ({"minimum": "x"}, "minimum='x' must be a number"),
        ({"minimum": True}, "minimum=True must be a number"),
        ({"maximum": math.nan}, "maximum=nan must be a number"),
        ({"minLength": -1}, "minLength=-1 must be a whole number, 0 or more"),
        ({"multipleOf": 0}, "multipleOf=0 must be a number above 0"),
        ({"max_length": 3}, "max_length is no word of JSON schema .did you mean 'maxLength'"),
        ({"minimun": 3}, "did you mean 'minimum'"),
        ({"pattern": "("}, "pattern='.' must be a regular expression"),
        ({"pattern": 3}, "pattern=3 must be a regular expression"),
        ({"format": 3}, "format=3 must be text"),
        ({"enum": "ab"}, "enum='ab' must be a list with values"),
        ({"enum": []}, "enum=.. must be a list with values"),
        ({"enum": [b"x"]}, "a value of type bytes has no form in JSON"),
        ({"const": math.inf}, "not JSON compliant"),
        ({"uniqueItems": 1}, "uniqueItems=1 must be True or False"),
        ({"required": True}, "required=True must be a list of names"),
        ({"required": ["a", "a"]}, "unique"),
        ({"required": ["a"], "additionalProperties": False}, r"items \['a'\] are required but not allowed"),
        ({"properties": 3}, "properties=3 must be a dict"),
        ({"properties": {"a": {"type": "str"}}}, "properties.a.type='str' must be one of"),
        ({"properties": {"a": 3}}, "properties.a=3 must be a schema: a dict, True or False"),
        ({"items": 3}, "items=3 must be a schema"),
        ({"items": [{"minimum": "x"}]}, r"items\[0\].minimum='x' must be a number"),
        ({"anyOf": [{"minimum": "x"}]}, r"anyOf\[0\].minimum='x' must be a number"),
        ({"dependencies": {"a": ["b"], "b": {"type": "x"}}}, "dependencies.b.type='x'"),
        ({"items": {"prefixItems": []}}, "items.prefixItems is not in draft 7 of JSON schema"),
        ({"items": {"$id": "x"}}, "items.\\$id is not allowed inside of a schema"),
        ({"$ref": "#/definitions/x"}, "Unresolvable ref"),
        ({"$ref": "https://example.org/x"}, r"\$ref='https://example.org/x' must be text that begins with '#'"),
        ({"const": {"$ref": "https://example.org/x"}}, "points out of the schema"),
        ({"const": {"$ref": "file:///etc/hosts"}}, "points out of the schema"),
    ],
)
def test_a_broken_schema_is_told_where_the_param_is_written(schema: dict[str, Any], said: str) -> None:
    assert re.search(said, broken(schema))


def test_a_schema_that_holds_itself_is_broken() -> None:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    assert broken({"schema": schema})


def test_a_reference_out_of_the_schema_is_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("urllib.request.urlopen", asked.append)
    for uri in ("http://127.0.0.1:9/x", "file:///etc/hosts", "other.json", "urn:x"):
        broken({"$ref": uri})
        broken({"const": {"$ref": uri}})
    assert asked == []


def test_words_that_check_nothing_are_kept() -> None:
    airflows = {
        "title": "Rows",
        "section": "Sizes",
        "description_md": "**How many**",
        "values_display": {1: "one"},
        "examples": ("a", "b"),
        "custom_html_form": "<p/>",
        "placeholder": "1000",
        "deprecated": True,
        "readOnly": True,
        "contentEncoding": "base64",
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://example.org/rows",
        "$comment": "mine",
    }
    param = Param(5, type="integer", **airflows)
    assert param.problem_with(5) == ""
    assert {word: param.schema[word] for word in airflows} == airflows


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"schema": 3}, "schema=3 of a Param must be a dict"),
        ({"schema": {}, "type": "string"}, r"a Param takes schema= or the words of one \(type\), not both"),
        ({"description": 3}, "description=3 of a Param must be text"),
    ],
)
def test_other_mistakes_in_a_param_have_its_place_too(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamError, match=said) as caught:
        Param(5, **arguments)
    assert str(caught.value).startswith(f"{__file__}:")


def test_a_worker_does_not_check_what_the_host_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagfile, "_in_worker", True)
    declared = declare_params({"n": Param(0, minimum=1), "m": Param(minimum="x")}, HERE)
    assert list(declared) == ["n", "m"]


def test_fastjsonschema_is_imported_by_the_first_schema() -> None:
    script = (
        "import sys; from liteflow.authoring.params import Param, declare_params, resolve_params\n"
        "resolve_params(declare_params({'a': Param(5, 'words'), 'b': None}, ('x', 1)), {'b': 3}, 'dag')\n"
        "before = 'fastjsonschema' in sys.modules; Param(type='string')\n"
        "print(before, 'fastjsonschema' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


# Declaring


def test_plain_values_become_params_and_params_are_kept() -> None:
    param = Param(type="string")
    declared = declare_params({"a": param, "b": 5, "c": None}, HERE)
    assert list(declared) == ["a", "b", "c"]
    assert declared["a"] is param
    assert (declared["b"].value, declared["b"].schema, declared["b"].has_value) == (5, {}, True)
    assert declared["c"].has_value


@pytest.mark.parametrize("params", [[("a", 1)], "day", 3])
def test_params_are_a_mapping(params: Any) -> None:
    with pytest.raises(ParamError, match=r"^flow.py:7: params=.* must be a dict of names and defaults"):
        declare_params(params, HERE)


@pytest.mark.parametrize("name", ["", 1, None, ("a",)])
def test_a_name_is_text(name: Any) -> None:
    with pytest.raises(ParamError, match=r"^flow.py:7: .* is no name of a param: use text") as caught:
        declare_params({name: 1}, HERE)
    assert caught.value.param == str(name)


def test_a_default_that_does_not_fit_is_told_where_the_param_is_written() -> None:
    param = Param(0, type="integer", minimum=1)
    with pytest.raises(ParamError) as caught:
        declare_params({"n": param}, HERE)
    assert str(caught.value) == f"{param.place}: param 'n': its default 0 must be bigger than or equal to 1"
    assert param.place.file == __file__
    assert caught.value.param == "n"


def test_a_none_that_the_schema_does_not_allow_means_that_it_must_be_given() -> None:
    declared = declare_params({"day": Param(None, type="string")}, HERE)
    assert resolve_params(declared, {"day": "x"}, "dag 'etl'") == {"day": "x"}
    assert "needs a value for param 'day'" in str(refused({"day": Param(None, type="string")}, {}))


# Giving


def test_what_is_given_is_laid_over_the_defaults_in_the_order_of_the_declaration() -> None:
    declared = declare_params({"a": 1, "b": Param(2, type="integer"), "c": Param(), "d": None}, HERE)
    values = resolve_params(declared, {"c": b"x", "b": 3}, "dag 'etl'")
    assert list(values.items()) == [("a", 1), ("b", 3), ("c", b"x"), ("d", None)]
    assert declared["b"].value == 2


def test_none_is_a_value_that_can_be_given() -> None:
    assert resolve_params({"a": Param(5), "b": Param()}, {"a": None, "b": None}, "dag 'etl'") == {"a": None, "b": None}


@pytest.mark.parametrize(
    ("declared", "given", "said", "param"),
    [
        ({"day": 1}, {"dya": 2}, "dag 'etl' has no param 'dya' (did you mean 'day'?)", "dya"),
        ({"a": 1, "b": 1}, {"xyz": 2}, "dag 'etl' has no param 'xyz'; it has 'a', 'b'", "xyz"),
        ({}, {"x": 2}, "dag 'etl' has no param 'x'; it has none", "x"),
        ({"a": 1}, {7: 2}, "dag 'etl' has no param 7; it has 'a'", "7"),
        (
            {"n": Param(5, minimum=1)},
            {"n": 0},
            "dag 'etl' refuses param 'n': 0 must be bigger than or equal to 1",
            "n",
        ),
        (
            {"n": Param(type="string")},
            {"n": None},
            "dag 'etl' refuses param 'n': None must be string",
            "n",
        ),
        ({"a": Param()}, {}, "dag 'etl' needs a value for param 'a', which every run must give", "a"),
        (
            {"a": Param(), "b": 1, "c": Param(type="string")},
            {},
            "dag 'etl' needs a value for params 'a', 'c', which every run must give",
            "a",
        ),
        (
            {"day": Param(), "n": Param(5, minimum=1), "m": Param(5, type="integer")},
            {"dya": 1, "m": "x", "n": 0},
            (
                "dag 'etl' has no param 'dya' (did you mean 'day'?); refuses param 'n': 0 must be bigger than or equal "
                "to 1; refuses param 'm': 'x' must be integer; needs a value for param 'day', which every run must give"
            ),
            "dya",
        ),
    ],
)
def test_everything_that_is_wrong_with_a_run_is_told_at_once(
    declared: dict[str, Any], given: dict[str, Any], said: str, param: str
) -> None:
    error = refused(declared, given)
    assert (str(error), error.param) == (said, param)


@given(
    st.dictionaries(st.text(min_size=1), st.integers(), max_size=5),
    st.dictionaries(st.text(min_size=1), st.integers(), max_size=5),
)
def test_a_run_is_as_with_dicts_or_is_refused(defaults: dict[str, int], values: dict[str, int]) -> None:
    declared = declare_params(defaults, HERE)
    if values.keys() <= defaults.keys():
        assert resolve_params(declared, values, "dag 'etl'") == {**defaults, **values}
    else:
        with pytest.raises(ParamError, match="has no param"):
            resolve_params(declared, values, "dag 'etl'")


# The command line


@pytest.mark.parametrize(
    ("param", "text", "value"),
    [
        (None, "5", 5),
        (None, "five", "five"),
        (None, "", ""),
        (None, '{"a": [1, null]}', {"a": [1, None]}),
        (None, "True", "True"),
        pytest.param(None, "[" * 100_000, "[" * 100_000, id="deep"),
        (Param(), "5", 5),
        (Param(None), "5", 5),
        (Param(0), "5", 5),
        (Param(""), "00123", "00123"),
        (Param(""), "null", "null"),
        (Param(False), "true", True),
        (Param(True), "False", False),
        (Param(True), "no", "no"),
        (Param(type="string"), "5", "5"),
        (Param(type="string"), '"5"', '"5"'),
        (Param(5, type="string", title="the schema is stronger than the default"), "5", "5"),
        (Param(type=["string"]), "null", "null"),
        (Param(type=["string", "null"]), "null", None),
        (Param(type=["string", "null"]), "5", "5"),
        (Param(type=["string", "integer"]), "5", 5),
        (Param(type=["string", "integer"]), '"5"', "5"),
        (Param(type=["string", "integer"]), "all", "all"),
        (Param(type="integer"), "5", 5),
        (Param(type="integer"), "five", "five"),
        (Param(type="boolean"), "True", True),
        (Param(type="boolean"), "true", True),
        (Param(type="array"), "[1, 2]", [1, 2]),
        (Param(type="array"), "1,2", "1,2"),
        (Param(enum=["1", "2"]), "1", "1"),
        (Param("a", enum=["a", 1]), "1", 1),
        (Param(format="date"), "2026-01-31", "2026-01-31"),
    ],
)
def test_text_of_the_command_line(param: Param | None, text: str, value: Any) -> None:
    found = parse_param_text(param, text)
    assert (found, type(found)) == (value, type(value))


@given(st.text())
def test_text_stays_what_it_is_for_a_param_of_text(text: str) -> None:
    assert parse_param_text(Param(type="string"), text) == text
    assert parse_param_text(Param("default"), text) == text


# Params of single tasks


def test_a_command_line_reads_the_param_of_a_task_as_the_task_declares_it() -> None:
    from liteflow.cli.dagfile import given_params

    with Dag("d", params={"both": "text"}) as dag:
        task(lambda: None, task_id="one", params={"day": "01", "both": 5})()
    assert given_params(dag, ["day=007", "both=7", "none=7"]) == {"day": "007", "both": "7", "none": 7}


def test_the_params_of_a_run_hold_what_only_tasks_have_once_it_is_given() -> None:
    declared, own = {"a": Param(1)}, {"one": {"b": Param(2), "a": Param(3)}, "two": {}}
    assert resolve_with_tasks(declared, own, {}, "d") == {"a": 1}
    assert resolve_with_tasks(declared, own, {"b": 5}, "d") == {"a": 1, "b": 5}


@pytest.mark.parametrize(
    ("run", "values"),
    [
        ({"a": 1}, {"a": 2, "own": 3}),  # the dag's default, given or not
        ({"a": 5}, {"a": 5, "own": 3}),
        ({"a": 1, "own": 6, "b": 7}, {"a": 2, "own": 6, "b": 7}),
    ],
)
def test_what_a_run_gives_goes_over_the_params_of_a_task(run: dict[str, Any], values: dict[str, Any]) -> None:
    assert own_values({"a": 2, "own": 3}, run, {"a": 1}) == values
