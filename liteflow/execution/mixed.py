"""One engine made of several, for dags some of whose tasks say what is to run them: `@task(executor="threads")`.

Each has a *lane* of its own: the default one, which is what `executor=` of the run says, and one for each name. An
engine is made when a task that is ready asks for its lane, and never otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from liteflow.execution.jobs import Engine, Events, Job
from liteflow.states import EndReason

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag

BESIDE_POLL_S = 0.02
"""How often an engine is asked that cannot tell when something happens, while another one is waited for."""

Makers = Mapping[str, Callable[[], Engine]]


@runtime_checkable
class _Telling(Protocol):
    """An engine that need not be waited for."""

    notify: Callable[[], None] | None

    def due_in(self) -> float: ...


class Lane:
    """Where an engine's vacancies are: they have keys of their own among those of all lanes."""

    def __init__(self, number: int, engine: Engine, lanes: int = 1) -> None:
        self.number = number
        self.engine = engine
        self._lanes = lanes

    def vacancies(self) -> list[int]:
        """As of the engine, as keys for `MixedEngine.submit`."""
        return [key * self._lanes + self.number for key in self.engine.vacancies()]


class MixedEngine:
    """See `jobs.Engine` for what each method promises."""

    chunks = False

    def __init__(self, default: Engine, kind: str | None, makers: Makers) -> None:
        """`kind`: the name of the default engine, if it has one. `makers`: what makes each of the others by name."""
        self.default = default
        self._makers = {name: make for name, make in makers.items() if name != kind}
        self._numbers = {name: number for number, name in enumerate(self._makers, 1)}
        self._lanes = {0: Lane(0, default, self._count)}
        self._locks: tuple[str, str] | None = None
        self._expires_at = 0.0
        self._waited = default
        """The engine that is waited for when there are several."""

    @property
    def _count(self) -> int:
        return len(self._makers) + 1

    def number_of(self, executor: str | None) -> int:
        """The number of the lane in which tasks of that option run."""
        return self._numbers.get(executor or "", 0)

    def lane(self, number: int) -> Lane:
        """The lane of that number; makes its engine on the first call."""
        if number not in self._lanes:
            name = next(name for name, found in self._numbers.items() if found == number)
            engine = self._makers[name]()
            if self._expires_at:
                engine.live_until(self._expires_at)
            if self._locks is not None:
                engine.hold_locks(*self._locks)
            engine.start()
            self._lanes[number] = Lane(number, engine, self._count)
            self._arrange()
        return self._lanes[number]

    def _arrange(self) -> None:
        """One engine is waited for; it is one that cannot tell another one that something happens, if there is such."""
        engines = self._engines
        deaf = [engine for engine in engines if not isinstance(engine, _Telling)]
        self._waited = (deaf or engines)[0]
        for engine in engines:
            if isinstance(engine, _Telling):
                engine.notify = None if engine is self._waited else self._waited.wake

    @property
    def _engines(self) -> list[Engine]:
        return [lane.engine for lane in self._lanes.values()]

    def _engine_of(self, job: Job) -> Engine:
        return self.lane(self.number_of(job.executor)).engine

    def size(self) -> int:
        return self.default.size()

    def check_dag(self, dag: Dag) -> None:
        """Raise a LiteflowError for what a dag asks of the default engine that it cannot make sense of."""
        check = getattr(self.default, "check_dag", None)
        if check is not None:
            check(dag)

    def start(self) -> None:
        self.default.start()

    def hold_locks(self, directory: str, token: str) -> None:
        self._locks = (directory, token)
        for engine in self._engines:
            engine.hold_locks(directory, token)

    def live_until(self, at: float) -> None:
        self._expires_at = at
        for engine in [lane.engine for lane in self._lanes.copy().values()]:
            engine.live_until(at)

    def replace_no_more(self) -> None:
        for engine in self._engines:
            engine.replace_no_more()

    def kill(self) -> None:
        for engine in [lane.engine for lane in self._lanes.copy().values()]:
            engine.kill()

    def vacancies(self) -> list[int]:
        return self._lanes[0].vacancies()

    def submit(self, vacancy: int, jobs: list[Job]) -> None:
        key, number = divmod(vacancy, self._count)
        self._lanes[number].engine.submit(key, jobs)

    def answer(self, job: Job, number: int, rows: tuple[Any, ...]) -> None:
        self._engine_of(job).answer(job, number, rows)

    def has_begun(self, job: Job) -> bool:
        return self._engine_of(job).has_begun(job)

    def cancel(self, job: Job, reason: EndReason) -> None:
        self._engine_of(job).cancel(job, reason)

    def wake(self) -> None:
        self._waited.wake()

    def poll(self, timeout_s: float) -> Events:
        if len(self._lanes) == 1:
            return self.default.poll(timeout_s)
        beside = [engine for engine in self._engines if engine is not self._waited]
        events = Events()
        for engine in beside:
            events.take_in(engine.poll(0.0))
            timeout_s = min(timeout_s, engine.due_in() if isinstance(engine, _Telling) else BESIDE_POLL_S)
        events.take_in(self._waited.poll(0.0 if events else timeout_s))
        for engine in beside:
            events.take_in(engine.poll(0.0))
        return events

    def close(self, *, kill: bool) -> None:
        for engine in self._engines:
            engine.close(kill=kill)
