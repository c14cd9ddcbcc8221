"""A small ETL: four years of daily weather become a monthly table, a chart and a few lines of report.

    python examples/weather_etl.py
    liteflow run examples/weather_etl.py

    extract -> validate -> aggregate_2012 to aggregate_2015 -> combine -> write_summary, draw_chart -> report

The four `aggregate` tasks run in parallel. What a task returns is stored, and is an argument of the tasks
that get it; passing it on is all that it takes to put them in order. Two params say where to read and where
to write: `source` (default: the real table beside this file, see data/README.md) and `out` (default:
weather_output in the working directory). The runs are kept in liteflow.db in the working directory.

Everything here but liteflow is the standard library.
"""

from __future__ import annotations

import csv
import logging
import math
import sys
import xml.etree.ElementTree as ET
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from liteflow import Dag, RunState, task

SOURCE = Path(__file__).resolve().parent / "data" / "seattle-weather.csv"
COLUMNS = ("date", "precipitation", "temp_max", "temp_min")
YEARS = range(2012, 2016)
MOST_BAD_ROWS = 0.01
"""The share of rows that may be dropped before the table as a whole is not to be trusted."""

# What a task logs or prints goes to the log of its try, and is shown while the run goes on.
log = logging.getLogger(__name__)


# A TypedDict is a plain dict when the program runs, so it is stored as JSON, which `liteflow xcom` can show.
class Day(TypedDict):
    """One row of the table that has been found good. Temperatures in °C, precipitation in mm."""

    date: date
    precipitation: float
    temp_max: float
    temp_min: float


class Month(TypedDict):
    """What is known of one month: a row of the summary."""

    month: str
    days: int
    mean_temp_min: float
    mean_temp_max: float
    lowest_temp: float
    highest_temp: float
    precipitation: float
    rain_days: int


# Extract and validate


@task
def extract(path: str) -> list[dict[str, str]]:
    """Read the table, all as text. Raises ValueError when it lacks a column."""
    with open(path, encoding="utf-8", newline="") as file:
        # A row that is too short gets empty fields, one that is too long a field "rest".
        reader = csv.DictReader(file, restval="", restkey="rest")
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}")
        rows = list(reader)
    print(f"read {len(rows)} rows from {path}")
    return rows


@task
def validate(rows: list[dict[str, str]]) -> list[Day]:
    """Turn rows into days; log and drop those that cannot be right.

    Raises ValueError when the table is empty or more than 1 % of it had to be dropped: a report about what is
    left would mislead.
    """
    days: dict[date, Day] = {}
    dropped: list[str] = []
    for line, row in enumerate(rows, start=2):  # line 1 of the file is the header
        try:
            day = parse_day(row)
            if day["date"] in days:
                raise ValueError(f"a second row for {day['date']}")
        except ValueError as error:
            dropped.append(f"line {line}: {error}")
        else:
            days[day["date"]] = day
    for what in dropped[:20]:
        log.warning("dropped %s", what)
    if len(dropped) > 20:
        log.warning("dropped %d more", len(dropped) - 20)
    if not rows:
        raise ValueError("the table has no rows")
    if len(dropped) > MOST_BAD_ROWS * len(rows):
        most = f"at most {MOST_BAD_ROWS:.0%} may be"
        raise ValueError(f"{len(dropped)} of {len(rows)} rows are bad, {most}. The first is {dropped[0]}")
    print(f"{len(days)} good rows, {len(dropped)} dropped")
    return list(days.values())


def parse_day(row: dict[str, str]) -> Day:
    """The day that a row describes. Raises ValueError, which says what is wrong with it."""
    if "rest" in row:
        raise ValueError("too many fields")
    day = Day(
        date=date.fromisoformat(row["date"].replace("/", "-")),
        precipitation=float(row["precipitation"]),
        temp_max=float(row["temp_max"]),
        temp_min=float(row["temp_min"]),
    )
    if day["date"].year not in YEARS:
        raise ValueError(f"{day['date']} is not in {YEARS[0]} to {YEARS[-1]}")
    # float() also reads "nan" and "inf".
    if not all(map(math.isfinite, (day["precipitation"], day["temp_max"], day["temp_min"]))):
        raise ValueError("a number is not finite")
    if day["precipitation"] < 0:
        raise ValueError(f"precipitation of {day['precipitation']} mm")
    if day["temp_min"] > day["temp_max"]:
        raise ValueError(f"lowest temperature {day['temp_min']} above the highest, {day['temp_max']}")
    return day


# Aggregate


@task
def aggregate(days: list[Day], year: int) -> list[Month]:
    """The months of one year, in order."""
    by_month: dict[str, list[Day]] = {}
    for day in days:
        if day["date"].year == year:
            by_month.setdefault(f"{day['date']:%Y-%m}", []).append(day)
    return [summarise(month, by_month[month]) for month in sorted(by_month)]


