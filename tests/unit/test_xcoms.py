"""XCom values as bytes: what went in comes back, with its type, in any process; and looking at one runs nothing."""

from __future__ import annotations

import dataclasses
import enum
import io
import json
import os
import pickle
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import liteflow
from liteflow.authoring.dagfile import load_file
from liteflow.errors import XComDecodeError, XComEncodeError
from liteflow.storage.xcoms import (
    LARGEST_JSON_BYTES,
    Encoded,
    decode,
    encode,
    encode_json,
    preview,
    reference_of,
    size_text,
)

# Classes of this module, as a user's module would have them.


class Colour(enum.Enum):
    RED = "r"
    GREEN = ("g", 2)
    ALIAS = "r"  # noqa: PIE796  (another name of RED is what is wanted)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass(slots=True)
class Slotted:
    name: str
    inner: Any


@dataclasses.dataclass(slots=True)
class HalfMade:
    name: str
    rest: int = dataclasses.field(init=False, repr=False)


@dataclasses.dataclass
class Secretive:
    """Its fields do not make it: `seen` is no argument."""

    name: str
    seen: list[str] = dataclasses.field(default_factory=list, init=False)


@dataclasses.dataclass
class Normalised:
    """Equal to what it is made again from, but of another type inside."""

    count: Any

    def __post_init__(self) -> None:
        self.count = float(self.count)


@dataclasses.dataclass
class Stamped:
    """Equal to what it is made again from, since what differs is not compared."""

    name: str
    history: list[str] = dataclasses.field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        self.history = [*self.history, "made"]


@dataclasses.dataclass
class Quarrelsome:
    """Cannot be compared, as arrays cannot."""

    name: str

    def __eq__(self, other: object) -> bool:
        raise ArithmeticError("the truth of this is ambiguous")

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass
class Table(dict):  # type: ignore[type-arg]
    """A dict with a field: what it holds as a dict is not among its fields."""

    name: str


@dataclasses.dataclass
class Rows(list):  # type: ignore[type-arg]
    """A list with a field."""

    name: str


@dataclasses.dataclass
class Wide:
    """Many fields without defaults, so that its class has none of them as attributes."""

    a: int
    b: int
    c: int
    d: int
    e: int
    f: int
    g: int
    h: int
    i: int
    j: int
    k: int
    l: int  # noqa: E741
    m: int
    n: int
    o: int
    p: int
    q: int
    r: int
    s: int
    t: int
    u: int


class Thing:
    """A plain class: pickle's business."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]


class Unreadable:
    """Can be written and not read again."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class Unwritable:
    def __reduce__(self) -> Any:
        raise ArithmeticError("not today")


class Text(str):
    __slots__ = ()


Row = namedtuple("Row", "a b")


class Zone(tzinfo):
    """A zone with rules of its own."""

    def utcoffset(self, _: Any) -> timedelta:
        return timedelta(hours=1)

    def dst(self, _: Any) -> timedelta:
        return timedelta(0)

    def tzname(self, _: Any) -> str:
        return "own"


def double(value: int) -> int:
    """A function of a module."""
    return value * 2


def shape(value: Any) -> str:
    """A text that is the same for two values exactly if they have the same types and content, NaN included."""
    kind = type(value).__qualname__
    if isinstance(value, Table | Rows):
        inner = f"{value.name} {shape(dict(value) if isinstance(value, Table) else list(value))}"
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = " ".join(shape(getattr(value, field.name, "unset")) for field in dataclasses.fields(value))
    elif isinstance(value, enum.Enum):
        inner = str(value.name)
    elif isinstance(value, list | tuple):
        inner = " ".join(map(shape, value))
    elif isinstance(value, set | frozenset):
        inner = " ".join(sorted(map(shape, value)))
    elif isinstance(value, dict):
        inner = " ".join(f"{shape(key)}:{shape(one)}" for key, one in value.items())
    elif isinstance(value, datetime | time):
        zone = f"{type(value.tzinfo).__qualname__} {value.tzname()} {value.utcoffset()}" if value.tzinfo else "naive"
        inner = f"{value.replace(tzinfo=None).isoformat()} fold={value.fold} {zone}"
    elif isinstance(value, Decimal):
        inner = str(value.as_tuple())
    elif isinstance(value, Thing):
        inner = shape(value.value)
    elif isinstance(value, int) and abs(value) > 10**4000:
        inner = hex(value)
    else:
        inner = ascii(value)
    return f"{kind}({inner})"


