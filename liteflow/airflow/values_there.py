"""What Airflow can hand from task to task, as far as the text of a file shows it.

Airflow 3.3.2 writes XComs with `airflow.sdk.serde`: JSON, tuples and sets, dates (not `time`), timedelta, Decimal,
UUID, NumPy's scalars, DataFrames; classes by name, and reads them only if `[core] allowed_deserialization_classes`
names them. Each entry was tried there.
"""

from __future__ import annotations

import ast
from typing import NamedTuple

from liteflow.airflow.reading import Function, Source, returns_of

REFUSED, CHANGED, LISTED = "xcom-refused", "xcom-changed", "xcom-class"

_MOST_DEPTH = 6

_REFUSED_CALLS = {
    **dict.fromkeys(
        ["bytes", "bytearray", "complex", "memoryview", "range", "map", "filter", "zip", "enumerate", "slice"], ""
    ),
    **dict.fromkeys(["pathlib.Path", "pathlib.PurePath", "pathlib.PosixPath", "pathlib.PurePosixPath"], "Path"),
    "datetime.time": "time",
    "fractions.Fraction": "Fraction",
    "collections.deque": "deque",
    "re.compile": "Pattern",
    **dict.fromkeys(
        ["numpy.array", "numpy.zeros", "numpy.ones", "numpy.arange", "numpy.linspace", "numpy.ndarray"], "ndarray"
    ),
    "pandas.Series": "Series",
    "pandas.Timestamp": "Timestamp",
}
_REFUSED_NAMES = _REFUSED_CALLS | {"re.Pattern": "Pattern", "types.SimpleNamespace": "SimpleNamespace"}
_CHANGED_NAMES = dict.fromkeys(
    ["collections.Counter", "collections.OrderedDict", "collections.defaultdict"], "a plain dict"
)
_BYTES_METHODS = ("encode", "read_bytes", "tobytes")


class Doubt(NamedTuple):
    """What becomes of a value there."""

    rule: str
    text: str


def _refused(what: str) -> Doubt:
    return Doubt(REFUSED, f"{what}, which Airflow cannot store as an XCom")


def doubts_of_returns(source: Source, function: Function) -> list[tuple[int, Doubt]]:
    """Lines of a function and what is doubtful about the values that it returns there, or says that it returns."""
    found: dict[Doubt, int] = {}
    for statement in returns_of(function):
        if statement.value is not None:
            for doubt in _of_value(source, statement.value, _MOST_DEPTH):
                found.setdefault(doubt, statement.lineno)
    if function.returns is not None:
        for doubt in _of_annotation(source, function.returns, _MOST_DEPTH):
            found.setdefault(doubt, function.returns.lineno)
    return sorted(((line, doubt) for doubt, line in found.items()), key=lambda one: one[0])


def _of_value(source: Source, node: ast.AST, depth: int) -> list[Doubt]:
    if depth == 0:
        return []
    node = source.value(node)
    if isinstance(node, ast.Constant):
        return [_refused(f"returns {type(node.value).__name__}")] if isinstance(node.value, bytes | complex) else []
    inner: list[ast.AST] = []
    found: list[Doubt] = []
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        inner += node.elts
    elif isinstance(node, ast.Dict):
        inner += node.values
        if any(isinstance(key, ast.Constant) and not isinstance(key.value, str) for key in node.keys):
            found.append(_keys_change())
    elif isinstance(node, ast.IfExp):
        inner += [node.body, node.orelse]
    elif isinstance(node, ast.BoolOp):
        inner += node.values
    elif isinstance(node, ast.ListComp | ast.SetComp):
        inner.append(node.elt)
    elif isinstance(node, ast.DictComp):
        inner.append(node.value)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        inner.append(node.left)  # a path and what is below it
    elif (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and _sort_of(source, node.value.id) == "enum"
    ):
        found += _of_class(source, node.value.id, depth)
    elif isinstance(node, ast.Call):
        found += _of_call(source, node, depth)
    return found + [doubt for one in inner for doubt in _of_value(source, one, depth - 1)]


