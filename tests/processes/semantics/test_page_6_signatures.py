"""The page's section "Signatures": what liteflow has of it, name by name in the page's order, and what it refuses."""

from __future__ import annotations

import inspect
import threading
import warnings
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from liteflow import (
    DAG,
    Dag,
    FailTask,
    Label,
    Param,
    PokeReturnValue,
    SkipTask,
    TaskGroup,
    XComArg,
    chain,
    chain_linear,
    cross_downstream,
    dag,
    get_current_context,
    setup,
    task,
    task_group,
    teardown,
)
from liteflow.errors import DagCycleError, DuplicateTaskIdError, InvalidOptionError, ParamError
from liteflow.operators import BaseOperator
from tests.conftest import wait_until
from tests.engines import ENGINE
from tests.processes.semantics.conftest import Run, Submit
from tests.processes.semantics.page import come_to, each, give, letters, node, outcome

pytestmark = pytest.mark.filterwarnings("ignore::liteflow.errors.DagWarning")


def edges(dag: Dag) -> set[str]:
    return {f"{up}>{task.task_id}" for task in dag.tasks for up in task.upstream_task_ids}


# DAG

INERT_OF_DAGS: dict[str, Any] = {
    "start_date": None,
    "end_date": None,
    "max_consecutive_failed_dag_runs": 0,
    "deadline": None,
    "sla_miss_callback": None,
    "catchup": False,
    "doc_md": "text",
    "access_control": None,
    "is_paused_upon_creation": None,
    "owner_links": {},
    "auto_register": True,
    "allowed_run_types": None,
    "dag_display_name": "A dag",
    "disable_bundle_versioning": True,
    "rerun_with_latest_version": None,
}


def test_options_of_a_dag_that_make_no_sense_here_are_inert(run: Run) -> None:
    with DAG("inert", description="words", tags={"a"}, params=None, **INERT_OF_DAGS) as made:
        node("a")
    assert outcome(run(made)) == ("success", "a=S")


def test_a_schedule_is_inert(run: Run) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says so once in a process, and this may be the first one
        made = Dag("scheduled", schedule="@daily")
    with made:
        node("a")
    assert outcome(run(made)) == ("success", "a=S")


def test_an_option_that_would_change_what_a_run_does_is_refused_and_not_ignored() -> None:
    with pytest.raises(InvalidOptionError, match="'max_active_tis_per_dag' of a task is not supported by this version"):
        task(max_active_tis_per_dag=2)(give.function)
    with pytest.raises(InvalidOptionError, match="no option 'retires' .*'retries'"):
        task(retires=1)(give.function)


def test_times_are_seconds_or_timedelta(run: Run, tmp_path: Path) -> None:
    with Dag("times", dagrun_timeout=timedelta(milliseconds=400)) as made:
        come_to.override(task_id="a", retries=1, retry_delay=timedelta(seconds=0), execution_timeout=20.5)("F")
        forever(1)
    assert made.get_task("a").options.timeout_s == 20.5
    ended = run(made)
    assert (outcome(ended), ended.end_reason) == (("failed", "a=F forever=F"), "timeout")


@task(kill_grace_s=0.5)
def forever(x: Any) -> None:
    threading.Event().wait(60)


def test_what_a_dag_knows_of_its_tasks() -> None:
    with Dag("known", params={"p": 1}) as made:
        a, b, c = node("a"), node("b"), node("c")
        a >> b
        made.set_dependency(b.operator, c.operator)
    assert (made.task_ids, list(made.task_dict)) == (["a", "b", "c"], ["a", "b", "c"])
    assert [one.task_id for one in made.tasks] == ["a", "b", "c"]
    assert (made.has_task("a"), made.has_task("x")) == (True, False)
    assert made.get_task("b").downstream_task_ids == ["c"]
    assert [one.task_id for one in made.roots + made.leaves] == ["a", "c"]
    assert [one.task_id for one in made.topological_sort()] == ["a", "b", "c"]
    made.validate()


def test_a_cycle_and_a_taken_id_are_refused() -> None:
    with pytest.raises(DagCycleError, match="a -> b -> a"), Dag("cycle"):
        a, b = node("a"), node("b")
        a >> b >> a
    with pytest.raises(DuplicateTaskIdError, match="'a' is taken"), Dag("taken"):
        node("a")
        give.override(task_id="a")()


