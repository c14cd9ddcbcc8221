"""`liteflow visualize` in all of its formats, of runs and of dags from their files."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import event

from liteflow.cli import cli, drawing
from liteflow.cli import visualize as visualize_module
from liteflow.storage.history import open_history
from liteflow.storage.summaries import timed_tries
from tests.conftest import command, liteflow

FLOW = """
import time

from liteflow import Dag, Label, SkipTask, TaskGroup, task

print("this file was loaded")


@task
def extract():
    return [1, 2, 3]


@task(retries=1, retry_delay=0)
def flaky(ti=None):
    if ti.try_number == 1:
        raise ValueError("not yet")


@task
def add_one(x):
    if x == 2:
        raise SkipTask("no twos")
    return x + 1


@task(trigger_rule="none_failed")
def boom():
    raise ValueError("boom")


@task
def after():
    pass


with Dag("etl", db_path="etl.db") as dag:
    numbers = extract()
    with TaskGroup("load"):
        added = add_one.expand(x=numbers)
        broken, end = boom(), after()
        added >> broken
        broken >> Label("if well") >> end
    numbers >> flaky() >> broken

with Dag("other") as other:
    after()
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a dag file, and the database of two runs of it."""
    here = tmp_path_factory.mktemp("visualize")
    (here / "flow.py").write_text(FLOW)
    for run_id in ("first", "second"):
        done = liteflow("run", "flow.py:etl", "--run-id", run_id, "--workers", "2", "-q", cwd=here)
        assert done.returncode == 1, done.stderr
    return here


@pytest.fixture
def here(ran: Path, tmp_path: Path) -> Path:
    """The same for one test."""
    for path in ran.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _path_as_before() -> object:
    """Loading a dag file puts its directory in front of `sys.path`."""
    before = list(sys.path)
    yield
    sys.path[:] = before


def drawn(*args: str, cwd: Path) -> str:
    for name in [name for name in sys.modules if name.startswith("liteflow_dagfile_")]:
        del sys.modules[name]  # a file is loaded once in a process, and these tests are one
    done = command("visualize", *args, cwd=cwd)
    assert (done.returncode, done.stderr.replace("this file was loaded\n", "")) == (0, "")
    return done.stdout


def test_mermaid_is_what_is_drawn_unless_something_else_is_asked_for(here: Path) -> None:
    plain = drawn("etl", "--db", "etl.db", cwd=here)
    assert plain == drawn("etl", "--db", "etl.db", "--format", "mermaid", cwd=here)
    assert plain.startswith("%% etl, run second, failed\nflowchart LR\n")
    assert re.search(r'^        t\d\["load.add_one #91;3#93;<br/>2 success, 1 skipped"\]$', plain, re.MULTILINE)
    assert '    subgraph g0["load"]\n' in plain
    assert "flowchart TD" in drawn("etl", "--db", "etl.db", "--direction", "TD", cwd=here)


def test_dot(here: Path) -> None:
    text = drawn("first", "--db", "etl.db", "--format", "dot", "--direction", "TD", cwd=here)
    assert text.startswith('digraph "etl" {\n    graph [label="etl, run first, failed", labelloc=t, rankdir=TB')
    assert 'label="load.add_one [3]\\n2 success, 1 skipped"' in text


def test_text_with_groups_as_rows_and_with_all_tasks(here: Path) -> None:
    title, *rows = drawn("etl", "--db", "etl.db", "--format", "text", cwd=here).splitlines()
    assert title == "etl, run second, failed"
    assert [re.sub(r"\d+\.\d\d s$", "T", row) for row in rows] == [
        "●   extract         success T",
        "├─● flaky           success T",
        "●─╯ load (3 tasks)  2 success, 1 failed, 1 upstream_failed, 1 skipped",
    ]
    assert "load.boom " in drawn("etl", "--db", "etl.db", "--format", "text", "--all", cwd=here)


def test_timeline_has_tries_slots_and_the_critical_path(here: Path) -> None:
    text = drawn("etl", "--db", "etl.db", "--format", "timeline", cwd=here)
    lines = text.splitlines()
    assert lines[0] == "etl, run second, failed"
    assert re.search(r"^[ *] flaky +│ *[·█]*x.*│ .* 2 tries$", text, re.MULTILINE)
    assert re.search(r"^\* load\.boom +│.*x.*│ .* failed$", text, re.MULTILINE)
    assert re.search(r"^  load\.after +│ +│ upstream_failed$", text, re.MULTILINE)
    assert {"slot 1", "slot 2"} >= {line[2:8] for line in lines if line.startswith("  slot ")} >= {"slot 1"}
    assert re.search(r"^  extract → (flaky|load\.add_one\[\d\]) → load\.boom$", text, re.MULTILINE)
    assert max(map(len, lines)) <= 100


def test_gantt(here: Path) -> None:
    text = drawn("etl", "--db", "etl.db", "--format", "gantt", cwd=here)
    assert text.startswith("%% etl, run second, failed\ngantt\n")
    assert re.search(r"^    flaky try 1 failed :(crit, )?\d+, \d+$", text, re.MULTILINE)
    assert re.search(r"^    load.boom failed :crit, \d+, \d+$", text, re.MULTILINE)
    assert re.search(r"^    extract :crit, done, \d+, \d+$", text, re.MULTILINE)


@pytest.mark.parametrize("run", ["first", "fir", "etl/first", "latest"])
def test_a_run_of_the_dag_is_named_with_run(run: str, here: Path) -> None:
    text = drawn("etl", "--db", "etl.db", "--run", run, cwd=here)
    assert text.startswith(f"%% etl, run {'second' if run == 'latest' else 'first'}, failed\n")


def test_a_dag_is_drawn_from_its_file(here: Path) -> None:
    text = drawn("flow.py:etl", "--format", "text", "--all", cwd=here)
    assert [line.split()[-1] for line in text.splitlines() if "load.after" in line] == ["well"]
    assert "load.add_one []" in text
    assert "success" not in text
    mermaid = drawn("flow.py:etl", cwd=here)
    assert mermaid.startswith("%% etl\nflowchart LR\n")
    assert '-->|"if well"|' in mermaid
    assert '[label="if well"]' in drawn("flow.py:etl", "--format", "dot", cwd=here)


def test_a_run_named_with_the_file_of_its_dag_has_states_and_labels(here: Path) -> None:
    text = drawn("flow.py:etl", "--run", "first", cwd=here)
    assert text.startswith("%% etl, run first, failed\n")
    assert '-->|"if well"|' in text
    assert text == drawn("flow.py:etl", "--db", "etl.db", "--run", "etl/first", cwd=here)
    assert drawn("flow.py:etl", "--run", "etl", cwd=here).startswith("%% etl, run second, "), "a dag id, as elsewhere"


def test_what_a_file_prints_is_not_what_the_command_prints(here: Path) -> None:
    done = command("visualize", "flow.py:other", cwd=here)
    assert "this file was loaded" in done.stderr
    assert "loaded" not in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["elt"], 2, "no run or dag 'elt' (did you mean 'etl'?)"),
        (["elt", "--run", "first"], 2, "no dag 'elt' has run here (did you mean 'etl'?)"),
        (["etl", "--run", "frist"], 2, "dag 'etl' has no run 'frist' (did you mean 'first'?). See: liteflow runs etl"),
        (["etl", "--format", "htm"], 2, "Invalid value for '--format'"),
        (["etl", "--open"], 2, "--open goes with --format html"),
        (["flow.py"], 2, "has several dags; name one"),
        (["flow.py:elt"], 2, "no dag 'elt' (did you mean 'etl'?)"),
        (["flow.py:etl", "--format", "timeline"], 2, "timeline draws a run: name one with --run RUN"),
        (["flow.py:etl", "--format", "gantt"], 2, "gantt draws a run"),
        (["flow.py:other", "--run", "latest"], 2, "dag 'other' has no run 'latest'"),
        (["nothing.py"], 2, "nothing.py: no such file"),
        (["nothing.py:etl", "--run", "first"], 2, "nothing.py: no such file"),
        (["nothing.py", "--db", "no.db"], 2, "nothing.py: no such file"),
        (["etl", "--db", "no.db"], 3, "no.db"),
    ],
)
def test_mistakes_are_one_line_and_say_what_would_be_right(args: list[str], code: int, said: str, here: Path) -> None:
    done = command("visualize", *args, cwd=here, LITEFLOW_DB="etl.db")
    assert (done.returncode, done.stdout) == (code, "")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert said in last


def test_a_dag_without_a_run_and_an_empty_database(here: Path) -> None:
    command("db", "upgrade", "--db", "empty.db", cwd=here)
    done = command("visualize", "etl", "--db", "empty.db", cwd=here)
    assert (done.returncode, "no run or dag 'etl'" in done.stderr) == (2, True)
    command("delete", "etl/first", "--yes", "--db", "etl.db", cwd=here)
    command("delete", "etl/second", "--yes", "--db", "etl.db", cwd=here)
    done = command("visualize", "etl", "--db", "etl.db", cwd=here)
    assert (done.returncode, "dag 'etl' has no run yet" in done.stderr) == (2, True)


# Files


def test_output_goes_to_a_file_whole_or_not_at_all(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = command("visualize", "etl", "--db", "etl.db", "-o", "run.mmd", cwd=here)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "wrote run.mmd\n")
    assert (here / "run.mmd").read_text() == drawn("etl", "--db", "etl.db", "-o", "-", cwd=here)
    assert (here / "run.mmd").stat().st_mode & 0o777 == 0o666 & ~current_umask()
    before = sorted(os.listdir(here))

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drawing.os, "replace", broken)
    done = command("visualize", "first", "--db", "etl.db", "-o", "run.mmd", cwd=here)
    assert (done.returncode, done.stderr.splitlines()[-1].endswith("No space left on device")) == (2, True)
    assert "run second" in (here / "run.mmd").read_text()
    assert sorted(os.listdir(here)) == before


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_file_is_replaced_only_if_its_name_ends_as_such_files_do(here: Path) -> None:
    for name, form in [("a.mmd", "mermaid"), ("a.dot", "dot"), ("a.txt", "timeline"), ("a.mermaid", "gantt")]:
        (here / name).write_text("old")
        (here / name).chmod(0o640)
        assert command("visualize", "etl", "--db", "etl.db", "--format", form, "-o", name, cwd=here).returncode == 0
        assert (here / name).read_text() != "old"
        assert (here / name).stat().st_mode & 0o777 == 0o640
    for name, form in [("flow.py", "mermaid"), ("etl.db", "text"), ("a.txt", "dot")]:
        before = (here / name).read_bytes()
        done = command("visualize", "etl", "--db", "etl.db", "--format", form, "-o", name, cwd=here)
        assert (done.returncode, "exists, and is replaced only if its name ends in" in done.stderr) == (2, True)
        assert (here / name).read_bytes() == before
    assert command("visualize", "etl", "--db", "etl.db", "-o", "new.anything", cwd=here).returncode == 0


def test_a_link_stays_and_what_it_names_is_replaced(here: Path) -> None:
    (here / "real.mmd").write_text("old")
    (here / "link.mmd").symlink_to("real.mmd")
    command("visualize", "etl", "--db", "etl.db", "-o", "link.mmd", cwd=here)
    assert (here / "link.mmd").is_symlink()
    assert (here / "real.mmd").read_text().startswith("%% etl")


@pytest.mark.parametrize(
    ("output", "said"), [("no/such/x.mmd", "No such file"), (".", "Is a directory"), ("a\0b.mmd", "null byte")]
)
def test_a_file_that_cannot_be_written_is_one_line(output: str, said: str, here: Path) -> None:
    done = command("visualize", "etl", "--db", "etl.db", "-o", output, cwd=here)
    assert (done.returncode, said in done.stderr.splitlines()[-1]) == (2, True)


# Pages


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The maker of pages, with pages that say what they were asked for."""
    module = ModuleType("liteflow.cli.page")
    module.run_page = lambda run, *, direction: f"<p>run {run.run_id} {direction} \u200b</p>"  # type: ignore[attr-defined]
    module.dag_page = lambda dag, *, direction: f"<p>dag {dag.dag_id} {direction}</p>"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liteflow.cli.page", module)
    return module


