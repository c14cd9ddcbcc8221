"""The page of a run in a real browser: it asks for nothing, shows what ran, and takes no text for more than text."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from liteflow import Dag, SkipTask, TaskGroup, get_current_context, task
from liteflow.cli.page import dag_page, run_page
from liteflow.states import EndReason, RunState
from liteflow.states import TaskInstanceState as S
from liteflow.storage import recording, tables
from liteflow.storage.history import open_history
from liteflow.storage.recording import DagFacts, TaskFacts
from liteflow.storage.schema import open_database
from liteflow.visualize.html import visible
from tests.browser.chromium import Chromium, Tab
from tests.browser.payloads import PAYLOADS

TI = tables.TASK_INSTANCE
NOW_US = 1_767_225_600_000_000


# Runs


@task
def extract(day: str) -> list[int]:
    print("rows of", day)
    return [1, 2, 3]


@task(retries=1)
def flaky(rows: list[int]) -> dict[str, int]:
    if get_current_context()["ti"].try_number == 1:
        raise ConnectionError("the warehouse does not answer")
    return {"rows": len(rows)}


@task
def check(found: dict[str, int]) -> None:
    print("look at", found)
    raise ValueError("3 rows have no name")


@task
def work(number: int) -> int:
    if number == 2:
        raise SkipTask("nothing in it")
    return number * number


@task(trigger_rule="none_failed")
def total(squares: list[int]) -> int:
    return 14


def nightly(db: str) -> Dag:
    """Two groups, one in the other, a retry, a failure and a mapped task."""
    with Dag("nightly", db_path=db, description="Orders of the day", params={"day": "2026-01-01"}, tags=["etl"]) as dag:
        rows = extract(dag.param("day"))
        with TaskGroup("prepare"):
            found = flaky(rows)
            with TaskGroup("verify"):
                check(found)
                check.override(task_id="again")(found)
        total(work.expand(number=rows))
    return dag


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a real run of `nightly`."""
    directory = tmp_path_factory.mktemp("night")
    run = nightly(str(directory / "night.db")).run(run_id="r1", max_workers=2, progress=False)
    return written(directory, run_page(run, direction="LR"))


def written(directory: Path, text: str) -> Path:
    path = directory / "page.html"
    path.write_text(text, encoding="utf-8")
    return path


def recorded(directory: Path, tasks: list[TaskFacts], dag: DagFacts, params_json: str = "{}") -> tuple[Any, int]:
    """A database with a run of these tasks, put there by hand, all successful. Returns it with the run's key."""
    database = open_database(str(directory / "page.db"), create=True, pooled=False)
    with database.write() as connection:
        dag_pk = recording.record_dag(connection, dag, NOW_US)
        run_pk, _ = recording.create_run(
            connection,
            dag_pk,
            run_id="r1",
            logical_date=tables.from_microseconds(NOW_US),
            params_json=params_json,
            structure_digest="0" * 64,
            tasks=tasks,
            executor_pk=None,
            now_us=NOW_US,
        )
        place = TI.c.id % 1000
        connection.execute(
            update(TI).values(
                state=S.SUCCESS,
                try_number=1,
                slot=TI.c.id % 4 + 1,
                started_at=NOW_US + place * 1_000_000,
                ended_at=NOW_US + place * 1_000_000 + 3_000_000,
            )
        )
        connection.execute(
            update(tables.DAG_RUN).values(state=RunState.SUCCESS, started_at=NOW_US, ended_at=NOW_US + 1_003_000_000)
        )
    return database, run_pk


PLAIN = DagFacts("big", None, (), "{}", None, "0" * 64)


def page_of(directory: Path) -> Path:
    run = open_history(str(directory / "page.db")).find_run("r1")
    return written(directory, run_page(run, direction="LR"))


# Looking


def drawn(tab: Tab, path: Path) -> None:
    """Open the page and wait until the graph has its final form."""
    tab.open(path)
    tab.until("window.__drawn")


