"""Runs Airflow's example dags with liteflow, unmodified, and compares with what Airflow makes of them.

    python -m tests.conformance.compare AIRFLOW_PYTHON [--only TEXT...]

AIRFLOW_PYTHON is the Python of an environment that has Airflow. Its example files are read there, and one measurement
is taken with it; the states and values stand in the table. The Python that runs this has liteflow and no Airflow. One
line is printed for each dag, then the numbers that the README gives. Exit 1 when something differs that
`differences.json` does not name, or when a run takes too long.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from liteflow import Dag, DagRun
from liteflow.authoring.xcomarg import RETURN_VALUE
from tests.conformance.oracle import EXAMPLES, INTERNAL_KEYS, TABLE, NotPlainError, name_of, own_files, plain

KNOWN = Path(__file__).parent / "differences.json"
"""By `file:dag_id`: why liteflow does something else there, or cannot run it."""

OF_SURROUNDINGS = {("describe_dag_folder", "file_count")}
"""Values that tell how many files lie around the dag file."""

LIMIT_S = 110
"""For one dag."""

WORKERS = 2
MOST_OF_AIRFLOWS_TIME = 0.1
SIMPLEST = "airflow/example_dags/example_simplest_dag.py"

MADE_BY_AIRFLOW = """
import sys, datetime
from airflow.dag_processing.dagbag import DagBag
[dag] = DagBag(dag_folder=sys.argv[1], safe_mode=False).dags.values()
dag.test(logical_date=datetime.datetime(2026, 1, 5, tzinfo=datetime.UTC))
"""


class Verdict(NamedTuple):
    """What the comparison of one dag, or of one file without a dag, came to."""

    name: str
    word: str
    """`same`, `differs`, `known` or `left out`."""
    details: list[str]


# ------------------------------------------------------------------ what is compared


def found_in(run: DagRun) -> dict[str, Any]:
    """The states and values of a run of liteflow, in the table's words."""
    states, errors = {}, {}
    for one in run.task_instances():
        name = name_of(one.task_id, one.map_index)
        states[name] = str(one.state)
        errors[name] = one.error
    xcoms: dict[str, dict[str, Any]] = {}
    for info in run.xcoms():
        value = run.xcom(info.task_id, info.key, info.map_index)
        if INTERNAL_KEYS.search(info.key) or (value is None and info.key == "return_value"):
            continue  # Airflow stores no None that a task returns
        try:
            described = {"value": plain(value)}
        except NotPlainError as error:
            described = {"class": str(error)}
        xcoms.setdefault(name_of(info.task_id, info.map_index), {})[info.key] = described
    return {"run": str(run.state), "states": states, "xcoms": xcoms, "errors": errors}


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """A line for everything that is not as the table says."""
    return [*of_states(expected, found), *_of_values(expected, found)]


