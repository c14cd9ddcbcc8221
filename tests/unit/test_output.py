"""What a slot writes: lines, log records, and whose they are, however the pieces of it come."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liteflow.execution.jobs import LogLine
from liteflow.execution.output import LONGEST_LINE_BYTES, PARTIAL_LINE_S, OutputReader

SECRET = "s3cret"
MARK = b"\x00" + SECRET.encode() + b" "

JOBS = {1: "one", 2: "two", 12: "twelve"}


class Line(NamedTuple):
    """A line without its time."""

    job: str
    text: str
    level: int | None = None
    logger: str | None = None


def reader() -> OutputReader[str]:
    return OutputReader(SECRET, JOBS.get)


def begin(number: int) -> bytes:
    return MARK + b"B%d\n" % number


def end(number: int) -> bytes:
    return MARK + b"E%d\n" % number


def end_and_begin(ended: int, begun: int) -> bytes:
    """What a worker writes that goes from one job to the next."""
    return MARK + b"E%d B%d\n" % (ended, begun)


def record(text: str, level: int = 20, logger: str = "etl") -> bytes:
    """What a worker writes for a log record of one line."""
    return MARK + f"L{level} {logger} {text}\n".encode()


def plain(lines: list[tuple[str, LogLine]]) -> list[Line]:
    return [Line(job, line.text, line.level, line.logger) for job, line in lines]


def read(*pieces: bytes, flush: bool = True) -> list[Line]:
    """The lines of these pieces of output."""
    it = reader()
    lines = [one for piece in pieces for one in it.feed(piece, 5, 100.0)]
    if flush:
        lines += it.flush(5, 100.0, force=True)
    return plain(lines)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The stream in pieces."""
    edges = [0, *sorted(min(one, len(stream)) for one in cuts), len(stream)]
    return [stream[start:stop] for start, stop in pairwise(edges)]


def test_lines_belong_to_the_job_whose_begin_mark_came_last() -> None:
    assert read(begin(1) + b"a\nb\n" + end(1) + begin(2) + b"c\n" + end(2)) == [
        Line("one", "a"),
        Line("one", "b"),
        Line("two", "c"),
    ]


def test_the_job_whose_end_mark_came_last_is_known() -> None:
    it = reader()
    it.feed(begin(1) + b"a\n", 5, 100.0)
    assert (it.current, it.ended) == ("one", None)
    it.feed(end(1), 5, 100.0)
    assert (it.current, it.ended) == ("one", "one")
    it.feed(begin(2), 5, 100.0)
    assert (it.current, it.ended) == ("two", "one")


def test_each_end_mark_is_known_in_whatever_order_they_come() -> None:
    it = reader()
    it.feed(begin(2) + end(2) + begin(1) + b"a\n", 5, 100.0)
    assert it.ended_numbers == {2}, "a job that was with another slot first may have the smaller number"
    it.feed(end(1) + end(77), 5, 100.0)
    assert it.ended_numbers == {1, 2}, "no more than there are jobs, whatever a task writes"


def test_the_end_of_one_job_and_the_begin_of_the_next_may_be_one_mark() -> None:
    it = reader()
    lines = it.feed(begin(1) + b"a\nb" + end_and_begin(1, 2) + b"c\n" + end_and_begin(2, 12), 5, 100.0)
    assert plain(lines) == [Line("one", "a"), Line("one", "b"), Line("two", "c")]
    assert (it.current, it.ended, it.ended_numbers) == ("twelve", "two", {1, 2})


def test_the_time_of_a_line_is_that_of_the_piece_that_finished_it() -> None:
    it = reader()
    it.feed(begin(1) + b"a\nb", 5, 100.0)
    assert it.feed(b"c\nd\n", 7, 100.1) == [("one", LogLine(7, None, None, "bc")), ("one", LogLine(7, None, None, "d"))]


def test_late_lines_belong_to_the_last_job_until_the_next_begins() -> None:
    assert read(begin(1) + end(1) + b"late\n" + record("later") + begin(2) + b"c\n") == [
        Line("one", "late"),
        Line("one", "later", 20, "etl"),
        Line("two", "c"),
    ]


def test_a_mark_in_the_middle_of_a_line_ends_the_line() -> None:
    assert read(begin(1) + b"no newline" + end(1) + begin(2) + b"x" + record("r") + b"y" + end(2)) == [
        Line("one", "no newline"),
        Line("two", "x"),
        Line("two", "r", 20, "etl"),
        Line("two", "y"),
    ]