def names_nothing_else(tab: Tab, path: Path) -> None:
    """Nothing left the page, and it has nothing to complain of. Blobs are made by the page itself."""
    assert [url for url in tab.requests if not url.startswith("blob:")] == [path.as_uri()]
    assert tab.complaints == []
    assert tab.dialogs == []


def center(tab: Tab, node: str) -> tuple[float, float]:
    """Where the middle of a node of the graph is in the window."""
    x, y = tab.run(
        f"(() => {{ const at = window.__cy.getElementById('{node}').renderedPosition(), box = "
        "document.getElementById('graph').getBoundingClientRect(); return [box.x + at.x, box.y + at.y] })()"
    )
    return x, y


def node_of(tab: Tab, label: str) -> str:
    """The node of the graph whose first line is or holds `label`."""
    wanted = f"node => node.data('label').includes({json.dumps(label)})"
    found = tab.run(f"(window.__cy.nodes().filter({wanted})[0] || {{id: () => ''}}).id()")
    assert found, tab.run("window.__cy.nodes().map(node => node.data('label'))")
    return str(found)


def inked(tab: Tab) -> int:
    """How many pixels of the graph's canvases are not empty."""
    return int(
        tab.run(
            """[...document.querySelectorAll('#graph canvas')].reduce((sum, canvas) => {
              const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
              for (let i = 3; i < pixels.length; i += 4) if (pixels[i]) sum += 1;
              return sum;
            }, 0)"""
        )
    )


def text_of(tab: Tab, selector: str) -> str:
    return str(tab.run(f"document.querySelector({json.dumps(selector)}).innerText"))


def click_button(tab: Tab, selector: str, text: str) -> None:
    """Click the first button there that says this."""
    buttons = f"[...document.querySelectorAll({json.dumps(selector)})]"
    tab.run(f"{buttons}.find(one => one.textContent.includes({json.dumps(text)})).click()")


@pytest.fixture
def tab(chromium: Chromium) -> Iterator[Tab]:
    with chromium.tab() as tab:
        yield tab


# What it shows


def test_the_page_draws_the_graph_and_the_timeline_and_asks_for_nothing(tab: Tab, night: Path, shots: Path) -> None:
    drawn(tab, night)
    assert inked(tab) > 5000
    assert text_of(tab, "h1") == "nightly"
    assert "failed" in text_of(tab, "#run-state")
    assert "2026-01-01" in text_of(tab, "#facts")
    tab.screenshot(shots / "small-graph-light.png")
    click_button(tab, "[role=tab]", "Timeline")
    bars = tab.run(
        "[...document.querySelectorAll('.bar')].map(one => one.getBoundingClientRect())"
        ".filter(at => at.width >= 3 && at.height > 10).length"
    )
    assert bars == 9  # extract, two tries of flaky, two checks, three of work, total
    widths = "[...document.querySelectorAll('.axis, .lane')].map(one => one.getBoundingClientRect().width)"
    assert len(set(tab.run(widths))) == 1  # ticks and bars have one scale
    fits = "(view => view.scrollWidth <= view.clientWidth)(document.getElementById('timeline-view'))"
    assert tab.run(fits)
    click_button(tab, "#tools button", "+")
    assert not tab.run(fits)
    click_button(tab, "#tools button", "Fit")
    assert tab.run(fits)
    assert "Critical path" in text_of(tab, "#timeline-view")
    assert tab.run("document.querySelectorAll('.bar.critical').length") >= 2
    tab.screenshot(shots / "small-timeline-light.png")
    names_nothing_else(tab, night)


def test_a_click_on_a_task_opens_its_error_tries_xcoms_and_log(tab: Tab, night: Path, shots: Path) -> None:
    drawn(tab, night)
    assert tab.run("document.getElementById('detail').hidden")
    tab.click(*center(tab, node_of(tab, "flaky")))
    tab.until("!document.getElementById('detail').hidden")
    told = text_of(tab, "#detail")
    for expected in (
        "prepare.flaky",
        "2 tries",
        "the warehouse does not answer",
        "return_value",
        '{"rows":3}',
        "all_success",
    ):
        assert expected in told
    tab.screenshot(shots / "small-detail-light.png")
    tab.click(*center(tab, node_of(tab, "check")))
    tab.until("document.querySelector('#detail h2').textContent === 'prepare.verify.check'")
    assert "ValueError: 3 rows have no name" in text_of(tab, "#detail .error")
    assert "look at {'rows': 3}" in text_of(tab, "#detail .log")
    names_nothing_else(tab, night)


