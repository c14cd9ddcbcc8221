"""The lease of one executor service on a database that several machines share: renewed, and given up in time.

One thread renews it, and has the server end what is left there of services that did not renew theirs. Another one looks
at nothing but the clock: a service that could not renew its lease for LOST_S kills what it runs before anybody else can
think it dead, and begins nothing more, whatever its other threads wait for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from liteflow.errors import LeaseLostError
from liteflow.execution.clock import steady_s
from liteflow.execution.hostlog import warn
from liteflow.storage import leases

if TYPE_CHECKING:
    from liteflow.storage.engine import Database

RENEW_S = 10.0
"""How often the lease is renewed."""

RETRY_S = 1.0
"""How soon it is tried again when that failed."""

LOST_S = 45.0
"""After so long without having been renewed it is given up: well before others may think it over."""


class LeaseKeeper:
    """Keeps one lease from `start` to `stop`. `lost` is called once, from any thread, if it is given up.

    `database` is the keeper's own, not pooled: a connection of the service may be stuck.
    """

    def __init__(
        self,
        database: Database,
        executor_pk: int,
        lost: Callable[[LeaseLostError], None],
        *,
        began_at: float,
        renew_s: float,
        lost_s: float,
        lease_s: float,
        renewed: Callable[[float], None] = lambda _until: None,
    ) -> None:
        """`renewed` is called each time when it was, with the time until which it is not given up, by `steady_s`."""
        self._database = database
        self._executor_pk = executor_pk
        self._lost = lost
        self._renew_s = renew_s
        self._lost_s = lost_s
        self._lease_s = lease_s
        self._renewed = renewed
        self._renewed_at = began_at
        """When the lease began that holds, by `steady_s`: not later than the database thinks."""
        self._trouble = ""
        self._refused = ""
        """Why the connections of dead services could not be ended, as it was told last."""
        self._over = threading.Event()
        self._once = threading.Lock()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._renew_on, "liteflow-lease"), (self._guard, "liteflow-lease-guard"))
        ]

    def start(self) -> None:
        """Begin to renew."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Renew no more. The lease itself ends with its executor's row."""
        self._over.set()

    def _renew_on(self) -> None:
        wait_s = self._renew_s
        while not self._over.wait(wait_s):
            asked_at = steady_s()
            try:
                with self._database.engine.begin() as connection:
                    is_held = leases.renew(connection, self._executor_pk, self._lease_s)
            except Exception as error:  # whatever it is: the guard sees to it that it is not for long
                self._trouble = " ".join(str(error).split("\n", 1)[0].split())
                wait_s = min(RETRY_S, self._renew_s)
                continue
            if not is_held:
                self._give_up("another service took its runs over, since its lease was over")
                return
            self._renewed_at, wait_s = asked_at, self._renew_s
            self._renewed(asked_at + self._lost_s)
            self._end_connections_of_dead()

    def _end_connections_of_dead(self) -> None:
        """That this is refused, or fails, is no reason to give up a lease that was renewed."""
        try:
            with self._database.engine.begin() as connection:
                leases.end_connections_of_dead(connection)
        except Exception as error:
            told = " ".join(str(error).split("\n", 1)[0].split())
            if told != self._refused:
                self._refused = told
                warn("%s: connections of dead executor services cannot be ended: %s", self._database.path, told)

    def _guard(self) -> None:
        while (left_s := self._renewed_at + self._lost_s - steady_s()) > 0:
            # Not for long at once: a machine that slept does not count that.
            if self._over.wait(min(left_s, 1.0)):
                return
        self._give_up(f"it could not be renewed for {self._lost_s:g} s{self._trouble and f' ({self._trouble})'}")

    def _give_up(self, why: str) -> None:
        with self._once:
            if self._over.is_set():
                return
            self._over.set()
        error = LeaseLostError(
            f"{self._database.path}: the lease of this executor service is lost: {why}; what it ran was ended, and "
            "other services may go on with its runs",
            path=self._database.path,
        )
        warn("%s", error)
        self._lost(error)
