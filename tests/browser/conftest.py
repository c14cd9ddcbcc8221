"""One browser for all tests of this directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium, find_chromium


@pytest.fixture(scope="module")  # not longer: a browser that idles begins processes of its own beside other tests
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A running Chromium. Without one the tests are skipped; with $LITEFLOW_NEEDS_BROWSER set they fail."""
    executable = find_chromium()
    if executable is None:
        why = "no Chromium is here: apt-get install chromium, or name one in $LITEFLOW_CHROMIUM"
        if os.environ.get("LITEFLOW_NEEDS_BROWSER"):
            pytest.fail(why)
        pytest.skip(why)
    browser = Chromium(executable, tmp_path_factory.mktemp("chromium"))
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: $LITEFLOW_SCREENSHOTS, else a directory of this test run."""
    named = os.environ.get("LITEFLOW_SCREENSHOTS")
    directory = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    return directory
