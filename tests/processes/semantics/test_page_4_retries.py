"""The page's section "Retries", bullet by bullet. Clearing is not there yet, and so not here."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from liteflow import (
    Dag,
    ExceptionRetryPolicy,
    FailTask,
    RetryAction,
    RetryDecision,
    RetryPolicy,
    RetryRule,
    XComArg,
    task,
)
from tests.conftest import lines_of, wait_until
from tests.engines import ENGINE
from tests.processes.semantics.conftest import Run, Submit
from tests.processes.semantics.page import node, outcome

pytestmark = pytest.mark.filterwarnings("ignore::liteflow.errors.DagWarning")


class HurryUntil(RetryPolicy):
    """No delay before the tries up to a number; then what the task's options say."""

    def __init__(self, try_number: int) -> None:
        self.try_number = try_number

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        return RetryDecision.retry(timedelta(0)) if try_number < self.try_number else RetryDecision.default()


def backing_off(task_id: str, *, after_try: int, **options: Any) -> XComArg:
    """A task that fails and then waits after that try."""
    return node(task_id, "F", retries=9, retry_policy=HurryUntil(after_try), **options)


def waits_of(handle: Any) -> dict[str, float]:
    """Seconds from the end of the latest try to the next one, of what waits for it."""
    return {
        one.task_id: (one.due_at - one.ended_at).total_seconds()
        for one in handle.run.task_instances()
        if one.state == "up_for_retry" and one.due_at - one.ended_at > timedelta(seconds=5)
    }


def backoffs(dag_id: str = "backoff") -> Dag:
    with Dag(dag_id, default_args={"retry_delay": 100}) as dag:
        backing_off("off", after_try=3, retry_exponential_backoff=0)
        backing_off("two_1", after_try=1, retry_exponential_backoff=2)
        backing_off("two_3", after_try=3, retry_exponential_backoff=2)
        backing_off("true_3", after_try=3, retry_exponential_backoff=True)
        backing_off("half_more_4", after_try=4, retry_exponential_backoff=1.5, retry_delay=timedelta(seconds=99.5))
        backing_off("capped", after_try=3, retry_exponential_backoff=2, max_retry_delay=150)
        backing_off("day", after_try=2, retry_exponential_backoff=10, retry_delay=80_000)
    return dag


def test_exponential_backoff(submit: Submit) -> None:
    """The base is ceil(delay * m ** (n - 1)), the wait in [base, 2 base), the same for one date, then capped."""
    date = datetime(2026, 1, 2, tzinfo=UTC)
    first, again = submit(backoffs(), logical_date=date), submit(backoffs(), logical_date=date)
    other = submit(backoffs(), logical_date=date + timedelta(days=1))
    handles = (first, again, other)
    wait_until(lambda: all(len(waits_of(handle)) == 7 for handle in handles), "tasks that wait for a retry")
    waits = waits_of(first)
    for handle in handles:
        for name, base in {"two_1": 100, "two_3": 400, "true_3": 400, "half_more_4": 336}.items():
            assert base <= waits_of(handle)[name] + 0.01 < 2 * base, name
        fixed = {name: pytest.approx(s, abs=0.5) for name, s in {"off": 100, "capped": 150, "day": 86_400}.items()}
        assert {name: waits_of(handle)[name] for name in fixed} == fixed
    assert waits_of(again) == pytest.approx(waits, abs=0.5), "the jitter is no chance"
    assert waits_of(other) != pytest.approx(waits, abs=0.5)
    assert waits["two_3"] != pytest.approx(waits["true_3"], abs=0.5), "each task has its own"


# A "fail now" exception never retries


class Asked(RetryPolicy):
    """One that says what it was asked, and retries."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        return RetryDecision.retry(
            timedelta(0), f"{type(exception).__name__} {try_number}/{max_tries} {os.getpid()} {context['ti'].task_id}"
        )


@task
def fail_now() -> None:
    raise FailTask("no use")


@task
def raise_it(name: str) -> None:
    error: type[Exception] = {"ConnectionError": ConnectionError, "KeyError": KeyError, "OSError": OSError}[name]
    raise error("told to")


def test_a_fail_now_exception_never_retries(run: Run) -> None:
    with Dag("fail_now") as dag:
        fail_now.override(retries=5, retry_policy=Asked())()
    ended = run(dag)
    assert outcome(ended) == ("failed", "fail_now=F")
    assert (ended.task_instance("fail_now").try_number, ended.tries()) == (1, [])


# Retry policies


def test_a_policy_is_evaluated_in_the_worker_and_cannot_exceed_retries(run: Run) -> None:
    with Dag("policy") as dag:
        node("twice", "F", retries=2, retry_delay=30, retry_policy=Asked())
        node("never", "F", retry_policy=Asked())
    ended = run(dag)
    assert {one.task_id: one.try_number for one in ended.task_instances()} == {"twice": 3, "never": 1}
    said = [line.split() for line in lines_of(ended, "twice") if "retry policy" in line]
    assert [words[4:5] for words in said] == [["1/2"], ["2/2"], ["3/2"]]
    assert {words[3] for words in said} == {"ValueError"}
    assert {words[6] for words in said} == {"twice"}
    if ENGINE != "threads":  # whose worker is this process
        assert str(os.getpid()) not in {words[5] for words in said}


RULES = [
    RetryRule(ConnectionError, RetryAction.RETRY, timedelta(0), "the line is bad"),
    RetryRule(KeyError, RetryAction.FAIL, reason="will not come"),
    RetryRule("builtins.OSError", RetryAction.DEFAULT, match_subclasses=False),
]


def test_a_policy_of_rules_by_exception_class(run: Run) -> None:
    """Retry with the rule's own delay in place of the task's, fail at once, or what the options say."""
    with Dag("policy_rules") as dag:
        for name, delay in {"ConnectionError": 30, "KeyError": 30, "OSError": 0}.items():
            options = {"retries": 2, "retry_delay": delay, "retry_policy": ExceptionRetryPolicy(RULES)}
            raise_it.override(task_id=name, **options)(name)
    ended = run(dag)
    assert {one.task_id: one.try_number for one in ended.task_instances()} == {
        "ConnectionError": 3,
        "KeyError": 1,
        "OSError": 3,
    }
    assert any("the line is bad" in line for line in lines_of(ended, "ConnectionError"))
    assert any("will not come" in line for line in lines_of(ended, "KeyError"))


def test_a_delay_of_a_policy_is_taken_as_it_is(submit: Submit) -> None:
    """Without backoff, jitter or cap."""
    policy = ExceptionRetryPolicy([RetryRule(ValueError, RetryAction.RETRY, timedelta(seconds=70))])
    with Dag("policy_delay") as dag:
        options: dict[str, Any] = {"retry_delay": 100, "retry_exponential_backoff": 2, "max_retry_delay": 10}
        node("a", "F", retries=1, retry_policy=policy, **options)
    handle = submit(dag)
    wait_until(lambda: waits_of(handle), "the retry")
    assert waits_of(handle) == {"a": pytest.approx(70, abs=0.5)}
