"""Mapping: what a task may be mapped over, and which items each of its instances gets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import product, zip_longest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liteflow import Dag, Task, XComArg, task
from liteflow.authoring.mapping import (
    LOOSE,
    NO_FILL,
    STRICT,
    ExpandInput,
    Items,
    Joined,
    Leaf,
    Literal,
    Mapped,
    Source,
    Zipped,
    all_leaves,
    count_of,
    length_of,
    literal_lengths,
    mapped_kwargs,
    mapped_over,
    needed_items,
    positions,
    whole_list,
)
from liteflow.authoring.xcomarg import ListPlaceholder, Placeholder, XComInput, as_items, put_together
from liteflow.errors import DagError


@task
def rows(*_: Any) -> list[int]:
    return [1, 2]


@task
def use(value: Any = None, more: Any = None) -> Any:
    return value


@task
def need(value: Any, more: Any) -> Any:
    return value, more


def line() -> int:
    """The line from which this is called."""
    return sys._getframe(1).f_lineno


def at(number: int) -> str:
    """How a message names a line of this file."""
    return f"{__file__}:{number}"


def kind(value: object) -> str:
    """The name of a value's type: an id of a test that is the same in every process."""
    return type(value).__name__


def edges(of: Dag) -> set[str]:
    """All edges, as `a>b`."""
    return {f"{up}>{one.task_id}" for one in of.tasks for up in one.upstream_task_ids}


def input_of(value: XComArg | Task) -> ExpandInput:
    """What the task is mapped over."""
    one = value.task if isinstance(value, XComArg) else value
    assert one.expansion is not None
    return one.expansion.input


def instances(expand: ExpandInput, lists: dict[Leaf, Sequence[Any]]) -> list[dict[str, Any]]:
    """The arguments of all instances. Each is made from the items that it is said to need and no others."""
    lists = {**{Literal(number): items for number, items in enumerate(expand.literals)}, **lists}
    lengths = {leaf: len(items) for leaf, items in lists.items()}
    found = []
    for map_index in range(count_of(expand, lengths)):
        needed = needed_items(expand, map_index, lengths)
        assert len(set(needed)) == len(needed)
        found.append(mapped_kwargs(expand, map_index, lengths, {pair: lists[pair[0]][pair[1]] for pair in needed}))
    return found


# What is refused


def test_expand_over_nothing_is_refused_with_the_place() -> None:
    with Dag("d"):
        place = line() + 2
        with pytest.raises(DagError, match=r"use\.expand\(\) needs at least one argument to map over") as caught:
            use.expand()
    assert str(caught.value).startswith(at(place))


@pytest.mark.parametrize("items", ["abc", b"ab", {1, 2}, frozenset([1]), 3, None, iter([1]), object], ids=kind)
def test_what_is_no_list_is_not_mapped_over(items: Any) -> None:
    with Dag("d") as d:
        place = line() + 2
        with pytest.raises(DagError, match=r"use cannot be mapped over value=.*; give a list, a tuple") as caught:
            use.expand(value=items)
    assert str(caught.value).startswith(at(place))
    assert d.task_ids == []


def test_a_long_value_that_is_no_list_is_named_in_short() -> None:
    with Dag("d"), pytest.raises(DagError, match="cannot be mapped over") as caught:
        use.expand(value="x" * 10_000)
    assert len(str(caught.value)) < 300 + len(__file__)


@pytest.mark.parametrize(
    "call",
    [
        lambda: use.expand(valeu=[1]),
        lambda: use.partial(valeu=1).expand(value=[1]),
        lambda: use.partial(value=1).expand(valeu=[1]),
        lambda: use.partial(valeu=1).expand_kwargs([{"value": 1}]),
    ],
)
def test_an_argument_that_the_function_does_not_have_is_refused_with_the_place(call: Callable[[], Any]) -> None:
    with Dag("d") as d, pytest.raises(DagError, match=r"use\(\): .*unexpected keyword argument 'valeu'") as caught:
        call()
    assert str(caught.value).startswith(__file__)
    assert d.task_ids == []


def test_options_of_the_task_are_not_mapped_over() -> None:
    with Dag("d"), pytest.raises(DagError, match="unexpected keyword argument 'retries'"):
        use.expand(value=[1], retries=[1])


