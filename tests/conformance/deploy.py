"""The other way: liteflow's own examples, their imports changed, run by Airflow to the same states.

    python -m tests.conformance.deploy AIRFLOW_PYTHON

What is changed is what `liteflow check --target airflow` says, and by rule: `from liteflow import ...` becomes
`from airflow.sdk import ...`, options of a dag that only liteflow has go, and so does the part that runs the dag when
the file is a script. Nobody edits a file. Exit 1 when `check` finds something that is left to change, or a state
differs.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.conformance import oracle
from tests.conformance.compare import liteflow, of_states, run_dag

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = ("complex_workflow.py", "forecasts.py", "retries.py", "weather_etl.py")
"""Those that have a dag and leave running it to others; the rest are programs around an executor service."""

SDK = "airflow.sdk"
ELSEWHERE = {
    "Dag": (SDK, "DAG"),
    "RunState": (SDK, "DagRunState"),
    "FailTask": ("airflow.sdk.exceptions", "AirflowFailException"),
    "SkipTask": ("airflow.sdk.exceptions", "AirflowSkipException"),
}
"""Names that are others in Airflow."""

ONLY_HERE = {"DagRun", "DagWarning", "ExecutorService", "RunHandle"}
"""Names that Airflow has not got. A statement of the module itself that uses one goes with it."""

OPTIONS_ONLY_HERE = {"db_path", "durability", "retain_runs", "retain_days"}
"""Options of a dag."""


def for_airflow(text: str) -> str:
    """The text of a dag file of liteflow's as one for Airflow."""
    tree = ast.parse(text)
    lines = text.splitlines(keepends=True)
    for node in reversed(tree.body):
        if isinstance(node, ast.ImportFrom) and node.module == "liteflow":
            lines[node.lineno - 1 : node.end_lineno] = _imports(node)
        elif _runs_as_script(node) or (isinstance(node, ast.Expr) and _names(node) & ONLY_HERE):
            del lines[node.lineno - 1 : node.end_lineno]
        else:
            for keyword in _options_only_here(node):
                _cut(lines, keyword)
    return "".join(lines)


def _imports(node: ast.ImportFrom) -> Iterator[str]:
    for alias in node.names:
        if alias.name not in ONLY_HERE:
            module, name = ELSEWHERE.get(alias.name, (SDK, alias.name))
            yield f"from {module} import {name} as {alias.asname or alias.name}\n"


def _runs_as_script(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _options_only_here(node: ast.stmt) -> list[ast.keyword]:
    """Such options of the dags that a statement makes, the last one first."""
    calls = [one for one in ast.walk(node) if isinstance(one, ast.Call) and ast.unparse(one.func) in ("Dag", "dag")]
    found = [keyword for call in calls for keyword in call.keywords if keyword.arg in OPTIONS_ONLY_HERE]
    return sorted(found, key=lambda keyword: (keyword.lineno, keyword.col_offset), reverse=True)


def _cut(lines: list[str], keyword: ast.keyword) -> None:
    """Take an option out of a call, with the comma after it. It must stand on one line."""
    line = lines[keyword.lineno - 1].encode()
    rest = line[keyword.end_col_offset :].lstrip(b", ")
    lines[keyword.lineno - 1] = (line[: keyword.col_offset] + rest).decode()


def main() -> int:
    """Rewrite, run with both, compare."""
    parser = argparse.ArgumentParser(description="Run liteflow's examples with Airflow.")
    parser.add_argument("airflow", metavar="AIRFLOW_PYTHON", type=os.path.abspath)
    airflow = parser.parse_args().airflow
    wrong = False
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(EXAMPLES / "data", Path(directory, "data"))
        for name in FILES:
            Path(directory, name).write_text(for_airflow((EXAMPLES / name).read_text()))
        left = {name: liteflow("check", name, "--target", "airflow", cwd=directory) for name in FILES}
        table = Path(directory, "table.json")
        files = [str(Path(directory, name)) for name in FILES]
        command = [airflow, oracle.__file__, "--table", str(table), "--files", *files]
        subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
        entries = json.loads(table.read_text())["files"]
    for name in FILES:
        for dag_id, expected in entries[name].get("dags", {"": entries[name]}).items():
            lines = left[name].stdout.splitlines() if left[name].returncode else []
            lines += _differences(EXAMPLES / name, dag_id, expected)
            wrong = wrong or bool(lines)
            print(f"{'differs' if lines else 'same':8}  examples/{name}:{dag_id}")
            for line in lines:
                print(f"              {line}")
    return int(wrong)


def _differences(file: Path, dag_id: str, expected: dict[str, str]) -> Iterator[str]:
    if "left_out" in expected:
        yield f"Airflow: {expected['left_out']}"
        return
    found = run_dag(file, dag_id, oracle.LOGICAL_DATE)
    if isinstance(found, str):
        yield found
        return
    yield from of_states(expected, found)


if __name__ == "__main__":
    sys.exit(main())
