"""How long to wait before the next try."""

from __future__ import annotations

import hashlib
import math

from liteflow.authoring.options import DEFAULT_MAX_RETRY_DELAY_S, TaskOptions


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
