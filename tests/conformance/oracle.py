"""What Airflow itself makes of dag files: runs each dag with `dag.test()`, and writes the table to compare with.

    python tests/conformance/oracle.py        # with the Python of an environment that has Airflow

Nothing of liteflow is needed or imported. Each round of a file is a process with a database of its own in a temporary
directory. A dag is run twice, and of the XComs that differ between the two only the names are kept. A file or dag
that cannot be run here, or that ends differently each time, stands in the table with the reason.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TABLE = HERE / "airflow-3.3.2.json"
OWN = HERE / "dags"
AIRFLOW_VERSION = "3.3.2"
LOGICAL_DATE = "2026-01-05T00:00:00+00:00"
"""A Monday."""

LIMIT_S = 120
"""For one dag."""

EXAMPLES = ("airflow/example_dags", "airflow/providers/standard/example_dags")

FILES_LEFT_OUT = {
    "airflow/example_dags/example_dag_decorator.py": "needs the network",
    "airflow/example_dags/example_retry_policy.py": "needs the network",
    "airflow/example_dags/tutorial_objectstorage.py": "needs the network",
    "airflow/providers/standard/example_dags/example_branch_operator.py": "draws lots, and needs the network",
    "airflow/providers/standard/example_dags/example_branch_operator_decorator.py": "draws lots, and needs the network",
    "airflow/providers/standard/example_dags/example_hitl_operator.py": "waits for a person",
    "airflow/providers/standard/example_dags/example_sensors.py": "depends on the day of the week",
}
"""Files that no rule below finds out about."""

DAGS_LEFT_OUT = {
    "example_branch_datetime_operator_2": "depends on the time of day",
    "example_weekday_branch_operator": "depends on the day of the week",
}
"""Dags, likewise."""

INTERNAL_KEYS = re.compile(r"skipmixin_key$|_link_")
"""XComs with which Airflow's own parts talk to each other: the skips they stand for are compared as states."""

OTHER_FILES = re.compile(r"^\s*(?:from|import) (airflow\.example_dags\.[\w.]+)", re.MULTILINE)


class NotPlainError(TypeError):
    """The value of an XCom has no plain form."""


def plain(value: Any) -> Any:
    """The value as JSON can hold it: tuples and sets as lists, times as text. Raises `NotPlainError`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(one) for one in value), key=repr)
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    raise NotPlainError(type(value).__name__)


def name_of(task_id: str, map_index: int) -> str:
    """`task` or `task[3]`."""
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


def word(state: Any) -> str:
    """A state as text, whether or not Airflow has made an enum of it."""
    return str(getattr(state, "value", state)).lower()


# ------------------------------------------------------------------ in a process of Airflow's


def run_dags(path: str, answers: str, passed_over: list[str]) -> None:
    """Run the dags of a file, but those passed over, and write a line of JSON about each into the file `answers`."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=path, safe_mode=False)
    with open(answers, "a") as file:

        def tell(**facts: Any) -> None:
            print(json.dumps(facts), file=file, flush=True)

        for error in bag.import_errors.values():
            tell(broken=error.strip().splitlines()[-1])
            return
        tell(dag_ids=sorted(bag.dags))
        for dag_id in sorted(set(bag.dags) - set(passed_over)):
            tell(begins=dag_id)
            try:
                tell(dag_id=dag_id, **outcome(bag.dags[dag_id]))
            except Exception as error:  # what Airflow refuses to run
                tell(dag_id=dag_id, refused=f"{type(error).__name__}: {error}".splitlines()[0])


def outcome(dag: Any) -> dict[str, Any]:
    """Run one dag: the state of the run and of every task instance, and the XComs."""
    from airflow.models.xcom import XComModel
    from airflow.sdk.serde import deserialize
    from airflow.utils.session import create_session
    from sqlalchemy import select

    run = dag.test(logical_date=datetime.datetime.fromisoformat(LOGICAL_DATE))
    with create_session() as session:
        states = {
            name_of(one.task_id, one.map_index): word(one.state) for one in run.get_task_instances(session=session)
        }
        xcoms: dict[str, dict[str, Any]] = {}
        rows = session.scalars(select(XComModel).where(XComModel.dag_id == dag.dag_id, XComModel.run_id == run.run_id))
        for row in rows:
            if not INTERNAL_KEYS.search(row.key):
                value = in_table(deserialize, row.value)
                xcoms.setdefault(name_of(row.task_id, row.map_index), {})[row.key] = value
    return {"run": word(run.state), "states": states, "xcoms": xcoms}


