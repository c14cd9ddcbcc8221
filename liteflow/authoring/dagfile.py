"""Python files that hold dags: one name, one digest and one module object for each, in every process.

A script that is run has its functions and classes in `__main__`, which means something else in every other process.
So a worker, and `liteflow run FILE`, load such a file as a module whose name follows from its path, and what is
stored or sent names the file, never `__main__`.

While a file is loaded here, runs must not start in it: that is what the `__main__` guard is for. `refuse_while_loading`
is what `run()` and its like call first.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from liteflow.authoring.places import caller
from liteflow.errors import DagFileError, MissingMainGuard

AIRFLOW_COMPAT = "LITEFLOW_AIRFLOW_COMPAT"
"""The variable that chooses, where Airflow is installed, whose modules a dag file gets."""

_PREFIX = "liteflow_dagfile_"
_loading = threading.local()
_digests: dict[str, str] = {}
_importable: dict[tuple[str, str], bool] = {}
_load_lock = threading.RLock()
_stretches_lock = threading.RLock()
_stretches: list[None] = []
"""One for each stretch of any thread in which Airflow's modules may be found."""
airflow_files: dict[str, dict[str, int]] = {}
"""Files that are being loaded and have imported Airflow's names: what of theirs is inert here, and in which line."""
_texts: dict[str, bytes] = {}
"""By path: dag files that were sent to this process, whether or not they are there."""
_imported: dict[str, str] = {}
"""By path: the name under which this process has a file that others can only load by its path."""


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


_first_directory = _working_directory()


def import_path() -> list[str]:
    """`sys.path` as workers need it to find what this process has imported.

    Its `''`, of prompts, notebooks and `python -c`, means the working directory, and the host may have gone elsewhere
    since it imported a package there: the one in which it imported liteflow comes behind.
    """
    found = []
    for path in sys.path:
        if isinstance(path, str):  # other things are legal there, and ignored by imports
            found.append(path)
            if not path and _first_directory is not None:
                found.append(_first_directory)
    return found


def module_name_of(path: str) -> str:
    """The name under which the file is a module here: the same in every process."""
    from hashlib import sha256

    stem = "".join(c if c.isalnum() else "_" for c in os.path.splitext(os.path.basename(path))[0])
    return f"{_PREFIX}{stem}_{sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def is_dag_file(module: str) -> bool:
    """Whether a module of that name was loaded as a dag file, or is the script itself."""
    return module in ("__main__", "__mp_main__") or module.startswith(_PREFIX)


def be_main_of_first_file() -> None:
    """Have the first dag file that this process loads stand where multiprocessing looks for the main module.

    For workers: so that a task's own `spawn` and `forkserver` children find the functions of its file, as those of a
    script do. It is `__mp_main__`, as in any child of multiprocessing, and the `__main__` guard stays shut.
    """
    global _first_is_main, _in_worker
    _first_is_main = _in_worker = True


def is_in_worker() -> bool:
    """Whether this process is a slot's: what a dag file has to say was said in the host already."""
    return _in_worker


_first_is_main = False
_in_worker = False


def digest_of(path: str) -> str:
    """SHA-256 of the file as it was when it was first asked for in this process, before anything ran from it."""
    if path not in _digests:
        _digests[path] = _read_digest(path)
    return _digests[path]


def _read_digest(path: str) -> str:
    from hashlib import sha256

    try:
        with open(path, "rb") as file:
            return sha256(file.read()).hexdigest()
    except OSError as error:
        raise DagFileError(f"{path}: cannot be read ({error.strerror})") from error


def remember_file(module: str) -> None:
    """Take the digest of a script or dag file now, while it is being loaded: it may change before it is first sent."""
    if is_dag_file(module):
        try:
            file = file_of_module(module)
        except LookupError:  # a prompt, a notebook: there is no file
            return
        if file is not None:
            digest_of(file)


def file_of_module(name: str) -> str | None:
    """The file of a module that other processes cannot import by its name; None for one that they can.

    That is `__main__` when it is a script, and a file that was loaded by its path. Raises LookupError for a module
    that no other process can load: `__main__` of a prompt, a notebook or standard input.
    """
    module = sys.modules.get(name)
    if name == "__main__" or name == "__mp_main__":
        spec = getattr(module, "__spec__", None)
        if spec is not None and spec.name not in ("__main__", "__mp_main__"):
            return None
        path = getattr(module, "__file__", None)
        if path is None or not os.path.isfile(path):
            raise LookupError(name)
        return os.path.abspath(str(path))
    if module is None:
        raise LookupError(name)
    if name.startswith(_PREFIX):
        return os.path.abspath(str(module.__file__))
    spec = getattr(module, "__spec__", None)
    if spec is None or _is_importable(name, spec):
        return None
    if not spec.origin or not os.path.isfile(spec.origin):
        return None
    path = os.path.abspath(str(spec.origin))
    _imported[path] = name
    return path


def _is_importable(name: str, spec: Any) -> bool:
    """Whether `import name` gives this module in a process with the same `sys.path`."""
    if "." in name or spec.origin is None or spec.origin in ("built-in", "frozen"):
        return True
    known = _importable.get((name, spec.origin))
    if known is None:
        try:
            found = importlib.machinery.PathFinder.find_spec(name)
        except (ImportError, ValueError):
            return True
        known = _importable[name, spec.origin] = found is not None and found.origin == spec.origin
    return known


