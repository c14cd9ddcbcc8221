"""The family of errors: facts, exit codes, and the trip through pickle."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

from liteflow import errors
from liteflow.errors import (
    DagCycleError,
    DagError,
    DagWarning,
    FailTask,
    InvalidOptionError,
    LiteflowError,
    MissingMainGuard,
    NotFoundError,
    RunInterruptedError,
    SkipTask,
    StorageError,
    TaskKilled,
    XComDecodeError,
    XComEncodeError,
)

CLASSES = [
    thing
    for _, thing in sorted(vars(errors).items())
    if inspect.isclass(thing) and issubclass(thing, BaseException) and thing.__module__ == errors.__name__
]
FAMILY = [cls for cls in CLASSES if issubclass(cls, LiteflowError)]

VALUES: dict[str, Any] = {"cycle": ("a", "b", "a"), "candidates": ("etl/1", "etl/2"), "line": 7}


def facts_of(cls: type[LiteflowError]) -> dict[str, Any]:
    """A value for every fact that the class or one above it declares."""
    declared = {name for one in cls.__mro__ if issubclass(one, LiteflowError) for name in inspect.get_annotations(one)}
    return {name: VALUES.get(name, f"some {name}") for name in declared - {"exit_code"}}


def test_everything_raised_on_purpose_is_of_the_family() -> None:
    assert set(CLASSES) - set(FAMILY) == {TaskKilled, DagWarning}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("cls", FAMILY)
def test_error_comes_through_pickle_with_message_and_facts(cls: type[LiteflowError], protocol: int) -> None:
    facts = facts_of(cls)
    error = cls("etl.py:3: it broke {0} %s", **facts)
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is cls
    assert str(again) == again.message == "etl.py:3: it broke {0} %s"
    assert again.args == error.args
    assert {name: getattr(again, name) for name in facts} == facts
    assert vars(again) == vars(error)


@pytest.mark.parametrize("cls", FAMILY)
def test_error_can_be_copied(cls: type[LiteflowError]) -> None:
    error = cls("it broke", **facts_of(cls))
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls
        assert vars(again) == vars(error)


@pytest.mark.parametrize("cls", FAMILY)
def test_error_takes_facts_that_its_class_does_not_declare(cls: type[LiteflowError]) -> None:
    again = pickle.loads(pickle.dumps(cls("it broke", hint="look there")))
    assert again.hint == "look there"


@pytest.mark.parametrize("cls", FAMILY)
def test_exit_code_is_that_of_the_command_line(cls: type[LiteflowError]) -> None:
    if issubclass(cls, StorageError):
        assert cls.exit_code == 3
    elif issubclass(cls, RunInterruptedError):
        assert cls.exit_code == 4
    else:
        assert cls.exit_code == 2


def test_facts_are_attributes() -> None:
    error = DagCycleError("a -> b -> a", cycle=("a", "b", "a"))
    assert error.cycle == ("a", "b", "a")


def test_text_of_a_lookup_error_is_not_quoted() -> None:
    assert str(NotFoundError("no dag 'etl'", identifier="etl")) == "no dag 'etl'"


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (DagError, ValueError),
        (DagCycleError, DagError),
        (InvalidOptionError, TypeError),
        (NotFoundError, LookupError),
        (MissingMainGuard, SystemExit),
        (XComEncodeError, ValueError),
        (XComDecodeError, ValueError),
    ],
)
def test_error_is_also_what_python_calls_it(cls: type[BaseException], base: type[BaseException]) -> None:
    assert issubclass(cls, base)


def test_a_missing_main_guard_ends_a_script_with_code_2() -> None:
    error = pickle.loads(pickle.dumps(MissingMainGuard("put it under a guard", file="etl.py", line=9)))
    assert error.code == 2
    assert (error.file, error.line) == ("etl.py", 9)


@pytest.mark.parametrize("cls", [SkipTask, FailTask])
def test_skip_and_fail_need_no_message(cls: type[LiteflowError]) -> None:
    again = pickle.loads(pickle.dumps(cls()))
    assert type(again) is cls
    assert str(again) == ""


def test_a_warning_of_a_dag_is_one_that_a_user_sees_by_default() -> None:
    assert issubclass(DagWarning, UserWarning)


def test_except_exception_does_not_catch_a_kill() -> None:
    assert not issubclass(TaskKilled, Exception)
    again = pickle.loads(pickle.dumps(TaskKilled("its time is up")))
    assert type(again) is TaskKilled
    assert str(again) == "its time is up"
