"""Classic operators and sensors: the same nodes as decorated tasks, written as classes."""

from liteflow.operators.base import BaseOperator
from liteflow.operators.bash import BashOperator
from liteflow.operators.branch import (
    BaseBranchOperator,
    BranchDateTimeOperator,
    BranchDayOfWeekOperator,
    BranchMixIn,
    LatestOnlyOperator,
    SkipMixin,
    WeekDay,
)
from liteflow.operators.elsewhere import (
    BranchExternalPythonOperator,
    BranchPythonVirtualenvOperator,
    ExternalPythonOperator,
    PythonVirtualenvOperator,
)
from liteflow.operators.empty import EmptyOperator
from liteflow.operators.external_task import ExternalTaskMarker, ExternalTaskSensor
from liteflow.operators.python import BranchPythonOperator, PythonOperator, ShortCircuitOperator
from liteflow.operators.sensors import (
    BaseSensorOperator,
    BashSensor,
    DateTimeSensor,
    DateTimeSensorAsync,
    DayOfWeekSensor,
    FileSensor,
    FSHook,
    PythonSensor,
    TimeDeltaSensor,
    TimeDeltaSensorAsync,
    TimeSensor,
    TimeSensorAsync,
    WaitSensor,
    poke_mode_only,
)
from liteflow.operators.trigger_dagrun import TriggerDagRunOperator

__all__ = [
    "BaseBranchOperator",
    "BaseOperator",
    "BaseSensorOperator",
    "BashOperator",
    "BashSensor",
    "BranchDateTimeOperator",
    "BranchDayOfWeekOperator",
    "BranchExternalPythonOperator",
    "BranchMixIn",
    "BranchPythonOperator",
    "BranchPythonVirtualenvOperator",
    "DateTimeSensor",
    "DateTimeSensorAsync",
    "DayOfWeekSensor",
    "EmptyOperator",
    "ExternalPythonOperator",
    "ExternalTaskMarker",
    "ExternalTaskSensor",
    "FSHook",
    "FileSensor",
    "LatestOnlyOperator",
    "PythonOperator",
    "PythonSensor",
    "PythonVirtualenvOperator",
    "ShortCircuitOperator",
    "SkipMixin",
    "TimeDeltaSensor",
    "TimeDeltaSensorAsync",
    "TimeSensor",
    "TimeSensorAsync",
    "TriggerDagRunOperator",
    "WaitSensor",
    "WeekDay",
    "poke_mode_only",
]
