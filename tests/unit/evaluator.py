"""What a run must come to, worked out a second time: slowly, and from the documentation of Airflow's rules.

It looks at a dag and at what each instance would come to if it ran, goes through the tasks in topological order, and
has for each instance the full list of what is upstream of it. There is no time in it, so where the documentation says
that the order of arrival decides, there is more than one right answer:

* `all_success` with both a skip and a failure upstream: skipped or upstream_failed;
* what a branch or short circuit skips may have been decided by its own rule before that, where this does not wait;
* a member of a mapped group may be decided before the group is expanded, as the one instance that it is then.

There the evaluator takes what the run came to, if that is one of the right answers (`observed`), and else the first
that the documentation names. States are letters: S success, F failed, K skipped, U upstream_failed, as in its table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod
from typing import Literal, NamedTuple

GO = "go"
"""In place of a state: it may run."""

Instance = tuple[int, int]
"""Number of the task and map index; -1 where it is not mapped, or was not expanded."""

States = Mapping[Instance, str]


class Task(NamedTuple):
    """A task. Numbers of tasks are in topological order."""

    upstream: tuple[int, ...] = ()
    rule: str = "all_success"
    kind: Literal["plain", "branch", "short_circuit"] = "plain"
    ignores_rules: bool = True
    """Of a short circuit: skips all that is downstream, in place of what is directly so."""
    unit: int | None = None
    """The mapped task or mapped group that it is or belongs to."""
    is_teardown: bool = False
    setups: tuple[int, ...] = ()
    """Of a teardown; they are upstream of it."""
    on_failure_fail_dagrun: bool = False
    depends_on_past: bool = False
    retries: int = 0


class Unit(NamedTuple):
    """A mapped task, or a mapped group: what it is mapped over."""

    literal: int = 1
    """The length of what is written in the dag."""
    sources: tuple[int, ...] = ()
    """Tasks whose values are mapped over too: all lengths are multiplied."""


class Dag(NamedTuple):
    """Tasks and units."""

    tasks: tuple[Task, ...]
    units: tuple[Unit, ...] = ()


class Outcome(NamedTuple):
    """What an instance comes to if it runs, its retries included."""

    state: str = "S"
    length: int = 0
    """Of the list that it returns."""
    chosen: tuple[int, ...] = ()
    """By a branch: which of the tasks directly downstream."""
    falsy: bool = False
    """What a short circuit returned."""


class Disagreement(AssertionError):
    """A state that is none of the right ones."""


# The dag


def downstream(dag: Dag, number: int) -> list[int]:
    """The tasks directly downstream."""
    return [below for below, task in enumerate(dag.tasks) if number in task.upstream]


def all_downstream(dag: Dag, number: int) -> set[int]:
    """All tasks that come after it."""
    found: set[int] = set()
    for below, task in enumerate(dag.tasks):
        if not ({number} | found).isdisjoint(task.upstream):
            found.add(below)
    return found


def scope(dag: Dag, number: int) -> list[int]:
    """What a teardown waits for without being directly downstream of it: all between its setups and itself."""
    task = dag.tasks[number]
    after_setups = set().union(*(all_downstream(dag, setup) for setup in task.setups))
    return [one for one in sorted(after_setups - set(task.upstream)) if number in all_downstream(dag, one)]


def skipped_by(dag: Dag, number: int, outcome: Outcome) -> list[int]:
    """What a branch or short circuit that succeeded skips."""
    task = dag.tasks[number]
    if task.kind == "branch":
        kept = set(outcome.chosen).union(*(all_downstream(dag, one) for one in outcome.chosen))
        return [below for below in downstream(dag, number) if below not in kept]
    if task.kind == "short_circuit" and outcome.falsy:
        below = all_downstream(dag, number) if task.ignores_rules else set(downstream(dag, number))
        return [one for one in sorted(below) if not dag.tasks[one].is_teardown]
    return []


def fails_run(task: Task) -> bool:
    """Whether its failure as a leaf is the run's."""
    return not task.is_teardown or task.on_failure_fail_dagrun


# The rules