def test_a_log_record_has_its_level_and_logger() -> None:
    assert read(begin(1) + record("gone: 3 of 5", 40, "etl.load")) == [Line("one", "gone: 3 of 5", 40, "etl.load")]


@pytest.mark.parametrize("text", ["", " ", "  two  spaces ", "L20 x y", "ü€😀"])
def test_the_text_of_a_log_record_is_kept_as_it_is(text: str) -> None:
    assert read(begin(1) + record(text)) == [Line("one", text, 20, "etl")]


def test_a_logger_without_a_name_is_fine() -> None:
    assert read(begin(1) + record("a", 20, "")) == [Line("one", "a", 20, "")]


def test_what_comes_before_any_job_is_kept_as_noise() -> None:
    it = reader()
    assert it.feed(b"Traceback\n  boom\n", 5, 100.0) == []
    assert it.noise == ["Traceback", "  boom"]
    it.feed(b"".join(b"line %d\n" % n for n in range(100)), 5, 100.0)
    assert it.noise == [f"line {n}" for n in range(80, 100)]


def test_lines_of_a_job_that_nobody_knows_are_no_other_jobs_lines() -> None:
    assert read(begin(1) + b"a\n" + end(1) + begin(7) + b"b\n" + record("c") + end(7) + begin(2) + b"d\n") == [
        Line("one", "a"),
        Line("two", "d"),
    ]


def test_an_empty_line_is_a_line() -> None:
    assert read(begin(1) + b"\n\na\n") == [Line("one", ""), Line("one", ""), Line("one", "a")]


# What is in a line


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        (b"dos\r\n", "dos"),
        (b"10%\r50%\r100%\n", "100%"),
        (b"10%\r50%\r100%\r\n", "100%"),
        (b"\r\n", ""),
        (b"\ra\n", "a"),
        (b"gr\xc3\xbc\xc3\x9fe\n", "grüße"),
        (b"\xff\xfe x\n", "\\xff\\xfe x"),
        (b"cut \xc3\n", "cut \\xc3"),
        (b"a\x00b\n", "a\\x00b"),
        (b"\x00\n", "\\x00"),
        (b"\x00s3crets \n", "\\x00s3crets "),
        (b"tab\t\x1b[31mred\x1b[0m\n", "tab\t\x1b[31mred\x1b[0m"),
        ("\u2028\x0b\x0c\x85".encode() + b"\n", "\u2028\x0b\x0c\x85"),
    ],
)
def test_a_line_is_text_whatever_is_written(written: bytes, seen: str) -> None:
    assert read(begin(1) + written) == [Line("one", seen)]


def test_a_log_record_is_text_too() -> None:
    assert read(begin(1) + MARK + b"L20 etl a\x00\xff\n") == [Line("one", "a\\x00\\xff", 20, "etl")]


# Endless lines


