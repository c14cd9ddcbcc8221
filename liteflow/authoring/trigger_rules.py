"""When a task may go, by the states of its direct upstream: Airflow 3's trigger rules."""

from __future__ import annotations

from enum import StrEnum


class TriggerRule(StrEnum):
    """The rule of a task. The truth of each is in `scheduling/rules.py`; names and meaning are Airflow 3.3's."""

    ALL_SUCCESS = "all_success"
    """All upstream succeeded (the default)."""
    ALL_FAILED = "all_failed"
    """All upstream failed or could not run because of a failure."""
    ALL_DONE = "all_done"
    """All upstream ended, however."""
    ALL_DONE_MIN_ONE_SUCCESS = "all_done_min_one_success"
    """All upstream ended, none was skipped, and at least one succeeded."""
    ALL_SKIPPED = "all_skipped"
    """All upstream were skipped."""
    ONE_SUCCESS = "one_success"
    """One upstream succeeded; does not wait for the others."""
    ONE_FAILED = "one_failed"
    """One upstream failed or could not run because of a failure; does not wait for the others."""
    ONE_DONE = "one_done"
    """One upstream succeeded or failed; does not wait for the others."""
    NONE_FAILED = "none_failed"
    """All upstream ended and none failed; skipped is good enough."""
    NONE_FAILED_MIN_ONE_SUCCESS = "none_failed_min_one_success"
    """The same, and at least one succeeded: the rule for a join after a branch."""
    NONE_SKIPPED = "none_skipped"
    """All upstream ended and none was skipped."""
    ALWAYS = "always"
    """Does not look at upstream."""
    ALL_DONE_SETUP_SUCCESS = "all_done_setup_success"
    """A teardown's own rule: all upstream and everything since its setups ended, and one of its setups succeeded."""
