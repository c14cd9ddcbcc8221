"""Database files from strangers: whatever stands in them, the commands that look say so in a line and run nothing.

A file is refused (exit 3), or a value in it is (exit 2), or it is shown with everything spelled out that would steer a
terminal. Nothing is unpickled or imported, no trigger or view is entered, and no command ends with a traceback.
"""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from liteflow.cli import cli
from tests.faults.naughty import NAUGHTY, STEERING
from tests.faults.populated import NOW, changing, fill, populate

LOOKS: list[list[str]] = [
    ["dags"],
    ["dags", "--json"],
    ["runs"],
    ["runs", "etl", "--json"],
    ["show", "etl"],
    ["show", "etl/r1", "--all", "--json"],
    ["logs", "etl"],
    ["logs", "etl", "--json"],
    ["xcom", "etl", "extract"],
    ["xcom", "etl", "extract", "--json"],
    ["xcom", "etl", "extract", "return_value"],
    ["visualize", "etl"],
    ["pools", "list"],
    ["pools", "list", "--json"],
    ["db", "check"],
    ["db", "current", "--json"],
    ["why", "etl"],
    ["why", "etl/r1", "load", "--json"],
    ["db", "stats"],
    ["db", "stats", "--json"],
    ["prune", "--dry-run", "--keep-runs", "0"],
    ["prune", "--dry-run", "--older-than", "1d", "--json"],
    ["runs", "--state", "interrupted", "--state", "failed", "--since", "9w"],
]

READERS = {
    "liteflow_dag": [0, 1, 3, 18, 19, 20, 21],
    "liteflow_executor": [2, 5, 13, 22],
    "liteflow_dag_run": [1, 3, 4, 5, 16, 18, 19, 20, 21, 22],
    "liteflow_task_instance": [4, 5, 7, 11, 12, 16, 17, 19, 20],
    "liteflow_task_try": [4, 5],
    "liteflow_xcom": [8, 9, 10, 18, 20],
    "liteflow_log_record": [6, 7, 18, 20],
    "liteflow_pool": [12, 13],
}
"""The numbers of the commands that read a table."""


def look(path: Path, command: list[str]) -> Result:
    """Run a command on the file, and see that it ends well or with one line, and steers nothing."""
    result = CliRunner().invoke(cli, [*command, "--db", str(path)])
    assert result.exception is None or isinstance(result.exception, SystemExit), (command, result.exception)
    assert result.exit_code in (0, 2, 3), (command, result.output)
    assert not STEERING.search(result.output), (command, result.output)
    if result.exit_code and command[:2] != ["db", "check"]:
        assert result.stdout == "", (command, result.stdout)
        assert len(errors_of(result)) == 1, (command, result.stderr)
    return result


