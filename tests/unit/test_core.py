"""The scheduling core: whatever the dag and whatever happens, its decisions follow the rules and every run ends."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liteflow.authoring.options import TaskOptions
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.scheduling.core import Change, Ended, IllegalTransitionError, RunCore, TaskSpec
from liteflow.states import TRANSITIONS, EndReason, RunState, TaskInstanceState
from tests.unit.evaluator import GO, RULES, verdict

S = TaskInstanceState

UNWELL = {S.FAILED, S.UPSTREAM_FAILED}
ENDED = {S.SUCCESS, S.SKIPPED, *UNWELL}
LETTERS = {S.SUCCESS: "S", S.FAILED: "F", S.SKIPPED: "K", S.UPSTREAM_FAILED: "U"}
VERDICTS = {GO: S.QUEUED, "K": S.SKIPPED, "U": S.UPSTREAM_FAILED}


def rule_says(rule: TriggerRule, upstream: Sequence[TaskInstanceState]) -> TaskInstanceState | None:
    """What a rule makes of its upstream's states, by the evaluator."""
    found = verdict(rule.value, [LETTERS.get(state) for state in upstream])
    return None if found is None else VERDICTS[found]


def spec(
    name: str = "t", upstream: Iterable[int] = (), rule: str = "all_success", retries: int = 0, **more: Any
) -> TaskSpec:
    """A task instance for the core."""
    return TaskSpec(name, tuple(upstream), TaskOptions(retries=retries, trigger_rule=TriggerRule(rule), **more))


class Plan(NamedTuple):
    """A dag to be run, and whether its first failure ends the run."""

    specs: list[TaskSpec]
    fail_fast: bool


@st.composite
def plans(draw: st.DrawFn, *, most: int = 10, fail_fast: bool | None = None) -> Plan:
    """Any dag of up to `most` tasks."""
    size = draw(st.integers(0, most))
    fast = draw(st.sampled_from([False, False, False, True])) if fail_fast is None else fail_fast
    rules = st.just("all_success") if fast else st.sampled_from(RULES)
    specs = []
    for index in range(size):
        upstream = draw(st.sets(st.integers(0, index - 1), max_size=4)) if index else set()
        # Half of the tasks have the default rule, so that chains of it are long enough to matter.
        rule = draw(st.just("all_success") | rules)
        specs.append(spec(f"t{index}", sorted(upstream), rule, draw(st.integers(0, 3))))
    return Plan(specs, fast)


