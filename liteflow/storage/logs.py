"""Lines of logs, some at a time: a run may have written a million of them, and may be writing still.

In SQLite lines have keys in the order in which they were committed: one transaction writes at a time, and a new line
gets the key behind the greatest one that is there. So what is behind a line that is still there is new, and nothing new
is before it. That no longer holds once the line was deleted, since its key is given again: with a run the lines of it
go. A reader therefore goes on behind the greatest line of the database only while that line is there, and behind the
last one of its own run otherwise, which goes only with the run.

In a server several transactions write at a time, and a lower key of another run may be committed later. There a reader
goes on behind the last line of its own run, whose lines one service writes, one transaction after the other.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Select, select

from liteflow.storage.history import DagRun, LogEntry, conditions_of_instances
from liteflow.storage.statements import in_groups
from liteflow.storage.tables import LOG_RECORD, TASK_INSTANCE
from liteflow.storage.untrusted import checked

FIRST_KEYS = 10_000
"""How many keys of lines are read at first, so that the first lines come at once."""

MOST_KEYS = 1_000_000
"""How many are held at a time later: 8 bytes each. Each time the index of what is left of the run is read."""

GROUPS_PER_SCOPE = 10
"""How many statements of lines are read in one scope, before they are shown: nobody waits with a scope open."""

Keep = Callable[[LogEntry], bool]


class LogReader:
    """Reads the log of a run, of one of its tasks, or of one instance of that, in the order in which it was written.

    `try_number`: only lines of that try. `least_level`: only those of `logging` with at least that level, which leaves
    out what was printed. `keep` says which of them are wanted. Each part that it yields is a list of up to some
    thousand lines, in a scope of its own that is closed when it is yielded; what is yielded first is read first.
    """

    def __init__(
        self,
        run: DagRun,
        task_id: str | None = None,
        map_index: int | None = None,
        *,
        try_number: int | None = None,
        least_level: int | None = None,
        keep: Keep | None = None,
    ) -> None:
        """Raises NotFoundError when the run has no such task or instance."""
        self._history = run.history
        with self._history.read() as connection:
            self._instances = conditions_of_instances(connection, run, task_id, map_index)
        log = LOG_RECORD.c
        self._wanted: list[Any] = []
        if try_number is not None:
            self._wanted.append(log.try_number == try_number)
        if least_level is not None:
            self._wanted.append(log.level >= least_level)
        self._keep = keep
        self._last = 0
        """The key of the last line of the run that was read."""
        self._greatest: tuple[int, int | None] | None = None
        """The greatest key in the table when all of the log had been read, and whose line it was."""

    def written(self) -> Iterator[list[LogEntry]]:
        """Everything that was not read yet; at first all that there is."""
        most = FIRST_KEYS
        while True:
            with self._history.read() as connection:
                keys = self._keys(connection, most)
            yield from self._lines(keys)
            if len(keys) < most:
                return
            most = min(10 * most, MOST_KEYS)

    def latest(self, count: int) -> list[LogEntry]:
        """The last `count` of the lines that are wanted; with `written` one goes on behind them."""
        found: deque[LogEntry] = deque()
        before: int | None = None
        at_once = max(count, FIRST_KEYS)
        while True:
            with self._history.read() as connection:
                if before is None:
                    self._greatest = _greatest(connection)
                keys = array("q", connection.scalars(keys_backwards(self._instances, before, at_once)))
            if before is None and keys:
                self._last = keys[0]
            for group in in_groups(keys):
                if len(found) >= count:
                    break
                with self._history.read() as connection:
                    some = self._some(connection, group)
                found.extendleft(reversed(some))
            if len(found) >= count or len(keys) < at_once:
                break
            before = keys[-1]
            at_once = min(10 * at_once, MOST_KEYS)
        return list(found)[max(len(found) - count, 0) :]

    def newest(self, count: int) -> list[LogEntry]:
        """The last `count` of what was not read yet, which is read with it; to be asked for again and again."""
        last: deque[int] = deque(maxlen=count)
        with self._history.read() as connection:
            while True:
                keys = self._keys(connection, MOST_KEYS)
                last.extend(keys[-count:])
                if len(keys) < MOST_KEYS:
                    break
            return [line for group in in_groups(list(last)) for line in self._some(connection, group)]

    def _keys(self, connection: Connection, most: int) -> array[int]:
        """The keys of the next lines that were not read, of up to `most`."""
        greatest = self._greatest
        is_ordered = connection.dialect.name == "sqlite"
        if is_ordered and greatest is not None and _owner_of(connection, greatest[0]) == greatest[1]:
            statement = keys_of_new(self._instances, greatest[0])
        else:
            statement = keys_of_instances(self._instances, self._last)
        keys = array("q", connection.scalars(statement.limit(most)))
        if keys:
            self._last = keys[-1]
        # With more to come it stands at what was read, which is a line of the run.
        self._greatest = _greatest(connection) if len(keys) < most else None
        return keys

    def _lines(self, keys: Sequence[int]) -> Iterator[list[LogEntry]]:
        groups = list(in_groups(keys))
        for start in range(0, len(groups), GROUPS_PER_SCOPE):
            with self._history.read() as connection:
                some = groups[start : start + GROUPS_PER_SCOPE]
                found = [line for group in some for line in self._some(connection, group)]
            if found:
                yield found

    def _some(self, connection: Connection, keys: Sequence[int]) -> list[LogEntry]:
        """Those of the lines with these keys that are wanted, by key."""
        log, ti = LOG_RECORD.c, TASK_INSTANCE.c
        rows = connection.execute(
            select(ti.task_id, ti.map_index, log.try_number, log.at, log.level, log.logger, log.message)
            .join(TASK_INSTANCE, ti.id == log.task_instance_pk)
            .where(log.id.in_(keys), *self._wanted)
            .order_by(log.id)
        ).all()
        lines = [checked(LogEntry(*row)) for row in rows]
        return lines if self._keep is None else [line for line in lines if self._keep(line)]


def keys_of_instances(instances: Sequence[Any], after: int) -> Select[Any]:
    """The keys of the lines of task instances behind one key: a look into the index for each instance."""
    log, ti = LOG_RECORD.c, TASK_INSTANCE.c
    return (
        select(log.id)
        .join(TASK_INSTANCE, ti.id == log.task_instance_pk)
        .where(*instances, log.id > after)
        .order_by(log.id)
    )


def keys_backwards(instances: Sequence[Any], before: int | None, most: int) -> Select[Any]:
    """The keys of up to `most` lines of task instances before one key, or the last of all, backwards."""
    log, ti = LOG_RECORD.c, TASK_INSTANCE.c
    statement = select(log.id).join(TASK_INSTANCE, ti.id == log.task_instance_pk).where(*instances)
    if before is not None:
        statement = statement.where(log.id < before)
    return statement.order_by(log.id.desc()).limit(most)


def keys_of_new(instances: Sequence[Any], after: int) -> Select[Any]:
    """The same as `keys_of_instances`, found by looking at each new line of the database once, whoever wrote it."""
    log, ti = LOG_RECORD.c, TASK_INSTANCE.c
    # A subquery and no join, which SQLite would turn around: it would look at each task instance again.
    own = select(ti.id).where(ti.id == log.task_instance_pk, *instances).correlate(LOG_RECORD).scalar_subquery()
    return select(log.id).where(log.id > after, log.task_instance_pk == own).order_by(log.id)


def _greatest(connection: Connection) -> tuple[int, int | None]:
    """The greatest key of a line in the database, and the key of the task instance that wrote it; 0 without lines."""
    log = LOG_RECORD.c
    row = connection.execute(select(log.id, log.task_instance_pk).order_by(log.id.desc()).limit(1)).one_or_none()
    return (0, None) if row is None else (row.id, row.task_instance_pk)


def _owner_of(connection: Connection, key: int) -> int | None:
    """Whose line has that key. Keys of task instances are never given again, those of lines are."""
    found: int | None = connection.scalar(select(LOG_RECORD.c.task_instance_pk).where(LOG_RECORD.c.id == key))
    return found