def _of_call(source: Source, call: ast.Call, depth: int) -> list[Doubt]:
    if isinstance(call.func, ast.Attribute) and call.func.attr in _BYTES_METHODS:
        return [_refused("returns bytes")]
    name = _name(source, call.func)
    if name in _REFUSED_CALLS:
        return [_refused(f"returns {_REFUSED_CALLS[name] or name}")]
    if name in _CHANGED_NAMES:
        return [Doubt(CHANGED, f"returns {name.rpartition('.')[2]}, which comes back as {_CHANGED_NAMES[name]}")]
    return _of_class(source, name, depth)


def _of_annotation(source: Source, node: ast.AST, depth: int) -> list[Doubt]:
    if depth == 0:
        return []
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return _of_annotation(source, ast.parse(node.value, mode="eval").body, depth - 1)
        except SyntaxError:
            return []
    if isinstance(node, ast.BinOp):
        return _of_annotation(source, node.left, depth - 1) + _of_annotation(source, node.right, depth - 1)
    if isinstance(node, ast.Subscript):
        inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        base = _name(source, node.value).rpartition(".")[2]
        if base in ("Literal", "Callable", "Annotated"):
            return []
        found = _of_annotation(source, node.value, depth - 1)
        if base in ("dict", "Dict", "Mapping") and _name(source, inner[0]) in ("int", "float", "bool", "tuple"):
            found.append(_keys_change())
        return found + [doubt for one in inner for doubt in _of_annotation(source, one, depth - 1)]
    name = _name(source, node)
    if name in _REFUSED_NAMES:
        return [_refused(f"returns {_REFUSED_NAMES[name] or name}")]
    if name in _CHANGED_NAMES:
        return [Doubt(CHANGED, f"returns {name.rpartition('.')[2]}, which comes back as {_CHANGED_NAMES[name]}")]
    return _of_class(source, name, depth)


def _keys_change() -> Doubt:
    return Doubt(CHANGED, "returns a dict with keys that are no text, which come back as text")


def _of_class(source: Source, name: str, depth: int) -> list[Doubt]:
    """What becomes of an instance of a class of the file."""
    sort = _sort_of(source, name)
    if sort == "typed dict":
        fields = [one.annotation for one in source.classes[name].body if isinstance(one, ast.AnnAssign)]
        return [doubt for one in fields for doubt in _of_annotation(source, one, depth - 1)]
    if sort == "enum":
        return [_refused(f"returns the Enum {name}")]
    if sort == "named":
        return [Doubt(LISTED, f"returns {name}, a class that Airflow reads back only if its settings name it")]
    if sort in ("str", "int", "dict", "list", "tuple"):
        return [Doubt(CHANGED, f"returns {name}, which comes back as a plain {sort}")]
    return [_refused(f"returns an instance of {name}")] if sort == "plain" else []


def _sort_of(source: Source, name: str) -> str:
    """How Airflow takes instances of a class of the file; empty for what is no class of it, or not known."""
    found = source.classes.get(name)
    if found is None:
        return ""
    decorators = {_name(source, one.func if isinstance(one, ast.Call) else one) for one in found.decorator_list}
    if decorators & {"dataclasses.dataclass", "attrs.define", "attrs.frozen", "attr.s", "attr.define"}:
        return "named"
    if any(isinstance(one, ast.FunctionDef) and one.name == "serialize" for one in found.body):
        return "named"
    bases = [_name(source, base) for base in found.bases]
    sorts = {
        "typing.TypedDict": "typed dict", "typing_extensions.TypedDict": "typed dict", "typing.NamedTuple": "tuple",
        "enum.StrEnum": "str", "enum.IntEnum": "int", "pydantic.BaseModel": "named",
        "dict": "dict", "list": "list", "str": "str", "int": "int",
    }  # fmt: skip
    for base in bases:
        if base in sorts:
            return sorts[base]
    if "enum.Enum" in bases:
        return "enum"
    inherited = [_sort_of(source, base) for base in bases if base != name]
    return next(filter(None, inherited), "plain" if not bases or bases == ["object"] else "")


def _name(source: Source, node: ast.AST) -> str:
    """The dotted name through imports; the bare name of what is built in or of the file."""
    return source.meaning(node) or (node.id if isinstance(node, ast.Name) else "")
