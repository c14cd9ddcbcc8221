"""Frames between the service and a worker: whole in any split, and garbage is noticed."""

from __future__ import annotations

import marshal
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from liteflow.execution.messages import BrokenStreamError, Unpacker, pack

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()), max_size=8)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
messages = st.lists(st.lists(plain, min_size=1, max_size=4).map(tuple), max_size=5)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The stream in pieces, some of them empty."""
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@given(messages, st.lists(st.integers(0, 400), max_size=12))
def test_messages_come_out_whole_and_in_order_however_the_stream_is_cut(
    sent: list[tuple[Any, ...]], cuts: list[int]
) -> None:
    unpacker = Unpacker()
    found = [one for piece in pieces(b"".join(map(pack, sent)), cuts) for one in unpacker.feed(piece)]
    assert found == sent


@given(st.lists(st.lists(plain, min_size=1, max_size=4).map(tuple), min_size=1, max_size=5))
def test_messages_of_one_frame_come_out_in_order(sent: list[tuple[Any, ...]]) -> None:
    assert Unpacker().feed(pack(*sent)) == sent


@given(messages)
def test_messages_come_out_byte_by_byte_as_soon_as_they_are_whole(sent: list[tuple[Any, ...]]) -> None:
    unpacker = Unpacker()
    for one in sent:
        *first, last = pack(one)
        for byte in first:
            assert unpacker.feed(bytes([byte])) == []
        assert unpacker.feed(bytes([last])) == [one]


def test_several_messages_in_one_piece_come_out_together() -> None:
    sent = [("a", 1), ("b", b"\x00"), ("c", None)]
    assert Unpacker().feed(b"".join(map(pack, sent))) == sent


def test_the_end_of_one_and_the_beginning_of_the_next_may_share_a_piece() -> None:
    one, other = pack(("a", 1)), pack(("b", 2))
    unpacker = Unpacker()
    assert unpacker.feed(one[:-1]) == []
    assert unpacker.feed(one[-1:] + other[:5]) == [("a", 1)]
    assert unpacker.feed(other[5:]) == [("b", 2)]


def test_nothing_gives_nothing() -> None:
    assert Unpacker().feed(b"") == []


def test_a_view_of_a_buffer_that_is_used_again_will_do() -> None:
    frame = bytearray(pack(("a", b"xyz")))
    unpacker = Unpacker()
    unpacker.feed(memoryview(frame)[:10])
    (message,) = unpacker.feed(memoryview(frame)[10:])
    frame[:] = b"\x00" * len(frame)
    assert message == ("a", b"xyz")


def test_a_large_frame_comes_through_in_many_pieces() -> None:
    data = bytes(range(256)) * (1 << 15)  # 8 MiB
    stream = pack(("end", 1, data)) + pack(("ready",))
    unpacker = Unpacker()
    found = []
    for start in range(0, len(stream), 1 << 16):
        found += unpacker.feed(stream[start : start + (1 << 16)])
    assert [one[0] for one in found] == ["end", "ready"]
    assert found[0][2] == data


@given(st.binary(min_size=12, max_size=60))
@example(b"Traceback (most recent call last):\n")
@example(b"\x00" * 12)
def test_garbage_is_noticed(garbage: bytes) -> None:
    if not garbage.startswith(pack((1,))[:4]):
        with pytest.raises(BrokenStreamError):
            Unpacker().feed(garbage)


def test_garbage_after_a_message_is_noticed() -> None:
    unpacker = Unpacker()
    assert unpacker.feed(pack(("a",))) == [("a",)]
    with pytest.raises(BrokenStreamError):
        unpacker.feed(b"something else")


def frame(body: bytes) -> bytes:
    """A frame with any body."""
    return pack((1,))[:4] + struct.pack("!Q", len(body)) + body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage that is no marshal",
        marshal.dumps((("a", 1),))[:-1],
        marshal.dumps(("a", 1)),
        marshal.dumps((("a", 1), ())),
        marshal.dumps([1, 2]),
        marshal.dumps("text"),
        marshal.dumps(None),
        marshal.dumps(()),
        b"s\xff\x00\x00\x00abc",
        b"<\x01\x00\x00\x00[\x00\x00\x00\x00",
        b"r\x05\x00\x00\x00",
    ],
)
def test_a_frame_that_holds_no_message_is_noticed(body: bytes) -> None:
    with pytest.raises(BrokenStreamError):
        Unpacker().feed(frame(body))


@given(st.lists(plain, min_size=1, max_size=4).map(tuple), st.data())
def test_a_frame_whose_body_was_torn_is_noticed(message: tuple[Any, ...], data: st.DataObject) -> None:
    body = marshal.dumps((message,))
    torn = body[: data.draw(st.integers(0, len(body) - 1))]
    with pytest.raises(BrokenStreamError):
        Unpacker().feed(frame(torn))


@given(st.integers(0, 3), st.integers(1, 255))
def test_a_frame_whose_magic_word_was_changed_is_noticed(where: int, change: int) -> None:
    stream = bytearray(pack(("a", 1)))
    stream[where] ^= change
    with pytest.raises(BrokenStreamError):
        Unpacker().feed(bytes(stream))


def test_only_plain_types_travel() -> None:
    with pytest.raises(ValueError, match="unmarshallable"):
        pack((object(),))


def test_what_was_whole_before_the_garbage_is_not_lost() -> None:
    with pytest.raises(BrokenStreamError) as caught:
        Unpacker().feed(pack(("end", 1)) + pack(("start", 2)) + b"garbage" * 10)
    assert caught.value.messages == [("end", 1), ("start", 2)]