def test_the_keyboard_is_enough(tab: Tab, night: Path) -> None:
    drawn(tab, night)
    tab.press("/", 191)
    assert tab.run("document.activeElement.id") == "search"
    tab.type("AGAIN")
    tab.until("document.querySelectorAll('#tasks button').length === 1")
    tab.press("Enter", 13)
    tab.until("!document.getElementById('detail').hidden")
    assert "prepare.verify.again" in text_of(tab, "#detail h2")
    tab.press("Escape", 27)
    assert tab.run("document.getElementById('detail').hidden")
    assert tab.run("document.activeElement.id") == "search"
    for _ in range(20):  # past the legend, to the list
        tab.press("Tab", 9)
        if tab.run("Boolean(document.activeElement.closest('#tasks'))"):
            break
    tab.press("Enter", 13)
    assert not tab.run("document.getElementById('detail').hidden")


def test_groups_and_mapped_tasks_collapse_and_expand(tab: Tab, night: Path, shots: Path) -> None:
    drawn(tab, night)
    ids = "window.__cy.nodes().map(node => node.data('kind'))"
    assert sorted(tab.run(ids)) == ["box", "box", "mapped", "task", "task", "task", "task", "task"]
    click_button(tab, "#tools button", "Collapse groups")
    assert sorted(tab.run(ids)) == ["group", "mapped", "task", "task"]
    group = node_of(tab, "prepare")
    assert "3 tasks" in tab.run(f"window.__cy.getElementById('{group}').data('label')")
    tab.run("void window.__cy.stop()")
    tab.click(*center(tab, group))
    tab.until("window.__cy.nodes('[kind = \"box\"]').length === 1")
    assert sorted(tab.run(ids)) == ["box", "group", "mapped", "task", "task", "task"]
    click_button(tab, "#tasks button", "work")
    assert "2 success" in text_of(tab, "#detail")
    assert "1 skipped" in text_of(tab, "#detail")
    click_button(tab, "#detail button", "Expand in the graph")
    assert tab.run("window.__cy.nodes('[kind = \"instance\"]').map(node => node.data('state')).sort()") == [
        "skipped",
        "success",
        "success",
    ]
    tab.screenshot(shots / "small-expanded-light.png")
    click_button(tab, "#detail button", "Collapse in the graph")
    assert tab.run("window.__cy.nodes('[kind = \"instance\"]').length") == 0
    names_nothing_else(tab, night)


def test_it_follows_the_system_into_the_dark_until_it_is_told_otherwise(
    chromium: Chromium, night: Path, shots: Path
) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with chromium.tab(dark=True) as tab:
        drawn(tab, night)
        assert tab.run(ground) == "rgb(19, 19, 22)"
        tab.screenshot(shots / "small-graph-dark.png")
        click_button(tab, "[role=tab]", "Timeline")
        tab.screenshot(shots / "small-timeline-dark.png")
        tab.be_dark(False)
        tab.until(f"{ground} === 'rgb(255, 255, 255)'")
        click_button(tab, "#theme", "auto")
        assert tab.run(ground) == "rgb(19, 19, 22)"
        assert "dark" in text_of(tab, "#theme")
        drawn(tab, night)
        assert tab.run(ground) == "rgb(19, 19, 22)"  # remembered, where the browser lets a file remember
        tab.requests.pop()
        names_nothing_else(tab, night)


