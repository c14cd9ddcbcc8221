"""Framed messages between the service and a slot's worker, over a stream that may be read in any pieces.

A frame is a magic word, the length, and a tuple of messages, each of them a tuple, in `marshal`'s format: plain types
only, nothing that could run code, and both ends are always the same interpreter.
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Sequence
from typing import Any

_HEADER = struct.Struct("!4sQ")
_MAGIC = b"lfw1"

SMALL_READ_BYTES = 1 << 16
"""How much is read at once as a rule: memory for more comes from the system each time, which takes 40 microseconds."""
LARGE_READ_BYTES = 1 << 18
"""The same within a large message; a socket holds no more."""


class BrokenStreamError(Exception):
    """What came is no frame: something else wrote into the connection."""

    def __init__(self, text: str, messages: Sequence[tuple[Any, ...]] = ()) -> None:
        super().__init__(text)
        self.messages = messages
        """What was whole before that."""


def pack(*messages: tuple[Any, ...]) -> bytes:
    """The messages as one frame."""
    body = marshal.dumps(messages)
    return _HEADER.pack(_MAGIC, len(body)) + body


class Unpacker:
    """Collects pieces of a stream and gives back the messages that are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted: int | None = None

    @property
    def next_read_bytes(self) -> int:
        """How much should be read at once now."""
        missing = 0 if self._wanted is None else self._wanted - len(self._buffer)
        return SMALL_READ_BYTES if missing <= SMALL_READ_BYTES else min(missing, LARGE_READ_BYTES)

    def feed(self, piece: bytes | memoryview) -> list[tuple[Any, ...]]:
        """Take in a piece; returns the messages that it completed, in order. Raises BrokenStreamError, with those."""
        self._buffer += piece
        messages: list[tuple[Any, ...]] = []
        try:
            self._take_out(messages)
        except BrokenStreamError as error:
            raise BrokenStreamError(str(error), messages) from None
        return messages

    def _take_out(self, messages: list[tuple[Any, ...]]) -> None:
        start = 0
        while True:
            if self._wanted is None:
                if len(self._buffer) - start < _HEADER.size:
                    break
                magic, self._wanted = _HEADER.unpack_from(self._buffer, start)
                if magic != _MAGIC:
                    raise BrokenStreamError("not a frame")
                start += _HEADER.size
            assert self._wanted is not None
            if len(self._buffer) - start < self._wanted:
                break
            with memoryview(self._buffer) as view, view[start : start + self._wanted] as body:
                messages += _load(body)
            start += self._wanted
            self._wanted = None
        del self._buffer[:start]


def _load(body: memoryview) -> tuple[tuple[Any, ...], ...]:
    try:
        messages = marshal.loads(body)
    except (ValueError, EOFError, TypeError) as error:
        raise BrokenStreamError(str(error)) from None
    if not isinstance(messages, tuple) or not messages:
        raise BrokenStreamError("no messages")
    for message in messages:
        if not isinstance(message, tuple) or not message:
            raise BrokenStreamError("not a message")
    return messages
