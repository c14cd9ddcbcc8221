"""Warnings while a dag is built: each with its message, and none of them a false alarm."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liteflow import Dag, Task, TriggerRule, XComArg, task, task_group
from liteflow.authoring import lint
from liteflow.authoring.decorators import setup, teardown
from liteflow.authoring.lint import Surprise, findings
from liteflow.authoring.mapping import count_of, literal_lengths
from liteflow.errors import DagWarning
from liteflow.operators import EmptyOperator, PythonOperator
from liteflow.scheduling.core import Change, Ended, RunCore, TaskSpec, UnitSpec
from liteflow.scheduling.rules import UpstreamCounts, evaluate
from liteflow.scheduling.skips import skipped_by
from liteflow.states import RunState, TaskInstanceState

S = TaskInstanceState


@task
def work(*_: Any) -> list[int]:
    return [1]


@task.branch
def choose() -> str:
    return "a"


@task.short_circuit
def stop_here() -> bool:
    return False


@setup
@task
def create() -> None: ...


@teardown
@task
def delete() -> None: ...


@task(trigger_rule="one_failed")
def watcher() -> None:
    raise RuntimeError("something failed")


def does(task_id: str, rule: str = "all_success", **options: Any) -> Task:
    """A task that does something, with that id and rule."""
    made: XComArg = work.override(task_id=task_id, trigger_rule=rule, **options)()
    return made.operator


def empty(task_id: str, rule: str = "all_success") -> EmptyOperator:
    return EmptyOperator(task_id=task_id, trigger_rule=rule)


def branch(task_id: str = "pick") -> Task:
    made: Task = choose.override(task_id=task_id)().operator
    return made


@contextmanager
def quiet_dag(**options: Any) -> Iterator[Dag]:
    """A dag that is built without a warning being shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DagWarning)
        with Dag("d", **options) as dag:
            yield dag


def said(dag: Dag) -> list[str]:
    """The messages, with the ids of tasks in place of lines."""
    found = []
    for finding in findings(dag):
        assert finding.message.startswith(f"{finding.place}: task ")
        assert "\n" not in finding.message
        task_id = re.match(r"task '([^']+)': ", finding.message.removeprefix(f"{finding.place}: "))
        assert task_id
        assert dag.get_task(task_id[1]).place == finding.place
        found.append(finding.message.removeprefix(f"{finding.place}: "))
    return found


# How it is told


def test_a_warning_points_at_the_line_of_the_task() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Dag("d"):
            start = empty("start")
            line = sys._getframe().f_lineno + 1
            start >> work.override(task_id="alarm", trigger_rule="one_failed")()
    assert [(one.filename, one.lineno) for one in caught] == [(__file__, line)]
    assert str(caught[0].message) == (
        f"{__file__}:{line}: task 'alarm': can never run: trigger rule one_failed needs an upstream to be failed or "
        "upstream_failed, and 'start' can only be success; change its trigger rule or what is upstream of it"
    )


def test_a_warning_can_be_silenced_by_the_id_of_the_task() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", ".*task 'one'", DagWarning)
        with Dag("d"):
            empty("start") >> [does("one", "one_failed"), does("other", "one_failed")]
    assert [re.findall(r"task '(\w+)'", str(one.message)) for one in caught] == [["other"]]


def test_a_dag_whose_building_failed_is_not_looked_at() -> None:
    with pytest.raises(ZeroDivisionError), Dag("d"):
        empty("start") >> does("alarm", "one_failed")
        raise ZeroDivisionError


def test_all_findings_of_a_dag_are_told() -> None:
    with quiet_dag() as dag:
        branch() >> [does("a"), does("b")] >> does("join")
        does("x") >> does("end", "all_done")
        empty("start") >> does("alarm", "all_failed")
        delete()
    assert [(one.rule, one.place) for one in findings(dag)] == [
        (Surprise.NEVER_RUNS, dag.get_task("alarm").place),
        (Surprise.SKIPPED_JOIN, dag.get_task("join").place),
        (Surprise.HIDDEN_FAILURE, dag.get_task("end").place),
        (Surprise.LONE_TEARDOWN, dag.get_task("delete").place),
    ]


def test_a_dag_of_plain_tasks_is_not_even_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    with Dag("d") as dag:
        work(work())
    monkeypatch.delattr(Dag, "topological_sort")
    assert findings(dag) == []


# A task that can never run