def test_tries_are_sorted_by_any_column_and_filtered_by_state(tab: Tab, night: Path, shots: Path) -> None:
    drawn(tab, night)
    click_button(tab, "[role=tab]", "Tries")
    column = "[...document.querySelectorAll('#tries-view tbody tr')].map(row => row.cells[%d].innerText)"
    assert len(tab.run(column % 0)) == 9
    click_button(tab, "#tries-view th button", "Task")
    names = tab.run(column % 0)
    assert names == sorted(names)
    assert names.count("prepare.flaky") == 2
    click_button(tab, "#tries-view th button", "Task")
    assert tab.run(column % 0) == sorted(names, reverse=True)
    assert tab.run("document.querySelector('#tries-view th').getAttribute('aria-sort')") == "descending"
    click_button(tab, "#legend button", "failed")
    assert set(tab.run(column % 0)) == {"prepare.verify.check", "prepare.verify.again"}
    tab.screenshot(shots / "small-tries-light.png")


def test_times_are_local_with_utc_behind_them(tab: Tab, tmp_path: Path) -> None:
    recorded(tmp_path, [TaskFacts("a", [], "all_success")], PLAIN)
    drawn(tab, page_of(tmp_path))
    assert "2026-01-01 01:00:00" in text_of(tab, "#facts")  # the browser is told that it is in Berlin
    assert tab.run("document.querySelector('#facts time').title") == "2026-01-01 00:00:00.000 UTC"


def test_a_dag_that_has_not_run_is_drawn_from_its_code(tab: Tab, tmp_path: Path) -> None:
    path = written(tmp_path, dag_page(nightly(str(tmp_path / "none.db")), direction="TD"))
    drawn(tab, path)
    assert text_of(tab, "#run") == "has not run"
    assert inked(tab) > 5000
    click_button(tab, "#tasks button", "total")
    assert "none_failed" in text_of(tab, "#detail")
    click_button(tab, "[role=tab]", "Timeline")
    assert "has not run" in text_of(tab, "#timeline-view")
    names_nothing_else(tab, path)


# Large ones