def test_an_argument_that_is_missing_beside_those_that_are_mapped_over_is_named() -> None:
    with Dag("d"):
        place = line() + 2
        with pytest.raises(DagError, match=r"need\(\) is called without 'more'") as caught:
            need.expand(value=[1])
    assert str(caught.value).startswith(at(place))


@pytest.mark.parametrize("kwargs", [{"value": 1}, "value", b"x", 3, None, {1}], ids=repr)
def test_expand_kwargs_takes_a_list(kwargs: Any) -> None:
    with Dag("d"), pytest.raises(DagError, match=r"use\.expand_kwargs\(\) takes a list of dicts of arguments, not"):
        use.expand_kwargs(kwargs)


@pytest.mark.parametrize("one", [1, "value", [("value", 1)], {1: 2}, None], ids=repr)
def test_expand_kwargs_takes_a_list_of_dicts(one: Any) -> None:
    with Dag("d"):
        place = line() + 2
        with pytest.raises(DagError, match=r"takes a list of dicts of arguments, and it has") as caught:
            use.expand_kwargs([{"value": 1}, one])
    assert str(caught.value).startswith(at(place))


def test_an_argument_of_partial_in_expand_kwargs_is_refused() -> None:
    with Dag("d"):
        place = line() + 2
        with pytest.raises(DagError, match=r"use\(\) is given 'value' twice, by .partial\(\) and to map") as caught:
            use.partial(value=1).expand_kwargs([{"more": 1}, {"value": 2}])
    assert str(caught.value).startswith(at(place))


@pytest.mark.parametrize("call", [lambda: use.expand(value=[1]), lambda: use.expand_kwargs([{"value": 1}])])
def test_mapping_outside_a_dag_is_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(DagError, match="use can be mapped only inside a dag") as caught:
        call()
    assert str(caught.value).startswith(__file__)


def test_a_task_that_was_not_called_is_refused_as_what_is_mapped_over() -> None:
    with Dag("d"), pytest.raises(DagError, match="use cannot be mapped over value="):
        use.expand(value=rows)


def test_a_task_that_was_not_called_is_refused_among_the_items() -> None:
    with Dag("d"), pytest.raises(DagError, match="rows is a task's function, not its value"):
        use.expand(value=[1, rows])


@pytest.mark.parametrize("join", [lambda a: a >> use.partial(value=1), lambda a: use.partial(value=1) >> a])
def test_a_partial_task_at_an_edge_is_refused(join: Callable[[Any], Any]) -> None:
    with Dag("d"), pytest.raises(DagError, match="at an edge is"):
        join(rows())


def test_a_partial_task_as_an_argument_is_refused() -> None:
    with Dag("d"), pytest.raises(DagError, match="use is a task's function, not its value"):
        use(use.partial(value=1))


def test_a_value_of_another_dag_is_not_mapped_over() -> None:
    with Dag("one"):
        first = line() + 1
        value = rows()
    with Dag("two") as two:
        second = line() + 2
        with pytest.raises(DagError, match="values stay in their dag") as caught:
            use.expand(value=value)
        with pytest.raises(DagError, match="values stay in their dag"):
            use.expand(value=[1, value])
        with pytest.raises(DagError, match="values stay in their dag"):
            use.expand(value=rows().zip(value))
    assert str(caught.value).startswith(at(second))
    assert at(first) in str(caught.value)
    assert not two.has_task("use")


def test_a_task_that_does_not_wait_is_not_mapped_over_the_value_of_another() -> None:
    with Dag("d"), pytest.raises(DagError, match="cannot have the trigger rule always"):
        use.override(trigger_rule="always").expand(value=rows())


def test_a_task_that_does_not_wait_is_mapped_over_what_is_written_in_the_dag() -> None:
    with Dag("d") as d:
        use.override(trigger_rule="always").expand(value=[1, 2])
    assert d.get_task("use").is_mapped


@pytest.mark.parametrize("function", [rows, 3, "str", None], ids=["a task", "a number", "a text", "nothing"])
def test_map_takes_a_plain_function(function: Any) -> None:
    with Dag("d"):
        value = rows()
        with pytest.raises(DagError, match=r"\.map\(\) takes a plain function, not") as caught:
            value.map(function)
    assert str(caught.value).startswith(__file__)


