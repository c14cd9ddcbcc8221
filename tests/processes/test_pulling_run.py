"""`xcom_push` and `xcom_pull` from inside a running task: what they give, and what may go on around them."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, ExecutorService, SkipTask, get_current_context, task
from tests.conftest import lines_of, states_of, wait_until

pytestmark = [
    pytest.mark.usefixtures("nothing_left_behind"),
    pytest.mark.filterwarnings("ignore::liteflow.DagWarning"),  # reading what failed ones left is the point here
]


@task
def give(value: Any) -> Any:
    return value


@task
def one() -> int:
    return 1


def pull(*args: Any, **kwargs: Any) -> Any:
    return get_current_context()["ti"].xcom_pull(*args, **kwargs)


@task
def pull_all(calls: list[tuple[Any, dict[str, Any]]]) -> list[Any]:
    """The answer to each call."""
    return [pull(task_ids, **more) for task_ids, more in calls]


# Airflow's answers, as they were read off it: what is pulled, of what, and what comes.

TEN, PAIR = [10, 20, 30], [10]
SOURCES: dict[str, list[Any]] = {"m": TEN, "s": PAIR, "n": [None, 20, 30], "k": ["skip", 20, 30], "f": ["fail", 20]}

ANSWERS: list[tuple[Any, dict[str, Any], Any]] = [
    # one mapped task
    ("m", {}, [10, 20, 30]),
    ("s", {}, 10),
    ("z", {}, None),
    ("n", {}, [20, 30]),
    ("k", {}, [20, 30]),
    ("f", {}, 20),
    # a list of one
    (["m"], {}, [10, 20, 30]),
    (["s"], {}, [10]),
    (["z"], {}, [None]),
    (["n"], {}, [20, 30]),
    (["k"], {}, [20, 30]),
    (["f"], {}, [20]),
    # map indexes
    ("m", {"map_indexes": 0}, 10),
    ("s", {"map_indexes": 0}, 10),
    ("z", {"map_indexes": 0}, None),
    ("n", {"map_indexes": 0}, None),
    ("k", {"map_indexes": 0}, None),
    ("m", {"map_indexes": [2, 0]}, [30, 10]),
    ("s", {"map_indexes": [2, 0]}, [None, 10]),
    ("z", {"map_indexes": [2, 0]}, [None, None]),
    ("n", {"map_indexes": [2, 0]}, [30, None]),
    ("f", {"map_indexes": [2, 0]}, [None, None]),
    ("m", {"map_indexes": [0, 7]}, [10, None]),
    ("m", {"map_indexes": []}, []),
    ("m", {"map_indexes": 7}, None),
    ("m", {"map_indexes": -1}, None),
    # lists are flattened
    (["m", "u"], {}, [10, 20, 30, "U"]),
    (["u", "m", "nothing"], {}, ["U", 10, 20, 30, None]),
    (("u",), {}, ["U"]),
    ([], {}, []),
    (["u", "nothing"], {}, ["U", None]),
    (["m", "u"], {"map_indexes": 0}, [10, None]),
    # not mapped
    ("u", {}, "U"),
    ("u", {"map_indexes": -1}, "U"),
    ("lst", {}, [1, 2]),
    (["lst"], {}, [[1, 2]]),
    ("nothing", {}, None),
    ("no_such_task", {}, None),
    ("u", {"key": "no such key"}, None),
    ("u", {"dag_id": "other"}, None),
    ("u", {"run_id": "other"}, None),
    # with a default
    ("m", {"map_indexes": 7, "default": "D"}, "D"),
    ("m", {"map_indexes": -1, "default": "D"}, "D"),
    # pushed
    ("pushes", {"key": "k"}, 2),
    ("pushes", {"key": "none"}, None),
    ("pushes", {}, 7),
    ("keys", {"key": "a"}, 1),
    ("keys", {}, {"a": 1, "b": 2}),
]


@task
def item(x: Any) -> Any:
    if x == "skip":
        raise SkipTask("told to")
    if x == "fail":
        raise ValueError("told to")
    return x


@task
def push_several() -> None:
    ti = get_current_context()["ti"]
    ti.xcom_push("k", 1)
    ti.xcom_push("k", 2)
    ti.xcom_push("none", None)
    ti.xcom_push("return_value", 7)


@task(multiple_outputs=True)
def give_keys() -> dict[str, int]:
    return {"a": 1, "b": 2}


def test_what_is_pulled_is_what_airflow_gives(db: str) -> None:
    with Dag("answers", db_path=db) as dag:
        sources = [item.override(task_id=name).expand(x=values) for name, values in SOURCES.items()]
        sources.append(item.override(task_id="z").expand(x=give.override(task_id="zero")([])))
        sources += [give.override(task_id=name)(value) for name, value in [("u", "U"), ("lst", [1, 2])]]
        sources += [push_several.override(task_id="pushes")(), give_keys.override(task_id="keys")()]
        sources.append(give.override(task_id="nothing")(None))
        asked = pull_all.override(trigger_rule="all_done")([(task_ids, more) for task_ids, more, _ in ANSWERS])
        sources >> asked
    run = dag.run(progress=False, max_workers=2)
    found = run.xcom("pull_all")
    wrong = [
        f"{task_ids!r}, {more}: {got!r} instead of {wanted!r}"
        for (task_ids, more, wanted), got in zip(ANSWERS, found, strict=True)
        if got != wanted
    ]
    assert wrong == []


@task
def pull_own() -> list[Any]:
    ti = get_current_context()["ti"]
    before = ti.xcom_pull(key="k")
    ti.xcom_push("k", {1, 2})
    return [
        before,
        ti.xcom_pull(key="k"),
        ti.xcom_pull(task_ids=None, key="k"),
        ti.xcom_pull(),
        ti.xcom_pull("pull_own"),
    ]


def test_without_ids_a_task_pulls_its_own(db: str) -> None:
    with Dag("own", db_path=db) as dag:
        pull_own()
    assert dag.run(progress=False, max_workers=1).xcom("pull_own") == [None, {1, 2}, {1, 2}, None, None]


@task(retries=1)
def push_and_fail() -> Any:
    ti = get_current_context()["ti"]
    found = [ti.xcom_pull(key="k"), ti.xcom_pull("push_and_fail", key="k")]
    ti.xcom_push("k", "left")
    if ti.try_number == 1:
        raise ValueError("on purpose")
    return found


def test_a_retry_finds_nothing_of_the_try_before(db: str) -> None:
    with Dag("retry", db_path=db) as dag:
        push_and_fail()
    run = dag.run(progress=False, max_workers=1)
    assert (run.xcom("push_and_fail"), run.xcom("push_and_fail", "k")) == ([None, None], "left")


@task
def push_and_end(how: str) -> None:
    get_current_context()["ti"].xcom_push("k", how)
    if how == "crash":
        os._exit(1)
    raise (SkipTask if how == "skip" else ValueError)("on purpose")


def test_what_a_task_pushed_before_it_failed_is_there(db: str) -> None:
    with Dag("failed", db_path=db) as dag:
        ends = [push_and_end.override(task_id=how)(how) for how in ("fail", "skip", "crash")]
        ends >> pull_all.override(trigger_rule="all_done")([(["fail", "skip", "crash"], {"key": "k"})])
    run = dag.run(progress=False, max_workers=2)
    assert run.xcom("pull_all") == [["fail", "skip", None]], "with its process goes what it had not handed on"


@task
def push_badly(key: Any, value: Any) -> None:
    get_current_context()["ti"].xcom_push(key, threading.Lock() if value == "lock" else value)


def test_what_cannot_be_pushed_fails_the_task_and_says_why(db: str) -> None:
    bad = [(5, 1, "is no text"), ("", 1, "cannot be stored"), ("x" * 251, 1, "cannot be stored"), ("k", "lock", "lock")]
    with Dag("badly", db_path=db) as dag:
        for key, value, _ in bad:
            push_badly(key, value)
    instances = dag.run(progress=False, max_workers=1).task_instances()
    assert {str(instance.state) for instance in instances} == {"failed"}
    assert all(error in str(instance.error) for (_, _, error), instance in zip(bad, instances, strict=True))


# Other runs and dags


def test_values_of_other_runs_and_dags(db: str) -> None:
    with Dag("source", db_path=db, params={"value": 1}) as source:
        give(source.param("value"))
    with Dag("reader", db_path=db) as reader:
        pull_all(
            [
                ("give", {"dag_id": "source", "run_id": "first"}),
                (["give"], {"dag_id": "source", "run_id": "second"}),
                ("give", {"dag_id": "source", "run_id": "third", "default": "D"}),
                ("give", {"dag_id": "source", "include_prior_dates": True}),
            ]
        )
    source.run({"value": 1}, run_id="first", progress=False, max_workers=1)
    source.run({"value": 2}, run_id="second", progress=False, max_workers=1)
    assert reader.run(progress=False, max_workers=1).xcom("pull_all") == [1, [2], "D", 2]


# Threads, processes, and the end of the task


@task
def pull_from_threads() -> list[Any]:
    ti = get_current_context()["ti"]
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda number: ti.xcom_pull(f"give__{number % 8 + 1}"), range(200)))


def test_threads_of_a_task_may_pull_at_the_same_time(db: str) -> None:
    with Dag("threads", db_path=db) as dag:
        [give(number) for number in range(9)] >> pull_from_threads()
    found = dag.run(progress=False, max_workers=2).xcom("pull_from_threads")
    assert found == [number % 8 + 1 for number in range(200)]


@task
def pull_in_child() -> str:
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            os.write(writer, repr(pull("give")).encode())
        except RuntimeError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    with os.fdopen(reader) as file:
        return f"{file.read()} | parent: {pull('give')}"


def test_a_forked_child_is_told_that_it_cannot_pull(db: str) -> None:
    with Dag("forked", db_path=db) as dag:
        give(5) >> pull_in_child()
    found = dag.run(progress=False, max_workers=1).xcom("pull_in_child")
    assert found == "xcom_pull() works in the task's own process, not in one that it has started | parent: 5"


@task(timeout=1, kill_grace_s=0.2)
def pull_for_ever(path: str) -> None:
    while True:
        try:
            pull("big")
            Path(path).touch()
        except BaseException:
            print("not me")


def test_a_task_that_pulls_without_end_can_be_killed(db: str, tmp_path: Path) -> None:
    with Dag("killed", db_path=db) as dag:
        give.override(task_id="big")("x" * 2**20) >> pull_for_ever(str(tmp_path / "pulled")) >> one()
        give.override(task_id="beside")(1) >> one.override(task_id="end")()
    run = dag.run(progress=False, max_workers=2)
    assert (tmp_path / "pulled").exists()
    assert run.task_instance("pull_for_ever").end_reason == "timeout"
    assert (states_of(run)["one"], states_of(run)["end"]) == ("upstream_failed", "success")


@task
def leave_thread_that_pulls() -> None:
    """Its threads go on to ask after it has returned, some of them with a question on its way."""
    ti = get_current_context()["ti"]

    def ask() -> None:
        while True:
            try:
                ti.xcom_pull("give")
            except RuntimeError as error:
                print(error, flush=True)
                return

    for _ in range(4):
        threading.Thread(target=ask, daemon=True).start()


def test_a_thread_that_asks_after_its_task_is_over_holds_up_nobody(db: str) -> None:
    """With one slot: the next task needs the connection on which the thread waits for its answer."""
    with Dag("late", db_path=db) as dag:
        last: Any = give(5)
        for _ in range(30):
            last = last >> leave_thread_that_pulls()
        last >> one()
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        try:
            run = handle.wait(timeout=30)
        except TimeoutError:
            handle.cancel()
            raise
    assert run.state == "success"


@task
def return_while_threads_pull() -> bytes:
    ti = get_current_context()["ti"]

    def ask() -> None:
        while True:
            try:
                ti.xcom_pull(["give"] * 5000)
            except RuntimeError:
                return

    for _ in range(4):
        threading.Thread(target=ask, daemon=True).start()
    return bytes(4 * 2**20)


def test_questions_and_results_are_sent_one_after_the_other(db: str) -> None:
    """Both are larger than what the connection takes at once."""
    with Dag("mixed", db_path=db) as dag:
        last: Any = give(5)
        for _ in range(8):
            last = last >> return_while_threads_pull()
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        try:
            run = handle.wait(timeout=30)
        except TimeoutError:
            handle.cancel()
            raise
    assert set(states_of(run).values()) == {"success"}, [one.error for one in run.task_instances()]


# Much of it


@task
def length_of_big() -> list[int]:
    return [len(pull("big")) for _ in range(3)]


def test_a_value_of_20_mb_can_be_pulled(db: str) -> None:
    with Dag("big", db_path=db) as dag:
        give.override(task_id="big")(b"x" * 20_000_000) >> [length_of_big(), length_of_big()]
    run = dag.run(progress=False, max_workers=2)
    assert run.xcom("length_of_big") == run.xcom("length_of_big__1") == [20_000_000] * 3


@task
def pull_often(go: str) -> int:
    """Begins when the others run, and lets them end when it is done."""
    found: int = sum(pull("give") for _ in range(500))
    Path(go).touch()
    return found


@task
def wait_for(go: str) -> int:
    pause = threading.Event()
    while not os.path.exists(go):
        pause.wait(0.005)
    return 1


def test_five_hundred_pulls_while_other_tasks_run(db: str, tmp_path: Path) -> None:
    with Dag("often", db_path=db) as dag:
        give(2) >> pull_often(str(tmp_path / "go"))
        for _ in range(50):
            one()
        wait_for(str(tmp_path / "go"))
    run = dag.run(progress=False, max_workers=2)
    assert (run.state, run.xcom("pull_often")) == ("success", 1000)


def test_with_an_executor_of_somebody_else_the_error_says_what_to_do(db: str) -> None:
    with Dag("foreign", db_path=db) as dag:
        give(5) >> [pull_all([("give", {})]), pull_own()]
    with ProcessPoolExecutor(1) as executor:
        run = dag.run(progress=False, executor=executor)
    assert "pass its value as an argument" in str(run.task_instance("pull_all").error)
    assert states_of(run)["pull_own"] == "failed", "it asks for its own by name"
    assert lines_of(run, "give") == []


def test_a_pull_outside_a_task_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="context"):
        pull("give")


def test_a_task_that_is_cancelled_while_it_pulls_ends(db: str, tmp_path: Path) -> None:
    with Dag("cancel", db_path=db) as dag:
        give.override(task_id="big")(1) >> pull_for_ever.override(timeout=None)(str(tmp_path / "pulled"))
    with ExecutorService(db, max_workers=1) as service:
        handle = service.submit(dag)
        wait_until((tmp_path / "pulled").exists, "it pulls")
        handle.cancel()
        assert handle.wait(timeout=30).end_reason == "cancelled"
