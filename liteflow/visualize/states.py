"""The state diagram of the README, drawn from the table that the program itself obeys."""

from __future__ import annotations

from liteflow.states import TERMINAL, TRANSITIONS, TaskInstanceState


def state_diagram() -> str:
    """The states of a task instance and every change between them, as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {TaskInstanceState.PENDING}"]
    for source, nexts in TRANSITIONS.items():
        lines += [f"    {source} --> {target}: {occasion}" for target, occasion in nexts.items()]
    lines += [f"    {state} --> [*]" for state in TRANSITIONS if state in TERMINAL]
    return "\n".join(lines) + "\n"