def importable_name(name: str) -> str:
    """The name by which other processes import the module `name`: `python -m pkg.mod` runs it as `__main__`."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if name in ("__main__", "__mp_main__") and spec is not None:
        return str(spec.name)
    return name


def load_file(path: str, digest: str | None = None) -> ModuleType:
    """The module of a dag file; loads it on the first call. Where it is this process's script, that is `__main__`, and
    where it was imported under a name that means nothing elsewhere (as pytest's importlib mode does), that module.

    With `digest`, a file that has changed since raises DagFileError instead of giving another code than was asked for.
    An error of the file's own code comes out as it is.
    """
    path = os.path.abspath(path)
    main = sys.modules.get("__main__")
    if main is not None and getattr(main, "__spec__", None) is None and is_same_file(main, path):
        return main
    imported = sys.modules.get(_imported.get(path, ""))
    if imported is not None and is_same_file(imported, path):
        return imported
    name = module_name_of(path)
    with _load_lock:
        module = sys.modules.get(name)
        if module is None:
            module = _load(path, name)
        if digest is not None and digest_of(path) != digest:
            raise DagFileError(f"{path}: has changed since the run began; start the run again")
        return module


def provide(path: str, text: bytes) -> None:
    """Have the dag file at `path` hold that text in this process, for a worker that cannot read it. A module of
    another text is forgotten."""
    from hashlib import sha256

    with _load_lock:
        digest = sha256(text).hexdigest()
        if path in _texts and _digests.get(path) != digest:
            sys.modules.pop(module_name_of(path), None)
        if module_name_of(path) not in sys.modules:
            _digests[path] = digest
        _texts[path] = text


def _make_locks_anew() -> None:
    """In a forked child: other threads, which are not there, may have held them."""
    global _load_lock, _stretches_lock
    _load_lock, _stretches_lock = threading.RLock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_locks_anew)


def is_same_file(module: ModuleType, path: str) -> bool:
    """Whether the module was made from the file at `path`."""
    file = getattr(module, "__file__", None)
    return file is not None and os.path.abspath(file) == path


def _load(path: str, name: str) -> ModuleType:
    global _first_is_main
    from hashlib import sha256

    if path not in _texts and not os.path.isfile(path):
        raise DagFileError(f"{path}: no such file")
    loader = importlib.machinery.SourceFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    names = [name]
    if _first_is_main:
        _first_is_main = False
        names += ["__mp_main__", "__main__"]
        module.__name__ = "__mp_main__"
        module.__spec__ = None  # a file, not something that can be imported by a name
    if path in _texts:
        _remember_lines(path)
    before = {one: sys.modules.get(one) for one in names}
    sys.modules.update(dict.fromkeys(names, module))
    try:
        with loading():
            # Compiled from the text itself: a stale .pyc of the same second would be another function.
            source = _texts[path] if path in _texts else loader.get_data(path)
            _digests[path] = sha256(source).hexdigest()
            exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        for one, module_before in before.items():
            if module_before is None:
                del sys.modules[one]
            else:
                sys.modules[one] = module_before
        raise
    return module


def _remember_lines(path: str) -> None:
    """For tracebacks: the lines of a file that was sent, and need not be here."""
    import linecache

    text = _texts[path].decode("utf-8", "replace")
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)


@contextmanager
def loading() -> Iterator[None]:
    """A stretch in which dag files are only being imported, in this thread."""
    _loading.depth = getattr(_loading, "depth", 0) + 1
    try:
        with airflow_names():
            yield
    finally:
        _loading.depth -= 1


class _AirflowNames:
    """Finds Airflow's modules among liteflow's own, for the threads that are in `airflow_names()`.

    Not derived from `importlib.abc.MetaPathFinder`, which would cost `import liteflow` two dozen modules.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "airflow" or not (_in_worker or getattr(_loading, "airflow", 0) > 0):
            return None
        if not has_airflow_compat():
            return None
        from liteflow.airflow.hook import spec_of

        return spec_of(fullname)


_airflow_finder = _AirflowNames()


def has_airflow_compat() -> bool:
    """Whether `import airflow` in a dag file means liteflow's own modules.

    `$LITEFLOW_AIRFLOW_COMPAT` (1 or 0) says it; without it they are where no Airflow is installed.
    """
    wanted = os.environ.get(AIRFLOW_COMPAT, "")
    if wanted in ("0", "1"):
        return wanted == "1"
    if wanted:
        raise DagFileError(f"${AIRFLOW_COMPAT}={wanted} must be 1 or 0, or not be set")
    return importlib.machinery.PathFinder.find_spec("airflow") is None


@contextmanager
def airflow_names() -> Iterator[None]:
    """A stretch in which this thread's `import airflow` finds liteflow's own modules; in a worker it never ends."""
    before = getattr(_loading, "airflow", 0)
    _loading.airflow = before + 1
    with _stretches_lock:  # tasks in threads come and go
        if _airflow_finder not in sys.meta_path:
            sys.meta_path.insert(0, _airflow_finder)
        _stretches.append(None)
    try:
        yield
    finally:
        _loading.airflow = before
        with _stretches_lock:
            _stretches.pop()
            hook = sys.modules.get("liteflow.airflow.hook")
            if hook is not None and not _stretches and not _in_worker:
                hook.forget()


def refuse_while_loading(what: str) -> None:
    """Raise MissingMainGuard when `what` (a call, for the message) happens while a dag file is only imported."""
    if getattr(_loading, "depth", 0):
        place = caller()
        raise MissingMainGuard(
            f"{place}: {what} runs whenever this file is imported, and the workers import it to find the tasks. "
            "Put the call under a guard:\n"
            '    if __name__ == "__main__":\n'
            f"        {what}",
            file=place.file,
            line=place.line,
        )
