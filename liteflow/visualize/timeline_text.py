"""A timeline for a terminal: a row for each task with its waits and tries, then the slots, then the critical path.

Everything scales to the width; a try is at least one cell, and where tries share a cell the most urgent state is seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.cells import cell_len

from liteflow.execution.progress import seconds_text
from liteflow.states import BY_URGENCY, TaskInstanceState, counts_text, mapped_name
from liteflow.visualize.lines import WIDTH, Line, Span, clean, counted, cut, fitted, joined, plain, width_of, wrapped
from liteflow.visualize.picture import Node
from liteflow.visualize.timeline import Bar, Lane, Timeline, lanes

MOST_ROWS = 40
"""Rows of tasks. Where there are more tasks, groups are one row each, and of the others some are chosen."""

MOST_LANES = 24
MOST_PATH_LINES = 4

_FANCY = {
    "success": "█",
    "failed": "x",
    "up_for_retry": "x",
    "running": "▒",
    "up_for_reschedule": "░",
    "wait": "·",
    "ellipsis": "…",
    "then": " → ",
    "edge": "│",
}
_ASCII = {
    "success": "#",
    "failed": "x",
    "up_for_retry": "x",
    "running": ">",
    "up_for_reschedule": ":",
    "wait": ".",
    "ellipsis": "~",
    "then": " > ",
    "edge": "|",
}
_OTHER = "-"
"""For states that tries rarely have, such as skipped."""

_URGENCY = {str(state): place for place, state in enumerate(BY_URGENCY)}


class _Row(NamedTuple):
    """A task, or several, in the drawing."""

    name: str
    bars: Sequence[Bar]
    words: str
    """What its instances came to, where that is not plain success."""
    state: str


class _Page(NamedTuple):
    """How wide the columns are."""

    names: int
    cells: int
    """Of the drawing."""
    words: int
    marks: Mapping[str, str]

    @classmethod
    def fitting(cls, width: int, names: int, words: int, marks: Mapping[str, str]) -> _Page:
        """The drawing gets what names, words and the six cells between the columns leave."""
        return cls(names, width - names - words - 6, words, marks)

    def line(self, mark: Span, name: Span, drawing: Line, words: Line) -> Line:
        """A line of the page."""
        edge = (self.marks["edge"], "dim")
        name = (fitted(name[0], self.names, self.marks["ellipsis"]), name[1])
        head = [mark, (" ", ""), name, (" ", ""), edge, *drawing, edge, (" ", "")]
        return head + cut(words, self.words, self.marks["ellipsis"])


def timeline_lines(drawn: Timeline, *, width: int = WIDTH, ascii_only: bool = False) -> list[Line]:
    """The timeline in lines of at most `width` cells, at least 40; see `graph_lines`."""
    marks = _ASCII if ascii_only else _FANCY
    rows, left_out = _rows(drawn)
    slots = lanes(drawn)
    names = [clean(row.name) for row in rows] + [lane.name for lane in slots]
    name_cells = min(max(map(cell_len, names), default=8), max(10, width * 3 // 10))
    said = [_words(drawn, row) for row in rows] + [_use(drawn, lane) for lane in slots]
    words = min(max(map(width_of, said), default=8), width * 35 // 100)
    page = _Page.fitting(width, name_cells, words, marks)
    if not drawn.bars:
        return [cut([(f"nothing of {clean(drawn.dag_id)} has begun", "")], width, marks["ellipsis"])]
    lines = [_axis(drawn, page)]
    lines += [_row_line(drawn, row, page) for row in rows]
    if left_out:
        lines.append([("  ", ""), (left_out, "dim")])
    lines.append([])
    lines += [_lane_line(drawn, lane, page) for lane in slots[:MOST_LANES]]
    if len(slots) > MOST_LANES:
        lines.append([(f"  and {len(slots) - MOST_LANES:,} more slots", "dim")])
    lines += [[], *_path_lines(drawn, width, marks), _legend(drawn, marks)]
    return [joined(cut(line, width, marks["ellipsis"])) for line in lines]


def timeline_text(drawn: Timeline, width: int = WIDTH, *, ascii_only: bool = False) -> str:
    """The same without styles."""
    return plain(timeline_lines(drawn, width=width, ascii_only=ascii_only))


def _axis(drawn: Timeline, page: _Page) -> Line:
    """When is where: the beginning, the middle, the end."""
    whole = (drawn.ended_us - drawn.started_us) / 1_000_000
    half, end = seconds_text(whole / 2), seconds_text(whole)
    middle = page.cells // 2
    text = "0 s".ljust(middle - len(half) // 2) + half
    text = text.ljust(page.cells - len(end)) + end if len(text) + len(end) < page.cells else end.rjust(page.cells)
    return [(" " * (page.names + 4), ""), (text, "dim")]


# Tasks


def _rows(drawn: Timeline) -> tuple[list[_Row], str]:
    """The rows, and what is said of tasks that have none."""
    by_task: dict[str, list[Bar]] = {}
    for bar in drawn.bars:
        by_task.setdefault(bar.task_id, []).append(bar)
    nodes = list(drawn.nodes)
    if len(nodes) <= MOST_ROWS:
        return [_row([node], by_task) for node in nodes], ""
    parts = [list(found) for _, found in groupby(_by_group(nodes), key=lambda node: tuple(node.groups[:1]) or node)]
    rows = [_row(part, by_task) for part in parts]
    if len(rows) <= MOST_ROWS:
        return rows, ""
    wanted = set(sorted(range(len(rows)), key=lambda number: _interest(drawn, rows[number]), reverse=True)[:MOST_ROWS])
    left_out = [bar for number, row in enumerate(rows) if number not in wanted for bar in row.bars]
    said = f"and {len(rows) - len(wanted):,} more rows, {len(left_out):,} tries: none failed, and none took longer"
    if any(bar.state == "failed" for bar in left_out):
        said = f"and {len(rows) - len(wanted):,} more rows, {len(left_out):,} tries, failures among them"
    return [row for number, row in enumerate(rows) if number in wanted], said


def _by_group(nodes: Sequence[Node]) -> list[Node]:
    """The nodes in their order, those of an outermost group together."""
    first: dict[str, int] = {}
    places = [first.setdefault(node.groups[0], number) if node.groups else number for number, node in enumerate(nodes)]
    return [node for _, node in sorted(zip(places, nodes, strict=True), key=lambda pair: pair[0])]


def _interest(drawn: Timeline, row: _Row) -> tuple[bool, bool, int]:
    """What one wants to see first: failures, the critical path, what took long."""
    took = sum(drawn.end_of(bar) - bar.started_us for bar in row.bars)
    return row.state in ("failed", "running"), any(bar.on_critical_path for bar in row.bars), took


def _row(nodes: Sequence[Node], by_task: Mapping[str, Sequence[Bar]]) -> _Row:
    bars = [bar for node in nodes for bar in by_task.get(node.task_id, ())]
    counts: Counter[TaskInstanceState] = Counter()
    for node in nodes:
        counts.update(node.counts)
    many = len(nodes) > 1 or nodes[0].is_mapped
    state = str(Node("", counts, ()).state)
    words = counts_text(counts) if many else state
    name = nodes[0].name if len(nodes) == 1 else mapped_name(nodes[0].groups[0], len(nodes))
    return _Row(name, bars, "" if set(counts) == {TaskInstanceState.SUCCESS} else words, state)


def _row_line(drawn: Timeline, row: _Row, page: _Page) -> Line:
    critical = any(bar.on_critical_path for bar in row.bars)
    style = "critical" if critical else ""
    name = (clean(row.name), style)
    return page.line(("*" if critical else " ", style), name, _cells(drawn, row.bars, page), _words(drawn, row))


def _words(drawn: Timeline, row: _Row) -> Line:
    """How long it took from the first beginning to the last end, and what came of it."""
    if not row.bars:
        return counted(row.words)
    length = max(drawn.end_of(bar) for bar in row.bars) - min(bar.started_us for bar in row.bars)
    tries = max(bar.try_number for bar in row.bars)
    took = seconds_text(length / 1_000_000) + (f", {tries} tries" if tries > 1 else "")
    return [(took, ""), *([(" ", ""), *counted(row.words)] if row.words else [])]


def _cells(drawn: Timeline, bars: Iterable[Bar], page: _Page) -> Line:
    """Waits and tries over time."""
    states: list[str] = [""] * page.cells
    waits = [0] * (page.cells + 1)  # by how much more wait from here on
    for bar in bars:
        first, last = _place(drawn, bar.started_us, page), _last_place(drawn, bar, page)
        for cell in range(first, last + 1):
            if not states[cell] or _URGENCY[bar.state] < _URGENCY[states[cell]]:
                states[cell] = bar.state
        if bar.ready_us is not None:
            waits[_place(drawn, bar.ready_us, page)] += 1
            waits[first] -= 1
    waiting = 0
    line: Line = []
    for cell, state in enumerate(states):
        waiting += waits[cell]
        if state:
            line.append((_mark(state, page.marks), state))
        else:
            line.append((page.marks["wait"], "dim") if waiting else (" ", ""))
    return line


def _place(drawn: Timeline, moment: int, page: _Page) -> int:
    """The cell in which the moment is."""
    whole = max(1, drawn.ended_us - drawn.started_us)
    return min(page.cells - 1, max(0, (moment - drawn.started_us) * page.cells // whole))


def _last_place(drawn: Timeline, bar: Bar, page: _Page) -> int:
    """The last cell of a bar: that before its end, since what follows it begins there."""
    first = _place(drawn, bar.started_us, page)
    end = drawn.end_of(bar)
    whole = max(1, drawn.ended_us - drawn.started_us)
    return max(first, min(page.cells - 1, -(-(end - drawn.started_us) * page.cells // whole) - 1))


def _mark(state: str, marks: Mapping[str, str]) -> str:
    return marks.get(state, _OTHER)


# Slots


def _lane_line(drawn: Timeline, lane: Lane, page: _Page) -> Line:
    """What ran in a slot, with the names of what is long enough to be named."""
    line = _cells(drawn, (bar._replace(ready_us=None) for bar in lane.bars), page)
    free_from = 0
    for bar in lane.bars:
        first, last = _place(drawn, bar.started_us, page), _last_place(drawn, bar, page)
        first = max(first, free_from)
        name = ("*" if bar.on_critical_path else "") + clean(bar.name)
        room = last - first - 1  # a cell of the bar is seen on each side of its name
        if room >= min(4, cell_len(name)):
            text = fitted(name, min(room, cell_len(name)), page.marks["ellipsis"])
            style = "critical" if bar.on_critical_path else bar.state
            # The first cell has the text, those that it covers are empty: the line is as wide as before.
            line[first + 1] = (text, style)
            for cell in range(first + 2, first + 1 + cell_len(text)):
                line[cell] = ("", "")
            free_from = last + 1
    return page.line((" ", ""), (lane.name, ""), line, _use(drawn, lane))


def _use(drawn: Timeline, lane: Lane) -> Line:
    """How much of the time something ran in a slot."""
    busy = sum(drawn.end_of(bar) - bar.started_us for bar in lane.bars)
    share = min(100, 100 * busy // max(1, drawn.ended_us - drawn.started_us))
    return [(f"{share} % busy, {len(lane.bars):,} {'try' if len(lane.bars) == 1 else 'tries'}", "")]


# Below


def _path_lines(drawn: Timeline, width: int, marks: Mapping[str, str]) -> list[Line]:
    """The critical path: how much of the time it worked, and its tasks."""
    on_path = [bar for bar in drawn.bars if bar.on_critical_path]
    busy = sum(drawn.end_of(bar) - bar.started_us for bar in on_path)
    whole = seconds_text((drawn.ended_us - drawn.started_us) / 1_000_000)
    head = f"* critical path: {seconds_text(busy / 1_000_000)} of {whole} at work"
    words: list[Span] = [(clean(name), "critical") for name in drawn.critical_path]
    lines = wrapped(words, marks["then"], width - 2, most=MOST_PATH_LINES, ellipsis=marks["ellipsis"])
    return [[(head, "critical")], *([("  ", ""), *line] for line in lines)]


def _legend(drawn: Timeline, marks: Mapping[str, str]) -> Line:
    """What the marks mean that are there."""
    states = dict.fromkeys(sorted({bar.state for bar in drawn.bars}, key=_URGENCY.__getitem__))
    line: Line = [("  ", "")]
    for state in states:
        line += [(_mark(state, marks), state), (f" {state}  ", "dim")]
    return [*line, (f"{marks['wait']} waiting", "dim")]
