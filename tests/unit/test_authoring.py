"""Dags as they are written: ids, edges, options, params, and every mistake with its message."""

from __future__ import annotations

import functools
import importlib
import re
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liteflow import DAG, Dag, Task, TriggerRule, XComArg, chain, chain_linear, cross_downstream, dag, task
from liteflow.authoring import get_current_context
from liteflow.authoring.context import (
    CONTEXT_KEYS,
    CurrentContext,
    DagRunFacts,
    TaskInstanceFacts,
    make_context,
)
from liteflow.authoring.dag import collect_dags, current_dag
from liteflow.authoring.dagfile import loading
from liteflow.authoring.ids import check_run_id
from liteflow.authoring.xcomarg import DagParam, Placeholder, XComInput, put_together
from liteflow.errors import (
    DagCycleError,
    DagError,
    DuplicateTaskIdError,
    InvalidIdError,
    InvalidOptionError,
    MetadataOnlyError,
    MissingMainGuard,
    NotFoundError,
    ParamError,
    TransportError,
)
from liteflow.execution.code import pack_arguments

NAN = float("nan")
INF = float("inf")


@task
def extract(*_: Any, **__: Any) -> list[int]:
    return [1, 2]


@task
def load(rows: Any, more: Any = None) -> int:
    return len(rows)


@task
def nothing() -> None:
    """Does nothing."""


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


# Tasks and their ids


def test_calling_a_task_in_a_dag_makes_a_node_and_gives_its_xcomarg() -> None:
    with Dag("d") as d:
        value = extract()
    assert type(value) is XComArg
    assert value.task is value.operator is d.get_task("extract")
    assert type(value.task) is Task
    assert value.key == "return_value"
    assert value.task.output.task is value.task


def test_calling_a_task_outside_a_dag_is_the_plain_function() -> None:
    assert load([1, 2, 3]) == 3
    assert extract() == [1, 2]


def test_a_task_keeps_the_functions_name_and_docstring() -> None:
    assert nothing.__name__ == "nothing"
    assert nothing.__doc__ == "Does nothing."
    assert nothing.function() is None


def test_repeated_calls_get_airflows_suffixes() -> None:
    with Dag("d") as d:
        made = [nothing(), nothing(), nothing()]
    assert [one.task.task_id for one in made] == ["nothing", "nothing__1", "nothing__2"]
    assert d.task_ids == ["nothing", "nothing__1", "nothing__2"]


def test_a_suffix_that_is_taken_is_passed_over() -> None:
    with Dag("d") as d:
        nothing()
        nothing.override(task_id="nothing__1")()
        nothing()
    assert d.task_ids == ["nothing", "nothing__1", "nothing__2"]


def test_repeats_of_a_given_id_get_suffixes_too() -> None:
    with Dag("d") as d:
        step = nothing.override(task_id="step")
        step()
        step()
    assert d.task_ids == ["step", "step__1"]


def test_repeats_of_a_method_with_a_given_id_get_suffixes_too() -> None:
    class Table:
        @task(task_id="store")
        def store(self) -> None:
            """Does nothing."""

    table = Table()
    with Dag("d") as d:
        table.store()
        table.store()
    assert d.task_ids == ["store", "store__1"]


def test_suffixes_count_in_each_dag_anew() -> None:
    with Dag("one"):
        nothing()
    with Dag("two") as two:
        nothing()
    assert two.task_ids == ["nothing"]


def test_the_same_id_for_two_functions_names_both_places() -> None:
    with Dag("d"):
        first = line() + 1
        nothing.override(task_id="step")()
        second = line() + 2
        with pytest.raises(DuplicateTaskIdError) as caught:
            extract.override(task_id="step")()
    assert caught.value.task_id == "step"
    assert str(caught.value).startswith(f"{at(second)}: task id 'step' is taken")
    assert at(first) in str(caught.value)


def test_adding_a_task_twice_names_both_places() -> None:
    with Dag("d") as d:
        first = line() + 1
        made = nothing()
    with pytest.raises(DuplicateTaskIdError, match="nothing") as caught:
        d.add_task(made.task)
    assert at(first) in str(caught.value)


def test_a_lambda_is_called_lambda() -> None:
    with Dag("d") as d:
        task(lambda: 1)()
        task(lambda: 2)()
    assert d.task_ids == ["lambda", "lambda__1"]


def test_a_partial_is_called_like_its_function() -> None:
    with Dag("d") as d:
        task(functools.partial(load.function, more=2))([1])
    assert d.task_ids == ["load"]


def test_an_object_that_can_be_called_is_a_task_named_like_its_class() -> None:
    class Loader:
        def __call__(self, rows: list[int]) -> int:
            return len(rows)

    with Dag("d") as d:
        made = task(Loader())([1])
    assert d.task_ids == ["Loader"]
    assert made.task.function([1, 2]) == 2


def test_attributes_of_a_callable_object_do_not_replace_those_of_the_task() -> None:
    class Loader:
        def __init__(self) -> None:
            self.function = print
            self.options = {"retries": 9}

        def __call__(self) -> str:
            return "called"

    loader = Loader()
    with Dag("d"):
        made = task(loader, retries=1)().task
    assert made.function is loader
    assert made.options.retries == 1


def test_attributes_of_a_function_do_not_replace_those_of_the_task() -> None:
    def f() -> None:
        """Does nothing."""

    f.options = {"retries": 9}  # type: ignore[attr-defined]
    with Dag("d"):
        assert task(f, retries=1)().task.options.retries == 1


def test_a_method_is_a_task_with_its_object() -> None:
    class Table:
        def __init__(self, name: str) -> None:
            self.name = name

        @task
        def store(self, row: int) -> str:
            return f"{self.name}{row}"

    table = Table("t")
    assert table.store(1) == "t1"
    with Dag("d"):
        made = table.store(2)
    assert made.task.function(3) == "t3"