def summarise(month: str, days: list[Day]) -> Month:
    """One month from its days."""
    lows = [day["temp_min"] for day in days]
    highs = [day["temp_max"] for day in days]
    rain = [day["precipitation"] for day in days]
    return Month(
        month=month,
        days=len(days),
        mean_temp_min=math.fsum(lows) / len(days),
        mean_temp_max=math.fsum(highs) / len(days),
        lowest_temp=min(lows),
        highest_temp=max(highs),
        precipitation=math.fsum(rain),
        rain_days=sum(amount > 0 for amount in rain),
    )


@task
def combine(years: list[list[Month]]) -> list[Month]:
    """The months of all years in one list, in order."""
    return sorted((month for months in years for month in months), key=lambda month: month["month"])


# Load: each task writes one file and returns its path. To write it again gives the same file, so a try that
# was interrupted and is repeated does no harm.


@task
def write_summary(months: list[Month], out: str) -> str:
    """Write the table of months as CSV, numbers rounded to two places."""
    path = Path(out) / "monthly_summary.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(Month.__annotations__), lineterminator="\n")
        writer.writeheader()
        for month in months:
            writer.writerow({name: round(x, 2) if isinstance(x, float) else x for name, x in month.items()})
    return str(path)


@task
def draw_chart(months: list[Month], out: str) -> str:
    """Draw the months as an SVG file that any browser shows."""
    path = Path(out) / "monthly_chart.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(chart_of(months)).write(path, encoding="utf-8", xml_declaration=True)
    return str(path)


# A function that says that it returns a dict hands on each key as a value of its own, too: the chart is
# `run.xcom("report", "chart")`, and another task could take `report(...)["chart"]` as an argument.
@task
def report(months: list[Month], summary: str, chart: str) -> dict[str, Any]:
    """Say what was found and where it is."""
    wettest = max(months, key=lambda month: month["precipitation"])
    warmest = max(months, key=lambda month: month["mean_temp_max"])
    coldest = min(months, key=lambda month: month["mean_temp_min"])
    found = {
        "days": sum(month["days"] for month in months),
        "months": len(months),
        "wettest": f"{wettest['month']}, {wettest['precipitation']:.1f} mm",
        "warmest": f"{warmest['month']}, {warmest['mean_temp_max']:.1f} °C by day",
        "coldest": f"{coldest['month']}, {coldest['mean_temp_min']:.1f} °C by night",
        "summary": summary,
        "chart": chart,
    }
    for name, value in found.items():
        print(f"{name}: {value}")
    return found


# The chart: two panels over one axis of time, each with a scale of its own.

