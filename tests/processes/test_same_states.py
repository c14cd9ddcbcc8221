"""The same dags give the same states when they are run for real: functions, values, retries, expansion, two slots.

Random dags of the tests of the scheduling core are written as a user would write them and submitted all at once to
one service. What each instance and each run came to is compared with the evaluator.

Some of what the generator makes is left out, since no dag can be written so:

* a mapped task that has the rule `always` and is mapped over the value of a task, which is refused;
* a teardown that has a setup of another teardown directly upstream and not as a setup of its own: an edge from a
  setup to a teardown is what makes them belong together.

Nor is there `depends_on_past`, which is about the run before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings

import liteflow
from liteflow import ExecutorService, FailTask, SkipTask, XComArg, get_current_context, task, task_group
from liteflow.states import RunState
from tests.engines import database_of, executor_of
from tests.unit.evaluator import Dag, Disagreement, Evaluation, Outcome, Task, Unit
from tests.unit.test_semantics_core import LETTERS, Script, dags

pytestmark = [
    pytest.mark.filterwarnings("ignore::liteflow.DagWarning"),
    pytest.mark.usefixtures("nothing_left_behind"),
]

DAGS = 40
SIZES = range(6, 41)
"""How many instances a run has. Smaller ones say little, and larger ones only take longer."""
PERIOD = 8
"""After so many map indexes the outcomes of a task are the same again, so that a table can hold them."""

# What the tasks do

Row = tuple[int, str, list[Any]]
"""How many tries fail, the state after that, and the value if it is success."""


def behave(table: Sequence[Row], literal: Any = None, first: Any = None, second: Any = None) -> list[Any]:
    """Do what the table says for this map index and try; the items that it is mapped over make no difference."""
    context = get_current_context()
    failures, state, value = table[place_of(context["ti"].map_index)]
    if context["try_number"] <= failures:
        raise OSError("not at this try")
    if state == "F":
        raise FailTask("told to")
    if state == "K":
        raise SkipTask("told to")
    return value


def place_of(map_index: int) -> int:
    """Which row of a table is for it."""
    return (map_index + 1) % PERIOD


class RealScript(Script):
    """Outcomes that a function can have: what a branch or short circuit decides is the value that it returns."""

    def __init__(self, dag: Dag, seed: int) -> None:
        super().__init__(dag, seed)
        self._sources = {source for unit in dag.units for source in unit.sources}

    def told(self, number: int, map_index: int) -> Outcome:
        """What the function does."""
        found = super()._outcome(number, place_of(map_index) - 1)
        if self.dag.tasks[number].kind == "branch":
            return found._replace(length=len(found.chosen))
        return found._replace(falsy=not found.length)

    def _outcome(self, number: int, map_index: int) -> Outcome:
        """What comes of it: a short circuit that stops hands on nothing, which fails where others are mapped over it.

        Of a mapped one nothing is an item as any other.
        """
        told, one = self.told(number, map_index), self.dag.tasks[number]
        hands_on_nothing = told.state == "S" and one.kind == "short_circuit" and told.falsy
        fails = hands_on_nothing and one.unit is None and number in self._sources
        return told._replace(state="F") if fails else told

    def failures(self, number: int, map_index: int) -> int:
        return super().failures(number, place_of(map_index) - 1)

    def table(self, number: int) -> list[Row]:
        """What the instances of a task do, from map index -1 on."""
        return [self._row(number, map_index) for map_index in range(-1, PERIOD - 1)]

    def _row(self, number: int, map_index: int) -> Row:
        state, length, chosen, _ = self.told(number, map_index)
        is_branch = self.dag.tasks[number].kind == "branch"
        value = [id_of(self.dag, one) for one in chosen] if is_branch else list(range(length))
        return self.failures(number, map_index), state, value


# From the description to the dag


def members_of(dag: Dag, unit: int) -> list[int]:
    """The tasks of a unit: one is a mapped task, more are a mapped group."""
    return [number for number, one in enumerate(dag.tasks) if one.unit == unit]


def id_of(dag: Dag, number: int) -> str:
    """The task's id in the dag that is written."""
    unit = dag.tasks[number].unit
    return f"t{number}" if unit is None or len(members_of(dag, unit)) == 1 else f"g{unit}.t{number}"


def number_of(task_id: str) -> int:
    """The way back from the id."""
    return int(task_id.rpartition("t")[2])


def writable(dag: Dag) -> Dag:
    """The dag with what cannot be written replaced."""
    setups = {setup for one in dag.tasks for setup in one.setups}

    def changed(one: Task) -> Task:
        if one.is_teardown:
            return one._replace(setups=tuple(up for up in one.upstream if up in setups))
        if one.rule != "always" or one.unit is None or len(members_of(dag, one.unit)) > 1:
            return one
        return one._replace(rule="all_success") if dag.units[one.unit].sources else one

    return dag._replace(tasks=tuple(map(changed, dag.tasks)))