@pytest.mark.usefixtures("pages")
def test_a_page_goes_to_stdout_as_it_is_and_to_a_file(here: Path) -> None:
    html = ("--db", "etl.db", "--format", "html")
    assert drawn("etl", *html, cwd=here) == "<p>run second LR \u200b</p>"
    assert drawn("flow.py:etl", *html, "--direction", "TD", cwd=here) == "<p>dag etl TD</p>"
    command("visualize", "etl", *html, "-o", "x.html", cwd=here)
    assert (here / "x.html").read_text(encoding="utf-8") == "<p>run second LR \u200b</p>"


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("works", [True, False])
def test_open_shows_the_file_that_was_written(works: bool, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or works)
    monkeypatch.setenv("TMPDIR", str(here))
    monkeypatch.setattr(visualize_module.tempfile, "tempdir", None)
    html = ("visualize", "etl", "--db", "etl.db", "--format", "html", "--open")
    done = command(*html, "-o", "x.html", cwd=here)
    assert (done.returncode, opened) == (0, [(here / "x.html").as_uri()])
    assert ("no browser was found; open x.html in one" in done.stderr) is not works
    done = command(*html, cwd=here)
    assert re.fullmatch(r"wrote (.*/liteflow-\w+/liteflow\.html)\n.*", done.stderr, re.DOTALL)
    assert opened[1].startswith(f"{here.as_uri()}/liteflow-")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.usefixtures("pages")
