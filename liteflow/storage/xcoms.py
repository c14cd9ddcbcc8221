"""XCom values as bytes, and back.

Four encodings. `json`: plain JSON, in which what JSON does not have is written as an object with the one key `$`
and a tag. `bytes`: a bytes object as it is. `pickle`: protocol 5, for everything else. Only exact types are written
as JSON, so that what comes back has the type that went in. `items`: what other tasks are mapped over, each item in an
encoding of its own, so that the items can be counted and handed out without decoding any of them.

Classes and functions of a dag file are named by the file, never by `__main__`, so that any process can find them.
This module must not import SQLAlchemy: workers use it.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import pickle
import re
import struct
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from enum import Enum
from importlib import import_module
from itertools import accumulate
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from liteflow.authoring.dagfile import file_of_module, importable_name, load_file
from liteflow.authoring.xcomarg import as_items
from liteflow.errors import XComDecodeError, XComEncodeError

JSON = "json"
BYTES = "bytes"
PICKLE = "pickle"
ITEMS = "items"

LARGEST_JSON_BYTES = 64 * 1024
"""A bytes object inside a container that is longer than this makes the whole value a pickle: base64 is a third more."""


LARGEST_VALUE_BYTES = 1_000_000_000 - 65_536
"""What SQLite takes in one row, with room for the rest of it."""


class Encoded(NamedTuple):
    """A value as it is stored and sent."""

    encoding: str
    data: bytes


NONE = Encoded(JSON, b"null")


_SHORT_INT = 10**18
_SHORT_DIGITS = re.compile(rb"0|-?[1-9][0-9]{0,17}")
"""Whole numbers go past the JSON of the library, which takes ten times as long."""


def encode(value: Any) -> Encoded:
    """The value as bytes. Raises XComEncodeError, which names the type, when nothing can hold it."""
    encoded = _encode(value)
    if len(encoded.data) > LARGEST_VALUE_BYTES:
        raise XComEncodeError(
            f"a value of type {_type_name(value)} takes {size_text(len(encoded.data))}, and SQLite holds no more than "
            f"{size_text(LARGEST_VALUE_BYTES)}. Write it to a file and return the path"
        )
    return encoded


def _encode(value: Any) -> Encoded:
    kind = type(value)
    if value is None:
        return NONE
    if kind is bytes:
        return Encoded(BYTES, value)
    if kind is int and abs(value) < _SHORT_INT:
        return Encoded(JSON, b"%d" % value)
    try:
        # _plain raises for what JSON has no tag for; recursion and huge numbers are pickle's business too.
        return Encoded(JSON, _typed_json(value).encode("ascii"))
    except (_NotPlain, RecursionError, ValueError):
        return Encoded(PICKLE, _pickle(value))


def encode_json(value: Any) -> str:
    """The value as typed JSON. Raises XComEncodeError for what only pickle could hold."""
    try:
        return _typed_json(value)
    except (_NotPlain, RecursionError, ValueError) as error:
        raise XComEncodeError(f"a value of type {type(value).__name__} cannot be written as JSON: {error}") from None


def decode(encoding: str, data: bytes) -> Any:
    """The value again. May import modules and, for a pickle, runs what it says: only for databases that you trust.

    Raises XComDecodeError, which names the class and the file that are missing.
    """
    try:
        if encoding == JSON:
            return int(data) if _SHORT_DIGITS.fullmatch(data) else _rich(json.loads(data))
        if encoding == BYTES:
            return bytes(data)
        if encoding == PICKLE:
            return _Unpickler(io.BytesIO(data)).load()
        if encoding == ITEMS:
            return _decode_items(EncodedItems(data))
    except Exception as error:
        raise XComDecodeError(
            f"a stored value ({encoding}, {size_text(len(data))}) cannot be read here: {_why(error)}. "
            "raw=True gives its bytes"
        ) from error
    raise XComDecodeError(f"a stored value has the encoding {encoding!r}, which this liteflow does not know")


def preview(encoding: str, data: bytes, *, length: int = 2000) -> str:
    """The value as text for people, cut to `length` characters. Never unpickles and never imports anything."""
    if encoding == ITEMS:
        try:
            return _preview_items(EncodedItems(data), length)
        except XComDecodeError:
            return f"<{encoding}, damaged, {size_text(len(data))}>"
    if encoding != JSON:
        return f"<{encoding}, {size_text(len(data))}>"
    if len(data) > length:
        return f"{data[:length].decode('ascii', 'replace')}... <{size_text(len(data))}>"
    try:  # with the characters themselves instead of their codes
        text = json.dumps(json.loads(data), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace").decode()
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")


def plain_json(encoding: str, data: bytes) -> Any:
    """The value as JSON has it, tags and all, for programs; None where a pickle or bytes would have to be opened.

    Raises XComDecodeError for what is no JSON, and for numbers that JSON does not have, such as NaN.
    """
    if encoding == ITEMS:
        items = EncodedItems(data)
        return [plain_json(*items.item(number)) for number in range(len(items))]
    if encoding != JSON:
        return None
    try:
        return json.loads(data, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise XComDecodeError(f"a stored value ({size_text(len(data))}) is no JSON: {_why(error)}") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number in JSON")
    return number


def size_text(size_bytes: int) -> str:
    """A size for people: `17 B`, `1.2 MB`."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


