"""`Variable`: values by name that a dag file reads. Airflow keeps them in its database; here they come from outside.

In this order: the environment variable `AIRFLOW_VAR_<KEY>`, key in capitals, and the table `[variables]` of the file
of settings (`settings.py`).
"""

from __future__ import annotations

import json
import os
from datetime import date, time
from typing import Any, NoReturn

from liteflow.authoring.ids import did_you_mean
from liteflow.authoring.params import NOTSET
from liteflow.authoring.settings import how_to_give, settings_table
from liteflow.errors import SettingsError, VariableNotFoundError

_PREFIX = "AIRFLOW_VAR_"


class Variable:
    """A value by name: `Variable.get("bucket")`."""

    def __init__(self, key: str, value: Any = None, description: str | None = None) -> None:
        self.key = key
        self.value = value
        self.description = description

    @classmethod
    def get(cls, key: str, default: Any = NOTSET, deserialize_json: bool = False, *, default_var: Any = NOTSET) -> Any:
        """The value of `key` as text; with `deserialize_json`, what the text is as JSON.

        A value that is no text in the file of settings is its JSON text, and with `deserialize_json` the value itself.
        Without a value it is `default` (`default_var` is its older name), as it is. Without that,
        VariableNotFoundError, which is a KeyError, says both ways to give one. SettingsError if it is no JSON.
        """
        found = _find(key)
        if found is NOTSET:
            fallback = default if default is not NOTSET else default_var
            if fallback is NOTSET:
                raise _missing(key)
            return fallback
        return _deserialized(key, found) if deserialize_json else _as_text(found)

    @classmethod
    def keys(cls, prefix: str | None = None) -> list[str]:
        """The names in the file of settings, in order, that begin with `prefix`. Not those of the environment."""
        return sorted(key for key in settings_table("variables") if key.startswith(prefix or ""))

    @classmethod
    def set(
        cls, key: str, value: Any, description: str | None = None, serialize_json: bool = False, **_: Any
    ) -> NoReturn:
        """Not here: raises SettingsError. Variables are given from outside, and no run changes them."""
        raise _read_only(f"Variable.set({key!r}, ...)")

    @classmethod
    def update(cls, key: str, value: Any, serialize_json: bool = False, **_: Any) -> NoReturn:
        """Not here, as `set`."""
        raise _read_only(f"Variable.update({key!r}, ...)")

    @classmethod
    def setdefault(cls, key: str, default: Any, description: str | None = None, deserialize_json: bool = False) -> Any:
        """The value if there is one; raises SettingsError where Airflow would set `default`."""
        found = cls.get(key, None, deserialize_json)
        if found is None:
            raise _read_only(f"Variable.setdefault({key!r}, ...)")
        return found

    @classmethod
    def delete(cls, key: str, **_: Any) -> NoReturn:
        """Not here, as `set`."""
        raise _read_only(f"Variable.delete({key!r})")

    def __repr__(self) -> str:
        return f"Variable({self.key!r})"  # the value may be a secret


def _find(key: str) -> Any:
    if not isinstance(key, str) or not key:
        raise SettingsError(f"the key of a variable is text, not {key!r}")
    text = os.environ.get(_PREFIX + key.upper())
    return settings_table("variables").get(key, NOTSET) if text is None else text


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return value.isoformat() if isinstance(value, date | time) else json.dumps(value, default=str)


def _deserialized(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise SettingsError(f"the variable {key!r} is no JSON: {error}") from None


def _missing(key: str) -> VariableNotFoundError:
    ways = how_to_give(_PREFIX + key.upper(), "variables", f'{key} = "..."')
    near = did_you_mean(key, settings_table("variables"))
    return VariableNotFoundError(f"there is no variable {key!r}{near}; {ways}", identifier=key)


def _read_only(call: str) -> SettingsError:
    return SettingsError(
        f"{call}: liteflow only reads variables; hand a value on as an XCom, keep it in a file, or set it outside"
    )