class Driven:
    """A core and, beside it, what a service would know; checks every change that the core makes."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.core = RunCore(plan.specs, identity="d/1", fail_fast=plan.fail_fast)
        self.states = list(self.core.states)
        self.tries = [0] * len(plan.specs)

    def numbers(self, state: TaskInstanceState) -> list[int]:
        """The task instances in a state."""
        return [number for number, one in enumerate(self.states) if one is state]

    def take(self, changes: list[Change], ended: Sequence[Ended] = ()) -> None:
        """Check changes that the core says it made, and that it made no others."""
        was_pending = self.numbers(S.PENDING)
        for change in changes:
            assert change.state in TRANSITIONS[self.states[change.index]]
            self.states[change.index] = change.state
        assert self.core.states == self.states
        assert self.core.finished == all(state in ENDED for state in self.states)
        if self.core.ending is None:
            for number in was_pending:
                self.check_rule(number)
        else:
            assert not [state for state in self.states if state not in {S.RUNNING, *ENDED}]

    def check_rule(self, number: int) -> None:
        """A task instance that was pending is now where its rule says, neither too early nor too late."""
        one = self.plan.specs[number]
        verdict = rule_says(one.options.trigger_rule, [self.states[up] for up in one.upstream])
        assert self.states[number] is (verdict or S.PENDING)

    def start(self) -> None:
        self.take(self.core.start())
        assert self.core.start() == []

    def claim(self, number: int) -> None:
        self.tries[number] += 1
        assert self.core.claim(number) == self.tries[number]
        assert self.tries[number] <= self.plan.specs[number].options.retries + 1
        self.states[number] = S.RUNNING
        assert self.core.states == self.states

    def end(self, events: list[Ended]) -> None:
        for event in events:
            assert self.states[event.index] is S.RUNNING
        changes = self.core.apply(events)
        failed = [event.index for event in events if event.state is S.FAILED]
        expected_ending = self.core.ending
        self.take(changes)
        for event in events:
            options = self.plan.specs[event.index].options
            if event.state is not S.FAILED:
                assert self.states[event.index] is event.state
            elif not event.may_retry or self.tries[event.index] > options.retries:
                assert self.states[event.index] is S.FAILED
            elif expected_ending is None:
                assert self.states[event.index] is S.UP_FOR_RETRY
        if self.plan.fail_fast and any(self.states[number] is S.FAILED for number in failed):
            assert self.core.ending is not None or self.core.finished
        assert self.core.apply(events) == []
        assert self.core.states == self.states

    def retry(self, number: int) -> None:
        self.take(self.core.due(number))
        assert self.states[number] is S.QUEUED
        assert self.core.due(number) == []

    def end_early(self, reason: EndReason) -> None:
        running, over = self.numbers(S.RUNNING), {n: s for n, s in enumerate(self.states) if s in ENDED}
        before = self.core.ending
        changes = self.core.end_early(reason)
        assert all(change.state is S.SKIPPED and change.reason is reason for change in changes)
        self.take(changes)
        assert self.core.ending is (before or reason)
        assert self.numbers(S.RUNNING) == running
        assert {number: self.states[number] for number in over} == over
        assert self.core.end_early(EndReason.TIMEOUT) == []
        assert self.core.ending is (before or reason)

    def check_end(self) -> None:
        """The run is over, and ended as its leaves did or early."""
        assert self.core.finished
        for number, state in enumerate(self.states):
            assert (self.tries[number] > 0) or state in (S.SKIPPED, S.UPSTREAM_FAILED)
        has_downstream = {up for one in self.plan.specs for up in one.upstream}
        leaves = [state for number, state in enumerate(self.states) if number not in has_downstream]
        if self.core.ending is not None:
            assert self.core.outcome() == (RunState.FAILED, self.core.ending)
        else:
            well = UNWELL.isdisjoint(leaves)
            assert self.core.outcome() == (RunState.SUCCESS if well else RunState.FAILED, None)


def some(random: Random, of: list[int]) -> list[int]:
    """One or more of the list, in any order."""
    return random.sample(of, random.randint(1, len(of)))


def drive(driven: Driven, random: Random, *, may_end_early: bool) -> None:
    """Let anything happen that can, until the run is over."""
    driven.start()
    for _ in range(2000):
        queued, running, waiting = (driven.numbers(state) for state in (S.QUEUED, S.RUNNING, S.UP_FOR_RETRY))
        what = [kind for kind, there in (("claim", queued), ("end", running), ("retry", waiting)) if there]
        if not what:
            break
        if may_end_early and random.random() < 0.03:
            driven.end_early(random.choice([EndReason.CANCELLED, EndReason.TIMEOUT]))
            continue
        match random.choice(what):
            case "claim":
                for number in some(random, queued):
                    driven.claim(number)
            case "end":
                driven.end([ended(random, number) for number in some(random, running)])
            case "retry":
                for number in some(random, waiting):
                    driven.retry(number)
    driven.check_end()


def ended(random: Random, number: int) -> Ended:
    """Any end of a try."""
    state = random.choice([S.SUCCESS, S.SUCCESS, S.FAILED, S.FAILED, S.SKIPPED])
    reason = EndReason.ERROR if state is S.FAILED else None
    return Ended(number, state, reason, may_retry=random.random() < 0.8)


randoms = st.integers(0, 2**32).map(Random)


@given(plans(), randoms)
def test_every_run_ends_and_every_change_follows_table_and_rules(plan: Plan, random: Random) -> None:
    drive(Driven(plan), random, may_end_early=False)


@settings(max_examples=50)
@given(plans(), randoms)
def test_a_run_that_is_ended_early_at_any_moment_ends(plan: Plan, random: Random) -> None:
    drive(Driven(plan), random, may_end_early=True)


@settings(max_examples=50)
@given(plans(fail_fast=True), randoms)
def test_a_run_with_fail_fast_ends_at_its_first_failure(plan: Plan, random: Random) -> None:
    driven = Driven(plan)
    drive(driven, random, may_end_early=False)
    # A failure after which nothing was left to end may count as an early end or not.
    may_be = {EndReason.FAIL_FAST, None} if S.FAILED in driven.states else {None}
    assert driven.core.ending in may_be
    assert S.UPSTREAM_FAILED not in driven.states


class Script:
    """What each try of each task comes to, known beforehand, so that two runs can be compared."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def ended(self, number: int, attempt: int, name: str) -> Ended:
        return ended(Random(f"{self.seed} {name} {attempt}"), number)


