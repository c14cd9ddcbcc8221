"""Draw what Mermaid must be able to parse: all states, mapped tasks, hostile ids, no tasks, many, the state diagram."""

from __future__ import annotations

import sys
from pathlib import Path

from liteflow.states import TaskInstanceState
from liteflow.visualize import Node, Picture, flowchart, state_diagram

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
    many = [Node(f"t{number}", {_S.SUCCESS: 1}, [f"t{number - 1}"] if number else []) for number in range(300)]
    return {
        "states": Picture("etl", "manual__2026-01-01T00:00:00.000000+00:00", "success", chain),
        "mapped": Picture("etl", "r", "success", mapped),
        "hostile": Picture(HOSTILE[0], HOSTILE[4], HOSTILE[1], hostile),
        "empty": Picture("nothing", "r", "success", []),
        "many": Picture("many", "r", "running", many),
    }


def main(directory: Path) -> None:
    """Write one file for each picture."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures().items():
        for direction in ("LR", "TD"):
            (directory / f"{name}-{direction}.mmd").write_text(flowchart(picture, direction=direction))
    (directory / "state-diagram.mmd").write_text(state_diagram())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
