"""Params: the named values that a run is started with, and the JSON schemas that they must fit.

A dag declares names with defaults. A plain value is a default and nothing more. A `Param` may also have no default,
which makes it one that every run must give, and a JSON schema (draft 7) for the values. Mistakes in a declaration
are found while the dag is built, those in a value before the run is recorded. A schema sees a value as JSON has it
(a tuple is an array, a date is text), while the run gets the value itself. Source: Airflow's `Param`; the checks
are fastjsonschema's, which is imported when the first schema is met.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from liteflow.authoring.dagfile import is_in_worker
from liteflow.authoring.ids import did_you_mean
from liteflow.authoring.places import Place, caller
from liteflow.errors import ParamError

if TYPE_CHECKING:
    from fastjsonschema import JsonSchemaValueException


class ArgNotSet:
    """The class of `NOTSET`, which is its only object."""

    def __repr__(self) -> str:
        return "NOTSET"

    def __reduce__(self) -> str:
        return "NOTSET"  # by name, so that pickles and copies are the same object


NOTSET: Final = ArgNotSet()
"""Stands for "no value was given" where None is a value."""


class Param:
    """The declaration of a param: a default, words about it and the JSON schema that its values must fit.

        Dag("etl", params={"limit": Param(100, "Rows at most", type="integer", minimum=1), "day": Param(type="string")})

    `default`: the value of a run that gives none; without it, or where it is None and the schema does not allow null,
    each run must give a value. `description` is for people. `source` is kept as it is, for Airflow's sake. All other
    keywords are the schema, draft 7 (`type`, `enum`, `minimum`, `pattern`, `format`, `items`, ...), or `schema=` is
    the whole of it; words that JSON schema does not know (`title`, `section`) are kept and not looked at.
    A schema that is broken raises ParamError with the file and line; a default that does not fit does so when a dag
    declares it, since only then it has a name.
    """

    def __init__(
        self, default: Any = NOTSET, description: str | None = None, source: str | None = None, **json_schema: Any
    ) -> None:
        self.place = caller()
        """Where it is written."""
        self.value: Any = default
        """The default, or NOTSET."""
        self.description = description
        self.source = source
        self.schema: dict[str, Any] = _whole_schema(json_schema, self.place)
        """The JSON schema; empty when every value is fine."""
        if not is_in_worker():  # the host said it already
            self._check()

    def _check(self) -> None:
        """ParamError if the description is no text or the schema cannot be meant."""
        if not isinstance(self.description, str | None):
            raise ParamError(f"{self.place}: description={_shown(self.description)} of a Param must be text", param="")
        mistake = _schema_mistake(self.schema) if self.schema else ""
        if mistake:
            raise ParamError(f"{self.place}: the schema of this Param is broken: {mistake}", param="")

    @property
    def has_value(self) -> bool:
        """Whether a run can do without giving a value: there is a default, and it is not a None that cannot stand."""
        if self.value is NOTSET:
            return False
        return self.value is not None or not self.problem_with(None)

    def problem_with(self, value: Any) -> str:
        """What the schema has against the value, one line such as `0 must be bigger than or equal to 1`; "" if nothing.

        A value that has no form in JSON, such as bytes, fits no schema; without a schema, every value is fine.
        """
        return _problem(self.schema, value) if self.schema else ""

    def resolve(self, value: Any = NOTSET, suppress_exception: bool = False) -> Any:
        """The value, or the default when there is none, if it fits the schema; the Param itself stays as it is.

        Raises ParamError if it does not fit or there is neither; with `suppress_exception` the answer is None then.
        """
        final = self.value if value is NOTSET else value
        if final is NOTSET:
            problem = "a value must be given: this Param has no default"
        else:
            problem = self.problem_with(final)
        if not problem:
            return final
        if suppress_exception:
            return None
        raise ParamError(problem, param="")

    def with_default(self, value: Any) -> Param:
        """The same Param with another default."""
        other = copy.copy(self)
        other.value = value
        return other

    def dump(self) -> dict[str, Any]:
        """Its parts by name: `value` (None when it has none, as in Airflow), `description`, `schema`, `source`."""
        value = None if self.value is NOTSET else self.value
        return {"value": value, "description": self.description, "schema": self.schema, "source": self.source}

    def __repr__(self) -> str:
        default = [] if self.value is NOTSET else [repr(self.value)]
        described = [] if self.description is None else [f"description={self.description!r}"]
        named = [f"{word}={wanted!r}" for word, wanted in self.schema.items()]
        return f"Param({', '.join([*default, *described, *named])})"


# Declaring and giving


def declare_params(params: Mapping[str, Any], where: Place) -> dict[str, Param]:
    """What a dag made at `where` declares, in its order; plain values become Params without a schema.

    Raises ParamError, with file and line, for a name that is no text or empty, and for a default that does not fit
    its own schema. A None that the schema does not allow is no such mistake: it says that a run must give a value.
    """
    if not isinstance(params, Mapping):
        raise ParamError(f"{where}: params={_shown(params)} must be a dict of names and defaults", param="")
    declared: dict[str, Param] = {}
    for name, default in params.items():
        if not isinstance(name, str) or not name:
            raise ParamError(f"{where}: {_shown(name)} is no name of a param: use text", param=str(name))
        declared[name] = default if isinstance(default, Param) else Param(default)
        if not is_in_worker():
            _check_default(name, declared[name])
    return declared


def _check_default(name: str, param: Param) -> None:
    if param.value is NOTSET or param.value is None:
        return
    problem = param.problem_with(param.value)
    if problem:
        raise ParamError(f"{param.place}: param {name!r}: its default {problem}", param=name)


def resolve_params(declared: Mapping[str, Param], given: Mapping[str, Any], of_what: str) -> dict[str, Any]:
    """The values of a run: what is `given` laid over the defaults, in the order of the declaration.

    Raises ParamError that names every unknown name, every value that does not fit and every value that is missing,
    in one line; its `param` is the first of them. `of_what` stands at the beginning of it, such as `dag 'etl'`.
    """
    wrong = {str(name): _unknown(name, declared) for name in given if name not in declared}
    values: dict[str, Any] = {}
    missing: list[str] = []
    for name, param in declared.items():
        value = given.get(name, NOTSET)
        if value is NOTSET and not param.has_value:
            missing.append(name)
            continue
        values[name] = param.value if value is NOTSET else value
        problem = param.problem_with(values[name])
        if problem:
            wrong[name] = f"refuses param {name!r}: {problem}"
    if missing:
        kind = "param" if len(missing) == 1 else "params"
        wrong[missing[0]] = f"needs a value for {kind} {', '.join(map(repr, missing))}, which every run must give"
    if wrong:
        raise ParamError(f"{of_what} {'; '.join(wrong.values())}", param=next(iter(wrong)))
    return values


def own_values(
    own: Mapping[str, Any], run_values: Mapping[str, Any], dag_defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The params of a task that has some of its `own` (names to values), in a run with these values.

    Its own are laid over the dag's, and what the run gives over both. The record of a run does not tell what was given
    from what is the dag's default, so a value that is that default counts as not given.
    """
    values = dict(run_values)
    for name, value in own.items():
        if name not in values or (name in dag_defaults and values[name] == dag_defaults[name]):
            values[name] = value
    return values


