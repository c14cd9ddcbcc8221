"""Warnings of what is allowed in a dag and will surprise: where the trigger rules make of it what nobody meant.

Four things are looked for: a task that can never run, a join below a branch that the branch always skips, a leaf that
hides the failure of what is before it, a teardown without a setup. Each pass walks the dag once, and where it cannot be
sure it says nothing. What was found wrong counts as mended further down, so that one mistake gives one warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from functools import cache
from heapq import nsmallest
from opcode import opmap
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

from liteflow.authoring.mapping import count_of, literal_lengths
from liteflow.authoring.places import Place
from liteflow.authoring.task import BRANCH, EMPTY, SHORT_CIRCUIT
from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.errors import DagWarning
from liteflow.states import TaskInstanceState

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag
    from liteflow.authoring.task import Task


class Surprise(StrEnum):
    """What is warned of."""

    NEVER_RUNS = "never_runs"
    """The task's rule holds in none of the ways in which its upstream may end."""
    SKIPPED_JOIN = "skipped_join"
    """A join whose rule skips it because a branch above it chooses one of several ways."""
    HIDDEN_FAILURE = "hidden_failure"
    """A leaf because of whose rule, or one before it, the run is a success though a task failed."""
    LONE_TEARDOWN = "lone_teardown"
    """A teardown that has no setup directly upstream."""


class Finding(NamedTuple):
    """One thing that will surprise."""

    rule: Surprise
    place: Place
    """Of the task that it is about."""
    message: str
    """One line: where, which task, what happens, what to do."""


def warn_of_surprises(dag: Dag) -> None:
    """Warn of each finding with a DagWarning at its line."""
    for finding in findings(dag):
        warnings.warn_explicit(finding.message, DagWarning, finding.place.file, finding.place.line)


def findings(dag: Dag) -> list[Finding]:
    """All that will surprise in a dag, by kind and then from upstream to downstream."""
    if all(_is_plain(task) for task in dag.task_dict.values()):
        return []
    graph = _graph_of(dag)
    ends, dead = _possible_ends(graph)
    return [
        *(_never_runs(graph, ends, number) for number in dead),
        *_skipped_joins(graph),
        *_hidden_failures(graph, ends),
        *_lone_teardowns(graph),
    ]


def _is_plain(task: Task) -> bool:
    """Whether a dag of nothing but such tasks holds no surprise."""
    return _passes_failure(task) and task.kind != BRANCH and not _is_mapped_over_nothing(task)


def _is_mapped_over_nothing(task: Task) -> bool:
    """Whether the dag itself says that there are no instances of it."""
    expansion = task.expand_input
    if expansion is None or expansion.sources:
        return False
    return count_of(expansion.input, literal_lengths(expansion.input)) == 0


def _finding(rule: Surprise, task: Task, what: str, cure: str) -> Finding:
    return Finding(rule, task.place, f"{task.place}: task {task.task_id!r}: {what}; {cure}")


def _names(tasks: Sequence[Task], word: str = "and", more: int = 0) -> str:
    """Up to three tasks in words. `more`: how many there are beside these."""
    quoted = [repr(task.task_id) for task in tasks[:3]]
    more += len(tasks) - len(quoted)
    if more:
        quoted.append(f"{more} more")
    return f" {word} ".join(part for part in (", ".join(quoted[:-1]), quoted[-1]) if part)


class _Graph(NamedTuple):
    """A dag by numbers, each task after its upstream."""

    dag: Dag
    tasks: list[Task]
    up: list[list[int]]
    down: list[list[int]]
    asked: list[list[int]]
    """The upstream whose states the rule looks at: of a teardown, its setups."""

    def named(self, numbers: Sequence[int]) -> list[Task]:
        """The tasks of these numbers."""
        return [self.tasks[number] for number in numbers]


def _graph_of(dag: Dag) -> _Graph:
    tasks = dag.topological_sort()
    number_of = {task.task_id: number for number, task in enumerate(tasks)}
    up = [[number_of[task_id] for task_id in task.upstream_task_ids] for task in tasks]
    down: list[list[int]] = [[] for _ in tasks]
    for number, above in enumerate(up):
        for one in above:
            down[one].append(number)
    asked = [
        [one for one in above if tasks[one].is_setup] if task.is_teardown else above
        for task, above in zip(tasks, up, strict=True)
    ]
    return _Graph(dag, tasks, up, down, asked)


# How tasks may end, as sets of bits, and what each rule needs for its verdicts.

