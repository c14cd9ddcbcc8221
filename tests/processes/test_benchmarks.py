"""The benchmarks run, in small, and compare what is the same. How fast is not a matter for tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.benchmarks import scaling
from tests.benchmarks.compare import compare
from tests.benchmarks.simulated import Case, measure
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


@pytest.mark.parametrize("kind", ["mapped", "chain", "runs"])
def test_a_coordinator_is_simulated_without_anything_that_runs(kind: str) -> None:
    found = measure(Case(kind, 60, workers=7, each=20))
    assert found["states"] == {"success": 60, "xcoms": 60, "lines": 60}
    assert found["done"] == 60 + 20  # with the run that warms up
    assert 60 // 7 <= found["turns"] <= 2 * 60
    assert found["commits"] >= found["turns"]


def test_a_coordinator_is_simulated_on_postgresql(postgres_db: str) -> None:
    found = measure(Case("runs", 60, workers=7, each=20, db=postgres_db))
    assert found["states"] == {"success": 60, "xcoms": 60, "lines": 60}
    assert found["trips"] >= 5 * found["turns"]


def test_rows_that_are_missing_are_found() -> None:
    found = measure(Case("mapped", 30, workers=7))
    scaling.check_rows(found)
    found["states"]["lines"] -= 1
    with pytest.raises(SystemExit, match="lines"):
        scaling.check_rows(found)


def test_the_report_on_scaling_is_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(**case: Any) -> dict[str, Any]:
        found = measure(Case(**case))
        scaling.check_rows(found)
        return found

    monkeypatch.setattr(scaling, "simulate", simulate)
    found = scaling.fit(1, 200, 400, None)
    scaling.show_fit("SQLite", found)
    bounds = scaling.bounds(found, 400, None, seconds=0.01)
    scaling.show_bounds(bounds)
    told = capsys.readouterr().out
    for name in found.figures:
        (line,) = [line for line in told.splitlines() if line.startswith(f"| {name} |")]
        assert line.count("|") == len(scaling.COLUMNS) + 1
    for name in found.model._fields:
        assert f"| {name} | " in told
    for one in bounds:
        assert f"| {one.what} | " in told
        assert one.predicted > 0
        assert one.measured > 0


def test_an_unknown_name_is_refused() -> None:
    done = run_python("-m", "tests.benchmarks", "wid", cwd=ROOT)
    assert done.returncode == 2
    assert "wid" in done.stderr
