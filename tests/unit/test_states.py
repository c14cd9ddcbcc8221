"""The tables of states: complete, closed, and in Airflow's words."""

from __future__ import annotations

import pytest

from liteflow.states import (
    RUN_TRANSITIONS,
    TERMINAL,
    TRANSITIONS,
    UNFINISHED,
    EndReason,
    RunState,
    TaskInstanceState,
    is_allowed,
    sources_of,
)

S = TaskInstanceState

AIRFLOW = {
    "queued",
    "running",
    "success",
    "failed",
    "skipped",
    "upstream_failed",
    "up_for_retry",
    "up_for_reschedule",
    "removed",
}


def test_the_words_are_airflows_and_pending_stands_for_none() -> None:
    assert {state.value for state in S} == AIRFLOW | {"pending"}


def test_a_state_is_its_word() -> None:
    assert all(state == state.value and str(state) == state.value for state in [*S, *RunState, *EndReason])
    assert S("up_for_retry") is S.UP_FOR_RETRY


def test_the_words_of_runs_are_airflows() -> None:
    assert {state.value for state in RunState} == {"queued", "running", "success", "failed"}


def test_the_end_reasons_are_those_of_the_design() -> None:
    ended = {"error", "timeout", "crashed", "cancelled", "fail_fast", "lost"}
    assert {reason.value for reason in EndReason} == ended | {"marked", "reused", "pruned"}


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(TRANSITIONS) == set(S)
    assert set(RUN_TRANSITIONS) == set(RunState)


def test_every_way_leads_to_a_state_and_says_its_occasion() -> None:
    for nexts in [*TRANSITIONS.values(), *RUN_TRANSITIONS.values()]:
        assert all(occasion.strip() for occasion in nexts.values())
    assert all(target in S for nexts in TRANSITIONS.values() for target in nexts)
    assert all(target in RunState for nexts in RUN_TRANSITIONS.values() for target in nexts)


@pytest.mark.parametrize("state", S)
def test_terminal_states_are_those_without_exits(state: TaskInstanceState) -> None:
    assert state.is_terminal == (not TRANSITIONS[state]) == (state in TERMINAL) == (state not in UNFINISHED)


WAYS = {
    "pending": "queued removed skipped upstream_failed",
    "queued": "removed running skipped",
    "running": "failed queued skipped success up_for_reschedule up_for_retry",
    "up_for_retry": "queued removed skipped",
    "up_for_reschedule": "queued removed skipped",
}


@pytest.mark.parametrize("state", S)
def test_a_state_leads_to_those_that_were_agreed(state: TaskInstanceState) -> None:
    assert sorted(TRANSITIONS[state]) == WAYS.get(state.value, "").split()


def test_the_terminal_states_are_named() -> None:
    assert {S.SUCCESS, S.FAILED, S.SKIPPED, S.UPSTREAM_FAILED, S.REMOVED} == TERMINAL


@pytest.mark.parametrize("state", sorted(UNFINISHED))
def test_every_unfinished_state_can_reach_an_end_and_is_reached_from_pending(state: TaskInstanceState) -> None:
    assert reachable(state) & TERMINAL
    assert state in reachable(S.PENDING)


def reachable(start: TaskInstanceState) -> set[TaskInstanceState]:
    """Every state that can follow, `start` itself included."""
    found, waiting = {start}, [start]
    while waiting:
        for target in TRANSITIONS[waiting.pop()]:
            if target not in found:
                found.add(target)
                waiting.append(target)
    return found


@pytest.mark.parametrize("target", S)
def test_sources_of_is_the_table_read_backwards(target: TaskInstanceState) -> None:
    assert sources_of(target) == {source for source in S if target in TRANSITIONS[source]}


@pytest.mark.parametrize("source", S)
@pytest.mark.parametrize("target", S)
def test_is_allowed_says_what_the_table_says(source: TaskInstanceState, target: TaskInstanceState) -> None:
    assert is_allowed(source, target) == (source in sources_of(target))


def test_a_task_instance_runs_only_from_the_queue() -> None:
    assert sources_of(S.RUNNING) == {S.QUEUED}


def test_only_a_running_try_succeeds_or_fails() -> None:
    assert sources_of(S.SUCCESS) == sources_of(S.FAILED) == sources_of(S.UP_FOR_RETRY) == {S.RUNNING}


def test_a_dead_owners_running_task_instance_goes_back_to_the_queue() -> None:
    assert is_allowed(S.RUNNING, S.QUEUED)


@pytest.mark.parametrize("state", sorted(UNFINISHED - {S.RUNNING}))
def test_ending_a_run_early_can_skip_all_that_does_not_run(state: TaskInstanceState) -> None:
    assert is_allowed(state, S.SKIPPED)


def test_no_state_follows_itself() -> None:
    assert not [state for state in S if is_allowed(state, state)]


@pytest.mark.parametrize("state", RunState)
def test_a_run_is_over_when_its_row_has_no_exits(state: RunState) -> None:
    assert state.is_terminal == (not RUN_TRANSITIONS[state])


def test_a_run_goes_from_queued_through_running_to_its_end() -> None:
    assert set(RUN_TRANSITIONS[RunState.QUEUED]) == {RunState.RUNNING, RunState.FAILED}
    assert set(RUN_TRANSITIONS[RunState.RUNNING]) == {RunState.SUCCESS, RunState.FAILED}