def again(value: Any) -> Any:
    """The value through its bytes."""
    encoding, data = encode(value)
    assert type(data) is bytes
    return decode(encoding, data)


# Any value comes back

any_text = st.text(st.characters(exclude_categories=()), max_size=8)
zones = st.sampled_from([None, UTC]) | st.builds(
    timezone, st.integers(-86399, 86399).map(lambda seconds: timedelta(seconds=seconds))
)

hashable_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    any_text,
    st.sampled_from(["$", "", "\x00", "\ud800", "\udc80x", "v"]),
    st.binary(max_size=8),
    st.datetimes(timezones=zones),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.sampled_from([Path("/a b/ü"), Path("."), PurePosixPath("x"), PureWindowsPath("C:\\x")]),
    st.sampled_from([*Colour, *Level, *Word, Access.READ]),
)
hashables = st.recursive(
    hashable_leaves,
    lambda inner: (
        st.tuples(inner) | st.tuples(inner, inner) | st.frozensets(inner, max_size=3) | st.builds(Point, inner, inner)
    ),
    max_leaves=4,
)
leaves = hashable_leaves | st.decimals()
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(hashables, max_size=3)
        | st.frozensets(hashables, max_size=3)
        | st.dictionaries(any_text | st.just("$"), inner, max_size=3)
        | st.dictionaries(hashables, inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Slotted, any_text, inner)
        | st.builds(Thing, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=400)
@given(values)
def test_any_value_comes_back_with_its_exact_types(value: Any) -> None:
    assert shape(again(value)) == shape(value)


