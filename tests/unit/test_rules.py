"""Trigger rules: Airflow's truth table, what fires early, and that the order of arrival does not matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.scheduling.rules import SetupCounts, UpstreamCounts, evaluate
from liteflow.states import TaskInstanceState

STATES = {
    "S": TaskInstanceState.SUCCESS,
    "F": TaskInstanceState.FAILED,
    "K": TaskInstanceState.SKIPPED,
    "U": TaskInstanceState.UPSTREAM_FAILED,
}

COLUMNS = ["SS", "SF", "SK", "SU", "FF", "FK", "FU", "KK", "KU", "UU"]
"""The final states of two direct upstream task instances."""

TABLE = {
    # In the cells S says that the task may run. Where failed and skipped meet under all_success, failure wins.
    "all_success": "S  U  K  U  U  U  U  K  U  U",
    "all_failed": "K  K  K  K  S  K  S  K  K  S",
    "all_done": "S  S  S  S  S  S  S  S  S  S",
    "all_done_min_one_success": "S  S  K  S  U  K  U  K  K  U",
    "all_skipped": "K  K  K  K  K  K  K  S  K  K",
    "one_success": "S  S  S  S  U  U  U  K  U  U",
    "one_failed": "K  S  K  S  S  S  S  K  S  S",
    "one_done": "S  S  S  S  S  S  S  K  K  K",
    "none_failed": "S  U  S  U  U  U  U  S  U  U",
    "none_failed_min_one_success": "S  U  S  U  U  U  U  K  U  U",
    "none_skipped": "S  S  K  S  S  K  S  K  K  S",
    "always": "S  S  S  S  S  S  S  S  S  S",
}

EARLY = {
    # What one ended upstream decides while the other has not ended; "." is to wait. In the order S F K U.
    "all_success": ". U K U",
    "all_failed": "K . K .",
    "all_done": ". . . .",
    "all_done_min_one_success": ". . K .",
    "all_skipped": "K K . K",
    "one_success": "S . . .",
    "one_failed": ". S . S",
    "one_done": "S S . .",
    "none_failed": ". U . U",
    "none_failed_min_one_success": ". U . U",
    "none_skipped": ". . K .",
    "always": "S S S S",
}

VERDICTS = {
    "S": TaskInstanceState.QUEUED,
    "K": TaskInstanceState.SKIPPED,
    "U": TaskInstanceState.UPSTREAM_FAILED,
    ".": None,
}


def verdict(rule: str, ended: Iterable[str], total: int) -> TaskInstanceState | None:
    """What the rule says when of `total` upstream these have ended."""
    found = Counter(ended)
    return evaluate(TriggerRule(rule), UpstreamCounts(found["S"], found["F"], found["K"], found["U"], total))


TEARDOWN_RULE = "all_done_setup_success"
"""What it says hangs on which of the upstream are setups: it has a table of its own."""


def test_every_rule_is_in_the_tables() -> None:
    assert set(TABLE) == set(EARLY) == {rule.value for rule in TriggerRule} - {TEARDOWN_RULE}
    assert all(len(row.split()) == len(COLUMNS) for row in TABLE.values())


@pytest.mark.parametrize(
    ("rule", "ended", "expected"),
    [(rule, column, cell) for rule, row in TABLE.items() for column, cell in zip(COLUMNS, row.split(), strict=True)],
)
def test_rule_says_what_the_truth_table_says(rule: str, ended: str, expected: str) -> None:
    assert verdict(rule, ended, 2) is VERDICTS[expected]


@pytest.mark.parametrize(
    ("rule", "ended", "expected"),
    [(rule, state, cell) for rule, row in EARLY.items() for state, cell in zip("SFKU", row.split(), strict=True)],
)
def test_rule_fires_without_waiting_where_it_can_and_waits_where_it_must(rule: str, ended: str, expected: str) -> None:
    assert verdict(rule, ended, 2) is VERDICTS[expected]


@pytest.mark.parametrize("rule", sorted(TABLE))
def test_before_anything_ended_only_always_runs(rule: str) -> None:
    assert verdict(rule, "", 2) is (TaskInstanceState.QUEUED if rule == "always" else None)


@pytest.mark.parametrize("rule", sorted(TABLE))
def test_a_task_without_upstream_runs_whatever_its_rule(rule: str) -> None:
    assert verdict(rule, "", 0) is TaskInstanceState.QUEUED


@pytest.mark.parametrize("rule", sorted(TABLE))
@pytest.mark.parametrize("state", "SFKU")
def test_one_upstream_decides_like_two_of_the_same(rule: str, state: str) -> None:
    assert verdict(rule, state, 1) is verdict(rule, state * 2, 2)


@pytest.mark.parametrize("rule", sorted(TABLE))
@settings(max_examples=20)
@given(ended=st.lists(st.sampled_from("SFKU"), min_size=1, max_size=6))
def test_once_all_have_ended_there_is_a_verdict(rule: str, ended: list[str]) -> None:
    assert verdict(rule, ended, len(ended)) is not None


def hangs_on_order(rule: str, ended: list[str]) -> bool:
    """`all_success` with both a skip and a failure: it takes the side of what comes first."""
    return rule == "all_success" and "K" in ended and bool({"F", "U"} & set(ended))


def verdicts(rule: str, ended: list[str]) -> list[TaskInstanceState | None]:
    """What the rule says after each arrival, from before the first one on."""
    return [verdict(rule, ended[:count], len(ended)) for count in range(len(ended) + 1)]


def first(found: list[TaskInstanceState | None]) -> TaskInstanceState | None:
    """The first verdict that is one."""
    return next((one for one in found if one is not None), None)


orders = st.lists(st.sampled_from("SFKU"), min_size=1, max_size=6).flatmap(
    lambda ended: st.tuples(st.just(ended), st.permutations(ended))
)


@pytest.mark.parametrize("rule", sorted(TABLE))
@settings(max_examples=20)
@given(both=orders)
def test_the_first_verdict_is_the_same_in_any_order_of_arrival(rule: str, both: tuple[list[str], list[str]]) -> None:
    one, other = both
    if not hangs_on_order(rule, one):
        assert first(verdicts(rule, one)) is first(verdicts(rule, other))


@pytest.mark.parametrize("rule", sorted(TABLE))
@settings(max_examples=20)
@given(ended=st.lists(st.sampled_from("SFKU"), min_size=1, max_size=6))
def test_once_decided_nothing_that_arrives_changes_the_verdict(rule: str, ended: list[str]) -> None:
    found = verdicts(rule, ended)
    if not hangs_on_order(rule, ended):
        assert set(found) - {None} == {first(found)}
        assert None not in found[found.index(first(found)) :]


@given(ended=st.lists(st.sampled_from("SFKU"), min_size=2, max_size=6))
def test_all_success_with_skip_and_failure_ends_as_the_first_of_them_says(ended: list[str]) -> None:
    unwell = [state for state in ended if state != "S"]
    if unwell:
        expected = TaskInstanceState.SKIPPED if unwell[0] == "K" else TaskInstanceState.UPSTREAM_FAILED
        assert first(verdicts("all_success", ended)) is expected


# The rule of teardowns

SETUP_TABLE = {
    # The states of its setups, and what it says once all upstream and all of its scope have ended.
    "S": "S",
    "F": "U",
    "U": "U",
    "K": "K",
    "SS": "S",
    "SF": "S",
    "SK": "S",
    "SU": "S",
    "FF": "U",
    "FK": "U",
    "FU": "U",
    "KK": "K",
    "KU": "U",
    "UU": "U",
}


def teardown_verdict(setups: str, work: str, *, missing: int = 0, scope_ended: bool = True) -> TaskInstanceState | None:
    """What the rule says of these setups and of other upstream, with so many that have not ended."""
    found, of_setups = Counter(setups + work), Counter(setups)
    total = len(setups) + len(work) + missing
    states = UpstreamCounts(found["S"], found["F"], found["K"], found["U"], total)
    counts = states._replace(setups=SetupCounts(of_setups["S"], of_setups["K"], len(setups)), scope_ended=scope_ended)
    return evaluate(TriggerRule(TEARDOWN_RULE), counts)


@pytest.mark.parametrize(("setups", "expected"), SETUP_TABLE.items())
@pytest.mark.parametrize("work", ["", *"SFKU", *COLUMNS])
def test_a_teardown_looks_at_its_setups_and_not_at_the_work(setups: str, expected: str, work: str) -> None:
    assert teardown_verdict(setups, work) is VERDICTS[expected]


@pytest.mark.parametrize("setups", SETUP_TABLE)
@pytest.mark.parametrize("work", ["", *"SFKU", *COLUMNS])
def test_a_teardown_waits_for_all_upstream_and_for_its_scope(setups: str, work: str) -> None:
    assert teardown_verdict(setups, work, missing=1) is None
    assert teardown_verdict(setups, work, scope_ended=False) is None


@pytest.mark.parametrize("work", ["", *"SFKU", *COLUMNS])
def test_a_teardown_without_setups_runs_when_all_upstream_has_ended(work: str) -> None:
    assert teardown_verdict("", work) is TaskInstanceState.QUEUED
    assert teardown_verdict("", work, missing=1) is None
