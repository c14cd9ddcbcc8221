"""`liteflow why`: the reason behind each state of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    db_hint,
    db_option,
    echo,
    examples,
    is_interrupted,
    is_terminal,
    json_option,
    open_history,
    print_json,
    printable,
    state_of,
    state_text,
    task_and_index,
)

if TYPE_CHECKING:
    from liteflow.execution.explaining import Explained, Explanation
    from liteflow.storage.history import DagRun

MOST_DEPTH = 4
"""So deep the tree of causes goes; what lies between there and the root cause is `...`."""

MOST_BELOW = 3
"""So many causes stand below one reason."""

MOST_LINES = 100
"""So many reasons are printed."""

MOST_ERROR_CHARACTERS = 300
"""Of one reason."""


@examples("liteflow why etl", "liteflow why etl/nightly-2026-01-02 load", "liteflow why etl 'add_one[17]' --json")
@click.command("why")
@click.argument("run", metavar="RUN", shell_complete=completing.runs)
@click.argument("task", metavar="[TASK]", required=False, shell_complete=completing.tasks)
@db_option
@json_option
def why_command(run: str, task: str | None, db_path: str | None, as_json: bool) -> None:
    """Say why the task instances of a run are where they are.

    What failed, was skipped, or waits, and for what: below each reason stands what led to it, down to the root cause.
    Without TASK it is told of all that did not succeed. TASK means all instances of a mapped task; 'TASK[17]' is the
    one with that map index.
    """
    from datetime import UTC, datetime

    from liteflow.execution.explaining import explain, explain_task
    from liteflow.storage.history import check_instances

    found = open_history(db_path).find_run(run)
    now = datetime.now(UTC)
    with found.history.read() as connection:
        if task is None:
            explanation = explain(connection, found, now)
        else:
            task_id, map_index = task_and_index(task)
            check_instances(connection, found, task_id, map_index)
            explanation = explain_task(connection, found, task_id, map_index, now)
    if as_json:
        print_json(_document(found, explanation, is_whole=task is None))
        return
    if task is None:
        _print_head(found, explanation)
    _print_trees(explanation.explained)


def _print_head(run: DagRun, explanation: Explanation) -> None:
    from liteflow.execution.explaining import waits_for
    from liteflow.states import RunState, TaskInstanceState, counts_text

    failed = len({one.task_id for one in explanation.explained if one.state is TaskInstanceState.FAILED})
    counts = counts_text(explanation.counts)
    name = f"{run.dag_id}/{run.run_id}"
    if not explanation.explained:
        what = "all task instances succeeded: there is nothing to explain" if counts else "the dag has no tasks"
        echo(f"{name} {state_text(run, failed)}: {what}", err=True)
        return
    echo(f"{name} {state_text(run, failed)}: {counts}")
    if run.state.is_terminal:
        return
    if is_interrupted(run):
        echo(f"nobody drives it; go on with: {_resume_text(run, explanation)}")
        return
    if run.state is RunState.QUEUED and run.owner is None:
        echo(f"waits to be gone on with: {_resume_text(run, explanation)}")
        return
    if explanation.facts.is_cancelling:
        echo("it is being cancelled")
    if run.state is RunState.QUEUED and run.owner is not None:
        echo("it has not begun")
        return
    waits = waits_for(explanation.explained)
    echo(f"waits for {_shortened(waits)}" if waits else "waits for nothing that is recorded")


def _resume_text(run: DagRun, explanation: Explanation) -> str:
    import shlex

    file = explanation.facts.file
    which = shlex.quote(f"{file}:{run.dag_id}") if file else "FILE"
    return f"liteflow run {which} --resume {run.run_id}{db_hint(run.history.database.path)}"


# As a tree


@dataclass
class Branch:
    """A line of the tree with those below it."""

    line: str
    state: str
    below: list[Branch] = field(default_factory=list)


def _print_trees(explained: Sequence[Explained]) -> None:
    trees = _trees(explained)
    shown = list(_bounded(trees))
    left = len(trees) - len(shown)
    if is_terminal():
        _print_rich(shown)
    else:
        for tree in shown:
            _print_plain(tree, "")
    if left:
        echo(f"... and {left:,} more; name a TASK, or see --json", err=True)


def _bounded(trees: Sequence[Branch]) -> Iterator[Branch]:
    left = MOST_LINES
    for tree in trees:
        if left <= 0:
            return
        yield tree
        left -= _size(tree)


def _size(tree: Branch) -> int:
    return 1 + sum(map(_size, tree.below))


def _print_plain(tree: Branch, indent: str) -> None:
    echo(f"{indent}{tree.line}")
    for below in tree.below:
        _print_plain(below, indent + "  ")


def _print_rich(trees: Sequence[Branch]) -> None:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    from liteflow.execution.progress import STATE_STYLES

    def styled(tree: Branch) -> Text:
        text = Text(printable(tree.line))
        style = STATE_STYLES.get(tree.state)
        if style:
            text.highlight_regex(rf"(?<= ){tree.state}(?= \(|:|$)", style)
        return text

    def grow(tree: Branch, node: Tree) -> Tree:
        for below in tree.below:
            grow(below, node.add(styled(below)))
        return node

    console = Console(highlight=False)
    for tree in trees:
        console.print(grow(tree, Tree(styled(tree), guide_style="bright_black")))


def _trees(explained: Sequence[Explained]) -> list[Branch]:
    """A tree for each that is no cause of another one; each is explained once. What has the same reason is one line."""
    growing = _Growing()
    alike: dict[tuple[str, str, bool], tuple[list[str], Branch]] = {}
    for number, one in enumerate(reversed(explained)):  # what is furthest down first: below it stands what led to it
        if id(one) in growing.told:
            continue
        tree = growing.tree(one)
        key = (str(one.state), _reason_text(one), bool(tree.below) or one.instances > 1)
        if key[2]:
            key = (str(number), "", True)  # a line of its own
        alike.setdefault(key, ([], tree))[0].append(_subject(one))
    trees = []
    for names, tree in alike.values():
        if len(names) > 1:
            first = names[0]
            more = f" and {len(names) - MOST_BELOW:,} more" if len(names) > MOST_BELOW else ""
            tree.line = ", ".join(reversed(names[:MOST_BELOW])) + more + tree.line.removeprefix(first)
        trees.append(tree)
    return trees


class _Growing:
    """Makes trees, and knows what they have told already."""

    def __init__(self) -> None:
        self.told: set[int] = set()

    def tree(self, one: Explained, depth: int = 1) -> Branch:
        """The tree below one reason, without what was told before."""
        self.told.add(id(one))
        branch = Branch(f"{_subject(one)} {_stands(one)}", str(one.state))
        if depth >= MOST_DEPTH:
            branch.below = self._roots(one)
            return branch
        for cause in one.causes[:MOST_BELOW]:
            if id(cause) not in self.told:
                branch.below.append(self.tree(cause, depth + 1))
        return branch

    def _roots(self, one: Explained) -> list[Branch]:
        """Where the tree is cut: the root causes, behind how much is left out."""
        from liteflow.execution.explaining import root_causes

        roots = [root for root in root_causes(one)[:MOST_BELOW] if id(root) not in self.told]
        between = self._cover(one)
        below = [self.tree(root, MOST_DEPTH) for root in roots]
        if not between:
            return below
        return [Branch(f"... {between:,} more on the way", "", below)]

    def _cover(self, one: Explained) -> int:
        """Count what lies between, apart from root causes, as told; returns how many that is."""
        waiting, count = list(one.causes), 0
        for cause in waiting:  # grows while it is walked
            if cause.causes and id(cause) not in self.told:
                self.told.add(id(cause))
                count += 1
                waiting += cause.causes
        return count


def _subject(one: Explained) -> str:
    from liteflow.execution.explaining import shown_name

    name = shown_name(one)
    return name if one.instances == 1 and not name.endswith("]") else _with_count(name, one)


def _with_count(name: str, one: Explained) -> str:
    """`add_one [10,000]: 37`, before the state; one instance has its map index and needs no number."""
    is_single = one.instances == 1 and one.map_index >= 0
    return name if is_single else f"{name}: {one.instances:,}"


def _stands(one: Explained) -> str:
    text = _reason_text(one)
    return f"{_state_text(one)}{': ' if text else ''}{text}"


def _state_text(one: Explained) -> str:
    from liteflow.states import EndReason, TaskInstanceState

    is_told = one.end_reason in (None, EndReason.ERROR, EndReason.MARKED, EndReason.REUSED)
    return str(one.state) if is_told or one.state is not TaskInstanceState.FAILED else f"{one.state} ({one.end_reason})"


def _reason_text(one: Explained) -> str:
    return _shortened(one.reason.text)


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_ERROR_CHARACTERS else text[: MOST_ERROR_CHARACTERS - 3] + "..."


# As a document


def _document(run: DagRun, explanation: Explanation, *, is_whole: bool) -> dict[str, Any]:
    from liteflow.execution.explaining import waits_for

    return {
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "state": str(run.state),
        "end_reason": run.end_reason and str(run.end_reason),
        "interrupted": state_of(run) == "interrupted",
        "waits_for": (waits_for(explanation.explained) or None) if is_whole and not run.state.is_terminal else None,
        "reasons": [_reason_document(one) for one in explanation.explained],
    }


def _reason_document(one: Explained) -> dict[str, Any]:
    from liteflow.execution.explaining import root_causes

    return {
        "task_id": one.task_id,
        "map_index": one.map_index,
        "instances": one.instances,
        "state": str(one.state),
        "end_reason": one.end_reason and str(one.end_reason),
        "why": str(one.reason.why),
        "text": one.reason.text,
        "error": one.error,
        "causes": [
            {
                "task_id": cause.task_id,
                "map_index": cause.map_index,
                "state": str(cause.state),
                "instances": cause.instances,
            }
            for cause in one.reason.causes
        ],
        "root_causes": [
            {"task_id": root.task_id, "map_index": root.map_index, "state": str(root.state), "text": root.reason.text}
            for root in root_causes(one)[:MOST_BELOW]
        ],
    }
