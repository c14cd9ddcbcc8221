"""Completion in a shell: what is offered, what never is, and that bash itself gets on with it."""

from __future__ import annotations

import os
import pty
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from liteflow.cli import COMPLETE, cli
from liteflow.cli.completion import INSTALL, answer
from liteflow.storage import completion
from liteflow.storage.schema import open_database
from tests.conftest import ROOT, command, wait_until

RUNS = [
    "manual__2026-01-01T00:00:00.000000+00:00_aaaaaa",
    "manual__2026-01-02T00:00:00.000000+00:00_bbbbbb",
    "nightly~1",
]
NOW = 1_767_225_600_000_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the dags `etl` and `export`, three runs of the first, tasks, and two pools."""
    path = tmp_path_factory.mktemp("made") / "liteflow.db"
    open_database(path, create=True).close()
    with sqlite3.connect(path) as connection:
        for pk, dag_id in enumerate(["etl", "export"], start=1):
            add_dag(connection, pk, dag_id)
        for pk, run_id in enumerate(RUNS, start=1):
            add_run(connection, pk, 1, run_id)
            for task_id in ["extract", "load", f"only_{pk}"]:
                add_task(connection, pk, task_id)
            for index in range(50):
                add_task(connection, pk, "mapped", index)
        connection.execute("INSERT INTO liteflow_pool (name, slots) VALUES ('gpu', 1), ('warehouse', 2)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


def add_dag(connection: sqlite3.Connection, pk: int, dag_id: str) -> None:
    sql = "INSERT INTO liteflow_dag (id, dag_id, tags, params, structure_digest, created_at, updated_at)"
    connection.execute(f"{sql} VALUES (?, ?, '[]', '{{}}', 'd', 1, 1)", (pk, dag_id))


def add_run(connection: sqlite3.Connection, pk: int, dag_pk: int, run_id: str) -> None:
    sql = "INSERT INTO liteflow_dag_run (id, dag_pk, run_id, state, logical_date, params, structure_digest, created_at)"
    connection.execute(
        f"{sql} VALUES (?, ?, ?, 'success', ?, '{{}}', 'd', ?)", (pk, dag_pk, run_id, NOW + pk, NOW + pk)
    )


def add_task(connection: sqlite3.Connection, run_pk: int, task_id: str, map_index: int = -1) -> None:
    sql = "INSERT INTO liteflow_task_instance (run_pk, task_id, map_index, upstream, trigger_rule, state, generation, "
    connection.execute(
        f"{sql}try_number, crashes) VALUES (?, ?, ?, '[]', 'all_success', 'success', 0, 1, 0)",
        (run_pk, task_id, map_index),
    )


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a copy of it."""
    shutil.copy(made, tmp_path / "liteflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


Offer = Callable[..., list[str]]


@pytest.fixture
def offered(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offer:
    """What bash is offered at the end of a line, each with its kind."""

    def ask(line: str, current: str = "") -> list[str]:
        monkeypatch.setenv(COMPLETE, "bash_complete")
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_CURRENT", current)
        monkeypatch.setenv("COMP_WORDBREAKS", " \t\n\"'><=;|&(:")
        with pytest.raises(SystemExit) as ended:
            answer(cli)
        shown = capsys.readouterr()
        assert (ended.value.code, shown.err) == (0, "")
        return [entry for entry in shown.out.split("\n") if entry]

    return ask


def plain(*values: str) -> list[str]:
    return [f"plain,{value}" for value in values]


# What is offered


def test_ids_of_dags_and_runs(offered: Offer) -> None:
    assert offered("liteflow show ") == plain("etl", "export")
    assert offered("liteflow show ex") == plain("export")
    assert offered("liteflow show n") == plain("nightly~1")
    assert offered("liteflow show etl/") == plain("etl/nightly~1", f"etl/{RUNS[1]}", f"etl/{RUNS[0]}")
    assert offered("liteflow show etl/n") == plain("etl/nightly~1")
    assert offered("liteflow show export/") == offered("liteflow show nothing/") == []
    assert offered("liteflow runs e") == plain("etl", "export")
    assert offered("liteflow runs n") == [], "that one takes dag ids only"
    assert offered("liteflow run flow.py --resume la") == plain("latest")
    assert offered("liteflow run flow.py --resume e") == plain("etl", "export")


def test_runs_to_go_on_with_are_those_of_the_dag_on_the_line(offered: Offer, here: Path) -> None:
    with sqlite3.connect(here / "liteflow.db") as connection:
        add_run(connection, 9, 2, "nights")
        connection.execute("UPDATE liteflow_dag SET file = ? WHERE dag_id = 'etl'", (str(here / "flow.py"),))
    connection.close()
    assert offered("liteflow run flow.py --resume e") == plain("etl")
    assert (
        offered("liteflow run flow.py --resume n") == offered("liteflow plan flow.py --resume n") == plain("nightly~1")
    )
    assert offered("liteflow rerun flow.py:export --from n") == plain("nights")
    assert offered("liteflow visualize etl --run n") == plain("nightly~1")
    assert offered("liteflow run flow.py --resume export/n") == []
    assert offered("liteflow run other.py --resume n") == plain("nights", "nightly~1"), "whose dags are not known"


def test_bash_is_told_only_what_stands_behind_the_last_colon(offered: Offer) -> None:
    assert offered("liteflow show etl/manual__2026-01-01T00:00:0", "0") == plain("00.000000+00:00_aaaaaa")
    assert offered("liteflow show etl/manual__2026-01-01T00:", ":") == plain("00:00.000000+00:00_aaaaaa")
    quoted = "'etl/manual__2026-01-01T00:"
    assert offered(f"liteflow show {quoted}", quoted) == plain(f"etl/{RUNS[0]}"), "in quotes it takes nothing apart"


def test_ids_of_tasks_are_those_of_the_run_on_the_line(offered: Offer) -> None:
    assert offered("liteflow logs nightly~1 ") == plain("extract", "load", "mapped", "only_3")
    assert offered("liteflow logs etl o") == plain("only_3"), "the latest run"
    assert offered(f"liteflow logs etl/{RUNS[0]} o") == plain("only_1")
    assert offered("liteflow xcom manual__2026-01-02 o") == plain("only_2")
    assert offered("liteflow cancel nothing ") == []


def test_states_pools_options_and_files(offered: Offer) -> None:
    assert offered("liteflow runs --state ") == plain("queued", "running", "interrupted", "success", "failed")
    assert offered("liteflow pools delete ") == plain("gpu", "warehouse")
    assert offered("liteflow logs --l") == plain("--level")
    assert offered("liteflow wa") == plain("watch")
    assert offered("liteflow run f") == ["file,f"]
    assert offered("liteflow runs --db f") == ["file,f"]
    assert offered("liteflow completion z") == plain("zsh")


def test_the_database_is_the_one_on_the_line(offered: Offer, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "liteflow.db").rename(here / "other.db")
    assert offered("liteflow show e") == []
    assert offered("liteflow show --db other.db e") == plain("etl", "export")
    assert offered(f"liteflow logs --db=sqlite:///{here}/other.db etl lo") == plain("load")
    monkeypatch.setenv("HOME", str(here))
    assert offered("liteflow show --db ~/other.db ex") == plain("export")
    monkeypatch.setenv("LITEFLOW_DB", "other.db")
    assert offered("liteflow show ex") == plain("export")


def test_every_argument_that_names_something_is_completed() -> None:
    """An argument called RUN, TASK, DAG_ID, FILE or IDENTIFIER of any command, also of those to come."""

    def walk(group: click.Group) -> Iterator[click.Command]:
        context = click.Context(group)
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            yield from walk(found) if isinstance(found, click.Group) else [found]

    for found in walk(cli):
        for parameter in found.params:
            words = (parameter.metavar or "").strip("[]").split("[")[0] if hasattr(parameter, "metavar") else ""
            if words in ("RUN", "TASK", "DAG_ID", "FILE", "IDENTIFIER"):
                assert parameter._custom_shell_complete is not None, f"{found.name} {words}"


# What is not


NAUGHTY = [
    "$(touch x)",
    "`x`",
    "a b",
    "a\nb",
    "a;b",
    "-rf",
    "~root",
    "a'b",
    'a"b',
    "a*",
    "\x1b[31m",
    "é",
    "",
    "x" * 600,
]


def test_ids_that_mean_something_to_a_shell_are_left_out(offered: Offer, here: Path) -> None:
    with sqlite3.connect(here / "liteflow.db") as connection:
        for pk, text in enumerate(NAUGHTY, start=10):
            add_dag(connection, pk, text)
            add_run(connection, pk, 2, text or "?")
            add_task(connection, 1, text)
        add_run(connection, 99, 2, "a/b")
    connection.close()
    assert offered("liteflow show ") == plain("etl", "export")
    assert offered("liteflow show export/") == plain("export/~root", "export/a/b", "export/-rf")
    assert offered("liteflow show a") == plain("a/b")
    assert offered(f"liteflow logs {RUNS[0]} ") == plain("extract", "load", "mapped", "only_1")


def test_never_more_than_some(offered: Offer, here: Path) -> None:
    with sqlite3.connect(here / "liteflow.db") as connection:
        for pk in range(1000, 1500):
            add_run(connection, pk, 1, f"many{pk}")
            add_task(connection, 1, f"many{pk}")
    connection.close()
    assert len(offered("liteflow show many")) == completion.MOST_CANDIDATES
    assert offered("liteflow show many")[0] == "plain,many1499"
    assert len(offered(f"liteflow logs {RUNS[0]} many")) == completion.MOST_CANDIDATES


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no database at all" * 1000),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: run_sql(path, "DROP TABLE liteflow_dag_run; DROP TABLE liteflow_dag"),
        lambda path: run_sql(path, "DROP TABLE liteflow_dag; CREATE VIEW liteflow_dag AS SELECT 'etl' AS dag_id"),
        lambda path: run_sql(path, "UPDATE liteflow_dag SET dag_id = CAST(x'ff' || id AS TEXT)"),
    ],
    ids=["missing", "empty", "foreign", "directory", "without tables", "view", "no text"],
)
def test_whatever_is_wrong_is_no_candidates_and_not_a_word(
    spoil: Callable[[Path], object], offered: Offer, here: Path
) -> None:
    spoil(here / "liteflow.db")
    for line in ("liteflow show ", "liteflow show etl/", "liteflow logs etl ", "liteflow runs e"):
        assert offered(line) == []