@pytest.mark.parametrize("method", ["zip", "concat"])
@pytest.mark.parametrize("other", [[1, 2], use, 3])
def test_zip_and_concat_take_values_of_tasks(method: str, other: Any) -> None:
    with Dag("d"):
        value = rows()
        with pytest.raises(DagError, match=rf"\.{method}\(\) takes values of tasks, not") as caught:
            getattr(value, method)(other)
    assert str(caught.value).startswith(__file__)


def test_what_map_gives_cannot_be_looped_over_and_stands_in_no_text() -> None:
    with Dag("d"):
        value = rows().map(str)
        with pytest.raises(TypeError, match=r"XComArg\.map\('rows'\) cannot be looped over"):
            list(value)
        with pytest.raises(DagError, match="f-string"):
            f"{value}"


@pytest.mark.parametrize("value", ["abc", b"ab", bytearray(b"ab"), {1}, 3, None, iter([])], ids=kind)
def test_a_value_of_another_kind_has_no_items(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be mapped over; it must be a list, tuple or dict"):
        as_items(value)


@pytest.mark.parametrize("item", [1, "x", None, {1: 2}], ids=repr)
def test_an_item_of_expand_kwargs_that_is_no_dict_of_arguments_is_an_error_of_its_instance(item: Any) -> None:
    source = Items("t", "return_value")
    expand = ExpandInput(((STRICT, source),), ())
    values = {(source, 0): item, (source, 1): {"a": 1}}
    with pytest.raises(TypeError, match=r"expand_kwargs\(\) needs a dict of arguments for each instance, not"):
        mapped_kwargs(expand, 0, {source: 2}, values)
    assert mapped_kwargs(expand, 1, {source: 2}, values) == {"a": 1}


def test_what_a_function_of_map_raises_comes_out_as_it_is() -> None:
    def broken(item: int) -> None:
        raise ArithmeticError(item)

    expand = ExpandInput((("x", Mapped(Literal(0), broken)),), ([1],))
    with pytest.raises(ArithmeticError):
        mapped_kwargs(expand, 0, literal_lengths(expand), {(Literal(0), 0): 1})


def test_a_function_of_map_is_called_for_no_other_instance_and_not_to_count() -> None:
    seen: list[int] = []
    expand = ExpandInput((("x", Mapped(Literal(0), seen.append)),), ([10, 20, 30],))
    lengths = literal_lengths(expand)
    assert count_of(expand, lengths) == 3
    assert needed_items(expand, 1, lengths) == [(Literal(0), 1)]
    assert seen == []
    mapped_kwargs(expand, 1, lengths, {(Literal(0), 1): 20})
    assert seen == [20]


def test_only_strict_expand_kwargs_complain_of_what_partial_gives_too() -> None:
    source = Items("t", "return_value")
    with pytest.raises(TypeError, match=r"'a' is given twice, by partial\(\) and by expand_kwargs\(\)"):
        mapped_over([(STRICT, source)], {"a": 1, "b": 2}, {"a": 3})
    assert mapped_over([(LOOSE, source)], {"a": 1}, {"a": 3}) == {"a": 3}
    assert mapped_over([(STRICT, source)], {"a": 1}, {"b": 3}) == {"b": 3}
    assert mapped_over([("a", source)], {"a": 1}, {"a": 3}) == {"a": 3}


# What is written in the dag


@pytest.mark.parametrize("items", [[1, 2], (1, 2), range(1, 3)], ids=repr)
def test_a_task_is_mapped_over_a_list(items: Any) -> None:
    with Dag("d") as d:
        value = use.expand(value=items)
    assert type(value) is XComArg
    made = d.get_task("use")
    assert made.is_mapped
    assert made.unit is made
    assert instances(input_of(made), {}) == [{"value": 1}, {"value": 2}]


def test_a_task_is_mapped_over_the_pairs_of_a_dict() -> None:
    with Dag("d"):
        made = use.expand(value={"a": 1, "b": 2})
    assert instances(input_of(made), {}) == [{"value": ("a", 1)}, {"value": ("b", 2)}]


def test_an_empty_list_gives_no_instance() -> None:
    with Dag("d"):
        made = use.expand(value=[1, 2], more=[])
    assert instances(input_of(made), {}) == []


def test_of_several_lists_the_last_one_runs_fastest() -> None:
    with Dag("d"):
        made = need.expand(more=[1, 2], value=["a", "b", "c"])
    found = [(one["more"], one["value"]) for one in instances(input_of(made), {})]
    assert found == [(1, "a"), (1, "b"), (1, "c"), (2, "a"), (2, "b"), (2, "c")]


def test_partial_gives_what_all_instances_have() -> None:
    with Dag("d") as d:
        need.partial(more=[1, 2]).expand(value=[3])
        need.partial(more=1).partial(value=2).expand_kwargs([{}])
    assert d.get_task("need").kwargs == {"more": [1, 2]}
    assert d.get_task("need__1").kwargs == {"more": 1, "value": 2}


def test_what_is_mapped_over_wins_over_partial() -> None:
    with Dag("d") as d:
        made = use.partial(value=1, more=2).expand(value=[3, 4])
    assert d.get_task("use").kwargs == {"more": 2}
    assert instances(input_of(made), {}) == [{"value": 3}, {"value": 4}]


def test_partial_leaves_the_original() -> None:
    first = use.partial(value=1)
    first.partial(more=2)
    with Dag("d") as d:
        first.expand(more=[3])
    assert d.get_task("use").kwargs == {"value": 1}


def test_a_context_key_may_be_a_parameter_of_a_mapped_task() -> None:
    @task
    def f(value: Any, ds: str) -> None:
        """Takes one thing from the context."""

    with Dag("d") as d:
        f.expand(value=[1])
        f.expand(value=[1], ds=["2026-01-01"])
    assert d.get_task("f").context_params == ("ds",)
    assert d.get_task("f__1").context_params == ()


def test_a_task_of_any_keywords_is_mapped_over_any_name() -> None:
    @task
    def f(**kwargs: Any) -> None:
        """Takes all."""

    with Dag("d"):
        assert instances(input_of(f.expand(any_name=[1])), {}) == [{"any_name": 1}]


def test_options_of_a_mapped_task_are_those_of_its_task() -> None:
    with Dag("d", default_args={"retry_delay": 2}) as d:
        use.override(task_id="step", retries=3).partial(more=1).expand(value=[1])
    made = d.get_task("step")
    assert (made.options.retries, made.options.retry_delay_s) == (3, 2.0)


def test_expand_kwargs_gives_each_instance_its_dict() -> None:
    with Dag("d"):
        made = use.expand_kwargs([{"value": 1}, {"value": 2, "more": 3}, {}])
    assert instances(input_of(made), {}) == [{"value": 1}, {"value": 2, "more": 3}, {}]


def test_expand_kwargs_that_are_not_strict_may_give_what_partial_gives() -> None:
    with Dag("d") as d:
        made = use.partial(value=1).expand_kwargs([{"value": 2}, {}], strict=False)
    assert input_of(made).sources[0][0] == LOOSE
    assert d.get_task("use").kwargs == {"value": 1}


def test_arguments_that_expand_kwargs_may_give_are_not_missed() -> None:
    with Dag("d") as d:
        need.partial(value=1).expand_kwargs([{"more": 2}])
    assert d.task_ids == ["need"]


def test_a_method_is_mapped_with_its_object() -> None:
    class Table:
        @task
        def store(self, row: int) -> int:
            return row

    with Dag("d") as d:
        Table().store.expand(row=[1, 2])
    assert d.get_task("store").is_mapped


# Values of tasks


def test_a_task_mapped_over_a_value_runs_after_it() -> None:
    with Dag("d") as d:
        made = use.expand(value=rows())
    assert edges(d) == {"rows>use"}
    assert d.get_task("use").inputs == ()
    assert d.get_task("use").expansion.sources == [d.get_task("rows")]  # type: ignore[union-attr]
    assert instances(input_of(made), {Items("rows", "return_value"): [7, 8]}) == [{"value": 7}, {"value": 8}]


def test_a_task_is_mapped_over_a_key_of_a_value() -> None:
    with Dag("d") as d:
        made = use.expand(value=rows()["good"])
    assert edges(d) == {"rows>use"}
    assert all_leaves(input_of(made)) == [Items("rows", "good")]


def test_a_value_and_a_list_are_multiplied() -> None:
    with Dag("d"):
        made = use.expand(value=rows(), more=["a", "b"])
    found = instances(input_of(made), {Items("rows", "return_value"): [1, 2]})
    assert [(one["value"], one["more"]) for one in found] == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]


