"""Operators: tasks written as classes, from the dag to the worker."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from liteflow import Context, Dag, Task, TaskGroup, TriggerRule, XComArg, task, task_group
from liteflow.authoring.context import CurrentContext, DagRunFacts, TaskInstanceFacts, make_context
from liteflow.authoring.xcomarg import MappedPlaceholder, Placeholder, XComInput, put_together
from liteflow.errors import (
    DagError,
    DuplicateTaskIdError,
    InvalidIdError,
    InvalidOptionError,
    TaskKilled,
    TransportError,
)
from liteflow.execution.code import pack_arguments
from liteflow.operators import (
    BaseOperator,
    BashOperator,
    BranchPythonOperator,
    EmptyOperator,
    PythonOperator,
    ShortCircuitOperator,
)


@task
def rows(*_: Any) -> list[int]:
    return [1, 2]


class Query(BaseOperator):
    """An operator with a field that may hold values, and one that may not."""

    template_fields = ("sql", "rows")

    def __init__(self, *, sql: str = "", rows: Any = None, limit: Any = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sql = sql
        self.rows = rows
        self.limit = limit

    def execute(self, context: Context) -> Any:
        return self.sql, self.rows, self.limit, context["run_id"]


class Narrow(Query):
    """A subclass with a parameter of its own."""

    def __init__(self, *, where: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.where = where


class Killed(BaseOperator):
    """Is told to end while it works."""

    told: list[str] = []  # noqa: RUF012  (what a test looks at)

    def execute(self, context: Context) -> Any:
        raise TaskKilled("its time is up")

    def on_kill(self) -> None:
        self.told.append(self.task_id)


def line() -> int:
    """The line from which this is called."""
    return sys._getframe(1).f_lineno


def at(number: int) -> str:
    """How a message names a line of this file."""
    return f"{__file__}:{number}"


def edges(of: Dag) -> set[str]:
    """All edges, as `a>b`."""
    return {f"{up}>{one.task_id}" for one in of.tasks for up in one.upstream_task_ids}


def context() -> Context:
    """The context of some try."""
    date = datetime(2026, 1, 2, tzinfo=UTC)
    return make_context(DagRunFacts("d", "r1", date, {}), TaskInstanceFacts("d", "r1", "t", -1, 1, 1))


def executed(
    one: Task, inputs: Mapping[tuple[str, str], Any] | None = None, mapped: Mapping[str, Any] | None = None
) -> Any:
    """What comes of the task in a worker, its arguments pickled on the way."""
    args, kwargs = pickle.loads(pack_arguments(one, one.call_arguments))
    args, kwargs = (put_together(part, inputs or {}, {}) for part in (args, kwargs))
    with CurrentContext(context):
        return one.function(*args, **{**kwargs, **(mapped or {})})


# What is refused


def test_arguments_by_place_are_refused() -> None:
    with Dag("d") as d:
        place = line() + 2
        with pytest.raises(DagError, match=r"Query\(\) takes keyword arguments only") as caught:
            Query("q", sql="select 1")
    assert str(caught.value).startswith(at(place))
    assert d.task_ids == []


@pytest.mark.parametrize("task_id", ["", "a b", "ä", "x" * 251, 3, None])
def test_a_bad_id_is_refused_with_the_place(task_id: Any) -> None:
    with Dag("d"):
        place = line() + 2
        with pytest.raises(InvalidIdError, match="is no task id") as caught:
            EmptyOperator(task_id=task_id)
    assert str(caught.value).startswith(at(place))


def test_an_operator_without_an_id_is_refused() -> None:
    with (
        Dag("d"),
        pytest.raises(DagError, match=r"test_operators.py:\d+: EmptyOperator\(\) is called without 'task_id'"),
    ):
        EmptyOperator()


def test_a_misspelt_argument_of_an_operator_is_named_with_the_nearest_one() -> None:
    with Dag("d"), pytest.raises(DagError, match=r"has no bash_comand \(did you mean 'bash_command'\?\)"):
        BashOperator(task_id="x", bash_comand="ls")


@pytest.mark.parametrize("first", [lambda: EmptyOperator(task_id="rows"), lambda: rows()], ids=["operator", "task"])
def test_a_repeated_id_names_both_places(first: Callable[[], Any]) -> None:
    with Dag("d") as d:
        first()
        place = line() + 2
        with pytest.raises(DuplicateTaskIdError, match="task id 'rows' is taken by what is made at") as caught:
            Query(task_id="rows")
    assert caught.value.task_id == "rows"
    assert str(caught.value).startswith(at(place))
    assert str(caught.value).count(__file__) == 2
    assert d.task_ids == ["rows"]


def test_a_repeated_id_in_a_group_is_refused_and_one_outside_it_is_not() -> None:
    with Dag("d") as d:
        EmptyOperator(task_id="a")
        with TaskGroup("g"):
            EmptyOperator(task_id="a")
            with pytest.raises(DuplicateTaskIdError, match=r"task id 'g\.a' is taken"):
                EmptyOperator(task_id="a")
    assert d.task_ids == ["a", "g.a"]


def test_an_unknown_argument_names_the_nearest_option() -> None:
    place = line() + 2
    with Dag("d"), pytest.raises(InvalidOptionError, match="did you mean 'retries'") as caught:
        EmptyOperator(task_id="a", retrys=2)
    assert str(caught.value).startswith(at(place))


def test_a_wrong_value_of_an_option_is_refused() -> None:
    with Dag("d"), pytest.raises(InvalidOptionError, match="option retries=-1"):
        EmptyOperator(task_id="a", retries=-1)


@pytest.mark.parametrize("value", [lambda v: v, lambda v: v["k"], lambda v: v.map(str)], ids=["value", "key", "map"])
def test_a_value_in_a_field_that_is_no_template_field_is_refused(value: Callable[[Any], Any]) -> None:
    with Dag("d") as d:
        given = value(rows())
        place = line() + 2
        with pytest.raises(DagError, match=r"Query\(limit=XComArg.*only sql, rows can be the value of") as caught:
            Query(task_id="q", limit=given)
    assert str(caught.value).startswith(at(place))
    assert d.task_ids == ["rows"]


def test_a_value_deep_in_a_field_that_is_no_template_field_is_refused_when_the_arguments_are_packed() -> None:
    with Dag("d"):
        made = Query(task_id="q", limit=[rows()])
    with pytest.raises(TransportError, match=r"XComArg\('rows'\) stands inside an object"):
        pack_arguments(made, made.call_arguments)


def test_an_argument_of_a_mapped_group_in_a_field_that_is_no_template_field_is_refused() -> None:
    @task_group
    def tg(x: Any) -> None:
        Query(task_id="q", limit=x)

    with Dag("d"), pytest.raises(DagError, match=r"Query\(limit=MappedArgument\('x'\)\): only sql, rows"):
        tg.expand(x=[1])


def test_a_value_of_another_dag_is_refused() -> None:
    with Dag("one"):
        value = rows()
    with Dag("two"), pytest.raises(DagError, match="values stay in their dag"):
        Query(task_id="q", rows=value)


def test_an_attribute_that_cannot_travel_is_refused_when_the_arguments_are_packed() -> None:
    with Dag("d"):
        made = Query(task_id="q", limit=threading.Lock())
    with pytest.raises(TransportError, match=r"task 'q' cannot be sent to a worker: .*lock") as caught:
        pack_arguments(made, made.call_arguments)
    assert str(caught.value).startswith(str(made.place))


def test_a_class_without_execute_says_so() -> None:
    class Idle(BaseOperator):
        """Does not say what it does."""

    with pytest.raises(TypeError, match=r"Idle has no execute\(context\)"):
        Idle(task_id="a").execute(context())


def test_what_is_no_function_is_not_called_by_an_operator() -> None:
    with Dag("d"), pytest.raises(DagError, match="python_callable=3 must be a function") as caught:
        PythonOperator(task_id="p", python_callable=3)  # type: ignore[arg-type]
    assert str(caught.value).startswith(__file__)


# In the dag


def test_an_operator_is_a_task_of_its_dag() -> None:
    with Dag("d") as d:
        place = line() + 1
        made = Query(task_id="q", sql="select 1", retries=2, trigger_rule="all_done")
        made >> EmptyOperator(task_id="end") << rows()
    assert d.get_task("q") is made
    assert made.operator_class is Query
    assert (made.sql, made.limit) == ("select 1", 10)
    assert (made.options.retries, made.trigger_rule) == (2, "all_done")
    assert str(made.place) == at(place)
    assert edges(d) == {"q>end", "rows>end"}


def test_the_output_of_an_operator_is_a_value() -> None:
    with Dag("d") as d:
        value = Query(task_id="q").output
        rows(value, value["k"])
    assert type(value) is XComArg
    assert edges(d) == {"q>rows"}
    assert d.get_task("rows").inputs == (XComInput("q", "return_value"), XComInput("q", "k"))


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"k": (1, v)}], ids=["value", "list", "deep"])
def test_values_in_template_fields_make_edges(wrap: Callable[[Any], Any]) -> None:
    with Dag("d") as d:
        made = Query(task_id="q", rows=wrap(rows()), sql=rows())  # type: ignore[arg-type]
    assert edges(d) == {"rows>q", "rows__1>q"}
    assert made.inputs == (XComInput("rows__1", "return_value"), XComInput("rows", "return_value"))
    (_, fields), _ = made.call_arguments
    assert fields == {"sql": Placeholder("rows__1", "return_value"), "rows": wrap(Placeholder("rows", "return_value"))}


def test_templates_are_looked_for_in_template_fields_alone() -> None:
    with Dag("d"):
        assert Query(task_id="a", sql="{{ ds }}").templated
        assert Query(task_id="b", rows=[{"k": "{{ ds }}"}]).templated
        assert not Query(task_id="c", limit="{{ ds }}").templated


def test_the_dag_or_the_group_may_be_named() -> None:
    with Dag("one") as one, TaskGroup("g") as g:
        EmptyOperator(task_id="a")
    two = Dag("two")
    EmptyOperator(task_id="b", dag=two)
    EmptyOperator(task_id="c", task_group=g)
    assert one.task_ids == ["g.a", "g.c"]
    assert two.task_ids == ["b"]
    assert one.get_task("g.c") in g.children


def test_an_operator_outside_a_dag_is_only_good_to_be_executed() -> None:
    made = Query(task_id="q", sql="select 1")
    assert made.execute(context()) == ("select 1", None, 10, "r1")


def test_an_operator_is_a_setup_or_a_teardown() -> None:
    with Dag("d") as d:
        s, w, t = (EmptyOperator(task_id=name) for name in ("s", "w", "t"))
        with t.as_teardown(setups=s):
            EmptyOperator(task_id="inside")
        s >> w >> t
    assert edges(d) == {"s>t", "s>inside", "inside>t", "s>w", "w>t"}


@pytest.mark.parametrize(
    ("cls", "arguments", "kind"),
    [
        (Query, {}, "python"),
        (EmptyOperator, {}, "empty"),
        (PythonOperator, {"python_callable": len}, "python"),
        (BranchPythonOperator, {"python_callable": len}, "branch"),
        (ShortCircuitOperator, {"python_callable": len}, "short_circuit"),
        (BashOperator, {"bash_command": "true"}, "python"),
    ],
)
def test_each_operator_has_the_kind_of_its_decorated_relative(
    cls: type[BaseOperator], arguments: dict[str, Any], kind: str
) -> None:
    with Dag("d"):
        assert cls(task_id="a", **arguments).kind == kind
        name, value = next(iter(arguments.items()), ("sql", "x"))
        if cls is not EmptyOperator:
            assert cls.partial(task_id="m").expand(**{name: [value]}).kind == kind


@pytest.mark.parametrize("ignores", [True, False])
def test_a_short_circuit_ignores_the_rules_of_what_is_downstream_unless_it_says_otherwise(ignores: bool) -> None:
    with Dag("d"):
        assert ShortCircuitOperator(task_id="a", python_callable=bool).ignores_rules
        made = ShortCircuitOperator(task_id="b", python_callable=bool, ignore_downstream_trigger_rules=ignores)
        assert made.ignores_rules is ignores


# Default arguments


def test_a_name_in_default_args_that_no_operator_has_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="a task has no option 'no_such_field'"):
        Dag("d", default_args={"no_such_field": 1})


def test_default_args_hold_for_operators_too() -> None:
    with Dag("d", default_args={"retries": 2, "owner": "me"}):
        assert EmptyOperator(task_id="a").options.retries == 2
        assert EmptyOperator(task_id="b", retries=3).options.retries == 3
        with TaskGroup("g", default_args={"retries": 4}):
            assert EmptyOperator(task_id="c").options.retries == 4
            assert EmptyOperator(task_id="e", default_args={"retries": 5}).options.retries == 5


def test_default_args_hold_the_parameters_of_operators_and_the_nearest_win() -> None:
    with Dag("d", default_args={"limit": 1, "where": "dag"}) as d:
        assert Query(task_id="a").limit == 1
        assert Query(task_id="b", limit=2).limit == 2
        with TaskGroup("outer", default_args={"limit": 3}), TaskGroup("inner", default_args={"where": "inner"}):
            made = Narrow(task_id="c")
            assert (made.limit, made.where) == (3, "inner")
            assert Narrow(task_id="e", default_args={"limit": 4}).limit == 4
        assert Narrow.partial(task_id="m").expand(sql=["x"]).kwargs == {"limit": 1, "where": "dag"}
        assert rows().task.options.retries == 0
    assert d.default_args == {"limit": 1, "where": "dag"}


def test_a_value_in_default_args_makes_an_edge_to_each_operator_that_has_the_field() -> None:
    with Dag("d") as d:
        value = rows()
        with TaskGroup("g", default_args={"rows": value}):
            Query(task_id="q")
            EmptyOperator(task_id="e")
    assert edges(d) == {"rows>g.q"}


# In the worker


def test_an_operator_is_executed_in_the_worker_with_its_attributes_and_values() -> None:
    with Dag("d"):
        made = Narrow(task_id="q", sql="select 1", rows=[rows(), 3], limit=5, where="x")
    assert executed(made, {("rows", "return_value"): 7}) == ("select 1", [7, 3], 5, "r1")


def test_attributes_that_are_changed_in_the_dag_travel_too() -> None:
    with Dag("d"):
        made = Query(task_id="q")
        made.limit = 3
        made.sql = "select 2"
    assert executed(made) == ("select 2", None, 3, "r1")


def test_an_operator_knows_its_id_in_the_worker() -> None:
    class Named(BaseOperator):
        def execute(self, context: Context) -> Any:
            return self.task_id

    with Dag("d"), TaskGroup("g"):
        assert executed(Named(task_id="a")) == "g.a"


def test_an_operator_that_is_told_to_end_is_asked_to_clean_up() -> None:
    Killed.told.clear()
    with Dag("d"):
        made = Killed(task_id="k")
    with pytest.raises(TaskKilled):
        executed(made)
    assert [*made.told, *Killed.told] in (["k"], ["k", "k"])


def described(a: int, *, run_id: str = "", b: int = 0, **more: Any) -> tuple[Any, ...]:
    return a, b, run_id, "ds" in more


def only(a: int, run_id: str) -> tuple[int, str]:
    return a, run_id


def test_a_python_operator_calls_its_function_with_arguments_and_context() -> None:
    with Dag("d"):
        made = PythonOperator(task_id="p", python_callable=described, op_args=[rows()], op_kwargs={"b": 2})
        few = PythonOperator(task_id="f", python_callable=only, op_kwargs={"a": 1})
        given = PythonOperator(task_id="g", python_callable=only, op_args=[1, "mine"])
        builtin = PythonOperator(task_id="h", python_callable=max, op_args=[1, 2])
    assert executed(made, {("rows", "return_value"): 7}) == (7, 2, "r1", True)
    assert executed(few) == (1, "r1")
    assert executed(given) == (1, "mine")
    assert executed(builtin) == 2


def test_a_python_operator_takes_the_function_of_a_task() -> None:
    with Dag("d"):
        made = PythonOperator(task_id="p", python_callable=rows)
    assert executed(made) == [1, 2]


def test_a_python_operator_hands_its_templates_dict_to_the_function() -> None:
    with Dag("d"):
        made = PythonOperator(task_id="p", python_callable=keep, templates_dict={"day": "x"})
        bare = PythonOperator(task_id="q", python_callable=keep, op_kwargs={"templates_dict": None})
    assert executed(made) == {"day": "x"}
    assert executed(bare) is None


def keep(templates_dict: Any) -> Any:
    return templates_dict


def test_an_empty_operator_gives_nothing() -> None:
    with Dag("d"):
        assert executed(EmptyOperator(task_id="e")) is None


# Mapped operators


def test_an_operator_is_not_mapped_without_an_id() -> None:
    place = line() + 2
    with Dag("d"), pytest.raises(DagError, match=r"Query\.partial\(\) needs a task_id") as caught:
        Query.partial(sql="x")
    assert str(caught.value).startswith(at(place))


def test_an_operator_is_not_mapped_outside_a_dag() -> None:
    with pytest.raises(DagError, match="q can be mapped only inside a dag"):
        Query.partial(task_id="q").expand(sql=["x"])


@pytest.mark.parametrize("name", ["retries", "sqll", "task_id", "dag"])
def test_an_operator_is_mapped_over_its_own_parameters_alone(name: str) -> None:
    with Dag("d"):
        place = line() + 2
        with pytest.raises(DagError, match=f"Query cannot be mapped over '{name}'; only over limit, ") as caught:
            Query.partial(task_id="q").expand(**{name: [1]})
    assert str(caught.value).startswith(at(place))


def test_an_operator_is_not_mapped_over_nothing() -> None:
    with Dag("d"), pytest.raises(DagError, match=r"q\.expand\(\) needs at least one argument to map over"):
        Query.partial(task_id="q").expand()


def test_an_unknown_argument_of_partial_is_refused() -> None:
    with Dag("d"), pytest.raises(InvalidOptionError, match="a task has no option 'limt'.*did you mean 'limit'"):
        Query.partial(task_id="q", limt=3).expand(sql=["x"])


def test_a_mapped_operator_with_an_id_that_is_taken_is_refused() -> None:
    with Dag("d"):
        rows()
        with pytest.raises(DuplicateTaskIdError, match="task id 'rows' is taken"):
            Query.partial(task_id="rows").expand(sql=["x"])


def test_a_mapped_operator_in_a_mapped_group_is_refused() -> None:
    @task_group
    def tg(x: Any) -> None:
        Query.partial(task_id="q").expand(sql=["x"])

    with Dag("d"), pytest.raises(DagError, match="q is in the mapped group 'tg'"):
        tg.expand(x=[1])


def test_an_operator_that_is_not_mapped_yet_at_an_edge_is_refused() -> None:
    with Dag("d"), pytest.raises(DagError, match="at an edge is not a task"):
        rows() >> Query.partial(task_id="q")


def test_a_name_that_the_operator_does_not_have_fails_the_instance_that_gets_it() -> None:
    with Dag("d"):
        made = Query.partial(task_id="q").expand_kwargs(rows())
    with pytest.raises(DagError, match="Query cannot be mapped over 'retries'; only over limit, rows, sql"):
        executed(made, mapped={"sql": "x", "retries": 3})


def test_a_mapped_operator_is_a_mapped_task() -> None:
    with Dag("d", default_args={"retry_delay": 2}) as d, TaskGroup("g"):
        made = Query.partial(task_id="q", limit=3, retries=2).expand(sql=["a", "b"], rows=rows())
    assert d.get_task("g.q") is made
    assert made.is_mapped
    assert made.expansion is not None
    assert made.expansion.input.names == ("sql", "rows")
    assert (made.options.retries, made.options.retry_delay_s) == (2, 2.0)
    assert edges(d) == {"g.rows>g.q"}


def test_each_instance_of_a_mapped_operator_is_made_of_its_arguments() -> None:
    with Dag("d"):
        made = Query.partial(task_id="q", limit=3, rows=rows()).expand(sql=["a", "b"])
    found = executed(made, {("rows", "return_value"): [7]}, mapped={"sql": "b"})
    assert found == ("b", [7], 3, "r1")


def test_partial_arguments_of_a_mapped_operator_may_be_values_in_any_field() -> None:
    with Dag("d") as d:
        made = Query.partial(task_id="q", limit=rows()).expand(sql=["a"])
    assert edges(d) == {"rows>q"}
    assert executed(made, {("rows", "return_value"): 7}, mapped={"sql": "a"}) == ("a", None, 7, "r1")


def test_an_operator_in_a_mapped_group_takes_its_arguments_in_template_fields() -> None:
    @task_group
    def tg(x: Any) -> None:
        Query(task_id="q", rows=[x])

    with Dag("d") as d:
        tg.expand(x=[1])
    (_, fields), _ = d.get_task("tg.q").call_arguments
    assert fields["rows"] == [MappedPlaceholder("x")]


def test_a_mapped_operator_is_a_setup_or_a_teardown() -> None:
    with Dag("d") as d:
        s = Query.partial(task_id="s").expand(sql=["a", "b"])
        t = Query.partial(task_id="t").expand(sql=["a", "b"]).as_teardown(setups=s)
        with t:
            EmptyOperator(task_id="w")
    assert edges(d) == {"s>t", "s>w", "w>t"}


def test_a_mapped_operator_outside_the_groups_block_may_name_its_group() -> None:
    with Dag("d") as d:
        with TaskGroup("g") as g:
            EmptyOperator(task_id="a")
        Query.partial(task_id="q", task_group=g).expand(sql=["x"])
    assert d.task_ids == ["g.a", "g.q"]


def test_the_trigger_rule_of_a_task_can_be_set_afterwards() -> None:
    with Dag("d"):
        one = EmptyOperator(task_id="one")
        one.trigger_rule = "all_done"
        assert one.options.trigger_rule is TriggerRule.ALL_DONE
        with pytest.raises(DagError, match="no trigger rule 'al_done'"):
            one.trigger_rule = "al_done"
