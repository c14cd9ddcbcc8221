"""The reason behind a state is what makes the trigger rule say so: no more of the upstream, and no less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain, combinations, combinations_with_replacement

import pytest

from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.scheduling.reasons import Decision, Upstream, Why, deciding, named, reason_of_end, seen_text, waiting_for
from liteflow.scheduling.rules import SetupCounts, UpstreamCounts, evaluate
from liteflow.states import EndReason
from liteflow.states import TaskInstanceState as S

MOST = 4
RULES = [rule for rule in TriggerRule if rule is not TriggerRule.ALL_DONE_SETUP_SUCCESS]
OUTCOMES = [S.SUCCESS, S.FAILED, S.SKIPPED, S.UPSTREAM_FAILED, S.RUNNING, S.PENDING]
COMBINATIONS = list(chain.from_iterable(combinations_with_replacement(OUTCOMES, size) for size in range(MOST + 1)))


def verdict(rule: TriggerRule, states: Sequence[S], total: int, setups: Sequence[S] = ()) -> S | None:
    """What the rule says when these have ended, of so many."""
    counts = Counter(states)
    return evaluate(
        rule,
        UpstreamCounts(
            counts[S.SUCCESS],
            counts[S.FAILED],
            counts[S.SKIPPED],
            counts[S.UPSTREAM_FAILED],
            total,
            SetupCounts(setups.count(S.SUCCESS), setups.count(S.SKIPPED), len(setups)),
        ),
    )


def upstream_of(states: Sequence[S]) -> list[Upstream]:
    return [Upstream(f"t{number}", state) for number, state in enumerate(states)]


@pytest.mark.parametrize("rule", RULES)
def test_what_is_named_decides_by_itself_and_nothing_less_does(rule: TriggerRule) -> None:
    decided = 0
    for states in COMBINATIONS:
        target = verdict(rule, states, len(states))
        if target not in (S.SKIPPED, S.UPSTREAM_FAILED):
            continue
        decided += 1
        found = deciding(rule, upstream_of(states), target)
        assert found is not None, states
        assert verdict(rule, [one.state for one in found], len(states)) is target, states
        fewest = next(
            size
            for size in range(len(states) + 1)
            if any(verdict(rule, some, len(states)) is target for some in combinations(states, size))
        )
        if fewest < len(states):  # then each that is named is a reason by itself
            assert {verdict(rule, [one.state], len(states)) for one in found} == {target}, states
        else:
            assert len(found) == len(states)
    assert decided or rule in (TriggerRule.ALWAYS, TriggerRule.ALL_DONE)


@pytest.mark.parametrize("rule", RULES)
def test_what_a_rule_waits_for_has_not_ended(rule: TriggerRule) -> None:
    waited = 0
    for states in COMBINATIONS:
        found = waiting_for(rule, upstream_of(states))
        waits = verdict(rule, [one for one in states if one.is_terminal], len(states)) is None
        assert bool(found) == waits, states
        assert all(not one.state.is_terminal for one in found)
        assert len(found) == (sum(not one.is_terminal for one in states) if waits else 0)
        waited += waits
    assert waited or rule is TriggerRule.ALWAYS


def test_instances_are_counted_and_not_looked_at_one_by_one() -> None:
    many = [
        Upstream("add_one", S.SUCCESS, 999_963, total=1_000_000),
        Upstream("add_one", S.FAILED, 37, total=1_000_000),
    ]
    assert deciding(TriggerRule.ALL_SUCCESS, many, S.UPSTREAM_FAILED) == (many[1],)
    assert seen_text([many[1]]) == "37 of add_one failed"


def test_a_state_that_was_decided_before_another_upstream_failed_keeps_its_reason() -> None:
    found = deciding(TriggerRule.ALL_SUCCESS, upstream_of([S.SKIPPED, S.FAILED]), S.SKIPPED)
    assert [one.task_id for one in found or ()] == ["t0"]


def test_every_failure_is_a_reason_of_its_own_and_those_that_failed_come_first() -> None:
    states = [S.UPSTREAM_FAILED, S.SUCCESS, S.FAILED, S.FAILED]
    found = deciding(TriggerRule.ALL_SUCCESS, upstream_of(states), S.UPSTREAM_FAILED)
    assert [one.task_id for one in found or ()] == ["t2", "t3", "t0"]


def test_what_no_upstream_explains_was_not_decided_by_the_rule() -> None:
    assert deciding(TriggerRule.ALL_SUCCESS, upstream_of([S.SUCCESS, S.SUCCESS]), S.SKIPPED) is None


@pytest.mark.parametrize(
    ("states", "target", "named_ones"),
    [
        ([S.FAILED, S.UPSTREAM_FAILED], S.UPSTREAM_FAILED, {"t0", "t1"}),
        ([S.SUCCESS, S.FAILED], S.UPSTREAM_FAILED, {"t1"}),
        ([S.SKIPPED, S.SKIPPED], S.SKIPPED, {"t0", "t1"}),
        ([S.SKIPPED, S.FAILED], S.SKIPPED, {"t0"}),
    ],
)
def test_a_teardown_names_what_may_be_its_setups(states: list[S], target: S, named_ones: set[str]) -> None:
    rule = TriggerRule.ALL_DONE_SETUP_SUCCESS
    found = deciding(rule, upstream_of(states), target)
    assert found is not None
    assert {one.task_id for one in found} == named_ones
    assert verdict(rule, states, len(states), [one.state for one in found]) is target
    assert deciding(rule, [*upstream_of(states), Upstream("late", S.RUNNING)], target) is None, "it waits for all"


def reason(state: S, end_reason: EndReason | None = None, **facts: object) -> tuple[Why, str]:
    given = {"rule": TriggerRule.ALL_SUCCESS, "upstream": (), **facts}
    found = reason_of_end(state, end_reason, **given)  # type: ignore[arg-type]
    return found.why, found.text


BRANCH = Decision("choose", ("fast",), frozenset({"slow"}))
CUT = Decision("check", None, frozenset({"slow"}))


@pytest.mark.parametrize(
    ("state", "end_reason", "facts", "why", "text"),
    [
        (S.FAILED, EndReason.ERROR, {"error": "ValueError: x", "tries": 1}, Why.ERROR, "ValueError: x"),
        (S.FAILED, EndReason.ERROR, {"error": "ValueError: x", "tries": 2}, Why.ERROR, "ValueError: x (after 2 tries)"),
        (S.FAILED, EndReason.TIMEOUT, {}, Why.ERROR, "it took too long"),
        (S.FAILED, None, {}, Why.ERROR, "why is not recorded"),
        (S.FAILED, EndReason.MARKED, {}, Why.MARKED, "marked"),
        (S.SUCCESS, EndReason.REUSED, {}, Why.REUSED, "its value comes from the run that this one is a rerun of"),
        (S.REMOVED, None, {}, Why.REMOVED, "the dag with which the run went on has no such task"),
        (S.REMOVED, None, {"has_others": True}, Why.REMOVED, "what the task is mapped over has fewer items now"),
        (S.SKIPPED, None, {"has_run": True, "error": "no data"}, Why.SKIPPED_ITSELF, "no data"),
        (S.SKIPPED, EndReason.CANCELLED, {}, Why.ENDED, "it was cancelled"),
        (
            *(S.SKIPPED, EndReason.CANCELLED, {"run_reason": EndReason.CANCELLED}),
            *(Why.ENDED, "the run was cancelled"),
        ),
        (S.SKIPPED, EndReason.TIMEOUT, {}, Why.ENDED, "the run took longer than dagrun_timeout"),
        (S.SKIPPED, EndReason.FAIL_FAST, {}, Why.ENDED, "another task failed, and the dag has fail_fast"),
        (S.SKIPPED, None, {"decisions": [BRANCH]}, Why.BRANCH, "branch choose took fast"),
        (S.SKIPPED, None, {"decisions": [CUT]}, Why.SHORT_CIRCUIT, "short circuit check let nothing below it go"),
        (S.SKIPPED, None, {"upstream": upstream_of([S.SUCCESS])}, Why.MAPPED_OVER_NOTHING, "mapped over nothing"),
        (
            S.SKIPPED,
            None,
            {"upstream": upstream_of([S.SUCCESS]), "is_expanded": True},
            Why.UNKNOWN,
            "why is not recorded",
        ),
        (
            *(S.SKIPPED, None, {"rule": TriggerRule.ALL_DONE, "upstream": upstream_of([S.SKIPPED])}),
            *(Why.NO_ITEMS, "mapped over the value of t0 skipped"),
        ),
        (
            *(S.UPSTREAM_FAILED, None, {"rule": TriggerRule.ALL_DONE, "upstream": upstream_of([S.FAILED])}),
            *(Why.NO_ITEMS, "mapped over the value of t0 failed"),
        ),
        (
            S.UPSTREAM_FAILED,
            None,
            {"error": "depends_on_past: 'a' is failed"},
            Why.PAST,
            "depends_on_past: 'a' is failed",
        ),
        (
            *(S.UPSTREAM_FAILED, None, {"upstream": upstream_of([S.FAILED, S.SUCCESS])}),
            *(Why.RULE, "all_success saw t0 failed"),
        ),
    ],
)
def test_each_end_is_said_in_words(
    state: S, end_reason: EndReason | None, facts: dict[str, object], why: Why, text: str
) -> None:
    assert reason(state, end_reason, **facts) == (why, text)


def test_many_names_are_a_few_and_a_number() -> None:
    assert named(["a", "b", "c"]) == "a, b, c"
    assert named(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert seen_text([Upstream("g.a", S.FAILED, map_index=17), Upstream("b", S.SKIPPED)]) == "g.a[17] failed, b skipped"