def verdict(rule: str, upstream: Sequence[str | None]) -> str | None:
    """What a rule makes of the states of what is upstream, where None has not ended: GO, K, U, or None to wait.

    Of a skip and a failure under `all_success` the failure is taken.
    """
    known = [state for state in upstream if state is not None]
    all_ended = len(known) == len(upstream)
    success, failed, skipped, unwell = "S" in known, "F" in known, "K" in known, "F" in known or "U" in known
    if not upstream:
        return GO
    decisions = {
        "always": [(True, GO)],
        "all_success": [(unwell, "U"), (skipped, "K"), (all_ended, GO)],
        "all_failed": [(success, "K"), (skipped, "K"), (all_ended, GO)],
        "all_done": [(all_ended, GO)],
        "all_done_min_one_success": [(skipped, "K"), (all_ended, GO if success else "U")],
        "all_skipped": [(success, "K"), (unwell, "K"), (all_ended, GO)],
        "one_success": [(success, GO), (all_ended, "U" if unwell else "K")],
        "one_failed": [(unwell, GO), (all_ended, "K")],
        "one_done": [(success, GO), (failed, GO), (all_ended, "K")],
        "none_failed": [(unwell, "U"), (all_ended, GO)],
        "none_failed_min_one_success": [(unwell, "U"), (all_ended, GO if success else "K")],
        "none_skipped": [(skipped, "K"), (all_ended, GO)],
    }
    return next((decision for holds, decision in decisions[rule] if holds), None)


RULES = (
    "all_success",
    "all_failed",
    "all_done",
    "all_done_min_one_success",
    "all_skipped",
    "one_success",
    "one_failed",
    "one_done",
    "none_failed",
    "none_failed_min_one_success",
    "none_skipped",
    "always",
)
"""All but the rule that only teardowns have."""


def teardown_verdict(upstream: Sequence[str | None], setups: Sequence[str | None]) -> str | None:
    """The rule of a teardown: `upstream` with all that is between its setups and itself, and its setups."""
    if None in upstream:
        return None
    if setups and all(state == "K" for state in setups):
        return "K"
    return "U" if setups and "S" not in setups else GO


# The run


