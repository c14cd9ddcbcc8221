"""Lines for a terminal: pieces of text with a word for their style, and how wide they are.

Widths are cells: a character of an East Asian script takes two, a combining one takes none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.cells import cell_len

from liteflow.execution.progress import printable
from liteflow.states import TaskInstanceState

Span = tuple[str, str]
"""Text, and its style: the name of a state, `critical`, `dim`, or empty."""

Line = list[Span]

WIDTH = 100
"""No line of a drawing is wider."""

_STATES = frozenset(TaskInstanceState)

_MARK = re.compile(r"[\ufe00-\ufe0f\U000e0100-\U000e01ef\U0001f3fb-\U0001f3ff]")


def plain(lines: Iterable[Line]) -> str:
    """The lines without styles."""
    return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in lines)


def clean(text: str) -> str:
    """Text of a stranger, in one line: what would steer a terminal is spelled out.

    So is what only chooses how the character before it looks, since terminals do not agree how wide that makes it.
    """
    return _MARK.sub("", printable(text.replace("\t", " ")))


def joined(line: Line) -> Line:
    """The same line with neighbours of one style in one piece."""
    return [("".join(text for text, _ in pieces), style) for style, pieces in groupby(line, key=lambda piece: piece[1])]


def counted(text: str) -> Line:
    """Words such as `19 success, 1 failed`, each number in the style of its state."""
    line: Line = []
    for part in re.split("(, )", text):
        line.append((part, next((word for word in part.split() if word in _STATES), "")))
    return line


def width_of(line: Line) -> int:
    """Cells."""
    return sum(cell_len(text) for text, _ in line)


def beginning(text: str, cells: int) -> str:
    """As much of the text as goes into so many cells."""
    kept = text[: 4 * max(0, cells)]  # no text of that many characters fits unless nearly all of them combine
    while cell_len(kept) > cells:
        kept = kept[:-1]
    return kept


def fitted(text: str, cells: int, ellipsis: str) -> str:
    """The text in exactly so many cells: cut with an ellipsis, or padded."""
    if cell_len(text) > cells:
        text = (beginning(text, cells - cell_len(ellipsis)) + ellipsis) if cells >= cell_len(ellipsis) else ""
    return text + " " * (cells - cell_len(text))


def cut(line: Line, cells: int, ellipsis: str) -> Line:
    """The line in at most so many cells."""
    if width_of(line) <= cells:
        return line
    kept: Line = []
    left = cells - cell_len(ellipsis)
    for text, style in line:
        piece = beginning(text, left)
        kept.append((piece, style))
        left -= cell_len(piece)
        if piece != text:
            break
    return [*kept, (ellipsis, "")]


def wrapped(words: Sequence[Span], joint: str, cells: int, *, most: int, ellipsis: str) -> list[Line]:
    """Words with joints between them, in at most `most` lines; the last says how many had no room."""
    lines: list[Line] = [[]]
    for number, (text, style) in enumerate(words):
        piece = text if number == len(words) - 1 else text + joint
        if lines[-1] and width_of(lines[-1]) + cell_len(piece) > cells:
            if len(lines) == most:
                return [*lines, [(f"and {len(words) - number:,} more", "dim")]]
            lines.append([])
        lines[-1].append((piece, style))
    return [cut(line, cells, ellipsis) for line in lines]
