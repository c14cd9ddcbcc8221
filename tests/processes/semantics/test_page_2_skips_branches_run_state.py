"""The page's section "Skips, branches, run state", bullet by bullet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from liteflow import Dag, SkipTask, TaskGroup, setup, task, teardown
from liteflow.errors import DagError
from tests.conftest import run_python, wait_until
from tests.processes.semantics.conftest import Run, Submit
from tests.processes.semantics.page import give, letters, node, outcome, wait_for

if TYPE_CHECKING:
    from liteflow import DagRun  # slots import this file, and need no SQLAlchemy for it

pytestmark = pytest.mark.filterwarnings("ignore::liteflow.errors.DagWarning")


@task.branch
def choose(chosen: Any) -> Any:
    return chosen


@task.short_circuit
def go_on(value: Any) -> Any:
    return value


@task.short_circuit(ignore_downstream_trigger_rules=False)
def go_on_by_rules(value: Any) -> Any:
    return value


# Skips spread only through each task's own rule


def test_a_chain_of_all_success_skips(run: Run) -> None:
    with Dag("chain") as dag:
        node("a", "K") >> node("b") >> node("c") >> node("d")
    assert outcome(run(dag)) == ("success", "a=K b=K c=K d=K")


def test_another_rule_stops_a_chain_of_skips(run: Run) -> None:
    with Dag("stopped_chain") as dag:
        node("a", "K") >> node("b") >> node("c", rule="all_done") >> node("d")
    assert outcome(run(dag)) == ("success", "a=K b=K c=S d=S")


# Three things skip directly


def test_a_skip_exception_skips_its_own_task(run: Run) -> None:
    with Dag("skip_exception") as dag:
        skip_with_words() >> node("below", rule="none_failed")
    ended = run(dag)
    assert outcome(ended) == ("success", "below=S skip_with_words=K")
    assert ended.task_instance("skip_with_words").error == "nothing new"


@task
def skip_with_words() -> None:
    raise SkipTask("nothing new")


def test_a_branch_skips_what_is_directly_downstream_and_not_chosen(run: Run) -> None:
    """What comes after that goes by its own rule."""
    with Dag("branch") as dag:
        b = node("b")
        choose("a") >> [node("a"), b, node("c", rule="all_done")]
        b >> [node("b_below"), node("b_rescue", rule="all_done")]
    assert outcome(run(dag)) == ("success", "a=S b=K b_below=K b_rescue=S c=K choose=S")


def test_a_branch_keeps_what_is_also_downstream_of_the_chosen(run: Run) -> None:
    """However far, and whatever else it is downstream of."""
    with Dag("branch_join") as dag:
        a, b, between = node("a"), node("b"), node("between")
        join = node("join", rule="none_failed_min_one_success")
        choose("a") >> [a, b, join]
        a >> between >> join
        b >> join
    assert outcome(run(dag)) == ("success", "a=S b=K between=S choose=S join=S")


def test_a_branch_may_choose_several(run: Run) -> None:
    with Dag("branch_list") as dag:
        choose(("a", "c")) >> [node("a"), node("b"), node("c")]
    assert outcome(run(dag)) == ("success", "a=S b=K c=S choose=S")


@pytest.mark.parametrize("value", [False, None, 0, "", [], {}], ids=repr)
def test_a_short_circuit_skips_all_downstream_on_a_falsy_value(run: Run, value: Any) -> None:
    """Whatever their rules, at once."""
    with Dag("short_circuit") as dag:
        go_on(value) >> node("a") >> node("b", rule="all_done") >> node("c", rule="none_failed")
        [dag.get_task("a").output, node("x")] >> node("y", rule="all_done")
        dag.get_task("x") >> node("z")
    assert outcome(run(dag)) == ("success", "a=K b=K c=K go_on=S x=S y=K z=S")


def test_a_short_circuit_does_nothing_on_a_true_value(run: Run) -> None:
    with Dag("closed_circuit") as dag:
        give(go_on("value")) >> node("b")
    ended = run(dag)
    assert outcome(ended) == ("success", "b=S give=S go_on=S")
    assert ended.xcom("give") == "value"


def test_a_short_circuit_leaves_teardowns_out(run: Run) -> None:
    with Dag("short_circuit_teardown") as dag:
        start = node("s").as_setup()
        start >> go_on(False) >> node("w") >> node("w2", rule="all_done") >> node("t").as_teardown(setups=start)
    assert outcome(run(dag)) == ("success", "go_on=S s=S t=S w=K w2=K")


def test_a_teardown_whose_setup_a_short_circuit_skips_is_skipped_by_its_own_rule(run: Run) -> None:
    with Dag("short_circuit_setup") as dag:
        start = node("s").as_setup()
        go_on(False) >> start >> node("w") >> node("t").as_teardown(setups=start)
    assert outcome(run(dag)) == ("success", "go_on=S s=K t=K w=K")


def test_a_short_circuit_that_heeds_rules_skips_only_what_is_directly_downstream(run: Run) -> None:
    with Dag("short_circuit_rules") as dag:
        stop = go_on_by_rules(False)
        stop >> node("a") >> node("b", rule="all_done") >> node("c")
        dag.get_task("a") >> node("d")
        stop >> node("e", rule="all_done")
    assert outcome(run(dag)) == ("success", "a=K b=S c=S d=K e=K go_on_by_rules=S")


# The decision is kept with the run


def test_the_decision_is_kept_with_the_run(run: Run) -> None:
    with Dag("decisions") as dag:
        choose("a") >> [node("a"), node("b")]
        choose(None) >> node("c")
        go_on(0) >> node("d") >> node("e")
        go_on(1) >> node("f")
    ended = run(dag)
    kept = {name: ended.xcom(name, "skipmixin_key") for name in ("choose", "choose__1", "go_on", "go_on__1")}
    assert kept == {
        "choose": {"followed": ["a"]},
        "choose__1": {"followed": []},
        "go_on": {"skipped": ["d", "e"]},
        "go_on__1": None,
    }


# What a branch may return


@pytest.mark.parametrize("nothing", [None, [], ()], ids=repr)
def test_a_branch_that_chooses_nothing_skips_all_that_is_directly_downstream(run: Run, nothing: Any) -> None:
    with Dag("branch_nothing") as dag:
        choose(nothing) >> [node("a"), node("b", rule="all_done")]
    assert outcome(run(dag)) == ("success", "a=K b=K choose=S")


def test_a_branch_that_names_a_group_follows_its_roots(run: Run) -> None:
    with Dag("branch_group") as dag:
        with TaskGroup("g") as group:
            [node("r1"), node("r2")] >> node("last")
        choose("g") >> [group, node("a")]
    assert outcome(run(dag)) == ("success", "a=K choose=S g.last=S g.r1=S g.r2=S")


def test_a_branch_that_names_one_root_of_a_group_skips_the_others(run: Run) -> None:
    with Dag("branch_root") as dag:
        with TaskGroup("g") as group:
            node("r1"), node("r2")
        choose("g.r1") >> [group, node("a")]
    assert outcome(run(dag)) == ("success", "a=K choose=S g.r1=S g.r2=K")


def test_a_branch_that_names_what_is_not_directly_downstream_skips_all_that_is(run: Run) -> None:
    """And the named task goes by its own rule: one further down, and one that has nothing to do with it."""
    with Dag("branch_far") as dag:
        choose("far") >> [node("a"), node("b")] >> node("far", rule="none_failed")
        choose("far2") >> node("c") >> node("far2")
        choose("alone") >> node("d")
        node("alone")
    ended = outcome(run(dag))
    assert ended == ("success", "a=K alone=S b=K c=K choose=S choose__1=S choose__2=S d=K far=S far2=K")


def test_a_branch_that_names_an_unknown_id_fails(run: Run) -> None:
    with Dag("branch_unknown") as dag:
        choose("aa") >> [node("a"), node("b", rule="all_done")]
        choose(["a", "nope"]) >> node("c")
        choose(5) >> node("d")
        choose.override(task_id="again", retries=1)("nope") >> node("e")
    ended = run(dag)
    assert outcome(ended) == ("failed", "a=U again=F b=S c=U choose=F choose__1=F choose__2=F d=U e=U")
    assert ended.task_instance("again").try_number == 2
    assert "'aa'" in ended.task_instance("choose").error
    assert "'a'" in ended.task_instance("choose").error, "the nearest one"


# Run state


def test_the_run_is_a_success_if_no_leaf_failed(run: Run) -> None:
    with Dag("leaves") as dag:
        node("a") >> node("b", "F") >> node("end", rule="all_done")
    assert outcome(run(dag)) == ("success", "a=S b=F end=S")


@pytest.mark.parametrize("leaf", ["F", "U"])
def test_one_leaf_that_failed_or_could_not_run_makes_the_run_failed(run: Run, leaf: str) -> None:
    with Dag("bad_leaf") as dag:
        node("a") >> [node("b", "F"), node("c")]
        if leaf == "U":
            dag.get_task("b") >> node("d")
    assert outcome(run(dag)) == ("failed", "a=S b=F c=S" + (" d=U" if leaf == "U" else ""))


def test_a_run_in_which_all_was_skipped_is_a_success(run: Run) -> None:
    with Dag("all_skipped") as dag:
        node("a", "K") >> node("b")
    assert outcome(run(dag)) == ("success", "a=K b=K")


HIDDEN = """
import warnings
from liteflow import Dag, task
warnings.simplefilter("ignore")
@task
def a(): raise ValueError("x")
@task(trigger_rule="all_done")
def end(): pass
with Dag("hidden", db_path="hidden.db") as dag:
    a() >> end()