def test_a_static_method_above_task_is_a_task() -> None:
    class Table:
        @staticmethod
        @task
        def store(row: int) -> int:
            return row

    with Dag("d") as d:
        Table.store(1)
    assert d.task_ids == ["store"]


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_task_above_a_static_method_says_to_turn_them_round(kind: Callable[..., Any]) -> None:
    with pytest.raises(DagError, match="above @task"):
        task(kind(lambda: None))


def test_a_task_of_a_task_says_to_override() -> None:
    with pytest.raises(DagError, match=re.escape(f"{at(line() + 1)}: nothing is a task already; use .override(")):
        task(nothing)


def test_task_decorates_with_and_without_parentheses() -> None:
    @task
    def bare() -> None:
        """Does nothing."""

    @task()
    def called() -> None:
        """Does nothing."""

    @task(retries=2)
    def optioned() -> None:
        """Does nothing."""

    with Dag("d") as d:
        bare() >> called() >> optioned()
    assert [(one.task_id, one.options.retries) for one in d.tasks] == [("bare", 0), ("called", 0), ("optioned", 2)]


def test_task_is_for_functions() -> None:
    with pytest.raises(DagError, match="for functions, not for 3"):
        task(3)  # type: ignore[call-overload]


def test_a_decorator_that_is_not_there_yet_says_so() -> None:
    with pytest.raises(AttributeError, match=r"@task\.kubernetes is not supported"):
        _ = task.kubernetes


def test_dag_and_dag_in_capitals_are_the_same_class() -> None:
    assert DAG is Dag


# Edges through values


def test_passing_a_value_makes_an_edge_and_a_placeholder() -> None:
    with Dag("d") as d:
        load(extract(), more=5)
    made = d.get_task("load")
    assert edges(d) == {"extract>load"}
    assert made.args == (Placeholder("extract", "return_value"),)
    assert made.kwargs == {"more": 5}
    assert made.inputs == (XComInput("extract", "return_value"),)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: [x],
        lambda x: (x,),
        lambda x: {"k": x},
        lambda x: {x},
        lambda x: frozenset({x}),
        lambda x: [1, {"k": [(2, {"l": x})]}],
    ],
    ids=["list", "tuple", "dict", "set", "frozenset", "deep"],
)
def test_values_inside_containers_make_edges_and_come_back_in_their_place(wrap: Callable[[Any], Any]) -> None:
    with Dag("d") as d:
        load(wrap(extract()), more=wrap(nothing()))
    made = d.get_task("load")
    assert edges(d) == {"extract>load", "nothing>load"}
    inputs = {("extract", "return_value"): 7, ("nothing", "return_value"): 8}
    assert put_together(made.args, inputs, {}) == (wrap(7),)
    assert put_together(made.kwargs, inputs, {}) == {"more": wrap(8)}


def test_a_key_of_a_value_is_an_input_of_its_own() -> None:
    with Dag("d") as d:
        value = extract()
        load(value["rows"], value["count"])
    made = d.get_task("load")
    assert edges(d) == {"extract>load"}
    assert made.inputs == (XComInput("extract", "rows"), XComInput("extract", "count"))