class Evaluation:
    """The final states of a run: `states`, and `run_state` (S or F)."""

    def __init__(
        self,
        dag: Dag,
        outcome: Callable[[int, int], Outcome],
        *,
        past_forbids: Callable[[int], bool] = lambda number: False,
        observed: States | None = None,
    ) -> None:
        self.dag = dag
        self.states: dict[Instance, str] = {}
        self._outcome = outcome
        self._past_forbids = past_forbids
        self._observed = observed
        self._downstream = [downstream(dag, number) for number in range(len(dag.tasks))]
        self._scopes = [scope(dag, number) if task.is_teardown else [] for number, task in enumerate(dag.tasks)]
        self._skipped_by = cache(lambda number, index: skipped_by(dag, number, outcome(number, index)))
        self._may_precede = cache(self._find_may_precede)
        for number in range(len(dag.tasks)):
            self._settle(number)
        self._check_expansions()
        if observed is not None and set(observed) != set(self.states):
            raise Disagreement(f"instances {sorted(observed)}, which should be {sorted(self.states)}")
        leaves = self._leaves()
        self.run_state = "F" if any(self.states[one] in "FU" for leaf in leaves for one in self.of(leaf)) else "S"

    def of(self, number: int) -> list[Instance]:
        """The instances of a task that has ended."""
        return [instance for instance in self.states if instance[0] == number]

    def _leaves(self) -> list[int]:
        tasks = self.dag.tasks
        leaves = [
            number
            for number, task in enumerate(tasks)
            if fails_run(task) and not any(fails_run(tasks[below]) for below in self._downstream[number])
        ]
        return leaves or [number for number in range(len(tasks)) if not self._downstream[number]]

    def _settle(self, number: int) -> None:
        """Find the states of all instances of a task; all upstream has its own."""
        task = self.dag.tasks[number]
        if task.unit is None:
            self._choose((number, -1), self._runs((number, -1), self._allowed((number, -1))))
            return
        unit = self.dag.units[task.unit]
        if not unit.sources and unit.literal:
            self._expand(number, unit.literal)
            return
        as_one = self._allowed_as_one(number)
        is_one = (number, -1) in self._observed if self._observed is not None else bool(as_one)
        if is_one:
            self._choose((number, -1), as_one)
        else:
            self._expand(number, self._length(task.unit))

    def _expand(self, number: int, count: int) -> None:
        instances = [(number, index) for index in range(count)]
        allowed = [self._allowed(instance) for instance in instances]
        if self._past_forbids(number) and any(GO in one for one in allowed):
            allowed = [[*one, "U"] for one in allowed]  # which of them had been decided by then is a matter of time
        for instance, found in zip(instances, allowed, strict=True):
            self._choose(instance, self._runs(instance, found))

    def _choose(self, instance: Instance, allowed: Sequence[str]) -> None:
        state = self._observed.get(instance) if self._observed is not None else None
        if self._observed is not None and state not in allowed:
            raise Disagreement(f"task {instance[0]}[{instance[1]}] is {state}, and should be one of {allowed}")
        self.states[instance] = state or allowed[0]

    def _runs(self, instance: Instance, allowed: Sequence[str]) -> list[str]:
        """The states, where GO is replaced by what running comes to."""
        ran = "U" if self._past_forbids(instance[0]) else self._outcome(*instance).state
        return [ran if one == GO else one for one in allowed]

    # Mapping

    def _allowed_as_one(self, number: int) -> list[str]:
        """The states in which a mapped task that is not expanded may end."""
        found = []
        for one in self._allowed((number, -1)):
            if one != GO:
                found.append(one)
            elif self._past_forbids(number):
                found.append("U")
            else:
                found += self._source_verdict(self.dag.tasks[number].unit)
        return found

    def _source_verdict(self, unit: int | None) -> list[str]:
        """What the sources make of a task that could go; nothing if it is expanded."""
        assert unit is not None
        as_one = [self.states.get((source, -1), "S") for source in self.dag.units[unit].sources]
        if "F" in as_one or "U" in as_one:
            return ["U"]
        return ["K"] if "K" in as_one or not self._length(unit) else []

    def _length(self, unit: int) -> int:
        found = self.dag.units[unit]
        return found.literal * prod(self._length_of(source) for source in found.sources)

    def _length_of(self, source: int) -> int:
        if (source, -1) in self.states:
            return self._outcome(source, -1).length
        return sum(self.states[one] == "S" for one in self.of(source))

    def _check_expansions(self) -> None:
        """A unit is expanded when a member could go before, and there is something to map over."""
        for unit, found in enumerate(self.dag.units):
            members = [number for number, task in enumerate(self.dag.tasks) if task.unit == unit]
            expanded = [number for number in members if (number, -1) not in self.states]
            if expanded and found.sources and (self._source_verdict(unit) or not any(map(self._can_go, members))):
                raise Disagreement(f"tasks {expanded} were expanded, and nothing of the unit could go")

    def _can_go(self, number: int) -> bool:
        """Whether a mapped task could have gone before it was expanded."""
        return not self._past_forbids(number) and GO in self._known((number, -1), [])

    # One instance

    def _upstream(self, up: int, instance: Instance) -> list[Instance | None]:
        """The instances of `up` that this one has upstream; None for what it cannot know yet."""
        number, index = instance
        unit = self.dag.tasks[number].unit
        if unit is None or self.dag.tasks[up].unit != unit:
            return list(self.of(up)) or [None]
        if (up, -1) in self.states:
            return [(up, -1)]
        return [(up, index) if (up, index) in self.states else None]

    def _deciders(self, instance: Instance) -> list[Instance]:
        """The branches and short circuits that decided to skip this one.

        What a mapped one decides is for the same map index.
        """
        number, index = instance
        return [
            one
            for one, state in self.states.items()
            if state == "S" and one[1] in (-1, index) and number in self._skipped_by(*one)
        ]

    def _allowed(self, instance: Instance) -> list[str]:
        """GO, K or U, whatever it may come to; in the order of preference."""
        deciders = self._deciders(instance)
        by_rule = self._known(instance, deciders)
        return ["K", *by_rule] if deciders else by_rule

    def _known(self, instance: Instance, deciders: Sequence[Instance]) -> list[str]:
        """What the rule says from what may be known before any of the deciders has ended; nothing if it waits."""
        task = self.dag.tasks[instance[0]]

        def states_of(tasks: Sequence[int]) -> list[str | None]:
            instances = [one for up in tasks for one in self._upstream(up, instance)]
            known = [one for one in instances if one and all(self._may_precede(one, by) for by in deciders)]
            return [self.states[one] if one is not None and one in known else None for one in instances]

        states = states_of(task.upstream)
        if task.is_teardown:
            found = teardown_verdict([*states, *states_of(self._scopes[instance[0]])], states_of(task.setups))
        else:
            found = verdict(task.rule, states)
        if task.rule == "all_success" and found == "U" and "K" in states:
            return ["U", "K"]
        return [] if found is None else [found]

    def _find_may_precede(self, instance: Instance, decider: Instance) -> bool:
        """Whether it may have ended before the decider did."""
        if instance == decider:
            return False
        task = self.dag.tasks[instance[0]]
        if instance[1] >= 0 and task.unit is not None:
            sources = [one for source in self.dag.units[task.unit].sources for one in self.of(source)]
            if not all(self._may_precede(one, decider) for one in sources):
                return False
        others = [one for one in self._deciders(instance) if one != decider]
        if any(self._may_precede(one, decider) for one in others):
            return True
        return bool(self._known(instance, [decider]))
