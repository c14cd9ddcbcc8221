"""What the page of a run holds of each task instance: its tries, XComs as text and the end of its log, all bounded.

A run may have 100,000 task instances, each with megabytes of log. Which instances are read is decided inside the
database, what went wrong first, and of each no more than is shown. Functions work inside a read scope.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, bindparam, case, func, select, type_coerce
from sqlalchemy.types import NullType

from liteflow.states import BY_URGENCY, EndReason, TaskInstanceState
from liteflow.storage.functions import ByteLength
from liteflow.storage.statements import Prepared
from liteflow.storage.tables import LOG_RECORD, TASK_INSTANCE, TASK_TRY, XCOM
from liteflow.storage.untrusted import checked
from liteflow.storage.xcoms import ITEMS, JSON, preview, size_text

MOST_INSTANCES_OF_A_TASK = 50
MOST_INSTANCES = 6000
"""Of all tasks. Those that failed come first, then the first of each task, then the second, ..."""

MOST_TRIES = 20
"""Of a task instance, the latest."""

MOST_XCOMS = 20
"""Of a task instance, by key."""

XCOM_CHARACTERS = 2000
"""How much of a value is shown."""

XCOM_BYTES = 65_536
"""Values up to this size are read whole, of longer ones only what is shown."""

ALL_XCOM_CHARACTERS = 2_000_000
ERROR_CHARACTERS = 8000
ALL_ERROR_CHARACTERS = 2_000_000
LOG_LINES = 200
"""Of a task instance, the last."""

LOG_CHARACTERS = 65_536
ALL_LOG_CHARACTERS = 5_000_000
SHORT = 300
"""Characters of a key, a label or a name."""


class PageTry(NamedTuple):
    """A try. The latest one stands for its task instance; its number is 0 if that ended without a try."""

    number: int
    state: TaskInstanceState
    reason: EndReason | None
    slot: int | None
    started_us: int | None
    ended_us: int | None
    error: str | None


class PageXCom(NamedTuple):
    """A value that was handed on, as text. It was not decoded."""

    key: str
    size_bytes: int
    text: str


class PageLine(NamedTuple):
    """A line of a log."""

    try_number: int
    at_us: int
    level: int | None
    """A number of `logging`; None for what was printed."""
    logger: str | None
    message: str


class PageInstance(NamedTuple):
    """A task instance with all that the page says of it. Times are microseconds since 1970 in UTC."""

    task_id: str
    map_index: int
    label: str | None
    state: TaskInstanceState
    trigger_rule: str
    due_us: int | None
    pool: str | None
    reschedules: int
    peak_rss_bytes: int | None
    tries: Sequence[PageTry]
    """Oldest first. Empty if it neither began nor ended."""
    xcoms: Sequence[PageXCom] = ()
    log: Sequence[PageLine] = ()
    """Oldest first."""
    tries_are_cut: bool = False
    xcoms_are_cut: bool = False
    log_is_cut: bool = False
    """Whether earlier lines are left out."""


class _Row(NamedTuple):
    """A task instance as it is read; checked to be what it should be."""

    pk: int
    task_id: str
    map_index: int
    label: str | None
    state: TaskInstanceState
    trigger_rule: str
    due_us: int | None
    pool: str | None
    reschedules: int
    peak_rss_bytes: int | None
    number: int
    reason: EndReason | None
    slot: int | None
    started_us: int | None
    ended_us: int | None
    error: str | None


class _Room:
    """How many characters there is room for, in all."""

    def __init__(self, characters: int) -> None:
        self.left = characters

    def take(self, text: str) -> bool:
        """Whether there is room for the text, which is then taken; once there is not, there is none for anything."""
        self.left = self.left - len(text) if len(text) <= self.left else 0
        return self.left > 0


def page_instances(connection: Connection, run_pk: int) -> list[PageInstance]:
    """The task instances of a run that its page shows, up to `MOST_INSTANCES`: failed ones, then the first of each
    task by urgency and map index, then the second, ... With little room left the later ones have no XComs and log."""
    rows = [checked(_Row(*row)) for row in connection.execute(_listed(run_pk))]
    errors, values, lines = _Room(ALL_ERROR_CHARACTERS), _Room(ALL_XCOM_CHARACTERS), _Room(ALL_LOG_CHARACTERS)
    found = []
    for row in rows:
        tries, tries_are_cut = _tries_of(connection, row, errors)
        xcoms, xcoms_are_cut = _xcoms_of(connection, row, values)
        log, log_is_cut = _log_of(connection, row, lines)
        found.append(PageInstance(*row[1:10], tries, xcoms, log, tries_are_cut, xcoms_are_cut, log_is_cut))
    return found


def _listed(run_pk: int) -> Any:
    ti = TASK_INSTANCE.c
    urgency = case({state: number for number, state in enumerate(BY_URGENCY)}, value=ti.state, else_=len(BY_URGENCY))
    rank = func.row_number().over(partition_by=ti.task_id, order_by=(urgency, ti.map_index))
    ranked = select(ti.id, rank.label("rank")).where(ti.run_pk == run_pk).subquery()
    return (
        select(
            ti.id,
            ti.task_id,
            ti.map_index,
            _short(ti.rendered_map_index),
            ti.state,
            _short(ti.trigger_rule),
            _micros(ti.due_at),
            _short(ti.pool),
            ti.reschedules,
            ti.peak_rss_bytes,
            ti.try_number,
            ti.end_reason,
            ti.slot,
            _micros(ti.started_at),
            _micros(ti.ended_at),
            _beginning(ti.error, ERROR_CHARACTERS),
        )
        .join(ranked, ranked.c.id == ti.id)
        .where(ranked.c.rank <= MOST_INSTANCES_OF_A_TASK)
        .order_by(ti.state != TaskInstanceState.FAILED, ranked.c.rank, ti.id)
        .limit(MOST_INSTANCES)
    )


def _micros(column: Any) -> Any:
    """Times as they are stored: nobody here needs thousands of datetimes."""
    return type_coerce(column, BigInteger)


def _short(column: Any) -> Any:
    return _beginning(column, SHORT)


def _beginning(column: Any, most: int) -> Any:
    """The text of a column, cut to `most` characters if it has more bytes than that.

    For SQLite's functions a text ends at its first NUL: what is short enough is taken as it is.
    """
    return case((ByteLength(column) <= most, column), else_=func.substr(column, 1, most))


def _tries_of(connection: Connection, row: _Row, room: _Room) -> tuple[list[PageTry], bool]:
    found: list[tuple[Any, ...]] = []
    if row.number > 1:  # nothing is followed by another try before the second
        found = _TRIES.fetch(connection, row.pk)
    latest = PageTry(row.number, row.state, row.reason, row.slot, row.started_us, row.ended_us, row.error)
    tries = [
        checked(PageTry(number, TaskInstanceState(state), reason and EndReason(reason), *rest))
        for number, state, reason, *rest in reversed(found[:MOST_TRIES])
    ]
    if row.number or row.started_us is not None or row.ended_us is not None:
        tries.append(latest)
    return [
        one if one.error is None or room.take(one.error) else one._replace(error="... left out ...") for one in tries
    ], len(found) > MOST_TRIES


def _xcoms_of(connection: Connection, row: _Row, room: _Room) -> tuple[list[PageXCom], bool]:
    if not room.left:
        return [], False
    found = _XCOMS.fetch(connection, row.pk)
    xcoms = []
    for key, encoding, size_bytes, data in found[:MOST_XCOMS]:
        one = PageXCom(key, size_bytes, _preview(encoding, size_bytes, data))
        if not room.take(one.text):
            one = one._replace(text="... left out ...")
        xcoms.append(checked(one))
    return xcoms, len(found) > MOST_XCOMS


def _preview(encoding: str, size_bytes: int, data: bytes) -> str:
    if not isinstance(data, bytes) or not isinstance(size_bytes, int):
        raise TypeError("the value of an XCom is no bytes")
    if len(data) >= size_bytes:
        return preview(encoding, data, length=XCOM_CHARACTERS)
    if encoding == JSON:
        return f"{data[:XCOM_CHARACTERS].decode('ascii', 'replace')}... <{size_text(size_bytes)}>"
    return f"<{'list' if encoding == ITEMS else encoding}, {size_text(size_bytes)}>"


def _log_of(connection: Connection, row: _Row, room: _Room) -> tuple[list[PageLine], bool]:
    if not room.left:
        return [], True  # not looked at
    own = _Room(LOG_CHARACTERS)
    found = _LOG.fetch(connection, row.pk)
    lines: list[PageLine] = []
    for values in found[:LOG_LINES]:  # the last one first
        line = checked(PageLine(*values))
        if not own.take(line.message) or not room.take(line.message):
            return lines[::-1], True
        lines.append(line)
    return lines[::-1], len(found) > LOG_LINES


# Prepared, since each is executed for thousands of task instances. All of them go along an index, backwards for a log.

_PK: Any = bindparam("pk")

_TRIES = Prepared(
    select(
        TASK_TRY.c.try_number,
        type_coerce(TASK_TRY.c.state, NullType()),
        type_coerce(TASK_TRY.c.end_reason, NullType()),
        TASK_TRY.c.slot,
        _micros(TASK_TRY.c.started_at),
        _micros(TASK_TRY.c.ended_at),
        _beginning(TASK_TRY.c.error, ERROR_CHARACTERS),
    )
    .where(TASK_TRY.c.task_instance_pk == _PK)
    .order_by(TASK_TRY.c.try_number.desc())
    .limit(MOST_TRIES + 1),
    "pk",
)
_XCOMS = Prepared(
    select(
        _short(XCOM.c.key),
        _short(XCOM.c.encoding),
        func.length(XCOM.c.value),
        case(
            (func.length(XCOM.c.value) <= XCOM_BYTES, XCOM.c.value), else_=func.substr(XCOM.c.value, 1, XCOM_CHARACTERS)
        ),
    )
    .where(XCOM.c.task_instance_pk == _PK)
    .order_by(XCOM.c.key)
    .limit(MOST_XCOMS + 1),
    "pk",
)
_LOG = Prepared(
    select(
        LOG_RECORD.c.try_number,
        _micros(LOG_RECORD.c.at),
        LOG_RECORD.c.level,
        _short(LOG_RECORD.c.logger),
        _beginning(LOG_RECORD.c.message, LOG_CHARACTERS - 1),
    )
    .where(LOG_RECORD.c.task_instance_pk == _PK)
    .order_by(LOG_RECORD.c.id.desc())
    .limit(LOG_LINES + 1),
    "pk",
)
