"""The table of what Airflow does, the README's number, and the suite's own dag files written in Airflow's words.

Airflow's example files are not in this repository: the nox session `conformance` runs those. What their dags do is
covered by the files in `dags/`, whose table Airflow made as well.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from liteflow.airflow import load_dags
from liteflow.states import RunState, TaskInstanceState
from tests.conformance.compare import KNOWN, counted, differences, found_in, summary
from tests.conformance.oracle import AIRFLOW_VERSION, EXAMPLES, LOGICAL_DATE, OWN, TABLE
from tests.conftest import ROOT

TABLE_OF_AIRFLOW = json.loads(TABLE.read_text())
DIFFERENCES = json.loads(KNOWN.read_text())
ENTRIES: dict[str, dict[str, Any]] = TABLE_OF_AIRFLOW["files"]
OWN_DAGS = {
    f"{name}:{dag_id}": expected
    for name, entry in ENTRIES.items()
    if name.startswith("dags/")
    for dag_id, expected in entry["dags"].items()
}


def test_the_table_is_about_the_airflow_that_the_suite_names() -> None:
    assert TABLE_OF_AIRFLOW["airflow"] == AIRFLOW_VERSION
    assert TABLE_OF_AIRFLOW["logical_date"] == LOGICAL_DATE
    assert AIRFLOW_VERSION in TABLE.name


def test_every_dag_in_the_table_has_states_or_a_reason() -> None:
    for name, entry in ENTRIES.items():
        assert name.startswith((*EXAMPLES, "dags/")), name
        assert entry.get("left_out") or entry["dags"], name
        for dag_id, expected in entry.get("dags", {}).items():
            if "left_out" in expected:
                assert expected["left_out"], dag_id
                continue
            assert expected["run"] in (RunState.SUCCESS, RunState.FAILED), dag_id
            assert expected["states"], dag_id
            assert set(expected["states"].values()) <= set(TaskInstanceState), dag_id
            assert set(expected["xcoms"]) <= set(expected["states"]), dag_id


def test_what_is_said_to_differ_is_in_the_table_and_says_why() -> None:
    for name, why in DIFFERENCES.items():
        file, _, dag_id = name.rpartition(":")
        assert "left_out" not in ENTRIES[file]["dags"][dag_id], name
        assert why, name


def test_the_readme_gives_the_number_that_the_table_gives() -> None:
    text = re.search(r"<!-- conformance -->(.*?)<!-- end -->", (ROOT / "README.md").read_text(), re.DOTALL)
    assert text is not None
    assert summary(TABLE_OF_AIRFLOW, *counted(TABLE_OF_AIRFLOW, DIFFERENCES)) in " ".join(text.group(1).split())


def test_every_own_dag_file_is_in_the_table() -> None:
    assert {f"dags/{path.name}" for path in OWN.glob("*.py")} == {name for name in ENTRIES if name.startswith("dags/")}
    assert not [name for name, expected in OWN_DAGS.items() if "left_out" in expected]


@pytest.mark.filterwarnings("ignore::liteflow.DagWarning")
@pytest.mark.parametrize("name", sorted({name.partition(":")[0] for name in OWN_DAGS}))
def test_a_file_in_airflows_words_does_what_it_does_in_airflow(name: str) -> None:
    dags = load_dags(OWN / Path(name).name)
    assert set(dags) == set(ENTRIES[name]["dags"])
    for dag_id, dag in dags.items():
        run = dag.test(logical_date=datetime.fromisoformat(LOGICAL_DATE))
        found = differences(OWN_DAGS[f"{name}:{dag_id}"], found_in(run))
        if f"{name}:{dag_id}" in DIFFERENCES:
            assert found, f"{dag_id} does as Airflow does, though {KNOWN.name} says otherwise"
        else:
            assert not found, dag_id
