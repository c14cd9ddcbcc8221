"""Two hundred naughty strings at every entry point: shown with what would steer spelled out, or refused in a line."""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from liteflow import Dag, LiteflowError, Param, TaskGroup, task
from liteflow.authoring.ids import check_run_id, did_you_mean, shown
from liteflow.authoring.params import resolve_params
from liteflow.cli import cli
from liteflow.errors import DagError
from liteflow.execution.progress import printable
from liteflow.states import TaskInstanceState
from liteflow.storage.schema import open_database
from liteflow.visualize import Node, Picture, flowchart
from liteflow.visualize.mermaid import escape
from tests.conftest import ROOT, Script, liteflow
from tests.faults.naughty import NAUGHTY, STEERING
from tests.faults.populated import populate

PLAIN_ID = re.compile(r"[A-Za-z0-9_.\-]{1,250}", re.ASCII)
PLAIN_RUN_ID = re.compile(r"[A-Za-z0-9_.~:+\-]{1,250}", re.ASCII)


def test_there_are_two_hundred_of_them() -> None:
    assert len(set(NAUGHTY)) == len(NAUGHTY) == 200


# Names in code


def make_dag(text: str) -> None:
    Dag(text)


def make_task(text: str) -> None:
    with Dag("d"):
        task(task_id=text)(lambda: None)()


def make_group(text: str) -> None:
    with Dag("d"), TaskGroup(text):
        pass


@pytest.mark.parametrize("make", [make_dag, make_task, make_group])
def test_ids_are_plain_or_refused_in_one_line(make: Callable[[str], None]) -> None:
    for text in NAUGHTY:
        if PLAIN_ID.fullmatch(text):
            make(text)
            continue
        with pytest.raises(DagError) as caught:
            make(text)
        assert_one_safe_line(str(caught.value))


def test_run_ids_are_plain_or_refused_in_one_line() -> None:
    for text in NAUGHTY:
        if PLAIN_RUN_ID.fullmatch(text):
            assert check_run_id(text) == text
            continue
        with pytest.raises(DagError) as caught:
            check_run_id(text)
        assert_one_safe_line(str(caught.value))


def test_params_are_kept_as_they_are_or_refused_in_one_line() -> None:
    declared = {text: Param(text, type="string") for text in NAUGHTY if text}
    dag = Dag("d", params=declared)
    assert dag.params == {text: text for text in declared}
    for text in NAUGHTY:
        with pytest.raises(LiteflowError) as unknown:
            resolve_params({"known": Param(1, type="integer")}, {text: 1}, "dag 'd'")
        with pytest.raises(LiteflowError) as wrong:
            resolve_params({"known": Param(1, type="integer")}, {"known": text}, "dag 'd'")
        assert_one_safe_line(str(wrong.value))
        assert not STEERING.search(str(unknown.value))


def assert_one_safe_line(text: str) -> None:
    assert "\n" not in text
    assert not STEERING.search(text), ascii(text)
    assert len(text) < 1000


def test_an_error_quotes_what_has_no_words() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError

    assert shown(Silent()) == "<Silent>"
    assert shown(10**5000) == "<int>"
    assert len(shown("x" * 10_000)) == 80
    assert did_you_mean("a" * 100_000, ["a" * 100_000]) == ""
    assert did_you_mean("etl", ["elt", "e" * 100_000]) == " (did you mean 'elt'?)"


# Text for a terminal


def test_nothing_that_steers_is_printable() -> None:
    for text in [*NAUGHTY, *map(chr, range(0x3000))]:
        safe = printable(text)
        assert "\n" not in safe
        assert not STEERING.search(safe), ascii(safe)
        assert safe.encode("utf-8").decode() == safe


def test_no_command_prints_past_the_one_place() -> None:
    """`echo` and `echo_lines` of `common` spell out; whoever calls click's own may forget to."""
    directory = ROOT / "liteflow" / "cli"
    paths = set(directory.glob("*.py")) - {directory / "common.py"}
    assert len(paths) > 5
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("click.echo", "click.secho", "print", "sys.stdout.write"), f"{path}:{node.lineno}"


# Arguments of the command line


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a database that holds a run, on connections that stay open: thousands of commands come."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    database = open_database(populate(tmp_path / "liteflow.db"))
    for module in ("history", "schema"):
        monkeypatch.setattr(f"liteflow.storage.{module}.open_database", lambda *_args, **_options: database)
    yield tmp_path
    database.close()


