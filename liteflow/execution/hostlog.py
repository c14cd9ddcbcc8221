"""What the service has to say in its host's log, from a thread of its own."""

from __future__ import annotations

import logging

_logger = logging.getLogger("liteflow")


def warn(text: str, *args: object, level: int = logging.WARNING, exc_info: bool = False) -> None:
    """Log as `logging` does. A handler or filter of the host's that raises does not end the runs."""
    try:
        _logger.log(level, text, *args, exc_info=exc_info, stacklevel=2)
    except Exception:
        return  # there is nowhere else to say it
