"""Jinja templates among the arguments of a task, rendered in its worker as Airflow renders them.

Only what a dag file says may be rendered, never the value of an XCom or param: arguments go through here while the
placeholders for those are still in them, and come out with the placeholders untouched. jinja2 is imported when the
first template is met, and costs nothing before.

Where it differs from Airflow 3.3: a text without a mark of Jinja is left as it is (there it would lose a newline at
its end, and become a number when rendered natively if it looks like one), frozensets are rendered too, and an undefined
name is also an error as the whole of a native template.
"""

from __future__ import annotations

import json
import logging
import pickle
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from functools import cache, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from liteflow.authoring.context import Context
from liteflow.authoring.ids import did_you_mean
from liteflow.authoring.templates import UNDEFINED, TemplateSettings, is_template, literal, template_fields
from liteflow.authoring.xcomarg import PLACEHOLDERS
from liteflow.errors import InvalidOptionError, LiteflowError, TemplateError

if TYPE_CHECKING:
    import jinja2

_CACHED_TEMPLATES = 256
_SHOWN_LENGTH = 100
_logger = logging.getLogger("liteflow")


def render(
    value: Any, context: Mapping[str, Any], *, native: bool = False, undefined: str | type[jinja2.Undefined] = "strict"
) -> Any:
    """`value` with all templates in it rendered: `Renderer(native=native, undefined=undefined).render(...)`, cached."""
    renderer = _renderer(native, undefined)  # type: ignore[arg-type]  # a class is hashable, whatever its instances are
    return renderer.render(value, context)


def render_map_index(
    template: str,
    context: Mapping[str, Any],
    *,
    renderer: Renderer | None = None,
    warn: Callable[[str], None] = _logger.warning,
) -> str | None:
    """The name of a mapped task instance, by the task's `map_index_template`; None if it comes out empty.

    To be called after the task has run, with the context as the task left it: it may have put names into it. An error
    costs the instance its name and nothing else: one line about it goes to `warn`. (In Airflow the try fails.)
    """
    try:
        return (renderer or _renderer(False, "strict")).text(template, context) or None
    except TemplateError as error:
        warn(f"map_index_template: {error}; the task instance keeps its number for a name")
        return None


def renderer_of(settings: bytes, native: bool) -> Renderer:
    """The renderer of a dag with these settings, a pickled `TemplateSettings`; empty for those of `render`."""
    return _renderer_of(settings, native) if settings else _renderer(native, "strict")


@lru_cache(maxsize=32)
def _renderer_of(settings: bytes, native: bool) -> Renderer:
    return Renderer(native=native, **TemplateSettings(*pickle.loads(settings))._asdict())


@lru_cache(maxsize=32)
def _renderer(native: bool, undefined: str | type[jinja2.Undefined]) -> Renderer:
    return Renderer(native=native, undefined=undefined)


