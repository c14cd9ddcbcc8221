"""The dag of weather_etl.py on a Dask cluster, without a change in it.

    pip install 'liteflow[dask]'
    python examples/dask_cluster.py

The cluster here is two worker processes of this machine. With one that is there already it is the same: make the
client with its address, `Client("HOST:8786")`, or say `liteflow run examples/weather_etl.py --executor
dask://HOST:8786`. Its workers need liteflow, and what the tasks import; the dag's own files travel with the tasks.
Paths are the workers': give `out` and `source` as places that they all see.
"""

from __future__ import annotations

import sys

from weather_etl import dag

from liteflow import RunState


def main() -> None:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        sys.exit("This example needs Dask: pip install 'liteflow[dask]'")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        run = dag.run(executor=client.get_executor())
    if run.state != RunState.SUCCESS:
        sys.exit(f"The run {run.run_id} ended as {run.state}; nothing was reported.")
    result = run.xcom("report")
    print(f"{result['months']} months from {result['days']} days of weather, the chart is {result['chart']}")


if __name__ == "__main__":  # the workers of a local cluster import this file
    main()
