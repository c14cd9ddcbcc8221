"""How functions and arguments travel: by reference where the worker can find them, by value where it cannot."""

from __future__ import annotations

import functools
import marshal
import math
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import liteflow
from liteflow import Dag, Task, task
from liteflow.authoring import dagfile
from liteflow.authoring.dagfile import load_file, module_name_of
from liteflow.errors import DagError, DagFileError, TransportError
from liteflow.execution.code import Code, describe, load, pack, pack_arguments

LOCK = threading.Lock()
NUMBER = 5


def double(value: int) -> int:
    return value * 2


@task
def triple(value: int) -> int:
    return value * 3


def locked(value: int) -> int:
    with LOCK:
        return value


class Store:
    """A class at the top level of a module."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def times(self, value: int) -> int:
        return value * self.factor

    @staticmethod
    def plain(value: int) -> int:
        return value + 1

    @classmethod
    def named(cls, value: int) -> str:
        return f"{cls.__name__}{value}"

    def __call__(self, value: int) -> int:
        return value - self.factor


class Doubtful:
    def __reduce__(self) -> Any:
        raise ArithmeticError("stays here")


def made(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Task:
    """The function as a task of some dag."""
    with Dag("d"):
        factory = function if hasattr(function, "override") else task(function)
        result: Task = factory(*args, **kwargs).task
    return result


def code_of(one: Task) -> Code:
    """How the function of a task travels."""
    return describe(one.function, f"{one.place}: the function of task {one.task_id!r}")


def packed(one: Task) -> bytes:
    """The arguments of a task on their way."""
    return pack_arguments(one, one.call_arguments)


def travelled(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """The function as a worker gets it: what describes it has been a message in between."""
    code = code_of(made(function, *args))
    return load(Code(*marshal.loads(marshal.dumps(tuple(code)))))


# By reference


def test_a_function_of_a_module_goes_by_reference() -> None:
    assert code_of(made(double, 1)) == Code("reference", __name__, None, None, "double")
    assert travelled(double, 1) is double


def test_a_decorated_function_goes_by_reference_and_comes_as_the_plain_one() -> None:
    assert code_of(made(triple, 1)).kind == "reference"
    assert travelled(triple, 1) is triple.function


def test_a_static_method_goes_by_reference() -> None:
    assert code_of(made(Store.plain, 1)) == Code("reference", __name__, None, None, "Store.plain")
    assert travelled(Store.plain, 1)(3) == 4


def test_a_function_that_uses_a_lock_of_its_module_goes_by_reference() -> None:
    assert travelled(locked, 1) is locked


def test_a_built_in_function_goes_by_reference() -> None:
    assert travelled(math.sqrt, 1) is math.sqrt
    assert travelled(len, [1]) is len


# By value


def closure(step: int) -> Callable[[int], int]:
    def inner(value: int) -> int:
        return value + step + NUMBER

    return inner


def test_a_lambda_goes_by_value() -> None:
    assert code_of(made(lambda: 1)).kind == "pickle"
    assert travelled(lambda value: value + NUMBER, 1)(1) == 6


def test_what_goes_by_value_keeps_the_file_that_its_tracebacks_name() -> None:
    """cloudpickle calls it `<dynamic-code>`: an error had neither the path nor the line's text."""

    def outer() -> Any:
        return lambda: 1 / 0

    assert travelled(outer).__code__.co_filename == __file__
    with pytest.raises(ZeroDivisionError) as caught:
        travelled(outer)()()
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.line) == (__file__, "return lambda: 1 / 0")


def test_a_closure_goes_by_value_with_what_it_encloses() -> None:
    assert travelled(closure(10), 1)(1) == 16


def test_a_partial_goes_by_value() -> None:
    assert travelled(functools.partial(double, 4))() == 8
    assert travelled(functools.partial(closure(10), 1))() == 16


def test_a_bound_method_goes_with_its_object() -> None:
    assert travelled(Store(3).times, 1)(5) == 15


