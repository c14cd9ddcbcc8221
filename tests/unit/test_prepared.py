"""A dag made ready to run: what is mapped together, who takes whose values, and whose turn it is."""

from __future__ import annotations

import marshal
import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liteflow import Dag, TaskGroup, XComArg, task, task_group
from liteflow.authoring.context import CONTEXT_KEYS, PREVIOUS_KEYS
from liteflow.authoring.mapping import Items, Literal
from liteflow.authoring.options import TaskOptions
from liteflow.authoring.xcomarg import MappedPlaceholder, Placeholder
from liteflow.errors import DagCycleError, DagError, TransportError
from liteflow.execution.calling import CALLBACK, Payload, Recipe, Try
from liteflow.execution.code import Code, describe
from liteflow.execution.prepared import PreparedDag
from liteflow.operators import EmptyOperator, PythonOperator
from liteflow.scheduling.core import UnitSpec
from liteflow.scheduling.weights import EXACT_UP_TO, total_weights


@task
def nothing() -> None:
    """Does nothing."""


@task
def rows(*_: Any) -> list[int]:
    return [1, 2]


@task
def use(value: Any = None, more: Any = None) -> Any:
    return value


def note(_: Any) -> None:
    """A callback."""


def prepared(d: Dag) -> PreparedDag:
    """The dag made ready, its functions numbered as they come."""
    codes: list[Code] = []

    def code_of(function: Callable[..., Any], whose: str) -> tuple[int, Code]:
        codes.append(describe(function, whose))
        return len(codes) - 1, codes[-1]

    return PreparedDag(d, code_of)


def named(*names: str, **options: Any) -> list[XComArg]:
    """A task without arguments for each name, in the open dag."""
    return [nothing.override(task_id=name, **options)() for name in names]


def by_id(ready: PreparedDag, found: Any) -> dict[str, Any]:
    """What was found for each task, by task id."""
    return dict(zip([one.task_id for one in ready.tasks], found, strict=True))


def ids(ready: PreparedDag, numbers: Any) -> list[str]:
    """Task ids of numbers."""
    return [ready.tasks[number].task_id for number in sorted(numbers)]


# What is refused


def test_a_dag_with_a_cycle_is_not_made_ready() -> None:
    with Dag("d") as d:
        a, b = named("a", "b")
        a >> b
    b >> a
    with pytest.raises(DagCycleError):
        prepared(d)


def test_an_argument_that_cannot_travel_is_named_before_anything_runs() -> None:
    with Dag("d") as d:
        made = use(threading.Lock()).task
    with pytest.raises(TransportError, match="argument number 1 of task 'use' cannot be sent to a worker") as caught:
        prepared(d)
    assert str(caught.value).startswith(str(made.place))


def test_an_option_that_cannot_travel_is_named() -> None:
    with Dag("d") as d:
        made = use.override(templates_dict={"x": threading.Lock()})().task
    with pytest.raises(TransportError, match="the options of task 'use' cannot be sent to a worker") as caught:
        prepared(d)
    assert str(caught.value).startswith(str(made.place))


def test_a_callback_that_cannot_travel_is_named() -> None:
    lock = threading.Lock()
    with Dag("d") as d:
        made = named("a", on_failure_callback=lambda context: lock)[0].task
    with pytest.raises(TransportError, match="the on_failure_callback of task 'a' cannot be sent .*'lock'") as caught:
        prepared(d)
    assert str(caught.value).startswith(str(made.place))


def test_an_item_that_cannot_travel_is_named_with_its_place() -> None:
    with Dag("d") as d:
        made = use.expand(value=[1, threading.Lock()]).task
    ready = prepared(d)
    assert pickle.loads(ready.literal_item(0, 0, 0)) == 1
    with pytest.raises(TransportError, match="item 1 that is mapped over cannot be sent to a worker") as caught:
        ready.literal_item(0, 0, 1)
    assert str(caught.value).startswith(str(made.place))


# Numbers


def test_tasks_are_numbered_in_topological_order() -> None:
    with Dag("d") as d:
        end, start, alone = named("end", "start", "alone")
        start >> end
    ready = prepared(d)
    assert [one.task_id for one in ready.tasks] == ["start", "alone", "end"]
    assert ready.number_of == {"start": 0, "alone": 1, "end": 2}
    assert ready.downstream == {"start": ["end"], "alone": [], "end": []}
    assert by_id(ready, [spec.upstream for spec in ready.specs]) == {"start": (), "alone": (), "end": (0,)}
    assert ready.digest == d.structure_digest()
    assert alone.task in ready.tasks