@given(
    st.recursive(
        st.integers(0, 4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_arguments_taken_apart_and_put_together_are_as_if_the_values_had_been_there(shape: Any) -> None:
    with Dag("d") as d:
        values = named("a", "b", "c", "d", "e")
        taker = load(swap(shape, dict(enumerate(values))))
    results = {0: "A", 1: ["B"], 2: {"C": 1}, 3: None, 4: ("E",)}
    inputs = {("abcde"[number], "return_value"): value for number, value in results.items()}
    assert put_together(taker.task.args, inputs, {}) == (swap(shape, results),)
    assert {f"{'abcde'[number]}>load" for number in numbers(shape)} == edges(d)


def swap(shape: Any, values: Mapping[int, Any]) -> Any:
    """`shape` with each number replaced."""
    if isinstance(shape, list):
        return [swap(one, values) for one in shape]
    if isinstance(shape, tuple):
        return tuple(swap(one, values) for one in shape)
    if isinstance(shape, dict):
        return {key: swap(one, values) for key, one in shape.items()}
    return values[shape]


def numbers(shape: Any) -> set[int]:
    """The numbers in `shape`."""
    if isinstance(shape, int):
        return {shape}
    return {number for one in (shape.values() if isinstance(shape, dict) else shape) for number in numbers(one)}


def test_an_argument_without_values_of_tasks_is_passed_on_itself() -> None:
    rows = [1, (2, {"k": {3}})]
    with Dag("d"):
        made = load(rows).task
    assert made.args[0] is rows


def test_the_same_value_twice_is_one_edge() -> None:
    with Dag("d") as d:
        value = extract()
        load(value, [value])
    assert edges(d) == {"extract>load"}
    assert d.get_task("load").inputs == (XComInput("extract", "return_value"),)


def test_a_value_of_another_dag_is_refused_with_both_places() -> None:
    with Dag("one"):
        first = line() + 1
        value = extract()
    with Dag("two") as two:
        second = line() + 2
        with pytest.raises(DagError, match="values stay in their dag") as caught:
            load(value)
        assert str(caught.value).startswith(at(second))
        assert at(first) in str(caught.value)
        assert two.task_ids == []


def test_a_value_of_another_dag_is_refused_beside_one_of_the_same_id_of_this_dag() -> None:
    with Dag("one"):
        foreign = extract()
    with Dag("two"):
        own = extract()
        with pytest.raises(DagError, match="values stay in their dag"):
            load(own, foreign)
        with pytest.raises(DagError, match="values stay in their dag"):
            load([own, {"k": foreign}])


def test_looping_over_a_value_is_refused() -> None:
    with Dag("d"):
        value = extract()
        with pytest.raises(TypeError, match=re.escape(f"{at(line() + 1)}: XComArg('extract') cannot be looped over")):
            list(value)
        with pytest.raises(TypeError, match="loop inside the task"):
            _first, *_rest = value


def test_only_one_text_key_can_be_taken() -> None:
    with Dag("d"):
        value = extract()
        with pytest.raises(DagError, match="only text keys"):
            _ = value[0]  # type: ignore[index]
        with pytest.raises(DagError, match="not a key of a key"):
            _ = value["rows"]["first"]


class Holder:
    """An object that is no container that liteflow looks into."""

    def __init__(self, value: Any) -> None:
        self.value = value


def test_a_value_inside_an_object_is_refused_when_the_arguments_are_packed() -> None:
    with Dag("d"):
        value = extract()
        place = line() + 1
        made = load([1], more=Holder(value)).task
    with pytest.raises(TransportError) as caught:
        pack_arguments(made, made.call_arguments)
    assert str(caught.value).startswith(f"{at(place)}: argument 'more' of task 'load'")
    assert "XComArg('extract') stands inside an object" in str(caught.value)
    assert "list, tuple, dict or set" in str(caught.value)


def test_a_value_as_the_key_of_a_dict_is_refused_when_the_arguments_are_packed() -> None:
    with Dag("d"):
        made = load({extract(): 1}).task
    with pytest.raises(TransportError, match="argument number 1 .*stands inside an object"):
        pack_arguments(made, made.call_arguments)


def test_a_param_inside_an_object_is_refused_when_the_arguments_are_packed() -> None:
    with Dag("d", params={"day": 1}) as d:
        made = load(Holder(d.param("day"))).task
    with pytest.raises(TransportError, match=r"DagParam\('day'\) stands inside an object"):
        pack_arguments(made, made.call_arguments)


def test_a_task_inside_an_object_is_refused_when_the_arguments_are_packed() -> None:
    with Dag("d"):
        made = load(Holder(extract().task)).task
    with pytest.raises(TransportError, match="tasks get values, not tasks"):
        pack_arguments(made, made.call_arguments)


# Edges as such


def test_arrows_make_edges_both_ways() -> None:
    with Dag("d") as d:
        a, b, c = named("a", "b", "c")
        a >> b
        a << c
    assert edges(d) == {"a>b", "c>a"}


def test_arrows_in_a_row_go_on_from_the_last_one() -> None:
    with Dag("d") as d:
        a, b, c, e = named("a", "b", "c", "e")
        a >> b >> c
        c << e
        a << e
    assert edges(d) == {"a>b", "b>c", "e>c", "e>a"}


def test_lists_stand_on_both_sides_of_a_task() -> None:
    with Dag("d") as d:
        a, b, c, e, f = named("a", "b", "c", "e", "f")
        [a, b] >> c >> [e, f]
    assert edges(d) == {"a>c", "b>c", "c>e", "c>f"}


def test_lists_stand_on_both_sides_of_a_task_the_other_way_round() -> None:
    with Dag("d") as d:
        a, b, c, e = named("a", "b", "c", "e")
        [a, b] << c << [e]
    assert edges(d) == {"c>a", "c>b", "e>c"}


def test_tuples_and_nested_lists_stand_at_edges() -> None:
    with Dag("d") as d:
        a, b, c, e = named("a", "b", "c", "e")
        a >> (b, [c, {e}])
    assert edges(d) == {"a>b", "a>c", "a>e"}


def test_tasks_and_their_values_are_the_same_end_of_an_edge() -> None:
    with Dag("d") as d:
        a, b, c = named("a", "b", "c")
        a.task >> b
        b.set_downstream(c.task)
        c.set_upstream([a, b.task])
    assert edges(d) == {"a>b", "b>c", "a>c"}


def test_an_edge_twice_is_one_edge() -> None:
    with Dag("d") as d:
        a, b = named("a", "b")
        a >> b
        b << a
        d.set_dependency(a.task, b.task)
    assert edges(d) == {"a>b"}
    assert a.task.downstream_task_ids == ["b"]
    assert list(b.task.upstream_task_ids) == ["a"]


def test_chain_joins_neighbouring_lists_pairwise() -> None:
    with Dag("d") as d:
        a, b, c, e, f, g = named("a", "b", "c", "e", "f", "g")
        chain(a, [b, c], (e, f), g)
    assert edges(d) == {"a>b", "a>c", "b>e", "c>f", "e>g", "f>g"}


def test_chain_refuses_lists_of_unequal_length() -> None:
    with Dag("d"):
        a, b, c, e, f = named("a", "b", "c", "e", "f")
        with pytest.raises(DagError, match=r"these have 2 and 3 elements; use chain_linear\(\)") as caught:
            chain([a, b], [c, e, f])
        assert str(caught.value).startswith(__file__)


def test_chain_linear_joins_neighbouring_lists_each_with_each() -> None:
    with Dag("d") as d:
        a, b, c, e, f = named("a", "b", "c", "e", "f")
        chain_linear([a, b], [c, e, f])
    assert edges(d) == {"a>c", "a>e", "a>f", "b>c", "b>e", "b>f"}


def test_chain_linear_of_single_tasks_is_a_chain() -> None:
    with Dag("d") as d:
        a, b, c = named("a", "b", "c")
        chain_linear(a, b, c)
    assert edges(d) == {"a>b", "b>c"}


def test_chain_of_one_or_none_makes_no_edge() -> None:
    with Dag("d") as d:
        (a,) = named("a")
        chain()
        chain(a)
        chain_linear(a)
    assert edges(d) == set()


def test_cross_downstream_joins_each_with_each() -> None:
    with Dag("d") as d:
        a, b, c, e = named("a", "b", "c", "e")
        cross_downstream([a, b], [c, e])
        cross_downstream(a, b)
    assert edges(d) == {"a>c", "a>e", "b>c", "b>e", "a>b"}


@pytest.mark.parametrize(
    "join",
    [
        lambda a: nothing >> a,
        lambda a: a >> nothing,
        lambda a: nothing << a,
        lambda a: a << nothing,
        lambda a: [nothing] >> a,
        lambda a: [a] >> nothing,
        lambda a: [a] << nothing,
        lambda a: a >> [a, nothing],
        lambda a: chain(a, nothing),
        lambda a: chain_linear(a, [nothing]),
        lambda a: cross_downstream([nothing], [a]),
    ],
)
def test_a_function_that_was_not_called_at_an_edge_says_to_call_it(join: Callable[[Any], Any]) -> None:
    with Dag("d"):
        (a,) = named("a")
        with pytest.raises(DagError, match=r"nothing at an edge is a function.*call it: nothing\(\.\.\.\)") as caught:
            join(a)
        assert str(caught.value).startswith(__file__)


@pytest.mark.parametrize("other", ["b", 3, None])
def test_what_is_no_task_at_an_edge_is_refused(other: Any) -> None:
    with Dag("d"):
        (a,) = named("a")
        with pytest.raises(DagError, match=f"{other!r} at an edge is not a task"):
            a >> other


def test_an_edge_between_dags_names_both() -> None:
    with Dag("one"):
        (a,) = named("a")
    with Dag("two"):
        (b,) = named("b")
    with pytest.raises(DagError, match="from 'a' to 'b' would join dags") as caught:
        a >> b
    assert "'one'" in str(caught.value)
    assert "'two'" in str(caught.value)
    assert str(caught.value).startswith(__file__)


def test_a_task_after_itself_is_a_cycle_at_once() -> None:
    with Dag("d"):
        (a,) = named("a")
        with pytest.raises(DagCycleError, match=r"a -> a") as caught:
            a >> a
    assert caught.value.cycle == ("a", "a")
    assert str(caught.value).startswith(__file__)


def test_cycle_error_names_the_path_and_the_places_of_its_edges() -> None:
    d = Dag("d")
    with pytest.raises(DagCycleError) as caught, d:
        start, a, b, end = named("start", "a", "b", "end")
        start >> a
        first = line() + 1
        a >> b
        second = line() + 1
        b >> a
        b >> end
    message = str(caught.value)
    assert caught.value.cycle in (("a", "b", "a"), ("b", "a", "b"))
    assert " -> ".join(caught.value.cycle) in message
    assert "dag 'd'" in message
    assert f"a -> b at {at(first)}" in message
    assert f"b -> a at {at(second)}" in message
    assert "end" not in message.replace("Remove one of these edges", "").replace(__file__, "")


@given(st.data())
def test_any_cycle_is_found_and_is_one(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 8))
    pairs = st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)).filter(lambda pair: pair[0] != pair[1])
    joined = data.draw(st.lists(pairs, max_size=16)) if size > 1 else []
    d = Dag("d")
    with pytest.raises(RuntimeError, match="leave"), d:
        tasks = [one.task for one in named(*map(str, range(size)))]
        for up, down in joined:
            tasks[up] >> tasks[down]
        raise RuntimeError("leave without a check")
    try:
        order = [int(one.task_id) for one in d.topological_sort()]
    except DagCycleError as error:
        cycle = [int(one) for one in error.cycle]
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert set(pairwise(cycle)) <= set(joined)
    else:
        assert sorted(order) == list(range(size))
        assert all(order.index(up) < order.index(down) for up, down in joined)


