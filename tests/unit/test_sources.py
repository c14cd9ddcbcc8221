"""Files that travel to workers as their text."""

from __future__ import annotations

import importlib
import sys
from hashlib import sha256
from pathlib import Path

from liteflow.execution.sources import Source, missing, provide


def source(path: Path, text: str) -> tuple[Source, bytes]:
    return Source(path.stem, str(path), sha256(text.encode()).hexdigest()), text.encode()


def test_a_module_that_was_sent_is_found_and_another_text_replaces_it(tmp_path: Path) -> None:
    first, second = (source(tmp_path / "sent_to_a_worker.py", text) for text in ("ONE = 1\n", "ONE = 2\n"))
    assert missing([first[0]]) == [first[0]]
    provide([first])
    assert importlib.import_module("sent_to_a_worker").ONE == 1
    assert missing([first[0], second[0]]) == [second[0]]
    provide([second])
    assert importlib.import_module("sent_to_a_worker").ONE == 2


def test_a_text_that_two_threads_bring_does_not_take_the_module_away_from_the_first(tmp_path: Path) -> None:
    sent = source(tmp_path / "sent_twice.py", "ONE = 1\n")
    provide([sent])
    module = importlib.import_module("sent_twice")
    provide([sent])
    assert sys.modules["sent_twice"] is module