def never(rule: str, needs: str, who: str) -> list[str]:
    what = f"task 't': can never run: trigger rule {rule} needs {needs}, and {who}"
    return [f"{what}; change its trigger rule or what is upstream of it"]


@pytest.mark.parametrize(
    ("rule", "needs"),
    [
        ("all_failed", "every upstream to be failed or upstream_failed"),
        ("all_skipped", "every upstream to be skipped"),
        ("one_failed", "an upstream to be failed or upstream_failed"),
    ],
)
def test_a_rule_that_waits_for_what_an_empty_task_cannot_do(rule: str, needs: str) -> None:
    with quiet_dag() as dag:
        empty("start") >> does("t", rule)
    assert said(dag) == never(rule, needs, "'start' can only be success")


@pytest.mark.parametrize("rule", [rule.value for rule in TriggerRule if rule is not TriggerRule.ALL_DONE_SETUP_SUCCESS])
def test_every_rule_can_hold_below_a_task_that_does_something(rule: str) -> None:
    with quiet_dag() as dag:
        does("a") >> does("t", rule)
    assert Surprise.NEVER_RUNS not in {one.rule for one in findings(dag)}


def test_below_an_empty_list_a_reducer_never_runs_and_what_follows_it_is_not_blamed() -> None:
    with quiet_dag() as dag:
        mapped = work.override(task_id="double").expand_kwargs([]).operator
        mapped >> does("t") >> does("after") >> does("last")
        mapped >> does("counts", "none_failed")
    assert said(dag) == never(
        "all_success", "every upstream to be success", "'double' can only be skipped (mapped over an empty list)"
    )


def test_below_a_group_that_is_mapped_over_an_empty_list() -> None:
    @task_group
    def each(x: Any) -> None:
        work.override(task_id="one")(x) >> does("two")

    with quiet_dag() as dag:
        each.expand(x=[]) >> does("t")
    assert said(dag) == never(
        "all_success", "every upstream to be success", "'each.two' can only be skipped (mapped over an empty list)"
    )


def test_many_that_stand_in_the_way_are_counted() -> None:
    with quiet_dag() as dag:
        [empty(f"e{number}") for number in range(5)] >> does("t", "one_failed")
    assert said(dag) == never(
        "one_failed",
        "an upstream to be failed or upstream_failed",
        "'e0', 'e1', 'e2' and 2 more can only be success",
    )


def test_a_teardown_whose_setup_is_mapped_over_nothing_never_runs() -> None:
    with quiet_dag() as dag:
        made = work.override(task_id="make").expand_kwargs([]).operator
        delete.override(task_id="t")().operator.as_teardown(setups=made)
    assert said(dag) == never(
        "all_done_setup_success", "a setup to be success", "'make' can only be skipped (mapped over an empty list)"
    )


def test_what_may_be_skipped_by_a_branch_or_a_short_circuit_or_the_run_before_is_not_warned_of() -> None:
    with quiet_dag() as dag:
        branch() >> empty("a") >> does("t", "all_skipped")
        stop_here() >> empty("b") >> empty("c") >> does("u", "all_skipped")
        past = EmptyOperator(task_id="past", depends_on_past=True)
        past >> does("v", "one_failed")
    assert Surprise.NEVER_RUNS not in {one.rule for one in findings(dag)}


LETTERS = {"S": lint._S, "F": lint._F, "K": lint._K, "U": lint._U}
PLAIN_RULES = [rule for rule in TriggerRule if rule is not TriggerRule.ALL_DONE_SETUP_SUCCESS]


def verdicts(rule: TriggerRule, ended: Sequence[str]) -> set[TaskInstanceState]:
    """What the real rule says for these final states, in whatever order and batches they come."""
    found = set()
    for order in set(permutations(ended)):
        steps = [evaluate(rule, counts(order[:many], len(order))) for many in range(len(order) + 1)]
        found.add(next(one for one in steps if one is not None))
    last = evaluate(rule, counts(ended, len(ended)))
    assert last is not None
    return {*found, last}


def counts(ended: Sequence[str], total: int) -> UpstreamCounts:
    return UpstreamCounts(ended.count("S"), ended.count("F"), ended.count("K"), ended.count("U"), total)