def test_every_function_is_described_with_its_task_for_errors() -> None:
    said: list[str] = []

    def code_of(function: Callable[..., Any], whose: str) -> tuple[int, Code]:
        said.append(whose)
        return 7, describe(function, whose)

    with Dag("d", on_success_callback=note) as d:
        place = named("a", on_success_callback=[note])[0].task.place
    ready = PreparedDag(d, code_of)
    assert said == [
        f"{place}: the function of task 'a'",
        f"{place}: the on_success_callback of task 'a'",
        f"{d.place}: the on_success_callback",
    ]
    assert ready.codes[0][0] == 7


# Units


def test_a_task_that_is_not_mapped_is_in_no_unit() -> None:
    with Dag("d") as d:
        named("a")
    ready = prepared(d)
    assert (ready.units, ready.unit_of, ready.unit_specs) == ([], [None], [])
    assert ready.specs[0].unit is None


def test_a_mapped_task_is_a_unit_with_its_sources() -> None:
    with Dag("d") as d:
        use.expand(value=rows(), more=[1, rows()])
    ready = prepared(d)
    (unit,) = ready.units
    assert ids(ready, unit.tasks) == ["use"]
    assert ids(ready, unit.sources) == ["rows"]
    assert unit.leaves == [Items("rows", "return_value"), Literal(0)]
    assert ready.unit_of == [None, None, 0]
    assert ready.unit_specs == [UnitSpec([0], None)]


@pytest.mark.parametrize(("more", "count"), [([1, 2], 6), ([], 0), ({"a": 1}, 3)])
def test_a_unit_over_what_is_written_in_the_dag_has_its_count(more: Any, count: int) -> None:
    d = Dag("d")
    with pytest.raises(RuntimeError, match="leave"), d:
        use.expand(value=[1, 2, 3], more=more)
        raise RuntimeError("leave before a warning of a task that is mapped over nothing")
    assert prepared(d).unit_specs == [UnitSpec([], count)]


def test_tasks_of_a_mapped_group_are_one_unit() -> None:
    @task_group
    def tg(x: Any) -> None:
        with TaskGroup("inner"):
            value = use(x)
        use(value) >> nothing()

    with Dag("d") as d:
        group = tg.expand(x=rows())
        group >> use.expand(value=[1])
    ready = prepared(d)
    found = by_id(ready, ready.unit_of)
    assert found == {"rows": None, "tg.inner.use": 0, "tg.use": 0, "tg.nothing": 0, "use": 1}
    assert ids(ready, ready.units[0].tasks) == ["tg.inner.use", "tg.use", "tg.nothing"]
    assert ready.unit_specs == [UnitSpec([0], None), UnitSpec([], 1)]
    assert by_id(ready, [spec.unit for spec in ready.specs]) == found


def test_a_unit_over_several_tasks_has_each_source_once() -> None:
    with Dag("d") as d:
        a, b = rows(), rows()
        use.expand(value=a.zip(b).concat(a.map(str)), more=b["k"])
    ready = prepared(d)
    assert ids(ready, ready.units[0].sources) == ["rows", "rows__1"]
    assert ready.units[0].leaves == [
        Items("rows", "return_value"),
        Items("rows__1", "return_value"),
        Items("rows__1", "k"),
    ]


# Who takes whose values


def test_takers_are_those_whose_arguments_need_a_value() -> None:
    with Dag("d") as d:
        value = rows()
        use(value, [value["k"]])
        use(rows().zip(value))
        value >> nothing()
    ready = prepared(d)
    takers = by_id(ready, [ids(ready, found) for found in ready.takers])
    assert takers == {"rows": ["use", "use__1"], "rows__1": ["use__1"], "use": [], "use__1": [], "nothing": []}


def test_takers_are_those_that_are_mapped_over_a_value_or_have_it_among_their_items() -> None:
    with Dag("d") as d:
        over, among, beside = rows(), rows(), rows()
        use.partial(more=beside).expand(value=over)
        use.expand(value=[among, 1])
    ready = prepared(d)
    takers = by_id(ready, [ids(ready, found) for found in ready.takers])
    assert takers == {"rows": ["use"], "rows__1": ["use__1"], "rows__2": ["use"], "use": [], "use__1": []}