@pytest.mark.parametrize(
    ("written", "seen"), [(b"x", "x"), (b"\x00", "\\x00"), (b"\xff", "\\xff")], ids=["text", "nul", "binary"]
)
def test_an_endless_line_is_recorded_in_pieces_while_it_goes_on(written: bytes, seen: str) -> None:
    it = reader()
    it.feed(begin(1), 5, 100.0)
    found = []
    for _ in range(40):
        found += plain(it.feed(written * 10_000, 5, 100.0))
    sizes = [len(one.text) // len(seen) for one in found]
    assert sum(sizes) >= 40 * 10_000 - LONGEST_LINE_BYTES - 10_000  # what waits is never more than a long line
    found += plain(it.flush(5, 100.0, force=True))
    assert "".join(one.text for one in found) == seen * 400_000
    assert max(sizes) <= LONGEST_LINE_BYTES


@pytest.mark.parametrize("length", [LONGEST_LINE_BYTES - 1, LONGEST_LINE_BYTES, LONGEST_LINE_BYTES + 1, 200_001])
def test_a_long_line_is_recorded_in_pieces_of_the_longest_length(length: int) -> None:
    found = read(begin(1) + b"x" * length + b"\n")
    assert "".join(one.text for one in found) == "x" * length
    assert len(found) == -(-length // LONGEST_LINE_BYTES)


@pytest.mark.parametrize("shift", range(3))
def test_a_long_line_is_not_cut_within_a_character(shift: int) -> None:
    text = "a" * shift + "€" * 50_000
    found = "".join(one.text for one in read(begin(1) + text.encode() + b"\n"))
    assert len(found) == len(text)  # each byte of a character that is cut becomes four: the text would be longer
    assert set(found) == set(text)


@pytest.mark.parametrize("shift", range(3))
def test_an_endless_line_is_not_cut_within_a_character(shift: int) -> None:
    text = "a" * shift + "€" * 50_000
    stream = text.encode()
    pieces = [stream[start : start + 8191] for start in range(0, len(stream), 8191)]
    found = "".join(one.text for one in read(begin(1), *pieces))
    assert len(found) == len(text)
    assert set(found) == set(text)


@pytest.mark.parametrize("inside", range(1, len(end(12))))
@pytest.mark.parametrize(("written", "seen"), [(b"x", "x"), (b"\x00", "\\x00")], ids=["text", "nul"])
@pytest.mark.parametrize("length", [LONGEST_LINE_BYTES - 5, LONGEST_LINE_BYTES, LONGEST_LINE_BYTES + 10])
def test_a_mark_after_an_endless_line_is_found_wherever_the_piece_ends(
    inside: int, written: bytes, seen: str, length: int
) -> None:
    it = reader()
    it.feed(begin(1), 5, 100.0)
    mark = end(12)
    found = it.feed(written * length + mark[:inside], 5, 100.0)
    found += it.feed(mark[inside:], 5, 100.0)
    assert it.ended == "twelve"
    assert "".join(one.text for one in plain(found)) == seen * length


# Any split

texts = st.binary(max_size=12).map(lambda data: data.replace(MARK, b"").replace(b"\n", b"\r"))
parts = st.one_of(
    st.sampled_from([1, 2, 12, 7]).map(begin),
    st.sampled_from([1, 2, 12, 7]).map(end),
    st.builds(end_and_begin, st.sampled_from([1, 2, 12, 7]), st.sampled_from([1, 2, 12, 7])),
    texts.map(lambda text: text + b"\n"),
    texts,
    st.builds(
        lambda text, level, logger: MARK + b"L%d " % level + logger.encode() + b" " + text + b"\n",
        texts,
        st.sampled_from([0, 10, 20, 25, 50]),
        st.sampled_from(["", "root", "a.b", "ü"]),
    ),
    st.just(b"\x00" + SECRET.encode()),
    st.just(b"\x00"),
)


@given(st.lists(parts, max_size=12), st.lists(st.integers(0, 200), max_size=12))
def test_lines_are_the_same_however_the_output_is_cut(written: list[bytes], cuts: list[int]) -> None:
    stream = begin(1) + b"".join(written)
    whole = reader()
    lines = plain(whole.feed(stream, 5, 100.0) + whole.flush(5, 100.0, force=True))
    split = reader()
    pieces = [one for piece in cut(stream, cuts) for one in split.feed(piece, 5, 100.0)]
    assert plain(pieces + split.flush(5, 100.0, force=True)) == lines
    assert (split.current, split.ended, split.noise) == (whole.current, whole.ended, whole.noise)


@given(st.lists(st.integers(0, 300_000), max_size=8), st.integers(0, 200_000), st.integers(0, 200_000))
def test_text_and_marks_are_the_same_however_long_lines_are_cut(cuts: list[int], one: int, other: int) -> None:
    stream = begin(1) + b"x" * one + end(1) + begin(2) + b"y" * other + b"\n" + end(2)
    it = reader()
    found = plain([line for piece in cut(stream, cuts) for line in it.feed(piece, 5, 100.0)])
    assert "".join(line.text for line in found if line.job == "one") == "x" * one
    assert "".join(line.text for line in found if line.job == "two") == "y" * other
    assert max((len(line.text) for line in found), default=0) <= LONGEST_LINE_BYTES
    assert (it.current, it.ended) == ("two", "two")


# Unfinished lines


def test_an_unfinished_line_is_recorded_when_it_has_waited_long_enough() -> None:
    it = reader()
    assert it.feed(begin(1) + b"half", 5, 100.0) == []
    assert it.next_flush() == 100.0 + PARTIAL_LINE_S
    assert it.flush(6, 100.0 + PARTIAL_LINE_S - 0.01) == []
    assert it.flush(7, 100.0 + PARTIAL_LINE_S) == [("one", LogLine(7, None, None, "half"))]
    assert it.next_flush() is None
    assert it.flush(8, 200.0) == []


def test_an_unfinished_line_that_grows_waits_from_its_beginning() -> None:
    it = reader()
    it.feed(begin(1) + b"a", 5, 100.0)
    it.feed(b"b", 5, 100.4)
    assert it.next_flush() == 100.0 + PARTIAL_LINE_S
    assert plain(it.flush(5, 100.0 + PARTIAL_LINE_S)) == [Line("one", "ab")]


def test_a_line_that_begins_after_another_waits_from_its_own_beginning() -> None:
    it = reader()
    it.feed(begin(1) + b"a", 5, 100.0)
    it.feed(b"b\nc", 5, 100.4)
    assert it.next_flush() == 100.4 + PARTIAL_LINE_S


def test_a_finished_line_needs_no_flush() -> None:
    it = reader()
    it.feed(begin(1) + b"a", 5, 100.0)
    it.feed(b"b\n", 5, 100.1)
    assert it.next_flush() is None


def test_a_forced_flush_does_not_wait() -> None:
    it = reader()
    it.feed(begin(1) + b"a", 5, 100.0)
    assert plain(it.flush(5, 100.0, force=True)) == [Line("one", "a")]
    assert it.flush(5, 100.0, force=True) == []


def test_half_of_a_mark_waits_for_its_other_half() -> None:
    it = reader()
    mark = end(1)
    it.feed(begin(1) + b"a" + mark[:4], 5, 100.0)
    assert it.flush(5, 200.0) == []
    assert plain(it.feed(mark[4:], 5, 200.1)) == [Line("one", "a")]
    assert it.ended == "one"


WRITES: list[Callable[[], bytes]] = [lambda: begin(12), lambda: end(12), lambda: record("lost", 40, "etl.load")]


@pytest.mark.parametrize(
    "torn",
    [write()[:length] for write in WRITES for length in range(1, len(write()))],
    ids=lambda torn: repr(torn)[2:-1],
)
def test_what_the_death_of_a_worker_tore_does_no_harm(torn: bytes) -> None:
    it = reader()
    found = plain(it.feed(begin(1) + b"a\nb" + torn, 5, 100.0) + it.flush(5, 100.0, force=True))
    assert found[:1] == [Line("one", "a")]
    assert found[1].text.startswith("b")
    assert it.flush(5, 100.0, force=True) == []


@pytest.mark.parametrize("line", [b"", b"B", b"Bx", b"E", b"E1x", b"L", b"L20", b"L20 name", b"Lxx name text", b"Z1"])
def test_a_mark_that_makes_no_sense_does_no_harm(line: bytes) -> None:
    # A logger whose name holds a line break writes such a one.
    assert read(begin(1) + b"a\n" + MARK + line + b"\nb\n", flush=False)[-1:] == [Line("one", "b")]


def test_a_nul_in_an_unfinished_line_does_not_hold_it_back() -> None:
    it = reader()
    it.feed(begin(1) + b"a\x00b", 5, 100.0)
    assert plain(it.flush(5, 100.0 + PARTIAL_LINE_S)) == [Line("one", "a\\x00b")]
    assert it.next_flush() is None


def test_half_of_a_mark_waits_and_is_not_due_all_the_time() -> None:
    it = reader()
    it.feed(begin(1) + b"a" + MARK[:4], 5, 100.0)
    assert it.flush(5, 101.0) == []
    assert it.next_flush() == 101.0 + PARTIAL_LINE_S, "or the service would look again and again"


def test_the_newline_after_a_flushed_line_is_no_line_of_its_own() -> None:
    it = reader()
    it.feed(begin(1) + b"abc", 5, 100.0)
    assert plain(it.flush(5, 101.0)) == [Line("one", "abc")]
    assert plain(it.feed(b"\nnext\n\n", 5, 101.1)) == [Line("one", "next"), Line("one", "")]


def test_a_line_that_another_thread_logs_into_is_followed_by_no_empty_line() -> None:
    torn = b"said" + record("a") + record("b") + b"\n\nnext\n"
    assert read(begin(1) + torn, flush=False) == [
        Line("one", "said"),
        Line("one", "a", 20, "etl"),
        Line("one", "b", 20, "etl"),
        Line("one", ""),
        Line("one", "next"),
    ]


def test_an_empty_line_after_a_task_that_ended_in_the_middle_of_one_is_a_line() -> None:
    assert read(begin(1) + b"said" + end(1) + begin(2) + b"\n", flush=False) == [
        Line("one", "said"),
        Line("two", ""),
    ]


def test_a_mark_that_tears_a_long_record_counts() -> None:
    torn = record("left").rstrip(b"\n") + end(1) + begin(2) + b"over\nsaid\n"
    assert read(begin(1) + torn, flush=False) == [
        Line("one", "left", 20, "etl"),
        Line("two", "over"),
        Line("two", "said"),
    ]
