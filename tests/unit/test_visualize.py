"""Pictures: stored expectations of Mermaid text. That Mermaid itself parses it is the business of `nox -s mermaid`."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liteflow.states import TaskInstanceState as S
from liteflow.visualize import Node, Picture, flowchart, state_diagram
from liteflow.visualize.mermaid import COLOURS, escape
from tests.conftest import ROOT
from tests.mermaid.make import HOSTILE, pictures

DIAMOND = Picture(
    "etl",
    "r1",
    "failed",
    [
        Node("a", {S.SUCCESS: 1}, [], note="0.10 s"),
        Node("b", {S.FAILED: 1}, ["a"]),
        Node("c", {S.SUCCESS: 1}, ["a"]),
        Node("d", {S.UPSTREAM_FAILED: 1}, ["b", "c"]),
    ],
)


def test_a_run_with_its_states() -> None:
    assert flowchart(DIAMOND) == (
        "%% etl, run r1, failed\n"
        "flowchart LR\n"
        '    t0["a<br/>success 0.10 s"]\n'
        '    t1["b<br/>failed"]\n'
        '    t2["c<br/>success"]\n'
        '    t3["d<br/>upstream_failed"]\n'
        "    t0 --> t1\n"
        "    t0 --> t2\n"
        "    t1 --> t3\n"
        "    t2 --> t3\n"
        "    classDef success fill:#86efac,stroke:#15803d,color:#052e16\n"
        "    class t0,t2 success\n"
        "    classDef failed fill:#f87171,stroke:#991b1b,color:#450a0a\n"
        "    class t1 failed\n"
        "    classDef upstream_failed fill:#fdba74,stroke:#c2410c,color:#431407\n"
        "    class t3 upstream_failed\n"
    )


def test_a_mapped_task_is_one_node_with_its_instances_counted() -> None:
    picture = Picture(
        "m",
        "r",
        "failed",
        [
            Node("x", {S.SUCCESS: 10_000}, [], is_mapped=True),
            Node("add_one", {S.SUCCESS: 9_990, S.FAILED: 10}, ["x"], is_mapped=True),
            Node("sum", {S.UPSTREAM_FAILED: 1}, ["x", "add_one"]),
        ],
    )
    assert picture.edges() == [(0, 1), (0, 2), (1, 2)]
    assert flowchart(picture).splitlines()[2:8] == [
        '    t0["x #91;10,000#93;<br/>10,000 success"]',
        '    t1["add_one #91;10,000#93;<br/>9,990 success, 10 failed"]',
        '    t2["sum<br/>upstream_failed"]',
        "    t0 --> t1",
        "    t0 --> t2",
        "    t1 --> t2",
    ]
    assert "    class t1 failed" in flowchart(picture)


def test_an_edge_is_drawn_once_and_only_to_what_is_there() -> None:
    nodes = [Node("a", {S.SUCCESS: 1}, []), Node("b", {S.SUCCESS: 1}, ["a", "gone", "a"])]
    assert Picture("d", "r", "success", nodes).edges() == [(0, 1)]


@pytest.mark.parametrize(
    ("states", "drawn"),
    [
        ([S.SUCCESS, S.FAILED, S.UPSTREAM_FAILED], S.FAILED),
        ([S.RUNNING, S.UPSTREAM_FAILED], S.UPSTREAM_FAILED),
        ([S.UP_FOR_RETRY, S.RUNNING, S.PENDING], S.RUNNING),
        ([S.QUEUED, S.UP_FOR_RESCHEDULE], S.UP_FOR_RESCHEDULE),
        ([S.SUCCESS, S.PENDING], S.PENDING),
        ([S.SUCCESS, S.SKIPPED, S.REMOVED], S.SUCCESS),
        ([S.SKIPPED, S.REMOVED], S.SKIPPED),
    ],
)
def test_a_mapped_task_is_coloured_by_what_one_most_wants_to_know(states: list[S], drawn: S) -> None:
    assert Node("a", dict.fromkeys(states, 2), [], is_mapped=True).state is drawn


def test_states_in_which_no_instance_is_do_not_count() -> None:
    assert Node("a", {S.FAILED: 0, S.SUCCESS: 1}, [], is_mapped=True).state is S.SUCCESS


def test_a_dag_without_tasks_says_so() -> None:
    assert (
        flowchart(Picture("e", "r", "success", []))
        == '%% e, run r, success\nflowchart LR\n    empty["e has no tasks"]\n'
    )


def test_every_state_has_a_colour() -> None:
    assert set(COLOURS) == {str(state) for state in S}


LABEL = r'"[A-Za-z0-9 _.,/+=#;-]+(<br/>[A-Za-z0-9 _.,/+=#;-]+)?"'
LINE = re.compile(
    r'%% [A-Za-z0-9 _.,/+=:~?-]*|flowchart (LR|TD)| +t\d+\[LABEL\]| +subgraph g\d+\[LABEL\]| +end'
    r'|    t\d+ -->(\|LABEL\|)? t\d+|    classDef \w+ fill:#\w{6},stroke:#\w{6},color:#\w{6}|    class [t\d,]+ \w+'
    r'|    empty\[LABEL\]|    %% \d+ edges, [\w ]+'.replace("LABEL", LABEL)
)  # fmt: skip


@pytest.mark.parametrize("name", list(pictures()))
def test_nothing_but_the_expected_lines_comes_out(name: str) -> None:
    for line in flowchart(pictures()[name]).splitlines():
        assert LINE.fullmatch(line), line


@given(st.text())
def test_escaped_text_holds_nothing_that_means_anything(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9 _.,/+=#;-]*", escape(text))


def test_escaped_text_reads_as_it_was() -> None:
    for text in HOSTILE:
        back = re.sub(r"#(\d+);", lambda match: chr(int(match.group(1))), escape(text))
        assert back == re.sub("[\x00-\x1f\ud800]", "\ufffd", text)


def test_the_readme_has_the_state_diagram_of_the_table() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"```mermaid\n{state_diagram()}```" in readme, (
        "python -c 'import liteflow.visualize as v; print(v.state_diagram())'"
    )
