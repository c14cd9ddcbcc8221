"""The examples, each run as a user runs it: in a directory of its own, by a process of its own.

Warnings are errors there, as they are here.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest

from liteflow import Dag, DagRun
from liteflow.storage.history import TaskInstanceInfo, TryInfo
from tests.conftest import ROOT, lines_of, run_python, states_of

EXAMPLES = ROOT / "examples"
TABLE = EXAMPLES / "data" / "seattle-weather.csv"
SVG = "{http://www.w3.org/2000/svg}"


def run_in(directory: Path, *arguments: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python there as a process of its own, and check its exit code."""
    done = run_python("-W", "error", *map(str, arguments), cwd=directory)
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def run_weather(directory: Path, *params: str, expect: int = 0) -> DagRun:
    """Run weather_etl.py there by the command line, with params as NAME=VALUE; the run as it was recorded."""
    options = [text for param in params for text in ("--param", param)]
    run_in(directory, "-m", "liteflow", "run", EXAMPLES / "weather_etl.py", *options, expect=expect)
    return latest_run("weather_etl", directory)


def latest_run(dag_id: str, directory: Path) -> DagRun:
    """The latest run in the liteflow.db of the directory."""
    run = Dag.load(dag_id, directory / "liteflow.db").latest_run()
    assert run is not None
    return run


def broken_copy(path: Path, bad: Sequence[str]) -> Path:
    """The table of weather with the first rows after its header replaced by `bad`."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    lines[1 : 1 + len(bad)] = bad
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# weather_etl.py


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory in which weather_etl.py has run once, and what it printed."""
    directory = tmp_path_factory.mktemp("weather")
    return directory, run_in(directory, EXAMPLES / "weather_etl.py").stdout


@pytest.fixture(scope="module")
def months() -> dict[str, list[dict[str, str]]]:
    """The rows of the table by month, taken from the file and from nothing that the example says."""
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["date"][:7].replace("/", "-")].append(row)
    return found


def test_weather_summary_says_what_the_table_says(
    weather: tuple[Path, str],
    months: dict[str, list[dict[str, str]]],
) -> None:
    with (weather[0] / "weather_output" / "monthly_summary.csv").open(encoding="utf-8", newline="") as file:
        summary = list(csv.DictReader(file))

    assert [row["month"] for row in summary] == sorted(months)
    assert len(summary) == 48
    for row in summary:
        days = months[row["month"]]
        numbers = {name: float(text) for name, text in row.items() if name != "month"}
        assert numbers == pytest.approx(
            {
                "days": len(days),
                "mean_temp_min": fmean(float(day["temp_min"]) for day in days),
                "mean_temp_max": fmean(float(day["temp_max"]) for day in days),
                "lowest_temp": min(float(day["temp_min"]) for day in days),
                "highest_temp": max(float(day["temp_max"]) for day in days),
                "precipitation": sum(float(day["precipitation"]) for day in days),
                "rain_days": sum(day["precipitation"] != "0.0" for day in days),
            },
            abs=0.00501,  # it is rounded to two places
        ), row["month"]


def test_weather_chart_shows_every_month(
    weather: tuple[Path, str],
    months: dict[str, list[dict[str, str]]],
) -> None:
    svg = ET.parse(weather[0] / "weather_output" / "monthly_chart.svg").getroot()
    bars = [rect for rect in svg.iter(f"{SVG}rect") if rect.get("class") == "month-bar"]
    rain = [sum(float(day["precipitation"]) for day in months[month]) for month in sorted(months)]

    assert svg.tag == f"{SVG}svg"
    assert len(bars) == 48
    heights = [float(bar.get("height", "nan")) for bar in bars]
    assert heights == pytest.approx([amount / max(rain) * max(heights) for amount in rain], abs=0.1)
    titles = [bar.findtext(f"{SVG}title", "") for bar in bars]
    for title, month, amount in zip(titles, sorted(months), rain, strict=True):
        assert title.startswith(f"{month}: {amount:.1f} mm")
    lines = [(line.get("class"), len(line.get("points", "").split())) for line in svg.iter(f"{SVG}polyline")]
    # The short ones are the legend's.
    assert sorted(lines) == [("high", 2), ("high", 48), ("low", 2), ("low", 48)]
    words = {text.text for text in svg.iter(f"{SVG}text")}
    assert {"2012", "2013", "2014", "2015", "Precipitation (mm)", "Mean temperature (°C)"} <= words


def test_weather_chart_needs_nothing_from_elsewhere(weather: tuple[Path, str]) -> None:
    text = (weather[0] / "weather_output" / "monthly_chart.svg").read_text(encoding="utf-8")

    assert re.findall(r"https?://[^\"' ]+", text) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"href|url\(|@import|<script|<image", text)


