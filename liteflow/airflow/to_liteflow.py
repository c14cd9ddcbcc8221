"""From Airflow to liteflow: the lines of a file that would not load here, or mean nothing here.

By the text, and by the tables of `names.py` and the options of the core: no list is kept twice.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from liteflow.airflow import names
from liteflow.airflow.dagcode import DAG, OPERATOR, DagCode, OptionCall
from liteflow.airflow.findings import ERROR, NOTE, Finding
from liteflow.airflow.reading import Source, defaults_of, is_false, parameters_of, text_of
from liteflow.airflow.to_airflow import FILLED_THERE
from liteflow.authoring.context import CONTEXT_KEYS
from liteflow.authoring.dag import Dag
from liteflow.authoring.ids import did_you_mean
from liteflow.authoring.options import INERT_DAG_OPTIONS, PROCESSES, THREADS, task_option_sort

_KINDS = {"branch": "branch", "sensor": "sensor", "bash": "bash", "short_circuit": "short_circuit"}

_READ_ONLY = ("set", "update", "delete", "setdefault")
"""What Airflow's Variable can do, and ours raises."""


def _canonical(meaning: str) -> str | None:
    """`task.branch` for `airflow.sdk.task.branch`, whichever of Airflow's modules the name comes from."""
    if not meaning.startswith("airflow."):
        return None
    parts = meaning.split(".")
    for count in range(len(parts) - 1, 0, -1):
        if names.is_module(".".join(parts[:count])):
            return ".".join(parts[count:])
    return parts[-1]