class Renderer:
    """Renders with the settings of one dag, and keeps the templates that it has compiled (the last 256).

    Settings, under Airflow's names for them:
    `native` (`render_template_as_native_obj`): a template becomes the Python value that its text reads as, if any.
    `undefined` (`template_undefined`): what a name that is not there does: `strict` (an error), `default` (becomes
    nothing), `chainable`, `debug`, or a class derived from jinja2.Undefined.
    `user_defined_macros`: names for templates beside the context's; of two the context's wins.
    `user_defined_filters`: filters by name, beside Jinja's and `FILTERS`.
    `searchpath` (`template_searchpath`): directories from which `{% include %}` and `{% import %}` take files.
    `jinja_environment_kwargs`: options of jinja2.Environment, over those above.

    As in Airflow, texts are rendered in Jinja's sandbox, where attributes that begin with one `_` are allowed and
    those with two are not, native values without a sandbox, and the extension `do` is there.
    """

    def __init__(
        self,
        *,
        native: bool = False,
        undefined: str | type[jinja2.Undefined] = "strict",
        user_defined_macros: Mapping[str, Any] | None = None,
        user_defined_filters: Mapping[str, Callable[..., Any]] | None = None,
        searchpath: Sequence[str] = (),
        jinja_environment_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(undefined, str) and undefined not in UNDEFINED:
            raise InvalidOptionError(
                f"undefined={undefined!r} must be one of {', '.join(UNDEFINED)}, or a class of jinja2",
                option="undefined",
            )
        self._native = native
        self._undefined = undefined
        self._macros = dict(user_defined_macros or {})
        self._filters = {**FILTERS, **(user_defined_filters or {})}
        self._searchpath = list(searchpath)
        self._more_options = dict(jinja_environment_kwargs or {})
        self._environment = cache(self._make_environment)
        self._template = lru_cache(_CACHED_TEMPLATES)(self._compile)

    def render(self, value: Any, context: Mapping[str, Any], extensions: tuple[str, ...] = ()) -> Any:
        """`value` with each template in it replaced by what it makes of `context`.

        A text that ends with one of `extensions` is the name of a file in `searchpath` that holds the template.

        Texts are rendered, and so are those in lists, tuples, sets and the values of dicts, in new containers. An
        object with `template_fields` gets its fields rendered in place; a field that can be called becomes what
        it returns for `context=` and `jinja_env=`. A `literal` becomes what it wraps. Anything else stays.
        Raises TemplateError, in one line, for whatever goes wrong in a template.
        """
        return self._render(value, context, extensions, set())

    def text(self, template: str, context: Mapping[str, Any]) -> str:
        """One template as text, also if this renderer is a native one. Raises TemplateError as `render` does."""
        with self._as_template_error(template, context):
            return str(_rendered(self._template(template, False), context))

    def _value(self, template: str, context: Mapping[str, Any], *, is_file: bool = False) -> Any:
        with self._as_template_error(template, context, is_file=is_file):
            if is_file:  # Jinja keeps it, and looks whether the file was changed
                found = self._environment(self._native).get_template(template)
            else:
                found = self._template(template, self._native)
            return _defined(_rendered(found, context)) if self._native else _rendered(found, context)

    def _compile(self, template: str, native: bool) -> jinja2.Template:
        return self._environment(native).from_string(template)

    def _make_environment(self, native: bool) -> jinja2.Environment:
        import jinja2

        options: dict[str, Any] = {
            "undefined": self._undefined if isinstance(self._undefined, type) else _undefined_class(self._undefined),
            "extensions": ["jinja2.ext.do"],
            "loader": jinja2.FileSystemLoader(self._searchpath) if self._searchpath else None,
            **self._more_options,
        }
        environment = _environment_class(native)(**options)
        environment.filters.update(self._filters)
        environment.globals.update(self._macros)
        environment.context_class = _context_class()
        return environment

    @contextmanager
    def _as_template_error(self, template: str, context: Mapping[str, Any], *, is_file: bool = False) -> Iterator[None]:
        """Turn what goes wrong inside into one line about the template; what a macro raises on purpose goes through."""
        try:
            yield
        except LiteflowError:
            raise
        except Exception as error:
            what = f"template {'file ' if is_file else ''}{_shortened(template)!r}"
            why = self._what_went_wrong(error, context, template if is_file else None)
            raise TemplateError(f"{what}: {why}", template=template) from error

    def _what_went_wrong(self, error: Exception, context: Mapping[str, Any], file: str | None) -> str:
        if type(error).__name__ not in ("TemplateNotFound", "TemplatesNotFound"):
            return _what_went_wrong(error, context)
        where = ", ".join(map(str, self._searchpath)) or "the places of templates, since there are none"
        name = getattr(error, "name", None)
        if name == file:
            return f"it is not in {where}; with a space at its end the text is no name of a file"
        return f"there is no file {name!r} in {where}"

    def _render(self, value: Any, context: Mapping[str, Any], extensions: tuple[str, ...], seen: set[int]) -> Any:
        if isinstance(value, str):
            if extensions and value.endswith(extensions):
                return self._value(value, context, is_file=True)
            return self._value(value, context) if is_template(value) else value
        if isinstance(value, literal):
            return value.value
        if isinstance(value, PLACEHOLDERS):
            return value
        if isinstance(value, dict):
            return {key: self._render(one, context, extensions, seen) for key, one in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return _like(value, [self._render(one, context, extensions, seen) for one in value])
        if id(value) not in seen:  # objects may hold each other
            seen.add(id(value))
            for field in template_fields(value):
                self._render_field(value, field, context, extensions, seen)
        return value

    def _render_field(
        self, holder: Any, field: str, context: Mapping[str, Any], extensions: tuple[str, ...], seen: set[int]
    ) -> None:
        if not hasattr(holder, field):
            kind = type(holder).__name__
            raise TemplateError(
                f"{kind} names {field!r} in its template_fields and has no such attribute", template=field
            )
        value = getattr(holder, field)
        if callable(value):
            rendered = value(context=context, jinja_env=self._environment(self._native))
        else:
            rendered = self._render(value, context, extensions, seen)
        if rendered is not value:
            setattr(holder, field, rendered)


def _like(container: Any, parts: list[Any]) -> Any:
    """A container of the kind of another one."""
    if isinstance(container, list):
        return parts
    if isinstance(container, tuple):
        return type(container)(*parts) if hasattr(container, "_fields") else tuple(parts)
    return frozenset(parts) if isinstance(container, frozenset) else set(parts)


@cache
def _environment_class(native: bool) -> type[jinja2.Environment]:
    from jinja2.nativetypes import NativeEnvironment
    from jinja2.sandbox import SandboxedEnvironment, is_internal_attribute

    class Sandbox(SandboxedEnvironment):
        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            return not is_internal_attribute(obj, attr)

    return NativeEnvironment if native else Sandbox


def _undefined_class(name: str) -> type[jinja2.Undefined]:
    import jinja2

    found: type[jinja2.Undefined] = getattr(jinja2, UNDEFINED[name])
    return found


def _defined(value: Any) -> Any:
    """The value of a native template. Jinja hands out an undefined name as it is, without its complaint."""
    import jinja2

    return str(value) if isinstance(value, jinja2.Undefined) else value


_CONTEXT = "liteflow context"
"""Under which a template has the whole context, beside a copy of what is in it: no name that it could say."""


def _rendered(template: jinja2.Template, context: Mapping[str, Any]) -> Any:
    if isinstance(context, Context) and context.later:
        return template.render(context, **{_CONTEXT: context})
    return template.render(context)


@cache
def _context_class() -> type[jinja2.runtime.Context]:
    import jinja2

    class Names(jinja2.runtime.Context):
        """Finds what comes into the context only when it is asked for."""

        def resolve_or_missing(self, key: str) -> Any:
            whole = self.parent.get(_CONTEXT)
            if whole is not None and key in whole.later and key not in self.vars:
                return whole[key]
            return super().resolve_or_missing(key)

    return Names


def _shortened(template: str) -> str:
    return template if len(template) <= _SHOWN_LENGTH else template[: _SHOWN_LENGTH - 3] + "..."


def _what_went_wrong(error: Exception, context: Mapping[str, Any]) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "jinja2":
        return "the worker has no jinja2; pip install 'liteflow[jinja]' there"
    import jinja2

    text = " ".join(str(error).split())
    if isinstance(error, jinja2.UndefinedError):
        unknown = re.fullmatch(r"'(\w+)' is undefined", text)
        return text + (did_you_mean(unknown[1], context) if unknown else "")
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno}: {text}; a text that is no template goes in literal(...)"
    return f"{type(error).__name__}: {text}"


Moment = date | time_of_day | None


def _ds(value: Moment) -> str | None:
    return None if value is None else value.strftime("%Y-%m-%d")


def _ds_nodash(value: Moment) -> str | None:
    return None if value is None else value.strftime("%Y%m%d")


def _ts(value: Moment) -> str | None:
    return None if value is None else value.isoformat()


def _ts_nodash(value: Moment) -> str | None:
    return None if value is None else value.strftime("%Y%m%dT%H%M%S")


def _ts_nodash_with_tz(value: Moment) -> str | None:
    return None if value is None else value.isoformat().replace("-", "").replace(":", "")


FILTERS: Mapping[str, Callable[[Moment], str | None]] = {
    "ds": _ds,
    "ds_nodash": _ds_nodash,
    "ts": _ts,
    "ts_nodash": _ts_nodash,
    "ts_nodash_with_tz": _ts_nodash_with_tz,
}
"""Airflow's filters: a date as text, None stays None."""


class Macros:
    """What templates find under `macros`: Airflow's names.

    `dateutil` and `yaml` are imported when they are asked for, and are there if they are installed.
    `datetime_diff_for_humans` and `ds_format_locale` are left out: they need pendulum and babel.
    """

    datetime = datetime
    timedelta = timedelta
    time = time
    uuid = uuid
    json = json
    random = random.random

    _installable: ClassVar[Mapping[str, str]] = {"dateutil": "python-dateutil", "yaml": "pyyaml"}

    @staticmethod
    def ds_add(ds: str, days: int) -> str:
        """The date (`YYYY-MM-DD`) that many days later; with a negative number, earlier."""
        return (_read_date(ds, "%Y-%m-%d") + timedelta(days=days)).strftime("%Y-%m-%d")

    @staticmethod
    def ds_format(ds: str, input_format: str, output_format: str) -> str:
        """A date in another format; both formats are those of `strftime`."""
        return _read_date(ds, input_format).strftime(output_format)

    def __getattr__(self, name: str) -> Any:
        if name not in self._installable:
            raise AttributeError(f"macros has no {name!r}")
        try:
            return import_module(name)
        except ImportError:
            raise ImportError(f"macros.{name} needs a package: pip install {self._installable[name]}") from None


def _read_date(text: str, form: str) -> datetime:
    return datetime.strptime(str(text), form)  # noqa: DTZ007  (a date as text has no zone, and gets none)


@cache
def macros() -> Macros:
    """What stands under `macros` in the context."""
    return Macros()
