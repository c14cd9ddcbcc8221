"""Groups of tasks: their ids, their options, edges to and from all of them, and groups that are mapped."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from liteflow import (
    Dag,
    Label,
    TaskGroup,
    XComArg,
    chain,
    chain_linear,
    cross_downstream,
    setup,
    task,
    task_group,
    teardown,
)
from liteflow.authoring.groups import TaskGroupFactory
from liteflow.authoring.xcomarg import MappedArgument, MappedPlaceholder
from liteflow.errors import DagError, DuplicateTaskIdError, InvalidIdError, InvalidOptionError, TransportError
from liteflow.execution.code import pack_arguments


@task
def nothing() -> None:
    """Does nothing."""


@task
def rows(*_: Any) -> list[int]:
    return [1, 2]


@task
def use(value: Any = None, more: Any = None) -> Any:
    return value


def line() -> int:
    """The line from which this is called."""
    return sys._getframe(1).f_lineno


def at(number: int) -> str:
    """How a message names a line of this file."""
    return f"{__file__}:{number}"


def named(*names: str) -> list[XComArg]:
    """A task without arguments for each name, in the open dag or group."""
    return [nothing.override(task_id=name)() for name in names]


def edges(of: Dag) -> set[str]:
    """All edges, as `a>b`."""
    return {f"{up}>{one.task_id}" for one in of.tasks for up in one.upstream_task_ids}


# What is refused


def test_a_group_outside_a_dag_is_refused() -> None:
    place = line() + 2
    with pytest.raises(DagError, match="a TaskGroup is made inside a dag") as caught:
        TaskGroup("g")
    assert str(caught.value).startswith(at(place))


def test_a_group_function_outside_a_dag_is_refused() -> None:
    @task_group
    def tg() -> None:
        nothing()

    with pytest.raises(DagError, match="a TaskGroup is made inside a dag"):
        tg()


def test_a_group_without_an_id_is_refused() -> None:
    with Dag("d"), pytest.raises(DagError, match="a TaskGroup needs a group_id"):
        TaskGroup()


@pytest.mark.parametrize("group_id", ["", "a b", "ä", "x" * 251, 3])
def test_a_bad_group_id_is_refused_with_the_place(group_id: Any) -> None:
    with Dag("d"):
        place = line() + 2
        with pytest.raises(InvalidIdError, match="is no group id: use 1 to 250 ASCII letters") as caught:
            TaskGroup(group_id)
    assert str(caught.value).startswith(at(place))


def test_ids_that_get_too_long_by_their_prefix_are_refused() -> None:
    with Dag("d"), TaskGroup("x" * 250):
        with pytest.raises(InvalidIdError, match="is no task id"):
            nothing()
        with pytest.raises(InvalidIdError, match="is no group id"):
            TaskGroup("g")


def test_a_repeated_group_id_names_both_places() -> None:
    with Dag("d") as d:
        first = line() + 1
        with TaskGroup("g"):
            nothing()
        second = line() + 2
        with pytest.raises(DuplicateTaskIdError, match="group id 'g' is taken") as caught:
            TaskGroup("g")
    assert caught.value.task_id == "g"
    assert str(caught.value).startswith(at(second))
    assert at(first) in str(caught.value)
    assert list(d.task_groups) == ["g"]


def test_a_group_with_the_id_of_a_task_names_both_places() -> None:
    with Dag("d"):
        first = line() + 1
        nothing.override(task_id="g")()
        second = line() + 2
        with pytest.raises(DuplicateTaskIdError, match="group id 'g' is taken") as caught:
            TaskGroup("g")
    assert str(caught.value).startswith(at(second))
    assert at(first) in str(caught.value)


def test_a_task_with_the_id_of_a_group_names_both_places() -> None:
    with Dag("d"):
        first = line() + 1
        TaskGroup("g")
        second = line() + 2
        with pytest.raises(DuplicateTaskIdError, match="task id 'g' is taken by the group") as caught:
            nothing.override(task_id="g")()
    assert str(caught.value).startswith(at(second))
    assert at(first) in str(caught.value)


def test_a_mistyped_option_of_a_group_function_is_refused_with_those_that_there_are() -> None:
    place = line() + 2
    with pytest.raises(DagError, match="a group has no option 'prefix'; there are .*prefix_group_id") as caught:
        task_group(prefix=False)(nothing.function)
    assert str(caught.value).startswith(at(place))


def test_the_options_that_there_are_come_as_a_readable_list() -> None:
    with pytest.raises(DagError, match=r"there are add_suffix_on_collision, dag, default_args, "):
        task_group(prefix=False)(nothing.function)


def test_a_mistyped_name_in_default_args_of_a_group_names_the_nearest() -> None:
    with Dag("d"), pytest.raises(InvalidOptionError, match="did you mean 'retries'"):
        TaskGroup("g", default_args={"retires": 2})


@pytest.mark.parametrize("thing", [nothing, 3, "x"], ids=["a task", "a number", "a text"])
def test_a_group_is_made_of_a_function(thing: Any) -> None:
    with pytest.raises(DagError, match="@task_group is for functions that make tasks"):
        TaskGroupFactory(thing, {})


@pytest.mark.parametrize("decorator", [setup, teardown])
def test_a_group_is_no_setup_and_no_teardown(decorator: Callable[..., Any]) -> None:
    @task_group
    def tg() -> None:
        nothing()

    with pytest.raises(DagError, match="a group cannot be a"):
        decorator(tg)


def test_a_call_of_a_group_function_that_does_not_fit_says_so() -> None:
    @task_group
    def tg(x: int) -> None:
        use(x)

    with Dag("d") as d:
        place = line() + 2
        with pytest.raises(DagError, match=r"tg\(\): missing a required argument: 'x'") as caught:
            tg()
    assert str(caught.value).startswith(at(place))
    assert d.task_groups == {}


@pytest.mark.parametrize(
    "join",
    [
        lambda tg, a: tg >> a,
        lambda tg, a: tg << a,
        lambda tg, a: a >> tg,
        lambda tg, a: [a] >> tg,
        lambda tg, a: [tg] >> a,
        lambda tg, a: chain(a, tg),
    ],
)
def test_a_group_function_that_was_not_called_at_an_edge_says_to_call_it(join: Callable[..., Any]) -> None:
    @task_group
    def tg() -> None:
        nothing()

    with Dag("d"):
        (a,) = named("a")
        with pytest.raises(DagError, match=r"tg at an edge is a function.*call it: tg\(") as caught:
            join(tg, a)
        assert str(caught.value).startswith(__file__)


def test_an_edge_between_groups_of_two_dags_is_refused() -> None:
    with Dag("one"), TaskGroup("g") as g:
        named("a")
    with Dag("two"), TaskGroup("h") as h:
        named("b")
    with pytest.raises(DagError, match=r"from 'g\.a' to 'h\.b' would join dags"):
        g >> h


def test_a_group_cannot_be_an_argument_of_a_task() -> None:
    with Dag("d"):
        with TaskGroup("g") as g:
            nothing()
        made = use(g).task
    with pytest.raises(TransportError, match="tasks get values, not groups"):
        pack_arguments(made, made.call_arguments)


def test_an_error_inside_a_group_comes_out_and_leaves_no_group_open() -> None:
    d = Dag("d")
    with pytest.raises(ZeroDivisionError), d, TaskGroup("g"):
        _ = 1 / 0
    assert d.current_group is None


# Ids


def test_tasks_get_the_id_of_their_group_as_a_prefix() -> None:
    with Dag("d") as d:
        with TaskGroup("g"):
            named("a")
            with TaskGroup("inner"):
                named("a")
            named("b")
        named("a")
    assert d.task_ids == ["g.a", "g.inner.a", "g.b", "a"]
    assert list(d.task_groups) == ["g", "g.inner"]
    assert d.get_task("g.inner.a").group is d.task_groups["g.inner"]
    assert d.get_task("a").group is None


def test_without_a_prefix_tasks_have_their_own_ids() -> None:
    with Dag("d") as d, TaskGroup("g", prefix_group_id=False):
        named("a")
        with TaskGroup("inner"):
            named("b")
    assert d.task_ids == ["a", "inner.b"]
    assert list(d.task_groups) == ["g", "inner"]


def test_a_group_without_a_prefix_leaves_out_that_of_the_outer_one_too() -> None:
    """Read off Airflow 3.3.2, which is held to it by the conformance suite."""
    with Dag("d") as d, TaskGroup("outer"), TaskGroup("inner", prefix_group_id=False):
        named("a")
    assert d.task_ids == ["a"]
    assert list(d.task_groups) == ["outer", "outer.inner"]


def test_tasks_without_a_prefix_that_repeat_get_suffixes() -> None:
    @task_group(prefix_group_id=False)
    def np() -> None:
        nothing()

    with Dag("d") as d:
        np()
        np()
    assert list(d.task_groups) == ["np", "np__1"]
    assert d.task_ids == ["nothing", "nothing__1"]


def test_repeated_calls_of_a_group_function_get_suffixes() -> None:
    @task_group
    def tg() -> None:
        nothing()
        nothing()

    with Dag("d") as d:
        groups = [tg(), tg(), tg()]
    assert [one.group_id for one in groups] == ["tg", "tg__1", "tg__2"]
    assert d.task_ids == [f"{group}.{name}" for group in ("tg", "tg__1", "tg__2") for name in ("nothing", "nothing__1")]


def test_suffixes_of_groups_count_in_each_group_anew() -> None:
    @task_group
    def tg() -> None:
        nothing()

    with Dag("d") as d:
        tg()
        tg()
        with TaskGroup("outer"):
            tg()
            tg()
            tg()
    assert list(d.task_groups) == ["tg", "tg__1", "outer", "outer.tg", "outer.tg__1", "outer.tg__2"]


def test_suffixes_of_tasks_count_in_each_group_anew() -> None:
    with Dag("d") as d:
        nothing()
        with TaskGroup("g"):
            nothing()
            nothing()
        nothing()
    assert d.task_ids == ["nothing", "g.nothing", "g.nothing__1", "nothing__1"]


def test_a_group_may_ask_for_a_suffix() -> None:
    with Dag("d") as d:
        for _ in range(3):
            TaskGroup("g", add_suffix_on_collision=True)
    assert list(d.task_groups) == ["g", "g__1", "g__2"]


def test_a_group_function_may_refuse_to_be_repeated() -> None:
    @task_group(add_suffix_on_collision=False)
    def tg() -> None:
        nothing()

    with Dag("d"):
        tg()
        with pytest.raises(DuplicateTaskIdError, match="group id 'tg' is taken"):
            tg()


# What is in a group


def test_a_group_knows_its_children_and_all_its_tasks() -> None:
    with Dag("d") as d, TaskGroup("g") as g:
        a, b = named("a", "b")
        with TaskGroup("inner") as inner:
            (c,) = named("c")
    assert g.children == [a.task, b.task, inner]
    assert list(g.tasks()) == [a.task, b.task, c.task]
    assert (g.parent, inner.parent) == (None, g)
    assert g.dag is d


def test_a_group_may_be_opened_again() -> None:
    with Dag("d") as d:
        with TaskGroup("g") as g:
            named("a")
        named("b")
        with g:
            named("c")
    assert d.task_ids == ["g.a", "b", "g.c"]


def test_a_group_may_be_put_into_another_by_name() -> None:
    with Dag("d") as d:
        with TaskGroup("outer") as outer:
            named("a")
        with TaskGroup("inner", parent_group=outer):
            named("b")
    assert d.task_ids == ["outer.a", "outer.inner.b"]
    assert outer.children == [d.get_task("outer.a"), d.task_groups["outer.inner"]]


def test_roots_have_nothing_of_the_group_upstream_and_leaves_nothing_of_it_downstream() -> None:
    with Dag("d"):
        before, after = named("before", "after")
        with TaskGroup("g") as g:
            a, b, c, alone = named("a", "b", "c", "alone")
            a >> [b, c]
        before >> a
        b >> after
    assert g.roots == [a.task, alone.task]
    assert g.leaves == [b.task, c.task, alone.task]


# Options


def test_the_nearest_default_args_win_and_the_tasks_own_options_over_all() -> None:
    def four(**options: Any) -> tuple[int, float, int]:
        made = nothing.override(**options)().task.options
        return made.retries, made.retry_delay_s, made.priority_weight

    with Dag("d", default_args={"retries": 1, "retry_delay": 1, "priority_weight": 7}):
        at_dag = four()
        with TaskGroup("outer", default_args={"retries": 2, "retry_delay": 2}):
            at_outer = four()
            with TaskGroup("inner", default_args={"retries": 3}):
                at_inner = four()
                at_task = four(retries=4)
            again = four()
    assert at_dag == (1, 1.0, 7)
    assert at_outer == again == (2, 2.0, 7)
    assert at_inner == (3, 2.0, 7)
    assert at_task == (4, 2.0, 7)


def test_none_in_default_args_of_a_group_lifts_what_is_around_it() -> None:
    with Dag("d", default_args={"timeout": 5}), TaskGroup("g", default_args={"timeout": None}):
        assert nothing().task.options.timeout_s is None


def test_a_group_function_takes_default_args() -> None:
    @task_group(default_args={"retries": 3})
    def tg() -> None:
        nothing()

    with Dag("d", default_args={"retries": 1}) as d:
        tg()
    assert d.get_task("tg.nothing").options.retries == 3


# Edges


def test_edges_to_a_group_go_to_its_roots_and_those_from_it_start_at_its_leaves() -> None:
    with Dag("d") as d:
        before, after = named("before", "after")
        with TaskGroup("g") as g:
            a, b, c = named("a", "b", "c")
            a >> b
        before >> g >> after
    assert edges(d) == {"g.a>g.b", "before>g.a", "before>g.c", "g.b>after", "g.c>after"}
    assert c.task.task_id == "g.c"


def test_edges_between_groups_join_leaves_with_roots() -> None:
    with Dag("d") as d:
        with TaskGroup("g") as g:
            named("a", "b")
        with TaskGroup("h") as h:
            named("c", "e")
        g >> h
    assert edges(d) == {"g.a>h.c", "g.a>h.e", "g.b>h.c", "g.b>h.e"}


@pytest.mark.parametrize(
    "join",
    [
        lambda a, g, b: a >> g >> b,
        lambda a, g, b: b << g << a,
        lambda a, g, b: [a] >> g >> [b],
        lambda a, g, b: chain(a, g, b),
        lambda a, g, b: chain([a], [g], [b]),
        lambda a, g, b: chain_linear(a, [g], b),
        lambda a, g, b: (cross_downstream([a], [g]), cross_downstream(g, b)),
        lambda a, g, b: (g.set_upstream(a), g.set_downstream(b)),
        lambda a, g, b: (a.set_downstream([g]), b.set_upstream((g,))),
    ],
)
def test_every_way_to_write_an_edge_takes_groups(join: Callable[..., Any]) -> None:
    with Dag("d") as d:
        a, b = named("a", "b")
        with TaskGroup("g") as g:
            first, last = named("first", "last")
            first >> last
        join(a, g, b)
    assert edges(d) == {"a>g.first", "g.first>g.last", "g.last>b"}


def test_an_edge_to_a_group_goes_to_the_roots_of_groups_inside_it() -> None:
    with Dag("d") as d:
        (a,) = named("a")
        with TaskGroup("g") as g:
            with TaskGroup("one"):
                named("b")
            with TaskGroup("two"):
                named("c")
        a >> g
    assert edges(d) == {"a>g.one.b", "a>g.two.c"}


def test_what_is_before_an_empty_group_is_before_what_follows_it() -> None:
    with Dag("d") as d:
        a, b, c = named("a", "b", "c")
        empty = TaskGroup("empty")
        [a, b] >> empty >> c
    assert edges(d) == {"a>c", "b>c"}


def test_what_is_before_several_empty_groups_is_before_what_follows_them() -> None:
    with Dag("d") as d:
        a, b = named("a", "b")
        a >> TaskGroup("one") >> TaskGroup("two") >> b
    assert edges(d) == {"a>b"}


def test_what_is_before_an_empty_group_in_a_list_is_before_what_follows_it() -> None:
    with Dag("d") as d:
        a, b, c = named("a", "b", "c")
        empty = TaskGroup("empty")
        a >> [empty, b]
        empty >> c
    assert edges(d) == {"a>b", "a>c"}


def test_the_value_of_a_task_in_a_group_makes_an_edge_of_that_task_alone() -> None:
    with Dag("d") as d:
        with TaskGroup("g"):
            value = rows()
            nothing()
        use(value)
    assert edges(d) == {"g.rows>use"}


# Setups and teardowns in a group


def work_between() -> XComArg:
    """A setup, a task, and a teardown that knows its setup, in the open group."""
    s, w, t = named("s", "w", "t")
    s >> w >> t.as_teardown(setups=s)
    return w


def test_a_teardown_at_the_end_of_a_group_is_passed_over() -> None:
    with Dag("d") as d:
        before, after = named("before", "after")
        with TaskGroup("g") as g:
            work_between()
        before >> g >> after
    assert edges(d) == {"before>g.s", "g.s>g.w", "g.w>g.t", "g.s>g.t", "g.w>after"}


def test_a_task_before_a_teardown_is_no_leaf_if_work_follows_it() -> None:
    with Dag("d"), TaskGroup("g") as g:
        w = work_between()
        (more,) = named("more")
        w >> more
    assert g.leaves == [more.task]


def test_teardowns_in_a_row_are_passed_over() -> None:
    with Dag("d"), TaskGroup("g") as g:
        w = work_between()
        (last,) = named("last")
        g.dag.get_task("g.t") >> last.as_teardown(setups=g.dag.get_task("g.s"))
    assert g.leaves == [w.task]


def test_a_teardown_that_nothing_in_the_group_precedes_is_no_leaf_beside_work() -> None:
    with Dag("d"):
        (s,) = named("s")
        with TaskGroup("g") as g:
            w, t = named("w", "t")
            t.as_teardown(setups=s)
    assert g.leaves == [w.task]


def test_a_group_of_a_setup_and_its_teardown_ends_with_the_setup() -> None:
    with Dag("d") as d:
        (after,) = named("after")
        with TaskGroup("g") as g:
            s, t = named("s", "t")
            t.as_teardown(setups=s)
        g >> after
    assert edges(d) == {"g.s>g.t", "g.s>after"}


def test_a_group_of_teardowns_ends_with_them() -> None:
    with Dag("d"):
        (s,) = named("s")
        with TaskGroup("g") as g:
            (t,) = named("t")
            t.as_teardown(setups=s)
    assert g.leaves == [t.task]


# Words on edges


def test_a_label_between_another_direction_on_each_side_is_refused() -> None:
    with Dag("d"):
        a, b = named("a", "b")
        with pytest.raises(DagError, match=r"Label\('x'\) stands between >> and <<") as caught:
            a >> Label("x") << b
        assert str(caught.value).startswith(__file__)
        with pytest.raises(DagError, match="stands between"):
            a << Label("x") >> b


def test_a_label_at_the_beginning_of_an_edge_is_refused() -> None:
    with Dag("d"):
        (a,) = named("a")
        with pytest.raises(DagError, match=r"Label\('x'\) at an edge is not a task"):
            Label("x") >> a  # type: ignore[operator]
        with pytest.raises(DagError, match=r"Label\('x'\) at an edge is not a task"):
            [Label("x")] >> a


def test_a_label_names_the_edges_at_both_sides_of_which_it_stands() -> None:
    with Dag("d") as d:
        a, b, c, e = named("a", "b", "c", "e")
        a >> Label("good") >> b >> c
        c << Label("back") << e
    assert d.edge_labels == {("a", "b"): "good", ("e", "c"): "back"}
    assert edges(d) == {"a>b", "b>c", "e>c"}


def test_a_label_names_all_edges_of_lists() -> None:
    with Dag("d") as d:
        a, b, c, e = named("a", "b", "c", "e")
        [a, b] >> Label("all") >> [c, e]
    assert d.edge_labels == {(up, down): "all" for up in "ab" for down in "ce"}


def test_a_label_names_all_edges_of_lists_the_other_way_round() -> None:
    with Dag("d") as d:
        a, b, c = named("a", "b", "c")
        [a, b] << Label("back") << c
    assert d.edge_labels == {("c", "a"): "back", ("c", "b"): "back"}


def test_a_label_names_edges_from_and_to_groups() -> None:
    with Dag("d") as d:
        (a,) = named("a")
        with TaskGroup("g") as g:
            named("b", "c")
        a >> Label("in") >> g
        g.set_downstream(nothing(), Label("out"))
    assert d.edge_labels == {
        ("a", "g.b"): "in",
        ("a", "g.c"): "in",
        ("g.b", "nothing"): "out",
        ("g.c", "nothing"): "out",
    }


@pytest.mark.parametrize("join", [chain, chain_linear])
def test_a_label_stands_in_a_chain(join: Callable[..., None]) -> None:
    with Dag("d") as d:
        a, b, c, e = named("a", "b", "c", "e")
        join(a, Label("one"), b, [c], Label("two"), [e])
    assert edges(d) == {"a>b", "b>c", "c>e"}
    assert d.edge_labels == {("a", "b"): "one", ("c", "e"): "two"}


def test_a_label_takes_the_place_of_one_before_and_an_edge_without_one_keeps_it() -> None:
    with Dag("d") as d:
        a, b = named("a", "b")
        a >> Label("first") >> b
        a >> Label("second") >> b
        a >> b
    assert d.edge_labels == {("a", "b"): "second"}


# Functions as groups


def test_a_group_function_keeps_its_name_and_docstring() -> None:
    @task_group
    def tg() -> None:
        """Loads."""
        nothing()

    assert (tg.__name__, tg.__doc__) == ("tg", "Loads.")  # type: ignore[attr-defined]
    with Dag("d"):
        assert tg().tooltip == "Loads."


def test_a_group_function_that_returns_nothing_gives_the_group() -> None:
    @task_group
    def tg() -> None:
        nothing()

    with Dag("d") as d:
        made = tg()
    assert made is d.task_groups["tg"]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"k": x}], ids=["value", "list", "dict"])
def test_a_group_function_that_returns_something_gives_that(wrap: Callable[[Any], Any]) -> None:
    @task_group
    def tg(x: Any) -> Any:
        return wrap(use(x))

    with Dag("d") as d:
        use(tg(rows()))
    assert edges(d) == {"rows>tg.use", "tg.use>use"}


@pytest.mark.parametrize("decorate", [task_group("load"), task_group(group_id="load"), task_group("load", tooltip="x")])
def test_the_decorator_takes_an_id(decorate: Callable[..., Any]) -> None:
    with Dag("d") as d:
        decorate(lambda: nothing())()
    assert d.task_ids == ["load.nothing"]


def test_override_lays_its_options_over_those_there_are_and_leaves_the_original() -> None:
    @task_group(default_args={"retries": 1})
    def tg() -> None:
        nothing()

    with Dag("d") as d:
        tg.override(group_id="other")()
        tg.override(group_id="third", prefix_group_id=False)()
        tg()
    assert d.task_ids == ["other.nothing", "nothing", "tg.nothing"]
    assert {one.options.retries for one in d.tasks} == {1}


def test_override_of_a_mistyped_option_is_refused() -> None:
    @task_group
    def tg() -> None:
        nothing()

    with pytest.raises(DagError, match="a group has no option 'groupid'"):
        tg.override(groupid="x")


def test_override_keeps_what_partial_gave() -> None:
    @task_group
    def tg(x: Any, y: Any) -> None:
        use(x, y)

    with Dag("d") as d:
        tg.partial(x=1).override(group_id="other").expand(y=[2])
    assert d.get_task("other.use").args == (1, MappedPlaceholder("y"))


# Mapped groups


@task_group
def load(x: Any, y: Any = 0) -> None:
    use(x, y) >> nothing()


def test_expand_of_a_group_without_arguments_is_refused() -> None:
    with Dag("d"):
        place = line() + 2
        with pytest.raises(DagError, match=r"load\.expand\(\) needs at least one argument to map over") as caught:
            load.expand()
    assert str(caught.value).startswith(at(place))


def test_expand_of_a_group_over_an_unknown_argument_is_refused_with_the_place() -> None:
    with Dag("d"):
        place = line() + 2
        with pytest.raises(DagError, match=r"load\(\): .*unexpected keyword argument 'z'") as caught:
            load.expand(x=[1], z=[2])
    assert str(caught.value).startswith(at(place))


def test_expand_of_a_group_without_an_argument_that_it_needs_is_refused() -> None:
    with Dag("d"), pytest.raises(DagError, match=r"load\(\): missing a required argument: 'x'"):
        load.expand(y=[2])


def test_a_group_is_not_given_an_argument_twice() -> None:
    with Dag("d") as d:
        with pytest.raises(DagError, match=r"load\(\) is given 'x' twice, by .partial\(\) and to map over") as caught:
            load.partial(x=1).expand(x=[2])
        assert str(caught.value).startswith(__file__)
        with pytest.raises(DagError, match=r"load\(\) is given 'x' twice"):
            load.partial(x=1).expand_kwargs([{"y": 1}, {"x": 2}])
    assert d.task_groups == {}


@pytest.mark.parametrize("items", ["abc", {1, 2}, 3, None])
def test_a_group_is_not_mapped_over_what_is_no_list(items: Any) -> None:
    with Dag("d"), pytest.raises(DagError, match=r"load cannot be mapped over x=.*; give a list, a tuple, a dict"):
        load.expand(x=items)


def test_a_group_that_fails_to_be_mapped_leaves_the_dag_as_it_was() -> None:
    with Dag("d") as d:
        for kwargs in ({"z": [1]}, {"x": 3}, {}):
            with pytest.raises(DagError):
                load.expand(**kwargs)
    assert d.task_groups == {}


def test_a_mapped_task_in_a_mapped_group_is_refused() -> None:
    @task_group
    def tg(x: Any) -> None:
        use.expand(value=[1, 2])

    d = Dag("d")
    with d, pytest.raises(DagError, match="use is in the mapped group 'tg'; .* tasks cannot be mapped again") as caught:
        tg.expand(x=[1])
    assert str(caught.value).startswith(__file__)


def test_a_task_mapped_over_an_argument_of_a_mapped_group_is_refused() -> None:
    @task_group
    def tg(x: Any) -> None:
        use.expand(value=x)

    with Dag("d"), pytest.raises(DagError, match="inside a mapped group tasks cannot be mapped again"):
        tg.expand(x=[[1]])


def test_a_mapped_group_in_a_mapped_group_is_refused() -> None:
    @task_group
    def outer(x: Any) -> None:
        load.expand(x=[1, 2])

    with (
        Dag("d"),
        pytest.raises(DagError, match="group 'load' is in a mapped group; a mapped group cannot hold another"),
    ):
        outer.expand(x=[1])


def test_a_mapped_group_in_a_plain_one_in_a_mapped_one_is_refused() -> None:
    @task_group
    def outer(x: Any) -> None:
        with TaskGroup("between"):
            load.expand(x=[1, 2])

    with Dag("d"), pytest.raises(DagError, match="a mapped group cannot hold another"):
        outer.expand(x=[1])


def test_an_argument_of_a_mapped_group_outside_it_is_refused() -> None:
    kept: list[Any] = []

    @task_group
    def tg(x: Any) -> None:
        kept.append(x)
        use(x)

    with Dag("d"):
        tg.expand(x=[1, 2])
        place = line() + 2
        with pytest.raises(DagError, match="gets 'x' of the mapped group 'tg' and is not in it") as caught:
            use([kept])
    assert str(caught.value).startswith(at(place))


def test_an_argument_of_a_mapped_group_in_another_one_is_refused() -> None:
    kept: list[Any] = []

    @task_group
    def tg(x: Any) -> None:
        kept.append(x)
        use(kept[0])

    with Dag("d"):
        tg.expand(x=[1, 2])
        with pytest.raises(DagError, match="gets 'x' of the mapped group 'tg' and is not in it"):
            tg.expand(x=[1, 2])


def test_looping_over_an_argument_of_a_mapped_group_is_refused() -> None:
    @task_group
    def tg(x: Any) -> None:
        for one in x:
            use(one)

    with Dag("d"), pytest.raises(TypeError, match=r"MappedArgument\('x'\) cannot be looped over"):
        tg.expand(x=[[1]])


def test_an_argument_of_a_mapped_group_inside_an_object_is_refused_when_the_arguments_are_packed() -> None:
    class Holder:
        def __init__(self, value: Any) -> None:
            self.value = value

    @task_group
    def tg(x: Any) -> None:
        use(Holder(x))

    with Dag("d") as d:
        tg.expand(x=[1])
    made = d.get_task("tg.use")
    with pytest.raises(TransportError, match=r"MappedArgument\('x'\) stands inside an object"):
        pack_arguments(made, made.call_arguments)


def test_a_mapped_group_over_the_value_of_another_dag_is_refused() -> None:
    with Dag("one"):
        value = rows()
    with Dag("two"), pytest.raises(DagError, match="'rows'"):
        load.expand(x=value)


def test_tasks_of_a_mapped_group_get_its_arguments_as_placeholders() -> None:
    with Dag("d") as d:
        group = load.partial(y=5).expand(x=[1, 2])
    made = d.get_task("load.use")
    assert type(group) is TaskGroup
    assert made.args == (MappedPlaceholder("x"), 5)
    assert made.mapped_group is made.unit is group
    assert made.is_mapped
    assert made.expansion is None
    assert made.expand_input is group.expansion
    assert d.get_task("load.nothing").unit is group


def test_arguments_of_a_mapped_group_stand_in_containers() -> None:
    @task_group
    def tg(x: Any) -> None:
        assert type(x) is MappedArgument
        use([x, {"k": x}])

    with Dag("d") as d:
        tg.expand(x=[1])
    assert d.get_task("tg.use").args == ([MappedPlaceholder("x"), {"k": MappedPlaceholder("x")}],)


def test_a_mapped_group_runs_after_what_it_is_mapped_over_and_after_what_is_in_its_items() -> None:
    with Dag("d") as d:
        load.expand(x=rows(), y=[rows(), 2])
    assert edges(d) == {"rows>load.use", "rows__1>load.use", "load.use>load.nothing"}


def test_every_root_of_a_mapped_group_runs_after_what_it_is_mapped_over() -> None:
    @task_group
    def tg(x: Any) -> None:
        use(x)
        nothing()

    with Dag("d") as d:
        tg.expand(x=rows())
    assert edges(d) == {"rows>tg.use", "rows>tg.nothing"}


def test_a_plain_group_in_a_mapped_one_belongs_to_it() -> None:
    @task_group
    def tg(x: Any) -> None:
        with TaskGroup("inner"):
            use(x)

    with Dag("d") as d:
        group = tg.expand(x=[1])
    assert d.get_task("tg.inner.use").mapped_group is group
    assert not d.task_groups["tg.inner"].expansion


def test_a_mapped_group_in_a_plain_one_has_its_prefix() -> None:
    with Dag("d") as d, TaskGroup("outer"):
        load.expand(x=[1])
    assert list(d.task_groups) == ["outer", "outer.load"]
    assert d.task_groups["outer"].mapped_group is None
    assert d.get_task("outer.load.use").mapped_group is d.task_groups["outer.load"]


@pytest.mark.parametrize(
    "expand", [lambda tg: tg.expand(x=[1, 2]), lambda tg: tg.expand_kwargs([{"x": 1}])], ids=["expand", "expand_kwargs"]
)
def test_a_mapped_group_gives_what_its_function_returns(expand: Callable[[Any], Any]) -> None:
    @task_group
    def tg(x: Any) -> Any:
        nothing()
        return use(x)

    with Dag("d") as d:
        value = expand(tg)
        use(value) << nothing()
    assert type(value) is XComArg
    assert edges(d) == {"tg.use>use", "nothing>use"}


def test_expand_kwargs_of_a_group_gives_all_its_other_parameters() -> None:
    with Dag("d") as d:
        load.partial(y=5).expand_kwargs([{"x": 1}, {"x": 2}])
        load.expand_kwargs([{"x": 1, "y": 3}])
    assert d.get_task("load.use").args == (MappedPlaceholder("x"), 5)
    assert d.get_task("load__1.use").args == (MappedPlaceholder("x"), MappedPlaceholder("y"))


@pytest.mark.parametrize("kwargs", [[1], [{1: 2}], {"x": 1}, "x", 3])
def test_expand_kwargs_of_a_group_takes_a_list_of_dicts(kwargs: Any) -> None:
    with Dag("d"), pytest.raises(DagError, match=r"load\.expand_kwargs\(\) takes a list of dicts of arguments"):
        load.expand_kwargs(kwargs)


def test_edges_of_a_mapped_group_are_those_of_a_group() -> None:
    with Dag("d") as d:
        before, after = named("before", "after")
        before >> load.expand(x=[1]) >> after
    assert edges(d) == {"before>load.use", "load.use>load.nothing", "load.nothing>after"}


def test_a_group_that_is_shown_names_its_dag() -> None:
    with Dag("d"):
        g = TaskGroup("g")
    assert repr(g) == "<TaskGroup d.g>"
    with pytest.raises(DagError, match=re.escape("<TaskGroup d.g> cannot be sent to a worker")):
        pickle.dumps(g)