def test_an_error_in_the_block_is_not_replaced_by_one_about_a_cycle() -> None:
    with pytest.raises(ZeroDivisionError), Dag("d"):
        a, b = named("a", "b")
        a >> b >> a
        _ = 1 / 0
    assert current_dag() is None


# Looking at a dag


def test_topological_order_puts_upstream_first_and_keeps_the_order_of_making() -> None:
    with Dag("d") as d:
        end, left, right, start, alone = named("end", "left", "right", "start", "alone")
        start >> [right, left] >> end
    assert [one.task_id for one in d.topological_sort()][:2] == ["start", "alone"]
    assert [one.task_id for one in d.topological_sort()][-1] == "end"
    assert [one.task_id for one in d.roots] == ["start", "alone"]
    assert [one.task_id for one in d.leaves] == ["end", "alone"]
    assert alone.task in d.tasks


def test_topological_order_follows_a_dag_that_grows() -> None:
    with Dag("d") as d:
        a, b = named("a", "b")
        assert [one.task_id for one in d.topological_sort()] == ["a", "b"]
        b >> a
        assert [one.task_id for one in d.topological_sort()] == ["b", "a"]
        named("c")
    assert d.has_task("c")
    assert [one.task_id for one in d.topological_sort()] == ["b", "c", "a"]


def test_changing_what_topological_sort_gave_changes_nothing() -> None:
    with Dag("d") as d:
        named("a", "b")
    d.topological_sort().clear()
    d.tasks.clear()
    assert d.task_ids == ["a", "b"]
    assert len(d.topological_sort()) == 2


def test_a_task_that_is_not_there_is_not_found_with_the_nearest_id() -> None:
    with Dag("d") as d:
        named("extract")
    assert not d.has_task("extrat")
    with pytest.raises(NotFoundError, match=r"no task 'extrat' \(did you mean 'extract'\?\)") as caught:
        d.get_task("extrat")
    assert caught.value.identifier == "extrat"


def test_blocks_nest_and_the_innermost_dag_gets_the_tasks() -> None:
    with Dag("outer") as outer:
        named("a")
        with Dag("inner") as inner:
            assert current_dag() is inner
            named("b")
        named("c")
    assert outer.task_ids == ["a", "c"]
    assert inner.task_ids == ["b"]
    assert current_dag() is None


def test_an_open_dag_is_open_in_its_thread_only() -> None:
    seen: list[Any] = []
    with Dag("d") as d:
        thread = threading.Thread(target=lambda: seen.extend([current_dag(), extract()]))
        thread.start()
        thread.join()
    assert seen == [None, [1, 2]]
    assert d.task_ids == []


def test_dags_of_a_block_are_collected_in_order_named_or_not() -> None:
    with collect_dags() as found:
        Dag("one")
        with Dag("two"):
            Dag("three")
    Dag("four")
    assert [one.dag_id for one in found] == ["one", "two", "three"]


