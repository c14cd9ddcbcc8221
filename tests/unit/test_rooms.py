"""The rooms of the package: a module imports only from its own room and from those above it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import liteflow

PACKAGE = Path(liteflow.__file__).parent

ROOMS = ["words", "authoring", "operators", "scheduling", "storage", "execution", "visualize", "airflow", "cli", "face"]
"""From the top, which knows nothing, down to the face, which knows all."""

WORDS = {"errors", "states"}
FACE = {"__init__", "__main__", "pytest_plugin"}

DOORS = {
    # module: (rooms behind the door, why)
    "authoring/dag.py": (
        {"storage", "execution", "visualize"},
        "Dag.run() and the history of a dag open the rooms below, and a notebook shows a dag drawn",
    ),
    "authoring/decorators.py": ({"operators"}, "@task.virtualenv and its like are made of the operators of that name"),
    "authoring/dagfile.py": (
        {"airflow"},
        "a dag file that imports airflow gets liteflow's own modules under its names",
    ),
    "storage/history.py": (
        {"execution", "visualize"},
        "DagRun.clear() and .mark() ask whether a process drives the run, and a notebook shows a run drawn",
    ),
}
"""Imports against the direction that are meant; only inside functions, so that they cost nothing before a call."""

FOREIGN = {
    # room: what it may not know
    "words": {"sqlalchemy", "alembic", "click", "rich", "cloudpickle", "subprocess", "multiprocessing", "time"},
    "authoring": {
        *("sqlalchemy", "alembic", "click", "rich", "cloudpickle", "sqlite3"),
        *("subprocess", "multiprocessing", "signal", "socket", "time"),
    },
    "operators": {"sqlalchemy", "alembic", "click", "rich", "cloudpickle", "sqlite3", "multiprocessing"},
    "scheduling": {
        *("sqlalchemy", "alembic", "click", "rich", "cloudpickle", "sqlite3"),
        *("subprocess", "multiprocessing", "signal", "socket", "time", "os"),
    },
    "storage": {"click", "rich", "cloudpickle", "subprocess", "multiprocessing", "signal"},
    "execution": {"click", "alembic"},
    "visualize": {"sqlalchemy", "alembic", "click", "sqlite3"},
    "airflow": {"sqlalchemy", "alembic", "click", "rich", "cloudpickle", "sqlite3", "subprocess", "multiprocessing"},
    "cli": set(),
    "face": {"sqlalchemy", "alembic", "click", "rich"},
}


class Import(NamedTuple):
    """One import statement's target."""

    target: str
    """Dotted name of the module, or of a name in it."""
    line: int
    in_function: bool


