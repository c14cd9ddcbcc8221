"""A dag inside a larger program: an application that bills its customers, with one service for all its runs.

    python examples/embedded.py

The application owns an `ExecutorService`. It submits a run for each customer, goes on with its own work, and
reads results, failures and logs back through the Python API. liteflow prints nothing of its own here: what an
application shows is its own affair. What tasks print is kept in the database, as their log.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from liteflow import Dag, DagRun, ExecutorService, RunHandle, RunState, TaskInstanceState, task

# What the application would have in a database of its own: customers, and what they bought, in cents.
ORDERS = {
    "ada": {"2026-01": [1250, 399, 3200], "2026-02": [825]},
    "ben": {"2026-01": [9900], "2026-02": [150, 150]},
}
TAX_PERCENT = 20


@task
def collect(customer: str, month: str) -> list[int]:
    """The amounts that the customer owes for the month."""
    amounts = ORDERS[customer][month]
    print(f"{customer} has {len(amounts)} orders in {month}")
    return amounts


@task
def add_tax(amounts: list[int]) -> int:
    """The sum with tax, rounded down to whole cents."""
    return sum(amounts) * (100 + TAX_PERCENT) // 100


@task
def write_invoice(customer: str, month: str, cents: int) -> str:
    """The text of the invoice."""
    return f"Invoice {month} for {customer}: {cents / 100:.2f}"


def billing_dag(db_path: Path) -> Dag:
    """The dag, over the database at `db_path`. Its params have no use until a run gives them values."""
    with Dag("billing", db_path=db_path, params={"customer": "", "month": ""}) as dag:
        customer, month = dag.param("customer"), dag.param("month")
        cents = add_tax(collect(customer, month))
        write_invoice(customer, month, cents)
    return dag


class BillingApp:
    """The application. Use it in a `with` block; leaving it waits for the runs that are still going on."""

    def __init__(self, db_path: Path) -> None:
        self.dag = billing_dag(db_path)
        self.service = ExecutorService(db_path, dags=[self.dag], max_workers=2)

    def __enter__(self) -> Self:
        self.service.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.service.stop(None, cancel=kind is not None)

    def bill(self, customer: str, month: str) -> RunHandle:
        """Begin to bill a customer for a month, and return at once.

        The run id is made from the two: who asks twice gets the same run, and no customer is billed twice.
        """
        params = {"customer": customer, "month": month}
        return self.service.submit(self.dag, params, run_id=f"{customer}-{month}")

    def outcome(self, run: DagRun) -> str:
        """What came of a run, for people: the invoice, or why there is none."""
        if run.state is RunState.SUCCESS:
            return str(run.xcom("write_invoice"))
        failed = [one for one in run.task_instances() if one.state is TaskInstanceState.FAILED]
        return "; ".join(f"No invoice: {one.task_id} failed with {one.error}" for one in failed)

    def report(self) -> list[str]:
        """A line for each run that the database knows, the oldest first."""
        return [f"{run.run_id}: {run.state}" for run in reversed(self.dag.runs())]


def main(db_path: Path) -> None:
    """A day in the life of the application."""
    with BillingApp(db_path) as app:
        handles = [app.bill(customer, month) for customer in ORDERS for month in ("2026-01", "2026-02")]
        handles.append(app.bill("nobody", "2026-01"))
        again = app.bill("ada", "2026-01")

        print("Invoices:")
        for handle in handles:
            print(f"  {app.outcome(handle.wait(timeout=60))}")

        first = handles[0].run
        print(f"Asked twice, billed once: {again.wait(timeout=60) == first}")
        print(f"Tasks of {first.run_id}:")
        for instance in first.task_instances():
            print(f"  {instance.task_id}: {instance.state}")
        print("Its log:")
        for entry in first.logs():
            print(f"  [{entry.task_id}] {entry.message}")
        print("All runs:")
        for line in app.report():
            print(f"  {line}")
        print(f"Failed: {len(app.dag.runs(state='failed'))}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(Path(directory) / "billing.db")
