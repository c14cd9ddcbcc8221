"""Files that travel to workers as their text."""

from __future__ import annotations

import importlib
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from liteflow.execution.sources import Source, missing, provide
from liteflow.storage.xcoms import find
from tests.conftest import wait_until


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


def test_what_another_thread_is_importing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "takes_its_time.py").write_text(
        "import threading\nbegun = threading.Event()\ngo = threading.Event()\n"
        "import sys\nsys.modules['its_events'] = (begun, go)\ngo.wait(10)\ndef late(): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found: list[object] = []
    importing = threading.Thread(target=importlib.import_module, args=("takes_its_time",))
    finding = threading.Thread(target=lambda: found.append(find("takes_its_time", None, "late")))
    importing.start()
    wait_until(lambda: "its_events" in sys.modules, "it is not being imported")
    finding.start()
    finding.join(0.1)
    sys.modules.pop("its_events")[1].set()  # type: ignore[index]
    for thread in (importing, finding):
        thread.join(10)
    assert [getattr(one, "__name__", None) for one in found] == ["late"]