class Imports(ast.NodeVisitor):
    """Collects the imports of a module, those inside functions too; what only a type checker reads is left out."""

    def __init__(self) -> None:
        self.found: list[Import] = []
        self._depth = 0

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [Import(alias.name, node.lineno, self._depth > 0) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, f"line {node.lineno}: a relative import"
        self.found += [Import(f"{node.module}.{alias.name}", node.lineno, self._depth > 0) for alias in node.names]

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815  (the name is ast's)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for other in node.orelse:
                self.visit(other)
        else:
            self.generic_visit(node)


def imports_of(tree: ast.AST) -> list[Import]:
    visitor = Imports()
    visitor.visit(tree)
    return visitor.found


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module, by the parts of its name below `liteflow`."""
    if not parts or parts[0] in FACE:
        return "face"
    return "words" if parts[0] in WORDS else parts[0]


def mistakes_of(name: str, source: str) -> list[str]:
    """What a module (`authoring/dag.py`) with this source imports that it should not."""
    tree = ast.parse(source)
    room = room_of(tuple(name.removesuffix(".py").split("/")))
    allowed = ROOMS[: ROOMS.index(room) + 1]
    behind_doors, _ = DOORS.get(name, (set(), ""))
    mistakes = []
    for target, line, in_function in imports_of(tree):
        head, *rest = target.split(".")
        if head != "liteflow":
            if head in FOREIGN[room]:
                mistakes.append(f"{name}:{line}: {room} may not know {head}")
        elif not rest:
            # The package itself, only for where it lies and which one it is.
            asked = {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "liteflow"
            }
            if room != "face" and not asked <= {"__file__", "__path__", "__version__"}:
                mistakes.append(f"{name}:{line}: takes {sorted(asked)} from the face")
        else:
            # `from liteflow import task` is the face's; `from liteflow.states import X` is the words'.
            known = rest[0] in {*ROOMS, *WORDS, *FACE}
            other = room_of(tuple(rest)) if known else "face"
            if other not in allowed and not (in_function and other in behind_doors):
                mistakes.append(f"{name}:{line}: {room} may not import {target} of {other}")
    return mistakes


MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("_migrations")])
def test_module_imports_only_from_its_own_room_and_those_above(name: str) -> None:
    assert mistakes_of(name, (PACKAGE / name).read_text("utf-8")) == []


def test_every_module_lies_in_a_room() -> None:
    rooms = {room_of(tuple(name.removesuffix(".py").split("/"))) for name in MODULES if "_migrations" not in name}
    assert rooms <= set(ROOMS)
    assert {"words", "authoring", "scheduling", "storage", "execution", "face"} <= rooms


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("authoring/task.py", "from liteflow.storage.xcoms import encode", "authoring may not import"),
        ("authoring/task.py", "def f():\n    from liteflow.storage import xcoms", "authoring may not import"),
        ("storage/history.py", "from liteflow.visualize import picture", "storage may not import"),
        ("authoring/dag.py", "from liteflow.storage import history", "authoring may not import"),
        ("scheduling/core.py", "import liteflow.execution.slots", "scheduling may not import"),
        ("scheduling/core.py", "async def f():\n    import time", "scheduling may not know time"),
        ("storage/engine.py", "from liteflow.execution import liveness", "storage may not import"),
        ("storage/engine.py", "import subprocess", "storage may not know subprocess"),
        ("execution/slots.py", "import click", "execution may not know click"),
        ("visualize/text.py", "from sqlalchemy.orm import Session", "visualize may not know sqlalchemy"),
        ("visualize/text.py", "from liteflow.cli import main", "visualize may not import"),
        ("errors.py", "from liteflow.authoring import ids", "words may not import"),
        ("execution/code.py", "from liteflow import task", "execution may not import"),
        ("execution/code.py", "import liteflow\nliteflow.task", "from the face"),
    ],
)
def test_an_import_against_the_direction_is_noticed(name: str, source: str, said: str) -> None:
    assert any(said in mistake for mistake in mistakes_of(name, source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("authoring/dag.py", "def run():\n    from liteflow.execution.running import run_dag"),
        ("authoring/dag.py", "if TYPE_CHECKING:\n    from liteflow.storage.history import DagRun"),
        ("execution/calling.py", "import liteflow\nliteflow.__file__"),
        ("execution/calling.py", "from liteflow.execution.code import load\nfrom liteflow.states import RunState"),
        ("cli/run.py", "import click\nfrom liteflow.storage import schema"),
        ("__main__.py", "from liteflow.cli import main"),
    ],
)
def test_an_import_in_the_direction_is_fine(name: str, source: str) -> None:
    assert mistakes_of(name, source) == []


def modules_after(code: str) -> set[str]:
    """What is imported in a fresh interpreter once `code` has run."""
    script = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n"))


def test_a_worker_and_all_that_it_imports_knows_no_database() -> None:
    loaded = modules_after(
        "import liteflow.execution.worker, liteflow.storage.xcoms, liteflow.scheduling.core, liteflow.authoring"
    )
    assert "liteflow.execution.worker" in loaded
    assert not loaded & {"sqlalchemy", "alembic", "sqlite3", "click", "rich"}


def test_what_a_script_with_a_service_imports_needs_no_database() -> None:
    """Each slot imports that script."""
    loaded = modules_after("from liteflow import Dag, ExecutorService, RunEvent, RunHandle, task")
    assert not loaded & {"sqlalchemy", "alembic", "sqlite3", "click", "rich"}


def test_import_liteflow_costs_neither_database_nor_command_line() -> None:
    loaded = modules_after("import liteflow; liteflow.Dag, liteflow.task")
    assert "liteflow.authoring.dag" in loaded
    assert not loaded & {"sqlalchemy", "alembic", "sqlite3", "click", "rich", "cloudpickle"}


def test_names_of_the_rooms_below_are_imported_when_they_are_asked_for() -> None:
    loaded = modules_after("import liteflow; liteflow.ExecutorService")
    assert "liteflow.execution.service" in loaded


def test_visualize_imports_no_database() -> None:
    names = [name for name in MODULES if name.startswith("visualize/")]
    modules = ["liteflow." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names]
    loaded = modules_after("import " + ", ".join(modules))
    assert set(modules) <= loaded
    assert not loaded & {"sqlalchemy", "alembic", "sqlite3", "click"}


def test_the_command_line_imports_the_database_only_inside_commands() -> None:
    assert not modules_after("import liteflow.cli") & {"sqlalchemy", "alembic"}


def test_neither_a_run_nor_a_command_imports_the_orm() -> None:
    """It takes a fifth of a second to import and to map, which a run of three tasks would notice."""
    loaded = modules_after(
        "import liteflow.execution.service, liteflow.execution.running, liteflow.storage.checking\n"
        "import liteflow.cli.change, liteflow.cli.db, liteflow.cli.listing, liteflow.cli.logs, liteflow.cli.pools\n"
        "import liteflow.cli.run, liteflow.cli.show, liteflow.cli.visualize, liteflow.cli.xcom\n"
        "import liteflow.execution.explaining, liteflow.execution.planning, liteflow.execution.checkup"
    )
    assert "sqlalchemy" in loaded
    assert "sqlalchemy.orm" not in loaded
