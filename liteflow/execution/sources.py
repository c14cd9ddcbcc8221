"""Python files that a worker on another machine cannot find: they travel as their text.

Those are the files that hold a dag and its functions, and what these import of the modules and packages beside them.
Functions, arguments and values name such a file by its path; a worker that was given the text has a module of that
path and name, whether or not the file is there.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from liteflow.authoring import dagfile
from liteflow.execution.code import Code

MOST_FILES = 500
"""Of one package beside a dag file: larger ones must be installed on the workers."""


class Source(NamedTuple):
    """A file on its way. Plain types only, so that it can be a message."""

    module: str
    """The name under which it is imported; empty for a dag file, which is known by its path."""
    path: str
    digest: str


def sources_of(codes: Iterable[Code]) -> list[Source]:
    """What workers need beside what is installed, for functions that travel so."""
    found: dict[str, str] = {}
    """By path: the name of the module."""
    for code in codes:
        if code.file is not None:
            _add(code.file, "", found)
        elif code.kind == "reference":
            spec = getattr(sys.modules.get(code.module.partition(".")[0]), "__spec__", None)
            if spec is not None and spec.origin and spec.origin.endswith(".py") and not _is_installed(spec.origin):
                directory = os.path.dirname(spec.origin)
                _add_module(spec.name, os.path.dirname(directory) if _is_package(spec.origin) else directory, found)
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if any(code.kind == "pickle" for code in codes) and main is not None and os.path.isfile(main):
        _add(os.path.abspath(main), "", found)  # what such a function uses of the script is named by its file
    return [Source(name, path, dagfile.digest_of(path)) for path, name in found.items()]


def read(source: Source) -> bytes:
    """The text of a file as it was when its digest was taken. Raises DagFileError when it has changed since."""
    from liteflow.errors import DagFileError

    with open(source.path, "rb") as file:
        data = file.read()
    if sha256(data).hexdigest() != source.digest:
        raise DagFileError(f"{source.path}: has changed since the run began; start the run again")
    return data


def _add(path: str, name: str, found: dict[str, str]) -> None:
    if path in found or _is_installed(path):
        return
    found[path] = name
    directory = os.path.dirname(path)
    for module in _imported(path):
        _add_module(module, directory, found)


def _add_module(name: str, directory: str, found: dict[str, str]) -> None:
    """A module or package that lies in that directory, if it does."""
    single, package = os.path.join(directory, f"{name}.py"), os.path.join(directory, name)
    if os.path.isfile(os.path.join(package, "__init__.py")):
        files = _files_of(package)
        for path in files if len(files) <= MOST_FILES else ():
            if path in found:
                continue
            parts = os.path.relpath(path, directory).removesuffix(".py").split(os.sep)
            found[path] = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            for module in _imported(path):
                _add_module(module, directory, found)
    elif os.path.isfile(single) and single not in found:
        _add(single, name, found)


def _files_of(package: str) -> list[str]:
    found = []
    for directory, directories, names in os.walk(package):
        directories[:] = sorted(one for one in directories if one.isidentifier() and one != "__pycache__")
        found += [os.path.join(directory, name) for name in sorted(names) if name.endswith(".py")]
    return found


def _is_package(origin: str) -> bool:
    return os.path.basename(origin) == "__init__.py"


def _imported(path: str) -> list[str]:
    """First parts of the names that the file imports, anywhere in it."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return []  # whoever imports it hears of that
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(dict.fromkeys(one.name.partition(".")[0] for one in node.names))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names[node.module.partition(".")[0]] = None
    return list(names)


@lru_cache(maxsize=1)
def _installed_roots() -> tuple[str, ...]:
    import liteflow

    paths = sysconfig.get_paths()
    roots = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(os.path.realpath(root) + os.sep for root in [*roots, os.path.dirname(liteflow.__file__)])


def _is_installed(path: str) -> bool:
    """Whether a worker has it too: the standard library, what pip installs, and liteflow."""
    real = os.path.realpath(path)
    parts = real.split(os.sep)
    return real.startswith(_installed_roots()) or "site-packages" in parts or "dist-packages" in parts


# In a worker


class _TextLoader(importlib.abc.SourceLoader):
    """Loads a module from a text that was sent. Tracebacks find their lines in it."""

    def __init__(self, path: str, text: bytes) -> None:
        self._path = path
        self._text = text

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str | bytes) -> bytes:
        if path != self._path:
            raise OSError(f"{path!r} was not sent")
        return self._text


class _Finder:
    """Finds modules among what was sent."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        known = _modules.get(fullname)
        if known is None:
            return None
        source, text = known
        spec = importlib.util.spec_from_loader(
            fullname, _TextLoader(source.path, text), origin=source.path, is_package=_is_package(source.path)
        )
        if spec is not None:
            spec.has_location = True
            if spec.submodule_search_locations is not None:
                spec.submodule_search_locations.append(os.path.dirname(source.path))
        return spec


_modules: dict[str, tuple[Source, bytes]] = {}
_finder = _Finder()
_lock = threading.RLock()
_here: dict[str, str] = {}
"""By path: the digest of what this worker has."""


def missing(sources: Sequence[Source]) -> list[Source]:
    """What of these this worker does not have."""
    with _lock:
        return [one for one in sources if _here.get(one.path) != one.digest]


def provide(texts: Sequence[tuple[Source, bytes]]) -> None:
    """Have these files be found here. One that was here with another text is forgotten, and loaded anew."""
    with _lock:
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)
        for source, text in texts:
            if _here.get(source.path) == source.digest:
                continue  # another thread was quicker, and may be importing it now
            if source.module:
                if sys.modules.get(source.module) is not None and source.path not in _here:
                    _here[source.path] = source.digest  # the worker itself found it somewhere
                    continue
                _modules[source.module] = (source, text)
                sys.modules.pop(source.module, None)
            else:
                dagfile.provide(source.path, text)
            _here[source.path] = source.digest
