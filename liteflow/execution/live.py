"""A run of another process on a terminal: the picture that `liteflow watch` draws again and again.

A pure function of what `watching` read, of the time, and of the room that there is. All text of strangers goes through
`_cell`, which spells out what would steer the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from liteflow.execution.progress import STATE_STYLES, printable, seconds_text
from liteflow.states import AS_TOLD, TERMINAL, TaskInstanceState, counts_text, instance_name

if TYPE_CHECKING:
    from liteflow.execution.watching import Watch
    from liteflow.storage.history import DagRun, LogEntry
    from liteflow.storage.watching import WatchedInstance

_S = TaskInstanceState

SHORTEST = 8
"""With fewer lines than this nothing but the head is drawn."""

WIDEST_NAME = 40
"""Names are cut to a third of the width, and to so many columns."""

BAR_COLUMNS = 24

OVER, OPEN = "━", "─"
"""What the bars are made of: they can be told apart without colours too."""

MOST_ROWS = {"running": 10, "failed": 6, "mapped": 8, "ended": 5, "log": 8}
"""How many rows a part has at the most."""


def picture(watch: Watch, now: datetime, width: int, height: int) -> list[Text]:
    """The lines, no more than `height` of them and none wider than `width` columns."""
    lines = _head(watch, now, width)[:height]
    parts = _parts(watch, now, width) if height >= SHORTEST else {}
    room = _shares({title: len(rows) for title, rows in parts.items()}, height - len(lines))
    for title, rows in parts.items():
        if room[title]:
            # Of the log and of what ended the last ones matter; they come last.
            shown = rows[-room[title] :] if title in ("ended", "log") else rows[: room[title]]
            lines += [Text(), Text(title, style="bold"), *shown]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _shares(wanted: Mapping[str, int], height: int) -> dict[str, int]:
    """How many rows each part has: one in turn for those that want more, as long as there is room. A part has two
    lines beside its rows."""
    shares = dict.fromkeys(wanted, 0)
    grown = True
    while grown:
        grown = False
        for title, rows in wanted.items():
            cost = 1 if shares[title] else 3
            if shares[title] < min(rows, MOST_ROWS[title]) and cost <= height:
                shares[title] += 1
                height -= cost
                grown = True
    return shares


def _head(watch: Watch, now: datetime, width: int) -> list[Text]:
    run, counts = watch.run, watch.tallies.counts
    state = "interrupted" if watch.is_interrupted else str(run.state)
    reason = f" ({run.end_reason})" if run.end_reason else ""
    words = Text.assemble(
        (_cut(f"{run.dag_id}/{run.run_id}", max(width - 40, 20)), "bold"),
        "  ",
        (state + reason, STATE_STYLES.get(state, "")),
        f"  {_elapsed(run, now)}",
        f"  pid {run.owner.pid}" if run.owner is not None and not run.state.is_terminal else "",
    )
    bar = _bar(counts, BAR_COLUMNS)
    bar.append(f"  {watch.over:,}/{counts.total():,}  ")
    return [words, bar.append_text(_counts(counts))]


def _elapsed(run: DagRun, now: datetime) -> str:
    if run.started_at is None:
        return "-"
    return seconds_text(max(((run.ended_at or now) - run.started_at).total_seconds(), 0.0))


def _bar(counts: Mapping[TaskInstanceState, int], columns: int) -> Text:
    """What is over and what is not, each state in its colour and with a share of the columns."""
    bar = Text()
    total, done, drawn = sum(counts.values()), 0, 0
    for state in AS_TOLD:
        done += counts.get(state, 0)
        upto = columns * done // total if total else 0
        bar.append((OVER if state in TERMINAL else OPEN) * (upto - drawn), style=STATE_STYLES.get(state, "dim"))
        drawn = upto
    return bar.append(OPEN * (columns - drawn), style="dim")


def _counts(counts: Mapping[TaskInstanceState, int]) -> Text:
    """`9,990 success, 10 failed`, each in its colour."""
    told = [
        (counts_text({state: counts[state]}), STATE_STYLES.get(state, "")) for state in AS_TOLD if counts.get(state)
    ]
    return Text(", ").join(Text(*one) for one in told)


def _parts(watch: Watch, now: datetime, width: int) -> dict[str, list[Text]]:
    """The parts by their titles, in the order in which they stand, those with nothing in them left out."""
    parts = {
        "running": _running(watch, now, width),
        "failed": [_failed(one, width) for one in reversed(watch.failed[-MOST_ROWS["failed"] :])],
        "mapped": _mapped(watch, width),
        "ended": [_ended(one, width) for one in watch.ended[-MOST_ROWS["ended"] :]],
        "log": [_logged(one, width) for one in watch.lines[-MOST_ROWS["log"] :]],
    }
    return {title: rows for title, rows in parts.items() if rows}


def _name_width(width: int) -> int:
    return min(width // 3, WIDEST_NAME)


def _running(watch: Watch, now: datetime, width: int) -> list[Text]:
    rows = [_active(watch, one, now, width) for one in watch.active[: MOST_ROWS["running"]]]
    counts = watch.tallies.counts
    more = sum(counts[state] for state in (_S.RUNNING, _S.UP_FOR_RETRY, _S.UP_FOR_RESCHEDULE)) - len(rows)
    if more > 0 and rows:
        rows[-1] = Text(f"and {more + 1:,} more", style="dim")
    return rows


def _active(watch: Watch, one: WatchedInstance, now: datetime, width: int) -> Text:
    """One that runs, with how long it has and how long it usually does, or that waits to go on."""
    line = Text.assemble((_cell(_name(one), _name_width(width)), STATE_STYLES.get(one.state, "")))
    line.append(f"  try {one.try_number}")
    if one.state is not _S.RUNNING:
        due = f" in {seconds_text(max((one.due_at - now).total_seconds(), 0.0))}" if one.due_at else ""
        return line.append(f"  {one.state}{due}")
    line.append(f"  slot {one.slot}" if one.slot is not None else "        ")
    ran = (now - one.started_at).total_seconds() if one.started_at else 0.0
    line.append(f"  {seconds_text(max(ran, 0.0)):>9}")
    usual = watch.usual.get(one.task_id)
    return line.append(f"  usually {seconds_text(usual.total_seconds())}", style="dim") if usual is not None else line


def _failed(one: WatchedInstance, width: int) -> Text:
    reason = one.error or str(one.end_reason or "")
    return Text.assemble((_cell(_name(one), _name_width(width)), "red"), "  ", printable(reason))


def _ended(one: WatchedInstance, width: int) -> Text:
    took = seconds_text(one.duration.total_seconds()) if one.duration is not None else "-"
    name = _cell(_name(one), _name_width(width))
    return Text.assemble(name, "  ", (f"{one.state:<8}", STATE_STYLES.get(one.state, "")), f"  {took:>9}")


def _mapped(watch: Watch, width: int) -> list[Text]:
    """Mapped tasks as one line each: those that go on first, then those with failures."""
    counted = [(task_id, watch.tallies.counts_of(task_id)) for task_id in watch.tallies.mapped]
    counted.sort(key=lambda one: _urgency(one[1]))
    return [
        Text.assemble(_cell(f"{task_id} [{counts.total():,}]", _name_width(width)), "  ")
        .append_text(_bar(counts, BAR_COLUMNS // 2))
        .append("  ")
        .append_text(_counts(counts))
        for task_id, counts in counted[: MOST_ROWS["mapped"]]
    ]


def _urgency(counts: Mapping[TaskInstanceState, int]) -> int:
    if counts.get(_S.RUNNING) or counts.get(_S.UP_FOR_RETRY) or counts.get(_S.QUEUED):
        return 0
    return 1 if counts.get(_S.FAILED) else 2


def _logged(entry: LogEntry, width: int) -> Text:
    name = instance_name(entry.task_id, entry.map_index)
    return Text.assemble(
        (entry.at.astimezone().strftime("%H:%M:%S"), "dim"),
        " ",
        (f"[{_cut(name, _name_width(width))}]", "cyan"),
        " ",
        printable(entry.message[: 4 * width]),
    )


def _name(one: WatchedInstance) -> str:
    return instance_name(one.task_id, one.map_index, one.rendered_map_index)


def _cut(text: str, columns: int) -> str:
    safe = printable(text[: 4 * columns])
    return safe if cell_len(safe) <= columns else set_cell_size(safe, columns - 1) + "…"


def _cell(text: str, columns: int) -> str:
    """The text in exactly so many columns, whatever is in it."""
    return set_cell_size(_cut(text, columns), columns)