@pytest.mark.parametrize("rule", PLAIN_RULES)
@pytest.mark.parametrize("size", [1, 2])
def test_what_may_follow_is_what_the_rules_of_the_scheduler_make_of_it(rule: TriggerRule, size: int) -> None:
    sets = ["".join(one for bit, one in enumerate("SFKU") if number >> bit & 1) for number in range(1, 16)]
    for upstream in product(sets, repeat=size):
        real = set().union(*(verdicts(rule, ended) for ended in product(*upstream)))
        bits = [sum(LETTERS[one] for one in ends) for ends in upstream]
        need = lint._RULES[rule]
        ours = {
            *([S.QUEUED] if need.go.may_hold(bits) else []),
            *([S.SKIPPED] if need.skip.may_hold(bits) else []),
            *([S.UPSTREAM_FAILED] if need.fail.may_hold(bits) else []),
        }
        assert ours == real, (rule, upstream)


@pytest.mark.parametrize("rule", PLAIN_RULES)
@settings(max_examples=30)
@given(upstream=st.lists(st.sets(st.sampled_from("SFKU"), min_size=1), min_size=3, max_size=3))
def test_the_same_of_more_upstream(rule: TriggerRule, upstream: list[set[str]]) -> None:
    real = set().union(*(verdicts(rule, ended) for ended in product(*upstream)))
    bits = [sum(LETTERS[one] for one in ends) for ends in upstream]
    go, skip, fail = (need.may_hold(bits) for need in lint._RULES[rule])
    assert (go, skip, fail) == (S.QUEUED in real, S.SKIPPED in real, S.UPSTREAM_FAILED in real)


# A join below a branch


def skipped(choice: str, *, branch: str = "pick", rule: str = "all_success") -> list[str]:
    what = f"task 'join': trigger rule {rule} skips it when branch '{branch}' chooses {choice}"
    return [f"{what}; use trigger_rule='none_failed_min_one_success'"]


@pytest.mark.parametrize("rule", ["all_success", "all_done_min_one_success", "none_skipped"])
def test_a_join_that_skips_on_any_skip(rule: str) -> None:
    with quiet_dag() as dag:
        branch() >> [does("a"), does("b")] >> does("join", rule)
    assert said(dag)[:1] == skipped("only one of 'a' and 'b'", rule=rule)


@pytest.mark.parametrize(
    "rule", ["none_failed", "none_failed_min_one_success", "all_done", "one_success", "one_done", "always"]
)
def test_a_join_with_a_rule_that_bears_a_skip(rule: str) -> None:
    with quiet_dag() as dag:
        branch() >> [does("a"), does("b")] >> does("join", rule) >> does("after")
    assert Surprise.SKIPPED_JOIN not in {one.rule for one in findings(dag)}


def test_a_join_far_below_the_branch_and_what_follows_it() -> None:
    with quiet_dag() as dag:
        pick, join = branch(), does("join")
        for name in "abcde":
            pick >> does(name) >> does(f"{name}2") >> join
        join >> does("after")
        dag.get_task("a") >> dag.get_task("after")
    assert said(dag) == skipped("only one of 'a', 'b', 'c' and 2 more")


def test_a_join_that_the_branch_may_also_choose() -> None:
    with quiet_dag() as dag:
        pick, optional, join = branch(), does("optional"), does("join")
        pick >> [optional, join]
        optional >> join
    assert said(dag) == skipped("it without 'optional'")


def test_no_warning_where_both_upstream_follow_the_same_choice() -> None:
    with Dag("d") as dag:
        a, b = does("a"), does("b")
        branch() >> [a, b]
        a >> [does("x"), does("y")] >> does("z")
        join = does("join", "none_failed_min_one_success")
        [a, b] >> join >> [does("v"), does("w")] >> does("end")
    assert findings(dag) == []


def test_a_task_that_can_go_before_the_branch_has_decided_is_not_taken_for_skipped() -> None:
    with quiet_dag() as dag:
        pick, early, join = branch(), does("early", "one_success"), does("join")
        pick >> [early, join]
        does("other") >> early >> join
    assert Surprise.SKIPPED_JOIN not in {one.rule for one in findings(dag)}


def test_a_join_of_two_branches_is_told_by_the_first() -> None:
    with quiet_dag() as dag:
        inner = branch("inner")
        branch("outer") >> [inner, does("x")]
        inner >> [does("y"), does("z")]
        [dag.get_task(name) for name in "xyz"] >> does("join")
    assert said(dag) == skipped("only one of 'inner' and 'x'", branch="outer")


def test_a_short_circuit_is_no_branch() -> None:
    with Dag("d") as dag:
        stop_here() >> [does("a"), does("b")] >> does("join")
    assert findings(dag) == []


