"""What `liteflow check` finds."""

from __future__ import annotations

from typing import NamedTuple

ERROR = "error"
"""The file does not load there, or does something else."""
NOTE = "note"
"""Good to know; nothing has to be done."""


class Finding(NamedTuple):
    """One line of a file, and what is to be known of it."""

    file: str
    line: int
    rule: str
    """The rule's id."""
    message: str
    advice: str
    """What to do; empty if there is nothing to do."""
    severity: str = ERROR