# Item by item

_HEAD = struct.Struct("!Q")


class EncodedItems:
    """A list, tuple or dict whose items are encoded one by one; of a dict they are pairs of key and value."""

    def __init__(self, data: bytes) -> None:
        """Raises XComDecodeError for bytes that `encode_items` did not make."""
        try:
            (size,) = _HEAD.unpack_from(data)
            header = json.loads(data[_HEAD.size : _HEAD.size + size])
            self.kind: str = header["kind"]
            """`list`, `tuple` or `dict`: what it is made into again."""
            self._encodings: list[str] = header["encodings"]
            sizes: list[int] = header["sizes"]
            self._ends = list(accumulate(sizes, initial=_HEAD.size + size))
            fits = (
                self.kind in ("list", "tuple", "dict")
                and {JSON, BYTES, PICKLE}.issuperset(self._encodings)
                and len(self._encodings) in (min(1, len(sizes)), len(sizes))
                and min(sizes, default=0) >= 0
                and self._ends[-1] == len(data)
            )
        except (struct.error, ValueError, TypeError, LookupError, RecursionError) as error:
            raise XComDecodeError(f"a stored list ({size_text(len(data))}) is damaged: {_why(error)}") from error
        if not fits:
            raise XComDecodeError(f"a stored list ({size_text(len(data))}) is damaged: its items do not fill it")
        self._data = data

    def __len__(self) -> int:
        return len(self._ends) - 1

    def encoding(self, number: int) -> str:
        """How one item is encoded."""
        return self._encodings[number] if len(self._encodings) > 1 else self._encodings[0]

    def item(self, number: int) -> Encoded:
        """One item, still encoded."""
        return Encoded(self.encoding(number), self._data[self._ends[number] : self._ends[number + 1]])


def encode_items(value: Any) -> Encoded:
    """A sequence or mapping item by item. Raises XComEncodeError for what has no items to map over."""
    try:
        items = as_items(value)
    except TypeError as error:
        raise XComEncodeError(f"{error}: another task is mapped over what this one returns") from None
    kind = "dict" if isinstance(value, Mapping) else "tuple" if type(value) is tuple else "list"
    encoded = [encode(one) for one in items]
    encodings = [one.encoding for one in encoded]
    if len(set(encodings)) == 1:  # the usual case, and a shorter header
        encodings = encodings[:1]
    header = {"kind": kind, "encodings": encodings, "sizes": [len(one.data) for one in encoded]}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    data = b"".join([_HEAD.pack(len(text)), text, *(one.data for one in encoded)])
    if len(data) > LARGEST_VALUE_BYTES:
        raise XComEncodeError(
            f"{len(items)} items take {size_text(len(data))}, and SQLite holds no more than "
            f"{size_text(LARGEST_VALUE_BYTES)}. Write them to files and return the paths"
        )
    return Encoded(ITEMS, data)


