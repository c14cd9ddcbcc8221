"""Airflow's names: each that is promised is there, and a file finds them while it is loaded and no longer."""

from __future__ import annotations

import importlib
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from liteflow import Dag, DagWarning
from liteflow.airflow import load_dags
from liteflow.airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from liteflow.airflow.hook import AirflowModule
from liteflow.airflow.inert import inert_class
from liteflow.airflow.names import MODULES, Inert, Missing, Provided
from liteflow.errors import AirflowNameError, DagFileError, FailTask, SkipTask

Load = Callable[[str], dict[str, Dag]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a dag file with that text."""
    monkeypatch.setenv("LITEFLOW_AIRFLOW_COMPAT", "1")

    def write_and_load(text: str) -> dict[str, Dag]:
        path = tmp_path / "flow.py"
        path.write_text(text)
        return load_dags(path)

    return write_and_load


def is_forgotten() -> bool:
    return not [name for name, module in sys.modules.items() if isinstance(module, AirflowModule)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from airflow.sdk import Nothing", "flow.py:1: liteflow has no 'Nothing' of airflow.sdk"),
        ("from airflow.sdk import dga", "(did you mean 'dag'?)"),
        ("from airflow.decorators import chain", "; from airflow.sdk import chain"),
        ("\nfrom airflow.sdk import asset", "flow.py:2: liteflow has no 'asset' of airflow.sdk; write the dag around"),
        ("import airflow.settings", "liteflow has no 'airflow.settings'; liteflow.read_session(path) reads"),
        ("import airflow.sdkk", "liteflow has no 'airflow.sdkk' (did you mean 'airflow.sdk'?)"),
        ("from airflow.providers.amazon.aws.hooks.s3 import S3Hook", "liteflow has the standard one, not 'amazon'"),
        ("import airflow.sdk\nairflow.sdk.Nothing", "flow.py:2: liteflow has no 'Nothing' of airflow.sdk"),
    ],
)
def test_a_name_that_is_not_there_is_one_line_with_what_there_is(load: Load, text: str, said: str) -> None:
    with pytest.raises(AirflowNameError) as caught:
        load(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert is_forgotten()


def test_a_file_may_try_an_import_and_do_without(load: Load) -> None:
    text = (
        "from airflow.sdk import DAG\n"
        "try:\n    from airflow.providers.slack.hooks import SlackHook\nexcept ImportError:\n    SlackHook = None\n"
        "try:\n    from airflow.sdk import Nothing\nexcept ImportError:\n    Nothing = None\n"
        "with DAG('d') as dag:\n    pass\n"
    )
    assert list(load(text)) == ["d"]


def test_names_are_forgotten_once_the_file_is_loaded(load: Load) -> None:
    load("import airflow\nfrom airflow.sdk import DAG\nfrom airflow.utils import timezone\nDAG('d')\n")
    assert is_forgotten()
    with pytest.raises(ImportError):
        importlib.import_module("airflow.sdk")


def test_a_module_beside_the_file_finds_them_too(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "beside_the_flow.py").write_text("from airflow.sdk import DAG\n")
    dags = load("from beside_the_flow import DAG\nfrom airflow.sdk import task\nDAG('d')\n")
    assert [(dag_id, dag.is_for_airflow) for dag_id, dag in dags.items()] == [("d", True)]
    assert not Dag("other").is_for_airflow


def test_an_installed_package_does_not_find_them(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some packages do other things where Airflow is."""
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "looks_for_airflow.py").write_text(
        "try:\n    import airflow\n    HAS = True\nexcept ImportError:\n    HAS = False\n"
    )
    monkeypatch.syspath_prepend(str(installed))
    load("import looks_for_airflow\nfrom airflow.sdk import DAG\nDAG('d')\n")
    assert sys.modules["looks_for_airflow"].HAS is False


