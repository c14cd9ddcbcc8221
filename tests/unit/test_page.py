"""The page as text: nothing in it can end the element that it is in, what cannot be seen is spelled out, and all of it
is bounded. What a browser makes of it is the business of tests/browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liteflow.states import EndReason
from liteflow.states import TaskInstanceState as S
from liteflow.storage.pages import PageInstance, PageLine, PageTry, PageXCom
from liteflow.visualize import html
from liteflow.visualize.html import ASSETS, Page, html_page, json_in_html, page_document, visible
from liteflow.visualize.picture import Node, Picture
from liteflow.visualize.timeline import Try, timeline
from tests.browser.payloads import PAYLOADS

TRY = PageTry(1, S.SUCCESS, None, 1, 1_000_000, 2_500_000, None)


def instance(task_id: str = "a", **more: Any) -> PageInstance:
    facts: dict[str, Any] = {"state": S.SUCCESS, "tries": [TRY], **more}
    return PageInstance(
        task_id=task_id,
        map_index=facts.pop("map_index", -1),
        label=None,
        trigger_rule="all_success",
        due_us=None,
        pool=None,
        reschedules=0,
        peak_rss_bytes=None,
        **facts,
    )


def page_with(text: str) -> Page:
    """A page that has the text in each place that holds a stranger's text."""
    one = instance(
        text,
        tries=[PageTry(1, S.FAILED, EndReason.ERROR, 1, 0, 1, text)],
        xcoms=[PageXCom(text, 3, text)],
        log=[PageLine(1, 0, 20, text, text)],
    )._replace(label=text, pool=text, trigger_rule=text)
    nodes = [Node(text, {S.FAILED: 1}, [], note=text, groups=[text]), Node("b", {S.SUCCESS: 1}, [text])]
    return Page(
        picture=Picture(text, text, text, nodes, {(text, "b"): text}),
        description=text,
        tags=[text],
        file=text,
        params=[(text, text)],
        instances=[one],
        timeline=timeline(Picture(text, text, text, nodes), [Try(text, -1, 1, S.FAILED, text, 1, 0, 1, text)]),
    )


