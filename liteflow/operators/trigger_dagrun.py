"""`TriggerDagRunOperator`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from liteflow.authoring.context import to_us
from liteflow.authoring.options import SensorOptions, sensor_options
from liteflow.authoring.params import NOTSET
from liteflow.authoring.places import Place
from liteflow.authoring.task import SENSOR, Traits
from liteflow.errors import DagError, SkipTask, TriggerError
from liteflow.operators.base import BaseOperator
from liteflow.operators.external_task import checked_states
from liteflow.states import RunState

if TYPE_CHECKING:
    from liteflow.authoring.context import Context, TaskInstanceFacts

RUN_ID_KEY = "trigger_run_id"
"""The XCom that holds the id of the run that was begun, as in Airflow."""


class TriggerDagRunOperator(BaseOperator):
    """Begins a run of another dag, which the same service drives in the same database.

    The dag must be known to that service: `liteflow run FILE` knows those of the file, `dag.run(dags=[...])` and
    `ExecutorService(dags=[...])` those that they are given; else the task fails and says which there are.

    `conf` (a dict, or JSON text): the params of the run; unlike elsewhere the dag need not declare them. `logical_date`
    (datetime or ISO 8601 text): that of the run, default now; None is now as well. `trigger_run_id`: the id of the run;
    one is made if there is none. It is handed on as the XCom `trigger_run_id`.

    The run, and that it is this task instance's, are recorded in one transaction. A try that is repeated, because the
    service or the worker died, finds the run and takes it as its own; no second one is begun. A try that follows one
    that raised, and a task that was cleared, begin another run. A run of that id, or of that `logical_date`, that is
    not the task's own: the task fails, is skipped with `skip_when_already_exists`, or with `reset_dag_run` has the run
    go again from its beginning, with the params that it had, if it is over.

    `wait_for_completion`: wait until the run is in one of `allowed_states` (`success`), or fail when it is in one of
    `failed_states` (`failed`). The task holds no slot meanwhile; it looks every `poke_interval` seconds and, if its own
    service drives the run, as soon as that is over. Its `timeout` counts for all of the waiting. Runs that wait for
    each other therefore cannot take all slots; one that would wait for itself through `max_active_runs` fails.
    Without it the task succeeds at once, and the end of the run changes nothing here.

    `deferrable` and `fail_when_dag_is_paused` change nothing: waiting never holds a slot, and no dag is paused.
    In `Dag.test()` and `liteflow replay` no run is begun: the task succeeds, also where it would wait.
    """

    template_fields = (
        "trigger_dag_id",
        "trigger_run_id",
        "logical_date",
        "conf",
        "wait_for_completion",
        "skip_when_already_exists",
    )
    operator_traits = Traits(SENSOR)

    def __init__(
        self,
        *,
        trigger_dag_id: str,
        trigger_run_id: str | None = None,
        conf: Mapping[str, Any] | str | None = None,
        logical_date: Any = NOTSET,
        run_after: Any = NOTSET,
        reset_dag_run: bool = False,
        wait_for_completion: bool = False,
        poke_interval: float = 60,
        allowed_states: Iterable[str] | None = None,
        failed_states: Iterable[str] | None = None,
        skip_when_already_exists: bool = False,
        fail_when_dag_is_paused: bool = False,
        note: str | None = None,
        deferrable: bool = False,
        openlineage_inject_parent_info: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if run_after is not NOTSET and run_after is not None:
            raise DagError(f"{self.place}: run_after is not supported: a run begins as soon as there is room for it")
        self.trigger_dag_id = trigger_dag_id
        self.trigger_run_id = trigger_run_id
        self.conf = conf
        self.logical_date = None if logical_date is NOTSET else logical_date
        self.reset_dag_run = reset_dag_run
        self.wait_for_completion = wait_for_completion
        self.poke_interval = poke_interval
        self.allowed_states = checked_states("allowed_states", allowed_states or [RunState.SUCCESS], RunState, "a run")
        self.failed_states = checked_states(
            "failed_states", [RunState.FAILED] if failed_states is None else failed_states, RunState, "a run"
        )
        self.skip_when_already_exists = skip_when_already_exists
        self.fail_when_dag_is_paused = fail_when_dag_is_paused
        self.note = note
        self.deferrable = deferrable
        self.openlineage_inject_parent_info = openlineage_inject_parent_info
        sensor = self.sensor_options_of({"poke_interval": poke_interval}, self.place)
        limit_s = self.options.timeout_s
        self.sensor = sensor if limit_s is None else sensor._replace(timeout_s=limit_s)

    @classmethod
    def sensor_options_of(cls, given: Mapping[str, Any], place: Place) -> SensorOptions:
        """How it waits."""
        options = sensor_options({"poke_interval": given.get("poke_interval")}, place)
        return options._replace(timeout_s=math.inf, mode="reschedule", looks_when_taken_up=True)

    def execute(self, context: Context) -> bool:
        """Begin the run, or find the one that was begun; whether there is nothing more to wait for."""
        ti: TaskInstanceFacts = context["ti"]
        waits = _is_true(self.wait_for_completion)
        moment = _moment(self.logical_date)
        question = (
            "trigger",
            str(self.trigger_dag_id),
            str(self.trigger_run_id) if self.trigger_run_id else None,
            _conf_text(self.conf),
            None if moment is None else to_us(moment),
            bool(self.reset_dag_run),
            waits,
        )
        outcome, *more = ti.ask(question, "TriggerDagRunOperator")
        if outcome == "refused":
            raise TriggerError(more[0])
        if outcome == "exists":
            if _is_true(self.skip_when_already_exists):
                raise SkipTask(more[1])
            raise TriggerError(f"{more[1]}; give another trigger_run_id, or reset_dag_run=True")
        run_id = more[0]
        ti.xcom_push(RUN_ID_KEY, run_id)
        if outcome == "nothing":
            print(f"no run of {self.trigger_dag_id} is begun: tests and replays begin none")
            return True
        if context["task_reschedule_count"] == 0:
            print(f"run {self.trigger_dag_id}/{run_id} is begun")
        return not waits or self._is_over(run_id, more[1])

    def _is_over(self, run_id: str, state: str) -> bool:
        if state in self.failed_states:
            raise TriggerError(f"run {self.trigger_dag_id}/{run_id} is {state}")
        return state in self.allowed_states


def _is_true(value: Any) -> bool:
    """Whether a flag is set that may have been text of a template."""
    return value.strip().lower() in ("true", "1", "yes", "on") if isinstance(value, str) else bool(value)


def _moment(value: Any) -> datetime | None:
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise TypeError(f"logical_date={value!r} must be a datetime, ISO 8601 text or None")
    found = datetime.fromisoformat(value)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _conf_text(conf: Any) -> str | None:
    """The params as JSON text."""
    try:
        given = json.loads(conf) if isinstance(conf, str) and conf else conf or {}
        text = json.dumps(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"conf must be a dict that JSON can hold: {conf!r:.200} ({error})") from None
    if not isinstance(given, dict):
        raise ValueError(f"conf must be a dict, or JSON text of one; not {conf!r:.200}")
    return text
