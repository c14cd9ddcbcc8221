"""One large run of liteflow alone, in a process of its own: how long, how much memory, how many bytes on the disk.

python -m tests.benchmarks.growing KIND SIZE WORKERS
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.bare import Graph
from tests.benchmarks.workloads import Mapped, chain, layered, mapped, wide

KINDS = {"wide": wide, "deep": chain, "layered": layered, "mapped": mapped}

WARM_UP = 100
"""Tasks of a run before the one that is measured."""


def rss_bytes() -> int:
    """What this process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no VmRSS")


def peak_bytes() -> int:
    """The most that it has held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no VmHWM")


def main(kind: str, size: int, workers: int) -> None:
    from liteflow import ExecutorService
    from tests.benchmarks.ours import dag_of

    def make(count: int) -> Graph | Mapped:
        return KINDS[kind](count)

    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "flow.db")
        with ExecutorService(path, max_workers=workers) as service:
            service.submit(dag_of(make(WARM_UP), "warm")).wait()
            bare = rss_bytes()
            dag = dag_of(make(size), kind)
            with_dag = rss_bytes()
            began = time.perf_counter()
            run = service.submit(dag).wait()
            took = time.perf_counter() - began
            if run.state != "success":
                raise SystemExit(f"{kind}: the run is {run.state}")
            peak = peak_bytes()
        on_disk = sum(os.path.getsize(path + suffix) for suffix in ("", "-wal") if os.path.exists(path + suffix))
    print(json.dumps({"seconds": took, "dag": with_dag - bare, "run": peak - with_dag, "disk": on_disk}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