def play(plan: Plan, script: Script, names: Sequence[str], shuffle: Random) -> list[list[Any]]:
    """Run in rounds: claim all that is queued, end all of it in one batch, retry all. Returns the changes of each."""
    core = RunCore(plan.specs, identity="d/1", fail_fast=plan.fail_fast)
    rounds = [key(core.start())]
    while True:
        queued = [number for number, state in enumerate(core.states) if state is S.QUEUED]
        if not queued:
            break
        shuffle.shuffle(queued)
        batch = [script.ended(number, core.claim(number), names[number]) for number in queued]
        shuffle.shuffle(batch)
        rounds.append(key(core.apply(batch)))
        waiting = [number for number, state in enumerate(core.states) if state is S.UP_FOR_RETRY]
        shuffle.shuffle(waiting)
        rounds.append(key(change for number in waiting for change in core.due(number)))
    assert core.finished
    return [*rounds, [core.outcome()]]


def key(changes: Iterable[Change]) -> list[Any]:
    """Changes without their order and without the delay, whose jitter hangs on the name."""
    return sorted((change.index, change.state, change.reason or "") for change in changes)


def names_of(plan: Plan) -> list[str]:
    return [one.name for one in plan.specs]


@settings(max_examples=50)
@given(plans(), st.integers(), randoms)
def test_the_order_within_one_batch_does_not_matter(plan: Plan, seed: int, random: Random) -> None:
    names = names_of(plan)
    one = play(plan, Script(seed), names, Random(1))
    assert play(plan, Script(seed), names, random) == one


@settings(max_examples=50)
@given(plans(), st.integers(), st.data())
def test_renaming_tasks_does_not_matter(plan: Plan, seed: int, data: st.DataObject) -> None:
    names = names_of(plan)
    new = data.draw(st.lists(st.text(max_size=3), min_size=len(names), max_size=len(names)))
    renamed = Plan([one._replace(name=name) for one, name in zip(plan.specs, new, strict=True)], plan.fail_fast)
    assert play(renamed, Script(seed), names, Random(1)) == play(plan, Script(seed), names, Random(1))


@settings(max_examples=50)
@given(plans(), st.integers(), randoms)
def test_the_numbering_of_tasks_does_not_matter(plan: Plan, seed: int, random: Random) -> None:
    order: list[int] = []  # another topological order
    while len(order) < len(plan.specs):
        left = (number for number in range(len(plan.specs)) if number not in order)
        order.append(random.choice([number for number in left if set(plan.specs[number].upstream) <= set(order)]))
    moved = [plan.specs[old]._replace(upstream=tuple(map(order.index, plan.specs[old].upstream))) for old in order]
    names = names_of(plan)
    there = play(Plan(moved, plan.fail_fast), Script(seed), [names[old] for old in order], Random(1))
    here = play(plan, Script(seed), names, Random(1))
    for moved_round, round_ in zip(there[:-1], here[:-1], strict=True):
        assert sorted((order[number], *rest) for number, *rest in moved_round) == round_
    assert there[-1] == here[-1]


# Plain examples


def run(specs: list[TaskSpec], outcomes: dict[str, str | list[str]], **more: Any) -> tuple[dict[str, str], RunCore]:
    """Run to the end, success unless `outcomes` says otherwise (a list: one for each try); states by name."""
    core = RunCore(specs, **more)
    core.start()
    while queued := [number for number, state in enumerate(core.states) if state is S.QUEUED]:
        batch = []
        for number in queued:
            attempt = core.claim(number)
            planned = outcomes.get(specs[number].name, "success")
            batch.append(Ended(number, S(planned if isinstance(planned, str) else planned[attempt - 1])))
        core.apply(batch)
        for number, state in enumerate(core.states):
            if state is S.UP_FOR_RETRY:
                core.due(number)
    return {one.name: state.value for one, state in zip(specs, core.states, strict=True)}, core


DIAMOND = [spec("a"), spec("b", [0]), spec("c", [0]), spec("d", [1, 2])]