def test_a_cure_that_is_not_allowed_is_not_recommended() -> None:
    with quiet_dag(fail_fast=True) as dag:
        branch() >> [does("a"), does("b")] >> does("join")
    assert said(dag)[0].endswith(
        "; none_failed_min_one_success would run it, which a dag with fail_fast does not allow"
    )
    with quiet_dag() as dag:
        join = does("join")
        branch() >> [does("a"), does("b")] >> join
        create() >> join
    assert said(dag)[0].endswith("; join them before it in a task with trigger_rule='none_failed_min_one_success'")


# A leaf that hides a failure


def hidden(leaf: str, names: str, rule: str, after: str, *, holder: str = "it", teardown: bool = False) -> list[str]:
    why = f"because {holder} has trigger rule {rule}"
    cure = f"make {holder} a teardown (.as_teardown(setups=...)) or " if teardown else ""
    what = f"task '{leaf}': as a leaf it makes the run a success even if {names} fails, {why}"
    return [f"{what}; {cure}add an all_success task after {after}"]


@pytest.mark.parametrize("rule", ["all_done", "always"])
def test_a_leaf_that_cleans_up(rule: str) -> None:
    with quiet_dag() as dag:
        does("a") >> does("b") >> does("end", rule)
    assert said(dag) == hidden("end", "'a' or 'b'", rule, "'a' and 'b'", teardown=True)


@pytest.mark.parametrize("rule", ["one_failed", "all_failed", "one_done", "none_skipped", "all_skipped"])
def test_a_leaf_that_runs_or_is_skipped_in_spite_of_a_failure(rule: str) -> None:
    with quiet_dag() as dag:
        does("a") >> does("end", rule)
    assert said(dag) == hidden("end", "'a'", rule, "'a'")


@pytest.mark.parametrize("rule", ["one_success", "all_done_min_one_success"])
def test_a_leaf_to_which_one_of_several_is_enough(rule: str) -> None:
    with quiet_dag() as dag:
        does("start") >> [does("a"), does("b")] >> does("end", rule)
    assert said(dag) == hidden("end", "'a' or 'b'", rule, "'a' and 'b'")


@pytest.mark.parametrize("rule", ["one_success", "all_done_min_one_success"])
def test_the_same_leaf_hides_nothing_of_its_only_upstream(rule: str) -> None:
    with Dag("d") as dag:
        does("a") >> does("b") >> does("end", rule)
    assert findings(dag) == []


def test_a_rule_on_the_way_that_hides_and_many_that_are_hidden() -> None:
    with quiet_dag() as dag:
        [does(name) for name in "abcdef"] >> does("clean", "all_done") >> does("report")
    assert said(dag) == hidden(
        "report",
        "'d', 'e', 'f' or 3 more",
        "all_done",
        "'d', 'e', 'f' and 3 more",
        holder="'clean'",
        teardown=True,
    )


def test_one_warning_for_each_leaf() -> None:
    with quiet_dag() as dag:
        does("a") >> [does("x", "all_done"), does("y", "all_done")]
        does("b") >> dag.get_task("y")
    assert said(dag) == [
        *hidden("x", "'a'", "all_done", "'a'", teardown=True),
        *hidden("y", "'b'", "all_done", "'b'", teardown=True),
    ]


def test_a_failure_that_another_leaf_shows_is_not_hidden() -> None:
    with Dag("d") as dag:
        a = does("a")
        a >> does("b") >> does("c", "none_failed") >> does("d", "none_failed_min_one_success")
        a >> [does("alarm", "one_failed"), does("end", "all_done")]
    assert findings(dag) == []


def test_setups_and_teardowns_hide_nothing_but_with_on_failure_fail_dagrun() -> None:
    with Dag("d") as dag:
        undo = delete().operator.as_teardown(setups=create().operator)
        with undo:
            does("a") >> does("b")
        undo >> does("after")
    assert findings(dag) == []
    undo.on_failure_fail_dagrun = True
    assert said(dag) == hidden("after", "'a' or 'b'", "all_done_setup_success", "'a' and 'b'", holder="'delete'")


def test_a_watcher_that_only_raises_shows_every_failure() -> None:
    with Dag("d") as dag:
        does("a") >> does("b") >> does("end", "all_done")
        [dag.get_task(name) for name in ("a", "b", "end")] >> watcher()
    assert findings(dag) == []
    with Dag("e") as dag:
        does("a") >> PythonOperator(
            task_id="watcher", python_callable=watcher.function, trigger_rule=TriggerRule.ONE_FAILED
        )
    assert findings(dag) == []


