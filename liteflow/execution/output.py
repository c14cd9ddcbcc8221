"""What comes out of a slot's file descriptors 1 and 2: lines, and to which job each belongs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from liteflow.execution.jobs import LogLine

J = TypeVar("J")

LONGEST_LINE_BYTES = 64 * 1024
"""A line that goes on for longer is recorded in pieces."""

ROW_BYTES = 64
"""What a line costs beside its text: ten million empty lines are no small log."""

PARTIAL_LINE_S = 0.5
"""How long a line may stay unfinished before what is there of it is recorded."""


class OutputReader(Generic[J]):
    """Takes the output apart. `job_of` gives the job of a number, or None for one that nobody knows any more."""

    def __init__(
        self,
        secret: str,
        job_of: Callable[[int], J | None],
        *,
        charge: Callable[[J, int], bool] = lambda job, size: True,
    ) -> None:
        self._mark = b"\x00" + secret.encode() + b" "
        self._job_of = job_of
        self._charge = charge
        self._rest = b""
        self._rest_since: float | None = None
        self._is_flushed = False
        """Whether what there was of this line is recorded already: it took long, or a record of `logging` tore it."""
        self.current: J | None = None
        """The job whose lines these are."""
        self.ended: J | None = None
        """The job whose end mark came last."""
        self.ended_numbers: set[int] = set()
        """Of jobs whose end mark has come, until somebody takes them out."""
        self.noise: list[str] = []
        """The latest lines that came before any job: what a worker that cannot start has to say."""

    def feed(self, data: bytes, at_us: int, now: float) -> list[tuple[J, LogLine]]:
        """Take in a piece of output; returns the lines that it finished."""
        lines: list[tuple[J, LogLine]] = []
        data = self._without_excess(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._take(line, at_us, lines)
        while len(self._rest) > LONGEST_LINE_BYTES:
            length = whole_characters(self._rest, LONGEST_LINE_BYTES)
            mark = self._start_of_mark(self._rest, length)
            if mark == 0:  # a record of `logging` that goes on, or a mark of which more is to come
                break
            length = min(length, mark)
            self._text(self._rest[:length], at_us, lines)
            self._rest = self._rest[length:]
        self._rest_since = (self._rest_since if not whole and self._rest_since else now) if self._rest else None
        return lines

    def _without_excess(self, data: bytes) -> bytes:
        """What is worth taking apart: of a job whose log is full already only its last bytes, and all marks.

        What is left away is charged all the same, so that it is known how much was cut.
        """
        if self.current is None or b"\x00" in data or b"\x00" in self._rest or self._charge(self.current, 0):
            return data
        self._charge(self.current, len(self._rest) + len(data))
        self._rest = b""
        return b""

    def _start_of_mark(self, data: bytes, before: int) -> int:
        """Where a mark, or half of one at the very end, begins in `data`; `before` if that is later or never."""
        found = data.find(self._mark)
        if 0 <= found < before:
            return found
        for length in range(min(len(self._mark) - 1, len(data)), 0, -1):
            if data.endswith(self._mark[:length]):
                return min(before, len(data) - length)
        return before

    def flush(self, at_us: int, now: float, *, force: bool = False) -> list[tuple[J, LogLine]]:
        """What there is of an unfinished line, once it has waited for long enough, or at once with `force`."""
        due = self._rest_since is not None and (force or now - self._rest_since >= PARTIAL_LINE_S)
        if not due:
            return []
        if not force and self._start_of_mark(self._rest, len(self._rest)) < len(self._rest):
            self._rest_since = now  # half of a mark must wait for its other half
            return []
        lines: list[tuple[J, LogLine]] = []
        rest, self._rest, self._rest_since = self._rest, b"", None
        self._take(rest, at_us, lines)
        self._is_flushed = True
        return lines

    def next_flush(self) -> float | None:
        """When `flush` is due, by the monotonic clock."""
        return None if self._rest_since is None else self._rest_since + PARTIAL_LINE_S

    def _take(self, line: bytes, at_us: int, lines: list[tuple[J, LogLine]]) -> None:
        was_flushed, self._is_flushed = self._is_flushed, False
        if was_flushed and not line.rstrip(b"\r"):  # the end of a line of which everything is recorded
            return
        if b"\x00" in line and self._mark in line:
            before, *marked = line.split(self._mark)
            if before:
                self._text(before, at_us, lines)
            for one in marked:  # more than one: a long record is no single write, and a mark came between
                self._marked(one, at_us, lines)
            # A thread may log between the text and the end of a line that another prints.
            self._is_flushed = marked[-1][:1] == b"L" and (was_flushed or bool(before))
        else:
            self._text(line, at_us, lines)

    def _marked(self, marked: bytes, at_us: int, lines: list[tuple[J, LogLine]]) -> None:
        kind, rest = marked[:1], marked[1:]
        try:
            if kind == b"L":
                level, logger, text = rest.split(b" ", 2)
                number = int(level)
                if self.current is not None and self._charge(self.current, len(text) + ROW_BYTES):
                    lines.append((self.current, LogLine(at_us, number, decode_text(logger), decode_text(text))))
            elif kind == b"B":
                self.current = self._job_of(int(rest))
            else:
                # Lines that still come before the next job begins are from what this one left running.
                ended, _, begun = rest.partition(b" B")
                number = int(ended)
                self.ended = self._job_of(number)
                if self.ended is not None:
                    self.ended_numbers.add(number)
                if begun:
                    self.current = self._job_of(int(begun))
        except ValueError:
            return  # torn by the death of the worker

    def _text(self, line: bytes, at_us: int, lines: list[tuple[J, LogLine]]) -> None:
        line = line.rstrip(b"\r")
        if b"\r" in line:  # a progress display that draws over itself: what is seen in the end
            line = line.rsplit(b"\r", 1)[1]
        while True:
            length = whole_characters(line, LONGEST_LINE_BYTES)
            if self.current is None:
                self.noise = [*self.noise[-19:], decode_text(line[:length])]
            elif self._charge(self.current, length + ROW_BYTES):
                lines.append((self.current, LogLine(at_us, None, None, decode_text(line[:length]))))
            line = line[length:]
            if not line:
                return


def whole_characters(line: bytes, most: int) -> int:
    """How much of the line can be taken, `most` at the most, without cutting a character of UTF-8 in two."""
    if len(line) <= most:
        return len(line)
    for length in range(most, most - 4, -1):
        if line[length] & 0xC0 != 0x80:  # the next byte begins a character
            return length
    return most


def decode_text(data: bytes) -> str:
    """Bytes of UTF-8 as text that can be stored; what is none of it is spelled out."""
    # NUL would end the text for half of SQLite's functions.
    return data.decode("utf-8", "backslashreplace").replace("\x00", "\\x00")
