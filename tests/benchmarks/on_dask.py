"""`dask`: a wide dag on a Dask cluster of two worker processes, against the same tasks through Dask's own client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from tests.benchmarks.compare import Figure

SIZES = [(2_000, 0), (2_000, 1), (10_000, 0), (10_000, 1)]
"""Tasks, and milliseconds that each of them takes."""

MOST = 1.3


def spin(item: int, ms: int) -> int:
    """A task that keeps its worker busy for so long."""
    end = time.perf_counter() + ms / 1000 if ms else 0.0
    while time.perf_counter() < end:
        pass
    return item


def on_dask(rounds: int, workers: int) -> list[Figure]:
    """Both sides in turn over one cluster, in a process of its own."""
    figures = []
    for size, ms in SIZES:
        command = [sys.executable, "-m", "tests.benchmarks.on_dask", str(size), str(ms), str(rounds), str(workers)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        ours, theirs = (median(one) for one in json.loads(done.stdout))
        what = f"{size:,} tasks of {ms} ms through Dask (its own client beside it)"
        figures.append(Figure("dask", what, f"{ours:.2f} s", f"{theirs:.2f} s", ours / theirs, MOST))
    return figures


def main(size: int, ms: int, rounds: int, workers: int) -> None:
    from distributed import Client, LocalCluster

    from liteflow import Dag, ExecutorService, task

    ours, theirs = [], []
    with (
        tempfile.TemporaryDirectory() as directory,
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        ExecutorService(os.path.join(directory, "flow.db"), executor=client.get_executor()) as service,
    ):
        with Dag("wide") as dag:
            task(spin).partial(ms=ms).expand(item=list(range(size)))
        client.gather(client.map(spin, range(50), ms=ms, pure=False))
        for _ in range(rounds):
            began = time.perf_counter()
            client.gather(client.map(spin, range(size), ms=ms, pure=False))
            theirs.append(time.perf_counter() - began)
            began = time.perf_counter()
            run = service.submit(dag).wait()
            ours.append(time.perf_counter() - began)
            if run.state != "success":
                raise SystemExit(f"the run is {run.state}")
    print(json.dumps([ours, theirs]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]))