_S, _F, _K, _U = 1, 2, 4, 8
_UNWELL = _F | _U
_ANY = _S | _F | _K | _U
_WORDS = {
    _S: TaskInstanceState.SUCCESS,
    _F: TaskInstanceState.FAILED,
    _K: TaskInstanceState.SKIPPED,
    _U: TaskInstanceState.UPSTREAM_FAILED,
}


def _in_words(ends: int) -> str:
    return " or ".join(word.value for bit, word in _WORDS.items() if ends & bit)


class _Need(NamedTuple):
    """What a verdict needs: that every upstream ends in one of `every`, and at least one of them in one of `one`."""

    every: int
    one: int = _ANY

    def may_hold(self, upstream: Collection[int]) -> bool:
        """Whether upstream that may end so, each as it likes, can give it."""
        return all(ends & self.every for ends in upstream) and any(ends & self.every & self.one for ends in upstream)


_IMPOSSIBLE = _Need(0)
_ONE_SKIPPED = _Need(_ANY, _K)
_ALL_SKIPPED = _Need(_K)
_ONE_UNWELL = _Need(_ANY, _UNWELL)


class _Verdicts(NamedTuple):
    """What a rule needs to let a task go, to skip it, and to make it `upstream_failed`."""

    go: _Need
    skip: _Need = _IMPOSSIBLE
    fail: _Need = _IMPOSSIBLE


# A verdict that falls early leaves open what the rest does, hence the many that need but one. Both skip and fail of
# `all_success` may be possible for the same upstream: it depends on which comes first.
_RULES = {
    TriggerRule.ALL_SUCCESS: _Verdicts(_Need(_S), _ONE_SKIPPED, _ONE_UNWELL),
    TriggerRule.ALL_FAILED: _Verdicts(_Need(_UNWELL), _Need(_ANY, _S | _K)),
    TriggerRule.ALL_DONE: _Verdicts(_Need(_ANY)),
    TriggerRule.ALL_DONE_MIN_ONE_SUCCESS: _Verdicts(_Need(_S | _UNWELL, _S), _ONE_SKIPPED, _Need(_UNWELL)),
    TriggerRule.ALL_SKIPPED: _Verdicts(_Need(_K), _Need(_ANY, _S | _UNWELL)),
    TriggerRule.ONE_SUCCESS: _Verdicts(_Need(_ANY, _S), _ALL_SKIPPED, _Need(_K | _UNWELL, _UNWELL)),
    TriggerRule.ONE_FAILED: _Verdicts(_ONE_UNWELL, _Need(_S | _K)),
    TriggerRule.ONE_DONE: _Verdicts(_Need(_ANY, _S | _F), _Need(_K | _U)),
    TriggerRule.NONE_FAILED: _Verdicts(_Need(_S | _K), fail=_ONE_UNWELL),
    TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS: _Verdicts(_Need(_S | _K, _S), _ALL_SKIPPED, _ONE_UNWELL),
    TriggerRule.NONE_SKIPPED: _Verdicts(_Need(_S | _UNWELL), _ONE_SKIPPED),
    TriggerRule.ALWAYS: _Verdicts(_Need(_ANY)),
    # Of the setups; without any it goes.
    TriggerRule.ALL_DONE_SETUP_SUCCESS: _Verdicts(_Need(_ANY, _S), _ALL_SKIPPED, _Need(_K | _UNWELL, _UNWELL)),
}


class _Follows(NamedTuple):
    """What may follow from how the upstream of a task may end."""

    goes: bool
    decided: int
    """How the task may end without running."""


@cache  # large dags are made of a few cases
def _follows(rule: TriggerRule, upstream: frozenset[int]) -> _Follows:
    """`upstream`: the ways in which the upstream may end. How many have the same ones makes no difference."""
    if not upstream:
        return _Follows(True, 0)
    go, skip, fail = _RULES[rule]
    decided = (_K if skip.may_hold(upstream) else 0) | (_U if fail.may_hold(upstream) else 0)
    return _Follows(go.may_hold(upstream), decided)


def _ends_if_run(task: Task) -> int:
    """How a task may end once its rule lets it go."""
    if _is_mapped_over_nothing(task):
        ends = _K
    elif task.is_mapped:
        ends = _ANY  # what it is mapped over may be skipped, fail or hold nothing
    elif task.kind == EMPTY:
        ends = _S
    else:
        ends = _S | _F | _K
    return ends | _U if task.options.depends_on_past else ends


# A task that can never run


