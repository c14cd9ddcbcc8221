"""Fixtures for pytest: `liteflow_db`, a database for a test, and `run_dag`, which runs a dag and says what went wrong.

pytest finds them by itself where liteflow is installed. Tests that do not use them are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from datetime import datetime

    from liteflow.authoring.dag import Dag
    from liteflow.storage.history import DagRun, LogEntry, TaskInstanceInfo

MOST_LINES = 40
"""How much of a task's log is shown: its end."""


class RunDag(Protocol):
    """What the fixture `run_dag` gives."""

    def __call__(
        self,
        dag: Dag,
        params: Mapping[str, Any] | None = None,
        *,
        mock: Mapping[str, Any] | None = None,
        fail: Mapping[str, Sequence[BaseException | type[BaseException] | None]] | None = None,
        logical_date: datetime | None = None,
        expect: str | None = "success",
    ) -> DagRun:
        """Call `dag.test` and return the run; the test has failed when its state is not `expect` (None: whichever)."""


@pytest.fixture
def liteflow_db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a database of this test's own, which the first run makes; dags without a `db_path` use it."""
    path = tmp_path / "liteflow.db"
    monkeypatch.setenv("LITEFLOW_DB", str(path))
    return path


@pytest.fixture
def run_dag() -> RunDag:
    """Runs a dag with `dag.test`, and fails the test with a report when the run does not end as expected."""
    return _run_dag


def _run_dag(
    dag: Dag,
    params: Mapping[str, Any] | None = None,
    *,
    mock: Mapping[str, Any] | None = None,
    fail: Mapping[str, Sequence[BaseException | type[BaseException] | None]] | None = None,
    logical_date: datetime | None = None,
    expect: str | None = "success",
) -> DagRun:
    __tracebackhide__ = True
    if expect not in ("success", "failed", None):
        raise ValueError(f"expect={expect!r} must be 'success', 'failed' or None")
    run = dag.test(params, mock=mock, fail=fail, logical_date=logical_date)
    if expect is not None and run.state != expect:
        pytest.fail(_report(run, expect), pytrace=False)
    return run


def _report(run: DagRun, expected: str) -> str:
    """What of the run is not success, and the ends of the logs."""
    why = f" ({run.end_reason})" if run.end_reason is not None else ""
    lines = [f"dag {run.dag_id!r}: the run is {run.state}{why}, not {expected}"]
    others = [one for one in run.task_instances() if one.state != "success"]
    for one in others:
        lines.append(f"  {_name_of(one)}: {_how(one)}")
        if one.state == "failed":
            lines += [f"    {entry.message}" for entry in _log_of(run, one)]
    if not others:
        lines.append("  every task is success")
    return "\n".join(lines)


def _name_of(one: TaskInstanceInfo) -> str:
    return one.task_id if one.map_index < 0 else f"{one.task_id}[{one.map_index}]"


def _how(one: TaskInstanceInfo) -> str:
    reason = f", {one.end_reason}" if one.end_reason not in (None, "error") else ""
    tries = f" (try {one.try_number}{reason})" if one.try_number else reason
    return f"{one.state}{tries}" + (f": {one.error}" if one.error else "")


def _log_of(run: DagRun, one: TaskInstanceInfo) -> list[LogEntry]:
    """The end of the log of the latest try."""
    entries = run.logs(one.task_id, None if one.map_index < 0 else one.map_index)
    return [entry for entry in entries if entry.try_number == one.try_number][-MOST_LINES:]
