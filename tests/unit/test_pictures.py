"""Pictures for Graphviz and the terminal, and what they are made of: groups, labels, dags from their code."""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from liteflow import Dag, Label, TaskGroup, setup, task, teardown
from liteflow.states import TaskInstanceState as S
from liteflow.visualize import Node, Picture, dag_picture, dot, flowchart, graph_text
from liteflow.visualize.channels import MOST_CHANNELS
from liteflow.visualize.lines import cut, fitted, plain, width_of, wrapped
from liteflow.visualize.notebook import MOST_DRAWN, mime_bundle
from liteflow.visualize.picture import boxes, grouped, with_code
from tests.mermaid.make import HOSTILE, KEYWORDS, pictures


def node(task_id: str, *upstream: str, state: S = S.SUCCESS, groups: Sequence[str] = ()) -> Node:
    return Node(task_id, {state: 1}, upstream, groups=groups)


def picture(*nodes: Node, labels: Mapping[tuple[str, str], str] | None = None) -> Picture:
    return Picture("etl", "r1", "success", nodes, labels or {})


# What they are made of


def test_what_two_tasks_have_before_a_dot_is_a_group_and_what_one_has_is_a_name() -> None:
    ids = ["load.a", "load.inner.b", "load.inner.c", "file.csv", "v1.2.x", ".odd", "..", "plain"]
    found = grouped([node(task_id) for task_id in ids])
    assert {one.task_id: list(one.groups) for one in found} == {
        "load.a": ["load"],
        "load.inner.b": ["load", "load.inner"],
        "load.inner.c": ["load", "load.inner"],
        "file.csv": [],
        "v1.2.x": [],
        ".odd": [],
        "..": [],
        "plain": [],
    }


def test_boxes_hold_nodes_and_boxes_in_the_order_of_their_first_nodes() -> None:
    whole = boxes(
        picture(node("a"), node("x.y.b", groups=["x", "x.y"]), node("x.c", groups=["x"]), node("z.d", groups=["z"]))
    )
    assert (whole.group_id, whole.nodes, [box.group_id for box in whole.boxes]) == ("", [0], ["x", "z"])
    assert (whole.boxes[0].nodes, whole.boxes[0].boxes[0].nodes) == ([2], [1])


@task
def start() -> list[int]:
    return []


@task(trigger_rule="none_failed")
def one(x: int) -> int:
    return x


@setup
def up() -> None: ...


@teardown
def down() -> None: ...


def dag_with_everything() -> Dag:
    with Dag("code") as dag:
        begun = start()
        with TaskGroup("group"):
            mapped = one.expand(x=begun)
            with TaskGroup("inner", prefix_group_id=False):
                begin, end = up(), down()
                begin >> Label("if well") >> end
        mapped >> end
    return dag


def test_a_dag_is_drawn_from_its_code_with_its_groups_and_labels() -> None:
    found = dag_picture(dag_with_everything())
    assert (found.title, found.run_id, found.labels) == ("code", "", {("up", "down"): "if well"})
    assert [(one.name, list(one.upstream), list(one.groups), one.words) for one in found.nodes] == [
        ("start", [], [], ""),
        ("up", [], ["group", "group.inner"], "setup"),
        ("group.one []", ["start"], ["group"], "none_failed"),
        ("down", ["up", "group.one"], ["group", "group.inner"], "teardown"),
    ]
    assert {one.state for one in found.nodes} == {S.PENDING}


def test_a_run_gets_groups_and_labels_from_the_code_of_its_dag() -> None:
    run = picture(node("group.one"), node("down", "group.one"), node("gone.since"))
    found = with_code(run, dag_with_everything())
    assert [list(one.groups) for one in found.nodes] == [["group"], ["group", "group.inner"], []]
    assert found.labels == {("up", "down"): "if well"}


def test_a_flowchart_has_subgraphs_and_labels() -> None:
    drawn = flowchart(
        picture(
            node("a"), node("load.b", "a", groups=["load"]), labels={("a", "load.b"): 'if "well"', ("a", "x"): "no"}
        )
    )
    assert drawn.splitlines()[2:7] == [
        '    t0["a<br/>success"]',
        '    subgraph g0["load"]',
        '        t1["load.b<br/>success"]',
        "    end",
        '    t0 -->|"if #34;well#34;"| t1',
    ]


# Graphviz


