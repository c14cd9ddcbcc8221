"""Python functions that run in another interpreter: one that is there, or a virtual environment made for them.

The text of the function goes there, so it can use what it imports, defines and is given itself, and nothing else of
its file. Arguments and result travel by pickle.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from functools import update_wrapper
from pathlib import Path
from typing import Any, NamedTuple

from liteflow.authoring.context import CONTEXT_KEYS
from liteflow.authoring.places import caller
from liteflow.authoring.task import BRANCH, TaskFactory, Traits
from liteflow.errors import DagError, LiteflowError, SkipTask
from liteflow.operators.bash import run_with_our_output
from liteflow.operators.python import PythonOperator

_PICKLE_PROTOCOL = 4
"""What every Python 3 that is still in use reads."""

_SCRIPT = """\
from __future__ import annotations
import pickle, sys

{source}

with open(sys.argv[1], "rb") as file:
    args, kwargs = pickle.load(file)
value = {name}(*args, **kwargs)
with open(sys.argv[2], "wb") as file:
    pickle.dump(value, file, {protocol})
"""


class PythonFailed(LiteflowError):
    """The other interpreter ended with another exit code than 0. Facts: `exit_code_of_python`."""

    exit_code_of_python: int


class Interpreter(NamedTuple):
    """Where a function runs."""

    python: str | None = None
    """The interpreter; None for a virtual environment that is made."""
    requirements: tuple[str, ...] = ()
    python_version: str | None = None
    system_site_packages: bool = True
    pip_install_options: tuple[str, ...] = ()
    index_urls: tuple[str, ...] = ()
    venv_cache_path: str | None = None
    """A directory in which the environment is kept for the next time."""
    env_vars: dict[str, str] | None = None
    inherit_env: bool = True
    skip_on_exit_code: tuple[int, ...] = ()


_IGNORED = (
    "serializer",
    "expect_airflow",
    "expect_pendulum",
    "use_dill",
    "string_args",
    "index_urls_from_connection_ids",
)
"""Parameters of Airflow's that change nothing here; values travel by pickle."""


def interpreter_of(options: Mapping[str, Any], *, makes_environment: bool) -> Interpreter:
    """The interpreter that options of Airflow's mean. Raises DagError."""
    given = {name: value for name, value in options.items() if value is not None and name in Interpreter._fields}
    if not makes_environment and not given.get("python"):
        raise DagError(f"{caller()}: python= must name the interpreter in which the function runs")
    for name in ("requirements", "pip_install_options", "index_urls", "skip_on_exit_code"):
        if name in given:
            value = given[name]
            given[name] = (value,) if isinstance(value, str | int) else tuple(value)
    given["requirements"] = tuple(line for text in given.get("requirements", ()) for line in text.split("\n") if line)
    for name in ("python", "venv_cache_path"):
        if name in given:
            given[name] = os.fspath(given[name])
    return Interpreter(**given)


class ElsewherePython:
    """A function whose call runs its text in another interpreter."""

    __signature__: inspect.Signature

    def __init__(self, function: Callable[..., Any], interpreter: Interpreter) -> None:
        if isinstance(function, TaskFactory):
            function = function.function
        self.source, self.name = _text_of(function)
        self.interpreter = interpreter
        update_wrapper(self, function, updated=())

    def __reduce__(self) -> Any:
        return _again, (self.source, self.name, self.interpreter)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return run_elsewhere(self.source, self.name, self.interpreter, args, kwargs)


def _again(source: str, name: str, interpreter: Interpreter) -> ElsewherePython:
    one = ElsewherePython.__new__(ElsewherePython)
    one.source, one.name, one.interpreter = source, name, interpreter
    one.__signature__ = _signature_of(source)
    return one


def _text_of(function: Callable[..., Any]) -> tuple[str, str]:
    """The text of a function without its decorators, and its name."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError) as error:
        raise DagError(
            f"{caller()}: the text of {function!r} cannot be read, and that is what runs elsewhere"
        ) from error
    found = next((node for node in tree.body if isinstance(node, ast.FunctionDef)), None)
    if found is None:
        raise DagError(f"{caller()}: {function!r} is no function that was written with def; only such run elsewhere")
    found.decorator_list = []
    return ast.unparse(found), found.name


def _signature_of(source: str) -> inspect.Signature:
    """The parameters of a function, by its text: their names, and which have a default."""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    written = ast.Lambda(function.args, ast.Constant(None))
    for one in (*written.args.posonlyargs, *written.args.args, *written.args.kwonlyargs):
        one.annotation = None
    for more in (written.args.vararg, written.args.kwarg):
        if more is not None:
            more.annotation = None
    written.args.defaults = [ast.Constant(None) for _ in written.args.defaults]
    written.args.kw_defaults = [None if one is None else ast.Constant(None) for one in written.args.kw_defaults]
    expression = ast.fix_missing_locations(ast.Expression(written))
    return inspect.signature(eval(compile(expression, "<signature>", "eval")))


def run_elsewhere(
    source: str, name: str, interpreter: Interpreter, args: Collection[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Call the function in the other interpreter, its output on ours. Raises SkipTask and PythonFailed by its exit
    code; the traceback of an error is in the log."""
    with tempfile.TemporaryDirectory(prefix="liteflow-") as directory:
        room = Path(directory)
        python = interpreter.python or _environment_for(interpreter, room)
        if shutil.which(python) is None:
            raise FileNotFoundError(f"the interpreter {python!r} is not there")
        (room / "script.py").write_text(_SCRIPT.format(source=source, name=name, protocol=_PICKLE_PROTOCOL), "utf-8")
        (room / "in").write_bytes(pickle.dumps((tuple(args), _sendable(kwargs)), _PICKLE_PROTOCOL))
        around = dict(os.environ) if interpreter.inherit_env else {}
        command = [python, str(room / "script.py"), str(room / "in"), str(room / "out")]
        env = {**around, **(interpreter.env_vars or {})}
        code = run_with_our_output(command, env)
        if code in interpreter.skip_on_exit_code:
            raise SkipTask(f"the other interpreter ended with exit code {code}, which skips the task")
        if code:
            raise PythonFailed(f"{name}() failed in {python} (exit code {code})", exit_code_of_python=code)
        return pickle.loads((room / "out").read_bytes())