def test_every_task_of_a_mapped_group_takes_what_the_group_is_mapped_over() -> None:
    @task_group
    def tg(x: Any) -> None:
        use(x) >> nothing()

    with Dag("d") as d:
        tg.expand(x=rows())
    ready = prepared(d)
    assert ids(ready, ready.takers[0]) == ["tg.use", "tg.nothing"]


def test_keys_that_are_taken_are_known_and_the_result_is_always_one() -> None:
    with Dag("d") as d:
        value = rows()
        use(value["a"], [value["b"]])
        use.expand(value=value["c"], more=[1, value["d"]])
        nothing()
    ready = prepared(d)
    taken = by_id(ready, ready.keys_taken)
    assert taken["rows"] == {"a", "b", "c", "d", "return_value"}
    assert taken["nothing"] == {"return_value"}


def test_keys_that_are_mapped_over_are_handed_on_item_by_item() -> None:
    with Dag("d") as d:
        value = rows()
        use.expand(value=value["a"], more=value.map(str))
        use(value["b"])
        use.expand(value=[value["c"]])
    ready = prepared(d)
    assert ready.mapped_keys[0] == ("a", "return_value")
    assert [recipe.mapped_keys for recipe in ready.recipes] == ready.mapped_keys


def test_values_of_a_mapped_task_are_items_as_they_are() -> None:
    with Dag("d") as d:
        use.expand(value=use.expand(value=[1, 2]))
    assert prepared(d).mapped_keys == [(), ()]


# Setups and teardowns


def test_a_teardown_knows_its_setups_its_scope_and_whether_it_fails_the_run() -> None:
    with Dag("d") as d:
        s, a, b, t, strict = named("s", "a", "b", "t", "strict")
        s >> a >> b >> t.as_teardown(setups=s)
        strict.as_teardown(setups=s, on_failure_fail_dagrun=True)
    ready = prepared(d)
    found = by_id(ready, ready.specs)
    assert (ids(ready, found["t"].setups), ids(ready, found["t"].scope)) == (["s"], ["a"])
    assert [(name, spec.is_teardown, spec.fails_run) for name, spec in found.items()] == [
        ("s", False, True),
        ("a", False, True),
        ("strict", True, True),
        ("b", False, True),
        ("t", True, False),
    ]
    assert (found["b"].setups, found["b"].scope) == ([], [])


# Recipes


def recipe_of(d: Dag, task_id: str) -> Recipe:
    """What all tries of a task have in common."""
    ready = prepared(d)
    return ready.recipes[ready.number_of[task_id]]


def test_a_recipe_is_made_of_plain_types() -> None:
    with Dag("d", params={"day": 1}) as d:
        use.override(retries=2, templates_dict={"a": 1})(rows(), d.param("day"))
        use.expand(value=rows())
        EmptyOperator(task_id="e")
    for recipe in prepared(d).recipes:
        assert Recipe(*marshal.loads(marshal.dumps(tuple(recipe)))) == recipe


def test_a_task_without_arguments_sends_none() -> None:
    with Dag("d") as d:
        nothing()
    recipe = recipe_of(d, "nothing")
    assert (recipe.arguments, recipe.extras, recipe.has_placeholders) == (b"", b"", False)
    assert (recipe.kind, recipe.used_mapped, recipe.max_tries) == ("python", None, 1)


def test_arguments_travel_with_their_placeholders() -> None:
    with Dag("d") as d:
        use(rows(), more=3)
    recipe = recipe_of(d, "use")
    args, kwargs, sources = pickle.loads(recipe.arguments)
    assert (args, kwargs, sources) == ((Placeholder("rows", "return_value"),), {"more": 3}, ())
    assert recipe.has_placeholders


def test_a_mapped_task_gets_what_it_is_mapped_over() -> None:
    with Dag("d") as d:
        use.partial(more=3).expand(value=rows())
    recipe = recipe_of(d, "use")
    args, kwargs, sources = pickle.loads(recipe.arguments)
    assert (args, kwargs, sources) == ((), {"more": 3}, (("value", Items("rows", "return_value")),))
    assert recipe.used_mapped is None