def test_without_compat_the_name_is_airflows(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITEFLOW_AIRFLOW_COMPAT", "0")
    with pytest.raises(ModuleNotFoundError, match="No module named 'airflow'"):
        load("from airflow.sdk import DAG\n")
    monkeypatch.setenv("LITEFLOW_AIRFLOW_COMPAT", "yes")
    with pytest.raises(DagFileError, match="must be 1 or 0"):
        load("from airflow.sdk import DAG\nDAG('d')\n")


def test_what_is_inert_is_said_once(load: Load) -> None:
    text = (
        "from datetime import timedelta\n"
        "from airflow.sdk import DAG, Asset, BaseOperatorLink, CronTriggerTimetable, DeadlineAlert, DeadlineReference\n"
        "from airflow.sdk import task\n"
        "class Link(BaseOperatorLink):\n    name = 'more'\n"
        "raw = Asset('s3://raw', extra={'a': 1}) | Asset('other')\n"
        "with DAG('d', schedule=CronTriggerTimetable('0 1 * * *', timezone='UTC'),\n"
        "         deadline=DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, timedelta(1))) as dag:\n"
        "    @task(outlets=[raw])\n    def make():\n        return 1\n    make()\n"
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dags = load(text)
    said = [
        str(one.message)
        for one in caught
        if issubclass(one.category, DagWarning) and "means nothing" in str(one.message)
    ]
    assert len(said) == 1
    assert (
        "Asset (assets), BaseOperatorLink (links), CronTriggerTimetable (timetables), DeadlineAlert (deadlines)"
        in said[0]
    )
    assert dags["d"].test().state == "success"


def test_inert_things_can_be_compared_stored_and_combined() -> None:
    asset: Any = inert_class("Asset")
    one = asset("s3://a", group="x")
    assert one == asset("s3://a", group="x") != asset("s3://b")
    assert pickle.loads(pickle.dumps(one)) == one
    assert {one: 1}[asset("s3://a", group="x")] == 1
    assert (one & asset("b") | asset("c")).name == "s3://a"
    assert "s3://a" in repr(one)
    assert not hasattr(one, "__len__")


def test_exceptions_are_airflows_family_and_do_what_liteflows_do() -> None:
    assert issubclass(AirflowSkipException, (AirflowException, SkipTask))
    assert issubclass(AirflowSkipException, SkipTask)
    assert issubclass(AirflowFailException, FailTask)
    assert str(pickle.loads(pickle.dumps(AirflowSkipException("no rows")))) == "no rows"
    assert str(AirflowFailException()) == ""


def test_a_connection_that_is_not_there_is_airflows_error(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_THERE", "http://me:secret@host:81/path")
    text = (
        "from airflow.sdk import DAG, BaseHook, Connection\n"
        "from airflow.exceptions import AirflowException\n"
        "found = BaseHook.get_connection('there')\n"
        "for get in (BaseHook.get_connection, Connection.get):\n"
        "    try:\n        get('nowhere')\n    except AirflowException as error:\n        said = str(error)\n"
        "DAG('d', description=f'{found.host}:{found.port} {said}')\n"
    )
    description = load(text)["d"].description or ""
    assert description.startswith("host:81 there is no connection 'nowhere'")


@pytest.mark.filterwarnings("ignore::liteflow.DagWarning")
def test_tasks_import_and_raise_airflows_names(load: Load) -> None:
    text = (
        "from airflow.sdk import dag, task, BaseOperator, TriggerRule\n"
        "from airflow.exceptions import AirflowSkipException\n"
        "class Skip(BaseOperator):\n    def execute(self, context):\n        raise AirflowSkipException\n"
        "@dag\ndef flow():\n"
        "    @task\n    def late():\n"
        "        from airflow.sdk import get_current_context\n"
        "        return get_current_context()['run_id']\n"
        "    Skip(task_id='skip') >> late.override(trigger_rule=TriggerRule.ALL_DONE)() >> Skip(task_id='end')\n"
        "flow()\n"
    )
    run = load(text)["flow"].test(run_id="r")
    assert {ti.task_id: ti.state for ti in run.task_instances()} == {
        "skip": "skipped",
        "late": "success",
        "end": "skipped",
    }
    assert run.xcom("late") == "r"


def test_the_id_of_a_task_may_be_a_trigger_rule(load: Load) -> None:
    text = (
        "from airflow.sdk import DAG, TriggerRule\n"
        "from airflow.providers.standard.operators.empty import EmptyOperator\n"
        "with DAG('d') as dag:\n    EmptyOperator(task_id=TriggerRule.ONE_SUCCESS)\n"
    )
    (task_id,) = load(text)["d"].task_ids
    assert (type(task_id), task_id) == (str, "one_success")


ENTRIES = [(module, name, entry) for module, names in MODULES.items() for name, entry in names.items()]


def test_every_name_that_is_promised_is_there() -> None:
    wanted = {entry for _, _, entry in ENTRIES if isinstance(entry, Provided)}
    missing = [
        entry
        for entry in wanted
        if not hasattr(importlib.import_module(entry.module), entry.name)
        and importlib.util.find_spec(f"{entry.module}.{entry.name}") is None
    ]
    assert missing == []


def test_every_module_has_the_modules_above_it() -> None:
    assert [one for one in MODULES if "." in one and one.rpartition(".")[0] not in MODULES] == []


def test_a_name_has_one_meaning_or_none() -> None:
    kinds: dict[str, set[type]] = {}
    for _, name, entry in ENTRIES:
        kinds.setdefault(name, set()).add(type(entry))
    assert [name for name, found in kinds.items() if found >= {Provided, Missing} or found >= {Provided, Inert}] == []
