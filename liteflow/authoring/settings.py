"""The file of settings: variables and connections that a dag file reads, in TOML.

`$LITEFLOW_SETTINGS` names it; else it is `liteflow.toml` in the working directory, if that is there. Nothing writes it.

    [variables]
    bucket = "orders"
    limits = { rows = 1000 }

    [connections]
    warehouse = "postgres://reader:secret@db.example.org:5432/orders"

    [connections.lake]
    conn_type = "aws"
    extra = { region_name = "eu-central-1" }

Environment variables come before it: `AIRFLOW_VAR_<KEY>` and `AIRFLOW_CONN_<ID>`, in capitals.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from liteflow.errors import SettingsError

ENVIRONMENT_NAME = "LITEFLOW_SETTINGS"
DEFAULT_FILE = "liteflow.toml"


def settings_table(name: str) -> Mapping[str, Any]:
    """What stands in the table `name` of the file of settings; empty if there is no file or no such table.

    Raises SettingsError for a file that was named and is not there, that cannot be read, or is no TOML.
    """
    path = settings_path()
    if path is None:
        return {}
    try:
        facts = os.stat(path)
        table = _contents(path, facts.st_mtime_ns, facts.st_size).get(name, {})
    except OSError as error:
        raise SettingsError(f"the file of settings {path} cannot be read: {error.strerror}", path=path) from error
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: {name!r} must be a table: [{name}]", path=path)
    return table


def settings_path() -> str | None:
    """The file of settings, absolute; None if there is none."""
    named = os.environ.get(ENVIRONMENT_NAME)
    if named:
        return os.path.abspath(named)
    path = os.path.abspath(DEFAULT_FILE)
    return path if os.path.exists(path) else None


@lru_cache(maxsize=4)
def _contents(path: str, _mtime_ns: int, _size_bytes: int) -> dict[str, Any]:
    """What is in the file; read again when it was changed."""
    import tomllib  # few dags read settings

    with open(path, "rb") as file:
        try:
            return tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: this is no TOML: {error}", path=path) from error


def how_to_give(variable: str, table: str, example: str) -> str:
    """Both ways to give a value that is missing, for errors."""
    path = settings_path() or DEFAULT_FILE
    return f"set the environment variable {variable}, or write {example} under [{table}] in {path}"
