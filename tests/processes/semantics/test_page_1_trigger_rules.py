"""The page's section "Trigger rules": its table cell by cell, when each rule decides, and its notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService
from tests.conftest import wait_until
from tests.processes.semantics.conftest import Run, Submit
from tests.processes.semantics.page import come_to, letters, node, outcome, wait_for

pytestmark = pytest.mark.filterwarnings("ignore::liteflow.errors.DagWarning")

COLUMNS = ["SS", "SF", "SK", "SU", "FF", "FK", "FU", "KK", "KU", "UU"]

# Where order of arrival decides (all_success with K beside F or U), what failed has ended first here.
TABLE = {
    "all_success": "S U K U U U U K U U",
    "all_failed": "K K K K S K S K K S",
    "all_done": "S S S S S S S S S S",
    "all_done_min_one_success": "S S K S U K U K K U",
    "all_skipped": "K K K K K K K S K K",
    "one_success": "S S S S U U U K U U",
    "one_failed": "K S K S S S S K S S",
    "one_done": "S S S S S S S K K K",
    "none_failed": "S U S U U U U S U U",
    "none_failed_min_one_success": "S U S U U U U K U U",
    "none_skipped": "S S K S S K S K K S",
    "always": "S S S S S S S S S S",
}

# What a rule makes of one upstream that has ended, while the other still runs; "-" waits.
AT_ONCE = {
    "all_success": {"S": "-", "F": "U", "K": "K", "U": "U"},
    "all_failed": {"S": "K", "F": "-", "K": "K", "U": "-"},
    "all_done": {"S": "-", "F": "-", "K": "-", "U": "-"},
    "all_done_min_one_success": {"S": "-", "F": "-", "K": "K", "U": "-"},
    "all_skipped": {"S": "K", "F": "K", "K": "-", "U": "K"},
    "one_success": {"S": "S", "F": "-", "K": "-", "U": "-"},
    "one_failed": {"S": "-", "F": "S", "K": "-", "U": "S"},
    "one_done": {"S": "S", "F": "S", "K": "-", "U": "-"},
    "none_failed": {"S": "-", "F": "U", "K": "-", "U": "U"},
    "none_failed_min_one_success": {"S": "-", "F": "U", "K": "-", "U": "U"},
    "none_skipped": {"S": "-", "F": "-", "K": "K", "U": "-"},
    "always": {"S": "S", "F": "S", "K": "S", "U": "S"},
}


@pytest.fixture(scope="module")
def table(run: Run) -> dict[str, str]:
    """All rules below all pairs, in one run."""
    with Dag("table") as dag:
        pairs: dict[str, list[Any]] = {letter: [] for letter in "SFKU"}
        for number in "12":
            success, failed = node(f"s{number}"), node(f"f{number}", "F")
            upstream_failed = node(f"u{number}")
            failed >> upstream_failed
            for letter, one in zip("SFU", (success, failed, upstream_failed), strict=True):
                pairs[letter].append(one)
        for number in "12":  # after everything that fails: all_success decides by what is there, and failure wins
            skipped = node(f"k{number}", "K", "all_done")
            pairs["U"] >> skipped
            pairs["K"].append(skipped)
        for rule in TABLE:
            for column in COLUMNS:
                first = pairs[column[0]][0]
                second = pairs[column[1]][1]
                [first, second] >> node(f"{rule}.{column}", rule=rule)
    return letters(run(dag))


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("rule", TABLE)
def test_the_table(table: dict[str, str], rule: str, column: str) -> None:
    assert table[f"{rule}.{column}"] == TABLE[rule].split()[COLUMNS.index(column)]


@pytest.fixture(scope="module")
def moments(service: ExecutorService, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], ...]:
    """All rules below each state and a task that still runs: while it does, and after it succeeded."""
    gate = tmp_path_factory.mktemp("gate") / "open"
    with Dag("moments") as dag:
        hold = wait_for.override(task_id="hold")(str(gate))
        ends = {"S": node("s"), "F": node("f", "F"), "K": node("k", "K"), "U": node("u")}
        ends["F"] >> ends["U"]
        for rule in AT_ONCE:
            for letter, end in ends.items():
                [end, hold] >> node(f"{rule}.{letter}", rule=rule)
    handle = service.submit(dag)
    early = {"s", "f", "k", "u"} | {
        f"{rule}.{letter}" for rule in AT_ONCE for letter in "SFKU" if AT_ONCE[rule][letter] != "-"
    }
    try:
        wait_until(lambda: all(letters(handle.run)[name] in "SFKU" for name in early), "what decides at once")
        before = letters(handle.run)
    finally:
        gate.touch()
    return before, letters(handle.wait(timeout=30))


@pytest.mark.parametrize("rule", AT_ONCE)
def test_when_it_decides(moments: tuple[dict[str, str], ...], rule: str) -> None:
    before, after = moments
    assert before["hold"] == "running"
    assert {letter: before[f"{rule}.{letter}"].replace("pending", "-") for letter in "SFKU"} == AT_ONCE[rule]
    waited_for = {letter: TABLE[rule].split()[COLUMNS.index(f"S{letter}")] for letter in "SFKU"}
    assert {letter: after[f"{rule}.{letter}"] for letter in "SFKU"} == waited_for, "the other one succeeded"


def test_the_rule_of_a_teardown_waits_for_all_upstream(submit: Submit, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    with Dag("teardown_waits") as dag:
        start, quick = node("s").as_setup(), node("quick", "F")
        start >> [quick, wait_for.override(task_id="slow")(str(gate))] >> node("t").as_teardown(setups=start)
    handle = submit(dag)
    wait_until(lambda: letters(handle.run)["quick"] == "F", "the quick one")
    assert letters(handle.run)["t"] == "pending"
    gate.touch()
    assert outcome(handle.wait(timeout=30)) == ("failed", "quick=F s=S slow=S t=S")


@pytest.mark.parametrize(
    ("setups", "teardown"),
    [("KK", "K"), ("FF", "U"), ("KF", "U"), ("SF", "S"), ("SK", "S"), ("SS", "S")],
)
def test_the_rule_of_a_teardown_looks_at_its_setups(run: Run, setups: str, teardown: str) -> None:
    """All skipped skips it, none that succeeded makes it U, one that did is enough."""
    with Dag("teardown_setups") as dag:
        starts = [node(f"s{number}", end).as_setup() for number, end in enumerate(setups)]
        node("t").as_teardown(setups=starts)
    assert letters(run(dag))["t"] == teardown


def test_the_rule_of_a_teardown_waits_for_every_task_between(submit: Submit, tmp_path: Path) -> None:
    """Also for one that is not directly upstream, when what is has ended without it."""
    gate = tmp_path / "open"
    with Dag("teardown_scope") as dag:
        start = node("s").as_setup()
        slow = wait_for.override(task_id="slow")(str(gate))
        bad = node("bad", "F")
        last = node("last")  # upstream_failed while the slow one still runs
        start >> [slow, bad] >> last >> node("t").as_teardown(setups=start)
    handle = submit(dag)
    wait_until(lambda: letters(handle.run)["last"] == "U", "the one before the teardown")
    assert letters(handle.run) == {"s": "S", "slow": "running", "bad": "F", "last": "U", "t": "pending"}
    gate.touch()
    assert outcome(handle.wait(timeout=30)) == ("failed", "bad=F last=U s=S slow=S t=S")


@pytest.mark.parametrize(("first", "second", "expected"), [("K", "F", "K"), ("F", "K", "U")])
def test_all_success_of_skipped_and_failed_goes_by_order_of_arrival(
    submit: Submit, tmp_path: Path, first: str, second: str, expected: str
) -> None:
    gate = tmp_path / "open"
    with Dag("arrival") as dag:
        [node("first", first), wait_for.override(task_id="second")(str(gate), second)] >> node("join")
    handle = submit(dag)
    wait_until(lambda: letters(handle.run)["join"] == expected, "the join")
    gate.touch()
    assert letters(handle.wait(timeout=30)) == {"first": first, "second": second, "join": expected}


def test_all_success_of_skipped_and_failed_at_the_same_time_is_upstream_failed(run: Run) -> None:
    """Both follow at once from one failure: a tie goes to what failed, however the two are named and made."""
    with Dag("tie") as dag:
        bad = node("bad", "F")
        skipped, stopped = node("a", rule="all_skipped"), node("b")
        bad >> [skipped, stopped]
        [skipped, stopped] >> node("join")
        stopped_first, skipped_next = node("c"), node("d", rule="all_skipped")
        bad >> [stopped_first, skipped_next] >> node("other_join")
    assert outcome(run(dag)) == ("failed", "a=K b=U bad=F c=U d=K join=U other_join=U")


def test_a_task_without_upstream_runs_whatever_its_rule(run: Run) -> None:
    with Dag("roots") as dag:
        for rule in TABLE:
            come_to.override(task_id=rule, trigger_rule=rule)("S")
    assert set(letters(run(dag)).values()) == {"S"}
