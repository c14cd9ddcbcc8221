"""`liteflow check`: which lines of a dag file stand in the way from liteflow to Airflow, or from Airflow to liteflow.

`reading.py` and `dagcode.py` look at the text; `to_airflow.py` and `to_liteflow.py` have the rules for it, `loaded.py`
those that need the dags themselves, `values_there.py` what Airflow can store.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from liteflow.airflow.findings import ERROR, NOTE, Finding
from liteflow.airflow.reading import Source
from liteflow.errors import DagFileError, LiteflowError

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag

TARGETS = ("airflow", "liteflow")


def check_file(path: str, target: str, db_path: str | None = None) -> list[Finding]:
    """What of a file has to be known before it goes to `target`, in the order of its lines.

    On the way to Airflow the file is also loaded, as a run of it would, and where it has run already, in `db_path` or
    its own database, the values of its last run are looked at; nothing is unpickled. On the way to liteflow only the
    text is read. Raises DagFileError if it cannot be read, or is no Python.
    """
    source = read_source(path)
    if target == "liteflow":
        from liteflow.airflow.to_liteflow import ToLiteflow

        found = list(ToLiteflow(source).findings())
    else:
        from liteflow.airflow.to_airflow import ToAirflow

        found = [*ToAirflow(source).findings(), *_of_dags(source, db_path)]
    return sorted(dict.fromkeys(found), key=lambda one: (one.line, one.severity, one.rule, one.message))


def counts(finding: Finding) -> bool:
    """Whether something has to be done about it."""
    return finding.severity == ERROR


def read_source(path: str) -> Source:
    """The file, parsed. Raises DagFileError."""
    path = os.path.abspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DagFileError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in strings of the file
            return Source(path, data)
    except SyntaxError as error:
        raise DagFileError(f"{path}:{error.lineno or 1}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DagFileError(f"{path}: cannot be parsed ({error})") from error


def _of_dags(source: Source, db_path: str | None) -> Iterator[Finding]:
    from liteflow.airflow.loaded import findings_of_dags

    try:
        dags = _load(source.path)
    except Exception as error:
        message = (
            f"the file cannot be loaded here, so that only its text was looked at ({type(error).__name__}: {error})"
        )
        yield Finding(source.path, 1, "not-loaded", message, "", NOTE)
        return
    yield from findings_of_dags(dags, source)
    for dag in dags:
        yield from _of_last_run(dag, source, db_path)


def _load(path: str) -> list[Dag]:
    from liteflow.authoring.filedags import dags_of_file

    directory = os.path.dirname(path)
    sys.path.insert(0, directory)  # as `python FILE` does it: what lies beside the file can be imported
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            try:
                return list(dags_of_file(path).values())
            except SystemExit as error:
                raise DagFileError(f"it ends the process ({error.code})") from error
    finally:
        sys.path.remove(directory)


def _of_last_run(dag: Dag, source: Source, db_path: str | None) -> Iterator[Finding]:
    from liteflow.airflow.loaded import findings_of_stored
    from liteflow.execution.planning import database_there
    from liteflow.storage.history import open_history

    where = db_path if db_path is not None else dag.db_path
    if db_path is None and not database_there(where):
        return
    try:
        runs = open_history(where).runs(dag_id=dag.dag_id, limit=1)
        xcoms = [(one.task_id, one.key, one.encoding, one.data) for run in runs for one in run.xcoms()]
    except LiteflowError:
        if db_path is not None:
            raise
        return  # nobody asked for that database
    yield from findings_of_stored(dag, xcoms, source)