@given(values)
def test_typed_json_of_any_value_is_ascii_json_with_a_preview(value: Any) -> None:
    encoding, data = encode(value)
    if encoding == "json":
        json.loads(data.decode("ascii"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert json.loads(preview(encoding, data, length=10**6)) == json.loads(data)
        assert encode_json(value).encode() == data
    else:
        assert preview(encoding, data).startswith(f"<{encoding}, ")


@given(st.integers(0, 20_000), st.sampled_from([1, -1]), st.booleans())
def test_an_int_of_any_size_comes_back(bits: int, sign: int, inside: bool) -> None:
    # Beyond 4300 digits Python refuses to write one down in decimal.
    value = sign << bits
    found = again({"a": [value]})["a"][0] if inside else again(value)
    assert type(found) is int
    assert hex(found) == hex(value)


NOW = datetime(2026, 1, 2, 3, 4, 5, 678901)  # noqa: DTZ001  (one without a zone)
HUGE = 10**5000


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**70),
        1.5,
        -0.0,
        float("nan"),
        float("inf"),
        -float("inf"),
        "ü\x00😀",
        [],
        [1, 2.5, None],
        [1.0, float("nan")],
        (),
        (1, (2,)),
        {1, 2},
        frozenset({"a"}),
        {},
        {"a": {"b": [1]}},
        {"$": 1},
        {"$": "tuple", "v": [1]},
        {1: "a", None: "b", (1, 2): "c", b"x": "d", 2.5: "e"},
        {"a": b"bytes"},
        [b"x" * LARGEST_JSON_BYTES],
        NOW,
        NOW.replace(tzinfo=UTC),
        NOW.replace(tzinfo=timezone(timedelta(hours=-3, seconds=7))),
        NOW.date(),
        NOW.time(),
        NOW.time().replace(tzinfo=UTC),
        timedelta(days=-1, microseconds=1),
        timedelta.max,
        Decimal("1.10"),
        Decimal("NaN12"),
        Decimal("sNaN"),
        Decimal("-0E-5"),
        Decimal("-Infinity"),
        UUID(int=5),
        Path("/a/b"),
        PureWindowsPath("C:\\x"),
        Colour.GREEN,
        Colour.ALIAS,
        Level.HIGH,
        Word.YES,
        Access.READ,
        Point(1, (2, 3)),
        {Point(1): Point(2)},
        Slotted("a", [Point(1, Colour.RED)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_data_is_stored_as_json(value: Any) -> None:
    assert encode(value).encoding == "json"
    assert shape(again(value)) == shape(value)


@pytest.mark.parametrize("value", [b"", b"\x00\xff" * 100_000])
def test_a_bytes_object_is_stored_as_it_is(value: bytes) -> None:
    assert encode(value) == Encoded("bytes", value)
    assert again(value) == value


@pytest.mark.parametrize(
    "value",
    [
        HUGE,
        [HUGE],
        {"a": HUGE},
        bytearray(b"x"),
        1 + 2j,
        range(3),
        [b"x" * (LARGEST_JSON_BYTES + 1)],
        Text("x"),
        {Text("x"): 1},
        Row(1, 2),
        OrderedDict(a=1),
        Counter("aab"),
        defaultdict(list, a=[1]),
        NOW.replace(tzinfo=Zone()).tzinfo.__class__,
        NOW.replace(fold=1),
        NOW.time().replace(fold=1),
        Access.READ | Access.WRITE,
        Thing([1]),
        [1, Thing(2)],
        Secretive("a"),
        HalfMade("a"),
        Quarrelsome,
        Point,
        double,
        len,
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_else_is_pickled(value: Any) -> None:
    assert encode(value).encoding == "pickle"
    assert shape(again(value)) == shape(value)


def test_a_time_in_a_zone_with_rules_of_its_own_keeps_the_zone() -> None:
    value = NOW.replace(tzinfo=Zone())
    assert shape(again(value)) == shape(value)


@pytest.mark.parametrize(
    "zone", [timezone(timedelta(hours=1), "CET"), timezone(timedelta(0), "GMT"), timezone(timedelta(microseconds=1))]
)
def test_a_time_with_a_fixed_offset_keeps_offset_and_name_of_its_zone(zone: timezone) -> None:
    value = NOW.replace(tzinfo=zone)
    assert shape(again(value)) == shape(value)
    assert shape(again(value.timetz())) == shape(value.timetz())


def test_surrogates_that_look_like_a_pair_stay_two() -> None:
    value = "\ud83d\ude00"  # two characters to Python, one to JSON
    # Compared as escaped text: a lone surrogate in a failure's message would break the report of the test itself.
    assert shape(again(value)) == shape(value)
    assert shape(again({value: [value]})) == shape({value: [value]})


def test_a_dataclass_that_is_also_a_container_keeps_what_it_contains() -> None:
    table = Table("t")
    table["a"] = 1
    rows = Rows("r")
    rows.append(2)
    assert shape(again(table)) == shape(table)
    assert shape(again(rows)) == shape(rows)


def test_a_dataclass_that_equals_its_copy_and_is_another_comes_back_as_it_was() -> None:
    value = Normalised(1)
    value.count = 1  # equal to the 1.0 that __post_init__ makes of it, and of another type
    assert shape(again(value)) == shape(value)


def test_a_dataclass_that_changes_when_it_is_made_again_comes_back_as_it_was() -> None:
    assert again(Stamped("a")).history == ["made"]


def test_a_dataclass_that_cannot_be_compared_comes_back() -> None:
    assert again(Quarrelsome("a")).name == "a"
    assert again([Quarrelsome("a")])[0].name == "a"


def test_a_dataclass_with_a_signalling_nan_comes_back() -> None:
    value = Point(Decimal("sNaN"))
    assert shape(again(value)) == shape(value)


def test_a_dataclass_with_a_field_that_was_never_set_comes_back() -> None:
    value = Slotted("a", 1)
    del value.inner
    found = again(value)
    assert found.name == "a"
    assert not hasattr(found, "inner")


def test_a_dataclass_with_more_attributes_than_fields_keeps_them() -> None:
    value = Normalised(1.0)
    value.more = [1]  # type: ignore[attr-defined]
    assert again(value).more == [1]


def test_the_class_of_a_dataclass_is_a_value_too() -> None:
    assert again(Point) is Point
    assert again(Wide) is Wide


def test_a_class_that_is_defined_in_a_function_cannot_be_stored() -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    with pytest.raises(XComEncodeError, match="Local"):
        encode(Local(1))


def test_a_list_that_holds_itself_comes_back() -> None:
    value: list[Any] = [1]
    value.append(value)
    found = again(value)
    assert found[0] == 1
    assert found[1] is found


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x,), lambda x: {"k": x}], ids=["list", "tuple", "dict"])
@pytest.mark.parametrize("depth", [50, 150, 300, 450, 1000, 5000])
def test_a_deep_value_comes_back_or_is_refused_when_it_is_stored(wrap: Any, depth: int) -> None:
    value: Any = 0
    for _ in range(depth):
        value = wrap(value)
    try:
        encoded = encode(value)
    except XComEncodeError:
        assert depth > 100
        return
    found, levels = decode(*encoded), 0
    while found != 0:
        found = next(iter(found.values() if type(found) is dict else found))
        levels += 1
    assert levels == depth


@dataclasses.dataclass
class Nested:
    inner: Any
    made = 0

    def __post_init__(self) -> None:
        Nested.made += 1


def nested(depth: int) -> Nested | None:
    value = None
    for _ in range(depth):
        value = Nested(value)
    return value


def test_the_work_for_dataclasses_within_each_other_does_not_double_with_each_level() -> None:
    value = nested(12)
    Nested.made = 0
    encode(value)
    assert Nested.made <= 12 * 12
    value = nested(60)
    found, levels = again(value), 0
    while found is not None:
        found, levels = found.inner, levels + 1
    assert levels == 60


def test_values_that_are_equal_and_of_other_types_keep_their_types() -> None:
    assert [type(one) for one in again([True, 1, 1.0, Level.LOW, Decimal(1)])] == [bool, int, float, Level, Decimal]


def test_a_large_list_of_numbers_is_plain_json() -> None:
    assert encode([1.5] * 1000).data == json.dumps([1.5] * 1000, separators=(",", ":")).encode()


def test_decoding_takes_any_kind_of_buffer_for_bytes() -> None:
    found = decode("bytes", memoryview(b"abc"))  # type: ignore[arg-type]
    assert (type(found), found) == (bytes, b"abc")


@given(st.sets(st.integers() | any_text.filter(str.isascii) | st.floats() | st.none(), max_size=8))
def test_a_dataclass_that_holds_a_set_is_json_whatever_the_order_of_the_set(value: set[Any]) -> None:
    # A set that is made again may well come in another order: that makes it no other value.
    assert encode(Point(value, frozenset(value))).encoding == "json"
    assert encode_json(Point(value)) == encode_json(Point(value))


def test_a_set_is_the_same_text_in_every_process() -> None:
    # Params are compared as text when a run id is given again, and Python salts the order of a set of text.
    code = (
        "from liteflow.storage.xcoms import encode_json\n"
        "print(encode_json([set('abcdefgh'), frozenset('abcdefgh'), {1: {('a', 2), 'b', None}}]))"
    )
    assert python("-c", code, hash_seed="1") == python("-c", code, hash_seed="2")


# What cannot be stored


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (threading.Lock(), "lock"),
        ([threading.Lock()], "list"),
        (generator(), "generator"),
        (lambda: 1, "function"),
        (io.StringIO, None),
        (open, None),
        (sys, "module"),
        (Unwritable(), "Unwritable"),
        (Unreadable(), "Unreadable"),
        ({"a": Unreadable()}, "dict"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_value_that_nothing_holds_is_refused_with_its_type(value: Any, named: str | None) -> None:
    if named is None:  # a class or function of a module can be found again
        assert again(value) is value
        return
    with pytest.raises(XComEncodeError, match=named) as caught:
        encode(value)
    assert "cannot be stored" in str(caught.value) or "not read again" in str(caught.value)


def test_a_value_that_cannot_be_read_again_says_why() -> None:
    with pytest.raises(XComEncodeError, match="not read again: ValueError: invalid literal"):
        encode(Unreadable())


@pytest.mark.parametrize("value", [Thing(1), 1 + 2j, HUGE, [b"x" * 100_000]], ids=["thing", "complex", "huge", "long"])
def test_what_only_pickle_holds_is_no_typed_json(value: Any) -> None:
    with pytest.raises(XComEncodeError, match="cannot be written as JSON"):
        encode_json(value)


# Looking at a value runs nothing


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_preview_never_unpickles(tmp_path: Path) -> None:
    bait = tmp_path / "bait"
    data = pickle.dumps(Evil(str(bait)))
    assert preview("pickle", data) == f"<pickle, {len(data)} B>"
    assert not bait.exists()
    pickle.loads(data)  # the bait is real
    assert bait.exists()


def test_a_preview_never_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bait_module_of_preview.py").write_text("class Point: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for tag in ("dataclass", "enum"):
        for path in (["bait_module_of_preview", None, "Point"], ["x.py", str(tmp_path / "x.py"), "Point"]):
            data = json.dumps({"$": tag, "v": [path, {}]}).encode()
            assert json.loads(preview("json", data)) == json.loads(data)
    assert "bait_module_of_preview" not in sys.modules


def test_a_preview_of_bytes_is_their_size() -> None:
    assert preview("bytes", b"\x1b[31m" * 300) == "<bytes, 1.5 kB>"


def test_a_preview_of_an_unknown_encoding_is_its_size() -> None:
    assert preview("cbor", b"abc") == "<cbor, 3 B>"


def test_a_long_preview_is_cut_and_says_the_size() -> None:
    data = encode("x" * 5000).data
    assert preview("json", data, length=10) == '"xxxxxxxxx... <5.0 kB>'
    assert preview("json", data, length=len(data)) == data.decode()


@pytest.mark.parametrize("data", [b'"\\ud800"', b'["\\udc80", 1]', b"\xed\xa0\x80", b'"\xff', b"[" * 1500, b"NaN"])
def test_a_preview_can_be_printed_whatever_was_stored(data: bytes) -> None:
    assert preview("json", data).encode("utf-8")
    assert preview("json", data, length=2).encode("utf-8")


def test_a_preview_survives_data_that_is_no_json() -> None:
    assert preview("json", b"\xff{") == "\ufffd{"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (5_000_000_000, "5.0 GB")]
)
def test_a_size_is_text_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


# What cannot be read


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("json", b"{"),
        ("json", b"\xff"),
        ("json", b'{"$":"nosuchtag","v":1}'),
        ("json", b'{"$":"tuple"}'),
        ("json", b'{"$":["tuple"],"v":1}'),
        ("json", b'{"$":"dataclass","v":[["builtins",null,"int"],{}]}'),
        ("json", b'{"$":"enum","v":[["builtins",null,"int"],"real"]}'),
        ("json", b'{"$":"Decimal","v":"x"}'),
        ("pickle", b""),
        ("pickle", b"garbage"),
        ("cbor", b"abc"),
    ],
)
def test_data_that_cannot_be_read_is_one_error(encoding: str, data: bytes) -> None:
    with pytest.raises(XComDecodeError) as caught:
        decode(encoding, data)
    assert encoding in str(caught.value)


