"""The child's side of one try: decode the arguments, call the function, encode the result or the error.

Used by the slots' workers and by workers of foreign executors. Never raises: what can go wrong is an outcome.
"""

from __future__ import annotations

import inspect
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import liteflow
from liteflow.authoring.context import DagRunFacts, TaskInstanceFacts, current_context, make_context
from liteflow.authoring.xcomarg import RETURN_VALUE, put_together
from liteflow.errors import FailTask, SkipTask, XComEncodeError
from liteflow.states import EndReason, TaskInstanceState
from liteflow.storage.xcoms import decode, encode

_PACKAGE = os.path.dirname(os.path.abspath(liteflow.__file__)) + os.sep
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Payload(NamedTuple):
    """What a worker needs to call a task's function. Plain types only: it is part of a message."""

    arguments: bytes
    """Pickled `(args, kwargs)` with placeholders; empty for none."""
    has_placeholders: bool
    inputs: tuple[tuple[str, str, str, bytes, bool], ...]
    """Of each input: task id, key, encoding, data, and whether the key must still be taken from a returned dict."""
    context_params: tuple[str, ...]
    wants_context: bool
    multiple_outputs: bool
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    max_tries: int
    logical_date_us: int
    params: str
    """Typed JSON."""


class Result(NamedTuple):
    """What came of the call. Plain types only."""

    state: str
    reason: str | None
    error: str | None
    may_retry: bool
    xcoms: tuple[tuple[str, str, bytes], ...]


def call(function: Callable[..., Any], payload: Payload, report: Callable[[str], None]) -> Result:
    """Call the function as the payload says. `report` gets the text of a traceback.

    A child that the function forked, and that comes back here, ends: only the process that began the try goes on.
    """
    pid = os.getpid()
    try:
        params = _decoded_params(payload.params)
        context = make_context(
            DagRunFacts(
                payload.dag_id,
                payload.run_id,
                _EPOCH + timedelta(microseconds=payload.logical_date_us),
                params,
            ),
            TaskInstanceFacts(
                payload.dag_id,
                payload.run_id,
                payload.task_id,
                payload.map_index,
                payload.try_number,
                payload.max_tries,
            ),
        )
        args, kwargs = _arguments(payload, params)
        for name in payload.context_params:
            kwargs[name] = context[name]
        if payload.wants_context:
            kwargs = {**{key: value for key, value in context.items() if key not in kwargs}, **kwargs}
            for name in _named_positionally(function, len(args)):
                kwargs.pop(name, None)
        with current_context(context):
            value = function(*args, **kwargs)
            if inspect.iscoroutine(value):
                import asyncio

                value = asyncio.run(value)
        if os.getpid() != pid:
            _end_child(None)
        return Result("success", None, None, True, _outputs(value, payload))
    except SkipTask as error:
        return Result("skipped", None, str(error) or None, True, ())
    except FailTask as error:
        report(trace_of(error))
        return Result("failed", "error", describe_error(error), False, ())
    except BaseException as error:
        if os.getpid() != pid:
            _end_child(error)
        report(trace_of(error))
        return Result("failed", "error", describe_error(error), True, ())


def _end_child(error: BaseException | None) -> NoReturn:
    """End a forked child as the interpreter would have ended it."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        code = error.code or 0
    elif error is not None:
        print(error.code if isinstance(error, SystemExit) else trace_of(error), file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # closed, or not there
    os._exit(code & 0xFF)


def _decoded_params(text: str) -> dict[str, Any]:
    """The params of the run, fresh for each task: one task must not change what the next one sees."""
    params: dict[str, Any] = decode("json", text.encode())
    return params


def _arguments(payload: Payload, params: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not payload.arguments:
        return (), {}
    args, kwargs = pickle.loads(payload.arguments)
    if payload.has_placeholders:
        inputs = {
            (task_id, key): _take(task_id, key, decode(encoding, data)) if take else decode(encoding, data)
            for task_id, key, encoding, data, take in payload.inputs
        }
        args = tuple(put_together(one, inputs, params) for one in args)
        kwargs = {name: put_together(one, inputs, params) for name, one in kwargs.items()}
    return args, kwargs


def _take(task_id: str, key: str, value: Any) -> Any:
    """One key of the dict that a task returned."""
    if not isinstance(value, dict):
        raise LookupError(f"task {task_id!r} returned {type(value).__name__}, no dict from which to take {key!r}")
    if key not in value:
        keys = ", ".join(map(repr, list(value)[:5]))
        raise LookupError(f"task {task_id!r} returned a dict without {key!r} (it has {keys or 'no keys'})")
    return value[key]


def _named_positionally(function: Callable[..., Any], count: int) -> list[str]:
    """Names of the first `count` parameters: they are given by position already."""
    return list(inspect.signature(function).parameters)[:count]


def _outputs(value: Any, payload: Payload) -> tuple[tuple[str, str, bytes], ...]:
    if value is None:
        return ()
    found = [(RETURN_VALUE, *encode(value))]
    if payload.multiple_outputs:
        if not isinstance(value, dict):
            raise XComEncodeError(
                f"the task has multiple_outputs (or is annotated to return a dict) and returned {type(value).__name__}"
            )
        for key, one in value.items():
            if not isinstance(key, str):
                raise XComEncodeError(f"the task has multiple_outputs, and a key of its dict is no text: {key!r}")
            if not key or len(key) > 250 or "\x00" in key or not _is_text(key):
                raise XComEncodeError(f"the task has multiple_outputs, and a key of its dict cannot be stored: {key!r}")
            if one is not None and key != RETURN_VALUE:
                found.append((key, *encode(one)))
    return tuple(found)


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:  # lone surrogates
        return False
    return True


def describe_error(error: BaseException) -> str:
    """The type of the error and the first line of what it says, as the end of a traceback has it."""
    try:
        lines = traceback.format_exception_only(error)
        # A syntax error shows its place first; notes come last.
        text = lines[-1] if isinstance(error, SyntaxError) else lines[0]
        return text.strip().split("\n", 1)[0][:2000]
    except BaseException:  # a __str__ of a stranger's class
        return f"{type(error).__name__} (its text cannot be had)"


def trace_of(error: BaseException) -> str:
    """The traceback as text, without liteflow's own frames at its top."""
    try:
        error.__traceback__ = _own_frames_dropped(error.__traceback__)
        return "".join(traceback.format_exception(error))
    except BaseException:
        return describe_error(error)


def _own_frames_dropped(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is not liteflow's."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        trace = trace.tb_next
    return trace


def as_states(result: Result) -> tuple[TaskInstanceState, EndReason | None]:
    """State and reason of a result as the words that they are."""
    return TaskInstanceState(result.state), EndReason(result.reason) if result.reason else None
