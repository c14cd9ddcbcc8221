"""The dags of a Python file: which there are, and which one is meant."""

from __future__ import annotations

import os
from types import ModuleType

from liteflow.authoring.dag import Dag, DagFactory, collect_dags
from liteflow.authoring.dagfile import load_file
from liteflow.authoring.ids import did_you_mean
from liteflow.errors import DagFileError


def dags_of_file(path: str) -> dict[str, Dag]:
    """The dags that the file makes when it is imported, by id, in the order of their making.

    If it makes none, its `@dag` functions are called. What the file raises comes out as it is; DagFileError if two
    dags have one id, or there is none.
    """
    path = os.path.abspath(path)
    with collect_dags() as dags:
        module = load_file(path)
        if not dags:
            for factory in _uncalled(module):
                factory()
    by_id: dict[str, Dag] = {}
    for dag in dags:
        if dag.dag_id in by_id:
            raise DagFileError(
                f"{dag.place}: dag id {dag.dag_id!r} is taken by the dag made at {by_id[dag.dag_id].place}"
            )
        by_id[dag.dag_id] = dag
    if not by_id:
        raise DagFileError(f"{path}: makes no dag when it is imported")
    return by_id


def chosen(by_id: dict[str, Dag], dag_id: str | None, path: str) -> Dag:
    """The dag of that id, or the only one. Raises DagFileError, which names those that there are."""
    if dag_id is not None:
        if dag_id not in by_id:
            hint = did_you_mean(dag_id, by_id) or f"; it has {', '.join(by_id)}"
            raise DagFileError(f"{path}: no dag {dag_id!r}{hint}")
        return by_id[dag_id]
    if len(by_id) == 1:
        return next(iter(by_id.values()))
    raise DagFileError(f"{path}: has several dags; name one: {', '.join(f'{path}:{name}' for name in by_id)}")


def _uncalled(module: ModuleType) -> list[DagFactory]:
    """The `@dag` functions of the file itself."""
    found = [value for value in vars(module).values() if isinstance(value, DagFactory)]
    return [one for one in found if one.function.__module__ == module.__name__]
