"""A disk that forgets: what is on it when the power goes at some moment of a recorded run.

The rules are those that a file system promises, and no more. What was written to a file is safe once the file was
synced; since its last sync each write may have reached the disk or not, whole or in part, in any order. Names that were
made or removed are safe once their directory was synced; since then they happened up to some moment.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from tests.crash.filewatch import Event, Operation

SECTOR_BYTES = 512
"""What a disk writes as a whole or not at all."""

LOST_BY_NATURE = "-shm"
"""SQLite's index of the WAL: memory that looks like a file, made anew after a power cut."""

MODES = ("nothing", "beginning", "scattered")
"""What of the writes that were not synced reached the disk: none, the first ones and a piece of the next, or any
sectors of any of them."""


class _File:
    def __init__(self) -> None:
        self.safe = bytearray()
        self.unsafe: list[Event] = []

    def sync(self) -> None:
        for event in self.unsafe:
            _apply(self.safe, event)
        self.unsafe.clear()

    def after_cut(self, mode: str, dice: random.Random) -> bytes:
        content = bytearray(self.safe)
        if mode == "beginning" and self.unsafe:
            whole = dice.randrange(len(self.unsafe))
            for event in self.unsafe[:whole]:
                _apply(content, event)
            sectors = len(self.unsafe[whole].data) // SECTOR_BYTES
            _apply_sectors(content, self.unsafe[whole], range(dice.randrange(sectors + 1)))
        elif mode == "scattered":
            for event in self.unsafe:
                sectors = -(-len(event.data) // SECTOR_BYTES)
                if event.operation is Operation.WRITE:
                    _apply_sectors(content, event, [n for n in range(sectors) if dice.random() < 0.5])
                elif dice.random() < 0.5:
                    _apply(content, event)
        return bytes(content)


def _apply(content: bytearray, event: Event) -> None:
    if event.operation is Operation.TRUNCATE:
        _resize(content, event.offset)
    else:
        _write(content, event.offset, event.data)


def _apply_sectors(content: bytearray, event: Event, sectors: Sequence[int]) -> None:
    """Some sectors of a write, counted from its own beginning: pages lie on sectors, frames of a WAL do not."""
    for number in sectors:
        at = number * SECTOR_BYTES
        _write(content, event.offset + at, event.data[at : at + SECTOR_BYTES])


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        _resize(content, offset)
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


class Disk:
    """The files of one directory, as events change them."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._names: dict[str, _File] = {}
        self._safe_names: dict[str, _File] = {}
        self._unsafe_names: list[tuple[str, _File | None]] = []
        """Names that were made (with their file) or removed since the directory was synced."""

    def take(self, event: Event) -> None:
        """The next thing that happened."""
        if event.path == self._directory:
            if event.operation is Operation.SYNC:
                self._safe_names = dict(self._names)
                self._unsafe_names.clear()
        elif event.operation is Operation.OPENED:
            if event.path not in self._names:
                self._name(event.path, _File())
        elif event.operation is Operation.UNLINK:
            self._name(event.path, None)
        elif event.operation is Operation.SYNC:
            self._names[event.path].sync()
        elif event.operation in (Operation.WRITE, Operation.TRUNCATE):
            self._names[event.path].unsafe.append(event)

    def _name(self, path: str, file: _File | None) -> None:
        self._unsafe_names.append((path, file))
        if file is None:
            self._names.pop(path, None)
        else:
            self._names[path] = file

    def cut(self, directory: Path, mode: str, dice: random.Random) -> None:
        """Write what is there after the power is back into a directory. The disk itself goes on as if nothing was."""
        names = dict(self._safe_names)
        happened = 0 if mode == "nothing" else dice.randint(0, len(self._unsafe_names))
        for path, file in self._unsafe_names[:happened]:
            if file is None:
                names.pop(path, None)
            else:
                names[path] = file
        for path, file in names.items():
            name = Path(path).name
            if Path(path).parent == Path(self._directory) and not name.endswith(LOST_BY_NATURE):
                (directory / name).write_bytes(file.after_cut(mode, dice))
