"""Retry policies: which rule decides, what a bad one says, and what becomes of one that raises."""

from __future__ import annotations

import logging
import pickle
import sys
import types
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liteflow.authoring.context import Context
from liteflow.authoring.retry_policy import (
    ExceptionRetryPolicy,
    RetryAction,
    RetryDecision,
    RetryPolicy,
    RetryRule,
    decide,
)
from liteflow.errors import DagError, InvalidOptionError

RETRY, FAIL, DEFAULT = RetryAction.RETRY, RetryAction.FAIL, RetryAction.DEFAULT


class Outer:
    class InnerError(Exception):
        """An exception that is no name of a module."""


def refuses(said: str, **arguments: Any) -> InvalidOptionError:
    """The error of a rule with these arguments."""
    with pytest.raises(InvalidOptionError, match=said) as caught:
        RetryRule(**{"exception": ValueError, **arguments})
    return caught.value


# Decisions


def test_a_decision_is_default_unless_it_says_otherwise() -> None:
    assert RetryDecision() == RetryDecision.default() == RetryDecision(DEFAULT, None, None)


def test_decisions_are_made_by_name() -> None:
    assert RetryDecision.fail("no use") == RetryDecision(FAIL, None, "no use")
    assert RetryDecision.retry(timedelta(minutes=1), "busy") == RetryDecision(RETRY, timedelta(minutes=1), "busy")
    assert RetryDecision.retry() == RetryDecision(RETRY)


@given(st.floats(0, 1e9))
def test_a_delay_is_seconds_or_a_timedelta(seconds: float) -> None:
    delay = timedelta(seconds=seconds)
    assert RetryDecision.retry(seconds) == RetryDecision.retry(delay)
    assert RetryRule(ValueError, retry_delay=seconds) == RetryRule(ValueError, retry_delay=delay)
    assert RetryDecision.retry(seconds).retry_delay_s == delay.total_seconds()


def test_a_decision_without_a_delay_has_none_in_seconds_either() -> None:
    assert RetryDecision.retry().retry_delay_s is None
    assert RetryDecision.retry(0).retry_delay_s == 0.0


def test_an_action_may_be_given_as_its_word() -> None:
    assert RetryDecision("fail").action is FAIL  # type: ignore[arg-type]  # that is what is tried
    assert RetryRule(ValueError, "default").action is DEFAULT  # type: ignore[arg-type]  # that is what is tried


# What matches


@pytest.mark.parametrize(
    "exception", [OSError, "builtins.OSError", [KeyError, OSError], ["builtins.KeyError", OSError]]
)
def test_a_rule_matches_a_class_a_path_or_any_of_a_list(exception: Any) -> None:
    rule = RetryRule(exception)
    assert rule.matches(OSError())
    assert rule.matches(ConnectionError())
    assert not rule.matches(ValueError())


@pytest.mark.parametrize("exception", [OSError, "builtins.OSError", [OSError, KeyError]])
def test_a_rule_can_leave_subclasses_alone(exception: Any) -> None:
    rule = RetryRule(exception, match_subclasses=False)
    assert rule.matches(OSError())
    assert not rule.matches(ConnectionError())


def test_a_path_leads_to_a_class_inside_a_class() -> None:
    assert RetryRule(f"{__name__}.Outer.InnerError").matches(Outer.InnerError())


def test_a_path_is_imported_only_when_there_is_something_to_match(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_to_load.py").write_text("class LateError(OSError): ...")
    monkeypatch.syspath_prepend(tmp_path)
    rule = RetryRule("late_to_load.LateError")
    assert "late_to_load" not in sys.modules
    assert not rule.matches(OSError())
    monkeypatch.setitem(sys.modules, "late_to_load", sys.modules["late_to_load"])  # taken out again afterwards
    assert rule.matches(sys.modules["late_to_load"].LateError())


@pytest.mark.parametrize("path", ["no_such_module.Error", "no_such_module.inner.Error", "json.no_such_part.Error"])
def test_a_path_to_nothing_matches_nothing_and_says_so_once(path: str, caplog: pytest.LogCaptureFixture) -> None:
    rule = RetryRule([path, KeyError])
    with caplog.at_level(logging.WARNING, logger="liteflow"):
        assert not rule.matches(ValueError())
        assert rule.matches(KeyError())
    (record,) = caplog.records
    assert f"retry rule: {path} matches nothing" in record.message


def test_a_module_that_raises_when_it_is_imported_matches_nothing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    assert not RetryRule("broken_module.Error").matches(ValueError())
    assert "ZeroDivisionError: division by zero" in caplog.text


def test_a_path_to_something_else_than_an_exception_matches_nothing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "not_an_error.py").write_text("Thing = 3")
    monkeypatch.syspath_prepend(tmp_path)
    assert not RetryRule("not_an_error.Thing").matches(ValueError())
    assert "it is no exception class" in caplog.text