def test_a_page_is_not_thrown_at_a_terminal(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visualize_module, "is_terminal", lambda: True)
    for more in ([], ["-o", "-"]):
        done = command("visualize", "etl", "--db", "etl.db", "--format", "html", *more, cwd=here)
        assert (done.returncode, done.stdout) == (2, "")
        assert "name a file with -o FILE, or show it with --open" in done.stderr


# Terminals


@pytest.mark.parametrize("form", ["text", "timeline"])
def test_states_are_coloured_on_a_terminal_and_fit_it(form: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "is_terminal", lambda: True)
    args = ("visualize", "etl", "--db", "etl.db", "--format", form)
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "60"}
    colour = command(*args, cwd=here, **terminal)
    assert "\x1b[31m" in colour.stdout
    without = command(*args, cwd=here, NO_COLOR="1", **terminal)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", without.stdout)
    piped = command(*args, cwd=here, COLUMNS="60")
    bare = re.sub(r"\x1b\[[0-9;]*m", "", colour.stdout)
    assert max(map(len, bare.splitlines())) <= 60
    monkeypatch.setattr(drawing, "is_terminal", lambda: False)
    assert "\x1b" not in command(*args, cwd=here, **terminal).stdout
    assert "\x1b" not in command(*args, "-o", "x.txt", cwd=here, **terminal).stdout + (here / "x.txt").read_text()
    assert piped.returncode == 0