def _decode_items(items: EncodedItems) -> Any:
    values = [decode(*items.item(number)) for number in range(len(items))]
    if items.kind == "dict":
        return dict(values)
    return tuple(values) if items.kind == "tuple" else values


def _preview_items(items: EncodedItems, length: int) -> str:
    """As the list would be written, as far as there is room."""
    parts: list[str] = []
    room = length
    for number in range(len(items)):
        parts.append(preview(*items.item(number), length=max(room, 20)))
        room -= len(parts[-1]) + 1
        if room <= 0 and number + 1 < len(items):
            parts.append(f"... <{len(items)} items>")
            break
    return f"[{','.join(parts)}]"


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


# Typed JSON


class _NotPlain(Exception):
    """A value that JSON is not used for."""


_TAG = "$"
_BARE = frozenset({str, int, bool, type(None)})


_MADE_BY_CODE = f'{{"{_TAG}":"dataclass"'
"""How a dataclass begins in the text; in a string the quotes would be escaped."""


def _typed_json(value: Any) -> str:
    """The value as text. What holds a dataclass, whose own code makes it again, is tried out first."""
    text = _dumps(_plain(value))
    if _MADE_BY_CODE in text:
        try:
            # Compared as it is written: an __eq__ may think 1.0 the same as 1, or raise.
            same = _dumps(_plain(_rich(json.loads(text)))) == text
        except Exception as error:
            raise _NotPlain("a dataclass that does not come back") from error
        if not same:
            raise _NotPlain("a dataclass that comes back as another")
    return text


def _dumps(plain: Any) -> str:
    text = json.dumps(plain, ensure_ascii=True, allow_nan=False, separators=(",", ":"), check_circular=False)
    if "\\ud" in text:
        # Two lone surrogates side by side would be read back as one character.
        try:
            json.dumps(plain, ensure_ascii=False, check_circular=False).encode()
        except UnicodeEncodeError as error:
            raise _NotPlain("text with surrogates") from error
    return text


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _BARE:
        return value
    if kind is float:
        return value if math.isfinite(value) else {_TAG: "float", "v": repr(value)}
    if kind is list:
        # Most lists hold bare values or only floats: then nothing needs a look of its own.
        if _BARE.issuperset(map(type, value)) or _are_finite_floats(value):
            return value
        return [_plain(one) for one in value]
    if kind is dict:
        if all(type(key) is str for key in value) and _TAG not in value:
            return {key: _plain(one) for key, one in value.items()}
        return {_TAG: "dict", "v": [[_plain(key), _plain(one)] for key, one in value.items()]}
    tagger = _TAGGERS.get(kind)
    if tagger is not None:
        return {_TAG: kind.__name__, "v": tagger(value)}
    tagger = _late_tagger(kind)
    if tagger is not None:
        return {_TAG: kind.__name__, "v": tagger(value)}
    if isinstance(value, Enum):
        return _plain_enum(value, kind)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain_dataclass(value, kind)
    raise _NotPlain(f"no tag for {kind.__name__}")


def _are_finite_floats(values: list[Any]) -> bool:
    return set(map(type, values)) == {float} and all(map(math.isfinite, values))


def _plain_bytes(value: bytes) -> str:
    if len(value) > LARGEST_JSON_BYTES:
        raise _NotPlain("long bytes")
    return b64encode(value).decode("ascii")


def _plain_items(value: Any) -> list[Any]:
    return [_plain(one) for one in value]


def _plain_set(value: Any) -> list[Any]:
    """Sorted by how they are written: a set's own order differs from process to process."""
    return sorted(_plain_items(value), key=_dumps)


_TAGGERS: dict[type, Callable[[Any], Any]] = {
    tuple: _plain_items,
    set: _plain_set,
    frozenset: _plain_set,
    bytes: _plain_bytes,
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "dict": lambda pairs: {_rich(key): _rich(one) for key, one in pairs},
    "tuple": lambda items: tuple(map(_rich, items)),
    "set": lambda items: set(map(_rich, items)),
    "frozenset": lambda items: frozenset(map(_rich, items)),
    "bytes": b64decode,
    "dataclass": lambda found: _rich_dataclass(found),
    "enum": lambda found: _rich_enum(found),
}


