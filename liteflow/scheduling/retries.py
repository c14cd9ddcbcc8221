"""How long to wait before the next try."""

from __future__ import annotations

import hashlib
import math

from liteflow.authoring.options import DEFAULT_MAX_RETRY_DELAY_S, SensorOptions, TaskOptions


def retry_delay_s(options: TaskOptions, try_number: int, identity: str) -> float:
    """Seconds between the failure of try `try_number` (from 1) and the next try.

    Without backoff that is `retry_delay`. With it, Airflow 3's rule: base = max(1, ceil(delay * factor ** (n - 1))),
    plus a jitter below base that is always the same for one `identity` (dag, task, logical date) and try; then capped
    by `max_retry_delay`, 24 h if none is given.
    """
    factor = options.retry_exponential_backoff
    if not factor:
        delay = options.retry_delay_s
        return delay if options.max_retry_delay_s is None else min(delay, options.max_retry_delay_s)
    cap = DEFAULT_MAX_RETRY_DELAY_S if options.max_retry_delay_s is None else options.max_retry_delay_s
    if not options.retry_delay_s:
        return float(min(1, cap))  # and no jitter: it is below the base of 1
    try:
        base = max(1, math.ceil(options.retry_delay_s * factor ** (try_number - 1)))
    except OverflowError:
        return cap
    jitter = int.from_bytes(hashlib.sha256(f"{identity}#{try_number}".encode()).digest()[:8]) % base
    return float(min(base + jitter, cap))


def poke_interval_s(options: SensorOptions, looks: int, left_s: float, identity: str) -> float:
    """Seconds until a sensor's next look, after `looks` looks (from 1); `left_s` is what is left of its time.

    Without backoff that is `poke_interval`. With it, Airflow 3's rule (`BaseSensorOperator._get_next_poke_interval`):
    base = max(1, int(interval * 2 ** (looks - 2))), plus a jitter below base that is always the same for one `identity`
    and look; then capped by what is left and by `max_wait`.
    """
    if not options.exponential_backoff:
        return options.poke_interval_s
    cap = max(0.0, left_s) if options.max_wait_s is None else min(max(0.0, left_s), options.max_wait_s)
    if looks > 64:  # longer than anybody waits
        return cap
    wanted_s = options.poke_interval_s * 2.0 ** (looks - 2)
    if wanted_s >= cap:  # and may be infinite
        return cap
    base = max(1, int(wanted_s))
    jitter = int.from_bytes(hashlib.sha256(f"{identity}#{looks}".encode()).digest()[:8]) % base
    return min(float(base + jitter), cap)
