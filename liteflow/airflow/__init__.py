"""Airflow's names over liteflow's core: a file that is written for Airflow 3 is loaded as it is, without Airflow.

`names.py` says which of Airflow's names stands for what; `hook.py` is what `import airflow...` finds while liteflow
loads such a file. `load_dags` is for programs; the command line does the same.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag


def load_dags(path: str | os.PathLike[str]) -> dict[str, Dag]:
    """The dags of a Python file, which may be written for Airflow, by their ids, in the order of their making.

    Where Airflow is not installed, or `$LITEFLOW_AIRFLOW_COMPAT` is `1`, `airflow` means liteflow's own modules in
    the file. A `@dag` function that the file does not call is called, if the file makes no dag otherwise. What the
    file raises comes out as it is. Raises DagFileError for a name that liteflow has not got, two dags of one id, or
    no dag.
    """
    from liteflow.authoring.filedags import dags_of_file

    return dags_of_file(os.fspath(path))