SOURCE = """
import dataclasses, enum

@dataclasses.dataclass
class Point:
    x: int

class Colour(enum.Enum):
    RED = 1

class Thing:
    def __init__(self, value):
        self.value = value
"""


@pytest.fixture
def dag_file(tmp_path: Path) -> Iterator[Path]:
    """A file with classes; what was loaded from it is forgotten afterwards."""
    path = tmp_path / "shop.py"
    path.write_text(SOURCE)
    yield path
    forget(path)


def forget(path: Path) -> None:
    """As if this process had never loaded the file."""
    from liteflow.authoring import dagfile

    sys.modules.pop(dagfile.module_name_of(str(path)), None)
    dagfile._digests.pop(str(path), None)


@pytest.mark.parametrize("made", ["Point(1)", "Colour.RED", "Thing(1)", "Thing"])
@pytest.mark.parametrize("loss", ["file", "class"])
def test_a_value_whose_class_is_gone_names_class_and_file(dag_file: Path, made: str, loss: str) -> None:
    encoded = encode(eval(made, vars(load_file(str(dag_file)))))
    forget(dag_file)
    if loss == "file":
        dag_file.unlink()
    else:
        dag_file.write_text("class Other: pass\n")
    with pytest.raises(XComDecodeError) as caught:
        decode(*encoded)
    assert made.split("(")[0].split(".")[0] in str(caught.value)
    assert str(dag_file) in str(caught.value)
    assert "raw=True" in str(caught.value)


