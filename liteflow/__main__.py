"""The command `liteflow`, and `python -m liteflow`."""

from __future__ import annotations

import signal


def main() -> None:
    """The entry point. Ctrl-C ends it without a traceback, unless a command has something to put in order."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored, as of `nohup`
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from liteflow import cli

    cli.main()


if __name__ == "__main__":
    main()
