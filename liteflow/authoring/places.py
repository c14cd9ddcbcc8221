"""Where in the user's code something was written, for error messages."""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import NamedTuple

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Place(NamedTuple):
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def _is_ours(frame: FrameType) -> bool:
    """Whether liteflow's code runs there; what a dataclass generates has no file, and its module's globals."""
    if frame.f_code.co_filename.startswith(_PACKAGE):
        return True
    return frame.f_code.co_filename == "<string>" and str(frame.f_globals.get("__name__")).startswith("liteflow.")


def caller() -> Place:
    """The innermost line on the stack that is not liteflow's own."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame):
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)
