"""Draw what Mermaid must be able to parse: all states, mapped tasks, groups, hostile ids, no tasks, many, timelines,
and the state diagram.

Beside a gantt lies a JSON list of the names of its bars and sections, as they must read once Mermaid has parsed it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from liteflow.states import TaskInstanceState
from liteflow.visualize import Node, Picture, Timeline, Try, flowchart, gantt, state_diagram, timeline
from liteflow.visualize.mermaid import STEERING

_S = TaskInstanceState

HOSTILE = [
    'end"] --> x',
    "<script>alert(1)</script>",
    "click t0 call()",
    "%%{init: {}}%%",
    "a\nb\r\nc",
    "`markdown` **bold**",
    "#quot; & &lt; #35;",
    "\x1b[31m\x00\x07",
    "日本語 🎉 \ud800",
    "graph subgraph end style classDef",
    "[](){}|;:'\\",
    "$$x^2$$",
]

KEYWORDS = [
    "gantt",
    "title of it",
    "section 9",
    "dateFormat YYYY",
    "axisFormat %H",
    "tickInterval 1day",
    "inclusiveEndDates",
    "includes monday",
    "excludes weekends",
    "topAxis",
    "todayMarker off",
    "weekday monday",
    "weekend friday",
    "click me call f()",
    'href "x"',
    "accTitle: x",
    "accDescr { x }",
    "2026-01-01",
    "crit, done",
    ":crit",
    "a:b;c#d,e",
    "",
    " ",
    "}",
    "#58;",
]
"""What means something in a gantt."""


def pictures() -> dict[str, Picture]:
    """Names of files to what stands in them."""
    chain = [
        Node(f"task_{number}", {state: 1}, [f"task_{number - 1}"] if number else [])
        for number, state in enumerate(TaskInstanceState)
    ]
    mapped = [
        Node("names", {_S.SUCCESS: 1}, []),
        Node("add_one", {_S.SUCCESS: 9_990, _S.FAILED: 10}, ["names"], is_mapped=True),
        Node("all_states", dict.fromkeys(TaskInstanceState, 1_234), ["names", "add_one"], is_mapped=True),
    ]
    hostile = [
        Node(text, {_S.FAILED: number + 1}, HOSTILE[:number], is_mapped=number % 2 == 1, note=text)
        for number, text in enumerate(HOSTILE)
    ]
    grouped = [
        Node(f"{text}.{number}", {_S.SUCCESS: 1}, [], groups=[text, f"{text}.inner", HOSTILE[number % 3]])
        for number, text in enumerate([*HOSTILE, *KEYWORDS])
    ]
    grouped += [Node(f"last {number}", {}, [node.task_id], True) for number, node in enumerate(grouped[:10])]
    labels = {(grouped[0].task_id, "last 0"): HOSTILE[0]}
    labels |= {(grouped[number].task_id, f"last {number}"): HOSTILE[number] for number in range(10)}
    many = [Node(f"t{number}", {_S.SUCCESS: 1}, [f"t{number - 1}"] if number else []) for number in range(300)]
    return {
        "states": Picture("etl", "manual__2026-01-01T00:00:00.000000+00:00", "success", chain),
        "mapped": Picture("etl", "r", "success", mapped),
        "hostile": Picture(HOSTILE[0], HOSTILE[4], HOSTILE[1], hostile),
        "groups": Picture("grouped", "r", "success", grouped, labels),
        "plan": Picture("plan", "", "", [Node("a", {}, []), Node("b", {}, ["a"], True)], {("a", "b"): "if well"}),
        "empty": Picture("nothing", "r", "success", []),
        "many": Picture("many", "r", "running", many),
    }


def _try(task_id: str, second: int, seconds: int, slot: int | None, state: TaskInstanceState = _S.SUCCESS) -> Try:
    begin = 10**15 + second * 10**6
    return Try(task_id, -1, 1 + second % 2, state, None, slot, begin, begin + seconds * 10**6)


def timelines() -> dict[str, Timeline]:
    """Names of files to what stands in them."""
    names = [*HOSTILE, *KEYWORDS]
    nodes = [Node(text, {_S.SUCCESS: 1}, names[:number][-1:]) for number, text in enumerate(names)]
    states = list(TaskInstanceState)
    tries = [
        _try(text, number, 2, number % 3 or None, states[number % len(states)]) for number, text in enumerate(names)
    ]
    mapped = Node("add_one", {_S.SUCCESS: 10_000}, [], is_mapped=True)
    many = [_try("add_one", number, 4, 1 + number % 4)._replace(map_index=number) for number in range(10_000)]
    single = [Node(f"t{number}", {_S.SUCCESS: 1}, [f"t{number - 1}"]) for number in range(3_000)]
    steps = [_try(f"t{number}", number, 1, 1) for number in range(3_000)]
    return {
        "hostile": timeline(Picture(HOSTILE[0], HOSTILE[4], HOSTILE[1], nodes), tries),
        "mapped": timeline(Picture("etl", "r", "failed", [mapped]), many),
        "long": timeline(Picture("etl", "r", "success", single), steps),
        "empty": timeline(Picture("nothing", "r", "queued", [Node("a", {_S.PENDING: 1}, [])]), []),
    }


def names_in(drawn: Timeline) -> list[str]:
    """What must be found in the hostile gantt once it is parsed: the names of its tasks as they may be shown."""
    return [STEERING.sub("\ufffd", bar.task_id.strip(" ")) or "\xa0" for bar in drawn.bars]


def main(directory: Path) -> None:
    """Write one file for each picture."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures().items():
        for direction in ("LR", "TD"):
            (directory / f"{name}-{direction}.mmd").write_text(flowchart(picture, direction=direction))
    for name, drawn in timelines().items():
        (directory / f"{name}-gantt.mmd").write_text(gantt(drawn))
    (directory / "hostile-gantt.json").write_text(json.dumps(names_in(timelines()["hostile"])))
    (directory / "state-diagram.mmd").write_text(state_diagram())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
