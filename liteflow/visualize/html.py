"""A run, or a dag that has not run, as one page for a browser: it needs no network and no other file.

The page is a template with two libraries (Cytoscape.js draws, dagre arranges), a style sheet and a script of our own,
and one JSON document with all that is shown. Everything in that document is a stranger's text: here it is kept from
ending its element and what is invisible or turns the writing is spelled out; the script writes it as text only. A
Content-Security-Policy names the scripts and styles by their digests, and allows no other and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import logging
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from liteflow.states import AS_TOLD, BY_URGENCY, RunState, TaskInstanceState, run_text
from liteflow.visualize.colours import COLOURS
from liteflow.visualize.picture import Node, Picture
from liteflow.visualize.timeline import Bar, Timeline, lanes

if TYPE_CHECKING:
    from liteflow.storage.pages import PageInstance, PageTry
    from liteflow.storage.summaries import TaskSummary

ASSETS = Path(__file__).parent / "assets"

MOST_TASKS = 5000
"""Tasks in a page: those that failed, then the others from the beginning of the run."""

MOST_EDGES = 20_000
MOST_BARS = 3000
"""Bars of the timeline: those on the critical path, those that failed, then the longest."""

MOST_STEPS = 500
"""Of the critical path, in words."""

SHORT = 300
"""Characters of an id or another name."""

LONG = 20_000
"""Characters of a description, of all params."""

LIGHT_COLOURS: dict[str, tuple[str, str, str]] = {
    **COLOURS,
    "success": ("#dcfce7", "#22a352", "#14532d"),
    "failed": ("#fca5a5", "#b91c1c", "#450a0a"),
    "skipped": ("#fce7f3", "#db5a96", "#831843"),
    "pending": ("#fafafa", "#b8b8c0", "#52525b"),
}
"""Fill, border, text of each state: what went well is paler than elsewhere, since most of a large page is that."""

DARK_COLOURS: dict[str, tuple[str, str, str]] = {
    "pending": ("#26262b", "#5d5d68", "#c9c9d1"),
    "queued": ("#33333a", "#8b8b96", "#e4e4e7"),
    "running": ("#2b3a10", "#84cc16", "#d9f99d"),
    "success": ("#12361f", "#22a352", "#bbf7d0"),
    "failed": ("#541a1a", "#ef4444", "#fecaca"),
    "skipped": ("#43172f", "#db5a96", "#fbcfe8"),
    "upstream_failed": ("#4a2410", "#f0802f", "#fed7aa"),
    "up_for_retry": ("#42330b", "#d8a413", "#fef08a"),
    "up_for_reschedule": ("#0d3640", "#22b0cb", "#a5f3fc"),
    "removed": ("#2a2a2f", "#71717a", "#b4b4bd"),
}
"""Fill, border, text of each state on a dark page."""

_COLOUR_OF_RUN = {"interrupted": "upstream_failed"}

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


class Page(NamedTuple):
    """What a page shows. Times are microseconds since 1970 in UTC."""

    picture: Picture
    """The tasks with their groups and edges, and the run's state."""
    direction: str = "LR"
    """LR or TD."""
    reason: str | None = None
    """Why the run ended, where its state does not tell."""
    description: str | None = None
    tags: Sequence[str] = ()
    file: str | None = None
    params: Sequence[tuple[str, str]] = ()
    """Names and values, as text."""
    logical_us: int | None = None
    created_us: int | None = None
    started_us: int | None = None
    ended_us: int | None = None
    made_us: int = 0
    """When the page is made."""
    summaries: Sequence[TaskSummary] = ()
    instances: Sequence[PageInstance] = ()
    """What is told of task instances, in this order; those of tasks that are left out are not."""
    rules: Mapping[str, str] = {}
    """Task ids to trigger rules, for tasks of which no instance is told."""
    timeline: Timeline | None = None


def visible(text: str, most: int | None = None) -> str:
    """The text with what cannot be seen, or turns the direction of writing, spelled out; cut to `most` characters.

    Newlines and tabs stay as they are.
    """
    if most is not None and len(text) > most:
        text = text[: most - 3] + "..."
    if text.isascii() and text.isprintable():
        return text
    return _UNSEEN.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def html_page(page: Page) -> str:
    """The page as the text of one file, to be written as UTF-8."""
    texts = _assets()
    title = visible(page.picture.title, 2 * SHORT)
    values = {
        "policy": texts["policy"],
        "title": html.escape(title.replace("\n", " ")),
        "data": json_in_html(page_document(page)),
        **texts,
    }
    return _PLACE.sub(lambda match: values[match.group(1)], texts["template"])


_PLACE = re.compile(r"\{\{(\w+)\}\}")


