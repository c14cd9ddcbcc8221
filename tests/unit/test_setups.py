"""Setups and teardowns: what makes a task one, the edges of their `with` blocks, and what a teardown waits for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liteflow import Dag, Task, TaskGroup, TriggerRule, XComArg, chain, setup, task, task_group, teardown
from liteflow.authoring.setups import SetupScope, all_below, scope_of
from liteflow.errors import DagError


@task
def nothing() -> None:
    """Does nothing."""


@task
def use(value: Any) -> Any:
    return value


def line() -> int:
    """The line from which this is called."""
    return sys._getframe(1).f_lineno


def at(number: int) -> str:
    """How a message names a line of this file."""
    return f"{__file__}:{number}"


def named(*names: str) -> list[XComArg]:
    """A task without arguments for each name, in the open dag."""
    return [nothing.override(task_id=name)() for name in names]


def edges(of: Dag) -> set[str]:
    """All edges, as `a>b`."""
    return {f"{up}>{one.task_id}" for one in of.tasks for up in one.upstream_task_ids}


def nature(one: Task) -> tuple[bool, bool]:
    """Whether it is a setup, and whether it is a teardown."""
    return one.is_setup, one.is_teardown


# What is refused


@pytest.mark.parametrize("rule", [one for one in TriggerRule if one is not TriggerRule.ALL_SUCCESS])
def test_what_comes_directly_after_a_setup_must_have_all_success(rule: TriggerRule) -> None:
    place = 0
    with pytest.raises(DagError, match="task 'w' comes directly after the setup 's'") as caught, Dag("d"):
        s, t = named("s", "t")
        place = line() + 1
        w = nothing.override(task_id="w", trigger_rule=rule)()
        s.as_setup() >> w >> t
    assert str(caught.value).startswith(at(place))
    assert f"has trigger rule {rule.value}; it must have all_success" in str(caught.value)


def test_what_comes_later_after_a_setup_may_have_any_rule() -> None:
    with Dag("d"):
        s, w = named("s", "w")
        late = nothing.override(task_id="late", trigger_rule="none_failed")()
        s.as_setup() >> w >> late >> nothing()


@pytest.mark.parametrize("first", ["as_setup", "as_teardown"])
def test_a_task_is_no_setup_and_teardown(first: str) -> None:
    with Dag("d") as d:
        (s, one) = named("s", "one")
        s.as_setup() >> one
        getattr(one, first)()
        place = line() + 2
        with pytest.raises(DagError, match="task 'one' cannot be a setup and a teardown") as caught:
            getattr(one, "as_setup" if first == "as_teardown" else "as_teardown")()
    assert str(caught.value).startswith(at(place))
    assert nature(d.get_task("one")) == (first == "as_setup", first == "as_teardown")


def test_a_teardown_is_no_setup_of_another() -> None:
    with Dag("d") as d:
        s, t, last = named("s", "t", "last")
        t.as_teardown(setups=s)
        place = line() + 2
        with pytest.raises(DagError, match="task 't' cannot be a setup and a teardown") as caught:
            last.as_teardown(setups=t)
        last.as_teardown(setups=s)
    assert str(caught.value).startswith(at(place))
    assert nature(d.get_task("t")) == (False, True)


def test_a_function_is_no_setup_and_teardown() -> None:
    place = line() + 2
    with pytest.raises(DagError, match="nothing cannot be a setup and a teardown") as caught:
        setup(teardown(nothing))
    assert str(caught.value).startswith(at(place))
    with pytest.raises(DagError, match="nothing cannot be a setup and a teardown"):
        teardown(setup(nothing))


def test_the_trigger_rule_of_a_teardown_is_its_own() -> None:
    @teardown
    def t() -> None:
        """Cleans up."""

    with Dag("d"):
        s = named("s")[0].as_setup()
        with pytest.raises(DagError, match="teardown.*trigger rule"):
            t.override(trigger_rule="all_done")()
        s >> t()


@pytest.mark.parametrize("decorator", [setup, teardown])
@pytest.mark.parametrize("thing", [3, "x", [nothing]])
def test_setups_and_teardowns_are_made_of_functions(decorator: Callable[..., Any], thing: Any) -> None:
    with pytest.raises(DagError, match="is for functions, not for"):
        decorator(thing)


def test_only_a_setup_or_teardown_opens_a_block() -> None:
    with Dag("d"):
        (a,) = named("a")
        place = line() + 2
        with pytest.raises(DagError, match="task 'a' is neither a setup nor a teardown") as caught:
            a.__enter__()
    assert str(caught.value).startswith(at(place))


@pytest.mark.parametrize("other", [3, nothing, "s"])
def test_what_is_no_task_is_no_setup_of_a_teardown(other: Any) -> None:
    with Dag("d"):
        s, t = named("s", "t")
        with pytest.raises(DagError, match="at an edge is") as caught:
            t.as_teardown(setups=other)
        assert str(caught.value).startswith(__file__)
        t.as_teardown(setups=s)


def test_what_is_no_task_is_not_taken_into_a_block() -> None:
    with Dag("d"):
        s, t = named("s", "t")
        with t.as_teardown(setups=s) as scope, pytest.raises(DagError, match="3 at an edge is not a task"):
            scope.add_task(3)


def test_an_error_inside_a_block_makes_no_edges_and_leaves_no_block_open() -> None:
    d = Dag("d")
    with pytest.raises(ZeroDivisionError), d:
        s, t = named("s", "t")
        with t.as_teardown(setups=s):
            nothing()
            _ = 1 / 0
    assert d.open_scopes == []
    assert edges(d) == {"s>t"}


# What makes a task a setup or a teardown


def test_as_setup_and_as_teardown_make_of_a_task_what_they_say_and_give_it_back() -> None:
    with Dag("d") as d:
        s, w, t = named("s", "w", "t")
        assert s.as_setup() is s
        assert t.as_teardown(setups=s) is t
        assert s.task.as_setup() is s.task
        assert t.task.as_teardown() is t.task
        s >> w >> t
    assert [nature(one) for one in d.tasks] == [(True, False), (False, False), (False, True)]
    assert edges(d) == {"s>w", "w>t", "s>t"}


def test_a_teardown_has_the_rule_of_teardowns() -> None:
    with Dag("d") as d:
        s, t = named("s", "t")
        t.as_teardown(setups=s)
    assert d.get_task("t").trigger_rule is TriggerRule.ALL_DONE_SETUP_SUCCESS
    assert d.get_task("s").trigger_rule is TriggerRule.ALL_SUCCESS


@pytest.mark.parametrize("rule", ["all_done", "none_failed", "always"])
def test_as_teardown_takes_the_place_of_the_rule_that_the_task_had(rule: str) -> None:
    with Dag("d", default_args={"trigger_rule": "all_success"}):
        (s,) = named("s")
        t = nothing.override(task_id="t", trigger_rule=rule)().as_teardown(setups=s)
    assert t.task.trigger_rule is TriggerRule.ALL_DONE_SETUP_SUCCESS


def test_a_rule_in_default_args_is_not_that_of_a_teardown() -> None:
    @teardown
    def t() -> None:
        """Cleans up."""

    with Dag("d"), TaskGroup("g", default_args={"trigger_rule": "none_failed"}):
        made = t()
        made.as_teardown(setups=named("s")[0])
    assert made.task.trigger_rule is TriggerRule.ALL_DONE_SETUP_SUCCESS


def test_a_dag_with_fail_fast_may_have_teardowns() -> None:
    with Dag("d", fail_fast=True):
        s, w, t = named("s", "w", "t")
        s >> w >> t.as_teardown(setups=s)


def test_as_teardown_makes_setups_of_those_that_it_names_with_an_edge_from_each() -> None:
    with Dag("d") as d:
        s1, s2, w, t = named("s1", "s2", "w", "t")
        [s1, s2] >> w >> t.as_teardown(setups=[s1, s2.task])
    assert edges(d) == {"s1>w", "s2>w", "w>t", "s1>t", "s2>t"}
    assert [one.task_id for one in d.tasks if one.is_setup] == ["s1", "s2"]


def test_a_failing_teardown_does_not_fail_the_run_unless_it_says_so() -> None:
    with Dag("d") as d:
        s, one, two, three = named("s", "one", "two", "three")
        one.as_teardown(setups=s)
        two.as_teardown(setups=s, on_failure_fail_dagrun=True)
        three.as_teardown(setups=s, on_failure_fail_dagrun=True).as_teardown(on_failure_fail_dagrun=False)
    assert [d.get_task(name).on_failure_fail_dagrun for name in ("one", "two", "three")] == [False, True, False]


def test_as_teardown_without_a_word_on_failure_leaves_what_the_decorator_said() -> None:
    @teardown(on_failure_fail_dagrun=True)
    def t() -> None:
        """Cleans up."""

    with Dag("d") as d:
        (s,) = named("s")
        t().as_teardown(setups=s)
    assert d.get_task("t").on_failure_fail_dagrun


def test_decorators_stand_alone_and_above_task() -> None:
    @setup
    def s() -> int:
        return 1

    @setup
    @task(retries=2)
    def s2() -> int:
        return 2

    @teardown
    def t() -> None:
        """Cleans up."""

    @teardown(on_failure_fail_dagrun=True)
    @task(task_id="last")
    def t2() -> None:
        """Cleans up."""

    with Dag("d") as d:
        s() >> s2() >> t() >> t2()
        s2.override(task_id="again")() >> d.get_task("last")
    found = {one.task_id: (*nature(one), one.on_failure_fail_dagrun, one.options.retries) for one in d.tasks}
    assert found == {
        "s": (True, False, False, 0),
        "s2": (True, False, False, 2),
        "t": (False, True, False, 0),
        "last": (False, True, True, 0),
        "again": (True, False, False, 2),
    }
    assert s() == 1


def test_a_decorator_leaves_the_task_that_it_stands_above() -> None:
    with Dag("d") as d:
        nothing()
        setup(nothing)()
    assert [one.is_setup for one in d.tasks] == [False, True]


def test_a_mapped_task_is_a_setup_or_a_teardown() -> None:
    @setup
    def s(value: int) -> None:
        """Prepares one."""

    with Dag("d") as d:
        made = s.expand(value=[1, 2])
        use.expand(value=[1]).as_teardown(setups=made)
    assert [nature(one) for one in d.tasks] == [(True, False), (False, True)]


# Blocks


def opened(how: str) -> tuple[Dag, Any]:
    """A dag with a setup `s` and its teardown `t`, and what opens their block."""
    d = Dag("d")
    with d:
        s, t = named("s", "t")
        if how == "as_teardown":
            return d, t.as_teardown(setups=s)
        s.as_setup()
        t.as_teardown()
        s >> t
        return d, {"teardown": t, "setup": s, "task": t.task}[how]


@pytest.mark.parametrize("how", ["as_teardown", "teardown", "setup", "task"])
def test_a_block_lies_between_the_setup_and_the_teardown(how: str) -> None:
    d, block = opened(how)
    with d, block as scope:
        w1, w2, _w3 = named("w1", "w2", "w3")
        w1 >> w2
    assert type(scope) is SetupScope
    assert edges(d) == {"s>t", "w1>w2", "s>w1", "s>w3", "w2>t", "w3>t"}


def test_an_edge_from_the_setup_to_the_teardown_opens_their_block() -> None:
    @setup
    def s() -> None:
        """Prepares."""

    @teardown
    def t() -> None:
        """Cleans up."""

    with Dag("d") as d, s() >> t():
        named("w")
    assert edges(d) == {"s>t", "s>w", "w>t"}


def test_several_setups_come_before_the_block() -> None:
    with Dag("d") as d:
        s1, s2, t = named("s1", "s2", "t")
        with t.as_teardown(setups=[s1, s2]):
            named("w")
    assert edges(d) == {"s1>t", "s2>t", "s1>w", "s2>w", "w>t"}


def test_several_teardowns_come_after_the_block_of_their_setup() -> None:
    with Dag("d") as d:
        s, t1, t2 = named("s", "t1", "t2")
        t1.as_teardown(setups=s)
        t2.as_teardown(setups=s)
        with s:
            named("w")
    assert edges(d) == {"s>t1", "s>t2", "s>w", "w>t1", "w>t2"}


def test_a_setup_without_a_teardown_opens_a_block() -> None:
    with Dag("d") as d:
        (s,) = named("s")
        with s.as_setup():
            named("w")
    assert edges(d) == {"s>w"}


def test_an_empty_block_makes_no_edges() -> None:
    d, block = opened("as_teardown")
    with d, block:
        pass
    assert edges(d) == {"s>t"}


def test_what_is_inside_a_block_is_judged_by_the_edges_inside_it() -> None:
    d, block = opened("as_teardown")
    with d:
        before, after = named("before", "after")
        with block:
            w1, w2 = named("w1", "w2")
            before >> w1 >> w2 >> after
    assert edges(d) == {"s>t", "before>w1", "w1>w2", "w2>after", "s>w1", "w2>t"}


def test_groups_inside_a_block_begin_after_the_setup_and_end_before_the_teardown() -> None:
    d, block = opened("as_teardown")
    with d, block, TaskGroup("g"):
        g1, g2 = named("g1", "g2")
        g1 >> g2
        with TaskGroup("inner"):
            named("i")
    assert edges(d) == {"s>t", "g.g1>g.g2", "s>g.g1", "s>g.inner.i", "g.g2>t", "g.inner.i>t"}


def test_mapped_tasks_and_groups_are_inside_a_block() -> None:
    @task_group
    def tg(x: Any) -> None:
        use(x) >> nothing()

    d, block = opened("as_teardown")
    with d, block:
        use.expand(value=[1, 2])
        tg.expand(x=[1, 2])
    assert edges(d) == {"s>t", "s>use", "use>t", "s>tg.use", "tg.use>tg.nothing", "tg.nothing>t"}


def test_a_block_in_a_block_lies_between_the_setup_and_the_teardown_of_the_outer_one() -> None:
    with Dag("d") as d:
        s1, t1 = named("s1", "t1")
        with t1.as_teardown(setups=s1):
            named("w1")
            s2, t2 = named("s2", "t2")
            with t2.as_teardown(setups=s2):
                named("w2")
    assert edges(d) == {"s1>t1", "s1>w1", "w1>t1", "s1>s2", "s2>w2", "w2>t2", "s2>t2", "t2>t1"}


def test_a_task_that_was_made_before_the_block_is_taken_into_it() -> None:
    d, block = opened("as_teardown")
    with d:
        before, more, last = named("before", "more", "last")
        with block as scope:
            scope.add_task(before)
            scope.add_task(more, [last.task])
            more >> last
    assert edges(d) == {"s>t", "s>before", "before>t", "more>last", "s>more", "last>t"}


def test_all_of_a_group_that_was_made_before_the_block_is_taken_into_it() -> None:
    d, block = opened("as_teardown")
    with d:
        with TaskGroup("g") as g:
            chain(*named("a", "b", "c"))
        with block as scope:
            scope.add_task(g)
    assert edges(d) == {"s>t", "g.a>g.b", "g.b>g.c", "s>g.a", "g.c>t"}


def test_a_block_may_be_opened_twice() -> None:
    d, block = opened("as_teardown")
    with d:
        with block:
            named("w1")
        with block:
            named("w2")
    assert edges(d) == {"s>t", "s>w1", "w1>t", "s>w2", "w2>t"}


def test_what_is_made_after_the_block_is_not_in_it() -> None:
    d, block = opened("as_teardown")
    with d:
        with block:
            named("w")
        named("after")
    assert edges(d) == {"s>t", "s>w", "w>t"}


def test_a_value_that_goes_from_the_setup_to_the_work_makes_no_other_edges() -> None:
    with Dag("d") as d:
        (s, t) = named("s", "t")
        with t.as_teardown(setups=s):
            use(s)
    assert edges(d) == {"s>t", "s>use", "use>t"}


# What a teardown waits for


def scope(d: Dag, teardown_id: str) -> list[str]:
    """Ids of what lies between a teardown and its setups, and is not directly upstream of it."""
    downstream: dict[str, list[str]] = {task_id: [] for task_id in d.task_ids}
    for one in d.tasks:
        for up in one.upstream_task_ids:
            downstream[up].append(one.task_id)
    below = {one.task_id: all_below(one.task_id, downstream) for one in d.tasks if one.is_setup}
    return scope_of(d, d.get_task(teardown_id), below)


def test_a_teardown_without_setups_has_no_scope() -> None:
    d = Dag("d")
    with pytest.raises(RuntimeError, match="leave"), d:
        a, b, t = named("a", "b", "t")
        a >> b >> t.as_teardown()
        raise RuntimeError("leave before the lone teardown is warned of")
    assert scope(d, "t") == []


def test_a_scope_is_what_lies_between_and_is_not_directly_upstream() -> None:
    with Dag("d") as d:
        before, s, a, b, c, side, t, after = named("before", "s", "a", "b", "c", "side", "t", "after")
        before >> s >> a >> b >> c >> t.as_teardown(setups=s)
        side >> b
        t >> after
    assert scope(d, "t") == ["a", "b"]


def test_a_scope_of_several_setups_is_what_lies_below_any_of_them() -> None:
    with Dag("d") as d:
        s1, s2, a, b, c, t = named("s1", "s2", "a", "b", "c", "t")
        chain(s1, a, c, t.as_teardown(setups=[s1, s2]))
        chain(s2, b, c)
    assert scope(d, "t") == ["a", "b"]


def test_an_inner_setup_and_teardown_are_in_the_scope_of_the_outer_one() -> None:
    with Dag("d") as d:
        s1, t1 = named("s1", "t1")
        with t1.as_teardown(setups=s1):
            s2, t2 = named("s2", "t2")
            with t2.as_teardown(setups=s2):
                named("w")
    assert scope(d, "t1") == ["s2", "w"]
    assert scope(d, "t2") == []


@given(st.data())
def test_a_scope_is_what_is_below_a_setup_and_above_the_teardown(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 8))
    pairs = st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)).filter(lambda pair: pair[0] < pair[1])
    joined = data.draw(st.sets(pairs, max_size=20))
    with Dag("d") as d:
        tasks = [one.task for one in named(*map(str, range(size)))]
        for up, down in joined:
            tasks[up] >> tasks[down]
        tasks[-1].as_teardown(setups=tasks[data.draw(st.integers(0, size - 2))])
    below = {number: reached(number, joined) for number in range(size)}
    teardown_task, last = tasks[-1], size - 1
    (first,) = (number for number, one in enumerate(tasks) if one.is_setup)
    between = [number for number in below[first] if last in below[number]]
    direct = teardown_task.upstream_task_ids
    expected = [str(number) for number in sorted(between) if str(number) not in direct]
    assert scope(d, str(last)) == expected


def reached(start: int, joined: set[tuple[int, int]]) -> set[int]:
    """Everything downstream of a number, found the plain way."""
    direct = {down for up, down in joined if up == start}
    return direct | {one for down in direct for one in reached(down, joined)}


def test_the_structure_of_a_dag_tells_setups_and_teardowns_apart() -> None:
    def build(*, as_setup: bool, as_teardown: bool) -> str:
        with Dag("d") as d:
            a, b = named("a", "b")
            a >> b
            if as_setup:
                a.as_setup()
            if as_teardown:
                b.as_teardown()
        return d.structure_digest()

    found = {build(as_setup=one, as_teardown=two) for one, two in ((False, False), (True, False), (True, True))}
    assert len(found) == 3
