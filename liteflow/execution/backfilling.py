"""A run of a dag for each date of a range, some at a time, through one service.

Their ids are made from the dates, so that the same backfill again goes on where it was: what is over is left alone,
what was interrupted goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from liteflow.errors import DatabaseMissingError, LiteflowError, ServiceError, StorageError
from liteflow.execution.executors import shortcoming
from liteflow.execution.handle import RunHandle, StillGoing
from liteflow.execution.liveness import is_alive
from liteflow.execution.progress import say
from liteflow.execution.requests import check_request
from liteflow.execution.service import ExecutorService
from liteflow.execution.stopping import StopSignals
from liteflow.states import RunState
from liteflow.storage.history import open_history

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag
    from liteflow.storage.history import DagRun

MOST_RUNS = 10_000
"""A backfill of more runs than this is refused: it is a slip of the keyboard."""

RUN, RESUME, WAIT, SKIP, REFUSED = "run", "resume", "wait", "skip", "refused"
"""What a backfill does with a date: a new run, going on with one, waiting for one of others, nothing, or it cannot."""

POLL_S = 0.02
"""How often it looks which of the runs are over, and whether it is to stop."""

_STEP = re.compile(r"(\d{1,6})\s*(m|h|d|w)", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Slot(NamedTuple):
    """A date of a backfill, and what is done about it."""

    logical_date: datetime
    run_id: str
    action: str
    """`run`, `resume`, `wait`, `skip` or `refused`."""
    state: str | None
    """Of the run; None while there is none."""
    error: str | None = None
    """Why it was refused."""


def parse_step(text: str) -> timedelta:
    """`30m`, `6h`, `1d`, `2w` as a duration. Raises ValueError for anything else, and for nothing."""
    match = _STEP.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise ValueError(f"{text!r} is no step, such as 30m, 6h, 1d or 1w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def dates_between(first: datetime, last: datetime, step: timedelta) -> list[datetime]:
    """`first`, and each `step` after it up to `last`, that one included. Raises ValueError for none, or too many."""
    first, last = first.astimezone(UTC), last.astimezone(UTC)
    if first > last:
        raise ValueError(f"{first.isoformat()} is after {last.isoformat()}")
    count = (last - first) // step + 1
    if count > MOST_RUNS:
        raise ValueError(
            f"that would be {count:,} runs, more than {MOST_RUNS:,}; take a smaller range or a longer step"
        )
    return [first + number * step for number in range(count)]


def backfill_run_id(moment: datetime) -> str:
    """The id of the run for that date, in Airflow's form."""
    return f"backfill__{moment.astimezone(UTC).isoformat()}"


def plan_backfill(dag: Dag, dates: Sequence[datetime], *, rerun_failed: bool = False) -> list[Slot]:
    """What a backfill would do with each date, as things stand. Nothing is changed or created."""
    try:
        history = open_history(dag.db_path)
    except DatabaseMissingError:
        return [Slot(moment, backfill_run_id(moment), RUN, None) for moment in dates]
    known = {run.run_id: run for run in history.runs_named(dag.dag_id, [backfill_run_id(moment) for moment in dates])}
    return [_slot(moment, known.get(backfill_run_id(moment)), rerun_failed) for moment in dates]