def test_a_class_method_goes_with_its_class() -> None:
    assert travelled(Store.named, 1)(5) == "Store5"


def test_an_object_that_can_be_called_goes_by_value() -> None:
    assert travelled(Store(3), 1)(5) == 2


def test_a_decorated_method_goes_with_its_object() -> None:
    class Local:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        @task
        def times(self, value: int) -> int:
            return value * self.factor

    with Dag("d"):
        one = Local(4).times(1).task
    assert load(code_of(one))(5) == 20


def test_what_only_has_the_name_of_another_goes_by_value() -> None:
    def impostor(value: int) -> int:
        return -value

    impostor.__qualname__ = "double"
    assert travelled(impostor, 1)(3) == -3


# What cannot travel


def test_a_closure_over_a_lock_names_the_variable_and_the_place() -> None:
    guard = threading.Lock()

    def inner() -> None:
        with guard:
            """Does nothing."""

    one = made(inner)
    with pytest.raises(TransportError, match="it uses 'guard', and TypeError: cannot pickle '_thread.lock'") as caught:
        code_of(one)
    assert str(caught.value).startswith(f"{one.place}: the function of task 'inner' cannot be sent")
    assert "Define it at the top level" in str(caught.value)


def script_function(source: str, name: str) -> Callable[..., Any]:
    """A function of a namespace that no other process can load, as in a notebook."""
    namespace: dict[str, Any] = {"__name__": "notebook", "LOCK": threading.Lock()}
    exec(source, namespace)
    found: Callable[..., Any] = namespace[name]
    return found


@pytest.mark.parametrize(
    "body",
    [
        "    LOCK.acquire()",
        "    return [LOCK for _ in range(3)]",
        "    return (lambda: LOCK)()",
        "    def inner():\n        return LOCK\n    return inner()",
    ],
    ids=["directly", "comprehension", "lambda", "function"],
)
def test_a_function_that_uses_a_global_lock_names_the_global(body: str) -> None:
    one = made(script_function(f"def f():\n{body}\n", "f"))
    with pytest.raises(TransportError, match="it uses 'LOCK', and"):
        code_of(one)


def test_a_partial_of_a_function_that_cannot_travel_names_the_global() -> None:
    function = script_function("def f(a):\n    LOCK.acquire()\n", "f")
    with pytest.raises(TransportError, match="it uses 'LOCK', and"):
        code_of(made(functools.partial(function, 1)))


def test_a_function_whose_error_comes_from_a_strangers_class_names_it() -> None:
    stranger = Doubtful()
    with pytest.raises(TransportError, match="it uses 'stranger', and ArithmeticError: stays here"):
        code_of(made(lambda: stranger))


def test_an_object_that_cannot_travel_says_why() -> None:
    class Held:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __call__(self) -> None:
            """Does nothing."""

    with pytest.raises(TransportError, match="cannot pickle '_thread.lock'"):
        code_of(made(Held()))


# Arguments


def test_no_arguments_come_back_too() -> None:
    assert pickle.loads(packed(made(lambda: 1))) == ((), {})


def test_arguments_come_back() -> None:
    one = made(lambda *args, **kwargs: 1, 1, [2], a={"b": Store(3)})
    args, kwargs = pickle.loads(packed(one))
    assert args == (1, [2])
    assert type(kwargs["a"]["b"]) is Store


def test_functions_as_arguments_come_back_as_the_plain_ones() -> None:
    one = made(lambda *args: 1, triple.function, double, lambda value: value + NUMBER)
    (first, second, third), _ = pickle.loads(packed(one))
    assert first is triple.function
    assert second is double
    assert third(1) == 6


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((1, threading.Lock()), {}, "argument number 2 of task"),
        ((1,), {"guard": threading.Lock()}, "argument 'guard' of task"),
        (([threading.Lock()],), {}, "argument number 1 of task"),
    ],
)
def test_an_argument_that_cannot_travel_is_named(args: Any, kwargs: Any, named: str) -> None:
    one = made(lambda *_, **__: 1, *args, **kwargs)
    with pytest.raises(TransportError, match=f"{named} 'lambda' cannot be sent to a worker: TypeError") as caught:
        packed(one)
    assert str(caught.value).startswith(str(one.place))


