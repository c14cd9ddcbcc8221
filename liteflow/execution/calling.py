"""The child's side of one try: decode the arguments, call the function, encode the result or the error.

Used by the slots' workers and by workers of foreign executors. Never raises: what can go wrong is an outcome.
"""

from __future__ import annotations

import inspect
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache, partial
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import liteflow
from liteflow.authoring.context import (
    PREVIOUS_KEYS,
    Context,
    CurrentContext,
    DagRunFacts,
    DagView,
    TaskInstanceFacts,
    TaskView,
    make_context,
    make_date,
    use_date_type,
)
from liteflow.authoring.decorators import Guarded
from liteflow.authoring.mapping import (
    ExpandInput,
    Items,
    Leaf,
    Literal,
    all_leaves,
    mapped_kwargs,
    mapped_over,
)
from liteflow.authoring.options import BashOptions, SensorOptions
from liteflow.authoring.params import own_values
from liteflow.authoring.pendulums import as_pendulum
from liteflow.authoring.task import BASH, BRANCH, SENSOR, SHORT_CIRCUIT
from liteflow.authoring.templates import has_template, has_template_file
from liteflow.authoring.xcomarg import RETURN_VALUE, put_together
from liteflow.errors import FailTask, SkipTask, TemplateError, XComEncodeError
from liteflow.execution.clock import HOST_CLOCK, Clock
from liteflow.execution.pulling import Ask, TryXComs, check_key
from liteflow.storage.xcoms import decode, encode, encode_items

_PACKAGE = os.path.dirname(os.path.abspath(liteflow.__file__)) + os.sep
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

LONGEST_REASON = 500
"""How much of a retry policy's reason is kept."""

LetOut = tuple[type[BaseException], ...]

CALLBACK = "callback"
"""The kind of a job that calls a callback: beside those of tasks."""


class Recipe(NamedTuple):
    """What all tries of a task, and of others like it, have in common. Plain types only: it is part of a message."""

    kind: str
    arguments: bytes
    """Pickled `(args, kwargs, sources)` with placeholders, the last one what is mapped over; empty for none."""
    has_placeholders: bool
    templated: bool
    """Whether strings among the arguments are Jinja templates."""
    native: bool
    """Whether a template gives a Python object."""
    context_params: tuple[str, ...]
    wants_context: bool
    multiple_outputs: bool
    push_result: bool
    mapped_keys: tuple[str, ...]
    """The XComs that other tasks are mapped over: they are encoded item by item."""
    used_mapped: tuple[str, ...] | None
    """Of a task in a mapped group: which of the group's arguments it wants. None: it is mapped by itself."""
    map_index_template: str | None
    sensor: tuple[Any, ...] | None
    """The fields of `SensorOptions`."""
    extras: bytes
    """A pickled dict of what few tasks have: `bash`, `retry_policy`, `on_execute`, `templates_dict`, `pre_execute`,
    `post_execute`; empty for none."""
    wants_exception: bool
    """Whether a callback wants the exception of a try that fails."""
    dag_view: tuple[Any, ...]
    task_view: tuple[Any, ...]
    """The fields of `TaskView` but the id: tasks that differ in nothing else share a recipe."""
    max_tries: int
    template_settings: bytes = b""
    """A pickled `TemplateSettings`; empty where there is nothing to render."""
    template_ext: tuple[str, ...] = ()
    """Ends of texts that make them names of template files."""
    own_params: bytes = b""
    """Params of the task itself: pickled, the values and the defaults that the dag has; empty for none."""


class MappedItems(NamedTuple):
    """The items over which one instance is mapped."""

    lengths: tuple[int, ...]
    """Of each leaf, in the order of `all_leaves`."""
    items: tuple[tuple[int, int, str, bytes], ...]
    """Leaf, place, encoding, data. The encoding of an item that is written in the dag is `literal`."""
    total: int
    """How many instances there are."""


class Payload(NamedTuple):
    """What a worker needs for one try, beside the recipe. Plain types only: it is part of a message."""

    inputs: tuple[tuple[str, str, bool, tuple[tuple[str, bytes, bool] | None, ...]], ...]
    """Of each input: task id, key, whether it is a list, and its values: encoding, data, whether the key must still be
    taken from a returned dict; None where nothing was handed on."""
    mapped: tuple[Any, ...] | None
    """The fields of `MappedItems`."""
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    logical_date_us: int
    params: str
    """Typed JSON."""
    run_started_us: int
    first_look_us: int | None = None
    """Of a sensor that gave its slot back: when it looked first."""
    looks: int = 0
    """How many times it has looked before."""
    uncounted_tries: int = 0
    """How many of the tries before use up no retry."""
    pk: int = 0
    """The key of the task instance, for the lock file of the slot; 0 where there is none."""
    more_context: bytes = b""
    """Of a callback: how what it is about ended; see `callbacks.put_end`."""