def test_structure_digest_follows_ids_edges_and_rules_and_nothing_else() -> None:
    def build(*, rule: str = "all_success", edge: bool = True, last: str = "b", retries: int = 0) -> str:
        with Dag("d", description=str(retries)) as d:
            a = nothing.override(task_id="a", retries=retries)()
            b = nothing.override(task_id=last, trigger_rule=rule)()
            if edge:
                a >> b
        return d.structure_digest()

    assert build() == build(retries=3)
    assert len({build(), build(rule="none_failed"), build(edge=False), build(last="c")}) == 4


# Options


def options_of(**options: Any) -> Any:
    """The checked options of a task that was given these."""
    with Dag("d"):
        return nothing.override(**options)().task.options


def test_options_have_their_defaults() -> None:
    options = options_of()
    assert (options.retries, options.retry_delay_s, options.retry_exponential_backoff) == (0, 0.0, 0.0)
    assert (options.timeout_s, options.max_retry_delay_s) == (None, None)
    assert (options.kill_grace_s, options.log_cap_bytes) == (5.0, 10 * 1024 * 1024)
    assert options.trigger_rule is TriggerRule.ALL_SUCCESS


@pytest.mark.parametrize(
    ("option", "value", "field", "stored"),
    [
        ("retries", 3, "retries", 3),
        ("retry_delay", 5, "retry_delay_s", 5.0),
        ("retry_delay", 0.25, "retry_delay_s", 0.25),
        ("retry_delay", timedelta(minutes=5), "retry_delay_s", 300.0),
        ("max_retry_delay", timedelta(hours=1), "max_retry_delay_s", 3600.0),
        ("retry_exponential_backoff", True, "retry_exponential_backoff", 2.0),
        ("retry_exponential_backoff", False, "retry_exponential_backoff", 0.0),
        ("retry_exponential_backoff", 1.5, "retry_exponential_backoff", 1.5),
        ("timeout", 2, "timeout_s", 2.0),
        ("timeout", timedelta(seconds=90), "timeout_s", 90.0),
        ("execution_timeout", timedelta(seconds=90), "timeout_s", 90.0),
        ("kill_grace_s", 0, "kill_grace_s", 0.0),
        ("kill_grace_s", timedelta(seconds=1), "kill_grace_s", 1.0),
        ("log_cap_bytes", 1, "log_cap_bytes", 1),
        ("trigger_rule", "all_done", "trigger_rule", TriggerRule.ALL_DONE),
        ("trigger_rule", TriggerRule.ALWAYS, "trigger_rule", TriggerRule.ALWAYS),
        ("multiple_outputs", True, "multiple_outputs", True),
    ],
)
def test_option_is_taken(option: str, value: Any, field: str, stored: Any) -> None:
    found = getattr(options_of(**{option: value}), field)
    assert found == stored
    assert type(found) is type(stored)


WRONG = [
    ("retries", -1),
    ("retries", 1.0),
    ("retries", NAN),
    ("retries", True),
    ("retries", "3"),
    ("retry_delay", -0.1),
    ("retry_delay", NAN),
    ("retry_delay", INF),
    ("retry_delay", timedelta(seconds=-1)),
    ("retry_delay", True),
    ("retry_delay", "5"),
    ("retry_delay", 10**400),
    ("max_retry_delay", -1),
    ("max_retry_delay", NAN),
    ("retry_exponential_backoff", -1),
    ("retry_exponential_backoff", NAN),
    ("retry_exponential_backoff", INF),
    ("retry_exponential_backoff", "2"),
    ("retry_exponential_backoff", 10**400),
    ("timeout", 0),
    ("timeout", -1),
    ("timeout", NAN),
    ("timeout", INF),
    ("timeout", timedelta(0)),
    ("timeout", True),
    ("timeout", "60"),
    ("execution_timeout", -1),
    ("execution_timeout", NAN),
    ("kill_grace_s", -1),
    ("kill_grace_s", NAN),
    ("kill_grace_s", True),
    ("log_cap_bytes", 0),
    ("log_cap_bytes", -1),
    ("log_cap_bytes", True),
    ("log_cap_bytes", 1.5),
    ("multiple_outputs", 1),
    ("multiple_outputs", "yes"),
    ("trigger_rule", "all_sucess"),
    ("trigger_rule", 3),
    ("trigger_rule", []),
    ("doc_md", 3),
]


@pytest.mark.parametrize(("option", "value"), WRONG, ids=[f"{name}={str(value)[:12]}" for name, value in WRONG])
def test_wrong_value_of_an_option_is_refused_with_the_place(option: str, value: Any) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        task(nothing.function, **{option: value})
    assert caught.value.option == option
    assert str(caught.value).startswith(f"{__file__}:")


@pytest.mark.parametrize(("option", "value"), WRONG, ids=[f"{name}={str(value)[:12]}" for name, value in WRONG])
def test_wrong_value_in_default_args_is_refused_when_the_dag_is_made(option: str, value: Any) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Dag("d", default_args={option: value})
    assert caught.value.option == option
    assert str(caught.value).startswith(f"{__file__}:")


def test_mistyped_option_names_the_nearest() -> None:
    place = line() + 2
    with pytest.raises(InvalidOptionError, match=r"has no option 'retrys' \(did you mean 'retries'\?\)") as caught:
        task(nothing.function, retrys=3)
    assert caught.value.option == "retrys"
    assert str(caught.value).startswith(at(place))


def test_unknown_option_lists_those_that_there_are() -> None:
    with pytest.raises(InvalidOptionError, match="a task has no option 'zzzz'; there are .*retries"):
        task(nothing.function, zzzz=3)


def test_mistyped_trigger_rule_names_the_nearest() -> None:
    with pytest.raises(InvalidOptionError, match=r"'all_sucess' \(did you mean 'all_success'\?\)"):
        task(nothing.function, trigger_rule="all_sucess")