def errors_of(result: Result) -> list[str]:
    """The lines of stderr without click's usage."""
    return [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage: ", "Try "))]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A database as liteflow makes it."""
    return populate(tmp_path / "good.db")


@pytest.fixture
def loose(good: Path, tmp_path: Path) -> Path:
    """The same without a constraint that a stranger's file would not have."""
    path = tmp_path / "loose.db"
    with changing(good) as source, changing(path) as target:
        for (sql,) in source.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name LIKE 'liteflow%'"):
            lines = [line.replace(" NOT NULL", "") for line in sql.split("\n") if "UNIQUE" not in line]
            target.execute("\n".join(lines).replace(", \n)", "\n)"))
        target.executemany("INSERT INTO liteflow_schema VALUES (?)", source.execute("SELECT * FROM liteflow_schema"))
        fill(target)
    return path


def columns_of(path: Path) -> list[tuple[str, str]]:
    with changing(path) as connection:
        return [
            (table, column)
            for table in READERS
            for (column,) in connection.execute("SELECT name FROM pragma_table_info(?) WHERE pk = 0", (table,))
        ]


def test_a_file_that_liteflow_wrote_is_shown(good: Path, loose: Path) -> None:
    for path in (good, loose):
        for command in LOOKS:
            if (path, command) != (loose, ["db", "check"]):
                assert look(path, command).exit_code == 0, (path, command)


WRONG: list[Any] = [
    None,
    "\x1b]0;owned\x07\x9b31m\u202e\n<script>",
    b"\xff\x00\x1b[31m",
    "[" * 100_000,
    2**62,
    -(2**62),
    1e308,
    '{"$": "dataclass", "v": [["os", null, "system"], {}]}',
    "",
]


def test_any_value_in_any_column_is_shown_or_refused(loose: Path) -> None:
    """SQLite holds a value of any type in any column, and text that is no UTF-8."""
    original = loose.read_bytes()
    wrong: list[tuple[str, Any]] = [("?", value) for value in WRONG]
    wrong.append(("CAST(? AS TEXT)", b"\xff\xfe\x1b[31m"))
    codes = set()
    rng = random.Random(4)
    for table, column in columns_of(loose):
        for marks, value in rng.sample(wrong, 2):
            loose.write_bytes(original)
            with changing(loose) as connection:
                connection.execute(f"UPDATE {table} SET {column} = {marks}", (value,))
            number = rng.choice(READERS[table])
            codes.add(look(loose, LOOKS[number]).exit_code)
    assert codes >= {0, 3}


@pytest.mark.parametrize(
    ("table", "column", "value", "command", "words"),
    [
        ("task_instance", "state", "exploded", ["show", "etl"], "'exploded' is not a valid TaskInstanceState"),
        ("dag_run", "end_reason", "boredom", ["runs"], "'boredom' is not a valid EndReason"),
        ("dag_run", "created_at", 2**62, ["runs"], "that no liteflow writes"),
        ("dag_run", "run_id", b"r1", ["runs"], "run_id is b'r1'"),
        ("task_instance", "upstream", "{}", ["visualize", "etl"], "'{}' is no list of text"),
        ("task_instance", "upstream", "[[1]]", ["visualize", "etl"], "'[[1]]' is no list of text"),
        ("dag", "tags", "none", ["dags"], "that no liteflow writes"),
        ("executor", "token", "../../../tmp/x", ["runs"], "is no executor"),
        ("executor", "pid", -1, ["runs"], "is no executor"),
        ("pool", "slots", b"\x00", ["pools", "list", "--json"], "slots is b'\\\\x00'"),
        ("xcom", "value", 1_000_000_000_000, ["xcom", "etl", "extract"], "data is 1000000000000"),
    ],
)
def test_what_is_refused_is_named(
    loose: Path, table: str, column: str, value: object, command: list[str], words: str
) -> None:
    with changing(loose) as connection:
        connection.execute(f"UPDATE liteflow_{table} SET {column} = ?", (value,))
    refused = look(loose, command)
    assert refused.exit_code == 3
    assert errors_of(refused)[0].startswith(f"Error: {loose}: it holds something that no liteflow writes")
    assert words in refused.stderr


def test_two_hundred_naughty_strings_in_every_text(loose: Path) -> None:
    """As ids they have no place in liteflow's own files; in this one each has a dag, a run, a task, a value, a pool."""
    texts = [text.encode("utf-8", "backslashreplace").decode() for text in NAUGHTY]
    with changing(loose) as connection:
        for number, text in enumerate(texts, start=10):
            connection.execute(
                "INSERT INTO liteflow_dag (id, dag_id, description, tags, params, file, structure_digest, created_at, "
                "updated_at) VALUES (?, ?, ?, ?, '{}', ?, 'd', ?, ?)",
                (number, text, text, json.dumps([text]), text, NOW, NOW),
            )
            connection.execute(
                "INSERT INTO liteflow_dag_run (id, dag_pk, run_id, state, logical_date, params, structure_digest, "
                "created_at) VALUES (?, ?, ?, 'failed', ?, ?, 'd', ?)",
                (number, number, text, NOW, json.dumps({text: text}), NOW),
            )
            connection.execute(
                "INSERT INTO liteflow_task_instance (id, run_pk, task_id, map_index, upstream, trigger_rule, state, "
                "try_number, generation, crashes, error, rendered_map_index, pool) "
                "VALUES (?, 1, ?, 0, ?, ?, 'failed', 1, 0, 0, ?, ?, ?)",
                (number, text, json.dumps([text, "extract"]), text, text, text, text),
            )
            connection.execute(
                "INSERT INTO liteflow_xcom VALUES (?, 1, ?, ?, 1, x'00', ?)",
                (number, text, text if number % 2 else "json", json.dumps(text, ensure_ascii=False).encode()),
            )
            connection.execute(
                "INSERT INTO liteflow_log_record VALUES (?, 1, 1, ?, 30, ?, ?)", (number, NOW, text, text)
            )
            connection.execute("INSERT INTO liteflow_pool VALUES (?, ?, 1, ?)", (number, text, text))
    results = {" ".join(command): look(loose, command) for command in LOOKS if command[0] != "db"}
    refused = results.pop("why etl")
    assert (refused.exit_code, "is not a valid TriggerRule" in refused.stderr) == (3, True)
    results.pop("why etl/r1 load --json")
    assert {result.exit_code for result in results.values()} == {0}, results
    rows = {name: len(result.stdout.splitlines()) for name, result in results.items()}
    assert rows["dags"] == rows["pools list"] == 1 + 1 + len(texts), "a row for each, and none that a text made"
    assert rows["runs"] == 1 + 20
    assert rows["logs etl"] == 1 + len(texts)
    assert rows["xcom etl extract"] == 1 + 1 + len(texts)
    assert {dag["dag_id"] for dag in json.loads(results["dags --json"].stdout)} == {"etl", *texts}
    assert [one["message"] for one in json.loads(results["logs etl --json"].stdout)] == ["message", *texts]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled_imported_or_loaded(good: Path, tmp_path: Path) -> None:
    exploded = tmp_path / "exploded"
    trap = tmp_path / "trap.py"
    trap.write_text(f"import pathlib\npathlib.Path({str(exploded)!r}).touch()\nclass X: pass\n")
    bomb = pickle.dumps(Bomb(exploded))
    tagged = json.dumps({"x": {"$": "dataclass", "v": [["trap", str(trap), "X"], {}]}})
    header = json.dumps({"kind": "list", "encodings": ["pickle"], "sizes": [len(bomb)]}).encode()
    items = len(header).to_bytes(8, "big") + header + bomb
    for encoding, data in [("pickle", bomb), ("items", items), ("json", tagged.encode())]:
        with changing(good) as connection:
            connection.execute("UPDATE liteflow_dag SET params = ?", (tagged,))
            connection.execute("UPDATE liteflow_dag_run SET params = ?", (tagged,))
            connection.execute("UPDATE liteflow_xcom SET encoding = ?, value = ?", (encoding, data))
        for command in LOOKS:
            assert look(good, command).exit_code == 0 or command == ["db", "check"], command
            assert not exploded.exists(), command
    from liteflow.storage.history import open_history

    assert open_history(good).dag("etl").params == {}
    assert exploded.exists(), "the trap works: whoever asks for the params decodes them"


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("json", b"{"),
        ("json", b"\xff"),
        ("json", b"NaN"),
        ("json", b"[1e309]"),
        ("json", b"9" * 5000),
        ("json", b"[" * 200_000),
        ("json", b"[" * 100_000 + b"]" * 100_000),
        ("items", b""),
        ("items", b"\xff" * 8),
        ("items", (2).to_bytes(8, "big") + b"{}"),
        ("items", (400_000).to_bytes(8, "big") + b"[" * 400_000),
        ("cbor", b"\x00"),
    ],
)
def test_a_value_that_is_not_what_it_says_is_no_traceback(good: Path, encoding: str, data: bytes) -> None:
    with changing(good) as connection:
        connection.execute("UPDATE liteflow_xcom SET encoding = ?, value = ?", (encoding, data))
    assert look(good, ["xcom", "etl", "extract"]).exit_code == 0
    assert look(good, ["xcom", "etl", "extract", "return_value"]).exit_code == 0
    assert look(good, ["xcom", "etl", "extract", "--json"]).exit_code == (0 if encoding == "cbor" else 2)


