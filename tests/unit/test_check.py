"""`liteflow check`: each rule has a file that it names, and one beside it that it leaves alone."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from liteflow.airflow.checking import check_file, counts
from liteflow.airflow.findings import Finding
from liteflow.airflow.reading import Source
from liteflow.airflow.to_airflow import ToAirflow, name_there
from liteflow.airflow.to_liteflow import ToLiteflow
from liteflow.errors import DagFileError

HEAD = """\
from datetime import timedelta
from liteflow import Dag, Param, SkipTask, TaskGroup, dag, get_current_context, task, task_group
from liteflow.operators import BashOperator
"""


def to_airflow(body: str) -> list[tuple[int, str]]:
    """Lines below HEAD, counted from 1, and the rules that name them; imports left out."""
    found = ToAirflow(Source("f.py", HEAD + textwrap.dedent(body))).findings()
    return sorted({(one.line - 3, one.rule) for one in found if one.line > 3})


def to_liteflow(text: str, *, notes: bool = False) -> list[tuple[int, str]]:
    found = ToLiteflow(Source("f.py", textwrap.dedent(text))).findings()
    return sorted({(one.line, one.rule) for one in found if notes or counts(one)})


TASK = "\n@task\ndef f(x=None):\n    return x\n"

AIRFLOW_REFUSES = [
    # rule, line, a file below HEAD with it
    ("dag-option", 1, 'with Dag("d", db_path="d.db") as d: ...'),
    ("dag-option", 1, 'd = Dag("d", retain_runs=3)'),
    ("dag-option", 1, '@dag(max_crashes=3)\ndef d(): ...\nd()'),
    ("timedelta", 1, 'd = Dag("d", dagrun_timeout=60)'),
    ("timedelta", 2, 'HOUR = 60 * 60\n@task(execution_timeout=HOUR)\ndef f(): ...'),
    ("timedelta", 1, 'd = Dag("d", default_args={"execution_timeout": 5})'),
    ("task-option", 1, "@task(timeout=5)\ndef f(): ..."),
    ("task-option", 1, "@task.branch(kill_grace_s=5)\ndef f(): ..."),
    ("task-option", 1, "@task(executor='threads')\ndef f(): ..."),
    ("task-option", 3, "@task\ndef f(): ...\nf.override(log_cap_bytes=5)"),
    ("task-option", 1, 'BashOperator(task_id="b", bash_command="ls", timeout=5)'),
    ("task-option", 2, 'ARGS = dict(\n    timeout=5)\nd = Dag("d", default_args=ARGS)'),
    ("retry-delay", 1, "@task(retries=2)\ndef f(): ..."),
    ("retry-delay", 1, 'd = Dag("d", default_args={"retries": 2})'),
    ("param-default", 1, 'd = Dag("d", schedule="@daily", params={"n": Param(type="integer")})'),
    ("param-json", 2, 'd = Dag("d", params={"a": 1,\n  "n": {1, 2}})'),
    ("group-id", 2, 'with Dag("d"):\n    with TaskGroup("a.b"): ...'),
    ("group-id", 1, '@task_group(group_id="a.b")\ndef g(): ...'),
    ("task-id", 2, 'with Dag("d"):\n    task(lambda: 1)()'),
    ("callable", 4, "import functools\ndef g(a): ...\npart = functools.partial(g, 1)\ntask(part, task_id='x')"),
    ("callable", 3, "class C:\n    def __call__(self): ...\ntask(C())"),
    ("dag-call", 2, 'd = Dag("d")\nd.run()'),
    ("dag-call", 3, 'd = Dag("d")\nif __name__ == "__main__":\n    d.run()'),
    ("dag-call", 4, '@dag\ndef d(): ...\nmade = d()\nmade.resume("x")'),
    ("dag-call", 1, 'Dag.load("d")'),
    ("dag-call", 2, 'd = Dag("d")\nd.test(mock={"f": 1})'),
    ("run-attribute", 4, 'd = Dag("d")\nif __name__ == "__main__":\n    run = d.test()\n    run.xcom("f")'),
    ("dag-not-found", 2, 'if __name__ == "__main__":\n    d = Dag("d")'),
    ("dag-not-found", 2, "@dag\ndef d(): ..."),
    ("context-key", 2, "@task\ndef f(try_number): ..."),
    ("context-key", 4, '@task\ndef f():\n    context = get_current_context()\n    return context["try_number"]'),
    ("context-default", 2, "@task\ndef f(try_number=1): ..."),
    ("context-argument", 4, '@task\ndef f(ds): ...\nwith Dag("d"):\n    f("2026")'),
    ("xcom-default", 3, '@task\ndef f(ti):\n    ti.xcom_pull("x", default=1)'),
    ("plain-call", 5, TASK + "f(1)"),
    ("plain-call", 7, TASK + "@task\ndef g():\n    return f(1)"),
    ("set-argument", 6, TASK + 'with Dag("d"):\n    f({f()})'),
    ("xcom-refused", 3, "@task\ndef f():\n    return b'x'"),
    ("xcom-refused", 3, "@task\ndef f():\n    return {'a': [range(3)]}"),
    ("xcom-refused", 3, "@task\ndef f(x):\n    return x.encode()"),
    ("xcom-refused", 3, "from pathlib import Path\n@task\ndef f() -> list[Path]:\n    return g()"),
    ("xcom-refused", 5, "from pathlib import Path\n@task\ndef f():\n    here = Path('a') / 'b'\n    return here"),
    ("xcom-refused", 4, "class C: ...\n@task\ndef f():\n    return C()"),
    ("xcom-refused", 5, "import enum\nclass E(enum.Enum):\n    A = 1\n@task\ndef f() -> E: ..."),
    (
        "xcom-refused",
        6,
        "import typing, datetime\nclass T(typing.TypedDict):\n    at: datetime.time\n\n@task\ndef f() -> T: ...",
    ),
    ("xcom-class", 6, "from dataclasses import dataclass\n@dataclass\nclass C:\n    a: int\n@task\ndef f() -> C: ..."),
    ("xcom-changed", 3, "@task\ndef f():\n    return {1: 2}"),
    ("xcom-changed", 2, "@task\ndef f() -> dict[int, str]: ..."),
    ("xcom-changed", 3, "import collections\n@task\ndef f() -> collections.Counter: ..."),
]  # fmt: skip

AIRFLOW_TAKES = [
    'd = Dag("d", dagrun_timeout=timedelta(seconds=5), params={"a": None, "b": Param(1, type="integer")})',
    'd = Dag("d", params={"n": Param(type="integer")})',
    "@task(retries=2, retry_delay=5)\ndef f(): ...",
    "@task(retries=0)\ndef f(): ...",
    'd = Dag("d", default_args={"retry_delay": 5})\n@task(retries=2)\ndef f(): ...',
    "@task(retry_delay=5)\ndef f(): ...\nf.override(retries=3)",
    "@task.sensor(timeout=5, poke_interval=1)\ndef f(): ...",
    'with Dag("d"):\n    task(lambda: 1, task_id="x")()',
    "@task\ndef f(ds, ti=None, **context): ...",
    '@task\ndef f(try_number): ...\nwith Dag("d"):\n    f(try_number=1)',
    '@task\ndef f(ds): ...\nwith Dag("d"):\n    f(ds="2026")',
    TASK + 'with Dag("d"):\n    f(f(1))',
    TASK + "@dag\ndef d():\n    f(1)\nd()",
    TASK + "def helper():\n    return f(1)",
    TASK + "@task\ndef g(f):\n    return f(1)",
    "@task\ndef f():\n    return (1, {2}, frozenset(), None, 'a', 1.5, [{'a': 1}])",
    "@task(do_xcom_push=False)\ndef f():\n    return b'x'",
    "from datetime import datetime\n@task\ndef f() -> dict[str, datetime | timedelta]: ...",
    "def plain():\n    return b'x'",
    "@task\ndef f():\n    def inner():\n        return b'x'\n    return len(inner())",
    "@task.short_circuit\ndef f():\n    return b'x'",
    'd = Dag("d")\nd.test()',
    'class Run: ...\nrun = Run()\nrun.xcom("x")',
]


@pytest.mark.parametrize(("rule", "line", "body"), AIRFLOW_REFUSES)
def test_what_airflow_would_not_take_is_named_with_its_line(rule: str, line: int, body: str) -> None:
    assert to_airflow(body) == [(line, rule)]


@pytest.mark.parametrize("body", AIRFLOW_TAKES)
def test_what_airflow_takes_is_left_alone(body: str) -> None:
    assert to_airflow(body) == []


def advice_for(line: str) -> list[str]:
    return [one.advice for one in ToAirflow(Source("f.py", line)).findings()]


def test_an_import_is_written_anew_so_that_the_other_lines_can_stay() -> None:
    assert advice_for("from liteflow import Dag, SkipTask, task as t") == [
        (
            "write: from airflow.sdk import DAG as Dag, task as t; "
            "from airflow.sdk.exceptions import AirflowSkipException as SkipTask"
        )
    ]
    assert advice_for("from liteflow.operators import BashOperator, BaseOperator") == [
        (
            "write: from airflow.providers.standard.operators.bash import BashOperator; "
            "from airflow.sdk import BaseOperator"
        )
    ]
    assert advice_for("import liteflow as lf\nlf.task") == ["write: import airflow.sdk as lf"]


def test_a_name_that_airflow_has_not_is_named() -> None:
    found = list(
        ToAirflow(Source("f.py", "from liteflow import ExecutorService\nimport liteflow\nliteflow.RunEvent")).findings()
    )
    assert [(one.line, one.rule) for one in found] == [(1, "import-unknown"), (2, "import"), (3, "import-unknown")]


def test_imports_that_airflow_does_not_come_to_are_left_alone() -> None:
    guarded = 'if __name__ == "__main__":\n    from liteflow import ExecutorService'
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from liteflow import DagRun"
    assert advice_for(guarded) == advice_for(typed) == []


def test_every_name_of_the_face_has_one_in_airflow_or_is_said_to_have_none() -> None:
    import liteflow

    unknown = {name for name in liteflow.__all__ if name_there(f"liteflow.{name}") is None}
    assert unknown == {
        *("DagRun", "DagWarning", "EndReason", "ExecutorService", "LiteflowError", "RunEvent", "RunHandle", "Task"),
        "read_session",
    }


# With the dags themselves


@pytest.fixture
def checked(tmp_path: Path) -> Callable[[str], list[Finding]]:
    def check(body: str) -> list[Finding]:
        path = tmp_path / "flows.py"
        path.write_text(HEAD + textwrap.dedent(body))
        return [one for one in check_file(str(path), "airflow") if one.line > 3]

    return check


MAPPED = """\
@task
def half(n):
    {body}