@pytest.mark.parametrize("encoding", ["json", "pickle"])
def test_a_value_whose_module_cannot_be_imported_names_class_and_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    (tmp_path / "module_that_goes.py").write_text(SOURCE)
    with monkeypatch.context() as there:
        there.syspath_prepend(tmp_path)
        import module_that_goes  # type: ignore[import-not-found]

        value = module_that_goes.Point(1) if encoding == "json" else module_that_goes.Thing(1)
        encoded = encode(value)
    assert encoded.encoding == encoding
    del sys.modules["module_that_goes"]
    with pytest.raises(XComDecodeError, match="module_that_goes") as caught:
        decode(*encoded)
    assert type(value).__name__ in str(caught.value)


def test_a_class_that_is_no_dataclass_any_more_is_named(dag_file: Path) -> None:
    encoded = encode(load_file(str(dag_file)).Point(1))
    forget(dag_file)
    dag_file.write_text("class Point: pass\n")
    with pytest.raises(XComDecodeError, match="Point") as caught:
        decode(*encoded)
    assert str(dag_file) in str(caught.value)


# Other processes

SCRIPT = (
    SOURCE
    + """
import sys
from liteflow.storage.xcoms import decode, encode

if __name__ == "__main__":
    if sys.argv[1:]:
        encoding, data = sys.argv[1:]
        found = decode(encoding, bytes.fromhex(data))
        print(isinstance(found, (Point, Colour, Thing)), found is Thing)
    else:
        for value in (Point(1), Colour.RED, Thing(2), {"a": [Thing(3)]}, Thing):
            encoding, data = encode(value)
            print(encoding, data.hex())
"""
)