def test_the_paths_of_a_rule_can_be_read() -> None:
    assert (
        RetryRule([OSError, "http.client.HTTPException"]).exception_path == "builtins.OSError,http.client.HTTPException"
    )


# Policies


def test_the_first_rule_that_matches_decides() -> None:
    policy = ExceptionRetryPolicy(
        [
            RetryRule(ConnectionError, RETRY, 30, "the network"),
            RetryRule(OSError, FAIL, reason="the disk"),
            RetryRule(Exception, RETRY),
        ]
    )
    assert policy.evaluate(ConnectionResetError(), 1, 3) == RetryDecision.retry(30, "the network")
    assert policy.evaluate(FileNotFoundError(), 1, 3) == RetryDecision.fail("the disk")
    assert policy.evaluate(KeyError(), 1, 3).action is RETRY


def test_a_rule_without_a_reason_gives_itself_as_one() -> None:
    decision = ExceptionRetryPolicy([RetryRule(OSError)]).evaluate(TimeoutError(), 1, 3)
    assert decision.reason == "TimeoutError matches the rule for builtins.OSError"


@pytest.mark.parametrize("default", list(RetryAction))
def test_without_a_match_the_policy_does_its_default(default: RetryAction) -> None:
    policy = ExceptionRetryPolicy([RetryRule(OSError)], default=default)
    assert policy.evaluate(KeyError(), 1, 3) == RetryDecision(default)


def test_the_default_of_a_policy_is_the_task_s_own_options() -> None:
    assert ExceptionRetryPolicy([]).evaluate(KeyError(), 1, 3) == RetryDecision.default()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_policy_comes_through_pickle(protocol: int) -> None:
    policy = ExceptionRetryPolicy([RetryRule([OSError, "builtins.KeyError"], FAIL, 2.5, "x", False)], RETRY)
    again = pickle.loads(pickle.dumps(policy, protocol))
    assert again == policy
    assert hash(again) == hash(policy)
    assert again.evaluate(KeyError(), 1, 1) == RetryDecision(FAIL, 2.5, "x")


def test_rules_and_decisions_cannot_be_changed() -> None:
    for frozen in (RetryRule(OSError), RetryDecision(), ExceptionRetryPolicy([])):
        with pytest.raises(AttributeError):
            frozen.reason = "other"  # type: ignore[union-attr,misc]  # that is what is tried


# decide


