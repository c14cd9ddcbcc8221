"""Draw what Mermaid must be able to parse: all states, odd and hostile ids, no tasks, many tasks, the state diagram."""

from __future__ import annotations

import sys
from pathlib import Path

from liteflow.states import TaskInstanceState
from liteflow.visualize import Node, Picture, flowchart, state_diagram

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
    states = [str(state) for state in TaskInstanceState]
    chain = [
        Node(f"task_{number}", -1, state, [f"task_{number - 1}"] if number else [])
        for number, state in enumerate(states)
    ]
    hostile = [Node(text, number % 2 - 1, "failed", HOSTILE[:number], note=text) for number, text in enumerate(HOSTILE)]
    many = [Node(f"t{number}", -1, "success", [f"t{number - 1}"] if number else []) for number in range(300)]
    return {
        "states": Picture("etl", "manual__2026-01-01T00:00:00.000000+00:00", "success", chain),
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