def test_a_chain_goes_one_by_one() -> None:
    core = RunCore([spec("a"), spec("b", [0]), spec("c", [1])])
    assert core.start() == [Change(0, S.QUEUED)]
    assert core.claim(0) == 1
    assert core.apply([Ended(0, S.SUCCESS)]) == [Change(0, S.SUCCESS), Change(1, S.QUEUED)]
    core.claim(1)
    assert core.apply([Ended(1, S.SUCCESS)]) == [Change(1, S.SUCCESS), Change(2, S.QUEUED)]
    core.claim(2)
    assert core.apply([Ended(2, S.SUCCESS)]) == [Change(2, S.SUCCESS)]
    assert core.outcome() == (RunState.SUCCESS, None)


def test_a_join_waits_for_all_of_its_upstream() -> None:
    core = RunCore(DIAMOND)
    core.start()
    core.claim(0)
    assert [change.index for change in core.apply([Ended(0, S.SUCCESS)])] == [0, 1, 2]
    core.claim(1)
    core.claim(2)
    assert core.apply([Ended(1, S.SUCCESS)]) == [Change(1, S.SUCCESS)]
    assert core.apply([Ended(2, S.SUCCESS)]) == [Change(2, S.SUCCESS), Change(3, S.QUEUED)]


def test_a_failure_makes_its_descendants_upstream_failed_while_siblings_finish() -> None:
    specs = [spec("a"), spec("b", [0]), spec("c", [0]), spec("b2", [1]), spec("c2", [2]), spec("end", [3, 4])]
    states, core = run(specs, {"b": "failed"})
    assert states == {
        "a": "success",
        "b": "failed",
        "c": "success",
        "b2": "upstream_failed",
        "c2": "success",
        "end": "upstream_failed",
    }
    assert core.outcome() == (RunState.FAILED, None)


def test_a_failure_reaches_the_last_descendant_in_one_step() -> None:
    core = RunCore([spec("a"), spec("b", [0]), spec("c", [1]), spec("d", [2])])
    core.start()
    core.claim(0)
    changes = core.apply([Ended(0, S.FAILED, EndReason.ERROR)])
    assert changes[0] == Change(0, S.FAILED, EndReason.ERROR)
    assert changes[1:] == [Change(number, S.UPSTREAM_FAILED) for number in (1, 2, 3)]
    assert core.finished


def test_an_empty_dag_is_a_success_at_once() -> None:
    core = RunCore([])
    assert core.start() == []
    assert core.finished
    assert core.outcome() == (RunState.SUCCESS, None)


def test_a_run_in_which_all_was_skipped_is_a_success() -> None:
    states, core = run(DIAMOND, {"a": "skipped"})
    assert set(states.values()) == {"skipped"}
    assert core.outcome() == (RunState.SUCCESS, None)


def test_a_failure_before_a_leaf_that_runs_all_the_same_leaves_the_run_a_success() -> None:
    specs = [spec("a"), spec("b", [0]), spec("end", [1], "all_done")]
    states, core = run(specs, {"b": "failed"})
    assert states == {"a": "success", "b": "failed", "end": "success"}
    assert core.outcome() == (RunState.SUCCESS, None)


def test_one_failed_leaf_makes_the_run_failed() -> None:
    _, core = run([spec("a"), spec("b", [0]), spec("c", [0])], {"c": "failed"})
    assert core.outcome() == (RunState.FAILED, None)


def test_a_skip_stops_at_a_task_with_another_rule() -> None:
    specs = [spec("a"), spec("b", [0]), spec("c", [1]), spec("end", [2], "none_failed")]
    states, _ = run(specs, {"a": "skipped"})
    assert states == {"a": "skipped", "b": "skipped", "c": "skipped", "end": "success"}


def test_skip_and_failure_in_one_batch_end_all_success_as_failed_whatever_their_order() -> None:
    for order in ([0, 1], [1, 0]):
        core = RunCore([spec("k"), spec("f"), spec("t", [0, 1])])
        core.start()
        core.claim(0)
        core.claim(1)
        both = [Ended(0, S.SKIPPED), Ended(1, S.FAILED)]
        core.apply([both[number] for number in order])
        assert core.states[2] is S.UPSTREAM_FAILED