def test_weather_run_is_in_the_history_and_says_what_it_made(weather: tuple[Path, str]) -> None:
    directory, printed = weather
    run = latest_run("weather_etl", directory)
    years = {f"aggregate_{year}": "success" for year in range(2012, 2016)}
    others = ["extract", "validate", "combine", "write_summary", "draw_chart", "report"]
    found = run.xcom("report")

    assert run.state == "success"
    assert states_of(run) == years | dict.fromkeys(others, "success")
    assert (found["days"], found["months"]) == (1461, 48)
    for name in ("summary", "chart"):
        assert (directory / found[name]).is_file()
        assert found[name] in printed
    assert run.xcom("report", "chart") == found["chart"]
    assert sorted(path.name for path in directory.iterdir() if not path.name.startswith("liteflow.db")) == [
        "weather_output"
    ]


def test_weather_years_are_aggregated_side_by_side(weather: tuple[Path, str]) -> None:
    upstream = {one.task_id: one.upstream for one in latest_run("weather_etl", weather[0]).task_instances()}
    years = tuple(f"aggregate_{year}" for year in range(2012, 2016))

    assert {upstream[year] for year in years} == {("validate",)}
    assert sorted(upstream["combine"]) == sorted(years)


def test_weather_bad_rows_are_dropped_and_reported(tmp_path: Path) -> None:
    rows = {
        "2012/01/01,0.0,12.8,5.0,4.7": None,  # only the last column is missing, and nothing reads it
        "2012/01/02,much,10.6,2.8,4.5,rain": "could not convert string to float: 'much'",
        "2012/01/03,0.8,nan,7.2,2.3,rain": "a number is not finite",
        "2012/01/32,20.3,12.2,5.6,4.7,rain": "day is out of range for month",
        "2012/01/05,1.3,2.8,8.9,6.1,rain": "lowest temperature 8.9 above the highest, 2.8",
        "2012/01/06,-2.5,4.4,2.2,2.2,rain": "precipitation of -2.5 mm",
        "2012/01/01,0.0,7.2,2.8,2.3,rain": "a second row for 2012-01-01",
        "2012/01/08,0,0,10.0,2.8,2.0,sun": "too many fields",
        "2011/01/09,4.3,9.4,5.0,3.4,rain": "2011-01-09 is not in 2012 to 2015",
        "2012/01/10,1.0": "could not convert string to float: ''",
    }
    table = broken_copy(tmp_path / "broken.csv", list(rows))
    run = run_weather(tmp_path, f"source={table}", "out=elsewhere/deeper")
    found = [line for line in lines_of(run, "validate") if line.startswith("dropped")]

    wanted = [(line, why) for line, why in enumerate(rows.values(), start=2) if why]
    for said, (line, why) in zip(found, wanted, strict=True):
        assert said.startswith(f"dropped line {line}: ")
        assert why in said
    assert run.xcom("report", "days") == 1461 - 9
    assert (tmp_path / "elsewhere" / "deeper" / "monthly_chart.svg").is_file()
    assert not (tmp_path / "weather_output").exists()


def test_weather_table_with_one_percent_of_bad_rows_is_still_used(tmp_path: Path) -> None:
    table = broken_copy(tmp_path / "broken.csv", ["not,a,row"] * 14)  # of 1461

    assert run_weather(tmp_path, f"source={table}").xcom("report", "days") == 1461 - 14


def test_weather_table_with_more_bad_rows_is_refused(tmp_path: Path) -> None:
    table = broken_copy(tmp_path / "broken.csv", ["not,a,row"] * 15)
    run = run_weather(tmp_path, f"source={table}", expect=1)

    assert run.state == "failed"
    assert "15 of 1461 rows are bad, at most 1% may be" in (run.task_instance("validate").error or "")
    assert states_of(run)["report"] == "upstream_failed"
    assert not (tmp_path / "weather_output").exists()


@pytest.mark.parametrize(
    ("text", "task_id", "message"),
    [
        ("day,precipitation,temp_max\n", "extract", "has no column date, temp_min"),
        ("date,precipitation,temp_max,temp_min\n", "validate", "the table has no rows"),
    ],
)
def test_weather_file_that_holds_no_table_is_refused(
    tmp_path: Path,
    text: str,
    task_id: str,
    message: str,
) -> None:
    table = tmp_path / "other.csv"
    table.write_text(text)
    run = run_weather(tmp_path, f"source={table}", expect=1)

    assert message in (run.task_instance(task_id).error or "")


def test_weather_script_exits_with_1_when_its_run_fails(tmp_path: Path) -> None:
    (tmp_path / "weather_output").write_text("a file where the directory should go")

    done = run_in(tmp_path, EXAMPLES / "weather_etl.py", expect=1)

    assert "ended as failed" in done.stderr
    assert done.stdout == ""
    assert states_of(latest_run("weather_etl", tmp_path))["write_summary"] == "failed"


def test_weather_table_is_the_one_that_its_readme_describes() -> None:
    readme = (TABLE.parent / "README.md").read_text(encoding="utf-8")

    assert hashlib.sha256(TABLE.read_bytes()).hexdigest() in readme


# complex_workflow.py