ARGUMENTS: dict[str, Callable[[str], list[str]]] = {
    "RUN": lambda text: ["show", "--", text],
    "DAG_ID": lambda text: ["runs", "--", text],
    "TASK": lambda text: ["logs", "etl/r1", "--", text],
    "KEY": lambda text: ["xcom", "etl/r1", "extract", "--", text],
    "state": lambda text: ["runs", f"--state={text}"],
    "since": lambda text: ["runs", f"--since={text}"],
    "older than": lambda text: ["prune", "--dry-run", f"--older-than={text}"],
    "dag to prune": lambda text: ["prune", "--dry-run", f"--dag={text}"],
    "pool": lambda text: ["pools", "set", "--", text, "1"],
    "slots": lambda text: ["pools", "set", "--", "p", text],
    "description": lambda text: ["pools", "set", f"--description={text}", "p", "1"],
    "scaffold's id": lambda text: ["scaffold", f"--dag-id={text}"],
    "scaffold's file": lambda text: ["scaffold", f"-oout/{text}"],
    "command": lambda text: [text],
    "option": lambda text: [f"--{text}"],
    "file": lambda text: ["run", "--", text],
}


@pytest.mark.parametrize("entry", list(ARGUMENTS))
def test_arguments_are_taken_or_refused_in_one_line(project: Path, entry: str) -> None:
    runner = CliRunner()
    for text in NAUGHTY:
        args = ARGUMENTS[entry](text)
        result = runner.invoke(cli, args)
        assert result.exception is None or isinstance(result.exception, SystemExit), (args, result.exception)
        assert not STEERING.search(result.output), (args, result.output)
        assert result.exit_code in (0, 2), (args, result.output)
        if result.exit_code and "Error: " in result.stderr:
            told = result.stderr[result.stderr.index("Error: ") :].splitlines()
            assert len(told) == 1, told
    assert not (project / "owned").exists()
    if entry in ("pool", "description"):
        listed = runner.invoke(cli, ["pools", "list"]).output
        assert not STEERING.search(listed)
        rows = listed.splitlines()
        assert len(rows) == 1 + len(json.loads(runner.invoke(cli, ["pools", "list", "--json"]).output))


@pytest.mark.parametrize("option", ["--run-id", "--param", "--param=known", "--logical-date", "--workers"])
def test_options_of_a_run_are_refused_in_one_line(project: Path, option: str) -> None:
    """No text is an object, a date or a number of workers."""
    (project / "etl.py").write_text(
        "from liteflow import Dag, Param, task\n@task\ndef load():\n    return 1\n"
        "with Dag('etl', params={'known': Param(1, type='object')}) as dag:\n    load()\n"
    )
    runner = CliRunner()
    refusable = [text for text in NAUGHTY if not PLAIN_RUN_ID.fullmatch(text) and not text.startswith("{")]
    for text in refusable:
        result = runner.invoke(cli, ["run", "etl.py", f"{option}={text}"])
        assert isinstance(result.exception, SystemExit), (text, result.exception)
        assert result.exit_code == 2, (text, result.output)
        assert not STEERING.search(result.output), result.output