def test_what_cannot_fail_is_not_hidden() -> None:
    with Dag("d") as dag:
        empty("start") >> empty("end", "all_done")
    assert findings(dag) == []


# A teardown without a setup


def test_a_teardown_without_a_setup() -> None:
    with quiet_dag() as dag:
        does("a") >> delete()
    (message,) = said(dag)
    assert message == (
        "task 'delete': is a teardown without a setup, and so runs even when there is nothing to tear down; "
        "name what it undoes: .as_teardown(setups=...)"
    )


# No false alarms: the findings held against what the scheduling core does

Decide = Callable[[Task], tuple[TaskInstanceState, list[str] | None]]
"""How a task that runs ends, and the ids that it skips."""


class Driven:
    """A run of a dag, driven to its end without running anything."""

    def __init__(self, dag: Dag, decide: Decide, count: Callable[[], int] = lambda: 1) -> None:
        self.tasks = dag.topological_sort()
        self.number_of = {one.task_id: number for number, one in enumerate(self.tasks)}
        units = [one for one in self.tasks if one.expansion is not None]
        self.core = RunCore(
            [self._spec(one, units) for one in self.tasks],
            units=[self._unit(one) for one in units],
            fail_fast=dag.fail_fast,
        )
        self.ran: set[str] = set()
        queued = self._queued(self.core.start())
        units_to_expand = self.core.expansions()
        while queued or units_to_expand:
            if units_to_expand:
                queued += self._queued(self.core.expand(units_to_expand.pop(0), count()).changes)
                units_to_expand += self.core.expansions()
                continue
            index = queued.pop(0)
            if self.core.states[index] is not S.QUEUED:
                continue  # skipped by a branch since
            self.core.claim(index)
            one = self.tasks[self.core.task_of[index]]
            self.ran.add(one.task_id)
            state, skips = decide(one)
            ended = Ended(index, state, skip=tuple(self.number_of[task_id] for task_id in skips or ()))
            queued += self._queued(self.core.apply([ended]))
            units_to_expand += self.core.expansions()
        assert self.core.finished

    def _queued(self, changes: Iterable[Change]) -> list[int]:
        return [change.index for change in changes if change.state is S.QUEUED]

    def _spec(self, one: Task, units: list[Task]) -> TaskSpec:
        upstream = [self.number_of[up] for up in one.upstream_task_ids]
        return TaskSpec(
            one.task_id,
            upstream,
            one.options,
            unit=units.index(one) if one in units else None,
            setups=[up for up in upstream if self.tasks[up].is_setup] if one.is_teardown else (),
            is_teardown=one.is_teardown,
            fails_run=not one.is_teardown or one.on_failure_fail_dagrun,
        )

    def _unit(self, one: Task) -> UnitSpec:
        expansion = one.expansion
        assert expansion is not None
        if expansion.sources:
            return UnitSpec([self.number_of[source.task_id] for source in expansion.sources])
        return UnitSpec(length=count_of(expansion.input, literal_lengths(expansion.input)))

    def state(self, task_id: str) -> TaskInstanceState:
        return self.core.states[self.number_of[task_id]]


def downstream_of(dag: Dag) -> dict[str, list[str]]:
    return {one.task_id: one.downstream_task_ids for one in dag.tasks}


KINDS = ["python", "python", "empty", "branch", "short_circuit", "nothing", "literal", "mapped", "setup", "teardown"]


@st.composite
def dags(
    draw: st.DrawFn,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    rules: Sequence[str] = tuple(rule.value for rule in PLAIN_RULES),
    most: int = 7,
) -> Dag:
    """Any dag of some kinds of tasks and some rules."""
    made: list[Task] = []
    with quiet_dag() as dag:
        for number in range(draw(st.integers(1, most))):
            kind = draw(st.sampled_from(kinds))
            upstream = draw(st.lists(st.sampled_from(made), unique=True, max_size=3)) if made else []
            free = kind != "teardown" and not any(up.is_setup for up in upstream)
            rule = draw(st.just("all_success") | st.sampled_from(rules)) if free else "all_success"
            one = _make(draw, kind, f"t{number}", rule, upstream)
            upstream >> one
            made.append(one)
    return dag


