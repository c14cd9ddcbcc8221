"""What a failed try leads to, decided by the error that ended it: Airflow's retry policies.

A task may have a policy (`retry_policy=`). Its `evaluate` runs in the worker, after the exception was caught, and says
whether to try again, to give up at once, or to do what the task's own options say. Two rules are the caller's to keep:

- `FailTask` never consults the policy: it always fails the task.
- RETRY cannot exceed `retries`: when they are used up the task fails, whatever the policy says. A policy can end a
  task earlier, not later.

Policies travel to the worker, so they have to be picklable. Source: Airflow 3.3.2, `airflow.sdk`.
"""

from __future__ import annotations

import abc
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from functools import lru_cache
from types import ModuleType
from typing import Any

from liteflow.authoring.context import Context
from liteflow.authoring.places import Place, caller
from liteflow.errors import InvalidOptionError

_MAX_TEXT = 500
"""Characters of an error's text that go into a reason."""


class RetryAction(Enum):
    """What follows a failed try."""

    RETRY = "retry"
    """Try again, while there are retries left; without any, the task fails."""
    FAIL = "fail"
    """Fail now, whatever retries are left."""
    DEFAULT = "default"
    """What the task's own `retries` and `retry_delay` say."""


@dataclass(frozen=True)
class RetryDecision:
    """What a policy says about one failed try. Raises InvalidOptionError for values that it cannot have."""

    action: RetryAction = RetryAction.DEFAULT
    """A member of `RetryAction`, or its value as text."""
    retry_delay: timedelta | float | None = None
    """How long to wait before the next try, seconds or a timedelta; is a timedelta afterwards. None: the task's own."""
    reason: str | None = None
    """Why, for people."""

    def __post_init__(self) -> None:
        _put(self, "action", _action("action", self.action))
        _put(self, "retry_delay", _delay(self.retry_delay))
        _put(self, "reason", _reason(self.reason))

    @property
    def retry_delay_s(self) -> float | None:
        """The delay in seconds, or None for the task's own."""
        return self.retry_delay.total_seconds() if isinstance(self.retry_delay, timedelta) else self.retry_delay

    @classmethod
    def fail(cls, reason: str | None = None) -> RetryDecision:
        """Fail now."""
        return cls(RetryAction.FAIL, reason=reason)

    @classmethod
    def retry(cls, delay: timedelta | float | None = None, reason: str | None = None) -> RetryDecision:
        """Try again, after `delay` (seconds or a timedelta) or the task's own."""
        return cls(RetryAction.RETRY, delay, reason)

    @classmethod
    def default(cls) -> RetryDecision:
        """Do what the task's options say."""
        return cls()


class RetryPolicy(abc.ABC):
    """The base of all policies. A subclass of your own has to be picklable."""

    @abc.abstractmethod
    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Say what follows try `try_number` (from 1), which ended with `exception`.

        `max_tries` is Airflow's: the last try number that may be followed by another one, so `retries` for a task
        that was never cleared. Runs in the worker. If it raises, the task's own options decide (see `decide`).
        """


ExceptionSpec = type[BaseException] | str
"""An exception class, or the dotted path to one."""


@dataclass(frozen=True)
class RetryRule:
    """What to do about some exceptions. Raises InvalidOptionError, with the line that made it, for a bad argument.

    A dotted path (`"requests.exceptions.HTTPError"`) is imported in the worker, and only when a try has failed. A
    path into a module that is loaded already is checked at once; one that cannot be imported matches nothing.
    """

    exception: ExceptionSpec | Sequence[ExceptionSpec]
    """The exceptions: a class, a dotted path, or a list of them, of which any may match; a list becomes a tuple."""
    action: RetryAction = RetryAction.RETRY
    """A member of `RetryAction`, or its value as text."""
    retry_delay: timedelta | float | None = None
    """How long to wait before the next try, seconds or a timedelta; is a timedelta afterwards. None: the task's own."""
    reason: str | None = None
    """Why, for people; None: that this rule matched."""
    match_subclasses: bool = True
    """Whether a subclass of the exception matches too."""

    def __post_init__(self) -> None:
        where = caller()
        if isinstance(self.exception, list):
            _put(self, "exception", tuple(self.exception))
        if not self._specs:
            raise InvalidOptionError(f"{where}: exception=[] of a RetryRule names no exception", option="exception")
        for spec in self._specs:
            _check_spec(spec, where)
        _put(self, "action", _action("action", self.action))
        _put(self, "retry_delay", _delay(self.retry_delay))
        _put(self, "reason", _reason(self.reason))
        if not isinstance(self.match_subclasses, bool):
            raise _bad("match_subclasses", self.match_subclasses, "True or False", where)

    @property
    def _specs(self) -> tuple[ExceptionSpec, ...]:
        return self.exception if isinstance(self.exception, tuple) else (self.exception,)

    @property
    def exception_path(self) -> str:
        """The dotted paths of the exceptions, with a comma between them."""
        return ",".join(
            spec if isinstance(spec, str) else f"{spec.__module__}.{spec.__qualname__}" for spec in self._specs
        )

    def matches(self, exc: BaseException) -> bool:
        """Whether the rule is about this exception."""
        classes = tuple(filter(None, map(_class_of, self._specs)))
        return isinstance(exc, classes) if self.match_subclasses else type(exc) in classes


