"""What a run shows while it goes on, and the words for many task instances at once."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liteflow.execution import progress
from liteflow.execution.active import RunEvent
from liteflow.execution.progress import MOST_FAILURES, LiveDisplay, PlainDisplay, Tally
from liteflow.states import (
    AS_TOLD,
    BY_URGENCY,
    TERMINAL,
    RunState,
    counts_text,
    instance_name,
    mapped_text,
    most_urgent,
    run_text,
)
from liteflow.states import TaskInstanceState as S

# Words


def test_a_mapped_task_in_one_line() -> None:
    counts = {S.FAILED: 10, S.SUCCESS: 9_990}
    assert mapped_text("add_one", counts) == "add_one [10,000]: 9,990 success, 10 failed"


def test_states_are_told_in_one_order_and_without_zeros() -> None:
    assert counts_text({S.PENDING: 1, S.SKIPPED: 0, S.RUNNING: 2, S.FAILED: 3}) == "3 failed, 2 running, 1 pending"
    assert counts_text({}) == ""


def test_both_orders_have_every_state() -> None:
    assert sorted(AS_TOLD) == sorted(BY_URGENCY) == sorted(S)


@given(st.dictionaries(st.sampled_from(list(S)), st.integers(1, 20_000), min_size=1))
def test_nothing_is_lost_in_the_words(counts: dict[S, int]) -> None:
    parts = [part.split() for part in counts_text(counts).split(", ")]
    assert {state: int(count.replace(",", "")) for count, state in parts} == counts
    assert (most_urgent(counts) is S.FAILED) == (S.FAILED in counts)


def test_names_of_instances() -> None:
    assert instance_name("a", -1) == instance_name("a", -1, "label") == "a"
    assert instance_name("a", 0) == instance_name("a", 0, "") == "a[0]"
    assert instance_name("a", 17, "2026-01-02") == "a[17 2026-01-02]"


@pytest.mark.parametrize(
    ("state", "failed", "words"),
    [
        (RunState.SUCCESS, 0, "success"),
        (RunState.SUCCESS, 1, "success, 1 task failed"),
        (RunState.SUCCESS, 1_200, "success, 1,200 tasks failed"),
        (RunState.FAILED, 1, "failed"),
        (RunState.RUNNING, 1, "running"),
    ],
)
def test_a_success_does_not_hide_the_tasks_that_failed(state: RunState, failed: int, words: str) -> None:
    assert run_text(state, failed) == words


# The tally


def test_an_expansion_makes_one_instance_many() -> None:
    tally = Tally({"a": 1, "b": 1})
    tally.set("a", -1, S.SUCCESS)
    tally.set("b", -1, S.PENDING)
    tally.expand("b", 3)
    assert (tally.total, tally.counts[S.PENDING]) == (4, 0), "the instance that was expanded is none of them"
    tally.expand("b", 3)
    assert tally.total == 4, "what was read from the database may be told again"
    for index in range(3):
        tally.set("b", index, S.RUNNING)
        tally.set("b", index, S.SUCCESS)
    assert (tally.done, tally.counts[S.RUNNING]) == (4, 0)


def test_an_expansion_into_nothing_leaves_the_one_that_is_skipped() -> None:
    tally = Tally({"a": 1})
    tally.expand("a", 0)
    tally.set("a", -1, S.SKIPPED)
    assert (tally.total, tally.done) == (1, 1)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.sampled_from(list(S)))))
def test_counts_are_those_of_the_latest_states(moves: list[tuple[str, int, S]]) -> None:
    tally = Tally({"a": 4, "b": 4})
    latest: dict[tuple[str, int], S] = {}
    for task_id, index, state in moves:
        tally.set(task_id, index, state)
        latest[task_id, index] = state
    assert {state: tally.counts[state] for state in S} == {state: [*latest.values()].count(state) for state in S}
    assert tally.done == sum(state in TERMINAL for state in latest.values())


# Lines


@pytest.fixture
def display() -> PlainDisplay:
    return PlainDisplay()


def task(state: S, map_index: int = -1, **more: Any) -> RunEvent:
    return RunEvent("task", "add_one", map_index, state, **more)


def test_lines_of_mapped_instances_have_their_index(display: PlainDisplay, capsys: pytest.CaptureFixture[str]) -> None:
    display.take(RunEvent("line", "add_one", 17, text="hello\x1b"))
    display.take(RunEvent("line", "load", text="hello"))
    display.take(task(S.UP_FOR_RETRY, 17, try_number=1, error="ValueError: 17"))
    display.take(task(S.FAILED, 17, try_number=2, error="ValueError: 17"))
    display.take(task(S.FAILED))
    assert capsys.readouterr().err.splitlines() == [
        "[add_one[17]] hello\\x1b",
        "[load] hello",
        "add_one[17] try 1 failed, will be tried again: ValueError: 17",
        "add_one[17] failed: ValueError: 17",
        "add_one failed",
    ]


def test_what_the_display_does_not_know_is_ignored(display: PlainDisplay, capsys: pytest.CaptureFixture[str]) -> None:
    display.take(RunEvent("run", state=RunState.RUNNING))
    display.take(RunEvent("callback", "add_one", text="on_failure"))
    display.take(RunEvent("line"))
    assert capsys.readouterr().err == ""
    assert not display.tally.counts


def test_many_failures_of_a_mapped_task_are_not_all_printed(
    display: PlainDisplay, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(1_000):
        display.take(task(S.UP_FOR_RETRY, index, try_number=1, error="no"))
    for index in range(1_000):
        display.take(task(S.FAILED, index, try_number=2, error="no"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 * (MOST_FAILURES + 1)
    assert lines[MOST_FAILURES].startswith("add_one: more tries failed, will be tried again; all of them in: ")
    assert lines[MOST_FAILURES + 1] == "add_one[0] failed: no", "retries do not use up the lines of failures"
    assert lines[-1] == "add_one: more instances failed; all of them in: liteflow show --all"
    assert display.tally.counts[S.FAILED] == 1_000


def test_failures_of_tasks_that_are_not_mapped_are_all_printed(
    display: PlainDisplay, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(50):
        display.take(RunEvent("task", f"t{number}", state=S.FAILED, error="no"))
    assert len(capsys.readouterr().err.splitlines()) == 50


# The live line


def live_line(*events: RunEvent, sizes: dict[str, int]) -> str:
    """The line at the bottom after these events."""
    from rich.console import Console

    live = LiveDisplay()
    live.tally = Tally(sizes)
    live._bar = live._progress.add_task("", total=1, rest="")
    for event in events:
        live.take(event)
    shown = io.StringIO()
    Console(file=shown, width=120).print(live._progress.get_renderable())
    return re.sub(r"^\W+", "", shown.getvalue().split("━")[-1]).strip()


def test_the_live_line_counts_instances() -> None:
    line = live_line(
        RunEvent("task", "names", state=S.SUCCESS),
        RunEvent("expanded", "add_one", size=10_000),
        *(task(S.SUCCESS, index) for index in range(5)),
        task(S.RUNNING, 5),
        task(S.FAILED, 6),
        task(S.UP_FOR_RETRY, 7),
        task(S.UP_FOR_RESCHEDULE, 8),
        sizes={"names": 1, "add_one": 1},
    )
    assert line.startswith("7/10,001 done 1 running  2 waiting  1 failed"), line


def test_the_live_line_is_not_counted_anew_for_each_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to look at every task instance whenever one of them moved."""
    looked_at = 0

    class Watched(dict[Any, Any]):
        def values(self) -> Any:
            nonlocal looked_at
            looked_at += 1
            return super().values()

        def __iter__(self) -> Any:
            nonlocal looked_at
            looked_at += 1
            return super().__iter__()

    live = LiveDisplay()
    live.tally = Tally({"add_one": 100})
    monkeypatch.setattr(live.tally, "_states", Watched())
    live._bar = live._progress.add_task("", total=1, rest="")
    for index in range(100):
        live.take(task(S.SUCCESS, index))
    assert (looked_at, live.tally.done) == (0, 100)


def test_only_what_steers_a_terminal_is_spelled_out() -> None:
    assert progress.printable("grüße\t\x1b[2J\u202e") == "grüße\t\\x1b[2J\\u202e"