def test_a_terminal_without_such_characters_gets_plain_ones(here: Path) -> None:
    for form in ("text", "timeline"):
        with Chdir(here):
            result = CliRunner(charset="ascii").invoke(cli, ["visualize", "etl", "--db", "etl.db", "--format", form])
        assert result.exit_code == 0
        assert result.stdout.isascii()
        assert "\\u" not in result.stdout


class Chdir:
    def __init__(self, path: Path) -> None:
        self.path, self.before = path, os.getcwd()

    def __enter__(self) -> None:
        os.chdir(self.path)

    def __exit__(self, *_: object) -> None:
        os.chdir(self.before)


def test_help_has_formats_and_examples() -> None:
    text = command("visualize", "--help", cwd=Path()).stdout
    assert "liteflow visualize etl --run nightly-2026-01-02 --format timeline" in text
    assert "[mermaid|dot|text|timeline|gantt|html]" in text
    assert "is replaced only if its name ends" in " ".join(text.split())


# Notebooks, and what is read


def test_a_notebook_shows_a_run_as_it_is_now(here: Path) -> None:
    run = open_history(here / "etl.db").find_run("first")
    bundle = run._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/vnd.mermaid"}
    assert bundle["text/plain"].splitlines()[0] == "etl, run first, failed, 5 tasks"
    assert bundle["text/vnd.mermaid"].startswith("%% etl, run first, failed\n")
    run.history.delete_run(run.pk)
    assert run._repr_mimebundle_() == {"text/plain": repr(run)}


def test_tries_are_read_as_numbers_with_those_that_were_followed_by_others(here: Path) -> None:
    run = open_history(here / "etl.db").find_run("first")
    with run.history.read() as connection:
        tries = timed_tries(connection, run.pk)
    flaky = sorted(one.try_number for one in tries if one.task_id == "flaky")
    assert flaky == [1, 2]
    assert {one.is_latest for one in tries if (one.task_id, one.try_number) == ("flaky", 1)} == {False}
    assert all(one.started_us is None for one in tries if one.task_id == "load.after")
    assert all(type(one.started_us) is int for one in tries if one.task_id != "load.after")
    assert {one.slot for one in tries if one.started_us is not None} <= {1, 2}


def test_tries_are_found_by_indexes_alone(here: Path) -> None:
    run = open_history(here / "etl.db").find_run("first")
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    with run.history.read() as connection:
        event.listen(connection, "before_cursor_execute", note)
        timed_tries(connection, run.pk)
        event.remove(connection, "before_cursor_execute", note)
        plans = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {one}", values).fetchall() for one, values in asked]
    steps = [str(row[3]) for plan in plans for row in plan]
    assert len(steps) == 3
    assert all(step.startswith("SEARCH ") for step in steps), steps


@pytest.mark.parametrize("value", [2**62, -(2**62), "'soon'", "x'00'"])
@pytest.mark.parametrize("form", ["timeline", "gantt"])
def test_times_that_no_liteflow_writes_are_one_line(value: object, form: str, here: Path) -> None:
    with sqlite3.connect(here / "etl.db") as connection:
        connection.execute(f"UPDATE liteflow_task_instance SET started_at = {value} WHERE task_id = 'extract'")
    connection.close()
    done = command("visualize", "etl", "--db", "etl.db", "--format", form, cwd=here)
    assert done.returncode == 3
    assert "something that no liteflow writes" in done.stderr or "it is damaged" in done.stderr
