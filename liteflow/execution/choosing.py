"""What runs next: by priority, fair between runs of one, by weight within a run, and as much as a slot is good for."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from liteflow.execution.jobs import Engine, Job, Outcome
from liteflow.execution.turn import Claim, Turn

if TYPE_CHECKING:
    from liteflow.execution.active import ActiveRun
    from liteflow.execution.pools import PoolGuard
    from liteflow.execution.ready import Gate

CHUNK_S = 0.004
"""How much expected work a slot is given at once."""
CHUNK_JOBS = 64


class Chooser:
    """Chooses for one engine. It belongs to the loop, which is the only one to call it."""

    def __init__(self, engine: Engine, pools: PoolGuard) -> None:
        self._engine = engine
        self._pools = pools
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
        """Claim as much as there is room for in the engine, and place what waits between two slots."""
        ready = len(self.callbacks) + len(self.unplaced) + sum(len(run.ready) for run in self.order)
        if not ready:
            return
        share = -(-ready // self._engine.size())
        most = min(CHUNK_JOBS, share) if self._engine.chunks else 1
        for vacancy in self._engine.vacancies():
            self._fill(vacancy, most, turn)

    def _fill(self, vacancy: int, most: int, turn: Turn) -> None:
        """Give a vacancy as much as it is good for: one job whose length nobody knows, or several tiny ones."""
        budget = CHUNK_S
        for count in range(most):
            waiting = self.callbacks or self.unplaced
            expected: float | None
            if waiting:
                job = waiting[0]
                expected = None if job.callback_id is not None else self.expected(job.run, job.index)
                if count and (expected is None or expected > budget):
                    return
                waiting.popleft()
                turn.placed.append((vacancy, job))
            else:
                found = self._next()
                if found is None:
                    return
                run, index = found
                expected = self.expected(run, index)
                if count and (expected is None or expected > budget):
                    return
                self._claim(vacancy, run, index, expected, turn)
            if expected is None:
                return
            budget -= expected

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
