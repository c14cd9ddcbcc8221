"""The scheduling core against the evaluator: any dag, any outcomes, and any order in which things happen."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from random import Random
from types import FrameType
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from liteflow.authoring.options import TaskOptions
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.scheduling.core import Change, Ended, Recorded, RunCore, TaskSpec, UnitSpec
from liteflow.scheduling.leaves import Standing, do_teardowns_count, recorded_outcome
from liteflow.scheduling.reopening import Stood, renewed, to_reopen, to_run_again
from liteflow.states import TRANSITIONS, EndReason, RunState, TaskInstanceState
from tests.unit.evaluator import (
    GO,
    RULES,
    Dag,
    Evaluation,
    Instance,
    Outcome,
    Task,
    Unit,
    downstream,
    fails_run,
    scope,
    skipped_by,
    teardown_verdict,
    verdict,
)

S = TaskInstanceState
LETTERS = {S.SUCCESS: "S", S.FAILED: "F", S.SKIPPED: "K", S.UPSTREAM_FAILED: "U"}
ENDS = {letter: state for state, letter in LETTERS.items()}
TEARDOWN_RULE = "all_done_setup_success"

# Any dag


class Builder:
    """Draws a dag, one task, mapped task or mapped group after the other."""

    def __init__(self, draw: st.DrawFn, *, rules: Iterable[str], decisions: bool, past: bool) -> None:
        self.draw = draw
        self.rules = st.just("all_success") | st.sampled_from(sorted(rules))
        self.kinds = st.sampled_from(["plain"] * 4 + ["branch", "short_circuit"] if decisions else ["plain"])
        self.past = past
        self.tasks: list[Task] = []
        self.units: list[Unit] = []

    def some_of(self, numbers: Iterable[int], *, least: int = 0, most: int = 3) -> list[int]:
        found = sorted(numbers)
        most = min(most, len(found))
        return self.draw(st.lists(st.sampled_from(found), min_size=least, max_size=most, unique=True)) if found else []

    def chance(self, one_in: int) -> bool:
        return self.draw(st.integers(1, one_in)) == one_in

    def add(self, upstream: Iterable[int], unit: int | None = None) -> None:
        """A task; one with something upstream may be a teardown."""
        ups = tuple(sorted(set(upstream)))
        may_be_setups = [up for up in ups if not self.tasks[up].is_teardown]
        more: dict[str, Any] = {"upstream": ups, "unit": unit, "retries": self.draw(st.integers(0, 2))}
        if may_be_setups and self.chance(5 if unit is None else 3):
            setups = tuple(self.some_of(may_be_setups, least=1, most=2))
            more |= {"is_teardown": True, "rule": TEARDOWN_RULE, "setups": setups}
            more["on_failure_fail_dagrun"] = self.draw(st.booleans())
        else:
            more |= {
                "rule": self.draw(self.rules),
                "kind": self.draw(self.kinds),
                "ignores_rules": self.draw(st.booleans()),
            }
        self.tasks.append(Task(**more, depends_on_past=self.past and self.chance(5)))

    def add_something(self) -> None:
        numbers = range(len(self.tasks))
        size = self.draw(st.sampled_from([0, 0, 1, 1, 2, 2, 3]))
        if not size:
            self.add(self.some_of(numbers))
            return
        sources = tuple(self.some_of(numbers, most=2))
        self.units.append(Unit(self.draw(st.integers(0, 3)) if not sources or self.chance(3) else 1, sources))
        first = len(self.tasks)
        for number in range(first, first + size):
            inner = self.some_of(range(first, number), most=2)
            outer = self.some_of(range(first), most=2 if not inner else 1)
            self.add([*inner, *outer, *(() if inner else sources)], len(self.units) - 1)

    def dag(self) -> Dag:
        setups = {setup for task in self.tasks for setup in task.setups}
        tasks = [
            task if task.is_teardown or setups.isdisjoint(task.upstream) else task._replace(rule="all_success")
            for task in self.tasks
        ]
        return Dag(tuple(tasks), tuple(self.units))


@st.composite
def dags(
    draw: st.DrawFn, *, most: int = 7, rules: Iterable[str] = RULES, decisions: bool = True, past: bool = True
) -> Dag:
    """A dag of up to `most` tasks, mapped tasks and mapped groups."""
    builder = Builder(draw, rules=rules, decisions=decisions, past=past)
    for _ in range(draw(st.integers(0, most))):
        builder.add_something()
    return builder.dag()


class Script:
    """What each instance comes to, the same for each run of the dag."""

    def __init__(self, dag: Dag, seed: int, states: Sequence[str] = ()) -> None:
        self.dag = dag
        self.seed = seed
        self.states = states
        """In which each task ends, if that is given."""
        self.outcome = cache(self._outcome)

    def random(self, *of: object) -> Random:
        return Random(f"{self.seed} {of}")

    def _outcome(self, number: int, map_index: int) -> Outcome:
        random = self.random(number, map_index)
        state = self.states[number] if self.states else random.choice("SSSSFK")
        chosen = [below for below in downstream(self.dag, number) if random.random() < 0.5]
        return Outcome(state, random.choice([0, 1, 2, 2, 3, 5]), tuple(chosen), random.random() < 0.5)

    def past_forbids(self, number: int) -> bool:
        return self.dag.tasks[number].depends_on_past and self.random("past", number).random() < 0.5

    def failures(self, number: int, map_index: int) -> int:
        """How many tries fail before the one that counts."""
        return self.random("retries", number, map_index).randint(0, self.dag.tasks[number].retries)

    def looks(self, number: int, map_index: int) -> int:
        """How many times it is rescheduled in each try."""
        return self.random("looks", number, map_index).choice([0, 0, 0, 1, 2])


# A service


def specs_of(dag: Dag, name: Callable[[int], str] = "t{}".format) -> list[TaskSpec]:
    return [
        TaskSpec(
            name(number),
            task.upstream,
            TaskOptions(
                trigger_rule=TriggerRule(task.rule), retries=task.retries, depends_on_past=task.depends_on_past
            ),
            unit=task.unit,
            setups=task.setups,
            scope=scope(dag, number) if task.is_teardown else (),
            is_teardown=task.is_teardown,
            fails_run=fails_run(task),
        )
        for number, task in enumerate(dag.tasks)
    ]


def core_of(dag: Dag, *, name: Callable[[int], str] = "t{}".format, fail_fast: bool = False) -> RunCore:
    units = [UnitSpec(unit.sources, None if unit.sources else unit.literal) for unit in dag.units]
    return RunCore(specs_of(dag, name), units=units, identity="d/1", fail_fast=fail_fast)


class Service:
    """Drives a core as a service would, and checks each change that it makes."""

    def __init__(self, dag: Dag, script: Script, *, check_rules: bool = False, **more: Any) -> None:
        self.dag = dag
        self.scopes = [scope(dag, number) if task.is_teardown else [] for number, task in enumerate(dag.tasks)]
        self.checks_rules = check_rules
        """Whether each rule is asked anew after each step, which is slow."""
        self.script = script
        self.more = more
        self.core = core_of(dag, **more)
        self.states = list(self.core.states)
        self.expansions: list[int] = []
        self.looks: dict[int, int] = {}
        self.went_back: defaultdict[int, TaskInstanceState] = defaultdict(lambda: S.PENDING)
        """What each that was queued anew had waited for."""
        self.decided: list[Sequence[int]] = []
        """What branches and short circuits skipped."""
        self.deciders: dict[Instance, Sequence[int]] = {}
        """Of those that succeeded: what each skipped."""
        self.end_reason: EndReason | None = None
        self.log: list[tuple[int, TaskInstanceState, EndReason | None]] = []

    def numbers(self, *states: TaskInstanceState) -> list[int]:
        return [index for index, state in enumerate(self.states) if state in states]

    def instance(self, index: int) -> Instance:
        return self.core.task_of[index], self.core.map_index_of[index]

    def take(self, changes: Sequence[Change]) -> None:
        """Each change is in the table, and there are no others."""
        for change in changes:
            self.log.append((change.index, change.state, change.reason))
            if self.end_reason is not None:
                self.check_change_of_the_end(change)
            assert change.state in TRANSITIONS[self.states[change.index]], change
            self.states[change.index] = change.state
        self.end_reason = self.core.ending
        assert self.core.states == self.states
        if self.checks_rules and self.end_reason is None and self.log:
            self.check_rules(changes)
        assert self.core.finished == (not self.numbers(*(state for state in TRANSITIONS if not state.is_terminal)))
        found = self.core.expansions()
        assert len(set(found)) == len(found)
        assert self.core.expansions() == []
        self.expansions += found

    def start(self) -> None:
        self.take(self.core.start())
        assert self.core.start() == []

    def claim(self, index: int) -> None:
        before = self.core.try_numbers[index]
        resumed = self.went_back[index] is S.UP_FOR_RESCHEDULE
        assert self.core.is_resumed(index) == resumed
        assert self.core.claim(index) == before + (not resumed)
        self.states[index] = S.RUNNING
        assert not self.core.is_resumed(index)

    def end(self, indexes: Iterable[int]) -> None:
        events = [self.ended(index) for index in indexes]
        self.take(self.core.apply(events))
        assert self.core.apply(events) == []

    def ended(self, index: int) -> Ended:
        """How the try that runs ends."""
        number, map_index = self.instance(index)
        tries = self.core.try_numbers[index]
        outcome = self.script.outcome(number, map_index)
        if self.looks.get(index, 0) < self.script.looks(number, map_index):
            self.looks[index] = self.looks.get(index, 0) + 1
            return Ended(index, S.UP_FOR_RESCHEDULE, delay_s=3.0)
        if tries <= self.script.failures(number, map_index):
            return Ended(index, S.FAILED, EndReason.ERROR)
        skip = skipped_by(self.dag, number, outcome) if outcome.state == "S" else ()
        self.decided.append(skip)
        if outcome.state == "S":
            self.deciders[self.instance(index)] = skip
        return Ended(index, ENDS[outcome.state], may_retry=False, skip=skip)

    def due(self, index: int) -> None:
        self.went_back[index] = self.states[index]
        self.take(self.core.due(index))
        assert self.states[index] is S.QUEUED
        assert self.core.due(index) == []

    def expand(self, unit: int) -> None:
        self.expansions.remove(unit)
        count = self.dag.units[unit].literal
        for source in self.dag.units[unit].sources:
            assert self.core.unended[source] == 0
            if self.core.is_expanded(source):
                count *= len(self.core.successes(source))
            else:
                assert self.core.states[source] is S.SUCCESS
                count *= self.script.outcome(source, -1).length
        found = self.core.expand(unit, count)
        assert all(self.core.count(task) == count for task in found.tasks)
        self.states += [S.PENDING] * (len(self.core.states) - len(self.states))
        self.take(found.changes)
        again = self.core.expand(unit, count)
        assert (again.tasks, again.changes) == ([], [])

    def tell_past(self, number: int) -> None:
        forbids = self.script.past_forbids(number)
        self.take(self.core.past_known(number, "not this time" if forbids else None))
        assert self.core.past_known(number, None) == []

    def actions(self) -> list[tuple[Callable[..., None], list[int]]]:
        """What can happen next: what to call, and with one of which."""
        found = [
            (self.claim, self.numbers(S.QUEUED)),
            (lambda index: self.end([index]), self.numbers(S.RUNNING)),
            (self.due, self.numbers(S.UP_FOR_RETRY, S.UP_FOR_RESCHEDULE)),
            (self.expand, self.expansions),
            (self.tell_past, self.core.past_wanted()),
        ]
        return [(call, of) for call, of in found if of]

    def die(self) -> None:
        """Everything in memory is lost, and the next service goes on from what is recorded."""
        records = []
        waited = {self.instance(index): state for index, state in self.went_back.items()}
        looks = {self.instance(index): count for index, count in self.looks.items()}
        for index, state in enumerate(self.states):
            was_running = state is S.RUNNING
            if was_running:
                waited.pop(self.instance(index), None)
            records.append(
                Recorded(
                    *self.instance(index),
                    S.QUEUED if was_running else state,
                    self.core.try_numbers[index],
                    self.core.uncounted_tries[index] + was_running,
                    self.core.is_resumed(index),
                )
            )
        self.go_on_from(records, self.core.ending)
        for instance, before in waited.items():
            self.went_back[self.core.instance(*instance)] = before
        for instance, count in looks.items():
            self.looks[self.core.instance(*instance)] = count

    def go_on_from(self, records: Sequence[Recorded], ending: EndReason | None = None) -> None:
        self.core = core_of(self.dag, **self.more)
        self.core.restore(records, ending)
        self.states = list(self.core.states)
        self.end_reason = self.core.ending
        self.expansions = []
        self.went_back.clear()
        self.looks.clear()
        decided = [(self.core.instance(*one), skip) for one, skip in self.deciders.items()]
        self.take(self.core.start(decided))

    def run(self, random: Random, *, end_early: float = 0.0, die: float = 0.0) -> None:
        """Let anything happen that can, until the run is over."""
        self.start()
        self.go_on(random, end_early=end_early, die=die)

    def go_on(self, random: Random, *, end_early: float = 0.0, die: float = 0.0) -> None:
        while actions := self.actions():
            if random.random() < die:
                self.die()
                continue
            if self.end_reason is None and random.random() < end_early:
                self.end_early(EndReason.CANCELLED)
                continue
            running = self.numbers(S.RUNNING)
            if running and random.random() < 0.2:
                self.end(random.sample(running, random.randint(1, len(running))))
                continue
            call, of = random.choice(actions)
            call(random.choice(of))
        assert self.core.finished, "the run does not go on"

    def end_early(self, reason: EndReason, *, spare_teardowns: bool = True) -> None:
        running, over = self.numbers(S.RUNNING), self.numbers(*ENDS.values())
        before = self.core.states.copy()
        self.end_reason = self.end_reason or (None if self.core.finished else reason)
        self.take(self.core.end_early(reason, spare_teardowns=spare_teardowns))
        assert self.core.ending is self.end_reason
        assert all(self.states[index] is before[index] for index in [*running, *over])
        assert self.core.end_early(EndReason.TIMEOUT) == []
        assert self.core.ending is self.end_reason

    def check_rules(self, changes: Sequence[Change]) -> None:
        """Nothing is queued before its rule holds, and nothing that is pending is late."""
        for change in changes:
            if change.state is S.QUEUED and not self.core.try_numbers[change.index]:
                assert self.says(change.index) == GO
        for index in self.numbers(S.PENDING):
            number, map_index = self.instance(index)
            task = self.dag.tasks[number]
            may_wait = task.depends_on_past or (task.unit is not None and map_index < 0)
            assert self.says(index) in ([None, GO] if may_wait else [None])

    def says(self, index: int) -> str | None:
        """What the rule makes of the states as they are now."""
        number, _ = self.instance(index)
        task = self.dag.tasks[number]

        def states_of(tasks: Iterable[int]) -> list[str | None]:
            return [LETTERS.get(self.states[one]) for up in tasks for one in self.upstream_of(up, index)]

        if task.is_teardown:
            return teardown_verdict(states_of([*task.upstream, *self.scopes[number]]), states_of(task.setups))
        return verdict(task.rule, states_of(task.upstream))

    def check_change_of_the_end(self, change: Change) -> None:
        """A run that is being ended early starts nothing but teardowns, and what it leaves out it has skipped."""
        task = self.dag.tasks[self.core.task_of[change.index]]
        if not change.state.is_terminal:
            assert task.is_teardown
        if self.states[change.index] is not S.RUNNING and change.state.is_terminal:
            assert (change.state, change.reason) == (S.SKIPPED, self.end_reason)

    def check_teardowns(self) -> None:
        """Each teardown of a setup that succeeded has run, unless something else had decided it before."""
        skipped = {one for event in self.decided for one in event}
        for index in range(len(self.states)):
            number, map_index = self.instance(index)
            task = self.dag.tasks[number]
            may_be_left_out = number in skipped or task.depends_on_past or (task.unit is not None and map_index < 0)
            if task.is_teardown and not may_be_left_out:
                setups = [one for setup in task.setups for one in self.upstream_of(setup, index)]
                assert (self.core.try_numbers[index] > 0) == any(self.states[one] is S.SUCCESS for one in setups)

    def upstream_of(self, up: int, index: int) -> list[int]:
        number, map_index = self.instance(index)
        unit = self.dag.tasks[number].unit
        if unit is not None and self.dag.tasks[up].unit == unit:
            return [self.core.instance(up, map_index)]
        return list(self.core.instances(up))

    def ends(self) -> list[tuple[int, TaskInstanceState, EndReason | None]]:
        """Of each instance: how it ended, and why."""
        reasons = {index: reason for index, _, reason in self.log}
        return [(index, state, reasons.get(index)) for index, state in enumerate(self.states)]

    def final(self) -> dict[Instance, str]:
        return {self.instance(index): LETTERS[state] for index, state in enumerate(self.states)}


seeds = st.integers(0, 2**32)


@settings(max_examples=100)
@given(dags(), seeds, seeds)
def test_core_and_evaluator_agree(dag: Dag, outcomes: int, order: int) -> None:
    script = Script(dag, outcomes)
    service = Service(dag, script, check_rules=True)
    service.run(Random(order))
    right = Evaluation(dag, script.outcome, past_forbids=script.past_forbids, observed=service.final())
    assert service.core.outcome() == ({"S": RunState.SUCCESS, "F": RunState.FAILED}[right.run_state], None)


@settings(max_examples=75)
@given(dags(), seeds, seeds)
def test_a_run_that_is_ended_early_at_any_moment_ends_and_tears_down(dag: Dag, outcomes: int, order: int) -> None:
    service = Service(dag, Script(dag, outcomes))
    service.run(Random(order), end_early=0.1)
    if service.end_reason is not None:
        assert service.core.outcome() == (RunState.FAILED, EndReason.CANCELLED)
        service.check_teardowns()


@settings(max_examples=100)
@given(dags(), seeds, seeds)
def test_a_run_whose_service_dies_again_and_again_comes_to_the_same(dag: Dag, outcomes: int, order: int) -> None:
    script = Script(dag, outcomes)
    service = Service(dag, script, check_rules=True)
    service.run(Random(order), die=0.15)
    right = Evaluation(dag, script.outcome, past_forbids=script.past_forbids, observed=service.final())
    assert service.core.outcome() == ({"S": RunState.SUCCESS, "F": RunState.FAILED}[right.run_state], None)


@settings(max_examples=100)
@given(dags(), seeds, seeds)
def test_a_run_that_was_being_ended_is_ended_after_the_death_of_its_service(
    dag: Dag, outcomes: int, order: int
) -> None:
    service = Service(dag, Script(dag, outcomes))
    service.run(Random(order), end_early=0.1, die=0.15)
    if service.end_reason is not None:
        assert service.core.outcome() == (RunState.FAILED, EndReason.CANCELLED)


@settings(max_examples=75)
@given(dags(past=False), seeds, seeds, st.booleans())
def test_a_run_that_is_opened_again_and_goes_well_has_nothing_left_that_failed(
    dag: Dag, outcomes: int, order: int, is_ended_early: bool
) -> None:
    script, random = Script(dag, outcomes), Random(order)
    service = Service(dag, script)
    service.run(random, end_early=0.1 if is_ended_early else 0.0)
    stood = [
        Stood(*service.instance(index), state, reason, service.core.try_numbers[index] > 0)
        for index, state, reason in service.ends()
    ]
    specs = specs_of(dag)
    opened = to_reopen(specs, stood)
    for position, one in enumerate(stood):
        went_wrong = one.state in (S.FAILED, S.UPSTREAM_FAILED) or (one.state is S.SKIPPED and one.reason is not None)
        if went_wrong:
            assert position in opened
        elif one.state is S.SUCCESS and position in opened:
            is_setup = any(one.task in spec.setups for spec in specs)
            assert is_setup or (specs[one.task].is_teardown and one.has_run)
    expanded_anew = {
        number
        for number, unit in enumerate(dag.units)
        if any(stood[position].task in unit.sources for position in opened)
    }
    kept = [one for position, one in enumerate(stood) if position not in opened and one.map_index >= 0]
    assume(not any(dag.tasks[one.task].unit in expanded_anew for one in kept))  # the driver refuses to go on then
    stay = [one for position, one in enumerate(stood) if position not in opened]
    service.deciders = {
        one: skip for one, skip in service.deciders.items() if any((now.task, now.map_index) == one for now in stay)
    }
    records = [
        Recorded(one.task, one.map_index, S.PENDING if position in opened else one.state, 1, 1)
        for position, one in enumerate(stood)
        if dag.tasks[one.task].unit not in expanded_anew or one.map_index < 0
    ]
    collapsed = {one.task for one in stood if dag.tasks[one.task].unit in expanded_anew and one.map_index >= 0}
    records += [Recorded(task, -1, S.PENDING, 1, 1) for task in sorted(collapsed)]
    assume(not stragglers(dag, records))
    service.script = Script(dag, outcomes, ["S"] * len(dag.tasks))
    service.go_on_from(records)
    service.go_on(random)
    assert service.core.outcome()[1] is None
    assert not service.numbers(S.FAILED)


@settings(max_examples=75)
@given(dags(past=False), seeds, seeds, st.booleans())
def test_a_run_with_the_values_of_another_that_goes_well_has_nothing_left_that_failed(
    dag: Dag, outcomes: int, order: int, is_ended_early: bool
) -> None:
    script, random = Script(dag, outcomes), Random(order)
    service = Service(dag, script)
    service.run(random, end_early=0.1 if is_ended_early else 0.0)
    stood = [
        Stood(*service.instance(index), state, reason, service.core.try_numbers[index] > 0)
        for index, state, reason in service.ends()
    ]
    specs = specs_of(dag)
    changed = {position for position in range(len(stood)) if random.random() < 0.1}
    again = to_run_again(specs, stood, changed)
    while units := [  # what is mapped over a value that is made anew runs as a whole
        number
        for number, unit in enumerate(dag.units)
        if any(stood[position].task in unit.sources for position in again)
        and any(dag.tasks[one.task].unit == number for position, one in enumerate(stood) if position not in again)
    ]:
        changed |= {position for position, one in enumerate(stood) if dag.tasks[one.task].unit in units}
        again = to_run_again(specs, stood, changed)
    kept = [one for position, one in enumerate(stood) if position not in again]
    assert all(one.state in (S.SUCCESS, S.SKIPPED) for one in kept)
    renews = {task for spec in specs for task in spec.setups} | {n for n, spec in enumerate(specs) if spec.is_teardown}
    for one in kept:  # whatever it has taken is still so
        for up in specs[one.task].upstream:
            for position, other in enumerate(stood):
                same = dag.tasks[up].unit is None or dag.tasks[up].unit != dag.tasks[one.task].unit
                if other.task == up and (same or -1 in (one.map_index, other.map_index)):
                    assert position not in again or up in renews
    anew = {number for number, unit in enumerate(dag.units)
            if any(stood[position].task in unit.sources for position in again)}  # fmt: skip
    service.deciders = {
        one: skip for one, skip in service.deciders.items() if any((now.task, now.map_index) == one for now in kept)
    }
    records = [
        Recorded(one.task, one.map_index, S.PENDING if position in again else one.state)
        for position, one in enumerate(stood)
        if dag.tasks[one.task].unit not in anew or one.map_index < 0
    ]
    collapsed = {one.task for one in stood if dag.tasks[one.task].unit in anew and one.map_index >= 0}
    records += [Recorded(task, -1, S.PENDING) for task in sorted(collapsed)]
    assume(not stragglers(dag, records))
    service.script = Script(dag, outcomes, ["S"] * len(dag.tasks))
    service.go_on_from(records)
    service.go_on(random)
    assert service.core.outcome()[1] is None
    assert not service.numbers(S.FAILED)


@given(dags(), seeds, seeds)
def test_clearing_opens_besides_only_setups_and_teardowns_that_have_run(dag: Dag, outcomes: int, order: int) -> None:
    service, random = Service(dag, Script(dag, outcomes)), Random(order)
    service.run(random)
    stood = [
        Stood(*service.instance(index), state, reason, service.core.try_numbers[index] > 0)
        for index, state, reason in service.ends()
    ]
    specs = specs_of(dag)
    cleared = {position for position in range(len(stood)) if random.random() < 0.3}
    found = renewed(specs, stood, cleared)
    assert cleared <= found
    assert renewed(specs, stood, found) == found
    setups = {task for spec in specs for task in spec.setups}
    for one in (stood[position] for position in found - cleared):
        assert one.task in setups or (specs[one.task].is_teardown and one.has_run)


@given(dags(), seeds, seeds)
def test_the_record_alone_tells_how_a_run_ended(dag: Dag, outcomes: int, order: int) -> None:
    service = Service(dag, Script(dag, outcomes))
    service.run(Random(order))
    states: dict[int, set[TaskInstanceState]] = defaultdict(set)
    for index, state, _ in service.ends():
        states[service.core.task_of[index]].add(state)
    record = {
        f"t{number}": Standing([f"t{up}" for up in task.upstream], task.rule, states[number])
        for number, task in enumerate(dag.tasks)
    }
    outcome, _ = service.core.outcome()
    kinds = {task.on_failure_fail_dagrun for task in dag.tasks if task.is_teardown}
    assume(len(kinds) < 2)
    assert recorded_outcome(record, teardowns_count=kinds == {True}) is outcome
    if kinds != {True}:
        assert not do_teardowns_count(record, outcome)
    elif recorded_outcome(record) is RunState.SUCCESS:
        assert do_teardowns_count(record, outcome) is (outcome is RunState.FAILED)


def stragglers(dag: Dag, records: Sequence[Recorded]) -> bool:
    """Whether there is a task that waits unexpanded in a unit that is expanded: the driver expands it first."""
    units = {dag.tasks[one.task].unit for one in records if one.map_index >= 0}
    return any(
        one.map_index < 0 and one.state is S.PENDING and dag.tasks[one.task].unit in units
        for one in records
        if dag.tasks[one.task].unit is not None
    )


@given(dags(), seeds, seeds)
def test_a_run_whose_teardowns_are_not_spared_starts_nothing(dag: Dag, outcomes: int, order: int) -> None:
    service = Service(dag, Script(dag, outcomes))
    random = Random(order)
    service.start()
    for _ in range(random.randint(0, 20)):
        if actions := service.actions():
            call, of = random.choice(actions)
            call(random.choice(of))
    if random.random() < 0.5:
        service.end_early(EndReason.CANCELLED)
    service.end_early(EndReason.CANCELLED, spare_teardowns=False)
    running = service.numbers(S.RUNNING)
    service.end(running)
    assert service.core.finished


@settings(max_examples=75)
@given(dags(rules=["all_success"]), seeds, seeds)
def test_a_run_with_fail_fast_ends_at_its_first_failure(dag: Dag, outcomes: int, order: int) -> None:
    service = Service(dag, Script(dag, outcomes), fail_fast=True)
    service.run(Random(order))
    failed = {service.core.task_of[index] for index in service.numbers(S.FAILED)}
    # A teardown that does not fail its run does not end it either.
    if any(not dag.tasks[task].is_teardown or dag.tasks[task].on_failure_fail_dagrun for task in failed):
        assert service.core.outcome() == (RunState.FAILED, EndReason.FAIL_FAST)
        service.check_teardowns()
    else:
        assert service.core.ending is None


@settings(max_examples=75)
@given(dags(), seeds, seeds, st.data())
def test_renaming_changes_nothing(dag: Dag, outcomes: int, order: int, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text(max_size=3), min_size=len(dag.tasks), max_size=len(dag.tasks)))

    def log_of(**more: Any) -> object:
        service = Service(dag, Script(dag, outcomes), **more)
        service.run(Random(order))
        return service.log, service.core.outcome()

    assert log_of() == log_of(name=names.__getitem__)


@settings(max_examples=75)
@given(dags(), seeds, seeds)
def test_the_order_within_a_batch_does_not_matter(dag: Dag, outcomes: int, order: int) -> None:
    one, other = (
        in_rounds(dag, Script(dag, outcomes), shuffle) for shuffle in (lambda of: None, Random(order).shuffle)
    )
    assert one == other


def in_rounds(dag: Dag, script: Script, shuffle: Callable[[list[int]], None]) -> dict[Instance, str]:
    """Run so that all that can happen at a time does so in one batch, in any order."""

    def shuffled(of: Iterable[int]) -> list[int]:
        found = sorted(of)
        shuffle(found)
        return found

    service = Service(dag, script)
    service.start()
    while service.actions():
        for index in shuffled(service.numbers(S.QUEUED)):
            service.claim(index)
        service.end(shuffled(service.numbers(S.RUNNING)))
        for index in shuffled(service.numbers(S.UP_FOR_RETRY, S.UP_FOR_RESCHEDULE)):
            service.due(index)
        for unit in shuffled(service.expansions):
            service.expand(unit)
        for number in shuffled(service.core.past_wanted()):
            service.tell_past(number)
    return service.final()


@given(st.sampled_from(RULES), st.lists(st.sampled_from("SFKU"), min_size=3, max_size=6), seeds)
def test_the_order_of_arrival_does_not_matter(rule: str, upstream: list[str], order: int) -> None:
    size = len(upstream)
    ups = [*(Task() for _ in upstream), *(Task(upstream=(number,)) for number in range(size))]
    dag = Dag((*ups, Task(upstream=tuple(range(size, 2 * size)), rule=rule)))
    # What shall be upstream_failed has something that failed before it.
    before = ["F" if state == "U" else "S" for state in upstream]
    states = [*before, *upstream, "S"]
    service = Service(dag, Script(dag, 0, states))
    service.run(Random(order))
    final = service.final()
    assert [final[number, -1] for number in range(size, 2 * size)] == upstream
    says = verdict(rule, upstream)
    allowed = ["U", "K"] if rule == "all_success" and says == "U" and "K" in upstream else [says]
    assert final[2 * size, -1] in ["S" if one == GO else one for one in allowed]


class AnyMoment(RuleBasedStateMachine):
    """Whatever a service does, in whatever order: claims that are taken back, ends, retries, expansions, early ends."""

    @initialize(dag=dags(most=4), outcomes=seeds)
    def begin(self, dag: Dag, outcomes: int) -> None:
        self.script = Script(dag, outcomes)
        self.service = Service(dag, self.script, check_rules=True)

    @rule()
    def start(self) -> None:
        self.service.start()

    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        if actions := self.service.actions():
            call, of = data.draw(st.sampled_from(actions))
            call(data.draw(st.sampled_from(sorted(of))))

    @rule(data=st.data())
    def take_a_claim_back(self, data: st.DataObject) -> None:
        core = self.service.core
        if queued := self.service.numbers(S.QUEUED):
            index = data.draw(st.sampled_from(queued))
            before = core.is_resumed(index), core.try_numbers[index]
            core.claim(index)
            core.unclaim(index, resumed=before[0])
            assert (core.is_resumed(index), core.try_numbers[index]) == before
            assert core.states == self.service.states

    @rule(at=st.integers(0, 9), spare=st.booleans())
    def end_early(self, at: int, spare: bool) -> None:
        if not at:
            self.service.end_early(EndReason.CANCELLED, spare_teardowns=spare)

    def teardown(self) -> None:
        if hasattr(self, "service"):
            self.service.run(Random(0))


TestAnyMoment = AnyMoment.TestCase
TestAnyMoment.settings = settings(max_examples=40, stateful_step_count=30)


# Examples, most of them the documentation's


class Given(Script):
    """What some tasks or instances come to, as given; all others succeed and return two items."""

    def __init__(self, dag: Dag, outcomes: Mapping[int | Instance, Outcome | str]) -> None:
        super().__init__(dag, 0)
        self.given = outcomes

    def _outcome(self, number: int, map_index: int) -> Outcome:
        found = self.given.get((number, map_index), self.given.get(number, "S"))
        return Outcome(found, length=2) if isinstance(found, str) else found

    def past_forbids(self, number: int) -> bool:
        return self.dag.tasks[number].depends_on_past

    def failures(self, number: int, map_index: int) -> int:
        return 0


Example = tuple[Dag, Mapping[int | Instance, Outcome | str], str, str]

TEARDOWN = Task((0, 2), TEARDOWN_RULE, is_teardown=True, setups=(0,))
SETUP_AND_TEARDOWN = Dag((Task(), Task((0,)), Task((1,)), TEARDOWN, Task((3,))))
"""s >> w >> w2 >> t.as_teardown(setups=s), t >> after."""
ENDS_WITH_TEARDOWN = Dag(SETUP_AND_TEARDOWN.tasks[:4])
STRICT_TEARDOWN = Dag((*SETUP_AND_TEARDOWN.tasks[:3], TEARDOWN._replace(on_failure_fail_dagrun=True)))
BRANCH = Task((), kind="branch")
CIRCUIT = Task((), kind="short_circuit")


def over_mapped(rule: str) -> Dag:
    """A task, one that is mapped over it, and one that takes what that gives."""
    return Dag((Task(), Task((0,), unit=0), Task((1,), rule)), (Unit(1, (0,)),))


def mapped_twice(rule: str) -> Dag:
    """A task, one that is mapped over it, and one that is mapped over that."""
    return Dag((Task(), Task((0,), unit=0), Task((1,), rule, unit=1)), (Unit(1, (0,)), Unit(1, (1,))))


NO_ITEMS: Mapping[int | Instance, Outcome | str] = {0: Outcome(length=0)}

EXAMPLES: dict[str, Example] = {
    # dag, outcomes, the states of each task (by map index; one that is not expanded has one), state of the run
    "teardown: all is well": (SETUP_AND_TEARDOWN, {}, "S S S S S", "S"),
    "teardown: the work fails": (SETUP_AND_TEARDOWN, {1: "F"}, "S F U S S", "F"),
    "teardown: the setup fails": (SETUP_AND_TEARDOWN, {0: "F"}, "F U U U U", "F"),
    "teardown: the setup is skipped": (SETUP_AND_TEARDOWN, {0: "K"}, "K K K K K", "S"),
    "teardown: it fails": (ENDS_WITH_TEARDOWN, {3: "F"}, "S S S F", "S"),
    "teardown: it fails and fails the run": (STRICT_TEARDOWN, {3: "F"}, "S S S F", "F"),
    "teardown: in a mapped group, by map index": (
        Dag((Task(unit=0), Task((0,), TEARDOWN_RULE, is_teardown=True, setups=(0,), unit=0)), (Unit(3),)),
        {(0, 1): "F", (0, 2): "K"},
        "SFK SUK",
        "F",
    ),
    "teardown: of a mapped setup": (
        Dag((Task(unit=0), Task((0,), TEARDOWN_RULE, is_teardown=True, setups=(0,))), (Unit(3),)),
        {(0, 1): "F", (0, 2): "K"},
        "SFK S",
        "F",
    ),
    "no items: all_success": (over_mapped("all_success"), NO_ITEMS, "S K K", "S"),
    "no items: none_failed": (over_mapped("none_failed"), NO_ITEMS, "S K S", "S"),
    "no items: all_done": (over_mapped("all_done"), NO_ITEMS, "S K S", "S"),
    "no items: mapped over that": (mapped_twice("all_done"), NO_ITEMS, "S K K", "S"),
    "one skipped: all_success": (over_mapped("all_success"), {(1, 1): "K"}, "S SK K", "S"),
    "one skipped: none_failed": (over_mapped("none_failed"), {(1, 1): "K"}, "S SK S", "S"),
    "one failed: all_success": (over_mapped("all_success"), {(1, 1): "F"}, "S SF U", "F"),
    "one failed: all_done": (over_mapped("all_done"), {(1, 1): "F"}, "S SF S", "S"),
    "one failed: one_success": (over_mapped("one_success"), {(1, 1): "F"}, "S SF S", "S"),
    "one failed: mapped over that": (mapped_twice("all_success"), {(1, 1): "F"}, "S SF U", "F"),
    "one failed: mapped over the survivors": (mapped_twice("all_done"), {(1, 1): "F"}, "S SF S", "S"),
    "the source failed: the rule does not matter": (
        Dag((Task(), Task((0,), "all_done", unit=0)), (Unit(1, (0,)),)),
        {0: "F"},
        "F U",
        "F",
    ),
    "mapped group: by map index": (
        Dag((Task(unit=0), Task((0,), unit=0), Task((1,), unit=0), Task((2,), "all_done")), (Unit(3),)),
        {(0, 1): "F", (1, 2): "K"},
        "SFS SUK SUK S",
        "S",
    ),
    "mapped group: a member is decided before the others are there": (
        Dag((Task(), Task(), Task((0, 1), unit=0), Task((2,), "all_done", unit=0)), (Unit(1, (1,)),)),
        {0: "F"},
        "F S U SS",
        "S",
    ),
    "branch: nothing chosen": (Dag((BRANCH, Task((0,)), Task((0,)))), {}, "S K K", "S"),
    "branch: the join": (
        Dag((BRANCH, Task((0,)), Task((0,)), Task((1, 2), "none_failed_min_one_success"))),
        {0: Outcome(chosen=(2,))},
        "S K S S",
        "S",
    ),
    "branch: what is below the chosen stays": (
        Dag((BRANCH, Task((0,)), Task((0,)), Task((0, 2)))),
        {0: Outcome(chosen=(2,))},
        "S K S S",
        "S",
    ),
    "branch: a task that is not directly downstream": (
        Dag((BRANCH, Task((0,)), Task((1,), "all_done"))),
        {0: Outcome(chosen=(2,))},
        "S K S",
        "S",
    ),
    "branch: mapped, by map index": (
        Dag((BRANCH._replace(unit=0), Task((0,), unit=0), Task((0,), unit=0)), (Unit(2),)),
        {(0, 0): Outcome(chosen=(1,)), (0, 1): Outcome(chosen=(2,))},
        "SS SK KS",
        "S",
    ),
    "branch: mapped, and kept for what is expanded later": (
        Dag((BRANCH._replace(unit=0), Task(), Task((0, 1), unit=1)), (Unit(2), Unit(1, (1,)))),
        {(0, 0): Outcome(chosen=(2,))},
        "SS S SK",
        "S",
    ),
    "short circuit: all below, whatever its rule": (
        Dag((CIRCUIT, Task((0,)), Task((1,), "all_done"))),
        {0: Outcome(falsy=True)},
        "S K K",
        "S",
    ),
    "short circuit: rules respected": (
        Dag((CIRCUIT._replace(ignores_rules=False), Task((0,)), Task((1,), "all_done"))),
        {0: Outcome(falsy=True)},
        "S K S",
        "S",
    ),
    "short circuit: teardowns run": (
        Dag((Task(), CIRCUIT._replace(upstream=(0,)), Task((1,)), TEARDOWN)),
        {1: Outcome(falsy=True)},
        "S S K S",
        "S",
    ),
    "short circuit: truthy": (Dag((CIRCUIT, Task((0,)))), {}, "S S", "S"),
    "run: a leaf that runs after a failure": (
        Dag((Task(), Task((0,)), Task((1,), "all_done"))),
        {1: "F"},
        "S F S",
        "S",
    ),
    "run: one leaf of two failed": (Dag((Task(), Task((0,)), Task((0,)))), {1: "F"}, "S F S", "F"),
    "past: it never goes": (Dag((Task(depends_on_past=True), Task((0,)))), {}, "U U", "F"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_come_to_what_the_documentation_says(name: str) -> None:
    dag, outcomes, states, run_state = EXAMPLES[name]
    script = Given(dag, outcomes)
    right = Evaluation(dag, script.outcome, past_forbids=script.past_forbids)
    assert (in_words(dag, right.states), right.run_state) == (states, run_state)
    for order in range(5):
        service = Service(dag, script, check_rules=True)
        service.run(Random(order))
        found = service.core.outcome()[0]
        assert (in_words(dag, service.final()), found.value[0].upper()) == (states, run_state)


def in_words(dag: Dag, states: Mapping[Instance, str]) -> str:
    """The letters of the instances of each task."""
    found = sorted(states.items())
    return " ".join("".join(state for (task, _), state in found if task == number) for number in range(len(dag.tasks)))


def test_what_a_branch_skips_is_not_queued_before() -> None:
    core = core_of(Dag((BRANCH, Task((0,)), Task((0,)), Task((1,), "all_done"))))
    core.start()
    core.claim(0)
    changes = [Change(0, S.SUCCESS), Change(1, S.SKIPPED), Change(2, S.QUEUED), Change(3, S.QUEUED)]
    assert core.apply([Ended(0, S.SUCCESS, skip=[1])]) == changes


def test_a_teardown_waits_for_what_is_between_its_setup_and_itself() -> None:
    # s >> a >> b >> t, s >> t, where b does not wait for a.
    teardown = Task((0, 2), TEARDOWN_RULE, is_teardown=True, setups=(0,))
    core = core_of(Dag((Task(), Task((0,)), Task((1,), "always"), teardown)))
    core.start()
    for number in (0, 2):
        core.claim(number)
    core.apply([Ended(0, S.SUCCESS)])
    core.claim(1)
    core.apply([Ended(2, S.FAILED)])
    assert core.states[3] is S.PENDING
    assert core.apply([Ended(1, S.SUCCESS)]) == [Change(1, S.SUCCESS), Change(3, S.QUEUED)]


def test_a_teardown_that_runs_when_teardowns_are_not_spared_any_more_is_not_tried_again() -> None:
    dag = Dag((Task(), Task((0,), TEARDOWN_RULE, is_teardown=True, setups=(0,), retries=1)))
    core = core_of(dag)
    core.start()
    core.claim(0)
    core.apply([Ended(0, S.SUCCESS)])
    core.claim(1)
    core.end_early(EndReason.CANCELLED)
    assert core.is_spared(1)
    core.end_early(EndReason.CANCELLED, spare_teardowns=False)
    assert not core.is_spared(1)
    assert core.apply([Ended(1, S.FAILED)]) == [Change(1, S.FAILED)]
    assert core.finished


# Work

SHAPES = {
    "a mapped task after one": lambda size, rule: Dag(
        (Task(unit=0), Task((0,), rule, unit=1)), (Unit(size), Unit(size))
    ),
    "a task after many": lambda size, rule: Dag((*[Task()] * size, Task(tuple(range(size)), rule))),
    "many tasks after one that is mapped": lambda size, rule: Dag(
        (Task(unit=0), *[Task((0,), rule)] * (size // 10)), (Unit(10),)
    ),
    "a mapped group after a mapped task": lambda size, rule: Dag(
        (Task(unit=0), Task(unit=1), Task((0, 1), rule, unit=1), Task((2,), rule, unit=1), Task((3,), rule)),
        (Unit(size), Unit(size)),
    ),
    "a mapped task over a mapped task": lambda size, rule: Dag(
        (Task(unit=0), Task((0,), rule, unit=1), Task((1,), rule, unit=2)), (Unit(size), Unit(1, (0,)), Unit(1, (1,)))
    ),
    "a teardown of a mapped setup": lambda size, rule: Dag(
        (
            Task(unit=0),
            Task((0,), unit=1),
            Task((1,), rule, unit=2),
            Task((0, 2), TEARDOWN_RULE, is_teardown=True, setups=(0,), unit=3),
        ),
        (Unit(size), Unit(size), Unit(size), Unit(size)),
    ),
}
"""Dags with a number of instances that grows as `size`, joined by edges whose number grows as its square."""


def run_one_by_one(dag: Dag, *, failed: frozenset[int] = frozenset()) -> RunCore:
    """Run without a look at all instances at each step; every try of a task in `failed` fails."""
    core = core_of(dag)
    changes = core.start()
    queued = [change.index for change in changes]
    while queued:
        index = queued.pop()
        core.claim(index)
        state = S.FAILED if core.task_of[index] in failed else S.SUCCESS
        changes = core.apply([Ended(index, state, may_retry=False)])
        for unit in core.expansions():
            length = sum(len(core.successes(source)) for source in dag.units[unit].sources)
            changes += core.expand(unit, length).changes
        queued += [change.index for change in changes if change.state is S.QUEUED]
    assert core.finished
    return core


def lines_run(call: Callable[[], object]) -> int:
    """How many lines of the scheduling core are gone through."""
    count = 0

    def local(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return local

    def called(frame: FrameType, event: str, argument: object) -> Any:
        return local if "liteflow/scheduling" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(called)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("failed", [frozenset[int](), frozenset({0})], ids=["well", "failed"])
@pytest.mark.parametrize("rule", ["all_success", "all_done", "one_success"])
def test_the_work_grows_with_the_instances_and_not_with_their_pairs(
    shape: str, failed: frozenset[int], rule: str
) -> None:
    def lines(size: int) -> int:
        return lines_run(lambda: run_one_by_one(SHAPES[shape](size, rule), failed=failed))

    assert lines(80) < 5 * lines(20)


def test_all_to_all_of_3000_mapped_instances_asks_the_rule_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()

    def count(name: str) -> None:
        method = getattr(RunCore, name)

        def counting(self: RunCore, *args: Any) -> Any:
            calls[name] += 1
            return method(self, *args)

        monkeypatch.setattr(RunCore, name, counting)

    count("_verdict")
    count("_count")
    core = run_one_by_one(SHAPES["a mapped task after one"](3000, "all_success"))
    assert (len(core.states), set(core.states)) == (6000, {S.SUCCESS})
    assert calls["_count"] == 6000
    assert calls["_verdict"] < 10