def backfill(
    dag: Dag,
    dates: Sequence[datetime],
    *,
    params: Mapping[str, Any] | None = None,
    max_active: int = 1,
    rerun_failed: bool = False,
    max_workers: int | None = None,
    executor: Executor | str | None = None,
    dags: Iterable[Dag] = (),
    progress: Callable[[Slot], None] | None = None,
) -> list[Slot]:
    """Have a run for each date, at most `max_active` at once, in the order of the dates; returns how each ended.

    Runs that are over are left as they are; with `rerun_failed` those that failed are tried once more. What was
    interrupted goes on, and what another process drives is waited for. A run that cannot be begun or gone on with
    is `refused`, and the others go on. `executor` is that of `Dag.run`. `dags`: others of which tasks may begin runs.
    `progress` is called with each date when something has become of it. Ctrl-C raises KeyboardInterrupt, as for
    `Dag.run`; the same call again then goes on.
    """
    tell = progress or (lambda _slot: None)
    planned = plan_backfill(dag, dates, rerun_failed=rerun_failed)
    if all(slot.action == SKIP for slot in planned):
        for slot in planned:
            tell(slot)
        return planned
    check_request(dag, params, planned[0].run_id, dates[0])  # before anything is started or created
    with (
        StopSignals() as signals,
        ExecutorService(dag.db_path, dags=[dag], max_workers=max_workers, executor=executor, recover=False) as service,
    ):
        others = list(dags)
        text = shortcoming(executor, [dag, *others]) if progress is not None else None
        if text is not None:
            say(text)
        service._offer(others)
        signals.service = service
        return _Backfill(service, dag, params, max_active, rerun_failed, tell, signals).through(dates)


class _Backfill:
    def __init__(
        self,
        service: ExecutorService,
        dag: Dag,
        params: Mapping[str, Any] | None,
        max_active: int,
        rerun_failed: bool,
        tell: Callable[[Slot], None],
        signals: StopSignals,
    ) -> None:
        self._service = service
        self._dag = dag
        self._params = params
        self._max_active = max_active
        self._rerun_failed = rerun_failed
        self._tell = tell
        self._signals = signals
        self._ended: dict[datetime, Slot] = {}
        self._active: list[tuple[Slot, RunHandle]] = []

    def through(self, dates: Sequence[datetime]) -> list[Slot]:
        try:
            for moment in dates:
                self._signals.check()
                self._begin(moment)
                while len(self._active) >= self._max_active:
                    self._wait()
            while self._active:
                self._wait()
        except KeyboardInterrupt:
            self._service._begin_no_more()
            raise
        return [self._ended[moment] for moment in dates]

    def _begin(self, moment: datetime) -> None:
        """Begin the run of a date, unless there is nothing to do for it."""
        assert self._service._history is not None
        known = self._service._history.runs_named(self._dag.dag_id, [backfill_run_id(moment)])
        slot = _slot(moment, known[0] if known else None, self._rerun_failed)  # as things stand by now
        if slot.action == SKIP:
            self._over(slot)
            return
        try:
            if slot.action == RESUME:
                handle = self._service.resume(self._dag, slot.run_id)
            else:
                handle = self._service.submit(self._dag, self._params, slot.run_id, moment)
        except (ServiceError, StorageError):
            raise
        except LiteflowError as error:
            self._over(slot._replace(action=REFUSED, error=str(error)))
            return
        self._active.append((slot, handle))

    def _wait(self) -> None:
        """Until one of those that go on is over."""
        while True:
            self._signals.check()
            over = next((one for one in self._active if one[1].over()), None)
            slot, handle = over or self._active[0]
            try:
                run = handle.wait(POLL_S)
            except StillGoing:
                continue
            self._active.remove((slot, handle))
            self._over(slot._replace(state=str(run.state)))
            return

    def _over(self, slot: Slot) -> None:
        self._ended[slot.logical_date] = slot
        self._tell(slot)


def _slot(moment: datetime, run: DagRun | None, rerun_failed: bool) -> Slot:
    run_id = backfill_run_id(moment)
    if run is None:
        return Slot(moment, run_id, RUN, None)
    if run.state.is_terminal:
        action = RESUME if rerun_failed and run.state is RunState.FAILED else SKIP
    else:
        action = WAIT if run.owner is not None and is_alive(run.history.database.path, run.owner) else RESUME
    return Slot(moment, run_id, action, str(run.state))


def unwell(slots: Sequence[Slot]) -> Iterator[Slot]:
    """Those of the dates whose runs did not succeed."""
    return (slot for slot in slots if slot.state != RunState.SUCCESS)
