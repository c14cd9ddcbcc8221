"""Settings that all unit tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No deadline and no complaint about slowness: a busy machine is no failure.
settings.register_profile("unit", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")
