"""Dags from files: what FILE[:DAG_ID], and the options that go with it, mean to a command."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag


def file_named(identifier: str) -> str | None:
    """The Python file that FILE.py[:DAG_ID] names, if it is there; None for ids of dags and runs."""
    for path in (identifier, identifier.rpartition(":")[0]):
        if path.endswith(".py") and os.path.isfile(path):
            return path
    return None


def is_named_as_file(identifier: str) -> bool:
    """Whether it looks like FILE.py[:DAG_ID], there or not."""
    return identifier.endswith(".py") or identifier.rpartition(":")[0].endswith(".py")


def load_dag(identifier: str) -> Dag:
    """The dag that FILE[:DAG_ID] names, once the file has been run as an import of it would be.

    What the file prints goes to stderr. Raises DagFileError, with the place in the file.
    """
    return load_with_others(identifier)[0]


def load_with_others(identifier: str) -> tuple[Dag, list[Dag]]:
    """The same, and the other dags of the file, of which its tasks may begin runs."""
    from liteflow.authoring.filedags import chosen

    path, dag_id = identifier, None
    if not os.path.exists(path) and ":" in identifier:
        path, _, dag_id = identifier.rpartition(":")
    path = os.path.abspath(path)
    by_id = load_dags(path)
    dag = chosen(by_id, dag_id, path)
    return dag, [one for one in by_id.values() if one is not dag]


def load_dags(path: str) -> dict[str, Dag]:
    """All dags of a file, by id. As `load_dag`."""
    from liteflow.authoring.filedags import dags_of_file
    from liteflow.errors import DagFileError, LiteflowError

    path = os.path.abspath(path)
    # As `python FILE` does it: what lies beside the file can be imported, by the workers too.
    sys.path.insert(0, os.path.dirname(path))
    # What the file prints is not what the command prints.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            return dags_of_file(path)
        except LiteflowError:
            raise
        except SyntaxError as error:
            raise DagFileError(f"{error.filename}:{error.lineno}: {error.msg}") from error
        except SystemExit as error:
            raise DagFileError(
                f"{_place(error, path)}: the file ends the process when it is imported ({_exit_text(error)}); put that "
                'under: if __name__ == "__main__":'
            ) from error
        except Exception as error:
            place = _place(error, path)
            text = str(error).removeprefix(f"{place}: ")
            raise DagFileError(f"{place}: {type(error).__name__}: {text}{_cure(error)}") from error


def _cure(error: BaseException) -> str:
    """What to install for a module that Airflow brings and liteflow does not."""
    if isinstance(error, ModuleNotFoundError) and error.name in ("pendulum", "jinja2"):
        return "; pip install 'liteflow[airflow]'"
    return ""


def _exit_text(error: SystemExit) -> str:
    return "SystemExit" if error.code is None else f"SystemExit: {error.code}"


def _place(error: BaseException, path: str) -> str:
    """The last line of the file itself that the error passed through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}:{lines[-1]}" if lines else path


def run_id_of(dag: Dag, identifier: str) -> str:
    """The id of the dag's run that RUN names."""
    from liteflow.storage.history import open_history

    return open_history(dag.db_path).find_run_of(dag.dag_id, identifier).run_id


def given_params(dag: Dag, texts: Iterable[str]) -> dict[str, Any]:
    """The params that `--param K=V` give, each read as the dag declares it."""
    return dict(_param(dag, text) for text in texts)


def _param(dag: Dag, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not of the form K=V", param_hint="--param")
    from liteflow.authoring.params import parse_param_text

    return name, parse_param_text(dag.known_params.get(name), value)


def moment_of(text: str, option: str = "--logical-date") -> datetime:
    """The date or time that an option gives; in UTC unless it says."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no ISO 8601 date or time, such as 2026-01-31 or 2026-01-31T06:00+01:00",
            param_hint=option,
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
