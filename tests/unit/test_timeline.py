"""Timelines: bars from tries, what each waited for, the critical path, lanes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from liteflow.states import TaskInstanceState as S
from liteflow.visualize import Bar, Node, Picture, Timeline, Try, gantt, lanes, timeline, timeline_text
from liteflow.visualize.gantt import MOST_BARS, name_in_gantt
from liteflow.visualize.timeline_text import MOST_ROWS
from tests.mermaid.make import HOSTILE, KEYWORDS


def node(task_id: str, upstream: Sequence[str] = (), state: S = S.SUCCESS, count: int = 1) -> Node:
    return Node(task_id, {state: count}, upstream, count > 1)


def tried(task_id: str, started: int | None, ended: int | None, **more: Any) -> Try:
    values: dict[str, Any] = {"map_index": -1, "try_number": 1, "state": S.SUCCESS, "reason": None, "slot": 1, **more}
    return Try(task_id=task_id, started_us=started, ended_us=ended, **values)


def drawn(nodes: Sequence[Node], *tries: Try, **more: Any) -> Timeline:
    return timeline(Picture("etl", "r", "success", nodes), tries, **more)


def bar(found: Timeline, name: str, try_number: int = 1) -> Bar:
    (one,) = (bar for bar in found.bars if bar.name == name and bar.try_number == try_number)
    return one


def test_the_critical_path_is_what_ended_last_before_each_try_from_behind() -> None:
    found = drawn(
        [node("a"), node("quick", ["a"]), node("slow", ["a"]), node("end", ["quick", "slow"])],
        tried("a", 10, 20),
        tried("quick", 21, 25),
        tried("slow", 30, 60),
        tried("end", 70, 80),
        started_us=5,
        ended_us=90,
    )
    assert found.critical_path == ["a", "slow", "end"]
    assert [bar.name for bar in found.bars if bar.on_critical_path] == ["a", "slow", "end"]
    assert (found.started_us, found.ended_us) == (5, 90)
    assert bar(found, "a").ready_us == 5
    assert bar(found, "slow").ready_us == 20
    assert bar(found, "end").ready_us == 60


def test_a_later_try_was_ready_when_the_one_before_ended_and_each_is_on_the_path() -> None:
    found = drawn(
        [node("a"), node("flaky", ["a"])],
        tried("a", 0, 10),
        tried("flaky", 11, 20, state=S.FAILED, reason="error", is_latest=False),
        tried("flaky", 50, 60, try_number=2),
    )
    assert bar(found, "flaky", 2).ready_us == 20
    assert [(one.name, one.try_number, one.state) for one in found.bars if one.on_critical_path] == [
        ("a", 1, "success"),
        ("flaky", 1, "failed"),
        ("flaky", 2, "success"),
    ]
    assert found.critical_path == ["a", "flaky"]


def test_a_task_that_was_cleared_with_its_upstream_waited_for_the_upstream_of_its_generation() -> None:
    found = drawn(
        [node("a"), node("b", ["a"])],
        tried("a", 0, 10, is_latest=False),
        tried("b", 11, 20, is_latest=False),
        tried("a", 100, 110, try_number=2),
        tried("b", 115, 120, try_number=2),
    )
    assert bar(found, "b").ready_us == 10
    assert bar(found, "b", 2).ready_us == 110


def test_a_skipped_instance_passes_the_path_on_to_what_it_waited_for() -> None:
    found = drawn(
        [node("choose"), node("left", ["choose"], S.SKIPPED), node("join", ["left"])],
        tried("choose", 0, 10),
        tried("left", None, 12, state=S.SKIPPED, try_number=0, slot=None),
        tried("join", 15, 20),
    )
    assert found.critical_path == ["choose", "join"]
    assert [one.name for one in found.bars] == ["choose", "join"]
    assert bar(found, "join").ready_us == 12


def test_an_instance_of_a_mapped_group_waited_only_for_what_was_over_when_it_began() -> None:
    found = drawn(
        [node("x", count=2), node("y", ["x"], count=2)],
        tried("x", 0, 10, map_index=0),
        tried("x", 0, 100, map_index=1, slot=2),
        tried("y", 12, 20, map_index=0),
        tried("y", 101, 110, map_index=1),
    )
    assert bar(found, "y[0]").ready_us == 10
    assert found.critical_path == ["x[1]", "y[1]"]


def test_the_path_of_a_run_that_goes_on_ends_with_what_has_run_longest() -> None:
    found = drawn(
        [node("a"), node("long", ["a"], S.RUNNING), node("new", ["a"], S.RUNNING)],
        tried("a", 0, 10),
        tried("long", 11, None, state=S.RUNNING),
        tried("new", 30, None, state=S.RUNNING, slot=2),
        now_us=50,
    )
    assert found.critical_path == ["a", "long"]
    assert found.ended_us == found.end_of(bar(found, "long")) == 50
    assert bar(found, "long").ended_us is None


def test_a_run_that_nobody_drives_ends_where_its_tries_say() -> None:
    found = drawn([node("a"), node("b", ["a"], S.RUNNING)], tried("a", 0, 10), tried("b", 11, None, state=S.RUNNING))
    assert found.ended_us == 11


@pytest.mark.parametrize(
    ("state", "reason", "drawn_as", "ended"),
    [
        (S.UP_FOR_RETRY, "error", "up_for_retry", 10),
        (S.QUEUED, "crashed", "failed", 10),
        (S.QUEUED, None, "up_for_reschedule", None),
        (S.UP_FOR_RESCHEDULE, None, "up_for_reschedule", None),
        (S.RUNNING, None, "running", None),
    ],
)
def test_a_try_whose_task_instance_waits_is_drawn_as_what_it_is(
    state: S, reason: str | None, drawn_as: str, ended: int | None
) -> None:
    found = drawn([node("a", state=state)], tried("a", 0, 10, state=state, reason=reason), now_us=30)
    assert (found.bars[0].state, found.bars[0].ended_us) == (drawn_as, ended)


def test_without_tries_there_is_nothing_but_the_tasks() -> None:
    found = drawn([node("a", state=S.PENDING)], started_us=None)
    assert (found.bars, found.critical_path, [one.task_id for one in found.nodes]) == ([], [], ["a"])


def test_lanes_are_slots_and_what_has_none_is_packed() -> None:
    found = drawn(
        [node("a"), node("b"), node("c"), node("d")],
        tried("a", 0, 10, slot=3),
        tried("b", 0, 10, slot=None),
        tried("c", 5, 20, slot=None),
        tried("d", 10, 12, slot=None),
    )
    assert [(lane.name, [one.name for one in lane.bars]) for lane in lanes(found)] == [
        ("slot 3", ["a"]),
        ("lane 1", ["b", "d"]),
        ("lane 2", ["c"]),
    ]


def test_rows_that_wait_for_each_other_in_a_circle_end_the_path() -> None:
    found = drawn([node("a", ["b"]), node("b", ["a"])], tried("a", 0, 0), tried("b", 0, 0))
    assert sorted(found.critical_path) == ["a", "b"]


moments = st.none() | st.integers(-5, 30)
hostile_tries = st.builds(
    Try,
    st.sampled_from("abc"),
    st.integers(-1, 2),
    st.integers(0, 3),
    st.sampled_from(list(S)),
    st.none() | st.just("error"),
    st.none() | st.integers(-1, 3),
    moments,
    moments,
    st.none() | st.text(max_size=3),
    st.booleans(),
)


@given(st.lists(hostile_tries, max_size=20), moments, moments, moments)
def test_whatever_the_rows_say_bars_lie_in_the_timeline_and_waits_before_bars(
    tries: list[Try], started: int | None, ended: int | None, now: int | None
) -> None:
    nodes = [node("a", ["c"]), node("b", ["a", "gone"]), node("c", ["a", "b"])]
    found = drawn(nodes, *tries, started_us=started, ended_us=ended, now_us=now)
    assert len(found.bars) == sum(one.started_us is not None for one in tries)
    assert sum(len(lane.bars) for lane in lanes(found)) == len(found.bars)
    for one in found.bars:
        assert found.started_us <= one.started_us <= found.end_of(one)
        assert one.ready_us is None or one.ready_us <= one.started_us
        assert found.end_of(one) <= max(found.ended_us, one.started_us)
    assert bool(found.bars) is bool(found.critical_path)


# Drawn


RUN = drawn(
    [
        node("a"),
        Node("m", {S.SUCCESS: 2, S.FAILED: 1}, ["a"], True),
        node("flaky", ["a"]),
        node("no", ["m"], S.SKIPPED),
    ],
    tried("a", 0, 10_000_000),
    tried("m", 10_000_000, 20_000_000, map_index=0),
    tried("m", 20_000_000, 30_000_000, map_index=1, state=S.FAILED),
    tried("m", 30_000_000, 40_000_000, map_index=2),
    tried("flaky", 20_000_000, 30_000_000, slot=2, state=S.FAILED, reason="error", is_latest=False),
    tried("flaky", 70_000_000, 100_000_000, slot=2, try_number=2),
    tried("no", None, 40_000_000, try_number=0, slot=None, state=S.SKIPPED),
)


def test_a_timeline_on_a_terminal_has_tasks_slots_and_the_critical_path() -> None:
    assert timeline_text(RUN, 80).splitlines() == [
        "          0 s               50.0 s          1:40 min",
        "* a      │█████                                     │ 10.0 s",
        "  m [3]  │    ████xxxxx████                         │ 30.0 s 2 success, 1 failed",
        "* flaky  │    ····xxxxx················█████████████│ 1:20 min, 2 tries",
        "  no     │                                          │ skipped",
        "",
        "  slot 1 │█*a█████xxxxx████                         │ 40 % busy, 4 tries",
        "  slot 2 │        xxxxx                █*flaky██████│ 40 % busy, 2 tries",
        "",
        "* critical path: 50.0 s of 1:40 min at work",
        "  a → flaky",
        "  x failed  █ success  · waiting",
    ]


def test_a_timeline_of_more_tasks_than_rows_shows_failures_the_path_and_the_longest() -> None:
    nodes = [node(f"t{number}", [f"t{number - 1}"]) for number in range(3_000)]
    tries = [tried(f"t{number}", number, number + 1) for number in range(3_000)]
    tries[77] = tries[77]._replace(state=S.FAILED)
    nodes[77] = node("t77", ["t76"], S.FAILED)
    lines = timeline_text(drawn(nodes, *tries), 80).splitlines()
    assert len(lines) < MOST_ROWS + 15
    assert any(line.startswith("* t77 ") for line in lines)
    assert "  and 2,960 more rows, 2,960 tries: none failed, and none took longer" in lines


def test_groups_are_rows_of_their_own_in_a_timeline_of_many_tasks() -> None:
    nodes = [node(f"g{number % 3}.t{number}")._replace(groups=[f"g{number % 3}"]) for number in range(60)]
    lines = timeline_text(drawn(nodes, *(tried(one.task_id, 0, 10) for one in nodes)), 80).splitlines()
    assert [line[2:9] for line in lines[1:5]] == ["g0 [20]", "g1 [20]", "g2 [20]", ""]


def test_ten_thousand_instances_are_one_row_and_a_bar_for_each_slot() -> None:
    mapped = Node("m", {S.SUCCESS: 9_999, S.FAILED: 1}, [], True)
    states = {7: S.FAILED}
    found = drawn(
        [mapped],
        *(
            tried("m", n * 10, n * 10 + 10, map_index=n, slot=1 + n % 2, state=states.get(n, S.SUCCESS))
            for n in range(10_000)
        ),
    )
    assert len(timeline_text(found).splitlines()) == 9
    assert [line.split(" :")[0] for line in gantt(found).splitlines() if " :" in line] == [
        "    m #91;5,000#93;",
        "    m #91;5,000#93; 4,999 success, 1 failed",
    ]


def test_nothing_has_begun() -> None:
    found = drawn([node("a", state=S.PENDING)])
    assert timeline_text(found) == "nothing of etl has begun\n"
    assert "    nothing has begun :0, 1ms" in gantt(found).splitlines()


def test_a_gantt_has_a_section_for_each_slot_and_a_bar_for_each_try() -> None:
    assert gantt(RUN).splitlines() == [
        "%% etl, run r, success",
        "gantt",
        "    title etl, run r, success",
        "    dateFormat x",
        "    axisFormat %H:%M:%S",
        "    todayMarker off",
        "    section slot 1",
        "    a :crit, done, 0, 10000",
        "    m#91;0#93; :done, 10000, 20000",
        "    m#91;1#93; failed :20000, 30000",
        "    m#91;2#93; :done, 30000, 40000",
        "    section slot 2",
        "    flaky try 1 failed :crit, 20000, 30000",
        "    flaky try 2 :crit, done, 70000, 100000",
    ]


def test_of_very_many_bars_a_gantt_keeps_the_longest() -> None:
    nodes = [node(f"t{number}") for number in range(2_000)]
    tries = [tried(one.task_id, number * 1000, number * 1000 + number) for number, one in enumerate(nodes)]
    lines = gantt(drawn(nodes, *tries)).splitlines()
    assert sum(" :" in line for line in lines) == MOST_BARS
    assert "    %% 1600 short bars are left out" in lines
    assert any(line.startswith("    t1999 :") for line in lines)
    assert not any(line.startswith("    t7 :") for line in lines)


@pytest.mark.parametrize("word", KEYWORDS)
def test_a_name_that_begins_like_a_keyword_has_a_code_in_front(word: str) -> None:
    safe = name_in_gantt(word)
    assert not re.match(
        r"[a-z]*\b(gantt|title|section|click|call|href|weekday|weekend)\b|acc|\d|$", safe, re.IGNORECASE
    )
    assert re.sub(r"#(\d+);", lambda match: chr(int(match[1])), safe) == (word.strip(" ") or "\xa0")


@given(st.lists(hostile_tries, max_size=12), st.lists(st.text(), max_size=4), st.integers(40, 120), st.booleans())
def test_no_drawing_is_wider_than_allowed_or_steers(
    tries: list[Try], names: list[str], width: int, ascii_only: bool
) -> None:
    ids = dict(zip("abc", [*HOSTILE[: len(tries)], *names], strict=False))
    nodes = [node(ids.get(one, one), [ids.get("a", "a")], S.FAILED) for one in "abc"]
    renamed = [one._replace(task_id=ids.get(one.task_id, one.task_id)) for one in tries]
    found = timeline(Picture("\x1b[31m", "\n", "x", nodes), renamed)
    for line in timeline_text(found, width, ascii_only=ascii_only).split("\n"):
        assert cell_len(line) <= width
        assert line.isprintable()
    for line in gantt(found).split("\n")[:-1]:
        assert GANTT_LINE.fullmatch(line), line


GANTT_LINE = re.compile(
    r"%% [A-Za-z0-9 _.,/+=:~?-]*|gantt|    title TEXT|    dateFormat x|    axisFormat %[HmS][%:. HMSLdm-]*s?"
    r"|    todayMarker off|    section TEXT|    TEXT :(crit, )?(done, |active, )?\d+, \d+(ms)?".replace(
        "TEXT", "[A-Za-z0-9_.,/+=#;-][A-Za-z0-9 _.,/+=#;-]*"
    )
)