def _sendable(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords without what of the context only this interpreter knows: `ti`, `dag_run`, `macros` and the like."""
    ours = {
        name
        for name, value in kwargs.items()
        if name in CONTEXT_KEYS and type(value).__module__.startswith("liteflow.")
    }
    return {name: _plain(value) for name, value in kwargs.items() if name not in ours}


def _plain(value: Any) -> Any:
    """A date as one of the standard library's: the other interpreter may have no other."""
    return datetime.fromisoformat(value.isoformat()) if isinstance(value, datetime) else value


def _environment_for(interpreter: Interpreter, room: Path) -> str:
    """The interpreter of a virtual environment with what is required, made in `room` or kept for the next time."""
    kept = interpreter.venv_cache_path
    if kept is None:
        return _make_environment(interpreter, room / "venv")
    wanted = repr((interpreter.requirements, interpreter.python_version, interpreter.system_site_packages, sys.version))
    place = Path(kept) / f"venv-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    python = place / "bin" / "python"
    if not python.exists():
        made = Path(tempfile.mkdtemp(prefix="venv-", dir=_directory(kept)))
        _make_environment(interpreter, made)
        try:
            made.rename(place)  # whole, or not at all
        except OSError:  # another task was first
            shutil.rmtree(made)
    return str(python)


def _directory(path: str) -> str:
    os.makedirs(path, exist_ok=True)
    return path


def _make_environment(interpreter: Interpreter, place: Path) -> str:
    version = interpreter.python_version
    base = sys.executable if version is None else shutil.which(f"python{version}")
    if base is None:
        raise FileNotFoundError(f"python_version={version!r}: there is no python{version} on the PATH")
    flags = ["--system-site-packages"] if interpreter.system_site_packages else []
    if not interpreter.requirements:
        flags.append("--without-pip")
    _run_checked([base, "-m", "venv", *flags, str(place)])
    python = str(place / "bin" / "python")
    if interpreter.requirements:
        urls: list[str] = []
        for number, url in enumerate(interpreter.index_urls):
            urls += ["--extra-index-url" if number else "--index-url", url]
        command = [python, "-m", "pip", "install", "--quiet", *interpreter.pip_install_options, *urls]
        _run_checked([*command, *interpreter.requirements])
    return python


def _run_checked(command: list[str]) -> None:
    code = run_with_our_output(command)
    if code:
        raise subprocess.CalledProcessError(code, command)


class _Elsewhere(PythonOperator):
    """An operator whose function runs in another interpreter."""

    makes_environment = False

    def __init__(self, *, python_callable: Callable[..., Any], **kwargs: Any) -> None:
        own = {name: kwargs.pop(name) for name in Interpreter._fields if name in kwargs}
        for name in _IGNORED:
            kwargs.pop(name, None)
        interpreter = interpreter_of(own, makes_environment=self.makes_environment)
        super().__init__(python_callable=ElsewherePython(python_callable, interpreter), **kwargs)


class ExternalPythonOperator(_Elsewhere):
    """Runs the text of `python_callable` with the interpreter `python`.

    `env_vars`, `inherit_env` (True): its environment. `skip_on_exit_code`: codes that skip the task.
    """

    def __init__(self, *, python: str | os.PathLike[str], **kwargs: Any) -> None:
        super().__init__(python=python, **kwargs)


class PythonVirtualenvOperator(_Elsewhere):
    """Runs the text of `python_callable` in a virtual environment that is made for it.

    `requirements`: what pip installs into it; `python_version` ("3.12"): with the Python of that version;
    `system_site_packages` (True); `pip_install_options`, `index_urls`; `venv_cache_path`: a directory in which it is
    kept for the next time. `env_vars`, `inherit_env`, `skip_on_exit_code` as above.
    """

    makes_environment = True

    def __init__(
        self,
        *,
        requirements: Iterable[str] | str = (),
        python_version: str | None = None,
        system_site_packages: bool = True,
        venv_cache_path: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            requirements=requirements,
            python_version=python_version,
            system_site_packages=system_site_packages,
            venv_cache_path=venv_cache_path,
            **kwargs,
        )


class BranchExternalPythonOperator(ExternalPythonOperator):
    """A branch whose function runs with another interpreter."""

    operator_traits = Traits(BRANCH)


class BranchPythonVirtualenvOperator(PythonVirtualenvOperator):
    """A branch whose function runs in a virtual environment of its own."""

    operator_traits = Traits(BRANCH)


def decorated(
    function: Callable[..., Any], options: Mapping[str, Any], *, makes_environment: bool, traits: Traits
) -> TaskFactory:
    """What `@task.virtualenv`, `@task.external_python` and their branches make of a function."""
    own = {name: value for name, value in options.items() if name in Interpreter._fields}
    others = {name: value for name, value in options.items() if name not in own and name not in _IGNORED}
    interpreter = interpreter_of(own, makes_environment=makes_environment)
    return TaskFactory(ElsewherePython(function, interpreter), others, traits)