def test_a_traceback_that_was_asked_for_steers_nothing(tmp_path: Path) -> None:
    done = liteflow("--debug", "run", "\x1b]0;owned\x07\u202e.py", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert not STEERING.search(done.stderr)


# What a task writes


SCRIPT = """
import json
import logging
from pathlib import Path

from liteflow import Dag, get_current_context, task

TEXTS = json.loads(Path("texts.json").read_text())
NAMES = [text for text in TEXTS if text and not any("\\ud800" <= one <= "\\udfff" for one in text)]

@task
def say():
    ti = get_current_context()["ti"]
    for number, text in enumerate(TEXTS):
        print(f"<{number}>" + text)
        logging.getLogger("naughty").warning("%s", text)
        try:
            ti.xcom_push(key=text, value=text)
        except Exception as error:
            print(f"refused: {error}")

@task
def numbers():
    return list(range(len(TEXTS)))

@task(map_index_template="{{ label }}")
def fail(number):
    get_current_context()["label"] = TEXTS[number]
    raise ValueError(TEXTS[number])

with Dag("naughty", description="\\x1b]0;owned\\x07 of\\nlines", tags=[text for text in TEXTS if text],
         params=dict.fromkeys(NAMES, "")) as dag:
    say()
    fail.expand(number=numbers())

if __name__ == "__main__":
    dag.run({text: text for text in NAMES}, run_id="r1")
"""


@pytest.fixture
def written(script: Callable[..., Script], tmp_path: Path) -> Path:
    """A directory with the database of a run whose logs, values, labels and errors are naughty."""
    (tmp_path / "texts.json").write_text(json.dumps(NAUGHTY))
    done = script(SCRIPT).run()
    assert done.returncode == 0, done.stderr
    assert "run r1 failed" in done.stderr
    assert "[say] <12>\\x1b[35;7mcoloured\\x1b[0m" in done.stderr
    assert not STEERING.search(done.stderr), "the progress of the run"
    return tmp_path


LOOKS = [
    ["dags"],
    ["runs"],
    ["show", "naughty"],
    ["show", "naughty", "--all"],
    ["logs", "naughty"],
    ["xcom", "naughty", "say"],
    ["visualize", "naughty"],
]


def test_what_tasks_wrote_is_shown_and_steers_nothing(written: Path) -> None:
    runner = CliRunner()
    db = f"--db={written / 'liteflow.db'}"
    rows = {}
    for command in LOOKS:
        for flags in ([], ["--json"]):
            if command[0] == "visualize" and flags:
                continue
            result = runner.invoke(cli, [*command, *flags, db])
            assert (result.exit_code, result.exception) == (0, None), (command, result.output)
            assert not STEERING.search(result.output), command
            rows[" ".join([*command, *flags])] = len(result.stdout.splitlines())
    assert rows["dags"] == rows["runs"] == 2
    assert rows["show naughty --all"] == 5 + 2 + len(NAUGHTY)
    entries = json.loads(runner.invoke(cli, ["logs", "naughty", "--json", db]).stdout)
    assert rows["logs naughty"] == len(entries), "a line for each, and none that a text made"
    logged = [one["message"] for one in entries if one["logger"] == "naughty"]
    assert len(logged) >= len(NAUGHTY)
    stored = json.loads(runner.invoke(cli, ["xcom", "naughty", "say", "--json", db]).stdout)
    assert rows["xcom naughty say"] == 1 + len(stored)
    assert {one["value"] for one in stored if one["encoding"] == "json"} >= {"\x1b[2J\x1b[H cleared", "%", "-->"}
    on_a_terminal(written)


OURS = re.compile(r"\x1b\[(?:[0-9]|3[0-6]|9[0-7])(?:;(?:[0-9]|3[0-6]|9[0-7]))?m")
"""The colours of the tables; the naughty ones begin with `35;7`."""


def on_a_terminal(directory: Path) -> None:
    """The same on a pseudo-terminal, where tables have colours: nothing but these comes out."""
    code = (
        "import sys\nfrom liteflow.cli import main\n"
        f"for command in {LOOKS!r}:\n"
        "    sys.argv = ['liteflow', *command]\n"
        "    try:\n        main()\n    except SystemExit as end:\n        assert not end.code, command\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "200"}
    environment.pop("NO_COLOR", None)
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=directory, env=environment, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    output = b"".join(iter(lambda: read_of(leader), b"")).decode("utf-8")
    os.close(leader)
    assert process.wait(30) == 0, output[-2000:]
    assert "\x1b[35;7m" not in output
    left = OURS.sub("", output).replace("\r\n", "\n")
    assert "\\x1b[35;7mcoloured" in left
    found = STEERING.search(left)
    assert not found, ascii(left[found.start() - 40 : found.end() + 40])


def read_of(leader: int) -> bytes:
    try:
        return os.read(leader, 65_536)
    except OSError:  # how Linux says that nobody holds the other end any more
        return b""


# Mermaid

_WORDS = r"[A-Za-z0-9 _.,/+=#;-]+"
_LABEL = rf'\["{_WORDS}(?:<br/>{_WORDS})?"\]'
LINE = re.compile(
    rf"%% [A-Za-z0-9 _.,/+=:~?-]*|flowchart LR| +t\d+{_LABEL}| +subgraph g\d+{_LABEL}| +end"
    rf'|    t\d+ -->(?:\|"{_WORDS}"\|)? t\d+|    classDef \w+ fill:#\w{{6}},stroke:#\w{{6}},color:#\w{{6}}'
    r"|    class [t\d,]+ \w+"
)


def test_no_text_breaks_out_of_a_mermaid_label() -> None:
    for text in NAUGHTY:
        nodes = [
            Node(text, {TaskInstanceState.FAILED: 1}, [text], note=text),
            Node("b", {TaskInstanceState.SUCCESS: 1}, [text]),
        ]
        labels = {("b", "b"): text, (text, "b"): text}
        for line in flowchart(Picture(text, text, text, nodes, labels=labels)).removesuffix("\n").split("\n"):
            assert LINE.fullmatch(line), line
        drawn = re.sub(r"#(\d+);", lambda match: chr(int(match[1])), escape(text))
        assert not STEERING.search(drawn.replace("\n", "")), ascii(drawn)


# Pools of a dag's tasks


def test_names_of_pools_are_plain_or_refused() -> None:
    for text in NAUGHTY:
        if PLAIN_ID.fullmatch(text):
            continue
        with Dag("d"), pytest.raises(LiteflowError) as caught:
            task(pool=text)(lambda: None)()
        assert_one_safe_line(str(caught.value))