def test_dot_has_clusters_states_counts_and_labels() -> None:
    found = picture(
        node("a"),
        Node("load.b", {S.SUCCESS: 9_990, S.FAILED: 10}, ["a"], True, groups=["load"]),
        node("load.inner.c", "load.b", groups=["load", "load.inner"]),
        labels={("a", "load.b"): "if well"},
    )
    drawn = dot(found, direction="TD")
    assert "rankdir=TB" in drawn
    assert "rankdir=LR" in dot(found)
    assert (
        '        t1 [label="load.b [10,000]\\n9,990 success, 10 failed", fillcolor="#f87171", color="#991b1b", '
        'fontcolor="#450a0a", peripheries=2]'
    ) in drawn.splitlines()
    assert '    t0 -> t1 [label="if well"]' in drawn.splitlines()
    assert [line.strip() for line in drawn.splitlines() if "subgraph" in line] == [
        "subgraph cluster_0 {",
        "subgraph cluster_1 {",
    ]


DOT_LINE = re.compile(
    r'digraph "S*" \{|    graph \[label="S*", labelloc=t, rankdir=(LR|TB), fontname="Helvetica"\]'
    r'|    node \[shape=box, style="rounded,filled", fontname="Helvetica"\]'
    r'|    edge \[fontname="Helvetica", fontsize=10\]| +subgraph cluster_\d+ \{| *\}'
    r'| +graph \[label="S*", style="rounded", color="#a1a1aa"\]|    empty \[label="S*"\]'
    r'| +t\d+ \[label="S*", fillcolor="#\w{6}", color="#\w{6}", fontcolor="#\w{6}"(, peripheries=2)?\]'
    r'|    t\d+ -> t\d+( \[label="S*"\])?'.replace("S*", r'(?:[^"\\&<>\n]|\\"|\\\\|\\n|&(?:amp|lt|gt);)*')
)


@given(st.lists(st.sampled_from([*HOSTILE, *KEYWORDS, "\\N", "a\\", '"', "&#34;"]) | st.text(), max_size=5))
def test_nothing_in_an_id_ends_a_label_of_graphviz(texts: list[str]) -> None:
    nodes = [Node(text, {S.FAILED: 1}, texts[:number], True, text, [text]) for number, text in enumerate(texts)]
    labels = {(text, other): text for text in texts for other in texts}
    for line in dot(Picture("".join(texts), "r", "x", nodes, labels)).split("\n")[:-1]:
        assert DOT_LINE.fullmatch(line), line


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize("name", list(pictures()))
def test_graphviz_reads_ids_as_they_were(name: str) -> None:
    found = pictures()[name]
    done = subprocess.run(
        ["dot", "-Tsvg"], input=dot(found), capture_output=True, timeout=60, check=False, encoding="utf-8"
    )
    assert (done.returncode, done.stderr) == (0, "")
    texts = [element.text for element in ElementTree.fromstring(done.stdout).iter() if element.tag.endswith("}text")]
    for one in found.nodes:
        shown = re.sub("[\x00-\x1f\ud800]", "\ufffd", one.name)
        if shown.strip():
            assert shown in [(text or "").replace("\xa0", " ") for text in texts]


# The terminal


def test_a_drawing_has_lines_from_upstream_to_downstream() -> None:
    found = picture(
        node("extract"),
        node("a", "extract"),
        node("b", "extract", state=S.FAILED),
        node("load", "a", "b", state=S.UPSTREAM_FAILED),
    )
    assert graph_text(found).splitlines() == [
        "●     extract  success",
        "├─●▸╮ a        success",
        "●   │ b        failed",
        "●───╯ load     upstream_failed",
    ]
    assert graph_text(found, ascii_only=True).splitlines()[1:] == [
        "+-*>+ a        success",
        "*   | b        failed",
        "*---+ load     upstream_failed",
    ]


def test_a_group_is_one_row_with_counts_unless_it_is_opened() -> None:
    found = picture(
        node("a"),
        node("load.b", "a", groups=["load"]),
        Node("load.c", {S.SUCCESS: 19, S.FAILED: 1}, ["load.b"], True, groups=["load"]),
        node("d", "load.c"),
    )
    assert graph_text(found).splitlines() == [
        "● a               success",
        "● load (2 tasks)  20 success, 1 failed",
        "● d               success",
    ]
    assert graph_text(found, expand=True).splitlines() == [
        "● a            success",
        "● load.b       success",
        "● load.c [20]  19 success, 1 failed",
        "● d            success",
    ]


def test_a_group_with_something_between_its_tasks_is_not_one_row() -> None:
    found = picture(node("g.a", groups=["g"]), node("x", "g.a"), node("g.b", "x", groups=["g"]))
    assert [line.split()[1] for line in graph_text(found).splitlines()] == ["g.a", "x", "g.b"]