def _late_tagger(kind: type) -> Callable[[Any], Any] | None:
    """Taggers of types whose modules are imported only when a value of theirs turns up."""
    if kind.__module__ in ("datetime", "decimal", "uuid", "pathlib", "pathlib._local"):
        _register_late_types()
        return _TAGGERS.get(kind)
    return None


def _register_late_types() -> None:
    from datetime import date, datetime, time, timedelta
    from decimal import Decimal
    from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
    from uuid import UUID

    def plain_moment(value: datetime | time) -> str:
        # isoformat keeps an offset but neither a zone's name nor its rules, nor fold.
        text = value.isoformat()
        if repr(type(value).fromisoformat(text)) != repr(value):
            raise _NotPlain("a time with a zone of its own")
        return text

    _TAGGERS.update(
        {
            datetime: plain_moment,
            time: plain_moment,
            date: date.isoformat,
            timedelta: lambda value: [value.days, value.seconds, value.microseconds],
            Decimal: str,
            UUID: str,
            PosixPath: str,
            WindowsPath: str,
            PurePosixPath: str,
            PureWindowsPath: str,
        }
    )
    _READERS.update(
        {
            "datetime": datetime.fromisoformat,
            "time": time.fromisoformat,
            "date": date.fromisoformat,
            "timedelta": lambda parts: timedelta(*parts),
            "Decimal": Decimal,
            "UUID": UUID,
            "PosixPath": PosixPath,
            "WindowsPath": WindowsPath,
            "PurePosixPath": PurePosixPath,
            "PureWindowsPath": PureWindowsPath,
        }
    )


def _plain_enum(value: Enum, kind: type[Enum]) -> Any:
    if kind.__members__.get(value.name) is not value:
        raise _NotPlain("a combination of flags")
    return {_TAG: "enum", "v": [_class_path(kind), value.name]}


def _plain_dataclass(value: Any, kind: type) -> Any:
    if isinstance(value, dict | list | tuple | set | frozenset | str | bytes | int | float):
        raise _NotPlain("a dataclass that is also a container")
    fields = dataclasses.fields(value)
    if not all(field.init for field in fields) or len(getattr(value, "__dict__", ())) > len(fields):
        raise _NotPlain("a dataclass that its fields do not make")
    try:
        plain = {field.name: _plain(getattr(value, field.name)) for field in fields}
    except AttributeError as error:  # a field that was never set
        raise _NotPlain("a dataclass without one of its fields") from error
    return {_TAG: "dataclass", "v": [_class_path(kind), plain]}


def _class_path(kind: type) -> list[str | None]:
    """Module, file (None when the module can be imported) and qualified name, once they are seen to lead back."""
    try:
        reference = reference_of(kind)
    except LookupError as error:
        raise _NotPlain("a class that no other process can find") from error
    return list(reference)


def _rich(plain: Any) -> Any:
    kind = type(plain)
    if kind is list:
        return plain if _BARE.issuperset(map(type, plain)) else [_rich(one) for one in plain]
    if kind is dict:
        tag = plain.get(_TAG)
        if tag is None:
            return {key: _rich(one) for key, one in plain.items()}
        if tag not in _READERS:
            _register_late_types()
        if tag not in _READERS:
            raise XComDecodeError(f"it holds the tag {tag!r}, which this liteflow does not know")
        return _READERS[tag](plain["v"])
    return plain


def _rich_dataclass(found: Any) -> Any:
    path, fields = found
    kind = find_for_value(*path)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise XComDecodeError(f"{path[2]} of {path[1] or path[0]} is no dataclass any more")
    return kind(**{name: _rich(one) for name, one in fields.items()})


def _rich_enum(found: Any) -> Any:
    path, name = found
    kind = find_for_value(*path)
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        raise XComDecodeError(f"{path[2]} of {path[1] or path[0]} is no enum any more")
    return kind[name]