def test_complex_workflow_runs_its_171_tasks_in_four_layers(tmp_path: Path) -> None:
    printed = run_in(tmp_path, EXAMPLES / "complex_workflow.py").stdout
    run = latest_run("layered_dag_171", tmp_path)
    instances = run.task_instances()
    layers = Counter((one.task_id.partition("_")[0], len(one.upstream)) for one in instances)

    assert run.state == "success"
    assert Counter(states_of(run).values()) == {"success": 171}
    assert layers == {("generate", 0): 20, ("process", 1): 100, ("combine", 2): 50, ("total", 50): 1}
    # Each value is taken by as many as the layers say, and none is left lying.
    taken = Counter(upstream for one in instances for upstream in one.upstream)
    assert Counter((task_id.partition("_")[0], count) for task_id, count in taken.items()) == {
        ("generate", 5): 20,
        ("process", 1): 100,
        ("combine", 1): 50,
    }
    primes = sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(2, 100_000))
    assert run.xcom("total") == primes == 9592
    assert "171 success" in printed


def test_complex_workflow_can_be_drawn_afterwards(tmp_path: Path) -> None:
    run_in(tmp_path, EXAMPLES / "complex_workflow.py")
    command = ["visualize", "layered_dag_171", "--db", "liteflow.db"]
    drawn = run_in(tmp_path, "-m", "liteflow", *command).stdout
    tasks = states_of(latest_run("layered_dag_171", tmp_path))

    assert len(tasks) == 171
    assert [task_id for task_id in tasks if task_id not in drawn] == []


# retries.py


def test_retries_shows_what_becomes_of_each_task(tmp_path: Path) -> None:
    done = run_in(tmp_path, EXAMPLES / "retries.py")
    printed = done.stdout
    run = latest_run("retries", tmp_path)

    assert done.stderr == ""
    assert run.state == "success"
    assert {one.task_id: (one.state.value, one.try_number) for one in run.task_instances()} == {
        "fetch": ("success", 3),
        "average": ("success", 1),
        "check_licence": ("failed", 1),  # it has five retries, and FailTask uses none
        "upload": ("upstream_failed", 0),
        "find_discounts": ("skipped", 1),
        "apply_discounts": ("skipped", 0),
        "summarise": ("success", 1),
    }
    assert "fetch: success on try 3 of 4\n    try 1 failed: ConnectionError" in printed
    assert "check_licence: failed on try 1 of 6\n" in printed
    assert "find_discounts: skipped on try 1 of 1\n    try 1 skipped: no discounts today" in printed
    assert "upload: upstream_failed, never tried" in printed
    assert "the run: success, average 2.67" in printed


def test_retries_waits_before_each_new_try(tmp_path: Path) -> None:
    run_in(tmp_path, EXAMPLES / "retries.py")
    run = latest_run("retries", tmp_path)
    tries: list[TryInfo | TaskInstanceInfo] = [*run.tries(), run.task_instance("fetch")]

    assert [(one.task_id, one.try_number, one.state.value) for one in tries] == [
        ("fetch", 1, "failed"),
        ("fetch", 2, "failed"),
        ("fetch", 3, "success"),
    ]
    for earlier, later in pairwise(tries):
        assert earlier.ended_at is not None
        assert later.started_at is not None
        assert (later.started_at - earlier.ended_at).total_seconds() > 0.19  # retry_delay is 0.2
    said = [(entry.try_number, entry.message) for entry in run.logs("fetch")]
    assert {(number, f"try {number} of at most 4") for number in (1, 2, 3)} <= set(said)


# embedded.py


def test_embedded_prints_its_own_words_and_leaves_nothing(tmp_path: Path) -> None:
    done = run_in(tmp_path, EXAMPLES / "embedded.py")

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "Invoices:",
        "  Invoice 2026-01 for ada: 58.18",
        "  Invoice 2026-02 for ada: 9.90",
        "  Invoice 2026-01 for ben: 118.80",
        "  Invoice 2026-02 for ben: 3.60",
        "  No invoice: collect failed with KeyError: 'nobody'",
        "Asked twice, billed once: True",
        "Tasks of ada-2026-01:",
        "  collect: success",
        "  add_tax: success",
        "  write_invoice: success",
        "Its log:",
        "  [collect] ada has 3 orders in 2026-01",
        "All runs:",
        "  ada-2026-01: success",
        "  ada-2026-02: success",
        "  ben-2026-01: success",
        "  ben-2026-02: success",
        "  nobody-2026-01: failed",
        "Failed: 1",
    ]
    assert list(tmp_path.iterdir()) == []


# dask_cluster.py


def test_dask_cluster_runs_the_weather_dag_on_two_workers(tmp_path: Path) -> None:
    done = run_in(tmp_path, EXAMPLES / "dask_cluster.py")

    assert done.stdout == "48 months from 1461 days of weather, the chart is weather_output/monthly_chart.svg\n"
    run = latest_run("weather_etl", tmp_path)
    assert set(states_of(run).values()) == {"success"}
    assert (tmp_path / "weather_output").is_dir()


def test_dask_cluster_says_in_one_line_that_dask_is_missing(tmp_path: Path) -> None:
    (tmp_path / "distributed.py").write_text("raise ImportError('not installed')\n")
    done = run_python(str(EXAMPLES / "dask_cluster.py"), cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "This example needs Dask: pip install 'liteflow[dask]'\n"
