"""Jinja templates among the arguments of a task, as far as building a dag has to know about them.

They are rendered in the worker (`execution/templates.py`). jinja2 is an extra: a dag without a template needs none of
it, and nothing here imports it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from liteflow.authoring.places import Place
from liteflow.authoring.xcomarg import PLACEHOLDERS
from liteflow.errors import DagError, InvalidOptionError

MARKS = ("{{", "{%")
"""A text is a template if it holds one of these; not `{#`, a comment, since in bash `${#x}` is a length."""

_SCALARS = frozenset([bool, int, float, complex, bytes, type(None)])
"""What long lists are full of and no template is in: passed over without a further look."""


UNDEFINED = {
    "strict": "StrictUndefined",
    "default": "Undefined",
    "chainable": "ChainableUndefined",
    "debug": "DebugUndefined",
}
"""What may be said for what an undefined name does, and Jinja's class for it."""


class TemplateSettings(NamedTuple):
    """How the templates of one dag are rendered: what `execution.templates.Renderer` takes."""

    searchpath: tuple[str, ...] = ()
    """Directories of template files, absolute: that of the dag file, and those of `template_searchpath`."""
    undefined: Any = "strict"
    user_defined_macros: Mapping[str, Any] | None = None
    user_defined_filters: Mapping[str, Callable[..., Any]] | None = None
    jinja_environment_kwargs: Mapping[str, Any] | None = None


def template_settings(
    place: Place,
    searchpath: Any,
    undefined: Any,
    macros: Any,
    filters: Any,
    environment_kwargs: Any,
) -> TemplateSettings:
    """The settings of a dag that is made at `place`, checked. Raises InvalidOptionError.

    A relative directory is one of the working directory, as in Airflow.
    """
    paths = [searchpath] if isinstance(searchpath, str | os.PathLike) else [] if searchpath is None else searchpath
    if not isinstance(paths, Collection) or not all(isinstance(one, str | os.PathLike) for one in paths):
        raise _wrong(place, "template_searchpath", searchpath, "a directory or a list of them")
    if isinstance(undefined, str) and undefined not in UNDEFINED:
        raise _wrong(place, "template_undefined", undefined, f"{', '.join(UNDEFINED)}, or a class of jinja2")
    if undefined is not None and not isinstance(undefined, str | type):
        raise _wrong(place, "template_undefined", undefined, f"{', '.join(UNDEFINED)}, or a class of jinja2")
    for option, value in (("user_defined_macros", macros), ("user_defined_filters", filters)):
        if value is not None and not (isinstance(value, Mapping) and all(isinstance(name, str) for name in value)):
            raise _wrong(place, option, value, "a dict by name")
    for name, function in (filters or {}).items():
        if not callable(function):
            raise _wrong(place, "user_defined_filters", {name: function}, "a dict of functions by name")
    if environment_kwargs is not None and not isinstance(environment_kwargs, Mapping):
        raise _wrong(place, "jinja_environment_kwargs", environment_kwargs, "a dict of options of jinja2.Environment")
    folder = os.path.dirname(os.path.abspath(place.file))
    return TemplateSettings(
        tuple(dict.fromkeys([folder, *(os.path.abspath(one) for one in paths)])),
        "strict" if undefined is None else undefined,
        macros,
        filters,
        environment_kwargs,
    )


def _wrong(place: Place, option: str, value: Any, wanted: str) -> InvalidOptionError:
    return InvalidOptionError(f"{place}: option {option}={value!r:.200} must be {wanted}", option=option)


@dataclass(frozen=True)
class literal:  # noqa: N801  (Airflow's name, and used like a function)
    """Wraps a value that a task gets as it is, though it holds what looks like a template."""

    value: Any


def is_template(text: str) -> bool:
    """Whether Jinja would change this text: whether it holds one of `MARKS`."""
    return "{" in text and any(mark in text for mark in MARKS)  # most texts have no brace at all


def has_template(value: Any) -> bool:
    """Whether a template stands in `value`, or in lists, tuples, sets and values of dicts in it, however deep.

    So do the `template_fields` of other objects count. Not looked at: keys of dicts, what is in a `literal`, and
    values that are only there in the run.
    """
    return any(isinstance(leaf, str) and is_template(leaf) for leaf in _leaves(value))


def has_template_file(value: Any, extensions: tuple[str, ...]) -> bool:
    """Whether a text that names a template file, since it ends with one of `extensions`, stands in `value`."""
    return bool(extensions) and any(isinstance(leaf, str) and leaf.endswith(extensions) for leaf in _leaves(value))


def has_literal(value: Any) -> bool:
    """Whether a `literal` stands in `value`: then it has to be rendered too, to take the wrapper off.

    That needs no jinja2.
    """
    return any(isinstance(leaf, literal) for leaf in _leaves(value))


def require_jinja(place: Place, what: str = "an argument", holds: str = "holds a Jinja template") -> None:
    """Raise DagError if jinja2 is not installed. `what` holds the template, at `place`."""
    if importlib.util.find_spec("jinja2") is None:
        raise DagError(
            f"{place}: {what} {holds}; pip install 'liteflow[jinja]', or wrap it in literal(...) to pass it as it is"
        )


def template_fields(value: Any) -> tuple[str, ...]:
    """The attributes of an object that may be templates, as it says in its own `template_fields`; () if it does not."""
    if isinstance(value, type):
        return ()  # the fields are those of its instances
    fields = getattr(value, "template_fields", ())
    # Whatever has another thing under this name means something else by it.
    if isinstance(fields, str) or not isinstance(fields, Collection):
        return ()
    return tuple(field for field in fields if isinstance(field, str))


def _leaves(value: Any) -> Iterator[Any]:
    """What is no container and may be or hide a template; each container once: one that holds itself has an end."""
    waiting = [value]
    seen: dict[int, Any] = {}  # by id, and alive, so that no other object gets that id meanwhile
    while waiting:
        one = waiting.pop()
        if isinstance(one, PLACEHOLDERS):
            continue
        parts = _parts(one)
        if parts is None:
            yield one
        elif id(one) not in seen:
            seen[id(one)] = one
            waiting.extend(part for part in parts if type(part) not in _SCALARS)


def _parts(value: Any) -> Collection[Any] | None:
    """What is inside a container or an object with `template_fields`; None for anything else."""
    if isinstance(value, str | int | float | literal) or value is None:
        return None
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset):
        return value
    return [getattr(value, field, None) for field in template_fields(value)] or None