def test_2000_tasks_are_usable(tab: Tab, tmp_path: Path, shots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Something is drawn at once, and the library's layout comes from a worker while the page answers."""

    def name(layer: int, place: int) -> str:
        return f"step_{layer:02}_{place:02}"

    tasks = [
        TaskFacts(
            name(layer, place),
            [name(layer - 1, up % 100) for up in (place, place * 7 + layer)] if layer else [],
            "all_success",
        )
        for layer in range(20)
        for place in range(100)
    ]
    database, _ = recorded(tmp_path, tasks, PLAIN)
    with database.write() as connection:
        connection.execute(
            update(TI)
            .where(TI.c.id % 37 == 0)
            .values(state=S.FAILED, end_reason=EndReason.ERROR, error="ValueError: no")
        )
    path = page_of(tmp_path)
    tab.be_dark(True)
    tab.open(path)
    tab.until("window.__first")
    asked = time.monotonic()
    assert inked(tab) > 20_000
    click_button(tab, "#tasks button", "step_00_36")
    assert "ValueError: no" in text_of(tab, "#detail")
    answered = time.monotonic() - asked
    tab.press("Escape", 27)
    click_button(tab, "#tools button", "Fit")
    tab.until("window.__drawn")
    first, last = tab.run("[window.__first, window.__drawn]")
    size = path.stat().st_size / 1e6
    with capsys.disabled():
        print(f"\n2,000 tasks: {size:.1f} MB, drawn after {first:.0f} ms, untangled after {last:.0f} ms,", end=" ")
        print(f"a click after {answered * 1000:.0f} ms")
    assert tab.run("window.__cy.nodes().length") == 2000
    assert tab.run("document.getElementById('graph-note').hidden")
    tab.screenshot(shots / "2000-graph-dark.png")
    click_button(tab, "[role=tab]", "Timeline")
    assert tab.run("document.querySelectorAll('.bar').length") == 2000
    tab.screenshot(shots / "2000-timeline-dark.png")
    click_button(tab, "[role=tab]", "Graph")
    tab.type("x")
    tab.press("/", 191)
    tab.type("step_13_77")
    tab.until("document.querySelectorAll('#tasks button').length === 1")
    tab.press("Enter", 13)
    tab.until("window.__cy.$(':selected').length === 1")
    tab.screenshot(shots / "2000-found-dark.png")
    names_nothing_else(tab, path)


def test_a_graph_whose_tree_is_deeper_than_the_stack_is_untangled_all_the_same(tab: Tab, tmp_path: Path) -> None:
    """Two layers in a zigzag: every tree over them is one long way."""
    tasks = [TaskFacts(f"above_{nth:04}", [], "all_success") for nth in range(1000)]
    tasks += [
        TaskFacts(f"below_{nth:04}", [f"above_{nth:04}", f"above_{(nth + 1) % 1000:04}"], "all_success")
        for nth in range(999)
    ]
    recorded(tmp_path, tasks, PLAIN)
    drawn(tab, page_of(tmp_path))
    assert tab.run("document.getElementById('graph-note').hidden")


def test_10000_mapped_instances_are_one_node(tab: Tab, tmp_path: Path, shots: Path) -> None:
    tasks = [
        TaskFacts("names", [], "all_success"),
        TaskFacts("count", ["names"], "all_success", range(10_000)),
        TaskFacts("total", ["count"], "all_done"),
    ]
    database, _ = recorded(tmp_path, tasks, PLAIN)
    with database.write() as connection:
        connection.execute(
            update(TI).where(TI.c.map_index % 1000 == 999).values(state=S.FAILED, error="ValueError: no")
        )
    path = page_of(tmp_path)
    assert path.stat().st_size < 3_000_000
    drawn(tab, path)
    assert tab.run("window.__cy.nodes().length") == 3
    assert "9,990 success, 10 failed" in tab.run(f"window.__cy.getElementById('{node_of(tab, 'count')}').data('label')")
    click_button(tab, "#tasks button", "count [10,000]")
    assert "50 of 10,000 instances" in text_of(tab, "#detail")
    assert text_of(tab, "#detail tbody tr").startswith("[999]")
    click_button(tab, "#detail button", "Expand in the graph")
    assert tab.run("window.__cy.nodes().length") == 3 + 24 + 1
    assert node_of(tab, "9,976 more")
    tab.screenshot(shots / "mapped-expanded-light.png")
    names_nothing_else(tab, path)


# Strangers' texts


def test_no_text_adds_an_element_or_runs_anything(tab: Tab, tmp_path: Path, shots: Path) -> None:
    """A hundred payloads in every place that holds text: ids, groups, descriptions, tags, params, errors, keys and
    values of XComs, levels' loggers, messages, labels of instances, pools. Everything is opened that can be."""
    assert len(PAYLOADS) >= 100
    tasks = []
    for nth, payload in enumerate(PAYLOADS):
        # As a plain id, and as that of a group.
        tasks.append(TaskFacts(payload, [PAYLOADS[nth - 1]] if nth else [], payload[:40]))
        group = payload.replace(".", "_") + f"{nth}"
        tasks += [
            TaskFacts(f"{group}.x", [payload], "all_success"),
            TaskFacts(f"{group}.y", [f"{group}.x"], "all_done"),
        ]
    tasks.append(TaskFacts("mapped", [], "all_success", range(len(PAYLOADS))))
    everything = "\n".join(PAYLOADS)
    dag = DagFacts(PAYLOADS[1], everything, tuple(PAYLOADS), "{}", PAYLOADS[0], "0" * 64)
    database, run_pk = recorded(tmp_path, tasks, dag, json.dumps({payload: payload for payload in PAYLOADS}))
    with database.write() as connection:
        pks = list(connection.scalars(select(TI.c.id).where(TI.c.run_pk == run_pk).order_by(TI.c.id)))
        logs, xcoms, tries = [], [], []
        for nth, pk in enumerate(pks):
            text = PAYLOADS[nth % len(PAYLOADS)]
            connection.execute(
                update(TI)
                .where(TI.c.id == pk)
                .values(state=S.FAILED, error=text, pool=text, rendered_map_index=text, try_number=2)
            )
            tries.append({"task_instance_pk": pk, "try_number": 1, "generation": 0, "state": S.FAILED, "error": text})
            logs.append(
                {"task_instance_pk": pk, "try_number": 1, "at": NOW_US, "level": 40, "logger": text, "message": text}
            )
            value = json.dumps(text, ensure_ascii=nth % 2 == 0).encode("utf-8", "replace")
            encoding = "json" if nth % 3 else text[:20]
            xcoms.append(
                {
                    "task_instance_pk": pk,
                    "key": text,
                    "encoding": encoding,
                    "size_bytes": len(value),
                    "sha256": b"0" * 32,
                    "value": value,
                }
            )
        connection.execute(insert(tables.LOG_RECORD), logs)
        connection.execute(insert(tables.XCOM), xcoms)
        connection.execute(insert(tables.TASK_TRY), tries)
        connection.execute(update(tables.DAG_RUN).values(run_id="r1"))
    path = page_of(tmp_path)
    drawn(tab, path)
    click_button(tab, "#tools button", "Expand groups")
    tab.until("document.getElementById('graph-note').hidden", timeout_s=60)
    tab.run("[...document.querySelectorAll('#facts .more')].forEach(one => one.click())")
    click_button(tab, "[role=tab]", "Tries")  # opening is quicker where no graph has to follow
    opened = tab.run(
        """(() => {
          document.querySelectorAll('#more-tasks button').forEach(one => one.click());
          const titles = [];
          for (const task of document.querySelectorAll('#tasks button')) {
            task.click();
            titles.push(document.querySelector('#detail h2').textContent);
            for (const one of [...document.querySelectorAll('#detail td button')].slice(0, 200)) {
              if (!one.isConnected) break;
              one.click();
            }
          }
          return titles;
        })()"""
    )
    assert len(opened) == len(tasks)
    assert {visible(one) for one in PAYLOADS} <= set(opened)
    assert tab.run("document.getElementById('notes').hidden")  # nothing was left out
    for name in ("Timeline", "Tries"):
        click_button(tab, "[role=tab]", name)
        tab.run("document.querySelectorAll('.empty button').forEach(one => one.click())")
        tab.screenshot(shots / f"hostile-{name.lower()}-light.png")
    click_button(tab, "[role=tab]", "Graph")
    tab.run("void window.__cy.fit()")
    tab.screenshot(shots / "hostile-graph-light.png")
    tags = set(tab.run("[...document.querySelectorAll('*')].map(one => one.localName)"))
    assert tags <= {
        *("html", "head", "meta", "title", "style", "body", "noscript", "script", "header", "main", "nav", "section"),
        *("aside", "div", "span", "h1", "h2", "h3", "p", "b", "button", "input", "ul", "li", "dl", "dt", "dd", "pre"),
        *("table", "thead", "tbody", "tr", "th", "td", "time", "canvas"),
    }
    assert tab.run("document.querySelectorAll('script').length") == 4
    assert tab.run("document.querySelectorAll('style').length") == 2
    assert tab.run("document.querySelectorAll('meta').length") == 5
    assert tab.run("document.querySelectorAll('input').length") == 1
    handlers = (
        "[...document.querySelectorAll('*')].flatMap(one => one.getAttributeNames())"
        ".filter(name => name.startsWith('on') || name === 'href' || name === 'src')"
    )
    assert tab.run(handlers) == []
    assert tab.run("typeof window.__pwned") == "undefined"
    assert tab.run("typeof ({}).pwned") == "undefined"
    names_nothing_else(tab, path)


def test_a_script_that_got_in_all_the_same_would_not_run(tab: Tab, night: Path, tmp_path: Path) -> None:
    """The second lock: the policy lets in nothing that it does not name. Shown by breaking the first one on purpose."""
    text = night.read_text("utf-8")
    broken = text.replace(
        "<noscript>",
        "<script>window.__pwned=1</script><img src=http://pwned.invalid/a.png onerror=window.__pwned=2><noscript>",
        1,
    )
    assert broken != text
    path = written(tmp_path, broken)
    drawn(tab, path)
    assert tab.run("typeof window.__pwned") == "undefined"
    assert len(tab.complaints) >= 2
    assert all("Content Security Policy" in one for one in tab.complaints)
