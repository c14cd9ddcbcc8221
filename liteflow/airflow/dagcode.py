"""What the text of a dag file says of its dags: which calls make dags and tasks, and with which options.

The same for both directions: `home` is the package whose names are meant, `liteflow` or `airflow`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

from liteflow.airflow.reading import Function, Scope, Source, parameters_of, without_call

DAG, TASK, OPERATOR = "dag", "task", "operator"


class OptionCall(NamedTuple):
    """A place where options of a dag or of tasks are written."""

    node: ast.Call
    sort: str
    """`DAG`, `TASK` for decorated functions, `OPERATOR` for classes."""
    kind: str
    """Of a task what stands behind `task.`: `branch`, `sensor`, ...; of an operator the name of its class."""
    function: str
    """Of a task the name of its function, if it is known."""

    @property
    def options(self) -> dict[str, ast.expr]:
        """The options by name."""
        return {word.arg: word.value for word in self.node.keywords if word.arg is not None}

    @property
    def may_have_more(self) -> bool:
        """Whether it has options that cannot be seen: `**options`."""
        return any(word.arg is None for word in self.node.keywords)


class DagCode:
    """Dags and tasks of a file, by its text.

    `canonical` gives the short name, such as `task.branch` or `Dag`, of what a dotted name stands for, or None for what
    is not of the package.
    """

    def __init__(self, source: Source, canonical: Callable[[str], str | None]) -> None:
        self.source = source
        self._canonical = canonical

    def name(self, node: ast.AST | None) -> str:
        """The short name of what an expression names; empty if it is not of the package."""
        meaning = self.source.meaning(node)
        if not meaning and isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            # @dag.task is @task
            return node.attr if node.attr == "task" and node.value.id in self.dag_names else ""
        return (self._canonical(meaning) or "") if meaning else ""

    @cached_property
    def dag_names(self) -> set[str]:
        """Variables that hold a dag."""
        found: set[str] = set()
        for node in self.source.nodes:
            if (
                isinstance(node, ast.withitem)
                and isinstance(node.optional_vars, ast.Name)
                and self._makes_dag(node.context_expr)
            ):
                found.add(node.optional_vars.id)
            elif isinstance(node, ast.Assign) and self._makes_dag(node.value):
                found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        return found

    def _makes_dag(self, node: ast.AST) -> bool:
        if not isinstance(node, ast.Call):
            return False
        if self._short(node.func) in ("Dag", "DAG"):
            return True
        return isinstance(node.func, ast.Name) and node.func.id in self.dag_functions

    def _short(self, node: ast.AST) -> str:
        meaning = self.source.meaning(node)
        return (self._canonical(meaning) or "") if meaning else ""

    @cached_property
    def dag_functions(self) -> dict[str, Function]:
        """Functions that are decorated with `@dag`."""
        return {
            name: function
            for name, function in self.source.functions.items()
            if any(self._short(without_call(one)) == "dag" for one in function.decorator_list)
        }

    @cached_property
    def task_functions(self) -> dict[str, tuple[Function, str]]:
        """Functions that are tasks, by name, with what stands behind `task.`."""
        found: dict[str, tuple[Function, str]] = {}
        for name, function in self.source.functions.items():
            kinds = [self.task_kind(without_call(one)) for one in function.decorator_list]
            known = [kind for kind in kinds if kind is not None]
            if known:
                found[name] = (function, known[0])
        for call in self.source.calls():
            if self.task_kind(call.func) is not None and call.args and isinstance(call.args[0], ast.Name):
                wrapped = self.source.functions.get(call.args[0].id)
                if wrapped is not None and wrapped.name not in found:
                    found[wrapped.name] = (wrapped, self.task_kind(call.func) or "")
        return found

    def task_kind(self, node: ast.AST) -> str | None:
        """What stands behind `task.` in what makes functions tasks (empty for `task` itself); None for other things."""
        name = self.name(node)
        if name in ("task", "setup", "teardown"):
            return ""
        head, dot, rest = name.partition(".")
        return rest if head == "task" and dot and rest not in ("run_if", "skip_if") else None

    def operator_class(self, node: ast.AST) -> str:
        """The class of an operator, if that is what the expression names, one of the package or derived in the file."""
        name = self._short(node)
        if name.endswith(("Operator", "Sensor")):
            return name
        if isinstance(node, ast.Name) and node.id in self.source.classes and self._is_operator(node.id, 5):
            return node.id
        return ""

    def _is_operator(self, class_name: str, steps: int) -> bool:
        found = self.source.classes.get(class_name)
        if found is None or steps == 0:
            return False
        return any(
            self._short(base).endswith(("Operator", "Sensor"))
            or (isinstance(base, ast.Name) and self._is_operator(base.id, steps - 1))
            for base in found.bases
        )

    @cached_property
    def option_calls(self) -> list[OptionCall]:
        """All places where options are written."""
        return list(self._option_calls())

    def _option_calls(self) -> Iterator[OptionCall]:
        for call in self.source.calls():
            name = self._short(call.func)
            kind = self.task_kind(call.func)
            if name in ("Dag", "DAG", "dag"):
                yield OptionCall(call, DAG, "", "")
            elif kind is not None:
                yield OptionCall(call, TASK, kind, self._decorated_by(call))
            elif self.operator_class(call.func):
                yield OptionCall(call, OPERATOR, self.operator_class(call.func), "")
            elif isinstance(call.func, ast.Attribute):
                inner = call.func.value
                if call.func.attr == "override" and isinstance(inner, ast.Name) and inner.id in self.task_functions:
                    yield OptionCall(call, TASK, self.task_functions[inner.id][1], inner.id)
                elif call.func.attr == "partial" and self.operator_class(inner):
                    yield OptionCall(call, OPERATOR, self.operator_class(inner), "")

    def _decorated_by(self, call: ast.Call) -> str:
        around = self.source.parents.get(call)
        if isinstance(around, Function) and any(call is one for one in around.decorator_list):
            return around.name
        return call.args[0].id if call.args and isinstance(call.args[0], ast.Name) else ""

    @cached_property
    def default_args(self) -> list[tuple[ast.AST, dict[str, ast.expr]]]:
        """Each `default_args` that is written out: where it stands, and what it gives."""
        found = []
        for call in self.source.calls():
            for word in call.keywords:
                if word.arg == "default_args":
                    given = self.source.keywords(word.value)
                    if given is not None:
                        found.append((self.source.value(word.value), given))
        return found

    def is_in_dag(self, node: ast.AST) -> bool:
        """Whether a `with` block of a dag, in the same function, is around it."""
        function = self.source.function(node)
        for outer in self.source.around(node):
            if outer is function:
                return False
            if isinstance(outer, ast.With):
                for item in outer.items:
                    held = item.context_expr
                    if self._makes_dag(held) or (isinstance(held, ast.Name) and held.id in self.dag_names):
                        return True
        return False

    def is_task_body(self, function: Scope | None) -> bool:
        """Whether it is the body of a task."""
        return isinstance(function, Function) and self.task_functions.get(function.name, (None,))[0] is function

    def own_parameters(self, name: str) -> list[str]:
        """The parameters of a task function, in order."""
        return list(parameters_of(self.task_functions[name][0]))