def run_sql(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(sql)
    connection.close()


def test_a_database_that_takes_too_long_is_left_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "PATIENCE_S", 0.0)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n WHERE x < 0"
    assert completion._found(None, lambda connection: iter(connection.execute(endless).fetchone())) == []


def test_lines_that_cannot_be_are_no_error(offered: Offer) -> None:
    for line in (
        "",
        "liteflow",
        "liteflow nonsense ",
        "liteflow show 'etl",
        "liteflow pools set 'a b' ",
        "liteflow \\",
    ):
        offered(line)
    assert offered("liteflow pools set 'a b' 1 --desc") == plain("--description")


def test_looking_leaves_the_database_and_its_directory_as_they_were(offered: Offer, here: Path) -> None:
    before = (here / "liteflow.db").read_bytes()
    assert offered("liteflow show e") == plain("etl", "export")
    assert os.listdir(here) == ["liteflow.db"]
    assert (here / "liteflow.db").read_bytes() == before
    writer = sqlite3.connect(here / "liteflow.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    add_dag(writer, 77, "uncommitted")
    assert offered("liteflow show ") == plain("etl", "export"), "and somebody who writes is no hindrance"
    writer.execute("COMMIT")
    assert offered("liteflow show u") == plain("uncommitted"), "what is in the WAL counts"
    writer.close()


def test_neither_sqlalchemy_nor_rich_is_imported(here: Path) -> None:
    code = (
        "import sys, os\nimport liteflow.cli\n"
        "try:\n    liteflow.cli.main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'sqlalchemy', 'alembic', 'rich', 'cloudpickle'}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), COMPLETE: "bash_complete", "COMP_LINE": "liteflow logs etl "}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*plain("extract", "load", "mapped", "only_3"), "[]"]


# Shells


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed_and_the_help_has_an_example(shell: str, tmp_path: Path) -> None:
    done = command("completion", shell, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_LITEFLOW_COMPLETE={shell}_complete" in done.stdout
    assert "_liteflow_completion" in done.stdout
    assert shell in INSTALL
    assert "Examples:" in command("completion", "--help", cwd=tmp_path).stdout
    assert command("completion", "tcsh", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_ask_in_their_own_way(
    shell: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(COMPLETE, f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", "liteflow show etl/manual__2026-01-01T00:0")
    monkeypatch.setenv("COMP_CWORD", "2" if shell == "zsh" else "etl/manual__2026-01-01T00:0")
    with pytest.raises(SystemExit):
        answer(cli)
    assert f"etl/{RUNS[0]}" in capsys.readouterr().out, "with its colons: these take nothing apart"


def test_bash_completes_at_its_prompt(here: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    (here / "liteflow").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m liteflow "$@"\n')
    (here / "liteflow").chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "COLUMNS"},
        "PATH": f"{here}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TERM": "dumb",
        "PS1": "",
        "INPUTRC": os.devnull,
    }
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [bash, "--norc", "--noprofile", "-i"],
        cwd=here,
        env=environment,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    output = bytearray()

    def read() -> None:
        while True:
            try:
                output.extend(os.read(leader, 65_536))
            except OSError:
                return

    thread = threading.Thread(target=read)
    thread.start()

    def typed(keys: str, expected: str) -> None:
        """Type, and wait until bash has written that."""
        output.clear()
        os.write(leader, keys.encode())
        wait_until(lambda: expected.encode() in output, f"{expected!r} in {bytes(output)!r}")

    try:
        typed('stty cols 200; eval "$(liteflow completion bash)"; echo rea""dy\n', "ready")
        typed("echo liteflow; liteflow show ex\t", "export ")
        typed("\x15liteflow logs etl/manual__2026-01-01T00:\t", "00:00.000000+00:00_aaaaaa ")
        typed("on\t", "only_1 ")
        typed("\x15liteflow runs --db lit\t", "eflow")
        typed("\x15exit\n", "exit")
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        thread.join()
        os.close(leader)