def _make(draw: st.DrawFn, kind: str, task_id: str, rule: str, upstream: list[Task]) -> Task:
    options: dict[str, Any] = {"task_id": task_id, "trigger_rule": rule}
    if kind == "empty":
        return EmptyOperator(**options)
    if kind == "branch":
        factory: Any = choose
    elif kind == "short_circuit":
        factory = stop_here
        options["ignore_downstream_trigger_rules"] = draw(st.booleans())
    elif kind == "setup":
        factory = create
    elif kind == "teardown":
        del options["trigger_rule"]
        factory = delete.with_traits(on_failure_fail_dagrun=draw(st.booleans()))
    else:
        factory = work
    factory = factory.override(**options)
    if kind in ("nothing", "literal", "mapped"):
        items: Any = upstream[0].output if kind == "mapped" and upstream else [{}] if kind == "literal" else []
        if rule == "always":  # it cannot wait for what it is mapped over
            factory = factory.override(trigger_rule="all_success")
        made: Task = factory.expand_kwargs(items).operator
    else:
        made = factory().operator
    return made


@given(dag=dags(), random=st.randoms(use_true_random=False))
def test_what_can_never_run_never_runs(dag: Dag, random: Any) -> None:
    dead = [one.message for one in findings(dag) if one.rule is Surprise.NEVER_RUNS]
    below = downstream_of(dag)

    def decide(one: Task) -> tuple[TaskInstanceState, list[str] | None]:
        state = S.SUCCESS if one.kind == "empty" else random.choice([S.SUCCESS, S.FAILED, S.SKIPPED])
        if state is S.SUCCESS and one.kind == "branch":
            return state, skipped_by(one, below, [name for name in below[one.task_id] if random.random() < 0.5])
        if state is S.SUCCESS and one.kind == "short_circuit" and random.random() < 0.5:
            return state, skipped_by(one, below, None)
        return state, None

    for _ in range(5):
        ran = Driven(dag, decide, lambda: random.randrange(3)).ran
        assert not [message for message in dead if re.search(r"task '(\w+)'", message)[1] in ran]  # type: ignore[index]


@given(dag=dags(kinds=["python", "branch", "branch", "setup", "teardown"]))
def test_a_join_that_is_warned_of_is_skipped(dag: Dag) -> None:
    below = downstream_of(dag)
    for one in findings(dag):
        if one.rule is not Surprise.SKIPPED_JOIN:
            continue
        match = re.search(r"task '(\w+)': .* branch '(\w+)' chooses (it|only)", one.message)
        assert match
        join, pick, how = match.groups()
        for chosen in [join] if how == "it" else below[pick]:
            run = Driven(dag, chooses(dag, below, {pick: [chosen]}))
            assert run.state(join) is S.SKIPPED


def chooses(dag: Dag, below: dict[str, list[str]], choices: dict[str, list[str]]) -> Decide:
    """All succeed, and branches choose these or else all."""

    def decide(one: Task) -> tuple[TaskInstanceState, list[str] | None]:
        if one.kind != "branch":
            return S.SUCCESS, None
        return S.SUCCESS, skipped_by(one, below, choices.get(one.task_id, below[one.task_id]))

    return decide


def run_with_one_failure(dag: Dag, failing: str) -> Driven:
    return Driven(dag, lambda one: (S.FAILED if one.task_id == failing else S.SUCCESS, None))


def hidden_in(dag: Dag) -> set[str]:
    """The tasks that findings name as hidden; at most three of each leaf."""
    found: set[str] = set()
    for one in findings(dag):
        match = re.search(r"even if (.*) fails, because", one.message)
        if match:
            found |= set(re.findall(r"'(\w+)'", match[1]))
    return found


@given(dag=dags(kinds=["python", "python", "empty", "literal", "nothing", "setup", "teardown"]))
def test_a_failure_that_is_said_to_be_hidden_is_hidden(dag: Dag) -> None:
    for name in hidden_in(dag):
        run = run_with_one_failure(dag, name)
        assert name in run.ran
        assert run.core.outcome()[0] is RunState.SUCCESS


@given(
    dag=dags(
        kinds=["python"],
        rules=["all_success", "all_done", "none_failed", "none_failed_min_one_success", "none_skipped", "always"],
        most=4,
    )
)
def test_every_failure_that_is_hidden_is_told_of(dag: Dag) -> None:
    really = {
        one.task_id for one in dag.tasks if run_with_one_failure(dag, one.task_id).core.outcome()[0] is RunState.SUCCESS
    }
    assert hidden_in(dag) == really