def resolve_with_tasks(
    declared: Mapping[str, Param],
    of_tasks: Mapping[str, Mapping[str, Param]],
    given: Mapping[str, Any],
    of_what: str,
) -> dict[str, Any]:
    """As `resolve_params`, where tasks have params of their own (`of_tasks`, by task id): a run may give these too.

    What is given and only a task declares is among the values, after the dag's. A task's own param stands in its task
    for the whole of the dag's: the value there must fit its schema.
    """
    of_tasks = {task_id: own for task_id, own in of_tasks.items() if own}
    theirs = {name for own in of_tasks.values() for name in own} - set(declared)
    values = resolve_params(declared, {name: value for name, value in given.items() if name not in theirs}, of_what)
    values |= {name: value for name, value in given.items() if name in theirs}
    defaults = {name: param.value for name, param in declared.items() if param.has_value}
    for task_id, own in of_tasks.items():
        there = own_values({name: param.value for name, param in own.items()}, values, defaults)
        wanted = {name: there[name] for name in own if there[name] is not NOTSET}
        resolve_params(own, wanted, f"{of_what} task {task_id!r}")
    return values


def _unknown(name: Any, declared: Collection[str]) -> str:
    there = f"it has {', '.join(map(repr, declared))}" if declared else "it has none"
    return f"has no param {name!r}{did_you_mean(str(name), declared) or f'; {there}'}"