@lru_cache(maxsize=1)
def _assets() -> dict[str, str]:
    """The template, what goes into it whatever is shown, and the policy that lets just that in."""

    def read(name: str) -> str:
        return (ASSETS / name).read_text("utf-8")

    texts = {
        "cytoscape": _script(read("cytoscape.min.js"), ""),  # begins with its licence
        "dagre": _script(read("dagre.min.js"), read("dagre.LICENSE.txt")),
        "script": _script(read("page.js"), ""),
        "css": read("page.css"),
        # As Cytoscape.js would add it itself, which the policy forbids.
        "library_css": ".__________cytoscape_container { position: relative; }",
    }
    scripts = " ".join(_digest(texts[name]) for name in ("cytoscape", "dagre", "script"))
    styles = " ".join(_digest(texts[name]) for name in ("library_css", "css"))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; worker-src blob:; base-uri 'none'; "
        "form-action 'none'"
    )
    return {**texts, "policy": policy, "template": read("page.html")}


def _script(text: str, licence: str) -> str:
    """A script as it may stand in a page: its own licence before it, and no name of a map that would be asked for.

    Control characters in it, which a browser would change, are written as escapes.
    """
    text = re.sub(r"^//# sourceMappingURL=.*$", "", text, flags=re.MULTILINE)
    text = re.sub("[\x00-\x08\x0b-\x1f]", lambda match: f"\\x{ord(match.group()):02x}", text)
    if re.search(r"</script|<!--", text, re.IGNORECASE):
        raise ValueError("a script that would end its own element")
    return (f"/*!\n{licence.strip()}\n*/\n" if licence else "") + text.strip() + "\n"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def json_in_html(document: Any) -> str:
    """The document as JSON that may stand in a `script` element, whatever texts are in it."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def page_document(page: Page) -> dict[str, Any]:
    """All that the page shows, as JSON has it: times are milliseconds, texts are safe to be seen."""
    picture = page.picture
    kept = _kept(picture.nodes)
    place_of = {node.task_id: place for place, node in enumerate(kept)}
    notes = []
    if len(kept) < len(picture.nodes):
        notes.append(
            f"The page shows {len(kept):,} of {len(picture.nodes):,} tasks: those that went wrong, then the first ones."
        )
    instances = [(place_of[one.task_id], one) for one in page.instances if one.task_id in place_of]
    of_task: dict[int, PageInstance] = {}
    for place, one in instances:
        of_task.setdefault(place, one)
    summaries = {one.task_id: one for one in page.summaries}
    tasks, edges_left_out = _tasks(kept, place_of, of_task, summaries, page.rules)
    if edges_left_out:
        notes.append(f"{edges_left_out:,} edges are left out: the page has room for {MOST_EDGES:,}.")
    notes += _instance_notes(page, instances, len(kept))
    return {
        "dag": visible(picture.dag_id, SHORT),
        "run": visible(picture.run_id, SHORT),
        "state": visible(picture.state, SHORT),
        "state_words": visible(_state_words(picture), SHORT),
        "state_colour": _COLOUR_OF_RUN.get(picture.state, picture.state),
        "reason": page.reason or "",
        "direction": page.direction,
        "description": visible(page.description or "", LONG),
        "tags": [visible(tag, SHORT) for tag in page.tags[:50]],
        "file": visible(page.file or "", 2000),
        "params": _params(page.params),
        "times": {
            "logical": _ms(page.logical_us),
            "created": _ms(page.created_us),
            "start": _ms(page.started_us),
            "end": _ms(page.ended_us),
            "made": _ms(page.made_us),
        },
        "size": {"tasks": len(picture.nodes), "instances": sum(sum(node.counts.values()) for node in picture.nodes)},
        "order": [str(state) for state in AS_TOLD],
        "urgency": [str(state) for state in BY_URGENCY],
        "colours": {"light": LIGHT_COLOURS, "dark": DARK_COLOURS},
        "tasks": tasks,
        "labels": {
            f"{place_of[start]} {place_of[end]}": visible(words, SHORT)
            for (start, end), words in picture.labels.items()
            if start in place_of and end in place_of and words
        },
        "instances": [_instance(place, one) for place, one in instances],
        "timeline": _timeline(page.timeline, place_of) if page.timeline is not None else None,
        "notes": notes,
    }


def _state_words(picture: Picture) -> str:
    if picture.state != RunState.SUCCESS:
        return picture.state
    return run_text(RunState.SUCCESS, sum(1 for node in picture.nodes if node.counts.get(TaskInstanceState.FAILED)))


_WRONG = {TaskInstanceState.FAILED, TaskInstanceState.UPSTREAM_FAILED}


def _kept(nodes: Sequence[Node]) -> list[Node]:
    """The tasks that a page has room for, in their order."""
    if len(nodes) <= MOST_TASKS:
        return list(nodes)
    by_need = sorted(range(len(nodes)), key=lambda number: (nodes[number].state not in _WRONG, number))
    return [nodes[number] for number in sorted(by_need[:MOST_TASKS])]


def _tasks(
    nodes: Sequence[Node],
    place_of: Mapping[str, int],
    of_task: Mapping[int, PageInstance],
    summaries: Mapping[str, TaskSummary],
    rules: Mapping[str, str],
) -> tuple[list[dict[str, Any]], int]:
    """The tasks with their edges, and how many edges are left out."""
    tasks, room, left_out = [], MOST_EDGES, 0
    for place, node in enumerate(nodes):
        upstream = [place_of[up] for up in dict.fromkeys(node.upstream) if up in place_of]
        left_out += max(0, len(upstream) - room)
        upstream = upstream[:room]
        room -= len(upstream)
        summary = summaries.get(node.task_id)
        rule = of_task[place].trigger_rule if place in of_task else rules.get(node.task_id, "")
        tasks.append(
            {
                "id": visible(node.task_id, SHORT),
                "groups": [visible(group, SHORT) for group in node.groups],
                "counts": {str(state): count for state, count in node.counts.items() if count},
                "state": str(node.state) if node.counts else "",
                "mapped": node.is_mapped,
                "size": sum(node.counts.values()),
                "note": visible(node.note, SHORT),
                "rule": visible(rule, SHORT),
                "up": upstream,
                "start": _moment_ms(summary.started_at) if summary else None,
                "end": _moment_ms(summary.ended_at) if summary else None,
            }
        )
    return tasks, left_out


def _instance_notes(page: Page, instances: Sequence[tuple[int, PageInstance]], shown_tasks: int) -> list[str]:
    """What is to be said of what is left out of instances."""
    notes = []
    with_instances = len({place for place, _ in instances})
    if page.picture.run_id and with_instances < shown_tasks:
        notes.append(f"Only {with_instances:,} of the {shown_tasks:,} tasks have their instances in the page.")
    cut = sum(1 for _, one in instances if one.log_is_cut)
    if cut:
        what = "log holds only its last lines" if cut == 1 else "logs hold only their last lines, or are left out"
        notes.append(f"{cut:,} {what}: liteflow logs has all of {'it' if cut == 1 else 'them'}.")
    return notes


def _params(params: Sequence[tuple[str, str]]) -> list[list[str]]:
    found, room = [], LONG
    for name, value in params:
        found.append([visible(name, SHORT), visible(value, 2000)])
        room -= len(found[-1][0]) + len(found[-1][1])
        if room <= 0:
            found.append(["...", f"{len(params) - len(found):,} more"])
            break
    return found


def _instance(place: int, one: PageInstance) -> dict[str, Any]:
    return {
        "task": place,
        "index": one.map_index,
        "label": visible(one.label or "", SHORT),
        "state": str(one.state),
        "due": _ms(one.due_us),
        "pool": visible(one.pool or "", SHORT),
        "reschedules": one.reschedules,
        "memory": one.peak_rss_bytes,
        "tries": [_try(a) for a in one.tries],
        "tries_cut": one.tries_are_cut,
        "xcoms": [
            [visible(value.key, SHORT), _size_text(value.size_bytes), visible(value.text)] for value in one.xcoms
        ],
        "xcoms_cut": one.xcoms_are_cut,
        "log": [
            [
                line.try_number,
                _ms(line.at_us),
                logging.getLevelName(line.level) if line.level is not None else "",
                visible(line.logger or "", SHORT),
                visible(line.message),
            ]
            for line in one.log
        ],
        "log_cut": one.log_is_cut,
    }


def _try(one: PageTry) -> dict[str, Any]:
    return {
        "number": one.number,
        "state": str(one.state),
        "reason": str(one.reason or ""),
        "slot": one.slot,
        "start": _ms(one.started_us),
        "end": _ms(one.ended_us),
        "error": visible(one.error or ""),
    }


def _timeline(drawn: Timeline, place_of: Mapping[str, int]) -> dict[str, Any]:
    bars = [bar for bar in drawn.bars if bar.task_id in place_of]
    shown = bars
    if len(bars) > MOST_BARS:

        def need(bar: Bar) -> tuple[bool, bool, int]:
            return (not bar.on_critical_path, bar.state not in _WRONG, bar.started_us - drawn.end_of(bar))

        kept = {id(bar) for bar in sorted(bars, key=need)[:MOST_BARS]}
        shown = [bar for bar in bars if id(bar) in kept]
    path = [bar for bar in bars if bar.on_critical_path]
    return {
        "start": _ms(drawn.started_us),
        "end": _ms(drawn.ended_us),
        "lanes": [
            {"name": lane.name, "bars": [_bar(bar, place_of) for bar in lane.bars]}
            for lane in lanes(drawn._replace(bars=shown))
        ],
        "path": [
            {"task": place_of[bar.task_id], "index": bar.map_index, "name": visible(bar.name, SHORT)}
            for bar in path[:MOST_STEPS]
        ],
        "left_out": len(drawn.bars) - len(shown),
    }


def _bar(bar: Bar, place_of: Mapping[str, int]) -> dict[str, Any]:
    return {
        "task": place_of[bar.task_id],
        "index": bar.map_index,
        "name": visible(bar.name, SHORT),
        "number": bar.try_number,
        "state": bar.state,
        "reason": bar.reason or "",
        "ready": _ms(bar.ready_us),
        "start": _ms(bar.started_us),
        "end": _ms(bar.ended_us),
        "critical": bar.on_critical_path,
    }


def _ms(moment_us: int | None) -> float | None:
    return None if moment_us is None else moment_us / 1000


def _moment_ms(moment: Any) -> float | None:
    return None if moment is None else moment.timestamp() * 1000


def _size_text(size_bytes: int) -> str:
    from liteflow.storage.xcoms import size_text

    return size_text(size_bytes)
