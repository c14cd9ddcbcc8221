"""liteflow and the bare loop in turn, several times, and the ratio of the medians."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from contextlib import ExitStack
from typing import Any, NamedTuple

from tests.benchmarks.workloads import WORKLOADS


class Figure(NamedTuple):
    """One row of the result."""

    name: str
    what: str
    ours: str
    bare: str
    value: float
    most: float
    unit: str = ""
    """Empty: a ratio."""

    @property
    def is_met(self) -> bool:
        return self.value <= self.most


class Side:
    """The process of one side."""

    def __init__(self, which: str, name: str, size: int, workers: int) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.side", which, name, str(size), str(workers)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self) -> tuple[float, Any]:
        """Run the workload once; returns seconds, and the value that came out."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        took, value = json.loads(self._answer())
        return took, value

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self._process.args)}: ended")  # type: ignore[arg-type]
        return line


def compare(name: str, *, rounds: int, workers: int, size: int | None = None) -> Figure:
    """Run a workload on both sides, in turn."""
    workload = WORKLOADS[name]
    size = size or workload.size
    times: dict[str, list[float]] = {"bare": [], "liteflow": []}
    with ExitStack() as stack:
        sides = {which: stack.enter_context(Side(which, name, size, workers)) for which in times}
        for _ in range(rounds):
            values = {}
            for which, side in sides.items():
                took, values[which] = side.run()
                times[which].append(took)
            if values["bare"] != values["liteflow"]:
                raise SystemExit(f"{name}: {values}")
    ours, bare = (statistics.median(times[which]) for which in ("liteflow", "bare"))
    return Figure(name, workload.what, seconds(ours), seconds(bare), ours / bare, workload.most)


def seconds(value: float) -> str:
    """Seconds for people."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"