def test_a_rule_that_does_not_wait_runs_while_its_upstream_does() -> None:
    specs = [spec("a"), spec("b"), spec("one", [0, 1], "one_success"), spec("now", [0, 1], "always")]
    core = RunCore(specs)
    assert [change.index for change in core.start()] == [0, 1, 3]
    core.claim(0)
    assert core.apply([Ended(0, S.SUCCESS)]) == [Change(0, S.SUCCESS), Change(2, S.QUEUED)]
    assert core.states[1] is S.QUEUED


def test_a_failed_try_waits_for_its_retry_and_its_number_goes_up() -> None:
    core = RunCore([spec("a", retries=1, retry_delay_s=7.5)])
    core.start()
    assert core.claim(0) == 1
    assert core.apply([Ended(0, S.FAILED, EndReason.TIMEOUT)]) == [
        Change(0, S.UP_FOR_RETRY, EndReason.TIMEOUT, delay_s=7.5)
    ]
    assert not core.finished
    assert core.due(0) == [Change(0, S.QUEUED)]
    assert core.claim(0) == 2
    assert core.apply([Ended(0, S.FAILED, EndReason.ERROR)]) == [Change(0, S.FAILED, EndReason.ERROR)]
    assert core.outcome() == (RunState.FAILED, None)


def test_a_retry_that_succeeds_lets_the_downstream_go() -> None:
    states, core = run([spec("a", retries=2), spec("b", [0])], {"a": ["failed", "failed", "success"]})
    assert states == {"a": "success", "b": "success"}
    assert core.try_numbers == [3, 1]


def test_a_failure_that_may_not_be_retried_is_final() -> None:
    core = RunCore([spec("a", retries=3)])
    core.start()
    core.claim(0)
    assert core.apply([Ended(0, S.FAILED, may_retry=False)]) == [Change(0, S.FAILED)]


def test_the_delay_of_a_retry_hangs_on_run_and_task() -> None:
    delays = set()
    for identity, name in [("etl/1", "a"), ("etl/2", "a"), ("etl/1", "b")]:
        more: dict[str, Any] = {"retry_delay_s": 1e5, "retry_exponential_backoff": 1.0, "max_retry_delay_s": 1e9}
        core = RunCore([spec(name, retries=1, **more)], identity=identity)
        core.start()
        core.claim(0)
        delays.add(core.apply([Ended(0, S.FAILED)])[0].delay_s)
    assert len(delays) == 3


def test_fail_fast_skips_what_has_not_begun_and_waits_for_what_runs() -> None:
    core = RunCore([spec("a"), spec("b"), spec("c", [0]), spec("d", [1]), spec("e")], fail_fast=True)
    core.start()
    core.claim(0)
    core.claim(1)
    assert core.apply([Ended(0, S.FAILED, EndReason.ERROR)]) == [
        Change(0, S.FAILED, EndReason.ERROR),
        *[Change(number, S.SKIPPED, EndReason.FAIL_FAST) for number in (2, 3, 4)],
    ]
    assert not core.finished
    core.apply([Ended(1, S.FAILED, EndReason.FAIL_FAST)])
    assert core.outcome() == (RunState.FAILED, EndReason.FAIL_FAST)


def test_fail_fast_waits_for_the_last_retry() -> None:
    states, core = run([spec("a", retries=1), spec("b", [0])], {"a": ["failed", "success"]}, fail_fast=True)
    assert states == {"a": "success", "b": "success"}
    assert core.outcome() == (RunState.SUCCESS, None)


def test_ending_early_skips_what_has_not_begun_and_lets_the_rest_end() -> None:
    core = RunCore([spec("a"), spec("b", retries=3), spec("c"), spec("d", [0])])
    core.start()
    core.claim(0)
    core.claim(1)
    assert core.end_early(EndReason.CANCELLED) == [
        Change(2, S.SKIPPED, EndReason.CANCELLED),
        Change(3, S.SKIPPED, EndReason.CANCELLED),
    ]
    core.apply([Ended(0, S.SUCCESS)])
    assert core.apply([Ended(1, S.FAILED, EndReason.CANCELLED)])[0].state is S.FAILED
    assert core.outcome() == (RunState.FAILED, EndReason.CANCELLED)


def test_the_first_reason_to_end_early_stays() -> None:
    core = RunCore([spec("a")])
    core.start()
    core.end_early(EndReason.CANCELLED)
    assert core.end_early(EndReason.TIMEOUT) == []
    assert core.outcome() == (RunState.FAILED, EndReason.CANCELLED)


