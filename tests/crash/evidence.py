"""What the effects of tasks, the words that were told and the database say of each other."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.crash import ledger
from tests.crash.invariants import missing, recorded_instances, recorded_runs, recorded_xcoms, structure_problems

Instance = tuple[str, str, int]
"""Run id, task id, map index."""


class Evidence:
    """Follows the programs that work on one database in one directory, from one kill to the next."""

    def __init__(self, directory: Path, sensors: Collection[str] = ()) -> None:
        self.directory = directory
        self.db_path = directory / "flow.db"
        self._sensors = sensors
        self._done: dict[Instance, int] = {}
        """What was found to be recorded as success, and how many effects there were then."""

    def look(self) -> None:
        """After a kill: compare what the dead left, in a copy, so that whoever resumes finds it untouched."""
        if not self.db_path.exists():
            assert not ledger.told(self.directory)
            return
        effects = ledger.effects(self.directory)
        copy = self.directory / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for path in self.directory.glob("flow.db*"):
            if path.is_file() and not path.name.endswith("-shm"):
                shutil.copy(path, copy)
        with closing(sqlite3.connect(copy / "flow.db")) as database:
            wrong = structure_problems(database)
            if _has_tables(database):
                wrong += missing(database, ledger.told(self.directory))
                wrong += self._too_early(database, effects)
                for key, (state, _) in recorded_instances(database).items():
                    if state == "success":
                        self._done.setdefault(key, len(effects))
                    elif key in self._done:
                        wrong.append(f"{key} was recorded as success, and is {state} now")
            else:
                wrong += [f"effects, and no tables: {effects}"] if effects else []
        assert not wrong, "\n".join(wrong)

    def _too_early(self, database: sqlite3.Connection, effects: list[ledger.Effect]) -> list[str]:
        """Effects of tasks whose upstream is not recorded as success."""
        states: dict[tuple[str, str], set[str]] = {}
        upstream: dict[tuple[str, str], list[str]] = {}
        for run, task, state, rule, above in database.execute(
            "SELECT r.run_id, i.task_id, i.state, i.trigger_rule, i.upstream "
            "FROM liteflow_task_instance i JOIN liteflow_dag_run r ON r.id = i.run_pk"
        ):
            states.setdefault((run, task), set()).add(state)
            upstream[run, task] = json.loads(above) if rule == "all_success" else []
        return [
            f"{one.run}: {one.task} began, and {above} is recorded as {states.get((one.run, above))}"
            for one in effects
            for above in upstream.get((one.run, one.task), [])
            if states.get((one.run, above)) != {"success"}
        ]

    def finish(self, run_id: str, values: Mapping[str, Any]) -> None:
        """The run is over and a success: compare all that there is of it. `values`: what it must have handed on."""
        effects = [one for one in ledger.effects(self.directory) if one.run == run_id]
        with closing(sqlite3.connect(self.db_path)) as database:
            instances = {
                _name(*key[1:]): found for key, found in recorded_instances(database).items() if key[0] == run_id
            }
            state = recorded_runs(database).get(run_id)
            xcoms = {name: value for (run, name), value in recorded_xcoms(database).items() if run == run_id}
            tries = {(_name(task, index), number) for task, index, number in _tries(database, run_id)}
        assert state == "success", f"run {run_id} is {state}: {instances}"
        succeeded = {name for name, (state, _) in instances.items() if state == "success"}
        assert succeeded == set(values), f"run {run_id}: {instances}"
        assert xcoms == {name: value for name, value in values.items() if value is not None}
        begun = Counter((_name(one.task, one.map_index), one.try_number) for one in effects)
        unheard = [name for name in succeeded if (name, instances[name][1]) not in begun]
        assert not unheard, f"recorded as success, and never ran in that try: {unheard}"
        unknown = [key for key in begun if key not in tries and key[1] != instances[key[0]][1]]
        assert not unknown, f"ran, and no try is recorded: {unknown}"
        twice = [key for key, count in begun.items() if count > 1 and key[0] not in self._sensors]
        assert not twice, f"the same try ran twice: {twice}"
        assert not [one for one in effects if one.overlaps], "a try began while the one before was still at it"
        self._nothing_ran_again()

    def _nothing_ran_again(self) -> None:
        for number, one in enumerate(ledger.effects(self.directory)):
            since = self._done.get((one.run, one.task, one.map_index))
            assert since is None or number < since, f"recorded as success, and ran again: {one}"


def _name(task: str, index: int) -> str:
    return task if index < 0 else f"{task}[{index}]"


def _has_tables(database: sqlite3.Connection) -> bool:
    return bool(database.execute("SELECT 1 FROM sqlite_master WHERE name = 'liteflow_dag_run'").fetchone())


def _tries(database: sqlite3.Connection, run_id: str) -> list[tuple[str, int, int]]:
    return list(
        database.execute(
            "SELECT i.task_id, i.map_index, t.try_number FROM liteflow_task_try t "
            "JOIN liteflow_task_instance i ON i.id = t.task_instance_pk "
            "JOIN liteflow_dag_run r ON r.id = i.run_pk WHERE r.run_id = ?",
            (run_id,),
        )
    )
