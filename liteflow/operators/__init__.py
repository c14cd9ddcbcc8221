"""Classic operators: the same nodes as decorated tasks, written as classes."""

from liteflow.operators.base import BaseOperator
from liteflow.operators.bash import BashOperator
from liteflow.operators.empty import EmptyOperator
from liteflow.operators.python import BranchPythonOperator, PythonOperator, ShortCircuitOperator

__all__ = [
    "BaseOperator",
    "BashOperator",
    "BranchPythonOperator",
    "EmptyOperator",
    "PythonOperator",
    "ShortCircuitOperator",
]