def parse_param_text(declared: Param | None, text: str) -> Any:
    """The value that `text` on a command line stands for: what it is as JSON, else the text itself.

    For a param that is text (by its schema, else by its default) it is the text, so that `00123` keeps its zeros.
    Where the schema takes only one of the two readings, that one is meant. A param that is a flag also knows Python's
    `True` and `False`. The value is not checked otherwise; None stands for a param that was not declared.
    """
    if declared is None:
        return _from_json(text)
    types = _types(declared)
    parsed = _PYTHON_FLAGS.get(text, _from_json(text)) if "boolean" in types else _from_json(text)
    readings = [text, parsed] if types == {"string"} else [parsed, text]
    return next((one for one in readings if not declared.problem_with(one)), readings[0])


_PYTHON_FLAGS = {"True": True, "False": False}


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _types(param: Param) -> set[str]:
    """The JSON types that the schema names, else that of the default if it is text or a flag."""
    named = param.schema.get("type")
    if named is not None:
        return {named} if isinstance(named, str) else set(named)
    return {"string"} if isinstance(param.value, str) else {"boolean"} if isinstance(param.value, bool) else set()


# Values as a schema sees them


def _as_json(value: Any) -> Any:
    """The value as JSON has it. ValueError or TypeError, with words for people, if it has no form there."""
    return json.loads(json.dumps(value, default=_json_form), parse_constant=_constant)


def _constant(word: str) -> float:
    if word == "NaN":  # neither less nor more than any limit: it would slip through
        raise ValueError("NaN is no number")
    return float(word)


