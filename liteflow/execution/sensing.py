"""How a sensor waits: look, and look again until it is done or its time is over.

The rules are those of Airflow 3.3's `BaseSensorOperator.execute`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from liteflow.authoring.options import SensorOptions
from liteflow.authoring.sensing import NotYet, PokeReturnValue
from liteflow.errors import FailTask, SkipTask, TaskKilled
from liteflow.scheduling.retries import poke_interval_s

if TYPE_CHECKING:
    from liteflow.execution.calling import Result, Try

LONGEST_SLEEP_S = 1e9
"""`time.sleep` knows no more than some hundreds of years."""


def look(poke: Callable[[], Any], options: SensorOptions, one: Try) -> Result:
    """Look until there is something to see. In the mode `reschedule` a look that sees nothing ends with
    `up_for_reschedule` and the seconds until the next one."""
    from liteflow.execution.calling import Result

    first_us, clock = one.payload.first_look_us, one.clock
    waited_s = 0.0 if first_us is None else max(0.0, (clock.now_us() - first_us) / 1e6)
    began = clock.monotonic() - waited_s
    looks = one.payload.looks
    while True:
        seen = _look_once(poke, options, one)
        looks += 1
        if seen:
            value = seen.xcom_value if isinstance(seen, PokeReturnValue) else None
            one.conclude(value)
            return Result("success", None, None, True, one.outputs(value))
        waited_s = clock.monotonic() - began
        if waited_s > options.timeout_s or options.timeout_s == 0:
            message = f"SensorTimeout: waited {waited_s:.1f} s of the {options.timeout_s:g} s that it may"
            if options.soft_fail:
                raise SkipTask(message)
            one.report(message)
            return Result("failed", "timeout", message, False, one.outputs(None))
        name = f"{one.payload.dag_id}#{one.payload.task_id}#{one.payload.run_id}"
        pause_s = poke_interval_s(options, looks, options.timeout_s - waited_s, name)
        if isinstance(seen, NotYet):
            pause_s = min(pause_s, seen.seconds)
        if options.mode == "reschedule":
            return Result("up_for_reschedule", None, None, True, (), delay_s=pause_s)
        clock.sleep(min(pause_s, LONGEST_SLEEP_S))


def _look_once(poke: Callable[[], Any], options: SensorOptions, one: Try) -> Any:
    from liteflow.execution.calling import describe_error, trace_of

    let_out: tuple[type[BaseException], ...] = (SkipTask, TaskKilled, *one.let_out)
    try:
        return poke()
    except let_out:
        raise
    except FailTask as error:
        if options.soft_fail or options.never_fail:
            raise SkipTask(f"{describe_error(error)} (soft_fail or never_fail is set)") from error
        raise
    except Exception as error:
        if options.silent_fail:
            one.report(trace_of(error))
            return None
        if options.never_fail:
            one.report(trace_of(error))
            raise SkipTask(f"{describe_error(error)} (never_fail is set)") from error
        raise
