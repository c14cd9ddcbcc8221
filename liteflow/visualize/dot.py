"""A run, or a dag, in Graphviz's language.

Ids and notes are untrusted: they stand in quoted labels only, in which backslashes, quotes and ampersands are escaped
and nothing steers. Nodes and clusters are named by number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from liteflow.visualize.colours import COLOURS
from liteflow.visualize.mermaid import STEERING
from liteflow.visualize.picture import Box, Node, Picture, boxes

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "&": "&amp;", "<": "&lt;", ">": "&gt;"})


def quoted(*lines: str) -> str:
    """The lines as one quoted label. Controls and what turns the direction of writing become U+FFFD."""
    return '"' + "\\n".join(STEERING.sub("\ufffd", line).translate(_ESCAPES) for line in lines) + '"'


def dot(picture: Picture, *, direction: str = "LR") -> str:
    """The picture for Graphviz, `direction` LR or TD: states as colours, a mapped task with a double border, each
    group as a cluster."""
    rank = "TB" if direction == "TD" else "LR"
    lines = [
        f"digraph {quoted(picture.dag_id)} {{",
        f'    graph [label={quoted(picture.title)}, labelloc=t, rankdir={rank}, fontname="Helvetica"]',
        '    node [shape=box, style="rounded,filled", fontname="Helvetica"]',
        '    edge [fontname="Helvetica", fontsize=10]',
    ]
    if not picture.nodes:
        lines.append(f"    empty [label={quoted(f'{picture.dag_id} has no tasks')}]")
    lines += _drawn(picture, boxes(picture), 1, itertools.count())
    for start, end in picture.edges():
        words = picture.label(start, end)
        label = f" [label={quoted(words)}]" if words.strip() else ""
        lines.append(f"    t{start} -> t{end}{label}")
    return "\n".join([*lines, "}"]) + "\n"


def _drawn(picture: Picture, box: Box, depth: int, numbers: Iterator[int]) -> Iterator[str]:
    """The nodes in a group, and those in the groups in it."""
    indent = "    " * depth
    for number in box.nodes:
        yield f"{indent}t{number} {_attributes(picture.nodes[number])}"
    for inner in box.boxes:
        yield f"{indent}subgraph cluster_{next(numbers)} {{"
        yield f'{indent}    graph [label={quoted(inner.group_id)}, style="rounded", color="#a1a1aa"]'
        yield from _drawn(picture, inner, depth + 1, numbers)
        yield f"{indent}}}"


def _attributes(node: Node) -> str:
    fill, border, text = COLOURS[node.state]
    label = quoted(*filter(None, [node.name, node.words]))
    twice = ", peripheries=2" if node.is_mapped else ""
    return f'[label={label}, fillcolor="{fill}", color="{border}", fontcolor="{text}"{twice}]'