def test_mistyped_option_of_an_override_is_refused_at_the_override() -> None:
    place = line() + 2
    with pytest.raises(InvalidOptionError, match="did you mean 'timeout'") as caught:
        nothing.override(timeot=3)
    assert str(caught.value).startswith(at(place))


def test_option_that_airflow_has_and_liteflow_lacks_is_refused_and_not_ignored() -> None:
    with pytest.raises(InvalidOptionError, match="option 'max_active_tis_per_dag' of a task is not supported"):
        task(nothing.function, max_active_tis_per_dag=1)


def test_option_that_means_nothing_here_is_accepted() -> None:
    options_of(owner="me", email=["a@example.org"], queue="default", start_date=None)
    options_of(executor_config={"a": 1}, wait_for_past_depends_before_skipping=True)
    Dag("d", start_date=None, catchup=False, owner_links={}, max_consecutive_failed_dag_runs=0)


def test_timeout_and_execution_timeout_together_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="timeout or execution_timeout, not both"):
        task(nothing.function, timeout=1, execution_timeout=2)


def test_default_args_hold_for_every_task_that_does_not_say_otherwise() -> None:
    with Dag("d", default_args={"retries": 2, "retry_delay": timedelta(seconds=3), "owner": "me"}) as d:
        nothing()
        nothing.override(retries=5)()
    first, second = d.tasks
    assert (first.options.retries, first.options.retry_delay_s) == (2, 3.0)
    assert (second.options.retries, second.options.retry_delay_s) == (5, 3.0)


def test_default_args_with_a_mistyped_name_name_the_nearest() -> None:
    with pytest.raises(InvalidOptionError, match="did you mean 'retries'"):
        Dag("d", default_args={"retires": 2})


def test_an_id_in_default_args_is_refused_without_naming_it_as_the_nearest() -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Dag("d", default_args={"task_id": "a"})
    assert "did you mean 'task_id'" not in str(caught.value)


def test_default_args_are_a_dict() -> None:
    with pytest.raises(InvalidOptionError, match="must be a dict"):
        Dag("d", default_args=[("retries", 2)])  # type: ignore[arg-type]


def test_a_timeout_of_default_args_gives_way_to_the_tasks_own_under_either_name() -> None:
    with Dag("d", default_args={"execution_timeout": 9}):
        assert nothing.override(timeout=1)().task.options.timeout_s == 1.0


def test_override_lays_its_options_over_those_there_are_and_leaves_the_original() -> None:
    first = task(nothing.function, retries=1, timeout=4)
    second = first.override(retries=2)
    with Dag("d"):
        assert second().task.options[:1] == (2,)
        assert second().task.options.timeout_s == 4.0
        assert first().task.options.retries == 1


def test_override_of_a_timeout_holds_under_either_of_its_names() -> None:
    with Dag("d"):
        made = task(nothing.function, timeout=4).override(execution_timeout=timedelta(seconds=9))().task
    assert made.options.timeout_s == 9.0


def test_decorator_takes_the_function_under_airflows_name() -> None:
    with Dag("d") as d:
        task(python_callable=nothing.function, task_id="step")()
    assert d.task_ids == ["step"]


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (dict, True),
        (dict[str, int], True),
        ("dict[str, int]", True),
        ("typing.Mapping[str, int]", True),
        (Mapping[str, int], True),
        (list[int], False),
        ("list[dict]", False),
        (None, False),
        (int, False),
    ],
)
def test_multiple_outputs_follow_the_return_annotation(annotation: Any, expected: bool) -> None:
    def f() -> None:
        """Does nothing."""

    f.__annotations__["return"] = annotation
    with Dag("d"):
        assert task(f)().task.options.multiple_outputs is expected
        assert task(f, multiple_outputs=not expected)().task.options.multiple_outputs is not expected


# Arguments


def test_a_missing_argument_is_found_when_the_task_is_made() -> None:
    with Dag("d") as d:
        place = line() + 2
        with pytest.raises(DagError, match=r"load\(\) is called without 'rows'") as caught:
            load()
    assert str(caught.value).startswith(at(place))
    assert d.task_ids == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: nothing(1), "too many positional arguments"),
        (lambda: load(1, 2, 3), "too many positional arguments"),
        (lambda: load(1, rows=2), "multiple values"),
        (lambda: load(1, moer=2), "unexpected keyword argument 'moer'"),
    ],
)
def test_an_argument_too_many_is_found_when_the_task_is_made(call: Callable[[], Any], said: str) -> None:
    with Dag("d"), pytest.raises(DagError, match=said) as caught:
        call()
    assert str(caught.value).startswith(__file__)


def test_a_key_of_the_context_may_be_a_parameter() -> None:
    @task
    def f(rows: int, ds: str, ti: Any = None) -> None:
        """Takes two things from the context."""

    with Dag("d"):
        made = f(1).task
        given = f(1, ds="2026-01-01", ti=3).task
    assert made.context_params == ("ds", "ti")
    assert not made.wants_context
    assert given.context_params == ()


def test_any_keywords_get_the_rest_of_the_context() -> None:
    @task
    def f(**context: Any) -> None:
        """Takes all."""

    with Dag("d"):
        assert f().task.wants_context


def test_a_positional_only_parameter_gets_nothing_from_the_context() -> None:
    @task
    def f(ds: str, /) -> None:
        """Takes one argument that happens to be called so."""

    with Dag("d"), pytest.raises(DagError, match="without 'ds'"):
        f()


# Params


def test_a_param_stands_for_its_value_in_the_run() -> None:
    with Dag("d", params={"day": "2026-01-01"}) as d:
        made = load([d.param("day")]).task
    assert type(d.param("day")) is DagParam
    assert made.args == ([Placeholder(None, "day")],)
    assert put_together(made.args, {}, {"day": "2026-02-02"}) == (["2026-02-02"],)
    assert made.inputs == ()


