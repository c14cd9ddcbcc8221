"""Jinja templates among the arguments of a task, as far as building a dag has to know about them.

They are rendered in the worker (`execution/templates.py`). jinja2 is an extra: a dag without a template needs none of
it, and nothing here imports it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from liteflow.authoring.places import Place
from liteflow.authoring.xcomarg import PLACEHOLDERS
from liteflow.errors import DagError

MARKS = ("{{", "{%")
"""A text is a template if it holds one of these; not `{#`, a comment, since in bash `${#x}` is a length."""

_SCALARS = frozenset([bool, int, float, complex, bytes, type(None)])
"""What long lists are full of and no template is in: passed over without a further look."""


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


def has_literal(value: Any) -> bool:
    """Whether a `literal` stands in `value`: then it has to be rendered too, to take the wrapper off.

    That needs no jinja2.
    """
    return any(isinstance(leaf, literal) for leaf in _leaves(value))


def require_jinja(place: Place, what: str = "an argument") -> None:
    """Raise DagError if jinja2 is not installed. `what` holds the template, at `place`."""
    if importlib.util.find_spec("jinja2") is None:
        raise DagError(
            f"{place}: {what} holds a Jinja template; pip install 'liteflow[jinja]', "
            "or wrap it in literal(...) to pass it as it is"
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