def _possible_ends(graph: _Graph) -> tuple[list[int], list[int]]:
    """How each task may end, and the numbers of those whose rule never lets them go."""
    may_be_stopped = _may_be_stopped(graph)
    ends: list[int] = []
    dead: list[int] = []
    for number, task in enumerate(graph.tasks):
        goes, decided = _follows(task.options.trigger_rule, frozenset([ends[one] for one in graph.asked[number]]))
        if not goes and not _is_mapped_over_nothing(task):
            dead.append(number)
            ends.append(_ANY)
        else:
            stopped = _K if may_be_stopped[number] else 0
            ends.append((_ends_if_run(task) if goes else 0) | decided | stopped)
    return ends, dead


def _may_be_stopped(graph: _Graph) -> list[bool]:
    """Of each task: whether a branch or short circuit may skip it without its rule being asked."""
    stops_next = {number for number, task in enumerate(graph.tasks) if task.kind in (BRANCH, SHORT_CIRCUIT)}
    if not stops_next:
        return [False] * len(graph.tasks)
    stops_all = {one for one in stops_next if graph.tasks[one].kind == SHORT_CIRCUIT and graph.tasks[one].ignores_rules}
    below: list[bool] = []
    for above in graph.up:
        below.append(any(one in stops_all or below[one] for one in above))
    return [is_below or not stops_next.isdisjoint(above) for is_below, above in zip(below, graph.up, strict=True)]


def _never_runs(graph: _Graph, ends: Sequence[int], number: int) -> Finding:
    task, asked = graph.tasks[number], graph.asked[number]
    need = _RULES[task.trigger_rule].go
    blocking = [one for one in asked if not ends[one] & need.every]
    wanted = f"every upstream to be {_in_words(need.every)}"
    if not blocking:
        blocking = asked
        wanted = f"{'a setup' if task.is_teardown else 'an upstream'} to be {_in_words(need.every & need.one)}"
    found = 0
    for one in blocking:
        found |= ends[one]
    who = f"{_names(graph.named(blocking))} can only be {_in_words(found)}"
    if any(_is_mapped_over_nothing(graph.tasks[one]) for one in blocking):
        who += " (mapped over an empty list)"
    what = f"can never run: trigger rule {task.trigger_rule.value} needs {wanted}, and {who}"
    return _finding(Surprise.NEVER_RUNS, task, what, "change its trigger rule or what is upstream of it")


# A join that a branch always skips


class _Ways:
    """The direct downstream of all branches, each as one bit; those of a branch are a field that ends in a guard bit.

    A set of them says which single choices leave a task to run, for all branches at once.
    """

    def __init__(self, graph: _Graph) -> None:
        self.children: dict[int, dict[int, int]] = {}
        """Of each branch: bits to its direct downstream."""
        self.own: dict[int, int] = {}
        """The bits of a task that is directly downstream of branches, ..."""
        self.offered: dict[int, int] = {}
        """... and with them those of everything else that these branches may choose."""
        self.all = 0
        self._guards = 0
        self._branch_at: dict[int, int] = {}
        width = 0
        for branch, task in enumerate(graph.tasks):
            below = graph.down[branch]
            if task.kind != BRANCH or len(below) < 2:
                continue
            self.children[branch] = {1 << width + place: child for place, child in enumerate(below)}
            field = sum(self.children[branch])
            guard = 1 << width + len(below)
            for bit, child in self.children[branch].items():
                self.own[child] = self.own.get(child, 0) | bit
                self.offered[child] = self.offered.get(child, 0) | field
            self._branch_at.update(dict.fromkeys([*self.children[branch], guard], branch))
            self.all |= field
            self._guards |= guard
            width += len(below) + 1

    def branch_without_way(self, ways: int) -> int | None:
        """A branch of which `ways` has no bit, or None."""
        # The sum carries into the guard of each field that is not empty.
        return self.branch_of(~(ways + self.all) & self._guards)

    def branch_of(self, bits: int) -> int | None:
        """The branch of the lowest of these bits, or None if there are none."""
        return self._branch_at[bits & -bits] if bits else None


def _skipped_joins(graph: _Graph) -> Iterator[Finding]:
    ways = _Ways(graph)
    if not ways.all:
        return
    above: list[int] = []  # the children of branches that a task is or is below of
    alive: list[int] = []  # the choices with which it runs, when nothing else is chosen and all goes well
    for number, task in enumerate(graph.tasks):
        own = ways.own.get(number, 0)
        above.append(own)
        for one in graph.up[number]:
            above[number] |= above[one]
        # A branch skips what is directly downstream of it unless that is chosen, below something chosen, or has gone.
        offered = 0 if _may_precede_branch(graph, number) else ways.offered.get(number, 0)
        kept = ways.all & (~offered | above[number])
        of_upstream = [alive[one] for one in graph.asked[number]] or [ways.all]
        with_all, with_any = kept, 0
        for one in of_upstream:
            with_all &= one
            with_any |= one
        skip = _RULES[task.trigger_rule].skip
        if task.trigger_rule is TriggerRule.ALWAYS:
            alive.append(ways.all)
        elif skip == _ONE_SKIPPED:
            is_join = bool(own) or with_all not in of_upstream
            found = _skipped_join(graph, ways, number, with_all, above[number]) if is_join else None
            if found is not None:
                yield found
            alive.append(with_all if found is None else kept & with_any)
        else:
            alive.append(kept & with_any if skip == _ALL_SKIPPED else kept)


