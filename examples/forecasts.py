"""A dag for the two web applications beside it: how long do savings last?

    python examples/forecasts.py

Somebody retires with `savings` and spends `yearly_spending` of them for `years`, while the markets do what they do.
Batches of trials draw the yearly returns at random, next to each other, and the share of the trials in which the money
lasted is the answer. `flask_app.py` and `fastapi_app.py` let a browser ask for it.

The dag stands in a module of its own: the worker processes import this one, and neither Flask nor FastAPI.
"""

from __future__ import annotations

import random

from liteflow import Dag, Param, task

BATCHES = 8
MEAN_RETURN, SPREAD = 0.05, 0.15
"""Of a year, above inflation."""


@task
def simulate(savings: float, yearly_spending: float, years: int, trials: int, batch: int) -> int:
    """In how many of the trials the money lasted. The same batch draws the same returns each time."""
    dice = random.Random(batch)
    lasted = 0
    for _ in range(trials):
        left = savings
        for _ in range(years):
            left = (left - yearly_spending) * (1 + dice.gauss(MEAN_RETURN, SPREAD))
            if left <= 0:
                break
        lasted += left > 0
    print(f"batch {batch}: {lasted} of {trials}")
    return lasted


@task
def summarise(lasted: list[int], trials: int) -> dict[str, float]:
    """What an application shows: the share of the trials in which the money lasted."""
    total = trials * len(lasted)
    return {"trials": total, "chance": round(sum(lasted) / total, 4)}


PARAMS = {
    "savings": Param(500_000, type="number", minimum=0),
    "yearly_spending": Param(25_000, type="number", minimum=0),
    "years": Param(30, type="integer", minimum=1, maximum=100),
    "trials": Param(2_000, type="integer", minimum=1, maximum=10_000_000, description="in each batch"),
}

# It names no database: that is $LITEFLOW_DB, else liteflow.db in the working directory.
with Dag("forecasts", params=PARAMS) as dag:
    trials = dag.param("trials")
    given = {name: dag.param(name) for name in ("savings", "yearly_spending", "years")}
    summarise(simulate.partial(**given, trials=trials).expand(batch=list(range(BATCHES))), trials)


if __name__ == "__main__":
    run = dag.run(progress=False)
    print(f"the run: {run.state}, {run.xcom('summarise')}")
