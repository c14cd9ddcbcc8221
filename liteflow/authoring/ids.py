"""What ids may look like."""

from __future__ import annotations

import re
from collections.abc import Iterable

from liteflow.authoring.places import caller
from liteflow.errors import InvalidIdError

MAX_LENGTH = 250

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,250}", re.ASCII)
_RUN_ID = re.compile(r"[A-Za-z0-9_.~:+\-]{1,250}", re.ASCII)


def check_name(kind: str, value: object) -> str:
    """`value` if it is a good dag id or task id; otherwise InvalidIdError, with the place in the user's code."""
    return _check(kind, value, _NAME, "ASCII letters, digits, '_', '.' and '-'", f"{caller()}: ")


def check_run_id(value: object) -> str:
    """`value` if it is a good run id; otherwise InvalidIdError."""
    return _check("run id", value, _RUN_ID, "ASCII letters, digits and any of '_.~:+-'", "")


def _check(kind: str, value: object, pattern: re.Pattern[str], allowed: str, where: str) -> str:
    if isinstance(value, str) and pattern.fullmatch(value):
        return str.__str__(value)  # a trigger rule is text too, and an id is nothing but text
    raise InvalidIdError(f"{where}{shown(value)} is no {kind}: use 1 to {MAX_LENGTH} {allowed}")


def shown(value: object, length: int = 80) -> str:
    """The value as an error quotes it: its `repr`, which spells out control characters, cut to `length` of them."""
    try:
        text = repr(value)
    except Exception:  # a number of thousands of digits, or an object of the user's
        return f"<{type(value).__name__}>"
    return text if len(text) < length else text[: length - 3] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" with the nearest known word, or nothing when none is near.

    Words longer than an id may be are not looked at: the search takes time with the product of two lengths.
    """
    if len(word) > MAX_LENGTH:
        return ""
    from difflib import get_close_matches  # only a mistake is worth its import

    words = [one for one in known if len(one) <= MAX_LENGTH]
    near = get_close_matches(word, words, n=1, cutoff=0.6) or [one for one in words if word and one.startswith(word)]
    return f" (did you mean {near[0]!r}?)" if near else ""