def _may_precede_branch(graph: _Graph, number: int) -> bool:
    """Whether a task directly downstream of a branch need not wait for it."""
    early = (TriggerRule.ALWAYS, TriggerRule.ONE_SUCCESS, TriggerRule.ONE_FAILED, TriggerRule.ONE_DONE)
    return graph.tasks[number].options.trigger_rule in early and len(graph.asked[number]) > 1


def _skipped_join(graph: _Graph, ways: _Ways, number: int, alive: int, above: int) -> Finding | None:
    task = graph.tasks[number]
    branch = ways.branch_without_way(alive)
    chosen_in_vain = ways.branch_of(ways.own.get(number, 0) & ~alive)
    if branch is None and chosen_in_vain is None:
        return None
    where = branch if branch is not None else chosen_in_vain
    assert where is not None
    others = [child for bit, child in ways.children[where].items() if above & bit and child != number]
    names = _names(graph.named(others))
    choice = f"only one of {names}" if branch is not None else f"it without {names}"
    what = (
        f"trigger rule {task.trigger_rule.value} skips it when branch {graph.tasks[where].task_id!r} chooses {choice}"
    )
    return _finding(Surprise.SKIPPED_JOIN, task, what, _cure_of_join(graph, number))


def _cure_of_join(graph: _Graph, number: int) -> str:
    rule = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS.value
    if graph.dag.fail_fast:
        return f"{rule} would run it, which a dag with fail_fast does not allow"
    if any(graph.tasks[one].is_setup for one in graph.up[number]):
        return f"join them before it in a task with trigger_rule={rule!r}"
    return f"use trigger_rule={rule!r}"


# A leaf that hides a failure


class _Failures:
    """Which failures the leaves show, when only one task fails and nothing is skipped.

    In doubt they are shown. A failure of the task itself is told from one further up (`shows_from_above`): the latter
    may have spoilt several of those that a rule like `one_success` can choose from.
    """

    def __init__(self, graph: _Graph) -> None:
        self._graph = graph
        self._calm = _calm_ends(graph)
        self._levels = _levels(graph)
        self._first = [
            nsmallest(2, (one for one in asked if self._calm[one] == _S), key=self._levels.__getitem__)
            if len(asked) > 1 and _RULES[task.trigger_rule].fail not in (_IMPOSSIBLE, _ONE_UNWELL)
            else []
            for task, asked in zip(graph.tasks, graph.asked, strict=True)
        ]
        self._passes = [_passes_failure(task) or _only_raises(_work_of(task)) for task in graph.tasks]
        size = len(graph.tasks)
        self._shows_from_above = [False] * size
        self.shows = [False] * size
        """Whether its own failure is seen."""
        self.leaf: list[int | None] = [None] * size
        """The first leaf below it, or itself."""
        self.hider: list[int | None] = [None] * size
        """Which task on the way to that leaf runs in spite of the failure."""
        for number in reversed(range(size)):
            self._look_at(number)

    def _look_at(self, number: int) -> None:
        below = self._graph.down[number]
        if _is_effective_leaf(self._graph, number):
            self.shows[number] = self._shows_from_above[number] = True
            self.leaf[number] = number
            return
        seen = [one for one in below if self._shows_from_above[one]]
        self._shows_from_above[number] = any(self._may_spoil(number, one) for one in seen)
        self.shows[number] = any(self._spoils(number, one) for one in seen)
        ways = [(leaf, one) for one in below if (leaf := self.leaf[one]) is not None]
        if ways:
            self.leaf[number], towards = min(ways)
            self.hider[number] = self.hider[towards] if self._passes[towards] else towards

    def _may_spoil(self, number: int, below: int) -> bool:
        """Whether a task can become `upstream_failed` (or fails for sure) when `number` and others do not succeed."""
        task = self._graph.tasks[below]
        is_asked = not task.is_teardown or self._graph.tasks[number].is_setup
        return self._passes[below] or (is_asked and _RULES[task.trigger_rule].fail is not _IMPOSSIBLE)

    def _spoils(self, number: int, below: int) -> bool:
        """The same when `number` itself fails: others that cannot be downstream of it are well."""
        if self._passes[below]:
            return True
        level = self._levels[number]
        others = any(one != number and self._levels[one] <= level for one in self._first[below])
        return self._may_spoil(number, below) and not others

    def hides(self, number: int, ends: int) -> bool:
        """Whether the task can fail, by itself and unseen."""
        quiet = not _fails_run(self._graph.tasks[number])
        return not self.shows[number] and self._calm[number] == _S and bool(ends & _F) and not quiet