@task
def add(all): ...

with Dag("d", max_active_tasks=5):
    {end}
"""


@pytest.mark.parametrize("body", ["return None", "if n:\n        return n", "print(n)", "return"])
def test_a_mapped_task_that_may_return_none_is_named_if_its_values_are_read(
    body: str, checked: Callable[[str], list[Finding]]
) -> None:
    found = checked(MAPPED.format(body=body, end="add(half.expand(n=[1, 2]))"))
    assert [(one.line - 3, one.rule) for one in found] == [(2, "none-dropped")]


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("return n", "add(half.expand(n=[1, 2]))"),
        ("return None", "half.expand(n=[1, 2]) >> add([])"),
        ("return None", "add(half(1))"),
        ("if n:\n        return n\n    raise SkipTask('odd')", "add(half.expand(n=[1, 2]))"),
    ],
)
def test_a_mapped_task_whose_values_stay_the_same_is_left_alone(
    body: str, end: str, checked: Callable[[str], list[Finding]]
) -> None:
    assert checked(MAPPED.format(body=body, end=end)) == []


def test_a_branch_in_a_mapped_group_is_named(checked: Callable[[str], list[Finding]]) -> None:
    found = checked(
        """\
        @task.branch
        def choose(n):
            return "g.yes"

        @task
        def yes(): ...

        @task_group
        def g(n):
            choose(n) >> yes()

        with Dag("d", max_active_tasks=2):
            g.expand(n=[1, 2])
        """
    )
    assert [(one.line - 3, one.rule) for one in found] == [(10, "mapped-branch")]


def test_a_file_that_cannot_be_loaded_is_read_all_the_same(checked: Callable[[str], list[Finding]]) -> None:
    found = checked("import no_such_module\n@task(timeout=5)\ndef f(): ...")
    assert [one.rule for one in found] == ["task-option"]


def test_dags_of_modules_that_the_file_imports_are_not_the_files(tmp_path: Path) -> None:
    (tmp_path / "checked_flows.py").write_text('from liteflow import Dag\nd = Dag("d", max_active_tasks=None)\n')
    (tmp_path / "app.py").write_text("import checked_flows\n")
    assert check_file(str(tmp_path / "app.py"), "airflow") == []


# From Airflow


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("import-unknown", "from airflow.sdk import ObjectStoragePath"),
        ("import-unknown", "from airflow.sdk import no_such_name"),
        ("import-unknown", "from airflow.providers.amazon.aws.hooks.s3 import S3Hook"),
        ("import-unknown", "import airflow.settings"),
        ("import-unknown", "from airflow.sdk import task\ntask.kubernetes"),
        ("import-unknown", "import airflow.sdk as sdk\nsdk.ObjectStoragePath"),
        ("variable-set", "from airflow.sdk import Variable\nVariable.set('a', 1)"),
        ("option", "from airflow.sdk import task\n@task(max_active_tis_per_dag=1)\ndef f(): ..."),
        ("option", "from airflow.sdk import DAG\nDAG('d', schedule_interval='@daily')"),
        ("option", "from airflow.sdk import DAG\nDAG('d', default_args={'max_active_tis_per_dag': 1})"),
        ("deferred", "class S:\n    def execute(self, context):\n        self.defer(trigger=1)"),
        ("context-key", "from airflow.sdk import task\n@task\ndef f(inlet_events): ..."),
    ],
)
def test_what_liteflow_would_not_take_is_named_with_its_line(rule: str, text: str) -> None:
    assert [found for _, found in to_liteflow(text)] == [rule]


@pytest.mark.parametrize(
    "text",
    [
        "from airflow.sdk import DAG, dag, task, Variable, get_current_context\ntask.branch\nVariable.get('a')",
        "from airflow.providers.standard.operators.bash import BashOperator\nBashOperator(task_id='a', env={})",
        "from airflow.exceptions import AirflowSkipException",
        "import airflow.sdk",
        "from airflow.sdk import Asset, task\n@task(outlets=[Asset('a')], owner='me')\ndef f(): ...",
        "try:\n    from airflow.sdk import no_such_name\nexcept ImportError:\n    no_such_name = None",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from airflow.models import Nothing",
        "from airflow.sdk import task\ndef callback(task, params):\n    return task.no_such_attribute",
        "import airflow_helper.x\nfrom . import airflow",
    ],
)
def test_what_liteflow_takes_is_left_alone(text: str) -> None:
    assert to_liteflow(text) == []


def test_what_means_nothing_here_is_a_note() -> None:
    text = "from airflow.sdk import Asset, DAG\nDAG('d', schedule=[Asset('a')], catchup=False, tags=['a'])"
    found = list(ToLiteflow(Source("f.py", text)).findings())
    assert [(one.line, one.rule, one.severity) for one in found] == [(1, "inert", "note"), (2, "inert", "note")]
    assert found[1].message == "schedule: nothing follows from these here"


@pytest.mark.parametrize("target", ["airflow", "liteflow"])
def test_a_file_that_is_missing_or_no_python_is_an_error_with_its_place(target: str, tmp_path: Path) -> None:
    with pytest.raises(DagFileError, match="cannot be read"):
        check_file(str(tmp_path / "none.py"), target)
    (tmp_path / "bad.py").write_text("a = 1\ndef (:\n")
    with pytest.raises(DagFileError, match=r"bad\.py:2: "):
        check_file(str(tmp_path / "bad.py"), target)
    (tmp_path / "null.py").write_bytes(b"a = '\0'")
    with pytest.raises(DagFileError, match=r"null\.py"):
        check_file(str(tmp_path / "null.py"), target)
