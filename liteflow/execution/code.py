"""How a task's function and its arguments travel to a worker.

A function goes as a reference (module or dag file, qualified name) and the worker takes the plain function of what it
finds there. Only what cannot be found that way goes by value, with cloudpickle: sending a function by value drags
every global along that it touches, and a module-level lock cannot travel while a large table would.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple

from liteflow.authoring.dagfile import digest_of, load_file
from liteflow.authoring.task import Task
from liteflow.errors import TransportError
from liteflow.storage.xcoms import find, reduce_by_file, reference_of

Dumps = Callable[[Any], bytes]


class Code(NamedTuple):
    """A function on its way. Plain types only, so that it can be a message."""

    kind: str
    """`reference`, `pickle`, or `here` for one that is not sent anywhere."""
    module: str = ""
    file: str | None = None
    digest: str | None = None
    qualname: str = ""
    data: bytes = b""


def describe(function: Callable[..., Any], whose: str) -> Code:
    """How a function travels. Raises TransportError, which names the global that cannot; `whose` says what it is."""
    try:
        module, file, qualname = reference_of(function)
    except LookupError:
        return Code("pickle", data=_by_value(function, whose))
    return Code("reference", module, file, digest_of(file) if file else None, qualname)


def load(code: Code) -> Callable[..., Any]:
    """The function again, in a worker. What the module or the unpickling raises comes out as it is."""
    if code.kind == "pickle":
        function: Callable[..., Any] = pickle.loads(code.data)
        return function
    if code.file is not None:
        load_file(code.file, code.digest)
    found: Callable[..., Any] = find(code.module, code.file, code.qualname)
    return found


def pack_arguments(task: Task, arguments: tuple[Any, ...], dumps: Dumps | None = None) -> bytes:
    """`(args, kwargs, ...)` of a task, with placeholders in them. Raises TransportError.

    `dumps` takes the place of the pickler, here and in `pack`.
    """
    try:
        return (dumps or dumps_for_worker)(arguments)
    except Exception as error:
        args, kwargs = arguments[:2]
        named = [(f"number {number}", value) for number, value in enumerate(args, 1)]
        named += [(repr(name), value) for name, value in kwargs.items()]
        named += [("that it is mapped over", arguments[2:])]
        for name, value in named:
            why = _why_not(value)
            if why is not None:
                raise TransportError(
                    f"{task.place}: argument {name} of task {task.task_id!r} cannot be sent to a worker: {why}"
                ) from error
        raise


def pack(value: Any, what: str, dumps: Dumps | None = None) -> bytes:
    """Anything else that a worker needs. Raises TransportError, which begins with `what`."""
    try:
        return (dumps or dumps_for_worker)(value)
    except Exception as error:
        raise TransportError(f"{what} cannot be sent to a worker: {error}") from error


def _by_value(function: Callable[..., Any], whose: str) -> bytes:
    try:
        return dumps_for_worker(function)
    except Exception as error:
        raise TransportError(
            f"{whose} cannot be sent to a worker: {_culprit(function) or error}. Define it at the top level of a "
            "module or script, where the worker can find it by its name"
        ) from error


def _culprit(function: Any) -> str | None:
    """Which of the globals and enclosing variables that the function uses cannot travel."""
    inner = getattr(function, "__func__", None) or getattr(function, "func", None) or function
    code = getattr(inner, "__code__", None)
    if code is None:
        return None
    used = {name: inner.__globals__[name] for name in _names(code) if name in inner.__globals__}
    for name, cell in zip(code.co_freevars, inner.__closure__ or (), strict=False):
        try:
            used[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name, value in used.items():
        why = _why_not(value)
        if why is not None:
            return f"it uses {name!r}, and {why}"
    return None


def _names(code: CodeType) -> list[str]:
    """Names that the code looks up, that of the functions inside it too."""
    inner = [name for const in code.co_consts if isinstance(const, CodeType) for name in _names(const)]
    return [*code.co_names, *inner]


def _why_not(value: Any) -> str | None:
    try:
        dumps_for_worker(value)
    except Exception as error:  # whatever the __reduce__ of a stranger's class raises
        return f"{type(error).__name__}: {error}"
    return None


_PLAIN = (int, str, float, bool, bytes, type(None))
"""What any pickler writes the same."""


def dumps_for_worker(value: Any) -> bytes:
    """Pickle as everything does that goes to a worker. Raises whatever the pickler and a stranger's class raise."""
    if type(value) in _PLAIN:
        return pickle.dumps(value, protocol=5)
    buffer = io.BytesIO()
    _pickler_class()(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def _pickler_class() -> type[pickle.Pickler]:
    """cloudpickle's pickler, taught to send by reference what a dag file holds. Made on first use: it costs 20 ms."""
    global _CodePickler
    if _CodePickler is None:
        import cloudpickle

        class CodePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
            def reducer_override(self, obj: Any) -> Any:
                if isinstance(obj, CodeType):
                    return self._with_file(obj)
                reduced = reduce_by_file(obj)
                return super().reducer_override(obj) if reduced is None else reduced

            def _with_file(self, code: CodeType) -> Any:
                """cloudpickle leaves the file's name out, so that payloads are alike; tracebacks are to have it."""
                make, arguments, *rest = self.dispatch_table[CodeType](code)
                named = tuple(code.co_filename if one == "<dynamic-code>" else one for one in arguments)
                return (make, named, *rest)

        _CodePickler = CodePickler
    return _CodePickler


_CodePickler: type[pickle.Pickler] | None = None