# Finding classes and functions again


class Reference(NamedTuple):
    """Where a class or function is found: in a module that can be imported, or (`file`) in a dag file."""

    module: str
    file: str | None
    qualname: str


def reference_of(thing: Any) -> Reference:
    """Where other processes find `thing`. Raises LookupError when they would not find just this one."""
    module = getattr(thing, "__module__", None)
    qualname = getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or "<" in qualname:
        raise LookupError(qualname)
    file = file_of_module(module)
    found = _attribute(sys.modules[module], qualname)
    if found is not thing and getattr(found, "function", None) is not thing:
        raise LookupError(qualname)
    # A file's module has its name from its path, here and everywhere.
    return Reference(os.path.basename(file) if file else importable_name(module), file, qualname)


def find(module: str, file: str | None, qualname: str) -> Any:
    """What `reference_of` named; of a decorated task function the plain one. Imports the module or loads the file.

    What the module's own code raises comes out as it is; LookupError when it does not hold the name.
    """
    found = _attribute(_module(module, file), qualname)
    if type(found).__module__ == "liteflow.authoring.task" and hasattr(found, "function"):
        return found.function
    return found


def find_for_value(module: str, file: str | None, qualname: str) -> Any:
    """The same for a class or function that a stored value needs: whatever is wrong, the error names it and its place.

    Pickles name this function: it must stay where it is.
    """
    try:
        return find(module, file, qualname)
    except Exception as error:
        raise LookupError(f"{qualname} of {file or module} is not to be had: {_why(error)}") from error


def _module(module: str, file: str | None) -> ModuleType:
    if file is not None:
        return load_file(file)
    return import_module(module)  # which waits for a thread that is importing it now


def _attribute(thing: Any, qualname: str) -> Any:
    try:
        for name in qualname.split("."):
            thing = getattr(thing, name)
    except AttributeError as error:
        raise LookupError(str(error)) from None
    return thing


# Pickle


class FilePickler(pickle.Pickler):
    """Pickles classes and functions of a dag file by their file; everything else as pickle does."""

    def reducer_override(self, obj: Any) -> Any:
        reduced = reduce_by_file(obj)
        return NotImplemented if reduced is None else reduced


def reduce_by_file(obj: Any) -> Any:
    """How a class or function is pickled when its module's name means nothing elsewhere; None to leave it to pickle.

    Also a decorated task function, which plain pickle refuses, since its name leads to the decorated one.
    """
    if not isinstance(obj, type | FunctionType):
        return None
    module = getattr(obj, "__module__", None)
    if not isinstance(module, str) or module == "builtins":
        return None
    try:
        reference = reference_of(obj)
    except LookupError:
        return None
    is_main = module in ("__main__", "__mp_main__")
    if reference.file is None and not is_main and _attribute(sys.modules[module], obj.__qualname__) is obj:
        return None
    return find_for_value, tuple(reference)


class _Unpickler(pickle.Unpickler):
    """Says of which class it is that a module is missing."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError) as error:
            raise LookupError(f"{name} of {module} is not to be had: {_why(error)}") from error


def _pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        FilePickler(buffer, protocol=5).dump(value)
    except Exception as error:  # whatever the __reduce__ of a stranger's class raises
        raise XComEncodeError(
            f"a value of type {_type_name(value)} cannot be stored: {_why(error)}. "
            + (
                "No other process finds a class of a prompt or notebook: define it in a module"
                if type(value).__module__ == "__main__"
                else "Return plain data, or a path to what you wrote"
            )
        ) from error
    data = buffer.getvalue()
    try:
        pickle.loads(data)
    except Exception as error:
        raise XComEncodeError(
            f"a value of type {_type_name(value)} can be written and not read again: {_why(error)}. "
            "Return plain data, or give the class a __reduce__ that works"
        ) from error
    return data


def pickle_exception(error: BaseException) -> bytes | None:
    """The exception as it can travel to a callback; None if it cannot."""
    try:
        return _pickle(error)
    except XComEncodeError:
        return None


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