def test_a_task_as_an_argument_is_refused() -> None:
    with Dag("d"):
        other = task(double)(1).task
        one = task(lambda *_: 1)([other]).task
    with pytest.raises(DagError, match="tasks get values, not tasks"):
        packed(one)


def test_what_a_task_is_mapped_over_is_named_when_it_cannot_travel() -> None:
    one = made(lambda *_: 1, 1)
    with pytest.raises(TransportError, match="argument that it is mapped over of task 'lambda' cannot be sent"):
        pack_arguments(one, ((1,), {}, (("x", threading.Lock()),)))


def test_what_a_worker_needs_beside_the_arguments_comes_back() -> None:
    assert type(pickle.loads(pack({"policy": Store(3)}, "the options"))["policy"]) is Store


def test_what_a_worker_needs_beside_the_arguments_is_named_when_it_cannot_travel() -> None:
    with pytest.raises(TransportError, match="^etl.py:3: the options of task 'a' cannot be sent to a worker: .*lock"):
        pack(threading.Lock(), "etl.py:3: the options of task 'a'")


# Dag files

SOURCE = """
import threading
from liteflow import Dag, task

LOCK = threading.Lock()
FACTOR = 7

class Store:
    def __init__(self, factor):
        self.factor = factor

    def times(self, value):
        return value * self.factor

    @staticmethod
    @task
    def plain(value):
        return value + FACTOR

@task
def scaled(value):
    with LOCK:
        return value * FACTOR

@task
def stored(value):
    return Store(value)

def bare(value):
    return value - FACTOR

with Dag("shop") as dag:
    scaled(1)
    Store.plain(2)
    task(bare)(3)
    task(lambda value: bare(scaled.function(value)))(4)
    task(Store(3).times)(5)
    stored(Store(6))
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Path]:
    """A file with a dag; what was loaded from it is forgotten afterwards."""
    path = tmp_path / "shop.py"
    path.write_text(SOURCE)
    yield path
    forget(path)


def forget(path: Path) -> None:
    """As if this process had never seen the file."""
    sys.modules.pop(module_name_of(str(path)), None)
    dagfile._digests.pop(str(path), None)


def test_functions_of_a_dag_file_go_by_file_digest_and_name(shop: Path) -> None:
    dag = load_file(str(shop)).dag
    codes = {one.task_id: code_of(one) for one in dag.tasks}
    for task_id, qualname in (("scaled", "scaled"), ("plain", "Store.plain"), ("bare", "bare")):
        code = codes[task_id]
        assert (code.kind, code.file, code.qualname) == ("reference", str(shop), qualname)
        assert len(code.digest or "") == 64
    assert {codes["lambda"].kind, codes["times"].kind} == {"pickle"}


def test_functions_of_a_dag_file_are_found_in_the_file_again(shop: Path) -> None:
    dag = load_file(str(shop)).dag
    codes = {one.task_id: code_of(one) for one in dag.tasks}
    forget(shop)
    found = {task_id: load(code) for task_id, code in codes.items()}
    assert found["scaled"](2) == 14
    assert found["plain"](2) == 9
    assert found["bare"](2) == -5
    assert found["lambda"](2) == 7
    assert found["times"](2) == 6
    module = load_file(str(shop))
    assert found["scaled"] is module.scaled.function


def test_a_dag_file_is_loaded_once(shop: Path) -> None:
    assert load_file(str(shop)) is load_file(str(shop))
    assert load_file(os.path.relpath(shop)) is load_file(str(shop))


def test_a_file_that_has_changed_is_refused(shop: Path) -> None:
    code = code_of(load_file(str(shop)).dag.get_task("scaled"))
    forget(shop)
    shop.write_text(SOURCE.replace("FACTOR = 7", "FACTOR = 8"))
    with pytest.raises(DagFileError, match="has changed since the run began") as caught:
        load(code)
    assert str(shop) in str(caught.value)


def test_a_file_that_changed_after_it_was_loaded_still_gives_what_was_loaded(shop: Path) -> None:
    code = code_of(load_file(str(shop)).dag.get_task("scaled"))
    shop.write_text("no python")
    assert load(code)(2) == 14


def test_a_file_that_is_gone_is_named(shop: Path) -> None:
    code = code_of(load_file(str(shop)).dag.get_task("scaled"))
    forget(shop)
    shop.unlink()
    with pytest.raises(DagFileError, match=r"shop\.py: no such file"):
        load(code)


def test_an_error_of_the_files_own_code_comes_out_as_it_is_and_leaves_nothing(shop: Path) -> None:
    shop.write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            load_file(str(shop))
    assert module_name_of(str(shop)) not in sys.modules
    assert not dagfile._loading.__dict__.get("depth")


def test_a_stale_bytecode_file_is_not_used(shop: Path) -> None:
    import py_compile

    py_compile.compile(str(shop), doraise=True)
    before = shop.stat()
    shop.write_text(SOURCE.replace("FACTOR = 7", "FACTOR = 8"))  # the same size and, then, the same time
    os.utime(shop, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load_file(str(shop)).FACTOR == 8


def test_files_of_one_name_in_two_directories_are_two_modules(tmp_path: Path) -> None:
    paths = []
    for number in (1, 2):
        directory = tmp_path / str(number)
        directory.mkdir()
        paths.append(directory / "etl.py")
        paths[-1].write_text(f"NUMBER = {number}\n")
    try:
        assert [load_file(str(path)).NUMBER for path in paths] == [1, 2]
    finally:
        for path in paths:
            forget(path)


MAIN = (
    SOURCE
    + """
