"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os

from liteflow.execution.nesting import SLOT


def default_slots() -> int:
    """How many slots a service has if nobody says it: one for each usable CPU and, inside a task, one."""
    return 1 if SLOT in os.environ else usable_cpus()


def usable_cpus() -> int:
    """CPUs by affinity and by the quota of the cgroup, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = _cgroup_cpus()
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def _cgroup_cpus() -> float | None:
    """The quota of the cgroup (version 2, then 1) in CPUs, or None."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass  # no version 2 here
    try:
        with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as file:
            quota_us = int(file.read())
        with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
            return quota_us / int(file.read()) if quota_us > 0 else None
    except (OSError, ValueError):
        return None