class Writer:
    """Writes a dag: `written`."""

    def __init__(self, dag_id: str, dag: Dag, script: RealScript) -> None:
        self._dag = dag
        self._script = script
        self._made: list[XComArg] = []
        with liteflow.Dag(dag_id) as self.written:
            for number, one in enumerate(dag.tasks):
                if one.unit is None:
                    self._join_up(number, self._factory(number)(self._script.table(number)))
                elif number == members_of(dag, one.unit)[0]:
                    self._write_unit(one.unit)

    def _write_unit(self, unit: int) -> None:
        members = members_of(self._dag, unit)
        over = self._mapped_over(self._dag.units[unit])
        if len(members) == 1:
            partial = self._factory(members[0]).partial(table=self._script.table(members[0]))
            self._join_up(members[0], partial.expand(**over))
            return

        def write_members(literal: Any = None, first: Any = None, second: Any = None) -> None:
            for number in members:
                # What does not wait for the value that the group is mapped over cannot take it as an argument.
                takes_item = self._dag.tasks[number].rule != "always"
                items = {"literal": literal, "first": first, "second": second} if takes_item else {}
                self._join_up(number, self._factory(number)(self._script.table(number), **items))

        task_group(f"g{unit}")(write_members).expand(**over)

    def _mapped_over(self, unit: Unit) -> dict[str, Any]:
        values = dict(zip(("first", "second"), (self._made[source] for source in unit.sources), strict=False))
        return values if values and unit.literal == 1 else {"literal": list(range(unit.literal)), **values}

    def _factory(self, number: int) -> Any:
        one = self._dag.tasks[number]
        options: dict[str, Any] = {"task_id": f"t{number}", "retries": one.retries}
        if not one.is_teardown:
            options["trigger_rule"] = one.rule
        if one.kind == "branch":
            return task.branch(behave, **options)
        if one.kind == "short_circuit":
            return task.short_circuit(behave, ignore_downstream_trigger_rules=one.ignores_rules, **options)
        return task(behave, **options)

    def _join_up(self, number: int, made: XComArg) -> None:
        one = self._dag.tasks[number]
        self._made.append(made)
        made.set_upstream([self._made[up] for up in one.upstream])
        if one.is_teardown:
            setups = [self._made[setup] for setup in one.setups]
            made.as_teardown(setups=setups, on_failure_fail_dagrun=one.on_failure_fail_dagrun)


# The runs


class Case(NamedTuple):
    """A dag, and what its instances come to if they run."""

    dag: Dag
    script: RealScript

    def evaluate(self, **more: Any) -> Evaluation:
        return Evaluation(self.dag, self.script.outcome, **more)


@cache
def cases() -> list[Case]:
    """The same ones in each session. Each has another shape: much of what is drawn is much like what was before it."""
    found: list[Case] = []
    shapes: set[object] = set()

    @settings(
        max_examples=DAGS,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
    @given(dags(past=False))
    def take(dag: Dag) -> None:
        shape = tuple(one.upstream for one in dag.tasks)
        assume(shape not in shapes)
        dag = writable(dag)
        case = Case(dag, RealScript(dag, len(found)))
        assume(len(case.evaluate().states) in SIZES)
        shapes.add(shape)
        found.append(case)

    take()
    return found


def difference(case: Case, run: Any) -> str | None:
    """What a run that is over came to and should not have."""
    observed = {(number_of(one.task_id), one.map_index): LETTERS[one.state] for one in run.task_instances()}
    try:
        right = case.evaluate(observed=observed)
    except Disagreement as error:
        return f"{error} in {case.dag}, where the states are {observed}"
    if run.state is not {"S": RunState.SUCCESS, "F": RunState.FAILED}[right.run_state]:
        return f"the run is {run.state} in {case.dag}, where the states are {observed}"
    return None


def test_real_runs_come_to_what_the_evaluator_says(tmp_path: Path) -> None:
    with (
        executor_of() as executor,
        database_of(tmp_path) as path,
        ExecutorService(path, max_workers=2, executor=executor) as service,
    ):
        handles = [service.submit(Writer(f"d{at}", *case).written) for at, case in enumerate(cases())]
        found = [difference(case, handle.wait(timeout=60)) for case, handle in zip(cases(), handles, strict=True)]
    assert list(filter(None, found)) == []


def test_tests_come_to_what_the_evaluator_says() -> None:
    """`Dag.test` has the rules of real runs."""
    found = [difference(case, Writer(f"d{at}", *case).written.test()) for at, case in enumerate(cases())]
    assert list(filter(None, found)) == []


def test_there_is_something_of_everything_in_the_dags() -> None:
    tasks = [one for case in cases() for one in case.dag.tasks]
    sizes = {len(members_of(case.dag, unit)) for case in cases() for unit in range(len(case.dag.units))}
    sources = [case.dag.tasks[one] for case in cases() for unit in case.dag.units for one in unit.sources]
    right = [case.evaluate() for case in cases()]
    assert len(right) == DAGS
    assert {one.kind for one in tasks} == {"plain", "branch", "short_circuit"}
    assert {one.is_teardown for one in tasks} == {True, False}
    assert len({one.rule for one in tasks}) > 8
    assert sizes == {1, 2, 3}, "mapped tasks and mapped groups"
    assert {one.unit is None for one in sources} == {True, False}, "mapped over tasks and over mapped ones"
    assert {state for one in right for state in one.states.values()} == set("SFKU")
    assert {one.run_state for one in right} == set("SF")