@pytest.mark.parametrize("sizes", [[-1, 3], [1], [3], ["x"], [1.5], None, [10**30]])
def test_items_that_do_not_fill_their_value_are_damage(sizes: Any) -> None:
    from liteflow.errors import XComDecodeError
    from liteflow.storage.xcoms import EncodedItems, preview

    header = json.dumps({"kind": "list", "encodings": ["json"], "sizes": sizes}).encode()
    data = len(header).to_bytes(8, "big") + header + b"12"
    with pytest.raises(XComDecodeError, match="is damaged"):
        EncodedItems(data)
    assert preview("items", data) == f"<items, damaged, {len(data)} B>"


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        (f"ALTER TABLE liteflow_log_record RENAME TO old; CREATE VIEW liteflow_log_record AS {ENDLESS}", "view"),
        (f"DROP TABLE liteflow_pool; CREATE VIEW LITEFLOW_POOL AS {ENDLESS}", "view"),
        (
            "CREATE TRIGGER harmless AFTER DELETE ON liteflow_pool BEGIN DELETE FROM liteflow_dag; END",
            "trigger",
        ),
        ("DROP TABLE liteflow_pool; CREATE VIRTUAL TABLE liteflow_pool USING fts5(name, slots)", "virtual table"),
    ],
)
def test_views_triggers_and_virtual_tables_under_our_names_are_refused(good: Path, sql: str, kind: str) -> None:
    with changing(good) as connection:
        connection.executescript(sql)
    for command in [*LOOKS, ["pools", "delete", "pool"]]:
        if command[0] != "db":
            refused = look(good, command)
            assert (refused.exit_code, f"it holds the {kind} " in refused.stderr) == (3, True), refused.output
    with changing(good) as connection:
        assert connection.execute("SELECT count(*) FROM liteflow_dag").fetchone() == (1,)


def test_a_table_of_somebody_elses_in_the_same_file_is_no_matter(good: Path) -> None:
    with changing(good) as connection:
        connection.executescript(
            "CREATE TABLE mine (x); CREATE VIEW seen AS SELECT x FROM mine;"
            "CREATE TRIGGER t AFTER INSERT ON mine BEGIN DELETE FROM mine; END"
        )
    assert look(good, ["dags"]).exit_code == 0


def test_flipped_bytes_never_end_in_a_traceback(good: Path) -> None:
    original = good.read_bytes()
    rng = random.Random(11)
    codes = []
    for _ in range(100):
        data = bytearray(original)
        for _ in range(rng.choice([1, 3, 30, 300])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        for leftover in good.parent.glob("good.db-*"):
            leftover.unlink()
        good.write_bytes(data)
        codes += [look(good, command).exit_code for command in rng.sample(LOOKS[:-2], 3)]
    assert {0, 3} <= set(codes)


def test_times_at_the_edges_of_the_calendar_are_shown(good: Path) -> None:
    for edge in (-62_135_596_800_000_000, 253_402_300_799_999_999):
        with changing(good) as connection:
            connection.execute("UPDATE liteflow_dag_run SET created_at = ?, started_at = ?", (edge, edge))
        for command in LOOKS[:6]:
            assert look(good, command).exit_code == 0