def of_states(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """A line for each state that is another one."""
    if found["run"] != expected["run"]:
        yield f"the run is {found['run']}, Airflow's {expected['run']}"
    for task in sorted({*expected["states"], *found["states"]}):
        ours, theirs = (of["states"].get(task, "not there") for of in (found, expected))
        if ours != theirs:
            error = f" ({found['errors'][task]})" if found["errors"].get(task) else ""
            yield f"{task} is {ours}, Airflow's {theirs}{error}"


def _of_values(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    ours = {(task, key): value for task, keys in found["xcoms"].items() for key, value in keys.items()}
    theirs = {(task, key): value for task, keys in expected["xcoms"].items() for key, value in keys.items()}
    varying = {tuple(name.rsplit(" ", 1)) for name in expected.get("varying", ())}
    # On purpose: what a branch or short circuit returns is handed on also when it skips something, as README says.
    skips = "skipped" in expected["states"].values()
    for task, key in sorted({*ours, *theirs, *varying}):
        if (task, key) in OF_SURROUNDINGS:
            continue
        if (task, key) not in ours:
            if (task, key) in theirs and theirs[task, key] is None:
                continue  # who pulls it gets None either way
            yield f"{task}: no XCom {key!r}, Airflow has one"
        elif (task, key) in theirs:
            if ours[task, key] != {"value": theirs[task, key]}:
                yield f"{task}: XCom {key!r} is {ours[task, key]}, Airflow's {theirs[task, key]!r}"
        elif (task, key) not in varying and not (skips and key == RETURN_VALUE):
            yield f"{task}: XCom {key!r} is {ours[task, key]}, Airflow has none"


# ------------------------------------------------------------------ how dags are run


def run_dag(file: Path, dag_id: str, logical_date: str) -> dict[str, Any] | str:
    """Run a dag of a file with the command line; what came of it, or why nothing did."""
    with tempfile.TemporaryDirectory() as directory:
        db = Path(directory, "conformance.db")
        try:
            ran = liteflow("run", f"{file}:{dag_id}", "--db", str(db), "--logical-date", logical_date, cwd=directory)
        except subprocess.TimeoutExpired:
            return f"not over within {LIMIT_S} s"
        if ran.returncode not in (0, 1) or not db.exists():
            return (ran.stderr.strip().splitlines() or [f"exit {ran.returncode}, and no word"])[-1]
        runs = Dag.load(dag_id, db).runs(limit=1)
        return found_in(runs[0]) if runs else ran.stderr.strip()


def liteflow(*args: str, cwd: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process that has nothing of the caller's Airflow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "LITEFLOW"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(
        [sys.executable, "-m", "liteflow", *args],
        cwd=cwd,
        env={**kept, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def verdicts(table: Mapping[str, Any], site: Path, only: list[str]) -> list[Verdict]:
    """One for each dag in the table, in its order."""
    known = json.loads(KNOWN.read_text())
    paths = dict(own_files()) | {name: site / name for name in table["files"] if name.startswith(EXAMPLES)}
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting = []
        for name, entry in table["files"].items():
            if only and not any(text in name for text in only):
                continue
            if "left_out" in entry:
                waiting.append(pool.submit(Verdict, name, "left out", [entry["left_out"]]))
            for dag_id, expected in entry.get("dags", {}).items():
                arguments = (f"{name}:{dag_id}", paths[name], expected, table["logical_date"], known)
                waiting.append(pool.submit(_judge, *arguments))
        return [one.result() for one in waiting]


def _judge(name: str, path: Path, expected: Mapping[str, Any], date: str, known: Mapping[str, str]) -> Verdict:
    if "left_out" in expected:
        return Verdict(name, "left out", [expected["left_out"]])
    found = run_dag(path, name.rpartition(":")[2], date)
    lines = [found] if isinstance(found, str) else differences(expected, found)
    if name in known:
        if lines:
            return Verdict(name, "known", [known[name]])
        return Verdict(name, "differs", [f"the same, though {KNOWN.name} says: {known[name]}"])
    return Verdict(name, "differs" if lines else "same", lines)


# ------------------------------------------------------------------ how long it takes


def ratio(airflow: str, file: Path) -> tuple[float, float]:
    """Seconds of `liteflow run` and of Airflow's `dag.test()` for one file: whole processes, best of three."""
    with tempfile.TemporaryDirectory() as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": f"{home}/dags",
        }
        Path(home, "dags").mkdir()
        Path(home, "dags", file.name).write_bytes(file.read_bytes())
        quiet: dict[str, Any] = {"env": environment, "cwd": home, "capture_output": True, "check": True}
        subprocess.run([airflow, "-m", "airflow", "db", "migrate"], **quiet)

        def theirs() -> None:
            subprocess.run([airflow, "-c", MADE_BY_AIRFLOW, str(file)], **quiet)

        def ours() -> None:
            with tempfile.TemporaryDirectory() as directory:
                liteflow("run", str(file), "--db", "simplest.db", cwd=directory).check_returncode()

        # In turns, so that what else the machine does falls on both.
        rounds = [(seconds(ours), seconds(theirs)) for _ in range(3)]
        return min(one for one, _ in rounds), min(other for _, other in rounds)


def seconds(what: Callable[[], None]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    what()
    return time.perf_counter() - begun


# ------------------------------------------------------------------ what is said


def summary(table: Mapping[str, Any], same: int, dags: int) -> str:
    """The line that stands in the README."""
    return f"behaves like Airflow {table['airflow']}: {same} of {dags} example dags"


def counted(table: Mapping[str, Any], known: Mapping[str, str]) -> tuple[int, int]:
    """How many example dags behave the same if nothing but what is known differs, and how many Airflow itself ran."""
    names = [
        f"{name}:{dag_id}"
        for name, entry in table["files"].items()
        if name.startswith(EXAMPLES)
        for dag_id, expected in entry.get("dags", {}).items()
        if "left_out" not in expected
    ]
    return sum(name not in known for name in names), len(names)


def main() -> int:
    """Compare, and print what came of it."""
    parser = argparse.ArgumentParser(description="Compare liteflow with what Airflow makes of its example dags.")
    parser.add_argument("airflow", metavar="AIRFLOW_PYTHON", type=os.path.abspath)
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT", help="only files whose names contain one")
    parser.add_argument("--no-times", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if importlib.util.find_spec("airflow") is not None:
        sys.exit("There is an Airflow in this environment: nothing that liteflow does without one can be seen here.")
    where = "import importlib.metadata as m; print(m.distribution('apache-airflow-core').locate_file(''))"
    located = subprocess.run([options.airflow, "-c", where], capture_output=True, text=True, check=True)
    site = Path(located.stdout.strip())
    table = json.loads(TABLE.read_text())
    found = verdicts(table, site, options.only)
    for verdict in found:
        first = f"  ({verdict.details[0]})" if verdict.word in ("known", "left out") else ""
        print(f"{'differs' if verdict.word == 'known' else verdict.word:8}  {verdict.name}{first}")
        for line in verdict.details if verdict.word == "differs" else ():
            print(f"              {line}")
    examples = [one for one in found if one.name.startswith(EXAMPLES)]
    ran = [one for one in examples if one.word != "left out"]
    print(summary(table, sum(one.word == "same" for one in ran), len(ran)))
    print(f"left out, since Airflow itself cannot run them so: {len(examples) - len(ran)} dags or files")
    reasons = Counter(one.details[0] for one in examples if one.word == "known")
    for reason, dags in reasons.most_common():
        print(f"differ: {dags:3}  {reason}")
    wrong = any(one.word == "differs" for one in found)
    if not options.no_times:
        ours, theirs = ratio(options.airflow, site / SIMPLEST)
        print(f"example_simplest_dag: {ours:.2f} s, Airflow {theirs:.2f} s, ratio {ours / theirs:.3f}")
        wrong = wrong or ours / theirs >= MOST_OF_AIRFLOWS_TIME
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