def in_table(deserialize: Any, stored: Any) -> dict[str, Any]:
    """A value as `{"value": ...}`, or what it is an instance of."""
    try:
        return {"value": plain(deserialize(stored))}
    except NotPlainError as error:
        return {"class": str(error)}


# ------------------------------------------------------------------ around it


class Rounds:
    """Runs dag files of one Airflow, each round in a process with a database of its own."""

    def __init__(self, scratch: Path, companions: list[Path]) -> None:
        self.scratch = scratch
        self.companions = companions
        self.template = scratch / "airflow-home"
        self.template.mkdir()
        subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=self.environment(self.template),
            check=True,
            capture_output=True,
        )

    def environment(self, home: Path) -> dict[str, str]:
        """That of one round."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        return {
            **kept,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def once(self, path: Path, others: int) -> list[dict[str, Any]]:
        """What is told about the dags of a file in one round. One that takes too long is ended, and the rest go on.

        `others`: how many files more there are in the folder of the dags, since some dags count them.
        """
        told: list[dict[str, Any]] = []
        passed_over: list[str] = []
        while True:
            fresh, ended = self._process(path, passed_over, others)
            told += fresh
            begun = [line["begins"] for line in fresh if "begins" in line]
            over = {line["dag_id"] for line in told if "dag_id" in line}
            if ended and not (begun and begun[-1] not in over):
                return told
            if not begun:
                return [*told, {"broken": f"not imported within {LIMIT_S} s"}]
            why = f"not over within {LIMIT_S} s" if not ended else "its process died"
            told.append({"dag_id": begun[-1], "refused": why})
            passed_over = [*over, begun[-1]]

    def _process(self, path: Path, passed_over: list[str], others: int) -> tuple[list[dict[str, Any]], bool]:
        with tempfile.TemporaryDirectory(dir=self.scratch) as directory:
            home = Path(directory, "home")
            shutil.copytree(self.template, home)
            (home / "dags").mkdir(exist_ok=True)
            for companion in {path, *self.companions}:
                shutil.copy(companion, home / "dags")
            for number in range(others):
                (home / "dags" / f"other_{number}.py").touch()
            answers = Path(directory, "answers")
            answers.touch()
            with Path(directory, "errors").open("w") as errors:
                process = subprocess.Popen(
                    [sys.executable, __file__, "--one", str(path), str(answers), *passed_over],
                    env=self.environment(home),
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                )
            ended = self._wait(process, answers)
            text = answers.read_text()
            if ended and process.returncode and not text:
                raise RuntimeError(f"{path}: {Path(directory, 'errors').read_text()}")
            return [json.loads(line) for line in text.splitlines()], ended

    def _wait(self, process: subprocess.Popen[bytes], answers: Path) -> bool:
        """Whether the process ended by itself; it is killed when it has told nothing for `LIMIT_S`."""
        while True:
            try:
                process.wait(timeout=0.5)
                return True
            except subprocess.TimeoutExpired:
                if time.time() - answers.stat().st_mtime > LIMIT_S:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    return False

    def entry(self, path: Path, name: str) -> dict[str, Any]:
        """What the table says about a file."""
        text = path.read_text()
        if name in FILES_LEFT_OUT:
            return {"left_out": FILES_LEFT_OUT[name]}
        if other := OTHER_FILES.search(text):
            return {"left_out": f"needs another file of Airflow's examples: {other.group(1)}"}
        with tempfile.TemporaryDirectory(dir=self.scratch) as directory:
            # In the second round the file stands elsewhere and is younger, so that what depends on either varies.
            copy = Path(shutil.copytree(path.parent, Path(directory, "elsewhere"))) / path.name
            rounds = [self.once(path, others=0), self.once(copy, others=1)]
        for line in rounds[0]:
            if "broken" in line:
                return {"left_out": why_broken(line["broken"])}
        dags = {}
        for dag_id in next(line["dag_ids"] for line in rounds[0] if "dag_ids" in line):
            told = [line for one in rounds for line in one if line.get("dag_id") == dag_id]
            dags[dag_id] = {"left_out": DAGS_LEFT_OUT[dag_id]} if dag_id in DAGS_LEFT_OUT else merged(told)
        return {"dags": dags} if dags else {"left_out": "has no dag"}


def merged(told: list[dict[str, Any]]) -> dict[str, Any]:
    """The rounds of one dag: the states, the XComs that were the same each time, and the names of the rest."""
    for line in told:
        if "refused" in line:
            return {"left_out": line["refused"]}
    first = told[0]
    if any((line["run"], line["states"]) != (first["run"], first["states"]) for line in told):
        return {"left_out": "ends differently each time"}
    same: dict[str, dict[str, Any]] = {}
    varying = set()
    names = sorted({(task, key) for line in told for task, keys in line["xcoms"].items() for key in keys})
    for task, key in names:
        values = [line["xcoms"].get(task, {}).get(key) for line in told]
        if all(value == values[0] for value in values) and values[0] is not None and "value" in values[0]:
            same.setdefault(task, {})[key] = values[0]["value"]
        elif None not in values:
            varying.add(f"{task} {key}")
    entry: dict[str, Any] = {"run": first["run"], "states": first["states"], "xcoms": same}
    if varying:
        entry["varying"] = sorted(varying)
    return entry


def why_broken(message: str) -> str:
    """The reason behind an import error."""
    if missing := re.search(r"No module named '([\w.]+)'", message):
        return f"needs the package {missing.group(1).partition('.')[0]}"
    return message


def example_files(site: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of every example file of an Airflow that is installed below `site`."""
    for directory in EXAMPLES:
        for path in sorted((site / directory).glob("*.py")):
            if path.name != "__init__.py":
                yield f"{directory}/{path.name}", path


