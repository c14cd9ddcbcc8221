"""`EmptyOperator`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from liteflow.authoring.task import EMPTY, Traits
from liteflow.operators.base import BaseOperator

if TYPE_CHECKING:
    from liteflow.authoring.context import Context


class EmptyOperator(BaseOperator):
    """Does nothing: a place where edges meet."""

    operator_traits = Traits(EMPTY)

    def execute(self, context: Context) -> Any:
        return None
