"""The priority of tasks: whose turn it is when there is less room than there is work.

Airflow's `priority_weight_total`: with the rule `downstream` the weights of all that is downstream are added to a
task's own, with `upstream` those upstream, with `absolute` none.
"""

from __future__ import annotations

from collections.abc import Sequence

from liteflow.authoring.options import TaskOptions

EXACT_UP_TO = 5_000
"""Dags with more tasks, none of which sets a weight or rule, are not weighed: it takes a bit for each pair of tasks."""


def total_weights(options: Sequence[TaskOptions], upstream: Sequence[Sequence[int]]) -> list[int]:
    """The weight of each task, numbered in topological order; `upstream` holds the numbers directly upstream of each.

    Sets of tasks are kept as the bits of whole numbers: thousands of tasks take milliseconds.
    """
    plain = all(one.priority_weight == 1 and one.weight_rule == "downstream" for one in options)
    if plain and len(options) > EXACT_UP_TO:
        return [1] * len(options)
    rules = {one.weight_rule for one in options}
    above = _closure(upstream) if "upstream" in rules else []
    below = _closure_below(upstream) if "downstream" in rules else []
    masks: dict[int, int] = {}
    for number, one in enumerate(options):
        masks[one.priority_weight] = masks.get(one.priority_weight, 0) | (1 << number)
    totals = []
    for number, one in enumerate(options):
        related = {"upstream": above, "downstream": below}.get(one.weight_rule)
        others = related[number] if related is not None else 0
        totals.append(one.priority_weight + sum(weight * (others & mask).bit_count() for weight, mask in masks.items()))
    return totals


def _closure(upstream: Sequence[Sequence[int]]) -> list[int]:
    """Of each task the set of everything upstream."""
    found: list[int] = []
    for ups in upstream:
        bits = 0
        for up in ups:
            bits |= found[up] | (1 << up)
        found.append(bits)
    return found


def _closure_below(upstream: Sequence[Sequence[int]]) -> list[int]:
    """Of each task the set of everything downstream."""
    found = [0] * len(upstream)
    for number in range(len(upstream) - 1, -1, -1):
        bits = found[number] | (1 << number)
        for up in upstream[number]:
            found[up] |= bits
    return found