class ToLiteflow:
    """Collects what the text of one file shows."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.code = DagCode(source, _canonical)

    def findings(self) -> Iterator[Finding]:
        """All of them, in no order."""
        yield from self._imports()
        yield from self._attributes()
        yield from self._options()
        yield from self._deferring()
        yield from self._context_keys()

    def _found(self, node: ast.AST, rule: str, message: str, advice: str = "", severity: str = ERROR) -> Finding:
        return Finding(self.source.path, getattr(node, "lineno", 1), rule, message, advice, severity)

    # Imports

    def _imports(self) -> Iterator[Finding]:
        for node in self.source.nodes:
            if self.source.never_runs(node):
                continue
            severity = NOTE if self.source.is_tried(node) else ERROR
            if isinstance(node, ast.ImportFrom) and not node.level and _is_airflow(node.module or ""):
                assert node.module is not None
                if not names.is_module(node.module):
                    yield self._no_module(node, node.module, severity)
                    continue
                for alias in node.names:
                    if alias.name != "*":
                        yield from self._name(node, node.module, alias.name, severity)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if _is_airflow(alias.name) and not names.is_module(alias.name):
                        yield self._no_module(node, alias.name, severity)

    def _no_module(self, node: ast.AST, module: str, severity: str) -> Finding:
        parts = module.split(".")
        if parts[1:2] == ["providers"] and parts[2:3] != ["standard"] and len(parts) > 2:
            message = f"of Airflow's providers liteflow has the standard one, not {parts[2]!r}"
        else:
            message = f"liteflow has no {module!r}{did_you_mean(module, names.MODULES)}"
        return self._found(node, "import-unknown", message, names.instead_of(module), severity)

    def _name(self, node: ast.AST, module: str, name: str, severity: str) -> Iterator[Finding]:
        entry = names.lookup(module, name)
        if isinstance(entry, names.Inert):
            message = f"{name} loads, and means nothing here ({entry.sort})"
            yield self._found(node, "inert", message, "", NOTE)
        elif not isinstance(entry, names.Provided) and not names.is_module(f"{module}.{name}"):
            if isinstance(entry, names.Missing):
                advice = entry.instead
            else:
                elsewhere = names.modules_with(name)
                advice = f"write: from {elsewhere[0]} import {name}" if elsewhere else ""
            hint = "" if advice else did_you_mean(name, names.MODULES[module])
            yield self._found(node, "import-unknown", f"liteflow has no {name!r} of {module}{hint}", advice, severity)

    def _attributes(self) -> Iterator[Finding]:
        """`task.kubernetes`, `Variable.set`: what is asked of a name that is there."""
        for node in self.source.nodes:
            if not isinstance(node, ast.Attribute) or self.source.never_runs(node):
                continue
            before = self.source.meaning(node.value)
            module, _, name = before.rpartition(".")
            if not _is_airflow(module):
                if _is_airflow(before) and names.is_module(before) and not names.is_module(f"{before}.{node.attr}"):
                    yield from self._name(node, before, node.attr, ERROR)
                continue
            if names.is_module(before):
                if not names.is_module(f"{before}.{node.attr}"):
                    yield from self._name(node, before, node.attr, ERROR)
                continue
            entry = names.lookup(module, name)
            if not isinstance(entry, names.Provided):
                continue
            if name == "Variable" and node.attr in _READ_ONLY:
                message = (
                    f"Variable.{node.attr}() raises here: variables are given from outside, and no run changes them"
                )
                yield self._found(node, "variable-set", message, "hand the value on as an XCom, or keep it in a file")
            elif not _has(entry, node.attr):
                message = f"liteflow has no {node.attr!r} of {name}"
                yield self._found(node, "import-unknown", message)

    # Options

    def _options(self) -> Iterator[Finding]:
        for call in self.code.option_calls:
            sorts = {name: self._sort(call, name) for name in call.options}
            inert = [name for name, sort in sorts.items() if sort == "inert" and not is_false(call.options[name])]
            if inert:
                yield self._found(call.node, "inert", f"{', '.join(inert)}: nothing follows from these here", "", NOTE)
            what = "a dag" if call.sort == DAG else "a task"
            for name, sort in sorts.items():
                if sort == "missing":
                    message = f"option {name} of {what} is refused here"
                    yield self._found(call.options[name], "option", message, "leave it out")
                elif sort == "unknown":
                    yield self._found(call.options[name], "option", f"{what} has no option {name} here", "leave it out")
                elif name == "deferrable" and not is_false(call.options[name]):
                    message = "nothing is deferred here: the task gives its slot back between its looks, or holds it"
                    yield self._found(call.options[name], "inert", message, "", NOTE)
        for _, given in self.code.default_args:
            for name, value in given.items():
                if task_option_sort(name) == "missing":
                    yield self._found(value, "option", f"option {name} of a task is refused here", "leave it out")

    def _sort(self, call: OptionCall, name: str) -> str:
        if call.sort == DAG:
            return _dag_option_sort(name)
        if name == "python_callable":
            return "known"
        if name == "executor":  # those of Airflow have other names
            return "known" if text_of(call.options[name]) in (PROCESSES, THREADS) else "inert"
        sort = task_option_sort(name, _KINDS.get(call.kind, ""))
        # Operators have parameters of their own, and so have the kinds of tasks that run elsewhere.
        return "known" if sort == "unknown" and (call.sort == OPERATOR or call.kind not in ("", *_KINDS)) else sort

    # Running

    def _deferring(self) -> Iterator[Finding]:
        for call in self.source.calls():
            func = call.func
            if isinstance(func, ast.Attribute) and func.attr == "defer" and _is_self(func.value):
                advice = 'write a sensor with mode="reschedule": it holds no slot while it waits'
                yield self._found(call, "deferred", "nothing is deferred here", advice)

    def _context_keys(self) -> Iterator[Finding]:
        missing = FILLED_THERE - CONTEXT_KEYS
        for name, (function, _) in self.code.task_functions.items():
            given = {word.arg for call in self.source.calls() if _calls(call, name) for word in call.keywords}
            for parameter, argument in parameters_of(function).items():
                if parameter in missing and parameter not in given and not _is_variadic(function, parameter):
                    severity = NOTE if parameter in defaults_of(function) else ERROR
                    message = f"the context has no {parameter} here"
                    yield self._found(argument, "context-key", message, "", severity)
        for node in self.source.nodes:
            if (
                isinstance(node, ast.Subscript)
                and isinstance(node.value, ast.Name)
                and node.value.id in ("context", "kwargs")
            ):
                key = text_of(node.slice)
                if key in missing and self.source.function(node) is not None:
                    yield self._found(node, "context-key", f"the context has no {key} here")


def _dag_option_sort(name: str) -> str:
    """What becomes of an option of a dag; as `task_option_sort`."""
    if name in INERT_DAG_OPTIONS:
        return "inert"
    return "known" if name in inspect.signature(Dag.__init__).parameters else "unknown"


def _is_airflow(module: str) -> bool:
    return module == "airflow" or module.startswith("airflow.")


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _calls(call: ast.Call, name: str) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == name


def _is_variadic(function: Any, parameter: str) -> bool:
    return parameter in [one.arg for one in (function.args.vararg, function.args.kwarg) if one is not None]


def _has(entry: names.Provided, attribute: str) -> bool:
    """Whether what is provided has the attribute; an instance may have more than its class, and is not looked at."""
    found = getattr(import_module(entry.module), entry.name, None)
    if found is None or not (isinstance(found, type) or callable(found)):
        return True
    return hasattr(found, attribute)
