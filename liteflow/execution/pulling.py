"""XComs while a task runs: what it pushes is kept for its outcome, what it pulls of others is asked of the driver."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from liteflow.errors import XComEncodeError
from liteflow.storage.xcoms import decode, encode

Ask = Callable[[tuple[Any, ...]], tuple[Any, ...]]
"""Puts a question of plain types to whoever drives the run, and waits for the answer."""

LONGEST_KEY = 250


class TryXComs:
    """The XComs of one try. See `TaskInstanceFacts.xcom_push` and `xcom_pull` for what the methods promise."""

    def __init__(
        self, dag_id: str, run_id: str, task_id: str, ask: Ask | None, *, ended_index: int | None = None
    ) -> None:
        self.pushed: dict[str, tuple[str, bytes]] = {}
        """Key to encoding and data."""
        self._own = (dag_id, run_id, task_id)
        self._ask = ask
        self._ended_index = ended_index
        """For a callback of a try that has ended: its map index. What it pushed is stored by then."""
        self._pid = os.getpid()

    def push(self, key: str, value: Any) -> None:
        check_key(key, "the key of an XCom")
        if self._ended_index is not None:
            raise RuntimeError("xcom_push() works while the task runs, not in a callback that is called afterwards")
        self.pushed[key] = encode(value)

    def pull(
        self,
        task_ids: str | Iterable[str] | None,
        dag_id: str | None,
        key: str,
        include_prior_dates: bool,
        map_indexes: int | Iterable[int] | None,
        default: Any,
        run_id: str | None,
    ) -> Any:
        own_dag, own_run, own_task = self._own
        if task_ids is None and dag_id in (None, own_dag) and run_id in (None, own_run) and map_indexes is None:
            if self._ended_index is None:
                return decode(*self.pushed[key]) if key in self.pushed else default
            map_indexes = self._ended_index
        is_one_task = task_ids is None or isinstance(task_ids, str)
        names = [own_task] if task_ids is None else [task_ids] if isinstance(task_ids, str) else list(task_ids)
        is_one_index = isinstance(map_indexes, int)
        indexes = None if map_indexes is None else [map_indexes] if isinstance(map_indexes, int) else list(map_indexes)
        found = self._ask_for(dag_id or own_dag, run_id or own_run, names, key, indexes, include_prior_dates)
        values: list[Any] = []
        for name in names:
            rows = found.get(name, {})
            if indexes is not None:
                values += [decode(*rows[index]) if index in rows else default for index in indexes]
            else:  # those of all instances, without holes; a task that handed on nothing counts as one
                values += [decode(*rows[index]) for index in sorted(rows)] or [default]
        # Airflow's rule: one value of one task comes as it is, also where a mapped task has only one.
        return values[0] if is_one_task and len(values) == 1 and (indexes is None or is_one_index) else values

    def _ask_for(
        self, dag_id: str, run_id: str, names: list[str], key: str, indexes: list[int] | None, prior: bool
    ) -> dict[str, dict[int, tuple[str, bytes]]]:
        """Of each task that handed something on: map index to encoding and data."""
        if self._ask is None:
            raise RuntimeError(
                "xcom_pull() of another task works in slots and threads, not with this executor: pass its value as an "
                "argument, or pull with task_ids=None what this task has pushed"
            )
        found: dict[str, dict[int, tuple[str, bytes]]] = {}
        question = ("pull", dag_id, run_id, tuple(names), key, None if indexes is None else tuple(indexes), prior)
        for name, map_index, encoding, data in self.ask(question, "xcom_pull()"):
            found.setdefault(name, {})[map_index] = (encoding, data)
        return found

    def ask(self, question: tuple[Any, ...], what: str) -> tuple[Any, ...]:
        if self._ask is None:
            raise RuntimeError(f"{what} works in slots and threads, not with this executor")
        if os.getpid() != self._pid:
            raise RuntimeError(f"{what} works in the task's own process, not in one that it has started")
        return self._ask(question)


def check_key(key: Any, what: str) -> None:
    """Raise XComEncodeError for a key that cannot be stored."""
    if not isinstance(key, str):
        raise XComEncodeError(f"{what} is no text: {key!r}")
    if not key or len(key) > LONGEST_KEY or "\x00" in key or not _is_text(key):
        raise XComEncodeError(f"{what} cannot be stored: {key!r}")


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:  # lone surrogates
        return False
    return True
