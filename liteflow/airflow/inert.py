"""Stand-ins for what means nothing without Airflow's scheduler and pages: assets, timetables, deadlines, links.

They can be made, combined, compared, derived from and stored, and nothing follows from them.
"""

from __future__ import annotations

from functools import cache
from typing import Any


class _InertMeta(type):
    """The class too has any attribute: `DeadlineReference.DAGRUN_QUEUED_AT`."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return inert_class(name)()


class Inert(metaclass=_InertMeta):
    """A thing that is there and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._args = args
        self._kwargs = kwargs
        for name, value in kwargs.items():
            if not hasattr(type(self), name):
                setattr(self, name, value)
        if args and isinstance(args[0], str) and "name" not in kwargs:
            self.name = args[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return inert_class(name)()

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return type(self)(*args, **kwargs)

    def __or__(self, _: object) -> Inert:
        return self

    __and__ = __ror__ = __rand__ = __or__

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (self._args, self._kwargs) == (other._args, other._kwargs)

    def __hash__(self) -> int:
        return hash((type(self).__name__, repr(self._args), repr(sorted(self._kwargs))))

    def __reduce__(self) -> Any:
        return (_again, (type(self).__name__, self._args, self._kwargs)) if self._is_plain() else super().__reduce__()

    def _is_plain(self) -> bool:
        """Whether its class is one of those made here, and not one derived in a dag file."""
        return type(self) is inert_class(type(self).__name__)

    def __repr__(self) -> str:
        given = [*map(repr, self._args), *(f"{name}={value!r}" for name, value in self._kwargs.items())]
        return f"{type(self).__name__}({', '.join(given)})"


@cache
def inert_class(name: str) -> type[Inert]:
    """The inert class of that name; the same one each time."""
    made: Any = _InertMeta(name, (Inert,), {"__module__": __name__})
    return made  # type: ignore[no-any-return]


def _again(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inert:
    return inert_class(name)(*args, **kwargs)
