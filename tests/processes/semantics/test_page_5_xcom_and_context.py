"""The page's section "XCom and context", bullet by bullet; then what xcom_pull gives of mapped tasks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from liteflow import Dag, TaskGroup, XComArg, get_current_context, task
from liteflow.authoring.context import CONTEXT_KEYS, PREVIOUS_KEYS
from tests.processes.semantics.conftest import Run
from tests.processes.semantics.page import each, give, node, outcome

pytestmark = pytest.mark.filterwarnings("ignore::liteflow.errors.DagWarning")


# multiple_outputs


@task
def dict_by_annotation() -> dict[str, Any]:
    return {"a": 1, "b": [2]}


@task
def mapping_by_annotation() -> Mapping[str, int]:
    return {"a": 1}


@task(multiple_outputs=True)
def dict_by_option(value: Any):  # type: ignore[no-untyped-def]  # it is the option that counts here
    return value


@task
def dict_without_a_word(value: Any):  # type: ignore[no-untyped-def]  # and here nothing does
    return value


def keys_of(ended: Any, task_id: str) -> dict[str, Any]:
    return {one.key: ended.xcom(task_id, one.key) for one in ended.xcoms(task_id)}


def test_each_key_of_multiple_outputs_is_pushed_beside_the_whole(run: Run) -> None:
    with Dag("outputs") as dag:
        give(dict_by_annotation()["a"])
        mapping_by_annotation()
        dict_by_option({"a": 1})
        dict_without_a_word({"a": 1})
        dict_by_annotation.override(task_id="switched_off", multiple_outputs=False)()
    ended = run(dag)
    whole = {"a": 1, "b": [2]}
    assert keys_of(ended, "dict_by_annotation") == {**whole, "return_value": whole}
    assert keys_of(ended, "mapping_by_annotation") == {"a": 1, "return_value": {"a": 1}}
    assert keys_of(ended, "dict_by_option") == {"a": 1, "return_value": {"a": 1}}
    assert keys_of(ended, "dict_without_a_word") == {"return_value": {"a": 1}}
    assert keys_of(ended, "switched_off") == {"return_value": whole}
    assert ended.xcom("give") == 1


@pytest.mark.parametrize("value", [5, [1], {1: 2}], ids=repr)
def test_multiple_outputs_of_what_is_no_dict_of_names_fails(run: Run, value: Any) -> None:
    with Dag("no_outputs") as dag:
        dict_by_option(value)
        dict_by_option(None)  # nothing is pushed, and nothing is wrong
    assert outcome(run(dag)) == ("failed", "dict_by_option=F dict_by_option__1=S")


# xcom_pull


@task
def pull(ti: Any, calls: dict[str, dict[str, Any]]) -> dict[str, Any]:
    ti.xcom_push("mine", 1)
    ti.xcom_push("mine", 2)
    ti.xcom_push("nothing", None)
    return {name: ti.xcom_pull(**call) for name, call in calls.items()}


def pulled(run: Run, upstream: Any, calls: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What one task pulls, after `upstream()` made the others."""
    with Dag("pull") as dag:
        upstream() >> pull.override(trigger_rule="all_done")(calls=calls)
    found: dict[str, Any] = run(dag).xcom("pull")
    return found


def test_pull_without_task_ids_is_the_tasks_own(run: Run) -> None:
    calls: dict[str, dict[str, Any]] = {
        "own": {"key": "mine"},
        "none": {"task_ids": None, "key": "mine"},
        "nothing": {"key": "nothing"},
        "own_result": {},
    }
    found = pulled(run, lambda: [give.override(task_id="other")(7)], calls)
    assert found == {"own": 2, "none": 2, "nothing": None, "own_result": None}


def test_pull_of_a_list_of_ids_is_a_list_with_none_for_what_is_missing(run: Run) -> None:
    def upstream() -> list[XComArg]:
        return [give.override(task_id="a")(1), give.override(task_id="b")([2, 3]), give.override(task_id="empty")()]

    calls: dict[str, dict[str, Any]] = {
        "one": {"task_ids": "a"},
        "a_list": {"task_ids": "b"},
        "list": {"task_ids": ["a", "nope", "b", "empty"]},
        "tuple": {"task_ids": ("a",)},
        "no_ids": {"task_ids": []},
        "unknown": {"task_ids": "nope"},
        "unknown_key": {"task_ids": "a", "key": "nope"},
        "other_run": {"task_ids": "a", "run_id": "nope"},
        "other_dag": {"task_ids": "a", "dag_id": "nope"},
    }
    assert pulled(run, upstream, calls) == {
        "one": 1,
        "a_list": [2, 3],
        "list": [1, None, [2, 3], None],
        "tuple": [1],
        "no_ids": [],
        "unknown": None,
        "unknown_key": None,
        "other_run": None,
        "other_dag": None,
    }


MAPPED: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "three": (
        [10, 20, 30],
        {"m": [10, 20, 30], "[m]": [10, 20, 30], "0": 10, "[2,0]": [30, 10], "[0,7]": [10, None], "[]": [], "7": None},
    ),
    "one": ([10], {"m": 10, "[m]": [10], "0": 10, "[2,0]": [None, 10]}),
    "zero": ([], {"m": None, "[m]": [None], "0": None, "[2,0]": [None, None]}),
    "a hole": ([None, 20, 30], {"m": [20, 30], "[m]": [20, 30], "0": None, "[2,0]": [30, None]}),
    "one skipped": (["K", 20, 30], {"m": [20, 30], "[m]": [20, 30], "0": None, "[2,0]": [30, None]}),
    "one failed": (["F", 20], {"m": 20, "[m]": [20], "0": None, "[2,0]": [None, None]}),
    "one None": ([None], {"m": None, "[m]": [None], "0": None}),
}