def _json_form(value: Any) -> Any:
    """What stands for a value of a type that JSON does not have."""
    from decimal import Decimal  # seldom met, not worth their import before
    from uuid import UUID

    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"PT{value.total_seconds():.15g}S"
    if isinstance(value, UUID | os.PathLike):
        return str(value)
    if isinstance(value, Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        return int(value) if whole else float(value)
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a value of type {type(value).__name__} has no form in JSON")


def _problem(schema: Mapping[str, Any], value: Any) -> str:
    from fastjsonschema import JsonSchemaValueException

    try:
        seen = _as_json(value)
    except (ValueError, TypeError, RecursionError) as error:
        return _one_line(f"{_shown(value)} cannot be checked against the schema: {error}")
    try:
        _validator(json.dumps(schema, default=_json_form))(seen)
    except JsonSchemaValueException as error:
        return _said(error)
    except (ArithmeticError, RecursionError) as error:  # infinity as a multiple of 3, a schema that refers to itself
        return _one_line(f"{_shown(value)} cannot be checked against the schema: {error}")
    return ""


def _said(error: JsonSchemaValueException) -> str:
    """The library's message, with the value and, inside of a value, the way to it in place of its `data`."""
    name = error.name or ""
    path = name.removeprefix("data").lstrip(".")
    wanted = error.message.removeprefix(name).strip()
    if error.rule in ("anyOf", "oneOf", "not"):
        wanted += f": {_shown(error.rule_definition)}"
    if error.rule == "format" and error.rule_definition in _EXAMPLES:
        wanted += f", such as {_EXAMPLES[error.rule_definition]}"
    return _one_line(f"{path}={_shown(error.value)} {wanted}" if path else f"{_shown(error.value)} {wanted}")


def _shown(value: Any) -> str:
    try:
        return _shortened(repr(value), 80)
    except Exception:  # a number of thousands of digits, or an object of the user's
        return f"<{type(value).__name__}>"


def _one_line(text: str) -> str:
    return _shortened(text, 400)


def _shortened(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."


# Schemas


def _whole_schema(words: dict[str, Any], place: Place) -> dict[str, Any]:
    """The schema of a Param: its keywords, or the one that was given as a whole."""
    if "schema" not in words:
        return words
    whole = words.pop("schema")
    if words:
        raise ParamError(f"{place}: a Param takes schema= or the words of one ({', '.join(words)}), not both", param="")
    if not isinstance(whole, Mapping):
        raise ParamError(f"{place}: schema={_shown(whole)} of a Param must be a dict", param="")
    return dict(whole)


def _schema_mistake(schema: Mapping[str, Any]) -> str:
    """What is wrong with a schema, one line; "" if nothing."""
    try:
        mistake = _mistake(schema, "")
        if not mistake:
            _validator(json.dumps(schema, default=_json_form, allow_nan=False))
    except (ValueError, TypeError, RecursionError, re.error) as error:
        return _one_line(str(error).removeprefix("data: "))
    return mistake


def _mistake(schema: Any, path: str) -> str:
    """The first word of the schema, or of one inside of it, that cannot be meant; the library itself finds but a few.

    `path` is the way to the schema, with a dot at its end.
    """
    if isinstance(schema, bool):
        return ""
    if not isinstance(schema, Mapping):
        return f"{path.rstrip('.')}={_shown(schema)} must be a schema: a dict, True or False"
    for word, value in schema.items():
        mistake = _misspelt(word) or _misused(word, value)
        if mistake:
            return path + mistake
        if path and word in ("$id", "id") and isinstance(value, str):
            return f"{path}{word} is not allowed inside of a schema"
        for step, inner in _inner_schemas(word, value):
            mistake = _mistake(inner, f"{path}{step}.")
            if mistake:
                return mistake
    return ""


def _misspelt(word: Any) -> str:
    """What to say of a word that is nearly one of those that check something: it would check nothing, in silence."""
    if word in _KNOWN:
        return ""
    if word in _LATER:
        return f"{word} is not in draft 7 of JSON schema and would check nothing"
    from difflib import get_close_matches  # only an unknown word is worth its import

    near = get_close_matches(str(word), _CHECKS, n=1, cutoff=0.8)
    return f"{word} is no word of JSON schema (did you mean {near[0]!r}?)" if near else ""


def _misused(word: str, value: Any) -> str:
    """What to say of a value that a word of JSON schema cannot have."""
    if word == "type":
        named = value if _is_list(value) else [value]
        unknown = [one for one in named if one not in _TYPES]
        return f"type={_shown(unknown[0])} must be one of {', '.join(_TYPES)}{_meant(unknown[0])}" if unknown else ""
    wanted, fits = _VALUES.get(word, ("", None))
    return "" if fits is None or fits(value) else f"{word}={_shown(value)} must be {wanted}"


def _meant(unknown: Any) -> str:
    """A hint at the type of JSON that goes by another name in Python."""
    spelled = unknown.__name__ if isinstance(unknown, type) else str(unknown)
    known = _PYTHON_TYPES.get(spelled)
    return f" (did you mean {known!r}?)" if known else did_you_mean(spelled, _TYPES)


def _inner_schemas(word: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The schemas that stand in the value of a word, each with the way to it."""
    if word in _NAMED_SCHEMAS:
        for name, inner in value.items():
            if word != "dependencies" or not isinstance(inner, list | tuple):
                yield f"{word}.{name}", inner
    elif word in _LISTS_OF_SCHEMAS or (word == "items" and isinstance(value, list | tuple)):
        for index, inner in enumerate(value):
            yield f"{word}[{index}]", inner
    elif word in _SCHEMAS:
        yield word, value


@lru_cache(maxsize=256)
def _validator(schema: str) -> Callable[[Any], Any]:
    """What raises JsonSchemaValueException for a value that does not fit; ValueError or re.error for a broken schema.

    The schema is text because that can be the key of a cache, and because the library changes the dict that it gets.
    """
    import fastjsonschema

    compiled: Callable[[Any], Any] = fastjsonschema.compile(
        json.loads(schema), handlers=_Elsewhere(), formats=_FORMATS, use_default=False
    )
    return compiled


class _Elsewhere(dict[str, Callable[[str], Any]]):
    """What fetches for the library, by scheme: nothing does. A `$ref` in a `const` is data, but followed as well."""

    def __contains__(self, scheme: object) -> bool:
        return True

    def __missing__(self, scheme: str) -> Callable[[str], Any]:
        return _refuse_reference


def _refuse_reference(uri: str) -> Any:
    raise ValueError(f"$ref {uri!r} points out of the schema")


_TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")
_PYTHON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "dict": "object",
    "None": "null",
    "NoneType": "null",
}


def _is_number(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False


_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf")
_NAMED_SCHEMAS = ("properties", "patternProperties", "dependencies", "definitions", "$defs")
_SCHEMAS = (
    "items",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "additionalProperties",
    "additionalItems",
)
_LATER = frozenset(
    (
        *("prefixItems", "unevaluatedItems", "unevaluatedProperties", "minContains", "maxContains"),
        *("dependentRequired", "dependentSchemas", "$dynamicRef", "$recursiveRef"),
    )
)
"""Words of later drafts, which the library does not know."""

_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "enum": ("a list with values", _is_list),
    "pattern": ("a regular expression", _is_pattern),
    "format": ("text", lambda value: isinstance(value, str)),
    "multipleOf": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "uniqueItems": ("True or False", lambda value: isinstance(value, bool)),
    "required": ("a list of names", _is_list_of_names),
    # The library would fetch any other: what a dag means must not depend on what some server says today.
    "$ref": ("text that begins with '#'", lambda value: isinstance(value, str) and value.startswith("#")),
    **dict.fromkeys(_COUNTS, ("a whole number, 0 or more", _is_count)),
    **dict.fromkeys(_LIMITS, ("a number", _is_number)),
    **dict.fromkeys(_LISTS_OF_SCHEMAS, ("a list of schemas", _is_list)),
    **dict.fromkeys(_NAMED_SCHEMAS, ("a dict", lambda value: isinstance(value, Mapping))),
}
"""Words of a schema, what their values must be, and the test for it."""

_CHECKS = ("type", "const", *_VALUES, *_SCHEMAS)
_KNOWN = frozenset((*_CHECKS, "title", "examples", "$id", "$schema", "$comment", "readOnly"))


def _is_date(text: str) -> bool:
    return _has_form(_DATE, date.fromisoformat, text)


def _is_time(text: str) -> bool:
    return _has_form(_TIME, time.fromisoformat, text)


def _is_date_time(text: str) -> bool:
    return _has_form(f"{_DATE}[Tt ]{_TIME}", datetime.fromisoformat, text)


def _has_form(pattern: str, read: Callable[[str], Any], text: str) -> bool:
    """Whether it is of the extended form, which is a part of what `fromisoformat` reads, and exists on a calendar."""
    try:
        return re.fullmatch(pattern, text, re.ASCII) is not None and read(text.upper()) is not None
    except ValueError:
        return False


_DATE = r"\d{4}-\d\d-\d\d"
_TIME = r"\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)?"

_FORMATS: dict[str, str | Callable[[Any], bool]] = {
    "date": _is_date,
    "time": _is_time,
    "date-time": _is_date_time,
    "email": r"[^@\s]+@[^@\s]+\Z",
    "duration": r"P(?!\Z)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?)\Z",
    "uuid": r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z",
}
"""Formats in which the library is stricter or laxer than Airflow: a time may have no zone, an address no dot."""

_EXAMPLES = {
    "date": "2026-01-31",
    "time": "06:00:00",
    "date-time": "2026-01-31T06:00:00+01:00",
    "duration": "PT15M",
    "email": "name@example.org",
    "uri": "https://example.org/",
}
