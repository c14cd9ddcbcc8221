"""The benchmarks run, in small, and compare what is the same. How fast is not a matter for tests."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.compare import compare
from tests.conftest import ROOT, run_python


@pytest.mark.parametrize("name", ["mapped", "layered"])
def test_both_sides_come_to_the_same_value(name: str) -> None:
    figure = compare(name, rounds=1, workers=2, size=30)
    assert figure.name == name
    assert figure.value > 0


def test_a_run_is_measured_alone() -> None:
    done = run_python("-m", "tests.benchmarks.growing", "deep", "20", "1", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["seconds"] > 0
    assert found["disk"] > 0


def test_an_unknown_name_is_refused() -> None:
    done = run_python("-m", "tests.benchmarks", "wid", cwd=ROOT)
    assert done.returncode == 2
    assert "wid" in done.stderr