READER = """
import sys
from liteflow.storage.xcoms import decode

for line in sys.stdin:
    encoding, data = line.split()
    found = decode(encoding, bytes.fromhex(data))
    kind = found if isinstance(found, type) else type(found)
    print(kind.__module__.split("_shop")[0], kind.__qualname__, sorted(getattr(found, "__dict__", {}))[:1])
"""


def python(*args: str, stdin: str = "", cwd: Path | None = None, hash_seed: str = "random") -> str:
    """What a fresh interpreter prints."""
    package = str(Path(liteflow.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *args],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_classes_of_a_script_are_stored_by_its_file_and_found_by_every_process(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(SCRIPT)
    written = python(str(script))
    for line in written.splitlines():
        data = bytes.fromhex(line.split()[1])
        assert b"__main__" not in data
        assert b"__mp_main__" not in data
        assert str(script).encode() in data
    assert [line.split()[0] for line in written.splitlines()] == ["json", "json", "pickle", "pickle", "pickle"]
    read = python("-c", READER, stdin=written, cwd=Path("/")).splitlines()
    assert [line.split()[:2] for line in read] == [
        ["liteflow_dagfile", "Point"],
        ["liteflow_dagfile", "Colour"],
        ["liteflow_dagfile", "Thing"],
        ["builtins", "dict"],
        ["liteflow_dagfile", "Thing"],
    ]


def test_the_script_itself_gets_values_of_its_own_classes_back(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(SCRIPT)
    module = load_file(str(script))
    try:
        for value in (module.Point(1), module.Colour.RED, module.Thing(2)):
            encoding, data = encode(value)
            assert python(str(script), encoding, data.hex()).split() == ["True", "False"]
        encoding, data = encode(module.Thing)
        assert python(str(script), encoding, data.hex()).split()[1] == "True"
    finally:
        forget(script)


def test_classes_of_a_module_that_runs_as_main_are_stored_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "shop_package").mkdir()
    (tmp_path / "shop_package" / "__init__.py").touch()
    (tmp_path / "shop_package" / "stock.py").write_text(SCRIPT)
    written = python("-m", "shop_package.stock", cwd=tmp_path)
    assert len(written.splitlines()) == 5
    for line in written.splitlines():
        data = bytes.fromhex(line.split()[1])
        assert b"__main__" not in data
        assert b"shop_package.stock" in data
    read = python("-c", READER, stdin=written, cwd=tmp_path).splitlines()
    assert read[0].split()[:2] == ["shop_package.stock", "Point"]
    assert read[2].split()[:2] == ["shop_package.stock", "Thing"]


def test_a_class_is_referred_to_by_module_and_name() -> None:
    assert reference_of(Point) == (__name__, None, "Point")
    assert reference_of(dict) == ("builtins", None, "dict")


def test_what_only_looks_like_the_thing_at_its_name_is_not_referred_to() -> None:
    impostor = type("Point", (), {"__module__": __name__, "__qualname__": "Point"})
    with pytest.raises(LookupError):
        reference_of(impostor)
    with pytest.raises(LookupError):
        reference_of(lambda: 1)


def test_dates_without_time_are_no_datetimes() -> None:
    assert type(again(date(2026, 1, 1))) is date
