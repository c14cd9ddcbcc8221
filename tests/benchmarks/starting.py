"""What it costs to start: `import liteflow`, and a whole script of three tasks."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.compare import Figure, seconds

MOST_IMPORT_MS = 60.0

BARE = """
from concurrent.futures import ProcessPoolExecutor
from graphlib import TopologicalSorter

def first(): return 1
def second(number): return number + 1
def third(number): return number * 2

if __name__ == "__main__":
    functions = {"first": first, "second": second, "third": third}
    sorter = TopologicalSorter({"second": {"first"}, "third": {"second"}})
    value = []
    with ProcessPoolExecutor(2) as pool:
        for name in sorter.static_order():
            value = [pool.submit(functions[name], *value).result()]
    print(*value)
"""

OURS = """
from liteflow import Dag, task

@task
def first(): return 1
@task
def second(number): return number + 1
@task
def third(number): return number * 2

with Dag("cold") as dag:
    third(second(first()))

if __name__ == "__main__":
    print(dag.run(max_workers=2, progress=False).xcom("third"))
"""


def starting(rounds: int) -> list[Figure]:
    """The cost of an import, and of a script with a new database and with one that exists."""
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        (directory / "bare.py").write_text(BARE)
        (directory / "ours.py").write_text(OURS)
        database = directory / "liteflow.db"
        commands = {
            "python": ["-c", "pass"],
            "import": ["-c", "import liteflow"],
            "sqlalchemy": ["-c", "import sqlalchemy.orm"],
            "bare": ["bare.py"],
            "new": ["ours.py"],
            "existing": ["ours.py"],
        }
        for number in range(rounds + 1):
            for name, args in commands.items():
                if name == "new":
                    for path in directory.glob("liteflow.db*"):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                took, out = _run(args, directory)
                if out.strip() not in ("", "4"):
                    raise SystemExit(f"{name}: {out}")
                if number:  # the first is for the caches of the file system
                    times.setdefault(name, []).append(took)
        assert database.exists()
    found = {name: statistics.median(some) for name, some in times.items()}
    extra_ms = (found["import"] - found["python"]) * 1000
    rows = [
        Figure(
            "import",
            "`import liteflow`, more than `python`",
            seconds(found["import"]),
            seconds(found["python"]),
            extra_ms,
            MOST_IMPORT_MS,
            "ms",
        )
    ]
    for name, most in (("new", 2.0), ("existing", 1.5)):
        ratio = (found[name] - found["sqlalchemy"]) / found["bare"]
        what = f"script of three tasks, {name} database, less `import sqlalchemy.orm` ({seconds(found['sqlalchemy'])})"
        rows.append(Figure(f"cold-{name}", what, seconds(found[name]), seconds(found["bare"]), ratio, most))
    return rows


def _run(args: list[str], directory: Path) -> tuple[float, str]:
    # Nobody who runs a script twice has it compiled twice.
    unwanted = ("LITEFLOW", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *args], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{args}: {done.stderr}")
    return took, done.stdout