def test_values_among_the_items_make_edges_and_are_no_sources() -> None:
    with Dag("d") as d:
        made = use.expand(value=[1, rows(), {"k": [rows()]}])
    expansion = d.get_task("use").expansion
    assert expansion is not None
    assert edges(d) == {"rows>use", "rows__1>use"}
    assert expansion.sources == []
    assert list(expansion.in_items.inputs) == [XComInput("rows", "return_value"), XComInput("rows__1", "return_value")]
    assert instances(input_of(made), {}) == [
        {"value": 1},
        {"value": Placeholder("rows", "return_value")},
        {"value": {"k": [Placeholder("rows__1", "return_value")]}},
    ]


def test_params_stand_among_the_items() -> None:
    with Dag("d", params={"day": 1}) as d:
        made = use.expand(value=[d.param("day"), 2])
    assert instances(input_of(made), {}) == [{"value": Placeholder(None, "day")}, {"value": 2}]


def test_expand_kwargs_takes_a_value_and_values_as_items() -> None:
    with Dag("d") as d:
        use.expand_kwargs(rows())
        use.expand_kwargs([{"value": 1}, rows()])
    assert edges(d) == {"rows>use", "rows__1>use__1"}
    assert d.get_task("use").expansion.sources == [d.get_task("rows")]  # type: ignore[union-attr]
    assert d.get_task("use__1").expansion.sources == []  # type: ignore[union-attr]