WIDTH, HEIGHT = 1000, 620
LEFT, RIGHT = 72, 976
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 }
.title { font-size: 20px; font-weight: 600 }
.small { font-size: 10px; fill: #777 }
.tick { text-anchor: end }
.middle { text-anchor: middle }
.grid { stroke: #e4e4e4 }
.axis { stroke: #888 }
.year { stroke: #bbb; stroke-dasharray: 2 3 }
.band { fill: #f3c9a5; fill-opacity: .55 }
.high, .low { fill: none; stroke-width: 2; stroke-linejoin: round }
.high { stroke: #c8452e }
.low { stroke: #2b6ca3 }
.month-bar { fill: #6fa8c9 }
.month-bar:hover { fill: #2b6ca3 }
"""


class Panel(NamedTuple):
    """A part of the chart: the pixels from `top` to `bottom` show values from `highest` down to `lowest`."""

    top: float
    bottom: float
    lowest: int
    highest: int
    step: int
    title: str

    def y(self, value: float) -> float:
        """Where a value is."""
        return self.bottom - (value - self.lowest) / (self.highest - self.lowest) * (self.bottom - self.top)


def chart_of(months: list[Month]) -> ET.Element:
    """The whole chart, as an SVG element."""
    svg = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}")
    svg.attrib.update(width=str(WIDTH), height=str(HEIGHT), role="img")
    title = f"Weather in Seattle by month, {months[0]['month']} to {months[-1]['month']}"
    add(svg, "title", title)
    add(svg, "style", STYLE)
    add(svg, "rect", width=WIDTH, height=HEIGHT, fill="#fff")
    add(svg, "text", title, x=LEFT, y=36, class_="title")

    # Scales from one round number to another. A table without a drop of rain still needs one.
    low = math.floor(min(month["mean_temp_min"] for month in months) / 5) * 5
    high = math.ceil(max(month["mean_temp_max"] for month in months) / 5) * 5
    most = math.ceil(max(month["precipitation"] for month in months) / 50) * 50
    temperature = Panel(90, 330, low, high, 5, "Mean temperature (°C)")
    rain = Panel(390, 560, 0, max(most, 50), 50, "Precipitation (mm)")
    width = (RIGHT - LEFT) / len(months)
    centres = [LEFT + width * (number + 0.5) for number in range(len(months))]

    for panel in (temperature, rain):
        draw_scale(svg, panel)
    draw_time(svg, months, width, temperature.top, rain.bottom)
    draw_temperatures(svg, months, centres, temperature)
    draw_rain(svg, months, centres, width * 0.72, rain)
    add(svg, "line", x1=LEFT, y1=rain.bottom, x2=RIGHT, y2=rain.bottom, class_="axis")
    draw_legend(svg)
    return svg


def draw_scale(svg: ET.Element, panel: Panel) -> None:
    """The name of a panel's values and their scale, with a line across for each tick."""
    add(svg, "text", panel.title, x=LEFT, y=panel.top - 14)
    for value in range(panel.lowest, panel.highest + 1, panel.step):
        y = panel.y(value)
        add(svg, "line", x1=LEFT, y1=y, x2=RIGHT, y2=y, class_="grid")
        add(svg, "text", str(value), x=LEFT - 8, y=y + 4, class_="tick")


def draw_time(svg: ET.Element, months: list[Month], width: float, top: float, bottom: float) -> None:
    """The axis of time: a letter for each month; for each year its number, and a line where it begins."""
    numbers_by_year: dict[str, list[int]] = {}
    for number, month in enumerate(months):
        letter = "JFMAMJJASOND"[int(month["month"][5:]) - 1]
        add(svg, "text", letter, x=LEFT + width * (number + 0.5), y=bottom + 15, class_="small middle")
        numbers_by_year.setdefault(month["month"][:4], []).append(number)
    for year, numbers in numbers_by_year.items():
        begin, end = LEFT + width * numbers[0], LEFT + width * (numbers[-1] + 1)
        add(svg, "text", year, x=(begin + end) / 2, y=bottom + 36, class_="middle")
        if begin > LEFT:
            add(svg, "line", x1=begin, y1=top, x2=begin, y2=bottom + 20, class_="year")


def draw_temperatures(svg: ET.Element, months: list[Month], centres: list[float], panel: Panel) -> None:
    """The means of the daily highs and lows as two lines, and the band between them."""
    highs = [(x, panel.y(month["mean_temp_max"])) for x, month in zip(centres, months, strict=True)]
    lows = [(x, panel.y(month["mean_temp_min"])) for x, month in zip(centres, months, strict=True)]
    add(svg, "polygon", points=points([*highs, *reversed(lows)]), class_="band")
    add(svg, "polyline", points=points(highs), class_="high")
    add(svg, "polyline", points=points(lows), class_="low")


def draw_rain(svg: ET.Element, months: list[Month], centres: list[float], width: float, panel: Panel) -> None:
    """A bar for each month; its `title` is what a browser shows under the pointer."""
    for x, month in zip(centres, months, strict=True):
        y = panel.y(month["precipitation"])
        bar = add(svg, "rect", x=x - width / 2, y=y, width=width, height=panel.bottom - y, class_="month-bar")
        add(bar, "title", f"{month['month']}: {month['precipitation']:.1f} mm on {month['rain_days']} days")


def draw_legend(svg: ET.Element) -> None:
    """What the two lines, the band and the bars are."""
    entries = (
        (556, "high", "daily highs"),
        (670, "low", "daily lows"),
        (780, "band", "range"),
        (860, "month-bar", "precipitation"),
    )
    for x, kind, text in entries:
        if kind in ("high", "low"):
            add(svg, "polyline", points=points([(x, 72), (x + 20, 72)]), class_=kind)
        else:
            # A path, so that months are the only rectangles of this class.
            add(svg, "path", d=f"M{x} 66h20v12h-20z", class_=kind)
        add(svg, "text", text, x=x + 26, y=76)


def add(parent: ET.Element, tag: str, text: str | None = None, **attributes: float | str) -> ET.Element:
    """Put an element into another one. `class_` is the attribute class, which Python keeps for itself."""
    element = ET.SubElement(parent, tag)
    element.text = text
    for name, value in attributes.items():
        element.set(name.rstrip("_"), value if isinstance(value, str) else f"{value:.5g}")
    return element


def points(pairs: list[tuple[float, float]]) -> str:
    """Pixels as SVG writes them: x,y x,y."""
    return " ".join(f"{x:.5g},{y:.5g}" for x, y in pairs)


# The dag. Nothing runs here: a call makes a task, and what it returns stands for a value still to come.

with Dag(
    "weather_etl",
    description="Daily weather to a monthly summary and a chart",
    params={"source": str(SOURCE), "out": "weather_output"},
) as dag:
    good_days = validate(extract(dag.param("source")))
    months_by_year = [aggregate.override(task_id=f"aggregate_{year}")(good_days, year) for year in YEARS]
    all_months = combine(months_by_year)
    report(
        all_months,
        summary=write_summary(all_months, dag.param("out")),
        chart=draw_chart(all_months, dag.param("out")),
    )


# Workers import this file to find the tasks, so what starts a run stands under this guard.
if __name__ == "__main__":
    run = dag.run()
    if run.state != RunState.SUCCESS:
        sys.exit(f"The run {run.run_id} ended as {run.state}; nothing was reported.")
    result = run.xcom("report")
    print(f"{result['months']} months from {result['days']} days of weather:")
    print(f"  table: {result['summary']}")
    print(f"  chart: {result['chart']}")
    for name in ("wettest", "warmest", "coldest"):
        print(f"  {name} month: {result[name]}")
