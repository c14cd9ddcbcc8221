"""The page's section "Mapping", bullet by bullet; then the options that only mapped tasks have."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, SkipTask, XComArg, task, task_group
from tests.processes.semantics.conftest import Run
from tests.processes.semantics.page import come_to, each, give, letters, node, outcome

pytestmark = pytest.mark.filterwarnings("ignore::liteflow.errors.DagWarning")

REDUCERS = ("all_success", "none_failed", "all_done", "one_success")


def mapped(name: str, ends: list[Any], *, from_task: bool = False) -> Dag:
    """A mapped task `m`, a reducer of each sort, and a task that is mapped over it."""
    with Dag(name) as dag:
        over = give.override(task_id="a")(ends) if from_task else ends
        values = each.override(task_id="m").expand(x=over)
        for rule in REDUCERS:
            give.override(task_id=f"r_{rule}", trigger_rule=rule)(values)
        each.override(task_id="x").expand(x=values)
    return dag


def reduced(ended: Any) -> dict[str, Any]:
    """Letter of each reducer, or the value that it got."""
    states = letters(ended)
    return {rule: ended.xcom(f"r_{rule}") if states[f"r_{rule}"] == "S" else states[f"r_{rule}"] for rule in REDUCERS}


def others(ended: Any) -> str:
    return " ".join(f"{name}={letter}" for name, letter in sorted(letters(ended).items()) if name[0] not in "ra")


@pytest.mark.parametrize("from_task", [False, True], ids=["written", "from_task"])
def test_zero_items(run: Run, from_task: bool) -> None:
    """The one instance is skipped; what may run after it gets an empty list; what is mapped over it is skipped."""
    ended = run(mapped("zero", [], from_task=from_task))
    assert ended.state == "success"
    assert others(ended) == "m=K x=K"
    assert ended.task_instance("m").map_index == -1
    assert reduced(ended) == {"all_success": "K", "none_failed": [], "all_done": [], "one_success": "K"}


@pytest.mark.parametrize("from_task", [False, True], ids=["written", "from_task"])
def test_one_item_skipped(run: Run, from_task: bool) -> None:
    ended = run(mapped("one_skipped", [1, "K", 3], from_task=from_task))
    assert ended.state == "success"
    assert others(ended) == "m[0]=S m[1]=K m[2]=S x=K"
    got = reduced(ended)
    assert (got["all_success"], got["none_failed"], got["all_done"]) == ("K", [1, 3], [1, 3])
    assert set(got["one_success"]) <= {1, 3}, "it does not wait for all"


@pytest.mark.parametrize("from_task", [False, True], ids=["written", "from_task"])
def test_one_item_failed(run: Run, from_task: bool) -> None:
    ended = run(mapped("one_failed", ["F", 2, 3], from_task=from_task))
    assert ended.state == "failed"
    assert others(ended) == "m[0]=F m[1]=S m[2]=S x=U"
    got = reduced(ended)
    assert (got["all_success"], got["none_failed"], got["all_done"]) == ("U", "U", [2, 3])
    assert got["one_success"], "at the first success"
    assert set(got["one_success"]) <= {2, 3}


@task
def pair(x: Any, y: Any) -> tuple[Any, Any]:
    return x, y


@task
def triple(x: Any, y: Any, z: Any = None) -> tuple[Any, ...]:
    return x, y, z


def test_the_last_keyword_runs_fastest(run: Run) -> None:
    with Dag("product") as dag:
        pair.override(task_id="a").expand(x=[1, 2], y=[10, 20, 30])
        pair.override(task_id="b").expand(y=[10, 20], x=give([1, 2]))
        triple.override(task_id="c").partial(z="z").expand(x=(1, 2), y=range(2))
    ended = run(dag)
    assert ended.xcom("a") == [(1, 10), (1, 20), (1, 30), (2, 10), (2, 20), (2, 30)]
    assert ended.xcom("b") == [(1, 10), (2, 10), (1, 20), (2, 20)]
    assert ended.xcom("c") == [(1, 0, "z"), (1, 1, "z"), (2, 0, "z"), (2, 1, "z")]


@pytest.mark.parametrize("from_task", [False, True], ids=["written", "from_task"])
def test_a_dict_is_mapped_over_by_its_pairs(run: Run, from_task: bool) -> None:
    table = {"a": 1, "b": 2}
    with Dag("dict") as dag:
        each.override(task_id="m").expand(x=give(table) if from_task else table)
    assert run(dag).xcom("m") == [("a", 1), ("b", 2)]


def skip_two(x: int) -> int:
    if x == 2:
        raise SkipTask("not this one")
    return x * 10


def test_a_map_function_that_skips_skips_its_index(run: Run) -> None:
    with Dag("map_skips") as dag:
        values = each.override(task_id="m").expand(x=give([1, 2, 3]).map(skip_two))
        give.override(task_id="r", trigger_rule="none_failed")(values)
    ended = run(dag)
    assert outcome(ended) == ("success", "give=S m[0]=S m[1]=K m[2]=S r=S")
    assert ended.xcom("r") == [10, 30]


def test_a_map_function_that_fails_fails_its_index(run: Run) -> None:
    with Dag("map_fails") as dag:
        each.override(task_id="m").expand(x=give([1, 0]).map(lambda x: 1 // x))
    assert outcome(run(dag)) == ("failed", "give=S m[0]=S m[1]=F")


def test_zip_and_concat(run: Run) -> None:
    with Dag("zip") as dag:
        a, b = give.override(task_id="a")([1, 2, 3]), give.override(task_id="b")(["x", "y"])
        lists: dict[str, Any] = {
            "zip": a.zip(b),
            "fill": a.zip(b, fillvalue="-"),
            "fill_none": b.zip(a, fillvalue=None),
            "concat": a.concat(b),
            "map_zip": a.map(same).zip(b),
            "zip_map": a.zip(b).map(len),
            "concat_map": b.concat(b).map(str.upper),
        }
        for name, one in lists.items():
            each.override(task_id=name).expand(x=one)
            give.override(task_id=f"{name}_whole")(one)
    ended = run(dag)
    expected = {
        "zip": [(1, "x"), (2, "y")],
        "fill": [(1, "x"), (2, "y"), (3, "-")],
        "fill_none": [("x", 1), ("y", 2), (None, 3)],
        "concat": [1, 2, 3, "x", "y"],
        "map_zip": [(1, "x"), (2, "y")],
        "zip_map": [2, 2],
        "concat_map": ["X", "Y", "X", "Y"],
    }
    assert {name: ended.xcom(name) for name in lists} == expected
    assert {name: ended.xcom(f"{name}_whole") for name in lists} == expected, "as a plain argument it is the list"


def same(x: int) -> int:
    return x


PER_INDEX = {"p": "SFK", "q": "SUK", "end": "SSS", "rescue": "KSK"}


def test_a_mapped_group_has_its_dependencies_per_index(run: Run) -> None:
    with Dag("mapped_group") as dag:

        @task_group
        def g(x: str) -> None:
            p = come_to.override(task_id="p")(x)
            q = node("q")
            p >> q >> node("end", rule="all_done")
            p >> node("rescue", rule="one_failed")

        g.expand(x=["S", "F", "K"]) >> node("after", rule="all_done")
    ended = letters(run(dag))
    per_index = {name: "".join(ended[f"g.{name}[{index}]"] for index in range(3)) for name in PER_INDEX}
    assert (per_index, ended["after"]) == (PER_INDEX, "S")


def test_what_follows_a_mapped_group_waits_for_all_its_indexes(run: Run) -> None:
    with Dag("after_group") as dag:

        @task_group
        def g(x: str) -> None:
            come_to.override(task_id="p")(x) >> node("q")

        g.expand(x=give(["S", "F"])) >> node("tail")
    assert outcome(run(dag)) == ("failed", "g.p[0]=S g.p[1]=F g.q[0]=S g.q[1]=U give=S tail=U")


def test_values_within_a_mapped_group_are_those_of_the_index(run: Run) -> None:
    with Dag("group_values") as dag:

        @task_group
        def g(x: int) -> XComArg:
            value: XComArg = pair.override(task_id="q")(give.override(task_id="p")(x), x)
            return value

        made = g.expand(x=[1, 2, 3])
        give.override(task_id="r")(dag.get_task("g.q").output)
        made >> node("end")
    ended = run(dag)
    assert ended.xcom("r") == [(1, 1), (2, 2), (3, 3)]


def test_a_mapped_group_of_zero_items_is_skipped(run: Run) -> None:
    with Dag("empty_group") as dag:

        @task_group
        def g(x: int) -> None:
            give.override(task_id="p")(x) >> node("q")

        made = g.expand(x=give([]))
        made >> node("tail")
        give.override(task_id="r", trigger_rule="none_failed")(dag.get_task("g.p").output)
    ended = run(dag)
    assert outcome(ended) == ("success", "g.p=K g.q=K give=S r=S tail=K")
    assert ended.xcom("r") == []


def test_a_branch_in_a_mapped_group_decides_per_index(run: Run) -> None:
    with Dag("group_branch") as dag:

        @task_group
        def g(x: str) -> None:
            choose(x) >> [node("a"), node("b")]

        g.expand(x=["g.a", "g.b"])
    assert outcome(run(dag)) == (
        "success",
        "g.a[0]=S g.a[1]=K g.b[0]=K g.b[1]=S g.choose[0]=S g.choose[1]=S",
    )


@task.branch
def choose(chosen: str) -> str:
    return chosen


def test_a_teardown_in_a_mapped_group_looks_at_the_setup_of_its_index(run: Run) -> None:
    with Dag("group_teardown") as dag:

        @task_group
        def g(x: str, w: str) -> None:
            start = come_to.override(task_id="s")(x)
            start >> come_to.override(task_id="w")(w) >> node("t").as_teardown(setups=start)

        g.expand_kwargs([{"x": "S", "w": "F"}, {"x": "F", "w": "S"}])
    assert outcome(run(dag)) == ("failed", "g.s[0]=S g.s[1]=F g.t[0]=S g.t[1]=U g.w[0]=F g.w[1]=U")


def test_ids_of_repeated_calls(run: Run) -> None:
    with Dag("ids") as dag:

        @task_group
        def tg() -> None:
            give(), give()

        give(), give(), give()
        tg(), tg()
    wanted = {"give", "give__1", "give__2", "tg.give", "tg.give__1", "tg__1.give", "tg__1.give__1"}
    assert set(letters(run(dag))) == wanted


# What is mapped over cannot be had


@pytest.mark.parametrize(
    ("source", "rule", "expected"),
    [("F", rule, "U") for rule in ("all_success", "all_done", "none_failed", "one_success", "all_failed")]
    + [("F", "all_skipped", "K")]
    + [("K", rule, "K") for rule in ("all_success", "all_done", "none_failed", "all_skipped")],
)
def test_a_source_that_gives_nothing_decides_before_the_rule(run: Run, source: str, rule: str, expected: str) -> None:
    with Dag("no_source") as dag:
        each.override(task_id="m", trigger_rule=rule).expand(x=node("a", source))
    assert outcome(run(dag))[1] == f"a={source} m={expected}"


@pytest.mark.parametrize("value", [None, 5, "text", {1, 2}, b"x"], ids=repr)
def test_a_source_that_cannot_be_mapped_over_fails_itself(run: Run, value: Any) -> None:
    with Dag("unmappable") as dag:
        each.override(task_id="m").expand(x=give(value))
    assert outcome(run(dag)) == ("failed", "give=F m=U")


def test_other_upstream_decides_for_each_instance_of_a_literal_mapping(run: Run) -> None:
    """And for the one that there is, where the length is not known yet."""
    with Dag("other_upstream") as dag:
        bad = node("bad", "F")
        bad >> each.override(task_id="m").expand(x=[1, 2])
        bad >> each.override(task_id="n").expand(x=give([1, 2]))
        bad >> each.override(task_id="o", trigger_rule="all_done").expand(x=[1, 2])
    assert outcome(run(dag)) == ("failed", "bad=F give=S m[0]=U m[1]=U n=U o[0]=S o[1]=S")


@task
def with_defaults(a: int, b: int = 0) -> tuple[int, int]:
    return a, b


def test_expand_kwargs(run: Run) -> None:
    """An item that does not fit fails its own instance."""
    with Dag("expand_kwargs") as dag:
        items = give([{"a": 1}, {"a": 2, "b": 3}, {"c": 1}, 5])
        with_defaults.override(task_id="m").expand_kwargs(items)
        with_defaults.override(task_id="n").partial(b=9).expand_kwargs(give([{"a": 1}, {"a": 1, "b": 2}]))
        with_defaults.override(task_id="o").partial(b=9).expand_kwargs([{"a": 1}, {"a": 1, "b": 2}], strict=False)
    ended = run(dag)
    assert outcome(ended) == (
        "failed",
        "give=S give__1=S m[0]=S m[1]=S m[2]=F m[3]=F n[0]=S n[1]=F o[0]=S o[1]=S",
    )
    assert ended.xcom("m") == [(1, 0), (2, 3)]
    assert ended.xcom("o") == [(1, 9), (1, 2)]


# What an instance knows of itself, and options of mapped tasks


@task(map_index_template="{{ ti.map_index }}: {{ x }}")
def see_index(x: str, ti: Any, expanded_ti_count: int) -> tuple[Any, ...]:
    return x, ti.map_index, expanded_ti_count


@task
def see_no_index(ti: Any, expanded_ti_count: int | None) -> tuple[Any, ...]:
    return ti.map_index, expanded_ti_count


def test_the_context_has_the_map_index(run: Run) -> None:
    with Dag("map_index") as dag:
        see_index.expand(x=["a", "b"])
        see_no_index()
    ended = run(dag)
    assert ended.xcom("see_index") == [("a", 0, 2), ("b", 1, 2)]
    assert ended.xcom("see_index", map_index=1) == ("b", 1, 2)
    assert ended.xcom("see_no_index") == (-1, None)


def test_map_index_template_names_the_instances(run: Run) -> None:
    with Dag("labels") as dag:
        see_index.expand(x=["a", "b"])
        come_to.override(task_id="bad", map_index_template="to {{ end }}").expand(end=["F", "K", "S"])
    ended = run(dag)
    labels = {(one.task_id, one.map_index): one.rendered_map_index for one in ended.task_instances()}
    assert labels == {
        ("see_index", 0): "0: a",
        ("see_index", 1): "1: b",
        ("bad", 0): "to F",
        ("bad", 1): "to K",
        ("bad", 2): "to S",
    }


@task(max_active_tis_per_dagrun=1)
def alone(x: int, path: str) -> int:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    os.unlink(path)
    return x


def test_max_active_tis_per_dagrun_limits_the_instances_that_run_at_once(run: Run, tmp_path: Path) -> None:
    with Dag("one_by_one") as dag:
        alone.partial(path=str(tmp_path / "lock")).expand(x=list(range(12)))
    ended = run(dag)
    assert ended.xcom("alone") == list(range(12))
    spans = sorted((one.started_at, one.ended_at) for one in ended.task_instances())
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