def test_ending_early_before_the_start_skips_all() -> None:
    core = RunCore(DIAMOND)
    core.end_early(EndReason.CANCELLED)
    assert core.start() == []
    assert set(core.states) == {S.SKIPPED}


def test_a_run_that_is_over_cannot_be_ended_early_any_more() -> None:
    _, core = run(DIAMOND, {})
    assert core.end_early(EndReason.CANCELLED) == []
    assert core.outcome() == (RunState.SUCCESS, None)


def test_an_end_of_a_try_that_does_not_run_is_ignored() -> None:
    core = RunCore([spec("a"), spec("b", [0])])
    core.start()
    assert core.apply([Ended(0, S.SUCCESS), Ended(1, S.SUCCESS)]) == []
    core.claim(0)
    assert core.apply([Ended(0, S.SUCCESS), Ended(0, S.FAILED)]) == [Change(0, S.SUCCESS), Change(1, S.QUEUED)]
    assert core.apply([Ended(0, S.FAILED)]) == []
    assert core.states == [S.SUCCESS, S.QUEUED]


def test_a_retry_of_what_does_not_wait_is_ignored() -> None:
    core = RunCore([spec("a"), spec("b", [0])])
    core.start()
    assert core.due(0) == core.due(1) == []
    core.claim(0)
    assert core.due(0) == []


@pytest.mark.parametrize("steps", ["pending", "running", "success"])
def test_only_what_is_queued_can_be_claimed(steps: str) -> None:
    core = RunCore([spec("a"), spec("b", [0])])
    if steps != "pending":
        core.start()
        core.claim(0)
    if steps == "success":
        core.apply([Ended(0, S.SUCCESS)])
    with pytest.raises(IllegalTransitionError, match=f"a: no way from {steps} to running"):
        core.claim(0)
    assert core.try_numbers == [0 if steps == "pending" else 1, 0]


def test_a_run_that_is_not_over_has_no_outcome() -> None:
    core = RunCore([spec("a")])
    core.start()
    with pytest.raises(ValueError, match="not finished"):
        core.outcome()


@pytest.mark.parametrize("upstream", [[0], [1], [-1]])
def test_upstream_that_does_not_come_before_is_refused(upstream: list[int]) -> None:
    with pytest.raises(ValueError, match="is not before 0"):
        RunCore([spec("a", upstream), spec("b")])


def test_the_work_for_a_task_that_ended_follows_its_out_degree(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("liteflow.scheduling.core")
    looks = 0
    evaluate = module.evaluate

    def counting(rule: Any, counts: Any) -> Any:
        nonlocal looks
        looks += 1
        return evaluate(rule, counts)

    monkeypatch.setattr(module, "evaluate", counting)
    width = 200
    specs = [spec("root"), *[spec(f"m{n}", [0]) for n in range(width)], spec("end", range(1, width + 1))]
    states, _ = run(specs, {})
    assert set(states.values()) == {"success"}
    edges = sum(len(one.upstream) for one in specs)
    assert looks <= edges + 1


def test_a_crash_that_nobody_is_to_blame_for_uses_up_no_retry() -> None:
    core = RunCore([spec(retries=1)])
    core.start()
    for number in range(1, 6):
        core.claim(0)
        assert core.try_numbers[0] == number
        (change,) = core.apply([Ended(0, S.FAILED, EndReason.CRASHED, blameless=True)])
        assert (change.state, change.reason, change.delay_s) == (S.UP_FOR_RETRY, EndReason.CRASHED, 0.0)
        core.due(0)
    core.claim(0)
    assert core.apply([Ended(0, S.FAILED, EndReason.CRASHED)])[0].state is S.UP_FOR_RETRY  # the one retry
    core.due(0)
    core.claim(0)
    assert core.apply([Ended(0, S.FAILED, EndReason.CRASHED)])[0].state is S.FAILED


def test_a_blameless_crash_does_not_run_again_in_a_run_that_is_ended() -> None:
    core = RunCore([spec(retries=1)])
    core.start()
    core.claim(0)
    core.end_early(EndReason.CANCELLED)
    assert core.apply([Ended(0, S.FAILED, EndReason.CRASHED, blameless=True)])[0].state is S.FAILED
