"""A timeline as a Mermaid gantt: a section for each slot, a bar for each try.

Mermaid takes what stands first in a line for a keyword where it can, and `:`, `;`, `#` and `,` for the end of a name.
Names are escaped as in a flowchart; one that begins like a keyword has its first character as a code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from liteflow.states import BY_URGENCY, TaskInstanceState, counts_text, mapped_name
from liteflow.visualize.mermaid import comment, escape
from liteflow.visualize.timeline import Bar, Timeline, lanes

MOST_INSTANCES = 5
"""More instances of a mapped task in one slot than this are one bar."""

MOST_BARS = 400
"""More bars than this take Mermaid long to draw, and too much text; the longest are drawn."""

_KEYWORDS = re.compile(
    r"gantt|title|section|dateformat|axisformat|tickinterval|inclusiveenddates|includes|excludes|topaxis|todaymarker"
    r"|weekday|weekend|click|call|href|acctitle|accdescr|\d{4}-\d\d-\d\d",
    re.IGNORECASE | re.ASCII,
)


class _Drawn(NamedTuple):
    """A bar of the gantt."""

    section: str
    name: str
    states: dict[str, int]
    started_us: int
    ended_us: int
    is_critical: bool


def name_in_gantt(text: str) -> str:
    """The text as it may stand where the name of a bar or a section does."""
    safe = escape(text.strip(" ")) or "#160;"
    return f"#{ord(safe[0])};{safe[1:]}" if _KEYWORDS.match(safe) else safe


def gantt(drawn: Timeline) -> str:
    """The timeline as a Mermaid gantt, in the local time of whoever looks at it. `done` is success, `active` goes on,
    `crit` is on the critical path; other states stand in the name."""
    bars = [one for lane in lanes(drawn) for one in _of_lane(drawn, lane.name, lane.bars)]
    kept = set(sorted(range(len(bars)), key=lambda number: _interest(bars[number]), reverse=True)[:MOST_BARS])
    title = f"{drawn.dag_id}, run {drawn.run_id}, {drawn.state}"
    lines = [comment(title), "gantt", f"    title {name_in_gantt(title)}", "    dateFormat x"]
    lines += [f"    axisFormat {_axis(drawn.ended_us - drawn.started_us)}", "    todayMarker off"]
    if len(bars) > len(kept):
        lines.append(f"    %% {len(bars) - len(kept)} short bars are left out")
    if not bars:
        lines += ["    section slots", f"    nothing has begun :{_milliseconds(drawn.started_us)}, 1ms"]
    section = ""
    for number, one in enumerate(bars):
        if number not in kept:
            continue
        if one.section != section:
            section = one.section
            lines.append(f"    section {name_in_gantt(section)}")
        lines.append(f"    {name_in_gantt(_name(one))} :{_data(one)}")
    return "\n".join(lines) + "\n"


def _axis(length_us: int) -> str:
    """The format of times below a drawing of so many microseconds."""
    if length_us < 10_000_000:
        return "%S.%L s"
    return "%H:%M:%S" if length_us < 86_400_000_000 else "%m-%d %H:%M"


def _of_lane(drawn: Timeline, section: str, bars: Sequence[Bar]) -> Iterator[_Drawn]:
    """The bars of a slot by their beginning, those of a mapped task as one where they are many."""
    instances = Counter(bar.task_id for bar in bars if bar.map_index >= 0)
    many: dict[str, list[Bar]] = {}
    for bar in bars:
        if instances[bar.task_id] > MOST_INSTANCES:
            many.setdefault(bar.task_id, []).append(bar)
    for bar in bars:
        if bar.task_id not in many:
            words = f" try {bar.try_number}" if bar.try_number > 1 or not bar.is_latest else ""
            yield _joined(drawn, section, (bar.name.strip(" ") or "\xa0") + words, [bar])
        elif bar is many[bar.task_id][0]:
            yield _joined(drawn, section, mapped_name(bar.task_id, len(many[bar.task_id])), many[bar.task_id])


def _joined(drawn: Timeline, section: str, name: str, bars: Iterable[Bar]) -> _Drawn:
    found = list(bars)
    return _Drawn(
        section,
        name,
        dict(Counter(bar.state for bar in found)),
        min(bar.started_us for bar in found),
        max(drawn.end_of(bar) for bar in found),
        any(bar.on_critical_path for bar in found),
    )


def _interest(one: _Drawn) -> tuple[bool, bool, int]:
    return one.is_critical, "failed" in one.states, one.ended_us - one.started_us


def _name(one: _Drawn) -> str:
    """The name, with the states that no tag shows."""
    if set(one.states) == {TaskInstanceState.SUCCESS}:
        return one.name
    if sum(one.states.values()) == 1:
        return f"{one.name} {next(iter(one.states))}"
    return f"{one.name} {counts_text({state: one.states[state] for state in BY_URGENCY if state in one.states})}"


def _data(one: _Drawn) -> str:
    tags = ["crit"] if one.is_critical else []
    if set(one.states) == {TaskInstanceState.SUCCESS}:
        tags.append("done")
    elif TaskInstanceState.RUNNING in one.states:
        tags.append("active")
    begin = _milliseconds(one.started_us)
    return ", ".join([*tags, str(begin), str(max(begin + 1, _milliseconds(one.ended_us)))])


def _milliseconds(moment_us: int) -> int:
    return max(0, moment_us // 1000)