def test_a_task_of_a_mapped_group_gets_the_arguments_that_it_uses() -> None:
    @task_group
    def tg(x: Any, y: Any) -> None:
        use([y, {"k": y}]) >> nothing()

    with Dag("d") as d:
        tg.expand(x=[1], y=rows())
    used = recipe_of(d, "tg.use")
    args, _, sources = pickle.loads(used.arguments)
    assert args == ([MappedPlaceholder("y"), {"k": MappedPlaceholder("y")}],)
    assert [name for name, _ in sources] == ["x", "y"]
    assert used.used_mapped == ("y",)
    unused = recipe_of(d, "tg.nothing")
    assert (unused.arguments, unused.used_mapped) == (b"", ())


def test_an_operator_of_a_mapped_group_gets_the_arguments_that_it_uses() -> None:
    @task_group
    def tg(x: Any) -> None:
        PythonOperator(task_id="p", python_callable=len, op_args=[x])

    with Dag("d") as d:
        tg.expand(x=[[1]])
    assert recipe_of(d, "tg.p").used_mapped == ("x",)


def test_options_reach_the_recipe() -> None:
    with Dag("d", tags=["a"], description="mine") as d:
        use.override(
            retries=3,
            do_xcom_push=False,
            multiple_outputs=True,
            map_index_template="{{ x }}",
            trigger_rule="none_failed",
            pool="one",
            on_execute_callback=note,
            templates_dict={"k": 1},
        )(1)
    recipe = recipe_of(d, "use")
    assert (recipe.max_tries, recipe.push_result, recipe.multiple_outputs) == (4, False, True)
    assert recipe.map_index_template == "{{ x }}"
    assert pickle.loads(recipe.extras) == {"on_execute": (note,), "templates_dict": {"k": 1}}
    assert recipe.dag_view == ("d", "mine", ("a",), "UTC", "{}", False)
    assert recipe.task_view == (3, "none_failed", "one")


def test_sensors_and_commands_carry_their_options() -> None:
    @task.sensor(poke_interval=2, mode="reschedule")
    def look() -> bool:
        return True

    @task.bash(env={"A": "1"})
    def shell() -> str:
        return "true"

    with Dag("d") as d:
        look()
        shell()
    recipe = recipe_of(d, "look")
    assert (recipe.kind, recipe.sensor and recipe.sensor[0], recipe.sensor and recipe.sensor[2]) == (
        "sensor",
        2.0,
        "reschedule",
    )
    assert pickle.loads(recipe_of(d, "shell").extras)["bash"].env == {"A": "1"}


@pytest.mark.parametrize(
    ("task_options", "dag_options", "wants"),
    [
        ({}, {}, False),
        ({"on_success_callback": note}, {"on_success_callback": note}, False),
        ({"on_failure_callback": note}, {}, True),
        ({"on_retry_callback": note}, {}, True),
        ({}, {"on_failure_callback": note}, True),
    ],
)
def test_an_exception_is_kept_for_those_callbacks_that_are_given_it(
    task_options: dict[str, Any], dag_options: dict[str, Any], wants: bool
) -> None:
    with Dag("d", **dag_options) as d:
        named("a", **task_options)
    assert recipe_of(d, "a").wants_exception is wants


def test_callbacks_are_found_by_task_and_kind_and_those_of_the_dag_apart() -> None:
    with Dag("d", on_failure_callback=[note, note]) as d:
        named("a", on_success_callback=note, on_skipped_callback=[note, note], on_execute_callback=note)
        named("b")
    found = prepared(d).callbacks
    assert {key: len(functions) for key, functions in found.items()} == {
        (0, "on_success"): 1,
        (0, "on_skipped"): 2,
        (-1, "dag_on_failure"): 2,
    }


def test_a_callback_is_called_with_nothing_of_its_tasks_arguments() -> None:
    with Dag("d") as d:
        use.override(map_index_template="{{ x }}", templates_dict={"k": 1}, on_failure_callback=note)(1)
    ready = prepared(d)
    recipe = ready.callback_recipe(0)
    assert (recipe.kind, recipe.arguments, recipe.extras) == (CALLBACK, b"", b"")
    assert (recipe.map_index_template, recipe.wants_exception) == (None, False)
    assert recipe.task_view == ready.recipes[0].task_view