def own_files() -> Iterator[tuple[str, Path]]:
    """Name and path of the dag files of this suite."""
    for path in sorted(OWN.glob("*.py")):
        yield f"dags/{path.name}", path


def site_packages() -> Path:
    """Where this Python has Airflow, found without importing it."""
    distribution = importlib.metadata.distribution("apache-airflow-core")
    if distribution.version != AIRFLOW_VERSION:
        sys.exit(f"The table is about Airflow {AIRFLOW_VERSION}, and this is {distribution.version}.")
    return Path(str(distribution.locate_file("")))


def entries(files: list[tuple[str, Path]], workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and entry of each file, as they get done."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(workers) as pool:
        rounds = Rounds(Path(scratch), companions())
        waiting = [pool.submit(lambda name, path: (name, rounds.entry(path, name)), *one) for one in files]
        for done in as_completed(waiting):
            yield done.result()


def companions() -> list[Path]:
    """Files that have to be known to Airflow while others run: the targets of triggers."""
    return [path for _, path in example_files(site_packages()) if path.stem.endswith("_target_dag")]


def written(table: dict[str, Any]) -> str:
    """The text of the table: one line for each task instance or value, so that a change can be read."""
    return json.dumps(table, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """A line for each dag of which two tables say different things."""
    for name in sorted({*old["files"], *new["files"]}):
        before, after = (table["files"].get(name, {}) for table in (old, new))
        if before.get("left_out") != after.get("left_out"):
            yield f"{name}: {before.get('left_out', 'ran')} -> {after.get('left_out', 'ran')}"
        was, now = before.get("dags", {}), after.get("dags", {})
        yield from (f"{name}: {dag_id}" for dag_id in sorted({*was, *now}) if was.get(dag_id) != now.get(dag_id))


def main() -> None:
    """Make the table and say what changed."""
    if sys.argv[1:2] == ["--one"]:
        run_dags(sys.argv[2], sys.argv[3], sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description="Make the table of what Airflow does.")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT", help="only files whose names contain one")
    parser.add_argument("--files", nargs="*", type=Path, metavar="FILE", help="these instead of the examples")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    site = site_packages()
    if options.files:
        files = [(path.name, path.absolute()) for path in options.files]
    else:
        every = [*own_files(), *example_files(site)]
        files = [one for one in every if not options.only or any(text in f"/{one[0]}" for text in options.only)]
    old = json.loads(options.table.read_text()) if options.table.exists() else {"files": {}}
    new = {
        "airflow": AIRFLOW_VERSION,
        "standard": importlib.metadata.version("apache-airflow-providers-standard"),
        "logical_date": LOGICAL_DATE,
        "files": dict(old["files"]) if options.only else {},
    }
    for number, (name, entry) in enumerate(entries(files, options.workers), start=1):
        new["files"][name] = entry
        options.table.write_text(written(new))
        said = entry.get("left_out", ", ".join(entry.get("dags", ())))
        print(f"{number} of {len(files)}: {name}: {said}", file=sys.stderr)
    for line in changes(old, new):
        print(f"changed: {line}")


if __name__ == "__main__":
    main()