def test_an_unknown_param_names_the_nearest() -> None:
    d = Dag("d", params={"day": 1})
    with pytest.raises(ParamError, match=r"dag 'd' has no param 'dya' \(did you mean 'day'\?\)") as caught:
        d.param("dya")
    assert caught.value.param == "dya"


def test_looping_over_a_param_is_refused() -> None:
    d = Dag("d", params={"days": [1]})
    with pytest.raises(TypeError, match="'days' cannot be looped over"):
        list(d.param("days"))


def test_a_param_at_an_edge_is_refused() -> None:
    with Dag("d", params={"day": 1}) as d:
        (a,) = named("a")
        with pytest.raises(DagError, match=r"DagParam\('day'\) at an edge is not a task"):
            d.param("day") >> a  # type: ignore[operator]


@pytest.mark.parametrize("params", [{1: 2}, {"": 2}, [("a", 1)], "day"])
def test_params_are_a_dict_with_names(params: Any) -> None:
    with pytest.raises(ParamError) as caught:
        Dag("d", params=params)
    assert str(caught.value).startswith(__file__)


def test_the_dag_has_a_copy_of_its_params() -> None:
    params = {"day": 1}
    d = Dag("d", params=params)
    params["day"] = 2
    assert d.params == {"day": 1}


# The dag decorator


def test_a_dag_function_builds_a_dag_named_like_it_with_its_parameters_as_params() -> None:
    @dag
    def etl(day: str, limit: int = 10) -> None:
        """Orders into the warehouse."""
        load([day], limit)

    built = etl("2026-01-01")
    assert type(built) is Dag
    assert built.dag_id == "etl"
    assert built.description == "Orders into the warehouse."
    assert built.params == {"day": "2026-01-01", "limit": 10}
    assert built.get_task("load").args == ([Placeholder(None, "day")], Placeholder(None, "limit"))


def test_a_dag_function_builds_a_new_dag_with_each_call() -> None:
    @dag
    def etl(day: int = 1) -> None:
        nothing()

    one, two = etl(), etl(day=2)
    assert one is not two
    assert (one.params, two.params) == ({"day": 1}, {"day": 2})
    assert one.task_ids == two.task_ids == ["nothing"]


def test_the_dag_decorator_takes_an_id_and_the_options_of_a_dag() -> None:
    @dag("orders", description="mine", tags=["a"], default_args={"retries": 2}, params={"more": 3})
    def etl(day: int = 1) -> None:
        """Not this."""
        nothing()

    built = etl()
    assert (built.dag_id, built.description, built.tags) == ("orders", "mine", ("a",))
    assert built.params == {"more": 3, "day": 1}
    assert built.tasks[0].options.retries == 2


def test_the_dag_decorator_takes_its_id_by_name_too() -> None:
    @dag(dag_id="orders")
    def etl() -> None:
        nothing()

    assert etl().dag_id == "orders"


def test_the_dag_decorator_without_anything_takes_the_functions_name() -> None:
    @dag()
    def etl() -> None:
        nothing()

    assert etl().dag_id == "etl"


def test_a_call_of_a_dag_function_that_does_not_fit_says_so() -> None:
    @dag
    def etl(day: int) -> None:
        nothing()

    place = line() + 2
    with pytest.raises(DagError, match=r"etl\(\): missing a required argument: 'day'") as caught:
        etl()
    assert str(caught.value).startswith(at(place))


@pytest.mark.parametrize(
    ("function", "args", "kwargs"), [(lambda *days: None, (1, 2), {}), (lambda **days: None, (), {"a": 1})]
)
def test_a_dag_function_that_takes_any_number_of_arguments_is_refused(
    function: Callable[..., None], args: tuple[int, ...], kwargs: dict[str, int]
) -> None:
    # Each param of a dag has a name that is known before a run.
    with pytest.raises(DagError, match="days") as caught:
        dag("etl")(function)(*args, **kwargs)
    assert str(caught.value).startswith(__file__)


def test_a_dag_function_with_a_bad_name_is_refused_at_its_decoration() -> None:
    def größe() -> None:
        nothing()

    with pytest.raises(InvalidIdError, match="is no dag id"):
        dag(größe)


def test_options_of_the_dag_decorator_are_checked() -> None:
    @dag("orders", fail_fats=True)
    def etl() -> None:
        nothing()

    with pytest.raises(InvalidOptionError, match="did you mean 'fail_fast'"):
        etl()


# The dag's own options


@pytest.mark.parametrize("dag_id", ["a", "A.b-c_9", "x" * 250])
def test_a_good_id_is_kept(dag_id: str) -> None:
    assert Dag(dag_id).dag_id == dag_id


BAD_IDS = ["", " ", "a b", "a/b", "ä", "a\n", "x" * 251, None, 3, b"a", "\u0661"]


@pytest.mark.parametrize("dag_id", BAD_IDS)
def test_a_bad_dag_id_is_refused_with_the_place(dag_id: Any) -> None:
    with pytest.raises(InvalidIdError, match="is no dag id: use 1 to 250 ASCII letters") as caught:
        Dag(dag_id)
    assert str(caught.value).startswith(__file__)


@pytest.mark.parametrize("task_id", BAD_IDS)
def test_a_bad_task_id_is_refused_with_the_place(task_id: Any) -> None:
    with pytest.raises(InvalidIdError, match="is no task id") as caught:
        nothing.override(task_id=task_id)
    assert str(caught.value).startswith(__file__)
    assert len(str(caught.value)) < 300 + len(__file__)


@given(st.text(max_size=5))
def test_ids_are_ascii_letters_digits_and_three_signs(text: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,250}", text):
        assert Dag(text).dag_id == text
    else:
        with pytest.raises(InvalidIdError):
            Dag(text)