def test_a_try_has_all_of_airflows_keys_and_macros_when_they_are_asked_for() -> None:
    with Dag("d", params={"day": 1}) as d:
        use.override(retries=2, map_index_template="{{ x }}")(1)
    at_us = int(datetime(2026, 1, 2, tzinfo=UTC).timestamp() * 1_000_000)
    payload = Payload((), None, "d", "r1", "use", -1, 2, at_us, '{"day": 3}', at_us)
    context = Try(recipe_of(d, "use"), payload, print, None).context
    later = {"macros", *PREVIOUS_KEYS}
    assert set(context) == CONTEXT_KEYS - later
    assert all(key in context for key in later)
    assert context["macros"].timedelta(days=1).days == 1
    assert set(context) == CONTEXT_KEYS - {*PREVIOUS_KEYS}
    with pytest.raises(RuntimeError, match="prev_start_date_success is to be had in slots"):
        context["prev_start_date_success"]
    assert (context["ds"], context["params"], context["run_id"]) == ("2026-01-02", {"day": 3}, "r1")
    assert (context["ti"].try_number, context["ti"].max_tries, context["task"].retries) == (2, 3, 2)
    assert context["map_index_template"] == "{{ x }}"
    assert context["expanded_ti_count"] is None


# Weights


def weighed(rule: str) -> dict[str, int]:
    """The weights of a dag with a diamond and a mapped task."""
    with Dag("d", default_args={"weight_rule": rule}) as d:
        a, b, c, e, z = (
            nothing.override(task_id=name, priority_weight=weight)()
            for name, weight in (("a", 1), ("b", 2), ("c", 3), ("e", 5), ("z", 11))
        )
        m = use.override(task_id="m", priority_weight=7).expand(value=[1, 2])
        a >> [b, c] >> e >> m >> z
    ready = prepared(d)
    return by_id(ready, ready.weights)


def test_with_downstream_the_weights_of_all_that_is_downstream_are_added_once() -> None:
    assert weighed("downstream") == {"a": 29, "b": 25, "c": 26, "e": 23, "m": 18, "z": 11}


def test_with_upstream_the_weights_of_all_that_is_upstream_are_added_once() -> None:
    assert weighed("upstream") == {"a": 1, "b": 3, "c": 4, "e": 11, "m": 18, "z": 29}


def test_with_absolute_a_task_has_its_own_weight() -> None:
    assert weighed("absolute") == {"a": 1, "b": 2, "c": 3, "e": 5, "m": 7, "z": 11}


def test_each_task_is_weighed_by_its_own_rule() -> None:
    with Dag("d") as d:
        (a,) = named("a", priority_weight=2)
        (b,) = named("b", priority_weight=3, weight_rule="upstream")
        (c,) = named("c", priority_weight=-5, weight_rule="absolute")
        a >> b >> c
    ready = prepared(d)
    assert by_id(ready, ready.weights) == {"a": 0, "b": 5, "c": -5}


@pytest.mark.parametrize("option", [{"priority_weight": 1.5}, {"priority_weight": "x"}, {"weight_rule": "sideways"}])
def test_a_weight_that_is_none_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(DagError, match=next(iter(option))):
        task(nothing.function, **option)


def test_very_many_tasks_without_a_word_on_weight_are_all_alike() -> None:
    count = EXACT_UP_TO + 1
    chained = [() if number == 0 else (number - 1,) for number in range(count)]
    assert total_weights([TaskOptions()] * count, chained) == [1] * count


@given(st.data())
def test_weights_are_those_of_the_tasks_that_a_plain_walk_reaches(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 8))
    upstream = [tuple(data.draw(st.sets(st.integers(0, number - 1)))) if number else () for number in range(size)]
    rules = st.sampled_from(["downstream", "upstream", "absolute"])
    options = [
        TaskOptions(priority_weight=data.draw(st.integers(-3, 3)), weight_rule=data.draw(rules)) for _ in range(size)
    ]
    downstream = [[down for down in range(size) if up in upstream[down]] for up in range(size)]
    ways = {"downstream": downstream, "upstream": upstream, "absolute": [()] * size}
    expected = [
        sum(options[other].priority_weight for other in {number} | reached(number, ways[one.weight_rule]))
        for number, one in enumerate(options)
    ]
    assert total_weights(options, upstream) == expected


def reached(start: int, direct: Any) -> set[int]:
    """Everything that can be come to from a number."""
    return set(direct[start]) | {one for other in direct[start] for one in reached(other, direct)}