def test_parameters_of_a_dag_function_become_params(run: Run) -> None:
    @dag(tags=["a"])
    def built(x: int, y: str = "why") -> None:
        give.override(task_id="x")(x)
        give.override(task_id="y")(y)

    ended = run(built(1), {"y": "z"})
    assert (ended.dag_id, ended.params, ended.xcom("x"), ended.xcom("y")) == ("built", {"x": 1, "y": "z"}, 1, "z")


# BaseOperator

INERT_OF_TASKS: dict[str, Any] = {
    "owner": "me",
    "email": "me@here",
    "email_on_retry": True,
    "email_on_failure": True,
    "start_date": None,
    "end_date": None,
    "queue": "default",
    "sla": None,
    "resources": None,
    "run_as_user": None,
    "inlets": [],
    "outlets": [],
    "doc": "text",
    "doc_md": "text",
    "doc_json": "{}",
    "doc_yaml": "",
    "doc_rst": "",
    "task_display_name": "A task",
    "logger_name": "a",
    "allow_nested_operators": True,
    "ignore_first_depends_on_past": False,
    "priority_weight": 1,
    "weight_rule": "downstream",
    "pool_slots": 1,
}


class Add(BaseOperator):
    """A plain operator."""

    template_fields: ClassVar[list[str]] = ["x"]

    def __init__(self, *, x: Any, y: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.x = x
        self.y = y

    def execute(self, context: Any) -> Any:
        if self.x is None:
            raise SkipTask("nothing to add")
        return int(self.x) + self.y


class Held(BaseOperator):
    """One that writes a file when it is told to end."""

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def execute(self, context: Any) -> Any:
        Path(f"{self.path}.begun").touch()
        threading.Event().wait(60)

    def on_kill(self) -> None:
        Path(self.path).touch()


def test_options_of_tasks_that_make_no_sense_here_are_inert(run: Run) -> None:
    with Dag("inert_tasks") as made:
        Add(task_id="a", x=1, **INERT_OF_TASKS)
        give.override(task_id="b", show_return_value_in_logs=False, **INERT_OF_TASKS)(1)
    assert outcome(run(made)) == ("success", "a=S b=S")


def test_operators(run: Run) -> None:
    """Fields that take values and templates, output, partial and expand, edges."""
    with Dag("operators", params={"p": 5}) as made:
        first = Add(task_id="a", x="{{ params.p }}")
        second = Add(task_id="b", x=first.output, y=10)
        Add.partial(task_id="m", y=100).expand(x=[1, None, 3])
        Add.partial(task_id="n").expand_kwargs([{"x": 1}, {"x": 1, "y": 2}])
        third = Add(task_id="c", x=0)
        third.set_upstream(second)
        third.set_downstream(node("d"), edge_modifier=Label("words"))
    ended = run(made)
    assert outcome(ended) == ("success", "a=S b=S c=S d=S m[0]=S m[1]=K m[2]=S n[0]=S n[1]=S")
    assert [ended.xcom(name) for name in "abmn"] == [6, 16, [101, 103], [2, 3]]
    assert edges(made) == {"a>b", "b>c", "c>d"}
    assert made.edge_labels == {("c", "d"): "words"}


def note(context: Any) -> None:
    ti = context["ti"]
    with open(context["params"]["path"], "a") as file:
        file.write(f"{ti.task_id} {ti.try_number} {ti.state} {type(context.get('exception')).__name__}\n")


CALLBACKS: dict[str, Any] = dict.fromkeys(
    [f"on_{what}_callback" for what in ("execute", "success", "failure", "retry", "skipped")], note
)


def test_callbacks(run: Run, tmp_path: Path) -> None:
    """One of them for each try that ends, and on_execute before it; none for what does not run."""
    with Dag("callbacks", params={"path": str(tmp_path / "notes")}) as made:
        node("f", "F", retries=1, **CALLBACKS) >> node("u", **CALLBACKS)
        node("k", "K", **CALLBACKS) >> node("l", **CALLBACKS)
        node("s", **CALLBACKS)
    run(made)
    notes = sorted((tmp_path / "notes").read_text().splitlines())
    assert notes == [
        "f 1 running NoneType",
        "f 1 up_for_retry ValueError",
        "f 2 failed ValueError",
        "f 2 running NoneType",
        "k 1 running NoneType",
        "k 1 skipped NoneType",
        "s 1 running NoneType",
        "s 1 success NoneType",
    ]


@pytest.mark.parametrize(("state", "end"), [("success", "S"), ("failed", "F")])
def test_callbacks_of_a_dag(run: Run, tmp_path: Path, state: str, end: str) -> None:
    path = tmp_path / "notes"
    options: dict[str, Any] = {"on_success_callback": note_run, "on_failure_callback": [note_run]}
    with Dag("dag_callbacks", params={"path": str(path)}, **options) as made:
        node("a", end)
    run(made)
    reason = {"success": "success", "failed": "task_failure"}[state]
    assert path.read_text() == f"dag_callbacks {state} {reason}\n"


def note_run(context: Any) -> None:
    with open(context["params"]["path"], "a") as file:
        file.write(f"{context['dag_run'].dag_id} {context['dag_run'].state} {context['reason']}\n")


def test_pools_and_weights(run: Run) -> None:
    """One at a time where the pool has one slot, and the heavier ones first."""
    with Dag("pools") as made:
        first = node("first")
        for weight in (2, 5, 1, 4, 3):
            first >> node(f"w{weight}", pool="narrow", priority_weight=weight, weight_rule="absolute")
    ended = run(made)
    spans = sorted((one.started_at, one.ended_at, one.task_id) for one in ended.task_instances() if one.pool)
    assert [name for _, _, name in spans] == ["w5", "w4", "w3", "w2", "w1"]
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@pytest.mark.parametrize(
    ("before", "below", "option", "expected"),
    [
        ("S", "F", "depends_on_past", "S"),
        ("K", "S", "depends_on_past", "S"),
        ("F", "S", "depends_on_past", "U"),
        ("S", "F", "wait_for_downstream", "U"),
        ("S", "S", "wait_for_downstream", "S"),
    ],
)
def test_a_task_may_depend_on_the_run_before(run: Run, before: str, below: str, option: str, expected: str) -> None:
    """Where Airflow waits without an end, it is upstream_failed here."""

    def build(*ends: str) -> Dag:
        with Dag(f"past_{before}_{below}_{option}") as made:
            waiting: dict[str, Any] = {option: True}
            node("a", ends[0], **waiting) >> node("b", ends[1])
        return made

    first, second = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    assert letters(run(build(before, below), logical_date=first))["a"] == before, "the first one has none before it"
    assert letters(run(build("S", "S"), logical_date=second))["a"] == expected


@pytest.mark.skipif(ENGINE == "dask", reason="what runs on a cluster is fenced, not ended: nobody calls on_kill there")
def test_on_kill_is_called_when_the_task_is_ended(submit: Submit, tmp_path: Path) -> None:
    with Dag("on_kill") as made:
        Held(task_id="a", path=str(tmp_path / "killed"), kill_grace_s=20)
    handle = submit(made)
    wait_until((tmp_path / "killed.begun").exists, "the start")
    handle.cancel()
    assert handle.wait(timeout=30).end_reason == "cancelled"
    wait_until((tmp_path / "killed").exists, "what on_kill does")


def test_setup_and_teardown_of_operators(run: Run) -> None:
    with Dag("operator_teardown") as made:
        start = Add(task_id="s", x=1)
        with Add(task_id="t", x=1).as_teardown(setups=start):
            Add(task_id="w", x="no number")
    assert outcome(run(made)) == ("failed", "s=S t=S w=F")


# @task and its kinds


def test_what_a_task_function_can_do(run: Run) -> None:
    """A function outside a dag; inside it a value; override, partial, the plain function."""
    assert (give(3), give.function(4)) == (3, 4)
    with Dag("functions") as made:
        assert isinstance(give(1), XComArg)
        give.override(task_id="other", retries=3)(2)
        pair.partial(a=1).expand(b=[2, 3])
        pair.override(task_id="kwargs").expand_kwargs([{"a": 1, "b": 2}])
        give.override(task_id="no_push", do_xcom_push=False)(5)
        give.override(task_id="after_no_push")(made.get_task("no_push").output)
    assert made.get_task("other").options.retries == 3
    ended = run(made)
    assert [ended.xcom(name) for name in ("give", "other", "pair", "kwargs")] == [1, 2, [(1, 2), (1, 3)], [(1, 2)]]
    assert (ended.xcom("no_push"), ended.xcom("after_no_push")) == (None, None)


@task
def pair(a: int, b: int) -> tuple[int, int]:
    return a, b


@task.branch(task_id="fork")
def choose_by(kind: str) -> Any:
    names = ["a", "c"]
    return {"set": set(names), "dict": dict.fromkeys(names), "generator": (name for name in names)}[kind]


@pytest.mark.parametrize("kind", ["set", "dict", "generator"])
def test_a_branch_may_return_any_iterable_of_ids(run: Run, kind: str) -> None:
    with Dag("iterable") as made:
        choose_by(kind) >> [node("a"), node("b"), node("c")]
    assert outcome(run(made)) == ("success", "a=S b=K c=S fork=S")


@task.sensor(poke_interval=0.02, timeout=20)
def look_for(path: str) -> bool:
    return Path(path).exists()


@task.sensor(poke_interval=0.02, timeout=20, mode="reschedule")
def look_again(path: str, task_reschedule_count: int) -> PokeReturnValue:
    if task_reschedule_count > 1:
        Path(path).touch()
    return PokeReturnValue(Path(path).exists(), f"after {min(task_reschedule_count, 2)}")


@task.sensor(poke_interval=0.02, timeout=0.1, retries=3)
def look_in_vain() -> bool:
    return False


@task.sensor(poke_interval=0.02, timeout=0.2)
def look_and_fail() -> bool:
    raise ValueError("told to")


@task.sensor(poke_interval=0.02)
def look_and_give_up() -> bool:
    raise FailTask("told to")


def test_sensors(run: Run, tmp_path: Path) -> None:
    """Both modes, the value of PokeReturnValue, and what the options make of a timeout and of errors."""
    path = str(tmp_path / "there")
    with Dag("sensors") as made:
        give.override(task_id="after")(look_for(path))
        give.override(task_id="value")(look_again(path))
        look_in_vain()
        look_in_vain.override(task_id="soft", soft_fail=True)()
        look_in_vain.override(task_id="vain_again", mode="reschedule")()
        look_in_vain.override(task_id="never_in_vain", never_fail=True)()
        look_and_fail()
        look_and_fail.override(task_id="soft_error", soft_fail=True)()
        look_and_fail.override(task_id="never", never_fail=True)()
        look_and_fail.override(task_id="silent", silent_fail=True)()
        look_and_give_up()
        look_and_give_up.override(task_id="soft_give_up", soft_fail=True)()
    ended = run(made)
    assert letters(ended) == {
        "look_for": "S",
        "after": "S",
        "look_again": "S",
        "value": "S",
        "look_in_vain": "F",
        "soft": "K",
        "vain_again": "F",
        "never_in_vain": "F",
        "look_and_fail": "F",
        "soft_error": "F",
        "never": "K",
        "silent": "F",
        "look_and_give_up": "F",
        "soft_give_up": "K",
    }
    assert (ended.xcom("after"), ended.xcom("value")) == (None, "after 2")
    tries = {one.task_id: one.try_number for one in ended.task_instances()}
    assert (tries["look_in_vain"], tries["vain_again"], tries["look_again"]) == (1, 1, 1)
    assert str(ended.task_instance("look_in_vain").end_reason) == "timeout"


@task.bash(env={"WORD": "there"}, append_env=True)
def shout(line: str) -> str:
    return f'echo first; echo "{line} $WORD"'


@task.bash
def leave(code: int) -> str:
    return f"exit {code}"


def test_commands(run: Run, tmp_path: Path) -> None:
    with Dag("commands") as made:
        shout("hello")
        shout.override(task_id="processed", output_processor=str.upper)("hello")
        shout.override(task_id="here", cwd=str(tmp_path))("$(pwd)")
        leave.override(task_id="skipped")(99)
        leave.override(task_id="failed")(1)
        leave.override(task_id="skipped_3", skip_on_exit_code=[3, 4])(3)
        leave.override(task_id="failed_99", skip_on_exit_code=3)(99)
    ended = run(made)
    assert outcome(ended) == ("failed", "failed=F failed_99=F here=S processed=S shout=S skipped=K skipped_3=K")
    assert ended.xcom("shout") == "hello there"
    assert ended.xcom("processed") == "HELLO THERE"
    assert ended.xcom("here") == f"{tmp_path} there"


def is_odd(context: Any) -> Any:
    return context["ti"].map_index % 2 == 1, "it is even"


@task.run_if(lambda context: context["params"]["go"])
@task
def run_if_go() -> int:
    return 1


@task.skip_if(is_odd, skip_message="not shown")
@task
def skip_if_odd(x: Any) -> Any:
    return x


@task.run_if(is_odd)
@task
def run_if_odd(x: Any) -> Any:
    return x


@task.run_if(lambda context: context["nope"])
@task(retries=1)
def run_if_broken() -> None: ...


def test_run_if_and_skip_if(run: Run) -> None:
    with Dag("conditions", params={"go": False}) as made:
        run_if_go() >> node("below")
        skip_if_odd.expand(x=[1, 2])
        run_if_odd.expand(x=[1, 2])
        run_if_broken()
    ended = run(made)
    assert outcome(ended) == (
        "failed",
        "below=K run_if_broken=F run_if_go=K run_if_odd[0]=K run_if_odd[1]=S skip_if_odd[0]=S skip_if_odd[1]=K",
    )
    assert ended.task_instance("run_if_odd", 0).error == "it is even"
    assert ended.task_instance("run_if_broken").try_number == 2


# Setup and teardown scopes


@setup
def begin() -> None: ...


@teardown(on_failure_fail_dagrun=True)
def finish() -> None: ...


def test_the_ways_to_write_a_scope(run: Run) -> None:
    """All the same: setups before the first tasks of the block, teardowns after the last."""
    with Dag("scope_of_teardown") as one:
        start = begin()
        with finish().as_teardown(setups=start):
            node("a") >> node("b")
            node("c")
    with Dag("scope_of_setup") as two, begin() >> finish():
        node("a") >> node("b")
        node("c")
    with Dag("scope_of_setup_first") as three:
        start, end = begin(), finish()
        start >> end
        with start:
            node("a") >> node("b")
            node("c")
    with Dag("scope_taken_in") as four:
        outside = node("c")
        with finish().as_teardown(setups=begin()) as scope:
            node("a") >> node("b")
            scope.add_task(outside)
    for made in (one, two, three, four):
        assert edges(made) == {"begin>a", "a>b", "b>finish", "begin>c", "c>finish", "begin>finish"}, made.dag_id
    assert outcome(run(one)) == ("success", "a=S b=S begin=S c=S finish=S")


def test_setups_of_a_teardown_may_be_several() -> None:
    with Dag("several") as made:
        starts = [node("s1"), node("s2")]
        starts >> node("w") >> node("t").as_teardown(setups=starts)
    assert edges(made) == {"s1>w", "s2>w", "w>t", "s1>t", "s2>t"}
    assert made.get_task("s1").is_setup


# Groups


def test_groups(run: Run) -> None:
    with Dag("groups", default_args={"retries": 1}) as made:
        with TaskGroup("outer", default_args={"retries": 2}, tooltip="words") as outer:
            node("a")
            with TaskGroup("inner", prefix_group_id=False):
                node("b")

        @task_group(group_id="made", default_args={"retries": 3})
        def build(x: int) -> XComArg:
            value: XComArg = give(x)
            return value

        outer >> build(1)
        give.override(task_id="last")(build.override(group_id="again")(2))
    assert edges(made) == {"again.give>last"} | {f"{up}>made.give" for up in ("outer.a", "b")}
    assert {one.task_id: one.options.retries for one in made.tasks} == {
        "outer.a": 2,
        "b": 2,
        "made.give": 3,
        "again.give": 3,
        "last": 1,
    }
    ended = run(made)
    assert ended.xcom("last") == 2


def test_what_follows_a_group_with_a_teardown_follows_its_work(run: Run) -> None:
    with Dag("group_leaves") as made:
        with TaskGroup("g") as group:
            start = node("s").as_setup()
            start >> node("w", "F") >> node("t").as_teardown(setups=start)
        group >> node("after")
    assert outcome(run(made)) == ("failed", "after=U g.s=S g.t=S g.w=F")


# Edges


def test_chain_zips_lists_of_one_length() -> None:
    with Dag("chain") as made:
        a, b, c, d, e, f = (node(name) for name in "abcdef")
        chain(a, [b, c], [d, e], f)
    assert edges(made) == {"a>b", "a>c", "b>d", "c>e", "d>f", "e>f"}


def test_chain_linear_crosses_lists() -> None:
    with Dag("linear") as made:
        a, b, c, d, e, f = (node(name) for name in "abcdef")
        chain_linear(a, [b, c], [d, e], f)
    assert edges(made) == {"a>b", "a>c", "b>d", "b>e", "c>d", "c>e", "d>f", "e>f"}


def test_cross_downstream_crosses() -> None:
    with Dag("cross") as made:
        a, b, c, d = (node(name) for name in "abcd")
        cross_downstream([a, b], [c, d])
    assert edges(made) == {"a>c", "a>d", "b>c", "b>d"}


def test_a_label_stands_on_an_edge() -> None:
    with Dag("label") as made:
        node("a") >> Label("words") >> [node("b"), node("c")]
    assert made.edge_labels == {("a", "b"): "words", ("a", "c"): "words"}


# Params


def test_params_have_a_schema(run: Run) -> None:
    """A run with a value that does not fit, or without one that it needs, is never made."""
    params = {"n": Param(1, type="integer", minimum=1), "need": Param(type="string"), "free": 5}
    with Dag("params", params=params) as made:
        give.override(task_id="n")(made.param("n"))
    for given, message in {
        (("n", 0), ("need", "x")): "'n'",
        (("n", "7"), ("need", "x")): "'n'",
        (("n", 1),): "'need'",
    }.items():
        with pytest.raises(ParamError, match=message):
            run(made, dict(given))
    ended = run(made, {"need": "x", "n": 3, "free": "any"})
    assert ended.params == {"n": 3, "need": "x", "free": "any"}
    assert ended.xcom("n") == 3


def test_a_param_resolves() -> None:
    assert Param(1, type="integer").resolve() == 1
    assert Param(1, type="integer").resolve(2) == 2
    assert Param(type="integer").resolve(suppress_exception=True) is None
    with pytest.raises(ParamError):
        Param(type="integer").resolve()
    with pytest.raises(ParamError):
        Param(1, type="integer").resolve("x")


# XComArg


def test_a_value_that_is_not_there_yet_cannot_be_looped_over() -> None:
    with Dag("loop"):
        with pytest.raises(TypeError, match="cannot be looped over"):
            list(give())
        with pytest.raises(TypeError, match="cannot be looped over"):
            list(give().map(len))


def test_one_key_of_a_value(run: Run) -> None:
    with Dag("one_key") as made:
        row = give({"a": 1})
        each.override(task_id="a")(row["a"])
    assert run(made).xcom("a") == 1


# Context


def test_there_is_no_context_outside_a_task() -> None:
    with pytest.raises(RuntimeError, match="outside a running task"):
        get_current_context()


@task(retries=1)
def see_ti(ti: Any) -> list[Any]:
    if ti.try_number == 1:
        raise ValueError("told to")
    return [ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.try_number, ti.state]


def test_what_a_task_instance_knows_of_itself(run: Run) -> None:
    with Dag("ti") as made:
        see_ti()
    ended = run(made)
    assert ended.xcom("see_ti") == ["ti", ended.run_id, "see_ti", -1, 2, "running"]


SIGNATURES: dict[Any, str] = {
    Dag.add_task: "self, task",
    Dag.get_task: "self, task_id",
    Dag.has_task: "self, task_id",
    chain_linear: "*elements",
    cross_downstream: "from_tasks, to_tasks",
    Label: "label",
    PokeReturnValue: "is_done, xcom_value=None",
    Param.resolve: "self, value=NOTSET, suppress_exception=False",
    XComArg.map: "self, function",
    BaseOperator.as_teardown: "self, *, setups=None, on_failure_fail_dagrun=None",
    BaseOperator.set_upstream: "self, other, edge_modifier=None",
    BaseOperator.execute: "self, context",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_parameters_have_airflows_order_and_defaults(function: Any) -> None:
    parameters = [
        one.replace(annotation=inspect.Parameter.empty) for one in inspect.signature(function).parameters.values()
    ]
    assert str(inspect.Signature(parameters)).strip("()").replace("<NOTSET>", "NOTSET") == SIGNATURES[function]
