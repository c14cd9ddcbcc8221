"""Operators that call a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from liteflow.authoring.places import caller
from liteflow.authoring.task import BRANCH, SHORT_CIRCUIT, TaskFactory, Traits
from liteflow.errors import DagError
from liteflow.operators.base import BaseOperator

if TYPE_CHECKING:
    from liteflow.authoring.context import Context


class PythonOperator(BaseOperator):
    """Calls `python_callable(*op_args, **op_kwargs)`; keys of the context that it names as parameters are filled in."""

    template_fields = ("templates_dict", "op_args", "op_kwargs")

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        templates_dict: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.python_callable = plain_function(python_callable)
        self.op_args = op_args if op_args is not None else []
        self.op_kwargs = op_kwargs if op_kwargs is not None else {}
        self.templates_dict = templates_dict

    def execute(self, context: Context) -> Any:
        return call_in_context(self, context)


def plain_function(python_callable: Any) -> Callable[..., Any]:
    """The function that an operator is to call, that of a decorated task too. Raises DagError for what is none."""
    function = python_callable.function if isinstance(python_callable, TaskFactory) else python_callable
    if not callable(function):
        raise DagError(f"{caller()}: python_callable={python_callable!r} must be a function")
    found: Callable[..., Any] = function
    return found


def call_in_context(operator: Any, context: Context) -> Any:
    """What the function of an operator returns for its `op_args`, `op_kwargs` and the context."""
    if operator.templates_dict is not None:
        context["templates_dict"] = operator.templates_dict
    function = operator.python_callable
    return function(*operator.op_args, **_keywords_for(function, operator.op_args, operator.op_kwargs, context))


def _keywords_for(
    function: Callable[..., Any], op_args: Collection[Any], op_kwargs: Mapping[str, Any], context: Context
) -> dict[str, Any]:
    """What the function is given by name: `op_kwargs`, and of the context what it has a parameter for."""
    given = dict(op_kwargs)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have none
        return given
    taken = {*given, *list(parameters)[: len(op_args)]}
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        found = context.for_keywords(function)
        return {**{name: value for name, value in found.items() if name not in taken}, **given}
    return {**{name: context[name] for name in parameters if name in context and name not in taken}, **given}


class BranchPythonOperator(PythonOperator):
    """A branch: the function returns the ids of tasks or groups to follow. See `@task.branch`."""

    operator_traits = Traits(BRANCH)


class ShortCircuitOperator(PythonOperator):
    """Goes on only if the function returns something true. See `@task.short_circuit`."""

    operator_traits = Traits(SHORT_CIRCUIT)

    def __init__(self, *, ignore_downstream_trigger_rules: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignores_rules = ignore_downstream_trigger_rules
