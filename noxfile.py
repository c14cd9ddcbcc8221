"""Sessions for developers: `nox` runs lint, types, tests, examples and the wheel; `nox -s mermaid` needs Node.js."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "examples", "wheel"]
nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "venv"

FULL_SIZE_TIMEOUT_S = 4 * 3600
"""For one test of the sessions `crash` and `faults`."""

PYTHONS = ["3.11", "3.12", "3.13"]

WEB = ("fastapi_app.py", "flask_app.py")
"""Examples that are no scripts: a web server runs them, in the tests."""


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """ruff: rules and format."""
    session.install("ruff>=0.11")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python="3.11")
def types(session: nox.Session) -> None:
    """mypy, strict, on the package."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests, on each Python that is there."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pytest", "-n", "auto", *session.posargs)


@nox.session(python="3.11")
def crash(session: nox.Session) -> None:
    """The tests of kills and power cuts at full size: hours. Prints how many of each there were."""
    _at_full_size(session, "tests/crash")


@nox.session(python="3.11")
def faults(session: nox.Session) -> None:
    """The tests of broken disks, hostile tasks, input and signals at full size. Prints how many of each there were."""
    _at_full_size(session, "tests/faults")


def _at_full_size(session: nox.Session, directory: str) -> None:
    session.install("-e", ".[dev]")
    report = Path(session.create_tmp()).absolute() / "report.txt"
    report.unlink(missing_ok=True)
    pytest = ("python", "-m", "pytest", "-n", "auto", "--timeout", str(FULL_SIZE_TIMEOUT_S), directory)
    full = {"LITEFLOW_TESTS": "full", "LITEFLOW_REPORT": str(report)}
    try:
        session.run(*pytest, *session.posargs, env=full)
    finally:  # the counts are wanted also, and above all, when something was found
        print(report.read_text() if report.exists() else "no test has reported anything", end="")


@nox.session(python="3.11")
def browser(session: nox.Session) -> None:
    """The page of a run in headless Chromium, which must be here (Debian: apt-get install chromium). Keeps pictures."""
    session.install("-e", ".[dev]")
    shots = Path(session.create_tmp()).absolute() / "screenshots"
    shutil.rmtree(shots, ignore_errors=True)
    env = {"LITEFLOW_NEEDS_BROWSER": "1", "LITEFLOW_SCREENSHOTS": str(shots)}
    session.run("python", "-m", "pytest", "tests/browser", *session.posargs, env=env)
    session.log(f"screenshots are in {shots}")


SEMANTICS = (
    "tests/processes/semantics",
    "tests/processes/test_same_states.py::test_real_runs_come_to_what_the_evaluator_says",
)
"""What a dag means, which is the same on every engine and in every database."""

RUNS = tuple(
    f"tests/processes/test_{name}.py"
    for name in (
        *("bash", "callbacks", "copied_runs", "dag_templates_run", "embedding", "external_task", "faults", "foreign"),
        *("guest_nested", "hostile", "mixed", "operators_run", "pools_and_limits", "pulling_run", "putting_right"),
        *("recovery", "retention", "running", "sensors", "templates_run", "threads", "triggering"),
    )
)
"""Real runs: of one service and of several, to their end, killed and gone on with, put right."""


@nox.session(python="3.11")
def postgres(session: nox.Session) -> None:
    """Storage, commands, runs and semantics on PostgreSQL, which must be here (Debian: apt-get install postgresql)."""
    session.install("-e", ".[dev]")
    env = {"LITEFLOW_NEEDS_POSTGRES": "1", "LITEFLOW_TEST_DATABASE": "postgresql"}
    session.run(
        "python", "-m", "pytest", "-n", "auto", "tests/integration", *RUNS, *SEMANTICS, *session.posargs, env=env
    )


@nox.session(python="3.11")
@nox.parametrize("database", ["sqlite", "postgresql"])
@nox.parametrize("engine", ["slots", "threads", "dask"])
def engines(session: nox.Session, engine: str, database: str) -> None:
    """Semantics on each engine, in each kind of database: the same states, the same XComs."""
    session.install("-e", ".[dev]")
    env = {"LITEFLOW_TEST_ENGINE": engine, "LITEFLOW_TEST_DATABASE": database, "LITEFLOW_NEEDS_POSTGRES": "1"}
    session.run("python", "-m", "pytest", "-n", "auto", *SEMANTICS, *session.posargs, env=env)


@nox.session(python="3.11")
def bench(session: nox.Session) -> None:
    """Speed, memory and disk against a bare loop over a process pool; see tests/benchmarks/README.md. Some minutes."""
    session.install(".", "numpy>=1.26")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session(python="3.11")
def examples(session: nox.Session) -> None:
    """Each example, as a user starts it, in a directory of its own."""
    session.install(".")
    here = Path("examples").absolute()
    for path in sorted(path for path in here.glob("*.py") if path.name not in WEB):
        with tempfile.TemporaryDirectory() as directory, session.chdir(directory):
            session.run("python", str(path))


@nox.session(python="3.11")
def conformance(session: nox.Session) -> None:
    """Airflow's example dags with liteflow, and liteflow's with Airflow; `-- --oracle` makes the table anew."""
    airflow = Path(session.create_tmp()).absolute() / "airflow"
    python = str(airflow / "bin" / "python")
    if not Path(python).exists():
        session.run("python", "-m", "venv", str(airflow))
    wanted = ("apache-airflow-core==3.3.2", "apache-airflow-providers-standard==1.21.0")
    session.run(python, "-m", "pip", "install", "--quiet", *wanted, external=True)
    if "--oracle" in session.posargs:
        session.run(python, "tests/conformance/oracle.py", external=True)
    session.install(".[airflow]")
    posargs = [one for one in session.posargs if one != "--oracle"]
    session.run("python", "-m", "tests.conformance.compare", python, *posargs)
    session.run("python", "-m", "tests.conformance.deploy", python)


@nox.session(python="3.11")
def wheel(session: nox.Session) -> None:
    """The wheel, alone, in an empty environment and an empty directory: scaffold, run, visualize, upgrade."""
    built = Path(session.create_tmp()).absolute() / "dist"
    shutil.rmtree(built, ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(built), ".")
    session.install(str(next(built.glob("*.whl"))))
    with tempfile.TemporaryDirectory() as directory, session.chdir(directory):
        text = session.run("python", "-m", "liteflow", "scaffold", silent=True)
        Path("my_workflow.py").write_text(str(text))
        session.run("python", "my_workflow.py")
        drawn = session.run("python", "-m", "liteflow", "visualize", "my_workflow", silent=True)
        if "flowchart LR" not in str(drawn):
            session.error(f"no flowchart: {drawn}")
        session.run("python", "-m", "liteflow", "db", "upgrade", "--db", "another.db")
        session.run("python", "-m", "liteflow", "db", "check", "--db", "another.db")


@nox.session(python="3.11")
def mermaid(session: nox.Session) -> None:
    """Has Mermaid itself parse what `visualize` and the README's state diagram say. Needs npm."""
    session.install(".")
    directory = Path(session.create_tmp()).absolute()
    check = Path("tests/mermaid/parse.mjs").absolute()
    make = Path("tests/mermaid/make.py").absolute()
    with session.chdir(directory):
        session.run("npm", "install", "--silent", "--no-fund", "--no-audit", "mermaid@11", "jsdom@26", external=True)
        session.run("python", str(make), str(directory / "drawn"))
        shutil.copy(check, directory / "parse.mjs")
        session.run("node", "parse.mjs", str(directory / "drawn"), external=True)
