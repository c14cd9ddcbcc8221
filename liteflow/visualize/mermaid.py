"""A run as a Mermaid flowchart.

Ids and notes are untrusted: every character but plain letters, digits and a few marks is written as a character
code, so that nothing in them can end a label, begin a directive or become HTML.
"""

from __future__ import annotations

import re

from liteflow.states import TaskInstanceState
from liteflow.visualize.picture import Picture

MOST_EDGES = 500
"""Mermaid draws no more than this many edges unless whoever embeds it raises `maxEdges`."""

MOST_CHARACTERS = 50_000
"""The same for text and `maxTextSize`."""

# Fill, border, text. Readable on light and dark pages, and told apart by lightness too.
COLOURS: dict[str, tuple[str, str, str]] = {
    "pending": ("#f4f4f5", "#a1a1aa", "#3f3f46"),
    "queued": ("#e4e4e7", "#71717a", "#27272a"),
    "running": ("#bef264", "#4d7c0f", "#1a2e05"),
    "success": ("#86efac", "#15803d", "#052e16"),
    "failed": ("#f87171", "#991b1b", "#450a0a"),
    "skipped": ("#fbcfe8", "#be185d", "#500724"),
    "upstream_failed": ("#fdba74", "#c2410c", "#431407"),
    "up_for_retry": ("#fde047", "#a16207", "#422006"),
    "up_for_reschedule": ("#67e8f9", "#0e7490", "#083344"),
    "removed": ("#d4d4d8", "#52525b", "#27272a"),
}

_NOT_IN_COMMENT = re.compile(r"[^A-Za-z0-9 _.,/+=:~-]", re.ASCII)  # what no id has, for there are no codes in comments
_SAFE = re.compile(r"[^A-Za-z0-9 _.,/+=-]", re.ASCII)
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    """The text as it may stand in a quoted label.

    Controls, lone surrogates, which are no characters, and what turns the direction of writing become U+FFFD: as codes
    they would be back once the label is drawn.
    """
    return _SAFE.sub(lambda match: f"#{_code(match.group())};", text)


def _code(character: str) -> int:
    return 0xFFFD if _STEERING.match(character) else ord(character)


def flowchart(picture: Picture, *, direction: str = "LR") -> str:
    """The run as a Mermaid flowchart, `direction` LR or TD: each task with its state as a class, each edge."""
    title = f"{picture.dag_id}, run {picture.run_id}, {picture.state}"
    lines = [f"%% {_NOT_IN_COMMENT.sub('?', title)}", f"flowchart {direction}"]
    edges = picture.edges()
    if len(edges) > MOST_EDGES:
        lines.append(f"    %% {len(edges)} edges, more than Mermaid draws unless maxEdges is raised")
    if not picture.nodes:
        lines.append(f'    empty["{escape(picture.dag_id)} has no tasks"]')
    by_state: dict[str, list[str]] = {}
    for number, node in enumerate(picture.nodes):
        lines.append(f'    t{number}["{escape(node.name)}<br/>{escape(node.words)}"]')
        by_state.setdefault(node.state, []).append(f"t{number}")
    lines += [f"    t{start} --> t{end}" for start, end in edges]
    for state in TaskInstanceState:
        if state in by_state:
            fill, border, text = COLOURS[state]
            lines.append(f"    classDef {state} fill:{fill},stroke:{border},color:{text}")
            lines.append(f"    class {','.join(by_state[state])} {state}")
    return "\n".join(lines) + "\n"
