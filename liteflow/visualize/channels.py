"""The lines beside the rows of a drawing: which columns they take, and with which characters they are drawn.

A line is a channel: everything that joins it from above is upstream of everything that branches off below. Rows with
the same downstream share one. A row hangs on the channels that lead into it from the left or the right, or stands below
one that ends in it. What leads out of it goes straight down, or to the right behind an arrow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

MOST_CHANNELS = 8
"""Lines side by side that one can still follow."""

# By where lines go from a place: up, down, left, right.
_JOINTS = {
    (1, 1, 0, 1): "├",
    (1, 1, 1, 0): "┤",
    (1, 1, 1, 1): "┼",
    (1, 0, 0, 1): "╰",
    (1, 0, 1, 0): "╯",
    (1, 0, 1, 1): "┴",
    (0, 1, 1, 0): "╮",
}
_TO_ASCII = str.maketrans("│─├┤┼╰╯┴╮▸", "|-+++++++>")


class Gutter(NamedTuple):
    """What stands before a row, or between two rows."""

    text: str
    number: int | None
    """The row; None between rows."""
    column: int = 0
    """The place of the row's mark in the text."""


def gutters(below: Sequence[set[int]], order: Sequence[int], marks: Mapping[int, str]) -> list[Gutter] | None:
    """The lines of a drawing, from the top; None if it takes more channels than one can follow.

    `below`: for each row those that follow it, all of them later in `order`. `marks`: of each row a character.
    """
    drawing = _Drawing(marks)
    siblings = Counter(frozenset(found) for found in below)
    for number, following in pairwise([*order, -1]):
        rest = below[number]
        siblings[frozenset(rest)] -= 1
        drawing.add(number, rest, following, siblings[frozenset(rest)] > 0)
        if len(drawing.channels) > MOST_CHANNELS:
            return None
    return drawing.lines


def in_ascii(text: str) -> str:
    """The same lines for a terminal that has no others."""
    return text.translate(_TO_ASCII)


class _Drawing:
    """Lines, drawn from the top."""

    def __init__(self, marks: Mapping[int, str]) -> None:
        self.lines: list[Gutter] = []
        self.channels: list[set[int]] = []
        """By column, the rows that still branch off; empty for a free column."""
        self._marks = marks
        self._loose = -1
        """The column of the row above, if nothing leads out of it."""

    def add(self, number: int, below: set[int], following: int, has_siblings: bool) -> None:
        """Draw a row. `following` is the next one, `has_siblings` whether a later one has the same `below`."""
        joined = [column for column, left in enumerate(self.channels) if number in left]
        before = [bool(left) for left in self.channels]
        for column in joined:
            self.channels[column].discard(number)
        here = self._column_for(joined)
        self._grow(here, before)
        if here == self._loose and not before[here] and (joined or below):  # or it would seem to hang on the row above
            self.lines.append(Gutter(" ".join("│" if left else " " for left in before).rstrip(), None))
        shared = None if below == {following} else self._channel_with(below)
        free_to_the_right = all(column <= here for column in joined)
        out = None
        if free_to_the_right and shared is not None and shared > here:
            out = shared
        elif below and free_to_the_right and shared is None and has_siblings and below != {following}:
            out = self._free_after(here)
            self._grow(out, before)
            self.channels[out] = set(below)
        self.lines.append(Gutter(self._row(number, before, joined, here, out), number, 2 * here))
        if below and out is None:
            if shared is None:
                self.channels[here] = set(below)
            else:
                self.lines.append(Gutter(self._into(here, shared), None))
        self._loose = -1 if below else here
        while self.channels and not self.channels[-1]:
            self.channels.pop()

    def _grow(self, column: int, before: list[bool]) -> None:
        while len(self.channels) <= column:
            self.channels.append(set())
            before.append(False)

    def _channel_with(self, below: set[int]) -> int | None:
        """The channel from which exactly these branch off."""
        return next((column for column, left in enumerate(self.channels) if left and left == below), None)

    def _column_for(self, joined: Sequence[int]) -> int:
        """The column of a row: that of a channel that ends in it, else a free one, right of what it hangs on."""
        ended = [column for column in joined if not self.channels[column]]
        return ended[0] if ended else self._free_after(joined[0] if joined else -1)

    def _free_after(self, column: int) -> int:
        """The first free column to the right of this one."""
        return next(
            (at for at in range(column + 1, len(self.channels)) if not self.channels[at]),
            max(column + 1, len(self.channels)),
        )

    def _row(self, number: int, before: Sequence[bool], joined: Sequence[int], here: int, out: int | None) -> str:
        """The line of a row: what leads into it, its mark, and what leads out behind an arrow."""
        low, high = min([*joined, here]), max([*joined, here, here if out is None else out])
        text = ""
        for column, left_over in enumerate(self.channels):
            left, right = low < column <= high, low <= column < high
            if column == here:
                text += self._marks[number]
            elif column == out:
                text += "┤" if before[column] else "╮"
            elif column in joined:
                text += _JOINTS[1, int(bool(left_over)), int(left), int(right)]
            elif before[column]:
                text += "│"
            else:
                text += "─" if left and right else " "
            text += ("▸" if column == here and out is not None else "─") if right else " "
        return text.rstrip()

    def _into(self, here: int, shared: int) -> str:
        """The line below a row that leads into the channel of others with the same downstream."""
        low, high = min(here, shared), max(here, shared)
        text = ""
        for column, left_over in enumerate(self.channels):
            left, right = low < column <= high, low <= column < high
            if column == here:
                text += "╰" if right else "╯"
            elif column == shared:
                text += "├" if right else "┤"
            elif left_over:
                text += "│"
            else:
                text += "─" if left and right else " "
            text += "─" if right else " "
        return text.rstrip()
