"""A Dask cluster of two worker processes: one for all tests of this process that want it."""

from __future__ import annotations

import atexit
import warnings
from functools import lru_cache
from typing import Any


@lru_cache
def client_of_session(threads: int = 1) -> Any:
    """The client of a cluster with so many threads in each worker. It is started on the first call and ends with the
    process."""
    from distributed import Client, LocalCluster

    with warnings.catch_warnings():
        # Of distributed's own: sockets and event loops that it leaves to the garbage collector while it starts.
        warnings.simplefilter("ignore", ResourceWarning)
        cluster = LocalCluster(n_workers=2, threads_per_worker=threads, dashboard_address=":0")
        client = Client(cluster, set_as_default=False)

    def end() -> None:
        client.close()
        cluster.close()

    atexit.register(end)
    return client