@dataclass(frozen=True)
class ExceptionRetryPolicy(RetryPolicy):
    """Rules by exception, in order: the first one that matches decides.

    Raises InvalidOptionError, with the line that made it, for a bad argument.
    """

    rules: Sequence[RetryRule]
    """A list becomes a tuple."""
    default: RetryAction = RetryAction.DEFAULT
    """What to do when no rule matches."""

    def __post_init__(self) -> None:
        if not isinstance(self.rules, list | tuple) or not all(isinstance(rule, RetryRule) for rule in self.rules):
            raise _bad("rules", self.rules, "a list of RetryRule", caller())
        _put(self, "rules", tuple(self.rules))
        _put(self, "default", _action("default", self.default))

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """What the first matching rule says, or else `default`."""
        for rule in self.rules:
            if rule.matches(exception):
                reason = rule.reason or f"{type(exception).__name__} matches the rule for {rule.exception_path}"
                return RetryDecision(rule.action, rule.retry_delay, reason)
        return RetryDecision(self.default)


def decide(
    policy: RetryPolicy | None,
    exception: BaseException,
    try_number: int,
    max_tries: int,
    context: Context | None = None,
) -> RetryDecision:
    """What `policy` says about a failed try; DEFAULT without one.

    A policy that raises, or returns something else than a RetryDecision, counts as DEFAULT, and the reason says so:
    a mistake in a policy must not hide the error that it was asked about.
    """
    if policy is None:
        return RetryDecision()
    name = type(policy).__name__
    try:
        decision: Any = policy.evaluate(
            exception=exception, try_number=try_number, max_tries=max_tries, context=context
        )
    except Exception as error:
        return RetryDecision(reason=f"retry policy {name} raised {_one_line(error)}; the task's own options decide")
    if not isinstance(decision, RetryDecision):
        kind = type(decision).__name__
        return RetryDecision(
            reason=f"retry policy {name} returned {kind}, no RetryDecision; the task's own options decide"
        )
    return decision


def _put(frozen: object, field: str, value: object) -> None:
    object.__setattr__(frozen, field, value)


def _bad(option: str, value: object, wanted: str, where: Place) -> InvalidOptionError:
    return InvalidOptionError(f"{where}: {option}={value!r} must be {wanted}", option=option)


def _action(option: str, value: object) -> RetryAction:
    try:
        return RetryAction(value)
    except ValueError:
        names = ", ".join(f"RetryAction.{action.name}" for action in RetryAction)
        raise _bad(option, value, f"one of {names}", caller()) from None


def _delay(value: Any) -> timedelta | None:
    if value is None:
        return None
    delay = value
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            delay = timedelta(seconds=value)
        except (OverflowError, ValueError):  # too large, or not a number
            delay = None
    if not isinstance(delay, timedelta) or delay < timedelta(0):
        raise _bad("retry_delay", value, "a finite number of seconds or a timedelta, 0 or more", caller())
    return delay


def _reason(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise _bad("reason", value, "text", caller())


def _check_spec(spec: Any, where: Place) -> None:
    """Refuse what can never match: no exception class, no dotted path, or a path that a loaded module does not have."""
    if isinstance(spec, str):
        if not all(part.isidentifier() for part in spec.split(".")):
            raise _bad("exception", spec, "an exception class, the dotted path to one, or a list of them", where)
        if "." not in spec:
            raise _bad("exception", spec, f"a dotted path, as 'builtins.{spec}' is", where)
        module_name, _, name = spec.rpartition(".")
        module = sys.modules.get(module_name)
        if module is None or _is_still_loading(module):
            return  # the worker will see
        found = getattr(module, name, None)
        if found is None:
            raise InvalidOptionError(
                f"{where}: exception={spec!r}: module {module_name} has no {name!r}", option="exception"
            )
        spec = found
    if not _is_exception_class(spec):
        raise _bad("exception", spec, "an exception class, the dotted path to one, or a list of them", where)


def _is_exception_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _is_still_loading(module: ModuleType) -> bool:
    """Whether the module may define more names later: a script, or a module that is being imported."""
    spec = getattr(module, "__spec__", None)
    return module.__name__ == "__main__" or spec is None or getattr(spec, "_initializing", False)


def _class_of(spec: ExceptionSpec) -> type[BaseException] | None:
    return _imported(spec) if isinstance(spec, str) else spec


@lru_cache(maxsize=256)
def _imported(path: str) -> type[BaseException] | None:
    """The exception class at the path; None, and a line in the log, if there is none."""
    try:
        found = pkgutil.resolve_name(path)
    except Exception as error:  # a module can raise anything when it is imported
        import logging  # only what goes wrong is worth its import

        logging.getLogger("liteflow").warning(
            "retry rule: %s matches nothing, it cannot be imported: %s", path, _one_line(error)
        )
        return None
    if not _is_exception_class(found):
        import logging  # only what goes wrong is worth its import

        logging.getLogger("liteflow").warning("retry rule: %s matches nothing, it is no exception class", path)
        return None
    exception_class: type[BaseException] = found
    return exception_class


def _one_line(error: BaseException) -> str:
    """Type and text of an error; the text of a stranger's class may itself not be had."""
    return traceback.format_exception_only(error)[-1].strip().split("\n", 1)[0][:_MAX_TEXT]
