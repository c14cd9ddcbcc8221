"""A dag file as text: its syntax tree, what its names stand for, and when its lines run.

Nothing is imported or run. A name means what the last import of it in the file says, wherever that stands.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Function | ast.Lambda

_MOST_STEPS = 5
"""So many variables are followed to what they were assigned."""


class Source:
    """A parsed file. Raises SyntaxError or ValueError when it is no Python."""

    def __init__(self, path: str, text: str | bytes) -> None:
        self.path = path
        self.tree = ast.parse(text, path)
        self.nodes = list(ast.walk(self.tree))
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}
        self.aliases: dict[str, str] = {}
        """Names that imports bind, to what they stand for, with its module."""
        self.classes = {node.name: node for node in self.nodes if isinstance(node, ast.ClassDef)}
        self.functions = {node.name: node for node in self.nodes if isinstance(node, Function)}
        self._assigned: dict[tuple[ast.AST, str], list[ast.expr | None]] = {}
        for node in self.nodes:
            self._take_names(node)

    def _take_names(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                head = alias.name.partition(".")[0]
                self.aliases[alias.asname or head] = alias.name if alias.asname else head
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                self.aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            around = self.parents[node]
            value = around.value if isinstance(around, ast.Assign | ast.AnnAssign | ast.NamedExpr) else None
            self._assigned.setdefault((self.scope(node), node.id), []).append(value)

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """What the node stands in, from the inside."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function(self, node: ast.AST) -> Scope | None:
        """The function in whose body the node stands; decorators, defaults and annotations stand outside of theirs."""
        inner = node
        for outer in self.around(node):
            if isinstance(outer, Function) and any(inner is one for one in outer.body):
                return outer
            if isinstance(outer, ast.Lambda) and inner is outer.body:
                return outer
            inner = outer
        return None

    def scope(self, node: ast.AST) -> ast.AST:
        """The function, or the file, whose names the node sees first."""
        return self.function(node) or self.tree

    def never_runs(self, node: ast.AST) -> bool:
        """Whether it stands where only a type checker looks."""
        return any(
            isinstance(outer, ast.If) and _last_name(outer.test) == "TYPE_CHECKING" and _is_in(inner, outer.body)
            for inner, outer in self._steps(node)
        )

    def is_guarded(self, node: ast.AST) -> bool:
        """Whether it runs only when the file is the script: under `if __name__ == "__main__":`."""
        return any(
            isinstance(outer, ast.If) and _is_main_test(outer.test) and _is_in(inner, outer.body)
            for inner, outer in self._steps(node)
        )

    def is_tried(self, node: ast.AST) -> bool:
        """Whether an ImportError of it is caught."""
        return any(
            isinstance(outer, ast.Try) and _is_in(inner, outer.body) and any(map(_catches_imports, outer.handlers))
            for inner, outer in self._steps(node)
        )

    def _steps(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        for outer in self.around(node):
            yield node, outer
            node = outer

    def meaning(self, node: ast.AST | None) -> str:
        """The dotted name of what an expression names, through imports: `liteflow.task.branch`; empty if not known."""
        if isinstance(node, ast.Name):
            meaning = self.aliases.get(node.id, "")
            return "" if meaning and self._is_hidden(node) else meaning
        if isinstance(node, ast.Attribute):
            before = self.meaning(node.value)
            return f"{before}.{node.attr}" if before else ""
        return ""

    def _is_hidden(self, node: ast.Name) -> bool:
        """Whether a function around it has a parameter or variable of that name."""
        function = self.function(node)
        while function is not None:
            if self.is_local(function, node.id):
                return True
            function = self.function(function)
        return False

    def value(self, node: ast.AST, steps: int = _MOST_STEPS) -> ast.AST:
        """The expression behind a variable that is assigned once; else the node itself."""
        if not isinstance(node, ast.Name) or steps == 0:
            return node
        function = self.function(node)
        if function is not None and node.id in parameters_of(function):
            return node
        for scope in dict.fromkeys([self.scope(node), self.tree]):
            found = self._assigned.get((scope, node.id))
            if found is not None:
                return self.value(found[0], steps - 1) if len(found) == 1 and found[0] is not None else node
        return node

    def is_local(self, function: Scope, name: str) -> bool:
        """Whether the function has a name of its own that hides that of the file."""
        return name in parameters_of(function) or (function, name) in self._assigned

    def calls(self) -> Iterator[ast.Call]:
        """All calls, those in decorators too."""
        return (node for node in self.nodes if isinstance(node, ast.Call))

    def keywords(self, node: ast.AST) -> dict[str, ast.expr] | None:
        """The text keys and values of a dict that is written out, in place or behind a name; None for anything else."""
        node = self.value(node)
        if isinstance(node, ast.Dict):
            return {
                key.value: value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            }
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
            return {word.arg: word.value for word in node.keywords if word.arg is not None}
        return None


def parameters_of(function: Scope) -> dict[str, ast.arg]:
    """The names of a function's parameters, in order."""
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return {one.arg: one for one in every if one is not None}


def defaults_of(function: Scope) -> dict[str, ast.expr]:
    """Its parameters that have a default, with it."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    found = dict(
        zip([one.arg for one in positional][len(positional) - len(given.defaults) :], given.defaults, strict=True)
    )
    pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return found | {one.arg: default for one, default in pairs if default is not None}


def returns_of(function: Function) -> list[ast.Return]:
    """The return statements of the function itself."""
    found: list[ast.Return] = []
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Return):
            found.append(node)
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)
    return sorted(found, key=lambda one: one.lineno)


def may_reach_end(body: list[ast.stmt]) -> bool:
    """Whether the statements may run to their end, as far as their form tells."""
    if not body:
        return True
    last = body[-1]
    if isinstance(last, ast.Return | ast.Raise | ast.Continue | ast.Break):
        return False
    if isinstance(last, ast.If):
        return may_reach_end(last.body) or may_reach_end(last.orelse)
    if isinstance(last, ast.With | ast.AsyncWith):
        return may_reach_end(last.body)
    if isinstance(last, ast.While) and isinstance(last.test, ast.Constant) and last.test.value:
        return any(isinstance(node, ast.Break) for node in ast.walk(last))
    if isinstance(last, ast.Try):
        if last.finalbody and not may_reach_end(last.finalbody):
            return False
        ends = [[*last.body, *last.orelse], *(handler.body for handler in last.handlers)]
        return any(map(may_reach_end, ends))
    if isinstance(last, ast.Match):
        catches_all = any(isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None for case in last.cases)
        return not catches_all or any(may_reach_end(case.body) for case in last.cases)
    return True


def number_of(node: ast.AST) -> float | None:
    """The number that an expression is, if it is made of numbers alone: `5`, `2 * 60`."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, int | float) and not isinstance(node.value, bool) else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = number_of(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.BinOp):
        left, right = number_of(node.left), number_of(node.right)
        if left is None or right is None:
            return None
        operations: dict[type[ast.operator], Any] = {
            ast.Add: lambda: left + right,
            ast.Sub: lambda: left - right,
            ast.Mult: lambda: left * right,
            ast.Div: lambda: left / right if right else None,
        }
        operation = operations.get(type(node.op))
        return None if operation is None else operation()
    return None


def is_false(node: ast.AST) -> bool:
    """Whether it is a constant that counts as false."""
    return isinstance(node, ast.Constant) and not node.value


def without_call(node: ast.expr) -> ast.expr:
    """Of a decorator with arguments what is called."""
    return node.func if isinstance(node, ast.Call) else node


def text_of(node: ast.AST) -> str | None:
    """The text that it is, if it is a constant."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _last_name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_main_test(node: ast.AST) -> bool:
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or not isinstance(node.ops[0], ast.Eq):
        return False
    sides = [node.left, node.comparators[0]]
    return any(_last_name(one) == "__name__" for one in sides) and any(text_of(one) == "__main__" for one in sides)


def _is_in(node: ast.AST, body: list[ast.stmt]) -> bool:
    return any(node is one for one in body)


def _catches_imports(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(_last_name(one) in ("ImportError", "ModuleNotFoundError", "Exception", "BaseException") for one in kinds)