if __name__ == "__main__":
    dag.run(progress=True)
"""


def test_a_success_with_a_failed_task_is_shown_as_such(tmp_path: Path) -> None:
    (tmp_path / "hidden.py").write_text(HIDDEN)
    done = run_python("hidden.py", cwd=tmp_path)
    assert "success" in done.stderr
    assert "1 task failed" in done.stderr


@pytest.mark.parametrize("end", ["S", "F"])
def test_the_leaf_before_a_teardown_is_the_runs(run: Run, end: str) -> None:
    """A teardown is no leaf: neither does its success hide a failure, nor its failure fail the run."""
    with Dag("effective_leaf") as dag:
        start = node("s").as_setup()
        start >> node("w", end) >> node("t", "F" if end == "S" else "S").as_teardown(setups=start)
    state, _ = outcome(run(dag))
    assert state == {"S": "success", "F": "failed"}[end]


@pytest.mark.parametrize(("end", "state"), [("S", "success"), ("F", "failed")])
def test_a_dag_of_nothing_but_teardowns_ends_as_they_do(run: Run, end: str, state: str) -> None:
    with Dag("only_teardowns") as dag:
        node("t", end).as_teardown()
    assert outcome(run(dag)) == (state, f"t={end}")


# Setup and teardown: s >> w >> w2 >> t >> after


def with_teardown(*, s: str = "S", w: str = "S", t: str = "S", after: bool = True, **options: Any) -> Dag:
    """The dag of the page."""
    with Dag("setup_teardown") as dag:
        start = node("s", s)
        end = node("t", t)
        start >> node("w", w) >> node("w2") >> end.as_teardown(setups=start, **options)
        if after:
            end >> node("z_after")
    return dag


def test_all_well(run: Run) -> None:
    assert outcome(run(with_teardown())) == ("success", "s=S t=S w=S w2=S z_after=S")


def test_after_failed_work_the_teardown_runs_and_what_follows_it(run: Run) -> None:
    """And the run failed: the work before a teardown is a leaf, whatever follows the teardown."""
    assert outcome(run(with_teardown(w="F"))) == ("failed", "s=S t=S w=F w2=U z_after=S")
    assert outcome(run(with_teardown(w="F", after=False))) == ("failed", "s=S t=S w=F w2=U")


def test_after_a_failed_setup_nothing_runs(run: Run) -> None:
    assert outcome(run(with_teardown(s="F"))) == ("failed", "s=F t=U w=U w2=U z_after=U")


def test_after_a_skipped_setup_all_is_skipped(run: Run) -> None:
    assert outcome(run(with_teardown(s="K"))) == ("success", "s=K t=K w=K w2=K z_after=K")


def test_a_failed_teardown_at_the_end_does_not_fail_the_run(run: Run) -> None:
    assert outcome(run(with_teardown(t="F", after=False))) == ("success", "s=S t=F w=S w2=S")


def test_a_failed_teardown_that_shall_fail_the_run_does(run: Run) -> None:
    dag = with_teardown(t="F", after=False, on_failure_fail_dagrun=True)
    assert outcome(run(dag)) == ("failed", "s=S t=F w=S w2=S")


def test_what_is_after_a_failed_teardown_goes_by_its_rule(run: Run) -> None:
    assert outcome(run(with_teardown(t="F"))) == ("failed", "s=S t=F w=S w2=S z_after=U")


@setup
def open_it() -> str:
    return "open"


@teardown
def close_it(what: str) -> str:
    return f"closed {what}"


@teardown(on_failure_fail_dagrun=True)
def break_it() -> None:
    raise ValueError("told to")


def test_setups_and_teardowns_by_decorator(run: Run) -> None:
    with Dag("decorated") as dag:
        opened = open_it()
        with close_it(opened):
            node("a", "F") >> node("b")
    ended = run(dag)
    assert outcome(ended) == ("failed", "a=F b=U close_it=S open_it=S")
    assert ended.xcom("close_it") == "closed open"
    with Dag("decorated_failing") as dag:
        open_it() >> node("a") >> break_it()
    assert outcome(run(dag)) == ("failed", "a=S break_it=F open_it=S")


def test_a_task_directly_after_a_setup_must_have_all_success() -> None:
    with pytest.raises(DagError, match="'w' comes directly after the setup 's' .* must have all_success"), Dag("bad"):
        node("s").as_setup() >> node("w", rule="all_done")


# Setup and teardown where the run or the work is ended early


def held(name: str, gate: Path, **options: Any) -> Dag:
    """Work that goes on between a setup and a teardown, and another pair whose setup never ran."""
    with Dag(name, **options) as dag:
        start, later = node("s").as_setup(), node("s2").as_setup()
        hold = wait_for.override(task_id="hold")(str(gate))
        start >> hold >> node("after") >> node("t").as_teardown(setups=start)
        hold >> later >> node("w2") >> node("t2").as_teardown(setups=later)
    return dag


def reasons(run: DagRun) -> dict[str, str]:
    """Why task instances ended as they did, of those that have a reason."""
    return {one.task_id: str(one.end_reason) for one in run.task_instances() if one.end_reason is not None}


EARLY = "after=K hold=F s=S s2=K t=S t2=K w2=K"


def test_cancel_runs_the_teardown_whose_setup_succeeded(submit: Submit, tmp_path: Path) -> None:
    handle = submit(held("cancelled", tmp_path / "never"))
    wait_until(lambda: letters(handle.run)["hold"] == "running", "the work")
    handle.cancel()
    ended = handle.wait(timeout=30)
    assert (*outcome(ended), ended.end_reason) == ("failed", EARLY, "cancelled")
    assert reasons(ended) == dict.fromkeys(["after", "hold", "s2", "t2", "w2"], "cancelled")


def test_dagrun_timeout_fails_the_run_skips_the_unfinished_and_runs_the_teardown(run: Run, tmp_path: Path) -> None:
    ended = run(held("timed_out", tmp_path / "never", dagrun_timeout=0.5))
    assert (*outcome(ended), ended.end_reason) == ("failed", EARLY, "timeout")
    assert reasons(ended) == dict.fromkeys(["after", "hold", "s2", "t2", "w2"], "timeout")


def test_a_timeout_of_the_work_runs_the_teardown(run: Run, tmp_path: Path) -> None:
    dag = held("work_timed_out", tmp_path / "never", default_args={"timeout": 0.5})
    ended = run(dag)
    assert (*outcome(ended), ended.end_reason) == ("failed", "after=U hold=F s=S s2=U t=S t2=U w2=U", None)
    assert reasons(ended) == {"hold": "timeout"}


def test_cancel_while_the_setup_runs_skips_the_teardown_if_the_setup_did_not_succeed(
    submit: Submit, tmp_path: Path
) -> None:
    with Dag("cancelled_setup") as dag:
        start = wait_for.override(task_id="s")(str(tmp_path / "never")).as_setup()
        start >> node("w") >> node("t").as_teardown(setups=start)
    handle = submit(dag)
    # Not only claimed: a try that has not begun when it is cancelled is skipped.
    wait_until(lambda: any(one.started_at for one in handle.run.task_instances()), "the setup")
    handle.cancel()
    assert outcome(handle.wait(timeout=30)) == ("failed", "s=F t=K w=K")


# fail_fast


def test_fail_fast_ends_what_runs_and_skips_what_is_unfinished(submit: Submit, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    with Dag("fail_fast", fail_fast=True, max_active_tasks=2) as dag:
        wait_for.override(task_id="running")(str(tmp_path / "never")) >> node("below")
        wait_for.override(task_id="bad")(str(gate), "F") >> node("under_bad")
        done = node("done")
        done >> [dag.get_task("running"), dag.get_task("bad")]
        for number in range(3):
            done >> node(f"later{number}", priority_weight=-1, weight_rule="absolute")
    handle = submit(dag)
    wait_until(lambda: list(letters(handle.run).values()).count("running") == 2, "both slots")
    assert letters(handle.run)["done"] == "S"
    gate.touch()
    ended = handle.wait(timeout=30)
    assert (*outcome(ended), ended.end_reason) == (
        "failed",
        "bad=F below=K done=S later0=K later1=K later2=K running=F under_bad=K",
        "fail_fast",
    )
    assert reasons(ended)["bad"] == "error"
    assert reasons(ended)["running"] == "fail_fast"


def test_fail_fast_waits_until_retries_are_used_up(run: Run) -> None:
    with Dag("fail_fast_retries", fail_fast=True) as dag:
        node("bad", "F", retries=2) >> node("below")
    ended = run(dag)
    assert outcome(ended) == ("failed", "bad=F below=K")
    assert ended.task_instance("bad").try_number == 3


def test_fail_fast_runs_teardowns_whose_setup_succeeded(run: Run) -> None:
    with Dag("fail_fast_teardown", fail_fast=True) as dag:
        start = node("s").as_setup()
        start >> node("w", "F") >> node("w2") >> node("t").as_teardown(setups=start)
    assert outcome(run(dag)) == ("failed", "s=S t=S w=F w2=K")


@pytest.mark.parametrize("rule", ["all_done", "one_success", "none_failed", "always"])
def test_fail_fast_allows_only_all_success(rule: str) -> None:
    with pytest.raises(DagError, match=f"'b' has trigger rule {rule}"), Dag("bad", fail_fast=True):
        node("a") >> node("b", rule=rule)


# dagrun_timeout


def test_dagrun_timeout_ends_the_run_as_failed_and_skips_what_is_unfinished(run: Run, tmp_path: Path) -> None:
    with Dag("dagrun_timeout", dagrun_timeout=0.4) as dag:
        node("done") >> wait_for.override(task_id="hold")(str(tmp_path / "never")) >> node("below", rule="all_done")
        node("waits", "F", retries=1, retry_delay=60) >> node("under")
    ended = run(dag)
    assert (*outcome(ended), ended.end_reason) == ("failed", "below=K done=S hold=F under=K waits=K", "timeout")