def test_of_a_group_that_cannot_be_one_row_the_groups_in_it_can() -> None:
    inner = ["g", "g.i"]
    found = picture(
        node("g.i.a", groups=inner),
        node("g.i.b", "g.i.a", groups=inner),
        node("x", "g.i.b"),
        node("g.c", "x", groups=["g"]),
    )
    assert [line.split()[1] for line in graph_text(found).splitlines()] == ["g.i", "x", "g.c"]


def test_fifty_tasks_with_the_same_downstream_share_a_line() -> None:
    names = [f"t{number}" for number in range(50)]
    found = picture(node("first"), *(node(name, "first") for name in names), node("last", *names))
    lines = graph_text(found).splitlines()
    assert len(lines) == 52
    assert lines[1:3] == ["├─●▸╮ t0     success", "├─●▸┤ t1     success"]
    assert lines[-2:] == ["●   │ t49    success", "●───╯ last   success"]
    assert edges_drawn(lines) == {(start, end) for name in names for start, end in [("first", name), (name, "last")]}


def test_where_there_are_too_many_lines_rows_say_what_is_upstream() -> None:
    width = MOST_CHANNELS + 2
    starts = [node(f"a{number}") for number in range(width)]
    ends = [node(f"b{number}", f"a{number}", f"a{(number + 3) % width}") for number in range(width)]
    lines = graph_text(picture(*starts, *ends, node("all", *(one.task_id for one in starts)))).splitlines()
    assert "  ● b0  success  ← a0, a3" in [re.sub("  +", "  ", line) for line in lines]
    assert next(line for line in lines if " all " in line).endswith("← a0, a1, a2, and 7 more")


def test_a_dag_without_tasks_says_so() -> None:
    assert graph_text(picture()) == "etl has no tasks\n"


def test_a_leaf_does_not_seem_to_lead_to_what_stands_below_it() -> None:
    found = picture(node("a"), node("b", "a"), node("c"), node("d", "c"))
    assert graph_text(found).splitlines() == ["● a  success", "● b  success", "", "● c  success", "● d  success"]
    assert graph_text(picture(node("a"), node("b"))).splitlines() == ["▪ a  success", "▪ b  success"]


def edges_drawn(lines: Sequence[str]) -> set[tuple[str, str]]:
    """The edges that somebody sees who follows the lines with a finger, knowing nothing of how they are made."""
    found: set[tuple[str, str]] = set()
    flows: dict[int, set[str]] = {}  # by column, what comes down in it
    for line in lines:
        match = re.match(r"^([^a-zA-Z]*)(\w*)", line)
        assert match is not None
        gutter, name = match[1], match[2]
        for at, mark in enumerate(gutter):
            assert (mark in "│├┼┴╰╯") <= bool(flows.get(at)), f"a line from nowhere: {line}"
        now = {at: set(flows.get(at, ()) if mark != "╮" else ()) for at, mark in enumerate(gutter) if mark in "│├┤┼╮"}
        marks = [at for at, mark in enumerate(gutter) if mark in "●▪"]
        if marks:
            (here,) = marks
            leads_out = gutter[here + 1 : here + 2] == "▸"
            reached = [at for step in ((-1,) if leads_out else (-1, 1)) for at in along(gutter, here, step)]
            reached += [here] if gutter[here] == "●" else []
            found |= {(one, name) for at in reached for one in flows.get(at, ())}
            if leads_out:
                now[along(gutter, here, 1)[-1]].add(name)
            elif gutter[here] == "●":
                now[here] = {name}
        for at, mark in enumerate(gutter):
            if not marks and mark in "╰╯":
                (end,) = along(gutter, at, 1 if mark == "╰" else -1)
                now[end] |= flows[at]
        flows = now
    return found


def along(gutter: str, at: int, step: int) -> list[int]:
    """Where a line that leaves a place to one side joins others; it passes below those that it crosses."""
    joined = []
    at += step
    while 0 <= at < len(gutter) and gutter[at] in "─▸│├┤┼╰╯┴╮":
        if gutter[at] == "│" and not (0 <= at + step < len(gutter) and gutter[at + step] == "─"):
            break
        if gutter[at] in ("├┼╰┴" if step < 0 else "┤┼╯┴╮"):
            joined.append(at)
            if gutter[at] in ("├╰" if step < 0 else "┤╯╮"):
                break
        at += step
    return joined


@st.composite
def graphs(draw: st.DrawFn) -> Picture:
    size = draw(st.integers(1, 12))
    nodes = []
    for number in range(size):
        ups = draw(st.sets(st.integers(0, number - 1), max_size=4)) if number else set()
        nodes.append(node(f"n{number}", *(f"n{up}" for up in sorted(ups))))
    return picture(*nodes)


