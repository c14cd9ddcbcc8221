"""The door to `filewatch.c`: compile it, load it into a program, read its log."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

SOURCE = Path(__file__).with_name("filewatch.c")
LOG = "filewatch.log"


class Operation(IntEnum):
    """What was done."""

    OPENED = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    UNLINK = 5
    NOTE = 6


class Event(NamedTuple):
    """One call, in the order in which they were made."""

    operation: Operation
    path: str
    offset: int
    """Of a write; of a truncation the new length."""
    data: bytes


_HEADER = struct.Struct("<BxHxxxxqq")


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build(directory: Path) -> Path:
    """Compile the library. Raises CalledProcessError with the compiler's words."""
    library = directory / "filewatch.so"
    subprocess.run(
        [str(compiler()), "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"], check=True
    )
    return library


class Watch:
    """The library, in a process that was started with it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)

    def note(self, line: Any) -> None:
        """Put a line into the log, between the calls before it and those after."""
        text = json.dumps(line).encode()
        self._library.filewatch_note(text, ctypes.c_long(len(text)))


def begin(prefix: str, signal_at: int, number: int) -> Watch:
    """Watch the files whose path begins so, from now on; send the signal to this process before call `signal_at`.

    0 for never; -1, -2, ... before it asks for SQLite's write lock for the so-manieth time, so outside a transaction.
    The log goes to the file LOG of the working directory if there is one already.
    """
    log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC) if os.path.exists(LOG) else -1
    watch = Watch()
    watch._library.filewatch_begin(prefix.encode(), log, ctypes.c_long(signal_at), number)
    return watch


def read_log(path: Path) -> list[Event]:
    """All events of a log, those of several processes one after the other."""
    return list(_events(path.read_bytes()))


def _events(log: bytes) -> Iterator[Event]:
    at = 0
    while at < len(log):
        operation, path_length, offset, length = _HEADER.unpack_from(log, at)
        at += _HEADER.size
        path = log[at : at + path_length].decode()
        at += path_length
        has_data = operation in (Operation.WRITE, Operation.NOTE)
        data = log[at : at + length] if has_data else b""
        at += len(data)
        yield Event(Operation(operation), path, offset, data)