@pytest.mark.parametrize("case", MAPPED)
def test_pull_of_a_mapped_task(run: Run, case: str) -> None:
    """The page has nothing of it; so it is in a running Airflow."""
    ends, expected = MAPPED[case]
    every: dict[str, dict[str, Any]] = {
        "m": {"task_ids": "m"},
        "[m]": {"task_ids": ["m"]},
        "0": {"task_ids": "m", "map_indexes": 0},
        "[2,0]": {"task_ids": "m", "map_indexes": [2, 0]},
        "[0,7]": {"task_ids": "m", "map_indexes": [0, 7]},
        "[]": {"task_ids": "m", "map_indexes": []},
        "7": {"task_ids": "m", "map_indexes": 7},
    }
    calls = {name: every[name] for name in expected}
    assert pulled(run, lambda: each.override(task_id="m").expand(x=ends), calls) == expected


def test_pull_of_mapped_and_plain_tasks_together_is_one_flat_list(run: Run) -> None:
    def upstream() -> list[XComArg]:
        return [each.override(task_id="m").expand(x=[10, 20]), give.override(task_id="u")("U")]

    calls: dict[str, dict[str, Any]] = {
        "m_u": {"task_ids": ["m", "u"]},
        "u_m_nope": {"task_ids": ["u", "m", "nope"]},
        "index": {"task_ids": ["m", "u"], "map_indexes": 0},
    }
    assert pulled(run, upstream, calls) == {
        "m_u": [10, 20, "U"],
        "u_m_nope": ["U", 10, 20, None],
        "index": [10, None],
    }


@task(retries=1)
def push_once(ti: Any) -> Any:
    if ti.try_number == 1:
        ti.xcom_push("first", 1)
        raise ValueError("told to")
    return [ti.xcom_pull(key="first"), ti.xcom_pull(task_ids="push_once", key="first")]


def test_a_new_try_begins_without_what_the_last_one_pushed(run: Run) -> None:
    with Dag("fresh") as dag:
        push_once()
    ended = run(dag)
    assert ended.xcom("push_once") == [None, None]
    assert ended.xcom("push_once", "first") is None


# The context


@task
def take_all(**context: Any) -> list[str]:
    return sorted(context)


@task
def take_some(x: int, ds: str, ts: str, params: Any, run_id: str, dag_run: Any, **rest: Any) -> dict[str, Any]:
    return {
        "x": x,
        "ds": ds,
        "ts": ts,
        "params": params,
        "run_id": run_id,
        "dag_run": (dag_run.dag_id, dag_run.run_id, dag_run.conf),
        "rest": sorted({"ds", "ts", "x", "ti", "logical_date"} & set(rest)),
        "same": get_current_context()["ds"] == ds,
    }


def test_every_key_of_the_context_may_be_a_parameter(run: Run) -> None:
    with Dag("every_key", params={"p": 1}) as dag:
        for name in sorted(CONTEXT_KEYS - {"macros"}):
            task(named(name), task_id=f"take_{name}")()
        take_all()
    ended = run(dag)
    assert {str(one.state) for one in ended.task_instances()} == {"success"}, ended.task_instances()
    # The dates of the run before come where the code names them: they have to be looked up.
    assert set(ended.xcom("take_all")) >= CONTEXT_KEYS - {*PREVIOUS_KEYS}


def named(name: str) -> Any:
    """A function whose only parameter has that name."""
    space: dict[str, Any] = {}
    exec(f"def take({name}): return type({name}).__name__", space)
    return space["take"]


@task
def take_macros(macros: Any) -> str:
    day: str = macros.ds_add("2026-01-01", 1)
    return day


def test_keyword_arguments_receive_the_rest(run: Run) -> None:
    date = datetime(2026, 2, 3, 4, 5, tzinfo=UTC)
    with Dag("rest", params={"p": 1}) as dag:
        take_some(7)
        take_macros()
    ended = run(dag, {"p": 2}, logical_date=date)
    assert ended.xcom("take_some") == {
        "x": 7,
        "ds": "2026-02-03",
        "ts": "2026-02-03T04:05:00+00:00",
        "params": {"p": 2},
        "run_id": ended.run_id,
        "dag_run": ("rest", ended.run_id, {"p": 2}),
        "rest": ["logical_date", "ti"],
        "same": True,
    }
    assert ended.xcom("take_macros") == "2026-01-02"


def test_an_argument_that_is_given_wins_over_the_context(run: Run) -> None:
    with Dag("given") as dag:
        task(named_ds)(ds="mine")
    assert run(dag).xcom("named_ds") == "mine"


def named_ds(ds: str) -> str:
    return ds


def test_a_value_of_a_task_in_a_group_is_pulled_by_its_full_id(run: Run) -> None:
    def upstream() -> list[XComArg]:
        with TaskGroup("g"):
            return [give.override(task_id="a")(1), node("b")]

    calls: dict[str, dict[str, Any]] = {"full": {"task_ids": "g.a"}, "short": {"task_ids": "a"}}
    assert pulled(run, upstream, calls) == {"full": 1, "short": None}
