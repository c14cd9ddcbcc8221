"""A run, or a dag, drawn for a terminal: a row for each task, upstream above, and lines between them.

Tasks with the same downstream share a line, so that fifty tasks before a join need one and not fifty: see
`channels.py`. Where even so there are too many lines, each row says instead what is upstream of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rich.cells import cell_len

from liteflow.states import TaskInstanceState, counts_text
from liteflow.visualize.channels import gutters, in_ascii
from liteflow.visualize.lines import WIDTH, Line, clean, counted, cut, fitted, plain
from liteflow.visualize.picture import Node, Picture

MOST_NAMED = 3
"""Upstream tasks that a row without lines names."""

MOST_DEEP = 10
"""Steps to the right of a row without lines, for what is far down."""

FANCY = {"node": "●", "plan": "○", "alone": "▪", "ellipsis": "…", "arrow": "←"}
ASCII = {"node": "*", "plan": "o", "alone": "=", "ellipsis": "~", "arrow": "<-"}


class Row(NamedTuple):
    """A task in the drawing, or a group of which only the counts are shown."""

    name: str
    words: str
    state: TaskInstanceState
    upstream: Sequence[int]
    """Numbers of rows."""
    is_plan: bool
    labels: Sequence[str] = ()
    """Words on the edges into it."""
    is_alone: bool = False
    """Whether no edge touches it."""

    @property
    def mark(self) -> str:
        """The name of the mark that stands for it."""
        return "alone" if self.is_alone else "plan" if self.is_plan else "node"


def graph_lines(picture: Picture, *, width: int = WIDTH, ascii_only: bool = False, expand: bool = False) -> list[Line]:
    """The picture in lines of at most `width` cells, at least 20. `ascii_only`: for terminals that have nothing else.

    A group is one row with its counts, unless `expand` is set or what is in it stands on both sides of something else.
    """
    marks = ASCII if ascii_only else FANCY
    if not picture.nodes:
        return [cut([(clean(picture.dag_id), ""), (" has no tasks", "")], width, marks["ellipsis"])]
    rows = _rows(picture, expand)
    order = _order(rows)
    found = gutters(_below(rows, order), order, {number: marks[row.mark] for number, row in enumerate(rows)})
    if found is None:
        return _listed(rows, order, width, marks)
    drawn = max(len(gutter.text) for gutter in found)
    room = _room_for_names([clean(row.name) for row in rows], width - drawn - 1)
    lines: list[Line] = []
    for text, number, at in found:
        shown = in_ascii(text) if ascii_only else text
        if number is None:
            lines.append([(shown, "dim")])
            continue
        head: Line = [
            (shown[:at], "dim"),
            (text[at], rows[number].state),
            (shown[at + 1 :].ljust(drawn - at - 1), "dim"),
        ]
        lines.append(_finished(head, rows[number], room, width, marks))
    return lines


def graph_text(picture: Picture, *, width: int = WIDTH, ascii_only: bool = False, expand: bool = False) -> str:
    """The same without styles."""
    return plain(graph_lines(picture, width=width, ascii_only=ascii_only, expand=expand))


def _room_for_names(names: Iterable[str], cells: int) -> int:
    """Cells for the column of names, when so many are left for names and words."""
    return min(max(map(cell_len, names)), max(8, cells * 6 // 10))


def _finished(head: Line, row: Row, room: int, width: int, marks: Mapping[str, str]) -> Line:
    """A row from its head on: name, words, labels."""
    words: Line = [(" ", ""), (fitted(clean(row.name), room, marks["ellipsis"]), ""), ("  ", ""), *counted(row.words)]
    labels = ", ".join(clean(label) for label in row.labels if label.strip())
    if labels:
        words.append((f" {marks['arrow']} {labels}", "dim"))
    return cut(head + words, width, marks["ellipsis"])


# Rows


def _rows(picture: Picture, expand: bool) -> list[Row]:
    """The tasks, with groups in place of what is in them."""
    edges = picture.edges()
    holders = [""] * len(picture.nodes) if expand else _collapsed(picture, edges)
    numbers: dict[str, int] = {}
    row_of: list[int] = []
    members: list[list[Node]] = []
    for node, group in zip(picture.nodes, holders, strict=True):
        number = numbers.setdefault(group, len(members)) if group else len(members)
        if number == len(members):
            members.append([])
        members[number].append(node)
        row_of.append(number)
    upstream: list[dict[int, None]] = [{} for _ in members]
    labels: list[dict[str, None]] = [{} for _ in members]
    for start, end in edges:
        if row_of[start] != row_of[end]:
            upstream[row_of[end]][row_of[start]] = None
            labels[row_of[end]][picture.label(start, end)] = None
    group_of = {number: group for group, number in numbers.items()}
    touched = {up for ups in upstream for up in ups}
    return [
        _row(group_of.get(number), nodes, list(upstream[number]), list(labels[number]))._replace(
            is_alone=not upstream[number] and number not in touched
        )
        for number, nodes in enumerate(members)
    ]


def _row(group: str | None, nodes: Sequence[Node], upstream: Sequence[int], labels: Sequence[str]) -> Row:
    if group is None:
        (node,) = nodes
        return Row(node.name, node.words, node.state, upstream, not node.counts, labels)
    counts: Counter[TaskInstanceState] = Counter()
    for node in nodes:
        counts.update(node.counts)
    name = f"{group} ({len(nodes):,} tasks)" if len(nodes) > 1 else f"{group} (1 task)"
    state = Node("", counts, ()).state
    return Row(name, counts_text(counts), state, upstream, not any(node.counts for node in nodes), labels)


def _collapsed(picture: Picture, edges: Sequence[tuple[int, int]]) -> list[str]:
    """For each node the group that stands for it, the outermost that can; empty for none.

    A group cannot where a way leads out of it and back into it: nothing could be drawn above the other.
    """
    kept_open: set[str] = set()
    while True:
        holders = [next((group for group in node.groups if group not in kept_open), "") for node in picture.nodes]
        names = [holder or f"\0{number}" for number, holder in enumerate(holders)]
        stuck = _in_circles({(names[start], names[end]) for start, end in edges if names[start] != names[end]})
        around = {name for name in stuck if not name.startswith("\0")}
        if not around:
            return holders
        kept_open |= around


def _in_circles(edges: set[tuple[str, str]]) -> set[str]:
    """What remains when all that has nothing before it, or nothing behind it, is taken away again and again."""
    for reverse in (False, True):
        after: dict[str, list[str]] = {}
        waiting: Counter[str] = Counter()
        for start, end in edges:
            start, end = (end, start) if reverse else (start, end)
            after.setdefault(start, []).append(end)
            waiting[end] += 1
        free = [name for name in after if not waiting[name]]
        for name in free:  # grows while it is walked
            for other in after.get(name, ()):
                waiting[other] -= 1
                if not waiting[other]:
                    free.append(other)
        gone = set(free)
        edges = {(start, end) for start, end in edges if start not in gone and end not in gone}
    return {name for edge in edges for name in edge}


def _order(rows: Sequence[Row]) -> list[int]:
    """The rows, upstream above, what follows one as near below it as can be. What no edge touches comes last, with rows
    that go round in a circle, as only a stranger writes them."""
    downstream: list[list[int]] = [[] for _ in rows]
    waiting = [len(row.upstream) for row in rows]
    for number, row in enumerate(rows):
        for up in row.upstream:
            downstream[up].append(number)
    ready = [number for number in reversed(range(len(rows))) if not waiting[number] and not rows[number].is_alone]
    order: list[int] = []
    while ready:
        number = ready.pop()
        order.append(number)
        for below in reversed(downstream[number]):
            waiting[below] -= 1
            if not waiting[below]:
                ready.append(below)
    return order + [number for number, count in enumerate(waiting) if count or rows[number].is_alone]


def _below(rows: Sequence[Row], order: Sequence[int]) -> list[set[int]]:
    """For each row those that follow it. Edges that lead upwards, as only a stranger writes them, are left out."""
    place = {number: at for at, number in enumerate(order)}
    below: list[set[int]] = [set() for _ in rows]
    for number, row in enumerate(rows):
        for up in row.upstream:
            if place[up] < place[number]:
                below[up].add(number)
    return below


# Without lines


def _listed(rows: Sequence[Row], order: Sequence[int], width: int, marks: Mapping[str, str]) -> list[Line]:
    """Rows that say what is upstream of them, further to the right the further down they are."""
    depth: dict[int, int] = {}
    for number in order:
        depth[number] = max((depth[up] + 1 for up in rows[number].upstream if up in depth), default=0)
    heads = {number: "  " * min(depth[number], MOST_DEEP) for number in order}
    names = {number: clean(rows[number].name) for number in order}
    most = max(cell_len(heads[number]) + cell_len(names[number]) for number in order)
    room = min(most, max(8, width * 5 // 10))
    lines = []
    for number in order:
        row, indent = rows[number], cell_len(heads[number])
        mark = marks[row.mark]
        ups = [clean(rows[up].name) for up in row.upstream[:MOST_NAMED]]
        more = f", and {len(row.upstream) - MOST_NAMED:,} more" if len(row.upstream) > MOST_NAMED else ""
        line = _finished([(heads[number], ""), (mark, row.state)], row, max(4, room - indent), width, marks)
        if ups:
            line = [*line, (f"  {marks['arrow']} {', '.join(ups)}{more}", "dim")]
        lines.append(cut(line, width, marks["ellipsis"]))
    return lines