@given(graphs())
def test_the_lines_say_the_edges_and_nothing_else(found: Picture) -> None:
    lines = graph_text(found).splitlines()
    if "←" in "".join(lines):
        return
    wanted = {(found.nodes[start].task_id, found.nodes[end].task_id) for start, end in found.edges()}
    assert edges_drawn(lines) == wanted, "\n" + "\n".join(lines)


hostile = (
    st.sampled_from([*HOSTILE, *KEYWORDS, "e\u0301" * 40, "日本語" * 20, "❤\ufe0f👩\u200d👩", "\u202eabc"]) | st.text()
)


@given(st.lists(hostile, max_size=8), st.integers(20, 120), st.booleans(), st.booleans())
def test_no_line_is_wider_than_allowed_or_steers_the_terminal(
    texts: list[str], width: int, ascii_only: bool, expand: bool
) -> None:
    nodes = [
        Node(text, {S.FAILED: 1 + number} if number % 3 else {}, texts[:number][-3:], number % 2 == 1, "", [text])
        for number, text in enumerate(texts)
    ]
    labels = {(text, other): text for text in texts for other in texts}
    found = Picture("".join(texts)[:40], "r", "success", nodes, labels)
    for line in graph_text(found, width=width, ascii_only=ascii_only, expand=expand).split("\n"):
        assert cell_len(line) <= width
        assert line.isprintable()


@given(st.text(), st.integers(0, 30))
def test_fitted_text_is_as_wide_as_it_should_be(text: str, cells: int) -> None:
    text = "".join(filter(str.isprintable, text))
    assert cell_len(fitted(text, cells, "…")) == cells


@given(st.lists(st.text("ab日\u0301", max_size=6), max_size=6), st.integers(1, 20))
def test_a_cut_line_begins_as_it_did(pieces: list[str], cells: int) -> None:
    line = [(piece, "success") for piece in pieces]
    short = cut(line, cells, "…")
    assert width_of(short) <= cells
    whole, kept = "".join(pieces), "".join(text for text, _ in short)
    assert kept == whole or (kept.endswith("…") and whole.startswith(kept[:-1]))


def test_words_that_have_no_room_are_counted() -> None:
    words = [(f"word{number}", "") for number in range(20)]
    lines = wrapped(words, " > ", 20, most=3, ellipsis="…")
    assert plain(lines).splitlines() == ["word0 > word1 >", "word2 > word3 >", "word4 > word5 >", "and 14 more"]


def test_five_thousand_tasks_take_no_quadratic_time() -> None:
    nodes = [node("n0"), *(node(f"n{number}", f"n{number - 1}", "n0") for number in range(1, 5_000))]
    assert len(graph_text(picture(*nodes)).splitlines()) == 5_000


# Notebooks


def test_a_notebook_gets_text_and_mermaid() -> None:
    bundle = dag_with_everything()._repr_mimebundle_(include=None, exclude=None)
    assert set(bundle) == {"text/plain", "text/vnd.mermaid"}
    assert bundle["text/vnd.mermaid"].startswith("%% code\nflowchart LR\n")
    assert bundle["text/plain"].splitlines()[0] == "code, 4 tasks"
    assert "group.one []" in bundle["text/plain"]


def test_a_notebook_gets_no_megabytes_of_a_large_dag() -> None:
    large = picture(*(node(f"n{number}") for number in range(10_000)))
    assert mime_bundle(large) == {"text/plain": "etl, run r1, success, 10,000 tasks"}
    long = picture(*(node(f"{'n' * 240}{number}") for number in range(MOST_DRAWN)))
    assert set(mime_bundle(long)) == {"text/plain"}
    names = [f"n{number}" for number in range(30)]
    dense = picture(*map(node, names), *(node(f"m{number}", *names) for number in range(30)))
    assert set(mime_bundle(dense)) == {"text/plain"}


def test_a_dag_that_is_not_finished_or_not_here_shows_its_name() -> None:
    with pytest.raises(ZeroDivisionError), Dag("half") as dag:
        a, b = start.override(task_id="a")(), start.override(task_id="b")()
        a >> b
        b >> a
        raise ZeroDivisionError
    assert dag._repr_mimebundle_() == {"text/plain": "<Dag half>"}
    dag = Dag("loaded")
    dag.is_metadata_only = True
    assert dag._repr_mimebundle_() == {"text/plain": "<Dag loaded>"}
