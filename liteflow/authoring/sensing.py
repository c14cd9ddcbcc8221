"""What a sensor's function may return."""

from __future__ import annotations

from typing import Any


class PokeReturnValue:
    """What a sensor saw: whether it has waited for long enough, and the value that it then hands on."""

    def __init__(self, is_done: bool, xcom_value: Any = None) -> None:
        self.is_done = is_done
        self.xcom_value = xcom_value

    def __bool__(self) -> bool:
        return self.is_done

    def __repr__(self) -> str:
        return f"PokeReturnValue({self.is_done!r}, {self.xcom_value!r})"


class NotYet(PokeReturnValue):
    """A sensor saw nothing, and knows when it will: it looks again after `seconds`, if that is sooner than usual."""

    def __init__(self, seconds: float) -> None:
        super().__init__(False)
        self.seconds = seconds


class NothingSeen(BaseException):
    """Leaves `execute` of a sensor that saw nothing, also where a class of the user's has laid its own around it.

    No `except Exception` there takes it for an error.
    """

    def __init__(self, seen: bool | PokeReturnValue) -> None:
        super().__init__("the sensor saw nothing yet")
        self.seen = seen
