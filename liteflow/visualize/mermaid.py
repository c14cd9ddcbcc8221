"""A run, or a dag, as a Mermaid flowchart.

Ids and notes are untrusted: every character but plain letters, digits and a few marks is written as a character
code, so that nothing in them can end a label, begin a directive or become HTML.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from liteflow.states import TaskInstanceState
from liteflow.visualize.colours import COLOURS
from liteflow.visualize.picture import Box, Picture, boxes

MOST_EDGES = 500
"""Mermaid draws no more than this many edges unless whoever embeds it raises `maxEdges`."""

MOST_CHARACTERS = 50_000
"""The same for text and `maxTextSize`."""

_NOT_IN_COMMENT = re.compile(r"[^A-Za-z0-9 _.,/+=:~-]", re.ASCII)  # what no id has, for there are no codes in comments
_SAFE = re.compile(r"[^A-Za-z0-9 _.,/+=-]", re.ASCII)
STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    """The text as it may stand in a quoted label.

    Controls, lone surrogates, which are no characters, and what turns the direction of writing become U+FFFD: as codes
    they would be back once the label is drawn.
    """
    return _SAFE.sub(lambda match: f"#{_code(match.group())};", text)


def _code(character: str) -> int:
    return 0xFFFD if STEERING.match(character) else ord(character)


def _label(first: str, *others: str) -> str:
    """The lines as one quoted label. An empty one is no label to Mermaid: the first line gets a space that stays."""
    return f'"{"<br/>".join([escape(first) or "#160;", *map(escape, filter(None, others))])}"'


def comment(text: str) -> str:
    """A line that Mermaid passes over."""
    return f"%% {_NOT_IN_COMMENT.sub('?', text)}"


def flowchart(picture: Picture, *, direction: str = "LR") -> str:
    """The picture as a Mermaid flowchart, `direction` LR or TD: each task with its state as a class, each group as a
    subgraph, each edge with its label."""
    lines = [comment(picture.title), f"flowchart {direction}"]
    edges = picture.edges()
    if len(edges) > MOST_EDGES:
        lines.append(f"    %% {len(edges)} edges, more than Mermaid draws unless maxEdges is raised")
    if not picture.nodes:
        lines.append(f"    empty[{_label(f'{picture.dag_id} has no tasks')}]")
    lines += _drawn(picture, boxes(picture), 1, itertools.count())
    for start, end in edges:
        words = picture.label(start, end)
        label = f"|{_label(words)}|" if words.strip() else ""
        lines.append(f"    t{start} -->{label} t{end}")
    by_state: dict[str, list[str]] = {}
    for number, node in enumerate(picture.nodes):
        by_state.setdefault(node.state, []).append(f"t{number}")
    for state in TaskInstanceState:
        if state in by_state:
            fill, border, text = COLOURS[state]
            lines.append(f"    classDef {state} fill:{fill},stroke:{border},color:{text}")
            lines.append(f"    class {','.join(by_state[state])} {state}")
    return "\n".join(lines) + "\n"


def _drawn(picture: Picture, box: Box, depth: int, numbers: Iterator[int]) -> Iterator[str]:
    """The nodes in a group, and those in the groups in it."""
    indent = "    " * depth
    for number in box.nodes:
        node = picture.nodes[number]
        yield f"{indent}t{number}[{_label(node.name, node.words)}]"
    for inner in box.boxes:
        yield f"{indent}subgraph g{next(numbers)}[{_label(inner.group_id)}]"
        yield from _drawn(picture, inner, depth + 1, numbers)
        yield f"{indent}end"
