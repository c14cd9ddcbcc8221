"""`ExternalTaskSensor`, which waits for runs of another dag, and `ExternalTaskMarker`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from liteflow.authoring.context import to_us
from liteflow.authoring.ids import did_you_mean
from liteflow.authoring.places import caller
from liteflow.errors import DagError, ExternalTaskFailedError, ExternalTaskNotFoundError, SkipTask
from liteflow.operators.empty import EmptyOperator
from liteflow.operators.sensors import BaseSensorOperator
from liteflow.states import RunState, TaskInstanceState

if TYPE_CHECKING:
    from liteflow.authoring.context import Context

_OF_AIRFLOW = ("scheduled", "deferred", "restarting", "removed")
"""States of task instances that there are only in Airflow, or that no run waits in."""


class ExternalTaskSensor(BaseSensorOperator):
    """Waits until tasks, a group, or the whole run of another dag have succeeded, in the run of the same logical date.

    `external_task_id` or `external_task_ids`, or `external_task_group_id`; with none of them the run itself. Runs are
    looked for in the same database, whichever process drives them; of several with one logical date the one that was
    created last counts. `execution_delta`: how much earlier that run's date is; or `execution_date_fn`: called with the
    own logical date, and the keys of the context that it names, it gives the date or a list of them.

    `allowed_states` (`success`): it is done when all is in one of them; of a mapped task all instances. `failed_states`
    (none): it fails as soon as something is in one of them, or is skipped with `soft_fail`. `skipped_states` (none):
    the same, and it is skipped. Without `failed_states` it goes on to wait when what it waits for fails.
    `check_existence`: fail at once where there is no such dag, task or group: in the dag's code if the service knows
    it, else in its latest run. The options of all sensors are there too.
    """

    template_fields = ("external_dag_id", "external_task_id", "external_task_ids", "external_task_group_id")

    def __init__(
        self,
        *,
        external_dag_id: str,
        external_task_id: str | None = None,
        external_task_ids: Collection[str] | None = None,
        external_task_group_id: str | None = None,
        allowed_states: Iterable[str] | None = None,
        skipped_states: Iterable[str] | None = None,
        failed_states: Iterable[str] | None = None,
        execution_delta: timedelta | None = None,
        execution_date_fn: Callable[..., Any] | None = None,
        check_existence: bool = False,
        poll_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        if poll_interval is not None:
            kwargs.setdefault("poke_interval", poll_interval)
        super().__init__(**kwargs)
        external_task_ids = external_task_ids or None
        wanted = (external_task_id, external_task_ids, external_task_group_id)
        named = [one for one in wanted if one is not None]
        if len(named) > 1:
            raise DagError(
                f"{self.place}: give one of external_task_id, external_task_ids and external_task_group_id, not several"
            )
        if execution_delta is not None and execution_date_fn is not None:
            raise DagError(f"{self.place}: give execution_delta or execution_date_fn, not both")
        self.external_dag_id = external_dag_id
        self.external_task_id = external_task_id
        self.external_task_ids = external_task_ids
        self.external_task_group_id = external_task_group_id
        known = [str(one) for one in (TaskInstanceState if named else RunState)] + list(_OF_AIRFLOW if named else ())
        self.allowed_states = checked_states(
            "allowed_states", allowed_states or ["success"], known, "what is waited for"
        )
        self.skipped_states = checked_states("skipped_states", skipped_states or (), known, "what is waited for")
        self.failed_states = checked_states("failed_states", failed_states or (), known, "what is waited for")
        everywhere = [*self.allowed_states, *self.skipped_states, *self.failed_states]
        if len(set(everywhere)) < len(everywhere):
            raise DagError(f"{self.place}: a state stands twice among allowed_states, skipped_states and failed_states")
        self.execution_delta = execution_delta
        self.execution_date_fn = execution_date_fn
        self.check_existence = check_existence

    def poke(self, context: Context) -> bool:
        """Whether all that is waited for is in one of the allowed states."""
        task_ids = [self.external_task_id] if self.external_task_id is not None else self.external_task_ids
        wanted = None if task_ids is None else tuple(str(one) for one in task_ids)
        if wanted is not None and len(set(wanted)) < len(wanted):
            raise ValueError(f"external_task_ids names a task twice: {', '.join(wanted)}")
        if self.check_existence:
            self._refuse_what_is_not_there(context, wanted)
        dates = tuple(to_us(one) for one in self._dates(context))
        states = self._states_by_date(context, wanted, dates)
        what = self._what(wanted)
        seen = [state for of_date in states.values() for state in of_date]
        for state in seen:
            if state in self.failed_states:
                if self.soft_fail:
                    raise SkipTask(f"{what} is {state} (soft_fail is set)")
                raise ExternalTaskFailedError(f"{what} is {state}")
        for state in seen:
            if state in self.skipped_states:
                raise SkipTask(f"{what} is {state}")
        return all(states.get(one) and all(state in self.allowed_states for state in states[one]) for one in dates)

    def _what(self, wanted: tuple[str, ...] | None) -> str:
        """What is waited for, in words."""
        if wanted is not None:
            return f"one of {', '.join(wanted)} of dag {self.external_dag_id!r}"
        if self.external_task_group_id is not None:
            return f"one of group {self.external_task_group_id!r} of dag {self.external_dag_id!r}"
        return f"the run of dag {self.external_dag_id!r}"

    def _states_by_date(
        self, context: Context, wanted: tuple[str, ...] | None, dates: tuple[int, ...]
    ) -> dict[int, list[str]]:
        """By logical date the states of all that is waited for; none where something of it is not there."""
        ti, dag_id, group_id = context["ti"], str(self.external_dag_id), self.external_task_group_id
        if wanted is None and group_id is None:
            rows = ti.ask(("runs", dag_id, dates, None), type(self).__name__)
            return {date: [state] for _, date, state in rows}
        question = ("tasks", dag_id, dates, None, wanted, None if group_id is None else str(group_id))
        found: dict[int, list[str]] = {}
        for _, date, instances in ti.ask(question, type(self).__name__):
            missing = set(wanted or ()) - {task_id for task_id, _, _ in instances}
            found[date] = [state for _, _, state in instances] + ["not there"] * len(missing)
        return found

    def _dates(self, context: Context) -> Sequence[datetime]:
        """The logical dates of the runs that are waited for."""
        own: datetime = context["logical_date"]
        if self.execution_delta:
            return [own - self.execution_delta]
        if self.execution_date_fn is None:
            return [own]
        found = self.execution_date_fn(own, **_named_by(self.execution_date_fn, context))
        return list(found) if isinstance(found, list | tuple) else [found]

    def _refuse_what_is_not_there(self, context: Context, wanted: tuple[str, ...] | None) -> None:
        found = context["ti"].ask(("dag", str(self.external_dag_id)), type(self).__name__)
        if not found:
            raise ExternalTaskNotFoundError(f"there is no dag {self.external_dag_id!r}")
        tasks, groups = found
        for task_id in wanted or ():
            if task_id not in tasks:
                raise ExternalTaskNotFoundError(
                    f"dag {self.external_dag_id!r} has no task {task_id!r}{did_you_mean(task_id, tasks)}"
                )
        group_id = self.external_task_group_id
        if group_id is not None and group_id not in groups:
            raise ExternalTaskNotFoundError(
                f"dag {self.external_dag_id!r} has no group {group_id!r}{did_you_mean(group_id, groups)}"
            )


class ExternalTaskMarker(EmptyOperator):
    """Says that a task of another dag depends on this one. It does nothing: `clear` clears one run at a time."""

    template_fields = ("external_dag_id", "external_task_id", "logical_date")

    def __init__(
        self,
        *,
        external_dag_id: str,
        external_task_id: str,
        logical_date: str | datetime | None = "{{ logical_date.isoformat() }}",
        recursion_depth: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(logical_date, str | datetime):
            raise DagError(f"{self.place}: logical_date={logical_date!r} must be text or a datetime")
        if recursion_depth <= 0:
            raise DagError(f"{self.place}: recursion_depth={recursion_depth!r} must be a whole number, 1 or more")
        self.external_dag_id = external_dag_id
        self.external_task_id = external_task_id
        self.logical_date = logical_date if isinstance(logical_date, str) else logical_date.isoformat()
        self.recursion_depth = recursion_depth


def checked_states(name: str, given: Iterable[str], known: Iterable[str], of_what: str) -> list[str]:
    """The states that the option `name` gives, as text. Raises DagError for one that is not among those known."""
    found, there = [str(state) for state in given], [str(state) for state in known]
    for state in found:
        if state not in there:
            hint = did_you_mean(state, there) or f"; there are {', '.join(there)}"
            raise DagError(f"{caller()}: {name}: {state!r} is no state of {of_what}{hint}")
    return found


def _named_by(function: Callable[..., Any], context: Context) -> dict[str, Any]:
    """What the function takes of the context beside the logical date, which it gets first."""
    parameters = list(inspect.signature(function).parameters.values())
    offered = {**{name: value for name, value in context.items() if name != "logical_date"}, "context": context}
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return offered
    return {one.name: offered[one.name] for one in parameters[1:] if one.name in offered}