def test_what_a_mapped_task_gives_is_mapped_over_again() -> None:
    with Dag("d") as d:
        use.expand(value=use.expand(value=[1, 2]))
    assert edges(d) == {"use>use__1"}


def test_partial_takes_values_and_makes_edges() -> None:
    with Dag("d") as d:
        use.partial(more=rows()).expand(value=rows())
    assert edges(d) == {"rows>use", "rows__1>use"}
    assert d.get_task("use").inputs == (XComInput("rows", "return_value"),)


# Map, zip, concat


A, B = Items("rows", "return_value"), Items("rows__1", "return_value")
LISTS: dict[Leaf, Sequence[Any]] = {A: [1, 2, 3], B: ["x", "y"]}


@pytest.mark.parametrize(
    ("derive", "expected"),
    [
        (lambda a, b: a.map(lambda one: one * 10), [10, 20, 30]),
        (lambda a, b: a.map(lambda one: one * 10).map(str), ["10", "20", "30"]),
        (lambda a, b: a.zip(b), [(1, "x"), (2, "y")]),
        (lambda a, b: a.zip(b, a), [(1, "x", 1), (2, "y", 2)]),
        (lambda a, b: a.zip(b, fillvalue=None), [(1, "x"), (2, "y"), (3, None)]),
        (lambda a, b: b.zip(a, fillvalue="-"), [("x", 1), ("y", 2), ("-", 3)]),
        (lambda a, b: a.zip(), [(1,), (2,), (3,)]),
        (lambda a, b: a.concat(b), [1, 2, 3, "x", "y"]),
        (lambda a, b: a.concat(b, a), [1, 2, 3, "x", "y", 1, 2, 3]),
        (lambda a, b: a.concat(), [1, 2, 3]),
        (lambda a, b: a.zip(b).map(lambda pair: f"{pair[0]}{pair[1]}"), ["1x", "2y"]),
        (lambda a, b: a.concat(b).zip(b.concat(a)), [(1, "x"), (2, "y"), (3, 1), ("x", 2), ("y", 3)]),
        (lambda a, b: a.map(str).concat(b.map(str.upper)), ["1", "2", "3", "X", "Y"]),
    ],
)
def test_lists_are_derived_from_values(derive: Callable[[Any, Any], Any], expected: list[Any]) -> None:
    with Dag("d") as d:
        made = use.expand(value=derive(rows(), rows()))
        use(derive(d.get_task("rows").output, d.get_task("rows__1").output))
    assert [one["value"] for one in instances(input_of(made), LISTS)] == expected
    (argument,) = d.get_task("use__1").args
    assert isinstance(argument, ListPlaceholder)
    assert put_together(argument, LISTS, {}) == expected
    assert edges(d) >= {f"rows>{one}" for one in ("use", "use__1")}


