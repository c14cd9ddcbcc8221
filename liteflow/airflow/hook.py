"""What `import airflow...` finds while liteflow loads a dag file: modules made from the tables in `names.py`.

They stand in `sys.modules` only while a file is loaded (in a worker for good, since tasks import too), and only code
of users makes them: an installed package that looks whether Airflow is there, before the dag file has imported
anything of it, does not find them.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any

from liteflow.airflow import names
from liteflow.airflow.inert import inert_class
from liteflow.authoring import dagfile
from liteflow.authoring.ids import did_you_mean
from liteflow.authoring.places import Place
from liteflow.errors import AirflowNameError, DagWarning

_INSTALLED = ("site-packages", "dist-packages")


def spec_of(module: str) -> ModuleSpec | None:
    """How the module is made; None if it is not for who asks. Raises AirflowNameError for one that liteflow has not."""
    place = _importer()
    if place is None:
        return None
    if not names.is_module(module):
        raise _no_module(module, place)
    dagfile.airflow_files.setdefault(place.file, {})
    return ModuleSpec(module, _Loader(), is_package=True)


def forget() -> None:
    """Take the modules out of `sys.modules`, and say once what of the imported is inert."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, AirflowModule):
            del sys.modules[name]
    for file, found in dagfile.airflow_files.items():
        line = min(found.values(), default=0)
        if line:
            warnings.warn_explicit(
                f"{file}:{line}: loads, and means nothing here: {', '.join(sorted(found))}. Runs are started by "
                "`liteflow run`, cron or a program, and nothing else follows from these",
                DagWarning,
                file,
                line,
            )
    dagfile.airflow_files.clear()


class _Loader(Loader):
    """Makes one of Airflow's modules."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return AirflowModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__path__ = []  # each may have modules below it


class AirflowModule(ModuleType):
    """One of Airflow's modules. A name in it is looked up when it is first asked for."""

    __path__: list[str]

    def __init__(self, name: str) -> None:
        super().__init__(name, f"Stands for Airflow's module {name}; made by liteflow.")
        self.__all__ = sorted(one for one, entry in names.MODULES[name].items() if not isinstance(entry, names.Missing))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        entry = names.lookup(self.__name__, name)
        if isinstance(entry, names.Provided):
            value = _provided(entry)
        elif isinstance(entry, names.Inert):
            value = inert_class(name)
            place = _importer()
            if place is not None:
                dagfile.airflow_files.setdefault(place.file, {})[f"{name} ({entry.sort})"] = place.line
        elif names.is_module(f"{self.__name__}.{name}"):
            raise AttributeError(name)  # the import of the module follows
        else:
            raise _no_name(self.__name__, name, entry, _importer() or Place("?", 0))
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.__all__]


def _provided(entry: names.Provided) -> Any:
    module = import_module(entry.module)
    if hasattr(module, entry.name):
        return getattr(module, entry.name)
    return import_module(f"{entry.module}.{entry.name}")


def _importer() -> Place | None:
    """Where in the code of users the import stands; None if an installed package asks."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not (file.startswith("<frozen importlib") or file in (__file__, dagfile.__file__)):
            installed = any(f"{part}/" in file.replace("\\", "/") for part in _INSTALLED)
            if installed and not dagfile.is_dag_file(str(frame.f_globals.get("__name__"))):
                return None
            return Place(file, frame.f_lineno)
        frame = frame.f_back
    return None


def _no_module(module: str, place: Place) -> AirflowNameError:
    instead = names.instead_of(module)
    if module.startswith("airflow.providers.") and not module.startswith("airflow.providers.standard"):
        provider = module.split(".")[2]
        what = f"of Airflow's providers liteflow has the standard one, not {provider!r}"
    else:
        what = f"liteflow has no {module!r}{'' if instead else did_you_mean(module, names.MODULES)}"
    return AirflowNameError(f"{place}: {what}{'; ' if instead else ''}{instead}", name=module)


def _no_name(module: str, name: str, entry: names.Entry | None, place: Place) -> AirflowNameError:
    what = f"{place}: liteflow has no {name!r} of {module}"
    if isinstance(entry, names.Missing):
        instead = f"; {entry.instead}" if entry.instead else ""
    else:
        elsewhere = names.modules_with(name)
        instead = f"; from {elsewhere[0]} import {name}" if elsewhere else did_you_mean(name, names.MODULES[module])
    return AirflowNameError(f"{what}{instead}", name=f"{module}.{name}")