class Careless(RetryPolicy):
    """Does what it is told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        decision: RetryDecision = self.answer(exception, try_number, max_tries, context)
        return decision


def test_without_a_policy_the_task_s_own_options_decide() -> None:
    assert decide(None, ValueError(), 1, 3) == RetryDecision.default()


def test_a_policy_gets_all_that_is_known_about_the_try() -> None:
    got: list[Any] = []

    def remember(*given: Any) -> RetryDecision:
        got.extend(given)
        return RetryDecision.fail("no")

    error, context = ValueError("x"), Context(ds="2026-01-01")
    assert decide(Careless(remember), error, 2, 3, context) == RetryDecision.fail("no")
    assert got == [error, 2, 3, context]


def test_a_policy_that_raises_counts_as_default_and_the_reason_says_so() -> None:
    decision = decide(Careless(lambda error, *_: error.status), ValueError(), 1, 3)
    assert decision.action is DEFAULT
    assert decision.retry_delay is None
    assert decision.reason is not None
    assert decision.reason.startswith("retry policy Careless raised AttributeError: ")
    assert "\n" not in decision.reason


def test_a_policy_that_raises_an_error_without_text_counts_as_default() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def mute(*_: Any) -> RetryDecision:
        raise MuteError

    assert "MuteError" in (decide(Careless(mute), ValueError(), 1, 3).reason or "")


def test_a_policy_that_makes_a_bad_decision_counts_as_default() -> None:
    decision = decide(Careless(lambda *_: RetryDecision.retry(-1)), ValueError(), 1, 3)
    assert decision.action is DEFAULT
    assert "retry_delay=-1 must be" in (decision.reason or "")


@pytest.mark.parametrize("answer", [None, True, FAIL, "fail"])
def test_a_policy_that_returns_no_decision_counts_as_default(answer: Any) -> None:
    decision = decide(Careless(lambda *_: answer), ValueError(), 1, 3)
    assert decision.action is DEFAULT
    assert f"returned {type(answer).__name__}, no RetryDecision" in (decision.reason or "")


def test_a_kill_during_a_policy_is_not_held_up() -> None:
    def killed(*_: Any) -> RetryDecision:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decide(Careless(killed), ValueError(), 1, 3)


# Bad arguments


@pytest.mark.parametrize(
    "exception", [int, ValueError(), 3, None, "no path", "a..b", ".a", "", {ValueError}, [[ValueError]]]
)
def test_what_is_no_exception_is_refused(exception: Any) -> None:
    error = refuses("must be an exception class, the dotted path to one, or a list of them", exception=exception)
    assert error.option == "exception"


def test_a_name_without_a_module_is_refused_with_one_that_has_it() -> None:
    refuses("must be a dotted path, as 'builtins.ConnectionError' is", exception="ConnectionError")


def test_a_list_of_no_exceptions_is_refused() -> None:
    refuses("names no exception", exception=[])


def test_a_path_that_a_loaded_module_does_not_have_is_refused() -> None:
    refuses("module builtins has no 'ConectionError'", exception=[KeyError, "builtins.ConectionError"])
    refuses("must be an exception class", exception="builtins.print")


def test_a_path_into_a_module_that_is_still_loading_is_left_to_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "half_loaded", types.ModuleType("half_loaded"))
    RetryRule("half_loaded.ErrorBelow")
    RetryRule("__main__.ErrorBelow")


@pytest.mark.parametrize("delay", [-1, -0.5, timedelta(seconds=-1), float("nan"), float("inf"), 10**400, True, "5"])
def test_a_delay_that_cannot_be_waited_is_refused(delay: Any) -> None:
    assert refuses("must be a finite number of seconds or a timedelta", retry_delay=delay).option == "retry_delay"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"action": "again"}, "action='again' must be one of RetryAction.RETRY, RetryAction.FAIL, RetryAction.DEFAULT"),
        ({"action": None}, "action=None must be one of"),
        ({"reason": 3}, "reason=3 must be text"),
        ({"match_subclasses": 1}, "match_subclasses=1 must be True or False"),
    ],
)
def test_other_arguments_are_checked(arguments: dict[str, Any], said: str) -> None:
    refuses(said, **arguments)


@pytest.mark.parametrize("rules", [None, RetryRule(OSError), [OSError], ["builtins.OSError"]])
def test_a_policy_takes_a_list_of_rules(rules: Any) -> None:
    with pytest.raises(InvalidOptionError, match="must be a list of RetryRule"):
        ExceptionRetryPolicy(rules)


def test_the_default_of_a_policy_is_checked() -> None:
    with pytest.raises(InvalidOptionError, match="default='never' must be one of"):
        ExceptionRetryPolicy([], default="never")  # type: ignore[arg-type]  # that is what is tried


def test_a_mistake_names_its_line_and_is_a_mistake_in_the_dag() -> None:
    with pytest.raises(DagError) as caught:
        RetryRule(ValueError, retry_delay=-1)
    message = str(caught.value)
    assert message.startswith(f"{__file__}:")
    assert "\n" not in message
