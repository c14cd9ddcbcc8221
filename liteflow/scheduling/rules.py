"""What each trigger rule says, given how many direct upstream task instances ended how.

Source: Airflow 3.3.2, `ti_deps/deps/trigger_rule_dep.py`, as observed in a running Airflow. A rule decides as soon as
nothing that is still to come could change its mind.
"""

from __future__ import annotations

from typing import NamedTuple

from liteflow.authoring.trigger_rules import TriggerRule
from liteflow.states import TaskInstanceState


class SetupCounts(NamedTuple):
    """Of the setups directly upstream of a teardown: how many ended how, of how many."""

    success: int = 0
    skipped: int = 0
    total: int = 0


class UpstreamCounts(NamedTuple):
    """How many direct upstream task instances ended in which state, of how many."""

    success: int
    failed: int
    skipped: int
    upstream_failed: int
    total: int
    setups: SetupCounts = SetupCounts()
    """For a teardown."""
    scope_ended: bool = True
    """For a teardown: whether everything between its setups and itself has ended, what is not directly upstream too."""


def evaluate(rule: TriggerRule, counts: UpstreamCounts) -> TaskInstanceState | None:
    """What the rule makes of a pending task instance: `queued`, `skipped`, `upstream_failed`, or None to wait."""
    success, failed, skipped, upstream_failed, total, setups, scope_ended = counts
    ended = success + failed + skipped + upstream_failed == total
    go, skip, fail = TaskInstanceState.QUEUED, TaskInstanceState.SKIPPED, TaskInstanceState.UPSTREAM_FAILED
    if (total == 0 and scope_ended) or rule is TriggerRule.ALWAYS:
        return go
    unwell = failed + upstream_failed
    match rule:
        case TriggerRule.ALL_SUCCESS:
            # A mix of skipped and failed would end by order of arrival; among those that are there, failure wins.
            return fail if unwell else skip if skipped else go if ended else None
        case TriggerRule.ALL_FAILED:
            return skip if success or skipped else go if ended else None
        case TriggerRule.ALL_DONE:
            return go if ended else None
        case TriggerRule.ALL_DONE_MIN_ONE_SUCCESS:
            return skip if skipped else None if not ended else go if success else fail
        case TriggerRule.ALL_SKIPPED:
            return skip if success or unwell else go if ended else None
        case TriggerRule.ONE_SUCCESS:
            return go if success else None if not ended else fail if unwell else skip
        case TriggerRule.ONE_FAILED:
            return go if unwell else skip if ended else None
        case TriggerRule.ONE_DONE:
            return go if success or failed else skip if ended else None
        case TriggerRule.NONE_FAILED:
            return fail if unwell else go if ended else None
        case TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS:
            return fail if unwell else None if not ended else go if success else skip
        case TriggerRule.NONE_SKIPPED:
            return skip if skipped else go if ended else None
        case TriggerRule.ALL_DONE_SETUP_SUCCESS:
            if not (ended and scope_ended):
                return None
            if setups.total and setups.skipped == setups.total:
                return skip
            return fail if setups.total and not setups.success else go
    raise AssertionError(f"no meaning for {rule!r}")