def test_every_task_that_a_list_is_derived_from_is_upstream() -> None:
    with Dag("d") as d:
        a, b, c = rows(), rows(), rows()
        use.expand(value=a.zip(b.map(str)).concat(c["k"]))
        use(a.concat(b))
    assert edges(d) == {"rows>use", "rows__1>use", "rows__2>use", "rows>use__1", "rows__1>use__1"}
    assert d.get_task("use__1").inputs == (A, B)


def test_a_derived_list_stands_at_an_edge() -> None:
    with Dag("d") as d:
        a, b = rows(), rows()
        a.zip(b) >> use()
    assert edges(d) == {"rows>use", "rows__1>use"}


def test_a_derived_list_of_a_dict_goes_over_its_pairs() -> None:
    placeholder = ListPlaceholder(Mapped(A, lambda pair: pair[0]))
    assert put_together(placeholder, {A: {"a": 1, "b": 2}}, {}) == ["a", "b"]


def test_a_source_is_shown_by_what_it_was_made_of() -> None:
    with Dag("d"):
        a, b = rows(), rows()
        assert repr(a.map(str)) == "XComArg.map('rows')"
        assert repr(a.zip(b, a)) == "XComArg.zip('rows', 'rows__1')"
        assert repr(a.concat(b)) == "XComArg.concat('rows', 'rows__1')"


# All of it at once, against lists that are worked out whole


LEAVES: list[Leaf] = [Items("a", "return_value"), Items("a", "k"), Items("b", "return_value"), Literal(0), Literal(1)]

SOURCES: st.SearchStrategy[Source] = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: (
        st.builds(Mapped, inner, st.sampled_from([repr, lambda item: (item, item)]))
        | st.builds(
            Zipped, st.lists(inner, min_size=1, max_size=3).map(tuple), st.sampled_from([NO_FILL, None, 0, "-"])
        )
        | st.builds(Joined, st.lists(inner, min_size=1, max_size=3).map(tuple))
    ),
    max_leaves=6,
)

CONTENTS = st.fixed_dictionaries({leaf: st.integers(0, 3).map(range) for leaf in LEAVES})


def naive(source: Any, lists: dict[Leaf, Sequence[Any]]) -> list[Any]:
    """All items of a source, in the plainest way."""
    if isinstance(source, Mapped):
        return [source.function(item) for item in naive(source.source, lists)]
    if isinstance(source, Zipped):
        parts = [naive(one, lists) for one in source.sources]
        if source.fillvalue == NO_FILL:
            return list(zip(*parts, strict=False))
        return list(zip_longest(*parts, fillvalue=source.fillvalue))
    if isinstance(source, Joined):
        return [item for one in source.sources for item in naive(one, lists)]
    return list(lists[source])


def distinct(numbers: dict[Leaf, range]) -> dict[Leaf, Sequence[Any]]:
    """Lists of these lengths, no item of which is like another."""
    return {leaf: [f"{leaf}{number}" for number in found] for leaf, found in numbers.items()}


@given(SOURCES, CONTENTS)
def test_the_items_of_a_source_are_those_of_lists_worked_out_whole(source: Source, numbers: dict[Leaf, range]) -> None:
    lists = distinct(numbers)
    expected = naive(source, lists)
    assert length_of(source, {leaf: len(items) for leaf, items in lists.items()}) == len(expected)
    assert whole_list(source, lists) == expected


@given(st.lists(SOURCES, min_size=1, max_size=3), CONTENTS)
def test_instances_are_the_product_of_lists_worked_out_whole(sources: list[Source], numbers: dict[Leaf, range]) -> None:
    lists = distinct(numbers)
    literals = (lists[Literal(0)], lists[Literal(1)])
    expand = ExpandInput(tuple((f"x{number}", source) for number, source in enumerate(sources)), literals)
    combinations = product(*(naive(source, lists) for source in sources))
    assert instances(expand, lists) == [dict(zip(expand.names, one, strict=True)) for one in combinations]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_positions_count_up_with_the_last_place_fastest(lengths: list[int], data: st.DataObject) -> None:
    sources = tuple((f"x{number}", Literal(number)) for number in range(len(lengths)))
    expand = ExpandInput(sources, tuple(range(length) for length in lengths))
    places = list(product(*map(range, lengths)))
    map_index = data.draw(st.integers(0, len(places) - 1))
    assert positions(expand, map_index, literal_lengths(expand)) == list(places[map_index])