class Elements(HTMLParser):
    """The elements of a page, and the texts of those that hold scripts, styles and the title."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self._here: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        self._here.append(tag)
        if tag in ("script", "style", "title"):
            self.inside.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self._here and self._here.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._here and self._here[-1] in self.inside:
            self.inside[self._here[-1]][-1] += data


PLAIN = Elements(html_page(page_with("x")))


def document_of(text: str) -> Any:
    return json.loads(Elements(text).inside["script"][0])


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_adds_no_element_and_comes_back_as_text(payload: str) -> None:
    found = Elements(html_page(page_with(payload)))
    assert found.tags == PLAIN.tags
    assert [names.keys() for _, names in found.attributes] == [names.keys() for _, names in PLAIN.attributes]
    assert found.inside["script"][1:] == PLAIN.inside["script"][1:]
    document = json.loads(found.inside["script"][0])
    seen = visible(payload)
    assert document["dag"] == document["tasks"][0]["id"] == document["tasks"][0]["groups"][0] == seen
    assert document["instances"][0]["tries"][0]["error"] == document["instances"][0]["log"][0][4] == seen
    assert (
        document["instances"][0]["xcoms"] == [[seen, "3 bytes", seen]] or seen in document["instances"][0]["xcoms"][0]
    )
    assert document["description"] == document["tags"][0] == document["labels"]["0 1"] == seen
    assert document["params"] == [[seen, seen]]
    assert document["timeline"]["lanes"][0]["bars"][0]["name"] == seen


@given(st.text(st.characters(), max_size=40))
def test_no_text_at_all_ends_its_element(text: str) -> None:
    written = json_in_html({text: [text]})
    assert not re.search("[<>&\u2028\u2029]", written)
    assert json.loads(written) == {text: [text]}


@given(st.text(st.characters(), max_size=40))
def test_what_is_made_visible_can_be_written_and_holds_nothing_unseen(text: str) -> None:
    seen = visible(text)
    seen.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]", seen)
    assert visible(seen) == seen


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\nb\tc", "a\nb\tc"),
        ("größe 数", "größe 数"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\x00b\r\x1b[31m", "a\\x00b\\r\\x1b[31m"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("half\ud83d", "half\\ud83d"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text: str, seen: str) -> None:
    assert visible(text) == seen


def test_a_text_is_cut_to_its_most() -> None:
    assert visible("x" * 400, 300) == "x" * 297 + "..."


# The policy


def test_the_policy_names_each_script_and_style_and_allows_nothing_else() -> None:
    policy = next(names["content"] for tag, names in PLAIN.attributes if tag == "meta" and "content" in names)
    rules = dict(rule.strip().partition(" ")[::2] for rule in str(policy).split(";"))

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert rules == {
        "default-src": "'none'",
        "script-src": " ".join(map(digest, PLAIN.inside["script"][1:])),
        "style-src": " ".join(map(digest, PLAIN.inside["style"])),
        "worker-src": "blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_page_names_no_other_file() -> None:
    text = html_page(page_with("x"))
    assert "sourceMappingURL" not in text
    assert not [names for _, names in PLAIN.attributes if {"src", "href", "srcset", "action"} & names.keys()]
    assert not [tag for tag in PLAIN.tags if tag in ("link", "img", "iframe", "object", "embed")]
    assert "\r" not in text
    assert "\0" not in text


def test_the_page_is_small_and_holds_the_licences_of_its_libraries() -> None:
    text = html_page(page_with("x"))
    assert len(text.encode()) < 700_000
    assert "Copyright (c) 2012-2014 Chris Pettitt" in text
    assert "The Cytoscape Consortium" in text


def test_the_libraries_are_those_that_the_readme_names() -> None:
    named = dict(
        re.findall(r"^\| `(\S+\.js)` .* `([0-9a-f]{64})` \|$", (ASSETS / "README.md").read_text(), re.MULTILINE)
    )
    assert named == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in ASSETS.glob("*.min.js")}
    for name in named:
        assert (ASSETS / name.replace(".min.js", ".LICENSE.txt")).read_text().startswith("Copyright (c)")


def test_a_script_that_would_end_its_element_is_refused() -> None:
    with pytest.raises(ValueError, match="end its own element"):
        html._script('x = "</script>"', "")


# What it shows


def test_times_are_milliseconds_and_the_state_says_that_tasks_failed() -> None:
    picture = Picture("etl", "r1", "success", [Node("a", {S.FAILED: 1}, []), Node("b", {S.SUCCESS: 1}, ["a"])])
    found = page_document(Page(picture, started_us=1_500_000, ended_us=2_000_000, instances=[instance("b")]))
    assert found["state_words"] == "success, 1 task failed"
    assert found["times"]["start"] == 1500
    assert found["instances"][0]["tries"][0]["start"] == 1000
    assert [one["up"] for one in found["tasks"]] == [[], [0]]


def test_logs_that_are_cut_are_told() -> None:
    picture = Picture("etl", "r1", "success", [Node("a", {S.SUCCESS: 1}, [])])
    line = PageLine(1, 0, 40, "x", "no")
    found = page_document(Page(picture, instances=[instance(log=[line], log_is_cut=True)]))
    assert found["instances"][0]["log"] == [[1, 0, "ERROR", "x", "no"]]
    assert found["notes"] == ["1 log holds only its last lines: liteflow logs has all of it."]


# Bounds


def test_of_many_tasks_those_that_went_wrong_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MOST_TASKS", 3)
    nodes = [Node(f"t{n}", {S.FAILED if n == 8 else S.SUCCESS: 1}, [f"t{n - 1}"] if n else []) for n in range(10)]
    found = page_document(Page(Picture("d", "r", "failed", nodes), instances=[instance("t0"), instance("t5")]))
    assert [one["id"] for one in found["tasks"]] == ["t0", "t1", "t8"]
    assert [one["up"] for one in found["tasks"]] == [[], [0], []]
    assert [one["task"] for one in found["instances"]] == [0]
    assert found["size"]["tasks"] == 10
    assert "3 of 10 tasks" in found["notes"][0]


def test_edges_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MOST_EDGES", 4)
    nodes = [Node(f"t{n}", {S.SUCCESS: 1}, [f"t{m}" for m in range(n)]) for n in range(5)]
    found = page_document(Page(Picture("d", "r", "success", nodes)))
    assert sum(len(one["up"]) for one in found["tasks"]) == 4
    assert "6 edges are left out" in found["notes"][0]


def test_bars_have_a_bound_and_the_critical_path_and_failures_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MOST_BARS", 3)
    nodes = [Node(f"t{n}", {S.SUCCESS: 1}, []) for n in range(10)]
    tries = [Try(f"t{n}", -1, 1, S.FAILED if n == 4 else S.SUCCESS, None, n, 0, 10 + n) for n in range(10)]
    picture = Picture("d", "r", "failed", nodes)
    found = page_document(Page(picture, timeline=timeline(picture, tries)))["timeline"]
    assert [bar["task"] for lane in found["lanes"] for bar in lane["bars"]] == [4, 8, 9]
    assert [bar["task"] for lane in found["lanes"] for bar in lane["bars"] if bar["critical"]] == [9]
    assert found["left_out"] == 7
    assert found["path"] == [{"task": 9, "index": -1, "name": "t9"}]


def test_params_have_a_bound() -> None:
    picture = Picture("d", "r", "success", [])
    found = page_document(Page(picture, params=[(f"p{n}", "x" * 3000) for n in range(100)]))["params"]
    assert sum(len(name) + len(value) for name, value in found) < 30_000
    assert found[-1] == ["...", "90 more"]


def test_upstream_that_is_not_there_or_goes_round_does_no_harm() -> None:
    nodes = [Node("a", {S.SUCCESS: 1}, ["b", "gone"]), Node("b", {S.SUCCESS: 1}, ["a", "b"])]
    found = page_document(Page(Picture("d", "r", "success", nodes)))
    assert [one["up"] for one in found["tasks"]] == [[1], [0, 1]]
