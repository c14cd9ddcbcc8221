"""What runs next: by priority, fair between runs of one, by weight within a run, and as much as a slot is good for."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from liteflow.execution.jobs import Engine, Job, Outcome
from liteflow.execution.mixed import Lane, MixedEngine
from liteflow.execution.ready import OPEN
from liteflow.execution.turn import Claim, Turn

if TYPE_CHECKING:
    from liteflow.execution.active import ActiveRun
    from liteflow.execution.pools import PoolGuard
    from liteflow.execution.ready import Gate

CHUNK_S = 0.004
"""How much expected work a slot is given at once. An engine to which the way is longer says it itself: `chunk_s`."""
CHUNK_JOBS = 64


class _Room:
    """What one lane can take in this turn: a vacancy takes one job whose length nobody knows, or several tiny ones."""

    def __init__(self, lane: Lane, ready: int) -> None:
        share = -(-ready // lane.engine.size())
        self._most = min(CHUNK_JOBS, share) if lane.engine.chunks else 1
        self._chunk_s: float = getattr(lane.engine, "chunk_s", CHUNK_S)
        self._vacancies = iter(lane.vacancies())
        self._open_next()

    def _open_next(self) -> None:
        self._vacancy = next(self._vacancies, None)
        self._count = 0
        self._budget = self._chunk_s

    def take(self, expected_s: float | None) -> int | None:
        """The vacancy for a job that takes so long by experience; None if there is none left."""
        if self._count and (expected_s is None or expected_s > self._budget):
            self._open_next()
        vacancy = self._vacancy
        self._count += 1
        if expected_s is None or self._count >= self._most:
            self._open_next()
        else:
            self._budget -= expected_s
        return vacancy


class Chooser:
    """Chooses for one engine. It belongs to the loop, which is the only one to call it."""

    def __init__(self, engine: Engine, pools: PoolGuard) -> None:
        self._mixed = engine if isinstance(engine, MixedEngine) else None
        self._only = Lane(0, engine)
        self._pools = pools
        self._room: dict[int, _Room] = {}
        """By number of the lane: where there is room left in this turn."""
        self.order: deque[ActiveRun] = deque()
        """Runs by falling priority, and those of one priority in turn: the one that was served last is at their end."""
        self.unplaced: deque[Job] = deque()
        """Jobs that are claimed and between two slots."""
        self.callbacks: deque[Job] = deque()
        """Callbacks that wait for a slot."""
        self._experience: dict[int, float] = {}
        """Of each function: how long it takes, in seconds."""

    def remove(self, run: ActiveRun) -> None:
        """The run is not chosen from any more."""
        if run in self.order:
            self.order.remove(run)

    def add(self, run: ActiveRun) -> None:
        """Put a run behind the last one of at least its priority."""
        place = len(self.order)
        while place and self.order[place - 1].priority < run.priority:
            place -= 1
        self.order.insert(place, run)

    def choose(self, turn: Turn) -> None:
        """Claim as much as there is room for in the engine, and place what waits between two slots.

        What is next goes first, wherever it runs: only when there is no room for it in its lane does what would follow
        it there stay behind, and the others go on.
        """
        self._room = self._find_room()
        while self._room:
            job = self._waiting_job()
            if job is not None:
                self._place(job, turn)
                continue
            found = self._next()
            if found is None:
                return
            run, index = found
            number = self._number_of(run.ready.gate_of(index).executor)
            expected = self.expected(run, index)
            vacancy = self._room[number].take(expected)
            if vacancy is None:
                del self._room[number]
            else:
                self._claim(vacancy, run, index, expected, turn)

    def _find_room(self) -> dict[int, _Room]:
        """The room of each lane for which something waits."""
        ready: dict[int, int] = {}
        for job in (*self.callbacks, *self.unplaced):
            number = self._number_of(job.executor)
            ready[number] = ready.get(number, 0) + 1
        for run in self.order:
            for executor, count in run.ready.count_by_executor().items():
                number = self._number_of(executor)
                ready[number] = ready.get(number, 0) + count
        return {number: _Room(self._lane(number), count) for number, count in ready.items() if count}

    def _number_of(self, executor: str | None) -> int:
        return 0 if executor is None or self._mixed is None else self._mixed.number_of(executor)

    def _lane(self, number: int) -> Lane:
        return self._only if self._mixed is None else self._mixed.lane(number)

    def _waiting_job(self) -> Job | None:
        """A callback, or a job between two slots, for which there is a lane with room."""
        for job in (*self.callbacks, *self.unplaced):
            if self._number_of(job.executor) in self._room:
                return job
        return None

    def _place(self, job: Job, turn: Turn) -> None:
        number = self._number_of(job.executor)
        expected = None if job.callback_id is not None else self.expected(job.run, job.index)
        vacancy = self._room[number].take(expected)
        if vacancy is None:
            del self._room[number]
            return
        (self.unplaced if job.callback_id is None else self.callbacks).remove(job)
        turn.placed.append((vacancy, job))

    def _next(self) -> tuple[ActiveRun, int] | None:
        """The task instance that is next: of the run whose turn it is, the one with the greatest weight that may go.

        A run of a lesser priority has its turn when those above have nothing that may go.
        """
        for run in self.order:
            limit = run.dag.max_active_tasks
            if limit is not None and len(run.running) >= limit:
                continue
            index = run.ready.head(self._is_open, run)
            if index is not None:
                return run, index
        return None

    def _is_open(self, run: ActiveRun, gate: Gate) -> bool:
        if self._number_of(gate.executor) not in self._room:
            return False
        if gate is OPEN:
            return True
        if gate.task is not None and gate.most is not None:
            running = sum(run.core.task_of[index] == gate.task for index in run.running)
            if running >= gate.most:
                return False
        return self._pools.may_claim(gate)

    def _claim(self, vacancy: int, run: ActiveRun, index: int, expected_s: float | None, turn: Turn) -> None:
        run.ready.pop(index)
        if len(self.order) > 1:
            self.order.remove(run)
            self.add(run)
        resumed = run.core.is_resumed(index)
        run.core.claim(index)
        run.running.add(index)
        self._pools.claimed(run.ready.gate_of(index))
        turn.claims.append(Claim(vacancy, run, index, resumed, expected_s))

    def expected(self, run: ActiveRun, index: int) -> float | None:
        """How long a task instance will take by experience, in seconds; None if there is none, or it shall be alone."""
        return None if index in run.alone else self._experience.get(run.prepared.codes[run.core.task_of[index]][0])

    def learn(self, job: Job, outcome: Outcome) -> None:
        """A try has ended: remember how long its function took."""
        if outcome.started_us is None or outcome.ended_us is None:
            return
        took = max(0.0, (outcome.ended_us - outcome.started_us) / 1e6)
        before = self._experience.get(job.code_number)
        # Quick to learn that a function is slow, slow to believe that it is quick.
        self._experience[job.code_number] = took if before is None or took > before else 0.7 * before + 0.3 * took