@pytest.mark.parametrize("run_id", ["manual__2026-01-01T00:00:00.000000+00:00", "a~b", "x" * 250])
def test_a_good_run_id_is_kept(run_id: str) -> None:
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize("run_id", ["", "a/b", "a b", "a\n", "x" * 251, 7])
def test_a_bad_run_id_is_refused(run_id: Any) -> None:
    with pytest.raises(InvalidIdError, match="is no run id"):
        check_run_id(run_id)


def test_a_function_whose_name_is_no_id_needs_one() -> None:
    @task
    def größe() -> None:
        """Has a name that is no id."""

    with Dag("d") as d:
        with pytest.raises(InvalidIdError, match="is no task id"):
            größe()
        größe.override(task_id="groesse")()
    assert d.task_ids == ["groesse"]


@pytest.mark.parametrize(
    "options",
    [
        {"durability": "high"},
        {"durability": True},
        {"max_active_tasks": 0},
        {"max_active_tasks": -1},
        {"max_active_tasks": True},
        {"max_active_tasks": 1.5},
        {"retain_runs": 0},
        {"retain_runs": 1.0},
        {"retain_runs": True},
        {"retain_runs": "10"},
        {"retain_days": 0},
        {"retain_days": -1.5},
        {"retain_days": True},
        {"retain_days": float("inf")},
        {"retain_days": float("nan")},
        {"retain_days": "30"},
        {"tags": "etl"},
        {"tags": 5},
        {"fail_fast": "no"},
        {"description": 5},
        {"db_path": 5},
    ],
    ids=str,
)
def test_wrong_value_of_a_dags_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Dag("d", **options)
    assert caught.value.option == next(iter(options))
    assert str(caught.value).startswith(__file__)


def test_mistyped_option_of_a_dag_names_the_nearest() -> None:
    place = line() + 2
    with pytest.raises(InvalidOptionError, match=r"a dag has no option 'db_pth' \(did you mean 'db_path'") as caught:
        Dag("d", db_pth="x.db")
    assert caught.value.option == "db_pth"
    assert str(caught.value).startswith(at(place))


def test_an_option_of_a_dag_that_is_none_is_as_if_not_given() -> None:
    d = Dag("d", tags=None, params=None, default_args=None, description=None, max_active_tasks=None)  # type: ignore[arg-type]
    assert (d.tags, d.params, d.default_args) == ((), {}, {})


def test_how_long_runs_are_kept() -> None:
    d = Dag("d", retain_runs=1, retain_days=0.5)
    assert (d.retain_runs, d.retain_days) == (1, 0.5)
    assert (Dag("d").retain_runs, Dag("d").retain_days) == (None, None)
    with pytest.raises(InvalidOptionError, match="must be a finite number of days, more than 0"):
        Dag("d", retain_days=0)


def test_tags_are_kept_in_order_without_repeats() -> None:
    assert Dag("d", tags=["b", "a", "b"]).tags == ("b", "a")


def test_schedule_is_inert_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("liteflow.authoring.dag"), "_schedule_was_named", False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Dag("none", schedule=None)
        assert caught == []
        place = line() + 1
        Dag("one", schedule="@daily")
        Dag("two", schedule="@daily")
        dag("three", schedule="@daily")(nothing.function)()
    assert [one.category for one in caught] == [UserWarning]
    assert str(caught[0].message).startswith(f"{at(place)}: schedule= does nothing")
    assert (caught[0].filename, caught[0].lineno) == (__file__, place)


def test_fail_fast_needs_all_success() -> None:
    place = 0
    with pytest.raises(DagError, match="every task must have all_success") as caught, Dag("d", fail_fast=True):
        nothing()
        place = line() + 1
        nothing.override(task_id="last", trigger_rule="all_done")()
    assert str(caught.value).startswith(f"{at(place)}: task 'last' has trigger rule all_done")


def test_fail_fast_with_all_success_is_fine() -> None:
    with Dag("d", fail_fast=True) as d:
        nothing()
    assert d.fail_fast


# What only code or only a run can do


def test_a_dag_of_metadata_does_not_run() -> None:
    d = Dag("d")
    d.is_metadata_only = True
    with pytest.raises(MetadataOnlyError, match="run the script that defines it"):
        d.run()


def test_a_run_while_the_file_is_only_imported_is_refused_with_the_place_and_the_cure() -> None:
    d = Dag("d")
    place = line() + 2
    with loading(), pytest.raises(MissingMainGuard) as caught:
        d.run()
    assert (caught.value.file, caught.value.line) == (__file__, place)
    assert 'if __name__ == "__main__":' in str(caught.value)
    assert str(caught.value).startswith(at(place))


def test_the_context_outside_a_task_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="outside a running task"):
        get_current_context()


def test_the_context_of_a_try_has_airflows_keys() -> None:
    from datetime import UTC, datetime

    date = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    run = DagRunFacts("etl", "r1", date, {"day": 1})
    made = make_context(run, TaskInstanceFacts("etl", "r1", "load", -1, 2, 4), expanded_ti_count=3)
    assert made["expanded_ti_count"] == 3
    assert set(made) <= CONTEXT_KEYS
    assert (made["ds"], made["ds_nodash"]) == ("2026-01-02", "20260102")
    assert made["ts"] == "2026-01-02T03:04:05.000678+00:00"
    assert made["ts_nodash"] == "20260102T030405"
    assert made["ts_nodash_with_tz"] == "20260102T030405.000678+0000"
    assert made["task_instance_key_str"] == "etl__load__20260102"
    assert made["params"] == {"day": 1}
    assert made["ti"].try_number == made["try_number"] == 2
    with CurrentContext(lambda: made):
        assert get_current_context() is made
    with pytest.raises(RuntimeError):
        get_current_context()


def test_a_task_that_is_passed_without_being_called_is_refused() -> None:
    with Dag("d"), pytest.raises(DagError, match=r"extract is a task's function, not its value; call it: extract\("):
        load(extract)


def test_a_value_in_an_f_string_is_refused() -> None:
    with Dag("d"):
        value = extract()
        with pytest.raises(DagError, match="f-string"):
            load(f"value {value}")
