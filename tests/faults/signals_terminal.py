"""A program on a pseudo-terminal of its own, as a shell starts it: the foreground process group of a session."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import threading
import time
from pathlib import Path

from tests.conftest import wait_until
from tests.crash.harness import environment

CTRL_C = b"\x03"
CTRL_BACKSLASH = b"\x1c"

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"

_IN_FOREGROUND = 'ulimit -c 0; exec <"$0" >"$0" 2>&1; exec "$@"'
"""For sh: the terminal that the leader of a new session opens first is the one that controls it."""

_READ_BYTES = 1 << 16
_LOOK_S = 0.02


class Terminal:
    """A terminal with one program on it, until `close`."""

    def __init__(self, *command: str, directory: Path, mark: str, **extra: str) -> None:
        self._ours, self._theirs = pty.openpty()
        self._settings = termios.tcgetattr(self._theirs)
        self._shown = b""
        self._process = subprocess.Popen(
            ["sh", "-c", _IN_FOREGROUND, os.ttyname(self._theirs), *command],
            cwd=directory,
            env=environment(mark, TERM="xterm-256color", **extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Before that, keys would be nobody's.
        wait_until(lambda: os.tcgetpgrp(self._ours) == self._process.pid, "the program is in the foreground")
        self._end_of_reading, self._end_reading = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            readable, _, _ = select.select([self._ours, self._end_of_reading], [], [])
            if self._ours not in readable:
                return
            self._shown += os.read(self._ours, _READ_BYTES)

    @property
    def shown(self) -> str:
        """What the program wrote, and the echo of the keys."""
        return self._shown.decode(errors="replace")

    def wait_for(self, text: str, timeout_s: float) -> None:
        """Return once the text was shown, or the program or the time is over."""
        deadline = time.monotonic() + timeout_s
        while text not in self.shown and self.status(_LOOK_S) is None and time.monotonic() < deadline:
            continue

    def press(self, keys: bytes) -> None:
        """As somebody at the keyboard: the kernel makes signals of some keys, for the whole process group."""
        os.write(self._ours, keys)

    def send(self, number: int) -> None:
        """Send a signal to the program alone."""
        self._process.send_signal(number)

    def hang_up(self) -> None:
        """As if the window was closed: the program gets SIGHUP, and can write nothing any more."""
        self._stop_reading()
        for fd in (self._theirs, self._ours):
            os.close(fd)
        self._theirs = self._ours = -1

    def status(self, timeout_s: float) -> int | None:
        """Its status as `Popen.returncode` has it, or None if it still runs after so long."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def changes(self) -> list[str]:
        """What is not as it was before: settings such as the echo, or a cursor that nobody sees."""
        if self._theirs < 0:
            return []
        changed = ["settings"] if termios.tcgetattr(self._theirs) != self._settings else []
        is_hidden = self.shown.rfind(HIDE_CURSOR) > self.shown.rfind(SHOW_CURSOR)
        return changed + (["hidden cursor"] if is_hidden else [])

    def close(self) -> None:
        """Let go of it; a program that still runs is killed."""
        self._process.kill()
        self._process.wait()
        if self._theirs >= 0:
            self.hang_up()

    def _stop_reading(self) -> None:
        os.write(self._end_reading, b"!")
        self._reader.join()
        os.close(self._end_reading)
        os.close(self._end_of_reading)