def _passes_failure(task: Task) -> bool:
    """Whether one failed upstream makes it `upstream_failed`."""
    return _RULES[task.options.trigger_rule].fail is _ONE_UNWELL


def _calm_ends(graph: _Graph) -> list[int]:
    """How each task ends when none that runs fails or skips."""
    calm: list[int] = []
    for number, task in enumerate(graph.tasks):
        goes, decided = _follows(task.options.trigger_rule, frozenset([calm[one] for one in graph.asked[number]]))
        if_run = _K if _is_mapped_over_nothing(task) else _S
        calm.append((if_run if goes else 0) | decided)
    return calm


def _levels(graph: _Graph) -> list[int]:
    """Of each task the length of the longest way to it: what is downstream of it has a greater one."""
    levels: list[int] = []
    for above in graph.up:
        levels.append(1 + max((levels[one] for one in above), default=-1))
    return levels


def _fails_run(task: Task) -> bool:
    """Whether it counts among the leaves: not a teardown, unless it says so."""
    return not task.is_teardown or task.on_failure_fail_dagrun


def _is_effective_leaf(graph: _Graph, number: int) -> bool:
    """Whether its state is the run's; Airflow's rule, `DagRun._tis_for_dagrun_state`."""
    return _fails_run(graph.tasks[number]) and not any(_fails_run(graph.tasks[one]) for one in graph.down[number])


_RETURNS = {opmap.get("RETURN_VALUE"), opmap.get("RETURN_CONST")}


def _work_of(task: Task) -> Any:
    """The user's function: of an operator, what it is given or its `execute`."""
    return getattr(task, "python_callable", None) or getattr(task, "execute", task.function)


def _only_raises(function: Any) -> bool:
    """Whether a function never returns, as the watcher of Airflow's documentation, which fails the run on purpose."""
    code = getattr(function, "__code__", None)
    return isinstance(code, CodeType) and _RETURNS.isdisjoint(code.co_code[::2])


def _hidden_failures(graph: _Graph, ends: Sequence[int]) -> Iterator[Finding]:
    if graph.dag.fail_fast or all(map(_passes_failure, graph.tasks)):
        return  # any failure is the run's
    failures = _Failures(graph)
    by_leaf: dict[int, list[int]] = {}
    for number in range(len(graph.tasks)):
        leaf = failures.leaf[number]
        if leaf is not None and failures.hides(number, ends[number]):
            by_leaf.setdefault(leaf, []).append(number)
    for leaf, hidden in sorted(by_leaf.items()):
        hider = failures.hider[hidden[-1]]
        assert hider is not None
        yield _hidden_failure(graph.tasks[leaf], graph.tasks[hider], graph.named(hidden))


def _hidden_failure(leaf: Task, hider: Task, hidden: Sequence[Task]) -> Finding:
    nearest = hidden[-3:]
    names = _names(nearest, "or", len(hidden) - len(nearest))
    rule = hider.trigger_rule
    holder = "it" if hider is leaf else repr(hider.task_id)
    what = f"as a leaf it makes the run a success even if {names} fails, because {holder} has trigger rule {rule.value}"
    cure = f"add an all_success task after {_names(nearest, more=len(hidden) - len(nearest))}"
    if rule in (TriggerRule.ALL_DONE, TriggerRule.ALWAYS):
        cure = f"make {holder} a teardown (.as_teardown(setups=...)) or {cure}"
    return _finding(Surprise.HIDDEN_FAILURE, leaf, what, cure)


# A teardown without a setup


def _lone_teardowns(graph: _Graph) -> Iterator[Finding]:
    for number, task in enumerate(graph.tasks):
        if task.is_teardown and not graph.asked[number]:
            what = "is a teardown without a setup, and so runs even when there is nothing to tear down"
            yield _finding(Surprise.LONE_TEARDOWN, task, what, "name what it undoes: .as_teardown(setups=...)")