class Result(NamedTuple):
    """What came of the call. Plain types only."""

    state: str
    reason: str | None
    error: str | None
    may_retry: bool
    xcoms: tuple[tuple[str, str, bytes], ...]
    delay_s: float | None = None
    """Seconds until the next try or look, where the task's options do not say it."""
    chosen: tuple[str, ...] | None = None
    """Of a branch: the ids that it chose. Of a short circuit that stops: empty."""
    label: str | None = None
    """What the mapped instance is called."""
    exception: bytes | None = None
    """The pickled exception, for callbacks."""


class Try:
    """One try of one task instance, in the process that runs it."""

    def __init__(
        self,
        recipe: Recipe,
        payload: Payload,
        report: Callable[[str], None],
        ask: Ask | None,
        clock: Clock = HOST_CLOCK,
        let_out: LetOut = (),
    ) -> None:
        self.recipe = recipe
        self.payload = payload
        self.report = report
        """Takes the text of a traceback, or another message for the log."""
        self.clock = clock
        self.let_out = let_out
        """Errors that are no outcome."""
        ended_index = payload.map_index if recipe.kind == CALLBACK else None
        self.xcoms = TryXComs(payload.dag_id, payload.run_id, payload.task_id, ask, ended_index=ended_index)
        self._ask = ask
        self._extras: dict[str, Any] | None = None
        self._keywords: Mapping[str, Any] = {}
        """What the function was called with, by name: a label may be made of it."""
        self._inputs: Mapping[tuple[str, str], Any] = {}
        """The values of other tasks, once the arguments are there."""

    @cached_property
    def context(self) -> Context:
        """The context of the try; made when something asks for it, which most tiny tasks do not."""
        return self._make_context()

    @cached_property
    def params(self) -> dict[str, Any]:
        """The params of the task: those of the run, and its own."""
        if not self.recipe.own_params:
            return self.run_params
        own, defaults = pickle.loads(self.recipe.own_params)
        return own_values(own, self.run_params, defaults)

    @cached_property
    def run_params(self) -> dict[str, Any]:
        """The params of the run. Fresh for each try: one must not change what the next one sees."""
        params: dict[str, Any] = {} if self.payload.params == "{}" else decode("json", self.payload.params.encode())
        return params

    @property
    def extras(self) -> dict[str, Any]:
        """What few tasks have, by name."""
        if self._extras is None:
            self._extras = pickle.loads(self.recipe.extras) if self.recipe.extras else {}
        return self._extras

    def _make_context(self) -> Context:
        from liteflow.execution.templates import macros

        payload, recipe = self.payload, self.recipe
        if recipe.dag_view[-1]:
            use_date_type(as_pendulum)  # from now on: Airflow's contexts have such dates
        run_started = _moment(payload.run_started_us)
        context = make_context(
            DagRunFacts(payload.dag_id, payload.run_id, _moment(payload.logical_date_us), self.run_params, run_started),
            TaskInstanceFacts(
                payload.dag_id,
                payload.run_id,
                payload.task_id,
                payload.map_index,
                payload.try_number,
                recipe.max_tries + payload.uncounted_tries,
                start_date=_moment(payload.first_look_us or self.clock.now_us()),
                xcoms=self.xcoms,
            ),
            dag=_dag_view(recipe.dag_view),
            task=TaskView(payload.task_id, *recipe.task_view),
            params=self.params,
            expanded_ti_count=payload.mapped[2] if payload.mapped is not None else None,
            map_index_template=recipe.map_index_template,
            task_reschedule_count=payload.looks,
            templates_dict=None,
        )
        context.later = {"macros": macros, **{key: partial(self._previous, key) for key in PREVIOUS_KEYS}}
        context.render = self.render
        context.looks = payload.looks
        context.now = lambda: _moment(self.clock.now_us())
        if payload.more_context:
            from liteflow.execution.callbacks import put_end

            put_end(context, payload.more_context)
        return context

    def _previous(self, key: str) -> datetime | None:
        """A date of the latest run before this one that succeeded."""
        if self._ask is None:
            raise RuntimeError(f"{key} is to be had in slots and threads; workers of this executor cannot ask for it")
        rows = self._ask(("previous", self.payload.dag_id, self.payload.run_id))
        if not rows:
            return None
        logical_us, started_us, ended_us = rows[0]
        us = {"prev_start_date_success": started_us, "prev_end_date_success": ended_us}.get(key, logical_us)
        return None if us is None else _moment(us)

    def arguments(self, function: Callable[..., Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the call: what was written, what other tasks handed on, and what the context gives."""
        args, kwargs, templates_dict = self._given()
        self._keywords = kwargs
        if templates_dict is not None:
            self.context["templates_dict"] = templates_dict
        for name in self.recipe.context_params:
            if name not in kwargs:
                kwargs[name] = self.context[name]
        if self.recipe.wants_context:
            kwargs = {**self.context.for_keywords(function), **kwargs}
            for name in _named_positionally(function, len(args)):
                kwargs.pop(name, None)
        return args, kwargs

    def _given(self) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any] | None]:
        recipe = self.recipe
        templates_dict = self.extras.get("templates_dict") if recipe.extras else None
        if not recipe.arguments and not recipe.has_placeholders and templates_dict is None:
            return (), {}, None
        args, kwargs, sources = _unpacked(recipe.arguments, is_mapped=self.payload.mapped is not None)
        if recipe.templated:
            args, kwargs, templates_dict = self.render((args, kwargs, templates_dict))
        if not recipe.has_placeholders and not sources:
            return args, kwargs, templates_dict
        params = self.params
        inputs = {
            (task_id, key): _input(task_id, key, is_list, values)
            for task_id, key, is_list, values in self.payload.inputs
        }
        self._inputs = inputs
        mapped = self._mapped(sources, inputs) if sources and self.payload.mapped is not None else {}
        args = tuple(put_together(one, inputs, params, mapped) for one in args)
        kwargs = {name: put_together(one, inputs, params, mapped) for name, one in kwargs.items()}
        templates_dict = put_together(templates_dict, inputs, params, mapped)
        if recipe.used_mapped is None:
            kwargs.update(mapped_over(sources, kwargs, mapped))
        return args, kwargs, templates_dict

    def render(self, value: Any, extensions: tuple[str, ...] | None = None) -> Any:
        """The value with its Jinja templates rendered. `extensions`: those of the task unless they are given."""
        from liteflow.execution.templates import renderer_of

        renderer = renderer_of(self.recipe.template_settings, self.recipe.native)
        return renderer.render(value, self.context, self.recipe.template_ext if extensions is None else extensions)

    def rendered(self, value: Any) -> Any:
        """The same, where whether there is a template is known only now."""
        needs = has_template(value) or has_template_file(value, self.recipe.template_ext)
        return self.render(value) if needs else value

    def filled(self, value: Any) -> Any:
        """Rendered where there is a template, with the values of other tasks in their places."""
        return put_together(self.rendered(value), self._inputs, self.params)

    def _mapped(self, sources: Any, inputs: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
        """The arguments over which this instance is mapped."""
        assert self.payload.mapped is not None
        items = MappedItems(*self.payload.mapped)
        expand = ExpandInput(sources, ())
        leaves = all_leaves(expand)
        lengths = dict(zip(leaves, items.lengths, strict=True))
        values: dict[tuple[Leaf, int], Any] = {}
        for leaf, place, encoding, data in items.items:
            if encoding == "literal":
                written = pickle.loads(data)
                if self.recipe.templated:
                    written = self.render(written)
                values[leaves[leaf], place] = put_together(written, inputs, self.params)
            else:
                values[leaves[leaf], place] = decode(encoding, data)
        return mapped_kwargs(expand, self.payload.map_index, lengths, values)

    def outputs(self, value: Any) -> tuple[tuple[str, str, bytes], ...]:
        """What the try hands on: its result, and what it pushed itself."""
        if value is None and not self.xcoms.pushed and not self.recipe.mapped_keys:
            return ()
        found = dict(self.xcoms.pushed)
        if value is not None and self.recipe.push_result:
            found[RETURN_VALUE] = encode(value) if RETURN_VALUE not in self.recipe.mapped_keys else encode_items(value)
            if self.recipe.multiple_outputs:
                found.update(_each_key(value))
        for key in self.recipe.mapped_keys:
            if key != RETURN_VALUE and isinstance(value, dict) and key in value:
                found[key] = encode_items(value[key])
            if key not in found:
                what = "what this one returns" if key == RETURN_VALUE else repr(key)
                raise XComEncodeError(
                    f"another task is mapped over {what}, and nothing was handed on there; return a list, if need be []"
                )
        return tuple((key, *encoded) for key, encoded in found.items())

    def label(self) -> str | None:
        """What the instance is called, by its `map_index_template`."""
        if self.recipe.map_index_template is None or self.payload.map_index < 0:
            return None
        from liteflow.execution.templates import render_map_index, renderer_of

        names = self.context.with_names(self._keywords)
        renderer = renderer_of(self.recipe.template_settings, False)
        return render_map_index(self.recipe.map_index_template, names, renderer=renderer)

    def begin(self) -> None:
        """What is called before the task is."""
        before = self.extras.get("pre_execute")
        if before is not None:
            _finished(before(self.context))
        for callback in self.extras.get("on_execute", ()):
            _call_quietly(callback, self)

    def conclude(self, value: Any) -> None:
        """What is called after the task was, with what came of it."""
        after = self.extras.get("post_execute") if self.recipe.extras else None
        if after is not None:
            _finished(after(self.context, value))


def _unpacked(arguments: bytes, *, is_mapped: bool) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Any, ...]]:
    """The arguments of a recipe: fresh for each try, unless there is nothing in them that one could change."""
    if not arguments:
        return (), {}, ()
    sources = _constant_sources(arguments) if is_mapped else None
    if sources is not None:
        return (), {}, sources
    args, kwargs, sources = pickle.loads(arguments)
    return args, kwargs, sources


@lru_cache(maxsize=256)
def _constant_sources(arguments: bytes) -> tuple[Any, ...] | None:
    """What a task is mapped over, if it has no other arguments and no values of the user's are in it."""
    args, kwargs, sources = pickle.loads(arguments)
    is_constant = not args and not kwargs and all(isinstance(source, Items | Literal) for _, source in sources)
    return sources if is_constant else None


def call(
    function: Callable[..., Any],
    recipe: Recipe,
    payload: Payload,
    report: Callable[[str], None],
    ask: Ask | None = None,
    *,
    clock: Clock = HOST_CLOCK,
    let_out: LetOut = (),
) -> Result:
    """Call the function as the recipe and the payload say. `report` gets the text of a traceback.

    `ask` puts a question to whoever drives the run and returns the answer; without it a task can pull only what it
    pushed itself. `let_out`: errors that are raised and make no result. A child that the function forked, and that
    comes back here, ends: only the process that began the try goes on.
    """
    pid = os.getpid()
    one: Try | None = None
    try:
        here = one = Try(recipe, payload, report, ask, clock, let_out)
        with CurrentContext(lambda: here.context):
            result = _called(function, one)
        if os.getpid() != pid:
            _end_child(None)
    except let_out:
        raise
    except SkipTask as error:
        result = Result("skipped", None, str(error) or None, True, _pushed(one))
    except FailTask as error:
        report(trace_of(error))
        result = Result(
            "failed", "error", describe_error(error), False, _pushed(one), exception=_exception(recipe, error)
        )
    except BaseException as error:
        if os.getpid() != pid:
            _end_child(error)
        report(trace_of(error))
        result = _after_error(one, recipe, error)
    label = one.label() if one is not None else None
    return result if label is None else result._replace(label=label)


def _called(function: Callable[..., Any], one: Try) -> Result:
    kind = one.recipe.kind
    if kind == CALLBACK:
        _finished(function(one.context))
        return Result("success", None, None, True, ())
    if isinstance(function, Guarded):  # asked first: what is not to run calls no callback either
        args, kwargs = one.arguments(function.function)
        function.check(one.context)
        function = function.function
    else:
        args, kwargs = one.arguments(function)
    if one.recipe.extras:
        one.begin()
    if kind == SENSOR:
        from liteflow.execution.sensing import look

        assert one.recipe.sensor is not None
        return look(lambda: _finished(function(*args, **kwargs)), SensorOptions(*one.recipe.sensor), one)
    value = _finished(function(*args, **kwargs))
    if kind == BASH:
        from liteflow.operators.bash import run_command

        options: BashOptions = one.extras["bash"]
        options = options._replace(env=one.filled(options.env), cwd=one.rendered(options.cwd))
        value = run_command(one.rendered(value), options)
    one.conclude(value)
    chosen = None
    if kind == BRANCH:
        chosen = _chosen(value)
        if isinstance(value, Iterator):
            value = list(chosen)  # it is used up, and cannot be stored
    elif kind == SHORT_CIRCUIT and not value:
        chosen, value = (), None
    return Result("success", None, None, True, one.outputs(value), chosen=chosen)


def _finished(value: Any) -> Any:
    """What a function gave; of a coroutine, what comes of it."""
    if not inspect.iscoroutine(value):
        return value
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(value)
    # An event loop runs here already, which only a test has; two in one thread there cannot be.
    import contextvars
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(contextvars.copy_context().run, asyncio.run, value).result()


def _call_quietly(callback: Callable[..., Any], one: Try) -> None:
    """Call a callback whose error changes nothing."""
    try:
        _finished(callback(one.context))
    except one.let_out:
        raise
    except Exception as error:
        one.report(trace_of(error))


def _after_error(one: Try | None, recipe: Recipe, error: BaseException) -> Result:
    """A failed try, and what its retry policy makes of it."""
    result = Result("failed", "error", describe_error(error), True, _pushed(one), exception=_exception(recipe, error))
    policy = one.extras.get("retry_policy") if one is not None and recipe.extras else None
    if policy is None or one is None:
        return result
    from liteflow.authoring.retry_policy import RetryAction, decide

    retries = recipe.max_tries + one.payload.uncounted_tries - 1  # what Airflow calls max_tries
    decision = decide(policy, error, one.payload.try_number, retries, one.context)
    if decision.reason:
        one.report(f"retry policy: {decision.action.name.lower()}: {decision.reason[:LONGEST_REASON]}")
    if decision.action is RetryAction.FAIL:
        return result._replace(may_retry=False)
    if decision.action is RetryAction.RETRY and decision.retry_delay is not None:
        return result._replace(delay_s=decision.retry_delay_s)
    return result


def _exception(recipe: Recipe, error: BaseException) -> bytes | None:
    """The exception for callbacks, if one wants it and it can travel."""
    if not recipe.wants_exception:
        return None
    from liteflow.storage.xcoms import pickle_exception

    return pickle_exception(error)


def _pushed(one: Try | None) -> tuple[tuple[str, str, bytes], ...]:
    """What a try pushed itself: that is handed on whichever way it ended."""
    return () if one is None else tuple((key, *encoded) for key, encoded in one.xcoms.pushed.items())


def _chosen(value: Any) -> tuple[str, ...]:
    """The ids that a branch returned."""
    if value is None:
        return ()
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise TypeError(f"a branch returns the id of a task or group, a list of ids, or None; not {value!r:.200}")
    return names


def _moment(us: int) -> datetime:
    return make_date(_EPOCH + timedelta(microseconds=us))


def _dag_view(fields: tuple[Any, ...]) -> DagView:
    dag_id, description, tags, zone, params, _ = fields
    return DagView(dag_id, description, tags, zone, {} if params == "{}" else decode("json", params.encode()))


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


def _input(task_id: str, key: str, is_list: bool, values: tuple[tuple[str, bytes, bool] | None, ...]) -> Any:
    """The value of one input: of a mapped task a list, with None where an instance handed on nothing."""
    found = [None if value is None else _one_value(task_id, key, *value) for value in values]
    return found if is_list else found[0]


def _one_value(task_id: str, key: str, encoding: str, data: bytes, take: bool) -> Any:
    value = decode(encoding, data)
    return _take(task_id, key, value) if take else value


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


def _each_key(value: Any) -> dict[str, tuple[str, bytes]]:
    """The XComs of a task with multiple outputs, beside its whole result."""
    if not isinstance(value, dict):
        raise XComEncodeError(
            f"the task has multiple_outputs (or is annotated to return a dict) and returned {type(value).__name__}"
        )
    for key in value:
        check_key(key, "the task has multiple_outputs, and a key of its dict")
    return {key: encode(one) for key, one in value.items() if one is not None and key != RETURN_VALUE}


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
        if isinstance(error, TemplateError):  # it says all; the rest is Jinja's inside
            return describe_error(error)
        error.__traceback__ = _own_frames_dropped(error.__traceback__)
        return "".join(traceback.format_exception(error))
    except BaseException:
        return describe_error(error)


def _own_frames_dropped(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is not liteflow's."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        trace = trace.tb_next
    return trace