from liteflow.execution.code import describe, pack_arguments

if __name__ == "__main__":
    for one in dag.tasks:
        kind, module, file, digest, qualname, data = describe(one.function, "the function")
        assert "__main__" not in (module, qualname), one
        print(one.task_id, kind, module or "-", file or "-", digest or "-", qualname or "-", data.hex() or "-",
              pack_arguments(one, one.call_arguments).hex())
"""
)

WORKER = """
import sys
import pickle
from liteflow.execution.code import Code, load

for line in sys.stdin:
    task_id, kind, module, file, digest, qualname, data, arguments = (
        None if word == "-" else word for word in line.split()
    )
    function = load(Code(kind, module or "", file, digest, qualname or "", bytes.fromhex(data or "")))
    args, kwargs = pickle.loads(bytes.fromhex(arguments))
    found = function(*args, **kwargs)
    print(task_id, type(found).__name__, found if isinstance(found, int) else found.factor.factor)
"""


def python(*args: str, stdin: str = "", cwd: Path | None = None) -> str:
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
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


EXPECTED = ["scaled int 7", "plain int 9", "bare int -4", "lambda int 21", "times int 15", "stored Store 6"]


def test_all_functions_of_a_script_reach_another_process(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(MAIN)
    described = python(str(script))
    assert python("-c", WORKER, stdin=described, cwd=Path("/")).splitlines() == EXPECTED


def test_all_functions_of_a_module_that_runs_as_main_reach_another_process(tmp_path: Path) -> None:
    (tmp_path / "shop_package").mkdir()
    (tmp_path / "shop_package" / "__init__.py").touch()
    (tmp_path / "shop_package" / "stock.py").write_text(MAIN)
    described = python("-m", "shop_package.stock", cwd=tmp_path)
    assert "shop_package.stock" in described
    assert python("-c", WORKER, stdin=described, cwd=tmp_path).splitlines() == EXPECTED


def test_all_functions_of_standard_input_reach_another_process() -> None:
    # Nothing that a lock hangs on: by value, the globals that a function uses go along.
    described = python("-", stdin=MAIN.replace("threading.Lock()", "__import__('contextlib').nullcontext()"))
    assert python("-c", WORKER, stdin=described).splitlines() == EXPECTED
